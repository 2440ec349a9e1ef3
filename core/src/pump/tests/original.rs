//! Taking over directories of the original over ports in memory: what is served, what is not, and that a crash at any step of
//! the import changes nothing (rules 3, spec pump 3.2, 3.6, traps T7, T8, T37, T38).

use super::world::{World, c, config, fake, p, r};
use crate::fault::{IoFault, Reject};
use crate::ids::CommitTs;
use crate::pump::config::{GcConfig, GcHold, PumpConfig};
use crate::pump::effect::Level;
use crate::pump::input::Input;
use crate::pump::original::{Original, OriginalIndex};
use crate::time::Tso;
use crate::vlog::v1::record::{encode, encode_footer};
use bytes::Bytes;
use proptest::prelude::*;

/// A pump on these files; not started.
fn world(files: &[(u32, Vec<u8>)], index: Result<OriginalIndex, String>) -> World {
    let mut world = World::new(quiet());
    for (number, contents) in files {
        world.put_original(*number, contents.clone());
    }
    adopt(&mut world, index);
    world
}

/// Its own fakes would move the watermark.
fn quiet() -> PumpConfig {
    PumpConfig { fake_interval_ms: 1 << 40, ..config() }
}

/// As the driver does at every start.
fn adopt(world: &mut World, index: Result<OriginalIndex, String>) {
    let files = world.originals();
    let pump = std::mem::replace(&mut world.pump, crate::pump::machine::Pump::new(world.config.clone()));
    world.pump = pump.with_original(Original { files, index });
}

fn no_index() -> Result<OriginalIndex, String> {
    Err("it is gone".to_owned())
}

fn empty_index() -> Result<OriginalIndex, String> {
    Ok(OriginalIndex::default())
}

fn file(payloads: &[Bytes]) -> Vec<u8> {
    payloads.iter().flat_map(|payload| encode(payload)).collect()
}

fn served(world: &mut World, last: u64) -> Vec<u64> {
    world.pull(99, last, 1 << 30);
    world.run();
    let commits = world.commits(99);
    world.give(Input::PullClosed { stream: crate::ids::StreamId::new(99) });
    world.items.remove(&99);
    commits
}

fn warnings(world: &World, text: &str) -> usize {
    world.notices.iter().filter(|(level, said)| *level == Level::Warn && said.contains(text)).count()
}

#[test]
fn what_the_original_stored_is_served_and_the_log_goes_on() {
    let first = file(&[p(1), p(2), c(2, 10), fake(11), p(12)]);
    let second = [file(&[c(1, 20), c(12, 21), p(30), fake(31)]), encode_footer(31)].concat();
    let mut world = world(&[(0, first), (1, second)], empty_index());
    world.start();
    assert_eq!((world.watermark(), world.pump.status().undecided), (21, 1), "P30 holds the fake");
    assert_eq!(served(&mut world, 0), [10, 11, 20, 21]);
    world.written(c(30, 40)).unwrap();
    world.written(p(50)).unwrap();
    world.written(c(50, 60)).unwrap();
    let all = [10, 11, 20, 21, 31, 40, 60];
    assert_eq!(served(&mut world, 0), all);
    let status = world.pump.status();
    assert_eq!((status.original.records, status.original.skipped_bytes), (9, 0));
    assert_eq!(status.original.scanned_bytes, status.original.bytes);
    assert!(status.durable.segment.raw() > 2, "{status:?}");
    // Restarts, also without an index: the same.
    for lose in [false, true] {
        world.crash(3);
        if lose {
            world.lose_index();
        }
        adopt(&mut world, empty_index());
        world.start();
        assert_eq!(served(&mut world, 0), all);
        assert_eq!(world.faults, Vec::<String>::new());
    }
    // The files are gone, after GC or by hand, and with them what was in them: told at once.
    world.crash(usize::MAX);
    for (number, _) in world.originals() {
        world.remove_original(number);
    }
    world.start();
    assert!(world.faults[0].contains("value/000000.vlog is missing"), "{:?}", world.faults);
    assert_eq!(served(&mut world, 40), [60]);
}

#[test]
fn the_gc_point_comes_from_the_index_or_from_the_oldest_file() {
    let at = |s: u64| Tso::compose(s * 1000, 5).raw();
    let history: Vec<Bytes> = (1..=20).flat_map(|i| [p(at(100 * i)), c(at(100 * i), at(100 * i + 1))]).collect();
    let commits: Vec<u64> = (1..=20).map(|i| at(100 * i + 1)).collect();
    let known = |gc| Ok(OriginalIndex { gc: CommitTs::new(gc), ..OriginalIndex::default() });
    // number of the oldest file, index, first commit that is served
    for (number, index, gc) in [
        (0, empty_index(), 0),
        (7, empty_index(), 0),
        (7, known(at(501)), at(501)),
        (0, known(at(501)), at(501)),
        (0, no_index(), 0),
        (7, no_index(), at(101 + 600)),
    ] {
        let mut world = world(&[(number, file(&history))], index.clone());
        world.start();
        let expected: Vec<u64> = commits.iter().copied().filter(|ts| *ts > gc).collect();
        for life in 0..3 {
            assert_eq!(world.pump.status().gc.raw(), gc, "file {number}, {index:?}, life {life}");
            assert_eq!(served(&mut world, 0), expected, "file {number}, {index:?}, life {life}");
            if gc > 0 {
                world.pull(7, gc - 1, 100);
                assert!(matches!(world.ended[&7], Err(Reject::BelowGc { .. })));
            }
            assert_eq!(world.faults, Vec::<String>::new());
            world.crash(usize::MAX);
            // The original's index need not stay, unless our own is made again.
            if life == 1 {
                world.lose_index();
                adopt(&mut world, index.clone());
            } else {
                adopt(&mut world, no_index());
            }
            world.start();
        }
    }
}

/// Everything that the original's queue had passed is decided: by R, or by a verdict that it did not write down.
#[test]
fn what_the_original_had_decided_stays_decided() {
    let payloads = [p(1), p(2), r(2), p(3), c(3, 10), p(4), p(5), r(5), c(4, 20)];
    let contents = file(&payloads);
    let offset = |n: usize| payloads[..n].iter().map(|payload| 16 + payload.len() as u64).sum::<u64>();
    let index = |max_commit, n| {
        Ok(OriginalIndex { gc: CommitTs::ZERO, max_commit: CommitTs::new(max_commit), handle: (0, offset(n)) })
    };
    let mut taken = world(&[(0, contents.clone())], index(10, 4));
    taken.start();
    // P1 is before C3 in the queue and has neither C nor R.
    assert_eq!(warnings(&taken, "decided by the original already"), 1, "{:?}", taken.notices);
    assert_eq!(served(&mut taken, 0), [10, 20]);
    assert_eq!((taken.watermark(), taken.faults.len()), (20, 0));
    taken.crash(0);
    taken.lose_index();
    // Even without both indexes: the verdict is in our log.
    adopt(&mut taken, no_index());
    taken.start();
    assert_eq!(served(&mut taken, 0), [10, 20]);

    // Nothing passed yet: P1 holds everything until it is decided.
    let mut waiting = world(&[(0, contents)], index(0, 0));
    waiting.start();
    assert_eq!((waiting.watermark(), served(&mut waiting, 0)), (0, vec![]));
    waiting.written(c(1, 30)).unwrap();
    assert_eq!(served(&mut waiting, 0), [10, 20, 30]);
}

/// Trap T7: the pointer is that of the second copy, and P4 between the copies was never waited for.
#[test]
fn a_pointer_that_ran_ahead_decides_nothing() {
    let payloads = [p(1), c(1, 10), p(4), c(1, 10), p(6)];
    let contents = file(&payloads);
    let offset = payloads[..3].iter().map(|payload| 16 + payload.len() as u64).sum::<u64>();
    let index = OriginalIndex { gc: CommitTs::ZERO, max_commit: CommitTs::new(10), handle: (0, offset) };
    let mut world = world(&[(0, contents)], Ok(index));
    world.start();
    assert_eq!(world.pump.status().undecided, 2);
    world.written(c(4, 20)).unwrap();
    world.written(c(6, 30)).unwrap();
    assert_eq!(served(&mut world, 0), [10, 20, 30]);
}

#[test]
fn repeated_records_count_once_and_a_commit_without_its_prewrite_is_no_silence() {
    let payloads = [p(1), p(1), c(1, 10), c(1, 10), p(1), p(2), c(2, 11)];
    let mut twice = world(&[(0, file(&payloads))], empty_index());
    twice.start();
    assert_eq!(served(&mut twice, 0), [10, 11]);
    assert_eq!((twice.faults.len(), twice.pump.status().undecided), (0, 0));

    // Below the GC point it is history; above it something is missing, and the start goes on.
    let payloads = [c(1, 5), p(6), c(6, 10), c(7, 20)];
    let index = OriginalIndex { gc: CommitTs::new(9), ..OriginalIndex::default() };
    let mut torn = world(&[(3, file(&payloads))], Ok(index));
    torn.start();
    assert_eq!(torn.faults.len(), 1, "{:?}", torn.faults);
    assert!(torn.faults[0].contains("commit without a prewrite") && torn.faults[0].contains("20"), "{:?}", torn.faults);
    assert!(served(&mut torn, 0).iter().all(|ts| *ts == 10), "nothing at or above the gap");
    torn.written(p(30)).unwrap();
}

#[test]
fn garbage_is_skipped_and_told_and_footers_are_not() {
    let record = encode(&p(1));
    // A torn write, then the log goes on behind it; the payload of the last record ends like a footer.
    let forged = Bytes::from([&p(3)[..], &[0xa2, 0x06, 4, 0x22, 0xb9, 0x3a, 0x12]].concat());
    for (tail, skipped) in [
        (encode_footer(10), 0),
        (encode_footer(9), 12),
        (vec![], 0),
        ([b"torn".to_vec(), encode_footer(10)].concat(), 4),
        (encode_footer(10)[..11].to_vec(), 11),
    ] {
        let contents = [&record[..], &record[..20], &file(&[c(1, 10)]), &tail].concat();
        let mut world = world(&[(0, contents), (1, encode(&forged))], empty_index());
        world.start();
        assert_eq!(world.pump.status().original.skipped_bytes, 20 + skipped);
        assert_eq!(warnings(&world, "are no record"), 1 + usize::from(skipped > 0), "{:?}", world.notices);
        assert_eq!((served(&mut world, 0), world.pump.status().undecided), (vec![10], 1));
    }
    // Right checksum, no binlog.
    let mut world =
        world(&[(0, [file(&[p(1)]), encode(b"\xff"), encode(b""), file(&[c(1, 10)])].concat())], empty_index());
    world.start();
    assert_eq!((world.pump.status().original.strange, served(&mut world, 0)), (1, vec![10]));
}

#[test]
fn a_directory_that_the_original_used_again_is_refused() {
    let contents = file(&[p(1), c(1, 10)]);
    for grow in [true, false] {
        let mut world = world(&[(0, contents.clone())], empty_index());
        world.start();
        world.written(p(20)).unwrap();
        world.crash(usize::MAX);
        if grow {
            world.put_original(0, [contents.clone(), file(&[p(30)])].concat());
        } else {
            world.put_original(1, file(&[p(30)]));
        }
        adopt(&mut world, empty_index());
        world.start();
        assert!(world.faults[0].contains("after this directory was taken over"), "{:?}", world.faults);
        assert!(world.written(c(20, 40)).is_err());
        world.pull(1, 0, 100);
        assert!(matches!(world.ended[&1], Err(Reject::ReadFailed(_))));
    }
    // Put into a directory that has a log of its own.
    let mut world = World::new(quiet());
    world.start();
    for ts in 1..5 {
        world.written(p(ts)).unwrap();
    }
    world.crash(usize::MAX);
    world.put_original(0, contents);
    adopt(&mut world, empty_index());
    world.start();
    assert!(!world.faults.is_empty() && world.written(c(1, 40)).is_err(), "{:?}", world.faults);
}

#[test]
fn a_read_that_fails_is_tried_again() {
    let mut world = world(&[(0, file(&[p(1), c(1, 10)]))], empty_index());
    world.broken.read = true;
    world.start();
    for _ in 0..5 {
        world.pass_ms(1000);
    }
    assert_eq!(world.pump.status().start, "taking over the original's value logs");
    assert_eq!(world.faults.len(), 1, "{:?}", world.faults);
    world.broken.read = false;
    world.pass_ms(1000);
    assert_eq!(served(&mut world, 0), [10]);
}

#[test]
fn progress_is_said_while_it_takes_long() {
    let payload = Bytes::from([&p(1)[..], &[0xa2, 0x06, 0x80, 0x80, 0x40], &vec![0; 1 << 20]].concat());
    let files: Vec<(u32, Vec<u8>)> = (0..40).map(|n| (n, encode(&payload))).collect();
    let mut world = world(&files, empty_index());
    world.give(Input::Start);
    let mut seen = std::collections::BTreeSet::new();
    while world.step_log() || world.step_index() {
        world.now = world.now.plus_millis(400);
        seen.insert(world.pump.status().original.scanned_bytes);
        if !world.pump.status().start.starts_with("taking over") && seen.len() > 30 {
            break;
        }
    }
    let said: Vec<_> = world.notices.iter().filter(|(_, text)| text.contains(" % (")).collect();
    assert!((2..=20).contains(&said.len()), "{said:?}");
}

/// GC removes the original's files as it frees segments of our own.
#[test]
fn gc_removes_files_that_nothing_needs() {
    let at = |ms: u64| Tso::compose(ms, 0).raw();
    let txn = |i: u64| [p(at(10 * i)), c(at(10 * i), at(10 * i + 5))].concat_payloads();
    // P of transaction 50 is in the oldest file, its C in the third.
    let zero = [txn(1), file(&[p(at(20))])].concat();
    let one: Vec<u8> = (3..=10).flat_map(txn).collect();
    let two = [file(&[c(at(20), at(115))]), (12..=20).flat_map(txn).collect()].concat();
    let gc = GcConfig { keep_ms: 100, hold: GcHold::Age, interval_ms: 1 << 40 };
    let mut world = World::new(PumpConfig { gc, ..quiet() });
    for (number, contents) in [(0, zero), (1, one), (2, two)] {
        world.put_original(number, contents);
    }
    adopt(&mut world, empty_index());
    world.start();
    let left = |world: &World| world.originals().iter().map(|(number, _)| *number).collect::<Vec<_>>();
    let collect = |world: &mut World, ms: u64| {
        for _ in 0..3 {
            world.pass_ms(61_000);
        }
        world.tso = at(ms);
        world.give(Input::TriggerGc);
        world.run();
    };
    collect(&mut world, 210);
    assert_eq!(world.pump.status().gc.raw(), at(110), "{:?}", world.pump.gc_status());
    assert_eq!(left(&world), [0, 1, 2], "the partner of C115 is in the oldest");
    assert_eq!(served(&mut world, 0)[0], at(115));
    collect(&mut world, 216);
    assert_eq!(left(&world), [2]);
    let rest: Vec<u64> = (12..=20).map(|i| at(10 * i + 5)).collect();
    assert_eq!(served(&mut world, 0), rest);
    // What is gone stays gone, and ids are not used again.
    world.crash(usize::MAX);
    adopt(&mut world, empty_index());
    world.start();
    assert_eq!((served(&mut world, 0), world.faults.len()), (rest.clone(), 0));
    world.written(p(at(300))).unwrap();
    world.written(c(at(300), at(305))).unwrap();
    // The first round stores the watermark that the second one needs.
    collect(&mut world, 404);
    collect(&mut world, 404);
    assert_eq!(left(&world), Vec::<u32>::new());
    world.crash(usize::MAX);
    world.start();
    assert_eq!((served(&mut world, 0), world.faults.len()), (vec![at(305)], 0));
    assert!(world.pump.status().durable.segment.raw() > 3);
}

trait Payloads {
    fn concat_payloads(&self) -> Vec<u8>;
}

impl Payloads for [Bytes; 2] {
    fn concat_payloads(&self) -> Vec<u8> {
        file(self)
    }
}

/// One step of a generated history.
#[derive(Debug, Clone)]
enum Part {
    Prewrite,
    Commit(usize),
    Rollback(usize),
    Fake,
    Garbage(Vec<u8>),
    Torn(usize),
    NextFile(bool),
}

fn parts() -> impl Strategy<Value = Vec<Part>> {
    let part = prop_oneof![
        6 => Just(Part::Prewrite),
        5 => any::<prop::sample::Index>().prop_map(|i| Part::Commit(i.index(8))),
        1 => any::<prop::sample::Index>().prop_map(|i| Part::Rollback(i.index(8))),
        2 => Just(Part::Fake),
        1 => proptest::collection::vec(any::<u8>(), 1..40).prop_map(Part::Garbage),
        1 => (0_usize..16).prop_map(Part::Torn),
        1 => any::<bool>().prop_map(Part::NextFile),
    ];
    proptest::collection::vec(part, 1..80)
}

/// Files of this history; timestamps rise as those of a real cluster do.
fn files(parts: &[Part]) -> Vec<(u32, Vec<u8>)> {
    let (mut files, mut now, mut open) = (vec![Vec::new()], 0, Vec::new());
    for part in parts {
        now += 1;
        let footer = encode_footer(now as i64 - 1);
        let last = files.last_mut().unwrap();
        match part {
            Part::Prewrite => {
                open.push(now);
                last.extend(encode(&p(now)));
            }
            Part::Commit(i) if !open.is_empty() => {
                let start = open.remove(i % open.len());
                last.extend(encode(&c(start, now)));
            }
            Part::Rollback(i) if !open.is_empty() => {
                let start = open.remove(i % open.len());
                last.extend(encode(&r(start)));
            }
            Part::Commit(_) | Part::Rollback(_) | Part::Fake => last.extend(encode(&fake(now))),
            Part::Garbage(bytes) => last.extend(bytes),
            Part::Torn(len) => last.extend(&encode(&p(now))[..*len]),
            Part::NextFile(finished) => {
                if *finished {
                    last.extend(footer);
                }
                files.push(Vec::new());
            }
        }
    }
    files.into_iter().enumerate().map(|(number, file)| (number as u32, file)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// A crash at any step, keeping any prefix of the index, and the import again: the same index, the same stream.
    #[test]
    fn a_crash_in_the_import_changes_nothing(
        parts in parts(), crashes in proptest::collection::vec((0_usize..60, 0_usize..8), 0..5), max_commit in 0_u64..40,
    ) {
        let files = files(&parts);
        let index = Ok(OriginalIndex {
            gc: CommitTs::ZERO, max_commit: CommitTs::new(max_commit), handle: (u32::MAX, 0),
        }).map(|index| if max_commit == 0 { OriginalIndex::default() } else { index });
        let mut sound = world(&files, index.clone());
        sound.start();
        let mut crashed = world(&files, index.clone());
        for (steps, kept) in crashes {
            crashed.give(Input::Start);
            for _ in 0..steps {
                let _ = crashed.step_log() || crashed.step_index();
            }
            crashed.crash(kept);
            adopt(&mut crashed, index.clone());
        }
        crashed.start();
        prop_assert_eq!(crashed.pump.status().start, "recovered");
        prop_assert_eq!(crashed.watermark(), sound.watermark());
        prop_assert_eq!(crashed.pump.status().undecided, sound.pump.status().undecided);
        let of = |world: &World| {
            let keys = |(key, _): &(Bytes, Bytes)| key.starts_with(b"commit/") || key.starts_with(b"start/") || key.starts_with(b"undecided/");
            world.index_contents().into_iter().filter(keys).collect::<Vec<_>>()
        };
        prop_assert_eq!(of(&crashed), of(&sound));
        prop_assert_eq!(served(&mut crashed, 0), served(&mut sound, 0));
        prop_assert!(sound.faults.is_empty() && crashed.faults.is_empty(), "{:?} {:?}", sound.faults, crashed.faults);
    }
}

/// The index is made again after GC removed some of the files: what is left names prewrites that are gone, all below the GC point.
#[test]
fn an_index_made_again_after_gc_is_not_frozen() {
    let at = |ms: u64| Tso::compose(ms, 0).raw();
    let txn = |i: u64| file(&[p(at(10 * i)), c(at(10 * i), at(10 * i + 5))]);
    // P of transaction 2 is in the oldest file, its C in the next.
    let zero = [txn(1), file(&[p(at(20))])].concat();
    let one = [file(&[c(at(20), at(35))]), (4..=20).flat_map(txn).collect()].concat();
    let gc = GcConfig { keep_ms: 100, hold: GcHold::Age, interval_ms: 1 << 40 };
    let mut world = World::new(PumpConfig { gc, ..quiet() });
    for (number, contents) in [(0, zero), (1, one)] {
        world.put_original(number, contents);
    }
    adopt(&mut world, empty_index());
    world.start();
    for _ in 0..3 {
        world.pass_ms(61_000);
    }
    world.tso = at(150);
    world.give(Input::TriggerGc);
    world.run();
    assert_eq!(world.originals().iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1]);
    let before = served(&mut world, 0);
    assert!(!before.is_empty());
    for _ in 0..2 {
        world.crash(usize::MAX);
        world.lose_index();
        adopt(&mut world, empty_index());
        world.start();
        assert_eq!(served(&mut world, 0), before, "{:?}", world.faults);
        assert_eq!(world.pump.frozen_below(), None);
        world.crash(usize::MAX);
        adopt(&mut world, empty_index());
        world.start();
        assert_eq!((served(&mut world, 0), world.pump.frozen_below()), (before.clone(), None));
    }
}

#[test]
fn files_that_vanish_while_they_are_read_are_a_fault() {
    let mut world = world(&[(0, file(&[p(1), c(1, 10)]))], empty_index());
    world.give(Input::Start);
    while let Some((op, _)) = world.log_ops.pop_front() {
        world.give(Input::LogDone { op, result: Err(IoFault::NotFound("value/000000.vlog".to_owned())) });
    }
    while world.step_index() {
        while let Some((op, _)) = world.log_ops.pop_front() {
            world.give(Input::LogDone { op, result: Err(IoFault::NotFound("value/000000.vlog".to_owned())) });
        }
    }
    assert!(world.faults.iter().any(|fault| fault.contains("value log 0 of the original")), "{:?}", world.faults);
}
