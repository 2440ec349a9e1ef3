//! The table of regions and the checks of a request's context against it. Keys at PD are memcomparable encodings of the raw
//! key (spec codec 3.5), keys at TiKV are raw.

use binlog_core::proto::{errorpb, kvrpcpb, metapb};
use bytes::Bytes;

/// The only store.
pub const STORE_ID: u64 = 1;

/// Region id, peer id, epoch version, raw start key, raw end key.
type Line = (u64, u64, u64, &'static [u8], &'static [u8]);

/// As a real cluster split its first regions.
const REGIONS: [Line; 5] =
    [(2, 3, 2, b"", b"m"), (4, 5, 1, b"m", b"n"), (6, 7, 1, b"n", b"t"), (8, 9, 1, b"t", b"u"), (10, 11, 1, b"u", b"")];

/// All regions in key order.
#[must_use]
pub fn all() -> Vec<metapb::Region> {
    REGIONS
        .iter()
        .map(|&(id, peer, version, start, end)| metapb::Region {
            id,
            start_key: boundary(start),
            end_key: boundary(end),
            region_epoch: Some(metapb::RegionEpoch { conf_ver: 1, version }),
            peers: vec![metapb::Peer { id: peer, store_id: STORE_ID, ..Default::default() }],
        })
        .collect()
}

/// The leader of a region: its only peer.
#[must_use]
pub fn leader(region: &metapb::Region) -> Option<metapb::Peer> {
    region.peers.first().copied()
}

/// The region of an encoded key.
#[must_use]
pub fn of_encoded(key: &[u8]) -> Option<metapb::Region> {
    all().into_iter().find(|region| contains(region, key))
}

fn contains(region: &metapb::Region, encoded: &[u8]) -> bool {
    region.start_key.as_ref() <= encoded && (region.end_key.is_empty() || encoded < region.end_key.as_ref())
}

/// The error that TiKV gives when a request does not fit the region that it names; else that region. `key` is raw.
pub fn check(context: Option<&kvrpcpb::Context>, key: &[u8]) -> Result<metapb::Region, Box<errorpb::Error>> {
    let context = context.cloned().unwrap_or_default();
    let Some(region) = all().into_iter().find(|region| region.id == context.region_id) else {
        return Err(Box::new(errorpb::Error {
            message: "region not found".into(),
            region_not_found: Some(errorpb::RegionNotFound { region_id: context.region_id }),
            ..Default::default()
        }));
    };
    let asked_store = context.peer.map_or(0, |peer| peer.store_id);
    if asked_store != STORE_ID {
        return Err(Box::new(errorpb::Error {
            message: "store not match".into(),
            store_not_match: Some(errorpb::StoreNotMatch { request_store_id: asked_store, actual_store_id: STORE_ID }),
            ..Default::default()
        }));
    }
    if context.region_epoch != region.region_epoch {
        return Err(Box::new(errorpb::Error {
            message: "stale epoch".into(),
            epoch_not_match: Some(errorpb::EpochNotMatch { current_regions: vec![region] }),
            ..Default::default()
        }));
    }
    if !contains(&region, &encode(key)) {
        return Err(Box::new(errorpb::Error {
            message: "key not in region".into(),
            key_not_in_region: Some(errorpb::KeyNotInRegion {
                key: Bytes::copy_from_slice(key),
                region_id: region.id,
                start_key: region.start_key,
                end_key: region.end_key,
            }),
            ..Default::default()
        }));
    }
    Ok(region)
}

/// The raw start of the region that follows, or `None` for the last: where a scan ends.
#[must_use]
pub fn raw_end(region_id: u64) -> Option<&'static [u8]> {
    REGIONS.iter().find(|r| r.0 == region_id).map(|r| r.4).filter(|end| !end.is_empty())
}

/// The raw start of a region.
#[must_use]
pub fn raw_start(region_id: u64) -> &'static [u8] {
    REGIONS.iter().find(|r| r.0 == region_id).map_or(b"", |r| r.3)
}

fn boundary(raw: &[u8]) -> Bytes {
    if raw.is_empty() { Bytes::new() } else { encode(raw).into() }
}

/// Memcomparable bytes: groups of 8, each followed by 0xFF minus the number of padding zeros.
#[must_use]
pub fn encode(raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity((raw.len() / 8 + 1) * 9);
    let mut rest = raw;
    loop {
        let (group, tail) = rest.split_at(rest.len().min(8));
        out.extend_from_slice(group);
        out.resize(out.len() + (8 - group.len()), 0);
        out.push(0xF7 + u8::try_from(group.len()).unwrap_or(8));
        if group.len() < 8 {
            return out;
        }
        rest = tail;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoding_of_keys() {
        assert_eq!(encode(b"m"), b"m\0\0\0\0\0\0\0\xf8");
        assert_eq!(encode(b""), [0, 0, 0, 0, 0, 0, 0, 0, 0xf7]);
        assert_eq!(encode(b"12345678"), b"12345678\xff\0\0\0\0\0\0\0\0\xf7");
    }

    #[test]
    fn every_key_has_exactly_one_region() {
        for key in [&b""[..], b"a", b"m", b"mz", b"n", b"s\xff", b"t", b"tz", b"u", b"\xff\xff"] {
            let encoded = encode(key);
            assert_eq!(all().iter().filter(|r| contains(r, &encoded)).count(), 1, "{key:?}");
        }
    }

    #[test]
    fn a_request_for_another_region_is_refused() {
        let at = |region_id, version, store_id| kvrpcpb::Context {
            region_id,
            region_epoch: Some(metapb::RegionEpoch { conf_ver: 1, version }),
            peer: Some(metapb::Peer { id: 5, store_id, ..Default::default() }),
            ..Default::default()
        };
        assert!(check(Some(&at(4, 1, 1)), b"mDB").is_ok());
        assert!(check(Some(&at(4, 1, 1)), b"t1").unwrap_err().key_not_in_region.is_some());
        assert!(check(Some(&at(4, 2, 1)), b"mDB").unwrap_err().epoch_not_match.is_some());
        assert!(check(Some(&at(5, 1, 1)), b"mDB").unwrap_err().region_not_found.is_some());
        assert!(check(Some(&at(4, 1, 9)), b"mDB").unwrap_err().store_not_match.is_some());
        assert!(check(None, b"mDB").unwrap_err().region_not_found.is_some());
    }
}
