//! Clock and time zone of a DDL's session (spec codec 8.3, 8.4). Our sessions run in UTC at their own time; but what a DDL does to
//! existing rows depends on both, and a binlog carries neither:
//!
//! * ADD COLUMN … DEFAULT CURRENT_TIMESTAMP fills existing rows with the moment of the upstream's DDL, which the column's
//!   origin default keeps;
//! * ADD COLUMN … TIMESTAMP DEFAULT '2020-01-01 00:00:00' means a moment of the upstream session's zone. The definition holds
//!   it in UTC, the text as it was written: the difference is the zone;
//!   So it is with the default of a table's first definition, which decides what later inserts downstream would get;
//! * MODIFY COLUMN between TIMESTAMP and another type converts in the session's zone, which jobs that rewrite rows keep.

use crate::codec::time::Civil;
use crate::codec::value::tp;
use crate::schema::model::{ActionType, ColumnInfo, Job, TableInfo};
use crate::schema::text;
use crate::schema::view::TableMove;
use std::collections::BTreeSet;

/// A session's time zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Zone {
    /// Seconds east of UTC.
    Offset(i64),
    Name(String),
}

/// See [`crate::sink::op::Ddl`].
#[derive(Debug, PartialEq, Eq, Default)]
pub(super) struct Clock {
    pub(super) time_zone: Option<String>,
    pub(super) now: Option<i64>,
}

impl Zone {
    /// What the job keeps of the session that started it, where that can matter: a TIMESTAMP column comes, goes or is made
    /// of another one (a new id). UTC is `None`. `before`: the table's definition until now.
    #[must_use]
    pub fn of_job(job: &Job, before: Option<&TableInfo>) -> Option<Self> {
        let timestamps = |info: &TableInfo| -> BTreeSet<i64> {
            info.cols.iter().filter(|c| c.field_type.tp == tp::TIMESTAMP).map(|c| c.id).collect()
        };
        if before.map(timestamps) == job.binlog.table_info.as_ref().map(timestamps) {
            return None;
        }
        let location = job.reorg_meta.get("location")?;
        let offset = location.get("offset").and_then(serde_json::Value::as_i64).unwrap_or(0);
        if offset != 0 {
            return Some(Self::Offset(offset)).filter(Self::is_usable);
        }
        let name = location.get("name")?.as_str()?;
        let utc = ["UTC", "Etc/UTC", "Local", "System", ""];
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "/_+-".contains(c));
        (plain && !utc.contains(&name)).then(|| Self::Name(name.to_owned()))
    }

    /// Servers take offsets from -12:59 to +13:00, in minutes.
    fn is_usable(&self) -> bool {
        match self {
            Self::Offset(seconds) => (-46_740..=46_800).contains(seconds) && seconds % 60 == 0,
            Self::Name(_) => true,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Name(name) => name.clone(),
            Self::Offset(seconds) => {
                let sign = if *seconds < 0 { '-' } else { '+' };
                let minutes = seconds.abs() / 60;
                format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)
            }
        }
    }
}

impl Clock {
    pub(super) fn of(action: ActionType, query: &str, job_zone: Option<&Zone>, moves: &[TableMove]) -> Self {
        let Some(info) = moves.first().and_then(|step| step.info.as_ref()) else { return Self::default() };
        // Columns of earlier DDLs do not matter here: the newest one of each kind tells.
        let newest = |tp, keep: fn(&ColumnInfo) -> bool| {
            info.cols.iter().filter(|c| c.field_type.tp == tp && keep(c)).max_by_key(|c| c.id)
        };
        let moment = |default: &serde_json::Value| Civil::parse(default.as_str()?)?.unix_micros();
        let origin = |column: &ColumnInfo| moment(&column.origin_default);
        let adds = [ActionType::ADD_COLUMN, ActionType::ADD_COLUMNS, ActionType::MULTI_SCHEMA_CHANGE];
        if !adds.contains(&action) {
            // No rows are filled, but the default itself is a moment too.
            let written = newest(tp::TIMESTAMP, |c| !c.default.is_null() && !c.defaults_to_now());
            let written = written.and_then(|column| moment(&column.default));
            let zone = job_zone.cloned().or_else(|| written.and_then(|utc| zone_of_literals(query, utc)));
            return Self { time_zone: zone.as_ref().map(Zone::text), now: None };
        }
        let written = newest(tp::TIMESTAMP, |c| !c.defaults_to_now()).and_then(origin);
        let mut zone = job_zone.cloned().or_else(|| written.and_then(|utc| zone_of_literals(query, utc)));
        let instant = newest(tp::TIMESTAMP, ColumnInfo::defaults_to_now).map(|c| (c.id, origin(c)));
        let local = newest(tp::DATETIME, ColumnInfo::defaults_to_now).map(|c| (c.id, origin(c)));
        let now = match (instant, local) {
            (Some((a, instant)), Some((b, _))) if a > b => instant,
            (Some((_, instant)), None) => instant,
            // A DATETIME's origin default is in a zone: what a session in that zone must be told is the moment.
            (_, Some((_, local))) => match &zone {
                Some(Zone::Offset(seconds)) => local.map(|micros| micros - seconds * 1_000_000),
                Some(Zone::Name(_)) | None => {
                    zone = None;
                    local
                }
            },
            (None, None) => None,
        };
        Self { time_zone: zone.as_ref().map(Zone::text), now }
    }
}

/// The zone in which one of the text's time literals is the moment `utc` (microseconds).
fn zone_of_literals(query: &str, utc: i64) -> Option<Zone> {
    let offset = |text: String| {
        let civil = Civil::parse(&text).or_else(|| Civil::parse(&format!("{text} 00:00:00")))?;
        let micros = civil.unix_micros()? - utc;
        // Zones differ in quarters of an hour; anything else is another column's literal.
        (micros % QUARTER == 0).then_some(micros / 1_000_000)
    };
    let offsets: Vec<i64> = text::strings(query).filter_map(offset).collect();
    if offsets.contains(&0) {
        return None;
    }
    offsets.into_iter().map(Zone::Offset).find(Zone::is_usable)
}

const QUARTER: i64 = 900 * 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::model::{FieldType, HistoryInfo};
    use std::sync::Arc;

    /// id, type, default, origin default
    type Column<'a> = (i64, u8, &'a str, &'a str);

    fn clock(action: ActionType, query: &str, zone: Option<Zone>, columns: &[Column]) -> (Option<String>, Option<i64>) {
        let column = |(id, tp, default, origin): &Column| ColumnInfo {
            id: *id,
            default: (*default).into(),
            origin_default: (*origin).into(),
            field_type: FieldType { tp: *tp, ..FieldType::default() },
            ..ColumnInfo::default()
        };
        let info = TableInfo { cols: columns.iter().map(column).collect(), ..TableInfo::default() };
        let step = TableMove { before: None, after: None, info: Some(Arc::new(info)) };
        let Clock { time_zone, now } = Clock::of(action, query, zone.as_ref(), &[step]);
        (time_zone, now)
    }

    const ADD: ActionType = ActionType::ADD_COLUMN;
    const MODIFY: ActionType = ActionType(12);
    const CST: Zone = Zone::Offset(28_800);

    #[test]
    fn the_clock_stands_at_what_the_upstream_filled_in() {
        let old = (2, tp::TIMESTAMP, "CURRENT_TIMESTAMP", "2020-01-01 00:00:00");
        let new = (7, tp::TIMESTAMP, "current_timestamp(3)", "2026-11-21 03:07:07.250");
        let plain = (8, tp::DATETIME, "2020-01-01 00:00:00", "2020-01-01 00:00:00");
        let zero = (9, tp::TIMESTAMP, "CURRENT_TIMESTAMP", "0000-00-00 00:00:00");
        let local = (10, tp::DATETIME, "CURRENT_TIMESTAMP", "2026-11-21 11:07:07.250");
        let at = Some(1_795_230_427_250_000);
        let hours = |n: i64| at.map(|at| at + n * 3_600_000_000);
        assert_eq!(clock(ADD, "", None, &[new, old, plain]), (None, at));
        assert_eq!(clock(ActionType::MULTI_SCHEMA_CHANGE, "", None, &[old, new]), (None, at));
        assert_eq!(clock(ADD, "", None, &[old, zero]), (None, None));
        assert_eq!(clock(ADD, "", None, &[plain]), (None, None));
        assert_eq!(clock(ActionType::CREATE_TABLE, "", None, &[new]), (None, None));
        assert_eq!(clock(ADD, "", None, &[old, local]), (None, hours(8)));
        assert_eq!(clock(ADD, "", Some(CST), &[old, local]), (Some("+08:00".to_owned()), at));
        assert_eq!(clock(ADD, "", Some(Zone::Name("Asia/Tokyo".to_owned())), &[local]), (None, hours(8)));
    }

    #[test]
    fn a_literal_s_zone_follows_from_its_definition() {
        let column = |origin| [(3, tp::TIMESTAMP, origin, origin)];
        for (query, origin, zone) in [
            ("ADD c TIMESTAMP DEFAULT _UTF8MB4'2020-01-01 00:00:00'", "2019-12-31 16:00:00", Some("+08:00")),
            ("ADD c TIMESTAMP DEFAULT '2020-01-01'", "2020-01-01 03:30:00", Some("-03:30")),
            ("ADD c TIMESTAMP(3) DEFAULT '2020-01-01 00:00:00.5'", "2019-12-31 18:15:00.500", Some("+05:45")),
            ("ADD c TIMESTAMP DEFAULT '2020-01-01 00:00:00'", "2020-01-01 00:00:00", None),
            (
                "ADD c TIMESTAMP DEFAULT '2020-01-01 00:00:00' COMMENT '2020-01-01 08:00:00'",
                "2020-01-01 00:00:00",
                None,
            ),
            ("ADD c TIMESTAMP DEFAULT '2020-01-01 00:00:00'", "2020-01-03 00:00:00", None),
            ("ADD c TIMESTAMP DEFAULT '2020-01-01 00:00:01'", "2020-01-01 00:00:00", None),
            ("ADD c TIMESTAMP DEFAULT '0000-00-00 00:00:00'", "0000-00-00 00:00:00", None),
        ] {
            for action in [ADD, ActionType::CREATE_TABLE] {
                assert_eq!(clock(action, query, None, &column(origin)).0.as_deref(), zone, "{query} {origin}");
            }
        }
    }

    #[test]
    fn jobs_that_rewrite_rows_know_their_zone() {
        for (meta, zone) in [
            (r#"{"location":{"name":"Asia/Shanghai","offset":0}}"#, Some("Asia/Shanghai")),
            (r#"{"location":{"name":"UTC","offset":-12600}}"#, Some("-03:30")),
            (r#"{"location":{"name":"Etc/UTC","offset":0}}"#, None),
            (r#"{"location":{"name":"x'; DROP","offset":0}}"#, None),
            (r#"{"location":{"name":"UTC","offset":999999}}"#, None),
            (r#"{"location":null}"#, None),
            ("null", None),
            ("7", None),
        ] {
            let job = job(meta, Some(9));
            let column = [(3, tp::TIMESTAMP, "", "")];
            let before = table(None);
            assert_eq!(clock(MODIFY, "", Zone::of_job(&job, Some(&before)), &column).0.as_deref(), zone, "{meta}");
        }
    }

    fn table(timestamp: Option<i64>) -> TableInfo {
        let column = |id| ColumnInfo {
            id,
            field_type: FieldType { tp: tp::TIMESTAMP, ..FieldType::default() },
            ..ColumnInfo::default()
        };
        TableInfo { cols: timestamp.into_iter().map(column).collect(), ..TableInfo::default() }
    }

    fn job(meta: &str, timestamp: Option<i64>) -> Job {
        let binlog = HistoryInfo { table_info: Some(table(timestamp)), ..HistoryInfo::default() };
        Job { reorg_meta: serde_json::from_str(meta).unwrap(), binlog, ..Job::default() }
    }

    #[test]
    fn the_zone_matters_where_timestamps_come_and_go() {
        let meta = r#"{"location":{"name":"Asia/Tokyo","offset":0}}"#;
        for (before, after, matters) in
            [(None, None, false), (Some(3), Some(3), false), (Some(3), Some(9), true), (Some(3), None, true)]
        {
            let zone = Zone::of_job(&job(meta, after), Some(&table(before)));
            assert_eq!(zone.is_some(), matters, "{before:?} {after:?}");
        }
        assert!(Zone::of_job(&job(meta, Some(3)), None).is_some());
    }
}
