//! The real disk: log-file port, index port (RocksDB), and what belongs to a data directory (lock, identity, free space).
//!
//! Ports take a request with its `OpId` and give the completion to a callback, on a thread of their own: exactly one per
//! request, also after a failure. Dropping a port carries out what was queued, then joins its threads.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
#![cfg_attr(test, allow(clippy::cast_possible_truncation, clippy::cast_sign_loss))]

mod descriptors;
pub mod dir;
mod direct;
pub mod identity;
pub mod index_store;
mod leveldb;
pub mod log_files;
pub mod original;
mod pool;
mod slot_file;
mod worker;

use binlog_core::fault::IoFault;
use std::io;
use std::path::Path;

/// An error of the operating system as data of a completion; names the path.
fn io_fault(what: &str, path: &Path, error: &io::Error) -> IoFault {
    let text = format!("{what} {}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => IoFault::NoSpace(text),
        io::ErrorKind::NotFound => IoFault::NotFound(text),
        _ => IoFault::Other(text),
    }
}
