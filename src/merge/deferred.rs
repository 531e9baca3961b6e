//! What tables would refuse only when their transaction is committed, and then in nobody's name: constraints and
//! triggers that are deferred from the beginning. It is asked for while it is still known whose rows they are.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tokio_postgres::{GenericClient, Transaction};

use crate::error::{Error, Result};
use crate::journey::Target;
use crate::names::TableName;
use crate::postgres::quote;

/// The deferred constraints of the tables that the open transaction has written to.
#[derive(Default)]
pub(super) struct Deferred {
    /// the quoted names of those of each target, as it was when it was asked; mostly none
    known: HashMap<usize, (Arc<Target>, Option<String>)>,
    written: BTreeMap<usize, TableName>,
}

impl Deferred {
    /// Notes that rows of a table were written.
    pub(super) async fn note(
        &mut self,
        transaction: &Transaction<'_>,
        target: &Arc<Target>,
    ) -> Result<()> {
        let known = self.known.get(&target.index).filter(|(known, _)| Arc::ptr_eq(known, target));
        if known.is_none() {
            let names = names(transaction, &target.model.table).await?;
            self.known.insert(target.index, (target.clone(), names));
        }
        if self.known.get(&target.index).is_some_and(|(_, names)| names.is_some()) {
            self.written.insert(target.index, target.model.table.clone());
        }
        Ok(())
    }

    /// Whether a table defers something else by now than when it was asked: somebody has changed a constraint since.
    pub(super) async fn has_changed(&self, client: &impl GenericClient) -> Result<bool> {
        for (target, known) in self.known.values() {
            if names(client, &target.model.table).await? != *known {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Nothing is written any more.
    pub(super) fn rolled_back(&mut self) {
        self.written.clear();
    }

    /// Asks for what the rows that were written break.
    pub(super) async fn check(&mut self, transaction: &Transaction<'_>) -> Result<()> {
        for (index, table) in std::mem::take(&mut self.written) {
            let Some((_, Some(names))) = self.known.get(&index) else { continue };
            let statement =
                format!("set constraints {names} immediate; set constraints {names} deferred");
            transaction.batch_execute(&statement).await.map_err(|error| {
                Error::warehouse("checking its deferred constraints", error)
                    .on_table(table.to_string())
            })?;
        }
        Ok(())
    }
}

/// The names of a table's deferred constraints and triggers, those of its leaves among them.
async fn names(client: &impl GenericClient, table: &TableName) -> Result<Option<String>> {
    const QUERY: &str = "
        select string_agg(distinct format('%I.%I', n.nspname, k.conname), ', ')
          from pg_trigger t
          join pg_constraint k on k.oid = t.tgconstraint
          join pg_namespace n on n.oid = k.connamespace
         where t.tginitdeferred and t.tgenabled <> 'D'
           -- a statement names all of a schema that are called so
           and not exists (select from pg_constraint o
                            where o.connamespace = k.connamespace and o.conname = k.conname
                              and not o.condeferrable)
           and t.tgrelid in (select to_regclass($1)
                             union all select relid from pg_partition_tree(to_regclass($1)))";
    let row = client.query_one(QUERY, &[&quote::table(table)]).await;
    row.and_then(|row| row.try_get(0)).map_err(|error| {
        Error::warehouse("reading its deferred constraints", error).on_table(table.to_string())
    })
}
