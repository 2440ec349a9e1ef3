//! GC in a storm (`storm`): a Drainer's entry follows what every reader has, and rounds begin at any moment.

use crate::harness::{http_get, http_post};
use crate::storm_truth::Items;
use anyhow::Result;
use binlog_cluster::registry::{NodeKind, Registry};
use binlog_core::node::status::{NodeState, NodeStatus};
use binlog_sim_models::rng::Rng;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;

/// What GC did, as far as it was seen: a Pump counts anew in each life.
#[derive(Debug, Default)]
pub struct Collected {
    rounds: AtomicU64,
    freed: AtomicU64,
    reused: AtomicU64,
    filled: AtomicU64,
}

impl fmt::Display for Collected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [rounds, freed, reused, filled] =
            [&self.rounds, &self.freed, &self.reused, &self.filled].map(|n| n.load(Ordering::Relaxed));
        write!(
            f,
            "GC was asked for {rounds} times; in one life a Pump freed up to {freed} segments, used up to {reused} slots again and filled \
             up to {filled} ahead"
        )
    }
}

/// Asks one Pump for a round; it may be dead.
pub async fn trigger(address: &str) {
    let _ = http_post(address, "/debug/gc/trigger").await;
}

/// Registers the Drainer; then rounds begin until the task is aborted. A Pump never deletes what a reader still needs: the entry
/// moves only after the reader has it.
///
/// # Errors
/// The registry does not take the entry: GC would go by age.
pub async fn start(
    pd_url: &str,
    pumps: Vec<String>,
    shown: Vec<Arc<Mutex<Items>>>,
    rng: Rng,
    collected: Arc<Collected>,
) -> Result<JoinHandle<()>> {
    let registry = Registry::new(&[pd_url.to_owned()])?;
    registry.put(NodeKind::Drainer, &drainer(0)).await?;
    Ok(tokio::spawn(run(registry, pumps, shown, rng, collected)))
}

async fn run(
    registry: Registry,
    pumps: Vec<String>,
    shown: Vec<Arc<Mutex<Items>>>,
    mut rng: Rng,
    collected: Arc<Collected>,
) {
    loop {
        // Some way behind what a reader has: the rest is there at the end, to be compared.
        let settled = |items: &Arc<Mutex<Items>>| {
            let items = items.lock().unwrap_or_else(PoisonError::into_inner);
            items.get(items.len() * 2 / 3).map_or(0, |(ts, _)| *ts)
        };
        let checkpoint = shown.iter().map(settled).min().unwrap_or(0);
        // An entry that is old only makes GC wait.
        let _ = registry.put(NodeKind::Drainer, &drainer(checkpoint)).await;
        let victim = usize::try_from(rng.below(pumps.len() as u64)).unwrap_or(0);
        if let Some(address) = pumps.get(victim) {
            trigger(address).await;
            collected.rounds.fetch_add(1, Ordering::Relaxed);
            look(address, &collected).await;
        }
        tokio::time::sleep(Duration::from_millis(rng.below(150))).await;
    }
}

async fn look(address: &str, collected: &Collected) {
    let Ok(text) = http_get(address, "/status/pump").await else { return };
    let own: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let slots = &own["collector"]["slots"];
    for (name, most) in [("freed", &collected.freed), ("reused", &collected.reused), ("filled", &collected.filled)] {
        most.fetch_max(slots[name].as_u64().unwrap_or(0), Ordering::Relaxed);
    }
}

/// Paused, so that a Pump that starts does not look for it.
fn drainer(checkpoint: u64) -> NodeStatus {
    NodeStatus {
        node_id: "storm-drainer".to_owned(),
        host: "127.0.0.1:1".to_owned(),
        state: NodeState::Paused,
        is_alive: false,
        score: 0,
        label: serde_json::Value::Null,
        max_commit_ts: i64::try_from(checkpoint).unwrap_or(i64::MAX),
        update_ts: 0,
        token: None,
    }
}
