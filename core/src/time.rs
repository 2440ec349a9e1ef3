//! Time as data: monotonic nanoseconds of this process, and PD timestamps.

use std::fmt;

/// Nanoseconds on this process's monotonic clock; never goes back. Wall time is not visible to the core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MonoTime(u64);

/// The moment at which a machine wants its next tick.
pub type Deadline = MonoTime;

impl MonoTime {
    pub const ZERO: Self = Self(0);

    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    #[must_use]
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// This moment plus `millis` milliseconds, saturating.
    #[must_use]
    pub const fn plus_millis(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis.saturating_mul(1_000_000)))
    }

    /// Whole milliseconds since `earlier`; 0 when `earlier` is later.
    #[must_use]
    pub const fn millis_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0) / 1_000_000
    }
}

/// A PD timestamp: physical Unix milliseconds << 18 | logical (spec codec 7.2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tso(u64);

impl Tso {
    pub const ZERO: Self = Self(0);
    /// Number of bits of the logical part.
    pub const LOGICAL_BITS: u32 = 18;

    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    #[must_use]
    pub const fn compose(physical_ms: u64, logical: u64) -> Self {
        Self((physical_ms << Self::LOGICAL_BITS).wrapping_add(logical))
    }

    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    #[must_use]
    pub const fn physical_ms(self) -> u64 {
        self.0 >> Self::LOGICAL_BITS
    }

    #[must_use]
    pub const fn logical(self) -> u64 {
        self.0 & ((1 << Self::LOGICAL_BITS) - 1)
    }
}

impl fmt::Debug for Tso {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tso({})", self.0)
    }
}

impl fmt::Display for Tso {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
