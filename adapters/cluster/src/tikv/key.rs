//! Keys as these clients use them: `Bytes` around the encodings of `binlog_core::codec::key` (spec codec 3.5, 8.1).

use binlog_core::codec::key;
use bytes::{BufMut, Bytes, BytesMut};

/// The form in which PD and region boundaries hold a raw key.
pub(super) fn encode_bytes(raw: &[u8]) -> Bytes {
    key::region(raw).into()
}

/// The raw key of a region boundary. A boundary need not be a whole encoded key: `None` for what does not decode, and for an
/// empty one.
pub(super) fn decode_bytes(encoded: &[u8]) -> Option<Bytes> {
    if encoded.is_empty() {
        return None;
    }
    key::from_region(encoded).ok().map(Bytes::from)
}

/// First key and end (exclusive) of all jobs of the history.
pub(super) fn history_range() -> (Bytes, Bytes) {
    let (start, end) = key::history_range();
    (start.into(), end.into())
}

/// Key of one job of the history.
pub(super) fn history_key(job_id: i64) -> Bytes {
    key::history_job(job_id).into()
}

/// The smallest key above `key`.
pub(super) fn successor(key: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(key.len() + 1);
    out.put_slice(key);
    out.put_u8(0);
    out.freeze()
}

/// For error texts: keys are bytes.
pub(super) fn hex(key: &[u8]) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(key.len().min(MAX_HEX) * 2);
    for b in key.iter().take(MAX_HEX) {
        let _ = write!(out, "{b:02x}");
    }
    if key.len() > MAX_HEX {
        out.push_str("...");
    }
    out
}

/// Bytes of a key that an error text shows.
const MAX_HEX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_the_spec() {
        for (raw, encoded) in [
            ("", "0000000000000000f7"),
            ("010203", "0102030000000000fa"),
            ("0102030405060708", "0102030405060708ff0000000000000000f7"),
            ("74800000000000002d5f72", "7480000000000000ff2d5f720000000000fa"),
        ] {
            let raw: Vec<u8> = unhex(raw);
            assert_eq!(hex(&encode_bytes(&raw)), encoded);
            assert_eq!(decode_bytes(&unhex(encoded)).unwrap(), raw);
        }
    }

    #[test]
    fn what_is_not_a_whole_key_does_not_decode() {
        for encoded in [
            "",
            "00",
            "0000000000000000ff",
            "0000000000000000f6",
            "0000000000000001f7",
            "0102030405060708fe0000000000000000f7",
            "010203040506070800",
        ] {
            assert_eq!(decode_bytes(&unhex(encoded)), None, "{encoded}");
        }
    }

    #[test]
    fn history_keys_of_the_spec() {
        let prefix = "6d44444c4a6f624869ff73746f7279000000fc00000000000000";
        assert_eq!(hex(&history_key(71)), format!("{prefix}680000000000000047ff0000000000000000f7"));
        let (start, end) = history_range();
        assert_eq!((hex(&start), hex(&end)), (format!("{prefix}68"), format!("{prefix}69")));
        assert!(start < history_key(1) && history_key(i64::MAX) < end);
    }

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
    }
}
