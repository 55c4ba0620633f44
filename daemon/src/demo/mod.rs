//! The demonstration: a daemon of its own, a client, a guest, and everything that can happen to it, checked.
//!
//! ```text
//!   script (what is done, what must come of it) --> vmctl::Client --> Unix socket --> server --> guest
//!      ^                                                                                 |
//!      +---- events, console, status: each compared with the script, and shown <---------+
//! ```

mod play;
mod script;

use std::io;

use thiserror::Error;
use tokio::sync::oneshot;
use vmctl::{Client, Endpoint, EndpointError};

use crate::{
    config::LogFormat,
    containment::Containment,
    logging,
    server::{self, Config, ServeError},
};

/// Why the demonstration did not go as it must.
#[derive(Debug, Error)]
pub enum DemoError {
    /// The daemon could not be started, or did not end well.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// Its directory or its output.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Its socket's path.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// A call failed.
    #[error("{step}: {source}")]
    Call {
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        source: Box<vmctl::Error>,
    },
    /// Something else happened than must.
    #[error("{step}: expected {expected}, got {got}")]
    Differs {
        /// What was being done.
        step: &'static str,
        /// What must come of it.
        expected: String,
        /// What came.
        got: String,
    },
    /// The daemon's task ended early.
    #[error("the daemon is gone")]
    Gone,
}

/// Runs the demonstration; fails if anything differs from what the run-state rules say.
///
/// To be called by the first thread of a process, while there is no other: it is confined as a daemon's.
pub fn run() -> Result<(), DemoError> {
    // One story at a time: the daemon's log only if VMD_LOG asks for it.
    let filter = std::env::var("VMD_LOG").unwrap_or_else(|_| "off".to_owned());
    logging::start(LogFormat::Text, &filter);
    let directory = tempfile::tempdir()?;
    let endpoint = Endpoint::unix(directory.path().join("vmd.sock"))?;
    let mut config = Config {
        listen: vec![endpoint.clone().into()],
        ..Config::default()
    };
    let containment = Containment::enter(&config, None).map_err(ServeError::from)?;
    let runtimes = containment.runtimes().map_err(ServeError::from)?;
    config.confined = runtimes.confined();
    runtimes
        .main
        .block_on(drive(config, &endpoint, &containment))
}

async fn drive(
    config: Config,
    endpoint: &Endpoint,
    containment: &Containment,
) -> Result<(), DemoError> {
    let (end, ended) = oneshot::channel::<()>();
    let bound = server::bind(config).await?;
    containment.started().map_err(ServeError::from)?;
    let daemon = tokio::spawn(bound.serve(async { drop(ended.await) }));

    let connect = |source| DemoError::Call {
        step: "connect",
        source: Box::new(source),
    };
    let client = Client::connect(endpoint).await.map_err(connect)?;
    let played = play::play(&client, script::STEPS).await;
    drop((client, end));
    let served = daemon.await.map_err(|_| DemoError::Gone)?;
    played?;
    Ok(served?)
}
