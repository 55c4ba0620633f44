//! Where the daemon's own cgroup is.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Which interface the files have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

/// The daemon's cgroup with the controller `cpu`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    pub(super) version: Version,
    pub(super) directory: PathBuf,
}

impl Hierarchy {
    /// The one that this process is in, with what groups of daemons that have died have left there tidied up. `None` if it may
    /// make no groups there. Blocks.
    pub fn find() -> Option<Self> {
        let cgroups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let found = Self::second(&cgroups, &mounts)
            .filter(Self::has_controller)
            .or_else(|| Self::first(&cgroups, &mounts))?;
        found.tidy_up();
        Some(found)
    }

    /// Where groups are made.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn second(cgroups: &str, mounts: &str) -> Option<Self> {
        let path = cgroups.lines().find_map(|line| line.strip_prefix("0::"))?;
        let mount = |kind: &str, _: &str| kind == "cgroup2";
        Some(Self {
            version: Version::V2,
            directory: directory(mounts, mount, path)?,
        })
    }

    fn first(cgroups: &str, mounts: &str) -> Option<Self> {
        let has_cpu = |list: &str| list.split(',').any(|one| one == "cpu");
        // Number, controllers, path.
        let path = cgroups.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            has_cpu(controllers).then_some(path)
        })?;
        let mount = |kind: &str, options: &str| kind == "cgroup" && has_cpu(options);
        Some(Self {
            version: Version::V1,
            directory: directory(mounts, mount, path)?,
        })
    }

    fn has_controller(&self) -> bool {
        let controllers = fs::read_to_string(self.directory.join("cgroup.controllers"));
        controllers.is_ok_and(|list| list.split_whitespace().any(|one| one == "cpu"))
    }

    /// The file that a thread's number is written to.
    pub(super) fn threads_file(&self) -> &'static str {
        match self.version {
            Version::V1 => "tasks",
            Version::V2 => "cgroup.threads",
        }
    }

    /// Removes the groups of daemons that are no more; those have no threads.
    fn tidy_up(&self) {
        for entry in fs::read_dir(&self.directory)
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

/// Where the cgroup `path` is in the first mount that is one of those (`/proc/self/mountinfo`, proc(5)).
fn directory(mounts: &str, is_one: impl Fn(&str, &str) -> bool, path: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        let mut source = source.split(' ');
        let (kind, options) = (source.next()?, source.nth(1)?);
        let mut mount = mount.split(' ').skip(3);
        let (root, point) = (mount.next()?, mount.next()?);
        let below = Path::new(path).strip_prefix(root).ok()?;
        is_one(kind, options).then(|| Path::new(point).join(below))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_found_where_they_are_mounted() {
        let mounts = "\
            24 23 0:21 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755\n\
            25 24 0:22 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
            26 24 0:23 /pod /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n\
            27 24 0:24 /pod /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n";
        let cgroups = "4:cpuset:/pod\n3:cpu,cpuacct:/pod/a b\n0::/system.slice/vmd.service\n";
        assert_eq!(
            Hierarchy::second(cgroups, mounts).unwrap().directory,
            Path::new("/sys/fs/cgroup/unified/system.slice/vmd.service")
        );
        assert_eq!(
            Hierarchy::first(cgroups, mounts).unwrap().directory,
            Path::new("/sys/fs/cgroup/cpu,cpuacct/a b")
        );
        assert_eq!(Hierarchy::first("0::/\n", mounts), None);
        assert_eq!(Hierarchy::second(cgroups, ""), None);
    }
}
