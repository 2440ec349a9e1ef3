//! The merge by itself: what is emitted when (rules 7, spec drainer 2.4).

use super::Rng;
use super::world::{dml, fake};
use crate::drainer::effect::{Effect, SourceId};
use crate::drainer::merge::Collector;
use crate::drainer::out::Out;
use crate::fault::Fault;
use crate::ids::{CommitTs, NodeId};
use crate::node::status::{NodeState, NodeStatus};
use crate::time::MonoTime;
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// A collector whose Pumps are letters.
struct Bench {
    collector: Collector,
    out: Out,
    now: MonoTime,
    checkpoint: u64,
    confirmed: u64,
    pumps: BTreeMap<String, (NodeState, u64)>,
    links: BTreeMap<String, SourceId>,
    /// (pump, last) of every connection.
    opened: Vec<String>,
    fault: Option<Fault>,
    emitted: Vec<u64>,
}

impl Bench {
    fn new(checkpoint: u64) -> Self {
        let mut out = Out::new(0);
        let mut collector = Collector::new(1 << 20);
        collector.restart_at(CommitTs::new(checkpoint), &mut out);
        Self {
            collector,
            out,
            now: MonoTime::ZERO,
            checkpoint,
            confirmed: u64::MAX,
            pumps: BTreeMap::new(),
            links: BTreeMap::new(),
            opened: vec![],
            fault: None,
            emitted: vec![],
        }
    }

    fn list(&mut self) {
        let entry = |(id, (state, max)): (&String, &(NodeState, u64))| NodeStatus {
            node_id: format!(" {id} "),
            host: format!("{id}:1"),
            state: *state,
            is_alive: true,
            score: 0,
            label: serde_json::Value::Null,
            max_commit_ts: i64::try_from(*max).unwrap(),
            update_ts: 0,
            token: None,
        };
        let entries = self.pumps.iter().map(entry).collect();
        let accepted = BTreeSet::from([NodeId::parse("lost").unwrap()]);
        let k = CommitTs::new(self.checkpoint);
        self.collector.listed(self.now, entries, k, &accepted, &mut self.out).unwrap();
        self.settle();
    }

    fn item(&mut self, pump: &str, payload: Bytes) {
        if let Some(source) = self.links.get(pump) {
            self.collector.item(self.now, *source, payload, |_, _| false, &mut self.out);
        }
        self.settle();
    }

    fn settle(&mut self) {
        self.collector.check();
        while let Some(merged) = self.collector.pop(self.now, CommitTs::new(self.confirmed), &mut self.out) {
            self.collector.check();
            self.emitted.push(merged.commit_ts.raw());
            self.collector.release(merged.from, merged.bytes);
        }
        while let Some(effect) = self.out.pop() {
            match effect {
                Effect::OpenSource { source, pump, last, .. } => {
                    self.opened.push(format!("{pump}@{last}"));
                    self.links.insert(pump.to_string(), source);
                }
                Effect::CloseSource { source } => self.links.retain(|_, own| *own != source),
                Effect::Fault(fault) => self.fault = Some(fault),
                _ => {}
            }
        }
    }

    fn run(&mut self, command: &str) {
        let words: Vec<_> = command.split_whitespace().collect();
        match words[..] {
            ["pumps", ref ids @ ..] => {
                for id in ids {
                    self.pumps.insert((*id).to_owned(), (NodeState::Online, 0));
                }
                self.list();
            }
            ["paused", id] => {
                self.pumps.insert(id.to_owned(), (NodeState::Paused, 0));
                self.list();
            }
            ["offline", id, max] => {
                self.pumps.insert(id.to_owned(), (NodeState::Offline, max.parse().unwrap()));
                self.list();
            }
            ["gone", id] => {
                self.pumps.remove(id);
                self.list();
            }
            ["confirm", ts] => {
                self.confirmed = ts.parse().unwrap();
                self.settle();
            }
            ["checkpoint", ts] => {
                self.checkpoint = ts.parse().unwrap();
                self.collector.checkpoint(CommitTs::new(self.checkpoint));
            }
            ["break", id] => {
                let source = self.links.remove(id).unwrap();
                self.collector.closed(self.now, source, Some("reset".into()), &mut self.out);
                self.now = self.now.plus_millis(10_000);
                self.collector.connect(self.now, &mut self.out);
                self.settle();
            }
            [id, ref items @ ..] => {
                for item in items {
                    let (kind, ts) = item.split_at(1);
                    let ts = ts.parse().unwrap();
                    let payload = match kind {
                        "f" => fake(ts),
                        "t" => dml(ts, vec![1], &[]).payload,
                        "x" => dml(ts, vec![2], &[]).payload,
                        other => panic!("{other}"),
                    };
                    self.item(id, payload);
                }
            }
            [] => {}
        }
    }
}

/// Commands separated by `;`, then what must have been emitted, then the fault's text (empty: none). Items: t = a
/// transaction, x = another one under the same timestamp, f = a fake.
#[rustfmt::skip]
const CASES: &[(&str, &str, &[u64], &str)] = &[
    ("one pump",                 "pumps a; a t11 f12 t13",                                      &[11, 12, 13], ""),
    ("waits for every head",     "pumps a b; a t11 t15",                                        &[], ""),
    ("merges",                   "pumps a b; a t11 t15; b t12 f16",                             &[11, 12, 15], ""),
    ("only what is confirmed",   "pumps a; confirm 12; a t11 t12 t13",                          &[11, 12], ""),
    ("then the rest",            "pumps a; confirm 12; a t11 t13; confirm 13",                  &[11, 13], ""),
    ("equal from two pumps",     "pumps a b; a t11 f20; b t11 f20",                             &[11, 20], ""),
    ("real beats fake",          "pumps a b; a f11; b t11; a f12; b f12",                       &[11, 12], ""),
    ("real beats fake, turned",  "pumps a b; b f11; a t11; a f12; b f12",                       &[11, 12], ""),
    ("equal but different",      "pumps a b; a t11 f20; b x11 f20",                             &[], "hold different binlogs under commit_ts 11"),
    ("repeated",                 "pumps a; a t11 t11 t12",                                      &[11, 12], ""),
    ("repeated but different",   "pumps a; a t11 x11 t12",                                      &[11], "must rise"),
    ("falling",                  "pumps a; a t12 t11 t13",                                      &[12], "must rise"),
    ("falling fake",             "pumps a; a t12 f11",                                          &[12], "must rise"),
    ("nothing after a fault",    "pumps a b; a t12 t11; b t13 f14",                             &[], "must rise"),
    ("what it began after",      "pumps a; a t10 t11",                                          &[11], ""),
    ("reconnect",                "pumps a; a t11; break a; a t12",                              &[11, 12], ""),
    ("late, already emitted",    "pumps a; a t11 t12 f13; pumps b; b t11 t12 f14; a f15",       &[11, 12, 13, 14], ""),
    ("late, other content",      "pumps a; a t11 t12; pumps b; b x11",                          &[11, 12], "differs from the one"),
    ("late, never emitted",      "pumps a; a t11 t13; pumps b; b t12",                          &[11, 13], "below the merge position 13"),
    ("late fake",                "pumps a; a t11 t13; pumps b; b f12 f14; a f14",               &[11, 13, 14], ""),
    ("late blocks",              "pumps a; a t11; pumps b; a t12",                              &[11], ""),
    ("late, from checkpoint",    "pumps a; a t11 t12; checkpoint 11; pumps b; b t12 f13; a f13", &[11, 12, 13], ""),
    ("checkpoint waits for it",  "pumps a; a t11 t12 t13; pumps b; checkpoint 13; b t11 t12 t13 f14; a f14", &[11, 12, 13, 14], ""),
    ("paused blocks",            "pumps a b; a t11; b f10; paused b; a t12",                    &[], ""),
    ("not listed blocks",        "pumps a b; a t11; gone b; a t12",                             &[], ""),
    ("offline, complete",        "pumps a b; a t11; b t12; a t13; offline b 12; a t14",         &[11, 12, 13, 14], ""),
    ("offline, then complete",   "pumps a b; offline b 12; a t11 t13; b f12; a t14",            &[11, 12, 13, 14], ""),
    ("offline, incomplete",      "pumps a b; offline b 12; a t11; break b; break b; break b",   &[], "only those up to 10 were received"),
    ("offline, back online",     "pumps a b; offline b 12; break b; pumps b; a t11; b t12; a f12", &[11, 12], ""),
    ("unknown offline, old",     "offline z 10; pumps a; a t11",                                &[11], ""),
    ("unknown offline, newer",   "offline z 12; pumps a; a t11",                                &[], "transactions that only it held"),
    ("unknown offline, accepted", "offline lost 12; pumps a; a t11",                            &[11], ""),
    ("left and listed again",    "pumps a b; a t11; b t12; offline b 12; pumps a; a t13",       &[11, 12, 13], ""),
];

#[test]
fn cases() {
    for (name, script, emitted, fault) in CASES {
        let mut bench = Bench::new(10);
        script.split(';').for_each(|command| bench.run(command));
        assert_eq!(bench.emitted, *emitted, "{name}");
        let text = bench.fault.map(|f| f.to_string()).unwrap_or_default();
        assert!(text.contains(fault) && text.is_empty() == fault.is_empty(), "{name}: {text:?}");
    }
}

#[test]
fn a_fault_names_both_pumps() {
    let mut bench = Bench::new(10);
    for command in ["pumps a b", "a t11", "b x11"] {
        bench.run(command);
    }
    let text = bench.fault.unwrap().to_string();
    assert!(text.contains("pump a") && text.contains("pump b"), "{text}");
}

#[test]
fn a_broken_payload_is_a_fault_that_names_pump_and_place() {
    let mut bench = Bench::new(10);
    bench.run("pumps a; a t11");
    bench.run("pumps a");
    bench.run("a t11");
    bench.item("a", Bytes::from_static(b"\xff"));
    assert!(matches!(&bench.fault, Some(Fault::BadBinlog { what, .. }) if what.contains("pump a, the item after 11")));
}

#[test]
fn a_reconnect_continues_from_the_last_item_received() {
    let mut bench = Bench::new(10);
    for command in ["pumps a b", "a t11 t12", "break a", "b t15"] {
        bench.run(command);
    }
    assert_eq!(bench.opened, ["a@10", "b@10", "a@12"], "received up to 12, although nothing was emitted by then");
    bench.run("checkpoint 11");
    bench.run("pumps c");
    assert_eq!(bench.opened.last().unwrap(), "c@11", "a new source begins at the checkpoint");
}

#[test]
fn a_refused_start_is_a_fault() {
    let mut bench = Bench::new(10);
    bench.run("pumps a");
    let error = "drainer request a purged binlog TS 10, this pump keeps binlogs after 12";
    bench.collector.closed(bench.now, bench.links["a"], Some(error.into()), &mut bench.out);
    bench.settle();
    assert!(bench.fault.unwrap().to_string().contains("keeps binlogs after 12"));
}

proptest! {
    /// Sources of random content with duplicates on several Pumps, breaks, repeats, and Pumps that are found late: what is
    /// emitted rises strictly, is complete, and holds nothing twice.
    #[test]
    fn any_interleaving_gives_the_same_order(seed: u64, pumps in 1_usize..5, len in 1_u64..120) {
        let mut rng = Rng(seed);
        let mut held: Vec<Vec<u64>> = vec![vec![]; pumps];
        for ts in 11..11 + len {
            for _ in 0..=rng.below(2) {
                let pump = usize::try_from(rng.below(pumps as u64)).unwrap();
                if held[pump].last() != Some(&ts) {
                    held[pump].push(ts);
                }
            }
        }
        // Pumps that are found late hold only copies of what others have, up to a moment.
        let late_copy: Vec<u64> = (11..11 + len).filter(|_| rng.percent(40)).collect();
        held.push(late_copy);
        let mut sent = vec![0; pumps + 1];
        let mut bench = Bench::new(10);
        let name = |i: usize| char::from(b'a' + u8::try_from(i).unwrap()).to_string();
        for i in 0..pumps {
            bench.run(&format!("pumps {}", name(i)));
        }
        let mut late = false;
        let end = 11 + len;
        while bench.collector.position().raw() < end {
            let i = usize::try_from(rng.below(pumps as u64 + u64::from(late))).unwrap();
            match rng.below(12) {
                0 if bench.links.contains_key(&name(i)) => bench.run(&format!("break {}", name(i))),
                1 if !late => {
                    late = true;
                    bench.run(&format!("pumps {}", name(pumps)));
                }
                2 if sent[i] > 0 => {
                    let ts = held[i].get(sent[i] - 1).copied().unwrap_or(end);
                    let kind = if ts == end { 'f' } else { 't' };
                    bench.run(&format!("{} {kind}{ts}", name(i)));
                }
                _ => match held[i].get(sent[i]) {
                    Some(ts) => {
                        bench.run(&format!("{} t{ts}", name(i)));
                        sent[i] += 1;
                    }
                    None if sent[i] == held[i].len() => {
                        bench.run(&format!("{} f{end}", name(i)));
                        sent[i] += 1;
                    }
                    None => {}
                },
            }
            prop_assert!(bench.fault.is_none(), "{:?}", bench.fault);
        }
        let expected: Vec<u64> = held.concat().into_iter().collect::<BTreeSet<_>>().into_iter().chain([end]).collect();
        prop_assert_eq!(bench.emitted, expected);
    }
}
