//! The known bugs of the original (R1–R8, R32, R33 of the invariants) and the hazards that it still has, each as one small plan that
//! meets exactly that. A scenario holds if no oracle objects *and* what it is about was seen: one that misses its subject fails.
//!
//! They are for reading and for `./x sim replay NAME`; what finds new bugs are the profiles, whose faults the same table names.

use crate::plan::{Action, Fate, Kind, Plan, Profile, TxnPlan};
use crate::run::{Options, run};

/// One scenario.
#[derive(Debug)]
pub struct Scenario {
    pub name: &'static str,
    /// Numbers of the invariants.
    pub covers: &'static str,
    pub what: &'static str,
    build: fn(&mut Plan),
    /// What coverage must have noted; `action NAME`: this fault took effect.
    sees: &'static [&'static str],
    /// … and must not have noted.
    never: &'static [&'static str],
}

impl Scenario {
    #[must_use]
    pub fn plan(&self) -> Plan {
        let mut plan = Plan {
            seed: 7,
            profile: Profile::Swarm,
            config: crate::plan::Config::default(),
            txns: Vec::new(),
            actions: Vec::new(),
        };
        plan.config.horizon_ms = 3_000;
        (self.build)(&mut plan);
        plan
    }

    /// # Errors
    /// Which oracle objected, or what was not met.
    pub fn judge(&self) -> Result<(), String> {
        let outcome = run(&self.plan(), &Options { coverage: true, ..Options::default() });
        if let Some(v) = outcome.violation {
            return Err(format!("{}: {}", v.oracle, v.text));
        }
        let fired = outcome.fired.keys().map(|kind| format!("action {}", kind.name()));
        let seen: Vec<String> = outcome.seen.into_keys().chain(fired).collect();
        let met = |what: &&&str| seen.iter().any(|own| own == *what);
        if let Some(missing) = self.sees.iter().find(|what| !met(what)) {
            return Err(format!("it does not meet \"{missing}\"; seen: {seen:?}"));
        }
        match self.never.iter().find(met) {
            Some(wrong) => Err(format!("it meets \"{wrong}\"")),
            None => Ok(()),
        }
    }
}

/// Transaction at `at_ms`; what is left is changed on the result.
fn txn(plan: &mut Plan, at_ms: u64, fate: Fate) -> &mut TxnPlan {
    let id = u32::try_from(plan.txns.len()).unwrap_or(0);
    plan.txns.push(TxnPlan {
        id,
        at_us: at_ms * 1000,
        fate,
        size: 100,
        ddl: false,
        think_us: 2_000,
        c_delay_us: 0,
        c_repeat: 0,
        p_again_us: 0,
    });
    let last = plan.txns.len() - 1;
    &mut plan.txns[last]
}

/// `count` transactions that commit, `every_ms` apart.
fn load(plan: &mut Plan, from_ms: u64, every_ms: u64, count: u64, size: u64) {
    for i in 0..count {
        let txn = txn(plan, from_ms + i * every_ms, Fate::Commit);
        txn.size = size;
        // Its client lives: C is never left out.
        txn.c_repeat = 1;
    }
}

fn action(plan: &mut Plan, at_ms: u64, kind: Kind, ms: u64, n: u64) {
    let id = u32::try_from(plan.actions.len()).unwrap_or(0);
    plan.actions.push(Action { id, at_us: at_ms * 1000, kind, node: 0, ms, n });
}

pub const ALL: &[Scenario] = &[
    Scenario {
        name: "ddl-without-its-commit",
        covers: "R1",
        what: "the client of a DDL dies after the commit: the Pump asks TiKV, the DDL is applied once, with its job",
        build: |plan| {
            plan.config.verdicts = 1;
            load(plan, 100, 60, 20, 100);
            txn(plan, 400, Fate::Silent).ddl = true;
            action(plan, 900, Kind::Kill, 100, 1);
        },
        sees: &["verdict committed", "sink Ddl well"],
        never: &[],
    },
    Scenario {
        name: "no-space-within-a-record",
        covers: "R2",
        what: "the disk is full, and a write falls short, in the middle of large records: read-only, and well after a restart",
        build: |plan| {
            // The first segment grows as it is written.
            plan.config.segment_bytes = 1 << 20;
            plan.config.horizon_ms = 4_000;
            load(plan, 100, 30, 110, 20_000);
            action(plan, 200, Kind::NoSpace, 900, 1);
            action(plan, 2_500, Kind::ShortWrite, 0, 1);
        },
        sees: &["action short-write", "action no-space"],
        never: &[],
    },
    Scenario {
        name: "failed-write-then-another",
        covers: "R3",
        what: "a write fails and its clients try again: nothing of the failed batch comes back in another",
        build: |plan| {
            load(plan, 100, 20, 80, 500);
            [500, 1_500].into_iter().for_each(|at| action(plan, at, Kind::FailWrite, 0, 1));
        },
        sees: &["action fail-write", "a write is refused"],
        never: &[],
    },
    Scenario {
        name: "torn-tail",
        covers: "R4",
        what: "power losses while batches are on their way, and again while recovery runs",
        build: |plan| {
            plan.config.disk_max_us = 10_000;
            load(plan, 50, 10, 150, 700);
            [300, 900].into_iter().for_each(|at| action(plan, at, Kind::PowerLoss, 60, 1));
            action(plan, 1_500, Kind::CrashLoop, 0, 3);
        },
        sees: &["action power-loss", "action crash-loop"],
        never: &[],
    },
    Scenario {
        name: "longer-than-ten-minutes",
        covers: "R5",
        what: "a transaction runs for twelve minutes under a lock that lives: it is never judged",
        build: |plan| {
            plan.config.verdicts = 1;
            plan.config.horizon_ms = 740_000;
            plan.config.fake_ms = 1_500;
            plan.config.demand_ms = 0;
            plan.config.heartbeat_ms = 10_000;
            txn(plan, 500, Fate::Commit).think_us = 720_000_000;
            txn(plan, 900, Fate::Commit).c_repeat = 1;
        },
        sees: &["a transaction commits after ten minutes"],
        never: &["verdict rolled back"],
    },
    Scenario {
        name: "heartbeats-beside-a-late-commit",
        covers: "R6",
        what: "a C is late while others overtake it and the node tells the registry how far it is every 20 ms: never beyond the late one",
        build: |plan| {
            plan.config.heartbeat_ms = 20;
            plan.config.fake_ms = 50;
            txn(plan, 200, Fate::Commit).c_delay_us = 1_500_000;
            load(plan, 220, 100, 12, 100);
        },
        sees: &["pump registers online"],
        never: &[],
    },
    Scenario {
        name: "cursor-beyond-the-watermark",
        covers: "R7",
        what: "fakes on demand are not logged: after a crash the Drainer asks for more than the Pump knows, and waits",
        build: |plan| {
            plan.config.demand_ms = 20;
            plan.config.fake_ms = 60_000;
            load(plan, 100, 20, 5, 100);
            action(plan, 1_500, Kind::Kill, 30, 1);
        },
        sees: &["a stream asks beyond the watermark"],
        never: &[],
    },
    Scenario {
        name: "closing-with-an-undecided-prewrite",
        covers: "R8",
        what: "a Pump is closed while a prewrite waits for its C: that is still taken, and offline comes after it and the Drainers",
        build: |plan| {
            plan.config.heartbeat_ms = 100;
            load(plan, 100, 50, 6, 100);
            txn(plan, 420, Fate::Commit).c_delay_us = 1_200_000;
            action(plan, 700, Kind::Close, 2_500, 1);
        },
        sees: &["a pump closes with undecided prewrites", "pump state offline"],
        never: &[],
    },
    Scenario {
        name: "no-pause-under-load",
        covers: "R32",
        what: "segments rotate, GC frees them, the index flushes for 300 ms: no write waits for any of it",
        build: |plan| {
            plan.config.drainers = 0;
            plan.config.segment_bytes = 32 << 10;
            plan.config.max_batch_records = 20;
            (plan.config.gc_ms, plan.config.gc_interval_ms) = (200, 60);
            plan.config.flush_max_us = 300_000;
            load(plan, 100, 4, 600, 700);
        },
        sees: &["gc record that frees segments"],
        never: &["a write is refused"],
    },
    Scenario {
        name: "others-fill-the-disk",
        covers: "R33",
        what: "prewrites are refused early, commits go on, and prewrites again once there is space",
        build: |plan| {
            (plan.config.gc_ms, plan.config.gc_interval_ms) = (200, 60);
            plan.config.segment_bytes = 32 << 10;
            load(plan, 100, 20, 120, 1_500);
            action(plan, 600, Kind::LowSpace, 700, 1);
            action(plan, 1_500, Kind::FillDisk, 500, 1);
        },
        sees: &["action fill-disk", "a write is refused"],
        never: &[],
    },
    Scenario {
        name: "age-takes-what-a-drainer-needs",
        covers: "G2, hazard 1",
        what: "gc-hold = \"age\" and a Drainer that cannot reach the Pump: it is told before, and refused, never led across the gap",
        build: |plan| {
            plan.config.gc_age = 1;
            (plan.config.gc_ms, plan.config.gc_interval_ms) = (200, 60);
            plan.config.segment_bytes = 32 << 10;
            plan.config.heartbeat_ms = 100;
            load(plan, 50, 15, 180, 300);
            action(plan, 800, Kind::CutDrainer, 1_700, 1);
            action(plan, 850, Kind::Reset, 0, 1);
        },
        sees: &["gc passes a drainer", "the drainer is refused below the GC point"],
        never: &[],
    },
    Scenario {
        name: "age-without-the-registry",
        covers: "G2",
        what: "the same while the registry cannot be read: said all the same",
        build: |plan| {
            plan.config.gc_age = 1;
            (plan.config.gc_ms, plan.config.gc_interval_ms) = (600, 60);
            plan.config.segment_bytes = 32 << 10;
            plan.config.heartbeat_ms = 100;
            load(plan, 50, 15, 180, 300);
            action(plan, 700, Kind::RegistryDown, 2_000, 1);
            action(plan, 800, Kind::CutDrainer, 1_700, 1);
            action(plan, 850, Kind::Reset, 0, 1);
        },
        sees: &["gc passes a drainer"],
        never: &[],
    },
    Scenario {
        name: "commits-in-another-order",
        covers: "hazard 4",
        what: "Cs overtake one another by up to a second: nothing is left out or out of order",
        build: |plan| {
            for i in 0..40 {
                let txn = txn(plan, 100 + i * 20, Fate::Commit);
                txn.c_delay_us = i * 7919 % 40 * 25_000;
                txn.c_repeat = i % 3;
            }
        },
        sees: &["sink Apply well"],
        never: &[],
    },
    Scenario {
        name: "prewrite-older-than-gc",
        covers: "hazard 5",
        what: "a C comes long after its P is older than all that is kept: the P and its segment have stayed",
        build: |plan| {
            (plan.config.gc_ms, plan.config.gc_interval_ms) = (20, 60);
            plan.config.segment_bytes = 24 << 10;
            plan.config.horizon_ms = 4_000;
            load(plan, 50, 10, 60, 700);
            txn(plan, 700, Fate::Commit).think_us = 1_800_000;
            load(plan, 750, 10, 200, 700);
        },
        sees: &["gc record that frees segments"],
        never: &[],
    },
    Scenario {
        name: "orphan-at-the-head",
        covers: "hazard 6",
        what: "clients die between P and C: each is asked about at once, and holds the others for as long as its lock lives",
        build: |plan| {
            plan.config.verdicts = 1;
            load(plan, 100, 40, 40, 100);
            [200, 600, 900].into_iter().for_each(|at| txn(plan, at, Fate::Die).size = 50);
        },
        sees: &["a pump's question rolls back", "verdict rolled back"],
        never: &[],
    },
    Scenario {
        name: "failed-sync",
        covers: "hazard 7",
        what: "a sync fails and drops the pages, a creation fails: nothing behind them is acknowledged, the file is not used again",
        build: |plan| {
            plan.config.segment_bytes = 32 << 10;
            load(plan, 100, 15, 120, 900);
            action(plan, 500, Kind::FailSync, 0, 1);
            action(plan, 1_700, Kind::FailCreate, 0, 1);
            action(plan, 2_300, Kind::PowerLoss, 50, 1);
        },
        sees: &["action fail-sync", "action power-loss"],
        never: &[],
    },
    Scenario {
        name: "failed-read",
        covers: "hazard 21",
        what: "reads fail under streams and at a start: typed, said once, and well when the disk is",
        build: |plan| {
            load(plan, 100, 20, 80, 500);
            action(plan, 500, Kind::FailRead, 0, 3);
            action(plan, 600, Kind::Kill, 50, 1);
            action(plan, 1_500, Kind::FailRead, 0, 2);
            action(plan, 1_550, Kind::Reset, 0, 1);
        },
        sees: &["action fail-read"],
        never: &[],
    },
    Scenario {
        name: "clock-jumps-by-hours",
        covers: "hazard 23",
        what: "PD's clock jumps by hours and hosts' clocks run apart: GC goes by timestamps, and never past a checkpoint",
        build: |plan| {
            (plan.config.gc_ms, plan.config.gc_interval_ms) = (1_000, 60);
            plan.config.segment_bytes = 32 << 10;
            plan.config.heartbeat_ms = 100;
            load(plan, 50, 15, 180, 400);
            action(plan, 900, Kind::CutDrainer, 900, 1);
            action(plan, 1_200, Kind::PdJump, 5_000_000, 1);
        },
        sees: &["action pd-jump", "gc record that frees segments"],
        never: &["gc passes a drainer"],
    },
    Scenario {
        name: "one-transaction-on-two-pumps",
        covers: "hazard 24",
        what: "acknowledgements are lost, so that P lies on several Pumps: those without a C ask TiKV, and both copies agree",
        build: |plan| {
            (plan.config.pumps, plan.config.verdicts) = (2, 1);
            (plan.config.lose_percent, plan.config.dup_percent) = (40, 30);
            load(plan, 100, 30, 50, 200);
        },
        sees: &["verdict committed"],
        never: &[],
    },
    Scenario {
        name: "service-safe-point-holds",
        covers: "rules 1",
        what: "TiKV is away, its GC wants everything: the Pump's service safe point keeps the evidence, all is decided",
        build: |plan| evidence_in_danger(plan, 86_400),
        sees: &["action tikv-gc", "verdict rolled back"],
        never: &["undecidable"],
    },
    Scenario {
        name: "service-safe-point-runs-out",
        covers: "rules 1",
        what: "the same with a TTL of one second: evidence is gone, the prewrites are undecidable, an operator decides",
        build: |plan| evidence_in_danger(plan, 1),
        sees: &["action tikv-gc", "undecidable", "an operator decides"],
        never: &[],
    },
];

/// Clients die while TiKV does not answer; its GC runs before it does.
fn evidence_in_danger(plan: &mut Plan, hold_ttl_s: u64) {
    (plan.config.verdicts, plan.config.hold_ttl_s) = (1, hold_ttl_s);
    plan.config.horizon_ms = 6_000;
    for i in 0..12 {
        txn(plan, 200 + i * 40, Fate::Die).size = 50;
    }
    load(plan, 300, 100, 10, 100);
    action(plan, 250, Kind::TikvDown, 5_000, 1);
    action(plan, 4_800, Kind::TikvGc, 10, 1);
    action(plan, 5_000, Kind::TikvGc, 10, 1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_holds_and_meets_what_it_is_about() {
        let failed: Vec<_> = ALL.iter().filter_map(|one| one.judge().err().map(|text| (one.name, text))).collect();
        assert!(failed.is_empty(), "{failed:#?}");
    }

    #[test]
    fn one_that_misses_its_subject_fails() {
        let empty = Scenario { sees: &["action no-space"], never: &[], ..ALL[2].copy() };
        assert!(empty.judge().is_err_and(|text| text.contains("does not meet")));
        let forbidden = Scenario { sees: &[], never: &["action fail-write"], ..ALL[2].copy() };
        assert!(forbidden.judge().is_err_and(|text| text.contains("it meets")));
    }

    impl Scenario {
        const fn copy(&self) -> Self {
            Self { ..*self }
        }
    }
}
