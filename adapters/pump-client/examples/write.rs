//! Writes one transaction to the Pumps of a cluster: `cargo run -p binlog-pump-client --example write -- http://127.0.0.1:2379`.

use anyhow::Context;
use binlog_cluster::pd::PdClient;
use binlog_core::proto::binlog::{Binlog, BinlogType, PrewriteValue};
use binlog_pump_client::{Options, PumpClient};
use prost::Message;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let pd_url = std::env::args().nth(1).context("usage: write PD_URL")?;
    let client = PumpClient::connect(Options::new([pd_url.clone()])).await?;
    println!("cluster {}, pumps {:?}", client.cluster_id(), client.pumps());

    let pd = PdClient::connect(&[pd_url]).await?;
    let start_ts = i64::try_from(pd.tso().await?.raw())?;
    let rows = PrewriteValue { schema_version: 1, ..PrewriteValue::default() };
    let prewrite = Binlog {
        tp: BinlogType::Prewrite as i32,
        start_ts,
        prewrite_key: Some(b"t\x80\0\0\0\0\0\0\x01_r\x80\0\0\0\0\0\0\x01".to_vec().into()),
        prewrite_value: Some(rows.encode_to_vec().into()),
        ..Binlog::default()
    };
    println!("prewrite {start_ts} is at pump {}", client.prewrite(&prewrite).await?);

    // Only now: the order of everything downstream rests on it.
    let commit_ts = i64::try_from(pd.tso().await?.raw())?;
    let commit = Binlog { tp: BinlogType::Commit as i32, start_ts, commit_ts, ..Binlog::default() };
    println!("commit {commit_ts}: {:?}", client.finish(&commit).await);
    Ok(())
}
