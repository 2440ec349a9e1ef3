//! Counters of a running feed, and a live line on a terminal (elsewhere a line every few seconds).

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const REDRAW: Duration = Duration::from_millis(200);
const LINE: Duration = Duration::from_secs(2);

/// Acknowledged records per Pump.
#[derive(Debug)]
pub struct Counters {
    pub total: Vec<u64>,
    acknowledged: Vec<AtomicU64>,
    retries: AtomicU64,
}

impl Counters {
    #[must_use]
    pub fn new(total: Vec<u64>) -> Self {
        Self { acknowledged: total.iter().map(|_| AtomicU64::new(0)).collect(), total, retries: AtomicU64::new(0) }
    }

    pub fn acknowledge(&self, pump: usize) {
        if let Some(counter) = self.acknowledged.get(pump) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn retry(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    #[must_use]
    pub fn of(&self, pump: usize) -> u64 {
        self.acknowledged.get(pump).map_or(0, |c| c.load(Ordering::Relaxed))
    }

    #[must_use]
    pub fn sum(&self) -> u64 {
        self.acknowledged.iter().map(|c| c.load(Ordering::Relaxed)).sum()
    }

    #[must_use]
    pub fn all(&self) -> u64 {
        self.total.iter().sum()
    }

    #[must_use]
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }
}

/// A line that is redrawn in place.
pub struct Line {
    terminal: bool,
    last: Option<Instant>,
    drawn: bool,
}

impl Default for Line {
    fn default() -> Self {
        Self { terminal: std::io::stdout().is_terminal(), last: None, drawn: false }
    }
}

impl Line {
    /// Shows `text`, not more often than is readable.
    pub fn show(&mut self, text: impl FnOnce() -> String) {
        let pause = if self.terminal { REDRAW } else { LINE };
        if self.last.is_some_and(|last| last.elapsed() < pause) {
            return;
        }
        self.last = Some(Instant::now());
        if self.terminal {
            print!("\r\x1b[K  {}", text());
            let _ = std::io::stdout().flush();
            self.drawn = true;
        } else {
            println!("  {}", text());
        }
    }

    /// A line of its own that stays.
    pub fn note(&mut self, text: &str) {
        if self.drawn {
            print!("\r\x1b[K");
            self.drawn = false;
        }
        println!("{text}");
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.drawn {
            println!();
        }
    }
}
