//! Code as an archive: what is taken, what is refused, what comes back.
use super::fixture::{Fixture, function};
use crate::api::CODE_JOBS;
use axum::http::{Method, StatusCode};
use base64::Engine;
use flate2::Compression;
use flate2::write::GzEncoder;
use nova_vm::images::code::UPLOAD_MAX_BYTES;
use serde_json::json;
use std::io::{Cursor, Read, Write};

fn entry(name: &[u8], size: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    // `set_path` refuses what a hostile client would not.
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_mode(0o755);
    header.set_size(size as u64);
    header
}

fn tar_gz(files: &[(&str, &[u8])], links: &[(&str, &str)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    for (name, content) in files {
        let mut header = entry(name.as_bytes(), content.len());
        header.set_cksum();
        archive.append(&header, *content).unwrap();
    }
    for (name, target) in links {
        let mut header = entry(name.as_bytes(), 0);
        header.set_entry_type(tar::EntryType::Symlink);
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        archive.append(&header, &[][..]).unwrap();
    }
    archive.into_inner().unwrap().finish().unwrap()
}

fn zip(name: &str, content: &mut dyn Read) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().unix_permissions(0o755);
    archive.start_file(name, options).unwrap();
    std::io::copy(content, &mut archive).unwrap();
    archive.flush().unwrap();
    archive.finish().unwrap().into_inner()
}

async fn put(fixture: &Fixture, archive: Vec<u8>) -> super::fixture::Answer {
    fixture.send(Method::PUT, "/functions/hello/code", archive).await
}

#[tokio::test]
async fn an_archive_is_a_new_version_and_comes_back_as_a_tar() {
    let fixture = Fixture::new().await;
    fixture.create("hello").await;
    let code: &[u8] = b"print(2)";
    let changed = put(&fixture, tar_gz(&[("handler", code)], &[])).await;
    assert_eq!(changed.status, StatusCode::OK, "{:?}", changed.json());
    assert_eq!(changed.json()["version"], 2);

    let back = fixture.get("/functions/hello/code").await;
    assert_eq!(back.header("content-type"), "application/x-tar");
    assert!(back.header("etag").contains(changed.json()["code_hash"].as_str().unwrap()));
    let mut archive = tar::Archive::new(back.bytes.as_slice());
    let mut content = String::new();
    let mut file = archive.entries().unwrap().next().unwrap().unwrap();
    assert_eq!(file.path().unwrap().to_str(), Some("handler"));
    file.read_to_string(&mut content).unwrap();
    assert_eq!(content, "print(2)");

    let zipped = put(&fixture, zip("handler", &mut &*code)).await;
    assert_eq!(
        zipped.json()["code_hash"],
        changed.json()["code_hash"],
        "same code, no new version"
    );
    assert_eq!(zipped.json()["version"], 2);
}

#[tokio::test]
async fn code_may_be_text_or_an_archive_in_the_body() {
    let fixture = Fixture::new().await;
    let archive = tar_gz(&[("handler", b"print(1)")], &[]);
    let archive = base64::engine::general_purpose::STANDARD.encode(archive);
    let mut hashes = Vec::new();
    for (name, code) in [
        ("a", json!("print(1)")),
        ("b", json!({ "inline": "print(1)" })),
        ("c", json!({ "archive": archive })),
    ] {
        let mut body = function(name);
        body["code"] = code;
        let answer = fixture.post("/functions", body).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{:?}", answer.json());
        hashes.push(answer.json()["code_hash"].take());
    }
    assert_eq!(hashes[0], hashes[1], "the same program in another form");
    assert_eq!(hashes[0], hashes[2], "the same program in another form");
    let mut body = function("d");
    body["code"] = json!({ "archive": "!" });
    assert_eq!(fixture.post("/functions", body).await.problem().2, "code.archive");
}

#[tokio::test]
async fn hostile_archives_are_refused_with_the_entry() {
    let fixture = Fixture::new().await;
    let before = fixture.create("hello").await;
    let bomb = zip("handler", &mut std::io::repeat(0).take(300 * 1024 * 1024));
    let mut cut = tar_gz(&[("handler", b"print(1)")], &[]);
    cut.truncate(cut.len() / 2);
    for (what, archive, code, part) in [
        ("no archive", b"print(1)".to_vec(), "invalid_code", "not an archive"),
        ("empty", Vec::new(), "invalid_code", "not an archive"),
        ("path out", tar_gz(&[("../evil", b"x")], &[]), "invalid_code", "../evil"),
        ("absolute", tar_gz(&[("/etc/evil", b"x")], &[]), "invalid_code", "/etc/evil"),
        ("link out", tar_gz(&[("a", b"x")], &[("out", "../../etc")]), "invalid_code", "out"),
        ("link to /", tar_gz(&[("a", b"x")], &[("out", "/etc/passwd")]), "invalid_code", "out"),
        ("zip path out", zip("../evil", &mut &b"x"[..]), "invalid_code", "../evil"),
        ("cut", cut, "invalid_code", ""),
        ("bomb", bomb, "code_too_large", ""),
    ] {
        let answer = put(&fixture, archive).await;
        let (_, named, field) = answer.problem();
        assert_eq!((named.as_str(), field.as_str()), (code, "code"), "{what}");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(part), "{what}: {detail}");
        assert!(!answer.hint().is_empty(), "{what}");
    }
    assert_eq!(fixture.get("/functions/hello").await.json(), before);
}

#[tokio::test]
async fn a_handler_that_is_not_in_the_code_is_refused_when_deployed() {
    let fixture = Fixture::new().await;
    let archive = tar_gz(&[("main.py", b"print(1)"), ("util.py", b"")], &[]);
    let encoded = base64::engine::general_purpose::STANDARD.encode(&archive);
    let refused = |answer: super::fixture::Answer| {
        let (status, code, field) = answer.problem();
        assert_eq!((status, code.as_str(), field.as_str()), (400, "invalid_field", "handler"));
        let json = answer.json();
        let error = &json["errors"][0];
        (error["problem"].as_str().unwrap().to_owned(), answer.hint())
    };
    let mut body = function("broken");
    body["code"] = json!({ "archive": encoded });
    let (problem, hint) = refused(fixture.post("/functions", body.clone()).await);
    assert_eq!(problem, "`handler` is not in the code, which holds: main.py, util.py");
    assert_eq!(hint, "give the program's path as handler (--handler main.py)");
    assert_eq!(fixture.get("/functions/broken").await.status, StatusCode::NOT_FOUND);
    body["handler"] = json!("main.py");
    assert_eq!(fixture.post("/functions", body).await.status, StatusCode::CREATED);

    let before = fixture.create("hello").await;
    refused(put(&fixture, archive).await);
    for change in [json!({ "handler": "main.py" }), json!({ "code": { "archive": encoded } })] {
        let change = change.to_string();
        refused(fixture.send(Method::PATCH, "/functions/hello", change).await);
    }
    assert_eq!(fixture.get("/functions/hello").await.json(), before);
    let both = json!({ "handler": "util.py", "code": { "archive": encoded } }).to_string();
    let moved = fixture.send(Method::PATCH, "/functions/hello", both).await;
    assert_eq!(moved.status, StatusCode::OK, "{:?}", moved.json());
}

#[tokio::test]
async fn an_archive_over_the_limit_is_not_even_looked_at() {
    let fixture = Fixture::new().await;
    fixture.create("hello").await;
    let answer = put(&fixture, vec![0; UPLOAD_MAX_BYTES + 1]).await;
    assert_eq!(answer.problem().0, 413);
    assert_eq!(answer.problem().1, "code_too_large");
}

#[tokio::test]
async fn code_is_read_from_a_listed_directory_only() {
    let allowed = tempfile::tempdir().unwrap();
    std::fs::write(allowed.path().join("hello.py"), "print(1)").unwrap();
    let directory = allowed.path().canonicalize().unwrap();
    let fixture = Fixture::with_settings(|settings| settings.code_paths.push(directory)).await;
    let inline = fixture.create("inline").await;
    let body = |path: &str| json!({ "name": "hello", "runtime": "python", "code_path": path });
    for path in ["/etc/passwd", &format!("{}/../x", allowed.path().display())] {
        assert_eq!(fixture.post("/functions", body(path)).await.problem().2, "code_path");
    }
    let path = allowed.path().join("hello.py").display().to_string();
    let answer = fixture.post("/functions", body(&path)).await;
    assert_eq!(answer.json()["code_hash"], inline["code_hash"]);
}

#[tokio::test]
async fn code_of_the_daemons_own_files_is_packed_when_its_turn_comes() {
    let allowed = tempfile::tempdir().unwrap();
    let file = allowed.path().join("hello.py");
    std::fs::write(&file, "print(0)").unwrap();
    let directory = allowed.path().canonicalize().unwrap();
    let fixture = Fixture::with_settings(|settings| settings.code_paths.push(directory)).await;
    let inline = fixture.create("inline").await;
    let turns = fixture.api.code_jobs.acquire_many(CODE_JOBS as u32).await.unwrap();
    let body = json!({ "name": "hello", "runtime": "python", "code_path": file });
    let create = fixture.post("/functions", body);
    let others = async {
        for _ in 0..20 {
            fixture.get("/functions/inline").await;
        }
        std::fs::write(&file, "print(1)").unwrap();
        drop(turns);
    };
    let (answer, ()) = tokio::join!(create, others);
    assert_eq!(answer.json()["code_hash"], inline["code_hash"], "it is what was there then");
}

#[tokio::test]
async fn a_body_that_memory_has_no_room_for_is_refused_for_now() {
    let fixture = Fixture::new().await;
    fixture.create("hello").await;
    let everything = fixture.api.bodies.hold(256 * 1024 * 1024).unwrap();
    for (method, path) in [
        (Method::POST, "/functions/hello/invoke"),
        (Method::PUT, "/functions/hello/code"),
        (Method::PATCH, "/functions/hello"),
        (Method::POST, "/functions"),
        (Method::PUT, "/secrets/token"),
    ] {
        let answer = fixture.send(method, path, vec![b' '; 16 * 1024]).await;
        assert_eq!(answer.problem().1, "saturated", "{path}");
        assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (429, "1"), "{path}");
    }
    let call = fixture.post("/functions/hello/invoke", json!({ "small": true })).await;
    assert_eq!(call.status, StatusCode::OK, "{:?}", call.json());
    drop(everything);
    let code = vec![b'#'; 16 * 1024];
    assert_eq!(put(&fixture, tar_gz(&[("handler", &code)], &[])).await.status, StatusCode::OK);
}
