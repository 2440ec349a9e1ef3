//! The tables that a run prints: numbers, ratios, and whether they meet the targets.

/// Rows of text, aligned, as Markdown.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    #[must_use]
    pub fn new(titles: &[&str]) -> Self {
        Self { rows: vec![titles.iter().map(|title| (*title).to_owned()).collect()] }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Without rows nothing.
    pub fn print(&self, heading: &str) {
        if self.rows.len() < 2 {
            return;
        }
        println!("\n{heading}\n");
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for (n, row) in self.rows.iter().enumerate() {
            let cell = |c: usize| row.get(c).map_or("", String::as_str);
            let cells: Vec<String> = widths.iter().enumerate().map(|(c, w)| format!("{:<w$}", cell(c))).collect();
            println!("| {} |", cells.join(" | "));
            if n == 0 {
                println!("|{}|", widths.iter().map(|w| "-".repeat(w + 2)).collect::<Vec<_>>().join("|"));
            }
        }
    }
}

/// A number with its target: `0.81 (>= 0.75 met)`.
#[must_use]
pub fn at_least(value: f64, target: f64) -> String {
    format!("{value:.2} (≥ {target} {})", verdict(value >= target))
}

#[must_use]
pub fn at_most(value: f64, target: f64) -> String {
    format!("{value:.2} (≤ {target} {})", verdict(value <= target))
}

const fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}

/// `1 KB`, `300 B`.
#[must_use]
pub fn size(bytes: usize) -> String {
    if bytes >= 1024 && bytes.is_multiple_of(1024) { format!("{} KB", bytes / 1024) } else { format!("{bytes} B") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        assert_eq!(at_least(0.81, 0.75), "0.81 (≥ 0.75 met)");
        assert_eq!(at_least(0.5, 0.75), "0.50 (≥ 0.75 MISSED)");
        assert_eq!(at_most(1.6, 1.5), "1.60 (≤ 1.5 MISSED)");
        assert_eq!((size(10_240), size(300)), ("10 KB".to_owned(), "300 B".to_owned()));
    }
}
