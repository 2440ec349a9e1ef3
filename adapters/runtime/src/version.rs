//! `-V` and the banner at start (spec pump 6.4).

/// Name and value of each line of `-V`, in the original's order. We have no Go version; the compiler's stands in its place.
#[must_use]
pub fn fields() -> [(&'static str, String); 5] {
    [
        ("Release Version", format!("v{}", env!("CARGO_PKG_VERSION"))),
        ("Git Commit Hash", env!("BUILD_COMMIT").to_owned()),
        ("Build TS", env!("BUILD_TIME").to_owned()),
        ("Rust Version", env!("BUILD_RUSTC").to_owned()),
        ("OS/Arch", format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH)),
    ]
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
