//! Certificates and keys from PEM files, made into what rustls wants, with every mistake named by its file.
//!
//! The provider of ciphers is `ring`: it builds with a C compiler alone, and uses what the CPU has for AES.

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use x509_cert::der::Decode;
use x509_cert::der::oid::ObjectIdentifier;

/// Object identifier of the common name in the name of a subject.
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// Where an end's own certificate is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The certificate, and behind it those that lead to its root.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// What a server asks of clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    /// Nothing.
    Unasked,
    /// A certificate of one of these authorities, from those that have one.
    Welcome(PathBuf),
    /// A certificate of one of these authorities; without one the handshake fails.
    Demanded(PathBuf),
}

/// Versions of TLS that are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Versions {
    /// 1.2 and 1.3.
    #[default]
    Both,
    /// 1.2 only.
    Only12,
    /// 1.3 only.
    Only13,
}

impl Versions {
    fn list(self) -> &'static [&'static SupportedProtocolVersion] {
        static ALL: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];
        match self {
            Versions::Both => &ALL,
            Versions::Only12 => &ALL[..1],
            Versions::Only13 => &ALL[1..],
        }
    }
}

/// Why files do not make a configuration.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Not there, not ours to read, no PEM, or nothing of the kind in it.
    #[error("{}: {}", file.display(), reason(cause, what))]
    File {
        /// Which.
        file: PathBuf,
        /// What was looked for in it.
        what: &'static str,
        /// What came of it.
        cause: PemError,
    },
    /// Each by itself may be right.
    #[error("the certificate of {} and the key of {} do not work together: {cause}", certificate.display(), key.display())]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's.
        key: PathBuf,
        /// What rustls says.
        cause: rustls::Error,
    },
    /// A certificate of an authority that cannot be one.
    #[error("{}: no certificate of an authority that can be used: {cause}", file.display())]
    Authority {
        /// Which.
        file: PathBuf,
        /// What rustls says.
        cause: String,
    },
    /// The system gave no random bytes, or versions and ciphers do not meet.
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
}

fn reason(cause: &PemError, what: &str) -> String {
    match cause {
        PemError::Io(error) => format!("cannot be read: {error}"),
        PemError::NoItemsFound => format!("holds no {what} in PEM form (-----BEGIN ...)"),
        other => format!("is no PEM file: {other}"),
    }
}

/// What connections to a server begin with.
///
/// # Errors
/// What is wrong with the files, named by the file.
pub fn server(
    files: &Files,
    clients: &ClientCertificates,
    versions: Versions,
) -> Result<Arc<ServerConfig>, Failure> {
    let (chain, key) = read(files)?;
    let provider = provider();
    let builder =
        ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions.list())?;
    let verifier = |file: &Path| {
        let roots = Arc::new(authorities(file)?);
        Ok::<_, Failure>((
            WebPkiClientVerifier::builder_with_provider(roots, provider.clone()),
            file.to_owned(),
        ))
    };
    let unusable = |file: PathBuf| {
        move |error: rustls::server::VerifierBuilderError| Failure::Authority {
            file,
            cause: error.to_string(),
        }
    };
    let builder = match clients {
        ClientCertificates::Unasked => builder.with_no_client_auth(),
        ClientCertificates::Welcome(file) => {
            let (verifier, file) = verifier(file)?;
            builder
                .with_client_cert_verifier(verifier.allow_unauthenticated().build().map_err(unusable(file))?)
        }
        ClientCertificates::Demanded(file) => {
            let (verifier, file) = verifier(file)?;
            builder.with_client_cert_verifier(verifier.build().map_err(unusable(file))?)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|cause| pair(files, cause))?;
    // Clients that come again prove who they are by a ticket only this configuration can read: cores share no table of
    // sessions, and a reload with other authorities voids all tickets.
    config.ticketer = ring::Ticketer::new()?;
    config.send_tls13_tickets = 1;
    // Ours comes first: see `provider`.
    config.ignore_client_order = true;
    // For our own records behind the handshake ([`super::records`]).
    config.enable_secret_extraction = true;
    Ok(Arc::new(config))
}

/// What connections to another server begin with: whom to trust, and our own certificate where that is asked for.
///
/// # Errors
/// What is wrong with the files, named by the file.
pub fn client(roots: &Path, own: Option<&Files>) -> Result<Arc<ClientConfig>, Failure> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(Versions::Both.list())?
        .with_root_certificates(authorities(roots)?);
    let config = match own {
        None => builder.with_no_client_auth(),
        Some(files) => {
            let (chain, key) = read(files)?;
            builder.with_client_auth_cert(chain, key).map_err(|cause| pair(files, cause))?
        }
    };
    Ok(Arc::new(config))
}

/// The common name of a certificate's subject, the first if there are several.
pub fn common_name(certificate: &[u8]) -> Option<Vec<u8>> {
    let certificate = x509_cert::Certificate::from_der(certificate).ok()?;
    let names = certificate.tbs_certificate.subject.0.iter().flat_map(|set| set.0.iter());
    let name = names.into_iter().find(|name| name.oid == COMMON_NAME)?;
    Some(name.value.value().to_vec())
}

/// The ciphers of `ring`, those with AES-128 first: that is enough for anybody (it is the one that TLS 1.3 demands), and a quarter
/// cheaper than AES-256, which most clients name first.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = ring::default_provider();
    provider.cipher_suites.sort_by_key(|suite| {
        use CipherSuite::{
            TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            TLS13_AES_128_GCM_SHA256,
        };
        !matches!(
            suite.suite(),
            TLS13_AES_128_GCM_SHA256
                | TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                | TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        )
    });
    Arc::new(provider)
}

fn pair(files: &Files, cause: rustls::Error) -> Failure {
    Failure::Pair { certificate: files.certificate.clone(), key: files.key.clone(), cause }
}

fn read(files: &Files) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Failure> {
    let chain = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|cause| Failure::File {
        file: files.key.clone(),
        what: "private key",
        cause,
    })?;
    Ok((chain, key))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let failure = |cause| Failure::File { file: file.to_owned(), what: "certificate", cause };
    let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file).map_err(failure)?.collect();
    match all {
        Ok(all) if all.is_empty() => Err(failure(PemError::NoItemsFound)),
        all => all.map_err(failure),
    }
}

fn authorities(file: &Path) -> Result<RootCertStore, Failure> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots
            .add(certificate)
            .map_err(|error| Failure::Authority { file: file.to_owned(), cause: error.to_string() })?;
    }
    Ok(roots)
}
