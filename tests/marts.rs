//! Marts: whatever happens to the tables they read, they have what a full rebuild would have.

use std::process::Stdio;

use siltstone::postgres::{Side, connect};
use siltstone::refresh::{Verdict, verify};

use crate::support::{Dice, Site, block_on, is_full};

pub const TABLES: &str = "create table users (id bigint primary key, email text not null, country text);
    create table products (id bigint primary key, name text not null, category text);
    create table orders (id bigint primary key, user_id bigint not null, product_id bigint not null,
                         day date not null, amount numeric(10,2), status text not null default 'placed');
    create table marker (id bigint primary key)";

const COUNTRIES: [&str; 4] = ["'DE'", "'AT'", "'FR'", "null"];
const CATEGORIES: [&str; 4] = ["'books'", "'toys'", "'food'", "null"];

/// The reference warehouse in small, and marts of every kind over it.
pub fn files(site: &Site) {
    let file = |name: &str, text: &str| site.file(name, text);
    file(
        "schemas/dim_users.yaml",
        "table: cleansed.dim_users\nfrom: shop.public.users\nhistory: versions\nkey: [user_id]\n\
         columns:\n  user_id: { from: id, type: bigint }\n  email: { type: text }\n  country: { type: text }\n",
    );
    file(
        "schemas/dim_products.yaml",
        "table: cleansed.dim_products\nfrom: shop.public.products\nkey: [product_id]\n\
         columns:\n  product_id: { from: id, type: bigint }\n  name: { type: text }\n  category: { type: text }\n",
    );
    file(
        "schemas/fact_orders.yaml",
        "table: cleansed.fact_orders\nfrom: shop.public.orders\nkey: [order_id]\n\
         partition: { by: order_date, every: month, range: [\"2020-01-01\", \"+1y\"] }\n\
         indexes: [[user_id], [product_id]]\n\
         columns:\n  order_id: { from: id, type: bigint }\n  user_id: { type: bigint }\n  \
         product_id: { type: bigint }\n  order_date: { from: day, type: date, required: true }\n  \
         amount: { type: \"numeric(10,2)\" }\n  status: { type: text }\n",
    );
    let joined = "from cleansed.fact_orders o left join cleansed.dim_products p using (product_id) \
                  left join cleansed.dim_users u on u.user_id = o.user_id and u.is_current";
    let sales = "table: mart.sales\nkey: [day, category, country]\nrefresh_by: day\nmax_age: 1s\nreads:\n  \
        cleansed.fact_orders: { touches: \"select order_date from changed\" }\n  \
        cleansed.dim_products: { when: [category], touches: \"select o.order_date from cleansed.fact_orders o join changed c using (product_id)\" }\n  \
        cleansed.dim_users: { when: [country], touches: \"select o.order_date from cleansed.fact_orders o join changed c using (user_id)\" }\n";
    file(
        "sql/marts/sales.sql",
        &format!(
            "/* siltstone\n{sales}*/\nselect o.order_date as day, coalesce(p.category, 'unknown') as category, \
             coalesce(u.country, 'unknown') as country, count(*) as orders, sum(o.amount)::numeric(15,2) as revenue, \
             count(distinct o.user_id) as customers {joined} group by 1, 2, 3\n"
        ),
    );
    // its group is NULL for some, and belongs to no table that owns it: touches go through the join
    file(
        "sql/marts/countries.sql",
        "/* siltstone\ntable: mart.countries\nkey: [country]\nrefresh_by: country\nmax_age: 1s\nreads:\n  \
         cleansed.dim_users: { when: [country], touches: \"select country from changed\" }\n  \
         cleansed.fact_orders: { touches: \"select u.country from cleansed.dim_users u join changed c using (user_id) where u.is_current\" }\n*/\n\
         select u.country, count(distinct u.user_id) as users, count(o.order_id) as orders, sum(o.amount) as revenue \
         from cleansed.dim_users u left join cleansed.fact_orders o using (user_id) where u.is_current group by 1\n",
    );
    // a window over days
    file(
        "sql/marts/journeys.sql",
        "/* siltstone\ntable: mart.journeys\nkey: [user_id, order_id]\nrefresh_by: user_id\nmax_age: 1s\nreads:\n  \
         cleansed.fact_orders: { touches: \"select user_id from changed\" }\n\
         today:\n  age: current_date - m.order_date\n*/\n\
         select user_id, order_id, order_date, \
         sum(amount) over (partition by user_id order by order_date, order_id) as spent, \
         order_date - lag(order_date) over (partition by user_id order by order_date, order_id) as pause \
         from cleansed.fact_orders;\n",
    );
    file(
        "sql/marts/stock.sql",
        "/* siltstone\ntable: mart.stock\nkey: [product_id]\nmaterialized: true\nmax_age: 1s\nreads:\n  \
         cleansed.dim_products: {}\n  cleansed.fact_orders: { when: [product_id, amount] }\n*/\n\
         select p.product_id, p.name, count(o.order_id) as orders, sum(o.amount) as revenue \
         from cleansed.dim_products p left join cleansed.fact_orders o using (product_id) group by 1, 2\n",
    );
}

const FRESH: &str = "select count(*) = 4 and bool_and(state = 'fresh') from audit.marts";
const QUIET: &str =
    "select not exists (select from audit.touched) and not exists (select from audit.stale_groups)";

/// Waits until a query at the warehouse answers `true`; says how the marts stand where it does not.
pub async fn until(site: &Site, what: &str, query: &str) {
    for _ in 0..900 {
        let answer = site.warehouse.query_one(query, &[]).await;
        if answer.is_ok_and(|row| row.get(0)) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let marts = site.at_warehouse("select m from audit.marts m").await;
    let marks = site
        .at_warehouse(
            "select mart, input, count(*), min(row::text) from audit.touched group by 1, 2",
        )
        .await;
    let groups =
        site.at_warehouse("select mart, count(*) from audit.stale_groups group by 1").await;
    panic!("{what}: not within 45 s; {marts:#?} {marks:#?} {groups:#?}");
}

/// Waits until what the source has is in the warehouse and in the marts.
async fn settled(site: &Site, mark: u64) {
    site.shop(&format!("insert into marker values ({mark})")).await;
    until(
        site,
        "the stream",
        &format!("select exists (select from cleansed.marker where id = {mark})"),
    )
    .await;
    until(site, "the marts", QUIET).await;
    until(site, "the marts' states", FRESH).await;
}

/// Compares each mart with its own query, without the service's help.
pub async fn assert_rebuilt(site: &Site, what: &str) {
    for mart in site.spec().marts {
        let (table, query) = (mart.table.to_string(), &mart.query);
        let held = format!("select row(m.*)::text from {table} m");
        let fresh = format!("select row(m.*)::text from ({query}) m");
        let differing = format!(
            "(select 'surplus ' || x.* from (({held}) except all ({fresh})) x) union all \
             (select 'missing ' || x.* from (({fresh}) except all ({held})) x)"
        );
        let found = site.at_warehouse(&differing).await;
        assert!(found.is_empty(), "{what}: {table} differs: {found:#?}");
    }
}

/// A transaction of a shop that has seen everything.
fn transaction(dice: &mut Dice, next: &mut u64) -> String {
    let mut statements = Vec::new();
    for _ in 0..1 + dice.below(6) {
        let (user, product) = (dice.below(25), dice.below(12));
        let some_order = 1 + dice.below((*next).max(1));
        let day = format!("date '2024-01-01' + {}", dice.below(90));
        let country = COUNTRIES[usize::try_from(dice.below(4)).unwrap()];
        let category = CATEGORIES[usize::try_from(dice.below(4)).unwrap()];
        statements.push(match dice.below(16) {
            0..=5 => {
                *next += 1;
                format!(
                    "insert into orders values ({next}, {user}, {product}, {day}, {}.5) on conflict do nothing",
                    dice.below(100)
                )
            }
            6 => format!("update orders set day = {day} where id = {some_order}"),
            7 => format!("update orders set amount = amount + 1, user_id = {user} where id = {some_order}"),
            8 => format!("update orders set product_id = {product} where id % 17 = {}", dice.below(17)),
            9 => format!("delete from orders where id = {some_order}"),
            10 => format!("update orders set id = id + 100000 where id = {some_order} and not exists (select from orders where id = {some_order} + 100000)"),
            11 => format!("insert into users values ({user}, 'u{user}', {country}) on conflict (id) do update set country = excluded.country"),
            12 => format!("update users set email = email || 'x' where id = {user}; update products set category = {category} where id = {product}"),
            13 => format!("insert into products values ({product}, 'p{product}', {category}) on conflict (id) do update set category = excluded.category"),
            14 => format!("delete from users where id = {user}; delete from products where id = {product} and {}", dice.one_in(2)),
            _ if dice.one_in(12) => "truncate orders".to_owned(),
            _ if dice.one_in(12) => "truncate users".to_owned(),
            _ => format!("update users set id = id + 100 where id = {user} and not exists (select from users where id = {user} + 100); update users set country = {country} where id % 5 = {}", user % 5),
        });
    }
    format!(
        "begin; {}; {}",
        statements.join("; "),
        if dice.one_in(10) { "rollback" } else { "commit" }
    )
}

#[test]
fn after_any_history_a_mart_is_what_a_full_rebuild_is() {
    block_on(async {
        for seed in 1..=if is_full() { 12 } else { 2 } {
            let site = Site::new("marts_history").await;
            files(&site);
            site.shop(TABLES).await;
            let mut dice = Dice::new(seed);
            let mut next = 0;
            for _ in 0..60 {
                site.shop(&transaction(&mut dice, &mut next)).await;
            }
            let mut service = site.start();
            until(&site, "the marts", FRESH).await;
            let spec = site.spec();
            let mut looker =
                connect(Side::Warehouse, &spec.settings.warehouse, "looker").await.unwrap();
            for round in 0..4 {
                for _ in 0..70 {
                    site.shop(&transaction(&mut dice, &mut next)).await;
                    if dice.one_in(25) {
                        // in the middle of whatever it does
                        site.at_warehouse(
                            "select pg_terminate_backend(pid) from pg_stat_activity \
                             where datname = current_database() and application_name like 'siltstone mart %'",
                        )
                        .await;
                    }
                    if dice.one_in(30) {
                        for mart in &spec.marts {
                            let verdict = verify(&mut looker, mart).await.unwrap();
                            assert!(
                                !matches!(verdict, Verdict::Differs(_)),
                                "{}: {verdict:?}",
                                mart.table
                            );
                        }
                    }
                }
                if round == 2 {
                    // what happens while nobody looks is marked all the same
                    service.stop().await.unwrap();
                    for _ in 0..40 {
                        site.shop(&transaction(&mut dice, &mut next)).await;
                    }
                    service = site.start();
                }
                settled(&site, seed * 100 + round).await;
                assert_rebuilt(&site, &format!("seed {seed}, round {round}")).await;
            }
            for mart in &spec.marts {
                let verdict = verify(&mut looker, mart).await.unwrap();
                assert!(
                    matches!(verdict, Verdict::Equal { pending: 0, .. }),
                    "{}: {verdict:?}",
                    mart.table
                );
            }
            service.stop().await.unwrap();
        }
    });
}

#[test]
fn a_mart_writes_what_differs_and_no_more() {
    block_on(async {
        let site = Site::new("marts_difference").await;
        files(&site);
        site.shop(TABLES).await;
        site.shop(
            "insert into users select i, 'u', (array['DE','AT',null])[1 + i % 3] from generate_series(1, 30) i;
             insert into products select i, 'p', 'books' from generate_series(1, 5) i;
             insert into orders select i, 1 + i % 30, 1 + i % 5, date '2024-01-01' + i % 60, i from generate_series(1, 3000) i",
        )
        .await;
        let service = site.start();
        // a table may be there, and its marts fresh, before its rows are read
        let read = "select count(*) = 3000 from cleansed.fact_orders";
        until(&site, "the orders", read).await;
        until(&site, "the marts", FRESH).await;
        settled(&site, 1).await;
        let places = "select ctid, xmin, m.* from mart.sales m order by day, category, country";
        let before = site.at_warehouse(places).await;
        site.shop("update orders set amount = amount + 1 where id = 60").await;
        // no column that a mart compares, and a version of its own all the same
        site.shop("update users set email = 'other'").await;
        settled(&site, 2).await;
        assert_rebuilt(&site, "one order").await;
        let after = site.at_warehouse(places).await;
        let changed = before.iter().zip(&after).filter(|(a, b)| a != b).count();
        assert_eq!((before.len(), changed), (after.len(), 1), "rows written");
        // two dimensions that move in one transaction
        site.shop("begin; update products set category = 'toys' where id = 2; update users set country = 'FR' where id % 2 = 0; commit").await;
        settled(&site, 3).await;
        assert_rebuilt(&site, "two dimensions").await;
        // all groups at once, NULL among them
        site.shop("update users set country = null").await;
        settled(&site, 4).await;
        assert_rebuilt(&site, "one group").await;
        assert_eq!(
            site.at_warehouse("select count(*), count(country) from mart.countries").await,
            ["1|0"]
        );
        let today = "select bool_and(age = current_date - order_date) from mart.journeys_today";
        assert_eq!(site.at_warehouse(today).await, ["t"]);
        site.shop("truncate orders").await;
        settled(&site, 5).await;
        assert_rebuilt(&site, "nothing").await;
        assert_eq!(site.at_warehouse("select count(*) from mart.sales").await, ["0"]);
        service.stop().await.unwrap();
    });
}

#[test]
fn a_mart_that_was_tampered_with_is_found_and_mended() {
    block_on(async {
        let site = Site::new("marts_verify").await;
        files(&site);
        site.shop(TABLES).await;
        site.shop(
            "insert into users values (1, 'u', 'DE'); insert into products values (1, 'p', 'books');
             insert into orders select i, 1, 1, date '2024-01-01' + i % 3, i from generate_series(1, 30) i",
        )
        .await;
        // ends when the marts are fresh as well
        site.catch_up().await;
        assert_rebuilt(&site, "caught up").await;
        let run = |arguments: &[&str]| {
            let output = site
                .command(arguments)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            (output.status.code(), said + &String::from_utf8_lossy(&output.stderr))
        };
        assert_eq!(run(&["mart", "verify"]).0, Some(0));
        site.at_warehouse("update mart.sales set orders = orders + 1 where day = '2024-01-02'")
            .await;
        site.at_warehouse("delete from mart.journeys where order_id = 7").await;
        let (code, said) = run(&["mart", "verify"]);
        assert_eq!(code, Some(65), "{said}");
        assert!(
            said.contains("mart.sales: differs") && said.contains("mart.journeys: differs"),
            "{said}"
        );
        assert!(said.contains("mart.countries: equal, 1 rows"), "{said}");
        let service = site.start();
        let (code, said) = run(&["mart", "refresh", "--wait"]);
        assert_eq!(code, Some(0), "{said}");
        let (code, said) = run(&["mart", "verify"]);
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(run(&["mart", "verify", "mart.nothing"]).0, Some(64));
        let (_, said) = run(&["mart", "list"]);
        assert!(said.contains("mart.stock") && said.contains("fresh"), "{said}");
        service.stop().await.unwrap();
    });
}

#[test]
fn a_mart_that_cannot_be_computed_says_why_and_the_others_go_on() {
    block_on(async {
        let site = Site::new("marts_broken").await;
        files(&site);
        site.shop(TABLES).await;
        let broken = [
            ("lost", "select count(*) as n from cleansed.nowhere", "cleansed.nowhere"),
            (
                "hidden",
                "select count(*) as n from cleansed.dim_users",
                "which `reads` does not name",
            ),
            ("keyless", "select 1 as other from cleansed.fact_orders", "has no column n"),
            ("twice", "select 1::bigint as n from cleansed.fact_orders", "alike in its key"),
            (
                "odd",
                "select sum(amount) / 0 as n from cleansed.fact_orders having count(*) > 0",
                "division by zero",
            ),
        ];
        for (name, query, _) in broken {
            let header = format!(
                "/* siltstone\ntable: mart.{name}\nkey: [n]\nrefresh_by: n\nreads:\n  cleansed.fact_orders: {{}}\n*/\n"
            );
            site.file(&format!("sql/marts/{name}.sql"), &format!("{header}{query}\n"));
        }
        let service = site.start();
        for (at, (name, _, why)) in
            broken.iter().enumerate().filter(|(_, (name, _, _))| *name != "lost")
        {
            site.shop(&format!("insert into orders values ({at}, 1, 1, '2024-01-01', 1)")).await;
            // before the tables are there, that is the reason
            let says = format!(
                "select state = 'stopped' and position('{why}' in reason) > 0
                   from audit.marts where mart = 'mart.{name}'"
            );
            until(&site, name, &says).await;
        }
        for (name, _, why) in broken {
            let query = format!(
                "select reason, remedy is not null from audit.marts where mart = 'mart.{name}'"
            );
            let said = site.at_warehouse(&query).await.concat();
            assert!(said.contains(why), "{name}: {said}");
            assert!(name == "lost" || said.ends_with("|t"), "{name} has no remedy: {said}");
        }
        until(&site, "the sales", "select count(*) = 1 and sum(orders) = 4 from mart.sales").await;
        // the stream does not mind
        assert_eq!(site.at_warehouse("select count(*) from cleansed.fact_orders").await, ["4"]);
        service.stop().await.unwrap();
    });
}

#[test]
fn a_change_that_touches_everything_is_computed_in_parts() {
    block_on(async {
        let site = Site::new("marts_fan_out").await;
        files(&site);
        site.file(
            "sql/marts/lines.sql",
            "/* siltstone\ntable: mart.lines\nkey: [order_id]\nrefresh_by: order_id\nmax_age: 1s\nreads:\n  \
             cleansed.fact_orders: { touches: \"select order_id from changed\" }\n  \
             cleansed.dim_products: { when: [category], touches: \"select o.order_id from cleansed.fact_orders o join changed c using (product_id)\" }\n*/\n\
             select o.order_id, p.category from cleansed.fact_orders o left join cleansed.dim_products p using (product_id)\n",
        );
        site.shop(TABLES).await;
        let rows = if is_full() { 1_000_000 } else { 60_000 };
        site.shop(&format!(
            "insert into products values (1, 'p', 'books'); insert into users values (1, 'u', 'DE');
             insert into orders select i, 1, 1, date '2024-01-01' + i % 60, 1 from generate_series(1, {rows}) i"
        ))
        .await;
        site.catch_up().await;
        let service = site.start();
        let fresh = "select state = 'fresh' from audit.marts where mart = 'mart.lines'";
        until(&site, "the lines", fresh).await;
        site.shop("update products set category = 'toys'").await;
        let partly = "select exists (select from audit.stale_groups where mart = 'mart.lines')";
        until(&site, "stale groups", partly).await;
        // in mid-work it is stopped, and looked at
        service.stop().await.unwrap();
        let spec = site.spec();
        let lines = spec.marts.iter().find(|mart| mart.table.name == "lines").unwrap();
        let mut looker =
            connect(Side::Warehouse, &spec.settings.warehouse, "looker").await.unwrap();
        let verdict = verify(&mut looker, lines).await.unwrap();
        assert!(matches!(verdict, Verdict::Equal { pending: 1.., .. }), "{verdict:?}");
        let service = site.start();
        until(&site, "the lines", fresh).await;
        until(&site, "all", QUIET).await;
        assert_rebuilt(&site, "fan-out").await;
        let toys = "select count(*) from mart.lines where category = 'toys'";
        assert_eq!(site.at_warehouse(toys).await, [rows.to_string()]);
        service.stop().await.unwrap();
    });
}

#[test]
fn apply_makes_marts_for_a_service_that_makes_no_tables() {
    block_on(async {
        let site = Site::new("marts_no_ddl").await;
        site.shop(TABLES).await;
        site.shop("insert into orders values (1, 1, 1, '2024-01-01', 5)").await;
        files(&site);
        let marts = ["sales", "countries", "journeys", "stock"];
        let texts = marts.map(|name| {
            let path = site.config().parent().unwrap().join(format!("sql/marts/{name}.sql"));
            let text = std::fs::read_to_string(&path).unwrap();
            std::fs::remove_file(path).unwrap();
            text
        });
        site.catch_up().await;
        for (name, text) in marts.iter().zip(&texts) {
            site.file(&format!("sql/marts/{name}.sql"), text);
        }
        let run = |arguments: &[&str]| {
            let output = site.command(arguments).stdout(Stdio::piped()).output().unwrap();
            (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let (code, said) = run(&["plan", "--exit-code"]);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("mart.sales") && said.contains("create materialized view"), "{said}");
        let service =
            site.start_with(siltstone::pipeline::Options { no_ddl: true, ..Default::default() });
        let told = "select remedy = 'siltstone apply' from audit.marts where mart = 'mart.sales'";
        until(&site, "what it lacks", told).await;
        // it gives way to whoever writes, and tries again
        let writer = site.another_session().await;
        writer
            .batch_execute("begin; lock table cleansed.fact_orders in row exclusive mode")
            .await
            .unwrap();
        let mut apply = site.spawn(&["apply", "--yes"]);
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        assert!(apply.try_wait().unwrap().is_none(), "it did not wait");
        writer.batch_execute("commit").await.unwrap();
        assert!(apply.wait().unwrap().success());
        until(&site, "the marts", FRESH).await;
        site.shop("insert into orders values (2, 1, 1, '2024-01-02', 5)").await;
        settled(&site, 1).await;
        assert_rebuilt(&site, "applied").await;
        assert_eq!(run(&["plan", "--exit-code"]).0, Some(0));
        service.stop().await.unwrap();
    });
}
