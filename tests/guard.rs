//! Guard rails: what takes most of a table away waits for a human.

use crate::support::{Site, block_on};

const TABLES: &str = "create table t (id int primary key, v text);
    insert into t select i, 'v' from generate_series(1, 2000) i;
    create table u (id int primary key, v text);
    insert into u select i, 'v' from generate_series(1, 10) i";

fn files(site: &Site, fields: &str) {
    site.file(
        "siltstone.yaml",
        "warehouse: { url: \"${WAREHOUSE_URL}\" }\nadmin: { listen: \"127.0.0.1:0\" }\n\
         batch: { max_rows: 100 }\n",
    );
    site.connector(&format!("tables: [\"public.*\"]\ntarget_schema: cleansed\n{fields}\n"));
    site.file(
        "schemas/dim_t.yaml",
        "table: cleansed.dim_t\nfrom: shop.public.t\nhistory: versions\nkey: [id]\n\
         columns:\n  id: { type: integer }\n  v: { type: text }\n",
    );
    site.file(
        "schemas/t.yaml",
        "table: cleansed.t\nfrom: shop.public.t\nkey: [id]\n\
         columns:\n  id: { type: integer }\n  v: { type: text }\n",
    );
    site.file("schemas/raw_t.yaml", "table: raw.t\nfrom: shop.public.t\nlayout: raw\n");
}

fn ask(site: &Site, verb: &str, table: &str) {
    assert!(site.command(&["table", verb, table, "--yes"]).status().unwrap().success());
}

async fn assert_same(site: &Site) {
    let rows = "select id, v from {} order by id";
    site.assert_equal(rows, "t", "cleansed.t").await;
    site.assert_equal(rows, "t", "cleansed.dim_t_current").await;
    site.assert_equal(rows, "u", "cleansed.u").await;
    assert_eq!(site.at_warehouse("select count(*) from audit.pending").await, ["0"]);
}

async fn rows(site: &Site, table: &str) -> String {
    site.at_warehouse(&format!("select count(*) from cleansed.{table}")).await.remove(0)
}

#[test]
fn a_transaction_that_deletes_too_much_waits_for_a_human() {
    block_on(async {
        let site = Site::new("guarded").await;
        files(&site, "guard: { delete_rows: 200, delete_share: 30% }");
        site.shop(TABLES).await;
        site.catch_up().await;
        // below one of the limits each
        site.shop_each(&["delete from t where id <= 500", "delete from u where id <= 8"]).await;
        site.catch_up().await;
        assert_same(&site).await;
        // above both, in several pieces, with others in the same transaction
        site.shop(
            "begin; update u set v = 'with it'; delete from t where id <= 1100; \
             insert into t values (5000, 'behind'); update u set v = 'after'; commit",
        )
        .await;
        site.shop("update t set v = 'later' where id > 1900").await;
        site.catch_up().await;
        for table in ["t", "dim_t"] {
            let state = site.state(&format!("cleansed.{table}")).await;
            assert_eq!(state[0], "stopped");
            assert!(state[1].contains("of its 1500 rows, more than guard allows"), "{state:?}");
            assert!(
                state[2].contains(&format!("table resume cleansed.{table} applies it")),
                "{state:?}"
            );
        }
        assert_eq!(rows(&site, "t").await, "1500");
        assert_eq!(rows(&site, "dim_t_current").await, "1500");
        site.assert_equal("select id, v from {} order by id", "u", "cleansed.u").await;
        let raw = "select count(*) from raw.t where raw_data->>'op' = 'd'";
        assert_eq!(site.at_warehouse(raw).await, ["1100"]);
        // yes to one; the other takes what is there now
        ask(&site, "resume", "cleansed.t");
        ask(&site, "resync", "cleansed.dim_t");
        site.catch_up().await;
        assert_same(&site).await;
        // the answer was for that transaction only
        site.shop("delete from t where id <= 1500").await;
        site.catch_up().await;
        assert_eq!(site.state("cleansed.t").await[0], "stopped");
        site.shop("truncate t").await;
        site.catch_up().await;
        ask(&site, "resume", "cleansed.t");
        ask(&site, "resume", "cleansed.dim_t");
        site.catch_up().await;
        let state = site.state("cleansed.t").await;
        assert!(state[1].contains("a TRUNCATE at"), "{state:?}");
        // what is kept is applied together or not at all
        assert_eq!(rows(&site, "t").await, "901");
        ask(&site, "resume", "cleansed.t");
        ask(&site, "resume", "cleansed.dim_t");
        site.catch_up().await;
        assert_eq!(rows(&site, "t").await, "0");
        assert_same(&site).await;
    });
}

/// What came, and what was answered, while the connector rested counts as it begins.
#[test]
fn a_connector_that_rested_asks_and_is_answered() {
    block_on(async {
        let site = Site::new("restguard").await;
        files(&site, "guard: { delete_rows: 200 }");
        site.shop(TABLES).await;
        site.catch_up().await;
        let running = site.start();
        let connector = |verb: &str| {
            let asked = ["connector", verb, &site.name, "--wait"];
            assert!(site.command(&asked).status().unwrap().success(), "{verb}");
        };
        connector("pause");
        site.shop("begin; update u set v = 'with it'; delete from t where id <= 1100; commit")
            .await;
        connector("resume");
        let asked = "select bool_and(state = 'stopped' and reason like '%more than guard allows') \
                       from audit.tables where table_name in ('cleansed.t', 'cleansed.dim_t')";
        site.until("asked", asked).await;
        site.until("the other flows", "select bool_and(v = 'with it') from cleansed.u").await;
        assert_eq!(rows(&site, "t").await, "2000");
        connector("stop");
        ask(&site, "resume", "cleansed.t");
        site.shop("delete from t where id between 1101 and 1102").await;
        assert!(running.stop().await.is_ok());
        let running = site.start();
        connector("resume");
        site.until("the answer", "select count(*) = 898 from cleansed.t").await;
        assert_eq!(site.state("cleansed.dim_t").await[0], "stopped");
        ask(&site, "resume", "cleansed.dim_t");
        let streaming = "select bool_and(state = 'streaming') from audit.tables";
        site.until("streaming", streaming).await;
        assert!(running.stop().await.is_ok());
        assert_same(&site).await;
    });
}

#[test]
fn a_share_is_of_the_rows_that_are_left() {
    block_on(async {
        let site = Site::new("purged").await;
        files(&site, "guard: { delete_share: 50% }");
        site.shop(TABLES).await;
        site.catch_up().await;
        let running = site.start();
        let streaming = "select bool_and(state = 'streaming') from audit.tables";
        site.until("streaming", streaming).await;
        // counted at 2000 rows, and purged little by little
        let purges = (0..18).map(|n| format!("delete from t where id <= {}", n * 100 + 1));
        let purges: Vec<String> = purges.collect();
        site.shop_each(&purges.iter().map(String::as_str).collect::<Vec<_>>()).await;
        site.until("purged", "select count(*) = 299 from cleansed.t").await;
        assert_eq!(site.at_warehouse(streaming).await, ["t"]);
        site.shop("delete from t where id <= 1900").await;
        let asked = "select bool_and(state = 'stopped') from audit.tables \
                      where table_name in ('cleansed.t', 'cleansed.dim_t')";
        site.until("asked", asked).await;
        let state = site.state("cleansed.t").await;
        assert!(state[1].contains("of its 299 rows, more than guard allows"), "{state:?}");
        assert_eq!(rows(&site, "t").await, "299");
        assert!(running.stop().await.is_ok());
    });
}

#[test]
fn kept_changes_are_guarded_too() {
    block_on(async {
        let site = Site::new("keptguard").await;
        files(&site, "guard: { delete_share: 0.5 }");
        site.shop(TABLES).await;
        site.catch_up().await;
        let running = site.start();
        let streaming = "select bool_and(state = 'streaming') from audit.tables";
        site.until("streaming", streaming).await;
        ask(&site, "pause", "cleansed.t");
        let paused = "select state = 'paused' from audit.tables where table_name = 'cleansed.t'";
        site.until("paused", paused).await;
        site.shop("delete from t where id <= 1200").await;
        site.until(
            "kept",
            "select count(*) = 1200 from audit.pending where table_name = 'cleansed.t'",
        )
        .await;
        ask(&site, "resume", "cleansed.t");
        let stopped = "select state = 'stopped' from audit.tables where table_name = 'cleansed.t'";
        site.until("asked", stopped).await;
        assert_eq!(rows(&site, "t").await, "2000");
        ask(&site, "resume", "cleansed.t");
        ask(&site, "resume", "cleansed.dim_t");
        site.until("streaming again", streaming).await;
        assert!(running.stop().await.is_ok());
        assert_same(&site).await;
    });
}

#[test]
fn a_truncate_stops_or_is_ignored_where_files_say_so() {
    block_on(async {
        let site = Site::new("truncates").await;
        files(&site, "truncate: stop");
        site.shop(TABLES).await;
        site.catch_up().await;
        site.shop(
            "begin; truncate t; insert into t values (1, 'new'); update u set v = 'x'; commit",
        )
        .await;
        site.catch_up().await;
        assert_eq!(site.state("cleansed.t").await[0], "stopped");
        assert_eq!(rows(&site, "t").await, "2000");
        site.assert_equal("select id, v from {} order by id", "u", "cleansed.u").await;
        ask(&site, "resume", "cleansed.t");
        ask(&site, "resume", "cleansed.dim_t");
        site.catch_up().await;
        assert_same(&site).await;
        files(&site, "truncate: ignore");
        site.shop_each(&["truncate t", "insert into t values (7, 'behind')"]).await;
        site.catch_up().await;
        assert_eq!(rows(&site, "t").await, "2");
        let raw = "select count(*) from raw.t where raw_data->>'op' = 't'";
        assert_eq!(site.at_warehouse(raw).await, ["2"]);
    });
}
