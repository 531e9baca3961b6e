//! Marts: what no trigger sees of the tables they read is found all the same.

use siltstone::postgres::Session;
use siltstone::refresh::{self, Shape};
use siltstone::spec::Mart;

use crate::marts::{TABLES, assert_rebuilt, files, until};
use crate::support::{Site, block_on};

const ROWS: &str = "
    insert into users select i, 'u', (array['DE','AT',null])[1 + i % 3] from generate_series(1, 9) i;
    insert into products select i, 'p', 'books' from generate_series(1, 5) i;
    insert into orders select i, 1 + i % 9, 1 + i % 5, date '2024-01-01' + i % 90, i from generate_series(1, 300) i";

fn mart(site: &Site, name: &str) -> Mart {
    site.spec().marts.into_iter().find(|mart| mart.table.name == name).unwrap()
}

async fn shape(session: &mut Session, mart: &Mart) -> Result<Shape, siltstone::error::Error> {
    let transaction = session.transaction().await.unwrap();
    refresh::describe(&transaction, mart).await
}

/// The inputs of marts that are not what they were.
async fn unwatched(site: &Site, session: &mut Session) -> Vec<String> {
    let mut found = Vec::new();
    for mart in site.spec().marts {
        let shape = shape(session, &mart).await.unwrap();
        let inputs = refresh::unwatched(&**session, shape.reader()).await.unwrap();
        found
            .extend(inputs.iter().map(|input| format!("{} {}", mart.table.name, input.read.table)));
    }
    found
}

const PRODUCTS_VIEW: &str =
    "create view cleansed.products_of as select product_id, name from cleansed.dim_products";

#[test]
fn what_no_trigger_of_a_mart_sees_is_found() {
    block_on(async {
        let site = Site::new("marts_by_hand").await;
        files(&site);
        site.shop(TABLES).await;
        site.shop(ROWS).await;
        site.catch_up().await;
        site.at_warehouse(PRODUCTS_VIEW).await;
        site.file(
            "sql/marts/names.sql",
            "/* siltstone\ntable: mart.names\nkey: [product_id]\nrefresh_by: product_id\nmax_age: 1s\nreads:\n  \
             cleansed.dim_products: { touches: \"select product_id from changed\" }\n*/\n\
             select product_id, name from cleansed.products_of\n",
        );
        site.catch_up().await;
        let mut session = site.another_session().await;
        assert!(unwatched(&site, &mut session).await.is_empty());
        let watching = "select mart, input, xmin from audit.mart_reads order by 1, 2";
        let before = site.at_warehouse(watching).await;
        // a leaf that the service makes, what a table is emptied by, and what keeps its rows
        let leaves =
            "select count(*) from pg_inherits where inhparent = 'cleansed.fact_orders'::regclass";
        let made = site.at_warehouse(leaves).await;
        site.shop("insert into orders values (1000, 1, 1, '2025-11-11', 5); truncate users").await;
        site.catch_up().await;
        assert_ne!(site.at_warehouse(leaves).await, made, "no leaf was made");
        session.batch_execute("vacuum full analyze cleansed.dim_products").await.unwrap();
        session.batch_execute("truncate cleansed.dim_users").await.unwrap();
        site.shop("insert into users values (1, 'u', 'DE'), (2, 'u', 'AT')").await;
        site.catch_up().await;
        assert_eq!(site.at_warehouse(watching).await, before, "it was watched anew");
        assert_rebuilt(&site, "the service's own").await;

        let detach =
            "alter table cleansed.fact_orders detach partition cleansed.fact_orders_p202402";
        let attach =
            "alter table cleansed.fact_orders attach partition cleansed.fact_orders_p202402
                      for values from ('2024-02-01') to ('2024-03-01')";
        let off = "alter table cleansed.dim_users disable trigger all;
                   update cleansed.dim_users set country = 'FR' where user_id = 1";
        let cases = [
            ("a leaf was detached", detach.to_owned(), "cleansed.fact_orders"),
            ("a leaf was attached", attach.to_owned(), "cleansed.fact_orders"),
            ("a leaf was away", format!("{detach}; {attach}"), "cleansed.fact_orders"),
            ("triggers were off", format!("{off}; alter table cleansed.dim_users enable trigger all"), "cleansed.dim_users"),
            ("triggers are off", off.replace("FR", "AT"), "cleansed.dim_users"),
            (
                "values were converted",
                "alter table cleansed.dim_products alter column category type text using category || '!'".to_owned(),
                "cleansed.dim_products",
            ),
            (
                "a view is another one",
                PRODUCTS_VIEW.replace("create", "create or replace").replace("name from", "upper(name) as name from"),
                "cleansed.dim_products",
            ),
            (
                "a table was exchanged",
                "create table cleansed.other (like cleansed.dim_products including all);
                 alter table cleansed.dim_products rename to was_products;
                 alter table cleansed.other rename to dim_products;
                 drop view cleansed.products_of; create view cleansed.products_of as select product_id, name from cleansed.dim_products;
                 drop materialized view mart.stock".to_owned(),
                "cleansed.dim_products",
            ),
        ];
        for (what, statements, input) in &cases {
            session
                .batch_execute(statements)
                .await
                .unwrap_or_else(|error| panic!("{what}: {error:?}"));
            let found = unwatched(&site, &mut session).await;
            assert!(
                !found.is_empty() && found.iter().all(|found| found.ends_with(input)),
                "{what}: {found:?}"
            );
            if *what == "a table was exchanged" {
                break;
            }
            site.catch_up().await;
            let found = unwatched(&site, &mut session).await;
            assert!(found.is_empty(), "{what}: {found:?} again");
            assert_rebuilt(&site, what).await;
        }
        // a table that tells by the name of another one
        session
            .batch_execute(
                "drop table cleansed.dim_products cascade;
                 alter table cleansed.was_products rename to dim_products",
            )
            .await
            .unwrap();
        let tells = "select audit.watch_one('cleansed.dim_products', 'cleansed.other', 'cleansed.other'),
                            audit.watch_one('cleansed.dim_products', 'cleansed.other', 'cleansed.other')";
        assert_eq!(site.at_warehouse(tells).await, ["4|0"]);
    });
}

#[test]
fn a_snapshot_from_before_a_mart_reads_a_table_is_refused_to_write_it() {
    block_on(async {
        let site = Site::new("marts_snapshot").await;
        files(&site);
        let path = site.config().parent().unwrap().join("sql/marts/sales.sql");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        site.shop(TABLES).await;
        site.shop(ROWS).await;
        site.catch_up().await;
        let writer = site.another_session().await;
        writer.batch_execute("begin isolation level repeatable read; select 1").await.unwrap();
        let write = "update cleansed.dim_products set category = 'toys' where product_id = 1";
        site.file("sql/marts/sales.sql", &text);
        site.catch_up().await;
        let refused = writer.batch_execute(write).await.unwrap_err();
        assert_eq!(refused.code().unwrap().code(), "40001", "{refused:?}");
        let again = format!("rollback; begin isolation level repeatable read; {write}; commit");
        writer.batch_execute(&again).await.unwrap();
        let marks =
            "select count(*) from audit.touched where mart = 'mart.sales' and row is not null";
        assert_eq!(site.at_warehouse(marks).await, ["1"]);

        // many marks of one that does not go on
        let sales = mart(&site, "sales");
        refresh::gather(&*writer, &sales.table, 1).await.unwrap();
        assert_eq!(site.at_warehouse(marks).await, ["1"]);
        let more = "insert into audit.touched (mart, input, row) select mart, input, row
                      from audit.touched, generate_series(1, 9) where mart = 'mart.sales'";
        writer.batch_execute(more).await.unwrap();
        let first = "select min(id), min(at) from audit.touched where mart = 'mart.sales'";
        let before = site.at_warehouse(first).await;
        refresh::gather(&*writer, &sales.table, 9).await.unwrap();
        let all = "select count(*), count(row) from audit.touched where mart = 'mart.sales'";
        assert_eq!(site.at_warehouse(all).await, ["1|0"]);
        assert_eq!(site.at_warehouse(first).await, before);
        site.catch_up().await;
        assert_rebuilt(&site, "gathered").await;

        // another instance whose files have no marts gives them to whoever has some
        for name in ["sales", "countries", "journeys", "stock"] {
            site.remove(&format!("sql/marts/{name}.sql"));
        }
        let service = site.start();
        let free = "select not exists (select from audit.mart_reads) and not exists (select from audit.mart_saw)
                       and (select lease_until is null from audit.owner where resource = 'marts')";
        until(&site, "the lease", free).await;
        service.stop().await.unwrap();
    });
}

#[test]
fn a_mart_says_what_it_cannot_follow() {
    block_on(async {
        let site = Site::new("marts_unfit").await;
        files(&site);
        site.shop(TABLES).await;
        site.shop(ROWS).await;
        site.catch_up().await;
        let mut session = site.another_session().await;
        let mut journeys = mart(&site, "journeys");
        journeys.today.push(("months".to_owned(), "m.spent / 12".to_owned()));
        let described = shape(&mut session, &journeys).await.unwrap();
        let more = refresh::define(&*session, &described, &[]).await.unwrap();
        session.batch_execute(&more.statements.concat()).await.unwrap();
        journeys.today.remove(0);
        let described = shape(&mut session, &journeys).await.unwrap();
        let error = refresh::define(&*session, &described, &[]).await.unwrap_err();
        let remedy = error.remedy_text().unwrap_or_default();
        assert!(remedy.starts_with("drop view \"mart\".\"journeys_today\""), "{error}");
        session.batch_execute("drop view mart.journeys_today").await.unwrap();
        let made = refresh::define(&*session, &described, &[]).await.unwrap();
        session.batch_execute(&made.statements.concat()).await.unwrap();
        journeys.today[0].1 = "m.nothing".to_owned();
        let error = shape(&mut session, &journeys).await.unwrap_err();
        assert!(error.to_string().contains("today of sql/marts/journeys.sql"), "{error}");

        session
            .batch_execute(
                "set allow_system_table_mods to on;
                 insert into pg_subscription_rel select 1, inhrelid, 'r', null
                   from pg_inherits where inhparent = 'cleansed.fact_orders'::regclass limit 1",
            )
            .await
            .unwrap();
        let error = shape(&mut session, &mart(&site, "sales")).await.unwrap_err();
        assert!(error.to_string().contains("fed by a subscription"), "{error}");
    });
}
