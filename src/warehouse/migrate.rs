//! Brings the control tables up to date: numbered files, forward only, each once.
//!
//! A migration that was applied must not have changed since: its checksum is compared.

use tokio_postgres::GenericClient;

use crate::error::{Error, Kind, Result};
use crate::names::fingerprint;
use crate::postgres::Session;

/// The migrations, in their order.
const MIGRATIONS: [(i32, &str, &str); 29] = [
    (1, "control", include_str!("../../sql/migrations/0001_control.sql")),
    (2, "dead_letters", include_str!("../../sql/migrations/0002_dead_letters.sql")),
    (3, "ranges", include_str!("../../sql/migrations/0003_ranges.sql")),
    (4, "connectors", include_str!("../../sql/migrations/0004_connectors.sql")),
    (5, "questions", include_str!("../../sql/migrations/0005_questions.sql")),
    (6, "apply", include_str!("../../sql/migrations/0006_apply.sql")),
    (7, "resync", include_str!("../../sql/migrations/0007_resync.sql")),
    (8, "topics", include_str!("../../sql/migrations/0008_topics.sql")),
    (9, "jobs", include_str!("../../sql/migrations/0009_jobs.sql")),
    (10, "marts", include_str!("../../sql/migrations/0010_marts.sql")),
    (11, "held_back", include_str!("../../sql/migrations/0011_held_back.sql")),
    (12, "source_leaves", include_str!("../../sql/migrations/0012_source_leaves.sql")),
    (13, "standing", include_str!("../../sql/migrations/0013_standing.sql")),
    (14, "alerts", include_str!("../../sql/migrations/0014_alerts.sql")),
    (15, "quality", include_str!("../../sql/migrations/0015_quality.sql")),
    (16, "lineage", include_str!("../../sql/migrations/0016_lineage.sql")),
    (17, "feeds", include_str!("../../sql/migrations/0017_feeds.sql")),
    (18, "kept_log", include_str!("../../sql/migrations/0018_kept_log.sql")),
    (19, "holds", include_str!("../../sql/migrations/0019_holds.sql")),
    (20, "fed_by", include_str!("../../sql/migrations/0020_fed_by.sql")),
    (21, "resting", include_str!("../../sql/migrations/0021_resting.sql")),
    (22, "extracts", include_str!("../../sql/migrations/0022_extracts.sql")),
    (23, "pending_order", include_str!("../../sql/migrations/0023_pending_order.sql")),
    (24, "whole_extracts", include_str!("../../sql/migrations/0024_whole_extracts.sql")),
    (25, "seen", include_str!("../../sql/migrations/0025_seen.sql")),
    (26, "lookups", include_str!("../../sql/migrations/0026_lookups.sql")),
    (27, "failed_runs", include_str!("../../sql/migrations/0027_failed_runs.sql")),
    (28, "carried", include_str!("../../sql/migrations/0028_carried.sql")),
    (29, "pages", include_str!("../../sql/migrations/0029_pages.sql")),
];

/// Any number that no other program is likely to lock.
const LOCK: i64 = 0x51_17_57_0e;

/// Schemas that the service makes for itself.
const SCHEMAS: &str = "create schema if not exists audit; create schema if not exists temp; \
    create table if not exists audit.migrations (
        version integer primary key, name text not null, checksum text not null,
        applied_at timestamptz not null default now())";

/// The names of the migrations that are missing. Changes nothing, and takes no right to.
pub async fn outstanding(warehouse: &impl GenericClient) -> Result<Vec<String>> {
    let there = "select to_regclass('audit.migrations') is not null";
    let there = warehouse.query_one(there, &[]).await.and_then(|row| row.try_get(0));
    let applied = match there.map_err(failed)? {
        true => read(warehouse).await?,
        false => Vec::new(),
    };
    let name = |(version, name, _): &(i32, &str, &str)| format!("{version:04}_{name}");
    Ok(missing(&applied)?.iter().map(name).collect())
}

fn failed(error: tokio_postgres::Error) -> Error {
    Error::warehouse("bringing its control tables up to date", error)
}

/// The migrations that were applied, with their checksums.
async fn read(client: &impl GenericClient) -> Result<Vec<(i32, String)>> {
    let rows = client.query("select version, checksum from audit.migrations", &[]).await;
    let rows = rows.map_err(failed)?;
    rows.iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
        .collect::<Result<_, tokio_postgres::Error>>()
        .map_err(failed)
}

/// Those that were not applied; refuses a warehouse that others have migrated.
fn missing(applied: &[(i32, String)]) -> Result<Vec<(i32, &'static str, &'static str)>> {
    if let Some((version, _)) = applied.iter().find(|(v, _)| MIGRATIONS.iter().all(|m| m.0 != *v)) {
        let what = format!("the warehouse was migrated to version {version}, which is newer");
        return Err(Error::new(Kind::Config, what).remedy("run the newer siltstone"));
    }
    let mut missing = Vec::new();
    for (version, name, text) in MIGRATIONS {
        match applied.iter().find(|(applied, _)| *applied == version) {
            Some((_, known)) if *known == checksum(text) => {}
            Some(_) => {
                let what = format!("migration {version} ({name}) differs from the one applied");
                return Err(Error::bug(what));
            }
            None => missing.push((version, name, text)),
        }
    }
    Ok(missing)
}

fn checksum(text: &str) -> String {
    format!("{:016x}", fingerprint(text.as_bytes()))
}

/// Refuses control tables that lack something, where nothing may be made.
pub async fn refuse_outstanding(warehouse: &impl GenericClient) -> Result<()> {
    let missing = outstanding(warehouse).await?;
    if missing.is_empty() {
        return Ok(());
    }
    let what = format!("its control tables lack {}, and --no-ddl makes none", missing.join(", "));
    Err(Error::new(Kind::Config, what).remedy("siltstone apply"))
}

/// Refuses control tables of another version, for who only looks: a look makes nothing, and the service that
/// runs may be an older one.
pub async fn refuse_unlike(warehouse: &impl GenericClient) -> Result<()> {
    let (needed, missing) = (MIGRATIONS.len(), outstanding(warehouse).await?.len());
    if missing == 0 {
        return Ok(());
    }
    let what = match needed.saturating_sub(missing) {
        0 => "the warehouse has no control tables: nothing has fed it yet".to_owned(),
        there => format!("the warehouse is at version {there}, this siltstone needs {needed}"),
    };
    Err(Error::new(Kind::Config, what).remedy("siltstone apply, or siltstone run, brings it there"))
}

/// Applies what is missing. Safe beside another instance that does the same.
pub async fn migrate(warehouse: &mut Session) -> Result<()> {
    // who may not make a schema may run where nothing is missing
    if outstanding(&**warehouse).await?.is_empty() {
        return Ok(());
    }
    let transaction = warehouse.transaction().await.map_err(failed)?;
    transaction.execute("select pg_advisory_xact_lock($1)", &[&LOCK]).await.map_err(failed)?;
    transaction.batch_execute(SCHEMAS).await.map_err(failed)?;
    for (version, name, text) in missing(&read(&transaction).await?)? {
        transaction.batch_execute(text).await.map_err(failed)?;
        let note = "insert into audit.migrations (version, name, checksum) values ($1, $2, $3)";
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
            [&version, &name, &checksum(text)];
        transaction.execute(note, &parameters).await.map_err(failed)?;
    }
    transaction.commit().await.map_err(failed)
}
