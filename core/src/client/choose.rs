//! Which Pump an attempt goes to (spec pump 8.3).

use super::pumps::{Pumps, Target};
use crate::ids::StartTs;
use std::fmt;
use std::str::FromStr;

/// How the Pump of a prewrite is chosen; C and R follow their P.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Strategy {
    /// One available Pump after the other.
    #[default]
    Range,
    /// `(start_ts + retry) mod n` of the available Pumps: the same transaction comes to the same Pump.
    Hash,
    /// The available Pump with the highest `score` in the registry, in turn among equals; a negative score takes none. (The
    /// original's `score` never selects a Pump.)
    Score,
    /// The one Pump behind a local socket.
    LocalSocket,
}

impl Strategy {
    /// The Pump of the next attempt; `None`: none is available.
    pub(super) fn choose(self, pumps: &mut Pumps, start_ts: StartTs, retry: usize) -> Option<Target> {
        match self {
            Self::Range | Self::LocalSocket => pumps.in_turn(|_| true),
            Self::Hash => pumps.at(start_ts.raw().wrapping_add(retry as u64)),
            Self::Score => {
                let best = pumps.best_score()?;
                pumps.in_turn(|score| score == best)
            }
        }
    }
}

/// The name in TiDB's `[binlog] strategy`.
impl FromStr for Strategy {
    type Err = UnknownStrategy;

    fn from_str(name: &str) -> Result<Self, UnknownStrategy> {
        match name {
            "range" => Ok(Self::Range),
            "hash" => Ok(Self::Hash),
            "score" => Ok(Self::Score),
            "local unix" => Ok(Self::LocalSocket),
            _ => Err(UnknownStrategy(name.to_owned())),
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Range => "range",
            Self::Hash => "hash",
            Self::Score => "score",
            Self::LocalSocket => "local unix",
        })
    }
}

/// No strategy of this name. TiDB's client takes `range` then, with a warning.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no strategy; use range, hash, score or \"local unix\"")]
pub struct UnknownStrategy(pub String);

#[cfg(test)]
mod tests {
    use super::super::pumps::tests::{known, status};
    use super::*;
    use crate::node::status::NodeState::{Online, Paused};

    fn chosen(strategy: Strategy, pumps: &mut Pumps, start_ts: u64, retry: usize) -> String {
        strategy.choose(pumps, StartTs::new(start_ts), retry).map_or_else(|| "-".to_owned(), |t| t.node_id)
    }

    #[test]
    fn names() {
        for strategy in [Strategy::Range, Strategy::Hash, Strategy::Score, Strategy::LocalSocket] {
            assert_eq!(strategy.to_string().parse(), Ok(strategy));
        }
        let error = "round".parse::<Strategy>().unwrap_err().to_string();
        assert!(error.contains("round") && error.contains("range"), "{error}");
    }

    #[test]
    fn range_takes_turns_among_the_available() {
        let mut pumps = known(&[("a", Online), ("b", Online), ("c", Paused)]);
        let got: Vec<String> = (0..4).map(|_| chosen(Strategy::Range, &mut pumps, 1, 0)).collect();
        assert_ne!(got[0], got[1]);
        assert_eq!((&got[0], &got[1]), (&got[2], &got[3]));
        assert!(!got.contains(&"c".to_owned()));
        let mut nobody = known(&[("c", Paused)]);
        assert_eq!(chosen(Strategy::Range, &mut nobody, 1, 0), "-");
    }

    #[test]
    fn hash_is_by_transaction_and_moves_on_at_a_retry() {
        let mut pumps = known(&[("a", Online), ("b", Online), ("c", Online)]);
        let first = chosen(Strategy::Hash, &mut pumps, 40, 0);
        assert_eq!(first, chosen(Strategy::Hash, &mut pumps, 40, 0));
        assert_ne!(first, chosen(Strategy::Hash, &mut pumps, 40, 1));
        assert_eq!(first, chosen(Strategy::Hash, &mut pumps, 39, 1));
    }

    #[test]
    fn score_takes_the_highest_that_is_not_negative() {
        let mut pumps = Pumps::new(1);
        for (id, score) in [("a", 1), ("b", 5), ("c", 5), ("d", -1)] {
            pumps.registered(&crate::node::status::NodeStatus { score, ..status(id, Online) });
        }
        let got: std::collections::BTreeSet<String> =
            (0..6).map(|_| chosen(Strategy::Score, &mut pumps, 1, 0)).collect();
        assert_eq!(got.into_iter().collect::<Vec<_>>(), ["b", "c"]);
        let mut unwanted = Pumps::new(1);
        unwanted.registered(&crate::node::status::NodeStatus { score: -1, ..status("d", Online) });
        assert_eq!(chosen(Strategy::Score, &mut unwanted, 1, 0), "-");
    }
}
