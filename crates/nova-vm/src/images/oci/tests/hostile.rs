//! Images that mean harm: each is refused, and nothing outside of the tree is read or written.
use super::maker::{Image, Layer, Packed, pack, text};
use crate::images::oci::Limits;
use serde_json::json;
use std::fs;
use tar::EntryType;

#[tokio::test]
async fn no_entry_leads_out() {
    for name in ["../escaped", "a/../../escaped", "/../escaped", ".wh..", "a/.wh..."] {
        let image = Image::of([Layer::new().file("a/b", ""), Layer::new().file(name, "x")]);
        let error = image.refused().await;
        assert!(error.contains("refused"), "{name}: {error}");
        assert!(!image.path("escaped").exists(), "{name}");
    }
    let linked = Layer::new().file("a", "").hard_link("b", "../../../../../../etc/passwd");
    assert!(Image::of([linked]).refused().await.contains("leads out of the image"));
}

#[tokio::test]
async fn what_is_written_through_a_link_stays_in_the_image() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    let lower = Layer::new()
        .link("absolute", target)
        .link("up", "../../../../../../../../../..")
        .link("file", &format!("{target}/file"))
        .link("loop", "loop");
    fs::write(outside.path().join("file"), "host's").unwrap();
    fs::write(outside.path().join("hidden"), "host's").unwrap();
    let upper = Layer::new()
        .directory(&target[1..])
        .file("absolute/planted", "image's")
        .file("absolute/.wh.hidden", "")
        .file("absolute/.wh..wh..opq", "")
        .file("up/planted", "image's")
        .file("file", "image's")
        .hard_link("stolen", "file");
    let image = Image::of([lower, upper]);
    let root = image.unpacked().await;
    assert_eq!(text(&root, "planted"), "image's", "`..` ends at the root");
    assert_eq!(text(&root.join(&target[1..]), "planted"), "image's");
    assert_eq!(text(&root, "stolen"), "image's");
    assert_eq!(text(outside.path(), "file"), "host's");
    assert_eq!(text(outside.path(), "hidden"), "host's");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 2);

    let through = Layer::new().hard_link("stolen", "absolute/file");
    let lower = Layer::new().link("absolute", target);
    let error = Image::of([lower, through]).refused().await;
    assert!(error.contains("stolen"), "{error}");
    let looped = Layer::new().link("loop", "loop").file("loop/x", "");
    assert!(Image::of([looped]).refused().await.contains("loop/x"));
}

#[tokio::test]
async fn links_do_not_lead_deeper_than_paths_may() {
    let down = "d/".repeat(45);
    let mut layer = Layer::new().directory("l0");
    for number in 0..8 {
        let at = format!("l{number}/{down}");
        layer = layer.file(&format!("{at}f"), "").link(&format!("l{}", number + 1), &at);
    }
    let error = Image::of([layer]).refused().await;
    assert!(error.contains("it lies too deep"), "{error}");
}

#[tokio::test]
async fn a_bomb_is_stopped_at_its_limit() {
    let zeros = "\0".repeat(3_000_000);
    let mut image = Image::of([Layer::new().file("zeros", &zeros)]);
    image.limits = Limits { unpacked_bytes: 2_000_000, ..Limits::STANDARD };
    let error = image.refused().await;
    assert!(error.contains("\"zeros\" takes it over the bytes"), "{error}");
    assert!(!image.path("tree/zeros").exists());

    // Two layers that write the same file: what is removed again has been written, too.
    let half = || Layer::new().file("zeros", &"\0".repeat(1_500_000));
    let mut image = Image::of([half(), half()]);
    image.limits = Limits { unpacked_bytes: 2_000_000, ..Limits::STANDARD };
    assert!(image.refused().await.contains("takes it over the bytes"));

    // Behind the archive's end, and in a name.
    let mut image = Image::of([Layer::new().file("a", "")]);
    image.layers[0].0.extend(vec![0; 3_000_000]);
    assert!(image.refused().await.contains("more than an image may have"));
    let name = "a".repeat(3_000_000);
    let long = Layer::new().entry("l", EntryType::GNULongName, (0, 0), "", name.as_bytes());
    assert!(Image::of([long.file("a", "")]).refused().await.contains("more than an image may"));

    let many = (0..100).fold(Layer::new(), |layer, number| layer.file(&number.to_string(), ""));
    let mut image = Image::of([many]);
    image.limits = Limits { entries: 99, ..Limits::STANDARD };
    assert!(image.refused().await.contains("more entries"));
}

#[tokio::test]
async fn every_digest_is_checked() {
    let image = Image::of([Layer::new().file("a", "right")]);
    let reference = image.layout();
    let wrong = pack(&Layer::new().file("a", "wrong").tar(), Packed::Gzip);
    for blob in fs::read_dir(image.path("layout/blobs/sha256")).unwrap() {
        let path = blob.unwrap().path();
        let right = fs::read(&path).unwrap();
        fs::write(&path, &wrong).unwrap();
        let error = image.taken(&reference).await.unwrap_err().to_string();
        assert!(error.contains("a blob is sha256:"), "{error}");
        fs::write(&path, right).unwrap();
    }
    image.taken(&reference).await.unwrap();

    let mut image = Image::of([Layer::new().file("a", "right")]);
    let other = format!("sha256:{}", "0".repeat(64));
    image.config["rootfs"] = json!({"type": "layers", "diff_ids": [other]});
    assert!(image.refused().await.contains("but its configuration says"));
    image.config["rootfs"] = json!({"type": "layers", "diff_ids": []});
    let error = image.taken(&image.docker_archive()).await.unwrap_err().to_string();
    assert!(error.contains("1 layers, but its configuration knows 0"), "{error}");
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_it_is_fetched() {
    let image = Image::of([Layer::new().file("a", "")]);
    let large = |size: u64| json!({"mediaType": "tar", "digest": format!("sha256:{}", "1".repeat(64)), "size": size});
    let refused = async |config: serde_json::Value, layers: serde_json::Value| {
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
        let manifest = image.blob(manifest.to_string().as_bytes(), "");
        image.taken(&image.index(json!([manifest]))).await.unwrap_err().to_string()
    };
    let half = u64::MAX / 2;
    assert!(
        refused(large(2), json!([large(half), large(half)])).await.contains("over 10000000000")
    );
    assert!(refused(large(half), json!([])).await.contains("configuration is over"));
    assert!(refused(large(2), json!(vec![large(1); 300])).await.contains("300 layers"));
    let foreign = json!({"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "digest": format!("sha256:{}", "1".repeat(64)), "size": 1});
    assert!(refused(large(2), json!([foreign])).await.contains("lies elsewhere"));

    let huge = format!("{{\"schemaVersion\": 2, \"pad\": \"{}\"}}", "x".repeat(5_000_000));
    let huge = image.blob(huge.as_bytes(), "");
    let error = image.taken(&image.index(json!([huge]))).await.unwrap_err().to_string();
    assert!(error.contains("is over 4194304 bytes"), "{error}");
    let old = image.blob(b"{\"schemaVersion\": 1}", "");
    let error = image.taken(&image.index(json!([old]))).await.unwrap_err().to_string();
    assert!(error.contains("schema 1"), "{error}");
}

#[tokio::test]
async fn bytes_that_are_no_layer_are_refused() {
    for how in [Packed::Plain, Packed::Gzip, Packed::Zstd] {
        let mut image = Image::of([Layer::new()]);
        image.layers = vec![(b"not a tar at all".repeat(100), how)];
        let error = image.refused().await;
        assert!(error.contains("a layer is broken"), "{error}");
    }
    // Cut short, with the digest of what is there: within a file, and only behind its last byte.
    let tar = Layer::new().file("a", &"b".repeat(10_000)).tar();
    let mut image = Image::of([Layer::new()]);
    image.layers = vec![(tar[..512 + 9999].to_vec(), Packed::Gzip)];
    assert!(image.refused().await.contains("ends within a file"));
    let mut image = Image::of([Layer::new()]);
    image.layers = vec![(tar[..512 + 10_000].to_vec(), Packed::Gzip)];
    assert_eq!(text(&image.unpacked().await, "a").len(), 10_000);
}
