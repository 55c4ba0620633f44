//! The daemon's log: lines for people, or one JSON object a line, on standard error.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging at `info`, or as the environment variable `VMD_LOG` says (`debug`, `vmd=debug,vmm=trace`, ...).
pub fn start(format: Format, default_filter: &str) {
    let asked = std::env::var("VMD_LOG").unwrap_or_else(|_| default_filter.to_owned());
    // The protocol's own chatter only if it is asked for by name.
    let filter = EnvFilter::new(format!(
        "h2=info,hyper=info,hyper_util=info,tower=info,{asked}"
    ));
    let registry = tracing_subscriber::registry().with(filter);
    // Somebody else's subscriber, in a test, stays.
    let _ = match format {
        Format::Text => {
            let layer = fmt::layer().with_writer(std::io::stderr);
            let for_people = std::io::stderr().is_terminal();
            registry.with(layer.with_ansi(for_people)).try_init()
        }
        Format::Json => registry
            .with(fmt::layer().json().with_writer(std::io::stderr))
            .try_init(),
    };
}
