//! What layers on top of each other become.
use super::maker::{Image, Layer, Packed, text};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use tar::EntryType;

#[tokio::test]
async fn a_later_layer_replaces_hides_and_adds() {
    let lower = Layer::new()
        .file("etc/kept", "lower")
        .file("etc/replaced", "lower")
        .file("etc/hidden", "lower")
        .file("opaque/old/deep", "lower")
        .file("opaque/old2", "lower")
        .directory("becomes-file/sub")
        .file("becomes-directory", "lower");
    let upper = Layer::new()
        .file("etc/replaced", "upper")
        .file("etc/.wh.hidden", "")
        // The order is the writer's: what the layer brings stays.
        .file("opaque/new", "upper")
        .file("opaque/old/brought", "upper")
        .file("opaque/.wh..wh..opq", "")
        .file("becomes-file", "upper")
        .directory("becomes-directory")
        .file("becomes-directory/sub", "upper")
        .file(".wh.nothing", "");
    let image = Image::of([lower, upper]);
    let root = image.unpacked().await;
    assert_eq!(text(&root, "etc/kept"), "lower");
    assert_eq!(text(&root, "etc/replaced"), "upper");
    assert!(!root.join("etc/hidden").exists());
    let opaque = |path: &str| root.join("opaque").join(path).exists();
    assert_eq!((opaque("new"), opaque("old/brought")), (true, true));
    assert_eq!((opaque("old/deep"), opaque("old2")), (false, false));
    assert_eq!(text(&root, "becomes-file"), "upper");
    assert_eq!(text(&root, "becomes-directory/sub"), "upper");
    let whiteouts = walkdir::WalkDir::new(&root).into_iter().flatten();
    assert!(!whiteouts.into_iter().any(|e| e.file_name().to_string_lossy().starts_with(".wh.")));
}

#[tokio::test]
async fn all_packings_give_the_same_files() {
    for how in [Packed::Plain, Packed::Gzip, Packed::Zstd] {
        let large = "0123456789".repeat(50_000);
        let mut image = Image::of([Layer::new().file("a", &large).file("b", "b")]);
        image.layers[0].1 = how;
        let root = image.unpacked().await;
        assert_eq!((text(&root, "a"), text(&root, "b")), (large, "b".into()));
    }
}

#[tokio::test]
async fn modes_stay_and_what_gives_rights_goes() {
    let program = |mode| (mode, 0);
    let layer = Layer::new()
        .entry("bin/run", EntryType::Regular, program(0o6755), "", b"#!/bin/sh")
        .entry("bin/private", EntryType::Regular, program(0o600), "", b"root's")
        .entry("scratch", EntryType::Directory, program(0o1777), "", b"")
        .entry("home/app", EntryType::Directory, (0o700, 4242), "", b"")
        .entry("home/app/run", EntryType::Regular, (0o750, 4242), "", b"#!/bin/sh")
        .entry("dev/sda", EntryType::Block, program(0o666), "", b"")
        .entry("dev/pipe", EntryType::Fifo, program(0o666), "", b"")
        .file("etc/passwd", "root:x:0:0::/:/bin/sh\napp:x:4242:4242::/home/app:/bin/sh")
        .hard_link("bin/run2", "bin/run");
    let mut image = Image::of([layer]);
    image.config["config"]["User"] = "app".into();
    image.config["config"]["WorkingDir"] = "/work/here".into();
    let root = image.unpacked().await;
    let about = |path: &str| root.join(path).metadata().unwrap();
    let mode = |path: &str| about(path).permissions().mode() & 0o7777;
    assert_eq!((mode("bin/run"), mode("bin/private"), mode("scratch")), (0o755, 0o600, 0o1777));
    assert_eq!((mode("home/app"), mode("home/app/run")), (0o705, 0o755), "functions are not `app`");
    assert_eq!(about("bin/run").ino(), about("bin/run2").ino());
    assert!(!root.join("dev/sda").exists() && !root.join("dev/pipe").exists());
    assert!(root.join("work/here").is_dir());
    let passwd = text(&root, "etc/passwd");
    assert!(passwd.ends_with("/bin/sh\nnova:x:1000:1000:functions:/tmp:/bin/sh\n"), "{passwd}");
}

#[tokio::test]
async fn what_a_guest_mounts_over_is_there_and_is_no_link() {
    let layer = Layer::new()
        .link("tmp", "/nonesuch")
        .link("code", "/etc")
        .link("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf")
        .file("etc/passwd", "me:x:1000:1000::/:/bin/sh\n");
    let image = Image::of([layer]);
    let root = image.unpacked().await;
    for directory in ["tmp", "code", "var/task", "proc", "sys", "dev", "run", "nova"] {
        assert!(fs::symlink_metadata(root.join(directory)).unwrap().is_dir(), "{directory}");
    }
    for file in ["etc/resolv.conf", "etc/hosts"] {
        assert!(fs::symlink_metadata(root.join(file)).unwrap().is_file(), "{file}");
    }
    assert_eq!(text(&root, "etc/passwd"), "me:x:1000:1000::/:/bin/sh\n");
    let linked = Image::of([Layer::new().link("var", "/etc")]).refused().await;
    assert!(linked.contains("/var/task"), "{linked}");
}
