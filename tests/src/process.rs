//! Processes: where the binaries are, and what a process holds.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::Instant,
};

use crate::DEADLINE;

/// The path of the project's binary `name` (`vmd`, `vmctl`), built like this test.
pub fn binary(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let directory = BUILT.get_or_init(|| {
        // target/<profile>/deps/<this test>
        let test = env::current_exe().expect("this test's path");
        let directory = test
            .parent()
            .and_then(Path::parent)
            .expect("the target directory");
        // `cargo test -p vmd-tests` alone does not build them; nothing is done if they are up to date.
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--workspace", "--bins"]);
        if directory.ends_with("release") {
            cargo.arg("--release");
        }
        let built = cargo
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .expect("cargo runs");
        assert!(built.success(), "cargo build: {built}");
        directory.to_owned()
    });
    directory.join(name)
}

/// What a process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resources {
    /// Its threads.
    pub threads: usize,
    /// Its open descriptors.
    pub descriptors: usize,
    /// Its mappings.
    pub mappings: usize,
    /// Those of its descriptors and mappings that are KVM's.
    pub kvm: usize,
    /// Its resident memory, in bytes.
    pub resident: u64,
    /// The part of it that is its own, and not its program's and libraries': heap, stacks, guest memory.
    pub anonymous: u64,
}

impl Resources {
    /// Of the process `pid`.
    pub fn of(pid: u32) -> Self {
        let entries = |what| fs::read_dir(format!("/proc/{pid}/{what}")).map_or(0, Iterator::count);
        let text = |what| fs::read_to_string(format!("/proc/{pid}/{what}")).unwrap_or_default();
        let resident_pages: u64 = text("statm")
            .split_whitespace()
            .nth(1)
            .and_then(|pages| pages.parse().ok())
            .unwrap_or_default();
        let anonymous_kib: u64 = text("status")
            .lines()
            .filter_map(|line| line.strip_prefix("RssAnon:"))
            .filter_map(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok())
            .sum();
        let maps = text("maps");
        let links = fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten();
        let kvm_files = links
            .filter_map(|link| fs::read_link(link.ok()?.path()).ok())
            .filter(|target| target.to_string_lossy().contains("kvm-v"))
            .count();
        Self {
            threads: entries("task"),
            descriptors: entries("fd"),
            mappings: maps.lines().count(),
            kvm: kvm_files + maps.lines().filter(|line| line.contains("kvm-v")).count(),
            resident: resident_pages * 4096,
            anonymous: anonymous_kib * 1024,
        }
    }

    /// The processor time that `pid` has used so far, in its own threads, in ticks of 10 ms.
    pub fn cpu_ticks(pid: u32) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name, in parentheses, may hold spaces. After it come state, ..., utime (12th), stime (13th).
        let (_, fields) = stat.rsplit_once(')').unwrap_or_default();
        fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|ticks| ticks.parse::<u64>().ok())
            .sum()
    }
}

/// Waits until what the process `pid` holds satisfies `settled`. Nothing tells of these counts, so they are read again
/// after each `round_trip`, which gives the process something to do meanwhile, until the deadline.
pub async fn settle(
    what: &str,
    pid: u32,
    mut round_trip: impl AsyncFnMut(),
    settled: impl Fn(&Resources) -> bool,
) -> Resources {
    let started = Instant::now();
    loop {
        round_trip().await;
        let now = Resources::of(pid);
        if settled(&now) {
            return now;
        }
        assert!(started.elapsed() < DEADLINE, "{what}: still {now:?}");
    }
}
