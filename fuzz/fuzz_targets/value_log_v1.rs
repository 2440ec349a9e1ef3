//! Value logs of the original.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| binlog_fuzz_targets::value_log_v1::value_log_v1(bytes));
