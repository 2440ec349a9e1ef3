//! The downstream of a world: light (a log of digests) or rows (the MySQL model). Both note every effect in the order of the
//! commits; the world's oracles judge them.

pub mod light;
pub mod rows;

use crate::rng::Rng;
use binlog_core::sink::op::{Checkpoint, SinkError, SinkOp, SinkReply};
use light::Downstream;
use rows::RowSink;
use std::collections::VecDeque;

/// How an operation goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Well,
    LostBefore,
    LostAfter,
    /// The session keeps its locks; whether it commits is decided later.
    Limbo,
    Deadlock,
    /// A DDL ran, but was not recorded.
    HalfDone,
    /// Just before a checkpoint is stored the downstream loses its last transactions; the connection stays.
    LoseSuffix,
}

/// An effect in the downstream's data, in the order of the commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    pub commit_ts: u64,
    /// Of the value (light); 0.
    pub digest: u64,
}

#[derive(Debug)]
pub enum Sink {
    Light(Box<Downstream>),
    Rows(Box<RowSink>),
}

impl Sink {
    /// # Errors
    /// As the real port.
    pub fn run(&mut self, op: &SinkOp, rng: &mut Rng) -> Result<SinkReply, SinkError> {
        match self {
            Self::Light(sink) => sink.run(op, rng),
            Self::Rows(sink) => sink.run(op, rng),
        }
    }

    /// A session that lives on without its connection.
    #[must_use]
    pub fn has_limbo(&self) -> bool {
        match self {
            Self::Light(sink) => sink.has_limbo(),
            Self::Rows(sink) => sink.has_limbo(),
        }
    }

    /// It commits, or the server ends it.
    pub fn settle(&mut self, commits: bool) {
        match self {
            Self::Light(sink) => sink.settle(commits),
            Self::Rows(sink) => sink.settle(commits),
        }
    }

    /// An operator restores a dump: data and checkpoint row of an earlier save; our own tables stay as they are. Not a dump
    /// whose row is the one that was written last beside our state: nothing in the downstream tells that it was restored.
    pub fn restore(&mut self, rng: &mut Rng) -> bool {
        match self {
            Self::Light(sink) => sink.restore(rng),
            Self::Rows(sink) => sink.restore(rng),
        }
    }

    #[must_use]
    pub fn effects(&self) -> &[Done] {
        match self {
            Self::Light(sink) => &sink.effects,
            Self::Rows(sink) => &sink.effects,
        }
    }

    /// The durable checkpoint row.
    #[must_use]
    pub fn row(&self) -> Option<&Checkpoint> {
        match self {
            Self::Light(sink) => sink.row.as_ref(),
            Self::Rows(sink) => sink.mysql.checkpoint(),
        }
    }

    /// How the next operations go.
    pub fn ways(&mut self) -> &mut VecDeque<Way> {
        match self {
            Self::Light(sink) => &mut sink.ways,
            Self::Rows(sink) => &mut sink.ways,
        }
    }

    /// What it found wrong itself: oracle and text.
    pub fn take_broken(&mut self) -> Option<(&'static str, String)> {
        match self {
            Self::Light(sink) => sink.broken.take(),
            Self::Rows(sink) => sink.broken.take(),
        }
    }
}

fn next_way(ways: &mut VecDeque<Way>, op: &SinkOp) -> Way {
    let way = match op {
        SinkOp::Close => None,
        // This one waits for its moment.
        SinkOp::Save { .. } => ways.pop_front(),
        _ => ways.pop_front_if(|way| *way != Way::LoseSuffix),
    };
    way.unwrap_or(Way::Well)
}
