//! Words by which a statement tells the time, or another value at each look, though no row changed. Pure.

use super::lexer::{Lexer, Token, depth};
use super::marts::tokens;

/// What would make a row differ from one look to the next though nothing changed.
const CLOCKS: [&str; 24] = [
    "clock_timestamp",
    "current_date",
    "current_time",
    "current_timestamp",
    "gen_random_bytes",
    "gen_random_uuid",
    "lastval",
    "localtime",
    "localtimestamp",
    "nextval",
    "now",
    "pg_current_xact_id",
    "random",
    "random_normal",
    "statement_timestamp",
    "timeofday",
    "transaction_timestamp",
    "txid_current",
    "uuid_generate_v1",
    "uuid_generate_v1mc",
    "uuid_generate_v4",
    "uuidv4",
    "uuidv7",
    "currval",
];

/// Texts that are another day or moment each time they are read as one.
const DAYS: [&str; 4] = ["now", "today", "tomorrow", "yesterday"];

/// The first words of types that read them so.
const TIMES: [&str; 5] = ["date", "time", "timestamp", "timestamptz", "timetz"];

/// What of a statement tells the time, or another value at each look, and its place.
pub(super) fn clock_of(sql: &str) -> Option<(usize, String)> {
    let word = tokens(sql).find(|(_, token)| CLOCKS.contains(&token.as_str()));
    [word, hidden(sql)].into_iter().flatten().min_by_key(|(at, _)| *at)
}

/// A part of a statement, comments aside.
struct Part<'s> {
    at: usize,
    text: &'s str,
    token: Token,
}

impl Part<'_> {
    fn is(&self, word: &str) -> bool {
        self.text.eq_ignore_ascii_case(word)
    }

    fn is_time(&self) -> bool {
        TIMES.iter().any(|ty| self.is(ty))
    }

    /// The word of a text that is another day each time.
    fn day(&self) -> Option<&'static str> {
        let text = self.text.strip_prefix('\'')?.strip_suffix('\'')?.to_lowercase();
        let mut words = text.split_whitespace();
        words.find_map(|word| DAYS.into_iter().find(|day| *day == word))
    }
}

/// What tells the time by how it is used: an age of one moment, and a day that is named from today.
fn hidden(sql: &str) -> Option<(usize, String)> {
    let parts = parts(sql);
    let word =
        |at: usize, step: usize, word: &str| parts.get(at + step).is_some_and(|part| part.is(word));
    parts.iter().enumerate().find_map(|(at, part)| {
        if part.token == Token::Word && part.is("age") && word(at, 1, "(") {
            return (arguments(parts.get(at + 1..)?) == 1)
                .then(|| (part.at, "age of one argument".to_owned()));
        }
        let day = part.day()?;
        let before = |step: usize| at.checked_sub(step).and_then(|at| parts.get(at));
        // 'today'::date, cast('today' as date)
        let cast = word(at, 1, ":") && word(at, 2, ":") && parts.get(at + 3)?.is_time()
            || word(at, 1, "::") && parts.get(at + 2)?.is_time()
            || word(at, 1, "as") && parts.get(at + 2)?.is_time();
        // date 'today', timestamp with time zone 'today', timestamp(0) 'today'
        let zoned = before(1).is_some_and(|part| part.is("zone"));
        let precise = before(1).is_some_and(|part| part.is(")"))
            && before(3).is_some_and(|part| part.is("("))
            && before(4).is_some_and(Part::is_time);
        let named = before(1).is_some_and(|part| part.token == Token::Word && part.is_time());
        let zoned = zoned && before(2).is_some_and(|part| part.is("time"));
        (cast || named || zoned || precise).then(|| (part.at, format!("'{day}'")))
    })
}

/// How many arguments stand between parentheses.
fn arguments(parts: &[Part<'_>]) -> usize {
    let (mut open, mut commas) = (0, 0);
    for part in parts {
        open += depth(&part.token);
        if open == 0 {
            break;
        }
        commas += usize::from(open == 1 && part.is(","));
    }
    commas + 1
}

/// The parts of a statement as far as they are known: what is no SQL is told by others.
fn parts(sql: &str) -> Vec<Part<'_>> {
    let (mut lexer, mut parts) = (Lexer::new(sql), Vec::new());
    while let Ok(Some((token, place))) = lexer.next() {
        let (at, text) = (place.start, sql.get(place).unwrap_or_default());
        if token != Token::Comment {
            parts.push(Part { at, text, token });
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tells_the_time_is_found_however_it_is_written() {
        let told = |sql: &str| clock_of(sql).map(|(_, what)| what);
        for (sql, what) in [
            ("select age(o.day) from o", "age of one argument"),
            ("select Age (coalesce(a, b)) from o", "age of one argument"),
            ("select 'today'::date", "'today'"),
            ("select ' Now '::timestamptz", "'now'"),
            ("select cast('yesterday' as timestamp)", "'yesterday'"),
            ("select date 'tomorrow'", "'tomorrow'"),
            ("select timestamp with time zone 'today 08:00'", "'today'"),
            ("select timestamp(0) 'now'", "'now'"),
            ("select uuidv4(), nextval('s')", "uuidv4"),
            ("select nextval('s')", "nextval"),
            ("select 1, now()", "now"),
        ] {
            assert_eq!(told(sql).as_deref(), Some(what), "{sql}");
        }
        for sql in [
            "select age(a, b), age from o",
            "select age(timestamp '2024-01-01', a)",
            "select 'today', status = 'now' from o",
            "select 'today'::text",
            "select '2024-01-01'::date, date '2024-01-01'",
            "select 'nowhere'::date -- age(x)",
        ] {
            assert_eq!(told(sql), None, "{sql}");
        }
    }
}
