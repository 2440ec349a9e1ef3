//! What a DDL query text tells without its job.

/// TiDB's sequences send a pretend DDL (``select setval(`db`.`seq`, N)``, also in upper case) whose job id is in no history:
/// drop it before looking the job up (spec codec 1.3, recorded).
#[must_use]
pub fn is_setval(query: &[u8]) -> bool {
    query.get(..SETVAL.len()).is_some_and(|head| head.eq_ignore_ascii_case(SETVAL))
}

const SETVAL: &[u8] = b"select setval";

#[cfg(test)]
mod tests {
    use super::is_setval;

    #[test]
    fn by_prefix_in_any_case() {
        assert!(is_setval(b"SELECT SETVAL(`a`.`b`, 1)") && is_setval(b"select setval"));
        assert!(!is_setval(b"select setva") && !is_setval(b"") && !is_setval(b"create table t(a int)"));
    }
}
