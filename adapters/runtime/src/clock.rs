//! The process's monotonic clock as the core sees it.

use binlog_core::time::MonoTime;
use tokio::time::{Duration, Instant};

/// Nanoseconds since the process began; tokio's clock, so that a simulated runtime can stand in.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    #[must_use]
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    #[must_use]
    pub fn now(&self) -> MonoTime {
        MonoTime::from_nanos(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// When `deadline` is due.
    #[must_use]
    pub fn instant(&self, deadline: MonoTime) -> Instant {
        self.start + Duration::from_nanos(deadline.nanos())
    }
}
