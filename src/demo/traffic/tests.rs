//! Traffic on a real shop: every kind runs, what is counted is what happened, a crash is survived.

use super::*;
use crate::clock::Clock;
use crate::demo::cluster::{Cluster, ClusterOptions};
use crate::demo::shop::{self, ShopOptions};
use crate::spec::Env;

async fn shop() -> Cluster {
    let env = Env::of_process(&Clock::system());
    let cluster = Cluster::start(ClusterOptions::new("traffic", &env)).await.unwrap();
    let options = ShopOptions { rows: 10_000, seed: 1, today: env.today() };
    shop::create(&cluster, options).await.unwrap();
    cluster
}

#[test]
fn equal_seeds_draw_equal_numbers_and_weights_are_kept() {
    let draw = |seed| (0..5).map(|_| Dice::new(seed).number()).collect::<Vec<_>>();
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
    let mut dice = Dice::new(3);
    let mut drawn = [0_u64; WORK.len()];
    for _ in 0..100_000 {
        drawn[dice.work().unwrap()] += 1;
    }
    for (work, drawn) in WORK.iter().zip(drawn) {
        let expected = work.weight * 100;
        assert!(drawn.abs_diff(expected) < 300 + expected / 10, "{}: {drawn}", work.call);
    }
}

/// Replication would show the same rows: what a function returns is what it has changed.
#[tokio::test]
async fn every_kind_changes_as_many_rows_as_it_says() {
    const STATISTICS: &str = "select (sum(n_tup_ins) + sum(n_tup_upd) + sum(n_tup_del))::bigint
        from pg_stat_user_tables where schemaname = 'public'";
    let cluster = shop().await;
    let mut shop = prepare(&cluster.endpoint(shop::DATABASE)).await.unwrap();
    let mut dice = Dice::new(5);
    let works = WORK.iter().zip(&shop.statements).chain([(&LARGE, &shop.large)]);
    for (work, statement) in works.filter(|(work, _)| !work.call.contains("half_rolled_back")) {
        let mut changes = 0;
        let mut counted = i64::MIN;
        for round in 0..41 {
            let draw = (dice.number(), dice.number());
            if round == 0 {
                shop.session.batch_execute("select pg_stat_force_next_flush()").await.unwrap();
                counted = shop.session.query_one(STATISTICS, &[]).await.unwrap().get(0);
            } else {
                changes += make(&mut shop.session, statement, End::Commit, draw).await.unwrap();
            }
        }
        shop.session.batch_execute("select pg_stat_force_next_flush()").await.unwrap();
        let now: i64 = shop.session.query_one(STATISTICS, &[]).await.unwrap().get(0);
        assert!(changes > 0, "{} changes nothing", work.call);
        assert_eq!(i64::try_from(changes).unwrap(), now - counted, "{}", work.call);
    }
}

#[tokio::test]
async fn traffic_keeps_its_rate_and_survives_a_crash_of_the_shop() {
    let mut cluster = shop().await;
    let traffic = Traffic::start(cluster.endpoint(shop::DATABASE), 600, 11);
    tokio::time::sleep(Duration::from_secs(3)).await;
    // a machine that has other things to do is late
    while traffic.counts().transactions < 600 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let before = traffic.counts();
    assert!((600..=2_200).contains(&before.transactions), "{before:?}");
    assert!(before.changes > before.transactions);
    cluster.restart_immediate().await.unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    let after = traffic.stop().await.unwrap();
    println!("before {before:?}, after {after:?}");
    assert!(after.transactions > before.transactions + 300, "{after:?}");
    assert!(after.reconnects > 0 && after.rolled_back > 0, "{after:?}");
}

/// Shows what this machine reaches.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures, asserts nothing: cargo test --lib the_default_rate -- --ignored --nocapture"]
async fn the_default_rate() {
    let cluster = shop().await;
    let traffic = Traffic::start(cluster.endpoint(shop::DATABASE), DEFAULT_RATE, 1);
    for _ in 0..12 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        println!("{:?}", traffic.counts());
    }
    println!("{:?}", traffic.stop().await.unwrap());
}
