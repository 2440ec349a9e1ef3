//! A downstream that the original's Drainer has filled halfway, and a checkpoint that an operator sets back (rules 8).

mod drainer_support;

use drainer_support::{Run, one_by_one};

#[tokio::test]
async fn a_checkpoint_of_the_original_and_one_that_was_set_back_are_taken_over() {
    let mut run = Run::start("bank", one_by_one).await;
    let all = run.transactions();

    // The original's downstream at a clean stop: its row, in its form, and nothing of ours.
    run.until_applied(all / 4).await;
    assert!(run.drainer().terminate().await.unwrap().success());
    let cluster = run.session.capture.facts.cluster_id;
    let checkpoint = run.checkpoint().await;
    assert_eq!(checkpoint["consistent"], true, "{checkpoint}");
    let (commit_ts, version) = (&checkpoint["commitTS"], &checkpoint["schema-version"]);
    let original = format!(r#"{{"consistent":true,"commitTS":{commit_ts},"ts-map":{{}},"schema-version":{version}}}"#);
    run.sql(&[
        "DROP TABLE tidb_binlog.drainer_state, tidb_binlog.drainer_applied, tidb_binlog.drainer_ddl_journal",
        &format!("REPLACE INTO tidb_binlog.checkpoint (clusterID, checkPoint) VALUES ({cluster}, '{original}')"),
    ])
    .await;
    run.drainer().restart().await.unwrap();
    run.until_applied(all / 2).await;
    let status = run.status().await;
    assert!(status["safe_until"].as_u64() > status["checkpoint"].as_u64(), "in safe mode: {status}");
    assert!(run.log().contains(&format!("taking over from checkpoint {commit_ts}")));
    assert!(run.drainer().terminate().await.unwrap().success());

    // An operator keeps what tables without a key hold at this point, as a dump would,
    let generation = status["generation"].as_u64().unwrap();
    let back = run.checkpoint().await.to_string();
    run.sql(&[
        "CREATE TABLE bank.audit_copy LIKE bank.audit_log",
        "INSERT INTO bank.audit_copy SELECT * FROM bank.audit_log",
    ])
    .await;
    run.drainer().restart().await.unwrap();
    run.until_applied(all * 3 / 4).await;
    // and goes back to it while nobody looks; rows with a key stay as they are.
    run.drainer().kill();
    run.sql(&[
        &format!("UPDATE tidb_binlog.checkpoint SET checkPoint = '{back}'"),
        "TRUNCATE TABLE bank.audit_log",
        "INSERT INTO bank.audit_log SELECT * FROM bank.audit_copy",
        "DROP TABLE bank.audit_copy",
    ])
    .await;
    run.drainer().restart().await.unwrap();
    run.until_equal().await;
    let status = run.status().await;
    assert_eq!(status["generation"].as_u64(), Some(generation + 1), "{status}");
    assert!(run.log().contains("taking over from checkpoint"));
    run.no_errors();
}
