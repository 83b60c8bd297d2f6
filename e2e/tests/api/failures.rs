//! Functions that fail. Each failure has a name, and the VM is as good as before.
use nova_e2e::Nova;
use serde_json::json;

#[tokio::test]
async fn a_timeout_is_504_and_the_vm_survives() {
    let nova = Nova::from_env();
    let code = "import json, os, subprocess, sys, time
if json.load(open(sys.argv[1])) == 'hang':
    subprocess.Popen(['sleep', '1000'], start_new_session=True)
    time.sleep(1000)
procs = [p for p in os.listdir('/proc') if p.isdigit() and os.stat('/proc/' + p).st_uid == 1000]
print(json.dumps({'processes': len(procs)}))
";
    let function = nova.function("python", code, json!({"timeout_s": 10})).await;
    function.call(&json!("warm up")).await;
    let problem = function.invoke(&json!("hang")).await.problem(504, "function_timeout");
    assert!(problem["detail"].as_str().unwrap().contains("10000 ms"), "{problem}");
    let answer = function.call(&json!("again")).await;
    assert_eq!(answer["start"], "warm", "the VM survived");
    assert_eq!(answer["output"], json!({"processes": 1}), "nothing of the killed call is left");
    function.delete().await;
}

#[tokio::test]
async fn a_timeout_in_persistent_mode_restarts_the_process() {
    let nova = Nova::from_env();
    let code = "import json, sys, time
for line in sys.stdin:
    request = json.loads(line)
    if request['input'] == 'hang':
        time.sleep(1000)
    print(json.dumps({'output': request['input']}), flush=True)
";
    let fields = json!({"mode": "persistent", "timeout_s": 10});
    let function = nova.function("python", code, fields).await;
    assert_eq!(function.output(&json!(1)).await, 1);
    function.invoke(&json!("hang")).await.problem(504, "function_timeout");
    let answer = function.call(&json!(2)).await;
    assert_eq!((&answer["output"], &answer["start"]), (&json!(2), &json!("warm")));
    function.delete().await;
}

#[tokio::test]
async fn an_exit_status_is_named_with_what_was_written() {
    let nova = Nova::from_env();
    let function = nova.function("python", "raise ValueError('no such order')", json!({})).await;
    let error = function.failure(&json!({}), "function_exited").await;
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("status 1") && message.contains("no such order"), "{message}");
    function.failure(&json!({}), "function_exited").await;
    assert_eq!(function.vm_states().await, ["idle"], "the VM serves on");
    function.delete().await;
}

#[tokio::test]
async fn a_crash_is_named_by_its_signal() {
    let nova = Nova::from_env();
    let code = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n";
    let function = nova.function("python", code, json!({})).await;
    let error = function.failure(&json!({}), "function_crashed").await;
    assert!(error["message"].as_str().unwrap().contains("SIGSEGV"), "{error}");
    function.delete().await;
}

#[tokio::test]
async fn running_out_of_memory_is_named_with_the_limit() {
    let nova = Nova::from_env();
    let code = "import json, sys
hog = json.load(open(sys.argv[1]))
blocks = [bytearray(1024 * 1024) for _ in range(hog)]
print(json.dumps({'held': len(blocks)}))
";
    let function = nova.function("python", code, json!({"memory_mb": 128})).await;
    let error = function.failure(&json!(1000), "out_of_memory").await;
    assert!(error["message"].as_str().unwrap().contains("128"), "{error}");
    let answer = function.call(&json!(30)).await;
    assert_eq!(answer["output"], json!({"held": 30}));
    assert_eq!(answer["start"], "warm", "the agent and its VM survived");
    function.delete().await;
}

#[tokio::test]
async fn what_cannot_be_started_is_named_with_its_path() {
    let nova = Nova::from_env();
    let function = nova.function("base", "this is no program", json!({})).await;
    let error = function.failure(&json!({}), "function_not_started").await;
    assert!(error["message"].as_str().unwrap().contains("/code/handler"), "{error}");
    function.delete().await;
}

#[tokio::test]
async fn a_syntax_error_quotes_the_language() {
    let nova = Nova::from_env();
    let function = nova.function("python", "def broken(:\n", json!({})).await;
    let error = function.failure(&json!({}), "function_exited").await;
    assert!(error["message"].as_str().unwrap().contains("SyntaxError"), "{error}");
    function.delete().await;
}

#[tokio::test]
async fn a_fork_bomb_ends_with_its_call() {
    let nova = Nova::from_env();
    let code = "import json, os, sys
made = 0
if json.load(open(sys.argv[1])) == 'bomb':
    try:
        while True:
            if os.fork() == 0:
                os.setsid()
                import time
                time.sleep(1000)
            made += 1
    except OSError:
        pass
print(json.dumps({'made': made}))
";
    let fields = json!({"memory_mb": 512, "timeout_s": 120});
    let function = nova.function("python", code, fields).await;
    let answer = function.invoke(&json!("bomb")).await.ok();
    let stopped = answer["output"]["made"].as_u64().is_some_and(|made| made > 10)
        || answer["error"]["kind"] == "out_of_memory";
    assert!(stopped, "a limit stopped it: {answer}");
    assert_eq!(function.output(&json!("calm")).await, json!({"made": 0}));
    function.delete().await;
}

#[tokio::test]
async fn a_persistent_function_may_answer_with_an_error() {
    let nova = Nova::from_env();
    let code = "import json, sys
for line in sys.stdin:
    request = json.loads(line)
    if request['input'] == 'exit':
        sys.exit(3)
    print(json.dumps({'error': {'code': 'E1', 'why': request['input']}}), flush=True)
";
    let function = nova.function("python", code, json!({"mode": "persistent"})).await;
    let error = function.failure(&json!("bad order"), "function_failed").await;
    assert_eq!(error["detail"], json!({"code": "E1", "why": "bad order"}));
    function.failure(&json!("exit"), "function_exited").await;
    function.failure(&json!("next"), "function_failed").await;
    function.delete().await;
}
