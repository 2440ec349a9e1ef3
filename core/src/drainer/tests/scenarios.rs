//! Single situations of the whole machine.

use super::sink::Way;
use super::translator::{BROKEN, UNKNOWN, value, value_at};
use super::world::{Faults, Txn, World, ddl, dml, pump};
use crate::drainer::input::{Input, ResolveAction};
use crate::fault::Fault;
use crate::ids::{CommitTs, SchemaVersion};
use crate::node::status::NodeState;
use crate::sink::op::{Checkpoint, SinkOp, SinkState, Statement};
use std::collections::BTreeSet;

fn ts(raw: u64) -> CommitTs {
    CommitTs::new(raw)
}

fn rows(at: &[u64]) -> Vec<Txn> {
    at.iter().map(|ts| dml(*ts, value(1, 0, 0), &[0])).collect()
}

fn effects(world: &World) -> Vec<u64> {
    world.db.effects.iter().map(|ts| ts.raw()).collect()
}

fn finish(world: &mut World) {
    world.run_until("everything is applied", |w| w.is_done());
    world.shut_down();
}

/// The original's row, as a takeover finds it.
fn original_row(commit_ts: u64) -> Checkpoint {
    Checkpoint { commit_ts: ts(commit_ts), schema_version: SchemaVersion::new(0), ..Checkpoint::default() }
}

#[test]
fn a_first_start_with_minus_one_begins_now_and_persists_that() {
    let mut world = World::new(1, rows(&[10, 40, 50]), 1);
    world.config.initial_commit_ts = -1;
    world.clock = 30;
    world.restart();
    world.run_until("begun", |w| w.db.row.is_some());
    let begun = world.db.begun_at;
    assert!((30..40).contains(&begun.raw()), "{begun}");
    world.crash();
    finish(&mut world);
    assert_eq!(world.db.begun_at, begun, "the second start does not choose again");
    assert_eq!(effects(&world), [40, 50]);
    assert_eq!(world.db.last_generation, 1);
    assert_eq!(world.db.state.as_ref().unwrap().0.safe_until, CommitTs::ZERO);
}

#[test]
fn a_takeover_is_persisted_before_anything_is_applied_and_says_so() {
    let mut world = World::new(2, rows(&[10, 20, 30]), 1);
    world.db.row = Some(original_row(15));
    world.clock = 25;
    world.run_until("something is applied", |w| !w.db.effects.is_empty());
    let state = world.db.state.as_ref().unwrap().0.clone();
    assert_eq!(state.generation, 1);
    assert!(state.safe_until >= ts(25), "{state:?}");
    assert!(world.notices.iter().any(|n| n.contains("taking over from checkpoint 15")), "{:?}", world.notices);
    finish(&mut world);
    assert_eq!(effects(&world), [20, 30]);
}

#[test]
fn a_checkpoint_that_was_set_back_is_a_takeover_with_a_new_generation() {
    let mut world = World::new(3, rows(&[10, 20, 30]), 1);
    finish(&mut world);
    world.db.row = Some(original_row(15));
    world.db.effects.clear();
    world.restart();
    finish(&mut world);
    assert_eq!(effects(&world), [20, 30]);
    assert_eq!(world.db.last_generation, 2);
}

#[test]
fn what_is_recorded_above_the_checkpoint_is_not_applied_again() {
    let mut world = World::new(4, rows(&[10, 20, 30]), 1);
    let row = original_row(5);
    let state = SinkState { generation: 7, ..SinkState::default() };
    world.db.state = Some((state, row.clone()));
    world.db.row = Some(row);
    world.db.last_generation = 7;
    world.db.recorded = BTreeSet::from([(7, ts(10)), (7, ts(20))]);
    world.db.begun_at = ts(20);
    finish(&mut world);
    assert_eq!(effects(&world), [30]);
    assert!(world.db.recorded.is_empty());
    let asked = world.notices.iter().find(|n| n.contains("is in the downstream already"));
    assert_eq!(asked, None, "known from the start, not found out by sending it");
}

#[test]
fn a_stop_below_what_is_recorded_is_not_consistent() {
    let mut world = World::new(16, rows(&[10, 500]), 1);
    let row = original_row(5);
    let state = SinkState { generation: 7, ..SinkState::default() };
    world.db.state = Some((state, row.clone()));
    world.db.row = Some(row);
    world.db.last_generation = 7;
    world.db.recorded = BTreeSet::from([(7, ts(500))]);
    world.run_until("the first is applied", |w| w.drainer.status().applied >= 10);
    world.shut_down();
    let row = world.db.row.clone().unwrap();
    assert!(row.commit_ts >= ts(10) && row.commit_ts < ts(500) && !row.consistent, "{row:?}");
}

#[test]
fn a_stop_with_a_commit_in_doubt_is_not_consistent() {
    let mut world = World::new(21, rows(&[10]), 1);
    world.force = Some((|op| matches!(op, SinkOp::Apply { .. }), Way::Limbo));
    world.run_until("its COMMIT is lost from sight", |w| w.force.is_none());
    world.shut_down();
    let row = world.db.row.clone().unwrap();
    assert!(row.commit_ts < ts(10) && !row.consistent, "the old session may still commit: {row:?}");
}

#[test]
fn a_save_whose_answer_is_lost_is_recognised() {
    let mut world = World::new(17, rows(&[10, 20, 30]), 1);
    world.force = Some((|op| matches!(op, SinkOp::Save { .. }), Way::LostAfter));
    world.run_until("saved", |w| w.drainer.status().checkpoint >= 30);
    finish(&mut world);
    assert!(world.force.is_none(), "it happened");
    assert!(!world.notices.iter().any(|n| n.starts_with("starting again")), "{:?}", world.notices);
    assert_eq!(effects(&world), [10, 20, 30]);
}

#[test]
fn an_apply_whose_answer_is_lost_is_recognised_by_its_records() {
    let mut world = World::new(18, rows(&[10, 20, 30]), 1);
    world.force = Some((|op| matches!(op, SinkOp::Apply { .. }), Way::LostAfter));
    finish(&mut world);
    assert!(world.force.is_none(), "it happened");
    let asked = world.notices.iter().find(|n| n.contains("is in the downstream already"));
    assert_eq!(asked, None, "not found out by sending it again");
    assert_eq!(effects(&world), [10, 20, 30]);
}

#[test]
fn a_downstream_that_lost_a_commit_is_rewound() {
    let mut world = World::new(19, rows(&[10, 20, 400]), 1);
    world.run_until("applied and not saved", |w| w.drainer.status().applied >= 20);
    assert!(world.db.recorded.contains(&(1, ts(20))), "not saved yet");
    // A failover to a replica that had not received it.
    world.db.recorded.remove(&(1, ts(20)));
    world.db.effects.retain(|at| *at != ts(20));
    world.force = Some((|_| true, Way::LostBefore));
    finish(&mut world);
    assert!(world.notices.iter().any(|n| n.contains("commit_ts 20 was committed, but is not recorded")));
    assert_eq!(effects(&world), [10, 20, 400]);
}

#[test]
fn a_refused_transaction_pauses_with_the_checkpoint_before_it() {
    let mut world = World::new(5, rows(&[10, 20, 30, 40]), 1);
    world.db.refuse.insert(ts(30));
    world.run_until("paused", |w| w.drainer.status().state == "paused");
    world.run_until("saved", |w| w.drainer.status().checkpoint >= 20);
    let status = world.drainer.status();
    let paused = status.paused.unwrap();
    assert_eq!((paused.commit_ts, paused.statement.as_str(), paused.ddl), (30, "dml 30 0", false));
    assert!(status.waiting.unwrap().why.contains("paused at commit_ts 30"));
    assert_eq!(status.checkpoint, status.applied);
    assert!(status.checkpoint < 30);
    assert_eq!(effects(&world), [10, 20], "what precedes it in the batch went alone");

    for (commit_ts, ok) in [(20, false), (30, true), (30, false)] {
        world.handle(Input::Resolve { call: 1, commit_ts: ts(commit_ts), action: ResolveAction::Skip });
        assert_eq!(world.replies.pop(), Some((1, ok)), "{commit_ts}");
    }
    finish(&mut world);
    assert_eq!(effects(&world), [10, 20, 40]);
    assert_eq!(world.db.resolved, [ts(30)]);
}

#[test]
fn a_stop_while_paused_keeps_the_checkpoint_before_it() {
    let mut world = World::new(6, rows(&[10, 20, 30, 40]), 1);
    world.db.refuse.insert(ts(30));
    world.run_until("paused", |w| w.drainer.status().state == "paused");
    world.shut_down();
    let row = world.db.row.clone().unwrap();
    assert!(row.consistent && row.commit_ts >= ts(20) && row.commit_ts < ts(30), "{row:?}");
    world.db.refuse.clear();
    world.restart();
    finish(&mut world);
    assert_eq!(effects(&world), [10, 20, 30, 40]);
}

#[test]
fn skipping_a_create_drops_its_rows_also_after_a_restart() {
    let txns = vec![
        ddl(10, 1, 6, "create", &[0]),
        dml(20, value(1, 10, 10), &[0]),
        dml(30, value(1, 10, 0), &[0]),
        dml(60, value(1, 10, 10), &[0]),
        dml(70, value(1, 10, 0), &[0]),
    ];
    for (action, expected) in [(ResolveAction::Skip, vec![30, 70]), (ResolveAction::MarkApplied, vec![20, 30, 60, 70])]
    {
        let mut world = World::new(7, txns.clone(), 1);
        world.db.refuse.insert(ts(10));
        world.run_until("paused", |w| w.drainer.status().state == "paused");
        assert!(world.drainer.status().paused.unwrap().ddl);
        world.handle(Input::Resolve { call: 1, commit_ts: ts(10), action });
        world.run_until("in the middle", |w| w.db.effects.contains(&ts(30)));
        let saved = world.db.state.as_ref().unwrap().0.skipped_tables.clone();
        assert_eq!(saved.contains(&10), action == ResolveAction::Skip, "durable before a later row was sent");
        world.crash();
        finish(&mut world);
        assert_eq!(effects(&world), expected, "{action:?}");
        assert_eq!(world.db.row.as_ref().unwrap().schema_version, SchemaVersion::new(1));
    }
}

#[test]
fn a_ddl_is_alone_and_saved_at_once_and_waits_for_its_job() {
    let txns = vec![dml(10, value(1, 0, 0), &[0]), ddl(11, 1, 6, "alter", &[0]), dml(12, value(1, 11, 0), &[0])];
    let mut world = World::new(8, txns, 1);
    world.job_delay = 15;
    world.clock = 12;
    world.run_until("the wait is said", |w| w.notices.iter().any(|n| n.contains("DDL job 1 (commit_ts 11)")));
    assert_eq!(effects(&world), [10], "nothing behind the DDL");
    assert!(world.drainer.status().waiting.unwrap().why.contains("DDL job 1"));
    world.run_until("the DDL ran", |w| w.db.effects.contains(&ts(11)));
    world.run_until("the next one ran", |w| w.db.effects.contains(&ts(12)));
    let row = world.db.row.clone().unwrap();
    assert_eq!((row.commit_ts, row.schema_version), (ts(11), SchemaVersion::new(1)), "saved between the two");
}

#[test]
fn configured_transactions_are_left_out_and_their_ddl_is_tracked() {
    let txns = vec![
        dml(10, value(1, 0, 0), &[0]),
        ddl(11, 1, 6, "alter", &[0]),
        dml(12, value(BROKEN, 11, 0), &[0]),
        dml(13, value(1, 11, 0), &[0]),
    ];
    let mut world = World::new(9, txns, 1);
    world.config.ignore_txn_commit_ts = BTreeSet::from([ts(11), ts(12)]);
    world.restart();
    finish(&mut world);
    assert_eq!(effects(&world), [10, 13]);
    assert!(world.db.row.unwrap().commit_ts >= ts(13));
}

#[test]
fn a_ddl_whose_job_is_nowhere_can_be_left_out() {
    let txns = vec![dml(10, value(1, 0, 0), &[0]), ddl(11, 1, 6, "alter", &[0]), dml(12, value(1, 0, 0), &[0])];
    let mut world = World::new(8, txns, 1);
    world.job_delay = u64::MAX / 2;
    world.config.ignore_txn_commit_ts = BTreeSet::from([ts(11)]);
    world.restart();
    world.run_until("the next one ran", |w| w.db.effects.contains(&ts(12)));
    assert_eq!(effects(&world), [10, 12]);
    assert!(world.notices.iter().any(|n| n.contains("its job 1 is not in the history")), "{:?}", world.notices);
}

#[test]
fn a_binlog_that_cannot_be_translated_stops_there_and_the_process_stays() {
    let txns = vec![dml(10, value(1, 0, 0), &[0]), dml(20, value(BROKEN, 0, 0), &[0]), dml(30, value(1, 0, 0), &[0])];
    let mut world = World::new(10, txns, 1);
    world.run_until("saved before it", |w| {
        w.drainer.status().state == "faulted" && w.db.row.as_ref().unwrap().commit_ts >= ts(10)
    });
    assert_eq!(effects(&world), [10]);
    assert!(matches!(world.seen_faults[..], [Fault::BadBinlog { commit_ts, .. }] if commit_ts == ts(20)));
    let status = world.drainer.status();
    assert!(status.faults[0].contains("commit_ts 20") && !status.synced, "{status:?}");
    world.shut_down();
    assert!(world.db.row.unwrap().commit_ts < ts(20));
}

#[test]
fn a_downstream_that_denies_access_is_a_fault_and_nothing_is_retried() {
    let mut world = World::new(11, rows(&[10]), 1);
    world.events_clear();
    world.handle(Input::Start);
    let op = world.take_sink_op();
    world.handle(Input::SinkDone { op, result: Err(crate::sink::op::SinkError::Fatal("access denied".into())) });
    assert!(matches!(&world.seen_faults[..], [Fault::Sink(text)] if text == "access denied"));
    assert_eq!(world.drainer.status().waiting.unwrap().why, "stopped by a fault");
    assert_eq!(world.drainer.status().state, "faulted");
    world.shut_down();
}

#[test]
fn registry_shows_online_pausing_paused_and_the_durable_checkpoint() {
    let mut world = World::new(12, rows(&[10, 20]), 1);
    world.run_until("registered", |w| !w.statuses.is_empty());
    assert!(world.opens.is_empty(), "online before the pumps are listed");
    finish(&mut world);
    let mut states: Vec<_> = world.statuses.iter().map(|s| s.state).collect();
    states.dedup();
    assert_eq!(states, [NodeState::Online, NodeState::Pausing, NodeState::Paused]);
    let last = world.statuses.last().unwrap();
    assert_eq!(last.max_commit_ts, i64::try_from(world.db.row.unwrap().commit_ts.raw()).unwrap());
    assert_eq!((last.node_id.as_str(), last.host.as_str()), ("d", "d:8249"));
}

#[test]
fn a_pump_that_moves_is_followed_and_one_that_joins_is_notified() {
    let mut world = World::new(13, [rows(&[10, 20]), vec![dml(60, value(1, 0, 0), &[1])]].concat(), 1);
    world.config.detect_interval_ms = 100_000;
    world.run_until("first", |w| w.db.effects.contains(&ts(10)));
    world.pumps[0].host = "moved:1".into();
    let mut late = pump("h:1");
    late.joins_at = world.clock;
    world.pumps.push(late);
    world.handle(Input::Notify { call: 9 });
    world.run_until("answered", |w| w.replies.contains(&(9, true)));
    assert!(world.opens.iter().any(|(pump, _)| *pump == 1), "a source before the answer");
    finish(&mut world);
    assert_eq!(effects(&world), [10, 20, 60]);
    assert!(world.notices.iter().any(|n| n.contains("moved from h:0 to moved:1")));
}

#[test]
fn status_names_the_pump_that_everything_waits_for() {
    let mut world = World::new(14, rows(&[10, 20]), 2);
    world.pumps[1].state = NodeState::Paused;
    world.pumps[1].down = true;
    world.run_until("known", |w| w.drainer.status().waiting.is_some_and(|x| x.why.contains("not reachable")));
    world.run_until("a while", |w| w.now_ms() > 20_000);
    let why = world.drainer.status().waiting.unwrap();
    assert_eq!(why.why, "waiting for pump p1, which is paused: not reachable at h:1: connection refused");
    assert!(why.for_ms.unwrap() > 15_000, "{why:?}");
    let said = world.notices.iter().filter(|n| n.contains("pulling binlogs from pump p1 failed")).count();
    assert_eq!(said, 1, "{:?}", world.notices);
    let json = serde_json::to_string(&world.drainer.status()).unwrap();
    assert!(json.starts_with(r#"{"PumpPos":{"p0":"#), "{json}");
    assert!(json.contains(r#","LastTS":0,"TsMap":"","#), "{json}");
    let before: serde_json::Value = serde_json::to_value(World::new(0, vec![], 0).drainer.status()).unwrap();
    assert!(before["PumpPos"].is_null());
}

#[test]
fn many_small_transactions_stay_within_the_credit() {
    let all: Vec<u64> = (10..400).collect();
    let mut world = World::new(15, rows(&all), 1);
    world.config.memory_bytes = 1;
    world.config.txn_batch = 50;
    world.restart();
    world.run_until("nothing is held", |w| w.is_done() && w.drainer.status().queues.bytes == 0);
    assert_eq!(effects(&world), all);
}

/// Rows of a multi-schema change that come just before its binlog (spec recorded).
#[test]
fn rows_ahead_of_the_history_wait_for_their_definition() {
    for seed in 0..20 {
        let ahead = |ts| dml(ts, value_at(UNKNOWN, 0, 5), &[0]);
        let mut txns = vec![dml(15, value(1, 0, 0), &[0]), ahead(20), ahead(21), ahead(22)];
        txns.push(ddl(40, 5, 6, "alter", &[0]));
        txns.push(dml(50, value_at(UNKNOWN, 40, 5), &[0]));
        let mut world = World::new(seed, txns, 1);
        world.faults = Faults { control: 20, ..Faults::default() };
        finish(&mut world);
        assert_eq!((effects(&world), world.incomplete), (vec![15, 20, 21, 22, 40, 50], 0), "seed {seed}");
    }
}

#[test]
fn a_ddl_that_goes_on_is_looked_for_once_per_version() {
    let ahead = |ts: u64| dml(ts, value_at(1, 0, 5 + i64::try_from(ts / 100).unwrap()), &[0]);
    let all: Vec<u64> = (10..300).step_by(10).collect();
    let mut world = World::new(1, all.iter().map(|ts| ahead(*ts)).collect(), 1);
    finish(&mut world);
    assert_eq!(effects(&world), all);
    assert_eq!(world.history_reads, 1 + 3, "at the start, then for the versions 5, 6, 7");
    // Columns that stay unknown delay the first transaction of the version, no more.
    let mut world = World::new(1, (0..9).map(|n| dml(10 + n, value_at(UNKNOWN, 0, 9), &[0])).collect(), 1);
    finish(&mut world);
    assert_eq!(world.incomplete, 27);
    assert!((3..30).contains(&world.history_reads), "{}", world.history_reads);
}

/// The model of the downstream refuses what the port must refuse, else the tests above prove nothing.
#[test]
fn the_model_of_the_downstream_has_teeth() {
    let mut db = super::sink::Db::default();
    let mut rng = super::Rng(0);
    let statement = Statement { sql: String::new(), params: vec![], affected: None, commit_ts: ts(5) };
    let apply = SinkOp::Apply { generation: 1, records: vec![ts(5)], statements: vec![statement] };
    assert!(db.run(&apply, Way::Well, &mut rng).is_ok());
    assert!(db.run(&apply, Way::Well, &mut rng).is_err(), "recorded already");
    let (checkpoint, state) = (original_row(5), SinkState { generation: 1, ..SinkState::default() });
    let save = SinkOp::Save { checkpoint, state, delete: vec![ts(4)] };
    assert!(db.run(&save, Way::Well, &mut rng).is_err(), "nothing to delete");
    assert_eq!(db.effects, [ts(5)]);
}

/// At any moment, start included, with everything failing: a stop ends, and the next start goes on exactly once.
#[test]
fn a_stop_at_any_moment_ends() {
    for seed in 0..60 {
        let mut world = World::new(seed, rows(&[10, 20, 30, 40, 50]), 1);
        world.faults = Faults { sink: 30, stream: 10, control: 30, crash_per_mille: 0 };
        for _ in 0..seed * 7 {
            world.step();
        }
        world.shut_down();
        let stopped_at = world.now_ms();
        let registered = world.statuses.last().map(|s| s.state);
        assert!(registered.is_none_or(|s| s == NodeState::Paused), "seed {seed}: {registered:?} at {stopped_at} ms");
        world.faults = Faults::default();
        world.restart();
        finish(&mut world);
        assert_eq!(effects(&world), [10, 20, 30, 40, 50], "seed {seed}");
    }
}
