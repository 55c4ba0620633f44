//! Where the daemon is, and how it is talked to.

use std::path::PathBuf;

use clap::{Args as Group, ValueHint};

use crate::{Endpoint, EndpointError, TlsFiles};

/// What every command that calls the daemon needs; completions do, too.
#[derive(Debug, Group)]
pub(in crate::cli) struct Connection {
    /// Where the daemon is: unix:PATH, http://HOST:PORT (loopback) or https://HOST:PORT
    #[arg(
        long,
        global = true,
        value_name = "URI",
        env = "VMD_SERVER",
        hide_env_values = true
    )]
    server: Option<Endpoint>,
    /// For https://: the certificates of the authorities that are believed, a PEM file
    #[arg(long, global = true, value_name = "FILE", env = "VMD_TLS_CA", hide_env = true, value_hint = ValueHint::FilePath)]
    tls_ca: Option<PathBuf>,
    /// For https://: this client's certificate
    #[arg(long, global = true, value_name = "FILE", env = "VMD_TLS_CERT", hide_env = true, value_hint = ValueHint::FilePath)]
    tls_cert: Option<PathBuf>,
    /// For https://: its private key
    #[arg(long, global = true, value_name = "FILE", env = "VMD_TLS_KEY", hide_env = true, value_hint = ValueHint::FilePath)]
    tls_key: Option<PathBuf>,
}

impl Connection {
    /// The address that was named, or the user's default.
    pub(in crate::cli) fn endpoint(&self) -> Result<Endpoint, EndpointError> {
        match &self.server {
            Some(endpoint) => Ok(endpoint.clone()),
            None => Endpoint::default_for_user(),
        }
    }

    /// The files of TLS, if all three were named.
    pub(in crate::cli) fn tls(&self) -> Option<TlsFiles> {
        Some(TlsFiles {
            ca: self.tls_ca.clone()?,
            cert: self.tls_cert.clone()?,
            key: self.tls_key.clone()?,
        })
    }
}
