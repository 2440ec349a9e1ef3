//! The log-file port (design 2.3, rules 2): slot files `<data-dir>/log/NNNNNN.slot`, and for reading and removal the value logs of the
//! original, `<data-dir>/value/NNNNNN.vlog` (the log knows them by ids of their own, `vlog::v1::slot`).
//!
//! One thread carries out list, create, write and sync in the order of submission; a second one reads, so that a slow read of
//! history never delays a flush; a third one fills new slots with zeros and removes files, whose blocks take a while to free. The
//! log asks for either only when nothing else is under way on that slot. A read may therefore overtake a write that is not answered yet; the log reads only what it knows to
//! be durable. An error of a sync is reported to the descriptor that wrote: see `descriptors`.

use crate::descriptors::Descriptors;
use crate::dir::{DirError, create_dir, parent_of, sync_dir};
use crate::direct::{self, Aligned, BLOCK};
use crate::io_fault;
use crate::pool::Pool;
use crate::slot_file::{Mode, SlotFile};
use crate::worker::Worker;
use binlog_core::fault::IoFault;
use binlog_core::ids::{OpId, SlotId};
use binlog_core::vlog::op::{LogOp, LogReply};
use binlog_core::vlog::v1;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Takes a completion; called on a thread of the port and must not block for long.
pub type LogDone = Arc<dyn Fn(OpId, Result<LogReply, IoFault>) + Send + Sync>;

/// What an operation was, for whoever measures it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStep {
    List,
    Create,
    Write {
        bytes: u64,
    },
    Sync,
    Read,
    /// Preparing and removing slots in the background.
    Other,
}

impl LogStep {
    fn of(request: &LogOp) -> Self {
        match request {
            LogOp::List => Self::List,
            LogOp::Create { .. } => Self::Create,
            LogOp::Write { parts, .. } => Self::Write { bytes: parts.iter().map(|part| part.len() as u64).sum() },
            LogOp::Sync { .. } => Self::Sync,
            LogOp::Read { .. } => Self::Read,
            #[allow(unreachable_patterns)] // What is not on the way of a write is not told apart.
            _ => Self::Other,
        }
    }
}

/// Is told of each operation: what it was, how long it took, whether it succeeded. Called on the port's threads before the
/// completion; must not block.
pub type LogObserver = Arc<dyn Fn(LogStep, Duration, bool) + Send + Sync>;

/// The value log's files in one data directory.
pub struct LogFiles {
    writer: Worker<(OpId, LogOp)>,
    reader: Worker<(OpId, LogOp)>,
    background: Worker<(OpId, LogOp)>,
    done: LogDone,
}

impl LogFiles {
    /// Creates `<data_dir>/log` where it is missing and makes it durable.
    pub fn open(
        data_dir: &Path,
        done: impl Fn(OpId, Result<LogReply, IoFault>) + Send + Sync + 'static,
    ) -> Result<Self, DirError> {
        Self::open_observed(data_dir, Arc::new(|_, _, _| {}), done)
    }

    /// The same, measured.
    pub fn open_observed(
        data_dir: &Path,
        observer: LogObserver,
        done: impl Fn(OpId, Result<LogReply, IoFault>) + Send + Sync + 'static,
    ) -> Result<Self, DirError> {
        let dir = data_dir.join("log");
        create_dir(&dir)?;
        // Also when it existed: a crash may have come between its creation and the sync of the data directory. Further up
        // lies what `create_dir` made durable at once, or what was there before us.
        sync_dir(data_dir).map_err(DirError::io("cannot sync directory", data_dir))?;
        match sync_dir(parent_of(data_dir)) {
            // The operator's directory, which we may only pass through.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
            other => other.map_err(DirError::io("cannot sync directory", parent_of(data_dir)))?,
        }
        let done: LogDone = Arc::new(done);
        let direct = direct::works(&dir);
        match &direct {
            Ok(()) => tracing::info!(dir = %dir.display(), "the log is written past the page cache"),
            Err(error) => {
                tracing::info!(dir = %dir.display(), "the log is written through the page cache, because direct writes fail here: {error}");
            }
        }
        let slots = Arc::new(Slots {
            dir: dir.clone(),
            originals: data_dir.join(ORIGINALS),
            direct: direct.is_ok(),
            open: Mutex::default(),
            buffer: Mutex::new(Aligned::new(BUFFER)),
            pool: Arc::default(),
        });
        let spawn = |name: &str| {
            let (slots, done, observer) = (Arc::clone(&slots), Arc::clone(&done), Arc::clone(&observer));
            let work = move |(op, request): (OpId, LogOp)| {
                let (step, begun) = (LogStep::of(&request), Instant::now());
                let result = slots.execute(request);
                observer(step, begun.elapsed(), result.is_ok());
                done(op, result);
            };
            Worker::spawn(name, work).map_err(DirError::io("cannot start the threads for", &dir))
        };
        Ok(Self { writer: spawn("log-write")?, reader: spawn("log-read")?, background: spawn("log-fill")?, done })
    }

    /// Queues one operation; its completion goes to the callback.
    pub fn submit(&self, op: OpId, request: LogOp) {
        let worker = match request {
            LogOp::Read { .. } => &self.reader,
            LogOp::Fill { .. } | LogOp::Remove { .. } => &self.background,
            LogOp::List | LogOp::Create { .. } | LogOp::Write { .. } | LogOp::Sync { .. } => &self.writer,
        };
        if let Err((op, _)) = worker.submit((op, request)) {
            (self.done)(op, Err(IoFault::Unavailable("the thread of the log files is gone".to_owned())));
        }
    }
}

impl std::fmt::Debug for LogFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogFiles").finish_non_exhaustive()
    }
}

struct Slots {
    dir: PathBuf,
    /// Where the original's value logs are, if any.
    originals: PathBuf,
    /// Whole blocks are written past the page cache.
    direct: bool,
    open: Mutex<Descriptors<SlotFile>>,
    /// Of the one thread that writes.
    buffer: Mutex<Aligned>,
    /// For reads.
    pool: Arc<Pool>,
}

impl Slots {
    fn execute(&self, request: LogOp) -> Result<LogReply, IoFault> {
        match request {
            LogOp::List => self.list().map(LogReply::Slots),
            LogOp::Create { slot } => self.create(slot).map(|()| LogReply::Created),
            LogOp::Write { slot, offset, parts } => {
                let file = self.file(slot, true)?;
                let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
                buffer.clear();
                let written = file.write(offset, &parts, &mut buffer);
                written.map_err(|e| io_fault("write to", &self.path(slot), &e))?;
                Ok(LogReply::Written)
            }
            LogOp::Sync { slot } => {
                let file = self.file(slot, false)?;
                file.sync_data().map_err(|e| io_fault("sync of", &self.path(slot), &e))?;
                self.open().synced(slot);
                Ok(LogReply::Synced)
            }
            LogOp::Read { slot, offset, len } => {
                let file = self.file(slot, false)?;
                let data = file.read(offset, len, &self.pool).map_err(|e| io_fault("read of", &self.path(slot), &e))?;
                Ok(LogReply::Data(data))
            }
            LogOp::Fill { slot, offset, len } => {
                let file = self.file(slot, true)?;
                let fill = || file.fill(offset, len).and_then(|()| file.sync_data());
                fill().map_err(|e| io_fault("filling of", &self.path(slot), &e))?;
                self.open().synced(slot);
                Ok(LogReply::Filled)
            }
            LogOp::Remove { slot } => self.remove(slot).map(|()| LogReply::Removed),
        }
    }

    fn path(&self, slot: SlotId) -> PathBuf {
        match v1::file_of(slot) {
            Some(number) => self.originals.join(original_name(number)),
            None => self.dir.join(name(slot)),
        }
    }

    fn list(&self) -> Result<Vec<(SlotId, u64)>, IoFault> {
        let fault = |error: io::Error| io_fault("list of", &self.dir, &error);
        // A file whose creation a crash cut short is listed, and the log may reuse it: then its entry has to be durable.
        sync_dir(&self.dir).map_err(fault)?;
        let mut slots = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(fault)? {
            let entry = entry.map_err(fault)?;
            let file = entry.file_name();
            let number = file.to_str().and_then(|text| text.strip_suffix(".slot")).and_then(|text| text.parse().ok());
            // Only names that this port gives; whatever else lies here is not ours. Numbers of the original's files are no slots.
            let ours = |slot: &SlotId| v1::file_of(*slot).is_none() && file.to_str() == Some(&name(*slot));
            if let Some(slot) = number.map(SlotId::new).filter(ours) {
                // Of the file that is read and written: somebody may have moved it to another disk and left a link.
                slots.push((slot, fs::metadata(entry.path()).map_err(fault)?.len()));
            }
        }
        slots.sort_unstable();
        Ok(slots)
    }

    fn create(&self, slot: SlotId) -> Result<(), IoFault> {
        let path = self.path(slot);
        let create = || -> io::Result<SlotFile> {
            let file = SlotFile::open(&path, Mode::Create, self.direct)?;
            file.sync_all()?;
            sync_dir(&self.dir)?;
            Ok(file)
        };
        let file = create().map_err(|e| io_fault("creation of", &path, &e))?;
        self.open().put(slot, Arc::new(file), false);
        Ok(())
    }

    fn remove(&self, slot: SlotId) -> Result<(), IoFault> {
        self.open().remove(slot);
        let path = self.path(slot);
        let remove = || {
            fs::remove_file(&path)?;
            sync_dir(parent_of(&path))
        };
        remove().map_err(|e| io_fault("removal of", &path, &e))
    }

    fn open(&self) -> MutexGuard<'_, Descriptors<SlotFile>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `writes`: whether it is going to be written to.
    fn file(&self, slot: SlotId, writes: bool) -> Result<Arc<SlotFile>, IoFault> {
        let mut open = self.open();
        if let Some(file) = open.get(slot, writes) {
            return Ok(file);
        }
        let path = self.path(slot);
        // What the original wrote is never written to: the descriptor could not.
        let mode = if v1::file_of(slot).is_some() { Mode::ReadOnly } else { Mode::ReadWrite };
        let file = SlotFile::open(&path, mode, self.direct);
        let file = Arc::new(file.map_err(|e| io_fault("open of", &path, &e))?);
        open.put(slot, Arc::clone(&file), writes);
        Ok(file)
    }
}

/// The original's name of its value log `number`.
pub(crate) fn original_name(number: u32) -> String {
    format!("{number:06}.vlog")
}

/// The original's directory of value logs.
pub(crate) const ORIGINALS: &str = "value";

fn name(slot: SlotId) -> String {
    format!("{:06}.slot", slot.raw())
}

/// Where a batch is put together for a write past the page cache: most batches are written at once, and it stays in the cache of the
/// processor.
const BUFFER: usize = 256 * BLOCK;
