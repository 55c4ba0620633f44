//! The commands: from a request to the machine and back.

use serde_json::{Value, json};
use vmm::runstate::{ActionChange, Command, WatchdogAction};

use super::{
    arguments::{Arguments, missing},
    message::{QmpError, Request, query_version},
    monitor,
    session::Machine,
};
use crate::vm::VmError;

/// Every command, as `query-commands` lists them.
const NAMES: [&str; 17] = [
    "cont",
    "human-monitor-command",
    "inject-nmi",
    "qmp_capabilities",
    "query-commands",
    "query-cpus-fast",
    "query-current-machine",
    "query-name",
    "query-status",
    "query-version",
    "quit",
    "set-action",
    "stop",
    "system_powerdown",
    "system_reset",
    "system_wakeup",
    "watchdog-set-action",
];

/// Carries a request out.
pub(super) async fn execute(machine: &Machine, request: Request) -> Result<Value, QmpError> {
    if request.out_of_band && NAMES.contains(&request.execute.as_str()) {
        return Err(QmpError::generic(format!(
            "The command {} does not support OOB",
            request.execute
        )));
    }
    let mut arguments = Arguments::new(request.arguments);
    let command = match request.execute.as_str() {
        "stop" => Command::Stop,
        "cont" => Command::Cont,
        "system_reset" => Command::SystemReset,
        "system_powerdown" => Command::SystemPowerdown,
        "system_wakeup" => Command::SystemWakeup,
        "inject-nmi" => Command::InjectNmi,
        "quit" => Command::Quit,
        "set-action" => Command::SetAction(ActionChange {
            reboot: arguments.choice("reboot")?,
            shutdown: arguments.choice("shutdown")?,
            panic: arguments.choice("panic")?,
            watchdog: arguments.choice("watchdog")?,
        }),
        "watchdog-set-action" => {
            let watchdog: Option<WatchdogAction> = arguments.choice("action")?;
            let watchdog = Some(watchdog.ok_or_else(|| missing("action"))?);
            Command::SetAction(ActionChange {
                watchdog,
                ..Default::default()
            })
        }
        "human-monitor-command" => {
            let line = arguments.mandatory("command-line")?;
            let cpu = arguments.integer("cpu-index")?;
            arguments.finish()?;
            // The CPU that the line is about; none of the lines here is about one, but it must exist.
            let cpus = machine.vm.vcpu_threads().len();
            if cpu.is_some_and(|cpu| usize::try_from(cpu).map_or(true, |cpu| cpu >= cpus)) {
                return Err(QmpError::generic(
                    "Parameter 'cpu-index' expects a CPU number",
                ));
            }
            return monitor::execute(machine, &line).await.map(Value::String);
        }
        "qmp_capabilities" => {
            arguments.strings("enable")?;
            arguments.finish()?;
            return Err(QmpError::not_found(
                "Capabilities negotiation is already complete, command ignored",
            ));
        }
        query => {
            let answer = query_command(machine, query)?;
            arguments.finish()?;
            return Ok(answer);
        }
    };
    arguments.finish()?;
    run(machine, command).await?;
    Ok(json!({}))
}

/// Has the machine serve a command.
pub(super) async fn run(machine: &Machine, command: Command) -> Result<(), QmpError> {
    match machine.vm.command(command).await {
        Ok(_) => Ok(()),
        // QEMU's own words.
        Err(VmError::Refused(refusal)) => Err(QmpError::generic(refusal.to_string())),
        Err(error) => Err(QmpError::generic(error.to_string())),
    }
}

fn query_command(machine: &Machine, name: &str) -> Result<Value, QmpError> {
    let status = machine.vm.status();
    Ok(match name {
        "query-status" => json!({
            "status": status.state.name(),
            "singlestep": false,
            "running": status.is_running(),
        }),
        "query-name" => json!({ "name": machine.vm.record.name }),
        "query-version" => query_version(),
        "query-current-machine" => json!({ "wakeup-suspend-support": true }),
        "query-commands" => NAMES.iter().map(|name| json!({ "name": name })).collect(),
        "query-cpus-fast" => {
            let cpu = |(index, thread): (usize, i32)| {
                json!({
                    "cpu-index": index,
                    "qom-path": format!("/machine/unattached/device[{index}]"),
                    "thread-id": thread,
                    "target": "x86_64",
                    "props": { "socket-id": index, "core-id": 0, "thread-id": 0 },
                })
            };
            machine
                .vm
                .vcpu_threads()
                .into_iter()
                .enumerate()
                .map(cpu)
                .collect()
        }
        _ => {
            return Err(QmpError::not_found(format!(
                "The command {name} has not been found"
            )));
        }
    })
}
