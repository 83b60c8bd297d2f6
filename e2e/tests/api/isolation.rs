//! What a function can see and touch.
use nova_e2e::Nova;
use serde_json::json;

#[tokio::test]
async fn the_guest_shows_nothing_of_the_host_and_cannot_be_changed() {
    let nova = Nova::from_env();
    let code = "import json, os
def attempt(action):
    try:
        return repr(action())[:100]
    except OSError as error:
        return type(error).__name__
print(json.dumps({
    'code': attempt(lambda: open('/code/new', 'w')), 'etc': attempt(lambda: open('/etc/new', 'w')),
    'shadow': attempt(lambda: open('/etc/shadow').read()), 'root': attempt(lambda: os.setuid(0)),
    'agent': attempt(lambda: os.listdir('/nova')), 'kill': attempt(lambda: os.kill(1, 9)),
    'tmp': attempt(lambda: open('/tmp/new', 'w').write('fine')),
}))
";
    let function = nova.function("python", code, json!({})).await;
    let seen = function.output(&json!({})).await;
    for forbidden in ["code", "etc", "root", "kill"] {
        let outcome = seen[forbidden].as_str().unwrap();
        assert!(["PermissionError", "OSError"].contains(&outcome), "{forbidden}: {outcome}");
    }
    for hidden in ["shadow", "agent"] {
        let outcome = seen[hidden].as_str().unwrap();
        // A microVM has an empty directory where a container has the agent.
        let nothing = ["PermissionError", "FileNotFoundError", "[]"];
        assert!(nothing.contains(&outcome), "{hidden}: {outcome}");
    }
    assert_eq!(seen["tmp"], "4");
    function.delete().await;
}

#[tokio::test]
async fn a_function_without_network_has_only_loopback() {
    let nova = Nova::from_env();
    let code = "import json, os, socket
def reach(address):
    try:
        socket.create_connection(address, timeout=3).close()
        return 'reached'
    except OSError as error:
        return error.strerror or type(error).__name__
print(json.dumps({
    'interfaces': [name for name in sorted(os.listdir('/sys/class/net'))] if os.path.isdir('/sys/class/net') else [line.split(':')[0].strip() for line in open('/proc/net/dev').readlines()[2:]],
    'reached': [reach((host, port)) for host, port in [('8.8.8.8', 53), ('169.254.169.254', 80), ('172.30.0.1', 9000)]],
}))
";
    let function = nova.function("python", code, json!({"network": "none"})).await;
    let seen = function.output(&json!({})).await;
    assert_eq!(seen["interfaces"], json!(["lo"]));
    for outcome in seen["reached"].as_array().unwrap() {
        assert!(outcome.as_str().unwrap().contains("unreachable"), "{seen}");
    }
    function.delete().await;
}

#[tokio::test]
async fn loopback_works_inside_a_guest() {
    let nova = Nova::from_env();
    let code = "import json, socket
server = socket.create_server(('127.0.0.1', 0))
client = socket.create_connection(server.getsockname())
server.accept()[0].sendall(b'hello')
print(json.dumps(client.recv(5).decode()))
";
    let function = nova.function("python", code, json!({"network": "none"})).await;
    assert_eq!(function.output(&json!({})).await, "hello");
    function.delete().await;
}
