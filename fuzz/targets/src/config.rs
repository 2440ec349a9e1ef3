//! Configuration files of every process: whatever the text, a clear error or valid settings.

use binlog_core::config::drainer::{self, DrainerSettings, MysqlEnvironment};
use binlog_core::config::pump::{self, PumpSettings};
use binlog_core::config::security::parse_socket;
use binlog_core::config::settings::{ConfigError, Key, Settings};
use binlog_core::config::size::{parse_host_port, parse_pd_urls, parse_size};

/// A TOML file, as the Pump and as the Drainer read it; its text also as each value with a syntax of its own.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = parse_size(text);
    let _ = parse_host_port(text);
    let _ = parse_socket(text);
    for tls in [false, true] {
        if let Ok(urls) = parse_pd_urls(text, tls) {
            assert!(!urls.is_empty(), "an empty list of PD addresses was accepted");
        }
    }
    let Ok(root) = toml::from_str::<serde_json::Value>(text) else { return };
    said(read(pump::KEYS, "pump", &root).and_then(|s| PumpSettings::from_settings(&s, "127.0.0.1")));
    said(
        read(drainer::KEYS, "drainer", &root)
            .and_then(|s| DrainerSettings::from_settings(&s, "127.0.0.1", &MysqlEnvironment::default())),
    );
}

fn read(keys: &'static [Key], component: &'static str, root: &serde_json::Value) -> Result<Settings, ConfigError> {
    let mut settings = Settings::default();
    settings.set_file(keys, component, "fuzz.toml", root)?;
    Ok(settings)
}

fn said<T>(result: Result<T, ConfigError>) {
    if let Err(error) = result {
        assert!(!error.to_string().is_empty(), "an error without a text: {error:?}");
    }
}
