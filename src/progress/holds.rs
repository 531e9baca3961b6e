//! What holds a table, and who lets it go on: a person, or whatever is over one day.

use tokio_postgres::GenericClient;

use super::tables::{State, TableRecord};
use crate::error::{Error, Result};
use crate::names::TableName;

/// For what a table is held that goes on by itself when that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Nothing feeds it any more.
    Unfed,
    /// Its definition is to change, and somebody has a lock on it.
    Locked,
    /// `siltstone apply` changes it.
    Changing,
}

impl Hold {
    const ALL: [Hold; 3] = [Hold::Unfed, Hold::Locked, Hold::Changing];

    /// The word in `audit.tables`.
    pub fn word(self) -> &'static str {
        match self {
            Hold::Unfed => "unfed",
            Hold::Locked => "locked",
            Hold::Changing => "changing",
        }
    }

    pub(super) fn of(word: &str) -> Option<Hold> {
        Hold::ALL.into_iter().find(|hold| hold.word() == word)
    }
}

impl TableRecord {
    /// Whether nothing feeds it any more: its rows are read when it is fed again. What an operator paused waits.
    pub fn is_shelved(&self) -> bool {
        self.state == State::Paused && self.hold == Some(Hold::Unfed)
    }

    /// Whether it waits for a lock that somebody has on it.
    pub fn is_locked(&self) -> bool {
        self.state == State::Stopped && self.hold == Some(Hold::Locked)
    }

    /// Whether it goes on when somebody says so: it is stopped, or an operator paused it.
    pub fn is_held(&self) -> bool {
        matches!(self.state, State::Stopped | State::Paused) && !self.is_shelved()
    }

    /// Whether it is stopped until `siltstone apply` has changed its table, or its file is as it was.
    pub fn awaits_apply(&self) -> bool {
        let remedy = self.remedy.as_deref().unwrap_or_default();
        self.state == State::Stopped && remedy.starts_with("siltstone apply")
    }
}

/// Changes a table's state, and for what it is held in it.
pub async fn set(
    client: &impl GenericClient,
    table: &TableName,
    (state, hold): (State, Option<Hold>),
    reason: Option<&str>,
    remedy: Option<&str>,
) -> Result<()> {
    client
        .execute(
            "update audit.tables
                set state = $2, hold = $3, reason = $4, remedy = $5, changed_at = now()
              where table_name = $1",
            &[&table.to_string(), &state.word(), &hold.map(Hold::word), &reason, &remedy],
        )
        .await
        .map_err(|error| {
            Error::warehouse(format!("noting that {table} is {}", state.word()), error)
        })?;
    Ok(())
}
