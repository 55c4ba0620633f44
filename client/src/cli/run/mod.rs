//! `vmctl run`: a machine that lives as long as the command, on this terminal.
//!
//! ```text
//! create, paused -> join events and console -> cont -> Verdict -> remove -> last output -> exit code
//!                                                        ^
//!      ENDED or internal-error (follow) -----------------+
//!      Ctrl-], a signal, stdout closed, a broken call ---+
//! ```
//! The guest starts once everything is joined, so no byte and no event is missed. From the creation
//! on there is one way out, and the removal is on it.

mod follow;
mod machine;
mod printer;
mod verdict;

use std::io::{IsTerminal, stdin};

use tokio::time::timeout;

use super::{
    args::Run,
    console::{
        RawTerminal, Signals,
        pumps::{self, FAREWELL, OutputError},
    },
    failure::{self, Failure},
    output::Output,
};
use crate::{ByteInput, Client, ConsoleOutput, EventStream};
use follow::Follower;
use machine::{Machine, Removal};
use printer::Printer;
use verdict::Verdict;

/// `vmctl run [NAME]`.
pub(super) async fn run(client: &Client, args: Run, out: &mut Output) -> Result<(), Failure> {
    out.flush()?;
    let mut signals = Signals::new()?;
    let keep = args.keep;
    let machine = Machine::create(client, args, &mut signals).await?;
    let opened = tokio::select! {
        opened = open(&machine) => opened.map_err(Verdict::Broken),
        number = signals.next(None) => Err(Verdict::Signal(number)),
    };
    let opened = opened.and_then(|joined| {
        let escapes = stdin().is_terminal();
        let raw = escapes.then(|| enter(&machine.name, keep)).transpose();
        raw.map(|raw| (joined, raw)).map_err(Verdict::Broken)
    });
    let (verdict, removal) = match opened {
        Ok((joined, raw)) => attend(&machine, joined, raw, keep, &mut signals).await,
        Err(verdict) => {
            let removal = machine.leave(keep, &verdict, &mut signals).await;
            (verdict, removal)
        }
    };
    verdict.tell(&machine, &removal, out.is_json())
}

/// What is joined with the machine before its guest starts.
struct Joined {
    events: EventStream,
    input: ByteInput,
    output: ConsoleOutput,
}

async fn open(machine: &Machine) -> Result<Joined, Failure> {
    let events = machine.watch(machine.seq).await?;
    let (input, output) = machine.console().await?;
    Ok(Joined {
        events,
        input,
        output,
    })
}

/// Starts the guest and stays with it until it has ended or is left.
async fn attend(
    machine: &Machine,
    joined: Joined,
    raw: Option<RawTerminal>,
    keep: bool,
    signals: &mut Signals,
) -> (Verdict, Removal) {
    let escapes = raw.is_some();
    let mut printer = Printer::start(joined.output);
    let follower = Follower::new(machine, escapes);
    let input = pumps::pump_input(joined.input, escapes);
    tokio::pin!(input);
    let verdict = tokio::select! {
        // How the guest ended counts, even if everything breaks at the same moment.
        biased;
        verdict = follower.run(joined.events) => verdict.unwrap_or_else(Verdict::Broken),
        number = signals.next(raw.as_ref()) => Verdict::Signal(number),
        () = &mut input => Verdict::Escape,
        error = printer.failed() => broken(machine, error),
    };
    let removal = machine.leave(keep, &verdict, signals).await;
    // What the guest wrote is all to be seen. If it is this side that leaves, stdout may be what is stuck.
    let printed = match &verdict {
        Verdict::Broken(_) | Verdict::Closed => Ok(()),
        Verdict::Stuck if !removal.is_done() => farewell(&mut printer).await,
        Verdict::Escape | Verdict::Signal(_) => farewell(&mut printer).await,
        Verdict::Ended(_) | Verdict::Gone | Verdict::Stuck => tokio::select! {
            printed = printer.finished() => printed,
            () = &mut input => Ok(()),
            _ = signals.next(raw.as_ref()) => Ok(()),
        },
    };
    drop(raw);
    printer.tell(escapes);
    let verdict = match printed.map_err(|error| broken(machine, error)) {
        // Bytes that were to be kept, and could not be, are worse than any end of the guest.
        Err(lost @ Verdict::Broken(Failure::Told(_))) => lost,
        Err(Verdict::Broken(failure)) => {
            failure.report();
            verdict
        }
        _ => verdict,
    };
    (verdict, removal)
}

/// Waits for the last output, but not for long.
async fn farewell(printer: &mut Printer) -> Result<(), OutputError> {
    let printed = timeout(FAREWELL, printer.finished()).await;
    printed.unwrap_or(Ok(()))
}

/// Says what the terminal is used for, and takes it.
fn enter(name: &str, keep: bool) -> Result<RawTerminal, Failure> {
    let leaves = if keep {
        "leaves it running"
    } else {
        "quits and removes it"
    };
    failure::say(&format!("running '{name}', Ctrl-] {leaves}"));
    RawTerminal::enter()
}

fn broken(machine: &Machine, error: OutputError) -> Verdict {
    match error {
        OutputError::Call(error) => {
            let doing = format!("use the console of '{}'", machine.name);
            Verdict::Broken(Failure::Call(doing, error))
        }
        OutputError::Write(error) => match Failure::from(error) {
            Failure::ClosedPipe => Verdict::Closed,
            failure => Verdict::Broken(failure),
        },
    }
}
