//! Rows whose lookups are to be computed anew: which marks say so, who may still write by what was there before, and
//! the statements that set a part of a table right.
//!
//! The order of things is the caller's: marks, then the end of every writer of that moment, then all parts, then
//! the marks go. Whoever writes later looks up what is there. But not all who write a row write its lookups: a soft
//! delete leaves them as they are, a version that ends takes them along to another leaf, and VACUUM FULL moves rows. So
//! a leaf is gone through by its key, which none of these changes, and the current versions before those that they
//! become.

use tokio_postgres::GenericClient;

use crate::error::{Error, Result};
use crate::names::TableName;
use crate::postgres::quote;
use crate::spec::{History, Lookup, Model};

/// The pages of a part where there is no key: a megabyte.
const PAGES: i64 = 128;

/// A table without partitions, or a leaf, as it is gone through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swath {
    /// The table or leaf.
    leaf: TableName,
    /// Its primary key: the columns, and their types.
    key: Vec<(String, String)>,
    /// Its pages.
    pages: i64,
}

/// Which leaves are gone through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Of a table with versions the current ones; of any other all.
    First,
    /// What is left behind that: versions that have ended, also while those were gone through.
    Rest,
}

/// Where a part begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begin {
    /// Behind this key, as texts; none for the first one.
    Key(Option<Vec<String>>),
    /// At this page.
    Page(i64),
}

impl Swath {
    /// Where its first part begins.
    pub fn begin(&self) -> Begin {
        if self.key.is_empty() { Begin::Page(0) } else { Begin::Key(None) }
    }
}

/// Transactions that have written a table, by what names each for good.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Writers(Vec<String>);

impl Writers {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// How the lookups of a table stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookupStanding {
    /// The table.
    pub table: TableName,
    /// The columns.
    pub columns: Vec<String>,
    /// A digest of the lookups in place; empty while none are.
    pub definition: String,
}

/// The tables that have lookups, as is noted of them; none before the control tables know any.
pub async fn lookups(client: &impl GenericClient) -> Result<Vec<LookupStanding>> {
    let failed = |error| Error::warehouse("reading which tables have lookups", error);
    let there = "select to_regclass('audit.lookups') is not null";
    let there = client.query_one(there, &[]).await.and_then(|row| row.try_get(0));
    if !there.map_err(failed)? {
        return Ok(Vec::new());
    }
    let query = "select table_name, columns, definition from audit.lookups order by table_name";
    let mut found = Vec::new();
    for row in client.query(query, &[]).await.map_err(failed)? {
        let name: String = row.try_get(0).map_err(failed)?;
        let strange = |_| Error::bug(format!("audit.lookups has a strange row for {name:?}"));
        found.push(LookupStanding {
            table: name.parse().map_err(strange)?,
            columns: row.try_get(1).map_err(failed)?,
            definition: row.try_get(2).map_err(failed)?,
        });
    }
    Ok(found)
}

/// Notes how the lookups of a table stand, and why.
pub async fn note_lookups(
    client: &impl GenericClient,
    model: &Model,
    state: &str,
    why: (Option<&str>, Option<&str>),
) -> Result<()> {
    let names: Vec<&str> = model.lookups.iter().map(|lookup| lookup.name.as_str()).collect();
    client
        .execute(
            "insert into audit.lookups as l (table_name, columns, state, reason, remedy)
             values ($1, $2, $3, $4, $5)
             on conflict (table_name) do update
             set state = excluded.state, reason = excluded.reason, remedy = excluded.remedy,
                 filled_at = case excluded.state when 'fresh' then clock_timestamp() else l.filled_at end,
                 changed_at = case l.state when excluded.state then l.changed_at else now() end",
            &[&model.table.to_string(), &names, &state, &why.0, &why.1],
        )
        .await
        .map_err(|error| failed(&model.table, error))?;
    Ok(())
}

/// The marks of a table that are there: what it is looked up in changed.
pub async fn marks(client: &impl GenericClient, table: &TableName) -> Result<Vec<i64>> {
    let query = "select id from audit.touched where mart = $1";
    let rows = client.query(query, &[&table.to_string()]).await;
    let ids = rows.and_then(|rows| rows.iter().map(|row| row.try_get(0)).collect());
    ids.map_err(|error| failed(table, error))
}

/// Deletes marks whose rows are right.
pub async fn forget_marks(
    client: &impl GenericClient,
    table: &TableName,
    marks: &[i64],
) -> Result<()> {
    let delete = "delete from audit.touched where mart = $1 and id = any ($2)";
    let deleted = client.execute(delete, &[&table.to_string(), &marks]).await;
    deleted.map(drop).map_err(|error| failed(table, error))
}

/// Of the transactions that are open and have written a table, or a leaf of it, those of `among`, or all: what they
/// looked up may be what was there before. Nobody waits for this, and no lock is taken: a table may have thousands of
/// leaves.
pub async fn writers(
    client: &impl GenericClient,
    table: &TableName,
    among: Option<&Writers>,
) -> Result<Writers> {
    const WRITERS: &str = "
        select distinct l.virtualtransaction
          from pg_locks l
         where l.locktype = 'relation' and l.granted
           and l.database = (select d.oid from pg_database d where d.datname = current_database())
           and l.relation in (select t.oid from audit.tree(to_regclass($1)) t)
           and l.mode in ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
           and ($2::text[] is null or l.virtualtransaction = any ($2))";
    let among = among.map(|writers| &writers.0);
    let rows = client.query(WRITERS, &[&quote::table(table), &among]).await;
    let found = rows.and_then(|rows| rows.iter().map(|row| row.try_get(0)).collect());
    found.map(Writers).map_err(|error| failed(table, error))
}

/// The leaves of a table as it is now.
pub async fn swaths(
    client: &impl GenericClient,
    model: &Model,
    which: Which,
) -> Result<Vec<Swath>> {
    const LEAVES: &str = "
        select n.nspname::text, c.relname::text,
               coalesce(pg_relation_size(c.oid), 0) / current_setting('block_size')::int8,
               c.oid = to_regclass($2),
               coalesce(k.names, '{}'), coalesce(k.types, '{}')
          from audit.tree(to_regclass($1)) t
          join pg_class c on c.oid = t.oid
          join pg_namespace n on n.oid = c.relnamespace
          left join lateral (
               select array_agg(a.attname::text order by p.place) as names,
                      array_agg(format_type(a.atttypid, a.atttypmod) order by p.place) as types
                 from pg_index i
                cross join unnest(i.indkey::int2[]) with ordinality p(attnum, place)
                 join pg_attribute a on a.attrelid = c.oid and a.attnum = p.attnum
                where i.indrelid = c.oid and i.indisprimary and i.indisvalid
                  and p.place <= i.indnkeyatts) k on true
         where c.relkind = 'r' order by c.oid";
    let failed = |error| failed(&model.table, error);
    let current = quote::table(&model.current_leaf());
    let rows = client.query(LEAVES, &[&model.quoted(), &current]).await.map_err(failed)?;
    let read = |row: &tokio_postgres::Row| {
        let leaf = TableName { schema: row.try_get(0)?, name: row.try_get(1)? };
        let (names, types): (Vec<String>, Vec<String>) = (row.try_get(4)?, row.try_get(5)?);
        let key = names.into_iter().zip(types).collect();
        let is_current: Option<bool> = row.try_get(3)?;
        Ok((is_current == Some(true), Swath { leaf, key, pages: row.try_get(2)? }))
    };
    let found = rows.iter().map(read).collect::<Result<Vec<_>, tokio_postgres::Error>>();
    let found = found.map_err(failed)?;
    let apart = model.history == History::Versions && found.iter().any(|(current, _)| *current);
    let meant = |current: bool| match which {
        Which::First => current || !apart,
        Which::Rest => apart && !current,
    };
    Ok(found.into_iter().filter(|(current, _)| meant(*current)).map(|(_, swath)| swath).collect())
}

/// Sets the rows of a part right whose lookups answer otherwise; how many, and where the next part begins. A part has
/// about so many rows. In READ COMMITTED.
///
/// A merge of versions knows the rows that it found by their place, which an update changes: so the two take turns.
/// It holds the weaker lock from before it looks (`merge/looks`). No reader waits.
pub async fn sweep(
    client: &impl GenericClient,
    (model, swath): (&Model, &Swath),
    (from, rows): (&Begin, i64),
) -> Result<(u64, Option<Begin>)> {
    let failed = |error| failed(&model.table, error);
    if model.history == History::Versions {
        let lock = format!(
            "set local lock_timeout to '2s'; lock table only {} in share row exclusive mode; \
             set local lock_timeout to '300ms'",
            model.quoted()
        );
        client.batch_execute(&lock).await.map_err(failed)?;
    }
    let (part, next) = match from {
        Begin::Page(page) => {
            let behind = page + PAGES;
            let next = (behind < swath.pages).then_some(Begin::Page(behind));
            (in_pages(*page, behind), next)
        }
        Begin::Key(after) => {
            let last = client.query_opt(&last_of(swath, after.as_deref(), rows), &[]).await;
            let last = last.map_err(failed)?.map(|row| row.try_get(0)).transpose();
            let last: Option<Vec<String>> = last.map_err(failed)?;
            (
                between(swath, after.as_deref(), last.as_deref()),
                last.map(|key| Begin::Key(Some(key))),
            )
        }
    };
    let statement = statement(model, &swath.leaf, &part);
    let swept = client.execute(&statement, &[]).await.map_err(|error| {
        let names: Vec<&str> = model.lookups.iter().map(|lookup| lookup.name.as_str()).collect();
        let fields: Vec<String> =
            names.iter().map(|name| format!("columns.{name}.lookup")).collect();
        let (names, fields) = (names.join(", "), fields.join(", "));
        let remedy = format!(
            "mend {fields} in {}, or what it is looked up in: one row at most, of a value that fits",
            model.declared_in
        );
        Error::warehouse(format!("looking {names} of {} up again", model.table), error)
            .remedy(remedy)
    })?;
    Ok((swept, next))
}

/// The key of the last row of a part, where another part follows.
fn last_of(swath: &Swath, after: Option<&[String]>, rows: i64) -> String {
    let names = || swath.key.iter().map(|(name, _)| format!("\"row\".{}", quote::ident(name)));
    let texts: Vec<String> = names().map(|name| format!("{name}::text")).collect();
    format!(
        "select array[{}] from only {} as \"row\" where {} order by {} offset {} limit 1",
        texts.join(", "),
        quote::table(&swath.leaf),
        between(swath, after, None),
        names().collect::<Vec<_>>().join(", "),
        rows - 1
    )
}

/// The condition for the rows behind one key up to another one.
fn between(swath: &Swath, after: Option<&[String]>, upto: Option<&[String]>) -> String {
    let names: Vec<String> =
        swath.key.iter().map(|(name, _)| format!("\"row\".{}", quote::ident(name))).collect();
    let bound = |key: &[String]| {
        let values = key.iter().zip(&swath.key);
        let values: Vec<String> =
            values.map(|(value, (_, ty))| format!("{}::{ty}", quote::literal(value))).collect();
        values.join(", ")
    };
    let names = names.join(", ");
    let after = after.map(|key| format!("({names}) > ({})", bound(key)));
    let upto = upto.map(|key| format!("({names}) <= ({})", bound(key)));
    let both: Vec<String> = after.into_iter().chain(upto).collect();
    if both.is_empty() { "true".to_owned() } else { both.join(" and ") }
}

fn in_pages(from: i64, to: i64) -> String {
    format!("\"row\".ctid >= '({from},0)'::tid and \"row\".ctid < '({to},0)'::tid")
}

/// The statement of no row, by which it is found out whether rows can be looked up.
pub(super) fn of_no_row(model: &Model) -> String {
    statement(model, &model.table, &in_pages(0, 0))
}

/// The statement of a part. What is compared is the text, by which alone every type can be told apart.
fn statement(model: &Model, leaf: &TableName, part: &str) -> String {
    let set = model
        .lookups
        .iter()
        .map(|Lookup { name, query, .. }| format!("{} = (\n{query}\n)", quote::ident(name)));
    let differs = model.lookups.iter().map(|Lookup { name, ty, query, .. }| {
        format!("\"row\".{}::text is distinct from ((\n{query}\n)::{ty})::text", quote::ident(name))
    });
    let (set, differs) = (set.collect::<Vec<_>>(), differs.collect::<Vec<_>>());
    format!(
        "update only {} as \"row\" set {} where {part} and ({})",
        quote::table(leaf),
        set.join(", "),
        differs.join(" or ")
    )
}

fn failed(table: &TableName, error: tokio_postgres::Error) -> Error {
    Error::warehouse(format!("looking {table} up"), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_follow_one_another_by_key() {
        let key = [("id", "bigint"), ("to", "timestamp with time zone")];
        let swath = Swath {
            leaf: TableName::new("s", "t"),
            key: key.map(|(name, ty)| (name.to_owned(), ty.to_owned())).to_vec(),
            pages: 9,
        };
        assert_eq!(swath.begin(), Begin::Key(None));
        assert_eq!(between(&swath, None, None), "true");
        let last = ["7".to_owned(), "infinity".to_owned()];
        let names = "(\"row\".\"id\", \"row\".\"to\")";
        let values = "('7'::bigint, 'infinity'::timestamp with time zone)";
        assert_eq!(between(&swath, None, Some(&last)), format!("{names} <= {values}"));
        let last_of = last_of(&swath, Some(&last), 100);
        assert!(last_of.contains(&format!("where {names} > {values} order by")), "{last_of}");
        assert!(last_of.ends_with("offset 99 limit 1"), "{last_of}");
        assert_eq!(Swath { key: Vec::new(), ..swath }.begin(), Begin::Page(0));
    }
}
