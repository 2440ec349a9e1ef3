//! Looks up a few keys in a LevelDB directory, as goleveldb writes it, without opening it as a database: nothing is recovered,
//! compacted, locked or written, and only the journals and the blocks that may hold a key are read. The format is LevelDB's
//! (doc/log_format, doc/table_format): CURRENT names the manifest, the manifest lists the tables and the oldest journal that counts.
//!
//! Every length is checked against what is there; damage is an error with the file's name, except at the end of a journal, where
//! a crash may have cut a write short.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

type Key<'a> = &'a [u8];

/// The newest value of each key, in the order asked.
pub fn get(dir: &Path, keys: &[Key<'_>]) -> Result<Vec<Option<Vec<u8>>>, String> {
    let current =
        fs::read_to_string(dir.join("CURRENT")).map_err(|e| format!("{}: {e}", dir.join("CURRENT").display()))?;
    let name = current.trim_end();
    if !name.starts_with("MANIFEST-") || name.contains('/') {
        return Err(format!("CURRENT names {name:?}"));
    }
    let named = |name: &str, error: &dyn std::fmt::Display| format!("{name}: {error}");
    let manifest = read(&dir.join(name)).map_err(|e| named(name, &e))?;
    let version = Version::of(&journal(&manifest, false).map_err(|e| named(name, &e))?).map_err(|e| named(name, &e))?;
    let mut newest = Newest::new(keys);
    for (number, table) in &version.tables {
        let wanted: Vec<Key<'_>> = keys
            .iter()
            .copied()
            .filter(|key| table.smallest.as_slice() <= *key && *key <= table.largest.as_slice())
            .collect();
        if wanted.is_empty() {
            continue;
        }
        let names = [format!("{number:06}.ldb"), format!("{number:06}.sst")];
        let Some(name) = names.iter().find(|name| dir.join(name).exists()) else {
            return Err(format!("table {number} is missing"));
        };
        look_into_table(&dir.join(name), &wanted, &mut newest).map_err(|e| named(name, &e))?;
    }
    for (name, number) in journals(dir)? {
        if number >= version.journal || Some(number) == version.previous_journal {
            let data = read(&dir.join(&name)).map_err(|e| named(&name, &e))?;
            for batch in journal(&data, true).map_err(|e| named(&name, &e))? {
                look_into_batch(&batch, &mut newest).map_err(|e| named(&name, &e))?;
            }
        }
    }
    Ok(newest.values())
}

/// Sequence, and the value; `None`: deleted.
type Entry = (u64, Option<Vec<u8>>);

/// The newest entry of each key seen so far.
struct Newest<'a> {
    keys: Vec<(Key<'a>, Option<Entry>)>,
}

impl<'a> Newest<'a> {
    fn new(keys: &[Key<'a>]) -> Self {
        Self { keys: keys.iter().map(|key| (*key, None)).collect() }
    }

    fn see(&mut self, key: &[u8], sequence: u64, value: Option<&[u8]>) {
        for (own, found) in self.keys.iter_mut().filter(|(own, _)| *own == key) {
            debug_assert_eq!(*own, key);
            if found.as_ref().is_none_or(|(before, _)| *before <= sequence) {
                *found = Some((sequence, value.map(<[u8]>::to_vec)));
            }
        }
    }

    fn values(self) -> Vec<Option<Vec<u8>>> {
        self.keys.into_iter().map(|(_, found)| found.and_then(|(_, value)| value)).collect()
    }
}

struct Table {
    smallest: Vec<u8>,
    largest: Vec<u8>,
}

/// What the manifest adds up to.
#[derive(Default)]
struct Version {
    tables: BTreeMap<u64, Table>,
    journal: u64,
    previous_journal: Option<u64>,
}

impl Version {
    fn of(edits: &[Vec<u8>]) -> Result<Self, String> {
        let mut version = Self::default();
        for edit in edits {
            version.apply(&mut Cursor(edit)).ok_or("an entry does not decode")?;
        }
        Ok(version)
    }

    fn apply(&mut self, at: &mut Cursor<'_>) -> Option<()> {
        while !at.0.is_empty() {
            match at.varint()? {
                COMPARATOR => {
                    at.bytes()?;
                }
                JOURNAL => self.journal = at.varint()?,
                NEXT_FILE | SEQUENCE => {
                    at.varint()?;
                }
                COMPACT_POINTER => {
                    at.varint()?;
                    at.bytes()?;
                }
                DELETED => {
                    at.varint()?;
                    let number = at.varint()?;
                    self.tables.remove(&number);
                }
                ADDED => {
                    at.varint()?;
                    let number = at.varint()?;
                    at.varint()?;
                    let (smallest, _) = internal_key(at.bytes()?)?;
                    let (largest, _) = internal_key(at.bytes()?)?;
                    self.tables.insert(number, Table { smallest: smallest.to_vec(), largest: largest.to_vec() });
                }
                PREVIOUS_JOURNAL => self.previous_journal = Some(at.varint()?).filter(|number| *number > 0),
                _ => return None,
            }
        }
        Some(())
    }
}

fn journals(dir: &Path) -> Result<Vec<(String, u64)>, String> {
    let entries = fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut out = Vec::new();
    for entry in entries {
        let name = entry.map_err(|e| format!("{}: {e}", dir.display()))?.file_name();
        let Some(name) = name.to_str() else { continue };
        if let Some(number) = name.strip_suffix(".log").and_then(|text| text.parse().ok()) {
            out.push((name.to_owned(), number));
        }
    }
    out.sort_by_key(|(_, number)| *number);
    Ok(out)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let len = fs::metadata(path).map_err(|e| e.to_string())?.len();
    if len > MAX_FILE {
        return Err(format!("{len} bytes are more than a journal has"));
    }
    fs::read(path).map_err(|e| e.to_string())
}

/// The records of a journal: blocks of 32 KiB with chunks of crc, length, type. With `torn` what cannot be read ends it.
fn journal(data: &[u8], torn: bool) -> Result<Vec<Vec<u8>>, String> {
    let mut records = Vec::new();
    let mut open: Option<Vec<u8>> = None;
    for block in data.chunks(JOURNAL_BLOCK) {
        let mut at = Cursor(block);
        while at.0.len() >= CHUNK_HEADER {
            let Some((kind, payload)) = chunk(&mut at) else {
                return if torn { Ok(records) } else { Err("a chunk does not verify".to_owned()) };
            };
            match kind {
                // Filled ahead of time by other writers.
                0 if payload.is_empty() => break,
                FULL => records.push(payload.to_vec()),
                FIRST => open = Some(payload.to_vec()),
                MIDDLE | LAST => match open.as_mut() {
                    Some(record) => {
                        record.extend_from_slice(payload);
                        if kind == LAST {
                            records.extend(open.take());
                        }
                    }
                    // The begin of this record was in a part that is gone.
                    None if torn => {}
                    None => return Err("a chunk has no begin".to_owned()),
                },
                _ => return if torn { Ok(records) } else { Err("a chunk of an unknown kind".to_owned()) },
            }
        }
    }
    Ok(records)
}

fn chunk<'a>(at: &mut Cursor<'a>) -> Option<(u8, &'a [u8])> {
    let crc = u32::from_le_bytes(at.array()?);
    let len = usize::from(u16::from_le_bytes(at.array()?));
    let body = at.take(1 + len)?;
    let (kind, payload) = body.split_first()?;
    if (crc, len, *kind) == (0, 0, 0) {
        return Some((0, payload));
    }
    (crc == mask(crc32c::crc32c(body))).then_some((*kind, payload))
}

/// A write batch: sequence, count, then puts and deletes.
fn look_into_batch(batch: &[u8], newest: &mut Newest<'_>) -> Result<(), String> {
    let mut at = Cursor(batch);
    let mut parse = || {
        let mut sequence = u64::from_le_bytes(at.array()?);
        let count = u32::from_le_bytes(at.array()?);
        for _ in 0..count {
            let kind = at.u8()?;
            let key = at.bytes()?;
            match kind {
                VALUE => newest.see(key, sequence, Some(at.bytes()?)),
                DELETION => newest.see(key, sequence, None),
                _ => return None,
            }
            sequence = sequence.wrapping_add(1);
        }
        at.0.is_empty().then_some(())
    };
    parse().ok_or_else(|| "a batch does not decode".to_owned())
}

fn look_into_table(path: &Path, keys: &[Key<'_>], newest: &mut Newest<'_>) -> Result<(), String> {
    let file = File::open(path).map_err(|e| e.to_string())?;
    let len = file.metadata().map_err(|e| e.to_string())?.len();
    let begin = len.checked_sub(FOOTER as u64).ok_or("too short for a table")?;
    let mut footer = [0; FOOTER];
    file.read_exact_at(&mut footer, begin).map_err(|e| e.to_string())?;
    let mut at = Cursor(&footer);
    let mut handles = || {
        let (_meta, index) = (Handle::parse(&mut at)?, Handle::parse(&mut at)?);
        footer.ends_with(&TABLE_MAGIC).then_some(index)
    };
    let index = handles().ok_or("no footer of a table")?;
    let index = block(&file, len, index)?;
    for key in keys {
        // Entries of the index are separators: the first one at or above the key names the block that may hold it. Several
        // versions of a key may go on into the next blocks; the newest comes first.
        let mut handle = None;
        entries(&index, |separator, value| {
            let found = internal_key(separator).is_some_and(|(separator, _)| separator >= *key);
            if found && handle.is_none() {
                handle = Handle::parse(&mut Cursor(value));
            }
        })?;
        let Some(handle) = handle else { continue };
        entries(&block(&file, len, handle)?, |own, value| {
            if let Some((own, trailer)) = internal_key(own)
                && own == *key
            {
                let deleted = trailer & 0xff == u64::from(DELETION);
                newest.see(own, trailer >> 8, (!deleted).then_some(value));
            }
        })?;
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Handle {
    offset: u64,
    len: u64,
}

impl Handle {
    fn parse(at: &mut Cursor<'_>) -> Option<Self> {
        Some(Self { offset: at.varint()?, len: at.varint()? })
    }
}

/// A block, checked and unpacked.
fn block(file: &File, file_len: u64, handle: Handle) -> Result<Vec<u8>, String> {
    let full = handle.len.checked_add(BLOCK_TRAILER).filter(|len| *len <= MAX_BLOCK);
    let end = full.and_then(|full| handle.offset.checked_add(full));
    let full = full.filter(|_| end.is_some_and(|end| end <= file_len)).ok_or("a block lies outside its file")?;
    let mut raw = vec![0; usize::try_from(full).map_err(|e| e.to_string())?];
    file.read_exact_at(&mut raw, handle.offset).map_err(|e| e.to_string())?;
    let (body, crc) = raw.split_last_chunk::<4>().ok_or("a block is too short")?;
    if u32::from_le_bytes(*crc) != mask(crc32c::crc32c(body)) {
        return Err(format!("the block at {} does not verify", handle.offset));
    }
    let (kind, packed) = body.split_last().ok_or("a block is too short")?;
    match *kind {
        0 => Ok(packed.to_vec()),
        1 => {
            let len = snap::raw::decompress_len(packed).map_err(|e| e.to_string())?;
            if len as u64 > MAX_BLOCK {
                return Err(format!("a block of {len} bytes"));
            }
            snap::raw::Decoder::new().decompress_vec(packed).map_err(|e| e.to_string())
        }
        other => Err(format!("a block is packed with method {other}")),
    }
}

/// All entries of a block, with their whole keys.
fn entries(block: &[u8], mut see: impl FnMut(&[u8], &[u8])) -> Result<(), String> {
    let mut parse = || {
        let (rest, restarts) = block.split_last_chunk::<4>()?;
        let restarts = usize::try_from(u32::from_le_bytes(*restarts)).ok()?.checked_mul(4)?;
        let mut at = Cursor(rest.get(..rest.len().checked_sub(restarts)?)?);
        let mut key = Vec::new();
        while !at.0.is_empty() {
            let shared = usize::try_from(at.varint()?).ok().filter(|shared| *shared <= key.len())?;
            let own = usize::try_from(at.varint()?).ok()?;
            let value = usize::try_from(at.varint()?).ok()?;
            key.truncate(shared);
            key.extend_from_slice(at.take(own)?);
            see(&key, at.take(value)?);
        }
        Some(())
    };
    parse().ok_or_else(|| "a block does not decode".to_owned())
}

/// User key, and sequence << 8 | kind.
fn internal_key(raw: &[u8]) -> Option<(&[u8], u64)> {
    let (key, trailer) = raw.split_last_chunk::<8>()?;
    Some((key, u64::from_le_bytes(*trailer)))
}

fn mask(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(u8::from_le_bytes)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    /// Length and that many bytes.
    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.varint()?).ok()?;
        self.take(len)
    }
}

const COMPARATOR: u64 = 1;
const JOURNAL: u64 = 2;
const NEXT_FILE: u64 = 3;
const SEQUENCE: u64 = 4;
const COMPACT_POINTER: u64 = 5;
const DELETED: u64 = 6;
const ADDED: u64 = 7;
const PREVIOUS_JOURNAL: u64 = 9;

const JOURNAL_BLOCK: usize = 32 << 10;
const CHUNK_HEADER: usize = 7;
const FULL: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;

const DELETION: u8 = 0;
const VALUE: u8 = 1;

const FOOTER: usize = 48;
const TABLE_MAGIC: [u8; 8] = 0xdb47_7524_8b80_fb57_u64.to_le_bytes();
/// Method and crc behind a block.
const BLOCK_TRAILER: u64 = 5;
/// Blocks have a few KiB; the index of a large table some MiB.
const MAX_BLOCK: u64 = 64 << 20;
/// Journals and manifests grow to the size of the write buffer, some MiB.
const MAX_FILE: u64 = 1 << 30;

#[cfg(test)]
#[path = "leveldb_tests.rs"]
mod tests;
