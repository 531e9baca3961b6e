//! A part of a table is read again: the rows that meet a condition. Each of them is then as the source has
//! it, every other row is as it was, and the stream goes on beside it.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::service::{free_port, http, http_with, with_admin};
use crate::support::{Dice, Site, block_on, is_full};

/// The long text lies outside the row, so that updates leave it out.
const ITEMS: &str = "create table items (id bigint primary key, kind text not null, n int not null, day date not null, bio text);
    alter table items alter bio set storage external";

/// So many rows, a third of them of kind a.
async fn fill(site: &Site, rows: u32) {
    site.shop(ITEMS).await;
    site.shop(&format!(
        "insert into items select i, (array['a', 'b', 'c'])[1 + i % 3], i, date '2024-01-01' + i % 90, \
         repeat('x', 2500) || i from generate_series(1, {rows}) i"
    ))
    .await;
}

const KINDS: [(&str, &str); 4] = [
    ("items", "key: [item_id]\n"),
    ("soft_items", "key: [item_id]\ndelete: soft\n"),
    ("dim_items", "history: versions\nkey: [item_id]\n"),
    (
        "fact_items",
        "key: [item_id]\npartition: { by: day, every: month, range: [\"2020-01-01\", \"+1y\"] }\n",
    ),
];

/// A table of every kind that has a key; the columns have other names than at the source.
fn files(site: &Site) {
    for (table, fields) in KINDS {
        site.file(
            &format!("schemas/{table}.yaml"),
            &format!(
                "table: cleansed.{table}\nfrom: shop.public.items\n{fields}columns:\n  \
                 item_id: {{ from: id, type: bigint }}\n  sort: {{ from: kind, type: varchar(20) }}\n  \
                 n: {{ type: integer }}\n  day: {{ type: date, required: true }}\n  bio: {{ type: text }}\n"
            ),
        );
    }
    site.file("schemas/stg.yaml", "table: raw.stg_items\nfrom: shop.public.items\nlayout: raw\n");
    site.file(
        "schemas/log.yaml",
        "table: cleansed.log_items\nfrom: shop.public.items\nhistory: append\nkey: [id]\n\
         columns:\n  id: { type: bigint }\n  n: { type: integer }\n",
    );
}

/// Runs a verb; whether it succeeded, and what it said.
fn ask(site: &Site, arguments: &[&str]) -> (bool, String) {
    let output = site.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).output();
    let output = output.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

fn resync(site: &Site, table: &str, condition: &str) -> (bool, String) {
    ask(site, &["table", "resync", table, "--where", condition, "--yes"])
}

const STREAMING: &str = "select bool_and(state = 'streaming') from audit.tables";

/// Nothing that was asked is left to do.
const SETTLED: &str = "select bool_and(state = 'streaming') and not exists
    (select from audit.requests where state in ('open', 'taken')) from audit.tables";

/// What a reader sees of a table of items.
fn shown(table: &str) -> String {
    let rest = match table {
        "dim_items" => " where is_current",
        "soft_items" => " where _deleted_at is null",
        _ => "",
    };
    format!("item_id, sort, n, day, bio from cleansed.{table}{rest}")
}

async fn assert_equal(site: &Site, tables: &[&str]) {
    for table in tables {
        let source = "id, kind, n, day, bio from items";
        site.assert_equal("select {} order by 1", source, &shown(table)).await;
    }
    let overlaps = "select item_id from (select item_id, valid_to > lead(valid_from) over \
        (partition by item_id order by valid_from) as twice from cleansed.dim_items) v where twice";
    assert_eq!(site.at_warehouse(overlaps).await, [""; 0]);
    assert_eq!(site.at_warehouse("select count(*) from audit.pending").await, ["0"]);
    let open = "select count(*) from audit.snapshot_chunks where state <> 'done'";
    assert_eq!(site.at_warehouse(open).await, ["0"]);
}

/// Damage of every kind. Rows of `dim_items` are damaged in the leaf of current versions.
async fn damage(site: &Site, table: &str) {
    let name = if table == "dim_items" { "dim_items_pcurrent" } else { table };
    let (more, values) = match table {
        "dim_items" => {
            (", valid_from, valid_to, _last_seq, _last_ord", ", now(), '9999-12-31 00:00+00', 1, 1")
        }
        _ => ("", ""),
    };
    site.warehouse
        .batch_execute(&format!(
            "delete from cleansed.{name} where item_id in (3, 4, 6);
             update cleansed.{name} set n = -1 where item_id in (9, 10, 12);
             -- of kind a here alone
             update cleansed.{name} set sort = 'a', n = -2 where item_id in (13, 14);
             -- of kind a at the source alone
             update cleansed.{name} set sort = 'z', bio = 'lost' where item_id in (15, 18);
             -- it outranks whatever comes
             update cleansed.{name} set n = -3, _seq = 9000000000000000000 where item_id = 21;
             insert into cleansed.{name} (item_id, sort, n, day, _seq, _ord, _synced_at{more})
             select i, (array['a', 'b'])[i - 9000], 1, date '2024-01-05', 1, 1, now(){values}
               from generate_series(9001, 9002) i"
        ))
        .await
        .unwrap();
    if table == "dim_items" {
        let last = "update cleansed.dim_items_pcurrent set _last_seq = _seq where item_id = 21";
        site.warehouse.batch_execute(last).await.unwrap();
    }
    if table == "fact_items" {
        let places = "insert into audit.locator_cleansed_fact_items (item_id, day, _seq, _ord)
            select item_id, day, 1, 1 from cleansed.fact_items where item_id > 9000;
            delete from audit.locator_cleansed_fact_items where item_id in (3, 4, 6)";
        site.warehouse.batch_execute(places).await.unwrap();
    }
}

#[test]
fn the_rows_that_meet_the_condition_are_made_equal_and_the_others_stay() {
    block_on(async {
        let site = Site::new("parts").await;
        files(&site);
        fill(&site, 300).await;
        site.catch_up().await;
        let oids = "select c.oid, relname from pg_class c join pg_namespace n on n.oid = relnamespace \
            where nspname = 'cleansed' and relkind in ('r', 'p', 'v') order by 1";
        let before = site.at_warehouse(oids).await;
        for (table, _) in KINDS {
            damage(&site, table).await;
            let others = format!(
                "select item_id, sort, n, day, bio, _seq, _ord, _synced_at from cleansed.{table} \
                 where item_id in (4, 10, 9002) or item_id % 3 > 0 and item_id not in (4, 10, 13, 14, 9001) \
                 order by 1"
            );
            let untouched = site.at_warehouse(&others).await;
            let (done, text) = resync(&site, &format!("cleansed.{table}"), "kind = 'a'");
            assert!(done, "{text}");
            // what comes meanwhile is not lost on the way
            site.shop("update items set n = n + 1000 where id in (100, 102)").await;
            site.catch_up().await;
            assert_eq!(site.state(&format!("cleansed.{table}")).await[0], "streaming");
            let rows = "id in (3, 6, 9, 12, 13, 14, 15, 18, 21, 100, 102, 9001)";
            site.assert_equal(
                "select {} order by 1",
                &format!("id, kind, n, day, bio from items where {rows}"),
                &format!(
                    "* from (select {}) t where {}",
                    shown(table),
                    rows.replace("id", "item_id")
                ),
            )
            .await;
            let now = site.at_warehouse(&others).await;
            let changed = |row: &&String| !now.contains(row) && !row.starts_with("100|");
            let changed: Vec<_> = untouched.iter().filter(changed).collect();
            assert!(changed.is_empty(), "{table}: {changed:#?}");
            let answer = "select state, answer from audit.requests order by id desc limit 1";
            let answer = site.at_warehouse(answer).await;
            let told =
                format!("done|cleansed.{table}: 102 rows are read again, 1 are gone at the source");
            assert_eq!(answer, [told]);
            // what is left of the damage goes with all rows
            let (done, text) = resync(&site, &format!("cleansed.{table}"), "true");
            assert!(done, "{text}");
            site.catch_up().await;
            assert_equal(&site, &[table]).await;
        }
        assert_eq!(site.at_warehouse(oids).await, before, "other relations");
        let versions =
            "select n, is_current from cleansed.dim_items where item_id = 9 order by valid_from";
        assert_eq!(site.at_warehouse(versions).await, ["-1|f", "9|t"]);
    });
}

#[test]
fn what_cannot_be_read_is_refused_before_anything_is_noted() {
    block_on(async {
        let site = Site::new("unreadable").await;
        files(&site);
        site.file("mask.key", "a key of more than sixteen bytes");
        let key = site.config().with_file_name("mask.key");
        site.file(
            "siltstone.yaml",
            &format!(
                "warehouse: {{ url: \"${{WAREHOUSE_URL}}\" }}\nadmin: {{ listen: \"127.0.0.1:0\" }}\n\
                 mask_key: \"${{file:{}}}\"\n",
                key.display()
            ),
        );
        fill(&site, 30).await;
        site.shop(
            "create table plain (a int, b text); alter table plain replica identity full;
             create table people (id int primary key, email text, secret text, n int);
             insert into people values (1, 'a@example.com', 'hidden', 0), (2, 'b@example.com', 'hidden', 1)",
        )
        .await;
        site.file(
            "schemas/people.yaml",
            "table: cleansed.people\nfrom: shop.public.people\nkey: [id]\ncolumns:\n  id: { type: integer }\n  \
             email: { type: text, mask: hash }\n  n: { type: integer }\n",
        );
        site.connector(
            "tables: [\"public.*\"]\nexclude: [\"public.people.secret\"]\ntarget_schema: cleansed\n",
        );
        site.catch_up().await;
        let refused = [
            ("raw.stg_items", "id = 1", "its rows are events"),
            ("cleansed.log_items", "id = 1", "its rows are events"),
            ("cleansed.plain", "a = 1", "its rows have no key"),
            ("cleansed.nothing", "id = 1", "feeds"),
            ("cleansed.items", "id = ", "syntax error at or near"),
            ("cleansed.items", "item_id = 1", "column \"item_id\" does not exist"),
            ("cleansed.items", "id", "must be type boolean"),
            ("cleansed.items", "id = 'x'", "invalid input syntax for type bigint"),
            ("cleansed.items", "nothing(id)", "function nothing(bigint) does not exist"),
            ("cleansed.items", "count(*) > 1", "aggregate functions are not allowed in WHERE"),
            ("cleansed.items", "true) or (true", "a parenthesis is closed that is not open"),
            ("cleansed.items", "true; drop table items", "ends no statement"),
            ("cleansed.items", "true) union select 1 --", "a parenthesis is closed"),
            (
                "cleansed.items",
                "(with x as (delete from public.items returning 1) select true from x)",
                "top level",
            ),
            ("cleansed.items", "id = $1", "it has no parameters"),
            ("cleansed.people", "email = 'a@example.com'", "column \"email\" does not exist"),
            ("cleansed.people", "secret = 'hidden'", "column \"secret\" does not exist"),
        ];
        for (table, condition, why) in refused {
            let (done, text) = resync(&site, table, condition);
            assert!(!done && text.contains(why), "{table} where {condition}: {text}");
        }
        assert_eq!(site.at_warehouse("select count(*) from audit.requests").await, ["0"]);
        // whoever writes the request himself is told the same, and the table streams on
        let running = site.start();
        site.until("streaming", STREAMING).await;
        let mut asked = Vec::new();
        for (table, condition, why) in refused {
            let quoted = condition.replace('\'', "''");
            let write = format!(
                "insert into audit.requests (verb, connector, table_name, argument)
                 values ('resync where', '{}', '{table}', '{quoted}') returning id",
                site.name
            );
            asked.push((site.at_warehouse(&write).await.remove(0), table, condition, why));
        }
        site.until("answered", SETTLED).await;
        for (id, table, condition, why) in asked {
            let answer = format!("select state, answer from audit.requests where id = {id}");
            let answer = site.at_warehouse(&answer).await.remove(0);
            let refused = answer.starts_with("failed|") && answer.contains(why);
            assert!(refused, "{table} where {condition}: {answer}");
        }
        // one that does not stream
        let (done, text) = ask(&site, &["table", "pause", "cleansed.items", "--wait"]);
        assert!(done, "{text}");
        let (done, text) = ask(
            &site,
            &["table", "resync", "cleansed.items", "--where", "id = 1", "--yes", "--wait"],
        );
        assert!(!done && text.contains("cleansed.items is paused, not streaming"), "{text}");
        let chunks = "select count(*) from audit.snapshot_chunks where condition is not null";
        assert_eq!(site.at_warehouse(chunks).await, ["0"]);
        let (done, text) = ask(&site, &["table", "resume", "cleansed.items", "--wait"]);
        assert!(done, "{text}");
        assert!(running.stop().await.is_ok());
        assert_eq!(site.at_source("select count(*) from items").await, ["30"]);
    });
}

/// A condition may fail on a row that nobody thought of.
#[test]
fn a_condition_that_fails_leaves_all_as_it_was() {
    block_on(async {
        let site = Site::new("failing").await;
        files(&site);
        fill(&site, 30).await;
        site.catch_up().await;
        site.shop("update items set n = 0 where id = 7").await;
        let running = site.start();
        site.until("streaming", STREAMING).await;
        let divided =
            ["table", "resync", "cleansed.items", "--where", "10 / n > 1", "--yes", "--wait"];
        let (done, text) = ask(&site, &divided);
        assert!(!done && text.contains("division by zero"), "{text}");
        site.until("streaming again", STREAMING).await;
        site.shop("update items set n = 5 where id = 7").await;
        // here alone it cannot be judged: such a row counts as one that meets the condition
        let lost = "update cleansed.items set n = 0, sort = 'lost' where item_id = 8";
        site.warehouse.batch_execute(lost).await.unwrap();
        site.until("the change", "select n = 5 from cleansed.items where item_id = 7").await;
        let (done, text) = ask(&site, &divided);
        assert!(done && text.contains("7 rows are read again"), "{text}");
        site.until("streaming again", STREAMING).await;
        assert!(running.stop().await.is_ok());
        assert_equal(&site, &["items"]).await;
    });
}

/// A dead letter and what waits behind it are settled by the row that is read in their place.
#[test]
fn a_row_that_is_read_settles_what_waits_of_its_key() {
    block_on(async {
        let site = Site::new("settled").await;
        site.file(
            "schemas/short.yaml",
            "table: cleansed.short\nfrom: shop.public.short\nkey: [id]\ncolumns:\n  id: { type: integer }\n  \
             v: { type: varchar(3) }\n",
        );
        site.shop(
            "create table short (id int primary key, v text); insert into short select i, 'v' from generate_series(1, 9) i",
        )
        .await;
        site.catch_up().await;
        // two keys that wait for themselves, two that wait together
        site.shop_each(&[
            "update short set v = 'too long' where id in (1, 2, 3)",
            "update short set v = 'ok' where id in (1, 2)",
            "update short set id = 33 where id = 3",
        ])
        .await;
        site.catch_up().await;
        let letters = "select key->>'id', state from audit.dead_letters order by 1";
        assert_eq!(site.at_warehouse(letters).await, ["1|open", "2|open", "3|open"]);
        let (done, text) = resync(&site, "cleansed.short", "id in (1, 3, 33)");
        assert!(done, "{text}");
        site.catch_up().await;
        // 3 became 33: the two wait for each other, and a person decides
        assert_eq!(site.at_warehouse(letters).await, ["1|read", "2|open", "3|open"]);
        let row = "select v from cleansed.short where id = 1";
        assert_eq!(site.at_warehouse(row).await, ["ok"]);
        site.shop(
            "update short set v = 'new' where id = 1; update short set v = 'fit' where id = 33",
        )
        .await;
        site.catch_up().await;
        assert_eq!(site.at_warehouse(row).await, ["new"]);
        // what is refused again becomes a dead letter again
        site.shop("update short set v = 'once more too long' where id = 4").await;
        site.catch_up().await;
        let (done, text) = resync(&site, "cleansed.short", "id = 4");
        assert!(done, "{text}");
        site.catch_up().await;
        let four = "select state from audit.dead_letters where key->>'id' = '4' order by id";
        assert_eq!(site.at_warehouse(four).await, ["read", "open"]);
        site.shop("update short set v = 'end' where id = 4").await;
        for _ in 0..5 {
            let dropped = ask(&site, &["dead-letter", "drop", "--all", "--yes"]);
            site.catch_up().await;
            if !dropped.0 {
                break;
            }
        }
        site.assert_equal("select id, v from {} order by 1", "short", "cleansed.short").await;
        assert_eq!(site.at_warehouse("select count(*) from audit.pending").await, ["0"]);
    });
}

/// An update that leaves columns out comes for a row that is lost, before the row is read again.
#[test]
fn a_row_that_was_lost_is_read_in_the_place_of_its_changes() {
    block_on(async {
        let site = Site::new("lost").await;
        files(&site);
        fill(&site, 30).await;
        site.catch_up().await;
        for table in ["items", "soft_items", "dim_items"] {
            let lost = format!("delete from cleansed.{table} where item_id in (3, 4)");
            site.warehouse.batch_execute(&lost).await.unwrap();
            let (done, text) = resync(&site, &format!("cleansed.{table}"), "id in (3, 4)");
            assert!(done, "{text}");
            site.shop("update items set n = n + 1 where id < 6").await;
            site.catch_up().await;
            site.catch_up().await;
            assert_equal(&site, &[table]).await;
        }
        let open = "select count(*) from audit.dead_letters where state = 'open'";
        assert_eq!(site.at_warehouse(open).await, ["0"]);
    });
}

/// The source changes shape before the part is read: the table follows on the way.
#[test]
fn a_part_is_read_of_a_table_that_changes_shape() {
    block_on(async {
        let site = Site::new("reshaped_part").await;
        site.shop("create table t (id int primary key, v text, w int); insert into t select i, 'v', i from generate_series(1, 20) i").await;
        site.catch_up().await;
        site.warehouse.batch_execute("update cleansed.t set w = 0 where id < 5").await.unwrap();
        let (done, text) = resync(&site, "cleansed.t", "w = 0 or w between 3 and 6");
        assert!(done, "{text}");
        site.shop_each(&[
            "update t set v = 'before' where id = 4",
            "alter table t add column x int default 7",
            "alter table t rename v to vv",
            "update t set vv = 'behind' where id = 5",
        ])
        .await;
        site.catch_up().await;
        let all = "select id, vv, w, x from {} order by 1";
        site.assert_equal(all, "t", "cleansed.t").await;
        // no change has told the shape yet
        site.shop("alter table t add column y int default 8").await;
        site.warehouse.batch_execute("delete from cleansed.t where id = 9").await.unwrap();
        let (done, text) = resync(&site, "cleansed.t", "id = 9");
        assert!(done, "{text}");
        site.catch_up().await;
        site.assert_equal("select id, vv, w, x, y from {} order by 1", "t", "cleansed.t").await;
    });
}

fn kill(child: &mut std::process::Child) {
    let killed = Command::new("kill").args(["-9", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    child.wait().unwrap();
}

/// Parts are asked for again and again while everything changes and the process is killed.
#[test]
fn parts_are_read_beside_the_stream_and_across_crashes() {
    block_on(async {
        let site = Site::new("parts_killed").await;
        let (rows, rounds) = if is_full() { (200_000, 40) } else { (9_000, 8) };
        files(&site);
        fill(&site, rows).await;
        site.catch_up().await;
        let seed = std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
        println!("seed {seed}");
        let mut dice = Dice::new(seed.into());
        let mut child = site.spawn(&["run"]);
        let rows = u64::from(rows);
        for round in 0..rounds {
            let tables = KINDS.map(|(table, _)| table);
            site.until("streaming", SETTLED).await;
            let lost = dice.below(rows) / 50 * 50;
            // each by itself: the service works on the same rows
            for damage in [
                format!(
                    "update cleansed.items set n = -7 where item_id between {lost} and {lost} + 200"
                ),
                format!(
                    "with gone as (delete from audit.locator_cleansed_fact_items
                       where item_id in ({lost}, {lost} + 50))
                     delete from cleansed.fact_items where item_id in ({lost}, {lost} + 50)"
                ),
                format!(
                    "update cleansed.dim_items_pcurrent set n = -7 where item_id between {lost} and {lost} + 200"
                ),
            ] {
                while site.warehouse.batch_execute(&damage).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
            for table in tables {
                let condition = match dice.below(3) {
                    0 => format!("n = -7 or id between {lost} and {lost} + 200"),
                    1 => format!(
                        "kind in ('a', 'b') and id >= {lost} or id in ({lost}, {lost} + 50) or n = -7"
                    ),
                    _ => "true".to_owned(),
                };
                let (done, text) = resync(&site, &format!("cleansed.{table}"), &condition);
                assert!(done, "{text}");
            }
            for _ in 0..if is_full() { 300 } else { 60 } {
                // rows that are lost here get no changes: those would wait for a person
                let mut key = |from: u64, many: u64| {
                    let key = from + dice.below(many);
                    if matches!(key % 50, 0 | 49) { key + 2 } else { key }
                };
                let (a, b, c) = (key(1, rows), key(1, rows), key(1, rows));
                let near = key(lost, 200);
                site.shop(&format!(
                    "begin; update items set n = n + 1 where id in ({a}, {near});
                     update items set kind = (array['a', 'b', 'c'])[1 + n % 3] where id = {b};
                     delete from items where id = {c};
                     update items set id = {c}, day = day + 1 where id = {near} + 1;
                     update items set bio = repeat('y', 2500) || {a} where id = {b} + 1;
                     insert into items values ({rows} + {a}, 'a', 1, '2024-03-01', 'new')
                       on conflict (id) do update set n = items.n + 1; commit"
                ))
                .await;
            }
            if round % 2 == 1 {
                tokio::time::sleep(Duration::from_millis(dice.below(1_500))).await;
                kill(&mut child);
                child = site.spawn(&["run"]);
            }
        }
        site.until("all is answered", SETTLED).await;
        kill(&mut child);
        site.catch_up().await;
        let failed = "select answer from audit.requests where state <> 'done'";
        assert_eq!(site.at_warehouse(failed).await, [""; 0]);
        assert_equal(&site, &KINDS.map(|(table, _)| table)).await;
        let twice = "select raw_data->>'seq' from raw.stg_items group by raw_data->>'seq', raw_data->'ord', \
            raw_data->'key' having count(*) > 1";
        assert_eq!(site.at_warehouse(twice).await, [""; 0]);
        let log = "select id, _seq, _ord, _op from cleansed.log_items group by 1, 2, 3, 4 having count(*) > 1";
        assert_eq!(site.at_warehouse(log).await, [""; 0]);
        site.assert_equal(
            "select {} order by 1",
            "id, n from items",
            "id, n from (select distinct on (id) id, n, _op from cleansed.log_items \
             order by id, _seq desc, _ord desc) e where _op <> 'd' and id not in \
             (select (raw_data->'before'->>'id')::int8 from raw.stg_items r where raw_data->>'op' = 'u' \
               and raw_data->'before'->>'id' is not null and not exists (select from raw.stg_items l \
                 where l.raw_data->'key'->>'id' = r.raw_data->'before'->>'id' \
                   and ((l.raw_data->>'seq')::int8, (l.raw_data->>'ord')::int) > ((r.raw_data->>'seq')::int8, (r.raw_data->>'ord')::int)))",
        )
        .await;
    });
}

#[test]
fn a_part_is_asked_for_over_http() {
    block_on(async {
        let site = Site::new("parts_http").await;
        let port = free_port();
        with_admin(&site, port);
        fill(&site, 30).await;
        let mut child = site.spawn(&["run"]);
        site.until("streaming", STREAMING).await;
        site.warehouse.batch_execute("update cleansed.items set n = 0 where id < 4").await.unwrap();
        let path = "/tables/cleansed.items/resync";
        let post = |body: &str| http_with(port, "POST", path, ("s3cret", body));
        let (code, answer) = post("{\"where\": \"id = \"}");
        assert!(code == 400 && answer.contains("syntax error"), "{code} {answer}");
        for body in ["{\"were\": \"id = 1\"}", "[]", "{\"where\": 1}", "{"] {
            assert_eq!(post(body).0, 400, "{body}");
        }
        let (code, answer) = post("{\"where\": \"n = 0 and id <> 3\"}");
        assert!(code == 202 && answer.contains("request"), "{code} {answer}");
        site.until("read", "select count(*) = 1 from audit.requests where state = 'done'").await;
        site.until("in", "select count(*) = 1 from cleansed.items where n = 0").await;
        assert_eq!(post("").0, 202);
        site.until("all of it", "select count(*) = 0 from cleansed.items where n = 0").await;
        // from raw: not together with a condition, and where no raw table is the request fails
        assert_eq!(post("{\"from\": \"raw\", \"where\": \"id = 1\"}").0, 400);
        assert_eq!(post("{\"from\": \"nowhere\"}").0, 400);
        assert_eq!(post("{\"from\": \"raw\"}").0, 202);
        let refused = "select count(*) = 1 from audit.requests
            where state = 'failed' and answer like 'no raw table keeps the events of %'";
        site.until("refused", refused).await;
        assert_eq!(http(port, "POST", path, "r3ad").0, 403);
        child.kill().unwrap();
        child.wait().unwrap();
    });
}
