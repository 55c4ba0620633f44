//! How much a machine gets of the host's processors.

use clap::Args as Group;

use super::super::values;

/// Of a new machine.
#[derive(Debug, Group)]
pub(in crate::cli) struct CpuShare {
    /// How much the vCPUs get of the host's processors beside those of others: 1 to 10000 [default: 100]
    #[arg(long, value_name = "N")]
    pub(in crate::cli) cpu_weight: Option<u32>,

    /// How much they get at most, in host CPUs, such as 0.5 or 2 [default: no limit]
    #[arg(long, value_name = "CPUS", value_parser = values::cpus)]
    pub(in crate::cli) cpu_limit: Option<u32>,
}

#[derive(Debug, Group)]
#[command(after_help = "\
The daemon must be in a cgroup of its own with the controller cpu, as in its systemd unit.

Examples:
  vmctl cpu batch --weight 20
  vmctl cpu batch --limit 0.5
  vmctl cpu batch --no-limit")]
pub(in crate::cli) struct Cpu {
    /// The machine's name
    pub(in crate::cli) name: String,

    /// How much its vCPUs get beside those of others when all want some: 1 to 10000; a new machine has 100
    #[arg(long, value_name = "N", required_unless_present_any = ["limit", "no_limit"])]
    pub(in crate::cli) weight: Option<u32>,

    /// How much they get at most, in host CPUs, such as 0.5 or 2
    #[arg(long, value_name = "CPUS", value_parser = values::cpus)]
    pub(in crate::cli) limit: Option<u32>,

    /// Take the limit away
    #[arg(long, conflicts_with = "limit")]
    pub(in crate::cli) no_limit: bool,
}
