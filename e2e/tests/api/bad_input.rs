//! Bad input is refused with the field's name and a hint, before anything is made.
use base64::{Engine, engine::general_purpose::STANDARD};
use flate2::Compression;
use flate2::write::GzEncoder;
use nova_e2e::Nova;
use reqwest::Method;
use serde_json::{Value, json};
use std::io::Write;

/// A tar.gz of these files: name, content, mode.
pub fn tar_gz(files: &[(&str, &[u8], u32)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (name, content, mode) in files {
        let mut header = tar::Header::new_gnu();
        // Written by hand: the library refuses the very names that this suite needs.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mode(*mode);
        header.set_cksum();
        builder.append(&header, *content).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap()
}

fn tar_gz_with_symlink(name: &str, target: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    header.set_mode(0o777);
    builder.append_link(&mut header, name, target).unwrap();
    builder.into_inner().unwrap().finish().unwrap()
}

/// Half a megabyte that unpacks to 600 MiB.
fn zip_bomb() -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Deflated)
        .large_file(true);
    zip.start_file("handler", options).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..600 {
        zip.write_all(&zeros).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn function(fields: Value) -> Value {
    let mut body = json!({"name": "refused", "runtime": "python", "code": "print(1)"});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body
}

/// Tries to create it; the answer must be this problem, name the field and hint at what is right.
async fn refused_as(body: Value, (status, code): (u16, &str), field: &str, hint: &str) {
    let nova = Nova::from_env();
    let problem = nova.post("/functions", &body).await.problem(status, code);
    let error = &problem["errors"][0];
    assert_eq!(error["field"], field, "{problem}");
    let words = error["hint"].as_str().unwrap();
    assert!(
        !words.is_empty() && words.contains(hint),
        "the hint of {field} says {hint:?}: {words:?}"
    );
    let name = body["name"].as_str().unwrap_or("refused");
    let after = nova.get(&format!("/functions/{}", name.replace('/', "%2F"))).await;
    assert!(!after.status.is_success(), "nothing was made");
}

async fn refused(body: Value, field: &str, hint: &str) {
    refused_as(body, (400, "invalid_field"), field, hint).await;
}

#[tokio::test]
async fn fields_out_of_bounds_are_named() {
    refused(function(json!({"name": "../../x"})), "name", "letters, digits").await;
    refused(function(json!({"memory_mb": 0})), "memory_mb", "64").await;
    refused(function(json!({"timeout_s": 99999})), "timeout_s", "900").await;
    refused(function(json!({"handler": "../x"})), "handler", "relative").await;
    refused(function(json!({"limits": {"vcpus": 99}})), "limits.vcpus", "32").await;
    refused(function(json!({"env_vars": {"A-B": "x"}})), "env_vars.A-B", "letters").await;
    refused(function(json!({"mode": "threads"})), "mode", "value").await;
}

#[tokio::test]
async fn an_unknown_runtime_is_refused_with_the_likely_one() {
    refused(function(json!({"runtime": "javascript"})), "runtime", "node").await;
}

#[tokio::test]
async fn an_unknown_field_is_refused_with_the_nearest_one() {
    let unknown = (400, "unknown_field");
    refused_as(function(json!({"memory": 128})), unknown, "memory", "memory_mb").await;
    refused_as(function(json!({"limits": {"vcpu": 2}})), unknown, "limits.vcpu", "vcpus").await;
}

#[tokio::test]
async fn code_that_is_no_archive_is_refused() {
    let code = json!({"archive": STANDARD.encode(b"certainly not an archive")});
    refused_as(function(json!({"code": code})), (400, "invalid_code"), "code", "tar.gz").await;
}

#[tokio::test]
async fn archives_that_leave_their_directory_are_refused() {
    for archive in [
        tar_gz(&[("../outside", b"x", 0o644)]),
        tar_gz(&[("/etc/outside", b"x", 0o644)]),
        tar_gz(&[("a/../../outside", b"x", 0o644)]),
        tar_gz_with_symlink("link", "/etc/passwd"),
        tar_gz_with_symlink("link", "../../outside"),
    ] {
        let code = json!({"archive": STANDARD.encode(archive)});
        refused_as(function(json!({"code": code})), (400, "invalid_code"), "code", "").await;
    }
}

#[tokio::test]
async fn a_zip_bomb_is_refused() {
    let bomb = zip_bomb();
    assert!(bomb.len() < 1024 * 1024, "{} bytes", bomb.len());
    let code = json!({"archive": STANDARD.encode(bomb)});
    refused_as(function(json!({"code": code})), (413, "code_too_large"), "code", "").await;
}

#[tokio::test]
async fn bodies_that_are_not_one_json_object_are_refused() {
    let nova = Nova::from_env();
    let good = function(json!({"name": "trailing"})).to_string();
    for body in
        [format!("{good} x"), format!("{good}{good}"), "{".into(), String::new(), "[]".into()]
    {
        let request = nova
            .request(Method::POST, "/functions")
            .header("content-type", "application/json")
            .body(body.clone());
        let answer = nova.send(request).await;
        assert_eq!(answer.status.as_u16(), 400, "{body:?}: {}", answer.text);
        assert_eq!(answer.headers["content-type"], "application/problem+json");
    }
    assert!(!nova.get("/functions/trailing").await.status.is_success());
}

#[tokio::test]
async fn a_payload_with_trailing_garbage_is_refused() {
    let nova = Nova::from_env();
    let function = nova.function("python", "print(1)", json!({})).await;
    for body in ["{} x", "{}{}", "nonsense", "{\"a\":NaN}"] {
        let request = nova
            .request(Method::POST, &function.path("/invoke"))
            .header("content-type", "application/json")
            .body(body);
        nova.send(request).await.problem(400, "invalid_json");
    }
    function.delete().await;
}

#[tokio::test]
async fn without_a_good_key_nothing_answers() {
    let nova = Nova::from_env();
    for key in ["", "nova_1_2", "x"] {
        let stranger = Nova::at(nova.url(), key);
        stranger.get("/functions").await.problem(401, "unauthenticated");
        stranger.post("/functions", &function(json!({}))).await.problem(401, "unauthenticated");
        assert!(stranger.get("/health").await.status.is_success(), "health needs no key");
    }
    let forged = format!("{}0", &nova.key()[..nova.key().len() - 1]);
    let other = if forged == nova.key() { forged.replace('0', "1") } else { forged };
    Nova::at(nova.url(), &other).get("/functions").await.problem(401, "unauthenticated");
}

#[tokio::test]
async fn a_foreign_host_header_is_refused() {
    let nova = Nova::from_env();
    let request = nova.request(Method::GET, "/functions").header("host", "attacker.example");
    nova.send(request).await.problem(403, "host_not_allowed");
}

#[tokio::test]
async fn what_does_not_exist_is_404_with_a_problem() {
    let nova = Nova::from_env();
    nova.get("/functions/e2e-none").await.problem(404, "function_not_found");
    nova.get("/no/such/path").await.problem(404, "route_not_found");
    let id = "01890000-0000-7000-8000-000000000000";
    nova.get(&format!("/invocations/{id}")).await.problem(404, "invocation_not_found");
}
