//! A complete API in a temporary directory, and a driver whose guests do what their input says.
use crate::api::{AllowedHosts, Api, Backend, Bodies, CODE_JOBS, KeyRing, Settings, router};
use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use chrono::Utc;
use http_body_util::BodyExt;
use nova_domain::{
    FunctionError, FunctionErrorKind, FunctionName, LogLine, LogStream, Mode, RuntimeId,
    RuntimeImage,
};
use nova_engine::{BuildNetwork, BuildParts, Builds, EngineConfig, Executor, Parts};
use nova_proto::{ExecReport, GuestPhases};
use nova_store::{
    ApiKey, ApiKeyText, Blobs, DirectoryBlobs, MasterKey, Role, SecretVault, SqlStore, Store,
};
use nova_vm::images::{BuildRecipe, BuilderRecord, CompileRecipe, RuntimeCatalog, SourceNames};
use nova_vm::{BootError, EventSink, ExecError, ExecRequest, MicroVm, VmDriver, VmId, VmSpec};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// An API with its directory.
pub struct Fixture {
    pub api: Arc<Api>,
    router: Router,
    key: String,
    directory: tempfile::TempDir,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub bytes: Vec<u8>,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or(Value::Null)
    }

    /// Status and code of a problem, and the field that it names first.
    pub fn problem(&self) -> (u16, String, String) {
        let json = self.json();
        assert_eq!(self.headers["content-type"], "application/problem+json", "{json}");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (self.status.as_u16(), text(&json["code"]), text(&json["errors"][0]["field"]))
    }

    /// The hint of the first field.
    pub fn hint(&self) -> String {
        self.json()["errors"][0]["hint"].as_str().unwrap_or_default().to_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }
}

impl Fixture {
    pub async fn new() -> Self {
        Self::with_settings(|_| {}).await
    }

    pub async fn with_settings(change: impl FnOnce(&mut Settings)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = SqlStore::open(&directory.path().join("nova.db")).await.unwrap();
        let store: Arc<dyn Store> = Arc::new(store);
        let master_key = MasterKey::load_or_create(&directory.path().join("master.key")).unwrap();
        let vault = SecretVault::new(store.clone(), master_key);
        let blobs = DirectoryBlobs::open(directory.path().join("blobs")).await.unwrap();
        let catalog = Arc::new(RuntimeCatalog::fixed(
            vec![python(), compiled("go"), compiled("rust")],
            vec![go_builder()],
        ));
        let blobs: Arc<dyn Blobs> = Arc::new(blobs);
        let executor = Executor::new(Parts {
            driver: Arc::new(FakeDriver),
            store: store.clone(),
            vault: vault.clone(),
            catalog: catalog.clone(),
            config: EngineConfig::new("test".into(), 4096, 2),
        });
        let builds = Builds::new(BuildParts {
            driver: Arc::new(FakeDriver),
            store: store.clone(),
            blobs: blobs.clone(),
            catalog: catalog.clone(),
            executor: executor.clone(),
            network: BuildNetwork::default(),
        });
        let mut settings = Settings {
            authentication: true,
            hosts: AllowedHosts::new("127.0.0.1:9000".parse().unwrap(), vec![]),
            data_dir: directory.path().to_owned(),
            code_paths: vec![],
        };
        change(&mut settings);
        let api = Arc::new(Api {
            keys: KeyRing::new(store.clone()),
            store,
            blobs,
            vault,
            executor,
            builds,
            catalog,
            backend: Backend {
                name: "fake",
                reason: "a test".into(),
                warnings: vec!["weak".into()],
            },
            settings,
            bodies: Bodies::default(),
            code_jobs: Semaphore::new(CODE_JOBS),
            draining: CancellationToken::new(),
        });
        let router = router(api.clone());
        let mut fixture = Self { api, router, key: String::new(), directory };
        fixture.key = fixture.key_of(Role::Admin, &[]).await;
        fixture
    }

    /// The code of a daemon that starts over the same state: nothing of it counts as new.
    pub async fn blobs(&self) -> Arc<dyn Blobs> {
        let directory = self.directory.path().join("blobs");
        Arc::new(DirectoryBlobs::open(directory).await.unwrap())
    }

    /// The builds of a daemon that starts over the same state.
    pub fn builds(&self, blobs: Arc<dyn Blobs>) -> Builds {
        Builds::new(BuildParts {
            driver: Arc::new(FakeDriver),
            store: self.api.store.clone(),
            blobs,
            catalog: self.api.catalog.clone(),
            executor: self.api.executor.clone(),
            network: BuildNetwork::default(),
        })
    }

    /// A new key.
    pub async fn key_of(&self, role: Role, functions: &[&str]) -> String {
        self.key_until(role, functions, None).await
    }

    pub async fn key_until(
        &self,
        role: Role,
        functions: &[&str],
        expires_at: Option<chrono::DateTime<Utc>>,
    ) -> String {
        let text = ApiKeyText::generate();
        let key = ApiKey {
            id: text.id().into(),
            name: "test".into(),
            secret_sha256: text.secret_sha256(),
            role,
            functions: functions.iter().map(|name| FunctionName::parse(name).unwrap()).collect(),
            expires_at,
            created_at: Utc::now(),
        };
        self.api.store.create_api_key(&key).await.unwrap();
        text.reveal()
    }

    /// Sends a request with the admin's key.
    pub async fn send(&self, method: Method, path: &str, body: impl Into<Body>) -> Answer {
        let key = format!("Bearer {}", self.key);
        self.send_with(method, path, &[("authorization", &key)], body).await
    }

    /// Sends a request with these headers.
    pub async fn send_with(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", "127.0.0.1:9000");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.into()).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes().to_vec();
        Answer { status: parts.status, headers: parts.headers, bytes }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, Body::empty()).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(Method::POST, path, body.to_string()).await
    }

    /// Creates a function that the tests can call.
    pub async fn create(&self, name: &str) -> Value {
        let answer = self.post("/functions", function(name)).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{:?}", answer.json());
        answer.json()
    }

    /// Asks again until the answer is as wanted: records are written after the call's answer.
    pub async fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let look = async {
            loop {
                let json = self.get(path).await.json();
                if wanted(&json) {
                    return json;
                }
                tokio::task::yield_now().await;
            }
        };
        let patience = std::time::Duration::from_secs(20);
        tokio::time::timeout(patience, look).await.expect("the records did not appear")
    }
}

/// The smallest body that is accepted.
pub fn function(name: &str) -> Value {
    json!({ "name": name, "runtime": "python", "code": "print(1)" })
}

fn python() -> RuntimeImage {
    let command = |last: &str| vec!["/usr/bin/python3".to_owned(), last.to_owned()];
    RuntimeImage {
        id: RuntimeId::parse("python").unwrap(),
        version: "3.11.2".into(),
        digest: "ab".repeat(32),
        size: 50_000_000,
        commands: BTreeMap::from([
            (Mode::Process, command("/code/{handler}")),
            (Mode::Persistent, command("/code/{handler}")),
            (Mode::Lambda, command("/var/runtime/bootstrap.py")),
        ]),
        extension: Some("py".into()),
        env: BTreeMap::new(),
        memory_min_mb: 96,
        own: None,
    }
}

/// A language whose programs need no interpreter.
fn compiled(id: &str) -> RuntimeImage {
    let command = vec!["/code/{handler}".to_owned()];
    RuntimeImage {
        id: RuntimeId::parse(id).unwrap(),
        commands: BTreeMap::from([(Mode::Process, command)]),
        extension: None,
        ..python()
    }
}

fn go_builder() -> BuilderRecord {
    BuilderRecord {
        language: RuntimeId::parse("go").unwrap(),
        version: "1.27.3".into(),
        digest: "cd".repeat(32),
        size: 80_000_000,
        build: BuildRecipe {
            compile: Some(CompileRecipe {
                source: SourceNames { extension: "go".into(), file: "main.go".into() },
                command: vec!["/usr/bin/go".into(), "build".into()],
            }),
            dependencies: None,
            precompile: None,
            env: BTreeMap::new(),
            memory_mb: 512,
            timeout_s: 60,
        },
        recipe: String::new(),
        packages: vec![],
    }
}

struct FakeDriver;

#[async_trait]
impl VmDriver for FakeDriver {
    fn backend(&self) -> &'static str {
        "fake"
    }

    fn overhead_mb(&self, _: u32) -> u32 {
        16
    }

    async fn boot(&self, spec: VmSpec) -> Result<Box<dyn MicroVm>, BootError> {
        if spec.function.as_str() == "unbootable" {
            let (phase, problem) = ("pretending", "there is nothing to boot".into());
            return Err(BootError::Failed { phase, problem });
        }
        if spec.setup.out_mb > 0 {
            return Ok(Box::new(FakeBuild { id: spec.id, handler: spec.setup.handler }));
        }
        Ok(Box::new(FakeVm { id: spec.id, env: spec.setup.env }))
    }
}

/// The guest of a build: one for the handler `broken` fails, one for `hangs` never ends.
struct FakeBuild {
    id: VmId,
    handler: String,
}

#[async_trait]
impl MicroVm for FakeBuild {
    fn id(&self) -> &VmId {
        &self.id
    }

    async fn exec(&self, _: ExecRequest, events: EventSink) -> Result<ExecReport, ExecError> {
        let line = |text: &str| LogLine {
            time_unix_ms: 1_000,
            stream: LogStream::Stderr,
            text: text.to_owned(),
        };
        events.send(line("compiling")).await.unwrap();
        if self.handler == "hangs" {
            std::future::pending::<()>().await;
        }
        let mut report = ExecReport {
            output: None,
            error: None,
            phases: GuestPhases::default(),
            log_truncated: false,
        };
        if self.handler == "broken" {
            events.send(line("main.go:1: broken")).await.unwrap();
            report.error = Some(FunctionError {
                kind: FunctionErrorKind::FunctionExited,
                message: "the function exited with status 1; its stderr ends with: broken".into(),
                detail: None,
            });
        } else {
            report.output = Some(serde_json::value::to_raw_value(&()).unwrap());
        }
        Ok(report)
    }

    async fn export(&self, _: usize) -> Result<Vec<u8>, ExecError> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_size(4);
        tar.append_data(&mut header, "handler", &b"\x7fELF"[..]).unwrap();
        Ok(tar.into_inner().unwrap())
    }

    async fn died(&self) -> String {
        std::future::pending().await
    }

    async fn stop(self: Box<Self>) {}
}

struct FakeVm {
    id: VmId,
    env: BTreeMap<String, String>,
}

#[async_trait]
impl MicroVm for FakeVm {
    fn id(&self) -> &VmId {
        &self.id
    }

    /// `{"fail": kind}` fails so, `{"log": text}` logs, `{"env": name}` answers a variable,
    /// `{"lose": true}` loses the guest; anything else is answered as it came.
    async fn exec(&self, request: ExecRequest, events: EventSink) -> Result<ExecReport, ExecError> {
        let input: Value = serde_json::from_str(request.input.get()).unwrap();
        if input["lose"] == json!(true) {
            return Err(ExecError::Lost("it fell over".into()));
        }
        if let Some(text) = input["log"].as_str() {
            let line =
                LogLine { time_unix_ms: 1_000, stream: LogStream::Stderr, text: text.to_owned() };
            events.send(line).await.unwrap();
        }
        let kind: Option<FunctionErrorKind> = serde_json::from_value(input["fail"].clone()).ok();
        let error = kind.map(|kind| FunctionError {
            kind,
            message: "as asked".into(),
            detail: Some(json!({ "asked": true })),
        });
        let output = match input["env"].as_str() {
            Some(name) => serde_json::value::to_raw_value(&self.env.get(name)).unwrap(),
            None => request.input,
        };
        Ok(ExecReport {
            output: error.is_none().then_some(output),
            error,
            phases: GuestPhases { init_us: 500, exec_us: 1_500 },
            log_truncated: false,
        })
    }

    async fn died(&self) -> String {
        std::future::pending().await
    }

    async fn stop(self: Box<Self>) {}
}
