//! DDL with its journal.

use crate::server;
use crate::support::{Bench, DEADLINE, ddl_op, open, recorded, refusal};
use binlog_core::sink::op::{Ddl, SinkError};
use std::time::{Duration, Instant};

const ALTER: &str = "ALTER TABLE t ADD COLUMN b int DEFAULT 3";

async fn columns(b: &mut Bench) -> String {
    b.one("SELECT GROUP_CONCAT(COLUMN_NAME ORDER BY ORDINAL_POSITION) FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = '{db}' AND TABLE_NAME = 't'").await
}

/// The journal as it is after a crash: `started` is committed, the outcome unknown.
async fn leave_started(b: &mut Bench, ddl: &Ddl) {
    let blocker = "INSERT INTO {db}_binlog.drainer_ddl_journal SELECT * FROM {db}_binlog.journal_copy";
    b.sql("CREATE OR REPLACE TABLE {db}_binlog.journal_copy LIKE {db}_binlog.drainer_ddl_journal").await;
    // Caught by a trigger at the moment that it is written.
    b.sql("CREATE OR REPLACE TRIGGER {db}_binlog.catch AFTER INSERT ON {db}_binlog.drainer_ddl_journal FOR EACH ROW INSERT INTO {db}_binlog.journal_copy VALUES (NEW.cluster, NEW.grp, NEW.commit_ts, NEW.generation, NEW.phase, NEW.ddl, NEW.definitions)").await;
    let mut sink = b.sink();
    open(&mut sink).await;
    let mut probe = ddl.clone();
    probe.sql = "ALTER TABLE no_such_table_at_all ADD COLUMN b int".to_owned();
    probe.goal = None;
    refusal(sink.execute(ddl_op(&probe)).await);
    b.sql("DROP TRIGGER {db}_binlog.catch").await;
    assert!(b.rows("SELECT 1 FROM {db}_binlog.drainer_ddl_journal").await.is_empty(), "refused: nothing to decide");
    b.sql(blocker).await;
    b.sql("DROP TABLE {db}_binlog.journal_copy").await;
}

#[tokio::test]
async fn a_ddl_runs_once_and_is_recorded() {
    let mut b = server().bench("ddl_once").await;
    b.sql("CREATE TABLE {db}.t (a int)").await;
    let mut sink = b.begun().await;
    let ddl = b.ddl(101, ALTER, "t");
    sink.execute(ddl_op(&ddl)).await.unwrap();
    assert_eq!(columns(&mut b).await, "a,b");
    assert!(matches!(sink.execute(ddl_op(&ddl)).await, Err(SinkError::AlreadyRecorded)));
    let opened = open(&mut sink).await;
    assert_eq!((recorded(&opened), sink.unfinished().len()), (vec![101], 0));
    assert_eq!(b.one("SELECT CONCAT(phase, ' ', commit_ts) FROM {db}_binlog.drainer_ddl_journal").await, "done 101");
    // The lock and the session's mode are given back; a Save removes what is done.
    assert_eq!(
        b.rows("SELECT 1 FROM information_schema.PROCESSLIST WHERE INFO LIKE '%GET_LOCK%' AND ID <> CONNECTION_ID()")
            .await
            .len(),
        0
    );
    sink.execute(crate::support::save(101, &[101])).await.unwrap();
    assert!(b.rows("SELECT 1 FROM {db}_binlog.drainer_ddl_journal").await.is_empty());
}

#[tokio::test]
async fn databases_come_and_go() {
    let mut b = server().bench("ddl_databases").await;
    let mut sink = b.begun().await;
    let mut create = b.ddl(101, "CREATE DATABASE `{db}_x` /*T! PLACEMENT POLICY = p */ CHARACTER SET utf8mb4;", "");
    create.database = None;
    create.touches = vec![("ddl_databases_x".to_owned(), String::new())];
    sink.execute(ddl_op(&create)).await.unwrap();
    let mut table =
        b.ddl(102, "CREATE TABLE `T able`(`i d` bigint /*T![auto_rand] AUTO_RANDOM(5) */ PRIMARY KEY)", "T able");
    table.database = Some("ddl_databases_x".to_owned());
    sink.execute(ddl_op(&table)).await.unwrap();
    let mut drop = b.ddl(103, "DROP DATABASE `{db}_x`", "");
    drop.touches = create.touches.clone();
    sink.execute(ddl_op(&drop)).await.unwrap();
    assert!(b.rows("SHOW DATABASES LIKE '{db}\\_x'").await.is_empty());
    assert_eq!(recorded(&open(&mut sink).await), vec![101, 102, 103]);
}

#[tokio::test]
async fn refused_ddl_leaves_no_journal() {
    let mut b = server().bench("ddl_refused").await;
    b.sql("CREATE TABLE {db}.t (a int, b varchar(9))").await;
    b.sql("INSERT INTO {db}.t VALUES (1, 'secret'), (2, 'secret')").await;
    let mut sink = b.begun().await;
    for (sql, code) in [
        ("ALTER TABLE t ADD UNIQUE KEY (b)", "1062 (23000): Duplicate entry '…'"),
        ("ALTER TABLE t MODIFY b varchar(2)", "1265"),
        ("CREATE NONSENSE", "1064"),
        ("ALTER TABLE t DROP COLUMN z", "1091"),
        // Strict: a mere warning otherwise.
        ("CREATE TABLE u (a varchar(70000) charset latin1)", "1074"),
    ] {
        let ddl = b.ddl(101, sql, "t");
        let (ts, statement, error) = refusal(sink.execute(ddl_op(&ddl)).await);
        assert_eq!((ts, statement.as_str()), (101, sql));
        assert!(error.contains(code) && !error.contains("secret"), "{error}");
        assert!(b.rows("SELECT 1 FROM {db}_binlog.drainer_ddl_journal").await.is_empty());
    }
    let mut elsewhere = b.ddl(102, "ALTER TABLE t ADD COLUMN c int", "t");
    elsewhere.database = Some("ddl_no_such_db".to_owned());
    assert!(refusal(sink.execute(ddl_op(&elsewhere)).await).2.contains("1049"));
    assert_eq!(recorded(&open(&mut sink).await), Vec::<u64>::new());
}

#[tokio::test]
async fn exists_already_counts_when_the_goal_is_reached() {
    let mut b = server().bench("ddl_goal").await;
    b.sql("CREATE TABLE {db}.t (A int, b int, key k (b))").await;
    let mut sink = b.begun().await;
    for (ts, sql, goal, applied) in [
        (101, "CREATE TABLE t (a int, b int)", b.goal("t", Some(&["a", "B"])), true),
        (102, "CREATE TABLE t (a int, c int)", b.goal("t", Some(&["a", "c"])), false),
        (103, "CREATE TABLE t (b int, a int)", b.goal("t", Some(&["b", "a"])), false),
        (104, "ALTER TABLE t ADD COLUMN b int", b.goal("t", Some(&["a", "b"])), true),
        (105, "ALTER TABLE t DROP COLUMN z", b.goal("t", Some(&["a", "b"])), true),
        (106, "DROP TABLE gone", b.goal("gone", None), true),
        (107, "DROP TABLE t, gone", b.goal("other", Some(&["a"])), false),
        (108, "CREATE DATABASE `{db}`", b.goal("", Some(&[])), true),
        (109, "DROP DATABASE ddl_goal_gone", b.goal("", None), false),
        (110, "ALTER TABLE gone ADD COLUMN x int", None, false),
    ] {
        let mut ddl = b.ddl(ts, sql, "t");
        ddl.goal = goal;
        let result = sink.execute(ddl_op(&ddl)).await;
        assert_eq!(result.is_ok(), applied, "{sql}: {result:?}");
        if !applied {
            refusal(result);
        }
    }
    assert_eq!(recorded(&open(&mut sink).await), vec![101, 104, 105, 106, 108]);
}

#[tokio::test]
async fn unknown_outcome_it_did_not_run() {
    let mut b = server().bench("ddl_not_run").await;
    b.sql("CREATE TABLE {db}.t (a int auto_increment primary key) AUTO_INCREMENT = 50").await;
    let mut sink = b.begun().await;
    let ddl = b.ddl(101, ALTER, "t");
    leave_started(&mut b, &ddl).await;
    // A server that restarts may move this counter.
    b.sql("ALTER TABLE {db}.t AUTO_INCREMENT = 77").await;
    open(&mut sink).await;
    assert_eq!(sink.unfinished().len(), 1);
    sink.execute(ddl_op(&ddl)).await.unwrap();
    assert_eq!(columns(&mut b).await, "a,b");
    assert_eq!(recorded(&open(&mut sink).await), vec![101]);
}

#[tokio::test]
async fn unknown_outcome_it_ran() {
    let mut b = server().bench("ddl_ran").await;
    b.sql("CREATE TABLE {db}.t (a int)").await;
    let mut sink = b.begun().await;
    let ddl = b.ddl(101, ALTER, "t");
    leave_started(&mut b, &ddl).await;
    b.sql("USE {db}").await;
    b.sql(ALTER).await;
    open(&mut sink).await;
    sink.execute(ddl_op(&ddl)).await.unwrap();
    assert_eq!(columns(&mut b).await, "a,b");
    assert_eq!(recorded(&open(&mut sink).await), vec![101]);
    assert_eq!(b.one("SELECT phase FROM {db}_binlog.drainer_ddl_journal").await, "done");
}

/// Created and dropped again, swapped: the text alone would not tell.
#[tokio::test]
async fn table_ids_tell_where_definitions_do_not() {
    for (name, sql) in [
        ("ddl_swap", "RENAME TABLE t TO x, u TO t, x TO u"),
        ("ddl_exchange", "ALTER TABLE p EXCHANGE PARTITION p0 WITH TABLE t"),
    ] {
        let mut b = server().bench(name).await;
        b.sql("CREATE TABLE {db}.t (a int)").await;
        b.sql("CREATE TABLE {db}.u (a int)").await;
        b.sql("CREATE TABLE {db}.p (a int) PARTITION BY RANGE (a) (PARTITION p0 VALUES LESS THAN (100))").await;
        b.sql("INSERT INTO {db}.t VALUES (1)").await;
        let mut sink = b.begun().await;
        let ddl = b.ddl(101, sql, "t");
        for ran in [true, false] {
            leave_started(&mut b, &ddl).await;
            if ran {
                b.sql("USE {db}").await;
                b.sql(sql).await;
            }
            open(&mut sink).await;
            sink.execute(ddl_op(&ddl)).await.unwrap();
            // Once in either case, then once more: back where it began.
            let rows = if ran { 0 } else { 1 };
            assert_eq!(b.rows("SELECT 1 FROM {db}.t").await.len(), rows, "{sql} ran={ran}");
            b.sql("DELETE FROM {db}_binlog.drainer_ddl_journal").await;
            b.sql("DELETE FROM {db}_binlog.drainer_applied").await;
        }
    }
}

#[tokio::test]
async fn truncate_runs_again() {
    let mut b = server().bench("ddl_truncate").await;
    b.sql("CREATE TABLE {db}.t (a int)").await;
    let mut sink = b.begun().await;
    let mut ddl = b.ddl(101, "TRUNCATE TABLE t", "t");
    ddl.rerun = true;
    leave_started(&mut b, &ddl).await;
    b.sql("TRUNCATE TABLE {db}.t").await;
    b.sql("INSERT INTO {db}.t VALUES (1)").await;
    open(&mut sink).await;
    sink.execute(ddl_op(&ddl)).await.unwrap();
    assert!(b.rows("SELECT 1 FROM {db}.t").await.is_empty());
    assert_eq!(recorded(&open(&mut sink).await), vec![101]);
}

#[tokio::test]
async fn another_server_version_makes_the_goal_decide() {
    let mut b = server().bench("ddl_version").await;
    b.sql("CREATE TABLE {db}.t (a int)").await;
    let mut sink = b.begun().await;
    let mut ddl = b.ddl(101, ALTER, "t");
    leave_started(&mut b, &ddl).await;
    b.sql("UPDATE {db}_binlog.drainer_ddl_journal SET definitions = JSON_SET(definitions, '$.server', 'older')").await;
    open(&mut sink).await;
    assert!(refusal(sink.execute(ddl_op(&ddl)).await).2.contains("cannot be told"));
    ddl.goal = b.goal("t", Some(&["a", "b"]));
    sink.execute(ddl_op(&ddl)).await.unwrap();
    assert_eq!(columns(&mut b).await, "a,b");
}

#[tokio::test]
async fn a_journal_of_another_generation_is_not_believed() {
    let mut b = server().bench("ddl_generation").await;
    b.sql("CREATE TABLE {db}.t (a int)").await;
    let mut sink = b.begun().await;
    let ddl = b.ddl(101, ALTER, "t");
    leave_started(&mut b, &ddl).await;
    // A dump is restored in which the table looks different; the row that would say "it ran" is of generation 0.
    b.sql("UPDATE {db}_binlog.drainer_ddl_journal SET generation = 0").await;
    b.sql("ALTER TABLE {db}.t ADD COLUMN z int").await;
    open(&mut sink).await;
    sink.execute(ddl_op(&ddl)).await.unwrap();
    assert_eq!(columns(&mut b).await, "a,z,b");
}

/// The session that still runs the statement holds the lock: nobody compares definitions under it.
#[tokio::test]
async fn the_lock_comes_before_the_decision() {
    let mut b = server().bench("ddl_lock").await;
    b.sql("CREATE TABLE {db}.t (a int)").await;
    let sink = b.begun().await;
    let ddl = b.ddl(101, ALTER, "t");
    // A reader's metadata lock keeps the ALTER running.
    b.sql("BEGIN").await;
    b.rows("SELECT * FROM {db}.t").await;
    let (mut first, op) = (sink, ddl_op(&ddl));
    let running = tokio::spawn(async move { first.execute(op).await });
    let mut other = server().conn().await;
    let until = Instant::now() + DEADLINE;
    loop {
        use mysql_async::prelude::Queryable;
        let waits: Vec<u64> = other
            .query(
                "SELECT ID FROM information_schema.PROCESSLIST WHERE DB = 'ddl_lock' AND STATE LIKE '%metadata lock%'",
            )
            .await
            .unwrap();
        if !waits.is_empty() {
            break;
        }
        assert!(Instant::now() < until && !running.is_finished());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut second = b.sink();
    open(&mut second).await;
    assert_eq!(second.unfinished().len(), 1);
    match second.execute(ddl_op(&ddl)).await {
        Err(SinkError::Retry(text)) => assert!(text.contains("lock"), "{text}"),
        other => panic!("{other:?}"),
    }
    b.sql("COMMIT").await;
    running.await.unwrap().unwrap();
    assert!(matches!(second.execute(ddl_op(&ddl)).await, Err(SinkError::AlreadyRecorded)));
    assert_eq!(columns(&mut b).await, "a,b");
}

/// Of a batch that stops in the middle, the second attempt makes what is missing.
#[tokio::test]
async fn a_batch_of_tables_runs_as_single_statements() {
    let mut b = server().bench("ddl_batch").await;
    b.sql("CREATE TABLE {db}.other (x int)").await;
    let mut sink = b.begun().await;
    let create = |name: &str| format!("CREATE TABLE IF NOT EXISTS `{name}` (a varchar(9) DEFAULT ';')");
    let mut ddl = b.ddl(101, &[create("a"), "CREATE TABLE `b` (nonsense)".to_owned(), create("c")].join(";\n"), "a");
    (ddl.rerun, ddl.goal) = (true, b.goal("other", Some(&["x"])));
    assert!(refusal(sink.execute(ddl_op(&ddl)).await).2.contains("1064"));
    ddl.sql = ["a", "b", "c"].map(create).join(";\n");
    sink.execute(ddl_op(&ddl)).await.unwrap();
    let names = "SELECT GROUP_CONCAT(TABLE_NAME ORDER BY 1) FROM information_schema.TABLES WHERE TABLE_SCHEMA = '{db}'";
    assert_eq!(b.one(names).await, "a,b,c,other");
    assert_eq!(recorded(&open(&mut sink).await), vec![101]);
    // A database that says nothing gets TiDB's defaults, whatever the server's are.
    b.sql("SET GLOBAL character_set_server = latin1").await;
    let mut sink = b.sink();
    open(&mut sink).await;
    let mut create = b.ddl(102, "CREATE DATABASE {db}_x", "");
    (create.database, create.touches) = (None, vec![("ddl_batch_x".to_owned(), String::new())]);
    sink.execute(ddl_op(&create)).await.unwrap();
    b.sql("SET GLOBAL character_set_server = DEFAULT").await;
    let collation = "SELECT DEFAULT_COLLATION_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = 'ddl_batch_x'";
    assert_eq!(b.one(collation).await, "utf8mb4_bin");
}

#[tokio::test]
async fn rows_older_than_a_column_show_the_upstream_s_time() {
    let mut b = server().bench("ddl_now").await;
    b.sql("CREATE TABLE {db}.t (a int)").await;
    b.sql("INSERT INTO {db}.t VALUES (1)").await;
    let mut sink = b.begun().await;
    let mut ddl = b.ddl(101, "ALTER TABLE t ADD COLUMN d DATETIME(3) DEFAULT CURRENT_TIMESTAMP(3), ADD COLUMN s TIMESTAMP NULL DEFAULT CURRENT_TIMESTAMP", "t");
    ddl.now = Some(1_595_230_427_250_000);
    sink.execute(ddl_op(&ddl)).await.unwrap();
    b.sql("SET time_zone = '+00:00'").await;
    let row = b.one("SELECT CONCAT(d, ' ', s) FROM {db}.t").await;
    assert_eq!(row, "2020-07-20 07:33:47.250 2020-07-20 07:33:47");
    // The next DDL, and what fails, leave no frozen clock behind.
    let mut broken = b.ddl(102, "ALTER TABLE t ADD COLUMN d int", "t");
    broken.now = ddl.now;
    refusal(sink.execute(ddl_op(&broken)).await);
    let next = b.ddl(103, "ALTER TABLE t ADD COLUMN n DATETIME DEFAULT CURRENT_TIMESTAMP", "t");
    sink.execute(ddl_op(&next)).await.unwrap();
    assert_eq!(b.one("SELECT n > '2021-01-01' FROM {db}.t").await, "1");
}

#[tokio::test]
async fn time_literals_mean_what_they_meant_upstream() {
    let mut b = server().bench("ddl_zone").await;
    b.sql("CREATE TABLE {db}.t (a int, d DATETIME)").await;
    b.sql("INSERT INTO {db}.t VALUES (1, '2020-01-01 00:00:00')").await;
    b.sql("SET time_zone = '+00:00'").await;
    let mut sink = b.begun().await;
    let mut ddl =
        b.ddl(101, "ALTER TABLE t ADD COLUMN s TIMESTAMP DEFAULT '2020-01-01 00:00:00', MODIFY d TIMESTAMP NULL", "t");
    ddl.time_zone = Some("+08:00".to_owned());
    sink.execute(ddl_op(&ddl)).await.unwrap();
    assert_eq!(b.one("SELECT CONCAT(s, ' ', d) FROM {db}.t").await, "2019-12-31 16:00:00 2019-12-31 16:00:00");
    // Later DDLs run in UTC again, also after a refusal.
    let mut broken = b.ddl(102, "ALTER TABLE t ADD COLUMN d int", "t");
    broken.time_zone = ddl.time_zone.clone();
    refusal(sink.execute(ddl_op(&broken)).await);
    let next = b.ddl(103, "ALTER TABLE t ADD COLUMN u TIMESTAMP DEFAULT '2020-01-01 00:00:00'", "t");
    sink.execute(ddl_op(&next)).await.unwrap();
    assert_eq!(b.one("SELECT CONCAT(u) FROM {db}.t").await, "2020-01-01 00:00:00");
    let mut unknown = b.ddl(104, "ALTER TABLE t DROP COLUMN u", "t");
    unknown.time_zone = Some("Atlantis/Capital".to_owned());
    let (_, _, error) = refusal(sink.execute(ddl_op(&unknown)).await);
    assert!(error.contains("mysql_tzinfo_to_sql"), "{error}");
    assert!(b.rows("SELECT 1 FROM {db}_binlog.drainer_ddl_journal WHERE phase = 'started'").await.is_empty());
}
