//! Records of topics that nobody can read or no table takes: each is a dead letter once, with its place and
//! its bytes, and all others go on. Read again, mended or not, they end where they belong.

use std::process::Stdio;
use std::time::Duration;

use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use serde_json::{Value, json};

use crate::support::{Mock, Record, Site, Topics, block_on, kafka, own_broker};

const TOPIC: &str = "shop.public.t";

/// A site that reads `shop.public.t` of these brokers into a declared table.
async fn site_at(name: &str, brokers: &str) -> Site {
    let site = Site::new(name).await;
    site.remove("connectors/shop.yaml");
    site.file(
        "schemas/t.yaml",
        "table: cleansed.t\nfrom: shop.public.t\nkey: [id]\ncolumns:\n  id: { type: integer }\n  \
         v: { type: integer }\n  note: { type: varchar(20) }\n",
    );
    connect(&site, brokers, "");
    site
}

/// Each run is a group of its own: the mock keeps members that left for a while.
fn connect(site: &Site, brokers: &str, fields: &str) {
    static RUN: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let run = RUN.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    site.file(
        "connectors/topics.yaml",
        &format!(
            "name: {}\nkind: kafka\nsource: shop\nbrokers: {brokers}\ngroup: poison-{run}\n\
             topics: [\"{TOPIC}\"]\nproperties: {{ broker.address.family: v4 }}\n{fields}",
            site.name
        ),
    );
}

/// A change as Debezium writes it.
fn change(id: i32, v: &Value, note: &str, lsn: u32) -> String {
    json!({
        "before": null,
        "after": { "id": id, "v": v, "note": note },
        "source": {
            "version": "3.2.0.Final", "connector": "postgresql", "name": "shop", "db": "shop",
            "schema": "public", "table": "t", "txId": lsn, "lsn": lsn, "ts_ms": 1_700_000_000_000_i64,
            "sequence": format!("[\"{}\",\"{lsn}\"]", lsn - 1),
        },
        "op": "u",
        "ts_ms": 1_700_000_000_000_i64,
    })
    .to_string()
}

fn record(id: i32, value: &str) -> Record {
    let mut record = Record::new(TOPIC, &json!({ "id": id }).to_string(), value).at(0);
    record.headers = vec![("trace".to_owned(), Some(vec![0xff, 1]))];
    record
}

fn good(id: i32, v: i32, lsn: u32) -> Record {
    record(id, &change(id, &v.into(), "n", lsn))
}

/// The records that cannot be taken, each with a word of why.
fn poison() -> Vec<(Record, &'static str)> {
    let whole = change(1, &1.into(), "n", 10);
    let (half, _) = whole.split_at(whole.len() / 2);
    vec![
        (record(1, half), "too early"),
        (record(2, "no JSON"), "JSON"),
        (record(3, &change(3, &"abc".into(), "n", 12)), "v"),
        (record(4, &change(4, &4.into(), "a\0b", 13)), "note"),
        (record(5, &change(5, &5.into(), "longer than it may ever be", 14)), "20 char"),
        (record(6, &change(6, &5000.into(), "n", 15)), "small"),
        (record(7, "[1, 2]"), ""),
        (record(8, "{\"after\": 7, \"op\": \"c\", \"source\": {}}"), ""),
        (Record { key: Some(vec![0xff]), ..record(9, "\u{1}") }, ""),
    ]
}

const LETTERS: &str = "select record_partition, record_offset, reason, encode(record_value, 'escape'), \
    record_headers::text from audit.dead_letters order by record_offset";

/// Writes the poison set, each followed by a change of another key; waits until those are in.
async fn poisoned(site: &Site, topics: &Topics) {
    let first: Vec<Record> = (101..104).map(|id| good(id, 1, 1)).collect();
    topics.write(first).await;
    site.catch_up().await;
    let refuse = "alter table cleansed.t add constraint small check (v < 1000)";
    site.warehouse.batch_execute(refuse).await.unwrap();
    let mut records = Vec::new();
    for (at, (poison, _)) in (200..).zip(poison()) {
        records.push(poison);
        records.push(good(at, 2, 100 + u32::try_from(at).unwrap()));
    }
    topics.write(records).await;
}

async fn assert_letters(site: &Site) {
    let letters = site.at_warehouse(LETTERS).await;
    let expected = poison();
    assert_eq!(letters.len(), expected.len(), "{letters:#?}");
    for (at, (letter, (record, why))) in letters.iter().zip(expected).enumerate() {
        let place = format!("0|{}|", 3 + 2 * at);
        assert!(letter.starts_with(&place), "{place}: {letter}");
        assert!(letter.contains(why), "{why}: {letter}");
        assert!(letter.contains(r#"[["trace", "/wE="]]"#), "{letter}");
        let bytes = format!(
            "select record_value = '\\x{}' and record_at is not null from audit.dead_letters where \
             record_offset = {}",
            hex(record.value.as_deref().unwrap()),
            3 + 2 * at
        );
        assert_eq!(site.at_warehouse(&bytes).await, ["t"], "{letter}");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn said(site: &Site, arguments: &[&str]) -> String {
    let output = site.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The number of the letter at an offset.
async fn letter_at(site: &Site, offset: i64) -> String {
    let query = format!("select id from audit.dead_letters where record_offset = {offset}");
    site.at_warehouse(&query).await.concat()
}

const OPEN: &str = "select count(*) from audit.dead_letters where state = 'open'";

#[test]
fn what_cannot_be_taken_is_a_dead_letter_once_and_holds_up_nothing() {
    block_on(async {
        let mock = Mock::start();
        mock.create(TOPIC, 1);
        let site = site_at("poison", &mock.address()).await;
        poisoned(&site, &mock.topics()).await;
        connect(&site, &mock.address(), "");
        let running = site.start();
        let others = "select count(*) = 9 from cleansed.t where id >= 200";
        site.until("the others are in", others).await;
        let letters = "select count(*) = 9 from audit.dead_letters";
        site.until("the letters are there", letters).await;
        assert!(running.stop().await.is_ok());
        assert_letters(&site).await;
        connect(&site, &mock.address(), "");
        site.catch_up().await;
        assert_letters(&site).await;
        assert_eq!(site.at_warehouse("select count(*) from cleansed.t").await, ["12"]);
        assert_eq!(site.state("cleansed.t").await[0], "streaming");
        // told as records are
        let shown = said(&site, &["dead-letter", "show", &letter_at(&site, 13).await]);
        let shown: Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(shown["position"], "shop.public.t/0:13");
        assert_eq!(shown["ordinal"], Value::Null);
        assert_eq!(shown["record"]["key"], "{\"id\":6}");
        assert_eq!(shown["record"]["headers"], json!([["trace", { "base64": "/wE=" }]]));
        assert_eq!(shown["new"]["v"], "5000");
        for at in 0..9 {
            // also those of which nobody can read more than their bytes
            let shown = said(&site, &["dead-letter", "show", &letter_at(&site, 3 + 2 * at).await]);
            let shown: Value = serde_json::from_str(&shown).unwrap();
            assert!(!shown["record"]["value"].is_null(), "{shown}");
        }
        let listed = said(&site, &["dead-letter", "list", "cleansed.t"]);
        assert!(listed.contains("at shop.public.t/0:13, written 20"), "{listed}");
    });
}

#[test]
fn a_letter_that_can_be_read_again_goes_before_what_waits_behind_it() {
    block_on(async {
        let mock = Mock::start();
        mock.create(TOPIC, 1);
        let site = site_at("reread", &mock.address()).await;
        let topics = mock.topics();
        poisoned(&site, &topics).await;
        let catch_up = async || {
            connect(&site, &mock.address(), "");
            site.catch_up().await;
        };
        catch_up().await;
        assert_letters(&site).await;
        // each key goes on behind its letter
        topics.write((1..9).map(|id| good(id, 900, 500)).collect()).await;
        catch_up().await;
        assert_eq!(site.at_warehouse("select count(*) from cleansed.t where id < 9").await, ["0"]);
        // read again in vain
        said(&site, &["dead-letter", "replay", "--all"]);
        catch_up().await;
        assert_eq!(site.at_warehouse(OPEN).await, ["9"]);
        let twice = "select count(*) from audit.dead_letters where attempts = 2";
        assert_eq!(site.at_warehouse(twice).await, ["9"]);
        assert_eq!(site.at_warehouse("select count(*) from cleansed.t where id < 9").await, ["0"]);
        // another value, wrong again
        let file = site.config().with_file_name("value.json");
        let path = file.to_str().unwrap();
        let first = letter_at(&site, 3).await;
        site.file("value.json", &change(1, &"still wrong".into(), "n", 10));
        said(&site, &["dead-letter", "replay", &first, "--value", path]);
        catch_up().await;
        let reason =
            "select attempts, reason like '%v %' from audit.dead_letters where record_offset = 3";
        assert_eq!(site.at_warehouse(reason).await, ["3|t"]);
        // mended one by one, and asked to go on while it is killed again and again
        for (offset, id) in [(3, 1), (5, 2), (7, 3), (9, 4), (11, 5), (15, 7), (17, 8)] {
            site.file("value.json", &change(id, &7.into(), "mended", 20));
            let letter = letter_at(&site, offset).await;
            said(&site, &["dead-letter", "replay", &letter, "--value", path]);
        }
        for pause in [2500, 3300, 3700] {
            connect(&site, &mock.address(), "");
            let mut child = site.spawn(&["run", "--until-caught-up"]);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            child.kill().unwrap();
            child.wait().unwrap();
        }
        catch_up().await;
        let rows = "select id, v, note, _seq from cleansed.t where id < 9 order by id";
        let expected: Vec<String> =
            [1, 2, 3, 4, 5, 7, 8].iter().map(|id| format!("{id}|900|n|499")).collect();
        assert_eq!(site.at_warehouse(rows).await, expected);
        assert_eq!(site.at_warehouse(OPEN).await, ["2"]);
        let kept = format!(
            "select encode(record_value, 'escape') = $x${}$x$ and edited_value is not null and \
             state = 'replayed' from audit.dead_letters where record_offset = 5",
            "no JSON"
        );
        assert_eq!(site.at_warehouse(&kept).await, ["t"]);
        // of a span of time
        site.warehouse.batch_execute("alter table cleansed.t drop constraint small").await.unwrap();
        let early = site.command(&["dead-letter", "replay", "--until", "2020-01-01"]).status();
        assert!(!early.unwrap().success());
        said(&site, &["dead-letter", "replay", "cleansed.t", "--since", "2020-01-01 00:00"]);
        catch_up().await;
        assert_eq!(site.at_warehouse(OPEN).await, ["1"]);
        let sixth = "select v, _seq from cleansed.t where id = 6";
        assert_eq!(site.at_warehouse(sixth).await, ["900|499"]);
        said(&site, &["dead-letter", "drop", "--all", "--yes"]);
        catch_up().await;
        assert_eq!(site.at_warehouse(OPEN).await, ["0"]);
        assert_eq!(site.at_warehouse("select count(*) from audit.pending").await, ["0"]);
        let answers = "select state, answer from audit.requests where state <> 'done'";
        let answers = site.at_warehouse(answers).await;
        assert!(
            answers.iter().all(|answer| answer.contains("still cannot be read")),
            "{answers:?}"
        );
    });
}

#[test]
fn a_first_record_that_cannot_be_read_makes_its_table_once_it_can() {
    block_on(async {
        let mock = Mock::start();
        mock.create(TOPIC, 1);
        let site = site_at("firstborn", &mock.address()).await;
        mock.topics().write(vec![record(1, "{"), record(2, "no JSON")]).await;
        site.catch_up().await;
        assert_eq!(site.at_warehouse(OPEN).await, ["2"]);
        site.file("value.json", &change(1, &7.into(), "mended", 20));
        let file = site.config().with_file_name("value.json");
        let letter = letter_at(&site, 0).await;
        said(&site, &["dead-letter", "replay", &letter, "--value", file.to_str().unwrap()]);
        connect(&site, &mock.address(), "");
        site.catch_up().await;
        assert_eq!(site.at_warehouse("select id, v from cleansed.t").await, ["1|7"]);
        assert_eq!(site.at_warehouse(OPEN).await, ["1"]);
    });
}

#[test]
fn letters_are_sent_to_their_topic_with_the_headers_of_connect() {
    block_on(async {
        let mock = Mock::start();
        mock.create(TOPIC, 1);
        mock.create("letters", 1);
        let site = site_at("outlet", &mock.address()).await;
        poisoned(&site, &mock.topics()).await;
        // away at first
        mock.refuse(
            RDKafkaApiKey::Produce,
            &[
                RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
                RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
            ],
        );
        connect(&site, &mock.address(), "dead_letter_topic: letters\n");
        let running = site.start();
        site.until("the others are in", "select count(*) = 9 from cleansed.t where id >= 200")
            .await;
        let sent = "select count(*) = 9 from audit.dead_letters where sent_at is not null";
        site.until("the letters are sent", sent).await;
        assert!(running.stop().await.is_ok());
        let letters = mock.topics().read_at_least("letters", 9).await;
        for (at, (record, _)) in poison().into_iter().enumerate() {
            let offset = (3 + 2 * at).to_string();
            let of = |letter: &&Record, name: &str| {
                let name = format!("__connect.errors.{name}");
                let found = letter.headers.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| String::from_utf8(value.clone().unwrap()).unwrap())
            };
            let letter = letters.iter().find(|l| of(l, "offset").as_ref() == Some(&offset));
            let letter = letter.unwrap_or_else(|| panic!("{offset} is not sent"));
            assert_eq!((&letter.key, &letter.value), (&record.key, &record.value));
            assert_eq!(letter.headers[0], record.headers[0]);
            assert_eq!(of(&letter, "topic").unwrap(), TOPIC);
            assert_eq!(of(&letter, "partition").unwrap(), "0");
            assert_eq!(of(&letter, "connector.name").unwrap(), site.name);
            let names =
                ["task.id", "stage", "class.name", "exception.class.name", "exception.message"];
            assert!(names.iter().all(|name| of(&letter, name).is_some()), "{letter:?}");
        }
        // once is enough where nothing went wrong
        connect(&site, &mock.address(), "dead_letter_topic: letters\n");
        site.catch_up().await;
        assert_eq!(mock.topics().read("letters").await.len(), letters.len());
    });
}

#[test]
fn a_record_of_20_megabytes_is_a_letter_or_a_row() {
    block_on(async {
        if kafka().is_none() {
            return;
        }
        let limits = [
            ("message.max.bytes", "33554432"),
            ("replica.fetch.max.bytes", "33554432"),
            ("socket.request.max.bytes", "104857600"),
        ];
        let broker = own_broker("poison-broker", &limits).await;
        let topics = Topics::at(&broker.address());
        topics.create(TOPIC, 1).await;
        let site = site_at("huge", &broker.address()).await;
        site.file(
            "schemas/t.yaml",
            "table: cleansed.t\nfrom: shop.public.t\nkey: [id]\ncolumns:\n  id: { type: integer }\n  \
             v: { type: integer }\n  note: { type: text }\n",
        );
        let settings =
            "warehouse: { url: \"${WAREHOUSE_URL}\" }\nadmin: { listen: \"127.0.0.1:0\" }\n";
        site.file("siltstone.yaml", &format!("{settings}max_row_bytes: 8MiB\n"));
        let long = "x".repeat(20 << 20);
        let huge = record(1, &change(1, &1.into(), &long, 10));
        topics.write(vec![good(101, 1, 1), huge, good(102, 1, 11)]).await;
        site.catch_up().await;
        assert_eq!(
            site.at_warehouse("select id from cleansed.t order by id").await,
            ["101", "102"]
        );
        let letter = "select record_offset, length(record_value) > 20000000, reason like \
                      '%longer than max_row_bytes' from audit.dead_letters where state = 'open'";
        assert_eq!(site.at_warehouse(letter).await, ["1|t|t"]);
        site.file("siltstone.yaml", settings);
        said(&site, &["dead-letter", "replay", "--all"]);
        site.catch_up().await;
        let row = "select length(note) from cleansed.t where id = 1";
        assert_eq!(site.at_warehouse(row).await, [(20 << 20).to_string()]);
        assert_eq!(site.at_warehouse(OPEN).await, ["0"]);
        assert_eq!(site.at_warehouse("select count(*) from audit.dead_letters").await, ["1"]);
    });
}
