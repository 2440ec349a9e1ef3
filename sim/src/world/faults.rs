//! Actions of the plan, their ends, healing, and whether the world has converged (V1, V2, V4) with everything intact (D1,
//! D4, A1).

use super::event::Ev;
use super::pump::SPACE_LIMIT;
use super::{MS, World};
use crate::oracle::gc::Bounds;
use crate::oracle::log::{C, Name, P, chain};
use crate::oracle::pump::{index_is_fold, indexes};
use crate::plan::{Kind, Profile};
use crate::rng::{Rng, skewed};
use crate::sink::Way;
use crate::trace::Weight;
use binlog_core::index::key;
use binlog_core::node::status::NodeState;
use binlog_core::pump::input::{Action, Input};
use binlog_core::time::Tso;
use binlog_sim_models::registry::Kind as Registered;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Included};

impl World {
    pub(super) fn action(&mut self, index: usize) {
        let action = self.plan.actions[index].clone();
        let node = usize::try_from(action.node).unwrap_or(0) % self.pumps.len().max(1);
        let (ms, n) = (action.ms * MS, u32::try_from(action.n).unwrap_or(1));
        let until = self.now + ms;
        if !action.kind.waits() {
            self.fires(action.kind);
        }
        self.line(Weight::Short, "plan", || format!("{} node {node} for {} ms, {n}", action.kind.name(), action.ms));
        if let Some(timeline) = &mut self.trace.timeline {
            timeline.fault(self.now, ms, format!("{} {node}", action.kind.name()));
        }
        let is_last = self.tidb.is_some() && !self.another_takes_prewrites(node);
        let pump = &mut self.pumps[node];
        match action.kind {
            Kind::Kill | Kind::PowerLoss => {
                self.kill_pump(node, action.kind == Kind::PowerLoss);
                self.after(ms, Ev::PumpStart { node });
            }
            Kind::KillThenPower => {
                self.kill_pump(node, false);
                self.after(MS, Ev::PumpStart { node });
                self.after(ms, Ev::ActionEnd(index));
            }
            Kind::CrashLoop => self.crash_loop(node, 3 * n, &action),
            Kind::Stop => {
                let inc = pump.inc;
                self.stopping.insert(index, inc);
                self.pump_input(node, inc, Input::Shutdown);
                self.after(ms, Ev::ActionEnd(index));
            }
            // Without a Pump that takes prewrites a DDL of TiDB cannot end; a Drainer that has its first binlog waits for that, and the
            // Pump that closes for the Drainer, until somebody starts another Pump (lifecycle 976).
            Kind::Close if is_last => {}
            Kind::Pause | Kind::Close => {
                let inc = pump.inc;
                self.stopping.insert(index, inc);
                self.operator(node, if action.kind == Kind::Pause { Action::Pause } else { Action::Close });
                self.after(ms, Ev::ActionEnd(index));
            }
            Kind::CancelClose => self.operator(node, Action::Cancel),
            Kind::Join => {
                let node = self.pumps.len();
                self.add_pump(node);
            }
            Kind::FailSync => pump.disk.armed.sync = 1,
            Kind::FailWrite => pump.disk.armed.write = 1,
            Kind::ShortWrite => pump.disk.armed.short_write = 1,
            Kind::FailRead => pump.disk.armed.read = n,
            Kind::FailCreate => pump.disk.armed.create = 1,
            Kind::NoSpace => {
                pump.disk.armed.no_space = true;
                self.after(ms, Ev::ActionEnd(index));
            }
            Kind::StallDisk => pump.disk_stall = until,
            Kind::FillDisk => {
                self.fill_disk(node, &action);
                self.after(ms, Ev::ActionEnd(index));
            }
            Kind::LowSpace => {
                pump.low_space = until;
                self.space(node);
                self.after(ms, Ev::ActionEnd(index));
            }
            Kind::FailIndex => pump.kv.armed = n,
            Kind::StallIndex => pump.index_stall = until,
            Kind::PdDown => {
                self.pd.set_up(false);
                self.after(ms, Ev::ActionEnd(index));
            }
            Kind::PdJump => self.pd.jump(action.ms),
            Kind::RegistryDown => self.registry_down = until,
            Kind::CutClients => pump.clients_cut = until,
            Kind::CutDrainer => pump.drainer_cut = until,
            Kind::Reset => {
                let inc = pump.inc;
                self.drop_streams_of(node);
                self.line(Weight::Full, "plan", || format!("life {inc}"));
            }
            Kind::KillDrainer => {
                self.kill_drainer();
                self.after(ms, Ev::DrainerStart);
            }
            Kind::StopDrainer => {
                self.stopping.insert(index, self.drainer.inc);
                self.stop_drainer();
                self.after(ms, Ev::ActionEnd(index));
            }
            Kind::TikvGc | Kind::TikvGcForced => self.collect(&action),
            Kind::TikvDown => self.tikv_down = until,
            Kind::LoseVerdict => self.lose_verdict += action.n,
            Kind::CrashTidb | Kind::LoseKv | Kind::DropCommit | Kind::LoseCommit => {
                self.tidb_fault(index, &action);
            }
            Kind::SinkLostBefore => self.drainer.sink.ways().push_back(Way::LostBefore),
            Kind::SinkLostAfter => self.drainer.sink.ways().push_back(Way::LostAfter),
            Kind::SinkLimbo => self.drainer.sink.ways().push_back(Way::Limbo),
            Kind::SinkDeadlock => self.drainer.sink.ways().push_back(Way::Deadlock),
            Kind::SinkHalfDone => self.drainer.sink.ways().push_back(Way::HalfDone),
            Kind::SinkFailOver => self.drainer.sink.ways().push_back(Way::LoseSuffix),
            Kind::SlowRegistry => (self.registry_slow, self.registry_delay) = (until, ms),
            Kind::SinkRestore => {
                self.restore_downstream();
                self.after(ms, Ev::DrainerStart);
            }
            Kind::Rot => {
                let rots = pump.disk.rot();
                pump.rotten |= rots;
                if rots {
                    self.fires(Kind::Rot);
                }
            }
        }
    }

    pub(super) fn action_end(&mut self, index: usize) {
        let action = self.plan.actions[index].clone();
        let node = usize::try_from(action.node).unwrap_or(0) % self.pumps.len().max(1);
        match action.kind {
            Kind::KillThenPower => {
                self.kill_pump(node, true);
                self.after(50 * MS, Ev::PumpStart { node });
            }
            // Serves on, closes for as long as that takes, or is gone and started again after a while.
            Kind::Pause | Kind::Close if self.pumps[node].proc.is_some() => {}
            Kind::Pause | Kind::Close => self.after(MS, Ev::PumpStart { node }),
            // Still stopping, or gone already.
            Kind::Stop
                if self.pumps[node].proc.is_some() && self.stopping.get(&index) == Some(&self.pumps[node].inc) =>
            {
                self.after(100 * MS, Ev::ActionEnd(index));
            }
            Kind::Stop => self.after(MS, Ev::PumpStart { node }),
            Kind::CrashTidb => self.tidb_fault_ends(&action),
            Kind::NoSpace => self.pumps[node].disk.armed.no_space = false,
            Kind::LowSpace => self.space(node),
            Kind::FillDisk => {
                self.pumps[node].disk.capacity = crate::disk::UNLIMITED;
                self.space(node);
            }
            Kind::PdDown => self.pd.set_up(true),
            Kind::StopDrainer if self.drainer.is_running() && self.stopping.get(&index) == Some(&self.drainer.inc) => {
                self.after(100 * MS, Ev::ActionEnd(index));
            }
            Kind::StopDrainer => self.after(MS, Ev::DrainerStart),
            _ => {}
        }
    }

    /// Whether a Pump besides this one goes on taking prewrites, now or after its next start.
    fn another_takes_prewrites(&self, node: usize) -> bool {
        self.pumps.iter().any(|p| {
            p.node != node && p.proc.as_ref().is_some_and(|proc| proc.pump.glance().state != NodeState::Closing)
        })
    }

    /// Schedules power losses and starts so close together that most of them hit a recovery.
    fn crash_loop(&mut self, node: usize, times: u32, action: &crate::plan::Action) {
        let mut rng = Rng::new(self.plan.seed).fork_n("crash-loop", u64::from(action.id));
        let mut at = 0;
        for _ in 0..times {
            let power = rng.percent(70);
            self.after(at, Ev::Crash { node, power });
            at += 100_000;
            self.after(at, Ev::PumpStart { node });
            at += skewed(&mut rng, 50, 12 * self.plan.config.disk_max_us) * 1000;
        }
    }

    /// Others leave the disk so full that prewrites must be refused now or soon, but never what has to go on (R33).
    fn fill_disk(&mut self, node: usize, action: &crate::plan::Action) {
        let mut rng = Rng::new(self.plan.seed).fork_n("fill-disk", u64::from(action.id));
        let room = rng.below(self.plan.config.segment_bytes * 3);
        let pump = &mut self.pumps[node];
        pump.disk.capacity = pump.disk.used() + SPACE_LIMIT + room;
    }

    /// The driver measures the free space.
    fn space(&mut self, node: usize) {
        let low = self.pumps[node].low_space > self.now;
        let pump = &mut self.pumps[node];
        // Nobody measures for a process that is down; its next life measures anew.
        if pump.proc.is_none() {
            return;
        }
        let (inc, free) = (pump.inc, pump.disk.free());
        let available = if low { 1 << 10 } else { free };
        let spare = pump.disk.files.iter().filter(|(slot, _)| pump.view.gc.is_spare(**slot));
        let own = self.plan.config.segment_bytes;
        let prepared: u64 = spare.map(|(_, file)| (file.visible.len() as u64).min(own)).sum();
        let enough = SPACE_LIMIT + 2 * own;
        pump.may_prewrite = available + prepared.min(2 * own) > enough;
        self.pump_input(node, inc, Input::Space { available, capacity: 1 << 41 });
    }

    pub(super) fn measure(&mut self, node: usize, inc: u32) {
        if self.pumps.get(node).is_some_and(|pump| pump.inc == inc && pump.proc.is_some()) {
            self.space(node);
            // Once the faults are over nothing takes space any more.
            let every = if self.now < self.plan.config.horizon_ms * MS { MEASURE_MS } else { MEASURE_MS * 20 };
            self.after(every * MS, Ev::Measure { node, inc });
        }
    }

    /// G1, G2, when a GC record is written.
    pub(super) fn judge_gc(&mut self, node: usize) {
        let Some(fresh) = self.pumps[node].view.gc.take_fresh() else { return };
        let config = &self.plan.config;
        let kept = Tso::new(self.largest_tso).physical_ms().saturating_sub(config.gc_ms);
        let checkpoint = (config.gc_age == 0 && config.drainers > 0).then(|| self.drainer.checkpoint());
        let watermark = self.pumps[node].notes_watermark();
        let pump = &self.pumps[node];
        let flushed = pump.kv.flushed(key::META_INDEXED_END).map_or((0, 0), |raw| (number(raw, 0), number(raw, 8)));
        let bounds = Bounds { watermark, age: Tso::compose(kept, 0).raw(), checkpoint, flushed };
        let judged = pump
            .view
            .gc
            .judges(fresh, &bounds, |ts, start| indexes(&pump.kv, ts, start))
            .map_err(|(o, text)| (o, format!("pump {node}: {text}")));
        let (frees, before) = (fresh.1 > pump.view.gc.first, pump.view.gc.point);
        let passed = if self.plan.config.gc_age > 0 && self.plan.config.drainers > 0 {
            let there = self.registry.list(Registered::Drainer).unwrap_or_default();
            let there = there.iter().find(|drainer| drainer.state != NodeState::Offline);
            let checkpoint = there.map(|drainer| u64::try_from(drainer.max_commit_ts).unwrap_or(0));
            let moved = self.pumps[node].told.moves(before, fresh.0, checkpoint);
            moved.map_err(|(o, text)| (o, format!("pump {node}: {text}")))
        } else {
            Ok(false)
        };
        if passed == Ok(true) {
            self.note(|| "gc passes a drainer".to_owned());
        }
        self.judge(passed.map(drop));
        self.note(|| format!("gc record{}", if frees { " that frees segments" } else { "" }));
        self.judge(judged);
    }

    /// Faults are over: what is down starts, what is cut heals. From here on the world has to converge.
    pub(super) fn heal(&mut self) {
        self.line(Weight::Short, "plan", || "faults are over".to_owned());
        self.pd.set_up(true);
        (self.registry_down, self.registry_slow) = (0, 0);
        (self.tikv_down, self.lose_verdict) = (0, 0);
        self.plan.config.lose_percent = 0;
        self.drainer.sink.ways().clear();
        self.tidb_heal();
        for node in 0..self.pumps.len() {
            let pump = &mut self.pumps[node];
            pump.disk.armed = crate::disk::Armed::default();
            pump.kv.armed = 0;
            (pump.clients_cut, pump.drainer_cut, pump.disk_stall, pump.index_stall) = (0, 0, 0, 0);
            pump.low_space = 0;
            pump.disk.capacity = crate::disk::UNLIMITED;
            self.space(node);
        }
        self.after(100 * MS, Ev::Look);
    }

    pub(super) fn look(&mut self) {
        for node in 0..self.pumps.len() {
            if self.pumps[node].proc.is_none() {
                self.start_pump(node);
            }
        }
        self.start_drainer();
        if self.plan.profile == Profile::Rot && self.pumps.iter().any(|p| p.rotten) {
            // What was lost with the damage cannot arrive: only that nothing wrong was served counts.
            if self.now > (self.plan.config.horizon_ms + ROT_MS) * MS {
                self.finished = true;
            }
            self.after(200 * MS, Ev::Look);
            return;
        }
        self.pass_the_time();
        self.judge_held();
        let over = self.client.running == 0 && self.tidb.as_ref().is_none_or(|tidb| tidb.is_over());
        if over && self.target.is_none() {
            self.target = self.tso().map(|ts| ts.raw());
        }
        if self.target.is_some_and(|target| self.converged(target)) {
            self.final_checks();
            self.finished = true;
        } else if self.now > (self.plan.config.horizon_ms + CONVERGE_MS) * MS {
            let closing =
                self.pumps.iter().filter_map(|p| p.proc.as_ref()).any(|p| p.pump.glance().state == NodeState::Closing);
            let oracle = if closing {
                "V3"
            } else if !over {
                "V1"
            } else {
                "V2"
            };
            self.violate(oracle, format!("not converged {CONVERGE_MS} ms after the faults: {}", self.reasons()));
        } else {
            self.after(100 * MS, Ev::Look);
        }
    }

    fn converged(&self, target: u64) -> bool {
        let pumps = self.pumps.iter().all(|p| p.watch.published >= target);
        // V3: whoever closes gets to the end.
        let closing =
            |p: &super::pump::PumpNode| p.proc.as_ref().is_some_and(|p| p.pump.glance().state == NodeState::Closing);
        if self.pumps.iter().any(closing) {
            return false;
        }
        let drainer = self.plan.config.drainers == 0 || self.drainer.gap || self.drainer.checkpoint() >= target;
        pumps && drainer && self.readers_reached(target)
    }

    /// After every input of a Pump: W1, W2, and D4 once after each start.
    pub(super) fn watch_pump(&mut self, node: usize) {
        let pump = &mut self.pumps[node];
        let Some(proc) = &mut pump.proc else { return };
        let status = proc.pump.glance();
        // Of a log that failed, what was under way comes back to nobody.
        if status.unknown_completions > 0 && !status.is_read_only {
            self.violate("H1", format!("pump {node} got a completion that it did not wait for"));
            return;
        }
        let recovered = status.start == "recovered";
        let check_now = recovered && !proc.checked && status.indexed == status.durable;
        proc.checked |= check_now;
        let moved = pump.watch.publishes(status.watermark.raw(), recovered);
        match moved {
            Err(broken) => self.judge(Err(broken)),
            Ok(None) => {}
            Ok(Some((from, to))) => {
                self.trace.fold(to);
                self.trace.point(self.now, || format!("watermark of pump-{node}"), Tso::new(to).physical_ms());
                let pump = &self.pumps[node];
                // What GC took was there.
                let from = from.max(pump.view.gc.point).min(to);
                let owed =
                    self.allocated.range((Excluded(from), Included(to))).filter(|(_, a)| a.commits && a.pump == node);
                let missing =
                    owed.map(|(ts, a)| (*ts, a.txn, a.start_ts)).find(|(ts, _, start)| !indexes(&pump.kv, *ts, *start));
                if let Some((ts, txn, _)) = missing {
                    let text = format!("pump {node} publishes {to}, but commit {ts} of txn {txn} is not indexed");
                    self.violate("W2", text);
                }
            }
        }
        if check_now && !status.is_read_only {
            self.check_log(node);
        }
    }

    /// D4, D1: the index is a fold of the log, and the log holds what was acknowledged.
    fn check_log(&mut self, node: usize) {
        let pump = &self.pumps[node];
        let Some(status) = pump.proc.as_ref().map(|p| p.pump.glance()).filter(|_| !pump.rotten) else { return };
        let log = match chain(&pump.disk, (status.durable.segment.raw(), status.durable.offset)) {
            Ok(log) => log,
            Err(text) => return self.violate("D4", format!("pump {node}: {text}")),
        };
        let gone = |start| pump.view.gc.may_be_gone(start, |ts| indexes(&pump.kv, ts, start));
        let folds = index_is_fold(&log, &pump.kv, gone).map_err(|(o, text)| (o, format!("pump {node}: {text}")));
        let mut lost = Ok(());
        if self.plan.config.sync_log == 1 {
            let held: BTreeMap<Name, &[u8]> = log.records.iter().map(|r| (r.name, r.payload.as_slice())).collect();
            for (start, p) in &pump.accepted {
                if held.get(&(P, *start, 0)) != Some(&p.as_ref()) && !gone(*start) {
                    lost = Err(("D1", format!("pump {node} lost the prewrite of start {start}")));
                }
            }
            let commits: BTreeSet<u64> = held.keys().filter(|name| name.0 == C).map(|name| name.2).collect();
            for ts in &pump.committed {
                if !commits.contains(ts) && *ts > log.point {
                    lost = Err(("D1", format!("pump {node} lost commit {ts}")));
                }
            }
        }
        self.judge(lost);
        self.judge(folds);
    }

    fn final_checks(&mut self) {
        for node in 0..self.pumps.len() {
            let idle = self.pumps[node].proc.as_ref().map(|p| p.pump.status());
            if idle.as_ref().is_some_and(|s| !s.space_writable) {
                self.violate("R33", format!("pump {node} refuses prewrites, though there is space again"));
            }
            if idle.is_some_and(|s| s.indexed == s.durable && s.read_only.is_none()) {
                self.check_log(node);
            }
        }
        if self.plan.config.drainers > 0 {
            self.judge_sink();
            let target = self.target.unwrap_or(0);
            let applied: BTreeSet<u64> = self.drainer.sink.effects().iter().map(|e| e.commit_ts).collect();
            let owed = self.allocated.range(..=target).filter(|(ts, a)| self.is_owed(**ts, a));
            let lost = owed.map(|(ts, _)| *ts).find(|ts| !applied.contains(ts));
            let invented = applied.iter().find(|ts| !self.allocated.get(*ts).is_some_and(|a| a.commits)).copied();
            let lost = lost.filter(|_| !self.drainer.gap);
            if let Some(ts) = lost.or(invented) {
                let (what, n) =
                    (if lost.is_some() { "committed, but not" } else { "not committed, but" }, applied.len());
                self.violate("A1", format!("in the end {ts} is {what} applied ({n} are)"));
            }
            self.compare_tables();
        }
    }
}

/// Between two measurements of free space.
const MEASURE_MS: u64 = 100;
/// Virtual milliseconds within which the world must converge once the faults are over: the longest back-offs of the machines
/// (30 s) and a full drain fit.
const CONVERGE_MS: u64 = 100_000;
/// How long a damaged world runs on.
const ROT_MS: u64 = 3_000;

/// Eight bytes of a value of the index, big-endian.
pub(super) fn number(raw: &[u8], at: usize) -> u64 {
    raw.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes)
}
