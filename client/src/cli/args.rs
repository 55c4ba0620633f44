//! The command line: what can be typed, and the help that says so.

use std::{path::PathBuf, time::Duration};

use clap::{
    Args as Group, Parser, Subcommand, ValueEnum, ValueHint, builder::NonEmptyStringValueParser,
};
use clap_complete::Shell;

use super::{
    settings::Setting,
    values::{self, Goal},
};
use crate::Endpoint;

const AFTER_HELP: &str = "\
Environment:
  VMD_SERVER       Where the daemon is, unless --server says so
  XDG_RUNTIME_DIR  Where the default socket is: $XDG_RUNTIME_DIR/vmd/vmd.sock (root: /run/vmd/vmd.sock)

Exit codes:
  0  Done
  1  The daemon said no, or the command failed
  2  The command line is wrong
  3  The daemon cannot be reached

Examples:
  vmctl create web --memory 512M --action panic=pause
  vmctl wait web --state guest-panicked --timeout 30s
  vmctl -o json events --follow";

/// Drive the machines of a vmd daemon.
#[derive(Debug, Parser)]
#[command(name = "vmctl", version, after_help = AFTER_HELP)]
pub(super) struct Args {
    /// Where the daemon is: unix:PATH or http://HOST:PORT (loopback)
    #[arg(
        long,
        global = true,
        value_name = "URI",
        env = "VMD_SERVER",
        hide_env_values = true
    )]
    pub(super) server: Option<Endpoint>,

    /// How to print: aligned for people, or one JSON object a line
    #[arg(
        short,
        long,
        global = true,
        value_name = "FORMAT",
        value_enum,
        default_value_t
    )]
    pub(super) output: Format,

    #[command(subcommand)]
    pub(super) command: Command,
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    // No help texts: with them clap spreads the values over many lines of every command's help.
    #[default]
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create a machine and start it
    Create(Create),
    /// List all machines
    #[command(visible_alias = "list")]
    Ls,
    /// Show one machine
    Status(Name),
    /// Start or resume the vCPUs
    Cont(Names),
    /// Stop the vCPUs
    Stop(Names),
    /// Reset the machine in place; one that is not running goes to prelaunch and waits for `cont`
    Reset(Names),
    /// Press the ACPI power button; what comes of it is the guest's decision
    Powerdown(Names),
    /// Wake the machine from suspend (ACPI S3)
    Wakeup(Names),
    /// Send a non-maskable interrupt to every vCPU
    Nmi(Names),
    /// End the machine now; its record stays until `rm`
    Quit(Names),
    /// Build a machine that has ended anew and start it
    Start(Start),
    /// Remove the record of a machine that has ended
    Rm(Remove),
    /// Set what happens on reboot, shutdown, panic and watchdog expiry
    SetAction(SetAction),
    /// Show lifecycle events
    Events(Events),
    /// Wait until a machine is in a state, or has ended
    Wait(Wait),
    /// Record what a machine's main loop is given and does, for `replay`
    Record(Record),
    /// Replay a recording, and show what happens in it; needs no daemon and no KVM
    Replay(Replay),
    /// Connect the terminal to the first serial port
    Console(Console),
    /// Speak QMP, QEMU's monitor protocol, on stdin and stdout
    #[command(
        after_help = "Example:\n  echo '{\"execute\":\"qmp_capabilities\"}{\"execute\":\"query-status\"}' | vmctl qmp web"
    )]
    Qmp(Name),
    /// Print a completion script for a shell
    #[command(
        after_help = "Example:\n  vmctl completions bash > ~/.local/share/bash-completion/completions/vmctl"
    )]
    Completions {
        /// The shell
        shell: Shell,
    },
}

#[derive(Debug, Group)]
pub(super) struct Name {
    /// The machine's name
    pub(super) name: String,
}

#[derive(Debug, Group)]
pub(super) struct Names {
    /// The machine's name; several are served one after the other
    #[arg(value_name = "NAME", required = true)]
    pub(super) names: Vec<String>,
}

#[derive(Debug, Group)]
#[command(after_help = "\
Actions (the first value is the default):
  reboot    reset, shutdown
  shutdown  poweroff, pause
  panic     shutdown, pause, exit-failure, none
  watchdog  reset, shutdown, poweroff, pause, debug, none, inject-nmi

Examples:
  vmctl create probe
  vmctl create web --memory 1G --firmware bios.bin --serial unix:web.sock --paused
  vmctl create test --action reboot=shutdown,panic=pause")]
pub(super) struct Create {
    /// The machine's name: a-z, 0-9, '-' and '.', at most 63 characters
    pub(super) name: String,

    /// Guest memory: bytes, or with K, M, G or T for binary multiples [default: 256M]
    #[arg(long, value_name = "SIZE", value_parser = values::memory)]
    pub(super) memory: Option<u64>,

    /// Number of vCPUs [default: 1]
    #[arg(long, value_name = "N")]
    pub(super) vcpus: Option<u32>,

    /// Flat firmware image to boot [default: the built-in probe guest]
    #[arg(long, value_name = "FILE", value_parser = values::absolute_path)]
    pub(super) firmware: Option<String>,

    /// Stay in prelaunch until `cont`
    #[arg(long)]
    pub(super) paused: bool,

    /// What to do on an event, as KEY=VALUE; see below
    #[arg(long = "action", value_name = "KEY=VALUE", value_delimiter = ',')]
    pub(super) actions: Vec<Setting>,

    /// Unix socket for the daemon to create, for the first serial port
    #[arg(long, value_name = "unix:PATH", value_parser = values::serial)]
    pub(super) serial: Option<String>,

    /// Unix socket for the daemon to create, for clients that speak QMP
    #[arg(long, value_name = "PATH", value_parser = values::qmp)]
    pub(super) qmp: Option<String>,
}

#[derive(Debug, Group)]
pub(super) struct Start {
    /// The machine's name
    pub(super) name: String,

    /// Stay in prelaunch until `cont`
    #[arg(long)]
    pub(super) paused: bool,
}

#[derive(Debug, Group)]
pub(super) struct Remove {
    #[command(flatten)]
    pub(super) machines: Names,

    /// Quit a machine that has not ended first
    #[arg(short, long)]
    pub(super) force: bool,
}

#[derive(Debug, Group)]
#[command(after_help = "\
Actions:
  reboot    reset, shutdown
  shutdown  poweroff, pause
  panic     shutdown, pause, exit-failure, none
  watchdog  reset, shutdown, poweroff, pause, debug, none, inject-nmi

Example:
  vmctl set-action web panic=pause shutdown=pause")]
pub(super) struct SetAction {
    /// The machine's name
    pub(super) name: String,

    /// What to do on an event; the others stay as they are, and the last one of a key counts
    #[arg(value_name = "KEY=VALUE", required = true, value_delimiter = ',')]
    pub(super) actions: Vec<Setting>,
}

#[derive(Debug, Group)]
#[command(after_help = "\
Examples:
  vmctl events                      what is kept
  vmctl events web --follow         that, and what comes
  vmctl events --since 41 --follow  go on after event 41, with nothing missed")]
pub(super) struct Events {
    /// Only the events of machines of this name
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(super) name: Option<String>,

    /// Only events after this sequence number [default: all that are kept]
    #[arg(long, value_name = "SEQ")]
    pub(super) since: Option<u64>,

    /// Go on with events as they come
    #[arg(short, long)]
    pub(super) follow: bool,
}

#[derive(Debug, Group)]
#[command(after_help = "\
A state is reached by a machine that is live: if the machine has ended, or ends meanwhile, the wait
fails, with exit code 1, as it does when the time is over.

Example:
  vmctl powerdown web && vmctl wait web --state ended --timeout 30s")]
pub(super) struct Wait {
    /// The machine's name
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(super) name: String,

    /// The run state to wait for, or `ended`
    #[arg(long, value_name = "STATE", value_parser = values::goal())]
    pub(super) state: Goal,

    /// Give up after this time, such as 500ms, 30s, 2m or 1h [default: never]
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    pub(super) timeout: Option<Duration>,
}

#[derive(Debug, Group)]
#[command(after_help = "\
On a terminal every key goes to the guest but Ctrl-], which quits. With a pipe as its input the
command sends what comes, and goes on printing after the input's end until the stream ends.")]
pub(super) struct Console {
    /// The machine's name
    pub(super) name: String,

    /// Leave out what the guest wrote before now
    #[arg(long)]
    pub(super) skip_history: bool,
}

#[derive(Debug, Group)]
#[command(after_help = "\
The recording ends with the machine, or by Ctrl-C or SIGTERM; in each case the file is complete.

Example:
  vmctl record web web.journal; vmctl replay web.journal")]
pub(super) struct Record {
    /// The machine's name
    pub(super) name: String,

    /// The file to write; it must not exist
    #[arg(value_hint = ValueHint::FilePath)]
    pub(super) file: PathBuf,

    /// Overwrite the file if it exists
    #[arg(short, long)]
    pub(super) force: bool,
}

#[derive(Debug, Group)]
#[command(after_help = "\
Each line of the recording is shown as it is reached: its number, what sort of thing it is (input:
from the guest or a device; call: of the main loop, such as a command; machine: what that was told
and answered; take, state, event, outcome: what the main loop did), the thing itself, and the run
state with it.

The exit code is 0 if the replay came to the same states and events, and 1 if it did not, or if the
file was cut short or altered; the message then names the line.")]
pub(super) struct Replay {
    /// The file that `record` wrote
    #[arg(value_hint = ValueHint::FilePath)]
    pub(super) file: PathBuf,
}
