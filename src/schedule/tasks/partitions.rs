//! The leaves of declared tables, made before rows ask for them.

use super::{Outcome, Work};
use crate::error::Result;
use crate::spec::TablePattern;

pub(super) async fn run(work: &Work<'_>, patterns: &[TablePattern]) -> Result<Outcome> {
    let mut session = work.session().await?;
    let mut made = 0;
    let meant = |table| patterns.iter().any(|pattern| pattern.matches(table));
    for model in work.hands.models.iter().filter(|model| meant(&model.table)) {
        made += work.hands.leaves.make(&mut session, work.hands, model).await?;
    }
    Ok(Outcome::Done(Some(made)))
}
