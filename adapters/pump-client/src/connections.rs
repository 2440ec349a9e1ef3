//! One connection per Pump, made when it is first needed and again when the decisions say so.

use binlog_cluster::error::NodeError;
use binlog_cluster::pump_client::PumpWriter;
use binlog_cluster::tls::Security;
use binlog_core::client::pumps::Target;
use binlog_core::client::write::Outcome;
use binlog_core::ids::ClusterId;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

pub struct Connections {
    security: Security,
    /// By node id, with the number of the connection (see [`Target`]).
    open: Mutex<BTreeMap<String, (u64, PumpWriter)>>,
}

impl Connections {
    pub const fn new(security: Security) -> Self {
        Self { security, open: Mutex::new(BTreeMap::new()) }
    }

    /// One attempt, within `limit`.
    pub async fn send(&self, target: &Target, cluster: ClusterId, payload: Bytes, limit: Duration) -> Outcome {
        let attempt = async {
            let writer = self.writer(target).await?;
            writer.write(cluster, payload).await
        };
        match tokio::time::timeout(limit, attempt).await {
            Ok(Ok(())) => Outcome::Stored,
            Ok(Err(error)) => outcome(&error),
            Err(_) => Outcome::Failed {
                unavailable: false,
                text: format!("pump {} at {}: no answer within {limit:?}", target.node_id, target.address),
            },
        }
    }

    async fn writer(&self, target: &Target) -> Result<PumpWriter, NodeError> {
        let known = self.open.lock().unwrap_or_else(PoisonError::into_inner).get(&target.node_id).cloned();
        if let Some((_, writer)) = known.filter(|(connection, _)| *connection >= target.connection) {
            return Ok(writer);
        }
        let writer = PumpWriter::connect_with(&target.address, &self.security).await?;
        let entry = (target.connection, writer.clone());
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(target.node_id.clone(), entry);
        Ok(writer)
    }
}

/// What TiDB's client makes of an error (spec pump 8.4).
fn outcome(error: &NodeError) -> Outcome {
    let text = error.to_string();
    match error {
        NodeError::Rpc { code, .. } => {
            let unavailable = *code == tonic::Code::Unavailable;
            // The code is part of the text that Go shows, and what refusals are recognised by.
            Outcome::Failed { unavailable, text: format!("rpc error: code = {code:?} desc = {text}") }
        }
        NodeError::Connect { .. } => Outcome::Failed { unavailable: true, text },
        _ => Outcome::Failed { unavailable: false, text },
    }
}
