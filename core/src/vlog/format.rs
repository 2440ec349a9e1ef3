//! Byte layout of a slot file (rules 2): what is written where, and the bounds that a reader checks before it believes a
//! length. All integers are little-endian. Pure functions; nothing here knows files or batches in flight.
//!
//! ```text
//! slot file := header, header, batch*                       header copies at 0 and 4096, first batch at 8192
//! header    := "TBVLOG2\0", version u32, block size u32, node [16], cluster u64, segment u64, salt u64, crc u32, zeros
//! batch     := "TBB2", segment u64, sequence u64, payload length u64, record count u32, 0 u32, crc u32, record*, zeros
//! record    := kind u8, start_ts u64, commit_ts u64, payload length u32, crc u32, payload
//! ```
//! Every checksum (CRC-32C) begins with a seed made of the segment's salt, its id and the offset of the thing itself: bytes
//! of a former life of the slot, an image of a log inside a BLOB and misdirected blocks do not verify.

use super::log::BatchSeq;
use super::record::{Record, RecordKind};
use crate::canary::{self, Canary};
use crate::ids::{ClusterId, CommitTs, SegmentId, StartTs};
use bytes::{BufMut, Bytes, BytesMut};
use crc32c::crc32c_append;

/// Unit in which the disk may tear; every batch begins on a multiple of it, and no durable block is written again.
pub(super) const BLOCK: u64 = 4096;
/// Offset of the first batch: behind the two copies of the header.
pub(super) const FIRST_BATCH: u64 = 2 * BLOCK;
pub(super) const BATCH_HEADER: usize = 40;
/// Bytes in front of a record's payload.
pub const RECORD_HEADER: usize = 25;
/// The largest payload of one record: its length with the header has to fit into 32 bits ([`super::log::Placed::len`]).
pub const MAX_PAYLOAD: usize = u32::MAX as usize - RECORD_HEADER;

const HEADER_MAGIC: &[u8; 8] = b"TBVLOG2\0";
const HEADER_FIELDS: usize = 60;
const VERSION: u32 = 2;
const BATCH_MAGIC: &[u8; 4] = b"TBB2";
const SEGMENT_START_LEN: usize = 48;

/// What seeds the checksums of one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seal {
    pub segment: SegmentId,
    pub salt: u64,
}

impl Seal {
    fn seed(self, offset: u64) -> u32 {
        if canary::is(Canary::SaltIgnored) {
            return 0;
        }
        let seed = crc32c_append(0, &self.salt.to_le_bytes());
        let seed = crc32c_append(seed, &self.segment.raw().to_le_bytes());
        crc32c_append(seed, &offset.to_le_bytes())
    }
}

/// Who owns a log: the same in every header of a data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    pub node: [u8; 16],
    pub cluster: ClusterId,
}

/// Both header copies, ready to be written at offset 0.
pub(super) fn encode_headers(owner: Owner, seal: Seal) -> Bytes {
    let mut copy = BytesMut::with_capacity(to_usize(FIRST_BATCH));
    for _ in 0..2 {
        let begin = copy.len();
        copy.put_slice(HEADER_MAGIC);
        copy.put_u32_le(VERSION);
        copy.put_u32_le(u32::try_from(BLOCK).unwrap_or(u32::MAX));
        copy.put_slice(&owner.node);
        copy.put_u64_le(owner.cluster.raw());
        copy.put_u64_le(seal.segment.raw());
        copy.put_u64_le(seal.salt);
        let crc = crc32c_append(seal.seed(0), copy.get(begin..).unwrap_or_default());
        copy.put_u32_le(crc);
        copy.resize(begin + to_usize(BLOCK), 0);
    }
    copy.freeze()
}

/// What one header copy says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeaderCopy {
    /// Blank, torn or never a header.
    None,
    Valid {
        owner: Owner,
        seal: Seal,
    },
    /// The checksum holds, but another program version wrote it.
    Unsupported {
        version: u32,
        block: u32,
        segment: SegmentId,
    },
}

/// Reads the header copy that begins with `bytes`.
pub(super) fn decode_header(bytes: &[u8]) -> HeaderCopy {
    fn fields(bytes: &[u8]) -> Option<(u32, u32, Owner, Seal)> {
        let covered = bytes.get(..HEADER_FIELDS - 4)?;
        let mut take = Take(bytes);
        if &take.array::<8>()? != HEADER_MAGIC {
            return None;
        }
        let (version, block) = (take.u32()?, take.u32()?);
        let owner = Owner { node: take.array()?, cluster: ClusterId::new(take.u64()?) };
        let seal = Seal { segment: SegmentId::new(take.u64()?), salt: take.u64()? };
        (take.u32()? == crc32c_append(seal.seed(0), covered)).then_some((version, block, owner, seal))
    }
    match fields(bytes) {
        None => HeaderCopy::None,
        Some((version, block, owner, seal)) if version == VERSION && u64::from(block) == BLOCK => {
            HeaderCopy::Valid { owner, seal }
        }
        Some((version, block, _, seal)) => HeaderCopy::Unsupported { version, block, segment: seal.segment },
    }
}

/// The first bytes of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BatchHeader {
    pub seq: BatchSeq,
    /// Bytes of all its records, padding excluded.
    pub payload_len: u64,
    pub count: u32,
}

pub(super) fn encode_batch_header(seal: Seal, offset: u64, header: BatchHeader, out: &mut BytesMut) {
    let begin = out.len();
    out.put_slice(BATCH_MAGIC);
    out.put_u64_le(seal.segment.raw());
    out.put_u64_le(header.seq.0);
    out.put_u64_le(header.payload_len);
    out.put_u32_le(header.count);
    out.put_u32_le(0);
    let crc = crc32c_append(seal.seed(offset), out.get(begin..).unwrap_or_default());
    out.put_u32_le(crc);
}

/// The header of the batch at `offset`, if `bytes` begin with one of this segment.
pub(super) fn decode_batch_header(seal: Seal, offset: u64, bytes: &[u8]) -> Option<BatchHeader> {
    let covered = bytes.get(..BATCH_HEADER - 4)?;
    let mut take = Take(bytes);
    let magic = take.array::<4>()?;
    let own = take.u64()? == seal.segment.raw() || canary::is(Canary::SaltIgnored);
    if &magic != BATCH_MAGIC || !own {
        return None;
    }
    let header = BatchHeader { seq: BatchSeq(take.u64()?), payload_len: take.u64()?, count: take.u32()? };
    let _reserved = take.u32()?;
    (take.u32()? == crc32c_append(seal.seed(offset), covered)).then_some(header)
}

/// Header of the record that will lie at `offset`; the payload follows it.
pub(super) fn encode_record_header(seal: Seal, offset: u64, record: &Record, out: &mut BytesMut) {
    let begin = out.len();
    out.put_u8(record.kind as u8);
    out.put_u64_le(record.start_ts.raw());
    out.put_u64_le(record.commit_ts.raw());
    // `Log::stage` asserts the bound; the checksum would expose a wrong length anyway.
    out.put_u32_le(u32::try_from(record.payload.len()).unwrap_or(u32::MAX));
    let crc = crc32c_append(seal.seed(offset), out.get(begin..).unwrap_or_default());
    out.put_u32_le(crc32c_append(crc, &record.payload));
}

/// The record at `offset`, which begins `bytes`; its payload shares their memory. The error says what does not verify.
pub(super) fn decode_record(seal: Seal, offset: u64, bytes: &Bytes) -> Result<Record, &'static str> {
    const CUT: &str = "record header is cut off";
    let mut take = Take(bytes);
    let kind = take.u8().ok_or(CUT)?;
    let start_ts = StartTs::new(take.u64().ok_or(CUT)?);
    let commit_ts = CommitTs::new(take.u64().ok_or(CUT)?);
    let len = usize::try_from(take.u32().ok_or(CUT)?).map_err(|_| CUT)?;
    let crc = take.u32().ok_or(CUT)?;
    // Bounded by the bytes that are there, before anything is built from it.
    let end = RECORD_HEADER.checked_add(len).filter(|end| *end <= bytes.len());
    let end = end.ok_or("record reaches beyond its batch")?;
    let payload = bytes.slice(RECORD_HEADER..end);
    let own = crc32c_append(seal.seed(offset), bytes.get(..RECORD_HEADER - 4).ok_or(CUT)?);
    if crc32c_append(own, &payload) != crc {
        return Err("record checksum does not match");
    }
    let kind = RecordKind::from_raw(kind).ok_or("record is of an unknown kind")?;
    Ok(Record { kind, start_ts, commit_ts, payload })
}

/// Kind, timestamps and payload length of the record that begins `bytes`, unchecked: for bytes that never left memory.
pub(super) fn decode_record_header(bytes: &[u8]) -> Option<(RecordKind, StartTs, CommitTs, usize)> {
    let mut take = Take(bytes);
    let kind = RecordKind::from_raw(take.u8()?)?;
    let (start_ts, commit_ts) = (StartTs::new(take.u64()?), CommitTs::new(take.u64()?));
    Some((kind, start_ts, commit_ts, usize::try_from(take.u32()?).ok()?))
}

/// Payload of [`RecordKind::SegmentStart`]: what lies before this segment. Bytes of `previous` beyond `previous_end` are
/// never read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentStart {
    /// The segment before, zero for the first of a log.
    pub previous: SegmentId,
    /// End of its last batch that counts.
    pub previous_end: u64,
    /// Sequence of that batch; the batch that carries this record has the next one.
    pub last_seq: BatchSeq,
    /// Largest timestamp in `previous`.
    pub largest_ts: u64,
    /// Oldest segment that GC had not freed.
    pub first_live: SegmentId,
    /// The GC point.
    pub gc: CommitTs,
}

impl SegmentStart {
    pub fn to_record(self) -> Record {
        let mut payload = BytesMut::with_capacity(SEGMENT_START_LEN);
        payload.put_u64_le(self.previous.raw());
        payload.put_u64_le(self.previous_end);
        payload.put_u64_le(self.last_seq.0);
        payload.put_u64_le(self.largest_ts);
        payload.put_u64_le(self.first_live.raw());
        payload.put_u64_le(self.gc.raw());
        Record {
            kind: RecordKind::SegmentStart,
            start_ts: StartTs::ZERO,
            commit_ts: CommitTs::ZERO,
            payload: payload.freeze(),
        }
    }

    pub fn from_record(record: &Record) -> Option<Self> {
        if record.kind != RecordKind::SegmentStart || record.payload.len() != SEGMENT_START_LEN {
            return None;
        }
        let mut take = Take(&record.payload);
        Some(Self {
            previous: SegmentId::new(take.u64()?),
            previous_end: take.u64()?,
            last_seq: BatchSeq(take.u64()?),
            largest_ts: take.u64()?,
            first_live: SegmentId::new(take.u64()?),
            gc: CommitTs::new(take.u64()?),
        })
    }
}

/// Rounds up to a block boundary, saturating.
pub(super) const fn align_up(offset: u64) -> u64 {
    offset.saturating_add(BLOCK - 1) / BLOCK * BLOCK
}

/// For lengths of things that are in memory or bounded by such; saturates where `usize` is narrower.
pub(super) fn to_usize(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

/// Reads fields from the front of a slice; `None` at its end.
struct Take<'a>(&'a [u8]);

impl Take<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SEAL: Seal = Seal { segment: SegmentId::new(7), salt: 0xfeed };
    const OWNER: Owner = Owner { node: [3; 16], cluster: ClusterId::new(99) };

    fn encoded(record: &Record, offset: u64) -> Vec<u8> {
        let mut out = BytesMut::new();
        encode_record_header(SEAL, offset, record, &mut out);
        out.put_slice(&record.payload);
        out.to_vec()
    }

    #[test]
    fn both_header_copies_read_back_and_every_changed_byte_shows() {
        let bytes = encode_headers(OWNER, SEAL);
        assert_eq!(bytes.len(), 8192);
        for at in [0, 4096] {
            assert_eq!(decode_header(&bytes[at..]), HeaderCopy::Valid { owner: OWNER, seal: SEAL });
        }
        for at in 0..HEADER_FIELDS {
            let mut bad = bytes.to_vec();
            bad[at] ^= 0x40;
            assert_eq!(decode_header(&bad), HeaderCopy::None, "byte {at}");
        }
        assert_eq!(decode_header(&[]), HeaderCopy::None);
    }

    #[test]
    fn bounds_are_checked_before_a_length_is_believed() {
        let record = Record {
            kind: RecordKind::Prewrite,
            start_ts: StartTs::new(1),
            commit_ts: CommitTs::ZERO,
            payload: Bytes::from_static(b"abc"),
        };
        let mut bytes = encoded(&record, 8232);
        bytes[17..21].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(decode_record(SEAL, 8232, &bytes.into()), Err("record reaches beyond its batch"));
        assert_eq!(decode_record(SEAL, 8232, &Bytes::from_static(&[2, 0])), Err("record header is cut off"));
    }

    proptest! {
        #[test]
        fn record_round_trip_is_bound_to_salt_segment_and_offset(
            kind in 1u8..=8, start in any::<u64>(), commit in any::<u64>(),
            payload in proptest::collection::vec(any::<u8>(), 0..300), flip in any::<proptest::sample::Index>(),
            offset in 0u64..1 << 40, salt in any::<u64>(),
        ) {
            let record = Record {
                kind: RecordKind::from_raw(kind).unwrap(),
                start_ts: StartTs::new(start),
                commit_ts: CommitTs::new(commit),
                payload: payload.into(),
            };
            let bytes = encoded(&record, offset);
            let mut longer = bytes.clone();
            longer.extend_from_slice(b"what follows");
            prop_assert_eq!(decode_record(SEAL, offset, &longer.into()), Ok(record));
            prop_assert!(decode_record(SEAL, offset + 1, &bytes.clone().into()).is_err());
            if salt != SEAL.salt {
                let other = Seal { salt, ..SEAL };
                prop_assert!(decode_record(other, offset, &bytes.clone().into()).is_err());
            }
            let mut bad = bytes;
            let at = flip.index(bad.len());
            bad[at] ^= 1;
            prop_assert!(decode_record(SEAL, offset, &bad.into()).is_err());
        }

        #[test]
        fn batch_header_round_trip(seq in any::<u64>(), payload_len in any::<u64>(), count in any::<u32>(), at in 0usize..40) {
            let header = BatchHeader { seq: BatchSeq(seq), payload_len, count };
            let mut out = BytesMut::new();
            encode_batch_header(SEAL, 8192, header, &mut out);
            prop_assert_eq!(out.len(), BATCH_HEADER);
            prop_assert_eq!(decode_batch_header(SEAL, 8192, &out), Some(header));
            prop_assert_eq!(decode_batch_header(SEAL, 12288, &out), None);
            out[at] ^= 1;
            prop_assert_eq!(decode_batch_header(SEAL, 8192, &out), None);
        }

        #[test]
        fn segment_start_round_trip(f in any::<[u64; 6]>()) {
            let start = SegmentStart {
                previous: SegmentId::new(f[0]), previous_end: f[1], last_seq: BatchSeq(f[2]),
                largest_ts: f[3], first_live: SegmentId::new(f[4]), gc: CommitTs::new(f[5]),
            };
            prop_assert_eq!(SegmentStart::from_record(&start.to_record()), Some(start));
        }
    }
}
