//! Memory that decoding takes, measured: a small multiple of the input, whatever the input says of lengths and counts.
//! A test binary of its own, because the measure counts everything that its process allocates.

use binlog_core::binlog::{item, peek};
use binlog_core::codec::datum::{self, Datum};
use binlog_core::codec::json::Json;
use binlog_core::codec::json_text::{self, Style};
use binlog_core::codec::mutation::PrewriteValue;
use binlog_core::codec::reader::Reader;
use binlog_core::codec::row::{decode_delete, decode_insert, decode_update};
use binlog_core::codec::{bytes, key, number};
use binlog_core::schema::model::{ColumnInfo, FieldType, TableInfo};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;

#[global_allocator]
static MEMORY: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Growing a vector counts each size that it had, so this is about twice what is held at the end: 56 bytes of a column for
/// the 3 bytes that the shortest pair takes, or six characters for one byte of a string.
const BYTES_PER_INPUT_BYTE: usize = 48;
/// An error's text, the first sizes of vectors, and the id list of the test's table.
const FIXED: usize = 8 * 1024;

fn measured(name: &str, input: &[u8], decode: impl FnOnce(&[u8])) {
    let region = Region::new(MEMORY);
    decode(input);
    let taken = region.change().bytes_allocated;
    let allowed = BYTES_PER_INPUT_BYTE * input.len() + FIXED;
    assert!(taken <= allowed, "{name}: {taken} bytes for an input of {} ({:02x?}…)", input.len(), input.get(..16));
}

fn all(input: &[u8], table: &TableInfo) {
    measured("peek", input, |b| drop(peek::peek(b)));
    measured("unknown fields", input, |b| drop(item::unknown_fields(b)));
    measured("datum", input, |b| drop(datum::decode(&mut Reader::new(b))));
    measured("cut", input, |b| drop(datum::cut(&mut Reader::new(b))));
    measured("bytes", input, |b| drop(bytes::memcomparable(&mut Reader::new(b))));
    measured("key", input, |b| drop(key::parse(b)));
    measured("insert", input, |b| drop(decode_insert(b, table)));
    measured("delete", input, |b| drop(decode_delete(b, table)));
    measured("update", input, |b| drop(decode_update(b, table)));
    measured("json", input, |b| {
        if let Ok(json) = Json::read(&mut Reader::new(b)) {
            let _ = json_text::text(&json, Style::Later);
            let _ = json_text::text(&json, Style::Original);
        }
    });
    measured("prewrite value", input, |b| {
        let Ok(value) = PrewriteValue::decode(b) else { return };
        for mutation in value.mutations().map_while(Result::ok) {
            mutation.rows().map_while(Result::ok).for_each(drop);
        }
    });
}

/// Inputs that claim much and hold little, and such that are long and dense.
fn inputs() -> Vec<Vec<u8>> {
    let mut inputs = vec![
        b"\x02\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01".to_vec(), // bytes of i64::MAX
        b"\x02\xfe\xff\xff\xff\x0f".to_vec(),                     // bytes of 2 GiB
        b"\x06\x51\x1e".to_vec(),                                 // a decimal without its body
        b"\x2a\xff\xff\xff\xff\x07ab".to_vec(),                   // a prewrite value of 2 GiB
        b"\x12\xff\xff\xff\xff\x07ab".to_vec(),
        b"\x0c\xff\xff\xff\xff\x07ab".to_vec(),
        b"\x0a\x03\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(),
        b"\x80\x01\xff\xff\xff\xff\0\0".to_vec(), // a row of format 2 with 131070 columns
        // Dense repetitions.
        b"\x12\x00".repeat(50_000), // empty mutations
        b"\x12\x02\x12\x00".repeat(50_000),
        b"\x38\x00".repeat(50_000), // a sequence without rows
        b"\xa0\x01\x01".repeat(50_000),
        [&b"\x12\xa0\x8d\x06"[..], &b"\x12\x00\x38\x00".repeat(25_000)].concat(), // 25000 empty rows
        [&[0x0c, 0x80, 0x80, 0x06][..], &vec![0x01; 0x18000]].concat(),           // each byte as \u0001
        [&[0x0c, 0x80, 0x80, 0x06][..], &vec![0xff; 0x18000]].concat(),           // each byte as \ufffd
        [&[0x0d, 0xff, 0x80, 0x80, 0x06][..], &vec![0xff; 0x18000]].concat(),     // base64
        b"12345678\xff".repeat(10_000),
        vec![0; 100_000],
        vec![0xff; 100_000],
    ];
    // One pair per column in the shortest form; then the same twice, as an update.
    let mut row = Vec::new();
    for id in 1..=4_000 {
        datum::encode_value(&mut row, &Datum::Int(id));
        row.push(0);
    }
    inputs.push([&[0x08, 0x02][..], &row].concat());
    inputs.push(row.repeat(2));
    inputs.push(row.clone());
    inputs.push(row.repeat(3));
    // An array of literals, of small numbers, and of empty arrays in each other's place.
    for kind in [4, 9, 3] {
        let count = 20_000_u32;
        let mut doc = vec![3];
        doc.extend(count.to_le_bytes());
        doc.extend((8 + 5 * count + 8 * count).to_le_bytes());
        for i in 0..count {
            doc.push(kind);
            doc.extend(if kind == 4 { 0 } else { 8 + 5 * count + if kind == 9 { 8 * i } else { 0 } }.to_le_bytes());
        }
        (0..count).for_each(|_| doc.extend([0, 0, 0, 0, 8, 0, 0, 0]));
        inputs.push(doc);
    }
    let mut groups = Vec::new();
    number::put_varint(&mut groups, -1);
    inputs.push(groups);
    inputs
}

#[test]
fn memory_follows_the_input() {
    let column =
        |id| ColumnInfo { id, field_type: FieldType { tp: 8, ..FieldType::default() }, ..ColumnInfo::default() };
    let narrow = TableInfo { cols: (1..100).map(column).collect(), ..TableInfo::default() };
    let wide = TableInfo { cols: (1..=4_000).map(column).collect(), ..TableInfo::default() };
    for input in inputs() {
        for prefix in [&[][..], &[0x0a], &[0x08, 0x02]] {
            let input = [prefix, &input].concat();
            all(&input, &narrow);
            if input.len() > 10_000 {
                // Only with a row that is long itself: the list of known ids is as long as the table.
                all(&input, &wide);
            }
        }
    }
}
