//! What has happened, in the words of OpenLineage 2-0-2: a run's begin and its end, with the columns that it made and
//! what they come from. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::deps::{Cell, Kind};
use super::edges::Edge;

/// Who tells.
const PRODUCER: &str = concat!("urn:siltstone:", env!("CARGO_PKG_VERSION"));

const EVENT: &str = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent";
const FACETS: &str = "https://openlineage.io/spec/facets";

/// The namespace of jobs.
const JOBS: &str = "siltstone";

/// Something that came to its end.
#[derive(Clone, Debug)]
pub struct Happening {
    /// What: a mart, or a task as `job.task`.
    pub job: String,
    /// What kind of thing it is: MART or TASK.
    pub kind: &'static str,
    /// What tells it from every other time.
    pub run: String,
    /// The table that it wrote, where that is one of ours.
    pub table: Option<String>,
    /// How many rows it wrote.
    pub rows: Option<i64>,
    /// When it began.
    pub began: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// Why it failed.
    pub failed: Option<String>,
}

/// What is known of the warehouse's tables.
pub struct Catalogue {
    /// The server, as OpenLineage names one: `postgres://host:port`.
    pub namespace: String,
    /// The database.
    pub database: String,
    /// All of the lineage.
    pub edges: Vec<Edge>,
    /// The columns of tables with their types.
    pub columns: BTreeMap<String, Vec<(String, String)>>,
}

/// The events of something that came to its end: that it began, and how it ended.
pub fn events(happening: &Happening, catalogue: &Catalogue) -> [Value; 2] {
    let end = if happening.failed.is_some() { "FAIL" } else { "COMPLETE" };
    let (inputs, outputs) = match &happening.table {
        Some(table) => datasets(table, happening, catalogue),
        None => (Vec::new(), Vec::new()),
    };
    [
        event("START", happening.began, happening, (&inputs, &outputs)),
        event(end, happening.ended, happening, (&inputs, &outputs)),
    ]
}

fn event(
    kind: &str,
    at: Timestamp,
    happening: &Happening,
    (inputs, outputs): (&[Value], &[Value]),
) -> Value {
    let mut run = Map::new();
    if let Some(why) = happening.failed.as_ref().filter(|_| kind == "FAIL") {
        let body = json!({ "message": why, "programmingLanguage": "SQL" });
        run.insert("errorMessage".to_owned(), facet("1-0-1", "ErrorMessageRunFacet", body));
    }
    let ty = json!({
        "processingType": if happening.kind == "MART" { "STREAMING" } else { "BATCH" },
        "integration": "SILTSTONE",
        "jobType": happening.kind,
    });
    json!({
        "eventType": kind,
        "eventTime": at.to_string(),
        "producer": PRODUCER,
        "schemaURL": EVENT,
        "run": { "runId": uuid(&happening.run), "facets": run },
        "job": {
            "namespace": JOBS,
            "name": happening.job,
            "facets": { "jobType": facet("2-0-3", "JobTypeJobFacet", ty) },
        },
        "inputs": inputs,
        "outputs": outputs,
    })
}

/// A facet: what it says, and by which words.
fn facet(version: &str, name: &str, body: Value) -> Value {
    let mut fields = Map::new();
    fields.insert("_producer".to_owned(), json!(PRODUCER));
    let url = format!("{FACETS}/{version}/{name}.json#/$defs/{name}");
    fields.insert("_schemaURL".to_owned(), json!(url));
    if let Value::Object(body) = body {
        fields.extend(body);
    }
    Value::Object(fields)
}

/// What a table was made of, and the table.
fn datasets(table: &str, happening: &Happening, catalogue: &Catalogue) -> (Vec<Value>, Vec<Value>) {
    let made: Vec<&Edge> =
        catalogue.edges.iter().filter(|edge| edge.target.table == table).collect();
    let known = made.iter().filter(|edge| edge.kind != Kind::Unresolved);
    let read: BTreeSet<&str> = known.map(|edge| edge.source.table.as_str()).collect();
    let inputs = read.into_iter().map(|table| dataset(table, Map::new(), catalogue));
    let mut facets = Map::new();
    facets.insert("columnLineage".to_owned(), column_lineage(&made, catalogue));
    let mut output = dataset(table, facets, catalogue);
    if let (Some(rows), Some(fields)) = (happening.rows, output.as_object_mut()) {
        let rows =
            facet("1-0-2", "OutputStatisticsOutputDatasetFacet", json!({ "rowCount": rows }));
        fields.insert("outputFacets".to_owned(), json!({ "outputStatistics": rows }));
    }
    (inputs.collect(), vec![output])
}

fn dataset(table: &str, mut facets: Map<String, Value>, catalogue: &Catalogue) -> Value {
    if let Some(columns) = catalogue.columns.get(table) {
        let field = |(name, ty): &(String, String)| json!({ "name": name, "type": ty });
        let fields: Vec<Value> = columns.iter().map(field).collect();
        let schema = facet("1-1-1", "SchemaDatasetFacet", json!({ "fields": fields }));
        facets.insert("schema".to_owned(), schema);
    }
    json!({
        "namespace": catalogue.namespace,
        "name": format!("{}.{table}", catalogue.database),
        "facets": facets,
    })
}

fn column_lineage(made: &[&Edge], catalogue: &Catalogue) -> Value {
    // rows as such are no field, and what could not be told is none either
    let told = |edge: &&&Edge| edge.kind != Kind::Unresolved && edge.source.column != Cell::ROWS;
    let mut fields: BTreeMap<&str, BTreeMap<&Cell, Vec<Value>>> = BTreeMap::new();
    for edge in made.iter().filter(told) {
        let field = fields.entry(&edge.target.column).or_default();
        field.entry(&edge.source).or_default().push(transformation(edge));
    }
    let inputs = |of: BTreeMap<&Cell, Vec<Value>>| -> Vec<Value> {
        let input = |(cell, ways): (&Cell, Vec<Value>)| {
            json!({
                "namespace": catalogue.namespace,
                "name": format!("{}.{}", catalogue.database, cell.table),
                "field": cell.column,
                "transformations": ways,
            })
        };
        of.into_iter().map(input).collect()
    };
    let dataset = inputs(fields.remove(Cell::ROWS).unwrap_or_default());
    let fields: Map<String, Value> = fields
        .into_iter()
        .map(|(name, of)| (name.to_owned(), json!({ "inputFields": inputs(of) })))
        .collect();
    facet("1-2-0", "ColumnLineageDatasetFacet", json!({ "fields": fields, "dataset": dataset }))
}

fn transformation(edge: &Edge) -> Value {
    let (ty, subtype) = match edge.kind {
        Kind::Identity => ("DIRECT", "IDENTITY"),
        Kind::Transformation | Kind::Masking => ("DIRECT", "TRANSFORMATION"),
        Kind::Aggregation => ("DIRECT", "AGGREGATION"),
        Kind::Condition | Kind::Unresolved => ("INDIRECT", "CONDITIONAL"),
        Kind::Window => ("INDIRECT", "WINDOW"),
        Kind::Filter => ("INDIRECT", "FILTER"),
        Kind::Join => ("INDIRECT", "JOIN"),
        Kind::GroupBy => ("INDIRECT", "GROUP_BY"),
        Kind::Sort => ("INDIRECT", "SORT"),
    };
    json!({
        "type": ty,
        "subtype": subtype,
        "description": edge.logic,
        "masking": edge.kind == Kind::Masking,
    })
}

/// A UUID of the kind that is made by rules of one's own: the same of the same, so that an event that comes twice is
/// known.
fn uuid(of: &str) -> String {
    let digest = Sha256::digest(of.as_bytes());
    let digits: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let part = |from: usize, to: usize| digits.get(from..to).unwrap_or_default();
    format!("{}-{}-8{}-a{}-{}", part(0, 8), part(8, 12), part(13, 16), part(17, 20), part(20, 32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_has_a_uuid_of_its_own() {
        let one = uuid("a");
        assert_eq!(one.len(), 36);
        assert_eq!((one.as_bytes()[14], one.as_bytes()[19]), (b'8', b'a'));
        assert!(one == uuid("a") && one != uuid("b"));
    }
}
