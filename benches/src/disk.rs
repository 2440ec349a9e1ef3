//! The disk's limit: a plain loop that writes a batch and waits for fdatasync, on the same file system.

use crate::procfs;
use crate::stats::Histogram;
use anyhow::{Context, Result};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// How the file lay there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// Each batch makes the file longer, as a fresh log does.
    Growing,
    /// The blocks were written before, as in a recycled segment.
    Filled,
}

#[derive(Debug, Clone, Default)]
pub struct Synced {
    pub batches_per_second: f64,
    pub bytes_per_second: f64,
    /// Of the kernel mostly: copying into the page cache, finding blocks, the journal.
    pub cpu_seconds_per_byte: f64,
    pub latency: Histogram,
}

/// The file is begun again at this size.
const FILE: u64 = 512 << 20;

/// Batches of `batch` bytes for `seconds`; the file is `dir/disk-limit` and removed at the end.
pub fn append_and_sync(dir: &Path, room: Room, batch: usize, seconds: f64) -> Result<Synced> {
    let path = dir.join("disk-limit");
    let outcome = run(&path, room, batch, Duration::from_secs_f64(seconds));
    let _ = fs::remove_file(&path);
    outcome.with_context(|| format!("append + fdatasync in {}", dir.display()))
}

fn run(path: &Path, room: Room, batch: usize, time: Duration) -> Result<Synced> {
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(path)?;
    let bytes: Vec<u8> = (0..batch).map(|i| (i * 31 % 251) as u8).collect();
    let size = if room == Room::Filled { FILE.min(64 << 20).max(batch as u64) } else { FILE };
    if room == Room::Filled {
        for offset in (0..size).step_by(1 << 20) {
            file.write_all_at(&vec![0; 1 << 20], offset)?;
        }
        file.sync_all()?;
    }
    let mut done = Synced::default();
    let own = std::process::id();
    let before = procfs::usage(own)?;
    let (begin, mut offset, mut count) = (Instant::now(), 0, 0_u64);
    while begin.elapsed() < time {
        if offset + batch as u64 > size {
            offset = 0;
            if room == Room::Growing {
                file.set_len(0)?;
            }
        }
        let sent = Instant::now();
        file.write_all_at(&bytes, offset)?;
        file.sync_data()?;
        done.latency.record(sent.elapsed());
        offset += batch as u64;
        count += 1;
    }
    let seconds = begin.elapsed().as_secs_f64();
    done.batches_per_second = count as f64 / seconds;
    let used = procfs::usage(own)? - before;
    done.cpu_seconds_per_byte = used.cpu_seconds / (count.max(1) as f64 * batch as f64);
    done.bytes_per_second = done.batches_per_second * batch as f64;
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_rooms_are_measured_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        for room in [Room::Growing, Room::Filled] {
            let done = append_and_sync(dir.path(), room, 4096, 0.01).unwrap();
            assert!(done.latency.count() > 0 && done.bytes_per_second > 0.0);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
