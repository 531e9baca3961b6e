//! What tasks of jobs ask of sources and marts. Reads; changes nothing.

use std::sync::Arc;

use tokio::sync::watch;

use crate::error::{Error, Kind, Result};
use crate::names::TableName;
use crate::postgres::{Session, Side, connect};
use crate::refresh::{self, Standing};
use crate::schedule::{Asking, Feeds, LogEnd, MartStands};
use crate::spec::Spec;

/// Answers by the files as they are.
pub(super) struct ByFiles(pub(super) watch::Receiver<Arc<Spec>>);

impl Feeds for ByFiles {
    fn log_end<'a>(&'a self, connector: &'a str) -> Asking<'a, LogEnd> {
        Box::pin(async move {
            let spec = self.0.borrow().clone();
            let found = spec.connectors.iter().find(|known| known.name == connector);
            let found = found.ok_or_else(|| {
                let what = format!("no enabled connector of kind postgres is named {connector}");
                Error::new(Kind::Config, what).remedy("add it, or remove the task")
            })?;
            let source = connect(Side::Source, &found.endpoint, "siltstone job").await?;
            let position = end_of_log(&source).await?;
            Ok(LogEnd { partition: found.slot.clone(), position })
        })
    }

    fn mart<'a>(
        &'a self,
        session: &'a Session,
        mart: &'a TableName,
    ) -> Asking<'a, Option<MartStands>> {
        Box::pin(async move {
            let standings = refresh::standings(&**session, Some(&mart.to_string())).await?;
            standings.into_iter().next().map(stands).transpose()
        })
    }
}

/// Where all that is visible at a source now has an end. At the begin of a page that is not written yet the
/// place to write is behind the page's header, which no record's end is.
async fn end_of_log(source: &Session) -> Result<i64> {
    let query = "
        select position - case when position % size in (24, 40) then position % size else 0 end
          from (select (pg_current_wal_insert_lsn() - '0/0')::int8 as position,
                       current_setting('wal_block_size')::int8 as size) w";
    let row = source.query_one(query, &[]).await;
    row.and_then(|row| row.try_get(0))
        .map_err(|error| Error::source("asking for the end of its log", error))
}

fn stands(standing: Standing) -> Result<MartStands> {
    let as_of = standing.as_of.as_deref().map(str::parse).transpose();
    let why = [standing.reason, standing.remedy].into_iter().flatten().collect::<Vec<_>>();
    Ok(MartStands {
        as_of: as_of.map_err(|error| Error::bug("a mart's time is none").because(error))?,
        why: Some(why.join("; ")).filter(|why| !why.is_empty()),
        state: standing.state,
        due: standing.due,
        written: standing.rows_written,
    })
}
