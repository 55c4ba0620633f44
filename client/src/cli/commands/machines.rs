//! The commands that read or change machines: one call and one line for each.

use super::super::{
    args::{Create, Names, Remove, SetAction, Start},
    failure::Failure,
    output::Output,
    progress, settings, stats, view,
};
use crate::{
    Client, Error, json,
    v1::{CommandResponse, CreateVmRequest},
};

pub(super) async fn create(
    client: &Client,
    create: Create,
    out: &mut Output,
) -> Result<(), Failure> {
    let name = create.name.clone();
    let doing = || format!("create '{name}'");
    let request = CreateVmRequest {
        name: create.name,
        definition: Some(create.machine.definition()),
        paused: create.paused,
        labels: create.labels.collect(),
        ..Default::default()
    };
    let reply = progress::during(out, doing, client.create(request)).await;
    let reply = reply.map_err(Failure::call(doing()))?;
    let vm = reply.vm.unwrap_or_default();
    let line = || view::status(&vm.name, &vm.status.clone().unwrap_or_default(), reply.seq);
    out.show(|| json::vm(&vm), line)
}

pub(super) async fn status(client: &Client, name: &str, out: &mut Output) -> Result<(), Failure> {
    let (vm, stats) = client
        .get_with_stats(name)
        .await
        .map_err(Failure::call(format!("read '{name}'")))?;
    let lines = || {
        let mut lines = view::details(&vm);
        lines.extend(stats::lines(&stats));
        lines.join("\n")
    };
    out.show(|| json::vm_with_stats(&vm, &stats), lines)
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
        let doing = || format!("{verb} '{name}'");
        match progress::during(out, doing, command(client, name)).await {
            Ok(reply) => show(name, &reply, out)?,
            Err(error) => tally.add(Failure::Call(doing(), error))?,
        }
    }
    tally.end()
}

pub(super) async fn start(client: &Client, start: &Start, out: &mut Output) -> Result<(), Failure> {
    let doing = || format!("start '{}'", start.name);
    let call = client.start(&start.name, start.paused);
    let reply = progress::during(out, doing, call).await;
    let reply = reply.map_err(Failure::call(doing()))?;
    show(&start.name, &reply, out)
}

pub(super) async fn remove(
    client: &Client,
    remove: &Remove,
    out: &mut Output,
) -> Result<(), Failure> {
    let etag = remove.etag.as_deref().unwrap_or_default();
    if !etag.is_empty() && remove.machines.names.len() > 1 {
        let problem = "--etag is one machine's: remove the others without it";
        return Err(Failure::Usage(problem.to_owned()));
    }
    let mut tally = Tally::new(&remove.machines);
    for name in &remove.machines.names {
        let doing = || format!("remove '{name}'");
        let removal = client.delete_if(name, remove.force, etag);
        match progress::during(out, doing, removal).await {
            Ok(seq) => out.show(
                || serde_json::json!({ "name": name, "deleted": true, "seq": seq }),
                || format!("{name}: removed, event {seq}"),
            )?,
            Err(error) => tally.add(Failure::Call(doing(), error))?,
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

pub(super) fn show(name: &str, reply: &CommandResponse, out: &mut Output) -> Result<(), Failure> {
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
