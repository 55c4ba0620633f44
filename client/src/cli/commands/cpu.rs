//! `vmctl cpu`: how much a machine gets of the host's processors.

use super::super::{args::Cpu, failure::Failure, output::Output, view};
use crate::{
    Client, json,
    v1::{UpdateVmRequest, VmDefinition},
};

pub(super) async fn run(client: &Client, cpu: Cpu, out: &mut Output) -> Result<(), Failure> {
    let mut mask = Vec::new();
    if cpu.weight.is_some() {
        mask.push("definition.cpu_weight".to_owned());
    }
    if cpu.limit.is_some() || cpu.no_limit {
        mask.push("definition.cpu_limit_millis".to_owned());
    }
    let request = UpdateVmRequest {
        name: cpu.name,
        update_mask: mask,
        definition: Some(VmDefinition {
            cpu_weight: cpu.weight,
            cpu_limit_millis: cpu.limit,
            ..Default::default()
        }),
        ..Default::default()
    };
    let doing = format!("change the CPU share of '{}'", request.name);
    let reply = client.update(request).await.map_err(Failure::call(doing))?;
    let vm = reply.vm.unwrap_or_default();
    let definition = vm.definition.clone().unwrap_or_default();
    out.show(
        || json::vm(&vm),
        || format!("{}: {}", vm.name, view::cpu_share(&definition)),
    )
}
