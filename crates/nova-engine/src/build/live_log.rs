//! The log of a build while it grows, for any number of readers at their own pace.
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Most lines that are kept of one build. The agent bounds their text.
const LINES_MAX: usize = 20_000;

/// Lines by number, and a bell that rings at each change.
#[derive(Debug, Default)]
pub struct LiveLog {
    lines: Mutex<Vec<String>>,
    state: watch::Sender<State>,
}

/// What readers wait for a change of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct State {
    lines: usize,
    ended: bool,
}

/// Lines from some number on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPart {
    /// The lines.
    pub lines: Vec<String>,
    /// The number to go on from.
    pub next: usize,
    /// Nothing follows: the build's end is in the store.
    pub ended: bool,
}

impl LiveLog {
    /// A line of the build.
    pub fn line(&self, text: String) {
        let mut lines = self.lines();
        match lines.len() {
            LINES_MAX.. => return,
            number if number + 1 == LINES_MAX => {
                lines.push("the rest of the log was too long to keep".into());
            }
            _ => lines.push(text),
        }
        let count = lines.len();
        drop(lines);
        self.state.send_modify(|state| state.lines = count);
    }

    /// A line of Nova's own.
    pub fn note(&self, text: &str) {
        self.line(format!("nova: {text}"));
    }

    /// Nothing follows.
    pub fn end(&self) {
        self.state.send_modify(|state| state.ended = true);
    }

    /// Whether nothing follows.
    pub fn has_ended(&self) -> bool {
        self.state.borrow().ended
    }

    /// The last lines: at most so many, and of their text at most so many bytes. The first of them may
    /// be the end of a line.
    pub fn tail(&self, count: usize, bytes: usize) -> Vec<String> {
        let lines = self.lines();
        let (mut tail, mut left) = (Vec::new(), bytes);
        for line in lines.iter().rev().take(count) {
            let from = line.ceil_char_boundary(line.len().saturating_sub(left));
            if left == 0 || (from > 0 && from == line.len()) {
                break;
            }
            tail.push(line[from..].to_owned());
            left = left.saturating_sub(line.len());
        }
        tail.reverse();
        tail
    }

    /// What there is from line `from` on, at once.
    pub fn part(&self, from: usize) -> LogPart {
        let ended = self.has_ended();
        let lines = self.lines();
        LogPart { lines: lines[from.min(lines.len())..].to_vec(), next: lines.len(), ended }
    }

    /// Resolves when there is a line `from`, or the end.
    pub async fn changed(&self, from: usize) {
        let mut state = self.state.subscribe();
        // An error means that the log is gone, which its reader holds.
        let _ = state.wait_for(|state| state.lines > from || state.ended).await;
    }

    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn a_reader_gets_every_line_once_and_then_the_end() {
        let log = Arc::new(LiveLog::default());
        let reader = tokio::spawn({
            let log = log.clone();
            async move {
                let (mut seen, mut next) = (Vec::new(), 0);
                loop {
                    log.changed(next).await;
                    let part = log.part(next);
                    seen.extend(part.lines);
                    next = part.next;
                    if part.ended {
                        return seen;
                    }
                }
            }
        });
        for number in 0..100 {
            log.line(number.to_string());
            tokio::task::yield_now().await;
        }
        log.end();
        let wanted: Vec<String> = (0..100).map(|number| number.to_string()).collect();
        assert_eq!(reader.await.unwrap(), wanted);
        assert_eq!(log.tail(2, 100), ["98", "99"]);
        assert_eq!(log.part(7_000).lines, Vec::<String>::new());
    }

    #[test]
    fn the_end_of_a_log_is_bounded_in_bytes_as_well() {
        let log = LiveLog::default();
        for line in ["first", "longä", "", "last"] {
            log.line(line.into());
        }
        assert_eq!(log.tail(9, 100), ["first", "longä", "", "last"]);
        assert_eq!(log.tail(9, 8), ["ngä", "", "last"]);
        assert_eq!(log.tail(9, 5), ["", "last"], "half a character is none");
        assert_eq!(log.tail(9, 3), ["ast"]);
    }

    #[test]
    fn a_flood_is_cut_off_with_a_marker() {
        let log = LiveLog::default();
        for _ in 0..LINES_MAX + 10 {
            log.line("x".into());
        }
        let lines = log.part(0).lines;
        assert_eq!(lines.len(), LINES_MAX);
        assert!(lines.last().unwrap().contains("too long to keep"));
    }
}
