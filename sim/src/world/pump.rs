//! A Pump's process and its ports: the log on a VirtualDisk (operations of one slot in order), the index in a SimKv, PD, the
//! registry. Each life of the process has a number; completions for an earlier life are void.

use super::client::{CLUSTER, Call};
use super::event::Ev;
use super::faults::number;
use super::verdict::Ask;
use super::{MS, RegistryWay, World};
use crate::canary::PortCanary;
use crate::disk::VirtualDisk;
use crate::kv::SimKv;
use crate::oracle::gc::Told;
use crate::oracle::log::LogView;
use crate::oracle::node::{LifeWatch, Written};
use crate::oracle::pump::{Shown, Watch};
use crate::plan::Kind as Injected;
use crate::rng::{Rng, skewed};
use crate::trace::Weight;
use binlog_core::binlog::peek::peek;
use binlog_core::drainer::input::Input as DrainerIn;
use binlog_core::fault::{Fault, IoFault};
use binlog_core::ids::{ClusterId, NodeId, OpId, SlotId, WriteId};
use binlog_core::index::key;
use binlog_core::index::op::IndexOp;
use binlog_core::machine::Machine;
use binlog_core::node::status::{NodeState, NodeStatus};
use binlog_core::pump::config::{GcConfig, GcHold, PumpConfig, StreamMemory};
use binlog_core::pump::effect::Effect;
use binlog_core::pump::input::{Action, Input};
use binlog_core::pump::machine::Pump;
use binlog_core::time::MonoTime;
use binlog_core::vlog::op::LogOp;
use binlog_sim_models::registry::Kind;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub struct PumpNode {
    pub node: usize,
    pub inc: u32,
    pub disk: VirtualDisk,
    pub kv: SimKv,
    rng: Rng,
    pub proc: Option<Proc>,
    /// Clients, and the Drainer, cannot reach it before this.
    pub clients_cut: u64,
    pub drainer_cut: u64,
    /// Disk and index stand still until then.
    pub disk_stall: u64,
    pub index_stall: u64,
    /// Clock rate of this host, in thousandths.
    rate: u64,
    pub view: LogView,
    pub watch: Watch,
    pub life: LifeWatch,
    pub shown: Shown,
    /// P (by start) and commits (by timestamp) whose acknowledgement by this Pump reached their client.
    pub accepted: BTreeMap<u64, Bytes>,
    pub committed: BTreeSet<u64>,
    /// Where its reader is.
    pub reader: u64,
    pub rotten: bool,
    /// The free space is reported as nothing until then.
    pub low_space: u64,
    /// By the last measurement there is room for prewrites besides the reserve (rules 6).
    pub may_prewrite: bool,
    pub told: Told,
}

/// One life of the process.
pub struct Proc {
    pub pump: Pump,
    born: u64,
    /// What its clock went on while the whole world slept.
    pub slept: u64,
    armed: u64,
    log: BTreeMap<u64, VecDeque<(OpId, LogOp)>>,
    index: VecDeque<(OpId, IndexOp)>,
    /// With the time at which each arrived.
    pub writes: BTreeMap<WriteId, (Call, u64)>,
    pub next_write: u64,
    /// An operator's decisions that are not answered: start by call.
    pub commands: BTreeMap<WriteId, u64>,
    supervised: bool,
    /// Calls of Notify that the Drainer has not answered: operation by call.
    pub notifies: BTreeMap<u64, OpId>,
    pub checked: bool,
}

#[must_use]
pub fn node_id(node: usize) -> NodeId {
    let text = format!("pump-{node}");
    NodeId::parse(&text).unwrap_or_else(|_| unreachable!("a plain name"))
}

impl PumpNode {
    pub fn new(node: usize, root: &Rng, canary: Option<PortCanary>) -> Self {
        let n = node as u64;
        let mut disk = VirtualDisk::new(root.fork_n("disk", n));
        disk.skip_directory_sync = canary == Some(PortCanary::SkipDirectorySync);
        let mut kv = SimKv::new(root.fork_n("kv", n));
        kv.flushed_apart = canary == Some(PortCanary::TwoFamiliesFlushedApart);
        let mut rng = root.fork_n("pump", n);
        Self {
            node,
            inc: 0,
            disk,
            kv,
            rate: 980 + rng.below(41),
            rng,
            proc: None,
            clients_cut: 0,
            drainer_cut: 0,
            disk_stall: 0,
            index_stall: 0,
            view: LogView::default(),
            watch: Watch::default(),
            life: LifeWatch::default(),
            shown: Shown::default(),
            accepted: BTreeMap::new(),
            committed: BTreeSet::new(),
            reader: 0,
            rotten: false,
            low_space: 0,
            may_prewrite: true,
            told: Told::default(),
        }
    }

    /// For the oracle of GC, before the index loses what was not flushed.
    /// The highest of all lives.
    pub fn notes_watermark(&mut self) -> u64 {
        let stored = self.kv.visible.get(key::META_WATERMARK).map_or(0, |raw| number(raw, 0));
        self.view.gc.reaches(stored)
    }

    fn mono(&self, now: u64) -> MonoTime {
        let lived = self.proc.as_ref().map_or(0, |p| now - p.born + p.slept);
        MonoTime::from_nanos(lived / 1000 * self.rate)
    }

    pub fn reason(&self) -> String {
        let Some(proc) = &self.proc else { return format!("pump {} is down", self.node) };
        let s = proc.pump.status();
        format!(
            "pump {}: {} {}, watermark {}, {} undecided, oldest {:?}, read-only {:?}, indexed {} of {}, faults {:?}",
            self.node,
            s.state,
            s.start,
            s.watermark,
            s.undecided,
            s.oldest_undecided,
            s.read_only,
            s.indexed,
            s.durable,
            s.faults
        )
    }
}

impl World {
    pub(super) fn start_pump(&mut self, node: usize) {
        let Some(pump) = self.pumps.get(node).filter(|p| p.proc.is_none()) else { return };
        let id = node_id(node);
        let previous = self.registry.get(Kind::Pump, id.as_str()).ok().flatten().map(|status| status.state);
        let c = &self.plan.config;
        let config = PumpConfig {
            node_id: id.clone(),
            advertise_addr: format!("{id}:8250"),
            cluster: ClusterId::new(CLUSTER),
            node_uuid: [u8::try_from(node).unwrap_or(0) + 1; 16],
            token: format!("token-{node}"),
            seed: Rng::new(self.plan.seed).fork_n("salt", (node as u64) << 32 | u64::from(pump.inc)).next_u64(),
            segment_bytes: c.segment_bytes,
            max_batch_bytes: 1 << 20,
            max_batch_records: usize::try_from(c.max_batch_records).unwrap_or(1),
            sync_log: c.sync_log == 1,
            gc_hold_ttl_s: c.hold_ttl_s,
            fake_interval_ms: c.fake_ms,
            fake_on_demand_ms: c.demand_ms,
            heartbeat_ms: c.heartbeat_ms,
            stop_write_at_available_space: SPACE_LIMIT,
            max_payload_bytes: 8 << 20,
            previous,
            wiped_directory_tso_needed: false,
            stream_memory: stream_memory(self.plan.seed, (node as u64) << 32 | u64::from(pump.inc)),
            gc: GcConfig {
                keep_ms: if c.gc_ms > 0 { c.gc_ms } else { u64::MAX },
                hold: if c.gc_age == 1 { GcHold::Age } else { GcHold::Drainers },
                interval_ms: c.gc_interval_ms,
            },
        };
        let now = self.now;
        let pump = &mut self.pumps[node];
        pump.inc += 1;
        pump.view.restart();
        pump.may_prewrite = true;
        pump.told = Told::default();
        pump.proc = Some(Proc {
            pump: Pump::new(config),
            born: now,
            slept: 0,
            armed: u64::MAX,
            log: BTreeMap::new(),
            index: VecDeque::new(),
            writes: BTreeMap::new(),
            next_write: 0,
            commands: BTreeMap::new(),
            supervised: false,
            notifies: BTreeMap::new(),
            checked: false,
        });
        pump.watch.restart(&pump.kv);
        pump.life.restart(previous);
        let inc = pump.inc;
        self.trace.life(now, || format!("pump-{node}"), true);
        self.line(Weight::Short, format_args!("pump-{node}"), || format!("starts (life {inc})"));
        self.pump_input(node, inc, Input::Start);
        if self.plan.config.gc_ms > 0 {
            self.after(MS, Ev::Measure { node, inc });
        }
        if self.plan.config.readers > 0 {
            self.after(20 * MS, Ev::ReaderOpen { node, inc });
        }
    }

    /// The process is gone. Power loss is another matter.
    pub(super) fn kill_pump(&mut self, node: usize, power: bool) {
        let Some(pump) = self.pumps.get_mut(node) else { return };
        if let Some(proc) = pump.proc.take() {
            for (_, queue) in proc.log {
                if let Some((_, op)) = queue.front() {
                    pump.disk.crash_within(op);
                }
            }
            pump.notes_watermark();
            pump.kv.crash();
            pump.disk.kill();
        }
        if power {
            pump.disk.power_loss();
        }
        self.trace.life(self.now, || format!("pump-{node}"), false);
        self.line(Weight::Short, format_args!("pump-{node}"), || {
            (if power { "loses power" } else { "is killed" }).into()
        });
        self.drop_streams_of(node);
    }

    pub(super) fn pump_input(&mut self, node: usize, inc: u32, input: Input) {
        let now = self.now;
        let Some(pump) = self.pumps.get_mut(node).filter(|p| p.inc == inc) else { return };
        let mono = pump.mono(now);
        let Some(proc) = &mut pump.proc else { return };
        self.trace
            .line(now, Weight::Full, format_args!("pump-{node}"), || format!("<- {}", clip(&format!("{input:?}"))));
        let written = match &input {
            Input::Write { payload, .. } => peek(payload).ok().filter(|p| !p.is_probe()).map(|p| p.tp),
            Input::NotifyDone { result: Ok(()), .. } => {
                pump.life.notified();
                None
            }
            Input::DrainersDone { result, .. } => {
                pump.told.lists(result.as_ref().ok().map(Vec::as_slice));
                None
            }
            _ => None,
        };
        let written = written.map(|tp| if tp == 0 { Written::Prewrite } else { Written::Other });
        let before = written.map(|_| proc.pump.glance());
        proc.pump.handle(mono, input);
        proc.pump.check();
        let after = proc.pump.glance();
        let moved = pump.life.is_now(after.state);
        let reserved = match before.as_ref() {
            Some(b) if written == Some(Written::Prewrite) && after.accepted > b.accepted && !pump.may_prewrite => {
                Err(("R33", "a prewrite takes what is reserved for commits".to_owned()))
            }
            _ => Ok(()),
        };
        let wrote = match (written, before) {
            (Some(kind), Some(before)) => pump.life.wrote(kind, &before, &after),
            _ => Ok(()),
        };
        let name =
            |judged: Result<(), (&'static str, String)>| judged.map_err(|(o, t)| (o, format!("pump {node}: {t}")));
        self.judge(name(moved));
        self.judge(name(wrote));
        self.judge(name(reserved));
        self.after_pump(node, inc);
    }

    fn after_pump(&mut self, node: usize, inc: u32) {
        loop {
            let own = self.pumps.get_mut(node).filter(|pump| pump.inc == inc);
            let Some(proc) = own.and_then(|pump| pump.proc.as_mut()) else { return };
            let Some(effect) = proc.pump.poll_effect() else { break };
            self.pump_effect(node, inc, effect);
        }
        self.watch_pump(node);
        let pump = &mut self.pumps[node];
        let (rate, inc) = (pump.rate, pump.inc);
        let Some(proc) = &mut pump.proc else { return };
        if let Some(deadline) = proc.pump.next_deadline() {
            let at = proc.born + deadline.nanos().div_ceil(rate) * 1000;
            let at = at.saturating_sub(proc.slept).max(self.now + 1000);
            if proc.armed != at {
                proc.armed = at;
                self.events.push(at, Ev::PumpTick { node, inc, at });
            }
        }
    }

    pub(super) fn pump_tick(&mut self, node: usize, inc: u32, at: u64) {
        let armed = self.pumps.get_mut(node).filter(|p| p.inc == inc).and_then(|p| p.proc.as_mut());
        let Some(proc) = armed.filter(|p| p.armed == at) else { return };
        proc.armed = u64::MAX;
        self.pump_input(node, inc, Input::Tick);
    }

    fn pump_effect(&mut self, node: usize, inc: u32, effect: Effect) {
        self.trace.line(self.now, Weight::Full, format_args!("pump-{node}"), || {
            format!("-> {}", clip(&format!("{effect:?}")))
        });
        match effect {
            Effect::Log { op, request } => {
                let slot = request.slot().map_or(u64::MAX, SlotId::raw);
                let Some(proc) = &mut self.pumps[node].proc else { return };
                let queue = proc.log.entry(slot).or_default();
                queue.push_back((op, request));
                if queue.len() == 1 {
                    self.schedule_log(node, inc, slot);
                }
            }
            Effect::Index { op, request } => {
                let Some(proc) = &mut self.pumps[node].proc else { return };
                proc.index.push_back((op, request));
                if proc.index.len() == 1 {
                    self.schedule_index(node, inc);
                }
            }
            Effect::GetTso { op } => {
                let wait = self.tso_latency();
                self.after(wait, Ev::PumpTso { node, inc, op });
            }
            Effect::PutStatus { op, status } => {
                self.judge_entry(node, &status);
                let wait = self.latency();
                self.after(wait, Ev::PumpPut { node, inc, op, status: Box::new(status) });
            }
            Effect::NotifyDrainers { op } => {
                let wait = self.latency();
                self.after(wait, Ev::PumpNotify { node, inc, op });
            }
            Effect::ListDrainers { op } => {
                let wait = self.latency();
                self.after(wait, Ev::PumpListDrainers { node, inc, op });
            }
            Effect::MvccByKey { op, key } => self.pump_asks(node, inc, Ask::Versions { op, key }),
            Effect::CheckTxnStatus { op, request } => {
                self.pump_asks(node, inc, Ask::Status { op, request: Box::new(request) });
            }
            Effect::GetGcSafePoint { op } => self.pump_asks(node, inc, Ask::SafePoint { op }),
            Effect::HoldGc { op, service, ttl_seconds, safe_point } => {
                let ttl_seconds = u64::try_from(ttl_seconds).unwrap_or(0);
                self.pump_asks(node, inc, Ask::Hold { op, service, ttl_seconds, safe_point });
            }
            Effect::WriteReply { write, result } => {
                match self.pumps[node].proc.as_mut().and_then(|p| p.commands.remove(&write)) {
                    Some(start) => self.operator_answered(node, start, &result),
                    None => self.write_replied(node, write, result.is_ok()),
                }
            }
            Effect::StreamItems { stream, items } => {
                for item in items {
                    self.item_sent(node, stream, item);
                }
            }
            Effect::StreamEnd { stream, result } => self.stream_ended(node, stream, result),
            Effect::ActionReply { .. } | Effect::BinlogRead { .. } => {}
            Effect::Fault(fault) => self.pump_fault(node, inc, &fault),
            Effect::Notice { text, .. } => {
                self.pumps[node].told.says(&text);
                self.line(Weight::Short, format_args!("pump-{node}"), || text);
            }
            Effect::Stopped => {
                self.trace.life(self.now, || format!("pump-{node}"), false);
                self.line(Weight::Short, format_args!("pump-{node}"), || "stopped".to_owned());
                let pump = &mut self.pumps[node];
                pump.proc = None;
                pump.notes_watermark();
                pump.kv.crash();
                self.drop_streams_of(node);
            }
        }
    }

    /// N2, N3, when the entry leaves.
    fn judge_entry(&mut self, node: usize, entry: &NodeStatus) {
        let Some(own) = self.pumps[node].proc.as_ref().map(|p| p.pump.glance()) else { return };
        self.note(|| format!("pump registers {}", entry.state));
        if own.undecided > 0 && entry.state == NodeState::Closing {
            self.note(|| "a pump closes with undecided prewrites".to_owned());
        }
        let drainers = self.registry.list(Kind::Drainer).unwrap_or_default();
        let mine = self.allocated.iter().rev().find(|(_, a)| a.commits && a.pump == node);
        let largest = mine.map_or(0, |(ts, _)| *ts);
        let judged = self.pumps[node].life.registers(entry, &own, &drainers, largest);
        self.judge(judged.map_err(|(o, t)| (o, format!("pump {node}: {t}"))));
    }

    /// An operator asks for something.
    pub(super) fn operator(&mut self, node: usize, action: Action) {
        let Some(inc) = self.pumps.get(node).map(|p| p.inc) else { return };
        // Somebody who closes a Pump before the first Drainer is known would give its data up.
        let drainers = self.registry.list(Kind::Drainer).unwrap_or_default().len();
        if action == Action::Close && drainers == 0 && self.plan.config.drainers > 0 {
            return;
        }
        self.next_action += 1;
        let call = self.next_action;
        self.pump_input(node, inc, Input::Action { call, action });
    }

    /// H3: only what was injected may make a Pump complain.
    fn pump_fault(&mut self, node: usize, inc: u32, fault: &Fault) {
        let text = fault.to_string();
        self.note(|| format!("fault {}", text.split([':', ' ']).take(2).collect::<Vec<_>>().join(" ")));
        self.line(Weight::Short, format_args!("pump-{node}"), || format!("FAULT {text}"));
        if let Fault::Undecidable { start_ts, .. } = fault {
            self.undecidable(node, inc, start_ts.raw());
            return;
        }
        let pump = &mut self.pumps[node];
        // A start that met a read error knows no segments; what streams then say follows from it.
        let follows = text.contains("no such segment") && pump.proc.as_ref().is_some_and(|p| p.supervised);
        let expected = text.contains("injected")
            || follows
            || (pump.rotten && matches!(fault, Fault::LogDamaged { .. } | Fault::LogBehindIndex { .. }));
        if !expected {
            self.violate("H3", format!("pump {node}: {text}"));
            return;
        }
        let Some(proc) = &mut pump.proc else { return };
        if !std::mem::replace(&mut proc.supervised, true) {
            let wait = 200 + pump.rng.below(1_000);
            self.after(wait * MS, Ev::Supervise { node, inc });
        }
    }

    /// Somebody restarts a Pump that went read-only, once the disk is well again.
    pub(super) fn supervise(&mut self, node: usize, inc: u32) {
        let Some(pump) = self.pumps.get_mut(node).filter(|p| p.inc == inc && !p.rotten) else { return };
        let Some(proc) = &mut pump.proc else { return };
        if !proc.pump.glance().is_read_only {
            proc.supervised = false;
            return;
        }
        if pump.disk.armed.no_space {
            self.after(300 * MS, Ev::Supervise { node, inc });
            return;
        }
        self.kill_pump(node, false);
        self.after(100 * MS, Ev::PumpStart { node });
    }

    // ---- log port ----

    fn schedule_log(&mut self, node: usize, inc: u32, slot: u64) {
        let max = self.plan.config.disk_max_us;
        let pump = &mut self.pumps[node];
        let wait = skewed(&mut pump.rng, 20, max) * 1000;
        let at = (self.now + wait).max(pump.disk_stall);
        self.events.push(at, Ev::LogRun { node, inc, slot });
    }

    pub(super) fn log_run(&mut self, node: usize, inc: u32, slot: u64) {
        let Some(pump) = self.pumps.get_mut(node).filter(|p| p.inc == inc) else { return };
        let Some(queue) = pump.proc.as_mut().and_then(|p| p.log.get_mut(&slot)) else { return };
        let Some((op, request)) = queue.pop_front() else { return };
        let more = !queue.is_empty();
        let mut judged = Ok(());
        if let LogOp::Write { slot, offset, parts } = &request {
            let at = usize::try_from(*offset).unwrap_or(0);
            judged = match parts.as_slice() {
                [one] => pump.view.written(*slot, at, one),
                many => pump.view.written(*slot, at, &many.concat()),
            };
        }
        match &request {
            LogOp::Fill { slot, .. } => judged = pump.view.gc.wipes(*slot, "is filled"),
            LogOp::Remove { slot } => judged = pump.view.gc.wipes(*slot, "is removed"),
            _ => {}
        }
        let armed = pump.disk.armed.clone();
        let result = pump.disk.execute(&request);
        let left = &pump.disk.armed;
        let fired = [
            (Injected::FailSync, left.sync < armed.sync),
            (Injected::FailWrite, left.write < armed.write),
            (Injected::ShortWrite, left.short_write < armed.short_write),
            (Injected::FailRead, left.read < armed.read),
            (Injected::FailCreate, left.create < armed.create),
            (Injected::NoSpace, armed.no_space && matches!(result, Err(IoFault::NoSpace(_)))),
        ];
        match (&request, &result) {
            (LogOp::Sync { slot }, Ok(_)) => pump.view.synced(*slot),
            (LogOp::Sync { .. } | LogOp::Write { .. }, Err(_)) => pump.view.gc.failed(),
            _ => {}
        }
        fired.into_iter().filter(|(_, fired)| *fired).for_each(|(kind, _)| self.fires(kind));
        self.trace.fold(op.raw() << 1 | u64::from(result.is_ok()));
        // A segment whose only batch rotted before the index was flushed cannot be told from one that held nothing (rules 2).
        let rotten = self.pumps[node].rotten;
        self.judge(
            judged.or_else(|(oracle, text)| if rotten && oracle == "G1" { Ok(()) } else { Err((oracle, text)) }),
        );
        self.judge_gc(node);
        for verdict in std::mem::take(&mut self.pumps[node].view.verdicts) {
            self.judge_verdict(node, verdict);
        }
        if more {
            self.schedule_log(node, inc, slot);
        }
        self.pump_input(node, inc, Input::LogDone { op, result });
    }

    // ---- index port ----

    fn schedule_index(&mut self, node: usize, inc: u32) {
        let pump = &mut self.pumps[node];
        let wait = skewed(&mut pump.rng, 5, 800) * 1000;
        let at = (self.now + wait).max(pump.index_stall);
        self.events.push(at, Ev::IndexRun { node, inc });
    }

    pub(super) fn index_run(&mut self, node: usize, inc: u32) {
        let Some(pump) = self.pumps.get_mut(node).filter(|p| p.inc == inc) else { return };
        let Some(proc) = &mut pump.proc else { return };
        let Some((op, request)) = proc.index.pop_front() else { return };
        if !proc.index.is_empty() {
            self.schedule_index(node, inc);
        }
        if matches!(request, IndexOp::Scan { .. } | IndexOp::Flush) {
            // They leave the queue: what follows may be done first.
            let max = if matches!(request, IndexOp::Flush) { self.plan.config.flush_max_us } else { 3000 };
            let wait = skewed(&mut self.pumps[node].rng, 5, max) * 1000;
            if self.canary == Some(PortCanary::LogWaitsForFlush) && matches!(request, IndexOp::Flush) {
                self.pumps[node].disk_stall = self.now + wait;
            }
            self.after(wait, Ev::IndexAside { node, inc, op, request: Box::new(request) });
        } else {
            self.index_executed(node, inc, op, request);
        }
    }

    pub(super) fn index_executed(&mut self, node: usize, inc: u32, op: OpId, request: IndexOp) {
        let Some(pump) = self.pumps.get_mut(node).filter(|p| p.inc == inc && p.proc.is_some()) else { return };
        let judged = match &request {
            IndexOp::Apply(changes) => {
                pump.watch.applies(changes, &pump.kv).and_then(|()| pump.view.gc.applies(changes))
            }
            _ => Ok(()),
        };
        let armed = pump.kv.armed;
        let result = pump.kv.execute(request);
        if pump.kv.armed < armed {
            self.fires(Injected::FailIndex);
        }
        self.trace.fold(op.raw() << 1 | u64::from(result.is_ok()));
        self.judge(judged);
        self.pump_input(node, inc, Input::IndexDone { op, result });
    }

    // ---- PD and registry ----

    pub(super) fn pump_tso(&mut self, node: usize, inc: u32, op: OpId) {
        let result = self.tso().ok_or_else(|| IoFault::Unavailable("PD has no leader".to_owned()));
        let wait = self.tso_latency();
        self.after(wait, Ev::PumpInput { node, inc, input: Box::new(Input::TsoDone { op, result }) });
    }

    pub(super) fn pump_put(&mut self, node: usize, inc: u32, op: OpId, status: &NodeStatus) {
        if self.pumps[node].inc != inc {
            return;
        }
        let way = self.registry_answers();
        if way != RegistryWay::Before {
            self.note(|| format!("pump state {}", status.state));
            self.registry.put(Kind::Pump, status);
        }
        let result = match way {
            RegistryWay::Well => Ok(()),
            _ => Err(IoFault::Unavailable("time-out".to_owned())),
        };
        let wait = self.latency();
        self.after(wait, Ev::PumpInput { node, inc, input: Box::new(Input::StatusDone { op, result }) });
    }

    pub(super) fn pump_notify(&mut self, node: usize, inc: u32, op: OpId) {
        let online = self.registry.list(Kind::Drainer).unwrap_or_default();
        let somebody = online.iter().any(|d| d.state == NodeState::Online);
        if self.now < self.registry_down {
            self.notify_done(node, inc, op, Err(IoFault::Unavailable("registry".to_owned())));
        } else if self.plan.config.notify == 0 || !somebody {
            self.notify_done(node, inc, op, Ok(()));
        } else if !self.drainer.is_running() || self.pumps[node].drainer_cut > self.now {
            self.notify_done(node, inc, op, Err(IoFault::Unavailable("connection refused".to_owned())));
        } else {
            let call = (node as u64) << 48 | u64::from(inc) << 24 | op.raw();
            if let Some(proc) = &mut self.pumps[node].proc {
                proc.notifies.insert(call, op);
            }
            let inc = self.drainer.inc;
            let wait = self.latency();
            self.after(wait, Ev::DrainerInput { inc, input: Box::new(DrainerIn::Notify { call }) });
            self.after(3_000 * MS, Ev::DrainerNotify { call });
        }
    }

    fn notify_done(&mut self, node: usize, inc: u32, op: OpId, result: Result<(), IoFault>) {
        let wait = self.latency();
        self.after(wait, Ev::PumpInput { node, inc, input: Box::new(Input::NotifyDone { op, result }) });
    }

    pub(super) fn pump_list_drainers(&mut self, node: usize, inc: u32, op: OpId) {
        let result = if self.now < self.registry_down {
            Err(IoFault::Unavailable("registry".to_owned()))
        } else {
            self.registry.list(Kind::Drainer).map_err(IoFault::Unavailable)
        };
        let wait = self.latency();
        self.after(wait, Ev::PumpInput { node, inc, input: Box::new(Input::DrainersDone { op, result }) });
    }

    /// The Drainer answered a call of Notify, or the call timed out.
    pub(super) fn notify_answered(&mut self, call: u64, result: Result<(), String>) {
        let node = usize::try_from(call >> 48).unwrap_or(0);
        let inc = u32::try_from(call >> 24 & 0xff_ffff).unwrap_or(0);
        let Some(pump) = self.pumps.get_mut(node).filter(|p| p.inc == inc) else { return };
        let Some(op) = pump.proc.as_mut().and_then(|p| p.notifies.remove(&call)) else { return };
        self.notify_done(node, inc, op, result.map_err(IoFault::Unavailable));
    }
}

/// Prewrites are refused at or below it, and at what is reserved behind it.
pub(super) const SPACE_LIMIT: u64 = 1 << 20;

/// Each life of a Pump keeps another amount for streams, so that items come from memory, from index and log, and from both in turn.
fn stream_memory(seed: u64, life: u64) -> StreamMemory {
    let mut rng = Rng::new(seed).fork_n("stream memory", life);
    match rng.index(4) {
        0 => StreamMemory { tail_bytes: 0, entries: 0 },
        1 => StreamMemory { tail_bytes: 16 << 10, entries: 3 },
        2 => StreamMemory { tail_bytes: 256 << 10, entries: 40 },
        _ => StreamMemory::default(),
    }
}

/// Lines of a full trace are bounded.
pub(super) fn clip(text: &str) -> String {
    text.chars().take(300).collect()
}
