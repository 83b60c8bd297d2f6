//! Reads zip files. The list of names at the end is walked first, by hand and strictly: the `zip` crate
//! keeps only the last of two entries with one name, and reads the whole list before anyone can count.
use super::tree::Tree;
use super::{CodeError, ENTRIES_MAX, UNPACKED_MAX_BYTES};
use std::collections::HashSet;
use std::io::{Cursor, Read};
use std::ops::Range;

/// Bytes of the header before an entry's data, without its name and extra field.
const LOCAL_HEADER_BYTES: usize = 30;
/// Bytes of the end record, without its comment.
const END_RECORD_BYTES: usize = 22;
/// Bytes of one record of the central directory, without its name, extra field and comment.
const CENTRAL_RECORD_BYTES: usize = 46;
/// The id of the field with sizes of 64 bits.
const ZIP64_FIELD: usize = 1;
/// File type bits of a Unix mode, and their values for a regular file, a directory, a symbolic link.
const TYPE_MASK: u32 = 0o170_000;
const TYPE_REGULAR: u32 = 0o100_000;
const TYPE_DIRECTORY: u32 = 0o040_000;
const TYPE_LINK: u32 = 0o120_000;
/// Most bytes read of a link's target; a longer one is refused when it is parsed.
const TARGET_MAX_BYTES: u64 = 4096;

/// Reads a zip.
pub(super) fn read(upload: &[u8]) -> Result<Tree, CodeError> {
    let names = check_directory(upload)?;
    let broken = |error: zip::result::ZipError| {
        CodeError::broken(None, format!("the zip is broken: {error}"))
    };
    let mut archive = zip::ZipArchive::new(Cursor::new(upload)).map_err(broken)?;
    if archive.len() != names.len() || archive.offset() != 0 {
        return Err(CodeError::broken(None, "the zip has two lists of entries that differ"));
    }
    let mut tree = Tree::default();
    for (index, name) in names.iter().enumerate() {
        let entry = archive.by_index(index).map_err(|error| {
            let name = String::from_utf8_lossy(name);
            CodeError::broken(Some(&name), format!("cannot be read: {error}"))
        })?;
        add(&mut tree, entry)?;
    }
    Ok(tree)
}

fn add(tree: &mut Tree, mut entry: zip::read::ZipFile<'_, impl Read>) -> Result<(), CodeError> {
    let name = match std::str::from_utf8(entry.name_raw()) {
        Ok(name) => name.to_owned(),
        Err(_) => {
            let name = String::from_utf8_lossy(entry.name_raw());
            return Err(CodeError::entry(&name, "has a name that is not UTF-8", "rename the file"));
        }
    };
    let mode = entry.unix_mode().unwrap_or(0);
    match mode & TYPE_MASK {
        TYPE_LINK => {
            let target = read_content(&mut entry, &name, TARGET_MAX_BYTES)?;
            let target = String::from_utf8(target).map_err(|_| {
                let hint = "link only to files inside the code, with relative paths";
                CodeError::entry(&name, "is a symbolic link whose target is not UTF-8", hint)
            })?;
            tree.add_link(&name, &target)
        }
        TYPE_DIRECTORY => tree.add_directory(&name),
        0 | TYPE_REGULAR if entry.is_dir() => tree.add_directory(&name),
        0 | TYPE_REGULAR => {
            let content = read_content(&mut entry, &name, tree.bytes_left())?;
            let executable = mode & 0o111 != 0 || is_program(&content);
            tree.add_file(&name, content, executable)
        }
        _ => {
            let hint = "pack only files, directories and symbolic links";
            Err(CodeError::entry(&name, "is a device, pipe or socket", hint))
        }
    }
}

/// Zips made without Unix modes (on Windows, by many libraries) lose the executable bit, so a program is
/// also known by how it starts.
fn is_program(content: &[u8]) -> bool {
    content.starts_with(b"\x7fELF") || content.starts_with(b"#!")
}

/// The unpacked bytes of an entry, its checksum verified. The size in its header is a claim that
/// nothing is reserved for.
fn read_content(entry: &mut impl Read, name: &str, limit: u64) -> Result<Vec<u8>, CodeError> {
    let mut content = Vec::new();
    let unreadable = |error| CodeError::broken(Some(name), format!("is broken: {error}"));
    entry.take(limit + 1).read_to_end(&mut content).map_err(unreadable)?;
    if content.len() as u64 > limit {
        return Err(CodeError::too_large(Some(name), "unpacked code", UNPACKED_MAX_BYTES));
    }
    Ok(content)
}

/// Walks the central directory: it must end where the file ends, name each entry once, as the entry names
/// itself, and no two entries may share bytes. Returns the names, in its order.
fn check_directory(upload: &[u8]) -> Result<Vec<&[u8]>, CodeError> {
    let broken = |problem: &str| CodeError::broken(None, problem);
    let end = find_end(upload)
        .ok_or_else(|| broken("the zip has no end record, or something stands behind it"))?;
    let record = &upload[end..];
    let (count, size, start) = (u16_at(record, 10), u32_at(record, 12), u32_at(record, 16));
    if count == usize::from(u16::MAX) || start == u32::MAX as usize {
        return Err(broken("the zip is in the zip64 format, which so small a file does not need"));
    }
    if count > ENTRIES_MAX {
        return Err(CodeError::too_many(ENTRIES_MAX));
    }
    if start.checked_add(size) != Some(end) {
        return Err(broken("the zip has something before its first or behind its last entry"));
    }
    let (mut names, mut seen, mut places) = (Vec::new(), HashSet::new(), Vec::new());
    let mut rest = &upload[start..end];
    for _ in 0..count {
        if rest.len() < CENTRAL_RECORD_BYTES || !rest.starts_with(b"PK\x01\x02") {
            return Err(broken("the zip's list of entries is broken"));
        }
        let name_end = CENTRAL_RECORD_BYTES + u16_at(rest, 28);
        let record_end = name_end + u16_at(rest, 30) + u16_at(rest, 32);
        let name = rest.get(CENTRAL_RECORD_BYTES..name_end);
        let (Some(name), Some(after)) = (name, rest.get(record_end..)) else {
            return Err(broken("the zip's list of entries is broken"));
        };
        if !seen.insert(name) {
            let hint = "make the archive anew, with each file once";
            let name = String::from_utf8_lossy(name);
            return Err(CodeError::entry(&name, "is in the archive twice", hint));
        }
        places.push(place(&upload[..start], rest, name)?);
        names.push(name);
        rest = after;
    }
    if !rest.is_empty() {
        return Err(broken("the zip's list of entries is longer than it says"));
    }
    places.sort_unstable_by_key(|place| place.start);
    if places.windows(2).any(|pair| pair[0].end > pair[1].start) {
        return Err(broken("the zip has entries that overlap"));
    }
    Ok(names)
}

/// Where the entry of a record is, header and data, among the bytes before the list.
fn place(entries: &[u8], record: &[u8], name: &[u8]) -> Result<Range<usize>, CodeError> {
    let shown = String::from_utf8_lossy(name);
    let missing = || CodeError::broken(Some(&shown), "is not where the zip says");
    let packed = packed_bytes(record).ok_or_else(missing)?;
    let start = u32_at(record, 42);
    let header = entries
        .get(start..)
        .filter(|header| header.len() >= LOCAL_HEADER_BYTES && header.starts_with(b"PK\x03\x04"));
    let header = header.ok_or_else(missing)?;
    let name_end = LOCAL_HEADER_BYTES + u16_at(header, 26);
    if header.get(LOCAL_HEADER_BYTES..name_end).ok_or_else(missing)? != name {
        let hint = "make the archive anew";
        return Err(CodeError::entry(&shown, "has another name where its data is", hint));
    }
    let end = packed.checked_add(name_end + u16_at(header, 28));
    let end = end.filter(|end| *end <= header.len()).ok_or_else(missing)?;
    Ok(start..start + end)
}

/// How long an entry's data is, by its record; one made for a file of unknown size says it in a field of
/// the zip64 format.
fn packed_bytes(record: &[u8]) -> Option<usize> {
    const ELSEWHERE: usize = u32::MAX as usize;
    let packed = u32_at(record, 20);
    if packed != ELSEWHERE {
        return Some(packed);
    }
    let fields_start = CENTRAL_RECORD_BYTES + u16_at(record, 28);
    let mut fields = record.get(fields_start..fields_start + u16_at(record, 30))?;
    while fields.len() >= 4 {
        let (id, length) = (u16_at(fields, 0), u16_at(fields, 2));
        let field = fields.get(4..4 + length)?;
        if id == ZIP64_FIELD {
            // Behind the unpacked size, where that is elsewhere, too.
            let at = if u32_at(record, 24) == ELSEWHERE { 8 } else { 0 };
            let bytes = field.get(at..at + 8)?.try_into().ok()?;
            return usize::try_from(u64::from_le_bytes(bytes)).ok();
        }
        fields = &fields[4 + length..];
    }
    None
}

/// The end record whose comment reaches exactly to the end of the file.
fn find_end(upload: &[u8]) -> Option<usize> {
    let last = upload.len().checked_sub(END_RECORD_BYTES)?;
    let first = last.saturating_sub(usize::from(u16::MAX));
    (first..=last).rev().find(|at| {
        let record = &upload[*at..];
        record.starts_with(b"PK\x05\x06") && u16_at(record, 20) == record.len() - END_RECORD_BYTES
    })
}

fn u16_at(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize
}
