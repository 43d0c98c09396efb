//! TLS: which authorities are trusted, and the certificate of this side.
//!
//! A server's certificate and name are always verified; no option turns this off. A server decides
//! whether clients need certificates (`ca=`). TLS 1.2 and 1.3, with the defaults of rustls and
//! ring.

use std::{io, path::Path, sync::Arc};

use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
        server::WebPkiClientVerifier,
    },
};

use super::Tls;

/// Builds the connector to a server, and the name that the server's certificate must have. Reads
/// the files.
pub fn connector(tls: &Tls) -> io::Result<(TlsConnector, ServerName<'static>)> {
    let name = tls.name.as_ref().unwrap_or(&tls.host).clone();
    let name = ServerName::try_from(name).map_err(io::Error::other)?;
    let roots = match &tls.ca {
        Some(file) => authorities(file)?,
        None => system_authorities()?,
    };
    let config = ClientConfig::builder().with_root_certificates(roots);
    let config = match &tls.own {
        Some((certificate, key)) => config
            .with_client_auth_cert(certificates(certificate)?, private_key(key)?)
            .map_err(io::Error::other)?,
        None => config.with_no_client_auth(),
    };
    Ok((TlsConnector::from(Arc::new(config)), name))
}

/// Builds the acceptor of clients. Reads the files.
pub fn acceptor(tls: &Tls) -> io::Result<TlsAcceptor> {
    let Some((certificate, key)) = &tls.own else {
        return Err(io::Error::other(
            "a server needs a certificate; add `,cert=FILE,key=FILE`",
        ));
    };
    let config = match &tls.ca {
        Some(ca) => {
            let clients = WebPkiClientVerifier::builder(Arc::new(authorities(ca)?))
                .build()
                .map_err(io::Error::other)?;
            ServerConfig::builder().with_client_cert_verifier(clients)
        }
        None => ServerConfig::builder().with_no_client_auth(),
    };
    let config = config
        .with_single_cert(certificates(certificate)?, private_key(key)?)
        .map_err(io::Error::other)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn authorities(file: &Path) -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots
            .add(certificate)
            .map_err(|error| about(file, &error))?;
    }
    Ok(roots)
}

/// Returns the system's authorities, or those that `SSL_CERT_FILE` and `SSL_CERT_DIR` name.
fn system_authorities() -> io::Result<RootCertStore> {
    let loaded = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(loaded.certs);
    if roots.is_empty() {
        let errors = loaded.errors.iter().map(|error| format!("; {error}"));
        let errors: String = errors.collect();
        return Err(io::Error::other(format!(
            "this system has no certificates of authorities; name a file with `,ca=FILE`{errors}"
        )));
    }
    Ok(roots)
}

/// Reads the certificates in a file; there must be at least one.
fn certificates(file: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file)
        .map_err(|error| about(file, &error))?
        .collect();
    let certificates = certificates.map_err(|error| about(file, &error))?;
    if certificates.is_empty() {
        return Err(about(file, &"it holds no certificate in PEM"));
    }
    Ok(certificates)
}

fn private_key(file: &Path) -> io::Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_file(file).map_err(|error| about(file, &error))
}

fn about(file: &Path, problem: &impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("{}: {problem}", file.display()))
}
