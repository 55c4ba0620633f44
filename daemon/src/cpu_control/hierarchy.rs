//! Where the daemon's own cgroup is.

use std::{fs, path::Path};

use crate::cgroup::{Cgroup, Cgroups, Version};

/// The daemon's cgroup with the controller `cpu`.
#[derive(Clone, Debug)]
pub struct Hierarchy(Cgroup);

impl Hierarchy {
    /// The one that this process is in, with what groups of daemons that have died have left there tidied up. `None` if it may
    /// make no groups there. Blocks.
    pub fn find() -> Option<Self> {
        let cgroups = Cgroups::read()?;
        let unified = cgroups.unified().filter(has_cpu);
        let found = Self(unified.or_else(|| cgroups.with("cpu"))?);
        found.tidy_up();
        Some(found)
    }

    /// Where groups are made.
    pub fn directory(&self) -> &Path {
        &self.0.directory
    }

    pub(super) fn version(&self) -> Version {
        self.0.version
    }

    /// The file that a thread's number is written to.
    pub(super) fn threads_file(&self) -> &'static str {
        match self.0.version {
            Version::V1 => "tasks",
            Version::V2 => "cgroup.threads",
        }
    }

    /// Removes the groups of daemons that are no more; those have no threads.
    fn tidy_up(&self) {
        for entry in fs::read_dir(&self.0.directory)
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name();
            let pid = name.to_str().and_then(|name| {
                let (pid, _) = name.strip_prefix("vmd-")?.split_once('-')?;
                pid.parse::<u32>().ok()
            });
            if let Some(pid) = pid
                && !Path::new("/proc").join(pid.to_string()).exists()
            {
                // Another may have been quicker.
                let _ = fs::remove_dir(entry.path());
            }
        }
    }
}

fn has_cpu(cgroup: &Cgroup) -> bool {
    let controllers = fs::read_to_string(cgroup.directory.join("cgroup.controllers"));
    controllers.is_ok_and(|list| list.split_whitespace().any(|one| one == "cpu"))
}
