//! Latencies as counts in buckets (error below 1.6 %), and medians of repeated runs.

use std::time::Duration;

/// Counts of durations; 64 buckets for each power of two of nanoseconds.
#[derive(Debug, Clone, Default)]
pub struct Histogram {
    buckets: Vec<u32>,
    count: u64,
}

/// Buckets of one power of two.
const STEPS: usize = 64;
/// Longest duration that has a bucket of its own is 2^40 ns, about 18 minutes.
const BUCKETS: usize = (40 - 5) * STEPS;

impl Histogram {
    pub fn record(&mut self, latency: Duration) {
        if self.buckets.is_empty() {
            self.buckets = vec![0; BUCKETS];
        }
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        let bucket = bucket_of(nanos).min(BUCKETS - 1);
        self.buckets[bucket] = self.buckets[bucket].saturating_add(1);
        self.count += 1;
    }

    pub fn merge(&mut self, other: &Self) {
        if self.buckets.is_empty() {
            self.buckets = vec![0; BUCKETS];
        }
        for (own, others) in self.buckets.iter_mut().zip(&other.buckets) {
            *own = own.saturating_add(*others);
        }
        self.count += other.count;
    }

    #[cfg(test)]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The latency that `part` (0 to 1) of all do not exceed, in milliseconds; 0 without any.
    #[must_use]
    pub fn percentile(&self, part: f64) -> f64 {
        let wanted = ((self.count as f64 * part).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= wanted {
                return middle_of(bucket) / 1e6;
            }
        }
        0.0
    }
}

fn bucket_of(nanos: u64) -> usize {
    let power = 63 - nanos.max(1).leading_zeros() as usize;
    if power < 6 {
        return nanos as usize;
    }
    (power - 5) * STEPS + ((nanos >> (power - 6)) as usize & (STEPS - 1))
}

/// Nanoseconds in the middle of a bucket.
fn middle_of(bucket: usize) -> f64 {
    if bucket < STEPS {
        return bucket as f64;
    }
    let (power, step) = (bucket / STEPS + 5, bucket % STEPS);
    let width = (1_u64 << (power - 6)) as f64;
    (STEPS + step) as f64 * width + width / 2.0
}

/// The middle one; of an even number the mean of the two. 0 without any.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_a_bucket() {
        let mut all = Histogram::default();
        let mut half = Histogram::default();
        for micros in 1..=10_000_u64 {
            let part = if micros % 2 == 0 { &mut all } else { &mut half };
            part.record(Duration::from_micros(micros));
        }
        all.merge(&half);
        assert_eq!(all.count(), 10_000);
        for (part, millis) in [(0.5, 5.0), (0.99, 9.9), (0.999, 9.99), (1.0, 10.0), (0.0, 0.001)] {
            let got = all.percentile(part);
            assert!((got - millis).abs() <= millis * 0.016, "{part}: {got} is not {millis}");
        }
    }

    #[test]
    fn every_duration_has_a_bucket_that_contains_it() {
        for power in 0..40 {
            for nanos in [1_u64 << power, (1 << power) + (1 << power) / 3, (2 << power) - 1] {
                let middle = middle_of(bucket_of(nanos));
                assert!((middle - nanos as f64).abs() <= nanos as f64 / 64.0, "{nanos} ns is told as {middle}");
            }
        }
        let mut endless = Histogram::default();
        endless.record(Duration::MAX);
        assert!(endless.percentile(0.5) > 1e6 * 0.99, "what is too long counts as the longest");
        assert_eq!(Histogram::default().percentile(0.5).to_bits(), 0.0_f64.to_bits());
    }

    #[test]
    fn medians() {
        for (values, middle) in [(vec![], 0.0), (vec![3.0], 3.0), (vec![9.0, 1.0, 2.0], 2.0), (vec![4.0, 1.0], 2.5)] {
            assert_eq!(median(&values).to_bits(), f64::to_bits(middle), "{values:?}");
        }
    }
}
