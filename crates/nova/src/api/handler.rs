//! Whether a handler names something that is in the code.
//!
//! Found out when a function is deployed: otherwise the first call would fail in the words of an
//! interpreter. Links are followed as the guest's kernel will follow them.
use crate::suggest::nearest;
use nova_domain::{FunctionConfig, InvalidField, Mode};
use std::collections::BTreeMap;
use std::path::Path;

/// Files of the code that a refusal lists: enough to recognise which code it is.
const LISTED_MAX: usize = 10;
/// Most characters of a file's name in that list.
const NAME_MAX_CHARS: usize = 80;
/// Links followed before it counts as a loop; the kernel's own number.
const FOLLOW_MAX: usize = 40;

/// An archive that cannot be read, or a handler that is not in it.
#[derive(Debug, thiserror::Error)]
pub enum HandlerError {
    /// The stored archive is damaged.
    #[error("the code cannot be read: {0}")]
    Archive(#[from] std::io::Error),
    /// The handler is not in it.
    #[error(transparent)]
    Missing(#[from] InvalidField),
}

/// Checks the handler of a configuration against a canonical archive. Modes in which the handler is
/// no path are not looked at.
pub fn check(config: &FunctionConfig, archive: &[u8]) -> Result<(), HandlerError> {
    if !matches!(config.mode, Mode::Process | Mode::Persistent) {
        return Ok(());
    }
    let entries = entries(archive)?;
    if is_there(&entries, &config.handler) {
        return Ok(());
    }
    let mut files: Vec<&str> = entries
        .iter()
        .filter(|(_, entry)| !matches!(entry, Entry::Directory))
        .map(|(path, _)| path.as_str())
        .collect();
    // The program is more likely at the top than deep inside.
    files.sort_by_key(|path| (path.matches('/').count(), *path));
    let shown = |name: &str| name.chars().take(NAME_MAX_CHARS).collect::<String>();
    let mut listed: Vec<String> = files.iter().take(LISTED_MAX).map(|path| shown(path)).collect();
    if files.len() > LISTED_MAX {
        listed.push(format!("and {} more", files.len() - LISTED_MAX));
    }
    let likely = nearest(&config.handler, files.iter().copied()).or(files.first().copied());
    let problem =
        format!("`{}` is not in the code, which holds: {}", config.handler, listed.join(", "));
    let example = shown(likely.unwrap_or("main.py"));
    let hint = format!("give the program's path as handler (--handler {example})");
    Err(InvalidField::new("handler", problem, hint).into())
}

enum Entry {
    Directory,
    File,
    Link(String),
}

fn entries(archive: &[u8]) -> std::io::Result<BTreeMap<String, Entry>> {
    let text = |path: &Path| path.to_string_lossy().trim_end_matches('/').to_owned();
    let mut found = BTreeMap::new();
    for entry in tar::Archive::new(archive).entries()? {
        let entry = entry?;
        let kind = match entry.link_name()? {
            Some(target) => Entry::Link(text(&target)),
            None if entry.header().entry_type().is_dir() => Entry::Directory,
            None => Entry::File,
        };
        found.insert(text(&entry.path()?), kind);
    }
    Ok(found)
}

/// Walks to the path as the kernel does.
fn is_there(entries: &BTreeMap<String, Entry>, path: &str) -> bool {
    let mut todo: Vec<&str> = path.rsplit('/').collect();
    let mut at: Vec<&str> = Vec::new();
    let mut followed = 0;
    while let Some(part) = todo.pop() {
        match part {
            "" | "." => continue,
            ".." => {
                at.pop();
                continue;
            }
            part => at.push(part),
        }
        match entries.get(&at.join("/")) {
            None => return false,
            Some(Entry::Link(target)) => {
                followed += 1;
                if followed > FOLLOW_MAX {
                    return false;
                }
                at.pop();
                todo.extend(target.rsplit('/'));
            }
            Some(Entry::File) if !todo.is_empty() => return false,
            Some(Entry::File | Entry::Directory) => {}
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use nova_domain::RuntimeId;
    use nova_vm::images::code::{UploadKind, canonicalise};

    fn code() -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut add = |name: &str, link: Option<&str>| {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o755);
            header.set_size(0);
            match link {
                None => tar.append_data(&mut header, name, &[][..]).unwrap(),
                Some(target) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    tar.append_link(&mut header, name, target).unwrap();
                }
            }
        };
        for file in ["src/app/main.py", "util.py"] {
            add(file, None);
        }
        for (name, target) in [
            ("bin", "src/app"),
            ("start", "bin/main.py"),
            ("broken", "nowhere"),
            ("up", "bin/../../util.py"),
        ] {
            add(name, Some(target));
        }
        canonicalise(&tar.into_inner().unwrap(), UploadKind::Archive).unwrap()
    }

    fn checked(handler: &str) -> Result<(), HandlerError> {
        let mut config = FunctionConfig::new(RuntimeId::parse("python").unwrap());
        config.handler = handler.into();
        check(&config, &code())
    }

    #[test]
    fn a_handler_is_found_through_links_as_the_kernel_finds_it() {
        for handler in ["src/app/main.py", "util.py", "bin/main.py", "start", "up", "src/app"] {
            checked(handler).unwrap_or_else(|error| panic!("{handler}: {error}"));
        }
    }

    #[test]
    fn one_that_is_not_there_is_refused_with_what_is() {
        for handler in ["handler", "broken", "util.py/x", "src/main.py", "main.py"] {
            let error = checked(handler).unwrap_err().to_string();
            assert!(error.contains(&format!("`{handler}` is not in the code")), "{error}");
            assert!(error.contains("util.py, src/app/main.py"), "{error}");
            assert!(error.contains("--handler"), "{error}");
        }
    }
}
