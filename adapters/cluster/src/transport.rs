//! How connections to other nodes are made: one place for addresses, time-outs, keep-alive and TLS.
//!
//! Every client of this crate gets its channel from a [`Target`]; whether it speaks TLS, and with what, says
//! [`crate::tls::Security`].

use crate::error::BadAddress;
use crate::tls::Security;
use crate::tls::dial::Dialer;
use hyper_util::client::legacy::connect::HttpConnector;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint, Error};

/// Largest message that our clients and servers decode, in bytes: `MaxInt64 - 4 MiB`, what the original uses for
/// "unlimited" (spec pump 1.1). A gRPC frame itself ends at 4 GiB.
#[cfg(target_pointer_width = "64")]
pub const UNLIMITED_MESSAGE: usize = (1 << 63) - 1 - (4 << 20);
#[cfg(not(target_pointer_width = "64"))]
pub const UNLIMITED_MESSAGE: usize = usize::MAX;

/// Dialling a host that does not answer ends after this (spec pump 4.1).
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The peer of a stream that is silent for this long is asked for a sign of life: a host that vanished without a
/// reset would hang a pull stream, and with it the whole merge, until TCP gives up (spec drainer 2.2). Not shorter: a Go
/// server takes frequent pings without data for abuse.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// How long the sign of life may take before the connection counts as dead.
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// A peer that can be dialled, now or later.
#[derive(Debug, Clone)]
pub struct Target {
    endpoint: Endpoint,
    security: Security,
}

impl Target {
    /// Dials at the first call, and again after each loss; with TLS the material is read each time.
    #[must_use]
    pub fn connect_lazy(&self) -> Channel {
        match self.dialer() {
            Some(dialer) => self.endpoint.connect_with_connector_lazy(dialer),
            None => self.endpoint.connect_lazy(),
        }
    }

    /// Dials now.
    ///
    /// # Errors
    /// Nobody there, or no TLS with it.
    pub async fn connect(&self) -> Result<Channel, Error> {
        match self.dialer() {
            Some(dialer) => self.endpoint.connect_with_connector(dialer).await,
            None => self.endpoint.connect().await,
        }
    }

    fn dialer(&self) -> Option<Dialer> {
        if !self.security.is_tls() || self.endpoint.uri().scheme_str() != Some("https") {
            return None;
        }
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(KEEP_ALIVE_INTERVAL));
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        Some(Dialer::new(tcp, self.security.clone()))
    }
}

/// `http://host:port`, with TLS `https://host:port`, or a bare `host:port`; or `unix:///path`, never with TLS. Nothing is dialled
/// yet. For calls that have deadlines of their own: a dead peer shows in them, and idle connections are not pinged (Go servers
/// close those who do).
///
/// # Errors
/// An address that is not of that form.
pub fn endpoint(address: &str, security: &Security) -> Result<Target, BadAddress> {
    let url = match address.trim().strip_prefix("unix://") {
        Some(path) if path.starts_with('/') => format!("unix:{path}"),
        _ => normalize(address, security)?,
    };
    let endpoint = Endpoint::from_shared(url).map_err(|e| BadAddress::new(address, e.to_string()))?;
    let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true).tcp_keepalive(Some(KEEP_ALIVE_INTERVAL));
    Ok(Target { endpoint, security: security.clone() })
}

/// An endpoint for a connection that carries one stream without an end: its peer is pinged after `interval` of silence, and is
/// dead when it does not answer within `timeout`.
///
/// # Errors
/// As [`endpoint`].
pub fn stream_endpoint(
    address: &str,
    security: &Security,
    interval: Duration,
    timeout: Duration,
) -> Result<Target, BadAddress> {
    let mut target = endpoint(address, security)?;
    target.endpoint = target
        .endpoint
        .http2_keep_alive_interval(interval)
        .keep_alive_timeout(timeout)
        // Such a connection is never idle. Without this hyper 1.12 may take it for idle and never ping at all (a test shows it).
        .keep_alive_while_idle(true);
    Ok(target)
}

/// `http://host:port` or `https://host:port` of an address in any accepted spelling; trailing slashes go. The scheme must fit: with
/// TLS nothing is ever sent in the clear, without it `https` cannot be served.
///
/// # Errors
/// As [`endpoint`].
pub fn normalize(address: &str, security: &Security) -> Result<String, BadAddress> {
    let bad = |why: &str| BadAddress::new(address, why);
    let text = address.trim().trim_end_matches('/');
    let scheme = security.scheme();
    let host_port = match text.split_once("://") {
        None => text,
        Some((given, rest)) if given == scheme => rest,
        Some(("https", _)) => return Err(bad("https needs TLS: set security.ssl-ca, or use http://")),
        Some(("http", _)) => return Err(bad("TLS is on (security.ssl-ca is set): use https://")),
        Some((given, _)) => return Err(bad(&format!("unknown scheme {given:?}; use {scheme}://host:port"))),
    };
    let (host, port) = host_port.rsplit_once(':').ok_or_else(|| bad("the port is missing; use host:port"))?;
    if host.is_empty() || host.contains(['/', '@', '?', '#']) || host.chars().any(char::is_whitespace) {
        return Err(bad("no host name; use host:port"));
    }
    match port.parse::<u16>() {
        Ok(port) if port != 0 => Ok(format!("{scheme}://{host}:{port}")),
        _ => Err(bad("the port is not a number from 1 to 65535")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (given, want) in [
            ("http://127.0.0.1:2379", Ok("http://127.0.0.1:2379")),
            ("127.0.0.1:2379", Ok("http://127.0.0.1:2379")),
            (" pd-0.example:2379/ ", Ok("http://pd-0.example:2379")),
            ("http://[::1]:2379", Ok("http://[::1]:2379")),
            ("https://pd:2379", Err("https needs TLS")),
            ("ftp://pd:2379", Err("unknown scheme \"ftp\"")),
            ("pd", Err("the port is missing")),
            (":2379", Err("no host name")),
            ("", Err("the port is missing")),
            ("pd:0", Err("the port is not a number")),
            ("pd:99999", Err("the port is not a number")),
            ("a/b:1", Err("no host name")),
        ] {
            match (normalize(given, &Security::plaintext()), want) {
                (Ok(got), Ok(want)) => assert_eq!(got, want),
                (Err(got), Err(want)) => assert!(got.to_string().contains(want), "{got}"),
                (got, want) => panic!("{given:?}: {got:?}, expected {want:?}"),
            }
            assert_eq!(endpoint(given, &Security::plaintext()).is_ok(), want.is_ok(), "{given:?}");
        }
    }
    #[test]
    fn unix_sockets_are_for_endpoints_only() {
        let plain = Security::plaintext();
        assert!(endpoint("unix:///run/pump.sock", &plain).is_ok());
        assert!(endpoint("unix://run/pump.sock", &plain).is_err());
        assert!(normalize("unix:///run/pump.sock:1", &plain).is_err(), "members of PD are never dialled there");
    }
}
