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
use binlog_core::schema::model::{ActionType, ColumnInfo, FieldType, Job, TableInfo};
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
            4 => {
                match self.tables.remove(&touches[0]) {
                    Some(table) => drop(self.dropped.insert(job.table_id, table)),
                    None => self.fail(ts, format!("{sql}: no such table")),
                }
            }
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
            let (changes, _) = translator.changes(*ts, value).unwrap();
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
                let cell = |(at, _, dump): &(usize, &ColumnInfo, &str)| match *dump {
                    "float" => cells[*at].parse::<f32>().map_or(cells[*at].to_owned(), |n| format!("{:e}", f64::from(n))),
                    "double" => number(cells[*at]),
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
    replay("types", false).expect_equal(&["t_json"], &["gtmp"]);
}

#[test]
fn bank_ends_equal() {
    replay("bank", false).expect_equal(&[], &[]);
}

#[test]
fn ddl_under_load_ends_equal() {
    let outcome = replay("ddl_concurrent_hard", false);
    outcome.expect_equal(&["t1", "t2", "t3", "t4", "t5"], &[]);
}

#[test]
fn every_kind_of_ddl_is_tracked() {
    let outcome = replay("ddl", false);
    // The model has no partitions, so it does not know which rows TRUNCATE, DROP and EXCHANGE PARTITION move.
    outcome.expect_equal(&["c1", "conv"], &["p_range", "p_ex", "p_hash", "p_list", "p_lc"]);
}

#[test]
fn a_database_comes_back_with_its_tables() {
    let outcome = replay("ddl_flashback_db", false);
    let view = outcome.translator.tracker().view();
    let name = view.name(86).unwrap();
    assert_eq!((name.schema.as_str(), name.table.as_str()), ("fb2", "t"));
    assert!(!view.is_gone(86));
    let _ = (ActionType::RECOVER_SCHEMA, &outcome.skips, &outcome.runs);
}
