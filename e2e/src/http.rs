//! A client that shows the whole answer, and functions that go away with their test.
use crate::setting;
use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Longest wait for an answer: beyond every timeout that a test sets, and what makes a test of a daemon that
/// forgot a caller fail instead of hang.
const ANSWER_MAX: Duration = Duration::from_secs(400);

/// One daemon, spoken to with one key.
#[derive(Clone)]
pub struct Nova {
    client: reqwest::Client,
    url: String,
    key: String,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body as text.
    pub text: String,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text)
            .unwrap_or_else(|error| panic!("{error} in the answer {}", self.excerpt()))
    }

    /// The body of an answer that must be a success; null where there is none.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!(self.status.is_success(), "{}: {}", self.status, self.excerpt());
        if self.text.is_empty() { Value::Null } else { self.json() }
    }

    /// Asserts a problem document with this status and code, and returns it.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> Value {
        let problem = self.json();
        assert_eq!(
            (self.status.as_u16(), problem["code"].as_str()),
            (status, Some(code)),
            "{problem}"
        );
        assert_eq!(self.headers["content-type"], "application/problem+json");
        problem
    }

    fn excerpt(&self) -> String {
        self.text.chars().take(2000).collect()
    }
}

impl Nova {
    /// The daemon that the suite was started for.
    pub fn from_env() -> Self {
        Self::at(&setting("NOVA_URL"), &setting("NOVA_API_KEY"))
    }

    /// A daemon at `url`.
    pub fn at(url: &str, key: &str) -> Self {
        // Plain HTTP only: the machine of the testbed has no certificates to load.
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).timeout(ANSWER_MAX);
        let client = client.build().expect("a plain client");
        Self { client, url: url.trim_end_matches('/').to_owned(), key: key.to_owned() }
    }

    /// The address of the daemon.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The key in use.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// A request with the key; send it with [`send`](Self::send).
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url)).bearer_auth(&self.key)
    }

    /// Sends a request and reads the answer.
    pub async fn send(&self, request: RequestBuilder) -> Answer {
        let response = request.send().await.expect("the daemon answers");
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await.expect("a whole body");
        Answer { status, headers, text }
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    /// POST with a JSON body.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    /// PATCH with a JSON body.
    pub async fn patch(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::PATCH, path).json(body)).await
    }

    /// PUT with a JSON body.
    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::PUT, path).json(body)).await
    }

    /// DELETE.
    pub async fn delete(&self, path: &str) -> Answer {
        self.send(self.request(Method::DELETE, path)).await
    }

    /// Creates a function with a name of its own. `fields` are added to runtime and code.
    pub async fn function(&self, runtime: &str, code: &str, fields: Value) -> FunctionUnderTest {
        let mut body = json!({"runtime": runtime, "code": code, "timeout_s": 60});
        merge(&mut body, fields);
        self.create(body).await
    }

    /// Creates a function from the whole body, but for its name.
    pub async fn create(&self, mut body: Value) -> FunctionUnderTest {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("e2e-{}-{count}", std::process::id());
        body["name"] = json!(name);
        self.post("/functions", &body).await.ok();
        FunctionUnderTest { nova: self.clone(), name }
    }
}

/// A function that a test made. Call [`delete`](Self::delete) at the end of the test; one that
/// failed leaves its function for a look.
pub struct FunctionUnderTest {
    nova: Nova,
    /// Its name.
    pub name: String,
}

impl FunctionUnderTest {
    /// Invokes it and returns the whole answer.
    pub async fn invoke(&self, payload: &Value) -> Answer {
        self.nova.post(&self.path("/invoke"), payload).await
    }

    /// Invokes it; the call must succeed without an error of the function.
    pub async fn call(&self, payload: &Value) -> Value {
        let answer = self.invoke(payload).await.ok();
        assert!(answer.get("error").is_none_or(Value::is_null), "{answer}");
        answer
    }

    /// Invokes it; the call must succeed. Returns only the function's output.
    pub async fn output(&self, payload: &Value) -> Value {
        self.call(payload).await["output"].take()
    }

    /// Invokes it; the function must fail with an error of this kind, which is returned.
    pub async fn failure(&self, payload: &Value, kind: &str) -> Value {
        let mut answer = self.invoke(payload).await.ok();
        assert_eq!(answer["error"]["kind"], kind, "{answer}");
        answer["error"].take()
    }

    /// Changes fields of it.
    pub async fn update(&self, fields: &Value) {
        self.nova.patch(&self.path(""), fields).await.ok();
    }

    /// Its states in `GET /stats`, sorted.
    pub async fn vm_states(&self) -> Vec<String> {
        let stats = self.nova.get("/stats").await.ok();
        let vms = stats["vms"].as_array().expect("a list of VMs").clone();
        let mut states: Vec<_> = vms
            .iter()
            .filter(|vm| vm["function"] == self.name.as_str())
            .map(|vm| vm["state"].as_str().expect("a state").to_owned())
            .collect();
        states.sort();
        states
    }

    /// `/functions/<name>` and what follows.
    pub fn path(&self, rest: &str) -> String {
        format!("/functions/{}{rest}", self.name)
    }

    /// Removes it.
    pub async fn delete(self) {
        let answer = self.nova.delete(&self.path("")).await;
        assert!(answer.status.is_success(), "{}: {}", answer.status, answer.text);
    }
}

fn merge(body: &mut Value, fields: Value) {
    let (Some(body), Value::Object(fields)) = (body.as_object_mut(), fields) else {
        panic!("fields of a function are an object");
    };
    body.extend(fields);
}
