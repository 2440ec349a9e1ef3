//! The text form of a plan: a head, one `set` line per setting, one line per transaction and per action.

use super::{Action, Config, Fate, Kind, Plan, Profile, TxnPlan, VERSION};
use std::collections::BTreeMap;
use std::fmt::Write;

const FATES: [(Fate, &str); 7] = [
    (Fate::Commit, "commit"),
    (Fate::Rollback, "rollback"),
    (Fate::Abort, "abort"),
    (Fate::Undetermined, "undetermined"),
    (Fate::Silent, "silent"),
    (Fate::Die, "die"),
    (Fate::Vanish, "vanish"),
];

impl Plan {
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut out = format!("binlog-sim plan {VERSION}\nseed {}\nprofile {}\n", self.seed, self.profile.name());
        for (name, value) in self.config.entries() {
            let _ = writeln!(out, "set {name} {value}");
        }
        for t in &self.txns {
            let TxnPlan { id, at_us, size, think_us, c_delay_us, c_repeat, p_again_us, .. } = t;
            let (ddl, fate) = (u8::from(t.ddl), FATES.iter().find(|(f, _)| *f == t.fate).map_or("?", |(_, n)| n));
            let _ = writeln!(
                out,
                "txn {id} at_us={at_us} fate={fate} size={size} ddl={ddl} think_us={think_us} \
                 c_delay_us={c_delay_us} c_repeat={c_repeat} p_again_us={p_again_us}"
            );
        }
        for Action { id, at_us, kind, node, ms, n } in &self.actions {
            let _ = writeln!(out, "action {id} at_us={at_us} kind={} node={node} ms={ms} n={n}", kind.name());
        }
        out
    }

    /// The error names the line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut lines = text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty() && !l.starts_with('#'));
        let head = lines.next().map(|(_, l)| l.trim());
        if head != Some(format!("binlog-sim plan {VERSION}").as_str()) {
            return Err(format!("not a plan of version {VERSION}: it begins with {head:?}"));
        }
        let config = Config::default();
        let mut plan = Self { seed: 0, profile: Profile::Calm, config, txns: Vec::new(), actions: Vec::new() };
        for (number, line) in lines {
            plan.line(line).map_err(|error| format!("line {}: {error}", number + 1))?;
        }
        plan.check()?;
        Ok(plan)
    }

    fn check(&self) -> Result<(), String> {
        let c = &self.config;
        if !(1..=MAX_PUMPS).contains(&c.pumps) || c.drainers > 1 || c.readers > 1 {
            return Err(format!("a world has 1 to {MAX_PUMPS} pumps, at most one drainer, readers 0 or 1"));
        }
        if c.horizon_ms > MAX_HORIZON_MS || self.txns.len() > MAX_ENTRIES || self.actions.len() > MAX_ENTRIES {
            return Err("the plan is larger than a world may be".to_owned());
        }
        if self.txns.iter().any(|t| t.size > MAX_SIZE) || c.segment_bytes < 16 << 10 || c.max_batch_records == 0 {
            return Err("a size is out of range".to_owned());
        }
        Ok(())
    }

    fn line(&mut self, line: &str) -> Result<(), String> {
        let mut words = line.split_whitespace();
        let (verb, first) = (words.next().unwrap_or(""), words.next().ok_or("a value is missing")?);
        let fields: Vec<&str> = words.collect();
        match verb {
            "seed" => self.seed = number(first)?,
            "profile" => self.profile = Profile::parse(first).ok_or_else(|| format!("unknown profile {first}"))?,
            "set" => self.config.set(first, number(fields.first().ok_or("a value is missing")?)?)?,
            "txn" => {
                let f = Fields::new(&fields)?;
                let fate = f.text("fate")?;
                let known = FATES.iter().find(|(_, name)| *name == fate);
                self.txns.push(TxnPlan {
                    id: number(first)?,
                    at_us: f.number("at_us")?,
                    fate: known.ok_or_else(|| format!("unknown fate {fate}"))?.0,
                    size: f.number("size")?,
                    ddl: f.number("ddl")? != 0,
                    think_us: f.number("think_us")?,
                    c_delay_us: f.number("c_delay_us")?,
                    c_repeat: f.number("c_repeat")?,
                    p_again_us: f.number("p_again_us")?,
                });
            }
            "action" => {
                let f = Fields::new(&fields)?;
                let kind = f.text("kind")?;
                self.actions.push(Action {
                    id: number(first)?,
                    at_us: f.number("at_us")?,
                    kind: Kind::parse(kind).ok_or_else(|| format!("unknown action {kind}"))?,
                    node: f.number("node")?,
                    ms: f.number("ms")?,
                    n: f.number("n")?,
                });
            }
            other => return Err(format!("unknown word {other}")),
        }
        Ok(())
    }
}

struct Fields<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Fields<'a> {
    fn new(words: &[&'a str]) -> Result<Self, String> {
        let pairs = words.iter().map(|word| word.split_once('=').ok_or_else(|| format!("{word} is not name=value")));
        Ok(Self(pairs.collect::<Result<_, _>>()?))
    }

    fn text(&self, name: &str) -> Result<&'a str, String> {
        self.0.get(name).copied().ok_or_else(|| format!("{name} is missing"))
    }

    fn number(&self, name: &str) -> Result<u64, String> {
        number(self.text(name)?)
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text} is not a number"))
}

/// Worlds are small; these keep a mistyped plan from running for hours.
const MAX_PUMPS: u64 = 8;
const MAX_HORIZON_MS: u64 = 24 * 3_600_000;
const MAX_ENTRIES: usize = 100_000;
const MAX_SIZE: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use super::super::generate::generate;
    use super::*;

    #[test]
    fn plans_survive_their_text() {
        for (profile, _) in Profile::ALL {
            for seed in 0..50 {
                let plan = generate(seed, profile);
                let text = plan.to_text();
                assert_eq!(Plan::parse(&text).as_ref(), Ok(&plan), "{text}");
            }
        }
    }

    #[test]
    fn bad_plans_are_refused_with_the_line() {
        let good = generate(1, Profile::Calm).to_text();
        for (bad, want) in [
            (good.replace("plan 1", "plan 9"), "not a plan of version 1"),
            (format!("{good}wobble 3\n"), "unknown word wobble"),
            (format!("{good}set colour 3\n"), "unknown setting colour"),
            (format!("{good}action 1 at_us=1 kind=fly node=0 ms=0 n=0\n"), "unknown action fly"),
            (format!("{good}action 1 at_us=1 kind=kill node=0 ms=0\n"), "n is missing"),
            (format!("{good}set pumps 99\n"), "1 to 8 pumps"),
        ] {
            let error = Plan::parse(&bad).unwrap_err();
            assert!(error.contains(want), "{error}");
        }
    }
}
