//! Transactions that arrive in chunks while they are open: what is rolled back of them, what breaks
//! meanwhile, and that nobody can tell afterwards how they came.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command};
use std::time::Duration;

use siltstone::demo::cluster::{Cluster, ClusterOptions};
use siltstone::postgres::{Session, Side, connect};

use crate::support::{Site, block_on, clusters, env, is_full};

/// A source that sends what it can as soon as it can.
async fn eager_cluster(name: &str) -> Cluster {
    let options = ClusterOptions::new(name, &env())
        .set("fsync", "off")
        .set("wal_level", "logical")
        .set("logical_decoding_work_mem", "64kB")
        .set("max_prepared_transactions", "10");
    Cluster::start(options).await.unwrap()
}

async fn session(site: &Site) -> Session {
    let session = connect(Side::Source, &site.source_endpoint, "test writer").await.unwrap();
    session.batch_execute("set search_path to public").await.unwrap();
    session
}

const TABLES: &str = "create table users (id bigint primary key, email text not null, country text);
    insert into users select i, 'u' || i, 'DE' from generate_series(1, 2000) i;
    create table orders (id bigint primary key, day date not null, amount numeric(10,2), note text);
    alter table orders alter note set storage external;
    insert into orders select i, date '2024-01-01' + (i % 40)::int, i, repeat('n', 3000) from generate_series(1, 1000) i;
    create table items (id bigint primary key, v text);
    insert into items select i, 'v' from generate_series(1, 2000) i;
    create table documents (id bigint primary key, n int, body text);
    alter table documents alter body set storage external;
    insert into documents select i, 0, repeat('d', 3000) from generate_series(1, 400) i;
    create table plain (a int, b text); alter table plain replica identity full;
    insert into plain select i % 50, 'p' from generate_series(1, 500) i;
    create table bin (id int primary key, v text); insert into bin select i, 'b' from generate_series(1, 500) i;
    create table events (id int primary key, v text)";

/// Tables of every history over them.
fn files(site: &Site) {
    let file = |name: &str, text: &str| site.file(&format!("schemas/{name}.yaml"), text);
    file(
        "dim_users",
        "table: cleansed.dim_users\nfrom: shop.public.users\nhistory: versions\nkey: [user_id]\n\
         columns:\n  user_id: { from: id, type: bigint }\n  email: { type: text }\n  country: { type: text }\n",
    );
    file("stg_users", "table: raw.stg_users\nfrom: shop.public.users\nlayout: raw\n");
    file(
        "fact_orders",
        "table: cleansed.fact_orders\nfrom: shop.public.orders\nkey: [order_id]\n\
         partition: { by: day, every: month, range: [\"2020-01-01\", \"+1y\"] }\n\
         columns:\n  order_id: { from: id, type: bigint }\n  day: { type: date, required: true }\n  \
         amount: { type: \"numeric(10,2)\" }\n  note: { type: text }\n",
    );
    file(
        "log_orders",
        "table: cleansed.log_orders\nfrom: shop.public.orders\nhistory: append\nkey: [order_id]\n\
         columns:\n  order_id: { from: id, type: bigint }\n  amount: { type: \"numeric(10,2)\" }\n",
    );
    file(
        "log_events",
        "table: cleansed.log_events\nfrom: shop.public.events\nhistory: append\nkey: [id]\n\
         columns:\n  id: { type: int }\n  v: { type: text }\n",
    );
}

/// Bytes below the spool's folder.
fn spooled(site: &Site) -> u64 {
    let mut sum = 0;
    let mut folders = vec![site.config().parent().unwrap().join("spool")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(about) if about.is_dir() => folders.push(entry.path()),
                Ok(about) => sum += about.len().max(1),
                Err(_) => {}
            }
        }
    }
    sum
}

async fn until_spooled(site: &Site, what: &str, is: impl Fn(u64) -> bool) {
    for _ in 0..600 {
        if is(spooled(site)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what}: not within 30 s, {} bytes are spooled", spooled(site));
}

const STREAMING: &str =
    "select coalesce(bool_and(state = 'streaming'), false) and count(*) > 0 from audit.tables";

async fn assert_exact(site: &Site) {
    for (source, warehouse) in [
        (
            "id, email, country from users",
            "user_id as id, email, country from cleansed.dim_users where is_current",
        ),
        (
            "id, day, amount, note from orders",
            "order_id as id, day, amount, note from cleansed.fact_orders",
        ),
        ("* from items", "* from cleansed.items"),
        ("* from documents", "* from cleansed.documents"),
        ("* from bin", "* from cleansed.bin"),
        (
            "a, b, count(*) from plain group by 1, 2",
            "a, b, count(*) from cleansed.plain group by 1, 2",
        ),
    ] {
        let ours = "to_jsonb(t) - '{_seq,_ord,_synced_at,_deleted_at,_row,_op}'::text[]";
        let query = format!("select {ours} as row from (select {{}}) t order by 1");
        site.assert_equal(&query, source, warehouse).await;
    }
    let nothing = [
        (
            "an event twice in raw",
            "select raw_data->>'seq' from raw.stg_users group by raw_data->>'seq', raw_data->'ord', \
             raw_data->'key' having count(*) > 1",
        ),
        (
            "overlapping versions",
            "select user_id from (select user_id, valid_to > lead(valid_from) over (partition by user_id \
             order by valid_from) as twice from cleansed.dim_users) v where twice",
        ),
        ("kept changes", "select table_name from audit.pending"),
    ];
    for (what, query) in nothing {
        assert_eq!(site.at_warehouse(query).await, Vec::<String>::new(), "{what}");
    }
}

/// How many transactions a site's slot has sent in chunks.
async fn sent_in_chunks(site: &Site) -> u64 {
    let query = format!(
        "select stream_txns from pg_stat_replication_slots where slot_name = 'siltstone_{}'",
        site.name
    );
    site.at_source(&query).await.first().map_or(0, |count| count.parse().unwrap())
}

/// A transaction with nearly everything, but for its commit; users from 1600 on, `plain` and the
/// documents from 300 on are left to others.
const LARGE: &[&str] = &[
    "begin",
    "insert into items select i, 'a' || i from generate_series(10001, 13000) i",
    "savepoint a",
    "update items set v = v || '!' where id between 10001 and 10500",
    "insert into events select i, 'rolled back' from generate_series(1, 1000) i",
    "savepoint b",
    "delete from items where id between 10501 and 12000",
    "insert into orders select i, date '2024-03-01', i, 'b' from generate_series(2001, 3500) i",
    "rollback to b",
    "savepoint c",
    "update users set country = 'c' where id <= 1200",
    "release c",
    "update users set email = email || 'a' where id between 1 and 1000",
    "rollback to a",
    "update users set country = 'T' where id between 1 and 1500",
    "savepoint d",
    "update orders set amount = amount + 1 where id <= 600",
    "update documents set n = n + 1 where id < 300",
    "savepoint d2",
    "update users set country = 'U' where id between 700 and 1500",
    "release d2",
    "release d",
    "update users set id = -id where id between 100 and 150",
    "update orders set id = id + 500000, day = day + 60 where id between 700 and 800",
    "update documents set id = -id where id between 100 and 200",
    "alter table items add column extra int default 7",
    "insert into items select i, 'with', i from generate_series(20001, 21500) i",
    "savepoint e",
    "alter table items add column gone text",
    "insert into items select i, 'e', i, 'gone' from generate_series(30001, 32000) i",
    "rollback to e",
    "insert into items select i, 'after e', i from generate_series(40001, 42000) i",
    "insert into events select i, 'before' from generate_series(1, 800) i",
    "insert into bin select i, 'before' from generate_series(1001, 2500) i",
    "truncate bin, events",
    "insert into bin select i, 'after' from generate_series(1, 1500) i",
    "insert into events select i, 'after' from generate_series(1, 800) i",
    "do $$ begin for i in 1..300 loop begin
        update items set v = 'l' || i where id = i;
        if i % 3 = 0 then raise exception 'no'; end if;
        exception when raise_exception then null; end; end loop; end $$",
    "delete from users where id between 200 and 250",
    "insert into users select i, 'new', 'N' from generate_series(200, 220) i",
];

#[test]
fn nobody_can_tell_whether_a_transaction_came_in_chunks_or_whole() {
    block_on(async {
        let source = eager_cluster("chunks-source").await;
        let site = Site::on("chunks", &source, &clusters().await.1).await;
        // the same source, taken without a spool
        let whole = Site::on("whole", &source, &clusters().await.1).await;
        let url = source.url(&format!("{}_shop", site.name));
        whole.file(
            "connectors/shop.yaml",
            &format!(
                "name: {}\nkind: postgres\nsource: shop\nurl: \"{url}\"\n\
                 tables: [\"public.*\"]\ntarget_schema: cleansed\n",
                whole.name
            ),
        );
        whole.file(
            "siltstone.yaml",
            "warehouse: { url: \"${WAREHOUSE_URL}\" }\nadmin: { listen: \"127.0.0.1:0\" }\n\
             spool: { path: siltstone.yaml }\n",
        );
        site.shop(TABLES).await;
        files(&site);
        files(&whole);
        let (running, other) = (site.start(), whole.start());
        site.until("streaming", STREAMING).await;
        whole.until("streaming", STREAMING).await;
        let (large, second, dropped) =
            (session(&site).await, session(&site).await, session(&site).await);
        dropped
            .batch_execute(
                "begin; insert into items select i, 'never' from generate_series(50001, 53000) i; \
                 update documents set n = -1 where id > 350",
            )
            .await
            .unwrap();
        second
            .batch_execute(
                "begin; insert into orders select i, date '2024-02-02', i, 'second' from generate_series(600001, 603000) i",
            )
            .await
            .unwrap();
        // items is altered by the large one, which waits for whoever has written to it
        until_spooled(&site, "two open ones", |bytes| bytes > 100_000).await;
        dropped.batch_execute("rollback").await.unwrap();
        for (n, step) in (1600..).zip(LARGE) {
            large.batch_execute(step).await.unwrap_or_else(|e| panic!("{step}: {e:?}"));
            site.shop_each(&[
                &format!("update users set country = 'small' where id = {n}"),
                &format!("insert into plain values ({n}, 'small'); delete from plain where a = {n} - 1600"),
            ])
            .await;
        }
        until_spooled(&site, "the large one", |bytes| bytes > 300_000).await;
        let last = 1599 + LARGE.len();
        let small = format!(
            "select count(*) = {} from cleansed.dim_users where country = 'small' and is_current \
             and user_id between 1600 and {last}",
            LARGE.len()
        );
        site.until("the small ones", &small).await;
        let large_ones = "select count(*) from cleansed.dim_users where country in ('T', 'U')";
        assert_eq!(site.at_warehouse(large_ones).await, ["0"]);
        second
            .batch_execute("update orders set note = 'x' where id > 602990; commit")
            .await
            .unwrap();
        large.batch_execute("commit").await.unwrap();
        site.shop("insert into items values (-1, 'behind', 1)").await;
        site.until("all", "select exists (select from cleansed.items where id = -1)").await;
        whole.until("all", "select exists (select from cleansed.items where id = -1)").await;
        until_spooled(&site, "empty", |bytes| bytes == 0).await;
        assert!(sent_in_chunks(&site).await >= 3);
        assert!(running.stop().await.is_ok());
        assert!(other.stop().await.is_ok());
        assert_exact(&site).await;
        let chunks_of_other = format!(
            "select stream_txns from pg_stat_replication_slots where slot_name = 'siltstone_{}'",
            whole.name
        );
        assert_eq!(site.at_source(&chunks_of_other).await, ["0"]);
        assert_same_orders(&site, &whole).await;
    });
}

/// Both warehouses have the same rows with the same orders, whatever was read by their snapshots.
async fn assert_same_orders(site: &Site, other: &Site) {
    for query in [
        "select id, v, extra, _seq, _ord from cleansed.items where v <> 'v' order by id",
        "select id, n, _seq, _ord from cleansed.documents where n > 0 or id < 0 order by id",
        "select id, v, _seq, _ord from cleansed.bin order by id",
        "select user_id, email, country, valid_from, _seq, _ord from cleansed.dim_users where country <> 'DE' order by 1, 4",
        "select order_id, amount, _seq, _ord from cleansed.fact_orders where amount <> order_id order by 1",
        "select order_id, amount, _op, _seq, _ord from cleansed.log_orders where _op <> 'r' order by _seq, _ord",
        "select id, v, _op, _seq, _ord from cleansed.log_events order by _seq, _ord",
        "select raw_data - 'snapshot' from raw.stg_users where raw_data->>'op' <> 'r' \
         order by (raw_data->>'seq')::bigint, (raw_data->>'ord')::bigint",
    ] {
        let (here, there) = (site.at_warehouse(query).await, other.at_warehouse(query).await);
        assert!(here.len() > 50, "{query}: only {} rows", here.len());
        assert_eq!(here.len(), there.len(), "{query}");
        for (here, there) in here.iter().zip(&there) {
            assert_eq!(here, there, "{query}");
        }
    }
}

#[test]
fn a_process_that_is_killed_while_it_spools_or_replays_loses_nothing() {
    block_on(async {
        let source = eager_cluster("spoolkill-source").await;
        let site = Site::on("spoolkill", &source, &clusters().await.1).await;
        site.shop(TABLES).await;
        files(&site);
        site.catch_up().await;
        let rounds = if is_full() { 8 } else { 3 };
        for round in 0..rounds {
            let writer = session(&site).await;
            let from = 100_000 * (round + 1);
            writer
                .batch_execute(&format!(
                    "begin; insert into items select i, 'x' || i from generate_series({from}, {from} + 20000) i; \
                     savepoint s; update users set country = 'never{round}'; rollback to s; \
                     update users set country = 'k{round}'"
                ))
                .await
                .unwrap();
            let mut child = site.spawn(&["run"]);
            until_spooled(&site, "a spool", |bytes| bytes > 200_000).await;
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(spooled(&site) > 0, "nothing was left behind");
            let mut child = site.spawn(&["run"]);
            site.shop(&format!("insert into plain values ({round}, 'small{round}')")).await;
            let small =
                format!("select exists (select from cleansed.plain where b = 'small{round}')");
            site.until("the small one", &small).await;
            until_spooled(&site, "another spool", |bytes| bytes > 500_000).await;
            writer
                .batch_execute(&format!(
                    "insert into items select i, 'y' || i from generate_series({from} + 20001, {from} + 60000) i; commit"
                ))
                .await
                .unwrap();
            let replays = "select count(*) > 0 from pg_stat_activity where datname = current_database() \
                and application_name like 'siltstone%apply' and backend_xid is not null";
            site.until("it replays", replays).await;
            tokio::time::sleep(Duration::from_millis(60 * round)).await;
            child.kill().unwrap();
            child.wait().unwrap();
        }
        site.catch_up().await;
        assert_exact(&site).await;
        assert_eq!(spooled(&site), 0);
        // sent anew and, in the last session, replayed
        assert!(sent_in_chunks(&site).await > rounds);
    });
}

#[test]
fn a_stop_in_a_replay_is_heard_and_leaves_nothing_half_done() {
    block_on(async {
        let source = eager_cluster("spoolstop-source").await;
        let site = Site::on("spoolstop", &source, &clusters().await.1).await;
        site.shop(TABLES).await;
        files(&site);
        site.catch_up().await;
        let running = site.start();
        site.until("streaming", STREAMING).await;
        let writer = session(&site).await;
        writer
            .batch_execute("begin; insert into items select i, repeat('x', 100) from generate_series(3000, 403000) i")
            .await
            .unwrap();
        until_spooled(&site, "all", |bytes| bytes > 45_000_000).await;
        writer.batch_execute("commit").await.unwrap();
        site.shop("update users set country = 'behind'").await;
        let replays = "select count(*) > 0 from pg_stat_activity where datname = current_database() \
            and application_name like 'siltstone%apply' and backend_xid is not null";
        site.until("it replays", replays).await;
        let asked = std::time::Instant::now();
        assert!(running.stop().await.is_ok());
        assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
        assert_eq!(spooled(&site), 0);
        let behind = "select count(*) from cleansed.dim_users where country = 'behind'";
        assert_eq!(site.at_warehouse(behind).await, ["0"]);
        site.catch_up().await;
        assert_exact(&site).await;
    });
}

#[test]
fn a_replay_that_waits_for_the_warehouse_keeps_the_connection() {
    block_on(async {
        let source = eager_cluster("spoolwait-source").await;
        let site = Site::on("spoolwait", &source, &clusters().await.1).await;
        site.shop(TABLES).await;
        files(&site);
        site.catch_up().await;
        site.shop("alter system set wal_sender_timeout = '2s'").await;
        site.shop("select pg_reload_conf()").await;
        let running = site.start();
        site.until("streaming", STREAMING).await;
        let writer = session(&site).await;
        writer
            .batch_execute(
                "begin; insert into items select i, 'x' || i from generate_series(3000, 303000) i",
            )
            .await
            .unwrap();
        until_spooled(&site, "most", |bytes| bytes > 9_000_000).await;
        let walsender =
            "select pid from pg_stat_replication where application_name = 'siltstone stream'";
        let before = site.at_source(walsender).await;
        assert_eq!(before.len(), 1);
        site.warehouse
            .batch_execute("begin; lock table cleansed.items in share mode")
            .await
            .unwrap();
        writer.batch_execute("commit").await.unwrap();
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert!(spooled(&site) > 9_000_000, "it did not wait");
        site.warehouse.batch_execute("commit").await.unwrap();
        site.until("all", "select count(*) = 302001 from cleansed.items").await;
        assert_eq!(site.at_source(walsender).await, before);
        assert!(running.stop().await.is_ok());
        assert_exact(&site).await;
    });
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn get(port: u16, path: &str) -> String {
    // the service may be just about to listen
    let connect = || TcpStream::connect(("127.0.0.1", port));
    let mut stream = (0..300)
        .find_map(|_| connect().map_err(|_| std::thread::sleep(Duration::from_millis(100))).ok())
        .unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
    write!(stream, "{head}Authorization: Bearer s3cret\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn settings(site: &Site, port: u16, more: &str) {
    site.file(
        "siltstone.yaml",
        &format!(
            "warehouse: {{ url: \"${{WAREHOUSE_URL}}\" }}\n\
             admin: {{ listen: \"127.0.0.1:{port}\", token: s3cret }}\n{more}"
        ),
    );
}

#[test]
fn a_full_spool_makes_large_transactions_come_whole() {
    block_on(async {
        let source = eager_cluster("full-source").await;
        let site = Site::on("full", &source, &clusters().await.1).await;
        site.shop(TABLES).await;
        files(&site);
        site.catch_up().await;
        let port = free_port();
        settings(&site, port, "spool: { path: elsewhere/spool, max: 1MiB }\n");
        let log = site.config().with_file_name("log");
        let mut command = site.command(&["run"]);
        let mut child = command.stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap();
        site.until(
            "streaming",
            "select count(*) > 0 from audit.owner where jsonb_array_length(backends) > 2",
        )
        .await;
        let writer = session(&site).await;
        writer
            .batch_execute(
                "begin; insert into items select i, 'x' from generate_series(3000, 5000) i",
            )
            .await
            .unwrap();
        let name = &site.name;
        let shown = |what: &str| get(port, "/metrics").contains(what);
        for _ in 0..200 {
            let status = get(port, "/status");
            if status.contains("\"spool_bytes\":") && !status.contains("\"spool_bytes\":0") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let folder = site.config().with_file_name("elsewhere").join("spool").join(name);
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), 1);
        let zero = format!("siltstone_spool_bytes{{connector=\"{name}\"}} 0\n");
        assert!(!shown(&zero), "{}", get(port, "/metrics"));
        writer
            .batch_execute("insert into items select i, 'x' || i from generate_series(10000, 60000) i; savepoint s; delete from items; rollback to s")
            .await
            .unwrap();
        let gave_up = format!("siltstone_spool_fallbacks_total{{connector=\"{name}\"}} 1\n");
        for _ in 0..200 {
            if shown(&gave_up) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(shown(&gave_up), "{}", get(port, "/metrics"));
        site.shop("insert into plain values (1, 'small')").await;
        site.until("the small one", "select exists (select from cleansed.plain where b = 'small')")
            .await;
        let before = sent_in_chunks(&site).await;
        writer.batch_execute("update users set country = 'W'; commit").await.unwrap();
        site.until(
            "the large one",
            "select count(*) = 2000 from cleansed.dim_users where country = 'W'",
        )
        .await;
        assert_eq!(sent_in_chunks(&site).await, before);
        assert!(shown(&zero));
        child.kill().unwrap();
        child.wait().unwrap();
        let said = std::fs::read_to_string(log).unwrap();
        assert!(said.contains("large ones arrive whole at their commit"), "{said}");
        assert!(said.contains("1048576 bytes of disk"), "{said}");
        assert_exact(&site).await;
    });
}

#[test]
fn prepared_transactions_arrive_when_they_are_committed() {
    block_on(async {
        let source = eager_cluster("prepared-source").await;
        let site = Site::on("prepared", &source, &clusters().await.1).await;
        site.shop(TABLES).await;
        files(&site);
        site.catch_up().await;
        let running = site.start();
        site.until("streaming", STREAMING).await;
        for (n, name) in (1i64..).zip(["kept", "dropped", "restarted"]) {
            let from = n * 10_000;
            site.shop(&format!(
                "begin; insert into items select i, '{name}' from generate_series({from}, {from} + 3000) i; \
                 savepoint s; delete from items where v = '{name}'; rollback to s; \
                 update users set country = '{name}' where id between {n} * 500 and {n} * 500 + 400; \
                 prepare transaction '{name}'"
            ))
            .await;
        }
        until_spooled(&site, "prepared", |bytes| bytes > 300_000).await;
        site.shop("insert into plain values (1, 'small')").await;
        site.until("the small one", "select exists (select from cleansed.plain where b = 'small')")
            .await;
        assert_eq!(site.at_warehouse("select count(*) from cleansed.items").await, ["2000"]);
        site.shop("commit prepared 'kept'").await;
        site.until("the first", "select count(*) = 5001 from cleansed.items").await;
        site.shop("rollback prepared 'dropped'").await;
        assert!(running.stop().await.is_ok());
        let running = site.start();
        // what was logged before the stored position the source does not send before the commit
        site.until("streaming", STREAMING).await;
        site.shop("commit prepared 'restarted'").await;
        site.until("the last", "select count(*) = 8002 from cleansed.items").await;
        until_spooled(&site, "empty", |bytes| bytes == 0).await;
        assert!(sent_in_chunks(&site).await >= 3);
        assert!(running.stop().await.is_ok());
        assert_exact(&site).await;
    });
}

#[test]
fn a_change_that_is_too_long_matters_only_if_it_is_committed() {
    block_on(async {
        let source = eager_cluster("long-source").await;
        let site = Site::on("long", &source, &clusters().await.1).await;
        settings(&site, 0, "max_row_bytes: 64KiB\n");
        site.shop(TABLES).await;
        files(&site);
        site.catch_up().await;
        let running = site.start();
        site.until("streaming", STREAMING).await;
        let writer = session(&site).await;
        writer
            .batch_execute(
                "begin; insert into items select i, 'x' from generate_series(3000, 5000) i; savepoint s; \
                 insert into documents values (1000, 1, repeat('l', 200000)); \
                 insert into items select i, 'x' from generate_series(6000, 8000) i; rollback to s; commit",
            )
            .await
            .unwrap();
        site.until("without it", "select count(*) = 4001 from cleansed.items").await;
        assert_eq!(site.at_warehouse(STREAMING).await, ["t"]);
        writer
            .batch_execute(
                "begin; insert into items select i, 'x' from generate_series(6000, 8000) i; \
                 insert into documents values (1000, 1, repeat('l', 200000)); \
                 insert into items select i, 'x' from generate_series(9000, 10000) i; commit",
            )
            .await
            .unwrap();
        site.until("with it", "select count(*) = 7003 from cleansed.items").await;
        let [state, reason, remedy] = &site.state("cleansed.documents").await[..] else { panic!() };
        assert_eq!(state, "stopped");
        assert!(reason.contains("longer than max_row_bytes"), "{reason}");
        assert!(remedy.contains("max_row_bytes"), "{remedy}");
        assert!(running.stop().await.is_ok());
        settings(&site, 0, "");
        let asked =
            site.command(&["table", "resync", "cleansed.documents", "--yes"]).status().unwrap();
        assert!(asked.success());
        site.catch_up().await;
        assert_exact(&site).await;
    });
}

/// The largest resident memory that a process has had, in KiB.
fn peak_memory(child: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_huge_transaction_costs_disk_and_not_memory_and_holds_nobody_up() {
    block_on(async {
        let (rows, back) = if is_full() { (1_000_000, 300_000) } else { (100_000, 30_000) };
        let source = eager_cluster("huge-source").await;
        let site = Site::on("huge", &source, &clusters().await.1).await;
        site.shop(TABLES).await;
        files(&site);
        site.catch_up().await;
        let mut child = site.spawn(&["run"]);
        site.until(
            "it runs",
            "select count(*) > 0 from audit.owner where jsonb_array_length(backends) > 2",
        )
        .await;
        let writer = session(&site).await;
        let rest = rows - back;
        let part = |from: u32, count: u32| {
            format!(
                "insert into items select i, 'row number ' || i || repeat('.', 60) \
                 from generate_series({from}, {from} + {count} - 1) i"
            )
        };
        let row = 109; // in the spool
        let writing = async {
            writer.batch_execute("begin").await.unwrap();
            writer.batch_execute(&part(1_000_000, rest / 2)).await.unwrap();
            writer.batch_execute("savepoint s").await.unwrap();
            writer.batch_execute(&part(5_000_000, back)).await.unwrap();
            let both = u64::from(rest / 2 + back) * row * 97 / 100;
            until_spooled(&site, "with the savepoint", |bytes| bytes > both).await;
            let most = spooled(&site);
            writer.batch_execute("rollback to s").await.unwrap();
            let half = u64::from(rest / 2) * row * 103 / 100;
            until_spooled(&site, "without it", |bytes| bytes < half).await;
            writer.batch_execute(&part(2_000_000, rest / 2)).await.unwrap();
            let all = u64::from(rest) * row * 97 / 100;
            until_spooled(&site, "all that is left", |bytes| bytes > all).await;
            most
        };
        let others = async {
            for n in 0..500 {
                let id = 1 + n % 1000;
                site.shop(&format!("update users set country = 's{n}' where id = {id}")).await;
            }
        };
        let (most, ()) = tokio::join!(writing, others);
        let small =
            "select count(*) = 500 from cleansed.dim_users where country like 's%' and is_current";
        site.until("the small ones", small).await;
        let open = spooled(&site);
        assert_eq!(site.at_warehouse("select count(*) from cleansed.items").await, ["2000"]);
        writer.batch_execute("commit").await.unwrap();
        let committed = std::time::Instant::now();
        site.until("all", "select exists (select from cleansed.items where id = 2000000)").await;
        let took = committed.elapsed();
        until_spooled(&site, "empty", |bytes| bytes == 0).await;
        let peak = peak_memory(&child);
        println!(
            "{rows} rows, {back} of them rolled back: {most} bytes spooled with those, {open} at the \
             commit; visible {took:.1?} behind the commit; at most {peak} KiB of memory"
        );
        assert!(peak < 300 * 1024, "{peak} KiB");
        let bound = u64::from(rows) * row;
        assert!(most.max(open) < bound, "{most} and {open} bytes were spooled");
        assert!(sent_in_chunks(&site).await > 0);
        let stopped = Command::new("kill").arg(child.id().to_string()).status();
        assert!(stopped.unwrap().success());
        assert!(child.wait().unwrap().success());
        assert_exact(&site).await;
    });
}
