//! `vmd`: hosts KVM virtual machines.
#![forbid(unsafe_code)]

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand, ValueEnum};
use vmctl::Endpoint;
use vmd::{
    demo,
    event_log::DEFAULT_CAPACITY,
    logging::{self, Format},
    server::{self, Config, ServeError, Signals},
};

/// How long a thread that built or closed a machine waits for another. Two hundred created at once leave as many threads,
/// each with its stack.
const HELPERS_KEPT: Duration = Duration::from_secs(1);

/// Hosts many KVM virtual machines in one process, each with QEMU's run states.
#[derive(Parser)]
#[command(name = "vmd", version, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Machines are driven with vmctl, or by any gRPC client (service vmd.v1.VmService, reflection is on).

Environment:
  VMD_LISTEN  where to listen, unless --listen says so; several separated by commas
  VMD_LOG     what to log, as in `VMD_LOG=debug` or `VMD_LOG=info,vmm=trace`

Exit status: 0 ended as asked, 1 failed, 2 wrong usage.";

#[derive(Subcommand)]
enum Command {
    /// Run the daemon until SIGTERM, SIGINT or SIGHUP.
    Serve(Serve),
    /// Run the demonstration: a daemon of its own, a guest, and each of its lifecycle events.
    Demo,
}

#[derive(clap::Args)]
struct Serve {
    /// Where to listen: unix:PATH, or http://HOST:PORT on a loopback address. May be given several times. Default:
    /// unix:$XDG_RUNTIME_DIR/vmd/vmd.sock, for root unix:/run/vmd/vmd.sock.
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "VMD_LISTEN",
        value_delimiter = ','
    )]
    listen: Vec<Endpoint>,
    /// The daemon's own directory; made if need be, and locked against a second daemon. Default: none is used.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// How many events to keep for clients that come back.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_CAPACITY)]
    events_kept: usize,
    /// When the daemon is ended, press the guests' power buttons and give them this long before they are ended.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    grace: u64,
    /// How log lines look.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_keep_alive(HELPERS_KEPT)
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let result = match cli.command {
        Command::Serve(arguments) => runtime.block_on(serve(arguments)).map_err(|e| failed(&e)),
        Command::Demo => runtime
            .block_on(demo::run())
            .map_err(|error| failed(&error)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(code) => code,
    }
}

async fn serve(arguments: Serve) -> Result<(), ServeError> {
    let format = match arguments.log_format {
        LogFormat::Text => Format::Text,
        LogFormat::Json => Format::Json,
    };
    logging::start(format, "info");
    let mut signals = Signals::new()?;
    let listen = if arguments.listen.is_empty() {
        vec![Endpoint::default_for_user()?]
    } else {
        arguments.listen
    };
    let config = Config {
        listen,
        data_dir: arguments.data_dir,
        events_kept: arguments.events_kept,
        grace: Duration::from_secs(arguments.grace),
    };
    server::bind(config).await?.serve(signals.received()).await
}

fn failed(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("vmd: {error}");
    ExitCode::FAILURE
}
