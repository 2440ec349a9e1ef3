//! The table of regions and the checks of a request's context against it. Keys at PD are memcomparable encodings of the raw
//! key (spec codec 3.5), keys at TiKV are raw.

use binlog_core::codec::key;
use binlog_core::proto::{errorpb, kvrpcpb, metapb};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

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

/// The error that TiKV gives when a request does not fit the region that it names; else that region.
pub fn check(context: Option<&kvrpcpb::Context>, raw_key: &[u8]) -> Result<metapb::Region, Box<errorpb::Error>> {
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
    if !contains(&region, &key::region(raw_key)) {
        return Err(Box::new(errorpb::Error {
            message: "key not in region".into(),
            key_not_in_region: Some(errorpb::KeyNotInRegion {
                key: Bytes::copy_from_slice(raw_key),
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

/// What can be said in place of an answer, whatever the request names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trouble {
    /// With the leader that it has.
    NotLeader,
    /// An election: no leader is named.
    NoLeader,
    EpochNotMatch,
    RegionNotFound,
    /// With a pause of 50 ms that it asks for.
    ServerIsBusy,
    StaleCommand,
    StoreNotMatch,
}

impl Trouble {
    /// The error that TiKV sends; `context` is the request's.
    #[must_use]
    pub fn error(self, context: Option<&kvrpcpb::Context>) -> errorpb::Error {
        let region_id = context.map_or(0, |c| c.region_id);
        let region = all().into_iter().find(|region| region.id == region_id);
        let none = errorpb::Error::default();
        match self {
            Self::NotLeader => errorpb::Error {
                message: "not leader".into(),
                not_leader: Some(errorpb::NotLeader { region_id, leader: region.as_ref().and_then(leader) }),
                ..none
            },
            Self::NoLeader => errorpb::Error {
                message: "not leader".into(),
                not_leader: Some(errorpb::NotLeader { region_id, leader: None }),
                ..none
            },
            Self::EpochNotMatch => errorpb::Error {
                message: "stale epoch".into(),
                epoch_not_match: Some(errorpb::EpochNotMatch { current_regions: region.into_iter().collect() }),
                ..none
            },
            Self::RegionNotFound => errorpb::Error {
                message: "region not found".into(),
                region_not_found: Some(errorpb::RegionNotFound { region_id }),
                ..none
            },
            Self::ServerIsBusy => errorpb::Error {
                message: "server is busy".into(),
                server_is_busy: Some(errorpb::ServerIsBusy {
                    reason: "a test asks for it".into(),
                    backoff_ms: 50,
                    ..Default::default()
                }),
                ..none
            },
            Self::StaleCommand => errorpb::Error {
                message: "stale command".into(),
                stale_command: Some(errorpb::StaleCommand {}),
                ..none
            },
            Self::StoreNotMatch => errorpb::Error {
                message: "store not match".into(),
                store_not_match: Some(errorpb::StoreNotMatch {
                    request_store_id: STORE_ID,
                    actual_store_id: STORE_ID + 1,
                }),
                ..none
            },
        }
    }
}

fn boundary(raw: &[u8]) -> Bytes {
    if raw.is_empty() { Bytes::new() } else { key::region(raw).into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_exactly_one_region() {
        for key in [&b""[..], b"a", b"m", b"mz", b"n", b"s\xff", b"t", b"tz", b"u", b"\xff\xff"] {
            let encoded = key::region(key);
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
