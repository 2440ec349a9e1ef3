//! Fakes on demand (rules 4) beside the logged ones: what moves in memory, what a restart knows again.

use super::world::{World, c, config, fake, p};
use crate::node::status::NodeState::Paused;
use crate::pump::config::PumpConfig;

fn world() -> World {
    let mut world = World::new(PumpConfig { fake_on_demand_ms: 100, fake_interval_ms: 3000, ..config() });
    world.start();
    world
}

#[test]
fn a_waiting_stream_gets_a_timestamp_at_once_and_then_one_per_interval() {
    let mut world = world();
    world.pass_ms(1000);
    assert_eq!(world.pump.status().fakes_on_demand, 0, "nobody listens");
    world.pull(1, 0, 1 << 20);
    world.run();
    assert_eq!(world.items[&1].len(), 1, "at once");
    assert_eq!(world.items[&1][0].payload, fake(world.commits(1)[0]).to_vec());
    let before = world.commits(1).len();
    world.pass_ms(1000);
    assert_eq!(world.commits(1).len(), before + 10);
    // Nothing of it is logged.
    let status = world.pump.status();
    assert_eq!((status.fakes, status.accepted, status.logged_watermark.raw()), (0, 0, 0));
    assert_eq!(status.watermark.raw(), *world.commits(1).last().unwrap());
    // Who goes away is not served any more.
    world.give(crate::pump::input::Input::PullClosed { stream: crate::ids::StreamId::new(1) });
    let fakes = world.pump.status().fakes_on_demand;
    world.pass_ms(2000);
    assert!(world.pump.status().fakes_on_demand <= fakes + 1);
}

#[test]
fn no_credit_no_fakes() {
    let mut world = world();
    world.pull(1, 0, 1);
    world.pass_ms(5000);
    assert_eq!(world.commits(1).len(), 1);
    assert!(world.pump.status().fakes_on_demand <= 2);
}

#[test]
fn zero_switches_them_off() {
    let mut world = World::online();
    world.pull(1, 0, 1 << 20);
    world.pass_ms(2900);
    assert_eq!(world.commits(1).len(), 0);
}

/// The place of a timestamp is where PD's reply came in: behind every prewrite that was accepted before.
#[test]
fn it_waits_for_what_was_accepted_before_its_reply() {
    let mut world = world();
    world.pull(1, 0, 1 << 20);
    world.run();
    let first = world.watermark();
    let start = world.tso + 1;
    world.tso += 10;
    world.written(p(start)).unwrap();
    world.pass_ms(2000);
    let status = world.pump.status();
    assert_eq!((status.watermark.raw(), world.commits(1).len()), (first, 1), "an undecided prewrite holds it");
    assert_eq!(status.fakes_on_demand, 2, "another behind it would not help");
    // Its commit lies below the fake that waits: it is delivered, then the fake.
    world.written(c(start, start + 5)).unwrap();
    world.run();
    assert_eq!(world.commits(1)[1], start + 5);
    assert!(world.watermark() > start + 5);
    assert!(world.faults.is_empty(), "{:?}", world.faults);
}

#[test]
fn after_a_restart_the_watermark_may_be_lower_and_cursors_stay_valid() {
    let mut world = world();
    world.pull(1, 0, 1 << 20);
    world.pass_ms(500);
    let cursor = world.watermark();
    assert!(cursor > 0);
    world.config.previous = Some(Paused);
    world.crash(0);
    world.broken.tso = true;
    world.start();
    assert_eq!(world.watermark(), 0);
    // The Drainer comes back with a cursor above the watermark: it waits, and misses nothing.
    world.pull(1, cursor, 1 << 20);
    world.pass_ms(1000);
    assert_eq!(world.commits(1).len(), 0);
    assert!(!world.ended.contains_key(&1));
    let start = world.tso + 1;
    world.tso += 10;
    world.written(p(start)).unwrap();
    world.written(c(start, start + 1)).unwrap();
    world.run();
    assert_eq!(world.commits(1), vec![start + 1]);
}

/// The idle interval goes by the logged watermark: what GC and going offline use must move too.
#[test]
fn logged_fakes_go_on_beside_them() {
    let mut world = world();
    world.pull(1, 0, 1 << 20);
    world.pass_ms(30_000);
    let status = world.pump.status();
    assert!(status.fakes >= 9, "{}", status.fakes);
    assert!(status.fakes_on_demand >= 250, "{}", status.fakes_on_demand);
    assert!(status.logged_watermark.raw() > 0 && status.logged_watermark <= status.watermark);
    // The registry shows what a restart knows again.
    assert!(world.registry.last().unwrap().max_commit_ts <= status.logged_watermark.raw() as i64);
}

/// Trap T15: refused writes do not keep the idle fakes from being written.
#[test]
fn a_hammered_pump_that_refuses_everything_still_writes_fakes() {
    let mut world = World::online();
    world.give(crate::pump::input::Input::Space { available: 1, capacity: 1000 });
    for _ in 0..120 {
        let start = world.tso + 1;
        assert!(world.written(p(start)).is_err());
        world.pass_ms(100);
    }
    assert!(world.pump.status().fakes >= 3);
    assert!(world.watermark() > 0);
}

#[test]
fn while_pd_is_away_it_is_asked_once_a_second() {
    let mut world = world();
    world.broken.tso = true;
    let before = world.tso;
    world.pull(1, 0, 1 << 20);
    world.pass_ms(10_000);
    let asked = world.tso - before;
    assert!((5..=20).contains(&asked), "{asked}");
    world.broken.tso = false;
    world.pass_ms(1000);
    assert!(!world.commits(1).is_empty());
}

/// Found by the simulator: where the log failed during recovery, it holds commits that nobody has read; no timestamp may pass them.
#[test]
fn a_pump_that_could_not_recover_its_log_moves_nothing() {
    let mut world = World::new(PumpConfig { fake_on_demand_ms: 100, fake_interval_ms: 3000, ..config() });
    world.start();
    world.written(p(1)).unwrap();
    world.written(c(1, 2)).unwrap();
    world.kill(0);
    world.broken.sync = true;
    world.start();
    assert!(world.pump.status().read_only.is_some());
    world.pull(1, 0, 1 << 20);
    world.pass_ms(10_000);
    assert!(world.commits(1).iter().all(|ts| *ts <= 2), "{:?}", world.commits(1));
    assert!(world.watermark() <= 2);
    world.kill(0);
    world.start();
    world.pull(1, 0, 1 << 20);
    world.run();
    assert_eq!(world.commits(1)[0], 2);
}
