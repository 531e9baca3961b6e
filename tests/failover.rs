//! The source fails over to a promoted standby: the service goes on exactly where it was, or stops and says
//! what to do; never silently with less.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use siltstone::demo::cluster::Cluster;
use siltstone::error::Kind;
use siltstone::postgres::{Endpoint, Side, connect};

use crate::support::{Dice, Site, block_on, clusters, with_standby};

const SYNCED: [(&str, &str); 3] =
    [("hot_standby_feedback", "on"), ("primary_slot_name", "sb"), ("sync_replication_slots", "on")];

/// A source, its standby, and a site whose service finds whichever of them is the primary.
async fn pair(name: &str, settings: &[(&str, &str)]) -> (Cluster, Cluster, Site) {
    let (source, standby) = with_standby(name, 18, settings).await;
    let mut site = Site::on(name, &source, &clusters().await.1).await;
    let database = format!("{}_shop", site.name);
    let both = format!("@127.0.0.1:{},127.0.0.1:{}", source.port(), standby.port());
    let alone = format!("@127.0.0.1:{}", source.port());
    site.source_url =
        format!("{}?target_session_attrs=read-write", source.url(&database).replace(&alone, &both));
    site.file(
        "schemas/dim_acc.yaml",
        "table: cleansed.dim_acc\nfrom: shop.public.acc\nhistory: versions\nkey: [id]\n\
         columns:\n  id: { type: bigint }\n  n: { type: bigint }\n",
    );
    site.file(
        "schemas/log_acc.yaml",
        "table: cleansed.log_acc\nfrom: shop.public.acc\nhistory: append\nkey: [id]\n\
         columns:\n  id: { type: bigint }\n  n: { type: bigint }\n",
    );
    site.file(
        "schemas/acc.yaml",
        "table: cleansed.acc\nfrom: shop.public.acc\nkey: [id]\n\
         columns:\n  id: { type: bigint }\n  n: { type: bigint }\n",
    );
    site.shop("create table acc (id bigint primary key, n bigint); insert into acc select i, 0 from generate_series(1, 50) i; create table step (n bigint primary key)").await;
    (source, standby, site)
}

/// The slot's copy at the standby can be taken over.
async fn carried(site: &Site, standby: &Cluster) {
    let session = connect(Side::Source, &standby.endpoint("postgres"), "test").await.unwrap();
    let query = "select exists (select from pg_replication_slots where slot_name = $1 and synced
        and not temporary and invalidation_reason is null)";
    let slot = format!("siltstone_{}", site.name);
    for _ in 0..600 {
        if session.query_one(query, &[&slot]).await.unwrap().get(0) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the slot was not carried to the standby: {:#?}", standby.log_tail(20));
}

/// Writes numbered transactions at a server until it is gone or told to stop; the last that was committed.
async fn write(endpoint: Endpoint, stop: Arc<AtomicBool>, last: Arc<AtomicU64>) {
    let Ok(session) = connect(Side::Source, &endpoint, "writer").await else { return };
    let mut dice = Dice::new(last.load(Ordering::SeqCst) + 17);
    while !stop.load(Ordering::SeqCst) {
        let n = last.load(Ordering::SeqCst) + 1;
        let (a, b) = (dice.below(50) + 1, dice.below(50) + 1);
        let work = format!(
            "begin; insert into public.step values ({n}); update public.acc set n = {n} where id = {a};
             delete from public.acc where id = {b};
             insert into public.acc values ({b}, {n}); commit"
        );
        if session.batch_execute(&work).await.is_err() {
            return;
        }
        last.store(n, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn assert_exact(site: &Site) {
    let rows = "select {} order by 1";
    site.assert_equal(rows, "n from step", "n from cleansed.step").await;
    site.assert_equal(rows, "id, n from acc", "id, n from cleansed.acc").await;
    site.assert_equal(rows, "id, n from acc", "id, n from cleansed.dim_acc_current").await;
    let last = "id, n from (select distinct on (id) * from cleansed.log_acc order by id, _seq desc, \
        _ord desc) e where _op <> 'd'";
    site.assert_equal(rows, "id, n from acc", last).await;
    // every transaction inserts one row, and its event is there once
    let events = "n from cleansed.log_acc where _op = 'c'";
    site.assert_equal(rows, "n from step", events).await;
    let overlapping = "select a.id from cleansed.dim_acc a join cleansed.dim_acc b on a.id = b.id \
        and a.valid_from < b.valid_from and a.valid_to > b.valid_from";
    assert!(site.at_warehouse(overlapping).await.is_empty());
}

#[test]
fn a_promoted_standby_is_followed() {
    block_on(async {
        let (mut source, standby, mut site) = pair("failover", &SYNCED).await;
        site.shop_each(&[
            "alter system set synchronized_standby_slots = 'sb'",
            "select pg_reload_conf()",
        ])
        .await;
        let running = site.start();
        let live = "select count(*) = 4 and bool_and(state = 'streaming') from audit.tables";
        site.until("streaming", live).await;
        let (stop, last) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let writer = tokio::spawn(write(site.source_endpoint.clone(), stop.clone(), last.clone()));
        carried(&site, &standby).await;
        let some = last.load(Ordering::SeqCst) + 300;
        site.until("load", &format!("select max(n) >= {some} from cleansed.step")).await;
        source.stop_immediate().await.unwrap();
        writer.await.unwrap();
        // the service finds a standby for a while
        tokio::time::sleep(Duration::from_secs(2)).await;
        standby.promote().await.unwrap();
        let database = format!("{}_shop", site.name);
        let endpoint = standby.endpoint(&database);
        site.source = connect(Side::Source, &endpoint, "test").await.unwrap();
        site.source.batch_execute("set search_path to public").await.unwrap();
        let next = last.load(Ordering::SeqCst) + 10;
        last.store(next, Ordering::SeqCst);
        let writer = tokio::spawn(write(endpoint, stop.clone(), last.clone()));
        site.until("the promoted", &format!("select max(n) >= {} from cleansed.step", next + 200))
            .await;
        stop.store(true, Ordering::SeqCst);
        writer.await.unwrap();
        assert!(running.stop().await.is_ok());
        site.catch_up().await;
        assert_exact(&site).await;
        let timeline = "select timeline from audit.progress";
        assert_eq!(site.at_warehouse(timeline).await, ["2"]);
    });
}

#[test]
fn a_standby_that_is_not_promoted_yet_is_waited_for() {
    block_on(async {
        let (mut source, standby, mut site) = pair("waiting", &SYNCED).await;
        site.shop_each(&[
            "alter system set synchronized_standby_slots = 'sb'",
            "select pg_reload_conf()",
        ])
        .await;
        let running = site.start();
        site.until(
            "streaming",
            "select count(*) = 4 and bool_and(state = 'streaming') from audit.tables",
        )
        .await;
        carried(&site, &standby).await;
        assert!(running.stop().await.is_ok());
        source.stop_immediate().await.unwrap();
        // an address that moves is there before the promotion
        let database = format!("{}_shop", site.name);
        site.source_url = standby.url(&database);
        let running = site.start();
        tokio::time::sleep(Duration::from_secs(4)).await;
        standby.promote().await.unwrap();
        site.source = connect(Side::Source, &standby.endpoint(&database), "test").await.unwrap();
        site.source.batch_execute("set search_path to public").await.unwrap();
        site.shop("insert into step values (1)").await;
        site.until("the promoted", "select exists (select from cleansed.step)").await;
        assert!(running.stop().await.is_ok());
        // from now on this is the server: the one that was left is not gone back to
        site.source_url = source.url(&database);
        source.start_again().await.unwrap();
        let error = site.try_catch_up().await.unwrap_err();
        assert!(error.reason().contains("it was failed over from"), "{error}");
        assert_eq!(site.at_warehouse("select n from cleansed.step").await, ["1"]);
    });
}

#[test]
fn a_promoted_standby_without_the_slot_stops() {
    block_on(async {
        let (mut source, standby, site) = pair("slotless", &[]).await;
        let running = site.start();
        site.until(
            "streaming",
            "select count(*) = 4 and bool_and(state = 'streaming') from audit.tables",
        )
        .await;
        site.shop("insert into step values (1)").await;
        site.until("applied", "select exists (select from cleansed.step)").await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        source.stop_immediate().await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        standby.promote().await.unwrap();
        let promoted = std::time::Instant::now();
        let error = running.ended().await.unwrap_err();
        assert!(promoted.elapsed() < Duration::from_secs(30), "{:?}", promoted.elapsed());
        assert_eq!(error.kind(), Kind::PositionLost);
        assert!(error.reason().contains("is gone"), "{error}");
        assert!(error.remedy_text().unwrap().starts_with("siltstone table resync"), "{error}");
    });
}

#[test]
fn a_promoted_standby_that_lacks_what_was_applied_stops() {
    block_on(async {
        let (mut source, mut standby, site) = pair("lacking", &SYNCED).await;
        let shown = site.command(&["validate", "--connect"]).stdout(Stdio::piped()).output();
        let shown = String::from_utf8(shown.unwrap().stdout).unwrap();
        assert!(shown.contains("alter system set synchronized_standby_slots = 'sb'"), "{shown}");
        let running = site.start();
        site.until(
            "streaming",
            "select count(*) = 4 and bool_and(state = 'streaming') from audit.tables",
        )
        .await;
        carried(&site, &standby).await;
        standby.stop_fast().await.unwrap();
        site.shop("insert into step values (1)").await;
        site.until("applied", "select exists (select from cleansed.step)").await;
        source.stop_immediate().await.unwrap();
        standby.start_again().await.unwrap();
        standby.promote().await.unwrap();
        let promoted = std::time::Instant::now();
        let error = running.ended().await.unwrap_err();
        assert!(promoted.elapsed() < Duration::from_secs(30), "{:?}", promoted.elapsed());
        assert_eq!(error.kind(), Kind::PositionLost);
        assert!(error.reason().contains("does not contain the stored position"), "{error}");
        assert!(error.remedy_text().unwrap().starts_with("siltstone table resync"), "{error}");
        // not a row of the other history came in
        assert_eq!(site.at_warehouse("select n from cleansed.step").await, ["1"]);
    });
}
