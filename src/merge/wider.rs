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

/// The type that holds every value of both as it is, where there is one.
pub(super) fn union(one: &str, other: &str) -> Option<String> {
    if holds(one, other) {
        return Some(one.to_owned());
    }
    if holds(other, one) {
        return Some(other.to_owned());
    }
    match (digits(one)?, digits(other)?) {
        (Some((before, behind)), Some((before_too, behind_too))) => {
            let (before, behind) = (before.max(before_too), behind.max(behind_too));
            Some(format!("numeric({},{behind})", before + behind))
        }
        _ => Some("numeric".to_owned()),
    }
}

/// Whether a column of one type holds every value of another as it is.
fn holds(there: &str, wanted: &str) -> bool {
    const FLOATS: [&str; 2] = ["real", "double precision"];
    const WHOLE: [&str; 3] = ["smallint", "integer", "bigint"];
    const DAYS: [&str; 2] = ["date", "timestamp without time zone"];
    let in_order = |types: &[&str]| {
        let place = |ty: &str| types.iter().position(|known| *known == ty);
        place(there).zip(place(wanted)).is_some_and(|(there, wanted)| there >= wanted)
    };
    let as_numbers = || match (digits(there)?, digits(wanted)?) {
        _ if WHOLE.contains(&there) => None,
        (None, _) => Some(true),
        (Some(_), None) => Some(false),
        (Some((before, behind)), Some((wanted_before, wanted_behind))) => {
            Some(before >= wanted_before && behind >= wanted_behind)
        }
    };
    there == wanted
        || there == "text"
        || is_wider(wanted, there)
        || in_order(&WHOLE)
        || in_order(&FLOATS)
        || in_order(&DAYS)
        || as_numbers().unwrap_or(false)
        || is_finer(wanted, there)
        || (there == "jsonb" && wanted == "json")
}

/// The digits of an exact number before and behind the point; `Some(None)` where nothing limits them.
#[allow(clippy::option_option, reason = "whether it is a number, and whether that has a limit")]
fn digits(ty: &str) -> Option<Option<(u32, u32)>> {
    match ty {
        "smallint" => return Some(Some((5, 0))),
        "integer" => return Some(Some((10, 0))),
        "bigint" => return Some(Some((19, 0))),
        "numeric" => return Some(None),
        _ => {}
    }
    let limits = ty.strip_prefix("numeric(")?.strip_suffix(')')?;
    let (precision, scale) = limits.split_once(',').unwrap_or((limits, "0"));
    let (precision, scale) =
        (precision.trim().parse::<u32>().ok()?, scale.trim().parse::<u32>().ok()?);
    Some(Some((precision.saturating_sub(scale), scale)))
}

/// Whether a time keeps more digits of its seconds than another one.
fn is_finer(from: &str, to: &str) -> bool {
    fn parts(ty: &str) -> Option<(&str, u32, &str)> {
        let name = ["timestamp", "time"].into_iter().find(|name| ty.starts_with(name))?;
        let rest = ty.get(name.len()..)?;
        match rest.strip_prefix('(') {
            None => Some((name, 6, rest)),
            Some(rest) => {
                let (digits, zone) = rest.split_once(')')?;
                Some((name, digits.parse().ok()?, zone))
            }
        }
    }
    parts(from)
        .zip(parts(to))
        .is_some_and(|(from, to)| (from.0, from.2) == (to.0, to.2) && to.1 >= from.1)
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

    #[test]
    fn a_type_holds_itself_and_what_is_narrower() {
        for (there, wanted) in [
            ("bigint", "integer"),
            ("numeric", "numeric(10,2)"),
            ("numeric(14,4)", "numeric(12,2)"),
            ("numeric(19,0)", "bigint"),
            ("numeric", "bigint"),
            ("text", "uuid"),
            ("character varying(9)", "character varying(5)"),
            ("timestamp without time zone", "timestamp(3) without time zone"),
            ("time(6) without time zone", "time(3) without time zone"),
            ("timestamp without time zone", "date"),
        ] {
            assert_eq!(union(there, wanted).as_deref(), Some(there), "{there} holds {wanted}");
            assert_eq!(union(wanted, there).as_deref(), Some(there), "{there} holds {wanted}");
        }
        assert_eq!(union("numeric(12,2)", "numeric(10,4)").unwrap(), "numeric(14,4)");
        assert_eq!(union("numeric(10,2)", "bigint").unwrap(), "numeric(21,2)");
        assert_eq!(union("integer", "numeric(10,2)").unwrap(), "numeric(12,2)");
        for (one, other) in [
            ("uuid", "integer"),
            ("real", "numeric"),
            ("timestamp without time zone", "timestamp with time zone"),
        ] {
            assert_eq!(union(one, other), None, "{one} {other}");
        }
    }
}
