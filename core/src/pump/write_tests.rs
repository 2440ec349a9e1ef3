use super::*;
use crate::pump::tests::world::{c, fake, p, r};
use crate::time::MonoTime;
use bytes::Bytes;

/// Columns: what is sent; what is wrong with the node; what comes back. Each row with several wrongs shows which one wins.
const TABLE: &str = "
    P       |                               | append Prewrite
    C       |                               | append Commit
    R       |                               | append RollbackHint
    fake    |                               | append Fake
    probe   |                               | probe
    P       | cluster paused space          | cluster ID are mismatch, 8 vs 7
    garbage | cluster                       | cluster ID are mismatch, 8 vs 7
    garbage | paused space readonly         | binlog payload does not decode
    P       | paused space                  | no online: paused
    probe   | paused space                  | no online: paused
    C       | paused                        | append Commit
    R       | paused                        | append RollbackHint
    fake    | paused                        | append Fake
    P       | space                         | no available space, available: 5, StopWriteAtAvailableSpace: 10
    probe   | space                         | no available space, available: 5, StopWriteAtAvailableSpace: 10
    C       | space                         | append Commit
    R       | space                         | append RollbackHint
    fake    | space                         | append Fake
    C       | starting                      | no online: starting
    P       | readonly paused               | pump is read-only: broken
    C       | readonly                      | pump is read-only: broken
    probe   | readonly                      | pump is read-only: broken
    C       | closed                        | pump is shutting down
    P       | busy                          | pump is busy: index; try again
    C       | busy                          | append Commit
    probe   | busy                          | pump is busy: index; try again
    probe   | full                          | pump is busy: bytes; try again
    C       | full                          | pump is busy: bytes; try again
    late    |                               | binlog of type 1 with start_ts 9, commit_ts 3: a commit needs a commit_ts above its start_ts
    nostart |                               | binlog of type 2 with start_ts 0, commit_ts 4: start_ts must be above 0
    big     |                               | binlog of 1023 bytes is larger than this pump's limit of 900";

#[test]
fn decision_order() {
    for row in TABLE.lines().filter(|row| !row.trim().is_empty()) {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let wrong: Vec<_> = cells[1].split_whitespace().collect();
        let has = |what| wrong.contains(&what);
        let mut space = Space::new(10);
        space.measure(MonoTime::ZERO, if has("space") { 5 } else { 50 }, 100, 0);
        let gate = Gate {
            cluster: ClusterId::new(7),
            not_online: if has("starting") { Some("starting") } else { has("paused").then_some("paused") },
            starting: has("starting"),
            closed: has("closed"),
            read_only: has("readonly").then_some("broken"),
            space: &space,
            busy: has("busy").then_some("index"),
            full: has("full").then_some("bytes"),
            max_payload_bytes: 900,
        };
        let payload = match cells[0] {
            "P" => p(5),
            "C" => c(5, 6),
            "R" => r(5),
            "fake" => fake(5),
            "probe" => Bytes::new(),
            "garbage" => Bytes::from_static(&[0xff; 3]),
            "late" => c(9, 3),
            "nostart" => Bytes::from_static(&[8, 2, 24, 4]),
            "big" => [p(5), vec![0x22, 0xe0, 0x07].into(), vec![0; 992].into()].concat().into(),
            other => panic!("{other}"),
        };
        let cluster = if has("cluster") { 8 } else { 7 };
        let text = match decide(&gate, cluster, &payload) {
            Decision::Reject(reject) => reject.to_string(),
            Decision::Probe => "probe".to_owned(),
            Decision::Append { kind, .. } => format!("append {kind:?}"),
        };
        assert!(text.starts_with(cells[2]), "{row}\n   {text}");
    }
}

#[test]
fn space_has_hysteresis() {
    let mut space = Space::new(100);
    let script = [(101, true), (100, false), (101, false), (119, false), (120, true), (101, true), (0, false)];
    for (available, writable) in script {
        space.measure(MonoTime::ZERO, available, 1000, 0);
        assert_eq!(space.writable, writable, "{available}");
    }
    let mut none = Space::new(0);
    none.measure(MonoTime::ZERO, 1, 1000, 0);
    assert!(none.writable);
}
