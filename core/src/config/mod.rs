//! Validated configuration of every process, without I/O.
