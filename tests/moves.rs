//! Rows of topics that go on under another key: Debezium tells it by a delete of the old key and a row of the new
//! one, each in the partition of its own key, which may be read by another member of the group.

use serde_json::json;

use crate::support::{Mock, Record, Site, block_on};

const TOPIC: &str = "shop.public.t";

/// Each run is a group of its own: the mock keeps members that left for a while.
fn connect(site: &Site, mock: &Mock, run: u32) {
    site.file(
        "connectors/shop.yaml",
        &format!(
            "name: {}\nkind: kafka\nsource: shop\nbrokers: {}\ngroup: moves-{run}\ntopics: [\"{TOPIC}\"]\n\
             properties: {{ broker.address.family: v4 }}\n",
            site.name,
            mock.address()
        ),
    );
}

/// A change of a row, or with another key its coming from there or its going there.
fn record(op: &str, id: i64, other: Option<i64>, lsn: u32) -> Record {
    let row = json!({ "id": id, "v": format!("v{lsn}") });
    let gone = op == "d";
    let value = json!({
        "op": op, "before": if gone { Some(&row) } else { None }, "after": if gone { None } else { Some(&row) },
        "ts_ms": 1, "source": {
            "connector": "postgresql", "schema": "public", "table": "t", "txId": 7, "lsn": lsn,
            "sequence": format!("[\"{}\",\"{lsn}\"]", lsn - 10), "ts_ms": 1_700_000_000_000_i64 + i64::from(lsn),
        },
    });
    let record = Record::new(TOPIC, &json!({ "id": id }).to_string(), &value.to_string());
    let header = if gone { "__debezium.newkey" } else { "__debezium.oldkey" };
    let key = other.map(|other| json!({ "id": other }).to_string().into_bytes());
    let headers = key.map(|key| (header.to_owned(), Some(key))).into_iter().collect();
    Record { headers, ..record.at(i32::from(id % 2 == 1)) }
}

#[test]
fn a_row_that_moves_is_ended_by_the_record_of_its_old_key_alone() {
    block_on(async {
        let mock = Mock::start();
        mock.create(TOPIC, 2);
        let topics = mock.topics();
        let site = Site::new("moves").await;
        for (table, more) in [("t", ""), ("t_versions", "history: versions\n")] {
            let text = format!(
                "table: cleansed.{table}\nfrom: shop.public.t\nkey: [id]\n{more}columns:\n  id: {{ type: bigint }}\n  \
                 v: {{ type: text }}\n"
            );
            site.file(&format!("schemas/{table}.yaml"), &text);
        }
        let mut run = 0;
        let mut rows_behind = async |records: Vec<Record>| {
            run += 1;
            connect(&site, &mock, run);
            topics.write(records).await;
            site.catch_up().await;
            let rows = |table| {
                format!(
                    "select coalesce(string_agg(id || v, ' ' order by id), '') from cleansed.{table}"
                )
            };
            let rows = [rows("t"), rows("t_versions_current")];
            let mut found = Vec::new();
            for query in &rows {
                found.extend(site.at_warehouse(query).await);
            }
            assert_eq!(found[0], found[1]);
            found.remove(0)
        };
        assert_eq!(rows_behind(vec![record("c", 1, None, 110)]).await, "1v110");
        // whoever reads the other partition may be behind, and ends the version itself
        assert_eq!(rows_behind(vec![record("c", 2, Some(1), 210)]).await, "1v110 2v210");
        assert_eq!(rows_behind(vec![record("d", 1, Some(2), 210)]).await, "2v210");
        // together, in either order
        let moved = vec![record("c", 3, Some(2), 310), record("d", 2, Some(3), 310)];
        assert_eq!(rows_behind(moved).await, "3v310");
        let versions = "select id, _end_seq from cleansed.t_versions order by _seq";
        assert_eq!(site.at_warehouse(versions).await, ["1|200", "2|300", "3|~"]);
    });
}
