//! Which region holds a key, as far as we know: a cache that TiKV corrects by refusing requests.
//!
//! Keeps true: cached regions do not overlap. Keys in here are raw; PD speaks memcomparable keys.

use super::key::{decode_bytes, encode_bytes};
use crate::pd::RegionInfo;
use binlog_core::proto::{kvrpcpb, metapb};
use bytes::Bytes;
use std::collections::BTreeMap;

/// A region and the peer to ask.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Cached {
    pub id: u64,
    epoch: Option<metapb::RegionEpoch>,
    /// Memcomparable bounds; an empty end has no bound.
    start: Bytes,
    end: Bytes,
    pub peer: metapb::Peer,
}

impl Cached {
    /// `None` when nobody can be asked: the region has no peer.
    pub fn new(info: RegionInfo) -> Option<Self> {
        let RegionInfo { region, leader } = info;
        let peer = leader.or_else(|| region.peers.first().cloned())?;
        Some(Self { id: region.id, epoch: region.region_epoch, start: region.start_key, end: region.end_key, peer })
    }

    pub fn context(&self) -> kvrpcpb::Context {
        kvrpcpb::Context { region_id: self.id, region_epoch: self.epoch, peer: Some(self.peer), ..Default::default() }
    }

    fn contains(&self, encoded: &[u8]) -> bool {
        self.start.as_ref() <= encoded && (self.end.is_empty() || encoded < self.end.as_ref())
    }

    /// Raw key at which the next region begins. `Ok(None)`: this is the last one; `Err`: the bound does not decode.
    pub fn raw_end(&self) -> Result<Option<Bytes>, &Bytes> {
        if self.end.is_empty() { Ok(None) } else { decode_bytes(&self.end).map(Some).ok_or(&self.end) }
    }
}

/// By start key.
#[derive(Default)]
pub(super) struct RegionCache {
    regions: BTreeMap<Bytes, Cached>,
}

/// Regions kept. What a Pump or Drainer reads lies in a few regions (meta keys) or spreads thinly (verdicts): when more come,
/// starting again costs one question to PD per region.
const MAX_REGIONS: usize = 8192;

impl RegionCache {
    pub fn find(&self, raw_key: &[u8]) -> Option<Cached> {
        let encoded = encode_bytes(raw_key);
        let (_, region) = self.regions.range(..=encoded.clone()).next_back()?;
        region.contains(&encoded).then(|| region.clone())
    }

    pub fn insert(&mut self, region: Cached) {
        if self.regions.len() >= MAX_REGIONS {
            self.regions.clear();
        }
        let below_end = if region.end.is_empty() {
            self.regions.range::<Bytes, _>(..)
        } else {
            self.regions.range::<Bytes, _>(..&region.end)
        };
        let overlapping: Vec<Bytes> = below_end
            .rev()
            .take_while(|(_, old)| old.end.is_empty() || old.end > region.start)
            .map(|(start, _)| start.clone())
            .collect();
        for start in overlapping {
            self.regions.remove(&start);
        }
        self.regions.insert(region.start.clone(), region);
    }

    /// Forgets what was used for a request that went wrong; a newer entry stays.
    pub fn forget(&mut self, used: &Cached) {
        if self.regions.get(&used.start) == Some(used) {
            self.regions.remove(&used.start);
        }
    }

    /// TiKV named another leader.
    pub fn lead(&mut self, used: &Cached, peer: metapb::Peer) {
        if let Some(region) = self.regions.get_mut(&used.start)
            && region == used
        {
            region.peer = peer;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(id: u64, start: &str, end: &str) -> Cached {
        let key = |k: &str| if k.is_empty() { Bytes::new() } else { encode_bytes(k.as_bytes()) };
        Cached::new(RegionInfo {
            region: metapb::Region {
                id,
                start_key: key(start),
                end_key: key(end),
                region_epoch: None,
                peers: vec![metapb::Peer { id: id * 10, store_id: 1, ..Default::default() }],
            },
            leader: None,
        })
        .unwrap()
    }

    #[test]
    fn look_up_and_overlap() {
        let mut cache = RegionCache::default();
        let id = |cache: &RegionCache, key: &str| cache.find(key.as_bytes()).map(|r| r.id);
        assert_eq!(id(&cache, "a"), None);
        cache.insert(region(1, "", "m"));
        cache.insert(region(2, "m", "t"));
        cache.insert(region(3, "t", ""));
        for (key, want) in [("", 1), ("a", 1), ("lz", 1), ("m", 2), ("sz", 2), ("t", 3), ("zz", 3)] {
            assert_eq!(id(&cache, key), Some(want), "{key}");
        }
        // A split of 2: what it overlaps goes, the neighbours stay.
        cache.insert(region(4, "p", "t"));
        assert_eq!(
            (id(&cache, "m"), id(&cache, "p"), id(&cache, "a"), id(&cache, "z")),
            (None, Some(4), Some(1), Some(3))
        );
        // A merge over everything.
        cache.insert(region(5, "b", "y"));
        assert_eq!(
            (id(&cache, "a"), id(&cache, "c"), id(&cache, "x"), id(&cache, "z")),
            (None, Some(5), Some(5), None)
        );
        cache.insert(region(6, "", ""));
        assert_eq!((id(&cache, "a"), id(&cache, "z")), (Some(6), Some(6)));
        assert_eq!(cache.regions.len(), 1);
    }

    #[test]
    fn only_the_entry_that_was_used_is_changed() {
        let mut cache = RegionCache::default();
        let old = region(1, "a", "c");
        cache.insert(old.clone());
        cache.insert(region(2, "a", "c"));
        cache.forget(&old);
        cache.lead(&old, metapb::Peer { id: 99, store_id: 9, ..Default::default() });
        let now = cache.find(b"b").unwrap();
        assert_eq!((now.id, now.peer.id), (2, 20));
        cache.lead(&now, metapb::Peer { id: 99, store_id: 9, ..Default::default() });
        let now = cache.find(b"b").unwrap();
        assert_eq!(now.peer.store_id, 9);
        cache.forget(&now);
        assert_eq!(cache.find(b"b"), None);
    }

    #[test]
    fn bounds() {
        assert_eq!(region(1, "a", "").raw_end(), Ok(None));
        assert_eq!(region(1, "a", "c").raw_end(), Ok(Some(Bytes::from_static(b"c"))));
        let mut odd = region(1, "a", "c");
        odd.end = Bytes::from_static(b"x");
        assert!(odd.raw_end().is_err());
    }
}
