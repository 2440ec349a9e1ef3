//! The TiDB model against real processes, small: rows and DDL of a seed reach MariaDB, through kills.

use binlog_tests::playground_workload::{Options, run};

#[tokio::test]
async fn what_the_model_commits_is_in_mariadb() {
    let options = Options { transactions: 400, pumps: 2, seed: 3, rate: None, keep: false };
    assert!(run(&options).await.unwrap(), "tables differ");
}
