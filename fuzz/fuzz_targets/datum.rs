//! One datum, and its SQL values.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| binlog_fuzz_targets::codec::datum(bytes));
