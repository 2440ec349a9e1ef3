//! Scenarios: what is run from one seed, and what must hold at its end. A violation is a panic.

use crate::client::{FINISHED, Outcome, Way, ask, call, prewrite, read_all, transaction};
use crate::process::{Death, Process};
use crate::world::{Side, World};
use binlog_core::ids::{CommitTs, StartTs};
use binlog_core::node::status::NodeState;
use binlog_core::pump::input::Input;
use binlog_runtime::driver::REQUESTS;
use madsim::runtime::Runtime;
use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// What a run leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Over every input and effect with its virtual time.
    pub hash: u64,
    pub events: u64,
    pub counts: BTreeMap<&'static str, u64>,
}

/// Nothing here takes longer unless something waits for ever.
const TIME_LIMIT: Duration = Duration::from_secs(900);
const TRANSACTIONS: u64 = 150;
const READERS: u64 = 3;

/// Runs one scenario on a thread and a runtime of its own.
///
/// # Panics
/// On every violation, with the seed in front.
pub fn run<S: Side + 'static, F: Future<Output = ()>>(
    seed: u64,
    scenario: impl FnOnce(Arc<World<S>>) -> F + Send + 'static,
) -> Report {
    let thread = std::thread::spawn(move || {
        let mut runtime = Runtime::with_seed_and_config(seed, madsim::Config::default());
        runtime.set_time_limit(TIME_LIMIT);
        runtime.block_on(async move {
            let world = World::new(seed);
            scenario(world.clone()).await;
            world.with(|s| Report { hash: s.trace.hash(), events: s.trace.events, counts: s.counts.clone() })
        })
    });
    thread.join().unwrap_or_else(|panic| {
        eprintln!("seed {seed}: repeat with MADSIM_TEST_SEED={seed} MADSIM_TEST_NUM=1");
        resume_unwind(panic)
    })
}

/// Transactions, readers and questions over several lives of the process, which end in every way; then a shutdown while calls
/// wait. Nothing that was acknowledged is lost, every call ends, every reader sees the same.
pub async fn lives(world: Arc<World>) {
    let mut rng = world.rng("lives", 0);
    let transactions: Vec<_> = (0..TRANSACTIONS).map(|n| tokio::spawn(transaction(world.clone(), n))).collect();
    let readers: Vec<_> = (1..=READERS).map(|n| tokio::spawn(read_all(world.clone(), n))).collect();
    let asker = tokio::spawn(ask(world.clone()));
    let last = rng.range(3, 6);
    for life in 1..last {
        let process = Process::start(&world, life);
        sleep(Duration::from_millis(rng.range(50, 2_500))).await;
        match rng.below(4) {
            0 => process.die(Death::Killed).await,
            1 => process.die(Death::PowerLoss).await,
            2 => {
                process.ask_to_stop();
                process.ended().await;
                assert_paused(&world);
            }
            _ => {
                process.ask_to_stop();
                sleep(Duration::from_millis(rng.range(1, 200))).await;
                if process.has_ended() {
                    process.ended().await;
                } else {
                    world.count("killed while stopping");
                    process.die(Death::Killed).await;
                }
            }
        }
        world.pause(1, 500).await;
    }
    let process = Process::start(&world, last);
    for transaction in transactions {
        transaction.await.expect("no panic");
    }
    world.count(FINISHED);
    let truth: Vec<(CommitTs, StartTs)> = world.with(|s| s.committed.clone()).into_iter().collect();
    assert!(truth.len() > 10, "{} commits in {:?}: the scenario does too little", truth.len(), world.elapsed());
    for reader in readers {
        assert_eq!(reader.await.expect("no panic"), truth, "what a reader saw");
    }
    assert_eq!(read_all(world.clone(), READERS + 1).await, truth, "what is there at the end");
    asker.await.expect("no panic");

    let late: Vec<_> = (0..100).map(|n| tokio::spawn(late_call(world.clone(), n))).collect();
    sleep(Duration::from_millis(rng.range(1, 30))).await;
    process.ask_to_stop();
    process.ended().await;
    for call in late {
        assert_ne!(call.await.expect("no panic"), Outcome::GaveUp);
    }
    assert_paused(&world);
}

/// The disk stands still until the machine takes no more writes: the inbox fills to its limit and no further, and what frees
/// is still taken. Then, by `stop`, the disk goes on and every call succeeds, or the process is stopped and every call ends.
pub async fn full_inbox(world: Arc<World>, stop: bool) {
    let process = Process::start(&world, 1);
    while state(&world).await != Some(NodeState::Online) {
        world.pause(10, 100).await;
    }
    world.stall(true);
    let big: Vec<_> = (0..80).map(|_| tokio::spawn(write(world.clone(), 1 << 20))).collect();
    sleep(Duration::from_secs(1)).await;
    let small: Vec<_> = (0..2 * REQUESTS).map(|_| tokio::spawn(write(world.clone(), 10))).collect();
    sleep(Duration::from_secs(1)).await;
    let (waiting, most) = world.with(|s| (s.waiting, s.most_waiting));
    let limit = i64::try_from(REQUESTS).expect("small");
    // `forward` holds the one place that is not taken.
    assert!(waiting == limit - 1 && most <= limit, "{waiting} requests wait, at most {most}");
    assert_eq!(state(&world).await, Some(NodeState::Online), "the driver still answers");
    if stop {
        process.ask_to_stop();
        process.ended().await;
    } else {
        world.stall(false);
    }
    for call in big.into_iter().chain(small) {
        match call.await.expect("no panic") {
            Outcome::Answered(Ok(())) if !stop => world.count("succeeded"),
            Outcome::Answered(Err(_)) if stop => world.count("refused"),
            Outcome::Dropped if stop => world.count("dropped"),
            other => panic!("{other:?} with stop = {stop}"),
        }
    }
}

async fn state(world: &World) -> Option<NodeState> {
    let door = world.door()?;
    door.asker.ask(Input::Tick).await.map(|status| status.state)
}

async fn write(world: Arc<World>, size: usize) -> Outcome {
    let payload = prewrite(StartTs::new(world.tso().raw()), vec![7; size]);
    match world.door() {
        Some(door) => call(&world, &door, Way::Direct, payload, None).await,
        None => Outcome::Dropped,
    }
}

async fn late_call(world: Arc<World>, n: u64) -> Outcome {
    world.pause(1, 60).await;
    let payload = prewrite(StartTs::new(world.tso().raw()), vec![1; 100]);
    let way = if n.is_multiple_of(2) { Way::Direct } else { Way::Service };
    match world.door() {
        Some(door) => call(&world, &door, way, payload, None).await,
        None => Outcome::Dropped,
    }
}

/// Whoever had registered says that it goes. One that had not come so far leaves the entry as it found it.
fn assert_paused(world: &World) {
    let (registered, state) = world.with(|s| (s.registered, s.registry.as_ref().map(|status| status.state)));
    if registered {
        assert_eq!(state, Some(NodeState::Paused), "after an end in order");
    } else {
        world.count("stopped before it had registered");
    }
}
