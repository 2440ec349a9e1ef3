//! Log lines in the original's text form (spec pump 6.4, drainer 8.7):
//! `[2019/09/23 09:36:02.466 +00:00] [INFO] [server.rs:532] ["server info tick"] [writeBinlogCount=0]`.

use crate::log_file::LogFile;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Installs the process's log; `file` empty is standard output, `level` is one of the original's names.
///
/// # Errors
/// An unknown level, a file that cannot be opened, or a log that is installed already.
pub fn init(level: &str, file: &str) -> Result<(), String> {
    let filter = match level.to_ascii_lowercase().as_str() {
        "trace" => LevelFilter::TRACE,
        "debug" => LevelFilter::DEBUG,
        "info" => LevelFilter::INFO,
        "warn" | "warning" => LevelFilter::WARN,
        "error" | "fatal" => LevelFilter::ERROR,
        other => return Err(format!("log-level: {other:?} is unknown; use debug, info, warn, error or fatal")),
    };
    let out: Box<dyn Write + Send> =
        if file.is_empty() { Box::new(io::stdout()) } else { Box::new(LogFile::open(Path::new(file))?) };
    tracing_subscriber::registry()
        .with(TextLayer { out: Mutex::new(out) }.with_filter(filter))
        .try_init()
        .map_err(|e| e.to_string())
}

struct TextLayer {
    out: Mutex<Box<dyn Write + Send>>,
}

impl<S: Subscriber> Layer<S> for TextLayer {
    fn on_event(&self, event: &Event<'_>, _ctx: Context<'_, S>) {
        let meta = event.metadata();
        // Libraries speak up only when something is wrong.
        let ours =
            meta.target().starts_with("binlog") || ["pump", "drainer"].iter().any(|p| meta.target().starts_with(p));
        if !ours && *meta.level() > Level::WARN {
            return;
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        let time = chrono::Local::now().format("%Y/%m/%d %H:%M:%S%.3f %:z");
        let file = meta.file().and_then(|f| f.rsplit('/').next()).unwrap_or("?");
        let line = format!(
            "[{time}] [{}] [{file}:{}] [{}]{}\n",
            meta.level(),
            meta.line().unwrap_or(0),
            quoted(&fields.message),
            fields.rest
        );
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        // A log that cannot be written must not stop the process.
        let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    rest: String,
}

impl Fields {
    fn push(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            let _ = write!(self.rest, " [{}={}]", quoted(field.name()), quoted(value));
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.push(field, &format!("{value:?}"));
    }
}

/// Lets one line of a kind through per second, so that a slow disk or peer does not flood the log; counts what it holds back.
#[derive(Debug, Default)]
pub struct Throttle {
    last: Mutex<(Option<Instant>, u64)>,
}

impl Throttle {
    /// `None`: not now. Else how many were held back since the last one.
    pub fn pass(&self) -> Option<u64> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.0.is_some_and(|at| at.elapsed() < THROTTLE) {
            last.1 += 1;
            return None;
        }
        last.0 = Some(Instant::now());
        Some(std::mem::take(&mut last.1))
    }
}

const THROTTLE: Duration = Duration::from_secs(1);

/// JSON-quoted only where needed: white space, control characters, quotes, `[`, `]`, `=`, or empty.
fn quoted(text: &str) -> String {
    let plain = |c: char| !(c.is_whitespace() || c.is_control() || matches!(c, '"' | '[' | ']' | '=' | '\\'));
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        serde_json::Value::from(text).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting() {
        for (text, shown) in [
            ("plain", "plain"),
            ("two words", "\"two words\""),
            ("", "\"\""),
            ("a=b", "\"a=b\""),
            ("x\"y", "\"x\\\"y\""),
            ("ü", "ü"),
            ("Release Version", "\"Release Version\""),
        ] {
            assert_eq!(quoted(text), shown);
        }
    }

    #[test]
    fn a_line_has_the_originals_form() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sub/x.log");
        init("info", file.to_str().unwrap()).unwrap();
        tracing::info!(target: "binlog_test", MaxCommitTS = 411364585497690113_u64, "server info tick");
        tracing::debug!(target: "binlog_test", "not shown");
        tracing::info!(target: "some_library", "not shown either");
        let text = std::fs::read_to_string(&file).unwrap();
        let (time, rest) = text.split_once("] ").unwrap();
        assert_eq!(time.len(), "[2019/09/23 09:36:02.466 +00:00".len(), "{time}");
        let line = line!() - 6;
        assert_eq!(rest, format!("[INFO] [logs.rs:{line}] [\"server info tick\"] [MaxCommitTS=411364585497690113]\n"));
    }

    #[test]
    fn a_throttle_counts_what_it_holds_back() {
        let throttle = Throttle::default();
        assert_eq!([throttle.pass(), throttle.pass(), throttle.pass()], [Some(0), None, None]);
        throttle.last.lock().unwrap().0 = Instant::now().checked_sub(THROTTLE);
        assert_eq!(throttle.pass(), Some(2));
    }

    #[test]
    fn an_unknown_level_is_refused() {
        assert!(init("loud", "").unwrap_err().contains("loud"));
    }
}
