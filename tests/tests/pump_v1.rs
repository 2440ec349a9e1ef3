//! Data directories of the original's Pump are taken over in place: recorded ones, and a generated one of several files with garbage
//! between records. What is served is what the original served, also after SIGKILL in the middle of the import.

mod pump_common;

use binlog_core::vlog::v1::record::{encode, encode_footer};
use binlog_standin::Shared;
use binlog_tests::capture::{self, Item};
use binlog_tests::compare_stream;
use binlog_tests::harness::{WorkDir, http_post};
use pump_common::{Node, PATIENCE, POLL, c, cluster, p, pull_until, r, status, tso, write};
use serde::Deserialize;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

const CONFIG: &str = "[storage]\nsegment-size = \"1 mib\"\nstop-write-at-available-space = \"1 mib\"\n";

fn recorded(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("captures/small").join(name)
}

/// Copies a recorded data directory and unpacks what is packed in it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, name) = entry.map(|e| (e.path(), e.file_name().into_string().unwrap())).unwrap();
        if path.is_dir() {
            copy(&path, &to.join(name));
        } else {
            let name = name.trim_end_matches(".gz");
            fs::write(to.join(name), capture::read(&path.with_file_name(name)).unwrap()).unwrap();
        }
    }
}

#[derive(Deserialize)]
struct Line {
    commit_ts: u64,
    meta: Meta,
    payload: String,
    #[serde(default)]
    fake: bool,
}

#[derive(Deserialize)]
struct Meta {
    start_ts: u64,
    commit_ts: u64,
}

fn stream(path: &Path) -> Vec<Item> {
    use base64::Engine;
    let lines: Vec<Line> = capture::read_lines(path).unwrap();
    let payload = |text: &str| base64::prelude::BASE64_STANDARD.decode(text).unwrap().into();
    lines
        .iter()
        .map(|line| Item {
            commit_ts: line.commit_ts,
            meta: (line.meta.start_ts, line.meta.commit_ts),
            payload: payload(&line.payload),
            fake: line.fake,
        })
        .collect()
}

fn largest(items: &[Item]) -> u64 {
    items.iter().filter(|item| !item.fake).map(|item| item.commit_ts).max().unwrap()
}

/// What our Pump serves from 0 equals what the original's served.
async fn same_stream(node: &Node, shared: &Shared, recorded: &[Item]) {
    let until = largest(recorded);
    let ours = pull_until(&node.address, shared.cluster_id(), 0, i64::try_from(until).unwrap()).await.unwrap();
    let ours: Vec<Item> = ours
        .into_iter()
        .map(|item| {
            let binlog = item.binlog();
            compare_stream::item(Some((binlog.start_ts, item.commit_ts)), item.payload).unwrap()
        })
        .collect();
    let differences = compare_stream::compare(recorded, &ours, until);
    assert!(differences.is_empty(), "{differences:#?}\n{}", node.log_text());
}

/// A transaction of the new life is stored and served.
async fn goes_on(node: &Node, shared: &Shared, value: &[u8]) {
    let mut client = node.client();
    let start = tso(shared);
    write(&mut client, shared.cluster_id(), p(start, value.to_vec())).await.unwrap();
    let commit = tso(shared);
    write(&mut client, shared.cluster_id(), c(start, commit)).await.unwrap();
    let items = pull_until(&node.address, shared.cluster_id(), start, commit).await.unwrap();
    let item = items.iter().find(|item| item.commit_ts == commit).expect("the new transaction");
    assert_eq!(item.binlog().prewrite_value.as_deref(), Some(value));
}

/// Every file below `dir` with its contents.
fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut out = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            out.extend(contents(&path));
        } else {
            out.push((path.clone(), fs::read(&path).unwrap()));
        }
    }
    out.sort();
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_was_closed_cleanly() {
    let work = WorkDir::new("v1-clean").unwrap();
    let standin = cluster(&work).await;
    let mut node = Node::new(work.path(), "pump1", &standin.shared.pd_url, CONFIG);
    copy(&recorded("godir/pump"), &node.data);
    let before = [contents(&node.data.join("value")), contents(&node.data.join("kv"))];
    node.start().await;
    let expected = stream(&recorded("pull.jsonl"));
    same_stream(&node, &standin.shared, &expected).await;
    goes_on(&node, &standin.shared, b"first").await;
    let own = status(&node.address).await.unwrap();
    assert_eq!(
        (own["original"]["files"].as_u64(), own["original"]["skipped_bytes"].as_u64()),
        (Some(1), Some(0)),
        "{own:#}"
    );
    assert!(node.terminate().await.success());

    // The original's index may go, its value logs are needed; ours is made again without it.
    assert_eq!(before, [contents(&node.data.join("value")), contents(&node.data.join("kv"))], "it was only read");
    fs::remove_dir_all(node.data.join("kv")).unwrap();
    for _ in 0..2 {
        node.start().await;
        same_stream(&node, &standin.shared, &expected).await;
        goes_on(&node, &standin.shared, b"again").await;
        node.kill();
        fs::remove_dir_all(node.data.join("index")).unwrap();
    }
    // The original used it again: nothing may be lost in silence.
    node.start().await;
    node.kill();
    let log = node.data.join("value/000000.vlog");
    let mut grown = fs::read(&log).unwrap();
    grown.extend(encode(&p(tso(&standin.shared), b"lost".to_vec())));
    fs::write(&log, grown).unwrap();
    node.spawn();
    node.says("after this directory was taken over").await;
    let mut client = node.client();
    let refused = async || {
        let reply = write(&mut client, standin.shared.cluster_id(), c(5, 6)).await;
        reply.is_err_and(|status| status.message().contains("read-only"))
    };
    node.process.as_mut().unwrap().wait_until("refuses", PATIENCE, refused).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_after_sigkill() {
    let work = WorkDir::new("v1-killed").unwrap();
    let standin = cluster(&work).await;
    let mut node = Node::new(work.path(), "pump1", &standin.shared.pd_url, CONFIG);
    copy(&recorded("godir-killed/pump"), &node.data);
    let expected = stream(&recorded("godir-killed/pull_after_restart.jsonl"));
    // Killed as soon as it has begun, some times.
    for _ in 0..3 {
        node.spawn();
        node.status_becomes("begins", |own| own["original"]["scanned_bytes"].as_u64() > Some(0)).await;
        node.kill();
    }
    node.start().await;
    // Two prewrites were open; here their clients' C come late.
    #[derive(Deserialize)]
    struct Facts {
        open_prewrites: Vec<Open>,
    }
    #[derive(Deserialize)]
    struct Open {
        start_ts: i64,
        tikv_verdict: String,
    }
    let facts: Facts = capture::read_json(&recorded("godir-killed/facts.json")).unwrap();
    assert_eq!(facts.open_prewrites.len(), 2);
    let mut client = node.client();
    for open in &facts.open_prewrites {
        let commit = open.tikv_verdict.strip_prefix("committed at ").unwrap().parse().unwrap();
        write(&mut client, standin.shared.cluster_id(), c(open.start_ts, commit)).await.unwrap();
    }
    for _ in 0..2 {
        same_stream(&node, &standin.shared, &expected).await;
        goes_on(&node, &standin.shared, b"new").await;
        node.kill();
        node.start().await;
    }
    assert_eq!(node.lines("ERROR", ""), Vec::<String>::new());
}

/// Deterministic noise (splitmix64).
fn mix(n: u64) -> u64 {
    let z = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Writes value logs with garbage between their records; the committed (start, commit) in commit order.
fn generate(dir: &Path, base: i64) -> (Vec<(i64, i64)>, u64) {
    fs::create_dir_all(dir).unwrap();
    let (mut now, mut committed, mut garbage) = (base, Vec::new(), 0_u64);
    for file in 0..FILES {
        let mut log = Vec::new();
        let mut max = 0;
        while log.len() < FILE_BYTES {
            let noise = mix(log.len() as u64 + (file << 40));
            let (start, commit) = (now + 1, now + 2);
            now += 4;
            log.extend(encode(&p(start, value(start))));
            if noise.is_multiple_of(11) {
                // A torn write, behind which the original goes on.
                let torn = encode(&p(now, value(now)));
                let cut = 1 + usize::try_from(noise).unwrap_or(0) % (torn.len() - 1);
                log.extend(&torn[..cut]);
                garbage += cut as u64;
            }
            if noise.is_multiple_of(17) {
                log.extend(encode(&r(start)));
                max = start;
            } else {
                log.extend(encode(&c(start, commit)));
                committed.push((start, commit));
                max = commit;
            }
        }
        if file + 1 < FILES {
            log.extend(encode_footer(max));
        }
        fs::write(dir.join(format!("{file:06}.vlog")), log).unwrap();
    }
    (committed, garbage)
}

fn value(start: i64) -> Vec<u8> {
    let noise = mix(start.unsigned_abs());
    noise.to_le_bytes().repeat(usize::try_from(20 + noise % 200).unwrap())
}

const FILES: u64 = 4;
const FILE_BYTES: usize = 6 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn several_files_with_garbage_between_their_records() {
    let work = WorkDir::new("v1-generated").unwrap();
    let standin = cluster(&work).await;
    let shared = &standin.shared;
    let mut node = Node::new(work.path(), "pump1", &shared.pd_url, CONFIG);
    let hour = 3_600_000_i64 << 18;
    let (committed, garbage) = generate(&node.data.join("value"), tso(shared) - hour);
    let bytes: u64 = contents(&node.data.join("value")).iter().map(|(_, file)| file.len() as u64).sum();
    // Killed further and further on in the import.
    for part in 0..4_u64 {
        node.spawn();
        let (address, goal) = (node.address.clone(), bytes * part / 6);
        let probe = async || {
            let own = status(&address).await;
            own.is_some_and(|own| own["original"]["scanned_bytes"].as_u64() >= Some(goal))
        };
        node.process.as_mut().unwrap().wait_until("imports", PATIENCE, probe).await.unwrap();
        node.kill();
    }
    node.start().await;
    assert_eq!(node.lines("WARN", "cannot be read").len().min(1), 1, "there is no kv/: {}", node.log_text());
    let last = committed.last().unwrap().1;
    let check = |items: &[pump_common::Item]| {
        let ours: Vec<(i64, i64)> =
            items.iter().filter(|item| !item.is_fake()).map(|item| (item.binlog().start_ts, item.commit_ts)).collect();
        assert!(ours == committed, "{} instead of {} transactions", ours.len(), committed.len());
        for item in items.iter().filter(|item| !item.is_fake()) {
            let binlog = item.binlog();
            assert_eq!(binlog.prewrite_value.as_deref(), Some(&value(binlog.start_ts)[..]), "{}", item.commit_ts);
        }
    };
    check(&pull_until(&node.address, shared.cluster_id(), 0, last).await.unwrap());
    goes_on(&node, shared, b"new").await;

    // All at once, without kills: all garbage is counted.
    node.kill();
    for own in ["index", "log"] {
        fs::remove_dir_all(node.data.join(own)).unwrap();
    }
    fs::remove_file(node.data.join(".uuid")).unwrap();
    node.start().await;
    let own = status(&node.address).await.unwrap();
    assert_eq!(own["original"]["skipped_bytes"].as_u64(), Some(garbage), "{own:#}");
    check(&pull_until(&node.address, shared.cluster_id(), 0, last).await.unwrap());
    goes_on(&node, shared, b"new").await;

    // GC removes what is older than a second.
    node.kill();
    fs::write(&node.config_file, format!("gc = \"1s\"\n{CONFIG}")).unwrap();
    node.start().await;
    let deadline = Instant::now() + PATIENCE * 2;
    let left = || fs::read_dir(node.data.join("value")).unwrap().count();
    while left() > 0 {
        assert!(Instant::now() < deadline, "{} files are left: {:#}", left(), status(&node.address).await.unwrap());
        http_post(&node.address, "/debug/gc/trigger").await.unwrap();
        goes_on(&node, shared, &[7; 100_000]).await;
        tokio::time::sleep(POLL * 20).await;
    }
    node.kill();
    node.start().await;
    goes_on(&node, shared, b"after").await;
    assert_eq!(node.lines("ERROR", ""), Vec::<String>::new());
}
