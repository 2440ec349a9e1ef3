//! Where metrics are pushed to (spec pump 7): `metrics-addr` and `metrics-interval`, the same keys for every process.

use super::settings::{ConfigError, Settings};
use super::size::parse_host_port;

/// A Prometheus push gateway. There is one only if `metrics-addr` is set and `metrics-interval` is not 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushSettings {
    /// `host:port`.
    pub authority: String,
    /// In front of `/metrics/job/…`; empty, or begins with `/` and does not end with one.
    pub base: String,
    pub interval_ms: u64,
}

impl PushSettings {
    /// Also under the names that the original's configuration file knows, `MetricsAddr` and `MetricsInterval`.
    pub fn from_settings(s: &Settings) -> Result<Option<Self>, ConfigError> {
        let interval_key = if s.get(INTERVAL).is_none() { INTERVAL_OF_ORIGINAL } else { INTERVAL };
        let interval = s.at_least(interval_key, 0, DEFAULT_INTERVAL)?;
        let key = if s.non_empty(ADDR).is_none() { ADDR_OF_ORIGINAL } else { ADDR };
        let Some(addr) = s.non_empty(key).filter(|_| interval > 0) else { return Ok(None) };
        let (authority, base) = parse_gateway(addr).map_err(|e| s.wrong(key, e))?;
        Ok(Some(Self { authority, base, interval_ms: interval.saturating_mul(1000) }))
    }

    /// The path of a node's group.
    #[must_use]
    pub fn path(&self, node_id: &str) -> String {
        let mut path = format!("{}/metrics/job/binlog/instance/", self.base);
        for byte in node_id.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                path.push(char::from(byte));
            } else {
                path.push_str(&format!("%{byte:02X}"));
            }
        }
        path
    }
}

fn parse_gateway(text: &str) -> Result<(String, String), String> {
    let rest = match text.trim().split_once("://") {
        Some(("http", rest)) => rest,
        Some((scheme, _)) => return Err(format!("scheme {scheme:?} is not supported; use http://host:port")),
        None => text.trim(),
    };
    let (authority, base) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    if authority.contains('@') {
        return Err("user names and passwords are not supported".to_owned());
    }
    if let Some(odd) = rest.chars().find(|c| !c.is_ascii_graphic() || "?#".contains(*c)) {
        return Err(format!("{odd:?} must not be part of it; use http://host:port"));
    }
    // A bare host means the port of HTTP; a bracketed one may end there.
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
    let authority = if has_port { authority.to_owned() } else { format!("{authority}:80") };
    let (host, _) = parse_host_port(&authority)?;
    if host.is_empty() {
        return Err(format!("{text:?} has no host"));
    }
    Ok((authority, base.trim_end_matches('/').to_owned()))
}

const ADDR: &str = "metrics-addr";
const INTERVAL: &str = "metrics-interval";
const ADDR_OF_ORIGINAL: &str = "MetricsAddr";
const INTERVAL_OF_ORIGINAL: &str = "MetricsInterval";
/// Seconds.
const DEFAULT_INTERVAL: i64 = 15;

#[cfg(test)]
mod tests {
    use super::super::pump::KEYS;
    use super::super::settings::Origin;
    use super::*;

    fn push(pairs: &[(&str, &str)]) -> Result<Option<PushSettings>, ConfigError> {
        let mut s = Settings::default();
        for (name, text) in pairs {
            s.set_text(KEYS.iter().find(|k| k.id() == *name).unwrap(), text, Origin::File)?;
        }
        PushSettings::from_settings(&s)
    }

    #[test]
    fn it_is_there_with_an_address_and_an_interval() {
        for pairs in [&[][..], &[(ADDR, "")], &[(INTERVAL, "5")], &[(ADDR, "g:1"), (INTERVAL, "0")]] {
            assert_eq!(push(pairs), Ok(None), "{pairs:?}");
        }
        let at = |addr| push(&[(ADDR, addr)]).unwrap().map(|p| (p.authority + &p.base, p.interval_ms));
        for (addr, shown) in [
            ("g:9091", "g:9091"),
            ("http://g:9091/", "g:9091"),
            ("g", "g:80"),
            ("[::1]", "[::1]:80"),
            ("[::1]:9", "[::1]:9"),
            ("http://proxy:80/push/", "proxy:80/push"),
        ] {
            assert_eq!(at(addr), Some((shown.to_owned(), 15_000)), "{addr}");
        }
        let named = push(&[(ADDR_OF_ORIGINAL, "g:1"), (INTERVAL_OF_ORIGINAL, "7")]).unwrap().unwrap();
        assert_eq!((named.authority.as_str(), named.interval_ms), ("g:1", 7000));
    }

    #[test]
    fn what_is_no_gateway() {
        for addr in ["https://g:1", "http://:9091", "u:p@g:1", "g:port", "g:1?x", "http://g g:1", "g:1\r\nX: y"] {
            let error = push(&[(ADDR, addr)]).unwrap_err().to_string();
            assert!(error.starts_with(ADDR), "{addr}: {error}");
        }
        assert!(push(&[(INTERVAL, "-1")]).unwrap_err().to_string().starts_with(INTERVAL));
    }

    #[test]
    fn node_ids_are_escaped() {
        let push = push(&[(ADDR, "g:1/x")]).unwrap().unwrap();
        assert_eq!(push.path("host-1.a:8250"), "/x/metrics/job/binlog/instance/host-1.a%3A8250");
    }
}
