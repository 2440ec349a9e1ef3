//! Prewrites whose C does not come: a real Pump asks the stand-in's TiKV what became of them (rules 1). What committed is served
//! with its rows, also when its client sent R; what rolled back never; what nobody can know waits for an operator.

mod pump_common;

use binlog_core::proto::binlog::Binlog;
use binlog_standin::Standin;
use binlog_standin::client::{Control, Gc, Lock};
use binlog_standin::faults::Health;
use binlog_standin::regions::Trouble;
use binlog_tests::harness::{WorkDir, http_get, http_put};
use bytes::Bytes;
use prost::Message;
use pump_common::{CONFIG, Client, Item, Node, PREWRITE, c, cluster, pull_until, r, tso, write};
use serde_json::Value;

/// Shorter than the fakes' pace and longer than a few questions.
const TTL_MS: u64 = 4_000;

/// A stand-in, its control port, a Pump that is online.
async fn start(work: &WorkDir) -> (Standin, Control, Node) {
    let standin = cluster(work).await;
    let control = Control::new(&standin.control_url);
    let mut node = Node::new(work.path(), "pump1", &standin.shared.pd_url, CONFIG);
    node.start().await;
    (standin, control, node)
}

/// A transaction with a primary key of its own.
struct Txn {
    start_ts: i64,
    key: Vec<u8>,
    rows: Vec<u8>,
}

impl Txn {
    fn begin(standin: &Standin) -> Self {
        let start_ts = tso(&standin.shared);
        Self { start_ts, key: format!("t{start_ts:016x}_r").into_bytes(), rows: format!("rows of {start_ts}").into() }
    }

    fn start(&self) -> u64 {
        self.start_ts.unsigned_abs()
    }

    fn p(&self) -> Bytes {
        let (key, value) = (Some(self.key.clone().into()), Some(self.rows.clone().into()));
        let start_ts = self.start_ts;
        let binlog = Binlog { tp: PREWRITE, start_ts, prewrite_key: key, prewrite_value: value, ..Binlog::default() };
        binlog.encode_to_vec().into()
    }

    async fn lock(&self, control: &Control, ttl_ms: u64) {
        control.lock(&Lock::new(&self.key, self.start()).ttl_ms(ttl_ms)).await.unwrap();
    }

    /// Prewritten in TiKV and on the Pump, as a transaction that goes on for `ttl_ms`.
    async fn prewrite(&self, control: &Control, client: &mut Client, cluster_id: u64, ttl_ms: u64) {
        self.lock(control, ttl_ms).await;
        write(client, cluster_id, self.p()).await.unwrap();
    }

    /// Its commit timestamp.
    async fn commit(&self, standin: &Standin, control: &Control) -> i64 {
        let commit_ts = tso(&standin.shared);
        control.commit(&self.key, self.start(), commit_ts.unsigned_abs()).await.unwrap();
        commit_ts
    }
}

/// What is served from the beginning up to now: transactions only.
async fn served(standin: &Standin, node: &Node) -> Vec<Item> {
    let mut items = pull_until(&node.address, standin.shared.cluster_id(), 0, tso(&standin.shared)).await.unwrap();
    assert!(items.is_sorted_by(|a, b| a.commit_ts < b.commit_ts), "each once, in order");
    items.retain(|item| !item.is_fake());
    items
}

/// They are exactly these transactions, with their rows.
fn are(items: &[Item], expected: &[(&Txn, i64)]) {
    let ours: Vec<_> = items.iter().map(|i| (i.binlog().start_ts, i.commit_ts, i.binlog().prewrite_value)).collect();
    let expected: Vec<_> =
        expected.iter().map(|(t, commit_ts)| (t.start_ts, *commit_ts, Some(Bytes::from(t.rows.clone())))).collect();
    assert_eq!(ours, expected);
}

fn verdicts(own: &Value) -> &Value {
    &own["verdicts"]
}

async fn put(node: &Node, path: &str) -> Value {
    serde_json::from_str(&http_put(&node.address, path, "").await.unwrap()).unwrap()
}

/// Carries out a command that status printed: `curl -X PUT http://ADDRESS/PATH`.
async fn run(node: &Node, command: &str) -> Value {
    let path = command.strip_prefix(&format!("curl -X PUT http://{}", node.address)).expect(command);
    put(node, path).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tikv_decides_and_the_client_s_rollback_does_not() {
    let work = WorkDir::new("verdicts").unwrap();
    let (standin, control, mut node) = start(&work).await;
    let id = standin.shared.cluster_id();
    let mut client = node.client();
    let txns: Vec<Txn> = (0..6).map(|_| Txn::begin(&standin)).collect();
    let [silent, rolled_back, undetermined, vanished, overlapped, ordinary] = &txns[..] else { unreachable!() };
    for txn in [silent, rolled_back, undetermined, ordinary] {
        txn.prewrite(&control, &mut client, id, 60_000).await;
    }
    for txn in [vanished, overlapped] {
        write(&mut client, id, txn.p()).await.unwrap();
    }
    let silent_at = silent.commit(&standin, &control).await;
    control.rollback(&rolled_back.key, rolled_back.start()).await.unwrap();
    control.overlapped_rollback(&overlapped.key, overlapped.start()).await.unwrap();
    let undetermined_at = undetermined.commit(&standin, &control).await;
    // The commit's answer was lost, so the client says R; and one R is about a transaction that never reached TiKV.
    write(&mut client, id, r(undetermined.start_ts)).await.unwrap();
    write(&mut client, id, r(vanished.start_ts)).await.unwrap();
    let ordinary_at = ordinary.commit(&standin, &control).await;
    write(&mut client, id, c(ordinary.start_ts, ordinary_at)).await.unwrap();

    let expected = [(silent, silent_at), (undetermined, undetermined_at), (ordinary, ordinary_at)];
    are(&served(&standin, &node).await, &expected);
    node.status_becomes("all are decided", |own| own["undecided"] == 0).await;
    // The log has the verdicts: TiKV is not asked again, and may have forgotten.
    node.kill();
    control.tikv(Health::Down).await.unwrap();
    node.start().await;
    are(&served(&standin, &node).await, &expected);
    let asked = pump_common::status(&node.address).await.unwrap();
    assert_eq!(verdicts(&asked)["mvcc_queries"], 0, "{asked:#}");
    assert!(node.terminate().await.success());
    assert_eq!(node.lines("ERROR", ""), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_lock_is_waited_for_until_its_time_is_over() {
    let work = WorkDir::new("locks").unwrap();
    let (standin, control, mut node) = start(&work).await;
    let id = standin.shared.cluster_id();
    let mut client = node.client();
    let (dead, slow) = (Txn::begin(&standin), Txn::begin(&standin));
    dead.prewrite(&control, &mut client, id, TTL_MS).await;
    slow.prewrite(&control, &mut client, id, 60_000).await;
    node.status_becomes("waits for the lock", |own| {
        verdicts(own)["oldest_waits_for"].as_str().is_some_and(|why| why.contains("primary key is locked"))
    })
    .await;
    // An operator has no business here.
    let answer = put(&node, &format!("/resolve/{}/rollback", dead.start_ts)).await;
    assert!(answer["code"] != 200 && answer["message"].as_str().unwrap().contains("without a command"), "{answer}");
    node.status_becomes("one is decided", |own| own["undecided"] == 1).await;
    assert!(tso(&standin.shared) >> 18 >= (dead.start_ts >> 18) + i64::try_from(TTL_MS).unwrap(), "not before");
    let history = control.key(&dead.key).await.unwrap();
    assert!(history["lock"].is_null() && history["writes"][0]["kind"] == "rollback", "{history}");
    // The other's lock lives: it is not touched, and its C is as good as ever.
    assert!(!control.key(&slow.key).await.unwrap()["lock"].is_null());
    let slow_at = slow.commit(&standin, &control).await;
    write(&mut client, id, c(slow.start_ts, slow_at)).await.unwrap();
    are(&served(&standin, &node).await, &[(&slow, slow_at)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tikv_and_the_pump_come_and_go() {
    let work = WorkDir::new("tikv-away").unwrap();
    let (standin, control, mut node) = start(&work).await;
    let id = standin.shared.cluster_id();
    let mut client = node.client();
    control.tikv(Health::Down).await.unwrap();
    let (committed, rolled_back) = (Txn::begin(&standin), Txn::begin(&standin));
    for txn in [&committed, &rolled_back] {
        txn.prewrite(&control, &mut client, id, 60_000).await;
    }
    let commit_at = committed.commit(&standin, &control).await;
    control.rollback(&rolled_back.key, rolled_back.start()).await.unwrap();
    let outage = |own: &Value| own["undecided"] == 2 && verdicts(own)["outage"].is_string();
    node.status_becomes("tells the outage", outage).await;
    // Writes go on, and are decided by their C alone.
    let ordinary = Txn::begin(&standin);
    write(&mut client, id, ordinary.p()).await.unwrap();
    let ordinary_at = tso(&standin.shared);
    write(&mut client, id, c(ordinary.start_ts, ordinary_at)).await.unwrap();
    node.kill();
    node.start().await;
    node.status_becomes("tells the outage again", outage).await;
    control.region_errors(Trouble::NotLeader, 2).await.unwrap();
    control.region_errors(Trouble::EpochNotMatch, 2).await.unwrap();
    control.region_errors(Trouble::ServerIsBusy, 1).await.unwrap();
    control.tikv(Health::Up).await.unwrap();
    are(&served(&standin, &node).await, &[(&committed, commit_at), (&ordinary, ordinary_at)]);
    node.status_becomes("all is well", |own| own["undecided"] == 0 && verdicts(own)["outage"].is_null()).await;
    assert_eq!(node.lines("ERROR", ""), Vec::<String>::new());
}

/// `GET /debug/binlog/{ts}` shows what TiKV holds, and the binlog alone while TiKV is away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_up_shows_what_tikv_knows() {
    let work = WorkDir::new("look-up").unwrap();
    let (standin, control, node) = start(&work).await;
    let id = standin.shared.cluster_id();
    let mut client = node.client();
    let txn = Txn::begin(&standin);
    txn.prewrite(&control, &mut client, id, 60_000).await;
    let (start, key) = (txn.start_ts, String::from_utf8(txn.key.clone()).unwrap());
    let look = async || http_get(&node.address, &format!("/debug/binlog/{start}")).await.unwrap();
    let answer = look().await;
    let (binlog, versions) = answer.split_once("\n\n GetMvccByEncodedKey: \n").expect("both parts");
    assert!(binlog.starts_with(&format!("tp:Prewrite start_ts:{start} ")), "{binlog}");
    assert!(binlog.contains("PrewriteValue: \n"), "{binlog}");
    let lock = format!("info:<lock:<start_ts:{start} primary:\"{key}\" short_value:\"v\" ");
    assert!(versions.starts_with(&lock), "{versions}");

    let commit = txn.commit(&standin, &control).await;
    let versions = format!(
        "info:<writes:<start_ts:{start} commit_ts:{commit} short_value:\"v\" > values:<start_ts:{start} value:\"v\" > > "
    );
    assert_eq!(look().await, format!("{binlog}\n\n GetMvccByEncodedKey: \n{versions}"));

    control.tikv(Health::Down).await.unwrap();
    let answer = look().await;
    let why = answer.strip_prefix(&format!("{binlog}\n\nGetMvccByEncodedKey failed: ")).expect(&answer);
    assert!(why.contains("TiKV MvccGetByKey"), "{why}");
    // A C names no key: there is nothing to ask, so nothing fails.
    write(&mut client, id, c(start, commit)).await.unwrap();
    are(&served(&standin, &node).await, &[(&txn, commit)]);
    let answer = http_get(&node.address, &format!("/debug/binlog/{commit}")).await.unwrap();
    let want = format!("tp:Commit start_ts:{start} commit_ts:{commit} ddl_job_id:0 ddl_schema_state:0 ");
    assert_eq!(answer, want);
    let rows = String::from_utf8(txn.rows.clone()).unwrap();
    assert!(!node.log_text().contains(&rows) && !node.log_text().contains("short_value"), "rows stay out of the log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_gc_made_unknowable_is_an_operator_s() {
    let work = WorkDir::new("undecidable").unwrap();
    let (standin, control, mut node) = start(&work).await;
    let id = standin.shared.cluster_id();
    let mut client = node.client();
    let (one, two) = (Txn::begin(&standin), Txn::begin(&standin));
    for txn in [&one, &two] {
        write(&mut client, id, txn.p()).await.unwrap();
    }
    let truth_at = tso(&standin.shared);
    control.gc(Gc::SafePoint(tso(&standin.shared).unsigned_abs())).await.unwrap();
    for txn in [&one, &two] {
        write(&mut client, id, r(txn.start_ts)).await.unwrap();
    }
    node.status_becomes("both are undecidable", |own| verdicts(own)["undecidable"] == 2).await;
    let own = pump_common::status(&node.address).await.unwrap();
    let named = verdicts(&own)["undecidable_first"].as_array().unwrap().clone();
    assert_eq!([&named[0]["start_ts"], &named[1]["start_ts"]], [one.start_ts, two.start_ts], "{own:#}");
    assert!(own["watermark"].as_i64().unwrap() < truth_at, "{own:#}");
    let [commit, rollback] = [&named[0]["resolve"][0], &named[1]["resolve"][1]].map(|v| v.as_str().unwrap());
    let commit = |commit_ts: i64| commit.replace("<commit_ts>", &commit_ts.to_string());
    assert!(node.lines("ERROR", rollback).len() == 1, "the log has the command: {}", node.log_text());

    // What cannot be meant is refused.
    let later = tso(&standin.shared) + (3_600_000 << 18);
    for (command, says) in [
        (commit(one.start_ts), "is not above start_ts"),
        (commit(later), "future"),
        (rollback.replace(&two.start_ts.to_string(), &truth_at.to_string()), "no undecided prewrite"),
    ] {
        let answer = run(&node, &command).await;
        assert!(answer["code"] == 3 && answer["message"].as_str().unwrap().contains(says), "{command}: {answer}");
    }
    assert_eq!(run(&node, &commit(truth_at)).await["code"], 200);
    // Durable when it is answered.
    node.kill();
    node.start().await;
    node.status_becomes("the other is undecidable again", |own| verdicts(own)["undecidable"] == 1).await;
    assert_eq!(run(&node, rollback).await["code"], 200);
    node.kill();
    node.start().await;
    are(&served(&standin, &node).await, &[(&one, truth_at)]);
    let own = pump_common::status(&node.address).await.unwrap();
    assert_eq!((&own["undecided"], &verdicts(&own)["undecidable"]), (&0.into(), &0.into()), "{own:#}");
    let answer = run(&node, rollback).await;
    assert!(answer["message"].as_str().unwrap().contains("nothing to do"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evidence_is_kept_while_a_prewrite_needs_it() {
    let work = WorkDir::new("hold").unwrap();
    let (standin, control, mut node) = start(&work).await;
    let mut client = node.client();
    node.status_becomes("PD holds GC for it", |own| verdicts(own)["gc_held_at"].is_u64()).await;
    let txn = Txn::begin(&standin);
    txn.prewrite(&control, &mut client, standin.shared.cluster_id(), 60_000).await;
    assert!(control.gc(Gc::LifeMs(0)).await.unwrap() < txn.start());
    // Also while the Pump is away.
    node.kill();
    assert!(control.gc(Gc::LifeMs(0)).await.unwrap() < txn.start());
    let commit_at = txn.commit(&standin, &control).await;
    assert!(control.gc(Gc::LifeMs(0)).await.unwrap() < txn.start());
    node.start().await;
    are(&served(&standin, &node).await, &[(&txn, commit_at)]);
    // A clean stop with nothing undecided holds nobody back.
    assert!(node.terminate().await.success());
    assert!(control.gc(Gc::LifeMs(0)).await.unwrap() > commit_at.unsigned_abs());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_transaction_on_two_pumps_is_served_by_both() {
    let work = WorkDir::new("twice").unwrap();
    let (standin, control, mut first) = start(&work).await;
    let mut second = Node::new(work.path(), "pump2", &standin.shared.pd_url, CONFIG);
    second.start().await;
    let id = standin.shared.cluster_id();
    let (mut one, mut two) = (first.client(), second.client());
    // The first one's acknowledgements were lost: the client went to the second.
    let (committed, rolled_back) = (Txn::begin(&standin), Txn::begin(&standin));
    for txn in [&committed, &rolled_back] {
        txn.prewrite(&control, &mut one, id, 60_000).await;
        write(&mut two, id, txn.p()).await.unwrap();
    }
    first.kill();
    let commit_at = committed.commit(&standin, &control).await;
    write(&mut two, id, c(committed.start_ts, commit_at)).await.unwrap();
    control.rollback(&rolled_back.key, rolled_back.start()).await.unwrap();
    write(&mut two, id, r(rolled_back.start_ts)).await.unwrap();
    first.start().await;
    let both = [served(&standin, &first).await, served(&standin, &second).await];
    both.iter().for_each(|items| are(items, &[(&committed, commit_at)]));
    for node in [&first, &second] {
        assert_eq!(node.lines("ERROR", ""), Vec::<String>::new());
    }
}
