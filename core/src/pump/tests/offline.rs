//! Going offline (spec pump 4.5, rules 6, R8), its end at every step, operators' actions, and ids claimed twice.

use super::world::{World, c, config, p, r};
use crate::fault::Reject;
use crate::node::status::NodeState::{self, Closing, Offline, Online, Paused, Pausing};
use crate::node::status::NodeStatus;
use crate::pump::input::{Action, Input};

fn drainer(id: &str, state: NodeState, checkpoint: u64) -> NodeStatus {
    let text = format!(r#"{{"nodeId":"{id}","state":"{state}","maxCommitTS":{checkpoint}}}"#);
    serde_json::from_str(&text).unwrap()
}

fn states(world: &World) -> Vec<NodeState> {
    let mut states: Vec<_> = world.registry.iter().map(|status| status.state).collect();
    states.dedup();
    states
}

fn act(world: &mut World, call: u64, action: Action) -> Result<(), NodeState> {
    world.give(Input::Action { call, action });
    world.run();
    world.actions[&call]
}

fn waits_for(world: &World) -> String {
    world.pump.status().closing.expect("it is closing").waits_for.join("; ")
}

fn target(world: &World) -> Option<u64> {
    world.pump.status().closing.and_then(|closing| closing.target).map(crate::ids::CommitTs::raw)
}

fn write_one(world: &mut World) -> u64 {
    let start = world.tso + 1;
    world.tso += 10;
    world.written(p(start)).unwrap();
    world.written(c(start, start + 1)).unwrap();
    start + 1
}

#[test]
fn without_drainers_it_is_offline_at_once() {
    let mut world = World::online();
    let commit = write_one(&mut world);
    assert_eq!(act(&mut world, 1, Action::Close), Ok(()));
    assert!(world.stopped);
    assert_eq!(states(&world), vec![Paused, Online, Closing, Offline]);
    assert!(world.registry.last().unwrap().max_commit_ts > commit as i64, "the closing fake");
    assert_eq!(world.unflushed(), 0);
}

/// R8: the commit of a prewrite that was accepted before comes while closing.
#[test]
fn an_undecided_prewrite_is_waited_for_and_its_commit_lies_below_the_target() {
    let mut world = World::online();
    world.pull(1, 0, 1 << 20);
    let start = world.tso + 1;
    world.tso += 10;
    world.written(p(start)).unwrap();
    assert_eq!(act(&mut world, 1, Action::Close), Ok(()));
    assert_eq!(world.written(p(start + 1)), Err(Reject::NotOnline("closing")));
    assert_eq!(world.written(bytes::Bytes::new()), Err(Reject::NotOnline("closing")), "a probe too");
    world.pass_ms(20_000);
    assert_eq!((target(&world), world.stopped), (None, false));
    assert!(waits_for(&world).contains(&format!("start_ts {start}")), "{}", waits_for(&world));
    // A commit timestamp above every fake so far.
    let commit = world.tso + 5;
    world.tso += 10;
    world.drainers = vec![drainer("d", Online, 0)];
    assert_eq!(world.written(c(start, commit)), Ok(()));
    world.pass_ms(3000);
    let target = target(&world).expect("known now");
    assert!(target > commit, "{target} {commit}");
    assert!(world.commits(1).contains(&commit) && world.commits(1).contains(&target));
    assert!(!world.stopped && world.ended.is_empty(), "streams are served until the end");
    world.drainers = vec![drainer("d", Online, target)];
    world.pass_ms(2000);
    assert!(world.stopped);
    assert_eq!(
        (world.registry.last().unwrap().state, world.registry.last().unwrap().max_commit_ts),
        (Offline, target as i64)
    );
    assert_eq!(world.ended[&1], Ok(()));
    assert!(world.faults.is_empty(), "{:?}", world.faults);
}

#[test]
fn a_rollback_releases_it_too() {
    let mut world = World::online();
    let start = world.tso + 1;
    world.tso += 10;
    world.written(p(start)).unwrap();
    assert_eq!(act(&mut world, 1, Action::Close), Ok(()));
    assert_eq!(world.written(r(start)), Ok(()));
    world.pass_ms(2000);
    assert!(world.stopped);
}

#[test]
fn every_drainer_that_is_not_offline_is_waited_for_by_name() {
    let mut world = World::online();
    write_one(&mut world);
    world.drainers = vec![drainer("a", Paused, 5), drainer("b", Offline, 5), drainer("c", Online, 7)];
    world.pull(1, 0, 1 << 20);
    act(&mut world, 1, Action::Close).unwrap();
    let fixed = target(&world).unwrap();
    world.pass_ms(10_000);
    let text = waits_for(&world);
    assert!(text.contains("drainer a (paused) has checkpoint 5") && text.contains("drainer c (online)"), "{text}");
    assert!(text.contains("binlogctl -cmd update-drainer -node-id a -state offline") && !text.contains("drainer b"));
    // Fakes go on, so that the Drainers' checkpoints can move; the target stays.
    assert!(world.pump.status().fakes >= 9, "{}", world.pump.status().fakes);
    assert_eq!(target(&world), Some(fixed));
    assert!(*world.commits(1).last().unwrap() > fixed);
    // Heartbeats go on, and show what it is.
    let beats = world.registry.iter().filter(|status| status.state == Closing).count();
    assert!(beats >= 5, "{beats}");
    let said = world.notices.iter().filter(|(_, text)| text.contains("going offline waits for")).count();
    assert_eq!(said, 1, "{:?}", world.notices);
    world.drainers = vec![drainer("a", Offline, 5), drainer("c", Online, fixed - 1)];
    world.pass_ms(3000);
    assert!(!world.stopped && !waits_for(&world).contains("drainer a"));
    world.drainers = vec![drainer("c", Online, fixed)];
    world.pass_ms(3000);
    assert!(world.stopped);
    assert_eq!(world.registry.last().unwrap().max_commit_ts, fixed as i64, "not the later fakes");
}

#[test]
fn outages_of_registry_and_pd_are_survived() {
    let mut world = World::online();
    world.broken.tso = true;
    act(&mut world, 1, Action::Close).unwrap();
    world.pass_ms(180_000);
    assert!(waits_for(&world).contains("PD"), "{}", waits_for(&world));
    world.broken.tso = false;
    world.broken.registry = true;
    world.pass_ms(180_000);
    assert!(waits_for(&world).contains("list of Drainers"), "{}", waits_for(&world));
    assert!(!world.stopped);
    world.broken.registry = false;
    world.pass_ms(3000);
    assert!(world.stopped);
    assert_eq!(world.registry.last().unwrap().state, Offline);
}

/// `offline` must be seen before the process ends; a signal makes it end all the same.
#[test]
fn offline_is_written_however_long_the_registry_is_away() {
    for impatient in [false, true] {
        let mut world = World::online();
        world.drainers = vec![drainer("d", Online, 0)];
        act(&mut world, 1, Action::Close).unwrap();
        world.drainers = vec![];
        // The listing succeeds, then the registry goes away: its next write is the final one.
        world.now = world.now.plus_millis(1000);
        world.give(Input::Tick);
        assert_eq!(world.registry.last().unwrap().state, Closing);
        world.broken.registry = true;
        world.run();
        world.pass_ms(120_000);
        assert!(!world.stopped);
        if impatient {
            world.give(Input::Shutdown);
            world.pass_ms(30_000);
            assert!(world.stopped);
        } else {
            world.broken.registry = false;
            world.pass_ms(2000);
            assert!(world.stopped && world.registry.last().unwrap().state == Offline);
        }
    }
}

/// A crash after any number of steps: the next life goes on, and ends offline with everything served.
#[test]
fn a_crash_at_any_step_does_not_forget_the_wish() {
    for steps in 0..12 {
        for kept in [0, usize::MAX] {
            let mut world = World::online();
            let commit = write_one(&mut world);
            world.drainers = vec![drainer("d", Online, 0)];
            world.give(Input::Action { call: 1, action: Action::Close });
            for _ in 0..steps {
                let _ = world.step_log() || world.step_index();
            }
            let answered = world.actions.contains_key(&1);
            world.crash(kept);
            world.start();
            if answered {
                assert_eq!(states(&world), vec![Paused, Closing], "{steps} {kept}");
            }
            if world.pump.status().closing.is_none() {
                act(&mut world, 2, Action::Close).unwrap();
            }
            assert_eq!(world.written(p(world.tso + 1)), Err(Reject::NotOnline("closing")));
            world.pass_ms(3000);
            let target = target(&world).expect("nothing is undecided");
            assert!(target > commit);
            world.drainers = vec![drainer("d", Online, target)];
            world.pass_ms(3000);
            assert!(world.stopped && world.registry.last().unwrap().state == Offline);
            // Started again on purpose, it serves.
            world.crash(kept);
            world.start();
            assert_eq!((states(&world), world.notified), (vec![Paused, Online], 1), "{steps} {kept}");
        }
    }
}

#[test]
fn the_index_alone_remembers_it() {
    let mut world = World::online();
    world.drainers = vec![drainer("d", Online, 0)];
    act(&mut world, 1, Action::Close).unwrap();
    world.crash(0);
    world.pump =
        crate::pump::machine::Pump::new(crate::pump::config::PumpConfig { previous: Some(Online), ..config() });
    world.start();
    assert_eq!(states(&world), vec![Paused, Closing]);
}

#[test]
fn cancel_goes_back_to_online_for_good() {
    let mut world = World::online();
    world.drainers = vec![drainer("d", Online, 0)];
    assert_eq!(act(&mut world, 1, Action::Cancel), Err(Online));
    act(&mut world, 2, Action::Close).unwrap();
    assert_eq!(act(&mut world, 3, Action::Close), Err(Closing));
    assert_eq!(act(&mut world, 4, Action::Pause), Err(Closing));
    assert_eq!(act(&mut world, 5, Action::Cancel), Ok(()));
    write_one(&mut world);
    world.drainers.clear();
    world.pass_ms(10_000);
    assert!(!world.stopped && world.pump.status().closing.is_none());
    assert_eq!(states(&world), vec![Paused, Online, Closing, Online]);
    world.crash(0);
    world.start();
    assert_eq!(states(&world), vec![Paused, Online]);
    // And it can be asked again; the target is a new one.
    act(&mut world, 6, Action::Close).unwrap();
    assert!(world.stopped);
}

#[test]
fn a_signal_while_closing_stops_as_paused_and_takes_it_back() {
    let mut world = World::online();
    world.drainers = vec![drainer("d", Online, 0)];
    act(&mut world, 1, Action::Close).unwrap();
    world.give(Input::Shutdown);
    world.run();
    assert!(world.stopped);
    assert_eq!(states(&world), vec![Paused, Online, Closing, Pausing, Paused]);
    world.crash(0);
    world.start();
    assert_eq!(states(&world), vec![Paused, Online]);
}

#[test]
fn pause_by_action() {
    let mut world = World::new(config());
    world.give(Input::Action { call: 1, action: Action::Pause });
    assert_eq!(world.actions[&1], Err(Paused), "it has not started");
    world.start();
    assert_eq!(act(&mut world, 2, Action::Pause), Ok(()));
    assert!(world.stopped);
    assert_eq!(states(&world), vec![Paused, Online, Pausing, Paused]);
    assert_eq!(act(&mut world, 3, Action::Pause), Err(Paused));
}

#[test]
fn an_id_that_another_process_claims_is_left_to_it() {
    let mut world = World::online();
    let write = write_one(&mut world);
    world.claimed = Some("pump at 10.0.0.9:8250".to_owned());
    let before = world.registry.len();
    world.pass_ms(3000);
    assert!(world.stopped, "it stops");
    assert_eq!(world.registry.len(), before, "and does not write the entry any more");
    assert!(
        world.faults.iter().any(|text| text.contains("claimed") && text.contains("10.0.0.9:8250")),
        "{:?}",
        world.faults
    );
    assert_eq!((world.faults.len(), world.unflushed()), (1, 0));
    world.crash(0);
    world.start();
    assert_eq!(world.watermark(), write, "nothing acknowledged is lost");
}

#[test]
fn binlogs_are_looked_up_by_their_timestamp() {
    let mut world = World::online();
    let commit = write_one(&mut world);
    world.pass_ms(6000);
    let idle = world.pump.status().logged_watermark.raw();
    for (call, ts) in [(1, commit - 1), (2, commit), (3, idle), (4, 77)] {
        world.give(Input::ReadBinlog { call, ts });
    }
    world.run();
    assert_eq!(world.binlogs[&1], Ok(p(commit - 1)));
    assert_eq!(world.binlogs[&2], Ok(c(commit - 1, commit)));
    assert_eq!(world.binlogs[&3], Ok(super::world::fake(idle)));
    assert_eq!(world.binlogs[&4], Err("fail read binlog by ts: 77: not found".to_owned()));
    world.broken.read = true;
    world.give(Input::ReadBinlog { call: 5, ts: commit });
    world.run();
    assert!(world.binlogs[&5].is_err());
    assert_eq!(world.faults, Vec::<String>::new());
}

#[test]
fn why_prewrites_are_refused() {
    let mut world = World::new(config());
    assert_eq!(world.pump.refuses_writes().as_deref(), Some("no online: starting"));
    world.start();
    assert_eq!(world.pump.refuses_writes(), None);
    world.give(Input::Space { available: 1, capacity: 1000 });
    assert!(world.pump.refuses_writes().unwrap().starts_with("no available space"));
    world.broken.sync = true;
    world.give(Input::Space { available: 1 << 30, capacity: 1 << 30 });
    let _ = world.written(p(1));
    assert!(world.pump.refuses_writes().unwrap().contains("read-only"));
}
