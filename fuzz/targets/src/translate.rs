//! The whole way from a DDL history and a transaction to statements.
//!
//! Input: DDL jobs, one per line; an empty line; the prewrite value of a transaction. The transaction is translated before,
//! between and after the jobs, which come in the order of their lines, once with a history that knows them all and once with
//! one that learns each at its binlog.

use binlog_core::drainer::translate::{DdlPlan, TranslateConfig, Translator};
use binlog_core::ids::{CommitTs, SchemaVersion};
use binlog_core::schema::model::Job;
use binlog_core::sink::op::Statement;
use binlog_core::sink::sql::Dialect;
use bytes::Bytes;
use std::collections::BTreeSet;

pub fn translate(bytes: &[u8]) {
    let end = bytes.windows(2).position(|pair| pair == b"\n\n").unwrap_or(bytes.len());
    let (lines, value) = bytes.split_at(end);
    let value = value.get(2..).unwrap_or_default();
    let jobs: Vec<Bytes> = lines.split(|b| *b == b'\n').take(MAX_JOBS).map(Bytes::copy_from_slice).collect();
    for dialect in [Dialect::MariaDb, Dialect::MySql, Dialect::TiDb] {
        for known in [true, false] {
            run(&jobs, value, dialect, known);
        }
    }
}

fn run(jobs: &[Bytes], value: &[u8], dialect: Dialect, known: bool) {
    let mut translator = Translator::new(TranslateConfig { ignore_schemas: vec!["mysql".to_owned()], sync_ddl: true });
    translator.set_dialect(dialect);
    if known && translator.load_history(jobs).is_err() {
        return;
    }
    translator.start_at(CommitTs::new(5), SchemaVersion::default(), &BTreeSet::new()).expect("a start");
    let mut ts = 10;
    rows(&mut translator, &mut ts, value);
    for json in jobs {
        ts += 1;
        let query = Job::parse(json).map(|job| job.query).unwrap_or_default();
        match translator.ddl(CommitTs::new(ts), json, query.as_bytes(), 0) {
            Ok(DdlPlan::Run(ddl)) => {
                assert_eq!(ddl.commit_ts, CommitTs::new(ts));
                if ts % 2 == 0 && translator.last_ddl_creates() {
                    translator.skip_last_ddl();
                }
            }
            Ok(DdlPlan::Skip(why)) => assert!(!why.is_empty()),
            Err(fault) => assert!(!fault.to_string().is_empty()),
        }
        rows(&mut translator, &mut ts, value);
    }
}

fn rows(translator: &mut Translator, ts: &mut u64, value: &[u8]) {
    for safe in [false, true] {
        *ts += 1;
        if let Ok(transaction) = translator.transaction(CommitTs::new(*ts), value, safe) {
            transaction.statements.iter().for_each(check);
        }
    }
}

/// What every downstream would refuse whatever its tables are.
fn check(statement: &Statement) {
    // Names are in back-quotes, in which anything may stand.
    let outside = statement.sql.split('`').step_by(2);
    assert_eq!(outside.map(|text| text.matches('?').count()).sum::<usize>(), statement.params.len());
}

/// A history is read whole in any case; more lines only cost time.
const MAX_JOBS: usize = 16;
