//! Apply: records, results, affected rows, errors.

use crate::server;
use crate::support::{DEADLINE, apply, open, recorded, refusal, text};
use binlog_core::sink::op::SinkError;
use binlog_core::sink::value::SqlValue;
use std::time::{Duration, Instant};

const INSERT: &str = "INSERT INTO `{db}`.`t`(`a`,`b`) VALUES(?,?)";
const UPDATE: &str = "UPDATE `{db}`.`t` SET `a` = ?,`b` = ? WHERE `a` = ? LIMIT 1";

#[tokio::test]
async fn a_transaction_and_its_record_are_one() {
    let mut b = server().bench("apply_one").await;
    b.sql("CREATE TABLE {db}.t (a int primary key, b varchar(10))").await;
    let mut sink = b.begun().await;
    let row = |a: i64, v: &str| vec![SqlValue::Int(a), text(v)];
    sink.execute(apply(
        &[101, 102],
        vec![
            b.statement(101, INSERT, row(1, "x"), Some(1)),
            b.statement(
                102,
                "INSERT INTO `{db}`.`t`(`a`,`b`) VALUES(?,?),(?,?)",
                [row(2, "y"), row(3, "z")].concat(),
                Some(2),
            ),
            // An update that changes nothing matches one row all the same.
            b.statement(102, UPDATE, vec![SqlValue::Int(1), text("x"), SqlValue::Int(1)], Some(1)),
        ],
    ))
    .await
    .unwrap();
    assert_eq!(b.one("SELECT GROUP_CONCAT(a, b ORDER BY a) FROM {db}.t").await, "1x,2y,3z");
    assert_eq!(recorded(&open(&mut sink).await), vec![101, 102]);

    // A record that is there: nothing happens.
    let again = apply(&[103, 102], vec![b.statement(103, INSERT, row(4, "x"), Some(1))]);
    assert!(matches!(sink.execute(again).await, Err(SinkError::AlreadyRecorded)));
    assert_eq!(b.one("SELECT CONCAT(COUNT(*), '') FROM {db}.t").await, "3");
    assert_eq!(recorded(&open(&mut sink).await), vec![101, 102]);
    sink.execute(apply(&[104], vec![])).await.unwrap();
    assert_eq!(recorded(&open(&mut sink).await), vec![101, 102, 104]);
}

#[tokio::test]
async fn refusals_leave_nothing_and_tell_no_values() {
    let mut b = server().bench("apply_refused").await;
    b.sql("CREATE TABLE {db}.t (a int primary key, b varchar(10), UNIQUE KEY ub (b))").await;
    b.sql("INSERT INTO {db}.t VALUES (1, 'secret')").await;
    let mut sink = b.begun().await;
    let first = b.statement(101, INSERT, vec![SqlValue::Int(9), text("nine")], Some(1));
    for (statement, wanted) in [
        (
            b.statement(102, INSERT, vec![SqlValue::Int(2), text("secret")], Some(1)),
            "1062 (23000): Duplicate entry '…' for key 'ub'",
        ),
        (
            b.statement(102, "INSERT INTO `{db}`.`gone`(`a`) VALUES(?)", vec![SqlValue::Int(2)], Some(1)),
            "1146 (42S02): Table 'apply_refused.gone' doesn't exist",
        ),
        (
            b.statement(102, UPDATE, vec![SqlValue::Int(7), text("q"), SqlValue::Int(7)], Some(1)),
            "affected 0 rows, expected 1: the downstream has diverged",
        ),
        (
            b.statement(102, "DELETE FROM `{db}`.`t` WHERE `a` = ? LIMIT 1", vec![SqlValue::Int(77)], Some(1)),
            "affected 0 rows, expected 1",
        ),
        (b.statement(102, "CREATE TABLE `{db}`.`x` (a int)", vec![], None), "only INSERT"),
        (b.statement(102, INSERT, vec![SqlValue::Int(2)], Some(1)), "2 placeholders, 1 parameters"),
        (
            b.statement(102, INSERT, vec![SqlValue::Int(2), SqlValue::Bytes(vec![b'x'; 20 << 20])], Some(1)),
            "max_allowed_packet",
        ),
    ] {
        let (ts, sql, error) = refusal(sink.execute(apply(&[101, 102], vec![first.clone(), statement.clone()])).await);
        assert_eq!((ts, &sql), (102, &statement.sql));
        assert!(error.contains(wanted), "{error}");
        assert!(!error.contains("secret") && !sql.contains("secret"));
    }
    let too_many = vec![SqlValue::Int(1); 70_000];
    let statement = b.statement(
        103,
        &format!("DELETE FROM `{{db}}`.`t` WHERE `a` IN ({})", vec!["?"; 70_000].join(",")),
        too_many,
        None,
    );
    assert!(refusal(sink.execute(apply(&[103], vec![statement])).await).2.contains("70000 parameters"));
    assert_eq!(b.one("SELECT GROUP_CONCAT(a) FROM {db}.t").await, "1");
    // The session is still good, and nothing was recorded.
    sink.execute(apply(&[101], vec![first])).await.unwrap();
    assert_eq!(recorded(&open(&mut sink).await), vec![101]);
}

#[tokio::test]
async fn unchecked_statements_may_affect_anything() {
    let mut b = server().bench("apply_unchecked").await;
    b.sql("CREATE TABLE {db}.t (a int primary key, b varchar(10))").await;
    let mut sink = b.begun().await;
    let delete = b.statement(101, "DELETE FROM `{db}`.`t` WHERE `a` = ?", vec![SqlValue::Int(1)], None);
    sink.execute(apply(&[101], vec![delete])).await.unwrap();
}

#[tokio::test]
async fn deadlocks_and_lock_waits_are_retried() {
    let mut b = server().bench("apply_waits").await;
    b.sql("CREATE TABLE {db}.t (a int primary key, b varchar(10))").await;
    b.sql("INSERT INTO {db}.t VALUES (1, 'a')").await;
    b.config.params.insert("innodb_lock_wait_timeout".to_owned(), "1".to_owned());
    let mut sink = b.begun().await;
    b.sql("BEGIN").await;
    b.sql("UPDATE {db}.t SET b = 'z'").await;
    let update = || vec![b.statement(101, UPDATE, vec![SqlValue::Int(1), text("q"), SqlValue::Int(1)], Some(1))];
    let op = apply(&[101], update());
    match sink.execute(op.clone()).await {
        Err(SinkError::Retry(text)) => assert!(text.contains("1205"), "{text}"),
        other => panic!("{other:?}"),
    }
    b.sql("COMMIT").await;
    sink.execute(op).await.unwrap();
}

/// An older session that still lives holds the record: ours waits for its end and then sees what it did.
#[tokio::test]
async fn the_record_waits_for_an_older_session() {
    for (end, already) in [("COMMIT", true), ("ROLLBACK", false)] {
        let mut b = server().bench(&format!("apply_zombie_{}", end.to_lowercase())).await;
        let mut sink = b.begun().await;
        b.sql("BEGIN").await;
        b.sql("INSERT INTO {db}_binlog.drainer_applied VALUES (7, 'drainer-1:8249', 1, 101, 0)").await;
        let waiting = tokio::spawn(async move { sink.execute(apply(&[101], vec![])).await });
        let until = Instant::now() + DEADLINE;
        while b.rows("SELECT 1 FROM information_schema.INNODB_TRX WHERE trx_state = 'LOCK WAIT' AND trx_query LIKE '%{db}_binlog%'").await.is_empty() {
            assert!(Instant::now() < until && !waiting.is_finished());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        b.sql(end).await;
        let result = waiting.await.unwrap();
        assert_eq!(matches!(result, Err(SinkError::AlreadyRecorded)), already, "{result:?}");
        assert_eq!(result.is_ok(), !already);
    }
}

#[tokio::test]
async fn a_killed_session_is_lost() {
    let mut b = server().bench("apply_killed").await;
    let mut sink = b.begun().await;
    let id = b.one("SELECT MAX(ID) FROM information_schema.PROCESSLIST WHERE ID <> CONNECTION_ID() AND USER = 'root' AND COMMAND = 'Sleep' AND INFO IS NULL").await;
    drop(id);
    // Others use the server too: find ours by the lock that only it can hold.
    b.sql("BEGIN").await;
    b.sql("INSERT INTO {db}_binlog.drainer_applied VALUES (7, 'drainer-1:8249', 1, 101, 0)").await;
    let waiting = tokio::spawn(async move {
        let result = sink.execute(apply(&[101], vec![])).await;
        (sink, result)
    });
    let until = Instant::now() + DEADLINE;
    let id = loop {
        let rows = b.rows("SELECT CONCAT(trx_mysql_thread_id, '') FROM information_schema.INNODB_TRX WHERE trx_state = 'LOCK WAIT' AND trx_query LIKE '%{db}_binlog%'").await;
        if let Some(row) = rows.first() {
            break String::from_utf8(mysql_async::from_value::<Vec<u8>>(row[0].clone())).unwrap();
        }
        assert!(Instant::now() < until && !waiting.is_finished());
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    b.sql(&format!("KILL {id}")).await;
    b.sql("ROLLBACK").await;
    let (mut sink, result) = waiting.await.unwrap();
    assert!(matches!(result, Err(SinkError::Lost(_))), "{result:?}");
    assert!(matches!(sink.execute(apply(&[101], vec![])).await, Err(SinkError::Lost(_))), "only Open helps");
    assert_eq!(recorded(&open(&mut sink).await), Vec::<u64>::new());
}
