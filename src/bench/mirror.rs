//! A mirrored table: its first copy and a backlog of changes, beside Postgres' own replication.

use super::native::{Native, WAYS};
use super::report::{line, ratio};
use super::site::{Installation, Site};
use super::{Options, Say};
use crate::error::{Error, Kind, Result};
use crate::postgres::Session;

/// Whether the last row of the backlog is there.
const APPLIED_NATIVE: &str = "select exists (select from public.items where id = -1)";

/// Measures the snapshot and, if asked for, the backlog.
pub(super) async fn run(site: &Site, options: &Options, say: Say<'_>) -> Result<()> {
    let at = site.installation("bench_mirror", options.rows, "").await?;
    at.at_source("create publication native for table public.items").await?;
    at.settle().await?;
    let ours = at.catch_up(None).await?;
    say(&line("snapshot", options.rows, &ours));
    let stream = options.wants("stream");
    let mut natives = Vec::new();
    let ways = match (options.ours, stream) {
        (true, _) => 0,
        (false, false) => 1,
        (false, true) => WAYS.len(),
    };
    for way in WAYS.into_iter().take(ways) {
        let (native, used) = Native::copy(&at, way).await?;
        if natives.is_empty() {
            say(&line("snapshot, native", options.rows, &used));
            say(&ratio("snapshot, ours / native", &ours, &used));
        }
        natives.push(native);
    }
    if stream {
        backlog(&at, options, &natives, say).await?;
    }
    for native in natives {
        native.end().await?;
    }
    at.end().await
}

async fn backlog(
    at: &Installation<'_>,
    options: &Options,
    natives: &[Native],
    say: Say<'_>,
) -> Result<()> {
    let applied = at.backlog(options.changes, options.rows).await?;
    at.settle().await?;
    let ours = at.catch_up(Some(&applied)).await?;
    say(&line("stream", options.changes, &ours));
    for native in natives {
        at.settle().await?;
        let used = native.catch_up(at.site, APPLIED_NATIVE).await?;
        let shown = native.way.shown;
        say(&line(&format!("stream, {shown}"), options.changes, &used));
        say(&ratio(&format!("stream, ours / {shown}"), &ours, &used));
    }
    let source = digest(&at.shop, "public.items").await?;
    let mut copies = vec![digest(&at.target, "mirror.items").await?];
    for native in natives {
        copies.push(digest(&native.target, "public.items").await?);
    }
    if copies.iter().any(|copy| *copy != source) {
        let what = format!("the copies are not equal: {source} at the source, then {copies:?}");
        return Err(Error::new(Kind::Differs, what));
    }
    say(&format!("  equal at the source and in {} copies: {source}", copies.len()));
    Ok(())
}

async fn digest(session: &Session, table: &str) -> Result<String> {
    let query = format!(
        "select count(*) || ' rows, digest ' || sum(hashtextextended(\
         row(id, quantity, name, note, price, placed_at)::text, 0)::numeric) from {table}"
    );
    let row = session.query_one(&query, &[]).await;
    row.and_then(|row| row.try_get(0)).map_err(|error| Error::warehouse("comparing", error))
}
