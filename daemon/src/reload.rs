//! SIGHUP: the configuration is read again, and what can change without a restart does.

use std::sync::Arc;

use tracing::{error, info, warn};

use crate::{
    Daemon,
    access::{Access, AccessError},
    config::{Config, ConfigError, Source},
    limits::Limits,
    logging::LogFilter,
};

/// What can be reloaded in a daemon that runs.
pub struct Reload {
    source: Source,
    /// What is in force, as far as it can be reloaded; the rest is what the daemon was started with.
    config: Config,
    access: Arc<Access>,
    limits: Arc<Limits>,
    log: LogFilter,
}

/// Why nothing was reloaded.
#[derive(Debug, thiserror::Error)]
enum ReloadError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error("log.filter: {0}")]
    Log(String),
}

impl Reload {
    /// Of a daemon that was started with `config`, which `source` said.
    pub(crate) fn new(source: Source, config: Config, daemon: &Daemon, log: LogFilter) -> Self {
        Self {
            source,
            config,
            access: daemon.access.clone(),
            limits: daemon.limits.clone(),
            log,
        }
    }

    /// Reads it again. Anything wrong leaves all as it was. Blocks.
    pub fn now(&mut self) {
        let file = self.source.file.clone().unwrap_or_default();
        let file = file.display();
        match self.load() {
            Ok(changed) => info!(%file, changed = changed.join(", "), "configuration reloaded"),
            Err(error) => error!(%file, %error, "configuration not reloaded: all stays as it was"),
        }
    }

    /// Puts in force what has changed, and names that.
    fn load(&mut self) -> Result<Vec<&'static str>, ReloadError> {
        let mut new = self.source.load()?;
        let needs_restart = self.config.needs_restart(&new);
        self.config.keep_confined(&mut new);
        let access = Access::new(&new)?;
        // The last that can fail.
        self.log.set(&new.log_filter).map_err(ReloadError::Log)?;
        self.access.replace(access);
        self.limits.set(new.limits.clone());
        if !needs_restart.is_empty() {
            warn!(
                sections = needs_restart.join(", "),
                "changed, but needs a restart of the daemon"
            );
        }
        Ok(self.config.take_reloaded(new))
    }
}
