//! What a run does, as data: nodes, settings, transactions and faults with their times. A seed gives a plan; a plan gives,
//! with its seed, exactly one run. Plans are text (see `text`), so that a person can read, edit and keep them.

pub mod generate;
pub mod text;

/// Version of the text form.
pub const VERSION: u32 = 1;

/// Which faults a plan may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// None.
    Calm,
    /// A random choice of all but `rot`.
    Swarm,
    /// Links, PD, registry, downstream.
    Net,
    /// Disks, index, crashes, power.
    Disk,
    /// Damage at rest: it must be detected, never served.
    Rot,
    /// Operators pause, close and start Pumps; processes die.
    Lifecycle,
    /// GC with little to keep, small segments, full disks, everything that interrupts it.
    Gc,
    /// The same transaction on several Pumps, P and C repeated in every order (hazard 24).
    Dup,
}

impl Profile {
    pub const ALL: [(Self, &'static str); 8] = [
        (Self::Calm, "calm"),
        (Self::Swarm, "swarm"),
        (Self::Net, "net"),
        (Self::Disk, "disk"),
        (Self::Rot, "rot"),
        (Self::Lifecycle, "lifecycle"),
        (Self::Gc, "gc"),
        (Self::Dup, "dup"),
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(p, _)| *p == self).map_or("?", |(_, name)| name)
    }

    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, n)| *n == name).map(|(p, _)| *p)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub seed: u64,
    pub profile: Profile,
    pub config: Config,
    pub txns: Vec<TxnPlan>,
    pub actions: Vec<Action>,
}

macro_rules! settings {
    ($($(#[$doc:meta])* $field:ident = $default:expr,)*) => {
        /// Settings of the world; all numbers, so that the text form is one line each.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Config { $($(#[$doc])* pub $field: u64,)* }

        impl Default for Config {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl Config {
            #[must_use]
            pub fn entries(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($field), self.$field),)*]
            }

            pub fn set(&mut self, name: &str, value: u64) -> Result<(), String> {
                match name {
                    $(stringify!($field) => self.$field = value,)*
                    other => return Err(format!("unknown setting {other}")),
                }
                Ok(())
            }
        }
    };
}

settings! {
    pumps = 1,
    /// 0 or 1.
    drainers = 1,
    /// A reader per Pump that checks its stream (0 or 1).
    readers = 1,
    /// Faults and transactions begin before this (ms); then everything heals.
    horizon_ms = 4_000,
    segment_bytes = 128 << 10,
    max_batch_records = 100,
    /// 0 or 1.
    sync_log = 1,
    fake_ms = 300,
    /// Interval of fakes on demand; 0: none.
    demand_ms = 100,
    heartbeat_ms = 2_000,
    /// One-way latency of links.
    net_min_us = 100,
    net_max_us = 5_000,
    /// Unary calls that arrive twice.
    dup_percent = 0,
    /// Replies that are lost after the effect.
    lose_percent = 0,
    disk_max_us = 3_000,
    tso_max_us = 3_000,
    /// 0: Pumps do not tell the Drainers that they exist; rules 7 must not need it.
    notify = 1,
    memory_bytes = 1 << 20,
    txn_batch = 20,
    /// 1: the upstream is the TiDB model with real rows and DDL jobs, the downstream the MySQL model.
    rows = 0,
    /// TiDB servers of a world with rows.
    tidbs = 2,
    /// How many different values a column takes: small ones collide.
    spread = 60,
    /// 1: clients die, give up and forget Pumps, and only TiKV tells what became of a P. 0: the world tells every Pump the
    /// outcome, see `world/tidb`, and the clients of light worlds say it until it is acknowledged.
    verdicts = 0,
    /// How long binlogs are kept, by PD's clock; 0: for ever.
    gc_ms = 0,
    /// Between two rounds of GC.
    gc_interval_ms = 400,
    /// 1: `gc-hold = "age"`: a Drainer may find a gap, of which it must have been told before.
    gc_age = 0,
    /// TTL of a Pump's service safe point in PD; it is refreshed every 30 s.
    hold_ttl_s = 86_400,
    /// Longest flush of the index.
    flush_max_us = 3_000,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Commit,
    /// The commit fails for certain, after the commit timestamp was fetched.
    Rollback,
    /// The prewrite of the locks fails: there is no commit timestamp.
    Abort,
    /// It commits, but its client does not learn it and sends R.
    Undetermined,
    /// It commits; then its client dies, and says nothing to any Pump.
    Silent,
    /// Its client dies between P and the commit; its lock expires.
    Die,
    /// Its client dies once P is sent, and TiKV never hears of it.
    Vanish,
}

/// One transaction of the upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxnPlan {
    pub id: u32,
    pub at_us: u64,
    pub fate: Fate,
    /// Bytes of the prewrite value.
    pub size: u64,
    pub ddl: bool,
    /// Between the acknowledgement of P and the request for the commit timestamp.
    pub think_us: u64,
    /// How late C is.
    pub c_delay_us: u64,
    /// How often C is sent again.
    pub c_repeat: u64,
    /// P is sent again after the transaction was decided, this much later (0: not).
    pub p_again_us: u64,
}

/// One fault, or change, at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    pub id: u32,
    pub at_us: u64,
    pub kind: Kind,
    /// Pump that it happens to, where that makes sense.
    pub node: u64,
    /// How long, where that makes sense.
    pub ms: u64,
    /// How often, where that makes sense.
    pub n: u64,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What an action does.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Kind { $($(#[$doc])* $name,)* }

        impl Kind {
            pub const ALL: &'static [(Self, &'static str)] = &[$((Self::$name, $text),)*];
        }
    };
}

kinds! {
    /// SIGKILL, down for `ms`.
    Kill = "kill",
    /// Power loss, down for `ms`.
    PowerLoss = "power-loss",
    /// SIGKILL, started again at once, and power loss `ms` later.
    KillThenPower = "kill-then-power-loss",
    /// `n` power losses (and kills) in a row, each shortly after the start before: recovery is cut short at any point.
    CrashLoop = "crash-loop",
    /// Clean shutdown, down for `ms`.
    Stop = "stop",
    /// The pause action; when it has ended, started again.
    Pause = "pause",
    /// The close action; when it has ended after `ms`, started again.
    Close = "close",
    /// A close is taken back.
    CancelClose = "cancel-close",
    /// A new Pump appears.
    Join = "join",
    FailSync = "fail-sync",
    FailWrite = "fail-write",
    ShortWrite = "short-write",
    FailRead = "fail-read",
    FailCreate = "fail-create",
    /// Files cannot grow for `ms`.
    NoSpace = "no-space",
    /// The disk stands still for `ms`.
    StallDisk = "stall-disk",
    /// The free space is reported below the limit for `ms`.
    LowSpace = "low-space",
    /// Others fill the disk until prewrites must be refused, for `ms`.
    FillDisk = "fill-disk",
    /// `n` operations of the index fail.
    FailIndex = "fail-index",
    StallIndex = "stall-index",
    /// PD gives no timestamps for `ms`.
    PdDown = "pd-down",
    /// PD's physical clock jumps forward by `ms`.
    PdJump = "pd-jump",
    /// The registry times out, before or after the effect, for `ms`.
    RegistryDown = "registry-down",
    /// TiDBs and readers cannot reach the Pump for `ms`.
    CutClients = "cut-clients",
    /// The Drainer cannot reach the Pump for `ms`.
    CutDrainer = "cut-drainer",
    /// All streams of the Pump are reset.
    Reset = "reset",
    KillDrainer = "kill-drainer",
    StopDrainer = "stop-drainer",
    /// The downstream loses the connection before the effect.
    SinkLostBefore = "sink-lost-before",
    /// … after it.
    SinkLostAfter = "sink-lost-after",
    /// … while the session lives on with its locks; its COMMIT may arrive later.
    SinkLimbo = "sink-limbo",
    SinkDeadlock = "sink-deadlock",
    /// A DDL ran, but its journal was not finished.
    SinkHalfDone = "sink-half-done",
    /// An operator restores an older dump of the checkpoint row and of the data that belongs to it.
    SinkRestore = "sink-restore",
    /// The downstream fails over, hidden by a proxy, to a replica without the last transactions.
    SinkFailOver = "sink-fail-over",
    /// The registry's answers to listings take `ms` longer, for `ms`.
    SlowRegistry = "slow-registry",
    /// TiDB server `node` dies with all its transactions; down for `ms`.
    CrashTidb = "crash-tidb",
    /// `n` answers of TiKV are lost, before or after the effect (not those of commits).
    LoseKv = "lose-kv",
    /// The server of each of the next `n` commits dies before C is sent; down for `ms`.
    DropCommit = "drop-commit",
    /// The answers to the next `n` commits are lost after the effect: R follows. Only verdicts heal it.
    LoseCommit = "lose-commit",
    /// TiKV's GC drops the evidence older than `ms`, as far as the services in PD let it.
    TikvGc = "tikv-gc",
    /// … whatever services hold: their time was over, or an operator did it.
    TikvGcForced = "tikv-gc-forced",
    /// TiKV does not answer the questions of Pumps for `ms`: time-outs before or after the effect.
    TikvDown = "tikv-down",
    /// The next `n` answers of TiKV or PD about verdicts are lost, before or after the effect.
    LoseVerdict = "lose-verdict",
    /// One bit at rest flips.
    Rot = "rot",
}

impl Kind {
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(k, _)| *k == self).map_or("?", |(_, name)| name)
    }

    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, n)| *n == name).map(|(k, _)| *k)
    }

    /// Its action only arms it: it fires when the next fitting operation meets it, which may be never.
    #[must_use]
    pub const fn waits(self) -> bool {
        matches!(
            self,
            Self::FailSync
                | Self::FailWrite
                | Self::ShortWrite
                | Self::FailRead
                | Self::FailCreate
                | Self::NoSpace
                | Self::FailIndex
                | Self::SinkLostBefore
                | Self::SinkLostAfter
                | Self::SinkLimbo
                | Self::SinkDeadlock
                | Self::SinkHalfDone
                | Self::SinkFailOver
                | Self::SinkRestore
                | Self::LoseKv
                | Self::DropCommit
                | Self::LoseCommit
                | Self::LoseVerdict
                | Self::Rot
        )
    }
}
