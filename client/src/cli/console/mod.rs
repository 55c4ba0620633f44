//! `vmctl console` and `vmctl qmp`: this terminal and a guest's serial port, or two pipes and its monitor, joined until
//! one of them is left.
//!
//! ```text
//! stdin thread -> queue -> pump_input ---> ByteInput ----> guest
//! stdout thread <- queue <- pump_output <- ConsoleOutput <--- guest
//! ```
//!
//! Reads and writes block in threads of their own, so that Ctrl-] and signals are served whatever
//! the two ends do. The terminal is given back before anything is said and before the process ends.

pub(super) mod pumps;
mod signals;
mod terminal;

use std::io::{IsTerminal, Write, stderr, stdin};

use tokio_stream::{Stream, StreamExt};

use super::{
    args::Console,
    failure::{self, Failure},
    output::Output,
};
use crate::{ByteInput, Client, Error};

pub(super) use signals::Signals;
pub(super) use terminal::RawTerminal;

/// How a session ended.
enum Ending {
    /// The escape key was pressed.
    Escape,
    /// The daemon ended the stream.
    Closed,
    /// A signal came.
    Signal(u8),
}

/// `vmctl console NAME`.
pub(super) async fn run(client: &Client, args: &Console, out: &mut Output) -> Result<(), Failure> {
    out.flush()?;
    let what = format!("the console of '{}'", args.name);
    let opened = client.console(&args.name, args.skip_history).await;
    let (input, output) = opened.map_err(Failure::call(format!("use {what}")))?;
    let output = output
        .into_feed()
        .map(|piece| piece.map(|piece| piece.output));
    join(&what, input, output, stdin().is_terminal()).await
}

/// `vmctl qmp NAME`: no terminal mode and no escape key, as programs use it.
pub(super) async fn run_qmp(client: &Client, name: &str, out: &mut Output) -> Result<(), Failure> {
    out.flush()?;
    let what = format!("the monitor of '{name}'");
    let opened = client.qmp(name).await;
    let (input, output) = opened.map_err(Failure::call(format!("use {what}")))?;
    let output = output.map(|piece| piece.map(|piece| piece.output));
    join(&what, input, output, false).await
}

/// Joins stdin and stdout with the two directions of a call, until one of them is left.
async fn join(
    what: &str,
    input: ByteInput,
    output: impl Stream<Item = Result<Vec<u8>, Error>> + Unpin,
    escapes: bool,
) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    if escapes {
        failure::say(&format!("connected to {what}, Ctrl-] quits"));
    }
    let mut raw = if escapes {
        Some(RawTerminal::enter()?)
    } else {
        None
    };
    let ending = tokio::select! {
        ended = pumps::pump_output(output) => match ended {
            Ok(()) => Ok(Ending::Closed),
            Err(pumps::OutputError::Call(error)) => {
                Err(Failure::Call(format!("use {what}"), error))
            }
            Err(pumps::OutputError::Write(error)) => Err(Failure::from(error)),
        },
        () = pumps::pump_input(input, escapes) => Ok(Ending::Escape),
        number = signals.next(raw.as_ref()) => Ok(Ending::Signal(number)),
    };
    // Everything below is meant for a terminal in its usual mode.
    if raw.take().is_some() {
        // What the guest wrote last keeps its line.
        let _ = writeln!(stderr());
    }
    match ending? {
        Ending::Escape => failure::say(&format!("left {what}")),
        Ending::Closed => failure::say(&format!("the daemon closed {what}")),
        Ending::Signal(number) => {
            failure::say(&format!("left {what} on signal {number}"));
            return Err(Failure::Signal(number));
        }
    }
    Ok(())
}
