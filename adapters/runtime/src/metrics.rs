//! Metrics of a process: a registry for what is counted on the way, rows that show a machine's status, and the text form.
//!
//! Two kinds of numbers. What takes time (calls, syncs) is observed where it happens, into histograms and counters of the
//! [`Metrics`]. What a machine knows is not counted twice: a [`Row`] names a place in its status (the document of `/status`), and its
//! value is read when somebody asks. A new number in the status needs one more row, and nothing else.

use binlog_core::time::Tso;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder, HistogramOpts, HistogramVec, Opts, Registry, TextEncoder, exponential_buckets};
use serde_json::Value;

pub use prometheus::{Histogram, IntCounter, IntCounterVec};

/// What `/metrics` is served as.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// The registry of one process; clones are the same.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
}

/// Why a metric cannot be had: a name that is taken or malformed.
pub type Error = prometheus::Error;

impl Metrics {
    /// With the metrics that every process has: `process_*` and `binlog_build_info`.
    ///
    /// # Errors
    /// Never in practice: the names are fixed.
    pub fn new(program: &str) -> Result<Self, Error> {
        let this = Self { registry: Registry::new() };
        this.registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let help = "What was built; the value is always 1.";
        let info = prometheus::IntGaugeVec::new(
            Opts::new("binlog_build_info", help),
            &["program", "version", "commit", "compiler"],
        )?;
        let [release, commit, _, compiler, _] = crate::version::fields().map(|(_, value)| value);
        info.with_label_values(&[program, &release, &commit, &compiler]).set(1);
        this.registry.register(Box::new(info))?;
        Ok(this)
    }

    /// A histogram with `buckets` = (first, factor, count).
    ///
    /// # Errors
    /// When the name is taken or malformed.
    pub fn histogram(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: (f64, f64, usize),
    ) -> Result<HistogramVec, Error> {
        let (first, factor, count) = buckets;
        let opts = HistogramOpts::new(name, help).buckets(exponential_buckets(first, factor, count)?);
        let vec = HistogramVec::new(opts, labels)?;
        self.registry.register(Box::new(vec.clone()))?;
        Ok(vec)
    }

    /// A counter.
    ///
    /// # Errors
    /// When the name is taken or malformed.
    pub fn counter(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, Error> {
        let vec = IntCounterVec::new(Opts::new(name, help), labels)?;
        self.registry.register(Box::new(vec.clone()))?;
        Ok(vec)
    }

    /// Everything in the text form, by name; `families` join what is in the registry.
    #[must_use]
    pub fn text(&self, families: Vec<Family>) -> String {
        let mut all = self.registry.gather();
        all.extend(families.into_iter().filter(|f| !f.samples.is_empty()).map(Family::encode));
        all.sort_by(|a, b| a.name().cmp(b.name()));
        let mut out = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&all, &mut out) {
            tracing::warn!("metrics cannot be encoded: {error}");
        }
        String::from_utf8_lossy(&out).into_owned()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Gauge,
    Counter,
}

/// One metric with its values, made when somebody asks.
#[derive(Debug, Clone)]
pub struct Family {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    samples: Vec<(Vec<(&'static str, String)>, f64)>,
}

impl Family {
    #[must_use]
    pub const fn new(name: &'static str, kind: Kind, help: &'static str) -> Self {
        Self { name, help, kind, samples: Vec::new() }
    }

    /// Adds one value.
    #[must_use]
    pub fn with(mut self, labels: &[(&'static str, &str)], value: f64) -> Self {
        self.samples.push((labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect(), value));
        self
    }

    fn encode(self) -> MetricFamily {
        let mut family = MetricFamily::default();
        family.set_name(self.name.to_owned());
        family.set_help(self.help.to_owned());
        family.set_field_type(match self.kind {
            Kind::Gauge => MetricType::GAUGE,
            Kind::Counter => MetricType::COUNTER,
        });
        let sample = |(labels, value): (Vec<(&str, String)>, f64)| {
            let mut metric = match self.kind {
                Kind::Gauge => {
                    let mut gauge = Gauge::default();
                    gauge.set_value(value);
                    Metric::from_gauge(gauge)
                }
                Kind::Counter => {
                    let mut counter = Counter::default();
                    counter.set_value(value);
                    let mut metric = Metric::default();
                    metric.set_counter(counter);
                    metric
                }
            };
            let pair = |(name, value): (&str, String)| {
                let mut pair = LabelPair::default();
                pair.set_name(name.to_owned());
                pair.set_value(value);
                pair
            };
            metric.set_label(labels.into_iter().map(pair).collect());
            metric
        };
        family.set_metric(self.samples.into_iter().map(sample).collect());
        family
    }
}

/// How a value of the status becomes a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// As it is.
    Plain,
    /// A timestamp of PD: its physical milliseconds.
    PhysicalMs,
    /// Milliseconds, shown in seconds.
    Seconds,
    /// 1 for true and for what is there, 0 for false and null.
    Flag,
    /// How many a list has.
    Length,
}

/// A metric that shows one place of a status. Where the status has nothing (or null, except for [`Unit::Flag`]) there is none.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub name: &'static str,
    pub kind: Kind,
    /// JSON pointer into the status.
    pub at: &'static str,
    pub unit: Unit,
    pub help: &'static str,
    or_zero: bool,
}

impl Row {
    #[must_use]
    pub const fn gauge(name: &'static str, at: &'static str, unit: Unit, help: &'static str) -> Self {
        Self { name, kind: Kind::Gauge, at, unit, help, or_zero: false }
    }

    #[must_use]
    pub const fn counter(name: &'static str, at: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::Counter, at, unit: Unit::Plain, help, or_zero: false }
    }

    /// Shows 0 where the status has nothing: for names that dashboards rely on.
    #[must_use]
    pub const fn or_zero(self) -> Self {
        Self { or_zero: true, ..self }
    }

    /// This row of `status`.
    #[must_use]
    pub fn read(&self, status: &Value) -> Family {
        let family = Family::new(self.name, self.kind, self.help);
        match number(status.pointer(self.at), self.unit).or(self.or_zero.then_some(0.0)) {
            Some(value) => family.with(&[], value),
            None => family,
        }
    }
}

/// A number of the status.
#[must_use]
pub fn number(value: Option<&Value>, unit: Unit) -> Option<f64> {
    let value = value?;
    match unit {
        Unit::Plain => value.as_f64(),
        Unit::Seconds => value.as_f64().map(|ms| ms / 1000.0),
        #[allow(clippy::cast_precision_loss)] // Milliseconds since 1970 have 41 bits.
        Unit::PhysicalMs => value.as_u64().map(|ts| Tso::new(ts).physical_ms() as f64),
        Unit::Flag => Some(if matches!(value, Value::Null | Value::Bool(false)) { 0.0 } else { 1.0 }),
        #[allow(clippy::cast_precision_loss)]
        Unit::Length => value.as_array().map(|list| list.len() as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_text_form() {
        let metrics = Metrics::new("pump").unwrap();
        let calls = metrics.histogram("t_seconds", "Help.", &["method"], (0.5, 2.0, 2)).unwrap();
        calls.with_label_values(&["Write"]).observe(0.75);
        metrics.counter("t_total", "Help.", &["id"]).unwrap().with_label_values(&["a\"b"]).inc_by(3);
        assert!(metrics.counter("t_total", "", &[]).is_err(), "a name is taken once");
        let own = Family::new("t_state", Kind::Gauge, "Help.").with(&[("state", "online")], 1.0);
        let text = metrics.text(vec![own, Family::new("t_empty", Kind::Gauge, "Help.")]);
        for line in [
            "# TYPE t_seconds histogram",
            "t_seconds_bucket{method=\"Write\",le=\"0.5\"} 0",
            "t_seconds_bucket{method=\"Write\",le=\"1\"} 1",
            "t_seconds_bucket{method=\"Write\",le=\"+Inf\"} 1",
            "t_seconds_sum{method=\"Write\"} 0.75",
            "# TYPE t_total counter",
            "t_total{id=\"a\\\"b\"} 3",
            "# HELP t_state Help.",
            "# TYPE t_state gauge",
            "t_state{state=\"online\"} 1",
            "# TYPE process_resident_memory_bytes gauge",
            "# TYPE process_cpu_seconds_total counter",
            "# TYPE process_open_fds gauge",
            "# TYPE process_start_time_seconds gauge",
        ] {
            assert!(text.lines().any(|l| l == line), "{line:?} is missing:\n{text}");
        }
        assert!(text.contains("binlog_build_info{commit=") && !text.contains("t_empty"), "{text}");
    }

    #[test]
    fn rows_read_a_status() {
        let status = json!({
            "n": 7, "ts": 411_364_585_497_690_113_u64, "ms": 1500, "why": "disk", "none": null, "yes": true, "no": false,
            "list": [1, 2], "in": {"x": 0.5}, "text": "9",
        });
        for (at, unit, value) in [
            ("/n", Unit::Plain, Some(7.0)),
            ("/in/x", Unit::Plain, Some(0.5)),
            ("/text", Unit::Plain, None),
            ("/none", Unit::Plain, None),
            ("/away", Unit::Flag, None),
            ("/ts", Unit::PhysicalMs, Some(1569231359473.0)),
            ("/ms", Unit::Seconds, Some(1.5)),
            ("/why", Unit::Flag, Some(1.0)),
            ("/yes", Unit::Flag, Some(1.0)),
            ("/no", Unit::Flag, Some(0.0)),
            ("/none", Unit::Flag, Some(0.0)),
            ("/list", Unit::Length, Some(2.0)),
        ] {
            let shown = Row::gauge("x", at, unit, "").read(&status).samples.first().map(|(_, v)| *v);
            assert_eq!(shown, value, "{at} {unit:?}");
        }
        assert_eq!(Row::counter("x", "/away", "").or_zero().read(&status).samples.len(), 1);
    }
}
