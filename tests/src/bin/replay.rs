//! `replay DIR`: a recorded capture through real processes; exit code 0 only when the outcome is equal.

use anyhow::{Context, Result, bail};
use binlog_tests::harness::{exit_code, interrupted};
use binlog_tests::replay::{Options, run};
use std::process::ExitCode;

const HELP: &str = "replay DIR [--stream-only] [--pumps N] [--keep] [--kill]

Feeds a capture of a real cluster to our processes and compares what comes out with what was recorded.

  --stream-only  Pumps only: their streams, once in peace and once with SIGKILL of every Pump in the middle
  --pumps N      another number of Pumps than recorded
  --kill         SIGKILL every Pump during the feed and the Drainer while it applies
  --keep         leave data and logs (they stay after a failure anyway)

Exit code: 0 equal, 1 different, 2 failed.";

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = async {
        let Some(options) = parse(std::env::args().skip(1))? else {
            println!("{HELP}");
            return Ok(true);
        };
        tokio::select! {
            result = run(&options) => result,
            () = interrupted() => bail!("interrupted"),
        }
    };
    exit_code("replay", outcome.await)
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Options>> {
    let mut options = Options { dir: "".into(), stream_only: false, pumps: None, keep: false, kill: false };
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "-h" | "--help" => return Ok(None),
            "--stream-only" => options.stream_only = true,
            "--keep" => options.keep = true,
            "--kill" => options.kill = true,
            "--pumps" => {
                let n = args.next().context("--pumps needs a number")?;
                options.pumps = Some(n.parse().ok().filter(|n| (1..=16).contains(n)).context("--pumps: 1 to 16")?);
            }
            flag if flag.starts_with('-') => bail!("unknown option {flag}\n\n{HELP}"),
            dir if options.dir.as_os_str().is_empty() => options.dir = dir.into(),
            extra => bail!("one directory only, not also {extra}"),
        }
    }
    if options.dir.as_os_str().is_empty() {
        bail!("which capture?\n\n{HELP}");
    }
    Ok(Some(options))
}
