//! Which types another one takes over without a look at the rows. Pure.

/// Whether Postgres changes the type without going through the rows.
///
/// Source: PostgreSQL documentation, ALTER TABLE, Notes; varchar_support and numeric_support of its source.
pub(super) fn is_wider(from: &str, to: &str) -> bool {
    const VARCHAR: &str = "character varying";
    fn numbers<'t>(ty: &'t str, name: &str) -> Option<Vec<Option<u32>>> {
        let rest: &'t str = ty.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')')?;
        Some(rest.split(',').map(|number| number.trim().parse().ok()).collect())
    }
    let to_any = (from.starts_with(VARCHAR) && !from.ends_with("[]") || from == "text")
        && matches!(to, "text" | VARCHAR);
    if to_any || (from.starts_with("numeric(") && !from.ends_with("[]") && to == "numeric") {
        return true;
    }
    match (numbers(from, VARCHAR).as_deref(), numbers(to, VARCHAR).as_deref()) {
        (Some([Some(from)]), Some([Some(to)])) => return to >= from,
        (None, None) => {}
        _ => return false,
    }
    match (numbers(from, "numeric").as_deref(), numbers(to, "numeric").as_deref()) {
        (Some([Some(from), scale]), Some([Some(to), same])) => {
            to >= from && scale.is_some() && scale == same
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_postgres_does_without_going_through_the_rows() {
        let wider = [
            ("character varying(5)", "character varying(9)"),
            ("character varying(5)", "text"),
            ("character varying", "text"),
            ("text", "character varying"),
            ("numeric(10,2)", "numeric(12,2)"),
            ("numeric(10,2)", "numeric"),
        ];
        let others = [
            ("character varying(9)", "character varying(5)"),
            ("text", "character varying(5)"),
            ("character varying(5)[]", "text"),
            ("numeric(10,2)", "numeric(12,4)"),
            ("numeric(10,2)", "numeric(8,2)"),
            ("numeric", "numeric(10,2)"),
            ("integer", "bigint"),
            ("date", "timestamp without time zone"),
        ];
        for (from, to) in wider {
            assert!(is_wider(from, to), "{from} to {to}");
        }
        for (from, to) in others {
            assert!(!is_wider(from, to), "{from} to {to}");
        }
    }
}
