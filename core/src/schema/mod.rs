//! Schema of the upstream, as data (design 4.2).

pub mod action;
pub mod definitions;
pub mod history;
pub mod model;
pub mod text;
pub mod tracker;
pub mod view;
