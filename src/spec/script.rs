//! The SQL of jobs: a file that also runs in psql, cut into its statements, with psql's variables found.
//!
//! `:'ds'` becomes a parameter where the statement takes parameters and a literal is no part of the type
//! before it (`date :'ds'`); else a quoted literal, as in psql. Text, names, comments, dollar quotes and
//! casts stay as they are. Pure.

use std::ops::Range;

use super::lexer::{Lexer, Token};

/// What a run tells its SQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variable {
    /// The day of the logical date.
    Ds,
    /// The day of the logical date before it.
    PrevDs,
    /// Where the data interval begins.
    IntervalStart,
    /// Where it ends.
    IntervalEnd,
}

/// Their names.
pub(super) const VARIABLES: [(&str, Variable); 4] = [
    ("ds", Variable::Ds),
    ("prev_ds", Variable::PrevDs),
    ("interval_start", Variable::IntervalStart),
    ("interval_end", Variable::IntervalEnd),
];

/// A file's statements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    /// In their order.
    pub statements: Vec<Statement>,
}

/// One statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Its parts; a variable stands between two of them.
    pub parts: Vec<Part>,
    /// The line it begins on, from 1.
    pub line: usize,
}

/// A part of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// SQL as written.
    Text(String),
    /// A variable that is sent as a parameter.
    Parameter(Variable),
    /// A variable that is written as a quoted literal.
    Literal(Variable),
}

/// What is wrong with a script: the line, what, and what to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flaw {
    /// From 1.
    pub line: usize,
    /// What is wrong.
    pub why: String,
    /// What to write.
    pub remedy: String,
}

/// Words that begin a statement with parameters.
const TAKE_PARAMETERS: [&str; 7] =
    ["select", "insert", "update", "delete", "merge", "with", "values"];

/// Words that would end or cut the transaction that a task is.
const OF_TRANSACTIONS: [&str; 8] =
    ["begin", "start", "commit", "end", "rollback", "abort", "savepoint", "release"];

/// What a literal of a type stands behind: the end of `date`, `timestamp(3)` or `character varying`.
const TYPES: [&str; 18] = [
    ")",
    "date",
    "timestamp",
    "timestamptz",
    "time",
    "timetz",
    "interval",
    "zone",
    "text",
    "varchar",
    "char",
    "character",
    "varying",
    "bpchar",
    "nchar",
    "name",
    "json",
    "jsonb",
];

/// A statement that is being read.
#[derive(Default)]
struct Open {
    parts: Vec<Part>,
    /// where it begins, and where what is yet to be copied does
    from: Option<usize>,
    copied: usize,
    words: Vec<String>,
    before: String,
    parentheses: u32,
    /// `begin atomic … end` of a function's body, and the cases in it
    blocks: u32,
    /// `select … into` makes a table, and then takes no parameters
    makes_table: bool,
}

impl Open {
    fn defines_function(&self) -> bool {
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        matches!(
            words.as_slice(),
            ["create", "function" | "procedure", ..]
                | ["create", "or", "replace", "function" | "procedure", ..]
        )
    }

    fn word(&mut self, word: &str) {
        if self.defines_function() && self.parentheses == 0 {
            match word {
                "begin" => self.blocks += 1,
                "case" if self.blocks > 0 => self.blocks += 1,
                "end" => self.blocks = self.blocks.saturating_sub(1),
                _ => {}
            }
        }
        let inserts = matches!(self.before.as_str(), "insert" | "merge");
        self.makes_table |= word == "into" && !inserts && self.parentheses == 0;
        if self.words.len() < 5 {
            self.words.push(word.to_owned());
        }
    }

    fn variable(&mut self, variable: Variable, text: &str, place: &Range<usize>) {
        self.text_up_to(text, place.start);
        self.copied = place.end;
        let takes = self.words.first().is_some_and(|w| TAKE_PARAMETERS.contains(&w.as_str()))
            && !TYPES.contains(&self.before.as_str());
        self.parts.push(if takes { Part::Parameter(variable) } else { Part::Literal(variable) });
    }

    fn text_up_to(&mut self, text: &str, end: usize) {
        let behind = text.get(self.copied..end).unwrap_or_default();
        if !behind.is_empty() {
            self.parts.push(Part::Text(behind.to_owned()));
        }
    }
}

/// Cuts a script into its statements.
pub(super) fn read(text: &str) -> Result<Script, Flaw> {
    let mut lexer = Lexer::new(text);
    let (mut script, mut open) = (Script::default(), Open::default());
    while let Some((token, place)) = lexer.next()? {
        if token == Token::Comment {
            continue;
        }
        if token == Token::Semicolon && open.parentheses == 0 && open.blocks == 0 {
            close(&mut script, std::mem::take(&mut open), text, place.start);
            continue;
        }
        if open.from.is_none() {
            (open.from, open.copied) = (Some(place.start), place.start);
        }
        let written = text.get(place.clone()).unwrap_or_default().to_ascii_lowercase();
        match token {
            Token::Word => {
                if open.words.is_empty() && OF_TRANSACTIONS.contains(&written.as_str()) {
                    let why =
                        format!("{written}: a task is one transaction, from its first statement");
                    return Err(lexer.flaw(place.start, why, "remove the statement"));
                }
                if written == "transaction" && open.words == ["prepare"] {
                    let why =
                        "prepare transaction: a task is one transaction, and commits it itself";
                    return Err(lexer.flaw(place.start, why, "remove the statement"));
                }
                open.word(&written);
            }
            Token::Variable(variable) => open.variable(variable, text, &place),
            Token::Open => open.parentheses += 1,
            Token::Close => open.parentheses = open.parentheses.saturating_sub(1),
            Token::Other | Token::Semicolon | Token::Comment => {}
        }
        open.before = written;
    }
    close(&mut script, open, text, text.trim_end().len());
    if script.statements.is_empty() {
        let (why, remedy) = ("there is no statement in it".to_owned(), "write one".to_owned());
        return Err(Flaw { line: 1, why, remedy });
    }
    Ok(script)
}

fn close(script: &mut Script, mut open: Open, text: &str, end: usize) {
    let Some(from) = open.from else { return };
    open.text_up_to(text, end);
    if open.makes_table {
        for part in &mut open.parts {
            if let Part::Parameter(variable) = *part {
                *part = Part::Literal(variable);
            }
        }
    }
    let line = text.get(..from).unwrap_or_default().matches('\n').count() + 1;
    script.statements.push(Statement { parts: open.parts, line });
}

impl Statement {
    /// Its text, and the variables of its parameters in their order. `literal` writes what is not a
    /// parameter.
    pub fn render(&self, literal: impl Fn(Variable) -> String) -> (String, Vec<Variable>) {
        let (mut text, mut parameters) = (String::new(), Vec::new());
        for part in &self.parts {
            match part {
                Part::Text(written) => text.push_str(written),
                Part::Literal(variable) => text.push_str(&literal(*variable)),
                Part::Parameter(variable) => {
                    // one that is written twice may be of two types
                    parameters.push(*variable);
                    text.push_str(&format!("${}", parameters.len()));
                }
            }
        }
        (text, parameters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str) -> Vec<String> {
        let script = read(text).unwrap_or_else(|flaw| panic!("{text}: {flaw:?}"));
        let shown =
            |statement: &Statement| statement.render(|variable| format!("<{variable:?}>")).0;
        script.statements.iter().map(shown).collect()
    }

    #[test]
    fn statements_end_at_semicolons_that_are_no_part_of_anything_else() {
        let text = "-- a; b\nselect ';' , \"a;b\" /* ; /* ; */ ; */ , E'\\';' , $x$ ; $$ ; $x$;\n\
                    do $$ begin perform 1; end $$;\n\n select 1 ; ; select 2";
        let statements = cut(text);
        assert_eq!(statements.len(), 4, "{statements:#?}");
        assert_eq!(statements[2].trim(), "select 1");
        assert_eq!(statements[3], "select 2");
        let script = read(text).unwrap();
        assert_eq!(script.statements.iter().map(|s| s.line).collect::<Vec<_>>(), [2, 3, 5, 5]);
    }

    #[test]
    fn a_quoted_text_that_goes_on_in_a_later_line_keeps_its_escapes() {
        assert_eq!(cut("select E'a' -- x\n  'it\\'s;', :'ds'; select 2").len(), 2);
        // without escapes a backslash is one, and on one line nothing goes on
        assert_eq!(cut("select 'a'\n'it\\'; select :'ds'").len(), 2);
        assert_eq!(cut("select E'a', '\\'; select :'ds'").len(), 2);
    }

    #[test]
    fn the_body_of_a_function_is_one_statement() {
        let text = "create or replace function f(a int) returns int begin atomic select 1; \
                    select case when a > 0 then 1 else 2 end; end; select 1;\
                    create rule r as on insert to t do also (insert into u values (1); select 2)";
        assert_eq!(cut(text).len(), 3, "{:#?}", cut(text));
    }

    #[test]
    fn variables_are_parameters_where_they_can_be() {
        assert_eq!(
            cut("select :'ds', ':''ds''', a[1:2], x::date, $$:'ds'$$, :'prev_ds'::date -- :'ds'"),
            ["select $1, ':''ds''', a[1:2], x::date, $$:'ds'$$, $2::date -- :'ds'"]
        );
        assert_eq!(cut("insert into t select date :'ds'"), ["insert into t select date <Ds>"]);
        for literal in [
            "select timestamp(3) :'ds'",
            "select timestamp with time zone :'ds'",
            "select text :'ds'",
            "select varchar :'ds'",
            "select character varying (10) :'ds'",
        ] {
            assert_eq!(cut(literal), [literal.replace(":'ds'", "<Ds>")]);
        }
        assert_eq!(cut("select f(:'ds') + (:'ds')"), ["select f($1) + ($2)"]);
        assert_eq!(cut("select :'ds' into t"), ["select <Ds> into t"]);
        assert_eq!(
            cut("create table t as select :'interval_end'::timestamptz"),
            ["create table t as select <IntervalEnd>::timestamptz"]
        );
    }

    #[test]
    fn what_cannot_run_is_refused_with_its_line() {
        for (text, line, why) in [
            ("select 1;\nselect :'dss'", 2, "no variable dss"),
            ("select :ds", 1, "without quotes"),
            ("select :\"ds\"", 1, "without quotes"),
            ("select 1;\n\ncommit;", 3, "one transaction"),
            ("select 1;\nprepare transaction 'x'", 2, "one transaction"),
            ("\\echo x", 1, "command of psql"),
            ("select 'a", 1, "does not end"),
            ("select $b$ a $c$", 1, "does not end"),
            ("/* /* */", 1, "does not end"),
            ("select $1", 1, "without a value"),
            ("-- nothing\n ;", 1, "no statement"),
        ] {
            let flaw = read(text).unwrap_err();
            assert!(flaw.line == line && flaw.why.contains(why), "{text}: {flaw:?}");
        }
    }
}
