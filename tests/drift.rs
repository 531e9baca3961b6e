//! Schema changes at the source, in mid-stream: mirrored tables follow, or stop alone with a remedy that
//! works.

use std::process::Stdio;
use std::time::Duration;

use crate::support::{Site, block_on};

const ITEMS: &str = "create table items (id int primary key, name varchar(10), price numeric(8,2), n int, gone text not null);
    insert into items select i, 'n' || i, i, i, 'g' from generate_series(1, 500) i;
    create table other (id int primary key, v text); insert into other values (1, 'o')";

async fn equal(site: &Site, columns: &str) {
    let query = format!("select {columns} from {{}} order by id");
    site.assert_equal(&query, "public.items", "cleansed.items").await;
    site.assert_equal(
        "select * from (select id, v from {}) o order by 1",
        "public.other",
        "cleansed.other",
    )
    .await;
}

/// As migration tools make and drop them: what is gone by the time that it is to be published costs nothing.
#[test]
fn tables_that_are_there_for_a_moment_end_nothing() {
    block_on(async {
        let site = Site::new("fleeting").await;
        site.shop("create table stays (id int primary key); insert into stays values (1)").await;
        let running = site.start();
        site.until("streaming", "select count(*) = 1 from audit.tables where state = 'streaming'")
            .await;
        // the catalogue is looked at every five seconds
        for round in 0..150_u64 {
            site.shop(&format!("create table fleeting_{round} (id int primary key)")).await;
            tokio::time::sleep(Duration::from_millis(round * 37 % 190)).await;
            let gone = match round % 3 {
                0 => format!(
                    "alter table fleeting_{round} rename to gone_{round}; drop table gone_{round}"
                ),
                _ => format!("drop table fleeting_{round}"),
            };
            site.shop(&gone).await;
        }
        site.shop("create table late (id int primary key); insert into late values (1), (2)").await;
        site.until("late", "select count(*) = 1 from audit.tables where state = 'streaming' and table_name = 'cleansed.late'")
            .await;
        site.shop("insert into stays values (2)").await;
        site.until("stays", "select count(*) = 2 from cleansed.stays").await;
        site.assert_equal("select id from {} order by id", "late", "cleansed.late").await;
        assert!(running.stop().await.is_ok());
    });
}

#[test]
fn mirrored_tables_follow() {
    block_on(async {
        let site = Site::new("follow").await;
        site.shop(ITEMS).await;
        site.catch_up().await;
        site.warehouse
            .batch_execute("create view cleansed.of_items as select id, name from cleansed.items")
            .await
            .unwrap();
        let running = site.start();
        let steps: &[(&[&str], &str)] = &[
            // what follows without reading a row again
            (
                &["alter table items add note text", "update items set note = 'x' where id < 10"],
                "id, note",
            ),
            (
                &[
                    "alter table items add flag boolean not null default true",
                    "insert into items values (1001, 'a', 1, 1, 'g')",
                ],
                "id, flag",
            ),
            (
                &[
                    "begin; alter table items add extra int; update items set extra = id; alter table items add extra2 int default 5; delete from items where id = 7; commit",
                ],
                "id, extra, extra2",
            ),
            (
                &[
                    "alter table items alter price type numeric(12,2)",
                    "update items set price = 1234567890.12 where id = 9",
                ],
                "id, price",
            ),
            (
                &[
                    "begin; alter table items add undone int; update items set n = 0; rollback",
                    "update items set n = -1 where id = 11",
                ],
                "id, n",
            ),
            (
                &["alter table items drop gone", "insert into items (id, name) values (1002, 'b')"],
                "id, name, price",
            ),
            // what rewrites rows, or tells nothing of them: read again, while the others flow
            (
                &[
                    "alter table items alter n type bigint",
                    "update items set n = 5000000000 where id = 12",
                ],
                "id, n",
            ),
            (
                &[
                    "alter table items add token uuid default gen_random_uuid()",
                    "update items set name = 'tok' where id = 13",
                ],
                "id, token",
            ),
            (
                &[
                    "alter table items rename note to remark",
                    "update items set remark = 'renamed' where id = 14",
                ],
                "id, remark",
            ),
            (
                &[
                    "alter table items alter extra type text using 'e' || extra",
                    "update items set extra = 'z' where id = 15",
                ],
                "id, extra",
            ),
            (
                &[
                    "alter table items drop extra2",
                    "alter table items add extra2 int",
                    "update items set extra2 = 3 where id = 16",
                ],
                "id, extra2",
            ),
            (&["update other set v = v || 'o'"], "id"),
        ];
        for (n, (statements, columns)) in steps.iter().enumerate() {
            site.shop_each(statements).await;
            site.shop(&format!("insert into other values ({n} + 100, 'mark')")).await;
            site.until(
                &format!("step {n}: {statements:?}"),
                &format!(
                    "select exists (select from cleansed.other where id = {n} + 100)
                    and (select bool_and(state = 'streaming') from audit.tables)"
                ),
            )
            .await;
            equal(&site, columns).await;
        }
        assert_eq!(
            site.at_warehouse(
                "select count(*) = (select count(*) from cleansed.items) from cleansed.of_items"
            )
            .await,
            ["t"]
        );
        assert!(running.stop().await.is_ok());
        site.catch_up().await;
        equal(&site, "id, name, price, n, flag, remark, extra, extra2, token").await;
    });
}

#[test]
fn a_changed_key_or_a_new_table_stops_it_alone_and_the_remedy_works() {
    block_on(async {
        let site = Site::new("stops").await;
        site.shop(ITEMS).await;
        site.catch_up().await;
        let running = site.start();
        let stopped =
            "select state = 'stopped' from audit.tables where table_name = 'cleansed.items'";
        let streaming = "select bool_and(state = 'streaming') from audit.tables";
        let changes: [&[&str]; 2] = [
            &[
                "alter table items add column k int not null default 3",
                "begin; alter table items drop constraint items_pkey; \
                 alter table items add primary key (id, k); commit",
                "update items set price = 2 where id = 1",
            ],
            &[
                "drop table items",
                "create table items (id int primary key, name text, price numeric)",
                "insert into items values (1, 'new', 1)",
            ],
        ];
        for (n, statements) in changes.iter().enumerate() {
            for statement in *statements {
                // the shop's own statements must work, whatever we think of the table
                site.source
                    .batch_execute(statement)
                    .await
                    .unwrap_or_else(|e| panic!("{statement}: {e:?}"));
            }
            site.shop(&format!("insert into other values ({n} + 200, 'goes on')")).await;
            site.until(
                "the other goes on",
                &format!("select exists (select from cleansed.other where id = {n} + 200)"),
            )
            .await;
            if n == 1 {
                // the dropped table left the publication: nothing tells of the new one but the catalogue
                continue;
            }
            site.until("stopped", stopped).await;
            let state = site.state("cleansed.items").await;
            assert!(state[2].contains("siltstone table resync cleansed.items"), "{state:?}");
            let asked =
                site.command(&["table", "resync", "cleansed.items", "--yes"]).status().unwrap();
            assert!(asked.success());
            site.until("read again", streaming).await;
            site.shop("update items set price = 3 where id = 2; insert into items (id, k, gone) values (9000, 1, '')").await;
            site.shop("insert into other values (300, 'mark')").await;
            site.until("the mark", "select exists (select from cleansed.other where id = 300)")
                .await;
            equal(&site, "id, k, name, price").await;
        }
        assert!(running.stop().await.is_ok());
        site.catch_up().await;
        if site.state("cleansed.items").await[0] == "stopped" {
            site.command(&["table", "resync", "cleansed.items", "--yes"]).status().unwrap();
            site.catch_up().await;
        }
        equal(&site, "id, name, price").await;
    });
}

#[test]
fn new_tables_odd_names_and_partitions_are_taken() {
    block_on(async {
        let site = Site::new("odd").await;
        let long = "x".repeat(63);
        site.shop(&format!(
            "create table \"a.b\"\"; drop table c\" (\"I d\" int primary key, \"{long}\" text, \"Name\" text, \"name\" text);
             insert into \"a.b\"\"; drop table c\" values (1, 'l', 'U', 'l');
             create table parted (id int, day date, v text, primary key (id, day)) partition by range (day);
             create table parted_1 partition of parted for values from ('2024-01-01') to ('2024-02-01');
             create table parted_2 partition of parted for values from ('2024-02-01') to ('2024-03-01');
             insert into parted select i, date '2024-01-15' + (i % 2) * 31, 'v' from generate_series(1, 20) i;
             create table parent (id int primary key, v text); create table child (w text, primary key (id)) inherits (parent);
             insert into parent values (1, 'p'); insert into child values (2, 'c', 'w');
             create table doubled (id int primary key, n int, twice int generated always as (n * 2) stored);
             insert into doubled values (1, 2);
             create table nokey (a int); create table later (id int primary key deferrable, v text);
             create table by_index (a int not null, b text, c text); create unique index by_index_a on by_index (a);
             alter table by_index replica identity using index by_index_a; insert into by_index values (1, 'b', 'c');
             create table nothing (id int primary key); alter table nothing replica identity nothing"
        ))
        .await;
        site.catch_up().await;
        // the shop's own work goes on for every kind of table
        site.shop_each(&[
            "insert into nokey values (1)",
            "update nokey set a = 2",
            "delete from nokey",
            "insert into later values (1, 'x')",
            "update later set v = 'y'",
            "delete from later",
            "insert into nothing values (1)",
            "update nothing set id = 2",
            "delete from nothing",
            "update \"a.b\"\"; drop table c\" set \"Name\" = 'V'",
            "update parted set v = 'w', day = day + 1 where id < 5",
            "update parted set day = date '2024-02-10' where id = 6",
            "delete from parted where id = 8",
            "update parent set v = v || '!'",
            "update doubled set n = 5",
            "update by_index set a = 7, c = null",
            "alter table nokey add b int",
            "alter table parted add z int",
        ])
        .await;
        site.shop(
            "create table fresh (id int primary key, v text); insert into fresh values (1, 'f')",
        )
        .await;
        site.catch_up().await;
        site.assert_equal(
            &format!("select \"I d\", \"{long}\", \"Name\", \"name\" from {{}}"),
            "\"a.b\"\"; drop table c\"",
            "cleansed.\"a.b\"\"; drop table c\"",
        )
        .await;
        site.assert_equal("select id, day, v from {} order by 1", "parted", "cleansed.parted")
            .await;
        site.assert_equal("select id, v from {} order by 1", "only parent", "cleansed.parent")
            .await;
        site.assert_equal("select id, v, w from {} order by 1", "child", "cleansed.child").await;
        site.assert_equal("select id, n from {} order by 1", "doubled", "cleansed.doubled").await;
        site.assert_equal("select a, b, c from {} order by 1", "by_index", "cleansed.by_index")
            .await;
        site.assert_equal("select id, v from {} order by 1", "fresh", "cleansed.fresh").await;
        let left_out = "select count(*) from information_schema.tables where table_schema = 'cleansed' and table_name in ('nokey', 'later', 'nothing')";
        assert_eq!(site.at_warehouse(left_out).await, ["0"]);
    });
}

#[test]
fn a_table_that_loses_its_key_soon_leaves_the_publication() {
    block_on(async {
        let site = Site::new("keyless").await;
        site.shop(ITEMS).await;
        site.catch_up().await;
        let running = site.start();
        site.shop("alter table items drop constraint items_pkey").await;
        // until it is noticed, Postgres itself refuses updates of a published table without identity
        let mut refused = 0;
        while site.source.batch_execute("update items set n = 1").await.is_err() {
            refused += 1;
            assert!(refused < 300, "the shop's updates are refused for more than 30 s");
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        site.shop("insert into other values (5, 'goes on')").await;
        site.until("the other goes on", "select exists (select from cleansed.other where id = 5)")
            .await;
        // with a key again it is read again
        site.shop("alter table items add primary key (id)").await;
        assert!(running.stop().await.is_ok());
        site.catch_up().await;
        equal(&site, "id, name, n").await;
    });
}

#[test]
fn keyless_tables_renames_and_composites_in_mid_stream() {
    block_on(async {
        let site = Site::new("shapes").await;
        site.shop(
            "create table nk (a int, b text); alter table nk replica identity full;
             insert into nk values (1, 'x'), (2, 'y');
             create table ren (id int primary key, v text); insert into ren values (1, 'v');
             create table typed (id int primary key, v text); insert into typed values (1, 'v')",
        )
        .await;
        site.catch_up().await;
        let running = site.start();
        site.shop_each(&[
            "alter table nk add c int",
            "update nk set b = 'x2' where a = 1",
            "delete from nk where a = 2",
            "alter table ren rename to ren_x",
            "insert into ren_x values (2, 'away')",
            "alter table ren_x rename to ren",
            "insert into ren values (3, 'back')",
            "create type pair as (a int, b int)",
            "alter table typed add p pair",
            "insert into typed values (2, 'w', '(1,2)')",
        ])
        .await;
        assert!(running.stop().await.is_ok());
        site.catch_up().await;
        site.catch_up().await;
        let states = site.at_warehouse("select t from audit.tables t").await;
        eprintln!("{states:#?}");
        site.assert_equal("select a, b, c from {} order by 1", "nk", "cleansed.nk").await;
        site.assert_equal("select id, v from {} order by 1", "ren", "cleansed.ren").await;
        site.assert_equal("select id, v, p::text from {} order by 1", "typed", "cleansed.typed")
            .await;
    });
}

#[test]
fn a_rewrite_that_no_change_tells_is_noticed() {
    block_on(async {
        let site = Site::new("silent").await;
        site.shop("create table t (id int primary key, v text); insert into t select i, 'v' || i from generate_series(1, 9) i").await;
        site.catch_up().await;
        let running = site.start();
        site.until(
            "streaming",
            "select coalesce(bool_and(state = 'streaming'), false) from audit.tables",
        )
        .await;
        site.shop("alter table t alter v type text using 'q' || v, alter id type bigint").await;
        site.until("read again", "select count(*) = 9 from cleansed.t where v like 'q%'").await;
        assert!(running.stop().await.is_ok());
        site.catch_up().await;
        site.assert_equal("select id, v from {} order by id", "public.t", "cleansed.t").await;
    });
}

#[test]
fn new_tables_and_columns_are_taken_or_not_as_the_files_say() {
    block_on(async {
        let site = Site::new("policies").await;
        site.connector("tables: [\"public.*\"]\ntarget_schema: cleansed\nnew_tables: ignore\n");
        for (name, policy) in [("t", "ignore"), ("strict", "stop")] {
            site.file(
                &format!("schemas/{name}.yaml"),
                &format!(
                    "table: cleansed.{name}\nfrom: shop.public.{name}\nkey: [id]\nnew_columns: {policy}\n\
                     columns:\n  id: {{ type: integer }}\n  v: {{ type: text }}\n"
                ),
            );
        }
        site.shop(
            "create table t (id int primary key, v text); create table strict (id int primary key, v text);
             create table nobodys (id int primary key); insert into t values (1, 'a'); insert into strict values (1, 'a')",
        )
        .await;
        site.catch_up().await;
        let running = site.start();
        site.shop("create table later (id int primary key); insert into later values (1)").await;
        site.shop("alter table t add w int; update t set v = 'b', w = 1").await;
        site.shop("alter table strict add w int; update strict set v = 'b', w = 1").await;
        site.until(
            "stopped",
            "select state = 'stopped' from audit.tables where table_name = 'cleansed.strict'",
        )
        .await;
        let state = site.state("cleansed.strict").await;
        assert!(state[1].contains("new column w"), "{state:?}");
        site.until("the other", "select v = 'b' from cleansed.t").await;
        let fed = "select table_name from audit.tables order by 1";
        assert_eq!(site.at_warehouse(fed).await, ["cleansed.strict", "cleansed.t"]);
        assert!(state[1].contains("add it to schemas/strict.yaml"), "{state:?}");
        let remedy = "let the service read it (kill -HUP, or a restart); then siltstone table resync cleansed.strict";
        assert!(state[2].ends_with(remedy), "{state:?}");
        assert!(running.stop().await.is_ok());
        site.file(
            "schemas/strict.yaml",
            "table: cleansed.strict\nfrom: shop.public.strict\nkey: [id]\nnew_columns: stop\n\
             columns:\n  id: { type: integer }\n  v: { type: text }\n  w: { type: integer }\n",
        );
        let resync = ["table", "resync", "cleansed.strict", "--yes"];
        assert!(site.command(&resync).status().unwrap().success());
        site.catch_up().await;
        site.assert_equal("select id, v, w from {}", "strict", "cleansed.strict").await;
    });
}

/// Somebody reads the warehouse's table for a long time: nobody queues up behind the change of its shape, and it
/// comes once they are through.
#[test]
fn a_change_of_shape_waits_for_readers_and_holds_up_none() {
    block_on(async {
        let site = Site::new("readers").await;
        site.shop("create table t (id int primary key, v text); insert into t values (1, 'a')")
            .await;
        site.catch_up().await;
        let running = site.start();
        let reader = site.another_session().await;
        reader.batch_execute("begin; select * from cleansed.t").await.unwrap();
        site.shop("alter table t add w int default 7; update t set v = 'b'").await;
        let waits = "select count(*) > 0 from pg_locks l join pg_class c on c.oid = l.relation
                      where c.relname = 't' and not l.granted";
        site.until("it waits", waits).await;
        let other = site.another_session().await;
        let begun = std::time::Instant::now();
        while begun.elapsed() < Duration::from_secs(5) {
            let asked = std::time::Instant::now();
            other.query_one("select count(*) from cleansed.t", &[]).await.unwrap();
            assert!(
                asked.elapsed() < Duration::from_secs(3),
                "a reader queued for {:?}",
                asked.elapsed()
            );
        }
        reader.batch_execute("commit").await.unwrap();
        site.until("changed", "select count(*) = 1 from information_schema.columns where table_schema = 'cleansed' and table_name = 't' and column_name = 'w'").await;
        assert!(running.stop().await.is_ok());
        site.catch_up().await;
        site.assert_equal("select id, v, w from {}", "t", "cleansed.t").await;
    });
}

/// What is done to a leaf of the source as a whole is told by no change.
#[test]
fn leaves_of_the_source_that_come_and_go_are_noticed() {
    block_on(async {
        for (policy, keeps) in [("apply", false), ("stop", true), ("ignore", true)] {
            let site = Site::new("branches").await;
            site.connector(&format!(
                "tables: [\"public.*\"]\ntarget_schema: cleansed\ntruncate: {policy}\n"
            ));
            site.shop(
                "create table ev (id int, day date, primary key (id, day)) partition by range (day);
                 create table ev_1 partition of ev for values from ('2024-01-01') to ('2024-02-01');
                 create table ev_2 partition of ev for values from ('2024-02-01') to ('2024-03-01');
                 create table ev_3 partition of ev for values from ('2024-03-01') to ('2024-04-01');
                 insert into ev select i, date '2024-01-01' + i % 90 from generate_series(0, 899) i",
            )
            .await;
            site.catch_up().await;
            let running = site.start();
            let same = |what: &'static str| {
                let site = &site;
                async move {
                    let count = site.at_source("select count(*), sum(id) from ev").await.remove(0);
                    let query =
                        format!("select count(*) || '|' || sum(id) = '{count}' from cleansed.ev");
                    site.until(what, &query).await;
                }
            };
            let streaming = "select bool_and(state = 'streaming') from audit.tables";
            site.until("streaming", streaming).await;
            // made ahead, empty, and filled by changes: nothing to notice
            site.shop_each(&[
                "create table ev_4 (like ev including all)",
                "alter table ev attach partition ev_4 for values from ('2024-04-01') to ('2024-05-01')",
                "select pg_sleep(7)",
                "create table ev_5 partition of ev for values from ('2024-05-01') to ('2024-06-01')",
                "insert into ev select i, date '2024-04-01' + i % 60 from generate_series(1000, 1099) i",
            ])
            .await;
            same("filled").await;
            tokio::time::sleep(Duration::from_secs(6)).await;
            let read = "select count(*) from audit.snapshot_chunks";
            assert_eq!(site.at_warehouse(read).await, ["1"], "{policy}");
            site.shop(
                "update ev set day = day + 1 where id = 5; alter table ev detach partition ev_1",
            )
            .await;
            if keeps {
                let stopped = "select bool_or(state = 'stopped' and reason like '%detached%') from audit.tables";
                match policy {
                    "stop" => site.until("stopped", stopped).await,
                    _ => tokio::time::sleep(Duration::from_secs(7)).await,
                }
                let kept = "select count(*) > 300 from cleansed.ev where day < '2024-02-01'";
                assert_eq!(site.at_warehouse(kept).await, ["t"], "{policy}");
                assert!(running.stop().await.is_ok());
                continue;
            }
            same("detached").await;
            site.until("streaming again", streaming).await;
            site.shop("truncate ev_2").await;
            same("truncated").await;
            site.until("streaming again", streaming).await;
            site.shop("alter table ev attach partition ev_1 for values from ('2024-01-01') to ('2024-02-01')")
                .await;
            same("attached").await;
            assert!(running.stop().await.is_ok());
            // and while nobody was there
            site.shop("drop table ev_3").await;
            let running = site.start();
            same("dropped").await;
            assert!(running.stop().await.is_ok());
            site.assert_equal("select id, day from {} order by id", "ev", "cleansed.ev").await;
        }
    });
}

#[test]
fn a_table_that_was_left_out_comes_when_what_it_lacked_is_there() {
    block_on(async {
        let site = Site::new("comes").await;
        site.shop("create table t (id int primary key); create table nokey (a int not null); insert into nokey values (1)")
            .await;
        let running = site.start();
        site.until(
            "the other",
            "select count(*) = 1 and bool_and(state = 'streaming') from audit.tables",
        )
        .await;
        site.shop("alter table nokey add primary key (a)").await;
        site.until(
            "it came",
            "select count(*) = 2 and bool_and(state = 'streaming') from audit.tables",
        )
        .await;
        site.assert_equal("select a from {}", "nokey", "cleansed.nokey").await;
        assert!(running.stop().await.is_ok());
    });
}

/// What a file asks for and cannot be had of one table, since somebody changed the source, costs the others
/// nothing; nor the shop's own work.
#[test]
fn a_table_that_the_files_cannot_take_any_more_is_left_out_alone() {
    block_on(async {
        let site = Site::new("refused").await;
        site.shop(ITEMS).await;
        site.connector("tables: [\"public.*\", \"archive.*\"]\nexclude: [\"public.items.gone\"]\ntarget_schema: cleansed\n");
        site.catch_up().await;
        let running = site.start();
        site.shop(
            "create schema archive; create table archive.other (id int primary key, v text); \
                   insert into archive.other values (99, 'of another')",
        )
        .await;
        let told = "select exists (select from audit.left_out where source_table = 'archive.other'
                                      and reason like '%would both become cleansed.other')";
        site.until("the younger is left out", told).await;
        site.shop("alter table items replica identity full").await;
        let mut refused = 0;
        while site.source.batch_execute("update items set n = 1").await.is_err() {
            refused += 1;
            assert!(refused < 300, "the shop's updates are refused for more than 30 s");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        site.shop("insert into other values (5, 'goes on')").await;
        site.until("the other goes on", "select exists (select from cleansed.other where id = 5)")
            .await;
        let state = site.state("cleansed.items").await;
        assert!(state[2].contains("mask it"), "{state:?}");
        let validated = site.command(&["validate", "--connect"]).stdout(Stdio::piped()).output();
        let validated = validated.unwrap();
        let text = String::from_utf8(validated.stdout).unwrap();
        assert_eq!(validated.status.code(), Some(78), "{text}");
        assert!(
            text.contains("error: archive.other") && text.contains("error: public.items"),
            "{text}"
        );
        site.shop("alter table items replica identity default").await;
        site.until("it is taken again", "select bool_and(state = 'streaming') from audit.tables")
            .await;
        equal(&site, "id, name, n").await;
        assert!(running.stop().await.is_ok());
    });
}

/// The one that feeds a table goes on feeding it, whichever is the older; the other one takes its place when it is
/// excluded, by being read.
#[test]
fn a_table_is_fed_by_one_of_two_until_a_file_says_otherwise() {
    block_on(async {
        let site = Site::new("rivals").await;
        site.shop(
            "create table other (id int primary key); insert into other values (1), (2);
             create table t (id int primary key); create schema archive;
             create table archive.other (id int primary key); insert into archive.other values (3)",
        )
        .await;
        let tables = |tables: &str| site.connector(&format!("{tables}\ntarget_schema: cleansed\n"));
        let fed = "select string_agg(id::text, ' ' order by id) from cleansed.other";
        tables("tables: [\"archive.*\"]");
        site.catch_up().await;
        tables("tables: [\"archive.*\", \"public.*\"]");
        site.catch_up().await;
        site.shop("insert into other values (4); insert into archive.other values (5); insert into t values (1)")
            .await;
        site.catch_up().await;
        assert_eq!(site.at_warehouse(fed).await, ["3 5"]);
        let left = "select source_table, reason from audit.left_out";
        let words = "archive.other and it would both become cleansed.other";
        assert_eq!(site.at_warehouse(left).await, [format!("public.other|{words}")]);
        site.assert_equal("select id from {}", "t", "cleansed.t").await;
        tables("tables: [\"archive.*\", \"public.*\"]\nexclude: [archive.other]");
        site.catch_up().await;
        let state = site.state("cleansed.other").await;
        assert_eq!(state[2], "siltstone table resync cleansed.other", "{state:?}");
        let resync = ["table", "resync", "cleansed.other", "--yes"];
        assert!(site.command(&resync).status().unwrap().success());
        site.shop("insert into other values (6); insert into archive.other values (7)").await;
        site.catch_up().await;
        assert_eq!(site.at_warehouse(fed).await, ["1 2 4 6"]);
        // and so it stays when both are there again
        tables("tables: [\"archive.*\", \"public.*\"]");
        site.shop("insert into other values (8); insert into archive.other values (9)").await;
        site.catch_up().await;
        assert_eq!(site.at_warehouse(fed).await, ["1 2 4 6 8"]);
        let left = "select source_table from audit.left_out";
        assert_eq!(site.at_warehouse(left).await, ["archive.other"]);
    });
}

/// Somebody has a lock on two tables for hours: one whose file has a new column as the service begins, and one
/// that gets one in mid-stream. Both wait alone.
#[test]
fn a_table_that_waits_for_a_lock_waits_alone() {
    block_on(async {
        let site = Site::new("locked").await;
        site.shop("create table t (id int primary key, v text, w int); insert into t values (1, 'a', 7); create table m (id int primary key, v text); insert into m values (1, 'a'); create table other (id int primary key)")
            .await;
        let declare = |more: &str| {
            let head = "table: cleansed.t\nfrom: shop.public.t\nkey: [id]\ncolumns:\n  id: { type: integer }\n";
            site.file("schemas/t.yaml", &format!("{head}  v: {{ type: text }}\n{more}"));
        };
        declare("");
        site.catch_up().await;
        let reader = site.another_session().await;
        reader
            .batch_execute("begin; select from cleansed.t; select from cleansed.m")
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        declare("  w: { type: integer }\n");
        let running = site.start();
        let waits = |table: &str| {
            format!(
                "select state = 'stopped' and reason like '%(another test)' \
                        and remedy like '%pg_terminate_backend%' \
                   from audit.tables where table_name = 'cleansed.{table}'"
            )
        };
        site.until("the declared one waits", &waits("t")).await;
        site.shop("alter table m add n int default 7; update m set v = 'b'; update t set v = 'b'")
            .await;
        site.until("the mirrored one waits", &waits("m")).await;
        site.shop("insert into other values (1)").await;
        site.until("the other flows", "select exists (select from cleansed.other)").await;
        reader.batch_execute("commit").await.unwrap();
        site.until("all go on", "select bool_and(state = 'streaming') from audit.tables").await;
        site.assert_equal("select id, v, w from {}", "t", "cleansed.t").await;
        site.assert_equal("select id, v, n from {}", "m", "cleansed.m").await;
        assert!(running.stop().await.is_ok());
    });
}
