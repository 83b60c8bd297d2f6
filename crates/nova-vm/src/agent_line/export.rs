//! The result of a build on its way from the guest: chunks under credit, put together within a limit.
//!
//! What a guest can make the host hold is the credit that it was given and what was taken in so far,
//! and that is bounded by the caller's limit: whoever exceeds either ends the export, or the line. How
//! long it can keep the caller is bounded by [`EXPORT_WITHIN`], whatever it sends.
use super::{AgentLine, EXEC_GRACE_MS, Expected, refusal};
use crate::driver::ExecError;
use nova_proto::{CREDIT_BYTES, Chunk, Credit, Message, Reply};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// How long all of a result may take: the largest that is asked for, of about 320 MiB, at a MiB per second.
const EXPORT_WITHIN: Duration = Duration::from_secs(320);

/// The reader's end of an export in the table of calls.
#[derive(Debug)]
pub(super) struct ChunkSender {
    chunks: mpsc::UnboundedSender<Vec<u8>>,
    /// Bytes that the guest may still send.
    credit: usize,
    ended: bool,
}

impl ChunkSender {
    /// Chunks within the credit; the channel needs no bound of its own.
    fn new() -> (Self, mpsc::UnboundedReceiver<Vec<u8>>) {
        let (chunks, receiver) = mpsc::unbounded_channel();
        (Self { chunks, credit: CREDIT_BYTES, ended: false }, receiver)
    }

    /// Whether the last chunk has come.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Takes a chunk, or says what is wrong with it.
    pub fn send(&mut self, Chunk { data, last }: Chunk) -> Result<(), &'static str> {
        if self.ended {
            return Err("a chunk behind the last");
        }
        if data.is_empty() && !last {
            return Err("a chunk of nothing");
        }
        self.credit = self.credit.checked_sub(data.len()).ok_or("more than its credit")?;
        self.ended = last;
        // The export may be given up at this very moment: then nobody wants the chunk.
        let _ = self.chunks.send(data);
        Ok(())
    }

    /// So many bytes more may come.
    pub fn grant(&mut self, bytes: usize) {
        self.credit += bytes;
    }
}

impl AgentLine {
    /// What a build has written, as the tar that its guest makes of it; nobody has looked at it yet.
    /// Dropping the future ends the export in the guest.
    ///
    /// # Errors
    /// [`ExecError::Refused`] where the guest refuses, or has more than `limit` bytes;
    /// [`ExecError::Silent`] where it stops in the middle, [`ExecError::Protocol`] where it never ends.
    pub async fn export(&self, limit: usize) -> Result<Vec<u8>, ExecError> {
        let whole = timeout(EXPORT_WITHIN, self.take_export(limit));
        whole.await.unwrap_or_else(|_| {
            let within = EXPORT_WITHIN.as_secs();
            Err(ExecError::Protocol(format!("it took over {within} s to send the build's result")))
        })
    }

    async fn take_export(&self, limit: usize) -> Result<Vec<u8>, ExecError> {
        let lost = || ExecError::Lost(self.line.calls.reason());
        let (sender, mut chunks) = ChunkSender::new();
        let (call, mut answer) = self
            .open(Message::Export, Expected::Exported(sender))
            .map_err(|error| ExecError::Lost(error.to_string()))?;
        let mut archive = Vec::new();
        loop {
            // The answer is behind the last chunk, so that chunks go first; the channel's end comes with
            // the answer, as both ends of it are in the table.
            let chunk = timeout(Duration::from_millis(EXEC_GRACE_MS), chunks.recv()).await;
            let Some(chunk) = chunk.map_err(|_| ExecError::Silent(EXEC_GRACE_MS))? else { break };
            if archive.len() + chunk.len() > limit {
                let problem = format!("the result of the build is over {limit} bytes");
                return Err(ExecError::Refused(problem));
            }
            archive.extend_from_slice(&chunk);
            self.line.calls.grant(call.id, chunk.len());
            // At most CHUNK_MAX_BYTES, so the cast is exact.
            let credit = Message::Credit(Credit { bytes: chunk.len() as u32 });
            if let Ok(frame) = credit.encode(call.id) {
                self.line.outbox.send(call.id, frame);
            }
        }
        let answer = answer.try_recv().map_err(|_| lost())?;
        call.answered();
        match answer.reply {
            Reply::Exported {} => Ok(archive),
            other => Err(ExecError::Refused(refusal(other).to_string())),
        }
    }
}
