//! Memory for scans of the log that comes back: a large buffer that is got from the system for each read costs as much as the read
//! itself (its pages are cleared, and faulted in one by one). It begins on a block, so that a read past the page cache can fill it.

use crate::direct::BLOCK;
use bytes::Bytes;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

/// Buffers that nobody uses, each of [`BUFFER`] bytes and what it takes to align them.
#[derive(Debug, Default)]
pub struct Pool(Mutex<Vec<Vec<u8>>>);

/// A buffer on loan; given back when the last [`Bytes`] that shares it is dropped.
pub struct Loan {
    data: Vec<u8>,
    begin: usize,
    used: usize,
    pool: Arc<Pool>,
}

impl Pool {
    /// A buffer of `len` bytes, at most [`BUFFER`], with whatever it held before.
    pub fn take(self: &Arc<Self>, len: usize) -> Loan {
        let free = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let data = free.unwrap_or_else(|| vec![0; BUFFER + BLOCK]);
        let begin = data.as_ptr().align_offset(BLOCK);
        Loan { data, begin, used: len.min(BUFFER), pool: Arc::clone(self) }
    }
}

impl Loan {
    pub fn bytes(&mut self) -> &mut [u8] {
        self.data.get_mut(self.begin..self.begin + self.used).unwrap_or_default()
    }

    /// The first `len` bytes.
    pub fn share(mut self, len: usize) -> Bytes {
        self.used = self.used.min(len);
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Loan {
    fn as_ref(&self) -> &[u8] {
        self.data.get(self.begin..self.begin + self.used).unwrap_or_default()
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let mut free = self.pool.0.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < KEPT {
            free.push(mem::take(&mut self.data));
        }
    }
}

/// The pieces in which the log is scanned (`vlog::scan`).
pub const BUFFER: usize = 1 << 20;
/// Free ones that are kept.
const KEPT: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_nobody_shares_it_any_more() {
        let pool = Arc::new(Pool::default());
        let free = || pool.0.lock().unwrap().len();
        let mut loan = pool.take(BUFFER);
        loan.bytes().fill(7);
        assert_eq!((loan.bytes().len(), loan.bytes().as_ptr().align_offset(BLOCK)), (BUFFER, 0));
        let bytes = loan.share(10);
        let part = bytes.slice(3..5);
        drop(bytes);
        assert_eq!((part.as_ref(), free()), (&[7, 7][..], 0));
        drop(part);
        assert_eq!(free(), 1);
        let mut again = pool.take(BUFFER / 2);
        assert_eq!((again.bytes().len(), free()), (BUFFER / 2, 0));
        let more: Vec<_> = (0..2 * KEPT).map(|_| pool.take(BUFFER)).collect();
        drop((again, more));
        assert_eq!(free(), KEPT);
    }
}
