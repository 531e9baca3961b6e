//! A first snapshot of Debezium that was broken off and begun again: what happened between the two is told by
//! no event, only by the rows that are read the second time.

use serde_json::json;

use crate::support::{Mock, Record, Site, block_on};

const TOPIC: &str = "shop.public.t";

/// Every history that a topic can feed.
const TABLES: [(&str, &str); 4] = [
    ("t", ""),
    ("t_versions", "history: versions\n"),
    ("t_events", "history: append\n"),
    (
        "t_facts",
        "partition: { by: day, every: month, range: [\"2024-01-01\", \"2024-12-31\"], ahead: 0 }\n",
    ),
];

/// Each run is a group of its own: the mock keeps members that left for a while.
fn connect_to(site: &Site, mock: &Mock, topic: &str, run: u32) {
    site.file(
        "connectors/shop.yaml",
        &format!(
            "name: {}\nkind: kafka\nsource: shop\nbrokers: {}\ngroup: anew-{run}\ntopics: [\"{topic}\"]\n\
             target_schema: cleansed\n\
             properties: {{ broker.address.family: v4 }}\n",
            site.name,
            mock.address()
        ),
    );
}

/// A row that a snapshot read when the log had come to `lsn`, before any commit was seen; or, with the end of
/// the commit before, a change.
fn record(id: i64, v: &str, lsn: u32, before: Option<u32>) -> Record {
    let before = before.map_or("null".to_owned(), |before| format!("\"{before}\""));
    let value = json!({
        "op": if before == "null" { "r" } else { "c" }, "before": null, "ts_ms": 1,
        "after": { "id": id, "day": format!("2024-0{}-01", 1 + id % 6), "v": v },
        "source": {
            "connector": "postgresql", "schema": "public", "table": "t", "txId": 7, "lsn": lsn,
            "sequence": format!("[{before},\"{lsn}\"]"), "ts_ms": 1_700_000_000_000_i64 + i64::from(lsn),
        },
    });
    let partition = i32::from(id % 2 == 1);
    Record::new(TOPIC, &json!({ "id": id }).to_string(), &value.to_string()).at(partition)
}

fn reads(ids: std::ops::Range<i64>, v: &str, lsn: u32) -> Vec<Record> {
    ids.map(|id| record(id, v, lsn, None)).collect()
}

async fn rows(site: &Site, table: &str) -> String {
    let query = format!(
        "select coalesce(string_agg(id || v, ' ' order by id, v), '') from cleansed.{table}"
    );
    site.at_warehouse(&query).await.remove(0)
}

#[test]
fn a_first_snapshot_that_was_begun_again_leaves_nothing_of_the_one_before() {
    block_on(async {
        let mock = Mock::start();
        mock.create(TOPIC, 2);
        let topics = mock.topics();
        let site = Site::new("anew").await;
        for (table, more) in TABLES {
            let columns = "columns:\n  id: { type: bigint }\n  day: { type: date, required: true }\n  \
                 v: { type: text }\n";
            let text =
                format!("table: cleansed.{table}\nfrom: shop.public.t\nkey: [id]\n{more}{columns}");
            site.file(&format!("schemas/{table}.yaml"), &text);
        }
        let mut run = 0;
        let mut catch_up = async |records: Vec<Record>| {
            run += 1;
            connect_to(&site, &mock, TOPIC, run);
            topics.write(records).await;
            site.catch_up().await;
        };
        // begun again at the same place it reads the same rows, in one batch or in another
        for _ in 0..2 {
            catch_up([reads(0..5, "x", 1_000), reads(0..5, "x", 1_000)].concat()).await;
            for (table, _) in TABLES {
                assert_eq!(rows(&site, table).await, "0x 1x 2x 3x 4x", "{table}");
            }
        }
        // 0 and 2 are deleted before it begins again, 1 is changed, and 6 of the first time is late
        let mut again = vec![record(6, "x", 1_000, None), record(1, "y", 2_000, None)];
        again.extend(reads(3..5, "x", 2_000));
        catch_up(again).await;
        for (table, _) in TABLES {
            assert_eq!(rows(&site, table).await, "1y 3x 4x", "{table}");
        }
        catch_up(vec![record(7, "z", 2_110, Some(2_100)), record(8, "z", 2_111, Some(2_100))])
            .await;
        // of tables that changes have followed nothing is taken: their source was only read once more
        catch_up(reads(3..4, "x", 5_000)).await;
        for (table, _) in &TABLES[..2] {
            assert_eq!(rows(&site, table).await, "1y 3x 4x 7z 8z", "{table}");
        }
        assert_eq!(rows(&site, "t_facts").await, "1y 3x 4x 7z 8z");
        let places = "select count(*) from audit.locator_cleansed_t_facts";
        assert_eq!(site.at_warehouse(places).await, ["5"]);
    });
}

/// The same of a table without key: which reading a row is of is told by when its transaction began.
fn click(who: i64, lsn: u32, began: i64, at: i32) -> Record {
    static COUNT: std::sync::atomic::AtomicI64 = std::sync::atomic::AtomicI64::new(0);
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    let fields = json!([
        { "type": "int64", "optional": true, "field": "who" },
        { "type": "string", "optional": true, "field": "what" },
    ]);
    let value = json!({
        "schema": { "type": "struct", "fields": [
            { "type": "struct", "field": "before", "optional": true, "fields": fields },
            { "type": "struct", "field": "after", "optional": true, "fields": fields },
        ] },
        "payload": {
            "op": "r", "before": null, "ts_us": began + count, "after": { "who": who, "what": "page" },
            "source": {
                "connector": "postgresql", "schema": "public", "table": "clicks", "txId": 7, "lsn": lsn,
                "sequence": format!("[null,\"{lsn}\"]"), "ts_us": began,
            },
        },
    });
    Record { key: None, ..Record::new(CLICKS, "", &value.to_string()).at(at) }
}

const CLICKS: &str = "shop.public.clicks";

/// When readings began.
const FIRST: i64 = 1_700_000_000_000_000;
const SECOND: i64 = FIRST + 5_000_000;

#[test]
fn rows_without_key_are_there_once_however_often_they_are_read() {
    block_on(async {
        let mock = Mock::start();
        mock.create(CLICKS, 3);
        let topics = mock.topics();
        let site = Site::new("anew-clicks").await;
        let mut run = 0;
        let mut catch_up = async |records: Vec<Record>| {
            run += 1;
            connect_to(&site, &mock, CLICKS, run);
            topics.write(records).await;
            site.catch_up().await;
        };
        let rows = "select count(*)::text || ' ' || sum(who)::text from cleansed.clicks";
        // two equal rows, and one that goes to the other partition; it breaks off before the third
        catch_up(vec![click(1, 1_000, FIRST, 0), click(1, 1_000, FIRST, 0)]).await;
        // begun again at the same place: all of it, and what the first still had under way
        let again = [(1, 0), (1, 1), (2, 0), (3, 1)].map(|(who, at)| click(who, 1_000, SECOND, at));
        let late = vec![click(1, 1_000, FIRST, 1)];
        catch_up([again.to_vec(), late].concat()).await;
        assert_eq!(site.at_warehouse(rows).await, ["4 7"]);
        // the first change behind it, in a partition with none of its rows
        let mut first = click(9, 1_100, SECOND, 2);
        let told = String::from_utf8(first.value.take().unwrap()).unwrap();
        first.value = Some(told.replace("\"op\":\"r\"", "\"op\":\"c\"").into_bytes());
        catch_up(vec![first]).await;
        assert_eq!(site.at_warehouse(rows).await, ["5 16"]);
    });
}

#[test]
fn rows_without_key_that_are_read_at_a_later_place_are_the_only_ones() {
    block_on(async {
        let mock = Mock::start();
        mock.create(CLICKS, 2);
        let topics = mock.topics();
        let site = Site::new("anew-later").await;
        let mut run = 0;
        let mut catch_up = async |records: Vec<Record>| {
            run += 1;
            connect_to(&site, &mock, CLICKS, run);
            topics.write(records).await;
            site.catch_up().await;
        };
        let rows = "select count(*)::text || ' ' || sum(who)::text from cleansed.clicks";
        catch_up([1, 1, 2].map(|who| click(who, 1_000, FIRST, 0)).to_vec()).await;
        assert_eq!(site.at_warehouse(rows).await, ["3 4"]);
        let third = [(1, 1), (4, 0)].map(|(who, at)| click(who, 2_000, SECOND + 1, at));
        catch_up(third.to_vec()).await;
        assert_eq!(site.at_warehouse(rows).await, ["2 5"]);
    });
}

/// The same record, of another table.
fn elsewhere(record: Record) -> Record {
    let told = String::from_utf8(record.value.unwrap()).unwrap();
    let value = told.replace("\"table\":\"t\"", "\"table\":\"u\"").into_bytes();
    Record { topic: "shop.public.u".to_owned(), value: Some(value), ..record }
}

#[test]
fn what_was_read_at_first_goes_also_where_changes_have_come_to_other_tables() {
    block_on(async {
        let mock = Mock::start();
        mock.create(TOPIC, 2);
        mock.create("shop.public.u", 2);
        let topics = mock.topics();
        let site = Site::new("anew-beside").await;
        for table in ["t", "u"] {
            let text = format!(
                "table: cleansed.{table}\nfrom: shop.public.{table}\nkey: [id]\ncolumns:\n  \
                 id: {{ type: bigint }}\n  v: {{ type: text }}\n"
            );
            site.file(&format!("schemas/{table}.yaml"), &text);
        }
        let mut run = 0;
        let mut catch_up = async |records: Vec<Record>| {
            run += 1;
            connect_to(&site, &mock, "shop.public.*", run);
            topics.write(records).await;
            site.catch_up().await;
        };
        let first =
            [reads(0..5, "x", 1_000), reads(0..5, "x", 1_000).into_iter().map(elsewhere).collect()];
        catch_up(first.concat()).await;
        // one table is through with the second reading, and has what came behind it
        let other = [record(1, "y", 2_000, None), record(7, "z", 2_110, Some(2_100))];
        catch_up(other.map(elsewhere).to_vec()).await;
        assert_eq!(rows(&site, "u").await, "1y 7z");
        // the other one begins it
        catch_up(vec![record(4, "x", 2_000, None)]).await;
        assert_eq!(rows(&site, "t").await, "4x");
    });
}

#[test]
fn a_connector_that_is_made_again_without_a_snapshot_stops_its_table() {
    block_on(async {
        let mock = Mock::start();
        mock.create(TOPIC, 2);
        let topics = mock.topics();
        let site = Site::new("anew-made").await;
        let text = "table: cleansed.t\nfrom: shop.public.t\nkey: [id]\ncolumns:\n  id: { type: bigint }\n  \
             v: { type: text }\n";
        site.file("schemas/t.yaml", text);
        let mut run = 0;
        let mut catch_up = async |records: Vec<Record>| {
            run += 1;
            connect_to(&site, &mock, TOPIC, run);
            topics.write(records).await;
            site.catch_up().await;
        };
        // the first change of all tells no commit before it, however often it is sent
        let change = |id, lsn| {
            let read = record(id, "y", lsn, None);
            let told = String::from_utf8(read.value.unwrap()).unwrap();
            let value = told.replace("\"op\":\"r\"", "\"op\":\"c\"").into_bytes();
            Record { value: Some(value), ..read }
        };
        let first = vec![change(2, 1_010), record(4, "z", 1_040, Some(1_030))];
        catch_up([reads(0..2, "x", 1_000), first.clone(), first].concat()).await;
        let state = "select state from audit.tables";
        assert_eq!(site.at_warehouse(state).await, ["streaming"]);
        assert_eq!(rows(&site, "t").await, "0x 1x 2y 4z");
        catch_up(vec![change(6, 5_010)]).await;
        let said = "select state || ': ' || reason from audit.tables";
        let said = site.at_warehouse(said).await.remove(0);
        assert!(said.starts_with("stopped: Debezium's connector was made again"), "{said}");
        let pending = "select count(*) from audit.pending";
        assert_eq!(site.at_warehouse(pending).await, ["1"]);
    });
}

/// COPY writes all rows of a page by one record of the source's log.
#[test]
fn the_rows_of_a_page_that_copy_filled_are_each_an_event() {
    block_on(async {
        let mock = Mock::start();
        mock.create(CLICKS, 1);
        let topics = mock.topics();
        let site = Site::new("pages").await;
        for (table, more) in [
            ("clicks", ""),
            (
                "days",
                "partition: { by: day, every: month, range: [\"2024-01-01\", \"2024-12-31\"], ahead: 0 }\n",
            ),
        ] {
            let columns =
                "columns:\n  who: { type: bigint }\n  day: { type: date, required: true }\n";
            site.file(
                &format!("schemas/{table}.yaml"),
                &format!("table: cleansed.{table}\nfrom: shop.public.clicks\nhistory: append\n{more}{columns}"),
            );
        }
        let copied = |who: i64, lsn: u32| {
            let value = json!({
                "op": "c", "before": null, "ts_ms": 1, "after": { "who": who, "day": "2024-01-01" },
                "source": {
                    "connector": "postgresql", "schema": "public", "table": "clicks", "txId": 7, "lsn": lsn,
                    "sequence": format!("[\"1000\",\"{lsn}\"]"), "ts_ms": 1_700_000_000_000_i64,
                },
            });
            Record { key: None, ..Record::new(CLICKS, "", &value.to_string()) }
        };
        let page = |lsn: u32| (0..4).map(|who| copied(who, lsn)).collect::<Vec<_>>();
        // some come again in their batch, and all in a later one
        let batches = [[page(1_010), page(1_010)].concat(), [page(1_010), page(1_020)].concat()];
        for (run, batch) in (100..).zip(batches) {
            connect_to(&site, &mock, CLICKS, run);
            topics.write(batch).await;
            site.catch_up().await;
        }
        for table in ["clicks", "days"] {
            let query = format!(
                "select string_agg(who || '@' || _ord, ' ' order by _ord, who) from cleansed.{table}"
            );
            let expected = "0@1010 1@1010 2@1010 3@1010 0@1020 1@1020 2@1020 3@1020";
            assert_eq!(site.at_warehouse(&query).await, [expected], "{table}");
        }
    });
}
