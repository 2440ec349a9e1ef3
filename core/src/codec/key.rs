//! TiKV keys: records, indexes, and TiDB's meta structures (spec codec 8.1, 8.2, 9).

use super::CodecError;
use super::bytes;
use super::number;
use super::reader::Reader;

/// A raw user key, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key<'a> {
    /// `t` table `_r` handle. The table id is the partition's in a partitioned table.
    Record { table: i64, handle: Handle<'a> },
    /// `t` table `_i` index values…
    Index { table: i64, index: i64, values: &'a [u8] },
    /// `m` …
    Meta { name: Vec<u8>, part: MetaPart },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handle<'a> {
    Int(i64),
    /// Key-form datums of a clustered primary key, with their padding.
    Common(&'a [u8]),
}

/// What of a meta structure a key names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetaPart {
    String,
    HashMeta,
    HashField(Vec<u8>),
    ListMeta,
    ListItem(i64),
}

/// Takes a raw key apart.
pub fn parse(raw: &[u8]) -> Result<Key<'_>, CodecError> {
    let mut input = Reader::new(raw);
    match input.u8("a key")? {
        b't' => {
            let table = number::int(&mut input)?;
            match &input.array::<2>("_r or _i")? {
                b"_r" => {
                    let handle = match input.rest() {
                        rest if rest.len() == INT_HANDLE => Handle::Int(number::int(&mut input)?),
                        rest if rest.len() > INT_HANDLE => Handle::Common(rest),
                        _ => return Err(input.fail("a handle of at least 8 bytes")),
                    };
                    Ok(Key::Record { table, handle })
                }
                b"_i" => {
                    let index = number::int(&mut input)?;
                    Ok(Key::Index { table, index, values: input.rest() })
                }
                _ => Err(CodecError::new(1 + INT_HANDLE, "_r or _i")),
            }
        }
        b'm' => {
            let name = bytes::memcomparable(&mut input)?;
            let at = input.offset();
            let part = match number::uint(&mut input)?.try_into().unwrap_or(0_u8) {
                b's' => MetaPart::String,
                b'H' => MetaPart::HashMeta,
                b'h' => MetaPart::HashField(bytes::memcomparable(&mut input)?),
                b'L' => MetaPart::ListMeta,
                b'l' => MetaPart::ListItem(number::int(&mut input)?),
                _ => return Err(CodecError::new(at, "a known kind of meta structure")),
            };
            input.finish("the end of a meta key")?;
            Ok(Key::Meta { name, part })
        }
        _ => Err(CodecError::new(0, "a key of a table or of the meta data")),
    }
}

/// Key of a row with an integer handle.
#[must_use]
pub fn record(table: i64, handle: i64) -> Vec<u8> {
    let mut out = record_prefix(table);
    number::put_int(&mut out, handle);
    out
}

/// Key of a row of a clustered table; `handle`: key-form datums. Padded so that it never looks like an integer handle.
#[must_use]
pub fn record_common(table: i64, handle: &[u8]) -> Vec<u8> {
    let mut out = record_prefix(table);
    out.extend_from_slice(handle);
    out.extend(std::iter::repeat_n(0, (INT_HANDLE + 1).saturating_sub(handle.len())));
    out
}

fn record_prefix(table: i64) -> Vec<u8> {
    let mut out = vec![b't'];
    number::put_int(&mut out, table);
    out.extend_from_slice(b"_r");
    out
}

/// The form in which PD and region boundaries hold a raw key.
#[must_use]
pub fn region(raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity((raw.len() / 8 + 1) * 9);
    bytes::put_memcomparable(&mut out, raw);
    out
}

/// The raw key of a region boundary; an empty boundary is the end of the key space and stays empty.
pub fn from_region(boundary: &[u8]) -> Result<Vec<u8>, CodecError> {
    if boundary.is_empty() {
        return Ok(Vec::new());
    }
    let mut input = Reader::new(boundary);
    let raw = bytes::memcomparable(&mut input)?;
    input.finish("the end of a region boundary")?;
    Ok(raw)
}

#[must_use]
pub fn meta_string(name: &[u8]) -> Vec<u8> {
    meta(name, b's')
}

/// Also the beginning of all keys of the hash.
#[must_use]
pub fn meta_hash_prefix(name: &[u8]) -> Vec<u8> {
    meta(name, b'h')
}

#[must_use]
pub fn meta_hash_field(name: &[u8], field: &[u8]) -> Vec<u8> {
    let mut out = meta_hash_prefix(name);
    bytes::put_memcomparable(&mut out, field);
    out
}

#[must_use]
pub fn meta_list(name: &[u8]) -> Vec<u8> {
    meta(name, b'L')
}

#[must_use]
pub fn meta_list_item(name: &[u8], index: i64) -> Vec<u8> {
    let mut out = meta(name, b'l');
    number::put_int(&mut out, index);
    out
}

fn meta(name: &[u8], kind: u8) -> Vec<u8> {
    let mut out = vec![b'm'];
    bytes::put_memcomparable(&mut out, name);
    number::put_uint(&mut out, kind.into());
    out
}

/// Key of a DDL job in the history.
#[must_use]
pub fn history_job(job: i64) -> Vec<u8> {
    meta_hash_field(HISTORY, &job.to_be_bytes())
}

/// All history jobs: first key and the key behind the last.
#[must_use]
pub fn history_range() -> (Vec<u8>, Vec<u8>) {
    (meta_hash_prefix(HISTORY), meta(HISTORY, b'h' + 1))
}

/// The job that a key of the history belongs to; `None` for any other key.
#[must_use]
pub fn history_job_id(raw: &[u8]) -> Option<i64> {
    match parse(raw) {
        Ok(Key::Meta { name, part: MetaPart::HashField(field) }) if name == HISTORY => {
            Some(i64::from_be_bytes(field.try_into().ok()?))
        }
        _ => None,
    }
}

const HISTORY: &[u8] = b"DDLJobHistory";
/// Bytes of an integer handle and of a table id.
const INT_HANDLE: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn short_clustered_handles_are_padded() {
        let raw = record_common(60, &[0x00]);
        assert_eq!(raw.len(), 11 + 9);
        assert_eq!(parse(&raw).unwrap(), Key::Record { table: 60, handle: Handle::Common(&[0; 9]) });
    }

    #[test]
    fn broken_keys_are_refused() {
        for raw in [&b""[..], b"x", b"t", b"t1234567", b"t12345678_x", b"t12345678_r1234567", b"m", b"mabc"] {
            assert!(parse(raw).is_err(), "{raw:?}");
        }
        let mut tail = history_job(7);
        assert_eq!(history_job_id(&tail), Some(7));
        tail.push(0);
        assert!(parse(&tail).is_err() && history_job_id(&tail).is_none());
        assert_eq!(history_job_id(&meta_hash_field(b"DBs", &[0; 8])), None);
        assert!(from_region(&region(b"abc")[1..]).is_err());
    }

    proptest! {
        #[test]
        fn round_trips(table: i64, handle: i64, name: Vec<u8>, field: Vec<u8>) {
            let raw = record(table, handle);
            prop_assert_eq!(parse(&raw).unwrap(), Key::Record { table, handle: Handle::Int(handle) });
            let parsed = parse(&meta_hash_field(&name, &field)).map(|k| k == Key::Meta {
                name: name.clone(), part: MetaPart::HashField(field.clone())
            });
            prop_assert_eq!(parsed, Ok(true));
            let item = parse(&meta_list_item(&name, handle)).map(|k| k == Key::Meta {
                name: name.clone(), part: MetaPart::ListItem(handle)
            });
            prop_assert_eq!(item, Ok(true));
            prop_assert_eq!(from_region(&region(&name)).unwrap(), name);
            prop_assert_eq!(history_job_id(&history_job(handle)), Some(handle));
            let (start, end) = history_range();
            prop_assert!(start <= history_job(handle) && history_job(handle) < end);
        }

        #[test]
        fn never_panics(mut raw: Vec<u8>, kind in 0_u8..3) {
            raw.insert(0, [b't', b'm', 0][usize::from(kind)]);
            let _ = parse(&raw);
        }
    }
}
