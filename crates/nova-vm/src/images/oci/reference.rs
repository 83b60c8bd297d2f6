//! What people call an image: a name in a registry, or where it lies on disk.
use super::OciError;
use super::digest::Digest;
use super::error::quote;
use std::fmt;
use std::path::{Path, PathBuf};

/// Most bytes of a name; the specification's limit for the repository is 255.
const NAME_MAX_BYTES: usize = 512;
/// Most bytes of a tag, as the specification says.
const TAG_MAX_BYTES: usize = 128;
/// The registry of names without a host, as every container tool has it.
const DEFAULT_HOST: &str = "docker.io";
/// The tag of names without one.
pub(super) const DEFAULT_TAG: &str = "latest";

/// Where an image is to be taken from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageReference {
    /// In a registry.
    Registry(ImageName),
    /// An OCI image layout: a directory with `index.json`.
    Layout {
        /// The directory.
        path: PathBuf,
        /// Which of its images; not needed where it holds one.
        tag: Option<String>,
    },
    /// What `docker save` writes: a tar with `manifest.json`.
    DockerArchive {
        /// The file.
        path: PathBuf,
    },
}

/// `host/repository:tag@digest`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageName {
    pub(super) host: String,
    pub(super) repository: String,
    pub(super) tag: Option<String>,
    pub(super) digest: Option<Digest>,
}

impl ImageReference {
    /// Reads what was given on a command line: a path of something that is there (or `oci:PATH[:TAG]`,
    /// `docker-archive:PATH`), else a name in a registry.
    pub fn parse(text: &str) -> Result<Self, OciError> {
        if let Some(rest) = text.strip_prefix("oci:") {
            return Ok(layout(rest));
        }
        if let Some(path) = text.strip_prefix("docker-archive:") {
            return Ok(Self::DockerArchive { path: path.into() });
        }
        let path = Path::new(text);
        if path.is_dir() {
            return Ok(layout(text));
        }
        if path.is_file() {
            return Ok(Self::DockerArchive { path: path.to_owned() });
        }
        if text.starts_with(['/', '.']) {
            let hint = "there is no such file or directory";
            return Err(OciError::Reference(text.to_owned(), hint.into()));
        }
        let name = text.strip_prefix("docker://").unwrap_or(text);
        ImageName::parse(name).map(Self::Registry)
    }

    /// What a runtime made of it is called, unless the user says: the last part of its name.
    pub(in crate::images) fn short_name(&self) -> String {
        let name = match self {
            Self::Registry(name) => name.repository.rsplit('/').next().map(str::to_owned),
            Self::Layout { path, .. } | Self::DockerArchive { path } => {
                path.file_stem().map(|stem| stem.to_string_lossy().into_owned())
            }
        };
        name.unwrap_or_default()
    }

    /// The tag, where one was given.
    pub(in crate::images) fn tag(&self) -> Option<&str> {
        match self {
            Self::Registry(ImageName { tag, .. }) | Self::Layout { tag, .. } => tag.as_deref(),
            Self::DockerArchive { .. } => None,
        }
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(name) => write!(f, "{}/{}", name.host, name.repository),
            Self::Layout { path, .. } => write!(f, "oci:{}", path.display()),
            Self::DockerArchive { path } => write!(f, "docker-archive:{}", path.display()),
        }
    }
}

/// A path, and behind a colon which image of the layout.
fn layout(text: &str) -> ImageReference {
    let (path, tag) = match text.rsplit_once(':') {
        Some((path, tag)) if !Path::new(text).exists() => (path, Some(tag.to_owned())),
        _ => (text, None),
    };
    ImageReference::Layout { path: path.into(), tag }
}

impl ImageName {
    fn parse(text: &str) -> Result<Self, OciError> {
        let wrong = |problem: &str| OciError::Reference(quote(text), problem.to_owned());
        if text.is_empty() || text.len() > NAME_MAX_BYTES {
            return Err(wrong("give a name like registry.example.com/team/image:tag"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(Digest::parse(digest)?)),
            None => (text, None),
        };
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, Some(tag.to_owned())),
            _ => (rest, None),
        };
        if tag.as_deref().is_some_and(|tag| !is_tag(tag)) {
            return Err(wrong("its tag may have letters, digits, `_`, `.` and `-`"));
        }
        let (host, repository) = match path.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => {
                (first, rest.to_owned())
            }
            Some(_) => (DEFAULT_HOST, path.to_owned()),
            None => (DEFAULT_HOST, format!("library/{path}")),
        };
        if !is_host(host) {
            return Err(wrong("its host is not one like registry.example.com:5000"));
        }
        if !repository.split('/').all(is_component) {
            return Err(wrong(
                "its parts may have lowercase letters and digits, and `.`, `_`, `-` between them",
            ));
        }
        Ok(Self { host: host.to_owned(), repository, tag, digest })
    }

    /// What the registry is asked for.
    pub(super) fn wanted(&self) -> String {
        match &self.digest {
            Some(digest) => digest.to_string(),
            None => self.tag.clone().unwrap_or_else(|| DEFAULT_TAG.to_owned()),
        }
    }
}

fn is_tag(tag: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    !tag.is_empty()
        && tag.len() <= TAG_MAX_BYTES
        && !tag.starts_with(['.', '-'])
        && tag.bytes().all(allowed)
}

fn is_host(host: &str) -> bool {
    let (name, port) = host.split_once(':').unwrap_or((host, "443"));
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-".contains(&byte);
    name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.bytes().all(allowed)
        && port.parse::<u16>().is_ok()
}

fn is_component(part: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let inner = |byte: u8| word(byte) || b"._-".contains(&byte);
    let (first, last) = (part.bytes().next(), part.bytes().last());
    first.is_some_and(word) && last.is_some_and(word) && part.bytes().all(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ImageName {
        ImageName::parse(text).unwrap()
    }

    #[test]
    fn names_mean_what_every_container_tool_makes_of_them() {
        let short = name("python:3.12");
        assert_eq!((&*short.host, &*short.repository), ("docker.io", "library/python"));
        assert_eq!(short.wanted(), "3.12");
        assert_eq!(name("team/app").repository, "team/app");
        let local = name("localhost:5000/a/b");
        assert_eq!((&*local.host, &*local.repository), ("localhost:5000", "a/b"));
        assert_eq!(local.wanted(), "latest");
        let digest = format!("sha256:{}", "a".repeat(64));
        let pinned = name(&format!("r.example.com/app:1@{digest}"));
        assert_eq!((pinned.tag.as_deref(), pinned.wanted()), (Some("1"), digest));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in [
            "",
            "Upper/case",
            "a//b",
            "../a",
            "a/..",
            "host.example.com/",
            "user@host",
            "a:tag with space",
            "ho st.com/a",
            "host.com:port/a",
            "a@sha256:12",
            "a@md5:d41d8cd98f00b204e9800998ecf8427e",
        ] {
            assert!(ImageName::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_is_on_disk_is_told_from_its_kind() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("app.tar");
        std::fs::write(&file, "").unwrap();
        let parsed = |path: &Path| ImageReference::parse(path.to_str().unwrap()).unwrap();
        assert_eq!(parsed(&file), ImageReference::DockerArchive { path: file.clone() });
        assert_eq!(parsed(&file).short_name(), "app");
        let layout = ImageReference::Layout { path: place.path().into(), tag: None };
        assert_eq!(parsed(place.path()), layout);
        let tagged = ImageReference::parse(&format!("oci:{}:v1", place.path().display())).unwrap();
        assert_eq!(tagged.tag(), Some("v1"));
        let error = ImageReference::parse("./nonesuch.tar").unwrap_err().to_string();
        assert!(error.contains("no such file"), "{error}");
    }
}
