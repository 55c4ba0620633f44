//! `vmctl`: drives the machines of a `vmd` daemon.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    vmctl::cli::main()
}
