//! A Pump whose segments are recycled: small ones, binlogs kept for a second, GC all the time. What is written per byte accepted,
//! and whether rotation, GC and compaction of the index show in the latency.

use crate::load::{self, Measured};
use crate::procfs::{self, ThreadUsage};
use crate::report::{Table, at_most, size};
use crate::rounds::{Bench, Reached, median_of};
use crate::servers::Pump;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::time::Duration;

const SIZES: [usize; 2] = [1 << 10, 10 << 10];
const OPEN_WRITERS: usize = 100;
/// Between two rounds of GC.
const GC_EVERY: Duration = Duration::from_millis(250);
/// Stretches of load before segments are recycled at the latest.
const WARM_UP: usize = 60;

/// Segments reused, and freed, before the recycled phase counts as begun.
const ROUNDTRIPS: u64 = 2;

/// What `GET /status/pump` says of slots.
#[derive(Debug, Clone, Copy)]
struct Slots {
    reused: u64,
    filled_bytes: u64,
    freed: u64,
}

impl Bench<'_> {
    pub async fn recycled(&self, reached: &mut Reached) -> Result<()> {
        let mut bytes = Table::new(&[
            "bytes written",
            "fresh: per byte",
            "of it zeros",
            "recycled: per byte",
            "of it zeros",
            "segments reused",
            "written by",
            "tx/s",
            "CPU s/100k",
        ]);
        let mut pauses = Table::new(&[
            "rotation, GC, compaction",
            "tx/s wanted",
            "tx/s",
            "p50 ms",
            "p99 ms",
            "p99.9 ms",
            "slowest ms",
            "segments reused",
        ]);
        let Self { options, .. } = self;
        let (warm, seconds, writers) = (options.warm, options.seconds, options.writers);
        for payload in self.sizes(&SIZES) {
            let rate = self.half_load(payload, reached).await?;
            let load = self.load(payload);
            let top = format!("gc = \"{}\"", options.gc);
            let storage = format!("segment-size = \"{} mib\"", options.segment_bytes >> 20);
            let pump = self.pump_with(&format!("recycled-{payload}"), &top, &storage).await?;
            // No GC in this phase: all is new.
            let before = slots(&pump).await?;
            let fresh = load::closed(&self.target(&pump, writers).await?, &load, writers, 0.0, seconds).await?;
            let fresh_zeros = slots(&pump).await?.filled_bytes - before.filled_bytes;
            self.until_recycled(&pump, payload).await?;
            let (before, threads) = (slots(&pump).await?, procfs::threads(pump.pid())?);
            let mut recycled = Vec::new();
            for _ in 0..options.rounds {
                let target = self.target(&pump, writers).await?;
                recycled.push(with_gc(&pump, load::closed(&target, &load, writers, warm, seconds)).await?);
            }
            let after = slots(&pump).await?;
            let accepted: u64 = recycled.iter().map(|measured| measured.accepted).sum();
            let part = |bytes: u64, of: u64| format!("{:.2}", bytes as f64 / of.max(1) as f64);
            bytes.row(vec![
                size(payload),
                part(fresh.server.written, fresh.accepted),
                part(fresh_zeros, fresh.accepted),
                at_most(
                    median_of(&recycled, |m| m.server.written as f64 / m.accepted.max(1) as f64),
                    if payload > 1 << 10 { 1.05 } else { 1.2 },
                ),
                part(after.filled_bytes - before.filled_bytes, accepted),
                (after.reused - before.reused).to_string(),
                by_thread(&threads, &procfs::threads(pump.pid())?),
                format!("{:.0}", median_of(&recycled, Measured::per_second)),
                format!("{:.2}", median_of(&recycled, Measured::cpu_per_100k)),
            ]);
            let before = after;
            let mut open = Vec::new();
            for _ in 0..options.rounds {
                let target = self.target(&pump, OPEN_WRITERS).await?;
                let measured = load::open(&target, &load, OPEN_WRITERS, rate, warm, seconds);
                open.push(with_gc(&pump, measured).await?);
            }
            let after = slots(&pump).await?;
            let at = |part: f64| median_of(&open, |m| m.calls.percentile(part));
            pauses.row(vec![
                format!("{}, {OPEN_WRITERS} writers", size(payload)),
                format!("{rate:.0}"),
                format!("{:.0}", median_of(&open, Measured::per_second)),
                format!("{:.2}", at(0.5)),
                at_most(at(0.99), 5.0),
                at_most(at(0.999), 15.0),
                format!("{:.2}", at(1.0)),
                (after.reused - before.reused).to_string(),
            ]);
        }
        let segment = options.segment_bytes >> 20;
        bytes.print(&format!(
            "Bytes written per byte accepted, index included: closed loop, {writers} writers, segments of {segment} MiB"
        ));
        pauses.print(&format!(
            "Open loop at half load with GC every {} ms and segments of {segment} MiB",
            GC_EVERY.as_millis()
        ));
        Ok(())
    }

    /// Load and GC until some segments were reused and freed without one being filled anew.
    async fn until_recycled(&self, pump: &Pump, payload: usize) -> Result<()> {
        let load = self.load(payload);
        let mut since = slots(pump).await?;
        for _ in 0..WARM_UP {
            let target = self.target(pump, self.options.writers).await?;
            with_gc(pump, load::closed(&target, &load, self.options.writers, 0.0, 1.0)).await?;
            let now = slots(pump).await?;
            if now.filled_bytes != since.filled_bytes {
                since = now;
            }
            if now.reused >= since.reused + ROUNDTRIPS && now.freed >= since.freed + ROUNDTRIPS {
                return Ok(());
            }
        }
        anyhow::bail!("GC recycles no segments; the Pump says {}", pump.status().await?)
    }
}

/// Shares of the bytes that were given to write calls.
fn by_thread(before: &BTreeMap<String, ThreadUsage>, after: &BTreeMap<String, ThreadUsage>) -> String {
    let own = |(name, usage): (&String, &ThreadUsage)| {
        let old = before.get(name).map_or(0, |old| old.write_bytes);
        (usage.write_bytes.saturating_sub(old), name.clone())
    };
    let mut shares: Vec<_> = after.iter().map(own).collect();
    shares.sort_unstable_by(|a, b| b.cmp(a));
    let all: u64 = shares.iter().map(|(bytes, _)| bytes).sum();
    let part = |bytes: u64| 100.0 * bytes as f64 / all.max(1) as f64;
    let shown = shares.iter().filter(|(bytes, _)| part(*bytes) >= 1.0);
    shown.map(|(bytes, name)| format!("{name} {:.0} %", part(*bytes))).collect::<Vec<_>>().join(", ")
}

/// Runs `load` while GC is asked for all the time.
async fn with_gc(pump: &Pump, load: impl Future<Output = Result<Measured>>) -> Result<Measured> {
    let collect = async {
        loop {
            tokio::time::sleep(GC_EVERY).await;
            pump.collect().await?;
        }
    };
    tokio::select! {
        measured = load => measured,
        failed = collect => failed,
    }
}

async fn slots(pump: &Pump) -> Result<Slots> {
    let status = pump.status().await?;
    let number = |name: &str| {
        let value = status.pointer(&format!("/collector/slots/{name}")).and_then(serde_json::Value::as_u64);
        value.with_context(|| format!("/status/pump has no {name}: {status}"))
    };
    Ok(Slots { reused: number("reused")?, filled_bytes: number("filled_bytes")?, freed: number("freed")? })
}
