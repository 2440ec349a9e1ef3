//! Behaviour of the log-file port and of the index port that the machines rely on, on real files.

use binlog_core::fault::IoFault;
use binlog_core::ids::{OpId, SlotId};
use binlog_core::index::op::{Change, IndexOp, IndexReply};
use binlog_core::vlog::op::{LogOp, LogReply};
use binlog_storage::index_store::{IndexOptions, IndexStore};
use binlog_storage::log_files::LogFiles;
use bytes::Bytes;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// Only a test that hangs waits this long.
const DEADLINE: Duration = Duration::from_secs(60);

struct Log {
    port: LogFiles,
    done: Receiver<(OpId, Result<LogReply, IoFault>)>,
    next: u64,
}

impl Log {
    fn open(dir: &Path) -> Self {
        let (send, done) = channel();
        let port = LogFiles::open(dir, move |op, result| drop(send.send((op, result)))).unwrap();
        Self { port, done, next: 0 }
    }

    fn submit(&mut self, request: LogOp) -> OpId {
        self.next += 1;
        self.port.submit(OpId::new(self.next), request);
        OpId::new(self.next)
    }

    fn call(&mut self, request: LogOp) -> Result<LogReply, IoFault> {
        let op = self.submit(request);
        let (answered, result) = self.done.recv_timeout(DEADLINE).expect("an answer");
        assert_eq!(answered, op);
        result
    }

    fn read(&mut self, slot: u64, offset: u64, len: u64) -> Bytes {
        match self.call(LogOp::Read { slot: SlotId::new(slot), offset, len }).unwrap() {
            LogReply::Data(data) => data,
            other => panic!("{other:?}"),
        }
    }

    fn list(&mut self) -> Vec<(u64, u64)> {
        match self.call(LogOp::List).unwrap() {
            LogReply::Slots(slots) => slots.into_iter().map(|(slot, len)| (slot.raw(), len)).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn write(&mut self, slot: u64, offset: u64, parts: Vec<Bytes>) {
        let slot = SlotId::new(slot);
        assert!(matches!(self.call(LogOp::Write { slot, offset, parts }), Ok(LogReply::Written)));
        assert!(matches!(self.call(LogOp::Sync { slot }), Ok(LogReply::Synced)));
    }
}

#[test]
fn log_files_keep_what_was_written() {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("not/yet");
    let mut log = Log::open(&data);
    assert_eq!(log.list(), []);
    for slot in [12, 3] {
        assert!(matches!(log.call(LogOp::Create { slot: SlotId::new(slot) }), Ok(LogReply::Created)));
    }
    assert!(log.call(LogOp::Create { slot: SlotId::new(3) }).is_err(), "an existing file is not created again");
    assert_eq!(log.list(), [(3, 0), (12, 0)]);

    // More parts than one system call takes, empty ones among them.
    let parts: Vec<Bytes> = (0..3000usize).map(|i| Bytes::from(vec![i as u8; i % 7])).collect();
    let all = parts.concat();
    log.write(3, 4096, parts);
    assert_eq!(log.read(3, 4096, 1 << 40), all, "no more memory than the file has bytes");
    assert_eq!(log.read(3, 4090, 8), [&[0; 6][..], &all[..2]].concat());
    assert_eq!(log.read(3, 4096 + all.len() as u64 - 2, 10), all[all.len() - 2..], "fewer at the end");
    assert_eq!(log.read(3, 1 << 50, 10), Bytes::new());
    log.write(3, 4096, vec![Bytes::from_static(b"over")]);

    // Whole blocks in odd parts, more than the port writes at once: they may go another way than the above.
    let parts: Vec<Bytes> = (0..=255u8).map(|i| Bytes::from(vec![i; 16_000 + usize::from(i) * 3 % 7])).collect();
    let padding = Bytes::from(vec![0; (4096 - parts.iter().map(Bytes::len).sum::<usize>() % 4096) % 4096]);
    let blocks = [parts, vec![padding]].concat();
    log.write(12, 8192, blocks.clone());
    assert_eq!(log.read(12, 8192, 1 << 30), blocks.concat());
    // As a scan reads; the buffer is used again.
    for _ in 0..3 {
        assert_eq!(log.read(12, 8192, 1 << 20), blocks.concat()[..1 << 20]);
    }
    log.write(12, 12_288, vec![Bytes::from(vec![9; 4096])]);
    for len in [4096, 1 << 20] {
        assert_eq!(log.read(12, 12_288, len)[..4096], [9; 4096], "what was read before is read anew");
    }
    let whole = 8192 + blocks.concat().len() as u64;

    let missing = SlotId::new(4);
    for request in [
        LogOp::Read { slot: missing, offset: 0, len: 1 },
        LogOp::Write { slot: missing, offset: 0, parts: vec![] },
        LogOp::Sync { slot: missing },
    ] {
        let fault = log.call(request).unwrap_err();
        assert!(matches!(&fault, IoFault::NotFound(text) if text.contains("000004.slot")), "{fault}");
    }
    // The last one has the number by which the log knows the original's first file.
    for stranger in ["readme", "12.slot", "x.slot", "000001.slot.tmp", "4294967296.slot"] {
        fs::write(data.join("log").join(stranger), "x").unwrap();
    }
    // Moved to another disk: what counts is the file, not the link.
    fs::rename(data.join("log/000003.slot"), root.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(root.path().join("elsewhere"), data.join("log/000003.slot")).unwrap();
    drop(log);

    let mut log = Log::open(&data);
    assert_eq!(log.list(), [(3, 4096 + all.len() as u64), (12, whole)]);
    assert_eq!(log.read(3, 4096, all.len() as u64), [b"over", &all[4..]].concat());
    assert!(data.join("log/000012.slot").exists());
}

/// A long history has more segments than a process may have open files.
#[test]
fn many_files_need_few_descriptors() {
    let root = tempfile::tempdir().unwrap();
    let mut log = Log::open(root.path());
    let contents = |slot: u64| Bytes::from(slot.to_le_bytes().to_vec());
    for slot in 1..=300 {
        assert!(matches!(log.call(LogOp::Create { slot: SlotId::new(slot) }), Ok(LogReply::Created)));
        log.write(slot, 0, vec![contents(slot)]);
    }
    for slot in (1..=300).rev() {
        assert_eq!(log.read(slot, 0, 100), contents(slot));
    }
    log.write(150, 4096, vec![contents(150)]);
    let links = fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let open = links.filter(|target| target.starts_with(root.path())).count();
    assert!((1..=256).contains(&open), "{open} files are open");
}

#[test]
fn log_files_answer_in_order_and_finish_before_they_close() {
    let root = tempfile::tempdir().unwrap();
    let mut log = Log::open(root.path());
    let slot = SlotId::new(1);
    let mut expected = vec![log.submit(LogOp::Create { slot })];
    for i in 0..50u64 {
        expected.push(log.submit(LogOp::Write {
            slot,
            offset: i * 4096,
            parts: vec![Bytes::from(vec![i as u8; 4096])],
        }));
        expected.push(log.submit(LogOp::Sync { slot }));
    }
    let Log { port, done, .. } = log;
    drop(port);
    let answers: Vec<_> = done.iter().map(|(op, result)| result.map(|_| op).unwrap()).collect();
    assert_eq!(answers, expected);
    assert_eq!(fs::metadata(root.path().join("log/000001.slot")).unwrap().len(), 50 * 4096);
}

#[test]
fn slots_are_filled_with_zeros_and_removed_for_good() {
    let root = tempfile::tempdir().unwrap();
    let mut log = Log::open(root.path());
    let (slot, other) = (SlotId::new(1), SlotId::new(2));
    for slot in [slot, other] {
        assert!(matches!(log.call(LogOp::Create { slot }), Ok(LogReply::Created)));
    }
    // More than one piece, not a multiple of one, and behind what is there already.
    let (offset, len) = (1 << 20, (1 << 20) + 12_345);
    log.write(1, 0, vec![Bytes::from(vec![7; 1 << 20])]);
    assert!(matches!(log.call(LogOp::Fill { slot, offset, len }), Ok(LogReply::Filled)));
    assert_eq!(log.list(), [(1, offset + len), (2, 0)]);
    assert!(log.read(1, offset, len).iter().all(|byte| *byte == 0));
    assert!(log.read(1, 0, offset).iter().all(|byte| *byte == 7));
    let meta = fs::metadata(root.path().join("log/000001.slot")).unwrap();
    assert!(
        std::os::unix::fs::MetadataExt::blocks(&meta) * 512 >= offset + len,
        "the blocks exist, the file has no hole"
    );
    assert!(matches!(log.call(LogOp::Fill { slot: other, offset: 0, len: 0 }), Ok(LogReply::Filled)));

    // A flush of another slot is not queued behind background work: it is answered although more of that was asked first.
    let fills: Vec<OpId> = (0..4).map(|i| log.submit(LogOp::Fill { slot, offset: i << 20, len: 1 << 20 })).collect();
    let write = log.submit(LogOp::Write { slot: other, offset: 0, parts: vec![Bytes::from_static(b"x")] });
    let mut answered: Vec<OpId> = Vec::new();
    for _ in 0..5 {
        let (op, result) = log.done.recv_timeout(DEADLINE).expect("an answer");
        assert!(result.is_ok());
        answered.push(op);
    }
    assert!(answered.contains(&write) && fills.iter().all(|op| answered.contains(op)));

    assert!(matches!(log.call(LogOp::Remove { slot }), Ok(LogReply::Removed)));
    assert!(matches!(log.call(LogOp::Remove { slot }), Err(IoFault::NotFound(_))));
    assert_eq!(log.list(), [(2, 1)]);
    let read = log.call(LogOp::Read { slot, offset: 0, len: 1 });
    assert!(matches!(read, Err(IoFault::NotFound(_))), "no descriptor keeps a removed file alive");
    assert!(matches!(log.call(LogOp::Create { slot }), Ok(LogReply::Created)), "its number may be used again");
    assert!(matches!(log.call(LogOp::Fill { slot: SlotId::new(9), offset: 0, len: 1 }), Err(IoFault::NotFound(_))));
    drop(log);
    assert_eq!(Log::open(root.path()).list(), [(1, 0), (2, 1)]);
}

struct Index {
    port: IndexStore,
    done: Receiver<(OpId, Result<IndexReply, IoFault>)>,
    next: u64,
}

impl Index {
    fn open(dir: &Path) -> Self {
        let (send, done) = channel();
        let options = IndexOptions { write_buffer_bytes: 1 << 20, cache_bytes: 1 << 20, ..IndexOptions::default() };
        let port = IndexStore::open(dir, options, move |op, result| drop(send.send((op, result)))).unwrap();
        Self { port, done, next: 0 }
    }

    fn call(&mut self, request: IndexOp) -> IndexReply {
        self.next += 1;
        self.port.submit(OpId::new(self.next), request);
        let (op, result) = self.done.recv_timeout(DEADLINE).expect("an answer");
        assert_eq!(op, OpId::new(self.next));
        result.unwrap()
    }

    fn apply(&mut self, changes: Vec<Change>) {
        assert!(matches!(self.call(IndexOp::Apply(changes)), IndexReply::Applied));
    }

    fn scan(&mut self, from: &'static str, to: &'static str, limit: usize) -> Vec<(String, String)> {
        let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        match self.call(IndexOp::Scan { from: from.into(), to: to.into(), limit }) {
            IndexReply::Pairs(pairs) => pairs.into_iter().map(|(k, v)| (text(k), text(v))).collect(),
            other => panic!("{other:?}"),
        }
    }
}

fn put(key: &'static str, value: &'static str) -> Change {
    Change::Put(key.into(), value.into())
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

#[test]
fn index_applies_scans_and_keeps() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("deep/index");
    let mut index = Index::open(&path);
    index.apply(vec![put("a", "1"), put("b", "2"), put("c", "3"), put("d", "4"), put("e", "")]);
    assert_eq!(index.scan("b", "d", 10), pairs(&[("b", "2"), ("c", "3")]));
    assert_eq!(index.scan("a", "z", 2), pairs(&[("a", "1"), ("b", "2")]));
    assert_eq!(index.scan("d", "b", 10), []);
    assert_eq!(index.scan("b", "b", 10), []);
    // Later changes of one batch win over earlier ones.
    index.apply(vec![
        put("b", "x"),
        Change::DeleteRange("b".into(), "d".into()),
        put("c", "again"),
        Change::Delete("a".into()),
        Change::DeleteRange("z".into(), "a".into()),
    ]);
    match index.call(IndexOp::Get(vec!["c".into(), "a".into(), "e".into(), "b".into()])) {
        IndexReply::Values(values) => {
            assert_eq!(values, [Some("again".into()), None, Some(Bytes::new()), None]);
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(index.call(IndexOp::Flush), IndexReply::Flushed));
    assert!(matches!(index.call(IndexOp::Flush), IndexReply::Flushed), "with nothing to flush too");
    index.apply(vec![put("f", "6")]);
    drop(index);
    let mut index = Index::open(&path);
    assert_eq!(index.scan("a", "z", 10), pairs(&[("c", "again"), ("d", "4"), ("e", ""), ("f", "6")]));
}

/// SIGKILL leaves everything that was flushed, and of the rest a prefix of whole batches.
/// Damage is an error that says what to do, and nothing is removed: above all no table of an index that seems to be new.
#[test]
fn a_damaged_index_is_named_and_left_as_it_is() {
    type Harm = fn(&Path);
    fn only(path: &Path, begin: &str, end: &str) -> std::path::PathBuf {
        let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
        let named = |path: &std::path::PathBuf| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.starts_with(begin) && name.ends_with(end)
        };
        entries.filter(named).max().unwrap()
    }
    let harms: [(&str, Harm); 5] = [
        ("CURRENT is gone", |path| fs::remove_file(path.join("CURRENT")).unwrap()),
        ("CURRENT is no name", |path| fs::write(path.join("CURRENT"), "x").unwrap()),
        ("manifest", |path| fs::write(only(path, "MANIFEST-", ""), vec![7; 300]).unwrap()),
        ("a table is gone", |path| fs::remove_file(only(path, "", ".sst")).unwrap()),
        ("a table is cut off", |path| {
            let table = fs::OpenOptions::new().write(true).open(only(path, "", ".sst")).unwrap();
            table.set_len(table.metadata().unwrap().len() / 2).unwrap();
        }),
    ];
    let thousand = || (0..1000).map(|i| Change::Put(format!("{i:04}").into(), "value".into())).collect();
    for (what, harm) in harms {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("index");
        let mut index = Index::open(&path);
        index.apply(thousand());
        assert!(matches!(index.call(IndexOp::Flush), IndexReply::Flushed));
        drop(index);
        harm(&path);
        let tables = |path: &Path| {
            let names = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name());
            names.filter(|name| name.to_str().unwrap().ends_with(".sst")).collect::<std::collections::BTreeSet<_>>()
        };
        let before = tables(&path);
        let error = IndexStore::open(&path, IndexOptions::default(), |_, _| {}).unwrap_err().to_string();
        assert!(error.contains("move its directory index/ away"), "{what}: {error}");
        assert_eq!(tables(&path), before, "{what}");
    }
    // A block of a table: seen when it is read.
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("index");
    let mut index = Index::open(&path);
    index.apply(thousand());
    assert!(matches!(index.call(IndexOp::Flush), IndexReply::Flushed));
    drop(index);
    let table = only(&path, "", ".sst");
    let mut bytes = fs::read(&table).unwrap();
    bytes[100] ^= 0x40;
    fs::write(&table, bytes).unwrap();
    let (send, done) = channel();
    let port = IndexStore::open(&path, IndexOptions::default(), move |_, result| drop(send.send(result))).unwrap();
    port.submit(OpId::new(1), IndexOp::Get(vec!["0001".into()]));
    let error = done.recv_timeout(DEADLINE).unwrap().unwrap_err().to_string();
    assert!(error.contains("move its directory index/ away"), "{error}");
}

#[test]
fn index_leaves_a_prefix_of_whole_batches() {
    const VICTIM: &str = "BINLOG_TEST_INDEX_VICTIM";
    const FLUSH_AT: u64 = 150;
    let key = |i: u64, part: u8| Bytes::from([&i.to_be_bytes()[..], &[part]].concat());
    if let Some(path) = std::env::var_os(VICTIM) {
        let mut index = Index::open(Path::new(&path));
        for i in 0.. {
            // Memtables of 1 MiB are switched and flushed without being asked, about every fifty batches.
            let value = Bytes::from(vec![i as u8; 10_000]);
            index.apply(vec![Change::Put(key(i, 0), value.clone()), Change::Put(key(i, 1), value)]);
            if i == FLUSH_AT {
                index.call(IndexOp::Flush);
            }
            println!("applied {i}");
        }
    }
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("index");
    for kill_at in [FLUSH_AT, 333] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "index_leaves_a_prefix_of_whole_batches", "--nocapture"])
            .env(VICTIM, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let wanted = format!("applied {kill_at}");
        assert!(lines.map_while(Result::ok).any(|line| line == wanted), "the child ended early");
        child.kill().unwrap();
        child.wait().unwrap();

        let mut index = Index::open(&path);
        let reply = index.call(IndexOp::Scan { from: key(0, 0), to: key(u64::MAX, 255), limit: usize::MAX });
        let IndexReply::Pairs(found) = reply else { panic!("pairs") };
        let expected: Vec<_> = (0..found.len() as u64 / 2).flat_map(|i| [key(i, 0), key(i, 1)]).collect();
        assert_eq!(
            found.into_iter().map(|(key, _)| key).collect::<Vec<_>>(),
            expected,
            "whole batches, without a hole"
        );
        assert!(expected.len() as u64 / 2 > FLUSH_AT);
        drop(index);
        fs::remove_dir_all(&path).unwrap();
    }
}
