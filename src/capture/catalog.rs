//! The source's catalogue: which tables there are and what they look like.
//!
//! Read at start and whenever the stream shows a table whose shape has changed. The catalogue may be
//! ahead of the stream; who asks about an event matches columns by name.

use std::collections::HashMap;

use tokio_postgres::{GenericClient, Row};

use crate::error::{Error, Result};
use crate::names::TableName;
use crate::relation::{Column, ColumnType, Fill, Identity, Relation, TypeKind};

/// The first OID that does not belong to Postgres itself.
const FIRST_USER_OID: u32 = 16384;

/// A table of the source, with what publishing it depends on.
#[derive(Clone, Debug)]
pub struct SourceTable {
    /// Its shape.
    pub relation: Relation,
    /// Whether our role owns it, which adding it to a publication takes.
    pub owned: bool,
    /// Whether our role may read it.
    pub readable: bool,
    /// The planner's idea of its size, for progress bars.
    pub estimated_rows: u64,
    /// Whether its rows are in leaves.
    pub partitioned: bool,
    /// A leaf whose replica identity differs from its root's.
    pub odd_leaf: Option<String>,
    /// Whether its identity is the chosen index, which may be none of its primary key.
    pub by_index: bool,
}

impl SourceTable {
    /// Why updates of this table could not be published, with the statement that mends it.
    pub fn identity_problem(&self) -> Option<(String, String)> {
        let relation = &self.relation;
        let table = crate::postgres::quote::table(&relation.table);
        let full = format!("alter table {table} replica identity full");
        if let Some(leaf) = &self.odd_leaf {
            let what = format!("its partition {leaf} has another replica identity than its root");
            return Some((what, format!("alter table {leaf} replica identity …, as the root's")));
        }
        match relation.identity {
            Identity::Full => None,
            Identity::Key if relation.key().next().is_some() => None,
            Identity::Key => Some(("it has no primary key".to_owned(), full)),
            Identity::Nothing if relation.key().next().is_some() => Some((
                "its replica identity is NOTHING".to_owned(),
                format!("alter table {table} replica identity default"),
            )),
            Identity::Nothing => Some(("its replica identity is NOTHING".to_owned(), full)),
        }
    }
}

/// Every table that could be published.
pub async fn tables(source: &impl GenericClient) -> Result<Vec<SourceTable>> {
    read(source, None).await
}

/// One table by its OID, if it is there.
pub async fn table(source: &impl GenericClient, oid: u32) -> Result<Option<SourceTable>> {
    Ok(read(source, Some(oid)).await?.pop())
}

/// What a name means at the source, be it a table or something else, if it means anything.
pub async fn oid(source: &impl GenericClient, table: &TableName) -> Result<Option<u32>> {
    let failed = |error| Error::source("looking for a table", error);
    let query = "select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace
                  where n.nspname = $1 and c.relname = $2
                    and c.relkind in ('r', 'p', 'v', 'm', 'f')";
    let row = source.query_opt(query, &[&table.schema, &table.name]).await.map_err(failed)?;
    row.map(|row| row.try_get(0)).transpose().map_err(failed)
}

/// The types behind a Relation message's columns, in their order; a type that is gone is kept as text.
pub async fn types(source: &impl GenericClient, wanted: &[(u32, i32)]) -> Result<Vec<ColumnType>> {
    let failed = |error| Error::source("reading its types", error);
    let (oids, typmods): (Vec<u32>, Vec<i32>) = wanted.iter().copied().unzip();
    let rows = source.query(include_str!("../../sql/source/types.sql"), &[&oids, &typmods]).await;
    let mut types = Vec::new();
    for row in rows.map_err(failed)? {
        types.push(ColumnType {
            oid: row.try_get("oid").map_err(failed)?,
            typmod: row.try_get("typmod").map_err(failed)?,
            name: row.try_get("type_name").map_err(failed)?,
            kind: match row.try_get::<_, Option<u32>>("base_oid").map_err(failed)? {
                Some(_) => read_kind(&row).map_err(failed)?,
                None => TypeKind::Other,
            },
        });
    }
    Ok(types)
}

async fn read(source: &impl GenericClient, only: Option<u32>) -> Result<Vec<SourceTable>> {
    let failed = |error| Error::source("reading its catalogue", error);
    let rows = source.query(include_str!("../../sql/source/tables.sql"), &[&only]).await;
    let mut tables = Vec::new();
    for row in rows.map_err(failed)? {
        tables.push(read_table(&row).map_err(failed)?);
    }
    let oids: Vec<u32> = tables.iter().map(|table| table.relation.oid).collect();
    let rows = source.query(include_str!("../../sql/source/columns.sql"), &[&oids]).await;
    let mut columns: HashMap<u32, Vec<Column>> = HashMap::new();
    for row in rows.map_err(failed)? {
        let oid = row.try_get("attrelid").map_err(failed)?;
        columns.entry(oid).or_default().push(read_column(&row).map_err(failed)?);
    }
    for table in &mut tables {
        table.relation.columns = columns.remove(&table.relation.oid).unwrap_or_default();
    }
    Ok(tables)
}

fn read_table(row: &Row) -> Result<SourceTable, tokio_postgres::Error> {
    let identity: String = row.try_get("replica_identity")?;
    let estimated_rows: f64 = row.try_get("estimated_rows")?;
    let relation = Relation {
        oid: row.try_get("oid")?,
        table: TableName::new(
            row.try_get::<_, &str>("nspname")?,
            row.try_get::<_, &str>("relname")?,
        ),
        identity: match identity.as_str() {
            "f" => Identity::Full,
            "n" => Identity::Nothing,
            _ => Identity::Key,
        },
        columns: Vec::new(),
        comment: row.try_get("comment")?,
        attnums: row.try_get("attnums")?,
        filenode: row.try_get("filenode")?,
    };
    Ok(SourceTable {
        relation,
        owned: row.try_get("owned")?,
        readable: row.try_get("readable")?,
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate")]
        estimated_rows: estimated_rows as u64,
        partitioned: row.try_get("partitioned")?,
        odd_leaf: row.try_get("odd_leaf")?,
        by_index: identity == "i",
    })
}

fn read_column(row: &Row) -> Result<Column, tokio_postgres::Error> {
    let missing: Option<String> = row.try_get("missing_value")?;
    let has_default: bool = row.try_get("has_default")?;
    Ok(Column {
        name: row.try_get("attname")?,
        attnum: row.try_get("attnum")?,
        ty: ColumnType {
            oid: row.try_get("atttypid")?,
            typmod: row.try_get("atttypmod")?,
            name: row.try_get("type_name")?,
            kind: read_kind(row)?,
        },
        in_key: row.try_get("in_key")?,
        fill: match missing {
            Some(constant) => Fill::Constant(constant),
            None if has_default => Fill::Unknown,
            None => Fill::Null,
        },
        mask: None,
        hidden: false,
        as_text: false,
        comment: row.try_get("comment")?,
    })
}

fn read_kind(row: &Row) -> Result<TypeKind, tokio_postgres::Error> {
    let oid: u32 = row.try_get("base_oid")?;
    let typtype: String = row.try_get("base_typtype")?;
    let typname: String = row.try_get("base_typname")?;
    let element_oid: Option<u32> = row.try_get("element_oid")?;
    let element_typtype: Option<String> = row.try_get("element_typtype")?;
    let user_element = element_oid.is_some_and(|oid| oid >= FIRST_USER_OID);
    // reg* values print as names that the warehouse does not know
    let by_name =
        typname.trim_start_matches('_').starts_with("reg") || typname.ends_with("aclitem");
    let plain = matches!(typtype.as_str(), "b" | "r" | "m") && !by_name && !user_element;
    Ok(match typtype.as_str() {
        "e" => TypeKind::Enum,
        _ if element_typtype.as_deref() == Some("e") => TypeKind::EnumArray,
        _ if oid < FIRST_USER_OID && plain => {
            TypeKind::Builtin { oid, name: row.try_get("base_name")? }
        }
        _ if row.try_get("from_extension")? => TypeKind::Extension { name: typname },
        _ => TypeKind::Other,
    })
}
