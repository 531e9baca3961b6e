//! `verify` finds what was planted and nothing else, and the service keeps within its memory.

use std::process::Stdio;
use std::time::{Duration, Instant};

use siltstone::postgres::{Side, connect};

use crate::support::{Site, block_on, is_full};

const TABLES: &str = "create table users (id bigint primary key, email text, country text);
    insert into users select i, 'u' || i, '' from generate_series(1, 3000) i;
    create table orders (id bigint, line int, day date not null, amount numeric, primary key (id, line));
    insert into orders select i, i % 3, date '2024-01-01' + i % 50, i from generate_series(1, 3000) i;
    create table plain (a int, b text); alter table plain replica identity full;
    insert into plain select i % 5, null from generate_series(1, 50) i;
    create table \"x\"\"; drop table y\" (\"A.b\" uuid primary key, v timestamptz);
    insert into \"x\"\"; drop table y\" select gen_random_uuid(), now() from generate_series(1, 100)";

fn files(site: &Site) {
    site.file(
        "schemas/stg_users.yaml",
        "table: raw.stg_users\nfrom: shop.public.users\nlayout: raw\n",
    );
    site.file(
        "schemas/dim_users.yaml",
        "table: cleansed.dim_users\nfrom: shop.public.users\nhistory: versions\nkey: [user_id]\n\
         columns:\n  user_id: { from: id, type: bigint }\n  email: { type: varchar(100) }\n  country: { type: text }\n",
    );
    site.file(
        "schemas/fact_orders.yaml",
        "table: cleansed.fact_orders\nfrom: shop.public.orders\nkey: [order_id, line]\n\
         partition: { by: day, every: month, range: [\"2020-01-01\", \"+1y\"] }\n\
         columns:\n  order_id: { from: id, type: bigint }\n  line: { type: integer }\n  \
         day: { type: date, required: true }\n  amount: { type: \"numeric\" }\n",
    );
}

/// Runs `siltstone verify`; whether it passed, and what it printed.
fn verify(site: &Site) -> (bool, String) {
    verify_at(site, "none")
}

/// The same at a rate.
fn verify_at(site: &Site, rate: &str) -> (bool, String) {
    let mut command = site.command(&["verify", "--max-rate", rate]);
    let output = command.stdout(Stdio::piped()).output().unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn planted_errors_are_named_by_their_keys() {
    block_on(async {
        let site = Site::new("planted").await;
        files(&site);
        site.shop(TABLES).await;
        site.catch_up().await;
        let running = site.start();
        let (passed, text) = verify(&site);
        assert!(passed && text.contains("4 tables"), "{text}");
        assert!(text.contains("PASSED"), "{text}");
        site.warehouse
            .batch_execute(
                "delete from cleansed.dim_users where user_id = 7;
                 update cleansed.dim_users set country = null where user_id = 8;
                 update cleansed.dim_users set email = 'stale' where user_id = 9;
                 insert into cleansed.dim_users (user_id, email, valid_from, valid_to, _seq, _ord, _last_seq, _last_ord, _synced_at)
                   select 999999, 'extra', now(), '9999-12-31 00:00+00', _seq, _ord, _last_seq, _last_ord, now()
                     from cleansed.dim_users where user_id = 1;
                 insert into cleansed.dim_users (user_id, email, valid_from, valid_to, _seq, _ord, _last_seq, _last_ord, _synced_at)
                   select 11, 'longer than it was', valid_from - interval '2 h', valid_from + interval '1 h', _seq, _ord, _last_seq, _last_ord, now()
                     from cleansed.dim_users where user_id = 11;
                 insert into cleansed.plain select * from cleansed.plain limit 1;
                 update audit.locator_cleansed_fact_orders set day = day + 1 where order_id = 5;
                 insert into cleansed.fact_orders select (jsonb_populate_record(f, '{\"day\": \"2024-02-10\"}')).*
                   from cleansed.fact_orders f where order_id = 6",
            )
            .await
            .unwrap();
        let (passed, text) = verify(&site);
        assert!(!passed, "{text}");
        for line in [
            "cleansed.dim_users: 7: missing in the warehouse",
            "cleansed.dim_users: 8: different",
            "cleansed.dim_users: 9: different",
            "cleansed.dim_users: 999999: not at the source any more",
            "cleansed.plain: rows with digest",
            "cleansed.fact_orders: 2 rows with a wrong locator",
            "cleansed.fact_orders: 5, 2: its locator is wrong, or it stands twice",
            "cleansed.fact_orders: 6, 0: its locator is wrong, or it stands twice",
            "cleansed.dim_users: 11: its versions overlap",
            "cleansed.dim_users: 1 versions that overlap",
            "siltstone table resync cleansed.dim_users --from raw",
            "siltstone table resync cleansed.fact_orders",
            "FAILED",
        ] {
            assert!(text.contains(line), "{line} is missing in:\n{text}");
        }
        assert_eq!(text.matches("dim_users: ").count(), 6, "{text}");
        // the same row by row, as fast as it is let
        let (passed, paced) = verify_at(&site, "64MiB");
        let sorted = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert!(!passed && sorted(&paced) == sorted(&text), "{text}\nand at a pace:\n{paced}");
        // the remedy mends it, beside the running service
        for table in ["cleansed.dim_users", "cleansed.plain", "cleansed.fact_orders"] {
            let asked = site.command(&["table", "resync", table, "--yes", "--wait"]).status();
            assert!(asked.unwrap().success());
        }
        site.until("read again", "select bool_and(state = 'streaming') from audit.tables").await;
        let anew = ["table", "resync", "cleansed.dim_users", "--from", "raw", "--yes", "--wait"];
        let asked = site.command(&anew).stdout(Stdio::piped()).stderr(Stdio::piped()).output();
        let asked = asked.unwrap();
        assert!(asked.status.success(), "{asked:?}");
        site.until("read again", "select bool_and(state = 'streaming') from audit.tables").await;
        let (passed, text) = verify(&site);
        assert!(passed, "{text}");
        assert!(running.stop().await.is_ok());
    });
}

#[test]
fn rows_on_their_way_are_no_difference() {
    block_on(async {
        let site = Site::new("moving").await;
        files(&site);
        site.shop(TABLES).await;
        site.catch_up().await;
        let running = site.start();
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let source = connect(Side::Source, &site.source_endpoint, "test").await.unwrap();
        let changing = tokio::spawn(async move {
            let mut n = 0;
            while !*stopped.borrow() {
                n += 1;
                let statements = format!(
                    "update public.users set country = 'c{n}' where id between {n} % 2900 and {n} % 2900 + 40;
                     update public.orders set day = date '2024-01-01' + {n} % 50 where id between {n} % 2900 and {n} % 2900 + 40;
                     delete from public.plain where ctid = (select min(ctid) from public.plain);
                     insert into public.plain values ({n} % 5, 'p');"
                );
                source.batch_execute(&statements).await.unwrap();
                // 2,000 changes a second and more, but not what no machine takes
                tokio::time::sleep(Duration::from_millis(15)).await;
            }
            n
        });
        let started = Instant::now();
        for round in 0..if is_full() { 20 } else { 3 } {
            // and read row by row
            let rate = if round % 3 == 1 { "1GiB" } else { "none" };
            let (passed, text) = tokio::task::block_in_place(|| verify_at(&site, rate));
            assert!(passed, "{text}");
        }
        stop.send_replace(true);
        let (rounds, seconds) = (changing.await.unwrap(), started.elapsed().as_secs_f64());
        let rate = f64::from(rounds) * 84.0 / seconds;
        println!("{rate:.0} changes/s while it was verified");
        assert!(!is_full() || rate > 2_000.0, "only {rate:.0} changes/s");
        assert!(rounds > 3, "nothing changed while it was verified");
        assert!(running.stop().await.is_ok());
    });
}

#[test]
fn a_huge_transaction_stays_within_memory_and_is_seen_whole() {
    block_on(async {
        let site = Site::new("huge").await;
        let rows = if is_full() { 1_000_000 } else { 150_000 };
        site.shop(&format!(
            "create table a (id bigint primary key, v bigint not null, t text);
             create table b (id bigint primary key, v bigint not null);
             insert into a select i, 1, repeat('t', 50) from generate_series(1, {rows}) i;
             insert into b select 1, -{rows}"
        ))
        .await;
        site.catch_up().await;
        let mut child = site.spawn(&["run"]);
        site.until(
            "it runs",
            "select count(*) > 0 from audit.owner where jsonb_array_length(backends) > 2",
        )
        .await;
        site.shop(&format!("begin; update a set v = v + 1; update b set v = v - {rows}; commit"))
            .await;
        for n in 1..=if is_full() { 500 } else { 50 } {
            site.shop(&format!("begin; insert into a values ({rows} + {n}, 7); insert into b values (1 + {n}, -7); commit")).await;
        }
        let sums = "select (select sum(v) from cleansed.a) + (select sum(v) from cleansed.b)";
        let done = format!("select sum(v) >= 2 * {rows} from cleansed.a where id <= {rows}");
        while site.at_warehouse(&done).await != ["t"] {
            assert_eq!(site.at_warehouse(sums).await, ["0"], "a part of a transaction was seen");
            assert!(child.try_wait().unwrap().is_none(), "it ended");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(site.at_warehouse(sums).await, ["0"]);
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(peak < 300_000, "peak of {peak} kB");
        child.kill().unwrap();
        child.wait().unwrap();
        site.catch_up().await;
        site.assert_equal("select id, v, t from {} order by id", "a", "cleansed.a").await;
    });
}

#[test]
fn what_is_left_out_is_not_called_equal() {
    block_on(async {
        let site = Site::new("unfed").await;
        site.shop(
            "create table users (id int primary key, v text); insert into users values (1, 'a'); \
             create table orders (id int primary key); insert into orders values (1); \
             create table never (a int)",
        )
        .await;
        let verify = || {
            let output =
                site.command(&["verify"]).stdout(Stdio::piped()).stderr(Stdio::piped()).output();
            let output = output.unwrap();
            let text = [output.stdout, output.stderr].concat();
            (output.status.code(), String::from_utf8(text).unwrap())
        };
        site.catch_up().await;
        let running = site.start();
        site.until("streaming", "select bool_and(state = 'streaming') from audit.tables").await;
        // a table that was never taken is named, and is no difference
        let (code, text) = verify();
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains("public.never"), "{text}");
        site.shop("alter table users drop constraint users_pkey").await;
        let gone = "select state = 'paused' from audit.tables where table_name = 'cleansed.users'";
        site.until("left out", gone).await;
        let (code, text) = verify();
        assert_eq!(code, Some(65), "{text}");
        assert!(text.contains("cleansed.users: not compared: it has no primary key"), "{text}");
        assert!(running.stop().await.is_ok());
    });
}

#[test]
fn a_key_that_waits_behind_a_dead_letter_is_told_as_one() {
    block_on(async {
        let site = Site::new("waits").await;
        site.file(
            "schemas/t.yaml",
            "table: cleansed.t\nfrom: shop.public.t\nkey: [number]\n\
             columns:\n  number: { from: id, type: integer }\n  v: { type: varchar(3) }\n",
        );
        site.shop("create table t (id int primary key, v text); insert into t values (1, 'a'), (2, 'b'), (3, 'c')").await;
        site.catch_up().await;
        site.shop("update t set v = 'long' where id = 1; insert into t values (4, 'long')").await;
        let running = site.start();
        site.until("refused", "select count(*) = 2 from audit.dead_letters").await;
        let (passed, text) = verify(&site);
        assert!(!passed && text.contains("1: different: it waits behind dead letter"), "{text}");
        assert!(
            text.contains("4: missing in the warehouse: it waits behind dead letter"),
            "{text}"
        );
        assert!(text.contains("remedy: siltstone dead-letter list"), "{text}");
        // read again, a row that is refused would stop the table
        assert!(!text.contains("table resync"), "{text}");
        site.warehouse
            .batch_execute("update cleansed.t set v = 'x' where number = 2")
            .await
            .unwrap();
        let (_, text) = verify(&site);
        assert!(
            text.contains("2: different\n") && text.contains("table resync cleansed.t"),
            "{text}"
        );
        assert!(running.stop().await.is_ok());
    });
}

#[test]
fn a_rate_holds_both_sides() {
    block_on(async {
        let site = Site::new("paced").await;
        site.shop(
            "create table t (id int primary key, v text);
             insert into t select i, repeat('v', 1000) from generate_series(1, 2000) i;
             create table plain (v text); alter table plain replica identity full;
             insert into plain select repeat('v', 1000) from generate_series(1, 500)",
        )
        .await;
        site.catch_up().await;
        let running = site.start();
        let started = Instant::now();
        let (passed, text) = tokio::task::block_in_place(|| verify_at(&site, "512KiB"));
        assert!(passed && text.contains("2 tables, 2,500 rows: equal"), "{text}");
        // 2 MB of a table with a key; of one without, the source is read twice
        assert!(started.elapsed() > Duration::from_millis(5_500), "{:?}", started.elapsed());
        for wrong in ["fast", "0B", "20MB"] {
            let output =
                site.command(&["verify", "--max-rate", wrong]).stderr(Stdio::piped()).output();
            let output = output.unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(output.status.code() == Some(64) && said.contains("--max-rate"), "{said}");
        }
        assert!(running.stop().await.is_ok());
    });
}
