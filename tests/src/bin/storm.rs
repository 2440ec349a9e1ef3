//! `storm pump`: exit code 0 only when everything acknowledged is served exactly once, in order, after all kills.

use anyhow::{Context, Result, bail};
use binlog_tests::harness::{exit_code, interrupted};
use binlog_tests::storm::{Options, run};
use std::process::ExitCode;

const HELP: &str = "storm pump [--rounds N] [--pumps N] [--writers N] [--seed S] [--keep]

Real Pumps on this machine under load, killed with SIGKILL at random moments and started again. The writers are transactions as
TiDB runs them, with a stand-in for PD and TiKV; some never send their commit, some die. GC goes on all the time, and a Pump
that recovers may be killed again. At the end every Pump's stream, as its reader got it over all kills, is compared: what the
Pump acknowledged was delivered exactly once, in commit order, with its rows, and what GC did not take is still there.

  --rounds N   kills, default 50
  --pumps N    1 to 16, default 2
  --writers N  transactions at a time, default 32
  --seed S     what is drawn, default 1; when things happen is the machine's
  --keep       leave data and logs (they stay after a failure anyway)

Exit code: 0 all there, 1 lost, invented or out of order, 2 failed.";

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = async {
        let Some(options) = parse(std::env::args().skip(1))? else {
            println!("{HELP}");
            return Ok(true);
        };
        tokio::select! {
            biased;
            () = interrupted() => bail!("interrupted"),
            result = run(&options) => result,
        }
    };
    exit_code("storm", outcome.await)
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Options>> {
    let mut options = Options::default();
    match args.next().as_deref() {
        Some("pump") => {}
        None | Some("-h" | "--help") => return Ok(None),
        Some(other) => bail!("unknown storm {other}\n\n{HELP}"),
    }
    while let Some(arg) = args.next() {
        let mut number = || -> Result<u64> {
            let text = args.next().with_context(|| format!("{arg} needs a number"))?;
            text.parse().with_context(|| format!("{arg} {text}: not a number"))
        };
        match arg.as_str() {
            "-h" | "--help" => return Ok(None),
            "--keep" => options.keep = true,
            "--rounds" => options.rounds = number()?,
            "--pumps" => options.pumps = usize::try_from(number()?)?,
            "--writers" => options.writers = number()?,
            "--seed" => options.seed = number()?,
            other => bail!("unknown argument {other}\n\n{HELP}"),
        }
    }
    if !(1..=16).contains(&options.pumps) || options.writers == 0 {
        bail!("--pumps: 1 to 16; --writers: at least 1");
    }
    Ok(Some(options))
}
