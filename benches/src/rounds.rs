//! What is measured in which order: Pump and limits in turn, so that a busy neighbour hits both alike.

use crate::disk::{self, Room, Synced};
use crate::load::{self, Load, Measured, Target};
use crate::options::{Options, Part};
use crate::payload::Payloads;
use crate::procfs::{self, ThreadUsage};
use crate::report::{Table, at_least, at_most, size};
use crate::servers::{Empty, Pump};
use crate::stats::{Histogram, median};
use anyhow::{Context, Result};
use binlog_core::ids::ClusterId;
use binlog_standin::{Options as StandinOptions, Shared, Standin};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Payloads of the closed loop.
const SIZES: [usize; 3] = [1 << 10, 10 << 10, 100 << 10];
/// Payloads and writers of the open loop.
const OPEN_SIZES: [usize; 2] = [1 << 10, 10 << 10];
const OPEN_WRITERS: [usize; 2] = [100, 1000];
const FEW: usize = 10;
/// Bytes of a transaction in the log beside P's payload: C's, and two record headers.
const REST: u64 = 120;
/// The original on two cores that the load generator shared: 10 KB, 1,000 writers.
const ORIGINAL_10K: f64 = 9_400.0;

pub struct Bench<'a> {
    pub options: &'a Options,
    pub work: &'a Path,
    pub cluster: Arc<Shared>,
}

/// Transactions per second of the closed loop by payload size; half of it is half load.
pub type Reached = BTreeMap<usize, f64>;

/// Everything that was measured of one workload, one entry for each round.
#[derive(Default)]
struct Row {
    pump: Vec<Measured>,
    empty: Vec<Measured>,
    growing: Vec<Synced>,
    filled: Vec<Synced>,
    /// Mean bytes of the Pump's batches.
    batch: Vec<f64>,
    threads: BTreeMap<String, ThreadUsage>,
    peak: u64,
}

/// Runs what the options ask for and prints the tables.
pub async fn run(options: &Options, work: &Path) -> Result<()> {
    let standin = Standin::start(StandinOptions { work_dir: Some(work.join("etcd")), ..StandinOptions::default() });
    let standin = standin.await.context("the stand-in cluster")?;
    let bench = Bench { options, work, cluster: Arc::clone(&standin.shared) };
    println!(
        "{} measurements of {} s each; medians of {} rounds; {} connections at most",
        machine(),
        options.seconds,
        options.rounds,
        options.connections
    );
    let mut reached = BTreeMap::new();
    if options.wants(Part::Closed) {
        bench.closed_loop(&mut reached).await?;
    }
    if options.wants(Part::Few) {
        bench.few_writers().await?;
    }
    if options.wants(Part::Open) {
        bench.open_loop(&mut reached).await?;
    }
    if options.wants(Part::Recycled) {
        bench.recycled(&mut reached).await?;
    }
    if options.wants(Part::Live) {
        bench.live(&mut reached).await?;
    }
    if options.wants(Part::History) {
        bench.history().await?;
    }
    if options.wants(Part::Memory) {
        bench.memory().await?;
    }
    if options.wants(Part::Reopen) {
        bench.reopen().await?;
    }
    Ok(())
}

impl Bench<'_> {
    pub async fn pump(&self, name: &str) -> Result<Pump> {
        self.pump_with(name, "", "").await
    }

    /// With further lines of its configuration: `top` before the first section, `storage` in `[storage]`.
    pub async fn pump_with(&self, name: &str, top: &str, storage: &str) -> Result<Pump> {
        let id = ClusterId::new(self.cluster.cluster_id());
        let Options { config, storage: own, .. } = self.options;
        let text = format!("{top}\n{config}\n[storage]\n{storage}\n{own}\n");
        Pump::start(self.work, name, &self.cluster.pd_url, id, &text).await
    }

    pub async fn target(&self, pump: &Pump, writers: usize) -> Result<Target> {
        Target::connect(&pump.address, self.options.connections.min(writers), pump.pid()).await
    }

    pub fn load(&self, size: usize) -> Load {
        Load { cluster: Arc::clone(&self.cluster), payloads: Payloads::of_size(size), commits: None }
    }

    /// Transactions per second that are half load; measured if nothing told them yet.
    pub async fn half_load(&self, payload: usize, reached: &mut Reached) -> Result<f64> {
        if let Some(rate) = self.options.rate {
            return Ok(rate);
        }
        if let Some(closed) = reached.get(&payload) {
            return Ok(closed / 2.0);
        }
        let row = self.closed_row(payload, self.options.writers, false).await?;
        reached.insert(payload, row.rate());
        Ok(row.rate() / 2.0)
    }

    pub fn sizes(&self, default: &[usize]) -> Vec<usize> {
        if self.options.sizes.is_empty() { default.to_vec() } else { self.options.sizes.clone() }
    }

    /// `reached`: transactions per second by payload size.
    async fn closed_loop(&self, reached: &mut Reached) -> Result<()> {
        let writers = self.options.writers;
        let mut speed = Table::new(&[
            "closed loop",
            "Pump tx/s",
            "empty tx/s",
            "of empty",
            "disk tx/s",
            "of disk",
            "p50 ms",
            "p99 ms",
        ]);
        let mut cost = Table::new(&[
            "cost",
            "CPU s/100k",
            "empty's",
            "disk loop's",
            "ratio",
            "batch KiB",
            "written per byte",
            "peak MB",
            "generator CPU s/100k",
        ]);
        let mut split = Table::new(&["CPU s/100k by thread", ""]);
        for payload in self.sizes(&SIZES) {
            let row = self.closed_row(payload, writers, true).await?;
            let name = format!("{}, {writers} writers", size(payload));
            let (pump, empty) = (row.rate(), median_of(&row.empty, Measured::per_second));
            let disk = median_of(&row.growing, |synced| synced.bytes_per_second / (payload as u64 + REST) as f64);
            let calls = merged(&row.pump);
            reached.insert(payload, pump);
            let of_nearer = pump / empty.min(disk);
            let of_empty =
                if payload == 1 << 10 { at_least(pump / empty, 0.75) } else { format!("{:.2}", pump / empty) };
            let of_nearer = match payload {
                n if n <= 1 << 10 => format!("{:.2}", pump / disk),
                n if n == 10 << 10 && pump >= 2.0 * ORIGINAL_10K => {
                    format!("{:.2}; {:.1} times the original (≥ 2 met)", pump / disk, pump / ORIGINAL_10K)
                }
                _ => format!("{:.2}; nearer limit {}", pump / disk, at_least(of_nearer, 0.75)),
            };
            speed.row(vec![
                name.clone(),
                format!("{pump:.0}"),
                format!("{empty:.0}"),
                of_empty,
                format!("{disk:.0}"),
                of_nearer,
                format!("{:.1}", calls.percentile(0.5)),
                format!("{:.1}", calls.percentile(0.99)),
            ]);
            let (cpu, empty_cpu) =
                (median_of(&row.pump, Measured::cpu_per_100k), median_of(&row.empty, Measured::cpu_per_100k));
            let per_100k = 1e5 * (payload as u64 + REST) as f64;
            let disk_cpu = median_of(&row.growing, |synced| synced.cpu_seconds_per_byte * per_100k);
            let own = median_of(&row.pump, |m| m.own.cpu_seconds * 1e5 / m.transactions.max(1) as f64);
            let written = median_of(&row.pump, |m| m.server.written as f64 / m.accepted.max(1) as f64);
            let target = if payload > 1 << 10 { 2.0 } else { 1.5 };
            cost.row(vec![
                name.clone(),
                format!("{cpu:.2}"),
                format!("{empty_cpu:.2}"),
                format!("{disk_cpu:.2}"),
                at_most(cpu / empty_cpu, target),
                format!("{:.0}", median(&row.batch) / 1024.0),
                at_most(written, if payload > 1 << 10 { 1.05 } else { 1.2 }),
                at_most(row.peak as f64 / 1e6, 150.0),
                format!("{own:.2}"),
            ]);
            split.row(vec![name, row.by_thread()]);
        }
        speed.print("Closed loop: P then C, the next transaction when both are acknowledged");
        cost.print("What it costs (all segments fresh: nothing is recycled in a run this short)");
        split.print("Where the Pump's CPU goes");
        Ok(())
    }

    async fn closed_row(&self, payload: usize, writers: usize, with_empty: bool) -> Result<Row> {
        let Options { seconds, warm, rounds, connections, .. } = *self.options;
        let load = self.load(payload);
        let mut pump = self.pump(&format!("closed-{payload}-{writers}")).await?;
        let empty = Empty::start(self.work).await?;
        let mut row = Row::default();
        for _ in 0..rounds {
            let connections = connections.min(writers);
            if with_empty {
                let target = Target::connect(&empty.address, connections, empty.pid()).await?;
                row.empty.push(load::closed(&target, &load, writers, warm, seconds).await?);
            }
            let target = Target::connect(&pump.address, connections, pump.pid()).await?;
            let before = procfs::threads(pump.pid())?;
            row.pump.push(load::closed(&target, &load, writers, warm, seconds).await?);
            let batch = row.threads_since(before, pump.pid())?;
            row.batch.push(batch);
            pump.check()?;
            drop(target);
            let bytes = (batch as usize).max(4096).next_multiple_of(4096);
            row.growing.push(self.disk(Room::Growing, bytes).await?);
            row.filled.push(self.disk(Room::Filled, bytes).await?);
        }
        row.peak = procfs::peak_memory(pump.pid())?;
        Ok(row)
    }

    async fn disk(&self, room: Room, batch: usize) -> Result<Synced> {
        let (dir, seconds) = (self.work.to_owned(), (self.options.seconds / 2.0).min(3.0));
        tokio::task::spawn_blocking(move || disk::append_and_sync(&dir, room, batch, seconds)).await?
    }

    async fn few_writers(&self) -> Result<()> {
        let mut table =
            Table::new(&["10 writers", "tx/s", "p50 ms", "p99 ms", "sync p50 ms", "p50 allowed", "written per byte"]);
        for payload in self.sizes(&SIZES[..1]) {
            let row = self.closed_row(payload, FEW, false).await?;
            let p50 = median_of(&row.pump, |m| m.calls.percentile(0.5));
            let sync = median_of(&row.growing, |synced| synced.latency.percentile(0.5));
            let written = median_of(&row.pump, |m| m.server.written as f64 / m.accepted.max(1) as f64);
            table.row(vec![
                size(payload),
                format!("{:.0}", row.rate()),
                format!("{p50:.2}"),
                format!("{:.2}", median_of(&row.pump, |m| m.calls.percentile(0.99))),
                format!("{sync:.2}"),
                at_most(p50, ((sync * 1.5 + 0.3) * 100.0).round() / 100.0),
                format!("{written:.2}"),
            ]);
        }
        table.print("Few writers: p50 at most 1.5 times the p50 of append + fdatasync, and 0.3 ms");
        Ok(())
    }

    async fn open_loop(&self, reached: &mut Reached) -> Result<()> {
        let Options { seconds, warm, rounds, connections, .. } = *self.options;
        let mut table = Table::new(&[
            "open loop",
            "tx/s wanted",
            "tx/s",
            "p50 ms",
            "p99 ms",
            "p99.9 ms",
            "empty p50",
            "empty p99",
            "empty p99.9",
        ]);
        for payload in self.sizes(&OPEN_SIZES) {
            let load = self.load(payload);
            let rate = self.half_load(payload, reached).await?;
            let pump = self.pump(&format!("open-{payload}")).await?;
            let empty = Empty::start(self.work).await?;
            for writers in OPEN_WRITERS {
                let (mut ours, mut limits) = (Vec::new(), Vec::new());
                for _ in 0..rounds {
                    let connections = connections.min(writers);
                    let target = Target::connect(&empty.address, connections, empty.pid()).await?;
                    limits.push(load::open(&target, &load, writers, rate, warm, seconds).await?);
                    let target = Target::connect(&pump.address, connections, pump.pid()).await?;
                    ours.push(load::open(&target, &load, writers, rate, warm, seconds).await?);
                }
                let part = |all: &[Measured], part: f64| median_of(all, |m| m.calls.percentile(part));
                table.row(vec![
                    format!("{}, {writers} writers", size(payload)),
                    format!("{rate:.0}"),
                    format!("{:.0}", median_of(&ours, Measured::per_second)),
                    format!("{:.2}", part(&ours, 0.5)),
                    at_most(part(&ours, 0.99), 5.0),
                    at_most(part(&ours, 0.999), 15.0),
                    format!("{:.2}", part(&limits, 0.5)),
                    format!("{:.2}", part(&limits, 0.99)),
                    format!("{:.2}", part(&limits, 0.999)),
                ]);
            }
        }
        table.print("Open loop at half load: latency from when the transaction should have begun");
        Ok(())
    }

    async fn reopen(&self) -> Result<()> {
        let wanted = self.options.reopen_bytes;
        let payload = 10 << 10;
        let load = self.load(payload);
        let mut pump = self.pump("reopen").await?;
        let mut accepted = 0;
        while accepted < wanted {
            let target = Target::connect(&pump.address, self.options.connections, pump.pid()).await?;
            accepted += load::closed(&target, &load, 500, 0.0, 1.0).await?.accepted;
        }
        let mut table = Table::new(&["log", "killed", "accepts writes again after", ""]);
        for round in 0..self.options.rounds {
            // Under load, so that there is a tail that no flush of the index covers.
            let target = Target::connect(&pump.address, self.options.connections, pump.pid()).await?;
            load::closed(&target, &load, 500, 0.0, 0.5).await?;
            let took = pump.kill_and_reopen().await?.as_secs_f64();
            table.row(vec![
                format!("{} MB", accepted >> 20),
                format!("SIGKILL {}", round + 1),
                format!("{took:.3} s"),
                at_most(took, 1.0),
            ]);
        }
        table.print("Reopen: from the start of the process until a prewrite is taken, scan of the tail included");
        Ok(())
    }
}

impl Row {
    fn rate(&self) -> f64 {
        median_of(&self.pump, Measured::per_second)
    }

    /// Adds what the threads did since `before`; mean bytes of the batches in that time.
    fn threads_since(&mut self, before: BTreeMap<String, ThreadUsage>, pid: u32) -> Result<f64> {
        let after = procfs::threads(pid)?;
        for (name, usage) in &after {
            let old = before.get(name).copied().unwrap_or_default();
            let own = self.threads.entry(name.clone()).or_default();
            own.cpu_seconds += (usage.cpu_seconds - old.cpu_seconds).max(0.0);
        }
        let of = |all: &BTreeMap<String, ThreadUsage>| all.get("log-write").copied().unwrap_or_default();
        let (old, new) = (of(&before), of(&after));
        Ok((new.write_bytes - old.write_bytes) as f64 / (new.write_calls - old.write_calls).max(1) as f64)
    }

    /// Shares of the Pump's CPU time.
    fn by_thread(&self) -> String {
        let all: f64 = self.threads.values().map(|t| t.cpu_seconds).sum();
        let mut shares: Vec<_> = self.threads.iter().map(|(name, t)| (name, 100.0 * t.cpu_seconds / all)).collect();
        shares.sort_by(|a, b| b.1.total_cmp(&a.1));
        let shown = shares.iter().filter(|(_, share)| *share >= 0.5);
        shown.map(|(name, share)| format!("{name} {share:.0} %")).collect::<Vec<_>>().join(", ")
    }
}

pub fn median_of<T>(all: &[T], value: impl Fn(&T) -> f64) -> f64 {
    median(&all.iter().map(value).collect::<Vec<_>>())
}

pub fn merged(all: &[Measured]) -> Histogram {
    let mut calls = Histogram::default();
    all.iter().for_each(|measured| calls.merge(&measured.calls));
    calls
}

fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':')).map_or("", |(_, m)| m.trim());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    format!("{cores} cores ({model}), load before {load};")
}
