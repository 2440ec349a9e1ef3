//! Pumps, PD, registry and driver around one Drainer, in virtual time: everything is delayed by chance, connections break,
//! the process crashes. Commits happen while it runs; a Pump sends in commit order up to its own watermark.

use super::Rng;
use super::sink::{Db, Way};
use super::translator::{Fake, job};
use crate::drainer::config::DrainerConfig;
use crate::drainer::effect::{Effect, SourceId};
use crate::drainer::input::{Input, ResolveAction};
use crate::drainer::machine::Drainer;
use crate::fault::{Fault, IoFault};
use crate::ids::{CommitTs, NodeId};
use crate::machine::Machine;
use crate::node::status::{NodeState, NodeStatus};
use crate::proto::binlog::Binlog;
use crate::sink::op::{SinkError, SinkOp};
use crate::time::{MonoTime, Tso};
use bytes::Bytes;
use prost::Message;
use std::collections::BTreeMap;

/// A binlog of the upstream and the Pumps that hold it.
#[derive(Debug, Clone)]
pub(crate) struct Txn {
    pub(crate) commit_ts: u64,
    pub(crate) payload: Bytes,
    pub(crate) pumps: Vec<usize>,
    /// Id and state of its DDL job.
    pub(crate) job: Option<(u64, u8)>,
}

#[derive(Debug, Clone)]
pub(crate) struct Pump {
    pub(crate) state: NodeState,
    pub(crate) host: String,
    /// Registered from this moment of PD's clock on; all its commits are later.
    pub(crate) joins_at: u64,
    /// Everything up to here was decided; streams carry no more.
    pub(crate) watermark: u64,
    pub(crate) max_commit_ts: u64,
    /// Its process does not run.
    pub(crate) down: bool,
}

/// Picks an operation of the sink.
pub(crate) type Accepts = fn(&SinkOp) -> bool;

/// How unkind the world is, in percent per occasion.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    pub(crate) sink: u64,
    pub(crate) stream: u64,
    pub(crate) control: u64,
    pub(crate) crash_per_mille: u64,
}

#[derive(Debug)]
struct Conn {
    pump: usize,
    cursor: u64,
    credit: i64,
    /// The last message, to be repeated by chance.
    last: Option<Bytes>,
}

#[derive(Debug)]
enum Event {
    Deliver(Input),
    Sink {
        op: crate::ids::OpId,
        request: SinkOp,
    },
    Send(SourceId),
    /// PD's clock moves.
    Clock,
}

pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) faults: Faults,
    pub(crate) config: DrainerConfig,
    pub(crate) drainer: Drainer<Fake>,
    pub(crate) db: Db,
    pub(crate) txns: Vec<Txn>,
    pub(crate) pumps: Vec<Pump>,
    pub(crate) clock: u64,
    /// PD's clock stops here.
    pub(crate) end: u64,
    now: MonoTime,
    seq: u64,
    events: BTreeMap<(MonoTime, u64), Event>,
    conns: BTreeMap<SourceId, Conn>,
    pub(crate) seen_faults: Vec<Fault>,
    pub(crate) notices: Vec<String>,
    pub(crate) statuses: Vec<NodeStatus>,
    pub(crate) replies: Vec<(u64, bool)>,
    pub(crate) stopped: bool,
    pub(crate) crashes: u64,
    pub(crate) opens: Vec<(usize, u64)>,
    /// Reads of the whole history.
    pub(crate) history_reads: usize,
    /// Statements of transactions whose columns were not all known.
    pub(crate) incomplete: usize,
    /// Absent looks that a job needs before it is found.
    pub(crate) job_delay: u64,
    /// How the next operation that the function accepts goes.
    pub(crate) force: Option<(Accepts, Way)>,
}

impl World {
    pub(crate) fn new(seed: u64, txns: Vec<Txn>, pumps: usize) -> Self {
        let mut config = DrainerConfig::new(NodeId::parse("d").unwrap(), "d:8249".into());
        config.initial_commit_ts = 0;
        config.seed = seed;
        config.memory_bytes = 1 << 20;
        let end = txns.iter().map(|t| t.commit_ts).max().unwrap_or(0) + 20;
        let mut world = Self {
            rng: Rng(seed),
            faults: Faults::default(),
            drainer: Drainer::new(config.clone()),
            config,
            db: Db::default(),
            txns,
            pumps: (0..pumps).map(|i| pump(&format!("h:{i}"))).collect(),
            clock: 0,
            end,
            now: MonoTime::ZERO,
            seq: 0,
            events: BTreeMap::new(),
            conns: BTreeMap::new(),
            seen_faults: vec![],
            notices: vec![],
            statuses: vec![],
            replies: vec![],
            stopped: false,
            crashes: 0,
            opens: vec![],
            history_reads: 0,
            incomplete: 0,
            job_delay: 0,
            force: None,
        };
        world.after(1, Event::Clock);
        world.after(0, Event::Deliver(Input::Start));
        world
    }

    fn after(&mut self, ms: u64, event: Event) {
        self.seq += 1;
        self.events.insert((self.now.plus_millis(ms), self.seq), event);
    }

    fn soon(&mut self, event: Event) {
        let ms = self.rng.below(12);
        self.after(ms, event);
    }

    pub(crate) fn input(&mut self, input: Input) {
        self.after(0, Event::Deliver(input));
    }

    /// One event, or the machine's deadline if that is earlier.
    pub(crate) fn step(&mut self) {
        let next = self.events.keys().next().copied();
        let deadline = self.drainer.next_deadline();
        if let Some(deadline) = deadline
            && next.is_none_or(|(at, _)| deadline < at)
        {
            self.now = self.now.max(deadline);
            self.handle(Input::Tick);
            let again = self.drainer.next_deadline();
            assert!(
                again.is_none_or(|at| at > self.now),
                "a tick does not pass the deadline {again:?}: {:#?}",
                self.drainer
            );
            return;
        }
        let Some(((at, _), event)) = self.events.pop_first() else { return };
        self.now = self.now.max(at);
        match event {
            Event::Deliver(input) => self.handle(input),
            Event::Sink { op, request } => {
                if let SinkOp::Apply { statements, .. } = &request {
                    self.incomplete += statements.iter().filter(|s| s.sql.starts_with("incomplete")).count();
                }
                let forced = self.force.take_if(|(accepts, _)| accepts(&request));
                let way = forced.map_or_else(|| self.way(), |(_, way)| way);
                let mut result = self.db.run(&request, way, &mut self.rng);
                if matches!((&request, &result), (SinkOp::Begin { .. }, Err(SinkError::Retry(_)))) {
                    result = Err(SinkError::Lost("reset".into()));
                }
                self.soon(Event::Deliver(Input::SinkDone { op, result }));
            }
            Event::Send(source) => self.send(source),
            Event::Clock => self.tick_clock(),
        }
        if self.rng.below(1_000) < self.faults.crash_per_mille {
            self.crash();
        }
    }

    fn way(&mut self) -> Way {
        if !self.rng.percent(self.faults.sink) {
            return Way::Well;
        }
        match self.rng.below(5) {
            0 => Way::LostBefore,
            1 => Way::LostAfter,
            2 => Way::Limbo,
            3 => Way::HalfDone,
            _ => Way::Deadlock,
        }
    }

    fn tick_clock(&mut self) {
        if self.clock < self.end {
            self.clock += 1 + self.rng.below(3);
        }
        for pump in &mut self.pumps {
            if pump.state != NodeState::Offline && (self.clock >= self.end || self.rng.percent(60)) {
                pump.watermark = self.clock;
            }
        }
        let all: Vec<_> = self.conns.keys().copied().collect();
        for source in all {
            self.soon(Event::Send(source));
        }
        self.after(5, Event::Clock);
    }

    /// The next item of a connection, if there is one and credit is left.
    fn send(&mut self, source: SourceId) {
        let Some(conn) = self.conns.get_mut(&source) else { return };
        if self.rng.percent(self.faults.stream) {
            if let (Some(last), true) = (&conn.last, self.rng.percent(50)) {
                let payload = last.clone();
                self.handle(Input::SourceItem { source, payload });
                return;
            }
            self.conns.remove(&source);
            self.handle(Input::SourceClosed { source, error: Some("connection reset".into()) });
            return;
        }
        if conn.credit <= 0 {
            return;
        }
        let (index, pump) = (conn.pump, &self.pumps[conn.pump]);
        let next = self.txns.iter().find(|t| t.commit_ts > conn.cursor && t.pumps.contains(&index));
        let (ts, payload) = match next.filter(|t| t.commit_ts <= pump.watermark) {
            Some(txn) => (txn.commit_ts, txn.payload.clone()),
            None if pump.watermark > conn.cursor => (pump.watermark, fake(pump.watermark)),
            None => return,
        };
        conn.cursor = ts;
        conn.credit -= i64::try_from(payload.len()).unwrap();
        conn.last = Some(payload.clone());
        self.handle(Input::SourceItem { source, payload });
        self.soon(Event::Send(source));
    }

    pub(crate) fn handle(&mut self, input: Input) {
        self.drainer.handle(self.now, input);
        self.drainer.check();
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(effect) = self.drainer.poll_effect() {
            self.drainer.check();
            self.carry_out(effect);
        }
    }

    fn control<R>(&mut self, value: R) -> Result<R, IoFault> {
        if self.rng.percent(self.faults.control) { Err(IoFault::Unavailable("away".into())) } else { Ok(value) }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::GetTso { op } => {
                let tso = Tso::new(self.clock.max(1));
                let result = self.control(tso);
                self.soon(Event::Deliver(Input::TsoDone { op, result }));
            }
            Effect::ListPumps { op } => {
                let clock = self.clock;
                let listed = self.pumps.iter().enumerate().filter(|(_, p)| p.joins_at <= clock);
                let entries = listed.map(|(i, p)| entry(i, p)).collect();
                let result = self.control(entries);
                self.soon(Event::Deliver(Input::PumpsDone { op, result }));
            }
            Effect::PutStatus { op, status } => {
                let durable = self.db.row.as_ref().map_or(0, |r| r.commit_ts.raw());
                assert!(
                    status.max_commit_ts <= i64::try_from(durable).unwrap(),
                    "registered {status:?}, stored {durable}"
                );
                let result = self.control(());
                if result.is_ok() {
                    self.statuses.push(status);
                }
                self.soon(Event::Deliver(Input::StatusDone { op, result }));
            }
            Effect::LoadHistory { op } => {
                self.history_reads += 1;
                let result = self.control(self.history().collect());
                self.soon(Event::Deliver(Input::HistoryDone { op, result }));
            }
            Effect::FetchJob { op, job_id } => {
                let id = u64::try_from(job_id).unwrap();
                let found =
                    self.txns.iter().find_map(|t| t.job.filter(|j| j.0 == id).map(|j| job(id, t.commit_ts, j.1)));
                let absent = self.job_delay > 0;
                self.job_delay = self.job_delay.saturating_sub(1);
                let result = self.control(found.filter(|_| !absent));
                self.soon(Event::Deliver(Input::JobDone { op, result }));
            }
            Effect::OpenSource { source, pump, addr, last, credit } => {
                let index: usize = pump.as_str()[1..].parse().unwrap();
                self.opens.push((index, last.raw()));
                let reachable = self.pumps[index].host == addr && !self.pumps[index].down;
                if !reachable || self.rng.percent(self.faults.stream) {
                    let error = Some("connection refused".into());
                    self.soon(Event::Deliver(Input::SourceClosed { source, error }));
                    return;
                }
                let credit = i64::try_from(credit).unwrap();
                self.conns.insert(source, Conn { pump: index, cursor: last.raw(), credit, last: None });
                self.soon(Event::Send(source));
            }
            Effect::SourceCredit { source, bytes } => {
                if let Some(conn) = self.conns.get_mut(&source) {
                    conn.credit += i64::try_from(bytes).unwrap();
                    let most = i64::try_from(self.config.memory_bytes.max(1 << 20)).unwrap();
                    assert!(conn.credit <= most, "more credit than memory");
                    self.soon(Event::Send(source));
                }
            }
            Effect::CloseSource { source } => {
                self.conns.remove(&source);
            }
            Effect::Sink { op, request } => self.soon(Event::Sink { op, request }),
            Effect::NotifyReply { call, result } => self.replies.push((call, result.is_ok())),
            Effect::ResolveReply { call, result } => self.replies.push((call, result.is_ok())),
            Effect::Fault(fault) => self.seen_faults.push(fault),
            Effect::Notice { text, .. } => self.notices.push(text),
            Effect::Stopped { exit_code } => {
                assert_eq!(exit_code, 0);
                self.stopped = true;
            }
        }
    }

    fn history(&self) -> impl Iterator<Item = Bytes> + use<> {
        let clock = self.clock;
        let done: Vec<_> = self.txns.iter().filter(|t| t.commit_ts <= clock).cloned().collect();
        done.into_iter().filter_map(|t| t.job.map(|(id, state)| job(id, t.commit_ts, state)))
    }

    /// The process dies and starts again. What it had sent to the downstream may still arrive there.
    pub(crate) fn crash(&mut self) {
        self.crashes += 1;
        let old = std::mem::take(&mut self.events);
        self.conns.clear();
        for (_, event) in old {
            match event {
                Event::Sink { request, .. } if self.rng.percent(50) => {
                    let way = self.way();
                    let _ = self.db.run(&request, way, &mut self.rng);
                }
                Event::Sink { .. } | Event::Deliver(_) | Event::Send(_) => {}
                Event::Clock => self.after(1, Event::Clock),
            }
        }
        self.restart();
    }

    /// A new process on what the downstream holds.
    pub(crate) fn restart(&mut self) {
        self.stopped = false;
        self.conns.clear();
        self.events.retain(|_, e| matches!(e, Event::Clock));
        self.drainer = Drainer::new(self.config.clone());
        let ms = self.rng.below(20);
        self.after(ms, Event::Deliver(Input::Start));
    }

    /// Steps until `done`; panics when it takes too long.
    pub(crate) fn run_until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        for _ in 0..400_000 {
            if done(self) {
                return;
            }
            self.step();
        }
        panic!(
            "never: {what}\n{:#?}\nfaults {:?}\nlast notices {:?}",
            self.drainer.status(),
            self.seen_faults,
            &self.notices[self.notices.len().saturating_sub(8)..]
        );
    }

    /// Everything is applied.
    pub(crate) fn is_done(&self) -> bool {
        let last = self.txns.iter().map(|t| t.commit_ts).max().unwrap_or(0);
        self.drainer.status().applied >= last
    }

    /// Decides by chance about what is paused.
    pub(crate) fn operate(&mut self) {
        let Some(paused) = self.drainer.status().paused else { return };
        let commit_ts = CommitTs::new(paused.commit_ts);
        let wrong = CommitTs::new(paused.commit_ts + 1);
        self.handle(Input::Resolve { call: 1, commit_ts: wrong, action: ResolveAction::Skip });
        assert_eq!(self.replies.pop(), Some((1, false)), "another timestamp is not paused");
        let action = match self.rng.below(3) {
            0 => ResolveAction::Skip,
            1 => ResolveAction::MarkApplied,
            _ => {
                if self.rng.percent(50) {
                    self.db.refuse.remove(&commit_ts);
                }
                ResolveAction::Retry
            }
        };
        self.handle(Input::Resolve { call: 2, commit_ts, action });
        assert_eq!(self.replies.pop(), Some((2, true)));
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.now.millis_since(MonoTime::ZERO)
    }

    /// Forgets what was scheduled, except PD's clock.
    pub(crate) fn events_clear(&mut self) {
        self.events.retain(|_, e| matches!(e, Event::Clock));
    }

    /// The operation of the sink that waits to be carried out, to be answered by the test.
    pub(crate) fn take_sink_op(&mut self) -> crate::ids::OpId {
        let key = self.events.iter().find(|(_, e)| matches!(e, Event::Sink { .. })).map(|(key, _)| *key).unwrap();
        match self.events.remove(&key) {
            Some(Event::Sink { op, .. }) => op,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn shut_down(&mut self) {
        self.input(Input::Shutdown);
        self.run_until("stopped", |w| w.stopped);
    }
}

pub(crate) fn pump(host: &str) -> Pump {
    Pump { state: NodeState::Online, host: host.into(), joins_at: 0, watermark: 0, max_commit_ts: 0, down: false }
}

fn entry(index: usize, pump: &Pump) -> NodeStatus {
    NodeStatus {
        node_id: format!("p{index}"),
        host: pump.host.clone(),
        state: pump.state,
        is_alive: true,
        score: 0,
        label: serde_json::Value::Null,
        max_commit_ts: i64::try_from(pump.max_commit_ts).unwrap(),
        update_ts: 0,
        token: None,
    }
}

pub(crate) fn fake(ts: u64) -> Bytes {
    let ts = i64::try_from(ts).unwrap();
    Binlog { tp: 2, start_ts: ts, commit_ts: ts, ..Binlog::default() }.encode_to_vec().into()
}

pub(crate) fn dml(commit_ts: u64, value: Vec<u8>, pumps: &[usize]) -> Txn {
    let ts = i64::try_from(commit_ts).unwrap();
    let binlog =
        Binlog { tp: 1, start_ts: ts - 1, commit_ts: ts, prewrite_value: Some(value.into()), ..Binlog::default() };
    Txn { commit_ts, payload: binlog.encode_to_vec().into(), pumps: pumps.to_vec(), job: None }
}

pub(crate) fn ddl(commit_ts: u64, job_id: u64, state: u8, query: &'static str, pumps: &[usize]) -> Txn {
    let ts = i64::try_from(commit_ts).unwrap();
    let binlog = Binlog {
        tp: 1,
        start_ts: ts - 1,
        commit_ts: ts,
        ddl_query: Some(Bytes::from_static(query.as_bytes())),
        ddl_job_id: i64::try_from(job_id).unwrap(),
        ..Binlog::default()
    };
    Txn { commit_ts, payload: binlog.encode_to_vec().into(), pumps: pumps.to_vec(), job: Some((job_id, state)) }
}
