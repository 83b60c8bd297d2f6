//! Layers: what functions share at `/opt`.
use super::bad_input::tar_gz;
use nova_e2e::{Nova, cli};
use reqwest::Method;
use serde_json::{Value, json};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

/// Says what it finds of its layers.
const LOOK: &str = "import json, os, subprocess
import shared
def read(path):
    try:
        return open(path).read()
    except OSError as error:
        return error.strerror
try:
    open('/opt/new', 'w')
    written = True
except OSError:
    written = False
print(json.dumps({'shared': shared.WORD, 'tool': subprocess.run(['tool'], capture_output=True, text=True).stdout.strip(),
                  'both': read('/opt/both'), 'written': written}))
";

/// A name that no other test has.
fn unique(what: &str) -> String {
    format!("e2e-{what}-{}", std::process::id())
}

/// Uploads a layer of these files.
async fn publish(nova: &Nova, name: &str, files: &[(&str, &[u8], u32)]) -> Value {
    let request = nova.request(Method::PUT, &format!("/layers/{name}")).body(tar_gz(files));
    nova.send(request).await.ok()
}

fn module(word: &str) -> String {
    format!("WORD = '{word}'\n")
}

#[tokio::test]
async fn layers_lie_over_each_other_and_a_function_keeps_what_it_was_given() {
    let nova = Nova::from_env();
    let (first, second) = (unique("first"), unique("second"));
    let one = module("one");
    let made = publish(
        &nova,
        &first,
        &[("python/shared.py", one.as_bytes(), 0o644), ("both", b"first", 0o644)],
    )
    .await;
    assert_eq!((&made["version"], &made["name"]), (&json!(1), &json!(first)), "{made}");
    publish(
        &nova,
        &second,
        &[("bin/tool", b"#!/bin/sh\necho tooled\n", 0o755), ("both", b"second", 0o644)],
    )
    .await;
    let function = nova.function("python", LOOK, json!({"layers": [first, second]})).await;
    let expected = |shared: &str, both: &str| json!({"shared": shared, "tool": "tooled", "both": both, "written": false});
    assert_eq!(function.output(&json!({})).await, expected("one", "second"));

    let two = module("two");
    let again = publish(
        &nova,
        &first,
        &[("python/shared.py", two.as_bytes(), 0o644), ("both", b"first", 0o644)],
    )
    .await;
    assert_eq!(again["version"], 2, "{again}");
    function.update(&json!({"memory_mb": 160})).await;
    assert_eq!(
        function.output(&json!({})).await,
        expected("one", "second"),
        "it keeps what it has"
    );
    function.update(&json!({"layers": [second, first]})).await;
    assert_eq!(function.output(&json!({})).await, expected("two", "first"));
    let shown = nova.get(&function.path("")).await.ok();
    assert_eq!(shown["layers"][1], json!({"name": first, "hash": again["hash"]}), "{shown}");

    let used = nova.delete(&format!("/layers/{first}")).await.problem(409, "layer_in_use");
    assert!(used["detail"].as_str().unwrap().contains(&function.name), "{used}");
    function
        .update(
            &json!({"layers": [second], "code": "import os\nprint(os.path.exists('/opt/python'))"}),
        )
        .await;
    let failed = function.failure(&json!({}), "invalid_output").await;
    assert!(failed["message"].as_str().unwrap().contains("False"), "{failed}");
    nova.delete(&format!("/layers/{first}")).await.ok();
    function.delete().await;
    nova.delete(&format!("/layers/{second}")).await.ok();
}

#[tokio::test]
async fn what_cannot_be_a_layer_is_refused() {
    let nova = Nova::from_env();
    let function = |layers: Value| json!({"name": "e2e-layers", "runtime": "python", "code": "print(1)", "layers": layers});
    for (layers, field, part) in [
        (json!(["no-such-layer"]), "layers[0]", "nova layer publish"),
        (json!(["../etc"]), "layers[0]", "letters, digits"),
        (json!(["a", "b", "c", "d", "e", "f"]), "layers", "at most 5"),
    ] {
        let problem =
            nova.post("/functions", &function(layers)).await.problem(400, "invalid_field");
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
        assert!(problem["errors"][0]["hint"].as_str().unwrap().contains(part), "{problem}");
    }
    let request = nova.request(Method::PUT, "/layers/odd").body("no archive");
    nova.send(request).await.problem(400, "invalid_code");
    nova.get("/layers/no-such-layer").await.problem(404, "layer_not_found");
    nova.delete("/layers/no-such-layer").await.problem(404, "layer_not_found");
}

#[tokio::test]
async fn the_command_line_publishes_a_directory_and_a_layer_may_bring_the_bootstrap() {
    let home = tempfile::tempdir().unwrap();
    let bootstrap = "#!/bin/sh
api=\"http://$AWS_LAMBDA_RUNTIME_API/2018-06-01/runtime/invocation\"
while true; do
    wget -q -S -O /tmp/event \"$api/next\" 2>/tmp/headers || exit 1
    id=$(sed -n 's/^ *Lambda-Runtime-Aws-Request-Id: *//p' /tmp/headers | tr -d '\\r')
    wget -q -O /dev/null --post-data \"\\\"from $0 in $(ls /var/task)\\\"\" \"$api/$id/response\" || exit 1
done
";
    fs::write(home.path().join("bootstrap"), bootstrap).unwrap();
    fs::set_permissions(home.path().join("bootstrap"), Permissions::from_mode(0o755)).unwrap();
    let code = home.path().join("data.txt");
    fs::write(&code, "data").unwrap();
    let (layer, function) = (unique("custom"), unique("custom-function"));
    let run = |arguments: &[&str]| {
        let output = cli(arguments);
        assert_eq!(output.status, 0, "{arguments:?}: {output:?}");
        output.stdout
    };
    run(&["layer", "publish", &layer, home.path().to_str().unwrap()]);
    assert!(run(&["layer", "list"]).contains(&layer));
    let code = code.to_str().unwrap();
    let register = ["register", &function, "-r", "base", "--mode", "lambda", "-c", code];
    run(&[&register[..], &["-H", "data.handler", "--layer", &layer]].concat());
    assert_eq!(run(&["invoke", &function]), "\"from /opt/bootstrap in data.txt\"\n");
    let refused = cli(&["layer", "delete", &layer]);
    assert!(refused.status == 1 && refused.stderr.contains("[layer_in_use]"), "{refused:?}");
    run(&["delete", &function]);
    run(&["layer", "delete", &layer]);
}
