//! A few seeds of every scenario. More: MADSIM_TEST_SEED=1000 MADSIM_TEST_NUM=500 cargo test.

#[cfg(not(madsim))]
#[test]
fn the_lane_needs_cfg_madsim() {
    panic!("run in sim/madsim, where .cargo/config.toml sets `--cfg madsim`; a RUSTFLAGS of your own must carry it");
}

#[cfg(madsim)]
mod lane {
    use binlog_madsim::drainer::scenario as drainer;
    use binlog_madsim::scenario::{full_inbox, lives, run};
    use std::collections::{BTreeMap, BTreeSet};

    fn seeds() -> std::ops::Range<u64> {
        let number = |name, default| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
        let first = number("MADSIM_TEST_SEED", 1);
        first..first + number("MADSIM_TEST_NUM", 12)
    }

    #[test]
    fn nothing_acknowledged_is_lost_and_every_call_ends() {
        let mut reached = BTreeMap::<_, u64>::new();
        for seed in seeds() {
            for (what, n) in run(seed, lives).counts {
                *reached.entry(what).or_default() += n;
            }
        }
        println!("{reached:?}");
        if seeds().count() >= 12 {
            for what in [
                "client gave up",
                "answer to a client that gave up",
                "closing overtook opening",
                "killed while stopping",
                "registry time-out",
                "status",
            ] {
                assert!(reached.contains_key(what), "not reached: {what}; {reached:?}");
            }
        }
    }

    #[test]
    fn a_seed_gives_one_trace() {
        let mut hashes = BTreeSet::new();
        for seed in seeds().take(4) {
            let first = run(seed, lives);
            assert_eq!(first, run(seed, lives), "seed {seed}");
            hashes.insert(first.hash);
        }
        assert_eq!(hashes.len(), seeds().take(4).count());
    }

    /// The oracle of lost completions can fail.
    #[test]
    fn a_completion_lost_on_its_way_is_noticed() {
        let panic = std::panic::catch_unwind(|| {
            run(1, |world| async {
                world.lose.store(1, std::sync::atomic::Ordering::Relaxed);
                full_inbox(world, false).await;
            })
        });
        let panic = panic.expect_err("one completion is missing");
        let text = panic.downcast_ref::<String>().expect("a message");
        assert!(text.contains("does not reach the machine"), "{text}");
    }

    #[test]
    fn a_full_inbox_holds_callers_back_and_all_succeed_later() {
        let report = run(1, |world| full_inbox(world, false));
        assert_eq!(report.counts["succeeded"], 80 + 2048);
    }

    #[test]
    fn a_stop_with_a_full_inbox_ends_every_call() {
        let report = run(2, |world| full_inbox(world, true));
        assert!(report.counts["dropped"] >= 1024, "{report:?}");
    }

    #[test]
    fn every_transaction_is_applied_once_and_in_order() {
        let mut reached = BTreeMap::<_, u64>::new();
        for seed in seeds() {
            for (what, n) in run(seed, drainer::lives).counts {
                *reached.entry(what).or_default() += n;
            }
        }
        println!("{reached:?}");
        if seeds().count() >= 12 {
            for what in [
                "client gave up",
                "answer to a client that gave up",
                "dropped",
                "killed while stopping",
                "notified",
                "refused",
                "source closed",
                "status",
                "stopped consistently",
                "stream broken",
                "time-out of a call",
            ] {
                assert!(reached.contains_key(what), "not reached: {what}; {reached:?}");
            }
        }
    }

    #[test]
    fn a_seed_gives_one_trace_of_the_drainer() {
        for seed in seeds().take(2) {
            assert_eq!(run(seed, drainer::lives), run(seed, drainer::lives), "seed {seed}");
        }
    }

    #[test]
    fn an_answer_of_the_sink_lost_on_its_way_is_noticed() {
        let panic = std::panic::catch_unwind(|| {
            run(1, |world| async {
                world.lose.store(5, std::sync::atomic::Ordering::Relaxed);
                drainer::held_back(world, false).await;
            })
        });
        let panic = panic.expect_err("one completion is missing");
        let text = panic.downcast_ref::<String>().expect("a message");
        assert!(text.contains("does not reach the machine"), "{text}");
    }

    #[test]
    fn a_downstream_that_stands_still_holds_the_pumps_back() {
        run(1, |world| drainer::held_back(world, false));
    }

    #[test]
    fn a_stop_ends_although_the_downstream_stands_still() {
        run(2, |world| drainer::held_back(world, true));
    }
}
