//! The commands that read or change machines: one call and one line for each.

use super::super::{
    args::{Create, Names, Remove, SetAction, Start},
    failure::Failure,
    output::Output,
    settings, table, view,
};
use crate::{
    Client, Error, json,
    v1::{CommandResponse, CreateVmRequest, VmDefinition},
};

pub(super) async fn create(
    client: &Client,
    create: Create,
    out: &mut Output,
) -> Result<(), Failure> {
    let doing = format!("create '{}'", create.name);
    let definition = VmDefinition {
        memory_bytes: create.memory,
        vcpus: create.vcpus,
        firmware: create.firmware.unwrap_or_default(),
        actions: Some(settings::collect(&create.actions)),
        serial_socket: create.serial.unwrap_or_default(),
        qmp_socket: create.qmp.unwrap_or_default(),
    };
    let request = CreateVmRequest {
        name: create.name,
        definition: Some(definition),
        paused: create.paused,
    };
    let reply = client.create(request).await.map_err(Failure::call(doing))?;
    let vm = reply.vm.unwrap_or_default();
    let line = || view::status(&vm.name, &vm.status.clone().unwrap_or_default(), reply.seq);
    out.show(|| json::vm(&vm), line)
}

pub(super) async fn list(client: &Client, out: &mut Output) -> Result<(), Failure> {
    let vms = client
        .list()
        .await
        .map_err(Failure::call("list the machines"))?
        .vms;
    if out.is_json() {
        return vms
            .iter()
            .try_for_each(|vm| out.line(&json::vm(vm).to_string()));
    }
    let rows: Vec<_> = vms.iter().map(view::machine).collect();
    table::align(view::MACHINE, &rows)
        .iter()
        .try_for_each(|line| out.line(line))
}

pub(super) async fn status(client: &Client, name: &str, out: &mut Output) -> Result<(), Failure> {
    let vm = client
        .get(name)
        .await
        .map_err(Failure::call(format!("read '{name}'")))?;
    out.show(|| json::vm(&vm), || view::details(&vm).join("\n"))
}

/// Runs a command for each machine, in turn. One machine's refusal does not stop the others.
pub(super) async fn each<F>(
    client: &Client,
    verb: &str,
    machines: &Names,
    out: &mut Output,
    command: F,
) -> Result<(), Failure>
where
    F: AsyncFn(&Client, &str) -> Result<CommandResponse, Error>,
{
    let mut tally = Tally::new(machines);
    for name in &machines.names {
        match command(client, name).await {
            Ok(reply) => show(name, &reply, out)?,
            Err(error) => tally.add(Failure::Call(format!("{verb} '{name}'"), error))?,
        }
    }
    tally.end()
}

pub(super) async fn start(client: &Client, start: &Start, out: &mut Output) -> Result<(), Failure> {
    let reply = client.start(&start.name, start.paused).await;
    let reply = reply.map_err(Failure::call(format!("start '{}'", start.name)))?;
    show(&start.name, &reply, out)
}

pub(super) async fn remove(
    client: &Client,
    remove: &Remove,
    out: &mut Output,
) -> Result<(), Failure> {
    let mut tally = Tally::new(&remove.machines);
    for name in &remove.machines.names {
        match client.delete(name, remove.force).await {
            Ok(seq) => out.show(
                || serde_json::json!({ "name": name, "deleted": true, "seq": seq }),
                || format!("{name}: removed, event {seq}"),
            )?,
            Err(error) => tally.add(Failure::Call(format!("remove '{name}'"), error))?,
        }
    }
    tally.end()
}

pub(super) async fn set_action(
    client: &Client,
    set: &SetAction,
    out: &mut Output,
) -> Result<(), Failure> {
    let reply = client
        .set_action(&set.name, settings::collect(&set.actions))
        .await;
    let reply = reply.map_err(Failure::call(format!("set actions of '{}'", set.name)))?;
    show(&set.name, &reply, out)
}

fn show(name: &str, reply: &CommandResponse, out: &mut Output) -> Result<(), Failure> {
    let line = || view::status(name, &reply.status.clone().unwrap_or_default(), reply.seq);
    out.show(|| json::command(name, reply), line)
}

/// Failures over several machines: told as they happen, remembered for the end.
struct Tally {
    several: bool,
    failed: bool,
}

impl Tally {
    fn new(machines: &Names) -> Self {
        Self {
            several: machines.names.len() > 1,
            failed: false,
        }
    }

    /// Tells a failure and goes on, unless it is the only one or ends everything.
    fn add(&mut self, failure: Failure) -> Result<(), Failure> {
        if !self.several || failure.is_final() {
            return Err(failure);
        }
        failure.report();
        self.failed = true;
        Ok(())
    }

    fn end(self) -> Result<(), Failure> {
        if self.failed {
            Err(Failure::Silent)
        } else {
            Ok(())
        }
    }
}
