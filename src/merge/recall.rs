//! What a raw table holds: its events, in the order of the source.

use serde_json::{Map, Value};
use tokio_postgres::{GenericClient, Portal, Row, Transaction};

use crate::error::{Error, Result};
use crate::journey::{Mark, Op};
use crate::names::TableName;
use crate::position::Order;
use crate::postgres::quote;
use crate::spec::Model;

/// Events of a page.
const ROWS: i32 = 2_000;

/// An event as a raw table has it.
#[derive(Debug)]
pub struct Recalled {
    /// What happened.
    pub op: Op,
    /// Its place in the order of the source.
    pub order: Order,
    /// Its transaction.
    pub mark: Mark,
    /// The shape its table had, by its number in `audit.schemas`.
    pub schema_id: i32,
    /// The old row, as far as the source sent it.
    pub before: Option<Map<String, Value>>,
    /// The new row, without what did not change.
    pub after: Option<Map<String, Value>>,
    /// The columns that did not change.
    pub unchanged: Vec<String>,
}

/// What a raw table holds in sum.
#[derive(Clone, Debug, Default)]
pub struct Extent {
    /// The first `seq` from which on every event is there.
    pub from: Option<i64>,
    /// Rows of first readings.
    pub reads: i64,
    /// Whether older rows were dropped, of which the newest of each key were carried on.
    pub carried: bool,
    /// Where the source table was emptied last.
    pub emptied: Option<Order>,
    /// The shapes of its events.
    pub shapes: Vec<i32>,
}

impl Extent {
    /// Looks at all of a raw table.
    pub async fn of(client: &impl GenericClient, model: &Model) -> Result<Extent> {
        let failed = |error| failed(&model.table, error);
        let query = format!(
            "select min((raw_data->>'seq')::int8) filter (where raw_data->>'carried' is null),
                    count(*) filter (where raw_data->>'op' = 'r' and raw_data->>'carried' is null),
                    coalesce(bool_or(raw_data->>'carried' is not null), false),
                    max(array[(raw_data->>'seq')::int8, (raw_data->>'ord')::int8])
                        filter (where raw_data->>'op' = 't'),
                    coalesce(array_agg(distinct (raw_data->>'schema')::int4), '{{}}')
               from {} where source_system = $1",
            quote::table(&model.table)
        );
        let row = client.query_one(&query, &[&model.from.source]).await.map_err(failed)?;
        let emptied: Option<Vec<i64>> = row.try_get(3).map_err(failed)?;
        let emptied =
            emptied.and_then(|place| Some(Order { seq: *place.first()?, ord: *place.get(1)? }));
        Ok(Extent {
            from: row.try_get(0).map_err(failed)?,
            reads: row.try_get(1).map_err(failed)?,
            carried: row.try_get(2).map_err(failed)?,
            emptied,
            shapes: row.try_get(4).map_err(failed)?,
        })
    }
}

/// The events of a raw table, page by page.
pub struct Events {
    portal: Portal,
    table: TableName,
}

impl Events {
    /// Begins with the first event behind `after`.
    pub async fn of(
        transaction: &Transaction<'_>,
        model: &Model,
        after: Option<Order>,
    ) -> Result<Events> {
        let table = model.table.clone();
        let query = format!(
            "select r.op, r.seq, r.ord, coalesce(r.tx, 0),
                    (extract(epoch from r.at) * 1000000)::int8 - 946684800000000::int8, r.schema,
                    nullif(r.before, 'null')::text, nullif(r.after, 'null')::text, r.unchanged::text
               from (select raw_data->>'op' as op, (raw_data->>'seq')::int8 as seq,
                            (raw_data->>'ord')::int8 as ord, (raw_data->>'tx')::int8 as tx,
                            (raw_data->>'committed_at')::timestamptz as at,
                            (raw_data->>'schema')::int4 as schema, raw_data->'before' as before,
                            raw_data->'after' as after, raw_data->'unchanged' as unchanged
                       from {} where source_system = $1) r
              where (r.seq, r.ord) > ($2, $3)
              order by r.seq, r.ord",
            quote::table(&table)
        );
        let after = after.unwrap_or(Order { seq: -1, ord: -1 });
        let portal = transaction
            .bind(&query, &[&model.from.source, &after.seq, &after.ord])
            .await
            .map_err(|error| failed(&table, error))?;
        Ok(Events { portal, table })
    }

    /// The next page; one without events behind the last one.
    pub async fn next(&self, transaction: &Transaction<'_>) -> Result<Vec<Recalled>> {
        let rows = transaction.query_portal(&self.portal, ROWS).await;
        let rows = rows.map_err(|error| failed(&self.table, error))?;
        rows.iter().map(|row| self.event(row)).collect()
    }

    fn event(&self, row: &Row) -> Result<Recalled> {
        let failed = |error| failed(&self.table, error);
        let strange = || Error::bug(format!("{} has a strange row", self.table));
        let op: String = row.try_get(0).map_err(failed)?;
        let seq = row.try_get(1).map_err(failed)?;
        let xid: i64 = row.try_get(3).map_err(failed)?;
        let image = |at: usize| -> Result<Option<Map<String, Value>>> {
            let text: Option<String> = row.try_get(at).map_err(failed)?;
            text.map(|text| serde_json::from_str(&text).map_err(|_| strange())).transpose()
        };
        let unchanged: Option<String> = row.try_get(8).map_err(failed)?;
        let unchanged = unchanged.map(|text| serde_json::from_str(&text).map_err(|_| strange()));
        Ok(Recalled {
            op: Op::of(&op).ok_or_else(strange)?,
            order: Order { seq, ord: row.try_get(2).map_err(failed)? },
            mark: Mark {
                seq,
                committed_at: row.try_get(4).map_err(failed)?,
                xid: u32::try_from(xid).unwrap_or(0),
            },
            schema_id: row.try_get(5).map_err(failed)?,
            before: image(6)?,
            after: image(7)?,
            unchanged: unchanged.transpose()?.unwrap_or_default(),
        })
    }
}

fn failed(table: &TableName, error: tokio_postgres::Error) -> Error {
    Error::warehouse("reading its events", error).on_table(table.to_string())
}
