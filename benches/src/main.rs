//! `bench-pump`: how fast the Pump takes binlogs, beside the limits of the machine (docs/benchmarks.md).
//!
//! `rounds` decides what is measured in which order; `load` generates, `servers` are the measured processes, `disk` is the plain
//! loop of append and fdatasync, `procfs` and `stats` count, `report` prints.

mod disk;
mod load;
mod options;
mod payload;
mod procfs;
mod report;
mod rounds;
mod servers;
mod stats;

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
