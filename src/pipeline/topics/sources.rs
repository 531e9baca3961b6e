//! One table, one source. Two source tables of one name, of other schemas, databases or servers, would become
//! one mirrored table, in which the rows of each would overwrite those of the other: the one that came first
//! feeds it, and what another one sends is refused by name.

use super::tables::Tables;
use crate::error::{Error, Kind, Result};
use crate::names::TableName;
use crate::progress::tables::TableRecord;
use crate::relation::Relation;
use crate::spec::{Common, Model, TopicPattern};

use super::super::note::Then;

/// Where a source table's records come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FedBy {
    /// the topic
    pub(super) topic: String,
    /// the source, as it calls itself, or what its topics begin with
    pub(super) source: String,
}

impl FedBy {
    /// What feeds `table` by a topic; `told` is what the source calls itself in its records.
    pub(super) fn of(topic: &str, table: &TableName, told: Option<String>) -> FedBy {
        let named = format!(".{}.{}", table.schema, table.name);
        let prefix = || topic.strip_suffix(&named).unwrap_or(topic).to_owned();
        FedBy { topic: topic.to_owned(), source: told.unwrap_or_else(prefix) }
    }
}

impl Tables {
    /// Refuses records of a source table that would become one with another's. Who is first is remembered.
    pub(super) async fn refuse_foreign(
        &mut self,
        relation: &Relation,
        by: &FedBy,
        topics: &[TopicPattern],
    ) -> Result<()> {
        for model in self.models(relation) {
            let record = self.record(&model.table).await?;
            let refused = match record {
                _ if !model.mirrored => continue,
                _ if self.declares(&model.table).is_some() => self.declares(&model.table),
                Some(record) if record.source.as_ref() != Some(&relation.table) => record.source,
                Some(record) => {
                    let other = other_source(&record, by, topics);
                    if let Some(other) = other {
                        self.foreign.insert((by.topic.clone(), relation.table.clone()));
                        return Err(second_source(&relation.table, &model.table, by, other));
                    }
                    continue;
                }
                None => continue,
            };
            if let Some(first) = refused {
                self.foreign.insert((by.topic.clone(), relation.table.clone()));
                return Err(second_table(self.shared.connector(), &model, relation, &first));
            }
        }
        Ok(())
    }

    /// Remembers what feeds the mirrors of a source table.
    pub(super) async fn note_source(&mut self, relation: &Relation, by: &FedBy) -> Result<()> {
        for model in self.models(relation).into_iter().filter(|model| model.mirrored) {
            let Some(record) = self.record(&model.table).await? else { continue };
            let known = record.fed_by.as_ref();
            if known.is_some_and(|(topic, source)| *topic == by.topic || *source == by.source) {
                continue;
            }
            let then = Then::FedBy(&by.topic, &by.source);
            self.shared.define(&[], &model.table, then).await?;
            if let Some(record) = self.records.get_mut(&model.table) {
                record.fed_by = Some((by.topic.clone(), by.source.clone()));
            }
        }
        Ok(())
    }

    /// Whether records of this table that come by this topic are refused, as they are another's.
    pub(super) fn is_foreign(&self, topic: &str, table: &TableName) -> bool {
        self.foreign.contains(&(topic.to_owned(), table.clone()))
    }

    /// The source table from which a file feeds a warehouse table.
    fn declares(&self, target: &TableName) -> Option<TableName> {
        let declared = self.shared.setup.models.iter().find(|model| model.table == *target);
        declared.map(|model| model.from.table.clone())
    }
}

/// What feeds a table, if that is another source whose topic is still read.
fn other_source<'r>(
    record: &'r TableRecord,
    by: &FedBy,
    topics: &[TopicPattern],
) -> Option<&'r (String, String)> {
    record.fed_by.as_ref().filter(|(topic, source)| {
        *topic != by.topic && *source != by.source && topics.iter().any(|of| of.matches(topic))
    })
}

fn second_source(
    table: &TableName,
    target: &TableName,
    by: &FedBy,
    (topic, source): &(String, String),
) -> Error {
    let what = format!(
        "{table} comes by the topic {} too, of the source {}, and {target} is fed by the topic {topic}, of the \
         source {source}: rows of two sources are never merged into one",
        by.topic, by.source
    );
    Error::new(Kind::TableStops, what).on_table(table.to_string()).remedy(
        format!(
            "where it is the same source under another name: name its new topics alone in `topics`, restart, and \
             siltstone dead-letter replay {table}; else read each source by a connector of its own, with another \
             `source` and another target_schema, and drop these dead letters"
        ),
    )
}

fn second_table(
    connector: &Common,
    model: &Model,
    relation: &Relation,
    first: &TableName,
) -> Error {
    let (second, table) = (&relation.table, &model.table);
    let what = format!(
        "{second} would be mirrored as {table}, which is fed by {first}: rows of two source tables are never \
         merged into one"
    );
    Error::new(Kind::TableStops, what).on_table(second.to_string()).remedy(format!(
        "declare {second} in schemas/ under another name (table: {}.{}_{}, from: {}.{second}), or leave its \
         topic out of `topics`; then siltstone dead-letter replay {second}",
        table.schema, second.schema, second.name, connector.source
    ))
}
