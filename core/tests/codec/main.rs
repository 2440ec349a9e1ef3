//! The codec against the vectors of the specification, recorded rows of a real cluster, and broken input.

mod entry;
mod hostile;
mod messages;
mod primitives;
mod recorded;
mod rows;
mod schema;
mod support;

use serde_json::Value;

/// Every category of the vector file goes to its check; one that nobody handles fails the test.
#[test]
fn vectors() {
    let file: Value = serde_json::from_str(include_str!("../data/codec_vectors.json")).unwrap();
    let categories = file["vectors"].as_object().unwrap();
    assert_eq!(categories.len(), 36, "a category came or went: look at what it needs");
    for (category, vectors) in categories {
        if category == "decimal_digits_to_bytes" {
            primitives::digits_to_bytes(vectors);
            continue;
        }
        let check = check_of(category).unwrap_or_else(|| panic!("no check for the vector category {category}"));
        let vectors = vectors.as_array().unwrap();
        assert!(!vectors.is_empty(), "{category} is empty");
        for (i, vector) in vectors.iter().enumerate() {
            // Shown by the test harness when the check fails.
            println!("{category}[{i}]: {}", vector["description"]);
            check(vector);
        }
    }
}

fn check_of(category: &str) -> Option<fn(&Value)> {
    Some(match category {
        "varint" => primitives::varint,
        "uvarint" => primitives::uvarint,
        "int_memcomparable" => primitives::int_memcomparable,
        "uint_memcomparable" => primitives::uint_memcomparable,
        "float_memcomparable" => primitives::float_memcomparable,
        "bytes_memcomparable" => primitives::bytes_memcomparable,
        "bytes_memcomparable_desc" => primitives::bytes_memcomparable_desc,
        "bytes_memcomparable_invalid" => primitives::bytes_memcomparable_invalid,
        "bytes_compact" => primitives::bytes_compact,
        "decimal_bin" => primitives::decimal_bin,
        "datum_value" => primitives::datum_value,
        "datum_key" => primitives::datum_key,
        "datum_invalid" => primitives::datum_invalid,
        "packed_time" => primitives::packed_time,
        "duration" => primitives::duration,
        "timestamp_zone" => primitives::timestamp_zone,
        "tso" => primitives::tso,
        "json" => primitives::json,
        "bit" => primitives::bit,
        "enum" => primitives::enumeration,
        "set" => primitives::set,
        "key" => schema::key,
        "meta_key" => schema::meta_key,
        "job_json" => schema::job_json,
        "default_value" => schema::default_value,
        "sequence_pseudo_ddl" => schema::sequence_pseudo_ddl,
        "row" => rows::row,
        "row_v2" => rows::row_v2,
        "row_invalid" => rows::row_invalid,
        "update_invalid" => rows::update_invalid,
        "update_default" => rows::update_default,
        "protobuf" => messages::protobuf,
        "protobuf_tolerated" => messages::protobuf_tolerated,
        "protobuf_invalid" => messages::protobuf_invalid,
        "sequence_invalid" => messages::sequence_invalid,
        _ => return None,
    })
}
