//! The stored position of a log: locked first and moved last by every transaction that applies, never
//! back, and only from where it stood when the batch was cut.

use tokio_postgres::{GenericClient, Transaction};

use crate::error::{Error, Kind, Result};
use crate::position::Lsn;

/// Whose position it is, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The connector.
    pub connector: String,
    /// The slot.
    pub partition: String,
    /// Everything before it is in the warehouse.
    pub position: Lsn,
    /// The system whose log it is.
    pub system_id: String,
    /// Its timeline.
    pub timeline: i32,
}

impl Checkpoint {
    /// Reads the stored position; none where there is none yet.
    pub async fn read(
        client: &impl GenericClient,
        connector: &str,
        partition: &str,
    ) -> Result<Option<Checkpoint>> {
        let failed = |error| Error::warehouse("reading the stored position", error);
        let row = client
            .query_opt(
                "select position, system_id, timeline from audit.progress
                  where connector = $1 and partition = $2",
                &[&connector, &partition],
            )
            .await
            .map_err(failed)?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(Checkpoint {
            connector: connector.to_owned(),
            partition: partition.to_owned(),
            position: Lsn::from_i64(row.try_get(0).map_err(failed)?),
            system_id: row.try_get(1).map_err(failed)?,
            timeline: row.try_get(2).map_err(failed)?,
        }))
    }

    /// Locks the stored position and checks that it is the one we go on from. Second statement of a
    /// transaction that applies; the first one holds the fence.
    pub async fn lock(&self, transaction: &Transaction<'_>) -> Result<()> {
        let row = transaction
            .query_opt(
                "select position from audit.progress
                  where connector = $1 and partition = $2 and system_id = $3 for update",
                &[&self.connector, &self.partition, &self.system_id],
            )
            .await
            .map_err(|error| Error::warehouse("locking the stored position", error))?;
        let stored = row.map(|row| Lsn::from_i64(row.get(0)));
        if stored == Some(self.position) {
            return Ok(());
        }
        // the reply to our last commit was lost, or somebody moved it: start again from what is stored
        let what = match stored {
            Some(stored) => format!("the stored position is {stored}, not {}", self.position),
            None => "the stored position is gone".to_owned(),
        };
        Err(Error::new(Kind::Busy, what))
    }

    /// Moves the stored position forward, and notes the timeline it was read on. Last statement of a
    /// transaction that applies.
    pub async fn advance(&self, transaction: &Transaction<'_>, until: Lsn) -> Result<()> {
        let moved = transaction
            .execute(
                "update audit.progress set position = $5, timeline = $6, moved_at = now()
                  where connector = $1 and partition = $2 and system_id = $3
                    and position = $4 and position <= $5",
                &[
                    &self.connector,
                    &self.partition,
                    &self.system_id,
                    &self.position.as_i64(),
                    &until.as_i64(),
                    &self.timeline,
                ],
            )
            .await
            .map_err(|error| Error::warehouse("moving the stored position", error))?;
        if moved == 1 {
            return Ok(());
        }
        let what = format!("the stored position cannot move from {} to {until}", self.position);
        Err(Error::bug(what))
    }

    /// Stores the first position of a new slot.
    pub async fn begin(&self, transaction: &Transaction<'_>) -> Result<()> {
        transaction
            .execute(
                "insert into audit.progress (connector, partition, position, system_id, timeline)
                 values ($1, $2, $3, $4, $5)
                 on conflict (connector, partition) do update
                 set position = excluded.position, system_id = excluded.system_id,
                     timeline = excluded.timeline, moved_at = now()",
                &[
                    &self.connector,
                    &self.partition,
                    &self.position.as_i64(),
                    &self.system_id,
                    &self.timeline,
                ],
            )
            .await
            .map_err(|error| Error::warehouse("storing the first position", error))?;
        Ok(())
    }
}

/// What we noted about our slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotRecord {
    /// Its name.
    pub slot: String,
    /// Whether its position and its tables' chunks are noted. A slot without that is made again.
    pub ready: bool,
}

/// Reads what we noted about a connector's slot.
pub async fn slot_record(
    client: &impl GenericClient,
    connector: &str,
) -> Result<Option<SlotRecord>> {
    let row = client
        .query_opt(
            "select slot, state = 'ready' from audit.slots where connector = $1",
            &[&connector],
        )
        .await
        .map_err(|error| Error::warehouse("reading its slots", error))?;
    Ok(row.map(|row| SlotRecord { slot: row.get(0), ready: row.get(1) }))
}

/// Notes that a slot is about to be made: one found in this state was left by a crash.
pub async fn record_creating(
    transaction: &Transaction<'_>,
    connector: &str,
    slot: &str,
) -> Result<()> {
    record(transaction, connector, slot, "creating").await
}

/// Notes that a slot, its position and its chunks belong together.
pub async fn record_ready(
    transaction: &Transaction<'_>,
    connector: &str,
    slot: &str,
) -> Result<()> {
    record(transaction, connector, slot, "ready").await
}

async fn record(
    transaction: &Transaction<'_>,
    connector: &str,
    slot: &str,
    state: &str,
) -> Result<()> {
    transaction
        .execute(
            "insert into audit.slots (connector, slot, state) values ($1, $2, $3)
             on conflict (connector) do update
             set slot = excluded.slot, state = excluded.state, changed_at = now()",
            &[&connector, &slot, &state],
        )
        .await
        .map_err(|error| Error::warehouse("noting its slot", error))?;
    Ok(())
}

/// Forgets a connector's position: everything is to be read again under a new slot.
pub async fn forget(transaction: &Transaction<'_>, connector: &str) -> Result<()> {
    const STATEMENTS: [&str; 3] = [
        "delete from audit.progress where connector = $1",
        "delete from audit.slots where connector = $1",
        "delete from audit.pending where connector = $1",
    ];
    for statement in STATEMENTS {
        transaction
            .execute(statement, &[&connector])
            .await
            .map_err(|error| Error::warehouse("forgetting its position", error))?;
    }
    Ok(())
}
