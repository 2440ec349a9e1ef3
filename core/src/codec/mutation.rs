//! `PrewriteValue` and its rows in the order of the transaction (spec codec 1.1, 1.2, 1.4).
//!
//! Walks the bytes instead of building messages: nothing is allocated, so a hostile message costs no more memory than it
//! brought. All framing is checked when a value is opened; iterating afterwards fails only where rows and sequence disagree.

use super::CodecError;
use crate::binlog::wire::{Field, Fields, Value, varint};

/// The rows of one transaction, by table.
#[derive(Debug, Clone, Copy)]
pub struct PrewriteValue<'a> {
    /// Schema version of the transaction: all jobs up to it must have been applied.
    pub schema_version: i64,
    message: &'a [u8],
}

impl<'a> PrewriteValue<'a> {
    /// Checks the framing of the whole message, its mutations included.
    pub fn decode(message: &'a [u8]) -> Result<Self, CodecError> {
        let mut schema_version = 0;
        for field in Fields::new(message) {
            let field = field?;
            match field.number {
                SCHEMA_VERSION => schema_version = field.varint("schema_version is not a varint")?.cast_signed(),
                MUTATIONS => {
                    let mutation = field.bytes("mutations is not length-delimited")?;
                    Mutation::decode(mutation).map_err(|e| e.shifted(field.at))?;
                }
                _ => {}
            }
        }
        Ok(Self { schema_version, message })
    }

    /// In the order of first touch; that is the only order between tables that a binlog has.
    pub fn mutations(&self) -> impl Iterator<Item = Result<Mutation<'a>, CodecError>> + use<'a> {
        Fields::new(self.message).filter_map(|field| match field {
            Ok(Field { number: MUTATIONS, value: Value::Bytes(mutation), at, .. }) => {
                Some(Mutation::decode(mutation).map_err(|e| e.shifted(at)))
            }
            Ok(_) => None,
            Err(e) => Some(Err(e.into())),
        })
    }
}

/// The rows of one table in one transaction.
#[derive(Debug, Clone, Copy)]
pub struct Mutation<'a> {
    /// The logical table, never a partition.
    pub table_id: i64,
    message: &'a [u8],
}

/// One row as its kind encodes it (see [`super::row`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowChange<'a> {
    Insert(&'a [u8]),
    Update(&'a [u8]),
    Delete(&'a [u8]),
}

impl<'a> Mutation<'a> {
    /// Checks the framing. The obsolete lists, which no TiDB since v2.1 writes, are refused.
    pub fn decode(message: &'a [u8]) -> Result<Self, CodecError> {
        let mut table_id = 0;
        for field in Fields::new(message) {
            let field = field?;
            match field.number {
                TABLE_ID => table_id = field.varint("table_id is not a varint")?.cast_signed(),
                INSERTED_ROWS | UPDATED_ROWS | DELETED_ROWS => {
                    field.bytes("rows are not length-delimited")?;
                }
                DELETED_IDS | DELETED_PKS => {
                    return Err(CodecError::new(field.start, "no deleted_ids or deleted_pks (TiDB before v2.1)"));
                }
                SEQUENCE => check_sequence(&field)?,
                _ => {}
            }
        }
        Ok(Self { table_id, message })
    }

    /// In the order of the sequence. A list shorter than the sequence demands, rows that it does not name, and unknown
    /// entries are errors; after an error the iterator ends.
    #[must_use]
    pub fn rows(&self) -> Rows<'a> {
        let list = |number| List { fields: Fields::new(self.message), number };
        Rows {
            sequence: Sequence { fields: Fields::new(self.message), packed: &[] },
            inserted: list(INSERTED_ROWS),
            updated: list(UPDATED_ROWS),
            deleted: list(DELETED_ROWS),
            done: false,
        }
    }
}

/// Iterator of [`Mutation::rows`]: the sequence and one cursor per list.
#[derive(Debug, Clone)]
pub struct Rows<'a> {
    sequence: Sequence<'a>,
    inserted: List<'a>,
    updated: List<'a>,
    deleted: List<'a>,
    done: bool,
}

impl<'a> Rows<'a> {
    fn step(&mut self) -> Result<Option<RowChange<'a>>, CodecError> {
        let at = self.sequence.fields.position();
        let shorter = |list: &str| CodecError::new(at, format!("as many {list} as the sequence names"));
        Ok(match self.sequence.next()? {
            Some(INSERT) => Some(RowChange::Insert(self.inserted.next()?.ok_or_else(|| shorter("inserted_rows"))?)),
            Some(UPDATE) => Some(RowChange::Update(self.updated.next()?.ok_or_else(|| shorter("updated_rows"))?)),
            Some(DELETE_ROW) => Some(RowChange::Delete(self.deleted.next()?.ok_or_else(|| shorter("deleted_rows"))?)),
            Some(_) => return Err(CodecError::new(at, "insert, update or delete row in the sequence")),
            None => {
                let left = [&mut self.inserted, &mut self.updated, &mut self.deleted];
                for list in left {
                    if list.next()?.is_some() {
                        return Err(CodecError::new(at, "a sequence that names every row"));
                    }
                }
                None
            }
        })
    }
}

impl<'a> Iterator for Rows<'a> {
    type Item = Result<RowChange<'a>, CodecError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let step = self.step().transpose();
        self.done = !matches!(step, Some(Ok(_)));
        step
    }
}

/// Cursor over one repeated bytes field.
#[derive(Debug, Clone)]
struct List<'a> {
    fields: Fields<'a>,
    number: u32,
}

impl<'a> List<'a> {
    fn next(&mut self) -> Result<Option<&'a [u8]>, CodecError> {
        for field in &mut self.fields {
            let field = field?;
            if field.number == self.number {
                return Ok(Some(field.bytes("rows are not length-delimited")?));
            }
        }
        Ok(None)
    }
}

/// Cursor over the repeated enum, packed or not.
#[derive(Debug, Clone)]
struct Sequence<'a> {
    fields: Fields<'a>,
    packed: &'a [u8],
}

impl Sequence<'_> {
    fn next(&mut self) -> Result<Option<u64>, CodecError> {
        loop {
            if !self.packed.is_empty() {
                let fail = |what| CodecError::new(self.fields.position(), format!("a varint, found a {what}"));
                let (value, size) = varint(self.packed).map_err(fail)?;
                self.packed = self.packed.get(size..).unwrap_or_default();
                return Ok(Some(value));
            }
            let Some(field) = self.fields.next() else { return Ok(None) };
            let field = field?;
            match (field.number, field.value) {
                (SEQUENCE, Value::Varint(value)) => return Ok(Some(value)),
                (SEQUENCE, Value::Bytes(packed)) => self.packed = packed,
                _ => {}
            }
        }
    }
}

/// Varint, or packed varints.
fn check_sequence(field: &Field) -> Result<(), CodecError> {
    let mut packed = match field.value {
        Value::Varint(_) => return Ok(()),
        Value::Bytes(packed) => packed,
        Value::Fixed32(_) | Value::Fixed64(_) => return Err(CodecError::new(field.start, "a sequence of varints")),
    };
    while !packed.is_empty() {
        let (_, size) = varint(packed).map_err(|what| CodecError::new(field.at, format!("varints, found a {what}")))?;
        packed = packed.get(size..).unwrap_or_default();
    }
    Ok(())
}

/// Field numbers of `PrewriteValue` and `TableMutation`.
const SCHEMA_VERSION: u32 = 1;
const MUTATIONS: u32 = 2;
const TABLE_ID: u32 = 1;
const INSERTED_ROWS: u32 = 2;
const UPDATED_ROWS: u32 = 3;
const DELETED_IDS: u32 = 4;
const DELETED_PKS: u32 = 5;
const DELETED_ROWS: u32 = 6;
const SEQUENCE: u32 = 7;
/// Entries of the sequence; 2 and 3 are obsolete.
const INSERT: u64 = 0;
const UPDATE: u64 = 1;
const DELETE_ROW: u64 = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::binlog;
    use bytes::Bytes;
    use proptest::prelude::*;
    use prost::Message;

    fn rows(prefix: &str, count: usize) -> Vec<Bytes> {
        (0..count).map(|i| Bytes::from(format!("{prefix}{i}"))).collect()
    }

    fn mutation(sequence: &[i32]) -> binlog::TableMutation {
        let count = |kind| sequence.iter().filter(|k| **k == kind).count();
        binlog::TableMutation {
            table_id: 53,
            inserted_rows: rows("i", count(0)),
            updated_rows: rows("u", count(1)),
            deleted_rows: rows("d", count(4)),
            sequence: sequence.to_vec(),
            ..binlog::TableMutation::default()
        }
    }

    fn collect(message: &[u8]) -> Result<Vec<RowChange<'_>>, CodecError> {
        Mutation::decode(message)?.rows().collect()
    }

    #[test]
    fn rows_come_in_the_order_of_the_sequence() {
        let message = mutation(&[0, 4, 1, 0, 4]).encode_to_vec();
        let expected = [
            RowChange::Insert(b"i0"),
            RowChange::Delete(b"d0"),
            RowChange::Update(b"u0"),
            RowChange::Insert(b"i1"),
            RowChange::Delete(b"d1"),
        ];
        assert_eq!(collect(&message).unwrap(), expected);
        // The same with the sequence packed.
        let mut packed = mutation(&[0, 4, 1, 0, 4]);
        packed.sequence.clear();
        let mut packed = packed.encode_to_vec();
        packed.extend([0x3a, 5, 0, 4, 1, 0, 4]);
        assert_eq!(collect(&packed).unwrap(), expected);
    }

    #[test]
    fn lists_and_sequence_must_agree() {
        let broken = |change: fn(&mut binlog::TableMutation)| {
            let mut message = mutation(&[0, 1, 4]);
            change(&mut message);
            collect(&message.encode_to_vec()).unwrap_err().expected.into_owned()
        };
        assert_eq!(broken(|m| m.inserted_rows.clear()), "as many inserted_rows as the sequence names");
        assert_eq!(broken(|m| m.updated_rows.clear()), "as many updated_rows as the sequence names");
        assert_eq!(broken(|m| m.deleted_rows.clear()), "as many deleted_rows as the sequence names");
        for obsolete in [2, 3, 5, -1] {
            let change = |m: &mut binlog::TableMutation| m.sequence.push(0);
            let mut message = mutation(&[0]);
            change(&mut message);
            message.sequence = vec![obsolete];
            let error = collect(&message.encode_to_vec()).unwrap_err();
            assert_eq!(error.expected, "insert, update or delete row in the sequence");
        }
        for drop in [0, 1, 4] {
            let mut message = mutation(&[0, 1, 4]);
            message.sequence.retain(|k| *k != drop);
            let error = collect(&message.encode_to_vec()).unwrap_err();
            assert_eq!(error.expected, "a sequence that names every row");
        }
        assert!(broken(|m| m.deleted_ids.push(5)).starts_with("no deleted_ids"));
        assert!(broken(|m| m.deleted_pks.push(Bytes::new())).starts_with("no deleted_ids"));
    }

    #[test]
    fn offsets_count_from_the_outer_message() {
        let good = mutation(&[0]).encode_to_vec();
        let mut message = vec![0x08, 30, 0x12, u8::try_from(good.len()).unwrap()];
        message.extend(&good);
        message.extend([0x12, 2, 0x12, 9]);
        let error = PrewriteValue::decode(&message).unwrap_err();
        assert_eq!(error.offset, 4 + good.len() + 2);
    }

    proptest! {
        #[test]
        fn agrees_with_the_generated_message(
            version: i64, tables in proptest::collection::vec(proptest::collection::vec(0_usize..3, 0..9), 0..4)
        ) {
            let mutations: Vec<_> = tables.iter()
                .map(|t| mutation(&t.iter().map(|k| [0, 1, 4][*k]).collect::<Vec<_>>()))
                .collect();
            let message = binlog::PrewriteValue { schema_version: version, mutations: mutations.clone() };
            let bytes = message.encode_to_vec();
            let value = PrewriteValue::decode(&bytes).unwrap();
            prop_assert_eq!(value.schema_version, version);
            let decoded: Vec<Mutation> = value.mutations().map(Result::unwrap).collect();
            prop_assert_eq!(decoded.len(), mutations.len());
            for (got, expected) in decoded.iter().zip(&mutations) {
                prop_assert_eq!(got.table_id, 53);
                let rows: Result<Vec<_>, _> = got.rows().collect();
                prop_assert_eq!(rows.unwrap().len(), expected.sequence.len());
            }
        }
    }
}
