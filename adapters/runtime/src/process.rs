//! How every process begins and ends: command line, log, exit codes (spec pump 4.5, drainer 7.5).

use crate::args::{self, Invocation, Program, StartError};
use crate::{logs, version};
use binlog_core::config::settings::Settings;
use std::process::ExitCode;

/// A flag that does not exist, or whose value is none of its kind.
const BAD_FLAG: u8 = 2;
/// Another bad value, or what a server is made of cannot be had.
const BAD_START: u8 = 1;
/// All is there, but the server cannot serve.
const NOT_STARTED: u8 = 2;

/// An error of the start itself: a port that is taken. The original tells it apart by its exit code.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotStarted(pub String);

/// Runs a process: `start` is called with everything that was configured, on a runtime, and returns the exit code.
pub fn run<F: Future<Output = anyhow::Result<u8>>>(program: Program, start: impl FnOnce(Settings) -> F) -> ExitCode {
    let name = program.name;
    let settings = match args::parse(program, std::env::args_os(), |name| std::env::var(name).ok()) {
        Ok(Invocation::Run(settings)) => settings,
        Ok(Invocation::Print(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(StartError::Usage(text)) => {
            eprint!("{text}");
            return ExitCode::from(BAD_FLAG);
        }
        Err(StartError::Config(error)) => {
            eprintln!("verifying flags failed, See '{name} --help'. {error}");
            return ExitCode::from(BAD_START);
        }
    };
    let level = settings.non_empty("log-level").unwrap_or("info");
    if let Err(error) = logs::init(level, settings.text("log-file").unwrap_or("")) {
        eprintln!("{error}");
        return ExitCode::from(BAD_START);
    }
    let [release, commit, built, compiler, platform] = version::fields().map(|(_, value)| value);
    tracing::info!(
        "Release Version" = release,
        "Git Commit Hash" = commit,
        "Build TS" = built,
        "Go Version" = compiler,
        "Go OS/Arch" = platform,
        "Welcome to {}",
        capitalised(name)
    );
    for (key, why) in settings.without_effect(program.keys) {
        tracing::warn!(key, "the configuration key has no effect: {why}");
    }
    let ended = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(start(settings)));
    match ended {
        Ok(code) => {
            tracing::info!(code, "{name} exit");
            ExitCode::from(code)
        }
        Err(error) => {
            tracing::error!("start {name} server failed: {error:#}");
            // Whoever started it by hand sees it too.
            eprintln!("start {name} server failed: {error:#}");
            ExitCode::from(if error.is::<NotStarted>() { NOT_STARTED } else { BAD_START })
        }
    }
}

fn capitalised(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}
