//! The daemon's log: lines for people, or one JSON object a line, on standard error.

mod vcpu;

use std::io::IsTerminal;

use tracing::info_span;
use tracing_subscriber::{
    EnvFilter, Registry, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

use self::vcpu::OfVcpus;
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
            let layer = layer.with_ansi(std::io::stderr().is_terminal());
            let put_in = vcpu::into_text;
            let layer = layer.map_event_format(|format| OfVcpus { format, put_in });
            registry.with(layer).try_init()
        }
        LogFormat::Json => {
            let layer = fmt::layer().json().with_writer(std::io::stderr);
            let put_in = vcpu::into_json;
            let layer = layer.map_event_format(|format| OfVcpus { format, put_in });
            registry.with(layer).try_init()
        }
    };
    LogFilter(handle)
}

/// Spans that a thread begins at the same time, as a rule at most.
const SPANS: usize = 64;

/// Begins and ends as many spans as this thread may need. The registry keeps the memory of each for the next one: so it is in
/// one place, and not spread over all that comes and goes with machines.
pub(crate) fn prepare_spans() {
    let spans: Vec<_> = (0..SPANS).map(|_| info_span!("none")).collect();
    drop(spans);
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
