//! DDL jobs and a transaction, as the Drainer translates them.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| binlog_fuzz_targets::translate::translate(bytes));
