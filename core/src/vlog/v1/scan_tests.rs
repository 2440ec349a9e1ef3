//! The cases of the original's own tests (spec pump 10, "log file"), and noise.

use super::super::record::{encode, encode_footer};
use super::*;
use proptest::prelude::*;

type Range = (u64, u64);

/// Scans from `at`; at most `piece` bytes are given at a time, except where more is asked for one record.
fn scan_from(file: &[u8], at: u64, piece: u64) -> (Vec<(u64, Vec<u8>)>, Vec<Range>) {
    let mut scanner = Scanner::new(at, file.len() as u64);
    let (mut records, mut skipped) = (Vec::new(), Vec::new());
    let mut last: Option<(u64, u64)> = None;
    loop {
        match scanner.step() {
            Step::End => break,
            Step::Record { offset, payload } => records.push((offset, payload.to_vec())),
            Step::Skipped { from, to, tail } => {
                assert!(from < to && tail.len() == FOOTER.min((to - from) as usize));
                assert!(file[..to as usize].ends_with(&tail));
                skipped.push((from, to));
            }
            Step::Need { offset, len } => {
                assert!(len <= file.len() as u64 && offset + len <= file.len() as u64, "asks for what is not there");
                // A second request at the same place is for one whole record.
                let cut = if last.is_some_and(|(o, _)| o == offset) { len } else { len.min(piece.max(16)) };
                last = Some((offset, cut));
                let (from, to) = (offset as usize, (offset + cut) as usize);
                // A short answer would mean the end of the file: `asked` is what was cut to.
                scanner.feed(Bytes::copy_from_slice(&file[from..to]), cut);
            }
        }
    }
    (records, skipped)
}

fn scan(file: &[u8]) -> (Vec<(u64, Vec<u8>)>, Vec<Range>) {
    scan_from(file, 0, PIECE)
}

#[test]
fn from_every_offset_of_record_junk_record() {
    let (first, second) = (encode(b"the first"), encode(b"the second"));
    let junk = b"junk with half a magic \xe8\x56\x3a";
    let file = [&first[..], junk, &second].concat();
    let at = (first.len() + junk.len()) as u64;
    for from in 0..=file.len() as u64 {
        for piece in [16, 17, 40, PIECE] {
            let (records, skipped) = scan_from(&file, from, piece);
            let starts: Vec<u64> = records.iter().map(|(at, _)| *at).collect();
            let expected: &[u64] = match from {
                0 => &[0, at],
                _ if from <= at => &[at],
                _ => &[],
            };
            assert_eq!(starts, expected, "from {from}, pieces of {piece}");
            let garbage: &[Range] = match from {
                0 => &[(first.len() as u64, at)],
                _ if from == at || from == file.len() as u64 => &[],
                _ if from < at => &[(from, at)],
                _ => &[(from, file.len() as u64)],
            };
            assert_eq!(skipped, garbage, "from {from}, pieces of {piece}");
        }
    }
}

#[test]
fn a_truncated_first_record_hides_only_itself() {
    let (first, second) = (encode(b"the first record"), encode(b"the second"));
    for cut in 0..first.len() {
        let file = [&first[..cut], &second].concat();
        let (records, skipped) = scan(&file);
        assert_eq!(records, [(cut as u64, b"the second".to_vec())], "cut at {cut}");
        assert_eq!(skipped, if cut == 0 { vec![] } else { vec![(0, cut as u64)] });
    }
}

#[test]
fn every_second_of_a_hundred_is_truncated() {
    let mut file = Vec::new();
    let mut intact = Vec::new();
    for n in 0..100_usize {
        let payload = vec![n as u8; 1 + n * 37 % 300];
        let mut record = encode(&payload);
        if n % 2 == 1 {
            record.truncate(1 + n * 13 % (record.len() - 1));
        } else {
            intact.push((file.len() as u64, payload));
        }
        file.extend(record);
    }
    for piece in [16, 100, 1000, PIECE] {
        let (records, skipped) = scan_from(&file, 0, piece);
        assert_eq!(records, intact);
        assert_eq!(skipped.len(), 50);
    }
}

#[test]
fn the_end_while_searching_is_no_error() {
    for file in
        [&b""[..], b"x", b"no record at all, for a while", &MAGIC, &[MAGIC, MAGIC, MAGIC, MAGIC, MAGIC].concat()]
    {
        let (records, skipped) = scan(file);
        assert!(records.is_empty());
        assert_eq!(skipped, if file.is_empty() { vec![] } else { vec![(0, file.len() as u64)] });
    }
}

/// Trap T37: the length is looked at before anything is asked for.
#[test]
fn a_wild_length_asks_for_nothing() {
    let second = encode(b"behind it");
    for len in [u64::MAX, u64::from(u32::MAX), 1 << 40, 26, 1000] {
        let mut wild = encode(b"x");
        wild[4..12].copy_from_slice(&len.to_le_bytes());
        let file = [&wild[..], &second].concat();
        let (records, _) = scan(&file);
        assert_eq!(records, [(wild.len() as u64, b"behind it".to_vec())], "{len}");
    }
}

#[test]
fn a_record_larger_than_a_piece_is_read_at_once() {
    let large = vec![7; PIECE as usize + 12_345];
    let file = [encode(b"a"), encode(&large), encode(b"b")].concat();
    let (records, skipped) = scan(&file);
    assert!(skipped.is_empty());
    assert_eq!(records.iter().map(|(_, payload)| payload.len()).collect::<Vec<_>>(), [1, large.len(), 1]);
}

#[test]
fn a_footer_is_handed_out_as_garbage_with_its_bytes() {
    let footer = encode_footer(77);
    let file = [encode(b"a"), b"junk".to_vec(), footer.clone()].concat();
    let mut scanner = Scanner::new(0, file.len() as u64);
    let mut tails = Vec::new();
    loop {
        match scanner.step() {
            Step::Need { len, .. } => scanner.feed(Bytes::from(file.clone()), len),
            Step::Skipped { tail, to, .. } => tails.push((to, tail)),
            Step::Record { .. } => {}
            Step::End => break,
        }
    }
    assert_eq!(tails, [(file.len() as u64, footer)]);
}

#[test]
fn a_file_that_became_shorter_ends_where_it_ends() {
    let record = encode(b"there");
    let mut scanner = Scanner::new(0, 1 << 30);
    let Step::Need { len, .. } = scanner.step() else { panic!("it needs bytes") };
    scanner.feed(Bytes::from(record), len);
    assert!(matches!(scanner.step(), Step::Record { .. }));
    assert_eq!(scanner.step(), Step::End);
}

proptest! {
    /// Records are found whatever lies between them, as long as it holds no record; pieces do not matter.
    #[test]
    fn records_between_garbage(
        parts in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..60), proptest::collection::vec(any::<u8>(), 0..40)), 0..12),
        piece in 16_u64..200,
    ) {
        let mut file = Vec::new();
        let mut expected = Vec::new();
        for (junk, payload) in parts {
            file.extend(junk);
            expected.push((file.len() as u64, payload.clone()));
            file.extend(encode(&payload));
        }
        let whole = scan(&file);
        prop_assert_eq!(&whole.0, &expected);
        prop_assert_eq!(scan_from(&file, 0, piece), whole);
    }

    #[test]
    fn noise_ends(mut file in proptest::collection::vec(any::<u8>(), 0..300), at in 0_usize..300) {
        if at + 4 < file.len() {
            file[at..at + 4].copy_from_slice(&MAGIC);
        }
        let (records, skipped) = scan(&file);
        let bytes = records.iter().map(|(_, p)| (HEADER + p.len()) as u64).sum::<u64>();
        prop_assert_eq!(bytes + skipped.iter().map(|(from, to)| to - from).sum::<u64>(), file.len() as u64);
    }
}
