//! Begin and Save.

use crate::server;
use crate::support::{apply, checkpoint, open, recorded, save, stamps, state};
use binlog_core::ids::SchemaVersion;
use binlog_core::sink::op::{SinkError, SinkOp};

#[tokio::test]
async fn save_moves_the_row_and_deletes_exactly() {
    let mut b = server().bench("save_moves").await;
    let mut sink = b.begun().await;
    sink.execute(apply(&[101, 102, 103], vec![])).await.unwrap();
    let mut to = checkpoint(102);
    to.consistent = true;
    to.schema_version = SchemaVersion::new(57);
    to.ts_map.insert("primary-ts".to_owned(), 102.into());
    to.ts_map.insert("secondary-ts".to_owned(), u64::MAX.into());
    sink.execute(SinkOp::Save { checkpoint: to.clone(), state: state(1), delete: stamps(&[101, 102]) }).await.unwrap();
    let row = r#"{"consistent":true,"commitTS":102,"ts-map":{"primary-ts":102,"secondary-ts":18446744073709551615},"schema-version":57}"#;
    assert_eq!(b.one("SELECT checkPoint FROM {db}_binlog.checkpoint").await, row);
    assert_eq!(b.one("SELECT checkpoint_text FROM {db}_binlog.drainer_state").await, row);
    let opened = open(&mut sink).await;
    assert_eq!((opened.checkpoint, opened.state, recorded(&opened)), (Some(to), Some(state(1)), vec![103]));
}

#[tokio::test]
async fn a_missing_record_rewinds_and_changes_nothing() {
    let mut b = server().bench("save_rewinds").await;
    let mut sink = b.begun().await;
    sink.execute(apply(&[101, 102], vec![])).await.unwrap();
    b.sql("DELETE FROM {db}_binlog.drainer_applied WHERE commit_ts = 101").await;
    match sink.execute(save(102, &[101, 102])).await {
        Err(SinkError::Rewind(text)) => assert!(text.contains("1 of 2"), "{text}"),
        other => panic!("{other:?}"),
    }
    let opened = open(&mut sink).await;
    assert_eq!((opened.checkpoint.clone().unwrap().commit_ts.raw(), recorded(&opened)), (100, vec![102]));
    sink.execute(save(102, &[102])).await.unwrap();
}

#[tokio::test]
async fn long_lists_are_one_transaction() {
    let b = server().bench("save_long").await;
    let mut sink = b.begun().await;
    let all: Vec<u64> = (101..=5600).collect();
    sink.execute(apply(&all, vec![])).await.unwrap();
    assert_eq!(recorded(&open(&mut sink).await), all);
    let mut wrong = all.clone();
    wrong.push(9999);
    assert!(matches!(sink.execute(save(5600, &wrong)).await, Err(SinkError::Rewind(_))));
    assert_eq!(open(&mut sink).await.recorded.len(), all.len());
    sink.execute(save(5600, &all)).await.unwrap();
    assert_eq!(open(&mut sink).await.recorded.len(), 0);
}

#[tokio::test]
async fn two_drainers_of_one_group_stop_each_other() {
    let b = server().bench("save_two").await;
    let mut old = b.begun().await;
    let mut new = b.sink();
    open(&mut new).await;
    new.execute(crate::support::begin(2, 100)).await.unwrap();
    match old.execute(save(101, &[])).await {
        Err(SinkError::Rewind(text)) => assert!(text.contains("generation 2"), "{text}"),
        other => panic!("{other:?}"),
    }
}
