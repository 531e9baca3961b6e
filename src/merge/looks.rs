//! Columns that are looked up, as whoever writes rows fills them: by one statement over all rows that are to be
//! written, each combination of what they are looked up by asked once.
//!
//! They go by what is in place in the warehouse, not by a file: so rows that are written before a lookup changes are
//! swept behind it, and those that are written later have it. [`placed`] therefore locks the table before it looks;
//! who sweeps waits for those that hold that lock.

use tokio_postgres::{SimpleQueryMessage, Transaction};

use super::stored::StoredColumn;
use super::table::Merge;
use crate::error::{Error, Kind, Policy, Result};
use crate::journey::{Feed, Target};
use crate::postgres::quote;
use crate::spec::{History, Lookup, Model};

/// A value that rows are looked up by.
#[derive(Clone, Debug)]
pub(super) struct Input {
    /// The column's name, unquoted.
    pub name: String,
    /// Its value behind the alias `s`, as text.
    pub text: String,
    /// The type of the column, as it is declared.
    pub ty: String,
}

/// The lookups of a table that are in place; none of one that has none, or before the warehouse can answer them.
/// Until the transaction ends nothing is swept without it.
pub(super) async fn placed(transaction: &Transaction<'_>, model: &Model) -> Result<Vec<Lookup>> {
    if model.lookups.is_empty() {
        return Ok(Vec::new());
    }
    let failed = |error| {
        Error::warehouse("reading which of its columns are looked up", error)
            .on_table(model.table.to_string())
    };
    // of a table with leaves only itself: there may be thousands
    let query = format!(
        "lock table only {} in row exclusive mode; \
         select current_setting('transaction_isolation'), \
                (select l.placed::text from audit.lookups l where l.table_name = {})",
        model.quoted(),
        quote::literal(&model.table.to_string())
    );
    let messages = transaction.simple_query(&query).await.map_err(failed)?;
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let row = row.ok_or_else(|| Error::bug("a select of one row answered with none"))?;
    if row.get(0) != Some("read committed") {
        // a snapshot from before an edit sees what nobody sweeps
        let what = "rows that are looked up are written in READ COMMITTED";
        return Err(Error::new(Kind::TableStops, what)
            .on_table(model.table.to_string())
            .remedy("alter role … reset default_transaction_isolation, of the warehouse's role"));
    }
    let Some(text) = row.get(1) else { return Ok(Vec::new()) };
    read(text)
        .ok_or_else(|| Error::bug(format!("audit.lookups has strange lookups of {}", model.table)))
}

/// Lookups as `audit.lookups` has them, those of the model in its order.
fn read(text: &str) -> Option<Vec<Lookup>> {
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    let field = |of: &serde_json::Value, name: &str| Some(of.get(name)?.as_str()?.to_owned());
    let lookup = |of: &serde_json::Value| {
        let (name, ty, query) = (field(of, "name")?, field(of, "type")?, field(of, "query")?);
        Some(Lookup { name, ty, query, comment: None })
    };
    value.as_array()?.iter().map(lookup).collect()
}

/// The statements by which rows are looked up; none where nothing is.
pub(super) fn looking(
    target: &Target,
    stored: &[StoredColumn],
    (stage, placed): (&str, &[Lookup]),
) -> Vec<(String, String)> {
    let model = &target.model;
    let lookups = looked_up(target, stored, placed);
    if lookups.is_empty() {
        return Vec::new();
    }
    let Some(inputs) = inputs(target, stored, &lookups) else {
        // of what no event tells only the stored row knows: it is gone through behind the merge
        return vec![("look_later".to_owned(), later(model))];
    };
    let places = lookups.iter().map(|(n, lookup)| (*lookup, format!("l{n}"))).collect::<Vec<_>>();
    // where every event is a row, deletes are rows too
    let rows = match model.history {
        History::Append => "true",
        _ => "s._op not in ('d', 'l')",
    };
    let stage = filling(stage, rows, &inputs, &places);
    let own = |input: &Input| Input {
        text: format!("s.{}::pg_catalog.text", quote::ident(&input.name)),
        ..input.clone()
    };
    let own: Vec<Input> = inputs.iter().map(own).collect();
    let named = lookups.iter().map(|(_, lookup)| (*lookup, quote::ident(&lookup.name)));
    let late = filling("late_event", "s._op <> 'd'", &own, &named.collect::<Vec<_>>());
    vec![("look".to_owned(), called(&stage)), ("late_look".to_owned(), called(&late))]
}

/// The statement that marks all rows of a table to be looked up again.
pub(super) fn later(model: &Model) -> String {
    let table = quote::literal(&model.table.to_string());
    format!("insert into audit.touched (mart, input) values ({table}, '')")
}

/// The statement that calls `text`.
pub(super) fn called(text: &str) -> String {
    format!("select audit.look_up({})", quote::literal(text))
}

/// The lookups of a target that are in place, each with its number in the staging table.
pub(super) fn looked_up<'l>(
    target: &Target,
    stored: &[StoredColumn],
    placed: &'l [Lookup],
) -> Vec<(usize, &'l Lookup)> {
    let takes = |name: &str| stored.iter().any(|stored| stored.name == name && !stored.generated);
    let own = target.model.lookups.iter().enumerate().filter(|(_, own)| takes(&own.name));
    // one of another type has another place in the staging table; all rows are looked up once its own is in place
    let same = |own: &Lookup| placed.iter().find(|of| of.name == own.name && of.ty == own.ty);
    own.filter_map(|(n, own)| Some((n, same(own)?))).collect()
}

/// What lookups are looked up by, of staged rows; none where something of it is told by no event.
pub(super) fn inputs(
    target: &Target,
    stored: &[StoredColumn],
    lookups: &[(usize, &Lookup)],
) -> Option<Vec<Input>> {
    let mut names: Vec<String> = lookups.iter().flat_map(|(_, lookup)| lookup.inputs()).collect();
    names.sort_unstable();
    names.dedup();
    let input = |name: String| {
        let fed = |feed: &Feed| {
            target.model.columns.get(feed.column).is_some_and(|column| column.name == name)
        };
        let n = target.feeds.iter().position(fed)?;
        let stored = stored.iter().find(|stored| stored.name == name && !stored.generated)?;
        Some(Input { text: format!("s.c{n}::pg_catalog.text"), ty: stored.qualified(), name })
    };
    names.into_iter().map(input).collect()
}

/// The statement that fills lookups of the rows of `table` that meet `rows`, both by the alias `s`; `into` are their
/// columns, quoted. Where no input is given there is nothing that they could be looked up by.
pub(super) fn filling(
    table: &str,
    rows: &str,
    inputs: &[Input],
    lookups: &[(&Lookup, String)],
) -> String {
    let list = |of: &dyn Fn(usize, &Input) -> String| -> String {
        inputs.iter().enumerate().map(|(n, input)| of(n, input)).collect::<Vec<_>>().join(", ")
    };
    let asked = list(&|n, input| format!("{} as _i{n}", input.text));
    let typed = list(&|n, input| format!("_i{n}::{} as {}", input.ty, quote::ident(&input.name)));
    let places = list(&|n, _| format!("_i{n}"));
    let own: Vec<&str> = inputs.iter().map(|input| input.text.as_str()).collect();
    let names: Vec<String> = (0..inputs.len()).map(|n| format!("_i{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let answers: String = lookups
        .iter()
        .enumerate()
        .map(|(n, (lookup, _))| format!(", (\n{}\n) as _a{n}", lookup.query))
        .collect();
    let set: Vec<String> =
        lookups.iter().enumerate().map(|(n, (_, into))| format!("{into} = a._a{n}")).collect();
    format!(
        "with asked as materialized (\n    select distinct {asked} from {table} s where {rows}\n), \
         answered as materialized (\n    select {} as _k{answers}\n      \
         from (select {places}, {typed} from asked) as \"row\"\n)\n\
         update {table} s set {} from answered a where a._k = {} and {rows}",
        together(&names),
        set.join(", "),
        together(&own)
    )
}

/// Texts as one, which is another for any others; never NULL.
fn together(texts: &[&str]) -> String {
    let one = |text: &&str| match texts.len() {
        1 => format!("coalesce('=' || {text}, '')"),
        _ => format!("coalesce(length({text}) || ':' || {text}, '-')"),
    };
    format!("({}) collate \"C\"", texts.iter().map(one).collect::<Vec<_>>().join(" || "))
}

/// What a lookup that failed means: the table stops until somebody has mended it.
pub(super) fn unanswered(model: &Model, lookups: &[&str], error: tokio_postgres::Error) -> Error {
    let fields: Vec<String> = lookups.iter().map(|name| format!("columns.{name}.lookup")).collect();
    let (table, file, fields) = (&model.table, &model.declared_in, fields.join(", "));
    let error = Error::warehouse(format!("looking rows up by {fields} of {file}"), error)
        .on_table(table.to_string());
    let passes = match error.kind().policy() {
        Policy::Retry => true,
        Policy::Stop => error.code().is_none() || error.kind() != Kind::Bug,
        _ => false,
    };
    if passes {
        return error;
    }
    error.with_kind(Kind::TableStops).remedy(format!(
        "mend {fields} in {file}, or what it is looked up in: one row at most, of a value that fits; \
         then siltstone table resume {table:#}"
    ))
}

impl Merge {
    /// Fills what is looked up of the rows that are about to be written, whose other values are all there.
    pub(super) async fn look(&mut self, transaction: &Transaction<'_>, name: &str) -> Result<()> {
        if self.has("look_later") {
            return self.execute(transaction, "look_later", &[]).await.map(drop);
        }
        if !self.has(name) {
            return Ok(());
        }
        let statement = self.prepare(transaction, name).await?;
        transaction.execute(&statement, &[]).await.map(drop).map_err(|error| {
            let names: Vec<&str> = self.lookups().iter().map(|of| of.name.as_str()).collect();
            unanswered(&self.target().model, &names, error)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str, query: &str) -> Lookup {
        Lookup { name: name.into(), ty: "text".into(), query: query.into(), comment: None }
    }

    fn input(name: &str) -> Input {
        Input { name: name.into(), text: format!("s.{name}::text"), ty: "varchar(9)".into() }
    }

    #[test]
    fn each_combination_is_asked_once() {
        let region = lookup("region", "select r from t where t.a = row.a");
        let statement = filling("stage", "s.x", &[input("a")], &[(&region, "l0".to_owned())]);
        assert!(statement.contains("select distinct s.a::text as _i0 from stage s where s.x"));
        assert!(statement.contains("(\nselect r from t where t.a = row.a\n) as _a0"));
        assert!(statement.contains("_i0::varchar(9) as \"a\""), "{statement}");
        assert!(statement.contains("set l0 = a._a0 from answered a"));
        assert!(statement.ends_with("coalesce('=' || s.a::text, '')) collate \"C\" and s.x"));
    }

    #[test]
    fn several_values_together_are_told_apart() {
        let two = together(&["a", "b"]);
        let one = "coalesce(length(a) || ':' || a, '-') || coalesce(length(b) || ':' || b, '-')";
        assert_eq!(two, format!("({one}) collate \"C\""));
    }

    #[test]
    fn what_is_in_place_is_read() {
        let text = r#"[{"name": "region", "type": "text", "query": "select 1"}]"#;
        assert_eq!(read(text), Some(vec![lookup("region", "select 1")]));
        assert_eq!(read("[{}]"), None);
    }
}
