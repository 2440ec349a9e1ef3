//! `playground`: a newcomer's first look; exit code 0 only when every table is equal after the kills.

use anyhow::{Context, Result, bail};
use binlog_tests::harness::interrupted;
use binlog_tests::playground::{Options, run};
use std::process::ExitCode;

const HELP: &str = "playground [--rate N] [--keep] [--serve]

A whole cluster on this machine: a stand-in for PD and TiKV, two Pumps, a Drainer, private etcd and MariaDB. Feeds binlogs
recorded from a real TiDB, kills a Pump while they are written and the Drainer while it applies (SIGKILL), restarts them,
and compares every table at the end.

  --rate N  binlogs per second (without it the feed takes about 20 s)
  --keep    leave data and logs (they stay after a failure anyway)
  --serve   stay up at the end and print each address and what to try next

Exit code: 0 equal, 1 different, 2 failed.";

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = async {
        let Some(options) = parse(std::env::args().skip(1))? else {
            println!("{HELP}");
            return Ok(true);
        };
        tokio::select! {
            biased; // While it serves, an interrupt is the ordinary end.
            result = run(&options) => result,
            () = interrupted() => bail!("interrupted"),
        }
    };
    match outcome.await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("playground: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Options>> {
    let mut options = Options::default();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "-h" | "--help" => return Ok(None),
            "--keep" => options.keep = true,
            "--serve" => options.serve = true,
            "--rate" => {
                let rate = args.next().context("--rate needs a number")?;
                let rate: f64 = rate.parse().with_context(|| format!("--rate {rate}: not a number"))?;
                if !(rate.is_finite() && rate > 0.0) {
                    bail!("--rate: more than 0");
                }
                options.rate = Some(rate);
            }
            other => bail!("unknown argument {other}\n\n{HELP}"),
        }
    }
    Ok(Some(options))
}
