//! Looking up one stored binlog by its timestamp, for `GET /debug/binlog/{ts}` (spec pump 5): by start_ts for a P, by commit_ts for
//! the rest, as the original's one key space does.

use super::effect::Effect;
use super::machine::Pump;
use super::outbox::Waiting;
use crate::binlog::item;
use crate::fault::{Fault, IoFault};
use crate::ids::{CommitTs, StartTs};
use crate::index::key;
use crate::index::op::{IndexOp, IndexReply};
use crate::index::value::{CommitValue, Span, StartValue};
use crate::vlog::record::Record;
use std::collections::BTreeMap;

/// Look-ups under way.
#[derive(Debug, Default)]
pub struct Inspect {
    /// By call: the timestamp asked for.
    calls: BTreeMap<u64, u64>,
    /// Reads of the log by token: call.
    reads: BTreeMap<u64, u64>,
    next_token: u64,
}

impl Pump {
    pub(super) fn read_binlog(&mut self, call: u64, ts: u64) {
        let refuse = if !self.can_stream() {
            Some("starting")
        } else if self.inspect.calls.len() >= MAX_CALLS {
            Some("too many look-ups are under way")
        } else {
            None
        };
        self.inspect.calls.insert(call, ts);
        if let Some(why) = refuse {
            return self.inspected(call, Err(why.to_owned()));
        }
        let keys = vec![key::start(StartTs::new(ts)), key::commit(CommitTs::new(ts))];
        self.out.index(Waiting::Inspect(call), IndexOp::Get(keys));
    }

    pub(super) fn inspect_found(&mut self, call: u64, result: Result<IndexReply, IoFault>) {
        let Some(ts) = self.inspect.calls.get(&call).copied() else { return };
        let found = match result {
            Ok(IndexReply::Values(values)) => place_of(&values, ts),
            Ok(_) => Err("the index answered in another form".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        match found {
            Ok(Place::Log(span)) => {
                self.inspect.next_token += 1;
                let token = TOKENS | self.inspect.next_token;
                self.inspect.reads.insert(token, call);
                self.log.read(span.ptr, span.len, token, &mut self.out.log_ops());
            }
            Ok(Place::Fake(payload)) => self.inspected(call, Ok(payload)),
            Err(why) => self.inspected(call, Err(why)),
        }
    }

    /// Whether the read was ours.
    pub(super) fn inspect_read(&mut self, token: u64, result: &Result<Record, Fault>) -> bool {
        let Some(call) = self.inspect.reads.remove(&token) else { return false };
        let answer = match result {
            Ok(record) => Ok(record.payload.clone()),
            Err(fault) => Err(fault.to_string()),
        };
        self.inspected(call, answer);
        true
    }

    fn inspected(&mut self, call: u64, result: Result<bytes::Bytes, String>) {
        if let Some(ts) = self.inspect.calls.remove(&call) {
            let result = result.map_err(|why| format!("fail read binlog by ts: {ts}: {why}"));
            self.out.effect(Effect::BinlogRead { call, result });
        }
    }
}

enum Place {
    Log(Span),
    Fake(bytes::Bytes),
}

fn place_of(values: &[Option<bytes::Bytes>], ts: u64) -> Result<Place, String> {
    let [start, commit] = values else { return Err("the index answered in another form".to_owned()) };
    if let Some(raw) = start
        && let StartValue::Prewrite { span, .. } = StartValue::decode(raw).map_err(|e| e.to_string())?
    {
        return Ok(Place::Log(span));
    }
    match commit.as_ref().map(|raw| CommitValue::decode(raw)).transpose().map_err(|e| e.to_string())? {
        Some(CommitValue::Commit { commit, .. }) => Ok(Place::Log(commit)),
        Some(CommitValue::Fake { .. }) => Ok(Place::Fake(item::fake(crate::time::Tso::new(ts)))),
        None => Err("not found".to_owned()),
    }
}

/// A person asks by hand.
const MAX_CALLS: usize = 64;
/// Sets our reads of the log apart from those of streams, which count from 1.
const TOKENS: u64 = 1 << 62;
