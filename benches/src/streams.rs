//! Streams: how soon a commit is delivered, how fast history is pulled, and what slow Drainers cost in memory.

use crate::load::{self, Load};
use crate::procfs;
use crate::pull::{self, Listener, Taken};
use crate::report::{Table, at_least, at_most, size};
use crate::rounds::{Bench, Reached, median_of};
use crate::servers::{Empty, Pump};
use crate::stats::{Histogram, median};
use anyhow::{Context, Result, ensure};
use binlog_cluster::pump_client;
use binlog_core::ids::{ClusterId, CommitTs};
use futures::StreamExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const SIZES: [usize; 2] = [1 << 10, 10 << 10];
const LIVE_WRITERS: usize = 100;
const FILLERS: usize = 500;
/// Drainers that read at once in `three`.
const MANY: usize = 3;
/// Drainers that read nothing.
const SLOW: usize = 3;
/// How long a delivery may take before it counts as lost.
const DELIVERY: Duration = Duration::from_secs(20);

/// One reading of history.
struct Round {
    bytes_per_second: f64,
    items_per_second: f64,
    cpu_per_gb: f64,
}

impl Bench<'_> {
    fn id(&self) -> ClusterId {
        ClusterId::new(self.cluster.cluster_id())
    }

    /// At half load: from C's acknowledgement, and from when the writer sent C, until the item is there.
    pub async fn live(&self, reached: &mut Reached) -> Result<()> {
        let mut table = Table::new(&[
            "live stream",
            "tx/s",
            "accepted → delivered p50 ms",
            "p99 ms",
            "p99.9 ms",
            "sent → accepted p50",
            "sent → delivered p50",
            "p99",
            "CPU s/100k",
        ]);
        for payload in self.sizes(&SIZES) {
            let rate = self.half_load(payload, reached).await?;
            let pump = self.pump(&format!("live-{payload}")).await?;
            let (mut ours, mut after) =
                (Vec::new(), [Histogram::default(), Histogram::default(), Histogram::default()]);
            for _ in 0..self.options.rounds {
                let commits = Arc::<Mutex<Vec<_>>>::default();
                let load = Load { commits: Some(Arc::clone(&commits)), ..self.load(payload) };
                let target = self.target(&pump, LIVE_WRITERS).await?;
                let listener = Listener::start(&pump.address, self.id(), load::timestamp(&self.cluster)?).await?;
                let (warm, seconds) = (self.options.warm, self.options.seconds);
                ours.push(load::open(&target, &load, LIVE_WRITERS, rate, warm, seconds).await?);
                let commits = std::mem::take(&mut *commits.lock().unwrap_or_else(PoisonError::into_inner));
                let deadline = Instant::now() + DELIVERY;
                for commit in commits {
                    let arrived = loop {
                        if let Some(arrived) = listener.arrived(commit.commit_ts) {
                            break arrived;
                        }
                        ensure!(Instant::now() < deadline, "commit_ts {} was not delivered", commit.commit_ts);
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    };
                    let [accepted, taken, sent] = &mut after;
                    accepted.record(arrived.saturating_duration_since(commit.acknowledged));
                    taken.record(commit.acknowledged - commit.sent);
                    sent.record(arrived.saturating_duration_since(commit.sent));
                }
                listener.stop().await?;
            }
            let [accepted, taken, sent] = &after;
            table.row(vec![
                format!("{}, {LIVE_WRITERS} writers", size(payload)),
                format!("{:.0}", median_of(&ours, load::Measured::per_second)),
                at_most(accepted.percentile(0.5), 1.0),
                at_most(accepted.percentile(0.99), 5.0),
                format!("{:.2}", accepted.percentile(0.999)),
                format!("{:.2}", taken.percentile(0.5)),
                format!("{:.2}", sent.percentile(0.5)),
                format!("{:.2}", sent.percentile(0.99)),
                format!("{:.2}", median_of(&ours, load::Measured::cpu_per_100k)),
            ]);
        }
        table.print("Live stream at half load: accepted is C's acknowledgement at the writer, delivered is the item at the reader");
        Ok(())
    }

    /// Fills a Pump, and starts it again so that nothing of it is in its memory. The last commit_ts.
    async fn filled(&self, name: &str, payload: usize) -> Result<(Pump, u64)> {
        let mut pump = self.pump(name).await?;
        let load = self.load(payload);
        let mut accepted = 0;
        while accepted < self.options.history_bytes {
            let target = self.target(&pump, FILLERS).await?;
            accepted += load::closed(&target, &load, FILLERS, 0.0, 1.0).await?.accepted;
        }
        // One more, alone, so that the end is known.
        let commits = Arc::<Mutex<Vec<load::Committed>>>::default();
        let load = Load { commits: Some(Arc::clone(&commits)), ..load };
        load::closed(&self.target(&pump, 1).await?, &load, 1, 0.0, 0.1).await?;
        pump.kill_and_reopen().await?;
        let commits = commits.lock().unwrap_or_else(PoisonError::into_inner);
        let last = commits.iter().map(|commit| commit.commit_ts).max().context("nothing was written")?;
        Ok((pump, last))
    }

    pub async fn history(&self) -> Result<()> {
        let mut table = Table::new(&[
            "pull from history",
            "MB/s",
            "of plain",
            "items/s",
            "CPU s per GB",
            "plain's",
            "three: MB/s",
            "CPU per reader, three to one",
            "peak MB",
        ]);
        for payload in self.sizes(&SIZES) {
            let (pump, last) = self.filled(&format!("history-{payload}"), payload).await?;
            let plain = Empty::start_plain(self.work, &pump, payload).await?;
            let (mut limits, mut ours, mut many) = (Vec::new(), Vec::new(), Vec::new());
            // The Pump writes past the page cache: the first reader brings the files into it.
            self.read(&plain.address, plain.pid(), 1, u64::MAX).await?;
            for _ in 0..self.options.rounds {
                limits.push(self.read(&plain.address, plain.pid(), 1, u64::MAX).await?);
                ours.push(self.read(&pump.address, pump.pid(), 1, last).await?);
                many.push(self.read(&pump.address, pump.pid(), MANY, last).await?);
            }
            let rate = |rounds: &[Round]| median_of(rounds, |round| round.bytes_per_second);
            let cpu = |rounds: &[Round]| median_of(rounds, |round| round.cpu_per_gb);
            let (own, of_plain) = (rate(&ours) / 1e6, rate(&ours) / rate(&limits));
            table.row(vec![
                size(payload),
                if of_plain >= 0.7 { format!("{own:.0}") } else { at_least(own, 500.0) },
                if own >= 500.0 { format!("{of_plain:.2}") } else { at_least(of_plain, 0.7) },
                format!("{:.0}", median_of(&ours, |round| round.items_per_second)),
                format!("{:.2}", cpu(&ours)),
                format!("{:.2}", cpu(&limits)),
                format!("{:.0}", rate(&many) / 1e6),
                at_most(cpu(&many) / cpu(&ours), 1.3),
                format!("{:.0}", procfs::peak_memory(pump.pid())? as f64 / 1e6),
            ]);
        }
        table.print("Pull from history: a Pump just started, its files in the page cache; plain reads them and sends pieces of that size");
        Ok(())
    }

    /// `readers` at once from the beginning up to `until`.
    async fn read(&self, address: &str, pid: u32, readers: usize, until: u64) -> Result<Round> {
        let (begin, before) = (Instant::now(), procfs::usage(pid)?);
        let tasks: Vec<_> =
            (0..readers).map(|_| tokio::spawn(pull::read(address.to_owned(), self.id(), until))).collect();
        let mut sum = Taken::default();
        for task in tasks {
            let Taken { bytes, items } = task.await??;
            sum.bytes += bytes;
            sum.items += items;
        }
        let seconds = begin.elapsed().as_secs_f64();
        let cpu = (procfs::usage(pid)? - before).cpu_seconds;
        ensure!(sum.bytes > 0, "nothing was sent");
        Ok(Round {
            bytes_per_second: sum.bytes as f64 / seconds,
            items_per_second: sum.items as f64 / seconds,
            cpu_per_gb: cpu * 1e9 / sum.bytes as f64,
        })
    }

    /// Peak memory under load: alone, and with Drainers that asked for all history and read nothing.
    pub async fn memory(&self) -> Result<()> {
        let payload = 1 << 10;
        let (load, writers) = (self.load(payload), self.options.writers);
        let mut peaks = Vec::new();
        for slow in [0, SLOW] {
            // The one without Drainers has no history either.
            let pump = match slow {
                0 => self.pump("memory").await?,
                _ => self.filled("memory-slow", payload).await?.0,
            };
            let mut streams = Vec::new();
            for _ in 0..slow {
                let mut stream = pump_client::open(&pump.address, self.id(), CommitTs::ZERO, false).await?;
                // The first item opens it.
                stream.next().await.context("a stream ended")??;
                streams.push(stream);
            }
            let target = self.target(&pump, writers).await?;
            load::closed(&target, &load, writers, self.options.warm, self.options.seconds).await?;
            peaks.push(procfs::peak_memory(pump.pid())? as f64 / 1e6);
        }
        let mut table = Table::new(&["memory", "peak MB"]);
        let history = self.options.history_bytes >> 20;
        let names = [
            format!("{writers} writers of 1 KB, fresh"),
            format!("the same with {history} MB of history and {SLOW} Drainers that stand still"),
        ];
        for (name, peak) in names.into_iter().zip(&peaks) {
            table.row(vec![name, at_most(*peak, 150.0)]);
        }
        table.print("Peak memory of the Pump");
        ensure!(median(&peaks) > 0.0, "no memory was measured");
        Ok(())
    }
}
