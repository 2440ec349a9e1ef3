//! The recorded directories of the original, the same with every byte changed, and tables of many blocks are looked through.

use super::*;
use std::path::PathBuf;

const KEYS: [&[u8]; 4] = [b"!binlog!gcts", b"!binlog!maxCommitTS", b"!binlog!handlePointer", b"no such key"];

fn recorded(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/captures/small").join(name).join("pump/kv")
}

fn copy(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(recorded(name)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    dir
}

/// From a journal, and from a table.
#[test]
fn what_was_recorded() {
    for name in ["godir", "godir-killed"] {
        let pointer = [&0_u32.to_le_bytes()[..], &51_423_i64.to_le_bytes()].concat();
        let max_commit = 470_608_279_436_001_281_u64;
        let values = get(&recorded(name), &KEYS).unwrap();
        assert_eq!(values, [None, Some(max_commit.to_le_bytes().to_vec()), Some(pointer.clone()), None]);
        let ts = [&b"ts:"[..], &max_commit.to_be_bytes()].concat();
        assert_eq!(get(&recorded(name), &[&ts]).unwrap(), [Some(pointer)]);
    }
}

#[test]
fn nothing_is_invented_from_damaged_files() {
    for name in ["godir", "godir-killed"] {
        let whole = get(&recorded(name), &KEYS).unwrap();
        let dir = copy(name);
        for entry in fs::read_dir(dir.path()).unwrap() {
            let path = entry.unwrap().path();
            let sound = fs::read(&path).unwrap();
            let journal = path.extension().is_some_and(|extension| extension == "log");
            for at in (0..sound.len()).step_by((sound.len() / 200).max(1)) {
                let mut bad = sound.clone();
                bad[at] ^= 0x20;
                for contents in [&bad[..], &sound[..at]] {
                    fs::write(&path, contents).unwrap();
                    // A journal may end early; then an older value is the newest that is there.
                    if let Ok(values) = get(dir.path(), &KEYS) {
                        assert!(values[3].is_none());
                        assert!(
                            journal || values == whole || contents.len() < sound.len() || at >= sound.len(),
                            "{} byte {at}",
                            path.display()
                        );
                        for (value, len) in values.iter().zip([8, 8, 12]) {
                            assert!(value.as_ref().is_none_or(|value| value.len() == len));
                        }
                    }
                }
            }
            fs::write(&path, sound).unwrap();
        }
        assert_eq!(get(dir.path(), &KEYS).unwrap(), whole);
    }
}

/// A journal whose later records came to nothing, a table, and a newer journal: the newest entry wins, also a deletion.
#[test]
fn the_newest_entry_wins() {
    let mut newest = Newest::new(&[b"a", b"b"]);
    newest.see(b"a", 5, Some(b"five"));
    newest.see(b"a", 3, Some(b"three"));
    newest.see(b"b", 6, Some(b"six"));
    newest.see(b"b", 7, None);
    newest.see(b"c", 9, Some(b"nine"));
    assert_eq!(newest.values(), [Some(b"five".to_vec()), None]);
}

proptest::proptest! {
    #[test]
    fn noise_is_an_error_or_nothing(data in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
        let mut newest = Newest::new(&KEYS);
        let _ = look_into_batch(&data, &mut newest);
        let _ = entries(&data, |_, _| {});
        let _ = journal(&data, true);
        let _ = journal(&data, false);
        let _ = Version::of(&[data]);
        proptest::prop_assert!(newest.values().iter().all(Option::is_none));
    }
}
