//! TiKV and PD as a Pump asks them about verdicts (rules 1): they know what the world's transactions know. The primary key of a
//! transaction is its start_ts.

use super::{World, client::Txn};
use binlog_core::fault::IoFault;
use binlog_core::ids::OpId;
use binlog_core::proto::kvrpcpb::{
    CheckTxnStatusRequest, CheckTxnStatusResponse, MvccGetByKeyResponse, MvccInfo, MvccLock, MvccWrite, Op,
};
use binlog_core::pump::input::{GcHeld, Input};
use binlog_core::time::Tso;

impl World {
    pub(super) fn pump_asks_versions(&mut self, node: usize, inc: u32, op: OpId, key: &[u8]) {
        let start = key.try_into().map(u64::from_be_bytes).unwrap_or(0);
        let mut info = MvccInfo::default();
        match self.client.of_start(start).map(Txn::fate) {
            // A transaction that failed before its prewrite leaves no record.
            Some(TxnFate::RolledBack) if start % 2 == 0 => {
                let r#type = Op::Rollback as i32;
                info.writes.push(MvccWrite { r#type, start_ts: start, commit_ts: start, ..MvccWrite::default() });
            }
            None | Some(TxnFate::RolledBack) => {}
            Some(TxnFate::Committed(commit_ts)) => {
                let r#type = Op::Put as i32;
                info.writes.push(MvccWrite { r#type, start_ts: start, commit_ts, ..MvccWrite::default() });
            }
            Some(TxnFate::Running) => {
                info.lock = Some(MvccLock { start_ts: start, ttl: LOCK_MS, ..MvccLock::default() });
            }
        }
        let result = Ok(MvccGetByKeyResponse { info: Some(info), ..MvccGetByKeyResponse::default() });
        self.pump_answered(node, inc, Input::MvccDone { op, result });
    }

    pub(super) fn pump_asks_status(&mut self, node: usize, inc: u32, op: OpId, request: &CheckTxnStatusRequest) {
        let mut reply = CheckTxnStatusResponse::default();
        match self.client.of_start(request.lock_ts).map(Txn::fate) {
            None | Some(TxnFate::RolledBack) => {}
            Some(TxnFate::Committed(commit_ts)) => reply.commit_version = commit_ts,
            Some(TxnFate::Running) => reply.lock_ttl = LOCK_MS,
        }
        self.pump_answered(node, inc, Input::TxnStatusDone { op, result: Ok(reply) });
    }

    pub(super) fn pump_asks_safe_point(&mut self, node: usize, inc: u32, op: OpId) {
        let result = Ok(Tso::ZERO);
        self.pump_answered(node, inc, Input::SafePointDone { op, result });
    }

    pub(super) fn pump_holds_gc(&mut self, node: usize, inc: u32, op: OpId, safe_point: Tso) {
        let result: Result<_, IoFault> = Ok(GcHeld { accepted: true, smallest: safe_point });
        self.pump_answered(node, inc, Input::HoldGcDone { op, result });
    }
}

/// What TiKV knows of a transaction.
#[derive(Debug, Clone, Copy)]
pub(super) enum TxnFate {
    Running,
    Committed(u64),
    RolledBack,
}

/// Clients of this world do not die: their locks live.
const LOCK_MS: u64 = 86_400_000;
