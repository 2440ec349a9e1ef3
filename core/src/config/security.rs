//! `[security]`: TLS of a process with its peers; `[syncer.to.security]`: of a Drainer with its downstream; and `socket` (spec
//! pump 6.2, 6.3; spec drainer 8.6).
//!
//! Decides whether TLS is on (iff `ssl-ca` is set) and what must be set with it; the files are read by `binlog_cluster::tls`, and
//! those for the downstream by the MySQL client.

use super::settings::{ConfigError, Settings};
use serde_json::Value;

const CA: &str = "security.ssl-ca";
const CERT: &str = "security.ssl-cert";
const KEY: &str = "security.ssl-key";
const ALLOWED_CN: &str = "security.cert-allowed-cn";
const TO_CA: &str = "syncer.to.security.ssl-ca";
const TO_CERT: &str = "syncer.to.security.ssl-cert";
const TO_KEY: &str = "syncer.to.security.ssl-key";
const TO_ALLOWED_CN: &str = "syncer.to.security.cert-allowed-cn";

/// TLS with every peer on both sides, or with the downstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecuritySettings {
    /// PEM file with the roots that servers and clients are verified against.
    pub ca: String,
    /// PEM files of our own certificate (with intermediates) and its private key. `None`: we can only be a client.
    pub identity: Option<IdentityFiles>,
    /// Names that a client's certificate may carry, trimmed. Empty: clients need no certificate.
    pub allowed_cn: Vec<String>,
}

/// Where our own certificate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityFiles {
    pub cert: String,
    pub key: String,
}

impl SecuritySettings {
    /// `None`: no TLS. For a process that listens: with TLS it must have a certificate.
    ///
    /// # Errors
    /// One of the pair `ssl-cert`, `ssl-key` missing while `ssl-ca` is set; an empty name in `cert-allowed-cn`.
    pub fn from_settings(s: &Settings) -> Result<Option<Self>, ConfigError> {
        let Some(ca) = s.non_empty(CA) else { return Ok(None) };
        let file = |key: &str| {
            s.non_empty(key).map(str::to_owned).ok_or_else(|| {
                let what =
                    format!("{key} is not set: with {CA} set this process listens with TLS and needs {CERT} and {KEY}");
                ConfigError::Other(what)
            })
        };
        Ok(Some(Self {
            ca: ca.to_owned(),
            identity: Some(IdentityFiles { cert: file(CERT)?, key: file(KEY)? }),
            allowed_cn: allowed_cn(s)?,
        }))
    }

    /// `[syncer.to.security]`: we are a client only, so the certificate is optional. `None`: no TLS with the downstream;
    /// `[security]` says nothing about it.
    ///
    /// # Errors
    /// One of the pair `ssl-cert`, `ssl-key` without the other; a list of names: the downstream's certificate is verified
    /// against the CA and `syncer.to.host`, and to pass over a narrower wish in silence would be worse than a refusal.
    pub fn of_downstream(s: &Settings) -> Result<Option<Self>, ConfigError> {
        let Some(ca) = s.non_empty(TO_CA) else { return Ok(None) };
        let lone = |set, missing| ConfigError::Other(format!("{missing} is not set: it belongs to {set}"));
        let identity = match (s.non_empty(TO_CERT), s.non_empty(TO_KEY)) {
            (Some(cert), Some(key)) => Some(IdentityFiles { cert: cert.to_owned(), key: key.to_owned() }),
            (None, None) => None,
            (Some(_), None) => return Err(lone(TO_CERT, TO_KEY)),
            (None, Some(_)) => return Err(lone(TO_KEY, TO_CERT)),
        };
        if has_items(s, TO_ALLOWED_CN) {
            let what = "not supported: the downstream's certificate is verified against ssl-ca and must be for syncer.to.host, \
                        its name is not compared with a list; remove this key";
            return Err(s.wrong(TO_ALLOWED_CN, what));
        }
        Ok(Some(Self { ca: ca.to_owned(), identity, allowed_cn: Vec::new() }))
    }

    /// Keys that are set but, as in the original, mean nothing because the `ssl-ca` beside them is not. A warning at start:
    /// whoever set them expects TLS.
    #[must_use]
    pub fn ignored(s: &Settings) -> Vec<&'static str> {
        let set = |key: &&str| s.non_empty(key).is_some() || has_items(s, key);
        let without = |ca, others: [&'static str; 3]| others.into_iter().filter(move |_| s.non_empty(ca).is_none());
        let own = without(CA, [CERT, KEY, ALLOWED_CN]);
        own.chain(without(TO_CA, [TO_CERT, TO_KEY, TO_ALLOWED_CN])).filter(set).collect()
    }
}

fn has_items(s: &Settings, key: &str) -> bool {
    s.get(key).and_then(Value::as_array).is_some_and(|list| !list.is_empty())
}

fn allowed_cn(s: &Settings) -> Result<Vec<String>, ConfigError> {
    let list = s.get(ALLOWED_CN).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    // An empty name is no typo to pass over: a list of nothing else would let everybody in.
    let names = list.iter().map(|v| v.as_str().map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned));
    names.collect::<Option<_>>().ok_or_else(|| s.wrong(ALLOWED_CN, "an empty name in the list; remove it"))
}

/// The path of `socket`: `unix:///path`, or the path itself (the original listened on the URL's host: trap T31).
///
/// # Errors
/// A text without a path, a URL with a host, another scheme, a path that is too long for a socket.
pub fn parse_socket(text: &str) -> Result<String, String> {
    let text = text.trim();
    let path = match text.split_once("://") {
        Some(("unix", path)) if path.starts_with('/') => path,
        Some(("unix", _)) => {
            return Err(format!("bad Socket addr format: {text:?} names a host; write unix:///path/of/the/socket"));
        }
        Some((scheme, _)) => {
            return Err(format!("bad Socket addr format: scheme {scheme:?}; write unix:///path/of/the/socket"));
        }
        None => text,
    };
    if !path.contains('/') || path.ends_with('/') || path.contains('\0') {
        return Err(format!("bad Socket addr format: {text:?} is no path; write unix:///path/of/the/socket"));
    }
    if path.len() > MAX_SOCKET_PATH {
        return Err(format!("bad Socket addr format: {text:?} is longer than {MAX_SOCKET_PATH} bytes"));
    }
    Ok(path.to_owned())
}

/// What fits into a `sockaddr_un` with its closing zero on Linux.
const MAX_SOCKET_PATH: usize = 107;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::pump::KEYS;
    use serde_json::json;

    fn parse(file: &Value) -> Result<Option<SecuritySettings>, String> {
        let mut s = Settings::default();
        s.set_file(KEYS, "pump", "p.toml", file).map_err(|e| e.to_string())?;
        SecuritySettings::from_settings(&s).map_err(|e| e.to_string())
    }

    #[test]
    fn tls_is_on_iff_there_is_a_ca() {
        assert_eq!(parse(&json!({})), Ok(None));
        let nothing = json!({"security": {"ssl-ca": "", "ssl-cert": "", "ssl-key": "", "cert-allowed-cn": []}});
        assert_eq!(parse(&nothing), Ok(None));
        let without_ca = json!({"security": {"ssl-cert": "c", "ssl-key": "k", "cert-allowed-cn": ["x"]}});
        assert_eq!(parse(&without_ca), Ok(None));
        let all =
            json!({"security": {"ssl-ca": "a", "ssl-cert": "c", "ssl-key": "k", "cert-allowed-cn": [" x", "y "]}});
        let want = SecuritySettings {
            ca: "a".into(),
            identity: Some(IdentityFiles { cert: "c".into(), key: "k".into() }),
            allowed_cn: vec!["x".into(), "y".into()],
        };
        assert_eq!(parse(&all), Ok(Some(want)));
    }

    #[test]
    fn what_is_missing_is_named() {
        for (security, key) in [
            (json!({"ssl-ca": "a"}), "security.ssl-cert is not set"),
            (json!({"ssl-ca": "a", "ssl-key": "k"}), "security.ssl-cert is not set"),
            (json!({"ssl-ca": "a", "ssl-cert": "c"}), "security.ssl-key is not set"),
            (
                json!({"ssl-ca": "a", "ssl-cert": "c", "ssl-key": "k", "cert-allowed-cn": [" "]}),
                "security.cert-allowed-cn (configuration file): an empty name",
            ),
            (json!({"ssl-ca": 1}), "security.ssl-ca (configuration file): 1 is not a text"),
            (json!({"cert-allowed-cn": "x"}), "security.cert-allowed-cn (configuration file)"),
        ] {
            let error = parse(&json!({"security": security})).unwrap_err();
            assert!(error.starts_with(key), "{error}");
        }
    }

    #[test]
    fn keys_without_a_ca_are_told() {
        let ignored = |file: &Value| {
            let mut s = Settings::default();
            s.set_file(KEYS, "pump", "p.toml", file).unwrap();
            SecuritySettings::ignored(&s)
        };
        assert!(ignored(&json!({"security": {"ssl-cert": "", "cert-allowed-cn": []}})).is_empty());
        assert_eq!(ignored(&json!({"security": {"ssl-key": "k", "cert-allowed-cn": ["x"]}})), [KEY, ALLOWED_CN]);
        assert!(ignored(&json!({"security": {"ssl-ca": "a", "ssl-key": "k"}})).is_empty());
    }

    #[test]
    fn sockets() {
        let long = format!("/{}", "x".repeat(107));
        for (text, want) in [
            ("unix:///run/pump.sock", Some("/run/pump.sock")),
            (" /run/pump.sock ", Some("/run/pump.sock")),
            ("./pump.sock", Some("./pump.sock")),
            ("pump.sock", None),
            ("unix://run/pump.sock", None),
            ("unix://pump.sock", None),
            ("tcp:///run/pump.sock", None),
            ("http://127.0.0.1:8250", None),
            ("/run/", None),
            ("unix:///", None),
            (long.as_str(), None),
            (&long[..107], Some(&long[..107])),
        ] {
            match (parse_socket(text), want) {
                (Ok(got), Some(want)) => assert_eq!(got, want),
                (Err(e), None) => assert!(e.starts_with("bad Socket addr format"), "{e}"),
                (got, want) => panic!("{text:?}: {got:?}, expected {want:?}"),
            }
        }
    }
    #[test]
    fn tls_to_the_downstream() {
        let parse = |security: Value| {
            let mut s = Settings::default();
            let file = json!({"security": {"ssl-ca": "of the cluster"}, "syncer": {"to": {"security": security}}});
            s.set_file(crate::config::drainer::KEYS, "drainer", "d.toml", &file).map_err(|e| e.to_string())?;
            SecuritySettings::of_downstream(&s).map_err(|e| e.to_string())
        };
        let settings = |identity| SecuritySettings { ca: "a".into(), identity, allowed_cn: vec![] };
        let identity = IdentityFiles { cert: "c".into(), key: "k".into() };
        assert_eq!(parse(json!({})), Ok(None));
        assert_eq!(parse(json!({"ssl-ca": "", "ssl-cert": "", "ssl-key": "", "cert-allowed-cn": []})), Ok(None));
        assert_eq!(parse(json!({"ssl-ca": "a", "cert-allowed-cn": []})), Ok(Some(settings(None))));
        let all = json!({"ssl-ca": "a", "ssl-cert": "c", "ssl-key": "k"});
        assert_eq!(parse(all), Ok(Some(settings(Some(identity)))));
        for (security, says) in [
            (json!({"ssl-ca": "a", "ssl-cert": "c"}), "syncer.to.security.ssl-key is not set: it belongs to"),
            (json!({"ssl-ca": "a", "ssl-key": "k"}), "syncer.to.security.ssl-cert is not set: it belongs to"),
            (
                json!({"ssl-ca": "a", "cert-allowed-cn": ["x"]}),
                "syncer.to.security.cert-allowed-cn (configuration file)",
            ),
            (json!({"ssl-ca": 1}), "syncer.to.security.ssl-ca (configuration file): 1 is not a text"),
            (json!({"ssl-cipher": "x"}), "unknown configuration options: syncer.to.security.ssl-cipher"),
        ] {
            let error = parse(security).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn what_has_no_effect_on_the_downstream_is_told() {
        let ignored = |security: Value| {
            let mut s = Settings::default();
            let file = json!({"syncer": {"to": {"security": security}}});
            s.set_file(crate::config::drainer::KEYS, "drainer", "d.toml", &file).unwrap();
            SecuritySettings::ignored(&s)
        };
        assert_eq!(ignored(json!({"ssl-key": "k", "cert-allowed-cn": ["x"]})), [TO_KEY, TO_ALLOWED_CN]);
        assert!(ignored(json!({"ssl-ca": "a", "ssl-key": "k"})).is_empty());
    }
}
