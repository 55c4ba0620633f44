//! The commands on disks of a live machine.

use super::{
    super::{
        args::{AddDisk, Disk, RemoveDisk, ResizeDisk},
        failure::Failure,
        output::Output,
    },
    device,
    machines::show,
};
use crate::{Client, v1::device_add_request::Device};

pub(super) async fn run(client: &Client, command: &Disk, out: &mut Output) -> Result<(), Failure> {
    match command {
        Disk::Resize(command) => resize(client, command, out).await,
        Disk::Add(AddDisk { name, disk }) => {
            device::add(client, name, Device::Disk(disk.clone()), "disk", out).await
        }
        Disk::Remove(RemoveDisk { name, disk }) => device::remove(client, name, disk, out).await,
    }
}

async fn resize(client: &Client, command: &ResizeDisk, out: &mut Output) -> Result<(), Failure> {
    let ResizeDisk {
        name,
        disk,
        size,
        shrink,
    } = command;
    let reply = client.resize_disk(name, disk, *size, *shrink).await;
    let reply = reply.map_err(Failure::call(format!("resize disk '{disk}' of '{name}'")))?;
    show(name, &reply, out)
}
