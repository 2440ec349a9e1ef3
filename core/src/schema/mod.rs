//! Schema of the upstream, as data (design 4.2).

pub mod model;
