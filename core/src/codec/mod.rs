//! Datum, row and key encodings of TiDB (spec codec).
