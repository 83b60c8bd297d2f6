//! The end of what a guest and its VMM wrote: what an operator reads when a boot fails.
//!
//! Firecracker writes the guest's serial console and its own log to its standard output, the jailer
//! its complaints to standard error; both lead into one pipe. A guest can write without end, so only
//! the tail is kept, and past a burst the pipe is read slowly: a guest that floods its console then
//! waits for us, and costs the host nothing.
use std::collections::VecDeque;
use std::io::PipeReader;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Bytes that are kept: the report of a kernel panic is about 4 KiB, before it come the causes.
const TAIL_MAX_BYTES: usize = 16 * 1024;

/// Bytes quoted in an error: the last dozen or two lines.
const QUOTE_MAX_BYTES: usize = 2 * 1024;

/// Bytes read at full speed. A whole verbose boot is about 50 KiB.
const BURST_BYTES: usize = 1024 * 1024;

/// Bytes of one read.
const READ_BYTES: usize = 4096;

/// Pause between two reads after the burst: holds a guest to about 40 KiB/s.
const SLOW_READ_PAUSE: Duration = Duration::from_millis(100);

/// Reads a console until it ends or the value is dropped.
#[derive(Debug)]
pub(crate) struct Console {
    tail: Arc<Mutex<VecDeque<u8>>>,
    reader: JoinHandle<()>,
    ended: watch::Receiver<()>,
}

impl Console {
    /// Takes over the reading end of the pipe. Must be called within a tokio runtime.
    pub(crate) fn read(pipe: PipeReader) -> std::io::Result<Self> {
        let receiver = pipe::Receiver::from_owned_fd(OwnedFd::from(pipe))?;
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        let (end, ended) = watch::channel(());
        let reader = tokio::spawn({
            let tail = Arc::clone(&tail);
            async move {
                follow(receiver, tail).await;
                drop(end);
            }
        });
        Ok(Self { tail, reader, ended })
    }

    /// Waits until everything that was written has been read, or `within` has passed. To be called
    /// when the writers are gone: what they wrote last may still be in the pipe.
    pub(crate) async fn ended(&self, within: Duration) {
        let mut ended = self.ended.clone();
        let end = async { while ended.changed().await.is_ok() {} };
        // Not all of it is better than none of it.
        tokio::time::timeout(within, end).await.ok();
    }

    /// The last lines, printable.
    pub(crate) fn quote(&self) -> String {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let skipped = tail.len().saturating_sub(QUOTE_MAX_BYTES);
        let bytes: Vec<u8> = tail.iter().skip(skipped).copied().collect();
        drop(tail);
        printable(&bytes)
    }

    /// How the guest's own part of it ends, in words: for a guest that is silent while its VMM runs, so
    /// that the VMM's log explains nothing.
    pub(crate) fn of_guest(&self) -> String {
        let quote = self.quote();
        let lines: Vec<&str> = quote.lines().filter(|line| !is_of_vmm(line)).collect();
        if self.is_empty() || lines.is_empty() {
            return "the guest's kernel wrote nothing to its console".into();
        }
        format!("console ends with: {}", lines.join("\n"))
    }

    fn is_empty(&self) -> bool {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

/// Whether Firecracker's own log has written the line: `2026-11-27T16:16:57.830298594 [vm:thread] ...`.
/// A guest that imitates it hides what it writes from its own operator, no more.
fn is_of_vmm(line: &str) -> bool {
    let Some((time, rest)) = line.split_once(' ') else { return false };
    let is_time = |byte: u8| byte.is_ascii_digit() || b"-:.T".contains(&byte);
    time.len() > "2026-11-27T".len()
        && time.as_bytes().get(10) == Some(&b'T')
        && time.bytes().all(is_time)
        && rest.starts_with('[')
}

impl Drop for Console {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn follow(mut pipe: pipe::Receiver, tail: Arc<Mutex<VecDeque<u8>>>) {
    let mut buffer = [0; READ_BYTES];
    let mut total = 0_usize;
    // An error on a pipe means the same as its end: nothing more will come.
    while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
        {
            let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
            let excess = (tail.len() + count).saturating_sub(TAIL_MAX_BYTES);
            let excess = excess.min(tail.len());
            tail.drain(..excess);
            tail.extend(&buffer[..count]);
        }
        total = total.saturating_add(count);
        if total > BURST_BYTES {
            tokio::time::sleep(SLOW_READ_PAUSE).await;
        }
    }
}

/// Text without control characters, so that a guest cannot drive the operator's terminal.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> =
        text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let clean = |c: char| if c.is_control() && c != '\n' { '\u{fffd}' } else { c };
    let quoted: String = lines.join("\n").chars().map(clean).collect();
    if quoted.is_empty() { "(nothing)".into() } else { quoted }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[tokio::test]
    async fn only_the_tail_of_a_long_console_is_kept() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let mut console = Console::read(reader).unwrap();
        let text = format!("{}\r\nlast\x1b[2J line\r\n", "x".repeat(100_000));
        tokio::task::spawn_blocking(move || writer.write_all(text.as_bytes()).unwrap())
            .await
            .unwrap();
        (&mut console.reader).await.unwrap();
        assert!(console.tail.lock().unwrap().len() <= TAIL_MAX_BYTES);
        let quote = console.quote();
        assert!(quote.ends_with("x\nlast\u{fffd}[2J line"), "{quote}");
        assert!(quote.len() <= QUOTE_MAX_BYTES + 4);
    }

    #[tokio::test]
    async fn of_a_silent_guest_only_its_own_lines_are_quoted() {
        let vmm = "2026-11-27T16:16:57.830298594 [5bac25fe8cf2:fc_vcpu 0] Received a VcpuEvent";
        for (text, said) in [
            (format!("{vmm}\n"), "the guest's kernel wrote nothing to its console"),
            (String::new(), "the guest's kernel wrote nothing to its console"),
            (format!("{vmm}\nVFS: no root\n{vmm}\n"), "console ends with: VFS: no root"),
        ] {
            let (reader, mut writer) = std::io::pipe().unwrap();
            writer.write_all(text.as_bytes()).unwrap();
            drop(writer);
            let mut console = Console::read(reader).unwrap();
            (&mut console.reader).await.unwrap();
            assert_eq!(console.of_guest(), said);
        }
    }

    #[tokio::test]
    async fn a_console_without_text_says_so() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(writer);
        let mut console = Console::read(reader).unwrap();
        (&mut console.reader).await.unwrap();
        assert_eq!(console.quote(), "(nothing)");
    }
}
