//! How connections to other nodes are made: one place for addresses, time-outs, keep-alive and (later) TLS.
//!
//! Every client of this crate gets its channel from [`endpoint`]. Plaintext only so far; TLS (spec pump 6.3) becomes a
//! parameter of [`endpoint`] and of [`crate::server::serve`], and nothing else has to change.

use crate::error::BadAddress;
use std::time::Duration;
use tonic::transport::Endpoint;

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

/// An endpoint for `http://host:port` or a bare `host:port`. Nothing is dialled yet. For calls that have deadlines of their own:
/// a dead peer shows in them, and idle connections are not pinged (Go servers close those who do).
///
/// # Errors
/// An address that is not of that form, and `https` (not supported yet).
pub fn endpoint(address: &str) -> Result<Endpoint, BadAddress> {
    let url = normalize(address)?;
    let endpoint = Endpoint::from_shared(url).map_err(|e| BadAddress::new(address, e.to_string()))?;
    Ok(endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true).tcp_keepalive(Some(KEEP_ALIVE_INTERVAL)))
}

/// An endpoint for a connection that carries one stream without an end: its peer is pinged after `interval` of silence, and is
/// dead when it does not answer within `timeout`.
///
/// # Errors
/// As [`endpoint`].
pub fn stream_endpoint(address: &str, interval: Duration, timeout: Duration) -> Result<Endpoint, BadAddress> {
    Ok(endpoint(address)?
        .http2_keep_alive_interval(interval)
        .keep_alive_timeout(timeout)
        // Such a connection is never idle. Without this hyper 1.12 may take it for idle and never ping at all (a test shows it).
        .keep_alive_while_idle(true))
}

/// `http://host:port` of an address in any accepted spelling; trailing slashes go.
///
/// # Errors
/// As [`endpoint`].
pub fn normalize(address: &str) -> Result<String, BadAddress> {
    let bad = |why: &str| BadAddress::new(address, why);
    let text = address.trim().trim_end_matches('/');
    let host_port = match text.split_once("://") {
        None => text,
        Some(("http", rest)) => rest,
        Some(("https", _)) => return Err(bad("TLS is not supported yet; use http://")),
        Some((scheme, _)) => return Err(bad(&format!("unknown scheme {scheme:?}; use http://host:port"))),
    };
    let (host, port) = host_port.rsplit_once(':').ok_or_else(|| bad("the port is missing; use host:port"))?;
    if host.is_empty() || host.contains(['/', '@', '?', '#']) || host.chars().any(char::is_whitespace) {
        return Err(bad("no host name; use host:port"));
    }
    match port.parse::<u16>() {
        Ok(port) if port != 0 => Ok(format!("http://{host}:{port}")),
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
            ("https://pd:2379", Err("TLS is not supported yet")),
            ("ftp://pd:2379", Err("unknown scheme \"ftp\"")),
            ("pd", Err("the port is missing")),
            (":2379", Err("no host name")),
            ("", Err("the port is missing")),
            ("pd:0", Err("the port is not a number")),
            ("pd:99999", Err("the port is not a number")),
            ("a/b:1", Err("no host name")),
        ] {
            match (normalize(given), want) {
                (Ok(got), Ok(want)) => assert_eq!(got, want),
                (Err(got), Err(want)) => assert!(got.to_string().contains(want), "{got}"),
                (got, want) => panic!("{given:?}: {got:?}, expected {want:?}"),
            }
            assert_eq!(endpoint(given).is_ok(), want.is_ok(), "{given:?}");
        }
    }
}
