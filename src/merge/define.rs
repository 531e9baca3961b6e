//! The statements that make a warehouse table: its columns and ours, key, partitions, comments.
//!
//! Pure text from a model. Leaves that depend on data are made in `leaves`.

use crate::names::TableName;
use crate::postgres::quote;
use crate::spec::{Calendar, Deletes, History, Lookup, Model, ModelColumn};

/// The end of a version that is still valid.
const OPEN_END: &str = "'9999-12-31 00:00+00'";

/// The order at the source and the time of the last write, in every kept table.
const OURS: &str = "_seq bigint not null, _ord bigint not null, _synced_at timestamptz not null";

/// What a versions table has beside.
const VALIDITY: &str = "valid_from timestamptz not null, valid_to timestamptz not null, \
    is_current boolean generated always as (valid_to = '9999-12-31 00:00+00'::timestamptz) stored, \
    _end_seq bigint, _end_ord bigint, _last_seq bigint not null, _last_ord bigint not null, \
    check (valid_from < valid_to)";

/// Rows are updated in place where the page has room, without a new index entry.
const ROOM: &str = "with (fillfactor = 90)";

/// The statements that make the table, in their order. `readers` may select from it.
pub fn define(model: &Model, readers: &[String]) -> Vec<String> {
    let mut statements = define_unkeyed(model, readers);
    statements.extend(key_statement(model));
    statements.extend(model.indexes.iter().map(|index| index_statement(model, index)));
    statements
}

/// The same for a table whose first rows are yet to come: its key and indexes are cheaper to
/// build behind them.
pub fn define_unkeyed(model: &Model, readers: &[String]) -> Vec<String> {
    let mut statements =
        vec![format!("create schema if not exists {}", quote::ident(&model.table.schema))];
    match model.history {
        History::Raw => raw(model, &mut statements),
        History::Versions => versions(model, &mut statements),
        History::Overwrite => overwrite(model, &mut statements),
        History::Append => append(model, &mut statements),
        History::Bag => bag(model, &mut statements),
    }
    comments(model, &mut statements);
    let view = (model.history == History::Versions).then(|| model.current_view());
    for table in [Some(model.table.clone()), view].into_iter().flatten() {
        grants(&table, readers, &mut statements);
    }
    statements
}

/// The statement behind [`define_unkeyed`] that gives a plain upsert table its key.
pub fn key_statement(model: &Model) -> Option<String> {
    let plain = model.history == History::Overwrite && model.partition.is_none();
    let key = || format!("alter table {} add primary key ({})", model.quoted(), key_list(model));
    plain.then(key)
}

/// The statement that takes the rows of a first reading that broke off out of a table: nothing was applied
/// behind them.
pub fn emptying(model: &Model) -> String {
    let locator = model.has_locator().then(|| format!(", {}", quote::table(&model.locator())));
    format!("truncate {}{}", model.quoted(), locator.unwrap_or_default())
}

/// The statement that makes an index of the model's.
pub(super) fn index_statement(model: &Model, index: &[String]) -> String {
    let columns = quote::idents(index.iter().map(String::as_str));
    format!("create index on {} ({columns})", model.quoted())
}

/// The statements that add a column to a table that is there. Its rows get what the source's have; the
/// default itself does not stay, as it would outlive the source's and bar the way to another type.
pub(super) fn add_column(model: &Model, column: &ModelColumn) -> Vec<String> {
    let (table, name) = (model.quoted(), quote::ident(&column.name));
    let add = format!("alter table {table} add column {name} {}", column.ty);
    match &column.fill {
        None => vec![add],
        Some(fill) => vec![
            format!("{add} default {}", quote::literal(fill)),
            format!("alter table {table} alter column {name} drop default"),
        ],
    }
}

/// The statements that add a column that is looked up. The lookups of the table are put in place anew then, which
/// fills it.
pub(super) fn add_lookup(model: &Model, lookup: &Lookup) -> Vec<String> {
    let (table, name) = (model.quoted(), quote::ident(&lookup.name));
    let known = quote::literal(&model.table.to_string());
    vec![
        format!("alter table {table} add column {name} {}", lookup.ty),
        format!(
            "update audit.lookups set definition = '', placed = null where table_name = {known}"
        ),
    ]
}

fn column_list(model: &Model, nullable: bool) -> String {
    let define = |column: &ModelColumn| {
        let key = model.key.contains(&column.name);
        let required = if (column.required || key) && !nullable { " not null" } else { "" };
        format!("{} {}{required}, ", quote::ident(&column.name), column.ty)
    };
    let looked_up = model
        .lookups
        .iter()
        .map(|lookup| format!("{} {}, ", quote::ident(&lookup.name), lookup.ty));
    model.columns.iter().map(define).chain(looked_up).collect()
}

pub(super) fn key_list(model: &Model) -> String {
    quote::idents(model.key.iter().map(String::as_str))
}

fn overwrite(model: &Model, statements: &mut Vec<String>) {
    let columns = column_list(model, false);
    let deleted = if model.deletes == Deletes::Soft { "_deleted_at timestamptz, " } else { "" };
    let table = model.quoted();
    let Some(partition) = &model.partition else {
        return statements.push(format!("create table {table} ({columns}{deleted}{OURS}) {ROOM}"));
    };
    let by = quote::ident(&partition.by);
    let physical = quote::idents(model.physical_key());
    statements.push(format!(
        "create table {table} ({columns}{deleted}{OURS}, primary key ({physical})) \
         partition by range ({by})"
    ));
    if model.has_locator() {
        statements.extend(locator(model));
    }
}

/// The statements that make a table's locator anew.
pub(super) fn locator(model: &Model) -> [String; 2] {
    let by = model.partition.as_ref().map_or("", |partition| partition.by.as_str());
    let placed = model.columns.iter();
    let placed = placed.filter(|column| model.key.contains(&column.name) || column.name == by);
    let placed: String = placed
        .map(|column| format!("{} {} not null, ", quote::ident(&column.name), column.ty))
        .collect();
    let name = quote::table(&model.locator());
    [
        // that of a table of this name that was dropped knows places which are none any more
        format!("drop table if exists {name}"),
        format!(
            "create table {name} ({placed}_seq bigint not null, _ord bigint not null, \
             primary key ({}))",
            key_list(model)
        ),
    ]
}

fn versions(model: &Model, statements: &mut Vec<String>) {
    let table = model.quoted();
    statements.push(format!(
        "create table {table} ({}{VALIDITY}, {OURS}, primary key ({})) \
         partition by range (valid_to)",
        column_list(model, false),
        quote::idents(model.physical_key())
    ));
    statements.push(current_leaf_statement(model));
    statements.push(view_statement(model));
}

/// The statement that makes the view of current versions, or gives it the columns it lacks.
pub(super) fn view_statement(model: &Model) -> String {
    let (view, table) = (quote::table(&model.current_view()), model.quoted());
    format!("create or replace view {view} as select * from {table} where is_current")
}

/// The statement that makes the leaf of current versions.
pub(super) fn current_leaf_statement(model: &Model) -> String {
    format!(
        "create table {} partition of {} for values from ({OPEN_END}) to (maxvalue) {ROOM}",
        quote::table(&model.current_leaf()),
        model.quoted()
    )
}

/// The columns of an append table are nullable: of a deleted row only its key is known.
fn append(model: &Model, statements: &mut Vec<String>) {
    let table = model.quoted();
    let by = model.partition.as_ref().map(|partition| quote::ident(&partition.by));
    let partition = by.map(|by| format!(" partition by range ({by})")).unwrap_or_default();
    let columns = column_list(model, true);
    statements
        .push(format!("create table {table} ({columns}_op text not null, {OURS}){partition}"));
    statements.push(event_key(model));
}

/// The statement by which no event stands twice in an append table.
pub(super) fn event_key(model: &Model) -> String {
    let table = model.quoted();
    if model.key.is_empty() {
        return event_index(model, "unique index");
    }
    let by = model.partition.as_ref().map(|partition| &partition.by);
    let by = by.filter(|by| !model.key.contains(by));
    let columns = model.key.iter().chain(by).map(String::as_str);
    format!("alter table {table} add unique ({}, _seq, _ord)", quote::idents(columns))
}

/// An index of the events of an append table without key, by their places. The rows of a snapshot share one.
fn event_index(model: &Model, kind: &str) -> String {
    let by = model.partition.as_ref().map(|by| format!("{}, ", quote::ident(&by.by)));
    let (table, by) = (model.quoted(), by.unwrap_or_default());
    format!("create {kind} on {table} ({by}_seq, _ord) where _op <> 'r'")
}

/// The statement of an index by which rows are found that came by a topic before, in tables whose key does not
/// tell them apart.
pub fn order_index(model: &Model) -> Vec<String> {
    let table = model.quoted();
    match model.history {
        History::Bag => vec![format!("create index on {table} (_seq, _ord)")],
        History::Append if model.key.is_empty() => {
            vec![format!("create index on {table} (_seq, _ord) where _op = 'r'")]
        }
        _ => Vec::new(),
    }
}

/// The statements that make a table, for one that topics feed: where it has no key, an event of a place is told apart
/// from the others of the page that COPY filled by its content, and no index does that.
pub fn by_content(model: &Model, mut making: Vec<String>) -> Vec<String> {
    if model.history == History::Append && model.key.is_empty() {
        let (unique, plain) = (event_key(model), event_index(model, "index"));
        making.iter_mut().filter(|made| **made == unique).for_each(|made| made.clone_from(&plain));
    }
    making
}

fn bag(model: &Model, statements: &mut Vec<String>) {
    let table = model.quoted();
    let columns = column_list(model, true);
    statements.push(format!("create table {table} ({columns}_row uuid not null, {OURS})"));
    statements.push(format!("create index on {table} (_row)"));
}

fn raw(model: &Model, statements: &mut Vec<String>) {
    let table = model.quoted();
    statements.push(format!(
        "create table {table} (id bigserial, raw_data jsonb not null, \
         loaded_at timestamptz not null default now(), source_system varchar(50) not null, \
         load_id varchar(50) not null, created_at timestamptz not null default now(), \
         primary key (id, loaded_at)) partition by range (loaded_at)"
    ));
    statements.push(format!("create index on {table} (load_id)"));
}

pub(super) fn comments(model: &Model, statements: &mut Vec<String>) {
    let table = model.quoted();
    if let Some(comment) = &model.comment {
        statements.push(format!("comment on table {table} is {}", quote::literal(comment)));
    }
    let fed = model.columns.iter().map(|column| (&column.name, &column.comment));
    let looked_up = model.lookups.iter().map(|lookup| (&lookup.name, &lookup.comment));
    for (name, comment) in fed.chain(looked_up) {
        if let Some(comment) = comment {
            let name = quote::ident(name);
            let comment = quote::literal(comment);
            statements.push(format!("comment on column {table}.{name} is {comment}"));
        }
    }
}

pub(super) fn grants(table: &TableName, readers: &[String], statements: &mut Vec<String>) {
    for reader in readers {
        let (schema, reader) = (quote::ident(&table.schema), quote::ident(reader));
        statements.push(format!("grant usage on schema {schema} to {reader}"));
        statements.push(format!("grant select on {} to {reader}", quote::table(table)));
    }
}

/// The statements that make a calendar and fill it; running them again changes nothing.
pub fn define_calendar(calendar: &Calendar, readers: &[String]) -> Vec<String> {
    let table = quote::table(&calendar.table);
    let mut statements = vec![
        format!("create schema if not exists {}", quote::ident(&calendar.table.schema)),
        format!(
            "create table if not exists {table} (date_id date primary key, year integer not null, \
             quarter integer not null, month integer not null, week integer not null, \
             day_of_year integer not null, day_of_month integer not null, \
             day_of_week integer not null, is_weekend boolean not null, \
             is_holiday boolean not null, holiday_name text)"
        ),
        fill_calendar(calendar),
    ];
    if let Some(comment) = &calendar.comment {
        statements.push(format!("comment on table {table} is {}", quote::literal(comment)));
    }
    grants(&calendar.table, readers, &mut statements);
    statements
}

/// The statement that fills a calendar, and knows its holidays anew.
pub fn fill_calendar(calendar: &Calendar) -> String {
    let table = quote::table(&calendar.table);
    let day = |day: i64| format!("(date '2000-01-01' + {day})");
    let holidays: Vec<String> = calendar
        .holidays
        .iter()
        .map(|(day, name)| format!("({}::date, {})", quote::literal(day), quote::literal(name)))
        .collect();
    let holidays = match holidays.is_empty() {
        true => "select null::date, null::text where false".to_owned(),
        false => format!("values {}", holidays.join(", ")),
    };
    format!(
        "insert into {table} as t select d::date, extract(year from d), extract(quarter from d), \
             extract(month from d), extract(week from d), extract(doy from d), extract(day from d), \
             extract(isodow from d), extract(isodow from d) > 5, h.day is not null, h.name \
             from generate_series({}::timestamp, {}, '1 day') d \
             left join ({holidays}) h(day, name) on h.day = d::date \
             on conflict (date_id) do update \
             set is_holiday = excluded.is_holiday, holiday_name = excluded.holiday_name \
             where (t.is_holiday, t.holiday_name) is distinct from \
                   (excluded.is_holiday, excluded.holiday_name)",
        day(calendar.first),
        day(calendar.last)
    )
}
