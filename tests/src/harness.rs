//! Real processes on free ports of this machine: Pump, Drainer, MariaDB. Each has its log in the work directory, is killed when
//! dropped, and is waited for by polling.

pub use binlog_standin::process::{Process, free_port, http_get, http_post, http_put, require, tail};

use anyhow::{Context, Result, bail};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpStream;

const READY: Duration = Duration::from_secs(60);

/// Until SIGINT or SIGTERM: what a program waits for that must end its children.
pub async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        }
        Err(_) => drop(tokio::signal::ctrl_c().await),
    }
}

/// What a tool says of its outcome: 0 well, 1 not what was expected, 2 failed, with the reason on standard error.
#[must_use]
pub fn exit_code(tool: &str, outcome: Result<bool>) -> ExitCode {
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("{tool}: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// One of our binaries, from the folder of this one (or the one above, for a test).
pub fn binary(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("where is this program?")?;
    let found = own.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.is_file());
    found.with_context(|| format!("no `{name}` beside {}: cargo build -p {name} (or ./x build)", own.display()))
}

/// A directory for data and logs: removed at the end unless kept.
pub struct WorkDir {
    temp: Option<TempDir>,
    path: PathBuf,
}

impl WorkDir {
    pub fn new(name: &str) -> Result<Self> {
        let temp =
            tempfile::Builder::new().prefix(&format!("binlog-{name}-")).tempdir().context("a temporary directory")?;
        Ok(Self { path: temp.path().into(), temp: Some(temp) })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves it on the disk and tells where.
    pub fn keep(&mut self) {
        if let Some(temp) = self.temp.take() {
            println!("data and logs are kept in {}", temp.keep().display());
        }
    }
}

/// A Pump: the same address, data and node id in each of its lives.
pub struct Pump {
    pub node_id: String,
    pub address: String,
    pub log: PathBuf,
    command: Vec<String>,
    output: PathBuf,
    process: Process,
    pub restarts: u32,
}

/// A Pump's configuration for a laptop: small segments, and content with little free space.
pub const SMALL_DISK: &str = "[storage]\nsegment-size = \"4 mib\"\nstop-write-at-available-space = \"100 mib\"\n";

impl Pump {
    /// Starts it and waits until it listens. Its configuration file holds `config`.
    pub async fn start(work: &Path, node_id: &str, pd_url: &str, config: &str) -> Result<Self> {
        let address = format!("127.0.0.1:{}", free_port()?);
        let file = |suffix: &str| work.join(format!("{node_id}.{suffix}"));
        let (config_file, log) = (file("toml"), file("log"));
        fs::write(&config_file, config).context("write the Pump's configuration")?;
        let text = |path: PathBuf| path.display().to_string();
        let command = [
            "-addr",
            &address,
            "-pd-urls",
            pd_url,
            "-data-dir",
            &text(file("data")),
            "-log-file",
            &text(log.clone()),
            "-node-id",
            node_id,
            "-fake-binlog-interval",
            "1",
            "-config",
            &text(config_file),
        ]
        .map(ToOwned::to_owned)
        .to_vec();
        let output = file("out");
        let process = spawn(node_id, "pump", &command, &output, &log)?;
        let mut pump = Self { node_id: node_id.into(), address, log, command, output, process, restarts: 0 };
        pump.listening().await?;
        Ok(pump)
    }

    async fn listening(&mut self) -> Result<()> {
        let address = self.address.clone();
        self.process.wait_until("listens", READY, async || TcpStream::connect(&address).await.is_ok()).await
    }

    /// SIGKILL, then a new life on the same data.
    pub async fn kill_and_restart(&mut self) -> Result<()> {
        self.process.kill();
        self.restarts += 1;
        self.process = spawn(&self.node_id, "pump", &self.command, &self.output, &self.log)?;
        self.listening().await
    }

    pub fn check(&mut self) -> Result<()> {
        self.process.check()
    }
}

/// A Drainer with the configuration of the recorded one.
pub struct Drainer {
    pub address: String,
    pub log: PathBuf,
    command: Vec<String>,
    output: PathBuf,
    process: Process,
    pub restarts: u32,
}

impl Drainer {
    /// `recorded` is the original's configuration file; addresses, directories and the downstream's account are replaced.
    pub async fn start(work: &Path, pd_url: &str, recorded: &str, mariadb: &MariaDb) -> Result<Self> {
        let address = format!("127.0.0.1:{}", free_port()?);
        let (config_file, log) = (work.join("drainer.toml"), work.join("drainer.log"));
        let config = drainer_config(recorded, &address, pd_url, &work.join("drainer.data"), mariadb.port)?;
        fs::write(&config_file, config).context("write the Drainer's configuration")?;
        let text = |path: &Path| path.display().to_string();
        let command = [
            "-addr",
            &address,
            "-pd-urls",
            pd_url,
            "-node-id",
            "drainer-mysql",
            "-config",
            &text(&config_file),
            "-log-file",
            &text(&log),
            "-initial-commit-ts",
            "0",
        ]
        .map(ToOwned::to_owned)
        .to_vec();
        let output = work.join("drainer.out");
        let process = spawn("drainer", "drainer", &command, &output, &log)?;
        let mut drainer = Self { address, log, command, output, process, restarts: 0 };
        drainer.serving().await?;
        Ok(drainer)
    }

    async fn serving(&mut self) -> Result<()> {
        let address = self.address.clone();
        self.process
            .wait_until("answers GET /status", READY, async || http_get(&address, "/status").await.is_ok())
            .await
    }

    /// SIGKILL, then a new life.
    pub async fn kill_and_restart(&mut self) -> Result<()> {
        self.process.kill();
        self.restarts += 1;
        self.process = spawn("drainer", "drainer", &self.command, &self.output, &self.log)?;
        self.serving().await
    }

    pub fn check(&mut self) -> Result<()> {
        self.process.check()
    }
}

fn spawn(name: &str, program: &str, arguments: &[String], output: &Path, log: &Path) -> Result<Process> {
    let mut command = Command::new(binary(program)?);
    Ok(Process::start(name, command.args(arguments), output)?.with_log(if log.is_file() { log } else { output }))
}

/// The recorded configuration with this machine's addresses.
pub fn drainer_config(recorded: &str, address: &str, pd_url: &str, data_dir: &Path, port: u16) -> Result<String> {
    let mut config: toml::Table = toml::from_str(recorded).context("drainer_config_mysql of facts.json")?;
    let mut set = |key: &str, value: String| config.insert(key.into(), value.into());
    set("addr", address.into());
    set("pd-urls", pd_url.into());
    set("data-dir", data_dir.display().to_string());
    let to = config
        .get_mut("syncer")
        .and_then(|syncer| syncer.get_mut("to"))
        .and_then(toml::Value::as_table_mut)
        .context("drainer_config_mysql of facts.json has no [syncer.to]")?;
    to.insert("host".into(), "127.0.0.1".into());
    to.insert("port".into(), i64::from(port).into());
    to.insert("user".into(), USER.into());
    to.insert("password".into(), PASSWORD.into());
    Ok(toml::to_string(&config)?)
}

const USER: &str = "replay";
const PASSWORD: &str = "replay";

/// A private MariaDB; collation and packet size as TiDB's.
pub struct MariaDb {
    pub port: u16,
    flags: Vec<String>,
    process: Process,
}

impl MariaDb {
    /// Creates a data directory below `work` and starts a server on it.
    pub async fn start(work: &Path) -> Result<Self> {
        Self::start_with(work, &[]).await
    }

    /// With further flags.
    pub async fn start_with(work: &Path, flags: &[String]) -> Result<Self> {
        for program in ["mariadbd", "mariadb-install-db"] {
            require(program, "mariadb-server")?;
        }
        let dir = work.join("mariadb");
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        let user = Command::new("id").arg("-un").output().context("run id")?;
        let user = String::from_utf8_lossy(&user.stdout).trim().to_owned();
        let data = dir.join("data");
        let install = Command::new("mariadb-install-db")
            .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
            .arg(format!("--user={user}"))
            .arg(format!("--datadir={}", data.display()))
            // Several servers at a time would step on each other's temporary tables.
            .env("TMPDIR", &dir)
            .output()
            .context("run mariadb-install-db")?;
        if !install.status.success() {
            bail!("mariadb-install-db failed ({}): {}", install.status, String::from_utf8_lossy(&install.stderr));
        }
        let (port, socket, log) = (free_port()?, dir.join("s.sock"), dir.join("error.log"));
        let program = if Path::new("/usr/sbin/mariadbd").is_file() { "/usr/sbin/mariadbd" } else { "mariadbd" };
        let mut command = Command::new(program);
        command
            .arg("--no-defaults")
            .arg(format!("--user={user}"))
            .arg(format!("--datadir={}", data.display()))
            .arg(format!("--socket={}", socket.display()))
            .arg(format!("--pid-file={}", dir.join("pid").display()))
            .arg(format!("--port={port}"))
            .args(["--bind-address=127.0.0.1", "--skip-name-resolve", "--performance-schema=OFF"])
            .args(["--innodb-buffer-pool-size=64M", "--innodb-log-file-size=16M", "--innodb-flush-log-at-trx-commit=2"])
            .args(["--character-set-server=utf8mb4", "--collation-server=utf8mb4_bin", "--max-allowed-packet=256M"])
            .args(flags);
        let process = Process::start("mariadb", &mut command, &log)?;
        let mut mariadb = Self { port, flags: flags.to_vec(), process };
        let root =
            OptsBuilder::default().socket(Some(socket.display().to_string())).user(Some("root")).prefer_socket(false);
        let mut last = String::new();
        let ready =
            mariadb.process.wait_until("takes connections", READY, async || match Conn::new(root.clone()).await {
                Ok(_) => true,
                Err(error) => {
                    last = error.to_string();
                    false
                }
            });
        let outcome = ready.await;
        outcome.with_context(|| format!("last error of the client: {last}"))?;
        let mut conn = Conn::new(root).await?;
        for statement in [
            format!("CREATE USER '{USER}'@'127.0.0.1' IDENTIFIED BY '{PASSWORD}'"),
            format!("GRANT ALL ON *.* TO '{USER}'@'127.0.0.1' WITH GRANT OPTION"),
        ] {
            conn.query_drop(statement).await.context("create the account")?;
        }
        conn.disconnect().await?;
        Ok(mariadb)
    }

    /// A session over TCP as the account that the Drainer uses.
    pub async fn connect(&self) -> Result<Conn> {
        let options = OptsBuilder::default()
            .ip_or_hostname("127.0.0.1")
            .tcp_port(self.port)
            .user(Some(USER))
            .pass(Some(PASSWORD))
            .prefer_socket(false)
            .max_allowed_packet(Some(256 << 20));
        Conn::new(options).await.context("connect to the private MariaDB")
    }

    pub fn check(&mut self) -> Result<()> {
        self.process.check()
    }

    /// How an operator connects.
    #[must_use]
    pub fn client_command(&self) -> String {
        format!("mysql -h127.0.0.1 -P{} -u{USER} -p{PASSWORD}", self.port)
    }
}

/// Lives and deaths that single tests need.
impl Drainer {
    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// SIGTERM; how it ended.
    pub async fn terminate(&mut self) -> Result<std::process::ExitStatus> {
        self.process.terminate(READY).await
    }

    /// A new life after `kill` or `terminate`.
    pub async fn restart(&mut self) -> Result<()> {
        self.restarts += 1;
        self.process = spawn("drainer", "drainer", &self.command, &self.output, &self.log)?;
        self.serving().await
    }
}

impl MariaDb {
    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// A new life after `kill`, on the same data and port. `work` as given to `start`.
    pub async fn restart(&mut self, work: &Path) -> Result<()> {
        let dir = work.join("mariadb");
        let user = Command::new("id").arg("-un").output().context("run id")?;
        let program = if Path::new("/usr/sbin/mariadbd").is_file() { "/usr/sbin/mariadbd" } else { "mariadbd" };
        let mut command = Command::new(program);
        command
            .arg("--no-defaults")
            .arg(format!("--user={}", String::from_utf8_lossy(&user.stdout).trim()))
            .arg(format!("--datadir={}", dir.join("data").display()))
            .arg(format!("--socket={}", dir.join("s.sock").display()))
            .arg(format!("--pid-file={}", dir.join("pid").display()))
            .arg(format!("--port={}", self.port))
            .args(["--bind-address=127.0.0.1", "--skip-name-resolve", "--performance-schema=OFF"])
            .args(["--innodb-buffer-pool-size=64M", "--innodb-log-file-size=16M", "--innodb-flush-log-at-trx-commit=2"])
            .args(["--character-set-server=utf8mb4", "--collation-server=utf8mb4_bin", "--max-allowed-packet=256M"])
            .args(&self.flags);
        self.process = Process::start("mariadb", &mut command, &dir.join("error.log"))?;
        let options = || {
            let options = OptsBuilder::default().ip_or_hostname("127.0.0.1").tcp_port(self.port).user(Some(USER));
            options.pass(Some(PASSWORD)).prefer_socket(false)
        };
        let options = options();
        self.process.wait_until("takes connections", READY, async || Conn::new(options.clone()).await.is_ok()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::{Capture, Column, Dump, Table};
    use crate::expected::captures;

    #[test]
    fn the_recorded_configuration_gets_our_addresses() {
        let capture = Capture::open(&captures().join("bank")).unwrap();
        let recorded = capture.facts.drainer_config_mysql;
        let config = drainer_config(&recorded, "h:1", "http://pd", Path::new("/d"), 77).unwrap();
        let config: toml::Table = toml::from_str(&config).unwrap();
        let syncer = config["syncer"].as_table().unwrap();
        assert_eq!(config["addr"].as_str(), Some("h:1"));
        assert_eq!(syncer["to"]["port"].as_integer(), Some(77));
        assert_eq!(syncer["txn-batch"].as_integer(), Some(20), "the rest stays");
        assert_eq!(syncer["db-type"].as_str(), Some("mysql"));
    }

    #[tokio::test]
    async fn a_private_mariadb_is_read_in_the_dumps_format() {
        let work = WorkDir::new("test").unwrap();
        let mariadb = MariaDb::start(work.path()).await.unwrap();
        let mut conn = mariadb.connect().await.unwrap();
        for statement in [
            "create database d",
            "create table d.t (id int primary key, v varchar(20), b varbinary(9), bits bit(12), f float, g double, \
             ts timestamp null, z int(6) zerofill, j json)",
            "set time_zone = '+05:00'",
            "insert into d.t values (2, 'a\\tb\\\\\\n', x'00ff', b'101', 0.1, 0.1, '2020-01-01 05:00:00', 42, '{\"a\": 1}')",
            "insert into d.t (id) values (1)",
        ] {
            conn.query_drop(statement).await.unwrap();
        }
        conn.query_drop("set time_zone = '+00:00'").await.unwrap();
        let column = |name: &str, sql_type: &str, dump| Column { name: name.into(), sql_type: sql_type.into(), dump };
        let table = Table {
            db: "d".into(),
            name: "t".into(),
            kind: "BASE TABLE".into(),
            create: String::new(),
            columns: vec![
                column("id", "int", Dump::Text),
                column("v", "varchar(20)", Dump::Text),
                column("b", "varbinary(9)", Dump::Hex),
                column("bits", "bit(12)", Dump::Hex),
                column("f", "float", Dump::Float),
                column("g", "double", Dump::Double),
                column("ts", "timestamp", Dump::Text),
                column("z", "int(6) unsigned zerofill", Dump::Text),
                column("j", "json", Dump::Text),
            ],
            file: None,
        };
        let rows = crate::compare_tables::read_table(&mut conn, &table).await.unwrap().unwrap();
        let texts: Vec<String> = rows.iter().map(|r| String::from_utf8(r.join(&b'|')).unwrap()).collect();
        assert_eq!(
            texts,
            [
                r"1|\N|\N|\N|\N|\N|\N|\N|\N",
                "2|a\\tb\\\\\\n|00FF|0005|0.100000001|0.10000000000000001|2020-01-01 00:00:00|42|{\"a\": 1}",
            ]
        );
        let missing = Table { name: "nowhere".into(), ..table };
        assert!(crate::compare_tables::read_table(&mut conn, &missing).await.unwrap().is_none());
    }
}
