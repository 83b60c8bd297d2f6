//! A secret's value is in no file that Nova keeps.
use crate::{call, create, scratch};
use nova_e2e::daemon::DaemonOptions;
use nova_e2e::eventually;
use serde_json::json;
use std::path::Path;

#[tokio::test]
async fn no_file_of_the_daemon_holds_a_secret_in_clear() {
    let home = scratch();
    let data = home.path().join("data");
    let daemon = DaemonOptions::new(&data).start().await;
    let value = "a-marker-that-is-nowhere-else-7f3a";
    daemon.nova.put("/secrets/api", &json!({"value": value})).await.ok();
    let marker = "a-line-in-the-log-that-is-nowhere-else-91c2";
    let code = format!(
        "import json, os, sys\nprint('{marker}', file=sys.stderr)\n\
         print(json.dumps(len(os.environ['KEY'])))\n"
    );
    let fields = json!({"env_vars": {"KEY": "$SECRET:api"}, "secrets": ["api"]});
    create(&daemon, "user", &code, fields).await;
    for _ in 0..3 {
        assert_eq!(call(&daemon, "user", json!({})).await, value.len());
    }
    eventually("what the function logs is in the database", async || {
        (!files_with(home.path(), marker).is_empty()).then_some(())
    })
    .await;
    // While the guest lives, and after everything was written out.
    assert_eq!(files_with(home.path(), value), [""; 0]);
    assert!(!daemon.log().contains(value));
    assert!(daemon.terminate().success());
    assert_eq!(files_with(home.path(), value), [""; 0]);
}

#[tokio::test]
async fn keys_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let home = scratch();
    let data = home.path().join("data");
    let daemon = DaemonOptions::new(&data).start().await;
    for name in ["admin.key", "master.key"] {
        let mode = std::fs::metadata(data.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let key = daemon.nova.key().to_owned();
    let secret = key.rsplit('_').next().unwrap().to_owned();
    assert!(daemon.terminate().success());
    std::fs::remove_file(data.join("admin.key")).unwrap();
    let log = home.path().join("data.log");
    std::fs::remove_file(log).unwrap();
    let id = key.split('_').nth(1).unwrap();
    assert!(!files_with(home.path(), id).is_empty(), "the store knows the key");
    assert_eq!(files_with(home.path(), &secret), [""; 0], "the store holds only its hash");
}

/// Regular files below `directory` that contain `text`; mounts and sockets are not looked into. A file
/// that goes away meanwhile holds nothing; any other that cannot be read fails the test.
fn files_with(directory: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in unless_gone(directory, std::fs::read_dir(directory)).into_iter().flatten() {
        let path = entry.unwrap().path();
        let Some(metadata) = unless_gone(&path, path.symlink_metadata()) else { continue };
        if metadata.is_dir() {
            found.extend(files_with(&path, text));
        } else if metadata.is_file() {
            let content = unless_gone(&path, std::fs::read(&path)).unwrap_or_default();
            if content.windows(text.len()).any(|window| window == text.as_bytes()) {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

fn unless_gone<T>(path: &Path, result: std::io::Result<T>) -> Option<T> {
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        result => Some(result.unwrap_or_else(|error| panic!("{}: {error}", path.display()))),
    }
}
