//! What can go wrong with a call: a gRPC status in, an [`Error`] that a caller can act on out.

use std::{collections::BTreeMap, error::Error as StdError, fmt, io};

use nix::errno::Errno;
use thiserror::Error;
use tonic::{Code, Status, TimeoutExpired};
use tonic_types::StatusExt;

use crate::{Endpoint, TlsError, names::Spelled, v1};

/// Why a call did not do what was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The daemon could not be reached, or the connection broke before it answered. In the second
    /// case it is not known whether the call was served.
    #[error("cannot reach the daemon at {endpoint}: {}", cause(.source.as_ref()))]
    Unreachable {
        /// Where the daemon was looked for.
        endpoint: Endpoint,
        /// The operating system's or the connection's error.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The files for TLS are missing, or cannot be used.
    #[error("{0}")]
    Tls(Box<TlsError>),
    /// The daemon answered, and said no.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// The call was not answered in the time that it was given. What the daemon had begun goes on: repeat the call, or
    /// look at the machine.
    #[error("the daemon did not answer in time")]
    Deadline,
    /// The machine waited for does not exist, or was deleted meanwhile.
    #[error("there is no machine '{name}'")]
    Gone {
        /// The name that was asked for.
        name: String,
    },
    /// The machine waited for has ended and does not get to the state that was asked for.
    #[error("'{}' has ended, in state {}", vm.name, state_of(vm))]
    Ended {
        /// The machine as it ended.
        vm: Box<v1::Vm>,
    },
    /// The daemon answered something that the interface does not allow.
    #[error("the daemon's answer makes no sense: {0}")]
    Malformed(&'static str),
}

/// A daemon's no, with the details it gave (`google.rpc.ErrorInfo` and `google.rpc.BadRequest`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The gRPC status code.
    pub code: Code,
    /// The stable reason, such as `VM_NOT_FOUND`; empty if the daemon gave none.
    pub reason: String,
    /// What is wrong, for people.
    pub message: String,
    /// The request's fields at fault.
    pub violations: Vec<FieldViolation>,
    /// Further facts that belong to the reason.
    pub metadata: BTreeMap<String, String>,
}

/// One field of a request that the daemon does not accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldViolation {
    /// The field's name, such as `definition.memory_bytes`.
    pub field: String,
    /// What is wrong with it.
    pub description: String,
}

/// Which events the daemon still has, told when it was asked for others (`EVENTS_LOST`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The sequence number of the oldest event that is kept.
    pub oldest_seq: u64,
    /// The sequence number of the newest event there is.
    pub newest_seq: u64,
}

impl Error {
    /// Sorts a status of a call to `endpoint`.
    pub(crate) fn from_status(endpoint: &Endpoint, status: Status) -> Self {
        if is_too_late(&status) {
            return Self::Deadline;
        }
        if broke(&status) {
            return Self::Unreachable {
                endpoint: endpoint.clone(),
                source: Box::new(status),
            };
        }
        Self::Refused(Box::new(Refusal::from(&status)))
    }

    /// The daemon's no, if that is what this is.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// The stable reason of a refusal, such as `VM_ENDED`.
    pub fn reason(&self) -> Option<&str> {
        self.refusal().map(|refusal| refusal.reason.as_str())
    }

    /// Which events are kept, if this says that those asked for are not.
    pub fn lost(&self) -> Option<Lost> {
        self.refusal().and_then(Refusal::lost)
    }
}

impl Refusal {
    /// Which events are kept, if the reason is `EVENTS_LOST`.
    pub fn lost(&self) -> Option<Lost> {
        let number = |key| self.metadata.get(key)?.parse().ok();
        if self.reason != "EVENTS_LOST" {
            return None;
        }
        Some(Lost {
            oldest_seq: number("oldest_seq")?,
            newest_seq: number("newest_seq")?,
        })
    }
}

impl From<&Status> for Refusal {
    fn from(status: &Status) -> Self {
        let info = status.get_details_error_info();
        let violations = status
            .get_details_bad_request()
            .map(|bad| bad.field_violations);
        let (reason, metadata) = match info {
            Some(info) => (info.reason, info.metadata.into_iter().collect()),
            None => Default::default(),
        };
        Self {
            code: status.code(),
            reason,
            message: status.message().to_owned(),
            violations: violations
                .unwrap_or_default()
                .into_iter()
                .map(|one| FieldViolation {
                    field: one.field,
                    description: one.description,
                })
                .collect(),
            metadata,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.message.is_empty() {
            write!(f, "{}", self.code.description())?;
        } else {
            write!(f, "{}", self.message)?;
        }
        for violation in &self.violations {
            if !self.message.contains(&violation.description) {
                write!(f, " ({}: {})", violation.field, violation.description)?;
            } else if !self.message.contains(&violation.field) {
                write!(f, " ({})", violation.field)?;
            }
        }
        Ok(())
    }
}

/// True if the time of the call was over, here or there.
fn is_too_late(status: &Status) -> bool {
    let source = StdError::source(status);
    status.code() == Code::DeadlineExceeded
        || source.is_some_and(|source| chain(source).any(|at| at.is::<TimeoutExpired>()))
}

/// True if the status was made on this side because the connection failed. What the daemon sends
/// carries an `ErrorInfo`, and what its gRPC layer sends on its own carries headers.
fn broke(status: &Status) -> bool {
    let code = status.code();
    matches!(
        code,
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal
    ) && status.metadata().is_empty()
        && status.get_details_error_info().is_none()
}

/// What to tell people about a failed connection: the innermost error says it best.
fn cause(source: &(dyn StdError + Send + Sync + 'static)) -> String {
    let errno = chain(source)
        .filter_map(|at| at.downcast_ref::<io::Error>())
        .find_map(io::Error::raw_os_error);
    match (errno, chain(source).last()) {
        (Some(errno), _) => Errno::from_raw(errno).desc().to_owned(),
        (None, Some(innermost)) => match innermost.downcast_ref::<Status>() {
            Some(status) => status.message().to_owned(),
            None => innermost.to_string(),
        },
        (None, None) => source.to_string(),
    }
}

/// An error, what caused it, what caused that, and so on.
pub(crate) fn chain<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |at| (**at).source())
}

/// The spelling of a machine's run state.
fn state_of(vm: &v1::Vm) -> &'static str {
    let state = vm.status.as_ref().map_or(0, |status| status.state);
    v1::RunState::spelling_of(state).unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, sync::Arc};

    use tonic_types::ErrorDetails;

    use super::*;

    fn endpoint() -> Endpoint {
        Endpoint::Unix("/run/vmd/vmd.sock".into())
    }

    #[test]
    fn a_refusal_keeps_every_detail() {
        let mut details = ErrorDetails::with_error_info(
            "INVALID_FIELD",
            "vmd",
            HashMap::from([("limit".to_owned(), "64".to_owned())]),
        );
        details.add_bad_request_violation("definition.vcpus", "must be 1 to 64");
        let status = Status::with_error_details(Code::InvalidArgument, "bad vCPUs", details);
        let error = Error::from_status(&endpoint(), status);
        let refusal = error.refusal().unwrap();
        assert_eq!(refusal.code, Code::InvalidArgument);
        assert_eq!(error.reason(), Some("INVALID_FIELD"));
        assert_eq!(refusal.metadata.get("limit").unwrap(), "64");
        assert_eq!(
            error.to_string(),
            "bad vCPUs (definition.vcpus: must be 1 to 64)"
        );
        assert_eq!(error.lost(), None);
    }

    #[test]
    fn lost_events_tell_which_are_kept() {
        let metadata = [("oldest_seq", "7"), ("newest_seq", "90")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()));
        let details = ErrorDetails::with_error_info("EVENTS_LOST", "vmd", HashMap::from(metadata));
        let status = Status::with_error_details(Code::OutOfRange, "gone", details);
        let error = Error::from_status(&endpoint(), status);
        assert_eq!(
            error.lost(),
            Some(Lost {
                oldest_seq: 7,
                newest_seq: 90
            })
        );
    }

    #[test]
    fn a_broken_connection_is_not_a_refusal() {
        let mut status = Status::unknown("transport error");
        status.set_source(Arc::new(io::Error::from_raw_os_error(32)));
        let error = Error::from_status(&endpoint(), status);
        assert!(matches!(error, Error::Unreachable { .. }));
        let text = "cannot reach the daemon at unix:/run/vmd/vmd.sock: Broken pipe";
        assert_eq!(error.to_string(), text);
        let error = Error::from_status(&endpoint(), Status::cancelled("operation was canceled"));
        assert!(matches!(error, Error::Unreachable { .. }));
    }

    #[test]
    fn a_daemon_that_shuts_down_or_lacks_a_call_says_no() {
        let details = ErrorDetails::with_error_info("SHUTTING_DOWN", "vmd", HashMap::new());
        let status = Status::with_error_details(Code::Unavailable, "going down", details);
        assert_eq!(
            Error::from_status(&endpoint(), status).reason(),
            Some("SHUTTING_DOWN")
        );
        let error = Error::from_status(&endpoint(), Status::unimplemented(""));
        assert_eq!(error.refusal().unwrap().code, Code::Unimplemented);
    }
}
