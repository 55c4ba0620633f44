//! The cgroup of one machine's vCPU threads.

use std::{
    fs,
    path::{Path, PathBuf},
    process,
};

use tracing::warn;

use super::{CpuControlError, CpuShare, Hierarchy};
use crate::cgroup::Version;

/// The period of limits, in microseconds.
const PERIOD_US: u64 = 100_000;

/// A cgroup; its threads go back to the daemon's own, and it is removed, when this is dropped.
#[derive(Debug)]
pub(crate) struct Group {
    hierarchy: Hierarchy,
    directory: PathBuf,
}

impl Group {
    /// Makes the group of the machine `id`, with these threads. Blocks.
    pub(crate) fn new(
        hierarchy: &Hierarchy,
        id: &str,
        share: CpuShare,
        threads: &[i32],
    ) -> Result<Self, CpuControlError> {
        let name = format!("vmd-{}-{id}", process::id());
        let directory = hierarchy.directory().join(name);
        fs::create_dir(&directory).map_err(|source| CpuControlError::Write {
            path: directory.clone(),
            source,
        })?;
        let group = Self {
            hierarchy: hierarchy.clone(),
            directory,
        };
        if hierarchy.version() == Version::V2 {
            // First: a cgroup with processes may give controllers to threaded ones only.
            write(&group.directory.join("cgroup.type"), "threaded")?;
            let own = hierarchy.directory();
            write(&own.join("cgroup.subtree_control"), "+cpu")?;
        }
        group.set(share)?;
        for thread in threads {
            let file = group.directory.join(hierarchy.threads_file());
            write(&file, &thread.to_string())?;
        }
        Ok(group)
    }

    /// Gives it another share. Blocks.
    pub(crate) fn set(&self, share: CpuShare) -> Result<(), CpuControlError> {
        let put = |file, value: String| write(&self.directory.join(file), &value);
        let CpuShare {
            weight,
            limit_millis,
        } = share;
        let quota = limit_millis.map(|limit| u64::from(limit) * PERIOD_US / 1000);
        match self.hierarchy.version() {
            Version::V1 => {
                // 1024 shares are what 100 is in version 2; the least is 2.
                let shares = u64::from(weight) * 1024 / 100;
                put("cpu.shares", shares.max(2).to_string())?;
                put("cpu.cfs_period_us", PERIOD_US.to_string())?;
                let quota = quota.map_or("-1".to_owned(), |quota| quota.to_string());
                put("cpu.cfs_quota_us", quota)
            }
            Version::V2 => {
                put("cpu.weight", weight.to_string())?;
                let quota = quota.map_or("max".to_owned(), |quota| quota.to_string());
                put("cpu.max", format!("{quota} {PERIOD_US}"))
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let file = self.hierarchy.threads_file();
        let threads = fs::read_to_string(self.directory.join(file)).unwrap_or_default();
        for thread in threads.lines() {
            // It may have ended.
            let _ = write(&self.hierarchy.directory().join(file), thread);
        }
        if let Err(error) = fs::remove_dir(&self.directory) {
            let directory = self.directory.display();
            warn!(%directory, %error, "a machine's cgroup is left");
        }
    }
}

fn write(path: &Path, value: &str) -> Result<(), CpuControlError> {
    fs::write(path, value).map_err(|source| CpuControlError::Write {
        path: path.to_owned(),
        source,
    })
}
