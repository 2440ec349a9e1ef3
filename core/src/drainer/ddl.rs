//! A DDL at its place in commit order (spec drainer 2.5, 3.4): its job is fetched from the history, waited for when it is
//! not there yet, and judged. Everything before is applied by then; nothing after it starts.

use super::effect::Effect;
use super::out::Out;
use super::retry::Retry;
use crate::fault::Fault;
use crate::ids::{CommitTs, OpId, SchemaVersion};
use crate::pump::effect::Level;
use crate::schema::model::{Job, SchemaState};
use crate::time::MonoTime;
use bytes::Bytes;

/// The look-up of one job.
#[derive(Debug)]
pub(super) struct JobWait {
    pub(super) commit_ts: CommitTs,
    pub(super) job_id: i64,
    op: Option<OpId>,
    since: MonoTime,
    not_before: MonoTime,
    /// The wait was said.
    said: bool,
    retry: Retry,
    /// The job, once it is there.
    json: Option<Bytes>,
    /// The history was read and does not have it.
    absent: bool,
}

impl JobWait {
    pub(super) fn new(now: MonoTime, commit_ts: CommitTs, job_id: i64) -> Self {
        Self {
            commit_ts,
            job_id,
            op: None,
            since: now,
            not_before: now,
            said: false,
            retry: Retry::new(format!("reading DDL job {job_id} from the history")),
            json: None,
            absent: false,
        }
    }

    pub(super) fn is_absent(&self) -> bool {
        self.absent
    }

    /// Asks when it is time to; gives the job when it is there.
    pub(super) fn advance(&mut self, now: MonoTime, out: &mut Out) -> Option<Bytes> {
        if self.json.is_none() && self.op.is_none() && now >= self.due() {
            let job_id = self.job_id;
            self.op = Some(out.request(|op| Effect::FetchJob { op, job_id }));
        }
        self.json.clone()
    }

    fn due(&self) -> MonoTime {
        self.not_before.max(self.retry.not_before())
    }

    pub(super) fn deadline(&self) -> Option<MonoTime> {
        (self.op.is_none() && self.json.is_none()).then(|| self.due())
    }

    pub(super) fn done(&mut self, now: MonoTime, op: OpId, result: Result<Option<Bytes>, String>, out: &mut Out) {
        if self.op != Some(op) {
            return;
        }
        self.op = None;
        match result {
            Ok(Some(json)) => {
                self.retry.succeed(now, out);
                self.absent = false;
                self.json = Some(json);
            }
            Ok(None) => {
                // TiDB writes the binlog just before the job reaches the history.
                self.retry.succeed(now, out);
                self.absent = true;
                self.not_before = now.plus_millis(ABSENT_MS);
                if !self.said && now.millis_since(self.since) >= SAY_AFTER_MS {
                    self.said = true;
                    let (job, ts) = (self.job_id, self.commit_ts);
                    let text = format!(
                        "DDL job {job} (commit_ts {ts}) is still not in the history of TiDB; nothing behind it is applied \
                         until it is, or until this drainer is started with {ts} in ignore-txn-commit-ts"
                    );
                    out.notice(Level::Warn, text);
                }
            }
            Err(error) => self.retry.fail(now, &error, out),
        }
    }

    /// For the status.
    pub(super) fn why_waiting(&self) -> String {
        match self.retry.trouble() {
            Some((error, _)) => format!("DDL job {} cannot be read: {error}", self.job_id),
            None => format!("DDL job {} is not in the history yet", self.job_id),
        }
    }

    pub(super) fn since(&self) -> MonoTime {
        self.since
    }
}

/// Why a job's binlog is dropped; `None`: it took effect, or announces the delete-only state of a dropped column.
pub(super) fn dropped(commit_ts: CommitTs, json: &[u8], schema_state: i32) -> Result<Option<String>, Fault> {
    let job = Job::parse(json).map_err(|e| Fault::BadBinlog {
        commit_ts,
        what: format!("its DDL job in the history is not readable: {e}"),
    })?;
    if i64::from(schema_state) == SchemaState::DELETE_ONLY.0 {
        return Ok(None);
    }
    if !job.state.took_effect() {
        return Ok(Some(format!("DDL job {} did not take effect (state {})", job.id, job.state.0)));
    }
    if job.version() == SchemaVersion::new(0) {
        return Ok(Some(format!("DDL job {} has schema version 0: it failed", job.id)));
    }
    Ok(None)
}

/// As the original waits.
const ABSENT_MS: u64 = 1_000;
/// Longer than any job takes from its binlog to the history.
const SAY_AFTER_MS: u64 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_jobs_are_dropped() {
        let cases = [
            (r#"{"state":4,"binlog":{"SchemaVersion":7}}"#, 0, false),
            (r#"{"state":6,"binlog":{"SchemaVersion":7}}"#, 0, false),
            (r#"{"state":3,"binlog":{"SchemaVersion":7}}"#, 0, true),
            (r#"{"state":5,"binlog":{"SchemaVersion":0}}"#, 0, true),
            (r#"{"state":6,"binlog":{"SchemaVersion":0}}"#, 0, true),
            (r#"{"state":3,"binlog":{"SchemaVersion":0}}"#, 1, false),
        ];
        for (json, schema_state, expected) in cases {
            let is = dropped(CommitTs::new(1), json.as_bytes(), schema_state).unwrap().is_some();
            assert_eq!(is, expected, "{json} in schema state {schema_state}");
        }
        let error = dropped(CommitTs::new(1), b"[", 0).unwrap_err();
        assert!(matches!(error, Fault::BadBinlog { commit_ts, .. } if commit_ts == CommitTs::new(1)));
    }

    #[test]
    fn waits_for_an_absent_job_and_says_so_once() {
        let mut out = Out::new(0);
        let mut now = MonoTime::ZERO;
        let mut wait = JobWait::new(now, CommitTs::new(5), 9);
        let mut notices = 0;
        for _ in 0..30 {
            assert_eq!(wait.advance(now, &mut out), None);
            while let Some(effect) = out.pop() {
                match effect {
                    Effect::FetchJob { op, job_id: 9 } => wait.done(now, op, Ok(None), &mut out),
                    Effect::Notice { level: Level::Warn, text } => {
                        assert!(text.contains("job 9"), "{text}");
                        notices += 1;
                    }
                    other => panic!("{other:?}"),
                }
            }
            now = wait.deadline().unwrap();
        }
        assert_eq!(notices, 1);
        wait.advance(now, &mut out);
        let Some(Effect::FetchJob { op, .. }) = out.pop() else { panic!() };
        wait.done(now, op, Ok(Some(Bytes::from_static(b"{}"))), &mut out);
        assert_eq!(wait.advance(now, &mut out), Some(Bytes::from_static(b"{}")));
        assert!(out.is_empty());
    }
}
