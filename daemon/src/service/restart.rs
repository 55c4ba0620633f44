//! What the restart policy of a request must look like.

use std::time::Duration;

use tonic::Status as Refusal;
use vmd_proto::v1;

use super::errors::invalid_field;
use crate::vm::{RestartMode, RestartPolicy};

const WAIT_MIN: Duration = Duration::from_millis(1);
const WAIT_MAX: Duration = Duration::from_secs(24 * 3600);

/// The restart policy of a definition, with the defaults put in.
pub(super) fn restart(policy: Option<v1::RestartPolicy>) -> Result<RestartPolicy, Refusal> {
    let default = RestartPolicy::default();
    let Some(policy) = policy else {
        return Ok(default);
    };
    let refuse =
        |field: &str, problem: &str| invalid_field(&format!("definition.restart.{field}"), problem);
    let mode = match v1::RestartMode::try_from(policy.mode) {
        Ok(v1::RestartMode::Unspecified | v1::RestartMode::Never) => RestartMode::Never,
        Ok(v1::RestartMode::OnFailure) => RestartMode::OnFailure,
        Ok(v1::RestartMode::Always) => RestartMode::Always,
        Err(_) => {
            let problem = format!("there is no restart mode {}", policy.mode);
            return Err(refuse("mode", &problem));
        }
    };
    let wait = |field: &str, wait: prost_types::Duration| {
        let wait = Duration::try_from(wait).ok();
        wait.filter(|wait| (WAIT_MIN..=WAIT_MAX).contains(wait))
            .ok_or_else(|| refuse(field, "a wait is 1 ms to 1 day"))
    };
    let initial_backoff = match policy.initial_backoff {
        Some(asked) => wait("initial_backoff", asked)?,
        None => default.initial_backoff,
    };
    let max_backoff = match policy.max_backoff {
        Some(asked) => wait("max_backoff", asked)?,
        None => default.max_backoff.max(initial_backoff),
    };
    if max_backoff < initial_backoff {
        return Err(refuse("max_backoff", "it is less than the first wait"));
    }
    Ok(RestartPolicy {
        mode,
        max_restarts: policy.max_restarts,
        initial_backoff,
        max_backoff,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert;

    fn seconds(seconds: i64) -> Option<prost_types::Duration> {
        Some(prost_types::Duration { seconds, nanos: 0 })
    }

    #[test]
    fn a_policy_comes_back_as_it_went() {
        assert_eq!(restart(None).unwrap(), RestartPolicy::default());
        assert_eq!(convert::restart(&RestartPolicy::default()), None);
        let sent = v1::RestartPolicy {
            mode: v1::RestartMode::Always.into(),
            max_restarts: 7,
            initial_backoff: seconds(2),
            max_backoff: seconds(9),
        };
        let policy = restart(Some(sent)).unwrap();
        assert_eq!(convert::restart(&policy), Some(sent));
        let late = v1::RestartPolicy {
            initial_backoff: seconds(100),
            max_backoff: None,
            ..sent
        };
        assert_eq!(restart(Some(late)).unwrap().max_backoff.as_secs(), 100);
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_field() {
        let default = v1::RestartPolicy::default();
        for (policy, field) in [
            (v1::RestartPolicy { mode: 9, ..default }, "mode"),
            (
                v1::RestartPolicy {
                    initial_backoff: seconds(0),
                    ..default
                },
                "initial_backoff",
            ),
            (
                v1::RestartPolicy {
                    initial_backoff: seconds(-1),
                    ..default
                },
                "initial_backoff",
            ),
            (
                v1::RestartPolicy {
                    max_backoff: seconds(1 << 40),
                    ..default
                },
                "max_backoff",
            ),
            (
                v1::RestartPolicy {
                    initial_backoff: seconds(9),
                    max_backoff: seconds(8),
                    ..default
                },
                "max_backoff",
            ),
        ] {
            let refusal = restart(Some(policy)).unwrap_err();
            let start = format!("definition.restart.{field}: ");
            assert!(refusal.message().starts_with(&start), "{refusal}");
        }
    }
}
