//! `bench-pull`: how fast streams are (docs/benchmarks.md, Streams). Starts a stand-in cluster and the Pump that lies beside this
//! program, fills it, starts it again (so that nothing is in memory), then measures
//!
//! * history: one reader from the beginning, beside a server that only reads the same files and sends them (`plain`);
//! * three readers at once: their CPU against that of one;
//! * live: at a fixed rate, from the acknowledgement of C to the item's arrival, counted from when the writer had it.

mod plain;

use anyhow::{Context, Result, bail, ensure};
use binlog_cluster::pump_client::{self, PumpWriter};
use binlog_core::ids::{ClusterId, CommitTs};
use binlog_core::proto::binlog::Binlog;
use binlog_standin::{Options, Standin};
use bytes::Bytes;
use futures::StreamExt;
use prost::Message;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const HELP: &str = "bench-pull [--mb N (1024)] [--size BYTES (10000)] [--rate TRANSACTIONS_PER_SECOND (1000)] [--seconds N (10)] [--dir DIR]";

struct Args {
    mb: u64,
    size: usize,
    rate: u64,
    seconds: u64,
    dir: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["serve-plain", address, dir, item] => match item.parse() {
            Ok(item) => plain::Plain { dir: PathBuf::from(dir), item }.serve(address).await,
            Err(e) => Err(anyhow::anyhow!("{item}: {e}")),
        },
        args => match parse(args) {
            Ok(args) => run(&args).await,
            Err(error) => Err(error.context(HELP)),
        },
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-pull: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn parse(args: &[&str]) -> Result<Args> {
    let mut out = Args { mb: 1024, size: 10_000, rate: 1000, seconds: 10, dir: None };
    for pair in args.chunks(2) {
        let [name, value] = pair else { bail!("{pair:?} has no value") };
        match *name {
            "--mb" => out.mb = value.parse()?,
            "--size" => out.size = value.parse()?,
            "--rate" => out.rate = value.parse()?,
            "--seconds" => out.seconds = value.parse()?,
            "--dir" => out.dir = Some(PathBuf::from(value)),
            other => bail!("unknown option {other}"),
        }
    }
    Ok(out)
}

struct Server {
    child: Child,
    address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn cpu(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let (_, fields) = stat.rsplit_once(')').context("stat")?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let ticks = |n: usize| fields.get(n).and_then(|f| f.parse::<f64>().ok()).context("stat");
        Ok((ticks(11)? + ticks(12)?) / 100.0)
    }

    fn memory_mb(&self, what: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(what)).context("status")?;
        Ok(line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>()? / 1024)
    }
}

struct Bench {
    standin: Standin,
    work: PathBuf,
    cluster: ClusterId,
}

impl Bench {
    fn tso(&self) -> Result<u64> {
        let (physical, logical) = self.standin.shared.tso().get(1).context("the clock stands")?;
        Ok((physical << 18 | logical).cast_unsigned())
    }

    async fn pump(&self) -> Result<Server> {
        let address = format!("127.0.0.1:{}", free_port()?);
        let config = self.work.join("pump.toml");
        fs::write(&config, "[storage]\nstop-write-at-available-space = \"1 mib\"\n")?;
        let program = std::env::current_exe()?.with_file_name("pump");
        let child = Command::new(program)
            .args(["-addr", &address, "-pd-urls", &self.standin.shared.pd_url, "-node-id", "pump-1"])
            .arg("-data-dir")
            .arg(self.work.join("data"))
            .arg("-log-file")
            .arg(self.work.join("pump.log"))
            .arg("-config")
            .arg(&config)
            .spawn()
            .context("cannot start pump: cargo build --release -p pump")?;
        let server = Server { child, address };
        // Online: a probe is taken.
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Ok(writer) = PumpWriter::connect(&server.address).await
                && writer.write(self.cluster, Bytes::new()).await.is_ok()
            {
                return Ok(server);
            }
            ensure!(Instant::now() < deadline, "the pump does not become online");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn plain(&self, item: usize) -> Result<Server> {
        let address = format!("127.0.0.1:{}", free_port()?);
        let child = Command::new(std::env::current_exe()?)
            .args(["serve-plain", &address])
            .arg(self.work.join("data/log"))
            .arg(item.to_string())
            .spawn()?;
        Ok(Server { child, address })
    }
}

async fn run(args: &Args) -> Result<()> {
    let work = match &args.dir {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    let standin = Standin::start(Options { work_dir: Some(work.path().join("etcd")), ..Options::default() }).await?;
    standin.shared.tso().wall();
    let cluster = ClusterId::new(standin.shared.cluster_id());
    let bench = Arc::new(Bench { standin, work: work.path().to_owned(), cluster });

    let server = bench.pump().await?;
    let count = (args.mb << 20) / args.size as u64;
    let begin = Instant::now();
    let last = fill(&bench, &server.address, count, args.size).await?;
    println!("filled: {count} transactions of {} bytes in {:.1} s", args.size, begin.elapsed().as_secs_f64());
    drop(server);

    println!("{:<34} {:>9} {:>12} {:>14} {:>9}", "history", "MB/s", "items/s", "CPU s per GB", "RSS MB");
    let server = bench.plain(args.size)?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let bytes = size_of(&bench.work.join("data/log"))?;
    let plain = history(&server, &bench, 1, u64::MAX).await?;
    report("plain read + send, one reader", &server, &plain)?;
    println!("  ({} MB of files)", bytes >> 20);
    let plain3 = history(&server, &bench, 3, u64::MAX).await?;
    report("plain read + send, three readers", &server, &plain3)?;
    drop(server);
    let server = bench.pump().await?;
    let one = history(&server, &bench, 1, last).await?;
    report("pump, one reader", &server, &one)?;
    ensure!(one.items >= count, "{} of {count} items", one.items);
    let three = history(&server, &bench, 3, last).await?;
    report("pump, three readers", &server, &three)?;
    println!(
        "  {:.0} % of plain; CPU per reader, three against one: {:.2} times",
        100.0 * one.rate() / plain.rate(),
        three.cpu_per_gb() / one.cpu_per_gb()
    );
    drop(server);

    let server = bench.pump().await?;
    live(&bench, &server, args).await?;
    println!("  peak memory {} MB", server.memory_mb("VmHWM")?);
    Ok(())
}

#[derive(Default)]
struct Round {
    bytes: u64,
    items: u64,
    seconds: f64,
    cpu: f64,
}

impl Round {
    fn rate(&self) -> f64 {
        self.bytes as f64 / self.seconds
    }

    fn cpu_per_gb(&self) -> f64 {
        self.cpu * 1e9 / self.bytes as f64
    }
}

fn report(what: &str, server: &Server, round: &Round) -> Result<()> {
    let (rate, items) = (round.rate() / 1e6, round.items as f64 / round.seconds);
    let rss = server.memory_mb("VmHWM")?;
    println!("{what:<34} {rate:>9.0} {items:>12.0} {:>14.2} {rss:>9}", round.cpu_per_gb());
    Ok(())
}

/// `readers` at once from the beginning up to `until`.
async fn history(server: &Server, bench: &Bench, readers: usize, until: u64) -> Result<Round> {
    let (begin, cpu) = (Instant::now(), server.cpu()?);
    let cluster = bench.cluster;
    let tasks: Vec<_> = (0..readers)
        .map(|_| {
            let address = server.address.clone();
            tokio::spawn(async move {
                let mut stream = pump_client::open(&address, cluster, CommitTs::ZERO, false).await?;
                let (mut bytes, mut items) = (0, 0);
                while let Some(item) = stream.next().await {
                    let item = item?;
                    bytes += item.len() as u64;
                    items += 1;
                    if until != u64::MAX && commit_ts_at_end(&item) >= until {
                        break;
                    }
                }
                anyhow::Ok((bytes, items))
            })
        })
        .collect();
    let mut round = Round::default();
    for task in tasks {
        let (bytes, items) = task.await??;
        round.bytes += bytes;
        round.items += items;
    }
    round.seconds = begin.elapsed().as_secs_f64();
    round.cpu = server.cpu()? - cpu;
    Ok(round)
}

/// The item ends with `tp` and `commit_ts`; only the tail is looked at, so that the reader is no bottleneck.
fn commit_ts_at_end(item: &Bytes) -> u64 {
    (4..=14)
        .filter_map(|n| item.get(item.len().checked_sub(n)?..))
        .find(|tail| tail.starts_with(&[0x08, 1, 0x18]))
        .and_then(|tail| Binlog::decode(tail).ok())
        .map_or(0, |binlog| binlog.commit_ts.cast_unsigned())
}

fn p(start_ts: u64, size: usize) -> Bytes {
    let value = Some(Bytes::from(vec![0x5a; size]));
    let key = Some(Bytes::from_static(b"t\x80\0\0\0\0\0\0\x01_r"));
    let start_ts = start_ts.cast_signed();
    Binlog { start_ts, prewrite_key: key, prewrite_value: value, ..Binlog::default() }.encode_to_vec().into()
}

fn c(start_ts: u64, commit_ts: u64) -> Bytes {
    let (start_ts, commit_ts) = (start_ts.cast_signed(), commit_ts.cast_signed());
    Binlog { tp: 1, start_ts, commit_ts, ..Binlog::default() }.encode_to_vec().into()
}

/// From many writers; the largest commit_ts.
async fn fill(bench: &Arc<Bench>, address: &str, count: u64, size: usize) -> Result<u64> {
    let tasks: Vec<_> = (0..WRITERS)
        .map(|n| {
            let (bench, address) = (Arc::clone(bench), address.to_owned());
            tokio::spawn(async move {
                let writer = PumpWriter::connect(&address).await?;
                let mut last = 0;
                for _ in 0..count / WRITERS + u64::from(n < count % WRITERS) {
                    let start = bench.tso()?;
                    writer.write(bench.cluster, p(start, size)).await?;
                    last = bench.tso()?;
                    writer.write(bench.cluster, c(start, last)).await?;
                }
                anyhow::Ok(last)
            })
        })
        .collect();
    let mut last = 0;
    for task in tasks {
        last = last.max(task.await??);
    }
    Ok(last)
}

/// At a fixed rate; delays by when C was sent and by when its acknowledgement came.
async fn live(bench: &Arc<Bench>, server: &Server, args: &Args) -> Result<()> {
    let from = bench.tso()?;
    let arrived: Arc<Mutex<HashMap<u64, Instant>>> = Arc::default();
    let mut stream = pump_client::open(&server.address, bench.cluster, CommitTs::new(from), false).await?;
    let seen = Arc::clone(&arrived);
    let reader = tokio::spawn(async move {
        while let Some(Ok(item)) = stream.next().await {
            let now = Instant::now();
            if let Ok(mut seen) = seen.lock() {
                seen.insert(commit_ts_at_end(&item), now);
            }
        }
    });
    let begin = Instant::now();
    let each = args.rate.div_ceil(WRITERS);
    let tasks: Vec<_> = (0..WRITERS)
        .map(|n| {
            let (bench, address) = (Arc::clone(bench), server.address.clone());
            let (seconds, size) = (args.seconds, args.size);
            tokio::spawn(async move {
                let writer = PumpWriter::connect(&address).await?;
                let mut sent = Vec::new();
                for i in 0..each * seconds {
                    let at = begin
                        + Duration::from_secs(1) * u32::try_from(i)? / u32::try_from(each)?
                        + Duration::from_secs(1) * u32::try_from(n)? / u32::try_from(each * WRITERS)?;
                    tokio::time::sleep_until(at.into()).await;
                    let start = bench.tso()?;
                    writer.write(bench.cluster, p(start, size)).await?;
                    let commit = bench.tso()?;
                    let before = Instant::now();
                    writer.write(bench.cluster, c(start, commit)).await?;
                    sent.push((commit, before, Instant::now()));
                }
                anyhow::Ok(sent)
            })
        })
        .collect();
    let (mut by_send, mut by_ack, mut acks) = (Vec::new(), Vec::new(), Vec::new());
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await??);
    }
    let seconds = begin.elapsed().as_secs_f64();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let arrived = arrived.lock().map_err(|_| anyhow::anyhow!("the reader failed"))?;
    let count = all.len();
    for (commit, sent, acknowledged) in all {
        let at = *arrived.get(&commit).with_context(|| format!("{commit} was not delivered"))?;
        by_send.push(at.saturating_duration_since(sent));
        by_ack.push(at.saturating_duration_since(acknowledged));
        acks.push(acknowledged.saturating_duration_since(sent));
    }
    reader.abort();
    println!("live, {:.0} transactions/s, {} bytes, {WRITERS} writers", count as f64 / seconds, args.size);
    percentiles("C sent -> acknowledged", &mut acks);
    percentiles("C sent -> delivered", &mut by_send);
    percentiles("C acknowledged -> delivered", &mut by_ack);
    Ok(())
}

fn percentiles(what: &str, delays: &mut [Duration]) {
    delays.sort_unstable();
    let at = |q: f64| delays.get(((delays.len() as f64 - 1.0) * q) as usize).map_or(0.0, |d| d.as_secs_f64() * 1e3);
    println!("  {what:<30} p50 {:.2} ms  p99 {:.2} ms  p99.9 {:.2} ms", at(0.5), at(0.99), at(0.999));
}

fn size_of(dir: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(dir)? {
        sum += entry?.metadata()?.len();
    }
    Ok(sum)
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

const WRITERS: u64 = 64;
