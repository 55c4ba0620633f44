//! Conformance: every recording of QEMU 7.2 (`traces/`) is replayed, and what comes of it compared exactly.
//!
//! ```text
//!   recording --> in lines  --> QMP socket, serial port, signals of a vmd machine --> out lines, compared
//!             \-> one pass  --> requests raised together on the run-state core    --> events, compared
//! ```
//! Each recording has a verdict of its own: it holds, is pending (`verdicts.rs` says what it waits for; it fails when it
//! begins to hold), or differs on purpose (then `instead/` has what vmd does, and that must hold). The result is a page,
//! `CONFORMANCE.md`. Arguments: parts of names, to replay only some.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod blkdebug;
mod difference;
mod one_pass;
mod page;
mod replay;
mod vector;
mod verdicts;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::Semaphore, task::JoinSet};
use vmd_tests::{DEADLINE, Daemon, soon};

use blkdebug::{Host, Inner};
use difference::Difference;
use vector::{Line, Vector};
use verdicts::Expected;

/// How many machines run at once. Most of them wait for a timer.
const AT_ONCE: usize = 6;

/// How long a pending recording's machine is waited for: what it waits for most likely never comes.
const PENDING_PATIENCE: Duration = Duration::from_secs(2);

/// The result of one recording.
struct Verdict {
    number: u16,
    name: String,
    description: String,
    expected: Expected,
    result: Outcome,
    took: Duration,
}

/// What came of a replay.
#[derive(PartialEq)]
enum Outcome {
    /// What is expected.
    Same,
    /// Something else: where and what.
    Other(String),
    /// There is no KVM to replay it on.
    Ignored,
}

fn main() -> ExitCode {
    // The test harness's options mean nothing here, but for the list.
    let (options, filters): (Vec<_>, Vec<_>) =
        env::args().skip(1).partition(|word| word.starts_with("--"));
    let paths = paths(&filters);
    if options.iter().any(|option| option == "--list") {
        for path in &paths {
            println!("{}: test", name_of(path));
        }
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let verdicts = runtime.block_on(run(paths));
    let mut failures = summary(&verdicts);
    if filters.is_empty() && !cfg!(no_kvm) {
        let numbers: Vec<u16> = verdicts.iter().map(|verdict| verdict.number).collect();
        let unused = verdicts::unused(&numbers);
        failures.extend(
            unused
                .iter()
                .map(|entry| format!("no recording for the entry {entry}")),
        );
        if failures.is_empty() {
            failures.extend(page::check(&verdicts).err());
        }
    }
    if failures.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!(
        "\nconformance: {} failed\n\n{}",
        failures.len(),
        failures.join("\n")
    );
    ExitCode::FAILURE
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/conformance")
        .join(name)
}

fn name_of(path: &Path) -> String {
    path.file_stem().unwrap().to_string_lossy().into_owned()
}

/// The recordings whose names have one of `filters` in them, in the order of their numbers.
fn paths(filters: &[String]) -> Vec<PathBuf> {
    let files = fs::read_dir(folder("traces"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = files
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "jsonl")
        })
        .filter(|path| {
            let name = name_of(path);
            filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()))
        })
        .collect();
    paths.sort_by_key(|path| {
        let name = name_of(path);
        let number: u16 = name.split('_').next().unwrap().parse().unwrap();
        (number, name)
    });
    paths
}

/// Replays all, several at once.
async fn run(paths: Vec<PathBuf>) -> Vec<Verdict> {
    let vectors: Vec<Vector> = paths.iter().map(|path| Vector::read(path)).collect();
    let daemon = if cfg!(no_kvm) {
        None
    } else {
        Some(Arc::new(Daemon::start().await))
    };
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = JoinSet::new();
    for vector in vectors {
        let (daemon, places) = (daemon.clone(), places.clone());
        running.spawn(async move {
            let _place = places.acquire_owned().await.unwrap();
            judge(daemon, vector).await
        });
    }
    let mut verdicts = running.join_all().await;
    verdicts.sort_by(|a, b| (a.number, &a.name).cmp(&(b.number, &b.name)));
    verdicts
}

async fn judge(daemon: Option<Arc<Daemon>>, vector: Vector) -> Verdict {
    let started = Instant::now();
    let number = vector.number();
    let (name, description) = (vector.name.clone(), vector.description.clone());
    let expected = verdicts::expected(number);
    let result = match expected {
        Expected::Holds => tried(daemon, vector, DEADLINE).await,
        Expected::Pending(_) => match tried(daemon, vector, PENDING_PATIENCE).await {
            Outcome::Same => Outcome::Other(
                "it was pending and holds now: take it from the table in verdicts.rs\n".to_owned(),
            ),
            Outcome::Other(_) => Outcome::Same,
            Outcome::Ignored => Outcome::Ignored,
        },
        Expected::Differs(_) => {
            let instead = Vector::read(&folder("instead").join(format!("{name}.jsonl")));
            if instead.sequences == vector.sequences {
                Outcome::Other("instead/ has the recording itself\n".to_owned())
            } else {
                tried(daemon, instead, DEADLINE).await
            }
        }
    };
    Verdict {
        number,
        name,
        description,
        expected,
        result,
        took: started.elapsed(),
    }
}

/// Replays a recording; a panic is its failure alone.
async fn tried(daemon: Option<Arc<Daemon>>, vector: Vector, patience: Duration) -> Outcome {
    let task = tokio::spawn(async move {
        if vector.any(|line| matches!(line, Line::PortWrites(_))) {
            return Some(one_pass::replay(&vector));
        }
        Some(on_machine(&*daemon?, &vector, patience).await)
    });
    match task.await {
        Ok(Some(Ok(()))) => Outcome::Same,
        Ok(Some(Err(difference))) => Outcome::Other(difference.to_string()),
        Ok(None) => Outcome::Ignored,
        Err(error) => Outcome::Other(format!("{error}; its message is above\n")),
    }
}

async fn on_machine(
    daemon: &Daemon,
    vector: &Vector,
    patience: Duration,
) -> Result<(), Difference> {
    if vector.start.disk.is_some() {
        let host = Host::Inner(Inner::start().await);
        let result = replay::replay(&host, vector, patience).await;
        if let Host::Inner(inner) = host {
            inner.end().await;
        }
        return result;
    }
    if !vector.any(|line| matches!(line, Line::Signal(_))) {
        return replay::replay(&Host::Process(daemon), vector, patience).await;
    }
    // A signal to QEMU's process is one to the daemon, so that is the machine's own, and its end is the machine's.
    let daemon = Daemon::start().await;
    replay::replay(&Host::Process(&daemon), vector, patience).await?;
    let (status, log) = soon("the daemon's end", daemon.ended()).await;
    assert_eq!(status.code(), Some(0), "the daemon's end: {status}\n{log}");
    Ok(())
}

/// Prints the table; returns what is not as expected.
fn summary(verdicts: &[Verdict]) -> Vec<String> {
    let mut failures = Vec::new();
    let mut ignored = 0;
    println!();
    for verdict in verdicts {
        let word = match &verdict.result {
            Outcome::Same => page::word_of(verdict.expected),
            Outcome::Other(what) => {
                failures.push(format!("{}: {what}", verdict.name));
                "FAILED"
            }
            Outcome::Ignored => {
                ignored += 1;
                "ignored, needs /dev/kvm:"
            }
        };
        let took = verdict.took.as_secs_f64();
        println!("{word:8} {took:6.2} s  {}", verdict.name);
    }
    let count = |word| {
        let is = |v: &&Verdict| v.result == Outcome::Same && page::word_of(v.expected) == word;
        verdicts.iter().filter(is).count()
    };
    println!(
        "\nconformance: {} hold, {} pending, {} differ on purpose",
        count("holds"),
        count("pending"),
        count("differs"),
    );
    // As the other tests say it, for who counts them.
    println!(
        "test result: {}. {} passed; {} failed; {ignored} ignored; 0 measured; 0 filtered out",
        if failures.is_empty() { "ok" } else { "FAILED" },
        verdicts.len() - failures.len() - ignored,
        failures.len(),
    );
    failures
}
