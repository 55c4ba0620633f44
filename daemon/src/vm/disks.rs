//! Disks: as a definition has them, and opened for a machine.

use std::{fmt, path::PathBuf, sync::Arc};

use vmm::{
    devices::virtio::{
        block::{Backing, BlockConfig, DiskError, Engine, Format, Policies, open_disk},
        rate::RateLimit,
    },
    machine::VirtioConfig,
};

use super::{CreateError, Definition, nets};
use crate::access::Beneath;

/// A disk of a definition.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    /// Its image.
    pub path: PathBuf,
    /// Whether the guest may only read it.
    pub read_only: bool,
    /// Its serial number.
    pub serial: String,
    /// What is done about errors.
    pub policies: Policies,
    /// What the image is.
    pub format: Format,
    /// How its I/O is done.
    pub engine: Engine,
    /// How many queues it has; 0 is one.
    pub queues: u16,
    /// How fast it may be.
    pub rate_limit: RateLimit,
}

type Open = dyn Fn(&Disk) -> Result<Arc<dyn Backing>, DiskError> + Send + Sync;

/// How a daemon opens disks: as what they are said to be, unless a test has it otherwise.
#[derive(Clone)]
pub struct OpenDisk(Arc<Open>);

impl OpenDisk {
    /// Opens disks by `open`, which may block.
    pub fn new(
        open: impl Fn(&Disk) -> Result<Arc<dyn Backing>, DiskError> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(open))
    }

    /// Opens a disk for a machine. Blocks.
    pub fn device(&self, paths: &Beneath, disk: &Disk) -> Result<VirtioConfig, DiskError> {
        let place = paths.find(&disk.path)?;
        let found = Disk {
            path: place.path().to_owned(),
            ..disk.clone()
        };
        Ok(VirtioConfig::Block(BlockConfig {
            backing: (self.0)(&found)?,
            serial: disk.serial.clone(),
            policies: disk.policies,
            rate_limit: disk.rate_limit,
            queues: disk.queues,
            engine: disk.engine,
        }))
    }
}

impl Default for OpenDisk {
    fn default() -> Self {
        Self::new(|disk| {
            disk.engine.check()?;
            open_disk(&disk.path, disk.read_only, disk.format)
        })
    }
}

impl fmt::Debug for OpenDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpenDisk")
    }
}

/// The virtio devices of a machine: its disks, which are opened here, its network cards, then the others. Blocks.
pub(super) fn devices(
    open: &OpenDisk,
    paths: &Beneath,
    definition: &Definition,
) -> Result<Vec<VirtioConfig>, CreateError> {
    let open = |(index, disk): (usize, &Disk)| {
        open.device(paths, disk)
            .map_err(|source| CreateError::Disk {
                index,
                path: disk.path.clone(),
                source,
            })
    };
    let disks = definition.disks.iter().enumerate().map(open);
    let rng = definition.rng.then_some(Ok(VirtioConfig::Rng));
    let disks: Vec<_> = disks.collect::<Result<_, CreateError>>()?;
    let nets = nets::devices(paths, definition)?.into_iter().map(Ok);
    let balloon = definition.balloon.clone();
    let balloon = balloon.map(VirtioConfig::Balloon).map(Ok);
    let disks = disks.into_iter().map(Ok);
    disks.chain(nets).chain(rng).chain(balloon).collect()
}
