//! What a Pump says and does when its input is bad: calls, flags, files, a full disk, peers that are away. Real processes; the texts
//! are those that peers match on (spec pump 1.4) or name what, where and what to do.

mod pump_common;

use binlog_standin::{Options, Standin};
use binlog_tests::harness::{WorkDir, binary, free_port};
use bytes::Bytes;
use etcd_client::Client as Etcd;
use pump_common::{CONFIG, Node, c, cluster, next, p, pull, pull_until, r, tso, write};
use std::fs;
use std::os::unix::fs::FileExt;
use std::process::Command;
use tonic::{Code, Status};

fn unknown(result: Result<(), Status>) -> String {
    let status = result.expect_err("it is refused");
    assert_eq!(status.code(), Code::Unknown, "{status}");
    status.message().to_owned()
}

async fn entry(etcd: &mut Etcd, key: &str) -> String {
    let found = etcd.get(key, None).await.unwrap();
    found.kvs().first().map(|kv| String::from_utf8_lossy(kv.value()).into_owned()).unwrap_or_default()
}

/// One acknowledged transaction; its commit timestamp.
async fn transaction(node: &Node, standin: &Standin, value: Vec<u8>) -> i64 {
    let (mut client, id) = (node.client(), standin.shared.cluster_id());
    let start_ts = tso(&standin.shared);
    write(&mut client, id, p(start_ts, value)).await.unwrap();
    let commit_ts = tso(&standin.shared);
    write(&mut client, id, c(start_ts, commit_ts)).await.unwrap();
    commit_ts
}

#[tokio::test]
async fn calls_are_refused_with_the_texts_that_peers_match_on() {
    let work = WorkDir::new("calls").unwrap();
    let standin = cluster(&work).await;
    let id = standin.shared.cluster_id();
    let mut node = Node::new(work.path(), "pump1", &standin.shared.pd_url, CONFIG);
    node.set("-max-message-size", "1048576");
    node.start().await;
    let mut client = node.client();

    assert_eq!(unknown(write(&mut client, 5, p(1, vec![])).await), format!("cluster ID are mismatch, 5 vs {id}"));
    // A server may refuse a stream at once or with its first item.
    let stream = pull(&mut client, 5, 0).await;
    let refusal = match stream {
        Ok(mut stream) => next(&mut stream).await.map(|_| ()),
        Err(status) => Err(status),
    };
    assert_eq!(unknown(refusal), format!("cluster ID are mismatch, 5 vs {id}"));
    let refusal = pull(&mut client, id, -1).await.map(|_| ());
    assert!(unknown(refusal).contains("a commit ts is not negative"));

    for (payload, text) in [
        (&b"\x08"[..], "binlog payload does not decode at byte 0"),
        (b"\x08\x09", "unknown binlog type"),
        (b"\x08\x00\x10\x05\x2a\x7f", "binlog payload does not decode at byte 4"),
        (b"not a protobuf", "binlog payload does not decode"),
        // Timestamps below zero, and a commit before its start.
        (b"\x08\x00\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "start_ts must be above 0"),
        (b"\x08\x01\x10\x05\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "commit_ts above its start_ts"),
        (b"\x08\x01\x10\x05\x18\x04", "commit_ts above its start_ts"),
    ] {
        let said = unknown(write(&mut client, id, Bytes::from_static(payload)).await);
        assert!(said.contains(text), "{payload:?}: {said}");
    }
    let status = write(&mut client, id, p(1, vec![7; 2 << 20])).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("received message larger than max ("), "{status}");
    assert!(status.message().contains(" vs. 1048576)"), "{status}");
    // The client's probe: an empty payload.
    write(&mut client, id, Bytes::new()).await.unwrap();

    let commit_ts = transaction(&node, &standin, vec![1; 1000]).await;
    let items = pull_until(&node.address, id, 0, commit_ts).await.unwrap();
    assert_eq!(items.iter().filter(|item| !item.is_fake()).count(), 1);
    assert_eq!(node.lines("ERROR", ""), Vec::<String>::new());
}

#[tokio::test]
async fn a_pump_that_is_not_online_refuses_prewrites_only() {
    let work = WorkDir::new("paused").unwrap();
    let standin = cluster(&work).await;
    let id = standin.shared.cluster_id();
    // A Drainer that is registered as online and does not answer.
    let mut etcd = Etcd::connect([standin.shared.pd_url.clone()], None).await.unwrap();
    let drainer = |state: &str| {
        format!(
            r#"{{"nodeId":"d1","host":"127.0.0.1:{}","state":"{state}","isAlive":false,"score":0,"label":null,"maxCommitTS":0,"updateTS":0}}"#,
            1
        )
    };
    etcd.put("/tidb-binlog/v1/drainers/d1", drainer("online"), None).await.unwrap();
    let mut node = Node::new(work.path(), "pump1", &standin.shared.pd_url, CONFIG);
    node.spawn();
    node.status_becomes("is recovered", |own| own["start"] == "recovered").await;
    node.says("fail to notify all living drainer").await;
    let mut client = node.client();
    assert_eq!(unknown(write(&mut client, id, p(5, vec![])).await), "no online: paused");
    assert_eq!(unknown(write(&mut client, id, Bytes::new()).await), "no online: paused");
    write(&mut client, id, r(5)).await.unwrap();
    assert!(entry(&mut etcd, "/tidb-binlog/v1/pumps/pump1").await.contains(r#""state":"paused""#));
    etcd.put("/tidb-binlog/v1/drainers/d1", drainer("offline"), None).await.unwrap();
    node.online().await;
    write(&mut client, id, p(tso(&standin.shared), vec![])).await.unwrap();
    assert_eq!(node.lines("WARN", "every online Drainer").len(), 1, "said once");
}

#[tokio::test]
async fn what_stops_the_start_is_named() {
    let work = WorkDir::new("start").unwrap();
    let nobody = format!("http://127.0.0.1:{}", free_port().unwrap());
    let node = |name: &str, config: &str| Node::new(work.path(), name, &nobody, config);
    async fn fails(mut node: Node, code: i32, texts: &[&str]) {
        node.spawn();
        let (got, said) = node.ends().await;
        assert_eq!(got, Some(code), "{said}");
        for text in texts {
            assert!(said.contains(text), "{text:?} is missing: {said}");
        }
    }

    let out = Command::new(binary("pump").unwrap()).arg("-V").output().unwrap();
    let said = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success() && said.starts_with("Release Version: v"), "{said}");

    let mut bad = node("flag", "");
    bad.set("--no-such-flag", "1");
    fails(bad, 2, &["no-such-flag"]).await;
    let mut bad = node("value", "");
    bad.set("-heartbeat-interval", "two");
    fails(bad, 2, &["invalid value \"two\" for flag -heartbeat-interval"]).await;
    fails(node("unknown", "no-such-key = 1\n"), 1, &["contained unknown configuration options: no-such-key"]).await;
    fails(node("gc", "gc = 0\n"), 1, &["GC is 0", "must bigger than 0"]).await;
    fails(node("gc-days", "gc = \"7d\"\n"), 1, &["gc", "7d", "whole numbers are days"]).await;
    fails(node("size", "[storage]\nsegment-size = \"4 parsec\"\n"), 1, &["segment-size", "unknown unit"]).await;
    fails(node("toml", "[storage\n"), 1, &["toml.toml"]).await;

    // In the place of the original's value logs.
    let bad = node("original", CONFIG);
    fs::create_dir_all(&bad.data).unwrap();
    fs::write(bad.data.join("value"), "").unwrap();
    fails(bad, 1, &["original's value logs", "value"]).await;

    // It waits for PD, holding its directory and its port.
    let mut first = node("first", CONFIG);
    first.spawn();
    first.says("connect to PD failed").await;
    let mut second = node("second", CONFIG);
    second.set("-data-dir", &first.data.display().to_string());
    fails(second, 1, &["file already locked", "another process uses this data directory"]).await;
    let mut second = node("third", CONFIG);
    second.set("-addr", &first.address);
    fails(second, 2, &["cannot listen on", &first.address]).await;
    assert_eq!(first.terminate().await.code(), Some(0), "also while PD is away");

    // The directory keeps its node id and its identity.
    first.set("-node-id", "another");
    first.spawn();
    let (code, said) = first.ends().await;
    assert_eq!(code, Some(1));
    assert!(
        said.contains(r#"belongs to node \"first\" but node-id is \"another\""#)
            || said.contains(r#"belongs to node "first" but node-id is "another""#),
        "{said}"
    );
    first.set("-node-id", "first");
    fs::create_dir_all(first.data.join("log")).unwrap();
    fs::remove_file(first.data.join(".uuid")).unwrap();
    first.spawn();
    let (code, said) = first.ends().await;
    assert_eq!(code, Some(1));
    assert!(said.contains(".uuid") && said.contains("restore it"), "{said}");
}

#[tokio::test]
async fn short_space_refuses_prewrites_and_takes_commits() {
    let work = WorkDir::new("space").unwrap();
    let standin = cluster(&work).await;
    let id = standin.shared.cluster_id();
    let mut node = Node::new(work.path(), "pump1", &standin.shared.pd_url, CONFIG);
    node.start().await;
    let (mut client, start_ts) = (node.client(), tso(&standin.shared));
    write(&mut client, id, p(start_ts, vec![1])).await.unwrap();
    assert_eq!(node.terminate().await.code(), Some(0));

    let limit = 1_u64 << 60;
    // And the reserve for commits: two segments and a quarter.
    let refused_at = limit + (9 << 20);
    fs::write(
        &node.config_file,
        format!("[storage]\nstop-write-at-available-space = \"{limit}\"\nsegment-size = \"4 mib\"\n"),
    )
    .unwrap();
    node.start().await;
    node.says("prewrites are refused, commits are still accepted").await;
    let text = format!("StopWriteAtAvailableSpace: {refused_at}");
    for payload in [p(tso(&standin.shared), vec![]), Bytes::new()] {
        let said = unknown(write(&mut client, id, payload).await);
        let number = said.strip_prefix("no available space, available: ").and_then(|rest| rest.strip_suffix(&text));
        let number = number.and_then(|number| number.strip_suffix(", "));
        assert!(number.is_some_and(|number| number.parse::<u64>().is_ok_and(|n| n > 0)), "{said}");
    }
    let commit_ts = tso(&standin.shared);
    write(&mut client, id, c(start_ts, commit_ts)).await.unwrap();
    // Fakes go on as well.
    let items = pull_until(&node.address, id, 0, commit_ts + 1).await.unwrap();
    assert!(items.iter().any(|item| item.commit_ts == commit_ts));
}

/// Files may not grow beyond 1 MiB: a write is cut short in the middle. What was acknowledged stays, in this life and the next.
#[tokio::test]
async fn a_write_that_fails_makes_it_read_only() {
    let work = WorkDir::new("full").unwrap();
    let standin = cluster(&work).await;
    let id = standin.shared.cluster_id();
    let mut node = Node::new(work.path(), "pump1", &standin.shared.pd_url, CONFIG);
    // In blocks of 512 or 1024 bytes, as the shell likes; the signal would kill, the error is what a full disk gives.
    let script = "trap '' XFSZ; ulimit -f 1024; exec \"$0\" \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(binary("pump").unwrap()).args(&node.flags);
    node.spawn_with(&mut command);
    node.online().await;
    let mut client = node.client();
    let mut acknowledged = Vec::new();
    let (failed, said) = loop {
        let start_ts = tso(&standin.shared);
        if let Err(status) = write(&mut client, id, p(start_ts, vec![5; 50_000])).await {
            break (start_ts, unknown(Err(status)));
        }
        let commit_ts = tso(&standin.shared);
        if let Err(status) = write(&mut client, id, c(start_ts, commit_ts)).await {
            break (start_ts, unknown(Err(status)));
        }
        acknowledged.push(commit_ts);
        assert!(acknowledged.len() < 1000, "the limit is never met");
    };
    assert!(
        said.starts_with("write failed: write to segment ") && said.contains("read-only until restarted"),
        "{said}"
    );
    assert!(unknown(write(&mut client, id, p(tso(&standin.shared), vec![])).await).starts_with("pump is read-only: "));
    assert_eq!(node.lines("ERROR", "read-only until restarted").len(), 1, "said once");
    let newest = *acknowledged.last().unwrap();
    let items = pull_until(&node.address, id, 0, newest).await.unwrap();
    let shown: Vec<i64> = items.iter().filter(|item| !item.is_fake()).map(|item| item.commit_ts).collect();
    assert_eq!(shown, acknowledged);
    assert_eq!(node.terminate().await.code(), Some(0));

    node.start().await;
    // TiDB rolls back what it could not write.
    write(&mut client, id, r(failed)).await.unwrap();
    acknowledged.push(transaction(&node, &standin, vec![6]).await);
    let items = pull_until(&node.address, id, 0, *acknowledged.last().unwrap()).await.unwrap();
    let shown: Vec<i64> = items.iter().filter(|item| !item.is_fake()).map(|item| item.commit_ts).collect();
    assert_eq!(shown, acknowledged);
}

/// Flips a byte of the first slot file that has `needle`.
fn damage(node: &Node, needle: &[u8]) {
    for file in fs::read_dir(node.data.join("log")).unwrap() {
        let path = file.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(needle.len()).position(|window| window == needle) {
            let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(&[bytes[at] ^ 0x20], at as u64).unwrap();
            return;
        }
    }
    panic!("no slot holds the record");
}

#[tokio::test]
async fn damage_is_named_and_never_silent() {
    let work = WorkDir::new("damage").unwrap();
    let standin = cluster(&work).await;
    let id = standin.shared.cluster_id();
    for (name, clean, needle) in [
        // What recovery looks through, what only reads can see, and the end that the index knows of.
        ("middle-after-kill", false, "the second transaction"),
        ("middle-after-stop", true, "the second transaction"),
        ("last-after-stop", true, "the last transaction"),
    ] {
        let config = CONFIG.replace("4 mib", "256 kib");
        let mut node = Node::new(work.path(), name, &standin.shared.pd_url, &config);
        // Nothing else may follow the last one.
        node.set("-fake-binlog-interval", "3600");
        node.start().await;
        let first = transaction(&node, &standin, b"the first transaction".to_vec()).await;
        let second = transaction(&node, &standin, b"the second transaction".to_vec()).await;
        let last = transaction(&node, &standin, vec![3; 100]).await;
        let mut client = node.client();
        if name == "last-after-stop" {
            write(&mut client, id, p(tso(&standin.shared), needle.into())).await.unwrap();
        }
        pull_until(&node.address, id, 0, last).await.unwrap();
        if name == "middle-after-stop" {
            // Recovery looks through the newest segments, from the last flush of the index on: this one shall be older.
            for _ in 0..10 {
                let newest = transaction(&node, &standin, vec![4; 150_000]).await;
                pull_until(&node.address, id, last, newest).await.unwrap();
            }
        }
        if clean {
            assert_eq!(node.terminate().await.code(), Some(0));
        } else {
            node.kill();
        }
        damage(&node, needle.as_bytes());
        node.spawn();
        node.status_becomes("has started", |own| own["start"] == "recovered").await;
        let mut stream = pull(&mut client, id, 0).await.unwrap();
        match name {
            "middle-after-stop" => {
                node.online().await;
                assert_eq!(next(&mut stream).await.unwrap().commit_ts, first);
                let said = unknown(next(&mut stream).await.map(|_| ()));
                assert!(said.starts_with("read failed: value log damaged at segment 1 offset "), "{said}");
                // Whoever comes back is told again; the log is not flooded.
                for _ in 0..3 {
                    let mut stream = pull(&mut client, id, first).await.unwrap();
                    assert_eq!(unknown(next(&mut stream).await.map(|_| ())), said);
                }
                assert_eq!(node.lines("ERROR", "value log damaged at segment 1 offset ").len(), 1);
                // Behind the damage it goes on for whoever skips it.
                assert_eq!(pull_until(&node.address, id, second, last).await.unwrap().last().unwrap().commit_ts, last);
            }
            _ => {
                let text =
                    if clean { "data that was indexed is missing" } else { "value log damaged at segment 1 offset " };
                assert_eq!(node.lines("ERROR", text).len(), 1, "{}", node.log_text());
                let said = unknown(write(&mut client, id, p(tso(&standin.shared), vec![])).await);
                assert!(said.starts_with("pump is read-only: ") && said.contains(text), "{said}");
                if clean {
                    // What the index knows is served.
                    assert_eq!(next(&mut stream).await.unwrap().commit_ts, first);
                }
                assert_eq!(node.lines("WARN", "this pump stays paused").len(), 1);
            }
        }
        drop(stream);
        assert_eq!(node.terminate().await.code(), Some(0));
    }
}

#[tokio::test]
async fn peers_that_are_away_stop_nothing_that_was_started() {
    let work = WorkDir::new("away").unwrap();
    let pd_port = free_port().unwrap();
    let options = || Options { pd_port, work_dir: Some(work.path().join("etcd")), ..Options::default() };
    let mut node = Node::new(work.path(), "pump1", &format!("http://127.0.0.1:{pd_port}"), CONFIG);
    node.spawn();
    node.says("connect to PD failed").await;
    let standin = Standin::start(options()).await.unwrap();
    standin.shared.tso().wall();
    node.online().await;
    let id = standin.shared.cluster_id();
    transaction(&node, &standin, vec![1]).await;

    // PD gives no timestamps: writes go on, fakes stop. (The timestamp of a commit is fetched after P's acknowledgement, as TiDB does.)
    let mut client = node.client();
    let (first, second) = (tso(&standin.shared), tso(&standin.shared));
    write(&mut client, id, p(first, vec![2])).await.unwrap();
    let commit_ts = tso(&standin.shared);
    standin.shared.tso().outage();
    write(&mut client, id, c(first, commit_ts)).await.unwrap();
    node.says("PD gives no timestamp").await;
    write(&mut client, id, p(second, vec![2])).await.unwrap();
    standin.shared.tso().wall();
    let commit_ts = tso(&standin.shared);
    write(&mut client, id, c(second, commit_ts)).await.unwrap();
    let after = tso(&standin.shared);
    pull_until(&node.address, id, 0, after).await.unwrap();
    assert_eq!(node.lines("WARN", "PD gives no timestamp").len(), 1, "once per outage");

    // PD and its etcd are gone altogether.
    let (first, second) = (tso(&standin.shared), tso(&standin.shared));
    write(&mut client, id, p(first, vec![3])).await.unwrap();
    let commit_ts = tso(&standin.shared);
    drop(standin);
    write(&mut client, id, c(first, commit_ts)).await.unwrap();
    node.says("the registry entry could not be written").await;
    write(&mut client, id, p(second, vec![3])).await.unwrap();
    let standin = Standin::start(options()).await.unwrap();
    standin.shared.tso().wall();
    node.says("the registry answers again").await;
    let commit_ts = tso(&standin.shared);
    write(&mut client, id, c(second, commit_ts)).await.unwrap();
    let items = pull_until(&node.address, id, 0, tso(&standin.shared)).await.unwrap();
    assert_eq!(items.iter().filter(|item| !item.is_fake()).count(), 5);
    assert_eq!(node.lines("WARN", "the registry entry could not be written").len(), 1, "once per outage");
    assert_eq!(node.lines("ERROR", ""), Vec::<String>::new());
    assert_eq!(node.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn sigterm_answers_everybody_and_registers_as_paused() {
    let work = WorkDir::new("term").unwrap();
    let standin = cluster(&work).await;
    let id = standin.shared.cluster_id();
    let mut node = Node::new(work.path(), "pump1", &standin.shared.pd_url, CONFIG);
    node.start().await;
    let mut stream = pull(&mut node.client(), id, 0).await.unwrap();
    // Until they are refused; every call gets an answer.
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (mut client, shared) = (node.client(), standin.shared.clone());
        writers.spawn(async move {
            let mut acknowledged = 0;
            loop {
                match write(&mut client, id, p(tso(&shared), vec![1; 500])).await {
                    Ok(()) => acknowledged += 1,
                    Err(status) => return (acknowledged, status),
                }
            }
        });
    }
    node.status_becomes("has stored some", |own| own["acknowledged"].as_u64() > Some(500)).await;
    let asked = std::time::Instant::now();
    assert_eq!(node.terminate().await.code(), Some(0));
    let took = asked.elapsed();
    let mut acknowledged = 0;
    while let Some(ended) = writers.join_next().await {
        let (count, status) = ended.unwrap();
        acknowledged += count;
        let told = status.message() == "no online: pausing" || status.message() == "pump is shutting down";
        assert!(told || status.code() == Code::Unavailable, "{status}");
    }
    assert!(acknowledged > 500);
    // A clean end, not a reset.
    let end = loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            other => break other,
        }
    };
    assert!(end.unwrap().is_none());
    let mut etcd = Etcd::connect([standin.shared.pd_url.clone()], None).await.unwrap();
    let entry = entry(&mut etcd, "/tidb-binlog/v1/pumps/pump1").await;
    assert!(entry.contains(r#""state":"paused""#) && entry.contains(r#""nodeId":"pump1""#), "{entry}");
    assert_eq!(node.lines("WARN", "calls were still under way"), Vec::<String>::new(), "after {took:?}");
    assert_eq!(node.lines("ERROR", ""), Vec::<String>::new());
    for line in node.log_text().lines() {
        assert!(is_in_the_originals_form(line), "{line}");
    }
}

/// `[2019/09/23 09:36:02.466 +00:00] [INFO] [server.rs:532] [text]` and fields.
fn is_in_the_originals_form(line: &str) -> bool {
    let shape: String = line.chars().take(32).map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let time = shape == "[0000/00/00 00:00:00.000 +00:00]" || shape == "[0000/00/00 00:00:00.000 -00:00]";
    let mut parts = line.split("] [").skip(1);
    let level = parts.next().is_some_and(|level| ["INFO", "WARN", "ERROR", "DEBUG"].contains(&level));
    let place = parts.next().and_then(|place| place.split_once(".rs:"));
    time && level && place.is_some_and(|(_, line)| line.parse::<u32>().is_ok()) && line.ends_with(']')
}
