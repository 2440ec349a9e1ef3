//! One life of the Drainer's process, put together as its `main` does, and its ends.

use super::machine::Watched;
use super::ports::{Calls, Ports, Request};
use super::side::{Door, MEMORY, World};
use binlog_core::drainer::config::DrainerConfig;
use binlog_core::drainer::input::Input;
use binlog_core::drainer::machine::Drainer;
use binlog_core::ids::NodeId;
use binlog_runtime::clock::Clock;
use binlog_runtime::{driver, status};
use madsim::runtime::{Handle, NodeHandle};
use madsim::task::JoinHandle;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// A shutdown gives up its waiting step by step: what is in flight, the registry, the sessions.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(80);

/// A process under way.
pub struct Process {
    node: NodeHandle,
    main: JoinHandle<u8>,
    world: Arc<World>,
}

impl Process {
    #[must_use]
    pub fn start(world: &Arc<World>, life: u64) -> Self {
        let node = Handle::current().create_node().name(format!("drainer life {life}")).build();
        let main = node.spawn(live(world.clone(), life));
        Self { node, main, world: world.clone() }
    }

    /// All tasks are dropped where they stand.
    pub async fn die(self) {
        let Self { node, main, world } = self;
        Handle::current().kill(node.id());
        assert!(main.await.is_err(), "killed, not ended");
        gone(&world);
        world.fold(0xdead);
    }

    /// A signal came: the driver must end by itself, with code 0.
    pub async fn ask_to_stop(&self) {
        if let Some(door) = self.world.with(|s| s.door.clone()) {
            let _ = door.sender.request(Request::Shutdown).await;
        }
    }

    /// Waits for the end in order.
    pub async fn ended(self) {
        let Self { node, main, world } = self;
        let code = timeout(SHUTDOWN_LIMIT, main).await.expect("the shutdown does not end").expect("no panic");
        assert_eq!(code, 0);
        // The process exits: whatever still ran is gone.
        Handle::current().kill(node.id());
        gone(&world);
        world.fold(0xe0d);
    }

    /// Whether the driver has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.main.is_finished()
    }
}

fn gone(world: &World) {
    world.with(|s| {
        s.door = None;
        s.on_the_way.clear();
    });
}

async fn live(world: Arc<World>, life: u64) -> u8 {
    let (sender, mut inbox) = driver::inbox::<_, Request>();
    let (asker, answerer) = status::channel(sender.clone());
    world.with(|s| {
        s.registered = false;
        s.door = Some(Door { sender: sender.clone(), asker });
    });
    let mut ports = Ports::new(world.clone(), sender.clone(), answerer);
    let mut machine = Watched::new(Drainer::new(config(&world, life)), world.clone());
    sender.complete(Input::Start);
    let code = driver::drive(&mut machine, &mut ports, &mut inbox, Clock::start()).await;
    // Whoever still waits is told, whether the machine has seen the call or not.
    ports.calls = Calls::default();
    drop(inbox);
    world.with(|s| s.door = None);
    code
}

fn config(world: &World, life: u64) -> DrainerConfig {
    let node = NodeId::parse("drainer-0").expect("a plain name");
    let mut config = DrainerConfig::new(node, "drainer-0:8249".to_owned());
    config.initial_commit_ts = 0;
    config.seed = world.rng("drainer", life).next_u64();
    config.memory_bytes = MEMORY;
    config.detect_interval_ms = 1_000;
    config
}
