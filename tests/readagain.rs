//! Tables of topics that are read again from their source while everything goes on: a real Debezium, a real Kafka,
//! writes, transactions that stay open, and crashes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use siltstone::postgres::{Session, Side, connect};

use crate::debezium::{Live, Member, changes, said};
use crate::support::{Mock, Record, Site, block_on, kafka, own_connect};

/// Rows that nothing of the topics would mend: wrong, missing, and one too many.
const SPOIL: &str = "
    update topics.users set email = 'spoilt', bio = 'spoilt' where id % 3 = 0;
    delete from topics.users where id % 5 = 0;
    insert into topics.users (id, email, _seq, _ord, _synced_at) values (800000, 'rogue', 1, 1, now());
    update topics.orders set amount = -1 where id % 4 = 0;
    delete from topics.pairs where a % 3 = 0";

/// Sessions of the source whose transactions a test keeps open.
struct Open {
    session: Session,
    xid: u32,
}

impl Open {
    /// A transaction that has written.
    async fn new(site: &Site, statements: &str) -> Open {
        let session = connect(Side::Source, &site.source_endpoint, "test").await.unwrap();
        session.batch_execute("set search_path to public; begin").await.unwrap();
        session.batch_execute(statements).await.unwrap();
        let xid = "select pg_current_xact_id()::text::int8 & 4294967295";
        let xid: i64 = session.query_one(xid, &[]).await.unwrap().get(0);
        Open { session, xid: u32::try_from(xid).unwrap() }
    }

    async fn commit(self) {
        self.session.batch_execute("commit").await.unwrap();
    }

    /// Waits until a slot that is being made waits for it: one of this test, for those of all others do so, too.
    async fn is_awaited(&self, site: &Site) {
        let query = format!(
            "select exists (select from pg_locks l join pg_stat_activity a using (pid)
                             where l.locktype = 'transactionid' and not l.granted
                               and a.backend_type = 'walsender' and a.datname = current_database()
                               and l.transactionid = '{}'::xid)",
            self.xid
        );
        for _ in 0..2_400 {
            if site.at_source(&query).await == ["t"] {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let state = site.at_warehouse("select t from audit.tables t").await;
        panic!("no slot waits for {}: {state:#?}", self.xid);
    }
}

/// Writes to the shop until it is told to stop; how often it has.
fn write(site: &Site) -> (Arc<AtomicBool>, tokio::task::JoinHandle<u32>) {
    let (stop, endpoint) = (Arc::new(AtomicBool::new(false)), site.source_endpoint.clone());
    let stopped = stop.clone();
    let task = tokio::spawn(async move {
        let session = connect(Side::Source, &endpoint, "writer").await.unwrap();
        session.batch_execute("set search_path to public").await.unwrap();
        let (mut seed, mut written) = (100, 0);
        while !stopped.load(Ordering::SeqCst) {
            // names that it makes up may be there: what came before is committed
            written += u32::from(session.batch_execute(&changes(20, seed)).await.is_ok());
            // it is a thousandth of what the generator takes
            seed = seed % 999 + 1;
            // not more than a slow machine applies beside
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        written
    });
    (stop, task)
}

fn resync(site: &Site, table: &str, more: &[&str]) -> (i32, String) {
    said(site, &[&["table", "resync", table, "--yes"], more].concat())
}

/// Waits until a table was read behind the point at which it was before.
async fn until_read(site: &Site, table: &str, before: &str) -> String {
    let query = format!(
        "select coalesce(seen ->> 'point', '') <> '{before}' and state in ('catching_up', 'streaming')
           from audit.tables where table_name = '{table}'"
    );
    site.until("it is read again", &query).await;
    let point = format!("select seen ->> 'point' from audit.tables where table_name = '{table}'");
    site.at_warehouse(&point).await.remove(0)
}

async fn until_streaming(site: &Site, table: &str) {
    let query =
        format!("select state = 'streaming' from audit.tables where table_name = '{table}'");
    site.until("it streams", &query).await;
}

#[test]
fn readagain_while_all_is_written_and_everything_crashes() {
    let Some(kafka) = kafka() else { return };
    block_on(async {
        let live = Live::new(kafka, "readagain").await;
        let site = &live.site;
        let broker = kafka.broker().await;
        // what is not written out when it is killed is sent again
        let late = [("offset.flush.interval.ms", "5000")];
        let mut connect = own_connect("readagain-connect", broker, &late).await;
        live.files(&broker.address(), "topics");
        live.declare("debezium", "topics");
        connect.register(&site.name, &live.configuration()).await.unwrap();
        let mut members = vec![Member::of(site), Member::of(site)];
        for table in ["users", "orders", "dim_users"] {
            let there = format!("select to_regclass('topics.{table}') is not null");
            site.until("the table is there", &there).await;
            site.until("its rows are there", &format!("select count(*) = 500 from topics.{table}"))
                .await;
        }
        let (stop, writing) = write(site);

        // killed while the slot is being made, and as it reads
        site.warehouse.batch_execute(SPOIL).await.unwrap();
        let first = Open::new(site, "insert into users values (20001, 'first')").await;
        let (code, text) = resync(site, "topics.users", &[]);
        assert_eq!(code, 0, "{text}");
        first.is_awaited(site).await;
        members.drain(..).for_each(|member| member.end("-KILL"));
        members.extend([Member::of(site), Member::of(site)]);
        first.is_awaited(site).await;
        first.commit().await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        members.remove(0).end("-KILL");
        members.push(Member::of(site));
        let point = until_read(site, "topics.users", "").await;
        until_streaming(site, "topics.users").await;

        // a transaction that is open at the point, and has changes before it
        site.warehouse.batch_execute(SPOIL).await.unwrap();
        let wide = "insert into users select i, 'wide' || i, 'DE', repeat('w', 3000) || i \
                    from generate_series(20011, 20014) i";
        site.shop(wide).await;
        let first = Open::new(site, "insert into users values (20002, 'first')").await;
        assert_eq!(resync(site, "topics.users", &[]).0, 0);
        first.is_awaited(site).await;
        let second = Open::new(site, "insert into users values (20003, 'second')").await;
        first.commit().await;
        second.is_awaited(site).await;
        let third = Open::new(
            site,
            "insert into users values (20004, 'third');
             update users set email = 'third' where id in (20001, 20011);
             delete from users where id in (20002, 20012);
             update users set id = 20023 where id = 20013",
        )
        .await;
        second.commit().await;
        until_read(site, "topics.users", &point).await;
        let unseen = format!(
            "select seen -> 'open' @> '[{0}]' or (seen ->> 'end')::int8 <= {0} from audit.tables
              where table_name = 'topics.users'",
            third.xid
        );
        assert_eq!(site.at_warehouse(&unseen).await, ["t"]);
        let rows = "select id, email, length(bio) from topics.users where id between 20001 and 20023 order by id";
        let before = ["20001|first|~", "20002|first|~", "20003|second|~", "20011|wide20011|3005"];
        assert_eq!(site.at_warehouse(rows).await[..4], before);
        members.remove(0).end("-KILL");
        third.commit().await;
        members.push(Member::of(site));
        until_streaming(site, "topics.users").await;

        // Debezium tells again what is in the rows, and what is not
        connect.kill().await.unwrap();
        connect.start_again().await.unwrap();
        for table in ["topics.orders", "topics.pairs"] {
            let (code, text) = resync(site, table, &["--wait"]);
            assert_eq!(code, 0, "{text}");
            until_read(site, table, "").await;
            until_streaming(site, table).await;
        }
        let (code, text) = resync(site, "topics.clicks", &["--wait"]);
        assert!(code != 0 && text.contains("it has no key"), "{code}: {text}");
        let (code, text) = resync(site, "topics.dim_users", &[]);
        assert!(code == 64 && text.contains("it keeps versions"), "{code}: {text}");
        stop.store(true, Ordering::SeqCst);
        assert!(writing.await.unwrap() > 10);
        drop(connect.restart(&site.name).await);
        live.until_drained().await;
        // what Connect tells again may have a table look for what it cannot apply
        let all_go_on = "select not exists (select from audit.tables where state = 'catching_up')";
        site.until("all tables go on", all_go_on).await;
        live.assert_verified().await;
        // what was refused of the rows that are spoilt is settled by their being read again
        let letters = "select count(*) from audit.dead_letters where state <> 'read'";
        assert_eq!(site.at_warehouse(letters).await, ["0"]);
        let after = [
            "20001|third|~",
            "20003|second|~",
            "20004|third|~",
            "20011|third|3005",
            "20014|wide20014|3005",
            "20023|wide20013|3005",
        ];
        assert_eq!(site.at_warehouse(rows).await, after);
        members.into_iter().for_each(|member| member.end("-TERM"));
        connect.remove(&site.name).await.unwrap();
        live.drop_slot().await;
    });
}

#[test]
fn readagain_where_retention_took_records() {
    let Some(kafka) = kafka() else { return };
    block_on(async {
        let mut live = Live::new(kafka, "tookagain").await;
        live.more = "offset_lost: resync\n";
        let site = &live.site;
        live.files(&kafka.broker().await.address(), "topics");
        live.declare("debezium", "topics");
        let (connect, topics) = (kafka.connect().await, kafka.topics().await);
        connect.register(&site.name, &live.configuration()).await.unwrap();
        let member = Member::of(site);
        for table in ["users", "orders", "dim_users"] {
            let there = format!("select to_regclass('topics.{table}') is not null");
            site.until("the table is there", &there).await;
            let rows = format!("select count(*) = 500 from topics.{table}");
            site.until("its rows are there", &rows).await;
        }
        member.end("-KILL");
        // changes that are gone before anybody reads them
        site.shop(&changes(100, 1)).await;
        site.shop(
            "insert into orders values (-7, 7, 7, null); insert into users values (30001, 'x')",
        )
        .await;
        let users = format!("{}.public.users", site.name);
        let mut ends = Vec::new();
        for _ in 0..600 {
            let found = topics.read(&users).await;
            ends = topics.ends(&users).await;
            if found.iter().any(|record| record.json().to_string().contains("30001")) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        for (partition, end) in ends.into_iter().enumerate() {
            topics.forget(&users, i32::try_from(partition).unwrap(), end).await;
        }
        let (stop, writing) = write(site);
        let members = [Member::of(site), Member::of(site)];
        until_read(site, "topics.users", "").await;
        until_streaming(site, "topics.users").await;
        // the others of its connector are read on as before
        let query =
            "select state, seen is null from audit.tables where table_name = 'topics.orders'";
        assert_eq!(site.at_warehouse(query).await, ["streaming|t"]);
        let [state, reason, remedy] = &site.state("topics.dim_users").await[..] else { panic!() };
        assert_eq!(state, "stopped");
        assert!(reason.contains("deleted by its retention before they were read"), "{reason}");
        assert!(remedy.contains("it keeps versions"), "{remedy}");
        stop.store(true, Ordering::SeqCst);
        assert!(writing.await.unwrap() > 10);
        let rows = |side: &str| {
            format!(
                "select id, email, country, length(bio), md5(bio), joined from {side}.users order by id"
            )
        };
        let there = site.at_source(&rows("public")).await;
        let mut here = site.at_warehouse(&rows("topics")).await;
        // each partition has its own way to go
        for _ in 0..600 {
            if here == there {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            here = site.at_warehouse(&rows("topics")).await;
        }
        let differ: Vec<_> = there.iter().filter(|row| !here.contains(row)).collect();
        let instead: Vec<_> = here.iter().filter(|row| !there.contains(row)).collect();
        let kept =
            "select seq, ord, event_seq, event_ord, waits, comes_from, key_hash, old_key_hash
                      from audit.pending";
        let kept = site.at_warehouse(kept).await;
        let gone = "select key, seq, ord, op, row is null, noted_at from audit.quiet
                     order by seq desc, ord desc limit 60";
        let gone = site.at_warehouse(gone).await;
        assert!(
            here == there,
            "of {} rows differ {differ:#?}, there are {instead:#?}; kept: {kept:#?}; gone: {gone:#?}",
            there.len()
        );
        members.into_iter().for_each(|member| member.end("-TERM"));
        connect.remove(&site.name).await.unwrap();
        live.drop_slot().await;
    });
}

/// A table with a column that Debezium writes as another type, and one that gets more columns.
const MORE: &str = "
    create table odd (id bigint primary key, flag bit(1));
    create table grown (id bigint primary key, v text);
    insert into odd values (1, b'1'), (2, b'0');
    insert into grown select i, 'v' || i from generate_series(1, 20) i";

fn resume(site: &Site, table: &str) {
    let status = site.command(&["table", "resume", table]).status().unwrap();
    assert!(status.success());
}

#[test]
fn readagain_what_topics_tell_otherwise_or_later() {
    let Some(kafka) = kafka() else { return };
    block_on(async {
        let live = Live::new(kafka, "toldlater").await;
        let site = &live.site;
        site.shop(MORE).await;
        live.files(&kafka.broker().await.address(), "topics");
        let connect = kafka.connect().await;
        connect.register(&site.name, &live.configuration()).await.unwrap();
        let member = Member::of(site);
        for (table, rows) in [("odd", 2), ("grown", 20), ("pairs", 200)] {
            site.until(
                "its rows are there",
                &format!("select count(*) = {rows} from topics.{table}"),
            )
            .await;
        }
        refused_and_resumed(site).await;
        columns_that_are_told_later(site).await;
        asked_for_another_one_meanwhile(site).await;
        member.end("-TERM");
        connect.remove(&site.name).await.unwrap();
        live.drop_slot().await;
    });
}

/// What cannot be read as its topics tell it stops, and goes on as if nobody had asked.
async fn refused_and_resumed(site: &Site) {
    assert_eq!(resync(site, "topics.odd", &[]).0, 0);
    let stopped = "select state = 'stopped' from audit.tables where table_name = 'topics.odd'";
    site.until("it stops", stopped).await;
    let [_, reason, remedy] = &site.state("topics.odd").await[..] else { panic!() };
    assert!(reason.contains("its flag is of type bit"), "{reason}");
    assert!(remedy.contains("siltstone table resume topics.odd goes on"), "{remedy}");
    let open = "select count(*) from audit.snapshot_chunks where state <> 'done'";
    assert_eq!(site.at_warehouse(open).await, ["0"]);
    site.shop("insert into odd values (3, b'1')").await;
    resume(site, "topics.odd");
    until_streaming(site, "topics.odd").await;
    site.until("its changes come", "select count(*) = 3 from topics.odd").await;
    assert_eq!(site.at_warehouse("select count(*) from audit.gaps").await, ["0"]);
}

/// A column that no topic had told when a table was read has its values as soon as one does.
async fn columns_that_are_told_later(site: &Site) {
    // a change that tells it is kept, and in the rows
    let pause = ["table", "pause", "topics.grown", "--wait"];
    assert!(site.command(&pause).status().unwrap().success());
    site.shop("alter table grown add tier text").await;
    site.shop("update grown set tier = 'gold' where id = 7").await;
    site.until("it is kept", "select count(*) = 1 from audit.pending").await;
    assert_eq!(resync(site, "topics.grown", &[]).0, 0);
    let gold = "select count(*) = 1 from topics.grown where id = 7 and tier = 'gold'";
    site.until("what the rows had is there", gold).await;
    until_streaming(site, "topics.grown").await;
    // no change tells it before the reading
    let point = until_read(site, "topics.grown", "").await;
    site.shop("alter table grown add level int default 5").await;
    assert_eq!(resync(site, "topics.grown", &[]).0, 0);
    let point = until_read(site, "topics.grown", &point).await;
    until_streaming(site, "topics.grown").await;
    let skipped = "select seen ->> 'skipped' from audit.tables where table_name = 'topics.grown'";
    assert_eq!(site.at_warehouse(skipped).await, [r#"["level"]"#]);
    site.shop("update grown set level = 3 where id = 8").await;
    until_read(site, "topics.grown", &point).await;
    until_streaming(site, "topics.grown").await;
    let levels = "select level, count(*) from topics.grown group by 1 order by 1";
    assert_eq!(site.at_warehouse(levels).await, ["3|1", "5|19"]);
    assert_eq!(site.at_warehouse(skipped).await, ["[]"]);
}

/// While the rows of one table are being stored another one is asked for: that waits, and holds up nobody who takes
/// something over.
async fn asked_for_another_one_meanwhile(site: &Site) {
    let endpoint = site.spec().settings.warehouse;
    let session = connect(Side::Warehouse, &endpoint, "test").await.unwrap();
    session.batch_execute("begin; lock table topics.grown in share mode").await.unwrap();
    let point = until_read(site, "topics.grown", "").await;
    assert_eq!(resync(site, "topics.grown", &[]).0, 0);
    let waits = "select exists (select from pg_locks
                                 where not granted and relation = 'topics.grown'::regclass)";
    site.until("its rows wait to be stored", waits).await;
    assert_eq!(resync(site, "topics.pairs", &[]).0, 0);
    let free = "set lock_timeout = '500ms';
                begin; lock table audit.epoch in row exclusive mode; rollback;
                reset lock_timeout";
    for _ in 0..8 {
        site.warehouse.batch_execute(free).await.unwrap();
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    session.batch_execute("rollback").await.unwrap();
    for (table, before) in [("topics.grown", point.as_str()), ("topics.pairs", "")] {
        until_read(site, table, before).await;
        until_streaming(site, table).await;
    }
}

/// A change of the row `id` as Debezium tells it with its schema, at a place of the log of the source.
fn change(topic: &str, (id, v): (i64, &str), place: i64) -> Record {
    let id_field = json!({ "type": "int64", "optional": false, "field": "id" });
    let row = json!({ "type": "struct", "field": "after", "optional": true, "fields": [
        id_field, { "type": "string", "optional": true, "field": "v" },
    ]});
    let table = topic.rsplit('.').next().unwrap();
    let value = json!({
        "schema": { "type": "struct", "fields": [row] },
        "payload": {
            "op": "u", "before": null, "after": { "id": id, "v": v }, "ts_ms": 1,
            "source": {
                "connector": "postgresql", "schema": "public", "table": table, "txId": 7,
                "lsn": place, "sequence": format!("[\"{}\",\"{place}\"]", place - 1), "ts_ms": 1,
            },
        },
    });
    let key = json!({
        "schema": { "type": "struct", "fields": [id_field] }, "payload": { "id": id },
    });
    Record::new(topic, &key.to_string(), &value.to_string())
}

/// A site of tables `a` and `b`, each with a row and a topic that tells it, at places behind those of its source's log.
async fn told_by_hand(mock: &Mock, name: &str, place: i64, fields: &str) -> Site {
    let site = Site::new(name).await;
    site.shop("create table a (id bigint primary key, v text); insert into a values (1, 'one')")
        .await;
    site.shop("create table b (id bigint primary key, v text); insert into b values (1, 'one')")
        .await;
    for topic in [A, B] {
        mock.create(topic, 1);
        mock.topics().write(vec![change(topic, (1, "one"), place)]).await;
    }
    read_by_hand(mock, &site, fields);
    site
}

/// Its files, as those of a group that nobody was in before.
fn read_by_hand(mock: &Mock, site: &Site, fields: &str) {
    let fields = format!("url: \"${{SHOP_URL}}\"\n{fields}");
    site.topics(&mock.address(), "\"shop.*\"", &fields);
}

const A: &str = "shop.public.a";
const B: &str = "shop.public.b";

async fn end_of_log(site: &Site) -> i64 {
    let end = "select (pg_current_wal_insert_lsn() - '0/0')::int8";
    site.at_source(end).await[0].parse().unwrap()
}

async fn rows(site: &Site, table: &str) -> Vec<String> {
    site.at_warehouse(&format!("select id, v from cleansed.{table} order by id")).await
}

/// A server whose log counts from lower than its predecessor's did: nothing of it is newer than what is stored, until
/// somebody says that it is.
#[test]
fn readagain_from_a_server_whose_log_is_lower() {
    block_on(async {
        let (mock, former) = (Mock::start(), 1 << 50);
        let site = told_by_hand(&mock, "lower", former, "").await;
        let running = site.start();
        let there = |rows: u32| format!("select count(*) = {rows} from cleansed.a");
        site.until("its row is there", &there(1)).await;
        // its own changes count as late ones
        site.shop("insert into a values (2, 'two'); update a set v = 'new' where id = 1").await;
        let place = end_of_log(&site).await;
        mock.topics().write(vec![change(A, (1, "new"), place), change(A, (2, "two"), place)]).await;
        site.until("what is new is there", &there(2)).await;
        assert_eq!(rows(&site, "a").await, ["1|one", "2|two"]);
        let stopped = "select state = 'stopped' from audit.tables where table_name = 'cleansed.a'";
        assert_eq!(resync(&site, "cleansed.a", &[]).0, 0);
        site.until("it stops", stopped).await;
        let [_, reason, remedy] = &site.state("cleansed.a").await[..] else { panic!() };
        assert!(reason.contains("and the table has changes of 40000/0"), "{reason}");
        assert_eq!(rows(&site, "a").await, ["1|one", "2|two"]);
        // as it is told
        let (_, remedy) = remedy.split_once("have all rows count as older: ").unwrap();
        let (statement, _) = remedy.split_once(';').unwrap();
        site.warehouse.batch_execute(statement).await.unwrap();
        assert_eq!(resync(&site, "cleansed.a", &[]).0, 0);
        until_read(&site, "cleansed.a", "").await;
        until_streaming(&site, "cleansed.a").await;
        assert_eq!(rows(&site, "a").await, ["1|new", "2|two"]);
        // what it tells once more is in the rows, and what is new is newer
        site.shop("update a set v = 'newer' where id = 2").await;
        let behind = end_of_log(&site).await;
        let told = vec![
            change(A, (1, "stale"), place),
            change(A, (2, "newer"), behind),
            change(A, (3, "three"), behind),
        ];
        mock.topics().write(told).await;
        site.until("they are there", &there(3)).await;
        assert_eq!(rows(&site, "a").await, ["1|new", "2|newer", "3|three"]);
        running.stop().await.unwrap();
    });
}

/// While a table waits for being read its changes fill what may be kept: its topic rests until it is read.
#[test]
fn readagain_while_nothing_more_may_be_kept() {
    block_on(async {
        let mock = Mock::start();
        let site = told_by_hand(&mock, "fullread", 1_000, "").await;
        site.file(
            "siltstone.yaml",
            "warehouse: { url: \"${WAREHOUSE_URL}\" }\nadmin: { listen: \"127.0.0.1:0\" }\n\
             batch: { max_rows: 10 }\npending: { max_bytes: 100KiB }\n",
        );
        let running = site.start();
        for table in ["a", "b"] {
            site.until("its row is there", &format!("select count(*) = 1 from cleansed.{table}"))
                .await;
        }
        let open = Open::new(&site, "insert into a values (2, 'open')").await;
        assert_eq!(resync(&site, "cleansed.a", &[]).0, 0);
        open.is_awaited(&site).await;
        let wide = "x".repeat(1_000);
        let behind = end_of_log(&site).await + (1 << 40);
        let changes = |topic: &str, ids: std::ops::Range<i64>| -> Vec<Record> {
            ids.map(|id| change(topic, (id, &wide), behind + id)).collect()
        };
        mock.topics().write(changes(A, 10..400)).await;
        let rests =
            "select reason like '%cleansed.a is being read again' and remedy like 'nothing, %'
                       from audit.resting where topic = 'shop.public.a'";
        site.until("its topic rests", rests).await;
        mock.topics().write(changes(B, 10..200)).await;
        site.until("the other one goes on", "select count(*) = 191 from cleansed.b").await;
        let kept = "select sum(bytes) <= 100 * 1024 from audit.pending";
        assert_eq!(site.at_warehouse(kept).await, ["t"]);
        open.is_awaited(&site).await;
        open.commit().await;
        until_read(&site, "cleansed.a", "").await;
        site.until("all is there", "select count(*) = 392 from cleansed.a").await;
        site.until("nothing rests", "select count(*) = 0 from audit.resting").await;
        until_streaming(&site, "cleansed.a").await;
        assert_eq!(site.at_warehouse("select count(*) from audit.pending").await, ["0"]);
        running.stop().await.unwrap();
    });
}

/// A member that finds that records are lost while another one has taken its partition, and read on, puts nothing back.
#[test]
fn readagain_is_not_asked_by_who_has_lost_its_partition() {
    block_on(async {
        let mock = Mock::start();
        let site = told_by_hand(&mock, "outrun", 1_000, "offset_lost: resync\n").await;
        site.catch_up().await;
        let stored = "select position from audit.progress where partition = 'shop.public.a/0'";
        assert_eq!(site.at_warehouse(stored).await, ["1"]);
        // it is behind the end of what is there
        let lose = "update audit.progress set position = 9 where partition = 'shop.public.a/0'";
        site.warehouse.batch_execute(lose).await.unwrap();
        read_by_hand(&mock, &site, "offset_lost: resync\n");
        let halt = site.another_session().await;
        halt.batch_execute("begin; lock table audit.resting in access exclusive mode")
            .await
            .unwrap();
        let running = site.start();
        let waits = "select exists (select from pg_locks
                                     where not granted and relation = 'audit.resting'::regclass)";
        site.until("it has read where it is, and waits", waits).await;
        let other =
            "update audit.epoch set epoch = epoch + 1 where starts_with(resource, 'connector:');
                     update audit.progress set position = 1 where partition = 'shop.public.a/0'";
        site.warehouse.batch_execute(other).await.unwrap();
        halt.batch_execute("rollback").await.unwrap();
        mock.topics().write(vec![change(A, (2, "two"), 2_000)]).await;
        site.until("it goes on", "select count(*) = 2 from cleansed.a").await;
        assert_eq!(site.at_warehouse(stored).await, ["2"]);
        let asked = "select count(*) from audit.snapshot_chunks";
        assert_eq!(site.at_warehouse(asked).await, ["0"]);
        running.stop().await.unwrap();
    });
}

/// A request that has all members begin anew is carried out also where one long transaction follows the other.
#[test]
fn readagain_is_begun_between_long_transactions() {
    block_on(async {
        let mock = Mock::start();
        let site = told_by_hand(&mock, "longones", 1_000, "").await;
        site.file(
            "siltstone.yaml",
            "warehouse: { url: \"${WAREHOUSE_URL}\" }\nadmin: { listen: \"127.0.0.1:0\" }\n\
             batch: { max_rows: 1 }\n",
        );
        let running = site.start();
        for table in ["a", "b"] {
            site.until("its row is there", &format!("select count(*) = 1 from cleansed.{table}"))
                .await;
        }
        let slow = "create function slow() returns trigger language plpgsql as
                    $$ begin perform pg_sleep(3); return null; end $$;
                    create trigger slow after insert on cleansed.b for each row execute function slow()";
        site.warehouse.batch_execute(slow).await.unwrap();
        let behind = end_of_log(&site).await + (1 << 40);
        let changes = (2..40).map(|id| change(B, (id, "slow"), behind + id)).collect();
        mock.topics().write(changes).await;
        site.until("it is at it", "select count(*) = 2 from cleansed.b").await;
        assert_eq!(resync(&site, "cleansed.a", &[]).0, 0);
        site.until("it is begun", "select count(*) = 0 from audit.requests where state = 'open'")
            .await;
        let few = "select count(*) <= 4 from cleansed.b";
        assert_eq!(site.at_warehouse(few).await, ["t"]);
        until_read(&site, "cleansed.a", "").await;
        site.warehouse.batch_execute("drop trigger slow on cleansed.b").await.unwrap();
        until_streaming(&site, "cleansed.a").await;
        site.until("the others are there", "select count(*) = 39 from cleansed.b").await;
        running.stop().await.unwrap();
    });
}

/// Reading a table again is no remedy for records that are in its topic and not read yet.
#[test]
fn readagain_is_not_counselled_where_its_topic_is_not_read_yet() {
    block_on(async {
        let mock = Mock::start();
        let site = told_by_hand(&mock, "behind", 1_000, "").await;
        site.catch_up().await;
        site.shop("insert into a values (2, 'two'); update b set v = 'other'").await;
        mock.topics().write(vec![change(A, (2, "two"), 2_000)]).await;
        let (code, told) = said(&site, &["verify"]);
        assert_eq!(code, 65, "{told}");
        let behind = "cleansed.a: not compared: 1 record of its topics is not read yet";
        assert!(told.contains(behind) && !told.contains("missing in the warehouse"), "{told}");
        // of the other one nothing is to come
        assert!(!told.contains("resync cleansed.a"), "{told}");
        assert!(told.contains("remedy: siltstone table resync cleansed.b"), "{told}");
    });
}

/// Of a database of which its topics do not tell no row is compared.
#[test]
fn readagain_of_another_database_is_not_compared() {
    block_on(async {
        let mock = Mock::start();
        let site = told_by_hand(&mock, "elsewhere", 1_000, "").await;
        let record = change(A, (1, "one"), 2_000);
        let mut value = record.json();
        value["payload"]["source"]["db"] = "far".into();
        let value = Some(value.to_string().into());
        mock.topics().write(vec![Record { value, ..record }]).await;
        site.catch_up().await;
        site.shop("truncate a").await;
        let (code, told) = said(&site, &["verify"]);
        assert_eq!(code, 78, "{told}");
        assert!(told.contains("and its topics tell of far"), "{told}");
        assert!(told.contains("mend url in connectors/shop.yaml"), "{told}");
    });
}
