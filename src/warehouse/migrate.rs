//! Brings the control tables up to date: numbered files, forward only, each once.
//!
//! A migration that was applied must not have changed since: its checksum is compared.

use crate::error::{Error, Kind, Result};
use crate::names::fingerprint;
use crate::postgres::Session;

/// The migrations, in their order.
const MIGRATIONS: [(i32, &str, &str); 5] = [
    (1, "control", include_str!("../../sql/migrations/0001_control.sql")),
    (2, "dead_letters", include_str!("../../sql/migrations/0002_dead_letters.sql")),
    (3, "ranges", include_str!("../../sql/migrations/0003_ranges.sql")),
    (4, "connectors", include_str!("../../sql/migrations/0004_connectors.sql")),
    (5, "questions", include_str!("../../sql/migrations/0005_questions.sql")),
];

/// Any number that no other program is likely to lock.
const LOCK: i64 = 0x51_17_57_0e;

/// Schemas that the service makes for itself.
const SCHEMAS: &str = "create schema if not exists audit; create schema if not exists temp; \
    create table if not exists audit.migrations (
        version integer primary key, name text not null, checksum text not null,
        applied_at timestamptz not null default now())";

/// Applies what is missing. Safe beside another instance that does the same.
pub async fn migrate(warehouse: &mut Session) -> Result<()> {
    let failed = |error| Error::warehouse("bringing its control tables up to date", error);
    let transaction = warehouse.transaction().await.map_err(failed)?;
    transaction.execute("select pg_advisory_xact_lock($1)", &[&LOCK]).await.map_err(failed)?;
    transaction.batch_execute(SCHEMAS).await.map_err(failed)?;
    let rows = transaction.query("select version, checksum from audit.migrations", &[]).await;
    let applied: Vec<(i32, String)> =
        rows.map_err(failed)?.iter().map(|row| (row.get(0), row.get(1))).collect();
    if let Some((version, _)) = applied.iter().find(|(v, _)| MIGRATIONS.iter().all(|m| m.0 != *v)) {
        let what = format!("the warehouse was migrated to version {version}, which is newer");
        return Err(Error::new(Kind::Config, what).remedy("run the newer siltstone"));
    }
    for (version, name, text) in MIGRATIONS {
        let checksum = format!("{:016x}", fingerprint(text.as_bytes()));
        match applied.iter().find(|(applied, _)| *applied == version) {
            Some((_, known)) if *known == checksum => {}
            Some(_) => {
                let what = format!("migration {version} ({name}) differs from the one applied");
                return Err(Error::bug(what));
            }
            None => {
                transaction.batch_execute(text).await.map_err(failed)?;
                transaction
                    .execute(
                        "insert into audit.migrations (version, name, checksum) values ($1, $2, $3)",
                        &[&version, &name, &checksum],
                    )
                    .await
                    .map_err(failed)?;
            }
        }
    }
    transaction.commit().await.map_err(failed)
}
