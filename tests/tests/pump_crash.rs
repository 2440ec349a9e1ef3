//! The Pump's process is killed with SIGKILL twenty times under load. Nothing that it acknowledged is lost, nothing that it showed
//! vanishes, nothing is shown twice or out of order.

mod pump_common;

use binlog_standin::Shared;
use binlog_tests::feed;
use binlog_tests::harness::WorkDir;
use pump_common::{Client, Item, Node, POLL, cluster, next, p, pull, pull_until, r, tso, write};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const KILLS: u64 = 20;
const WRITERS: u64 = 8;
/// How long a writer tries one record; a restart takes a second or two.
const GIVE_UP: Duration = Duration::from_secs(60);
/// Segments of 256 KiB: the log rotates all the time, and some records are larger than a segment.
const CONFIG: &str = "[storage]\nsegment-size = \"256 kib\"\nstop-write-at-available-space = \"1 mib\"\n";

/// Deterministic noise (splitmix64).
fn mix(n: u64) -> u64 {
    let z = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The rows of the transaction that began at `start_ts`: their size and content follow from it.
fn value(start_ts: i64) -> Vec<u8> {
    let noise = mix(start_ts.unsigned_abs());
    let size = match noise % 100 {
        0 => 300_000,
        n if n < 20 => 20_000,
        _ => 100 + noise / 100 % 3000,
    };
    (0..size).map(|n| mix(noise ^ (n / 64)).to_le_bytes()[(n % 8) as usize]).collect()
}

/// What the writers know.
#[derive(Default)]
struct World {
    acknowledged: AtomicU64,
    over: AtomicBool,
    /// commit_ts → start_ts of every transaction whose P and C were acknowledged.
    committed: Mutex<BTreeMap<i64, i64>>,
}

/// As TiDB: the timestamp of the commit is fetched after the acknowledgement of P; each record is repeated until it is
/// acknowledged. Every tenth transaction is rolled back; some retry a P that was acknowledged (its reply was lost).
async fn writer(number: u64, address: String, shared: Arc<Shared>, world: Arc<World>) {
    let mut client = feed::client(&address).unwrap();
    let mut n = number;
    while !world.over.load(Ordering::SeqCst) {
        n += WRITERS;
        let start_ts = tso(&shared);
        let prewrite = p(start_ts, value(start_ts));
        for _ in 0..=u64::from(n.is_multiple_of(7)) {
            until_acknowledged(&mut client, &shared, prewrite.clone()).await;
        }
        if n.is_multiple_of(10) {
            until_acknowledged(&mut client, &shared, r(start_ts)).await;
        } else {
            let commit_ts = tso(&shared);
            for _ in 0..=u64::from(n.is_multiple_of(5)) {
                until_acknowledged(&mut client, &shared, pump_common::c(start_ts, commit_ts)).await;
            }
            world.committed.lock().unwrap().insert(commit_ts, start_ts);
        }
        world.acknowledged.fetch_add(1, Ordering::SeqCst);
    }
}

async fn until_acknowledged(client: &mut Client, shared: &Shared, payload: bytes::Bytes) {
    let deadline = Instant::now() + GIVE_UP;
    while let Err(status) = write(client, shared.cluster_id(), payload.clone()).await {
        assert!(Instant::now() < deadline, "not acknowledged: {status}");
        tokio::time::sleep(POLL).await;
    }
}

/// A Drainer: pulls all the time and comes back with the last timestamp that it got.
async fn drainer(address: String, cluster_id: u64, world: Arc<World>, seen: Arc<Mutex<Vec<Item>>>) {
    let mut client = feed::client(&address).unwrap();
    while !world.over.load(Ordering::SeqCst) {
        let last = seen.lock().unwrap().last().map_or(0, |item: &Item| item.commit_ts);
        if let Ok(mut stream) = pull(&mut client, cluster_id, last).await {
            while let Ok(item) = next(&mut stream).await {
                let mut seen = seen.lock().unwrap();
                let last = seen.last().map_or(0, |item| item.commit_ts);
                assert!(item.commit_ts > last, "{} after {last}", item.commit_ts);
                seen.push(item);
                if world.over.load(Ordering::SeqCst) {
                    return;
                }
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_kills_under_load() {
    let work = WorkDir::new("crash").unwrap();
    let standin = cluster(&work).await;
    let cluster_id = standin.shared.cluster_id();
    let mut node = Node::new(work.path(), "pump1", &standin.shared.pd_url, CONFIG);
    node.start().await;

    let world = Arc::new(World::default());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..WRITERS {
        writers.spawn(writer(number, node.address.clone(), standin.shared.clone(), world.clone()));
    }
    let drains = tokio::spawn(drainer(node.address.clone(), cluster_id, world.clone(), seen.clone()));

    for kill in 0..KILLS {
        // At another point of the load each time; every fifth life ends while it still recovers.
        let goal = world.acknowledged.load(Ordering::SeqCst) + 5 + mix(kill) % 60;
        let deadline = Instant::now() + GIVE_UP;
        while world.acknowledged.load(Ordering::SeqCst) < goal {
            assert!(Instant::now() < deadline, "the load stands still in life {kill}\n{}", node.log_text());
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        node.kill();
        node.spawn();
        if kill % 5 == 4 {
            node.says("recovered: ").await;
            node.kill();
            node.spawn();
        }
    }
    node.online().await;
    world.over.store(true, Ordering::SeqCst);
    while let Some(ended) = writers.join_next().await {
        ended.unwrap();
    }
    drains.await.unwrap();

    let committed = world.committed.lock().unwrap().clone();
    let (&newest, _) = committed.last_key_value().unwrap();
    let all = pull_until(&node.address, cluster_id, 0, newest).await.unwrap();
    for pair in all.windows(2) {
        assert!(pair[0].commit_ts < pair[1].commit_ts, "{} before {}", pair[0].commit_ts, pair[1].commit_ts);
    }
    // Every acknowledged transaction exactly once, with its rows, and nothing else.
    let mut rest = committed.clone();
    for item in all.iter().filter(|item| !item.is_fake()) {
        let binlog = item.binlog();
        assert_eq!(rest.remove(&item.commit_ts), Some(binlog.start_ts), "{} was never committed", item.commit_ts);
        assert_eq!((binlog.tp, binlog.commit_ts), (pump_common::COMMIT, item.commit_ts));
        assert!(binlog.prewrite_value.unwrap() == value(binlog.start_ts), "rows of {}", binlog.start_ts);
    }
    assert!(rest.is_empty(), "{} of {} transactions are lost: {rest:?}", rest.len(), committed.len());
    // What the stream showed, through all kills, is what is there: nothing vanished and nothing came too late.
    let seen = seen.lock().unwrap().clone();
    assert!(seen.len() > 100, "the stream showed only {} items", seen.len());
    // (Fakes on demand are in no log: only who was there saw them.)
    let until = seen.last().map_or(0, |item| item.commit_ts);
    let shown = seen.iter().filter(|item| !item.is_fake() && item.commit_ts <= newest).collect::<Vec<_>>();
    let there = all.iter().filter(|item| !item.is_fake() && item.commit_ts <= until).collect::<Vec<_>>();
    for (shown, there) in shown.iter().zip(&there) {
        assert!(shown == there, "shown {}, there is {}", shown.commit_ts, there.commit_ts);
    }
    assert_eq!(shown.len(), there.len(), "up to {until}");

    let slots = std::fs::read_dir(node.data.join("log")).unwrap().count();
    assert!(slots > 10, "the log has rotated: {slots} files");
    assert_eq!(node.lines("ERROR", ""), Vec::<String>::new());
    assert_eq!(node.terminate().await.code(), Some(0));
}
