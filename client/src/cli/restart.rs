//! A restart policy as typed on the command line: `on-failure,max=5,backoff=1s,max-backoff=1m`; and as it is shown.

use std::{iter, time::Duration};

use super::values::{duration, split};
use crate::{
    json,
    names::Spelled,
    v1::{RestartMode, RestartPolicy, VmStatus},
};

/// Reads a policy.
pub(super) fn read(text: &str) -> Result<RestartPolicy, String> {
    let mut words = split(text).into_iter();
    let mode = words.next().unwrap_or_default();
    let mode = RestartMode::from_spelling(&mode)
        .ok_or_else(|| format!("'{mode}' is none of never, on-failure and always"))?;
    let mut policy = RestartPolicy {
        mode: mode.into(),
        ..Default::default()
    };
    let time = |text: &str| {
        let time = duration(text)?;
        prost_types::Duration::try_from(time).map_err(|_| format!("'{text}' is too long"))
    };
    for word in words {
        match word.split_once('=') {
            Some(("max", count)) => {
                policy.max_restarts = count
                    .parse()
                    .map_err(|_| format!("'{count}' is no number of restarts"))?;
            }
            Some(("backoff", wait)) => policy.initial_backoff = Some(time(wait)?),
            Some(("max-backoff", wait)) => policy.max_backoff = Some(time(wait)?),
            _ => {
                return Err(format!(
                    "'{word}' is none of max=N, backoff=TIME and max-backoff=TIME"
                ));
            }
        }
    }
    Ok(policy)
}

/// A policy as typed, and where a machine stands with it: `always,backoff=1s (2 in a row, the next start at 2026-...)`.
pub(super) fn shown(policy: Option<&RestartPolicy>, status: &VmStatus) -> String {
    let policy = policy.map_or_else(|| "never".to_owned(), typed);
    let next = status.next_start_time.as_ref().map(json::time);
    match (status.restarts, next) {
        (0, _) => policy,
        (count, None) => format!("{policy} ({count} in a row)"),
        (count, Some(time)) => format!("{policy} ({count} in a row, the next start at {time})"),
    }
}

/// A policy as [`read`] reads it.
fn typed(policy: &RestartPolicy) -> String {
    let mode = RestartMode::spelling_of(policy.mode).unwrap_or("unknown");
    let max = Some(policy.max_restarts).filter(|max| *max > 0);
    let time = |time: Option<prost_types::Duration>| {
        let time = Duration::try_from(time?).ok()?;
        Some(match time.subsec_millis() {
            0 => format!("{}s", time.as_secs()),
            _ => format!("{}ms", time.as_millis()),
        })
    };
    let options = [
        ("max", max.map(|max| max.to_string())),
        ("backoff", time(policy.initial_backoff)),
        ("max-backoff", time(policy.max_backoff)),
    ];
    let options = options
        .into_iter()
        .filter_map(|(key, value)| Some(format!(",{key}={}", value?)));
    iter::once(mode.to_owned()).chain(options).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_a_mode_and_options() {
        let mode = |mode: RestartMode| RestartPolicy {
            mode: mode.into(),
            ..Default::default()
        };
        assert_eq!(read("always"), Ok(mode(RestartMode::Always)));
        let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        let all = RestartPolicy {
            max_restarts: 5,
            initial_backoff: seconds(1),
            max_backoff: seconds(120),
            ..mode(RestartMode::OnFailure)
        };
        assert_eq!(read("on-failure,max=5,backoff=1s,max-backoff=2m"), Ok(all));
        for (text, problem) in [
            ("", "'' is none of never"),
            ("sometimes", "'sometimes' is none of never"),
            ("always,max=-1", "'-1' is no number"),
            ("always,backoff=1", ""),
            ("always,jitter=1s", "'jitter=1s' is none of max=N"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.starts_with(problem), "{text}: {error}");
        }
    }

    #[test]
    fn a_machine_shows_its_policy_and_what_is_next() {
        let mut status = VmStatus::default();
        assert_eq!(shown(None, &status), "never");
        let text = "always,max=5,backoff=250ms,max-backoff=120s";
        assert_eq!(shown(Some(&read(text).unwrap()), &status), text);
        let policy = read("on-failure").unwrap();
        status.restarts = 2;
        let text = shown(Some(&policy), &status);
        assert_eq!(text, "on-failure (2 in a row)");
        status.next_start_time = Some(prost_types::Timestamp::default());
        let text = shown(Some(&policy), &status);
        assert!(text.ends_with("in a row, the next start at 1970-01-01T00:00:00.000000000Z)"));
    }
}
