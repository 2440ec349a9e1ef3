//! The Pump's process is killed by SIGKILL 20 times while it is written to: nothing acknowledged is lost, nothing else is
//! served, and the order stays.

use binlog_tests::capture::Capture;
use binlog_tests::compare_stream::compare;
use binlog_tests::expected::captures;
use binlog_tests::harness::{SMALL_DISK, WorkDir};
use binlog_tests::session::{Kill, Session, Setup};

#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_under_load_lose_nothing() {
    let mut work = WorkDir::new("kills").unwrap();
    let capture = Capture::open(&captures().join("bank")).unwrap();
    let (recorded, up_to) = (capture.pulls().unwrap(), capture.largest_commit_ts());
    let setup = Setup { pumps: None, drainer: false, pump_config: SMALL_DISK.into() };
    let mut session = Session::start(capture, work.path(), &setup).await.unwrap();
    let fed = session.feed(None, Kill::Often(10)).await.unwrap();
    assert_eq!(session.pumps.iter().map(|p| p.restarts).sum::<u32>(), 20);
    let ours = session.pull().await.unwrap();
    let mut served = 0;
    for ((recorded, ours), pump) in recorded.iter().zip(&ours).zip(&session.pumps) {
        let differences = compare(recorded, ours, up_to);
        if !differences.is_empty() {
            work.keep();
        }
        assert!(differences.is_empty(), "{}: {differences:#?}", pump.node_id);
        served += ours.iter().filter(|item| !item.fake).count();
    }
    assert_eq!(served, 1_826, "of {} records", fed.records);
}
