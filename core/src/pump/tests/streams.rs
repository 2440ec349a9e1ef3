//! Streams: cursors, credit, joining, memory and history, refusals, GC, read faults.

use super::world::{World, c, config, fake, joined, joined_of, p, p_of};
use crate::fault::Reject;
use crate::ids::{CommitTs, LogPtr, StartTs, StreamId};
use crate::index::key;
use crate::index::value::StartValue;
use crate::proto::binlog::Binlog;
use crate::pump::config::{PumpConfig, StreamMemory};
use crate::pump::input::Input;
use crate::vlog::record::Record;
use prost::Message;

/// Transactions 10, 20 … each committed 5 later.
fn filled(count: u64) -> World {
    let mut world = World::online();
    for i in 1..=count {
        world.write(p(i * 10));
        if i % 7 == 0 {
            world.run();
        }
        world.write(c(i * 10, i * 10 + 5));
    }
    world.run();
    assert_eq!(world.watermark(), count * 10 + 5);
    world
}

#[test]
fn an_item_is_the_prewrite_with_the_fields_of_the_commit() {
    let mut world = World::online();
    world.written(p(10)).unwrap();
    // Field 99 of C is not ours: it is kept. Its ddl fields are not.
    let mut commit = c(10, 12).to_vec();
    commit.extend_from_slice(&[0x9a, 0x06, 0x02, b'o', b'k']);
    world.written(commit.into()).unwrap();
    world.written(fake(20)).unwrap();
    world.pull(1, 0, 1 << 20);
    world.run();
    let items = &world.items[&1];
    assert_eq!((items[0].start_ts, items[0].commit_ts), (10, 12));
    assert_eq!(Binlog::decode(&items[0].payload[..]).unwrap(), joined(10, 12));
    assert!(items[0].payload.ends_with(&[0x9a, 0x06, 0x02, b'o', b'k']));
    assert_eq!((items[1].start_ts, items[1].commit_ts, &items[1].payload[..]), (20, 20, &fake(20)[..]));
}

#[test]
fn every_cursor_and_little_credit() {
    let mut world = filled(600);
    let all: Vec<u64> = (1..=600).map(|i| i * 10 + 5).collect();
    for (stream, last) in [(1, 0), (2, 1), (3, 15), (4, 16), (5, 3000), (6, 6004), (7, 6005), (8, 9999)] {
        world.pull(stream, last, 1);
        world.run();
        let want: Vec<u64> = all.iter().copied().filter(|ts| *ts > last).collect();
        // Credit may go below zero by one item.
        assert_eq!(world.commits(stream), want.iter().take(1).copied().collect::<Vec<_>>());
        for _ in 0..want.len() {
            world.give(Input::PullCredit { stream: StreamId::new(stream), bytes: 45 });
            world.run();
        }
        assert_eq!(world.commits(stream), want, "from {last}");
    }
    // A later commit wakes those that wait.
    world.written(p(10_000)).unwrap();
    world.written(c(10_000, 10_001)).unwrap();
    assert_eq!(world.commits(7), vec![10_001]);
    assert_eq!(world.commits(8), vec![10_001]);
}

#[test]
fn nothing_above_the_watermark_is_sent() {
    let mut world = World::online();
    world.pull(1, 0, 1 << 20);
    world.written(p(1)).unwrap();
    world.written(p(2)).unwrap();
    world.written(c(2, 3)).unwrap();
    assert_eq!(world.commits(1), Vec::<u64>::new());
    world.written(c(1, 9)).unwrap();
    assert_eq!(world.commits(1), vec![3, 9]);
}

#[test]
fn refusals() {
    let mut world = filled(1);
    world.give(Input::PullOpen { stream: StreamId::new(1), cluster_id: 8, last: CommitTs::ZERO, credit: 1 });
    assert_eq!(world.ended[&1].as_ref().unwrap_err().to_string(), "cluster ID are mismatch, 8 vs 7");
    for stream in 100..164 {
        world.pull(stream, 0, 0);
    }
    world.pull(200, 0, 0);
    assert!(matches!(world.ended[&200], Err(Reject::Busy(_))));
    world.give(Input::PullClosed { stream: StreamId::new(100) });
    world.pull(201, 0, 1);
    world.run();
    assert_eq!(world.commits(201), vec![15]);
}

fn ran(mut world: World) -> World {
    world.run();
    world
}

/// Started again on what is durable: nothing is in memory.
fn restarted(mut world: World) -> World {
    world.crash(usize::MAX);
    world.start();
    assert_eq!(world.pump.status().tail_bytes, 0);
    world
}

fn commits_of(count: u64) -> Vec<u64> {
    (1..=count).map(|i| i * 10 + 5).collect()
}

/// Where the P of this transaction lies.
fn place_of(world: &World, start_ts: u64) -> LogPtr {
    let value = world.indexed(&key::start(StartTs::new(start_ts))).unwrap();
    match StartValue::decode(value).unwrap() {
        StartValue::Prewrite { span, .. } | StartValue::RolledBack { span, .. } => span.ptr,
        StartValue::Hint => panic!("no prewrite of {start_ts}"),
    }
}

#[test]
fn a_stream_that_keeps_up_needs_no_scan_and_no_read() {
    let mut world = World::online();
    world.pull(1, 0, 1 << 20);
    for i in 1..=100 {
        world.write(p_of(i * 10, if i % 9 == 0 { 40_000 } else { 10 }));
        world.run();
        world.write(c(i * 10, i * 10 + 5));
        world.run();
        let items = world.commits(1);
        assert_eq!(items.last(), Some(&(i * 10 + 5)), "at once");
    }
    assert_eq!(world.commits(1), commits_of(100));
    assert_eq!(Binlog::decode(&world.items[&1][8].payload[..]).unwrap(), joined_of(90, 95, 40_000));
    let pull = world.pump.status().pull;
    assert_eq!((pull.scans, pull.reads, pull.items_sent), (0, 0, 100));
}

#[test]
fn history_is_read_in_large_pieces() {
    let mut world = restarted(filled(3000));
    world.pull(1, 0, 1 << 30);
    world.run();
    assert_eq!(world.commits(1), commits_of(3000));
    let pull = world.pump.status().pull;
    assert!((3..=4).contains(&pull.scans), "{pull:?}");
    // Small records, few in a batch: it is the whole log, once.
    let segments = world.pump.status().durable.segment.raw();
    assert!(pull.reads < 20 && pull.bytes_read < segments << 20, "{pull:?}");
    // Caught up: the rest comes from memory.
    world.written(p(50_000)).unwrap();
    world.written(c(50_000, 50_001)).unwrap();
    assert_eq!(world.commits(1).last(), Some(&50_001));
    let after = world.pump.status().pull;
    assert_eq!((after.scans, after.reads), (pull.scans, pull.reads));
}

#[test]
fn what_fell_out_of_memory_is_read_from_index_and_log() {
    for (tail_bytes, entries) in [(0, 0), (0, 64), (40 << 10, 8), (4 << 20, 0), (4 << 20, 1)] {
        let stream_memory = StreamMemory { tail_bytes, entries };
        let mut world = World::new(PumpConfig { stream_memory, ..config() });
        world.start();
        world.pull(1, 0, 0);
        for i in 1..=200 {
            world.write(p(i * 10));
            world.run();
            world.write(c(i * 10, i * 10 + 5));
            world.run();
        }
        assert_eq!(world.commits(1), Vec::<u64>::new(), "no credit");
        assert_eq!(world.pump.status().pull.reads, 0, "and nothing is read for it");
        // It falls behind again and again.
        for _ in 0..200 {
            world.give(Input::PullCredit { stream: StreamId::new(1), bytes: 40 });
            world.run();
        }
        assert_eq!(world.commits(1), commits_of(200));
        let pull = world.pump.status().pull;
        assert_eq!(pull.scans > 0, entries < 200);
        assert_eq!(pull.reads > 0, tail_bytes < 4 << 20);
    }
}

#[test]
fn a_commit_below_what_was_dropped_from_memory_is_not_forgotten() {
    let stream_memory = StreamMemory { tail_bytes: 1 << 20, entries: 2 };
    let mut world = World::new(PumpConfig { stream_memory, ..config() });
    world.start();
    world.pull(1, 0, 1 << 20);
    // 1 holds the watermark back until the others have gone through memory; it commits below them.
    world.written(p(1)).unwrap();
    world.written(p(2)).unwrap();
    for i in 3..20 {
        world.written(p(i * 10)).unwrap();
        world.written(c(i * 10, i * 10 + 5)).unwrap();
    }
    world.written(c(2, 33)).unwrap();
    assert_eq!(world.commits(1), Vec::<u64>::new());
    world.written(c(1, 34)).unwrap();
    let want: Vec<u64> = [33, 34].into_iter().chain((3..20).map(|i| i * 10 + 5)).collect();
    assert_eq!(world.commits(1), want);
}

#[test]
fn a_slow_consumer_holds_its_credit_and_nobody_back() {
    let mut world = World::online();
    for i in 1..=200 {
        world.write(p_of(i * 10, 3000));
        world.write(c(i * 10, i * 10 + 5));
    }
    let mut world = restarted(ran(world));
    for stream in 1..=30 {
        world.pull(stream, 0, 10_000);
    }
    world.run();
    // Read for the slow ones: what their credit covers, and one item that goes beyond it.
    let read = world.pump.status().pull.bytes_read;
    assert!(read <= 30 * 14_000, "{read}");
    world.pull(31, 0, 1 << 30);
    world.run();
    assert_eq!(world.commits(31), commits_of(200));
    assert_eq!((world.commits(1).len(), world.commits(30).len()), (4, 4));
}

#[test]
fn a_stream_that_gc_has_passed_ends_with_both_numbers() {
    let mut world = filled(5);
    world.pull(1, 0, 0);
    world.pull(2, 0, 1 << 20);
    world.pull(3, 15, 40);
    world.run();
    assert_eq!((world.commits(2), world.commits(3)), (commits_of(5), vec![25, 35]));
    let (gc, ptr) = (CommitTs::new(35), place_of(&world, 40));
    world.pump.append(Record::gc(gc, ptr.segment), false, None).unwrap();
    world.give(Input::Tick);
    world.run();
    let refused = |last| Err(Reject::BelowGc { last: CommitTs::new(last), gc });
    assert_eq!(world.ended.get(&1), Some(&refused(0)), "it never jumps a gap");
    assert_eq!((world.ended.get(&2), world.ended.get(&3)), (None, None));
    for (stream, last, want) in [(4, 0, vec![45, 55]), (5, 35, vec![45, 55]), (6, 36, vec![45, 55]), (7, 45, vec![55])]
    {
        world.pull(stream, last, 1 << 20);
        world.run();
        assert_eq!(world.commits(stream), want, "from {last}");
    }
    world.pull(8, 34, 1 << 20);
    assert_eq!(world.ended.get(&8), Some(&refused(34)));
    let text = world.ended[&8].as_ref().unwrap_err().to_string();
    assert_eq!(text, "drainer request a purged binlog TS 34, this pump keeps binlogs after 35");
    world.give(Input::PullCredit { stream: StreamId::new(3), bytes: 1 << 20 });
    world.run();
    assert_eq!(world.commits(3), vec![25, 35, 45, 55]);
    assert_eq!(world.pump.status().pull.below_gc, 2);
}

#[test]
fn shutting_down_ends_streams_cleanly() {
    let mut world = filled(3);
    world.pull(1, 0, 1 << 20);
    world.pull(2, 0, 0);
    world.run();
    world.give(Input::Shutdown);
    world.run();
    assert!(world.stopped);
    assert_eq!((world.ended.get(&1), world.ended.get(&2)), (Some(&Ok(())), Some(&Ok(()))));
    assert_eq!(world.commits(1), vec![15, 25, 35]);
}

#[test]
fn an_idle_stream_waits_for_the_watermark_only() {
    let mut world = filled(2);
    world.pull(1, 25, 1 << 20);
    world.pull(2, 0, 0);
    world.pull(3, 9999, 1 << 20);
    world.run();
    let before = world.pump.status().pull;
    for _ in 0..100 {
        world.give(Input::Tick);
    }
    assert_eq!(world.pump.status().pull, before);
    assert!(world.log_ops.is_empty() && world.index_ops.is_empty());
}

#[test]
fn a_port_that_cannot_read_ends_the_stream_with_the_place() {
    let mut world = restarted(filled(3));
    world.broken.read = true;
    world.pull(1, 0, 1 << 20);
    world.run();
    let Err(Reject::ReadFailed(text)) = &world.ended[&1] else { panic!("{:?}", world.ended) };
    let place = place_of(&world, 10);
    assert!(text.contains(&format!("segment {} offset {}", place.segment.raw(), place.offset)), "{text}");
    assert_eq!(world.faults, vec![text.clone()]);
    world.broken.read = false;
    world.pull(2, 0, 1 << 20);
    world.run();
    assert_eq!(world.commits(2), vec![15, 25, 35]);
}

/// Hazard 21.
#[test]
fn a_damaged_record_ends_its_stream_after_everything_before_it() {
    let mut world = restarted(filled(300));
    let LogPtr { segment, offset } = place_of(&world, 2000);
    assert_eq!(segment.raw(), 1);
    world.damage(1, offset + 30);
    for stream in 1..=3 {
        world.pull(stream, 0, 1 << 20);
        world.run();
        assert_eq!(world.commits(stream), commits_of(199), "all before it");
        let Err(Reject::ReadFailed(text)) = &world.ended[&stream] else { panic!("{:?}", world.ended) };
        assert!(text.contains(&format!("segment 1 offset {offset}: record checksum does not match")), "{text}");
    }
    assert_eq!(world.faults.len(), 1, "said once");
    let status = world.pump.status();
    assert_eq!((status.pull.broken, status.fault_count), (3, 3), "counted each time");
    // Behind it all is well.
    world.pull(4, 2005, 1 << 20);
    world.run();
    assert_eq!(world.commits(4), commits_of(300).split_off(200));
}
