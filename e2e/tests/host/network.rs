//! Where a guest's packets go, counted where they would arrive.
//!
//! The test makes a small internet: a namespace that is "the machine" with the daemon in it, and a
//! sink that owns public and private addresses alike. No packet leaves them. What the sink counts is
//! what a guest could have reached.
//!
//! ```text
//!  guests ── bridge ── machine (daemon) ── 198.18.0.0/30 ── sink: 8.8.8.8, 10.0.0.1, 169.254.169.254 ...
//! ```
use crate::{call, create, scratch};
use nova_e2e::daemon::{Daemon, DaemonOptions};
use nova_e2e::{eventually, setting};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;

/// A public address that `egress` may reach.
pub const PUBLIC: &str = "8.8.8.8";
/// What no guest may reach: the metadata service and private ranges.
const FORBIDDEN: [&str; 5] =
    ["169.254.169.254", "10.0.0.1", "192.168.1.1", "172.16.0.1", "100.64.0.1"];

/// Tries TCP and UDP to each address given; answers what came back over TCP, where it connected.
const PROBE: &str = "import concurrent.futures, json, socket, sys
def ask(target):
    host, port = target.rsplit(':', 1)
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        udp.sendto(b'x', (host, int(port)))
    except OSError:
        pass
    try:
        tcp = socket.create_connection((host, int(port)), timeout=3)
    except OSError:
        return None
    with tcp:
        try:
            return tcp.recv(100).decode()
        except OSError:
            return 'connected'
targets = json.load(open(sys.argv[1]))
with concurrent.futures.ThreadPoolExecutor(32) as pool:
    print(json.dumps(dict(zip(targets, pool.map(ask, targets)))))
";

/// Two namespaces and the wire between them; removed when dropped.
pub struct Internet {
    machine: String,
    sink: String,
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect("a host tool runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Internet {
    /// A new one; `tag` tells those of one test run apart.
    pub fn new(tag: &str) -> Self {
        let id = std::process::id();
        let internet =
            Self { machine: format!("e2e-m{tag}-{id}"), sink: format!("e2e-s{tag}-{id}") };
        let (machine, sink) = (internet.machine.as_str(), internet.sink.as_str());
        for namespace in [machine, sink] {
            run("ip", &["netns", "add", namespace]);
            run("ip", &["-n", namespace, "link", "set", "lo", "up"]);
        }
        let peer = ["peer", "name", "wire", "netns", sink];
        let wire = ["-n", machine, "link", "add", "wire", "type", "veth"];
        run("ip", &[&wire[..], &peer[..]].concat());
        run("ip", &["-n", machine, "address", "add", "198.18.0.1/30", "dev", "wire"]);
        run("ip", &["-n", sink, "address", "add", "198.18.0.2/30", "dev", "wire"]);
        for namespace in [machine, sink] {
            run("ip", &["-n", namespace, "link", "set", "wire", "up"]);
        }
        run("ip", &["-n", machine, "route", "add", "default", "via", "198.18.0.2"]);
        run("ip", &["-n", sink, "route", "add", "default", "via", "198.18.0.1"]);
        let mut counters = String::new();
        for address in FORBIDDEN.iter().chain([&PUBLIC]) {
            run("ip", &["-n", sink, "address", "add", &format!("{address}/32"), "dev", "lo"]);
            counters += &format!("ip daddr {address} counter\n");
        }
        let ruleset = format!(
            "table ip sink {{ chain arrived {{ type filter hook prerouting priority -300;\n{counters} }}\n}}\n"
        );
        let mut nft = Command::new("ip")
            .args(["netns", "exec", sink, "nft", "-f", "-"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        nft.stdin.take().unwrap().write_all(ruleset.as_bytes()).unwrap();
        assert!(nft.wait().unwrap().success());
        internet
    }

    /// The namespace outside the machine.
    pub fn sink(&self) -> &str {
        &self.sink
    }

    /// Packets that arrived at the sink for this address.
    fn arrived(&self, address: &str) -> u64 {
        let table = run("ip", &["netns", "exec", &self.sink, "nft", "list", "table", "ip", "sink"]);
        let line = table.lines().find(|line| line.contains(&format!("daddr {address} "))).unwrap();
        let count = line.split("packets ").nth(1).unwrap().split(' ').next().unwrap();
        count.parse().unwrap()
    }

    fn arrived_at_forbidden(&self) -> Vec<(&'static str, u64)> {
        let counts = FORBIDDEN.iter().map(|address| (*address, self.arrived(address)));
        counts.filter(|(_, count)| *count > 0).collect()
    }

    /// A listener on every address of the sink.
    pub(crate) fn listen(&self, port: u16) -> TcpListener {
        within(&self.sink, || TcpListener::bind(("0.0.0.0", port)).unwrap())
    }

    /// A server on every address of the sink that says hello.
    fn serve(&self, port: u16) {
        let listener = self.listen(port);
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                connection.unwrap().write_all(b"hello from outside").ok();
            }
        });
    }

    /// Runs a test's story inside the machine, on a thread of its own.
    pub fn in_machine(&self, story: impl AsyncFnOnce() + Send + 'static) {
        within(&self.machine, || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(story());
        });
    }
}

impl Drop for Internet {
    fn drop(&mut self) {
        for namespace in [&self.machine, &self.sink] {
            Command::new("ip").args(["netns", "delete", namespace]).status().ok();
        }
    }
}

/// Runs `action` in a network namespace, on a thread of its own.
pub fn within<T: Send>(namespace: &str, action: impl FnOnce() -> T + Send) -> T {
    let file = File::open(format!("/run/netns/{namespace}")).unwrap();
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
            use std::os::fd::AsFd;
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            action()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A daemon with nothing special.
pub async fn start(data: &std::path::Path) -> Daemon {
    DaemonOptions::new(data).start().await
}

/// The namespaces of a daemon's guests, those that wait for one among them.
fn namespaces(daemon: &Daemon) -> Vec<String> {
    let prefix = format!("nova-{}-", &daemon.id()[..6]);
    let listed = run("ip", &["netns", "list"]);
    let names = listed.lines().filter_map(|line| line.split(' ').next());
    names.filter(|name| name.starts_with(&prefix)).map(str::to_owned).collect()
}

/// Opens the guests' namespaces and the host's firewall: what is reached now was kept back by them.
fn take_the_policy_away(daemon: &Daemon) {
    let id6 = daemon.id()[..6].to_owned();
    for name in namespaces(daemon) {
        let nft = ["netns", "exec", &name, "nft"];
        run("ip", &[&nft[..], &["flush", "chain", "inet", "nova", "reach"]].concat());
        run("ip", &[&nft[..], &["add", "rule", "inet", "nova", "reach", "accept"]].concat());
    }
    for chain in ["input", "forward"] {
        run("nft", &["flush", "chain", "inet", &format!("nova_{id6}"), chain]);
    }
}

/// Lets packets in to the guests as well, which their namespaces never do: what was kept from another
/// guest could have arrived there.
fn let_packets_in(daemon: &Daemon) {
    let is_container = setting("NOVA_E2E_BACKEND") == "container";
    for namespace in namespaces(daemon) {
        let nft = |line: &str| run("ip", &["netns", "exec", &namespace, "nft", line]);
        if is_container {
            nft("add rule inet nova input accept");
        } else {
            // A microVM is behind its namespace: what arrives there goes on to the guest's own address.
            nft("insert rule inet nova forward accept");
            nft("add table ip way_in");
            nft("add chain ip way_in prerouting { type nat hook prerouting priority -100 ; }");
            nft("add rule ip way_in prerouting iifname up0 dnat to 172.29.255.2");
        }
    }
}

fn targets(addresses: &[&str], port: u16) -> Value {
    addresses.iter().map(|address| json!(format!("{address}:{port}"))).collect()
}

fn reached(answers: &Value) -> Vec<&str> {
    let answers = answers.as_object().unwrap().iter();
    answers.filter(|(_, answer)| !answer.is_null()).map(|(target, _)| target.as_str()).collect()
}

#[test]
fn egress_reaches_public_addresses_and_nothing_private() {
    let internet = std::sync::Arc::new(Internet::new("a"));
    internet.serve(8080);
    let counters = internet.clone();
    internet.in_machine(async move || {
        let home = scratch();
        let data = home.path().join("data");
        let daemon = start(&data).await;
        create(&daemon, "probe", PROBE, json!({})).await;
        let public = call(&daemon, "probe", targets(&[PUBLIC], 8080)).await;
        assert_eq!(public[format!("{PUBLIC}:8080")], "hello from outside");
        let forbidden = call(&daemon, "probe", targets(&FORBIDDEN, 8080)).await;
        assert_eq!(reached(&forbidden), [""; 0]);
        assert_eq!(counters.arrived_at_forbidden(), [], "no packet arrived");

        // With the policy taken away the same probe is counted: the sink does see what comes.
        take_the_policy_away(&daemon);
        call(&daemon, "probe", targets(&FORBIDDEN, 8080)).await;
        assert_eq!(counters.arrived_at_forbidden().len(), FORBIDDEN.len());
        assert!(daemon.terminate().success());
    });
}

#[test]
fn the_daemon_the_host_and_other_guests_are_out_of_reach() {
    let internet = Internet::new("b");
    internet.serve(8080);
    internet.in_machine(async move || {
        let home = scratch();
        let data = home.path().join("data");
        // On all addresses, so that nothing but the policy keeps guests from it.
        let daemon =
            DaemonOptions { listen: "0.0.0.0:0", ..DaemonOptions::new(&data) }.start().await;
        let daemon_port: u16 = daemon.nova.url().rsplit_once(':').unwrap().1.parse().unwrap();
        let everywhere = TcpListener::bind("0.0.0.0:9000").unwrap();
        std::thread::spawn(move || {
            for connection in everywhere.incoming() {
                connection.unwrap().write_all(b"hello from the host").ok();
            }
        });
        // A second guest that listens on all its addresses while the first looks for it.
        let listen = "import socket
server = socket.create_server(('0.0.0.0', 8080))
while True:
    connection, _ = server.accept()
    connection.sendall(b'hello from a guest')
    connection.close()
";
        create(&daemon, "listener", listen, json!({"timeout_s": 600})).await;
        create(&daemon, "probe", PROBE, json!({})).await;
        let nova = daemon.nova.clone();
        let listener =
            tokio::spawn(async move { nova.post("/functions/listener/invoke", &json!({})).await });
        eventually("the listener runs", async || {
            let stats = daemon.nova.get("/stats").await.ok();
            stats["vms"].as_array()?.iter().any(|vm| vm["state"] == "busy").then_some(())
        })
        .await;
        let addresses = guest_side_addresses();
        let mut hosts: Vec<&str> = vec!["198.18.0.1"];
        hosts.extend(addresses.iter().map(String::as_str));
        let on_the_host: Vec<Value> = [9000, daemon_port]
            .iter()
            .flat_map(|port| targets(&hosts, *port).as_array().unwrap().clone())
            .collect();
        let mut all = targets(&["127.0.0.1"], 9000);
        all.as_array_mut().unwrap().extend(on_the_host.clone());
        let guests = targets(
            &(2..20)
                .map(|n| format!("{}{n}", block(&addresses)))
                .collect::<Vec<_>>()
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>(),
            8080,
        );
        all.as_array_mut().unwrap().extend(guests.as_array().unwrap().clone());
        let answers = call(&daemon, "probe", all).await;
        assert_eq!(reached(&answers), [""; 0]);

        // With the policy taken away the same probe finds all of the host that it asked for ...
        take_the_policy_away(&daemon);
        let open = call(&daemon, "probe", Value::from(on_the_host.clone())).await;
        let mut found = reached(&open);
        let mut wanted: Vec<&str> =
            on_the_host.iter().map(|target| target.as_str().unwrap()).collect();
        found.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(found, wanted, "{open}");
        // ... and the other guest, once that one's namespace lets anything in at all.
        let_packets_in(&daemon);
        let open = call(&daemon, "probe", guests).await;
        let greetings = open.as_object().unwrap().values();
        assert_eq!(greetings.filter(|said| *said == "hello from a guest").count(), 1, "{open}");
        listener.abort();
        eventually("the listener's call is cancelled", async || {
            let stats = daemon.nova.get("/stats").await.ok();
            stats["vms"].as_array()?.iter().all(|vm| vm["state"] != "busy").then_some(())
        })
        .await;
        assert!(daemon.terminate().success());
    });
}

/// The machine's own addresses on Nova's bridge.
fn guest_side_addresses() -> Vec<String> {
    let listed = run("ip", &["-o", "-4", "address", "show"]);
    let bridges = listed.lines().filter(|line| line.contains("novabr"));
    bridges
        .filter_map(|line| Some(line.split("inet ").nth(1)?.split('/').next()?.to_owned()))
        .collect()
}

/// The first three numbers of the bridge's address, where the other guests' addresses are.
fn block(addresses: &[String]) -> String {
    let address = addresses.first().expect("the bridge has an address");
    address.rsplit_once('.').unwrap().0.to_owned() + "."
}

#[test]
fn a_function_without_network_sends_nothing_and_an_allow_list_opens_just_itself() {
    let internet = std::sync::Arc::new(Internet::new("c"));
    internet.serve(8080);
    let counters = internet.clone();
    internet.in_machine(async move || {
        let home = scratch();
        let data = home.path().join("data");
        let daemon = start(&data).await;
        create(&daemon, "closed", PROBE, json!({"network": "none"})).await;
        let answers = call(&daemon, "closed", targets(&[PUBLIC, "10.0.0.1"], 8080)).await;
        assert_eq!(reached(&answers), [""; 0]);
        assert_eq!((counters.arrived(PUBLIC), counters.arrived("10.0.0.1")), (0, 0));

        let allow = json!({"network": {"allow": ["10.0.0.0/24"]}});
        create(&daemon, "listed", PROBE, allow).await;
        let answers = call(&daemon, "listed", targets(&[PUBLIC, "10.0.0.1"], 8080)).await;
        assert_eq!(reached(&answers), ["10.0.0.1:8080"]);
        assert_eq!(counters.arrived(PUBLIC), 0);
        assert!(daemon.terminate().success());
    });
}

#[test]
fn the_sink_counts_and_serves() {
    let internet = Internet::new("d");
    internet.serve(8080);
    within(&internet.machine, || {
        let mut connection = std::net::TcpStream::connect((PUBLIC, 8080)).unwrap();
        let mut said = String::new();
        connection.read_to_string(&mut said).unwrap();
        assert_eq!(said, "hello from outside");
    });
    assert!(internet.arrived(PUBLIC) > 0);
}
