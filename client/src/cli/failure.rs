//! How a command ends when it does not succeed: what went wrong in, a text that says what to do and
//! an exit code out.

use std::{
    error::Error as StdError,
    io::{self, Write},
};

use tonic::{Code, Status};

use crate::{EndpointError, Error, Refusal, error::chain};

/// Why a command did not succeed.
#[derive(Debug)]
pub(super) enum Failure {
    /// A call failed; the text says what it was for, such as `stop 'web'`.
    Call(String, Error),
    /// The command line cannot be served.
    Usage(String),
    /// Something else that is told as it is.
    Told(String),
    /// Everything was told already.
    Silent,
    /// Whoever read the output has left: no news.
    ClosedPipe,
    /// A signal ended the command.
    Signal(u8),
    /// There are changes that were not to be made; they have been shown.
    Pending,
    /// A guest did not end well: told already, and this exit code says how.
    Guest(u8),
}

impl Failure {
    /// Wraps the error of the call for `doing`.
    pub(super) fn call(doing: impl Into<String>) -> impl FnOnce(Error) -> Self {
        let doing = doing.into();
        move |error| Self::Call(doing, error)
    }

    /// True if going on with another machine makes no sense.
    pub(super) fn is_final(&self) -> bool {
        !matches!(self, Self::Call(_, error) if !matches!(error, Error::Unreachable { .. }))
    }

    /// The process's exit code.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Call(_, Error::Unreachable { .. }) => 3,
            Self::Call(..) | Self::Told(_) | Self::Silent => 1,
            Self::Usage(_) => 2,
            Self::Pending => 4,
            Self::ClosedPipe => 0,
            Self::Signal(number) => 128_u8.saturating_add(*number),
            Self::Guest(code) => *code,
        }
    }

    /// Tells people, on stderr.
    pub(super) fn report(&self) {
        let text = match self {
            Self::Call(doing, error) => explain(doing, error),
            Self::Usage(text) | Self::Told(text) => text.clone(),
            Self::Silent | Self::ClosedPipe | Self::Signal(_) | Self::Pending | Self::Guest(_) => {
                return;
            }
        };
        say(&text);
    }
}

impl From<EndpointError> for Failure {
    fn from(error: EndpointError) -> Self {
        Self::Usage(format!("{error}, with --server URI or VMD_SERVER"))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::ClosedPipe,
            _ => Self::Told(format!("cannot write the output: {error}")),
        }
    }
}

/// Writes a line to stderr, in the command's name. If nobody can read it, so be it.
pub(super) fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "vmctl: {text}");
}

/// The error as a sentence, and what to do about it as another.
fn explain(doing: &str, error: &Error) -> String {
    let (what, hint) = match error {
        Error::Unreachable { source, .. } => {
            let hint = reach(source.as_ref()).to_owned();
            (error.to_string(), Some(hint))
        }
        Error::Refused(refusal) => (
            format!("cannot {doing}: {}", in_options(&refusal.to_string())),
            remedy(refusal),
        ),
        Error::Gone { .. } => (format!("cannot {doing}: {error}"), Some(UNKNOWN.to_owned())),
        Error::Ended { vm } => (format!("cannot {doing}: {error}"), Some(ended(&vm.name))),
        Error::Deadline => (
            format!("cannot {doing}: {error}"),
            Some(
                "It may still take effect: `vmctl status` and `vmctl events` show what came of it."
                    .to_owned(),
            ),
        ),
        Error::Tls(_) | Error::Malformed(_) => (format!("cannot {doing}: {error}"), None),
    };
    match hint {
        Some(hint) => format!("{}. {hint}", what.trim_end_matches('.')),
        None => what,
    }
}

/// The interface's fields, and the options that fill them.
const OPTIONS: [(&str, &str); 20] = [
    ("definition.vsock.cid", "--vsock cid="),
    ("definition.vsock.path", "--vsock path="),
    ("definition.balloon.size_bytes", "--balloon size="),
    ("definition.memory_bytes", "--memory"),
    ("definition.vcpus", "--vcpus"),
    ("definition.firmware", "--firmware"),
    ("definition.kernel", "--kernel"),
    ("definition.initrd", "--initrd"),
    ("definition.cmdline", "--cmdline"),
    ("definition.serial_socket", "--serial"),
    ("definition.qmp_socket", "--qmp"),
    ("definition.actions", "--action"),
    ("definition.cpu_model", "--cpu"),
    ("definition.virtio_transport", "--virtio-transport"),
    ("definition.cpu_template", "--cpu-template"),
    ("definition.cpu_pins", "--pin"),
    ("definition.cpu_weight", "--cpu-weight"),
    ("definition.cpu_limit_millis", "--cpu-limit"),
    ("size_bytes", "SIZE"),
    ("set allow_shrink", "give --shrink"),
];

/// A refusal in the words of the command line.
fn in_options(text: &str) -> String {
    OPTIONS
        .iter()
        .fold(text.to_owned(), |text, (field, option)| {
            text.replace(field, option)
        })
}

const UNKNOWN: &str = "`vmctl ls` shows the machines there are.";

fn ended(name: &str) -> String {
    format!("`vmctl start {name}` builds it anew, `vmctl rm {name}` removes it.")
}

/// What to do about a daemon that cannot be reached.
fn reach(source: &(dyn StdError + Send + Sync + 'static)) -> &'static str {
    let io = chain(source).find_map(|at| at.downcast_ref::<io::Error>());
    let kind = io.map(io::Error::kind);
    match kind {
        Some(io::ErrorKind::PermissionDenied) => {
            "Its socket is open to the user who runs it alone: use vmctl as that user, or name another with --server."
        }
        Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => NOT_RUNNING,
        _ if source.is::<Status>() => {
            "The connection broke, so it is not known whether the call was served: `vmctl ls` shows how things are."
        }
        _ => NOT_RUNNING,
    }
}

const NOT_RUNNING: &str =
    "Is it running? Start it with `vmd serve`, or name another with --server.";

/// What to do about a refusal, if its reason says so.
fn remedy(refusal: &Refusal) -> Option<String> {
    let name = refusal.metadata.get("name").map_or("NAME", String::as_str);
    Some(match refusal.reason.as_str() {
        "VM_NOT_FOUND" => UNKNOWN.to_owned(),
        "VM_EXISTS" => {
            format!("Take another name, or remove that machine with `vmctl rm --force {name}`.")
        }
        "VM_ENDED" => ended(name),
        "VM_NOT_ENDED" => format!(
            "End it with `vmctl quit {name}`, or remove it at once with `vmctl rm --force {name}`."
        ),
        "DEVICE_NOT_FOUND" => format!("`vmctl status {name}` shows the devices of its definition."),
        "NO_HOTPLUG" => {
            "`vmctl create --virtio-transport pci` makes a machine that has one.".to_owned()
        }
        "DISK_NOT_FOUND" => format!("`vmctl status {name}` shows the disks there are."),
        "NO_BALLOON" => "A machine gets one when it is created: --balloon on.".to_owned(),
        "RECORDING" => "End the other recording first.".to_owned(),
        "HOST_EXHAUSTED" => "Quit other machines, or ask for less.".to_owned(),
        "SHUTTING_DOWN" => "Start the daemon again with `vmd serve`.".to_owned(),
        "ETAG_MISMATCH" => format!("`vmctl -o json status {name}` shows it as it is now."),
        "NOT_CHANGEABLE" => format!("End it with `vmctl quit {name}` first."),
        "REQUEST_ID_REUSED" => "Make up a new --request-id for each change.".to_owned(),
        "INTERNAL" => "The daemon's log says more.".to_owned(),
        _ if refusal.code == Code::Unimplemented => {
            "This daemon does not know the call: it may be older than this vmctl.".to_owned()
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Endpoint;

    fn unreachable(errno: i32) -> Failure {
        let source = Box::new(io::Error::from_raw_os_error(errno));
        let endpoint = Endpoint::Unix("/run/vmd/vmd.sock".into());
        Failure::Call(
            "stop 'a'".to_owned(),
            Error::Unreachable { endpoint, source },
        )
    }

    fn refused(reason: &str, message: &str) -> Failure {
        let refusal = Refusal {
            code: Code::FailedPrecondition,
            reason: reason.to_owned(),
            message: message.to_owned(),
            violations: Vec::new(),
            metadata: [("name".to_owned(), "a".to_owned())].into(),
        };
        Failure::Call("stop 'a'".to_owned(), Error::Refused(Box::new(refusal)))
    }

    fn text(failure: &Failure) -> String {
        match failure {
            Failure::Call(doing, error) => explain(doing, error),
            _ => String::new(),
        }
    }

    #[test]
    fn an_unreachable_daemon_is_told_with_what_to_do() {
        let failure = unreachable(2);
        assert_eq!(failure.exit_code(), 3);
        assert!(failure.is_final());
        assert_eq!(
            text(&failure),
            "cannot reach the daemon at unix:/run/vmd/vmd.sock: No such file or directory. \
             Is it running? Start it with `vmd serve`, or name another with --server."
        );
        assert!(text(&unreachable(13)).contains("as that user"));
    }

    #[test]
    fn a_refusal_is_told_with_its_remedy() {
        let failure = refused("VM_ENDED", "the machine has ended");
        assert_eq!(failure.exit_code(), 1);
        assert!(!failure.is_final());
        assert_eq!(
            text(&failure),
            "cannot stop 'a': the machine has ended. `vmctl start a` builds it anew, `vmctl rm a` removes it."
        );
        let plain = refused("INVALID_STATE", "Resetting the Virtual Machine is required");
        assert_eq!(
            text(&plain),
            "cannot stop 'a': Resetting the Virtual Machine is required"
        );
    }

    #[test]
    fn a_closed_pipe_is_a_success() {
        assert_eq!(
            Failure::from(io::Error::from(io::ErrorKind::BrokenPipe)).exit_code(),
            0
        );
        assert_eq!(
            Failure::from(io::Error::from(io::ErrorKind::StorageFull)).exit_code(),
            1
        );
        assert_eq!(Failure::Signal(2).exit_code(), 130);
    }
}
