//! The jobs that the default installation brings, over the shop: what a date's runs leave does not depend on how
//! often it is run.

use siltstone::demo::shop::{self, ShopOptions};

use crate::jobs::{ask, runs};
use crate::support::{Site, block_on};

/// Of each table of the warehouse a digest of its rows.
async fn digests(site: &Site) -> Vec<String> {
    let names = site
        .at_warehouse(
            "select format('%I.%I', schemaname, tablename) from pg_tables
              where schemaname in ('raw', 'cleansed', 'mart', 'ref')
              union all
             select format('%I.%I', schemaname, matviewname) from pg_matviews order by 1",
        )
        .await;
    let mut digests = Vec::new();
    for name in names {
        let rows = format!(
            "select '{name}', count(*), md5(string_agg(t::text, chr(10) order by t::text collate \"C\")) from {name} t"
        );
        digests.extend(site.at_warehouse(&rows).await);
    }
    digests
}

#[test]
fn the_days_close_twice_for_a_past_date_leaves_the_same_warehouse() {
    const DATE: &str = "2024-03-10";
    block_on(async {
        let site = Site::new("reference").await;
        site.default_files();
        // the shop's newest rows are of that day
        let options = ShopOptions { rows: 2_000, seed: 1, today: 8_835 };
        shop::fill(&site.source_endpoint, options).await.unwrap();
        let running = site.start();
        site.until("streaming", "select bool_and(state = 'streaming') from audit.tables").await;
        let mut before = Vec::new();
        for round in 1..=2 {
            for job in ["source_systems_sync", "etl_daily", "data_quality"] {
                let (told, code) = ask(&site, &["run", job, "--date", DATE, "--wait"]).await;
                let why =
                    "select task, state, reason from audit.task_runs where state <> 'success'";
                assert_eq!(code, 0, "{job}: {told}{:?}", site.at_warehouse(why).await);
                assert_eq!(runs(&site, job).await, [format!("{DATE} success")]);
            }
            let attempts = "select bool_and(status = 'success'), count(distinct task_id) from audit.etl_logs where dag_id = 'etl_daily'";
            assert_eq!(site.at_warehouse(attempts).await, ["t|11"]);
            let now = digests(&site).await;
            let filled = now.iter().filter(|digest| !digest.contains("|0|")).count();
            assert!(filled > 12, "{now:?}");
            if round == 1 {
                before = now;
            } else {
                assert_eq!(now, before);
            }
        }
        assert!(running.stop().await.is_ok());
    });
}
