//! The daemon's log: lines for people, or one JSON object a line, on standard error.

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
    let filter =
        EnvFilter::try_from_env("VMD_LOG").unwrap_or_else(|_| EnvFilter::new(default_filter));
    let registry = tracing_subscriber::registry().with(filter);
    // Somebody else's subscriber, in a test, stays.
    let _ = match format {
        Format::Text => registry
            .with(fmt::layer().with_writer(std::io::stderr))
            .try_init(),
        Format::Json => registry
            .with(fmt::layer().json().with_writer(std::io::stderr))
            .try_init(),
    };
}
