//! Our stream against the recorded one of the original's Pump: the same transactions in the same order with the same content.
//!
//! Without fakes, up to the largest recorded commit timestamp. The content is compared decoded: the original joins C with
//! fields of P, we append fields of C to P, so the bytes differ while the message is the same. `prewrite_key` is not compared
//! where a side's C was written by a Pump, which shows as a missing key.

use crate::capture::Item;
use anyhow::{Context, Result, bail};
use binlog_core::proto::binlog::{Binlog, PrewriteValue};
use prost::Message;

/// Most differences that are worth printing.
const MAX_SHOWN: usize = 20;

/// The differences, each on a line; empty when equal. `recorded` and `ours` are in the order of their streams.
pub fn compare(recorded: &[Item], ours: &[Item], up_to: u64) -> Vec<String> {
    let mut out = unordered(ours);
    let (recorded, ours) = (transactions(recorded, up_to), transactions(ours, up_to));
    let (mut want, mut got) = (recorded.into_iter().peekable(), ours.into_iter().peekable());
    while out.len() < MAX_SHOWN {
        match (want.peek(), got.peek()) {
            (None, None) => return out,
            (Some(w), Some(g)) if w.commit_ts == g.commit_ts => {
                if let Err(error) = same(w, g) {
                    out.push(format!("commit ts {}: {error:#}", w.commit_ts));
                }
                want.next();
                got.next();
            }
            (Some(w), g) if g.is_none_or(|g| w.commit_ts < g.commit_ts) => {
                out.push(format!("commit ts {}: missing in our stream", w.commit_ts));
                want.next();
            }
            (_, Some(g)) => {
                out.push(format!("commit ts {}: only in our stream", g.commit_ts));
                got.next();
            }
            (Some(_), None) => {
                want.next();
            }
        }
    }
    out.push("… and more".into());
    out
}

/// Several streams as one, in commit order.
#[must_use]
pub fn merge(streams: Vec<Vec<Item>>) -> Vec<Item> {
    let mut all: Vec<Item> = streams.into_iter().flatten().filter(|item| !item.fake).collect();
    all.sort_by_key(|item| item.commit_ts);
    all
}

/// An item of a stream as we received it.
pub fn item(meta: Option<(i64, i64)>, payload: bytes::Bytes) -> Result<Item> {
    let binlog = Binlog::decode(payload.clone()).context("an item of our stream does not decode")?;
    let number = |ts: i64| u64::try_from(ts).context("a negative timestamp");
    let (start, commit) = meta.context("an item of our stream has no meta")?;
    if (start, commit) != (binlog.start_ts, binlog.commit_ts) {
        bail!("meta ({start}, {commit}) is not the payload's ({}, {})", binlog.start_ts, binlog.commit_ts);
    }
    Ok(Item { commit_ts: number(commit)?, meta: (number(start)?, number(commit)?), payload, fake: start == commit })
}

fn transactions(items: &[Item], up_to: u64) -> Vec<&Item> {
    items.iter().filter(|item| !item.fake && item.commit_ts <= up_to).collect()
}

/// Places where a stream does not strictly rise.
#[must_use]
pub fn unordered(items: &[Item]) -> Vec<String> {
    let pairs = items.iter().zip(items.iter().skip(1));
    pairs
        .filter(|(a, b)| a.commit_ts >= b.commit_ts)
        .take(MAX_SHOWN)
        .map(|(a, b)| format!("our stream does not rise: {} is followed by {}", a.commit_ts, b.commit_ts))
        .collect()
}

fn same(recorded: &Item, ours: &Item) -> Result<()> {
    let want = Binlog::decode(recorded.payload.clone()).context("the recorded payload does not decode")?;
    let got = Binlog::decode(ours.payload.clone()).context("our payload does not decode")?;
    let fields = [
        ("tp", i64::from(want.tp), i64::from(got.tp)),
        ("start_ts", want.start_ts, got.start_ts),
        ("commit_ts", want.commit_ts, got.commit_ts),
        ("ddl_job_id", want.ddl_job_id, got.ddl_job_id),
        ("ddl_schema_state", i64::from(want.ddl_schema_state), i64::from(got.ddl_schema_state)),
    ];
    for (name, want, got) in fields {
        if want != got {
            bail!("{name} is {got} instead of {want}");
        }
    }
    // The recorded C has no key where the original's Pump wrote it; ours always carries P's, if any.
    if want.prewrite_key.is_some() && got.prewrite_key.is_some() && want.prewrite_key != got.prewrite_key {
        bail!("prewrite_key differs");
    }
    // Absent and empty are the same to every reader.
    if want.ddl_query.clone().unwrap_or_default() != got.ddl_query.clone().unwrap_or_default() {
        bail!("ddl_query differs");
    }
    let value = |b: &Binlog| PrewriteValue::decode(b.prewrite_value.clone().unwrap_or_default());
    let (want, got) = (value(&want), value(&got));
    match (want, got) {
        (Ok(want), Ok(got)) if want == got => Ok(()),
        (Ok(want), Ok(got)) if want.mutations.len() != got.mutations.len() => {
            bail!("{} mutations instead of {}", got.mutations.len(), want.mutations.len())
        }
        (Ok(_), Ok(_)) => bail!("prewrite_value differs"),
        (want, got) => {
            want.context("the recorded prewrite_value does not decode")?;
            got.context("our prewrite_value does not decode")?;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(start: i64, commit: i64, key: Option<&'static [u8]>, query: &'static str) -> Item {
        let binlog = Binlog {
            tp: 1,
            start_ts: start,
            commit_ts: commit,
            prewrite_key: key.map(Into::into),
            ddl_query: Some(query.into()),
            prewrite_value: Some(PrewriteValue { schema_version: 3, mutations: vec![] }.encode_to_vec().into()),
            ..Default::default()
        };
        item(Some((start, commit)), binlog.encode_to_vec().into()).unwrap()
    }

    #[test]
    fn equal_streams() {
        let recorded =
            [made(1, 2, None, "a"), made(5, 5, None, ""), made(3, 8, Some(b"k"), "b"), made(9, 99, None, "later")];
        let ours = [made(1, 2, Some(b"k"), "a"), made(3, 8, Some(b"k"), "b"), made(20, 20, None, "")];
        assert_eq!(compare(&recorded, &ours, 8), [""; 0], "fakes, what lies above, and a Pump's own C are left out");
    }

    #[test]
    fn each_kind_of_difference_is_named() {
        let recorded = [made(1, 2, Some(b"k"), "a"), made(3, 4, None, "b")];
        for (ours, part) in [
            (vec![made(1, 2, Some(b"k"), "a")], "commit ts 4: missing"),
            (vec![made(1, 2, Some(b"x"), "a"), made(3, 4, None, "b")], "prewrite_key"),
            (vec![made(1, 2, Some(b"k"), "a"), made(3, 4, None, "c")], "ddl_query"),
            (vec![made(0, 2, Some(b"k"), "a"), made(3, 4, None, "b")], "start_ts is 0 instead of 1"),
            (
                vec![made(1, 2, Some(b"k"), "a"), made(3, 3, None, "b"), made(3, 4, None, "b"), made(1, 4, None, "b")],
                "rise",
            ),
            (
                vec![made(1, 2, Some(b"k"), "a"), made(1, 3, None, "x"), made(3, 4, None, "b")],
                "commit ts 3: only in ours",
            ),
        ] {
            let found = compare(&recorded, &ours, 4).join("\n");
            let part = part.replace("ours", "our stream");
            assert!(found.contains(&part), "{part}: {found}");
        }
    }

    #[test]
    fn a_wrong_meta_is_refused() {
        let payload = made(1, 2, None, "").payload;
        assert!(item(Some((1, 3)), payload.clone()).is_err());
        assert!(item(None, payload).is_err());
    }
}
