//! Reading a capture of a real cluster (layout: the README beside the captures). A file `x` may be stored as `x` or `x.gz`.

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// Largest file of a capture after unpacking; the biggest there is has 60 MB.
const MAX_FILE: u64 = 1 << 30;
/// Most Pumps of a capture.
const MAX_PUMPS: u32 = 16;

/// `facts.json`, as far as a replay needs it.
#[derive(Debug, Clone, Deserialize)]
pub struct Facts {
    #[serde(default)]
    pub scenario: String,
    #[serde(default, deserialize_with = "number_in_text")]
    pub cluster_id: u64,
    #[serde(default = "one")]
    pub pumps: u32,
    /// The original's configuration file, in TOML.
    #[serde(default)]
    pub drainer_config_mysql: String,
    #[serde(default)]
    pub counts: Counts,
    /// Prewrites without commit or rollback, and what TiKV said.
    #[serde(default)]
    pub open_prewrites: Vec<OpenPrewrite>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub struct Counts {
    #[serde(default)]
    pub rows: Rows,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub struct Rows {
    #[serde(default)]
    pub insert: u64,
    #[serde(default)]
    pub update: u64,
    #[serde(default)]
    pub delete: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub struct OpenPrewrite {
    pub start_ts: u64,
    pub prewrite_key: String,
    /// `committed at N`, else rolled back.
    pub tikv_verdict: String,
}

/// Kind of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Kind {
    Prewrite,
    Commit,
    Rollback,
}

/// One record of a Pump's value log.
#[derive(Debug, Clone)]
pub struct Record {
    /// Which Pump, from 0.
    pub pump: usize,
    /// Order of arrival at that Pump.
    pub i: u64,
    pub kind: Kind,
    pub start_ts: u64,
    /// 0 for a prewrite.
    pub commit_ts: u64,
    /// Raw key; a C written by a Pump has none.
    pub prewrite_key: Option<Vec<u8>>,
    /// The bytes that were stored.
    pub payload: Bytes,
    /// Written by the Pump itself to carry a timestamp.
    pub fake: bool,
}

/// One item of a recorded stream.
#[derive(Debug, Clone)]
pub struct Item {
    pub commit_ts: u64,
    pub meta: (u64, u64),
    pub payload: Bytes,
    pub fake: bool,
}

/// What became of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    pub key: Vec<u8>,
    pub start_ts: u64,
    /// `None`: rolled back.
    pub commit_ts: Option<u64>,
}

/// A capture with its records in memory.
pub struct Capture {
    pub dir: PathBuf,
    pub facts: Facts,
    /// Per Pump, in order of arrival.
    pub pumps: Vec<Vec<Record>>,
}

impl Capture {
    /// Reads facts and records.
    pub fn open(dir: &Path) -> Result<Self> {
        if !dir.is_dir() {
            bail!("{} is not a directory of a capture", dir.display());
        }
        let facts: Facts = read_json(&dir.join("facts.json"))?;
        let names = per_pump(dir, "binlogs", facts.pumps)?;
        let pumps = names.iter().enumerate().map(|(pump, path)| read_records(pump, path)).collect::<Result<_>>()?;
        Ok(Self { dir: dir.into(), facts, pumps })
    }

    /// All records of all Pumps.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.pumps.iter().flatten()
    }

    /// Smallest and largest timestamp of all records, fakes included.
    #[must_use]
    pub fn ts_range(&self) -> Option<(u64, u64)> {
        let smallest = self.records().map(|r| r.start_ts).min()?;
        let largest = self.records().map(|r| r.start_ts.max(r.commit_ts)).max()?;
        Some((smallest, largest))
    }

    /// The largest commit timestamp of a transaction: where a replay ends.
    #[must_use]
    pub fn largest_commit_ts(&self) -> u64 {
        let resolved = self.facts.open_prewrites.iter().filter_map(|open| committed_at(&open.tikv_verdict));
        let recorded = self.records().filter(|r| r.kind == Kind::Commit && !r.fake).map(|r| r.commit_ts);
        recorded.chain(resolved).max().unwrap_or(0)
    }

    /// What TiKV knows: a write for each C, a rollback for each R without one, the recorded verdict for the rest.
    pub fn evidence(&self) -> Result<Vec<Evidence>> {
        let real = || self.records().filter(|r| !r.fake);
        let keys: std::collections::BTreeMap<u64, &Vec<u8>> =
            real().filter_map(|r| r.prewrite_key.as_ref().map(|key| (r.start_ts, key))).collect();
        let committed: BTreeSet<u64> = real().filter(|r| r.kind == Kind::Commit).map(|r| r.start_ts).collect();
        let mut out = Vec::new();
        let mut seen = BTreeSet::new();
        for record in real() {
            let commit_ts = match record.kind {
                Kind::Prewrite => continue,
                Kind::Commit => Some(record.commit_ts),
                Kind::Rollback if committed.contains(&record.start_ts) => continue,
                Kind::Rollback => None,
            };
            // A record without a key anywhere cannot be asked for.
            if let Some(key) = keys.get(&record.start_ts)
                && seen.insert(record.start_ts)
            {
                out.push(Evidence { key: (*key).clone(), start_ts: record.start_ts, commit_ts });
            }
        }
        for open in &self.facts.open_prewrites {
            if seen.insert(open.start_ts) {
                out.push(Evidence {
                    key: hex(&open.prewrite_key)?,
                    start_ts: open.start_ts,
                    commit_ts: committed_at(&open.tikv_verdict),
                });
            }
        }
        Ok(out)
    }

    /// TiDB's meta keys at the end of the recording; none where a capture has no such file.
    pub fn meta_kv(&self) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        #[derive(Deserialize)]
        struct Line {
            k: String,
            v: String,
        }
        let path = self.dir.join("meta_kv.jsonl");
        if !exists(&path) {
            return Ok(Vec::new());
        }
        read_lines::<Line>(&path)?
            .into_iter()
            .map(|line| Ok((hex(&line.k)?, BASE64_STANDARD.decode(line.v)?)))
            .collect()
    }

    /// What the original's Pumps served from position 0, per Pump.
    pub fn pulls(&self) -> Result<Vec<Vec<Item>>> {
        #[derive(Deserialize)]
        struct Meta {
            start_ts: u64,
            commit_ts: u64,
        }
        #[derive(Deserialize)]
        struct Line {
            commit_ts: u64,
            meta: Meta,
            payload: String,
            #[serde(default)]
            fake: bool,
        }
        let paths = per_pump(&self.dir, "pull", self.facts.pumps)?;
        let read = |path: &PathBuf| -> Result<Vec<Item>> {
            let lines = read_lines::<Line>(path)?;
            lines
                .into_iter()
                .map(|line| {
                    Ok(Item {
                        commit_ts: line.commit_ts,
                        meta: (line.meta.start_ts, line.meta.commit_ts),
                        payload: BASE64_STANDARD.decode(line.payload)?.into(),
                        fake: line.fake,
                    })
                })
                .collect()
        };
        paths.iter().map(read).collect()
    }
}

fn read_records(pump: usize, path: &Path) -> Result<Vec<Record>> {
    #[derive(Deserialize)]
    struct Line {
        i: u64,
        tp: Kind,
        start_ts: u64,
        #[serde(default)]
        commit_ts: u64,
        prewrite_key: Option<String>,
        payload: String,
        #[serde(default)]
        fake: bool,
    }
    let lines = read_lines::<Line>(path)?;
    lines
        .into_iter()
        .map(|line| {
            Ok(Record {
                pump,
                i: line.i,
                kind: line.tp,
                start_ts: line.start_ts,
                commit_ts: line.commit_ts,
                prewrite_key: line.prewrite_key.as_deref().map(hex).transpose()?,
                payload: BASE64_STANDARD.decode(line.payload)?.into(),
                fake: line.fake,
            })
        })
        .collect()
}

fn committed_at(verdict: &str) -> Option<u64> {
    verdict.strip_prefix("committed at ").and_then(|ts| ts.trim().parse().ok())
}

/// `NAME.jsonl` for one Pump, else `NAME.pumpN.jsonl`.
fn per_pump(dir: &Path, name: &str, pumps: u32) -> Result<Vec<PathBuf>> {
    if pumps == 0 || pumps > MAX_PUMPS {
        bail!("facts.json of {} names {pumps} pumps; 1 to {MAX_PUMPS} are possible", dir.display());
    }
    let single = dir.join(format!("{name}.jsonl"));
    if exists(&single) {
        return Ok(vec![single]);
    }
    Ok((1..=pumps).map(|n| dir.join(format!("{name}.pump{n}.jsonl"))).collect())
}

fn packed(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    name.into()
}

/// Whether `path` or `path.gz` is there.
#[must_use]
pub fn exists(path: &Path) -> bool {
    path.is_file() || packed(path).is_file()
}

/// Opens `path` or `path.gz`.
pub fn open(path: &Path) -> Result<Box<dyn BufRead>> {
    if let Ok(file) = File::open(path) {
        return Ok(Box::new(BufReader::new(file.take(MAX_FILE))));
    }
    let gz = packed(path);
    let file =
        File::open(&gz).with_context(|| format!("neither {} nor {} can be opened", path.display(), gz.display()))?;
    Ok(Box::new(BufReader::new(MultiGzDecoder::new(file).take(MAX_FILE))))
}

/// The whole file as bytes.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    open(path)?.read_to_end(&mut out).with_context(|| format!("read {}", path.display()))?;
    Ok(out)
}

/// The whole file as one JSON value.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    serde_json::from_slice(&read(path)?).with_context(|| format!("{} is not what it should be", path.display()))
}

/// One JSON value per line.
pub fn read_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let mut out = Vec::new();
    for (n, line) in open(path)?.lines().enumerate() {
        let line = line.with_context(|| format!("{} line {}", path.display(), n + 1))?;
        out.push(serde_json::from_str(&line).with_context(|| format!("{} line {}", path.display(), n + 1))?);
    }
    Ok(out)
}

/// Bytes of a hexadecimal text.
pub fn hex(text: &str) -> Result<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        bail!("`{text}` is not hexadecimal");
    }
    digits
        .chunks(2)
        .map(|pair| {
            let pair = std::str::from_utf8(pair)?;
            u8::from_str_radix(pair, 16).with_context(|| format!("`{text}` is not hexadecimal"))
        })
        .collect()
}

fn one() -> u32 {
    1
}

fn number_in_text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Text(String),
        Number(u64),
    }
    match Either::deserialize(deserializer)? {
        Either::Number(n) => Ok(n),
        Either::Text(text) => text.parse().map_err(serde::de::Error::custom),
    }
}
