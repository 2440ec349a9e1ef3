//! The command line of `bench-pump`.

use anyhow::{Context, Result, bail};
use std::path::PathBuf;

pub const HELP: &str = "bench-pump [--quick] [OPTIONS]

How fast the Pump takes binlogs on this machine. Starts the Pump (release build) beside a stand-in for PD and writes P and C of
transactions to it. In the same run, alternating with it, what the machine allows at best: a gRPC server that only answers,
and a loop that writes batches of the same size and waits for fdatasync. The load generator shares the cores with all of them.

  --quick            three to four minutes: 2 s per measurement, once each (without it: 8 s, three times)
  --seconds S        length of one measurement
  --rounds N         how often each is repeated, Pump and limits in turn; the table shows medians
  --connections N    gRPC connections at most (default 100); writers are spread over them
  --only PART        closed, few, open, recycled, live, history, memory or reopen; may be repeated (default: all)
  --size BYTES       payload of P; may be repeated (default 1024, 10240, 102400; open loop: 1024, 10240)
  --writers N        of the closed loop (default 1000)
  --rate N           transactions per second of open loops (default: half of what the closed loop reached)
  --history-mb N     log that is pulled from its beginning (default 256 with --quick, else 2048)
  --segment-mb N     segments of the recycled phase (default 32 with --quick, else 128)
  --gc DURATION      how long the Pump of the recycled phase keeps binlogs (default 1s)
  --reopen-mb N      log that a killed Pump is opened with (default 256 with --quick, else 2048)
  --config TEXT      lines for the Pump's configuration file, before its first section
  --storage TEXT     lines for its section [storage] (default: stop-write-at-available-space = \"1 gib\")
  --dir DIR          where the data goes (default: the directory for temporary files); needs about 20 GB, 4 GB with --quick
  --keep             leave the Pump's logs

Nothing else should run meanwhile: compare ratios of one run, not numbers of two. Exit code: 0 measured, 2 failed.";

#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    pub seconds: f64,
    pub warm: f64,
    pub rounds: usize,
    pub connections: usize,
    pub only: Vec<Part>,
    pub sizes: Vec<usize>,
    pub writers: usize,
    pub rate: Option<f64>,
    pub reopen_bytes: u64,
    pub history_bytes: u64,
    pub segment_bytes: u64,
    pub gc: String,
    pub config: String,
    pub storage: String,
    pub dir: Option<PathBuf>,
    pub keep: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Closed,
    Few,
    Open,
    Recycled,
    Live,
    History,
    Memory,
    Reopen,
}

impl Options {
    /// `None`: the help was asked for.
    pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Option<Self>> {
        let arguments: Vec<String> = arguments.collect();
        let quick = arguments.iter().any(|argument| argument == "--quick");
        let mut options = Self {
            seconds: if quick { 2.0 } else { 8.0 },
            warm: 1.0,
            rounds: if quick { 1 } else { 3 },
            connections: 100,
            only: Vec::new(),
            sizes: Vec::new(),
            writers: 1000,
            rate: None,
            reopen_bytes: if quick { 256 << 20 } else { 2 << 30 },
            history_bytes: if quick { 256 << 20 } else { 2 << 30 },
            segment_bytes: if quick { 32 << 20 } else { 128 << 20 },
            gc: "1s".to_owned(),
            config: String::new(),
            storage: "stop-write-at-available-space = \"1 gib\"".to_owned(),
            dir: None,
            keep: false,
        };
        let mut arguments = arguments.into_iter();
        while let Some(flag) = arguments.next() {
            match flag.as_str() {
                "--quick" => continue,
                "--keep" => {
                    options.keep = true;
                    continue;
                }
                "--help" | "-h" => return Ok(None),
                _ => {}
            }
            let value = arguments.next().with_context(|| format!("{flag} needs a value\n\n{HELP}"))?;
            let number = || -> Result<f64> {
                let number: f64 = value.parse().with_context(|| format!("{flag} {value}: not a number"))?;
                anyhow::ensure!(number.is_finite() && number > 0.0, "{flag} {value}: must be above 0");
                Ok(number)
            };
            match flag.as_str() {
                "--seconds" => options.seconds = number()?,
                "--rounds" => options.rounds = number()? as usize,
                "--connections" => options.connections = number()? as usize,
                "--only" => options.only.push(Part::parse(&value)?),
                "--size" => options.sizes.push(number()? as usize),
                "--writers" => options.writers = number()? as usize,
                "--rate" => options.rate = Some(number()?),
                "--reopen-mb" => options.reopen_bytes = (number()? as u64) << 20,
                "--history-mb" => options.history_bytes = (number()? as u64) << 20,
                "--segment-mb" => options.segment_bytes = (number()? as u64) << 20,
                "--gc" => options.gc = value,
                "--config" => options.config = value,
                "--storage" => options.storage = value,
                "--dir" => options.dir = Some(value.into()),
                _ => bail!("unknown option {flag}\n\n{HELP}"),
            }
        }
        Ok(Some(options))
    }

    #[must_use]
    pub fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}

impl Part {
    fn parse(text: &str) -> Result<Self> {
        Ok(match text {
            "closed" => Self::Closed,
            "few" => Self::Few,
            "open" => Self::Open,
            "recycled" => Self::Recycled,
            "live" => Self::Live,
            "history" => Self::History,
            "memory" => Self::Memory,
            "reopen" => Self::Reopen,
            _ => bail!("--only {text}: closed, few, open, recycled, live, history, memory or reopen"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Option<Options>> {
        Options::parse(line.split_whitespace().map(ToOwned::to_owned))
    }

    #[test]
    fn options_in_any_order() {
        let options = parse("--seconds 4 --quick --only open --only few --size 2048").unwrap().unwrap();
        assert_eq!((options.seconds.to_bits(), options.rounds), (4.0_f64.to_bits(), 1));
        assert!(options.wants(Part::Few) && options.wants(Part::Open) && !options.wants(Part::Closed));
        assert_eq!(options.sizes, [2048]);
        assert!(parse("").unwrap().unwrap().wants(Part::Reopen));
        assert_eq!(parse("--rounds 2 --help").unwrap(), None);
        for bad in ["--rounds", "--rounds 0", "--rate x", "--only all", "--wrong 1"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
