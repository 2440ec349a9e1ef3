//! The operator's port, and what the real clients of PD and TiKV then see.

use binlog_cluster::pd::PdClient;
use binlog_cluster::tikv::TikvClient;
use binlog_core::proto::kvrpcpb::{Action, CheckTxnStatusRequest, CheckTxnStatusResponse, Op};
use binlog_core::time::Tso;
use binlog_standin::client::{Control, Gc, Lock};
use binlog_standin::faults::Health;
use binlog_standin::process::{http_get, http_put};
use binlog_standin::regions::Trouble;
use binlog_standin::{Options, Standin};

const KEY: &[u8] = b"t\x80\0\0\0\0\0\0\x01_r\x80\0\0\0\0\0\0\x01";

struct World {
    standin: Standin,
    control: Control,
    pd: PdClient,
    tikv: TikvClient,
}

impl World {
    async fn start() -> Self {
        let standin = Standin::start(Options::default()).await.unwrap();
        let control = Control::new(&standin.control_url);
        let pd = PdClient::connect(std::slice::from_ref(&standin.shared.pd_url)).await.unwrap();
        Self { control, tikv: TikvClient::new(pd.clone()), pd, standin }
    }

    async fn ts(&self) -> u64 {
        self.pd.tso().await.unwrap().raw()
    }

    async fn status(&self, start_ts: u64, rollback_if_not_exist: bool) -> CheckTxnStatusResponse {
        let current_ts = self.ts().await;
        let request = CheckTxnStatusRequest {
            primary_key: KEY.into(),
            lock_ts: start_ts,
            caller_start_ts: current_ts,
            current_ts,
            rollback_if_not_exist,
            ..Default::default()
        };
        self.tikv.check_txn_status(request).await.unwrap()
    }
}

#[tokio::test]
async fn the_verdicts_of_a_transaction() {
    let world = World::start().await;
    let (control, tikv) = (&world.control, &world.tikv);
    let ops = |info: binlog_core::proto::kvrpcpb::MvccInfo| {
        info.writes.iter().map(|w| (w.r#type(), w.start_ts, w.has_overlapped_rollback)).collect::<Vec<_>>()
    };
    let history = async || tikv.mvcc_by_key(KEY).await.unwrap().info.unwrap();

    let running = world.ts().await;
    control.lock(&Lock::new(KEY, running).ttl_ms(60_000)).await.unwrap();
    let lock = history().await.lock.unwrap();
    assert_eq!((lock.start_ts, lock.primary.as_ref()), (running, KEY));
    let status = world.status(running, false).await;
    assert_eq!((status.lock_ttl, status.commit_version), (60_000, 0));
    // A heartbeat's work: the same lock with more time.
    control.lock(&Lock::new(KEY, running).ttl_ms(90_000)).await.unwrap();
    assert_eq!(world.status(running, false).await.lock_ttl, 90_000);
    let commit_ts = world.ts().await;
    control.commit(KEY, running, commit_ts).await.unwrap();
    assert_eq!(world.status(running, false).await.commit_version, commit_ts);
    let contradiction = control.rollback(KEY, running).await.unwrap_err().to_string();
    assert!(contradiction.contains("409") && contradiction.contains("contradicts"), "{contradiction}");

    let expired = world.ts().await;
    control.lock(&Lock::new(KEY, expired)).await.unwrap();
    assert_eq!(world.status(expired, false).await.action(), Action::TtlExpireRollback);

    let gone = world.ts().await;
    assert!(world.status(gone, false).await.error.unwrap().txn_not_found.is_some());
    control.rollback(KEY, gone).await.unwrap();
    assert_eq!(world.status(gone, false).await, CheckTxnStatusResponse::default());

    let overlapped = world.ts().await;
    control.overlapped_rollback(KEY, overlapped).await.unwrap();
    let newest = ops(history().await)[0];
    assert_eq!(newest, (Op::Lock, overlapped - 1, true), "only the mark of another's record tells");
    assert_eq!(world.status(overlapped, false).await, CheckTxnStatusResponse::default());

    let other = world.ts().await;
    let lock = Lock { rollback_ts: vec![other - 1], ..Lock::new(KEY, other).ttl_ms(60_000) };
    control.lock(&lock).await.unwrap();
    assert_eq!(history().await.lock.unwrap().rollback_ts, [other - 1]);
    let shown = control.key(KEY).await.unwrap();
    assert_eq!(shown["lock"]["start-ts"], other);
    assert_eq!(shown["writes"].as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn gc_takes_the_evidence_as_far_as_services_let_it() {
    let world = World::start().await;
    let (first, second) = (world.ts().await, world.ts().await);
    world.control.rollback(KEY, first).await.unwrap();
    world.control.rollback(KEY, second).await.unwrap();
    let held = world.pd.update_service_gc_safe_point("pump", 3600, Tso::new(first)).await.unwrap();
    assert!(held.accepted);
    assert_eq!(world.control.gc(Gc::LifeMs(0)).await.unwrap(), first);
    assert_eq!(world.pd.gc_safe_point().await.unwrap().raw(), first);
    let left = world.tikv.mvcc_by_key(KEY).await.unwrap().info.unwrap().writes;
    assert_eq!(left.iter().map(|w| w.start_ts).collect::<Vec<_>>(), [second]);
    let refused = world.pd.update_service_gc_safe_point("late", 3600, Tso::new(first - 1)).await.unwrap();
    assert!(!refused.accepted && refused.min_safe_point.raw() == first, "{refused:?}");
    // GC ran on while the service was not there.
    let live = world.ts().await;
    world.control.lock(&Lock::new(KEY, live).ttl_ms(60_000)).await.unwrap();
    assert_eq!(world.control.gc(Gc::SafePoint(live)).await.unwrap(), live);
    let left = world.tikv.mvcc_by_key(KEY).await.unwrap().info.unwrap();
    assert!(left.lock.is_none() && left.writes.is_empty(), "the lock was resolved, its record collected: {left:?}");
    assert!(world.status(live, false).await.error.unwrap().txn_not_found.is_some());
}

#[tokio::test]
async fn troubles_pass() {
    let world = World::start().await;
    let (control, tikv) = (&world.control, &world.tikv);
    for trouble in [
        Trouble::NotLeader,
        Trouble::NoLeader,
        Trouble::EpochNotMatch,
        Trouble::RegionNotFound,
        Trouble::ServerIsBusy,
        Trouble::StaleCommand,
        Trouble::StoreNotMatch,
    ] {
        control.region_errors(trouble, 2).await.unwrap();
        let before = control.calls("MvccGetByKey").await.unwrap();
        tikv.mvcc_by_key(KEY).await.unwrap_or_else(|e| panic!("{trouble:?}: {e}"));
        assert_eq!(control.calls("MvccGetByKey").await.unwrap(), before + 3, "{trouble:?}: two were refused");
    }
    let too_many = control.region_errors(Trouble::NoLeader, 20_000).await.unwrap_err().to_string();
    assert!(too_many.contains("400"), "{too_many}");

    control.tikv(Health::Hang).await.unwrap();
    let before = control.calls("MvccGetByKey").await.unwrap();
    let asked = tokio::spawn({
        let tikv = tikv.clone();
        async move { tikv.mvcc_by_key(KEY).await }
    });
    while control.calls("MvccGetByKey").await.unwrap() == before {
        tokio::task::yield_now().await;
    }
    assert!(!asked.is_finished());
    control.tikv(Health::Up).await.unwrap();
    asked.await.unwrap().unwrap();

    control.tikv(Health::Down).await.unwrap();
    let error = tikv.mvcc_by_key(KEY).await.unwrap_err().to_string();
    assert!(error.contains("TiKV is away"), "{error}");
    control.tikv(Health::Up).await.unwrap();
    tikv.mvcc_by_key(KEY).await.unwrap();
}

#[tokio::test]
async fn pd_goes_away_with_its_etcd() {
    let world = World::start().await;
    let mut etcd = etcd_client::Client::connect([world.standin.shared.pd_url.clone()], None).await.unwrap();
    etcd.put("k", "v", None).await.unwrap();
    world.control.pd_up(false).await.unwrap();
    let error = world.pd.gc_safe_point().await.unwrap_err().to_string();
    assert!(error.contains("PD is away"), "{error}");
    let error = etcd.get("k", None).await.unwrap_err().to_string();
    assert!(error.contains("PD is away"), "{error}");
    let before = world.standin.shared.tso().model().0.last().raw();
    world.control.pd_up(true).await.unwrap();
    world.control.jump(60_000).await.unwrap();
    assert!(Tso::new(world.ts().await).physical_ms() >= Tso::new(before).physical_ms() + 60_000);
    assert_eq!(etcd.get("k", None).await.unwrap().kvs().len(), 1);
}

#[tokio::test]
async fn commands_that_are_not_understood_say_why() {
    let standin = Standin::start(Options::default()).await.unwrap();
    let address = standin.control_url.strip_prefix("http://").unwrap();
    assert!(http_get(address, "/status").await.unwrap().contains("\"tso\":\"wall\""));
    for (path, body, expected) in [
        ("/tso/start", "", "409"),
        ("/tso/start", "", "no capture is loaded"),
        ("/tso/sideways", "", "404"),
        ("/pd/sideways", "", "use down, up"),
        ("/pd/jump/far", "", "400"),
        ("/tikv/sideways", "", "use up, down"),
        ("/tikv/lock", "{}", "missing field `key`"),
        ("/tikv/lock", r#"{"key": "xy", "start-ts": 1}"#, "hexadecimal"),
        ("/tikv/lock", r#"{"key": "aa", "start-ts": 1, "tl-ms": 1}"#, "unknown field `tl-ms`"),
        ("/tikv/region-errors", r#"{"error": "tired", "count": 1}"#, "unknown variant `tired`"),
        ("/gc", r#"{"life": 1}"#, "unknown variant `life`"),
        ("/capture", "/no/such/capture", "is not a directory"),
    ] {
        let error = http_put(address, path, body).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{path} {body}: {error}");
    }
    assert!(http_put(address, "/tso/outage", "").await.unwrap().contains("outage"));
    assert!(http_put(address, "/tso/get", "").await.unwrap_err().to_string().contains("the clock stands"));
    assert!(http_put(address, "/tso/resume", "").await.unwrap().contains("wall"));
    assert!(Control::new(&standin.control_url).timestamp().await.unwrap() > 0);
}
