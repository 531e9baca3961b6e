//! Tables that get another shape, key, kind or file, or whose changes were not told in full: each ends
//! equal, or stops with a remedy that works.

use std::time::Duration;

use crate::support::{Site, block_on};

async fn resync(site: &Site, table: &str) {
    let asked = site.command(&["table", "resync", table, "--yes"]).status().unwrap();
    assert!(asked.success());
    site.catch_up().await;
}

async fn assert_stopped(site: &Site, table: &str, reason: &str) {
    let state = site.state(table).await;
    assert_eq!(state[0], "stopped", "{state:?}");
    assert!(state[1].contains(reason), "{state:?}");
}

#[test]
fn a_mirrored_table_may_change_its_kind() {
    block_on(async {
        let site = Site::new("kinds").await;
        site.shop("create table t (a int primary key, b text); insert into t select i, 'b' || i from generate_series(1, 9) i").await;
        site.catch_up().await;
        let steps: [&[&str]; 3] = [
            &[
                "alter table t drop constraint t_pkey, alter a drop not null",
                "alter table t replica identity full",
                "insert into t values (1, 'twice'), (null, null)",
            ],
            &[
                "delete from t where a is null or b = 'twice'",
                "alter table t add primary key (b)",
                "alter table t replica identity default",
                "update t set a = null where a = 3",
            ],
            &[
                "alter table t drop constraint t_pkey, add column c date, alter b drop not null",
                "alter table t replica identity full",
                "insert into t values (4, null, '2024-01-01')",
            ],
        ];
        let columns = ["a, b", "a, b", "a, b, c"];
        for (steps, columns) in steps.iter().zip(columns) {
            site.shop_each(steps).await;
            site.catch_up().await;
            if site.state("cleansed.t").await[0] == "stopped" {
                resync(&site, "cleansed.t").await;
            }
            assert_eq!(site.state("cleansed.t").await[0], "streaming");
            let query = format!("select {columns} from {{}} order by {columns}");
            site.assert_equal(&query, "public.t", "cleansed.t").await;
            site.shop("insert into t (a, b) values (77, 'more'); update t set a = 78 where b = 'more'; delete from t where a = 78").await;
            site.catch_up().await;
            site.assert_equal(&query, "public.t", "cleansed.t").await;
        }
    });
}

#[test]
fn a_type_change_that_no_cast_can_follow_is_read_again() {
    block_on(async {
        let site = Site::new("casts").await;
        site.shop(
            "create table t (id int primary key, v text); insert into t values (1, 'one'), (2, 'two');
             create table seen (id int primary key, v text); insert into seen values (1, 'one')",
        )
        .await;
        site.catch_up().await;
        site.warehouse
            .batch_execute("create view cleansed.of_seen as select v from cleansed.seen")
            .await
            .unwrap();
        site.shop_each(&[
            "alter table t alter v type int using length(v)",
            "insert into t values (3, 33)",
            "alter table seen alter v type int using length(v)",
            "insert into seen values (3, 33)",
        ])
        .await;
        site.catch_up().await;
        site.assert_equal("select id, v from {} order by 1", "t", "cleansed.t").await;
        assert_stopped(&site, "cleansed.seen", "of_seen").await;
        site.warehouse.batch_execute("drop view cleansed.of_seen").await.unwrap();
        resync(&site, "cleansed.seen").await;
        site.assert_equal("select id, v from {} order by 1", "seen", "cleansed.seen").await;
    });
}

#[test]
fn a_volatile_default_that_was_dropped_again_is_noticed() {
    block_on(async {
        let site = Site::new("volatile").await;
        site.shop("create table t (id int primary key, v text); insert into t select i, 'v' from generate_series(1, 50) i").await;
        site.catch_up().await;
        site.shop_each(&[
            "alter table t add token uuid default gen_random_uuid()",
            "alter table t alter token drop default",
            "update t set v = 'w' where id = 1",
        ])
        .await;
        site.catch_up().await;
        site.assert_equal("select id, v, token from {} order by 1", "t", "cleansed.t").await;
    });
}

#[test]
fn a_declared_table_follows_its_file() {
    block_on(async {
        let site = Site::new("files").await;
        site.shop(
            "create table users (id int primary key, email text not null, country text, age int);
             insert into users select i, 'u' || i, 'DE', i from generate_series(1, 20) i",
        )
        .await;
        let file = |key: &str, from: &str, more: &str| {
            site.file(
                "schemas/users.yaml",
                &format!(
                    "table: cleansed.users\nfrom: shop.public.users\nhistory: overwrite\nkey: [{key}]\n\
                     columns:\n  user_id: {{ from: id, type: bigint }}\n  email: {{ from: {from}, type: text, required: true }}\n{more}"
                ),
            );
        };
        file("user_id", "email", "");
        site.catch_up().await;
        // a new column in the file
        file("user_id", "email", "  age: { type: int }\n");
        site.catch_up().await;
        let same = "select id, email, age from {} order by 1";
        let here = "(select user_id as id, email, age from cleansed.users) u";
        site.assert_equal(same, "users", here).await;
        // a column that the source renamed
        site.shop_each(&[
            "alter table users rename email to mail",
            "update users set mail = 'renamed' where id = 2",
        ])
        .await;
        site.catch_up().await;
        assert_stopped(&site, "cleansed.users", "renamed email to mail").await;
        resync(&site, "cleansed.users").await;
        assert_stopped(&site, "cleansed.users", "renamed email to mail").await;
        file("user_id", "mail", "  age: { type: int }\n");
        resync(&site, "cleansed.users").await;
        let same = same.replace("email", "mail");
        let here = here.replace("email", "email as mail");
        site.assert_equal(&same, "users", &here).await;
        // another key
        site.shop_each(&[
            "begin; alter table users drop constraint users_pkey; alter table users add primary key (mail); commit",
            "update users set id = 200 where mail = 'u3'",
        ])
        .await;
        site.catch_up().await;
        file("email", "mail", "  age: { type: int }\n");
        resync(&site, "cleansed.users").await;
        site.assert_equal(&same, "users", &here).await;
        site.shop("update users set id = 300 where mail = 'u4'").await;
        site.catch_up().await;
        site.assert_equal(&same, "users", &here).await;
        // the table itself is gone
        site.warehouse.batch_execute("drop table cleansed.users").await.unwrap();
        site.shop("update users set age = 5 where mail = 'u4'").await;
        site.catch_up().await;
        assert_stopped(&site, "cleansed.users", "not there").await;
        resync(&site, "cleansed.users").await;
        site.assert_equal(&same, "users", &here).await;
    });
}

#[test]
fn what_the_publication_did_not_tell_is_read_again() {
    block_on(async {
        let site = Site::new("told").await;
        let publication = format!("siltstone_{}", site.name);
        site.shop("create table t (id int primary key, v text, secret text); create table u (id int primary key, v text, secret text);
            insert into t values (1, 'a', 's'); insert into u values (1, 'a', 's')").await;
        site.catch_up().await;
        let found = site.at_source("select pubname from pg_publication").await;
        assert!(found.contains(&publication), "{found:?}");
        // somebody takes a table out, and filters the rows of another
        site.shop_each(&[
            &format!("alter publication {publication} drop table t"),
            &format!("alter publication {publication} set table u where (id < 100)"),
            "insert into t values (2, 'untold', 's')",
            "insert into u values (200, 'untold', 's')",
        ])
        .await;
        site.catch_up().await;
        let all = "select id, v, secret from {} order by 1";
        site.assert_equal(all, "t", "cleansed.t").await;
        site.assert_equal(all, "u", "cleansed.u").await;
        // a column that is excluded from now on, and one that comes while it is told
        site.connector("tables: [\"public.*\"]\ntarget_schema: cleansed\nexclude: [\"public.t.secret\", \"public.u.password\"]\n");
        site.shop("insert into t values (3, 'b', 's')").await;
        site.catch_up().await;
        site.assert_equal("select id, v from {} order by 1", "t", "cleansed.t").await;
        let running = site.start();
        site.until("streaming", "select bool_and(state = 'streaming') from audit.tables").await;
        site.shop_each(&[
            "alter table u add password text",
            "insert into u values (3, 'b', 's', 'hidden')",
            "alter table u add shown text",
            "insert into u values (4, 'b', 's', 'hidden', 'shown')",
        ])
        .await;
        site.until("the row", "select exists (select from cleansed.u where id = 4)").await;
        tokio::time::sleep(Duration::from_secs(6)).await;
        site.shop("insert into u values (5, 'b', 's', 'hidden', 'shown')").await;
        site.until("the row", "select exists (select from cleansed.u where id = 5)").await;
        assert!(running.stop().await.is_ok());
        site.catch_up().await;
        site.assert_equal("select id, v, secret, shown from {} order by 1", "u", "cleansed.u")
            .await;
        let hidden = "select count(*) from information_schema.columns where table_schema = 'cleansed' and column_name = 'password'";
        assert_eq!(site.at_warehouse(hidden).await, ["0"]);
    });
}

#[test]
fn a_change_beyond_the_limit_stops_its_table_alone() {
    block_on(async {
        let site = Site::new("oversized").await;
        site.file(
            "siltstone.yaml",
            "warehouse: { url: \"${WAREHOUSE_URL}\" }\nadmin: { listen: \"127.0.0.1:0\" }\nmax_row_bytes: 1MiB\n",
        );
        site.shop("create table big (id int primary key, v text); create table small (id int primary key, v text); insert into big values (1, 'v')").await;
        site.catch_up().await;
        site.shop_each(&[
            "insert into big select 2, repeat(md5('x'), 100000)",
            "insert into small values (1, 'goes on')",
            "insert into big values (3, 'kept')",
        ])
        .await;
        site.catch_up().await;
        assert_stopped(&site, "cleansed.big", "max_row_bytes").await;
        site.assert_equal("select * from (select id, v from {}) s", "small", "cleansed.small")
            .await;
        resync(&site, "cleansed.big").await;
        site.assert_equal("select id, length(v) from {} order by 1", "big", "cleansed.big").await;
        site.shop("insert into big values (4, 'v')").await;
        site.catch_up().await;
        site.assert_equal("select id, length(v) from {} order by 1", "big", "cleansed.big").await;
    });
}

#[test]
fn emptied_and_filled_in_one_transaction() {
    block_on(async {
        let site = Site::new("emptied").await;
        site.file(
            "schemas/days.yaml",
            "table: cleansed.days\nfrom: shop.public.days\nhistory: overwrite\nkey: [id]\npartition: { by: day, every: day }\n\
             columns:\n  id: { type: int }\n  day: { type: date, required: true }\n  v: { type: text }\n",
        );
        site.file(
            "schemas/hist.yaml",
            "table: cleansed.hist\nfrom: shop.public.hist\nhistory: versions\nkey: [id]\ntrack: [v]\n\
             columns:\n  id: { type: int }\n  v: { type: text }\n",
        );
        site.shop(
            "create table days (id int primary key, day date not null, v text);
             create table hist (id int primary key, v text);
             insert into days select i, date '2024-01-01' + i % 3, 'v' from generate_series(1, 120000) i;
             insert into hist values (1, 'a'), (2, 'b')",
        )
        .await;
        site.catch_up().await;
        // leaves that are not there yet, in the transaction that emptied the table
        site.shop_each(&[
            "begin; insert into days values (200001, '2024-05-01', 'new'); truncate days;
             insert into days select i, date '2024-02-01' + i % 20, 'again' from generate_series(1, 50000) i; commit",
            "begin; insert into hist values (3, 'seen by nobody'); update hist set v = 'nor this' where id = 1;
             truncate hist; insert into hist values (3, 'c'), (1, 'a'), (2, 'other'); update hist set v = 'd' where id = 3; commit",
        ])
        .await;
        site.catch_up().await;
        site.assert_equal("select id, day, v from {} order by 1", "days", "cleansed.days").await;
        let current = "(select id, v from cleansed.hist where is_current) h";
        site.assert_equal("select id, v from {} order by 1", "hist", current).await;
        let versions = "select id, v, is_current from cleansed.hist order by id, valid_from";
        assert_eq!(site.at_warehouse(versions).await, ["1|a|t", "2|b|f", "2|other|t", "3|d|t"]);
        // update, truncate, insert; and a key that comes and goes beside its partition's move
        site.shop_each(&[
            "begin; update hist set v = 'x' where id = 1; truncate hist; insert into hist values (1, 'y'); commit",
            "begin; update days set day = day + 400 where id < 10; delete from days where id in (3, 4);
             insert into days values (3, '2030-01-01', 'back'); update days set id = -id where id = 5; commit",
        ])
        .await;
        site.catch_up().await;
        site.assert_equal("select id, day, v from {} order by 1", "days", "cleansed.days").await;
        site.assert_equal("select id, v from {} order by 1", "hist", current).await;
        let versions =
            "select id, v, is_current from cleansed.hist where id = 1 order by valid_from";
        assert_eq!(site.at_warehouse(versions).await, ["1|a|f", "1|y|t"]);
        let overlaps = "select count(*) from cleansed.hist a join cleansed.hist b on a.id = b.id and a.valid_from < b.valid_from and a.valid_to > b.valid_from";
        assert_eq!(site.at_warehouse(overlaps).await, ["0"]);
    });
}

#[test]
fn columns_that_come_back_or_change_places() {
    block_on(async {
        let site = Site::new("places").await;
        site.shop("create table t (id int primary key, v text, n int); insert into t select i, 'v' || i, i from generate_series(1, 60) i").await;
        site.catch_up().await;
        let steps: &[(&[&str], &str)] = &[
            (
                &[
                    "alter table t add g int generated always as (coalesce(n, 1) * 2) stored",
                    "update t set n = 0 where id = 1",
                    "alter table t alter g drop expression",
                    "update t set g = 7 where id = 2",
                ],
                "id, v, n, g",
            ),
            (
                &[
                    "alter table t drop n",
                    "update t set v = 'dropped' where id = 3",
                    "alter table t add n int",
                    "update t set n = 4 where id = 4",
                ],
                "id, v, n, g",
            ),
            (
                &[
                    "begin; alter table t rename n to m; alter table t add n int default 5; commit",
                    "update t set v = 'both' where id = 5",
                ],
                "id, v, n, m, g",
            ),
            (
                &[
                    "begin; alter table t rename n to x; alter table t rename v to n; alter table t rename x to v; commit",
                    "update t set n = 'swapped' where id = 6",
                ],
                "id, v, n, m, g",
            ),
            (
                &[
                    "begin; alter table t rename m to x; alter table t rename g to m; alter table t rename x to g; commit",
                    "update t set g = 17 where id = 7",
                ],
                "id, v, n, m, g",
            ),
        ];
        let running = site.start();
        for (n, (statements, columns)) in steps.iter().enumerate() {
            site.until("streaming", "select bool_and(state = 'streaming') from audit.tables").await;
            site.shop_each(statements).await;
            let id = 1000 + n;
            site.shop(&format!("insert into t (id) values ({id})")).await;
            site.until(
                &format!("step {n}"),
                &format!("select exists (select from cleansed.t where id = {id}) and (select bool_and(state = 'streaming') from audit.tables)"),
            )
            .await;
            let query = format!("select {columns} from {{}} order by id");
            site.assert_equal(&query, "t", "cleansed.t").await;
        }
        assert!(running.stop().await.is_ok());
    });
}

#[test]
fn a_table_taken_out_of_the_publication_while_it_streams_is_read_again() {
    block_on(async {
        let site = Site::new("taken").await;
        let publication = format!("siltstone_{}", site.name);
        site.shop(
            "create table t (id int primary key, v text); insert into t values (1, 'v');
            create table zero (); create table ours (id int primary key, _seq int)",
        )
        .await;
        site.catch_up().await;
        let running = site.start();
        site.until("streaming", "select bool_and(state = 'streaming') from audit.tables").await;
        site.shop_each(&[
            &format!("alter publication {publication} drop table t"),
            "insert into t values (2, 'untold')",
            "delete from t where id = 1",
        ])
        .await;
        site.until("read again", "select exists (select from cleansed.t where id = 2)").await;
        assert!(running.stop().await.is_ok());
        site.catch_up().await;
        site.assert_equal("select id, v from {} order by id", "t", "cleansed.t").await;
    });
}

#[test]
fn what_a_stopped_table_was_not_told_is_read() {
    block_on(async {
        let site = Site::new("untold").await;
        site.shop("create table t (id int primary key, v text); insert into t select i, 'v' from generate_series(1, 9) i").await;
        site.catch_up().await;
        for state in ["stopped", "catching_up"] {
            site.warehouse
                .batch_execute(&format!("update audit.tables set state = '{state}'"))
                .await
                .unwrap();
            site.shop_each(&[
                &format!("alter publication siltstone_{} drop table t", site.name),
                "delete from t where id = (select min(id) from t)",
                "insert into t select max(id) + 1, 'untold' from t",
            ])
            .await;
            site.catch_up().await;
            if state == "stopped" {
                assert!(
                    site.command(&["table", "resume", "cleansed.t"]).status().unwrap().success()
                );
                site.catch_up().await;
            }
            assert_eq!(site.state("cleansed.t").await[0], "streaming");
            site.assert_equal("select id, v from {} order by id", "public.t", "cleansed.t").await;
        }
    });
}

fn raw(site: &Site, table: &str) {
    let text = format!("table: raw.stg_{table}\nfrom: shop.public.{table}\nlayout: raw\n");
    site.file(&format!("schemas/raw_{table}.yaml"), &text);
}

#[test]
fn a_raw_table_goes_on_behind_a_resync() {
    block_on(async {
        let site = Site::new("rawresync").await;
        raw(&site, "t");
        let create = "create table t (id int primary key, v text); insert into t values (1, 'one'), (2, 'two')";
        site.shop(create).await;
        site.catch_up().await;
        let rows = "select raw_data->>'op', raw_data->'after'->>'id' from raw.stg_t order by id";
        assert_eq!(site.at_warehouse(rows).await, ["r|1", "r|2"]);
        // another table of the same name: it stops, and goes on from the resync
        site.shop_each(&["drop table t", create, "insert into t values (3, 'three')"]).await;
        site.catch_up().await;
        assert_eq!(site.state("raw.stg_t").await[0], "stopped");
        resync(&site, "raw.stg_t").await;
        site.shop("insert into t values (4, 'four')").await;
        site.catch_up().await;
        assert_eq!(site.state("raw.stg_t").await[0], "streaming");
        assert_eq!(site.at_warehouse(rows).await.last().unwrap(), "c|4");
        assert_eq!(site.at_warehouse("select count(*) > 0 from audit.gaps").await, ["t"]);
        // one whose first reading never ended is read
        site.warehouse
            .batch_execute(
                "delete from raw.stg_t; update audit.tables set state = 'stopped';
                 delete from audit.snapshot_chunks;
                 insert into audit.snapshot_chunks (connector, table_name, source_table, state)
                 select connector, table_name, source_table, 'open' from audit.tables",
            )
            .await
            .unwrap();
        resync(&site, "raw.stg_t").await;
        assert_eq!(site.at_warehouse(rows).await.len(), 4);
        assert_eq!(site.state("raw.stg_t").await[0], "streaming");
    });
}

#[test]
fn a_table_of_events_without_key_comes_to_a_busy_source() {
    block_on(async {
        let site = Site::new("latecomer").await;
        site.shop("create table t (id int primary key, v text); create table log (line text)")
            .await;
        site.catch_up().await;
        site.shop_each(&[
            "insert into t values (1, 'before')",
            "insert into log values ('before')",
        ])
        .await;
        site.file(
            "schemas/log.yaml",
            "table: cleansed.log\nfrom: shop.public.log\nhistory: append\ncolumns:\n  line: { type: text }\n",
        );
        site.catch_up().await;
        site.shop("insert into log values ('behind')").await;
        site.catch_up().await;
        site.assert_equal("select line from {} order by 1", "public.log", "cleansed.log").await;
        site.assert_equal("select id, v from {} order by id", "public.t", "cleansed.t").await;
    });
}

#[test]
fn a_declared_column_that_comes_back_is_read() {
    block_on(async {
        let site = Site::new("comesback").await;
        site.file(
            "schemas/t.yaml",
            "table: cleansed.u\nfrom: shop.public.t\nkey: [id]\ncolumns:\n  id: { type: integer }\n  phone: { type: text }\n  note: { type: text, required: true }\n  age: { type: bigint }\n  x: { type: integer }\n",
        );
        site.shop("create table t (id int primary key, phone text not null, note text not null, age int, x int); insert into t select i, 'p' || i, 'n', i, i from generate_series(1, 9) i").await;
        site.catch_up().await;
        let query = "select id, phone, age, x from {} order by id";
        site.assert_equal(query, "public.t", "cleansed.u").await;
        site.shop_each(&[
            "alter table t drop column phone",
            "update t set x = 10 where id = 1",
            "alter table t add column phone text",
            "update t set x = 20 where id = 2",
        ])
        .await;
        site.catch_up().await;
        site.assert_equal(query, "public.t", "cleansed.u").await;
        // a column that the file requires, gone together with what asks for a reading
        site.shop_each(&[
            "alter table t drop column note, alter column age type bigint",
            "update t set x = 30 where id = 3",
        ])
        .await;
        site.catch_up().await;
        assert_eq!(site.state("cleansed.u").await[0], "streaming");
        site.assert_equal(query, "public.t", "cleansed.u").await;
    });
}

#[test]
fn a_default_does_not_bar_the_way_to_another_type() {
    block_on(async {
        let site = Site::new("defaults").await;
        site.shop(
            "create table t (id int primary key); insert into t select generate_series(1, 9)",
        )
        .await;
        site.catch_up().await;
        site.shop_each(&[
            "alter table t add column n text default '7'",
            "insert into t values (10)",
            "alter table t alter n drop default, alter n type int using n::int",
            "insert into t values (11)",
        ])
        .await;
        site.catch_up().await;
        site.assert_equal("select id, n from {} order by id", "public.t", "cleansed.t").await;
    });
}

#[test]
fn partitioned_tables_have_their_indexes_and_keep_when_rows_went() {
    block_on(async {
        let site = Site::new("facts").await;
        site.file(
            "schemas/t.yaml",
            "table: cleansed.f\nfrom: shop.public.t\nkey: [id]\ndelete: soft\npartition: { by: day, every: day, range: [\"2020-01-01\", \"+1y\"] }\nindexes: [[user_id, day]]\ncolumns:\n  id: { type: integer }\n  user_id: { type: integer, required: true }\n  day: { type: date, required: true }\n",
        );
        site.file(
            "schemas/h.yaml",
            "table: cleansed.h\nfrom: shop.public.t\nhistory: versions\nkey: [id]\nindexes: [[user_id]]\ncolumns:\n  id: { type: integer }\n  user_id: { type: integer }\n  day: { type: date }\n",
        );
        site.shop("create table t (id int primary key, user_id int not null, day date not null); insert into t select i, i, '2024-01-01' from generate_series(1, 9) i").await;
        site.catch_up().await;
        let indexes = "select count(*) from pg_indexes where schemaname = 'cleansed' and tablename in ('f', 'h') and indexdef like '%(user_id%'";
        assert_eq!(site.at_warehouse(indexes).await, ["2"]);
        site.shop("delete from t where id = 5").await;
        site.catch_up().await;
        let gone = "select _deleted_at from cleansed.f where id = 5";
        let before = site.at_warehouse(gone).await;
        assert_ne!(before, ["~"]);
        resync(&site, "cleansed.f").await;
        assert_eq!(site.at_warehouse(gone).await, before);
        assert_eq!(site.at_warehouse(indexes).await, ["2"]);
        // kept changes that alter the table and then need leaves
        site.warehouse
            .batch_execute(
                "update audit.tables set state = 'stopped' where table_name = 'cleansed.f'",
            )
            .await
            .unwrap();
        site.shop_each(&[
            "alter table t drop column user_id",
            "insert into t values (10, '2024-02-02'), (11, '2024-02-03')",
        ])
        .await;
        site.catch_up().await;
        assert!(site.command(&["table", "resume", "cleansed.f"]).status().unwrap().success());
        site.catch_up().await;
        assert_eq!(site.state("cleansed.f").await[0], "streaming");
        site.assert_equal(
            "select id, day from {} order by id",
            "public.t",
            "(select * from cleansed.f where _deleted_at is null) f",
        )
        .await;
    });
}
