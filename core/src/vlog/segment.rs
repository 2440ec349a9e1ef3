//! Making a segment: the one way in which bytes become durable ([`Flush`]), and the preparation of a slot for a new segment
//! ([`Preparing`]): the file, its directory entry and its header are durable before the first batch is written (rules 2).
//! Used by recovery (the segment that continues the log) and by the writer (the next one).

use super::format::{FIRST_BATCH, Owner, Seal, encode_headers};
use super::log::LogOps;
use super::op::{LogOp, LogReply};
use crate::canary::{self, Canary};
use crate::fault::{Fault, IoFault};
use crate::ids::{OpId, SegmentId, SlotId};
use bytes::Bytes;

/// A write and the sync behind it, both asked for at once; the port carries them out in order.
#[derive(Debug)]
pub(super) struct Flush {
    write: OpId,
    sync: OpId,
    written: bool,
}

/// What a completion meant for a [`Flush`]. After `Durable` or `Failed` it is over: what still comes is ignored.
#[derive(Debug)]
pub(super) enum Flushed {
    NotMine,
    Written,
    Durable,
    Failed(String),
}

impl Flush {
    pub fn start(slot: SlotId, offset: u64, parts: Vec<Bytes>, ops: &mut LogOps<'_>) -> Self {
        Self::start_overlapped(slot, offset, parts, None, ops)
    }

    /// `early`: another write between the two, which is the mutation `overlap-next-batch`; `None` in every real build.
    pub fn start_overlapped(
        slot: SlotId,
        offset: u64,
        parts: Vec<Bytes>,
        early: Option<(u64, Vec<Bytes>)>,
        ops: &mut LogOps<'_>,
    ) -> Self {
        let write = ops.push(LogOp::Write { slot, offset, parts });
        if let Some((offset, parts)) = early {
            ops.push(LogOp::Write { slot, offset, parts });
        }
        let sync = ops.push(LogOp::Sync { slot });
        Self { write, sync, written: false }
    }

    pub fn handle(&mut self, op: OpId, result: &Result<LogReply, IoFault>) -> Flushed {
        if op == self.write && !self.written {
            return match result {
                Ok(LogReply::Written) => {
                    self.written = true;
                    Flushed::Written
                }
                other => Flushed::Failed(unexpected("write", other)),
            };
        }
        if op != self.sync {
            return Flushed::NotMine;
        }
        if canary::is(Canary::RetryFailedSync) && matches!(result, Err(IoFault::Other(_))) {
            return Flushed::Durable;
        }
        match result {
            // A sync that overtook its write says nothing about the write.
            Ok(LogReply::Synced) if self.written => Flushed::Durable,
            Ok(LogReply::Synced) => Flushed::Failed("sync was answered before its write".to_owned()),
            other => Flushed::Failed(unexpected("sync", other)),
        }
    }
}

/// Text for a completion that is not the one asked for.
pub(super) fn unexpected(what: &str, result: &Result<LogReply, IoFault>) -> String {
    match result {
        Err(fault) => format!("{what}: {fault}"),
        Ok(_) => format!("{what}: the port answered another question"),
    }
}

/// A slot on its way to carry a segment.
#[derive(Debug)]
pub(super) struct Preparing {
    pub seal: Seal,
    pub slot: SlotId,
    owner: Owner,
    step: Step,
}

#[derive(Debug)]
enum Step {
    Create(OpId),
    Header(Flush),
}

#[derive(Debug)]
pub(super) enum Prepared {
    NotMine,
    Going,
    /// Header and directory entry are durable; the first batch may be written at [`FIRST_BATCH`].
    Ready,
    Failed(Fault),
}

/// Where a new segment shall lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// A file that does not exist yet.
    New(SlotId),
    /// A file whose contents are of no use any more.
    Reuse(SlotId),
}

impl Preparing {
    pub fn start(target: Target, seal: Seal, owner: Owner, ops: &mut LogOps<'_>) -> Self {
        let (slot, step) = match target {
            Target::New(slot) => (slot, Step::Create(ops.push(LogOp::Create { slot }))),
            Target::Reuse(slot) => (slot, Step::Header(write_header(slot, seal, owner, ops))),
        };
        Self { seal, slot, owner, step }
    }

    pub fn handle(&mut self, op: OpId, result: &Result<LogReply, IoFault>, ops: &mut LogOps<'_>) -> Prepared {
        match &mut self.step {
            Step::Create(create) if *create == op => match result {
                Ok(LogReply::Created) => {
                    self.step = Step::Header(write_header(self.slot, self.seal, self.owner, ops));
                    Prepared::Going
                }
                other => Prepared::Failed(write_failed(self.seal.segment, unexpected("create", other))),
            },
            Step::Create(_) => Prepared::NotMine,
            Step::Header(flush) => match flush.handle(op, result) {
                Flushed::NotMine => Prepared::NotMine,
                Flushed::Written => Prepared::Going,
                Flushed::Durable => Prepared::Ready,
                Flushed::Failed(what) => Prepared::Failed(write_failed(self.seal.segment, what)),
            },
        }
    }
}

fn write_header(slot: SlotId, seal: Seal, owner: Owner, ops: &mut LogOps<'_>) -> Flush {
    let header = encode_headers(owner, seal);
    debug_assert_eq!(header.len() as u64, FIRST_BATCH);
    Flush::start(slot, 0, vec![header], ops)
}

pub(super) fn write_failed(segment: SegmentId, what: String) -> Fault {
    Fault::WriteFailed { segment, what }
}

/// Salts of new segments (splitmix64): they only have to differ between the lives of one slot.
#[derive(Debug, Clone)]
pub(super) struct Salts(u64);

impl Salts {
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
