//! Images of people's own: from a real registry, a layout and an archive to calls, in each of the three ways
//! in which they may be started.
use crate::{call, scratch};
use nova_e2e::daemon::{Daemon, DaemonOptions};
use nova_e2e::own_image::{Images, PASSWORD, Registry, USERNAME, host_tool};
use nova_e2e::{rust_function, setting};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output};

/// Counts its input, and says what else it was given.
const BATCH: &[u8] = b"#!/bin/sh
for last; do :; done
echo \"greeting is $GREETING\" >&2
echo \"{\\\"first\\\": \\\"$1\\\", \\\"stdin\\\": $(cat), \\\"file\\\": $(cat \"$last\"), \\\"uid\\\": $(id -u), \
\\\"cwd\\\": \\\"$PWD\\\", \\\"there\\\": \\\"$(ls /data)\\\"}\"
";

/// The command line, on the data directory and the daemon of a test.
fn nova(daemon: &Daemon, data: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(setting("NOVA_BIN"))
        .args(arguments)
        .arg("--data-dir")
        .arg(data)
        .env("NOVA_URL", daemon.nova.url())
        .env("NOVA_API_KEY", daemon.nova.key())
        // No login of the machine's own.
        .env("DOCKER_CONFIG", data)
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

/// The same; it must succeed. Returns what it printed.
#[track_caller]
fn nova_ok(daemon: &Daemon, data: &Path, arguments: &[&str]) -> String {
    let output = nova(daemon, data, arguments, &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A static HTTP server.
fn server(place: &Path) -> Vec<u8> {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/host/own_image/server.c");
    let binary = place.join("server").display().to_string();
    host_tool("cc", &["-O2", "-static", "-o", &binary, source]);
    std::fs::read(binary).unwrap()
}

fn batch_image(images: &Images) {
    let busybox = std::fs::read("/bin/busybox").expect("busybox-static is installed");
    let sh = b"#!/bin/busybox sh\n";
    let applet =
        |name: &str| [sh, &b"exec /bin/busybox "[..], name.as_bytes(), b" \"$@\"\n"].concat();
    let files: [(&str, &[u8]); 8] = [
        ("/bin/busybox", &busybox),
        ("/bin/sh", &busybox),
        ("/bin/cat", &applet("cat")),
        ("/bin/id", &applet("id")),
        ("/bin/ls", &applet("ls")),
        ("/app/batch", BATCH),
        ("/data/kept", b"kept"),
        ("/data/removed", b"removed"),
    ];
    let config = [
        "--config.entrypoint=/app/batch",
        "--config.cmd=one",
        "--config.env=GREETING=hello",
        "--config.env=PATH=/bin",
        "--config.workingdir=/app/work",
        "--config.user=4242",
    ];
    images.make("batch", &files, &config);
    images.whiteout("batch", "/data/removed");
}

#[tokio::test]
async fn an_image_of_a_registry_is_run_as_it_says_of_itself() {
    let home = scratch();
    let data = home.path().join("data");
    let images = Images::new(home.path());
    batch_image(&images);
    let server = server(home.path());
    images.make(
        "server",
        &[("/server", &server)],
        &["--config.entrypoint=/server", "--config.exposedports=9095/tcp"],
    );
    let function = rust_function();
    images.make(
        "lambda",
        &[("/var/task/main", &function)],
        &["--config.entrypoint=/var/task/main", "--config.env=LAMBDA_TASK_ROOT=/var/task"],
    );
    let registry = Registry::start(home.path()).await;
    registry.push(&images, "batch", "team/batch:1", "gzip");
    registry.push(&images, "server", "server:1", "zstd");
    let manifest = registry.manifest("server:1");
    assert!(manifest.contains("tar+zstd"), "{manifest}");
    registry.push(&images, "lambda", "lambda:1", "gzip");
    let daemon = DaemonOptions::new(&data).start().await;
    let name = |name: &str| format!("{}/{name}", registry.address);

    // Without its password it gives nothing, and says what is wanted.
    let refused = nova(&daemon, &data, &["runtime", "import", &name("team/batch:1")], &[]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("--registry-username"), "{said}");
    let login = [("NOVA_REGISTRY_USERNAME", USERNAME), ("NOVA_REGISTRY_PASSWORD", PASSWORD)];
    let import = ["runtime", "import", &name("team/batch:1")];
    let imported = nova(&daemon, &data, &import, &login);
    let said = String::from_utf8_lossy(&imported.stdout).into_owned();
    assert!(said.starts_with("batch ") && said.contains("mode process"), "{said}{imported:?}");
    let (_, digest) = said.trim().split_once('@').unwrap();

    // As docker keeps a login.
    let auth = json!({"auths": {&registry.address: {"auth": "YWRhOmNvcnJlY3QgaG9yc2U="}}});
    std::fs::write(data.join("config.json"), auth.to_string()).unwrap();
    let pinned = format!("{}@{digest}", name("team/batch"));
    nova_ok(&daemon, &data, &["runtime", "import", &pinned, "--id", "pinned"]);
    let wrong = format!("{}@sha256:{}", name("team/batch"), "0".repeat(64));
    assert!(!nova(&daemon, &data, &["runtime", "import", &wrong], &[]).status.success());

    // A batch command: a process per call.
    nova_ok(&daemon, &data, &["register", "batch", "-r", "batch"]);
    let output = call(&daemon, "batch", json!({"n": 7})).await;
    let expected = json!({"first": "one", "stdin": {"n": 7}, "file": {"n": 7}, "uid": 1000,
        "cwd": "/app/work", "there": "kept"});
    assert_eq!(output, expected);

    // A server: one process, found by its port.
    nova_ok(&daemon, &data, &["register", "server", "--image", &name("server:1")]);
    let about = daemon.nova.get("/functions/server").await.ok();
    let runtime = about["runtime"].as_str().unwrap().to_owned();
    assert_eq!(about["mode"], "http", "{about}");
    assert!(runtime.starts_with("server-") && runtime.len() == "server-".len() + 12, "{runtime}");
    let first = call(&daemon, "server", json!({"n": 1})).await;
    let second = call(&daemon, "server", json!({"n": 2})).await;
    assert_eq!(first, json!({"calls": 1, "uid": 1000, "cwd": "/", "input": {"n": 1}}));
    assert_eq!(second["calls"], 2);
    let failed = daemon.nova.post("/functions/server/invoke", &json!("fail")).await.ok();
    assert_eq!(failed["error"]["kind"], "function_failed", "{failed}");
    assert_eq!(failed["error"]["detail"]["statusCode"], 422, "{failed}");

    // AWS's own runtime client, and what the user says goes before what is found.
    nova_ok(&daemon, &data, &["register", "lambda", "--image", &name("lambda:1")]);
    assert_eq!(daemon.nova.get("/functions/lambda").await.ok()["mode"], "lambda");
    let output = call(&daemon, "lambda", json!({"n": 3})).await;
    assert!(output.is_object(), "{output}");
    nova_ok(&daemon, &data, &["register", "other", "-r", &runtime, "--mode", "process"]);
    assert_eq!(daemon.nova.get("/functions/other").await.ok()["mode"], "process");

    // It is a runtime like any other: listed, and removable.
    let listed = daemon.nova.get("/runtimes").await.ok();
    let items = listed["items"].as_array().unwrap();
    let batch = items.iter().find(|item| item["id"] == "batch").unwrap();
    assert_eq!((&batch["installed"], &batch["mode"]), (&json!(true), &json!("process")));
    assert!(batch["image"].as_str().unwrap().ends_with(digest), "{batch}");
    nova_ok(&daemon, &data, &["runtime", "remove", "batch"]);
    let listed = daemon.nova.get("/runtimes").await.text;
    assert!(!listed.contains(r#""id":"batch""#) && listed.contains(r#""id":"pinned""#), "{listed}");
    let gone = daemon.nova.post("/functions", &json!({"name": "b", "runtime": "batch"})).await;
    gone.problem(400, "invalid_field");
    nothing_knows_the_password(&data);
    assert!(daemon.terminate().success());
}

#[tokio::test]
async fn a_layout_and_an_archive_are_the_same_image() {
    let home = scratch();
    let data = home.path().join("data");
    let images = Images::new(home.path());
    batch_image(&images);
    let archive = images.docker_archive("batch");
    let daemon = DaemonOptions::new(&data).start().await;
    nova_ok(&daemon, &data, &["runtime", "import", &images.layout(), "--id", "layout"]);
    nova_ok(&daemon, &data, &["runtime", "import", &archive, "--id", "archive"]);
    // Functions on it would run something else.
    let other = nova(&daemon, &data, &["runtime", "import", &archive, "--id", "layout"], &[]);
    assert!(!other.status.success());
    let said = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(said.contains("nova runtime remove layout"), "{said}");
    let shipped = nova(&daemon, &data, &["runtime", "import", &archive, "--id", "python"], &[]);
    assert!(String::from_utf8_lossy(&shipped.stderr).contains("Nova ships"), "{shipped:?}");
    let digest = |id: &str| {
        let record = std::fs::read(data.join(format!("artifacts/images/{id}.json"))).unwrap();
        serde_json::from_slice::<Value>(&record).unwrap()["digest"].clone()
    };
    assert_eq!(digest("layout"), digest("archive"), "the same files give the same bytes");
    nova_ok(&daemon, &data, &["register", "batch", "-r", "archive"]);
    assert_eq!(call(&daemon, "batch", json!(1)).await["there"], "kept");
    assert!(daemon.terminate().success());
}

/// Neither records nor logs nor anything else that the daemon or the command line has written.
fn nothing_knows_the_password(data: &Path) {
    let output = Command::new("grep")
        .args(["--recursive", "--files-with-matches", "--fixed-strings", "--devices=skip"])
        .args(["--exclude=config.json", "--exclude-dir=run", PASSWORD])
        .arg(data)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
}
