//! The configuration of a Debezium connector, as it is registered with Kafka Connect: what of it says how its
//! topics are called and written. Only what is named here is ever looked at: whatever else stands there, a
//! password too, goes nowhere.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::capture::preflight::Finding;
use crate::decode::Loss;
use crate::error::{Error, Kind, Result};

/// What a configuration says of its topics.
pub(super) struct Registered {
    /// The connector.
    pub(super) name: String,
    /// What its topics begin with: the logical source.
    pub(super) prefix: String,
    /// The topics, as a connector's file takes them.
    pub(super) topics: Vec<String>,
    /// Whether its records are flattened rows.
    pub(super) flat: bool,
    /// Whether their schema travels with them.
    pub(super) schemas: bool,
    /// The modes that are not Debezium's defaults, as a connector's file names them.
    pub(super) types: Vec<(&'static str, String)>,
    /// What a person should know.
    pub(super) findings: Vec<Finding>,
}

const REGISTERED: &str = "name the file that was registered with Kafka Connect: its fields, or {\"name\": …, \
                          \"config\": {…}}; GET /connectors/NAME/config answers it";

const JSON: &str = "let Debezium write JSON (value.converter and key.converter \
                    org.apache.kafka.connect.json.JsonConverter) into new topics, then run this again";

/// Reads a configuration. `what` is it called.
pub(super) fn read(text: &str, what: &str) -> Result<Registered> {
    let refuse = |why: String, remedy: &str| {
        Error::new(Kind::Config, format!("{what}: {why}")).remedy(remedy)
    };
    // the error says where, and quotes nothing
    let json: Value = serde_json::from_str(text)
        .map_err(|error| refuse(format!("not JSON: {error}"), REGISTERED))?;
    let config = Config::of(&json)
        .ok_or_else(|| refuse("it is no configuration of a connector".to_owned(), REGISTERED))?;
    let Some(class) = config.get("connector.class") else {
        let why = "connector.class is missing: it is no configuration of a connector".to_owned();
        return Err(refuse(why, REGISTERED));
    };
    const READ: [&str; 3] = ["postgres", "mysql", "mariadb"];
    if !class.contains("debezium") || !READ.iter().any(|kind| class.contains(kind)) {
        let why = format!("connector.class: this version does not read what {class:?} writes");
        let remedy = "name one of Debezium's connectors for Postgres, MySQL or MariaDB";
        return Err(refuse(why, remedy));
    }
    for field in ["value.converter", "key.converter"] {
        if let Some(converter) = config.get(field).filter(|name| !name.ends_with("JsonConverter")) {
            let why = format!("{field}: this version does not read what {converter:?} writes");
            return Err(refuse(why, JSON));
        }
    }
    let prefix = config.get("topic.prefix").or_else(|| config.get("database.server.name"));
    let Some(prefix) = prefix else {
        let why = "topic.prefix is missing".to_owned();
        return Err(refuse(why, "add it, as Debezium has it"));
    };
    // its providers are Connect's to ask
    for (field, value) in [("topic.prefix", Some(prefix)), ("name", config.get("name"))] {
        if value.is_some_and(|value| value.contains("${")) {
            let why = format!("{field}: only Kafka Connect knows what it stands for");
            return Err(refuse(why, "write its value in place of ${…}"));
        }
    }
    let name = config.name().unwrap_or(prefix).to_owned();
    let mut findings = Vec::new();
    let topics = topics(&config, prefix, &mut findings);
    let flat = transforms(&config, &mut findings);
    let schemas = config.get("value.converter.schemas.enable") != Some("false");
    let types = types(&config, &mut findings);
    modes(&config, &mut findings);
    Ok(Registered { name, prefix: prefix.to_owned(), topics, flat, schemas, types, findings })
}

/// The fields of a configuration, as texts.
struct Config(BTreeMap<String, String>);

impl Config {
    /// Of a bare configuration, or of one with its name beside.
    fn of(json: &Value) -> Option<Config> {
        let outer = json.as_object()?;
        let fields = outer.get("config").and_then(Value::as_object).unwrap_or(outer);
        let text = |value: &Value| match value {
            Value::String(text) => Some(text.trim().to_owned()),
            Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
            _ => None,
        };
        let mut config: BTreeMap<String, String> =
            fields.iter().filter_map(|(name, value)| Some((name.clone(), text(value)?))).collect();
        if let Some(name) = outer.get("name").and_then(text) {
            config.insert("name".to_owned(), name);
        }
        Some(Config(config))
    }

    /// A field that has a value.
    fn get(&self, field: &str) -> Option<&str> {
        self.0.get(field).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn name(&self) -> Option<&str> {
        self.get("name")
    }

    /// A list, by commas.
    fn list(&self, field: &str) -> Vec<&str> {
        let parts = self.get(field).unwrap_or_default().split(',').map(str::trim);
        parts.filter(|part| !part.is_empty()).collect()
    }
}

fn find(findings: &mut Vec<Finding>, what: String, remedy: &str) {
    findings.push(Finding { fatal: false, what, remedy: remedy.to_owned() });
}

/// The topics, by what it includes. Without anything it is all that begin with its prefix.
fn topics(config: &Config, prefix: &str, findings: &mut Vec<Finding>) -> Vec<String> {
    let delimiter = config.get("topic.delimiter").unwrap_or(".");
    let whole = vec![format!("{}{delimiter}*", written(prefix))];
    let field = ["table.include.list", "schema.include.list", "database.include.list"]
        .into_iter()
        .find(|field| config.get(field).is_some());
    let strategy = config.get("topic.naming.strategy");
    let known = ["SchemaTopicNamingStrategy", "DefaultTopicNamingStrategy"];
    if let Some(strategy) = strategy.filter(|name| !known.iter().any(|end| name.ends_with(end))) {
        let what =
            format!("topic.naming.strategy={strategy}: what it calls topics is not known here");
        find(findings, what, "edit topics in the connector's file");
    }
    let Some(field) = field else { return whole };
    let mut topics = Vec::new();
    for item in config.list(field) {
        let Some(pattern) = topic_of(item) else {
            let what = format!(
                "{field} says more than a list of topics can: every topic that begins with {prefix} is taken"
            );
            find(findings, what, "edit topics in the connector's file");
            return whole;
        };
        let pattern = pattern.replace('.', delimiter);
        let behind = if field == "table.include.list" { "" } else { "*" };
        let between = if behind.is_empty() { "" } else { delimiter };
        topics.push(format!("{}{delimiter}{pattern}{between}{behind}", written(prefix)));
    }
    topics
}

/// A regular expression of Debezium's lists as a part of a topic's name, with `*` for any run of
/// characters. None where it says more.
fn topic_of(expression: &str) -> Option<String> {
    let mut out = String::new();
    let mut letters = expression.trim_start_matches('^').trim_end_matches('$').chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => out
                .push_str(&written(&letters.next().filter(|c| !c.is_alphanumeric())?.to_string())),
            '.' if letters.next_if_eq(&'*').is_some() => out.push('*'),
            // unescaped it means any character, and nobody means that
            '.' => out.push('.'),
            c if c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | ' ') => {
                out.push_str(&written(&c.to_string()));
            }
            _ => return None,
        }
    }
    (!out.is_empty()).then_some(out)
}

/// As Debezium writes a name in a topic's.
fn written(name: &str) -> String {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    name.chars().map(|c| if legal(c) { c } else { '_' }).collect()
}

/// What its transforms do to the records; whether one flattens them.
fn transforms(config: &Config, findings: &mut Vec<Finding>) -> bool {
    let mut flat = false;
    for name in config.list("transforms") {
        let Some(class) = config.get(&format!("transforms.{name}.type")) else { continue };
        if class.ends_with(".ExtractNewRecordState") {
            flat = true;
            flattened(config, name, findings);
        } else if class.ends_with("Router") {
            let what = format!("the transform {name} ({class}) gives records other topics");
            find(findings, what, "edit topics in the connector's file: they are those before it");
        } else {
            let what = format!(
                "the transform {name} ({class}) may change rows: they are taken as if the source had them"
            );
            find(
                findings,
                what,
                "take it away in Debezium's connector, or see that it changes no row",
            );
        }
    }
    flat
}

/// What flattened records lack.
fn flattened(config: &Config, name: &str, findings: &mut Vec<Finding>) {
    let option = |option: &str| config.get(&format!("transforms.{name}.{option}"));
    let dropped = match (option("delete.tombstone.handling.mode"), option("delete.handling.mode")) {
        (Some(mode), _) => mode == "drop",
        (None, Some(mode)) => mode == "drop" && option("drop.tombstones") != Some("false"),
        (None, None) => false,
    };
    if dropped {
        let what =
            "its transform drops deletes: rows that are deleted at the source stay".to_owned();
        find(findings, what, Loss::Deletes.remedy());
    } else if option("delete.tombstone.handling.mode").or(option("delete.handling.mode")).is_none()
    {
        let what = "its transform says nothing of deletes: before Debezium 2.5 they are dropped"
            .to_owned();
        find(findings, what, Loss::Deletes.remedy());
    }
    let fields = config.list(&format!("transforms.{name}.add.fields"));
    let place = |field: &&str| {
        let field = field.split(':').next().unwrap_or_default();
        let field = field.strip_prefix("source.").unwrap_or(field);
        matches!(field, "lsn" | "sequence" | "file" | "pos")
    };
    if !fields.iter().any(place) {
        let what = format!("flattened, a record {}", Loss::Order.what());
        find(findings, what, Loss::Order.remedy());
    }
    if option("add.fields.prefix").is_some_and(|prefix| prefix != "__") {
        let what =
            "its transform adds fields under another prefix than __: they are taken for columns";
        find(findings, what.to_owned(), "remove add.fields.prefix in Debezium's connector");
    }
}

/// The modes of values as a connector's file says them, where they are not the defaults.
fn types(config: &Config, findings: &mut Vec<Finding>) -> Vec<(&'static str, String)> {
    const MODES: [(&str, &str, &[&str]); 6] = [
        ("decimal.handling.mode", "decimal", &["precise", "double", "string"]),
        (
            "time.precision.mode",
            "time",
            &[
                "adaptive",
                "adaptive_time_microseconds",
                "microseconds",
                "nanoseconds",
                "connect",
                "isostring",
            ],
        ),
        ("binary.handling.mode", "binary", &["bytes", "base64", "base64-url-safe", "hex"]),
        ("interval.handling.mode", "interval", &["numeric", "string"]),
        ("hstore.handling.mode", "hstore", &["json", "map"]),
        ("unavailable.value.placeholder", "placeholder", &[]),
    ];
    const PLACEHOLDER: &str = "__debezium_unavailable_value";
    let mut types = Vec::new();
    for (field, ours, words) in MODES {
        let Some(value) = config.get(field) else { continue };
        let word = if words.is_empty() { value.to_owned() } else { value.to_lowercase() };
        let default = words.first().copied().unwrap_or(PLACEHOLDER);
        if !words.is_empty() && !words.contains(&word.as_str()) {
            let what = format!("{field}: this version does not know the mode {value:?}");
            find(findings, what, "set one of Debezium's documented modes");
        } else if word != default {
            types.push((ours, word));
        }
    }
    types
}

/// Modes that lose something, or leave something untold.
fn modes(config: &Config, findings: &mut Vec<Finding>) {
    let is = |field: &str, value: &str| {
        config.get(field).is_some_and(|is| is.eq_ignore_ascii_case(value))
    };
    let lossy = [
        ("decimal.handling.mode", "double", "a decimal", Loss::Digits),
        ("time.precision.mode", "connect", "a time or timestamp", Loss::Microseconds),
        ("interval.handling.mode", "numeric", "an interval", Loss::Months),
        ("binary.handling.mode", "base64", "bytea", Loss::Bytes),
        ("binary.handling.mode", "base64-url-safe", "bytea", Loss::Bytes),
    ];
    for (field, value, subject, loss) in lossy {
        if is(field, value) {
            find(findings, format!("{subject} {}", loss.what()), loss.remedy());
        }
    }
    if ["never", "no_data", "schema_only"].iter().any(|mode| is("snapshot.mode", mode)) {
        let what = "snapshot.mode: rows that were there before Debezium are in no topic".to_owned();
        find(
            findings,
            what,
            "let Debezium read the tables by an incremental snapshot (execute-snapshot)",
        );
    }
    let skipped = config.list("skipped.operations");
    let untold: Vec<&str> =
        [("c", "inserts"), ("u", "updates"), ("d", "deletes"), ("t", "TRUNCATE")]
            .into_iter()
            // TRUNCATE is skipped unless something else is said
            .filter(|(op, _)| skipped.contains(op) || (*op == "t" && skipped.is_empty()))
            .map(|(_, what)| what)
            .collect();
    if !untold.is_empty() {
        let what = format!("skipped.operations: Debezium does not tell {}", untold.join(", "));
        find(findings, what, "set skipped.operations=none in Debezium's connector");
    }
    if config.get("value.converter").is_none() {
        let what = "value.converter is Kafka Connect's own setting: JSON is assumed".to_owned();
        find(findings, what, "siltstone validate --connect looks at records, once there are some");
    }
    if is("value.converter.schemas.enable", "false") {
        let what =
            "its records carry no schema: a table without a file in schemas/ stops".to_owned();
        find(
            findings,
            what,
            "declare its tables in schemas/, or set value.converter.schemas.enable=true in Debezium's \
             connector",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASS: &str = "io.debezium.connector.postgresql.PostgresConnector";

    fn registered(fields: &[(&str, &str)]) -> Registered {
        let mut all = vec![("connector.class", CLASS), ("topic.prefix", "shop")];
        all.extend(fields);
        let all: BTreeMap<&str, &str> = all.into_iter().collect();
        read(&serde_json::to_string(&all).unwrap(), "shop.json").unwrap()
    }

    fn said(fields: &[(&str, &str)]) -> String {
        registered(fields).findings.into_iter().map(|finding| finding.what + "\n").collect()
    }

    #[test]
    fn lists_become_topics() {
        let cases: [(&str, &str, &[&str]); 7] = [
            (
                "table.include.list",
                "public.users,public.orders",
                &["shop.public.users", "shop.public.orders"],
            ),
            (
                "table.include.list",
                r"public\.users, ^sales\.o.*$",
                &["shop.public.users", "shop.sales.o*"],
            ),
            ("table.include.list", "public.my table", &["shop.public.my_table"]),
            ("table.include.list", "public.(users|orders)", &["shop.*"]),
            ("schema.include.list", "public,sales", &["shop.public.*", "shop.sales.*"]),
            ("database.include.list", "inventory", &["shop.inventory.*"]),
            ("tasks.max", "1", &["shop.*"]),
        ];
        for (field, value, topics) in cases {
            assert_eq!(registered(&[(field, value)]).topics, topics, "{value}");
        }
    }

    #[test]
    fn modes_that_lose_are_named_and_written() {
        let fields = [
            ("decimal.handling.mode", "double"),
            ("time.precision.mode", "connect"),
            ("binary.handling.mode", "base64"),
            ("hstore.handling.mode", "map"),
            ("snapshot.mode", "no_data"),
        ];
        let types = registered(&fields).types;
        let words: Vec<String> =
            types.iter().map(|(ours, word)| format!("{ours}={word}")).collect();
        assert_eq!(words, ["decimal=double", "time=connect", "binary=base64", "hstore=map"]);
        let said = said(&fields);
        for told in
            ["15th", "microseconds", "comes as null", "in no topic", "does not tell TRUNCATE"]
        {
            assert!(said.contains(told), "{told}: {said}");
        }
    }

    #[test]
    fn a_transform_that_flattens_is_seen() {
        let unwrap = [
            ("transforms", "unwrap,route"),
            ("transforms.unwrap.type", "io.debezium.transforms.ExtractNewRecordState"),
            ("transforms.unwrap.delete.tombstone.handling.mode", "drop"),
            ("transforms.route.type", "org.apache.kafka.connect.transforms.RegexRouter"),
        ];
        assert!(registered(&unwrap).flat);
        let told = said(&unwrap);
        for what in ["drops deletes", "tells no place", "other topics"] {
            assert!(told.contains(what), "{what}: {told}");
        }
        let full = [
            ("transforms", "unwrap"),
            ("transforms.unwrap.type", "io.debezium.transforms.ExtractNewRecordState"),
            ("transforms.unwrap.delete.tombstone.handling.mode", "rewrite"),
            ("transforms.unwrap.add.fields", "op,source.lsn:lsn"),
            ("skipped.operations", "none"),
            ("value.converter", "org.apache.kafka.connect.json.JsonConverter"),
        ];
        assert_eq!(said(&full), "");
    }

    #[test]
    fn what_is_not_read_is_refused_without_a_value() {
        let password = r#""database.password":"s3cret""#;
        let cases = [
            (format!("{{{password}"), "not JSON"),
            (format!("[{password}]").replace(':', ","), "no configuration"),
            (format!("{{{password}}}"), "connector.class is missing"),
            (format!(r#"{{"connector.class":"{CLASS}",{password}}}"#), "topic.prefix is missing"),
            (
                r#"{"connector.class":"io.debezium.connector.mongodb.MongoDbConnector"}"#
                    .to_owned(),
                "does not read",
            ),
            (
                format!(
                    r#"{{"connector.class":"{CLASS}","value.converter":"io.confluent.connect.avro.AvroConverter"}}"#
                ),
                "AvroConverter",
            ),
            (
                format!(r#"{{"connector.class":"{CLASS}","topic.prefix":"${{env:PREFIX}}"}}"#),
                "only Kafka Connect knows",
            ),
        ];
        for (text, told) in cases {
            let error = read(&text, "shop.json").err().map(|error| error.to_string()).unwrap();
            assert!(error.contains(told) && !error.contains("s3cret"), "{told}: {error}");
            assert!(error.contains("remedy: "), "{error}");
        }
    }
}
