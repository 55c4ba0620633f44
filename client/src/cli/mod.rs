//! The `vmctl` command: arguments in, calls through [`Client`](crate::Client), lines on stdout and
//! an exit code out.
//!
//! ```text
//! a shell's Tab ------------------> complete -> candidates
//! args (clap) + values (parsers) -> commands, apply, console, run -> Output (table or JSON lines)
//!                                   top ---------------------------> Screen (the whole terminal)
//!                                        \-> Failure -> text on stderr, exit code
//! ```

mod apply;
mod args;
mod balloon;
mod commands;
mod complete;
mod console;
mod console_port;
mod disk;
mod failure;
mod frames;
mod mark;
mod net;
mod output;
mod progress;
mod rate;
mod restart;
mod run;
mod screen;
mod settings;
mod stats;
mod table;
mod tone;
mod top;
mod values;
mod view;
mod vsock;

use std::process::ExitCode;

use clap::Parser;

use args::Args;
use output::Output;

/// Runs `vmctl` with the process's arguments.
///
/// Exit codes: 0 done, 1 the daemon said no, 2 usage, 3 not reachable, 4 changes that `apply` did not make; of `run` also
/// how the guest ended.
pub fn main() -> ExitCode {
    match complete::answer() {
        Ok(false) => {}
        Ok(true) => return ExitCode::SUCCESS,
        Err(error) => {
            let _ = error.print();
            return ExitCode::FAILURE;
        }
    }
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help and version come this way too, with exit code 0. A closed pipe is no news.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let mut out = Output::new(args.output);
    let result = commands::run(args, &mut out).and_then(|()| out.flush());
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report();
            ExitCode::from(failure.exit_code())
        }
    }
}
