//! What an operator asks of a running service: pauses, stops, other files; and what a script that knows
//! Kafka Connect asks.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use siltstone::clock::Clock;
use siltstone::error::Error;
use siltstone::pipeline::{Options, Service};
use siltstone::serve::Board;
use siltstone::spec::Spec;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::service::{free_port, http, with_admin};

use crate::support::{Mock, Proxy, Site, block_on, end, signal};

const TABLES: &str = "create table users (id bigint primary key, email text);
    insert into users select i, 'u' || i from generate_series(1, 100) i;
    create table orders (id bigint primary key, amount int);
    insert into orders select i, i from generate_series(1, 100) i";

const STREAMING: &str =
    "select coalesce(bool_and(state = 'streaming'), false) and count(*) = 2 from audit.tables";

/// Runs a verb and waits for its answer.
fn ask(site: &Site, arguments: &[&str]) -> (bool, String) {
    let output = site.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).output();
    let output = output.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

async fn assert_same(site: &Site) {
    site.assert_equal("select id, email from {} order by id", "users", "cleansed.users").await;
    site.assert_equal("select id, amount from {} order by id", "orders", "cleansed.orders").await;
    assert_eq!(site.at_warehouse("select count(*) from audit.pending").await, ["0"]);
}

/// Drops a connector's slot, as soon as the source has ended the session that streamed from it.
async fn drop_slot(site: &Site, name: &str) {
    let of = format!("from pg_replication_slots where slot_name = 'siltstone_{name}'");
    while site.at_source(&format!("select active {of}")).await == ["t"] {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    site.shop(&format!("select pg_drop_replication_slot(slot_name) {of}")).await;
}

async fn count(site: &Site, table: &str) -> String {
    site.at_warehouse(&format!("select count(*) from cleansed.{table}")).await.remove(0)
}

#[test]
fn all_tables_are_paused_and_go_on() {
    block_on(async {
        let site = Site::new("allpause").await;
        site.shop(TABLES).await;
        let running = site.start();
        site.until("streaming", STREAMING).await;
        // nothing is held: that is answered, and nothing is done
        let (done, text) = ask(&site, &["table", "resume", "--all", "--wait"]);
        assert!(done && text.contains("there is no such table"), "{text}");
        let (done, text) = ask(&site, &["table", "pause", "--all", "--wait"]);
        assert!(done && text.contains("cleansed.users is paused"), "{text}");
        assert!(text.contains("cleansed.orders is paused"), "{text}");
        site.shop("insert into users values (101, 'later'); insert into orders values (101, 1)")
            .await;
        site.until("kept", "select count(*) = 2 from audit.pending").await;
        let (done, text) = ask(&site, &["table", "resume", "--all", "--wait"]);
        assert!(done && text.contains("cleansed.orders goes on"), "{text}");
        site.until("streaming again", STREAMING).await;
        let open = "select count(*) from audit.requests where state = 'open'";
        assert_eq!(site.at_warehouse(open).await, ["0"]);
        assert!(running.stop().await.is_ok());
        assert_same(&site).await;
    });
}

#[test]
fn a_paused_table_keeps_its_changes_and_the_others_go_on() {
    block_on(async {
        let site = Site::new("tablepause").await;
        site.shop(TABLES).await;
        let running = site.start();
        site.until("streaming", STREAMING).await;
        let (done, text) = ask(&site, &["table", "pause", "cleansed.users", "--wait"]);
        assert!(done && text.contains("cleansed.users is paused"), "{text}");
        site.shop("insert into users values (101, 'later'); insert into orders values (101, 1)")
            .await;
        site.until("the other", "select count(*) = 101 from cleansed.orders").await;
        site.until("kept", "select count(*) = 1 from audit.pending").await;
        assert_eq!(count(&site, "users").await, "100");
        let (well, text) = ask(&site, &["status"]);
        assert!(!well && text.contains("cleansed.users is paused"), "{text}");
        assert!(text.contains("siltstone table resume cleansed.users"), "{text}");
        assert!(running.stop().await.is_ok());
        // a new run leaves it paused, and an end of all work is no end of the pause
        site.shop("update users set email = 'changed' where id < 5").await;
        site.catch_up().await;
        assert_eq!(site.state("cleansed.users").await[0], "paused");
        let running = site.start();
        let (done, text) = ask(&site, &["table", "pause", "cleansed.users", "--wait"]);
        assert!(!done && text.contains("is paused; pause it when it streams"), "{text}");
        let (done, text) = ask(&site, &["table", "resume", "cleansed.users", "--wait"]);
        assert!(done, "{text}");
        site.until("streaming again", STREAMING).await;
        assert!(running.stop().await.is_ok());
        assert_same(&site).await;
        // it was not read again for it
        let read = "select count(*) from audit.snapshot_chunks where not fresh";
        assert_eq!(site.at_warehouse(read).await, ["0"]);
    });
}

#[test]
fn a_connector_rests_as_connects_scripts_know_it() {
    block_on(async {
        let site = Site::new("connectorpause").await;
        let port = free_port();
        with_admin(&site, port);
        site.shop(TABLES).await;
        let child = site.spawn(&["run"]);
        site.until("streaming", STREAMING).await;
        let at = |end: &str| format!("/connectors/{}{end}", site.name);
        let state = || {
            let (code, body) = http(port, "GET", &at("/status"), "s3cret");
            assert_eq!(code, 200);
            let body: serde_json::Value = serde_json::from_str(&body).unwrap();
            body["connector"]["state"].as_str().unwrap().to_owned()
        };
        let becomes = async |wanted: &str| {
            for _ in 0..200 {
                if state() == wanted {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            panic!("it is {}, not {wanted}", state());
        };
        assert_eq!(http(port, "PUT", &at("/pause"), "r3ad").0, 403);
        assert_eq!(http(port, "PUT", "/connectors/none/pause", "s3cret").0, 404);
        assert_eq!(http(port, "PUT", &at("/pause"), "s3cret").0, 202);
        becomes("PAUSED").await;
        site.shop("insert into users values (101, 'later')").await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(count(&site, "users").await, "100");
        assert_eq!(http(port, "GET", "/readyz", "").0, 200);
        // across a restart
        end(child);
        let child = site.spawn(&["run"]);
        let mut tries = 0;
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() && tries < 200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            tries += 1;
        }
        becomes("PAUSED").await;
        let (_, text) = ask(&site, &["connector", "list"]);
        assert!(text.contains("paused by"), "{text}");
        assert_eq!(http(port, "PUT", &at("/resume"), "s3cret").0, 202);
        becomes("RUNNING").await;
        site.until("the row", "select count(*) = 101 from cleansed.users").await;
        let expanded = http(port, "GET", "/connectors?expand=status&expand=info", "r3ad");
        let expanded: serde_json::Value = serde_json::from_str(&expanded.1).unwrap();
        let (status, info) = (&expanded[&site.name]["status"], &expanded[&site.name]["info"]);
        assert_eq!(status["connector"]["state"], "RUNNING", "{expanded}");
        assert_eq!((&status["type"], &info["type"]), (&"source".into(), &"source".into()));
        assert_eq!(info["tasks"][0]["task"], 0, "{expanded}");
        assert_eq!(info["config"]["slot.name"], format!("siltstone_{}", site.name), "{expanded}");
        let (code, info) = http(port, "GET", "/connectors?expand=info", "r3ad");
        assert!(code == 200 && info.contains("\"info\"") && !info.contains("\"status\""), "{info}");
        let (code, config) = http(port, "GET", &at("/config"), "r3ad");
        assert!(code == 200 && config.contains("siltstone.postgres"), "{config}");
        assert!(!config.contains(site.source_url.split([':', '@']).nth(2).unwrap()), "{config}");
        let (code, tasks) = http(port, "GET", &at("/tasks"), "r3ad");
        assert!(code == 200 && tasks.contains("\"task\":0"), "{tasks}");
        assert_eq!(http(port, "GET", &at("/tasks/0/status"), "r3ad").0, 200);
        assert_eq!(http(port, "PUT", &at("/config"), "s3cret").0, 405);
        assert_eq!(http(port, "POST", &at("/tasks/0/restart"), "r3ad").0, 403);
        assert_eq!(http(port, "POST", &at("/tasks/1/restart"), "s3cret").0, 404);
        assert_eq!(http(port, "POST", &at("/tasks/0/restart"), "s3cret").0, 202);
        assert_eq!(http(port, "POST", &at("/restart"), "s3cret").0, 202);
        assert_eq!(http(port, "DELETE", &at("/offsets"), "s3cret").0, 400);
        assert_eq!(http(port, "PATCH", &at("/offsets"), "s3cret").0, 400);
        let (code, offsets) = http(port, "GET", &at("/offsets"), "r3ad");
        assert!(code == 200 && offsets.contains("\"lsn\""), "{offsets}");
        assert_eq!(http(port, "PUT", &at("/stop"), "s3cret").0, 202);
        becomes("STOPPED").await;
        assert_eq!(http(port, "DELETE", &at("/offsets"), "s3cret").0, 202);
        assert_eq!(http(port, "PUT", &at("/resume"), "s3cret").0, 202);
        let read =
            "select count(*) = 2 from audit.snapshot_chunks where state = 'done' and not fresh";
        site.until("read again", read).await;
        site.until("streaming again", STREAMING).await;
        end(child);
        assert_same(&site).await;
    });
}

#[test]
fn a_removed_connector_leaves_nothing_but_its_tables() {
    block_on(async {
        let site = Site::new("removed").await;
        site.shop(TABLES).await;
        site.catch_up().await;
        let name = site.name.clone();
        let (done, text) = ask(&site, &["connector", "remove", &name, "--yes", "--drop-slot"]);
        assert!(!done && text.contains("connector stop"), "{text}");
        let running = site.start();
        let (done, text) = ask(&site, &["connector", "stop", &name, "--wait"]);
        assert!(done, "{text}");
        assert!(running.stop().await.is_ok());
        let (done, text) = ask(&site, &["connector", "remove", &name]);
        assert!(!done && text.contains("2 tables, whose rows stay"), "{text}");
        let (done, text) = ask(&site, &["connector", "remove", &name, "--yes", "--drop-slot"]);
        assert!(done, "{text}");
        let slots = format!(
            "select count(*) from pg_replication_slots where slot_name = 'siltstone_{name}'"
        );
        assert_eq!(site.at_source(&slots).await, ["0"]);
        assert_eq!(site.at_source("select count(*) from pg_publication").await, ["0"]);
        for table in ["tables", "progress", "slots", "snapshot_chunks"] {
            let left = format!("select count(*) from audit.{table} where connector = '{name}'");
            assert_eq!(site.at_warehouse(&left).await, ["0"], "{table}");
        }
        assert_eq!(count(&site, "users").await, "100");
        // its file is there, so it stays stopped; without, nothing is known of it any more
        assert!(text.contains("it stays stopped"), "{text}");
        site.catch_up().await;
        assert_eq!(site.at_warehouse("select count(*) from audit.tables").await, ["0"]);
        site.remove("connectors/shop.yaml");
        let (done, text) = ask(&site, &["connector", "remove", &name, "--yes"]);
        assert!(done, "{text}");
        assert_eq!(site.at_warehouse("select count(*) from audit.connectors").await, ["0"]);
        let (done, text) = ask(&site, &["connector", "remove", &name, "--yes"]);
        assert!(!done && text.contains("there is no connector"), "{text}");
    });
}

/// Runs a verb; its exit code and what it says.
fn exit(site: &Site, arguments: &[&str]) -> (i32, String) {
    let output = site.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).output();
    let output = output.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

#[test]
fn status_tells_what_keeps_a_connector_from_its_work() {
    block_on(async {
        let mut site = Site::new("standing").await;
        site.shop(TABLES).await;
        site.catch_up().await;
        let (code, text) = exit(&site, &["status"]);
        assert_eq!(code, 0, "{text}");
        assert!(text.contains("2 streaming, as it left them"), "{text}");
        // the source is away
        let right = site.source_url.clone();
        let port = Proxy::free_port().await;
        let (head, _) = right.rsplit_once(':').unwrap();
        let database = right.rsplit_once('/').unwrap().1;
        site.source_url = format!("{head}:{port}/{database}");
        let running = site.start();
        let told = "select count(*) = 1 from audit.standing where state = 'waiting'";
        site.until("told that it waits", told).await;
        let (code, text) = exit(&site, &["status"]);
        assert_eq!(code, 75, "{text}");
        assert!(text.contains("waiting for "), "{text}");
        assert!(text.contains(&format!("127.0.0.1:{port}")), "{text}");
        let (code, text) = exit(&site, &["why", "cleansed.users"]);
        assert!(code == 0 && text.contains("the connector is waiting for "), "{text}");
        assert!(running.stop().await.is_ok());
        // it is back
        site.source_url = right;
        let running = site.start();
        site.until("works", "select count(*) = 0 from audit.standing").await;
        let (code, text) = exit(&site, &["status"]);
        assert!(code == 0 && text.contains(": running, owner"), "{text}");
        let name = site.name.clone();
        assert!(ask(&site, &["connector", "pause", &name, "--wait"]).0);
        let (_, text) = exit(&site, &["status"]);
        assert!(text.contains(": paused, owner"), "{text}");
        assert!(ask(&site, &["connector", "resume", &name, "--wait"]).0);
        assert!(running.stop().await.is_ok());
        // what ended it is told behind its end
        drop_slot(&site, &name).await;
        let ended = site.start().ended().await.unwrap_err();
        let (code, text) = exit(&site, &["status"]);
        assert_eq!(code, 65, "{text}");
        assert!(text.contains("it stopped "), "{text}");
        assert!(text.contains(&ended.reason()), "{text}");
        assert!(text.contains("siltstone table resync --all"), "{text}");
    });
}

#[test]
fn a_connector_is_removed_beside_its_service() {
    block_on(async {
        let mut site = Site::new("removedbeside").await;
        site.shop(TABLES).await;
        let running = site.start();
        site.until("streaming", STREAMING).await;
        let name = site.name.clone();
        assert!(ask(&site, &["connector", "stop", &name, "--wait"]).0);
        // a role that may drop the slot, and not the publications
        let role = format!("{name}_reader");
        site.shop(&format!("create role {role} login replication password 'x'")).await;
        let right = site.source_url.clone();
        let (_, behind) = right.rsplit_once('@').unwrap();
        site.source_url = format!("postgres://{role}:x@{behind}");
        let (done, text) = ask(&site, &["connector", "remove", &name, "--yes", "--drop-slot"]);
        assert!(
            done && text.contains("is another role's: as its owner, drop publication"),
            "{text}"
        );
        site.source_url = right;
        let slots = format!(
            "select count(*) from pg_replication_slots where slot_name = 'siltstone_{name}'"
        );
        assert_eq!(site.at_source(&slots).await, ["0"]);
        // by its owner, once more
        let (done, text) = ask(&site, &["connector", "remove", &name, "--yes", "--drop-slot"]);
        assert!(done, "{text}");
        assert_eq!(site.at_source("select count(*) from pg_publication").await, ["0"]);
        // longer than the lease is renewed in
        tokio::time::sleep(Duration::from_secs(4)).await;
        let (_, text) = ask(&site, &["status"]);
        assert!(text.contains(": stopped, owner") && !text.contains("connector remove"), "{text}");
        assert_eq!(site.at_warehouse("select count(*) from audit.tables").await, ["0"]);
        assert_eq!(site.at_source(&slots).await, ["0"]);
        assert!(ask(&site, &["connector", "resume", &name, "--wait"]).0);
        // with keys they are adopted again, if they are empty
        site.until(
            "it goes on",
            "select count(*) > 0 from audit.owner o join audit.slots s
            on o.resource = 'connector:' || s.connector",
        )
        .await;
        assert!(running.stop().await.is_ok());
    });
}

#[test]
fn verify_tells_at_once_that_a_connector_is_paused() {
    block_on(async {
        let site = Site::new("verifypaused").await;
        site.shop(TABLES).await;
        let running = site.start();
        site.until("streaming", STREAMING).await;
        let name = site.name.clone();
        assert!(ask(&site, &["connector", "pause", &name, "--wait"]).0);
        site.shop("insert into users values (101, 'later')").await;
        let asked = std::time::Instant::now();
        let (code, text) = exit(&site, &["verify"]);
        assert!(asked.elapsed() < Duration::from_secs(30), "{:?}", asked.elapsed());
        assert_eq!(code, 75, "{text}");
        assert!(text.contains("is paused by "), "{text}");
        assert!(text.contains(&format!("siltstone connector resume {name}")), "{text}");
        assert!(ask(&site, &["connector", "resume", &name, "--wait"]).0);
        let (code, text) = exit(&site, &["verify"]);
        assert_eq!(code, 0, "{text}");
        assert!(running.stop().await.is_ok());
    });
}

#[test]
fn a_broken_file_hides_nothing() {
    block_on(async {
        let site = Site::new("brokenfile").await;
        site.shop(TABLES).await;
        site.catch_up().await;
        site.connector("tables: 7\n");
        for arguments in [&["status"][..], &["table", "list"], &["why", "cleansed.users"]] {
            let (code, text) = exit(&site, arguments);
            assert_eq!(code, if arguments[0] == "status" { 78 } else { 0 }, "{text}");
            assert!(text.contains("the files are refused: connectors/shop.yaml:"), "{text}");
            assert!(text.contains("streaming"), "{text}");
        }
    });
}

#[test]
fn a_resync_is_waited_for_until_the_table_streams() {
    block_on(async {
        let site = Site::new("resyncwait").await;
        site.shop(TABLES).await;
        let running = site.start();
        site.until("streaming", STREAMING).await;
        let (done, text) = ask(&site, &["table", "pause", "cleansed.users"]);
        assert!(done && text.contains("--wait tells what became of it"), "{text}");
        let paused = "select count(*) = 1 from audit.tables where state = 'paused'";
        site.until("paused", paused).await;
        let (done, text) = ask(&site, &["table", "resync", "cleansed.users", "--yes", "--wait"]);
        assert!(
            done && text.contains("will be read again; it was paused, and goes on then"),
            "{text}"
        );
        assert!(text.contains("cleansed.users streams again"), "{text}");
        assert_eq!(site.at_warehouse(STREAMING).await, ["t"]);
        assert!(running.stop().await.is_ok());
    });
}

#[test]
fn verify_waits_for_a_table_that_is_about_to_go_on() {
    block_on(async {
        let site = Site::new("aboutto").await;
        site.shop(TABLES).await;
        site.catch_up().await;
        let set = |state: &str| {
            format!("update audit.tables set state = '{state}' where table_name = 'cleansed.users'")
        };
        site.warehouse.batch_execute(&set("catching_up")).await.unwrap();
        let mut command = site.command(&["verify"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let verifying = tokio::task::spawn_blocking(move || command.output().unwrap());
        tokio::time::sleep(Duration::from_secs(2)).await;
        site.warehouse.batch_execute(&set("streaming")).await.unwrap();
        let output = verifying.await.unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(output.status.success(), "{text}");
    });
}

#[test]
fn readers_that_are_not_there_are_named() {
    block_on(async {
        let site = Site::new("noreader").await;
        site.shop(TABLES).await;
        site.file(
            "siltstone.yaml",
            "warehouse: { url: \"${WAREHOUSE_URL}\", readers: [nobody_knows] }\n",
        );
        let (code, text) = exit(&site, &["validate", "--connect"]);
        assert_eq!(code, 78, "{text}");
        assert!(text.contains("the warehouse has no role nobody_knows"), "{text}");
    });
}

#[test]
fn verify_of_nothing_is_no_success() {
    block_on(async {
        let site = Site::new("verifynothing").await;
        site.shop(TABLES).await;
        site.connector("tables: [\"public.none_*\"]\ntarget_schema: cleansed\n");
        site.catch_up().await;
        let (code, text) = exit(&site, &["verify"]);
        assert!(code == 65 && text.contains("nothing was compared"), "{code} {text}");
        site.file("connectors/shop.yaml", "name: shop\nkind: postgres\nenabled: false\n");
        let (code, text) = exit(&site, &["verify"]);
        assert!(code == 78 && text.contains("no connector is enabled"), "{code} {text}");
    });
}

#[test]
fn tables_that_are_left_out_are_told_of() {
    block_on(async {
        let site = Site::new("leftout").await;
        site.shop(TABLES).await;
        site.shop(
            "create table nokey (v int); insert into nokey values (1);
             create table docs (id bigint primary key)",
        )
        .await;
        let there = "create schema cleansed; create table cleansed.docs (id bigint);
            insert into cleansed.docs values (1)";
        site.warehouse.batch_execute(there).await.unwrap();
        site.catch_up().await;
        let (code, text) = exit(&site, &["status"]);
        assert_eq!(code, 65, "{text}");
        assert!(text.contains("cleansed.nokey is left out"), "{text}");
        assert!(text.contains("cleansed.docs is left out"), "{text}");
        assert!(text.contains("replica identity"), "{text}");
        let (code, text) = exit(&site, &["table", "list"]);
        assert!(code == 0 && text.contains("cleansed.nokey"), "{text}");
        for name in ["cleansed.nokey", "public.nokey"] {
            let (code, text) = exit(&site, &["why", name]);
            assert_eq!(code, 0, "{text}");
            assert!(text.contains("cleansed.nokey is left out"), "{text}");
        }
        let (code, text) = exit(&site, &["verify", "cleansed.docs"]);
        assert!(code == 65 && text.contains("it is left out: "), "{code} {text}");
        // mended, it is taken
        site.shop("alter table nokey add primary key (v)").await;
        site.warehouse.batch_execute("drop table cleansed.docs").await.unwrap();
        site.catch_up().await;
        let (code, text) = exit(&site, &["status"]);
        assert!(code == 0 && !text.contains("left out"), "{text}");
    });
}

#[test]
fn files_are_read_again_at_sighup() {
    block_on(async {
        let site = Site::new("sighup").await;
        site.shop(TABLES).await;
        let tables =
            |list: &str| site.connector(&format!("tables: [{list}]\ntarget_schema: cleansed\n"));
        tables("\"public.users\"");
        let path = site.config().with_file_name("log");
        let log = std::fs::File::create(&path).unwrap();
        let mut child = site.command(&["run"]).stderr(Stdio::from(log)).spawn().unwrap();
        let one = "select count(*) = 1 and bool_and(state = 'streaming') from audit.tables";
        site.until("streaming", one).await;
        let since = "select since from audit.owner where resource like 'connector:%'";
        let owned = site.at_warehouse(since).await;
        // what cannot be run changes nothing
        site.connector("tables: 7\n");
        signal(&child, "-HUP");
        tokio::time::sleep(Duration::from_millis(500)).await;
        site.shop("insert into users values (101, 'later')").await;
        site.until("the row", "select count(*) = 101 from cleansed.users").await;
        // a variable that has come since is not there for a process that runs
        site.connector("tables: [\"public.*\"]\ntarget_schema: \"${CAME_LATER}\"\n");
        signal(&child, "-HUP");
        tokio::time::sleep(Duration::from_millis(500)).await;
        let log = std::fs::read_to_string(&path).unwrap();
        assert!(log.contains("a process that runs takes no new environment"), "{log}");
        // files that say the same change nothing either
        tables("\"public.users\"");
        signal(&child, "-HUP");
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(site.at_warehouse(since).await, owned);
        // what takes a restart is said
        let settings = std::fs::read_to_string(site.config()).unwrap();
        let other = settings.replace(
            "{ url: \"${WAREHOUSE_URL}\" }",
            "{ url: \"${WAREHOUSE_URL}\", readers: [pg_monitor] }",
        );
        site.file("siltstone.yaml", &format!("{other}spool: {{ max: 1GiB }}\n"));
        signal(&child, "-HUP");
        tokio::time::sleep(Duration::from_millis(500)).await;
        let log = std::fs::read_to_string(&path).unwrap();
        for words in
            ["marts and calendars take a restart", "spool.max: another one takes a restart"]
        {
            assert!(log.contains(words), "{log}");
        }
        site.file("siltstone.yaml", &settings);
        tables("\"public.users\", \"public.orders\"");
        signal(&child, "-HUP");
        site.until("streaming", STREAMING).await;
        // a connector whose file is gone stops; one that comes begins
        let gone = "select lease_until is null from audit.owner where resource like 'connector:%'";
        site.file("connectors/shop.yaml", "name: shop\nkind: postgres\nenabled: false\n");
        signal(&child, "-HUP");
        site.until("released", gone).await;
        site.shop("insert into orders values (101, 1)").await;
        assert_eq!(count(&site, "orders").await, "100");
        assert!(child.try_wait().unwrap().is_none(), "it waits for files");
        site.connector("tables: [\"public.*\"]\ntarget_schema: cleansed\n");
        signal(&child, "-HUP");
        site.until("the row", "select count(*) = 101 from cleansed.orders").await;
        end(child);
        assert_same(&site).await;
    });
}

type Followed = (watch::Sender<Arc<Spec>>, watch::Sender<bool>, JoinHandle<Result<(), Error>>);

/// A service that is given other files, and stopped, by these.
fn follow(spec: &Arc<Spec>) -> Followed {
    let (clock, options) = (Clock::system(), Options::default());
    let board = Board::new(clock.clone());
    let service = Service { spec: (**spec).clone(), clock, options, board };
    let (files, followed) = watch::channel(spec.clone());
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(async move { service.run_with(followed, stopped).await });
    (files, stop, running)
}

#[test]
fn a_calendar_that_cannot_be_made_ends_nothing_that_runs() {
    block_on(async {
        let site = Site::new("badcalendar").await;
        site.shop(TABLES).await;
        let (files, stop, running) = follow(&Arc::new(site.spec()));
        site.until("streaming", STREAMING).await;
        site.warehouse.batch_execute("create view cleansed.days as select 1 as x").await.unwrap();
        site.file(
            "schemas/days.yaml",
            "table: cleansed.days\nlayout: calendar\nrange: [2024-01-01, 2024-12-31]\n",
        );
        files.send_replace(Arc::new(site.spec()));
        tokio::time::sleep(Duration::from_millis(500)).await;
        site.shop("insert into users values (101, 'later')").await;
        site.until("the row", "select count(*) = 101 from cleansed.users").await;
        assert!(!running.is_finished());
        stop.send_replace(true);
        assert!(running.await.unwrap().is_ok());
    });
}

/// The one that was told to stop may not have ended yet: the new one begins then, and is told to stop in its turn.
#[test]
fn a_connector_that_is_gone_and_back_at_once_is_told_to_stop() {
    block_on(async {
        let site = Site::new("backatonce").await;
        site.shop(TABLES).await;
        let with = Arc::new(site.spec());
        site.file("connectors/shop.yaml", "name: shop\nkind: postgres\nenabled: false\n");
        let without = Arc::new(site.spec());
        let (files, stop, running) = follow(&with);
        site.until("streaming", STREAMING).await;
        for round in 1..=5 {
            files.send_replace(without.clone());
            tokio::time::sleep(Duration::from_millis(round * 2)).await;
            files.send_replace(with.clone());
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        site.shop("insert into users values (101, 'later')").await;
        site.until("the row", "select count(*) = 101 from cleansed.users").await;
        stop.send_replace(true);
        let ended = tokio::time::timeout(Duration::from_secs(30), running).await;
        assert!(ended.expect("it was not told to stop").unwrap().is_ok());
    });
}

#[test]
fn a_connector_goes_on_however_much_is_asked_of_its_tables() {
    block_on(async {
        let site = Site::new("muchasked").await;
        site.shop(TABLES).await;
        let running = site.start();
        site.until("streaming", STREAMING).await;
        let (done, text) = ask(&site, &["connector", "pause", &site.name, "--wait"]);
        assert!(done, "{text}");
        // the last word counts
        assert!(ask(&site, &["table", "pause", "cleansed.users"]).0);
        let many = format!(
            "insert into audit.requests (verb, connector, table_name)
             select 'resume', '{}', 'cleansed.users' from generate_series(1, 150)",
            site.name
        );
        site.warehouse.batch_execute(&many).await.unwrap();
        let (done, text) = ask(&site, &["connector", "resume", &site.name]);
        assert!(done, "{text}");
        let open = "select count(*) = 0 from audit.requests where state = 'open'";
        site.until("all is answered", open).await;
        site.until("streaming again", STREAMING).await;
        assert!(running.stop().await.is_ok());
    });
}

/// A topic cannot be asked for rows: who asks is refused at once, and is not told that it was done.
#[test]
fn what_topics_feed_is_not_read_again() {
    block_on(async {
        let site = Site::new("notagain").await;
        let port = free_port();
        with_admin(&site, port);
        site.file(
            "connectors/shop.yaml",
            &format!(
                "name: {}\nkind: kafka\nbrokers: \"127.0.0.1:9\"\ntopics: [\"a.*\"]\n",
                site.name
            ),
        );
        // a connector that rests asks no broker
        assert!(ask(&site, &["connector", "stop", &site.name]).0);
        let stopped = format!(
            "delete from audit.requests;
             insert into audit.connectors (connector, wanted, by) values ('{0}', 'stopped', 'a test');
             insert into audit.tables (table_name, connector, source_table, state)
             values ('cleansed.t', '{0}', 'public.t', 'streaming')",
            site.name
        );
        site.warehouse.batch_execute(&stopped).await.unwrap();
        let words = "come by topics: let Debezium read them again";
        let (code, text) = exit(&site, &["table", "resync", "--all", "--yes", "--wait"]);
        assert!(code == 64 && text.contains(words), "{code}: {text}");
        let (code, text) = exit(&site, &["plan"]);
        assert!(code == 0 && text.contains("are not planned"), "{code}: {text}");
        let child = site.spawn(&["run"]);
        let at = format!("/connectors/{}", site.name);
        let mut tries = 0;
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err()
            || !http(port, "GET", &format!("{at}/status"), "r3ad").1.contains("STOPPED")
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
            tries += 1;
            assert!(tries < 600, "it does not stop");
        }
        let (code, text) = http(port, "DELETE", &format!("{at}/offsets"), "s3cret");
        assert!(code == 400 && text.contains(words), "{code}: {text}");
        assert_eq!(site.at_warehouse("select count(*) from audit.requests").await, ["0"]);
        // without the url of its source it is not compared either, and that is said
        let (code, text) = http(port, "POST", "/tables/cleansed.t/verify", "s3cret");
        assert!(code == 400 && text.contains("no url says where the source is"), "{code}: {text}");
        end(child);
    });
}

/// A look makes nothing and changes nothing, whatever version the warehouse is at.
#[test]
fn who_looks_brings_no_control_tables_up_to_date() {
    block_on(async {
        let site = Site::new("looks").await;
        site.shop(TABLES).await;
        let looks = [
            &["status"][..],
            &["why", "cleansed.users"],
            &["table", "list"],
            &["connector", "list"],
            &["dead-letter", "list"],
            &["job", "list"],
            &["mart", "list"],
            &["check", "list"],
            &["alert", "list"],
            &["lineage"],
        ];
        for look in looks {
            let (code, text) = exit(&site, look);
            assert!(code == 78 && text.contains("nothing has fed it yet"), "{look:?}: {text}");
        }
        let made = "select to_regnamespace('audit') is null";
        assert_eq!(site.at_warehouse(made).await, ["t"]);
        site.catch_up().await;
        assert_eq!(exit(&site, &["status"]).0, 0);
        let older = "delete from audit.migrations
            where version = (select max(version) from audit.migrations) returning version";
        let newest: u32 = site.at_warehouse(older).await[0].parse().unwrap();
        let words = format!("is at version {}, this siltstone needs {newest}", newest - 1);
        for look in looks {
            let (code, text) = exit(&site, look);
            assert!(code == 78 && text.contains(&words), "{look:?}: {text}");
            assert!(text.contains("siltstone apply"), "{look:?}: {text}");
        }
        let there = site.at_warehouse("select max(version) from audit.migrations").await;
        assert_eq!(there, [(newest - 1).to_string()]);
    });
}

#[test]
fn a_connector_that_stopped_beside_others_carries_out_what_is_asked() {
    block_on(async {
        let site = Site::new("beside").await;
        let other = format!("{}_other", site.name);
        site.connector("tables: [public.t]\ntarget_schema: cleansed\n");
        let file = format!(
            "name: {other}\nkind: postgres\nsource: other\nurl: \"${{SHOP_URL}}\"\n\
             tables: [public.u]\ntarget_schema: staging\nwal: {{ warn: 1KiB }}\n"
        );
        site.file("connectors/other.yaml", &file);
        let port = free_port();
        with_admin(&site, port);
        site.shop("create table t (id int primary key); create table u (id int primary key)").await;
        site.catch_up().await;
        let slot = format!("siltstone_{other}");
        site.shop(&format!("select pg_drop_replication_slot('{slot}')")).await;
        let mut child = site.spawn(&["run"]);
        let stands = |name: &str| {
            format!(
                "select count(*) = 1 from audit.standing where connector = '{name}'
                    and state = 'stopped' and reason like '%is gone%'"
            )
        };
        site.until("it stopped", &stands(&other)).await;
        site.shop("insert into t values (1)").await;
        site.until("the other one goes on", "select count(*) = 1 from cleansed.t").await;
        // of what cannot be carried out before its source is looked at there is more than is looked at at once
        let epoch = format!("select epoch from audit.epoch where resource = 'connector:{other}'");
        let before = site.at_warehouse(&epoch).await.remove(0);
        let many = format!(
            "insert into audit.requests (verb, connector, table_name)
             select 'resync', '{other}', 'staging.none' from generate_series(1, 150)"
        );
        site.warehouse.batch_execute(&many).await.unwrap();
        let begun = format!("select ({epoch}) > {before}");
        site.until("it began a session for them", &begun).await;
        site.until("it stopped once more", &stands(&other)).await;
        // what a watchdog does: it begins a session, and stops again
        assert_eq!(http(port, "POST", &format!("/connectors/{other}/restart"), "s3cret").0, 202);
        let done = "select count(*) = 1 from audit.requests where state = 'done'";
        site.until("restarted", done).await;
        site.shop("insert into u values (1)").await;
        let resync = ["table", "resync", "--all", "--connector", &other, "--yes", "--wait"];
        let (done, text) = ask(&site, &resync);
        assert!(done, "{text}");
        site.until("it is there", "select count(*) = 1 from staging.u").await;
        // one after the other loses its slot; with the last one the process ends, as ever
        for name in [&other, &site.name] {
            assert!(ask(&site, &["connector", "stop", name, "--wait"]).0);
            drop_slot(&site, name).await;
            assert!(ask(&site, &["connector", "resume", name, "--wait"]).0);
            site.until("it stopped again", &stands(name)).await;
        }
        for _ in 0..300 {
            if child.try_wait().unwrap().is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(child.try_wait().unwrap().expect("it runs on").code(), Some(65));
    });
}

/// As one that reads a Postgres does; and those that come and go beside it do not end it.
#[test]
fn a_connector_of_topics_that_stopped_takes_what_is_asked() {
    block_on(async {
        let mock = Mock::start();
        mock.create("a.public.t", 1);
        let site = Site::new("resttopics").await;
        let topics = format!("{}_topics", site.name);
        site.shop(TABLES).await;
        let file = format!(
            "name: {topics}\nkind: kafka\nsource: topics\nbrokers: \"{}\"\ngroup: resttopics\ntopics: [\"a.*\"]\n\
             properties: {{ broker.address.family: v4, no.such.property: 1 }}\n",
            mock.address()
        );
        site.file("connectors/topics.yaml", &file);
        let with = Arc::new(site.spec());
        site.file("connectors/shop.yaml", "name: shop\nkind: postgres\nenabled: false\n");
        let without = Arc::new(site.spec());
        let (files, stop, running) = follow(&with);
        site.until("streaming", STREAMING).await;
        let stopped = format!(
            "select count(*) = 1 from audit.standing where connector = '{topics}'
                and state = 'stopped' and reason like '%no.such.property%'"
        );
        site.until("it stopped", &stopped).await;
        for round in 1..=3 {
            files.send_replace(without.clone());
            tokio::time::sleep(Duration::from_millis(round * 2)).await;
            files.send_replace(with.clone());
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        for (verb, wanted) in [
            ("pause", "paused"),
            ("restart", "paused"),
            ("resume", "running"),
            ("stop", "stopped"),
            ("resume", "running"),
        ] {
            let (done, text) = ask(&site, &["connector", verb, &topics, "--wait"]);
            assert!(done, "{verb}: {text}");
            let said = format!("select wanted from audit.connectors where connector = '{topics}'");
            assert_eq!(site.at_warehouse(&said).await, [wanted], "{verb}");
        }
        site.until("it stopped again", &stopped).await;
        site.shop("insert into users values (101, 'later')").await;
        site.until("the other goes on", "select count(*) = 101 from cleansed.users").await;
        // mended, it begins by itself
        site.file("connectors/topics.yaml", &file.replace(", no.such.property: 1", ""));
        site.connector("tables: [\"public.*\"]\ntarget_schema: cleansed\n");
        files.send_replace(Arc::new(site.spec()));
        let works = "select count(*) = 0 from audit.standing where state = 'stopped'";
        site.until("it is at work", works).await;
        stop.send_replace(true);
        let ended = tokio::time::timeout(Duration::from_secs(30), running).await;
        assert!(ended.expect("it was not told to stop").unwrap().is_ok());
    });
}
