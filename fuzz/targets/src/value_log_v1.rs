//! A value log of the original with arbitrary bytes: the scan ends, covers every byte once, asks for nothing that is not there, finds the
//! same whatever it is fed in one go, and every record that it finds is found by a read of its own.

use binlog_core::vlog::v1::record::{HEADER, decode, meaning};
use binlog_core::vlog::v1::scan::{Scanner, Step};
use bytes::Bytes;

pub fn value_log_v1(bytes: &[u8]) {
    let file = Bytes::copy_from_slice(bytes);
    let records = scan(&file, u64::MAX);
    for (offset, payload) in &records {
        let from = usize::try_from(*offset).unwrap_or(usize::MAX);
        let Some(raw) = from.checked_add(HEADER + payload.len()).filter(|end| *end <= file.len()) else {
            panic!("a record at {offset} reaches beyond its file")
        };
        // A read of its own accepts it exactly if it means something.
        let means = meaning(payload.clone()).is_ok_and(|meaning| meaning.is_some());
        assert_eq!(decode(&file.slice(from..raw)).is_ok(), means, "record at {offset}");
    }
    assert!(scan(&file, 64) == records, "the pieces change what is found");
}

/// All records; at most `piece` bytes are given at first, and what is asked for when it is asked again at the same place.
fn scan(file: &Bytes, piece: u64) -> Vec<(u64, Bytes)> {
    let len = file.len() as u64;
    let mut scanner = Scanner::new(0, len);
    let (mut records, mut covered, mut last) = (Vec::new(), 0, None);
    loop {
        match scanner.step() {
            Step::End => break,
            Step::Record { offset, payload } => {
                assert_eq!(offset, covered, "a gap before a record");
                covered += (HEADER + payload.len()) as u64;
                records.push((offset, payload));
            }
            Step::Skipped { from, to, tail } => {
                assert!(from == covered && to > from, "garbage from {from} to {to} behind {covered}");
                let end = usize::try_from(to).unwrap_or(usize::MAX);
                assert!(file.get(..end).is_some_and(|head| head.ends_with(&tail)), "other bytes than were skipped");
                covered = to;
            }
            Step::Need { offset, len: asked } => {
                assert!(
                    asked > 0 && offset.saturating_add(asked) <= len,
                    "asks for {asked} bytes at {offset} of {len}"
                );
                let given = if last == Some(offset) { asked } else { asked.min(piece) };
                last = Some(offset);
                let range = usize::try_from(offset).unwrap_or(usize::MAX)
                    ..usize::try_from(offset + given).unwrap_or(usize::MAX);
                scanner.feed(file.slice(range), given);
            }
        }
    }
    assert_eq!(covered, len, "every byte is a record or garbage");
    records
}

#[cfg(test)]
mod tests {
    use super::*;
    use binlog_core::vlog::v1::record::encode;

    #[test]
    fn a_log_with_garbage_is_understood() {
        let file = [encode(b"\x08\x00\x10\x05"), b"junk".to_vec(), encode(b"\x08\x01\x10\x05\x18\x06")].concat();
        assert_eq!(scan(&Bytes::from(file.clone()), u64::MAX).len(), 2);
        value_log_v1(&file);
    }
}
