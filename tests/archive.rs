//! The archive of the warehouse server's log: with a copy it restores any moment behind it, it goes no further back
//! than the oldest copy, and what it lacks is told.

use std::path::PathBuf;
use std::time::Duration;

use jiff::SignedDuration;
use siltstone::clock::Clock;

use crate::jobs::{Hand, ask, job};
use crate::support::{Site, block_on};
use crate::tasks::{attempts, has_programs, names};

const COPY: &str =
    "  copy: { backup: { base: backups/copies, wal: backups/wal, keep: 1 }, retries: 0 }";

/// The segments of the archive that are whole.
fn segments(site: &Site) -> Vec<String> {
    names(site, "backups/wal").into_iter().filter(|name| name.len() == 24).collect()
}

/// Ends the segment that is written, and waits until the archive has it.
async fn switch(site: &Site) -> String {
    let ended = "select pg_walfile_name(pg_switch_wal())";
    site.at_warehouse("select count(*) from pg_logical_emit_message(true, 'test', 'x')").await;
    let ended = site.at_warehouse(ended).await.remove(0);
    while !segments(site).contains(&ended) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    ended
}

/// Runs a job to its end; whether it went well, and what it said.
async fn ran(site: &Site, name: &str) -> (bool, String) {
    let (_, code) = ask(site, &["run", name, "--wait"]).await;
    (code == 0, attempts(site, name).await.pop().unwrap_or_default())
}

#[test]
fn an_archive_restores_any_moment_from_the_oldest_copy_on() {
    block_on(async {
        let (source, _) = crate::support::clusters().await;
        let warehouse = crate::support::own_cluster("archive").await;
        let site = Site::on("archive", source, &warehouse).await;
        if !has_programs(&site).await {
            return;
        }
        let drill = "from: backups/copies, wal: backups/wal, compare: [\"cleansed.proof\"]";
        job(&site, "nightly", "", COPY);
        job(&site, "drill", "", &format!("  t: {{ restore_drill: {{ {drill} }}, retries: 0 }}"));
        job(
            &site,
            "past",
            "",
            &format!("  t: {{ restore_drill: {{ {drill}, ago: 1m }}, retries: 0 }}"),
        );
        let hand = Hand::at(&Clock::system().now().to_string());
        let running = site.start_by(hand.clock());
        let slots =
            "select count(*) from pg_replication_slots where slot_name like 'siltstone_wal_%'";
        site.until("received", &format!("{slots} and active").replace("count(*)", "count(*) = 1"))
            .await;
        let slot = site.at_warehouse(&slots.replace("count(*)", "slot_name")).await.remove(0);
        let proof = "create schema if not exists cleansed; create table cleansed.proof (id int); \
                     insert into cleansed.proof values (1)";
        site.warehouse.batch_execute(proof).await.unwrap();
        assert!(ran(&site, "nightly").await.0, "{:?}", attempts(&site, "nightly").await);
        // what lies between the copy and the moment that is asked for, and what comes behind it
        site.warehouse.batch_execute("insert into cleansed.proof values (2)").await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let moment = Clock::system().now();
        tokio::time::sleep(Duration::from_secs(1)).await;
        site.warehouse.batch_execute("delete from cleansed.proof").await.unwrap();
        let first = switch(&site).await;
        assert_eq!(ran(&site, "drill").await, (true, "t|success|0|".to_owned()));
        hand.turn(&(moment + SignedDuration::from_mins(1)).to_string());
        assert_eq!(ran(&site, "past").await, (true, "t|success|2|".to_owned()));
        // the next copy: what only the one before needed goes
        site.warehouse.batch_execute("insert into cleansed.proof values (3)").await.unwrap();
        assert!(segments(&site).contains(&first));
        assert!(ran(&site, "nightly").await.0, "{:?}", attempts(&site, "nightly").await);
        assert!(!segments(&site).contains(&first), "{:?}", segments(&site));
        // a segment that is not there
        switch(&site).await;
        let missing = switch(&site).await;
        switch(&site).await;
        assert_eq!(ran(&site, "drill").await, (true, "t|success|1|".to_owned()));
        let path: PathBuf = site.config().with_file_name("backups/wal").join(&missing);
        std::fs::remove_file(path).unwrap();
        let (well, said) = ran(&site, "drill").await;
        assert!(!well && said.contains("the archive of the log has a gap"), "{said}");
        assert!(running.stop().await.is_ok());
        // the server has not kept what comes next: it begins anew, and what it had is set aside
        let dropping = format!("select pg_drop_replication_slot('{slot}')");
        site.until("free", &format!("{slots} and active").replace("count(*)", "count(*) = 0"))
            .await;
        site.at_warehouse(&dropping).await;
        // a slot that is made begins with the last checkpoint
        site.at_warehouse("select pg_switch_wal()::text").await;
        site.warehouse.batch_execute("checkpoint").await.unwrap();
        let running = site.start_by(hand.clock());
        let has_aside =
            || names(&site, "backups/wal").iter().any(|name| name.starts_with("until-"));
        while !has_aside() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        switch(&site).await;
        let (well, said) = ran(&site, "drill").await;
        assert!(!well && said.contains("the archive of the log has a gap"), "{said}");
        hand.turn(&(moment + SignedDuration::from_mins(2)).to_string());
        assert!(ran(&site, "nightly").await.0, "{:?}", attempts(&site, "nightly").await);
        assert!(!has_aside());
        switch(&site).await;
        assert_eq!(ran(&site, "drill").await, (true, "t|success|1|".to_owned()));
        assert!(running.stop().await.is_ok());
        // nobody asks for the archive any more: nothing keeps the server's log
        job(&site, "nightly", "", &COPY.replace("wal: backups/wal, ", ""));
        let running = site.start_by(hand.clock());
        let dropped = slots.replace("count(*)", "count(*) = 0");
        site.until("dropped", &dropped).await;
        assert!(running.stop().await.is_ok());
        // nor where the last job has gone with it
        let make = format!("select pg_create_physical_replication_slot('{slot}', true)");
        site.at_warehouse(&make).await;
        for name in ["nightly", "drill", "past"] {
            std::fs::remove_file(site.config().with_file_name(format!("jobs/{name}.yaml")))
                .unwrap();
        }
        let running = site.start();
        site.until("dropped", &dropped).await;
        assert!(running.stop().await.is_ok());
    });
}
