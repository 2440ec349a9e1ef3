//! Text of a JSON document (spec codec 6.7).

use super::CodecError;
use super::duration;
use super::json::{Json, Scalar, Visitor};
use base64::{Engine, prelude::BASE64_STANDARD};
use std::fmt::Write;

/// Which builds of TiDB the text looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// What the original's Drainer writes up to v8.3: `1`, `1e+21`. For message sinks.
    Original,
    /// Doubles stay doubles when MySQL parses the text: `1.0`, `1e21`. For SQL sinks.
    Later,
}

/// Never longer than six times the document plus a little per value.
pub fn text(json: &Json, style: Style) -> Result<String, CodecError> {
    let mut writer = Writer { out: String::with_capacity(json.doc().len()), style };
    json.walk(&mut writer)?;
    Ok(writer.out)
}

struct Writer {
    out: String,
    style: Style,
}

impl Visitor for Writer {
    fn scalar(&mut self, value: Scalar) -> Result<(), &'static str> {
        let out = &mut self.out;
        match value {
            Scalar::Null => out.push_str("null"),
            Scalar::Bool(true) => out.push_str("true"),
            Scalar::Bool(false) => out.push_str("false"),
            Scalar::Int(n) => push(out, n),
            Scalar::UInt(n) => push(out, n),
            Scalar::Double(n) => out.push_str(&double(n, self.style)),
            Scalar::String(bytes) => quote(out, bytes, self.style),
            Scalar::Opaque(code, bytes) => {
                push(out, format_args!("\"base64:type{code}:"));
                BASE64_STANDARD.encode_string(bytes, out);
                out.push('"');
            }
            Scalar::Date(time) => push(out, format_args!("\"{}\"", time.date_text())),
            Scalar::DateTime(time) => push(out, format_args!("\"{}\"", time.datetime_text(6))),
            Scalar::Time(nanos) => {
                let text = duration::text(nanos, 6).ok_or("a time within 838:59:59")?;
                push(out, format_args!("\"{text}\""));
            }
        }
        Ok(())
    }

    fn open(&mut self, object: bool) {
        self.out.push(if object { '{' } else { '[' });
    }

    fn element(&mut self, first: bool, key: Option<&[u8]>) {
        if !first {
            self.out.push_str(", ");
        }
        if let Some(key) = key {
            quote(&mut self.out, key, self.style);
            self.out.push_str(": ");
        }
    }

    fn close(&mut self, object: bool) {
        self.out.push(if object { '}' } else { ']' });
    }
}

fn push(out: &mut String, value: impl std::fmt::Display) {
    // Writing to a String does not fail.
    let _ = write!(out, "{value}");
}

/// Shortest digits that read back as the same double.
fn double(value: f64, style: Style) -> String {
    let size = value.abs();
    match style {
        Style::Original if size == 0.0 || (1e-6..1e21).contains(&size) => format!("{value}"),
        Style::Original => {
            let text = format!("{value:e}");
            if size >= 1.0 { text.replace('e', "e+") } else { text }
        }
        Style::Later if size == 0.0 || (1e-15..1e15).contains(&size) => {
            let text = format!("{value}");
            if text.contains('.') { text } else { text + ".0" }
        }
        Style::Later => format!("{value:e}"),
    }
}

fn quote(out: &mut String, bytes: &[u8], style: Style) {
    out.push('"');
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match (c, style) {
                ('"', _) => out.push_str("\\\""),
                ('\\', _) => out.push_str("\\\\"),
                ('\n', _) => out.push_str("\\n"),
                ('\r', _) => out.push_str("\\r"),
                ('\t', _) => out.push_str("\\t"),
                ('\u{8}', Style::Later) => out.push_str("\\b"),
                ('\u{c}', Style::Later) => out.push_str("\\f"),
                ('\0'..='\u{1f}' | '\u{2028}' | '\u{2029}', _) => push(out, format_args!("\\u{:04x}", u32::from(c))),
                _ => out.push(c),
            }
        }
        // One replacement per byte that is not UTF-8.
        for _ in chunk.invalid() {
            out.push_str("\\ufffd");
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles() {
        let table = [
            (0.0, "0", "0.0"),
            (-0.0, "-0", "-0.0"),
            (1.0, "1", "1.0"),
            (-2.5, "-2.5", "-2.5"),
            (1e20, "100000000000000000000", "1e20"),
            (1e21, "1e+21", "1e21"),
            (123_456e-12, "1.23456e-7", "0.000000123456"),
            (1e-6, "0.000001", "0.000001"),
            (1e-16, "1e-16", "1e-16"),
            (5e-324, "5e-324", "5e-324"),
            (f64::MAX, "1.7976931348623157e+308", "1.7976931348623157e308"),
        ];
        for (value, original, later) in table {
            assert_eq!(double(value, Style::Original), original);
            assert_eq!(double(value, Style::Later), later);
        }
    }

    #[test]
    fn strings() {
        let quoted = |bytes: &[u8], style| {
            let mut out = String::new();
            quote(&mut out, bytes, style);
            out
        };
        let bytes = b"\x08\x0c\x00<\xff\xe2\x80\xa9\xe2\x80\x7f";
        let original = "\"\\u0008\\u000c\\u0000<\\ufffd\\u2029\\ufffd\\ufffd\u{7f}\"";
        assert_eq!(quoted(bytes, Style::Original), original);
        assert_eq!(quoted(b"\x08\x0c", Style::Later), "\"\\b\\f\"");
    }
}
