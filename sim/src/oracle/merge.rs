//! Oracle of the merge (M2), from what the links delivered: a transaction reaches the downstream only when every Pump that the
//! Drainer had been told of has shown something at or above it.

use std::collections::BTreeMap;

/// What one life of the Drainer has seen.
#[derive(Debug, Default)]
pub struct Heads {
    life: u32,
    /// Largest timestamp that each Pump has sent it, from its first listing on.
    shown: BTreeMap<usize, u64>,
}

impl Heads {
    pub fn start(&mut self, life: u32) {
        *self = Self { life, shown: BTreeMap::new() };
    }

    /// A listing that names this Pump, not offline, reaches the Drainer. What it had merged until then, `merged`, did not wait
    /// for this one.
    pub fn lists(&mut self, node: usize, merged: impl FnOnce() -> u64) {
        self.shown.entry(node).or_insert_with(merged);
    }

    /// It left: nobody waits for it any more.
    pub fn leaves(&mut self, node: usize) {
        self.shown.remove(&node);
    }

    /// An item of a Pump, fakes included, reaches the Drainer.
    pub fn shows(&mut self, life: u32, node: usize, ts: u64) {
        if let Some(shown) = self.shown.get_mut(&node).filter(|_| life == self.life) {
            *shown = ts.max(*shown);
        }
    }

    /// The transaction at `ts` is sent downstream.
    ///
    /// # Errors
    /// Oracle and text.
    pub fn sends(&self, ts: u64) -> Result<(), (&'static str, String)> {
        match self.shown.iter().find(|(_, shown)| **shown < ts) {
            None => Ok(()),
            Some((node, shown)) => {
                Err(("M2", format!("{ts} is sent downstream, but pump {node} has shown {shown} only")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_pump_is_waited_for() {
        let mut heads = Heads::default();
        heads.start(1);
        heads.lists(0, || 0);
        assert!(heads.sends(5).is_err_and(|(oracle, _)| oracle == "M2"));
        heads.shows(1, 0, 7);
        assert!(heads.sends(5).is_ok());
        heads.lists(1, || 5);
        assert!(heads.sends(5).is_ok() && heads.sends(6).is_err());
        heads.shows(2, 1, 9);
        assert!(heads.sends(6).is_err(), "another life's item");
        heads.leaves(1);
        assert!(heads.sends(6).is_ok());
        heads.start(2);
        assert!(heads.sends(99).is_ok(), "nothing is listed yet");
    }
}
