//! The Extensions API, at the minimum: programs in the guest that want to be told of each event.
//!
//! Libraries register themselves from inside the runtime's process. They get their INVOKE events; there
//! is no SHUTDOWN event to be had here, for a process that is ended is killed.
use super::delivery::Invocation;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::Read;

/// Most extensions of a function, as on AWS.
const EXTENSIONS_MAX: usize = 10;
/// Most events that wait for an extension; the oldest go first. It reads one per call.
const EVENTS_MAX: usize = 128;
/// Longest name of an extension, bytes; it is a file's name.
const NAME_MAX_BYTES: usize = 255;

struct Extension {
    name: String,
    identifier: String,
    wants_invoke: bool,
    events: VecDeque<Value>,
}

/// The extensions of one process.
#[derive(Default)]
pub struct Extensions {
    registered: Vec<Extension>,
    /// Set once: part of each event.
    function_arn: String,
}

/// An error of this API: its type and message.
pub type Problem = (&'static str, &'static str);

#[derive(Deserialize)]
struct Registration {
    #[serde(default)]
    events: Vec<String>,
}

impl Extensions {
    /// Says which function this is.
    pub fn set_function_arn(&mut self, arn: String) {
        self.function_arn = arn;
    }

    /// Registers an extension; its identifier.
    pub fn register(&mut self, name: Option<&str>, body: &[u8]) -> Result<String, Problem> {
        let name = name.filter(|name| !name.is_empty() && name.len() <= NAME_MAX_BYTES);
        let name = name.ok_or((
            "Extension.InvalidExtensionName",
            "the header Lambda-Extension-Name is missing or too long",
        ))?;
        let wanted = serde_json::from_slice::<Registration>(body).map_err(|_| {
            ("Extension.InvalidRequest", "the body is no {\"events\": [\"INVOKE\", \"SHUTDOWN\"]}")
        })?;
        if wanted.events.iter().any(|event| event != "INVOKE" && event != "SHUTDOWN") {
            return Err(("Extension.InvalidEventType", "events are INVOKE and SHUTDOWN"));
        }
        if self.registered.iter().any(|extension| extension.name == name) {
            return Err(("Extension.AlreadyRegistered", "an extension of this name is registered"));
        }
        if self.registered.len() >= EXTENSIONS_MAX {
            return Err(("Extension.TooManyExtensions", "a function has at most 10 extensions"));
        }
        let identifier = random_uuid()
            .map_err(|_| ("Extension.InternalError", "the guest has no random numbers"))?;
        self.registered.push(Extension {
            name: name.to_owned(),
            identifier: identifier.clone(),
            wants_invoke: wanted.events.iter().any(|event| event == "INVOKE"),
            events: VecDeque::new(),
        });
        Ok(identifier)
    }

    /// Checks an identifier that a client sent.
    pub fn check(&self, identifier: Option<&str>) -> Result<(), Problem> {
        let identifier = identifier.ok_or((
            "Extension.MissingExtensionIdentifier",
            "the header Lambda-Extension-Identifier is missing",
        ))?;
        if self.registered.iter().any(|extension| extension.identifier == identifier) {
            return Ok(());
        }
        Err(("Extension.UnknownExtensionIdentifier", "no extension has this identifier"))
    }

    /// The next event of an extension.
    pub fn next(&mut self, identifier: &str) -> Option<Value> {
        let extension =
            self.registered.iter_mut().find(|extension| extension.identifier == identifier)?;
        extension.events.pop_front()
    }

    /// Tells those who want to know that an event was handed over.
    pub fn announce(&mut self, invocation: &Invocation) {
        for extension in self.registered.iter_mut().filter(|extension| extension.wants_invoke) {
            if extension.events.len() >= EVENTS_MAX {
                extension.events.pop_front();
            }
            let mut event = json!({
                "eventType": "INVOKE",
                "deadlineMs": invocation.deadline_unix_ms,
                "requestId": invocation.request_id,
                "invokedFunctionArn": self.function_arn,
            });
            if let Some(trace_id) = &invocation.trace_id {
                event["tracing"] = json!({"type": "X-Amzn-Trace-Id", "value": trace_id});
            }
            extension.events.push_back(event);
        }
    }
}

/// A random UUID (version 4).
fn random_uuid() -> std::io::Result<String> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}
