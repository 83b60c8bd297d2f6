//! A secret's value is in no file that Nova keeps.
use crate::{call, create, scratch};
use nova_e2e::daemon::DaemonOptions;
use serde_json::json;
use std::path::Path;

#[tokio::test]
async fn no_file_of_the_daemon_holds_a_secret_in_clear() {
    let home = scratch();
    let data = home.path().join("data");
    let daemon = DaemonOptions::new(&data).start().await;
    let value = "a-marker-that-is-nowhere-else-7f3a";
    daemon.nova.put("/secrets/api", &json!({"value": value})).await.ok();
    let code = "import json, os\nprint(json.dumps(len(os.environ['KEY'])))\n";
    let fields = json!({"env_vars": {"KEY": "$SECRET:api"}, "secrets": ["api"]});
    create(&daemon, "user", code, fields).await;
    for _ in 0..3 {
        assert_eq!(call(&daemon, "user", json!({})).await, value.len());
    }
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
    assert_eq!(files_with(home.path(), &secret), [""; 0], "the store holds only its hash");
}

/// Regular files below `directory` that contain `text`; mounts and sockets are not looked into.
fn files_with(directory: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            found.extend(files_with(&entry.path(), text));
        } else if kind.is_file() {
            let content = std::fs::read(entry.path()).unwrap_or_default();
            if content.windows(text.len()).any(|window| window == text.as_bytes()) {
                found.push(entry.path().display().to_string());
            }
        }
    }
    found
}
