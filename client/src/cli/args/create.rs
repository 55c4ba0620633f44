//! What a machine is made of, as `create` and `run` take it.

use clap::{Args as Group, ValueHint};

use super::super::{
    balloon, console_port, disk, net, restart,
    settings::{self, Setting},
    values, vsock,
};
use super::{CpuShare, Labels};
use crate::v1::{
    BalloonDevice, ConsolePort, CpuModel, CpuPin, Disk, Net, RestartPolicy, VirtioTransport,
    VmDefinition, Vsock,
};

/// The actions, for the help of each command that takes them.
macro_rules! actions_help {
    ($rest:literal) => {
        concat!(
            "\
Actions (the first value is the default):
  reboot    reset, shutdown
  shutdown  poweroff, pause
  panic     shutdown, pause, exit-failure, none
  watchdog  reset, shutdown, poweroff, pause, debug, none, inject-nmi

Disks (a comma in a path is written twice) are raw images, unless format=qcow2 is given. The backing
files of a qcow2 image must be in its directory, or below. They have policies for read errors, rerror, and write errors, werror:
  report    tell the guest (the default of rerror)
  ignore    tell the guest that all went well
  enospc    as stop if the host has no space left, else as report (the default of werror)
  stop      stop the machine, in state io-error; cont tries the request again
With queues=N, up to the number of vCPUs, the requests of several are served side by side.
Their I/O goes by io_uring where the host has it and the image is raw (aio=auto), else on threads;
aio=io-uring and aio=threads have it one way.
They have limits for bytes in a second, bps=10M, and requests in a second, iops=500, and for how much
may come at once after a rest, bps-burst=SIZE and iops-burst=N (default: a tenth of a second's).

Network cards are connected to
  tap=NAME    a tap interface of the host, with queues=N if it was made with multi_queue
  passt=PATH  the socket of a `passt --socket PATH`, which needs no privileges
with these options:
  mac=M       the card's address (default: a random one, which `-o json status` shows)
  mtu=N       tell the guest the network's MTU, in bytes
  link=down   begin without a link
  tx-bps=SIZE, tx-pps=N, rx-bps=SIZE, rx-pps=N
              limits for the bytes and packets in a second that the guest sends or receives, and for how
              much may come at once after a rest: tx-bps-burst=SIZE and so on

",
            $rest
        )
    };
}

const AFTER_CREATE: &str = actions_help!(
    "\
Examples:
  vmctl create probe
  vmctl create web --memory 1G --firmware bios.bin --serial unix:web.sock --paused
  vmctl create linux --kernel vmlinuz --initrd initrd.img --cmdline 'console=ttyS0'
  vmctl create test --action reboot=shutdown,panic=pause
  vmctl create web-1 --label env=prod,tier=front
  vmctl create data --disk data.img,werror=stop --disk tools.img,readonly --rng
  vmctl create web --kernel vmlinuz --initrd initrd.img --net tap=tap0 --net passt=/run/user/1000/passt.sock
  vmctl create agent --kernel vmlinuz --initrd initrd.img --vsock cid=3,path=agent.vsock
  vmctl create worker --restart on-failure,max=5,backoff=1s
  vmctl create smp --vcpus 2 --cpu portable --pin 0=0 --pin 1=1-3"
);

const AFTER_RUN: &str = actions_help!(
    "\
What the guest writes goes to stdout, from its first byte on; what comes on stdin goes to the guest,
which goes on after a pipe's end. On a terminal every key goes to the guest but Ctrl-].

The command ends with the machine. Ctrl-], SIGINT, SIGTERM, SIGHUP and SIGQUIT, a stdout that is
closed or fails, and the run state internal-error, which nothing but a reset leads out of, make it
quit the machine. In each case it removes the machine and says on stderr how it ended. With --keep
it neither quits nor removes it.

A reset goes on, unless --action reboot=shutdown. So does a guest that is stopped: by a command, or
by an action such as panic=pause. The command says on stderr which state it is in, and waits.

With -o json the last line on stderr is an object: name, id, reason (the cause of the end, or
`watchdog`, `failed`, `internal-error`, `removed`, `escape`, `signal`, `closed`), end (as in
`status`; null if it was not the machine that ended first), removed, exit_code. There is none if
the command fails (exit codes 1 to 3).

Exit codes:
    0  The guest shut down, or Ctrl-] was pressed
    1  The daemon said no, or the command failed
    2  The command line is wrong
    3  The daemon cannot be reached, or went away
   10  The guest panicked
   11  The watchdog ended the machine (--action watchdog=poweroff)
   12  The machine failed, or is in internal-error: KVM cannot go on with its guest
   13  It was ended from outside: by another client, or because the daemon ended
   14  The guest was reset (--action reboot=shutdown)
  129, 130, 131, 143  SIGHUP, SIGINT, SIGQUIT or SIGTERM came
  141  stdout was closed

Examples:
  vmctl run
  vmctl run --kernel vmlinuz --initrd initrd.img --cmdline 'console=ttyS0'
  vmctl run test --kernel vmlinux --action reboot=shutdown < /dev/null > test.log"
);

#[derive(Debug, Group)]
#[command(after_help = AFTER_CREATE)]
pub(in crate::cli) struct Create {
    /// The machine's name: a-z, 0-9, '-' and '.', at most 63 characters
    pub(in crate::cli) name: String,

    #[command(flatten)]
    pub(in crate::cli) machine: Machine,

    #[command(flatten)]
    pub(in crate::cli) labels: Labels,

    /// Stay in prelaunch until `cont`
    #[arg(long)]
    pub(in crate::cli) paused: bool,
}

#[derive(Debug, Group)]
#[command(after_help = AFTER_RUN)]
pub(in crate::cli) struct Run {
    /// The machine's name: a-z, 0-9, '-' and '.', at most 63 characters [default: one is made up]
    pub(in crate::cli) name: Option<String>,

    #[command(flatten)]
    pub(in crate::cli) machine: Machine,

    #[command(flatten)]
    pub(in crate::cli) labels: Labels,

    /// Leave the machine as it is when the command ends: running, or the record of one that ended
    #[arg(long)]
    pub(in crate::cli) keep: bool,
}

/// What a machine is made of.
#[derive(Debug, Group)]
pub(in crate::cli) struct Machine {
    /// Guest memory: bytes, or with K, M, G or T for binary multiples [default: 256M]
    #[arg(long, value_name = "SIZE", value_parser = crate::parse_size)]
    memory: Option<u64>,

    /// Number of vCPUs [default: 1]
    #[arg(long, value_name = "N")]
    vcpus: Option<u32>,

    /// Flat firmware image to boot [default: the built-in probe guest]
    #[arg(long, value_name = "FILE", value_parser = values::absolute_path)]
    firmware: Option<String>,

    /// Kernel to boot without firmware: a bzImage (vmlinuz) or an ELF file (vmlinux)
    #[arg(long, value_name = "FILE", value_parser = values::absolute_path, conflicts_with = "firmware")]
    kernel: Option<String>,

    /// Initial RAM disk of the kernel
    #[arg(long, value_name = "FILE", value_parser = values::absolute_path, requires = "kernel")]
    initrd: Option<String>,

    /// Command line of the kernel
    #[arg(long, value_name = "TEXT", requires = "kernel")]
    cmdline: Option<String>,

    /// What the guest is told of the host's processor: all of it, or a fixed baseline [default: host]
    #[arg(long, value_name = "MODEL", value_parser = values::cpu_model())]
    cpu: Option<CpuModel>,

    /// JSON file that masks CPUID leaves and MSRs, as Firecracker's custom CPU templates do
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, value_parser = values::absolute_path)]
    cpu_template: Option<String>,

    /// Bind a vCPU to host CPUs, such as 0=2, 0=0-3 or 1=1,3; repeatable
    #[arg(long = "pin", value_name = "VCPU=CPUS", value_parser = values::pin)]
    pins: Vec<CpuPin>,

    #[command(flatten)]
    cpu_share: CpuShare,

    /// Disk image, as PATH[,format=qcow2][,readonly][,serial=S][,rerror=P][,werror=P][,bps=SIZE]...; see below; repeatable
    #[arg(long = "disk", value_name = "PATH[,OPTION]", value_parser = disk::read)]
    disks: Vec<Disk>,

    /// Network card, as tap=NAME or passt=PATH[,mac=M][,mtu=N][,queues=N][,link=down][,tx-bps=SIZE]...; see below; repeatable
    #[arg(long = "net", value_name = "BACKEND[,OPTION]", value_parser = net::read)]
    nets: Vec<Net>,

    /// Give the guest a source of entropy
    #[arg(long)]
    rng: bool,

    /// Sockets between guest and host, with the guest's CID and the Unix socket for the daemon to create, also N:PATH; see
    /// docs/guests.md
    #[arg(long, value_name = "cid=N,path=PATH", value_parser = vsock::read)]
    vsock: Option<Vsock>,
    /// How the guest reaches its virtio devices: 16 by MMIO, or 31 on a PCI bus [default: mmio]
    #[arg(long, value_name = "TRANSPORT", value_parser = values::virtio_transport())]
    virtio_transport: Option<VirtioTransport>,

    /// Port of a virtio console: a byte stream to a Unix socket for the daemon to create, or hvc0; repeatable
    #[arg(long = "console-port", value_name = "name=NAME,path=PATH[,console]", value_parser = console_port::read)]
    console_ports: Vec<ConsolePort>,

    /// A memory balloon: on, or [size=SIZE][,stats=SECONDS][,deflate-on-oom][,free-page-reporting]; see docs/guests.md
    #[arg(long, value_name = "on|OPTIONS", value_parser = balloon::read)]
    balloon: Option<BalloonDevice>,

    /// Start it again when it has ended: never, on-failure or always, with [,max=N][,backoff=TIME][,max-backoff=TIME];
    /// after a quit it stays ended [default: never]
    #[arg(long, value_name = "MODE[,OPTION]", value_parser = restart::read)]
    restart: Option<RestartPolicy>,

    /// What to do on an event, as KEY=VALUE; see below
    #[arg(long = "action", value_name = "KEY=VALUE", value_delimiter = ',')]
    actions: Vec<Setting>,

    /// Unix socket for the daemon to create, for the first serial port
    #[arg(long, value_name = "unix:PATH", value_parser = values::serial)]
    serial: Option<String>,

    /// Unix socket for the daemon to create, for clients that speak QMP
    #[arg(long, value_name = "PATH", value_parser = values::qmp)]
    qmp: Option<String>,
}

impl Machine {
    /// As the interface has it.
    pub(in crate::cli) fn definition(self) -> VmDefinition {
        VmDefinition {
            memory_bytes: self.memory,
            vcpus: self.vcpus,
            firmware: self.firmware.unwrap_or_default(),
            actions: Some(settings::collect(&self.actions)),
            serial_socket: self.serial.unwrap_or_default(),
            qmp_socket: self.qmp.unwrap_or_default(),
            kernel: self.kernel.unwrap_or_default(),
            initrd: self.initrd.unwrap_or_default(),
            cmdline: self.cmdline.unwrap_or_default(),
            cpu_model: self.cpu.unwrap_or_default().into(),
            cpu_template: self.cpu_template.unwrap_or_default(),
            cpu_pins: self.pins,
            cpu_weight: self.cpu_share.cpu_weight,
            cpu_limit_millis: self.cpu_share.cpu_limit,
            disks: self.disks,
            rng: self.rng,
            nets: self.nets,
            vsock: self.vsock,
            balloon: self.balloon,
            console_ports: self.console_ports,
            virtio_transport: self.virtio_transport.unwrap_or_default().into(),
            restart: self.restart,
        }
    }
}
