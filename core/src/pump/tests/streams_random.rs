//! Any interleaving of writes, credit, openings, closings and crashes gives each consumer exactly the committed order, once
//! (S1, S2), whatever is in memory and whatever has to be read.

use super::world::{World, c, config, joined_of, p_of, r};
use crate::ids::StreamId;
use crate::proto::binlog::Binlog;
use crate::pump::config::{PumpConfig, StreamMemory};
use crate::pump::input::Input;
use proptest::prelude::*;
use prost::Message;
use std::collections::BTreeMap;

#[derive(Debug, Clone)]
enum Action {
    Begin,
    /// Of the transactions that were acknowledged and not committed.
    Commit(prop::sample::Index),
    Log,
    Index,
    Run,
    Pass(u16),
    Open(usize),
    Close(usize),
    Credit(usize, u32),
    /// Batches that the index keeps; whether un-synced bytes of the log vanish.
    Crash(usize, bool),
}

#[derive(Debug, Default)]
struct Consumer {
    stream: Option<u64>,
    from: u64,
    /// Items of the open stream that were seen.
    seen: usize,
    /// Everything received, fakes included.
    last: u64,
    got: Vec<u64>,
}

#[derive(Debug, Default)]
struct Model {
    /// start_ts and the number of the write.
    open: Vec<(u64, u64)>,
    given_up: Vec<u64>,
    committed: BTreeMap<u64, u64>,
    consumers: Vec<Consumer>,
    streams: u64,
}

fn size_of(start_ts: u64) -> usize {
    [10, 300, 5000, 17_000, 40_000][start_ts as usize % 5]
}

fn action() -> impl Strategy<Value = Action> {
    let consumer = 0..CONSUMERS;
    prop_oneof![
        10 => Just(Action::Begin),
        10 => any::<prop::sample::Index>().prop_map(Action::Commit),
        10 => Just(Action::Log),
        10 => Just(Action::Index),
        3 => Just(Action::Run),
        1 => (0..4000u16).prop_map(Action::Pass),
        4 => consumer.clone().prop_map(Action::Open),
        1 => consumer.clone().prop_map(Action::Close),
        8 => (consumer, prop_oneof![1..100u32, 1000..50_000u32]).prop_map(|(c, n)| Action::Credit(c, n)),
        1 => (0..8usize, any::<bool>()).prop_map(|(kept, power)| Action::Crash(kept, power)),
    ]
}

impl Model {
    fn act(&mut self, world: &mut World, action: &Action) {
        match *action {
            Action::Begin => {
                world.tso += 1;
                let start = world.tso;
                let write = world.write(p_of(start, size_of(start)));
                self.open.push((start, write));
            }
            Action::Commit(index) => {
                let ready: Vec<_> =
                    self.open.iter().filter(|(_, write)| world.replies.get(write) == Some(&Ok(()))).copied().collect();
                if !ready.is_empty() {
                    let (start, _) = *index.get(&ready);
                    self.open.retain(|(other, _)| *other != start);
                    world.tso += 1;
                    self.committed.insert(world.tso, start);
                    world.write(c(start, world.tso));
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
            Action::Open(consumer) => self.reopen(world, consumer, 0),
            Action::Close(consumer) => {
                if let Some(stream) = self.consumers[consumer].stream.take() {
                    world.give(Input::PullClosed { stream: StreamId::new(stream) });
                }
            }
            Action::Credit(consumer, bytes) => self.credit(world, consumer, bytes.into()),
            Action::Crash(kept, power) => {
                self.given_up.extend(self.open.drain(..).map(|(start, _)| start));
                let kept = kept % (world.unflushed() + 1);
                if power {
                    world.crash(kept);
                } else {
                    world.kill(kept);
                }
                world.start();
                self.consumers.iter_mut().for_each(|consumer| consumer.stream = None);
                // Clients whose connection broke give up their transactions, and repeat what they decided.
                self.repeat_decisions(world);
            }
        }
        self.receive(world);
        assert_eq!(world.faults, Vec::<String>::new());
        assert!(world.ended.is_empty(), "{:?}", world.ended);
    }

    fn repeat_decisions(&self, world: &mut World) {
        for start in &self.given_up {
            world.write(r(*start));
        }
        for (commit, start) in &self.committed {
            world.write(c(*start, *commit));
        }
    }

    fn reopen(&mut self, world: &mut World, consumer: usize, credit: u64) {
        let consumer = &mut self.consumers[consumer];
        if consumer.stream.is_none() {
            self.streams += 1;
            (consumer.stream, consumer.seen) = (Some(self.streams), 0);
            world.pull(self.streams, consumer.last, credit);
        }
    }

    fn credit(&mut self, world: &mut World, consumer: usize, bytes: u64) {
        if let Some(stream) = self.consumers[consumer].stream {
            world.give(Input::PullCredit { stream: StreamId::new(stream), bytes });
        }
    }

    /// What is on its way to a consumer whose stream breaks is lost, so it is taken after each action.
    fn receive(&mut self, world: &World) {
        for consumer in &mut self.consumers {
            let Some(stream) = consumer.stream else { continue };
            let items = world.items.get(&stream).map_or(&[][..], |items| &items[consumer.seen..]);
            for item in items {
                assert!(item.commit_ts > consumer.last, "{} after {}", item.commit_ts, consumer.last);
                consumer.last = item.commit_ts;
                if item.start_ts as u64 != item.commit_ts {
                    let (start, commit) = (item.start_ts as u64, item.commit_ts);
                    assert_eq!(self.committed.get(&commit), Some(&start), "nobody committed that");
                    let want = joined_of(start, commit, size_of(start));
                    assert_eq!(Binlog::decode(&item.payload[..]).unwrap(), want);
                    consumer.got.push(commit);
                }
            }
            consumer.seen += items.len();
        }
    }

    fn finish(mut self, world: &mut World) {
        world.run();
        self.given_up.extend(self.open.drain(..).map(|(start, _)| start));
        self.repeat_decisions(world);
        world.run();
        for consumer in 0..self.consumers.len() {
            self.reopen(world, consumer, 0);
            self.credit(world, consumer, 1 << 40);
        }
        world.run();
        self.receive(world);
        for consumer in &self.consumers {
            let want: Vec<u64> = self.committed.keys().copied().filter(|ts| *ts > consumer.from).collect();
            assert_eq!(consumer.got, want, "from {}", consumer.from);
        }
    }
}

const CONSUMERS: usize = 4;

proptest! {
    #[test]
    fn every_stream_gets_the_committed_order_once(
        actions in proptest::collection::vec(action(), 1..150),
        tail_bytes in prop::sample::select(vec![0usize, 30_000, 200_000, 1 << 20]),
        entries in prop::sample::select(vec![0usize, 1, 5, 1000]),
    ) {
        let stream_memory = StreamMemory { tail_bytes, entries };
        let mut world = World::new(PumpConfig { segment_bytes: 128 << 10, stream_memory, ..config() });
        world.start();
        let mut model = Model::default();
        for consumer in 0..CONSUMERS {
            let from = world.tso + consumer as u64 * 7;
            model.consumers.push(Consumer { from, last: from, ..Consumer::default() });
        }
        for action in &actions {
            model.act(&mut world, action);
        }
        model.finish(&mut world);
    }
}
