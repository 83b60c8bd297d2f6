//! `GET /metrics` and `/metrics/prometheus`: one snapshot of the engine's counters in two forms.
use super::Api;
use super::problem::Problem;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Json, Response};
use nova_domain::{FunctionName, RuntimeId};
use nova_engine::{HistogramSnapshot, MetricsSnapshot};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// What `prometheus-client` writes.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The snapshot as JSON.
#[derive(Debug, Serialize)]
pub struct MetricsView {
    active_requests: u64,
    vms: BTreeMap<&'static str, u64>,
    vms_created: u64,
    vms_crashed: u64,
    boots_failed: u64,
    boot_duration: HistogramView,
    records_dropped: u64,
    functions: Vec<FunctionView>,
}

#[derive(Debug, Serialize)]
struct FunctionView {
    function: FunctionName,
    runtime: RuntimeId,
    invocations: BTreeMap<&'static str, u64>,
    cold_starts: u64,
    warm_starts: u64,
    duration: HistogramView,
}

#[derive(Debug, Serialize)]
struct HistogramView {
    count: u64,
    sum_ms: f64,
    buckets: Vec<BucketView>,
}

#[derive(Debug, Serialize)]
struct BucketView {
    le_ms: f64,
    count: u64,
}

/// `GET /metrics`
pub async fn json(State(api): State<Arc<Api>>) -> Json<MetricsView> {
    Json(api.executor.metrics().into())
}

impl From<MetricsSnapshot> for MetricsView {
    fn from(metrics: MetricsSnapshot) -> Self {
        Self {
            active_requests: metrics.active_requests,
            vms: metrics.pool.into_iter().map(|(phase, n)| (phase.as_str(), n)).collect(),
            vms_created: metrics.vms_created,
            vms_crashed: metrics.vms_crashed,
            boots_failed: metrics.boots_failed,
            boot_duration: metrics.boot_duration.into(),
            records_dropped: metrics.records_dropped,
            functions: metrics
                .functions
                .into_iter()
                .map(|function| FunctionView {
                    function: function.function,
                    runtime: function.runtime,
                    invocations: function
                        .invocations
                        .into_iter()
                        .map(|(status, n)| (status.as_str(), n))
                        .collect(),
                    cold_starts: function.cold_starts,
                    warm_starts: function.warm_starts,
                    duration: function.duration.into(),
                })
                .collect(),
        }
    }
}

impl From<HistogramSnapshot> for HistogramView {
    fn from(histogram: HistogramSnapshot) -> Self {
        let buckets = histogram.buckets.into_iter();
        Self {
            count: histogram.count,
            sum_ms: histogram.sum_ms,
            buckets: buckets.map(|(le_ms, count)| BucketView { le_ms, count }).collect(),
        }
    }
}

/// `GET /metrics/prometheus`
pub async fn prometheus(State(api): State<Arc<Api>>) -> Result<Response, Problem> {
    let text = render(api.executor.metrics())
        .map_err(|error| Problem::internal("metrics cannot be written", &error))?;
    Ok(([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response())
}

fn render(metrics: MetricsSnapshot) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Snapshot(metrics)));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Snapshot(MetricsSnapshot);

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let Self(metrics) = self;
        let mut family = encoder.encode_descriptor(
            "nova_invocations",
            "Calls by function, runtime and how they ended",
            None,
            MetricType::Counter,
        )?;
        for function in &metrics.functions {
            for (status, count) in &function.invocations {
                let labels = [
                    ("function", function.function.as_str()),
                    ("runtime", function.runtime.as_str()),
                    ("status", status.as_str()),
                ];
                counter(family.encode_family(&labels)?, *count)?;
            }
        }
        let mut family = encoder.encode_descriptor(
            "nova_starts",
            "Calls by how they got their VM",
            None,
            MetricType::Counter,
        )?;
        for function in &metrics.functions {
            let starts = [("cold", function.cold_starts), ("warm", function.warm_starts)];
            for (start, count) in starts {
                let labels = [("function", function.function.as_str()), ("start", start)];
                counter(family.encode_family(&labels)?, count)?;
            }
        }
        let mut family = encoder.encode_descriptor(
            "nova_invocation_duration",
            "From a call's arrival to its answer",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        for function in &metrics.functions {
            let labels = [("function", function.function.as_str())];
            histogram(family.encode_family(&labels)?, &function.duration)?;
        }
        let family = encoder.encode_descriptor(
            "nova_boot_duration",
            "Boots that succeeded",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        histogram(family, &metrics.boot_duration)?;
        let mut family =
            encoder.encode_descriptor("nova_vms", "VMs by state", None, MetricType::Gauge)?;
        for (phase, count) in &metrics.pool {
            family.encode_family(&[("state", phase.as_str())])?.encode_gauge(count)?;
        }
        let family = encoder.encode_descriptor(
            "nova_active_requests",
            "Calls between their arrival and their answer",
            None,
            MetricType::Gauge,
        )?;
        gauge(family, metrics.active_requests)?;
        let totals = [
            ("nova_vms_created", "VMs that were booted", metrics.vms_created),
            ("nova_vms_crashed", "VMs that died by themselves", metrics.vms_crashed),
            ("nova_boots_failed", "Boots that failed", metrics.boots_failed),
            ("nova_records_dropped", "Invocation records that were lost", metrics.records_dropped),
        ];
        for (name, help, count) in totals {
            counter(encoder.encode_descriptor(name, help, None, MetricType::Counter)?, count)?;
        }
        Ok(())
    }
}

fn counter(mut metric: MetricEncoder<'_>, count: u64) -> fmt::Result {
    metric.encode_counter::<NoLabelSet, _, f64>(&count, None)
}

fn gauge(mut metric: MetricEncoder<'_>, value: u64) -> fmt::Result {
    metric.encode_gauge(&value)
}

/// The encoder adds buckets up by itself and wants each one's own count, the last one unbounded.
fn histogram(mut metric: MetricEncoder<'_>, histogram: &HistogramSnapshot) -> fmt::Result {
    let unbounded = (f64::INFINITY, histogram.count);
    let mut below = 0;
    let buckets: Vec<(f64, u64)> = histogram
        .buckets
        .iter()
        .map(|(bound_ms, count)| (bound_ms / 1000.0, *count))
        .chain([unbounded])
        .map(|(bound, cumulative)| {
            let own = cumulative.saturating_sub(below);
            below = cumulative;
            (bound, own)
        })
        .collect();
    metric.encode_histogram::<NoLabelSet>(
        histogram.sum_ms / 1000.0,
        histogram.count,
        &buckets,
        None,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use nova_engine::{FunctionMetrics, Status, VmPhase};

    #[test]
    fn the_text_has_every_counter_with_its_labels() {
        let text = render(MetricsSnapshot {
            functions: vec![FunctionMetrics {
                function: FunctionName::parse("hello").unwrap(),
                runtime: RuntimeId::parse("python").unwrap(),
                invocations: BTreeMap::from([(Status::Success, 3), (Status::Timeout, 1)]),
                cold_starts: 1,
                warm_starts: 3,
                duration: HistogramSnapshot {
                    buckets: vec![(10.0, 2), (100.0, 3)],
                    count: 4,
                    sum_ms: 1500.0,
                },
            }],
            vms_created: 7,
            pool: BTreeMap::from([(VmPhase::Idle, 2)]),
            ..MetricsSnapshot::default()
        })
        .unwrap();
        for line in [
            r#"nova_invocations_total{function="hello",runtime="python",status="success"} 3"#,
            r#"nova_starts_total{function="hello",start="cold"} 1"#,
            r#"nova_invocation_duration_seconds_bucket{le="0.1",function="hello"} 3"#,
            r#"nova_invocation_duration_seconds_bucket{le="+Inf",function="hello"} 4"#,
            r#"nova_invocation_duration_seconds_sum{function="hello"} 1.5"#,
            r#"nova_vms{state="idle"} 2"#,
            "nova_vms_created_total 7",
            "# EOF",
        ] {
            assert!(text.lines().any(|have| have == line), "no line {line} in\n{text}");
        }
    }
}
