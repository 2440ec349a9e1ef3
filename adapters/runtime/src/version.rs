//! `-V` and the banner at start (spec pump 6.4).

/// Name and value of each line of `-V`: the original's names, in its order. There is no Go here: the compiler's version stands in its
/// place, and the platform has the names that Go gives it.
#[must_use]
pub fn fields() -> [(&'static str, String); 5] {
    [
        ("Release Version", format!("v{}", env!("CARGO_PKG_VERSION"))),
        ("Git Commit Hash", env!("BUILD_COMMIT").to_owned()),
        ("Build TS", env!("BUILD_TIME").to_owned()),
        ("Go Version", env!("BUILD_RUSTC").to_owned()),
        ("Go OS/Arch", format!("{}/{}", std::env::consts::OS, architecture(std::env::consts::ARCH))),
    ]
}

const fn architecture(name: &'static str) -> &'static str {
    match name.as_bytes() {
        b"x86_64" => "amd64",
        b"aarch64" => "arm64",
        _ => name,
    }
}

/// The text of `-V`.
#[must_use]
pub fn text() -> String {
    let mut out = String::new();
    for (name, value) in fields() {
        out.push_str(&format!("{name}: {value}\n"));
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_original() {
        let text = text();
        let names: Vec<_> = text.lines().map(|l| l.split_once(": ").map_or(l, |(name, _)| name)).collect();
        let originals = ["Release Version", "Git Commit Hash", "Build TS", "Go Version", "Go OS/Arch", ""];
        assert_eq!(names, originals);
        assert!(text.ends_with("\n\n"));
        assert_eq!(
            [architecture("x86_64"), architecture("aarch64"), architecture("riscv64")],
            ["amd64", "arm64", "riscv64"]
        );
    }
}
