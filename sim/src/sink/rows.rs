//! The downstream with tables: the MySQL model executes what the real Translator rendered. What it holds in the end is
//! compared with the upstream's tables; here effects and checkpoint are watched (C1).

use super::{Done, Way, next_way};
use crate::rng::Rng;
use binlog_core::sink::op::{Checkpoint, SinkError, SinkOp, SinkReply};
use binlog_core::sink::sql::Dialect;
use binlog_sim_models::mysql::{Dump, Mysql, Way as SqlWay};
use std::collections::VecDeque;

#[derive(Debug)]
pub struct RowSink {
    pub mysql: Mysql,
    /// As the model tells them, kept beside it because they are looked at after every operation.
    pub effects: Vec<Done>,
    pub ways: VecDeque<Way>,
    pub broken: Option<(&'static str, String)>,
    dumps: VecDeque<Dump>,
    /// The mutation of that name.
    pub lose_statement: bool,
}

impl RowSink {
    #[must_use]
    pub fn new(dialect: Dialect) -> Self {
        let (ways, dumps) = (VecDeque::new(), VecDeque::new());
        Self { mysql: Mysql::new(dialect), effects: Vec::new(), ways, broken: None, dumps, lose_statement: false }
    }

    /// # Errors
    /// As the model.
    pub fn run(&mut self, op: &SinkOp, rng: &mut Rng) -> Result<SinkReply, SinkError> {
        let opens = matches!(op, SinkOp::Begin { .. });
        let way = match next_way(&mut self.ways, op) {
            Way::Well => SqlWay::Well,
            Way::LostBefore => SqlWay::LostBefore,
            // At its beginning a session has no second try of one statement.
            Way::Deadlock | Way::Limbo if opens => SqlWay::LostBefore,
            Way::LostAfter => SqlWay::LostAfter,
            Way::Deadlock => SqlWay::Deadlock,
            Way::HalfDone => SqlWay::HalfDone,
            Way::Limbo => {
                self.settle(rng.percent(50));
                SqlWay::Zombie
            }
            Way::LoseSuffix => {
                self.mysql.fail_over(rng.index(3) + 1);
                self.sync();
                self.dumps.retain(|dump| dump.effects() <= self.effects.len());
                SqlWay::Well
            }
        };
        // The first statement of a new session waits for the locks of the old one as long as it takes.
        if self.has_limbo() && opens {
            self.settle(rng.percent(50));
        }
        let before = self.mysql.checkpoint().cloned();
        let result = match op {
            SinkOp::Apply { generation, records, statements } if self.lose_statement && statements.len() > 1 => {
                let (generation, records) = (*generation, records.clone());
                let statements = statements.iter().take(statements.len() - 1).cloned().collect();
                self.mysql.run(&SinkOp::Apply { generation, records, statements }, way)
            }
            op => self.mysql.run(op, way),
        };
        self.sync();
        if matches!(op, SinkOp::Save { .. }) {
            self.saved(before.as_ref());
        }
        result
    }

    #[must_use]
    pub fn has_limbo(&self) -> bool {
        self.mysql.has_zombie()
    }

    pub fn settle(&mut self, commits: bool) {
        let before = self.mysql.checkpoint().cloned();
        self.mysql.settle(commits);
        self.sync();
        self.saved(before.as_ref());
    }

    pub fn restore(&mut self, rng: &mut Rng) -> bool {
        self.settle(false);
        let Some(dump) = self.dumps.get(rng.index(self.dumps.len())).cloned() else { return false };
        if dump.row() == self.mysql.checkpoint() || dump.row() == self.mysql.row_of_state() {
            return false;
        }
        self.mysql.restore(&dump);
        self.sync();
        self.dumps.retain(|other| other.effects() <= dump.effects());
        true
    }

    fn sync(&mut self) {
        let all = self.mysql.effects_in_order();
        self.effects.truncate(all.len());
        let known = self.effects.len();
        self.effects.extend(all.iter().skip(known).map(|ts| Done { commit_ts: ts.raw(), digest: 0 }));
    }

    /// C1, if the row moved.
    fn saved(&mut self, before: Option<&Checkpoint>) {
        let Some(row) = self.mysql.checkpoint().filter(|row| Some(*row) != before) else { return };
        let k = row.commit_ts;
        if before.is_some_and(|before| before.commit_ts > k) {
            self.broken.get_or_insert(("C1", format!("the checkpoint went back to {k}")));
        }
        let beyond = self.effects.last().filter(|done| done.commit_ts > k.raw());
        if let Some(done) = beyond {
            if row.consistent {
                let text = format!("consistent at {k}, but {} is applied", done.commit_ts);
                self.broken.get_or_insert(("C1", text));
            }
            return;
        }
        if self.dumps.len() == DUMPS {
            self.dumps.pop_front();
        }
        self.dumps.push_back(self.mysql.dump());
    }
}

/// Earlier saves that can be restored.
const DUMPS: usize = 8;
