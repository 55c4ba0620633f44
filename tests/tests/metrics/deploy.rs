//! The dashboard and the alerts of `deploy/metrics`, and what Prometheus' own tool says to all of it.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;
use vmd_tests::{in_thread, request, soon};

use super::scrape::Watched;

fn deploy(name: &str) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.join("../deploy/metrics").join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(deploy(name)).unwrap()
}

/// Runs promtool, if it is installed: whether it succeeded, and what it said.
async fn promtool(arguments: &[&str], input: String) -> Option<(bool, String)> {
    let mut command = Command::new("promtool");
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let run = move || {
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => panic!("promtool: {error}"),
        };
        let mut stdin = child.stdin.take().unwrap();
        let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output().unwrap();
        // It need not read it to the end.
        let _ = writer.join().unwrap();
        let said = [output.stdout, output.stderr].concat();
        Some((output.status.success(), String::from_utf8(said).unwrap()))
    };
    let ran = soon("promtool", in_thread(run)).await;
    if ran.is_none() {
        eprintln!("left out: promtool is not installed (package prometheus)");
    }
    ran
}

/// Every name of a metric in `text`.
fn names(text: &str) -> BTreeSet<&str> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !is_word(c));
    words
        .filter(|word| word.starts_with("vmd_") || word.starts_with("process_"))
        .collect()
}

/// Every expression in a dashboard.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| expressions(value, found)),
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(text) if key == "expr" || key == "query" => {
                        found.push(text.clone());
                    }
                    value => expressions(value, found),
                }
            }
        }
        _ => {}
    }
}

#[tokio::test]
async fn the_alerts_are_right_and_each_fires_for_what_it_is_for() {
    let rules = deploy("vmd-alerts.yml");
    let checked = promtool(&["check", "rules", rules.to_str().unwrap()], String::new()).await;
    if let Some((good, said)) = checked {
        assert!(good, "{said}");
    }
    let tests = deploy("vmd-alerts.test.yml");
    let tested = promtool(&["test", "rules", tests.to_str().unwrap()], String::new()).await;
    if let Some((good, said)) = tested {
        assert!(good, "{said}");
    }
    // None is without a test.
    let (rules, tests) = (read("vmd-alerts.yml"), read("vmd-alerts.test.yml"));
    let alerts: Vec<_> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    assert!(!alerts.is_empty());
    for alert in alerts {
        for what in ["fires", "keeps quiet"] {
            assert!(
                tests.contains(&format!("- name: {alert} {what}\n")),
                "{alert} {what}"
            );
        }
    }
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn dashboard_and_alerts_ask_for_metrics_that_there_are() {
    let watched = Watched::start().await;
    let text = watched.scrape().await.text;
    let mut there = BTreeSet::new();
    for line in text.lines() {
        let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|rest| rest.split_once(' '))
        else {
            continue;
        };
        match kind {
            "histogram" => {
                there.extend(["_bucket", "_sum", "_count"].map(|suffix| format!("{name}{suffix}")));
            }
            _ => {
                there.insert(name.to_owned());
            }
        }
    }
    let dashboard: Value = serde_json::from_str(&read("vmd-dashboard.json")).unwrap();
    let mut asked = Vec::new();
    expressions(&dashboard, &mut asked);
    let asked = asked.join("\n");
    let (alerts, tests) = (read("vmd-alerts.yml"), read("vmd-alerts.test.yml"));
    for (what, text) in [
        ("dashboard", &asked),
        ("alerts", &alerts),
        ("tests", &tests),
    ] {
        let names = names(text);
        assert!(names.len() > 5, "{what}: {names:?}");
        for name in names {
            assert!(
                there.contains(name),
                "{what}: {name} is not among {there:?}"
            );
        }
    }
    // What there is can be seen.
    for name in &there {
        let name = name.trim_end_matches("_sum").trim_end_matches("_count");
        let shown = asked.contains(name) || alerts.contains(name);
        let is_common = name.starts_with("process_virtual");
        assert!(
            shown || is_common,
            "{name} is neither in the dashboard nor in the alerts"
        );
    }
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels
        .iter()
        .map(|panel| panel["id"].as_u64().unwrap())
        .collect();
    assert_eq!(ids.len(), panels.len(), "each panel has an id of its own");
    assert_eq!(dashboard["uid"], "vmd");
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn promtool_takes_what_the_daemon_says() {
    let watched = Watched::start().await;
    let client = watched.daemon.client().await;
    soon("create", client.create(request("a"))).await.unwrap();
    soon("stop", client.stop("a")).await.unwrap();
    soon("create", client.create(request("b"))).await.unwrap();
    soon("quit", client.quit("b")).await.unwrap();
    let text = watched.scrape().await.text;
    if let Some((good, said)) = promtool(&["check", "metrics"], text).await {
        assert!(good && said.is_empty(), "{said}");
    }
}
