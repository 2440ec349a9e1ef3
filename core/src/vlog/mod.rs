//! The value log, format v2 (rules 2).

mod batch;
mod decide;
pub mod format;
pub mod log;
pub mod op;
mod read;
pub mod record;
mod recovery;
mod scan;
pub mod scrub;
mod segment;
pub mod spare;
pub mod v1;
mod writer;

#[cfg(test)]
mod recovery_tests;
#[cfg(test)]
mod scrub_tests;
#[cfg(test)]
mod testdisk;
#[cfg(test)]
mod tests;
