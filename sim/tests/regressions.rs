//! Every plan in `sim/regressions/` failed once because of a bug of ours; none may fail again. A few seeds of each profile run
//! with them, twice, and must leave the same trace.

use binlog_sim::plan::generate::generate;
use binlog_sim::plan::{Plan, Profile};
use binlog_sim::run::{Options, run};
use std::path::Path;

#[test]
fn plans_that_failed_once() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|ext| ext != "plan") {
            continue;
        }
        count += 1;
        let plan = Plan::parse(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let outcome = run(&plan, &Options::default());
        assert_eq!(outcome.violation, None, "{}", path.display());
    }
    assert!(count > 0, "no plan was found");
}

#[test]
fn a_few_seeds_of_each_profile_twice() {
    for (profile, name) in Profile::ALL {
        for seed in 0..12 {
            let plan = generate(seed, profile);
            let [a, b] = [(); 2].map(|()| run(&plan, &Options::default()));
            assert_eq!(a.violation, None, "seed {seed} of {name}");
            assert_eq!((a.hash, a.events, a.simulated), (b.hash, b.events, b.simulated), "seed {seed} of {name}");
        }
    }
}

/// The oracles themselves: a mutation of a port, which needs no feature, must be caught and must shrink.
#[test]
fn a_port_that_forgets_the_directory_is_caught() {
    use binlog_sim::canary::{Canary, PortCanary};
    let canary = Some(Canary::Port(PortCanary::SkipDirectorySync));
    let options = Options { canary, ..Options::default() };
    let failing =
        (0..50).map(|seed| generate(seed, Profile::Disk)).find(|plan| run(plan, &options).violation.is_some());
    let (small, _) = binlog_sim::minimise::minimise(&failing.unwrap(), &options, 400).unwrap();
    assert!(small.txns.len() + small.actions.len() <= 5, "{}", small.to_text());
    assert!(run(&small, &options).violation.is_some_and(|v| v.oracle == "D2" || v.oracle == "D1"));
}
