//! Entries as text, and back. What is read is compared with what would be written, so there is one spelling only.

use std::{
    fmt::{self, Display, Formatter, Write},
    str::FromStr,
};

use super::{
    Answer, Call, Entry, Initial, Input, Outcome, Taken,
    entry::{Dropped, Ending, MachineCall},
};
use crate::runstate::{
    ActionChange, Actions, BlockIoError, Command, DeviceError, DeviceId, Emitted, Event, Exit,
    Request, RunState, TransitionTable, WakeupMask,
};

/// The version of the format.
const MAGIC: &str = "vmd-journal 1";

/// No recording begins with more events than this: a journal that says otherwise must not take the host's memory.
const WAITING_MAX: usize = 1 << 16;

impl Display for Entry {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "{MAGIC} {}", Escaped(name)),
            Self::Initial(initial) => initial.fmt(f),
            Self::Input(Input::Raise(request)) => write_request(f, "raise", *request),
            Self::Input(Input::RaiseOutside(request)) => {
                write_request(f, "raise-outside", *request)
            }
            Self::Input(Input::Mask(mask)) => {
                let WakeupMask { rtc, pm_timer } = *mask;
                write!(f, "mask rtc={} pmtimer={}", switch(rtc), switch(pm_timer))
            }
            Self::Input(Input::Collect(count)) => write!(f, "collect {count}"),
            Self::Call(call) => write_call(f, *call),
            Self::Machine(call, Answer::Ok) => write!(f, "machine {call} ok"),
            Self::Machine(call, Answer::Errno(errno)) => write!(f, "machine {call} errno {errno}"),
            Self::Machine(call, Answer::Failed(why)) => {
                write!(f, "machine {call} failed {}", Escaped(why))
            }
            Self::Taken(taken) => write_taken(f, *taken),
            Self::State(state) => write!(f, "state {state}"),
            Self::Event(emitted) => write_event(f, emitted),
            Self::Dropped(what) => write!(f, "dropped {what}"),
            Self::Outcome(outcome) => match outcome {
                Outcome::Refused(why) => write!(f, "refused {}", Escaped(why)),
                Outcome::Failed(why) => write!(f, "failed {}", Escaped(why)),
                Outcome::Errno(errno) => write!(f, "errno {errno}"),
                Outcome::Exit(Exit::Watchdog) => write!(f, "exit watchdog"),
                Outcome::Exit(Exit::Shutdown { cause, status }) => {
                    write!(f, "exit shutdown {cause} {status}")
                }
            },
            Self::End(ending) => write!(f, "end {ending}"),
        }
    }
}

impl Entry {
    /// The entry that `text` is; `None` if it is none.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if let Some(name) = text.strip_prefix(MAGIC) {
            return Some(Self::Header(unescape(name.strip_prefix(' ')?)?));
        }
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        Some(match word {
            "initial" => Self::Initial(Box::new(read_initial(rest)?)),
            "raise" => Self::Input(Input::Raise(read_request(rest)?)),
            "raise-outside" => Self::Input(Input::RaiseOutside(read_request(rest)?)),
            "mask" => Self::Input(Input::Mask(read_mask(rest)?)),
            "collect" => Self::Input(Input::Collect(rest.parse().ok()?)),
            "command" => Self::Call(Call::Command(read_command(rest)?)),
            "pass" => Self::Call(Call::Pass),
            "stop" => Self::Call(Call::Stop(rest.parse().ok()?)),
            "start" => Self::Call(Call::Start),
            "wakeup-supported" => Self::Call(Call::WakeupSupported(is_on(rest)?)),
            "machine" => read_answer(rest)?,
            "take" | "checkpoint" => Self::Taken(read_taken(rest)?),
            "state" => Self::State(rest.parse().ok()?),
            "event" => Self::Event(read_event(rest)?),
            "dropped" => Self::Dropped(rest.parse::<Dropped>().ok()?),
            "refused" => Self::Outcome(Outcome::Refused(unescape(rest)?)),
            "failed" => Self::Outcome(Outcome::Failed(unescape(rest)?)),
            "errno" => Self::Outcome(Outcome::Errno(rest.parse().ok()?)),
            "exit" => Self::Outcome(Outcome::Exit(read_exit(rest)?)),
            "end" => Self::End(rest.parse::<Ending>().ok()?),
            _ => return None,
        })
    }
}

impl Display for Initial {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let table = match self.table {
            TransitionTable::Seed => "seed",
            TransitionTable::Newest => "newest",
        };
        let Actions {
            reboot,
            shutdown,
            panic,
            watchdog,
        } = self.actions;
        write!(f, "initial table={table} state={} ", self.state)?;
        write!(
            f,
            "actions=reboot={reboot},shutdown={shutdown},panic={panic},watchdog={watchdog} "
        )?;
        let WakeupMask { rtc, pm_timer } = self.wakeup_mask;
        write!(f, "rtc={} pmtimer={} ", switch(rtc), switch(pm_timer))?;
        let (autostart, supported) = (switch(self.autostart), switch(self.wakeup_supported));
        write!(f, "autostart={autostart} wakeup-supported={supported}")?;
        let flag = |f: &mut Formatter<'_>, set: bool, name: &str| {
            if set { write!(f, " {name}") } else { Ok(()) }
        };
        flag(f, self.debug, "debug")?;
        flag(f, self.suspend, "suspend")?;
        slot(f, "shutdown", self.shutdown)?;
        slot(f, "reset", self.reset)?;
        slot(f, "wakeup", self.wakeup)?;
        flag(f, self.powerdown, "powerdown")?;
        slot(f, "vmstop", self.vmstop)?;
        flag(f, self.nmi, "nmi")?;
        flag(f, self.ended, "ended")?;
        slot(f, "waiting", (self.waiting > 0).then_some(self.waiting))
    }
}

fn slot(f: &mut Formatter<'_>, name: &str, value: Option<impl Display>) -> fmt::Result {
    match value {
        Some(value) => write!(f, " {name}={value}"),
        None => Ok(()),
    }
}

fn read_initial(text: &str) -> Option<Initial> {
    let mut initial = Initial {
        table: TransitionTable::Seed,
        state: RunState::Prelaunch,
        actions: Actions::default(),
        wakeup_mask: WakeupMask::default(),
        autostart: false,
        wakeup_supported: false,
        debug: false,
        suspend: false,
        shutdown: None,
        reset: None,
        wakeup: None,
        powerdown: false,
        vmstop: None,
        nmi: false,
        ended: false,
        waiting: 0,
    };
    for word in text.split(' ') {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        match key {
            "table" if value == "newest" => initial.table = TransitionTable::Newest,
            "table" => {}
            "state" => initial.state = value.parse().ok()?,
            "actions" => initial.actions = Actions::default().with(read_actions(value)?),
            "rtc" => initial.wakeup_mask.rtc = is_on(value)?,
            "pmtimer" => initial.wakeup_mask.pm_timer = is_on(value)?,
            "autostart" => initial.autostart = is_on(value)?,
            "wakeup-supported" => initial.wakeup_supported = is_on(value)?,
            "debug" => initial.debug = true,
            "suspend" => initial.suspend = true,
            "shutdown" => initial.shutdown = Some(value.parse().ok()?),
            "reset" => initial.reset = Some(value.parse().ok()?),
            "wakeup" => initial.wakeup = Some(value.parse().ok()?),
            "powerdown" => initial.powerdown = true,
            "vmstop" => initial.vmstop = Some(value.parse().ok()?),
            "nmi" => initial.nmi = true,
            "ended" => initial.ended = true,
            "waiting" => {
                initial.waiting = value.parse().ok().filter(|count| *count <= WAITING_MAX)?;
            }
            _ => return None,
        }
    }
    Some(initial)
}

fn write_request(f: &mut Formatter<'_>, raise: &str, request: Request) -> fmt::Result {
    write!(f, "{raise} ")?;
    match request {
        Request::Debug => f.write_str("debug"),
        Request::Suspend => f.write_str("suspend"),
        Request::SuspendDisk => f.write_str("suspend-disk"),
        Request::Shutdown(cause) => write!(f, "shutdown {cause}"),
        Request::Reset(cause) => write!(f, "reset {cause}"),
        Request::Wakeup(reason) => write!(f, "wakeup {reason}"),
        Request::Powerdown => f.write_str("powerdown"),
        Request::VmStop(state) => write!(f, "vmstop {state}"),
        Request::GuestPanicked => f.write_str("guest-panicked"),
        Request::GuestCrashloaded => f.write_str("guest-crashloaded"),
        Request::WatchdogExpired => f.write_str("watchdog-expired"),
        Request::BlockIoError(error) => {
            f.write_str("block-io-error ")?;
            write_block_io_error(f, error)
        }
        Request::DeviceError(error) => {
            f.write_str("device-error ")?;
            write_device_error(f, error)
        }
        Request::BalloonChange(actual) => write!(f, "balloon-change {actual}"),
    }
}

fn read_request(text: &str) -> Option<Request> {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    Some(match word {
        "debug" => Request::Debug,
        "suspend" => Request::Suspend,
        "suspend-disk" => Request::SuspendDisk,
        "shutdown" => Request::Shutdown(rest.parse().ok()?),
        "reset" => Request::Reset(rest.parse().ok()?),
        "wakeup" => Request::Wakeup(rest.parse().ok()?),
        "powerdown" => Request::Powerdown,
        "vmstop" => Request::VmStop(rest.parse().ok()?),
        "guest-panicked" => Request::GuestPanicked,
        "guest-crashloaded" => Request::GuestCrashloaded,
        "watchdog-expired" => Request::WatchdogExpired,
        "block-io-error" => Request::BlockIoError(read_block_io_error(rest)?),
        "device-error" => Request::DeviceError(read_device_error(rest)?),
        "balloon-change" => Request::BalloonChange(rest.parse().ok()?),
        _ => return None,
    })
}

fn read_mask(text: &str) -> Option<WakeupMask> {
    let (rtc, pm_timer) = text.split_once(' ')?;
    Some(WakeupMask {
        rtc: is_on(rtc.strip_prefix("rtc=")?)?,
        pm_timer: is_on(pm_timer.strip_prefix("pmtimer=")?)?,
    })
}

fn write_call(f: &mut Formatter<'_>, call: Call) -> fmt::Result {
    match call {
        Call::Command(command) => write_command(f, command),
        Call::Pass => f.write_str("pass"),
        Call::Stop(target) => write!(f, "stop {target}"),
        Call::Start => f.write_str("start"),
        Call::WakeupSupported(supported) => write!(f, "wakeup-supported {}", switch(supported)),
    }
}

fn write_command(f: &mut Formatter<'_>, command: Command) -> fmt::Result {
    f.write_str("command ")?;
    match command {
        Command::Stop => f.write_str("stop"),
        Command::Cont => f.write_str("cont"),
        Command::SystemReset => f.write_str("system_reset"),
        Command::SystemPowerdown => f.write_str("system_powerdown"),
        Command::SystemWakeup => f.write_str("system_wakeup"),
        Command::InjectNmi => f.write_str("inject-nmi"),
        Command::SetAction(change) => {
            write!(f, "set-action ")?;
            let ActionChange {
                reboot,
                shutdown,
                panic,
                watchdog,
            } = change;
            let settings = [
                reboot.map(|to| ("reboot", to.name())),
                shutdown.map(|to| ("shutdown", to.name())),
                panic.map(|to| ("panic", to.name())),
                watchdog.map(|to| ("watchdog", to.name())),
            ];
            for (index, (key, value)) in settings.into_iter().flatten().enumerate() {
                let comma = if index == 0 { "" } else { "," };
                write!(f, "{comma}{key}={value}")?;
            }
            Ok(())
        }
        Command::PortWrite { port, value, size } => {
            write!(f, "port-write {port:#x} {value:#x} {size}")
        }
        Command::Quit => f.write_str("quit"),
        Command::Kill => f.write_str("kill"),
    }
}

fn read_command(text: &str) -> Option<Command> {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    Some(match word {
        "stop" => Command::Stop,
        "cont" => Command::Cont,
        "system_reset" => Command::SystemReset,
        "system_powerdown" => Command::SystemPowerdown,
        "system_wakeup" => Command::SystemWakeup,
        "inject-nmi" => Command::InjectNmi,
        "set-action" => Command::SetAction(read_actions(rest)?),
        "port-write" => read_port_write(rest)?,
        "quit" => Command::Quit,
        "kill" => Command::Kill,
        _ => return None,
    })
}

fn read_port_write(text: &str) -> Option<Command> {
    let mut words = text.split(' ');
    let mut number = || u32::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
    let (port, value) = (number()?.try_into().ok()?, number()?);
    let size = words.next()?.parse().ok()?;
    Some(Command::PortWrite { port, value, size })
}

fn read_actions(text: &str) -> Option<ActionChange> {
    let mut change = ActionChange::default();
    for setting in text.split(',').filter(|setting| !setting.is_empty()) {
        let (key, value) = setting.split_once('=')?;
        match key {
            "reboot" => change.reboot = Some(value.parse().ok()?),
            "shutdown" => change.shutdown = Some(value.parse().ok()?),
            "panic" => change.panic = Some(value.parse().ok()?),
            "watchdog" => change.watchdog = Some(value.parse().ok()?),
            _ => return None,
        }
    }
    Some(change)
}

fn read_answer(text: &str) -> Option<Entry> {
    let (call, answer) = text.split_once(' ')?;
    let (word, rest) = answer.split_once(' ').unwrap_or((answer, ""));
    let answer = match word {
        "ok" => Answer::Ok,
        "errno" => Answer::Errno(rest.parse().ok()?),
        "failed" => Answer::Failed(unescape(rest)?),
        _ => return None,
    };
    Some(Entry::Machine(call.parse::<MachineCall>().ok()?, answer))
}

fn write_taken(f: &mut Formatter<'_>, taken: Taken) -> fmt::Result {
    match taken {
        Taken::Debug => f.write_str("take debug"),
        Taken::Suspend => f.write_str("checkpoint 3 suspend"),
        Taken::Shutdown(cause) => write!(f, "take shutdown {cause}"),
        Taken::Reset(cause) => write!(f, "checkpoint 2 reset {cause}"),
        Taken::Wakeup(reason) => write!(f, "take wakeup {reason}"),
        Taken::Powerdown => f.write_str("take powerdown"),
        Taken::VmStop(state) => write!(f, "take vmstop {state}"),
        Taken::Nmi => f.write_str("take nmi"),
    }
}

fn read_taken(text: &str) -> Option<Taken> {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    Some(match word {
        "2" => Taken::Reset(rest.strip_prefix("reset ")?.parse().ok()?),
        "3" => Taken::Suspend,
        "debug" => Taken::Debug,
        "shutdown" => Taken::Shutdown(rest.parse().ok()?),
        "wakeup" => Taken::Wakeup(rest.parse().ok()?),
        "powerdown" => Taken::Powerdown,
        "vmstop" => Taken::VmStop(rest.parse().ok()?),
        "nmi" => Taken::Nmi,
        _ => return None,
    })
}

fn write_event(f: &mut Formatter<'_>, emitted: &Emitted) -> fmt::Result {
    let Emitted { event, state } = *emitted;
    write!(f, "event {} ", event.name())?;
    match event {
        Event::Reset(cause) | Event::Shutdown(cause) => write!(f, "{cause} ")?,
        Event::Watchdog(action) => write!(f, "{action} ")?,
        Event::GuestPanicked(action) => write!(f, "{action} ")?,
        Event::BlockIoError(error) => {
            write_block_io_error(f, error)?;
            f.write_char(' ')?;
        }
        Event::DeviceError(error) => {
            write_device_error(f, error)?;
            f.write_char(' ')?;
        }
        Event::BalloonChange(actual) => write!(f, "{actual} ")?,
        Event::Stop
        | Event::Resume
        | Event::Powerdown
        | Event::Suspend
        | Event::SuspendDisk
        | Event::Wakeup
        | Event::GuestCrashloaded => {}
    }
    write!(f, "@{state}")
}

fn read_event(text: &str) -> Option<Emitted> {
    let (what, state) = text.split_once('@')?;
    let (name, data) = what.split_once(' ')?;
    let data = data.trim_end_matches(' ');
    let event = match name {
        "STOP" => Event::Stop,
        "RESUME" => Event::Resume,
        "RESET" => Event::Reset(data.parse().ok()?),
        "SHUTDOWN" => Event::Shutdown(data.parse().ok()?),
        "POWERDOWN" => Event::Powerdown,
        "SUSPEND" => Event::Suspend,
        "SUSPEND_DISK" => Event::SuspendDisk,
        "WAKEUP" => Event::Wakeup,
        "WATCHDOG" => Event::Watchdog(data.parse().ok()?),
        "GUEST_PANICKED" => Event::GuestPanicked(data.parse().ok()?),
        "GUEST_CRASHLOADED" => Event::GuestCrashloaded,
        "BLOCK_IO_ERROR" => Event::BlockIoError(read_block_io_error(data)?),
        "DEVICE_ERROR" => Event::DeviceError(read_device_error(data)?),
        "BALLOON_CHANGE" => Event::BalloonChange(data.parse().ok()?),
        _ => return None,
    };
    let state = state.parse().ok()?;
    Some(Emitted { event, state })
}

fn write_block_io_error(f: &mut Formatter<'_>, error: BlockIoError) -> fmt::Result {
    let BlockIoError {
        disk,
        operation,
        action,
        nospace,
        errno,
    } = error;
    write!(f, "disk={disk} {operation} {action} errno={errno}")?;
    slot(f, "nospace", nospace.map(switch))
}

fn read_block_io_error(text: &str) -> Option<BlockIoError> {
    let mut words = text.split(' ');
    Some(BlockIoError {
        disk: words.next()?.strip_prefix("disk=")?.parse().ok()?,
        operation: words.next()?.parse().ok()?,
        action: words.next()?.parse().ok()?,
        errno: words.next()?.strip_prefix("errno=")?.parse().ok()?,
        nospace: match words.next() {
            Some(word) => Some(is_on(word.strip_prefix("nospace=")?)?),
            None => None,
        },
    })
}

fn write_device_error(f: &mut Formatter<'_>, error: DeviceError) -> fmt::Result {
    let DeviceError { device, fault } = error;
    write!(f, "{}={} {fault}", device.kind, device.index)
}

fn read_device_error(text: &str) -> Option<DeviceError> {
    let (device, fault) = text.split_once(' ')?;
    let (kind, index) = device.split_once('=')?;
    Some(DeviceError {
        device: DeviceId {
            kind: kind.parse().ok()?,
            index: index.parse().ok()?,
        },
        fault: fault.parse().ok()?,
    })
}

fn read_exit(text: &str) -> Option<Exit> {
    if text == "watchdog" {
        return Some(Exit::Watchdog);
    }
    let (cause, status) = text.strip_prefix("shutdown ")?.split_once(' ')?;
    Some(Exit::Shutdown {
        cause: cause.parse().ok()?,
        status: u8::from_str(status).ok()?,
    })
}

const fn switch(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

fn is_on(text: &str) -> Option<bool> {
    match text {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}

/// Free text, on one line: control characters and backslashes as `\u{..}`.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for char in self.0.chars() {
            if char.is_control() || char == '\\' {
                write!(f, "{}", char.escape_unicode())?;
            } else {
                f.write_char(char)?;
            }
        }
        Ok(())
    }
}

fn unescape(text: &str) -> Option<String> {
    let mut parts = text.split("\\u{");
    let mut plain = parts.next()?.to_owned();
    for part in parts {
        let (code, rest) = part.split_once('}')?;
        plain.push(char::from_u32(u32::from_str_radix(code, 16).ok()?)?);
        plain.push_str(rest);
    }
    Some(plain)
}
