//! The steps of transactions and DDL jobs, one by one.

use super::catalog::Schema;
use super::data::{Committed, DataEffect, What};
use super::ddl::{Job, Step, StepKind};
use super::txn::{DdlPhase, Phase, Wait};
use super::{BinlogKind, Call, Cluster, KvError, KvOp, Maker, Reply};
use crate::tikv::Mutation;
use crate::types::field_sort_key;
use binlog_core::codec::encode::{self, Mutations, RowEncoder};
use binlog_core::codec::key;
use bytes::Bytes;
use std::sync::Arc;

impl Cluster {
    pub(super) fn answered(&mut self, now_ms: u64, id: u64, wait: Wait, reply: &Reply) {
        match (wait, reply) {
            (Wait::StartTs, Reply::Ts(ts)) => self.started(now_ms, id, ts.raw()),
            (Wait::StartTs, _) => self.forget(id),
            (Wait::Prewrite, reply) => {
                if let Some(txn) = self.txns.get_mut(&id) {
                    txn.kv_done = Some(*reply == Reply::Kv(Ok(())));
                }
                self.prewritten(now_ms, id);
            }
            (Wait::CommitTs, Reply::Ts(ts)) => self.commit(id, now_ms, ts.raw()),
            (Wait::CommitTs, _) => self.abort(now_ms, id),
            (Wait::Commit, reply) => self.commit_answered(now_ms, id, reply),
            (Wait::Rollback, Reply::Kv(_)) => self.forget(id),
            (Wait::Rollback, _) => self.leave(id),
        }
    }

    fn started(&mut self, now_ms: u64, id: u64, start_ts: u64) {
        let Some(txn) = self.txns.get_mut(&id) else { return };
        txn.start_ts = start_ts;
        self.starts.insert(start_ts, id);
        if txn.session.is_none() {
            self.start_step(now_ms, id, start_ts);
            return;
        }
        let schema = Arc::clone(self.schema_of(self.txns[&id].server));
        let label = self.txns.get(&id).map_or(id, |txn| txn.label);
        let mut rng = self.rng.fork_n("transaction", label);
        let mut maker = Maker::new(&schema, &self.data, &self.locks, &self.config.weights, &mut self.next_row);
        maker.run(&mut rng);
        let (changes, own) = (maker.changes, maker.own);
        let Some((mutations, keys)) = encode_changes(&schema, &changes).filter(|(_, keys)| !keys.is_empty()) else {
            self.forget(id);
            return;
        };
        debug_assert!(own.rows.is_disjoint(&self.locks.rows), "a row has one owner");
        self.locks.rows.extend(own.rows.iter().copied());
        self.locks.keys.extend(own.keys.iter().cloned());
        let Some(txn) = self.txns.get_mut(&id) else { return };
        (txn.version, txn.changes, txn.locks) = (schema.version, changes, own);
        txn.keys = keys;
        txn.keys.truncate(1 + self.config.secondaries);
        txn.primary = txn.keys.first().cloned().unwrap_or_default();
        txn.prewrite = encode::prewrite(start_ts, txn.primary.clone(), mutations.prewrite_value(schema.version));
        let writes = txn.keys.iter().map(|k| (k.clone(), Mutation::Put(Bytes::from_static(b"row")))).collect();
        self.prewrite(now_ms, id, writes);
    }

    /// P and the locks, at the same time.
    fn prewrite(&mut self, now_ms: u64, id: u64, mutations: Vec<(Vec<u8>, Mutation)>) {
        let Some(txn) = self.txns.get_mut(&id) else { return };
        txn.phase = Phase::Prewriting;
        let (server, start_ts, primary, binlog) = (txn.server, txn.start_ts, txn.primary.clone(), txn.prewrite.clone());
        let op = KvOp::Prewrite { mutations, primary, start_ts, ttl_ms: self.config.lock_ttl_ms };
        self.send(server, Call::Kv(op), id, Wait::Prewrite);
        self.write_binlog(now_ms, server, BinlogKind::Prewrite, start_ts, &binlog);
        if self.config.commit_ts_before_ack {
            self.send(server, Call::GetTs, id, Wait::CommitTs);
        }
    }

    /// Goes on once P is acknowledged and the locks stand, or one of them failed and the other is over.
    pub(super) fn prewritten(&mut self, now_ms: u64, id: u64) {
        let Some(txn) = self.txns.get_mut(&id).filter(|t| t.phase == Phase::Prewriting) else { return };
        match (txn.binlog_done, txn.kv_done) {
            (Some(true), Some(true)) => {
                let (server, label) = (txn.server, txn.label);
                txn.phase = Phase::CommitTs;
                let by_user =
                    txn.session.is_some() && self.rng.fork_n("rollback", label).percent(self.config.rollback_percent);
                if by_user {
                    self.abort(now_ms, id);
                } else if !self.config.commit_ts_before_ack {
                    self.send(server, Call::GetTs, id, Wait::CommitTs);
                } else if let Some(ts) = self.txns.get(&id).and_then(|t| t.committed) {
                    self.commit(id, now_ms, ts);
                }
            }
            (Some(_), Some(_)) => self.abort(now_ms, id),
            _ => {}
        }
    }

    fn commit(&mut self, id: u64, now_ms: u64, commit_ts: u64) {
        let Some(txn) = self.txns.get_mut(&id) else { return };
        if txn.phase == Phase::Prewriting {
            // Only with the assumption broken: kept until the acknowledgement.
            txn.committed = Some(commit_ts);
            return;
        }
        if txn.phase != Phase::CommitTs {
            return;
        }
        txn.committed = None;
        let server = txn.server;
        let version = self.servers.get(server).map_or(0, |s| s.version);
        if self.txns.get(&id).is_some_and(|t| t.session.is_some()) && self.has_changed(id, server) {
            self.counts.schema_changed += 1;
            self.abort(now_ms, id);
            return;
        }
        let Some(txn) = self.txns.get_mut(&id) else { return };
        txn.checked = Some(version);
        txn.phase = Phase::Committing(commit_ts);
        let op = KvOp::Commit { keys: vec![txn.primary.clone()], start_ts: txn.start_ts, commit_ts };
        self.send(server, Call::Kv(op), id, Wait::Commit);
    }

    /// Whether a table of the transaction has another definition now than when it was made.
    fn has_changed(&self, id: u64, server: usize) -> bool {
        let Some(txn) = self.txns.get(&id) else { return true };
        let Some(before) = self.schemas.get(&txn.version) else { return true };
        let now = self.schema_of(server);
        txn.changes.iter().any(|c| before.tables.get(&c.table) != now.tables.get(&c.table))
    }

    fn commit_answered(&mut self, now_ms: u64, id: u64, reply: &Reply) {
        let Some(txn) = self.txns.get(&id) else { return };
        let Phase::Committing(commit_ts) = txn.phase else { return };
        let (server, start_ts) = (txn.server, txn.start_ts);
        let (c, r) = (encode::commit(&txn.prewrite, commit_ts), encode::rollback(&txn.prewrite));
        let secondaries: Vec<Vec<u8>> = txn.keys.iter().skip(1).cloned().collect();
        match reply {
            Reply::Kv(Ok(())) => {
                self.write_binlog(now_ms, server, BinlogKind::Commit, start_ts, &c);
                if !secondaries.is_empty() {
                    // In the background: nobody waits for it.
                    let op = KvOp::Commit { keys: secondaries, start_ts, commit_ts };
                    self.send(server, Call::Kv(op), 0, Wait::Rollback);
                }
                self.forget(id);
            }
            Reply::Kv(Err(KvError::TxnLockNotFound)) => {
                self.write_binlog(now_ms, server, BinlogKind::Rollback, start_ts, &r);
                self.counts.rolled_back += 1;
                self.forget(id);
            }
            _ => {
                // Undetermined: R all the same (rules 1).
                self.write_binlog(now_ms, server, BinlogKind::Rollback, start_ts, &r);
                self.counts.undetermined += 1;
                self.leave(id);
            }
        }
    }

    /// Rolls back in TiKV and says R, to the Pump that acknowledged P if one did.
    fn abort(&mut self, now_ms: u64, id: u64) {
        let Some(txn) = self.txns.get_mut(&id) else { return };
        txn.phase = Phase::RollingBack;
        let (server, start_ts, keys) = (txn.server, txn.start_ts, txn.keys.clone());
        let r = encode::rollback(&txn.prewrite);
        self.counts.rolled_back += 1;
        self.write_binlog(now_ms, server, BinlogKind::Rollback, start_ts, &r);
        self.send(server, Call::Kv(KvOp::Rollback { keys, start_ts }), id, Wait::Rollback);
    }

    /// The primary committed in TiKV: this is the moment at which it became true.
    pub(super) fn took_effect(&mut self, now_ms: u64, start_ts: u64, commit_ts: u64) {
        let Some(id) = self.starts.get(&start_ts).copied() else { return };
        let Some(txn) = self.txns.get_mut(&id) else { return };
        if txn.committed.is_some() || self.log.contains_key(&commit_ts) {
            return;
        }
        txn.committed = Some(commit_ts);
        let prewrite = txn.prewrite.clone();
        if txn.session.is_none() {
            self.step_done(now_ms, start_ts, commit_ts, prewrite);
            return;
        }
        let changes = std::mem::take(&mut txn.changes);
        let newest = Arc::clone(self.newest());
        self.data.apply(&newest, &changes);
        self.log.insert(commit_ts, Committed { start_ts, prewrite, what: What::Rows(changes) });
        self.counts.committed += 1;
    }

    /// Begins the next step when it may.
    pub(super) fn advance_ddl(&mut self, now_ms: u64) {
        loop {
            let Some((job, DdlPhase::Ready)) = &self.job else { return };
            if job.steps.is_empty() {
                self.job = None;
                return;
            }
            let newest = self.newest().version;
            let late = |version: i64| version < newest;
            let servers = self.servers.iter().any(|s| s.up && late(s.version));
            // A commit on its way that was checked against an older version must be over.
            let commits = self.txns.values().any(|t| t.checked.is_some_and(late));
            if servers || commits {
                return;
            }
            let owner = self.servers.iter().position(|s| s.up);
            let is_bump = job.steps.first().is_some_and(|s| s.kind == StepKind::Bump);
            if is_bump {
                if let Some((job, _)) = &mut self.job {
                    let step = job.steps.remove(0);
                    self.publish(now_ms, step.schema);
                }
                continue;
            }
            let Some(owner) = owner else { return };
            let id = self.start_txn(owner, None, 0);
            if let Some((_, phase)) = &mut self.job {
                *phase = DdlPhase::Running(id);
            }
            return;
        }
    }

    /// Makes a schema the newest one; servers load it in their time.
    fn publish(&mut self, now_ms: u64, mut schema: Schema) -> i64 {
        schema.version = self.newest().version + 1;
        let version = schema.version;
        let schema = Arc::new(schema);
        self.data.alter(&schema, &DataEffect::None);
        self.schemas.insert(version, schema);
        for server in &mut self.servers {
            server.loads_at = now_ms + self.ddl_rng.below(self.config.lease_ms + 1);
            if !server.up {
                server.version = version;
            }
        }
        version
    }

    /// The transaction of a DDL step has its start: it writes the history and its binlog.
    fn start_step(&mut self, now_ms: u64, id: u64, start_ts: u64) {
        let newest = Arc::clone(self.newest());
        let Some((job, _)) = &mut self.job else { return };
        // A unique index that is not unique fails the job: the table is as before, one version later.
        if let [Step { kind: StepKind::Final { .. }, schema }] = job.steps.as_slice()
            && let Some((table, before)) = job.unless_unique.take()
            && let Some(definition) = schema.tables.get(&table)
            && let Some(mut rows) = self.data.tables.get(&table).cloned()
            && !rows.rebuild(definition)
        {
            job.steps = vec![Step { schema: before, kind: StepKind::RolledBack }];
            self.counts.ddl_rolled_back += 1;
        }
        let Some(step) = job.steps.first() else { return };
        let version = match &step.kind {
            StepKind::Final { keeps_version: true, .. } => newest.version,
            StepKind::Final { .. } => newest.version + 1,
            StepKind::Bump | StepKind::Announce | StepKind::RolledBack => 0,
        };
        let names = &newest.databases;
        let json = job.json(&step.kind, version, start_ts, names);
        let history = key::history_job(job.id);
        let is_last = !matches!(step.kind, StepKind::Announce);
        let state = i32::try_from(schema_state(job, &step.kind)).unwrap_or(0);
        let primary = if is_last { history } else { key::meta_string(b"SchemaVersionKey") };
        let binlog = encode::ddl_prewrite(start_ts, primary.clone(), &job.query, job.id, state);
        let Some(txn) = self.txns.get_mut(&id) else { return };
        (txn.version, txn.prewrite, txn.primary, txn.keys) =
            (newest.version, binlog, primary.clone(), vec![primary.clone()]);
        self.prewrite(now_ms, id, vec![(primary, Mutation::Put(json.into()))]);
    }

    fn step_done(&mut self, now_ms: u64, start_ts: u64, commit_ts: u64, prewrite: binlog_core::proto::binlog::Binlog) {
        let Some((job, _)) = &mut self.job else { return };
        if job.steps.is_empty() {
            return;
        }
        let (id, step) = (job.id, job.steps.remove(0));
        let (schema, effect) = match step.kind {
            StepKind::Final { effect, keeps_version, .. } => {
                if !keeps_version {
                    self.publish(now_ms, step.schema);
                }
                let schema = Arc::clone(self.newest());
                self.data.alter(&schema, &effect);
                (Some(schema), effect)
            }
            StepKind::RolledBack => {
                self.publish(now_ms, step.schema);
                (None, DataEffect::None)
            }
            StepKind::Bump | StepKind::Announce => (None, DataEffect::None),
        };
        self.counts.ddl += 1;
        self.log.insert(commit_ts, Committed { start_ts, prewrite, what: What::Ddl { job: id, schema, effect } });
    }
}

fn schema_state(job: &Job, kind: &StepKind) -> i64 {
    job.schema_state(kind).0
}

/// The rows as TiDB writes them, and the keys that they lock. `None` when a row cannot be written, which would be a bug here.
fn encode_changes(schema: &Schema, changes: &[super::data::RowChange]) -> Option<(Mutations, Vec<Vec<u8>>)> {
    use super::data::Op;
    let mut mutations = Mutations::default();
    let mut keys: Vec<Vec<u8>> = Vec::new();
    for change in changes {
        let table = schema.tables.get(&change.table)?;
        let encoder = RowEncoder::new(&table.info).with_sort_keys(field_sort_key);
        let (bytes, key) = match &change.op {
            Op::Insert { id, row } => (encoder.insert(row, *id), encoder.key(row, *id)),
            Op::Update { id, old, new } => (encoder.update(old, new, *id), encoder.key(new, *id)),
            Op::Delete { id, old } => (encoder.delete(old, *id), encoder.key(old, *id)),
        };
        let bytes = bytes.unwrap_or_else(|e| unreachable!("a row of the model does not encode: {e}"));
        match &change.op {
            Op::Insert { .. } => mutations.insert(change.table, bytes),
            Op::Update { .. } => mutations.update(change.table, bytes),
            Op::Delete { .. } => mutations.delete(change.table, bytes),
        }
        let key = key.unwrap_or_else(|e| unreachable!("a row of the model has no key: {e}"));
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    Some((mutations, keys))
}
