//! One connection per Pump, dialled when it is first needed; another one when the decisions say so.

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
        let sent = match self.writer(target) {
            Ok(writer) => writer.write_within(cluster, payload, limit).await,
            Err(error) => Err(error),
        };
        match sent {
            Ok(()) => Outcome::Stored,
            Err(error) => outcome(&target.node_id, &error),
        }
    }

    /// Nothing is dialled here, so that writes which begin together share one connection.
    fn writer(&self, target: &Target) -> Result<PumpWriter, NodeError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, writer)) = open.get(&target.node_id).filter(|(connection, _)| *connection >= target.connection)
        {
            return Ok(writer.clone());
        }
        let writer = PumpWriter::connect_lazy(&target.address, &self.security)?;
        open.insert(target.node_id.clone(), (target.connection, writer.clone()));
        Ok(writer)
    }
}

/// What TiDB's client makes of an error (spec pump 8.4).
fn outcome(node_id: &str, error: &NodeError) -> Outcome {
    match error {
        NodeError::Rpc { code, .. } => {
            let unavailable = *code == tonic::Code::Unavailable;
            // The code is part of the text that Go shows, and what refusals are recognised by.
            Outcome::Failed { unavailable, text: format!("rpc error: code = {code:?} desc = {error}") }
        }
        other => Outcome::Failed { unavailable: false, text: format!("pump {node_id} at {other}") },
    }
}
