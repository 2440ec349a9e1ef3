//! What can go wrong with PD, TiKV, the registry and other nodes. Each error names the peer and the call, and converts
//! into [`IoFault`] for a machine's completion.

use binlog_core::fault::IoFault;
use binlog_core::node::status::NodeState;
use thiserror::Error;
use tonic::{Code, Status};

/// An address that cannot be dialled as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("address {address:?}: {why}")]
pub struct BadAddress {
    pub address: String,
    pub why: String,
}

impl BadAddress {
    pub(crate) fn new(address: &str, why: impl Into<String>) -> Self {
        Self { address: address.to_owned(), why: why.into() }
    }
}

/// A call to PD failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PdError {
    #[error(transparent)]
    Address(#[from] BadAddress),
    /// No member answered; `tried` says what each one said.
    #[error("no PD member answers: {tried}")]
    NoMember { tried: String },
    /// The members answer but none leads.
    #[error("PD has no leader at the moment")]
    NoLeader,
    /// gRPC said no.
    #[error("PD {method}: {code:?}: {message}")]
    Rpc { method: &'static str, code: Code, message: String },
    /// The error inside a reply's header; `kind` is `pdpb.ErrorType`.
    #[error("PD {method}: {message} (error type {kind})")]
    Header { method: &'static str, kind: i32, message: String },
    /// These members belong to another cluster than the one this process started with.
    #[error("PD belongs to another cluster: {0}")]
    WrongCluster(String),
    /// No answer before the deadline; `last` is the last failure, if there was one.
    #[error("PD {method}: no answer within {millis} ms{last}")]
    Timeout { method: &'static str, millis: u64, last: String },
    /// A reply that makes no sense.
    #[error("PD {method}: malformed reply: {what}")]
    BadReply { method: &'static str, what: String },
    /// The client was dropped while a call was waiting.
    #[error("PD client is closed")]
    Closed,
}

impl PdError {
    pub(crate) fn rpc(method: &'static str, status: &Status) -> Self {
        if status.code() == Code::FailedPrecondition && status.message().contains("mismatch cluster id") {
            return Self::WrongCluster(status.message().to_owned());
        }
        Self::Rpc { method, code: status.code(), message: message_of(status) }
    }

    /// Whether asking again, maybe another member, can help.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::NoMember { .. } | Self::NoLeader | Self::Timeout { .. } => true,
            // A member that is not the leader answers UNAVAILABLE or UNKNOWN with a text, depending on its version.
            Self::Rpc { code, .. } => !matches!(code, Code::InvalidArgument | Code::Unimplemented | Code::OutOfRange),
            Self::Address(_) | Self::Header { .. } | Self::WrongCluster(_) | Self::BadReply { .. } | Self::Closed => {
                false
            }
        }
    }
}

impl From<PdError> for IoFault {
    fn from(e: PdError) -> Self {
        let text = e.to_string();
        match e {
            PdError::NoMember { .. } | PdError::NoLeader | PdError::Timeout { .. } | PdError::Rpc { .. } => {
                Self::Unavailable(text)
            }
            PdError::Header { .. }
            | PdError::Address(_)
            | PdError::WrongCluster(_)
            | PdError::BadReply { .. }
            | PdError::Closed => Self::Other(text),
        }
    }
}

/// A read from TiKV failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TikvError {
    #[error(transparent)]
    Pd(#[from] PdError),
    #[error(transparent)]
    Address(#[from] BadAddress),
    /// PD knows no region, no leader or no store for the key.
    #[error("no region of TiKV serves key {key}: {what}")]
    NoRegion { key: String, what: String },
    /// Retries used up their time; `last` is the last failure.
    #[error("TiKV {method}: gave up after {millis} ms: {last}")]
    Budget { method: &'static str, millis: u64, last: String },
    /// An error about the key itself which no retry resolves.
    #[error("TiKV {method}: {what}")]
    Key { method: &'static str, what: String },
}

impl From<TikvError> for IoFault {
    fn from(e: TikvError) -> Self {
        match e {
            TikvError::Pd(e) => e.into(),
            TikvError::NoRegion { .. } | TikvError::Budget { .. } => Self::Unavailable(e.to_string()),
            TikvError::Address(_) | TikvError::Key { .. } => Self::Other(e.to_string()),
        }
    }
}

/// A request to the registry failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RegistryError {
    #[error(transparent)]
    Address(#[from] BadAddress),
    #[error("registry: {0}")]
    Etcd(String),
    #[error("registry: {what} did not end within {millis} ms")]
    Timeout { what: &'static str, millis: u64 },
    /// One bad value fails the whole listing, in every peer (spec pump 4.1).
    #[error("registry: the value of key {key:?} is not a node status: {why}; correct or delete that key")]
    BadValue { key: String, why: String },
    #[error("registry: {0}")]
    BadNodeId(String),
    /// Somebody deleted or created the key between our read and our write.
    #[error("registry: key {key:?} changed while it was written; try again")]
    Conflict { key: String },
    /// The entry carries the token of another life (design 3.5): it was not written.
    #[error("registry key {key:?} was written by a process at {host} (state {state})")]
    Claimed { key: String, host: String, state: NodeState },
}

impl From<RegistryError> for IoFault {
    fn from(e: RegistryError) -> Self {
        match e {
            RegistryError::Etcd(_) | RegistryError::Timeout { .. } | RegistryError::Conflict { .. } => {
                Self::Unavailable(e.to_string())
            }
            RegistryError::Claimed { .. } => Self::Claimed(e.to_string()),
            RegistryError::Address(_) | RegistryError::BadValue { .. } | RegistryError::BadNodeId(_) => {
                Self::Other(e.to_string())
            }
        }
    }
}

/// A call to a Pump or a Drainer failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NodeError {
    #[error(transparent)]
    Address(#[from] BadAddress),
    #[error("{address}: cannot connect: {why}")]
    Connect { address: String, why: String },
    /// `code` is UNKNOWN for what the node itself refused (spec pump 1.1).
    #[error("{address}: {code:?}: {message}")]
    Rpc { address: String, code: Code, message: String },
    #[error("{address}: no answer within {millis} ms")]
    Timeout { address: String, millis: u64 },
    #[error("{address}: {what}")]
    BadReply { address: String, what: String },
}

impl NodeError {
    pub(crate) fn rpc(address: &str, status: &Status) -> Self {
        Self::Rpc { address: address.to_owned(), code: status.code(), message: message_of(status) }
    }
}

impl From<NodeError> for IoFault {
    fn from(e: NodeError) -> Self {
        match e {
            NodeError::Connect { .. } | NodeError::Timeout { .. } => Self::Unavailable(e.to_string()),
            NodeError::Rpc { code: Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled, .. } => {
                Self::Unavailable(e.to_string())
            }
            NodeError::Rpc { .. } | NodeError::Address(_) | NodeError::BadReply { .. } => Self::Other(e.to_string()),
        }
    }
}

/// The status's text with the causes below it: tonic's own texts ("transport error") hide what happened.
pub(crate) fn message_of(status: &Status) -> String {
    with_causes(status.message().to_owned(), status)
}

/// The same for any error.
pub(crate) fn chain_of(error: &dyn std::error::Error) -> String {
    with_causes(error.to_string(), error)
}

/// Appends each cause that the text does not tell already.
fn with_causes(mut text: String, error: &dyn std::error::Error) -> String {
    let mut cause = error.source();
    while let Some(c) = cause {
        let c_text = c.to_string();
        if !text.contains(&c_text) {
            text.push_str(": ");
            text.push_str(&c_text);
        }
        cause = c.source();
    }
    text
}
