//! An operator's commands: decide a prewrite that nobody else can (rules 1), give up the commits that froze the watermark
//! (rules 4). Both are records of the log; the answer leaves when they are durable.

use super::effect::{Effect, Level};
use super::machine::Pump;
use super::verdict::Verdict;
use crate::fault::Reject;
use crate::ids::{StartTs, WriteId};
use crate::index::ledger::Standing;
use crate::vlog::record::{Record, RecordKind};
use bytes::Bytes;

impl Pump {
    /// The commands that decide about this prewrite.
    pub(super) fn resolve_commands(&self, start_ts: StartTs) -> [String; 2] {
        let url = format!("curl -X PUT http://{}/resolve/{start_ts}", self.config.advertise_addr);
        [format!("{url}/commit/<commit_ts>"), format!("{url}/rollback")]
    }

    pub(super) fn on_resolve(&mut self, write: WriteId, start_ts: StartTs, verdict: Verdict) {
        match self.may_resolve(start_ts, verdict) {
            Ok(()) => {
                let watermark = self.sorter.watermark();
                if let Verdict::Committed(commit_ts) = verdict
                    && commit_ts <= watermark
                {
                    let text = format!(
                        "an operator says that start_ts {start_ts} committed at {commit_ts}; this pump has served everything up to \
                         {watermark} and does not deliver it: that is right if another pump did, else compare upstream and downstream"
                    );
                    self.out.notice(Level::Warn, text);
                }
                self.decide(start_ts, verdict, Some(write));
            }
            Err(why) => self.refuse(write, why),
        }
    }

    fn may_resolve(&self, start_ts: StartTs, verdict: Verdict) -> Result<(), String> {
        self.may_command()?;
        match self.ledger.standing(start_ts) {
            Standing::Undecided { .. } => {}
            Standing::Pending => return Err(format!("start_ts {start_ts} is just being written: look again")),
            Standing::Gone => {
                return Err(format!("this pump has no undecided prewrite with start_ts {start_ts}: nothing to do"));
            }
        }
        let case = self.resolver.case(start_ts);
        if !case.is_some_and(super::resolve::Case::may_be_resolved) {
            let reason = case.map_or_else(|| "TiKV has not been asked yet".to_owned(), super::resolve::Case::reason);
            return Err(format!("start_ts {start_ts} will be decided without a command: {reason}"));
        }
        let Verdict::Committed(commit_ts) = verdict else { return Ok(()) };
        if commit_ts.raw() <= start_ts.raw() {
            return Err(format!("commit_ts {commit_ts} is not above start_ts {start_ts}"));
        }
        match self.pd_now() {
            Some(now) if commit_ts.tso().physical_ms() <= now.physical_ms() => Ok(()),
            Some(now) => Err(format!("commit_ts {commit_ts} lies in the future: PD is at {now}")),
            None => Err("PD's time is not known yet: commit_ts cannot be checked".to_owned()),
        }
    }

    pub(super) fn on_release_frozen(&mut self, write: WriteId) {
        let limit = match (self.may_command(), self.sorter.frozen()) {
            (Err(why), _) => return self.refuse(write, why),
            (Ok(()), None) => return self.refuse(write, "the watermark is not frozen: nothing to do".to_owned()),
            (Ok(()), Some(limit)) => limit,
        };
        let record =
            Record { kind: RecordKind::Unfreeze, start_ts: StartTs::ZERO, commit_ts: limit, payload: Bytes::new() };
        // Only a repeated P is refused.
        if let Err(fault) = self.append(record, false, Some(write)) {
            self.refuse(write, fault.to_string());
        }
    }

    fn may_command(&self) -> Result<(), String> {
        match &self.read_only {
            Some(reason) => Err(format!("nothing can be stored: {reason}")),
            None if self.may_store_own() => Ok(()),
            None => Err("this pump is starting or stopping: try again".to_owned()),
        }
    }

    fn refuse(&mut self, write: WriteId, why: String) {
        self.out.effect(Effect::WriteReply { write, result: Err(Reject::Command(why)) });
    }
}
