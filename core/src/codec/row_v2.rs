//! Storage row format v2 (spec codec 2.6). No TiDB puts it into a mutation; it is read anyway where a row value is expected.

use super::CodecError;
use super::datum::Datum;
use super::decimal::Decimal;
use super::float;
use super::json::Json;
use super::reader::Reader;
use super::row::RowImage;
use super::value::tp;
use crate::schema::model::{ColumnInfo, TableInfo};

/// Values carry no flag, so that columns unknown to the table are left out undecoded. A checksum behind the data is not
/// looked at.
pub fn decode<'a>(row: &'a [u8], table: &TableInfo) -> Result<RowImage<'a>, CodecError> {
    let mut input = Reader::new(row);
    if input.u8("a row")? != VERSION {
        return Err(CodecError::new(0, "a row of format 2"));
    }
    let large = input.u8("the flags of a row")? & LARGE != 0;
    let set = usize::from(u16::from_le_bytes(input.array("the number of columns")?));
    let null = usize::from(u16::from_le_bytes(input.array("the number of NULL columns")?));
    let (id_size, offset_size) = if large { (4, 4) } else { (1, 2) };
    let ids = input.take((set + null) * id_size, "the column ids")?;
    let ends = input.take(set * offset_size, "the ends of the values")?;
    let (data, at) = (input.rest(), input.offset());

    let mut image = RowImage::default();
    let mut start = 0;
    for (i, id) in ids.chunks(id_size).enumerate() {
        let id = i64::try_from(little_endian(id)).unwrap_or_default();
        let mut value = None;
        if i < set {
            let end = ends.chunks(offset_size).nth(i).map(little_endian);
            let end = end.and_then(|end| usize::try_from(end).ok()).unwrap_or(usize::MAX);
            value = Some(data.get(start..end).ok_or_else(|| CodecError::new(at, "rising ends inside the data"))?);
            start = end;
        }
        let Some(column) = table.cols.iter().find(|c| c.id == id) else {
            image.step_over();
            continue;
        };
        let datum = match value {
            Some(value) => flagless(value, column).map_err(|e| e.shifted(at + start - value.len()))?,
            None => Datum::Null,
        };
        if !image.add(id, datum) {
            return Err(CodecError::new(at, format!("column {id} only once in a row")));
        }
    }
    Ok(image)
}

fn flagless<'a>(value: &'a [u8], column: &ColumnInfo) -> Result<Datum<'a>, CodecError> {
    let mut input = Reader::new(value);
    let datum = match column.field_type.tp {
        tp::TINY | tp::SHORT | tp::INT24 | tp::LONG | tp::LONGLONG if column.field_type.is_unsigned() => {
            return Ok(Datum::UInt(unsigned(value)?));
        }
        tp::TINY | tp::SHORT | tp::INT24 | tp::LONG | tp::LONGLONG | tp::YEAR => return Ok(Datum::Int(signed(value)?)),
        tp::DURATION => return Ok(Datum::Duration(signed(value)?)),
        tp::DATE | tp::NEWDATE | tp::DATETIME | tp::TIMESTAMP | tp::ENUM | tp::SET | tp::BIT => {
            return Ok(Datum::UInt(unsigned(value)?));
        }
        tp::FLOAT | tp::DOUBLE => Datum::Float(float::float(&mut input)?),
        tp::DECIMAL => Datum::Decimal(Decimal::read(&mut input)?),
        tp::JSON => Datum::Json(Json::read(&mut input)?),
        _ => return Ok(Datum::Bytes(value.into())),
    };
    input.finish("the end of the value")?;
    Ok(datum)
}

fn unsigned(value: &[u8]) -> Result<u64, CodecError> {
    match value.len() {
        1 | 2 | 4 | 8 => Ok(little_endian(value)),
        _ => Err(CodecError::new(0, "an integer of 1, 2, 4 or 8 bytes")),
    }
}

fn signed(value: &[u8]) -> Result<i64, CodecError> {
    let unused = 64 - 8 * u32::try_from(value.len().min(8)).unwrap_or_default();
    let raw = unsigned(value)?;
    Ok((raw << unused).cast_signed() >> unused)
}

/// Of at most eight bytes.
fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).rev().fold(0, |n, b| n << 8 | u64::from(*b))
}

/// First byte; a row of the old format never starts with it.
pub const VERSION: u8 = 128;
/// Four-byte ids and ends.
const LARGE: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_of_every_width() {
        let table: &[(&[u8], i64, u64)] = &[
            (&[0xff], -1, 0xff),
            (&[0x7f, 0xff], -129, 0xff7f),
            (&[0, 0, 0, 0x80], i64::from(i32::MIN), 0x8000_0000),
            (&[0xff; 8], -1, u64::MAX),
        ];
        for (bytes, int, uint) in table {
            assert_eq!((signed(bytes).unwrap(), unsigned(bytes).unwrap()), (*int, *uint));
        }
        for length in [0, 3, 5, 9] {
            assert!(signed(&vec![1; length]).is_err());
        }
    }
}
