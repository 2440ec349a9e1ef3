//! Plays TiDB: writes the recorded binlogs through WriteBinlog, one in flight per Pump, in the recorded order of each Pump.

use crate::capture::{Capture, Kind, Record};
use crate::progress::Counters;
use anyhow::{Context, Result, bail};
use binlog_cluster::generated::binlog::pump_client::PumpClient;
use binlog_core::proto::binlog::WriteBinlogReq;
use bytes::Bytes;
use std::time::{Duration, Instant};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

/// As TiDB's client.
const ATTEMPT: Duration = Duration::from_secs(15);
/// How long a record is tried again while a Pump is restarted.
const GIVE_UP: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);

/// What each of `pumps` Pumps gets. The recorded number: what its Pump got, in that order. Another number: all records by
/// their own timestamp (P by start_ts, C by commit_ts, R right after its P), each to Pump `start_ts mod N`. Fakes are left out.
#[must_use]
pub fn plan(capture: &Capture, pumps: usize) -> Vec<Vec<Record>> {
    let real = |r: &&Record| !r.fake;
    if pumps == capture.pumps.len() {
        let mut plan: Vec<Vec<Record>> =
            capture.pumps.iter().map(|records| records.iter().filter(real).cloned().collect()).collect();
        plan.iter_mut().for_each(|records: &mut Vec<Record>| records.sort_by_key(|r| r.i));
        return plan;
    }
    let mut all: Vec<&Record> = capture.records().filter(real).collect();
    all.sort_by_key(|r| match r.kind {
        Kind::Prewrite => (r.start_ts, 0),
        Kind::Rollback => (r.start_ts, 1),
        Kind::Commit => (r.commit_ts, 2),
    });
    let mut plan = vec![Vec::new(); pumps.max(1)];
    let pumps = plan.len() as u64;
    for record in all {
        if let Some(queue) = usize::try_from(record.start_ts % pumps).ok().and_then(|n| plan.get_mut(n)) {
            queue.push(record.clone());
        }
    }
    plan
}

/// A connection to a Pump that survives its restart.
pub fn client(address: &str) -> Result<PumpClient<Channel>> {
    let channel = Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(Duration::from_secs(2))
        .tcp_nodelay(true)
        .connect_lazy();
    Ok(PumpClient::new(channel).max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX))
}

/// Writes each plan to its address, all at once; returns when every record is acknowledged. `rate` is records per second over
/// all Pumps; without it as fast as they acknowledge.
pub async fn feed(
    cluster_id: u64,
    plan: &[Vec<Record>],
    addresses: &[String],
    rate: Option<f64>,
    counters: &std::sync::Arc<Counters>,
) -> Result<()> {
    let total: usize = plan.iter().map(Vec::len).sum();
    let mut tasks = tokio::task::JoinSet::new();
    for (pump, (records, address)) in plan.iter().zip(addresses).enumerate() {
        let payloads: Vec<Bytes> = records.iter().map(|r| r.payload.clone()).collect();
        // Each Pump gets its share, so that all end together.
        let rate = rate.map(|rate| rate * payloads.len() as f64 / total.max(1) as f64);
        let (address, counters) = (address.clone(), counters.clone());
        tasks.spawn(async move {
            let mut client = client(&address)?;
            let start = Instant::now();
            for (n, payload) in payloads.into_iter().enumerate() {
                if let Some(rate) = rate.filter(|r| *r > 0.0) {
                    let due = Duration::from_secs_f64(n as f64 / rate);
                    tokio::time::sleep(due.saturating_sub(start.elapsed())).await;
                }
                let request = WriteBinlogReq { cluster_id, payload };
                write(&mut client, request, &counters)
                    .await
                    .with_context(|| format!("record {n} to the Pump at {address}"))?;
                counters.acknowledge(pump);
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.context("a feeder panicked")??;
    }
    Ok(())
}

async fn write(client: &mut PumpClient<Channel>, request: WriteBinlogReq, counters: &Counters) -> Result<()> {
    let give_up = Instant::now() + GIVE_UP;
    loop {
        let outcome = tokio::time::timeout(ATTEMPT, client.write_binlog(request.clone())).await;
        let problem = match outcome {
            Ok(Ok(reply)) => {
                let errmsg = reply.into_inner().errmsg;
                if errmsg.is_empty() {
                    return Ok(());
                }
                errmsg
            }
            Ok(Err(status))
                if matches!(
                    status.code(),
                    Code::ResourceExhausted | Code::InvalidArgument | Code::FailedPrecondition | Code::Unimplemented
                ) =>
            {
                bail!("refused: {status}")
            }
            Ok(Err(status)) => status.to_string(),
            Err(_) => format!("no answer within {ATTEMPT:?}"),
        };
        if Instant::now() > give_up {
            bail!("not acknowledged within {GIVE_UP:?}; last: {problem}");
        }
        counters.retry();
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
#[path = "feed_tests.rs"]
mod tests;
