//! What runs beside the writes: the registry is followed, ill Pumps are probed. Both end with the last client.

use crate::Inner;
use binlog_cluster::registry::watch::Watch;
use binlog_cluster::registry::{NodeKind, Registry};
use binlog_core::client::pumps::PROBE_INTERVAL_MS;
use bytes::Bytes;
use std::sync::Weak;
use std::time::Duration;

/// Takes every change; a watch that ended is begun anew with a listing, so that nothing is missed.
pub async fn registry(client: Weak<Inner>, registry: Registry, mut watch: Watch) {
    let mut failing = false;
    loop {
        let over = match tokio::time::timeout(LOOK_UP, watch.next()).await {
            // Nothing changed: see whether anybody still needs this.
            Err(_) if client.strong_count() > 0 => continue,
            Err(_) => return,
            Ok(Ok(status)) => {
                let Some(client) = client.upgrade() else { return };
                client.decisions().registered(&status);
                continue;
            }
            Ok(Err(error)) => error,
        };
        tracing::debug!("{over}: listing the Pumps again");
        watch = loop {
            tokio::time::sleep(RETRY_PAUSE).await;
            let result = registry.watch(NodeKind::Pump).await;
            let Some(client) = client.upgrade() else { return };
            match result {
                Ok((pumps, watch)) => {
                    pumps.iter().for_each(|status| client.decisions().registered(status));
                    failing = false;
                    break watch;
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!("the Pumps cannot be listed: {error}; trying again");
                    }
                }
            }
        };
    }
}

/// An empty payload asks a Pump whether it would take a prewrite (spec pump 1.4).
pub async fn probes(client: Weak<Inner>) {
    loop {
        tokio::time::sleep(Duration::from_millis(PROBE_INTERVAL_MS)).await;
        let Some(client) = client.upgrade() else { return };
        let ill = client.decisions().probes();
        for target in ill {
            let outcome = client.connections.send(&target, client.cluster, Bytes::new(), client.write_timeout).await;
            client.decisions().probed(&target, &outcome);
        }
    }
}

const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How often a quiet watch looks whether its client is gone.
const LOOK_UP: Duration = Duration::from_secs(30);
