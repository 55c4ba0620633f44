//! The daemon's certificates, and whose it takes.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use thiserror::Error;
use tokio_rustls::rustls::{
    self, RootCertStore, ServerConfig,
    crypto::ring::default_provider,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::{VerifierBuilderError, WebPkiClientVerifier},
    version::TLS13,
};

use crate::config::Tls;

/// Why the certificates cannot be used.
#[derive(Debug, Error)]
pub enum TlsError {
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
    /// An authority's certificate cannot be used.
    #[error("{}: {source}", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
    /// The authorities cannot be used.
    #[error("the certificates of clients' authorities: {0}")]
    Verifier(#[from] VerifierBuilderError),
    /// Certificate and key cannot be used.
    #[error("{} with {}: {source}", certificate.display(), key.display())]
    Identity {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's.
        key: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
}

/// Reads what `files` names: TLS 1.3, and a client must have a certificate. Blocks.
pub(super) fn load(files: &Tls) -> Result<Arc<ServerConfig>, TlsError> {
    let Tls {
        certificate,
        key,
        client_ca,
    } = files;
    let provider = Arc::new(default_provider());
    let mut authorities = RootCertStore::empty();
    for authority in certificates(client_ca)? {
        authorities
            .add(authority)
            .map_err(|source| TlsError::Authority {
                path: client_ca.clone(),
                source,
            })?;
    }
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider.clone())
            .build()?;
    let chain = certificates(certificate)?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|source| TlsError::Pem {
        path: key.clone(),
        source,
    })?;
    let identity = |source| TlsError::Identity {
        certificate: certificate.clone(),
        key: key.clone(),
        source,
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(identity)?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, private)
        .map_err(identity)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A session that is resumed would not be asked for its certificate again.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
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
