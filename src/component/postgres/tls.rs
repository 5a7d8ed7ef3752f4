//! TLS to the server with libpq's meanings of `sslmode`, on rustls.

use crate::component::ComponentError;
use crate::component::postgres::config::{PostgresConfig, SslMode};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// The files in which systems keep the certificates that they trust; `sslrootcert=system` means the first there is.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The file of trusted certificates, for our connection and for `pg_dump` alike.
///
/// # Errors
///
/// [`ComponentError::Unusable`] when the mode needs one and none is set, or `system` has none.
pub fn root_certificates(config: &PostgresConfig) -> Result<Option<PathBuf>, ComponentError> {
    let unusable = |what: String| ComponentError::Unusable { what, source: None };
    match &config.sslrootcert {
        Some(file) if file == Path::new("system") => {
            let found = SYSTEM_ROOTS.iter().map(Path::new).find(|file| file.is_file());
            found.map(|file| Some(file.to_owned())).ok_or_else(|| {
                unusable("find the certificates of the system: install ca-certificates".into())
            })
        }
        None if matches!(config.sslmode, SslMode::VerifyCa | SslMode::VerifyFull) => Err(unusable(format!(
            "sslmode {} needs root certificates: set POSTGRES_SSLROOTCERT to a file, or to system",
            config.sslmode.as_str()
        ))),
        set => Ok(set.clone()),
    }
}

/// The configuration of rustls for `mode`.
///
/// # Errors
///
/// [`ComponentError::Unusable`] when the certificates cannot be read.
pub fn client_config(mode: SslMode, roots: Option<&Path>) -> Result<ClientConfig, ComponentError> {
    let provider = Arc::new(ring::default_provider());
    let chain = match (mode, roots) {
        (SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull, Some(file)) => {
            Some(Chain::read(file, &provider)?)
        }
        _ => None,
    };
    let verifier =
        Arc::new(Verifier { chain, name: mode == SslMode::VerifyFull, provider: provider.clone() });
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has the suites of TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth())
}

/// Checks who signed a certificate.
#[derive(Debug)]
struct Chain {
    trusted: Vec<CertificateDer<'static>>,
    signed: Arc<WebPkiServerVerifier>,
}

impl Chain {
    fn read(file: &Path, provider: &Arc<CryptoProvider>) -> Result<Self, ComponentError> {
        let unusable = |source: Box<dyn std::error::Error + Send + Sync>| ComponentError::Unusable {
            what: format!("read root certificates in {}", file.display()),
            source: Some(source),
        };
        let certificates = CertificateDer::pem_file_iter(file).map_err(|err| unusable(err.into()))?;
        let trusted = certificates.collect::<Result<Vec<_>, _>>().map_err(|err| unusable(err.into()))?;
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(trusted.iter().cloned());
        let signed = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .build()
            .map_err(|err| unusable(err.into()))?;
        Ok(Self { trusted, signed })
    }
}

/// Checks as much of a server's certificate as the mode asks for.
///
/// Without a check of the signer, the proof that the server holds the key is not asked for either: then certificates of
/// version 1, as the old recipes make them, can still be used. A certificate that is checked must be of version 3 and name
/// its hosts as alternative names.
#[derive(Debug)]
struct Verifier {
    /// Checks who signed it; none: anybody may have.
    chain: Option<Chain>,
    /// True if the certificate must be for the host.
    name: bool,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        if chain.trusted.iter().any(|trusted| trusted == end_entity) {
            // A self-signed certificate that is its own root: libpq takes it, webpki would not.
            if self.name {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            }
            return Ok(ServerCertVerified::assertion());
        }
        match chain.signed.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is looked at last, after the chain was found good.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.name => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if self.chain.is_none() {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if self.chain.is_none() {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
