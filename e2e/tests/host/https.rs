//! Programs in guests speak TLS to servers outside, under an authority that only they know.
use crate::network::{Internet, PUBLIC, start, within};
use crate::{call, scratch};
use base64::{Engine, engine::general_purpose::STANDARD};
use flate2::{Compression, write::GzEncoder};
use nova_e2e::go_function;
use serde_json::json;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The test's server, a process at the sink; ended when dropped.
struct Server(Child);

impl Server {
    /// Serves at two ports of the public address, under two authorities. The certificate of the first one's
    /// goes to `authority`.
    fn start(internet: &Internet, program: &Path, authority: &Path) -> Self {
        let at = |port: u16| format!("{PUBLIC}:{port}");
        let mut command = Command::new(program);
        command.arg("serve").args([at(8443), at(8444)]).arg(authority).stdout(Stdio::piped());
        let mut server = Self(within(internet.sink(), || command.spawn().unwrap()));
        let mut said = String::new();
        BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "serving\n");
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The program and the certificate, as a user packs them.
fn package(program: &Path, authority: &Path) -> String {
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (path, name) in [(program, "handler"), (authority, "authority.pem")] {
        archive.append_path_with_name(path, name).unwrap();
    }
    STANDARD.encode(archive.into_inner().unwrap().finish().unwrap())
}

#[test]
fn a_program_in_go_asks_a_server_under_a_private_authority() {
    let program = go_function();
    let internet = Internet::new("e");
    let home = scratch();
    let authority = home.path().join("authority.pem");
    let _server = Server::start(&internet, &program, &authority);
    let code = package(&program, &authority);
    internet.in_machine(async move || {
        let daemon = start(&home.path().join("data")).await;
        let function = json!({
            "name": "asker", "runtime": "go", "timeout_s": 120, "code": {"archive": code},
            "env_vars": {"SSL_CERT_FILE": "/code/authority.pem"},
        });
        daemon.nova.post("/functions", &function).await.ok();
        let url = |port: u16| json!({"url": format!("https://{PUBLIC}:{port}/")});
        let answer = call(&daemon, "asker", url(8443)).await;
        assert_eq!(answer, json!({"body": "hello over HTTP/1.1"}));
        let answer = call(&daemon, "asker", url(8444)).await;
        let error = answer["error"].as_str().unwrap();
        assert!(error.contains("certificate signed by unknown authority"), "{error}");
        assert!(daemon.terminate().success());
    });
}
