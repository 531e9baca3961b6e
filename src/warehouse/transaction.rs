//! Transactions that know their name and their owner: fenced from the first statement on, measured
//! from begin to commit. Dropped, they are rolled back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::Transaction;

use super::Fence;
use crate::error::{Error, Result};
use crate::postgres::Session;

/// Where the duration of transactions is reported, by name.
#[derive(Clone)]
pub struct Durations(Arc<dyn Fn(&'static str, Duration) + Send + Sync>);

impl Durations {
    /// Reports to `observe`.
    pub fn new(observe: impl Fn(&'static str, Duration) + Send + Sync + 'static) -> Durations {
        Durations(Arc::new(observe))
    }

    /// Reports to nobody.
    pub fn unobserved() -> Durations {
        Durations::new(|_, _| {})
    }
}

/// An open transaction of the owner.
pub struct Fenced<'s> {
    transaction: Transaction<'s>,
    name: &'static str,
    started: Instant,
    durations: Durations,
}

impl<'s> Fenced<'s> {
    /// Begins the transaction `name`; fails with [`crate::error::Kind::Fenced`] where another
    /// instance has taken over.
    pub async fn begin(
        session: &'s mut Session,
        fence: &Fence,
        name: &'static str,
        durations: &Durations,
    ) -> Result<Fenced<'s>> {
        let started = Instant::now();
        let transaction = session
            .transaction()
            .await
            .map_err(|error| Error::warehouse(format!("beginning transaction {name}"), error))?;
        fence.hold(&transaction).await?;
        Ok(Fenced { transaction, name, started, durations: durations.clone() })
    }

    /// Fences an open transaction that has written to temporary tables alone: it holds up nobody before.
    pub async fn of(
        transaction: Transaction<'s>,
        fence: &Fence,
        name: &'static str,
        durations: &Durations,
    ) -> Result<Fenced<'s>> {
        let started = Instant::now();
        fence.hold(&transaction).await?;
        Ok(Fenced { transaction, name, started, durations: durations.clone() })
    }

    /// Commits. A failure leaves it open whether it was committed: the stored position tells.
    pub async fn commit(self) -> Result<()> {
        let Fenced { transaction, name, started, durations } = self;
        transaction
            .commit()
            .await
            .map_err(|error| Error::warehouse(format!("committing transaction {name}"), error))?;
        (durations.0)(name, started.elapsed());
        Ok(())
    }
}

impl<'s> std::ops::Deref for Fenced<'s> {
    type Target = Transaction<'s>;

    fn deref(&self) -> &Transaction<'s> {
        &self.transaction
    }
}
