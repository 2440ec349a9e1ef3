//! From a merged binlog to what is sent downstream: schema tracking, filters, rows, SQL (design 4.2, 4.3). Pure; owned by
//! the Drainer, which calls it in commit order.
//!
//! This file only routes: which table is replicated, dropped or unknown; which DDL is sent. What a job changes is in
//! schema/view.rs, what a row means in drainer/rows.rs, the texts are in sink/sql/.

use super::filter::Filter;
use super::rows::RowPlan;
use crate::codec::CodecError;
use crate::codec::mutation::{Mutation, PrewriteValue};
use crate::fault::Fault;
use crate::ids::{CommitTs, SchemaVersion};
use crate::schema::history::is_system_table;
use crate::schema::model::{ActionType, Job, SchemaState};
use crate::schema::tracker::{Applied, Tracker};
use crate::schema::view::{Effect, TableMove, TableName};
use crate::sink::change::{Change, RowChange};
use crate::sink::op::{Ddl, Statement};
use crate::sink::sql::clock::Zone;
use crate::sink::sql::ddl::DdlText;
use crate::sink::sql::{Dialect, dml};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Row plans kept between transactions; beyond this the cache starts anew. A plan holds one definition, some KiB.
const MAX_PLANS: usize = 4096;

/// What the configuration says about translation.
#[derive(Debug, Clone, Default)]
pub struct TranslateConfig {
    /// Schemas whose tables are not replicated (spec drainer 3.5.1), as in `ignore-schemas`.
    pub ignore_schemas: Vec<String>,
    /// DDL is tracked but not sent when false.
    pub sync_ddl: bool,
}

/// What a data transaction becomes.
#[derive(Debug, Default)]
pub struct Transaction {
    pub statements: Vec<Statement>,
    /// Upstream rows by kind: inserted, updated, deleted.
    pub rows: (u64, u64, u64),
    /// Tables (mutations) that were left out because the table is gone, skipped by an operator, or internal to TiDB.
    pub dropped: u64,
    /// A row has columns that no definition known so far has: their values are not in `statements`.
    pub unknown_columns: bool,
}

/// What a DDL becomes.
#[derive(Debug)]
pub enum DdlPlan {
    /// Tracked, nothing is sent; why.
    Skip(String),
    Run(Box<Ddl>),
}

/// Translates in commit order.
#[derive(Debug)]
pub struct Translator {
    config: TranslateConfig,
    /// An expression that does not compile fails `load_history`; configuration checks come earlier.
    filter: Result<Filter, String>,
    dialect: Dialect,
    tracker: Tracker,
    /// Tables whose CREATE an operator skipped: their rows and DDL are dropped.
    skipped: BTreeSet<i64>,
    /// Tables that the last DDL created, should the operator skip it.
    created: Vec<i64>,
    /// (table, version of its definition) → plan, all for one epoch of the tracker.
    plans: BTreeMap<(i64, SchemaVersion), Arc<RowPlan>>,
    plans_epoch: u64,
}

/// Row changes of a data transaction, before they are rendered.
#[derive(Debug, Default)]
pub struct Changes {
    pub changes: Vec<RowChange>,
    /// Mutations that were left out, see [`Transaction::dropped`].
    pub dropped: u64,
    /// See [`Transaction::unknown_columns`].
    pub unknown_columns: bool,
}

/// Where the rows of a mutation go.
enum Route {
    Plan(Arc<RowPlan>),
    /// Gone, skipped or internal.
    Drop,
    Filtered,
}

impl Translator {
    #[must_use]
    pub fn new(config: TranslateConfig) -> Self {
        let filter = Filter::compile(&config.ignore_schemas);
        Self {
            config,
            filter,
            dialect: Dialect::default(),
            tracker: Tracker::default(),
            skipped: BTreeSet::new(),
            created: Vec::new(),
            plans: BTreeMap::new(),
            plans_epoch: 0,
        }
    }

    /// What the downstream is; told after connecting. Statements made before are not changed.
    pub fn set_dialect(&mut self, dialect: Dialect) {
        self.dialect = dialect;
        self.plans.clear();
    }

    /// Takes the whole DDL history (raw job JSON, any order).
    pub fn load_history(&mut self, jobs: &[Bytes]) -> Result<(), Fault> {
        if let Err(error) = &self.filter {
            return Err(Fault::Schema(error.clone()));
        }
        self.tracker = Tracker::load(jobs)?;
        self.plans.clear();
        Ok(())
    }

    /// Sets the position: what was applied at or before `checkpoint` is the downstream's schema. `version` is the schema
    /// version stored with the checkpoint (0: unknown). `skipped`: tables whose CREATE an operator skipped.
    pub fn start_at(
        &mut self,
        checkpoint: CommitTs,
        version: SchemaVersion,
        skipped: &BTreeSet<i64>,
    ) -> Result<(), Fault> {
        self.tracker.start_at(checkpoint, version);
        self.skipped.clone_from(skipped);
        self.created.clear();
        self.plans.clear();
        Ok(())
    }

    /// The schema version that this transaction knew, if no known job reaches it. Mostly a DDL is still running. But the
    /// rows of a multi-schema change can come just before its binlog; `learn_history` before translating them lets them be
    /// read with their own definition.
    #[must_use]
    pub fn ahead_of_history(&self, prewrite_value: &[u8]) -> Option<SchemaVersion> {
        let version = SchemaVersion::new(PrewriteValue::decode(prewrite_value).ok()?.schema_version);
        (version > self.tracker.known_version()).then_some(version)
    }

    /// Schema version of a transaction.
    #[must_use]
    pub fn version_of(&self, prewrite_value: &[u8]) -> Option<SchemaVersion> {
        Some(SchemaVersion::new(PrewriteValue::decode(prewrite_value).ok()?.schema_version))
    }

    /// Takes up jobs that finished since `load_history` (the whole history or a part of it). Nothing is applied.
    pub fn learn_history(&mut self, jobs: &[Bytes]) -> Result<(), Fault> {
        self.tracker.learn(jobs)
    }

    /// A data transaction. `safe`: DELETE by row identity + INSERT, affected rows unchecked (rules 8, takeover).
    pub fn transaction(
        &mut self,
        commit_ts: CommitTs,
        prewrite_value: &[u8],
        safe: bool,
    ) -> Result<Transaction, Fault> {
        let Changes { changes, dropped, unknown_columns } = self.changes(commit_ts, prewrite_value)?;
        let mut rows = (0, 0, 0);
        for change in &changes {
            match change.change {
                Change::Insert { .. } => rows.0 += 1,
                Change::Update { .. } => rows.1 += 1,
                Change::Delete { .. } => rows.2 += 1,
            }
        }
        let statements = dml::render(&changes, safe, self.dialect, commit_ts);
        Ok(Transaction { statements, rows, dropped, unknown_columns })
    }

    /// The row changes of a data transaction in their order.
    pub fn changes(&mut self, commit_ts: CommitTs, prewrite_value: &[u8]) -> Result<Changes, Fault> {
        let bad = |what: String| Fault::BadBinlog { commit_ts, what };
        let value = PrewriteValue::decode(prewrite_value).map_err(|e| bad(format!("prewrite value: {e}")))?;
        let version = SchemaVersion::new(value.schema_version);
        self.tracker.reach(version, commit_ts);
        let mut found = Changes::default();
        for mutation in value.mutations() {
            let mutation = mutation.map_err(|e| bad(format!("prewrite value: {e}")))?;
            match self.route(commit_ts, version, mutation.table_id)? {
                Route::Drop => found.dropped += 1,
                Route::Filtered => {}
                Route::Plan(plan) => {
                    found.unknown_columns |= plan
                        .translate(&mutation, &mut found.changes)
                        .map_err(|e| bad(in_table(&plan, &mutation, version, &e)))?;
                }
            }
        }
        Ok(found)
    }

    fn route(&mut self, commit_ts: CommitTs, version: SchemaVersion, table: i64) -> Result<Route, Fault> {
        if is_system_table(table) || self.skipped.contains(&table) {
            return Ok(Route::Drop);
        }
        let view = self.tracker.view();
        let (Some(entry), Some(name)) = (view.table(table), view.name(table)) else {
            if view.is_gone(table) {
                return Ok(Route::Drop);
            }
            return Err(Fault::Schema(format!(
                "the transaction with commit_ts {commit_ts} and schema version {version} has rows of table id {table}, which no \
                 DDL up to schema version {} created",
                self.tracker.version()
            )));
        };
        if self.is_ignored(&name.schema) {
            return Ok(Route::Filtered);
        }
        let (made_by, definition) = match self.tracker.definition(table, version) {
            Some((made_by, definition)) => (made_by, definition),
            None => (entry.version, &entry.info),
        };
        if self.plans_epoch != self.tracker.epoch() || self.plans.len() >= MAX_PLANS {
            self.plans.clear();
            self.plans_epoch = self.tracker.epoch();
        }
        let json = self.dialect.json_style();
        let later = || self.tracker.later_definitions(table, made_by).map(|(version, info)| (version, &**info));
        let plan = self
            .plans
            .entry((table, made_by))
            .or_insert_with(|| Arc::new(RowPlan::new(definition, made_by, later(), entry, &name, json)));
        Ok(Route::Plan(Arc::clone(plan)))
    }

    fn is_ignored(&self, schema: &str) -> bool {
        self.filter.as_ref().is_ok_and(|filter| filter.is_ignored(schema))
    }

    /// Whether this DDL query is a sequence's pretend DDL, to be dropped before its job is looked up.
    #[must_use]
    pub fn is_setval(query: &[u8], _prewrite_key: &[u8]) -> bool {
        const FORM: &[u8] = b"select setval";
        query.trim_ascii_start().get(..FORM.len()).is_some_and(|head| head.eq_ignore_ascii_case(FORM))
    }

    /// A DDL at its place in commit order: moves the schema. `job` is the history's JSON.
    pub fn ddl(&mut self, commit_ts: CommitTs, job: &[u8], query: &[u8], schema_state: i32) -> Result<DdlPlan, Fault> {
        let job = Job::parse(job)
            .map_err(|e| Fault::Schema(format!("the job of the DDL with commit_ts {commit_ts} does not parse: {e}")))?;
        self.created.clear();
        let (id, action, state) = (job.id, job.action, job.state);
        let before = self.tracker.view().table(job.table_id).map(|entry| &*entry.info);
        let job_zone = Zone::of_job(&job, before);
        let announces = matches!(action, ActionType::DROP_COLUMN | ActionType::DROP_COLUMNS)
            && i64::from(schema_state) == SchemaState::DELETE_ONLY.0;
        if announces {
            return Ok(DdlPlan::Skip(format!("job {id} announces that a column is being dropped")));
        }
        let Some(mut applied) = self.tracker.apply(commit_ts, job) else {
            return Ok(DdlPlan::Skip(format!(
                "job {id} never took effect (state {}) or is about an internal table",
                state.0
            )));
        };
        if action.creates_tables() {
            self.created = self.created_by(&applied);
        }
        if action == ActionType::FLASHBACK_CLUSTER && self.dialect == Dialect::TiDb {
            return Err(Fault::Schema(format!(
                "FLASHBACK CLUSTER at commit_ts {commit_ts} cannot be replicated: the rows that it changed are in no binlog, and \
                 run downstream it would revert the checkpoint too; set the downstream up anew"
            )));
        }
        if let Some(reason) = self.not_replicated(&mut applied) {
            return Ok(DdlPlan::Skip(format!("job {id}: {reason}")));
        }
        if !self.config.sync_ddl {
            return Ok(DdlPlan::Skip(format!("job {id}: sync-ddl is false")));
        }
        let query = String::from_utf8_lossy(query);
        let text = DdlText { commit_ts, action, query: &query, applied: &applied, job_zone, dialect: self.dialect };
        Ok(match text.plan() {
            Ok(ddl) => DdlPlan::Run(Box::new(ddl)),
            Err(reason) => DdlPlan::Skip(format!("job {id}: {reason}")),
        })
    }

    fn created_by(&self, applied: &Applied) -> Vec<i64> {
        match &applied.effect {
            Effect::Tables(moves) => moves.iter().filter_map(|step| step.after.as_ref()).map(|(id, _)| *id).collect(),
            Effect::Schema { after: Some(schema), .. } => self.tracker.view().tables_in(schema),
            Effect::Schema { after: None, .. } | Effect::Nothing => Vec::new(),
        }
    }

    /// Why nothing is sent: filters (by the names before and after: a rename into or out of a replicated database counts),
    /// and tables that the downstream does not have because an operator skipped them. Steps of a rename that are not
    /// replicated are taken out.
    fn not_replicated(&mut self, applied: &mut Applied) -> Option<&'static str> {
        const FILTERED: &str = "the database is not replicated";
        match &mut applied.effect {
            Effect::Nothing => applied.schema.as_ref().is_some_and(|s| self.is_ignored(s)).then_some(FILTERED),
            Effect::Schema { before, after } => {
                before.iter().chain(after.iter()).all(|schema| self.is_ignored(schema)).then_some(FILTERED)
            }
            Effect::Tables(moves) => {
                let all = moves.len();
                let skipped: Vec<bool> = moves.iter().map(|step| self.carry_skip(step)).collect();
                let mut skipped = skipped.into_iter();
                moves.retain(|_| !skipped.next().unwrap_or(false));
                if moves.is_empty() && all > 0 {
                    return Some("an operator skipped the creation of this table");
                }
                let ignored = |name: &TableName| self.is_ignored(&name.schema);
                let names = |step: &TableMove| {
                    step.before.iter().chain(&step.after).map(|(_, name)| name.clone()).collect::<Vec<_>>()
                };
                moves.retain(|step| !names(step).iter().all(ignored));
                moves.is_empty().then_some(FILTERED)
            }
        }
    }

    /// Whether the table was skipped by an operator; keeps that under a new id (TRUNCATE), and forgets it with the table.
    fn carry_skip(&mut self, step: &TableMove) -> bool {
        let Some((before, _)) = &step.before else { return false };
        if !self.skipped.contains(before) {
            return false;
        }
        match &step.after {
            Some((after, _)) if after != before => {
                self.skipped.remove(before);
                self.skipped.insert(*after);
            }
            Some(_) => {}
            None => {
                self.skipped.remove(before);
            }
        }
        true
    }

    /// Whether the last DDL that `ddl` returned creates tables.
    #[must_use]
    pub fn last_ddl_creates(&self) -> bool {
        !self.created.is_empty()
    }

    /// An operator skipped the DDL at `commit_ts` (the last one that `ddl` returned): rows of tables that it would have
    /// created are dropped from now on.
    pub fn skip_last_ddl(&mut self) {
        self.skipped.extend(self.created.drain(..));
    }

    /// For the checkpoint: version of the last DDL applied in commit order.
    #[must_use]
    pub fn schema_version(&self) -> SchemaVersion {
        self.tracker.version()
    }

    /// For the checkpoint: ids of tables whose CREATE was skipped.
    #[must_use]
    pub fn skipped_tables(&self) -> BTreeSet<i64> {
        self.skipped.clone()
    }

    /// Where the schema stands; for status and tests.
    #[must_use]
    pub fn tracker(&self) -> &Tracker {
        &self.tracker
    }
}

fn in_table(plan: &RowPlan, mutation: &Mutation<'_>, version: SchemaVersion, error: &CodecError) -> String {
    let shape = plan.shape();
    format!(
        "a row of {}.{} (table id {}, schema version {version}): {error}",
        shape.schema, shape.table, mutation.table_id
    )
}
