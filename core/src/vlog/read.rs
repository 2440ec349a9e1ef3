//! Reads of single records and of runs of them (rules 2): which slot a segment is in, up to where it may be read, and the check of what came back.
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
use bytes::Bytes;
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
    is_run: bool,
}

/// How a record's bytes are checked.
#[derive(Debug, Clone, Copy)]
enum Form {
    Own(Seal),
    Original(SegmentId),
}

impl Form {
    const fn segment(self) -> SegmentId {
        match self {
            Self::Own(seal) => seal.segment,
            Self::Original(segment) => segment,
        }
    }
}

/// Bytes of one segment that hold several records; each is verified when it is taken.
#[derive(Debug)]
pub struct Run {
    form: Form,
    offset: u64,
    data: Bytes,
}

impl Run {
    /// The record at `ptr` of `len` bytes ([`super::log::Placed::len`]); its payload shares the run's memory. The error names the place.
    pub fn record(&self, ptr: LogPtr, len: u32) -> Result<Record, Fault> {
        let LogPtr { segment, offset } = ptr;
        let inside = || {
            let from = usize::try_from(offset.checked_sub(self.offset)?).ok()?;
            let rest = self.data.get(from..)?;
            Some(self.data.slice_ref(rest.get(..usize::try_from(len).ok()?).unwrap_or(rest)))
        };
        let bytes = inside().filter(|_| segment == self.form.segment()).unwrap_or_default();
        record(self.form, offset, len, &bytes).map_err(|what| Fault::LogDamaged { segment, offset, what })
    }

    /// Bytes that are held as long as a record of this run is.
    #[must_use]
    pub fn len(&self) -> usize {
        self.data.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }
}

impl Reads {
    pub fn start(&mut self, ptr: LogPtr, len: u32, token: u64, ops: &mut LogOps<'_>) {
        self.begin(ptr, len, token, false, ops);
    }

    pub fn start_run(&mut self, ptr: LogPtr, len: u32, token: u64, ops: &mut LogOps<'_>) {
        self.begin(ptr, len, token, true, ops);
    }

    fn begin(&mut self, ptr: LogPtr, len: u32, token: u64, is_run: bool, ops: &mut LogOps<'_>) {
        let own = self.segments.get(&ptr.segment).map(|place| (place.slot, place.end, Form::Own(place.seal)));
        let form = Form::Original(ptr.segment);
        let original = || self.originals.get(&ptr.segment).map(|place| (place.slot, place.end, form));
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
        self.pending.insert(op, Pending { ptr, len, token, form: place.map(|(_, form)| form), is_run });
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
        // It says nothing about what was written.
        let unreadable = |error: &IoFault| Fault::LogUnreadable { segment, offset, what: format!("read: {error}") };
        let damaged = |what| Fault::LogDamaged { segment, offset, what };
        let token = read.token;
        if read.is_run {
            let result = match (read.form, result) {
                (Err(what), _) => Err(damaged(what.to_owned())),
                (Ok(form), Ok(LogReply::Data(data))) => Ok(Run { form, offset, data: data.clone() }),
                (Ok(_), Err(error)) => Err(unreadable(error)),
                (Ok(_), result) => Err(damaged(unexpected("read", result))),
            };
            events.push(LogEvent::Run { token, result });
            return true;
        }
        let result = match result {
            Err(error) if read.form.is_ok() => Err(unreadable(error)),
            _ => verify(&read, result).map_err(damaged),
        };
        events.push(LogEvent::Read { token, result });
        true
    }
}

fn verify(read: &Pending, result: &Result<LogReply, IoFault>) -> Result<Record, String> {
    let form = read.form?;
    let Ok(LogReply::Data(data)) = result else { return Err(unexpected("read", result)) };
    record(form, read.ptr.offset, read.len, data)
}

fn record(form: Form, offset: u64, len: u32, data: &Bytes) -> Result<Record, String> {
    if data.len() as u64 != u64::from(len) {
        return Err(format!("only {} of {len} bytes are there", data.len()));
    }
    let seal = match form {
        Form::Own(seal) => seal,
        Form::Original(_) => return v1::record::decode(data),
    };
    let record = decode_record(seal, offset, data)?;
    if record_len(&record) as u64 != u64::from(len) {
        return Err(format!("the record has {} bytes, not {len}", record_len(&record)));
    }
    Ok(record)
}
