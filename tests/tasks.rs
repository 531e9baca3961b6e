//! What tasks of jobs do, against real servers: waiting for the stream and for marts, retention, backups and their
//! restore.

use std::time::{Duration, Instant};

use crate::jobs::{ask, job};
use crate::marts::{self, assert_rebuilt};
use crate::support::{Site, block_on};

/// The last message of a job's attempts, and their states.
async fn attempts(site: &Site, job: &str) -> Vec<String> {
    let query = format!(
        "select task_id, status, coalesce(records_processed::text, '-'), coalesce(error_message, '')
           from audit.etl_logs where dag_id = '{job}' order by log_id"
    );
    site.at_warehouse(&query).await
}

#[test]
fn a_refresh_ends_when_each_mart_has_what_the_warehouse_had() {
    block_on(async {
        let site = Site::new("refresh").await;
        site.shop(marts::TABLES).await;
        marts::files(&site);
        job(
            &site,
            "hourly",
            "",
            "  marts: { refresh: [mart.sales, mart.countries, mart.journeys, mart.stock] }",
        );
        let running = site.start();
        site.until("four marts", "select count(*) = 4 from audit.marts where state = 'fresh'")
            .await;
        site.shop(
            "insert into users select i, 'u' || i, 'DE' from generate_series(1, 50) i;
             insert into products select i, 'p' || i, 'toys' from generate_series(1, 9) i",
        )
        .await;
        for round in 1..4 {
            site.shop(&format!(
                "insert into orders select {round} * 1000 + i, 1 + i % 50, 1 + i % 9, date '2024-01-01' + i % 40, i
                   from generate_series(1, 400) i;
                 update users set country = 'C{round}' where id % 3 = 0;
                 insert into marker values ({round})"
            ))
            .await;
            let there = format!("select exists (select from cleansed.marker where id = {round})");
            site.until("the stream", &there).await;
            let (said, code) = ask(&site, &["run", "hourly", "--wait"]).await;
            assert_eq!(code, 0, "{said} {:#?}", attempts(&site, "hourly").await);
            // at once: nothing is waited for behind the job
            assert_rebuilt(&site, "behind the job").await;
        }
        // nothing is written: the marts have it all, and no stamp is to be waited for
        let since = Instant::now();
        assert_eq!(ask(&site, &["run", "hourly", "--wait"]).await.1, 0);
        assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
        assert!(running.stop().await.is_ok());
        site.file(
            "sql/marts/broken.sql",
            "/* siltstone\ntable: mart.broken\nkey: [day]\nrefresh_by: day\nreads:\n  \
             cleansed.fact_orders: { touches: \"select order_date from changed\" }\n*/\n\
             select order_date as day, sum(nothing) as n from cleansed.fact_orders group by 1\n",
        );
        job(&site, "bad", "", "  marts: { refresh: [mart.sales, mart.broken], retries: 0 }");
        let running = site.start();
        site.until(
            "stopped",
            "select state = 'stopped' from audit.marts where mart = 'mart.broken'",
        )
        .await;
        assert_eq!(ask(&site, &["run", "bad", "--wait"]).await.1, 65);
        let told = attempts(&site, "bad").await;
        assert!(
            told[0].contains("mart.broken is stopped") && told[0].contains("nothing"),
            "{told:#?}"
        );
        assert!(running.stop().await.is_ok());
    });
}

#[test]
fn load_and_extract_end_when_the_stream_has_brought_what_the_source_had() {
    block_on(async {
        let site = Site::new("load").await;
        site.shop("create table users (id bigint primary key, name text)").await;
        site.file(
            "schemas/raw.yaml",
            "table: raw.stg_users\nfrom: shop.public.users\nlayout: raw\n",
        );
        site.file(
            "schemas/dim.yaml",
            "table: cleansed.dim_users\nfrom: shop.public.users\nhistory: versions\nkey: [id]\n\
             columns:\n  id: { type: bigint }\n  name: { type: text }\n",
        );
        let tasks = "  extract: { extract: shop.public.users, into: raw.stg_users }
  load: { load: cleansed.dim_users, depends_on: [extract] }";
        job(&site, "etl", "", tasks);
        job(&site, "daily", "schedule: { cron: \"0 2 * * *\", interval: day }", tasks);
        job(&site, "tried", "", "  load: { load: cleansed.dim_users, retries: 0 }");
        let running = site.start();
        let run = ["run", "etl", "--wait"];
        for round in 1_usize..4 {
            let from = round * 1000;
            site.shop(&format!(
                "insert into users select {from} + i, 'u' from generate_series(1, 500) i"
            ))
            .await;
            let (said, code) = ask(&site, &run).await;
            assert_eq!(code, 0, "{said} {:#?}", attempts(&site, "etl").await);
            let all = (round * 500).to_string();
            for table in ["raw.stg_users", "cleansed.dim_users"] {
                let rows = site.at_warehouse(&format!("select count(*) from {table}")).await;
                assert_eq!(rows, std::slice::from_ref(&all), "{table}");
            }
        }
        // a source where nothing happens has nothing to bring
        assert_eq!(ask(&site, &run).await.1, 0);
        // what landed in the run's interval is counted
        site.warehouse
            .batch_execute("update cleansed.dim_users set _synced_at = now() - interval '1 day' where id <= 1007")
            .await
            .unwrap();
        let day = site.at_warehouse("select ((now() at time zone 'UTC') - interval '1 day')::date");
        let day = day.await.remove(0);
        assert_eq!(ask(&site, &["run", "daily", "--date", &day, "--wait"]).await.1, 0);
        assert_eq!(attempts(&site, "daily").await, ["extract|success|0|", "load|success|7|"]);
        let tried = ["run", "tried", "--wait"];
        assert_eq!(table(&site, "pause").await, 0);
        site.shop("insert into users values (1, 'kept')").await;
        assert_eq!(ask(&site, &tried).await.1, 65);
        let told = attempts(&site, "tried").await;
        assert!(
            told[0].contains("cleansed.dim_users is paused")
                && told[0].contains("siltstone table resume cleansed.dim_users"),
            "{told:#?}"
        );
        assert_eq!(table(&site, "resume").await, 0);
        assert_eq!(ask(&site, &tried).await.1, 0, "{:#?}", attempts(&site, "tried").await);
        let rows = "select count(*) from cleansed.dim_users where id = 1";
        assert_eq!(site.at_warehouse(rows).await, ["1"]);
        assert!(running.stop().await.is_ok());
    });
}

/// Asks for a table's rest or its end.
async fn table(site: &Site, verb: &str) -> i32 {
    let mut command = site.command(&["table", verb, "cleansed.dim_users", "--wait"]);
    let ended = tokio::task::spawn_blocking(move || command.status()).await.unwrap().unwrap();
    ended.code().unwrap()
}
