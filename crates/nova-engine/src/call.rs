//! One call while it runs: what is known of it so far, so that however it ends, it is counted and
//! recorded exactly once. A [`Call`] that is dropped before its end was told is one whose caller left.
use crate::executor::Shared;
use crate::plan::Plan;
use crate::pool::{Lease, ms};
use crate::{InvokeError, Status};
use chrono::{DateTime, Utc};
use nova_domain::{
    FunctionErrorKind, Invocation, InvocationRecord, LogRecord, Outcome, Phases, Start,
};
use nova_proto::{ExecReport, LOG_MAX_BYTES, LogLine, LogStream, PAYLOAD_MAX_BYTES};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::time::Instant;

/// Most bytes that one call's log may take in memory, the cost of its lines included. The agent's own
/// bound is on text alone; a line costs more than its text.
const LOG_MAX_COST_BYTES: usize = 2 * LOG_MAX_BYTES;

/// Most bytes of the payloads of all calls that wait or run, each at most
/// [`PAYLOAD_MAX_BYTES`]: queues are bounded by callers, and a thousand callers with the largest
/// payload would take 6 GiB.
const PAYLOADS_MAX_BYTES: u64 = 512 * 1024 * 1024;

pub(crate) struct Call<'a> {
    shared: &'a Shared,
    /// Without its payload.
    record: InvocationRecord,
    arrived: Instant,
    /// Known once the function is; calls of functions that do not exist leave no trace.
    plan: Option<Arc<Plan>>,
    logs: Vec<LogRecord>,
    log_cost: usize,
    /// What its payload adds to [`Shared::payload_bytes`].
    payload_bytes: u64,
    status: Status,
}

impl<'a> Call<'a> {
    pub fn begin(shared: &'a Shared, invocation: &Invocation) -> Self {
        shared.metrics.active_requests.fetch_add(1, Ordering::Relaxed);
        let record = InvocationRecord {
            request_id: invocation.request_id,
            attempt: invocation.attempt,
            function: invocation.function.clone(),
            version: 0,
            trigger: invocation.trigger,
            start: None,
            duration_ms: 0.0,
            phases: Phases::default(),
            error_code: Some("cancelled".into()),
            error_message: Some("the caller went away".into()),
            node: shared.config.node.clone(),
            created_at: Utc::now(),
        };
        Self {
            shared,
            record,
            arrived: Instant::now(),
            plan: None,
            logs: Vec::new(),
            log_cost: 0,
            payload_bytes: 0,
            status: Status::Cancelled,
        }
    }

    /// Counts its payload, unless it is too large or all of them together would be.
    pub fn hold_payload(&mut self, bytes: usize) -> Result<(), InvokeError> {
        if bytes > PAYLOAD_MAX_BYTES {
            return Err(InvokeError::PayloadTooLarge { bytes, limit: PAYLOAD_MAX_BYTES });
        }
        self.payload_bytes = bytes as u64;
        let held = self.shared.payload_bytes.fetch_add(self.payload_bytes, Ordering::Relaxed);
        if held + self.payload_bytes > PAYLOADS_MAX_BYTES {
            return Err(InvokeError::PayloadsFull { held_mb: held / (1024 * 1024) });
        }
        Ok(())
    }

    /// The function is known.
    pub fn found(&mut self, plan: &Arc<Plan>) {
        self.record.version = plan.function.version;
        self.plan = Some(Arc::clone(plan));
    }

    /// It has a VM.
    pub fn granted(&mut self, lease: &Lease) -> Start {
        self.found(lease.plan());
        let start = lease.waited().start();
        self.record.phases = lease.waited().phases();
        self.record.start = Some(start);
        start
    }

    /// The function wrote a line.
    pub fn log(&mut self, line: &LogLine) {
        if self.log_cost > LOG_MAX_COST_BYTES {
            return;
        }
        self.log_cost += line.text.len() + size_of::<LogRecord>();
        let cut = self.log_cost > LOG_MAX_COST_BYTES;
        // A guest may claim any time; one that no calendar has is replaced by the host's.
        let time = i64::try_from(line.time_unix_ms).ok().and_then(DateTime::from_timestamp_millis);
        self.logs.push(LogRecord {
            function: self.record.function.clone(),
            request_id: self.record.request_id,
            attempt: self.record.attempt,
            sequence: self.logs.len() as u32,
            time: time.unwrap_or_else(Utc::now),
            stream: if cut { LogStream::System } else { line.stream },
            text: if cut {
                "the rest of the log was too long to keep".into()
            } else {
                line.text.clone()
            },
        });
    }

    /// The guest has answered.
    pub fn answered(mut self, report: ExecReport, start: Start) -> Outcome {
        self.record.phases.init_ms = report.phases.init_us as f64 / 1000.0;
        self.record.phases.exec_ms = report.phases.exec_us as f64 / 1000.0;
        self.status = match &report.error {
            None => Status::Success,
            Some(error) => match error.kind {
                FunctionErrorKind::Timeout => Status::Timeout,
                FunctionErrorKind::Cancelled => Status::Cancelled,
                _ => Status::FunctionError,
            },
        };
        self.record.error_code = report.error.as_ref().map(|error| error_code(error.kind).into());
        self.record.error_message = report.error.as_ref().map(|error| error.message.clone());
        self.record.duration_ms = ms(self.arrived.elapsed());
        Outcome {
            request_id: self.record.request_id,
            output: report.output,
            error: report.error,
            duration_ms: self.record.duration_ms,
            start,
            version: self.record.version,
            phases: self.record.phases,
        }
    }

    /// There is no answer.
    pub fn failed(mut self, error: &InvokeError) {
        self.status = match error {
            InvokeError::Saturated { .. }
            | InvokeError::PayloadsFull { .. }
            | InvokeError::AcquireTimeout { .. }
            | InvokeError::PayloadTooLarge { .. }
            | InvokeError::ShuttingDown => Status::Rejected,
            InvokeError::FunctionNotFound(_)
            | InvokeError::ExceedsHostMemory { .. }
            | InvokeError::BackendUnavailable(_)
            | InvokeError::BootFailed { .. }
            | InvokeError::Setup { .. }
            | InvokeError::GuestLost { .. }
            | InvokeError::Store(_) => Status::Failed,
        };
        self.record.error_code = Some(error.code().into());
        self.record.error_message = Some(error.to_string());
        if self.record.start.is_none() {
            self.record.phases.queue_ms = ms(self.arrived.elapsed());
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.shared.metrics.active_requests.fetch_sub(1, Ordering::Relaxed);
        self.shared.payload_bytes.fetch_sub(self.payload_bytes, Ordering::Relaxed);
        let Some(plan) = self.plan.take() else { return };
        if self.record.duration_ms == 0.0 {
            self.record.duration_ms = ms(self.arrived.elapsed());
        }
        plan.series.record(self.status, self.record.start, self.record.duration_ms);
        self.shared.recorder.record(self.record.clone(), std::mem::take(&mut self.logs));
    }
}

/// The stable code of a function's failure, as it is on the wire and in docs/errors.md.
pub fn error_code(kind: FunctionErrorKind) -> &'static str {
    match kind {
        FunctionErrorKind::FunctionExited => "function_exited",
        FunctionErrorKind::FunctionCrashed => "function_crashed",
        FunctionErrorKind::FunctionNotStarted => "function_not_started",
        FunctionErrorKind::FunctionFailed => "function_failed",
        FunctionErrorKind::Timeout => "timeout",
        FunctionErrorKind::OutOfMemory => "out_of_memory",
        FunctionErrorKind::InvalidOutput => "invalid_output",
        FunctionErrorKind::OutputTooLarge => "output_too_large",
        FunctionErrorKind::Cancelled => "cancelled",
    }
}
