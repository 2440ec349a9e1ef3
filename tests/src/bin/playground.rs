//! `playground`: a newcomer's first look; exit code 0 only when every table is equal after the kills.

use anyhow::{Context, Result, bail};
use binlog_tests::harness::{exit_code, interrupted};
use binlog_tests::playground::{Options, run};
use binlog_tests::playground_workload::{self, MAX_PUMPS};
use std::process::ExitCode;

const HELP: &str = "playground [--rate N] [--keep] [--serve]
playground --transactions N [--pumps N] [--seed S] [--rate N] [--keep]

A whole cluster on this machine: a stand-in for PD and TiKV, two Pumps, a Drainer, private etcd and MariaDB. Feeds binlogs
recorded from a real TiDB, kills a Pump while they are written and the Drainer while it applies (SIGKILL), restarts them,
and compares every table at the end.

  --rate N  binlogs per second (without it the feed takes about 20 s)
  --keep    leave data and logs (they stay after a failure anyway)
  --serve   stay up at the end and print each address and what to try next

With --transactions, instead of the recordings, the simulator's model of TiDB writes: rows of every column type and DDL, from
several TiDBs at once, while the Drainer applies and each process is killed again and again. Five times on the way
every table in MariaDB is compared with what the model committed.

  --transactions N  how many must commit
  --pumps N         1 to 16, default 2
  --seed S          what is drawn, default 1; when things happen is the machine's
  --rate N          transactions per second at most

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
            result = options.run() => result,
            () = interrupted() => bail!("interrupted"),
        }
    };
    exit_code("playground", outcome.await)
}

enum Mode {
    Captures(Options),
    Workload(playground_workload::Options),
}

impl Mode {
    async fn run(&self) -> Result<bool> {
        match self {
            Self::Captures(options) => run(options).await,
            Self::Workload(options) => playground_workload::run(options).await,
        }
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Mode>> {
    let mut options = Options::default();
    let (mut transactions, mut pumps, mut seed) = (None, None, None);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "-h" | "--help" => return Ok(None),
            "--keep" => options.keep = true,
            "--serve" => options.serve = true,
            "--transactions" => transactions = Some(number::<u64>(&arg, args.next())?),
            "--pumps" => pumps = Some(number::<usize>(&arg, args.next())?),
            "--seed" => seed = Some(number::<u64>(&arg, args.next())?),
            "--rate" => {
                let rate: f64 = number(&arg, args.next())?;
                if !(rate.is_finite() && rate > 0.0) {
                    bail!("--rate: more than 0");
                }
                options.rate = Some(rate);
            }
            other => bail!("unknown argument {other}\n\n{HELP}"),
        }
    }
    let Some(transactions) = transactions else {
        if pumps.is_some() || seed.is_some() {
            bail!("--pumps and --seed need --transactions");
        }
        return Ok(Some(Mode::Captures(options)));
    };
    let pumps = pumps.unwrap_or(2);
    if transactions == 0 || !(1..=MAX_PUMPS).contains(&pumps) {
        bail!("--transactions: at least 1; --pumps: 1 to {MAX_PUMPS}");
    }
    if options.serve {
        bail!("--serve is not possible with --transactions");
    }
    let (rate, keep) = (options.rate, options.keep);
    Ok(Some(Mode::Workload(playground_workload::Options { transactions, pumps, seed: seed.unwrap_or(1), rate, keep })))
}

fn number<T: std::str::FromStr>(name: &str, text: Option<String>) -> Result<T> {
    let text = text.with_context(|| format!("{name} needs a number"))?;
    text.parse().ok().with_context(|| format!("{name} {text}: not such a number"))
}
