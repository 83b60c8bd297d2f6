//! Running one call in its VM, its log lines collected on the way.
use crate::call::Call;
use crate::pool::Lease;
use nova_domain::Invocation;
use nova_proto::{ExecReport, LogLine};
use nova_vm::{ExecError, ExecRequest};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Where the log lines of a call go while it runs, beside the record.
pub type LogSink = mpsc::Sender<LogLine>;

/// Log lines between a guest and a call's log.
const LINES_IN_FLIGHT: usize = 64;

/// How long the answer waits for log lines that are still on their way, and for a sink that does not
/// read. All lines have arrived when the answer has, so that this is a limit, not a delay.
const LOG_WAIT: Duration = Duration::from_secs(1);

/// Runs the call. The sink is given up when it does not read; the record has every line.
pub(crate) async fn run(
    call: &mut Call<'_>,
    lease: &mut Lease,
    invocation: Invocation,
    mut sink: Option<LogSink>,
) -> Result<ExecReport, ExecError> {
    let request = ExecRequest {
        request_id: invocation.request_id,
        attempt: invocation.attempt,
        timeout_ms: lease.plan().timeout_ms(),
        traceparent: invocation.traceparent,
        input: invocation.payload,
    };
    let (events, mut lines) = mpsc::channel(LINES_IN_FLIGHT);
    let mut collected = Box::pin(async {
        while let Some(line) = lines.recv().await {
            call.log(&line);
            if let Some(open) = &sink
                && !matches!(timeout(LOG_WAIT, open.send(line)).await, Ok(Ok(())))
            {
                sink = None;
            }
        }
    });
    let report = {
        let exec = lease.exec(request, events);
        tokio::pin!(exec);
        tokio::select! {
            report = &mut exec => report,
            // The guest has closed its log before it answered.
            () = &mut collected => return exec.await,
        }
    };
    if timeout(LOG_WAIT, &mut collected).await.is_err() {
        // The sink reads too slowly. The record does without it; the lines are there already.
        drop(collected);
        let rest = async {
            while let Some(line) = lines.recv().await {
                call.log(&line);
            }
        };
        if timeout(LOG_WAIT, rest).await.is_err() {
            tracing::warn!(function = %lease.plan().name(), "the end of a call's log did not come");
        }
    }
    report
}
