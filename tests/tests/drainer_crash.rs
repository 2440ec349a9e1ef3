//! The Drainer, its downstream, PD and a Pump die while it applies: every transaction arrives exactly once, also in tables
//! without a key (rules 8; C1, C2).

mod drainer_support;

use drainer_support::{Run, one_by_one};

/// SIGKILL at 18 places, a few of them right after the start.
#[tokio::test]
async fn a_drainer_that_is_killed_again_and_again_applies_exactly_once() {
    let mut run = Run::start("bank", one_by_one).await;
    let step = run.transactions() / 17;
    let mut wanted = 1;
    let mut in_the_middle = 0;
    for kill in 0..18 {
        let applied = run.until_applied(wanted.min(run.transactions() - 1)).await;
        in_the_middle += usize::from(applied < run.transactions());
        run.drainer().kill_and_restart().await.unwrap();
        // Now and then the new life ends before it has done anything.
        wanted = if kill % 6 == 5 { applied } else { applied + step * (1 + kill % 3) / 2 };
    }
    run.until_equal().await;
    run.no_errors();
    assert!(in_the_middle >= 15, "{in_the_middle} of 18 kills before the end");
}

/// `types` has tables without a key, with duplicates, NULLs and every type; two statements are refused and resolved between.
#[tokio::test]
async fn every_type_and_tables_without_keys_survive_kills() {
    let mut run = Run::start("types", |_| {}).await;
    let step = run.transactions() / 8;
    for kill in 1..8 {
        run.until_applied(kill * step).await;
        run.drainer().kill_and_restart().await.unwrap();
    }
    run.until_equal().await;
    run.no_errors();
}

#[tokio::test]
async fn the_downstream_pd_and_a_pump_come_and_go() {
    let mut run = Run::start("bank", one_by_one).await;
    let all = run.transactions();
    for part in 1..7 {
        run.until_applied(all * part / 8).await;
        match part {
            1 | 3 | 5 => {
                let work = run.work.path().to_owned();
                let mariadb = run.session.mariadb.as_mut().unwrap();
                mariadb.kill();
                if part == 3 {
                    // Both at once.
                    run.session.drainer.as_mut().unwrap().kill_and_restart().await.unwrap();
                }
                run.session.mariadb.as_mut().unwrap().restart(&work).await.unwrap();
            }
            2 | 6 => run.session.pumps[part % 4 / 2].kill_and_restart().await.unwrap(),
            _ => {
                run.session.standin.shared.tso().outage();
                run.drainer().kill_and_restart().await.unwrap();
                run.session.pumps[0].kill_and_restart().await.unwrap();
                run.session.standin.shared.tso().resume();
            }
        }
    }
    run.until_equal().await;
    run.no_errors();
}
