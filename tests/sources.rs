//! Two sources that would become one: source tables of one name, of other schemas or servers; and a topic of
//! which nothing can be read.

use serde_json::json;

use crate::support::{Mock, Record, Site, block_on};

/// Each run is a group of its own: the mock keeps members that left for a while.
fn connect(site: &Site, mock: &Mock, run: u32, more: &str) {
    site.file(
        "connectors/shop.yaml",
        &format!(
            "name: {}\nkind: kafka\nsource: shop\nbrokers: {}\ngroup: {}-{run}\ntopics: [\"*.*.*\"]\n\
             target_schema: cleansed\nproperties: {{ broker.address.family: v4 }}\n{more}",
            site.name,
            mock.address(),
            site.name,
        ),
    );
}

/// A row's change as Debezium writes it into the topic of its table.
fn change(topic: &str, id: i64, v: &str, lsn: u32) -> Record {
    let mut parts = topic.split('.');
    let mut part = || parts.next().unwrap();
    let (name, schema, table) = (part(), part(), part());
    let id_field = json!({ "type": "int64", "optional": false, "field": "id" });
    let row = json!({ "type": "struct", "field": "after", "optional": true, "fields": [
        id_field, { "type": "string", "optional": true, "field": "v" },
    ]});
    let value = json!({
        "schema": { "type": "struct", "fields": [row] },
        "payload": {
            "op": "c", "before": null, "after": { "id": id, "v": v }, "ts_ms": 1,
            "source": {
                "connector": "postgresql", "name": name, "db": "app", "schema": schema, "table": table,
                "txId": 7, "lsn": lsn, "sequence": format!("[\"{}\",\"{lsn}\"]", lsn - 5),
                "ts_ms": 1_700_000_000_000_i64 + i64::from(lsn),
            },
        },
    });
    let key = json!({
        "schema": { "type": "struct", "fields": [id_field] }, "payload": { "id": id },
    });
    Record::new(topic, &key.to_string(), &value.to_string())
}

async fn rows(site: &Site, table: &str) -> String {
    let query =
        format!("select coalesce(string_agg(id || v, ' ' order by id), '') from cleansed.{table}");
    site.at_warehouse(&query).await.remove(0)
}

async fn letters(site: &Site) -> Vec<String> {
    site.at_warehouse("select table_name || ': ' || reason from audit.dead_letters order by id")
        .await
}

#[test]
fn two_schemas_never_become_one_table() {
    block_on(async {
        let mock = Mock::start();
        let (first, second) = ("shop.public.users", "shop.sales.users");
        mock.create(first, 1);
        mock.create(second, 1);
        let site = Site::new("two_schemas").await;
        connect(&site, &mock, 1, "");
        mock.topics().write(vec![change(first, 1, "a", 100)]).await;
        site.catch_up().await;
        connect(&site, &mock, 2, "");
        mock.topics().write(vec![change(second, 1, "x", 200), change(second, 2, "y", 210)]).await;
        site.catch_up().await;
        assert_eq!(rows(&site, "users").await, "1a");
        let told = letters(&site).await;
        assert_eq!(told.len(), 2, "{told:?}");
        let why = "sales.users: sales.users would be mirrored as cleansed.users, which is fed by public.users";
        assert!(told[0].contains(why), "{told:?}");
        // the first one flows on, its key waits for nothing
        connect(&site, &mock, 3, "");
        mock.topics().write(vec![change(second, 3, "z", 300), change(first, 1, "b", 310)]).await;
        site.catch_up().await;
        assert_eq!(rows(&site, "users").await, "1b");
        assert_eq!(letters(&site).await.len(), 3);
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
        connect(&site, &mock, 1, "");
        mock.topics().write(vec![change(first, 1, "a", 100)]).await;
        site.catch_up().await;
        connect(&site, &mock, 2, "");
        mock.topics().write(vec![change(second, 1, "x", 200)]).await;
        site.catch_up().await;
        connect(&site, &mock, 3, "");
        mock.topics().write(vec![change(first, 1, "b", 310), change(second, 2, "y", 320)]).await;
        site.catch_up().await;
        assert_eq!(rows(&site, "t").await, "1b");
        let told = letters(&site).await;
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("of the source other/app, and cleansed.t is fed by"), "{told:?}");
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
        site.file(
            "schemas/users.yaml",
            "table: cleansed.users\nfrom: shop.public.users\nkey: [id]\ncolumns:\n  id: { type: bigint }\n  \
             v: { type: text }\n",
        );
        connect(&site, &mock, 1, "");
        mock.topics().write(vec![change(other, 1, "x", 200)]).await;
        site.catch_up().await;
        connect(&site, &mock, 2, "");
        mock.topics().write(vec![change(own, 1, "a", 100)]).await;
        site.catch_up().await;
        assert_eq!(rows(&site, "users").await, "1a");
        assert_eq!(letters(&site).await.len(), 1);
    });
}

#[test]
fn a_topic_of_garbage_rests() {
    block_on(async {
        let mock = Mock::start();
        let (good, bad) = ("shop.public.good", "shop.public.bad");
        mock.create(good, 1);
        mock.create(bad, 1);
        let site = Site::new("garbage").await;
        connect(&site, &mock, 1, "dead_letters: { max_keys: 5 }\n");
        let mut records: Vec<Record> =
            (0..40).map(|n| Record::new(bad, &n.to_string(), "no event")).collect();
        records.push(change(good, 1, "a", 100));
        mock.topics().write(records).await;
        let said = site.try_catch_up().await.unwrap_err();
        let remedy = said.remedy_text().unwrap_or_default();
        assert!(
            said.to_string().contains("5 records of the topic shop.public.bad cannot be read"),
            "{said}"
        );
        assert!(remedy.contains("siltstone dead-letter replay"), "{remedy}");
        assert_eq!(letters(&site).await.len(), 5);
        // the others flow
        connect(&site, &mock, 2, "dead_letters: { max_keys: 5 }\n");
        mock.topics().write(vec![change(good, 2, "b", 200)]).await;
        site.try_catch_up().await.unwrap_err();
        assert_eq!(rows(&site, "good").await, "1a 2b");
        assert_eq!(letters(&site).await.len(), 5);
        // with room for them, it is read on
        connect(&site, &mock, 3, "");
        site.catch_up().await;
        assert_eq!(letters(&site).await.len(), 40);
    });
}

#[test]
fn latest_is_decided_once_for_all_partitions() {
    block_on(async {
        let mock = Mock::start();
        let topic = "shop.public.t";
        mock.create(topic, 3);
        let site = Site::new("latest").await;
        let latest = "start: latest\n";
        connect(&site, &mock, 1, latest);
        mock.topics().write((0..3).map(|p| change(topic, 1, "a", 100).at(p)).collect()).await;
        site.catch_up().await;
        let stored =
            "select string_agg(position::text, ' ' order by partition) from audit.progress";
        assert_eq!(site.at_warehouse(stored).await, ["1 1 1"]);
        connect(&site, &mock, 2, latest);
        mock.topics().write(vec![change(topic, 2, "b", 200).at(1)]).await;
        site.catch_up().await;
        assert_eq!(rows(&site, "t").await, "2b");
        // as if a partition had been added since
        let forgotten = "with gone as (delete from audit.progress where partition like '%/2' returning 1) \
                         select count(*)::text from gone";
        assert_eq!(site.at_warehouse(forgotten).await, ["1"]);
        connect(&site, &mock, 3, latest);
        site.catch_up().await;
        assert_eq!(rows(&site, "t").await, "1a 2b");
    });
}
