//! Warehouse tables that somebody else made: which are taken, and what of them stays.

use std::process::Stdio;

use crate::support::{Site, block_on};

const ROWS: &str = "select id, name, price from {} order by id";

async fn site(name: &str, fields: &str, warehouse: &str) -> Site {
    let site = Site::new(name).await;
    site.connector(&format!("tables: [\"public.*\"]\ntarget_schema: cleansed\n{fields}\n"));
    site.shop(
        "create table items (id int primary key, name text, price numeric(10,2));
         insert into items select i, 'item ' || i, i / 4.0 from generate_series(1, 300) i",
    )
    .await;
    site.warehouse.batch_execute(&format!("create schema cleansed; {warehouse}")).await.unwrap();
    site
}

async fn change(site: &Site) {
    site.shop(
        "insert into items values (1001, 'new', 1);
         update items set name = 'changed' where id % 7 = 0;
         update items set id = id + 5000 where id % 11 = 0;
         delete from items where id % 13 = 0",
    )
    .await;
}

async fn verified(site: &Site) {
    let service = site.start();
    let mut verify = site.command(&["verify"]);
    verify.stdout(Stdio::piped()).stderr(Stdio::piped());
    let verify = tokio::task::spawn_blocking(move || verify.output()).await.unwrap().unwrap();
    let said = [verify.stdout, verify.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(verify.status.success() && said.contains("equal"), "{said}");
    service.stop().await.unwrap();
}

async fn refused(site: &Site, why: &str, remedy: &str) {
    let run = ["--log-level", "info", "run", "--until-caught-up"];
    let out = site.command(&run).stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).replace("\\\"", "\"");
    assert!(said.contains(why) && said.contains(remedy), "{said}");
    let known = "select count(*) from audit.tables where table_name = 'cleansed.items'";
    assert_eq!(site.at_warehouse(known).await, ["0"]);
}

#[test]
fn an_empty_table_is_taken_with_what_its_owner_gave_it() {
    block_on(async {
        let site = site(
            "adopt_empty",
            "",
            "create table cleansed.items (
                 id int generated always as identity primary key, name text not null,
                 price numeric(10,2), gross numeric generated always as (price * 1.19) stored,
                 note text default 'none');
             create view cleansed.dear as select * from cleansed.items where price > 50;
             comment on column cleansed.items.price is 'net';
             create index items_by_name on cleansed.items (name)",
        )
        .await;
        let oid = "select 'cleansed.items'::regclass::oid";
        let before = site.at_warehouse(oid).await;
        site.catch_up().await;
        change(&site).await;
        site.catch_up().await;
        site.assert_equal(ROWS, "items", "cleansed.items").await;
        assert_eq!(site.at_warehouse(oid).await, before);
        let kept = "select count(*) filter (where gross is distinct from price * 1.19),
                           count(*) filter (where note is distinct from 'none'),
                           (select count(*) > 0 from cleansed.dear),
                           col_description('cleansed.items'::regclass, 3),
                           (select attidentity from pg_attribute
                             where attrelid = 'cleansed.items'::regclass and attname = 'id')
                      from cleansed.items";
        assert_eq!(site.at_warehouse(kept).await, ["0|0|t|net|a"]);
        verified(&site).await;
    });
}

#[test]
fn a_column_that_the_warehouse_computes_is_left_to_it() {
    block_on(async {
        let site = site(
            "adopt_generated",
            "",
            "create table cleansed.items (
                 id int primary key, price numeric(10,2),
                 name text generated always as ('no. ' || id::text) stored)",
        )
        .await;
        site.catch_up().await;
        change(&site).await;
        site.catch_up().await;
        site.assert_equal("select id, price from {} order by id", "items", "cleansed.items").await;
        let other = "select count(*) from cleansed.items where name <> 'no. ' || id";
        assert_eq!(site.at_warehouse(other).await, ["0"]);
        verified(&site).await;
    });
}

#[test]
fn tables_of_each_kind_are_taken_empty() {
    block_on(async {
        let site = site(
            "adopt_kinds",
            "",
            "create schema raw;
             create table raw.items (id bigserial, raw_data jsonb not null,
                 loaded_at timestamptz not null default now(), source_system varchar(50) not null,
                 load_id varchar(50) not null, created_at timestamptz not null default now(),
                 primary key (id, loaded_at)) partition by range (loaded_at);
             create table cleansed.events (id int not null, name text not null, price numeric);
             create table cleansed.facts (id int, day date not null, v text) partition by range (day);
             create table cleansed.bag (v text)",
        )
        .await;
        site.shop(
            "create table facts (id int primary key, day date not null, v text);
             insert into facts select i, date '2024-01-01' + i % 40, 'v' from generate_series(1, 200) i;
             create table bag (v text); alter table bag replica identity full;
             insert into bag select i % 5 from generate_series(1, 50) i",
        )
        .await;
        site.file("schemas/raw.yaml", "table: raw.items\nfrom: shop.public.items\nlayout: raw\n");
        site.file(
            "schemas/events.yaml",
            "table: cleansed.events\nfrom: shop.public.items\nhistory: append\nkey: [id]\n\
             columns:\n  id: { type: integer }\n  name: { type: text }\n  price: { type: numeric }\n",
        );
        site.file(
            "schemas/facts.yaml",
            "table: cleansed.facts\nfrom: shop.public.facts\nkey: [id]\n\
             partition: { by: day, every: month, range: [\"2023-01-01\", \"2025-12-31\"] }\n\
             columns:\n  id: { type: integer }\n  day: { type: date, required: true }\n  v: { type: text }\n",
        );
        site.catch_up().await;
        change(&site).await;
        site.shop(
            "update facts set day = day + 40 where id % 3 = 0; delete from facts where id % 5 = 0;
             delete from bag where v = '3'; insert into bag values (null), ('x')",
        )
        .await;
        site.catch_up().await;
        site.assert_equal(
            "select * from (select id, day, v from {}) t order by id",
            "facts",
            "cleansed.facts",
        )
        .await;
        site.assert_equal(
            "select v, count(*) from {} group by v order by v",
            "bag",
            "cleansed.bag",
        )
        .await;
        let deleted = "select count(*) from cleansed.events where _op = 'd'";
        assert_eq!(
            site.at_warehouse(deleted).await,
            site.at_warehouse("select count(*) from raw.items where raw_data->>'op' = 'd'").await
        );
        verified(&site).await;
    });
}

#[test]
fn rows_of_somebody_else_are_trusted_only_by_word() {
    block_on(async {
        let site = site(
            "adopt_rows",
            "",
            "create table cleansed.items (id int primary key, name text, price numeric(10,2));
             insert into cleansed.items values (1, 'item 1', 0.25), (2, 'stale', 9), (9000, 'gone', 1);
             create view cleansed.names as select name from cleansed.items",
        )
        .await;
        let before = site.at_warehouse("select * from cleansed.items order by id").await;
        refused(&site, "with rows that are not ours", "adopt: trust").await;
        assert_eq!(site.at_warehouse("select * from cleansed.items order by id").await, before);
        site.connector("tables: [\"public.*\"]\ntarget_schema: cleansed\nadopt: trust\n");
        site.catch_up().await;
        site.assert_equal(ROWS, "items", "cleansed.items").await;
        change(&site).await;
        site.catch_up().await;
        site.assert_equal(ROWS, "items", "cleansed.items").await;
        assert_eq!(
            site.at_warehouse("select count(*) from cleansed.names").await,
            site.at_source("select count(*) from items").await
        );
        verified(&site).await;
    });
}

#[test]
fn without_a_snapshot_trusted_rows_are_where_the_stream_goes_on() {
    block_on(async {
        let site = site(
            "adopt_none",
            "adopt: trust\nsnapshot: { mode: none }",
            "create table cleansed.items (id int, name text, price numeric(10,2));
             insert into cleansed.items
             select i, 'item ' || i, i / 4.0 from generate_series(1, 300) i",
        )
        .await;
        site.catch_up().await;
        change(&site).await;
        site.catch_up().await;
        site.assert_equal(ROWS, "items", "cleansed.items").await;
        verified(&site).await;
    });
}

#[test]
fn what_stands_in_the_way_is_named_with_its_statement() {
    block_on(async {
        let columns = "id int primary key, name text, price numeric(10,2)";
        let cases = [
            ("create view cleansed.items as select 1 as id".to_owned(), "a view", "rename to"),
            (
                format!("create table cleansed.items ({columns}, unique (name))"),
                "items_name_key would refuse rows",
                "alter table \"cleansed\".\"items\" drop constraint \"items_name_key\"",
            ),
            (
                format!(
                    "create table cleansed.names (name text primary key);
                     create table cleansed.items ({columns}, foreign key (name) references cleansed.names)"
                ),
                "foreign key items_name_fkey",
                "alter table \"cleansed\".\"items\" drop constraint \"items_name_fkey\"",
            ),
            (
                format!(
                    "create table cleansed.items ({columns}); create table cleansed.orders
                     (item int references cleansed.items)"
                ),
                "foreign key orders_item_fkey",
                "alter table \"cleansed\".\"orders\" drop constraint \"orders_item_fkey\"",
            ),
            (
                "create table cleansed.items (id int primary key, name text,
                                              price int generated always as identity)"
                    .to_owned(),
                "its column price is generated always",
                "set generated by default",
            ),
        ];
        for (n, (warehouse, why, remedy)) in cases.into_iter().enumerate() {
            let site = site(&format!("adopt_way_{n}"), "", &warehouse).await;
            refused(&site, why, remedy).await;
        }
    });
}

/// Somebody reads one table for hours, and has another one for himself: each is adopted when it is free, and what
/// came for it meanwhile is kept.
#[test]
fn a_table_that_is_locked_as_it_is_adopted_waits_alone() {
    block_on(async {
        for (name, fields) in [
            ("adopt_locked", "adopt: trust"),
            ("adopt_kept", "adopt: trust\nsnapshot: { mode: none }"),
        ] {
            let made = "create table cleansed.items as
                   select i as id, 'item ' || i as name, (i / 4.0)::numeric(10,2) as price
                     from generate_series(1, 300) i;
                 alter table cleansed.items add primary key (id);
                 create table cleansed.alone (id int primary key); insert into cleansed.alone values (1)";
            let site = site(name, fields, made).await;
            site.shop("create table alone (id int primary key); insert into alone values (1); create table other (id int primary key)")
                .await;
            let (reader, owner) = (site.another_session().await, site.another_session().await);
            reader.batch_execute("begin; select from cleansed.items").await.unwrap();
            owner.batch_execute("begin; lock table cleansed.alone").await.unwrap();
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            let running = site.start();
            let wait =
                "select count(*) = 2 and bool_and(reason like '%(another test)') from audit.tables
                         where state = 'stopped' and hold = 'locked' and not made";
            site.until("both wait", wait).await;
            // what is not read comes from there on
            site.until("its stream begins", "select count(*) = 1 from audit.progress").await;
            site.shop("insert into other values (1)").await;
            site.until("the other flows", "select exists (select from cleansed.other)").await;
            change(&site).await;
            site.shop("insert into alone values (2)").await;
            owner.batch_execute("commit").await.unwrap();
            let streams =
                "select count(*) = 2 from audit.tables where state = 'streaming' and made";
            site.until("one goes on", streams).await;
            site.assert_equal("select id from {} order by id", "alone", "cleansed.alone").await;
            // behind a restart it waits again
            assert!(running.stop().await.is_ok());
            let running = site.start();
            site.shop("insert into other values (2)").await;
            site.until("the others flow", "select count(*) = 2 from cleansed.other").await;
            assert_eq!(site.state("cleansed.items").await[0], "stopped");
            reader.batch_execute("commit").await.unwrap();
            let streams = "select count(*) = 3 and bool_and(made and hold is null) from audit.tables where state = 'streaming'";
            site.until("all go on", streams).await;
            site.assert_equal(ROWS, "items", "cleansed.items").await;
            assert!(running.stop().await.is_ok());
        }
    });
}
