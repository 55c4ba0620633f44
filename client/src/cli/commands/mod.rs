//! From a parsed command line to calls: starts the runtime, connects, and hands over to the command.

mod balloon;
mod cpu;
mod device;
mod disk;
mod events;
mod label;
mod list;
mod logs;
mod machines;
mod net;
mod record;
mod replay;
mod wait;

use std::path::Path;

use clap::CommandFactory;
use serde_json::json;

use super::{
    apply,
    args::{Args, Command},
    complete, console,
    failure::Failure,
    output::Output,
    run, top,
};
use crate::Client;

/// Runs one command to its end.
pub(super) fn run(args: Args, out: &mut Output) -> Result<(), Failure> {
    if let Command::Completions { shell } = args.command {
        return complete::script(shell, out);
    }
    if let Command::Man { directory } = &args.command {
        return man(directory, out);
    }
    if let Command::Replay(replay) = &args.command {
        return replay::run(replay, out);
    }
    let endpoint = args.connection.endpoint()?;
    let tls = args.connection.tls();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| Failure::Told(format!("cannot start: {error}")))?;
    if args.request_id.is_some() && !args.command.is_one_change() {
        let problem = "--request-id is for a command that makes one change, of one machine";
        return Err(Failure::Usage(problem.to_owned()));
    }
    runtime.block_on(async {
        let mut client = Client::connect_with(&endpoint, tls.as_ref())
            .await
            .map_err(Failure::call("connect"))?;
        if let Some(id) = &args.request_id {
            client = client.with_request_id(id);
        }
        if let Some(time) = args.deadline {
            client = client.with_deadline(time);
        }
        serve(&client, args.command, out).await
    })
}

async fn serve(client: &Client, command: Command, out: &mut Output) -> Result<(), Failure> {
    match command {
        Command::Create(create) => machines::create(client, *create, out).await,
        Command::Run(args) => run::run(client, *args, out).await,
        Command::Apply(args) => apply::run(client, &args, out).await,
        Command::Ls(list) => list::run(client, &list, out).await,
        Command::Top(args) => top::run(client, args.color).await,
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
        Command::Cpu(cpu) => cpu::run(client, cpu, out).await,
        Command::Label(label) => label::run(client, label, out).await,
        Command::SetAction(set) => machines::set_action(client, &set, out).await,
        Command::Disk(command) => disk::run(client, &command, out).await,
        Command::Balloon(command) => balloon::run(client, &command, out).await,
        Command::Net(command) => net::run(client, &command, out).await,
        Command::Events(events) => events::run(client, &events, out).await,
        Command::Logs(logs) => logs::run(client, &logs, out).await,
        Command::Wait(wait) => wait::run(client, &wait, out).await,
        Command::Console(console) => console::run(client, &console, out).await,
        Command::Record(record) => record::run(client, &record, out).await,
        Command::Replay(replay) => replay::run(&replay, out),
        Command::Qmp(machine) => console::run_qmp(client, &machine.name, out).await,
        Command::Completions { shell } => complete::script(shell, out),
        Command::Man { directory } => man(&directory, out),
    }
}

fn man(directory: &Path, out: &mut Output) -> Result<(), Failure> {
    let shown = directory.display();
    let written = crate::man::write(Args::command(), directory);
    let count = written.map_err(|error| Failure::Told(format!("cannot write {shown}: {error}")))?;
    out.show(
        || json!({ "directory": directory.to_string_lossy(), "pages": count }),
        || format!("{count} pages in {shown}"),
    )
}
