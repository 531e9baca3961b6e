//! What keeps a mart as it is: a check of the tag that it waits for, while that was found to fail last.

use crate::error::Result;
use crate::names::TableName;
use crate::postgres::Session;
use crate::quality;
use crate::spec::{Mart, Spec};

/// The checks that a mart waits for.
pub(super) struct Hold {
    tag: String,
    checks: Vec<(TableName, String)>,
}

/// Why a mart is held, and what to do.
pub(super) struct Held {
    pub(super) reason: String,
    pub(super) remedy: String,
}

impl Hold {
    /// Those of a mart; none where it waits for nothing.
    pub(super) fn of(spec: &Spec, mart: &Mart) -> Option<Hold> {
        let tag = mart.hold_on.clone()?;
        let tagged = spec.checks.iter().filter(|check| check.tag.as_ref() == Some(&tag));
        let checks = tagged.map(|check| (check.table.clone(), check.name.clone())).collect();
        Some(Hold { tag, checks })
    }

    /// What it is held by; none where nothing fails.
    pub(super) async fn held(&self, session: &Session) -> Result<Option<Held>> {
        let failing = quality::failing(&**session, &self.checks).await?;
        let Some(first) = failing.first() else { return Ok(None) };
        let more = match failing.len() - 1 {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        let reason = format!(
            "held on {}: {}: {}: {} at {}{more}",
            self.tag, first.table, first.name, first.told, first.at
        );
        let remedy = format!("mend what it found, then siltstone check run --tag {}", self.tag);
        Ok(Some(Held { reason, remedy }))
    }
}
