//! The runtimes and builders that are installed, in memory: looking one up costs no file access.
use super::builder::BuilderRecord;
use super::record::{ImageRecord, RuntimeRecord};
use crate::images::artifacts::Artifacts;
use nova_domain::{RuntimeId, RuntimeImage};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::{fs, io};

/// Most bytes of a record; a real one has a few kilobytes.
const RECORD_MAX_BYTES: u64 = 1 << 20;

/// The installed runtimes, by id and by alias.
#[derive(Debug)]
pub struct RuntimeCatalog {
    artifacts: Option<Artifacts>,
    installed: RwLock<Arc<Installed>>,
}

#[derive(Debug, Default)]
struct Installed {
    records: BTreeMap<RuntimeId, RuntimeRecord>,
    builders: BTreeMap<RuntimeId, BuilderRecord>,
    /// Image files by digest, of both.
    paths: BTreeMap<String, PathBuf>,
}

impl RuntimeCatalog {
    /// Reads what is installed in `artifacts`.
    pub fn open(artifacts: Artifacts) -> io::Result<Self> {
        let catalog = Self { artifacts: Some(artifacts), installed: RwLock::default() };
        catalog.reload()?;
        Ok(catalog)
    }

    /// A catalog of these runtimes without any files, for tests of what is above.
    pub fn fixed(images: Vec<RuntimeImage>, builders: Vec<BuilderRecord>) -> Self {
        let record = |image: RuntimeImage| {
            let id = image.id.clone();
            (id, RuntimeRecord { image, aliases: vec![], recipe: String::new(), packages: vec![] })
        };
        let records = images.into_iter().map(record).collect();
        let builders = builders.into_iter().map(|record| (record.language.clone(), record));
        let builders = builders.collect();
        let installed = Installed { records, builders, paths: BTreeMap::new() };
        Self { artifacts: None, installed: RwLock::new(Arc::new(installed)) }
    }

    /// Reads the directories again, after a runtime was added or removed. A record that cannot be used
    /// is reported in the log and left out; the others work.
    pub fn reload(&self) -> io::Result<()> {
        let Some(artifacts) = &self.artifacts else { return Ok(()) };
        let mut installed = Installed::default();
        for directory in artifacts.image_directories() {
            read_directory(&directory, &mut installed.records, &mut installed.paths)?;
        }
        for directory in artifacts.builder_directories() {
            read_directory(&directory, &mut installed.builders, &mut installed.paths)?;
        }
        *self.installed.write().unwrap_or_else(|poisoned| poisoned.into_inner()) =
            Arc::new(installed);
        Ok(())
    }

    /// The image for an id or an alias of it.
    pub fn get(&self, id: &RuntimeId) -> Option<RuntimeImage> {
        self.record(id).map(|record| record.image)
    }

    /// Like [`Self::get`], with the image's origin.
    pub fn record(&self, id: &RuntimeId) -> Option<RuntimeRecord> {
        let installed = self.installed();
        let by_alias = || installed.records.values().find(|record| record.aliases.contains(id));
        installed.records.get(id).or_else(by_alias).cloned()
    }

    /// All installed runtimes, by id.
    pub fn list(&self) -> Vec<RuntimeImage> {
        self.installed().records.values().map(|record| record.image.clone()).collect()
    }

    /// The builder of a language, if it is installed.
    pub fn builder(&self, language: &RuntimeId) -> Option<BuilderRecord> {
        self.installed().builders.get(language).cloned()
    }

    /// The builder for what is written for this runtime: its own id may be a language, or an alias of it.
    pub fn builder_for(&self, runtime: &RuntimeId) -> Option<BuilderRecord> {
        let by_image = || self.builder(&self.get(runtime)?.id);
        self.builder(runtime).or_else(by_image)
    }

    /// All installed builders, by language.
    pub fn builders(&self) -> Vec<BuilderRecord> {
        self.installed().builders.values().cloned().collect()
    }

    /// The file of an installed image, a runtime's or a builder's.
    pub fn image_path(&self, digest: &str) -> Option<PathBuf> {
        self.installed().paths.get(digest).cloned()
    }

    fn installed(&self) -> Arc<Installed> {
        self.installed.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }
}

/// Adds what is in `directory`; what was found before it wins.
fn read_directory<R: ImageRecord>(
    directory: &Path,
    records: &mut BTreeMap<RuntimeId, R>,
    paths: &mut BTreeMap<String, PathBuf>,
) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if hidden || path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        match read_record::<R>(&path) {
            Ok(record) => {
                let image = directory.join(format!("{}.erofs", record.digest()));
                paths.entry(record.digest().to_owned()).or_insert(image);
                records.entry(record.name().clone()).or_insert(record);
            }
            Err(error) => {
                tracing::warn!(record = %path.display(), %error, "runtime left out");
            }
        }
    }
    Ok(())
}

/// A record whose image is there and whole.
pub(crate) fn read_record<R: ImageRecord>(path: &Path) -> io::Result<R> {
    let damaged = |problem: String| io::Error::new(io::ErrorKind::InvalidData, problem);
    if fs::metadata(path)?.len() > RECORD_MAX_BYTES {
        return Err(damaged("the record is too large".into()));
    }
    let record: R =
        serde_json::from_slice(&fs::read(path)?).map_err(|error| damaged(error.to_string()))?;
    let named = path.file_stem().is_some_and(|stem| stem == record.name().as_str());
    if !named || !record.has_plain_digest() {
        return Err(damaged("the record does not belong to its file name".into()));
    }
    let image = path.with_file_name(format!("{}.erofs", record.digest()));
    let size = fs::metadata(&image).map(|about| about.len()).unwrap_or(0);
    if size != record.size() {
        return Err(damaged(format!(
            "its image is missing or cut short ({size} of {} bytes); {} makes it again",
            record.size(),
            record.remedy()
        )));
    }
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "aa35d666f6cda71ba38a957623fc4a5ef53e7848c46a02e7f585c12eca2ca539";

    /// Writes a record and its image of `size` bytes.
    fn install(data: &Path, id: &str, claimed: u64, size: usize) {
        let images = data.join("artifacts/images");
        fs::create_dir_all(&images).unwrap();
        let record = format!(
            r#"{{"id": "{id}", "version": "1", "digest": "{DIGEST}", "size": {claimed}, "env": {{}},
                "commands": {{"process": ["/code/{{handler}}", "{{input}}"]}}, "memory_min_mb": 64,
                "aliases": ["{id}-alias"]}}"#
        );
        fs::write(images.join(format!("{id}.json")), record).unwrap();
        fs::write(images.join(format!("{DIGEST}.erofs")), vec![0; size]).unwrap();
    }

    fn ids(catalog: &RuntimeCatalog) -> Vec<String> {
        catalog.list().iter().map(|image| image.id.to_string()).collect()
    }

    #[test]
    fn an_installed_runtime_is_found_by_its_id_and_its_alias() {
        let data = tempfile::tempdir().unwrap();
        install(data.path(), "lua", 10, 10);
        let catalog = RuntimeCatalog::open(Artifacts::new(data.path(), None, None)).unwrap();
        let id = |text| RuntimeId::parse(text).unwrap();
        assert_eq!(catalog.get(&id("lua")).unwrap().id, id("lua"));
        assert_eq!(catalog.get(&id("lua-alias")).unwrap().id, id("lua"));
        assert_eq!(catalog.get(&id("javascript")), None);
        assert!(catalog.image_path(DIGEST).unwrap().is_file());
    }

    #[test]
    fn a_runtime_added_later_appears_after_a_reload() {
        let data = tempfile::tempdir().unwrap();
        let catalog = RuntimeCatalog::open(Artifacts::new(data.path(), None, None)).unwrap();
        assert!(ids(&catalog).is_empty());
        install(data.path(), "lua", 10, 10);
        catalog.reload().unwrap();
        assert_eq!(ids(&catalog), ["lua"]);
    }

    #[test]
    fn a_damaged_runtime_is_left_out_and_the_others_work() {
        let data = tempfile::tempdir().unwrap();
        install(data.path(), "lua", 10, 10);
        install(data.path(), "cut-short", 11, 10);
        let images = data.path().join("artifacts/images");
        fs::write(images.join("broken.json"), "{").unwrap();
        let renamed = fs::read_to_string(images.join("lua.json")).unwrap();
        fs::write(images.join("other.json"), &renamed).unwrap();
        let escaping = renamed.replace("lua", "escaping").replace(DIGEST, "../../../etc/passwd");
        fs::write(images.join("escaping.json"), escaping).unwrap();
        let catalog = RuntimeCatalog::open(Artifacts::new(data.path(), None, None)).unwrap();
        assert_eq!(ids(&catalog), ["lua"]);
    }
}
