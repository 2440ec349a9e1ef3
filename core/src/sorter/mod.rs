//! Order of commits and the watermark (rules 4).
