//! One installation at a time per data directory, across processes: the daemon and a command line may
//! both be asked. The lock is an open file, so a crash releases it.
use super::InstallError;
use crate::images::progress::Progress;
use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::Duration;

/// How often a taken lock is tried again: what holds it takes seconds to minutes.
const RETRY: Duration = Duration::from_millis(200);

/// Held while an installation runs.
#[derive(Debug)]
pub(super) struct InstallLock {
    _file: File,
}

impl InstallLock {
    /// Waits for it.
    pub(super) async fn take(path: &Path, progress: &dyn Progress) -> Result<Self, InstallError> {
        let mut told = false;
        loop {
            if let Some(lock) = Self::try_take(path)? {
                return Ok(lock);
            }
            if !told {
                progress.step("waiting for another installation here to end");
                told = true;
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Takes it if nobody has it.
    pub(super) fn try_take(path: &Path) -> Result<Option<Self>, InstallError> {
        let file = File::create(path).map_err(InstallError::file(path))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(InstallError::file(path)(error)),
        }
    }
}
