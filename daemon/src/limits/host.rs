//! The host's memory.

use std::{fs, io, path::Path};

use crate::cgroup::Cgroups;

/// How much memory this process would have free, in bytes, if it used none: what its guests can have together. What others
/// use is not theirs, nor what its cgroup may not have. Blocks for as long as reading `/proc` takes.
pub(super) fn for_guests() -> io::Result<u64> {
    let available = field("/proc/meminfo", "MemAvailable:", "kB")?;
    let own = ["RssAnon:", "RssShmem:"].map(|name| field("/proc/self/status", name, "kB"));
    let mut free = available;
    for own in own {
        free += own?;
    }
    Ok(cgroup_limit().map_or(free, |limit| free.min(limit)))
}

/// How much memory the cgroups of this process may have, in bytes: of each that it is below, the least.
fn cgroup_limit() -> Option<u64> {
    let cgroups = Cgroups::read()?;
    let unified = cgroups.unified().and_then(|cgroup| {
        let above = cgroup.directory.ancestors();
        // The root has none.
        let limits = above.map_while(|at| fs::read_to_string(at.join("memory.max")).ok());
        // "max": none.
        limits.filter_map(|limit| limit.trim().parse().ok()).min()
    });
    let first = cgroups.with("memory").and_then(|cgroup| {
        let path = cgroup.directory.join("memory.stat");
        field(&path, "hierarchical_memory_limit", "").ok()
    });
    unified.into_iter().chain(first).min()
}

/// The field `name` of a file, a number and its `unit` (of 1 KiB: the kernel's kB), in bytes.
fn field(path: impl AsRef<Path>, name: &str, unit: &str) -> io::Result<u64> {
    let path = path.as_ref();
    let text = fs::read_to_string(path)?;
    let missing = || io::Error::other(format!("{} has no {name}", path.display()));
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.trim().strip_suffix(unit)?.trim().parse::<u64>().ok());
    let shift = if unit.is_empty() { 0 } else { 10 };
    Ok(number.ok_or_else(missing)? << shift)
}

#[cfg(test)]
mod tests {
    #[test]
    fn there_is_some() {
        let bytes = super::for_guests().unwrap();
        assert!(bytes > 1 << 20, "{bytes}");
    }
}
