//! `vmctl console`: this terminal and a guest's serial port, joined until one of them is left.
//!
//! ```text
//! stdin thread -> queue -> pump_input ---> ConsoleInput ----> guest
//! stdout thread <- queue <- pump_output <- ConsoleOutput <--- guest
//! ```
//!
//! Reads and writes block in threads of their own, so that Ctrl-] and signals are served whatever
//! the two ends do. The terminal is given back before anything is said and before the process ends.

mod pumps;
mod terminal;

use std::io::{IsTerminal, Write, stderr, stdin};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{
    args::Console,
    failure::{self, Failure},
    output::Output,
};
use crate::Client;
use terminal::RawTerminal;

/// How a session ended.
enum Ending {
    /// The escape key was pressed.
    Escape,
    /// The daemon ended the stream.
    Closed,
    /// A signal came.
    Signal(u8),
}

pub(super) async fn run(client: &Client, args: &Console, out: &mut Output) -> Result<(), Failure> {
    out.flush()?;
    let opened = client.console(&args.name, args.skip_history).await;
    let doing = format!("use the console of '{}'", args.name);
    let (input, output) = opened.map_err(Failure::call(doing.as_str()))?;
    let mut signals = Signals::new().map_err(watching)?;
    let escapes = stdin().is_terminal();
    if escapes {
        failure::say(&format!("connected to '{}', Ctrl-] quits", args.name));
    }
    let mut raw = if escapes {
        Some(RawTerminal::enter().map_err(terminal_failed)?)
    } else {
        None
    };
    let ending = tokio::select! {
        ended = pumps::pump_output(output) => match ended {
            Ok(()) => Ok(Ending::Closed),
            Err(pumps::OutputError::Call(error)) => Err(Failure::Call(doing, error)),
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
        Ending::Escape => failure::say(&format!("left the console of '{}'", args.name)),
        Ending::Closed => {
            failure::say(&format!("the daemon closed the console of '{}'", args.name));
        }
        Ending::Signal(number) => {
            failure::say(&format!(
                "left the console of '{}' on signal {number}",
                args.name
            ));
            return Err(Failure::Signal(number));
        }
    }
    Ok(())
}

fn watching(error: std::io::Error) -> Failure {
    Failure::Told(format!("cannot watch for signals: {error}"))
}

fn terminal_failed(error: nix::Error) -> Failure {
    Failure::Told(format!("cannot set up the terminal: {}", error.desc()))
}

/// The signals that end a session, and the one that says it goes on after a suspend.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    quit: Signal,
    resume: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
            resume: signal(SignalKind::from_raw(
                nix::sys::signal::Signal::SIGCONT as i32,
            ))?,
        })
    }

    /// The number of the next signal that ends the session.
    async fn next(&mut self, raw: Option<&RawTerminal>) -> u8 {
        use nix::sys::signal::Signal as Number;
        loop {
            let number = tokio::select! {
                _ = self.interrupt.recv() => Number::SIGINT,
                _ = self.terminate.recv() => Number::SIGTERM,
                _ = self.hangup.recv() => Number::SIGHUP,
                _ = self.quit.recv() => Number::SIGQUIT,
                _ = self.resume.recv() => {
                    // The shell gave the terminal back in its own mode.
                    if let Some(raw) = raw {
                        raw.again();
                    }
                    continue;
                }
            };
            return number as u8;
        }
    }
}
