//! Recorded streams of a real cluster go through the translator into tables in memory, which must end equal to what was
//! read from TiDB. Where a DDL converts or moves data (type changes, partitions), only the tables named by the test are
//! compared.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use base64::{Engine, prelude::BASE64_STANDARD};
use binlog_core::codec::default::missing;
use binlog_core::codec::value::{bit_bytes, enum_name, set_name};
use binlog_core::drainer::translate::{DdlPlan, TranslateConfig, Translator};
use binlog_core::ids::{CommitTs, SchemaVersion};
use binlog_core::proto::binlog::Binlog;
use binlog_core::schema::model::{ColumnInfo, FieldType, Job, TableInfo};
use binlog_core::schema::text::rename_pairs;
use binlog_core::sink::change::{Change, RowChange, RowValues, TableShape};
use binlog_core::sink::value::SqlValue;
use bytes::Bytes;
use flate2::read::GzDecoder;
use prost::Message;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

type Row = BTreeMap<String, SqlValue>;
type Name = (String, String);

struct Capture {
    jobs: Vec<Bytes>,
    by_id: BTreeMap<i64, Bytes>,
    stream: Vec<(CommitTs, Binlog)>,
    tables: Vec<Value>,
}

impl Capture {
    fn load(name: &str) -> Self {
        let read = |kind: &str| {
            let path = format!("{}/tests/data/captures/{name}.{kind}.gz", env!("CARGO_MANIFEST_DIR"));
            let mut text = String::new();
            GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_string(&mut text).unwrap();
            text
        };
        let jobs: Vec<Bytes> = read("jobs.jsonl").lines().map(|line| Bytes::from(line.to_owned())).collect();
        let by_id = jobs.iter().map(|job| (Job::parse(job).unwrap().id, job.clone())).collect();
        let stream = read("stream.jsonl");
        let stream = stream.lines().map(|line| {
            let item: Value = serde_json::from_str(line).unwrap();
            let payload = BASE64_STANDARD.decode(item["payload"].as_str().unwrap()).unwrap();
            (CommitTs::new(item["commit_ts"].as_u64().unwrap()), Binlog::decode(payload.as_slice()).unwrap())
        });
        let tables: Value = serde_json::from_str(&read("tables.json")).unwrap();
        Self { stream: stream.collect(), tables: tables.as_array().unwrap().clone(), jobs, by_id }
    }
}

#[derive(Debug, Default)]
struct Table {
    columns: Vec<ColumnInfo>,
    rows: Vec<Row>,
}

/// Tables as a downstream would have them: a statement on what is not there fails.
#[derive(Debug, Default)]
struct Model {
    tables: BTreeMap<Name, Table>,
    /// By id: what RECOVER and FLASHBACK TABLE bring back.
    dropped: BTreeMap<i64, Table>,
    failures: Vec<String>,
}

impl Model {
    fn fail(&mut self, ts: CommitTs, what: String) {
        self.failures.push(format!("{ts}: {what}"));
    }

    fn define(&mut self, name: Name, info: &TableInfo) {
        let columns: Vec<ColumnInfo> = info.cols.iter().filter(|c| c.is_public() && !c.hidden).cloned().collect();
        let table = self.tables.entry(name).or_default();
        let before = std::mem::replace(&mut table.columns, columns);
        for row in &mut table.rows {
            let mut old = std::mem::take(row);
            for column in table.columns.iter().filter(|c| !c.is_generated()) {
                let same = before.iter().find(|c| c.id == column.id);
                let same = same.or_else(|| before.iter().find(|c| c.name.lower == column.name.lower));
                let value = same.and_then(|c| Some(converted(old.remove(&c.name.original)?, c, column)));
                row.insert(column.name.original.clone(), value.unwrap_or_else(|| missing(column, column).unwrap()));
            }
        }
    }

    /// The DDL's effect on data, from the statement that would be sent and the job's definition.
    fn ddl(&mut self, ts: CommitTs, job: &Job, sql: &str, touches: &[Name]) {
        match job.action.0 {
            1 | 26 | 21 | 24 | 34..=36 => {}
            2 => {
                let gone = touches[0].0.clone();
                self.tables.retain(|(db, _), _| *db != gone);
            }
            4 => match self.tables.remove(&touches[0]) {
                Some(table) => drop(self.dropped.insert(job.table_id, table)),
                None => self.fail(ts, format!("{sql}: no such table")),
            },
            25 => {
                let table = self.dropped.remove(&job.table_id).expect("a table dropped or truncated before");
                self.tables.insert(touches[0].clone(), table);
            }
            11 => match self.tables.get_mut(&touches[0]) {
                Some(table) => {
                    let rows = std::mem::take(&mut table.rows);
                    self.dropped.insert(job.table_id, Table { columns: table.columns.clone(), rows });
                }
                None => self.fail(ts, format!("{sql}: no such table")),
            },
            14 | 47 => {
                for (old, new) in rename_pairs(sql).expect("a rendered rename") {
                    let (old, new) = ((old.schema.unwrap(), old.table), (new.schema.unwrap(), new.table));
                    match self.tables.remove(&old) {
                        Some(table) => drop(self.tables.insert(new, table)),
                        None => self.fail(ts, format!("{sql}: no table {old:?}")),
                    }
                }
            }
            3 => {
                let info = job.binlog.table_info.as_ref().unwrap();
                self.tables.remove(&touches[0]);
                self.define(touches[0].clone(), info);
            }
            _ => {
                if let Some(info) = &job.binlog.table_info {
                    let name = touches.iter().find(|(_, table)| *table == info.name.original).unwrap().clone();
                    if !self.tables.contains_key(&name) {
                        self.fail(ts, format!("{sql}: no table {name:?}"));
                    }
                    self.define(name, info);
                }
            }
        }
    }

    fn apply(&mut self, ts: CommitTs, change: &RowChange) {
        let shape = &change.shape;
        let name = (shape.schema.clone(), shape.table.clone());
        let Some(table) = self.tables.get_mut(&name) else {
            return self.fail(ts, format!("no table {name:?}"));
        };
        let mut problem = None;
        let mut row_of = |values: &RowValues| {
            let mut row = Row::new();
            for (column, value) in shape.columns.iter().zip(values).filter(|(c, _)| c.written) {
                let Some(value) = value else { continue };
                if !table.columns.iter().any(|c| c.name.original == column.name) {
                    problem = Some(format!("{name:?} has no column {}", column.name));
                }
                row.insert(column.name.clone(), value.clone());
            }
            row
        };
        match &change.change {
            Change::Insert { new } => {
                let row = row_of(new);
                for column in table.columns.iter().filter(|c| !c.is_generated()) {
                    if !row.contains_key(&column.name.original) {
                        problem = Some(format!("insert into {name:?} without {}", column.name.original));
                    }
                }
                table.rows.push(row);
            }
            Change::Update { old, new } => {
                let new = row_of(new);
                match find(&table.rows, shape, old) {
                    Ok(at) => table.rows[at].extend(new),
                    Err(e) => problem = Some(format!("update of {name:?}: {e}")),
                }
            }
            Change::Delete { old } => match find(&table.rows, shape, old) {
                Ok(at) => drop(table.rows.remove(at)),
                Err(e) => problem = Some(format!("delete from {name:?}: {e}")),
            },
        }
        if let Some(problem) = problem {
            self.fail(ts, problem);
        }
    }
}

/// The conversions by ALTER TABLE that texts and numbers do not hide.
fn converted(value: SqlValue, before: &ColumnInfo, after: &ColumnInfo) -> SqlValue {
    match (value, before.field_type.tp, after.field_type.tp) {
        (SqlValue::UInt(index), 247, 15 | 254) => {
            SqlValue::Text(enum_name(index, &before.field_type.elems).as_bytes().to_vec())
        }
        (SqlValue::Text(mut date), 10, 12 | 7) => {
            date.extend(b" 00:00:00");
            if after.field_type.decimal > 0 {
                date.push(b'.');
                date.extend((0..after.field_type.decimal).map(|_| b'0'));
            }
            SqlValue::Text(date)
        }
        (value, ..) => value,
    }
}

fn find(rows: &[Row], shape: &TableShape, old: &RowValues) -> Result<usize, String> {
    let key = shape.identity(old).map(<[usize]>::to_vec);
    let stored = |p: &usize| shape.columns[*p].written;
    let positions: Vec<usize> = match &key {
        Some(key) if key.iter().all(stored) => key.clone(),
        _ => (0..shape.columns.len()).filter(|p| stored(p) && old[*p].is_some()).collect(),
    };
    let matches = |row: &Row| positions.iter().all(|p| row.get(&shape.columns[*p].name) == old[*p].as_ref());
    let found: Vec<usize> = (0..rows.len()).filter(|at| matches(&rows[*at])).collect();
    match (found.as_slice(), key) {
        ([], _) => Err(format!("no row by {positions:?}")),
        ([_, _, ..], Some(_)) => Err("several rows under one key".to_owned()),
        ([first, ..], _) => Ok(*first),
    }
}

/// A value as the dump writes it.
fn dumped(value: &SqlValue, field: &FieldType, dump: &str) -> String {
    let escape = |bytes: &[u8]| {
        String::from_utf8_lossy(bytes)
            .replace('\\', "\\\\")
            .replace('\t', "\\t")
            .replace('\n', "\\n")
            .replace('\0', "\\0")
    };
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02X}")).collect::<String>();
    match (value, field.tp, dump) {
        (SqlValue::Null, ..) => "\\N".to_owned(),
        (SqlValue::Text(text), 245, _) => escape(plain_json(&String::from_utf8_lossy(text)).as_bytes()),
        (SqlValue::UInt(n), 247, _) => escape(enum_name(*n, &field.elems).as_bytes()),
        (SqlValue::UInt(n), 248, _) => escape(set_name(*n, &field.elems).unwrap().as_bytes()),
        (SqlValue::UInt(n), 16, _) => hex(&bit_bytes(*n, field.flen)),
        (SqlValue::Int(0) | SqlValue::UInt(0), 13, _) => "0000".to_owned(),
        (SqlValue::Text(bytes) | SqlValue::Bytes(bytes), _, "hex") => hex(bytes),
        (SqlValue::Text(bytes) | SqlValue::Bytes(bytes), ..) => escape(bytes),
        (SqlValue::Int(n), ..) => n.to_string(),
        (SqlValue::UInt(n), ..) => n.to_string(),
        (SqlValue::Double(n), ..) => format!("{n:e}"),
    }
}

/// 1 and 1.0 are the same number in JSON, but not the same text.
fn plain_json(text: &str) -> String {
    fn plain(value: &mut Value) {
        match value {
            Value::Number(number) => *value = Value::from(format!("{:e}", number.as_f64().unwrap())),
            Value::Array(items) => items.iter_mut().for_each(plain),
            Value::Object(fields) => fields.values_mut().for_each(plain),
            _ => {}
        }
    }
    let mut value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"));
    plain(&mut value);
    value.to_string()
}

struct Outcome {
    model: Model,
    translator: Translator,
    capture: Capture,
    skips: Vec<String>,
    runs: Vec<(i64, String, Option<String>)>,
}

/// `late`: the history is not known at start; each job comes with its binlog.
fn replay(name: &str, late: bool) -> Outcome {
    let capture = Capture::load(name);
    let ignore = ["INFORMATION_SCHEMA", "PERFORMANCE_SCHEMA", "mysql"].map(str::to_owned);
    let mut translator = Translator::new(TranslateConfig { ignore_schemas: ignore.to_vec(), sync_ddl: true });
    translator.load_history(if late { &[] } else { &capture.jobs }).unwrap();
    translator.start_at(CommitTs::ZERO, SchemaVersion::default(), &BTreeSet::new()).unwrap();
    let mut model = Model::default();
    let (mut skips, mut runs) = (Vec::new(), Vec::new());
    for (ts, binlog) in &capture.stream {
        let query = binlog.ddl_query.clone().unwrap_or_default();
        if binlog.ddl_job_id > 0 {
            if Translator::is_setval(&query, b"") {
                continue;
            }
            let raw = &capture.by_id[&binlog.ddl_job_id];
            let job = Job::parse(raw).unwrap();
            match translator.ddl(*ts, raw, &query, binlog.ddl_schema_state).unwrap() {
                DdlPlan::Skip(reason) => skips.push(reason),
                DdlPlan::Run(ddl) => {
                    model.ddl(*ts, &job, &ddl.sql, &ddl.touches);
                    runs.push((job.id, ddl.sql.clone(), ddl.database.clone()));
                }
            }
        } else if let Some(value) = &binlog.prewrite_value {
            let changes = translator.changes(*ts, value).unwrap().changes;
            changes.iter().for_each(|change| model.apply(*ts, change));
        }
    }
    Outcome { model, translator, capture, skips, runs }
}

impl Outcome {
    /// Differences of one table.
    fn compare(&self, expected: &Value, converted: bool) -> Vec<String> {
        let name = (expected["db"].as_str().unwrap().to_owned(), expected["table"].as_str().unwrap().to_owned());
        let Some(table) = self.model.tables.get(&name) else { return vec![format!("{name:?} is missing")] };
        let columns: Vec<(usize, &ColumnInfo, &str)> = expected["columns"]
            .as_array()
            .unwrap()
            .iter()
            .enumerate()
            .filter_map(|(at, column)| {
                let info = table.columns.iter().find(|c| c.name.original == column["name"].as_str().unwrap());
                let info = info.unwrap_or_else(|| panic!("{name:?} has no column {}", column["name"]));
                (!info.is_generated()).then(|| (at, info, column["dump"].as_str().unwrap()))
            })
            .collect();
        let mut want: Vec<Vec<String>> = expected["rows"]
            .as_array()
            .unwrap()
            .iter()
            .map(|line| {
                let cells: Vec<&str> = line.as_str().unwrap().split('\t').collect();
                let number = |text: &str| text.parse::<f64>().map_or(text.to_owned(), |n| format!("{n:e}"));
                let cell = |(at, info, dump): &(usize, &ColumnInfo, &str)| match *dump {
                    "float" => {
                        cells[*at].parse::<f32>().map_or(cells[*at].to_owned(), |n| format!("{:e}", f64::from(n)))
                    }
                    "double" => number(cells[*at]),
                    _ if info.field_type.tp == 245 && cells[*at] != "\\N" => {
                        plain_json(&cells[*at].replace("\\\\", "\\")).replace('\\', "\\\\")
                    }
                    _ => cells[*at].to_owned(),
                };
                columns.iter().map(cell).collect()
            })
            .collect();
        let mut have: Vec<Vec<String>> = table
            .rows
            .iter()
            .map(|row| columns.iter().map(|(_, c, dump)| dumped(&row[&c.name.original], &c.field_type, dump)).collect())
            .collect();
        if converted {
            // The model does not convert values when a DDL changes a type: 1, 1.0 and '1' are the same here.
            let plain = |text: &String| match (text.parse::<i128>(), text.parse::<f64>()) {
                (Err(_), Ok(n)) => n.to_string(),
                _ => text.clone(),
            };
            for row in want.iter_mut().chain(&mut have) {
                *row = row.iter().map(plain).collect();
            }
        }
        want.sort();
        have.sort();
        if want == have {
            return Vec::new();
        }
        let names: Vec<&str> = columns.iter().map(|(_, c, _)| c.name.original.as_str()).collect();
        let mut lines = vec![format!("{name:?} {names:?}")];
        lines.extend(want.iter().filter(|row| !have.contains(row)).map(|row| format!("  only in TiDB: {row:?}")));
        lines.extend(have.iter().filter(|row| !want.contains(row)).map(|row| format!("  only in ours: {row:?}")));
        if lines.len() == 1 {
            lines.push(format!("  {} rows, ours {}", want.len(), have.len()));
        }
        lines
    }

    /// `converted`: tables with changed column types; `except`: tables that differ for a reason that the test gives.
    fn expect_equal(&self, converted: &[&str], except: &[&str]) {
        let excused = |failure: &&String| !except.iter().any(|table| failure.contains(&format!("\"{table}\"")));
        let failures: Vec<&String> = self.model.failures.iter().filter(excused).collect();
        assert!(failures.is_empty(), "{failures:#?}");
        let mut differences = Vec::new();
        for table in &self.capture.tables {
            let found = self.compare(table, converted.contains(&table["table"].as_str().unwrap()));
            let excused = except.contains(&table["table"].as_str().unwrap());
            if excused {
                assert!(!found.is_empty(), "{} is equal: take it off the list", table["table"]);
            } else {
                differences.extend(found);
            }
        }
        assert!(differences.is_empty(), "{}", differences.join("\n"));
    }
}

#[test]
fn small_ends_equal() {
    replay("small", false).expect_equal(&[], &[]);
    replay("small", true).expect_equal(&[], &[]);
}

#[test]
fn types_end_equal() {
    // A temporary table has no rows and is not made downstream.
    replay("types", false).expect_equal(&[], &["gtmp"]);
}

#[test]
fn bank_ends_equal() {
    replay("bank", false).expect_equal(&[], &[]);
}

#[test]
fn ddl_under_load_ends_equal() {
    for late in [false, true] {
        let outcome = replay("ddl_concurrent_hard", late);
        outcome.expect_equal(&["t1", "t2", "t3", "t4", "t5"], &[]);
    }
}

#[test]
fn every_kind_of_ddl_is_tracked() {
    let outcome = replay("ddl", false);
    // The model has no partitions, so it does not know which rows TRUNCATE, DROP and EXCHANGE PARTITION move.
    outcome.expect_equal(&["c1", "conv"], &["p_range", "p_ex", "p_hash", "p_list", "p_lc"]);
    let view = outcome.translator.tracker().view();
    let name = |id| view.name(id).map(|name| format!("{}.{}", name.schema, name.table));
    for (id, expected) in [
        (124, Some("d1.back")), // renamed five times, across databases
        (126, Some("d1.r1")),   // the other side of a swap
        (128, Some("d2.m3")),
        (209, Some("d1.p_range")),
        (217, Some("d1.p_ex")), // took the id of the partition that it was exchanged with
        (222, None),
        (329, Some("d1.rec1_old")), // dropped, recovered, truncated away, brought back
        (333, Some("d1.rec1")),
        (308, None), // a view that was replaced
        (312, Some("d1.v2")),
        (317, Some("d1.seq1")),
        (325, None),
    ] {
        assert_eq!(name(id).as_deref(), expected, "{id}");
        assert!(expected.is_none() || !view.is_gone(id), "{id}");
    }
}

#[test]
fn statements_of_ddl() {
    let outcome = replay("ddl", false);
    let sent = |job: i64| {
        let run = outcome.runs.iter().find(|(id, ..)| *id == job);
        run.map(|(_, sql, database)| format!("{}: {sql}", database.as_deref().unwrap_or("-")))
    };
    for (job, expected) in [
        (85, "-: CREATE DATABASE `d1`\nCHARACTER SET utf8mb4 COLLATE utf8mb4_bin"),
        (92, "d3: ALTER DATABASE `d3` CHARACTER SET = utf8mb4 COLLATE = utf8mb4_general_ci;"),
        (96, "-: DROP DATABASE `d_tmp`;"),
        // One statement, two jobs; and a table that was not there.
        (121, "d1: DROP TABLE `d1`.`da`"),
        (122, "d1: DROP TABLE `d1`.`db`"),
        (123, "d1: DROP TABLE `d1`.`dc`"),
        (133, "d1: RENAME TABLE `d1`.`r1` TO `d1`.`swap_tmp`, `d1`.`r2` TO `d1`.`r1`, `d1`.`swap_tmp` TO `d1`.`r2`"),
        (135, "d1: RENAME TABLE `d1`.`m2` TO `d2`.`m2`"),
        (137, "d3: RENAME TABLE `d3`.`m2z` TO `d1`.`back`, `d1`.`m3` TO `d2`.`m3`"),
        (146, "d1: ALTER TABLE `c1` DROP COLUMN `c`;"),
        (224, "d1: ALTER TABLE `p_range` EXCHANGE PARTITION `p20` WITH TABLE `p_ex`;"),
        (314, "d1: DROP VIEW `d1`.`v1`"),
        (328, "d1: DROP SEQUENCE `d1`.`seq2`"),
        (332, "d1: RECOVER TABLE `rec1`;"),
        (370 + 1, "d1: create table \"ansi\" (\"id\" int primary key, \"v\" varchar(10) default 'x')"),
    ] {
        assert_eq!(sent(job).as_deref(), Some(expected), "job {job}");
    }
    let skipped = |job: i64| outcome.skips.iter().find(|reason| reason.starts_with(&format!("job {job}")));
    for (job, reason) in [
        (5, "not replicated"),
        (164, "never took effect"),
        (256, "attributes"),
        (281, "placement"),
        (291, "resource groups"),
        (338, "temporary"),
        (339, "temporary"),
    ] {
        assert!(skipped(job).is_some_and(|text| text.contains(reason)), "job {job}: {:?}", skipped(job));
    }
}

#[test]
fn a_database_comes_back_with_its_tables() {
    let outcome = replay("ddl_flashback_db", false);
    let view = outcome.translator.tracker().view();
    let name = view.name(86).unwrap();
    assert_eq!((name.schema.as_str(), name.table.as_str()), ("fb2", "t"));
    assert!(!view.is_gone(86));
    assert!(outcome.runs.iter().any(|(_, sql, database)| sql.starts_with("FLASHBACK DATABASE") && database.is_none()));
}

fn translator(jobs: &[Bytes]) -> Translator {
    let mut translator = Translator::new(TranslateConfig { ignore_schemas: vec!["mysql".to_owned()], sync_ddl: true });
    translator.load_history(jobs).unwrap();
    translator
}

/// At any place of a stream, a translator that starts from the checkpoint there makes the same of what follows as the one
/// that has seen everything before.
#[test]
fn a_restart_anywhere_finds_the_same_schema() {
    for capture in ["ddl", "ddl_concurrent_hard", "ddl_flashback_db"].map(Capture::load) {
        let mut running = translator(&capture.jobs);
        running.start_at(CommitTs::ZERO, SchemaVersion::default(), &BTreeSet::new()).unwrap();
        let mut restarted = translator(&capture.jobs);
        let last_table = 400;
        let names = |t: &Translator| -> Vec<_> { (0..last_table).map(|id| t.tracker().view().name(id)).collect() };
        let gone = |t: &Translator| -> Vec<_> { (0..last_table).map(|id| t.tracker().view().is_gone(id)).collect() };
        for (ts, binlog) in &capture.stream {
            let Some(raw) = capture.by_id.get(&binlog.ddl_job_id) else {
                if let Some(value) = &binlog.prewrite_value {
                    running.changes(*ts, value).unwrap();
                }
                continue;
            };
            running.ddl(*ts, raw, &binlog.ddl_query.clone().unwrap_or_default(), binlog.ddl_schema_state).unwrap();
            restarted.start_at(*ts, running.schema_version(), &BTreeSet::new()).unwrap();
            assert_eq!(names(&running), names(&restarted), "{ts}");
            assert_eq!(gone(&running), gone(&restarted), "{ts}");
            assert_eq!(running.schema_version(), restarted.schema_version());
        }
    }
}

/// Binlog was switched on after the schema was made: no DDL of it comes in the stream.
#[test]
fn jobs_without_a_binlog_are_applied_before_the_rows_that_knew_them() {
    let capture = Capture::load("bank");
    let mut translator = translator(&capture.jobs);
    translator.start_at(CommitTs::ZERO, SchemaVersion::default(), &BTreeSet::new()).unwrap();
    let mut rows = 0;
    for (ts, binlog) in capture.stream.iter().filter(|(_, b)| b.ddl_job_id == 0) {
        rows += translator.changes(*ts, binlog.prewrite_value.as_ref().unwrap()).unwrap().changes.len();
    }
    assert!(rows > 3000, "{rows}");
}

#[test]
fn an_unknown_table_is_a_fault_that_names_it() {
    let capture = Capture::load("small");
    let known: Vec<Bytes> = capture.jobs.iter().filter(|j| Job::parse(j).unwrap().table_id != 86).cloned().collect();
    let mut translator = translator(&known);
    translator.start_at(CommitTs::ZERO, SchemaVersion::default(), &BTreeSet::new()).unwrap();
    let errors: Vec<String> = capture
        .stream
        .iter()
        .filter_map(|(ts, b)| translator.changes(*ts, b.prewrite_value.as_ref()?).err().map(|e| (ts, e.to_string())))
        .map(|(ts, e)| {
            assert!(e.contains(&format!("commit_ts {ts}")) && e.contains("schema version"), "{e}");
            e
        })
        .collect();
    assert!(!errors.is_empty() && errors.iter().all(|e| e.contains("table id 86")), "{errors:?}");
}

#[test]
fn a_skipped_create_takes_its_rows_and_its_ddl_along() {
    let capture = Capture::load("small");
    let mut translator = translator(&capture.jobs);
    translator.start_at(CommitTs::ZERO, SchemaVersion::default(), &BTreeSet::new()).unwrap();
    let (mut of_users, mut dropped) = (0, 0);
    for (ts, binlog) in &capture.stream {
        if let Some(raw) = capture.by_id.get(&binlog.ddl_job_id) {
            let query = binlog.ddl_query.clone().unwrap();
            let plan = translator.ddl(*ts, raw, &query, binlog.ddl_schema_state).unwrap();
            let job = Job::parse(raw).unwrap();
            if job.id == 87 {
                assert!(matches!(plan, DdlPlan::Run(_)));
                translator.skip_last_ddl();
                assert_eq!(translator.skipped_tables(), BTreeSet::from([86]));
            } else if job.table_id == 86 {
                assert!(matches!(&plan, DdlPlan::Skip(why) if why.contains("operator") || why.contains("announces")));
            }
        } else if let Some(value) = &binlog.prewrite_value {
            let transaction = translator.transaction(*ts, value, false).unwrap();
            of_users += transaction.statements.iter().filter(|s| s.sql.contains("`users`")).count();
            dropped += transaction.dropped;
        }
    }
    assert_eq!(of_users, 0);
    assert!(dropped > 5, "{dropped}");
}

#[test]
fn a_sequence_s_pretend_ddl_is_known_by_its_form() {
    assert!(Translator::is_setval(b"SELECT SETVAL(`d1`.`seq1`, 9);", b""));
    assert!(Translator::is_setval(b" select setval(`a`.`b`, 1)", b""));
    assert!(!Translator::is_setval(b"SELECT 1", b""));
    assert!(!Translator::is_setval(b"", b""));
}
