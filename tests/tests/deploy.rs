//! What is in `deploy/` for services and containers.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use vmd_tests::binary;

/// What `systemd-analyze security` may say at most, times ten.
const EXPOSURE: u32 = 20;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn deploy(name: &str) -> String {
    fs::read_to_string(repository().join("deploy").join(name)).unwrap()
}

/// `None` if it is not installed; `.ci/run` installs it.
fn systemd_analyze(arguments: &[&str], files: &[PathBuf]) -> Option<Output> {
    let mut command = Command::new("systemd-analyze");
    command.args(arguments).args(files).env("LC_ALL", "C");
    match command.output() {
        Ok(output) => Some(output),
        Err(error) => {
            eprintln!("left out: systemd-analyze: {error}");
            None
        }
    }
}

#[test]
fn the_unit_exposes_little() {
    let unit = repository().join("deploy/vmd.service");
    let threshold = format!("--threshold={}", EXPOSURE - 1);
    let arguments = ["security", "--offline=true", "--no-pager", &threshold];
    let Some(output) = systemd_analyze(&arguments, &[unit]) else {
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("Overall exposure level"), "{output:?}");
    assert!(output.status.success(), "{text}");
}

#[test]
fn the_units_are_sound() {
    let directory = tempfile::tempdir().unwrap();
    let installed = "/usr/local/bin/vmd";
    let units = ["vmd.service", "vmd.socket"].map(|name| {
        let built = binary("vmd").display().to_string();
        let path = directory.path().join(name);
        fs::write(&path, deploy(name).replace(installed, &built)).unwrap();
        path
    });
    let Some(output) = systemd_analyze(&["verify"], &units) else {
        return;
    };
    let text = String::from_utf8_lossy(&output.stderr);
    // Of the host's own units there may be warnings.
    let ours: Vec<_> = text.lines().filter(|line| line.contains("vmd.")).collect();
    assert!(ours.is_empty() && output.status.success(), "{text}");
}

/// A number of seconds in a unit's line `KEY=..`, or of an option in it.
fn seconds(unit: &str, key: &str) -> u64 {
    let (_, rest) = unit.split_once(key).unwrap();
    let number = rest.split(|other: char| !other.is_ascii_digit());
    number.into_iter().next().unwrap().parse().unwrap()
}

#[test]
fn the_unit_waits_for_the_guests() {
    let unit = deploy("vmd.service");
    assert!(seconds(&unit, "\nTimeoutStopSec=") > seconds(&unit, "--grace "));
}

/// The instructions of a Containerfile, each on one line.
fn instructions(text: &str) -> Vec<String> {
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    let joined = lines.collect::<Vec<_>>().join("\n").replace("\\\n", " ");
    let instructions = joined.lines().filter(|line| !line.trim().is_empty());
    instructions.map(str::to_owned).collect()
}

#[test]
fn the_container_file_holds_together() {
    let text = deploy("Containerfile");
    let mut stages = Vec::new();
    let mut user = "root".to_owned();
    for instruction in instructions(&text) {
        let (word, rest) = instruction.split_once(' ').expect(&instruction);
        let words: Vec<_> = rest.split_whitespace().collect();
        match word {
            "FROM" => {
                let image = words[0];
                assert!(image.starts_with("docker.io/library/debian:"), "{image}");
                stages.push(words.get(2).copied().unwrap_or_default().to_owned());
                user = "root".to_owned();
            }
            "COPY" => match words[0].strip_prefix("--from=") {
                Some(stage) => assert!(stages.iter().any(|name| name == stage), "{instruction}"),
                None => {
                    for source in &words[..words.len() - 1] {
                        assert!(repository().join(source).exists(), "{instruction}");
                    }
                }
            },
            "USER" => user = words[0].to_owned(),
            // Lists are JSON, or would be taken for shell.
            "ENTRYPOINT" | "CMD" | "VOLUME" => {
                let list: Vec<String> = serde_json::from_str(rest).expect(&instruction);
                assert!(!list.is_empty());
            }
            "RUN" | "WORKDIR" | "ARG" | "ENV" | "STOPSIGNAL" => {}
            other => panic!("{other}"),
        }
    }
    assert_eq!((stages.len(), user.as_str()), (2, "vmd"));

    // Every member of the workspace is there when it is built.
    let manifest = fs::read_to_string(repository().join("Cargo.toml")).unwrap();
    let (_, members) = manifest.split_once("members = ").unwrap();
    let members: Vec<String> = serde_json::from_str(members.lines().next().unwrap()).unwrap();
    for member in members {
        assert!(
            text.contains(&format!("\nCOPY {member} {member}\n")),
            "{member}"
        );
    }
}

#[test]
fn the_container_starts_as_it_says() {
    let text = deploy("Containerfile");
    let list = |word: &str| -> Vec<String> {
        let instructions = instructions(&text);
        let mut lists = instructions.iter().filter_map(|one| one.strip_prefix(word));
        serde_json::from_str(lists.next().unwrap()).unwrap()
    };
    let mut command = list("ENTRYPOINT ");
    command.extend(list("CMD "));
    // A file that is not there is told with status 1, what the command line cannot be with 2.
    let config = command.iter().position(|one| one == "--config").unwrap();
    command[config + 1] = "/nonexistent/vmd.toml".to_owned();
    let output = Command::new(binary(&command[0]))
        .args(&command[1..])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}
