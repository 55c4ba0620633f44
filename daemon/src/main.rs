//! `vmd`: hosts KVM virtual machines.
#![forbid(unsafe_code)]

use std::{
    error::Error,
    future,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{CommandFactory, Parser, Subcommand};
use tokio::sync::oneshot;
use vmctl::Endpoint;
use vmd::{
    allocator,
    config::{Config, DEFAULT_FILE, LogFormat, Overrides, Source, parse_metrics},
    containment::Containment,
    demo,
    logging::{self, LogFilter},
    server::{self, ServeError, Signals},
    store::parse_age,
    systemd::{Manager, Sockets},
};

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
  GLIBC_TUNABLES  how the C library deals with memory; unless it is set, vmd sets it so that memory of machines that have
              gone goes back to the host
  As systemd sets them: NOTIFY_SOCKET and WATCHDOG_USEC (the service manager is told of start, reload, end and machines,
  and that the daemon is alive); LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES (sockets to listen on, instead of --listen)

Exit status: 0 ended as asked, 1 failed, 2 wrong usage.";

#[derive(Subcommand)]
enum Command {
    /// Run the daemon until SIGTERM or SIGINT, of which a second one cuts --grace short; SIGHUP reloads its configuration
    /// file, or ends it if it has none.
    Serve(Serve),
    /// Look at a configuration file.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Run the demonstration: a daemon of its own, a guest, and each of its lifecycle events.
    Demo,
    /// Write manual pages into a directory.
    #[command(hide = true)]
    Man {
        /// The directory; it is made if need be.
        directory: PathBuf,
    },
}

#[derive(clap::Args)]
struct Serve {
    /// The configuration file; what is given here as well wins over it. Default: for root /etc/vmd/vmd.toml, if it is
    /// there; else none.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
}

// What wins over the configuration file.
#[derive(clap::Args)]
struct Options {
    /// Where to listen: unix:PATH, http://HOST:PORT on a loopback address, or https://HOST:PORT. May be given several
    /// times. Default: unix:$XDG_RUNTIME_DIR/vmd/vmd.sock, for root unix:/run/vmd/vmd.sock.
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "VMD_LISTEN",
        value_delimiter = ','
    )]
    listen: Vec<Endpoint>,
    /// Where to serve metrics for Prometheus, at /metrics: unix:PATH, or http://HOST:PORT on a loopback address. Whoever can
    /// connect there can read them. Default: nowhere.
    #[arg(long, value_name = "ADDRESS", value_parser = parse_metrics)]
    metrics: Option<Endpoint>,
    /// The daemon's own directory, where machines and events are kept; made if need be, and locked against a second daemon.
    /// Default: none, everything is in memory.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// How many events to keep for clients that come back. Default: 65536.
    #[arg(long, value_name = "N")]
    events_kept: Option<usize>,
    /// Forget events that are older, such as 36h or 7d; only with --data-dir. Default: they are kept at any age.
    #[arg(long, value_name = "TIME", requires = "data_dir", value_parser = parse_age)]
    events_max_age: Option<Duration>,
    /// When the daemon is ended, press the guests' power buttons and give them this long before they are ended. Default: 0.
    #[arg(long, value_name = "SECONDS")]
    grace: Option<u64>,
    /// Press them again and again within that time, so long after the last press; 0: press them once. Default: 5.
    #[arg(long, value_name = "SECONDS")]
    grace_press_interval: Option<u64>,
    /// How log lines look. Default: text.
    #[arg(long, value_enum)]
    log_format: Option<LogFormat>,
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Check a configuration file: says OK, or what is wrong with file, line and key.
    Check {
        /// The file. Default: /etc/vmd/vmd.toml
        file: Option<PathBuf>,
    },
    /// Show what `vmd serve` would run with, after the file, defaults and options: a configuration file with every section
    /// and key.
    #[command(
        after_help = "Example:\n  vmd config show vmd.toml --grace 30 > all.toml && vmd config check all.toml"
    )]
    Show {
        /// The file. Default: for root /etc/vmd/vmd.toml, if it is there; else none
        file: Option<PathBuf>,
        #[command(flatten)]
        options: Options,
    },
}

impl Options {
    /// Where the configuration of a daemon comes from that reads this file and listens on these sockets.
    fn source(self, file: Option<PathBuf>, sockets: &Sockets) -> Source {
        let arguments = self;
        Source {
            file: Source::file_for_user(file),
            overrides: Overrides {
                given: sockets.endpoints(),
                listen: arguments.listen,
                data_dir: arguments.data_dir,
                metrics: arguments.metrics,
                events_kept: arguments.events_kept,
                events_max_age: arguments.events_max_age,
                grace: arguments.grace.map(Duration::from_secs),
                grace_press_interval: arguments.grace_press_interval.map(Duration::from_secs),
                log_format: arguments.log_format,
                log_filter: std::env::var("VMD_LOG").ok(),
            },
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Command::Serve(_) = cli.command {
        allocator::tune();
    }
    // While there is but one thread.
    let sockets = match Sockets::from_env() {
        Ok(sockets) => sockets,
        Err(error) => return failed(&error),
    };
    let result = match cli.command {
        Command::Serve(Serve { config, options }) => {
            serve(options.source(config, &sockets), sockets).map_err(|error| failed(&error))
        }
        Command::Config(ConfigCommand::Show { file, options }) => {
            show(&options.source(file, &sockets)).map_err(|error| failed(&*error))
        }
        Command::Config(ConfigCommand::Check { file }) => {
            check(file).map_err(|error| failed(&error))
        }
        Command::Demo => demo::run().map_err(|error| failed(&error)),
        Command::Man { directory } => vmctl::man::write(Cli::command(), &directory)
            .map(drop)
            .map_err(|error| failed(&error)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(code) => code,
    }
}

fn serve(source: Source, sockets: Sockets) -> Result<(), ServeError> {
    let mut config = source.load()?;
    let log = logging::start(config.log_format, &config.log_filter);
    let containment = Containment::enter(&config, source.file.as_deref())?;
    let runtimes = containment.runtimes()?;
    config.confined = runtimes.confined();
    let served = serve_confined(source, config, sockets, log, &containment);
    runtimes.main.block_on(served)
}

async fn serve_confined(
    source: Source,
    config: Config,
    sockets: Sockets,
    log: LogFilter,
    containment: &Containment,
) -> Result<(), ServeError> {
    let grace = config.grace;
    let mut signals = Signals::new()?;
    let bound = server::bind_given(config.clone(), sockets).await?;
    containment.started()?;
    let mut reload = source
        .file
        .is_some()
        .then(|| bound.reload(source, config, log));
    let mut manager = Manager::default();
    let daemon = bound.daemon().clone();
    let (end, ended) = oneshot::channel::<()>();
    let follow = async {
        manager.ready(daemon.clone());
        signals.end(reload.as_mut(), &manager).await;
        manager.stopping(grace);
        drop(end);
        signals.again().await;
        daemon.hurry();
        future::pending().await
    };
    tokio::select! {
        // First, so that it serves when that is told.
        biased;
        served = bound.serve(async { drop(ended.await) }) => served,
        never = follow => never,
    }
}

fn check(file: Option<PathBuf>) -> Result<(), ServeError> {
    let file = file.unwrap_or_else(|| DEFAULT_FILE.into());
    let source = Source {
        file: Some(file.clone()),
        ..Source::default()
    };
    source.load()?.check_files()?;
    println!("{}: OK", file.display());
    Ok(())
}

fn show(source: &Source) -> Result<(), Box<dyn Error>> {
    let text = source.load()?.to_toml()?;
    Ok(io::stdout().write_all(text.as_bytes())?)
}

fn failed(error: &dyn Error) -> ExitCode {
    eprintln!("vmd: {error}");
    ExitCode::FAILURE
}
