//! Reads of single records (rules 2): which slot a segment is in, up to where it may be read, and the check of what came back.
//! Part of `Log`.

use super::batch::record_len;
use super::format::{Seal, decode_record};
use super::log::{LogEvent, LogOps};
use super::op::{LogOp, LogReply};
use super::record::Record;
use super::segment::unexpected;
use super::v1;
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

/// A value log of the original that may be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OriginalPlace {
    pub slot: SlotId,
    /// Length of the file: the original never writes to it again.
    pub end: u64,
}

/// The segments of the log, and the reads under way.
#[derive(Debug, Default)]
pub(super) struct Reads {
    pub segments: BTreeMap<SegmentId, Place>,
    /// Below all of `segments`.
    pub originals: BTreeMap<SegmentId, OriginalPlace>,
    pending: BTreeMap<OpId, Pending>,
}

#[derive(Debug)]
struct Pending {
    ptr: LogPtr,
    len: u32,
    token: u64,
    /// `Err`: refused already; the operation only carries the answer.
    form: Result<Form, &'static str>,
}

/// How a record's bytes are checked.
#[derive(Debug, Clone, Copy)]
enum Form {
    Own(Seal),
    Original,
}

impl Reads {
    pub fn start(&mut self, ptr: LogPtr, len: u32, token: u64, ops: &mut LogOps<'_>) {
        let own = self.segments.get(&ptr.segment).map(|place| (place.slot, place.end, Form::Own(place.seal)));
        let original = || self.originals.get(&ptr.segment).map(|place| (place.slot, place.end, Form::Original));
        let place = match own.or_else(original) {
            None => Err("no such segment in this log"),
            Some((_, end, _)) if ptr.offset.saturating_add(u64::from(len)) > end => {
                Err("the record would reach beyond the end of its segment")
            }
            Some((slot, _, form)) => Ok((slot, form)),
        };
        let op = match place {
            Ok((slot, _)) => ops.push(LogOp::Read { slot, offset: ptr.offset, len: u64::from(len) }),
            // Answers leave with completions only: ask the port something that every port can answer. A pointer like this
            // means damage, so the cost does not matter.
            Err(_) => ops.push(LogOp::List),
        };
        self.pending.insert(op, Pending { ptr, len, token, form: place.map(|(_, form)| form) });
    }

    /// The oldest segment that a read is under way in.
    pub fn lowest_in_use(&self) -> Option<SegmentId> {
        let known = |id: &SegmentId| self.segments.contains_key(id) || self.originals.contains_key(id);
        self.pending.values().map(|read| read.ptr.segment).filter(known).min()
    }

    /// `false` if `op` is no read.
    pub fn handle(&mut self, op: OpId, result: &Result<LogReply, IoFault>, events: &mut Vec<LogEvent>) -> bool {
        let Some(read) = self.pending.remove(&op) else { return false };
        let LogPtr { segment, offset } = read.ptr;
        let result = match result {
            // It says nothing about what was written.
            Err(error) if read.form.is_ok() => {
                Err(Fault::LogUnreadable { segment, offset, what: format!("read: {error}") })
            }
            _ => verify(&read, result).map_err(|what| Fault::LogDamaged { segment, offset, what }),
        };
        events.push(LogEvent::Read { token: read.token, result });
        true
    }
}

fn verify(read: &Pending, result: &Result<LogReply, IoFault>) -> Result<Record, String> {
    let form = read.form?;
    let Ok(LogReply::Data(data)) = result else { return Err(unexpected("read", result)) };
    if data.len() as u64 != u64::from(read.len) {
        return Err(format!("only {} of {} bytes are there", data.len(), read.len));
    }
    let seal = match form {
        Form::Own(seal) => seal,
        Form::Original => return v1::record::decode(data),
    };
    let record = decode_record(seal, read.ptr.offset, data)?;
    if record_len(&record) as u64 != u64::from(read.len) {
        return Err(format!("the record has {} bytes, not {}", record_len(&record), read.len));
    }
    Ok(record)
}
