//! The value log on the real log-file port: written, closed, recovered, read.

use binlog_core::fault::IoFault;
use binlog_core::ids::{ClusterId, CommitTs, OpId, OpIds, StartTs};
use binlog_core::vlog::log::{IndexClaims, Log, LogConfig, LogEvent, LogOps, Placed};
use binlog_core::vlog::op::{LogOp, LogReply};
use binlog_core::vlog::record::{Record, RecordKind};
use binlog_storage::log_files::LogFiles;
use bytes::Bytes;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

struct Driver {
    log: Log,
    ids: OpIds,
    queue: VecDeque<(OpId, LogOp)>,
    port: LogFiles,
    done: Receiver<(OpId, Result<LogReply, IoFault>)>,
    pending: usize,
}

impl Driver {
    fn open(dir: &Path, seed: u64) -> (Self, Vec<LogEvent>) {
        let (send, done) = channel();
        let port = LogFiles::open(dir, move |op, result| drop(send.send((op, result)))).unwrap();
        let config = LogConfig {
            segment_bytes: 256 << 10,
            node: [1; 16],
            cluster: ClusterId::new(1),
            max_batch_bytes: 64 << 10,
            max_batch_records: 100,
        };
        let log = Log::new(config, seed);
        let mut driver = Self { log, ids: OpIds::default(), queue: VecDeque::new(), port, done, pending: 0 };
        driver.with(|log, ops| log.recover(IndexClaims::default(), ops));
        let events = driver.run().0;
        (driver, events)
    }

    fn with<T>(&mut self, f: impl FnOnce(&mut Log, &mut LogOps<'_>) -> T) -> T {
        f(&mut self.log, &mut LogOps { ids: &mut self.ids, out: &mut self.queue })
    }

    /// Until nothing is under way and nothing is staged.
    fn run(&mut self) -> (Vec<LogEvent>, Vec<Placed>) {
        let (mut events, mut placed) = (Vec::new(), Vec::new());
        loop {
            if let Some(sealed) = self.with(Log::seal) {
                placed.extend(sealed.records);
            }
            while let Some((op, request)) = self.queue.pop_front() {
                self.pending += 1;
                self.port.submit(op, request);
            }
            if self.pending == 0 {
                return (events, placed);
            }
            let (op, result) = self.done.recv_timeout(Duration::from_secs(60)).expect("a completion");
            self.pending -= 1;
            assert!(self.with(|log, ops| log.handle(op, result, &mut events, ops)));
            self.log.check();
        }
    }
}

fn record(id: u64) -> Record {
    Record {
        kind: RecordKind::Prewrite,
        start_ts: StartTs::new(id),
        commit_ts: CommitTs::ZERO,
        payload: Bytes::from(vec![id as u8; if id == 77 { 400_000 } else { (id * 131 % 30_000) as usize }]),
    }
}

#[test]
fn written_closed_recovered_read() {
    let root = tempfile::tempdir().unwrap();
    for life in 0..3u64 {
        let (mut driver, events) = Driver::open(root.path(), life + 1);
        let mut placed = Vec::new();
        for event in events {
            match event {
                LogEvent::Tail { placed: at, record: found } => {
                    assert_eq!(found, record(placed.len() as u64));
                    placed.push(at);
                }
                LogEvent::Ready { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(placed.len() as u64, life * 100);
        for id in life * 100..(life + 1) * 100 {
            driver.log.stage(record(id));
        }
        placed.extend(driver.run().1);
        for (id, at) in placed.iter().enumerate() {
            driver.with(|log, ops| log.read(at.ptr, at.len, id as u64, ops));
        }
        let reads = driver.run().0;
        assert_eq!(reads.len(), placed.len());
        for event in reads {
            let LogEvent::Read { token, result } = event else { panic!("{event:?}") };
            assert_eq!(result, Ok(record(token)));
        }
    }
}
