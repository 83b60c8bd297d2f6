//! `GET /stats`: what runs on this host now.
use super::Api;
use axum::extract::State;
use axum::response::Json;
use nova_domain::FunctionName;
use nova_engine::{Stats, VmPhase};
use serde::Serialize;
use std::sync::Arc;

/// The pool at one moment.
#[derive(Debug, Serialize)]
pub struct StatsView {
    backend: &'static str,
    /// From booting to stopped: what the host's limits count.
    active_vms: usize,
    idle_vms: usize,
    booting_vms: usize,
    waiting_calls: usize,
    memory_mb: u64,
    memory_max_mb: u64,
    vms_max: u32,
    vms: Vec<VmView>,
}

#[derive(Debug, Serialize)]
struct VmView {
    id: String,
    function: FunctionName,
    state: &'static str,
    age_ms: u64,
    memory_mb: u64,
    calls: u32,
}

/// `GET /stats`
pub async fn get(State(api): State<Arc<Api>>) -> Json<StatsView> {
    let stats = api.executor.stats();
    Json(view(api.backend.name, stats))
}

fn view(backend: &'static str, stats: Stats) -> StatsView {
    StatsView {
        backend,
        active_vms: stats.vms.len(),
        idle_vms: stats.count(VmPhase::Idle),
        booting_vms: stats.count(VmPhase::Booting),
        waiting_calls: stats.waiting,
        memory_mb: stats.memory_mb,
        memory_max_mb: stats.memory_max_mb,
        vms_max: stats.vms_max,
        vms: stats
            .vms
            .into_iter()
            .map(|vm| VmView {
                id: vm.id.to_string(),
                function: vm.function,
                state: vm.phase.as_str(),
                age_ms: vm.age_ms,
                memory_mb: vm.memory_mb,
                calls: vm.calls,
            })
            .collect(),
    }
}
