//! The daemon's log: lines for people, or one JSON object a line, on standard error.

use std::io::IsTerminal;

use tracing_subscriber::{
    EnvFilter, Registry, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

use crate::config::LogFormat;

/// What is logged by a log that was started; it can be changed.
pub struct LogFilter(reload::Handle<EnvFilter, Registry>);

impl LogFilter {
    /// Logs what `filter` says from now on (`debug`, `vmd=debug,vmm=trace`, ...).
    pub fn set(&self, filter: &str) -> Result<(), String> {
        let filter = parse(filter)?;
        self.0.reload(filter).map_err(|error| error.to_string())
    }
}

/// Starts logging what `filter` says. What is wrong in it does not count.
pub fn start(format: LogFormat, filter: &str) -> LogFilter {
    let (filter, handle) = reload::Layer::new(EnvFilter::new(with_quiet(filter)));
    let registry = tracing_subscriber::registry().with(filter);
    // Somebody else's subscriber, in a test, stays.
    let _ = match format {
        LogFormat::Text => {
            let layer = fmt::layer().with_writer(std::io::stderr);
            let for_people = std::io::stderr().is_terminal();
            registry.with(layer.with_ansi(for_people)).try_init()
        }
        LogFormat::Json => registry
            .with(fmt::layer().json().with_writer(std::io::stderr))
            .try_init(),
    };
    LogFilter(handle)
}

/// Whether `filter` can be understood.
pub fn check(filter: &str) -> Result<(), String> {
    parse(filter).map(drop)
}

fn parse(filter: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(with_quiet(filter)).map_err(|error| error.to_string())
}

/// The protocol's own chatter only if it is asked for by name.
fn with_quiet(filter: &str) -> String {
    format!("h2=info,hyper=info,hyper_util=info,tower=info,{filter}")
}
