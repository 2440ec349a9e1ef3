//! Values of the registry: other programs and operators write them too.

use binlog_core::node::status::NodeStatus;

/// One value. What parses is written back so that it reads the same, with no number through a double.
pub fn registry(bytes: &[u8]) {
    let Ok(status) = serde_json::from_slice::<NodeStatus>(bytes) else { return };
    let written = serde_json::to_vec(&status).expect("a status is JSON");
    let again: NodeStatus = serde_json::from_slice(&written).expect("our own JSON");
    assert_eq!(again, status);
}
