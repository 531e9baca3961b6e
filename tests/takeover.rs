//! An owner that is killed or frozen at the worst moments: another instance takes over within ten seconds, and
//! one that wakes up writes nothing.

use std::process::Child;
use std::time::{Duration, Instant};

use crate::faults::{TABLES, assert_exact, files, traffic};
use crate::support::{Site, block_on, is_full, signal};

/// What the owner is doing as it is hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// Nothing.
    Idle,
    /// It sends rows.
    Copying,
    /// All is merged and the position moved; only the COMMIT is missing.
    Merged,
}

const BULK: &str = "create table bulk (id bigint primary key, v text not null)";

/// A position moves slowly, so that an owner can be hit behind it.
const SLOW: &str = "create function audit.slow() returns trigger language plpgsql as
    $$ begin perform pg_sleep(1.5); return new; end $$;
    create trigger slow before update on audit.progress for each row execute function audit.slow()";

/// Whether the session that applies meets a condition.
async fn applying(site: &Site, condition: &str) -> bool {
    let query = format!(
        "select count(*) > 0 from pg_stat_activity a left join pg_stat_progress_copy c using (pid)
          where a.application_name like 'siltstone%apply' and a.datname = current_database()
            and {condition}"
    );
    site.at_warehouse(&query).await == ["t"]
}

async fn reaches(site: &Site, condition: &str) -> bool {
    let started = Instant::now();
    while !applying(site, condition).await {
        if started.elapsed() > Duration::from_secs(20) {
            return false;
        }
    }
    true
}

/// Hits the owner at a moment.
async fn hit(site: &Site, owner: &Child, (moment, with): (Moment, &str)) {
    match moment {
        Moment::Idle => {
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            signal(owner, with);
        }
        Moment::Merged => {
            site.warehouse.batch_execute(SLOW).await.unwrap();
            site.shop("update users set country = 'merged' where id <= 50").await;
            assert!(reaches(site, "a.wait_event = 'PgSleep'").await, "no position moved");
            signal(owner, with);
            if with == "-STOP" {
                assert!(reaches(site, "a.state = 'idle in transaction'").await);
            }
        }
        Moment::Copying => {
            for attempt in 0..20 {
                // wide rows: what the sockets' buffers take at once is a small part of a batch, so that a COPY
                // lasts for as long as its rows are sent
                site.shop(&format!(
                    "insert into bulk select {attempt} * 40000 + i + (select count(*) from bulk), repeat('v', 1900)
                       from generate_series(1, 40000) i on conflict do nothing"
                ))
                .await;
                // the machine may be too busy to see it
                if !reaches(site, "c.pid is not null").await {
                    continue;
                }
                signal(owner, "-STOP");
                tokio::time::sleep(Duration::from_millis(300)).await;
                if applying(site, "c.pid is not null").await {
                    if with != "-STOP" {
                        signal(owner, with);
                    }
                    return;
                }
                // it had come to the end of it
                signal(owner, "-CONT");
            }
            panic!("it was never met in the midst of a COPY");
        }
    }
}

/// How many rows were ever written where the source's rows are.
async fn written(site: &Site) -> Vec<String> {
    // counters are told a second late
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let query = "select sum(n_tup_ins + n_tup_upd + n_tup_del) from pg_stat_user_tables
                  where schemaname in ('cleansed', 'raw') or relname = 'pending'";
    site.at_warehouse(query).await
}

#[test]
fn a_killed_or_frozen_owner_is_replaced_and_writes_no_more() {
    block_on(async {
        let site = Site::new("frozen").await;
        files(&site);
        site.shop(TABLES).await;
        site.shop(BULK).await;
        site.catch_up().await;
        let epoch = "select epoch from audit.epoch where resource like 'connector:%'";
        let runs = "a.state is not null";
        let mut owner = site.spawn(&["run"]);
        assert!(reaches(&site, runs).await);
        let mut rounds = vec![
            (Moment::Idle, "-STOP"),
            (Moment::Copying, "-STOP"),
            (Moment::Merged, "-STOP"),
            (Moment::Merged, "-KILL"),
        ];
        if is_full() {
            rounds.extend([(Moment::Idle, "-KILL"), (Moment::Copying, "-KILL")]);
        }
        for (round, (moment, with)) in (0..).zip(rounds) {
            let mut next = site.spawn(&["run"]);
            traffic(&site, 20, round).await;
            hit(&site, &owner, (moment, with)).await;
            let before = site.at_warehouse(epoch).await.remove(0);
            let hit = Instant::now();
            let taken = format!(
                "select epoch > {before} from audit.epoch where resource like 'connector:%'"
            );
            site.until("taken over", &taken).await;
            let took = hit.elapsed();
            assert!(took < Duration::from_secs(10), "{moment:?} {with}: {took:?}");
            if moment == Moment::Merged {
                let fast = "drop trigger slow on audit.progress; drop function audit.slow()";
                site.warehouse.batch_execute(fast).await.unwrap();
            }
            traffic(&site, 5, 100 + round).await;
            let marker = format!("insert into users values (9000000 + {round}, 'marker')");
            site.shop(&marker).await;
            let seen = format!(
                "select count(*) > 0 from cleansed.dim_users where user_id = 9000000 + {round}"
            );
            site.until("the new one applies", &seen).await;
            println!(
                "{moment:?} {with}: taken over after {took:?}, applied after {:?}",
                hit.elapsed()
            );
            let after = (site.at_warehouse(epoch).await, written(&site).await);
            if with == "-STOP" {
                // it finds its sessions ended, and that it is the owner no more
                signal(&owner, "-CONT");
            }
            let status = tokio::task::spawn_blocking(move || owner.wait().unwrap()).await.unwrap();
            assert!(!status.success(), "{status}");
            assert_eq!((site.at_warehouse(epoch).await, written(&site).await), after);
            assert!(next.try_wait().unwrap().is_none(), "the new owner has ended");
            owner = next;
        }
        owner.kill().unwrap();
        owner.wait().unwrap();
        site.catch_up().await;
        site.assert_equal("select id, v from {} order by id", "bulk", "cleansed.bulk").await;
        assert_exact(&site).await;
    });
}
