//! Rows of topics that go on under another key: Debezium tells it by a delete of the old key and a row of the new
//! one, each in the partition of its own key, which may be read by another member of the group.

use std::time::Duration;

use serde_json::{Value, json};

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
    step(op, id, other, (lsn - 10, lsn))
}

/// The same of a transaction of several.
fn step(op: &str, id: i64, other: Option<i64>, (before, lsn): (u32, u32)) -> Record {
    let row = json!({ "id": id, "v": format!("v{lsn}") });
    let gone = op == "d";
    let value = json!({
        "op": op, "before": if gone { Some(&row) } else { None }, "after": if gone { None } else { Some(&row) },
        "ts_ms": 1, "source": {
            "connector": "postgresql", "schema": "public", "table": "t", "txId": 7, "lsn": lsn,
            "sequence": format!("[\"{before}\",\"{lsn}\"]"), "ts_ms": 1_700_000_000_000_i64 + i64::from(before),
        },
    });
    let record = Record::new(TOPIC, &json!({ "id": id }).to_string(), &value.to_string());
    let header = if gone { "__debezium.newkey" } else { "__debezium.oldkey" };
    let key = other.map(|other| json!({ "id": other }).to_string().into_bytes());
    let headers = key.map(|key| (header.to_owned(), Some(key))).into_iter().collect();
    Record { headers, ..record.at(i32::from(id % 2 == 1)) }
}

/// A row that comes from another key with the values that it had there, which its event leaves out.
fn without_value(id: i64, from: i64, lsn: u32) -> Record {
    without(record("c", id, Some(from), lsn))
}

/// The record of a row whose value did not change, and is stored apart from it.
fn without(mut record: Record) -> Record {
    let mut value: Value = serde_json::from_slice(record.value.as_deref().unwrap()).unwrap();
    value["after"]["v"] = json!("__debezium_unavailable_value");
    record.value = Some(value.to_string().into_bytes());
    record
}

/// A table as it is now and with its history, fed by the topic.
struct Moves {
    site: Site,
    mock: Mock,
    run: u32,
}

impl Moves {
    async fn new(name: &str) -> Moves {
        let mock = Mock::start();
        mock.create(TOPIC, 2);
        let site = Site::new(name).await;
        for (table, more) in [("t", ""), ("t_versions", "history: versions\n")] {
            let text = format!(
                "table: cleansed.{table}\nfrom: shop.public.t\nkey: [id]\n{more}columns:\n  id: {{ type: bigint }}\n  \
                 v: {{ type: text }}\n"
            );
            site.file(&format!("schemas/{table}.yaml"), &text);
        }
        Moves { site, mock, run: 0 }
    }

    /// The rows behind these records, which are a batch of their own.
    async fn rows_behind(&mut self, records: Vec<Record>) -> String {
        self.run += 1;
        connect(&self.site, &self.mock, self.run);
        self.mock.topics().write(records).await;
        self.site.catch_up().await;
        let mut found = Vec::new();
        for table in ["t", "t_versions_current"] {
            let rows = format!(
                "select coalesce(string_agg(id || v, ' ' order by id), '') from cleansed.{table}"
            );
            found.extend(self.site.at_warehouse(&rows).await);
        }
        assert_eq!(found[0], found[1]);
        found.remove(0)
    }

    async fn set_tables(&self, state: &str) {
        let set = format!("update audit.tables set state = '{state}', changed_at = now()");
        self.site.warehouse.batch_execute(&set).await.unwrap();
    }

    /// All versions, and where each ended.
    async fn versions(&self) -> Vec<String> {
        let versions = "select id, _end_seq from cleansed.t_versions order by _seq, _ord";
        self.site.at_warehouse(versions).await
    }
}

#[test]
fn a_row_that_moves_is_ended_by_the_record_of_its_old_key_alone() {
    block_on(async {
        let mut moves = Moves::new("moves").await;
        assert_eq!(moves.rows_behind(vec![record("c", 1, None, 110)]).await, "1v110");
        // whoever reads the other partition may be behind, and ends the version itself
        assert_eq!(moves.rows_behind(vec![record("c", 2, Some(1), 210)]).await, "1v110 2v210");
        assert_eq!(moves.rows_behind(vec![record("d", 1, Some(2), 210)]).await, "2v210");
        // together, in either order
        let moved = vec![record("c", 3, Some(2), 310), record("d", 2, Some(3), 310)];
        assert_eq!(moves.rows_behind(moved).await, "3v310");
        assert_eq!(moves.versions().await, ["1|200", "2|300", "3|~"]);
    });
}

/// Two rows change their keys by way of a third one, and a batch ends in the middle of it.
#[test]
fn a_key_that_rows_only_pass_through_is_nobodys() {
    block_on(async {
        let mut moves = Moves::new("swaps").await;
        let both = vec![record("c", 66, None, 110), record("c", 197, None, 120)];
        assert_eq!(moves.rows_behind(both).await, "66v110 197v120");
        let step = |op, id, other, lsn| step(op, id, Some(other), (200, lsn));
        let (away, over) = ([step("d", 66, -66, 210), step("c", -66, 66, 210)], 220);
        let all = [&away[..], &[step("d", 197, 66, over)]].concat();
        assert_eq!(moves.rows_behind(all).await, "-66v210");
        let back = [step("c", 66, 197, over), step("d", -66, 197, 230), step("c", 197, -66, 230)];
        assert_eq!(moves.rows_behind(back.to_vec()).await, "66v220 197v230");
        let versions = ["66|200", "197|200", "66|~", "197|~"];
        assert_eq!(moves.versions().await, versions);
        // all of it comes again
        let again = [&away[..], &[step("d", 197, 66, over)], &back].concat();
        assert_eq!(moves.rows_behind(again).await, "66v220 197v230");
        assert_eq!(moves.versions().await, versions);
    });
}

/// While its tables are paused a row is changed and goes on under another key, by an event that leaves out what did
/// not change: it is what the update says, in whatever order the partitions are gone through.
#[test]
fn a_row_that_moves_while_its_table_is_paused_takes_along_what_it_had() {
    block_on(async {
        let mut moves = Moves::new("moves_kept").await;
        let both = vec![record("c", 1, None, 110), record("c", 2, None, 120)];
        assert_eq!(moves.rows_behind(both).await, "1v110 2v120");
        moves.set_tables("paused").await;
        let to_even = vec![
            without_value(4, 1, 220),
            record("u", 1, None, 210),
            record("d", 1, Some(4), 220),
            without(record("u", 4, None, 230)),
        ];
        let to_odd = vec![
            record("u", 2, None, 310),
            record("d", 2, Some(3), 320),
            without_value(3, 2, 320),
            without_value(6, 3, 330),
        ];
        assert_eq!(moves.rows_behind([to_even, to_odd].concat()).await, "1v110 2v120");
        moves.set_tables("catching_up").await;
        // the delete of one of them is yet to come
        assert_eq!(moves.rows_behind(Vec::new()).await, "3v310 4v210");
        assert_eq!(moves.rows_behind(vec![record("d", 3, Some(6), 330)]).await, "4v210 6v310");
        let waits = "select count(*) from audit.pending";
        assert_eq!(moves.site.at_warehouse(waits).await, ["0"]);
    });
}

/// What waits is looked after by a service that runs, also where nothing else comes.
#[test]
fn a_row_that_waits_is_there_once_the_delete_of_its_former_key_is() {
    block_on(async {
        let mut moves = Moves::new("moves_wait").await;
        assert_eq!(moves.rows_behind(vec![record("c", 1, None, 110)]).await, "1v110");
        let waiting = vec![without_value(2, 1, 210), without(record("u", 2, None, 220))];
        assert_eq!(moves.rows_behind(waiting).await, "1v110");
        moves.run += 1;
        connect(&moves.site, &moves.mock, moves.run);
        let running = moves.site.start();
        let both = "select count(*) = 4 from audit.pending where waits";
        moves.site.until("it waits in both tables", both).await;
        moves.mock.topics().write(vec![record("c", 3, None, 230)]).await;
        moves
            .site
            .until("others come", "select exists (select from cleansed.t where id = 3)")
            .await;
        assert_eq!(
            moves.site.at_warehouse("select state from audit.tables").await,
            ["streaming"; 2]
        );
        moves.site.until("it still waits", both).await;
        moves.mock.topics().write(vec![record("d", 1, Some(2), 210)]).await;
        moves.site.until("it is there", "select not exists (select from audit.pending)").await;
        for table in ["t", "t_versions_current"] {
            let rows = format!("select id || v from cleansed.{table} order by id");
            assert_eq!(moves.site.at_warehouse(&rows).await, ["2v110", "3v230"]);
        }
        running.stop().await.unwrap();
    });
}

/// One whose delete never comes, as of a partition that is lost, holds up no other one, nor what follows those.
#[test]
fn a_row_that_waits_for_ever_holds_up_no_other() {
    block_on(async {
        let mut moves = Moves::new("moves_stuck").await;
        let two = vec![record("c", 1, None, 110), record("c", 11, None, 120)];
        assert_eq!(moves.rows_behind(two).await, "1v110 11v120");
        moves.run += 1;
        connect(&moves.site, &moves.mock, moves.run);
        let running = moves.site.start();
        let topics = moves.mock.topics();
        let waiting = |rows: u32| {
            format!(
                "select count(*) = {rows} from audit.pending where waits and comes_from is not null"
            )
        };
        topics.write(vec![without_value(2, 1, 210)]).await;
        moves.site.until("one waits", &waiting(2)).await;
        // it is looked after by now
        tokio::time::sleep(Duration::from_secs(2)).await;
        for (lsn, other) in [(300, 4), (400, 6), (500, 8)] {
            topics
                .write(vec![record("c", 11, None, lsn), without_value(other, 11, lsn + 10)])
                .await;
            moves.site.until("another one waits", &waiting(4)).await;
            topics.write(vec![record("d", 11, Some(other), lsn + 10)]).await;
            moves.site.until("it has come", &waiting(2)).await;
            topics.write(vec![record("u", other, None, lsn + 20)]).await;
            for table in ["t", "t_versions_current"] {
                let row = format!(
                    "select exists (select from cleansed.{table} where id = {other} and v = 'v{}')",
                    lsn + 20
                );
                moves.site.until("what follows it is there", &row).await;
            }
        }
        running.stop().await.unwrap();
    });
}

#[test]
fn what_waited_as_a_session_ended_is_looked_after_by_the_next_one() {
    block_on(async {
        let mut moves = Moves::new("moves_left").await;
        assert_eq!(moves.rows_behind(vec![record("c", 1, None, 110)]).await, "1v110");
        moves.run += 1;
        connect(&moves.site, &moves.mock, moves.run);
        let running = moves.site.start();
        let two = vec![without_value(2, 1, 210), record("u", 2, None, 220)];
        moves.mock.topics().write(two).await;
        let all_wait = "select count(*) = 4 from audit.pending where waits";
        moves.site.until("both wait, of two tables", all_wait).await;
        running.stop().await.unwrap();
        // it had come and was applied; what was behind it would have been next
        let come = "delete from audit.pending where comes_from is not null";
        moves.site.warehouse.batch_execute(come).await.unwrap();
        moves.run += 1;
        connect(&moves.site, &moves.mock, moves.run);
        let running = moves.site.start();
        for table in ["t", "t_versions_current"] {
            let row =
                format!("select exists (select from cleansed.{table} where id = 2 and v = 'v220')");
            moves.site.until("it waits no more", &row).await;
        }
        running.stop().await.unwrap();
    });
}

#[test]
fn a_row_that_has_left_before_its_key_was_taken_again_ends_then() {
    block_on(async {
        let mut moves = Moves::new("left_late").await;
        let both = vec![record("c", 1, None, 110), record("c", 1, None, 310)];
        assert_eq!(moves.rows_behind(both).await, "1v310");
        assert_eq!(moves.rows_behind(vec![record("d", 1, Some(2), 210)]).await, "1v310");
        assert_eq!(moves.versions().await, ["1|200", "1|~"]);
    });
}

/// Connect tells again what it had told before it crashed.
#[test]
fn a_row_that_goes_round_keeps_its_value_where_its_records_come_again() {
    block_on(async {
        let mut moves = Moves::new("moves_round").await;
        assert_eq!(moves.rows_behind(vec![record("c", 1, None, 110)]).await, "1v110");
        let there = || vec![record("d", 1, Some(3), 210), without_value(3, 1, 210)];
        assert_eq!(moves.rows_behind(there()).await, "3v110");
        let mut round = there();
        round.extend([record("d", 3, Some(1), 310), without_value(1, 3, 310)]);
        let told = "select max(changed_at)::text from audit.tables";
        let before = moves.site.at_warehouse(told).await;
        assert_eq!(moves.rows_behind(round).await, "1v110");
        // no table had to look for what it could not apply
        assert_eq!(moves.site.at_warehouse(told).await, before);
        let mut again = there();
        again.extend([record("d", 3, Some(1), 310), without_value(1, 3, 310)]);
        assert_eq!(moves.rows_behind(again).await, "1v110");
    });
}

/// By `header.converter: org.apache.kafka.connect.storage.StringConverter`.
#[test]
fn a_row_that_comes_from_a_key_that_nobody_can_read_is_there() {
    block_on(async {
        let mut moves = Moves::new("moves_unread").await;
        assert_eq!(moves.rows_behind(vec![record("c", 1, None, 100)]).await, "1v100");
        let unread = |mut record: Record| {
            for (_, key) in &mut record.headers {
                *key = Some(b"Struct{id=1}".to_vec());
            }
            record
        };
        let moved = [unread(record("d", 1, Some(3), 200)), unread(record("c", 3, Some(1), 200))];
        assert_eq!(moves.rows_behind(moved.to_vec()).await, "3v200");
        // what it leaves out only the key could tell: it is refused, and nothing else
        let left_out = vec![unread(without_value(5, 3, 300)), record("c", 7, None, 310)];
        assert_eq!(moves.rows_behind(left_out).await, "3v200 7v310");
        let letters = "select reason from audit.dead_letters";
        // of each of the two tables
        let why = "the key that it had before is no JSON";
        assert_eq!(moves.site.at_warehouse(letters).await, [why, why]);
    });
}
