//! Cuts what is to be read: a large table into ranges of its key, so that a crash costs one range and not
//! the table, and several workers share it.
//!
//! What the table needs before its rows come is done here, once, for ranges are read side by side.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::chunks::{APPLICATION, Failed, Jobs, stop, stops_a_table};
use super::fit::fit;
use super::shared::{Shared, writer};
use super::tables::Planned;
use crate::capture::catalog::{self, SourceTable};
use crate::capture::ranges;
use crate::error::{Error, Kind, Result};
use crate::journey::Target;
use crate::merge::{Stretch, emptying, goes_straight};
use crate::postgres::{Session, Side, connect};
use crate::progress::chunks::{self, Chunk};
use crate::progress::tables::State;
use crate::spec::{History, Model};
use crate::warehouse::{Fenced, ddl};

/// How the reason of a reading begins that somebody asked for.
pub(super) const ASKED: &str = "table resync";

/// What is to be read at once: a table, or a range of one.
#[derive(Clone)]
pub(super) struct Job {
    pub(super) target: Arc<Target>,
    pub(super) source: SourceTable,
    pub(super) chunk: Chunk,
    /// the rows of its table that are in, of all its ranges
    pub(super) rows: Arc<AtomicU64>,
    /// somebody asked for it, however large it is
    pub(super) asked: bool,
}

impl Job {
    /// What is to be read of a table, of all chunks that are open.
    pub(super) fn of(planned: &Planned, open: &[Chunk]) -> Vec<Job> {
        let record = &planned.record;
        if !matches!(record.state, State::Snapshotting | State::Resyncing) {
            return Vec::new();
        }
        let rows = Arc::new(AtomicU64::new(0));
        let chunks = open.iter().filter(|chunk| chunk.table == record.table);
        let job = |chunk: &Chunk| Job {
            target: planned.target.clone(),
            source: planned.source.clone(),
            chunk: chunk.clone(),
            rows: rows.clone(),
            asked: record.reason.as_deref().is_some_and(|reason| reason.starts_with(ASKED)),
        };
        chunks.map(job).collect()
    }

    /// The range of the warehouse table's key that the job's rows are all of.
    pub(super) fn stretch(&self, target: &Target) -> Option<Stretch> {
        let range = self.chunk.range.as_ref()?;
        let column = ordered_alike(&target.model, &range.column)?;
        Some(Stretch { column, lower: range.lower.clone(), upper: range.upper.clone() })
    }
}

/// The model's key column that a source column feeds, if its values are ordered as the source's are.
fn ordered_alike(model: &Model, source: &str) -> Option<String> {
    const ORDERED: [&str; 4] = ["smallint", "integer", "bigint", "uuid"];
    let column = model.columns.iter().find(|column| column.from == source)?;
    let alike = ORDERED.contains(&column.ty.as_str()) && model.key.contains(&column.name);
    alike.then(|| column.name.clone())
}

/// Cuts the large tables; the small ones come first, for they are soon done.
pub(super) async fn cut_all(
    shared: &Shared,
    jobs: Vec<Job>,
    (again, failed): (&Jobs, &Failed),
) -> Result<VecDeque<Job>> {
    let source = connect(Side::Source, shared.connector().rows_endpoint(), APPLICATION).await;
    let source = match source {
        Err(error) if shared.waits_for(&error) => {
            again.lock().await.extend(jobs);
            *failed.lock().await = Some(error);
            return Ok(VecDeque::new());
        }
        source => source?,
    };
    let mut warehouse = writer(&shared.setup, &shared.fence, "snapshot").await?;
    let (mut small, mut large) = (VecDeque::new(), VecDeque::new());
    for job in jobs {
        let cut = match cut(shared, (&source, &mut warehouse), job.clone()).await {
            Ok(cut) => cut,
            Err(error) if stops_a_table(&error) => {
                stop(shared, &job.target.model.table, &error).await?;
                continue;
            }
            Err(error) if shared.waits_for(&error) => {
                again.lock().await.push_back(job);
                *failed.lock().await = Some(error);
                continue;
            }
            Err(error) => return Err(error),
        };
        if cut.len() > 1 { &mut large } else { &mut small }.extend(cut);
    }
    small.append(&mut large);
    Ok(small)
}

/// The jobs in the place of one: itself, if its table is best read at once.
async fn cut(
    shared: &Shared,
    (source, warehouse): (&Session, &mut Session),
    job: Job,
) -> Result<Vec<Job>> {
    if job.chunk.range.is_some() || job.chunk.condition.is_some() || shared.topics {
        return Ok(vec![job]);
    }
    match ranges_of(shared, (source, warehouse), &job).await? {
        Some(jobs) => Ok(jobs),
        None => Ok(vec![job]),
    }
}

/// A table that is larger than files allow to be read unasked waits.
fn refuse_large(shared: &Shared, job: &Job, size: i64) -> Result<()> {
    let most = shared.connector().snapshot.max_size.filter(|_| !job.asked);
    let Some(most) = most.filter(|most| u64::try_from(size).is_ok_and(|size| size > *most)) else {
        return Ok(());
    };
    let table = &job.chunk.table;
    let what = format!("its {size} bytes are more than snapshot.max_size, {most}");
    Err(Error::new(Kind::TableStops, what).on_table(table.to_string()).remedy(format!(
        "siltstone table resync {table:#} reads it all the same; its changes are kept meanwhile"
    )))
}

async fn ranges_of(
    shared: &Shared,
    (source, warehouse): (&Session, &mut Session),
    job: &Job,
) -> Result<Option<Vec<Job>>> {
    let name = &job.target.model.table;
    let now = catalog::table(&**source, job.source.relation.oid).await;
    let Some(mut now) = shared.of_rows(now)? else {
        return Ok(None);
    };
    shared.connector().shape(&job.source.relation.table, &mut now.relation);
    let size = shared.of_rows(ranges::size(&**source, &now).await)?;
    refuse_large(shared, job, size.rows)?;
    let column = shared.of_rows(ranges::column(&**source, &now).await)?;
    let Some(column) = column else { return Ok(None) };
    let bounds = shared.of_rows(ranges::bounds(&**source, &now, &column, size.main).await)?;
    if bounds.is_empty() {
        return Ok(None);
    }
    let transaction =
        Fenced::begin(warehouse, &shared.fence, "ranges", &shared.setup.durations).await?;
    let relation = Arc::new(now.relation.clone());
    let fitted = fit(shared, &transaction, (&job.target, job.chunk.fresh), &relation).await?;
    let target = fitted.target;
    let keeps_rows = matches!(target.model.history, History::Append | History::Raw);
    let whole = target.model.history == History::Bag
        || (!keeps_rows && ordered_alike(&target.model, &column).is_none());
    if whole || fitted.empties {
        return Ok(None);
    }
    let mut statements = fitted.statements;
    if job.chunk.empties {
        statements.push(emptying(&target.model));
    }
    // rows that do not go straight in are merged by the key
    if !goes_straight(&transaction, &target).await? {
        statements.extend(fitted.key);
    }
    ddl(&transaction, &statements).await.map_err(|error| {
        Error::warehouse("making it fit the source", error).on_table(name.to_string())
    })?;
    let at = (column.as_str(), bounds.as_slice());
    let Some(cut) = chunks::cut(&transaction, &job.chunk, at, target.schema_id).await? else {
        return Ok(Some(Vec::new()));
    };
    transaction.commit().await?;
    tracing::info!(table = %name, ranges = cut.len(), "the table is read in ranges of {column}");
    let range =
        |chunk: Chunk| Job { target: target.clone(), source: now.clone(), chunk, ..job.clone() };
    Ok(Some(cut.into_iter().map(range).collect()))
}
