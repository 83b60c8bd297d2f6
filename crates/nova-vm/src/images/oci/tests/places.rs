//! Where images are taken from, and which of several.
use super::maker::{Image, Layer, text};
use crate::images::oci::ImageReference;
use serde_json::json;

fn hello() -> Image {
    Image::of([Layer::new().file("hello", "lower"), Layer::new().file("hello", "world")])
}

#[tokio::test]
async fn a_docker_archive_is_the_same_image() {
    let image = hello();
    let root = image.taken(&image.docker_archive()).await.unwrap();
    assert_eq!(text(&root, "hello"), "world");
}

#[tokio::test]
async fn of_several_platforms_the_one_that_runs_here_is_taken() {
    let image = hello();
    let mut amd64 = image.manifest();
    amd64["platform"] = json!({"os": "linux", "architecture": "amd64"});
    let mut arm64 = amd64.clone();
    arm64["platform"] = json!({"os": "linux", "architecture": "arm64"});
    let index = json!({"schemaVersion": 2, "manifests": [arm64, amd64]});
    let index = image.blob(index.to_string().as_bytes(), "");
    let root = image.taken(&image.index(json!([index]))).await.unwrap();
    assert_eq!(text(&root, "hello"), "world");

    let index = json!({"schemaVersion": 2, "manifests": [arm64]});
    let index = image.blob(index.to_string().as_bytes(), "");
    let error = image.taken(&image.index(json!([index]))).await.unwrap_err().to_string();
    assert!(error.contains("not made for linux/amd64, but for \"linux/arm64\""), "{error}");

    let mut windows = hello();
    windows.config["os"] = "windows".into();
    assert!(windows.refused().await.contains("windows/amd64"));
}

#[tokio::test]
async fn of_several_images_in_a_layout_one_is_named() {
    let image = hello();
    let mut one = image.manifest();
    one["annotations"] = json!({"org.opencontainers.image.ref.name": "v1"});
    let mut two = one.clone();
    two["annotations"] = json!({"org.opencontainers.image.ref.name": "v2"});
    let any = image.index(json!([one, two]));
    let error = image.taken(&any).await.unwrap_err().to_string();
    assert!(error.contains("holds the images \"v1, v2\"; name one"), "{error}");
    let tagged = ImageReference::Layout { path: image.path("layout"), tag: Some("v2".into()) };
    assert_eq!(text(&image.taken(&tagged).await.unwrap(), "hello"), "world");
}
