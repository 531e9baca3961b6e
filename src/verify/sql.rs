//! The queries of a comparison. Pure text: names quoted, values only as parameters.
//!
//! Both sides compute the same digest of a row: the text of each column in the warehouse's type, as
//! one row literal, in which NULL and '' differ.

use super::Pair;
use crate::postgres::quote;
use crate::relation::{Column, TypeKind};
use crate::spec::{Deletes, History, Model};

/// One side of a pair, as SQL.
pub(super) struct Expressions {
    /// What is selected from: a row as `t`, what of it is compared as `l.line`.
    from: String,
    /// Which of its rows count; empty for all.
    filter: &'static str,
    /// The key's columns as text.
    key: Vec<String>,
    /// What finds rows by their key: column and type.
    find: Vec<(String, String)>,
    /// Whether rows stay that the source has deleted.
    keeps_deleted: bool,
}

/// What tells rows of the same content apart, as a number.
pub(super) const PLACE: &str =
    "hashtextextended(t.tableoid::text || ' ' || t.ctid::text || ' ' || t.xmin::text, 0)";

/// A row's digest.
const DIGEST: &str = "md5(l.line)";

/// Its beginning as a number, which can be summed up.
const NUMBER: &str = "('x' || substr(md5(l.line), 1, 15))::bit(60)::int8";

/// How many bytes of a row are read.
const BYTES: &str = "octet_length(l.line)";

impl Expressions {
    /// Whether rows stay that the source has deleted.
    pub(super) fn keeps_deleted(&self) -> bool {
        self.keeps_deleted
    }

    /// The source's side.
    pub(super) fn of_source(pair: &Pair) -> Expressions {
        let text = |name: &str| source_text(pair, name);
        let only = if pair.partitioned { "" } else { "only " };
        let key = pair.model.key.iter();
        let from_column = |name: &String| {
            pair.model.column(name).map_or(name.clone(), |column| column.from.clone())
        };
        let source_type = |from: &str| {
            let at = pair.relation.columns.iter().find(|column| column.name == from);
            at.map_or("text".to_owned(), |column| column.ty.name.clone())
        };
        let table = format!("{only}{}", quote::table(&pair.relation.table));
        Expressions {
            from: with_line(&table, compared(pair).map(text)),
            filter: "",
            key: key.clone().map(|name| text(name)).collect(),
            find: key
                .map(from_column)
                .map(|from| (quote::ident(&from), source_type(&from)))
                .collect(),
            keeps_deleted: false,
        }
    }

    /// The warehouse's side.
    pub(super) fn of_warehouse(pair: &Pair) -> Expressions {
        let model = &pair.model;
        let is_xml = |name: &str| model.column(name).is_some_and(|column| column.ty == "xml");
        let text = |name: &str| as_text(&format!("t.{}", quote::ident(name)), is_xml(name));
        let filter = match (model.history, model.deletes) {
            (History::Versions, _) => "t.is_current",
            (_, Deletes::Soft) => "t._deleted_at is null",
            _ => "",
        };
        let ty = |name: &String| {
            let column = model.column(name);
            (quote::ident(name), column.map_or("text".to_owned(), |column| column.ty.clone()))
        };
        Expressions {
            from: with_line(&model.quoted(), compared(pair).map(text)),
            filter,
            key: model.key.iter().map(|name| text(name)).collect(),
            find: model.key.iter().map(ty).collect(),
            keeps_deleted: model.deletes == Deletes::Ignore,
        }
    }

    /// The bucket of a row's key.
    fn bucket(&self) -> String {
        format!("substr(md5(row({})::text), 1, 3)", self.key.join(", "))
    }

    /// The rows that count and meet all `conditions`.
    fn rows(&self, conditions: &[String]) -> String {
        let filter = (!self.filter.is_empty()).then_some(self.filter);
        let all: Vec<&str> =
            filter.into_iter().chain(conditions.iter().map(String::as_str)).collect();
        match all.is_empty() {
            true => self.from.clone(),
            false => format!("{} where {}", self.from, all.join(" and ")),
        }
    }

    /// Count and sum of the digests of each bucket.
    pub(super) fn buckets(&self) -> String {
        let (bucket, rows) = (self.bucket(), self.rows(&[]));
        format!("select {bucket}, count(*), sum({NUMBER})::text from {rows} group by 1")
    }

    /// Each row's bucket and the number of its digest.
    pub(super) fn in_buckets(&self) -> String {
        format!("select {}, {NUMBER}, {BYTES} from {}", self.bucket(), self.rows(&[]))
    }

    /// Keys and digests of some buckets ($1).
    pub(super) fn rows_of_buckets(&self) -> String {
        let rows = self.rows(&[format!("{} = any ($1)", self.bucket())]);
        format!("select array[{}], {DIGEST}, '', {BYTES} from {rows}", self.key.join(", "))
    }

    /// Keys and digests of some keys: one array of texts for each of the key's columns. `version`
    /// tells when the source's row was written.
    pub(super) fn rows_of_keys(&self, version: &str) -> String {
        let arrays: Vec<String> = (1..=self.find.len()).map(|n| format!("${n}::text[]")).collect();
        let names: Vec<String> = (1..=self.find.len()).map(|n| format!("k{n}")).collect();
        let found: Vec<String> = self
            .find
            .iter()
            .zip(&names)
            .map(|((column, ty), name)| format!("t.{column} = w.{name}::{ty}"))
            .collect();
        format!(
            "select array[{}], {DIGEST}, {version}, {BYTES} from unnest({}) as w({}), {}",
            self.key.join(", "),
            arrays.join(", "),
            names.join(", "),
            self.rows(&found)
        )
    }

    /// How many rows there are of each content, and the sum of what `place` says of them.
    pub(super) fn contents(&self, place: &str) -> String {
        let rows = self.rows(&[]);
        format!("select {DIGEST}, count(*), sum({place})::text from {rows} group by 1")
    }

    /// Each row's content, and what `place` says of it.
    pub(super) fn each_content(&self, place: &str) -> String {
        format!("select {DIGEST}, ({place})::int8, {BYTES} from {}", self.rows(&[]))
    }
}

/// A table with what of each row is compared, as one text that is made once.
fn with_line(table: &str, columns: impl Iterator<Item = String>) -> String {
    let columns: Vec<String> = columns.collect();
    let line = format!("select row({})::text as line offset 0", columns.join(", "));
    format!("{table} t cross join lateral ({line}) l")
}

/// The columns that are compared: those that the source feeds, as they are.
fn compared(pair: &Pair) -> impl Iterator<Item = &str> {
    let fed = |column: &Column, from: &str| column.name == from && column.mask.is_none();
    let fed = move |from: &str| pair.relation.columns.iter().any(|column| fed(column, from));
    let columns = pair.model.columns.iter().filter(move |column| fed(&column.from));
    columns.map(|column| column.name.as_str())
}

/// A source column as text, in the type that the warehouse has it in.
fn source_text(pair: &Pair, name: &str) -> String {
    let Some(column) = pair.model.column(name) else { return "null".to_owned() };
    let from = pair.relation.columns.iter().find(|candidate| candidate.name == column.from);
    let Some(from) = from else { return "null".to_owned() };
    let quoted = format!("t.{}", quote::ident(&column.from));
    match &from.ty.kind {
        TypeKind::Builtin { name, .. } if *name != column.ty => {
            format!("{quoted}::{}::text", column.ty)
        }
        TypeKind::Builtin { oid: XML, .. } => as_text(&quoted, true),
        _ => as_text(&quoted, false),
    }
}

const XML: u32 = 142;

/// A value as text. The cast of an xml keeps its declaration, which the value itself does not show and
/// replication does not carry.
fn as_text(value: &str, is_xml: bool) -> String {
    match is_xml {
        true => format!("case when {value} is not null then format('%s', {value}) end"),
        false => format!("{value}::text"),
    }
}

/// The key's columns, and an array of them as text.
fn key_of(model: &Model) -> (String, String) {
    let key = quote::idents(model.key.iter().map(String::as_str));
    let texts: Vec<String> =
        model.key.iter().map(|name| format!("{}::text", quote::ident(name))).collect();
    (key, format!("array[{}]", texts.join(", ")))
}

/// The keys that wait behind an open dead letter of the table $1, and its number.
pub(super) fn waiting(model: &Model) -> String {
    let from =
        |name: &String| model.column(name).map_or(name.clone(), |column| column.from.clone());
    let texts = model.key.iter().map(|name| format!("key ->> {}", quote::literal(&from(name))));
    let texts: Vec<String> = texts.collect();
    format!(
        "select array[{}], min(id) from audit.dead_letters \
         where table_name = $1 and state = 'open' and key is not null group by 1",
        texts.join(", ")
    )
}

/// What no constraint holds: a query that names the keys which break it and says how often, at most $1 of them;
/// and one that gives every row's key, whether the rule is broken there, and how many bytes were read for it.
pub(super) struct Rule {
    pub(super) broken: String,
    pub(super) each: String,
}

/// What is read of a row where only its key and two times of it count.
fn bytes_of_key(model: &Model) -> String {
    let sizes = model.key.iter().map(|name| format!("pg_column_size({})", quote::ident(name)));
    let sizes: Vec<String> = sizes.collect();
    format!("40 + {}", sizes.join(" + "))
}

/// Versions that overlap. In the order of their ends, which is that of the primary key, some do where one begins
/// before the one before it has ended.
pub(super) fn overlaps(model: &Model) -> Rule {
    let (key, texts) = key_of(model);
    let (table, bytes) = (model.quoted(), bytes_of_key(model));
    let twice =
        format!("lag(valid_to) over (partition by {key} order by valid_to) > valid_from as twice");
    Rule {
        broken: format!(
            "select {texts}, (sum(count(*)) over ())::int8 from (select {key}, {twice} from {table}) v \
             where twice group by {key} order by {key} limit $1"
        ),
        each: format!(
            "select {texts}, coalesce(twice, false), bytes \
             from (select {key}, {twice}, {bytes} as bytes from {table}) v"
        ),
    }
}

/// Keys with two current versions.
pub(super) fn double_currents(model: &Model) -> Rule {
    let (key, texts) = key_of(model);
    let (table, bytes) = (model.quoted(), bytes_of_key(model));
    Rule {
        broken: format!(
            "select {texts}, count(*) over () from {table} where is_current group by {key} \
             having count(*) > 1 order by {key} limit $1"
        ),
        each: format!(
            "select {texts}, row_number() over (partition by {key} order by valid_to) = 2, {bytes} \
             from {table} where is_current"
        ),
    }
}

/// Keys whose locator is missing, superfluous or wrong, as that of a row that stands twice.
pub(super) fn locator(model: &Model) -> Rule {
    let (key, texts) = key_of(model);
    let by = model.partition.as_ref().map_or(String::new(), |p| quote::ident(&p.by));
    let both = format!(
        "{} l full join {} t using ({key})",
        quote::table(&model.locator()),
        model.quoted()
    );
    Rule {
        broken: format!(
            "select {texts}, count(*) over () from {both} where l.{by} is distinct from t.{by} \
             order by {key} limit $1"
        ),
        each: format!(
            "select {texts}, l.{by} is distinct from t.{by}, {} from {both}",
            bytes_of_key(model)
        ),
    }
}
