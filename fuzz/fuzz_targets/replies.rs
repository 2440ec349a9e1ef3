//! Messages of PD, TiKV and peers.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| binlog_fuzz_targets::replies::replies(bytes));
