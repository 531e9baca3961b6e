//! What a mart's query answers and reads, as the warehouse itself describes it.

use tokio_postgres::{GenericClient, Transaction};

use super::unfit;
use super::watch::Reader;
use crate::error::{Error, Kind, Result};
use crate::names::TableName;
use crate::postgres::quote;
use crate::spec::{Mart, MartRead, tokens};

/// A mart whose query the warehouse understands.
#[derive(Clone, Debug)]
pub struct Shape {
    /// What its file says.
    pub mart: Mart,
    /// Its columns with their types.
    pub columns: Vec<(String, String)>,
    /// The columns of the view that has those which depend on the day.
    pub today: Vec<(String, String)>,
    /// The tables that it reads.
    pub inputs: Vec<Input>,
    /// The columns of each of them.
    pub columns_of_inputs: Vec<Vec<String>>,
    /// The views that it reads them through.
    pub views: Vec<u32>,
}

/// A table that a mart, or a table's lookups, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// What the mart's file says of it.
    pub read: MartRead,
    /// The columns that its marks have, with their types.
    pub told: Vec<(String, String)>,
    /// The columns by which a row before is paired with the row after.
    pub key: Vec<String>,
    /// Whether it keeps versions.
    pub versions: bool,
}

impl Shape {
    /// The mart, as one that is told what changes.
    pub fn reader(&self) -> Reader<'_> {
        Reader { table: &self.mart.table, inputs: &self.inputs, views: &self.views }
    }

    /// The type of the column by which the mart is recomputed.
    pub(super) fn group_type(&self) -> &str {
        let by = self.mart.refresh_by.as_deref();
        let column = self.columns.iter().find(|(name, _)| Some(name.as_str()) == by);
        column.map_or("text", |(_, ty)| ty)
    }

    /// Its columns, quoted, each behind `prefix`.
    pub(super) fn list(&self, prefix: &str) -> String {
        let columns = self.columns.iter();
        columns
            .map(|(name, _)| format!("{prefix}{}", quote::ident(name)))
            .collect::<Vec<_>>()
            .join(", ")
    }
}

const VIEW: &str = "siltstone_mart_shape";

/// Asks the warehouse what the query answers and reads. The transaction is to be rolled back.
pub async fn describe(transaction: &Transaction<'_>, mart: &Mart) -> Result<Shape> {
    let columns = columns_of(transaction, &mart.query).await.map_err(|error| {
        let stops = error.code().is_some_and(|code| code.code().starts_with(['2', '4']));
        let error = Error::warehouse(format!("reading the query of {}", mart.declared_in), error);
        let missing = error.code().is_some_and(|code| ["42P01", "3F000"].contains(&code.code()));
        match (stops, missing) {
            // whoever feeds it has not made it yet
            (_, true) => error.with_kind(Kind::Busy),
            (true, _) => error
                .with_kind(Kind::TableStops)
                .on_table(mart.table.to_string())
                .remedy(format!("mend the SELECT in {}: it is to run in psql", mart.declared_in)),
            _ => error,
        }
    })?;
    for name in mart.key.iter().chain(&mart.refresh_by) {
        if !columns.iter().any(|column| column.name == *name) {
            let known: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
            let what = format!("its query has no column {name}, only {}", known.join(", "));
            let remedy = format!(
                "name the column in the SELECT of {}, or another one in its header",
                mart.declared_in
            );
            return Err(unfit(&mart.table, &what, remedy));
        }
    }
    let views = refuse_unread(transaction, mart).await?;
    let today = today(transaction, mart).await?;
    let (mut inputs, mut columns_of_inputs) = (Vec::new(), Vec::new());
    for read in &mart.reads {
        let (input, there) = input(transaction, mart, read, &columns).await?;
        inputs.push(input);
        columns_of_inputs.push(there);
    }
    let plain = |column: Column| (column.name, column.ty);
    let columns = columns.into_iter().map(plain).collect();
    let today = today.into_iter().map(plain).collect();
    let mart = mart.clone();
    Ok(Shape { mart, columns, today, inputs, columns_of_inputs, views })
}

/// The columns of the view that has those which depend on the day; none where there are none.
async fn today(transaction: &Transaction<'_>, mart: &Mart) -> Result<Vec<Column>> {
    if mart.today.is_empty() {
        return Ok(Vec::new());
    }
    let query = format!("select m.*, {} from (\n{}\n) m", mart.today_list(), mart.query);
    columns_of(transaction, &query).await.map_err(|error| {
        let error = Error::warehouse(format!("reading today of {}", mart.declared_in), error);
        match error.kind() {
            Kind::TableStops | Kind::Poison => error
                .with_kind(Kind::TableStops)
                .on_table(mart.table.to_string())
                .remedy(format!("mend today in {}: m is the mart's row", mart.declared_in)),
            _ => error,
        }
    })
}

pub(super) struct Column {
    pub(super) name: String,
    pub(super) ty: String,
    category: String,
}

pub(super) async fn columns_of(
    transaction: &Transaction<'_>,
    query: &str,
) -> Result<Vec<Column>, tokio_postgres::Error> {
    transaction.batch_execute(&format!("drop view if exists pg_temp.{VIEW}")).await?;
    // one statement: what is behind a semicolon would be refused
    transaction.execute(&format!("create temporary view {VIEW} as\n{query}\n"), &[]).await?;
    let relation = format!("pg_temp.{VIEW}");
    attributes(transaction, &relation).await
}

/// The columns of a relation, by its quoted name; none where it is not there.
async fn attributes(
    client: &impl GenericClient,
    relation: &str,
) -> Result<Vec<Column>, tokio_postgres::Error> {
    let rows = client
        .query(
            "select a.attname::text, format_type(a.atttypid, a.atttypmod), t.typcategory::text
               from pg_attribute a join pg_type t on t.oid = a.atttypid
              where a.attrelid = to_regclass($1) and a.attnum > 0 and not a.attisdropped
              order by a.attnum",
            &[&relation],
        )
        .await?;
    rows.iter()
        .map(|row| {
            Ok(Column { name: row.try_get(0)?, ty: row.try_get(1)?, category: row.try_get(2)? })
        })
        .collect()
}

/// The columns of a table with their types; none where it is not there.
pub(super) async fn standing(
    client: &impl GenericClient,
    table: &TableName,
) -> Result<Vec<(String, String)>> {
    let found = attributes(client, &quote::table(table)).await;
    let found = found.map_err(|error| Error::warehouse(format!("looking at {table}"), error))?;
    Ok(found.into_iter().map(|column| (column.name, column.ty)).collect())
}

/// The relations that the view reads, through other views as well.
const READ: &str = "
    with recursive seen(oid) as (
        select to_regclass($1)::oid
        union
        select d.refobjid
          from seen s
          join pg_class c on c.oid = s.oid and c.relkind = 'v'
          join pg_rewrite w on w.ev_class = c.oid
          join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid
               and d.refclassid = 'pg_class'::regclass)
    select n.nspname::text, c.relname::text, c.relkind::text, c.relispartition, c.oid
      from seen s
      join pg_class c on c.oid = s.oid
      join pg_namespace n on n.oid = c.relnamespace
     where n.nspname <> 'pg_catalog' and c.oid <> to_regclass($1)
     order by c.oid";

/// What the query reads that was described last: the tables, and the views in between. Refuses one whose changes
/// would not all be told of.
pub(super) async fn relations(
    transaction: &Transaction<'_>,
    of: &TableName,
) -> Result<(Vec<TableName>, Vec<u32>)> {
    let failed = |error| Error::warehouse(format!("looking what {of} reads"), error);
    let rows = transaction.query(READ, &[&format!("pg_temp.{VIEW}")]).await.map_err(failed)?;
    let (mut tables, mut views) = (Vec::new(), Vec::new());
    for row in rows {
        let name = || Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?));
        let (schema, name, kind, leaf): (String, String, String, bool) = name().map_err(failed)?;
        if kind == "v" {
            views.push(row.try_get(4).map_err(failed)?);
            continue;
        }
        let table = TableName { schema, name };
        if leaf {
            let what = format!(
                "its query reads {table}, a leaf: what comes by its table is not told of it"
            );
            return Err(unfit(of, &what, "read the partitioned table"));
        }
        if !["r", "p"].contains(&kind.as_str()) {
            let what = format!("its query reads {table}, which is no table: it tells no changes");
            return Err(unfit(of, &what, "read the tables behind it"));
        }
        tables.push(table);
    }
    Ok((tables, views))
}

/// Refuses a query whose changes would not all be told of; answers the views it reads.
async fn refuse_unread(transaction: &Transaction<'_>, mart: &Mart) -> Result<Vec<u32>> {
    let (tables, views) = relations(transaction, &mart.table).await?;
    for table in tables {
        if !mart.reads.iter().any(|read| read.table == table) {
            let what = format!("its query reads {table}, which `reads` does not name");
            let remedy = format!("add {table} to reads in {}, with its touches", mart.declared_in);
            return Err(unfit(&mart.table, &what, remedy));
        }
    }
    Ok(views)
}

/// Whether a table, or a leaf of it, is fed by a subscription: what applies it fires no triggers of statements.
const SUBSCRIBED: &str = "
    with recursive tree(oid) as (
        select to_regclass($1)::oid
        union all
        select i.inhrelid from tree t join pg_inherits i on i.inhparent = t.oid)
    select exists (select from pg_subscription_rel s join tree t on t.oid = s.srrelid)";

/// Refuses an input whose changes its triggers do not see.
pub(super) async fn refuse_subscribed(
    transaction: &Transaction<'_>,
    of: &TableName,
    read: &TableName,
) -> Result<()> {
    let found = transaction.query_one(SUBSCRIBED, &[&quote::table(read)]).await;
    let subscribed: bool = found
        .and_then(|row| row.try_get(0))
        .map_err(|error| Error::warehouse(format!("asking who feeds {read}"), error))?;
    if !subscribed {
        return Ok(());
    }
    let what = format!("{read} is fed by a subscription, whose changes nobody is told of");
    let remedy = "feed the table by a connector, or drop the subscription";
    Err(unfit(of, &what, remedy))
}

async fn input(
    transaction: &Transaction<'_>,
    mart: &Mart,
    read: &MartRead,
    columns: &[Column],
) -> Result<(Input, Vec<String>)> {
    let failed =
        |error| Error::warehouse(format!("looking at {} for {}", read.table, mart.table), error);
    let there = attributes(transaction, &quote::table(&read.table)).await.map_err(failed)?;
    if there.is_empty() {
        let what = format!("{} waits for {}, which is not there yet", mart.table, read.table);
        let remedy = format!(
            "let a connector feed {0}, or take it out of {1}",
            read.table, mart.declared_in
        );
        return Err(Error::new(Kind::Busy, what).remedy(remedy));
    }
    refuse_subscribed(transaction, &mart.table, &read.table).await?;
    if let Some(name) = read.when.iter().find(|name| there.iter().all(|c| c.name != **name)) {
        let what = format!("{} has no column {name}, which `when` names", read.table);
        return Err(unfit(&mart.table, &what, format!("mend reads in {}", mart.declared_in)));
    }
    let named: Vec<String> = read
        .touches
        .as_deref()
        .map(|sql| tokens(sql).map(|(_, t)| t).collect())
        .unwrap_or_default();
    // a star in a count brings all of them too: more is told than needed, never less
    let all = named.iter().any(|token| token == "*" || token == "natural");
    let told =
        there.iter().filter(|column| all && read.touches.is_some() || named.contains(&column.name));
    let told: Vec<(String, String)> =
        told.map(|column| (column.name.clone(), column.ty.clone())).collect();
    let key = "select a.attname::text
                 from pg_index i
                cross join unnest(i.indkey::int2[]) with ordinality k(number, at)
                 join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number
                where i.indrelid = to_regclass($1) and i.indisprimary
                order by k.at";
    let key = transaction.query(key, &[&quote::table(&read.table)]).await.map_err(failed)?;
    let key = key.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(failed)?;
    let has = |name: &str| there.iter().any(|column| column.name == name);
    let versions = has("valid_from") && has("valid_to") && has("is_current") && has("_end_seq");
    let input = Input { read: read.clone(), told, key, versions };
    check_touches(transaction, mart, &input, columns).await?;
    Ok((input, there.into_iter().map(|column| column.name).collect()))
}

/// Refuses touches that do not answer one column of the groups' kind.
async fn check_touches(
    transaction: &Transaction<'_>,
    mart: &Mart,
    input: &Input,
    columns: &[Column],
) -> Result<()> {
    let (Some(touches), Some(by)) = (&input.read.touches, &mart.refresh_by) else { return Ok(()) };
    let values: Vec<String> = input
        .told
        .iter()
        .map(|(name, ty)| format!("null::{ty} as {}", quote::ident(name)))
        .collect();
    let values = if values.is_empty() { "null as nothing".to_owned() } else { values.join(", ") };
    let query = format!("with changed as (select {values}) select * from (\n{touches}\n) touches");
    let field = format!("reads.{}.touches in {}", input.read.table, mart.declared_in);
    let answers = columns_of(transaction, &query).await.map_err(|error| {
        let error = Error::warehouse(format!("reading {field}"), error);
        match error.kind() {
            Kind::TableStops | Kind::Poison => error
                .with_kind(Kind::TableStops)
                .on_table(mart.table.to_string())
                .remedy(format!("write a select of {by} from changed")),
            _ => error,
        }
    })?;
    let group = columns.iter().find(|column| column.name == *by);
    let fits = matches!((answers.as_slice(), group), ([one], Some(group)) if one.category == group.category);
    if !fits {
        let ty = group.map_or("", |group| group.ty.as_str());
        let what = format!("{field} does not answer one column of {by}'s type, {ty}");
        return Err(unfit(&mart.table, &what, format!("write a select of {by} from changed")));
    }
    Ok(())
}
