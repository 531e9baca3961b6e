//! `where` of an extract: which rows of a source table it reads, in the words of that table, with the run's
//! variables as in psql.

use super::file::{File, Given};
use super::script::{self, Statement, Variable};
use crate::error::Result;
use crate::postgres::quote;

/// A condition over the columns of a source table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition(Statement);

/// What it stands behind: no statement begins with it, so that variables become literals.
const HEAD: &str = "where ";

impl Condition {
    /// The condition as SQL, in parentheses, with what each variable stands for.
    pub fn filled(&self, value: impl Fn(Variable) -> String) -> String {
        let (text, _) = self.0.render(|variable| quote::literal(&value(variable)));
        text.strip_prefix(HEAD).unwrap_or(&text).to_owned()
    }
}

/// Reads it.
pub(super) fn read(file: &File<'_>, field: &str, given: &Given) -> Result<Condition> {
    const REMEDY: &str =
        "write a condition over the source's columns, such as updated_at >= :'interval_start'";
    let text = file.text(field, given)?;
    let refuse = |why: &str, remedy: &str| Err(file.refuse_given(field, given, why, remedy));
    if text.trim().is_empty() {
        return refuse("it says nothing", REMEDY);
    }
    // a comment at its end must not take the parenthesis
    match script::read(&format!("{HEAD}({text}\n)")) {
        Err(flaw) => refuse(&flaw.why, &flaw.remedy),
        Ok(script) => match <[Statement; 1]>::try_from(script.statements) {
            Ok([statement]) => Ok(Condition(statement)),
            Err(_) => refuse("it is more than one condition", REMEDY),
        },
    }
}
