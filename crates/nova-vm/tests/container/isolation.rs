//! What a function finds around it, and what it cannot do.
use crate::rig::{Rig, output, possible};
use nova_proto::SecretFile;
use nova_vm::VmDriver;
use serde_json::Value;

/// Runs a script that prints one word per line and returns the words.
async fn words(rig: &Rig, script: &str) -> Vec<String> {
    let quoted = format!(
        r#"{{ {script}; }} 2>&1 | tr -d '"\\' | {{ printf '"'; while IFS= read -r l; do printf '%s;' "$l"; done; printf '"'; }}"#
    );
    let vm = rig.boot(&quoted).await;
    let text = output(&*vm, "0").await;
    vm.stop().await;
    let value: Value = serde_json::from_str(&text).unwrap();
    let text = value.as_str().unwrap().to_owned();
    text.split_terminator(';').map(str::to_owned).collect()
}

#[tokio::test]
async fn a_function_is_an_ordinary_user_without_privileges() {
    if !possible() {
        return;
    }
    let rig = Rig::new();
    let found = words(&rig, "id -u; id -g; grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\\t '").await;
    assert_eq!(&found[..2], ["1000", "1000"]);
    assert!(found.contains(&"CapEff:0000000000000000".to_owned()), "{found:?}");
    assert!(found.contains(&"NoNewPrivs:1".to_owned()), "{found:?}");
    assert!(found.contains(&"Seccomp:2".to_owned()), "{found:?}");
    rig.finish().await;
}

#[tokio::test]
async fn a_function_cannot_write_but_to_tmp() {
    if !possible() {
        return;
    }
    let rig = Rig::new();
    let script = "for d in / /code /var/task /etc /run /nova /dev /bin /tmp /dev/shm; do \
                  if touch $d/x 2>/dev/null; then echo $d; fi; done";
    assert_eq!(words(&rig, script).await, ["/tmp", "/dev/shm"]);
    rig.finish().await;
}

#[tokio::test]
async fn a_function_cannot_reach_the_agent_or_its_cgroups() {
    if !possible() {
        return;
    }
    let rig = Rig::new();
    let script = "ls /nova || echo closed; nc local:/nova/agent.sock </dev/null || echo refused; \
                  ls /sys; cat /proc/1/environ || echo hidden; kill -9 1 || echo spared; \
                  ls /proc/1/fd || echo hidden";
    let found = words(&rig, script).await;
    for word in ["closed", "refused", "hidden", "spared"] {
        assert!(found.contains(&word.to_owned()), "{word}: {found:?}");
    }
    rig.finish().await;
}

#[tokio::test]
async fn a_function_cannot_make_namespaces_or_mounts() {
    if !possible() {
        return;
    }
    let rig = Rig::new();
    for attempt in [
        "unshare -U sh -c 'echo done'",
        "unshare -m sh -c 'echo done'",
        "mount -t tmpfs x /tmp && echo done",
        "chroot / sh -c 'echo done'",
    ] {
        let found = words(&rig, &format!("busybox {attempt}; echo end")).await;
        let refused = ["not permitted", "denied"].iter().any(|word| found[0].contains(word));
        assert!(refused, "{attempt}: {found:?}");
        assert_eq!(found[1..], ["end"], "{attempt}");
    }
    rig.finish().await;
}

#[tokio::test]
async fn without_a_network_there_is_only_loopback() {
    if !possible() {
        return;
    }
    let rig = Rig::new();
    let found = words(&rig, "tail -n +3 /proc/net/dev | tr -d ' '").await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("lo:"));
    rig.finish().await;
}

#[tokio::test]
async fn tmp_ends_at_its_limit() {
    if !possible() {
        return;
    }
    let rig = Rig::new();
    let script = "dd if=/dev/zero of=/tmp/a bs=1024k count=7 2>/dev/null && echo fits; \
                  dd if=/dev/zero of=/tmp/b bs=1024k count=7 2>/dev/null || echo full";
    assert_eq!(words(&rig, script).await, ["fits", "full"]);
    rig.finish().await;
}

#[tokio::test]
async fn code_is_there_under_both_names_and_secrets_are_files() {
    if !possible() {
        return;
    }
    let rig = Rig::new();
    let script = r#"[ "$PWD" = /code ] && [ -x /var/task/handler ] && cat /run/nova/secrets/token"#;
    let mut spec = rig.spec(script);
    let value = br#""hush""#.to_vec();
    spec.setup.secrets = vec![SecretFile { name: "token".into(), value }];
    let vm = rig.driver.boot(spec).await.unwrap();
    assert_eq!(output(&*vm, "0").await, r#""hush""#);
    vm.stop().await;
    rig.finish().await;
}

#[tokio::test]
async fn nothing_of_the_hosts_environment_reaches_a_function() {
    if !possible() {
        return;
    }
    let rig = Rig::new();
    let found = words(&rig, "env").await;
    for word in &found {
        let name = word.split('=').next().unwrap_or_default();
        let expected = name.starts_with("NOVA_")
            || ["PATH", "PWD", "SHLVL", "TRACEPARENT", "HOME", "LANG"].contains(&name);
        assert!(expected, "{found:?}");
    }
    rig.finish().await;
}
