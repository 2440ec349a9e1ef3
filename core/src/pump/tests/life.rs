//! Registration, Notify, heartbeat, fakes, a wiped directory, shutdown.

use super::world::{World, c, config, fake, p};
use crate::fault::Reject;
use crate::node::status::NodeState::{self, Offline, Online, Paused, Pausing};
use crate::pump::config::PumpConfig;
use crate::pump::effect::Level;
use crate::pump::input::Input;
use bytes::Bytes;

fn states(world: &World) -> Vec<NodeState> {
    let mut states: Vec<_> = world.registry.iter().map(|status| status.state).collect();
    states.dedup();
    states
}

#[test]
fn becomes_visible_as_paused_then_online() {
    for (previous, notified) in [(None, 1), (Some(Offline), 1), (Some(Paused), 0), (Some(Online), 0)] {
        let mut world = World::new(PumpConfig { previous, ..config() });
        assert_eq!(world.written(p(1)), Err(Reject::NotOnline("starting")));
        assert_eq!(world.written(c(1, 2)), Err(Reject::NotOnline("starting")));
        world.start();
        assert_eq!(states(&world), vec![Paused, Online], "{previous:?}");
        assert_eq!(world.notified, notified, "{previous:?}");
        assert_eq!(world.written(p(1)), Ok(()));
    }
}

#[test]
fn notify_is_repeated_until_it_works_and_survives_a_crash() {
    let mut world = World::new(PumpConfig { previous: None, ..config() });
    world.broken.notify = true;
    world.start();
    world.pass_ms(60_000);
    assert_eq!(states(&world), vec![Paused]);
    assert!(world.notified > 3);
    assert_eq!(world.written(p(1)), Err(Reject::NotOnline("paused")));
    let said = world.notices.iter().filter(|(_, text)| text.contains("Drainer")).count();
    assert_eq!(said, 1, "{:?}", world.notices);
    // The registry now says that it was registered; the marker knows better.
    world.crash(0);
    world.config.previous = Some(Paused);
    world.start();
    assert_eq!((world.notified, states(&world)), (1, vec![Paused, Online]));
}

/// A Pump that has served must come back without anybody's answer: what it told the Drainers is not forgotten by a crash,
/// whatever of the index the crash keeps.
#[test]
fn who_was_told_is_not_told_again_after_a_crash() {
    let mut world = World::new(PumpConfig { previous: None, ..config() });
    world.start();
    assert_eq!(world.written(p(1)), Ok(()));
    world.crash(0);
    world.config.previous = Some(Online);
    world.broken.notify = true;
    world.start();
    assert_eq!((world.notified, states(&world)), (0, vec![Paused, Online]));
}

#[test]
fn heartbeat_carries_watermark_and_approximate_time() {
    let mut world = World::new(config());
    world.broken.tso = true;
    world.start();
    world.pass_ms(2000);
    assert_eq!(world.registry.last().unwrap().update_ts, 0);
    world.broken.tso = false;
    world.pass_ms(1000);
    let base = world.tso;
    world.pass_ms(2500);
    let last = world.registry.last().unwrap();
    assert_eq!(last.max_commit_ts, world.watermark() as i64);
    assert_eq!(last.update_ts as u64 % (1 << 18), base);
    assert_eq!(last.token.as_deref(), Some("life-1"));
    let outage = world.notices.iter().filter(|(_, text)| text.contains("no timestamp")).count();
    assert!(outage <= 1);
}

#[test]
fn fakes_only_when_idle_and_only_forward() {
    let mut world = World::online();
    world.pass_ms(3000);
    let first = world.watermark();
    assert!(first > 0);
    // A commit moved the watermark: no fake for that interval.
    let start = world.tso + 1;
    world.tso += 10;
    world.written(p(start)).unwrap();
    world.written(c(start, start + 1)).unwrap();
    world.pass_ms(3000);
    assert_eq!(world.watermark(), start + 1);
    world.pass_ms(3000);
    let second = world.watermark();
    assert!(second > start + 1);
    // Behind an undecided P one fake waits; more would not help.
    world.written(p(second + 1)).unwrap();
    let before = world.pump.status().fakes;
    world.pass_ms(30_000);
    assert_eq!((world.watermark(), world.pump.status().fakes), (second, before + 1));
    // PD goes back: nothing is written.
    world.written(c(second + 1, second + 1_000_000)).unwrap();
    let fakes = world.pump.status().fakes;
    world.pass_ms(9000);
    assert_eq!(world.pump.status().fakes, fakes);
    let said = world.notices.iter().filter(|(_, text)| text.contains("PD went back")).count();
    assert_eq!(said, 1, "once, not at every interval");
}

#[test]
fn a_wiped_directory_gets_a_gc_point_first() {
    let mut world = World::new(PumpConfig { wiped_directory_tso_needed: true, previous: Some(Online), ..config() });
    world.broken.tso = true;
    world.start();
    assert_eq!(world.written(c(1, 2)), Err(Reject::NotOnline("starting")));
    assert!(world.registry.is_empty());
    // A stream that comes before the point is known waits for it: it must not be taken for one that can be served.
    world.pull(9, 1, 1 << 20);
    assert!(!world.ended.contains_key(&9));
    // A crash now, whatever the index kept of it, does not make the directory look old.
    for kept in [0, usize::MAX] {
        world.pass_ms(70_000);
        world.crash(kept);
        world.broken.tso = true;
        world.start();
        assert!(world.registry.is_empty(), "kept {kept}");
    }
    world.pull(9, 1, 1 << 20);
    world.broken.tso = false;
    world.pass_ms(1000);
    let gc = world.pump.status().gc.raw();
    assert!(gc > 100 && states(&world) == vec![Paused, Online], "{gc} {:?}", world.registry);
    assert!(world.notices.iter().any(|(level, text)| *level == Level::Warn && text.contains("directory is new")));
    assert!(matches!(world.ended[&9], Err(Reject::BelowGc { .. })), "{:?}", world.ended);
    // A commit from before: acknowledged, counted, not indexed.
    assert_eq!(world.written(c(1, 2)), Ok(()));
    assert_eq!((world.faults.len(), world.pump.status().counters.commits_below_gc), (0, 1));
    world.pull(1, 2, 1);
    assert!(matches!(world.ended[&1], Err(Reject::BelowGc { .. })), "{:?}", world.ended);
    world.pull(2, 0, 1 << 20);
    world.written(fake(gc + 50)).unwrap();
    assert_eq!(world.commits(2), vec![gc + 50]);
    // It stays over a restart, also when the index lost everything; the flag is obeyed once.
    for kept in [usize::MAX, 0] {
        world.crash(kept);
        world.start();
        assert_eq!(world.pump.status().gc.raw(), gc);
    }
}

#[test]
fn a_directory_whose_index_was_removed_is_not_new() {
    let mut world = World::online();
    world.written(p(1)).unwrap();
    world.written(c(1, 2)).unwrap();
    world.config.wiped_directory_tso_needed = true;
    world.crash(0);
    world.lose_index();
    world.start();
    world.pull(1, 0, 1 << 20);
    world.run();
    assert_eq!((world.pump.status().gc.raw(), world.commits(1)), (0, vec![2]));
}

#[test]
fn shutdown_drains_and_registers() {
    let mut world = World::online();
    world.pull(1, 0, 1 << 20);
    world.written(p(1)).unwrap();
    let write = world.write(c(1, 2));
    world.give(Input::Shutdown);
    let refused = world.write(p(5));
    world.run();
    assert_eq!(world.replies[&write], Ok(()));
    assert_eq!(world.replies[&refused], Err(Reject::NotOnline("pausing")));
    assert_eq!(states(&world), vec![Paused, Online, Pausing, Paused]);
    assert_eq!(world.ended[&1], Ok(()), "a clean end");
    assert!(world.stopped);
    assert_eq!(world.written(c(1, 2)), Err(Reject::ShuttingDown));
    assert_eq!(world.registry.last().unwrap().max_commit_ts, 2);
    // Everything was flushed: nothing is left to a crash.
    assert_eq!(world.unflushed(), 0);
    world.crash(0);
    world.start();
    assert_eq!(world.watermark(), 2);
}

#[test]
fn shutdown_does_not_wait_for_ever() {
    let mut world = World::online();
    world.broken.registry = true;
    world.broken.index = true;
    world.written(p(1)).unwrap();
    world.give(Input::Shutdown);
    world.pass_ms(120_000);
    assert!(world.stopped);
}

#[test]
fn shutdown_before_the_start_is_complete() {
    let mut world = World::new(config());
    world.give(Input::Start);
    world.give(Input::Shutdown);
    world.run();
    assert!(world.stopped && world.registry.is_empty());
    assert!(world.written(Bytes::new()).is_err());
}
