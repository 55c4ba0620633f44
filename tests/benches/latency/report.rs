//! Measures two things turn by turn and compares them.
//!
//! Absolute times are worth little on a machine that others use as well. So each step measures the floor and vmd, one
//! right after the other, and what counts is the ratio of their medians. The ratio of their tenth percentiles is beside it:
//! what it is when nobody else gets in the way.

use std::{fmt::Write, fs, path::PathBuf, time::Duration};

use criterion::{Criterion, SamplingMode};

/// The samples of everything that was measured.
#[derive(Default)]
pub(crate) struct Report {
    pairs: Vec<Pair>,
    notes: Vec<String>,
}

struct Pair {
    name: &'static str,
    floor: Vec<Duration>,
    ours: Vec<Duration>,
    most: Option<f64>,
}

impl Pair {
    /// Of the floor and of vmd.
    fn percentiles(&self, percent: usize) -> (Duration, Duration) {
        (
            percentile(&self.floor, percent),
            percentile(&self.ours, percent),
        )
    }
}

impl Report {
    /// Measures `floor` and `ours`, each returning what it took, as two of criterion's benchmarks: `name/floor` and
    /// `name/vmd`. Each iteration of either measures both, so that both see the same machine. If `most` is given, the
    /// ratio must not be above it.
    pub(crate) fn measure(
        &mut self,
        criterion: &mut Criterion,
        name: &'static str,
        most: Option<f64>,
        mut floor: impl FnMut() -> Duration,
        mut ours: impl FnMut() -> Duration,
    ) {
        let mut pair = Pair {
            name,
            floor: Vec::new(),
            ours: Vec::new(),
            most,
        };
        let mut step = || {
            // None is always the one that comes after the other.
            let (floor, ours) = if pair.ours.len().is_multiple_of(2) {
                let floor = floor();
                (floor, ours())
            } else {
                let ours = ours();
                (floor(), ours)
            };
            pair.floor.push(floor);
            pair.ours.push(ours);
            (floor, ours)
        };
        let mut group = criterion.benchmark_group(name);
        group.sampling_mode(SamplingMode::Flat);
        group.bench_function("floor", |bencher| {
            bencher.iter_custom(|count| (0..count).map(|_| step().0).sum());
        });
        group.bench_function("vmd", |bencher| {
            bencher.iter_custom(|count| (0..count).map(|_| step().1).sum());
        });
        group.finish();
        // Left out by the command line.
        if !pair.ours.is_empty() {
            self.pairs.push(pair);
        }
    }

    /// Adds a line below the table.
    pub(crate) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// The medians of pair `name`, floor and ours, if it was measured.
    pub(crate) fn medians(&self, name: &str) -> Option<(Duration, Duration)> {
        let pair = self.pairs.iter().find(|pair| pair.name == name)?;
        Some(pair.percentiles(50))
    }

    /// Adds what `count` requests of `size` bytes in the time of pair `name` come to.
    pub(crate) fn rate(&mut self, name: &str, count: u32, size: u32) {
        let Some((floor, ours)) = self.medians(name) else {
            return;
        };
        let each = |time: Duration| micros(time / count);
        let rate = |time: Duration| {
            f64::from(count) * f64::from(size) / time.as_secs_f64() / f64::from(1 << 20)
        };
        self.note(format!(
            "{name}: {} and {:.0} MiB/s, host {} and {:.0} MiB/s",
            each(ours),
            rate(ours),
            each(floor),
            rate(floor)
        ));
    }

    /// Prints the table and, unless this is a `smoke` test, writes it to `target/bench-ratios.txt`. Returns whether every
    /// bound holds.
    pub(crate) fn finish(&self, smoke: bool) -> bool {
        let mut text = format!(
            "{:<22} {:>7} | {:>10} {:>10} {:>5} | {:>10} {:>10} {:>5}\n",
            "", "samples", "floor p50", "vmd p50", "ratio", "floor p10", "vmd p10", "ratio"
        );
        let mut holds = true;
        for pair in &self.pairs {
            let columns = |percent| {
                let (floor, ours) = pair.percentiles(percent);
                let ratio = ours.as_secs_f64() / floor.as_secs_f64();
                let text = format!("{:>10} {:>10} {ratio:>5.2}", micros(floor), micros(ours));
                (ratio, text)
            };
            let (ratio, p50) = columns(50);
            let (_, p10) = columns(10);
            let bound = pair.most.map_or_else(String::new, |most| {
                holds &= ratio <= most;
                let verdict = if ratio <= most {
                    "holds"
                } else {
                    "DOES NOT HOLD"
                };
                format!("  at most {most}: {verdict}")
            });
            let _ = writeln!(
                text,
                "{:<22} {:>7} | {p50} | {p10}{bound}",
                pair.name,
                pair.ours.len(),
            );
        }
        for note in &self.notes {
            let _ = writeln!(text, "{note}");
        }
        println!("\n{text}");
        if smoke {
            println!("A single sample each: the numbers mean nothing.");
            return true;
        }
        let path = target().join("bench-ratios.txt");
        match fs::write(&path, text) {
            Ok(()) => println!("written to {}", path.display()),
            Err(error) => eprintln!("{}: {error}", path.display()),
        }
        holds
    }
}

fn percentile(samples: &[Duration], percent: usize) -> Duration {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    let index = sorted.len() * percent / 100;
    sorted.get(index).copied().unwrap_or_default()
}

fn micros(time: Duration) -> String {
    format!("{:.1} us", time.as_secs_f64() * 1e6)
}

/// The target directory: this executable is `target/release/deps/latency-...`.
fn target() -> PathBuf {
    let executable = std::env::current_exe().unwrap_or_default();
    executable
        .ancestors()
        .nth(3)
        .map_or_else(PathBuf::new, PathBuf::from)
}
