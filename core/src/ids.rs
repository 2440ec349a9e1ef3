//! Newtypes for everything that would otherwise be a bare number. There is no `From<u64>` between them.

use crate::time::Tso;
use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(u64);

        impl $name {
            pub const ZERO: Self = Self(0);
            pub const MAX: Self = Self(u64::MAX);

            #[must_use]
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }

            #[must_use]
            pub const fn raw(self) -> u64 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// The timestamp at which a transaction began; identifies its prewrite.
    StartTs
);
id!(
    /// The timestamp at which a transaction was committed; the order of everything downstream of the Pump.
    CommitTs
);
id!(
    /// Identity of a segment of the value log: rising, never reused, may have holes.
    SegmentId
);
id!(
    /// A slot file of the value log; its name never changes, the segment in it does.
    SlotId
);
id!(
    /// Pairs a request effect with its one completion input.
    OpId
);
id!(
    /// One PullBinlogs stream at a Pump.
    StreamId
);
id!(
    /// One WriteBinlog call at a Pump.
    WriteId
);
id!(
    /// Cluster id of PD.
    ClusterId
);

impl StartTs {
    #[must_use]
    pub const fn tso(self) -> Tso {
        Tso::new(self.0)
    }
}

impl CommitTs {
    #[must_use]
    pub const fn tso(self) -> Tso {
        Tso::new(self.0)
    }
}

/// Hands out operation ids: dense, from 1.
#[derive(Debug, Default)]
pub struct OpIds(u64);

impl OpIds {
    pub fn next_id(&mut self) -> OpId {
        self.0 += 1;
        OpId(self.0)
    }
}

/// Schema version of TiDB (`binlog.SchemaVersion` of a job, `schema_version` of a prewrite value). 0: never took effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SchemaVersion(i64);

impl SchemaVersion {
    #[must_use]
    pub const fn new(raw: i64) -> Self {
        Self(raw)
    }

    #[must_use]
    pub const fn raw(self) -> i64 {
        self.0
    }
}

impl fmt::Display for SchemaVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Node id as registered in PD's etcd; compared as an exact string.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(String);

impl NodeId {
    /// Accepts a non-empty id without `/`, white space or control characters (spec pump 4.2).
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("node id is empty".to_owned());
        }
        if let Some(bad) = text.chars().find(|c| *c == '/' || c.is_whitespace() || c.is_control()) {
            return Err(format!(
                "node id {text:?} contains {bad:?}; '/', white space and control characters are not allowed"
            ));
        }
        Ok(Self(text.to_owned()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Position of a record in the value log: the segment's id (never the slot) and the byte offset of the record's header.
/// Ordered as the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
pub struct LogPtr {
    pub segment: SegmentId,
    pub offset: u64,
}

impl fmt::Display for LogPtr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segment {} offset {}", self.segment, self.offset)
    }
}
