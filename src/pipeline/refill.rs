//! Reads the rows of a table again that topics feed, from the source that Debezium reads, and puts them in the
//! place of those that are stored; with them what their snapshot has seen of the changes (`journey::Seen`).
//!
//! Since before the snapshot was taken the table's changes are kept, whoever of the group reads them. So what is
//! stored was committed before it, and all that may come is compared with what it has seen, not with the order of
//! rows: theirs is before everything that a topic can tell. It is all of the table at once, for what was seen is
//! noted once a table.

use std::sync::Arc;

use tokio_postgres::Transaction;

use super::chunks::{Read, Worker};
use super::cutting::Job;
use super::shared::CaughtUp;
use crate::binding::bind;
use crate::capture::catalog::SourceTable;
use crate::capture::snapshot;
use crate::decode::{not_told, read_as_told};
use crate::error::{Error, Kind, Result};
use crate::journey::Target;
use crate::merge::{Point, Straight, beyond, merge_reading, rebase, way};
use crate::position::{Lsn, Order};
use crate::postgres::{Session, quote};
use crate::progress::{chunks, seen};
use crate::warehouse::Fenced;

impl Worker {
    /// Reads a table and puts its rows in the place of those that it has.
    pub(super) async fn refill(
        &self,
        under: &Transaction<'_>,
        warehouse: &mut Session,
        job: &Job,
    ) -> Result<Read> {
        let (shared, chunk) = (&*self.shared, &job.chunk);
        let Some(now) = self.shape(under, job).await? else { return Ok(Read::Later) };
        let log = (self.begun, self.as_of);
        let sight = shared.of_rows(snapshot::seen(under, log, self.taken_at).await)?;
        let sight = sight.without(skipped(&job.target, &now));
        let target = Arc::new(as_told(&job.target, &now, shared.binary)?);
        let point =
            Point { as_of: self.as_of, taken_at: self.taken_at, order: Order::BEFORE_TOPICS };
        let failed = |error| Error::warehouse("beginning to read a table again", error);
        // as long as rows come nobody who has the members begin anew waits for it
        let transaction = warehouse.transaction().await.map_err(failed)?;
        if let Some(place) = beyond(&transaction, &target.model, self.as_of).await? {
            return Err(another_log(&target, self.as_of, place));
        }
        let way = way(&transaction, &target, Straight::No).await?;
        // nothing of a table that has rows is refused by itself
        let (finished, _) =
            self.copy(under, &transaction, (&target, &now), (point, job), &way).await?;
        let durations = &shared.setup.durations;
        let transaction = Fenced::of(transaction, &shared.fence, "snapshot", durations).await?;
        shared.ensure_leaves(&[(target.model.clone(), finished.days(&target))], None).await?;
        let templates = &shared.setup.templates;
        let how = (point, false, None);
        let applied = merge_reading(&transaction, templates, &target, &finished, how).await?;
        rebase(&transaction, templates, &target, point).await?;
        seen::settle(&transaction, chunk, &sight).await?;
        // somebody has asked for it once more meanwhile
        if chunks::load(&transaction, chunk, self.as_of, applied.events).await?.is_none() {
            return Ok(Read::InPart);
        }
        seen::close(&transaction, &chunk.table, &sight).await?;
        transaction.commit().await?;
        self.tell(job, &applied, true);
        Ok(Read::All(CaughtUp::at(target, 0)))
    }
}

/// The source's columns that a table's rows are read without, and would have if topics told them.
fn skipped(target: &Target, now: &SourceTable) -> Vec<String> {
    let model = &target.model;
    let takes =
        |from: &String| model.mirrored || model.columns.iter().any(|column| column.from == *from);
    let mut skipped = not_told(&target.relation, &now.relation);
    skipped.retain(takes);
    if !skipped.is_empty() {
        let (table, columns) = (&model.table, skipped.join(", "));
        tracing::warn!(%table, columns, "its topics tell nothing of columns: it is read again as soon as they do");
    }
    skipped
}

/// The target for rows that are read as its topics tell them.
fn as_told(target: &Target, now: &SourceTable, binary: bool) -> Result<Target> {
    let table = &target.model.table;
    let relation = read_as_told(&target.relation, &now.relation).map_err(|why| {
        Error::new(Kind::TableStops, why).on_table(table.to_string()).remedy(format!(
            "siltstone table resume {table:#} goes on without its being read; Debezium can read it again, by an \
             incremental snapshot (its signal execute-snapshot)"
        ))
    })?;
    let Target { index, model, schema_id, .. } = target;
    Ok(bind(*index, model, &Arc::new(relation), *schema_id, binary)?.target)
}

fn another_log(target: &Target, point: Lsn, place: Lsn) -> Error {
    let table = &target.model.table;
    let what = format!(
        "the log of the server at url has come to {point} only, and the table has changes of {place}: topics tell \
         of another server, or told of one whose place this one has taken"
    );
    Error::new(Kind::TableStops, what).on_table(table.to_string()).remedy(format!(
        "write the url of the server that Debezium reads; if it is this one, have all rows count as older: update {} \
         set _seq = 0, _ord = 0; then siltstone table resync {table:#}",
        quote::table(table)
    ))
}
