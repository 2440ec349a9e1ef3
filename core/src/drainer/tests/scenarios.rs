//! Single situations of the whole machine.
