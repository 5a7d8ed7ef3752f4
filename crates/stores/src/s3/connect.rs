//! The HTTP client of a bucket: the authorities that are trusted, and the proxy on the way.

use crate::s3::{S3OpenError, config::S3Config};
use aws_sdk_s3::config::{RuntimeComponents, SharedHttpClient};
use aws_smithy_http_client::{Builder, Connector, proxy::ProxyConfig, tls};
use rna_backup_base::access::explained;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use std::error::Error;

/// The client of a bucket.
///
/// # Errors
///
/// When `AWS_CA_BUNDLE` cannot be read or holds no certificate.
pub(super) fn http_client(config: &S3Config) -> Result<SharedHttpClient, S3OpenError> {
    let mut trusted = tls::TrustStore::default();
    if let Some(path) = &config.ca_bundle {
        let fail = |source| S3OpenError { path: path.clone(), source };
        let pem = std::fs::read(path).map_err(|err| fail(explained(path, err).into()))?;
        // The SDK panics on certificates that it cannot read.
        check_certificates(&pem).map_err(fail)?;
        trusted = trusted.with_pem_certificate(pem);
    }
    let context = tls::TlsContext::builder().with_trust_store(trusted).build();
    let context = context.expect("a trust store is all it needs");
    let provider = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
    Ok(Builder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = Connector::builder();
        connector.set_connector_settings(settings.cloned());
        connector.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
        // `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, as Amazon's own tools read them.
        let connector = connector.proxy_config(ProxyConfig::from_env());
        connector.tls_provider(provider.clone()).tls_context(context.clone()).build()
    }))
}

fn check_certificates(pem: &[u8]) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate.map_err(|err| err.to_string())?)?;
    }
    if roots.is_empty() { Err("it holds no certificate".into()) } else { Ok(()) }
}
