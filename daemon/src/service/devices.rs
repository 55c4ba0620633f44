//! Devices that are added to a live machine: checked, and opened before the machine hears of them.

use tokio::task::spawn_blocking;
use tonic::Status as Refusal;
use vmd_proto::v1::device_add_request::Device;
use vmm::machine::VirtioConfig;

use super::{
    disks::disk,
    errors::{disk_unusable, internal, invalid_field, net_unusable},
    nets::net,
};
use crate::{
    Daemon,
    access::{Beneath, Reach},
    vm::VmHandle,
};

/// Opens what was asked for, for the machine `vm`. What it is made with is closed with it.
pub(super) async fn open(
    daemon: &Daemon,
    reach: Reach,
    vm: &VmHandle,
    device: Option<Device>,
) -> Result<VirtioConfig, Refusal> {
    let paths = Beneath::new(reach, daemon.access.policy().roots().clone());
    // Opening a file takes as long as it takes.
    let opened = match device {
        Some(Device::Disk(asked)) => {
            let disk = disk("disk", asked, vm.spec().definition.vcpus)?;
            let open = daemon.open_disk.clone();
            spawn_blocking(move || {
                open.device(&paths, &disk).map_err(|error| {
                    let path = disk.path.display();
                    disk_unusable("disk.path", &error, &format!("{path}: {error}"))
                })
            })
        }
        Some(Device::Net(asked)) => {
            let net = net("net", asked)?;
            spawn_blocking(move || {
                net.device(&paths)
                    .map_err(|error| net_unusable("net", &error))
            })
        }
        None => {
            let problem = "say what is to be added: give `disk` or `net`";
            return Err(invalid_field("device", problem));
        }
    };
    opened
        .await
        .map_err(|error| internal(&vm.record.name, &error.to_string()))?
}
