//! The stored position of a log: locked first and moved last by every transaction that applies, never
//! back, and only from where it stood when the batch was cut.

use std::collections::HashMap;
use std::sync::Arc;

use tokio_postgres::{GenericClient, Transaction};

use crate::error::{Error, Kind, Result};
use crate::journey::Stretch;
use crate::position::{Lsn, Positions};

/// Whose position it is, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The connector.
    pub connector: String,
    /// The slot, or `topic/partition`.
    pub partition: Arc<str>,
    /// Everything before it is in the warehouse.
    pub position: i64,
    /// The system whose log it is, or the topic by its id.
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
            partition: partition.into(),
            position: row.try_get(0).map_err(failed)?,
            system_id: row.try_get(1).map_err(failed)?,
            timeline: row.try_get(2).map_err(failed)?,
        }))
    }

    /// The position as that of a Postgres' log.
    pub fn lsn(&self) -> Lsn {
        Lsn::from_i64(self.position)
    }

    /// Stores the first position of a partition.
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
                    &&*self.partition,
                    &self.position,
                    &self.system_id,
                    &self.timeline,
                ],
            )
            .await
            .map_err(|error| Error::warehouse("storing the first position", error))?;
        Ok(())
    }
}

/// The partitions that are ours, each with its stored position.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    connector: String,
    checkpoints: Vec<Checkpoint>,
}

impl Ledger {
    /// The ledger of these partitions of one connector.
    pub fn new(connector: &str, mut checkpoints: Vec<Checkpoint>) -> Ledger {
        // two that lock the same rows do so in one order
        checkpoints.sort_by(|a, b| a.partition.cmp(&b.partition));
        Ledger { connector: connector.to_owned(), checkpoints }
    }

    /// The stored positions.
    pub fn positions(&self) -> Positions {
        let positions = self.checkpoints.iter();
        positions.map(|checkpoint| (checkpoint.partition.clone(), checkpoint.position)).collect()
    }

    fn columns(&self) -> (Vec<&str>, Vec<&str>) {
        let checkpoints = self.checkpoints.iter();
        checkpoints.map(|known| (&*known.partition, known.system_id.as_str())).unzip()
    }

    /// Locks the stored positions and checks that they are those we go on from. Second statement of a
    /// transaction that applies; the first one holds the fence.
    pub async fn lock(&self, transaction: &Transaction<'_>) -> Result<()> {
        let failed = |error| Error::warehouse("locking the stored position", error);
        let (partitions, systems) = self.columns();
        let rows = transaction
            .query(
                "select p.partition, p.position from audit.progress p
                   join unnest($2::text[], $3::text[]) o(partition, system_id) using (partition, system_id)
                  where p.connector = $1 order by p.partition for update of p",
                &[&self.connector, &partitions, &systems],
            )
            .await
            .map_err(failed)?;
        let mut stored: HashMap<String, i64> = HashMap::new();
        for row in rows {
            stored.insert(row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
        }
        for known in &self.checkpoints {
            let found = stored.get(&*known.partition).copied();
            if found == Some(known.position) {
                continue;
            }
            // the reply to our last commit was lost, or somebody moved it: start again from what is stored
            let (partition, ours) = (&known.partition, known.position);
            let what = match found {
                Some(found) => format!("the stored position of {partition} is {found}, not {ours}"),
                None => format!("the stored position of {partition} is gone"),
            };
            return Err(Error::new(Kind::Busy, what));
        }
        Ok(())
    }

    /// Moves stored positions forward, and notes the timeline they were read on. Last statement of a
    /// transaction that applies; [`Ledger::note`] follows its commit.
    pub async fn advance(
        &self,
        transaction: &Transaction<'_>,
        stretches: &[Stretch],
    ) -> Result<()> {
        let timeline = |stretch: &Stretch| {
            let known = self.checkpoints.iter().find(|c| c.partition == stretch.partition);
            known.map_or(0, |known| known.timeline)
        };
        let partitions: Vec<&str> = stretches.iter().map(|stretch| &*stretch.partition).collect();
        let after: Vec<i64> = stretches.iter().map(|stretch| stretch.after).collect();
        let until: Vec<i64> = stretches.iter().map(|stretch| stretch.until).collect();
        let timelines: Vec<i32> = stretches.iter().map(timeline).collect();
        let memories: Vec<Option<&str>> = stretches.iter().map(|s| s.memory.as_deref()).collect();
        let moved = transaction
            .execute(
                "update audit.progress p
                    set position = m.until, timeline = m.timeline, moved_at = now(),
                        memory = coalesce(m.memory::jsonb, p.memory)
                   from unnest($2::text[], $3::int8[], $4::int8[], $5::int4[], $6::text[])
                        m(partition, after, until, timeline, memory)
                  where p.connector = $1 and p.partition = m.partition
                    and p.position = m.after and p.position <= m.until",
                &[&self.connector, &partitions, &after, &until, &timelines, &memories],
            )
            .await
            .map_err(|error| Error::warehouse("moving the stored position", error))?;
        if usize::try_from(moved) == Ok(stretches.len()) {
            return Ok(());
        }
        let first = stretches.first();
        let what = format!("a stored position cannot move as {first:?} says, or another one");
        Err(Error::bug(what))
    }

    /// Notes what was committed.
    pub fn note(&mut self, stretches: &[Stretch]) {
        for stretch in stretches {
            let mut checkpoints = self.checkpoints.iter_mut();
            let known = checkpoints.find(|known| known.partition == stretch.partition);
            if let Some(known) = known {
                known.position = stretch.until;
            }
        }
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

/// Notes what is done about the log that a slot keeps, and how much that is.
pub async fn record_step(
    transaction: &Transaction<'_>,
    connector: &str,
    (step, retained): (&str, u64),
) -> Result<()> {
    let retained = i64::try_from(retained).unwrap_or(i64::MAX);
    transaction
        .execute(
            "update audit.slots set wal_step = $2, retained = $3, stepped_at = now()
              where connector = $1",
            &[&connector, &step, &retained],
        )
        .await
        .map_err(|error| Error::warehouse("noting what its slot keeps", error))?;
    Ok(())
}

/// Forgets a connector's position: everything is to be read again under a new slot.
pub async fn forget(transaction: &Transaction<'_>, connector: &str) -> Result<()> {
    const STATEMENTS: [&str; 4] = [
        "delete from audit.progress where connector = $1",
        "delete from audit.held_back where connector = $1",
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
