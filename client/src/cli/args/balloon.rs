//! `vmctl balloon`: how much memory a guest has.

use clap::Args as Group;

#[derive(Debug, Group)]
#[command(after_help = "\
As with QEMU, SIZE is the memory that the guest is to have: it gives the rest back to the host, in its
own time. Without SIZE the command shows what the guest has, what it was asked for and, with -o json,
what it says of its memory.

Examples:
  vmctl balloon web
  vmctl balloon web 512M && vmctl events web --follow")]
pub(in crate::cli) struct Balloon {
    /// The machine's name
    pub(in crate::cli) name: String,

    /// Memory that the guest is to have: bytes, or with K, M, G or T for binary multiples
    #[arg(value_parser = crate::parse_size)]
    pub(in crate::cli) size: Option<u64>,
}
