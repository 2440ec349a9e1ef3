//! Scenarios of the Drainer's lane. A violation is a panic.

use super::process::Process;
use super::side::{DrainerSide, MEMORY, World};
use super::upstream::{FINISHED, Outcome, ask, call, caller, commit, pump, settle, write};
use crate::world::State;
use binlog_core::drainer::input::Input;
use binlog_core::drainer::status::DrainerStatus;
use binlog_core::node::status::NodeState;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::sleep;

const TRANSACTIONS: u64 = 500;
const CALLERS: u64 = 6;
/// Everything that was committed is applied within this.
const PATIENCE: Duration = Duration::from_secs(300);

/// What a run has besides the process.
fn surroundings(world: &Arc<World>) -> Vec<JoinHandle<()>> {
    let mut tasks: Vec<_> = (0..super::side::PUMPS).map(|n| tokio::spawn(pump(world.clone(), n))).collect();
    tasks.extend((0..CALLERS).map(|n| tokio::spawn(caller(world.clone(), n))));
    tasks.push(tokio::spawn(ask(world.clone())));
    tasks.push(tokio::spawn(settle(world.clone())));
    tasks
}

/// Transactions, calls and questions over several lives of the process, which end in every way; then a shutdown while calls
/// wait. Every transaction is applied once and in order, every call ends.
pub async fn lives(world: Arc<World>) {
    let mut rng = world.rng("lives", 0);
    let tasks = surroundings(&world);
    let writer = tokio::spawn(write(world.clone(), TRANSACTIONS));
    let last = rng.range(3, 6);
    for life in 1..last {
        let process = Process::start(&world, life);
        sleep(Duration::from_millis(rng.range(50, 4_000))).await;
        match rng.below(4) {
            0 | 1 => process.die().await,
            2 => {
                process.ask_to_stop().await;
                process.ended().await;
                assert_paused(&world);
            }
            _ => {
                process.ask_to_stop().await;
                sleep(Duration::from_millis(rng.range(1, 200))).await;
                if process.has_ended() {
                    process.ended().await;
                } else {
                    world.count("killed while stopping");
                    process.die().await;
                }
            }
        }
        world.pause(1, 500).await;
    }
    let process = Process::start(&world, last);
    writer.await.expect("no panic");
    all_applied(&world).await;

    let late: Vec<_> = (0..100).map(|n| tokio::spawn(late_call(world.clone(), n))).collect();
    sleep(Duration::from_millis(rng.range(1, 30))).await;
    process.ask_to_stop().await;
    process.ended().await;
    for call in late {
        assert_ne!(call.await.expect("no panic"), Outcome::GaveUp);
    }
    assert_paused(&world);
    end(&world, tasks).await;
}

/// The downstream stands still while the Pumps have far more than the Drainer may hold: the sources are held back within the
/// limit, and everybody is answered. Then, by `stop`, the downstream goes on and all is applied, or the process is stopped and
/// ends in spite of it.
pub async fn held_back(world: Arc<World>, stop: bool) {
    let tasks = surroundings(&world);
    let process = Process::start(&world, 1);
    while status(&world).await.is_none_or(|s| s.state != "running" || s.checkpoint == 0) {
        world.pause(10, 100).await;
    }
    world.stall(true);
    let before = world.with(|s| s.handed_in);
    for n in 0..3_000 {
        commit(&world, n % 2, 4_000);
    }
    sleep(Duration::from_secs(10)).await;
    let handed_in = world.with(|s| s.handed_in) - before;
    assert!((MEMORY / 2..2 * MEMORY).contains(&handed_in), "{handed_in} bytes came in while nothing went out");
    let status = status(&world).await.expect("the driver still answers");
    // One item more per Pump may come while there is credit.
    assert!(status.queues.bytes <= MEMORY + 10_000, "{} bytes are held", status.queues.bytes);
    assert_eq!(status.state, "running", "{status:?}");
    let notified = (1..=3).map(|n| {
        tokio::spawn({
            let world = world.clone();
            async move { call(&world, n, None).await }
        })
    });
    for call in notified.collect::<Vec<_>>() {
        assert_eq!(
            call.await.expect("no panic"),
            Outcome::Answered { well: true },
            "while the downstream stands still"
        );
    }
    if stop {
        process.ask_to_stop().await;
        process.ended().await;
        world.stall(false);
    } else {
        world.stall(false);
        all_applied(&world).await;
        process.die().await;
    }
    end(&world, tasks).await;
}

async fn all_applied(world: &World) {
    let everything = async {
        while !world.with(|s| s.applied() == s.truth.len()) {
            world.pause(10, 100).await;
        }
    };
    if tokio::time::timeout(PATIENCE, everything).await.is_err() {
        let (applied, truth) = world.with(|s| (s.applied(), s.truth.len()));
        panic!("{applied} of {truth} transactions are applied: {:?}", status(world).await);
    }
}

async fn end(world: &World, tasks: Vec<JoinHandle<()>>) {
    world.count(FINISHED);
    for task in tasks {
        task.await.expect("no panic");
    }
}

async fn status(world: &World) -> Option<DrainerStatus> {
    let door = world.with(|s| s.door.clone())?;
    door.asker.ask(Input::Tick).await
}

async fn late_call(world: Arc<World>, n: u64) -> Outcome {
    world.pause(1, 60).await;
    call(&world, n, None).await
}

/// Whoever had registered says that it goes, with a checkpoint that holds everything.
fn assert_paused(world: &World) {
    world.with(|s: &mut State<DrainerSide>| {
        if !s.registered {
            *s.counts.entry("stopped before it had registered").or_default() += 1;
            return;
        }
        assert_eq!(s.entry.as_ref().map(|e| e.state), Some(NodeState::Paused), "after an end in order");
        let row = s.downstream.row.as_ref().expect("a checkpoint");
        if row.consistent {
            *s.counts.entry("stopped consistently").or_default() += 1;
        }
    });
}
