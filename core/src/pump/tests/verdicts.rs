//! What becomes of a prewrite whose C does not come (rules 1): every answer of TiKV, restarts in every phase, operators.

use super::tikv::{Fate, primary_key};
use super::world::{World, c, config, fake, joined, p, p_other, r};
use crate::fault::Reject;
use crate::ids::{CommitTs, StartTs};
use crate::index::key;
use crate::index::value::{CommitValue, encode_u64};
use crate::machine::Machine;
use crate::proto::binlog::Binlog;
use crate::pump::config::PumpConfig;
use crate::pump::effect::Level;
use crate::pump::input::Input;
use crate::pump::verdict::Verdict;
use crate::time::Tso;
use prost::Message;

/// Physical milliseconds at which these worlds begin.
const EPOCH: u64 = 1_767_225_600_000;

/// Online, with real timestamps and no idle fakes of its own.
fn online() -> World {
    let mut world = World::new(PumpConfig { fake_interval_ms: 1 << 40, ..config() });
    world.tikv.epoch_ms = EPOCH;
    world.start();
    world
}

fn ts(ms: u64) -> u64 {
    Tso::compose(EPOCH + ms, 0).raw()
}

fn undecided(world: &World) -> usize {
    world.pump.status().undecided
}

/// A prewrite that began at 1 ms, then one decided commit behind it: the watermark shows whether the first is decided.
fn orphan(fate: Option<Fate>) -> (World, u64, u64) {
    let mut world = online();
    let start = ts(1);
    world.written(p(start)).unwrap();
    let mark = ts(5);
    world.written(fake(mark)).unwrap();
    if let Some(fate) = fate {
        world.tikv.fates.insert(start, fate);
    }
    (world, start, mark)
}

fn delivered(world: &mut World) -> Vec<u64> {
    world.pull(77, 0, 1 << 20);
    world.run();
    let items = world.items.remove(&77).unwrap_or_default();
    items.iter().filter(|item| item.start_ts as u64 != item.commit_ts).map(|item| item.commit_ts).collect()
}

#[test]
fn a_commit_that_tikv_knows_is_delivered_a_second_later() {
    let (mut world, start, mark) = orphan(Some(Fate::Committed(ts(3))));
    world.pass_ms(900);
    assert!(world.tikv.looked_at.is_empty() && world.watermark() == 0, "its client gets a second for its C");
    world.pass_ms(200);
    assert_eq!(world.watermark(), mark);
    assert_eq!((delivered(&mut world), undecided(&world)), (vec![ts(3)], 0));
    let status = world.pump.status();
    assert_eq!((status.counters.verdict_commits, status.verdicts.counts.mvcc_queries), (1, 1));
    // The client's own C comes late: the same, acknowledged.
    world.written(c(start, ts(3))).unwrap();
    assert_eq!(world.pump.status().counters.repeated_commits, 1);
    assert!(world.faults.is_empty());
    assert_eq!(world.pump.next_deadline().map(|at| at.millis_since(world.now) > 100), Some(true), "nothing spins");
}

/// R1: what the original's Pump lost of a DDL.
#[test]
fn a_resolved_ddl_keeps_its_job() {
    let mut world = online();
    let start = ts(1);
    let mut ddl = Binlog { start_ts: start as i64, prewrite_key: Some(primary_key(start)), ..Binlog::default() };
    (ddl.ddl_query, ddl.ddl_job_id, ddl.ddl_schema_state) = (Some("create table t(a int)".into()), 71, 5);
    world.written(ddl.encode_to_vec().into()).unwrap();
    world.tikv.fates.insert(start, Fate::Committed(ts(2)));
    world.pass_ms(1100);
    world.pull(1, 0, 1 << 20);
    world.run();
    let item = Binlog::decode(&world.items[&1][0].payload[..]).unwrap();
    assert_eq!(item, Binlog { tp: 1, commit_ts: ts(2) as i64, ..ddl });
}

#[test]
fn rolled_back_releases_and_delivers_nothing() {
    for (fate, by_versions) in [
        (Fate::RolledBack, false),
        (Fate::Overlapped, false),
        (Fate::RolledBack, true),
        (Fate::Overlapped, true),
        (Fate::BehindLock { listed: true }, true),
    ] {
        let (mut world, _, mark) = orphan(Some(fate));
        world.broken.txn_status = by_versions;
        world.pass_ms(1100);
        assert_eq!((world.watermark(), delivered(&mut world)), (mark, vec![]), "{fate:?}");
        assert_eq!(world.pump.status().counters.verdict_rollbacks, 1);
    }
}

#[test]
fn r_asks_at_once_and_decides_nothing() {
    // The commit's answer was lost: TiDB sends R, yet the transaction is committed (trap T2).
    let (mut world, start, mark) = orphan(Some(Fate::Committed(ts(3))));
    world.written(r(start)).unwrap();
    assert_eq!((world.watermark(), delivered(&mut world)), (mark, vec![ts(3)]));
    assert_eq!(world.pump.status().counters.hints, 1);
    // Nothing in TiKV, above the safe point: rolled back.
    let (mut world, start, mark) = orphan(None);
    world.written(r(start)).unwrap();
    assert_eq!((world.watermark(), world.tikv.looked_at.len()), (mark, 1));
    // A lock that lives: wait.
    let (mut world, start, _) = orphan(Some(Fate::Locked { ttl_ms: 3000 }));
    world.written(r(start)).unwrap();
    world.pass_ms(2500);
    assert_eq!((world.watermark(), world.tikv.status_asked.len()), (0, 0));
    // R came before P.
    let mut world = online();
    world.written(r(ts(1))).unwrap();
    world.written(p(ts(1))).unwrap();
    assert_eq!((undecided(&world), world.tikv.looked_at.len()), (0, 1));
}

/// An UPDATE of a hot row that loses a write conflict sends P and R, thousands a second, and the row has as many versions as GC
/// has left: all of them are what MvccGetByKey returns.
#[test]
fn nobody_reads_the_whole_history_of_a_key() {
    for fate in [None, Some(Fate::Committed(ts(3))), Some(Fate::RolledBack), Some(Fate::Overlapped)] {
        let (mut world, start, mark) = orphan(fate);
        world.written(r(start)).unwrap();
        assert_eq!((world.watermark(), undecided(&world)), (mark, 0), "{fate:?}");
        assert_eq!((world.tikv.versions_asked.len(), world.tikv.status_asked.len()), (0, 0), "{fate:?}");
    }
    // A lock without any time to live is none that TiKV would show before 5.0.
    let (mut world, _, mark) = orphan(Some(Fate::Locked { ttl_ms: 0 }));
    world.pass_ms(1100);
    assert_eq!((world.watermark(), delivered(&mut world)), (mark, vec![]));
    assert_eq!(world.pump.status().counters.verdict_rollbacks, 1);
    // Without R: a TiDB died, with as many prewrites of the row as it had sessions.
    let (mut world, _, mark) = orphan(Some(Fate::Locked { ttl_ms: 3000 }));
    world.pass_ms(4500);
    assert_eq!((world.watermark(), world.tikv.versions_asked.len(), world.tikv.status_asked.len()), (mark, 0, 1));
}

/// TiDB sends R while it still removes the locks of the transaction that failed.
#[test]
fn a_lock_that_its_client_takes_away_does_not_hold_for_a_second() {
    let (mut world, start, mark) = orphan(Some(Fate::Locked { ttl_ms: 20_000 }));
    world.written(r(start)).unwrap();
    world.pass_ms(15);
    assert_eq!(world.watermark(), 0);
    world.tikv.fates.insert(start, Fate::RolledBack);
    world.pass_ms(50);
    assert_eq!((world.watermark(), undecided(&world)), (mark, 0));
    // Nor is TiKV asked without an end while it stays.
    let (mut world, start, _) = orphan(Some(Fate::Locked { ttl_ms: 600_000 }));
    world.written(r(start)).unwrap();
    world.pass_ms(100_000);
    assert!(world.tikv.looked_at.len() < 25, "{}", world.tikv.looked_at.len());
}

/// A TiKV of before 3.0 does not know CheckTxnStatus.
#[test]
fn where_the_status_cannot_be_asked_versions_decide() {
    let (mut world, start, mark) = orphan(Some(Fate::RolledBack));
    world.broken.txn_status = true;
    world.written(r(start)).unwrap();
    assert_eq!((world.watermark(), world.tikv.versions_asked.len()), (mark, 1));
    assert!(world.notices.iter().all(|(level, _)| *level != Level::Warn), "{:?}", world.notices);
    // The next one does not try first.
    let next = ts(6);
    world.written(p(next)).unwrap();
    world.tikv.fates.insert(next, Fate::RolledBack);
    world.written(r(next)).unwrap();
    assert_eq!((undecided(&world), world.tikv.versions_asked.len()), (0, 2));
}

#[test]
fn a_lock_is_waited_for_until_its_time_has_passed() {
    let (mut world, _, mark) = orphan(Some(Fate::Locked { ttl_ms: 20_000 }));
    world.pass_ms(20_000);
    assert_eq!((world.watermark(), world.tikv.status_asked.len()), (0, 0));
    let reason = world.pump.status().verdicts.oldest_waits_for.unwrap();
    assert!(reason.contains("locked for 20000 ms"), "{reason}");
    world.pass_ms(100);
    assert_eq!((world.watermark(), world.tikv.status_asked.clone()), (mark, vec![(ts(1), false)]), "then not for long");
    assert!(world.tikv.looked_at.len() < 12, "{}", world.tikv.looked_at.len());

    // It lives longer than its first TTL said, then commits.
    let (mut world, start, mark) = orphan(Some(Fate::Locked { ttl_ms: 3000 }));
    world.pass_ms(2800);
    world.tikv.fates.insert(start, Fate::Locked { ttl_ms: 700_000 });
    world.pass_ms(650_000);
    assert_eq!(world.watermark(), 0, "ten minutes are nothing to a lock that lives (R5)");
    world.tikv.fates.insert(start, Fate::Committed(ts(650_000)));
    world.pass_ms(11_000);
    assert_eq!((world.watermark() >= mark, delivered(&mut world)), (true, vec![ts(650_000)]));
}

#[test]
fn absence_without_r_is_believed_after_ten_minutes() {
    for fate in [None, Some(Fate::BehindLock { listed: false })] {
        let (mut world, start, mark) = orphan(fate);
        world.pass_ms(599_000);
        assert_eq!((world.watermark(), world.tikv.status_asked.len()), (0, 0));
        world.pass_ms(12_000);
        assert_eq!((world.watermark(), world.tikv.status_asked.clone()), (mark, vec![(start, true)]));
        assert!(world.tikv.looked_at.len() < 80, "{}", world.tikv.looked_at.len());
    }
    // T5: its start_ts is old, but its prewrite came only now.
    let mut world = online();
    world.pass_ms(3_600_000);
    world.written(p(ts(1))).unwrap();
    world.pass_ms(590_000);
    assert_eq!((undecided(&world), world.tikv.status_asked.len()), (1, 0));
    // A restart counts anew.
    world.crash(usize::MAX);
    world.config.fake_interval_ms = 1 << 40;
    world.tikv.epoch_ms = EPOCH + 3_600_000 + 590_000;
    world.start();
    world.pass_ms(590_000);
    assert_eq!((undecided(&world), world.tikv.status_asked.len()), (1, 0));
    world.pass_ms(20_000);
    assert_eq!((undecided(&world), world.tikv.status_asked.len()), (0, 1));
}

#[test]
fn absence_below_the_safe_point_is_for_an_operator() {
    for safe_point_moves_behind_the_answer in [false, true] {
        let (mut world, start, mark) = orphan(None);
        if safe_point_moves_behind_the_answer {
            world.tikv.safe_point_then = Some(ts(2));
        } else {
            world.tikv.safe_point = ts(2);
        }
        world.written(r(start)).unwrap();
        world.pass_ms(120_000);
        assert_eq!((world.watermark(), world.tikv.status_asked.len()), (0, 0));
        let status = world.pump.status();
        let [named] = &status.verdicts.undecidable_first[..] else { panic!("{status:?}") };
        assert_eq!((named.start_ts, status.verdicts.undecidable), (StartTs::new(start), 1));
        assert!(named.why.contains("GC has passed it") && named.undecided_ms > 110_000, "{named:?}");
        assert_eq!(world.faults.len(), 1, "said once: {:?}", world.faults);
        assert!(world.faults[0].contains(&format!("PUT http://127.0.0.1:8250/resolve/{start}/rollback")));
        assert!(world.tikv.looked_at.len() < 6);
        world.resolve(start, Verdict::RolledBack).unwrap();
        assert_eq!((world.watermark(), delivered(&mut world)), (mark, vec![]));
    }
    // The same without R: TiKV is not asked to leave a rollback record, which would look like evidence.
    let (mut world, _, _) = orphan(None);
    world.tikv.safe_point = ts(2);
    world.pass_ms(700_000);
    assert_eq!((world.watermark(), world.tikv.status_asked.len(), world.faults.len()), (0, 0, 1));
}

#[test]
fn a_rollback_record_that_we_left_proves_no_more_than_absence() {
    let (mut world, start, _) = orphan(None);
    world.pass_ms(599_900);
    // GC passes between the look before the question and the one behind the answer.
    while world.tikv.status_asked.is_empty() {
        world.pass_ms(1000);
        if world.now.nanos() > 640_000_000_000 {
            panic!("not asked");
        }
        // The first look sees the old point.
        if world.tikv.fates.get(&start) == Some(&Fate::RolledBack) {
            break;
        }
    }
    assert_eq!(undecided(&world), 0, "above the safe point it is decided in one go");

    let mut world = online();
    world.written(p(start)).unwrap();
    world.broken.safe_point = true;
    world.pass_ms(615_000);
    world.broken.safe_point = false;
    world.tikv.safe_point = ts(2);
    world.pass_ms(60_000);
    assert_eq!((undecided(&world), world.tikv.status_asked.len()), (1, 0));
    assert_eq!(world.pump.status().verdicts.undecidable, 1);
}

#[test]
fn an_operator_decides_what_nobody_else_can() {
    let (mut world, start, mark) = orphan(None);
    let refused = |result: Result<(), Reject>, text: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    };
    world.pass_ms(1500);
    refused(world.resolve(start, Verdict::RolledBack), "will be decided without a command");
    refused(world.resolve(ts(9), Verdict::RolledBack), "no undecided prewrite");
    world.tikv.safe_point = ts(2);
    world.written(r(start)).unwrap();
    refused(world.resolve(start, Verdict::Committed(CommitTs::new(start))), "is not above start_ts");
    refused(world.resolve(start, Verdict::Committed(CommitTs::new(ts(1 << 40)))), "lies in the future");
    // Answered when it is durable, not before.
    world.give(Input::Resolve {
        write: crate::ids::WriteId::new(500),
        start_ts: StartTs::new(start),
        verdict: Verdict::Committed(CommitTs::new(ts(3))),
    });
    world.step_log();
    assert!(!world.replies.contains_key(&500));
    world.run();
    assert_eq!(world.replies[&500], Ok(()));
    assert_eq!((world.watermark(), delivered(&mut world)), (mark, vec![ts(3)]));
    refused(world.resolve(start, Verdict::RolledBack), "no undecided prewrite");
}

#[test]
fn an_operator_s_slip_loses_no_other_transaction() {
    let (mut world, start, _) = orphan(None);
    let (other, other_commit) = (ts(6), ts(8));
    world.written(p(other)).unwrap();
    world.written(c(other, other_commit)).unwrap();
    world.pass_ms(500);
    world.tikv.safe_point = ts(2);
    world.written(r(start)).unwrap();
    world.resolve(start, Verdict::Committed(CommitTs::new(other_commit))).unwrap();
    let entry = world.indexed(&key::commit(CommitTs::new(other_commit))).unwrap();
    let Ok(CommitValue::Commit { start_ts, .. }) = CommitValue::decode(entry) else { panic!("{entry:?}") };
    assert_eq!(start_ts, StartTs::new(other), "the entry stays");
    assert!(world.faults.iter().any(|fault| fault.contains("another transaction has this commit_ts")));
    world.release_frozen().unwrap();
    assert_eq!(delivered(&mut world), vec![other_commit]);

    // Below the watermark it is not delivered, and that is said.
    let mut world = online();
    world.written(fake(ts(10))).unwrap();
    world.written(p(start)).unwrap();
    world.pass_ms(500);
    world.tikv.safe_point = ts(2);
    world.written(r(start)).unwrap();
    world.resolve(start, Verdict::Committed(CommitTs::new(ts(7)))).unwrap();
    let said = |(level, text): &(Level, String)| *level == Level::Warn && text.contains("does not deliver it");
    assert!(world.notices.iter().any(said), "{:?}", world.notices);
}

#[test]
fn tikv_away_is_said_once_and_tried_again() {
    let (mut world, start, mark) = orphan(Some(Fate::Committed(ts(3))));
    for n in 10..200 {
        world.written(p(ts(n))).unwrap();
    }
    world.broken.tikv = true;
    world.pass_ms(300_000);
    assert_eq!(world.watermark(), 0);
    let status = world.pump.status();
    assert!(status.verdicts.outage.is_some() && status.verdicts.undecidable == 0);
    assert!(status.verdicts.counts.failed_queries < 64 + 300, "{status:?}");
    let warned = world.notices.iter().filter(|(level, text)| *level == Level::Warn && text.contains("cannot be asked"));
    assert_eq!((warned.count(), world.faults.len()), (1, 0));
    // An operator may step in: TiKV may be gone for good.
    assert!(world.pump.status().verdicts.oldest_waits_for.is_some());
    world.broken.tikv = false;
    world.pass_ms(4_000);
    assert_eq!((world.watermark(), delivered(&mut world)), (mark, vec![ts(3)]));
    assert!(world.notices.iter().any(|(_, text)| text.contains("again")));
    world.written(c(start, ts(3))).unwrap();
}

#[test]
fn pd_away_proves_nothing() {
    let (mut world, start, mark) = orphan(None);
    world.broken.safe_point = true;
    world.written(r(start)).unwrap();
    world.pass_ms(60_000);
    assert_eq!((world.watermark(), world.faults.len()), (0, 0));
    world.broken.safe_point = false;
    world.pass_ms(31_000);
    assert_eq!(world.watermark(), mark);
}

#[test]
fn a_late_commit_of_a_client_after_the_verdict() {
    // The verdict said rolled back: a Fault, in this life and in the next.
    for restart in [false, true] {
        let (mut world, start, mark) = orphan(Some(Fate::RolledBack));
        world.pass_ms(1100);
        assert_eq!(world.watermark(), mark);
        if restart {
            world.crash(usize::MAX);
            world.start();
        }
        world.written(c(start, ts(2000))).unwrap();
        assert_eq!(world.faults.len(), 1, "{:?}", world.faults);
        assert!(world.faults[0].contains("rolled back"), "{:?}", world.faults);
        assert!(world.pump.status().frozen_below.is_some());
        // A repeated P of it is acknowledged and does not wait.
        world.written(p(start)).unwrap();
        assert_eq!((undecided(&world), delivered(&mut world)), (0, vec![]));
        assert!(world.written(p_other(start)).is_ok() && world.faults.len() == 2, "{:?}", world.faults);
    }
}

/// Both Pumps hold P; the other one got the C. Here the watermark may have passed it (rules 4).
#[test]
fn a_verdict_at_or_below_the_watermark_is_logged_and_counted() {
    let mut world = online();
    world.written(fake(ts(10))).unwrap();
    let start = ts(1);
    world.written(p(start)).unwrap();
    world.tikv.fates.insert(start, Fate::Committed(ts(7)));
    world.pass_ms(1100);
    assert_eq!((undecided(&world), world.pump.status().counters.late_verdicts), (0, 1));
    assert_eq!((delivered(&mut world), world.faults.len()), (vec![], 0));
    assert!(world.indexed(&key::commit(CommitTs::new(ts(7)))).is_none());
    for restart in [false, true] {
        if restart {
            world.crash(usize::MAX);
            world.start();
        }
        // A client's C of it would mean that its acknowledgement was accepted: then the watermark was wrong.
        world.written(c(start, ts(7))).unwrap();
        assert_eq!(world.faults.len(), 1);
        world.faults.clear();
    }
}

#[test]
fn verdicts_survive_a_crash_in_every_phase() {
    for fate in [Fate::Committed(ts(3)), Fate::RolledBack] {
        for steps in 0..6 {
            for kept in [0, 2, usize::MAX] {
                let (mut world, start, mark) = orphan(Some(fate));
                let other = ts(2);
                world.written(p(other)).unwrap();
                world.tikv.fates.insert(other, Fate::Locked { ttl_ms: 100_000 });
                world.now = world.now.plus_millis(1100);
                world.give(Input::Tick);
                // Reading P, writing the verdict, indexing it: killed somewhere on the way.
                for step in 0..steps {
                    if step % 2 == 0 {
                        world.step_log()
                    } else {
                        world.step_index()
                    };
                }
                if steps % 2 == 0 {
                    world.crash(kept)
                } else {
                    world.kill(kept)
                }
                world.tikv.epoch_ms = EPOCH + 1100;
                world.start();
                world.pass_ms(3000);
                let want = if fate == Fate::RolledBack { vec![] } else { vec![ts(3)] };
                assert_eq!((world.watermark() >= mark, undecided(&world)), (true, 1), "{fate:?} {steps} {kept}");
                world.tikv.fates.insert(other, Fate::RolledBack);
                world.pass_ms(11_000);
                assert_eq!((delivered(&mut world), undecided(&world)), (want, 0), "{fate:?} {steps} {kept}");
                assert!(world.watermark() >= mark && world.faults.is_empty(), "{:?}", world.faults);
                if let Fate::Committed(commit) = fate {
                    world.pull(5, 0, 1 << 20);
                    world.run();
                    let item = world.items[&5].iter().find(|item| item.commit_ts == commit).unwrap();
                    assert_eq!(Binlog::decode(&item.payload[..]).unwrap(), joined(start, commit));
                }
            }
        }
    }
}

#[test]
fn an_r_is_remembered_over_a_restart() {
    for kept in 0..8 {
        let (mut world, start, mark) = orphan(Some(Fate::Locked { ttl_ms: 3000 }));
        world.written(r(start)).unwrap();
        world.crash(kept);
        world.tikv.fates.clear();
        world.tikv.epoch_ms = EPOCH + 100;
        world.start();
        world.pass_ms(1100);
        assert_eq!((world.watermark() >= mark, undecided(&world)), (true, 0), "kept {kept}");
    }
}

/// What earlier versions left: an R that had released its P, without a mark in the index.
#[test]
fn undecided_entries_of_earlier_versions_are_read() {
    let (mut world, start, _) = orphan(None);
    let key = world.indexed_with(b"undecided/");
    assert_eq!(key.values().cloned().collect::<Vec<_>>(), vec![encode_u64(start)]);
    world.written(c(start, ts(3))).unwrap();
    let value = world.indexed(&key::commit(CommitTs::new(ts(3)))).unwrap();
    assert!(matches!(CommitValue::decode(value), Ok(CommitValue::Commit { .. })));
}

#[test]
fn async_commit_and_missing_keys_are_for_an_operator() {
    let (mut world, _, _) = orphan(Some(Fate::AsyncCommit));
    world.pass_ms(1100);
    assert!(world.faults[0].contains("async commit"), "{:?}", world.faults);
    assert_eq!((world.watermark(), world.pump.status().verdicts.undecidable), (0, 1));
    let mut world = online();
    let keyless = Binlog { start_ts: ts(1) as i64, prewrite_value: Some("v".into()), ..Binlog::default() };
    world.written(keyless.encode_to_vec().into()).unwrap();
    world.pass_ms(1100);
    assert!(world.faults[0].contains("no primary key"), "{:?}", world.faults);
    world.resolve(ts(1), Verdict::RolledBack).unwrap();
    assert_eq!(undecided(&world), 0);
}

#[test]
fn many_orphans_are_asked_about_in_batches() {
    let mut world = online();
    for n in 1..=3000 {
        world.write(p(ts(n)));
        if n % 2 == 0 {
            world.tikv.fates.insert(ts(n), Fate::Committed(ts(n + 5000)));
        }
    }
    world.run();
    world.pass_ms(1500);
    assert_eq!((undecided(&world), world.pump.status().verdicts.counts.mvcc_queries), (1500, 3000));
    let told = world.notices.iter().filter(|(_, text)| text.contains("verdicts")).count();
    assert!(told <= 2, "verdicts are summed up: {told}");
    world.pass_ms(20_000);
    assert!(world.pump.status().verdicts.counts.mvcc_queries < 3000 + 8 * 1500);
}

#[test]
fn pd_holds_gc_below_the_oldest_undecided_prewrite() {
    let mut world = online();
    world.pass_ms(0);
    let ten_minutes_ago = |world: &World| Tso::compose(EPOCH + world.now.nanos() / 1_000_000 - 600_000, 0).raw() - 1;
    assert_eq!(world.tikv.holds, vec![(86_400, ten_minutes_ago(&world))]);
    // A long transaction: below ten minutes ago.
    let start = ts(0) - (3_600_000 << 18);
    world.written(p(start)).unwrap();
    world.tikv.fates.insert(start, Fate::Locked { ttl_ms: 10_000_000 });
    world.pass_ms(30_000);
    assert_eq!(world.tikv.holds[1..], [(86_400, start - 1)]);
    // Another service's point is above it: asked again there; what lies below cannot be held.
    world.tikv.smallest_service = start + 100;
    world.pass_ms(30_000);
    assert_eq!(world.tikv.holds[2..], [(86_400, start - 1), (86_400, start + 100)]);
    world.pass_ms(30_000);
    assert_eq!(world.tikv.holds[4..], [(86_400, ten_minutes_ago(&world))]);
    // A stop leaves it while something is undecided, and takes it back otherwise.
    world.give(Input::Shutdown);
    world.run();
    assert!(world.stopped && world.tikv.holds.len() == 5);
    let mut world = online();
    world.give(Input::Shutdown);
    world.run();
    assert_eq!((world.stopped, world.tikv.holds.last()), (true, Some(&(0, 0))));
}

#[test]
fn an_operator_releases_a_frozen_watermark() {
    let mut world = online();
    assert!(world.release_frozen().unwrap_err().to_string().contains("not frozen"));
    world.written(fake(ts(1))).unwrap();
    // Nobody wrote its prewrite.
    world.written(c(ts(2), ts(3))).unwrap();
    world.written(fake(ts(9))).unwrap();
    assert_eq!((world.watermark(), world.faults.len()), (ts(1), 1));
    let text = world.pump.status().verdicts.release_frozen.unwrap();
    assert!(text.contains("/release/frozen") && text.contains("never delivered"), "{text}");
    world.release_frozen().unwrap();
    assert_eq!((world.watermark(), world.pump.status().frozen_below), (ts(9), None));
    for kept in [0, 1, 2, usize::MAX] {
        world.crash(kept);
        world.start();
        assert_eq!((world.watermark() >= ts(9), world.pump.status().frozen_below), (true, None), "kept {kept}");
    }
    // A new contradiction freezes it again.
    let late = ts(100_000);
    world.written(c(ts(20), late)).unwrap();
    assert_eq!(world.pump.status().frozen_below.map(CommitTs::raw), Some(late));
}
