//! GC over ports in memory: what may go, what stays, and that a crash at any step of it is harmless (rules 6, invariants G1, G2).

use super::world::{World, c, config, joined, p, r};
use crate::fault::Reject;
use crate::index::op::IndexOp;
use crate::node::status::{NodeState, NodeStatus};
use crate::proto::binlog::Binlog;
use crate::pump::config::{GcConfig, GcHold, PumpConfig, StreamMemory};
use crate::pump::effect::Level;
use crate::pump::gc::{GcStatus, Outcome};
use crate::pump::input::Input;
use crate::time::Tso;
use prost::Message;

pub fn drainer(id: &str, state: NodeState, checkpoint: u64) -> NodeStatus {
    NodeStatus {
        node_id: id.to_owned(),
        host: "127.0.0.1:8249".to_owned(),
        state,
        is_alive: false,
        score: 0,
        label: serde_json::Value::Null,
        max_commit_ts: checkpoint as i64,
        update_ts: 0,
        token: None,
    }
}

/// Timestamp of a millisecond of PD's clock.
fn at(ms: u64) -> u64 {
    Tso::compose(ms, 0).raw()
}

fn small(keep_ms: u64, hold: GcHold) -> PumpConfig {
    let gc = GcConfig { keep_ms, hold, interval_ms: 1 << 40 };
    PumpConfig { segment_bytes: 64 << 10, fake_interval_ms: 1 << 40, gc, ..config() }
}

/// Transaction `i` begins at 10 i ms and commits 5 ms later; about fifteen records fill a segment.
fn history(world: &mut World, range: std::ops::RangeInclusive<u64>) {
    for i in range {
        world.written(p(at(10 * i))).unwrap();
        world.written(c(at(10 * i), at(10 * i + 5))).unwrap();
    }
}

/// `count` transactions, all flushed to the index; PD's clock is at the last one.
fn filled(count: u64, config: PumpConfig) -> World {
    let mut world = World::new(config);
    world.start();
    history(&mut world, 1..=count);
    world.tso = at(10 * count + 5);
    flush(&mut world);
    world
}

fn flush(world: &mut World) {
    world.pass_ms(61_000);
    world.pass_ms(61_000);
}

fn collect(world: &mut World) -> GcStatus {
    world.give(Input::TriggerGc);
    world.run();
    status(world)
}

fn status(world: &World) -> GcStatus {
    world.pump.gc_status()
}

/// All that a new stream gets from `last` on; or why it is refused.
fn served(world: &mut World, stream: u64, last: u64) -> Result<Vec<u64>, Reject> {
    world.pull(stream, last, 1 << 30);
    world.run();
    if let Some(Err(reject)) = world.ended.get(&stream) {
        return Err(reject.clone());
    }
    for item in world.items.get(&stream).into_iter().flatten() {
        let binlog = Binlog::decode(&item.payload[..]).unwrap();
        assert_eq!(binlog, joined(item.start_ts as u64, item.commit_ts));
    }
    Ok(world.commits(stream))
}

fn commits(range: std::ops::RangeInclusive<u64>) -> Vec<u64> {
    range.map(|i| at(10 * i + 5)).collect()
}

#[test]
pub fn what_is_old_goes_and_its_slots_are_used_again() {
    let mut world = filled(200, small(1000, GcHold::Drainers));
    let before = (status(&world), world.files().len(), world.keys("commit/"), world.keys("start/"));
    assert!(before.0.segments > 20, "{:?}", before.0);
    let gc = collect(&mut world);
    // The clock is at 2005 ms: everything up to 1005 goes, which is the commit of transaction 100.
    assert_eq!((gc.point.raw(), gc.outcome), (at(1005), Some(Outcome::Age)));
    assert!(gc.slots.freed > 10 && gc.segments + gc.slots.freed as usize >= before.0.segments, "{gc:?}");
    assert_eq!((world.keys("commit/"), world.keys("segment/")), (100, gc.segments));
    // The segment in which G lies stays whole.
    assert!(world.keys("start/") <= 110, "{}", world.keys("start/"));
    assert!(world.files().len() <= before.1, "freed slots are kept for what was used since the start");

    assert_eq!(served(&mut world, 1, 0).unwrap(), commits(101..=200), "0 means: what you hold");
    assert_eq!(served(&mut world, 2, at(1005)).unwrap(), commits(101..=200));
    let refused = served(&mut world, 3, at(1005) - 1).unwrap_err().to_string();
    let text =
        format!("drainer request a purged binlog TS {}, this pump keeps binlogs after {}", at(1005) - 1, at(1005));
    assert_eq!(refused, text);

    let files = world.files().len();
    history(&mut world, 201..=230);
    let gc = status(&world);
    assert!(gc.slots.reused >= 2, "{gc:?}");
    assert!(world.files().len() <= files + 3);
    for kept in [0, usize::MAX] {
        world.crash(kept);
        world.start();
        assert_eq!(served(&mut world, 5, at(1005)).unwrap(), commits(101..=230));
        assert_eq!(status(&world).point.raw(), at(1005));
        assert!(world.faults.is_empty(), "{:?}", world.faults);
    }
    // With little space only two are kept.
    world.tso = at(2305);
    world.give(Input::Space { available: 1 << 10, capacity: 1 << 30 });
    flush(&mut world);
    let gc = collect(&mut world);
    assert_eq!(gc.point.raw(), at(1305));
    assert!(gc.slots.removed > 0 && world.files().len() <= gc.segments + 4, "{gc:?} {}", world.files().len());
    assert_eq!(served(&mut world, 6, at(1305)).unwrap(), commits(131..=230));
}

#[test]
pub fn a_drainer_that_is_not_offline_holds_it_back() {
    for state in [NodeState::Online, NodeState::Pausing, NodeState::Paused, NodeState::Closing] {
        let mut world = filled(60, small(100, GcHold::Drainers));
        world.drainers = vec![drainer("far", NodeState::Online, at(600)), drainer("slow:8249", state, at(255))];
        let gc = collect(&mut world);
        assert_eq!((gc.point.raw(), gc.outcome), (at(255), Some(Outcome::Drainer)));
        let held = gc.held_by.unwrap();
        assert_eq!((held.consumer.node_id.as_str(), held.consumer.checkpoint.raw()), ("slow:8249", at(255)));
        assert_eq!(held.command, "binlogctl -cmd update-drainer -node-id slow:8249 -state offline");
        assert!(world.notices.iter().any(|(level, text)| *level == Level::Warn && text.contains(&held.command)));
        assert_eq!(gc.drainers.iter().map(|d| d.gap_in_ms).collect::<Vec<_>>(), [None, None]);
        let told = world.notices.len();
        collect(&mut world);
        assert_eq!(world.notices.len(), told, "said once");

        // Nothing moves while it is not certain who needs what.
        world.broken.registry = true;
        assert_eq!(
            (collect(&mut world).point.raw(), status(&world).outcome),
            (at(255), Some(Outcome::RegistryUnreadable))
        );
        world.broken.registry = false;
        world.drainers[1].max_commit_ts = 0;
        assert_eq!((collect(&mut world).point.raw(), status(&world).outcome), (at(255), Some(Outcome::NoCheckpoint)));
        world.broken.tso = true;
        assert_eq!((collect(&mut world).point.raw(), status(&world).outcome), (at(255), Some(Outcome::NoTimestamp)));
        world.broken.tso = false;
        // A checkpoint that went back cannot take G back.
        world.drainers[1].max_commit_ts = at(100) as i64;
        assert_eq!(collect(&mut world).point.raw(), at(255));
        assert_eq!(status(&world).drainers[1].gap_in_ms, Some(0), "and is shown as a gap");

        world.drainers[1].state = NodeState::Offline;
        let gc = collect(&mut world);
        assert_eq!((gc.point.raw(), gc.held_by), (at(505), None));
        assert_eq!(served(&mut world, 1, at(505)).unwrap(), commits(51..=60));
    }
}

#[test]
fn by_age_alone_the_drainer_is_told_before_and_its_stream_ends() {
    let mut world = filled(60, small(100, GcHold::Age));
    world.drainers = vec![drainer("slow", NodeState::Paused, at(255)), drainer("near", NodeState::Online, at(560))];
    // Little credit: it stands at the first item.
    world.pull(1, at(100), 1);
    world.run();
    assert_eq!(world.commits(1), [at(105)]);
    world.pull(2, at(100), 1 << 30);
    world.run();
    let gc = collect(&mut world);
    assert_eq!((gc.point.raw(), gc.passed_consumers), (at(505), 1));
    let told = world.notices.iter().position(|(_, text)| text.contains("gc-hold = \"age\"") && text.contains("slow"));
    assert!(told.is_some(), "{:?}", world.notices);
    assert_eq!(gc.drainers.iter().map(|d| d.gap_in_ms).collect::<Vec<_>>(), [Some(0), Some(560 + 100 - 605)]);
    assert!(
        matches!(world.ended[&1], Err(Reject::BelowGc { last, gc }) if (last.raw(), gc.raw()) == (at(105), at(505)))
    );
    assert_eq!(world.commits(1), [at(105)], "it ends, it does not jump");
    // The other one had everything up to G and goes on.
    assert!(!world.ended.contains_key(&2));
    history(&mut world, 61..=62);
    assert_eq!(world.commits(2), commits(10..=62));
    // Without the registry, age decides all the same.
    world.broken.registry = true;
    world.tso = at(640);
    assert_eq!(collect(&mut world).point.raw(), at(540));
    let blind = |world: &World| world.notices.iter().filter(|(_, text)| text.contains("cannot be read")).count();
    assert_eq!(blind(&world), 1, "{:?}", world.notices);
    // The Drainers that were seen last are told of as before.
    world.tso = at(800);
    assert!(!world.notices.iter().any(|(_, text)| text.contains("Drainer near")));
    history(&mut world, 71..=80);
    flush(&mut world);
    let gc = collect(&mut world);
    assert!(gc.point.raw() > at(560) && gc.passed_consumers == 2, "{gc:?}");
    assert!(world.notices.iter().any(|(_, text)| text.contains("Drainer near") && text.contains("by their age")));
    assert_eq!(blind(&world), 1, "said once");
}

#[test]
fn a_request_between_the_decision_and_the_deletion_is_refused() {
    let mut world = filled(60, small(100, GcHold::Age));
    world.give(Input::TriggerGc);
    // The record is not even written yet.
    assert_eq!(world.pump.status().gc.raw(), 0);
    world.pull(1, at(400), 1 << 30);
    assert!(matches!(world.ended[&1], Err(Reject::BelowGc { .. })));
    world.pull(2, 0, 1 << 30);
    world.run();
    assert_eq!(world.commits(2), commits(51..=60));
}

#[test]
pub fn a_long_transaction_keeps_its_prewrite() {
    let mut world = World::new(small(100, GcHold::Drainers));
    world.start();
    world.written(p(at(7))).unwrap();
    history(&mut world, 1..=60);
    world.written(c(at(7), at(610))).unwrap();
    // A prewrite that nobody decides comes later.
    world.written(p(at(620))).unwrap();
    world.written(c(at(1), at(600))).unwrap_or(());
    world.faults.clear();
    world.tso = at(700);
    flush(&mut world);
    let gc = collect(&mut world);
    assert!(gc.point.raw() > at(500), "{gc:?}");
    assert_eq!(gc.slots.freed, 0, "the first segment holds a prewrite that a retained commit needs");
    assert!(world.keys("start/") > 0);
    assert_eq!(served(&mut world, 1, gc.point.raw()).unwrap().last(), Some(&at(610)));
}

#[test]
fn an_undecided_prewrite_keeps_its_segment_and_its_key() {
    let mut world = World::new(small(100, GcHold::Drainers));
    world.start();
    history(&mut world, 1..=30);
    world.written(p(at(302))).unwrap();
    history(&mut world, 31..=60);
    world.tso = at(700);
    flush(&mut world);
    // W stands below it, so G does too.
    let gc = collect(&mut world);
    assert_eq!((gc.point.raw(), gc.outcome), (at(305) - 1, Some(Outcome::Watermark)));
    let freed = gc.slots.freed;
    assert!(freed > 0);
    world.written(c(at(302), at(611))).unwrap();
    // The logged watermark follows with the next record.
    world.written(p(at(650))).unwrap();
    world.written(r(at(650))).unwrap();
    flush(&mut world);
    let gc = collect(&mut world);
    assert!(gc.point.raw() >= at(600) && gc.slots.freed == freed, "its segment stays for its commit {gc:?}");
    assert_eq!(served(&mut world, 1, at(605)).unwrap(), [at(611)]);
    world.written(p(at(800))).unwrap();
    world.written(r(at(800))).unwrap();
    history(&mut world, 81..=90);
    world.tso = at(1000);
    flush(&mut world);
    let gc = collect(&mut world);
    assert!(gc.slots.freed > freed + 2, "{gc:?}");
}

#[test]
pub fn what_the_flushed_index_does_not_cover_stays() {
    let mut world = World::new(small(100, GcHold::Drainers));
    world.start();
    history(&mut world, 1..=5);
    flush(&mut world);
    let flushed = world.pump.status().flushed;
    // The flushes that rotations ask for do not complete.
    let run = |world: &mut World| {
        while world.step_log() || {
            world.index_ops.retain(|(_, request)| !matches!(request, IndexOp::Flush));
            world.step_index()
        } {}
    };
    for i in 6..=60 {
        world.write(p(at(10 * i)));
        world.write(c(at(10 * i), at(10 * i + 5)));
        run(&mut world);
    }
    world.tso = at(605);
    world.give(Input::TriggerGc);
    run(&mut world);
    assert_eq!(status(&world).point.raw(), at(505));
    let first = status(&world).first_live;
    assert!(first <= flushed.segment, "{first} {flushed}");
}

#[test]
fn a_read_under_way_keeps_its_segment() {
    let stream_memory = StreamMemory { tail_bytes: 0, entries: 0 };
    let mut world = filled(60, PumpConfig { stream_memory, ..small(100, GcHold::Age) });
    world.pull(1, at(10), 1 << 30);
    while world.step_index() {}
    // Its reads are queued; the consumer goes away, GC comes before they are carried out.
    let reads = world.log_ops.len();
    assert!(reads > 0);
    let held: Vec<_> = world.log_ops.drain(..).collect();
    world.give(Input::TriggerGc);
    world.run();
    assert_eq!(status(&world).slots.freed, 0, "{:?}", status(&world));
    assert_eq!(status(&world).point.raw(), at(505));
    world.log_ops.extend(held);
    world.run();
    assert!(status(&world).slots.freed > 0);
    assert!(world.faults.is_empty(), "{:?}", world.faults);
}

#[test]
pub fn a_crash_at_any_step_is_harmless() {
    // steps done before the crash; whether un-synced log bytes vanish; batches that the index keeps
    for (power, kept) in [(true, 0), (true, usize::MAX), (false, 1), (false, 0)] {
        for steps in 0.. {
            let mut world = filled(40, small(100, GcHold::Drainers));
            // Slots of a first round are in use again, with their old batches behind the new ones.
            world.drainers = vec![drainer("d", NodeState::Online, at(155))];
            collect(&mut world);
            history(&mut world, 41..=60);
            world.tso = at(605);
            flush(&mut world);
            world.drainers = vec![];
            world.give(Input::TriggerGc);
            let mut done = 0;
            while done < steps && (world.step_log() || world.step_index()) {
                done += 1;
            }
            let finished = done < steps;
            if power {
                world.crash(kept);
            } else {
                world.kill(kept);
            }
            world.start();
            assert!(world.faults.is_empty(), "{steps}: {:?}", world.faults);
            let gc = status(&world).point.raw();
            assert!(gc == at(155) || gc == at(505), "{steps}: {gc}");
            let from = if gc == at(155) { 16 } else { 51 };
            assert_eq!(served(&mut world, 1, gc).unwrap(), commits(from..=60), "{steps}");
            // Everything works on: writes, another round, another restart.
            history(&mut world, 61..=70);
            world.tso = at(705);
            flush(&mut world);
            assert_eq!(collect(&mut world).point.raw(), at(605));
            world.crash(kept);
            world.start();
            assert_eq!(served(&mut world, 2, at(605)).unwrap(), commits(61..=70), "{steps}");
            if finished {
                assert!(steps > 5);
                break;
            }
        }
    }
}

#[test]
fn the_log_alone_brings_the_index_back() {
    let mut world = filled(60, small(100, GcHold::Drainers));
    // Commits whose prewrites lie in segments that go, and one that stays.
    world.written(p(at(606))).unwrap();
    let gc = collect(&mut world);
    assert!(gc.slots.freed > 3);
    world.crash(0);
    world.lose_index();
    world.start();
    assert!(world.faults.is_empty(), "{:?}", world.faults);
    assert_eq!(status(&world).point, gc.point);
    assert_eq!(served(&mut world, 1, gc.point.raw()).unwrap(), commits(51..=60));
    assert_eq!(world.pump.status().undecided, 1);
}

/// The log tells the GC point at the start; the index deletes by it and has to know it too, for the next time the log may not be
/// readable: then it alone decides where streams may begin.
#[test]
fn the_gc_point_that_the_log_told_is_in_the_index() {
    for lose_index in [false, true] {
        let mut world = filled(60, small(100, GcHold::Age));
        let point = collect(&mut world).point.raw();
        assert_eq!(point, at(505));
        // The index had not flushed what GC told it.
        world.crash(0);
        if lose_index {
            world.lose_index();
        }
        world.start();
        assert_eq!(status(&world).point.raw(), point);
        flush(&mut world);
        world.crash(0);
        world.broken.read = true;
        world.start();
        assert!(world.pump.status().read_only.is_some());
        assert_eq!(status(&world).point.raw(), point);
        let refused = served(&mut world, 1, point - 1).unwrap_err();
        assert!(matches!(refused, Reject::BelowGc { .. }), "{refused}");
    }
}

/// Filling takes the last bytes of a disk: a commit would find it full, and the pump would be read-only from then on.
#[test]
fn nothing_is_filled_while_prewrites_are_refused() {
    let space = |available| Input::Space { available, capacity: 1 << 30 };
    let config = PumpConfig { stop_write_at_available_space: 1 << 20, ..small(100, GcHold::Drainers) };
    let mut world = filled(20, config);
    world.give(space(1000));
    let before = status(&world).slots.filled_bytes;
    for i in 1..40 {
        world.written(r(at(1000 + i))).unwrap();
        world.pass_ms(100);
    }
    assert!(status(&world).segments > 3);
    assert_eq!(status(&world).slots.filled_bytes, before, "hints are stored, and nothing is filled");
    world.give(space(1 << 29));
    world.pass_ms(100);
    assert!(status(&world).slots.filled_bytes > before);
}

/// What GC freed is kept while there is space; then a Drainer holds GC back, nothing more is freed, and space gets short.
#[test]
fn free_slots_go_when_space_is_short() {
    let space = |available| Input::Space { available, capacity: 1 << 30 };
    let config = PumpConfig { stop_write_at_available_space: 1 << 20, ..small(100, GcHold::Drainers) };
    let mut world = filled(200, config);
    world.give(space(1 << 29));
    assert!(collect(&mut world).free_slots > 2, "{:?}", status(&world));
    world.drainers = vec![drainer("slow", NodeState::Online, at(300))];
    world.give(space((1 << 20) + 1000));
    world.run();
    let now = status(&world);
    assert!(now.free_slots <= 2 && now.slots.removed > 0, "{now:?}");
    assert!(world.files().len() <= now.segments + 3);
}

#[test]
fn slots_are_filled_ahead_after_a_pause() {
    let mut world = World::new(small(1 << 40, GcHold::Drainers));
    world.start();
    world.pass_ms(1000);
    assert_eq!(world.files().len(), 1, "an idle pump takes no space");
    history(&mut world, 1..=15);
    world.pass_ms(49);
    assert_eq!(status(&world).slots.filled_bytes, 0, "a busy log grows");
    world.pass_ms(1);
    assert_eq!(status(&world).slots.filled, 2, "one piece after the other, without another pause");
    history(&mut world, 16..=30);
    let slots = status(&world).slots;
    assert!(slots.reused >= 1 && slots.filled_bytes >= 128 << 10, "{slots:?}");
    assert!(status(&world).prepared_bytes <= 128 << 10, "two ahead");
    // Filling fails: the log grows without it, and nothing else happens.
    world.broken.fill = true;
    world.pass_ms(50);
    history(&mut world, 31..=60);
    let now = status(&world).slots;
    assert!(now.failed > 0 && now.removed > 0, "{now:?}");
    assert!(world.faults.is_empty());
    assert_eq!(served(&mut world, 1, 0).unwrap(), commits(1..=60));
    world.broken.fill = false;
    world.pass_ms(50);
    assert!(status(&world).slots.filled > now.filled);
    world.crash(0);
    world.start();
    assert_eq!(served(&mut world, 2, 0).unwrap(), commits(1..=60));
}

#[test]
fn rounds_come_by_themselves_and_sooner_when_space_is_short() {
    let gc = GcConfig { keep_ms: 100, ..GcConfig::default() };
    let mut world = World::new(PumpConfig { gc, ..small(100, GcHold::Drainers) });
    world.start();
    world.pass_ms(60_000);
    assert_eq!(status(&world).rounds, 1, "after the start");
    world.pass_ms(2 * 3_600_000);
    assert_eq!(status(&world).rounds, 3, "then hourly");
    history(&mut world, 1..=60);
    world.tso = at(605);
    world.drainers = vec![drainer("d", NodeState::Paused, at(255))];
    world.give(Input::Space { available: 30 << 10, capacity: 1 << 30 });
    world.run();
    world.pass_ms(300_000);
    let rounds = status(&world).rounds;
    assert!((8..=9).contains(&rounds), "{rounds}");
    assert_eq!(status(&world).point.raw(), at(255), "a Drainer is waited for also then");
    // Asked for while one is under way.
    world.drainers.clear();
    world.give(Input::TriggerGc);
    world.give(Input::TriggerGc);
    assert!(!status(&world).triggered);
    world.run();
    world.give(Input::TriggerGc);
    assert!(status(&world).triggered);
}
