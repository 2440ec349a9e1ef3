//! What a Drainer says and does where its configuration or its surroundings are not what they should be.

mod drainer_support;

use binlog_cluster::generated::binlog::cistern_client::CisternClient;
use binlog_core::proto::binlog::NotifyReq;
use binlog_standin::process::{Process, free_port};
use binlog_tests::harness::{WorkDir, binary, drainer_config, http_get, tail};
use drainer_support::{DEADLINE, POLL, Run, read};
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Instant;

/// One that has to end by itself; `timeout` sees to it that it ends in any case.
fn drainer(arguments: &[&str]) -> Output {
    Command::new("timeout").arg("30").arg(binary("drainer").unwrap()).args(arguments).output().unwrap()
}

/// Exit code, and what was said.
fn said(output: &Output) -> (Option<i32>, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

#[test]
fn bad_configuration_is_named() {
    let work = WorkDir::new("drainer-test").unwrap();
    let file = work.path().join("d.toml");
    let path = file.to_str().unwrap().to_owned();
    for (content, expected) in [
        ("nonsense = 1\n[syncer]\nmore = 2\n", "contained unknown configuration options: "),
        ("[syncer]\ndb-type = \"sqlite\"\n", "unknown DestDBType: sqlite"),
        ("[syncer]\ndb-type = \"kafka\"\n", "\"kafka\" is not supported yet"),
        ("[syncer]\nchannel-id = 7\n", "syncer.channel-id (configuration file) is not supported yet"),
        ("[syncer]\ntxn-batch = \"many\"\n", "syncer.txn-batch"),
        ("pd-urls = \"nowhere\"\n", "pd-urls"),
        ("[syncer\n", "is not valid TOML"),
        ("[syncer]\nignore-schemas = \"~(\"\n", "ignore-schemas"),
    ] {
        std::fs::write(&file, content).unwrap();
        let (code, text) = said(&drainer(&["-config", &path]));
        assert_eq!(code, Some(1), "{content}: {text}");
        assert!(text.contains(expected) && !text.contains("panicked"), "{content}: {text}");
    }
    assert_eq!(drainer(&["-no-such-flag"]).status.code(), Some(2));
    let (code, text) = said(&drainer(&["-V"]));
    assert!(code == Some(0) && text.starts_with("Release Version: v"), "{text}");
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let data = work.path().join("data");
    let (code, text) = said(&drainer(&["-addr", &address, "-data-dir", data.to_str().unwrap()]));
    assert!(code == Some(2) && text.contains(&format!("cannot listen on {address}")), "{text}");
}

/// A Drainer of its own, beside a session that has none.
struct Alone {
    process: Process,
    address: String,
    log: PathBuf,
    out: PathBuf,
}

impl Alone {
    fn start(work: &WorkDir, recorded: &str, pd_url: &str, mysql_port: u16, password: &str) -> Self {
        let address = format!("127.0.0.1:{}", free_port().unwrap());
        let file = |name: &str| work.path().join(name);
        let config = drainer_config(recorded, &address, pd_url, &file("alone.data"), mysql_port).unwrap();
        let mut config: toml::Table = toml::from_str(&config).unwrap();
        config["syncer"]["to"].as_table_mut().unwrap().insert("password".into(), password.into());
        std::fs::write(file("alone.toml"), toml::to_string(&config).unwrap()).unwrap();
        let (log, out) = (file("alone.log"), file("alone.out"));
        let mut command = Command::new(binary("drainer").unwrap());
        command
            .arg("-config")
            .arg(file("alone.toml"))
            .arg("-log-file")
            .arg(&log)
            .args(["-node-id", "alone", "-L", "debug"]);
        let process = Process::start("drainer", &mut command, &out).unwrap();
        Self { process, address, log, out }
    }

    async fn until(&mut self, what: &str, accepts: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + DEADLINE;
        loop {
            self.process.check().unwrap();
            let status = http_get(&self.address, "/status").await.unwrap_or_default();
            let status: Value = serde_json::from_str(&status).unwrap_or_default();
            if accepts(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "never {what}: {status}\n{}", tail(&self.log));
            tokio::time::sleep(POLL).await;
        }
    }

    fn logged(&self) -> String {
        read(&self.log) + &read(&self.out)
    }
}

#[tokio::test]
async fn surroundings_that_are_away_or_refuse() {
    let mut run = Run::start("small", |_| {}).await;
    run.until_equal().await;
    assert!(run.drainer().terminate().await.unwrap().success());
    let recorded = run.session.capture.facts.drainer_config_mysql.clone();
    let pd_url = run.session.standin.shared.pd_url.clone();
    let port = run.session.mariadb.as_ref().unwrap().port;

    // No rights: a fault that tells where and who, and no password anywhere.
    let mut alone = Alone::start(&run.work, &recorded, &pd_url, port, "wrong-pass-9");
    let status = alone.until("faulted", |s| s["state"] == "faulted").await;
    let fault = status["faults"][0].as_str().unwrap().to_owned();
    assert!(fault.contains("Access denied") && fault.contains(&format!("127.0.0.1:{port}")), "{fault}");
    assert!(alone.process.terminate(DEADLINE).await.unwrap().success());
    let logged = alone.logged();
    assert!(logged.contains("Access denied") && !logged.contains("wrong-pass-9"), "{logged}");
    assert_eq!(logged.matches("[ERROR]").count(), 1, "{logged}");

    // The downstream is away at the start, and comes.
    let work = run.work.path().to_owned();
    run.session.mariadb.as_mut().unwrap().kill();
    let before = alone.logged().len();
    let mut alone = Alone::start(&run.work, &recorded, &pd_url, port, "replay");
    alone.until("waiting", |s| s["waiting"]["why"].as_str().is_some_and(|w| w.contains("connect to 127.0.0.1"))).await;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await; // several attempts, of which one is said
    run.session.mariadb.as_mut().unwrap().restart(&work).await.unwrap();
    alone.until("running", |s| s["state"] == "running").await;
    let logged = alone.logged().split_off(before);
    assert_eq!(logged.matches("trying again until it succeeds").count(), 1, "{logged}");
    assert!(logged.contains("works again after"), "{logged}");
    assert!(alone.process.terminate(DEADLINE).await.unwrap().success());

    // PD is away at the start: said once; a stop is heard all the same.
    let nowhere = format!("http://127.0.0.1:{}", free_port().unwrap());
    let before = alone.logged().len();
    let mut alone = Alone::start(&run.work, &recorded, &nowhere, port, "replay");
    let deadline = Instant::now() + DEADLINE;
    while !alone.logged().get(before..).unwrap_or_default().contains("connect to PD failed") {
        alone.process.check().unwrap();
        assert!(Instant::now() < deadline, "{}", tail(&alone.log));
        tokio::time::sleep(POLL).await;
    }
    assert!(alone.process.terminate(DEADLINE).await.unwrap().success());
}

/// `small` into a downstream where somebody made things that are in the way.
#[tokio::test]
async fn what_the_downstream_refuses_waits_for_an_operator() {
    let mut run =
        Run::start_with("small", |_| {}, &["CREATE DATABASE app", "CREATE TABLE app.users (other int)"]).await;
    let paused = until_paused(&mut run).await;
    let ts = paused["commit_ts"].as_u64().unwrap();
    assert_eq!(paused["ddl"], true);
    assert!(paused["statement"].as_str().unwrap().to_lowercase().contains("create table"), "{paused}");
    assert!(paused["error"].as_str().unwrap().contains("1050"), "{paused}");
    assert_eq!(paused["resolve"][1], format!("PUT /resolve/{ts}/retry"));
    assert_eq!(run.status().await["state"], "paused");

    for (path, message, code) in [
        (format!("/resolve/{}/skip", ts + 1), format!("what is paused is commit_ts {ts}"), 3),
        (format!("/resolve/{ts}/explode"), "use skip, retry or mark-applied".to_owned(), 1),
        ("/resolve/soon/skip".to_owned(), "is no commit ts".to_owned(), 1),
        (format!("/resolve/{ts}/retry"), "is sent again".to_owned(), 200),
    ] {
        let (text, got) = run.put(&path).await;
        assert!(text.contains(&message) && got == code, "{path}: {got} {text}");
    }
    // Nothing has changed, so it is refused again; then the obstacle goes.
    until_paused(&mut run).await;
    run.sql(&["DROP TABLE app.users"]).await;
    assert_eq!(run.put(&format!("/resolve/{ts}/retry")).await.1, 200);

    // The Pump that starts is answered once it is listed.
    let address = format!("http://{}", run.drainer().address);
    CisternClient::connect(address).await.unwrap().notify(NotifyReq::default()).await.unwrap();
    run.until_equal().await;

    assert!(run.drainer().terminate().await.unwrap().success());
    assert_eq!(run.checkpoint().await["consistent"], true);
    let mut registry = etcd_client::Client::connect([run.session.standin.shared.pd_url.clone()], None).await.unwrap();
    let entry = registry.get("/tidb-binlog/v1/drainers/drainer-mysql", None).await.unwrap();
    let entry: Value = serde_json::from_slice(entry.kvs()[0].value()).unwrap();
    assert_eq!(entry["state"], "paused", "{entry}");
    assert_eq!(entry["maxCommitTS"], run.checkpoint().await["commitTS"]);
}

/// Skipping a row costs that row, marking as applied what was done by hand costs nothing; and both are said.
#[tokio::test]
async fn skip_and_mark_applied() {
    let obstacle =
        ["CREATE DATABASE app", "CREATE TABLE app.kv (k varchar(32) primary key, v varbinary(64), n int unsigned)"];
    let mut run =
        Run::start_with("small", |_| {}, &[obstacle[0], obstacle[1], "INSERT INTO app.kv VALUES ('', 'x', 9)"]).await;
    // The insert of three rows finds one of them there.
    let paused = until_paused(&mut run).await;
    let ts = paused["commit_ts"].as_u64().unwrap();
    assert!(paused["ddl"] == false && paused["error"].as_str().unwrap().contains("1062"), "{paused}");
    assert!(!run.log().contains("Duplicate entry ''"), "row values stay out of the log");
    run.sql(&["REPLACE INTO app.kv VALUES ('a', x'00ff10', 4294967295), ('', x'', 0), ('long key ñ', 'text', 7)"])
        .await;
    assert_eq!(run.put(&format!("/resolve/{ts}/mark-applied")).await.1, 200);
    run.until_equal().await;
    assert_eq!(run.put(&format!("/resolve/{ts}/skip")).await.1, 3, "nothing is paused any more");
    drop(run);

    let mut run = Run::start_with("small", |_| {}, &["CREATE DATABASE app", "CREATE TABLE app.parts (z int)"]).await;
    let ts = until_paused(&mut run).await["commit_ts"].as_u64().unwrap();
    let (text, code) = run.put(&format!("/resolve/{ts}/skip")).await;
    assert!(code == 200 && text.contains("all their later rows and DDL are dropped"), "{text}");
    let deadline = Instant::now() + DEADLINE;
    while run.checkpoint().await["commitTS"].as_u64() < Some(ts) {
        assert!(Instant::now() < deadline, "{}", tail(&run.drainer().log));
        tokio::time::sleep(POLL).await;
    }
    run.drainer().kill_and_restart().await.unwrap();
    let all = run.transactions();
    run.until_applied(all).await;
    let status = run.status().await;
    assert!(status["applied_totals"]["dropped"].as_u64() > Some(0) && status["paused"].is_null(), "{status}");
}

async fn until_paused(run: &mut Run) -> Value {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let status = run.status().await;
        if !status["paused"].is_null() {
            return status["paused"].clone();
        }
        assert!(Instant::now() < deadline, "never paused: {status}\n{}", tail(&run.drainer().log));
        tokio::time::sleep(POLL).await;
    }
}
