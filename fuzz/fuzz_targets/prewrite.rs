//! The rows of a transaction.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| binlog_fuzz_targets::codec::prewrite(bytes));
