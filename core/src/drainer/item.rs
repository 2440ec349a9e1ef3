//! One message of a Pump, decoded and classified (spec drainer 2.2, 2.3, 2.5).

use crate::ids::{CommitTs, StartTs};
use crate::proto::binlog::Binlog;
use bytes::Bytes;
use prost::Message;
use std::hash::{DefaultHasher, Hash, Hasher};

/// What a binlog is to the Drainer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// start_ts = commit_ts: the promise that everything up to here was sent.
    Fake,
    Dml {
        value: Bytes,
    },
    Ddl {
        job_id: i64,
        query: Bytes,
        schema_state: i32,
    },
    /// A sequence's pretend DDL: its job is in no history (recorded.md), so it is dropped before the look-up.
    SetVal,
}

/// A decoded binlog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) commit_ts: CommitTs,
    pub(super) kind: Kind,
    /// Of start_ts, prewrite value, DDL query, job id and state (rules 7). Not of the prewrite key, which a Pump that
    /// resolved the transaction by itself lacks.
    pub(super) identity: u64,
    /// Length of the payload: what the source's credit was charged.
    pub(super) bytes: u64,
}

impl Item {
    /// Decodes a payload; `is_setval` looks at DDL query and prewrite key.
    pub(super) fn decode(payload: Bytes, is_setval: fn(&[u8], &[u8]) -> bool) -> Result<Self, String> {
        let bytes = payload.len() as u64;
        let binlog = Binlog::decode(payload).map_err(|e| e.to_string())?;
        let commit_ts = positive("commit_ts", binlog.commit_ts)?;
        let start_ts = StartTs::new(positive("start_ts", binlog.start_ts)?);
        if start_ts.raw() > commit_ts {
            return Err(format!("its start_ts {start_ts} is above its commit_ts {commit_ts}"));
        }
        let value = binlog.prewrite_value.unwrap_or_default();
        let query = binlog.ddl_query.unwrap_or_default();
        let identity = identity(start_ts, &value, &query, binlog.ddl_job_id, binlog.ddl_schema_state);
        let key = binlog.prewrite_key.unwrap_or_default();
        let kind = if start_ts.raw() == commit_ts {
            Kind::Fake
        } else if !query.is_empty() && is_setval(&query, &key) {
            Kind::SetVal
        } else if binlog.ddl_job_id > 0 {
            Kind::Ddl { job_id: binlog.ddl_job_id, query, schema_state: binlog.ddl_schema_state }
        } else if !query.is_empty() && value.is_empty() {
            return Err(format!("it has a DDL query, but its ddl_job_id is {}", binlog.ddl_job_id));
        } else {
            Kind::Dml { value }
        };
        Ok(Self { commit_ts: CommitTs::new(commit_ts), kind, identity, bytes })
    }

    pub(super) fn is_fake(&self) -> bool {
        self.kind == Kind::Fake
    }
}

fn positive(name: &str, ts: i64) -> Result<u64, String> {
    u64::try_from(ts).ok().filter(|ts| *ts > 0).ok_or_else(|| format!("its {name} is {ts}"))
}

fn identity(start_ts: StartTs, value: &[u8], query: &[u8], job_id: i64, schema_state: i32) -> u64 {
    // The standard library's fixed-key SipHash: the same in every run, which is all that is asked of it here.
    let mut hasher = DefaultHasher::new();
    (start_ts, value, query, job_id, schema_state).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binlog(start_ts: i64, commit_ts: i64) -> Binlog {
        Binlog { tp: 1, start_ts, commit_ts, prewrite_value: Some(Bytes::from_static(b"v")), ..Binlog::default() }
    }

    fn decode(binlog: &Binlog) -> Result<Item, String> {
        Item::decode(binlog.encode_to_vec().into(), |query, _| query == b"setval")
    }

    #[test]
    fn classification() {
        let ddl = |query: &'static [u8], job_id| Binlog {
            ddl_query: Some(Bytes::from_static(query)),
            ddl_job_id: job_id,
            ..binlog(5, 9)
        };
        let cases = [
            (binlog(9, 9), Kind::Fake),
            (binlog(5, 9), Kind::Dml { value: Bytes::from_static(b"v") }),
            (ddl(b"setval", 7), Kind::SetVal),
            (ddl(b"setval", 0), Kind::SetVal),
            (ddl(b"create", 7), Kind::Ddl { job_id: 7, query: Bytes::from_static(b"create"), schema_state: 0 }),
        ];
        for (binlog, kind) in cases {
            assert_eq!(decode(&binlog).unwrap().kind, kind, "{binlog:?}");
        }
    }

    #[test]
    fn nonsense_is_an_error_that_says_what() {
        for (start, commit, says) in
            [(0, 9, "start_ts is 0"), (-3, 9, "start_ts is -3"), (5, -1, "commit_ts is -1"), (9, 5, "above")]
        {
            let error = decode(&binlog(start, commit)).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
        assert!(Item::decode(Bytes::from_static(b"\xff\xff"), |_, _| false).is_err());
        let lost_job = Binlog { ddl_query: Some(Bytes::from_static(b"create")), prewrite_value: None, ..binlog(5, 9) };
        assert!(decode(&lost_job).unwrap_err().contains("ddl_job_id is 0"));
    }

    #[test]
    fn identity_covers_all_but_the_prewrite_key() {
        let base = binlog(5, 9);
        let id = |b: &Binlog| decode(b).unwrap().identity;
        let same =
            [Binlog { prewrite_key: Some(Bytes::from_static(b"k")), ..base.clone() }, Binlog { tp: 2, ..base.clone() }];
        let other = [
            Binlog { start_ts: 6, ..base.clone() },
            Binlog { prewrite_value: Some(Bytes::from_static(b"w")), ..base.clone() },
            Binlog { ddl_query: Some(Bytes::from_static(b"q")), ..base.clone() },
            Binlog { ddl_job_id: 1, ..base.clone() },
            Binlog { ddl_schema_state: 1, ..base.clone() },
        ];
        assert!(same.iter().all(|b| id(b) == id(&base)));
        assert!(other.iter().all(|b| id(b) != id(&base)));
    }
}
