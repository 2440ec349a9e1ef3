//! One replay of a capture: everything that runs, the feed, and the streams that come out.

use crate::capture::{Capture, Item, Record};
use crate::compare_stream;
use crate::feed;
use crate::harness::{Drainer, MariaDb, Pump};
use crate::progress::{Counters, Line};
use anyhow::{Context, Result, bail};
use binlog_core::node::status::{NodeState, NodeStatus};
use binlog_core::proto::binlog::{Pos, PullBinlogReq};
use binlog_standin::{Options, Standin};
use etcd_client::Client;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const READY: Duration = Duration::from_secs(60);
/// Longest silence of a stream before it has reached its end.
const SILENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);

/// What to bring up beside the stand-in cluster.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Absent: as many as recorded.
    pub pumps: Option<usize>,
    /// With a Drainer and its MariaDB.
    pub drainer: bool,
    /// Content of the Pumps' configuration file.
    pub pump_config: String,
}

/// How a feed went.
#[derive(Debug, Clone, Copy)]
pub struct Fed {
    pub records: u64,
    pub seconds: f64,
    pub retries: u64,
}

/// Fields are dropped in this order: clients before servers.
pub struct Session {
    pub drainer: Option<Drainer>,
    pub pumps: Vec<Pump>,
    pub mariadb: Option<MariaDb>,
    pub standin: Standin,
    pub capture: Capture,
    plan: Vec<Vec<Record>>,
}

impl Session {
    /// Starts everything on a fresh `work` directory, with the capture's clock 10 s before its first timestamp.
    pub async fn start(capture: Capture, work: &Path, setup: &Setup) -> Result<Self> {
        let count = setup.pumps.unwrap_or(capture.pumps.len());
        let options = Options { work_dir: Some(work.join("etcd")), ..Options::default() };
        let standin = Standin::start(options).await.context("the stand-in cluster")?;
        standin.shared.load_capture(&capture)?;
        standin.shared.tso().start()?;
        let mut pumps = Vec::new();
        for n in 1..=count {
            let node_id = format!("pump{n}");
            pumps.push(Pump::start(work, &node_id, &standin.shared.pd_url, &setup.pump_config).await?);
        }
        let plan = feed::plan(&capture, count);
        let mut session = Self { drainer: None, pumps, mariadb: None, standin, capture, plan };
        wait_online(&mut session.pumps, &session.standin.shared.pd_url).await?;
        if setup.drainer {
            let mariadb = MariaDb::start(work).await?;
            let recorded = session.capture.facts.drainer_config_mysql.clone();
            let drainer = Drainer::start(work, &session.standin.shared.pd_url, &recorded, &mariadb).await?;
            session.mariadb = Some(mariadb);
            session.drainer = Some(drainer);
        }
        Ok(session)
    }

    /// Fails when any process has died.
    pub fn check(&mut self) -> Result<()> {
        self.standin.check()?;
        self.pumps.iter_mut().try_for_each(Pump::check)?;
        self.mariadb.as_mut().map_or(Ok(()), MariaDb::check)?;
        self.drainer.as_mut().map_or(Ok(()), Drainer::check)
    }

    /// Feeds the capture, without a clock in between, and starts the clock behind it. What `kill` names is killed by SIGKILL and
    /// started again while it is written to.
    pub async fn feed(&mut self, rate: Option<f64>, kill: Kill) -> Result<Fed> {
        let counters = Arc::new(Counters::new(self.plan.iter().map(|p| p.len() as u64).collect()));
        let addresses: Vec<String> = self.pumps.iter().map(|p| p.address.clone()).collect();
        let start = Instant::now();
        self.standin.shared.tso().outage();
        let plan = std::mem::take(&mut self.plan);
        let cluster_id = self.capture.facts.cluster_id;
        let feeding = feed::feed(cluster_id, &plan, &addresses, rate, &counters);
        let mut due: Vec<Vec<u64>> =
            plan.iter().enumerate().map(|(n, records)| kill.at(n, records.len() as u64)).collect();
        let watching = async {
            let mut line = Line::default();
            loop {
                for (n, pump) in self.pumps.iter_mut().enumerate() {
                    if let Some(points) = due.get_mut(n)
                        && points.last().is_some_and(|&point| counters.of(n) >= point)
                    {
                        points.pop();
                        line.note(&format!("  SIGKILL {} after {} of its records", pump.node_id, counters.of(n)));
                        pump.kill_and_restart().await.with_context(|| format!("{} after SIGKILL", pump.node_id))?;
                    }
                    pump.check()?;
                }
                self.standin.check()?;
                if let Some(drainer) = &mut self.drainer {
                    drainer.check()?;
                }
                line.show(|| {
                    let fed = counters.sum();
                    let per_second = fed as f64 / start.elapsed().as_secs_f64().max(0.001);
                    format!(
                        "feeding: {fed} of {} records, {per_second:.0}/s, {} retries",
                        counters.all(),
                        counters.retries()
                    )
                });
                if counters.sum() == counters.all() && due.iter().all(Vec::is_empty) {
                    return anyhow::Ok(());
                }
                // A kill has to hit the middle of a feed that may take only milliseconds.
                let pause = if due.iter().all(Vec::is_empty) { POLL } else { Duration::from_millis(1) };
                tokio::time::sleep(pause).await;
            }
        };
        let outcome = tokio::try_join!(feeding, watching);
        self.plan = plan;
        outcome?;
        self.standin.shared.tso().resume();
        Ok(Fed { records: counters.sum(), seconds: start.elapsed().as_secs_f64(), retries: counters.retries() })
    }

    /// Every Pump's stream from position 0, up to its first item above the largest recorded commit timestamp.
    pub async fn pull(&mut self) -> Result<Vec<Vec<Item>>> {
        let up_to = self.capture.largest_commit_ts();
        let mut out = Vec::new();
        for pump in &mut self.pumps {
            let pulled = pull_one(&pump.address, self.capture.facts.cluster_id, up_to).await;
            if pulled.is_err() {
                pump.check()?;
            }
            out.push(pulled.with_context(|| format!("the stream of {} (log: {})", pump.node_id, pump.log.display()))?);
        }
        Ok(out)
    }
}

/// Which Pumps are killed by SIGKILL during the feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kill {
    None,
    /// The first one, in the middle of its part.
    First,
    /// Each, in the middle of its part.
    All,
    /// Each, so often, evenly over its part.
    Often(u64),
}

impl Kill {
    /// After how many acknowledged records Pump `n` (from 0) is killed; the first point is the last in the list.
    fn at(self, n: usize, records: u64) -> Vec<u64> {
        let times = match self {
            Self::None => 0,
            Self::First => u64::from(n == 0),
            Self::All => 1,
            Self::Often(times) => times,
        };
        (1..=times).rev().map(|k| records * k / (times + 1)).collect()
    }
}

/// Until the registry shows every Pump online: only then would TiDB write to it. Gives the entries.
pub async fn wait_online(pumps: &mut [Pump], pd_url: &str) -> Result<Vec<NodeStatus>> {
    let mut registry = Client::connect([pd_url], None).await.context("connect to the registry")?;
    let mut out = Vec::new();
    for pump in pumps {
        let key = format!("/tidb-binlog/v1/pumps/{}", pump.node_id);
        let deadline = Instant::now() + READY;
        loop {
            pump.check()?;
            let found = registry.get(key.as_str(), None).await.with_context(|| format!("read {key}"))?;
            let entry = found.kvs().first().map(|kv| kv.value().to_vec()).unwrap_or_default();
            let status = serde_json::from_slice::<NodeStatus>(&entry).ok().filter(|s| s.state == NodeState::Online);
            if let Some(status) = status {
                out.push(status);
                break;
            }
            if Instant::now() > deadline {
                bail!(
                    "{} is not online after {READY:?}; the registry has `{}`, its log is {}",
                    pump.node_id,
                    String::from_utf8_lossy(&entry),
                    pump.log.display()
                );
            }
            tokio::time::sleep(POLL).await;
        }
    }
    Ok(out)
}

async fn pull_one(address: &str, cluster_id: u64, up_to: u64) -> Result<Vec<Item>> {
    let mut client = feed::client(address)?;
    let request = PullBinlogReq { cluster_id, start_from: Some(Pos::default()) };
    let mut stream = client.pull_binlogs(request).await.context("PullBinlogs")?.into_inner();
    let mut items: Vec<Item> = Vec::new();
    loop {
        let last = items.last().map_or(0, |item| item.commit_ts);
        let message = tokio::time::timeout(SILENCE, stream.message())
            .await
            .with_context(|| format!("no item for {SILENCE:?} after commit ts {last}, {up_to} is not reached"))?
            .with_context(|| format!("after commit ts {last}"))?;
        let Some(entity) = message.map(|m| m.entity.unwrap_or_default()) else {
            bail!("the stream ended after commit ts {last}, before {up_to}")
        };
        let item = compare_stream::item(entity.meta.map(|m| (m.start_ts, m.commit_ts)), entity.payload)?;
        let ended = item.commit_ts > up_to;
        items.push(item);
        if ended {
            return Ok(items);
        }
    }
}
