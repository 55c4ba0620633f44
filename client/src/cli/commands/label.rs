//! `vmctl label`: a machine's labels, shown or changed.

use super::super::{args::Label, failure::Failure, output::Output, view};
use crate::{
    Client, json,
    v1::{UpdateVmRequest, Vm},
};

pub(super) async fn run(client: &Client, label: Label, out: &mut Output) -> Result<(), Failure> {
    let Label {
        name,
        changes,
        etag,
    } = label;
    if changes.is_empty() {
        let vm = client.get(&name).await;
        let vm = vm.map_err(Failure::call(format!("read '{name}'")))?;
        return show(&vm, out);
    }
    let path = |(key, _): &(String, _)| format!("labels.{key}");
    let request = UpdateVmRequest {
        update_mask: changes.iter().map(path).collect(),
        // The last one of a key counts, whether it sets or removes.
        labels: changes
            .into_iter()
            .collect::<std::collections::BTreeMap<_, _>>()
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)))
            .collect(),
        etag: etag.unwrap_or_default(),
        name,
        ..Default::default()
    };
    let doing = format!("label '{}'", request.name);
    let reply = client.update(request).await.map_err(Failure::call(doing))?;
    show(&reply.vm.unwrap_or_default(), out)
}

fn show(vm: &Vm, out: &mut Output) -> Result<(), Failure> {
    out.show(
        || json::vm(vm),
        || format!("{}: {}", vm.name, view::labels(vm)),
    )
}
