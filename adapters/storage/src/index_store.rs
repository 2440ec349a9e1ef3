//! The index port (design 2.3, rules 3) on RocksDB: one column family, no write-ahead log of its own.
//!
//! **What a crash leaves.** A write batch goes into one memtable as a whole (RocksDB switches memtables only between batches),
//! memtables are flushed, and their files entered into the manifest, oldest first. So whatever made it to the disk is a prefix of
//! the applied batches, also when RocksDB itself begins a flush because a memtable is full; everything before a completed
//! `Flush` is in it. Compaction rewrites only what was flushed. With a single column family no two parts can be flushed apart.
//!
//! One thread applies and looks up, in order. Flushes and scans leave it, when it is their turn, for a thread each: neither a flush,
//! which waits for the disk, nor a stream that reads history delays the watermark. So both see everything that was applied before
//! them, and perhaps what came later. A clean close flushes what is left.

use crate::dir::{DirError, create_dir};
use crate::worker::Worker;
use binlog_core::fault::IoFault;
use binlog_core::ids::OpId;
use binlog_core::index::op::{Change, IndexOp, IndexReply};
use bytes::Bytes;
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompactionStyle, DBCompressionType, Direction, ErrorKind, FlushOptions,
    IteratorMode, LogLevel, Options, ReadOptions, WriteBatch, WriteOptions,
};
use std::fs;
use std::path::Path;
use std::sync::Arc;

/// Takes a completion; called on the port's thread and must not block for long.
pub type IndexDone = Arc<dyn Fn(OpId, Result<IndexReply, IoFault>) + Send + Sync>;

/// Sizes of the index. In the original's `[storage.kv]`: `write-buffer`, `block-cache-capacity`, `block-size`,
/// `block-restart-interval`, `compaction-L0-trigger`, `write-L0-slowdown-trigger`, `write-L0-pause-trigger`,
/// `compaction-table-size`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexOptions {
    /// A memtable that grows beyond this is flushed without being asked; the owner flushes earlier.
    pub write_buffer_bytes: usize,
    /// Blocks of files, with their filters.
    pub cache_bytes: usize,
    pub block_bytes: usize,
    /// Keys of a block between two that are stored whole.
    pub restart_interval: i32,
    /// So many files make a compaction due.
    pub compaction_trigger: i32,
    /// So many make writes slow, or stop them: the unindexed tail of the log grows meanwhile (rules 3), acknowledgements go on.
    pub slowdown_trigger: i32,
    pub stop_trigger: i32,
    pub file_bytes: u64,
}

impl Default for IndexOptions {
    fn default() -> Self {
        Self {
            write_buffer_bytes: 64 << 20,
            cache_bytes: 32 << 20,
            block_bytes: 16 << 10,
            restart_interval: 16,
            compaction_trigger: 8,
            slowdown_trigger: 40,
            stop_trigger: 60,
            file_bytes: 64 << 20,
        }
    }
}

/// An ordered key-value store in one directory.
pub struct IndexStore {
    worker: Worker<(OpId, IndexOp)>,
    done: IndexDone,
}

impl IndexStore {
    /// Opens or creates the store at `path`.
    pub fn open(
        path: &Path,
        options: IndexOptions,
        done: impl Fn(OpId, Result<IndexReply, IoFault>) + Send + Sync + 'static,
    ) -> Result<Self, DirError> {
        create_dir(path)?;
        let bad = |what: String| DirError::Bad { path: path.to_owned(), what };
        let rocks = |error: rocksdb::Error| bad(format!("cannot open the index: {}", told(error)));
        // RocksDB would take the directory for a new one and remove the tables.
        if !path.join("CURRENT").exists() && has_tables(path).map_err(DirError::io("cannot read", path))? {
            return Err(bad(format!("cannot open the index: its file CURRENT is missing; {MAKE_AGAIN}")));
        }
        let db = match DB::open(&settings(options, DBCompressionType::Lz4).map_err(rocks)?, path) {
            Err(error) if error.as_ref().contains("not linked") => {
                tracing::warn!(
                    "this RocksDB was built without LZ4: the index is not compressed, more bytes are written"
                );
                DB::open(&settings(options, DBCompressionType::None).map_err(rocks)?, path).map_err(rocks)?
            }
            other => other.map_err(rocks)?,
        };
        let db = Arc::new(db);
        let done: IndexDone = Arc::new(done);
        let spawn = |name: &str| {
            let (db, answer) = (Arc::clone(&db), Arc::clone(&done));
            let work = move |(op, request)| answer(op, execute(&db, request));
            Worker::spawn(name, work).map_err(DirError::io("cannot start the thread for", path))
        };
        let (flusher, scanner, answer) = (spawn("index-flush")?, spawn("index-scan")?, Arc::clone(&done));
        let work = move |(op, request)| {
            let refused = match request {
                IndexOp::Flush => flusher.submit((op, request)),
                IndexOp::Scan { .. } => scanner.submit((op, request)),
                IndexOp::Apply(_) | IndexOp::Get(_) => {
                    answer(op, execute(&db, request));
                    return;
                }
            };
            if let Err((op, _)) = refused {
                answer(op, Err(IoFault::Unavailable("a thread of the index is gone".to_owned())));
            }
        };
        // Dropped last to first: its queue is worked off before those of the other two.
        let worker = Worker::spawn("index", work).map_err(DirError::io("cannot start the thread for", path))?;
        Ok(Self { worker, done })
    }

    /// Queues one operation; its completion goes to the callback.
    pub fn submit(&self, op: OpId, request: IndexOp) {
        if let Err((op, _)) = self.worker.submit((op, request)) {
            (self.done)(op, Err(IoFault::Unavailable("the thread of the index is gone".to_owned())));
        }
    }
}

impl std::fmt::Debug for IndexStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IndexStore").finish_non_exhaustive()
    }
}

fn settings(options: IndexOptions, compression: DBCompressionType) -> Result<Options, rocksdb::Error> {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_size(options.block_bytes);
    blocks.set_block_restart_interval(options.restart_interval);
    blocks.set_bloom_filter(BLOOM_BITS_PER_KEY, false);
    blocks.set_block_cache(&Cache::new_lru_cache(options.cache_bytes)?);
    // Filters and indexes count against the cache, so that memory is bounded.
    blocks.set_cache_index_and_filter_blocks(true);
    // Those of the files that every look-up passes stay, without asking the cache each time.
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    let mut settings = Options::default();
    settings.create_if_missing(true);
    settings.set_block_based_table_factory(&blocks);
    // Timestamps and positions repeat their upper bytes: half of what is flushed.
    settings.set_compression_type(compression);
    settings.set_write_buffer_size(options.write_buffer_bytes);
    // Nearly every look-up asks for a prewrite that never was there: the memtable's filter says so without a search.
    settings.set_memtable_whole_key_filtering(true);
    settings.set_memtable_prefix_bloom_ratio(MEMTABLE_FILTER_PART);
    // One thread writes.
    settings.set_allow_concurrent_memtable_write(false);
    settings.set_enable_write_thread_adaptive_yield(false);
    // Levels would write each entry again about once per level; runs that are merged when there are enough of them write less,
    // and what a Pump keeps is removed by range at its old end.
    settings.set_compaction_style(DBCompactionStyle::Universal);
    settings.set_level_zero_file_num_compaction_trigger(options.compaction_trigger);
    settings.set_level_zero_slowdown_writes_trigger(options.slowdown_trigger);
    settings.set_level_zero_stop_writes_trigger(options.stop_trigger);
    settings.set_target_file_size_base(options.file_bytes);
    settings.set_atomic_flush(true);
    // A file that is written at once at its end holds up whoever syncs on the same file system meanwhile: the log.
    settings.set_bytes_per_sync(BYTES_PER_SYNC);
    settings.set_max_open_files(MAX_OPEN_FILES);
    settings.set_keep_log_file_num(2);
    settings.set_log_level(LogLevel::Warn);
    Ok(settings)
}

fn execute(db: &DB, request: IndexOp) -> Result<IndexReply, IoFault> {
    match request {
        IndexOp::Apply(changes) => {
            let mut batch = WriteBatch::default();
            let mut changes = changes;
            // Neighbours one after the other: the memtable finds the place of each beside the one before. Equal keys keep their
            // order; a range would be carried out before or after keys that it covers, so with one nothing is moved.
            if changes.iter().all(|change| key_of(change).is_some()) {
                changes.sort_by(|a, b| key_of(a).cmp(&key_of(b)));
            }
            for change in changes {
                match change {
                    Change::Put(key, value) => batch.put(key, value),
                    Change::Delete(key) => batch.delete(key),
                    // RocksDB refuses an inverted range; it holds no key.
                    Change::DeleteRange(from, to) if from >= to => {}
                    Change::DeleteRange(from, to) => batch.delete_range(from, to),
                }
            }
            let mut writes = WriteOptions::default();
            writes.disable_wal(true);
            db.write_opt(batch, &writes).map_err(fault)?;
            Ok(IndexReply::Applied)
        }
        IndexOp::Flush => {
            let mut options = FlushOptions::default();
            options.set_wait(true);
            db.flush_opt(&options).map_err(fault)?;
            Ok(IndexReply::Flushed)
        }
        IndexOp::Get(keys) => {
            let values = db.multi_get(keys).into_iter().map(|value| Ok(value.map_err(fault)?.map(Bytes::from)));
            Ok(IndexReply::Values(values.collect::<Result<_, _>>()?))
        }
        IndexOp::Scan { from, to, limit } => {
            if from >= to {
                return Ok(IndexReply::Pairs(Vec::new()));
            }
            let mut options = ReadOptions::default();
            options.set_iterate_upper_bound(to);
            let pairs = db.iterator_opt(IteratorMode::From(&from, Direction::Forward), options).take(limit);
            let pairs = pairs.map(|pair| pair.map(|(key, value)| (Bytes::from(key), Bytes::from(value))));
            Ok(IndexReply::Pairs(pairs.collect::<Result<_, _>>().map_err(fault)?))
        }
    }
}

/// Files that only an index has which was there before.
fn has_tables(path: &Path) -> std::io::Result<bool> {
    for entry in fs::read_dir(path)? {
        if Path::new(&entry?.file_name()).extension().is_some_and(|extension| extension == "sst") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The error's text, and what to do if a retry does not help.
fn told(error: rocksdb::Error) -> String {
    let damaged = matches!(error.kind(), ErrorKind::Corruption | ErrorKind::NotFound);
    let text = error.into_string();
    if damaged || text.contains("No such file") { format!("{text}; {MAKE_AGAIN}") } else { text }
}

fn fault(error: rocksdb::Error) -> IoFault {
    let text = told(error);
    if text.contains("No space left on device") { IoFault::NoSpace(text) } else { IoFault::Other(text) }
}

/// `None`: a range.
fn key_of(change: &Change) -> Option<&Bytes> {
    match change {
        Change::Put(key, _) | Change::Delete(key) => Some(key),
        Change::DeleteRange(_, _) => None,
    }
}

/// Nothing is in the index that is not in the log (rules 3).
const MAKE_AGAIN: &str = "what is in the value log is not affected: stop this pump, move its directory index/ away and start it \
                          again, then the index is made again from the value log";
/// One false positive in a hundred.
const BLOOM_BITS_PER_KEY: f64 = 10.0;
/// Part of a memtable that its filter may take.
const MEMTABLE_FILTER_PART: f64 = 0.03;
/// Bytes of a table file after which writing them out begins: some milliseconds of a disk.
const BYTES_PER_SYNC: u64 = 512 << 10;
/// Descriptors of table files; the rest of the process's limit is for slots and connections.
const MAX_OPEN_FILES: i32 = 256;
