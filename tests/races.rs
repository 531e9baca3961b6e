//! The races between a snapshot, its slot and the stream, each brought about on purpose.

use std::time::{Duration, Instant};

use siltstone::demo::cluster::{Cluster, ClusterOptions};
use siltstone::postgres::{Endpoint, Session, Side, connect};

use crate::support::{Site, block_on, clusters, env};

const TABLE: &str = "create table t (id int primary key, v text); \
    insert into t select i, 'v' from generate_series(1, 100) i";

async fn quiet_cluster(name: &str) -> Cluster {
    let options = ClusterOptions::new(name, &env())
        .set("fsync", "off")
        .set("autovacuum", "off")
        .set("checkpoint_timeout", "1h")
        .set("wal_level", "logical");
    Cluster::start(options).await.unwrap()
}

async fn session(site: &Site) -> Session {
    let session = connect(Side::Source, &site.source_endpoint, "test writer").await.unwrap();
    session.batch_execute("set search_path to public").await.unwrap();
    session
}

/// Waits until the walsender that makes the slot waits for a transaction to end.
async fn slot_waits(site: &Site) {
    for _ in 0..400 {
        let waits = "select count(*) > 0 from pg_stat_activity \
            where backend_type = 'walsender' and wait_event_type = 'Lock'";
        if site.at_source(waits).await == ["t"] {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("no slot waits for a transaction");
}

async fn assert_same(site: &Site) {
    site.assert_equal("select id, v from {} order by id", "t", "cleansed.t").await;
}

#[test]
fn a_transaction_is_open_when_the_slot_is_made() {
    block_on(async {
        let source = quiet_cluster("open-source").await;
        let site = Site::on("open", &source, &clusters().await.1).await;
        site.shop(TABLE).await;
        let writer = session(&site).await;
        writer
            .batch_execute(
                "begin; update t set v = 'open' where id < 10; insert into t values (101, 'open')",
            )
            .await
            .unwrap();
        let running = site.start();
        slot_waits(&site).await;
        writer.batch_execute("delete from t where id = 20; commit").await.unwrap();
        site.until(
            "streaming",
            "select coalesce(bool_and(state = 'streaming'), false) from audit.tables",
        )
        .await;
        assert!(running.stop().await.is_ok());
        site.catch_up().await;
        assert_same(&site).await;
    });
}

#[test]
fn a_stop_does_not_wait_for_the_slot() {
    block_on(async {
        let source = quiet_cluster("stop-source").await;
        let site = Site::on("stop", &source, &clusters().await.1).await;
        site.shop(TABLE).await;
        let writer = session(&site).await;
        writer.batch_execute("begin; update t set v = 'open' where id < 10").await.unwrap();
        let running = site.start();
        slot_waits(&site).await;
        let asked = Instant::now();
        assert!(running.stop().await.is_ok());
        assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
        writer.batch_execute("commit").await.unwrap();
        site.catch_up().await;
        assert_same(&site).await;
    });
}

#[test]
fn a_commit_starts_exactly_at_the_snapshots_point() {
    block_on(async {
        let source = quiet_cluster("exact-source").await;
        let mut exact = 0;
        for round in 0..10 {
            let site = Site::on(&format!("exact{round}"), &source, &clusters().await.1).await;
            site.shop(TABLE).await;
            let (first, second, third) =
                (session(&site).await, session(&site).await, session(&site).await);
            // the slot waits for the first, takes note of the second, and is consistent when that
            // ends: the third began before, and ends behind
            first.batch_execute("begin; insert into t values (101, 'first')").await.unwrap();
            let running = site.start();
            slot_waits(&site).await;
            second.batch_execute("begin; insert into t values (102, 'second')").await.unwrap();
            first.batch_execute("commit").await.unwrap();
            tokio::time::sleep(Duration::from_millis(300)).await;
            slot_waits(&site).await;
            third.batch_execute("begin; insert into t values (103, 'third'); update t set v = 'third' where id = 5").await.unwrap();
            // it commits at once when the slot has its point, before anything else is logged
            let commit = format!(
                "do $$ begin loop exit when exists (select from pg_replication_slots \
                 where slot_name = 'siltstone_{}' and confirmed_flush_lsn is not null); \
                 end loop; end $$; commit",
                site.name
            );
            let (committed, second) =
                tokio::join!(third.batch_execute(&commit), second.batch_execute("commit"));
            committed.unwrap();
            second.unwrap();
            site.until("the third", "select exists (select from cleansed.t where id = 103)").await;
            let query = "select (select _seq from cleansed.t where id = 103) = as_of from audit.snapshot_chunks";
            exact += i32::from(site.at_warehouse(query).await == ["t"]);
            assert!(running.stop().await.is_ok());
            site.catch_up().await;
            assert_same(&site).await;
            if exact > 1 {
                return;
            }
        }
        assert!(exact > 0, "no commit came to start at the point");
    });
}

#[test]
fn a_delete_overtakes_its_chunk() {
    block_on(async {
        let site = Site::new("overtakes").await;
        site.shop(TABLE).await;
        site.catch_up().await;
        let endpoint = Endpoint::parse(&site.warehouse_url).unwrap();
        let blocker = connect(Side::Warehouse, &endpoint, "test").await.unwrap();
        // the rows are read and staged; the merge waits for us
        blocker.batch_execute("begin; lock table cleansed.t in share mode").await.unwrap();
        let asked = site.command(&["table", "resync", "cleansed.t", "--yes"]).status().unwrap();
        assert!(asked.success());
        let running = site.start();
        let waits = "select count(*) > 0 from pg_stat_activity where wait_event_type = 'Lock' \
            and application_name like 'siltstone%snapshot%'";
        site.until("the chunk waits", waits).await;
        site.shop_each(&[
            "delete from t where id < 50",
            "update t set id = -id where id > 90",
            "insert into t values (7, 'again')",
        ])
        .await;
        site.until("kept", "select count(*) > 50 from audit.pending").await;
        blocker.batch_execute("commit").await.unwrap();
        site.until("streaming", "select bool_and(state = 'streaming') from audit.tables").await;
        assert_same(&site).await;
        assert_eq!(site.at_warehouse("select count(*) from audit.pending").await, ["0"]);
        assert!(running.stop().await.is_ok());
    });
}

/// Waits until the apply lane waits for a lock of a kind.
async fn lane_waits(site: &Site, what: &str, event: &str) {
    let waits = format!(
        "select count(*) > 0 from pg_stat_activity where wait_event_type = 'Lock'
            and wait_event {event} and application_name = 'siltstone {} apply'",
        site.name
    );
    site.until(what, &waits).await;
}

const STREAMING: &str = "select coalesce(bool_and(state = 'streaming'), false) from audit.tables";

fn ask(site: &Site, words: &[&str]) {
    assert!(site.command(words).status().unwrap().success(), "{words:?}");
}

/// Pauses the table and lets it go on, up to where the batch waits that carries the last of it. It waits for
/// the session that is returned; `kept` changes wait for something else.
async fn about_to_go_on(site: &Site, kept: u32) -> Session {
    ask(site, &["table", "pause", "cleansed.t"]);
    site.until("paused", "select state = 'paused' from audit.tables").await;
    site.shop("update t set v = 'kept' where id = 1").await;
    let is_kept = format!("select count(*) = {} from audit.pending", kept + 1);
    site.until("kept", &is_kept).await;
    let endpoint = Endpoint::parse(&site.warehouse_url).unwrap();
    let (rows, position) = tokio::join!(
        connect(Side::Warehouse, &endpoint, "test"),
        connect(Side::Warehouse, &endpoint, "test")
    );
    let (rows, position) = (rows.unwrap(), position.unwrap());
    // its kept change waits for us; then the batch does that lets it go on
    rows.batch_execute("begin; lock table cleansed.t in exclusive mode").await.unwrap();
    ask(site, &["table", "resume", "cleansed.t"]);
    lane_waits(site, "the kept change waits", "= 'relation'").await;
    position.batch_execute("begin; select from audit.progress for update").await.unwrap();
    rows.batch_execute("commit").await.unwrap();
    site.until("applied", &format!("select count(*) = {kept} from audit.pending")).await;
    lane_waits(site, "the batch waits", "<> 'relation'").await;
    position
}

#[test]
fn a_table_is_to_be_read_just_as_it_goes_on() {
    block_on(async {
        let site = Site::new("goeson").await;
        site.shop(TABLE).await;
        let running = site.start();
        site.until("streaming", STREAMING).await;
        let position = about_to_go_on(&site, 0).await;
        ask(&site, &["table", "resync", "cleansed.t", "--yes"]);
        site.until("to be read", "select state = 'resyncing' from audit.tables").await;
        site.shop("update t set v = 'behind' where id = 2").await;
        position.batch_execute("commit").await.unwrap();
        site.until("read again", "select bool_and(state = 'done') from audit.snapshot_chunks")
            .await;
        site.until("streaming", STREAMING).await;
        assert!(running.stop().await.is_ok());
        site.catch_up().await;
        assert_same(&site).await;
    });
}

#[test]
fn a_letter_is_dropped_just_as_its_table_goes_on() {
    block_on(async {
        let site = Site::new("dropson").await;
        site.shop(TABLE).await;
        site.file(
            "schemas/t.yaml",
            "table: cleansed.t\nfrom: shop.public.t\nkey: [id]\n\
             columns:\n  id: { type: int }\n  v: { type: varchar(20) }\n",
        );
        let running = site.start();
        site.until("streaming", STREAMING).await;
        site.shop_each(&[
            "update t set v = 'longer than the column' where id = 5",
            "update t set v = 'behind it' where id = 5",
        ])
        .await;
        site.until("waits", "select count(*) = 1 from audit.pending where waits").await;
        let position = about_to_go_on(&site, 1).await;
        ask(&site, &["dead-letter", "drop", "--all", "--yes"]);
        let dropped = "select bool_and(state = 'dropped') from audit.dead_letters";
        site.until("dropped", dropped).await;
        position.batch_execute("commit").await.unwrap();
        site.until("nothing waits", "select count(*) = 0 from audit.pending").await;
        site.until("streaming", STREAMING).await;
        assert!(running.stop().await.is_ok());
        assert_same(&site).await;
    });
}

#[test]
fn somebody_else_makes_the_leaf_at_the_same_time() {
    block_on(async {
        let site = Site::new("leafrace").await;
        site.shop(TABLE).await;
        site.shop("alter table t add column day date not null default '2024-01-01'").await;
        site.file(
            "schemas/t.yaml",
            "table: cleansed.t\nfrom: shop.public.t\nkey: [id]\n\
             partition: { by: day, every: month, range: [\"2020-01-01\", \"+1y\"] }\n\
             columns:\n  id: { type: int }\n  v: { type: text }\n  day: { type: date, required: true }\n",
        );
        let running = site.start();
        let streaming = "select coalesce(bool_and(state = 'streaming' and reason is null), false) \
            from audit.tables";
        site.until("streaming", streaming).await;
        let endpoint = Endpoint::parse(&site.warehouse_url).unwrap();
        let other = connect(Side::Warehouse, &endpoint, "test").await.unwrap();
        other
            .batch_execute(
                "begin; create table cleansed.t_p202105 (like cleansed.t including defaults);
                 alter table cleansed.t attach partition cleansed.t_p202105
                   for values from ('2021-05-01') to ('2021-06-01')",
            )
            .await
            .unwrap();
        site.shop("insert into t values (1000, 'of May', '2021-05-05')").await;
        let waits = "select count(*) > 0 from pg_stat_activity where wait_event_type = 'Lock' \
            and application_name like 'siltstone%ddl'";
        site.until("the leaf is waited for", waits).await;
        other.batch_execute("commit").await.unwrap();
        site.until("the row", "select exists (select from cleansed.t where id = 1000)").await;
        assert_eq!(site.at_warehouse(streaming).await, ["t"]);
        assert!(running.stop().await.is_ok());
        assert_same(&site).await;
    });
}

#[test]
fn a_table_is_rewritten_between_the_slot_and_its_reading() {
    block_on(async {
        let source = quiet_cluster("rewritten-source").await;
        let site = Site::on("rewritten", &source, &clusters().await.1).await;
        site.connector(
            "tables: [\"public.*\"]\ntarget_schema: cleansed\nsnapshot: { workers: 1 }\n",
        );
        site.shop(TABLE).await;
        site.shop("create table a_first (id int primary key); insert into a_first values (1)")
            .await;
        // the first table's reading waits; the second is rewritten meanwhile
        let blocker = session(&site).await;
        let running = site.start();
        blocker.batch_execute("begin; lock table a_first in access exclusive mode").await.unwrap();
        for _ in 0..400 {
            let waits = "select count(*) > 0 from pg_stat_activity where wait_event_type = 'Lock' \
                and application_name = 'siltstone snapshot'";
            if site.at_source(waits).await == ["t"] {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        site.shop("vacuum full t").await;
        site.shop("update t set v = 'behind' where id = 1").await;
        blocker.batch_execute("commit").await.unwrap();
        site.until("streaming", "select coalesce(bool_and(state = 'streaming'), false) and count(*) = 2 from audit.tables").await;
        assert!(running.stop().await.is_ok());
        site.catch_up().await;
        assert_same(&site).await;
    });
}

#[test]
fn a_source_that_ends_idle_sessions_is_lived_with() {
    block_on(async {
        let site = Site::new("idle").await;
        site.shop(TABLE).await;
        let database = site.at_source("select current_database()").await.remove(0);
        site.shop_each(&[
            &format!(
                "alter database \"{database}\" set idle_in_transaction_session_timeout = '1s'"
            ),
            &format!("alter database \"{database}\" set idle_session_timeout = '2s'"),
            &format!("alter database \"{database}\" set statement_timeout = '1s'"),
        ])
        .await;
        let running = site.start();
        site.until(
            "streaming",
            "select coalesce(bool_and(state = 'streaming'), false) from audit.tables",
        )
        .await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        let writer = session(&site).await;
        writer
            .batch_execute("set idle_session_timeout to 0; update t set v = 'later' where id = 1")
            .await
            .unwrap();
        site.until("the update", "select v = 'later' from cleansed.t where id = 1").await;
        assert!(running.stop().await.is_ok());
    });
}

#[test]
fn a_lease_outlives_the_wait_for_a_slot() {
    block_on(async {
        let source = quiet_cluster("lease-source").await;
        let site = Site::on("lease", &source, &clusters().await.1).await;
        site.shop(TABLE).await;
        let writer = session(&site).await;
        writer.batch_execute("begin; update t set v = 'open' where id < 10").await.unwrap();
        let first = site.start();
        slot_waits(&site).await;
        let owner = "select owner, since from audit.owner where resource = 'connector:' || (select connector from audit.slots)";
        let before = site.at_warehouse(owner).await;
        let second = site.start();
        tokio::time::sleep(Duration::from_secs(9)).await;
        writer.batch_execute("commit").await.unwrap();
        site.until(
            "streaming",
            "select coalesce(bool_and(state = 'streaming'), false) from audit.tables",
        )
        .await;
        assert_eq!(site.at_warehouse(owner).await, before);
        assert!(second.stop().await.is_ok());
        assert!(first.stop().await.is_ok());
        assert_same(&site).await;
    });
}
