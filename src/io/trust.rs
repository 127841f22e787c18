//! Whom to believe at the other end of a TLS connection that we make, where that is not plainly the one whom an authority
//! vouches for by name ([`super::tls::client`]): PostgreSQL's users ask for less in two steps.
//!
//! Whoever it is must have the key of the certificate that it shows; so a login may be bound to that certificate.

use super::tls::{Failure, Files};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::path::Path;
use std::sync::Arc;

/// Takes any certificate: encrypted, and nobody knows by whom it is read.
///
/// # Errors
/// What is wrong with our own files, named by the file.
pub fn anybody(own: Option<&Files>) -> Result<Arc<ClientConfig>, Failure> {
    let provider = Arc::new(ring::default_provider());
    config(provider.clone(), Lenient { chain: None, provider }, own)
}

/// Takes a certificate that one of these authorities signed, for whatever name.
///
/// # Errors
/// What is wrong with the files, named by the file.
pub fn whoever_is_signed(authorities: &Path, own: Option<&Files>) -> Result<Arc<ClientConfig>, Failure> {
    let provider = Arc::new(ring::default_provider());
    let unusable = |cause: String| Failure::Authority { file: authorities.to_owned(), cause };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(authorities)? {
        roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
    }
    let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let chain = chain.build().map_err(|error| unusable(error.to_string()))?;
    config(provider.clone(), Lenient { chain: Some(chain), provider }, own)
}

/// What went wrong, whose fault that is, and what helps.
pub fn reason(error: &Error) -> String {
    let remedy = match error {
        // The second where an authority of the same name signed it by another key.
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "no authority that we trust signed it: give the file of the one that did (ca, or sslrootcert)"
        }
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "the host in the URL must be one that the origin's certificate names",
        Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => "the origin needs another certificate, or a clock is wrong",
        Error::InvalidCertificate(_) => "the origin needs another certificate",
        Error::AlertReceived(_) => {
            "the origin refused us: it may want a certificate of ours (certificate, key)"
        }
        Error::InvalidMessage(_) => "what answered speaks no TLS: is the port right?",
        _ => return error.to_string(),
    };
    format!("{error}; {remedy}")
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let failure = |cause| Failure::File { file: file.to_owned(), what: "certificate", cause };
    let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file).map_err(failure)?.collect();
    match all {
        Ok(all) if all.is_empty() => Err(failure(PemError::NoItemsFound)),
        all => all.map_err(failure),
    }
}

fn config(
    provider: Arc<CryptoProvider>,
    verifier: Lenient,
    own: Option<&Files>,
) -> Result<Arc<ClientConfig>, Failure> {
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let config = match own {
        None => builder.with_no_client_auth(),
        Some(Files { certificate, key }) => {
            let chain = certificates(certificate)?;
            let der = PrivateKeyDer::from_pem_file(key);
            let der = der.map_err(|cause| Failure::File { file: key.clone(), what: "private key", cause })?;
            let pair = |cause| Failure::Pair { certificate: certificate.clone(), key: key.clone(), cause };
            builder.with_client_auth_cert(chain, der).map_err(pair)?
        }
    };
    Ok(Arc::new(config))
}

/// Looks at the chain only, or at nothing but who has the key.
#[derive(Debug)]
struct Lenient {
    chain: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is looked at last, when the chain was found good.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
