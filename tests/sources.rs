//! Two sources that would become one: source tables of one name, of other schemas or servers. And what is read of
//! topics: with `start: latest`, and up to an end that is no record.

use serde_json::json;
use siltstone::error::Kind;
use siltstone::names::TableName;
use siltstone::progress::feeds::{self, Feeder};
use siltstone::progress::tables;

use crate::support::{Mock, Record, Site, block_on, kafka};

async fn run(site: &Site, mock: &Mock, records: Vec<Record>) {
    mock.topics().write(records).await;
    site.topics(&mock.address(), "\"*.*.*\"", "");
    site.catch_up().await;
}

fn key(id: i64) -> String {
    json!({
        "schema": { "type": "struct", "fields": [{ "type": "int64", "optional": false, "field": "id" }] },
        "payload": { "id": id },
    })
    .to_string()
}

/// A row's change as Debezium writes it into the topic of its table; the source is called as its topic begins.
fn change(topic: &str, id: i64, v: &str, lsn: u32) -> Record {
    let source = topic.split('.').next().unwrap();
    change_of(source, topic, (id, v), lsn)
}

fn change_of(source: &str, topic: &str, (id, v): (i64, &str), lsn: u32) -> Record {
    let parts: Vec<&str> = topic.split('.').collect();
    let value = json!({
        "schema": { "type": "struct", "fields": [{
            "type": "struct", "field": "after", "optional": true, "fields": [
                { "type": "int64", "optional": false, "field": "id" },
                { "type": "string", "optional": true, "field": "v" },
            ],
        }]},
        "payload": {
            "op": "c", "before": null, "after": { "id": id, "v": v }, "ts_ms": 1,
            "source": {
                "connector": "postgresql", "name": source, "db": "app", "schema": parts[1],
                "table": parts[2], "txId": 7, "lsn": lsn,
                "sequence": format!("[\"{}\",\"{lsn}\"]", lsn - 5),
                "ts_ms": 1_700_000_000_000_i64 + i64::from(lsn),
            },
        },
    });
    Record::new(topic, &key(id), &value.to_string())
}

async fn rows(site: &Site, table: &str) -> String {
    let query =
        format!("select coalesce(string_agg(id || v, ' ' order by id), '') from cleansed.{table}");
    site.at_warehouse(&query).await.remove(0)
}

/// The open dead letters: under which name, and why.
async fn letters(site: &Site) -> Vec<String> {
    let query = "select table_name || ': ' || reason from audit.dead_letters where state = 'open' order by id";
    site.at_warehouse(query).await
}

fn replay(site: &Site, name: &str) {
    let asked = site.command(&["dead-letter", "replay", name]).output().unwrap();
    assert!(asked.status.success(), "{asked:?}");
}

#[test]
fn two_schemas_never_become_one_table() {
    block_on(async {
        let mock = Mock::start();
        let (first, second) = ("shop.public.users", "shop.sales.users");
        mock.create(first, 1);
        mock.create(second, 1);
        let site = Site::new("two_schemas").await;
        run(&site, &mock, vec![change(first, 1, "a", 100)]).await;
        let garbage = Record::new(second, &key(1), "no event");
        // nothing can be read of it, and yet it is not the first one's
        run(&site, &mock, vec![garbage]).await;
        run(&site, &mock, vec![change(second, 1, "x", 200), change(second, 2, "y", 210)]).await;
        assert_eq!(rows(&site, "users").await, "1a");
        let told = letters(&site).await;
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told.iter().all(|letter| letter.starts_with("sales.users: ")), "{told:?}");
        let why =
            "sales.users: sales.users: public.users and it would both become cleansed.users\n";
        assert!(told[1].starts_with(why), "{told:?}");
        let left_out =
            "select table_name || ' ' || source_table || ' ' || reason from audit.left_out";
        let left = "sales.users sales.users public.users and it would both become cleansed.users";
        assert_eq!(site.at_warehouse(left_out).await, [left]);
        // the first one flows on, its key waits for nothing
        run(&site, &mock, vec![change(first, 1, "b", 310)]).await;
        assert_eq!(rows(&site, "users").await, "1b");
        // and what is left out is told as long as there is something of it
        assert_eq!(site.at_warehouse(left_out).await, [left]);
        site.file(
            "schemas/sales_users.yaml",
            "table: cleansed.sales_users\nfrom: shop.sales.users\nkey: [id]\ncolumns:\n  id: { type: bigint }\n  \
             v: { type: text }\n",
        );
        replay(&site, "sales.users");
        run(&site, &mock, vec![change(second, 3, "z", 400)]).await;
        assert_eq!(rows(&site, "sales_users").await, "1x 2y 3z");
        assert_eq!(rows(&site, "users").await, "1b");
        let told = letters(&site).await;
        assert!(told.len() == 1 && told[0].contains("no JSON"), "{told:?}");
    });
}

#[test]
fn two_servers_never_become_one_table() {
    block_on(async {
        let mock = Mock::start();
        let (first, second) = ("shop.public.t", "other.public.t");
        mock.create(first, 1);
        mock.create(second, 1);
        let site = Site::new("two_servers").await;
        run(&site, &mock, vec![change(first, 1, "a", 100)]).await;
        run(&site, &mock, vec![Record::new(second, &key(1), "no event")]).await;
        let more = vec![change(second, 1, "x", 200), change(second, 2, "y", 320)];
        run(&site, &mock, more).await;
        run(&site, &mock, vec![change(first, 1, "b", 310)]).await;
        assert_eq!(rows(&site, "t").await, "1b");
        let told = letters(&site).await;
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told.iter().all(|letter| letter.starts_with("other.public.t: ")), "{told:?}");
        let why = "public.t of shop/app (topic shop.public.t) and it would both become cleansed.t";
        assert!(told[1].contains(why), "{told:?}");
        // the source has another name: what it had before is not read any more
        site.topics(&mock.address(), "other.public.t", "");
        replay(&site, "other.public.t");
        site.catch_up().await;
        assert_eq!(rows(&site, "t").await, "1b 2y");
        assert_eq!(letters(&site).await.len(), 1);
        let fed = "select source_topic || ' ' || source_name from audit.tables";
        assert_eq!(site.at_warehouse(fed).await, ["other.public.t other/app"]);
        // and now it is the first one that is the second
        run(&site, &mock, vec![change(first, 3, "c", 500)]).await;
        assert_eq!(rows(&site, "t").await, "1b 2y");
        assert!(letters(&site).await[1].starts_with("shop.public.t: "));
    });
}

#[test]
fn a_source_whose_former_topic_is_gone_was_renamed() {
    let Some(kafka) = kafka() else { return };
    block_on(async {
        let topics = kafka.topics().await;
        let (was, is) = ("before.public.renamed", "behind.public.renamed");
        let site = Site::new("renamed").await;
        site.file(
            "connectors/shop.yaml",
            &format!(
                "name: {0}\nkind: kafka\nsource: shop\nbrokers: {1}\ngroup: {0}\n\
                 topics: [\"*.public.renamed\"]\ntarget_schema: cleansed\n\
                 properties: {{ broker.address.family: v4, topic.metadata.refresh.interval.ms: 500 }}\n",
                site.name,
                topics.brokers(),
            ),
        );
        topics.create(was, 1).await;
        topics.put(change(was, 1, "a", 100)).await;
        site.catch_up().await;
        topics.create(is, 1).await;
        topics.put(change(is, 2, "b", 200)).await;
        site.catch_up().await;
        assert_eq!(rows(&site, "renamed").await, "1a");
        assert_eq!(letters(&site).await.len(), 1);
        topics.delete(was).await;
        replay(&site, is);
        topics.put(change(is, 3, "c", 300)).await;
        site.catch_up().await;
        assert_eq!(rows(&site, "renamed").await, "1a 2b 3c");
        assert_eq!(letters(&site).await, [""; 0]);
    });
}

#[test]
fn one_source_may_come_by_two_topics_and_under_two_names() {
    block_on(async {
        let mock = Mock::start();
        let (first, moved) = ("shop.public.t", "moved.public.t");
        mock.create(first, 1);
        mock.create(moved, 1);
        let site = Site::new("one_source").await;
        run(&site, &mock, vec![change(first, 1, "a", 100)]).await;
        let renamed = change_of("renamed", first, (2, "b"), 200);
        run(&site, &mock, vec![change_of("shop", moved, (3, "c"), 210), renamed]).await;
        assert_eq!(rows(&site, "t").await, "1a 2b 3c");
        assert_eq!(letters(&site).await, [""; 0]);
    });
}

#[test]
fn a_declared_table_is_no_mirror_of_another() {
    block_on(async {
        let mock = Mock::start();
        let (own, other) = ("shop.public.users", "shop.sales.users");
        mock.create(own, 1);
        mock.create(other, 1);
        let site = Site::new("declared_mirror").await;
        let declare = |from: &str| {
            let text = format!(
                "table: cleansed.users\nfrom: shop.{from}\nkey: [id]\ncolumns:\n  id: {{ type: bigint }}\n  \
                 v: {{ type: text }}\n"
            );
            site.file("schemas/users.yaml", &text);
        };
        declare("public.users");
        run(&site, &mock, vec![change(other, 1, "x", 200)]).await;
        run(&site, &mock, vec![change(own, 1, "a", 100)]).await;
        assert_eq!(rows(&site, "users").await, "1a");
        let told = letters(&site).await;
        assert!(told.len() == 1 && told[0].starts_with("sales.users: "), "{told:?}");
        // the file has the last word: the table was moved into another schema
        declare("sales.users");
        replay(&site, "sales.users");
        run(&site, &mock, vec![change(other, 2, "y", 300)]).await;
        assert_eq!(rows(&site, "users").await, "1x 2y");
        let fed = "select source_table || ' ' || (schema_id is not null) from audit.tables";
        assert_eq!(site.at_warehouse(fed).await, ["sales.users true"]);
    });
}

#[test]
fn the_warehouse_holds_who_was_first() {
    block_on(async {
        let mock = Mock::start();
        mock.create("shop.public.first", 1);
        let site = Site::new("who_was_first").await;
        run(&site, &mock, vec![change("shop.public.first", 1, "a", 100)]).await;
        let (mut one, mut two) = (site.another_session().await, site.another_session().await);
        let table = TableName::new("cleansed", "users");
        let of = |source: &str| Feeder {
            table: format!("{source}.users"),
            topic: format!("shop.{source}.users"),
            source: "shop/app".to_owned(),
        };
        let (public, sales) = (of("public"), of("sales"));
        // both have seen that there is no such table
        let first = one.transaction().await.unwrap();
        let name = TableName::new("public", "users");
        tables::add(&first, &site.name, (&table, true), &name, 1).await.unwrap();
        feeds::claim(&first, &table, (&public, None)).await.unwrap();
        let second = async {
            let second = two.transaction().await.unwrap();
            let name = TableName::new("sales", "users");
            tables::add(&second, &site.name, (&table, true), &name, 1).await.unwrap();
            feeds::claim(&second, &table, (&sales, None)).await
        };
        let (refused, _) = tokio::join!(second, async { first.commit().await.unwrap() });
        assert_eq!(refused.unwrap_err().kind(), Kind::Busy);
        let known = feeds::feeders(&*one, &site.name, Some(&table)).await.unwrap();
        assert_eq!(known.values().collect::<Vec<_>>(), [&public]);
        // the same holds for what was gone when two looked
        let third = of("third");
        let transaction = one.transaction().await.unwrap();
        feeds::claim(&transaction, &table, (&third, Some(&public))).await.unwrap();
        let late = feeds::claim(&transaction, &table, (&sales, Some(&public))).await;
        assert_eq!(late.unwrap_err().kind(), Kind::Busy);
    });
}

#[test]
fn latest_is_decided_once_for_all_partitions() {
    block_on(async {
        let mock = Mock::start();
        let (topic, later) = ("shop.public.t", "shop.public.later");
        mock.create(topic, 3);
        let site = Site::new("latest").await;
        let latest = "start: latest\n";
        site.topics(&mock.address(), "\"shop.*\"", latest);
        mock.topics().write((0..3).map(|p| change(topic, 1, "a", 100).at(p)).collect()).await;
        site.catch_up().await;
        let stored =
            "select string_agg(position::text, ' ' order by partition) from audit.progress";
        assert_eq!(site.at_warehouse(stored).await, ["1 1 1"]);
        site.topics(&mock.address(), "\"shop.*\"", latest);
        mock.topics().write(vec![change(topic, 2, "b", 200).at(1)]).await;
        site.catch_up().await;
        assert_eq!(rows(&site, "t").await, "2b");
        // a topic that comes is read from its beginning
        mock.create(later, 1);
        mock.topics().write(vec![change(later, 7, "c", 300)]).await;
        // and as if a partition had been added since
        let forgotten = "with gone as (delete from audit.progress where partition like '%/2' returning 1) \
                         select count(*)::text from gone";
        assert_eq!(site.at_warehouse(forgotten).await, ["1"]);
        site.topics(&mock.address(), "\"shop.*\"", latest);
        site.catch_up().await;
        assert_eq!(rows(&site, "t").await, "1a 2b");
        assert_eq!(rows(&site, "later").await, "7c");
    });
}

/// Behind each transaction of a producer stands a marker of Kafka's own, which nobody is given.
#[test]
fn all_is_read_where_a_transaction_is_the_last() {
    let Some(kafka) = kafka() else { return };
    block_on(async {
        let topics = kafka.topics().await;
        let topic = "marked.public.things";
        topics.create(topic, 1).await;
        let site = Site::new("marked").await;
        site.topics(topics.brokers(), &format!("\"{topic}\""), "");
        let stored =
            "select position from audit.progress where partition = 'marked.public.things/0'";
        topics.transact("marked", vec![change(topic, 1, "a", 100)], true).await;
        site.catch_up().await;
        assert_eq!(site.at_warehouse(stored).await, ["2"]);
        topics.transact("marked", vec![change(topic, 1, "b", 200)], false).await;
        topics.transact("marked", vec![change(topic, 2, "c", 300)], true).await;
        site.catch_up().await;
        assert_eq!(rows(&site, "things").await, "1a 2c");
        assert_eq!(site.at_warehouse(stored).await, ["6"]);
        // and what comes behind the markers is the next
        topics.put(change(topic, 2, "d", 400)).await;
        site.catch_up().await;
        assert_eq!(rows(&site, "things").await, "1a 2d");
    });
}
