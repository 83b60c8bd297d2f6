//! A changed function: the next call runs the change, the running one finishes as it began.
use nova_e2e::{Nova, eventually};
use serde_json::{Value, json};

fn prints(text: &str) -> String {
    format!(
        "import os, json\nprint(json.dumps([{text:?}, os.environ.get('COLOUR'), os.environ['NOVA_MEMORY_MB']]))\n"
    )
}

#[tokio::test]
async fn changed_code_environment_and_memory_are_what_the_next_call_runs() {
    let nova = Nova::from_env();
    let fields = json!({"env_vars": {"COLOUR": "red"}, "memory_mb": 128});
    let function = nova.function("python", &prints("one"), fields).await;
    assert_eq!(function.output(&json!({})).await, json!(["one", "red", "128"]));
    function.update(&json!({"code": prints("two")})).await;
    assert_eq!(function.output(&json!({})).await, json!(["two", "red", "128"]));
    function.update(&json!({"env_vars": {"COLOUR": "blue"}})).await;
    assert_eq!(function.output(&json!({})).await, json!(["two", "blue", "128"]));
    function.update(&json!({"memory_mb": 192})).await;
    assert_eq!(function.output(&json!({})).await, json!(["two", "blue", "192"]));
    eventually("the VMs of old revisions are gone", async || {
        (function.vm_states().await == ["idle"]).then_some(())
    })
    .await;
    function.delete().await;
}

#[tokio::test]
async fn a_call_in_flight_finishes_on_the_code_it_began_with() {
    let nova = Nova::from_env();
    let slow = "import time\nimport sys, json
if json.load(open(sys.argv[1])) == 'slow':
    time.sleep(8)
print('\"old\"')\n";
    let function = nova.function("python", slow, json!({})).await;
    function.call(&json!("quick")).await;
    let (path, in_flight) = (function.path("/invoke"), nova.clone());
    let call = tokio::spawn(async move { in_flight.post(&path, &json!("slow")).await.ok() });
    eventually("the call runs", async || (function.vm_states().await == ["busy"]).then_some(()))
        .await;
    function.update(&json!({"code": "print('\"new\"')"})).await;
    assert_eq!(function.output(&json!("quick")).await, "new");
    let finished: Value = call.await.unwrap();
    assert_eq!(finished["output"], "old");
    function.delete().await;
}

#[tokio::test]
async fn a_deleted_function_leaves_no_vm_and_answers_404() {
    let nova = Nova::from_env();
    let function = nova.function("python", "print(1)", json!({})).await;
    function.call(&json!({})).await;
    let name = function.name.clone();
    function.delete().await;
    nova.post(&format!("/functions/{name}/invoke"), &json!({}))
        .await
        .problem(404, "function_not_found");
    eventually("its VM is gone", async || {
        let stats = nova.get("/stats").await.ok();
        let vms = stats["vms"].as_array().unwrap().clone();
        vms.iter().all(|vm| vm["function"] != name.as_str()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_name_used_again_is_another_function() {
    let nova = Nova::from_env();
    let first = nova.function("python", "print('\"first\"')", json!({})).await;
    first.call(&json!({})).await;
    let name = first.name.clone();
    first.delete().await;
    let body = json!({"name": name, "runtime": "python", "code": "print('\"second\"')"});
    nova.post("/functions", &body).await.ok();
    let answer = nova.post(&format!("/functions/{name}/invoke"), &json!({})).await.ok();
    assert_eq!((&answer["output"], &answer["start"]), (&json!("second"), &json!("cold")));
    nova.post("/functions", &body).await.problem(409, "function_exists");
    nova.delete(&format!("/functions/{name}")).await;
}
