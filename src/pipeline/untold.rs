//! Columns that topics tell, and that a table's rows were read again without, for no topic had told them by then: a
//! change that tells them may be in those rows already, and is dropped. So the table is read once more, and every
//! member of the group begins anew with it, once the session has ended. And changes that no topic tells.

use super::core::Core;
use super::pass::Pass;
use super::router::Router;
use crate::error::{Error, Kind, Result};
use crate::journey::{Applied, ChangeEvent, Flow, Target};
use crate::position::Lsn;
use crate::progress::pending::Kept;
use crate::progress::schemas;
use crate::relation::Relation;
use crate::spec::History;

/// Ends a session where a relation tells columns that the rows of its table were read without.
pub(super) fn refuse_untold(core: &Core, target: &Target, relation: &Relation) -> Result<()> {
    let Some(shape) = target.untold(relation) else { return Ok(()) };
    let table = &target.model.table;
    // should another one have been first, this one comes to its turn with the same change
    drop(core.untold.set((table.clone(), shape)));
    let what = "its topics tell columns that they had not told when it was read again";
    Err(Error::new(Kind::Reread, what).on_table(table.to_string()))
}

/// Stops a table of whose changes some were told by nobody: Debezium's connector was made again, without a snapshot.
pub(super) fn refuse_made_again(router: &mut Router, event: &ChangeEvent<'_>) -> Result<()> {
    for at in router.of(&event.relation).iter() {
        let Some(route) = router.route(*at) else { continue };
        let table = route.target.model.table.clone();
        // what was read again since has all that came before
        let whole = route.flow == Flow::Hold || router.has(*at, event)?;
        if whole || route.target.model.history == History::Raw {
            continue;
        }
        let what = format!(
            "Debezium's connector was made again: it tells no commit before the change at {}, as it did for those \
             before, and what happened in between is told by nobody",
            Lsn::from_i64(event.order.ord)
        );
        return Err(Error::new(Kind::TableStops, what).on_table(table.to_string()).remedy(format!(
            "siltstone table resync {table:#}; or let Debezium read it again (an incremental snapshot), and siltstone \
             table resume {table:#}"
        )));
    }
    Ok(())
}

impl Core {
    /// Counts a change that is in the rows of its table already.
    pub(super) fn count_stale(&self, target: &Target) {
        self.setup.board.applied(target.index, &Applied { stale: 1, ..Applied::default() });
    }
}

impl Pass<'_> {
    /// Whether the rows of its table have a change: they were read behind it.
    pub(super) async fn has(&mut self, kept: &Kept) -> Result<bool> {
        let Some(seen) = self.standing.seen.clone() else { return Ok(false) };
        if seen.is_partial() && self.told.insert(kept.schema_id) {
            let shapes = schemas::read(self.sift.transaction, &[kept.schema_id]).await?;
            for shape in shapes.values() {
                refuse_untold(self.sift.shared, &self.standing, shape)?;
            }
        }
        let has = self.standing.has(kept.order, kept.mark, kept.op())?;
        if has {
            self.sift.shared.count_stale(&self.standing);
            // whoever sends the table's changes is to hear that nothing waits behind it any more
            self.arrived |= kept.waits;
        }
        Ok(has)
    }
}
