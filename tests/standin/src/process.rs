//! Child processes of tests: output to a log file, killed when dropped (also when a test panics), and a clear error with the
//! tail of the log when one dies by itself.

use anyhow::{Context, Result, bail};
use std::fs::{self, OpenOptions};
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const POLL: Duration = Duration::from_millis(20);
/// Lines of a dead process's log that an error shows.
const TAIL: usize = 25;
/// Longest answer that `http` reads: status pages are a few kilobytes.
const MAX_ANSWER: u64 = 16 << 20;
const HTTP_TIMEOUT: Duration = Duration::from_secs(10);

/// A running child.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; its stdout and stderr are appended to `log`.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("open {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("start {name} ({})", command.get_program().display()))?;
        Ok(Self { name: name.into(), child, log: log.into() })
    }

    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Points errors at the log that the process writes itself.
    #[must_use]
    pub fn with_log(mut self, log: &Path) -> Self {
        self.log = log.into();
        self
    }

    /// `Some` when it has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// An error with the tail of the log when it has ended.
    pub fn check(&mut self) -> Result<()> {
        let Some(status) = self.ended()? else { return Ok(()) };
        bail!("{} ended unexpectedly ({})\n{}", self.name, describe(status), tail(&self.log))
    }

    /// Polls `probe` until it says yes; fails when the process dies or the time is over.
    pub async fn wait_until(
        &mut self,
        what: &str,
        limit: Duration,
        mut probe: impl AsyncFnMut() -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            self.check()?;
            if probe().await {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{}: waited {limit:?} until it {what}\n{}", self.name, tail(&self.log));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM; the exit status when it ends within `limit`.
    pub async fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        if self.ended()?.is_none() {
            Command::new("kill").arg(self.child.id().to_string()).status().context("run kill")?;
        }
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("{} did not end within {limit:?} of SIGTERM\n{}", self.name, tail(&self.log));
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no status".into(),
    }
}

/// The last lines of a log, with its name.
#[must_use]
pub fn tail(log: &Path) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let shown = lines.get(lines.len().saturating_sub(TAIL)..).unwrap_or_default().join("\n  ");
    format!("last lines of {}:\n  {shown}", log.display())
}

/// Fails with the way to install it when `program` is not on the PATH (or in /usr/sbin).
pub fn require(program: &str, package: &str) -> Result<()> {
    let path = std::env::var("PATH").unwrap_or_default();
    if path.split(':').chain(["/usr/sbin"]).any(|dir| Path::new(dir).join(program).is_file()) {
        return Ok(());
    }
    bail!("`{program}` is not installed: apt-get install -y --no-install-recommends {package}")
}

/// A port that was free a moment ago.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// GET over HTTP/1.1; the body, or an error with the status and the body.
pub async fn http_get(address: &str, path: &str) -> Result<String> {
    http(address, "GET", path, "").await
}

/// PUT over HTTP/1.1.
pub async fn http_put(address: &str, path: &str, body: &str) -> Result<String> {
    http(address, "PUT", path, body).await
}

/// POST over HTTP/1.1, without a body.
pub async fn http_post(address: &str, path: &str) -> Result<String> {
    http(address, "POST", path, "").await
}

async fn http(address: &str, method: &str, path: &str, body: &str) -> Result<String> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = tokio::time::timeout(HTTP_TIMEOUT, exchange)
        .await
        .with_context(|| format!("{method} http://{address}{path}: no answer within {HTTP_TIMEOUT:?}"))?
        .with_context(|| format!("{method} http://{address}{path}"))?;
    let (status, body) = parse_answer(&answer).with_context(|| format!("{method} http://{address}{path}"))?;
    if !(200..300).contains(&status) {
        bail!("{method} http://{address}{path}: status {status}: {}", body.trim());
    }
    Ok(body)
}

fn parse_answer(answer: &[u8]) -> Result<(u16, String)> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n").context("the answer is not HTTP")?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).context("no status in the answer")?;
    if !head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return Ok((status, body.into()));
    }
    let (mut rest, mut whole) = (body, String::new());
    while let Some((size, tail)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).context("size of a chunk")?;
        if size == 0 {
            break;
        }
        whole.push_str(tail.get(..size).context("a chunk is cut off")?);
        rest = tail.get(size + 2..).unwrap_or_default();
    }
    Ok((status, whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_parsed() {
        let plain = parse_answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").unwrap();
        assert_eq!(plain, (200, "hi".into()));
        let chunked =
            parse_answer(b"HTTP/1.1 404 X\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")
                .unwrap();
        assert_eq!(chunked, (404, "abc".into()));
        assert!(parse_answer(b"garbage").is_err());
    }

    #[tokio::test]
    async fn a_process_that_dies_is_told_with_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo the reason; exit 3"]);
        let mut process = Process::start("child", &mut command, &dir.path().join("log")).unwrap();
        let error =
            process.wait_until("is ready", Duration::from_secs(30), async || false).await.unwrap_err().to_string();
        assert!(error.contains("exit code 3") && error.contains("the reason"), "{error}");
    }

    #[test]
    fn a_missing_program_is_told_with_its_package() {
        let error = require("no-such-program", "some-package").unwrap_err().to_string();
        assert!(error.contains("apt-get install") && error.contains("some-package"), "{error}");
    }
}
