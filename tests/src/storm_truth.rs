//! What is wrong with what a Pump delivered through a storm (`storm`), and with what it still has.

use crate::harness::http_get;
use crate::storm::STUCK;
use anyhow::{Context, Result, bail};
use binlog_cluster::pump_client;
use binlog_core::ids::{ClusterId, CommitTs};
use binlog_core::proto::binlog::Binlog;
use binlog_sim_models::rng::Rng;
use bytes::Bytes;
use prost::Message;
use std::collections::BTreeMap;
use tokio_stream::StreamExt;

/// What a stream showed: commit_ts, payload.
pub type Items = Vec<(u64, Bytes)>;

/// The rows of the transaction that began at `start_ts`: size and content follow from it.
#[must_use]
pub fn value(start_ts: u64) -> Vec<u8> {
    let mut rng = Rng::new(start_ts);
    let size = match rng.below(200) {
        0 => 1_500_000,
        1..=20 => 20_000,
        _ => 100 + rng.below(3_000),
    };
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < size {
        bytes.extend(rng.next_u64().to_le_bytes());
    }
    bytes
}

/// All that a Pump serves up to the first item at or above `end`.
///
/// # Errors
/// The stream ends, or stays silent.
pub async fn everything(address: &str, cluster: ClusterId, end: u64) -> Result<Items> {
    let mut items = Items::new();
    let mut stream = pump_client::open(address, cluster, CommitTs::ZERO, false).await?;
    while items.last().is_none_or(|(ts, _)| *ts < end) {
        let Ok(next) = tokio::time::timeout(STUCK, stream.next()).await else {
            bail!("nothing was served for {STUCK:?} after {} items; the end is {end}", items.len());
        };
        let payload = next.context("the stream ended")??;
        let binlog = Binlog::decode(payload.clone()).context("an item does not decode")?;
        items.push((u64::try_from(binlog.commit_ts).unwrap_or(0), payload));
    }
    Ok(items)
}

/// A Pump's GC point: everything above it is there.
///
/// # Errors
/// It does not answer.
pub async fn held_from(address: &str) -> Result<u64> {
    let own: serde_json::Value = serde_json::from_str(&http_get(address, "/status/pump").await?)?;
    own["collector"]["point"].as_u64().context("GET /status/pump shows no GC point")
}

/// `shown`: what one stream delivered from the beginning to the end, over all kills. `there`: what the Pump served at the end,
/// where it had collected everything up to `from`. `held`: transactions whose prewrite it acknowledged. Both reach the end.
#[must_use]
pub fn problems(shown: &Items, there: &Items, from: u64, committed: &BTreeMap<u64, u64>, held: &[u64]) -> Vec<String> {
    let mut problems = Vec::new();
    for (what, items) in [("the stream", shown), ("the end", there)] {
        for pair in items.windows(2) {
            if let [(a, _), (b, _)] = pair
                && a >= b
            {
                problems.push(format!("{what}: {b} follows {a}"));
            }
        }
    }
    let mut served = BTreeMap::new();
    for (commit_ts, payload) in shown {
        let Ok(binlog) = Binlog::decode(payload.clone()) else {
            problems.push(format!("{commit_ts} does not decode"));
            continue;
        };
        let start_ts = u64::try_from(binlog.start_ts).unwrap_or(0);
        if start_ts == *commit_ts {
            continue;
        }
        served.insert(start_ts, *commit_ts);
        if committed.get(commit_ts) != Some(&start_ts) {
            problems.push(format!("{start_ts} was served as committed at {commit_ts}, it was not"));
        } else if binlog.prewrite_value.as_deref() != Some(value(start_ts).as_slice()) {
            problems.push(format!("the rows of {start_ts} are not what was written"));
        }
    }
    let truth: BTreeMap<u64, u64> = committed.iter().map(|(commit, start)| (*start, *commit)).collect();
    let lost = held.iter().filter(|start| truth.contains_key(start) && !served.contains_key(start));
    problems.extend(lost.map(|start| format!("{start} was acknowledged and committed, but was not delivered")));

    // Timestamps that only moved a watermark may differ: some live in memory only.
    let real = |items: &Items| -> BTreeMap<u64, Bytes> {
        items.iter().filter(|(_, payload)| !is_fake(payload)).cloned().collect()
    };
    let (shown, there) = (real(shown), real(there));
    for (ts, payload) in &there {
        match shown.get(ts) {
            Some(then) if then == payload => {}
            Some(_) => problems.push(format!("what was shown at {ts} has changed")),
            None => problems.push(format!("{ts} is there, but the stream went past it")),
        }
    }
    let vanished = shown.keys().filter(|ts| **ts > from && !there.contains_key(ts));
    problems.extend(vanished.map(|ts| format!("what was shown at {ts} has vanished; GC is at {from}")));
    problems
}

fn is_fake(payload: &Bytes) -> bool {
    Binlog::decode(payload.clone()).is_ok_and(|binlog| binlog.start_ts == binlog.commit_ts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(start: u64, commit: u64) -> (u64, Bytes) {
        let rows = (start != commit).then(|| value(start).into());
        let signed = |ts| i64::try_from(ts).unwrap();
        let binlog = Binlog {
            tp: 1,
            start_ts: signed(start),
            commit_ts: signed(commit),
            prewrite_value: rows,
            ..Binlog::default()
        };
        (commit, binlog.encode_to_vec().into())
    }

    #[test]
    fn what_the_comparison_finds() {
        let committed = BTreeMap::from([(10, 1), (20, 2), (30, 3)]);
        let good = vec![item(1, 10), item(15, 15), item(2, 20), item(3, 30)];
        let with =
            |shown: &Items, there: &Items, from| problems(shown, there, from, &committed, &[1, 2, 3, 9]).join("; ");
        let fakes_differ = vec![item(1, 10), item(12, 12), item(2, 20), item(3, 30), item(40, 40)];
        assert_eq!(with(&good, &fakes_differ, 0), "");
        assert_eq!(with(&good, &good[2..].to_vec(), 10), "", "GC took the first");
        assert_eq!(with(&good, &good, 10), "", "what GC may take need not be gone");
        for (what, shown, there, from, says) in [
            ("lost", vec![item(1, 10), item(3, 30)], vec![], 30, "2 was acknowledged"),
            ("not delivered", vec![item(1, 10), item(3, 30)], good.clone(), 0, "2 was acknowledged"),
            (
                "twice",
                vec![item(1, 10), item(1, 10), item(2, 20), item(3, 30)],
                vec![],
                30,
                "the stream: 10 follows 10",
            ),
            ("back", vec![item(2, 20), item(1, 10), item(3, 30)], good.clone(), 0, "the stream: 10 follows 20"),
            (
                "twice at the end",
                good.clone(),
                vec![item(2, 20), item(2, 20), item(3, 30)],
                10,
                "the end: 20 follows 20",
            ),
            ("invented", vec![item(1, 10), item(2, 20), item(9, 25), item(3, 30)], good.clone(), 0, "9 was served"),
            ("rows", vec![(10, item(7, 10).1), item(2, 20), item(3, 30)], good.clone(), 0, "7 was served"),
            ("changed", good.clone(), vec![(10, item(2, 10).1), item(2, 20), item(3, 30)], 0, "at 10 has changed"),
            ("vanished", good.clone(), vec![item(2, 20), item(3, 30)], 9, "at 10 has vanished"),
            ("late", vec![item(1, 10), item(3, 30)], good.clone(), 0, "20 is there"),
            ("below the GC point", vec![item(2, 20), item(3, 30)], good.clone(), 15, "10 is there"),
        ] {
            let problems = with(&shown, &there, from);
            assert!(problems.contains(says), "{what}: {problems}");
        }
    }
}
