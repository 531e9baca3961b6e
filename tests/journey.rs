//! Changes from a live Postgres to the warehouse, end to end.

use std::time::Duration;

use siltstone::demo::shop::{self, ShopOptions};
use siltstone::demo::traffic::Traffic;

use crate::support::{Site, block_on, cluster_of, env, is_full};

const USERS: &str = "create table users (id bigint primary key, email text not null, country text, bio text);
    alter table users alter bio set storage external;
    insert into users select i, 'u' || i, 'DE', repeat('x', 3000) || i from generate_series(1, 200) i";

const DIM_USERS: &str = "
table: cleansed.dim_users
from: shop.public.users
history: versions
key: [user_id]
track: [email, country]
columns:
  user_id: { from: id, type: bigint }
  email:   { type: varchar(255), required: true }
  country: { type: varchar(100) }
  bio:     { type: text }
";

#[test]
fn every_type_arrives_as_it_is() {
    block_on(async {
        let site = Site::new("types").await;
        let columns = "b bool, i2 int2, i4 int4, i8 int8, f4 float4, f8 float8, n numeric, n2 numeric(10,2),
            t text, v varchar(20), c char(5), by bytea, d date, ti time, tz timetz, ts timestamp,
            tsz timestamptz, iv interval, u uuid, j json, jb jsonb, ia int4[], ta text[], na numeric[],
            ip inet, ci cidr, m macaddr, bi bit(5), vb varbit, x xml, oi oid";
        let rows = "(1, true, -32768, -2147483648, -9223372036854775808, 'NaN', '-Infinity', 'NaN', 1.10,
              '', 'v', 'c', '\\xdead', '0044-03-15 BC', '24:00:00', '12:00:00.000001+15:59', '-infinity',
              'infinity', '-1 year 2 mons -3 days 04:05:06.789', '00000000-0000-0000-0000-000000000000',
              '{\"a\":  1}', '{\"b\": null}', '{{1,NULL},{3,4}}', '{\"a b\",NULL,\"\"}', '{1.0,NaN}',
              '::1/64', '10.0.0.0/8', '08:00:2b:01:02:03', '10101', '1', '<a/>', 4294967295),
            (2, false, 0, 0, 0, 1.5e-45, 1e308, 12345678901234567890.123456789, -0.01, E'\\\\t\\n\"''', 'ü',
              'é', '', '5874897-12-31', '00:00', '00:00-15:59', '294276-12-31 23:59:59.999999',
              '4713-01-01 00:00:00+00 BC', '0', 'ffffffff-ffff-ffff-ffff-ffffffffffff', 'null', '\"\\u00fc\"',
              '{}', '{}', '{}', '192.168.1.1', '::/0', 'ff:ff:ff:ff:ff:ff', '00000', '', NULL, 0),
            (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
              NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)";
        site.shop(&format!("create table every (id int primary key, {columns})")).await;
        site.shop(&format!("insert into every values {rows}")).await;
        site.catch_up().await;
        let all = "select x::text from (select id, b, i2, i4, i8, f4, f8, n, n2, t, v, c, by, d, ti, tz, ts, \
            tsz, iv, u, j, jb, ia, ta, na, ip, ci, m, bi, vb, x::text, oi from {}) x order by id";
        site.assert_equal(all, "public.every", "cleansed.every").await;
        site.shop("update every set id = id + 100").await;
        site.catch_up().await;
        site.assert_equal(all, "public.every", "cleansed.every").await;
        // a composite has no binary form that we list: with it the connector speaks text
        site.shop("create type pair as (a int, b text); create type mood as enum ('sad', 'ok');
            create domain cents as int check (value >= 0);
            create table odd (id int primary key, p pair, m mood, ms mood[], c cents, r int4range);
            insert into odd values (1, '(1,\"x y\")', 'ok', '{sad,ok}', 5, '[1,5)'), (2, null, null, null, null, null)").await;
        site.catch_up().await;
        site.shop("update every set i4 = i4 where i4 is not null; update odd set c = 6").await;
        site.catch_up().await;
        site.assert_equal(all, "public.every", "cleansed.every").await;
        site.assert_equal("select o::text from {} o where false", "public.odd", "cleansed.odd")
            .await;
        let odd = "select id, p::text, m::text, ms::text, c, r::text from {} order by id";
        site.assert_equal(odd, "public.odd", "cleansed.odd").await;
    });
}

#[test]
fn changes_of_every_kind_are_merged() {
    block_on(async {
        let site = Site::new("changes").await;
        site.shop(USERS).await;
        site.shop(
            "create table plain (a int, b text); alter table plain replica identity full;
            insert into plain select i % 3, 'x' from generate_series(1, 30) i;
            create table pairs (a int, b text, v text, primary key (a, b));
            insert into pairs values (1, 'x', 'one'), (2, 'y', 'two')",
        )
        .await;
        site.catch_up().await;
        let running = site.start();
        site.shop(
            "update users set bio = 'short' where id <= 10;
            update users set country = null where id = 11;
            delete from users where id between 20 and 30;
            insert into users values (25, 'again', '', null)",
        )
        .await;
        // a permutation of keys in one transaction, the long column untouched
        site.shop(
            "begin; update users set id = -1 where id = 1; update users set id = 1 where id = 2;
            update users set id = 2 where id = -1; commit",
        )
        .await;
        site.shop("begin; update users set email = 'gone'; savepoint s; delete from users; rollback to s; rollback").await;
        site.shop(
            "delete from plain where ctid in (select ctid from plain where a = 1 limit 4);
            update plain set b = 'y' where ctid in (select ctid from plain where a = 2 limit 3);
            insert into plain values (9, null), (9, null)",
        )
        .await;
        site.shop("begin; truncate pairs; insert into pairs values (3, 'z', 'three'); commit")
            .await;
        assert!(running.stop().await.is_ok());
        site.catch_up().await;
        let users = "select id, email, country, bio from {} order by id";
        site.assert_equal(users, "public.users", "cleansed.users").await;
        let plain = "select a, b, count(*) from {} group by 1, 2 order by 1, 2";
        site.assert_equal(plain, "public.plain", "cleansed.plain").await;
        let pairs = "select a, b, v from {} order by 1, 2";
        site.assert_equal(pairs, "public.pairs", "cleansed.pairs").await;
    });
}

#[test]
fn versions_follow_every_commit() {
    block_on(async { versions(Site::new("versions").await).await });
}

#[test]
fn versions_follow_every_commit_on_postgres_18() {
    block_on(async {
        let cluster = cluster_of("eighteen", Some(18)).await;
        versions(Site::on("eighteen", &cluster, &cluster).await).await;
    });
}

async fn versions(site: Site) {
    site.file("schemas/dim_users.yaml", DIM_USERS);
    site.shop(USERS).await;
    site.catch_up().await;
    site.shop_each(&[
        "update users set country = 'AT' where id = 1",
        "update users set country = 'CH' where id = 1",
        "update users set bio = 'untracked' where id = 2",
        "begin; update users set country = 'IT' where id = 3; \
         update users set country = 'FR' where id = 3; commit",
        "delete from users where id = 4",
        "insert into users values (4, 'back', 'DE', null)",
        "update users set country = 'DE' where id = 5",
        "update users set country = null where id = 6",
        "delete from users where id = 7",
    ])
    .await;
    site.catch_up().await;
    let versions = "select user_id, string_agg(coalesce(country, '~') || case when is_current then '*' else '' end, ' ' order by valid_from) \
        from cleansed.dim_users where user_id <= 7 group by 1 order by 1";
    let expected = ["1|DE AT CH*", "2|DE*", "3|DE FR*", "4|DE DE*", "5|DE*", "6|DE ~*", "7|DE"];
    assert_eq!(site.at_warehouse(versions).await, expected);
    let current = "select {} order by 1";
    site.assert_equal(
        current,
        "id, email, country, bio from public.users",
        "user_id, email, country, bio from cleansed.dim_users_current",
    )
    .await;
    // emptied and filled again in one transaction: nobody could see it empty
    let history =
        "select user_id, country, valid_from, valid_to from cleansed.dim_users order by 1, 3";
    let before = site.at_warehouse(history).await;
    site.shop(
        "begin; create temp table kept as select * from users; truncate users; \
         insert into users select * from kept; commit; drop table kept",
    )
    .await;
    site.catch_up().await;
    assert_eq!(site.at_warehouse(history).await, before);
}

#[test]
fn a_large_transaction_is_one_for_readers_and_small_ones_commit_beside_it() {
    block_on(async {
        let site = Site::new("large").await;
        site.file(
            "siltstone.yaml",
            "warehouse: { url: \"${WAREHOUSE_URL}\" }\nbatch: { max_rows: 1000 }\n\
             admin: { listen: \"127.0.0.1:0\" }\n",
        );
        site.shop("create table a (id int primary key, v int not null); create table b (id int primary key, v int not null);
            insert into a select i, 1 from generate_series(1, 5000) i; insert into b select i, -1 from generate_series(1, 5000) i").await;
        site.catch_up().await;
        let running = site.start();
        for round in 1..=3 {
            // every commit keeps the sum of both tables at zero
            site.shop("begin; update a set v = v + 1; update b set v = v - 1; commit;").await;
            for n in 1..=20 {
                site.shop(&format!(
                    "begin; insert into a values ({round}00000 + {n}, {n});
                    insert into b values ({round}00000 + {n}, -{n}); commit"
                ))
                .await;
                let sum = site
                    .at_warehouse(
                        "select (select sum(v) from cleansed.a) + (select sum(v) from cleansed.b)",
                    )
                    .await;
                assert_eq!(sum, ["0"], "a reader saw a part of a transaction");
            }
        }
        assert!(running.stop().await.is_ok());
        site.catch_up().await;
        site.assert_equal("select id, v from {} order by id", "public.a", "cleansed.a").await;
        site.assert_equal("select id, v from {} order by id", "public.b", "cleansed.b").await;
    });
}

#[test]
fn the_shop_is_replicated_under_its_traffic() {
    block_on(async {
        let site = Site::new("shop").await;
        site.default_files();
        let options = ShopOptions { rows: 5_000, ..ShopOptions::on_day(env().today()) };
        shop::fill(&site.source_endpoint, options).await.unwrap();
        let running = site.start();
        let traffic = Traffic::start(site.source_endpoint.clone(), 300, 7);
        tokio::time::sleep(Duration::from_secs(if is_full() { 60 } else { 8 })).await;
        let counts = traffic.stop().await.unwrap();
        assert!(counts.changes > 100);
        assert!(running.stop().await.is_ok());
        site.catch_up().await;
        for (source, warehouse) in [
            (
                "id, email, full_name, date_of_birth, country, subscription_tier from users",
                "user_id, email, full_name, date_of_birth, country, subscription_tier \
                 from cleansed.dim_users where is_current",
            ),
            (
                "id, sku, product_name, category, price from products",
                "product_id, sku, product_name, category, price from cleansed.dim_products",
            ),
            (
                "id, user_id, product_id, order_date, quantity, total_amount from orders",
                "order_id, user_id, product_id, order_date, quantity, total_amount \
                 from cleansed.fact_orders",
            ),
            (
                "id, order_id, payment_date, amount from payments",
                "payment_id, order_id, payment_date, amount from cleansed.fact_payments",
            ),
        ] {
            site.assert_equal("select {} order by 1", source, warehouse).await;
        }
    });
}

#[test]
fn a_table_that_was_not_fed_for_a_time_is_read_again() {
    block_on(async {
        let site = Site::new("shelved").await;
        site.shop(USERS).await;
        site.catch_up().await;
        // a file takes the source table over: the mirrored one stays as it is
        site.file("schemas/dim_users.yaml", DIM_USERS);
        site.shop("update users set country = 'AT' where id <= 3").await;
        site.catch_up().await;
        assert_eq!(site.state("cleansed.users").await[0], "paused");
        let current = "select count(*) from cleansed.dim_users_current where country = 'AT'";
        assert_eq!(site.at_warehouse(current).await, ["3"]);
        // and takes up what it missed when the file is gone
        site.remove("schemas/dim_users.yaml");
        site.shop("delete from users where id = 4").await;
        site.catch_up().await;
        let users = "select id, email, country, bio from {} order by id";
        site.assert_equal(users, "public.users", "cleansed.users").await;
        assert_eq!(site.state("cleansed.dim_users").await[0], "paused");
    });
}
