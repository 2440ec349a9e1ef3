//! What outlives a process: PD's clock, completions on their way, the trace, and what is the lane's own (`S`): for the Pump's
//! disk, index, registry, the way in for clients, what is true.

use crate::ports::Request;
use binlog_core::ids::{CommitTs, OpId, StartTs};
use binlog_core::node::status::NodeStatus;
use binlog_core::pump::input::Input;
use binlog_core::pump::status::PumpStatus;
use binlog_core::time::Tso;
use binlog_runtime::driver::Sender;
use binlog_runtime::status::Asker;
use binlog_sim::disk::VirtualDisk;
use binlog_sim::kv::SimKv;
use binlog_sim::rng::Rng;
use binlog_sim::trace::{Detail, Trace};
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

/// How a client reaches the living process.
#[derive(Clone)]
pub struct Door {
    pub life: u64,
    pub sender: Sender<Input, Request>,
    /// The service in front of the driver, as gRPC is in production: calls are fetched from it one by one.
    pub service: mpsc::Sender<Request>,
    pub asker: Asker<Input, Request, PumpStatus>,
}

pub struct State<S = PumpSide> {
    pub rng: Rng,
    pub trace: Trace,
    /// Completions that were handed to the driver of this life and have not reached its machine, and since when.
    pub on_the_way: BTreeMap<OpId, Instant>,
    pub counts: BTreeMap<&'static str, u64>,
    last_tso: u64,
    side: S,
}

/// What is the lane's own reads as the state's.
impl<S> Deref for State<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.side
    }
}

impl<S> DerefMut for State<S> {
    fn deref_mut(&mut self) -> &mut S {
        &mut self.side
    }
}

/// Around the Pump.
pub struct PumpSide {
    pub disk: VirtualDisk,
    pub kv: SimKv,
    pub registry: Option<NodeStatus>,
    /// The process of this life knows that an entry of its own is there.
    pub registered: bool,
    pub door: Option<Door>,
    /// Requests that entered the inbox of this life's driver, less those that it took out.
    pub waiting: i64,
    pub most_waiting: i64,
    /// Commits that were acknowledged; transactions that were rolled back and acknowledged so.
    pub committed: BTreeMap<CommitTs, StartTs>,
    pub rolled_back: Vec<StartTs>,
}

/// What surrounds a lane's process, made from its seed.
pub trait Side: Sized {
    fn new(root: &Rng) -> Self;
}

impl Side for PumpSide {
    fn new(root: &Rng) -> Self {
        Self {
            disk: VirtualDisk::new(root.fork("disk")),
            kv: SimKv::new(root.fork("kv")),
            registry: None,
            registered: false,
            door: None,
            waiting: 0,
            most_waiting: 0,
            committed: BTreeMap::new(),
            rolled_back: Vec::new(),
        }
    }
}

/// Shared by everything of one simulation. No lock is held across an await.
pub struct World<S = PumpSide> {
    state: Mutex<State<S>>,
    born: Instant,
    seed: u64,
    /// Longest time of a disk operation (for the Drainer: of one downstream) in milliseconds.
    pub disk_ms: u64,
    /// Canary: this many syncs (for the Drainer: answers of the sink) from now the completion is lost between port and driver; 0: none.
    pub lose: AtomicU64,
    /// While true the disk (the downstream) stands still.
    stall: watch::Sender<bool>,
}

/// A machine must get a completion within this: the driver has nothing else to wait for.
pub const COMPLETION_LIMIT: Duration = Duration::from_secs(1);
/// PD's time when the simulation begins.
const EPOCH_MS: u64 = 1_700_000_000_000;

impl<S: Side> World<S> {
    #[must_use]
    pub fn new(seed: u64) -> Arc<Self> {
        let root = Rng::new(seed);
        let state = State {
            rng: root.fork("world"),
            trace: Trace::new(Detail::None, None),
            on_the_way: BTreeMap::new(),
            counts: BTreeMap::new(),
            last_tso: 0,
            side: S::new(&root),
        };
        let disk_ms = [2, 10, 60][root.fork("profile").index(3)];
        let (stall, _) = watch::channel(false);
        Arc::new(Self { state: Mutex::new(state), born: Instant::now(), seed, disk_ms, lose: AtomicU64::new(0), stall })
    }
}

impl<S> World<S> {
    pub fn with<T>(&self, f: impl FnOnce(&mut State<S>) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A generator of its own for the n-th `label`.
    #[must_use]
    pub fn rng(&self, label: &str, n: u64) -> Rng {
        Rng::new(self.seed).fork_n(label, n)
    }

    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.born.elapsed()
    }

    pub fn fold(&self, value: u64) {
        let now = nanos(self.elapsed());
        self.with(|s| {
            s.trace.events += 1;
            s.trace.fold(now);
            s.trace.fold(value);
        });
    }

    /// That something happened: a scenario asserts that what it is about was reached.
    pub fn count(&self, what: &'static str) {
        self.with(|s| *s.counts.entry(what).or_default() += 1);
    }

    #[must_use]
    pub fn counted(&self, what: &'static str) -> u64 {
        self.with(|s| s.counts.get(what).copied().unwrap_or(0))
    }

    pub async fn pause(&self, from_ms: u64, to_ms: u64) {
        let ms = self.with(|s| s.rng.range(from_ms, to_ms));
        sleep(Duration::from_millis(ms)).await;
    }

    pub fn stall(&self, stalled: bool) {
        self.stall.send_replace(stalled);
    }

    /// As long as the disk takes; while it is stalled, until it goes on.
    pub async fn disk_time(&self) {
        let mut stall = self.stall.subscribe();
        let _ = stall.wait_for(|stalled| !stalled).await;
        self.pause(0, self.disk_ms).await;
    }

    /// PD's next timestamp.
    pub fn tso(&self) -> Tso {
        let now = EPOCH_MS + nanos(self.elapsed()) / 1_000_000;
        self.with(|s| {
            s.last_tso = (s.last_tso + 1).max(Tso::compose(now, 0).raw());
            Tso::new(s.last_tso)
        })
    }

    /// A completion goes into the inbox.
    pub fn sends(&self, op: OpId) {
        let at = Instant::now();
        self.with(|s| assert!(s.on_the_way.insert(op, at).is_none(), "operation {op} completes twice"));
    }

    /// Whether the canary takes the completion at hand.
    #[must_use]
    pub fn loses_this(&self) -> bool {
        let left = self.lose.load(Ordering::Relaxed);
        self.lose.store(left.saturating_sub(1), Ordering::Relaxed);
        left == 1
    }

    /// No completion that a port handed in waits longer than it may.
    ///
    /// # Panics
    /// When one does.
    pub fn assert_no_completion_is_lost(&self) {
        self.with(|s| {
            let late = s.on_the_way.iter().find(|(_, since)| since.elapsed() >= COMPLETION_LIMIT);
            assert!(late.is_none(), "a completion does not reach the machine: {late:?}");
        });
    }

    /// A completion reaches the machine.
    ///
    /// # Panics
    /// When no port sent it, or too long ago.
    pub fn arrives(&self, op: OpId) {
        let sent = self.with(|s| s.on_the_way.remove(&op));
        let sent = sent.unwrap_or_else(|| panic!("{op} was not sent by a port"));
        assert!(sent.elapsed() < COMPLETION_LIMIT, "{op} waited {:?} in the inbox", sent.elapsed());
    }
}

impl World {
    #[must_use]
    pub fn door(&self) -> Option<Door> {
        self.with(|s| s.door.clone())
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
