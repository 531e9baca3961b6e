//! The configuration of a Debezium connector, as it is registered with Kafka Connect: what of it says how its
//! topics are called and written. Only what is named here is ever looked at: whatever else stands there, a
//! password too, goes nowhere.

use serde_json::Value;

use super::config::{Config, find};
use super::included::topics;
use super::modes::{modes, types};
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
    /// Whether its source is a Postgres, which can be asked for its rows.
    pub(super) postgres: bool,
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
    let (prefix, postgres) = (prefix.to_owned(), class.contains("postgres"));
    Ok(Registered { name, prefix, topics, postgres, flat, schemas, types, findings })
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
    let tells = |names: &[&str]| {
        fields.iter().any(|field| {
            let field = field.split(':').next().unwrap_or_default();
            names.contains(&field.strip_prefix("source.").unwrap_or(field))
        })
    };
    let lost = match tells(&["sequence", "file", "pos"]) {
        true => None,
        false if tells(&["lsn"]) => Some(Loss::Commits),
        false => Some(Loss::Order),
    };
    if let Some(loss) = lost {
        find(findings, format!("flattened, a record {}", loss.what()), loss.remedy());
    }
    if option("add.fields.prefix").is_some_and(|prefix| prefix != "__") {
        let what =
            "its transform adds fields under another prefix than __: they are taken for columns";
        find(findings, what.to_owned(), "remove add.fields.prefix in Debezium's connector");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

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
    fn the_defaults_of_a_mysql_are_others() {
        let class = ("connector.class", "io.debezium.connector.mysql.MySqlConnector");
        let types = registered(&[class]).types;
        assert_eq!(types, [("time", "adaptive_time_microseconds".to_owned())]);
        assert!(said(&[class]).contains("a bigint unsigned is"), "{}", said(&[class]));
        let precise = [class, ("bigint.unsigned.handling.mode", "precise")];
        assert!(!said(&precise).contains("unsigned"), "{}", said(&precise));
        assert!(!said(&[]).contains("unsigned"), "{}", said(&[]));
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
        let mut full = [
            ("transforms", "unwrap"),
            ("transforms.unwrap.type", "io.debezium.transforms.ExtractNewRecordState"),
            ("transforms.unwrap.delete.tombstone.handling.mode", "rewrite"),
            ("transforms.unwrap.add.fields", "op,source.lsn:lsn,source.sequence"),
            ("skipped.operations", "none"),
            ("value.converter", "org.apache.kafka.connect.json.JsonConverter"),
        ];
        assert_eq!(said(&full), "");
        full[3].1 = "op,source.lsn:lsn";
        let told = said(&full);
        assert!(told.contains("not the commit before it (source.sequence)"), "{told}");
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
