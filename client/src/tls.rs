//! What a client proves itself with, and whom it believes, over TLS: PEM files in, rustls's configuration out.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use thiserror::Error;
use tokio_rustls::rustls::{
    self, ClientConfig, RootCertStore,
    crypto::ring::default_provider,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    version::TLS13,
};

/// The files of a client over TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authorities whose certificates the daemon may have.
    pub ca: PathBuf,
    /// The client's certificate, and those between it and the authority that the daemon trusts.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Why TLS cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TlsError {
    /// Nothing says which files to use.
    #[error(
        "https:// needs the files of a CA, a certificate and its key (vmctl: --tls-ca, --tls-cert, --tls-key)"
    )]
    NoFiles,
    /// A file cannot be read, or holds something else.
    #[error("{}: {source}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: pem::Error,
    },
    /// There is no certificate in a file.
    #[error("{}: there is no certificate in it", .0.display())]
    Empty(PathBuf),
    /// A certificate or key cannot be used.
    #[error("{}: {source}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
}

impl TlsFiles {
    /// Reads them. Blocks.
    pub(crate) fn load(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let unusable = |path: &Path, source| TlsError::Unusable {
            path: path.to_owned(),
            source,
        };
        let mut authorities = RootCertStore::empty();
        for authority in certificates(&self.ca)? {
            authorities
                .add(authority)
                .map_err(|error| unusable(&self.ca, error))?;
        }
        let chain = certificates(&self.cert)?;
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|source| TlsError::Pem {
            path: self.key.clone(),
            source,
        })?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| unusable(&self.ca, error))?
            .with_root_certificates(authorities)
            .with_client_auth_cert(chain, key)
            .map_err(|error| unusable(&self.cert, error))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |source| TlsError::Pem {
        path: path.to_owned(),
        source,
    };
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(failed)?
        .collect::<Result<_, _>>()
        .map_err(failed)?;
    if certificates.is_empty() {
        return Err(TlsError::Empty(path.to_owned()));
    }
    Ok(certificates)
}
