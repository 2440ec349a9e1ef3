//! Repeating what depends on the environment: with back-off, and said once, not in a flood.

use std::fmt::Display;
use std::time::Duration;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// While it keeps failing it is said again every so many attempts: about once a minute.
const SAY_EVERY: u32 = 12;

/// Repeats `attempt` until it succeeds.
pub async fn forever<T, E: Display, F: Future<Output = Result<T, E>>>(what: &str, mut attempt: impl FnMut() -> F) -> T {
    let mut pause = FIRST_PAUSE;
    let mut failures = 0_u32;
    loop {
        match attempt().await {
            Ok(value) => {
                if failures > 0 {
                    tracing::info!(failures, "{what}: succeeded after failures");
                }
                return value;
            }
            Err(error) => {
                if failures.is_multiple_of(SAY_EVERY) {
                    tracing::warn!("{what} failed, trying again until it succeeds: {error}");
                }
                failures = failures.saturating_add(1);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}
