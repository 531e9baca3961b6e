//! What a look at the brokers would have people know: topics that are not as declared, topics whose records
//! may be gone before they are read, modes of Debezium that lose something. Changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::super::declared::{differences, look};
use super::super::inspect::{Report, lacks};
use super::super::resolve::rival;
use super::beside::unfit_url;
use crate::capture::brokers::{Brokers, Found};
use crate::capture::preflight::Finding;
use crate::capture::sample::last_records;
use crate::decode::{Form, Misread, Survey};
use crate::error::{Error, Result};
use crate::names::TableName;
use crate::postgres::{Side, connect};
use crate::spec::{Deletes, Format, History, Kafka, Model, Spec, TopicPattern, Topics};

/// What a start says: the declared topics against the brokers', and compaction. Reads no record, so a
/// topic's table is the one that its name says.
pub(super) async fn at_start(
    connector: &Kafka,
    declared: Option<&Topics>,
    models: &[Model],
) -> Result<Vec<Finding>> {
    let brokers = Brokers::of(connector)?;
    let mut findings = as_declared(&brokers, connector, declared).await?;
    let mut found = matched(connector, brokers.topics().await?);
    findings.extend(read_settings(&brokers, &mut found).await);
    for (name, topic) in &found {
        let fed = fed_by_name(connector, models, name);
        findings.extend(compaction(connector, (name, topic), &fed));
    }
    Ok(findings)
}

/// Of a connector that is given nothing to read: that none of its topics is there, where that is so.
pub(super) async fn nothing_there(connector: &Kafka) -> Result<Option<Finding>> {
    let all = Brokers::of(connector)?.topics().await?;
    Ok(missing(connector, &all).into_iter().find(|finding| finding.fatal))
}

/// What `validate --connect` says of a connector.
pub(in super::super) async fn inspect(spec: &Spec, connector: &Kafka) -> Result<Report> {
    let brokers = Brokers::of(connector)?;
    let all = brokers.topics().await?;
    let mut findings = missing(connector, &all);
    let declared = spec.topics.as_ref().filter(|topics| topics.connector == connector.name);
    findings.extend(as_declared(&brokers, connector, declared).await?);
    let mut found = matched(connector, all);
    findings.extend(read_settings(&brokers, &mut found).await);
    let surveys = survey(spec, connector, &found).await?;
    let mut lines = Vec::new();
    let mut fed_tables = BTreeSet::new();
    for (name, topic) in &found {
        let survey = surveys.get(name);
        let tables: Vec<&TableName> = survey.map(Survey::tables).into_iter().flatten().collect();
        let of = |table: &&TableName| fed(connector, &spec.models, |from| from == *table, table);
        let fed: Vec<Fed> = match tables.is_empty() {
            false => tables.iter().flat_map(of).collect(),
            true => fed_by_name(connector, &spec.models, name),
        };
        lines.push(line((name, topic), &fed, !tables.is_empty()));
        findings.extend(compaction(connector, (name, topic), &fed));
        findings.extend(survey.into_iter().flat_map(|survey| losses(name, survey)));
        fed_tables.extend(fed.into_iter().map(|fed| fed.table));
    }
    findings.extend(rivals(connector, &spec.models, &surveys));
    findings.extend(unfit_url(connector, &surveys).await);
    lines.push(group(&brokers, connector, &mut findings).await);
    let warehouse =
        connect(Side::Warehouse, &spec.settings.warehouse, "siltstone validate").await?;
    crate::warehouse::refuse_unfit(&*warehouse, true).await?;
    for table in &fed_tables {
        findings.extend(lacks(&warehouse, table).await?);
    }
    Ok(Report { tables: lines, findings })
}

/// A warehouse table that a topic feeds.
struct Fed {
    table: TableName,
    history: History,
    deletes: Deletes,
    mirrored: bool,
}

/// What a source table feeds: what files declare, else its mirror.
fn fed(
    connector: &Kafka,
    models: &[Model],
    is: impl Fn(&TableName) -> bool,
    table: &TableName,
) -> Vec<Fed> {
    let declared = models
        .iter()
        .filter(|model| model.from.source == connector.source && is(&model.from.table));
    let declared: Vec<Fed> = declared
        .map(|model| Fed {
            table: model.table.clone(),
            history: model.history,
            deletes: model.deletes,
            mirrored: false,
        })
        .collect();
    let schema = connector.target_schema.as_ref().filter(|_| connector.mirror);
    match (declared.is_empty(), schema) {
        (true, Some(schema)) => vec![Fed {
            table: TableName::new(schema.as_str(), table.name.as_str()),
            history: History::Overwrite,
            deletes: Deletes::Hard,
            mirrored: true,
        }],
        _ => declared,
    }
}

/// Source tables that would become what others are, whose records a start would set aside.
fn rivals(connector: &Kafka, models: &[Model], surveys: &BTreeMap<String, Survey>) -> Vec<Finding> {
    let mut feeds = Vec::new();
    for (topic, survey) in surveys {
        for table in survey.tables() {
            let fed = fed(connector, models, |from| from == table, table);
            feeds.extend(fed.into_iter().map(|fed| (fed.mirrored, fed.table, table, topic)));
        }
    }
    feeds.sort();
    let (mut findings, mut first) = (Vec::new(), BTreeMap::<TableName, &TableName>::new());
    for (_, target, table, topic) in feeds {
        let other = *first.entry(target.clone()).or_insert(table);
        if other == table {
            continue;
        }
        let remedy = format!(
            "declare {table} in schemas/ under another name, or leave the topic {topic} out of topics"
        );
        let out = rival(table, (&other.to_string(), &target), remedy);
        let what = format!("{table} is left out: {}", out.why);
        findings.push(Finding { fatal: out.refused, what, remedy: out.remedy });
    }
    findings
}

/// The same by the topic's name alone, in which other characters than these stand as `_`.
fn fed_by_name(connector: &Kafka, models: &[Model], topic: &str) -> Vec<Fed> {
    let mut parts = topic.rsplitn(3, '.');
    let (Some(table), Some(schema), Some(_)) = (parts.next(), parts.next(), parts.next()) else {
        return Vec::new();
    };
    let written = |name: &str| -> String {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        name.chars().map(|c| if legal(c) { c } else { '_' }).collect()
    };
    let is = |from: &TableName| written(&from.schema) == schema && written(&from.name) == table;
    fed(connector, models, is, &TableName::new(schema, table))
}

/// The topics that the connector takes. Kafka's own are none of them.
pub(super) fn matched(connector: &Kafka, all: BTreeMap<String, Found>) -> BTreeMap<String, Found> {
    let takes = |name: &str| {
        connector
            .topics
            .iter()
            .any(|pattern| pattern.matches(name) && (pattern.is_exact() || !name.starts_with("__")))
    };
    all.into_iter().filter(|(name, _)| takes(name)).collect()
}

/// The patterns of the connector that no topic matches.
fn missing(connector: &Kafka, all: &BTreeMap<String, Found>) -> Vec<Finding> {
    let none = |pattern: &&TopicPattern| !all.keys().any(|name| pattern.matches(name));
    let missing: Vec<&str> =
        connector.topics.iter().filter(none).map(TopicPattern::as_str).collect();
    if missing.is_empty() {
        return Vec::new();
    }
    vec![Finding {
        fatal: missing.len() == connector.topics.len(),
        what: format!("there is no topic {}", missing.join(", ")),
        remedy: format!(
            "start Debezium, or declare it in topics.yaml and let `siltstone topics apply` make it; if it \
             has another name, write that in {}",
            connector.file
        ),
    }]
}

/// Reads the settings of topics. Reading records needs no right to do so.
async fn read_settings(brokers: &Brokers, found: &mut BTreeMap<String, Found>) -> Option<Finding> {
    brokers.read_settings(found).await.err().map(|error| untold(&error))
}

/// What the brokers do not tell.
fn untold(error: &Error) -> Finding {
    let remedy = error.remedy_text().unwrap_or_default().to_owned();
    Finding { fatal: false, what: error.reason(), remedy }
}

async fn as_declared(
    brokers: &Brokers,
    connector: &Kafka,
    declared: Option<&Topics>,
) -> Result<Vec<Finding>> {
    let Some(declared) = declared else { return Ok(Vec::new()) };
    let found = look(brokers, declared).await?;
    let all = differences(declared, &found, connector.format).into_iter();
    Ok(all
        .map(|differs| Finding {
            fatal: false,
            what: format!(
                "{} is not as {} declares it: {}",
                differs.topic, declared.file, differs.what
            ),
            remedy: match (differs.class, differs.why) {
                (None, Some(why)) => why,
                _ => "siltstone topics plan, then siltstone topics apply".to_owned(),
            },
        })
        .collect())
}

/// What compaction takes from the tables of a topic.
fn compaction(connector: &Kafka, (name, topic): (&str, &Found), fed: &[Fed]) -> Vec<Finding> {
    let policy = topic.config.get("cleanup.policy").map_or("", String::as_str);
    if !policy.contains("compact") {
        return Vec::new();
    }
    let finding = |fed: &Fed| {
        let table = &fed.table;
        let why = match fed.history {
            History::Versions => format!("versions of {table} in between are missing"),
            History::Append | History::Raw => {
                format!("{table} keeps every event, and lacks those")
            }
            // a tombstone of flattened records is the delete itself
            _ if connector.format == Format::FlatJson || fed.deletes == Deletes::Ignore => {
                return None;
            }
            _ => format!(
                "of a delete only the tombstone stays, which says nothing to us: rows that were deleted \
                 meanwhile stay in {table}"
            ),
        };
        Some(Finding {
            fatal: false,
            what: format!(
                "{name} is compacted (cleanup.policy={policy}): of the records of a key that are not read \
                 in time only the last one stays; {why}"
            ),
            remedy: format!(
                "declare it in topics.yaml with cleanup.policy: delete and a retention longer than the \
                 service may ever be away, then siltstone topics apply --allow destructive; what is gone \
                 already is gone (topic {name})"
            ),
        })
    };
    fed.iter().filter_map(finding).collect()
}

/// Reads the last records of each topic.
pub(super) async fn survey(
    spec: &Spec,
    connector: &Kafka,
    found: &BTreeMap<String, Found>,
) -> Result<BTreeMap<String, Survey>> {
    let form = match connector.format {
        Format::DebeziumJson => Form::Envelope,
        Format::FlatJson => Form::Flat,
    };
    let declared = |table: &TableName| {
        let models = spec
            .models
            .iter()
            .filter(|model| model.from.source == connector.source && model.from.table == *table);
        let columns = models.flat_map(|model| &model.columns);
        columns.map(|column| (column.from.clone(), column.ty.clone())).collect()
    };
    let mut surveys = BTreeMap::new();
    let topics = found.iter().map(|(name, topic)| (name.clone(), topic.partitions));
    for sampled in last_records(connector, topics.collect()).await? {
        let survey = surveys
            .entry(sampled.topic.clone())
            .or_insert_with(|| Survey::new(&sampled.topic, form, &connector.types));
        sampled.with(|record| survey.look(record, &declared));
    }
    Ok(surveys)
}

fn losses(topic: &str, survey: &Survey) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (table, columns, loss) in survey.losses() {
        let subject = match columns.as_slice() {
            [] => table.to_string(),
            columns => format!("{table}.{}", columns.join(&format!(", {table}."))),
        };
        findings.push(Finding {
            fatal: false,
            what: format!("{subject} {}", loss.what()),
            remedy: loss.remedy().to_owned(),
        });
    }
    if let Some(Misread { partition, offset, why }) = survey.unreadable() {
        let some = survey.reads_any().then(|| Finding {
            fatal: false,
            what: format!(
                "some records of {topic} cannot be read, the first of them at offset {offset} of partition \
                 {partition}: {why}; such records become dead letters"
            ),
            remedy: "see who else writes to it; siltstone dead-letter list has them when they were read"
                .to_owned(),
        });
        findings.push(some.unwrap_or_else(|| Finding {
            fatal: true,
            what: format!("records of {topic} cannot be read: {why}"),
            remedy: "let Debezium write JSON (value.converter=org.apache.kafka.connect.json.JsonConverter), \
                     set format to what it writes, or leave the topic out of topics"
                .to_owned(),
        }));
    }
    findings
}

fn line((name, topic): (&str, &Found), fed: &[Fed], has_records: bool) -> String {
    let policy = topic.config.get("cleanup.policy").map_or("?", String::as_str);
    let partitions = match topic.partitions {
        1 => "1 partition".to_owned(),
        many => format!("{many} partitions"),
    };
    let to: Vec<String> = fed
        .iter()
        .map(|fed| format!("{}{}", fed.table, if fed.mirrored { " (mirrored)" } else { "" }))
        .collect();
    let to = match (to.is_empty(), has_records) {
        (false, true) => to.join(", "),
        (false, false) => format!("{}, by its name: it has no records of rows yet", to.join(", ")),
        (true, _) => {
            "nothing: it has no records of rows, or none of a table that is taken".to_owned()
        }
    };
    format!("{name} ({partitions}, {policy}) -> {to}")
}

/// How the group stands; strangers in it are a finding.
async fn group(brokers: &Brokers, connector: &Kafka, findings: &mut Vec<Finding>) -> String {
    let name = &connector.group;
    let found = match brokers.group(name).await {
        Ok(Some(found)) => found,
        Ok(None) => return format!("group {name}: new, it begins with the first start"),
        Err(error) => {
            findings.push(untold(&error));
            return format!("group {name}: not told");
        }
    };
    let ours = format!("siltstone-{}", connector.name);
    let strangers: BTreeSet<&str> =
        found.members.iter().map(String::as_str).filter(|member| *member != ours).collect();
    if !strangers.is_empty() {
        let strangers: Vec<&str> = strangers.into_iter().collect();
        findings.push(Finding {
            fatal: false,
            what: format!(
                "the group {name} has members that are not this connector: {}; partitions that they are \
                 given are not read by us",
                strangers.join(", ")
            ),
            remedy: format!("write another group in {}, or stop them", connector.file),
        });
    }
    format!("group {name}: {}, {} members", found.state.to_lowercase(), found.members.len())
}
