//! Makes seeds from a recorded capture: `cargo run -p binlog-fuzz-targets --example seeds -- CAPTURE_DIR [REPLIES_JSON]`.
//! Small files, named by a checksum of their contents, so that running it again changes nothing.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use binlog_core::codec::mutation::{PrewriteValue, RowChange};
use binlog_core::proto::binlog::Binlog;
use flate2::read::GzDecoder;
use prost::Message;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

fn main() {
    let mut args = std::env::args().skip(1).map(PathBuf::from);
    let capture = args.next().expect("usage: seeds CAPTURE_DIR [REPLIES_JSON]");
    let payloads = payloads(&capture);
    for payload in spread(&payloads, 12) {
        write("peek", payload);
        let Ok(binlog) = Binlog::decode(payload.as_slice()) else { continue };
        let Some(value) = binlog.prewrite_value else { continue };
        write("prewrite", &value);
        for row in rows(&value) {
            write("row", &row);
            write("datum", &row);
        }
    }
    let small: Vec<Vec<u8>> = payloads.iter().filter(|p| p.len() < 2_000).take(20).cloned().collect();
    write("value_log", &binlog_fuzz_targets::value_log::seed(&small));
    write("value_log", &binlog_fuzz_targets::value_log::seed(&[vec![5; 70_000], vec![6; 10], vec![7; 40_000]]));
    if let Some(killed) = open(&capture.join("godir-killed/pump/value/000001.vlog")) {
        let torn = killed.get(..1500).unwrap_or_default();
        write("value_log_v1", &[torn, b"junk", killed.get(700..).unwrap_or_default()].concat());
        write("value_log_v1", &killed);
    }
    let jobs = lines(&capture.join("jobs.jsonl"));
    for job in spread(&jobs, 12) {
        write("history", job.as_bytes());
    }
    write("history", jobs.iter().take(6).cloned().collect::<Vec<_>>().join("\n").as_bytes());
    transactions(&payloads, &jobs);
    vectors();
    if let Some(path) = args.next() {
        replies(&path);
    }
}

fn payloads(capture: &Path) -> Vec<Vec<u8>> {
    let name = ["binlogs.jsonl", "binlogs.pump1.jsonl"].into_iter().find(|n| open(&capture.join(n)).is_some());
    lines(&capture.join(name.expect("a capture has binlogs")))
        .iter()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|record| STANDARD.decode(record["payload"].as_str()?).ok())
        .filter(|payload| payload.len() <= MAX_SEED)
        .collect()
}

fn rows(value: &[u8]) -> Vec<Vec<u8>> {
    let Ok(value) = PrewriteValue::decode(value) else { return Vec::new() };
    let changes = value
        .mutations()
        .filter_map(Result::ok)
        .flat_map(|mutation| mutation.rows().filter_map(Result::ok).map(bytes_of).collect::<Vec<_>>());
    changes.take(2).collect()
}

fn bytes_of(change: RowChange<'_>) -> Vec<u8> {
    match change {
        RowChange::Insert(bytes) | RowChange::Update(bytes) | RowChange::Delete(bytes) => bytes.to_vec(),
    }
}

/// Transactions, each behind the jobs that made and changed its first table.
fn transactions(payloads: &[Vec<u8>], jobs: &[String]) {
    let parsed: Vec<(Value, &String)> =
        jobs.iter().filter_map(|line| Some((serde_json::from_str(line).ok()?, line))).collect();
    let values = payloads.iter().filter_map(|payload| Binlog::decode(payload.as_slice()).ok()?.prewrite_value);
    let mut seen = BTreeSet::new();
    for value in values.filter(|value| value.len() < 1_000) {
        let Ok(prewrite) = PrewriteValue::decode(&value) else { continue };
        let Some(Ok(mutation)) = prewrite.mutations().next() else { continue };
        if !seen.insert(mutation.table_id) {
            continue;
        }
        let about = |job: &Value| job["binlog"]["TableInfo"]["id"].as_i64() == Some(mutation.table_id);
        let Some((first, _)) = parsed.iter().find(|(job, _)| about(job)) else { continue };
        let schema = |job: &Value| job["type"] == 1 && job["schema_id"] == first["schema_id"];
        let wanted = parsed.iter().filter(|(job, _)| schema(job) || about(job));
        let lines: Vec<&str> = wanted.take(4).map(|(_, line)| line.as_str()).collect();
        write("translate", &[lines.join("\n").as_bytes(), b"\n\n", &value].concat());
        if seen.len() >= 8 {
            break;
        }
    }
}

/// JSON documents of the codec's test vectors.
fn vectors() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../core/tests/data/codec_vectors.json");
    let vectors: Value = serde_json::from_slice(&std::fs::read(path).expect("the vectors")).expect("JSON");
    for vector in vectors["vectors"]["json"].as_array().expect("a list") {
        let hex = vector["hex"].as_str().unwrap_or_default();
        let bytes = (0..hex.len()).step_by(2).filter_map(|i| u8::from_str_radix(hex.get(i..i + 2)?, 16).ok());
        write("json", &bytes.collect::<Vec<u8>>());
    }
}

/// Recorded replies of PD and TiKV, each behind the byte that says which message it is.
fn replies(path: &Path) {
    let kinds = [
        "/GetMembers",
        "/Tso",
        "/GetStore",
        "/GetAllStores",
        "/GetRegion",
        "/GetGCSafePoint",
        "/UpdateServiceGCSafePoint",
        "/KvGet",
        "/KvScan",
        "/MvccGetByKey",
        "/KvCheckTxnStatus",
    ];
    let text = std::fs::read_to_string(path).expect("the file of replies");
    let records: Vec<Value> = serde_json::from_str(&text).expect("a JSON array");
    for record in &records {
        let method = record["method"].as_str().unwrap_or_default();
        let kind = kinds.iter().position(|kind| method.ends_with(kind));
        let bytes = record["response_bytes"].as_str().and_then(|text| STANDARD.decode(text).ok());
        if let (Some(kind), Some(bytes)) = (kind.and_then(|k| u8::try_from(k).ok()), bytes) {
            write("replies", &[&[kind], bytes.as_slice()].concat());
        }
    }
}

fn spread<T>(all: &[T], count: usize) -> impl Iterator<Item = &T> {
    all.iter().step_by((all.len() / count).max(1)).take(count)
}

fn open(path: &Path) -> Option<Vec<u8>> {
    if let Ok(bytes) = std::fs::read(path) {
        return Some(bytes);
    }
    let packed = std::fs::File::open(format!("{}.gz", path.display())).ok()?;
    let mut bytes = Vec::new();
    GzDecoder::new(packed).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn lines(path: &Path) -> Vec<String> {
    let bytes = open(path).unwrap_or_else(|| panic!("{} is missing", path.display()));
    String::from_utf8(bytes).expect("text").lines().map(str::to_owned).collect()
}

fn write(target: &str, bytes: &[u8]) {
    if bytes.is_empty() || bytes.len() > MAX_SEED {
        return;
    }
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../seeds").join(target);
    std::fs::create_dir_all(&dir).expect("the folder of seeds");
    let sum = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    std::fs::write(dir.join(format!("{sum:016x}")), bytes).expect("a seed");
}

/// Fuzzers work best on small inputs; a value log of three segments fits.
const MAX_SEED: usize = 512 << 10;
