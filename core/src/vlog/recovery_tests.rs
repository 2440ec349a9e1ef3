//! Recovery, case by case: damage of durable bytes, a crash at each of its steps, recycled slots.

use super::log::{IndexClaims, Log, LogEvent, LogOps, Placed};
use super::tests::{World, config, record};
use crate::fault::Fault;
use crate::ids::{LogPtr, OpIds, SegmentId, SlotId};
use proptest::prelude::*;
use proptest::sample::Index;
use std::collections::VecDeque;

fn damaged_at(fault: &Fault) -> LogPtr {
    match fault {
        Fault::LogDamaged { segment, offset, .. } => LogPtr { segment: *segment, offset: *offset },
        other => panic!("{other}"),
    }
}

/// Records of the newest segment, then all others.
fn split(world: &World) -> (Vec<Placed>, Vec<Placed>) {
    let newest = world.log.durable_end().segment;
    world.placed().into_iter().partition(|placed| placed.ptr.segment == newest)
}

#[test]
fn a_kill_and_then_a_power_loss() {
    // What recovery read and served was never synced by the first life: only its copy keeps it.
    let mut world = World::new(1);
    world.settle();
    world.stage_many(3);
    world.seal();
    world.run_one(1);
    world.crash(false, 1, false);
    world.settle();
    assert_eq!(world.contents(), [1, 2, 3]);
    world.crash(true, 1, false);
    world.settle();
    assert_eq!(world.contents(), [1, 2, 3]);
    world.read_all();
}

#[test]
fn a_crash_at_each_step_of_recovery_is_harmless() {
    for power in [false, true] {
        for steps in 0..60 {
            for seed in 0..4 {
                let mut world = World::new(seed);
                world.settle();
                world.stage_many(30);
                while world.contents().len() < 20 {
                    world.seal();
                    world.run_one(1);
                }
                world.seal();
                world.run_one(1);
                let served = world.contents();
                world.crash(false, 1, false);
                for _ in 0..steps {
                    world.run_one(1);
                }
                world.crash(power, steps, false);
                world.settle();
                assert!(world.ready);
                assert!(world.contents().starts_with(&served), "power {power} steps {steps} seed {seed}");
                world.read_all();
            }
        }
    }
}

#[test]
fn damage_in_a_predecessor_is_a_fault_and_what_is_whole_stays_readable() {
    let mut world = World::long();
    let (newest, older) = split(&world);
    let victim = older[older.len() / 2];
    world.damage(victim);
    world.start_with(IndexClaims::default());
    let at = damaged_at(&world.expect_fault());
    assert_eq!(at.segment, victim.ptr.segment);
    assert!(at.offset <= victim.ptr.offset && at.offset.is_multiple_of(4096));
    assert!(world.read(older[0]).is_ok() && world.read(newest[0]).is_ok());
    assert_eq!(damaged_at(&world.read(victim).unwrap_err()), victim.ptr);
}

#[test]
fn a_predecessor_is_verified_from_the_flushed_end_on() {
    for (behind, claim_is_a_batch_end) in [(false, true), (true, true), (false, false)] {
        let mut world = World::long();
        let (_, older) = split(&world);
        let segment = older.last().unwrap().ptr.segment;
        let own: Vec<Placed> = older.into_iter().filter(|placed| placed.ptr.segment == segment).collect();
        assert!(own.len() >= 2, "every record is a batch");
        let (below, above) = (own[0], own[1]);
        world.damage(if behind { above } else { below });
        let offset = below.ptr.offset + u64::from(below.len);
        let offset = if claim_is_a_batch_end { offset.next_multiple_of(4096) } else { offset };
        world.restart_at(LogPtr { segment, offset });
        if behind || !claim_is_a_batch_end {
            // An end that is no batch's, as a recovery leaves it that was cut short: the whole segment is read.
            assert_eq!(damaged_at(&world.expect_fault()).segment, segment);
        } else {
            world.settle();
            assert!(world.ready);
        }
    }
}

#[test]
fn damage_below_the_flushed_end_is_found_by_reads_only() {
    let mut world = World::long();
    let (_, older) = split(&world);
    world.damage(older[2]);
    world.start(true);
    world.settle();
    assert!(world.ready);
    assert_eq!(damaged_at(&world.read(older[2]).unwrap_err()), older[2].ptr);
    assert!(world.read(older[3]).is_ok());
}

#[test]
fn damage_before_a_later_batch_is_a_fault() {
    let mut world = World::long();
    while split(&world).0.len() < 3 {
        world.stage_many(1);
        world.settle();
    }
    let (newest, _) = split(&world);
    // In the middle of the newest segment, and in its first batch.
    for victim in [newest[1], newest[0]] {
        world.damage(victim);
        world.start_with(IndexClaims::default());
        assert_eq!(damaged_at(&world.expect_fault()).segment, victim.ptr.segment);
    }
}

#[test]
fn a_torn_last_batch_ends_the_log_unless_it_was_indexed() {
    let mut world = World::long();
    while split(&world).0.len() < 2 {
        world.stage_many(1);
        world.settle();
    }
    let claims = world.claims(false);
    let last = *world.placed().last().unwrap();
    world.damage(last);
    world.start_with(claims);
    assert!(matches!(world.expect_fault(), Fault::LogBehindIndex { .. }));

    // As if it had never been acknowledged: the log ends before it, and its bytes are never read again.
    let start = LogPtr { offset: last.ptr.offset & !4095, ..last.ptr };
    let count = world.placed().len();
    world.start_with(IndexClaims { indexed_end: Some(start), flushed_end: None });
    world.settle();
    assert!(world.ready);
    assert_eq!(world.placed().len(), count, "nothing was handed out as tail");
    assert_eq!(damaged_at(&world.read(last).unwrap_err()), last.ptr);
}

#[test]
fn files_that_do_not_belong_here_are_named() {
    let mut world = World::long();
    let (_, older) = split(&world);
    let victim = older[older.len() / 2].ptr.segment;
    let slot = world.slot_of(victim);
    let contents = world.disk.files[&slot].visible.clone();

    // One header copy is enough.
    let mut one = contents.clone();
    one[..4096].fill(0);
    world.disk.put(slot, one);
    world.start(true);
    world.settle();
    assert!(world.ready);

    world.disk.put(SlotId::new(900), contents.clone());
    world.start(true);
    assert!(world.expect_fault().to_string().contains("both claim to be this segment"));
    world.disk.files.remove(&SlotId::new(900));

    world.disk.files.remove(&slot);
    world.start(true);
    assert!(world.expect_fault().to_string().contains("segment is missing"));

    let owner = super::format::Owner { node: [9; 16], cluster: crate::ids::ClusterId::new(42) };
    let seal = super::format::Seal { segment: victim, salt: 1 };
    let mut foreign = contents;
    foreign[..8192].copy_from_slice(&super::format::encode_headers(owner, seal));
    world.disk.put(slot, foreign);
    world.start(true);
    assert!(world.expect_fault().to_string().contains("belongs to another data directory"));
}

#[test]
fn an_index_without_its_log_is_a_fault() {
    let mut world = World::new(2);
    let indexed_end = Some(LogPtr { segment: SegmentId::new(3), offset: 8192 });
    world.start_with(IndexClaims { indexed_end, flushed_end: None });
    assert!(matches!(world.expect_fault(), Fault::LogBehindIndex { .. }));
}

#[test]
fn recycled_slots_bound_the_log() {
    let mut world = World::new(4);
    world.settle();
    for round in 0..60 {
        world.stage_many(4);
        world.settle();
        world.gc();
        world.settle();
        world.release();
        if round % 7 == 3 {
            world.crash(round % 2 == 0, round, true);
            world.settle();
            assert!(world.ready);
        }
        world.read_all();
    }
    assert!(world.log.durable_end().segment.raw() > 20, "many segments were written");
    assert!(world.disk.files.len() < 10, "into {} files", world.disk.files.len());
}

#[test]
fn after_a_failed_flush_nothing_is_written_and_reads_go_on() {
    for failing in 0..2 {
        let mut world = World::long();
        world.stage_many(2);
        world.seal();
        for _ in 0..failing {
            world.run_one(1);
        }
        world.disk.fail_next = true;
        world.settle();
        assert!(matches!(world.fault, Some(Fault::WriteFailed { .. })));
        assert!(world.log.read_only().is_some() && !world.log.is_ready());
        world.read_all();
        let before: Vec<_> = world.disk.files.values().map(|file| file.visible.clone()).collect();
        world.stage_many(2);
        world.settle();
        assert_eq!(world.log.staged_bytes(), 0);
        assert_eq!(before, world.disk.files.values().map(|file| file.visible.clone()).collect::<Vec<_>>());
    }
}

proptest! {
    /// Whatever happened to the files: recovery ends, and what it hands out is what was written, from the first on, without a
    /// hole.
    #[test]
    fn damage_never_shows_as_other_data(
        harm in proptest::collection::vec((any::<Index>(), any::<Index>(), any::<u8>(), 0u8..4), 1..4),
    ) {
        let mut world = World::long();
        let expected = world.contents();
        for (file, at, byte, how) in harm {
            let slots: Vec<_> = world.disk.files.keys().copied().collect();
            let file = world.disk.files.get_mut(&slots[file.index(slots.len())]).unwrap();
            if !file.visible.is_empty() {
                let len = file.visible.len();
                let at = at.index(len);
                match how {
                    0 => file.visible.truncate(at),
                    1 => file.visible[at..].fill(byte),
                    // The beginning is where the structure is.
                    2 => file.visible[at % 16_384.min(len)] = byte,
                    _ => file.visible[at] = byte,
                }
            }
        }
        let (mut ids, mut queue) = (OpIds::default(), VecDeque::new());
        let mut log = Log::new(config(), 77);
        log.recover(IndexClaims::default(), &mut LogOps { ids: &mut ids, out: &mut queue });
        let mut events = Vec::new();
        while let Some((op, request)) = queue.pop_front() {
            let result = world.disk.execute(&request);
            let mine = log.handle(op, result, &mut events, &mut LogOps { ids: &mut ids, out: &mut queue });
            prop_assert!(mine);
            log.check();
        }
        let mut tail = Vec::new();
        for event in &events {
            if let LogEvent::Tail { record: found, .. } = event {
                prop_assert_eq!(found, &record(found.commit_ts.raw()));
                tail.push(found.commit_ts.raw());
            }
        }
        prop_assert!(expected.starts_with(&tail), "{:?}", tail);
        let ended = matches!(events.last(), Some(LogEvent::Ready { .. } | LogEvent::ReadOnly(_)));
        prop_assert!(ended);
    }
}
