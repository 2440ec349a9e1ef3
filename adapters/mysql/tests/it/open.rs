//! Open: tables, rows of every generation of the original, edited rows, rights, settings.

use crate::server;
use crate::support::{DEADLINE, apply, begin, open, recorded, save};
use binlog_core::sink::op::{SinkError, SinkOp, SinkReply};
use binlog_mysql::Dialect;
use std::time::{Duration, Instant};

#[tokio::test]
async fn first_start_creates_the_original_s_table() {
    let mut b = server().bench("open_first").await;
    let mut sink = b.sink();
    let opened = open(&mut sink).await;
    assert_eq!((opened.checkpoint, opened.state, opened.last_generation), (None, None, 0));
    assert!(opened.server.contains("MariaDb") && opened.server.contains("127.0.0.1"), "{}", opened.server);
    assert_eq!(sink.dialect(), Some(Dialect::MariaDb));
    let columns = "SELECT GROUP_CONCAT(CONCAT_WS(' ', COLUMN_NAME, COLUMN_TYPE, COLUMN_KEY) ORDER BY ORDINAL_POSITION) FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = '{db}_binlog' AND TABLE_NAME = 'checkpoint'";
    assert_eq!(b.one(columns).await, "clusterID bigint(20) unsigned PRI,checkPoint mediumtext ");
    open(&mut sink).await;
    sink.keep_alive().await.unwrap();
    assert!(matches!(sink.execute(SinkOp::Close).await, Ok(SinkReply::Closed)));
    assert!(matches!(sink.execute(apply(&[1], vec![])).await, Err(SinkError::Lost(_))));
}

#[tokio::test]
async fn rows_of_older_releases_are_taken_over() {
    let mut b = server().bench("open_old").await;
    b.sql("CREATE DATABASE {db}_binlog").await;
    b.sql("CREATE TABLE {db}_binlog.checkpoint(clusterID bigint unsigned primary key, checkPoint MEDIUMTEXT)").await;
    b.sql("INSERT INTO {db}_binlog.checkpoint VALUES (8, 'of another cluster, unreadable')").await;
    for (row, ts, version) in [
        (r#"{"commitTS":405039487358599169,"ts-map":{"master-ts":1,"slave-ts":2}}"#, 405_039_487_358_599_169, 0),
        (r#"{"consistent":true,"commitTS":9,"ts-map":{}}"#, 9, 0),
        (
            r#"{"consistent":false,"commitTS":10,"ts-map":{"primary-ts":1,"secondary-ts":2,"master-ts":1,"slave-ts":2},"schema-version":57}"#,
            10,
            57,
        ),
    ] {
        b.sql(&format!("REPLACE INTO {{db}}_binlog.checkpoint VALUES (7, '{row}')")).await;
        let opened = open(&mut b.sink()).await;
        let checkpoint = opened.checkpoint.unwrap();
        assert_eq!((checkpoint.commit_ts.raw(), checkpoint.schema_version.raw()), (ts, version));
        assert_eq!((opened.state, opened.last_generation), (None, 0));
    }
    for broken in ["NULL", "''", "'{\"commitTS\":\"a\"}'"] {
        b.sql(&format!("REPLACE INTO {{db}}_binlog.checkpoint VALUES (7, {broken})")).await;
        match b.sink().execute(SinkOp::Open).await {
            Err(SinkError::Fatal(text)) => {
                assert!(text.contains("checkpoint") && text.contains("clusterID 7"), "{text}")
            }
            other => panic!("{broken}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn state_is_believed_only_beside_the_row_that_we_wrote() {
    let mut b = server().bench("open_edited").await;
    let mut sink = b.begun().await;
    sink.execute(apply(&[101, 102], vec![])).await.unwrap();
    let opened = open(&mut sink).await;
    assert_eq!(opened.state, Some(crate::support::state(1)));
    assert_eq!((recorded(&opened), opened.last_generation), (vec![101, 102], 1));
    assert_eq!(
        b.one("SELECT checkPoint FROM {db}_binlog.checkpoint WHERE clusterID = 7").await,
        r#"{"consistent":false,"commitTS":100,"ts-map":{},"schema-version":0}"#
    );

    // The same content in other bytes is somebody else's row too.
    b.sql("UPDATE {db}_binlog.checkpoint SET checkPoint = CONCAT(checkPoint, ' ')").await;
    assert!(
        matches!(sink.execute(save(101, &[101])).await, Err(SinkError::Rewind(_))),
        "an edited row is not overwritten"
    );
    let opened = open(&mut sink).await;
    assert_eq!((opened.state.is_none(), recorded(&opened), opened.last_generation), (true, vec![], 1));
    assert_eq!(opened.checkpoint.unwrap().commit_ts.raw(), 100);

    // Generations only rise; what older ones recorded is removed.
    assert!(matches!(sink.execute(begin(1, 100)).await, Err(SinkError::Rewind(_))));
    sink.execute(begin(2, 100)).await.unwrap();
    let opened = open(&mut sink).await;
    assert_eq!(
        (opened.state.as_ref().map(|s| s.generation), recorded(&opened).len(), opened.last_generation),
        (Some(2), 0, 2)
    );
    assert_eq!(b.rows("SELECT 1 FROM {db}_binlog.drainer_applied").await.len(), 0);

    b.sql("DELETE FROM {db}_binlog.checkpoint").await;
    let opened = open(&mut sink).await;
    assert_eq!((opened.checkpoint, opened.state, opened.last_generation), (None, None, 2));
}

/// The last Save of a process that was killed may be complete but for its COMMIT, which is still on its way: whoever opens next
/// waits for that session and reads what it left. Read before it, its checkpoint could call a state consistent to which the
/// successor has applied more (C1).
#[tokio::test]
async fn opening_waits_for_a_save_whose_commit_is_on_its_way() {
    for (end, after) in [("COMMIT", (102, vec![])), ("ROLLBACK", (100, vec![101, 102]))] {
        let mut b = server().bench(&format!("open_zombie_{}", end.to_lowercase())).await;
        b.begun().await.execute(apply(&[101, 102], vec![])).await.unwrap();
        // What a Save sends, in its order.
        b.sql("BEGIN").await;
        for statement in [
            "UPDATE {db}_binlog.checkpoint SET checkPoint = REPLACE(checkPoint, '100', '102') WHERE clusterID = 7",
            "UPDATE {db}_binlog.drainer_state SET checkpoint_text = REPLACE(checkpoint_text, '100', '102')",
            "DELETE FROM {db}_binlog.drainer_applied WHERE commit_ts IN (101, 102)",
        ] {
            b.sql(statement).await;
        }
        let mut successor = b.sink();
        let opening = tokio::spawn(async move { open(&mut successor).await });
        let waits = "SELECT 1 FROM information_schema.PROCESSLIST WHERE ID <> CONNECTION_ID() AND INFO LIKE '%{db}_binlog%checkpoint%FOR UPDATE%'";
        let until = Instant::now() + DEADLINE;
        while b.rows(waits).await.is_empty() {
            assert!(!opening.is_finished(), "{end}: it read beside the open transaction: {:?}", opening.await);
            assert!(Instant::now() < until, "{end}: it neither waits nor ends");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        b.sql(end).await;
        let opened = opening.await.unwrap();
        assert_eq!(opened.state, Some(crate::support::state(1)), "{end}");
        assert_eq!((opened.checkpoint.as_ref().unwrap().commit_ts.raw(), recorded(&opened)), after, "{end}");
    }
}

#[tokio::test]
async fn groups_and_clusters_do_not_see_each_other() {
    let b = server().bench("open_groups").await;
    let mut one = b.begun().await;
    one.execute(apply(&[101], vec![])).await.unwrap();
    let mut config = b.config.clone();
    config.group = "it's another".to_owned();
    config.cluster_id = binlog_core::ids::ClusterId::new(u64::MAX);
    let mut two = binlog_mysql::MysqlSink::new(config);
    assert_eq!(open(&mut two).await.last_generation, 0);
    two.execute(begin(1, 50)).await.unwrap();
    two.execute(apply(&[101], vec![])).await.unwrap();
    assert_eq!(recorded(&open(&mut one).await), vec![101]);
    assert_eq!(open(&mut one).await.checkpoint.unwrap().commit_ts.raw(), 100);
}

#[tokio::test]
async fn missing_rights_are_named() {
    let mut b = server().bench("open_rights").await;
    b.sql("CREATE USER 'weak'@'127.0.0.1' IDENTIFIED BY 'geheim'").await;
    b.config.user = "weak".to_owned();
    b.config.password = "geheim".to_owned();
    match b.sink().execute(SinkOp::Open).await {
        Err(SinkError::Fatal(text)) => {
            assert!(text.contains("CREATE DATABASE") && text.contains("GRANT CREATE"), "{text}");
            assert!(!text.contains("geheim"));
        }
        other => panic!("{other:?}"),
    }
    // Without CREATE, on tables that an administrator made.
    let mut admin = server().bench("open_rights_admin").await.config;
    admin.database.clone_from(&b.config.database);
    open(&mut binlog_mysql::MysqlSink::new(admin)).await;
    b.sql("GRANT SELECT, INSERT, UPDATE, DELETE ON {db}_binlog.* TO 'weak'@'127.0.0.1'").await;
    b.begun().await.execute(apply(&[101], vec![])).await.unwrap();

    b.config.password = "falsch".to_owned();
    match b.sink().execute(SinkOp::Open).await {
        Err(SinkError::Fatal(text)) => assert!(text.contains("1045") && !text.contains("falsch"), "{text}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_failed_read_is_not_an_absent_row() {
    let mut b = server().bench("open_failed_read").await;
    drop(b.begun().await);
    b.sql("ALTER TABLE {db}_binlog.drainer_state DROP COLUMN checkpoint_text").await;
    assert!(matches!(b.sink().execute(SinkOp::Open).await, Err(SinkError::Fatal(_))));
}

#[tokio::test]
async fn settings() {
    let mut b = server().bench("open_settings").await;
    b.config.params.insert("tidb_txn_mode".to_owned(), "pessimistic".to_owned());
    match b.sink().execute(SinkOp::Open).await {
        Err(SinkError::Fatal(text)) => assert!(text.contains("1193") && text.contains("tidb_txn_mode"), "{text}"),
        other => panic!("{other:?}"),
    }
    b.config.params.clear();
    b.config.params.insert("lock_wait_timeout".to_owned(), "17".to_owned());
    b.config.params.insert("time_zone".to_owned(), "Europe/Berlin".to_owned());
    assert!(matches!(b.sink().execute(SinkOp::Open).await, Err(SinkError::Fatal(_))));
    b.config.params.remove("time_zone");
    b.config.sql_mode = Some("NO_SUCH_MODE".to_owned());
    match b.sink().execute(SinkOp::Open).await {
        Err(SinkError::Fatal(text)) => assert!(text.contains("sql_mode"), "{text}"),
        other => panic!("{other:?}"),
    }
    b.config.sql_mode = Some("STRICT_ALL_TABLES".to_owned());
    let mut sink = b.begun().await;
    b.sql("CREATE TABLE {db}.s (a varchar(64), z varchar(64), m varchar(255), w int)").await;
    let look = "INSERT INTO `{db}`.`s` SELECT @@lock_wait_timeout, @@time_zone, @@sql_mode, @@wait_timeout";
    sink.execute(apply(&[101], vec![b.statement(101, look, vec![], Some(1))])).await.unwrap();
    assert_eq!(
        b.one("SELECT CONCAT_WS('|', a, z, m, w) FROM {db}.s").await,
        "17|+00:00|NO_AUTO_VALUE_ON_ZERO,STRICT_ALL_TABLES|60"
    );
}

#[tokio::test]
async fn nobody_listens() {
    let mut b = server().bench("open_nobody").await;
    b.config.port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    match b.sink().execute(SinkOp::Open).await {
        Err(SinkError::Lost(text)) => assert!(text.contains(&b.config.port.to_string()), "{text}"),
        other => panic!("{other:?}"),
    }
}
