//! Segment files of the value log.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| binlog_fuzz_targets::value_log::value_log(bytes));
