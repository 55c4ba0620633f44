//! Devices that come and go: what `disk` and `net` have in common.

use super::{
    super::{failure::Failure, output::Output},
    machines::show,
};
use crate::{Client, json, v1::device_add_request::Device};

/// Adds a device, which is a `what`, and says what it is called.
pub(super) async fn add(
    client: &Client,
    name: &str,
    device: Device,
    what: &str,
    out: &mut Output,
) -> Result<(), Failure> {
    let reply = client.device_add(name, device).await;
    let reply = reply.map_err(Failure::call(format!("add a {what} to '{name}'")))?;
    out.show(
        || json::device(name, &reply),
        || format!("{name}: {} added", reply.device),
    )
}

/// Asks the guest to give a device back.
pub(super) async fn remove(
    client: &Client,
    name: &str,
    device: &str,
    out: &mut Output,
) -> Result<(), Failure> {
    let reply = client.device_del(name, device).await;
    let reply = reply.map_err(Failure::call(format!("remove '{device}' of '{name}'")))?;
    show(name, &reply, out)
}
