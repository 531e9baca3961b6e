//! The source that Debezium reads, beside its topics: rows are read there again, and compared.

use std::collections::{BTreeMap, BTreeSet};

use super::asking::fed_by;
use super::checks::{matched, survey};
use crate::capture::brokers::{Brokers, Ends};
use crate::capture::preflight::Finding;
use crate::capture::sample::first_records;
use crate::capture::topics::Partition;
use crate::decode::Survey;
use crate::error::{Error, Kind, Result};
use crate::names::TableName;
use crate::postgres::{Session, Side, connect};
use crate::progress::feeds::feeders;
use crate::progress::partitions::{self, Stored};
use crate::progress::tables;
use crate::spec::{Kafka, Spec};

/// What is said of a url that names another database than its topics tell of.
pub(super) fn names_another(database: &str, told: &str) -> String {
    format!("url names the database {database}, and its topics tell of {told}")
}

/// That the url of a connector names a database of which its topics tell nothing, where they tell of any.
fn elsewhere(connector: &Kafka, surveys: &BTreeMap<String, Survey>) -> Option<Finding> {
    let database = connector.endpoint.as_ref()?.database();
    let told: BTreeSet<&str> = surveys.values().flat_map(Survey::databases).collect();
    if told.is_empty() || told.contains(database) {
        return None;
    }
    let told = told.into_iter().collect::<Vec<_>>().join(", ");
    Some(Finding {
        fatal: true,
        what: names_another(database, &told),
        remedy: format!("mend url in {}: verify and table resync read there", connector.file),
    })
}

/// What is wrong with the url of a connector.
pub(super) async fn unfit_url(
    connector: &Kafka,
    surveys: &BTreeMap<String, Survey>,
) -> Option<Finding> {
    let endpoint = connector.endpoint.as_ref()?;
    match connect(Side::Source, endpoint, "siltstone validate").await {
        Ok(_) => elsewhere(connector, surveys),
        Err(error) => Some(Finding {
            fatal: true,
            what: format!("url: {}", error.reason()),
            remedy: format!("mend url in {}: verify and table resync read there", connector.file),
        }),
    }
}

/// Why nothing is compared with the database that a url names, where its topics tell of another one.
pub(in super::super) async fn of_another(spec: &Spec, connector: &Kafka) -> Result<Option<Error>> {
    let found = matched(connector, Brokers::of(connector)?.topics().await?);
    let another = elsewhere(connector, &survey(spec, connector, &found).await?);
    Ok(another.map(|finding| Error::new(Kind::SourceLacks, finding.what).remedy(finding.remedy)))
}

/// What the topics of a connector have now.
pub(in super::super) async fn ends(connector: &Kafka) -> Result<Vec<Ends>> {
    let brokers = Brokers::of(connector)?;
    brokers.ends(&matched(connector, brokers.topics().await?)).await
}

/// How many records of a table's topics are not read yet, of those that there were before these ends.
pub(in super::super) async fn unread(
    connector: &Kafka,
    (warehouse, table): (&Session, &TableName),
    ends: &[Ends],
) -> Result<i64> {
    let name = &connector.name;
    let stored = partitions::read(&**warehouse, name).await?;
    let records = tables::read(&**warehouse, name).await?;
    let feeders = feeders(&**warehouse, name, None).await?;
    let (mut behind, mut places) = (Vec::new(), Vec::new());
    for Ends { partition, first, end } in ends {
        let new = || Stored {
            position: *first,
            number: 0,
            system_id: String::new(),
            memory: serde_json::json!({}),
        };
        let at = stored.get(&*partition.name()).cloned().unwrap_or_else(new);
        // what retention took is not to be read any more
        let from = at.position.max(*first);
        let fed = fed_by(connector, (partition, &at), &records, &feeders)?;
        if from < *end && fed.iter().any(|record| record.table == *table) {
            behind.push((partition, from, *end));
            places.push((partition.topic.to_string(), partition.number, from));
        }
    }
    if behind.is_empty() {
        return Ok(0);
    }
    // all that is left may be markers of Kafka's own, which nobody is given
    let next = first_records(connector, places).await?;
    let is_there = |partition: &Partition, end: i64| {
        next.iter().any(|sampled| {
            sampled.with(|record| {
                let is_of = record.topic == &*partition.topic;
                is_of && record.partition == partition.number && record.offset < end
            })
        })
    };
    let left = behind.iter().filter(|(partition, _, end)| is_there(partition, *end));
    Ok(left.map(|(_, from, end)| end - from).sum())
}
