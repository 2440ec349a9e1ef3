//! One binlog on its way (spec pump 8.4).
//!
//! P: another choice at each retry, every 100 ms, for the write time-out and as many attempts as there were Pumps; then one
//! attempt at every Pump that is online. C and R: the Pump that acknowledged P, every second for ten minutes.

use super::choose::Strategy;
use super::pumps::{Pumps, Target};
use crate::ids::StartTs;
use crate::time::MonoTime;
use std::collections::{BTreeMap, VecDeque};

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// P: has to be acknowledged before the transaction may commit.
    Prewrite,
    /// C or R: follows its P, best effort.
    Outcome,
}

/// One attempt's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Stored,
    /// The reply carries an error text.
    Refused(String),
    /// The RPC failed, or nothing came within the write time-out. `unavailable`: gRPC status UNAVAILABLE, or nobody there.
    Failed {
        unavailable: bool,
        text: String,
    },
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Send(Target),
    /// Ask again then.
    WaitUntil(MonoTime),
    End(End),
}

/// How a write ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Acknowledged by this Pump.
    Stored { node_id: String },
    /// P is nowhere for sure: the transaction must not commit.
    Failed(WriteError),
    /// C or R could not be delivered; its Pump finds the outcome in TiKV.
    GivenUp(WriteError),
}

/// Why nothing was acknowledged; texts as peers know them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    #[error("write binlog failed, the last error no available pump to write binlog")]
    NoPump,
    /// C or R of a transaction whose P was not acknowledged through this client, or was settled already.
    #[error("no pump is known to hold the prewrite of start ts {0}")]
    NoPrewrite(StartTs),
    /// Larger than what the Pump takes: no other will.
    #[error("{0}")]
    TooLarge(String),
    #[error("write binlog failed, the last error {0}")]
    Last(String),
}

#[derive(Debug)]
pub struct Write {
    kind: Kind,
    start_ts: StartTs,
    begun: MonoTime,
    retries: usize,
    available_at_begin: usize,
    last_error: Option<String>,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Choosing,
    /// C and R stay with one Pump.
    Bound(String),
    Asked,
    Waiting {
        until: MonoTime,
        bound: Option<String>,
    },
    LastPass(VecDeque<String>),
    Over(End),
}

impl Write {
    pub(super) const fn new(now: MonoTime, kind: Kind, start_ts: StartTs, available: usize) -> Self {
        let (retries, last_error, phase) = (0, None, Phase::Choosing);
        Self { kind, start_ts, begun: now, retries, available_at_begin: available, last_error, phase }
    }

    pub(super) fn next(
        &mut self,
        now: MonoTime,
        strategy: Strategy,
        pumps: &mut Pumps,
        routes: &BTreeMap<StartTs, String>,
    ) -> Step {
        loop {
            match std::mem::replace(&mut self.phase, Phase::Asked) {
                Phase::Choosing if self.kind == Kind::Outcome => match routes.get(&self.start_ts) {
                    Some(id) => self.phase = Phase::Bound(id.clone()),
                    None => self.phase = Phase::Over(End::GivenUp(WriteError::NoPrewrite(self.start_ts))),
                },
                Phase::Choosing => match strategy.choose(pumps, self.start_ts, self.retries) {
                    Some(target) => return Step::Send(target),
                    None => self.phase = Phase::LastPass(pumps.online().into()),
                },
                Phase::Bound(id) => match pumps.target(&id) {
                    Some(target) => return Step::Send(target),
                    None => self.phase = Phase::Over(End::GivenUp(WriteError::NoPrewrite(self.start_ts))),
                },
                Phase::Waiting { until, bound } if now < until => {
                    self.phase = Phase::Waiting { until, bound };
                    return Step::WaitUntil(until);
                }
                Phase::Waiting { bound, .. } => self.phase = bound.map_or(Phase::Choosing, Phase::Bound),
                Phase::LastPass(mut rest) => match rest.pop_front() {
                    Some(id) => {
                        self.phase = Phase::LastPass(rest);
                        if let Some(target) = pumps.fresh_target(&id) {
                            return Step::Send(target);
                        }
                    }
                    None => {
                        let last = self.last_error.take();
                        self.phase = Phase::Over(End::Failed(last.map_or(WriteError::NoPump, WriteError::Last)));
                    }
                },
                Phase::Over(end) => {
                    self.phase = Phase::Over(end.clone());
                    return Step::End(end);
                }
                Phase::Asked => unreachable!("the attempt under way was not reported"),
            }
        }
    }

    pub(super) fn attempted(
        &mut self,
        now: MonoTime,
        write_timeout_ms: u64,
        target: &Target,
        outcome: &Outcome,
        pumps: &mut Pumps,
    ) {
        let text = match outcome {
            Outcome::Stored => {
                if self.kind == Kind::Prewrite {
                    // One that the last pass reached is back.
                    pumps.make_available(&target.node_id);
                }
                self.phase = Phase::Over(End::Stored { node_id: target.node_id.clone() });
                return;
            }
            Outcome::Refused(text) | Outcome::Failed { text, .. } => text,
        };
        self.last_error = Some(text.clone());
        self.retries += 1;
        let elapsed = now.millis_since(self.begun);
        match self.kind {
            _ if matches!(self.phase, Phase::LastPass(_)) => {}
            Kind::Prewrite if text.contains(TOO_LARGE) => {
                self.phase = Phase::Over(End::Failed(WriteError::TooLarge(text.clone())));
            }
            Kind::Prewrite if elapsed > write_timeout_ms && self.retries > self.available_at_begin => {
                self.phase = Phase::LastPass(pumps.online().into());
            }
            Kind::Prewrite => {
                self.phase = Phase::Waiting { until: now.plus_millis(RETRY_PREWRITE_MS), bound: None };
            }
            Kind::Outcome if elapsed >= GIVE_UP_OUTCOME_MS => {
                self.phase = Phase::Over(End::GivenUp(WriteError::Last(text.clone())));
            }
            Kind::Outcome => {
                let bound = Some(target.node_id.clone());
                self.phase = Phase::Waiting { until: now.plus_millis(RETRY_OUTCOME_MS), bound };
            }
        }
    }

    /// What the end means for others.
    pub(super) fn settle(&self, end: &End, pumps: &mut Pumps, routes: &mut BTreeMap<StartTs, String>) {
        match (self.kind, end) {
            (Kind::Prewrite, End::Stored { node_id }) => {
                routes.insert(self.start_ts, node_id.clone());
                if routes.len() > MAX_ROUTES {
                    routes.pop_first();
                }
            }
            _ => {
                routes.remove(&self.start_ts);
            }
        }
        if self.retries > 0 {
            pumps.drop_unusable();
        }
    }
}

/// In the text of a refusal that no retry can help.
const TOO_LARGE: &str = "ResourceExhausted";
const RETRY_PREWRITE_MS: u64 = 100;
const RETRY_OUTCOME_MS: u64 = 1_000;
const GIVE_UP_OUTCOME_MS: u64 = 600_000;
/// Transactions between P and C of one process. Beyond it the oldest are forgotten, as if their C were lost.
const MAX_ROUTES: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::super::Client;
    use super::super::pumps::tests::status;
    use super::*;
    use crate::node::status::NodeState::{self, Offline, Online, Paused};

    const TIMEOUT: u64 = 15_000;

    fn client(pumps: &[(&str, NodeState)]) -> Client {
        let mut client = Client::new(Strategy::Range, TIMEOUT, 3);
        pumps.iter().for_each(|(id, state)| client.registered(&status(id, *state)));
        client
    }

    fn at(ms: u64) -> MonoTime {
        MonoTime::ZERO.plus_millis(ms)
    }

    fn refused(text: &str) -> Outcome {
        Outcome::Failed { unavailable: false, text: text.to_owned() }
    }

    /// Runs a write to its end; `answer` gives the outcome of each attempt. The Pumps asked, the end, and how long it took.
    fn run(
        client: &mut Client,
        kind: Kind,
        ts: u64,
        mut answer: impl FnMut(&str, usize) -> Outcome,
    ) -> (Vec<String>, End, u64) {
        let (mut now, mut asked) = (at(0), Vec::new());
        let mut write = client.begin(now, kind, StartTs::new(ts));
        loop {
            match client.next(now, &mut write) {
                Step::Send(target) => {
                    let outcome = answer(&target.node_id, asked.len());
                    asked.push(target.node_id.clone());
                    client.attempted(now, &mut write, &target, &outcome);
                }
                Step::WaitUntil(until) => now = until,
                Step::End(end) => return (asked, end, now.millis_since(at(0))),
            }
        }
    }

    fn stored(id: &str) -> End {
        End::Stored { node_id: id.to_owned() }
    }

    #[test]
    fn c_follows_its_p_even_when_that_pump_left() {
        let mut c = client(&[("a", Online), ("b", Online), ("c", Offline)]);
        let (asked, end, ms) =
            run(&mut c, Kind::Prewrite, 7, |_, n| if n == 0 { refused("no online: paused") } else { Outcome::Stored });
        assert_eq!((asked.len(), ms), (2, 100));
        assert_ne!(asked[0], asked[1], "another Pump is chosen");
        assert_eq!(end, stored(&asked[1]));
        c.registered(&status(&asked[1], Paused));
        let (follows, end, _) =
            run(&mut c, Kind::Outcome, 7, |_, n| if n < 3 { refused("busy") } else { Outcome::Stored });
        assert!(follows.iter().all(|id| *id == asked[1]) && follows.len() == 4, "{follows:?}");
        assert_eq!(end, stored(&asked[1]));
        let (nobody, end, _) = run(&mut c, Kind::Outcome, 7, |_, _| Outcome::Stored);
        assert_eq!((nobody.len(), end), (0, End::GivenUp(WriteError::NoPrewrite(StartTs::new(7)))));
    }

    #[test]
    fn c_is_given_up_after_ten_minutes() {
        let mut c = client(&[("a", Online)]);
        run(&mut c, Kind::Prewrite, 7, |_, _| Outcome::Stored);
        let (asked, end, ms) = run(&mut c, Kind::Outcome, 7, |_, _| refused("busy"));
        assert_eq!((asked.len(), ms), (601, 600_000));
        assert_eq!(end, End::GivenUp(WriteError::Last("busy".to_owned())));
    }

    #[test]
    fn p_fails_after_the_time_out_and_a_pass_over_all_that_are_online() {
        let mut c = client(&[("a", Online), ("b", Online), ("c", Paused)]);
        let (asked, end, ms) = run(&mut c, Kind::Prewrite, 7, |_, _| refused("no"));
        assert!(ms > TIMEOUT && ms < TIMEOUT + 1_000, "{ms}");
        assert_eq!(asked[asked.len() - 2..], ["a", "b"]);
        let End::Failed(error) = end else { panic!("{end:?}") };
        assert_eq!(error.to_string(), "write binlog failed, the last error no");
        assert!(c.probes().len() == 2, "both have failed too often");
        let (asked, end, _) =
            run(&mut c, Kind::Prewrite, 8, |id, _| if id == "b" { Outcome::Stored } else { refused("no") });
        assert_eq!((asked, end), (vec!["a".to_owned(), "b".to_owned()], stored("b")));
        assert_eq!(c.probes().len(), 1, "who took it is available again");
    }

    #[test]
    fn a_binlog_that_is_too_large_fails_at_once() {
        let mut c = client(&[("a", Online), ("b", Online)]);
        let text = "rpc error: code = ResourceExhausted desc = grpc: received message larger than max (9 vs. 8)";
        let (asked, end, ms) = run(&mut c, Kind::Prewrite, 7, |_, _| refused(text));
        assert_eq!((asked.len(), ms, end), (1, 0, End::Failed(WriteError::TooLarge(text.to_owned()))));
    }

    #[test]
    fn without_a_pump_it_fails_at_once() {
        let mut c = client(&[("a", Paused)]);
        let (asked, end, _) = run(&mut c, Kind::Prewrite, 7, |_, _| Outcome::Stored);
        assert_eq!((asked.len(), end), (0, End::Failed(WriteError::NoPump)));
        // The original's text.
        let text = "write binlog failed, the last error no available pump to write binlog";
        assert_eq!(WriteError::NoPump.to_string(), text);
    }

    #[test]
    fn a_local_pump_gets_everything() {
        let mut c = Client::local("/run/pump.sock", TIMEOUT);
        for ts in 1..4 {
            let (asked, end, _) = run(&mut c, Kind::Prewrite, ts, |_, _| Outcome::Stored);
            assert_eq!((asked, end), (vec!["localPump".to_owned()], stored("localPump")));
            assert_eq!(run(&mut c, Kind::Outcome, ts, |_, _| Outcome::Stored).1, stored("localPump"));
        }
    }
}
