//! PD's GC safe points. A service holds GC back by registering a point with a TTL; `gc_worker` is a service that never
//! expires. Every answer names the service that is smallest *now*: a caller whose point is below it was refused.

use std::collections::BTreeMap;

/// Name of the service that is TiDB's own GC.
pub const GC_WORKER: &[u8] = b"gc_worker";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Service {
    /// Seconds since 1970.
    expires: i64,
    point: u64,
}

/// The smallest service, as an answer carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Smallest {
    pub service: Vec<u8>,
    /// Seconds that are left.
    pub ttl: i64,
    pub point: u64,
}

/// All services, and the point up to which GC ran.
#[derive(Debug)]
pub struct SafePoints {
    pub gc_safe_point: u64,
    services: BTreeMap<Vec<u8>, Service>,
}

impl Default for SafePoints {
    fn default() -> Self {
        Self {
            gc_safe_point: 0,
            services: BTreeMap::from([(GC_WORKER.to_vec(), Service { expires: i64::MAX, point: 0 })]),
        }
    }
}

impl SafePoints {
    /// Where TiDB's GC wants to go next.
    pub fn set_gc_worker(&mut self, point: u64) {
        self.services.insert(GC_WORKER.to_vec(), Service { expires: i64::MAX, point });
    }

    /// Registers, moves or (TTL 0 or less) removes a service at `now` (seconds), unless its point is below the smallest.
    pub fn update(&mut self, service: &[u8], ttl: i64, point: u64, now: i64) -> Smallest {
        self.services.retain(|name, s| name == GC_WORKER || s.expires > now);
        if service != GC_WORKER || ttl > 0 {
            if ttl <= 0 {
                self.services.remove(service);
            } else if point >= self.smallest(now).point {
                let expires = now.checked_add(ttl).unwrap_or(i64::MAX);
                self.services.insert(service.to_vec(), Service { expires, point });
            }
        }
        self.smallest(now)
    }

    fn smallest(&self, now: i64) -> Smallest {
        let found = self.services.iter().min_by_key(|(_, s)| s.point);
        found.map_or(Smallest { service: GC_WORKER.to_vec(), ttl: i64::MAX - now, point: 0 }, |(name, s)| Smallest {
            service: name.clone(),
            ttl: s.expires - now,
            point: s.point,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_names_the_smallest() {
        let mut points = SafePoints::default();
        points.set_gc_worker(100);
        assert_eq!(points.update(b"a", 10, 300, 1_000).service, GC_WORKER);
        assert_eq!(points.update(b"b", 10, 50, 1_000).point, 100, "refused: below the smallest");
        points.set_gc_worker(400);
        let held = points.update(b"c", 10, 500, 1_001);
        assert_eq!((held.service.as_slice(), held.ttl, held.point), (&b"a"[..], 9, 300), "b was not stored");
        assert_eq!(points.update(b"c", 0, 0, 1_001).service, b"a");
        assert_eq!(points.update(b"a", 0, 0, 1_001).service, GC_WORKER);
        points.update(b"a", 10, 450, 1_001);
        points.set_gc_worker(900);
        assert_eq!(points.update(b"z", 0, 0, 1_011).service, GC_WORKER, "a has expired");
    }
}
