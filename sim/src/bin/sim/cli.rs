//! Commands of `sim`: arguments, threads (one seed at a time each), progress, reports.

use binlog_sim::canary::Canary;
use binlog_sim::minimise::minimise;
use binlog_sim::plan::generate::{generate, kinds};
use binlog_sim::plan::{Kind, Plan, Profile};
use binlog_sim::run::{Options, Outcome, run};
use binlog_sim::scenario;
use binlog_sim::trace::{Clock, Detail};
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

const USAGE: &str = "\
usage: sim COMMAND

  run [--seeds A..B] [--jobs N] [--profile P] [--canary NAME] [--keep-going]
                            run the seeds; stops at the first failure
  replay SEED|--plan FILE [--profile P] [--trace short|full] [--until SECONDS] [--node NAME] [--canary NAME]
         [--html FILE]      one run, told as it happens (NAME: pump-0, drainer-0, txn-7, plan); FILE: a page with a timeline
  plan SEED [--profile P]   the seed's plan as text
  minimise SEED|--plan FILE [--profile P] [--canary NAME] [--runs N]
                            the smallest plan that fails in the same way, as text
  canary [NAME] [--seeds A..B] [--jobs N]
                            every mutation must be caught, those of GC in profile gc; needs a build with
                            --features canary
  scenario [NAME]           the known bugs and hazards, each as a plan of its own that must meet what it is about
  coverage [--seeds A..B] [--profile P]
                            faults that fired, states and transitions that were seen
  determinism [--seeds A..B] [--profile P]
                            every seed twice: same trace, same verdict

profiles: calm, swarm (default), net, disk, rot, lifecycle, gc, dup.
exit codes: 0 all well, 1 an oracle objected, 2 wrong use, 3 not deterministic, 4 a canary was not caught,
5 a run of 2,000 seeds or more in which a fault of the profile never took effect
";

struct Args {
    words: Vec<String>,
    named: BTreeMap<String, String>,
}

pub fn main(args: &[String]) -> i32 {
    let parsed = match Args::parse(args) {
        Ok(parsed) => parsed,
        Err(error) => return wrong(&error),
    };
    let command = parsed.words.first().map_or("", String::as_str);
    // Assertions of the machines are verdicts; their messages come with the report.
    std::panic::set_hook(Box::new(|info| {
        if let Some(at) = info.location() {
            *PANICKED_AT.lock().unwrap_or_else(|e| e.into_inner()) = format!("{}:{}", at.file(), at.line());
        }
    }));
    let result = match command {
        "run" => parsed.run(),
        "replay" => parsed.replay(),
        "plan" => parsed.plan().map(|plan| {
            print!("{}", plan.to_text());
            0
        }),
        "minimise" | "minimize" => parsed.minimise(),
        "canary" => parsed.canaries(),
        "scenario" => parsed.scenarios(),
        "coverage" => parsed.coverage(),
        "determinism" => parsed.determinism(),
        "help" | "--help" | "" => {
            print!("{USAGE}");
            Ok(i32::from(command.is_empty()) * 2)
        }
        other => Err(format!("unknown command {other}")),
    };
    result.unwrap_or_else(|error| wrong(&error))
}

static PANICKED_AT: Mutex<String> = Mutex::new(String::new());

fn wrong(error: &str) -> i32 {
    eprintln!("sim: {error}\n\n{USAGE}");
    2
}

impl Args {
    fn parse(args: &[String]) -> Result<Self, String> {
        let mut parsed = Self { words: Vec::new(), named: BTreeMap::new() };
        let mut rest = args.iter();
        while let Some(arg) = rest.next() {
            let Some(name) = arg.strip_prefix("--").filter(|n| *n != "help") else {
                parsed.words.push(arg.clone());
                continue;
            };
            let (name, value) = match name.split_once('=') {
                Some((name, value)) => (name, value.to_owned()),
                None if name == "keep-going" => (name, String::new()),
                None => (name, rest.next().ok_or_else(|| format!("--{name} needs a value"))?.clone()),
            };
            if !KNOWN.contains(&name) {
                return Err(format!("unknown option --{name}"));
            }
            parsed.named.insert(name.to_owned(), value);
        }
        Ok(parsed)
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.named.get(name).map(String::as_str)
    }

    fn number(&self, name: &str, default: u64) -> Result<u64, String> {
        self.text(name).map_or(Ok(default), |text| text.parse().map_err(|_| format!("--{name}: {text} is no number")))
    }

    fn seeds(&self, to: u64) -> Result<(u64, u64), String> {
        let Some(text) = self.text("seeds") else { return Ok((0, to)) };
        let range = text.split_once("..").and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        range.filter(|(a, b)| a < b).ok_or_else(|| format!("--seeds: {text} is not A..B with A < B"))
    }

    fn jobs(&self) -> Result<u64, String> {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
        Ok(self.number("jobs", cores)?.clamp(1, 256))
    }

    fn profile(&self) -> Result<Profile, String> {
        let name = self.text("profile").unwrap_or("swarm");
        Profile::parse(name).ok_or_else(|| format!("unknown profile {name}"))
    }

    fn canary(&self) -> Result<Option<Canary>, String> {
        let Some(name) = self.text("canary") else { return Ok(None) };
        Canary::parse(name).map(Some).ok_or_else(|| {
            let names: Vec<_> = Canary::all().into_iter().map(|(_, n)| n).collect();
            format!(
                "no canary {name} in this build (those of the machines need --features canary); there are {names:?}"
            )
        })
    }

    fn plan(&self) -> Result<Plan, String> {
        if let Some(path) = self.text("plan") {
            let text = std::fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))?;
            return Plan::parse(&text).map_err(|e| format!("{path}: {e}"));
        }
        let seed = self.words.get(1).ok_or("a seed, a scenario or --plan FILE is needed")?;
        if let Some(scenario) = scenario::ALL.iter().find(|scenario| scenario.name == seed) {
            return Ok(scenario.plan());
        }
        let seed = seed.parse().map_err(|_| format!("{seed} is no seed"))?;
        Ok(generate(seed, self.profile()?))
    }

    fn run(&self) -> Result<i32, String> {
        let (profile, canary) = (self.profile()?, self.canary()?);
        let sweep = Sweep {
            seeds: self.seeds(1_000)?,
            jobs: self.jobs()?,
            profile,
            options: Options { canary, ..Options::default() },
            stop: !self.named.contains_key("keep-going"),
            quiet: false,
        };
        let done = sweep.run();
        println!("{}", done.summary(&sweep));
        for seed in done.failures.keys() {
            report(*seed, &generate(*seed, profile), canary);
        }
        if !done.failures.is_empty() {
            return Ok(1);
        }
        let idle: Vec<&str> =
            kinds(profile).into_iter().filter(|kind| !done.fired.contains_key(kind)).map(Kind::name).collect();
        if idle.is_empty() || canary.is_some() {
            return Ok(0);
        }
        let long = done.count >= LONG_RUN;
        let verdict = if long { "FAILED" } else { "not judged in so short a run" };
        println!("faults that never took effect ({verdict}): {}", idle.join(", "));
        Ok(if long { 5 } else { 0 })
    }

    fn replay(&self) -> Result<i32, String> {
        let plan = self.plan()?;
        let detail = match self.text("trace") {
            None | Some("short") => Detail::Short,
            Some("full") => Detail::Full,
            Some(other) => return Err(format!("--trace: {other} is neither short nor full")),
        };
        let until = self.text("until").map(|t| t.parse::<f64>().map_err(|_| format!("--until: {t} is no number")));
        let until = until.transpose()?.map_or(u64::MAX, |s| (s * 1e9) as u64);
        let only = self.text("node").map(str::to_owned);
        let html = self.text("html");
        let canary = self.canary()?;
        let outcome = run(&plan, &Options { detail, only, until, canary, coverage: false, timeline: html.is_some() });
        if let (Some(path), Some(timeline)) = (html, &outcome.timeline) {
            std::fs::write(path, timeline.page(&plan, &outcome)).map_err(|e| format!("{path}: {e}"))?;
        }
        println!(
            "{} events, {} virtual seconds, trace {:016x}",
            outcome.events,
            Clock(outcome.simulated),
            outcome.hash
        );
        match &outcome.violation {
            None => println!("all oracles are content"),
            Some(v) => println!("FAILED {} at {}: {} {}", v.oracle, Clock(v.at), v.text, panicked(v.oracle)),
        }
        Ok(i32::from(outcome.violation.is_some()))
    }

    fn minimise(&self) -> Result<i32, String> {
        let plan = self.plan()?;
        let options = Options { canary: self.canary()?, ..Options::default() };
        let budget = u32::try_from(self.number("runs", 3_000)?).unwrap_or(u32::MAX);
        let (small, runs) = minimise(&plan, &options, budget).ok_or("this plan does not fail")?;
        let outcome = run(&small, &options);
        if let Some(v) = &outcome.violation {
            println!("# {}: {}", v.oracle, v.text.lines().next().unwrap_or_default());
        }
        let (t, a) = (small.txns.len(), small.actions.len());
        println!("# {t} transactions and {a} actions are left after {runs} runs");
        print!("{}", small.to_text());
        Ok(1)
    }

    fn canaries(&self) -> Result<i32, String> {
        if !cfg!(feature = "canary") {
            let how = "./x sim canary";
            return Err(format!("the machines of this build hold no canaries; use: {how}"));
        }
        let seeds = self.seeds(5_000)?;
        let only = self.words.get(1);
        let mut missed = 0;
        let known = Canary::all();
        if let Some(name) = only.filter(|name| !known.iter().any(|(_, n)| n == name)) {
            return Err(format!("there is no canary {name}"));
        }
        for (canary, name) in known.into_iter().filter(|(_, name)| only.is_none_or(|o| o == name)) {
            let sweep = Sweep {
                seeds,
                jobs: self.jobs()?,
                profile: if self.text("profile").is_some() { self.profile()? } else { Canary::profile(name) },
                options: Options { canary: Some(canary), ..Options::default() },
                stop: true,
                quiet: true,
            };
            let done = sweep.run();
            match done.failures.first_key_value() {
                Some((seed, v)) => {
                    let profile = sweep.profile.name();
                    println!("caught  {name:<28} {profile} seed {seed:<5} {}: {}", v.0, clip(&v.1));
                }
                None => {
                    missed += 1;
                    println!("MISSED  {name:<28} in {} seeds", done.count);
                }
            }
        }
        Ok(if missed > 0 { 4 } else { 0 })
    }

    fn scenarios(&self) -> Result<i32, String> {
        let only = self.words.get(1);
        let mut failed = 0;
        let chosen: Vec<_> = scenario::ALL.iter().filter(|one| only.is_none_or(|name| one.name == name)).collect();
        if chosen.is_empty() {
            return Err(format!("there is no scenario {}", only.map_or("", String::as_str)));
        }
        for one in chosen {
            let verdict = one.judge();
            failed += i32::from(verdict.is_err());
            println!(
                "{:<4} {:<34} {:<12} {}",
                if verdict.is_ok() { "ok" } else { "FAIL" },
                one.name,
                one.covers,
                one.what
            );
            if let Err(text) = verdict {
                println!("     {text}\n     look at it: ./x sim replay {}", one.name);
            }
        }
        Ok(i32::from(failed > 0))
    }

    fn coverage(&self) -> Result<i32, String> {
        let sweep = Sweep {
            seeds: self.seeds(500)?,
            jobs: self.jobs()?,
            profile: self.profile()?,
            options: Options { coverage: true, ..Options::default() },
            stop: false,
            quiet: true,
        };
        let done = sweep.run();
        println!("{}\nactions:", done.summary(&sweep));
        for (kind, name) in Kind::ALL {
            println!("  {:>8} {name}", done.fired.get(kind).copied().unwrap_or(0));
        }
        println!("seen:");
        done.seen.iter().for_each(|(what, n)| println!("  {n:>8} {what}"));
        Ok(i32::from(!done.failures.is_empty()))
    }

    fn determinism(&self) -> Result<i32, String> {
        let (from, to) = self.seeds(200)?;
        let profile = self.profile()?;
        for seed in from..to {
            let plan = generate(seed, profile);
            let [a, b] = [(); 2].map(|()| run(&plan, &Options::default()));
            if (a.hash, a.events, &a.violation) != (b.hash, b.events, &b.violation) {
                println!("seed {seed} differs: {:016x} and {:016x}", a.hash, b.hash);
                return Ok(3);
            }
        }
        println!("{} seeds, each twice: the same", to - from);
        Ok(0)
    }
}

/// Many seeds over several threads.
struct Sweep {
    seeds: (u64, u64),
    jobs: u64,
    profile: Profile,
    options: Options,
    /// At the first failure.
    stop: bool,
    quiet: bool,
}

#[derive(Default)]
struct Done {
    count: u64,
    events: u64,
    simulated: u64,
    /// Over the trace hashes, in any order.
    hash: u64,
    failures: BTreeMap<u64, (&'static str, String)>,
    fired: BTreeMap<Kind, u64>,
    seen: BTreeMap<String, u64>,
    seconds: f64,
    /// Of the processors, where the system tells: other work on the machine does not count.
    cpu_seconds: Option<f64>,
}

impl Sweep {
    fn run(&self) -> Done {
        let next = AtomicU64::new(self.seeds.0);
        let end = AtomicU64::new(self.seeds.1);
        let done = Mutex::new(Done::default());
        let (began, cpu) = (Instant::now(), cpu_seconds());
        std::thread::scope(|scope| {
            for _ in 0..self.jobs {
                scope.spawn(|| {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= end.load(Ordering::Relaxed) {
                            break;
                        }
                        let outcome = run(&generate(seed, self.profile), &self.options);
                        let mut done = done.lock().unwrap_or_else(|e| e.into_inner());
                        if outcome.violation.is_some() && self.stop {
                            end.fetch_min(seed, Ordering::Relaxed);
                        }
                        done.take(seed, outcome);
                        self.progress(&done, began);
                    }
                });
            }
        });
        let mut done = done.into_inner().unwrap_or_else(|e| e.into_inner());
        done.seconds = began.elapsed().as_secs_f64();
        done.cpu_seconds = cpu_seconds().zip(cpu).map(|(now, then)| now - then);
        if self.stop {
            // Threads may have been ahead of the first failure: the verdict does not depend on their number.
            let first = done.failures.keys().next().copied();
            done.failures.retain(|seed, _| Some(*seed) == first);
        }
        done
    }

    fn progress(&self, done: &Done, began: Instant) {
        if self.quiet || !std::io::stderr().is_terminal() || !done.count.is_multiple_of(64) {
            return;
        }
        let seconds = began.elapsed().as_secs_f64().max(0.001);
        let (rate, total) = (done.count as f64 / seconds, self.seeds.1 - self.seeds.0);
        eprint!("\r{}/{total} seeds, {rate:.0}/s, {:.1} simulated hours ", done.count, done.simulated as f64 / 3.6e12);
    }
}

impl Done {
    fn take(&mut self, seed: u64, outcome: Outcome) {
        self.count += 1;
        self.events += outcome.events;
        self.simulated += outcome.simulated;
        self.hash ^= (outcome.hash ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17);
        if let Some(v) = outcome.violation {
            self.failures.insert(seed, (v.oracle, v.text));
        }
        outcome.fired.into_iter().for_each(|(kind, n)| *self.fired.entry(kind).or_insert(0) += n);
        outcome.seen.into_iter().for_each(|(what, n)| *self.seen.entry(what).or_insert(0) += n);
    }

    fn summary(&self, sweep: &Sweep) -> String {
        let rate = self.count as f64 / self.seconds.max(0.001);
        let hours = self.simulated as f64 / 3.6e12;
        let cpu = self.cpu_seconds.unwrap_or(self.seconds * sweep.jobs as f64).max(0.01);
        let (speed, each) = (hours * 3600.0 / cpu, self.count as f64 / cpu);
        format!(
            "{} seeds {}..{} of profile {}: {} failed; {rate:.0} seeds/s with {} jobs, {:.2} simulated hours; per CPU: {each:.0} \
             seeds/s, {speed:.0} hours an hour; {} events; hash {:016x}",
            self.count,
            sweep.seeds.0,
            sweep.seeds.1,
            sweep.profile.name(),
            self.failures.len(),
            sweep.jobs,
            hours,
            self.events,
            self.hash
        )
    }
}

/// Everything that a person needs to look into a failure.
fn report(seed: u64, plan: &Plan, canary: Option<Canary>) {
    let outcome = run(plan, &Options { detail: Detail::Tail, canary, timeline: true, ..Options::default() });
    let Some(v) = &outcome.violation else {
        println!("seed {seed} does not fail when it is repeated: it is not deterministic");
        return;
    };
    println!("\nFAILED seed {seed} of profile {}, commit {}", plan.profile.name(), commit());
    println!("  oracle  {}  at virtual time {}", v.oracle, Clock(v.at));
    println!("  reason  {} {}", v.text, panicked(v.oracle));
    println!("  last lines:");
    outcome.tail.iter().rev().take(25).rev().for_each(|line| println!("    {line}"));
    let name = canary.and_then(|c| Canary::all().into_iter().find(|(own, _)| *own == c)).map(|(_, name)| name);
    let canary = name.map_or(String::new(), |name| format!(" --canary {name}"));
    match artefacts(seed, plan, &outcome) {
        Ok(folder) => println!("  look at {folder} (plan, trace, timeline.html)"),
        Err(error) => println!("  its artefacts cannot be written: {error}"),
    }
    println!("  repeat  ./x sim replay {seed} --profile {}{canary}", plan.profile.name());
    println!("  smaller ./x sim minimise {seed} --profile {}{canary}", plan.profile.name());
}

/// Plan, last lines and timeline of a failure, in a folder of its own under the target folder.
fn artefacts(seed: u64, plan: &Plan, outcome: &Outcome) -> Result<String, String> {
    let target = std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".to_owned());
    let folder = std::path::Path::new(&target).join("sim-failures").join(format!("{}-{seed}", plan.profile.name()));
    let shown = folder.display().to_string();
    let write = |name: &str, text: String| std::fs::write(folder.join(name), text).map_err(|e| format!("{shown}: {e}"));
    std::fs::create_dir_all(&folder).map_err(|e| format!("{shown}: {e}"))?;
    write("plan", plan.to_text())?;
    write("trace", outcome.tail.join("\n"))?;
    if let Some(timeline) = &outcome.timeline {
        write("timeline.html", timeline.page(plan, outcome))?;
    }
    Ok(shown)
}

/// What this process has used of the processors so far.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // Behind the name, which may hold anything: the fields from the third on; user and system time are the 14th and 15th.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / TICKS)
}

/// Linux counts in hundredths of a second towards its users, whatever the kernel does.
const TICKS: f64 = 100.0;

fn panicked(oracle: &str) -> String {
    let at = PANICKED_AT.lock().unwrap_or_else(|e| e.into_inner());
    if oracle == "PANIC" { format!("({at})") } else { String::new() }
}

fn commit() -> String {
    let output = std::process::Command::new("git").args(["describe", "--always", "--dirty"]).output();
    output.ok().and_then(|o| String::from_utf8(o.stdout).ok()).map_or_else(|| "?".to_owned(), |s| s.trim().to_owned())
}

fn clip(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(110).collect()
}

/// Seeds from which on every fault of a profile must have taken effect: the rarest do so in about one seed of a hundred.
const LONG_RUN: u64 = 2_000;

const KNOWN: [&str; 12] =
    ["seeds", "jobs", "profile", "canary", "keep-going", "plan", "trace", "until", "node", "runs", "html", "help"];
