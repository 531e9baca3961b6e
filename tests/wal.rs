//! The source's disk: what is done when the warehouse cannot take what the slot keeps.

use std::process::Stdio;
use std::time::Duration;

use siltstone::demo::cluster::Cluster;
use siltstone::error::Kind;
use siltstone::postgres::{Endpoint, Session, Side, connect};
use tokio::sync::OnceCell;

use crate::service::{free_port, http, with_admin};
use crate::support::{Proxy, Site, block_on, clusters, own_cluster};

async fn site(name: &str) -> Site {
    static SOURCE: OnceCell<Cluster> = OnceCell::const_new();
    let source = SOURCE.get_or_init(|| own_cluster("wal-source")).await;
    Site::on(name, source, &clusters().await.1).await
}

const TABLES: &str = "create table t (id int primary key, v text not null);
    create table u (id int primary key, v text not null);
    alter table u alter v set storage plain;
    insert into t select i, 'v' from generate_series(1, 100) i;
    insert into u select i, repeat('v', 1000) from generate_series(1, 1000) i";

fn files(site: &Site, wal: &str) {
    site.connector(&format!("tables: [\"public.*\"]\ntarget_schema: cleansed\nwal: {wal}\n"));
    site.file(
        "schemas/log_t.yaml",
        "table: cleansed.log_t\nfrom: shop.public.t\nhistory: append\nkey: [id]\n\
         columns:\n  id: { type: integer }\n  v: { type: text }\n",
    );
    site.file(
        "schemas/t.yaml",
        "table: cleansed.t\nfrom: shop.public.t\nkey: [id]\n\
         columns:\n  id: { type: integer }\n  v: { type: text }\n",
    );
}

/// Half a megabyte of log, and as much again behind a checkpoint.
async fn some_log(site: &Site, n: u32) {
    site.shop(&format!("update u set v = repeat('{}', 1000) where id % 2 = {}", n % 10, n % 2))
        .await;
    site.shop(&format!("update t set v = 'n{n}' where id % 7 = {}", n % 7)).await;
}

/// As much log as makes the slot keep more than so many MiB. How many writes that takes depends on
/// when the last checkpoint was, and so on the test's neighbours.
async fn log_beyond(site: &Site, mib: u64) {
    for n in 0..200 {
        if retained(site).await > mib << 20 {
            return;
        }
        some_log(site, n).await;
    }
    panic!("the slot keeps no more than {} bytes", retained(site).await);
}

/// The log that the slot keeps, as far as the source can tell by now.
async fn retained(site: &Site) -> u64 {
    site.shop("checkpoint").await;
    let query = format!(
        "select pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::int8 from pg_replication_slots \
         where slot_name = 'siltstone_{}'",
        site.name
    );
    site.at_source(&query).await.first().map_or(0, |bytes| bytes.parse().unwrap())
}

async fn warehouse(site: &Site) -> Session {
    let endpoint = Endpoint::parse(&site.warehouse_url).unwrap();
    connect(Side::Warehouse, &endpoint, "test").await.unwrap()
}

async fn assert_same(site: &Site) {
    for table in ["t", "u"] {
        let there = format!("cleansed.{table}");
        site.assert_equal("select id, v from {} order by id", table, &there).await;
    }
    assert_eq!(site.at_warehouse("select count(*) from audit.pending").await, ["0"]);
}

const STREAMING: &str =
    "select coalesce(bool_and(state = 'streaming'), false) and count(*) = 3 from audit.tables";

#[test]
fn changes_land_while_the_merge_is_held_up() {
    block_on(async {
        // of its own: a transaction that another test leaves open keeps the log of every slot of its cluster
        let source = own_cluster("landing-source").await;
        let site = Site::on("landing", &source, &clusters().await.1).await;
        files(&site, "{ warn: 6MiB, land: 16MiB }");
        site.shop(TABLES).await;
        let running = site.start();
        site.until("streaming", STREAMING).await;
        let blocker = warehouse(&site).await;
        blocker.batch_execute("begin; lock table cleansed.t in exclusive mode").await.unwrap();
        let mut landed = false;
        for n in 0..600 {
            // how much log it comes to depends on when the last checkpoint was
            if n < 90 {
                some_log(&site, n).await;
            }
            let landing = "select count(*) > 0 from audit.tables where reason like 'landing: the slot keeps%'";
            let kept = "select count(*) > 1000 from audit.pending";
            landed = site.at_warehouse(landing).await == ["t"]
                && site.at_warehouse(kept).await == ["t"]
                && retained(&site).await < 6 << 20;
            if landed {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(landed, "the source still keeps {} bytes", retained(&site).await);
        blocker.batch_execute("commit").await.unwrap();
        site.until("streaming again", STREAMING).await;
        assert!(running.stop().await.is_ok());
        site.catch_up().await;
        assert_same(&site).await;
        let twice =
            "select id, _seq, _ord from cleansed.log_t group by 1, 2, 3 having count(*) > 1";
        assert_eq!(site.at_warehouse(twice).await, Vec::<String>::new());
        assert_eq!(site.at_warehouse("select count(*) from audit.gaps").await, ["0"]);
    });
}

#[test]
fn a_slot_goes_when_it_keeps_more_than_it_may() {
    block_on(async {
        let site = site("dropping").await;
        files(&site, "{ warn: 2MiB, land: 4MiB, drop_slot: 12MiB }");
        site.shop(TABLES).await;
        let running = site.start();
        site.until("streaming", STREAMING).await;
        // the log is kept for a transaction that stays open, whatever is confirmed
        let open = connect(Side::Source, &site.source_endpoint, "test").await.unwrap();
        open.batch_execute("begin; insert into public.t values (1000, 'open')").await.unwrap();
        let dropped = "select count(*) > 0 from audit.gaps where reason like '%wal.drop_slot%'";
        for n in 0..600 {
            // how much log it comes to depends on when the last checkpoint was
            if n < 60 {
                some_log(&site, n).await;
            }
            if site.at_warehouse(dropped).await == ["t"] {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        site.until("dropped", dropped).await;
        open.batch_execute("commit").await.unwrap();
        site.until("streaming again", STREAMING).await;
        some_log(&site, 5).await;
        assert!(running.stop().await.is_ok());
        site.catch_up().await;
        assert_same(&site).await;
    });
}

#[test]
fn a_slot_goes_while_the_warehouse_is_away() {
    block_on(async {
        let mut site = site("away").await;
        files(&site, "{ warn: 2MiB, land: 4MiB, drop_slot: 8MiB }");
        site.shop(TABLES).await;
        site.catch_up().await;
        let port = clusters().await.1.port();
        let nobody = Proxy::free_port().await;
        site.warehouse_url = site.warehouse_url.replace(&port.to_string(), &nobody.to_string());
        let running = site.start();
        let slots = format!(
            "select count(*) from pg_replication_slots where slot_name = 'siltstone_{}'",
            site.name
        );
        for n in 0..400 {
            // how much log it comes to depends on when the last checkpoint was
            if n < 60 {
                some_log(&site, n).await;
            }
            if site.at_source(&slots).await == ["0"] {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(site.at_source(&slots).await, ["0"]);
        // the next process knows it, too
        assert!(running.stop().await.is_ok());
        let _proxy = Proxy::at(nobody, port).await;
        let running = site.start();
        let again = "select count(*) > 0 from audit.gaps where reason like '%wal.drop_slot%'";
        site.until("read again", again).await;
        site.until("streaming again", STREAMING).await;
        assert!(running.stop().await.is_ok());
        site.catch_up().await;
        assert_same(&site).await;
    });
}

/// Nobody may come for hours to one that waits for a person.
#[test]
fn a_slot_goes_while_its_connector_has_stopped_beside_others() {
    block_on(async {
        let site = site("stopped").await;
        files(&site, "{ warn: 2MiB, land: 4MiB, drop_slot: 8MiB }");
        let name = site.name.clone();
        let other = format!(
            "name: {name}_other\nkind: postgres\nsource: other\nurl: \"${{SHOP_URL}}\"\n\
             tables: [own.w]\ntarget_schema: staging\n"
        );
        site.file("connectors/other.yaml", &other);
        site.shop(TABLES).await;
        site.shop("create schema own; create table own.w (id int primary key)").await;
        site.catch_up().await;
        let publication = format!("publication \"siltstone_{name}\"");
        site.shop(&format!("drop {publication}; create {publication} for all tables")).await;
        log_beyond(&site, 9).await;
        let running = site.start();
        let slots = format!(
            "select count(*) from pg_replication_slots where slot_name = 'siltstone_{name}'"
        );
        for _ in 0..200 {
            if site.at_source(&slots).await == ["0"] {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(site.at_source(&slots).await, ["0"]);
        site.shop("insert into own.w values (1)").await;
        site.until("the other flows", "select exists (select from staging.w)").await;
        site.shop(&format!("drop {publication}")).await;
        let asked = ["connector", "restart", &name, "--wait"];
        assert!(site.command(&asked).status().unwrap().success());
        let again = "select count(*) > 0 from audit.gaps where reason like '%wal.drop_slot%'";
        site.until("read again", again).await;
        site.until("streaming again", "select bool_and(state = 'streaming') from audit.tables")
            .await;
        assert!(running.stop().await.is_ok());
        site.catch_up().await;
        assert_same(&site).await;
    });
}

#[test]
fn what_is_held_stays_so_when_the_slot_of_a_connector_that_rests_goes() {
    block_on(async {
        let site = site("resting").await;
        files(&site, "{ warn: 2MiB, land: 4MiB, drop_slot: 8MiB }");
        site.shop(TABLES).await;
        site.catch_up().await;
        let ask = |arguments: &[&str]| {
            let asked = site.command(arguments).status().unwrap();
            assert!(asked.success(), "{arguments:?}");
        };
        let name = site.name.clone();
        let running = site.start();
        ask(&["table", "pause", "cleansed.u", "--wait"]);
        ask(&["connector", "pause", &name, "--wait"]);
        assert!(running.stop().await.is_ok());
        let stopped = "update audit.tables set state = 'stopped', reason = 'as it holds clear rows', \
            remedy = 'siltstone table resume cleansed.log_t' where table_name = 'cleansed.log_t'";
        site.warehouse.batch_execute(stopped).await.unwrap();
        log_beyond(&site, 9).await;
        let running = site.start();
        let gone = format!(
            "select count(*) = 0 from pg_replication_slots where slot_name = 'siltstone_{name}'"
        );
        for _ in 0..200 {
            if site.at_source(&gone).await == ["t"] {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(site.at_source(&gone).await, ["t"]);
        assert!(running.stop().await.is_ok());
        ask(&["connector", "resume", &name]);
        site.catch_up().await;
        site.assert_equal("select id, v from {} order by id", "t", "cleansed.t").await;
        let (u, log) = (site.state("cleansed.u").await, site.state("cleansed.log_t").await);
        assert_eq!(u[..2], ["paused", "an operator paused it"]);
        assert_eq!(log[..2], ["stopped", "as it holds clear rows"]);
        let old = "select count(*) from cleansed.u where v not like 'v%'";
        assert_eq!(site.at_warehouse(old).await, ["0"], "it was read");
        site.shop("update t set v = 'behind' where id = 3").await;
        ask(&["table", "resume", "--all"]);
        site.catch_up().await;
        assert_eq!(site.at_warehouse(STREAMING).await, ["t"]);
        assert_same(&site).await;
        let gaps = "select table_name, until_seq > after_seq from audit.gaps";
        assert_eq!(site.at_warehouse(gaps).await, ["cleansed.log_t|t"]);
        let behind = "select count(*) from cleansed.log_t where v = 'behind'";
        assert_eq!(site.at_warehouse(behind).await, ["1"]);
    });
}

#[test]
fn a_slot_that_may_be_held_back_stays_while_the_warehouse_is_away() {
    block_on(async {
        let mut site = site("heldaway").await;
        files(&site, "{ warn: 2MiB, land: 4MiB, drop_slot: 8MiB }\nslot_hold_back: 1h");
        site.shop(TABLES).await;
        site.catch_up().await;
        for mib in [3, 5, 7, 9] {
            log_beyond(&site, mib).await;
            site.catch_up().await;
        }
        assert!(retained(&site).await > 8 << 20);
        let port = clusters().await.1.port();
        let nobody = Proxy::free_port().await;
        site.warehouse_url = site.warehouse_url.replace(&port.to_string(), &nobody.to_string());
        let running = site.start();
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(retained(&site).await > 8 << 20, "the slot was dropped");
        let _proxy = Proxy::at(nobody, port).await;
        site.until("streaming", STREAMING).await;
        assert!(running.stop().await.is_ok());
        let read = "select count(*) from audit.snapshot_chunks where not fresh";
        assert_eq!(site.at_warehouse(read).await, ["0"], "nothing was read again");
        site.catch_up().await;
        assert_same(&site).await;
    });
}

#[test]
fn landing_is_of_no_use_against_a_transaction_that_stays_open() {
    block_on(async {
        // a transaction that stays open holds the log of every slot of its server
        let source = own_cluster("openlong").await;
        let site = Site::on("openlong", &source, &clusters().await.1).await;
        files(&site, "{ warn: 2MiB, land: 4MiB }");
        let port = free_port();
        with_admin(&site, port);
        site.shop(TABLES).await;
        let mut child = site.spawn(&["run"]);
        site.until("streaming", STREAMING).await;
        let open = connect(Side::Source, &site.source_endpoint, "test").await.unwrap();
        open.batch_execute("begin; insert into public.t values (1000, 'open')").await.unwrap();
        for n in 0..200 {
            if retained(&site).await > 4 << 20 {
                break;
            }
            some_log(&site, n).await;
            // or it would be behind, and rightly landed
            let merged = format!("select count(*) > 10 from cleansed.t where v = 'n{n}'");
            site.until("merged", &merged).await;
        }
        assert!(retained(&site).await > 4 << 20);
        let get = |path: &str| http(port, "GET", path, "r3ad").1;
        let warns = |status: &str| status.contains("\"step\":\"warn\"");
        for _ in 0..200 {
            if warns(&get("/status")) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(warns(&get("/status")), "{}", get("/status"));
        let why = site.command(&["why", "cleansed.t"]).stdout(Stdio::piped()).output().unwrap();
        let why = String::from_utf8(why.stdout).unwrap();
        assert!(why.contains("bytes of the source's log as it came to warn"), "{why}");
        let metrics = get("/metrics");
        let now = |line: &&str| line.starts_with("siltstone_wal_step{") && line.ends_with(" 1");
        let lines: Vec<&str> = metrics.lines().filter(now).collect();
        assert!(matches!(lines[..], [line] if line.contains("step=\"warn\"")), "{lines:?}");
        // it is not behind, and goes on as ever
        tokio::time::sleep(Duration::from_secs(6)).await;
        site.shop("update t set v = 'now' where id = 50").await;
        site.until("merged", "select v = 'now' from cleansed.t where id = 50").await;
        assert_eq!(site.at_warehouse(STREAMING).await, ["t"], "it was landed");
        open.batch_execute("commit").await.unwrap();
        site.until("the last", "select count(*) = 1 from cleansed.t where id = 1000").await;
        child.kill().unwrap();
        child.wait().unwrap();
        site.catch_up().await;
        assert_same(&site).await;
    });
}

#[test]
fn a_slot_that_is_invalidated_while_it_is_read_stops_with_the_remedy() {
    block_on(async {
        let source = own_cluster("invalidated").await;
        let site = Site::on("invalidated", &source, &clusters().await.1).await;
        site.shop("alter system set max_slot_wal_keep_size = '16MB'").await;
        site.shop("alter system set max_wal_size = '48MB'").await;
        site.shop("select pg_reload_conf()").await;
        files(&site, "{ warn: 1GiB }");
        site.shop(TABLES).await;
        let running = site.start();
        site.until("streaming", STREAMING).await;
        let blocker = warehouse(&site).await;
        blocker.batch_execute("begin; lock table cleansed.t in exclusive mode").await.unwrap();
        let lost = format!(
            "select wal_status = 'lost' from pg_replication_slots where slot_name = 'siltstone_{}'",
            site.name
        );
        for n in 0..200 {
            some_log(&site, n).await;
            site.shop("select pg_switch_wal()").await;
            site.shop("checkpoint").await;
            if site.at_source(&lost).await == ["t"] {
                break;
            }
        }
        assert_eq!(site.at_source(&lost).await, ["t"]);
        blocker.batch_execute("commit").await.unwrap();
        let error = tokio::time::timeout(Duration::from_secs(30), running.ended()).await;
        let error = error.expect("it goes on for more than 30 s").expect_err("it was lost");
        assert_eq!(error.kind(), Kind::PositionLost, "{error}");
        assert!(error.to_string().contains("siltstone table resync --all"), "{error}");
        let asked = site.command(&["table", "resync", "--all", "--yes"]).status().unwrap();
        assert!(asked.success());
        site.catch_up().await;
        assert_same(&site).await;
    });
}

#[test]
fn slots_of_nobody_are_named_at_the_start() {
    block_on(async {
        let site = site("orphans").await;
        files(&site, "{ warn: 1GiB }");
        // nobody sets its variables
        let disabled = "name: Old-one\nkind: postgres\nenabled: false\nurl: \"${NOBODY_SETS}\"\n";
        site.file("connectors/old.yaml", disabled);
        site.shop(TABLES).await;
        site.shop(
            "select pg_create_logical_replication_slot('siltstone_gone', 'pgoutput'); \
             select pg_create_logical_replication_slot('siltstone_old_one', 'pgoutput'); \
             select pg_create_logical_replication_slot('another', 'pgoutput')",
        )
        .await;
        let output = site
            .command(&["run", "--until-caught-up"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert!(output.status.success());
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        assert!(text.contains("select pg_drop_replication_slot('siltstone_gone')"), "{text}");
        let disabled = "connector Old-one is disabled, and its slot siltstone_old_one keeps the";
        assert!(text.contains(disabled), "{text}");
        assert!(!text.contains("nobody streams from slot siltstone_old_one"), "{text}");
        assert!(
            !text.contains("another")
                && !text.contains(&format!("slot('siltstone_{}')", site.name)),
            "{text}"
        );
        site.shop(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots \
              where slot_name in ('siltstone_gone', 'siltstone_old_one', 'another')",
        )
        .await;
    });
}

#[test]
fn what_is_held_back_is_confirmed_by_processes_that_live_shorter_than_that() {
    block_on(async {
        let site = site("shortlived").await;
        files(&site, "{ warn: 1GiB }\nslot_hold_back: 4s");
        site.shop(TABLES).await;
        site.catch_up().await;
        let confirmed = format!(
            "select (confirmed_flush_lsn - '0/0')::int8 from pg_replication_slots where slot_name = 'siltstone_{}'",
            site.name
        );
        let stored = "select position from audit.progress";
        let number = |lines: Vec<String>| lines[0].parse::<i64>().unwrap();
        some_log(&site, 1).await;
        site.catch_up().await;
        let first = number(site.at_warehouse(stored).await);
        assert!(number(site.at_source(&confirmed).await) < first, "it is held back");
        // each of these ends at once
        for n in 2..20 {
            if number(site.at_source(&confirmed).await) >= first {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            some_log(&site, n).await;
            site.catch_up().await;
        }
        let told = number(site.at_source(&confirmed).await);
        assert!(told >= first && told < number(site.at_warehouse(stored).await));
        let notes = "select count(*) < 62 from audit.held_back";
        assert_eq!(site.at_warehouse(notes).await, ["t"]);
    });
}

#[test]
fn a_warehouse_restored_from_a_backup_goes_on_within_the_hold_back() {
    block_on(async {
        let mut site = site("restored").await;
        files(&site, "{ warn: 1GiB }\nslot_hold_back: 1h");
        site.shop(TABLES).await;
        site.catch_up().await;
        site.shop("update t set v = 'before the backup' where id < 50").await;
        site.catch_up().await;
        let warehouses = &clusters().await.1;
        let admin =
            connect(Side::Warehouse, &warehouses.endpoint("postgres"), "test").await.unwrap();
        let name = format!("{}_warehouse", site.name);
        let kick = format!(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'"
        );
        let source = connect(Side::Source, &site.source_endpoint, "test").await.unwrap();
        source.batch_execute("set search_path to public").await.unwrap();
        admin.simple_query(&kick).await.unwrap();
        admin
            .batch_execute(&format!("create database \"{name}_backup\" template \"{name}\""))
            .await
            .unwrap();
        // an hour, more or less, in which much happens and is stored
        for n in 0..5 {
            some_log(&site, n).await;
            site.shop(&format!("insert into t values ({}, 'after the backup')", 1000 + n)).await;
            site.catch_up().await;
        }
        admin.simple_query(&kick).await.unwrap();
        admin.batch_execute(&format!("drop database \"{name}\"")).await.unwrap();
        admin
            .batch_execute(&format!("alter database \"{name}_backup\" rename to \"{name}\""))
            .await
            .unwrap();
        site.warehouse = warehouse(&site).await;
        let rows = "select count(*) from cleansed.t where id >= 1000";
        assert_eq!(site.at_warehouse(rows).await, ["0"], "the backup is older");
        site.shop("delete from t where id = 1001").await;
        site.catch_up().await;
        assert_same(&site).await;
        let read = "select count(*) from audit.snapshot_chunks where not fresh";
        assert_eq!(site.at_warehouse(read).await, ["0"], "nothing was read again");
        let twice =
            "select id, _seq, _ord from cleansed.log_t group by 1, 2, 3 having count(*) > 1";
        assert_eq!(site.at_warehouse(twice).await, Vec::<String>::new());
    });
}
