//! The source that Debezium reads, beside its topics: rows are read there again, and compared.

use std::collections::{BTreeMap, BTreeSet};

use crate::capture::preflight::Finding;
use crate::decode::Survey;
use crate::postgres::{Side, connect};
use crate::spec::Kafka;

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
