//! `vmctl net ...`: the network cards of a live machine.

use clap::{Args as Group, Subcommand, ValueEnum};

use super::super::net;
use crate::v1;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Net {
    /// Take the link of a network card up or down, and tell the guest
    Link(SetLink),
    /// Add a network card, and tell the guest
    Add(AddNet),
    /// Ask the guest to give a network card back
    Remove(RemoveNet),
}

#[derive(Debug, Group)]
#[command(after_help = "\
The machine needs a PCI bus (create --virtio-transport pci), and its guest to know hot-plug through
ACPI. The card is there until it is removed or the machine ends; `start` builds the machine without
it.

Example:
  vmctl net add web tap=tap1,mtu=9000")]
pub(in crate::cli) struct AddNet {
    /// The machine's name
    pub(in crate::cli) name: String,

    /// What it is connected to, with its options, as for `create --net`
    #[arg(value_name = "tap=NAME|passt=PATH[,OPTION]", value_parser = net::read)]
    pub(in crate::cli) net: v1::Net,
}

#[derive(Debug, Group)]
#[command(after_help = "\
The card is gone when the guest has let go of it: the event DEVICE_DELETED tells of that. If the guest
does not, a reset of the machine takes the card away.

Example:
  vmctl net remove web n1")]
pub(in crate::cli) struct RemoveNet {
    /// The machine's name
    pub(in crate::cli) name: String,

    /// The network card: n0 is the first
    pub(in crate::cli) net: String,
}

#[derive(Debug, Group)]
#[command(after_help = "\
Without a link frames are dropped, both ways. A machine that is started again has the links it was
created with.

Example:
  vmctl net link web n0 down")]
pub(in crate::cli) struct SetLink {
    /// The machine's name
    pub(in crate::cli) name: String,

    /// The network card: n0 is the first
    pub(in crate::cli) net: String,

    /// What its link is to be
    pub(in crate::cli) link: Link,
}

/// A link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Link {
    // No help texts: see `Format`.
    Up,
    Down,
}
