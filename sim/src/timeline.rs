//! One run as one HTML page that a person can look at: a lane per node with its lives and what it said, the faults, and how
//! watermarks, checkpoint and what is applied climb over virtual time. Self-contained: no script, no other file.

use crate::plan::Plan;
use crate::run::Outcome;
use crate::trace::Clock;
use std::collections::BTreeMap;
use std::fmt::Write;

/// What a run leaves for the page; noted only when somebody wants it.
#[derive(Debug, Default)]
pub struct Timeline {
    /// Node → when it came up (true) or went down.
    lives: BTreeMap<String, Vec<(u64, bool)>>,
    /// Name → when, and timestamp in physical milliseconds.
    series: BTreeMap<String, Vec<(u64, u64)>>,
    /// When, whose lane, what.
    events: Vec<(u64, String, String)>,
    faults: Vec<Fault>,
}

#[derive(Debug)]
struct Fault {
    at: u64,
    until: u64,
    text: String,
}

impl Timeline {
    pub fn life(&mut self, at: u64, node: &str, up: bool) {
        self.lives.entry(node.to_owned()).or_default().push((at, up));
    }

    /// `ms`: the physical part of a timestamp.
    pub fn point(&mut self, at: u64, name: &str, ms: u64) {
        let points = self.series.entry(name.to_owned()).or_default();
        if points.len() < MAX_POINTS && points.last().is_none_or(|(_, last)| *last != ms) {
            points.push((at, ms));
        }
    }

    pub fn event(&mut self, at: u64, node: &str, text: &str) {
        if self.events.len() < MAX_EVENTS {
            self.events.push((at, node.to_owned(), text.to_owned()));
        }
    }

    /// `length`: how long it lasts, in nanoseconds; 0 where that means nothing.
    pub fn fault(&mut self, at: u64, length: u64, text: String) {
        self.faults.push(Fault { at, until: at.saturating_add(length), text });
    }

    /// The page.
    #[must_use]
    pub fn page(&self, plan: &Plan, outcome: &Outcome) -> String {
        let end = outcome.simulated.max(1);
        let scale = Scale { end, width: (end as f64 / 1e9 * 220.0).clamp(1_100.0, 9_000.0) };
        let mut out = String::with_capacity(256 << 10);
        let profile = plan.profile.name();
        let verdict = outcome.violation.as_ref().map_or_else(
            || "<p class=\"well\">all oracles are content</p>".to_owned(),
            |v| format!("<p class=\"bad\">{} at {}: {}</p>", v.oracle, Clock(v.at), escape(&v.text)),
        );
        let _ = write!(
            out,
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>seed {seed} of {profile}</title>\
             <style>{STYLE}</style><h1>seed {seed} of profile {profile}</h1>{verdict}<p>{pumps} pumps, {drainers} drainers, \
             {txns} transactions, {actions} faults, {workload} workload; {events} events in {end} virtual seconds; trace \
             {hash:016x}</p>",
            seed = plan.seed,
            pumps = plan.config.pumps,
            drainers = plan.config.drainers,
            txns = plan.txns.len(),
            actions = plan.actions.len(),
            workload = if plan.config.rows > 0 { "row" } else { "light" },
            events = outcome.events,
            end = Clock(outcome.simulated),
            hash = outcome.hash,
        );
        self.lanes(&mut out, &scale, plan, outcome);
        self.climb(&mut out, &scale);
        self.list(&mut out);
        let _ =
            write!(out, "<details><summary>the plan</summary><pre>{}</pre></details></html>", escape(&plan.to_text()));
        out
    }

    fn lanes(&self, out: &mut String, scale: &Scale, plan: &Plan, outcome: &Outcome) {
        let mut names: Vec<&str> = self.lives.keys().map(String::as_str).collect();
        names.extend(["sink", "upstream"].into_iter().filter(|n| self.events.iter().any(|e| lane(&e.1) == *n)));
        let rows = self.rows_of_faults();
        let top = 24.0 + 15.0 * rows.iter().max().map_or(0.0, |row| *row as f64 + 1.0);
        let height = top + LANE * names.len() as f64 + 10.0;
        let _ = write!(out, "<h2>Nodes and faults</h2><div class=\"scroll\">{}", scale.open(height));
        scale.seconds(out, height);
        let healed = scale.x(plan.config.horizon_ms * 1_000_000);
        let _ = write!(
            out,
            "<line class=\"heal\" x1=\"{healed:.1}\" x2=\"{healed:.1}\" y1=\"0\" y2=\"{height}\"><title>the faults are over\
             </title></line>"
        );
        for (fault, row) in self.faults.iter().zip(&rows) {
            let (x, y) = (scale.x(fault.at), 20.0 + 15.0 * *row as f64);
            let width = (scale.x(fault.until) - x).max(3.0);
            let (when, text) = (Clock(fault.at), escape(&fault.text));
            let _ = write!(
                out,
                "<rect class=\"fault\" x=\"{x:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"12\"><title>{when} {text}</title>\
                 </rect><text class=\"name\" x=\"{:.1}\" y=\"{}\">{text}</text>",
                x + 4.0,
                y + 10.0
            );
        }
        for (n, name) in names.iter().enumerate() {
            let y = top + LANE * n as f64;
            let _ = write!(out, "<text x=\"4\" y=\"{}\">{name}</text>", y + 17.0);
            let mut up = None;
            for (at, is_up) in self.lives.get(*name).into_iter().flatten().copied().chain([(scale.end, false)]) {
                if let (Some(from), false) = (up, is_up) {
                    let (x, to) = (scale.x(from), scale.x(at));
                    let _ = write!(
                        out,
                        "<rect class=\"up\" x=\"{x:.1}\" y=\"{y}\" width=\"{:.1}\" height=\"24\"><title>runs from {} to {}\
                         </title></rect>",
                        (to - x).max(1.0),
                        Clock(from),
                        Clock(at)
                    );
                }
                up = if is_up { up.or(Some(at)) } else { None };
            }
            for (at, node, text) in self.events.iter().filter(|(_, node, _)| lane(node) == *name) {
                let class = if text.starts_with("FAULT") { "dot bad" } else { "dot" };
                let _ = write!(
                    out,
                    "<circle class=\"{class}\" cx=\"{:.1}\" cy=\"{}\" r=\"3\"><title>{} {node} {}</title></circle>",
                    scale.x(*at),
                    y + 12.0,
                    Clock(*at),
                    escape(text)
                );
            }
        }
        if let Some(v) = &outcome.violation {
            let x = scale.x(v.at);
            let _ = write!(out, "<line class=\"end\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{height}\"/>");
        }
        out.push_str("</svg></div>");
    }

    /// Faults that overlap get rows of their own.
    fn rows_of_faults(&self) -> Vec<usize> {
        let mut free: Vec<u64> = Vec::new();
        let mut rows = Vec::with_capacity(self.faults.len());
        for fault in &self.faults {
            // Room for the name as well.
            let until = fault.until.max(fault.at + 700_000_000);
            let row = free.iter().position(|until| *until <= fault.at).unwrap_or(free.len());
            if row == free.len() {
                free.push(until);
            } else if let Some(slot) = free.get_mut(row) {
                *slot = until;
            }
            rows.push(row);
        }
        rows
    }

    fn climb(&self, out: &mut String, scale: &Scale) {
        const HEIGHT: f64 = 320.0;
        let all = || self.series.values().flatten().map(|(_, ms)| *ms).filter(|ms| *ms > 0);
        let (Some(low), Some(high)) = (all().min(), all().max()) else { return };
        let y = |ms: u64| HEIGHT - 6.0 - (ms.max(low) - low) as f64 / (high - low).max(1) as f64 * (HEIGHT - 12.0);
        out.push_str(
            "<h2>Timestamps</h2><p>Height is PD's time: what is flat stands still; the distance to the line above it is its \
             lag.</p><p class=\"legend\">",
        );
        for (n, name) in self.series.keys().enumerate() {
            let _ = write!(out, "<span style=\"color:{}\">&#9632; {name}</span> ", colour(n));
        }
        let _ = write!(out, "</p><div class=\"scroll\">{}", scale.open(HEIGHT));
        scale.seconds(out, HEIGHT);
        for (n, (name, points)) in self.series.iter().enumerate() {
            let mut path = String::new();
            let mut last = None;
            for (at, ms) in points.iter().filter(|(_, ms)| *ms > 0) {
                let (x, y) = (scale.x(*at), y(*ms));
                match last {
                    None => drop(write!(path, "M{x:.1} {y:.1}")),
                    Some(_) => drop(write!(path, "H{x:.1}V{y:.1}")),
                }
                last = Some(y);
            }
            let _ = write!(path, "H{:.1}", scale.x(scale.end));
            if last.is_some() {
                let stroke = colour(n);
                let _ =
                    write!(out, "<path d=\"{path}\" fill=\"none\" stroke=\"{stroke}\"><title>{name}</title></path>");
            }
        }
        out.push_str("</svg></div>");
    }

    fn list(&self, out: &mut String) {
        out.push_str("<details><summary>everything that was said</summary><table>");
        for (at, node, text) in &self.events {
            let _ = write!(out, "<tr><td>{}</td><td>{node}</td><td>{}</td></tr>", Clock(*at), escape(text));
        }
        out.push_str("</table></details>");
    }
}

/// Virtual time to pixels.
struct Scale {
    end: u64,
    width: f64,
}

impl Scale {
    fn x(&self, at: u64) -> f64 {
        LEFT + at.min(self.end) as f64 / self.end as f64 * (self.width - LEFT - 10.0)
    }

    fn open(&self, height: f64) -> String {
        format!("<svg width=\"{:.0}\" height=\"{height:.0}\">", self.width)
    }

    fn seconds(&self, out: &mut String, height: f64) {
        let seconds = self.end / 1_000_000_000;
        for second in (0..=seconds).step_by(usize::try_from(seconds / 40 + 1).unwrap_or(1)) {
            let x = self.x(second * 1_000_000_000);
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{height}\"/><text class=\"tick\" x=\"{:.1}\" \
                 y=\"11\">{second} s</text>",
                x + 2.0
            );
        }
    }
}

/// Transactions share one lane; so do the parts of the world that are no process.
fn lane(node: &str) -> &str {
    if node.starts_with("txn-") { "upstream" } else { node }
}

fn colour(n: usize) -> &'static str {
    const COLOURS: [&str; 8] = ["#1b6ca8", "#c0392b", "#2e8b57", "#8e44ad", "#b9770e", "#148f77", "#7b4b2a", "#5d6d7e"];
    COLOURS.get(n % COLOURS.len()).copied().unwrap_or("#000")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const LEFT: f64 = 84.0;
const LANE: f64 = 32.0;
/// A page of some MiB is the most that a browser shows well.
const MAX_EVENTS: usize = 5_000;
const MAX_POINTS: usize = 4_000;
const STYLE: &str = "body{font:14px system-ui,sans-serif;margin:20px;color:#222}h1{font-size:20px}h2{font-size:16px}\
.scroll{overflow-x:auto;border:1px solid #ccc}svg{display:block}text{font-size:12px}.tick{fill:#888;font-size:10px}\
.name{font-size:10px;fill:#7a2b00}.grid{stroke:#eee}.heal{stroke:#2e8b57;stroke-dasharray:4}.end{stroke:#c00;stroke-width:2}\
.up{fill:#cfe3f3;stroke:#8fb4d3}.fault{fill:#f5b78a;stroke:#d4763a}.dot{fill:#345}.dot.bad{fill:#c00}.well{color:#2e7d32}\
.bad{color:#b00020}.legend span{margin-right:12px}table{font:12px monospace;border-collapse:collapse}td{padding:1px 8px;\
vertical-align:top}pre{font-size:12px}";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Profile;
    use crate::plan::generate::generate;
    use crate::run::{Options, run};

    #[test]
    fn a_page_shows_lanes_faults_and_progress() {
        let plan = (0..50).map(|seed| generate(seed, Profile::Swarm)).find(|p| p.actions.len() > 3).unwrap();
        let outcome = run(&plan, &Options { timeline: true, ..Options::default() });
        let page = outcome.timeline.as_ref().unwrap().page(&plan, &outcome);
        for part in ["pump-0", "class=\"up\"", "class=\"fault\"", "watermark of pump-0", "all oracles are content"] {
            assert!(page.contains(part), "no {part}");
        }
        assert!(!page.contains("<script") && !page.contains("http"));
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
        let without = run(&plan, &Options::default());
        assert_eq!(without.hash, outcome.hash, "looking changes nothing");
    }

    #[test]
    fn texts_are_escaped() {
        assert_eq!(escape("a<b>&\"c\""), "a&lt;b&gt;&amp;&quot;c&quot;");
    }
}
