//! The one source of randomness: xoshiro256**, seeded through splitmix64.
//!
//! [`Rng::fork`] derives a generator from the *seed* and a label, never from the state: an entity's draws do not depend on
//! what others drew before, so that removing one action from a plan leaves the rest of it as it was.

/// A generator. Cloning repeats it.
#[derive(Debug, Clone)]
pub struct Rng {
    seed: u64,
    state: [u64; 4],
}

impl Rng {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut mix = seed;
        let state = [0; 4].map(|_: u64| splitmix(&mut mix));
        Self { seed, state }
    }

    /// A generator of its own for `label`.
    #[must_use]
    pub fn fork(&self, label: &str) -> Self {
        // FNV-1a over the label, then mixed with the seed.
        let hash =
            label.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        let mut mix = self.seed ^ hash.rotate_left(31);
        Self::new(splitmix(&mut mix))
    }

    /// A generator of its own for the n-th `label`.
    #[must_use]
    pub fn fork_n(&self, label: &str, n: u64) -> Self {
        let mut mix = self.fork(label).seed ^ n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self::new(splitmix(&mut mix))
    }

    pub fn next_u64(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.state;
        let out = b.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let t = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= t;
        *d = d.rotate_left(45);
        out
    }

    /// Below `n`; 0 when `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        // The bias of a 64-bit product is far below what a simulation can see.
        u64::try_from((u128::from(self.next_u64()) * u128::from(n)) >> 64).unwrap_or(0)
    }

    /// An index below `n`; 0 when `n` is 0.
    pub fn index(&mut self, n: usize) -> usize {
        usize::try_from(self.below(n as u64)).unwrap_or(0)
    }

    /// From `low` to `high`, both included.
    pub fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low).saturating_add(1))
    }

    /// True in `percent` of 100 cases.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// True once in `n` cases.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n.max(1)) == 0
    }

    /// One of `items`; `None` when there are none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.index(items.len()))
    }

    /// Index drawn by weight; 0 when all are 0.
    pub fn weighted(&mut self, weights: &[u32]) -> usize {
        let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
        let mut at = self.below(total);
        for (i, weight) in weights.iter().enumerate() {
            let weight = u64::from(*weight);
            if at < weight {
                return i;
            }
            at -= weight;
        }
        0
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.index(i + 1));
        }
    }
}

fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forks_depend_on_seed_and_label_only() {
        let mut a = Rng::new(7);
        let before = a.fork("x").next_u64();
        a.next_u64();
        assert_eq!(a.fork("x").next_u64(), before);
        assert_ne!(a.fork("y").next_u64(), before);
        assert_ne!(a.fork_n("x", 1).next_u64(), a.fork_n("x", 2).next_u64());
        assert_ne!(Rng::new(8).fork("x").next_u64(), before);
    }

    #[test]
    fn draws_stay_in_range_and_reach_every_value() {
        let mut rng = Rng::new(1);
        let mut seen = [0_u32; 10];
        for _ in 0..10_000 {
            seen[rng.index(10)] += 1;
            assert!((5..=7).contains(&rng.range(5, 7)));
            assert_eq!(rng.weighted(&[0, 3, 0]), 1);
        }
        assert!(seen.iter().all(|n| (800..1200).contains(n)), "{seen:?}");
        assert_eq!((rng.below(0), rng.index(0)), (0, 0));
        let mut items: Vec<u32> = (0..50).collect();
        rng.shuffle(&mut items);
        assert_ne!(items, (0..50).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..50).collect::<Vec<_>>());
    }
}
