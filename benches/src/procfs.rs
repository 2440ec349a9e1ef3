//! What Linux counts for a process and its threads: CPU time, bytes sent to the disk, write calls, peak memory.

use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fs;

#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// User and system time of all threads.
    pub cpu_seconds: f64,
    /// Bytes that were sent to the block layer on the process's behalf (`write_bytes`).
    pub written: u64,
}

impl std::ops::Sub for Usage {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self { cpu_seconds: self.cpu_seconds - before.cpu_seconds, written: self.written - before.written }
    }
}

/// What the threads of one name did.
#[derive(Debug, Clone, Copy, Default)]
pub struct ThreadUsage {
    pub cpu_seconds: f64,
    /// Calls of write and pwrite, and the bytes that they were given.
    pub write_calls: u64,
    pub write_bytes: u64,
}

/// Threads by name; those that end meanwhile are left out.
pub fn threads(pid: u32) -> Result<BTreeMap<String, ThreadUsage>> {
    let mut all: BTreeMap<String, ThreadUsage> = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("threads of process {pid}"))? {
        let task = entry?.file_name().to_string_lossy().into_owned();
        let file = |name: &str| fs::read_to_string(format!("/proc/{pid}/task/{task}/{name}"));
        let (Ok(name), Ok(stat), Ok(io)) = (file("comm"), file("stat"), file("io")) else { continue };
        let own = all.entry(name.trim().to_owned()).or_default();
        own.cpu_seconds += cpu_seconds(&stat)?;
        own.write_calls += number_after(&io, "syscw:")?;
        own.write_bytes += number_after(&io, "wchar:")?;
    }
    Ok(all)
}

/// Clock ticks per second in `/proc`: fixed at 100 for user space on Linux.
const TICKS: f64 = 100.0;

pub fn usage(pid: u32) -> Result<Usage> {
    let written = number_after(&read(pid, "io")?, "write_bytes:")?;
    Ok(Usage { cpu_seconds: cpu_seconds(&read(pid, "stat")?)?, written })
}

fn cpu_seconds(stat: &str) -> Result<f64> {
    // The name in parentheses may hold anything.
    let (_, fields) = stat.rsplit_once(')').context("stat has no name")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |n: usize| fields.get(n).and_then(|f| f.parse::<f64>().ok()).context("stat is short");
    Ok((ticks(11)? + ticks(12)?) / TICKS)
}

/// Largest resident set so far, in bytes.
pub fn peak_memory(pid: u32) -> Result<u64> {
    Ok(number_after(&read(pid, "status")?, "VmHWM:")? * 1024)
}

fn read(pid: u32, file: &str) -> Result<String> {
    fs::read_to_string(format!("/proc/{pid}/{file}")).with_context(|| format!("read {file} of process {pid}"))
}

fn number_after(text: &str, label: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(label)).with_context(|| format!("no {label}"))?;
    let number = line.split_whitespace().next().unwrap_or_default();
    number.parse().with_context(|| format!("{label} {line}: not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_seen() {
        let own = std::process::id();
        assert!(peak_memory(own).unwrap() > 1 << 20);
        assert!(usage(own).unwrap().cpu_seconds >= 0.0);
        assert!(usage(u32::MAX).is_err());
        assert_eq!(number_after("a: 1\nVmHWM:\t 77 kB\n", "VmHWM:").unwrap(), 77);
    }
}
