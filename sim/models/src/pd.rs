//! PD: timestamps and GC safe points (spec pd_tikv; rules 1).
//!
//! Keeps true: every timestamp is larger than all before it, across jumps and outages. Physical time is the caller's virtual
//! time plus an offset that only grows. The world may hand a reply out late; it is allocated when [`Pd::tso`] is called.

use binlog_core::time::Tso;
use std::collections::BTreeMap;

/// PD answers nothing (no leader, or down): the caller gets UNAVAILABLE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unavailable;

#[derive(Debug, Clone)]
pub struct Pd {
    /// Unix milliseconds at virtual time 0.
    epoch_ms: u64,
    /// Sum of all jumps forward.
    ahead_ms: u64,
    last: Tso,
    up: bool,
    gc_safe_point: u64,
    /// Service → (safe point, Unix second behind which it ends).
    services: BTreeMap<String, (u64, u64)>,
}

/// Answer to a request for a service safe point: the service that is smallest *now*. The request was refused when
/// `min_safe_point` is above what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MinService {
    pub service: String,
    pub safe_point: u64,
    pub ttl_seconds: u64,
}

/// TiDB's own GC, which never ends and cannot be removed.
pub const GC_WORKER: &str = "gc_worker";
/// The Unix second at which it ends.
const NEVER: u64 = i64::MAX.unsigned_abs();
/// Unix milliseconds at which simulations begin: 2026-01-01. Any recent time will do; it must be far above the ten minutes and
/// days that rules subtract.
pub const EPOCH_MS: u64 = 1_767_225_600_000;
/// Logical parts per millisecond.
const LOGICAL_LIMIT: u64 = 1 << Tso::LOGICAL_BITS;

impl Default for Pd {
    fn default() -> Self {
        Self::new(EPOCH_MS)
    }
}

impl Pd {
    /// `epoch_ms`: Unix time at virtual time 0.
    #[must_use]
    pub fn new(epoch_ms: u64) -> Self {
        let services = BTreeMap::from([(GC_WORKER.to_owned(), (0, NEVER))]);
        Self { epoch_ms, ahead_ms: 0, last: Tso::ZERO, up: true, gc_safe_point: 0, services }
    }

    /// One fresh timestamp.
    ///
    /// # Errors
    /// While PD is down.
    pub fn tso(&mut self, now_ms: u64) -> Result<Tso, Unavailable> {
        self.tso_batch(now_ms, 1)
    }

    /// `count` timestamps: the *last* of them, as PD answers; the first is `last − count + 1`.
    ///
    /// # Errors
    /// While PD is down.
    pub fn tso_batch(&mut self, now_ms: u64, count: u32) -> Result<Tso, Unavailable> {
        if !self.up {
            return Err(Unavailable);
        }
        let (count, last) = (u64::from(count.max(1)), self.last);
        let wall = self.epoch_ms + self.ahead_ms + now_ms;
        // A batch lies in one millisecond.
        let (physical, first) = if wall > last.physical_ms() {
            (wall, 0)
        } else if last.logical() + count < LOGICAL_LIMIT {
            (last.physical_ms(), last.logical() + 1)
        } else {
            (last.physical_ms() + 1, 0)
        };
        self.last = Tso::compose(physical, first + count - 1);
        Ok(self.last)
    }

    /// The largest timestamp ever given out; 0 before the first.
    #[must_use]
    pub const fn last(&self) -> Tso {
        self.last
    }

    /// What a caller with a clock like PD's would take for now, without allocating.
    #[must_use]
    pub fn physical_ms(&self, now_ms: u64) -> u64 {
        (self.epoch_ms + self.ahead_ms + now_ms).max(self.last.physical_ms())
    }

    /// The physical part jumps forward (a new leader whose clock is ahead). It never goes back.
    pub fn jump(&mut self, ms: u64) {
        self.ahead_ms += ms;
    }

    /// Outage, or its end.
    pub fn set_up(&mut self, up: bool) {
        self.up = up;
    }

    #[must_use]
    pub const fn is_up(&self) -> bool {
        self.up
    }

    /// # Errors
    /// While PD is down.
    pub const fn gc_safe_point(&self) -> Result<u64, Unavailable> {
        if self.up { Ok(self.gc_safe_point) } else { Err(Unavailable) }
    }

    /// `UpdateServiceGCSafePoint`: TTL 0 removes. A point below the smallest service's is refused.
    ///
    /// # Errors
    /// While PD is down.
    pub fn update_service_safe_point(
        &mut self,
        now_ms: u64,
        service: &str,
        ttl_seconds: u64,
        safe_point: u64,
    ) -> Result<MinService, Unavailable> {
        if !self.up {
            return Err(Unavailable);
        }
        let now_s = self.unix_s(now_ms);
        self.services.retain(|_, (_, ends)| *ends >= now_s);
        if ttl_seconds == 0 {
            self.services.retain(|name, _| name != service || name == GC_WORKER);
        } else if safe_point >= self.min_service(now_s).safe_point {
            let ends = if service == GC_WORKER { NEVER } else { now_s.saturating_add(ttl_seconds).min(NEVER) };
            self.services.insert(service.to_owned(), (safe_point, ends));
        }
        Ok(self.min_service(now_s))
    }

    /// Services end by the host's clock, in whole seconds; a jump of the timestamps does not touch it.
    const fn unix_s(&self, now_ms: u64) -> u64 {
        self.epoch_ms.saturating_add(now_ms) / 1000
    }

    fn min_service(&self, now_s: u64) -> MinService {
        let smallest =
            self.services.iter().filter(|(_, (_, ends))| *ends >= now_s).min_by_key(|(_, (point, _))| *point);
        smallest.map_or(
            MinService { service: String::new(), safe_point: 0, ttl_seconds: 0 },
            |(name, (point, ends))| {
                let ttl_seconds = ends.saturating_sub(now_s);
                MinService { service: name.clone(), safe_point: *point, ttl_seconds }
            },
        )
    }

    /// TiDB's GC worker: the safe point moves to `life_ms` before now, held by the services; gives the new point. The world
    /// then calls [`crate::tikv::Tikv::gc`] with it.
    ///
    /// # Errors
    /// While PD is down.
    pub fn advance_gc(&mut self, now_ms: u64, life_ms: u64) -> Result<u64, Unavailable> {
        let wanted = Tso::compose(self.physical_ms(now_ms).saturating_sub(life_ms), 0).raw();
        let held = self.update_service_safe_point(now_ms, GC_WORKER, u64::MAX / 1000, wanted)?.safe_point;
        self.gc_safe_point = self.gc_safe_point.max(held.min(wanted));
        Ok(self.gc_safe_point)
    }

    /// GC went on to `safe_point` whatever the services hold: it ran before they came, or behind their TTL.
    pub fn force_gc(&mut self, safe_point: u64) -> u64 {
        if let Some((point, _)) = self.services.get_mut(GC_WORKER) {
            *point = safe_point.max(*point);
        }
        self.gc_safe_point = self.gc_safe_point.max(safe_point);
        self.gc_safe_point
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn timestamps_rise_whatever_happens(steps in proptest::collection::vec((0_u64..50, 0_u64..4, 1_u32..300_000), 1..200)) {
            let mut pd = Pd::default();
            let (mut now, mut last) = (0, Tso::ZERO);
            for (ms, what, count) in steps {
                now += ms;
                match what {
                    0 => pd.jump(ms * 100),
                    1 => pd.set_up(!pd.is_up()),
                    _ => if let Ok(ts) = pd.tso_batch(now, count.min(200_000)) {
                        let first = ts.raw() - u64::from(count.min(200_000)) + 1;
                        prop_assert!(first > last.raw(), "{first} after {last}");
                        prop_assert!(ts.physical_ms() >= EPOCH_MS + now);
                        last = ts;
                    }
                }
            }
        }
    }

    #[test]
    fn services_hold_the_safe_point_until_their_ttl_ends() {
        let mut pd = Pd::default();
        let hour = 3_600_000;
        let first = pd.advance_gc(hour, 600_000).unwrap();
        assert_eq!(first, Tso::compose(EPOCH_MS + hour - 600_000, 0).raw());
        // Below the smallest: refused, the answer says by whom.
        let refused = pd.update_service_safe_point(hour, "pump", 60, first - 1).unwrap();
        assert_eq!((refused.service.as_str(), refused.safe_point), (GC_WORKER, first));
        pd.update_service_safe_point(hour, "pump", 60, first + 5).unwrap();
        assert_eq!(pd.advance_gc(hour + 59_000, 0).unwrap(), first + 5);
        assert!(pd.advance_gc(hour + 61_000, 0).unwrap() > first + 5, "the TTL has passed");
        assert_eq!(pd.gc_safe_point().unwrap(), Tso::compose(EPOCH_MS + hour + 61_000, 0).raw());
    }

    #[test]
    fn answers_name_the_smallest_service_and_its_seconds() {
        let mut pd = Pd::new(1_000_000);
        let mut ask = |now_s: u64, service: &str, ttl, point| {
            let answer = pd.update_service_safe_point((now_s - 1000) * 1000, service, ttl, point).unwrap();
            (answer.service, answer.ttl_seconds, answer.safe_point)
        };
        let gc = |now_s: u64, point: u64| (GC_WORKER.to_owned(), NEVER - now_s, point);
        assert_eq!(ask(1000, GC_WORKER, u64::MAX, 100), gc(1000, 100));
        assert_eq!(ask(1000, "a", 10, 300), gc(1000, 100));
        assert_eq!(ask(1000, "b", 10, 50), gc(1000, 100), "refused: below the smallest");
        assert_eq!(ask(1001, GC_WORKER, u64::MAX, 400), ("a".into(), 9, 300), "b was not stored");
        assert_eq!(ask(1010, "c", 0, 0), ("a".into(), 0, 300), "the last second counts");
        assert_eq!(ask(1011, "c", 0, 0), gc(1011, 400));
        assert_eq!(ask(1011, GC_WORKER, 0, 0), gc(1011, 400), "nobody removes the GC worker");
    }

    #[test]
    fn a_forced_gc_passes_what_services_hold() {
        let mut pd = Pd::default();
        pd.update_service_safe_point(0, "pump", 60, 5).unwrap();
        assert_eq!(pd.advance_gc(1000, 0).unwrap(), 5);
        assert_eq!((pd.force_gc(9), pd.gc_safe_point().unwrap()), (9, 9));
        assert_eq!(pd.force_gc(7), 9, "never back");
    }

    #[test]
    fn an_outage_answers_nothing() {
        let mut pd = Pd::default();
        pd.set_up(false);
        assert_eq!(pd.tso(5), Err(Unavailable));
        assert_eq!(pd.gc_safe_point(), Err(Unavailable));
        assert_eq!(pd.advance_gc(5, 0), Err(Unavailable));
        pd.set_up(true);
        assert!(pd.tso(5).is_ok());
    }
}
