//! Which kernel modules to load, and in which order. A distribution's package has no `modules.dep` (its
//! maintainer script makes that), so the modules themselves are asked: each names what it depends on.
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// A module's names are written with either character; the kernel does not distinguish them.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// The files of `wanted` and of what they depend on, each after what it depends on. A module that is
/// built into the kernel needs no file.
pub(crate) fn load_order(modules: &Path, wanted: &[String]) -> Result<Vec<PathBuf>, String> {
    let files = files_by_name(modules).map_err(|error| error.to_string())?;
    let builtin = fs::read_to_string(modules.join("modules.builtin")).unwrap_or_default();
    let builtin: Vec<String> =
        builtin.lines().filter_map(|line| module_name(Path::new(line))).collect();
    let mut order = Vec::new();
    for name in wanted {
        add(&canonical(name), &files, &builtin, &mut order, 0)?;
    }
    Ok(order)
}

/// Deeper than any chain of dependencies in a kernel: ends a loop in damaged files.
const DEPTH_MAX: usize = 32;

fn add(
    name: &str,
    files: &BTreeMap<String, PathBuf>,
    builtin: &[String],
    order: &mut Vec<PathBuf>,
    depth: usize,
) -> Result<(), String> {
    let Some(file) = files.get(name) else {
        if builtin.iter().any(|other| other == name) {
            return Ok(());
        }
        return Err(format!("the kernel has no module {name}"));
    };
    if order.contains(file) {
        return Ok(());
    }
    if depth > DEPTH_MAX {
        return Err(format!("module {name} depends on itself"));
    }
    let content = fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let depends = module_info(&content, "depends")
        .ok_or_else(|| format!("{} does not say what it depends on", file.display()))?;
    for dependency in depends.split(',').filter(|dependency| !dependency.is_empty()) {
        add(&canonical(dependency), files, builtin, order, depth + 1)?;
    }
    order.push(file.clone());
    Ok(())
}

fn files_by_name(modules: &Path) -> io::Result<BTreeMap<String, PathBuf>> {
    let mut files = BTreeMap::new();
    for entry in WalkDir::new(modules) {
        let path = entry?.into_path();
        if let Some(name) = module_name(&path) {
            files.insert(name, path);
        }
    }
    Ok(files)
}

/// The name of the module in a file `.../name.ko`.
fn module_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    name.strip_suffix(".ko").map(canonical)
}

/// A value from an ELF file's `.modinfo` section: `key=value` strings, each ended by a zero byte.
fn module_info(elf: &[u8], key: &str) -> Option<String> {
    section(elf, b".modinfo")?.split(|byte| *byte == 0).find_map(|line| {
        let value = std::str::from_utf8(line).ok()?.strip_prefix(key)?.strip_prefix('=')?;
        Some(value.to_owned())
    })
}

/// The content of a section of a little-endian 64-bit ELF file.
fn section<'a>(elf: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    /// Bytes of a section's header.
    const HEADER_BYTES: usize = 64;
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let headers = elf.get(usize::try_from(u64_at(elf, 0x28)?).ok()?..)?;
    let (count, names) = (usize::from(u16_at(elf, 0x3c)?), usize::from(u16_at(elf, 0x3e)?));
    let header = |index: usize| headers.get(index * HEADER_BYTES..(index + 1) * HEADER_BYTES);
    let content = |header: &[u8]| {
        let start = usize::try_from(u64_at(header, 0x18)?).ok()?;
        let end = start.checked_add(usize::try_from(u64_at(header, 0x20)?).ok()?)?;
        elf.get(start..end)
    };
    let names = content(header(names)?)?;
    let found = (0..count).filter_map(header).find(|header| {
        let start = u32_at(header, 0).map(|at| at as usize);
        let name = start.and_then(|start| names.get(start..)).unwrap_or_default();
        name.split(|byte| *byte == 0).next() == Some(wanted)
    })?;
    content(found)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file with nothing but a `.modinfo` section.
    fn module(info: &str) -> Vec<u8> {
        let names = b"\0.modinfo\0.shstrtab\0";
        let mut elf = b"\x7fELF\x02\x01".to_vec();
        elf.resize(64, 0);
        let (info_at, names_at) = (elf.len(), elf.len() + info.len());
        elf.extend(info.as_bytes());
        elf.extend(names);
        let headers_at = elf.len() as u64;
        let mut header = |name: u32, at: usize, size: usize| {
            let mut header = [0; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[0x18..0x20].copy_from_slice(&(at as u64).to_le_bytes());
            header[0x20..0x28].copy_from_slice(&(size as u64).to_le_bytes());
            elf.extend(header);
        };
        header(0, 0, 0);
        header(1, info_at, info.len());
        header(10, names_at, names.len());
        elf[0x28..0x30].copy_from_slice(&headers_at.to_le_bytes());
        elf[0x3c] = 3;
        elf[0x3e] = 2;
        elf
    }

    fn kernel_with(modules: &[(&str, &str)], builtin: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("kernel/drivers")).unwrap();
        for (name, depends) in modules {
            let info = format!("license=GPL\0depends={depends}\0name={name}\0");
            let path = directory.path().join(format!("kernel/drivers/{name}.ko"));
            fs::write(path, module(&info)).unwrap();
        }
        fs::write(directory.path().join("modules.builtin"), builtin).unwrap();
        directory
    }

    fn order(kernel: &tempfile::TempDir, wanted: &[&str]) -> Result<Vec<String>, String> {
        let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
        let order = load_order(kernel.path(), &wanted)?;
        Ok(order.iter().map(|path| path.file_stem().unwrap().to_str().unwrap().into()).collect())
    }

    #[test]
    fn a_module_comes_after_what_it_depends_on_and_once() {
        let modules = [
            ("virtio", ""),
            ("virtio_blk", "virtio"),
            ("virtio-net", "failover,virtio"),
            ("failover", ""),
        ];
        let kernel = kernel_with(&modules, "kernel/lib/crc32c.ko\n");
        let expected = ["virtio", "virtio_blk", "failover", "virtio-net"];
        assert_eq!(order(&kernel, &["virtio_blk", "virtio_net", "crc32c"]).unwrap(), expected);
    }

    #[test]
    fn a_missing_module_is_named() {
        let kernel = kernel_with(&[("erofs", "libcrc32c")], "");
        assert!(order(&kernel, &["erofs"]).unwrap_err().contains("libcrc32c"));
    }

    #[test]
    fn damaged_modules_end_with_an_error() {
        let kernel = kernel_with(&[("a", "b"), ("b", "a")], "");
        assert!(order(&kernel, &["a"]).unwrap_err().contains("depends on itself"));
        fs::write(kernel.path().join("kernel/drivers/a.ko"), "no ELF").unwrap();
        assert!(order(&kernel, &["a"]).unwrap_err().contains("does not say"));
    }
}
