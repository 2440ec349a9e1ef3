//! One life of the Pump's process, put together as its `main` does; and its ends: in order, killed, without power.

use crate::machine::Watched;
use crate::ports::{CLUSTER, Calls, Ports, Request};
use crate::world::{Door, World};
use binlog_core::ids::{ClusterId, NodeId};
use binlog_core::pump::config::{GcConfig, PumpConfig, StreamMemory};
use binlog_core::pump::input::Input;
use binlog_core::pump::machine::Pump;
use binlog_runtime::clock::Clock;
use binlog_runtime::driver::{self, Sender};
use binlog_runtime::status;
use madsim::runtime::{Handle, NodeHandle};
use madsim::task::JoinHandle;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Calls that wait in the service before they are fetched.
const SERVICE: usize = 8;
/// A shutdown gives up its waiting after 30 s of draining, 30 s of the final sync, 10 s of the registry.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(80);

/// A process under way.
pub struct Process {
    node: NodeHandle,
    main: JoinHandle<u8>,
    world: Arc<World>,
}

/// How a process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    Killed,
    PowerLoss,
}

impl Process {
    #[must_use]
    pub fn start(world: &Arc<World>, life: u64) -> Self {
        let node = Handle::current().create_node().name(format!("pump life {life}")).build();
        let main = node.spawn(live(world.clone(), life));
        Self { node, main, world: world.clone() }
    }

    /// All tasks are dropped where they stand.
    pub async fn die(self, death: Death) {
        Handle::current().kill(self.node.id());
        assert!(self.main.await.is_err(), "killed, not ended");
        self.world.with(|s| {
            s.door = None;
            s.on_the_way.clear();
            s.kv.crash();
            s.disk.kill();
            if death == Death::PowerLoss {
                s.disk.power_loss();
            }
        });
        self.world.fold(0xdead);
    }

    /// A signal came: the driver must end by itself, with code 0.
    pub fn ask_to_stop(&self) {
        if let Some(door) = self.world.door() {
            door.sender.complete(Input::Shutdown);
        }
    }

    /// Waits for the end in order.
    pub async fn ended(self) {
        let code = timeout(SHUTDOWN_LIMIT, self.main).await.expect("the shutdown does not end").expect("no panic");
        assert_eq!(code, 0);
        // The process exits: whatever still ran is gone.
        Handle::current().kill(self.node.id());
        self.world.with(|s| {
            s.on_the_way.clear();
            s.kv.crash();
            s.disk.kill();
        });
        self.world.fold(0xe0d);
    }

    /// Whether the driver has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.main.is_finished()
    }
}

async fn live(world: Arc<World>, life: u64) -> u8 {
    let (sender, mut inbox) = driver::inbox::<_, Request>();
    let (asker, answerer) = status::channel(sender.clone());
    let (service, calls) = mpsc::channel(SERVICE);
    tokio::spawn(forward(world.clone(), calls, sender.clone()));
    tokio::spawn(watch_space(sender.clone()));
    let previous = world.with(|s| {
        s.waiting = 0;
        s.registered = false;
        s.door = Some(Door { life, sender: sender.clone(), service, asker });
        s.registry.as_ref().map(|status| status.state)
    });
    let mut machine = Watched::new(Pump::new(config(&world, life, previous)), world.clone());
    let mut ports = Ports::new(world.clone(), sender.clone(), answerer);
    sender.complete(Input::Start);
    let code = driver::drive(&mut machine, &mut ports, &mut inbox, Clock::start()).await;
    // Whoever still waits is told, whether the machine has seen the call or not.
    ports.calls = Calls::default();
    drop(inbox);
    world.with(|s| s.door = None);
    code
}

/// Fetches a call only when the driver has room for it.
async fn forward(world: Arc<World>, mut calls: mpsc::Receiver<Request>, sender: Sender<Input, Request>) {
    loop {
        let Ok(room) = sender.room().await else { return };
        let Some(request) = calls.recv().await else { return };
        room.send(request);
        world.with(|s| s.waiting += 1);
    }
}

async fn watch_space(sender: Sender<Input, Request>) {
    loop {
        sender.complete(Input::Space { available: 1 << 40, capacity: 1 << 41 });
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
}

fn config(world: &World, life: u64, previous: Option<binlog_core::node::status::NodeState>) -> PumpConfig {
    PumpConfig {
        node_id: NodeId::parse("pump-0").expect("a plain name"),
        advertise_addr: "pump-0:8250".to_owned(),
        cluster: ClusterId::new(CLUSTER),
        node_uuid: [1; 16],
        token: "token".to_owned(),
        seed: world.rng("salt", life).next_u64(),
        segment_bytes: 8 << 20,
        max_batch_bytes: 1 << 20,
        max_batch_records: 64,
        sync_log: true,
        gc_hold_ttl_s: 86_400,
        fake_interval_ms: 500,
        fake_on_demand_ms: 100,
        heartbeat_ms: 2_000,
        stop_write_at_available_space: 1 << 20,
        max_payload_bytes: 8 << 20,
        previous,
        wiped_directory_tso_needed: false,
        // Little, so that streams also read index and log.
        stream_memory: StreamMemory { tail_bytes: 64 << 10, entries: 16 },
        gc: GcConfig::default(),
    }
}
