//! Replays every committed seed, and mutations of it, through its target; an input that a fuzzer found is kept as a seed.

use binlog_fuzz_targets::TARGETS;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../seeds")
}

fn seeds(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = folder().join(target);
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), std::fs::read(&path).unwrap())).collect()
}

#[test]
fn every_target_has_its_seeds_and_its_binary() {
    let names: BTreeSet<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    for (folder, suffix) in [(folder(), ""), (folder().join("../fuzz_targets"), ".rs")] {
        let found: BTreeSet<String> = std::fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap().trim_end_matches(suffix).to_owned())
            .collect();
        assert!(found.iter().map(String::as_str).eq(names.iter().copied()), "{}: {found:?}", folder.display());
    }
    for (name, _) in TARGETS {
        assert!(!seeds(name).is_empty(), "{name} has no seeds");
    }
}

#[test]
fn seeds_and_their_mutations_pass() {
    for (name, target) in TARGETS {
        for (path, bytes) in seeds(name) {
            println!("{}", path.display());
            target(&bytes);
            mutations(&bytes, target);
        }
    }
}

/// Cuts, flipped bits and overwritten bytes, at most about a hundred per seed.
fn mutations(bytes: &[u8], target: &fn(&[u8])) {
    let step = (bytes.len() / 25).max(1);
    for at in (0..bytes.len()).step_by(step) {
        target(&bytes[..at]);
        for change in [0x01, 0x80, 0xff] {
            let mut changed = bytes.to_vec();
            changed[at] ^= change;
            target(&changed);
        }
    }
}
