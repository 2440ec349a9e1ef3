//! `bench-pump`: how fast the Pump takes binlogs, beside the limits of the machine (docs/benchmarks.md).
//!
//! `rounds` decides what is measured in which order, `recycled` and `streams` hold its later parts; `load` generates, `pull` reads,
//! `servers` are the measured processes, `disk` is the plain loop of append and fdatasync, `plain` the one of read and send, `procfs`
//! and `stats` count, `report` prints.

mod disk;
mod load;
mod options;
mod payload;
mod plain;
mod procfs;
mod pull;
mod recycled;
mod report;
mod rounds;
mod servers;
mod stats;
mod streams;

use anyhow::{Context, Result};
use options::{HELP, Options};
use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-pump: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [command, address] = arguments.as_slice()
        && command == servers::SERVE_EMPTY
    {
        return servers::serve_empty(address).await;
    }
    if let [command, address, dir, item] = arguments.as_slice()
        && command == plain::SERVE_PLAIN
    {
        let item = item.parse().context("bytes of an item")?;
        return plain::Plain { dir: dir.into(), item }.serve(address).await;
    }
    let Some(options) = Options::parse(arguments.into_iter())? else {
        println!("{HELP}");
        return Ok(());
    };
    let mut work = tempfile::Builder::new();
    work.prefix("binlog-bench-");
    let work = match &options.dir {
        Some(dir) => work.tempdir_in(dir),
        None => work.tempdir(),
    };
    let mut work = work.context("a temporary directory")?;
    work.disable_cleanup(options.keep);
    if options.keep {
        println!("logs are kept in {}", work.path().display());
    }
    rounds::run(&options, work.path()).await
}
