//! A registry that a test plays: tokens, and answers that no honest one gives. The honest one is Debian's, in
//! the end-to-end suite.
use super::maker::{Layer, Packed, pack, text};
use crate::images::oci::digest::Digest;
use crate::images::oci::{Credentials, ImageReference, Limits, Opened, Password, RegistryOptions};
use crate::images::oci::{OciError, unpack};
use crate::images::progress::Silent;
use serde_json::json;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What is at a path: the status, more headers, the body.
type Page = (u16, String, Vec<u8>);

/// A server on loopback that ends with the test's process.
struct Stand {
    address: String,
    pages: Arc<Mutex<HashMap<String, Page>>>,
    /// Each request's path and `Authorization`.
    asked: Arc<Mutex<Vec<(String, String)>>>,
}

impl Stand {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let pages: Arc<Mutex<HashMap<String, Page>>> = Arc::default();
        let asked: Arc<Mutex<Vec<(String, String)>>> = Arc::default();
        let (known, log) = (pages.clone(), asked.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                answer(&stream, &known, &log);
            }
        });
        Self { address, pages, asked }
    }

    fn put(&self, path: &str, status: u16, headers: &str, body: &[u8]) {
        let page = (status, headers.to_owned(), body.to_vec());
        self.pages.lock().unwrap().insert(path.to_owned(), page);
    }

    /// Serves an image under `app:1`; returns the path of its layer.
    fn put_image(&self, layer: &[u8]) -> String {
        let config = json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/run"]},
            "rootfs": {"diff_ids": [Digest::of(layer).to_string()]}});
        let (config, packed) = (config.to_string().into_bytes(), pack(layer, Packed::Gzip));
        let blob = |bytes: &[u8]| {
            let path = format!("/v2/app/blobs/{}", Digest::of(bytes));
            self.put(&path, 200, "", bytes);
            let digest = Digest::of(bytes).to_string();
            json!({"mediaType": "tar", "digest": digest, "size": bytes.len()})
        };
        let manifest =
            json!({"schemaVersion": 2, "config": blob(&config), "layers": [blob(&packed)]});
        self.put("/v2/app/manifests/1", 200, "", manifest.to_string().as_bytes());
        format!("/v2/app/blobs/{}", Digest::of(&packed))
    }

    async fn take(&self, name: &str, options: &RegistryOptions) -> Result<String, OciError> {
        let reference = ImageReference::parse(&format!("{}/{name}", self.address))?;
        let place = tempfile::tempdir().unwrap();
        let opened = Opened::open(&reference, options, Limits::STANDARD).await?;
        let config = opened.config.clone();
        let files = opened.fetch_layers(place.path(), &Silent).await?;
        unpack(&files, &config, &place.path().join("tree"), Limits::STANDARD)?;
        Ok(text(&place.path().join("tree"), "hello"))
    }

    async fn refused(&self, name: &str) -> String {
        self.take(name, &RegistryOptions::default()).await.unwrap_err().to_string()
    }
}

fn answer(
    mut stream: &TcpStream,
    pages: &Mutex<HashMap<String, Page>>,
    asked: &Mutex<Vec<(String, String)>>,
) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let target = lines.next().unwrap_or_default();
    let target = target.split(' ').nth(1).unwrap_or_default().to_owned();
    let header = |line: String| line.split_once(": ").map(|(n, v)| (n.to_owned(), v.to_owned()));
    let headers: Vec<_> = lines.take_while(|line| !line.is_empty()).filter_map(header).collect();
    let who = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("authorization"));
    let who = who.map(|(_, value)| value.clone()).unwrap_or_default();
    asked.lock().unwrap().push((target.clone(), who.clone()));
    let path = target.split('?').next().unwrap_or_default();
    // Pages that want a token are there twice.
    let page = {
        let pages = pages.lock().unwrap();
        pages.get(&format!("{who} {path}")).or_else(|| pages.get(path)).cloned()
    };
    let (status, headers, body) = page.unwrap_or((404, String::new(), b"nothing here".to_vec()));
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
    );
    // A client that has seen enough closes first.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
}

fn hello() -> Vec<u8> {
    Layer::new().file("hello", "world").tar()
}

#[tokio::test]
async fn a_token_is_asked_for_with_the_password_which_goes_nowhere_else() {
    let stand = Stand::start();
    stand.put_image(&hello());
    let challenge = format!(
        "WWW-Authenticate: Bearer realm=\"http://{}/token\",service=\"s\"\r\n",
        stand.address
    );
    let mut locked = Vec::new();
    for (path, page) in stand.pages.lock().unwrap().drain() {
        locked.push((format!("Bearer t1 {path}"), page));
        locked.push((path, (401, challenge.clone(), vec![])));
    }
    stand.pages.lock().unwrap().extend(locked);
    stand.put("/token", 401, "", b"");
    stand.put("Basic YWRhOnB3 /token", 200, "", br#"{"token": "t1"}"#);
    let credentials = Credentials { username: "ada".into(), password: Password::new("pw".into()) };
    let options = RegistryOptions { credentials: Some(credentials), plain_http: false };
    assert_eq!(stand.take("app:1", &options).await.unwrap(), "world");
    let asked = std::mem::take(&mut *stand.asked.lock().unwrap());
    let tokens: Vec<_> = asked.iter().filter(|(path, _)| path.starts_with("/token")).collect();
    assert_eq!(tokens.len(), 1, "it is kept: {asked:?}");
    assert!(tokens[0].0.contains("scope=repository%3Aapp%3Apull"), "{tokens:?}");
    assert!(asked.iter().all(|(path, who)| path.starts_with("/token") || !who.contains("Basic")));
    let error = stand.refused("app:1").await;
    assert!(error.contains("gives no token") && !error.contains("t1"), "{error}");
}

#[tokio::test]
async fn what_comes_must_be_what_was_named() {
    let stand = Stand::start();
    let layer = stand.put_image(&hello());
    let manifest = stand.pages.lock().unwrap()["/v2/app/manifests/1"].2.clone();
    let digest = Digest::of(&manifest).to_string();
    stand.put(&format!("/v2/app/manifests/{digest}"), 200, "", &manifest);
    let options = RegistryOptions::default();
    assert_eq!(stand.take(&format!("app@{digest}"), &options).await.unwrap(), "world");

    let other = [manifest, b" ".to_vec()].concat();
    stand.put(&format!("/v2/app/manifests/{digest}"), 200, "", &other);
    let error = stand.refused(&format!("app:1@{digest}")).await;
    assert!(error.contains(&format!("manifest for {digest} has the digest")), "{error}");

    let packed = pack(&hello(), Packed::Gzip);
    for wrong in [&packed[1..], &[packed.clone(), vec![0; 1000]].concat(), &vec![0; packed.len()]] {
        stand.put(&layer, 200, "", wrong);
        assert!(stand.refused("app:1").await.contains("a blob is sha256:"));
    }
    stand.put("/v2/app/manifests/1", 200, "", &vec![b' '; 5_000_000]);
    assert!(stand.refused("app:1").await.contains("sends over 4194304 bytes"));
    let error = stand.refused("app:2").await;
    assert!(error.contains("404") && error.contains("nothing here"), "{error}");
}
