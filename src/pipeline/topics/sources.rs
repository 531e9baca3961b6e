//! One table, one source. Source tables of one name, of other schemas, databases or servers, would become one
//! warehouse table, in which the rows of each would overwrite those of the other.
//!
//! Which one feeds it is decided as where a Postgres is read (`resolve`): the one that a file declares, else the
//! one that feeds it already. That one has to be there still: a source, a topic or a table may go on under
//! another name, and is told from a second one by its former topic, which nobody deletes while it is written.
//! Records of one that is left out are set aside under a name of their own.

use super::super::core::Core;
use super::super::note::Then;
use super::super::resolve::{LeftOut, rival};
use super::super::standing::leaves_out;
use super::checks::matched;
use super::tables::Tables;
use crate::capture::brokers::Brokers;
use crate::error::{Error, Kind, Result};
use crate::names::TableName;
use crate::postgres::Session;
use crate::progress::feeds::{Feeder, is_fed};
use crate::progress::{dead_letters, standing};
use crate::spec::{Kafka, Model};

/// A source table of a topic that is left out, and the name under which its records are set aside.
pub(super) struct Rival {
    out: LeftOut,
    filed_as: TableName,
}

/// What feeds a table whose records come by this topic; `told` is what the source calls itself in them, else
/// that is what its topics begin with.
pub(super) fn feeder(topic: &str, table: &TableName, told: Option<String>) -> Feeder {
    let named = format!(".{table}");
    let prefix = || topic.strip_suffix(&named).unwrap_or(topic).to_owned();
    let source = told.unwrap_or_else(prefix);
    Feeder { table: table.to_string(), topic: topic.to_owned(), source }
}

impl Tables {
    /// Lets a source table feed its tables; fails with why it is left out. Who feeds them is noted where it `tells`:
    /// a record may say nothing of its source.
    pub(super) async fn admit(
        &mut self,
        connector: &Kafka,
        table: &TableName,
        (by, tells): (&Feeder, bool),
    ) -> Result<()> {
        if let Some(rival) = self.rivals.get(&(by.topic.clone(), table.clone())) {
            return Err(rival.refusal());
        }
        for target in self.targets(table) {
            self.record(&target).await?;
            let known = self.feeders.get(&target).cloned();
            if let Some(other) =
                self.other(connector, (table, &target), (known.as_ref(), by)).await?
            {
                return Err(self.leave_out((table, &target), (&other, known.as_ref()), by).await?);
            }
            let Some(known) = known.filter(|known| tells && is_news(known, by)) else { continue };
            self.shared.define(&[], &target, Then::FedBy(by, &known)).await?;
            if !known.is(by) {
                let (was, now) = (called(&known, None), called(by, None));
                tracing::info!(table = %target, was, now, "what fed it is gone: it is fed under another name");
            }
            self.goes_on_by(&target, table, by);
            self.refuse_unread(&target, &known, by)?;
        }
        Ok(())
    }

    /// Whether a table is fed by this, as far as that is known.
    pub(super) fn is_fed_by(&self, table: &TableName, by: Option<&Feeder>) -> bool {
        by.zip(self.feeders.get(table)).is_none_or(|(by, known)| known.is(by))
    }

    fn goes_on_by(&mut self, target: &TableName, table: &TableName, by: &Feeder) {
        let before = self.feeders.insert(target.clone(), by.clone());
        if let Some(record) = self.records.get_mut(target)
            && before.is_some_and(|before| before.table != by.table)
        {
            (record.source, record.schema_id) = (Some(table.clone()), None);
        }
    }

    /// What its rows have of the changes of the former topic is no more noted: a new session takes that up.
    fn refuse_unread(&self, target: &TableName, known: &Feeder, by: &Feeder) -> Result<()> {
        let elsewhere =
            known.table != by.table || !(known.topic.is_empty() || known.topic == by.topic);
        match self.records.get(target) {
            Some(record) if elsewhere && record.seen.is_some() => {
                let what = format!("{target} is fed from elsewhere from now on");
                Err(Error::new(Kind::Busy, what))
            }
            _ => Ok(()),
        }
    }

    /// The tables that files declare to be fed by a source table.
    fn declared(&self, source: &TableName) -> Vec<TableName> {
        let (connector, models) = (self.shared.connector(), &self.shared.setup.models);
        let of =
            |model: &&Model| model.from.source == connector.source && model.from.table == *source;
        models.iter().filter(of).map(|model| model.table.clone()).collect()
    }

    /// The warehouse tables that a source table would feed.
    fn targets(&self, table: &TableName) -> Vec<TableName> {
        let (connector, mut targets) = (self.shared.connector(), self.declared(table));
        let schema = connector.target_schema.as_ref().filter(|_| connector.mirror);
        if let Some(schema) = schema.filter(|_| targets.is_empty()) {
            targets.push(TableName::new(schema.clone(), table.name.clone()));
        }
        targets
    }

    /// What feeds a table in the place of the one that comes, by its name, if another one does.
    async fn other(
        &self,
        connector: &Kafka,
        (table, target): (&TableName, &TableName),
        (known, by): (Option<&Feeder>, &Feeder),
    ) -> Result<Option<String>> {
        let declared = self.shared.setup.models.iter().find(|model| model.table == *target);
        if let Some(model) = declared
            && (model.from.source != connector.source || model.from.table != *table)
        {
            let (source, table) = (&model.from.source, &model.from.table);
            let ours = *source == connector.source;
            return Ok(Some(if ours { table.to_string() } else { format!("{source}.{table}") }));
        }
        let Some(known) = known.filter(|known| !known.is(by)) else { return Ok(None) };
        // its file says another source table now
        if declared.is_some() && known.table != by.table {
            return Ok(None);
        }
        let there = is_there(connector, known).await?;
        Ok(there.then(|| called(known, Some(by))))
    }

    async fn leave_out(
        &mut self,
        (table, target): (&TableName, &TableName),
        (other, known): (&str, Option<&Feeder>),
        by: &Feeder,
    ) -> Result<Error> {
        let same_name = known.is_some_and(|known| known.table == by.table);
        let filed_as = self.free_name(table, by, same_name).await?;
        let (source, topic) = (&self.shared.connector().source, &by.topic);
        let apart = match same_name {
            true => {
                "read it by a connector of its own, with another source and another target_schema"
                    .to_owned()
            }
            false => format!("declare it in schemas/ under another name (from: {source}.{table})"),
        };
        let renamed = known.filter(|known| !known.topic.is_empty() && known.topic != by.topic);
        let renamed = renamed.map_or_else(String::new, |known| {
            format!("; or delete the topic {}, if that is what {topic} was before", known.topic)
        });
        let remedy = format!(
            "{apart}, or leave the topic {topic} out of topics{renamed}; then siltstone dead-letter replay \
             {filed_as:#}, or drop them"
        );
        let out = rival(table, (other, target), remedy);
        tracing::error!(%table, topic, reason = out.why, remedy = out.remedy, "a source table is left out");
        leaves_out(&self.shared, &filed_as, &out).await?;
        let rival = Rival { out, filed_as };
        let refusal = rival.refusal();
        self.rivals.insert((by.topic.clone(), table.clone()), rival);
        Ok(refusal)
    }

    /// A name for what is left out that no table has: its own, or that of its topic, whose source may have a table
    /// of the same name.
    async fn free_name(
        &self,
        table: &TableName,
        by: &Feeder,
        same_name: bool,
    ) -> Result<TableName> {
        let side = self.shared.side_session().await;
        let own = Some(table.clone()).filter(|_| !same_name);
        for name in own.into_iter().chain(by.topic.parse().ok()) {
            let declared = self.shared.setup.models.iter().any(|model| model.table == name);
            if !declared && !is_fed(&**side.session(), &name).await? {
                return Ok(name);
            }
        }
        Ok(TableName::new(self.shared.connector().name.clone(), by.topic.clone()))
    }

    /// Whether a source table is left out.
    pub(super) fn is_left_out(&self, topic: &str, table: &TableName) -> bool {
        self.rivals.contains_key(&(topic.to_owned(), table.clone()))
    }

    /// The names under which records of a source table are set aside that no table takes; none where nothing is
    /// known of it.
    pub(super) fn filed_as(&self, topic: &str, table: &TableName) -> Vec<TableName> {
        match self.rivals.get(&(topic.to_owned(), table.clone())) {
            Some(rival) => vec![rival.filed_as.clone()],
            None => self.declared(table),
        }
    }
}

impl Rival {
    fn refusal(&self) -> Error {
        let LeftOut { table, why, remedy, .. } = &self.out;
        Error::new(Kind::TableStops, why.clone()).on_table(table.to_string()).remedy(remedy.clone())
    }
}

/// Whether it is to be noted that a table is fed by this.
fn is_news(known: &Feeder, by: &Feeder) -> bool {
    known.topic.is_empty() || !known.is(by)
}

/// What people call what feeds a table; beside one whose table has the same name by what tells them apart.
fn called(feeder: &Feeder, beside: Option<&Feeder>) -> String {
    let Feeder { table, topic, source } = feeder;
    match beside.is_some_and(|other| other.table != *table) || topic.is_empty() {
        true => table.clone(),
        false => format!("{table} of {source} (topic {topic})"),
    }
}

/// Whether the topic is there by which a table's records came, and is read; where that was not noted, any of its
/// table.
async fn is_there(connector: &Kafka, known: &Feeder) -> Result<bool> {
    let topics = matched(connector, Brokers::of(connector)?.topics().await?);
    let named = format!(".{}", known.table);
    Ok(match known.topic.is_empty() {
        true => topics.keys().any(|topic| topic.ends_with(&named)),
        false => topics.contains_key(&known.topic),
    })
}

/// What was left out before and of which records are set aside yet.
pub(super) async fn left_out(shared: &Core, warehouse: &Session) -> Result<Vec<standing::LeftOut>> {
    let connector = &shared.connector().name;
    let letters = dead_letters::counts(&**warehouse, connector).await?;
    let mut found = standing::left_out(&**warehouse, connector).await?;
    found.retain(|out| letters.contains_key(&out.table));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_called_as_it_says_or_as_its_topics_begin() {
        let table = TableName::new("public", "t");
        let of = |topic: &str, told: Option<&str>| feeder(topic, &table, told.map(str::to_owned));
        assert_eq!(of("shop.public.t", None).source, "shop");
        assert_eq!(of("shop.eu.public.t", None).source, "shop.eu");
        assert_eq!(of("all", None).source, "all");
        assert_eq!(of("shop.public.t", Some("shop/app")).source, "shop/app");
    }

    #[test]
    fn one_source_is_known_by_its_topic_or_by_its_name() {
        let table = TableName::new("public", "t");
        let of = |topic: &str, told: &str| feeder(topic, &table, Some(told.to_owned()));
        let known = of("a.public.t", "shop");
        assert!(known.is(&of("a.public.t", "renamed")) && known.is(&of("b.public.t", "shop")));
        assert!(!known.is(&of("b.public.t", "other")));
        let other = feeder("a.public.t", &TableName::new("sales", "t"), Some("shop".to_owned()));
        assert!(!known.is(&other));
        // what was noted before sources were
        let unknown = Feeder { topic: String::new(), source: String::new(), ..known };
        assert!(unknown.is(&of("b.public.t", "other")) && is_news(&unknown, &other));
        assert_eq!(called(&unknown, None), "public.t");
    }
}
