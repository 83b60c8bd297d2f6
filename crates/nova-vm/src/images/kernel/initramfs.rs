//! The initramfs of a guest: the agent as `/init`, and the kernel modules.
//!
//! A cpio archive in the "newc" format: per entry a header of 110 ASCII bytes, the name and the content,
//! each padded to 4 bytes. It is not compressed: unpacking would cost a guest more than copying does.
//! The same agent and modules give the same bytes, and with them the same file name.
use crate::images::artifacts::KernelFiles;
use crate::images::files::{remove_prefixed, write_atomically};
use sha2::{Digest, Sha256};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Prefix of the cached files.
const PREFIX: &str = "initramfs-";
/// Most bytes of modules: a stock kernel's have 1.3 MB. More would eat the guest's memory.
const MODULES_MAX_BYTES: u64 = 64 * 1024 * 1024;
/// File types in a cpio mode.
const TYPE_MASK: u32 = 0o170_000;
const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// The initramfs for this agent and kernel, as a file in `directory`; made if it is not there yet, and
/// those for other agents and kernels are removed.
pub fn prepare_initramfs(
    directory: &Path,
    agent: &[u8],
    kernel: &KernelFiles,
) -> io::Result<PathBuf> {
    let archive = compose(agent, &kernel.modules)?;
    let hash = hex::encode(Sha256::digest(&archive));
    let path = directory.join(format!("{PREFIX}{hash}.cpio"));
    if fs::metadata(&path).is_ok_and(|about| about.len() == archive.len() as u64) {
        return Ok(path);
    }
    fs::create_dir_all(directory)?;
    remove_prefixed(directory, PREFIX)?;
    write_atomically(&path, &archive, 0o644)?;
    Ok(path)
}

fn compose(agent: &[u8], modules: &Path) -> io::Result<Vec<u8>> {
    let order = fs::read_to_string(modules.join("order"))?;
    let mut archive = Archive::default();
    for name in ["dev", "proc", "sys", "modules"] {
        archive.add(name, DIRECTORY | 0o755, (0, 0), &[]);
    }
    // The kernel opens it for /init's standard streams, before anybody could have made it.
    archive.add("dev/console", CHARACTER_DEVICE | 0o600, (5, 1), &[]);
    // Standard streams of last resort for a boot without a console.
    archive.add("dev/null", CHARACTER_DEVICE | 0o666, (1, 3), &[]);
    archive.add("init", FILE | 0o755, (0, 0), agent);
    archive.add("modules/order", FILE | 0o644, (0, 0), order.as_bytes());
    let mut bytes_left = MODULES_MAX_BYTES;
    for name in order.lines() {
        let path = modules.join(name);
        let is_plain = Path::new(name).file_name().is_some_and(|plain| plain == name);
        let size = fs::metadata(&path).map(|about| about.len());
        let size = size.map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        })?;
        if !is_plain || size > bytes_left {
            let problem = format!(
                "{}: module {name:?} is not acceptable; run `nova setup`",
                modules.display()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        }
        bytes_left -= size;
        archive.add(&format!("modules/{name}"), FILE | 0o644, (0, 0), &fs::read(&path)?);
    }
    Ok(archive.finish())
}

/// A cpio archive being written.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.entries += 1;
        let links = if mode & TYPE_MASK == DIRECTORY { 2 } else { 1 };
        // Number, mode, user, group, links, time, size, device of the file, device that it is, length
        // of the name with its zero, no checksum.
        let fields = [
            self.entries,
            mode,
            0,
            0,
            links,
            0,
            content.len() as u32,
            0,
            0,
            device.0,
            device.1,
            name.len() as u32 + 1,
            0,
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").into_bytes());
        }
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(modules: &[(&str, &str)]) -> (tempfile::TempDir, KernelFiles) {
        let directory = tempfile::tempdir().unwrap();
        let order: String = modules.iter().map(|(name, _)| format!("{name}\n")).collect();
        fs::write(directory.path().join("order"), order).unwrap();
        for (name, content) in modules {
            fs::write(directory.path().join(name), content).unwrap();
        }
        let modules = directory.path().to_owned();
        (directory, KernelFiles { vmlinux: "vmlinux".into(), modules })
    }

    /// Names, modes and contents, as the kernel reads them.
    fn entries(archive: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        let mut at = 0;
        loop {
            let field = |number: usize| {
                let start = at + 6 + 8 * number;
                let text = std::str::from_utf8(&archive[start..start + 8]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            assert_eq!(&archive[at..at + 6], b"070701");
            let (mode, size, name_size) = (field(1), field(6) as usize, field(11) as usize);
            let name = at + 110;
            let content = (name + name_size).next_multiple_of(4);
            let text = String::from_utf8(archive[name..name + name_size - 1].into()).unwrap();
            if text == "TRAILER!!!" {
                return entries;
            }
            entries.push((text, mode, archive[content..content + size].to_vec()));
            at = (content + size).next_multiple_of(4);
        }
    }

    #[test]
    fn the_agent_is_init_and_the_modules_lie_beside_their_order() {
        let (_directory, kernel) = kernel(&[("virtio.ko", "v"), ("erofs.ko", "erofs")]);
        let directory = tempfile::tempdir().unwrap();
        let path = prepare_initramfs(directory.path(), b"agent", &kernel).unwrap();
        let entries = entries(&fs::read(path).unwrap());
        let file = |name: &str| entries.iter().find(|entry| entry.0 == name).unwrap().clone();
        assert_eq!(file("init"), ("init".into(), 0o100_755, b"agent".to_vec()));
        assert_eq!(file("modules/order").2, b"virtio.ko\nerofs.ko\n");
        assert_eq!(file("modules/erofs.ko").2, b"erofs");
        assert_eq!(file("dev/console").1, 0o020_600);
    }

    #[test]
    fn it_is_made_once_and_anew_when_the_agent_changes() {
        let (_directory, kernel) = kernel(&[("a.ko", "a")]);
        let directory = tempfile::tempdir().unwrap();
        let first = prepare_initramfs(directory.path(), b"agent 1", &kernel).unwrap();
        let made = fs::metadata(&first).unwrap().modified().unwrap();
        assert_eq!(prepare_initramfs(directory.path(), b"agent 1", &kernel).unwrap(), first);
        assert_eq!(fs::metadata(&first).unwrap().modified().unwrap(), made);
        let second = prepare_initramfs(directory.path(), b"agent 2", &kernel).unwrap();
        assert_ne!(first, second);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "the old one is gone");
    }

    #[test]
    fn a_module_name_that_is_a_path_is_refused() {
        let (_directory, kernel) = kernel(&[("a.ko", "a")]);
        fs::write(kernel.modules.join("order"), "../a.ko\n").unwrap();
        let directory = tempfile::tempdir().unwrap();
        assert!(prepare_initramfs(directory.path(), b"agent", &kernel).is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
