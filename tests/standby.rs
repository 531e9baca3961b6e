//! Rows are read at a physical standby of the source: exact under writers, without load for the source, and
//! a standby that is behind, away or in conflict keeps its tables waiting and nobody else.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use siltstone::demo::cluster::Cluster;
use siltstone::postgres::{Session, Side, connect};
use tokio::task::JoinHandle;

use crate::ranges::{assert_exact, big, files, work};
use crate::support::{Dice, Site, block_on, clusters, with_standby};

/// The URL of a site's source database at a server.
fn shop_at(site: &Site, server: &Cluster) -> String {
    server.url(&format!("{}_shop", site.name))
}

fn read_at(site: &Site, standby: &Cluster, fields: &str) {
    read_from(site, &shop_at(site, standby), fields);
}

fn read_from(site: &Site, url: &str, fields: &str) {
    site.connector(&format!(
        "tables: [\"public.*\"]\ntarget_schema: cleansed\nsnapshot: {{ url: \"{url}\"{fields} }}\n"
    ));
}

/// Writers in sessions of their own, whose transactions overlap and stay open for a while.
pub struct Writers {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<u64>>,
}

impl Writers {
    pub fn start(site: &Site, rows: u32) -> Writers {
        let stop = Arc::new(AtomicBool::new(false));
        let write = |seed: u64| {
            let (endpoint, stop) = (site.source_endpoint.clone(), stop.clone());
            tokio::spawn(async move {
                let session = connect(Side::Source, &endpoint, "writer").await.unwrap();
                session.batch_execute("set search_path to public").await.unwrap();
                let (mut dice, mut done) = (Dice::new(seed * 7919), 0);
                while !stop.load(Ordering::SeqCst) {
                    let work = work(&mut dice, rows.into());
                    let pause = format!("select pg_sleep({}); commit", dice.below(30) as f64 / 1e3);
                    // two writers may want the same key
                    match session.batch_execute(&work.replace("commit", &pause)).await {
                        Ok(()) => done += 1,
                        Err(_) => session.batch_execute("rollback").await.unwrap(),
                    }
                }
                done
            })
        };
        let tasks = (1..=3).map(write).collect();
        Writers { stop, tasks }
    }

    /// How many transactions they have made.
    pub async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        let mut done = 0;
        for task in self.tasks {
            done += task.await.unwrap();
        }
        done
    }
}

/// The writers find their rows by the key.
const SCANS: &str = "select sum(seq_tup_read) from pg_stat_user_tables where schemaname = 'public'";
const LIVE: &str = "select count(*) > 3 and bool_and(state = 'streaming') from audit.tables";

/// First copy, a table that comes later, and a resync: all of it at the standby, beside writers.
async fn exact_under_writers(version: u32, settings: &[(&str, &str)]) {
    let rows = 30_000;
    let name = format!("standby{version}");
    let (source, standby) = with_standby(&name, version, settings).await;
    let site = Site::on("standby", &source, &clusters().await.1).await;
    files(&site);
    read_at(&site, &standby, ", workers: 4, max_rate: 8MiB");
    site.shop(&big(rows)).await;
    site.shop("create table plain (a int, b text); alter table plain replica identity full; insert into plain select i, 'p' from generate_series(1, 500) i").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = site.at_source(SCANS).await;
    let writers = Writers::start(&site, rows);
    let running = site.start();
    site.until("the first copy", LIVE).await;
    site.shop("create table later (id int primary key, v text); insert into later select i, 'l' from generate_series(1, 2000) i").await;
    site.until("a table that came later", "select exists (select from audit.tables where table_name = 'cleansed.later' and state = 'streaming')").await;
    for table in ["cleansed.big", "cleansed.dim_big"] {
        assert!(site.command(&["table", "resync", table, "--yes"]).status().unwrap().success());
    }
    let asked = "select count(*) >= 2 and bool_and(state = 'done') from audit.requests where verb = 'resync'";
    site.until("asked", asked).await;
    site.until("the resync", LIVE).await;
    let done = writers.stop().await;
    assert!(done > 100, "only {done} transactions");
    // what a session has counted is told at most a second late
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(site.at_source(SCANS).await, before, "the source was read");
    assert!(running.stop().await.is_ok());
    site.catch_up().await;
    assert_exact(&site).await;
    let order = "select {} order by 1, 2";
    site.assert_equal(order, "a, b from plain", "a, b from cleansed.plain").await;
    site.assert_equal(order, "id, v from later", "id, v from cleansed.later").await;
    let read =
        connect(Side::Source, &standby.endpoint(&format!("{}_shop", site.name)), "test").await;
    let scans = read
        .unwrap()
        .query_one(
            "select sum(seq_scan + coalesce(idx_scan, 0))::int8 from pg_stat_user_tables",
            &[],
        )
        .await;
    assert!(scans.unwrap().get::<_, i64>(0) > 0);
    least_rights(site, &standby).await;
}

/// The rights that are printed are enough for a reading.
async fn least_rights(mut site: Site, standby: &Cluster) {
    let printed = site.command(&["sql", "source-role", "least"]).stdout(Stdio::piped()).output();
    let printed = String::from_utf8(printed.unwrap().stdout).unwrap();
    // the publication is there
    for line in printed.lines().filter(|line| !line.starts_with("create publication")) {
        site.shop(line).await;
    }
    site.shop("alter role least password 'le4st'").await;
    // the standby has to know of it too
    let end = site.at_source("select pg_current_wal_lsn()").await.remove(0);
    let replayed = format!("select bool_and(replay_lsn >= '{end}') from pg_stat_replication");
    for _ in 0..600 {
        if site.at_source(&replayed).await == ["t"] {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let as_role = |url: &str| format!("postgres://least:le4st@{}", url.split_once('@').unwrap().1);
    read_from(&site, &as_role(&shop_at(&site, standby)), "");
    site.source_url = as_role(&site.source_url);
    site.shop("update plain set b = 'least' where a < 9").await;
    for table in ["cleansed.plain", "cleansed.later"] {
        assert!(site.command(&["table", "resync", table, "--yes"]).status().unwrap().success());
    }
    site.catch_up().await;
    let order = "select {} order by 1, 2";
    site.assert_equal(order, "a, b from plain", "a, b from cleansed.plain").await;
    let states = "select distinct state from audit.tables";
    assert_eq!(site.at_warehouse(states).await, ["streaming"]);
}

#[test]
fn rows_are_read_at_a_standby_whose_replay_pauses() {
    block_on(exact_under_writers(15, &[("hot_standby_feedback", "on")]));
}

#[test]
fn rows_are_read_at_a_standby_by_a_slot_there() {
    // it is behind by what a busy one is
    let settings = [("hot_standby_feedback", "on"), ("recovery_min_apply_delay", "500ms")];
    block_on(exact_under_writers(18, &settings));
}

#[test]
fn what_is_no_standby_of_the_source_is_refused() {
    block_on(async {
        let (source, warehouse) = clusters().await;
        let site = Site::new("no_standby").await;
        site.shop("create table t (id int primary key); insert into t values (1)").await;
        warehouse.create_database(&format!("{}_shop", site.name)).await.unwrap();
        for (server, why) in
            [(warehouse, "it is another system"), (source, "it is not in recovery")]
        {
            read_at(&site, server, "");
            let error = site.try_catch_up().await.unwrap_err();
            assert!(error.reason().contains(why), "{error}");
            assert!(error.remedy_text().unwrap().contains("name a physical standby"), "{error}");
            let shown = site.command(&["validate", "--connect"]).stdout(Stdio::piped()).output();
            let shown = shown.unwrap();
            let text = String::from_utf8(shown.stdout).unwrap();
            assert!(shown.status.code() == Some(78) && text.contains(why), "{text}");
        }
        site.connector("tables: [\"public.*\"]\ntarget_schema: cleansed\n");
        site.catch_up().await;
        // there is nothing to read any more: it may be away
        read_from(&site, "postgres://shop@127.0.0.1:1/shop", "");
        site.shop("insert into t values (2)").await;
        site.catch_up().await;
        assert_eq!(site.at_warehouse("select count(*) from cleansed.t").await, ["2"]);
        // once there is a stream it may be none any more, as behind a failover
        read_at(&site, source, "");
        let running = site.start();
        let asked = ["table", "resync", "cleansed.t", "--yes"];
        assert!(site.command(&asked).status().unwrap().success());
        let waits = "select remedy like 'name a physical standby%' and reason like \
            '%waits for the standby: snapshot.url: it is not a standby%' from audit.tables";
        site.until("it waits", waits).await;
        site.shop("create table u (id int primary key)").await;
        site.until("it is found", "select count(*) = 2 from audit.tables").await;
        assert!(running.stop().await.is_ok());
        site.connector("tables: [\"public.*\"]\ntarget_schema: cleansed\n");
        site.catch_up().await;
        assert_eq!(site.state("cleansed.t").await, ["streaming", "", ""]);
    });
}

async fn at(server: &Cluster, database: &str) -> Session {
    connect(Side::Source, &server.endpoint(database), "test").await.unwrap()
}

async fn pause_state(standby: &Session) -> String {
    standby.query_one("select pg_get_wal_replay_pause_state()", &[]).await.unwrap().get(0)
}

/// Others flow while `big` waits for a standby, and says so.
async fn waits(site: &Site, why: &str, n: &mut i32) -> Vec<String> {
    let waits = format!(
        "select exists (select from audit.tables where table_name = 'cleansed.big' \
         and reason like '%waits for the standby: %{why}%')"
    );
    site.until(why, &waits).await;
    *n += 1;
    site.shop(&format!("insert into other values ({n})")).await;
    site.until("others", &format!("select exists (select from cleansed.other where id = {n})"))
        .await;
    site.state("cleansed.big").await
}

#[test]
fn a_standby_that_is_behind_away_or_in_conflict_is_waited_for() {
    block_on(async {
        let settings = [("max_standby_streaming_delay", "100ms"), ("hot_standby_feedback", "off")];
        let (source, mut standby) = with_standby("waits", 18, &settings).await;
        let site = Site::on("waits", &source, &clusters().await.1).await;
        site.shop("create table other (id int primary key)").await;
        // more than what fits between a server and its client
        site.shop("create table big (id int primary key, v text); insert into big select i, repeat(md5(i::text), 50) from generate_series(1, 12000) i").await;
        let mut n = 0;
        let database = format!("{}_shop", site.name);
        site.catch_up().await;
        // somebody else's pause stays
        at(&standby, "postgres").await.batch_execute("select pg_wal_replay_pause()").await.unwrap();
        site.shop("insert into other values (0)").await;
        read_at(&site, &standby, ", max_rate: 2MiB");
        let asked = ["table", "resync", "cleansed.big", "--yes"];
        assert!(site.command(&asked).status().unwrap().success());
        let running = site.start();
        let state = waits(&site, "the standby is behind", &mut n).await;
        assert!(state[1].starts_with("table resync"), "{state:?}");
        let session = at(&standby, "postgres").await;
        assert_eq!(pause_state(&session).await, "paused");
        drop(session);
        standby.stop_fast().await.unwrap();
        waits(&site, "connecting to", &mut n).await;
        standby.start_again().await.unwrap();
        // rows that the reading needs are removed at the source
        let reading = "select count(*) > 0 from pg_stat_activity where application_name = \
            'siltstone snapshot' and query like 'copy%' and datname = current_database()";
        let session = at(&standby, &database).await;
        let started = Instant::now();
        while !session.query_one(reading, &[]).await.unwrap().get::<_, bool>(0) {
            assert!(started.elapsed() < Duration::from_secs(150), "nothing is read at the standby");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        site.shop("delete from big where id % 3 = 0").await;
        site.shop("vacuum big").await;
        let state = waits(&site, "conflict with recovery", &mut n).await;
        assert!(state[2].contains("hot_standby_feedback"), "{state:?}");
        site.connector("tables: [\"public.*\"]\ntarget_schema: cleansed\n");
        read_at(&site, &standby, "");
        assert!(running.stop().await.is_ok());
        let running = site.start();
        let live = "select bool_and(state = 'streaming' and reason is null) from audit.tables";
        site.until("streaming", live).await;
        assert!(running.stop().await.is_ok());
        site.catch_up().await;
        site.assert_equal("select id, v from {} order by 1", "big", "cleansed.big").await;
    });
}

#[test]
fn a_standby_is_not_left_paused_by_a_kill() {
    block_on(async {
        let (source, standby) = with_standby("killed", 15, &[]).await;
        let site = Site::on("killed", &source, &clusters().await.1).await;
        site.shop("create table t (id int primary key); insert into t values (1)").await;
        site.catch_up().await;
        read_at(&site, &standby, "");
        let session = at(&standby, "postgres").await;
        let same = "select (pg_last_wal_replay_lsn() - $1::text::pg_lsn)::int8";
        // it replays all, and then cannot come to pause
        let startup = "select pid from pg_stat_activity where backend_type = 'startup'";
        let startup: i32 = session.query_one(startup, &[]).await.unwrap().get(0);
        let signal = |name: &str| {
            let told = Command::new("kill").args([name, &startup.to_string()]).status().unwrap();
            assert!(told.success());
        };
        let mut asked = false;
        for _ in 0..20 {
            let end = site.at_source("select pg_current_wal_lsn()").await.remove(0);
            let behind: i64 = session.query_one(same, &[&end]).await.unwrap().get(0);
            if behind < 0 {
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
            signal("-STOP");
            assert!(
                site.command(&["table", "resync", "cleansed.t", "--yes"])
                    .status()
                    .unwrap()
                    .success()
            );
            let mut child = site.spawn(&["run"]);
            for _ in 0..200 {
                asked = pause_state(&session).await == "pause requested";
                if asked {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            child.kill().unwrap();
            child.wait().unwrap();
            signal("-CONT");
            if asked {
                break;
            }
        }
        assert!(asked, "it never came to a pause");
        for _ in 0..100 {
            if pause_state(&session).await == "not paused" {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(pause_state(&session).await, "not paused");
        site.shop("insert into t values (2)").await;
        site.catch_up().await;
        assert_eq!(site.at_warehouse("select count(*) from cleansed.t").await, ["2"]);
    });
}

#[test]
fn what_was_open_as_a_table_was_published_is_among_its_rows() {
    block_on(async {
        let (source, standby) = with_standby("open", 15, &[]).await;
        let site = Site::on("open", &source, &clusters().await.1).await;
        site.shop("create table other (id int primary key)").await;
        read_at(&site, &standby, "");
        site.catch_up().await;
        site.shop("create table added (id int primary key); insert into added values (1)").await;
        let open = connect(Side::Source, &site.source_endpoint, "an open one").await.unwrap();
        open.batch_execute("begin; insert into public.added values (2)").await.unwrap();
        let running = site.start();
        let waits = "select state = 'snapshotting' and remedy like '%pg_terminate_backend(%' and reason like \
            '%waits for the standby: %the transaction of session % (an open one)%' \
            from audit.tables where table_name = 'cleansed.added'";
        site.until("it waits", waits).await;
        site.shop("insert into other values (1)").await;
        site.until("others flow", "select exists (select from cleansed.other)").await;
        open.batch_execute("insert into public.added values (3); commit").await.unwrap();
        let live = "select bool_and(state = 'streaming' and reason is null) from audit.tables";
        site.until("streaming", live).await;
        assert!(running.stop().await.is_ok());
        site.catch_up().await;
        site.assert_equal("select id from {} order by id", "added", "cleansed.added").await;
    });
}
