//! From a seed to a plan. Every entity draws from its own stream, so a change to one part of the generator leaves the rest of
//! a seed's plan as it was.

use super::{Action, Config, Fate, Kind, Plan, Profile, TxnPlan};
use crate::rng::{Rng, skewed};

#[must_use]
pub fn generate(seed: u64, profile: Profile) -> Plan {
    let root = Rng::new(seed);
    let mut config = config(&mut root.fork("config"), profile);
    rows(&mut root.fork("rows"), &mut config, profile);
    gc(&mut root.fork("gc"), &mut config, profile);
    verdicts(&mut root.fork("verdicts"), &mut config, profile);
    short_hold(&mut root.fork("hold"), &mut config);
    let mut txns = txns(&root, &config);
    fates(&root, &config, profile, &mut txns);
    let mut actions = actions(&root, &config, profile);
    if config.sync_log == 0 {
        // Without it an acknowledged write is safe from the death of the process only.
        actions.retain(|action| !LOSES_UNSYNCED.contains(&action.kind));
    }
    Plan { seed, profile, config, txns, actions }
}

fn config(rng: &mut Rng, profile: Profile) -> Config {
    let mut c = Config::default();
    let calm = profile == Profile::Calm;
    c.pumps = [1, 1, 2, 2, 3][rng.index(5)];
    c.drainers = u64::from(rng.percent(75));
    c.readers = u64::from(c.drainers == 0 || rng.percent(50));
    c.horizon_ms = rng.range(2_000, 6_000);
    c.segment_bytes = [32 << 10, 64 << 10, 128 << 10, 1 << 20][rng.index(4)];
    c.max_batch_records = [1, 3, 20, 100][rng.index(4)];
    c.sync_log = u64::from(calm || !rng.percent(5));
    c.fake_ms = [50, 200, 500, 1_500][rng.index(4)];
    c.heartbeat_ms = [500, 2_000][rng.index(2)];
    c.net_max_us = [500, 3_000, 20_000][rng.index(3)];
    c.disk_max_us = [300, 2_000, 10_000][rng.index(3)];
    c.tso_max_us = [300, 3_000, 30_000][rng.index(3)];
    if !calm {
        c.dup_percent = [0, 5, 30][rng.index(3)];
        c.lose_percent = [0, 2, 15][rng.index(3)];
        c.notify = u64::from(!rng.percent(30));
    }
    c.memory_bytes = [32 << 10, 1 << 20][rng.index(2)];
    c.txn_batch = [1, 5, 20][rng.index(3)];
    c.demand_ms = [0, 20, 100][rng.index(3)];
    if calm {
        // The index takes its time: no write may notice (R32).
        c.flush_max_us = 300_000;
    }
    c
}

/// A part of the seeds has real rows; the rest is light.
fn rows(rng: &mut Rng, config: &mut Config, profile: Profile) {
    if profile == Profile::Rot || !rng.percent(ROWS_PERCENT) {
        return;
    }
    config.rows = 1;
    config.drainers = 1;
    config.tidbs = rng.range(1, 3);
    config.spread = [6, 60, 5_000][rng.index(3)];
    // Rows need room: the smallest settings would only make everything slow.
    config.segment_bytes = config.segment_bytes.max(64 << 10);
}

/// GC in all plans of its profile and in a part of those with everything.
fn gc(rng: &mut Rng, config: &mut Config, profile: Profile) {
    let has_gc = match profile {
        Profile::Gc => true,
        Profile::Swarm => rng.percent(GC_PERCENT),
        _ => false,
    };
    if !has_gc {
        return;
    }
    config.gc_ms = [20, 200, 1_000][rng.index(3)];
    config.gc_interval_ms = [60, 300, 1_500][rng.index(3)];
    config.gc_age = u64::from(config.drainers == 0 && rng.percent(50));
    config.flush_max_us = [3_000, 300_000][rng.index(2)];
    if profile == Profile::Gc && config.rows == 0 {
        config.segment_bytes = [24 << 10, 32 << 10, 64 << 10][rng.index(3)];
        // What a Drainer misses then cannot be compared row by row.
        config.gc_age |= u64::from(rng.percent(AGE_PERCENT));
    }
}

/// Some Pumps hold TiKV's GC for seconds only: long before they refresh it, their evidence may go.
fn short_hold(rng: &mut Rng, config: &mut Config) {
    if config.verdicts > 0 && rng.percent(SHORT_HOLD_PERCENT) {
        config.hold_ttl_s = rng.range(1, 3);
    }
}

/// In most worlds only TiKV knows what became of a transaction whose C does not come.
fn verdicts(rng: &mut Rng, config: &mut Config, profile: Profile) {
    config.verdicts = u64::from(!matches!(profile, Profile::Calm | Profile::Rot) && rng.percent(85));
    if profile == Profile::Dup {
        config.verdicts = 1;
        config.pumps = rng.range(2, 3);
        config.drainers = 1;
        config.dup_percent = rng.range(20, 60);
        config.lose_percent = rng.range(10, 40);
    }
}

/// Clients that die, do not learn what became of their commit, or repeat themselves.
fn fates(root: &Rng, config: &Config, profile: Profile, txns: &mut [TxnPlan]) {
    if config.verdicts == 0 {
        return;
    }
    // Each is believed to be lost after ten minutes (rules 1), through which the world sleeps: too many rounds of GC.
    let vanishes = root.fork("vanish").percent(VANISH_PERCENT) && config.gc_ms == 0;
    for txn in txns.iter_mut() {
        let mut rng = root.fork_n("fate", u64::from(txn.id));
        txn.fate = match (txn.fate, rng.below(100)) {
            (Fate::Commit, 0..=4) => Fate::Undetermined,
            (Fate::Commit, 5..=8) => Fate::Silent,
            (Fate::Commit, 9..=12) => Fate::Die,
            (Fate::Commit, 13..=16) if vanishes => Fate::Vanish,
            (fate, _) => fate,
        };
        if profile == Profile::Dup {
            txn.c_repeat = rng.below(4);
            txn.p_again_us = if rng.percent(50) { rng.range(1_000, 1_500_000) } else { 0 };
        }
    }
}

fn txns(root: &Rng, config: &Config) -> Vec<TxnPlan> {
    let mut rng = root.fork("workload");
    let count = rng.range(10, 70);
    // Spread out, in bursts, or with long pauses in which only fakes move the watermark.
    let rhythm = rng.below(3);
    let end = config.horizon_ms * 1000;
    let think_max = [1_000, 20_000, 200_000][rng.index(3)];
    let plan = |i| {
        let mut rng = root.fork_n("txn", i);
        let at_us = match rhythm {
            0 => rng.below(end),
            1 => (end / 8) * rng.below(8) + rng.below(5_000),
            _ => end / 4 * (1 + 2 * rng.below(2)) + rng.below(end / 16),
        };
        let fate = match rng.below(100) {
            0..=84 => Fate::Commit,
            85..=93 => Fate::Rollback,
            _ => Fate::Abort,
        };
        TxnPlan {
            id: u32::try_from(i).unwrap_or(0),
            at_us,
            fate,
            size: if rng.percent(3) { rng.range(5_000, 60_000) } else { skewed(&mut rng, 8, 2_000) },
            ddl: rng.percent(5),
            think_us: skewed(&mut rng, 200, think_max),
            c_delay_us: if rng.percent(20) { skewed(&mut rng, 1_000, 1_500_000) } else { 0 },
            c_repeat: u64::from(rng.percent(10)),
            p_again_us: if rng.percent(8) { rng.range(1_000, 1_000_000) } else { 0 },
        }
    };
    (0..count).map(plan).collect()
}

const DISK: &[Kind] = &[
    Kind::Kill,
    Kind::PowerLoss,
    Kind::PowerLoss,
    Kind::KillThenPower,
    Kind::CrashLoop,
    Kind::CrashLoop,
    Kind::Stop,
    Kind::FailSync,
    Kind::FailWrite,
    Kind::ShortWrite,
    Kind::FailRead,
    Kind::FailCreate,
    Kind::NoSpace,
    Kind::StallDisk,
    Kind::LowSpace,
    Kind::FailIndex,
    Kind::StallIndex,
];

/// GC, and what interrupts it or must not mislead it.
const GC: &[Kind] = &[
    Kind::Kill,
    Kind::PowerLoss,
    Kind::PowerLoss,
    Kind::KillThenPower,
    Kind::CrashLoop,
    Kind::CrashLoop,
    Kind::Stop,
    Kind::FailSync,
    Kind::FailWrite,
    Kind::ShortWrite,
    Kind::FailCreate,
    Kind::FailCreate,
    Kind::StallDisk,
    Kind::LowSpace,
    Kind::FillDisk,
    Kind::FillDisk,
    Kind::FailIndex,
    Kind::StallIndex,
    Kind::PdJump,
    Kind::PdDown,
    Kind::RegistryDown,
    Kind::CutClients,
    Kind::CutDrainer,
    Kind::Reset,
    Kind::KillDrainer,
    Kind::StopDrainer,
    Kind::SlowRegistry,
];

/// They set the checkpoint back, perhaps below what GC took: then a new full copy is due.
const SETS_CHECKPOINT_BACK: &[Kind] = &[Kind::SinkRestore, Kind::SinkFailOver];

/// Light worlds of GC that go by age alone.
const AGE_PERCENT: u64 = 20;

/// Worlds with verdicts whose service safe points run out.
const SHORT_HOLD_PERCENT: u64 = 20;

/// Plans of the swarm with GC.
const GC_PERCENT: u64 = 35;

const LOSES_UNSYNCED: &[Kind] = &[
    Kind::PowerLoss,
    Kind::KillThenPower,
    Kind::CrashLoop,
    Kind::FailSync,
    Kind::FailWrite,
    Kind::ShortWrite,
    Kind::NoSpace,
];

const NET: &[Kind] = &[
    Kind::PdDown,
    Kind::PdJump,
    Kind::RegistryDown,
    Kind::CutClients,
    Kind::CutDrainer,
    Kind::Reset,
    Kind::KillDrainer,
    Kind::StopDrainer,
    Kind::SinkLostBefore,
    Kind::SinkLostAfter,
    Kind::SinkLimbo,
    Kind::SinkDeadlock,
    Kind::SinkHalfDone,
    Kind::SinkRestore,
    Kind::SinkFailOver,
    Kind::SlowRegistry,
];

const LIFECYCLE: &[Kind] = &[
    Kind::Pause,
    Kind::Close,
    Kind::Close,
    Kind::Close,
    Kind::CancelClose,
    Kind::Stop,
    Kind::Kill,
    Kind::PowerLoss,
    Kind::CrashLoop,
    Kind::KillDrainer,
    Kind::StopDrainer,
    Kind::PdDown,
    Kind::RegistryDown,
    Kind::CutClients,
    Kind::CutDrainer,
    Kind::StallIndex,
    Kind::SlowRegistry,
];

/// Only where the upstream is the TiDB model.
const TIDB: &[Kind] = &[Kind::CrashTidb, Kind::CrashTidb, Kind::LoseKv, Kind::DropCommit];

/// Besides the one bit that flips.
const ROT: &[Kind] = &[Kind::Kill, Kind::PowerLoss, Kind::CrashLoop, Kind::Stop];

/// What only verdicts of TiKV heal (rules 1).
const UNDETERMINED: &[Kind] = &[Kind::LoseCommit];

/// What gets into the way of verdicts.
const VERDICTS: &[Kind] = &[Kind::TikvGc, Kind::TikvGcForced, Kind::TikvDown, Kind::LoseVerdict];

/// Acknowledgements that are lost, so that clients go to another Pump.
const DUP: &[Kind] = &[
    Kind::Kill,
    Kind::PowerLoss,
    Kind::CutClients,
    Kind::CutClients,
    Kind::CutDrainer,
    Kind::Reset,
    Kind::StallDisk,
    Kind::StallIndex,
    Kind::KillDrainer,
    Kind::PdDown,
];

/// Worlds in which clients die before TiKV hears of their transaction.
const VANISH_PERCENT: u64 = 8;

/// Worlds with rows cost several times as much as light ones.
const ROWS_PERCENT: u64 = 20;

/// Every fault that plans of this profile can hold.
#[must_use]
pub fn kinds(profile: Profile) -> Vec<Kind> {
    let both = || DISK.iter().chain(NET).chain(TIDB).chain(UNDETERMINED).chain(VERDICTS).copied();
    let mut kinds: Vec<Kind> = match profile {
        Profile::Calm => return Vec::new(),
        Profile::Swarm => both().collect(),
        Profile::Net => NET.iter().chain(TIDB).chain(UNDETERMINED).chain(VERDICTS).copied().collect(),
        Profile::Dup => [DUP, TIDB, UNDETERMINED, VERDICTS].concat(),
        Profile::Disk => DISK.to_vec(),
        Profile::Gc => [GC, VERDICTS].concat(),
        Profile::Lifecycle => [LIFECYCLE, VERDICTS].concat(),
        Profile::Rot => [ROT, &[Kind::Rot]].concat(),
    };
    kinds.extend([Kind::Join, Kind::SlowRegistry]);
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}

fn actions(root: &Rng, config: &Config, profile: Profile) -> Vec<Action> {
    let mut rng = root.fork("faults");
    let mut kinds: Vec<Kind> = match profile {
        Profile::Calm => Vec::new(),
        Profile::Swarm => DISK.iter().chain(NET).copied().collect(),
        Profile::Net => NET.to_vec(),
        Profile::Dup => DUP.to_vec(),
        Profile::Disk => DISK.to_vec(),
        Profile::Lifecycle => LIFECYCLE.to_vec(),
        Profile::Gc => GC.to_vec(),
        Profile::Rot => ROT.to_vec(),
    };
    if config.rows > 0 && matches!(profile, Profile::Swarm | Profile::Net | Profile::Dup) {
        kinds.extend(TIDB);
        kinds.extend(UNDETERMINED.iter().filter(|_| config.verdicts > 0));
    }
    if config.verdicts > 0 && !matches!(profile, Profile::Calm | Profile::Disk | Profile::Rot) {
        kinds.extend(VERDICTS);
    }
    if config.gc_ms > 0 {
        kinds.retain(|kind| !SETS_CHECKPOINT_BACK.contains(kind));
    }
    // Swarm: each run leaves some kinds out, so that rare combinations meet.
    kinds.retain(|_| rng.percent(60));
    let count = if kinds.is_empty() { 0 } else { rng.below(14) };
    let end = config.horizon_ms * 1000;
    let one = |i| {
        let mut rng = root.fork_n("action", i);
        let kind = kinds[rng.index(kinds.len())];
        let mut ms = skewed(&mut rng, 10, 1_500);
        if profile == Profile::Gc && kind == Kind::PdJump && rng.percent(50) {
            // Further than what is kept: hours.
            ms = ms.saturating_mul(5_000);
        }
        let (id, at_us) = (u32::try_from(i).unwrap_or(0), rng.below(end));
        Action { id, at_us, kind, node: rng.below(config.pumps), ms, n: rng.range(1, 3) }
    };
    let mut actions: Vec<Action> = (0..count).map(one).collect();
    let join = profile != Profile::Calm && rng.percent(15);
    let at_us = rng.below(end);
    // A listing that is under way while a Pump appears.
    let slow = join && rng.percent(50);
    for kind in [(Kind::SlowRegistry, slow), (Kind::Join, join), (Kind::Rot, profile == Profile::Rot)] {
        if let (kind, true) = kind {
            let id = u32::try_from(actions.len()).unwrap_or(0);
            actions.push(Action { id, at_us, kind, node: 0, ms: rng.range(50, 800), n: 1 });
        }
    }
    actions
}
