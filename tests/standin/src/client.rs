//! The commands of the control port (their meaning: [`crate::control`]) and the client that sends them.
//!
//! ```no_run
//! # async fn example(standin: &binlog_standin::Standin) -> anyhow::Result<()> {
//! use binlog_standin::client::{Control, Lock};
//! let control = Control::new(&standin.control_url);
//! control.lock(&Lock::new(b"tA", 400).ttl_ms(3_000)).await?;
//! control.commit(b"tA", 400, 410).await?;
//! # Ok(())
//! # }
//! ```

use crate::capture::hex;
use crate::faults::Health;
use crate::process::{http_get, http_put};
use crate::regions::Trouble;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt::Write;

/// `PUT /tikv/lock`. Keys are raw, in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Lock {
    pub key: String,
    pub start_ts: u64,
    /// Counted from the physical part of `start-ts` by PD's clock.
    #[serde(default)]
    pub ttl_ms: u64,
    /// Absent: `key` is the primary.
    #[serde(default)]
    pub primary: Option<String>,
    /// The row, as text.
    #[serde(default)]
    pub value: String,
    /// Other transactions that were rolled back while this lock stands.
    #[serde(default)]
    pub rollback_ts: Vec<u64>,
    #[serde(default)]
    pub use_async_commit: bool,
}

impl Lock {
    /// A lock on the transaction's primary key whose time is over at once.
    #[must_use]
    pub fn new(key: &[u8], start_ts: u64) -> Self {
        Self {
            key: to_hex(key),
            start_ts,
            ttl_ms: 0,
            primary: None,
            value: "v".into(),
            rollback_ts: Vec::new(),
            use_async_commit: false,
        }
    }

    #[must_use]
    pub fn ttl_ms(mut self, ttl_ms: u64) -> Self {
        self.ttl_ms = ttl_ms;
        self
    }
}

/// `PUT /tikv/commit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Commit {
    pub key: String,
    pub start_ts: u64,
    pub commit_ts: u64,
    /// Of a transaction without a lock; with one, the lock's value counts.
    #[serde(default)]
    pub value: String,
}

/// `PUT /tikv/rollback` and `PUT /tikv/overlapped-rollback`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Rollback {
    pub key: String,
    pub start_ts: u64,
}

/// `PUT /gc`: exactly one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Gc {
    /// As TiDB's GC worker: to so long before now, as far as the service safe points allow.
    LifeMs(u64),
    /// To this point, whatever services hold.
    SafePoint(u64),
}

/// `PUT /tikv/region-errors`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RegionErrors {
    pub error: Trouble,
    pub count: usize,
}

/// Sends commands to a stand-in, in this process or in another. Every error names the request.
#[derive(Debug, Clone)]
pub struct Control {
    address: String,
}

impl Control {
    /// `url`: [`crate::Standin::control_url`], or what the process printed.
    #[must_use]
    pub fn new(url: &str) -> Self {
        Self { address: url.trim_start_matches("http://").to_owned() }
    }

    /// Everything that `GET /status` tells.
    pub async fn status(&self) -> Result<Value> {
        parse(&http_get(&self.address, "/status").await?)
    }

    /// How often TiKV was asked: `KvGet`, `KvScan`, `KvCheckTxnStatus`, `MvccGetByKey`.
    pub async fn calls(&self, method: &str) -> Result<u64> {
        let status = self.status().await?;
        Ok(status.pointer("/tikv-calls").and_then(|calls| calls.get(method)).and_then(Value::as_u64).unwrap_or(0))
    }

    /// A fresh timestamp.
    pub async fn timestamp(&self) -> Result<u64> {
        let value = self.put("/tso/get", "").await?;
        value.get("ts").and_then(Value::as_u64).context("no timestamp in the answer")
    }

    /// TSO: `start`, `outage`, `resume`, `wall`.
    pub async fn tso(&self, action: &str) -> Result<()> {
        self.put(&format!("/tso/{action}"), "").await.map(drop)
    }

    /// PD's timestamps jump forward.
    pub async fn jump(&self, ms: u64) -> Result<()> {
        self.put(&format!("/pd/jump/{ms}"), "").await.map(drop)
    }

    /// PD, with its etcd, goes away or comes back.
    pub async fn pd_up(&self, up: bool) -> Result<()> {
        self.put(if up { "/pd/up" } else { "/pd/down" }, "").await.map(drop)
    }

    pub async fn tikv(&self, health: Health) -> Result<()> {
        let path = match health {
            Health::Up => "/tikv/up",
            Health::Down => "/tikv/down",
            Health::Hang => "/tikv/hang",
        };
        self.put(path, "").await.map(drop)
    }

    /// The next `count` requests to TiKV get this region error.
    pub async fn region_errors(&self, error: Trouble, count: usize) -> Result<()> {
        self.send("/tikv/region-errors", &RegionErrors { error, count }).await.map(drop)
    }

    pub async fn lock(&self, lock: &Lock) -> Result<()> {
        self.send("/tikv/lock", lock).await.map(drop)
    }

    /// Commits the lock of `start_ts`, or puts a commit record where there is none.
    pub async fn commit(&self, key: &[u8], start_ts: u64, commit_ts: u64) -> Result<()> {
        let commit = Commit { key: to_hex(key), start_ts, commit_ts, value: "v".into() };
        self.send("/tikv/commit", &commit).await.map(drop)
    }

    /// Removes the lock of `start_ts` and leaves a rollback record.
    pub async fn rollback(&self, key: &[u8], start_ts: u64) -> Result<()> {
        self.send("/tikv/rollback", &Rollback { key: to_hex(key), start_ts }).await.map(drop)
    }

    /// As [`Control::rollback`], where another transaction has committed at `start_ts`: the mark in its record is all that tells.
    pub async fn overlapped_rollback(&self, key: &[u8], start_ts: u64) -> Result<()> {
        self.send("/tikv/overlapped-rollback", &Rollback { key: to_hex(key), start_ts }).await.map(drop)
    }

    /// Runs GC; gives the safe point that PD tells from then on.
    pub async fn gc(&self, gc: Gc) -> Result<u64> {
        let value = self.send("/gc", &gc).await?;
        value.get("gc-safe-point").and_then(Value::as_u64).context("no safe point in the answer")
    }

    /// What `GET /tikv/key/{hex}` tells: `lock` (or null) and `writes`, newest first.
    pub async fn key(&self, key: &[u8]) -> Result<Value> {
        parse(&http_get(&self.address, &format!("/tikv/key/{}", to_hex(key))).await?)
    }

    async fn send<T: Serialize>(&self, path: &str, body: &T) -> Result<Value> {
        self.put(path, &serde_json::to_string(body)?).await
    }

    async fn put(&self, path: &str, body: &str) -> Result<Value> {
        parse(&http_put(&self.address, path, body).await?)
    }
}

fn parse(text: &str) -> Result<Value> {
    serde_json::from_str(text).with_context(|| format!("not JSON: {text}"))
}

fn to_hex(key: &[u8]) -> String {
    key.iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// The bytes of a key, with an error that names the field.
pub(crate) fn from_hex(field: &str, text: &str) -> Result<Vec<u8>> {
    hex(text).with_context(|| format!("`{field}`: a raw key in hexadecimal is expected"))
}
