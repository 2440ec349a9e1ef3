//! Command line, environment and configuration file into [`Settings`] (spec pump 6.1, drainer 8.1).
//!
//! Long flags take one or two dashes, `-flag value` or `-flag=value`; a boolean needs `=` to be switched off; a positional argument
//! is an error.

use binlog_core::config::settings::{ConfigError, Key, Kind, Origin, Settings};
use clap::builder::{OsStringValueParser, ValueParser};
use clap::{Arg, ArgAction, Command};
use std::ffi::{OsStr, OsString};
use std::path::Path;

/// How a process is called.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    pub name: &'static str,
    /// One sentence for `--help`.
    pub about: &'static str,
    /// Prefix of its environment variables, e.g. `PUMP_`.
    pub env_prefix: &'static str,
    pub keys: &'static [Key],
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Invocation {
    Run(Settings),
    /// Print this on standard output and exit with 0.
    Print(String),
}

/// Why the process does not start.
#[derive(Debug)]
pub enum StartError {
    /// A flag that does not exist, or one with a value that is none of its kind: usage on standard error, exit code 2.
    Usage(String),
    /// Any other bad value: exit code 1.
    Config(ConfigError),
}

/// Reads everything; `env` looks up an environment variable.
pub fn parse(
    program: Program,
    args: impl IntoIterator<Item = OsString>,
    env: impl Fn(&str) -> Option<String>,
) -> Result<Invocation, StartError> {
    let mut args = args.into_iter();
    let program_name = args.next().unwrap_or_else(|| program.name.into());
    let given: Vec<OsString> = args.collect();
    let args: Vec<OsString> = given.iter().map(|a| two_dashes(a.clone(), program.keys)).collect();
    let mut command = command(program);
    let usage = |e: &clap::Error| StartError::Usage(e.render().to_string());
    let matches = match command.try_get_matches_from_mut(std::iter::once(program_name).chain(args)) {
        Ok(matches) => matches,
        Err(e) if e.kind() == clap::error::ErrorKind::DisplayHelp => {
            return Ok(Invocation::Print(e.render().to_string()));
        }
        Err(e) => {
            // The parser would name the first letter only; Go's words.
            let unknown = given.iter().find_map(|arg| unknown_flag(arg, program.keys));
            return Err(match unknown.filter(|_| e.kind() == clap::error::ErrorKind::UnknownArgument) {
                Some(flag) => {
                    StartError::Usage(format!("flag provided but not defined: -{flag}\n{}\n", command.render_usage()))
                }
                None => usage(&e),
            });
        }
    };
    if matches.get_flag("V") {
        return Ok(Invocation::Print(crate::version::text()));
    }
    if let Some(extra) = matches.get_one::<OsString>("positional") {
        let text = format!("'{}' is not a valid flag", extra.to_string_lossy());
        return Err(StartError::Config(ConfigError::Other(text)));
    }
    let mut settings = Settings::default();
    if let Some(path) = matches.get_one::<OsString>("config") {
        read_file(program, Path::new(path), &mut settings).map_err(StartError::Config)?;
    }
    for key in program.keys.iter().filter(|k| !k.flag.is_empty()) {
        if let Some(value) = matches.get_one::<OsString>(key.flag) {
            let text = value.to_string_lossy();
            settings.set_text(key, &text, Origin::CommandLine).map_err(|error| match error {
                // Go's flag package finds these while it parses.
                ConfigError::Value { .. } => {
                    let flag = key.flag;
                    StartError::Usage(format!(
                        "invalid value {text:?} for flag -{flag}: {error}\n{}\n",
                        command.render_usage()
                    ))
                }
                other => StartError::Config(other),
            })?;
        } else {
            let name = format!("{}{}", program.env_prefix, key.flag.to_uppercase().replace('-', "_"));
            if let Some(text) = env(&name).filter(|t| !t.is_empty()) {
                settings.set_text(key, &text, Origin::Environment).map_err(StartError::Config)?;
            }
        }
    }
    Ok(Invocation::Run(settings))
}

fn command(program: Program) -> Command {
    let mut command = Command::new(program.name)
        .about(program.about)
        .disable_version_flag(true)
        .after_help(
            "Long flags take one dash or two. Precedence: command line, environment, configuration file, default.",
        )
        .arg(Arg::new("V").short('V').action(ArgAction::SetTrue).help("print the version and exit"))
        .arg(
            Arg::new("config")
                .long("config")
                .value_parser(OsStringValueParser::new())
                .help("configuration file (TOML)"),
        )
        .arg(Arg::new("positional").value_parser(ValueParser::os_string()).num_args(0..).hide(true));
    for key in program.keys.iter().filter(|k| !k.flag.is_empty()) {
        let mut arg = Arg::new(key.flag)
            .value_parser(ValueParser::os_string())
            .help(key.help)
            .allow_hyphen_values(true)
            .overrides_with(key.flag);
        let mut letters = key.flag.chars();
        arg = match (letters.next(), letters.next()) {
            (Some(letter), None) => arg.short(letter),
            _ => arg.long(key.flag),
        };
        if key.kind == Kind::Bool {
            arg = arg.num_args(0..=1).require_equals(true).default_missing_value("true");
        }
        command = command.arg(arg);
    }
    command
}

/// `-long-flag` as `--long-flag`, and `--L` as `-L`, when that is a flag of ours: Go's library takes any number of dashes up to two.
fn two_dashes(arg: OsString, keys: &[Key]) -> OsString {
    let Some(text) = arg.to_str() else { return arg };
    if let Some(short) = text.strip_prefix("--") {
        let name = short.split('=').next().unwrap_or(short);
        let known = name == "V" || name == "h" || keys.iter().any(|k| k.flag == name);
        return if name.len() == 1 && known { format!("-{short}").into() } else { arg };
    }
    let Some(rest) = text.strip_prefix('-').filter(|r| !r.starts_with('-')) else { return arg };
    let name = rest.split('=').next().unwrap_or(rest);
    let known = name == "config" || name == "help" || keys.iter().any(|k| k.flag == name);
    if name.len() > 1 && known { format!("-{text}").into() } else { arg }
}

/// The name of a flag that there is not.
fn unknown_flag(arg: &OsStr, keys: &[Key]) -> Option<String> {
    let rest = arg.to_str()?.strip_prefix('-')?;
    let rest = rest.strip_prefix('-').unwrap_or(rest);
    let name = rest.split('=').next().unwrap_or(rest);
    let known = ["V", "h", "help", "config"].contains(&name) || keys.iter().any(|k| k.flag == name);
    (!known && name.starts_with(|c: char| c.is_alphabetic())).then(|| name.to_owned())
}

fn read_file(program: Program, path: &Path, settings: &mut Settings) -> Result<(), ConfigError> {
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|e| ConfigError::Other(format!("cannot read the configuration file {shown}: {e}")))?;
    let table: toml::Table = toml::from_str(&text)
        .map_err(|e| ConfigError::Other(format!("the configuration file {shown} is not valid TOML: {e}")))?;
    let value = serde_json::to_value(table).map_err(|e| {
        ConfigError::Other(format!("the configuration file {shown} has a value that is not supported: {e}"))
    })?;
    settings.set_file(program.keys, program.name, &shown, &value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use binlog_core::config::settings::Support;
    use binlog_core::config::{drainer, pump};

    const PUMP: Program = Program { name: "pump", about: "", env_prefix: "PUMP_", keys: pump::KEYS };
    const DRAINER: Program = Program { name: "drainer", about: "", env_prefix: "BINLOG_SERVER_", keys: drainer::KEYS };

    fn run(program: Program, args: &[&str], env: &[(&str, &str)]) -> Result<Invocation, StartError> {
        let args = std::iter::once(program.name).chain(args.iter().copied()).map(OsString::from);
        parse(program, args, |name| env.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    }

    fn settings(program: Program, args: &[&str], env: &[(&str, &str)]) -> Settings {
        match run(program, args, env) {
            Ok(Invocation::Run(s)) => s,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_originals_command_lines_work() {
        let s = settings(
            PUMP,
            &[
                "-addr",
                "h:1",
                "-pd-urls=http://p:2379",
                "--data-dir",
                "d",
                "-log-file",
                "f",
                "-node-id",
                "n",
                "-fake-binlog-interval",
                "3",
                "-L",
                "debug",
            ],
            &[],
        );
        assert_eq!(
            (s.text("addr"), s.text("pd-urls"), s.text("data-dir")),
            (Some("h:1"), Some("http://p:2379"), Some("d"))
        );
        assert_eq!((s.int("gen-binlog-interval"), s.text("log-level")), (Some(3), Some("debug")));

        let s = settings(DRAINER, &["-initial-commit-ts", "-1", "-c", "4", "-safe-mode=false"], &[]);
        assert_eq!((s.int("initial-commit-ts"), s.bool("syncer.safe-mode")), (Some(-1), Some(false)));
        let s = settings(DRAINER, &["-initial-commit-ts=0", "-safe-mode", "-addr", "x:1"], &[]);
        assert_eq!((s.int("initial-commit-ts"), s.bool("syncer.safe-mode")), (Some(0), Some(true)));
    }

    #[test]
    fn command_line_beats_environment_beats_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.toml");
        std::fs::write(&path, "addr = \"file:1\"\nnode-id = \"file\"\ndata-dir = \"file\"\n").unwrap();
        let s = settings(
            PUMP,
            &["-config", path.to_str().unwrap(), "-addr", "cli:1"],
            &[("PUMP_ADDR", "env:1"), ("PUMP_NODE_ID", "env"), ("PUMP_DATA_DIR", "")],
        );
        assert_eq!((s.text("addr"), s.text("node-id"), s.text("data-dir")), (Some("cli:1"), Some("env"), Some("file")));
    }

    #[test]
    fn bad_command_lines_say_what_is_wrong() {
        for args in [&["-no-such-flag", "1"][..], &["-addr", "h:1", "--no-such-flag=1"]] {
            let Err(StartError::Usage(text)) = run(PUMP, args, &[]) else { panic!("{args:?}") };
            assert!(text.starts_with("flag provided but not defined: -no-such-flag\nUsage: pump"), "{text}");
        }
        assert!(matches!(run(PUMP, &["-addr"], &[]), Err(StartError::Usage(_))));
        for args in [&["-heartbeat-interval", "two"][..], &["-enable-debug=maybe"], &["-binlog-slice-size", ""]] {
            let Err(StartError::Usage(text)) = run(PUMP, args, &[]) else { panic!("{args:?}") };
            assert!(text.starts_with("invalid value \"") && text.contains("Usage: pump"), "{text}");
        }
        // A boolean takes its value behind `=` only.
        let Err(StartError::Config(e)) = run(PUMP, &["-enable-binlog-slice", "true"], &[]) else { panic!() };
        assert_eq!(e.to_string(), "'true' is not a valid flag");
        let Err(StartError::Config(e)) = run(PUMP, &["-addr", "a:1", "stray"], &[]) else { panic!() };
        assert_eq!(e.to_string(), "'stray' is not a valid flag");
        let Err(StartError::Config(e)) = run(PUMP, &["-config", "/no/such/file"], &[]) else { panic!() };
        assert!(e.to_string().contains("/no/such/file"), "{e}");
        // A key of this test's own: those of the programs come to be supported.
        const KEYS: &[Key] = &[Key::new("later", "later", Kind::Text, Support::NotYet, "")];
        let program = Program { keys: KEYS, ..PUMP };
        let Err(StartError::Config(e)) = run(program, &["-later", "x"], &[]) else { panic!() };
        assert!(e.to_string().contains("not supported yet"), "{e}");
    }

    #[test]
    fn a_bad_value_in_the_environment_fails_whichever_flag_it_is_for() {
        for (name, value, words) in [
            ("PUMP_HEARTBEAT_INTERVAL", "two", "heartbeat-interval (environment): \"two\" is not an integer"),
            ("PUMP_FAKE_BINLOG_INTERVAL", "3s", "gen-binlog-interval (environment): \"3s\" is not an integer"),
            ("PUMP_METRICS_INTERVAL", "x", "metrics-interval (environment): \"x\" is not an integer"),
            ("PUMP_ENABLE_DEBUG", "maybe", "enable-debug (environment): \"maybe\" is not true or false"),
        ] {
            let Err(StartError::Config(e)) = run(PUMP, &[], &[(name, value)]) else { panic!("{name}") };
            assert_eq!(e.to_string(), words);
            // The command line wins, and then nobody looks at it.
            if name == "PUMP_HEARTBEAT_INTERVAL" {
                let s = settings(PUMP, &["-heartbeat-interval", "4"], &[(name, value)]);
                assert_eq!(s.int("heartbeat-interval"), Some(4));
            }
        }
        // Empty counts as not set; the file was read already when PUMP_CONFIG could name one.
        let s = settings(PUMP, &[], &[("PUMP_HEARTBEAT_INTERVAL", ""), ("PUMP_CONFIG", "/no/such/file")]);
        assert_eq!(s.int("heartbeat-interval"), None);
    }

    #[test]
    fn flags_that_the_original_gave_up_are_accepted() {
        for args in [
            &["-log-rotate", "hour"][..],
            &["-binlog-file-size=512"],
            &["-enable-binlog-slice", "-binlog-slice-size", "5"],
            &["--enable-binlog-slice=true", "--binlog-slice-size=5"],
            &["-enable-tolerant"],
            &["-enable-tolerant=false"],
            &["-enable-debug", "-addr", "h:1"],
            &["--L", "debug"],
            &["--L=debug"],
        ] {
            let s = settings(PUMP, args, &[]);
            let quiet = args.first().is_some_and(|a| a.starts_with("--L"));
            assert_eq!(s.without_effect(PUMP.keys).is_empty(), quiet, "{args:?}");
            assert!(!quiet || s.text("log-level") == Some("debug"), "{args:?}");
        }
    }

    #[test]
    fn version_and_help_print() {
        let Ok(Invocation::Print(text)) = run(PUMP, &["-V"], &[]) else { panic!() };
        assert!(text.starts_with("Release Version: v"), "{text}");
        assert!(matches!(run(PUMP, &["--V"], &[]), Ok(Invocation::Print(again)) if again == text));
        for help in ["-h", "-help", "--help"] {
            let Ok(Invocation::Print(text)) = run(PUMP, &[help], &[]) else { panic!("{help}") };
            assert!(text.contains("--advertise-addr"), "{text}");
        }
    }
}
