//! Large tables are read in ranges of their key: what is in before a crash is not read again, and what
//! the stream brings meanwhile is applied once.

use std::process::Command;
use std::time::Duration;

use siltstone::demo::cluster::Cluster;
use siltstone::postgres::{Side, connect};
use tokio::sync::OnceCell;
use tokio_postgres::error::SqlState;

use crate::standby::Writers;
use crate::support::{Dice, Site, block_on, clusters, env, is_full, own_cluster};

/// A site whose source's long transactions keep no other test's slots waiting.
async fn site(name: &str) -> Site {
    static SOURCE: OnceCell<Cluster> = OnceCell::const_new();
    let source = SOURCE.get_or_init(|| own_cluster("ranges-source")).await;
    Site::on(name, source, &clusters().await.1).await
}

/// So many rows are refused by their tables, in every range some.
const REFUSED: u64 = 200;

/// Wide pages, so that few rows are many ranges.
pub fn big(rows: u32) -> String {
    format!(
        "create table big (id bigint primary key, v text not null, n int not null) with (fillfactor = 10);
         insert into big select i * 10 + m, repeat('v', 200), i from generate_series(1, {rows}) i, (values (0), (7)) m (m)
          where m = 0 or i % 5 = 1"
    )
}

pub fn files(site: &Site) {
    let declared = [
        ("dim_big", "history: versions\nkey: [big_id]\n"),
        ("log_big", "history: append\nkey: [big_id]\n"),
        ("big", "key: [big_id]\n"),
    ];
    for (table, fields) in declared {
        site.file(
            &format!("schemas/{table}.yaml"),
            &format!(
                "table: cleansed.{table}\nfrom: shop.public.big\n{fields}columns:\n  \
                 big_id: {{ from: id, type: bigint }}\n  v: {{ type: text, required: true }}\n  n: {{ type: integer }}\n"
            ),
        );
    }
    site.file("schemas/stg_big.yaml", "table: raw.stg_big\nfrom: shop.public.big\nlayout: raw\n");
}

/// One transaction of everything that can happen to rows. Those whose key ends in 7 go from one range to
/// another, to one that ends in 3.
async fn change(site: &Site, dice: &mut Dice, rows: u64) {
    while let Err(error) = site.source.batch_execute(&work(dice, rows)).await {
        // a writer beside it was at the same key first
        assert_eq!(error.code(), Some(&SqlState::UNIQUE_VIOLATION), "{error}");
        site.shop("rollback").await;
    }
}

pub fn work(dice: &mut Dice, rows: u64) -> String {
    let mut key = || (dice.below(rows) + 1) * 10;
    let (a, b, c, d) = (key(), key(), key(), key());
    let (there, d) = (key() + 1, d - d % 50 + 17);
    let n = dice.below(1_000_000);
    // rarely: each change of such a row is one more letter that is dropped behind another
    let refused =
        if n.is_multiple_of(8) { dice.below(REFUSED) * (rows / REFUSED) * 10 + 15 } else { a };
    format!(
        "begin; update big set n = {n} where id in ({a}, {refused});
         delete from big where id = {b};
         insert into big values ({there}, 'new', {n}) on conflict (id) do update set n = {n};
         delete from big where id = {c} + 3;
         update big set id = {c} + 3, n = {n} where id = {d}; commit"
    )
}

pub async fn assert_exact(site: &Site) {
    let rows = "select {} order by 1";
    for table in ["cleansed.big", "cleansed.dim_big_current"] {
        let there = format!("big_id, v, n from {table}");
        site.assert_equal(rows, "id, v, n from big", &there).await;
    }
    // an append table does not tell which key a row had before
    site.assert_equal(
        "select {} order by 1",
        "id, v, n from big where id % 10 not in (3, 7)",
        "big_id, v, n from (select distinct on (big_id) * from cleansed.log_big \
         order by big_id, _seq desc, _ord desc) e where _op <> 'd' and big_id % 10 not in (3, 7)",
    )
    .await;
    site.assert_equal(
        rows,
        "id, v, n from big",
        "id, v, n from (select distinct on (id) * from (
            select (raw_data->'key'->>'id')::int8 as id, raw_data->'after'->>'v' as v,
                   raw_data->'after'->>'n' as n, raw_data->>'op' as op,
                   (raw_data->>'seq')::int8 as seq, (raw_data->>'ord')::int as ord from raw.stg_big
            union all
            select (raw_data->'before'->>'id')::int8, null, null, 'd', (raw_data->>'seq')::int8,
                   (raw_data->>'ord')::int from raw.stg_big
             where raw_data->'before'->>'id' <> raw_data->'key'->>'id') e
          order by id, seq desc, ord desc) r where op <> 'd'",
    )
    .await;
    let nothing = [
        (
            "a row read twice",
            "select big_id from cleansed.log_big where _op = 'r' group by 1 having count(*) > 1",
        ),
        (
            "an event twice",
            "select big_id, _seq, _ord from cleansed.log_big group by 1, 2, 3, _op having count(*) > 1",
        ),
        (
            "a row read twice in raw",
            "select raw_data->'key' from raw.stg_big where raw_data->>'op' = 'r' group by 1 having count(*) > 1",
        ),
        (
            "an event that was in the rows",
            "select e.big_id from cleansed.log_big e join cleansed.log_big r using (big_id) \
             where r._op = 'r' and e._op <> 'r' and e._seq <= r._seq",
        ),
        (
            "overlapping versions",
            "select big_id from (select big_id, valid_to > lead(valid_from) over (partition by big_id \
             order by valid_from) as twice from cleansed.dim_big) v where twice",
        ),
        ("kept changes", "select table_name from audit.pending"),
        (
            "what is yet to be read",
            "select table_name from audit.snapshot_chunks where state <> 'done'",
        ),
    ];
    for (what, query) in nothing {
        assert_eq!(site.at_warehouse(query).await, Vec::<String>::new(), "{what}");
    }
    // with their keys and nothing else
    let keyed = "select count(*) from pg_constraint where contype = 'p' and conrelid = 'cleansed.big'::regclass";
    assert_eq!(site.at_warehouse(keyed).await, ["1"]);
}

/// Rows of it that were ever read at the source.
const FETCHED: &str = "select seq_tup_read + coalesce(idx_tup_fetch, 0) from pg_stat_user_tables \
    where schemaname = 'public' and relname = 'big'";

/// What is in, with the point at which it was read.
const LOADED: &str =
    "select id, as_of from audit.snapshot_chunks where state in ('loaded', 'done') order by id";

#[test]
fn a_killed_snapshot_goes_on_where_it_was() {
    block_on(async {
        let site = site("ranges").await;
        let (rows, kills) = if is_full() { (2_000_000, 5) } else { (100_000, 3) };
        files(&site);
        site.connector("tables: [\"public.*\"]\nsnapshot: { max_rate: 12MiB }\n");
        site.shop(&big(rows)).await;
        // rows that their tables refuse, in every range
        site.shop(&format!(
            "alter table big alter v drop not null;
             insert into big select i * 10 + 5, null, i from generate_series(1, {rows}, {}) i",
            u64::from(rows) / REFUSED
        ))
        .await;
        let seed = env().get("SILTSTONE_SEED").map_or(11, |seed| seed.parse().unwrap());
        println!("SILTSTONE_SEED={seed}");
        let mut dice = Dice::new(seed);
        tokio::time::sleep(Duration::from_secs(2)).await;
        let before = site.at_source(FETCHED).await.remove(0);
        // whose transactions are open as slots are made and snapshots taken
        let writers = Writers::start(&site, rows);
        let mut child = site.spawn(&["run"]);
        let mut loaded: Vec<String> = Vec::new();
        for kill in 0..kills {
            let more = format!(
                "select count(*) > 20 and count(*) filter (where state in ('loaded', 'done')) \
                 >= count(*) * {} / {} from audit.snapshot_chunks",
                kill + 1,
                kills + 1
            );
            for _ in 0..60_000 {
                change(&site, &mut dice, u64::from(rows)).await;
                let answer = site.warehouse.query_one(&more, &[]).await;
                if answer.is_ok_and(|row| row.get(0)) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert!(
                Command::new("kill")
                    .args(["-9", &child.id().to_string()])
                    .status()
                    .unwrap()
                    .success()
            );
            child.wait().unwrap();
            let now = site.at_warehouse(LOADED).await;
            assert!(now.len() > loaded.len(), "kill {kill} came too early");
            assert!(
                loaded.iter().all(|chunk| now.contains(chunk)),
                "read again: {loaded:?}, {now:?}"
            );
            loaded = now;
            for _ in 0..50 {
                change(&site, &mut dice, u64::from(rows)).await;
            }
            if kill + 1 == kills {
                let open = "select count(*) > 0 from audit.snapshot_chunks where state = 'open'";
                assert_eq!(site.at_warehouse(open).await, ["t"], "the kills came too late");
                site.connector("tables: [\"public.*\"]\n");
            }
            child = site.spawn(&["run"]);
        }
        let written = writers.stop().await;
        let live = "select count(*) = 4 and bool_and(state = 'streaming') from audit.tables";
        for _ in 0..if is_full() { 6_000 } else { 400 } {
            change(&site, &mut dice, u64::from(rows)).await;
            if site.at_warehouse(live).await == ["t"] {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        site.until("streaming", live).await;
        let now = site.at_warehouse(LOADED).await;
        assert!(loaded.iter().all(|chunk| now.contains(chunk)), "read again: {loaded:?}, {now:?}");
        let points = "select count(distinct as_of) > 2 from audit.snapshot_chunks";
        assert_eq!(site.at_warehouse(points).await, ["t"]);
        tokio::time::sleep(Duration::from_secs(2)).await;
        let read = format!("select ({FETCHED}) - {before}");
        let read: f64 = site.at_source(&read).await[0].parse().unwrap();
        // four tables are read from it; a kill costs the ranges that its workers were at, twice where the
        // reading was done and its end was not
        let chunks = now.len() as f64;
        let all = 4.0 * f64::from(rows) * 1.2;
        let lost = all / chunks * f64::from(kills) * 4.0;
        let of_writers = written as f64 * 40.0 + 200_000.0;
        println!(
            "{read} rows were read of {all}, in {chunks} ranges; {written} transactions beside"
        );
        assert!(read < all + lost + of_writers, "ranges were read again: {read} rows");
        assert!(
            Command::new("kill")
                .args(["-TERM", &child.id().to_string()])
                .status()
                .unwrap()
                .success()
        );
        child.wait().unwrap();
        site.catch_up().await;
        let refused = "select count(*) from audit.dead_letters where state = 'open'";
        // the events of a table are taken as they are
        assert_eq!(site.at_warehouse(refused).await, [(REFUSED * 2).to_string()]);
        let waiting = "select count(*) > 0 from audit.pending where waits";
        assert_eq!(site.at_warehouse(waiting).await, ["t"]);
        site.shop("update big set v = 'mended' where v is null").await;
        site.catch_up().await;
        // behind each that is dropped comes the next one of its key from before it was mended
        for _ in 0..100 {
            let drop = ["dead-letter", "drop", "--all", "--yes"];
            assert!(site.command(&drop).status().unwrap().success());
            site.catch_up().await;
            if site.at_warehouse(refused).await == ["0"] {
                break;
            }
        }
        assert_exact(&site).await;
    });
}

/// Starts a reading of ranges, and ends it when some are in and some are not.
async fn half_read(site: &Site) {
    let running = site.start();
    let some = "select count(*) filter (where state = 'loaded') between 1 and 5 \
        and count(*) filter (where state = 'open') > 0 from audit.snapshot_chunks";
    site.until("some ranges", some).await;
    assert!(running.stop().await.is_ok());
    assert_eq!(site.at_warehouse(some).await, ["t"], "it was stopped too late");
}

const SLOW: &str =
    "tables: [\"public.*\"]\ntarget_schema: cleansed\nsnapshot: { max_rate: 6MiB }\n";

async fn assert_same(site: &Site, columns: &str) {
    site.assert_equal(&format!("select {columns} from {{}} order by id"), "big", "cleansed.big")
        .await;
    let keyed = "select count(*) from pg_constraint where contype = 'p' and conrelid = 'cleansed.big'::regclass";
    assert_eq!(site.at_warehouse(keyed).await, ["1"]);
}

#[test]
fn a_table_that_changed_between_its_ranges_is_read_anew() {
    block_on(async {
        let changes: [(&[&str], &str); 4] = [
            (
                &[
                    "alter table big add column more int default 7",
                    "update big set more = 8 where id < 100",
                ],
                "id, v, n, more",
            ),
            (
                &[
                    "truncate big",
                    "insert into big select i * 10, 'again', i from generate_series(1, 1000) i",
                ],
                "id, v, n",
            ),
            (&["vacuum full big"], "id, v, n"),
            (&["alter table big alter n type bigint"], "id, v, n"),
        ];
        for (change, columns) in changes {
            let site = site("reranged").await;
            site.connector(SLOW);
            site.shop(&big(60_000)).await;
            half_read(&site).await;
            site.shop_each(change).await;
            site.shop("delete from big where id = 500").await;
            site.connector("tables: [\"public.*\"]\ntarget_schema: cleansed\n");
            site.catch_up().await;
            assert_same(&site, columns).await;
        }
    });
}

#[test]
fn a_table_is_asked_for_while_its_ranges_are_read() {
    block_on(async {
        let site = site("asked").await;
        site.connector(SLOW);
        site.shop(&big(60_000)).await;
        half_read(&site).await;
        let asked = site.command(&["table", "resync", "cleansed.big", "--yes"]).status().unwrap();
        assert!(asked.success());
        site.shop("update big set n = -1 where id < 5000").await;
        site.connector("tables: [\"public.*\"]\ntarget_schema: cleansed\n");
        site.catch_up().await;
        assert_same(&site, "id, v, n").await;
    });
}

#[test]
fn a_large_table_is_read_again_in_ranges() {
    block_on(async {
        let site = site("again").await;
        files(&site);
        site.connector("tables: [\"public.*\"]\n");
        site.shop(&big(60_000)).await;
        site.catch_up().await;
        // damage of every kind, at both ends and in the middle
        site.warehouse
            .batch_execute(
                "delete from cleansed.big where big_id in (10, 300000, 600000);
                 update cleansed.big set v = 'wrong' where big_id in (20, 300010, 599990);
                 insert into cleansed.big values (-5, 'extra', 1, 1, 1, now()), (300005, 'extra', 1, 1, 1, now()),
                        (900000, 'extra', 1, 1, 1, now());
                 delete from cleansed.dim_big where big_id = 300000;
                 update cleansed.dim_big set n = -1 where big_id = 300010",
            )
            .await
            .unwrap();
        for table in ["cleansed.big", "cleansed.dim_big"] {
            assert!(site.command(&["table", "resync", table, "--yes"]).status().unwrap().success());
        }
        site.catch_up().await;
        let ranges = "select min(n) > 2 from (select count(*) as n from audit.snapshot_chunks \
            where table_name in ('cleansed.big', 'cleansed.dim_big') group by table_name) r";
        assert_eq!(site.at_warehouse(ranges).await, ["t"]);
        assert_exact(&site).await;
    });
}

#[test]
fn a_table_above_max_size_waits_until_it_is_asked_for() {
    block_on(async {
        let site = site("large").await;
        site.connector(
            "tables: [\"public.*\"]\ntarget_schema: cleansed\nsnapshot: { max_size: 8MiB }\n",
        );
        site.shop(&big(20_000)).await;
        site.shop("create table small (id int primary key); insert into small values (1)").await;
        site.shop("create table outside (id int primary key, v text); alter table outside alter v set storage external; insert into outside values (1, repeat('v', 9000000))").await;
        site.catch_up().await;
        assert_eq!(site.state("cleansed.outside").await[0], "stopped");
        let state = site.state("cleansed.big").await;
        assert_eq!(state[0], "stopped");
        assert!(state[1].contains("more than snapshot.max_size, 8388608"), "{state:?}");
        assert!(state[2].starts_with("siltstone table resync cleansed.big"), "{state:?}");
        assert_eq!(site.at_warehouse("select count(*) from cleansed.small").await, ["1"]);
        site.shop("update big set n = 5 where id = 10").await;
        site.catch_up().await;
        let asked = site.command(&["table", "resync", "cleansed.big", "--yes"]).status().unwrap();
        assert!(asked.success());
        site.catch_up().await;
        assert_same(&site, "id, v, n").await;
    });
}

#[test]
fn a_reading_says_which_transaction_it_waits_for() {
    block_on(async {
        let site = site("awaited").await;
        site.shop("create table t (id int primary key); insert into t values (1)").await;
        let open =
            connect(Side::Source, &site.source_endpoint, "somebody's long work").await.unwrap();
        open.batch_execute("begin; insert into public.t values (2)").await.unwrap();
        let running = site.start();
        let waits = "select count(*) = 1 from audit.tables where state = 'snapshotting'
            and reason like '%waits for the source: the transaction of session % (somebody''s long work)%'
            and remedy like '%pg_terminate_backend(%'";
        site.until("it says so", waits).await;
        open.batch_execute("commit").await.unwrap();
        let streams = "select bool_and(state = 'streaming' and reason is null and remedy is null) from audit.tables";
        site.until("streaming", streams).await;
        open.batch_execute("begin; insert into public.t values (3)").await.unwrap();
        let asked = ["table", "resync", "cleansed.t", "--yes"];
        assert!(site.command(&asked).status().unwrap().success());
        let waits = "select reason like '%waits for the source: %' from audit.tables where state = 'resyncing'";
        site.until("it says so again", waits).await;
        open.batch_execute("commit").await.unwrap();
        site.until("streaming again", streams).await;
        assert!(running.stop().await.is_ok());
        site.catch_up().await;
        site.assert_equal("select id from {} order by id", "t", "cleansed.t").await;
    });
}
