//! Topics of a MySQL: their order is that of its log, in which each change has a place of its own.

use serde_json::{Value, json};

use crate::support::{Mock, Record, Site, block_on};

const TOPIC: &str = "shop.shop.t";

/// A MySQL's change of a row at a place of its log; `beside` overrides what its source tells.
fn told(op: &str, (id, v): (i64, &str), pos: u32, beside: Value) -> Record {
    let mut source = json!({
        "connector": "mysql", "name": "shop", "db": "shop", "table": "t", "server_id": 77, "gtid": null,
        "snapshot": "false", "file": "binlog.000001", "pos": pos, "row": 0,
        "ts_us": 1_700_000_000_000_000_i64 + i64::from(pos / 100) * 1_000_000,
    });
    for (name, value) in beside.as_object().unwrap() {
        source[name] = value.clone();
    }
    let row = json!({ "id": id, "v": v });
    let (before, after) = if op == "d" { (row, Value::Null) } else { (Value::Null, row) };
    let value = json!({ "op": op, "before": before, "after": after, "ts_ms": 1, "source": source });
    Record::new(TOPIC, &json!({ "id": id }).to_string(), &value.to_string())
}

/// Of the transaction that has this number.
fn change(op: &str, row: (i64, &str), pos: u32, gtid: u32) -> Record {
    told(op, row, pos, json!({ "gtid": format!("0-77-{gtid}") }))
}

/// A row that a snapshot read.
fn read(row: (i64, &str), pos: u32, snapshot: &str) -> Record {
    told("r", row, pos, json!({ "server_id": 0, "snapshot": snapshot }))
}

async fn start(name: &str) -> (Mock, Site) {
    let mock = Mock::start();
    mock.create(TOPIC, 1);
    let site = Site::new(name).await;
    for (table, more) in [("t", ""), ("t_versions", "history: versions\n")] {
        let text = format!(
            "table: cleansed.{table}\nfrom: shop.shop.t\nkey: [id]\n{more}columns:\n  \
             id: {{ type: bigint }}\n  v: {{ type: text }}\n"
        );
        site.file(&format!("schemas/{table}.yaml"), &text);
    }
    (mock, site)
}

async fn catch_up(site: &Site, mock: &Mock, records: Vec<Record>) {
    mock.topics().write(records).await;
    site.topics(&mock.address(), TOPIC, "");
    site.catch_up().await;
}

async fn assert_rows(site: &Site, expected: &str) {
    for table in ["t", "t_versions_current"] {
        let rows = format!("select string_agg(id || v, ' ' order by id) from cleansed.{table}");
        assert_eq!(site.at_warehouse(&rows).await, [expected], "{table}");
    }
}

const VERSIONS: &str = "select id || v || ' ' || (_seq & 65535) || ' ' || extract(second from valid_from)::int \
     from cleansed.t_versions order by id, _seq";

#[test]
fn changes_of_one_transaction_make_one_version() {
    block_on(async {
        let (mock, site) = start("binlog_one").await;
        let all = vec![
            change("c", (1, "a"), 110, 1),
            // nobody could see what it was between
            change("u", (1, "b"), 210, 2),
            change("c", (2, "b"), 220, 2),
            change("u", (1, "c"), 230, 2),
            change("u", (1, "d"), 310, 3),
            change("d", (2, "b"), 410, 4),
            change("c", (2, "e"), 420, 4),
        ];
        catch_up(&site, &mock, all.clone()).await;
        assert_rows(&site, "1d 2e").await;
        let expected = ["1a 110 21", "1c 230 22", "1d 310 23", "2b 220 22", "2e 420 24"];
        assert_eq!(site.at_warehouse(VERSIONS).await, expected);
        // Debezium sends again what it had sent, from the middle of a transaction on, or all of it
        for from in [3, 0] {
            catch_up(&site, &mock, all[from..].to_vec()).await;
            assert_rows(&site, "1d 2e").await;
            assert_eq!(site.at_warehouse(VERSIONS).await, expected, "from {from}");
        }
    });
}

#[test]
fn a_first_snapshot_that_is_begun_again_leaves_nothing_of_the_one_before() {
    block_on(async {
        let (mock, site) = start("binlog_anew").await;
        let first = [(1, "first"), (2, "true"), (3, "true")];
        catch_up(&site, &mock, first.map(|(id, how)| read((id, "a"), 100, how)).to_vec()).await;
        assert_rows(&site, "1a 2a 3a").await;
        // broken off; 1 is deleted before it begins again
        let again = vec![read((2, "a"), 500, "first"), read((3, "b"), 500, "last")];
        catch_up(&site, &mock, again).await;
        assert_rows(&site, "2a 3b").await;
        // a chunk of some rows takes no others out, be it before the first change
        catch_up(&site, &mock, vec![read((3, "b"), 700, "incremental")]).await;
        assert_rows(&site, "2a 3b").await;
        // nor does a snapshot that is asked for behind it
        let later = vec![change("c", (4, "a"), 800, 1), read((3, "c"), 900, "last")];
        catch_up(&site, &mock, later).await;
        assert_rows(&site, "2a 3c 4a").await;
    });
}

#[test]
fn a_log_file_without_a_number_is_a_dead_letter() {
    block_on(async {
        let (mock, site) = start("binlog_odd").await;
        let odd = told("u", (1, "b"), 210, json!({ "file": "x" }));
        let records = vec![change("c", (1, "a"), 110, 1), odd, change("c", (2, "a"), 310, 2)];
        catch_up(&site, &mock, records).await;
        assert_rows(&site, "1a 2a").await;
        let letters = "select distinct reason from audit.dead_letters where state = 'open'";
        let said = site.at_warehouse(letters).await;
        assert_eq!(said, ["its source.file \"x\" has no number"]);
    });
}
