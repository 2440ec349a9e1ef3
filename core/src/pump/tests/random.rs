//! Random histories against a model of TiDB's clients: what was acknowledged and committed is streamed exactly once and in
//! order (S1, S2), the watermark never passes a committed transaction that is not indexed (W2), over crashes.

use super::gc::drainer;
use super::world::{World, c, config, joined, p, r};
use crate::fault::Reject;
use crate::ids::CommitTs;
use crate::index::key;
use crate::node::status::NodeState;
use crate::proto::binlog::Binlog;
use crate::pump::config::{GcConfig, PumpConfig};
use crate::pump::input::Input;
use proptest::prelude::*;
use prost::Message;
use std::collections::BTreeMap;

#[derive(Debug, Clone)]
enum Action {
    Begin,
    RepeatPrewrite(prop::sample::Index),
    /// Take a commit timestamp; `send`: the commit binlog goes out (else it is late).
    Commit(prop::sample::Index, bool),
    SendCommit(prop::sample::Index),
    Rollback(prop::sample::Index),
    Log,
    Index,
    Run,
    Pass(u16),
    /// The index begins to fail, or works again.
    IndexFault,
    /// How many batches the index keeps; whether un-synced bytes of the log vanish.
    Crash(u8, bool),
    Pull,
    /// A round of GC; the only Drainer has come to this many hundredths of the watermark.
    Gc(u8),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    /// P sent, its reply still open.
    Open(u64),
    Acknowledged,
    Committed(u64),
    RolledBack,
}

#[derive(Debug, Default)]
struct Clients {
    txns: BTreeMap<u64, Fate>,
    /// Replies of C, to be repeated when they were lost.
    persisted: u64,
    streams: u64,
    checkpoint: u64,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => Just(Action::Begin),
        2 => any::<prop::sample::Index>().prop_map(Action::RepeatPrewrite),
        6 => (any::<prop::sample::Index>(), any::<bool>()).prop_map(|(i, send)| Action::Commit(i, send)),
        3 => any::<prop::sample::Index>().prop_map(Action::SendCommit),
        2 => any::<prop::sample::Index>().prop_map(Action::Rollback),
        8 => Just(Action::Log),
        8 => Just(Action::Index),
        1 => Just(Action::Run),
        1 => Just(Action::IndexFault),
        2 => (0..5000u16).prop_map(Action::Pass),
        1 => any::<(u8, bool)>().prop_map(|(kept, power)| Action::Crash(kept, power)),
        1 => Just(Action::Pull),
        2 => (0..=100u8).prop_map(Action::Gc),
    ]
}

fn pick(txns: &BTreeMap<u64, Fate>, index: prop::sample::Index, wanted: fn(Fate) -> bool) -> Option<(u64, Fate)> {
    let found: Vec<_> = txns.iter().filter(|(_, fate)| wanted(**fate)).map(|(s, f)| (*s, *f)).collect();
    (!found.is_empty()).then(|| *index.get(&found))
}

impl Clients {
    fn act(&mut self, world: &mut World, action: Action) {
        match action {
            Action::Begin => {
                world.tso += STEP;
                let start = world.tso;
                let write = world.write(p(start));
                self.txns.insert(start, Fate::Open(write));
            }
            Action::RepeatPrewrite(index) => {
                if let Some((start, _)) = pick(&self.txns, index, |_| true) {
                    world.write(p(start));
                }
            }
            Action::Commit(index, send) => {
                if let Some((start, _)) = pick(&self.txns, index, |fate| fate == Fate::Acknowledged) {
                    world.tso += STEP;
                    self.txns.insert(start, Fate::Committed(world.tso));
                    if send {
                        world.write(c(start, world.tso));
                    }
                }
            }
            Action::SendCommit(index) => {
                let committed = pick(&self.txns, index, |fate| matches!(fate, Fate::Committed(_)));
                if let Some((start, Fate::Committed(commit))) = committed {
                    world.write(c(start, commit));
                }
            }
            Action::Rollback(index) => {
                let open = |fate| matches!(fate, Fate::Open(_) | Fate::Acknowledged | Fate::RolledBack);
                if let Some((start, _)) = pick(&self.txns, index, open) {
                    self.txns.insert(start, Fate::RolledBack);
                    world.write(r(start));
                }
            }
            Action::Log => {
                world.step_log();
            }
            Action::Index => {
                world.step_index();
            }
            Action::Run => world.run(),
            Action::Pass(ms) => world.pass_ms(ms.into()),
            Action::IndexFault => world.broken.index = !world.broken.index,
            Action::Crash(kept, power) => {
                let kept = usize::from(kept) % (world.unflushed() + 1);
                self.read_replies(world);
                if power {
                    world.crash(kept);
                } else {
                    world.kill(kept);
                }
                world.start();
                assert!(world.watermark() >= self.persisted, "the watermark went back below what was logged");
                // A client whose connection broke gives up its transaction.
                let open: Vec<u64> =
                    self.txns.iter().filter(|(_, fate)| matches!(fate, Fate::Open(_))).map(|(s, _)| *s).collect();
                for start in open {
                    self.txns.insert(start, Fate::RolledBack);
                    world.write(r(start));
                }
            }
            Action::Pull => {
                self.streams += 1;
                let last = world.tso * (self.streams % 3) / 3;
                world.pull(self.streams, last, 40);
            }
            Action::Gc(hundredths) => {
                // It never goes back, and it has got what it confirms.
                let checkpoint = (world.watermark() / 100 * u64::from(hundredths)).max(self.checkpoint);
                self.checkpoint = checkpoint;
                world.drainers = vec![drainer("d", NodeState::Online, checkpoint)];
                world.give(Input::TriggerGc);
            }
        }
        self.read_replies(world);
        self.check(world);
    }

    fn read_replies(&mut self, world: &World) {
        for fate in self.txns.values_mut() {
            if let Fate::Open(write) = *fate {
                match world.replies.get(&write) {
                    Some(Ok(())) => *fate = Fate::Acknowledged,
                    Some(Err(_)) => *fate = Fate::RolledBack,
                    None => {}
                }
            }
        }
    }

    /// W2: at or below the watermark every committed transaction is indexed.
    fn check(&mut self, world: &World) {
        let watermark = world.watermark();
        let gc = world.pump.status().gc.raw();
        assert!(gc <= self.checkpoint && (gc < watermark || gc == 0), "G {gc}, K {}, W {watermark}", self.checkpoint);
        for fate in self.txns.values() {
            if let Fate::Committed(commit) = *fate
                && commit <= watermark
                && commit > gc
            {
                assert!(
                    world.indexed(&key::commit(CommitTs::new(commit))).is_some(),
                    "commit {commit} <= W {watermark}"
                );
            }
        }
        if world.unflushed() == 0 {
            let logged = world.indexed(&bytes::Bytes::from_static(key::META_WATERMARK));
            let logged = logged.map_or(0, |raw| crate::index::value::decode_u64("w", raw).unwrap());
            assert!(logged <= watermark.max(self.persisted) || watermark == 0, "logged {logged} above published");
            self.persisted = self.persisted.max(logged);
        }
        let named = |fault: &&String| !(fault.starts_with("index failed: ") && fault.contains("on purpose"));
        assert_eq!(world.faults.iter().find(named), None);
    }

    fn finish(mut self, world: &mut World) {
        world.broken.index = false;
        world.pass_ms(2000);
        self.read_replies(world);
        let txns = self.txns.clone();
        let mut want = BTreeMap::new();
        for (start, fate) in txns {
            match fate {
                Fate::Committed(commit) => {
                    assert_eq!(world.written(c(start, commit)), Ok(()));
                    want.insert(commit, start);
                }
                Fate::Open(_) | Fate::Acknowledged | Fate::RolledBack => {
                    assert_eq!(world.written(r(start)), Ok(()));
                }
            }
        }
        world.pass_ms(20_000);
        self.check(world);
        assert_eq!(world.pump.status().undecided, 0);
        world.give(Input::TriggerGc);
        world.run();
        let gc = world.pump.status().gc.raw();
        assert!(want.keys().next_back().is_none_or(|last| *last <= world.watermark()));
        for last in [0, world.tso / 2] {
            let stream = 1000 + last;
            world.pull(stream, last, 1 << 30);
            world.run();
            if last != 0 && last < gc {
                assert!(matches!(world.ended.get(&stream), Some(Err(Reject::BelowGc { .. }))));
                continue;
            }
            let items: Vec<_> = world.items.get(&stream).into_iter().flatten().cloned().collect();
            let real: Vec<_> = items.iter().filter(|item| item.start_ts as u64 != item.commit_ts).collect();
            let got: Vec<_> = real.iter().map(|item| (item.commit_ts, item.start_ts as u64)).collect();
            let want: Vec<_> = want.iter().filter(|(ts, _)| **ts > last.max(gc)).map(|(c, s)| (*c, *s)).collect();
            assert_eq!(got, want);
            for item in real {
                let binlog = Binlog::decode(&item.payload[..]).unwrap();
                assert_eq!(binlog, joined(item.start_ts as u64, item.commit_ts));
            }
        }
    }
}

/// A millisecond of PD's clock.
const STEP: u64 = 1 << 18;

proptest! {
    #[test]
    fn acknowledged_and_committed_is_streamed_once_and_in_order(actions in proptest::collection::vec(action(), 1..120)) {
        let mut world = World::new(PumpConfig {
            segment_bytes: 64 << 10,
            gc: GcConfig { keep_ms: 10, interval_ms: 10_000, ..GcConfig::default() },
            ..config()
        });
        world.tso = 1000 * STEP;
        world.drainers = vec![drainer("d", NodeState::Online, 0)];
        world.start();
        let mut clients = Clients::default();
        for action in actions {
            clients.act(&mut world, action);
        }
        clients.finish(&mut world);
    }
}
