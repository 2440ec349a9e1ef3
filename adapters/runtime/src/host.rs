//! What this machine is called.

use std::net::IpAddr;

/// The first IPv4 address that is no loopback, or `127.0.0.1` (spec pump 6.2).
#[must_use]
pub fn default_host() -> String {
    if_addrs::get_if_addrs()
        .unwrap_or_default()
        .into_iter()
        .map(|interface| interface.ip())
        .find(|ip| matches!(ip, IpAddr::V4(v4) if !v4.is_loopback() && !v4.is_link_local()))
        .map_or_else(|| "127.0.0.1".to_owned(), |ip| ip.to_string())
}

/// The operating system's host name.
#[must_use]
pub fn hostname() -> String {
    gethostname::gethostname().to_string_lossy().into_owned()
}
