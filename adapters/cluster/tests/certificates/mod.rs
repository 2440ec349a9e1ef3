//! Certificates for tests: authorities, what they sign, and files of them. Also used by the end-to-end tests.
#![allow(dead_code)]

use binlog_core::config::security::{IdentityFiles, SecuritySettings};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair};
use rcgen::{KeyUsagePurpose, date_time_ymd};
use std::path::{Path, PathBuf};

/// Signs; may itself be signed by another.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// From the one that signed last to the root's child; empty for a root.
    chain: String,
}

/// A certificate with what is needed to use it, as PEM.
pub struct Leaf {
    pub cert: String,
    pub key: String,
}

fn params(common_name: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

fn ca_params(common_name: &str) -> CertificateParams {
    let mut params = params(common_name, &[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

impl Authority {
    pub fn new(common_name: &str) -> Self {
        let issuer = CertifiedIssuer::self_signed(ca_params(common_name), KeyPair::generate().unwrap()).unwrap();
        Self { issuer, chain: String::new() }
    }

    /// An intermediate authority.
    pub fn below(&self, common_name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let issuer = CertifiedIssuer::signed_by(ca_params(common_name), key, &self.issuer).unwrap();
        let chain = issuer.pem() + &self.chain;
        Self { issuer, chain }
    }

    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// For `names`: host names and IP addresses.
    pub fn leaf(&self, common_name: &str, names: &[&str]) -> Leaf {
        self.sign(params(common_name, names))
    }

    pub fn expired(&self, common_name: &str, names: &[&str]) -> Leaf {
        let mut params = params(common_name, names);
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = date_time_ymd(2020, 1, 1);
        self.sign(params)
    }

    fn sign(&self, params: CertificateParams) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        Leaf { cert: cert.pem() + &self.chain, key: key.serialize_pem() }
    }
}

/// CA, certificate and key of one node, in files that can be replaced.
pub struct NodeFiles {
    dir: PathBuf,
}

impl NodeFiles {
    pub fn new(dir: &Path, ca: &str, leaf: &Leaf) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let files = Self { dir: dir.into() };
        files.set_ca(ca);
        files.set_leaf(leaf);
        files
    }

    pub fn set_ca(&self, pem: &str) {
        std::fs::write(self.dir.join("ca.pem"), pem).unwrap();
    }

    pub fn set_leaf(&self, leaf: &Leaf) {
        self.set_cert(&leaf.cert);
        self.set_key(&leaf.key);
    }

    pub fn set_cert(&self, pem: &str) {
        std::fs::write(self.dir.join("cert.pem"), pem).unwrap();
    }

    pub fn set_key(&self, pem: &str) {
        std::fs::write(self.dir.join("key.pem"), pem).unwrap();
    }

    pub fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    pub fn settings(&self, allowed_cn: &[&str]) -> SecuritySettings {
        SecuritySettings {
            ca: self.path("ca.pem"),
            identity: Some(IdentityFiles { cert: self.path("cert.pem"), key: self.path("key.pem") }),
            allowed_cn: allowed_cn.iter().map(|n| (*n).to_owned()).collect(),
        }
    }

    /// `[security]` of a configuration file.
    pub fn toml(&self, allowed_cn: &[&str]) -> String {
        let [ca, cert, key] = ["ca.pem", "cert.pem", "key.pem"].map(|name| self.path(name));
        format!(
            "[security]\nssl-ca = {ca:?}\nssl-cert = {cert:?}\nssl-key = {key:?}\ncert-allowed-cn = {allowed_cn:?}\n"
        )
    }
}
