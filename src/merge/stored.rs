//! The columns of a warehouse table as its catalogue has them: what the merge casts to.

use std::collections::HashSet;

use tokio_postgres::{Column, GenericClient};

use super::define::index_statement;
use crate::error::{Error, Result};
use crate::names::TableName;
use crate::position::Lsn;
use crate::postgres::quote;
use crate::spec::{History, Model};
use crate::types::Builtin;

/// A column of a warehouse table.
#[derive(Clone, Debug)]
pub struct StoredColumn {
    /// Its name.
    pub name: String,
    /// The schema of its type.
    type_schema: String,
    /// The name of its type, without modifier.
    type_name: String,
    /// The type with its modifier, as `format_type` prints it.
    pub declared: String,
    /// Whether NULL is refused.
    pub required: bool,
    /// Whether it gets a value where none is given.
    pub has_default: bool,
    /// Whether it takes none: Postgres computes it.
    pub generated: bool,
    /// Whether `=` of its type can be trusted to tell values apart.
    pub has_equality: bool,
}

impl StoredColumn {
    /// A column of ours that is about to be made.
    pub(super) fn ours(name: &str) -> StoredColumn {
        StoredColumn::new(name, "")
    }

    #[cfg(test)]
    pub(super) fn for_tests(name: &str, declared: &str) -> StoredColumn {
        StoredColumn::new(name, declared)
    }

    fn new(name: &str, declared: &str) -> StoredColumn {
        StoredColumn {
            name: name.to_owned(),
            type_schema: "pg_catalog".to_owned(),
            type_name: declared.to_owned(),
            declared: declared.to_owned(),
            required: false,
            has_default: false,
            generated: false,
            has_equality: true,
        }
    }

    /// Whether the column is of the type in which a value is staged.
    pub(super) fn is(&self, staged: &str) -> bool {
        self.type_schema == "pg_catalog" && self.type_name == staged
    }

    /// The type with its modifier, as a session knows it whose path is `pg_catalog` alone.
    pub(super) fn qualified(&self) -> String {
        if self.type_schema == "pg_catalog" {
            return self.declared.clone();
        }
        let modifier = self.declared.rfind('(').filter(|_| self.declared.ends_with(')'));
        let modifier = modifier.and_then(|at| self.declared.get(at..)).unwrap_or_default();
        let (schema, name) = (quote::ident(&self.type_schema), quote::ident(&self.type_name));
        format!("{schema}.{name}{modifier}")
    }

    /// `expression` of the staged type as a value of this column's type. The modifier is left to the
    /// assignment: an explicit cast would cut a text that is too long, where an assignment refuses it.
    pub fn cast(&self, expression: &str, staged: &str) -> String {
        if self.is(staged) {
            return expression.to_owned();
        }
        let schema = quote::ident(&self.type_schema);
        format!("{expression}::{schema}.{}", quote::ident(&self.type_name))
    }
}

/// The rows of a table, of one with versions the current ones: counted, or as the planner knows where
/// they are many.
pub async fn count_rows(client: &impl GenericClient, model: &Model) -> Result<u64> {
    const MANY: u64 = 1_000_000;
    let versions = model.history == History::Versions;
    let table = if versions { model.current_leaf() } else { model.table.clone() };
    let quoted = quote::table(&table);
    let failed = |error| Error::warehouse(format!("counting the rows of {table}"), error);
    let estimated = estimate_rows(client, &table).await?;
    if estimated > MANY {
        return Ok(estimated);
    }
    let query = format!("select count(*) from {quoted}");
    let rows: i64 =
        client.query_one(&query, &[]).await.map_err(failed)?.try_get(0).map_err(failed)?;
    Ok(u64::try_from(rows).unwrap_or(0))
}

/// The place in its source's log of a row that stands at `point` or behind it, if a table has one.
pub async fn beyond(client: &impl GenericClient, model: &Model, point: Lsn) -> Result<Option<Lsn>> {
    let table = &model.table;
    let failed = |error| Error::warehouse(format!("looking how far {table} has come"), error);
    let quoted = quote::table(table);
    let query = format!(
        "select greatest(t._seq, t._ord) from {quoted} t where t._seq >= $1 or t._ord >= $1 limit 1"
    );
    let row = client.query_opt(&query, &[&point.as_i64()]).await.map_err(failed)?;
    row.map(|row| row.try_get(0).map(Lsn::from_i64)).transpose().map_err(failed)
}

/// How many rows a table has, its leaves included, as the planner knows; 0 where there is none.
pub async fn estimate_rows(client: &impl GenericClient, table: &TableName) -> Result<u64> {
    const ESTIMATE: &str = "
        select coalesce(sum(greatest(c.reltuples, 0)), 0)::int8 from pg_class c
         where c.relkind = 'r' and (c.oid = to_regclass($1)
            or c.oid in (select relid from pg_partition_tree(to_regclass($1))))";
    let failed = |error| Error::warehouse(format!("counting the rows of {table}"), error);
    let row = client.query_one(ESTIMATE, &[&quote::table(table)]).await.map_err(failed)?;
    let rows: i64 = row.try_get(0).map_err(failed)?;
    Ok(u64::try_from(rows).unwrap_or(0))
}

/// What Postgres calls each of these types, in their order: `varchar(5)` is `character varying(5)`.
pub(super) async fn canonical(client: &impl GenericClient, types: &[&str]) -> Result<Vec<String>> {
    if types.is_empty() {
        return Ok(Vec::new());
    }
    let failed = |error| Error::warehouse("reading the types that a file names", error);
    let nulls: Vec<String> = types.iter().map(|ty| format!("null::{ty}")).collect();
    let prepared = client.prepare(&format!("select {}", nulls.join(", "))).await.map_err(failed)?;
    let oids: Vec<u32> = prepared.columns().iter().map(|column| column.type_().oid()).collect();
    let typmods: Vec<i32> = prepared.columns().iter().map(Column::type_modifier).collect();
    let query = "select format_type(oid, typmod) from unnest($1::oid[], $2::int4[]) t(oid, typmod)";
    let rows = client.query(query, &[&oids, &typmods]).await.map_err(failed)?;
    rows.iter().map(|row| row.try_get(0).map_err(failed)).collect()
}

/// Whether there is a table or view of that name.
pub(super) async fn is_there(client: &impl GenericClient, table: &TableName) -> Result<bool> {
    let there = "select to_regclass($1) is not null";
    let row = client.query_one(there, &[&quote::table(table)]).await;
    row.and_then(|row| row.try_get(0))
        .map_err(|error| Error::warehouse(format!("looking for {table}"), error))
}

/// The readers that may not select from a table that is there.
pub(super) async fn strangers(
    client: &impl GenericClient,
    table: &TableName,
    readers: &[String],
) -> Result<Vec<String>> {
    const QUERY: &str = "
        select r.name from unnest($1::text[]) r(name)
         where not coalesce((select has_table_privilege(o.oid, to_regclass($2), 'select')
                                    and has_schema_privilege(o.oid, $3, 'usage')
                               from pg_roles o where o.rolname = r.name), false)";
    if readers.is_empty() {
        return Ok(Vec::new());
    }
    let failed = |error| Error::warehouse(format!("reading who may read {table}"), error);
    let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
        [&readers, &quote::table(table), &table.schema];
    let rows = client.query(QUERY, &parameters).await.map_err(failed)?;
    rows.iter().map(|row| row.try_get(0).map_err(failed)).collect()
}

/// Reads a table's columns; empty where there is no such table.
pub async fn columns(client: &impl GenericClient, table: &TableName) -> Result<Vec<StoredColumn>> {
    const QUERY: &str = "
        select a.attname, n.nspname, t.typname, t.oid as type_oid, a.attnotnull,
               a.atthasdef or a.attidentity <> '' as has_default, a.attgenerated <> '' as generated,
               format_type(a.atttypid, a.atttypmod) as declared
          from pg_attribute a
          join pg_class c on c.oid = a.attrelid
          join pg_namespace s on s.oid = c.relnamespace
          join pg_type t on t.oid = a.atttypid
          join pg_namespace n on n.oid = t.typnamespace
         where s.nspname = $1 and c.relname = $2 and a.attnum > 0 and not a.attisdropped
         order by a.attnum";
    let failed = |error| Error::warehouse(format!("reading the columns of {table}"), error);
    let rows = client.query(QUERY, &[&table.schema, &table.name]).await.map_err(failed)?;
    rows.iter()
        .map(|row| {
            let oid: u32 = row.try_get("type_oid")?;
            Ok(StoredColumn {
                name: row.try_get("attname")?,
                type_schema: row.try_get("nspname")?,
                type_name: row.try_get("typname")?,
                declared: row.try_get("declared")?,
                required: row.try_get("attnotnull")?,
                has_default: row.try_get("has_default")?,
                generated: row.try_get("generated")?,
                has_equality: Builtin::of(oid).is_some_and(Builtin::has_equality),
            })
        })
        .collect::<Result<_, tokio_postgres::Error>>()
        .map_err(failed)
}

/// Of those of these types that are domains the type below, and which are composite types, multiranges, or ranges of a
/// person's own: the name as it was given, what it is, and whether it is one of these. Of arrays, of their elements. Names
/// that the warehouse does not know are left out.
pub async fn made_of(
    client: &impl GenericClient,
    types: &[&str],
) -> Result<Vec<(String, String, bool)>> {
    const FIRST_OF_A_PERSON: u32 = 16_384; // access/transam.h, FirstNormalObjectId
    const QUERY: &str = "
        with recursive named as (
            select n.ty, t.typcategory = 'A' and t.typelem <> 0 as is_array, t.oid, t.typelem
              from unnest($1::text[]) n(ty) join pg_type t on t.oid = to_regtype(n.ty)),
        walk as (
            select ty, is_array, case when is_array then typelem else oid end as at, -1 as typmod, false as below
              from named
            union all
            select w.ty, w.is_array, t.typbasetype, t.typtypmod, true
              from walk w join pg_type t on t.oid = w.at and t.typtype = 'd')
        select w.ty,
               case when w.below then format_type(t.oid, w.typmod) || case when w.is_array then '[]' else '' end else w.ty end,
               t.typtype in ('c', 'm') or (t.typtype = 'r' and t.oid >= $2) as opaque
          from walk w join pg_type t on t.oid = w.at
         where t.typtype <> 'd' and (w.below or t.typtype in ('c', 'm', 'r'))";
    let failed = |error| Error::warehouse("reading what its types are", error);
    let rows = client.query(QUERY, &[&types, &FIRST_OF_A_PERSON]).await.map_err(failed)?;
    rows.iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)))
        .collect::<Result<_, tokio_postgres::Error>>()
        .map_err(failed)
}

/// The extension types that the warehouse has, by their unqualified names.
pub async fn extension_types(client: &impl GenericClient) -> Result<HashSet<String>> {
    const QUERY: &str = "
        select distinct t.typname
          from pg_type t
          join pg_depend d on d.classid = 'pg_type'::regclass and d.objid = t.oid and d.deptype = 'e'
         where pg_type_is_visible(t.oid)";
    let failed = |error| Error::warehouse("reading its extensions", error);
    let rows = client.query(QUERY, &[]).await.map_err(failed)?;
    rows.iter().map(|row| row.try_get(0).map_err(failed)).collect()
}

/// The statements for the indexes that the model asks for and the table does not have: any valid one
/// over those columns, in that order, will do.
pub async fn missing_indexes(client: &impl GenericClient, model: &Model) -> Result<Vec<String>> {
    if model.indexes.is_empty() {
        return Ok(Vec::new());
    }
    const INDEXES: &str = "
        select (select array_agg(a.attname::text order by u.place)
                  from unnest(i.indkey::int2[]) with ordinality u(attnum, place)
                  join pg_attribute a on a.attrelid = i.indrelid and a.attnum = u.attnum)
          from pg_index i
          join pg_class c on c.oid = i.indrelid
          join pg_namespace n on n.oid = c.relnamespace
         where n.nspname = $1 and c.relname = $2 and i.indpred is null and i.indisvalid";
    let table = &model.table;
    let failed = |error| Error::warehouse(format!("reading the indexes of {table}"), error);
    let rows = client.query(INDEXES, &[&table.schema, &table.name]).await.map_err(failed)?;
    let there: Vec<Option<Vec<String>>> =
        rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(failed)?;
    let missing = model.indexes.iter().filter(|index| !there.iter().flatten().any(|i| i == *index));
    Ok(missing.map(|index| index_statement(model, index)).collect())
}
