//! Reads of single records (rules 2): which slot a segment is in, up to where it may be read, and the check of what came back.
//! Part of `Log`.

use super::batch::record_len;
use super::format::{Seal, decode_record};
use super::log::{LogEvent, LogOps};
use super::op::{LogOp, LogReply};
use super::record::Record;
use super::segment::unexpected;
use crate::fault::{Fault, IoFault};
use crate::ids::{LogPtr, OpId, SegmentId, SlotId};
use std::collections::BTreeMap;

/// A segment that may be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub slot: SlotId,
    pub seal: Seal,
    /// End of what is durable and counts in it.
    pub end: u64,
}

/// The segments of the log, and the reads under way.
#[derive(Debug, Default)]
pub(super) struct Reads {
    pub segments: BTreeMap<SegmentId, Place>,
    pending: BTreeMap<OpId, Pending>,
}

#[derive(Debug)]
struct Pending {
    ptr: LogPtr,
    len: u32,
    token: u64,
    /// `Err`: refused already; the operation only carries the answer.
    seal: Result<Seal, &'static str>,
}

impl Reads {
    pub fn start(&mut self, ptr: LogPtr, len: u32, token: u64, ops: &mut LogOps<'_>) {
        let place = match self.segments.get(&ptr.segment) {
            None => Err("no such segment in this log"),
            Some(place) if ptr.offset.saturating_add(u64::from(len)) > place.end => {
                Err("the record would reach beyond the end of its segment")
            }
            Some(place) => Ok(place),
        };
        let op = match place {
            Ok(place) => ops.push(LogOp::Read { slot: place.slot, offset: ptr.offset, len: u64::from(len) }),
            // Answers leave with completions only: ask the port something that every port can answer. A pointer like this
            // means damage, so the cost does not matter.
            Err(_) => ops.push(LogOp::List),
        };
        self.pending.insert(op, Pending { ptr, len, token, seal: place.map(|place| place.seal) });
    }

    /// The oldest segment that a read is under way in.
    pub fn lowest_in_use(&self) -> Option<SegmentId> {
        self.pending.values().map(|read| read.ptr.segment).filter(|id| self.segments.contains_key(id)).min()
    }

    /// `false` if `op` is no read.
    pub fn handle(&mut self, op: OpId, result: &Result<LogReply, IoFault>, events: &mut Vec<LogEvent>) -> bool {
        let Some(read) = self.pending.remove(&op) else { return false };
        let LogPtr { segment, offset } = read.ptr;
        let result = match result {
            // It says nothing about what was written.
            Err(error) if read.seal.is_ok() => {
                Err(Fault::LogUnreadable { segment, offset, what: format!("read: {error}") })
            }
            _ => verify(&read, result).map_err(|what| Fault::LogDamaged { segment, offset, what }),
        };
        events.push(LogEvent::Read { token: read.token, result });
        true
    }
}

fn verify(read: &Pending, result: &Result<LogReply, IoFault>) -> Result<Record, String> {
    let seal = read.seal?;
    let Ok(LogReply::Data(data)) = result else { return Err(unexpected("read", result)) };
    if data.len() as u64 != u64::from(read.len) {
        return Err(format!("only {} of {} bytes are there", data.len(), read.len));
    }
    let record = decode_record(seal, read.ptr.offset, data)?;
    if record_len(&record) as u64 != u64::from(read.len) {
        return Err(format!("the record has {} bytes, not {}", record_len(&record), read.len));
    }
    Ok(record)
}
