//! A guest that runs: its line, and everything it has on the host.
use super::belongings::{Belongings, Gone};
use crate::agent_line::AgentLine;
use crate::driver::{EventSink, ExecError, ExecRequest, MicroVm, VmId};
use async_trait::async_trait;
use nova_proto::ExecReport;
use std::time::Duration;

/// How long a guest may take to end by itself before it is killed. It has nothing to save.
const STOP_TIMEOUT: Duration = Duration::from_millis(250);

/// After the line to the agent broke: how long to wait for the VMM's end, which would explain it.
const EXPLANATION_TIMEOUT: Duration = Duration::from_secs(1);

/// A running microVM.
#[derive(Debug)]
pub struct FirecrackerVm {
    pub(super) id: VmId,
    pub(super) line: AgentLine,
    pub(super) belongings: Belongings,
    pub(super) gone: Gone,
}

impl FirecrackerVm {
    /// Adds how the VMM ended to the reason for which the line did, if it did end.
    async fn explain(&self, reason: String) -> String {
        let Some(vmm) = &self.belongings.vmm else { return reason };
        match tokio::time::timeout(EXPLANATION_TIMEOUT, vmm.exited()).await {
            Ok(how) => format!("{reason}; firecracker {how}"),
            Err(_) => reason,
        }
    }
}

#[async_trait]
impl MicroVm for FirecrackerVm {
    fn id(&self) -> &VmId {
        &self.id
    }

    async fn exec(&self, request: ExecRequest, events: EventSink) -> Result<ExecReport, ExecError> {
        match self.line.exec(request, events).await {
            Err(ExecError::Lost(reason)) => Err(ExecError::Lost(self.explain(reason).await)),
            other => other,
        }
    }

    async fn export(&self, limit: usize) -> Result<Vec<u8>, ExecError> {
        match self.line.export(limit).await {
            Err(ExecError::Lost(reason)) => Err(ExecError::Lost(self.explain(reason).await)),
            other => other,
        }
    }

    async fn settled(&self) -> bool {
        self.line.settled().await
    }

    async fn died(&self) -> String {
        let Some(vmm) = &self.belongings.vmm else { return "it was never started".into() };
        let how = tokio::select! {
            how = vmm.exited() => format!("firecracker {how}"),
            reason = self.line.closed() => self.explain(reason).await,
        };
        vmm.console.ended(EXPLANATION_TIMEOUT).await;
        format!("{how}; console ends with: {}", vmm.console.quote())
    }

    async fn stop(self: Box<Self>) {
        let Self { id, line, belongings, gone } = *self;
        if let Err(error) = line.stop(STOP_TIMEOUT).await {
            tracing::debug!(vm = %id, %error, "the guest did not end by itself");
        }
        drop((line, belongings));
        gone.wait().await;
    }
}
