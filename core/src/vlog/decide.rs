//! The decision of recovery about the end of the log (rules 2): a pure function of what was found, tested as a table.
//! Called once by `recovery` when everything that counts has been read.

use super::log::{BatchSeq, IndexClaims};
use crate::canary::{self, Canary};
use crate::fault::Fault;
use crate::ids::LogPtr;

/// The last valid batch of the newest segment that begins with a valid batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LastBatch {
    pub start: LogPtr,
    /// End of the batch, which is the end of the log as found.
    pub end: u64,
    pub seq: BatchSeq,
    /// It is the one that begins its segment.
    pub first: bool,
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// `None`: no segment begins with a valid batch.
    pub last: Option<LastBatch>,
    /// Sequence of a batch whose header alone is valid, at the beginning of a segment above the newest. Its bytes were
    /// handed to the disk only after the batch before it was durable.
    pub torn: Option<(LogPtr, BatchSeq)>,
    pub claims: IndexClaims,
}

/// How the log continues. Always in a new segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// There is no log: segment 1 begins one.
    First,
    /// The last batch is durable: previous end is its end.
    Keep,
    /// The last batch can be read, but perhaps only from memory: previous end is its start, its records are copied.
    Copy,
    /// As `Copy`, and it was its segment's first batch: that segment is void, what it said about its predecessor is
    /// inherited.
    CopyAndVoid,
}

pub(super) fn decide(found: &Found) -> Result<Verdict, Fault> {
    let indexed = found.claims.indexed_end.unwrap_or_default();
    let end = found.last.map_or(LogPtr::default(), |last| LogPtr { offset: last.end, ..last.start });
    // The index holds only what was durable: more than the log has is lost data, never a tail to repair.
    if indexed > end {
        return Err(Fault::LogBehindIndex { indexed, recovered: end });
    }
    if let Some((at, seq)) = found.torn
        && seq.0 > found.last.map_or(0, |last| last.seq.0) + 1
    {
        let what = format!(
            "batch {} was begun here, so the batch before it was durable, but the log ends with batch {}",
            seq.0,
            found.last.map_or(0, |last| last.seq.0)
        );
        return Err(Fault::LogDamaged { segment: at.segment, offset: at.offset, what });
    }
    Ok(match found.last {
        None => Verdict::First,
        // Also in the middle of the batch: a batch is durable as a whole or not at all.
        Some(last) if indexed > last.start || canary::is(Canary::ServeUnprovenTail) => Verdict::Keep,
        Some(last) if last.first => Verdict::CopyAndVoid,
        Some(_) => Verdict::Copy,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SegmentId;

    /// Newest segment 3; its last batch, 9, lies from 12288 to 20480 (or from 8192 when it is the first). All that decides
    /// is enumerated: log found, first batch or not, index claim, torn batch above.
    const TABLE: &str = "
        last  | indexed       | torn | verdict
        none  | none          | none | First
        none  | none          | 1    | First
        none  | none          | 2    | damaged
        none  | below         | none | behind
        none  | below         | 1    | behind
        none  | below         | 2    | behind
        later | none          | none | Copy
        later | below         | none | Copy
        later | start         | none | Copy
        later | inside        | none | Keep
        later | end           | none | Keep
        later | beyond        | none | behind
        later | next-segment  | none | behind
        later | none          | 9    | Copy
        later | below         | 9    | Copy
        later | start         | 9    | Copy
        later | inside        | 9    | Keep
        later | end           | 9    | Keep
        later | none          | 10   | Copy
        later | below         | 10   | Copy
        later | start         | 10   | Copy
        later | inside        | 10   | Keep
        later | end           | 10   | Keep
        later | beyond        | 10   | behind
        later | next-segment  | 10   | behind
        later | none          | 11   | damaged
        later | below         | 11   | damaged
        later | start         | 11   | damaged
        later | inside        | 11   | damaged
        later | end           | 11   | damaged
        later | beyond        | 11   | behind
        first | none          | none | CopyAndVoid
        first | below         | none | CopyAndVoid
        first | start         | none | CopyAndVoid
        first | inside        | none | Keep
        first | end           | none | Keep
        first | beyond        | none | behind
        first | next-segment  | none | behind
        first | none          | 10   | CopyAndVoid
        first | below         | 10   | CopyAndVoid
        first | start         | 10   | CopyAndVoid
        first | end           | 10   | Keep
        first | none          | 11   | damaged
        first | end           | 11   | damaged
    ";

    #[test]
    fn table() {
        let ptr = |segment, offset| LogPtr { segment: SegmentId::new(segment), offset };
        for line in TABLE.trim().lines().skip(1) {
            let cells: Vec<_> = line.split('|').map(str::trim).collect();
            let first = cells[0] == "first";
            let start = if first { 8192 } else { 12288 };
            let last =
                (cells[0] != "none").then(|| LastBatch { start: ptr(3, start), end: 20480, seq: BatchSeq(9), first });
            let indexed_end = match cells[1] {
                "none" => None,
                "below" => Some(ptr(2, 1 << 30)),
                "start" => Some(ptr(3, start)),
                "inside" => Some(ptr(3, start + 100)),
                "end" => Some(ptr(3, 20480)),
                "beyond" => Some(ptr(3, 24576)),
                "next-segment" => Some(ptr(4, 8192)),
                other => panic!("{other}"),
            };
            let torn = cells[2].parse().ok().map(|seq| (ptr(5, 8192), BatchSeq(seq)));
            let claims = IndexClaims { indexed_end, flushed_end: None };
            let got = match decide(&Found { last, torn, claims }) {
                Ok(verdict) => format!("{verdict:?}"),
                Err(Fault::LogBehindIndex { .. }) => "behind".to_owned(),
                Err(Fault::LogDamaged { .. }) => "damaged".to_owned(),
                Err(other) => other.to_string(),
            };
            assert_eq!(got, cells[3], "{line}");
        }
    }
}
