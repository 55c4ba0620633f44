//! The command line: what can be typed, and the help that says so.

mod balloon;
mod connection;
mod cpu;
mod create;
mod disk;
mod label;
mod net;

use std::{path::PathBuf, time::Duration};

use clap::{
    Args as Group, Parser, Subcommand, ValueEnum, ValueHint, builder::NonEmptyStringValueParser,
};
use clap_complete::Shell;

pub(super) use balloon::Balloon;
pub(super) use connection::Connection;
pub(super) use cpu::{Cpu, CpuShare};
pub(super) use create::{Create, Run};
pub(super) use disk::{AddDisk, Disk, RemoveDisk, ResizeDisk};
pub(super) use label::{Label, Labels, Selected};
pub(super) use net::{AddNet, Link, Net, RemoveNet, SetLink};

pub(super) use super::values::Since;

use super::{
    settings::Setting,
    tone::Color,
    values::{self, Goal},
};
const AFTER_HELP: &str = "\
Environment:
  VMD_SERVER       Where the daemon is, unless --server says so
  VMD_TLS_CA, VMD_TLS_CERT, VMD_TLS_KEY
                   Files for an https:// address, unless --tls-ca, --tls-cert, --tls-key say so
  XDG_RUNTIME_DIR  Where the default socket is: $XDG_RUNTIME_DIR/vmd/vmd.sock (root: /run/vmd/vmd.sock)
  XDG_STATE_HOME   Where `events --since last` keeps the last number, in vmctl/events [default: ~/.local/state]
  NO_COLOR         If set, no colours, unless --color always
  COLUMNS          How wide tables are on a terminal, whatever that says

Exit codes:
  0  Done
  1  The daemon said no, or the command failed
  2  The command line is wrong
  3  The daemon cannot be reached
  4  `apply` has shown changes that it did not make
`run` has more, which say how the guest ended: see `vmctl run --help`.

Examples:
  vmctl run --kernel vmlinuz --initrd initrd.img --cmdline 'console=ttyS0'
  vmctl create web --memory 512M --action panic=pause
  vmctl wait web --state guest-panicked --timeout 30s
  vmctl -o json events --follow";

/// Drive the machines of a vmd daemon.
#[derive(Debug, Parser)]
#[command(name = "vmctl", version, after_help = AFTER_HELP)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) connection: Connection,

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

    /// Give up a call that is not answered in this time, such as 500ms or 30s [default: never]
    #[arg(long, global = true, value_name = "TIME", value_parser = values::duration)]
    pub(super) deadline: Option<Duration>,

    /// An id for the change: repeated with the same id, it is not made again and gets the first answer
    #[arg(long, global = true, value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    pub(super) request_id: Option<String>,

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
    Create(Box<Create>),
    /// Run a machine on this terminal: create it, join its console, remove it at its end
    Run(Box<Run>),
    /// Make the machines as a file says
    Apply(Apply),
    /// List all machines
    #[command(visible_alias = "list")]
    Ls(List),
    /// Show all machines and what happens to them, on the whole terminal
    Top(Top),
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
    /// Show or change a machine's labels
    Label(Label),
    /// Change how much a machine gets of the host's processors
    Cpu(Cpu),
    /// Change the disks of a live machine
    #[command(subcommand)]
    Disk(Disk),
    /// Show how much memory the guest has, or ask it to have more or less, by its balloon
    Balloon(Balloon),
    /// Change the network cards of a live machine
    #[command(subcommand)]
    Net(Net),
    /// Show lifecycle events
    Events(Events),
    /// Show what a guest has written to its first serial port
    Logs(Logs),
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
    #[command(after_help = COMPLETIONS)]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write manual pages into a directory
    #[command(
        hide = true,
        after_help = "Example:\n  vmctl man /usr/local/share/man/man1 && man vmctl-create"
    )]
    Man {
        /// The directory; it is made if need be
        #[arg(value_hint = ValueHint::DirPath)]
        directory: PathBuf,
    },
}

const COMPLETIONS: &str = "\
The script asks vmctl, at each Tab, what can come next. Where a machine's name is expected that is a
question to the daemon that --server and --tls-... name, as far as they are typed, or the environment;
if it does not answer within half a second there are no names. (bash takes `--server unix:...` for
several words: set VMD_SERVER there.)

Examples:
  vmctl completions bash > ~/.local/share/bash-completion/completions/vmctl
  vmctl completions zsh > \"${fpath[1]}/_vmctl\"
  vmctl completions fish > ~/.config/fish/completions/vmctl.fish";

#[derive(Debug, Group)]
#[command(after_help = "\
The file is a list in YAML, or JSON, of machines with the fields of the JSON output. What is left out has
its default; relative paths are meant from where the file is; sizes may have K, M, G or T.

  - name: web
    memory_bytes: 512M
    vcpus: 2
    kernel: vmlinuz
    initrd: initrd.img
    cmdline: console=ttyS0
    disks:
    - {path: web.img, werror: stop, rate_limit: {bps: 50M}}
    nets:
    - {tap: tap0, mtu: 9000}
    actions: {panic: pause}
    restart: {mode: on-failure, max: 5, backoff: 1s, max_backoff: 1m}
    labels: {env: prod}
  - name: probe
    paused: true

The others: firmware, serial_socket, qmp_socket, cpu_model, cpu_template, cpu_pins (vcpu, host_cpus),
cpu_weight, cpu_limit_millis, rng,
vsock (cid, path), balloon (size_bytes, stats_interval_seconds, deflate_on_oom, free_page_reporting),
console_ports (name, path, console), virtio_transport; of disks: read_only, serial, rerror, format,
queues, aio; of nets: passt, mac, queues, link_down, rx_rate_limit, tx_rate_limit; of rate limits:
bps_burst, iops, iops_burst. paused is for the creation alone.

The command shows what it will do, and asks. Labels (all of them: others are removed), restart policy, CPU
weight and limit, and actions are changed in place. If anything else of a live machine differs it has to be built anew: it is
quit, deleted and created, which is done only with --replace. Everything of a machine that has ended is
changed in place, for its next start; it stays ended. A machine that another has changed meanwhile is
left as it is, and told. With -o json each change is an object: name, change, fields, done.

The exit code is 0 if everything is as the file says, and 4 if there are changes that were not made, by
--dry-run or for want of --replace.

Examples:
  vmctl apply -f machines.yaml --dry-run
  vmctl apply -f machines.yaml --yes --replace --prune")]
pub(super) struct Apply {
    /// The file, or - for stdin
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) file: PathBuf,

    /// Show the changes, and make none
    #[arg(long)]
    pub(super) dry_run: bool,

    /// Build live machines anew that cannot be changed as they are
    #[arg(long)]
    pub(super) replace: bool,

    /// Delete the machines that are not in the file, whoever made them
    #[arg(long)]
    pub(super) prune: bool,

    /// Do not ask
    #[arg(short, long)]
    pub(super) yes: bool,

    /// Use colours [default: on a terminal, unless NO_COLOR is set]
    #[arg(
        long,
        value_name = "WHEN",
        value_enum,
        default_value_t,
        hide_default_value = true
    )]
    pub(super) color: Color,
}

impl Command {
    /// Whether it makes one call that changes something.
    pub(super) fn is_one_change(&self) -> bool {
        match self {
            Self::Create(_)
            | Self::Start(_)
            | Self::SetAction(_)
            | Self::Cpu(_)
            | Self::Disk(_)
            | Self::Net(_) => true,
            Self::Cont(them)
            | Self::Stop(them)
            | Self::Reset(them)
            | Self::Powerdown(them)
            | Self::Wakeup(them)
            | Self::Nmi(them)
            | Self::Quit(them)
            | Self::Rm(Remove { machines: them, .. }) => them.names.len() == 1,
            Self::Label(label) => !label.changes.is_empty(),
            Self::Balloon(balloon) => balloon.size.is_some(),
            _ => false,
        }
    }
}

#[derive(Debug, Group)]
#[command(after_help = "\
With --watch a terminal shows the table as it is, drawn again at each change. Elsewhere there is a row
for each machine and then one for each change; with -o json an object, in which `deleted` is true if
the machine is gone.

Examples:
  vmctl ls --watch
  vmctl ls -l env=prod --show-labels
  vmctl -o json ls --watch | jq -r 'select(.state == \"guest-panicked\") | .name'")]
pub(super) struct List {
    #[command(flatten)]
    pub(super) selected: Selected,

    /// Go on, and show each change
    #[arg(short, long)]
    pub(super) watch: bool,

    /// Show the machines' labels, too
    #[arg(long)]
    pub(super) show_labels: bool,

    /// Use colours [default: on a terminal, unless NO_COLOR is set]
    #[arg(
        long,
        value_name = "WHEN",
        value_enum,
        default_value_t,
        hide_default_value = true
    )]
    pub(super) color: Color,
}

#[derive(Debug, Group)]
#[command(after_help = "\
The columns: name, run state, time in that state (- if the events of that time are not looked at: the
last 10000 are), vCPUs, how much they used of the host's processors in the last second (100% is one
processor, so several vCPUs may use more), memory, time since the last event, number of events, and how
it ended and when its restart policy starts it again. Below are the last events.

Keys:
  n s t c p m l e  order by name, state, time in it, vCPUs, CPU, memory, last event, events; twice: the
                   other way
  r                the other way
  Up Down PgUp PgDn Home End  scroll
  q Esc Ctrl-C     quit

Example:
  vmctl --server http://127.0.0.1:7070 top")]
pub(super) struct Top {
    /// Use colours [default: unless NO_COLOR is set]
    #[arg(
        long,
        value_name = "WHEN",
        value_enum,
        default_value_t,
        hide_default_value = true
    )]
    pub(super) color: Color,
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

    /// Only if the machine has this etag, which `-o json status` shows; of one machine
    #[arg(long, value_name = "ETAG", value_parser = NonEmptyStringValueParser::new())]
    pub(super) etag: Option<String>,
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
  vmctl events --since 41 --follow  go on after event 41, with nothing missed
  vmctl events --since last         what is new since this command was used last
  vmctl events -l env=prod --kind STOP,RESUME

With `--since last` the number of the last event printed is kept in $XDG_STATE_HOME/vmctl/events (or
~/.local/state/vmctl/events), for each daemon, NAME, --selector and --kind. A command that is killed may print its last
events once more; nothing is left out without a word.")]
pub(super) struct Events {
    /// Only the events of machines of this name
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(super) name: Option<String>,

    #[command(flatten)]
    pub(super) selected: Selected,

    /// Only events of these kinds
    #[arg(long = "kind", value_name = "EVENT", value_parser = values::event_kind, value_delimiter = ',')]
    pub(super) kinds: Vec<String>,

    /// Only events after this sequence number, or `last` for those that are new [default: all that are kept]
    #[arg(long, value_name = "SEQ|last", value_parser = values::since)]
    pub(super) since: Option<Since>,

    /// Go on with events as they come
    #[arg(short, long)]
    pub(super) follow: bool,

    /// Show the audit trail instead, who called what: a log of its own, with its own numbers, for admins
    #[arg(long)]
    pub(super) audit: bool,

    /// Use colours [default: on a terminal, unless NO_COLOR is set]
    #[arg(
        long,
        value_name = "WHEN",
        value_enum,
        default_value_t,
        hide_default_value = true
    )]
    pub(super) color: Color,
}

#[derive(Debug, Group)]
#[command(after_help = "\
The daemon keeps the last 256 KiB that a guest wrote. They can be read until the machine is removed; once
it was started again they are what --previous shows. The bytes are printed as they are; with -o json
each line is an object: name, offset (of the line, in all the guest wrote), line.

Examples:
  vmctl logs web --tail 20
  vmctl logs web --follow | grep -i panic
  vmctl logs web --previous")]
pub(super) struct Logs {
    /// The machine's name
    pub(super) name: String,

    /// Go on with what the guest writes, until it ends
    #[arg(short, long)]
    pub(super) follow: bool,

    /// Begin with the last N lines [default: all that are kept]
    #[arg(short = 'n', long, value_name = "N")]
    pub(super) tail: Option<u32>,

    /// What the guest wrote before the machine was started again
    #[arg(short, long)]
    pub(super) previous: bool,
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
