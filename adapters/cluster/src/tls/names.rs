//! `cert-allowed-cn`: which names a client's certificate must carry (spec pump 6.3, trap T34).
//!
//! The original takes a match of the common name of *any* certificate of the chain, so that a CA whose own name is in the list lets
//! everybody in. Here only the leaf counts: its common names and its subject alternative names.

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The usual verification, then the names.
#[derive(Debug)]
pub(super) struct AllowedNames {
    inner: Arc<dyn ClientCertVerifier>,
    allowed: Vec<String>,
}

impl AllowedNames {
    pub fn new(inner: Arc<dyn ClientCertVerifier>, allowed: Vec<String>) -> Self {
        Self { inner, allowed }
    }

    fn check(&self, leaf: &CertificateDer<'_>) -> Result<(), Error> {
        let names = names(leaf).ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
        if names.iter().any(|name| self.allowed.contains(name)) {
            return Ok(());
        }
        let refusal = NotAllowed { names, allowed: self.allowed.clone() };
        Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal)))))
    }
}

impl ClientCertVerifier for AllowedNames {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(leaf, intermediates, now)?;
        self.check(leaf)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// The refusal, in the original's words.
#[derive(Debug)]
pub(super) struct NotAllowed {
    names: Vec<String>,
    allowed: Vec<String>,
}

impl fmt::Display for NotAllowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "client certificate authentication failed. The Common Name from the client certificate [{}] was not found in the \
             configuration cluster-verify-cn with value: [{}]",
            self.names.join(" "),
            self.allowed.join(" ")
        )
    }
}

impl std::error::Error for NotAllowed {}

/// Common names and alternative names; `None` for what is no certificate.
fn names(leaf: &CertificateDer<'_>) -> Option<Vec<String>> {
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    let mut names: Vec<String> = common.map(str::to_owned).collect();
    if let Some(alternative) = certificate.subject_alternative_name().ok()? {
        for name in &alternative.value.general_names {
            match name {
                GeneralName::DNSName(text) | GeneralName::URI(text) | GeneralName::RFC822Name(text) => {
                    names.push((*text).to_owned());
                }
                GeneralName::IPAddress(bytes) => names.extend(address(bytes).map(|ip| ip.to_string())),
                _ => {}
            }
        }
    }
    Some(names)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    fn certificate(common: Option<&str>, alternative: Vec<SanType>) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        if let Some(common) = common {
            params.distinguished_name.push(DnType::CommonName, common);
        }
        params.subject_alt_names = alternative;
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().into()
    }

    #[test]
    fn all_names_of_a_certificate() {
        let alternative = vec![
            SanType::DnsName("tidb.example".try_into().unwrap()),
            SanType::URI("spiffe://cluster/tidb".try_into().unwrap()),
            SanType::IpAddress("10.0.0.7".parse().unwrap()),
            SanType::IpAddress("fd00::7".parse().unwrap()),
        ];
        let got = names(&certificate(Some("binlog"), alternative)).unwrap();
        assert_eq!(got, ["binlog", "tidb.example", "spiffe://cluster/tidb", "10.0.0.7", "fd00::7"]);
        assert!(names(&certificate(None, Vec::new())).unwrap().is_empty());
        assert_eq!(names(&CertificateDer::from(vec![0x30, 0x82, 0xff])), None);
        assert_eq!(names(&CertificateDer::from(Vec::new())), None);
    }

    #[test]
    fn the_refusal_has_the_originals_words() {
        let refusal = NotAllowed { names: vec!["evil".into()], allowed: vec!["binlog".into(), "tidb".into()] };
        assert_eq!(
            refusal.to_string(),
            "client certificate authentication failed. The Common Name from the client certificate [evil] was not found in the \
             configuration cluster-verify-cn with value: [binlog tidb]"
        );
    }
}
