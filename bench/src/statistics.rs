//! Medians and percentiles, never a mean alone.
use serde::Serialize;

/// A distribution of times, microseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Times {
    /// How many.
    pub n: usize,
    /// The median.
    pub p50_us: f64,
    /// Nine in ten are below.
    pub p90_us: f64,
    /// Ninety-nine in a hundred are below.
    pub p99_us: f64,
    /// The longest.
    pub max_us: f64,
}

impl Times {
    /// From measured times in any order; there must be some.
    pub fn of(times_us: &[f64]) -> Self {
        let mut sorted = times_us.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share).round() as usize];
        Self {
            n: sorted.len(),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            max_us: at(1.0),
        }
    }
}

/// The median of some values and how far they spread; one value per round.
#[derive(Debug, Clone, Serialize)]
pub struct Rounds {
    /// The median.
    pub median: f64,
    /// The smallest.
    pub low: f64,
    /// The largest.
    pub high: f64,
}

impl Rounds {
    /// From one value per round; there must be some.
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        Self { median: sorted[sorted.len() / 2], low: sorted[0], high: sorted[sorted.len() - 1] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let times = Times::of(&(1..=101).rev().map(f64::from).collect::<Vec<_>>());
        assert_eq!(
            (times.p50_us, times.p90_us, times.p99_us, times.max_us),
            (51.0, 91.0, 100.0, 101.0)
        );
        let rounds = Rounds::of(&[3.0, 1.0, 2.0]);
        assert_eq!((rounds.median, rounds.low, rounds.high), (2.0, 1.0, 3.0));
    }
}
