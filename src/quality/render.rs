//! The one statement of a check: it changes nothing, and answers with one row of how many rows fail, how many were
//! looked at, and what else its verdict needs. Pure.
//!
//! Conditions and queries are the user's own SQL, between parentheses of ours; values are literals, which take the
//! type of the column that they are compared with.

use crate::names::TableName;
use crate::postgres::quote;
use crate::spec::{Bounds, Check, CheckKind, Mart, Relationship};

use super::run::Occasion;
use super::volume;

/// A row that is longer than so many bytes of JSON is kept by its length alone.
const LONGEST_ROW: usize = 16 * 1024;

/// The statement of a check of a table, or of this mart.
pub(super) fn statement(check: &Check, mart: Option<&Mart>, occasion: &Occasion) -> String {
    let rows = rows_of(check, occasion);
    match &check.kind {
        CheckKind::Unique(columns) => unique(check, &rows, columns),
        CheckKind::NotNull(columns) => {
            let bad = columns.iter().map(|column| format!("{} is null", of_row(column)));
            each(check, &rows, &any(bad))
        }
        CheckKind::AcceptedValues(accepted) => {
            let bad = accepted.iter().map(|(column, values)| {
                let values: Vec<String> = values.iter().map(|v| quote::literal(v)).collect();
                format!("{} not in ({})", of_row(column), values.join(", "))
            });
            each(check, &rows, &any(bad))
        }
        CheckKind::Range(ranges) => {
            let bad = ranges.iter().flat_map(|(column, Bounds { min, max })| {
                let beyond = |sign: &str, bound: &Option<String>| {
                    let bound = quote::literal(bound.as_ref()?);
                    Some(format!("{} {sign} {bound}", of_row(column)))
                };
                [beyond("<", min), beyond(">", max)].into_iter().flatten()
            });
            each(check, &rows, &any(bad))
        }
        CheckKind::Relationships(related) => relationships(check, &rows, related),
        CheckKind::RowCount(_) => {
            format!("select null::int8, count(*), null::jsonb from {rows} r")
        }
        CheckKind::Freshness(freshness) => {
            let of_table = || {
                let name = quote::literal(&check.table.to_string());
                format!("select age, state from {} a where table_name = {name}", ages())
            };
            format!(
                "select null::int8, null::int8, jsonb_build_object('age', a.age{}, 'state', a.state)\n  \
                   from ({}) a",
                freshness.calendar.as_ref().map(days_off).unwrap_or_default(),
                mart.map_or_else(of_table, mart_age)
            )
        }
        CheckKind::Volume(volume) => {
            let by = of_row(&volume.by);
            let unit = quote::literal(volume::unit(volume));
            let (from, to) = volume::span(volume, occasion);
            format!(
                "select null::int8, null::int8, jsonb_object_agg(s.slot, s.many)\n  \
                   from (select to_char(date_trunc({unit}, {by}::timestamp), 'YYYY-MM-DD HH24') as slot,\n               \
                                count(*) as many\n          from {rows} r\n         \
                          where {by} >= {from} and {by} < {to} group by 1) s",
                from = quote::literal(&from),
                to = quote::literal(&to),
            )
        }
        CheckKind::Sql { query, .. } => format!(
            "with failing as materialized (\n{query}\n)\n\
             select count(*), null::int8, {} from failing",
            kept(check, "select to_jsonb(f) as j from failing f")
        ),
    }
}

fn any(conditions: impl Iterator<Item = String>) -> String {
    conditions.collect::<Vec<_>>().join(" or ")
}

/// A column of a row that is looked at.
fn of_row(column: &str) -> String {
    format!("r.{}", quote::ident(column))
}

/// The rows that a check looks at.
fn rows_of(check: &Check, occasion: &Occasion) -> String {
    let mut conditions = Vec::new();
    if let Some(filter) = &check.filter {
        // a comment at its end ends with the line
        conditions.push(format!("(\n{filter}\n)"));
    }
    if let (true, Some(arrived), Some(since)) = (check.of_run, &check.arrived, occasion.since) {
        let since = quote::literal(&since.to_string());
        conditions.push(format!("{} >= {since}::timestamptz", quote::ident(arrived)));
    }
    let table = quote::table(&check.table);
    match conditions.is_empty() {
        true => table,
        false => format!("(select * from {table} where {})", conditions.join(" and ")),
    }
}

/// The first of the rows `j` of a query, as a list; none where none are to be kept.
fn kept(check: &Check, query: &str) -> String {
    if check.keep_rows == 0 {
        return "null::jsonb".to_owned();
    }
    format!(
        "(select jsonb_agg(case when octet_length(k.j::text) > {LONGEST_ROW}\n                         \
                                then jsonb_build_object('_bytes', octet_length(k.j::text)) else k.j end)\n            \
            from ({query} limit {}) k)",
        check.keep_rows
    )
}

/// Rows that fail by themselves. Those to be kept are looked for only where there are some.
fn each(check: &Check, rows: &str, bad: &str) -> String {
    let kept = kept(check, &format!("select to_jsonb(r) as j from {rows} r where {bad}"));
    format!(
        "select c.failing, c.checked, case when c.failing > 0 then {kept} end\n  \
           from (select count(*) filter (where {bad}) as failing, count(*) as checked from {rows} r) c"
    )
}

fn unique(check: &Check, rows: &str, columns: &[String]) -> String {
    let listed: Vec<String> = columns.iter().map(|column| of_row(column)).collect();
    let there: Vec<String> = listed.iter().map(|column| format!("{column} is not null")).collect();
    let (listed, there) = (listed.join(", "), there.join(" and "));
    let twice = format!(
        "select to_jsonb(g) as j from (select {listed}, count(*) as _rows from {rows} r where {there} \
         group by {listed} having count(*) > 1) g"
    );
    format!(
        "select c.failing, c.checked, case when c.failing > 0 then {} end\n  \
           from (select count(*) filter (where g.many > 1) as failing, coalesce(sum(g.many), 0)::int8 as checked\n          \
                   from (select count(*) as many from {rows} r where {there} group by {listed}) g) c",
        kept(check, &twice)
    )
}

/// Each relationship is an anti-join of its own: a row that lacks two counts twice.
fn relationships(check: &Check, rows: &str, related: &[Relationship]) -> String {
    let grace = match (check.grace, &check.arrived) {
        (Some(grace), Some(arrived)) => {
            let (arrived, seconds) = (of_row(arrived), grace.as_secs_f64());
            format!(" and {arrived} < now() - {seconds} * interval '1 s'")
        }
        _ => String::new(),
    };
    let lacking = |what: &dyn Fn(&Relationship) -> String| {
        let parts = related.iter().map(|one| {
            let (column, other) = (of_row(&one.column), quote::ident(&one.other));
            format!(
                "select {} from {rows} r where {column} is not null{grace} \
                 and not exists (select from {} p where p.{other} = {column})",
                what(one),
                quote::table(&one.table)
            )
        });
        parts.collect::<Vec<_>>().join(" union all ")
    };
    let with = |one: &Relationship| {
        format!("to_jsonb(r) || jsonb_build_object('_lacks', {}) as j", quote::literal(&one.column))
    };
    let kept = kept(check, &format!("select u.j from ({}) u", lacking(&with)));
    format!(
        "select c.failing, null::int8, case when c.failing > 0 then {kept} end\n  \
           from (select count(*) as failing from ({}) u) c",
        lacking(&|_| "1 as one".to_owned())
    )
}

/// How many seconds ago the source committed what the tables that connectors feed do not have; an idle source's are
/// of now. One that takes no changes has them up to when it stopped to.
fn ages() -> &'static str {
    "(select t.table_name, t.state,
               extract(epoch from clock_timestamp()
                       - case when t.state = 'streaming' then f.fresh_to
                              -- since when it lacks what it is catching up with is not known
                              when t.state in ('paused', 'stopped') then least(f.fresh_to, t.changed_at) end)::float8 as age
          from audit.tables t left join audit.freshness f using (connector)
         -- one that was fed otherwise before is known both ways
         where t.state <> 'paused'
            or not exists (select from audit.extracted x where x.table_name = t.table_name)
        union all
        -- what tasks of jobs bring is as old as the end of the last interval that they have brought
        select x.table_name, 'loaded',
               extract(epoch from clock_timestamp() - greatest(
                   (select max(e.interval_end) from audit.extracts e where e.table_name = x.table_name),
                   (select max(l.interval_end) from audit.loads l where l.table_name = x.table_name)))::float8
          from audit.extracted x
         where not exists (select from audit.tables t
                            where t.table_name = x.table_name and t.state <> 'paused'))"
}

/// A mart is as old as the oldest change that it does not have, and as what it reads.
fn mart_age(mart: &Mart) -> String {
    let reads = mart.reads.iter().map(|read| quote::literal(&read.table.to_string()));
    let reads = reads.collect::<Vec<_>>().join(", ");
    let own = quote::literal(&mart.table.to_string());
    format!(
        "select m.state, greatest(\n         \
                (select max(a.age) from {} a where a.table_name in ({reads})),\n         \
                extract(epoch from clock_timestamp() - least(\n           \
                    (select min(t.at) from audit.touched t where t.mart = m.mart),\n           \
                    (select min(g.since) from audit.stale_groups g where g.mart = m.mart)))::float8, 0) as age\n  \
           from audit.marts m where m.mart = {own}",
        ages()
    )
}

/// What is taken off an age: its seconds on weekends and holidays, whose days are those of the session's zone.
fn days_off(calendar: &TableName) -> String {
    format!(
        " - coalesce((select sum(extract(epoch from least(clock_timestamp(), d.date_id + 1)\n               \
                - greatest(clock_timestamp() - make_interval(secs => a.age), d.date_id)))::float8\n          \
             from {} d\n         \
            where (d.is_weekend or d.is_holiday) and d.date_id <= clock_timestamp()::date\n           \
              and d.date_id >= (clock_timestamp() - make_interval(secs => a.age))::date), 0)",
        quote::table(calendar)
    )
}

/// For messages: what a check is called, with its table.
pub(super) fn shown(table: &TableName, name: &str) -> String {
    format!("{table}: {name}")
}
