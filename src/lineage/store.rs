//! Lineage as rows of `audit.data_lineage`.

use tokio_postgres::{GenericClient, Transaction};

use super::deps::{Cell, Kind};
use super::edges::Edge;
use crate::error::{Error, Result};

/// What a writing changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Rows that are new or say something else now.
    pub written: u64,
    /// Rows of what is no more.
    pub removed: u64,
}

/// Makes the table say exactly this; what it says already stays as it is, with its time.
pub async fn write(transaction: &Transaction<'_>, edges: &[Edge]) -> Result<Written> {
    let failed = |error| Error::warehouse("writing lineage down", error);
    let texts = |of: fn(&Edge) -> &str| {
        // what the files say may hold what no text of Postgres does
        edges.iter().map(|edge| of(edge).replace('\0', "")).collect::<Vec<String>>()
    };
    let columns = [
        texts(|edge| &edge.source.table),
        texts(|edge| &edge.source.column),
        texts(|edge| &edge.target.table),
        texts(|edge| &edge.target.column),
        texts(|edge| edge.kind.word()),
        texts(|edge| &edge.logic),
    ];
    let [source_table, source_column, target_table, target_column, kind, logic] = &columns;
    let removed = transaction
        .execute(
            "delete from audit.data_lineage l
              where not exists (
                    select from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[])
                             n(source_table, source_column, target_table, target_column, kind)
                     where (n.source_table, n.source_column, n.target_table, n.target_column, n.kind)
                         = (l.source_table, l.source_column, l.target_table, l.target_column,
                            l.transformation_type))",
            &[source_table, source_column, target_table, target_column, kind],
        )
        .await
        .map_err(failed)?;
    let written = transaction
        .execute(
            "insert into audit.data_lineage as l
                    (source_table, source_column, target_table, target_column,
                     transformation_type, transformation_logic)
             select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[])
             on conflict (source_table, source_column, target_table, target_column, transformation_type)
             do update set transformation_logic = excluded.transformation_logic, last_updated = now()
             where l.transformation_logic is distinct from excluded.transformation_logic",
            &[source_table, source_column, target_table, target_column, kind, logic],
        )
        .await
        .map_err(failed)?;
    Ok(Written { written, removed })
}

/// All of the lineage, as it was written down last.
pub async fn read(client: &impl GenericClient) -> Result<Vec<Edge>> {
    let failed = |error| Error::warehouse("reading lineage", error);
    let rows = client
        .query(
            "select source_table, source_column, target_table, target_column, transformation_type,
                    coalesce(transformation_logic, '')
               from audit.data_lineage order by 3, 4, 1, 2, 5",
            &[],
        )
        .await
        .map_err(failed)?;
    let edge = |row: &tokio_postgres::Row| -> Result<Edge, tokio_postgres::Error> {
        let text = |at: usize| row.try_get::<_, String>(at);
        Ok(Edge {
            source: Cell::new(text(0)?, text(1)?),
            target: Cell::new(text(2)?, text(3)?),
            // a word of a later version is nothing that we know
            kind: Kind::of(&text(4)?).unwrap_or(Kind::Unresolved),
            logic: text(5)?,
        })
    };
    rows.iter().map(edge).collect::<Result<_, _>>().map_err(failed)
}
