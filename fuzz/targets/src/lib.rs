//! What each fuzz target does with its input, as plain functions: `fuzz/` hands them the fuzzer's bytes, the tests here replay
//! the committed seeds (`fuzz/seeds/TARGET/`) and mutations of them. A target fails by a panic.

/// The entry points of the codec, which the codec's own tests drive with the vectors too.
#[path = "../../../core/tests/codec/entry.rs"]
pub mod codec;
pub mod config;
pub mod history;
pub mod registry;
pub mod replies;
pub mod translate;
pub mod value_log;
pub mod value_log_v1;

/// One target.
pub type Target = fn(&[u8]);

/// Every target by name; `fuzz/fuzz_targets/NAME.rs` and `fuzz/seeds/NAME/` are its other halves.
pub const TARGETS: &[(&str, Target)] = &[
    ("config", config::config),
    ("datum", codec::datum),
    ("history", history::history),
    ("json", codec::json),
    ("peek", codec::peek),
    ("prewrite", codec::prewrite),
    ("registry", registry::registry),
    ("replies", replies::replies),
    ("row", codec::row),
    ("translate", translate::translate),
    ("value_log", value_log::value_log),
    ("value_log_v1", value_log_v1::value_log_v1),
];
