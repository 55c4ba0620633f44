//! `vmctl disk ...`: the disks of a live machine.

use clap::{Args as Group, Subcommand};

use super::super::disk;
use crate::v1;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Disk {
    /// Change the size of a disk, and tell the guest
    Resize(ResizeDisk),
    /// Add a disk, and tell the guest
    Add(AddDisk),
    /// Ask the guest to give a disk back
    Remove(RemoveDisk),
}

#[derive(Debug, Group)]
#[command(after_help = "\
The machine needs a PCI bus (create --virtio-transport pci), and its guest to know hot-plug through
ACPI. The disk is there until it is removed or the machine ends; `start` builds the machine without
it.

Examples:
  vmctl disk add web data.img
  vmctl disk add web tools.img,readonly,serial=tools")]
pub(in crate::cli) struct AddDisk {
    /// The machine's name
    pub(in crate::cli) name: String,

    /// The disk's image with its options, as for `create --disk`
    #[arg(value_name = "PATH[,OPTION]", value_parser = disk::read)]
    pub(in crate::cli) disk: v1::Disk,
}

#[derive(Debug, Group)]
#[command(after_help = "\
The disk is gone, and its image free, when the guest has let go of it: the event DEVICE_DELETED tells
of that. If the guest does not, a reset of the machine takes the disk away.

Example:
  vmctl disk remove web d1")]
pub(in crate::cli) struct RemoveDisk {
    /// The machine's name
    pub(in crate::cli) name: String,

    /// The disk: d0 is the first
    pub(in crate::cli) disk: String,
}

#[derive(Debug, Group)]
#[command(after_help = "\
An image in a file is made longer or, with --shrink, cut off. A block device is made longer by other
means first. Without SIZE the disk becomes as long as its file or block device is now.

Examples:
  vmctl disk resize web d0 20G
  lvextend -L 20G vg/web && vmctl disk resize web d0")]
pub(in crate::cli) struct ResizeDisk {
    /// The machine's name
    pub(in crate::cli) name: String,

    /// The disk: d0 is the first
    pub(in crate::cli) disk: String,

    /// Its new size: bytes, or with K, M, G or T for binary multiples [default: its image's size]
    #[arg(value_parser = crate::parse_size)]
    pub(in crate::cli) size: Option<u64>,

    /// Let it become smaller; what is beyond the new size is lost
    #[arg(long)]
    pub(in crate::cli) shrink: bool,
}
