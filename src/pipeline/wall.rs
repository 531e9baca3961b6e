//! The wall behind which nobody sees a masked value: each message passes it once, as it arrives, before it
//! is spooled, kept, folded or told of in an error. A snapshot's rows pass the same veil where they are
//! read.
//!
//! It knows the tables by what the source told last of each, in the order of arrival, so that it need not
//! wait for the commit of a transaction that comes in chunks.

use std::sync::Arc;

use hashbrown::HashMap;

use super::folding::Folding;
use super::shared::Shared;
use super::tables::Planned;
use crate::decode::{Message, Veil, read_message};
use crate::error::{Error, Result};
use crate::names::TableName;
use crate::relation::Relation;
use crate::spec::Masks;

/// A buffer above this does not outlive the message that asked for it.
const KEPT: usize = 1 << 20;

/// The wall of a session.
pub(super) struct Wall {
    /// whether anything is masked at all
    stands: bool,
    shared: Arc<Shared>,
    /// of every table that was told of
    veils: HashMap<u32, Option<Veil>>,
    masked: Vec<u8>,
}

impl Wall {
    /// The wall of a session that begins with these tables.
    pub(super) fn new(shared: &Arc<Shared>, planned: &[Planned]) -> Wall {
        let masks = &shared.connector().masks;
        for table in masks.tables() {
            let of = |planned: &&Planned| planned.source.relation.table == *table;
            let Some(planned) = planned.iter().find(of) else { continue };
            name_missing(masks, table, &planned.source.relation);
        }
        let stands = !masks.is_empty();
        let veils = HashMap::new();
        Wall { stands, shared: shared.clone(), veils, masked: Vec::new() }
    }

    /// A message as those behind the wall see it.
    pub(super) async fn message<'m>(
        &'m mut self,
        message: &'m [u8],
        folding: &Folding,
    ) -> Result<&'m [u8]> {
        let Some((tag, body)) = message.split_first().filter(|_| self.stands) else {
            return Ok(message);
        };
        self.learn(*tag, body, folding).await?;
        self.masked.clear();
        self.masked.push(*tag);
        match self.veil(*tag, body)? {
            true => Ok(&self.masked),
            false => Ok(message),
        }
    }

    /// What follows the tag of a message in a chunk, as those behind the wall see it.
    pub(super) async fn part<'m>(
        &'m mut self,
        (tag, body): (u8, &'m [u8]),
        folding: &Folding,
    ) -> Result<&'m [u8]> {
        if !self.stands {
            return Ok(body);
        }
        self.learn(tag, body, folding).await?;
        self.masked.clear();
        match self.veil(tag, body)? {
            true => Ok(&self.masked),
            false => Ok(body),
        }
    }

    /// Appends the masked body of a change; false where nothing of it is masked.
    fn veil(&mut self, tag: u8, body: &[u8]) -> Result<bool> {
        if !matches!(tag, b'I' | b'U' | b'D') {
            return Ok(false);
        }
        let oid = body.first_chunk().map(|oid| u32::from_be_bytes(*oid));
        let untold = || Error::bug("a change arrived for a table whose shape was not told");
        let veil = oid.and_then(|oid| self.veils.get_mut(&oid)).ok_or_else(untold)?;
        let Some(veil) = veil else { return Ok(false) };
        if self.masked.capacity() > KEPT && body.len() < KEPT {
            self.masked = self.masked.as_slice().to_vec();
        }
        veil.body(tag, body, &mut self.masked)?;
        Ok(true)
    }

    /// Takes up the shape that a Relation message tells.
    async fn learn(&mut self, tag: u8, body: &[u8], folding: &Folding) -> Result<()> {
        if tag != b'R' {
            return Ok(());
        }
        let bytes = [&[tag], body].concat();
        let Message::Relation(message) = read_message(&bytes)? else { return Ok(()) };
        let masks = &self.shared.connector().masks;
        let known_as = folding.known_as(&message);
        let veil = match masks.covers(&known_as) {
            true => {
                let relation = folding.told(&message).await?;
                name_missing(masks, &known_as, &relation);
                Veil::of(&relation, masks.key())
            }
            false => None,
        };
        self.veils.insert(message.oid, veil);
        Ok(())
    }
}

/// Names the masked columns that a source table has not under the names that files know.
fn name_missing(masks: &Masks, table: &TableName, relation: &Relation) {
    for column in masks.missing(table, relation) {
        tracing::warn!(
            %table,
            column,
            remedy = "write its present name in schemas/, or remove the column there",
            "a masked column is not there; as it may have another name now, columns that no file names \
             are NULL"
        );
    }
}
