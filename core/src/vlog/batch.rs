//! A batch: what one flush writes (rules 2). Encodes records for the place where they will lie, takes them apart again, and
//! folds them into what the next `SegmentStart` has to say. Used by the writer, by recovery and by the scanner.

use super::format::{
    BATCH_HEADER, BatchHeader, RECORD_HEADER, Seal, SegmentStart, align_up, decode_record, encode_batch_header,
    encode_record_header, to_usize,
};
use super::log::{BatchSeq, Placed};
use super::record::{Record, RecordKind};
use crate::ids::{CommitTs, LogPtr, SegmentId};
use bytes::{Bytes, BytesMut};

/// A batch as bytes for one place in one segment.
#[derive(Debug)]
pub(super) struct Encoded {
    pub parts: Vec<Bytes>,
    /// The given records, without the `SegmentStart`.
    pub placed: Vec<Placed>,
    /// Where the next batch begins.
    pub end: u64,
}

/// Bytes of one record on disk.
pub(super) fn record_len(record: &Record) -> usize {
    RECORD_HEADER + record.payload.len()
}

/// Bytes that a batch takes on disk, padding included, when its records take `records` bytes.
pub(super) fn disk_len(records: u64) -> u64 {
    align_up(records.saturating_add(BATCH_HEADER as u64))
}

/// Lays out `start` (for the first batch of a segment) and `records` at `offset` of the segment of `seal`.
pub(super) fn encode(
    seal: Seal,
    offset: u64,
    seq: BatchSeq,
    start: Option<SegmentStart>,
    records: &[Record],
) -> Encoded {
    let start = start.map(SegmentStart::to_record);
    let all = || start.iter().chain(records);
    let payload_len: u64 = all().map(|r| record_len(r) as u64).sum();
    let count = u32::try_from(all().count()).unwrap_or(u32::MAX);
    let copied: usize = all().map(|r| if is_shared(r) { RECORD_HEADER } else { record_len(r) }).sum();

    let mut out = BytesMut::with_capacity(copied + BATCH_HEADER + to_usize(super::format::BLOCK));
    let mut parts = Vec::new();
    let mut placed = Vec::with_capacity(records.len());
    encode_batch_header(seal, offset, BatchHeader { seq, payload_len, count }, &mut out);
    let mut at = offset + BATCH_HEADER as u64;
    for record in all() {
        encode_record_header(seal, at, record, &mut out);
        if is_shared(record) {
            parts.push(out.split().freeze());
            parts.push(record.payload.clone());
        } else {
            out.extend_from_slice(&record.payload);
        }
        if record.kind != RecordKind::SegmentStart {
            placed.push(place(LogPtr { segment: seal.segment, offset: at }, record));
        }
        at += record_len(record) as u64;
    }
    let end = align_up(at);
    out.resize(out.len() + to_usize(end - at), 0);
    if !out.is_empty() {
        parts.push(out.freeze());
    }
    Encoded { parts, placed, end }
}

/// The records of the batch at `offset`, whose bytes (header included, padding not) are `bytes`, with their offsets.
/// The error says what does not verify.
pub(super) fn decode(
    seal: Seal,
    offset: u64,
    header: BatchHeader,
    bytes: &Bytes,
) -> Result<Vec<(u64, Record)>, &'static str> {
    let mut records = Vec::new();
    let mut at = BATCH_HEADER;
    while at < bytes.len() {
        let position = offset + at as u64;
        let record = decode_record(seal, position, &bytes.slice(at..))?;
        at += record_len(&record);
        records.push((position, record));
    }
    if u32::try_from(records.len()) != Ok(header.count) {
        return Err("batch does not hold as many records as its header says");
    }
    Ok(records)
}

pub(super) fn place(ptr: LogPtr, record: &Record) -> Placed {
    Placed {
        ptr,
        len: u32::try_from(record_len(record)).unwrap_or(u32::MAX),
        kind: record.kind,
        start_ts: record.start_ts,
        commit_ts: record.commit_ts,
    }
}

/// What the records of the newest segment add up to: the next `SegmentStart` is made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Fold {
    /// Largest timestamp in this segment.
    pub largest_ts: u64,
    pub gc: CommitTs,
    pub first_live: SegmentId,
}

impl Fold {
    pub fn take(&mut self, record: &Record) {
        if let Some(start) = SegmentStart::from_record(record) {
            *self = Self { largest_ts: 0, gc: start.gc, first_live: start.first_live };
            return;
        }
        self.largest_ts = self.largest_ts.max(record.start_ts.raw()).max(record.commit_ts.raw());
        if let Some((point, first_live)) = record.as_gc() {
            self.gc = self.gc.max(point);
            self.first_live = self.first_live.max(first_live);
        }
    }
}

/// From this size on a payload is handed to the port as it is; below, one copy is cheaper than one more vector element.
const SHARED_FROM: usize = 16 << 10;

fn is_shared(record: &Record) -> bool {
    record.payload.len() >= SHARED_FROM
}

#[cfg(test)]
mod tests {
    use super::super::format::decode_batch_header;
    use super::*;
    use crate::ids::StartTs;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip_and_any_cut_shows(
            sizes in proptest::collection::vec(prop_oneof![0usize..100, 16_000usize..17_000], 0..6),
            start in any::<bool>(), cut in any::<proptest::sample::Index>(),
        ) {
            let seal = Seal { segment: SegmentId::new(4), salt: 9 };
            let records: Vec<_> = sizes.iter().enumerate().map(|(i, size)| Record {
                kind: RecordKind::Commit, start_ts: StartTs::new(i as u64), commit_ts: CommitTs::new(100 + i as u64),
                payload: vec![i as u8; *size].into(),
            }).collect();
            let start = start.then_some(SegmentStart {
                previous: SegmentId::new(3), previous_end: 8192, last_seq: BatchSeq(4), largest_ts: 1,
                first_live: SegmentId::new(2), gc: CommitTs::new(1),
            });
            let encoded = encode(seal, 8192, BatchSeq(5), start, &records);
            let bytes: Vec<u8> = encoded.parts.concat();
            prop_assert_eq!(bytes.len() as u64, encoded.end - 8192);
            prop_assert_eq!(bytes.len() % 4096, 0);
            let header = decode_batch_header(seal, 8192, &bytes).unwrap();
            let bytes = Bytes::from(bytes).slice(..BATCH_HEADER + header.payload_len as usize);
            prop_assert_eq!(disk_len(header.payload_len), encoded.end - 8192);
            let back = decode(seal, 8192, header, &bytes).unwrap();
            let skip = usize::from(start.is_some());
            prop_assert_eq!(back.iter().skip(skip).map(|(_, r)| r.clone()).collect::<Vec<_>>(), records);
            for ((offset, record), placed) in back.iter().skip(skip).zip(&encoded.placed) {
                prop_assert_eq!(place(LogPtr { segment: seal.segment, offset: *offset }, record), *placed);
            }
            if !back.is_empty() {
                let cut = BATCH_HEADER + cut.index(bytes.len() - BATCH_HEADER);
                prop_assert!(decode(seal, 8192, header, &bytes.slice(..cut)).is_err());
            }
        }
    }
}
