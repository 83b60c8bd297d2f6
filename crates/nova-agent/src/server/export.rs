//! The server's part of an export: one at a time, on a thread of its own.
use super::{Server, refused};
use crate::export::{self, Credits};
use crate::outgoing::Outgoing;
use crate::runner::Runner;
use nova_proto::{Message, RefusalKind, Reply};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, MutexGuard, PoisonError};

impl Server {
    /// Sends the result of a build. Nothing of the function runs meanwhile: the session keeps calls out,
    /// and what an earlier one left is killed first.
    pub(super) fn export(self: &Arc<Self>, id: u64, outgoing: &Arc<Outgoing>) {
        if !self.runner.get().is_some_and(Runner::can_export) {
            self.session().finished(id);
            let message = "this guest has no result of a build";
            return outgoing.send_control(id, refused(RefusalKind::WrongState, message));
        }
        self.reaper.kill_all();
        let credits = Arc::new(Credits::new());
        *self.exporting() = Some(credits.clone());
        let (server, sink) = (self.clone(), outgoing.clone());
        let send = move || {
            let sent = catch_unwind(AssertUnwindSafe(|| export::send(id, &sink, &credits)));
            let reply = match sent {
                Ok(Ok(())) => Reply::Exported {},
                Ok(Err(message)) => refused(RefusalKind::SetupFailed, message),
                Err(_) => {
                    refused(RefusalKind::SetupFailed, "the agent failed; its console says why")
                }
            };
            server.export_ended(id);
            sink.send_bulk(id, Message::Resp(reply));
        };
        if let Err(error) = std::thread::Builder::new().name("export".into()).spawn(send) {
            self.export_ended(id);
            let message = format!("start a thread: {error}");
            outgoing.send_control(id, refused(RefusalKind::SetupFailed, message));
        }
    }

    fn export_ended(&self, id: u64) {
        *self.exporting() = None;
        self.session().finished(id);
        self.call_ended.notify_all();
    }

    /// What the export under way may send.
    pub(super) fn exporting(&self) -> MutexGuard<'_, Option<Arc<Credits>>> {
        self.export.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
