//! The host's memory.

use std::{fs, io};

/// How much memory the host would have free, in bytes, if this process had none: what its guests can have together, and what
/// others use is not theirs.
pub(super) fn for_guests() -> io::Result<u64> {
    let available = field("/proc/meminfo", "MemAvailable:")?;
    let own = field("/proc/self/status", "RssAnon:")? + field("/proc/self/status", "RssShmem:")?;
    Ok(available + own)
}

/// The field `name` of a file in `/proc`, in bytes.
fn field(path: &str, name: &str) -> io::Result<u64> {
    let text = fs::read_to_string(path)?;
    let missing = || io::Error::other(format!("{path} has no {name}"));
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(kib.ok_or_else(missing)? << 10)
}

#[cfg(test)]
mod tests {
    #[test]
    fn there_is_some() {
        let bytes = super::for_guests().unwrap();
        assert!(bytes > 1 << 20, "{bytes}");
    }
}
