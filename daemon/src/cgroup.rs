//! Where this process is in the host's cgroups.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Which interface the files have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// A hierarchy for each controller (Linux `admin-guide/cgroup-v1`).
    V1,
    /// One for all (Linux `admin-guide/cgroup-v2.rst`).
    V2,
}

/// A cgroup of this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cgroup {
    pub(crate) version: Version,
    pub(crate) directory: PathBuf,
}

/// All that this process is in.
pub(crate) struct Cgroups {
    /// `/proc/self/cgroup` (cgroups(7)).
    own: String,
    /// `/proc/self/mountinfo` (proc(5)).
    mounts: String,
}

impl Cgroups {
    /// As `/proc` tells of them. Blocks.
    pub(crate) fn read() -> Option<Self> {
        Some(Self {
            own: fs::read_to_string("/proc/self/cgroup").ok()?,
            mounts: fs::read_to_string("/proc/self/mountinfo").ok()?,
        })
    }

    /// The one in the hierarchy of version 2, whatever its controllers.
    pub(crate) fn unified(&self) -> Option<Cgroup> {
        let path = self.own.lines().find_map(|line| line.strip_prefix("0::"))?;
        let mount = |kind: &str, _: &str| kind == "cgroup2";
        Some(Cgroup {
            version: Version::V2,
            directory: directory(&self.mounts, mount, path)?,
        })
    }

    /// The one in the hierarchy of version 1 with `controller`.
    pub(crate) fn with(&self, controller: &str) -> Option<Cgroup> {
        let has = |list: &str| list.split(',').any(|one| one == controller);
        // Number, controllers, path.
        let path = self.own.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            has(controllers).then_some(path)
        })?;
        let mount = |kind: &str, options: &str| kind == "cgroup" && has(options);
        Some(Cgroup {
            version: Version::V1,
            directory: directory(&self.mounts, mount, path)?,
        })
    }
}

/// Where the cgroup `path` is in the first mount that is one of those.
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
        let own = "4:cpuset:/pod\n3:cpu,cpuacct:/pod/a b\n0::/system.slice/vmd.service\n";
        let cgroups = |own: &str, mounts: &str| Cgroups {
            own: own.to_owned(),
            mounts: mounts.to_owned(),
        };
        let found = cgroups(own, mounts);
        assert_eq!(
            found.unified().unwrap().directory,
            Path::new("/sys/fs/cgroup/unified/system.slice/vmd.service")
        );
        assert_eq!(
            found.with("cpu").unwrap().directory,
            Path::new("/sys/fs/cgroup/cpu,cpuacct/a b")
        );
        assert_eq!(found.with("memory"), None);
        assert_eq!(cgroups("0::/\n", mounts).with("cpu"), None);
        assert_eq!(cgroups(own, "").unified(), None);
    }
}
