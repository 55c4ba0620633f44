//! What the process takes of the host: `/proc/self` (proc(5)).

use std::{fs, io};

use nix::{
    sys::resource::{Resource, getrlimit},
    unistd::{SysconfVar, sysconf},
};

/// The process at one moment. What the host does not tell is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Process {
    pub(super) cpu_seconds: Option<f64>,
    pub(super) resident_bytes: Option<u64>,
    pub(super) virtual_bytes: Option<u64>,
    pub(super) threads: Option<u64>,
    /// In seconds since 1970.
    pub(super) start_time: Option<f64>,
    pub(super) open_fds: Option<u64>,
    pub(super) max_fds: Option<u64>,
}

impl Process {
    /// This process.
    pub(super) fn read() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let boot = fs::read_to_string("/proc/stat").unwrap_or_default();
        let number = |variable| sysconf(variable).ok().flatten();
        let ticks = number(SysconfVar::CLK_TCK).unwrap_or(100) as f64;
        let page = number(SysconfVar::PAGE_SIZE).unwrap_or(4096) as u64;
        Self {
            open_fds: open_fds().ok(),
            max_fds: getrlimit(Resource::RLIMIT_NOFILE)
                .ok()
                .map(|(soft, _)| soft),
            ..Self::of(&stat, &boot, ticks, page)
        }
    }

    fn of(stat: &str, boot: &str, ticks: f64, page: u64) -> Self {
        // The second field is the program's name, in brackets, and may have anything in it.
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let fields: Vec<_> = fields.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let booted = boot.lines().find_map(|line| line.strip_prefix("btime "));
        let booted = booted.and_then(|text| text.trim().parse::<f64>().ok());
        let cpu = |(user, system)| (user + system) as f64 / ticks;
        let started = |(booted, start): (f64, u64)| booted + start as f64 / ticks;
        Self {
            cpu_seconds: field(14).zip(field(15)).map(cpu),
            threads: field(20),
            start_time: booted.zip(field(22)).map(started),
            virtual_bytes: field(23),
            resident_bytes: field(24).map(|pages| pages * page),
            ..Self::default()
        }
    }
}

/// How many descriptors are open. Since Linux 6.2 the directory's size says so; to count tens of thousands takes long.
fn open_fds() -> io::Result<u64> {
    match fs::metadata("/proc/self/fd")?.len() {
        // The one that the directory is read by is not counted.
        0 => Ok((fs::read_dir("/proc/self/fd")?.count() as u64).saturating_sub(1)),
        count => Ok(count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_found_whatever_the_name_is() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 9 0 1000 4096000 25 1 1";
        let process = Process::of(stat, "cpu 1\nbtime 1700000000\nprocesses 3\n", 100.0, 4096);
        let expected = Process {
            cpu_seconds: Some(3.0),
            threads: Some(9),
            start_time: Some(1_700_000_010.0),
            virtual_bytes: Some(4_096_000),
            resident_bytes: Some(25 * 4096),
            ..Process::default()
        };
        assert_eq!(process, expected);
        assert_eq!(Process::of("", "", 100.0, 4096), Process::default());
    }

    #[test]
    fn this_process_is_there() {
        let process = Process::read();
        assert!(process.threads > Some(0) && process.resident_bytes > Some(0));
        assert!(process.open_fds > Some(0) && process.max_fds >= process.open_fds);
        assert!(process.start_time > Some(1e9) && process.cpu_seconds >= Some(0.0));
    }
}
