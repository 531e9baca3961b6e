//! Offsets and topics that lose each other: each is noticed, and handled as the files say, never by a silent
//! reset. What topics come to have while they are read, and what comes behind the emptying of a table.

use serde_json::json;

use crate::support::{Record, Site, block_on, kafka};

/// A change of the row `id`, as Debezium sends it without a schema.
fn change(topic: &str, id: i64, v: &str) -> Record {
    let value = json!({
        "op": "c", "before": null, "after": {"id": id, "v": v}, "ts_ms": 1,
        "source": {
            "connector": "postgresql", "schema": "public", "table": topic.rsplit('.').next().unwrap(),
            "lsn": 1_000 + id, "sequence": format!("[\"{}\",\"{}\"]", 1_000 + id, 1_000 + id),
            "ts_ms": 1, "txId": 7,
        },
    });
    Record::new(topic, &json!({ "id": id }).to_string(), &value.to_string())
}

fn changes(topic: &str, ids: std::ops::Range<i64>) -> Vec<Record> {
    ids.map(|id| change(topic, id, "x")).collect()
}

async fn site(name: &str, brokers: &str, topic: &str, more: &str) -> Site {
    let site = Site::new(name).await;
    site.remove("connectors/shop.yaml");
    for table in ["a", "b"] {
        site.file(
            &format!("schemas/{table}.yaml"),
            &format!(
                "table: cleansed.{table}\nfrom: shop.public.{table}\nkey: [id]\n\
                 columns:\n  id: {{ type: bigint }}\n  v: {{ type: text }}\n"
            ),
        );
    }
    connector(&site, brokers, topic, more);
    site
}

fn connector(site: &Site, brokers: &str, topic: &str, more: &str) {
    site.file(
        "connectors/shop.yaml",
        &format!(
            "name: {0}\nkind: kafka\nsource: shop\nbrokers: {brokers}\ngroup: {0}\ntopics: [\"{topic}\"]\n\
             properties: {{ broker.address.family: v4, topic.metadata.refresh.interval.ms: 500, \
             session.timeout.ms: 6000 }}\n{more}",
            site.name
        ),
    );
}

async fn ids(site: &Site, table: &str) -> String {
    let query =
        format!("select coalesce(string_agg(id::text, ' ' order by id), '') from cleansed.{table}");
    site.at_warehouse(&query).await.remove(0)
}

#[test]
fn records_that_retention_took_are_missed() {
    let Some(kafka) = kafka() else { return };
    block_on(async {
        let topics = kafka.topics().await;
        let topic = "retention.public.a";
        topics.create(topic, 1).await;
        let site = site("retention", topics.brokers(), "retention.*", "").await;
        topics.write(changes(topic, 0..5)).await;
        site.catch_up().await;
        topics.write(changes(topic, 5..15)).await;
        topics.forget(topic, 0, 10).await;
        for _ in 0..2 {
            let error = site.try_catch_up().await.unwrap_err().to_string();
            assert!(error.contains("the stored offset 5 of retention.public.a/0"), "{error}");
            assert!(error.contains("5 records were deleted by its retention"), "{error}");
        }
        assert_eq!(ids(&site, "a").await, "0 1 2 3 4");
        connector(&site, topics.brokers(), "retention.*", "offset_lost: earliest\n");
        site.catch_up().await;
        assert_eq!(ids(&site, "a").await, "0 1 2 3 4 10 11 12 13 14");
        // what is told is not told again
        connector(&site, topics.brokers(), "retention.*", "");
        site.catch_up().await;
    });
}

#[test]
fn a_topic_that_was_made_again_is_another_one() {
    let Some(kafka) = kafka() else { return };
    block_on(async {
        let topics = kafka.topics().await;
        let topic = "again.public.a";
        topics.create(topic, 1).await;
        let site = site("again", topics.brokers(), "again.*", "").await;
        topics.write(changes(topic, 0..3)).await;
        site.catch_up().await;
        // shorter than it was: the offset is behind its end
        topics.delete(topic).await;
        topics.create(topic, 1).await;
        topics.write(changes(topic, 10..11)).await;
        let error = site.try_catch_up().await.unwrap_err().to_string();
        assert!(error.contains("was deleted and made again"), "{error}");
        // longer than it was: nothing but its id tells
        topics.write(changes(topic, 11..20)).await;
        let error = site.try_catch_up().await.unwrap_err().to_string();
        assert!(error.contains("was deleted and made again (its id was"), "{error}");
        assert_eq!(ids(&site, "a").await, "0 1 2");
        connector(&site, topics.brokers(), "again.*", "offset_lost: earliest\n");
        site.catch_up().await;
        assert_eq!(ids(&site, "a").await, "0 1 2 10 11 12 13 14 15 16 17 18 19");
        connector(&site, topics.brokers(), "again.*", "");
        site.catch_up().await;
    });
}

#[test]
fn what_comes_behind_an_emptying_stays_gone() {
    let Some(kafka) = kafka() else { return };
    block_on(async {
        let topics = kafka.topics().await;
        let topic = "emptied.public.a";
        topics.create(topic, 2).await;
        let site = site("emptied", topics.brokers(), "emptied.*", "").await;
        let versions = "table: cleansed.a_versions\nfrom: shop.public.a\nhistory: versions\nkey: [id]\n\
             columns:\n  id: { type: bigint }\n  v: { type: text }\n";
        site.file("schemas/a_versions.yaml", versions);
        topics.write((0..4).map(|id| change(topic, id, "x").at(0)).collect()).await;
        let emptied = json!({
            "op": "t", "before": null, "after": null, "ts_ms": 1,
            "source": {
                "connector": "postgresql", "schema": "public", "table": "a", "lsn": 1_500,
                "sequence": "[\"1490\",\"1500\"]", "ts_ms": 1, "txId": 8,
            },
        });
        let emptied = Record {
            topic: topic.to_owned(),
            value: Some(emptied.to_string().into()),
            ..Record::default()
        };
        topics.write(vec![emptied.at(0), change(topic, 600, "behind").at(0)]).await;
        site.catch_up().await;
        assert_eq!(ids(&site, "a").await, "600");
        // the other partition is late, and a new process knows of the emptying
        topics.write((4..8).map(|id| change(topic, id, "late").at(1)).collect()).await;
        site.catch_up().await;
        assert_eq!(ids(&site, "a").await, "600");
        let current =
            "select string_agg(id::text, ' ') from cleansed.a_versions where valid_to > now()";
        assert_eq!(site.at_warehouse(current).await, ["600"]);
        let all = "select count(*) from cleansed.a_versions";
        assert_eq!(site.at_warehouse(all).await, ["9"]);
    });
}

#[test]
fn partitions_and_topics_that_come_are_read_from_their_beginning() {
    let Some(kafka) = kafka() else { return };
    block_on(async {
        let topics = kafka.topics().await;
        let topic = "grows.public.a";
        topics.create(topic, 1).await;
        let site = site("grows", topics.brokers(), "grows.*", "start: earliest\n").await;
        topics.write(changes(topic, 0..3)).await;
        let running = site.start();
        site.until("the first are read", "select count(*) = 3 from cleansed.a").await;
        topics.grow(topic, 3).await;
        let spread = |id: i64| change(topic, id, "y").at(i32::try_from(id % 3).unwrap());
        topics.write((3..30).map(spread).collect()).await;
        site.until("new partitions are read", "select count(*) = 30 from cleansed.a").await;
        topics.create("grows.public.b", 2).await;
        topics.write(changes("grows.public.b", 0..10)).await;
        site.until("a new topic is read", "select count(*) = 10 from cleansed.b").await;
        running.stop().await.unwrap();
        let places =
            "select count(*) from audit.progress where connector = 'grows' || substr(connector, 6)";
        assert_eq!(site.at_warehouse(places).await, ["5"]);
    });
}

#[test]
fn latest_is_what_was_there_at_the_first_start() {
    let Some(kafka) = kafka() else { return };
    block_on(async {
        let topics = kafka.topics().await;
        let (topic, later) = ("newest.public.a", "newest.public.b");
        topics.create(topic, 2).await;
        let site = site("newest", topics.brokers(), "newest.*", "start: latest\n").await;
        topics.write((0..4).map(|id| change(topic, id, "x").at(0)).collect()).await;
        site.catch_up().await;
        let stored =
            "select string_agg(position::text, ' ' order by partition) from audit.progress";
        assert_eq!(site.at_warehouse(stored).await, ["4 0"]);
        topics.grow(topic, 3).await;
        topics.create(later, 1).await;
        topics.write((4..10).map(|id| change(topic, id, "y").at(2)).collect()).await;
        topics.write((0..3).map(|id| change(later, id, "z").at(0)).collect()).await;
        site.catch_up().await;
        assert_eq!(ids(&site, "a").await, "4 5 6 7 8 9");
        assert_eq!(ids(&site, "b").await, "0 1 2");
    });
}
