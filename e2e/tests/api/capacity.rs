//! Many calls at once: limits hold, order holds, nothing leaks.
use nova_e2e::{Nova, eventually};
use serde_json::json;
use std::collections::HashSet;
use std::time::Duration;

const PYTHON_HOST: &str = "import json, socket\nprint(json.dumps(socket.gethostname()))\n";

#[tokio::test]
async fn fifty_cold_calls_share_five_vms_and_all_answer() {
    let nova = Nova::from_env();
    let fields = json!({"max_replicas": 5, "timeout_s": 300});
    let function = nova.function("python", PYTHON_HOST, fields).await;
    let payload = json!({});
    let calls = (0..50).map(|_| function.output(&payload));
    let watch = async {
        let mut most = 0;
        loop {
            most = most.max(function.vm_states().await.len());
            tokio::time::sleep(Duration::from_millis(20)).await;
            if most > 5 {
                return most;
            }
        }
    };
    let hosts: HashSet<String> = tokio::select! {
        answers = futures::future::join_all(calls) => {
            assert_eq!(answers.len(), 50);
            answers.iter().map(|host| host.as_str().unwrap().to_owned()).collect()
        }
        most = watch => panic!("{most} VMs at once for max_replicas 5"),
    };
    assert!((1..=5).contains(&hosts.len()), "{hosts:?}");
    function.delete().await;
}

#[tokio::test]
async fn vms_are_granted_in_arrival_order() {
    let nova = Nova::from_env();
    let code = "import json, sys, time
number = json.load(open(sys.argv[1]))
if number == 0:
    time.sleep(10)
with open('/tmp/order', 'a') as order:
    order.write(f'{number} ')
print(json.dumps(open('/tmp/order').read().split()))
";
    let fields = json!({"max_replicas": 1, "timeout_s": 300});
    let function = nova.function("python", code, fields).await;
    let mut calls = Vec::new();
    for number in 0..6 {
        let (caller, path) = (nova.clone(), function.path("/invoke"));
        calls.push(tokio::spawn(async move { caller.post(&path, &json!(number)).await.ok() }));
        // The next call is sent when the daemon has this one: the first runs, the others wait.
        eventually("the call has arrived", async || {
            let stats = nova.get("/stats").await.ok();
            let running = function.vm_states().await == ["busy"];
            (running && stats["waiting_calls"] == number).then_some(())
        })
        .await;
    }
    let last = calls.pop().unwrap().await.unwrap();
    assert_eq!(last["output"], json!(["0", "1", "2", "3", "4", "5"]), "{last}");
    for call in calls {
        call.await.unwrap();
    }
    function.delete().await;
}

#[tokio::test]
async fn a_caller_that_goes_away_leaks_nothing() {
    let nova = Nova::from_env();
    let code = "import json, sys, time
if json.load(open(sys.argv[1])) == 'long':
    time.sleep(1000)
print('{\"ok\": true}')
";
    let fields = json!({"max_replicas": 1, "timeout_s": 300});
    let function = nova.function("python", code, fields).await;
    function.call(&json!("warm up")).await;
    for _ in 0..3 {
        let payload = json!("long");
        tokio::select! {
            answer = function.invoke(&payload) => panic!("it was to be left: {answer:?}"),
            () = eventually("its call runs", async || {
                (function.vm_states().await == ["busy"]).then_some(())
            }) => {}
        }
        eventually("the call is over", async || {
            (function.vm_states().await == ["idle"]).then_some(())
        })
        .await;
    }
    let answer = function.call(&json!("short")).await;
    assert_eq!(answer["output"], json!({"ok": true}));
    assert_eq!(answer["start"], "warm", "the VM lives on: {answer}");
    eventually("one VM, idle", async || (function.vm_states().await == ["idle"]).then_some(()))
        .await;
    function.delete().await;
}

#[tokio::test]
async fn minimum_replicas_are_there_before_the_first_call_and_return() {
    let nova = Nova::from_env();
    let function =
        nova.function("python", PYTHON_HOST, json!({"min_replicas": 2, "max_replicas": 3})).await;
    eventually("two VMs wait", async || {
        (function.vm_states().await == ["idle", "idle"]).then_some(())
    })
    .await;
    assert_eq!(function.call(&json!({})).await["start"], "warm");
    function.delete().await;
}
