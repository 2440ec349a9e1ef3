//! What a test lets go wrong at TiKV, and how often each of its calls came.

use crate::regions::Trouble;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use tonic::Status;

/// Whether TiKV answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    Up,
    /// UNAVAILABLE at once.
    Down,
    /// No answer before it is up again (or down).
    Hang,
}

/// Most region errors in waiting: a test asks for a few.
pub const MAX_TROUBLES: usize = 10_000;

#[derive(Debug)]
pub struct Faults {
    health: watch::Sender<Health>,
    troubles: Mutex<VecDeque<Trouble>>,
    /// Method → calls that arrived.
    calls: Mutex<BTreeMap<&'static str, u64>>,
}

impl Default for Faults {
    fn default() -> Self {
        Self { health: watch::Sender::new(Health::Up), troubles: Mutex::default(), calls: Mutex::default() }
    }
}

impl Faults {
    pub fn set_health(&self, health: Health) {
        self.health.send_replace(health);
    }

    #[must_use]
    pub fn health(&self) -> Health {
        *self.health.borrow()
    }

    /// The next `count` requests get this region error; false when too many would wait.
    pub fn add_troubles(&self, trouble: Trouble, count: usize) -> bool {
        let mut troubles = lock(&self.troubles);
        let fits = troubles.len().saturating_add(count) <= MAX_TROUBLES;
        if fits {
            troubles.extend(std::iter::repeat_n(trouble, count));
        }
        fits
    }

    /// Region errors that nobody has met yet.
    #[must_use]
    pub fn waiting(&self) -> usize {
        lock(&self.troubles).len()
    }

    /// How often each call arrived, by method.
    #[must_use]
    pub fn calls(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.calls).clone()
    }

    pub(crate) fn next_trouble(&self) -> Option<Trouble> {
        lock(&self.troubles).pop_front()
    }

    /// Counts a call, and lets it through when TiKV is there.
    pub(crate) async fn admit(&self, method: &'static str) -> Result<(), Status> {
        *lock(&self.calls).entry(method).or_default() += 1;
        let mut health = self.health.subscribe();
        // The sender lives as long as this.
        let health = health.wait_for(|health| *health != Health::Hang).await.map_or(Health::Down, |health| *health);
        match health {
            Health::Up | Health::Hang => Ok(()),
            Health::Down => Err(Status::unavailable("TiKV is away")),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
