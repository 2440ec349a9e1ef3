//! The trace of a run: one hash over every event, always; lines of text only when somebody reads them.

use crate::timeline::Timeline;
use std::collections::VecDeque;
use std::fmt;

/// What is kept as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Detail {
    /// Only the hash.
    #[default]
    None,
    /// The last lines, for the report of a failure.
    Tail,
    /// What happens to transactions, nodes and faults, printed as it comes.
    Short,
    /// Every event and effect, printed as it comes.
    Full,
}

#[derive(Debug)]
pub struct Trace {
    hash: u64,
    pub events: u64,
    pub detail: Detail,
    /// Lines of this node only (`pump-0`, `drainer-0`, `txn-7`).
    pub only: Option<String>,
    tail: VecDeque<String>,
    /// For a page, when one is wanted.
    pub timeline: Option<Box<Timeline>>,
}

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    Short,
    Full,
}

impl Trace {
    #[must_use]
    pub fn new(detail: Detail, only: Option<String>) -> Self {
        Self { hash: 0x6a09_e667_f3bc_c908, events: 0, detail, only, tail: VecDeque::new(), timeline: None }
    }

    /// Folds one number of what happens into the hash.
    pub fn fold(&mut self, value: u64) {
        self.hash = (self.hash.rotate_left(5) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    #[must_use]
    pub const fn hash(&self) -> u64 {
        self.hash
    }

    /// One line about `node`; both texts are made only if they are wanted.
    pub fn line(&mut self, now: u64, weight: Weight, node: impl fmt::Display, text: impl FnOnce() -> String) {
        if let Some(timeline) = self.timeline.as_mut().filter(|_| weight == Weight::Short) {
            let text = text();
            timeline.event(now, &node.to_string(), &text);
            self.print(now, weight, node, || text);
            return;
        }
        self.print(now, weight, node, text);
    }

    fn print(&mut self, now: u64, weight: Weight, node: impl fmt::Display, text: impl FnOnce() -> String) {
        let wanted = match self.detail {
            Detail::None => false,
            Detail::Tail | Detail::Full => true,
            Detail::Short => weight == Weight::Short,
        };
        if !wanted {
            return;
        }
        let node = node.to_string();
        if self.only.as_ref().is_some_and(|only| *only != node) {
            return;
        }
        let line = format!("{} {node:<9} {}", Clock(now), text());
        if self.detail == Detail::Tail {
            if self.tail.len() == TAIL {
                self.tail.pop_front();
            }
            self.tail.push_back(line);
        } else {
            println!("{line}");
        }
    }

    /// A process starts or is gone.
    pub fn life(&mut self, now: u64, node: impl FnOnce() -> String, up: bool) {
        if let Some(timeline) = &mut self.timeline {
            timeline.life(now, &node(), up);
        }
    }

    /// Something reached a timestamp, given by its physical milliseconds.
    pub fn point(&mut self, now: u64, name: impl FnOnce() -> String, ms: u64) {
        if let Some(timeline) = &mut self.timeline {
            timeline.point(now, &name(), ms);
        }
    }

    pub fn take_tail(&mut self) -> Vec<String> {
        std::mem::take(&mut self.tail).into()
    }
}

/// Virtual time in seconds with microseconds.
#[derive(Debug, Clone, Copy)]
pub struct Clock(pub u64);

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>4}.{:06}", self.0 / 1_000_000_000, self.0 / 1000 % 1_000_000)
    }
}

/// Lines kept for a failure's report.
const TAIL: usize = 60;
