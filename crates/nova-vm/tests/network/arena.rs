//! A small internet that no packet can leave: two network namespaces of the test.
//!
//! ```text
//! guests ─ bridge ─ [ host 192.0.2.10 ] ── veth ── [ sink 192.0.2.1 ]
//! ```
//!
//! The test acts as the daemon's host inside the first; the second is everything else: it owns
//! public addresses, private ones and the clouds' metadata address, counts every packet to each of
//! them, and echoes UDP on port 7000 (and on 53) from each.
pub mod daemon;
pub mod vm;

use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Addresses of the sink that `Egress` reaches.
pub const PUBLIC: [&str; 3] = ["8.8.8.8", "1.1.1.1", "93.184.216.34"];
/// Addresses of the sink that nobody reaches without naming them.
pub const PRIVATE: [&str; 9] = [
    "10.0.0.1",
    "10.20.0.5",
    "100.64.0.1",
    "169.254.169.254",
    "169.254.0.7",
    "172.16.0.1",
    "172.31.255.1",
    "192.168.1.1",
    "198.18.0.1",
];
/// The sink's name server, at a private address as on many hosts.
pub const RESOLVER: &str = "10.53.0.53";
/// Where the test's host is on its uplink.
pub const HOST: &str = "192.0.2.10";
/// The port that the sink echoes on.
pub const ECHO_PORT: u16 = 7000;
/// How long a probe waits for its echo. Only a packet that was lost waits so long.
const ECHO_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer is waited for that should not come: the sink's counter is the proof, this
/// only gives a packet time to get there.
const REFUSAL_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a condition is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// The two namespaces; they go when it is dropped.
pub struct Arena {
    host: String,
    sink: String,
}

impl Arena {
    pub fn new() -> Self {
        let tag = format!("nvt{:08x}", rand::random::<u32>());
        let arena = Self { host: format!("{tag}-host"), sink: format!("{tag}-sink") };
        run(&["ip", "netns", "add", &arena.host]);
        run(&["ip", "netns", "add", &arena.sink]);
        for name in [&arena.host, &arena.sink] {
            ip(name, "link set lo up");
        }
        let pair = format!("link add out0 type veth peer name in0 netns {}", arena.sink);
        ip(&arena.host, &pair);
        ip(&arena.host, &format!("address add {HOST}/24 dev out0"));
        ip(&arena.host, "link set out0 up");
        ip(&arena.sink, "address add 192.0.2.1/24 dev in0");
        ip(&arena.sink, "link set in0 up");
        ip(&arena.host, "route add default via 192.0.2.1");
        // Whatever comes from a guest without NAT is answered too, so that a test sees it.
        ip(&arena.sink, &format!("route add default via {HOST}"));
        for address in Self::addresses() {
            ip(&arena.sink, &format!("address add {address}/32 dev lo"));
        }
        arena.count_and_echo();
        wait_until_carrying(&arena.host, "out0");
        wait_until_carrying(&arena.sink, "in0");
        arena
    }

    fn addresses() -> impl Iterator<Item = &'static str> {
        PUBLIC.into_iter().chain(PRIVATE).chain([RESOLVER])
    }

    fn count_and_echo(&self) {
        let mut rules = String::from("table inet sink {\n");
        for address in Self::addresses() {
            rules += &format!(" counter {} {{ }}\n", counter_name(address));
        }
        rules += " chain arrivals {\n  type filter hook prerouting priority -400\n";
        for address in Self::addresses() {
            rules += &format!("  ip daddr {address} counter name {}\n", counter_name(address));
        }
        nft(&self.sink, &(rules + " }\n}\n"));
        inside(&self.sink, || {
            for address in Self::addresses() {
                for port in [ECHO_PORT, 53] {
                    let socket = UdpSocket::bind((address, port)).unwrap();
                    std::thread::spawn(move || echo(&socket));
                }
            }
        });
    }

    /// Runs the test's body as if the machine were this host: on a thread in its namespace.
    pub fn on_host<T: Send>(&self, body: impl AsyncFnOnce() -> T + Send) -> T {
        inside(&self.host, || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(body())
        })
    }

    /// The name of the host's namespace, for commands.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// How many packets have come to the sink for this address.
    pub fn count(&self, address: &str) -> u64 {
        counter(&self.sink, "inet sink", &counter_name(address))
    }

    /// The private addresses that packets have come for.
    pub fn reached(&self) -> Vec<&'static str> {
        PRIVATE.into_iter().filter(|address| self.count(address) > 0).collect()
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        for name in [&self.host, &self.sink] {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

fn counter_name(address: &str) -> String {
    format!("a{}", address.replace('.', "_"))
}

/// Answers each datagram with the address that it came from.
fn echo(socket: &UdpSocket) {
    let mut buffer = [0; 2048];
    while let Ok((_, from)) = socket.recv_from(&mut buffer) {
        let _ = socket.send_to(from.ip().to_string().as_bytes(), from);
    }
}

/// Packets that a named counter has counted.
pub fn counter(netns: &str, table: &str, name: &str) -> u64 {
    let text = run(&["ip", "netns", "exec", netns, "nft", &format!("list counter {table} {name}")]);
    let mut words = text.split_whitespace().skip_while(|word| *word != "packets").skip(1);
    words.next().unwrap().parse().unwrap()
}

/// Loads a ruleset in a namespace.
pub fn nft(netns: &str, ruleset: &str) {
    inside(netns, || {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), ruleset).unwrap();
        run(&["nft", "-f", file.path().to_str().unwrap()]);
    });
}

/// `ip ...` in a namespace.
pub fn ip(netns: &str, arguments: &str) -> String {
    let command = ["ip", "-n", netns];
    run(&command.into_iter().chain(arguments.split(' ')).collect::<Vec<_>>())
}

/// Runs a command that must succeed.
pub fn run(command: &[&str]) -> String {
    let output = Command::new(command[0]).args(&command[1..]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs `work` on a thread in a named namespace.
pub fn inside<T: Send>(netns: &str, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let namespace = File::open(Path::new("/run/netns").join(netns)).unwrap();
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Sends a datagram from a namespace and gives the answer, if there was one: the address that the
/// sink saw.
pub fn ask(netns: &str, address: &str, port: u16) -> Option<String> {
    ask_from(netns, Ipv4Addr::UNSPECIFIED, address, port, ECHO_TIMEOUT)
}

/// As [`ask`] on the echo port, with a source address that the namespace has; not expected to be
/// answered, so it does not wait for long.
pub fn ask_as(netns: &str, source: Ipv4Addr, address: &str) -> Option<String> {
    ask_from(netns, source, address, ECHO_PORT, REFUSAL_TIMEOUT)
}

fn ask_from(
    netns: &str,
    source: Ipv4Addr,
    address: &str,
    port: u16,
    timeout: Duration,
) -> Option<String> {
    inside(netns, || {
        let socket = UdpSocket::bind((source, 0)).unwrap();
        socket.set_read_timeout(Some(timeout)).unwrap();
        socket.connect(SocketAddrV4::new(address.parse().unwrap(), port)).ok()?;
        socket.send(b"hello").ok()?;
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8(buffer[..length].to_vec()).unwrap())
    })
}

/// Sends datagrams and a TCP connection attempt without waiting for an answer. Whether they can be
/// sent at all does not matter: what arrives is counted.
pub fn knock(netns: &str, address: &str, port: u16) {
    inside(netns, || {
        let to = SocketAddrV4::new(address.parse().unwrap(), port);
        if let Ok(socket) = UdpSocket::bind("0.0.0.0:0") {
            for _ in 0..3 {
                let _ = socket.send_to(b"knock", to);
            }
        }
        let _ = std::net::TcpStream::connect_timeout(&to.into(), Duration::from_millis(20));
    });
}

/// Somebody in a namespace who listens for datagrams, to see whether any come.
pub struct Listener(UdpSocket);

impl Listener {
    pub fn new(netns: &str, address: Ipv4Addr, port: u16) -> Self {
        inside(netns, || {
            let socket = UdpSocket::bind((address, port)).unwrap();
            socket.set_nonblocking(true).unwrap();
            Self(socket)
        })
    }

    /// Whether a datagram has come since the last time.
    pub fn heard(&self) -> bool {
        let mut buffer = [0; 64];
        match self.0.recv(&mut buffer) {
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Waits until a link that is up carries packets: before, the kernel drops them.
pub fn wait_until_carrying(netns: &str, link: &str) {
    let carries = || !ip(netns, &format!("link show dev {link}")).contains("qdisc noop");
    wait_for("the link to carry packets", carries);
}

/// Waits until a condition holds.
pub fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Links, firewall tables and fixed neighbours of a host.
pub fn inventory(netns: &str) -> String {
    let links = ip(netns, "-oneline link show");
    let names = links.lines().filter_map(|line| line.split(": ").nth(1)).collect::<Vec<_>>();
    let tables = run(&["ip", "netns", "exec", netns, "nft", "list", "tables"]);
    let neighbours = ip(netns, "neighbour show nud permanent");
    format!("{names:?} {tables:?} {neighbours:?}")
}

/// How many namespaces have names that start so.
pub fn namespaces(prefix: &str) -> usize {
    run(&["ip", "netns", "list"]).lines().filter(|line| line.starts_with(prefix)).count()
}
