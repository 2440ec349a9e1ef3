//! Broken input: vectors cut, flipped, extended and spliced, through every entry point. Nothing may panic, recurse without
//! bound or disagree with itself (memory: `../codec_memory.rs`).

use super::entry;
use super::support::unhex;
use proptest::prelude::*;
use serde_json::Value;

/// All byte strings of the vector file, nested ones too.
pub fn seeds() -> Vec<Vec<u8>> {
    fn collect(value: &Value, out: &mut Vec<Vec<u8>>) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    match value {
                        Value::String(text) if key.ends_with("hex") => out.push(unhex(text)),
                        other => collect(other, out),
                    }
                }
            }
            Value::Array(list) => list.iter().for_each(|v| collect(v, out)),
            _ => {}
        }
    }
    let file: Value = serde_json::from_str(include_str!("../data/codec_vectors.json")).unwrap();
    let mut out = Vec::new();
    collect(&file["vectors"], &mut out);
    out
}

fn all(bytes: &[u8]) {
    entry::peek(bytes);
    entry::datum(bytes);
    entry::row(bytes);
    entry::json(bytes);
    entry::prewrite(bytes);
}

#[test]
fn seeds_pass_through_every_entry_point() {
    let seeds = seeds();
    assert!(seeds.len() > 400, "{} seeds", seeds.len());
    for seed in &seeds {
        all(seed);
        for end in 0..seed.len() {
            all(&seed[..end]);
        }
    }
}

/// One change to a byte string.
#[derive(Debug, Clone)]
enum Change {
    Flip(usize, u8),
    Set(usize, u8),
    Cut(usize),
    Insert(usize, Vec<u8>),
    Repeat(usize, usize),
    Splice(usize, usize),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let interesting = prop_oneof![Just(0x00_u8), Just(0x7f), Just(0x80), Just(0xff), Just(0x08), any::<u8>()];
    let change = prop_oneof![
        4 => (any::<usize>(), 0_u32..8).prop_map(|(at, bit)| Change::Flip(at, 1 << bit)),
        4 => (any::<usize>(), interesting).prop_map(|(at, byte)| Change::Set(at, byte)),
        1 => any::<usize>().prop_map(Change::Cut),
        1 => (any::<usize>(), proptest::collection::vec(any::<u8>(), 1..6)).prop_map(|(at, b)| Change::Insert(at, b)),
        1 => (any::<usize>(), 1_usize..6).prop_map(|(at, times)| Change::Repeat(at, times)),
        2 => (any::<usize>(), any::<usize>()).prop_map(|(at, other)| Change::Splice(at, other)),
    ];
    proptest::collection::vec(change, 1..5)
}

fn apply(mut bytes: Vec<u8>, changes: &[Change], seeds: &[Vec<u8>]) -> Vec<u8> {
    for change in changes {
        let length = bytes.len();
        let place = |at: usize| at % (length + 1);
        match change {
            Change::Flip(at, mask) => bytes.iter_mut().skip(place(*at)).take(1).for_each(|b| *b ^= mask),
            Change::Set(at, byte) => bytes.iter_mut().skip(place(*at)).take(1).for_each(|b| *b = *byte),
            Change::Cut(at) => bytes.truncate(place(*at)),
            Change::Insert(at, more) => drop(bytes.splice(place(*at)..place(*at), more.iter().copied())),
            Change::Repeat(at, times) => bytes.extend(bytes[place(*at)..].repeat(*times)),
            Change::Splice(at, other) => {
                bytes.truncate(place(*at));
                let other = &seeds[other % seeds.len()];
                bytes.extend_from_slice(&other[at % (other.len() + 1)..]);
            }
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn mutated_vectors(seed: prop::sample::Index, changes in changes()) {
        thread_local! { static SEEDS: Vec<Vec<u8>> = seeds(); }
        SEEDS.with(|seeds| all(&apply(seed.get(seeds).clone(), &changes, seeds)));
    }

    #[test]
    fn noise(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        all(&bytes);
    }

    /// Documents of random shape with random offsets and sizes, but plausible headers.
    #[test]
    fn json_of_random_offsets(
        object: bool, entries in proptest::collection::vec((0_u8..0x12, 0_u32..80, 0_u16..9), 0..5), size in 8_u32..120
    ) {
        let mut doc = vec![if object { 1 } else { 3 }];
        doc.extend(u32::try_from(entries.len()).unwrap().to_le_bytes());
        doc.extend(size.to_le_bytes());
        if object {
            for (_, offset, length) in &entries {
                doc.extend(offset.to_le_bytes());
                doc.extend(length.to_le_bytes());
            }
        }
        for (kind, offset, _) in &entries {
            doc.push(*kind);
            doc.extend(offset.to_le_bytes());
        }
        doc.resize(1 + usize::try_from(size).unwrap(), 1);
        entry::json(&doc);
        doc.insert(0, 0x0a);
        entry::datum(&doc);
    }
}
