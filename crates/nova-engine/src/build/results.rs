//! Which results there are, so that nothing is built twice.
use nova_domain::CodeHash;
use std::collections::VecDeque;

/// Results that are known: far more than are built again soon, in less than a MiB. What is forgotten is
/// only built again.
const RESULTS_KEPT: usize = 4096;

/// Results by the hash of all that they depend on; the latest last.
#[derive(Default)]
pub(super) struct Results {
    known: VecDeque<(String, CodeHash)>,
}

impl Results {
    /// The result for that key.
    pub fn get(&self, key: &str) -> Option<CodeHash> {
        let (_, hash) = self.known.iter().rev().find(|(known, _)| known == key)?;
        Some(hash.clone())
    }

    /// Remembers a result in the place of what was known for the key, and forgets the oldest that is
    /// too much.
    pub fn add(&mut self, key: String, hash: CodeHash) {
        self.known.retain(|(known, _)| *known != key);
        self.known.push_back((key, hash));
        if self.known.len() > RESULTS_KEPT {
            self.known.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_results_are_known() {
        let mut results = Results::default();
        for n in 0..RESULTS_KEPT {
            results.add(n.to_string(), CodeHash::of(b"first"));
        }
        results.add("0".into(), CodeHash::of(b"again"));
        results.add("new".into(), CodeHash::of(b"new"));
        assert_eq!(results.get("0"), Some(CodeHash::of(b"again")), "it is among the latest");
        assert_eq!(results.get("1"), None, "it is the oldest");
        assert_eq!(results.get("new"), Some(CodeHash::of(b"new")));
        assert_eq!(results.known.len(), RESULTS_KEPT);
    }
}
