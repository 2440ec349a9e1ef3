//! Transactions and fakes in the Pumps' logs, the registry's list of Pumps, and whoever calls the Drainer.

use super::ports::Request;
use super::side::{PUMPS, World};
use binlog_core::binlog::item::fake;
use binlog_core::drainer::input::{Input, ResolveAction};
use binlog_core::ids::CommitTs;
use binlog_core::node::status::{NodeState, NodeStatus};
use binlog_core::proto::binlog::Binlog;
use binlog_sim::sink::Done;
use binlog_sim::translate::{digest, job};
use prost::Message;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// How one call ended for its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Answered {
        well: bool,
    },
    /// The process went, or had gone.
    Dropped,
    GaveUp,
}

/// Counted once when all transactions are applied.
pub const FINISHED: &str = "finished";
/// No call of a patient client waits longer: neither an outage of this lane nor a shutdown takes that long.
const FORGOTTEN: Duration = Duration::from_secs(120);
/// One transaction in so many is a DDL.
const PER_DDL: u64 = 25;

/// Commits one transaction now, into the log of one Pump. Nothing is awaited: logs are in commit order.
pub fn commit(world: &World, pump: usize, size: usize) {
    let (start, commit) = (world.tso().raw(), world.tso().raw());
    let number = world.with(|s| s.truth.len() as u64);
    let text: Vec<u8> = number.to_le_bytes().into_iter().chain(vec![1; size]).collect();
    let mut binlog =
        Binlog { tp: 1, start_ts: start.cast_signed(), commit_ts: commit.cast_signed(), ..Binlog::default() };
    let done = Done { commit_ts: commit, digest: digest(&text) };
    if number % PER_DDL == PER_DDL - 1 {
        binlog.ddl_job_id = 100 + number.cast_signed();
        binlog.ddl_query = Some(text.into());
        binlog.ddl_schema_state = 5;
    } else {
        binlog.prewrite_value = Some(text.into());
    }
    world.with(|s| {
        if binlog.ddl_job_id > 0 {
            let version = 1 + i64::try_from(s.jobs.len()).expect("few");
            s.jobs.push((binlog.ddl_job_id, job(binlog.ddl_job_id, version, commit)));
        }
        s.truth.push(done);
        s.pumps[pump].items.push((commit, binlog.encode_to_vec().into()));
        s.growth.notify_waiters();
    });
}

/// A Pump: registers, and from then on promises its position from time to time.
pub async fn pump(world: Arc<World>, n: usize) {
    let mut rng = world.rng("pump", n as u64);
    // The last one comes late.
    let after_ms = if n + 1 == PUMPS { rng.range(1_000, 8_000) } else { rng.below(50) };
    tokio::time::sleep(Duration::from_millis(after_ms)).await;
    world.with(|s| s.pumps[n].registered = true);
    while world.counted(FINISHED) == 0 {
        tokio::time::sleep(Duration::from_millis(rng.range(20, 200))).await;
        let ts = world.tso();
        world.with(|s| {
            s.pumps[n].items.push((ts.raw(), fake(ts)));
            s.growth.notify_waiters();
        });
    }
}

/// What the registry tells about the Pumps.
pub fn entries(world: &World) -> Vec<NodeStatus> {
    let entry = |n: usize| NodeStatus {
        node_id: format!("pump-{n}"),
        host: format!("pump-{n}"),
        state: NodeState::Online,
        is_alive: true,
        score: 0,
        label: serde_json::Value::Null,
        max_commit_ts: 0,
        update_ts: 0,
        token: None,
    };
    world.with(|s| (0..PUMPS).filter(|n| s.pumps[*n].registered).map(entry).collect())
}

/// All transactions of a run, spread over its lives.
pub async fn write(world: Arc<World>, transactions: u64) {
    let mut rng = world.rng("writer", 0);
    for _ in 0..transactions {
        if rng.percent(60) {
            tokio::time::sleep(Duration::from_millis(rng.range(1, 90))).await;
        }
        let ready: Vec<usize> = world.with(|s| (0..PUMPS).filter(|n| s.pumps[*n].registered).collect());
        if let Some(pump) = ready.get(rng.index(ready.len().max(1))) {
            commit(&world, *pump, rng.index(3_000));
        }
    }
}

/// `Cistern.Notify`, or a command of an operator; with or without patience.
pub async fn call(world: &World, n: u64, patience: Option<Duration>) -> Outcome {
    let Some(door) = world.with(|s| s.door.clone()) else { return Outcome::Dropped };
    let work = async {
        let (notified, notice) = oneshot::channel();
        let (resolved, resolution) = oneshot::channel();
        let notifies = n.is_multiple_of(4);
        let request = if notifies {
            Request::Resolve { commit_ts: CommitTs::new(n), action: ResolveAction::Retry, reply: resolved }
        } else {
            Request::Notify(notified)
        };
        if door.sender.request(request).await.is_err() {
            return Outcome::Dropped;
        }
        let well = if notifies {
            resolution.await.map(|result| result.is_ok())
        } else {
            notice.await.map(|result| result.is_ok())
        };
        well.map_or(Outcome::Dropped, |well| Outcome::Answered { well })
    };
    match timeout(patience.unwrap_or(FORGOTTEN), work).await {
        Ok(outcome) => outcome,
        Err(_) if patience.is_some() => {
            world.count("client gave up");
            Outcome::GaveUp
        }
        Err(_) => panic!("a call is neither answered nor dropped"),
    }
}

/// Calls again and again over all lives.
pub async fn caller(world: Arc<World>, n: u64) {
    let mut rng = world.rng("caller", n);
    while world.counted(FINISHED) == 0 {
        tokio::time::sleep(Duration::from_millis(rng.range(1, 500))).await;
        let patience = rng.percent(40).then(|| Duration::from_millis(rng.range(1, 100)));
        match call(&world, rng.next_u64(), patience).await {
            Outcome::Answered { well: true } => world.count("notified"),
            Outcome::Answered { well: false } => world.count("refused"),
            Outcome::Dropped => world.count("dropped"),
            Outcome::GaveUp => {}
        }
    }
}

/// Asks for the status from time to time; every question ends.
pub async fn ask(world: Arc<World>) {
    while world.counted(FINISHED) == 0 {
        world.pause(1, 100).await;
        let Some(door) = world.with(|s| s.door.clone()) else { continue };
        let answer = timeout(Duration::from_secs(5), door.asker.ask(Input::Tick)).await.expect("nobody answers");
        world.count(if answer.is_some() { "status" } else { "no status: the driver had ended" });
    }
}

/// Sessions of the downstream that have lost their connection end some time.
pub async fn settle(world: Arc<World>) {
    while world.counted(FINISHED) == 0 {
        world.pause(5, 2_000).await;
        world.with(|s| s.settle());
    }
}
