//! Acknowledgements, repeated and contradicting records, group commit, space, a failing disk.

use super::tikv::Fate;
use super::world::{World, c, fake, p, p_other, r};
use crate::fault::Reject;
use crate::pump::input::Input;
use bytes::Bytes;

/// A script of records, each written and run before the next; `-` joins records that go into one batch. The last word is
/// what is expected: W, then the commits of a stream from 0.
fn outcome(script: &str, tikv_knows: bool) -> (u64, Vec<u64>, Vec<String>) {
    let mut world = World::online();
    for (start, commit) in script.split([' ', '-']).filter_map(|word| word.strip_prefix('C')?.split_once('@')) {
        if tikv_knows {
            world.tikv.fates.insert(start.parse().unwrap(), Fate::Committed(commit.parse().unwrap()));
        }
    }
    for word in script.split_whitespace() {
        for part in word.split('-') {
            let (verb, rest) = part.split_at(1);
            let numbers: Vec<u64> = rest.split('@').map(|n| n.parse().unwrap()).collect();
            let payload = match verb {
                "P" => p(numbers[0]),
                "C" => c(numbers[0], numbers[1]),
                "R" => r(numbers[0]),
                "F" => fake(numbers[0]),
                other => panic!("{other}"),
            };
            world.write(payload);
        }
        world.run();
    }
    assert!(world.replies.values().all(Result::is_ok), "{script}: {:?}", world.replies);
    world.pull(1, 0, 1 << 20);
    world.run();
    (world.watermark(), world.commits(1), world.faults)
}

#[test]
fn records_in_every_order() {
    for (script, watermark, commits) in [
        ("P1 C1@2", 2, vec![2]),
        ("P1-C1@2", 2, vec![2]),
        ("P1 P3 C3@4 C1@10", 10, vec![4, 10]),
        ("P1-P3-C3@4-C1@10", 10, vec![4, 10]),
        ("P1 P3 C1@10", 0, vec![]),
        ("P1 P3 C1@10 R3", 10, vec![10]),
        ("P1 R1 F5", 5, vec![5]),
        // Repeated P: of an undecided, of a decided one, in one batch.
        ("P1 P1 C1@2", 2, vec![2]),
        ("P1-P1 C1@2", 2, vec![2]),
        ("P1-P1-C1@2", 2, vec![2]),
        ("P1 C1@2 P1 F9", 9, vec![2, 9]),
        ("P1-C1@2-P1-F9", 9, vec![2, 9]),
        ("P1 C1@2 P1-F9", 9, vec![2, 9]),
        ("P1 R1 P1 F9", 9, vec![9]),
        // R first: it was sent because the transaction failed.
        ("R1 P1 F9", 9, vec![9]),
        ("R1-P1-F9", 9, vec![9]),
        // Repeated C.
        ("P1 C1@2 C1@2 F9", 9, vec![2, 9]),
        ("P1-C1@2-C1@2 F9", 9, vec![2, 9]),
        ("P1 C1@2 F9 C1@2 F10", 10, vec![2, 9, 10]),
        ("P1 C1@2 P1-C1@2 F9", 9, vec![2, 9]),
        // C after R: the transaction is committed.
        ("P1 R1 C1@2", 2, vec![2]),
        ("P1-R1-C1@2", 2, vec![2]),
        ("P1 C1@2 R1 F9", 9, vec![2, 9]),
        // Old fakes carry nothing.
        ("F9 F5 F9", 9, vec![9]),
    ] {
        assert_eq!(outcome(script, true), (watermark, commits, vec![]), "{script}");
    }
}

#[test]
fn contradictions_are_faults_and_freeze_the_watermark() {
    for (script, watermark, commits, fault) in [
        ("F5 C1@8 F9", 5, vec![5], "commit without a prewrite"),
        ("F5 C1@8 F7 F9", 5, vec![5], "commit without a prewrite"),
        ("F5 P6 F9 C6@8 F12", 5, vec![5], ""),
        ("P1 R1 F5 C1@4 F9", 5, vec![5], "said was rolled back"),
        ("P1 C1@4 P2 C2@4 F9", 4, vec![4], "commit at or below the watermark"),
        ("P1-C1@4-C1@6 F9", 0, vec![], "second commit"),
    ] {
        let (got_watermark, got_commits, faults) = outcome(script, false);
        if fault.is_empty() {
            // A late commit behind its own undecided P is no contradiction: the fake waited.
            assert_eq!((got_watermark, got_commits, faults), (12, vec![5, 8, 9, 12], vec![]), "{script}");
            continue;
        }
        assert_eq!((got_watermark, got_commits), (watermark, commits), "{script}");
        assert_eq!(faults.len(), 1, "{script}: {faults:?}");
        assert!(faults[0].contains(fault), "{script}: {faults:?}");
    }
}

#[test]
fn another_payload_under_one_start_ts() {
    let mut world = World::online();
    assert_eq!(world.written(p(1)), Ok(()));
    // Known in memory: refused, nothing stored.
    assert!(matches!(world.written(p_other(1)), Err(Reject::WriteFailed(_))));
    assert_eq!(world.faults.len(), 1);
    world.written(c(1, 2)).unwrap();
    // Decided: found by the look-up; the first stays.
    world.written(p_other(1)).unwrap();
    assert_eq!(world.faults.len(), 2);
    assert_eq!(world.written(fake(9)), Ok(()));
    assert_eq!(world.watermark(), 9);
}

#[test]
fn replies_leave_on_durable_only() {
    let mut world = World::online();
    let write = world.write(p(1));
    assert!(world.step_log());
    assert!(!world.replies.contains_key(&write), "written is not durable");
    // What comes meanwhile forms the next batch.
    let next = [world.write(p(2)), world.write(p(3))];
    assert_eq!(world.log_ops.len(), 1, "one flush in flight");
    assert!(world.step_log());
    assert_eq!(world.replies.get(&write), Some(&Ok(())));
    assert!(!world.replies.contains_key(&next[0]));
    world.run();
    assert!(next.iter().all(|write| world.replies[write].is_ok()));
    let status = world.pump.status();
    assert_eq!((status.undecided, status.accepted, status.acknowledged), (3, 3, 3));
    assert_eq!(status.durable, status.indexed);
}

#[test]
fn without_sync_log_replies_leave_on_written() {
    let mut world = World::new(crate::pump::config::PumpConfig { sync_log: false, ..super::world::config() });
    world.start();
    let write = world.write(p(1));
    world.step_log();
    assert_eq!(world.replies.get(&write), Some(&Ok(())));
    world.run();
    assert_eq!(world.pump.status().undecided, 1);
}

#[test]
fn a_failed_sync_makes_the_pump_read_only_and_streams_go_on() {
    let mut world = World::online();
    world.written(p(1)).unwrap();
    world.written(c(1, 2)).unwrap();
    world.broken.sync = true;
    let lost = [world.write(p(3)), world.write(p(4))];
    world.run();
    for write in lost {
        assert!(matches!(world.replies[&write], Err(Reject::WriteFailed(_))), "{:?}", world.replies[&write]);
    }
    world.broken.sync = false;
    for payload in [p(5), c(1, 2), r(3), fake(9), Bytes::new()] {
        assert!(matches!(world.written(payload), Err(Reject::ReadOnly(_))));
    }
    world.pull(1, 0, 1 << 20);
    world.run();
    assert_eq!(world.commits(1), vec![2]);
    assert_eq!(world.faults.len(), 1);
    world.pass_ms(10_000);
    assert_eq!(world.watermark(), 2, "no fakes either");
}

#[test]
fn the_index_may_be_away_for_a_while() {
    let mut world = World::online();
    world.broken.index = true;
    assert_eq!(world.written(p(1)), Ok(()));
    assert_eq!(world.written(c(1, 2)), Ok(()));
    world.pass_ms(2500);
    assert_eq!((world.watermark(), world.faults.len()), (0, 1));
    world.broken.index = false;
    world.pass_ms(1000);
    assert!(world.watermark() >= 2);
    world.pull(1, 0, 1 << 20);
    world.run();
    assert_eq!(world.commits(1).first(), Some(&2));
}

#[test]
pub fn space_refuses_prewrites_only() {
    let mut world = World::online();
    world.written(p(1)).unwrap();
    // The limit and the reserve: two segments of 1 MiB and a quarter.
    let limit = 100 + (9 << 18);
    world.give(Input::Space { available: limit, capacity: 1 << 40 });
    assert_eq!(world.written(p(3)), Err(Reject::NoSpace { available: limit, limit }));
    assert!(world.written(Bytes::new()).is_err());
    assert_eq!(world.written(c(1, 2)), Ok(()));
    assert_eq!(world.written(fake(3)), Ok(()));
    assert_eq!(world.written(r(1)), Ok(()));
    world.give(Input::Space { available: limit + limit / 5, capacity: 1 << 40 });
    assert_eq!(world.written(p(3)), Ok(()));
    // Between two measurements what was accepted counts as used.
    world.give(Input::Space { available: limit + 3, capacity: 1 << 40 });
    assert_eq!(world.written(p(4)), Ok(()));
    assert!(matches!(world.written(p(5)), Err(Reject::NoSpace { .. })));
}

#[test]
fn a_repeated_commit_does_not_touch_the_index() {
    let mut world = World::online();
    for payload in [p(1), p(5), c(5, 10)] {
        world.written(payload).unwrap();
    }
    let key = crate::index::key::commit(crate::ids::CommitTs::new(10));
    let before = world.indexed(&key).cloned();
    assert!(before.is_some());
    world.written(c(5, 10)).unwrap();
    assert_eq!(world.indexed(&key).cloned(), before, "its place in the order is the first one's (trap T7)");
    assert_eq!(world.pump.status().counters.repeated_commits, 1);
}

#[test]
fn the_driver_stops_reading_when_much_is_staged() {
    use crate::pump::machine::Class;
    let config = crate::pump::config::PumpConfig { max_payload_bytes: 100 << 20, ..super::world::config() };
    let mut world = World::new(config);
    world.start();
    let big = |start: u64| [p(start), vec![0x22, 0x80, 0x80, 0x80, 0x14].into(), vec![0; 40 << 20].into()].concat();
    for (start, ready) in [(1, true), (2, false)] {
        world.write(big(start).into());
        assert_eq!(world.pump.ready_for(Class::Write), ready, "{start}");
        assert!(world.pump.ready_for(Class::Other));
    }
    world.run();
    assert!(world.pump.ready_for(Class::Write));
    assert!(world.replies.values().all(Result::is_ok));
}

#[test]
fn a_segment_that_is_not_ready_is_made_at_once() {
    let mut world = World::new(crate::pump::config::PumpConfig { segment_bytes: 256 << 10, ..super::world::config() });
    world.start();
    for start_ts in 1..10 {
        // Each goes into a segment of its own, before three quarters of the one before it are full.
        let mut payload = p(start_ts).to_vec();
        payload.extend([0x2a, 0xf0, 0x93, 0x09]);
        payload.resize(payload.len() + 150_000, 7);
        // Nothing but completions comes in meanwhile: no timer helps out.
        assert_eq!(world.written(payload.into()), Ok(()), "{start_ts}");
    }
}

#[test]
fn faults_of_single_transactions_do_not_flood_the_log() {
    let mut world = World::online();
    for start_ts in 1..300 {
        // Nobody wrote their prewrites.
        assert_eq!(world.written(c(start_ts * 2, start_ts * 2 + 1)), Ok(()));
    }
    assert_eq!((world.faults.len(), world.pump.status().fault_count), (99, 299));
    assert_eq!(world.notices.iter().filter(|(_, text)| text.contains("only counted")).count(), 1);
}
