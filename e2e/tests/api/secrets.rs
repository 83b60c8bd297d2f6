//! Secrets reach the function they are for and nothing else.
use nova_e2e::{Nova, eventually};
use serde_json::json;

/// SHA-256 of the secret in the first test: the function must not answer with the value itself.
const VALUE_SHA256: &str = "b085640ea382c89f4133323552bbfb7ebfb61a8088d3d7cc97cdff2e69c11217";

#[tokio::test]
async fn a_secret_reaches_the_function_and_no_answer_of_nova() {
    let nova = Nova::from_env();
    let value = "s3cret-value-of-the-end-to-end-suite";
    let name = format!("e2e-token-{}", std::process::id());
    nova.put(&format!("/secrets/{name}"), &json!({"value": value})).await.ok();
    let code = "import hashlib, json, os, sys
value = os.environ['TOKEN']
print('the token has', len(value), 'characters', file=sys.stderr)
path = '/run/nova/secrets/' + os.environ['SECRET_NAME']
print(json.dumps({
    'sha256': hashlib.sha256(value.encode()).hexdigest(), 'file': open(path).read() == value,
    'mode': oct(os.stat(path).st_mode & 0o777),
}))
";
    let fields = json!({
        "env_vars": {"TOKEN": format!("$SECRET:{name}"), "SECRET_NAME": name}, "secrets": [name],
    });
    let function = nova.function("python", code, fields).await;
    let answer = function.call(&json!({})).await;
    assert_eq!(answer["output"]["file"], true, "{answer}");
    assert_eq!(answer["output"]["mode"], "0o400");
    assert_eq!(answer["output"]["sha256"], VALUE_SHA256, "the function got the value");
    // Records and log lines are written in batches: what is looked through has to be there.
    let request_id = answer["request_id"].as_str().unwrap().to_owned();
    for (path, part) in [
        (function.path("/logs"), "the token has 36 characters"),
        ("/invocations?limit=50".to_owned(), request_id.as_str()),
    ] {
        eventually(&format!("{path} holds the call"), async || {
            nova.get(&path).await.text.contains(part).then_some(())
        })
        .await;
    }
    for path in [
        function.path(""),
        function.path("/logs"),
        format!("/secrets/{name}"),
        "/secrets".to_owned(),
        "/invocations?limit=50".to_owned(),
        "/stats".to_owned(),
        "/functions".to_owned(),
    ] {
        let shown = nova.get(&path).await;
        assert!(shown.status.is_success(), "{path}: {}", shown.text);
        assert!(!shown.text.contains(value), "{path} shows the secret");
    }
    let shown = nova.get(&function.path("")).await.ok();
    assert_eq!(shown["env_vars"]["TOKEN"], format!("$SECRET:{name}"));
    function.delete().await;
    nova.delete(&format!("/secrets/{name}")).await.ok();
}

#[tokio::test]
async fn a_new_value_is_what_the_next_call_sees() {
    let nova = Nova::from_env();
    let name = format!("e2e-rotated-{}", std::process::id());
    let path = format!("/secrets/{name}");
    nova.put(&path, &json!({"value": "one"})).await.ok();
    let code = "import json, os\nprint(json.dumps(os.environ['TOKEN']))\n";
    let fields = json!({"env_vars": {"TOKEN": format!("$SECRET:{name}")}});
    let function = nova.function("python", code, fields).await;
    assert_eq!(function.output(&json!({})).await, "one");
    nova.put(&path, &json!({"value": "two"})).await.ok();
    assert_eq!(function.output(&json!({})).await, "two");
    eventually("the VM with the old value is gone", async || {
        (function.vm_states().await == ["idle"]).then_some(())
    })
    .await;
    function.delete().await;
    nova.delete(&path).await.ok();
}

#[tokio::test]
async fn another_functions_secret_is_refused_at_create() {
    let nova = Nova::from_env();
    let name = format!("e2e-scoped-{}", std::process::id());
    let body = json!({"value": "x", "functions": ["payments"]});
    nova.put(&format!("/secrets/{name}"), &body).await.ok();
    let create = |secret: String| {
        json!({"name": "intruder", "runtime": "python", "code": "print(1)",
               "env_vars": {"T": format!("$SECRET:{secret}")}})
    };
    nova.post("/functions", &create(name.clone())).await.problem(403, "secret_forbidden");
    let missing = nova.post("/functions", &create("e2e-no-such".into())).await;
    let problem = missing.problem(400, "invalid_field");
    assert!(problem.to_string().contains("nova secret set e2e-no-such"), "{problem}");
    nova.delete(&format!("/secrets/{name}")).await.ok();
}
