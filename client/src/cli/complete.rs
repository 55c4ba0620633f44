//! Completions: a shell asks the command itself what can come next, also which machines there are.
//!
//! ```text
//! completions SHELL ------> a script for the shell
//! that, at each Tab ------> vmctl with COMPLETE=SHELL set -> candidates by the command line's definition
//!                                                        \-> names: one ListVms, if the daemon answers soon
//! ```

use std::{
    env,
    ffi::{OsStr, OsString},
    path::Path,
    time::Duration,
};

use clap::{Args as _, Command, CommandFactory, FromArgMatches};
use clap_complete::{
    CompleteEnv, Shell,
    engine::{ArgValueCompleter, CompletionCandidate},
    env::Shells,
};
use tokio::time::timeout;

use super::{
    args::{Args, Connection},
    failure::Failure,
    output::Output,
    view,
};
use crate::Client;

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
    let typed = env::args_os().skip_while(|word| word != "--").skip(2);
    let connection = connection(typed)?;
    let (endpoint, tls) = (connection.endpoint().ok()?, connection.tls());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .ok()?;
    let list = async {
        let client = Client::connect_with(&endpoint, tls.as_ref()).await?;
        client.list().await
    };
    let listed = runtime.block_on(async { timeout(PATIENCE, list).await });
    let vms = listed.ok()?.ok()?.vms.into_iter();
    Some(vms.map(|vm| (vm.name.clone(), view::state(&vm))).collect())
}

/// How the command that is being typed would connect, by its words and the environment. It need not be complete, nor
/// right: only what names the daemon is looked at.
fn connection(words: impl Iterator<Item = OsString>) -> Option<Connection> {
    let command = Connection::augment_args(Command::new("vmctl").no_binary_name(true));
    let options: Vec<_> = command
        .get_opts()
        .filter_map(|option| Some(format!("--{}", option.get_long()?)))
        .collect();
    let mut kept = Vec::new();
    let mut words = words.take_while(|word| word != "--");
    while let Some(word) = words.next() {
        let begins = |option: &String| {
            let rest = word.as_encoded_bytes().strip_prefix(option.as_bytes());
            rest.is_some_and(|rest| rest.starts_with(b"="))
        };
        if options.iter().any(begins) {
            kept.push(word);
        } else if options.iter().any(|option| word == **option) {
            kept.push(word);
            kept.extend(words.next().map(from_home));
        }
    }
    let matches = command.try_get_matches_from(kept).ok()?;
    Connection::from_arg_matches(&matches).ok()
}

/// A word with the `~/` at its beginning replaced, as the shell will do when the command is run.
fn from_home(word: OsString) -> OsString {
    match (Path::new(&word).strip_prefix("~"), env::var_os("HOME")) {
        (Ok(rest), Some(home)) => Path::new(&home).join(rest).into(),
        _ => word,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(line: &str) -> Option<Connection> {
        connection(line.split(' ').map(OsString::from))
    }

    #[test]
    fn the_daemon_is_where_the_command_line_says() {
        let at = |line| typed(line).unwrap().endpoint().unwrap().to_string();
        assert_eq!(at("--server unix:/a stop w"), "unix:/a");
        assert_eq!(at("stop --server=unix:/b w"), "unix:/b");
        assert_eq!(at("stop --no-such --server unix:/c -- --server"), "unix:/c");
        // The command would say no.
        assert!(typed("--server nowhere stop").is_none());
        assert!(typed("stop w --server").is_none());
    }

    #[test]
    fn certificates_are_those_of_the_command_line() {
        let line = "--tls-ca=a.crt stop --tls-cert ~/c.crt --server https://h:1 --tls-key k w";
        let files = typed(line).unwrap().tls().unwrap();
        let cert = Path::new(&env::var_os("HOME").unwrap()).join("c.crt");
        assert_eq!((files.ca, files.key), ("a.crt".into(), "k".into()));
        assert_eq!(files.cert, cert);
    }
}
