//! Keeps the habits of the project (docs/ARCHITECTURE.md): what no compiler checks and a reviewer forgets.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Hard limit for a file, tests included.
const MAX_LINES: usize = 800;

/// Generated code is exempt from size and purity.
const GENERATED: [&str; 2] = ["core/src/proto/", "adapters/cluster/src/generated/"];

/// What must not appear in `core/`: the world, time, concurrency, logging.
const IMPURE: [&str; 16] = [
    "std::fs",
    "std::net",
    "std::thread",
    "std::env",
    "std::process",
    "Instant",
    "SystemTime",
    "async fn",
    ".await",
    "Mutex",
    "RwLock",
    "Atomic",
    "HashMap",
    "println!",
    "tracing::",
    "log::",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in the workspace").to_path_buf()
}

fn files(extension: &str) -> Vec<(String, String)> {
    fn walk(dir: &Path, extension: &str, out: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).expect("a readable folder") {
            let path = entry.expect("a readable entry").path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            if path.is_dir() && name != "target" && name != ".git" {
                walk(&path, extension, out);
            } else if path.extension().is_some_and(|e| e == extension) {
                out.push(path);
            }
        }
    }
    let mut paths = Vec::new();
    walk(&root(), extension, &mut paths);
    paths.sort();
    paths
        .into_iter()
        .map(|p| {
            let shown = p.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
            (shown, fs::read_to_string(&p).expect("a readable text file"))
        })
        .collect()
}

fn own_sources() -> Vec<(String, String)> {
    let sources = files("rs");
    assert!(sources.len() > 50, "the walk found only {} files", sources.len());
    sources.into_iter().filter(|(path, _)| !GENERATED.iter().any(|g| path.starts_with(g))).collect()
}

/// The part of a line that is code: comments and `use` of a word in prose do not count.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or(line)
}

/// Whether `word` occurs; a crate's name only where a path begins with it: `log::` is not in `vlog::`, nor in our own
/// `vlog::log::`.
fn has_word(code: &str, word: &str) -> bool {
    let inside = |c: char| word.ends_with("::") && (c.is_alphanumeric() || c == '_' || c == ':');
    code.match_indices(word).any(|(at, _)| !code[..at].ends_with(inside))
}

fn report(what: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

#[test]
fn words_are_found_where_they_begin() {
    assert!(has_word("use std::collections::HashMap;", "HashMap"));
    assert!(has_word("reply.await", ".await"));
    assert!(has_word("eprintln!()", "println!"));
    assert!(has_word("log::info!()", "log::"));
    assert!(!has_word("use crate::vlog::log::Placed;", "log::"));
    assert!(!has_word("binlog::peek", "log::"));
}

#[test]
fn no_file_is_too_long() {
    let long = own_sources().into_iter().filter_map(|(path, text)| {
        let lines = text.lines().count();
        (lines > MAX_LINES).then(|| format!("{path}: {lines} lines"))
    });
    report("files that want to be split (limit 800 lines)", long.collect());
}

#[test]
fn core_is_pure() {
    let mut found = Vec::new();
    // A file of tests only is one whose module is declared for tests.
    let tests_only = |p: &str| p.contains("/tests/") || p.ends_with("tests.rs");
    for (path, text) in own_sources().into_iter().filter(|(p, _)| p.starts_with("core/src/") && !tests_only(p)) {
        for (number, line) in text.lines().enumerate() {
            // Tests stand at the end of a file and may use what they like.
            if line.trim_start().starts_with("#[cfg(test)]") {
                break;
            }
            for word in IMPURE.iter().filter(|w| has_word(code(line), w)) {
                found.push(format!("{path}:{}: {word}", number + 1));
            }
        }
    }
    report("core/ has no I/O, clock, threads, locks, async, logging or visible hash order", found);
}

#[test]
fn unsafe_stays_in_adapters_with_its_reason() {
    let mut found = Vec::new();
    for (path, text) in own_sources() {
        let lines: Vec<&str> = text.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            let words: Vec<&str> = code(line).split(|c: char| !c.is_alphanumeric() && c != '_').collect();
            if !words.contains(&"unsafe") || line.contains('"') {
                continue;
            }
            let explained = lines[i.saturating_sub(4)..=i].iter().any(|l| l.contains("SAFETY:"));
            if !path.starts_with("adapters/") || !explained {
                found.push(format!("{path}:{}", i + 1));
            }
        }
    }
    report("unsafe outside adapters/, or without a SAFETY comment", found);
}

#[test]
fn no_test_is_ignored_and_nothing_names_a_machine() {
    let mut found = Vec::new();
    let texts = ["rs", "toml", "md", "proto"].iter().flat_map(|e| files(e));
    for (path, text) in texts.filter(|(p, _)| p != "tests/tests/tidy.rs") {
        for (number, line) in text.lines().enumerate() {
            if line.trim_start().starts_with("#[ignore") {
                found.push(format!("{path}:{}: an ignored test", number + 1));
            }
            if ["/root/", "/work/", "/home/"].iter().any(|p| line.contains(p)) {
                found.push(format!("{path}:{}: a path of somebody's machine", number + 1));
            }
        }
    }
    report("ignored tests, paths of a machine", found);
}

/// bins -> adapters -> core, sim -> core, tests -> everything (design 2).
#[test]
fn dependencies_point_one_way() {
    let layer = |path: &str| -> &'static str {
        // The lane that drives the production loop in virtual time: a test of it, beside the world whose disk it uses.
        if path.starts_with("sim/madsim/") {
            return "tests";
        }
        // For users' programs: built on the outside worlds, as a process is.
        if path.starts_with("adapters/pump-client/") {
            return "library";
        }
        ["core", "adapters", "sim", "bins", "tests", "proto"]
            .into_iter()
            .find(|l| path.starts_with(&format!("{l}/")))
            .unwrap_or("other")
    };
    let manifests: Vec<(String, toml::Table)> = files("toml")
        .into_iter()
        .filter(|(path, _)| path.ends_with("/Cargo.toml") && !path.starts_with("fuzz/"))
        .map(|(path, text)| (path, toml::from_str(&text).expect("a valid manifest")))
        .collect();
    let layers: BTreeMap<String, &'static str> = manifests
        .iter()
        .map(|(path, table)| (table["package"]["name"].as_str().expect("a name").to_owned(), layer(path)))
        .collect();
    let allowed = |from: &str, to: &str| match from {
        "core" | "proto" => false,
        "adapters" => to == "core",
        // The simulator and its models are packages of one layer.
        "sim" => to == "core" || to == "sim",
        "bins" | "library" => to == "core" || to == "adapters",
        _ => true,
    };
    let mut found = Vec::new();
    for (path, table) in &manifests {
        let dependencies = table.get("dependencies").and_then(toml::Value::as_table);
        for name in dependencies.into_iter().flat_map(toml::Table::keys) {
            if let Some(to) = layers.get(name)
                && !allowed(layer(path), to)
            {
                found.push(format!("{path} depends on {name} ({to})"));
            }
        }
    }
    assert!(layers.len() >= 9, "found only {} packages", layers.len());
    report("dependencies against the direction of the layers", found);
}
