//! The files of TLS.

use std::path::PathBuf;

use clap::{Args as Group, ValueHint};

use crate::TlsFiles;

/// For an https:// address; all three or none.
#[derive(Debug, Group)]
pub(in crate::cli) struct Tls {
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

impl Tls {
    /// The files, if all were named.
    pub(in crate::cli) fn files(&self) -> Option<TlsFiles> {
        Some(TlsFiles {
            ca: self.tls_ca.clone()?,
            cert: self.tls_cert.clone()?,
            key: self.tls_key.clone()?,
        })
    }
}
