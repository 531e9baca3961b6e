//! Tables are rebuilt from what raw keeps, without reading the source: to the same rows, order and history;
//! or raw is told to lack something, and all stays as it is.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::{Dice, Site, block_on, is_full};

const ITEMS: &str = "create table items (id bigint primary key, kind text not null, n int not null, day date not null, bio text);
    alter table items alter bio set storage external;
    insert into items select i, (array['a', 'b', 'c'])[1 + i % 3], i, date '2024-01-01' + i % 90,
        repeat('x', 2500) || i from generate_series(1, 300) i";

const KINDS: [(&str, &str, &str); 5] = [
    ("items", "key: [item_id]\n", "item_id, kind, n, day, bio, _seq, _ord"),
    (
        "soft_items",
        "key: [item_id]\ndelete: soft\n",
        "item_id, kind, n, day, bio, _deleted_at, _seq, _ord",
    ),
    (
        "dim_items",
        "history: versions\nkey: [item_id]\ntrack: [kind, n]\n",
        "item_id, kind, n, day, bio, valid_from, valid_to, is_current, _seq, _ord, _last_seq, _last_ord, _end_seq, _end_ord",
    ),
    (
        "fact_items",
        "key: [item_id]\npartition: { by: day, every: month, range: [\"2020-01-01\", \"+1y\"] }\n",
        "item_id, kind, n, day, bio, _seq, _ord",
    ),
    (
        "log_items",
        "history: append\nkey: [item_id]\n",
        "item_id, kind, n, day, bio, _op, _seq, _ord",
    ),
];

fn files(site: &Site) {
    for (table, fields, _) in KINDS {
        file(site, table, fields, "");
    }
    raw(site);
}

fn file(site: &Site, table: &str, fields: &str, more: &str) {
    site.file(
        &format!("schemas/{table}.yaml"),
        &format!(
            "table: cleansed.{table}\nfrom: shop.public.items\n{fields}columns:\n  \
             item_id: {{ from: id, type: bigint }}\n  kind: {{ type: text }}\n  n: {{ type: integer }}\n  \
             day: {{ type: date, required: true }}\n  bio: {{ type: text }}\n{more}"
        ),
    );
}

fn raw(site: &Site) {
    site.file("schemas/stg.yaml", "table: raw.stg_items\nfrom: shop.public.items\nlayout: raw\n");
}

fn ask(site: &Site, arguments: &[&str]) -> (bool, String) {
    let output = site.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).output();
    let output = output.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

/// Asks for a rebuilding and runs until it is done; whether it was, and the answer.
async fn rebuild(site: &Site, table: &str) -> (bool, String) {
    let name = format!("cleansed.{table}");
    let (asked, text) = ask(site, &["table", "resync", &name, "--from", "raw", "--yes"]);
    assert!(asked, "{text}");
    site.catch_up().await;
    assert_eq!(site.state(&name).await[0], "streaming");
    let answer = "select state = 'done', answer from audit.requests order by id desc limit 1";
    let answer = site.at_warehouse(answer).await.remove(0);
    let (done, text) = answer.split_once('|').unwrap();
    (done == "t", text.to_owned())
}

/// Dice that fall another way each time.
fn dice() -> Dice {
    let seed = std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
    println!("seed {seed}");
    Dice::new(seed.into())
}

/// A transaction of everything that can happen to rows.
fn work(dice: &mut Dice, rows: u64) -> String {
    let mut key = || dice.below(rows) + 1;
    let (a, b, c, d, e) = (key(), key(), key(), key(), key());
    let n = dice.below(1_000);
    format!(
        "begin; update items set n = {n} where id in ({a}, {b});
         update items set day = day + 40, n = n + 1 where id = {b};
         delete from items where id = {c};
         update items set id = {c}, kind = 'moved' where id = {d};
         update items set bio = repeat('y', 2500) || {n} where id = {e};
         insert into items values ({rows} + {n}, 'new', {n}, '2024-05-05', 'short')
           on conflict (id) do update set kind = 'again', n = items.n + 1;
         savepoint s; delete from items where id < 100; rollback to s; commit"
    )
}

/// Keeps what a table holds, for comparison.
async fn save(site: &Site) {
    for (table, _, columns) in KINDS {
        site.warehouse
            .batch_execute(&format!(
                "create schema if not exists saved; drop table if exists saved.{table};
                 create table saved.{table} as select {columns} from cleansed.{table}"
            ))
            .await
            .unwrap();
    }
}

async fn assert_as_saved(site: &Site, table: &str, columns: &str) {
    let mut columns = columns.replace("bio", "right(bio, 9) as bio");
    if table == "soft_items" {
        // what a row had last before it was deleted is lost where both came in one batch
        let lives = "(case when _deleted_at is null then row(kind, n, day, right(bio, 9)) end)";
        columns = format!("item_id, {lives}, _deleted_at, _seq, _ord");
    }
    let query =
        |schema: &str| format!("select {columns} from {schema}.{table} order by 1, _seq, _ord");
    let (expected, found) =
        (site.at_warehouse(&query("saved")).await, site.at_warehouse(&query("cleansed")).await);
    let missing: Vec<_> = expected.iter().filter(|row| !found.contains(row)).take(5).collect();
    let wrong: Vec<_> = found.iter().filter(|row| !expected.contains(row)).take(5).collect();
    assert!(missing.is_empty() && wrong.is_empty(), "{table}: {wrong:#?} for {missing:#?}");
    assert_eq!(expected.len(), found.len(), "{table}");
}

async fn assert_equal(site: &Site) {
    let shown = |table: &str, rest: &str| {
        format!("item_id, kind, n, day, bio from cleansed.{table} {rest}")
    };
    for (table, rest) in [
        ("items", ""),
        ("soft_items", "where _deleted_at is null"),
        ("dim_items", "where is_current"),
        ("fact_items", ""),
    ] {
        let source = "id, kind, n, day, bio from items";
        site.assert_equal("select {} order by 1", source, &shown(table, rest)).await;
    }
    let lies = "select item_id from audit.locator_cleansed_fact_items l full join cleansed.fact_items f \
        using (item_id) where l.day is distinct from f.day";
    assert_eq!(site.at_warehouse(lies).await, [""; 0]);
    assert_eq!(site.at_warehouse("select count(*) from audit.pending").await, ["0"]);
}

const DAMAGE: &str = "delete from cleansed.items where item_id % 7 = 0;
    update cleansed.items set n = -1, _seq = 9000000000000000000 where item_id % 7 = 1;
    insert into cleansed.items values (99999, 'extra', 1, '2024-01-01', 'x', 1, 1, now());
    delete from cleansed.soft_items where item_id % 5 = 0;
    update cleansed.soft_items set _deleted_at = null, bio = null where item_id % 5 = 1;
    insert into cleansed.soft_items (item_id, kind, n, day, _seq, _ord, _synced_at)
        select 99999, 'extra', 1, '2024-01-01', max(_seq), 1, now() from cleansed.soft_items;
    delete from cleansed.dim_items where n % 3 = 0;
    update cleansed.dim_items_pcurrent set kind = 'lost' where item_id % 4 = 0;
    delete from cleansed.fact_items where item_id % 3 = 0;
    delete from audit.locator_cleansed_fact_items where item_id % 2 = 0;
    insert into cleansed.fact_items values (99999, 'extra', 1, '2024-01-01', 'x', 1, 1, now());
    update cleansed.fact_items set n = 0 where item_id % 5 = 0;
    delete from cleansed.log_items where _ord = 1";

#[test]
fn tables_come_back_from_raw_with_their_history() {
    block_on(async {
        let site = Site::new("rebuilt").await;
        files(&site);
        site.shop(ITEMS).await;
        site.catch_up().await;
        let mut dice = dice();
        for _ in 0..if is_full() { 2_000 } else { 120 } {
            site.shop(&work(&mut dice, 300)).await;
        }
        site.catch_up().await;
        // one transaction that is larger than a window, beside small batches
        site.file(
            "siltstone.yaml",
            "warehouse: { url: \"${WAREHOUSE_URL}\" }\nadmin: { listen: \"127.0.0.1:0\" }\nbatch: { max_rows: 100 }\n",
        );
        site.shop("begin; update items set n = n + 1; update items set n = n - 1 where id % 2 = 0; commit").await;
        for _ in 0..20 {
            site.shop(&work(&mut dice, 300)).await;
        }
        site.catch_up().await;
        assert_equal(&site).await;
        save(&site).await;
        site.warehouse.batch_execute(DAMAGE).await.unwrap();
        let before = rows_read(&site).await;
        for (table, _, columns) in KINDS {
            let (done, answer) = rebuild(&site, table).await;
            assert!(done && answer.contains("events of raw.stg_items"), "{answer}");
            assert_as_saved(&site, table, columns).await;
        }
        assert_eq!(rows_read(&site).await, before, "the source was read");
        // and go on
        for _ in 0..20 {
            site.shop(&work(&mut dice, 300)).await;
        }
        site.catch_up().await;
        assert_equal(&site).await;
    });
}

/// Emptied tables, and shapes that changed in a way that raw can tell.
#[test]
fn raw_tells_what_was_emptied_and_what_shape_rows_had() {
    block_on(async {
        let site = Site::new("reshaped_raw").await;
        files(&site);
        site.shop(ITEMS).await;
        site.catch_up().await;
        site.shop_each(&[
            "update items set n = 1000 where id < 20",
            "begin; truncate items; insert into items select i, 'b', i, '2024-02-02', 'bio' from generate_series(1, 50) i; commit",
            "update items set n = 2000 where id < 10",
            "alter table items add column more int default 7",
            "update items set more = 8, n = n + 1 where id < 5",
            "alter table items rename kind to sort",
            "update items set sort = 'c' where id = 6",
            "delete from items where id = 7",
        ])
        .await;
        // the file names the column by the name that it has now
        for (table, fields, _) in KINDS {
            file(&site, table, fields, "  more: { type: integer }\n");
            let text = std::fs::read_to_string(
                site.config().with_file_name("schemas").join(format!("{table}.yaml")),
            );
            let text = text
                .unwrap()
                .replace("  kind: { type: text }", "  kind: { from: sort, type: text }");
            site.file(&format!("schemas/{table}.yaml"), &text);
        }
        site.catch_up().await;
        site.catch_up().await;
        for (table, ..) in KINDS {
            let resumed = ask(&site, &["table", "resync", &format!("cleansed.{table}"), "--yes"]);
            assert!(resumed.0, "{}", resumed.1);
        }
        site.catch_up().await;
        save(&site).await;
        for (table, ..) in &KINDS[..4] {
            let (done, answer) = rebuild(&site, table).await;
            assert!(done, "{table}: {answer}");
        }
        for (table, rest) in [
            ("items", ""),
            ("soft_items", "where _deleted_at is null"),
            ("dim_items", "where is_current"),
            ("fact_items", ""),
        ] {
            site.assert_equal(
                "select {} order by 1",
                "id, sort, n, day, bio, more from items",
                &format!("item_id, kind, n, day, bio, more from cleansed.{table} {rest}"),
            )
            .await;
        }
        let history = "select n, more, is_current from cleansed.dim_items where item_id = 3 order by valid_from";
        let expected = ["3|7|f", "1000|7|f", "3|7|f", "2000|7|f", "2001|8|t"];
        assert_eq!(site.at_warehouse(history).await, expected);
    });
}

#[test]
fn what_raw_cannot_tell_is_refused_and_nothing_changes() {
    block_on(async {
        let site = Site::new("untold").await;
        for (table, fields, _) in KINDS {
            file(&site, table, fields, "");
        }
        site.shop(ITEMS).await;
        site.catch_up().await;
        let (done, answer) = rebuild(&site, "items").await;
        assert!(
            !done
                && answer.contains("no raw table keeps the events of shop.public.items")
                && answer.contains("siltstone table resync cleansed.items reads the source"),
            "{answer}"
        );
        // raw comes later: what has history has more than raw can tell
        site.shop("update items set n = n + 1 where id < 50; delete from items where id = 60")
            .await;
        site.catch_up().await;
        raw(&site);
        site.catch_up().await;
        site.shop("update items set n = n + 1 where id < 20").await;
        site.catch_up().await;
        save(&site).await;
        for (table, _, columns) in KINDS {
            let (done, answer) = rebuild(&site, table).await;
            let hard = ["items", "fact_items"].contains(&table);
            assert!(done == hard, "{table}: {answer}");
            if !hard {
                assert!(
                    answer.contains("it begins at") && answer.contains("has rows from before"),
                    "{answer}"
                );
                assert_as_saved(&site, table, columns).await;
            }
        }
        assert_equal(&site).await;
        let refusals = [
            (
                "delete from raw.stg_items where raw_data->>'op' = 'r' and raw_data->'key'->>'id' = '5'",
                "it has 298 of the 299 rows of its first reading",
            ),
            (
                "insert into audit.gaps (table_name, after_seq, until_seq, reason) values ('raw.stg_items', 1, 2, 'a test')",
                "it lacks what came from 0/1 to 0/2 (a test)",
            ),
            (
                "update audit.tables set state = 'paused' where table_name = 'raw.stg_items'",
                "it is paused",
            ),
        ];
        for (statement, why) in refusals {
            site.warehouse.batch_execute(statement).await.unwrap();
            let (done, answer) = rebuild(&site, "items").await;
            assert!(!done && answer.contains(why), "{answer}");
        }
        let mended = "delete from audit.gaps; update audit.tables set state = 'streaming' where table_name = 'raw.stg_items'";
        site.warehouse.batch_execute(mended).await.unwrap();
        assert_equal(&site).await;
        // older leaves are dropped, and of each key the newest row is carried on
        site.warehouse
            .batch_execute(
                "create temp table newest as
                   select distinct on (raw_data->'key') raw_data, first.bio
                     from raw.stg_items
                     join (select raw_data->'key' as key, raw_data->'after'->'bio' as bio from raw.stg_items
                            where raw_data->>'op' = 'r') first on first.key = raw_data->'key'
                    order by raw_data->'key', (raw_data->>'seq')::int8 desc, (raw_data->>'ord')::int desc;
                 delete from raw.stg_items;
                 insert into raw.stg_items (raw_data, source_system, load_id)
                 select raw_data || '{\"carried\": true, \"unchanged\": []}' || jsonb_build_object('after',
                            jsonb_build_object('bio', bio) || (raw_data->'after')), 'shop', 'carried'
                   from newest where raw_data->>'op' <> 'd';
                 drop table newest",
            )
            .await
            .unwrap();
        site.warehouse
            .batch_execute(
                "update cleansed.items set n = -1; delete from cleansed.items where item_id = 5",
            )
            .await
            .unwrap();
        let (done, answer) = rebuild(&site, "items").await;
        // the row that was taken out above is nowhere
        assert!(done, "{answer}");
        let lost = "select id from (select generate_series(1, 300)) g(id) except select item_id from cleansed.items";
        assert_eq!(site.at_warehouse(&format!("{lost} order by 1")).await, ["5", "60"]);
    });
}

const READ: &str = "select seq_tup_read + coalesce(idx_tup_fetch, 0) from pg_stat_user_tables where relname = 'items'";

/// How many rows of the source were read so far.
async fn rows_read(site: &Site) -> String {
    // what this session has read counts at once, what others have after a while
    site.at_source("select pg_stat_force_next_flush()").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    site.at_source(READ).await.remove(0)
}

/// A column that a file takes from now on is filled from raw, in history too; from the source where raw does
/// not have it all.
#[test]
fn a_new_column_is_filled_from_raw() {
    block_on(async {
        let site = Site::new("filled").await;
        let fields = |table: &str| KINDS.iter().find(|kind| kind.0 == table).unwrap().1;
        let short = |table: &str| {
            site.file(
                &format!("schemas/{table}.yaml"),
                &format!(
                    "table: cleansed.{table}\nfrom: shop.public.items\n{}columns:\n  \
                     item_id: {{ from: id, type: bigint }}\n  n: {{ type: integer }}\n  day: {{ type: date, required: true }}\n",
                    fields(table).replace("track: [kind, n]\n", "")
                ),
            );
        };
        let long =
            |table: &str| file(&site, table, &fields(table).replace("track: [kind, n]\n", ""), "");
        for (table, ..) in KINDS {
            short(table);
        }
        raw(&site);
        site.shop(ITEMS).await;
        site.catch_up().await;
        site.shop_each(&[
            "update items set kind = 'first' where id = 7",
            "update items set kind = 'second', n = 70 where id = 7",
            "update items set bio = 'short' where id = 8",
            "update items set id = 1007 where id = 9",
            "delete from items where id = 10",
        ])
        .await;
        site.catch_up().await;
        let before = rows_read(&site).await;
        // at the start of a run, and by apply beside one
        for table in ["items", "soft_items", "fact_items"] {
            long(table);
        }
        let required = "  more: { from: kind, type: text, required: true }\n";
        file(&site, "items", fields("items"), required);
        site.catch_up().await;
        let running = site.spawn(&["run"]);
        // it has read its files when something has come through it
        site.shop("insert into items values (2000, 'new', 1, '2024-01-01', 'x')").await;
        let come = "select count(*) = 1 from cleansed.dim_items where item_id = 2000";
        site.until("streaming", come).await;
        long("dim_items");
        let (applied, text) = ask(&site, &["apply"]);
        assert!(applied, "{text}");
        let filled = "select count(*) = 0 from cleansed.dim_items where bio is null";
        site.until("filled", filled).await;
        site.until("streaming", "select bool_and(state = 'streaming') from audit.tables").await;
        let mut running = running;
        running.kill().unwrap();
        running.wait().unwrap();
        assert_eq!(rows_read(&site).await, before, "the source was read");
        assert_equal(&site).await;
        let refuses = "select attnotnull from pg_attribute
            where attrelid = 'cleansed.items'::regclass and attname = 'more'";
        assert_eq!(site.at_warehouse(refuses).await, ["t"]);
        let history =
            "select kind, n from cleansed.dim_items where item_id = 7 order by valid_from";
        assert_eq!(site.at_warehouse(history).await, ["b|7", "first|7", "second|70"]);
        // events are what they were
        long("log_items");
        site.catch_up().await;
        let empty = "select count(*) from cleansed.log_items where kind is not null";
        assert_eq!(site.at_warehouse(empty).await, ["0"]);
        // raw lacks a row: the source tells all
        site.warehouse
            .batch_execute("delete from raw.stg_items where raw_data->'key'->>'id' = '20'")
            .await
            .unwrap();
        let more = "  more: { from: kind, type: text, required: true }\n  less: { from: n, type: bigint }\n";
        for table in ["items", "dim_items"] {
            file(&site, table, &fields(table).replace("track: [kind, n]\n", ""), more);
        }
        site.shop("update items set n = n + 1 where id < 5").await;
        site.catch_up().await;
        assert_ne!(rows_read(&site).await, before);
        assert_equal(&site).await;
        for query in [
            "select count(*) from cleansed.items where less is distinct from n",
            "select count(*) from cleansed.dim_items where is_current and less is distinct from n",
        ] {
            assert_eq!(site.at_warehouse(query).await, ["0"], "{query}");
        }
    });
}

/// Killed when a part of the events is in: nobody sees that part, and it is done from the start.
#[test]
fn a_rebuilding_that_is_killed_in_the_middle_is_done_again() {
    block_on(async {
        let site = Site::new("rebuilt_half").await;
        site.file(
            "siltstone.yaml",
            "warehouse: { url: \"${WAREHOUSE_URL}\" }\nadmin: { listen: \"127.0.0.1:0\" }\nbatch: { max_rows: 100 }\n",
        );
        files(&site);
        site.shop(ITEMS).await;
        site.catch_up().await;
        let mut dice = dice();
        let mut child = site.spawn(&["run"]);
        let settled = "select bool_and(state = 'streaming') and not exists
            (select from audit.requests where state in ('open', 'taken')) from audit.tables";
        // the last one is of events alone: its rows go first, and in the middle is among them
        for table in ["items", "soft_items", "fact_items", "dim_items"] {
            site.until("streaming", settled).await;
            // all that came before is applied with it, and nothing writes until the rebuilding does
            let mark = format!("for_{table}");
            site.shop(&format!(
                "insert into items values (290, '{mark}', 1, '2024-01-01', 'x')
                     on conflict (id) do update set kind = excluded.kind"
            ))
            .await;
            let there = format!(
                "select count(*) > 0 from cleansed.{table} where item_id = 290 and kind = '{mark}'"
            );
            site.until("there", &there).await;
            let damage = format!(
                "update cleansed.{table} set n = -1 where item_id % 2 = 0 and item_id <> 290 and {}",
                if table == "dim_items" { "is_current" } else { "true" }
            );
            site.warehouse.batch_execute(&damage).await.unwrap();
            let hold =
                format!("begin; select from cleansed.{table} where item_id = 290 for update");
            site.warehouse.batch_execute(&hold).await.unwrap();
            let name = format!("cleansed.{table}");
            let (asked, text) = ask(&site, &["table", "resync", &name, "--from", "raw", "--yes"]);
            assert!(asked, "{text}");
            site.until(
                "waits for the row",
                // others wait in their own databases
                "select exists (select from pg_locks l join pg_stat_activity a using (pid)
                                 where not l.granted and a.datname = current_database())",
            )
            .await;
            for _ in 0..20 {
                site.shop(&work(&mut dice, 300)).await;
            }
            let killed = Command::new("kill").args(["-9", &child.id().to_string()]).status();
            assert!(killed.unwrap().success());
            child.wait().unwrap();
            site.warehouse.batch_execute("rollback").await.unwrap();
            let damaged = format!("select count(*) > 100 from cleansed.{table} where n = -1");
            assert_eq!(site.at_warehouse(&damaged).await, ["t"], "{table}");
            child = site.spawn(&["run"]);
            site.until("done", settled).await;
            let answers = "select state = 'done' from audit.requests order by id desc limit 1";
            assert_eq!(site.at_warehouse(answers).await, ["t"], "{table}");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        site.catch_up().await;
        assert_equal(&site).await;
    });
}

/// The stream goes on beside it, and it is killed.
#[test]
fn tables_are_rebuilt_beside_the_stream_and_across_crashes() {
    block_on(async {
        let site = Site::new("rebuilt_killed").await;
        let rounds = if is_full() { 30 } else { 6 };
        files(&site);
        site.shop(ITEMS).await;
        site.catch_up().await;
        let mut dice = dice();
        let mut child = site.spawn(&["run"]);
        for round in 0..rounds {
            let settled = "select bool_and(state = 'streaming') and not exists
                (select from audit.requests where state in ('open', 'taken')) from audit.tables";
            site.until("streaming", settled).await;
            for (table, ..) in KINDS {
                let name = format!("cleansed.{table}");
                let (asked, text) =
                    ask(&site, &["table", "resync", &name, "--from", "raw", "--yes"]);
                assert!(asked, "{text}");
            }
            for _ in 0..if is_full() { 200 } else { 60 } {
                site.shop(&work(&mut dice, 300)).await;
            }
            if round % 2 == 0 {
                tokio::time::sleep(Duration::from_millis(dice.below(1_000))).await;
                let killed = Command::new("kill").args(["-9", &child.id().to_string()]).status();
                assert!(killed.unwrap().success());
                child.wait().unwrap();
                child = site.spawn(&["run"]);
            }
        }
        let answered =
            "select not exists (select from audit.requests where state in ('open', 'taken'))";
        site.until("answered", answered).await;
        child.kill().unwrap();
        child.wait().unwrap();
        site.catch_up().await;
        let failed = "select answer from audit.requests where state <> 'done'";
        assert_eq!(site.at_warehouse(failed).await, [""; 0]);
        assert_equal(&site).await;
        // what the stream made of them is what raw makes of them
        save(&site).await;
        for (table, _, columns) in KINDS {
            let (done, answer) = rebuild(&site, table).await;
            assert!(done, "{table}: {answer}");
            assert_as_saved(&site, table, columns).await;
        }
    });
}
