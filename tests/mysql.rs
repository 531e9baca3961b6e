//! What is a MySQL's own: its TIME, which is a length of time.

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::json;

use crate::support::{Mock, Record, Site, block_on};

const TOPIC: &str = "shop.inventory.shifts";

/// A row as Debezium's connector for MySQL has it, with its TIME in microseconds.
fn event(id: i64, micros: i64) -> Record {
    let fields = json!([
        {"type": "int64", "optional": false, "field": "id"},
        {"type": "int64", "optional": true, "field": "lasts", "name": "io.debezium.time.MicroTime", "version": 1},
    ]);
    let value = json!({
        "schema": {"type": "struct", "fields": [
            {"type": "struct", "field": "after", "optional": true, "fields": fields},
        ]},
        "payload": {
            "op": "c", "before": null, "after": {"id": id, "lasts": micros},
            "source": {
                "connector": "mysql", "name": "shop", "db": "inventory", "table": "shifts", "ts_ms": id,
                "server_id": 1, "file": "mysql-bin.000001", "pos": 100 * id, "row": 0,
            },
        },
    });
    let key = json!({
        "schema": {"type": "struct", "fields": [{"type": "int64", "optional": false, "field": "id"}]},
        "payload": {"id": id},
    });
    Record::new(TOPIC, &key.to_string(), &value.to_string())
}

/// Each run is a group of its own: the mock keeps members that left for a while.
async fn catch_up(site: &Site, mock: &Mock, records: Vec<Record>) {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    site.remove("connectors/shop.yaml");
    site.file(
        "connectors/shop.yaml",
        &format!(
            "name: {0}\nkind: kafka\nsource: shop\nbrokers: {1}\ngroup: mysql-{run}\ntopics: [{TOPIC}]\n\
             target_schema: cleansed\nproperties: {{ broker.address.family: v4 }}\n",
            site.name,
            mock.address(),
        ),
    );
    mock.topics().write(records).await;
    site.catch_up().await;
}

/// 100 hours, an hour less than none, half past eight.
fn shifts() -> Vec<Record> {
    let seconds = [360_000, -3_600, 30_600];
    (1..).zip(seconds).map(|(id, seconds)| event(id, seconds * 1_000_000)).collect()
}

async fn lasts(site: &Site, table: &str) -> Vec<String> {
    site.at_warehouse(&format!("select lasts::text from cleansed.{table} order by id")).await
}

#[test]
fn a_mirrored_time_holds_every_value() {
    block_on(async {
        let mock = Mock::start();
        mock.create(TOPIC, 1);
        let site = Site::new("mysql_mirrored").await;
        catch_up(&site, &mock, shifts()).await;
        assert_eq!(lasts(&site, "shifts").await, ["100:00:00", "-01:00:00", "08:30:00"]);
    });
}

#[test]
fn a_declared_column_holds_what_its_type_can() {
    block_on(async {
        let mock = Mock::start();
        mock.create(TOPIC, 1);
        let site = Site::new("mysql_declared").await;
        for ty in ["interval", "text", "time"] {
            let file = format!(
                "table: cleansed.as_{ty}\nfrom: shop.inventory.shifts\nkey: [id]\ncolumns:\n\
                 \x20 id: {{ type: bigint }}\n  lasts: {{ type: {ty} }}\n"
            );
            site.file(&format!("schemas/{ty}.yaml"), &file);
        }
        catch_up(&site, &mock, shifts()).await;
        for table in ["as_interval", "as_text"] {
            assert_eq!(lasts(&site, table).await, ["100:00:00", "-01:00:00", "08:30:00"]);
        }
        // beside an interval it refuses by its type what is none of its own
        assert_eq!(lasts(&site, "as_time").await, ["08:30:00"]);
        let refused =
            "select count(*) from audit.dead_letters where reason like '%not a time of day%'";
        assert_eq!(site.at_warehouse(refused).await, ["2"]);
    });
}

#[test]
fn a_time_of_day_refuses_what_is_none() {
    block_on(async {
        let mock = Mock::start();
        mock.create(TOPIC, 1);
        let site = Site::new("mysql_of_day").await;
        site.file(
            "schemas/shifts.yaml",
            "table: cleansed.shifts_of_day\nfrom: shop.inventory.shifts\nkey: [id]\ncolumns:\n\
             \x20 id: { type: bigint }\n  lasts: { type: time }\n",
        );
        catch_up(&site, &mock, shifts()).await;
        assert_eq!(lasts(&site, "shifts_of_day").await, ["08:30:00"]);
        let reasons = site.at_warehouse("select reason from audit.dead_letters").await;
        assert_eq!(reasons.len(), 2, "{reasons:?}");
        assert!(reasons.iter().all(|why| why.contains("not a time of day")), "{reasons:?}");
    });
}

/// A text may hold a NUL there: the row is refused, and no later one for having been so.
#[test]
fn a_row_that_was_refused_is_mended_and_goes() {
    block_on(async {
        let mock = Mock::start();
        mock.create(TOPIC, 1);
        let site = Site::new("mysql_nul").await;
        site.file(
            "schemas/shifts.yaml",
            "table: cleansed.shifts\nfrom: shop.inventory.shifts\nkey: [id]\ncolumns:\n  id: { type: bigint }\n  v: { type: text }\n",
        );
        let row = |id: i64, v: &str| json!({ "id": id, "v": v });
        let step = |op: &str, id: i64, [before, after]: [Option<&str>; 2], pos: i64| {
            let [before, after] = [before, after].map(|v| v.map(|v| row(id, v)));
            let value = json!({
                "op": op, "before": before, "after": after, "source": {
                    "connector": "mysql", "name": "shop", "db": "inventory", "table": "shifts", "ts_ms": pos,
                    "server_id": 1, "file": "mysql-bin.000001", "pos": pos, "row": 0,
                },
            });
            Record::new(TOPIC, &json!({ "id": id }).to_string(), &value.to_string())
        };
        let records = vec![
            step("c", 1, [None, Some("good")], 100),
            step("c", 2, [None, Some("good")], 110),
            step("u", 1, [Some("good"), Some("a\0b")], 200),
            step("u", 2, [Some("good"), Some("a\0b")], 210),
            step("u", 1, [Some("a\0b"), Some("mended")], 300),
            step("d", 2, [Some("a\0b"), None], 310),
        ];
        catch_up(&site, &mock, records).await;
        // what a key's change is refused for the later ones of the key wait behind
        assert_eq!(site.at_warehouse("select count(*) from audit.dead_letters").await, ["2"]);
        let drop = site.command(&["dead-letter", "drop", "--all", "--yes"]).status().unwrap();
        assert!(drop.success());
        catch_up(&site, &mock, Vec::new()).await;
        let rows = site.at_warehouse("select id || v from cleansed.shifts order by id").await;
        assert_eq!(rows, ["1mended"]);
        assert_eq!(site.at_warehouse("select count(*) from audit.dead_letters").await, ["2"]);
    });
}
