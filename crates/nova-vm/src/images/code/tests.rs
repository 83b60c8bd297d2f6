//! Uploads that a user would send, and uploads that an attacker would.
use super::*;
use proptest::prelude::*;
use std::io::{Read, Write};

/// A tar entry: name, type, mode, link target or content.
type Entry = (&'static str, tar::EntryType, u32, &'static str);

fn tar_of(entries: &[Entry]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, kind, mode, text) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(*mode);
        header.set_mtime(1_700_000_000);
        header.set_uid(1234);
        let is_link = matches!(kind, tar::EntryType::Symlink | tar::EntryType::Link);
        let content = if is_link { "" } else { text };
        header.set_size(content.len() as u64);
        // Written into the header directly: the library refuses hostile names by itself.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        if is_link {
            header.as_old_mut().linkname[..text.len()].copy_from_slice(text.as_bytes());
        }
        header.set_cksum();
        builder.append(&header, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

const FILE: tar::EntryType = tar::EntryType::Regular;
const LINK: tar::EntryType = tar::EntryType::Symlink;
const DIRECTORY: tar::EntryType = tar::EntryType::Directory;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zip_of(entries: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, mode, content) in entries {
        let options = zip::write::SimpleFileOptions::default().unix_permissions(*mode);
        writer.start_file(*name, options).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn archive(bytes: &[u8]) -> Result<Vec<u8>, CodeError> {
    canonicalise(bytes, UploadKind::Archive)
}

/// Names, modes and contents of a canonical archive.
fn listing(canonical: &[u8]) -> Vec<(String, u32, String)> {
    let mut archive = tar::Archive::new(canonical);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut content = String::new();
        entry.read_to_string(&mut content).unwrap();
        if let Some(target) = entry.link_name().unwrap() {
            content = format!("-> {}", target.display());
        }
        let header = entry.header();
        assert_eq!(
            (header.mtime().unwrap(), header.uid().unwrap(), header.gid().unwrap()),
            (0, 0, 0)
        );
        (entry.path().unwrap().display().to_string(), header.mode().unwrap(), content)
    });
    entries.collect()
}

#[test]
fn inline_text_becomes_the_handler() {
    let made = canonicalise(b"print(1)", UploadKind::Inline { handler: "src/main.py" }).unwrap();
    let expected = [("src/", 0o755, ""), ("src/main.py", 0o755, "print(1)")];
    assert_eq!(listing(&made), expected.map(|(n, m, c)| (n.into(), m, c.into())));
}

#[test]
fn the_same_files_give_the_same_bytes_from_tar_and_gzip_and_zip() {
    let tar = tar_of(&[
        ("./", DIRECTORY, 0o700, ""),
        ("./z", FILE, 0o600, "z"),
        ("./a/b", FILE, 0o4777, "b"),
    ]);
    let zip = zip_of(&[("a/b", 0o755, b"b"), ("z", 0o644, b"z")]);
    let made = archive(&tar).unwrap();
    assert_eq!(archive(&gzip(&tar)).unwrap(), made);
    assert_eq!(archive(&zip).unwrap(), made);
    let expected = [("a/", 0o755, ""), ("a/b", 0o755, "b"), ("z", 0o644, "z")];
    assert_eq!(listing(&made), expected.map(|(n, m, c)| (n.into(), m, c.into())));
}

#[test]
fn a_canonical_archive_is_its_own_canonical_form() {
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(200));
    let made = canonicalise(b"x", UploadKind::Inline { handler: &long }).unwrap();
    assert_eq!(archive(&made).unwrap(), made);
}

#[test]
fn links_that_stay_inside_are_kept() {
    let made = archive(&tar_of(&[
        ("bin/run", LINK, 0o777, "../lib/run.js"),
        ("lib/run.js", FILE, 0o644, "1"),
        ("nowhere", LINK, 0o777, "lib/later"),
    ]));
    let made = listing(&made.unwrap());
    assert!(made.contains(&("bin/run".into(), 0o777, "-> ../lib/run.js".into())), "{made:?}");
    assert!(made.contains(&("nowhere".into(), 0o777, "-> lib/later".into())), "{made:?}");
}

#[test]
fn hostile_entries_are_refused_by_name() {
    let hard = tar::EntryType::Link;
    let device = tar::EntryType::Char;
    let pipe = tar::EntryType::Fifo;
    let cases: &[(&[Entry], &str, &str)] = &[
        (&[("../evil", FILE, 0o644, "x")], "../evil", "leads out"),
        (&[("a/../../evil", FILE, 0o644, "x")], "a/../../evil", "leads out"),
        (&[("/etc/passwd", FILE, 0o644, "x")], "/etc/passwd", "absolute"),
        (&[("a\nb", FILE, 0o644, "x")], "a\\nb", "control character"),
        (&[("a\\b", FILE, 0o644, "x")], "a\\\\b", "backslash"),
        (&[("l", LINK, 0o777, "/etc/passwd")], "l", "absolute"),
        (&[("l", LINK, 0o777, "../x")], "l", "out of the code"),
        (&[("d/l", LINK, 0o777, "../../x")], "d/l", "out of the code"),
        (&[("l", LINK, 0o777, "")], "l", "empty"),
        (&[("l", LINK, 0o777, "l")], "l", "never arrives"),
        (&[("x", FILE, 0o644, "x"), ("h", hard, 0o644, "x")], "h", "hard link"),
        (&[("c", device, 0o644, "")], "c", "device"),
        (&[("p", pipe, 0o644, "")], "p", "pipe"),
        (&[("x", FILE, 0o644, "1"), ("./x", FILE, 0o644, "2")], "./x", "twice"),
        (&[("x", FILE, 0o644, "1"), ("x/y", FILE, 0o644, "2")], "x/y", "both a directory"),
        (&[("x/y", FILE, 0o644, "1"), ("x", FILE, 0o644, "2")], "x", "both a directory"),
        (&[("l", LINK, 0o777, "d"), ("l/y", FILE, 0o644, "2")], "l/y", "both a directory"),
        (&[("x", FILE, 0o644, "1"), ("x", LINK, 0o777, "y")], "x", "twice"),
    ];
    for (entries, name, problem) in cases {
        // A good file first, so that nothing is refused for being empty.
        let mut all = vec![("good", FILE, 0o644, "x")];
        all.extend_from_slice(entries);
        let error = archive(&tar_of(&all)).unwrap_err();
        assert_eq!(error.kind, CodeErrorKind::Entry, "{error}");
        assert_eq!(error.entry.as_deref(), Some(format!("\"{name}\"").as_str()), "{error}");
        assert!(error.to_string().contains(problem), "{error}");
        assert!(!error.hint.is_empty());
    }
}

#[test]
fn a_way_out_through_a_second_link_is_seen() {
    let error = archive(&tar_of(&[
        ("a/b/c", FILE, 0o644, "x"),
        ("a/b/top", LINK, 0o777, "../.."),
        ("y", LINK, 0o777, "a/b/top/../.."),
    ]));
    assert_eq!(error.unwrap_err().entry.as_deref(), Some("\"y\""));
}

#[test]
fn over_long_and_over_deep_paths_are_refused() {
    for handler in ["n".repeat(256), "d/".repeat(64) + "f", "n/".repeat(513)] {
        let error = canonicalise(b"x", UploadKind::Inline { handler: &handler }).unwrap_err();
        assert_eq!(error.kind, CodeErrorKind::Entry);
        assert!(error.to_string().len() < 400, "an error repeats only a piece of the name");
    }
}

#[test]
fn what_is_no_archive_is_said_to_be_none() {
    for bytes in [&b""[..], b"def handler(): pass", b"\x7fELF", &[0; 1024]] {
        assert_eq!(archive(bytes).unwrap_err().kind, CodeErrorKind::NotAnArchive);
    }
}

#[test]
fn an_archive_without_files_is_refused() {
    let tar = tar_of(&[("d", DIRECTORY, 0o755, "")]);
    assert!(archive(&tar).unwrap_err().to_string().contains("no files"));
    assert!(archive(&zip_of(&[])).unwrap_err().to_string().contains("no files"));
}

#[test]
fn trailing_garbage_is_refused() {
    let tar = tar_of(&[("x", FILE, 0o644, "x")]);
    let zip = zip_of(&[("x", 0o644, b"x")]);
    for mut bytes in [tar.clone(), gzip(&tar), zip.clone()] {
        bytes.extend_from_slice(b"garbage");
        assert_eq!(archive(&bytes).unwrap_err().kind, CodeErrorKind::Broken);
    }
    let mut behind_the_end = tar.clone();
    behind_the_end.extend_from_slice(b"garbage");
    assert_eq!(archive(&gzip(&behind_the_end)).unwrap_err().kind, CodeErrorKind::Broken);
    let mut self_extracting = b"PK\x03\x04 stub".to_vec();
    self_extracting.extend_from_slice(&zip);
    assert_eq!(archive(&self_extracting).unwrap_err().kind, CodeErrorKind::Broken);
}

#[test]
fn a_bomb_is_refused_before_it_is_unpacked() {
    let zeros = vec![0; 1 << 20];
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut header = tar::Header::new_gnu();
    header.set_path("bomb").unwrap();
    header.set_mode(0o644);
    header.set_size(UNPACKED_MAX_BYTES + 1);
    header.set_cksum();
    encoder.write_all(header.as_bytes()).unwrap();
    for _ in 0..=UNPACKED_MAX_BYTES >> 20 {
        encoder.write_all(&zeros).unwrap();
    }
    let error = archive(&encoder.finish().unwrap()).unwrap_err();
    assert_eq!((error.kind, error.entry.as_deref()), (CodeErrorKind::TooLarge, Some("\"bomb\"")));
}

#[test]
fn a_zip_bomb_is_refused_whatever_its_headers_claim() {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    writer.start_file("bomb", zip::write::SimpleFileOptions::default()).unwrap();
    for _ in 0..=UNPACKED_MAX_BYTES >> 20 {
        writer.write_all(&vec![0; 1 << 20]).unwrap();
    }
    let honest = writer.finish().unwrap().into_inner();
    let mut lying = honest.clone();
    let central = lying.windows(4).rposition(|w| w == b"PK\x01\x02").unwrap();
    lying[central + 24..central + 28].copy_from_slice(&10u32.to_le_bytes());
    for bytes in [honest, lying] {
        let error = archive(&bytes).unwrap_err();
        assert_eq!(error.entry.as_deref(), Some("\"bomb\""), "{error}");
    }
}

#[test]
fn a_bomb_hidden_in_a_long_name_is_refused() {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut header = tar::Header::new_gnu();
    header.set_path("././@LongLink").unwrap();
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_size(1 << 40);
    header.set_cksum();
    encoder.write_all(header.as_bytes()).unwrap();
    for _ in 0..400 {
        encoder.write_all(&vec![b'a'; 1 << 20]).unwrap();
    }
    let error = archive(&encoder.finish().unwrap()).unwrap_err();
    assert_eq!(error.kind, CodeErrorKind::TooLarge, "{error}");
}

#[test]
fn too_many_entries_are_refused() {
    let mut builder = tar::Builder::new(Vec::new());
    for number in 0..=ENTRIES_MAX {
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_mode(0o644);
        builder.append_data(&mut header, format!("f{number}"), std::io::empty()).unwrap();
    }
    let error = archive(&gzip(&builder.into_inner().unwrap())).unwrap_err();
    assert_eq!(error.kind, CodeErrorKind::TooLarge);
    assert!(error.to_string().contains("65536 entries"), "{error}");
}

#[test]
fn an_over_large_upload_is_refused() {
    let error = archive(&vec![0x1f; UPLOAD_MAX_BYTES + 1]).unwrap_err();
    assert_eq!(error.kind, CodeErrorKind::TooLarge);
}

#[test]
fn a_zip_with_a_name_twice_is_refused_by_name() {
    let mut zip = zip_of(&[("aaaa", 0o644, b"1"), ("bbbb", 0o644, b"2")]);
    for at in 0..zip.len() - 4 {
        if zip[at..].starts_with(b"bbbb") {
            zip[at..at + 4].copy_from_slice(b"aaaa");
        }
    }
    let error = archive(&zip).unwrap_err();
    assert_eq!(error.entry.as_deref(), Some("\"aaaa\""), "{error}");
}

#[test]
fn hostile_zip_entries_are_refused_by_name() {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    writer.start_file("good", zip::write::SimpleFileOptions::default()).unwrap();
    let options = zip::write::SimpleFileOptions::default();
    writer.add_symlink("out", "../../etc/passwd", options).unwrap();
    let error = archive(&writer.finish().unwrap().into_inner()).unwrap_err();
    assert_eq!(error.entry.as_deref(), Some("\"out\""), "{error}");
    for (name, problem) in [("../evil", "leads out"), ("/abs", "absolute"), ("w\\x", "backslash")] {
        // The writer mends such names itself, so an innocent one is overwritten.
        let mut zip = zip_of(&[("good", 0o644, b"x"), (&"N".repeat(name.len()), 0o644, b"x")]);
        for at in 0..zip.len() - name.len() {
            if zip[at..].starts_with("N".repeat(name.len()).as_bytes()) {
                zip[at..at + name.len()].copy_from_slice(name.as_bytes());
            }
        }
        let error = archive(&zip).unwrap_err();
        assert!(error.to_string().contains(problem), "{error}");
    }
}

#[test]
fn a_program_in_a_zip_without_modes_is_executable() {
    let made = archive(&zip_of(&[("run", 0o644, b"#!/bin/sh\n"), ("text", 0o644, b"x")])).unwrap();
    let modes: Vec<u32> = listing(&made).iter().map(|entry| entry.1).collect();
    assert_eq!(modes, [0o755, 0o644]);
}

#[test]
fn a_damaged_file_in_a_zip_is_noticed() {
    let stored =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    writer.start_file("x", stored).unwrap();
    writer.write_all(b"precious").unwrap();
    let mut zip = writer.finish().unwrap().into_inner();
    let at = zip.windows(8).position(|window| window == b"precious").unwrap();
    zip[at] ^= 1;
    let error = archive(&zip).unwrap_err();
    assert_eq!((error.kind, error.entry.as_deref()), (CodeErrorKind::Broken, Some("\"x\"")));
}

proptest! {
    #[test]
    fn damaged_archives_never_panic_and_never_leave_the_code(
        format in 0..3,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
        truncate in any::<bool>(),
    ) {
        let tar = tar_of(&[
            ("d/x", FILE, 0o644, "content"),
            ("l", LINK, 0o777, "d/x"),
            ("y", FILE, 0o755, "more"),
        ]);
        let mut bytes = match format {
            0 => tar,
            1 => gzip(&tar),
            _ => zip_of(&[("d/x", 0o644, b"content"), ("y", 0o755, b"more")]),
        };
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if truncate {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(made) = archive(&bytes) {
            prop_assert_eq!(archive(&made).unwrap(), made.clone());
            for (name, _, _) in listing(&made) {
                prop_assert!(!name.starts_with('/') && !name.split('/').any(|part| part == ".."));
            }
        }
    }

    #[test]
    fn garbage_is_refused_without_a_panic(
        magic in prop::sample::select(vec![&b""[..], b"\x1f\x8b\x08\x00", b"PK\x03\x04", b"PK\x05\x06"]),
        rest in prop::collection::vec(any::<u8>(), 0..2048),
    ) {
        let mut bytes = magic.to_vec();
        bytes.extend(rest);
        prop_assert!(archive(&bytes).is_err());
    }

    #[test]
    fn any_set_of_files_survives_the_way_to_disk(
        files in prop::collection::btree_map("[a-c]{1,2}(/[a-c]{1,2}){0,2}", ("[ -~]{0,40}", any::<bool>()), 1..12),
    ) {
        let mut tree = Tree::default();
        let fits = files
            .iter()
            .all(|(name, (text, exec))| tree.add_file(name, text.clone().into(), *exec).is_ok());
        prop_assume!(fits);
        let made = tree.into_tar().unwrap();
        let directory = tempfile::tempdir().unwrap();
        read_canonical(&made).unwrap().unpack(directory.path()).unwrap();
        for (name, (text, _)) in files {
            prop_assert_eq!(std::fs::read_to_string(directory.path().join(name)).unwrap(), text);
        }
    }
}

/// A canonical archive of these files; a text that begins with `->` is a link.
fn layer(files: &[(&str, &str)]) -> bytes::Bytes {
    let mut tree = Tree::default();
    for (path, text) in files {
        match text.strip_prefix("->") {
            Some(target) => tree.add_link(path, target).unwrap(),
            None => tree.add_file(path, text.as_bytes().to_vec(), false).unwrap(),
        }
    }
    tree.into_tar().unwrap().into()
}

#[test]
fn layers_lie_over_each_other_in_order() {
    let first = [
        ("bin/run", "1"),
        ("bin-old", "1"),
        ("lib/a", "1"),
        ("lib/deep/b", "1"),
        ("data", "1"),
        ("at", "->lib/a"),
    ];
    let second = [("bin/run", "2"), ("lib", "2"), ("data/x", "2"), ("at/y", "2")];
    let expected =
        [("bin/run", "2"), ("bin-old", "1"), ("lib", "2"), ("data/x", "2"), ("at/y", "2")];
    assert_eq!(merge(&[layer(&first), layer(&second)]).unwrap(), layer(&expected));
    assert_eq!(merge(&[layer(&second)]).unwrap(), layer(&second));
}

#[test]
fn a_link_that_another_layer_leads_astray_is_refused() {
    // Each is harmless by itself: `a/up` leads to the top until `a` is a link to it.
    let first = [("x/a/up", "->../.."), ("x/f", "1")];
    let second = [("x/a", "->."), ("f", "1")];
    assert!(merge(&[layer(&first), layer(&second)]).is_ok(), "the link hides the directory");
    let outside = [("d/e/f", "1"), ("d/l", "->e")];
    let inside = [("d/l", "->e/../../.."), ("d/e/g", "1")];
    let error = merge(&[layer(&outside), layer(&inside)]).unwrap_err().to_string();
    assert!(error.contains("d/l"), "{error}");
}

#[test]
fn the_program_that_a_build_wrote_is_put_where_the_handler_is() {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in [("handler", "program"), ("lib/data", "data")] {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o600);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, name, content.as_bytes()).unwrap();
    }
    let tar = tar.into_inner().unwrap();
    let archive = canonicalise_result(&tar, Some("bin/run")).unwrap();
    let mut archive = tar::Archive::new(&archive[..]);
    let files: Vec<(String, u32)> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.header().entry_type().is_file())
        .map(|entry| (entry.path().unwrap().display().to_string(), entry.header().mode().unwrap()))
        .collect();
    assert_eq!(files, [("bin/run".to_owned(), 0o755), ("lib/data".to_owned(), 0o644)]);
    assert!(canonicalise_result(&tar, Some("lib")).is_err(), "something else is there");
    let empty = tar::Builder::new(Vec::new()).into_inner().unwrap();
    let error = canonicalise_result(&empty, Some("handler")).unwrap_err();
    assert!(error.to_string().contains("the build wrote no file /out/handler"), "{error}");
}

#[test]
fn links_through_links_are_bounded_in_all_and_short_ones_are_not() {
    let mut tree = Tree::default();
    tree.add_file("lib/tool/bin/main", b"x".to_vec(), true).unwrap();
    for n in 0..8000 {
        tree.add_link(&format!("node_modules/.bin/l{n}"), "../../lib/tool/bin/main").unwrap();
    }
    tree.validate().unwrap();

    let mut tree = Tree::default();
    tree.add_file("f", b"x".to_vec(), true).unwrap();
    tree.add_link("l0", "f").unwrap();
    for n in 1..38 {
        tree.add_link(&format!("l{n}"), &format!("{}l{}", "./".repeat(60), n - 1)).unwrap();
    }
    for n in 0..4000 {
        tree.add_link(&format!("m{n}"), "l37").unwrap();
    }
    let error = tree.validate().unwrap_err().to_string();
    assert!(error.contains("too many symbolic links"), "{error}");
}

#[test]
fn a_zip_made_for_large_files_is_taken() {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().large_file(true);
    for name in ["handler", "data"] {
        zip.start_file(name, options).unwrap();
        zip.write_all(b"text").unwrap();
    }
    assert!(archive(&zip.finish().unwrap().into_inner()).is_ok());
}

#[test]
fn a_zip_says_the_same_in_both_places_and_packs_nothing_twice() {
    let honest = zip_of(&[("first", 0o644, b"one"), ("other", 0o644, b"two")]);
    assert!(archive(&honest).is_ok());
    let refused = |bytes: &[u8]| archive(bytes).unwrap_err().to_string();
    let mut renamed = honest.clone();
    let at = renamed.windows(5).position(|part| part == b"other").unwrap();
    renamed[at..at + 5].copy_from_slice(b"OTHER");
    let error = refused(&renamed);
    assert!(error.contains("other") && error.contains("another name"), "{error}");

    // The list says that the first one's data goes on into the second.
    let mut longer = honest;
    let list = longer.windows(4).position(|part| part == b"PK\x01\x02").unwrap();
    longer[list + 20] += 10;
    let error = refused(&longer);
    assert!(error.contains("overlap"), "{error}");
}
