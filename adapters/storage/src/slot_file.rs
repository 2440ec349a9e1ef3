//! One file of the log, opened once (rules 2). Whole blocks are written past the page cache (`O_DIRECT`) where the file system allows
//! it: nothing is copied into pages that nobody reads again (live streams are served from memory), a failed write is the error of
//! that write instead of a page that reads new until it is evicted, and the bytes written are those of the batch, not of the large
//! page around it. Scans read in the same way (recovery, scrub: what they read is not wanted again soon); streams read through the
//! page cache, with its read-ahead. Used by `log_files` alone.
//!
//! Mixing both on one file is safe here: a write past the cache drops the pages that it covers before it returns, and the log reads
//! only what it knows to be durable, so never a block that is being written.

use crate::direct::{Aligned, BLOCK, is_aligned};
use crate::pool::{self, Pool};
use bytes::Bytes;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

#[derive(Debug)]
pub struct SlotFile {
    file: File,
    /// The same file, past the page cache. What was written through either is synced through this one if it is there: it was
    /// open before the write, so it is told of its failure.
    direct: Option<File>,
}

/// How a slot's file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It must not exist.
    Create,
    ReadWrite,
    /// A file of the original: it is never written to.
    ReadOnly,
}

impl SlotFile {
    /// `direct`: whether the directory takes writes past the page cache.
    pub fn open(path: &Path, mode: Mode, direct: bool) -> io::Result<Self> {
        let writes = mode != Mode::ReadOnly;
        let file =
            OpenOptions::new().read(true).write(writes).create_new(mode == Mode::Create).mode(0o600).open(path)?;
        let open_direct = || OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path);
        let direct = (direct && writes).then(open_direct).transpose()?;
        Ok(Self { file, direct })
    }

    pub fn sync_all(&self) -> io::Result<()> {
        self.direct.as_ref().unwrap_or(&self.file).sync_all()
    }

    pub fn sync_data(&self) -> io::Result<()> {
        self.direct.as_ref().unwrap_or(&self.file).sync_data()
    }

    /// Writes all parts, concatenated, at `offset`; `buffer` takes them where they have to lie together.
    pub fn write(&self, offset: u64, parts: &[Bytes], buffer: &mut Aligned) -> io::Result<()> {
        let len: u64 = parts.iter().map(|part| part.len() as u64).sum();
        match &self.direct {
            Some(direct) if is_aligned(offset) && is_aligned(len) => write_direct(direct, offset, parts, buffer),
            _ => write_all_at(&self.file, offset, parts),
        }
    }

    /// Writes zeros. The file then reaches to the end at least.
    pub fn fill(&self, offset: u64, len: u64) -> io::Result<()> {
        let file = match &self.direct {
            Some(direct) if is_aligned(offset) && is_aligned(len) => direct,
            _ => &self.file,
        };
        let mut done = 0;
        while done < len {
            let piece = usize::try_from(len - done).unwrap_or(usize::MAX).min(ZEROS.0.len());
            file.write_all_at(ZEROS.0.get(..piece).unwrap_or_default(), offset.saturating_add(done))?;
            done += piece as u64;
        }
        Ok(())
    }

    /// Up to `len` bytes at `offset`; memory only for what the file has.
    pub fn read(&self, offset: u64, len: u64, pool: &Arc<Pool>) -> io::Result<Bytes> {
        let there = self.file.metadata()?.len().saturating_sub(offset).min(len);
        let there = usize::try_from(there).map_err(|_| ErrorKind::OutOfMemory)?;
        if let Some(direct) = self.direct.as_ref().filter(|_| is_scan(offset, there)) {
            let mut loan = pool.take(there);
            let filled = read_at(direct, offset, loan.bytes())?;
            return Ok(loan.share(filled));
        }
        let mut data = vec![0; there];
        let filled = read_at(&self.file, offset, &mut data)?;
        data.truncate(filled);
        Ok(data.into())
    }
}

/// Large and made of whole blocks: streams read from record to record.
const fn is_scan(offset: u64, len: usize) -> bool {
    is_aligned(offset) && is_aligned(len as u64) && pool::BUFFER / 2 <= len && len <= pool::BUFFER
}

/// How many bytes were there.
fn read_at(file: &File, offset: u64, data: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = data.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The parts are put together in the buffer, which is written whenever it is full: whole blocks from an aligned place.
fn write_direct(file: &File, mut offset: u64, parts: &[Bytes], buffer: &mut Aligned) -> io::Result<()> {
    for part in parts {
        let mut rest = part.as_ref();
        while !rest.is_empty() {
            rest = buffer.take(rest);
            if buffer.is_full() {
                file.write_all_at(buffer.bytes(), offset)?;
                offset += buffer.bytes().len() as u64;
                buffer.clear();
            }
        }
    }
    let last = file.write_all_at(buffer.bytes(), offset);
    buffer.clear();
    last
}

/// Writes all parts, concatenated, at `offset`; as few system calls as the kernel allows.
fn write_all_at(file: &File, mut offset: u64, parts: &[Bytes]) -> io::Result<()> {
    let mut rest: Vec<&[u8]> = parts.iter().map(AsRef::as_ref).filter(|part: &&[u8]| !part.is_empty()).rev().collect();
    while !rest.is_empty() {
        let written = match write_vectored_at(file, offset, &rest) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            other => other?,
        };
        offset += written as u64;
        let mut left = written;
        while left > 0 {
            let Some(part) = rest.pop() else { break };
            match part.get(left..) {
                Some([]) => left = 0,
                Some(tail) => {
                    rest.push(tail);
                    left = 0;
                }
                None => left -= part.len(),
            }
        }
    }
    Ok(())
}

/// One `pwritev` of the last [`MAX_PARTS`] elements of `rest`, last first.
#[allow(unsafe_code)]
fn write_vectored_at(file: &File, offset: u64, rest: &[&[u8]]) -> io::Result<usize> {
    let vectors: Vec<libc::iovec> = rest
        .iter()
        .rev()
        .take(MAX_PARTS)
        .map(|part| libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() })
        .collect();
    let count = libc::c_int::try_from(vectors.len()).map_err(|_| ErrorKind::InvalidInput)?;
    let offset = libc::off_t::try_from(offset).map_err(|_| ErrorKind::FileTooLarge)?;
    // SAFETY: `vectors` holds `count` elements that point to live slices; pwritev only reads from them; the descriptor is open.
    let written = unsafe { libc::pwritev(file.as_raw_fd(), vectors.as_ptr(), count, offset) };
    usize::try_from(written).map_err(|_| io::Error::last_os_error())
}

/// One write of a filling, where a write past the page cache takes it from.
static ZEROS: Zeros = Zeros([0; 64 * BLOCK]);

#[repr(align(4096))]
struct Zeros([u8; 64 * BLOCK]);

/// `IOV_MAX` on Linux.
const MAX_PARTS: usize = 1024;
