//! Streams: cursors, credit, joining, refusals, read faults.

use super::world::{World, c, fake, joined, p};
use crate::fault::Reject;
use crate::ids::{CommitTs, StreamId};
use crate::proto::binlog::Binlog;
use crate::pump::input::Input;
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

#[test]
fn an_unreadable_record_ends_its_stream_with_the_place() {
    let mut world = filled(3);
    world.broken.read = true;
    world.pull(1, 0, 1 << 20);
    world.run();
    let Err(Reject::ReadFailed(text)) = &world.ended[&1] else { panic!("{:?}", world.ended) };
    assert!(text.contains("segment 1 offset "), "{text}");
    assert_eq!(world.faults, vec![text.clone()]);
    world.broken.read = false;
    world.pull(2, 0, 1 << 20);
    world.run();
    assert_eq!(world.commits(2), vec![15, 25, 35]);
}
