//! Topics as they are declared, as they are, and what of them loses something: `siltstone topics`, the look at
//! a start, `validate --connect`.

use std::process::Stdio;

use serde_json::json;

use crate::support::{Record, Site, Topics, block_on, kafka};

/// A site whose only connector reads topics of these brokers.
async fn site(name: &str, brokers: &str, topics: &str, fields: &str) -> Site {
    let site = Site::new(name).await;
    site.remove("connectors/shop.yaml");
    site.file(
        "connectors/shop.yaml",
        &format!(
            "name: {}\nkind: kafka\nsource: shop\nbrokers: {brokers}\ngroup: {}\n\
             target_schema: cleansed\ntopics: [{topics}]\n\
             properties: {{ broker.address.family: v4, sasl.password: s3cret }}\n{fields}",
            site.name, site.name
        ),
    );
    site
}

/// Runs the binary over a site; its exit code, and all that it said.
fn run(site: &Site, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = site.command(arguments);
    let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(!said.contains("s3cret"), "{said}");
    (output.status.code(), said)
}

fn assert_said(said: &str, all: &[&str]) {
    for told in all {
        assert!(said.contains(told), "{told}: {said}");
    }
}

/// A record of Debezium's with its schema.
fn event(topic: &str, fields: serde_json::Value, op: &str, after: serde_json::Value) -> Record {
    let table = topic.rsplit('.').next().unwrap();
    let mut fields = fields.as_array().unwrap().clone();
    fields.insert(0, json!({"type": "int64", "optional": false, "field": "id"}));
    let value = json!({
        "schema": {"type": "struct", "fields": [
            {"type": "struct", "field": "after", "optional": true, "fields": fields},
        ]},
        "payload": {
            "op": op, "before": null, "after": after,
            "source": {
                "connector": "postgresql", "schema": "public", "table": table, "lsn": 100,
                "sequence": "[\"90\",\"100\"]", "ts_ms": 1, "txId": 7,
            },
        },
    });
    let key = json!({
        "schema": {"type": "struct", "fields": [{"type": "int64", "optional": false, "field": "id"}]},
        "payload": {"id": after["id"]},
    });
    Record::new(topic, &key.to_string(), &value.to_string())
}

fn declare(site: &Site, topics: &str) {
    site.file("topics.yaml", &format!("connector: {}\ntopics:\n{topics}", site.name));
}

#[test]
fn topics_are_made_as_declared_and_nothing_else_changes() {
    let Some(kafka) = kafka() else { return };
    block_on(async {
        let topics = kafka.topics().await;
        let site = site("declared", topics.brokers(), "\"declared.*\"", "").await;
        declare(
            &site,
            "  declared.a.new: { partitions: 2, replication: 1, config: { retention.ms: 3600000 } }\n\
             \x20 declared.a.old: { config: { compression.type: zstd } }\n",
        );
        let settings = [("max.message.bytes", "5000000"), ("segment.ms", "7200000")];
        topics.create_with("declared.a.old", 3, &settings).await;
        let (code, said) = run(&site, &["topics", "plan", "--exit-code"]);
        assert_eq!(code, Some(2), "{said}");
        let made = "safe         declared.a.new: make it, with 2 partitions, replication 1, retention.ms=3600000";
        assert_said(
            &said,
            &[made, "declared.a.old: compression.type: producer -> zstd", "siltstone topics apply"],
        );
        assert!(topics.partitions("declared.a.new").await.is_empty());
        let (code, said) = run(&site, &["topics", "apply"]);
        assert_eq!(code, Some(0), "{said}");
        assert_said(
            &said,
            &["done  declared.a.new: make it", "done  declared.a.old: compression.type"],
        );
        let (code, said) = run(&site, &["topics", "plan", "--exit-code"]);
        assert_eq!(code, Some(0), "{said}");
        assert_said(&said, &["nothing to do"]);

        // settings that nobody declared are as they were
        declare(
            &site,
            "  declared.a.old: { config: { max.message.bytes: 5000000, segment.ms: 7200000, \
             compression.type: zstd } }\n",
        );
        assert_eq!(run(&site, &["topics", "plan", "--exit-code"]).0, Some(0));
        assert_eq!(
            topics.partitions("declared.a.new").await.len(),
            2,
            "it is not declared any more"
        );
    });
}

#[test]
fn what_loses_records_or_moves_keys_takes_a_word() {
    let Some(kafka) = kafka() else { return };
    block_on(async {
        let topics = kafka.topics().await;
        let site = site("guarded", topics.brokers(), "\"guarded.*\"", "").await;
        topics.create_with("guarded.a.t", 2, &[("segment.ms", "7200000")]).await;
        declare(
            &site,
            "  guarded.a.t: { partitions: 4, config: { retention.ms: 3600000, cleanup.policy: compact, \
             min.insync.replicas: 1 } }\n",
        );
        let (code, said) = run(&site, &["topics", "apply"]);
        assert_eq!(code, Some(78), "{said}");
        assert_said(
            &said,
            &[
                "not done  guarded.a.t: partitions: 2 -> 4",
                "it takes --allow rewrite",
                "not done  guarded.a.t: cleanup.policy: delete -> compact",
                "not done  guarded.a.t: retention.ms: 604800000 -> 3600000",
                "it takes --allow destructive",
            ],
        );
        assert_eq!(topics.partitions("guarded.a.t").await.len(), 2);
        let (code, said) = run(&site, &["topics", "plan", "--json"]);
        assert_eq!((code, said.lines().count()), (Some(0), 3), "{said}");
        // a person is asked where records go, and there is none
        let allow = ["topics", "apply", "--allow", "rewrite,destructive"];
        assert_eq!(run(&site, &allow).0, Some(64));
        assert_eq!(topics.partitions("guarded.a.t").await.len(), 2);
        let (code, said) = run(&site, &[&allow[..], &["--yes"]].concat());
        assert_eq!(code, Some(0), "{said}");
        let (_, said) = run(&site, &["topics", "plan"]);
        assert_said(&said, &["nothing to do"]);
        assert_eq!(topics.partitions("guarded.a.t").await.len(), 4);

        // what is never done, whatever is allowed
        declare(
            &site,
            "  guarded.a.t: { partitions: 1, replication: 2, config: { segment.ms: 7200000 } }\n",
        );
        let (code, said) = run(&site, &[&allow[..], &["--yes"]].concat());
        assert_eq!(code, Some(78), "{said}");
        assert_said(
            &said,
            &[
                "not done  guarded.a.t: partitions: 4 -> 1: Kafka takes no partition away",
                "not done  guarded.a.t: replication: 1 -> 2",
                "kafka-reassign-partitions.sh",
            ],
        );
        // and what the broker refuses
        declare(&site, "  guarded.a.more: { partitions: 1, replication: 7 }\n");
        let (code, said) = run(&site, &["topics", "apply"]);
        assert_eq!(code, Some(78), "{said}");
        assert_said(&said, &["making guarded.a.more", "replication factor", "remedy: "]);
        declare(&site, "  guarded.a.t: { config: { segment.ms: 0 } }\n");
        let (code, said) = run(&site, &["topics", "apply"]);
        assert_eq!(code, Some(78), "{said}");
        assert_said(&said, &["changing the settings of guarded.a.t", "segment.ms"]);
    });
}

#[test]
fn topics_without_a_file_or_a_broker_are_said() {
    block_on(async {
        let site = site("nobroker", "127.0.0.1:1", "\"x.*\"", "").await;
        let (code, said) = run(&site, &["topics", "plan"]);
        assert_eq!(code, Some(78), "{said}");
        assert_said(&said, &["there is no topics.yaml", "remedy: "]);
        declare(&site, "  x.y.z: {}\n");
        for arguments in [["topics", "plan"], ["validate", "--connect"]] {
            let (code, said) = run(&site, &arguments);
            assert_eq!(code, Some(69), "{said}");
            assert_said(&said, &["Kafka at 127.0.0.1:1", "remedy: "]);
        }
        let (_, said) = run(&site, &["validate"]);
        assert_said(&said, &["files: 1 connector,"]);
    });
}

/// A name that is written wrong is no reason to be silent.
#[test]
fn a_service_whose_topics_are_not_there_says_so() {
    let Some(kafka) = kafka() else { return };
    block_on(async {
        let topics = kafka.topics().await;
        let site = site("misspelt", topics.brokers(), "\"misspelt.public.*\"", "").await;
        let running = site.start();
        site.until("it says so", "select count(*) = 1 from audit.standing").await;
        let (code, said) = run(&site, &["status"]);
        assert_eq!(code, Some(75), "{said}");
        assert_said(
            &said,
            &["waiting for", "there is no topic misspelt.public.*", "remedy: start Debezium"],
        );
        topics.create("misspelt.public.things", 1).await;
        site.until("it is read", "select count(*) = 1 from audit.progress").await;
        site.until("it says nothing more", "select count(*) = 0 from audit.standing").await;
        assert!(running.stop().await.is_ok());
    });
}

const HISTORY: &str = "from: shop.public.users\nhistory: versions\nkey: [id]\ncolumns:\n\
                       \x20 id: { type: bigint }\n\x20 name: { type: text }\n";

#[test]
fn a_compacted_topic_under_history_is_said_at_the_start() {
    let Some(kafka) = kafka() else { return };
    block_on(async {
        let topics = kafka.topics().await;
        let site = site("compacted", topics.brokers(), "\"compacted.*\"", "").await;
        let compact = [("cleanup.policy", "compact")];
        for table in ["users", "plain"] {
            topics.create_with(&format!("compacted.public.{table}"), 1, &compact).await;
        }
        topics.create("compacted.public.fine", 1).await;
        declare(&site, "  compacted.public.fine: { partitions: 3 }\n");
        site.file("schemas/a.yaml", &format!("table: cleansed.users_history\n{HISTORY}"));
        site.file("schemas/b.yaml", "table: raw.stg_users\nfrom: shop.public.users\nlayout: raw\n");
        let fields = json!([{"type": "string", "optional": true, "field": "name"}]);
        let row = json!({"id": 1, "name": "a"});
        topics.put(event("compacted.public.users", fields, "c", row)).await;
        let (code, said) = run(&site, &["run", "--until-caught-up"]);
        assert_eq!(code, Some(0), "{said}");
        let reasons = [
            "compacted.public.users is compacted (cleanup.policy=compact)",
            "versions of cleansed.users_history in between are missing",
            "raw.stg_users keeps every event",
            "rows that were deleted meanwhile stay in cleansed.plain",
            "compacted.public.fine is not as topics.yaml declares it: partitions: 1 -> 3",
        ];
        assert_said(&said, &reasons);
        assert!(!said.contains("compacted.public.fine is compacted"), "{said}");
        assert_eq!(site.at_warehouse("select id from cleansed.users_history_current").await, ["1"]);
        let (code, said) = run(&site, &["validate", "--connect"]);
        assert_eq!(code, Some(0), "{said}");
        assert_said(&said, &reasons);
    });
}

async fn write_lossy(topics: &Topics) {
    let fields = json!([
        {"type": "double", "optional": true, "field": "price"},
        {"type": "int64", "optional": true, "field": "at", "name": "org.apache.kafka.connect.data.Timestamp"},
        {"type": "string", "optional": true, "field": "bio"},
    ]);
    let row = json!({"id": 1, "price": 1.5, "at": 5, "bio": "x"});
    let update = json!({"id": 1, "price": 1.5, "at": 5, "bio": "__debezium_unavailable_value"});
    topics.create("lossy.public.users", 3).await;
    topics.create("lossy.public.empty", 1).await;
    topics
        .write(vec![
            event("lossy.public.users", fields.clone(), "c", row),
            event("lossy.public.users", fields, "u", update),
        ])
        .await;
}

#[test]
fn validate_names_what_topics_lose() {
    let Some(kafka) = kafka() else { return };
    block_on(async {
        let topics = kafka.topics().await;
        let wanted = "\"lossy.*\", \"absent.public.t\"";
        let site = site("lossy", topics.brokers(), wanted, "").await;
        write_lossy(&topics).await;
        site.file(
            "schemas/a.yaml",
            "table: cleansed.people\nfrom: shop.public.users\nhistory: overwrite\nkey: [id]\ncolumns:\n\
             \x20 id: { type: bigint }\n\x20 price: { type: \"numeric(10,2)\" }\n",
        );
        let (code, said) = run(&site, &["validate", "--connect"]);
        assert_eq!(code, Some(0), "{said}");
        assert_said(
            &said,
            &[
                "lossy.public.users (3 partitions, delete) -> cleansed.people\n",
                "lossy.public.empty (1 partition, delete) -> cleansed.empty (mirrored), by its name",
                "warning: there is no topic absent.public.t",
                "public.users.price is a decimal that comes as a double",
                "decimal.handling.mode=precise",
                "public.users.at comes in milliseconds",
                "public.users.bio is left out of updates",
                "replica identity full",
                &format!("group {}: new", site.name),
            ],
        );

        // of flattened rows, and of what is none of Debezium's
        site.file(
            "connectors/shop.yaml",
            &format!(
                "name: {}\nkind: kafka\nsource: shop\nbrokers: {}\ntarget_schema: cleansed\n\
                 topics: [flatly.public.users, flatly.public.odd]\nformat: flat-json\n",
                site.name,
                topics.brokers()
            ),
        );
        topics.create("flatly.public.users", 1).await;
        topics.create("flatly.public.odd", 1).await;
        topics.put(Record::new("flatly.public.users", "{\"id\":1}", "{\"id\":1,\"a\":2}")).await;
        let avro = Record {
            value: Some(vec![0, 0, 0, 0, 1, 2]),
            ..Record::new("flatly.public.odd", "k", "")
        };
        topics.put(avro).await;
        let (code, said) = run(&site, &["validate", "--connect"]);
        assert_eq!(code, Some(78), "{said}");
        assert_said(
            &said,
            &[
                "public.users tells no deletes",
                "public.users tells no place at the source",
                "error: records of flatly.public.odd cannot be read: they look like Avro",
            ],
        );
        // what somebody else wrote behind what can be read condemns none of that
        let odd = || Record {
            value: Some(vec![0xff, 0xfe]),
            ..Record::new("flatly.public.users", "k", "")
        };
        topics.write(vec![odd(), odd()]).await;
        site.topics(topics.brokers(), "flatly.public.users", "format: flat-json\n");
        let (code, said) = run(&site, &["validate", "--connect"]);
        assert_eq!(code, Some(0), "{said}");
        let warning = "warning: some records of flatly.public.users cannot be read, the first of them at offset 1 \
                       of partition 0: ";
        assert_said(&said, &[warning, "such records become dead letters"]);
    });
}

#[test]
fn validate_names_a_second_source_of_one_table() {
    let Some(kafka) = kafka() else { return };
    block_on(async {
        let topics = kafka.topics().await;
        let site = site("second", topics.brokers(), "\"second.*\"", "").await;
        for schema in ["public", "sales"] {
            let topic = format!("second.{schema}.users");
            topics.create(&topic, 1).await;
            let record = event(&topic, json!([]), "c", json!({ "id": 1 }));
            let value = record.json().to_string().replace("\"public\"", &format!("\"{schema}\""));
            topics.put(Record { value: Some(value.into()), ..record }).await;
        }
        let (code, said) = run(&site, &["validate", "--connect"]);
        assert_eq!(code, Some(78), "{said}");
        let why =
            "error: sales.users is left out: public.users and it would both become cleansed.users";
        assert_said(&said, &[why, "leave the topic second.sales.users out of topics"]);
    });
}

#[test]
fn validate_tries_the_url_by_which_rows_are_compared() {
    let Some(kafka) = kafka() else { return };
    block_on(async {
        let topics = kafka.topics().await;
        let url = "url: \"${SHOP_URL}\"\n";
        let mut site = site("urls", topics.brokers(), "urls.public.users", url).await;
        topics.create("urls.public.users", 1).await;
        let of = |database: &str| {
            let record = event("urls.public.users", json!([]), "c", json!({ "id": 1 }));
            let mut value = record.json();
            value["payload"]["source"]["db"] = database.into();
            Record { value: Some(value.to_string().into()), ..record }
        };
        topics.put(of("another")).await;
        let (code, said) = run(&site, &["validate", "--connect"]);
        assert_eq!(code, Some(78), "{said}");
        let endpoint = site.spec().kafka[0].endpoint.clone().unwrap();
        let database = endpoint.database();
        let another =
            format!("error: url names the database {database}, and its topics tell of another");
        let remedy = "mend url in connectors/shop.yaml";
        assert_said(&said, &[&another, remedy]);
        // a source may have been given its name meanwhile
        topics.put(of(database)).await;
        let (code, said) = run(&site, &["validate", "--connect"]);
        assert_eq!(code, Some(0), "{said}");
        let there = site.source_url.clone();
        site.source_url = there.replace(database, "nowhere");
        let (code, said) = run(&site, &["validate", "--connect"]);
        assert_eq!(code, Some(78), "{said}");
        assert_said(
            &said,
            &[
                "error: url: the source failed while connecting to postgres://",
                "/nowhere: ",
                remedy,
            ],
        );
    });
}
