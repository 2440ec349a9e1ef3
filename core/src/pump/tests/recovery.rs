//! Restarts: what was durable is served again, in order, whatever the index kept.

use super::world::{World, c, config, fake, p, p_of, r};
use crate::index::key;
use crate::index::value::{FORMAT, encode_u64};
use crate::pump::config::PumpConfig;

#[test]
fn every_prefix_of_the_index_recovers_to_the_same() {
    for kept in 0..12 {
        let mut world = World::online();
        world.written(p(1)).unwrap();
        world.written(p(2)).unwrap();
        world.written(c(2, 10)).unwrap();
        world.written(p(11)).unwrap();
        world.written(r(11)).unwrap();
        world.written(p(12)).unwrap();
        world.written(p(2)).unwrap();
        world.written(c(12, 15)).unwrap();
        assert_eq!(world.watermark(), 0, "P1 holds everything");
        world.crash(kept);
        world.start();
        assert_eq!((world.watermark(), world.pump.status().undecided), (0, 1), "kept {kept}");
        world.written(c(1, 20)).unwrap();
        world.pull(1, 0, 1 << 20);
        world.run();
        assert_eq!((world.watermark(), world.commits(1)), (20, vec![10, 15, 20]), "kept {kept}");
        assert!(world.faults.is_empty(), "{:?}", world.faults);
        // Recovery twice is a fixpoint.
        for kept in [0, 3, usize::MAX] {
            world.crash(kept);
            world.start();
            world.pull(2, 0, 1 << 20);
            world.run();
            assert_eq!((world.watermark(), world.commits(2)), (20, vec![10, 15, 20]));
        }
    }
}

#[test]
fn streams_are_accepted_while_starting() {
    let mut world = World::online();
    world.written(p(1)).unwrap();
    world.written(c(1, 2)).unwrap();
    world.crash(0);
    world.pull(1, 0, 1 << 20);
    world.start();
    assert_eq!(world.commits(1), vec![2]);
}

#[test]
fn what_froze_the_watermark_is_remembered() {
    let mut world = World::online();
    world.written(fake(5)).unwrap();
    world.written(c(6, 9)).unwrap();
    assert_eq!(world.faults.len(), 1);
    for kept in [0, usize::MAX] {
        world.crash(kept);
        world.start();
        world.written(fake(20)).unwrap();
        assert_eq!(world.watermark(), 5);
        assert_eq!(world.pump.frozen_below().map(|ts| ts.raw()), Some(9));
    }
}

#[test]
fn a_foreign_index_is_refused() {
    let mut world = World::online();
    world.written(p(1)).unwrap();
    assert_eq!(world.indexed(&bytes::Bytes::from_static(key::META_FORMAT)), Some(&encode_u64(FORMAT)));
    world.crash(usize::MAX);
    let config = PumpConfig { node_uuid: [4; 16], ..config() };
    world.pump = crate::pump::machine::Pump::new(config);
    world.pull(1, 0, 1);
    world.start();
    assert_eq!(world.faults.len(), 1);
    assert!(world.faults[0].contains("another data directory"), "{:?}", world.faults);
    assert!(world.written(p(2)).unwrap_err().to_string().contains("another data directory"));
    assert!(world.ended[&1].is_err() && world.registry.is_empty());
}

#[test]
fn the_index_is_flushed_after_a_minute_and_at_rotation() {
    let mut world = World::new(PumpConfig { fake_interval_ms: 1 << 40, ..config() });
    world.start();
    world.pass_ms(61_000);
    assert_eq!(world.unflushed(), 0);
    for payload in [p(1), c(1, 2)] {
        world.written(payload).unwrap();
    }
    assert!(world.pump.status().flushed < world.pump.status().indexed);
    world.pass_ms(61_000);
    let status = world.pump.status();
    assert_eq!(status.flushed, status.indexed);
    // A later batch carries the note; the next start does not verify what it covers.
    let mut world = World::new(PumpConfig { segment_bytes: 64 << 10, fake_interval_ms: 1 << 40, ..config() });
    world.start();
    for start in 1..=40 {
        world.written(p(start)).unwrap();
    }
    let status = world.pump.status();
    assert!(status.durable.segment.raw() > 1, "{status:?}");
    assert!(status.flushed.offset > 0, "{status:?}");
    world.crash(0);
    world.start();
    assert_eq!(world.pump.status().undecided, 40);
}

/// More entries than one request of the start reads.
#[test]
fn long_queues_are_loaded_in_chunks() {
    let mut world = World::online();
    for start in 1..=2500 {
        world.write(p(start));
    }
    world.run();
    // 1 stays undecided, so all these commits lie above the watermark.
    for start in 2..=1300 {
        world.write(c(start, start + 5000));
    }
    world.run();
    world.crash(usize::MAX);
    world.start();
    assert_eq!(world.pump.status().undecided, 1201);
    for start in (1..=1).chain(1301..=2500) {
        world.write(r(start));
    }
    world.run();
    assert_eq!((world.watermark(), world.pump.status().undecided), (6300, 0));
    world.pull(1, 0, 1 << 30);
    world.run();
    assert_eq!(world.commits(1), (5002..=6300).collect::<Vec<_>>());
}

#[test]
fn damage_of_history_is_told_before_anybody_reads_it() {
    let mut world = World::new(PumpConfig { segment_bytes: 64 << 10, ..config() });
    world.start();
    for start in 1..=20 {
        world.written(p_of(start * 10, 9000)).unwrap();
        world.written(c(start * 10, start * 10 + 5)).unwrap();
    }
    world.damage(1, 8192 + 5000);
    world.pass_ms(120_000);
    let after = world.pump.status();
    assert!(after.scrub.bytes > 64 << 10, "{:?}", after.scrub);
    assert_eq!((after.scrub.passes, after.scrub.bad_segments), (1, 1));
    assert_eq!(world.faults.len(), 1, "{:?}", world.faults);
    assert!(world.faults[0].contains("segment 1"), "{:?}", world.faults);
    assert_eq!(after.read_only, None, "what is written from now on is not touched by it");
    world.written(p_of(900, 100)).unwrap();
}

#[test]
fn the_index_is_asked_only_about_what_may_have_been_named_before() {
    let mut world = World::online();
    let asked = |world: &mut World, payload| {
        let before = world.looked_up;
        world.written(payload).unwrap();
        world.looked_up - before
    };
    for start in [20, 10, 30] {
        assert_eq!(asked(&mut world, p(start)), 0, "a new transaction, in whatever order");
        assert_eq!(asked(&mut world, c(start, start + 5)), 0);
    }
    assert_eq!(asked(&mut world, p(10)), 1, "it came before and is decided");
    for keep in [0, 100] {
        world.pass_ms(61_000);
        world.pass_ms(61_000);
        world.crash(keep);
        world.start();
        assert_eq!(asked(&mut world, p(20)), 1);
        assert_eq!(asked(&mut world, p(15 + keep as u64 / 50)), 1, "it is below the highest: nobody remembers");
        assert_eq!(asked(&mut world, p(40 + keep as u64)), 0);
        assert_eq!(asked(&mut world, c(40 + keep as u64, 45 + keep as u64)), 0);
    }
    assert!(world.faults.is_empty(), "{:?}", world.faults);
    let counters = world.pump.status().counters;
    assert_eq!((counters.repeated_prewrites, world.pump.status().undecided), (1, 2), "each life counts its own");
    // An index that does not say what was named is always asked.
    world.pass_ms(61_000);
    world.crash(100);
    world.forget_key(key::META_NAMED);
    world.start();
    assert_eq!(asked(&mut world, p(1_000_000)), 1);
}
