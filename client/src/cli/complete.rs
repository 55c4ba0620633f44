//! Completions: a shell asks the command itself what can come next, also which machines there are.
//!
//! ```text
//! completions SHELL ------> a script for the shell
//! that, at each Tab ------> vmctl with COMPLETE=SHELL set -> candidates by the command line's definition
//!                                                        \-> names: one ListVms, if the daemon answers soon
//! ```

use std::{env, ffi::OsStr, time::Duration};

use clap::{Command, CommandFactory};
use clap_complete::{
    CompleteEnv, Shell,
    engine::{ArgValueCompleter, CompletionCandidate},
    env::Shells,
};
use tokio::time::timeout;

use super::{args::Args, failure::Failure, output::Output, view};
use crate::{Client, Endpoint};

/// How long somebody who has pressed Tab waits for names.
const PATIENCE: Duration = Duration::from_millis(500);

/// Set by the scripts, to the shell's name.
const VARIABLE: &str = "COMPLETE";

/// Answers a shell that asks for completions; whether one did.
pub(super) fn answer() -> clap::error::Result<bool> {
    let here = env::current_dir().ok();
    CompleteEnv::with_factory(|| with_machines(Args::command()))
        .var(VARIABLE)
        .try_complete(env::args_os(), here.as_deref())
}

/// Prints the script for a shell.
pub(super) fn script(shell: Shell, out: &mut Output) -> Result<(), Failure> {
    let name = shell.to_string();
    let shells = Shells::builtins();
    let completer = shells
        .completer(&name)
        .ok_or_else(|| Failure::Told(format!("there are no completions for {name}")))?;
    let mut script = Vec::new();
    completer.write_registration(VARIABLE, "vmctl", "vmctl", "vmctl", &mut script)?;
    out.bytes(&script)
}

/// The command line's definition, with names of machines wherever one that exists is expected.
fn with_machines(command: Command) -> Command {
    let new = ["create", "run"].contains(&command.get_name());
    let command = command.mut_args(|arg| match arg.get_id().as_str() {
        "name" | "names" if !new => arg.add(machines()),
        _ => arg,
    });
    command.mut_subcommands(with_machines)
}

/// Completes the names of machines.
fn machines() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let begun = current.to_str().unwrap_or_default();
        let machines = names().unwrap_or_default().into_iter();
        machines
            .filter(|(name, _)| name.starts_with(begun))
            .map(|(name, state)| CompletionCandidate::new(name).help(Some(state.into())))
            .collect()
    })
}

/// The machines, and what they are at. None if the daemon is not there, or says no: nobody has asked for an error.
fn names() -> Option<Vec<(String, String)>> {
    let endpoint = match server(env::args().skip(1)) {
        Some(text) => text.parse().ok()?,
        None => Endpoint::default_for_user().ok()?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .ok()?;
    let list = async { Client::connect(&endpoint).await?.list().await };
    let listed = runtime.block_on(async { timeout(PATIENCE, list).await });
    let vms = listed.ok()?.ok()?.vms.into_iter();
    Some(vms.map(|vm| (vm.name.clone(), view::state(&vm))).collect())
}

/// Where the daemon is, as the command line that is being typed says, or the environment.
fn server(words: impl Iterator<Item = String>) -> Option<String> {
    let mut words = words.peekable();
    let mut server = env::var("VMD_SERVER").ok();
    while let Some(word) = words.next() {
        if let Some(value) = word.strip_prefix("--server=") {
            server = Some(value.to_owned());
        } else if word == "--server" {
            server = words.peek().cloned();
        }
    }
    server
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemon_is_where_the_command_line_says() {
        let at = |line: &str| server(line.split(' ').map(str::to_owned));
        assert_eq!(at("-- vmctl --server unix:/a stop w").unwrap(), "unix:/a");
        assert_eq!(at("-- vmctl stop --server=unix:/b w").unwrap(), "unix:/b");
    }
}
