//! Signals that end a process (spec pump 4.5, drainer 1.1).

use tokio::signal::unix::{SignalKind, signal};

/// Resolves with the name of the first of SIGHUP, SIGINT, SIGTERM, SIGQUIT.
///
/// # Errors
/// When the operating system refuses a handler.
pub async fn shutdown() -> std::io::Result<&'static str> {
    let mut hup = signal(SignalKind::hangup())?;
    let mut int = signal(SignalKind::interrupt())?;
    let mut term = signal(SignalKind::terminate())?;
    let mut quit = signal(SignalKind::quit())?;
    Ok(tokio::select! {
        _ = hup.recv() => "SIGHUP",
        _ = int.recv() => "SIGINT",
        _ = term.recv() => "SIGTERM",
        _ = quit.recv() => "SIGQUIT",
    })
}
