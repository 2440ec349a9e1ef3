//! Ports in memory: a disk whose un-synced bytes can be lost, an index that keeps a prefix of its batches, PD, a registry.

use super::tikv::{Tikv, primary_key};
use crate::binlog::item;
use crate::fault::{IoFault, Reject};
use crate::ids::{ClusterId, CommitTs, NodeId, OpId, SlotId, StartTs, StreamId, WriteId};
use crate::index::op::{Change, IndexOp, IndexReply};
use crate::machine::Machine;
use crate::node::status::{NodeState, NodeStatus};
use crate::proto::binlog::Binlog;
use crate::pump::config::{PumpConfig, StreamMemory};
use crate::pump::effect::{Effect, Level};
use crate::pump::input::{GcHeld, Input};
use crate::pump::machine::Pump;
use crate::pump::verdict::Verdict;
use crate::time::{MonoTime, Tso};
use crate::vlog::op::{LogOp, LogReply};
use crate::vlog::v1;
use bytes::Bytes;
use prost::Message;
use std::collections::{BTreeMap, VecDeque};

pub const CLUSTER: u64 = 7;

#[derive(Debug, Default, Clone)]
struct File {
    visible: Vec<u8>,
    durable: Vec<u8>,
}

type Store = BTreeMap<Bytes, Bytes>;

/// What survives a crash.
#[derive(Debug, Default)]
pub struct Disk {
    files: BTreeMap<SlotId, File>,
    index: Store,
    durable_index: Store,
    /// Applied since the last flush.
    unflushed: Vec<Vec<Change>>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Sent {
    pub start_ts: i64,
    pub commit_ts: u64,
    pub payload: Vec<u8>,
}

#[derive(Debug)]
pub struct World {
    pub pump: Pump,
    pub config: PumpConfig,
    pub disk: Disk,
    pub now: MonoTime,
    pub tso: u64,
    pub log_ops: VecDeque<(OpId, LogOp)>,
    pub index_ops: VecDeque<(OpId, IndexOp)>,
    pub replies: BTreeMap<u64, Result<(), Reject>>,
    pub items: BTreeMap<u64, Vec<Sent>>,
    pub ended: BTreeMap<u64, Result<(), Reject>>,
    pub registry: Vec<NodeStatus>,
    pub notified: u32,
    /// What the registry says of the Drainers.
    pub drainers: Vec<NodeStatus>,
    pub notices: Vec<(Level, String)>,
    pub faults: Vec<String>,
    /// Keys that the index was asked for, in all lives.
    pub looked_up: usize,
    pub stopped: bool,
    /// Answers to operators, by call.
    pub actions: BTreeMap<u64, Result<(), NodeState>>,
    pub binlogs: BTreeMap<u64, Result<Bytes, String>>,
    /// Whose token the registry entry carries, where that is not ours.
    pub claimed: Option<String>,
    /// Ports that answer with an error.
    pub broken: Broken,
    pub tikv: Tikv,
    next_write: u64,
}

#[derive(Debug, Default, Clone)]
pub struct Broken {
    pub sync: bool,
    pub read: bool,
    pub fill: bool,
    pub tso: bool,
    pub registry: bool,
    pub notify: bool,
    pub index: bool,
    pub tikv: bool,
    pub safe_point: bool,
}

pub fn config() -> PumpConfig {
    PumpConfig {
        node_id: NodeId::parse("pump-1:8250").unwrap(),
        advertise_addr: "127.0.0.1:8250".to_owned(),
        cluster: ClusterId::new(CLUSTER),
        node_uuid: [3; 16],
        token: "life-1".to_owned(),
        seed: 1,
        segment_bytes: 1 << 20,
        max_batch_bytes: 1 << 20,
        max_batch_records: 1000,
        sync_log: true,
        gc_hold_ttl_s: 86_400,
        fake_interval_ms: 3000,
        fake_on_demand_ms: 0,
        heartbeat_ms: 2000,
        stop_write_at_available_space: 100,
        max_payload_bytes: 1 << 20,
        previous: Some(NodeState::Paused),
        wiped_directory_tso_needed: false,
        stream_memory: StreamMemory::default(),
        gc: crate::pump::config::GcConfig::default(),
    }
}

impl World {
    /// Not started.
    pub fn new(config: PumpConfig) -> Self {
        Self::on(config, Disk::default(), 100)
    }

    fn on(config: PumpConfig, disk: Disk, tso: u64) -> Self {
        Self {
            pump: Pump::new(config.clone()),
            config,
            disk,
            now: MonoTime::ZERO,
            tso,
            log_ops: VecDeque::new(),
            index_ops: VecDeque::new(),
            replies: BTreeMap::new(),
            items: BTreeMap::new(),
            ended: BTreeMap::new(),
            registry: Vec::new(),
            notified: 0,
            drainers: Vec::new(),
            notices: Vec::new(),
            faults: Vec::new(),
            looked_up: 0,
            stopped: false,
            actions: BTreeMap::new(),
            binlogs: BTreeMap::new(),
            claimed: None,
            broken: Broken::default(),
            tikv: Tikv::default(),
            next_write: 0,
        }
    }

    /// Started, online, quiet.
    pub fn online() -> Self {
        let mut world = Self::new(config());
        world.start();
        world
    }

    pub fn start(&mut self) {
        self.give(Input::Start);
        self.run();
    }

    pub fn give(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            self.pump.handle(self.now, input);
            self.pump.check();
            self.collect(&mut inputs);
        }
    }

    /// Takes effects; operations of log and index are queued, the rest is answered at once.
    fn collect(&mut self, answers: &mut VecDeque<Input>) {
        while let Some(effect) = self.pump.poll_effect() {
            match effect {
                Effect::Log { op, request } => self.log_ops.push_back((op, request)),
                Effect::Index { op, request } => self.index_ops.push_back((op, request)),
                Effect::GetTso { op } => {
                    self.tso = (self.tso + 1).max(self.tikv.now(self.now).raw());
                    answers
                        .push_back(Input::TsoDone { op, result: check(self.broken.tso).map(|()| Tso::new(self.tso)) });
                }
                Effect::PutStatus { op, status } => {
                    let claimed = self.claimed.clone().map_or(Ok(()), |who| Err(IoFault::Claimed(who)));
                    let result = check(self.broken.registry).and(claimed);
                    if result.is_ok() {
                        self.registry.push(status);
                    }
                    answers.push_back(Input::StatusDone { op, result });
                }
                Effect::NotifyDrainers { op } => {
                    self.notified += 1;
                    answers.push_back(Input::NotifyDone { op, result: check(self.broken.notify) });
                }
                Effect::ListDrainers { op } => {
                    let result = check(self.broken.registry).map(|()| self.drainers.clone());
                    answers.push_back(Input::DrainersDone { op, result });
                }
                Effect::MvccByKey { op, key } => {
                    let result = check(self.broken.tikv).map(|()| self.tikv.versions(&key));
                    answers.push_back(Input::MvccDone { op, result });
                }
                Effect::CheckTxnStatus { op, request } => {
                    let result = check(self.broken.tikv).map(|()| self.tikv.status(&request));
                    answers.push_back(Input::TxnStatusDone { op, result });
                }
                Effect::GetGcSafePoint { op } => {
                    let result = check(self.broken.safe_point).map(|()| Tso::new(self.tikv.safe_point));
                    answers.push_back(Input::SafePointDone { op, result });
                }
                Effect::HoldGc { op, service: _, ttl_seconds, safe_point } => {
                    self.tikv.holds.push((ttl_seconds, safe_point.raw()));
                    let smallest = Tso::new(self.tikv.smallest_service);
                    let held = GcHeld { accepted: smallest <= safe_point, smallest };
                    answers.push_back(Input::HoldGcDone { op, result: check(self.broken.safe_point).map(|()| held) });
                }
                Effect::WriteReply { write, result } => {
                    assert!(self.replies.insert(write.raw(), result).is_none(), "answered twice");
                }
                Effect::StreamItems { stream, items: sent } => {
                    assert!(!sent.is_empty(), "no effect without an item");
                    let items = self.items.entry(stream.raw()).or_default();
                    for item in sent {
                        let (start_ts, commit_ts) = (item.start_ts, item.commit_ts.raw());
                        let item = Sent { start_ts, commit_ts, payload: item.payload.concat() };
                        assert!(items.last().is_none_or(|last| last.commit_ts < commit_ts), "stream goes back");
                        assert!(commit_ts <= self.pump.status().watermark.raw(), "beyond the watermark");
                        items.push(item);
                    }
                }
                Effect::StreamEnd { stream, result } => {
                    self.ended.insert(stream.raw(), result);
                }
                Effect::ActionReply { call, result } => {
                    assert!(self.actions.insert(call, result).is_none(), "answered twice");
                }
                Effect::BinlogRead { call, result } => {
                    assert!(self.binlogs.insert(call, result).is_none(), "answered twice");
                }
                Effect::Fault(fault) => self.faults.push(fault.to_string()),
                Effect::Notice { level, text } => self.notices.push((level, text)),
                Effect::Stopped => self.stopped = true,
            }
        }
    }

    /// Carries out the next operation of the log; false: none.
    pub fn step_log(&mut self) -> bool {
        let Some((op, request)) = self.log_ops.pop_front() else { return false };
        let result = self.disk.log(request, &self.broken);
        self.give(Input::LogDone { op, result });
        true
    }

    pub fn step_index(&mut self) -> bool {
        let Some((op, request)) = self.index_ops.pop_front() else { return false };
        if let IndexOp::Get(keys) = &request {
            self.looked_up += keys.len();
        }
        let result = check(self.broken.index).map(|()| self.disk.index(request));
        self.give(Input::IndexDone { op, result });
        true
    }

    /// Until nothing is left to do.
    pub fn run(&mut self) {
        while self.step_log() || self.step_index() {}
    }

    /// Lets time pass in steps, ticking and running.
    pub fn pass_ms(&mut self, ms: u64) {
        let end = self.now.plus_millis(ms);
        while let Some(at) = self.pump.next_deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.give(Input::Tick);
            self.run();
        }
        self.now = end;
        self.give(Input::Tick);
        self.run();
    }

    /// SIGKILL with power loss: un-synced bytes of the log vanish, of the index batches since the last flush the first
    /// `index_batches` stay. Not started again yet.
    pub fn crash(&mut self, index_batches: usize) {
        for file in self.disk.files.values_mut() {
            file.visible = file.durable.clone();
        }
        self.kill(index_batches);
    }

    /// SIGKILL: what was written to the log can be read, synced or not.
    pub fn kill(&mut self, index_batches: usize) {
        let mut disk = std::mem::take(&mut self.disk);
        let unflushed = std::mem::take(&mut disk.unflushed);
        for batch in unflushed.into_iter().take(index_batches) {
            apply(&mut disk.durable_index, &batch);
        }
        disk.index = disk.durable_index.clone();
        let (next_write, tso) = (self.next_write, self.tso);
        let (drainers, tikv) = (std::mem::take(&mut self.drainers), std::mem::take(&mut self.tikv));
        // The registry keeps what was written last; a test may say otherwise.
        let previous = self.registry.last().map_or(NodeState::Online, |status| status.state);
        let config = PumpConfig { previous: Some(previous), ..self.config.clone() };
        *self = Self::on(config, disk, tso);
        self.next_write = next_write;
        self.drainers = drainers;
        self.tikv = tikv;
    }

    /// Somebody removed the index's directory; after a crash.
    pub fn lose_index(&mut self) {
        self.disk.index.clear();
        self.disk.durable_index.clear();
    }

    /// The index was written by a version that did not know this key; after a crash.
    pub fn forget_key(&mut self, key: &[u8]) {
        self.disk.index.remove(key);
        self.disk.durable_index.remove(key);
    }

    /// Damages one byte at this place of the log, wherever its segment lies.
    pub fn damage(&mut self, slot: u64, offset: u64) {
        let file = self.disk.files.get_mut(&SlotId::new(slot)).unwrap();
        file.visible[offset as usize] ^= 1;
        file.durable[offset as usize] ^= 1;
    }

    /// Slot files with their sizes.
    pub fn files(&self) -> Vec<usize> {
        self.disk.files.values().map(|file| file.visible.len()).collect()
    }

    /// Keys of the index with this prefix.
    pub fn keys(&self, prefix: &str) -> usize {
        self.disk.index.keys().filter(|key| key.starts_with(prefix.as_bytes())).count()
    }

    /// A value log of the original.
    pub fn put_original(&mut self, number: u32, contents: Vec<u8>) {
        self.disk.files.insert(v1::slot(number), File { visible: contents.clone(), durable: contents });
    }

    pub fn remove_original(&mut self, number: u32) {
        self.disk.files.remove(&v1::slot(number));
    }

    pub fn originals(&self) -> Vec<(u32, u64)> {
        let files = self.disk.files.iter();
        files.filter_map(|(slot, file)| Some((v1::file_of(*slot)?, file.visible.len() as u64))).collect()
    }

    /// Everything in the index except what depends on when it was flushed.
    pub fn index_contents(&self) -> Vec<(Bytes, Bytes)> {
        let of = |key: &Bytes| !key.starts_with(b"meta/flushed_end") && !key.starts_with(b"meta/notify");
        self.disk.index.iter().filter(|(key, _)| of(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    pub fn unflushed(&self) -> usize {
        self.disk.unflushed.len()
    }

    /// Hands in a write; its number.
    pub fn write(&mut self, payload: Bytes) -> u64 {
        self.next_write += 1;
        let write = WriteId::new(self.next_write);
        self.give(Input::Write { write, cluster_id: CLUSTER, payload });
        self.next_write
    }

    /// Writes and runs; the reply.
    pub fn written(&mut self, payload: Bytes) -> Result<(), Reject> {
        let write = self.write(payload);
        self.run();
        self.replies[&write].clone()
    }

    /// An operator's command; its answer.
    pub fn resolve(&mut self, start_ts: u64, verdict: Verdict) -> Result<(), Reject> {
        self.next_write += 1;
        let write = WriteId::new(self.next_write);
        self.give(Input::Resolve { write, start_ts: StartTs::new(start_ts), verdict });
        self.run();
        self.replies[&self.next_write].clone()
    }

    pub fn release_frozen(&mut self) -> Result<(), Reject> {
        self.next_write += 1;
        self.give(Input::ReleaseFrozen { write: WriteId::new(self.next_write) });
        self.run();
        self.replies[&self.next_write].clone()
    }

    pub fn pull(&mut self, stream: u64, last: u64, credit: u64) {
        let (stream, last) = (StreamId::new(stream), CommitTs::new(last));
        self.give(Input::PullOpen { stream, cluster_id: CLUSTER, last, credit });
    }

    pub fn commits(&self, stream: u64) -> Vec<u64> {
        self.items.get(&stream).into_iter().flatten().map(|item| item.commit_ts).collect()
    }

    pub fn watermark(&self) -> u64 {
        self.pump.status().watermark.raw()
    }

    /// Entries of the index under a prefix.
    pub fn indexed_with(&self, prefix: &[u8]) -> Store {
        self.disk.index.iter().filter(|(key, _)| key.starts_with(prefix)).map(|(k, v)| (k.clone(), v.clone())).collect()
    }

    /// Reads one entry of the index, flushed or not.
    pub fn indexed(&self, key: &Bytes) -> Option<&Bytes> {
        self.disk.index.get(key)
    }
}

impl Disk {
    fn log(&mut self, request: LogOp, broken: &Broken) -> Result<LogReply, IoFault> {
        Ok(match request {
            LogOp::List => {
                let own = self.files.iter().filter(|(slot, _)| v1::file_of(**slot).is_none());
                LogReply::Slots(own.map(|(slot, file)| (*slot, file.visible.len() as u64)).collect())
            }
            LogOp::Create { slot } => {
                self.files.entry(slot).or_default();
                LogReply::Created
            }
            LogOp::Write { slot, offset, parts } => {
                let file = &mut self.files.get_mut(&slot).unwrap().visible;
                let data = parts.concat();
                let end = offset as usize + data.len();
                file.resize(file.len().max(end), 0);
                file[offset as usize..end].copy_from_slice(&data);
                LogReply::Written
            }
            LogOp::Sync { slot } => {
                check(broken.sync)?;
                let file = self.files.get_mut(&slot).unwrap();
                file.durable = file.visible.clone();
                LogReply::Synced
            }
            LogOp::Fill { slot, offset, len } => {
                check(broken.fill)?;
                let file = self.files.get_mut(&slot).unwrap();
                file.visible.resize(file.visible.len().max((offset + len) as usize), 0);
                file.durable = file.visible.clone();
                LogReply::Filled
            }
            LogOp::Remove { slot } => {
                self.files.remove(&slot).unwrap();
                LogReply::Removed
            }
            LogOp::Read { slot, offset, len } => {
                check(broken.read)?;
                let file = &self.files[&slot].visible;
                let from = file.len().min(offset as usize);
                let to = file.len().min(from.saturating_add(len as usize));
                LogReply::Data(Bytes::copy_from_slice(&file[from..to]))
            }
        })
    }

    fn index(&mut self, request: IndexOp) -> IndexReply {
        match request {
            IndexOp::Apply(changes) => {
                apply(&mut self.index, &changes);
                self.unflushed.push(changes);
                IndexReply::Applied
            }
            IndexOp::Flush => {
                self.durable_index = self.index.clone();
                self.unflushed.clear();
                IndexReply::Flushed
            }
            IndexOp::Get(keys) => IndexReply::Values(keys.iter().map(|key| self.index.get(key).cloned()).collect()),
            IndexOp::Scan { from, to, limit } => {
                let range = self.index.iter().filter(|(key, _)| **key >= from && **key < to);
                IndexReply::Pairs(range.take(limit).map(|(key, value)| (key.clone(), value.clone())).collect())
            }
        }
    }
}

fn apply(store: &mut Store, changes: &[Change]) {
    for change in changes {
        match change {
            Change::Put(key, value) => {
                store.insert(key.clone(), value.clone());
            }
            Change::Delete(key) => {
                store.remove(key);
            }
            Change::DeleteRange(from, to) => store.retain(|key, _| key < from || key >= to),
        }
    }
}

fn check(broken: bool) -> Result<(), IoFault> {
    if broken { Err(IoFault::Unavailable("on purpose".to_owned())) } else { Ok(()) }
}

fn binlog(tp: i32, start_ts: u64, commit_ts: u64, value: &[u8]) -> Bytes {
    let prewrite_value = (!value.is_empty()).then(|| value.to_vec().into());
    let prewrite_key = prewrite_value.is_some().then(|| primary_key(start_ts));
    let (start_ts, commit_ts) = (start_ts as i64, commit_ts as i64);
    let binlog = Binlog { tp, start_ts, commit_ts, prewrite_key, prewrite_value, ..Binlog::default() };
    binlog.encode_to_vec().into()
}

/// A P whose value follows from its start_ts.
pub fn p(start_ts: u64) -> Bytes {
    binlog(0, start_ts, 0, format!("rows of {start_ts}").as_bytes())
}

/// A P with another value.
pub fn p_other(start_ts: u64) -> Bytes {
    binlog(0, start_ts, 0, b"something else")
}

/// A P whose value has this many bytes.
pub fn p_of(start_ts: u64, bytes: usize) -> Bytes {
    binlog(0, start_ts, 0, &vec![start_ts as u8; bytes])
}

/// What a Drainer must see of it.
pub fn joined_of(start_ts: u64, commit_ts: u64, bytes: usize) -> Binlog {
    Binlog::decode(binlog(1, start_ts, commit_ts, &vec![start_ts as u8; bytes])).unwrap()
}

pub fn c(start_ts: u64, commit_ts: u64) -> Bytes {
    binlog(1, start_ts, commit_ts, b"")
}

pub fn r(start_ts: u64) -> Bytes {
    binlog(2, start_ts, 0, b"")
}

pub fn fake(ts: u64) -> Bytes {
    item::fake(Tso::new(ts))
}

/// What a Drainer must see of this transaction.
pub fn joined(start_ts: u64, commit_ts: u64) -> Binlog {
    let raw = binlog(1, start_ts, commit_ts, format!("rows of {start_ts}").as_bytes());
    Binlog::decode(raw).unwrap()
}
