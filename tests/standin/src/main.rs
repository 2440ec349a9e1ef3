//! `standin`: the stand-in cluster as a process. Ends on SIGINT and SIGTERM.

use anyhow::{Context, Result, bail};
use binlog_standin::capture::Capture;
use binlog_standin::{Options, Standin};
use std::path::Path;

const HELP: &str = "standin [--pd-port N] [--tikv-port N] [--control-port N] [--work-dir DIR] [--capture DIR]

Answers like PD (and its etcd) and TiKV. Without a port a free one is taken; the addresses are printed.
--capture DIR  load a capture at once and start its clock (else: PUT /capture, PUT /tso/start on the control port)";

#[tokio::main]
async fn main() -> Result<()> {
    let mut options = Options::default();
    let mut capture = None;
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        if flag == "--help" || flag == "-h" {
            println!("{HELP}");
            return Ok(());
        }
        let value = args.next().with_context(|| format!("{flag} needs a value\n\n{HELP}"))?;
        match flag.as_str() {
            "--pd-port" => options.pd_port = port(&flag, &value)?,
            "--tikv-port" => options.tikv_port = port(&flag, &value)?,
            "--control-port" => options.control_port = port(&flag, &value)?,
            "--work-dir" => options.work_dir = Some(value.into()),
            "--capture" => capture = Some(value),
            _ => bail!("unknown option {flag}\n\n{HELP}"),
        }
    }
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let standin = Standin::start(options).await?;
    if let Some(dir) = capture {
        standin.shared.load_capture(&Capture::open(Path::new(&dir))?)?;
        standin.shared.tso().start()?;
    }
    println!("pd      {}", standin.shared.pd_url);
    println!("tikv    {}", standin.shared.tikv_addr);
    println!("control {}", standin.control_url);
    tokio::select! {
        result = tokio::signal::ctrl_c() => result?,
        _ = terminate.recv() => {}
    }
    Ok(())
}

fn port(flag: &str, value: &str) -> Result<u16> {
    value.parse().with_context(|| format!("{flag} {value}: not a port number"))
}
