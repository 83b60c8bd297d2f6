//! The name that was probably meant: for unknown fields, keys, runtimes and parameters.

/// How like a known name an unknown one must be to be taken for a slip.
const SIMILAR_ENOUGH: f64 = 0.75;

/// The known name most like `name`, if any is like it at all.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(similarity, _)| *similarity >= SIMILAR_ENOUGH)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_another_word_is_not() {
        let known = ["memory_mb", "timeout_s", "env_vars"];
        assert_eq!(nearest("memory", known.into_iter()), Some("memory_mb"));
        assert_eq!(nearest("timeout_sec", known.into_iter()), Some("timeout_s"));
        assert_eq!(nearest("colour", known.into_iter()), None);
    }
}
