//! Packages that code lists are installed in a guest when it is deployed: from indexes on a server that only
//! the guest's network leads to, for pip and npm.
use crate::network::{Internet, PUBLIC};
use crate::{call, scratch};
use base64::{Engine, engine::general_purpose::STANDARD};
use nova_e2e::daemon::{Daemon, DaemonOptions};
use nova_e2e::eventually;
use serde_json::{Value, json};
use sha2::{Digest, Sha256, Sha512};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Cursor, Write};
use std::net::TcpListener;

/// Where the indexes listen.
const PORT: u16 = 8081;

/// A wheel of one module, as an index has it.
fn wheel() -> Vec<u8> {
    let module = "def greet(name):\n    return f'Hello, {name}, from a wheel'\n";
    let about = "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n";
    let kind = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n";
    let record = "greeting.py,,\ngreeting-1.0.dist-info/METADATA,,\ngreeting-1.0.dist-info/WHEEL,,\n\
                  greeting-1.0.dist-info/RECORD,,\n";
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, text) in [
        ("greeting.py", module),
        ("greeting-1.0.dist-info/METADATA", about),
        ("greeting-1.0.dist-info/WHEEL", kind),
        ("greeting-1.0.dist-info/RECORD", record),
    ] {
        archive.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        archive.write_all(text.as_bytes()).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

/// A tar.gz of these files.
fn tarball(files: &[(&str, &str)]) -> Vec<u8> {
    let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    let mut tar = tar::Builder::new(gzip);
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(text.len() as u64);
        tar.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}

/// A package of npm.
fn npm_package() -> Vec<u8> {
    tarball(&[
        ("package/package.json", r#"{"name": "greeting", "version": "1.0.0", "main": "index.js"}"#),
        ("package/index.js", "exports.greet = (name) => `Hello, ${name}, from npm`;\n"),
    ])
}

/// What the server has, by path.
fn indexes() -> BTreeMap<String, Vec<u8>> {
    let (wheel, package) = (wheel(), npm_package());
    let sha256 = hex::encode(Sha256::digest(&wheel));
    let name = "greeting-1.0-py3-none-any.whl";
    let page = format!("<!DOCTYPE html><a href=\"/files/{name}#sha256={sha256}\">{name}</a>");
    BTreeMap::from([
        ("/simple/greeting/".to_owned(), page.into_bytes()),
        (format!("/files/{name}"), wheel),
        ("/greeting/-/greeting-1.0.0.tgz".to_owned(), package),
    ])
}

/// Answers each request for one of the files, and 404 to all others.
fn serve(listener: TcpListener, files: BTreeMap<String, Vec<u8>>) {
    std::thread::spawn(move || {
        for connection in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(&connection);
            let mut request = String::new();
            reader.read_line(&mut request).ok();
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|length| length > 2) {
                line.clear();
            }
            let path = request.split(' ').nth(1).unwrap_or_default();
            let (status, body) = match files.get(path) {
                Some(body) => ("200 OK", &body[..]),
                None => ("404 Not Found", &b"no"[..]),
            };
            let html = if path.ends_with('/') { "text/html" } else { "application/octet-stream" };
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Type: {html}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            (&connection).write_all(head.as_bytes()).ok();
            (&connection).write_all(body).ok();
        }
    });
}

/// Deploys these files; the function when its build is done.
async fn deploy(daemon: &Daemon, name: &str, runtime: &str, files: &[(&str, &str)]) -> Value {
    let code = json!({"archive": STANDARD.encode(tarball(files))});
    let body = json!({"name": name, "runtime": runtime, "code": code, "timeout_s": 60});
    assert_eq!(daemon.nova.post("/functions", &body).await.ok()["status"], "pending");
    eventually("the build is done", async || {
        let function = daemon.nova.get(&format!("/functions/{name}")).await.ok();
        (function["build"]["status"] != "pending").then_some(function)
    })
    .await
}

#[test]
fn the_packages_of_python_and_node_are_installed_when_code_is_deployed() {
    let internet = Internet::new("p");
    serve(internet.listen(PORT), indexes());
    internet.in_machine(async move || {
        let home = scratch();
        let data = home.path().join("data");
        let index = format!(
            "PIP_INDEX_URL=http://{PUBLIC}:{PORT}/simple,PIP_TRUSTED_HOST={PUBLIC},\
             NPM_CONFIG_REGISTRY=http://{PUBLIC}:{PORT}/"
        );
        let allow = format!("{PUBLIC}/32");
        let environment = [("NOVA_BUILD_ENV", index.as_str()), ("NOVA_BUILD_ALLOW", &allow)];
        let options = DaemonOptions { environment: &environment, ..DaemonOptions::new(&data) };
        let daemon = options.start().await;

        let python = "import json, os, sys, greeting\n\
                      compiled = os.path.exists(greeting.__cached__)\n\
                      print(json.dumps([greeting.greet('Ada'), compiled]))\n";
        let files = [("handler", python), ("requirements.txt", "greeting==1.0\n")];
        let built = deploy(&daemon, "py", "python", &files).await;
        assert_eq!(built["status"], "ready", "{built}");
        assert!(built["build"]["log"].to_string().contains("Successfully installed greeting-1.0"));
        let answer = call(&daemon, "py", json!(null)).await;
        assert_eq!(answer, json!(["Hello, Ada, from a wheel", true]));

        // The same once more is not fetched again.
        let again = deploy(&daemon, "py-again", "python", &files).await;
        assert!(again["build"]["log"].to_string().contains("built before"), "{again}");
        assert_eq!(again["code_hash"], built["code_hash"]);

        let missing = [("handler", python), ("requirements.txt", "nothing-of-this-name\n")];
        let failed = deploy(&daemon, "py-missing", "python", &missing).await;
        assert_eq!(failed["status"], "failed");
        let error = failed["build"]["error"].as_str().unwrap();
        assert!(error.contains("nothing-of-this-name"), "{error}");

        let integrity = format!("sha512-{}", STANDARD.encode(Sha512::digest(npm_package())));
        let lock = json!({
            "name": "hello", "version": "1.0.0", "lockfileVersion": 3,
            "packages": {
                "": {"name": "hello", "version": "1.0.0", "dependencies": {"greeting": "1.0.0"}},
                "node_modules/greeting": {
                    "version": "1.0.0", "integrity": integrity,
                    "resolved": format!("http://{PUBLIC}:{PORT}/greeting/-/greeting-1.0.0.tgz"),
                },
            },
        });
        let about =
            json!({"name": "hello", "version": "1.0.0", "dependencies": {"greeting": "1.0.0"}});
        let node = "console.log(JSON.stringify(require('greeting').greet('Ada')))\n";
        let files = [
            ("handler", node),
            ("package.json", &about.to_string()),
            ("package-lock.json", &lock.to_string()),
        ];
        let built = deploy(&daemon, "js", "node", &files).await;
        assert_eq!(built["status"], "ready", "{built}");
        assert_eq!(call(&daemon, "js", json!(null)).await, json!("Hello, Ada, from npm"));
        assert!(daemon.terminate().success());
    });
}
