//! A thread that works off a queue in order. The queue needs no limit of its own: the machines bound what they have under way.

use std::io;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

/// Dropping it lets the thread finish what is queued, then joins it.
#[derive(Debug)]
pub struct Worker<J> {
    queue: Option<Sender<J>>,
    thread: Option<JoinHandle<()>>,
}

impl<J: Send + 'static> Worker<J> {
    pub fn spawn(name: &str, mut work: impl FnMut(J) + Send + 'static) -> io::Result<Self> {
        let (queue, jobs) = channel::<J>();
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            for job in jobs {
                work(job);
            }
        })?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    /// Gives the job back when the thread is gone.
    pub fn submit(&self, job: J) -> Result<(), J> {
        match &self.queue {
            Some(queue) => queue.send(job).map_err(|error| error.0),
            None => Err(job),
        }
    }
}

impl<J> Drop for Worker<J> {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take()
            // A callback may hold the last reference to its own port.
            && thread.thread().id() != thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("a storage thread panicked; this is a bug of this program");
        }
    }
}
