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
    /// What is selected from, with its filter.
    from: String,
    /// The key's columns as text.
    key: Vec<String>,
    /// What finds rows by their key: column and type.
    find: Vec<(String, String)>,
    /// All columns as text.
    columns: Vec<String>,
    /// Whether a filter is there already.
    filtered: bool,
    /// Whether rows stay that the source has deleted.
    keeps_deleted: bool,
}

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
        Expressions {
            from: format!("{only}{} t", quote::table(&pair.relation.table)),
            key: key.clone().map(|name| text(name)).collect(),
            find: key
                .map(from_column)
                .map(|from| (quote::ident(&from), source_type(&from)))
                .collect(),
            columns: compared(pair).map(text).collect(),
            filtered: false,
            keeps_deleted: false,
        }
    }

    /// The warehouse's side.
    pub(super) fn of_warehouse(pair: &Pair) -> Expressions {
        let model = &pair.model;
        let is_xml = |name: &str| model.column(name).is_some_and(|column| column.ty == "xml");
        let text = |name: &str| as_text(&format!("t.{}", quote::ident(name)), is_xml(name));
        let filter = match (model.history, model.deletes) {
            (History::Versions, _) => " where t.is_current",
            (_, Deletes::Soft) => " where t._deleted_at is null",
            _ => "",
        };
        let ty = |name: &String| {
            let column = model.column(name);
            (quote::ident(name), column.map_or("text".to_owned(), |column| column.ty.clone()))
        };
        Expressions {
            from: format!("{} t{filter}", model.quoted()),
            key: model.key.iter().map(|name| text(name)).collect(),
            find: model.key.iter().map(ty).collect(),
            columns: compared(pair).map(text).collect(),
            filtered: !filter.is_empty(),
            keeps_deleted: model.deletes == Deletes::Ignore,
        }
    }

    fn digest(&self) -> String {
        format!("md5(row({})::text)", self.columns.join(", "))
    }

    fn key_digest(&self) -> String {
        format!("md5(row({})::text)", self.key.join(", "))
    }

    fn and(&self) -> &'static str {
        if self.filtered { " and " } else { " where " }
    }

    /// Count and sum of the digests of each bucket.
    pub(super) fn buckets(&self) -> String {
        format!(
            "select substr({}, 1, 3), count(*), \
             sum(('x' || substr({}, 1, 15))::bit(60)::int8)::text from {} group by 1",
            self.key_digest(),
            self.digest(),
            self.from
        )
    }

    /// Keys and digests of some buckets ($1).
    pub(super) fn rows_of_buckets(&self) -> String {
        format!(
            "select array[{}], {}, '' from {}{}substr({}, 1, 3) = any ($1)",
            self.key.join(", "),
            self.digest(),
            self.from,
            self.and(),
            self.key_digest()
        )
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
        let unnest = format!("unnest({}) as w({})", arrays.join(", "), names.join(", "));
        format!(
            "select array[{}], {}, {version} from {unnest}, {}{}{}",
            self.key.join(", "),
            self.digest(),
            self.from,
            self.and(),
            found.join(" and ")
        )
    }

    /// How many rows there are of each content, and an aggregate of them.
    pub(super) fn contents(&self, rows: &str) -> String {
        format!("select {}, count(*), {rows} from {} group by 1", self.digest(), self.from)
    }
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

/// The keys whose versions overlap, so many times, and how many are named in all; at most $1 of them.
pub(super) fn overlaps(model: &Model) -> String {
    let (key, texts) = key_of(model);
    format!(
        "select {texts}, (sum(count(*)) over ())::int8 from (select {key}, valid_to > lead(valid_from) \
         over (partition by {key} order by valid_from, valid_to) as twice from {}) v where twice \
         group by {key} order by {key} limit $1",
        model.quoted()
    )
}

/// The keys with two current versions, and how many there are; at most $1 of them.
pub(super) fn double_currents(model: &Model) -> String {
    let (key, texts) = key_of(model);
    format!(
        "select {texts}, count(*) over () from {} where is_current group by {key} \
         having count(*) > 1 order by {key} limit $1",
        model.quoted()
    )
}

/// The keys whose locator is missing, superfluous or wrong, as that of a row that stands twice, and how many
/// there are; at most $1 of them.
pub(super) fn locator(model: &Model) -> String {
    let (key, texts) = key_of(model);
    let by = model.partition.as_ref().map_or(String::new(), |p| quote::ident(&p.by));
    format!(
        "select {texts}, count(*) over () from {} l full join {} t using ({key}) \
         where l.{by} is distinct from t.{by} order by {key} limit $1",
        quote::table(&model.locator()),
        model.quoted()
    )
}
