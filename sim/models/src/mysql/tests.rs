//! Statements, ambiguity, zombies, failover.

use super::*;
use binlog_core::sink::op::Statement;

fn ts(n: u64) -> CommitTs {
    CommitTs::new(n)
}

fn ddl(n: u64, sql: &str, touches: &[(&str, &str)]) -> SinkOp {
    let touches = touches.iter().map(|(d, t)| ((*d).to_owned(), (*t).to_owned())).collect();
    let (database, sql) = (Some("d".to_owned()), sql.to_owned());
    SinkOp::Ddl {
        generation: 1,
        ddl: Ddl { commit_ts: ts(n), database, sql, touches, rerun: false, time_zone: None, now: None, goal: None },
    }
}

fn apply(n: u64, sql: &str, params: Vec<SqlValue>, affected: u64) -> SinkOp {
    let statement = Statement { sql: sql.to_owned(), params, affected: Some(affected), commit_ts: ts(n) };
    SinkOp::Apply { generation: 1, records: vec![ts(n)], statements: vec![statement] }
}

fn save(k: u64, delete: &[u64]) -> SinkOp {
    let checkpoint = Checkpoint { commit_ts: ts(k), ..Checkpoint::default() };
    let state = SinkState { generation: 1, ..SinkState::default() };
    SinkOp::Save { checkpoint, state, delete: delete.iter().map(|n| ts(*n)).collect() }
}

fn server() -> Mysql {
    let mut mysql = Mysql::new(Dialect::MySql);
    mysql.run(&SinkOp::Open, Way::Well).unwrap();
    let (checkpoint, state) = (Checkpoint::default(), SinkState { generation: 1, ..SinkState::default() });
    mysql.run(&SinkOp::Begin { checkpoint, state }, Way::Well).unwrap();
    mysql.run(&ddl(1, "CREATE DATABASE `d`", &[("d", "")]), Way::Well).unwrap();
    let create = "CREATE TABLE `t` (`id` INT NOT NULL,`v` VARCHAR(9) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci NULL,\
                  PRIMARY KEY (`id`) /*T![clustered_index] CLUSTERED */,UNIQUE KEY `u` (`v`(2)))";
    mysql.run(&ddl(2, create, &[("d", "t")]), Way::Well).unwrap();
    mysql
}

fn insert(n: u64, id: i64, v: &str) -> SinkOp {
    let params = vec![SqlValue::Int(id), SqlValue::Text(v.into())];
    apply(n, "INSERT INTO `d`.`t`(`id`,`v`) VALUES (?,?)", params, 1)
}

fn refused(result: Result<SinkReply, SinkError>) -> String {
    match result {
        Err(SinkError::Refused { error, .. }) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn keys_are_unique_by_collation_and_prefix_and_a_failed_transaction_leaves_nothing() {
    let mut mysql = server();
    mysql.run(&insert(3, 1, "abX"), Way::Well).unwrap();
    assert!(refused(mysql.run(&insert(4, 2, "ABy"), Way::Well)).starts_with("1062"));
    assert!(refused(mysql.run(&insert(4, 1, "zz"), Way::Well)).starts_with("1062"));
    let update = |n, id| {
        let params = vec![SqlValue::Text("q".into()), SqlValue::Int(id)];
        apply(n, "UPDATE `d`.`t` SET `v` = ? WHERE `id` = ? LIMIT 1", params, 1)
    };
    assert!(refused(mysql.run(&update(4, 9), Way::Well)).contains("affected 0 rows"));
    mysql.run(&update(4, 1), Way::Well).unwrap();
    assert!(matches!(mysql.run(&update(4, 1), Way::Well), Err(SinkError::AlreadyRecorded)));
    let exact = "DELETE FROM `d`.`t` WHERE `v` = ? AND CAST(CONVERT(`v` USING utf8mb4) AS BINARY) = ? LIMIT 1";
    let delete = |n, v: &str| apply(n, exact, vec![SqlValue::Text("q".into()), SqlValue::Text(v.into())], 1);
    assert!(refused(mysql.run(&delete(5, "Q"), Way::Well)).contains("affected 0"));
    mysql.run(&delete(5, "q"), Way::Well).unwrap();
    assert_eq!(mysql.effects().values().copied().collect::<Vec<_>>(), [1; 5]);
    assert!(
        refused(mysql.run(&apply(6, "REPLACE INTO `d`.`t`(`id`) VALUES (?)", vec![], 1), Way::Well))
            .starts_with("1064")
    );
}

#[test]
fn lost_replies_and_zombies() {
    let mut mysql = server();
    assert!(matches!(mysql.run(&insert(3, 1, "a"), Way::LostBefore), Err(SinkError::Lost(_))));
    assert!(matches!(mysql.run(&insert(3, 1, "a"), Way::LostAfter), Err(SinkError::Lost(_))));
    assert!(matches!(mysql.run(&insert(3, 1, "a"), Way::Well), Err(SinkError::AlreadyRecorded)));
    assert!(matches!(mysql.run(&insert(4, 2, "b"), Way::Zombie), Err(SinkError::Lost(_))));
    assert!(matches!(mysql.run(&insert(4, 2, "b"), Way::Well), Err(SinkError::Retry(_))));
    mysql.settle(true);
    assert!(matches!(mysql.run(&insert(4, 2, "b"), Way::Well), Err(SinkError::AlreadyRecorded)));
    assert!(matches!(mysql.run(&insert(5, 3, "c"), Way::Zombie), Err(SinkError::Lost(_))));
    mysql.settle(false);
    mysql.run(&insert(5, 3, "c"), Way::Well).unwrap();
    // A late Save of a dead session must be noticed by the one that follows.
    assert!(matches!(mysql.run(&save(3, &[1, 2, 3]), Way::Zombie), Err(SinkError::Lost(_))));
    mysql.run(&SinkOp::Open, Way::Well).unwrap();
    mysql.settle(true);
    assert!(matches!(mysql.run(&save(4, &[1, 2, 3, 4]), Way::Well), Err(SinkError::Rewind(_))));
    mysql.run(&SinkOp::Open, Way::Well).unwrap();
    assert!(matches!(mysql.run(&save(4, &[9]), Way::Well), Err(SinkError::Rewind(_))));
    mysql.run(&save(5, &[4, 5]), Way::Well).unwrap();
    assert!(mysql.recorded().is_empty());
}

#[test]
fn a_ddl_of_unknown_outcome_runs_once() {
    let add = ddl(3, "ALTER TABLE `t` ADD COLUMN `c` INT NULL", &[("d", "t")]);
    for way in [Way::LostBefore, Way::HalfDone, Way::LostAfter, Way::Zombie, Way::Deadlock] {
        for commits in [false, true] {
            let mut mysql = server();
            assert!(mysql.run(&add, way).is_err());
            if way == Way::Zombie {
                assert!(matches!(mysql.run(&add, Way::Well), Err(SinkError::Retry(_))));
            }
            mysql.settle(commits);
            match mysql.run(&add, Way::Well) {
                Ok(_) => {}
                Err(SinkError::AlreadyRecorded) if way == Way::LostAfter => {}
                other => panic!("{way:?}: {other:?}"),
            }
            assert_eq!(mysql.effects()[&ts(3)], 1, "{way:?}");
        }
    }
}

#[test]
fn a_failover_takes_back_the_newest() {
    let mut mysql = server();
    mysql.run(&insert(3, 1, "a"), Way::Well).unwrap();
    mysql.run(&insert(4, 2, "b"), Way::Well).unwrap();
    mysql.fail_over(1);
    assert_eq!(mysql.effects_in_order(), [ts(1), ts(2), ts(3)]);
    assert!(!mysql.recorded().contains(&(1, ts(4))));
    mysql.run(&insert(4, 2, "b"), Way::Well).unwrap();
}

#[test]
fn alterations() {
    let mut mysql = server();
    mysql.run(&insert(3, 1, "5"), Way::Well).unwrap();
    let steps = [
        "ALTER TABLE `t` ADD COLUMN `c` DECIMAL(5,2) NOT NULL DEFAULT '1.5' FIRST, DROP INDEX `u`",
        "ALTER TABLE `t` ADD COLUMN `g` BIGINT GENERATED ALWAYS AS (`id` + 3) STORED AFTER `c`",
        "ALTER TABLE `t` ADD UNIQUE KEY `w` (`c`)",
        "RENAME TABLE `d`.`t` TO `d`.`s`",
    ];
    for (n, sql) in (4..).zip(steps) {
        mysql.run(&ddl(n, sql, &[("d", "t"), ("d", "s")]), Way::Well).unwrap();
    }
    let table = &mysql.db.tables[&("d".to_owned(), "s".to_owned())];
    let rows: Vec<_> = table.rows().map(|(_, row)| format!("{row:?}")).collect();
    assert_eq!(rows, ["[Text([49, 46, 53, 48]), Int(4), Int(1), Text([53])]"]);
    for (n, sql, error) in [
        (9, "ALTER TABLE `s` ADD COLUMN `c` INT NULL", "1060"),
        (9, "ALTER TABLE `s` DROP COLUMN `zz`", "1091"),
        (9, "CREATE TABLE `s` (`a` INT NULL)", "1050"),
        (9, "DROP TABLE `zz`", "1051"),
        (9, "ALTER TABLE `s` FROBNICATE", "1064"),
        (9, "ALTER TABLE `s` MODIFY COLUMN `v` DATE NULL", "incorrect"),
    ] {
        assert!(refused(mysql.run(&ddl(n, sql, &[("d", "s")]), Way::Well)).starts_with(error), "{sql}");
    }
}

mod random {
    use super::*;
    use proptest::prelude::*;

    const WAYS: [Way; 8] =
        [Way::Well, Way::Well, Way::Well, Way::LostBefore, Way::LostAfter, Way::Zombie, Way::Deadlock, Way::HalfDone];

    proptest! {
        /// A client that repeats what it does not know until it is recorded: every transaction and DDL takes effect exactly
        /// once, whatever the connection does.
        #[test]
        fn repeating_until_recorded_is_exactly_once(ways in proptest::collection::vec((0_usize..8, any::<bool>()), 0..60)) {
            let mut mysql = server();
            let mut ways = ways.into_iter();
            let mut columns = 0;
            for n in 3..20_u64 {
                let op = if n % 4 == 0 {
                    columns += 1;
                    ddl(n, &format!("ALTER TABLE `t` ADD COLUMN `c{columns}` INT NULL"), &[("d", "t")])
                } else {
                    let id = i64::try_from(n).unwrap();
                    insert(n, id, &format!("{}{n}", char::from(b'a' + u8::try_from(n).unwrap())))
                };
                loop {
                    let (way, settles) = ways.next().unwrap_or((0, true));
                    match mysql.run(&op, WAYS[way]) {
                        Ok(_) | Err(SinkError::AlreadyRecorded) => break,
                        Err(SinkError::Lost(_)) => drop(mysql.run(&SinkOp::Open, Way::Well)),
                        Err(SinkError::Retry(_)) => mysql.settle(settles),
                        Err(other) => panic!("{n}: {other:?}"),
                    }
                }
            }
            mysql.settle(true);
            let effects = mysql.effects();
            prop_assert_eq!(effects.len(), 19);
            prop_assert!(effects.values().all(|n| *n == 1), "{:?}", effects);
            let table = &mysql.db.tables[&("d".to_owned(), "t".to_owned())];
            prop_assert_eq!((table.rows().count(), table.columns.len()), (13, 2 + columns));
        }
    }
}
