//! Source is built in the background; what is served meanwhile and afterwards, and what is refused.
use super::fixture::{Answer, Fixture};
use axum::http::Method;
use nova_domain::{Build, CodeHash, FunctionName};
use serde_json::{Value, json};

/// Source of a function whose handler says what becomes of its build; see the fixture's driver.
fn source(name: &str, handler: &str) -> Value {
    json!({ "name": name, "runtime": "go", "code": "package main\n", "handler": handler })
}

/// The build's log to its end, and the function then.
async fn built(fixture: &Fixture, name: &str) -> (Vec<String>, Value) {
    let (mut lines, mut next) = (Vec::new(), 0);
    loop {
        let path = format!("/functions/{name}/build?after={next}&wait=true");
        let part = fixture.get(&path).await.json();
        let new = part["lines"].as_array().unwrap_or_else(|| panic!("{part}"));
        lines.extend(new.iter().map(|line| line.as_str().unwrap().to_owned()));
        next = part["next"].as_u64().unwrap();
        if part["status"] != "pending" {
            return (lines, fixture.get(&format!("/functions/{name}")).await.json());
        }
    }
}

async fn invoke(fixture: &Fixture, name: &str) -> Answer {
    fixture.post(&format!("/functions/{name}/invoke"), json!({"n": 1})).await
}

#[tokio::test]
async fn source_is_answered_at_once_and_called_when_it_is_built() {
    let fixture = Fixture::new().await;
    let created = fixture.post("/functions", source("f", "handler")).await;
    assert_eq!(created.status, 201);
    assert_eq!(created.json()["status"], "pending");
    let (lines, function) = built(&fixture, "f").await;
    assert_eq!(lines, ["compiling"]);
    assert_eq!(function["status"], "ready");
    assert_eq!(function["build"], json!({"status": "ready", "error": null, "log": ["compiling"]}));
    let listed = fixture.get("/functions").await.json()["items"][0]["build"].clone();
    assert_eq!(listed, json!({"status": "ready", "error": null}), "a list has no logs");
    assert_eq!(function["version"], 1);
    assert_ne!(function["code_hash"], created.json()["code_hash"]);
    assert_eq!(invoke(&fixture, "f").await.json()["output"], json!({"n": 1}));
}

#[tokio::test]
async fn the_same_source_is_compiled_once() {
    let fixture = Fixture::new().await;
    fixture.post("/functions", source("one", "handler")).await;
    let (_, one) = built(&fixture, "one").await;
    fixture.post("/functions", source("two", "handler")).await;
    let (lines, two) = built(&fixture, "two").await;
    assert!(lines[0].contains("built before"), "{lines:?}");
    assert_eq!((&two["status"], &two["code_hash"]), (&json!("ready"), &one["code_hash"]));
}

#[tokio::test]
async fn a_result_that_is_used_again_is_not_collected_before_its_function_refers_to_it() {
    let fixture = Fixture::new().await;
    fixture.post("/functions", source("one", "handler")).await;
    let (_, one) = built(&fixture, "one").await;
    let blobs = fixture.blobs().await;
    let next = fixture.builds(blobs.clone());
    next.resume().await.unwrap();
    // The same source is to be built once more.
    let name = FunctionName::parse("one").unwrap();
    let mut two = fixture.api.store.function(&name).await.unwrap().unwrap();
    let revision = two.revision;
    let build = two.build.take().unwrap();
    two.build = Some(Build::pending(build.kind, build.source.clone(), build.config));
    two.revision += 1;
    fixture.api.store.replace_function(&two, revision).await.unwrap();
    next.submit(two);
    let log = next.log(&name, &build.source).unwrap();
    log.changed(usize::MAX).await;
    assert!(log.part(0).lines[0].contains("built before"), "{log:?}");
    blobs.retain(&[]).await.unwrap();
    let hash = CodeHash::try_from(one["code_hash"].as_str().unwrap().to_owned()).unwrap();
    assert!(blobs.get(&hash).await.is_ok(), "it counts as new");
}

#[tokio::test]
async fn what_the_compiler_said_is_in_the_functions_status_and_in_the_answer_to_a_call() {
    let fixture = Fixture::new().await;
    fixture.post("/functions", source("f", "broken")).await;
    let (_, function) = built(&fixture, "f").await;
    assert_eq!(function["status"], "failed");
    let error = function["build"]["error"].as_str().unwrap();
    assert!(error.contains("exited with status 1:\ncompiling\nmain.go:1: broken"), "{error}");
    let (status, code, _) = invoke(&fixture, "f").await.problem();
    assert_eq!((status, code.as_str()), (409, "build_failed"));
    // Corrected source makes it work.
    fixture.send(Method::PATCH, "/functions/f", source("f", "handler").to_string()).await;
    let (_, function) = built(&fixture, "f").await;
    assert_eq!((&function["status"], &function["version"]), (&json!("ready"), &json!(1)));
    assert_eq!(invoke(&fixture, "f").await.status, 200);
}

#[tokio::test]
async fn an_update_that_does_not_build_changes_nothing_of_what_serves() {
    let fixture = Fixture::new().await;
    fixture.post("/functions", source("f", "handler")).await;
    let (_, before) = built(&fixture, "f").await;
    let mut update = source("f", "broken");
    update["memory_mb"] = json!(256);
    let answer = fixture.send(Method::PATCH, "/functions/f", update.to_string()).await;
    assert_eq!(answer.status, 200, "{:?}", answer.json());
    let (_, after) = built(&fixture, "f").await;
    for field in ["status", "code_hash", "handler", "memory_mb", "version"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    assert_eq!(after["build"]["status"], "failed");
    assert_eq!(invoke(&fixture, "f").await.json()["output"], json!({"n": 1}));
}

#[tokio::test]
async fn a_function_that_is_being_built_is_neither_called_nor_changed_and_can_be_deleted() {
    let fixture = Fixture::new().await;
    fixture.post("/functions", source("f", "hangs")).await;
    // 512 MiB of its recipe and 16 of the backend's.
    fixture.until("/stats", |stats| stats["memory_mb"] == 528).await;
    let (status, code, _) = invoke(&fixture, "f").await.problem();
    assert_eq!((status, code.as_str()), (409, "build_pending"));
    let change = json!({"memory_mb": 256}).to_string();
    let (status, code, _) = fixture.send(Method::PATCH, "/functions/f", change).await.problem();
    assert_eq!((status, code.as_str()), (409, "build_in_progress"));
    assert_eq!(fixture.send(Method::DELETE, "/functions/f", "").await.status, 204);
    fixture.until("/stats", |stats| stats["memory_mb"] == 0).await;
    fixture.api.builds.stop().await;
}

#[tokio::test]
async fn a_build_that_a_daemon_left_pending_is_begun_again_by_the_next() {
    let fixture = Fixture::new().await;
    fixture.post("/functions", source("f", "hangs")).await;
    fixture.api.builds.stop().await;
    let name = FunctionName::parse("f").unwrap();
    let mut left = fixture.api.store.function(&name).await.unwrap().unwrap();
    assert!(left.is_being_built(), "the end of a daemon is not the end of a build");
    let revision = left.revision;
    if let Some(build) = &mut left.build {
        build.config.handler = "handler".into();
    }
    fixture.api.store.replace_function(&left, revision).await.unwrap();
    let next = fixture.builds(fixture.blobs().await);
    next.resume().await.unwrap();
    let ready = |function: &Value| function["status"] == "ready";
    fixture.until("/functions/f", ready).await;
}

#[tokio::test]
async fn however_many_builds_wait_each_can_be_followed_and_cancelled() {
    let fixture = Fixture::new().await;
    for n in 0..70 {
        fixture.post("/functions", source(&format!("f{n}"), "hangs")).await;
    }
    let name = FunctionName::parse("f0").unwrap();
    let build = fixture.api.store.function(&name).await.unwrap().unwrap().build.unwrap();
    let log = fixture.api.builds.log(&name, &build.source).expect("the first is still known");
    assert!(!log.has_ended());
    fixture.api.builds.stop().await;
    assert!(log.has_ended(), "nobody waits for more of it");
}

#[tokio::test]
async fn a_daemon_that_stops_does_not_wait_for_those_who_follow_builds() {
    let fixture = Fixture::new().await;
    fixture.post("/functions", source("f", "hangs")).await;
    fixture.api.draining.cancel();
    let follow = fixture.get("/functions/f/build?after=1&wait=true");
    let stopped = async {
        // Far less than a reader waits, and far more than these calls take.
        let others = (0..50).map(|_| fixture.get("/functions/f"));
        for other in others {
            other.await;
        }
    };
    tokio::select! {
        part = follow => assert_eq!(part.json()["status"], "pending"),
        () = stopped => panic!("the reader was not answered"),
    }
    fixture.api.builds.stop().await;
}

#[tokio::test]
async fn who_follows_a_build_before_it_is_begun_waits_for_it() {
    let fixture = Fixture::new().await;
    fixture.post("/functions", source("f", "handler")).await;
    built(&fixture, "f").await;
    let name = FunctionName::parse("f").unwrap();
    let mut left = fixture.api.store.function(&name).await.unwrap().unwrap();
    let revision = left.revision;
    let build = left.build.take().unwrap();
    // What the daemon before this one left, of which this one knows nothing yet.
    let other = CodeHash::of(b"other source");
    left.build = Some(Build::pending(build.kind, other, build.config));
    left.revision += 1;
    fixture.api.store.replace_function(&left, revision).await.unwrap();
    let follow = fixture.get("/functions/f/build?wait=true");
    let begin = async {
        // Meanwhile a reader who does not wait has its answer.
        for _ in 0..20 {
            fixture.get("/functions/f").await;
        }
        fixture.api.builds.submit(left);
    };
    let (part, ()) = tokio::join!(follow, begin);
    assert_eq!(part.json()["lines"], json!(["compiling"]));
}

#[tokio::test]
async fn source_without_a_compiler_is_refused_with_the_command_that_installs_it() {
    let fixture = Fixture::new().await;
    let mut body = source("f", "handler");
    body["runtime"] = json!("rust");
    let answer = fixture.post("/functions", body).await;
    let (status, code, _) = answer.problem();
    assert_eq!((status, code.as_str()), (409, "builder_not_installed"));
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("`nova runtime add --builder rust`"), "{detail}");
    assert_eq!(fixture.get("/functions/f").await.status, 404);
}

#[tokio::test]
async fn a_function_that_is_run_as_it_is_has_no_build() {
    let fixture = Fixture::new().await;
    let created = fixture.create("plain").await;
    assert_eq!((&created["status"], &created["build"]), (&json!("ready"), &Value::Null));
    let (status, code, _) = fixture.get("/functions/plain/build").await.problem();
    assert_eq!((status, code.as_str()), (404, "build_not_found"));
}
