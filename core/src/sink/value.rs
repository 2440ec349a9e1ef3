//! A value on its way to a SQL statement (spec drainer 4.1, codec 4.2).

/// Parameter of a statement.
#[derive(Debug, Clone, PartialEq)]
pub enum SqlValue {
    Null,
    Int(i64),
    UInt(u64),
    /// FLOAT is sent widened.
    Double(f64),
    /// Text in UTF-8 as TiDB stored it; invalid UTF-8 is kept.
    Text(Vec<u8>),
    /// BINARY, VARBINARY, BLOB.
    Bytes(Vec<u8>),
}
