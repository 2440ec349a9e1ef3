//! The cluster alone: a small world that answers everything, sometimes late, sometimes not at all.

use super::*;
use crate::pd::Pd;
use binlog_core::node::status::NodeState;
use std::collections::BTreeSet;

/// Runs a cluster against PD and TiKV. Pumps acknowledge everything and keep it.
pub(crate) struct World {
    pub cluster: Cluster,
    pub tikv: Tikv,
    pub pd: Pd,
    pub now: u64,
    rng: Rng,
    /// (due, number) → request.
    inbox: BTreeMap<(u64, u64), Request>,
    number: u64,
    pub faults: u64,
    /// What the Pumps acknowledged.
    pub stored: Vec<Binlog>,
}

impl World {
    pub(crate) fn new(config: Config, seed: u64, faults: u64) -> Self {
        let rng = Rng::new(seed);
        let mut cluster = Cluster::new(config, rng.fork("tidb"));
        let status = |id: &str| NodeStatus {
            node_id: id.to_owned(),
            host: String::new(),
            state: NodeState::Online,
            is_alive: false,
            score: 0,
            label: serde_json::Value::Null,
            max_commit_ts: 0,
            update_ts: 0,
            token: None,
        };
        cluster.set_pumps(0, &[status("p1"), status("p2")]);
        let (tikv, pd) = (Tikv::default(), Pd::default());
        let (inbox, stored) = (BTreeMap::new(), Vec::new());
        Self { cluster, tikv, pd, now: 0, rng: rng.fork("world"), inbox, number: 0, faults, stored }
    }

    /// One millisecond or more: requests that are due, deadlines, new work if `busy`.
    pub(crate) fn step(&mut self, busy: bool) {
        self.now += 1 + self.rng.below(3);
        if busy {
            let session = self.rng.index(self.cluster.config.sessions);
            self.cluster.begin(self.now, session);
            if self.rng.percent(6) || self.cluster.newest().tables.len() < 2 {
                self.cluster.begin_ddl(self.now);
            }
            if self.faults > 0 && self.rng.one_in(400) {
                let server = self.rng.index(self.cluster.servers.len());
                self.cluster.crash(server);
                self.cluster.restart(self.now, server);
            }
        }
        if self.cluster.next_deadline().is_some_and(|d| d <= self.now) {
            self.cluster.tick(self.now);
        }
        while let Some(request) = self.cluster.poll() {
            self.number += 1;
            self.inbox.insert((self.now + self.rng.below(12), self.number), request);
        }
        while let Some(entry) = self.inbox.first_entry().filter(|e| e.key().0 <= self.now) {
            let request = entry.remove();
            self.carry_out(&request);
        }
        if self.rng.one_in(50) {
            let ts = self.pd.tso(self.now).unwrap().raw();
            self.cluster.settle(self.now, &mut self.tikv, ts);
        }
    }

    fn carry_out(&mut self, request: &Request) {
        let lost = |text: &str| Reply::Failed { unavailable: true, text: text.to_owned() };
        let fate = self.rng.below(100);
        if fate < self.faults {
            self.cluster.complete(self.now, request.token, lost("before"));
            return;
        }
        let reply = match &request.call {
            Call::GetTs => Reply::Ts(self.pd.tso(self.now).unwrap()),
            Call::Kv(op) => self.cluster.run_kv(self.now, &mut self.tikv, op),
            Call::SendBinlog { payload, .. } => {
                if !payload.is_empty() {
                    self.stored.push(Binlog::decode(payload.clone()).unwrap());
                }
                Reply::Written { errmsg: String::new() }
            }
        };
        let reply = if fate < 2 * self.faults { lost("after") } else { reply };
        self.cluster.complete(self.now, request.token, reply);
    }

    /// Until nothing is left to do.
    pub(crate) fn drain(&mut self) {
        self.faults = 0;
        for _ in 0..200_000 {
            if self.cluster.is_idle() && self.inbox.is_empty() {
                return;
            }
            self.step(false);
        }
        panic!("the cluster does not come to rest: {:?}", self.cluster.counts);
    }
}

fn sorted(mut contents: Vec<Contents>) -> Vec<Contents> {
    contents.iter_mut().for_each(|t| t.rows.sort_by_key(|row| format!("{row:?}")));
    contents.sort_by_key(|t| (t.database.clone(), t.table.clone()));
    contents
}

#[test]
fn the_log_replays_to_the_contents_and_every_commit_was_acknowledged_before() {
    let mut total = Counts::default();
    for seed in 0..30 {
        let mut world = World::new(Config::default(), seed, seed % 4);
        for _ in 0..1500 {
            world.step(true);
        }
        world.drain();
        let cluster = &world.cluster;
        assert_eq!(sorted(cluster.contents()), sorted(cluster.contents_at(u64::MAX)), "seed {seed}");
        let prewrites: BTreeSet<i64> = world.stored.iter().filter(|b| b.tp == 0).map(|b| b.start_ts).collect();
        for (commit_ts, committed) in cluster.committed() {
            assert!(prewrites.contains(&committed.start_ts.cast_signed()), "seed {seed}: P of {commit_ts}");
        }
        // C tells the truth; what says R may still have committed, but only when that was not known.
        for c in world.stored.iter().filter(|b| b.tp == 1) {
            let committed = &cluster.committed()[&c.commit_ts.cast_unsigned()];
            assert_eq!(committed.start_ts.cast_signed(), c.start_ts, "seed {seed}");
        }
        if seed % 4 == 0 {
            assert_eq!(cluster.counts.undetermined, 0, "seed {seed}: nothing was lost");
        }
        total.committed += cluster.counts.committed;
        total.undetermined += cluster.counts.undetermined;
        total.ddl += cluster.counts.ddl;
        total.ddl_rolled_back += cluster.counts.ddl_rolled_back;
        total.schema_changed += cluster.counts.schema_changed;
        total.rolled_back += cluster.counts.rolled_back;
    }
    let seen = [
        total.committed,
        total.undetermined,
        total.ddl,
        total.ddl_rolled_back,
        total.schema_changed,
        total.rolled_back,
    ];
    assert!(seen.iter().all(|n| *n > 0) && total.committed > 3000 && total.ddl > 150, "{total:?}");
}

#[test]
fn one_seed_is_one_history() {
    let run = || {
        let mut world = World::new(Config::default(), 11, 3);
        for _ in 0..600 {
            world.step(true);
        }
        world.drain();
        world.stored.iter().flat_map(Message::encode_to_vec).collect::<Vec<u8>>()
    };
    assert_eq!(run(), run());
}
