//! Images as people make them, with umoci and skopeo, and a real registry to push them to.
use crate::eventually;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Who may use the registry.
pub const USERNAME: &str = "ada";
/// Their password.
pub const PASSWORD: &str = "correct horse";
/// The same as the registry knows it: bcrypt.
const HTPASSWD: &str = "ada:$2b$05$WiV7FzVc1JuWBBYIcRW9RuXWe39Icn0F8a7x0x9dDD6wwKfiK4CAS\n";

/// Runs a program of the host to its end; it must succeed. Returns what it printed.
#[track_caller]
pub fn host_tool(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}; run `make deps-test`"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A directory with images in it, an OCI layout.
pub struct Images {
    place: PathBuf,
}

impl Images {
    /// Makes it below `place`.
    pub fn new(place: &Path) -> Self {
        let images = Self { place: place.to_owned() };
        host_tool("umoci", &["init", "--layout", &images.layout()]);
        images
    }

    /// Where it is.
    pub fn layout(&self) -> String {
        self.place.join("layout").display().to_string()
    }

    /// One of its images, as umoci and skopeo name it.
    pub fn named(&self, tag: &str) -> String {
        format!("{}:{tag}", self.layout())
    }

    /// Makes an image; each file is a layer of its own.
    pub fn make(&self, tag: &str, files: &[(&str, &[u8])], config: &[&str]) {
        let image = self.named(tag);
        host_tool("umoci", &["new", "--image", &image]);
        for (path, content) in files {
            let source = self.place.join("file");
            std::fs::write(&source, content).expect("a file");
            make_executable(&source);
            let source = source.display().to_string();
            host_tool("umoci", &["insert", "--image", &image, &source, path]);
        }
        host_tool("umoci", &[&["config", "--image", &image], config].concat());
    }

    /// Removes a path of an image, in a layer on top.
    pub fn whiteout(&self, tag: &str, path: &str) {
        host_tool("umoci", &["insert", "--image", &self.named(tag), "--whiteout", path]);
    }

    /// Writes an image as `docker save` does; returns the file.
    pub fn docker_archive(&self, tag: &str) -> String {
        let file = self.place.join(format!("{tag}.tar")).display().to_string();
        let (from, to) = (format!("oci:{}", self.named(tag)), format!("docker-archive:{file}"));
        host_tool("skopeo", &["--insecure-policy", "copy", "--quiet", &from, &to]);
        file
    }
}

fn make_executable(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(path, mode).expect("a file of ours");
}

/// Debian's `docker-registry` on loopback, which wants a password.
pub struct Registry {
    process: Child,
    /// `127.0.0.1:<port>`.
    pub address: String,
}

impl Registry {
    /// Starts one that keeps its blobs below `place`.
    pub async fn start(place: &Path) -> Self {
        let address = {
            let free = TcpListener::bind("127.0.0.1:0").expect("a port");
            free.local_addr().expect("an address").to_string()
        };
        let (htpasswd, config) = (place.join("htpasswd"), place.join("registry.yml"));
        std::fs::write(&htpasswd, HTPASSWD).expect("a file");
        let text = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{address}'}}\n\
             auth: {{htpasswd: {{realm: nova, path: {}}}}}\nlog: {{accesslog: {{disabled: true}}}}\n",
            place.join("blobs").display(),
            htpasswd.display()
        );
        std::fs::write(&config, text).expect("a file");
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry is installed: run `make deps-test`");
        let registry = Self { process, address };
        let address = registry.address.clone();
        eventually("the registry listens", async || {
            tokio::net::TcpStream::connect(&address).await.ok().map(drop)
        })
        .await;
        registry
    }

    /// Pushes an image of a layout; `compression` is gzip or zstd.
    pub fn push(&self, images: &Images, tag: &str, name: &str, compression: &str) {
        let from = format!("oci:{}", images.named(tag));
        let to = format!("docker://{}/{name}", self.address);
        let user = format!("{USERNAME}:{PASSWORD}");
        let copy = ["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"];
        let rest = ["--dest-creds", &user, "--dest-compress-format", compression, &from, &to];
        host_tool("skopeo", &[&copy[..], &rest[..]].concat());
    }

    /// The text of an image's manifest.
    pub fn manifest(&self, name: &str) -> String {
        let (user, from) =
            (format!("{USERNAME}:{PASSWORD}"), format!("docker://{}/{name}", self.address));
        host_tool("skopeo", &["inspect", "--raw", "--tls-verify=false", "--creds", &user, &from])
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Fails only where it has ended by itself, and a test has failed of that already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
