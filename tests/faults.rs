//! What breaks: the process, a reply, a server, a slot. Afterwards everything is equal, or it has
//! stopped with the remedy.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use siltstone::error::Kind;
use siltstone::postgres::{Endpoint, Side, connect};
use siltstone::warehouse::LEASE;

use crate::support::{Proxy, Site, block_on, clusters, is_full, own_cluster};

pub(crate) const TABLES: &str = "create table users (id bigint primary key, email text not null, country text);
    insert into users select i, 'u' || i, 'DE' from generate_series(1, 2000) i;
    create table orders (id bigint primary key, day date not null, amount numeric(10,2), note text);
    alter table orders alter note set storage external;
    insert into orders select i, date '2024-01-01' + (i % 40)::int, i, repeat('n', 3000) from generate_series(1, 1000) i;
    create table plain (a int, b text); alter table plain replica identity full";

pub(crate) fn files(site: &Site) {
    site.file(
        "schemas/dim_users.yaml",
        "table: cleansed.dim_users\nfrom: shop.public.users\nhistory: versions\nkey: [user_id]\n\
         columns:\n  user_id: { from: id, type: bigint }\n  email: { type: text }\n  country: { type: text }\n",
    );
    site.file(
        "schemas/stg_users.yaml",
        "table: raw.stg_users\nfrom: shop.public.users\nlayout: raw\n",
    );
    site.file(
        "schemas/fact_orders.yaml",
        "table: cleansed.fact_orders\nfrom: shop.public.orders\nkey: [order_id]\n\
         partition: { by: day, every: month, range: [\"2020-01-01\", \"+1y\"] }\n\
         columns:\n  order_id: { from: id, type: bigint }\n  day: { type: date, required: true }\n  \
         amount: { type: \"numeric(10,2)\" }\n  note: { type: text }\n",
    );
    site.file(
        "schemas/log_orders.yaml",
        "table: cleansed.log_orders\nfrom: shop.public.orders\nhistory: append\nkey: [order_id]\n\
         columns:\n  order_id: { from: id, type: bigint }\n  amount: { type: \"numeric(10,2)\" }\n",
    );
}

/// Runs `count` transactions of mixed changes at the source.
pub(crate) async fn traffic(site: &Site, count: u32, seed: u32) {
    for n in 0..count {
        let a = (n.wrapping_mul(7919) + seed * 104_729) % 2000 + 1;
        let b = (n.wrapping_mul(15_485_863) + seed * 31) % 1000 + 1;
        let new = 1_000_000 + seed * 100_000 + n;
        site.shop(&format!(
            "update users set country = 'c{n}' where id between {a} and {a} + 5;
             update users set email = 'e{n}' where id = {a};
             update orders set day = date '2024-01-01' + {n} % 90 where id between {b} and {b} + 3;
             delete from orders where id = {b} + 1;
             insert into orders values ({new}, date '2024-02-01', {n}, 'new');
             insert into plain select {n} % 3, 'p' from generate_series(1, 3);
             delete from plain where ctid = (select min(ctid) from plain);"
        ))
        .await;
    }
}

pub(crate) async fn assert_exact(site: &Site) {
    let users = "select {} order by 1";
    site.assert_equal(
        users,
        "id, email, country from users",
        "user_id, email, country from cleansed.dim_users where is_current",
    )
    .await;
    site.assert_equal(
        users,
        "id, day, amount, note from orders",
        "order_id, day, amount, note from cleansed.fact_orders",
    )
    .await;
    let plain = "select a, b, count(*) from {} group by 1, 2 order by 1, 2";
    site.assert_equal(plain, "plain", "cleansed.plain").await;
    let nothing = [
        (
            "an event twice in raw",
            "select raw_data->>'seq' from raw.stg_users group by raw_data->>'seq', raw_data->'ord', \
             raw_data->'key' having count(*) > 1",
        ),
        (
            "overlapping versions",
            "select user_id from (select user_id, valid_to > lead(valid_from) over (partition by user_id \
             order by valid_from) as twice from cleansed.dim_users) v where twice",
        ),
        (
            "a locator that lies",
            "select order_id from audit.locator_cleansed_fact_orders l full join cleansed.fact_orders f \
             using (order_id) where l.day is distinct from f.day",
        ),
        ("kept changes", "select table_name from audit.pending"),
    ];
    for (what, query) in nothing {
        assert_eq!(site.at_warehouse(query).await, Vec::<String>::new(), "{what}");
    }
    // the newest event of each key is the row: no event is missing
    site.assert_equal(
        "select {} order by 1",
        "id, email, country from users",
        "(raw_data->'after'->>'id')::bigint, raw_data->'after'->>'email', raw_data->'after'->>'country' \
         from (select distinct on (raw_data->'key') raw_data from raw.stg_users \
         order by raw_data->'key', (raw_data->>'seq')::bigint desc, (raw_data->>'ord')::int desc) r \
         where raw_data->>'op' <> 'd'",
    )
    .await;
}

#[test]
fn a_killed_process_loses_nothing_and_doubles_nothing() {
    block_on(async {
        let site = Site::new("killed").await;
        files(&site);
        site.shop(TABLES).await;
        let (kills, transactions) = if is_full() { (20, 30_000) } else { (6, 1_500) };
        let traffic = traffic(&site, transactions, 1);
        let killing = async {
            for n in 0..kills {
                let mut child = site.spawn(&["run"]);
                // from before the slot is made to well into the stream
                tokio::time::sleep(Duration::from_millis(120 + 173 * (n % 9))).await;
                child.kill().unwrap();
                child.wait().unwrap();
            }
        };
        tokio::join!(traffic, killing);
        site.catch_up().await;
        assert_exact(&site).await;
    });
}

#[test]
fn a_lost_reply_to_commit_changes_nothing() {
    block_on(async {
        let mut site = Site::new("reply").await;
        let proxy = Proxy::before(clusters().await.1.port()).await;
        let port = format!(":{}/", clusters().await.1.port());
        let through = format!(":{}/", proxy.port);
        site.warehouse_url = site.warehouse_url.replace(&port, &through) + "?sslmode=disable";
        files(&site);
        site.shop(TABLES).await;
        // the first ones fall into the definition of tables, the slot, the snapshot
        for nth in 1..=7 {
            proxy.lose_commit(nth);
            site.catch_up().await;
            traffic(&site, 20, nth).await;
        }
        let running = site.start();
        for round in 20..30 {
            proxy.lose_commit(1 + round % 3);
            traffic(&site, 20, round).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        assert!(running.stop().await.is_ok());
        proxy.lose_commit(0);
        site.catch_up().await;
        assert!(proxy.lost() >= 5, "only {} replies were lost", proxy.lost());
        assert_exact(&site).await;
    });
}

/// Writes whatever happens to the server; how many transactions were committed.
async fn write_through(source: Endpoint, stop: Arc<AtomicBool>) -> u32 {
    let mut done = 0;
    while !stop.load(Ordering::SeqCst) {
        let Ok(session) = connect(Side::Source, &source, "writer").await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        while !stop.load(Ordering::SeqCst) {
            let id = 5_000_000 + done;
            let work = format!(
                "insert into public.users values ({id}, 'w', 'w') on conflict (id) do update set email = 'again';
                 insert into public.plain values (7, 'w')"
            );
            if session.batch_execute(&work).await.is_err() {
                break;
            }
            done += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    done
}

#[test]
fn servers_that_crash_are_waited_for() {
    block_on(async {
        let (mut source, mut warehouse) =
            (own_cluster("crash-source").await, own_cluster("crash-warehouse").await);
        let mut site = Site::on("crash", &source, &warehouse).await;
        files(&site);
        site.shop(TABLES).await;
        site.catch_up().await;
        let running = site.start();
        let stop = Arc::new(AtomicBool::new(false));
        let writer = tokio::spawn(write_through(site.source_endpoint.clone(), stop.clone()));
        for round in 0..if is_full() { 40 } else { 3 } {
            traffic(&site, 60, round).await;
            if round % 2 == 0 {
                warehouse.restart_immediate().await.unwrap();
            } else {
                source.restart_immediate().await.unwrap();
            }
            site.reconnect(&source, &warehouse).await;
        }
        stop.store(true, Ordering::SeqCst);
        println!("{} transactions across the restarts", writer.await.unwrap());
        traffic(&site, 60, 99).await;
        assert!(running.stop().await.is_ok());
        site.catch_up().await;
        assert_exact(&site).await;
    });
}

#[test]
fn a_merge_that_takes_long_keeps_the_connection() {
    block_on(async {
        let source = own_cluster("slowmerge-source").await;
        let site = Site::on("slowmerge", &source, &clusters().await.1).await;
        files(&site);
        site.shop(TABLES).await;
        let (timeout, held) = if is_full() { (5, 60) } else { (2, 8) };
        site.shop(&format!("alter system set wal_sender_timeout = '{timeout}s'")).await;
        site.shop("select pg_reload_conf()").await;
        site.catch_up().await;
        let running = site.start();
        traffic(&site, 5, 1).await;
        let streams = "select count(*) > 0 from cleansed.dim_users where country = 'c4'";
        site.until("it streams", streams).await;
        let walsender = "select pid, backend_start from pg_stat_replication
            where application_name = 'siltstone stream'";
        let before = site.at_source(walsender).await;
        assert_eq!(before.len(), 1);
        site.warehouse
            .batch_execute("begin; lock table cleansed.dim_users in share mode")
            .await
            .unwrap();
        let until = Instant::now() + Duration::from_secs(held);
        let mut seed = 2;
        while Instant::now() < until {
            traffic(&site, 20, seed).await;
            seed += 1;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let waits = "select count(*) > 0 from pg_locks l join pg_stat_activity a using (pid)
            where not l.granted and a.datname = current_database()";
        assert_eq!(site.at_warehouse(waits).await, ["t"], "no merge waited");
        assert_eq!(site.at_source(walsender).await, before, "the source gave it up");
        site.warehouse.batch_execute("commit").await.unwrap();
        assert!(running.stop().await.is_ok());
        site.catch_up().await;
        assert_exact(&site).await;
    });
}

#[test]
fn a_slot_that_is_not_ours_any_more_stops_with_the_remedy() {
    block_on(async {
        let site = Site::new("slot").await;
        files(&site);
        site.shop(TABLES).await;
        site.catch_up().await;
        let slot = format!("siltstone_{}", site.name);
        let drop = format!("select pg_drop_replication_slot('{slot}')");
        let make = format!("select pg_create_logical_replication_slot('{slot}', 'pgoutput')");
        let advance = format!("select pg_replication_slot_advance('{slot}', pg_current_wal_lsn())");
        let other = "update audit.progress set system_id = '1'";
        let older = "update audit.progress set position = position - 10000";
        let cases = [
            ("dropped", vec![&*drop], None),
            ("recreated", vec![&*drop, &*make], None),
            ("advanced", vec![&*advance], None),
            ("another system", vec![], Some(other)),
            ("an older copy of the warehouse", vec![], Some(older)),
        ];
        for (seed, (what, at_source, at_warehouse)) in (1..).zip(cases) {
            traffic(&site, 5, seed).await;
            site.shop_each(&at_source).await;
            if let Some(statement) = at_warehouse {
                site.warehouse.batch_execute(statement).await.unwrap();
            }
            let error = site.try_catch_up().await.expect_err(what);
            assert_eq!(error.kind(), Kind::PositionLost, "{what}: {error}");
            assert!(error.to_string().contains("siltstone table resync --all"), "{what}: {error}");
            // the remedy works: as the command it names
            let asked = site.command(&["table", "resync", "--all", "--yes"]).status().unwrap();
            assert!(asked.success(), "{what}");
            site.catch_up().await;
            let users = "select {} order by 1";
            site.assert_equal(
                users,
                "id, email, country from users",
                "user_id, email, country from cleansed.dim_users where is_current",
            )
            .await;
            site.assert_equal(
                users,
                "id, day, amount, note from orders",
                "order_id, day, amount, note from cleansed.fact_orders",
            )
            .await;
            site.assert_equal(
                "select a, b, count(*) from {} group by 1, 2 order by 1, 2",
                "plain",
                "cleansed.plain",
            )
            .await;
        }
        let gaps = "select count(*) > 0, bool_and(after_seq < until_seq) from audit.gaps where table_name = 'raw.stg_users'";
        assert_eq!(site.at_warehouse(gaps).await, ["t|t"]);
    });
}

#[test]
fn a_slot_that_is_taken_away_while_it_streams_stops_with_the_remedy() {
    block_on(async {
        let site = Site::new("slotlive").await;
        files(&site);
        site.shop(TABLES).await;
        site.catch_up().await;
        let slot = format!("siltstone_{}", site.name);
        let kick = format!(
            "select pg_terminate_backend(active_pid, 5000) from pg_replication_slots \
             where slot_name = '{slot}' and active"
        );
        let drop = format!("select pg_drop_replication_slot('{slot}')");
        let make = format!("select pg_create_logical_replication_slot('{slot}', 'pgoutput')");
        let advance = format!("select pg_replication_slot_advance('{slot}', pg_current_wal_lsn())");
        let cases = [
            ("dropped", format!("{kick}; {drop}")),
            ("recreated", format!("{kick}; {drop}; {make}")),
            (
                "advanced",
                format!("{kick}; insert into public.users values (777001, 'a', 'a'); {advance}"),
            ),
        ];
        for (seed, (what, statements)) in (1..).zip(cases) {
            let running = site.start();
            site.until("streaming", "select count(*) > 0 from pg_stat_activity where application_name like 'siltstone%apply' and datname = current_database()").await;
            traffic(&site, 20, 50 + seed).await;
            let taken = Instant::now();
            // it streams again within a moment, and then nobody can take the slot
            'again: loop {
                for statement in statements.split("; ") {
                    if site.source.batch_execute(statement).await.is_err() {
                        continue 'again;
                    }
                }
                break;
            }
            let error = tokio::time::timeout(Duration::from_secs(30), running.ended()).await;
            let error = error.unwrap_or_else(|_| panic!("{what}: it goes on")).expect_err(what);
            println!("{what}: noticed after {:?}", taken.elapsed());
            assert_eq!(error.kind(), Kind::PositionLost, "{what}: {error}");
            assert!(error.to_string().contains("siltstone table resync --all"), "{what}: {error}");
            let asked = site.command(&["table", "resync", "--all", "--yes"]).status().unwrap();
            assert!(asked.success(), "{what}");
            site.catch_up().await;
            site.assert_equal(
                "select {} order by 1",
                "id, email, country from users",
                "user_id, email, country from cleansed.dim_users where is_current",
            )
            .await;
        }
    });
}

#[test]
fn a_slot_of_that_name_that_is_not_ours_is_left_alone() {
    block_on(async {
        let site = Site::new("foreign").await;
        site.shop(TABLES).await;
        let slot = format!("siltstone_{}", site.name);
        site.shop(&format!("select pg_create_logical_replication_slot('{slot}', 'pgoutput')"))
            .await;
        let error = site.try_catch_up().await.expect_err("a foreign slot");
        assert!(error.to_string().contains("pg_drop_replication_slot"), "{error}");
        site.shop(&format!("select pg_drop_replication_slot('{slot}')")).await;
        site.catch_up().await;
    });
}

#[test]
fn the_second_instance_stands_by_and_takes_over() {
    block_on(async {
        let site = Site::new("takeover").await;
        files(&site);
        site.shop(TABLES).await;
        site.catch_up().await;
        let owner = "select owner from audit.owner where resource like 'connector:%'";
        let first = site.start();
        site.until("streaming", "select count(*) > 0 from pg_stat_activity where application_name like 'siltstone%apply' and datname = current_database()").await;
        let owned_by_first = site.at_warehouse(owner).await;
        let second = site.start();
        traffic(&site, 20, 1).await;
        // beyond the lease: it was renewed
        tokio::time::sleep(LEASE + Duration::from_secs(1)).await;
        assert_eq!(site.at_warehouse(owner).await, owned_by_first);
        assert!(first.stop().await.is_ok());
        traffic(&site, 20, 2).await;
        let taken = format!(
            "select owner <> '{}' from audit.owner where resource like 'connector:%'",
            owned_by_first[0]
        );
        let asked = Instant::now();
        site.until("taken over", &taken).await;
        assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
        assert!(second.stop().await.is_ok());
        site.catch_up().await;
        assert_exact(&site).await;
    });
}

#[test]
fn an_idle_source_in_the_warehouses_own_cluster_makes_no_storm() {
    block_on(async {
        let cluster = own_cluster("one").await;
        let site = Site::on("one", &cluster, &cluster).await;
        site.shop(TABLES).await;
        site.catch_up().await;
        let running = site.start();
        site.until("streaming", "select count(*) > 0 from pg_stat_replication where application_name = 'siltstone stream'").await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let commits =
            "select count(*) from audit.progress where moved_at > now() - interval '1 day'";
        assert_eq!(site.at_warehouse(commits).await, ["1"]);
        let position = "select position from audit.progress";
        let mut moves = 0;
        let mut last = site.at_warehouse(position).await;
        for _ in 0..120 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let now = site.at_warehouse(position).await;
            moves += u32::from(now != last);
            last = now;
        }
        assert!(moves <= 2, "{moves} commits in 12 s");
        assert!(running.stop().await.is_ok());
    });
}
