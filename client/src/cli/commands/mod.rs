//! From a parsed command line to calls: starts the runtime, connects, and hands over to the command.

mod events;
mod machines;
mod record;
mod replay;
mod wait;

use clap::CommandFactory;
use clap_complete::Shell;

use super::{
    args::{Args, Command},
    console,
    failure::Failure,
    output::Output,
};
use crate::{Client, Endpoint};

/// Runs one command to its end.
pub(super) fn run(args: Args, out: &mut Output) -> Result<(), Failure> {
    if let Command::Completions { shell } = args.command {
        return completions(shell, out);
    }
    if let Command::Replay(replay) = &args.command {
        return replay::run(replay, out);
    }
    let endpoint = match args.server {
        Some(endpoint) => endpoint,
        None => Endpoint::default_for_user()?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| Failure::Told(format!("cannot start: {error}")))?;
    runtime.block_on(async {
        let client = Client::connect(&endpoint)
            .await
            .map_err(Failure::call("connect"))?;
        serve(&client, args.command, out).await
    })
}

async fn serve(client: &Client, command: Command, out: &mut Output) -> Result<(), Failure> {
    match command {
        Command::Create(create) => machines::create(client, create, out).await,
        Command::Ls => machines::list(client, out).await,
        Command::Status(it) => machines::status(client, &it.name, out).await,
        Command::Cont(them) => machines::each(client, "continue", &them, out, Client::cont).await,
        Command::Stop(them) => machines::each(client, "stop", &them, out, Client::stop).await,
        Command::Reset(them) => {
            machines::each(client, "reset", &them, out, Client::system_reset).await
        }
        Command::Powerdown(them) => {
            machines::each(client, "power down", &them, out, Client::system_powerdown).await
        }
        Command::Wakeup(them) => {
            machines::each(client, "wake", &them, out, Client::system_wakeup).await
        }
        Command::Nmi(them) => {
            machines::each(client, "send an NMI to", &them, out, Client::inject_nmi).await
        }
        Command::Quit(them) => machines::each(client, "quit", &them, out, Client::quit).await,
        Command::Start(start) => machines::start(client, &start, out).await,
        Command::Rm(remove) => machines::remove(client, &remove, out).await,
        Command::SetAction(set) => machines::set_action(client, &set, out).await,
        Command::Events(events) => events::run(client, &events, out).await,
        Command::Wait(wait) => wait::run(client, &wait, out).await,
        Command::Console(console) => console::run(client, &console, out).await,
        Command::Record(record) => record::run(client, &record, out).await,
        Command::Replay(replay) => replay::run(&replay, out),
        Command::Qmp(machine) => console::run_qmp(client, &machine.name, out).await,
        Command::Completions { shell } => completions(shell, out),
    }
}

fn completions(shell: Shell, out: &mut Output) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "vmctl", &mut script);
    out.bytes(&script)
}
