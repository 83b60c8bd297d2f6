//! Request bodies: read within a limit, parsed strictly, refused with the field that is wrong.
//!
//! A body over its limit is answered 413 without being stored. What the client is still sending is
//! read and thrown away first, up to a bound: a client that only writes before it reads would
//! otherwise see a reset connection instead of the answer.
//!
//! All bodies together take no more than [`Bodies`] has room for, however many clients send: a piece that
//! has no room is answered 429. What was read counts until its handler is through with it.
use super::bodies::{Bodies, Held};
use super::object::Object;
use super::problem::{ErrorCode, Problem};
use crate::suggest::nearest;
use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use nova_domain::InvalidField;
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::time::Instant;

/// Longest pause between two pieces of a body: long for any network, short enough that connections
/// which stopped sending do not pile up.
const PIECE_TIMEOUT: Duration = Duration::from_secs(30);
/// What a body has to arrive at on the whole, bytes per second: below any link that people deploy over,
/// and what ends a body of which one byte comes now and then.
const RATE_MIN: u64 = 16 * 1024;
/// How long a body may take beyond what [`RATE_MIN`] asks of it.
const RATE_GRACE: Duration = Duration::from_secs(30);
/// Most bytes that are read only to be thrown away.
const DISCARD_MAX_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes allocated before any arrived. They are not counted: what most calls send is taken even while
/// uploads fill all the room, and the number of connections bounds it.
const FIRST_ALLOCATION_BYTES: usize = 8 * 1024;

/// A body that was read.
#[derive(Debug)]
pub struct Received {
    /// All of it.
    pub bytes: Bytes,
    /// To be kept for as long as the bytes, or what was decoded of them, are.
    pub held: Held,
}

/// How large a body may be, and what it is called when it is larger.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// Most bytes.
    pub bytes: usize,
    /// What the body is, for the error.
    pub what: &'static str,
    /// The code of the error.
    pub code: ErrorCode,
}

/// Reads a whole body, or refuses it.
pub async fn read(
    bodies: &Bodies,
    headers: &HeaderMap,
    body: Body,
    limit: Limit,
) -> Result<Received, Problem> {
    let mut held = bodies.hold(0)?;
    let mut body = Incoming::new(body);
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit.bytes as u64) {
        discard(headers, body, announced).await;
        return Err(too_large(limit));
    }
    let mut bytes = BytesMut::with_capacity(
        announced.map_or(FIRST_ALLOCATION_BYTES, |n| FIRST_ALLOCATION_BYTES.min(n as usize)),
    );
    while let Some(piece) = body.next_piece().await? {
        if bytes.len() + piece.len() > limit.bytes {
            drop(bytes);
            discard(headers, body, None).await;
            return Err(too_large(limit));
        }
        let counted = |length: usize| length.saturating_sub(FIRST_ALLOCATION_BYTES);
        match bodies.hold(counted(bytes.len() + piece.len()) - counted(bytes.len())) {
            Ok(more) => held.add(more),
            Err(full) => {
                drop((bytes, held));
                discard(headers, body, None).await;
                return Err(full);
            }
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(Received { bytes: bytes.freeze(), held })
}

/// A body that is arriving, and has to keep arriving.
struct Incoming {
    body: Body,
    began: Instant,
    received: u64,
}

impl Incoming {
    fn new(body: Body) -> Self {
        Self { body, began: Instant::now(), received: 0 }
    }

    /// The next bytes; `None` at the end.
    async fn next_piece(&mut self) -> Result<Option<Bytes>, Problem> {
        let too_slow = |detail| Problem::new(ErrorCode::RequestTimeout, detail);
        loop {
            let earned = Duration::from_secs(self.received / RATE_MIN);
            let end = self.began + RATE_GRACE + earned;
            let piece_end = Instant::now() + PIECE_TIMEOUT;
            let frame = tokio::time::timeout_at(end.min(piece_end), self.body.frame()).await;
            let frame = frame.map_err(|_| match end < piece_end {
                true => too_slow(format!(
                    "the body comes slower than {} KiB per second; send it again",
                    RATE_MIN / 1024
                )),
                false => too_slow(format!(
                    "nothing arrived for {} s; send it again",
                    PIECE_TIMEOUT.as_secs()
                )),
            })?;
            match frame {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.received += data.len() as u64;
                        return Ok(Some(data));
                    }
                }
                Some(Err(error)) => {
                    let detail = format!("the body broke off: {error}");
                    return Err(Problem::new(ErrorCode::BadRequest, detail));
                }
            }
        }
    }
}

async fn discard(headers: &HeaderMap, mut body: Incoming, announced: Option<u64>) {
    let client_waits_for_leave = headers.contains_key(header::EXPECT);
    if client_waits_for_leave || announced.is_some_and(|length| length > DISCARD_MAX_BYTES) {
        return;
    }
    let mut discarded = 0;
    while discarded < DISCARD_MAX_BYTES {
        match body.next_piece().await {
            Ok(Some(piece)) => discarded += piece.len() as u64,
            Ok(None) | Err(_) => return,
        }
    }
}

fn too_large(limit: Limit) -> Problem {
    let Limit { bytes, what, code } = limit;
    Problem::new(code, format!("{what} is over the limit of {bytes} bytes"))
}

/// Reads a JSON object that is all of `bytes`. The content type is not looked at: a key in a header is what
/// authorizes a request, and `curl -d` sends forms unless told otherwise.
pub fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let Object(value) = serde_path_to_error::deserialize(&mut deserializer)
        .map_err(|error| json_problem(&error.path().to_string(), error.inner()))?;
    deserializer.end().map_err(|error| {
        let detail = format!("{error}; send one JSON value and nothing behind it");
        Problem::new(ErrorCode::InvalidJson, detail)
    })?;
    Ok(value)
}

fn json_problem(path: &str, error: &serde_json::Error) -> Problem {
    if !error.is_data() {
        return Problem::new(ErrorCode::InvalidJson, format!("{error}; send one JSON object"));
    }
    let text = error.to_string();
    match unknown_name(&text, "unknown field ") {
        Some((name, known)) => {
            // The path ends with the name, whole, as the client wrote it.
            let parent = path.rsplit_once('.').map_or("", |(parent, _)| parent);
            let field = match parent {
                "" | "." => name.clone(),
                parent => format!("{parent}.{name}"),
            };
            let hint = match nearest(&name, known.iter().map(String::as_str)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known are: {}", known.join(", ")),
            };
            let error = InvalidField::new(field, "no such field", hint);
            Problem::fields(ErrorCode::UnknownField, vec![error])
        }
        None => {
            let field = if path == "." { "body" } else { path };
            // serde appends the position; the field says it better. It also quotes the value, which
            // may be a secret.
            let problem = text.split(" at line ").next().unwrap_or(&text);
            let problem =
                match (problem.strip_prefix("invalid type: "), problem.rfind(", expected ")) {
                    (Some(_), Some(end)) => format!("not of the right type{}", &problem[end..]),
                    _ => problem.to_owned(),
                };
            let hint = "give a value of the type that the field has";
            Problem::from(InvalidField::new(field, problem, hint))
        }
    }
}

/// Reads serde's own sentence: ``unknown field `x`, expected one of `a`, `b` ``, of which no
/// structured form exists.
pub fn unknown_name(message: &str, prefix: &str) -> Option<(String, Vec<String>)> {
    let start = message.find(prefix)?;
    let mut quoted = message[start..].split('`').skip(1).step_by(2).map(str::to_owned);
    let name: String = quoted.next()?.chars().take(64).collect();
    Some((name, quoted.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only the errors matter here")]
    struct Outer {
        memory_mb: Option<u32>,
        limits: Option<Object<Inner>>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only the errors matter here")]
    struct Inner {
        vcpus: Option<u32>,
        disk_iops: Option<u64>,
    }

    fn refusal(text: &str) -> serde_json::Value {
        json::<Outer>(text.as_bytes()).unwrap_err().json()
    }

    const LIMIT: Limit =
        Limit { bytes: 1 << 20, what: "the body", code: ErrorCode::PayloadTooLarge };

    /// A body of `count` pieces of so many bytes with a pause before each.
    fn body(count: usize, bytes: usize, pause: Duration) -> Body {
        Body::from_stream(futures::stream::unfold(0, move |sent| async move {
            if sent == count {
                return None;
            }
            tokio::time::sleep(pause).await;
            Some((Ok::<_, std::io::Error>(vec![b'x'; bytes]), sent + 1))
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_drips_is_ended_and_one_that_flows_slowly_is_not() {
        let bodies = Bodies::default();
        let read = async |body| read(&bodies, &HeaderMap::new(), body, LIMIT).await;
        let flowing = read(body(32, 32 * 1024, Duration::from_secs(2))).await.unwrap();
        assert_eq!(flowing.bytes.len(), 1 << 20);
        let began = Instant::now();
        let problem = read(body(100, 1, Duration::from_secs(20))).await.unwrap_err();
        assert_eq!(problem.code(), ErrorCode::RequestTimeout);
        assert!(began.elapsed() <= 2 * RATE_GRACE, "{:?}", began.elapsed());
        let stopped = read(body(1, 1, Duration::from_secs(3600))).await.unwrap_err();
        assert_eq!(stopped.code(), ErrorCode::RequestTimeout);
    }

    #[tokio::test(start_paused = true)]
    async fn all_bodies_share_their_room_and_give_it_back() {
        let bodies = Bodies::of(LIMIT.bytes);
        let second = Duration::from_secs(1);
        let read = async |body| read(&bodies, &HeaderMap::new(), body, LIMIT).await;
        let half = read(body(8, 64 * 1024, second)).await.unwrap();
        // Both have announced nothing; there is room for one of them.
        let (one, other) =
            tokio::join!(read(body(7, 64 * 1024, second)), read(body(7, 64 * 1024, second)));
        let refused = [one, other].into_iter().find_map(Result::err).unwrap().json();
        assert_eq!((&refused["code"], &refused["retry_after_s"]), (&"saturated".into(), &1.into()));
        drop(half);
        assert!(read(body(16, 64 * 1024, second)).await.is_ok(), "all of it is free again");
    }

    #[test]
    fn an_unknown_field_is_named_and_the_nearest_one_suggested() {
        let problem = refusal(r#"{"memory": 1}"#);
        assert_eq!(problem["code"], "unknown_field");
        assert_eq!(problem["errors"][0]["field"], "memory");
        assert_eq!(problem["errors"][0]["hint"], "did you mean `memory_mb`?");
        let problem = refusal(r#"{"limits": {"vcpu": 1}}"#);
        assert_eq!(problem["errors"][0]["field"], "limits.vcpu");
        assert_eq!(problem["errors"][0]["hint"], "did you mean `vcpus`?");
        let problem = refusal(r#"{"zzz": 1}"#);
        assert_eq!(problem["errors"][0]["hint"], "known are: memory_mb, limits");
    }

    #[test]
    fn a_value_of_the_wrong_type_is_named_by_its_path() {
        let problem = refusal(r#"{"limits": {"vcpus": "two"}}"#);
        assert_eq!(problem["code"], "invalid_field");
        assert_eq!(problem["errors"][0]["field"], "limits.vcpus");
        assert_eq!(refusal(r#"{"memory_mb": -1}"#)["errors"][0]["field"], "memory_mb");
        for array in ["[]", "[64]"] {
            assert_eq!(refusal(array)["errors"][0]["field"], "body", "{array}");
        }
        assert_eq!(refusal(r#"{"limits": [2]}"#)["errors"][0]["field"], "limits");
    }

    #[test]
    fn what_is_not_one_json_value_is_refused() {
        for text in ["", "{", "nonsense", "{} x", "{}{}", "{\"memory_mb\": 1}]"] {
            assert_eq!(refusal(text)["code"], "invalid_json", "{text:?}");
        }
        assert!(json::<Outer>(b" {\"memory_mb\": 64}\r\n").is_ok());
    }
}
