//! Clients: transactions that write P, then C or R, and lose patience on the way; readers with little credit that go and come
//! back; somebody who asks for the status.

use crate::ports::{Item, Request};
use crate::world::{Door, World};
use binlog_core::binlog::item::fake;
use binlog_core::fault::Reject;
use binlog_core::ids::{CommitTs, StartTs, StreamId};
use binlog_core::proto::binlog::Binlog;
use binlog_core::pump::input::Input;
use binlog_core::time::Tso;
use binlog_sim::rng::Rng;
use bytes::Bytes;
use prost::Message;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// How one call ended for its client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Answered(Result<(), Reject>),
    /// The process went, or had gone.
    Dropped,
    GaveUp,
}

/// Which way a client's calls take. Calls of one way arrive in the order in which they were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Straight into the inbox, waiting while it is full.
    Direct,
    /// Through the service, which fetches a call when there is room.
    Service,
}

/// No call of a patient client waits longer: neither an outage of this lane nor a shutdown takes that long.
const FORGOTTEN: Duration = Duration::from_secs(120);

/// One WriteBinlog call.
pub async fn call(world: &World, door: &Door, way: Way, payload: Bytes, patience: Option<Duration>) -> Outcome {
    let (reply, answered) = oneshot::channel();
    let request = Request::Write { payload, reply };
    let work = async {
        let entered = match way {
            Way::Direct => enter(world, door, request).await,
            Way::Service => door.service.send(request).await.is_ok(),
        };
        match answered.await {
            Ok(result) if entered => Outcome::Answered(result),
            _ => Outcome::Dropped,
        }
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

async fn enter(world: &World, door: &Door, request: Request) -> bool {
    let entered = door.sender.request(request).await.is_ok();
    if entered {
        world.with(|s| {
            s.waiting += 1;
            s.most_waiting = s.most_waiting.max(s.waiting);
        });
    }
    entered
}

#[must_use]
pub fn prewrite(start: StartTs, value: Vec<u8>) -> Bytes {
    let start_ts = start.raw().cast_signed();
    let prewrite_key = Some(start.raw().to_be_bytes().to_vec().into());
    let prewrite_value = Some(value.into());
    Binlog { tp: 0, start_ts, prewrite_key, prewrite_value, ..Binlog::default() }.encode_to_vec().into()
}

fn decision(start: StartTs, commit: Option<CommitTs>) -> Bytes {
    let commit_ts = commit.map_or(0, |ts| ts.raw().cast_signed());
    let tp = if commit.is_some() { 1 } else { 2 };
    Binlog { tp, start_ts: start.raw().cast_signed(), commit_ts, ..Binlog::default() }.encode_to_vec().into()
}

/// One transaction, to its end: P until it is acknowledged or the client has had enough; then C or R until it is acknowledged.
pub async fn transaction(world: Arc<World>, n: u64) {
    let mut rng = world.rng("transaction", n);
    tokio::time::sleep(Duration::from_millis(rng.range(1, SPREAD_MS))).await;
    let way = if rng.percent(50) { Way::Direct } else { Way::Service };
    let start = StartTs::new(world.tso().raw());
    let value = vec![u8::try_from(n % 251).unwrap_or(0); rng.index(600)];
    let p = prewrite(start, value);
    let mut accepted = false;
    // Some wait for however long it takes: else a process that is seldom online sees hardly a commit.
    let tries = rng.range(1, 8);
    for _ in 0..if n.is_multiple_of(5) { u64::MAX } else { tries } {
        accepted = attempt(&world, &mut rng, way, &p).await;
        if accepted {
            break;
        }
    }
    // The commit timestamp is taken after the acknowledgement of P: what the watermark relies on.
    let commit = (accepted && rng.percent(85)).then(|| CommitTs::new(world.tso().raw()));
    let payload = decision(start, commit);
    while !attempt(&world, &mut rng, way, &payload).await {}
    world.with(|s| match commit {
        Some(commit) => drop(s.committed.insert(commit, start)),
        None => s.rolled_back.push(start),
    });
}

/// One call, patient or not; whether it was acknowledged.
async fn attempt(world: &World, rng: &mut Rng, way: Way, payload: &Bytes) -> bool {
    let patience = rng.percent(40).then(|| Duration::from_millis(rng.range(1, 100)));
    let outcome = match world.door() {
        Some(door) => call(world, &door, way, payload.clone(), patience).await,
        None => Outcome::Dropped,
    };
    let acknowledged = outcome == Outcome::Answered(Ok(()));
    if !acknowledged {
        tokio::time::sleep(Duration::from_millis(rng.range(1, 150))).await;
    }
    acknowledged
}

/// Reads everything from the beginning with little credit, over all lives, until everything that was committed was seen.
/// Returns the binlogs, without fakes.
pub async fn read_all(world: Arc<World>, n: u64) -> Vec<(CommitTs, StartTs)> {
    let mut rng = world.rng("reader", n);
    let mut seen = Vec::new();
    let mut last = CommitTs::ZERO;
    let mut streams = n << 32;
    while !is_complete(&world, last) {
        let Some(door) = world.door() else {
            world.pause(1, 100).await;
            continue;
        };
        streams += 1;
        let stream = StreamId::new(streams);
        let mut credit = rng.range(1, 2_000).cast_signed();
        let (items, mut received) = mpsc::unbounded_channel();
        let open = Request::PullOpen { stream, last, credit: credit.unsigned_abs(), items };
        if !enter(&world, &door, open).await {
            world.pause(1, 100).await;
            continue;
        }
        let mut left = if rng.percent(30) { rng.below(8) } else { u64::MAX };
        while left > 0 && !is_complete(&world, last) {
            let item = timeout(SILENCE, received.recv()).await.expect("a stream is silent");
            let Some(Item::Binlog { start_ts, commit_ts, payload }) = item else { break };
            let bytes = payload.iter().map(Bytes::len).sum::<usize>() as u64;
            assert!(credit > 0, "an item without credit");
            credit -= bytes.cast_signed();
            assert!(commit_ts > last, "out of order: {commit_ts} after {last}");
            last = commit_ts;
            if payload.concat() != fake(Tso::new(commit_ts.raw())).as_ref() {
                seen.push((commit_ts, StartTs::new(start_ts.cast_unsigned())));
            }
            if rng.percent(10) {
                world.pause(1, 200).await;
            }
            door.sender.signal(Request::PullCredit { stream, bytes });
            credit += bytes.cast_signed();
            left -= 1;
        }
        drop(received);
        door.sender.signal(Request::PullClosed { stream });
        world.pause(1, 20).await;
    }
    seen
}

/// Whether every transaction has ended, and a reader at `last` has seen all of them.
fn is_complete(world: &World, last: CommitTs) -> bool {
    world.counted(FINISHED) > 0 && world.with(|s| s.committed.keys().next_back().is_none_or(|ts| last >= *ts))
}

/// Asks for the status from time to time; every question ends.
pub async fn ask(world: Arc<World>) {
    while world.counted(FINISHED) == 0 {
        world.pause(1, 100).await;
        let Some(door) = world.door() else { continue };
        let answer = timeout(Duration::from_secs(5), door.asker.ask(Input::Tick)).await.expect("nobody answers");
        world.count(if answer.is_some() { "status" } else { "no status: the driver had ended" });
    }
}

/// Counted once when all transactions have ended.
pub const FINISHED: &str = "finished";
/// Transactions begin within this: longer than most lives before the last one take together.
const SPREAD_MS: u64 = 20_000;
/// An open stream yields something within this: fakes, when all else is quiet.
const SILENCE: Duration = Duration::from_secs(120);
