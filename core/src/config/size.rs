//! Sizes in human units, and addresses: small value parsers that several keys share.

/// Bytes from a text such as `10 gib`, `42 MB`, `1,000 kb` or `512` (spec pump 6.2): decimal units are powers of 1000, `i` units
/// powers of 1024, letters in any case; commas between digits mean nothing; empty is 0.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(0);
    }
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ',').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number = number.replace(',', "");
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "t" | "tb" => 1_000_000_000_000,
        "p" | "pb" => 1_000_000_000_000_000,
        "e" | "eb" => 1_000_000_000_000_000_000,
        "ki" | "kib" => 1 << 10,
        "mi" | "mib" => 1 << 20,
        "gi" | "gib" => 1 << 30,
        "ti" | "tib" => 1 << 40,
        "pi" | "pib" => 1 << 50,
        "ei" | "eib" => 1 << 60,
        other => {
            return Err(format!("unknown unit {other:?} in {text:?}; use B, KB, MB, GB, TB or KiB, MiB, GiB, TiB"));
        }
    };
    let wrong = || format!("{text:?} is not a size; write for example \"10 gib\"");
    let (whole, fraction) = number.split_once('.').unwrap_or((&number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return Err(wrong());
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| wrong())? };
    let part: u128 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| wrong())? };
    let digits = u32::try_from(fraction.len()).ok().filter(|d| *d <= 18).ok_or_else(wrong)?;
    let part = part * u128::from(factor) / 10_u128.pow(digits);
    let bytes = whole.checked_mul(factor).and_then(|w| w.checked_add(u64::try_from(part).ok()?)).ok_or_else(wrong)?;
    Ok(bytes)
}

/// Splits `host:port`; the host may be a bracketed IPv6 address. A scheme or a path does not belong there.
pub fn parse_host_port(text: &str) -> Result<(&str, u16), String> {
    let (host, port) = text.rsplit_once(':').ok_or_else(|| format!("{text:?} is not host:port"))?;
    let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    // What is published must be what peers can dial: they put a scheme of their own in front.
    let odd = |c: char| c.is_whitespace() || c.is_control() || "/@?#[]".contains(c);
    if bracketed.unwrap_or(host).contains(odd) || (bracketed.is_none() && host.contains(':')) {
        return Err(format!("{text:?} is not host:port (an IPv6 address needs brackets)"));
    }
    let digits = port.bytes().all(|b| b.is_ascii_digit());
    let port =
        port.parse().ok().filter(|_| digits).ok_or_else(|| format!("{text:?}: {port:?} is not a port number"))?;
    Ok((bracketed.unwrap_or(host), port))
}

/// Splits and checks a comma list of PD addresses: scheme `http`, or `https` when `tls` is on; host:port, no path; a bare host:port
/// gets the scheme that fits. Sorted.
pub fn parse_pd_urls(text: &str, tls: bool) -> Result<Vec<String>, String> {
    let scheme = if tls { "https" } else { "http" };
    let mut urls = Vec::new();
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let rest = match part.split_once("://") {
            Some((given, rest)) if given == scheme => rest,
            Some(("https", _)) => return Err(format!("{part:?}: https needs TLS; set security.ssl-ca, or use http")),
            Some(("http", _)) => return Err(format!("{part:?}: with security.ssl-ca set it must be https")),
            Some((given, _)) => {
                return Err(format!("{part:?}: scheme {given:?} is not supported; use {scheme}://host:port"));
            }
            None => part,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains('/') {
            return Err(format!("{part:?} must not have a path"));
        }
        let (host, _) = parse_host_port(rest)?;
        if host.is_empty() {
            return Err(format!("{part:?} has no host"));
        }
        urls.push(format!("{scheme}://{rest}"));
    }
    if urls.is_empty() {
        return Err(format!("no PD address given; write {scheme}://host:2379"));
    }
    urls.sort();
    urls.dedup();
    Ok(urls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("", 0),
            ("42 MB", 42_000_000),
            ("42 mib", 44_040_192),
            ("10 gib", 10_737_418_240),
            ("512", 512),
            ("1.5 kib", 1_536),
            ("0.5GB", 500_000_000),
            ("1,234.5 KB", 1_234_500),
            ("2 pib", 2 << 50),
            ("1 EB", 1_000_000_000_000_000_000),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["x", "1 xb", "-1", "1..2", ".", "99999999999999999999", "20000000 tib", ",", "16 eib", "1 zb"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn hosts_and_ports() {
        for (text, want) in [
            ("h:1", Some(("h", 1))),
            ("10.0.0.1:8250", Some(("10.0.0.1", 8250))),
            (":8250", Some(("", 8250))),
            ("[::1]:8250", Some(("::1", 8250))),
            ("h", None),
            ("h:", None),
            ("h:+1", None),
            ("h:65536", None),
            ("http://h:1", None),
            ("h/x:1", None),
            ("u@h:1", None),
            ("a b:1", None),
            (" h:1", None),
            ("::1:8250", None),
            ("[::1:8250", None),
            ("[]]:1", None),
        ] {
            assert_eq!(parse_host_port(text).ok(), want, "{text}");
        }
    }

    #[test]
    fn pd_urls() {
        let parsed = parse_pd_urls("http://b:2379, http://a:1/ ,c:2", false);
        assert_eq!(parsed.unwrap(), ["http://a:1", "http://b:2379", "http://c:2"]);
        assert_eq!(parse_pd_urls("https://b:2379,a:1", true).unwrap(), ["https://a:1", "https://b:2379"]);
        for bad in ["", " , ", "ftp://a:1", "http://a", "http://a:1/x", "http://:1", "a:99999", "https://a:1"] {
            assert!(parse_pd_urls(bad, false).is_err(), "{bad}");
        }
        assert!(parse_pd_urls("http://a:1", true).unwrap_err().contains("must be https"));
        assert!(parse_pd_urls("https://a:1", false).unwrap_err().contains("security.ssl-ca"));
    }
}
