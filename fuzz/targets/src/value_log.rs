//! Segment files of the value log: recovery of arbitrary bytes, and the log that goes on from it.
//!
//! Input: files one after the other, each `u32 LE length` and that many bytes. They become the slots of a data directory whose
//! segment headers belong to it (see [`OWNER`]); recovery runs, and if it accepts the log, a record is added and recovery runs
//! once more: everything found the first time is found again, and the new record with it.

use binlog_core::fault::IoFault;
use binlog_core::ids::{ClusterId, CommitTs, OpId, OpIds, SlotId, StartTs};
use binlog_core::vlog::log::{IndexClaims, Log, LogConfig, LogEvent, LogOps};
use binlog_core::vlog::op::{LogOp, LogReply};
use binlog_core::vlog::record::{Record, RecordKind};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

/// The data directory and cluster that all seeds are made for.
pub const OWNER: ([u8; 16], u64) = ([7; 16], 42);

/// Recovery of arbitrary files.
pub fn value_log(bytes: &[u8]) {
    let mut disk = Disk::parse(bytes);
    let Some((mut log, first)) = recovered(&mut disk, 1) else { return };
    let added = record(1 << 40, b"added by the fuzz target");
    log.stage(added.clone());
    disk.run(&mut log, |_| {});
    assert!(log.read_only().is_none(), "a sound disk refused a record: {:?}", log.read_only());
    let Some((_, second)) = recovered(&mut disk, 2) else {
        panic!("the log cannot be recovered after a record was added")
    };
    let expected: Vec<Record> = first.into_iter().chain([added]).collect();
    assert!(
        second == expected,
        "recovered {} records, then {} of {}",
        expected.len() - 1,
        second.len(),
        expected.len()
    );
}

/// Files of a log with these payloads, in the form of the target's input: for seeds.
#[must_use]
pub fn seed(payloads: &[Vec<u8>]) -> Vec<u8> {
    let mut disk = Disk::default();
    let Some((mut log, _)) = recovered(&mut disk, 3) else { return Vec::new() };
    for (i, payload) in payloads.iter().enumerate() {
        log.stage(record(100 + i as u64, payload));
        disk.run(&mut log, |_| {});
    }
    let mut out = Vec::new();
    for file in disk.files.values() {
        out.extend(u32::try_from(file.len()).unwrap_or(0).to_le_bytes());
        out.extend(file);
    }
    out
}

fn record(ts: u64, payload: &[u8]) -> Record {
    Record {
        kind: RecordKind::Prewrite,
        start_ts: StartTs::new(ts),
        commit_ts: CommitTs::ZERO,
        payload: Bytes::copy_from_slice(payload),
    }
}

/// Runs recovery; the log and its records if it was accepted.
fn recovered(disk: &mut Disk, seed: u64) -> Option<(Log, Vec<Record>)> {
    let config = LogConfig {
        segment_bytes: SEGMENT,
        node: OWNER.0,
        cluster: ClusterId::new(OWNER.1),
        max_batch_bytes: 1 << 16,
        max_batch_records: 100,
    };
    let mut log = Log::new(config, seed);
    let mut out = VecDeque::new();
    log.recover(IndexClaims::default(), &mut LogOps { ids: &mut disk.ids, out: &mut out });
    disk.queue.extend(out);
    let mut records = Vec::new();
    disk.run(&mut log, |event| match event {
        LogEvent::Tail { record, .. } => records.push(record),
        LogEvent::ReadOnly(fault) => assert!(!fault.to_string().is_empty(), "a fault without a text"),
        _ => {}
    });
    assert!(log.is_ready() || log.read_only().is_some(), "recovery stopped half-way");
    log.check();
    log.is_ready().then_some((log, records))
}

/// Slot files in memory; every operation succeeds.
#[derive(Default)]
struct Disk {
    files: BTreeMap<SlotId, Vec<u8>>,
    queue: VecDeque<(OpId, LogOp)>,
    ids: OpIds,
}

impl Disk {
    fn parse(mut bytes: &[u8]) -> Self {
        let mut files = BTreeMap::new();
        for slot in 1..=MAX_FILES {
            let Some((len, rest)) = bytes.split_first_chunk::<4>() else { break };
            let len = usize::try_from(u32::from_le_bytes(*len)).unwrap_or(usize::MAX).min(rest.len());
            let (file, rest) = rest.split_at(len);
            files.insert(SlotId::new(slot), file.to_vec());
            bytes = rest;
        }
        Self { files, ..Self::default() }
    }

    /// Carries out operations and seals batches until nothing is left to do.
    fn run(&mut self, log: &mut Log, mut said: impl FnMut(LogEvent)) {
        loop {
            let mut out = VecDeque::new();
            let mut events = Vec::new();
            if let Some((op, request)) = self.queue.pop_front() {
                let result = self.execute(request);
                log.handle(op, result, &mut events, &mut LogOps { ids: &mut self.ids, out: &mut out });
            } else {
                log.seal(&mut LogOps { ids: &mut self.ids, out: &mut out });
                if out.is_empty() {
                    return;
                }
            }
            self.queue.extend(out);
            events.into_iter().for_each(&mut said);
        }
    }

    fn execute(&mut self, request: LogOp) -> Result<LogReply, IoFault> {
        let missing = || IoFault::Unavailable("no such file".to_owned());
        Ok(match request {
            LogOp::List => LogReply::Slots(self.files.iter().map(|(slot, file)| (*slot, file.len() as u64)).collect()),
            LogOp::Create { slot } => {
                assert!(self.files.insert(slot, Vec::new()).is_none(), "a file that exists is created");
                LogReply::Created
            }
            LogOp::Write { slot, offset, parts } => {
                let file = self.files.get_mut(&slot).ok_or_else(missing)?;
                let (data, at) = (parts.concat(), usize::try_from(offset).map_err(|_| missing())?);
                assert!(at + data.len() <= MAX_FILE, "a write far behind the segment's end");
                if file.len() < at + data.len() {
                    file.resize(at + data.len(), 0);
                }
                file.get_mut(at..at + data.len()).ok_or_else(missing)?.copy_from_slice(&data);
                LogReply::Written
            }
            LogOp::Sync { .. } => LogReply::Synced,
            LogOp::Fill { slot, offset, len } => {
                let zeros = Bytes::from(vec![0; usize::try_from(len).map_err(|_| missing())?]);
                self.execute(LogOp::Write { slot, offset, parts: vec![zeros] })?;
                LogReply::Filled
            }
            LogOp::Remove { slot } => {
                self.files.remove(&slot);
                LogReply::Removed
            }
            LogOp::Read { slot, offset, len } => {
                let file = self.files.get(&slot).ok_or_else(missing)?;
                let from = usize::try_from(offset).unwrap_or(usize::MAX).min(file.len());
                let len = usize::try_from(len).unwrap_or(usize::MAX).min(file.len() - from);
                LogReply::Data(Bytes::copy_from_slice(file.get(from..from + len).ok_or_else(missing)?))
            }
        })
    }
}

/// Small, so that a seed holds several segments.
const SEGMENT: u64 = 64 << 10;
/// Files beyond this are ignored.
const MAX_FILES: u64 = 8;
const MAX_FILE: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    /// Otherwise the target would only ever see refusals.
    #[test]
    fn a_seed_is_a_log_of_several_segments() {
        let payloads = [vec![5; 70_000], vec![6; 10], vec![7; 40_000]];
        let mut disk = Disk::parse(&seed(&payloads));
        assert!(disk.files.len() >= 2, "{} files", disk.files.len());
        let (_, records) = recovered(&mut disk, 9).expect("a sound log");
        assert!(records.iter().map(|r| r.payload.to_vec()).eq(payloads));
    }
}
