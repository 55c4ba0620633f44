//! Network cards: as a definition has them, and opened for a machine.

use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;
use vmm::{
    devices::virtio::net::{Backend, Limits, NetConfig, Passt, Tap, TapError},
    machine::VirtioConfig,
};

use super::{CreateError, Definition};
use crate::access::Beneath;

/// A network card of a definition.
#[derive(Clone, Debug)]
pub struct Net {
    /// What it is connected to.
    pub backend: NetBackend,
    /// Its address.
    pub mac: [u8; 6],
    /// What the guest is told of the network's MTU.
    pub mtu: Option<u16>,
    /// Pairs of queues.
    pub queues: u16,
    /// Whether its link is down at first.
    pub link_down: bool,
    /// How fast the guest may receive and send.
    pub limits: Limits,
}

/// What a network card is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetBackend {
    /// The tap interface of this name.
    Tap(String),
    /// The passt that listens on this socket.
    Passt(PathBuf),
}

/// Why a network card cannot be connected.
#[derive(Debug, Error)]
pub enum NetError {
    /// Its tap interface cannot be used.
    #[error("{name}: {source}")]
    Tap {
        /// The interface.
        name: String,
        /// What is wrong.
        source: TapError,
    },
    /// There is no passt.
    #[error("{}: {source}; start one first, as in `passt --socket {}`", path.display(), path.display())]
    Passt {
        /// Where it should listen.
        path: PathBuf,
        /// What is wrong.
        source: std::io::Error,
    },
}

impl Net {
    /// Connects it for a machine. Blocks.
    pub fn device(&self, paths: &Beneath) -> Result<VirtioConfig, NetError> {
        Ok(VirtioConfig::Net(NetConfig {
            backend: self.open(paths)?,
            mac: self.mac,
            mtu: self.mtu,
            link_down: self.link_down,
            limits: self.limits,
        }))
    }

    /// Connects it. Blocks.
    fn open(&self, paths: &Beneath) -> Result<Arc<dyn Backend>, NetError> {
        match &self.backend {
            NetBackend::Tap(name) => match Tap::open(name, self.queues) {
                Ok(tap) => Ok(Arc::new(tap)),
                Err(source) => Err(NetError::Tap {
                    name: name.clone(),
                    source,
                }),
            },
            NetBackend::Passt(path) => match Passt::found_by(paths.resolve(), path) {
                Ok(passt) => Ok(Arc::new(passt)),
                Err(source) => Err(NetError::Passt {
                    path: path.clone(),
                    source,
                }),
            },
        }
    }
}

/// The network cards of a machine, which are connected here. Blocks.
pub(super) fn devices(
    paths: &Beneath,
    definition: &Definition,
) -> Result<Vec<VirtioConfig>, CreateError> {
    let open = |(index, net): (usize, &Net)| {
        net.device(paths)
            .map_err(|source| CreateError::Net { index, source })
    };
    definition.nets.iter().enumerate().map(open).collect()
}
