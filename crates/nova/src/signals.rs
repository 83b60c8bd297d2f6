//! The signals that ask this process to end.
use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens from when it is made: a signal that arrives before anybody waits is not lost, and no
/// longer ends the process by itself.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// Only where the terminal is what the program is for.
    hangup: Option<Signal>,
}

impl Signals {
    /// SIGTERM and SIGINT.
    pub fn new() -> anyhow::Result<Self> {
        let (terminate, interrupt) =
            (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
        Ok(Self { terminate, interrupt, hangup: None })
    }

    /// SIGHUP as well: the terminal is gone, and with it whoever waits for an answer.
    pub fn with_hangup() -> anyhow::Result<Self> {
        Ok(Self { hangup: Some(listen(SignalKind::hangup())?), ..Self::new()? })
    }

    /// The next of them.
    pub async fn next(&mut self) -> SignalKind {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = hangup => SignalKind::hangup(),
        }
    }
}

fn listen(kind: SignalKind) -> anyhow::Result<Signal> {
    signal(kind).context("signals cannot be handled")
}
