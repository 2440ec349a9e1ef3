//! Puts the commit and the time of the build into the binary, for `-V`.

use std::process::Command;

fn run(program: &str, args: &[&str]) -> String {
    Command::new(program)
        .args(args)
        .output()
        .ok()
        .filter(|o| o.status.success())
        .map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
        .filter(|t| !t.is_empty())
        .unwrap_or_else(|| "unknown".to_owned())
}

fn main() {
    println!("cargo:rerun-if-changed=../../.git/HEAD");
    println!("cargo:rerun-if-changed=../../.git/refs/heads");
    println!("cargo:rustc-env=BUILD_COMMIT={}", run("git", &["rev-parse", "HEAD"]));
    println!("cargo:rustc-env=BUILD_TIME={}", run("date", &["-u", "+%Y-%m-%d %H:%M:%S"]));
    println!("cargo:rustc-env=BUILD_RUSTC={}", run("rustc", &["--version"]));
}
