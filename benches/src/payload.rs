//! The binlogs that are written, as a TiDB writes them: P with a row mutation of the wanted size, C without it.

use binlog_core::proto::binlog::{Binlog, BinlogType, PrewriteValue, TableMutation};
use bytes::Bytes;
use prost::Message;

/// The same row change for every transaction; only the timestamps differ.
#[derive(Debug, Clone)]
pub struct Payloads {
    key: Bytes,
    value: Bytes,
}

impl Payloads {
    /// P of `size` bytes.
    #[must_use]
    pub fn of_size(size: usize) -> Self {
        let mut payloads =
            Self { key: Bytes::from_static(b"t\x80\0\0\0\0\0\0\x2d_r\x80\0\0\0\0\0\0\x07"), value: Bytes::new() };
        let empty = payloads.prewrite(START).len();
        // Shrinks by what the lengths around it take.
        for row in (0..=size.saturating_sub(empty)).rev().take(64) {
            payloads.value = mutation(row);
            if payloads.prewrite(START).len() <= size {
                break;
            }
        }
        payloads
    }

    #[must_use]
    pub fn prewrite(&self, start_ts: u64) -> Bytes {
        let binlog = Binlog {
            tp: BinlogType::Prewrite.into(),
            start_ts: start_ts.cast_signed(),
            prewrite_key: Some(self.key.clone()),
            prewrite_value: Some(self.value.clone()),
            ..Binlog::default()
        };
        binlog.encode_to_vec().into()
    }

    #[must_use]
    pub fn commit(&self, start_ts: u64, commit_ts: u64) -> Bytes {
        let binlog = Binlog {
            tp: BinlogType::Commit.into(),
            start_ts: start_ts.cast_signed(),
            commit_ts: commit_ts.cast_signed(),
            prewrite_key: Some(self.key.clone()),
            ..Binlog::default()
        };
        binlog.encode_to_vec().into()
    }
}

/// A timestamp as long as today's.
const START: u64 = 470_000_000_000_000_000;

/// One inserted row of `len` bytes that no compression shrinks.
fn mutation(len: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let row: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    })
    .take(len)
    .collect();
    let table =
        TableMutation { table_id: 45, inserted_rows: vec![row.into()], sequence: vec![0], ..TableMutation::default() };
    PrewriteValue { schema_version: 30, mutations: vec![table] }.encode_to_vec().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use binlog_core::binlog::peek::peek;

    #[test]
    fn sizes_and_timestamps_are_as_wanted() {
        for size in [200, 1_024, 10_240, 102_400] {
            let payloads = Payloads::of_size(size);
            let prewrite = payloads.prewrite(START + 5);
            assert!((size - 4..=size).contains(&prewrite.len()), "{} bytes instead of {size}", prewrite.len());
            let seen = peek(&prewrite).unwrap();
            assert_eq!((seen.tp, seen.start_ts, seen.unknown_fields), (0, START.cast_signed() + 5, false));
            let seen = peek(&payloads.commit(START, START + 1)).unwrap();
            assert_eq!((seen.tp, seen.start_ts, seen.commit_ts), (1, START.cast_signed(), START.cast_signed() + 1));
        }
    }
}
