//! Flattened records (ExtractNewRecordState): deletes in each way in which they are told, and the records beside
//! the rows, which were no envelopes and so come as they are.

use serde_json::{Value, json};

use crate::support::{Mock, Record, Site, block_on};

const TOPIC: &str = "shop.public.t";

/// Each run is a group of its own: the mock keeps members that left for a while.
fn connect(site: &Site, mock: &Mock, run: u32) {
    site.file(
        "connectors/shop.yaml",
        &format!(
            "name: {}\nkind: kafka\nsource: shop\nbrokers: {}\ngroup: {}-{run}\ntopics: [\"shop.*\"]\n\
             format: flat-json\ntarget_schema: cleansed\nproperties: {{ broker.address.family: v4 }}\n",
            site.name,
            mock.address(),
            site.name,
        ),
    );
}

fn key(id: i64) -> String {
    json!({
        "schema": { "type": "struct", "fields": [{ "type": "int64", "optional": false, "field": "id" }] },
        "payload": { "id": id },
    })
    .to_string()
}

/// A row with what was added to it.
fn row(id: i64, v: &str, beside: Value) -> Record {
    let mut payload = json!({ "id": id, "v": v });
    let mut fields = vec![
        json!({ "type": "int64", "optional": false, "field": "id" }),
        json!({ "type": "string", "optional": true, "field": "v" }),
    ];
    for (name, value) in beside.as_object().unwrap() {
        let ty = if value.is_string() { "string" } else { "int64" };
        fields.push(json!({ "type": ty, "optional": true, "field": name }));
        payload[name] = value.clone();
    }
    let value = json!({ "schema": { "type": "struct", "fields": fields }, "payload": payload });
    Record::new(TOPIC, &key(id), &value.to_string())
}

/// A change with its order: the end of the commit before, and its own place.
fn change(id: i64, v: &str, (before, lsn): (u32, u32), op: &str) -> Record {
    let beside = json!({
        "__op": op, "__deleted": if op == "d" { "true" } else { "false" },
        "__lsn": lsn, "__sequence": format!("[\"{before}\",\"{lsn}\"]"),
        "__source_ts_ms": 1_700_000_000_000_i64 + i64::from(lsn),
    });
    row(id, v, beside)
}

fn tombstone(id: i64) -> Record {
    Record { value: None, ..Record::new(TOPIC, &key(id), "") }
}

async fn rows(site: &Site, table: &str) -> String {
    let query =
        format!("select coalesce(string_agg(id || v, ' ' order by id), '') from cleansed.{table}");
    site.at_warehouse(&query).await.remove(0)
}

async fn start(name: &str) -> (Mock, Site) {
    let mock = Mock::start();
    mock.create(TOPIC, 1);
    let site = Site::new(name).await;
    for (table, more) in [("t", ""), ("t_versions", "history: versions\n")] {
        let text = format!(
            "table: cleansed.{table}\nfrom: public.t\nkey: [id]\n{more}columns:\n  id: {{ type: bigint }}\n  \
             v: {{ type: text }}\n"
        );
        let text = text.replace("from: public", "from: shop.public");
        site.file(&format!("schemas/{table}.yaml"), &text);
    }
    (mock, site)
}

async fn catch_up(site: &Site, mock: &Mock, run: u32, records: Vec<Record>) {
    connect(site, mock, run);
    mock.topics().write(records).await;
    site.catch_up().await;
}

async fn assert_rows(site: &Site, expected: &str) {
    assert_eq!(rows(site, "t").await, expected);
    assert_eq!(rows(site, "t_versions_current").await, expected);
    let letters = site.at_warehouse("select reason from audit.dead_letters").await;
    assert_eq!(letters, [""; 0]);
}

#[test]
fn a_tombstone_behind_a_delete_says_nothing_more() {
    block_on(async {
        let (mock, site) = start("flat_rewrite").await;
        let all = vec![
            change(1, "a", (100, 110), "c"),
            change(2, "a", (200, 210), "c"),
            change(1, "b", (300, 310), "u"),
            change(1, "", (400, 410), "d"),
            tombstone(1),
            change(1, "c", (500, 510), "c"),
        ];
        catch_up(&site, &mock, 1, all.clone()).await;
        assert_rows(&site, "1c 2a").await;
        // Debezium sends again what it had sent before it was killed; and goes on elsewhere
        let again = [all[3].clone(), all[4].clone()];
        catch_up(&site, &mock, 2, again.to_vec()).await;
        assert_rows(&site, "1c 2a").await;
        // the tombstone comes behind a restart
        catch_up(&site, &mock, 3, vec![change(2, "", (600, 610), "d")]).await;
        catch_up(&site, &mock, 4, vec![tombstone(2), change(2, "z", (700, 710), "c")]).await;
        assert_rows(&site, "1c 2z").await;
        let versions =
            site.at_warehouse("select v from cleansed.t_versions order by id, _seq").await;
        assert_eq!(versions, ["a", "b", "c", "a", "z"]);
    });
}

#[test]
fn a_tombstone_alone_is_the_delete() {
    block_on(async {
        let (mock, site) = start("flat_tombstones").await;
        let told = [
            // nothing is there yet
            tombstone(7),
            change(1, "a", (100, 110), "c"),
            change(2, "a", (200, 210), "c"),
            tombstone(1),
            change(3, "a", (300, 310), "c"),
        ];
        catch_up(&site, &mock, 1, told.to_vec()).await;
        assert_rows(&site, "2a 3a").await;
        // behind a restart, as the first record
        catch_up(&site, &mock, 2, vec![tombstone(2)]).await;
        assert_rows(&site, "3a").await;
        // it comes again, with what followed it
        let again = vec![told[1].clone(), told[2].clone(), told[3].clone(), told[4].clone()];
        catch_up(&site, &mock, 3, [again, vec![tombstone(2)]].concat()).await;
        assert_rows(&site, "3a").await;
        // deleted and made again in one transaction
        let once_more =
            vec![change(3, "b", (400, 410), "u"), tombstone(3), change(3, "c", (400, 450), "c")];
        catch_up(&site, &mock, 4, once_more).await;
        assert_rows(&site, "3c").await;
    });
}

#[test]
fn rows_without_an_order_of_their_own_go_by_the_topic() {
    block_on(async {
        let (mock, site) = start("flat_untold").await;
        let bare = |id, v| row(id, v, json!({}));
        catch_up(&site, &mock, 1, vec![bare(1, "a"), bare(2, "a"), tombstone(1)]).await;
        assert_rows(&site, "2a").await;
        catch_up(&site, &mock, 2, vec![tombstone(2), bare(1, "b"), bare(1, "c")]).await;
        assert_rows(&site, "1c").await;
        // `__deleted` alone tells a delete
        catch_up(&site, &mock, 3, vec![row(1, "", json!({ "__deleted": "true" })), bare(4, "d")])
            .await;
        assert_rows(&site, "4d").await;
    });
}

#[test]
fn what_is_no_row_makes_no_table_and_no_dead_letter() {
    block_on(async {
        let (mock, site) = start("flat_beside").await;
        for topic in ["shop.transaction", "shop.heartbeat", "shop", "shop.message", "shop.none.x"] {
            mock.create(topic, 1);
        }
        let with_schema = |payload: Value| {
            let names = payload.as_object().unwrap().keys();
            let fields: Vec<Value> = names
                .map(|name| json!({ "type": "string", "optional": true, "field": name }))
                .collect();
            json!({ "schema": { "type": "struct", "fields": fields }, "payload": payload })
                .to_string()
        };
        let end = json!({ "status": "END", "id": "7:20", "event_count": 1, "data_collections": [], "ts_ms": 1 });
        let ddl = json!({ "source": {}, "ts_ms": 1, "databaseName": "s", "ddl": "x", "tableChanges": [] });
        let message = json!({ "op": "m", "ts_ms": 1, "source": {}, "message": { "prefix": "p" } });
        let records = vec![
            Record::new("shop.transaction", "{\"id\":\"7:20\"}", &with_schema(end)),
            Record::new("shop.heartbeat", "{\"serverName\":\"shop\"}", "{\"ts_ms\":1}"),
            Record::new("shop", "{\"databaseName\":\"s\"}", &with_schema(ddl)),
            Record::new("shop.message", "{\"prefix\":\"p\"}", &with_schema(message)),
            // of a table that nobody knows
            Record { value: None, ..Record::new("shop.none.x", &key(1), "") },
            change(1, "a", (100, 110), "c"),
        ];
        catch_up(&site, &mock, 1, records).await;
        assert_rows(&site, "1a").await;
        let tables = "select table_name from audit.tables order by 1";
        assert_eq!(site.at_warehouse(tables).await, ["cleansed.t", "cleansed.t_versions"]);
    });
}

#[test]
fn a_tombstone_that_is_read_again_has_the_place_that_it_had() {
    block_on(async {
        let (mock, site) = start("flat_letters").await;
        let unreadable = Record { value: None, ..Record::new(TOPIC, "{\"id\":\"x\"}", "") };
        let told = [
            change(1, "a", (100, 110), "c"),
            change(2, "a", (200, 210), "c"),
            unreadable,
            change(1, "b", (300, 310), "c"),
        ];
        catch_up(&site, &mock, 1, told.to_vec()).await;
        let letters = "select id from audit.dead_letters where state = 'open'";
        for letter in site.at_warehouse(letters).await {
            site.file("key.json", "{\"id\":1}");
            let file = site.config().with_file_name("key.json");
            let verb = ["dead-letter", "replay", &letter, "--key", file.to_str().unwrap()];
            assert!(site.command(&verb).status().unwrap().success());
        }
        catch_up(&site, &mock, 2, Vec::new()).await;
        assert_eq!(site.at_warehouse(letters).await, [""; 0]);
        assert_eq!(rows(&site, "t").await, "1b 2a");
        // the row went and came again
        let versions = "select v, _end_seq from cleansed.t_versions where id = 1 order by _seq";
        assert_eq!(site.at_warehouse(versions).await, ["a|200", "b|~"]);
    });
}

/// A record that tells the row's own place, or none.
fn placed(id: i64, v: &str, lsn: Option<u32>, op: &str) -> Record {
    let at = 1_700_000_000_000_i64 + i64::from(lsn.unwrap_or(9_000));
    row(id, v, json!({ "__op": op, "__deleted": "false", "__lsn": lsn, "__source_ts_ms": at }))
}

/// An incremental snapshot reads rows beside the stream, and tells no place of them: each is behind what came of
/// its key before, and before what comes.
#[test]
fn a_row_that_is_read_beside_the_stream_is_the_newest_until_the_next_change() {
    block_on(async {
        let (mock, site) = start("flat_incremental").await;
        let first = (1..4).map(|id| placed(id, "a", Some(100), "r"));
        let changes = vec![placed(1, "b", Some(210), "u"), placed(2, "b", Some(240), "u")];
        catch_up(&site, &mock, 1, first.chain(changes.clone()).collect()).await;
        // more of them than there are places to the next change; 1 was mended by hand, 4 was never heard of
        let read = |id, v| placed(id, v, None, "r");
        let reads = [read(1, "B"), read(2, "b"), read(3, "a"), read(4, "d")].into_iter();
        let reads = reads.chain((100..200).map(|id| read(id, "z")));
        catch_up(&site, &mock, 2, reads.collect()).await;
        // they, and what was before them, are sent again
        let again = [changes, vec![read(1, "B"), read(2, "b")]].concat();
        catch_up(&site, &mock, 3, again).await;
        catch_up(&site, &mock, 4, vec![placed(1, "c", Some(260), "u"), tombstone(2)]).await;
        let below = |table: &str| {
            format!("select id || v from cleansed.{table} where id < 100 order by id")
        };
        for table in ["t", "t_versions_current"] {
            assert_eq!(site.at_warehouse(&below(table)).await, ["1c", "3a", "4d"], "{table}");
        }
        let versions = "select id || v from cleansed.t_versions where id < 100 order by id, _seq";
        let all = ["1a", "1b", "1B", "1c", "2a", "2b", "3a", "4d"];
        assert_eq!(site.at_warehouse(versions).await, all);
        let letters = site.at_warehouse("select reason from audit.dead_letters").await;
        assert_eq!(letters, [""; 0]);
    });
}

/// Its place is where it wrote, before the rows that a snapshot read without it.
#[test]
fn a_transaction_that_was_open_as_its_rows_were_read_is_not_lost() {
    block_on(async {
        let (mock, site) = start("flat_open").await;
        let change = |id, v, lsn, at: u32| {
            let at = 1_700_000_000_000_i64 + i64::from(at);
            row(id, v, json!({ "__op": "u", "__lsn": lsn, "__source_ts_ms": at }))
        };
        let first: Vec<_> = (1..4).map(|id| placed(id, "a", Some(150), "r")).collect();
        catch_up(&site, &mock, 1, first).await;
        let open = change(1, "b", 100, 200);
        catch_up(&site, &mock, 2, vec![open.clone(), change(2, "b", 300, 300)]).await;
        assert_rows(&site, "1b 2b 3a").await;
        catch_up(&site, &mock, 3, vec![placed(3, "a", None, "r")]).await;
        catch_up(&site, &mock, 4, vec![change(3, "b", 250, 400), open]).await;
        assert_rows(&site, "1b 2b 3b").await;
        let versions = "select id || v from cleansed.t_versions order by id, _seq";
        assert_eq!(site.at_warehouse(versions).await, ["1a", "1b", "2a", "2b", "3a", "3b"]);
    });
}

/// A snapshot that is asked for later (of one table, of some of its rows) is none that was broken off.
#[test]
fn rows_that_are_read_once_more_take_no_others_out() {
    block_on(async {
        let (mock, site) = start("flat_once_more").await;
        let first = (1..5).map(|id| placed(id, "a", Some(100), "r"));
        let change = placed(5, "a", Some(300), "c");
        catch_up(&site, &mock, 1, first.chain([change]).collect()).await;
        catch_up(&site, &mock, 2, vec![placed(2, "b", Some(5_000), "r")]).await;
        assert_rows(&site, "1a 2b 3a 4a 5a").await;
    });
}

/// `decimal.format=NUMERIC` of the converter.
#[test]
fn a_decimal_may_come_as_a_number() {
    block_on(async {
        let (mock, site) = start("flat_decimal").await;
        let decimal = json!({
            "type": "bytes", "optional": true, "field": "v", "version": 1,
            "name": "org.apache.kafka.connect.data.Decimal", "parameters": { "scale": "2" },
        });
        let text = json!({ "type": "string", "optional": true, "field": "v" });
        let record = |id: i64, number: &str| {
            let value = String::from_utf8(row(id, "?", json!({})).value.unwrap()).unwrap();
            let value = value.replace(&text.to_string(), &decimal.to_string());
            Record::new(TOPIC, &key(id), &value.replace("\"?\"", number))
        };
        let records = vec![record(1, "12345678901234567890.10"), record(2, "-0.05")];
        let records = [records, vec![record(3, "\"AN0=\""), record(4, "null")]].concat();
        catch_up(&site, &mock, 1, records).await;
        let values = site.at_warehouse("select v from cleansed.t order by id").await;
        assert_eq!(values, ["12345678901234567890.10", "-0.05", "2.21", "~"]);
    });
}
