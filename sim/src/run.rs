//! One run: a plan in, a verdict and a trace hash out. A failed assertion of a machine is a verdict like any other.

use crate::canary::{Canary, arm};
use crate::oracle::Violation;
use crate::plan::{Kind, Plan};
use crate::timeline::Timeline;
use crate::trace::{Detail, Trace};
use crate::world::World;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How a run is watched.
#[derive(Debug, Clone)]
pub struct Options {
    pub detail: Detail,
    pub only: Option<String>,
    /// Virtual nanoseconds.
    pub until: u64,
    pub canary: Option<Canary>,
    pub coverage: bool,
    /// Note what the page shows.
    pub timeline: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { detail: Detail::None, only: None, until: u64::MAX, canary: None, coverage: false, timeline: false }
    }
}

#[derive(Debug, Default)]
pub struct Outcome {
    pub violation: Option<Violation>,
    pub hash: u64,
    pub events: u64,
    /// Virtual nanoseconds.
    pub simulated: u64,
    pub tail: Vec<String>,
    pub fired: BTreeMap<Kind, u64>,
    pub seen: BTreeMap<String, u64>,
    pub timeline: Option<Box<Timeline>>,
}

#[must_use]
pub fn run(plan: &Plan, options: &Options) -> Outcome {
    let _armed = arm(options.canary);
    let mut trace = Trace::new(options.detail, options.only.clone());
    trace.timeline = options.timeline.then(Box::default);
    let mut world = World::new(plan.clone(), trace, options.canary.and_then(Canary::port));
    world.coverage = options.coverage;
    let result = catch_unwind(AssertUnwindSafe(|| world.run(options.until)));
    let violation = match result {
        Ok(()) => world.violation.take(),
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
                .unwrap_or_else(|| "a panic without a text".to_owned());
            Some(Violation { oracle: "PANIC", text, at: world.now })
        }
    };
    Outcome {
        violation,
        hash: world.trace.hash(),
        events: world.trace.events,
        simulated: world.now,
        tail: world.trace.take_tail(),
        fired: std::mem::take(&mut world.fired),
        seen: std::mem::take(&mut world.seen),
        timeline: world.trace.timeline.take(),
    }
}

/// What makes two failures the same: the oracle, and its text without numbers.
#[must_use]
pub fn signature(violation: &Violation) -> String {
    let text = match violation.oracle {
        // The reasons of a stall change with what is left of the plan.
        "V1" | "V2" => "",
        _ => violation.text.as_str(),
    };
    let words: String = text.chars().filter(|c| !c.is_ascii_digit()).take(60).collect();
    format!("{} {words}", violation.oracle)
}
