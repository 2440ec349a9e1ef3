//! Writing past the page cache (`O_DIRECT`): whether a directory takes it, and memory that such a write may come from. Sizes, offsets
//! and addresses have to be multiples of what the device asks for; a block of 4096 bytes is enough for every device that Linux had
//! until now, and where it is not, [`works`] says no.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Unit of length, offset and address; the log's own block.
pub const BLOCK: usize = 4096;

pub const fn is_aligned(value: u64) -> bool {
    value.is_multiple_of(BLOCK as u64)
}

/// Tries it: writes a block to a file of its own, compares what the page cache then shows, and removes the file.
pub fn works(dir: &Path) -> io::Result<()> {
    let path = dir.join("direct-io.probe");
    let mut buffer = Aligned::new(BLOCK);
    buffer.take(&[0x5a; BLOCK]);
    let probe = || {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(libc::O_DIRECT)
            .open(&path)?;
        file.write_all_at(buffer.bytes(), 0)?;
        file.sync_data()?;
        let same = fs::read(&path)? == buffer.bytes();
        if same { Ok(()) } else { Err(io::Error::other("what was written does not read back")) }
    };
    let result = probe();
    // One that stays is no slot, and the next start truncates it.
    let _ = fs::remove_file(&path);
    result
}

/// Memory that begins on a multiple of [`BLOCK`], filled from the front.
#[derive(Debug)]
pub struct Aligned {
    memory: Vec<u8>,
    begin: usize,
    used: usize,
    capacity: usize,
}

impl Aligned {
    /// `capacity` is a multiple of [`BLOCK`].
    pub fn new(capacity: usize) -> Self {
        let memory = vec![0; capacity + BLOCK];
        let begin = memory.as_ptr().align_offset(BLOCK);
        assert!(begin < BLOCK, "a byte pointer can be aligned");
        Self { memory, begin, used: 0, capacity }
    }

    /// Appends what there is room for, returns the rest.
    pub fn take<'a>(&mut self, data: &'a [u8]) -> &'a [u8] {
        let (now, rest) = data.split_at(data.len().min(self.capacity - self.used));
        let at = self.begin + self.used;
        if let Some(place) = self.memory.get_mut(at..at + now.len()) {
            place.copy_from_slice(now);
        }
        self.used += now.len();
        rest
    }

    pub const fn is_full(&self) -> bool {
        self.used == self.capacity
    }

    pub fn bytes(&self) -> &[u8] {
        self.memory.get(self.begin..self.begin + self.used).unwrap_or_default()
    }

    pub const fn clear(&mut self) {
        self.used = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_aligned() {
        let mut buffer = Aligned::new(2 * BLOCK);
        let data: Vec<u8> = (0..3 * BLOCK).map(|i| (i % 251) as u8).collect();
        let rest = buffer.take(&data[..100]);
        assert!(rest.is_empty() && !buffer.is_full());
        let rest = buffer.take(&data[100..]);
        assert_eq!((rest, buffer.bytes()), (&data[2 * BLOCK..], &data[..2 * BLOCK]));
        assert!(buffer.is_full());
        assert_eq!(buffer.bytes().as_ptr().align_offset(BLOCK), 0);
        buffer.clear();
        assert!(buffer.bytes().is_empty());
    }

    #[test]
    fn a_directory_that_is_not_there_takes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert!(works(&dir.path().join("missing")).is_err());
        let _ = works(dir.path());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
    }
}
