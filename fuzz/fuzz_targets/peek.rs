//! The outer message of a binlog.
#![no_main]

#[path = "../../core/tests/codec/entry.rs"]
#[allow(dead_code)]
mod entry;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| entry::peek(bytes));
