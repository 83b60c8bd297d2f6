//! Counters of what happened since the daemon started. Counting is a few atomic additions; nothing
//! here is on disk, and the label sets are bounded by the functions that exist.
use crate::{FunctionMetrics, HistogramSnapshot, MetricsSnapshot, Status};
use nova_domain::{FunctionName, RuntimeId, Start};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Upper bounds of the histograms' buckets, milliseconds: from a warm call of a compiled function to
/// the longest timeout a function may have.
const BUCKETS_MS: [f64; 16] = [
    1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1e3, 2.5e3, 5e3, 10e3, 30e3, 120e3, 900e3,
];

/// Durations, counted by size.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    /// Values per bucket, not cumulative; the last is for those above all bounds.
    buckets: [AtomicU64; BUCKETS_MS.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    pub fn record(&self, ms: f64) {
        let bucket = BUCKETS_MS.partition_point(|bound| *bound < ms);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add((ms * 1000.0) as u64, Ordering::Relaxed);
    }

    pub fn snapshot(&self) -> HistogramSnapshot {
        let mut count = 0;
        let mut counts = self.buckets.iter().map(|bucket| {
            count += bucket.load(Ordering::Relaxed);
            count
        });
        let buckets = BUCKETS_MS.iter().copied().zip(counts.by_ref()).collect();
        let count = counts.next().unwrap_or_default();
        let sum_ms = self.sum_us.load(Ordering::Relaxed) as f64 / 1000.0;
        HistogramSnapshot { buckets, count, sum_ms }
    }
}

/// What is counted of one function.
#[derive(Debug)]
pub(crate) struct Series {
    runtime: RuntimeId,
    invocations: [AtomicU64; Status::ALL.len()],
    cold_starts: AtomicU64,
    warm_starts: AtomicU64,
    duration: Histogram,
}

impl Series {
    pub fn record(&self, status: Status, start: Option<Start>, duration_ms: f64) {
        self.invocations[status as usize].fetch_add(1, Ordering::Relaxed);
        match start {
            Some(Start::Cold) => _ = self.cold_starts.fetch_add(1, Ordering::Relaxed),
            Some(Start::Warm) => _ = self.warm_starts.fetch_add(1, Ordering::Relaxed),
            Some(Start::Restored) | None => {}
        }
        self.duration.record(duration_ms);
    }
}

/// All counters.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    functions: Mutex<BTreeMap<FunctionName, Arc<Series>>>,
    pub vms_created: AtomicU64,
    pub vms_crashed: AtomicU64,
    pub boots_failed: AtomicU64,
    pub boot_duration: Histogram,
    pub active_requests: AtomicU64,
}

impl Metrics {
    fn functions(&self) -> MutexGuard<'_, BTreeMap<FunctionName, Arc<Series>>> {
        self.functions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The counters of a function that exists. One that changed its runtime starts anew, because the
    /// runtime is a label.
    pub fn series(&self, function: &FunctionName, runtime: &RuntimeId) -> Arc<Series> {
        let mut functions = self.functions();
        if let Some(series) = functions.get(function).filter(|series| series.runtime == *runtime) {
            return Arc::clone(series);
        }
        let series = Arc::new(Series {
            runtime: runtime.clone(),
            invocations: Default::default(),
            cold_starts: AtomicU64::default(),
            warm_starts: AtomicU64::default(),
            duration: Histogram::default(),
        });
        functions.insert(function.clone(), Arc::clone(&series));
        series
    }

    /// Drops the counters of a function that was deleted. Calls still in flight count into nothing.
    pub fn forget(&self, function: &FunctionName) {
        self.functions().remove(function);
    }

    /// Everything but the pool and the recorder, who know their own state.
    pub fn snapshot(&self) -> MetricsSnapshot {
        let function = |(name, series): (&FunctionName, &Arc<Series>)| FunctionMetrics {
            function: name.clone(),
            runtime: series.runtime.clone(),
            invocations: Status::ALL
                .map(|status| (status, read(&series.invocations[status as usize])))
                .into(),
            cold_starts: read(&series.cold_starts),
            warm_starts: read(&series.warm_starts),
            duration: series.duration.snapshot(),
        };
        MetricsSnapshot {
            functions: self.functions().iter().map(function).collect(),
            vms_created: read(&self.vms_created),
            vms_crashed: read(&self.vms_crashed),
            boots_failed: read(&self.boots_failed),
            boot_duration: self.boot_duration.snapshot(),
            active_requests: read(&self.active_requests),
            ..MetricsSnapshot::default()
        }
    }
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_a_bound_belongs_to_its_bucket() {
        let histogram = Histogram::default();
        for ms in [0.5, 1.0, 1.5, 1e7] {
            histogram.record(ms);
        }
        let snapshot = histogram.snapshot();
        assert_eq!(snapshot.buckets[..2], [(1.0, 2), (2.5, 3)]);
        assert_eq!(snapshot.buckets.last(), Some(&(900e3, 3)));
        assert_eq!((snapshot.count, snapshot.sum_ms), (4, 1e7 + 3.0));
    }

    #[test]
    fn a_deleted_function_leaves_no_series_behind_even_when_a_call_ends_later() {
        let metrics = Metrics::default();
        let name = FunctionName::parse("f").unwrap();
        let series = metrics.series(&name, &RuntimeId::parse("base").unwrap());
        series.record(Status::Success, Some(Start::Cold), 2.0);
        assert_eq!(metrics.snapshot().functions[0].invocations[&Status::Success], 1);
        metrics.forget(&name);
        series.record(Status::Success, Some(Start::Warm), 1.0);
        assert!(metrics.snapshot().functions.is_empty());
    }
}
