//! The `vmctl` command: arguments in, calls through [`Client`](crate::Client), lines on stdout and
//! an exit code out.
//!
//! ```text
//! args (clap) + values (parsers) -> commands, console -> Output (table or JSON lines)
//!                                        \-> Failure -> text on stderr, exit code
//! ```

mod args;
mod commands;
mod console;
mod failure;
mod output;
mod settings;
mod table;
mod values;
mod view;

use std::process::ExitCode;

use clap::Parser;

use args::Args;
use output::Output;

/// Runs `vmctl` with the process's arguments.
///
/// Exit codes: 0 done, 1 the daemon said no, 2 usage, 3 not reachable.
pub fn main() -> ExitCode {
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
