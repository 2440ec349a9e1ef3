//! TLS with peers (spec pump 6.3, spec drainer 8.6): one set of files for everything that a process listens on or dials.
//!
//! Keeps true: the files are read again for every handshake, on both sides, so that certificate, key and CA are replaced
//! without a restart; new files that do not fit together (a rotation writes them one by one) keep the old material, with one
//! warning. Client certificates are asked for only when names are allowed, and then the leaf must carry one of them (trap T34).
//! Server certificates are verified against the CA and the host that was dialled; their names need not be in the list (the
//! original asks that of etcd and Drainers: docs/compatibility.md).
//!
//! [`Security`] is made once by the process's main and handed to [`crate::server`] and to every client of this crate.

pub mod accept;
pub(crate) mod dial;
mod names;

use binlog_core::config::security::{IdentityFiles, SecuritySettings};
use names::AllowedNames;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::fs::File;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use thiserror::Error;

/// How a process talks to its peers. Cheap to clone; clones share the material.
#[derive(Clone, Default)]
pub struct Security {
    material: Option<Arc<Material>>,
}

/// Why the material cannot be used. Texts begin with the key and have the original's wording.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TlsError {
    #[error("security.ssl-ca: could not read ca certificate: {path}: {why}")]
    ReadCa { path: String, why: String },
    #[error("security.ssl-ca: failed to append ca certs: {path}: {why}")]
    AppendCa { path: String, why: String },
    #[error("{key}: could not load client key pair: {path}: {why}")]
    KeyPair { key: &'static str, path: String, why: String },
}

/// A PEM file of certificates has some kilobytes; a bundle of all public roots 250.
const MAX_FILE: u64 = 4 << 20;
const SSL_CERT: &str = "security.ssl-cert";
const SSL_KEY: &str = "security.ssl-key";

impl Security {
    /// No TLS.
    #[must_use]
    pub const fn plaintext() -> Self {
        Self { material: None }
    }

    /// Reads the files; `None` is plaintext.
    ///
    /// # Errors
    /// Names the key and the file that cannot be used.
    pub fn load(settings: Option<&SecuritySettings>) -> Result<Self, TlsError> {
        let Some(settings) = settings else { return Ok(Self::plaintext()) };
        let files = Files::read(settings)?;
        let configs = files.configs(settings)?;
        let current = Mutex::new(Current { files, configs, complaint: None });
        Ok(Self { material: Some(Arc::new(Material { settings: settings.clone(), current })) })
    }

    #[must_use]
    pub const fn is_tls(&self) -> bool {
        self.material.is_some()
    }

    /// `https` or `http`.
    pub(crate) const fn scheme(&self) -> &'static str {
        if self.is_tls() { "https" } else { "http" }
    }

    /// What the files hold now; `None` without TLS. Reads files: off the async threads.
    async fn configs(&self) -> Option<Configs> {
        let material = Arc::clone(self.material.as_ref()?);
        let old = material.current().configs.clone();
        // A runtime that is shutting down refuses: then the old material will do.
        Some(tokio::task::spawn_blocking(move || material.refresh()).await.unwrap_or(old))
    }
}

impl std::fmt::Debug for Security {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Security").field("settings", &self.material.as_ref().map(|m| &m.settings)).finish()
    }
}

struct Material {
    settings: SecuritySettings,
    current: Mutex<Current>,
}

struct Current {
    files: Files,
    configs: Configs,
    /// What was said last about new files that cannot be used: once for each text.
    complaint: Option<String>,
}

#[derive(Clone)]
struct Configs {
    client: Arc<ClientConfig>,
    /// `None` without a certificate: only a client.
    server: Option<Arc<ServerConfig>>,
}

impl Material {
    fn current(&self) -> std::sync::MutexGuard<'_, Current> {
        // Fields are replaced one by one, each complete: a panic elsewhere leaves nothing half done.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the files again, under the lock so that an older reading cannot replace a newer one.
    fn refresh(&self) -> Configs {
        let mut current = self.current();
        let read = Files::read(&self.settings);
        if read.as_ref().is_ok_and(|files| *files == current.files) {
            current.complaint = None;
            return current.configs.clone();
        }
        match read.and_then(|files| files.configs(&self.settings).map(|configs| (files, configs))) {
            Ok((files, configs)) => {
                tracing::info!("TLS: certificate, key or CA were replaced; new connections use them");
                *current = Current { files, configs, complaint: None };
            }
            Err(error) => {
                let text = error.to_string();
                if current.complaint.as_ref() != Some(&text) {
                    tracing::warn!("TLS: the new files cannot be used, the old ones stay in use: {text}");
                    current.complaint = Some(text);
                }
            }
        }
        current.configs.clone()
    }
}

/// What the files hold, as bytes: compared to see a change.
#[derive(PartialEq, Eq)]
struct Files {
    ca: Vec<u8>,
    /// Certificate chain and key.
    identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl Files {
    fn read(settings: &SecuritySettings) -> Result<Self, TlsError> {
        let ca =
            read(&settings.ca).map_err(|why| TlsError::ReadCa { path: settings.ca.clone(), why: why.to_string() })?;
        let part = |key: &'static str, path: &String| {
            read(path).map_err(|why| TlsError::KeyPair { key, path: path.clone(), why: why.to_string() })
        };
        let identity = match &settings.identity {
            Some(IdentityFiles { cert, key }) => Some((part(SSL_CERT, cert)?, part(SSL_KEY, key)?)),
            None => None,
        };
        Ok(Self { ca, identity })
    }

    fn configs(&self, settings: &SecuritySettings) -> Result<Configs, TlsError> {
        let roots = Arc::new(self.roots(&settings.ca)?);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let identity = self.identity(settings)?;
        let unfit = |why: rustls::Error| TlsError::KeyPair {
            key: SSL_CERT,
            path: settings.identity.as_ref().map(|files| format!("{}, {}", files.cert, files.key)).unwrap_or_default(),
            why: why.to_string(),
        };

        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(unfit)?
            .with_root_certificates(Arc::clone(&roots));
        let mut client = match &identity {
            Some((chain, key)) => builder.with_client_auth_cert(chain.clone(), key.clone_key()).map_err(unfit)?,
            None => builder.with_no_client_auth(),
        };
        client.alpn_protocols = vec![b"h2".to_vec()];
        // Each connection is verified anew: connections are few and long, and a CA that was replaced must count at once.
        client.resumption = Resumption::disabled();

        let server = match identity {
            Some((chain, key)) => {
                let mut server =
                    server_builder(provider, roots, settings)?.with_single_cert(chain, key).map_err(unfit)?;
                server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
                server.session_storage = Arc::new(NoServerSessionStorage {});
                server.send_tls13_tickets = 0;
                Some(Arc::new(server))
            }
            None => None,
        };
        Ok(Configs { client: Arc::new(client), server })
    }

    fn roots(&self, path: &str) -> Result<RootCertStore, TlsError> {
        let wrong = |why: String| TlsError::AppendCa { path: path.to_owned(), why };
        let certificates: Vec<_> =
            CertificateDer::pem_slice_iter(&self.ca).collect::<Result<_, _>>().map_err(|e| wrong(e.to_string()))?;
        let mut roots = RootCertStore::empty();
        let (added, ignored) = roots.add_parsable_certificates(certificates);
        if added == 0 {
            return Err(wrong("no usable certificate in it".to_owned()));
        }
        if ignored > 0 {
            tracing::warn!("TLS: {ignored} certificates of {path} cannot be used as roots");
        }
        Ok(roots)
    }

    #[allow(clippy::type_complexity)]
    fn identity(
        &self,
        settings: &SecuritySettings,
    ) -> Result<Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>, TlsError> {
        let (Some((cert, key)), Some(files)) = (&self.identity, &settings.identity) else { return Ok(None) };
        let wrong = |key, path: &str, why: String| TlsError::KeyPair { key, path: path.to_owned(), why };
        let chain: Vec<_> = CertificateDer::pem_slice_iter(cert)
            .collect::<Result<_, _>>()
            .map_err(|e| wrong(SSL_CERT, &files.cert, e.to_string()))?;
        if chain.is_empty() {
            return Err(wrong(SSL_CERT, &files.cert, "no certificate in it".to_owned()));
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| wrong(SSL_KEY, &files.key, e.to_string()))?;
        Ok(Some((chain, key)))
    }
}

fn server_builder(
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    settings: &SecuritySettings,
) -> Result<rustls::ConfigBuilder<ServerConfig, rustls::server::WantsServerCert>, TlsError> {
    let wrong = |why: String| TlsError::AppendCa { path: settings.ca.clone(), why };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| wrong(e.to_string()))?;
    if settings.allowed_cn.is_empty() {
        return Ok(builder.with_no_client_auth());
    }
    let inner =
        WebPkiClientVerifier::builder_with_provider(roots, provider).build().map_err(|e| wrong(e.to_string()))?;
    Ok(builder.with_client_cert_verifier(Arc::new(AllowedNames::new(inner, settings.allowed_cn.clone()))))
}

fn read(path: &str) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(std::io::Error::other(format!("it is larger than {MAX_FILE} bytes")));
    }
    Ok(bytes)
}
