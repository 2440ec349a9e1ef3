//! The outer message of a binlog.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| binlog_fuzz_targets::codec::peek(bytes));
