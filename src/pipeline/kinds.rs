//! What connectors are run with, of whatever kind they are: what their keeper needs to know of them.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::watch;

use super::connector::guard_source;
use super::core::Basis;
use super::intake::End;
use super::ladder::Warehouse;
use super::session;
use super::shared::Setup;
use super::topics::{self, TopicSetup};
use crate::error::Result;

/// What a connector is run with.
#[derive(Clone)]
pub(super) enum AnySetup {
    Postgres(Box<Setup>),
    Topics(Box<TopicSetup>),
}

impl Deref for AnySetup {
    type Target = Basis;

    fn deref(&self) -> &Basis {
        match self {
            AnySetup::Postgres(setup) => &setup.basis,
            AnySetup::Topics(setup) => &setup.basis,
        }
    }
}

impl AnySetup {
    /// Runs a session.
    pub(super) async fn session(&self, stop: watch::Receiver<bool>) -> Result<End> {
        match self {
            AnySetup::Postgres(setup) => Box::pin(session::run(setup, stop)).await,
            AnySetup::Topics(setup) => Box::pin(topics::run(setup, stop)).await,
        }
    }

    /// Looks after the source while nothing is read from it.
    pub(super) async fn guard(&self, warehouse: Warehouse<'_>) {
        if let AnySetup::Postgres(setup) = self {
            guard_source(setup, warehouse).await;
        }
    }

    /// Gives the connector up for now: who stands by may have it, and then keeps it.
    pub(super) fn give_up(&self) {
        if let AnySetup::Postgres(setup) = self {
            setup.epoch.store(0, Ordering::SeqCst);
        }
    }

    /// The same connector with other files: what it knows of itself stays. None if the files say the same.
    pub(super) fn with(&self, new: AnySetup) -> Option<AnySetup> {
        let of = |setup: &AnySetup| {
            let models = setup.models.iter();
            models.filter(|model| model.from.source == new.common.source).cloned().collect()
        };
        let (before, after): (Vec<_>, Vec<_>) = (of(self), of(&new));
        let like = match (self, &new) {
            (AnySetup::Postgres(old), AnySetup::Postgres(new)) => {
                old.connector == new.connector && old.slots == new.slots
            }
            (AnySetup::Topics(old), AnySetup::Topics(new)) => old.connector == new.connector,
            _ => false,
        };
        if like && before == after && self.settings.works_as(&new.settings) {
            return None;
        }
        // the lease stays ours meanwhile
        self.reloading.store(true, Ordering::SeqCst);
        let basis = |old: &Basis, new: &Basis| Basis {
            common: new.common.clone(),
            settings: new.settings.clone(),
            models: new.models.clone(),
            ..old.clone()
        };
        Some(match (self.clone(), new) {
            (AnySetup::Postgres(old), AnySetup::Postgres(new)) => {
                let basis = basis(&old.basis, &new.basis);
                let (connector, slots) = (new.connector, Arc::clone(&new.slots));
                let disabled = new.disabled;
                AnySetup::Postgres(Box::new(Setup { basis, connector, slots, disabled, ..*old }))
            }
            (AnySetup::Topics(old), AnySetup::Topics(new)) => {
                let basis = basis(&old.basis, &new.basis);
                AnySetup::Topics(Box::new(old.with(basis, *new)))
            }
            // of another kind now: nothing that is known is of use
            (_, new) => new,
        })
    }
}
