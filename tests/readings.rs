//! What keeps a table from being read, or from being published, is that table's trouble: the others flow.

use std::io::{Seek, SeekFrom, Write};
use std::time::Duration;

use siltstone::demo::cluster::{Cluster, ClusterOptions};
use siltstone::postgres::{Side, connect};

use crate::support::{Site, block_on, clusters, env};

const STREAMS: &str =
    "select bool_and(state = 'streaming' and reason is null and remedy is null) from audit.tables";

/// Others flow.
async fn flows(site: &Site, n: i32) {
    site.shop(&format!("insert into other values ({n})")).await;
    site.until("others", &format!("select exists (select from cleansed.other where id = {n})"))
        .await;
}

/// Waits until a table says why it waits for the source, and what ends that.
async fn waits(site: &Site, table: &str, (why, remedy): (&str, &str)) {
    let waits = format!(
        "select exists (select from audit.tables where table_name = 'cleansed.{table}'
            and reason like '%waits for the source: %{why}%' and remedy like '%{remedy}%')"
    );
    site.until(why, &waits).await;
}

#[test]
fn a_table_that_is_locked_is_published_later() {
    block_on(async {
        let site = Site::new("locked").await;
        site.shop(
            "create table other (id int primary key); create table a (id int primary key);
             insert into a values (1)",
        )
        .await;
        // as VACUUM and CREATE INDEX CONCURRENTLY do
        let lock = async |table: &str| {
            let locker = connect(Side::Source, &site.source_endpoint, "an index").await.unwrap();
            let lock = format!("begin; lock public.{table} in share update exclusive mode");
            locker.batch_execute(&lock).await.unwrap();
            locker
        };
        let why = ("(an index), which has locked", "pg_terminate_backend(");
        let locker = lock("a").await;
        let running = site.start();
        waits(&site, "a", why).await;
        flows(&site, 1).await;
        site.shop("insert into a values (2)").await;
        drop(locker);
        site.until("streaming", STREAMS).await;
        site.shop("create table b (id int primary key); insert into b values (1)").await;
        let locker = lock("b").await;
        waits(&site, "b", why).await;
        flows(&site, 2).await;
        site.shop("insert into b values (2)").await;
        drop(locker);
        let all = format!("{STREAMS} having count(*) = 3");
        site.until("all of them", &all).await;
        assert!(running.stop().await.is_ok());
        site.catch_up().await;
        for table in ["a", "b", "other"] {
            let here = format!("cleansed.{table}");
            site.assert_equal("select id from {} order by id", table, &here).await;
        }
    });
}

/// Nobody reads the events that a table missed while it could not be published: that stretch is told, and no
/// other. Who waits for a lock bars the way as well.
#[test]
fn what_a_table_of_events_missed_while_it_was_locked_is_a_gap() {
    block_on(async {
        let site = Site::new("lockedlog").await;
        site.shop("create table other (id int primary key); create table log (id int primary key); insert into log values (1)")
            .await;
        let file = "table: cleansed.log\nfrom: shop.public.log\nhistory: append\nkey: [id]\ncolumns:\n  id: { type: integer }\n";
        site.file("schemas/log.yaml", file);
        site.catch_up().await;
        let name = &site.name;
        site.shop(&format!("alter publication \"siltstone_{name}\" drop table log")).await;
        site.shop("insert into log values (2)").await;
        let missed = log_end(&site).await;
        let session =
            async |name| connect(Side::Source, &site.source_endpoint, name).await.unwrap();
        let reader = session("a reader").await;
        reader.batch_execute("begin; select from public.log").await.unwrap();
        let queue = session("a queue").await;
        let waiting = tokio::spawn(async move {
            let lock = "begin; lock public.log in access exclusive mode; rollback";
            queue.batch_execute(lock).await.unwrap();
        });
        let running = site.start();
        let shelved =
            "select state = 'paused' and reason like 'it waits for the source: %(a queue)%'
                         from audit.tables where table_name = 'cleansed.log'";
        site.until("it waits", shelved).await;
        flows(&site, 1).await;
        reader.batch_execute("commit").await.unwrap();
        waiting.await.unwrap();
        site.until("it goes on", STREAMS).await;
        site.shop("insert into log values (3)").await;
        site.until("the next", "select count(*) = 2 from cleansed.log").await;
        assert!(running.stop().await.is_ok());
        assert!(is_told(&site, &missed).await);
        let ids = "select string_agg(id::text, ' ' order by id) from cleansed.log";
        assert_eq!(site.at_warehouse(ids).await, ["1 3"]);
    });
}

async fn log_end(site: &Site) -> String {
    site.at_source("select (pg_current_wal_lsn() - '0/0')::int8").await.remove(0)
}

/// Whether a position is in a gap that is told.
async fn is_told(site: &Site, seq: &str) -> bool {
    let told = format!("select bool_or(after_seq < {seq} and until_seq >= {seq}) from audit.gaps");
    site.at_warehouse(&told).await == ["t"]
}

/// The stream tells a table from the moment it is published: a gap that ended where the stream stood would leave out
/// what was written between the two.
#[test]
fn a_gap_ends_where_the_table_is_published() {
    block_on(async {
        let site = Site::new("gapend").await;
        site.shop("create table log (id int primary key); insert into log values (1)").await;
        let file = "table: cleansed.log\nfrom: shop.public.log\nhistory: append\nkey: [id]\ncolumns:\n  id: { type: integer }\n";
        site.file("schemas/log.yaml", file);
        site.catch_up().await;
        let name = &site.name;
        site.shop(&format!("alter publication \"siltstone_{name}\" drop table log")).await;
        let writer = connect(Side::Source, &site.source_endpoint, "a vacuum").await.unwrap();
        let lock = "begin; lock public.log in share update exclusive mode";
        writer.batch_execute(lock).await.unwrap();
        let running = site.start();
        site.until("it is noted", "select count(*) > 0 from audit.gaps").await;
        site.shop("insert into log values (2)").await;
        let missed = log_end(&site).await;
        writer.batch_execute("commit").await.unwrap();
        site.until("it goes on", STREAMS).await;
        site.shop("insert into log values (3)").await;
        site.until("the next", "select count(*) = 2 from cleansed.log").await;
        assert!(running.stop().await.is_ok());
        assert!(is_told(&site, &missed).await);
        let open = "select count(*) from audit.gaps where until_seq is null";
        assert_eq!(site.at_warehouse(open).await, ["0"]);
    });
}

#[test]
fn a_source_without_a_slot_to_spare_keeps_only_what_is_to_be_read_waiting() {
    block_on(async {
        let options = ClusterOptions::new("narrow", &env()).set("max_replication_slots", "2");
        let source = Cluster::start(options).await.unwrap();
        let site = Site::on("narrow", &source, &clusters().await.1).await;
        site.shop("create table other (id int primary key); create table t (id int primary key)")
            .await;
        let running = site.start();
        site.until("streaming", STREAMS).await;
        site.shop("select pg_create_physical_replication_slot('another')").await;
        let asked = ["table", "resync", "cleansed.t", "--yes"];
        assert!(site.command(&asked).status().unwrap().success());
        waits(&site, "t", ("all replication slots are in use", "max_replication_slots")).await;
        flows(&site, 1).await;
        site.shop("select pg_drop_replication_slot('another')").await;
        let done = "select bool_and(state = 'done') from audit.requests";
        site.until("asked", done).await;
        site.until("streaming again", STREAMS).await;
        assert!(running.stop().await.is_ok());
    });
}

#[test]
fn a_table_with_a_corrupt_page_stops_alone() {
    block_on(async {
        let source = &clusters().await.0;
        let site = Site::new("corrupt").await;
        site.shop(
            "create table other (id int primary key); create table bad (id int);
             alter table bad replica identity full; insert into bad values (1), (2)",
        )
        .await;
        // what it writes is in no buffer
        site.shop("vacuum full bad").await;
        site.shop("checkpoint").await;
        let path = site.at_source("select pg_relation_filepath('bad')").await.remove(0);
        let path = source.data_dir().join(path);
        let mut file = std::fs::File::options().write(true).open(path).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.write_all(&[0xff; 8192]).unwrap();
        drop(file);
        let running = site.start();
        site.until(
            "it stops",
            "select exists (select from audit.tables where table_name = 'cleansed.bad' and state = 'stopped')",
        )
        .await;
        let state = site.state("cleansed.bad").await;
        assert!(state[1].contains("XX001") && state[2].contains("exclude it"), "{state:?}");
        flows(&site, 1).await;
        site.shop("truncate bad; insert into bad values (3)").await;
        let asked = ["table", "resync", "cleansed.bad", "--yes"];
        assert!(site.command(&asked).status().unwrap().success());
        site.until("it is mended", STREAMS).await;
        assert!(running.stop().await.is_ok());
        site.catch_up().await;
        site.assert_equal("select id from {} order by id", "bad", "cleansed.bad").await;
    });
}

#[test]
fn what_is_given_up_is_not_read_to_its_end() {
    block_on(async {
        let rows = 40_000;
        let site = Site::new("given_up").await;
        site.file(
            "schemas/a_wide.yaml",
            "table: cleansed.a_wide\nfrom: shop.public.a_wide\nkey: [id]\ncolumns:\n  id: { type: integer }\n  \
             v: { type: varchar(3) }\n",
        );
        site.connector(
            "tables: [\"public.*\"]\ntarget_schema: cleansed\nsnapshot: { workers: 1 }\n\
             dead_letters: { max_keys: 1 }\n",
        );
        site.shop(&format!(
            "create table a_wide (id int primary key, v text); create table other (id int primary key);
             insert into a_wide select i, repeat('v', 1000) from generate_series(1, {rows}) i;
             insert into other values (1)"
        ))
        .await;
        site.catch_up().await;
        let state = site.state("cleansed.a_wide").await;
        assert!(state[1].contains("more than 1 of the rows"), "{state:?}");
        assert_eq!(site.at_warehouse("select id from cleansed.other").await, ["1"]);
        // what a session has counted is told as it ends
        let read = "select seq_tup_read from pg_stat_user_tables where relname = 'a_wide'";
        let mut told = 0;
        for _ in 0..200 {
            told = site.at_source(read).await[0].parse().unwrap();
            if told > 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(told > 0 && told < rows, "{told} rows were read");
    });
}
