//! Topics that rest while the others of their connector go on, and transactions that wait for what has not come of
//! them.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Mock, Record, Site, block_on, kafka};

/// A change as Debezium writes it with its schema, about as long as its value.
fn change(topic: &str, id: i64, v: &str, transaction: Option<&str>) -> Record {
    let id_field = json!({ "type": "int64", "optional": false, "field": "id" });
    let row = json!({ "type": "struct", "field": "after", "optional": true, "fields": [
        id_field, { "type": "string", "optional": true, "field": "v" },
    ]});
    let transaction =
        transaction.map(|id| json!({ "id": id, "total_order": 1, "data_collection_order": 1 }));
    let value = json!({
        "schema": { "type": "struct", "fields": [row] },
        "payload": {
            "op": "c", "before": null, "after": { "id": id, "v": v }, "ts_ms": 1,
            "transaction": transaction,
            "source": {
                "connector": "postgresql", "schema": "public",
                "table": topic.rsplit('.').next().unwrap(), "txId": 7, "lsn": 1_000 + id,
                "sequence": format!("[\"{}\",\"{}\"]", 999 + id, 1_000 + id), "ts_ms": 1,
            },
        },
    });
    let key = json!({
        "schema": { "type": "struct", "fields": [id_field] }, "payload": { "id": id },
    });
    Record::new(topic, &key.to_string(), &value.to_string())
}

fn changes(topic: &str, ids: std::ops::Range<i64>) -> Vec<Record> {
    ids.map(|id| change(topic, id, &"x".repeat(1_000), None)).collect()
}

fn garbage(topic: &str, ids: std::ops::Range<i64>) -> Vec<Record> {
    ids.map(|n| Record::new(topic, &n.to_string(), "no event")).collect()
}

/// What the binary says, and how it ended.
fn said(site: &Site, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = site.command(arguments);
    let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

async fn settings(name: &str, pending: &str) -> Site {
    let site = Site::new(name).await;
    site.file(
        "siltstone.yaml",
        &format!(
            "warehouse: {{ url: \"${{WAREHOUSE_URL}}\" }}\nadmin: {{ listen: \"127.0.0.1:0\" }}\n\
             batch: {{ max_rows: 10 }}\npending: {{ max_bytes: {pending} }}\n"
        ),
    );
    site
}

const LETTERS: &str = "select count(*) from audit.dead_letters";

#[test]
fn a_topic_of_garbage_rests_until_its_letters_are_settled() {
    block_on(async {
        let mock = Mock::start();
        let (good, bad) = ("shop.public.good", "shop.public.bad");
        mock.create(good, 1);
        mock.create(bad, 1);
        let site = Site::new("garbage").await;
        let at = mock.address();
        let few = "dead_letters: { max_keys: 5 }\n";
        site.topics(&at, "\"shop.*\"", few);
        mock.topics().write([garbage(bad, 0..40), changes(good, 0..1)].concat()).await;
        let error = site.try_catch_up().await.unwrap_err();
        let reason =
            "the topic shop.public.bad rests, its records stay in Kafka: 5 of them cannot be read";
        assert!(error.to_string().contains(reason), "{error}");
        assert!(error.remedy_text().unwrap().contains("siltstone dead-letter replay"), "{error}");
        assert_eq!(site.at_warehouse(LETTERS).await, ["5"]);
        // the others flow, and it is no other one's
        site.topics(&at, "\"shop.*\"", few);
        mock.topics().write(changes(good, 1..3)).await;
        site.try_catch_up().await.unwrap_err();
        assert_eq!(site.at_warehouse("select count(*) from cleansed.good").await, ["3"]);
        assert_eq!(site.at_warehouse(LETTERS).await, ["5"]);
        let (code, told) = said(&site, &["status"]);
        assert!(code == Some(65) && told.contains(reason), "{told}");
        let (_, told) = said(&site, &["why", "cleansed.bad"]);
        assert!(told.contains(reason), "{told}");
        // once people have looked at them it goes on, beside the running service, to the next ones
        site.topics(&at, "\"shop.*\"", few);
        let running = site.start();
        let (code, told) = said(&site, &["dead-letter", "drop", "cleansed.bad", "--yes"]);
        assert_eq!(code, Some(0), "{told}");
        site.until("the next ones were read", "select count(*) = 10 from audit.dead_letters").await;
        let rests = "select count(*) = 1 from audit.resting";
        site.until("it rests again", rests).await;
        running.stop().await.unwrap();
        // with room for them it is read on
        site.topics(&at, "\"shop.*\"", "");
        site.catch_up().await;
        assert_eq!(site.at_warehouse(LETTERS).await, ["40"]);
        assert_eq!(site.at_warehouse("select count(*) from audit.resting").await, ["0"]);
    });
}

const PAUSE: &str =
    "update audit.tables set state = 'paused', changed_at = now() where table_name = 'cleansed.a'";
const RESUME: &str = "update audit.tables set state = 'catching_up', changed_at = now() where \
                      table_name = 'cleansed.a'";

#[test]
fn a_table_that_takes_nothing_stops_no_other_one_once_there_is_no_room() {
    block_on(async {
        let mock = Mock::start();
        let (a, b) = ("shop.public.a", "shop.public.b");
        mock.create(a, 1);
        mock.create(b, 1);
        let site = settings("no_room", "100KiB").await;
        let at = mock.address();
        site.topics(&at, "\"shop.*\"", "");
        mock.topics().write([changes(a, 0..1), changes(b, 0..1)].concat()).await;
        site.catch_up().await;
        site.warehouse.batch_execute(PAUSE).await.unwrap();
        site.topics(&at, "\"shop.*\"", "");
        let running = site.start();
        mock.topics().write(changes(a, 1..400)).await;
        site.until("its topic rests", "select topic = 'shop.public.a' from audit.resting").await;
        mock.topics().write(changes(b, 1..200)).await;
        site.until("the other one goes on", "select count(*) = 200 from cleansed.b").await;
        let kept = "select sum(bytes) between 50 * 1024 and 100 * 1024 from audit.pending";
        assert_eq!(site.at_warehouse(kept).await, ["t"]);
        let (code, told) = said(&site, &["why", "a"]);
        assert!(code == Some(64) && told.contains("siltstone why cleansed.a"), "{told}");
        let (_, told) = said(&site, &["why", "cleansed.a"]);
        assert!(told.contains("the topic shop.public.a rests"), "{told}");
        assert!(told.contains("siltstone table resume cleansed.a"), "{told}");
        let stored =
            "select position < 200 from audit.progress where partition = 'shop.public.a/0'";
        assert_eq!(site.at_warehouse(stored).await, ["t"]);
        site.warehouse.batch_execute(RESUME).await.unwrap();
        site.until("it goes on by itself", "select count(*) = 400 from cleansed.a").await;
        site.until("nothing rests", "select count(*) = 0 from audit.resting").await;
        running.stop().await.unwrap();
    });
}

/// While the changes of one partition are applied more come of another, which is before it in the order of partitions.
#[test]
fn what_comes_while_a_table_catches_up_is_not_left_behind() {
    block_on(async {
        let mock = Mock::start();
        let a = "shop.public.a";
        mock.create(a, 2);
        let site = settings("behind", "100MiB").await;
        site.topics(&mock.address(), "\"shop.*\"", "");
        let one = |id| change(a, id, "x", None).at(i32::try_from(id % 2).unwrap());
        mock.topics().write(vec![one(0), one(1)]).await;
        site.catch_up().await;
        site.topics(&mock.address(), "\"shop.*\"", "");
        let running = site.start();
        let topics = mock.topics();
        let end = Arc::new(AtomicBool::new(false));
        let ended = end.clone();
        let writer = tokio::spawn(async move {
            let mut id = 2;
            while !ended.load(Ordering::SeqCst) {
                topics.write((id..id + 20).map(one).collect()).await;
                id += 20;
            }
            id
        });
        let streams = "select state = 'streaming' from audit.tables";
        let left =
            "select state = 'streaming' and exists (select from audit.pending) from audit.tables";
        for _ in 0..5 {
            site.warehouse.batch_execute(PAUSE).await.unwrap();
            site.until("it keeps them", "select count(*) > 50 from audit.pending").await;
            site.warehouse.batch_execute(RESUME).await.unwrap();
            site.until("it streams again", streams).await;
            assert_eq!(site.at_warehouse(left).await, ["f"], "changes were left behind");
            // it is looked once a second whether somebody has paused it
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        end.store(true, Ordering::SeqCst);
        let all = format!("select count(*) = {} from cleansed.a", writer.await.unwrap());
        site.until("all is there", &all).await;
        running.stop().await.unwrap();
    });
}

#[test]
fn a_topic_that_rests_longer_than_it_is_kept_stops_no_other_one() {
    let Some(kafka) = kafka() else { return };
    block_on(async {
        let topics = kafka.topics().await;
        let (a, b) = ("outlived.public.a", "outlived.public.b");
        topics.create_with(a, 1, &[("retention.ms", "86400000")]).await;
        topics.create(b, 1).await;
        let site = settings("outlived", "100KiB").await;
        let at = topics.brokers().to_owned();
        site.topics(&at, "\"outlived.*\"", "");
        topics.write([changes(a, 0..1), changes(b, 0..1)].concat()).await;
        site.catch_up().await;
        site.warehouse.batch_execute(PAUSE).await.unwrap();
        let running = site.start();
        topics.write(changes(a, 1..400)).await;
        let told = "select kept_until between now() + interval '23 hours' and now() + interval '24 hours' \
                    from audit.resting";
        site.until("it is told how long its records are kept", told).await;
        running.stop().await.unwrap();
        topics.forget(a, 0, 300).await;
        topics.write(changes(b, 1..20)).await;
        let error = site.try_catch_up().await.unwrap_err().to_string();
        assert!(error.contains("the topic outlived.public.a rests: the stored offset"), "{error}");
        assert!(error.contains("were deleted by its retention"), "{error}");
        assert_eq!(site.at_warehouse("select count(*) from cleansed.b").await, ["20"]);
        // what is kept of it is applied, and no more of it is read before somebody says so
        site.warehouse.batch_execute(RESUME).await.unwrap();
        site.try_catch_up().await.unwrap_err();
        let few = "select count(*) between 50 and 200 from cleansed.a";
        assert_eq!(site.at_warehouse(few).await, ["t"]);
        site.topics(&at, "\"outlived.*\"", "offset_lost: earliest\n");
        site.catch_up().await;
        let rest = "select count(*) = 100 from cleansed.a where id >= 300";
        assert_eq!(site.at_warehouse(rest).await, ["t"]);
        assert_eq!(site.at_warehouse("select count(*) from audit.resting").await, ["0"]);
    });
}

/// The end of a transaction that changed one row of `public.t`.
fn end(id: &str) -> Record {
    let value: Value = json!({
        "status": "END", "id": id, "event_count": 1, "ts_ms": 1,
        "data_collections": [{ "data_collection": "public.t", "event_count": 1 }],
    });
    Record::new("shop.transaction", &json!({ "id": id }).to_string(), &value.to_string())
}

#[test]
fn transactions_say_what_they_wait_for_and_go_on_when_it_comes() {
    block_on(async {
        let mock = Mock::start();
        mock.create("shop.public.t", 1);
        mock.create("shop.transaction", 1);
        let site = Site::new("awaits").await;
        site.topics(&mock.address(), "\"shop.*\"", "atomic: true\n");
        let running = site.start();
        let topics = mock.topics();
        topics.write(vec![change("shop.public.t", 1, "a", Some("7:1002"))]).await;
        let waits = |what: &str| {
            format!("select reason like '%{what}%' and state = 'waiting' from audit.standing")
        };
        site.until("it says so", &waits("of which none has ever come")).await;
        let (code, told) = said(&site, &["status"]);
        assert!(code == Some(75) && told.contains("provide.transaction.metadata"), "{told}");
        assert_eq!(site.at_warehouse("select to_regclass('cleansed.t') is null").await, ["t"]);
        topics.write(vec![end("7:1002")]).await;
        site.until("it goes on", "select count(*) = 1 from cleansed.t").await;
        let none = "select count(*) = 0 from audit.standing";
        site.until("nothing is waited for", none).await;
        // an end whose event has not come
        topics.write(vec![end("8:1005")]).await;
        site.until("it says so", &waits("1 of the 1 events of transaction 8:1005")).await;
        topics.write(vec![change("shop.public.t", 4, "b", Some("8:1005"))]).await;
        site.until("it goes on", "select count(*) = 2 from cleansed.t").await;
        site.until("nothing is waited for", none).await;
        running.stop().await.unwrap();
    });
}
