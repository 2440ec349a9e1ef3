//! Column types (being written).
