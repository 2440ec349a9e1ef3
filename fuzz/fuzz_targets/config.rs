//! Configuration files of every process.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| binlog_fuzz_targets::config::config(bytes));
