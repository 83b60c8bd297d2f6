//! Which attempts were run: the promise that one (request id, attempt) runs at most once.
use std::collections::{HashSet, VecDeque};

/// How many attempts are remembered. A host repeats itself within a second, if ever; this is
/// four seconds of the shortest calls that one guest can run, and under a megabyte.
const REMEMBERED: usize = 4096;

/// The latest [`REMEMBERED`] attempts.
#[derive(Default)]
pub struct Attempts {
    known: HashSet<(String, u32)>,
    oldest_first: VecDeque<(String, u32)>,
}

impl Attempts {
    /// Whether this attempt was run.
    pub fn contains(&self, request_id: &str, attempt: u32) -> bool {
        self.known.contains(&(request_id.to_owned(), attempt))
    }

    /// Remembers an attempt, and forgets the oldest when there are too many.
    pub fn insert(&mut self, request_id: &str, attempt: u32) {
        let key = (request_id.to_owned(), attempt);
        if !self.known.insert(key.clone()) {
            return;
        }
        self.oldest_first.push_back(key);
        if self.oldest_first.len() > REMEMBERED
            && let Some(forgotten) = self.oldest_first.pop_front()
        {
            self.known.remove(&forgotten);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_is_known_until_many_newer_ones_came() {
        let mut attempts = Attempts::default();
        attempts.insert("first", 1);
        for number in 0..REMEMBERED - 1 {
            attempts.insert(&format!("request-{number}"), 1);
        }
        assert!(attempts.contains("first", 1));
        assert!(!attempts.contains("first", 2));
        attempts.insert("one too many", 1);
        assert!(!attempts.contains("first", 1));
        assert_eq!(attempts.known.len(), REMEMBERED);
    }
}
