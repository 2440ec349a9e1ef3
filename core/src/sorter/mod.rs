//! Order of commits and the watermark (rules 4).

mod queue;

pub use queue::{Place, Sorter};
