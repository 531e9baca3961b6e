//! Files of marts: what is refused before a mart becomes wrong, and what an edit of one does.

use std::process::Stdio;

use crate::marts::{TABLES, assert_rebuilt, files, until};
use crate::support::{Site, block_on};

/// The binary's exit code, and what it said.
fn run(site: &Site, arguments: &[&str]) -> (Option<i32>, String) {
    let output =
        site.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code(), said + &String::from_utf8_lossy(&output.stderr))
}

#[test]
fn another_key_of_a_mart_makes_its_index_anew() {
    block_on(async {
        let site = Site::new("marts_key").await;
        let mart = |key: &str, query: &str| {
            let header = format!(
                "table: mart.days\nkey: {key}\nrefresh_by: day\nmax_age: 1s\nreads:\n  \
                 cleansed.orders: {{ touches: \"select day from changed\" }}\n"
            );
            site.file("sql/marts/days.sql", &format!("/* siltstone\n{header}*/\n{query}\n"));
        };
        site.shop(TABLES).await;
        site.shop(
            "insert into orders select i, i % 3, 1, date '2024-01-01' + i % 5, 1 from generate_series(1, 60) i",
        )
        .await;
        mart(
            "[day, user_id]",
            "select day, user_id, count(*) as orders from cleansed.orders group by 1, 2",
        );
        site.catch_up().await;
        assert_rebuilt(&site, "two columns").await;
        let keys = "select indexdef like '%UNIQUE%' || $$(day, user_id) NULLS NOT DISTINCT$$, count(*) over ()
                      from pg_indexes where schemaname = 'mart' and indexdef like '%UNIQUE%'";
        assert_eq!(site.at_warehouse(keys).await, ["t|1"]);
        // rows that were told apart by what the key has no more
        mart(
            "[day]",
            "select day, max(user_id) as user_id, count(*) as orders from cleansed.orders group by 1",
        );
        let service = site.start();
        let made = "select count(*) = 5 and max(orders) = 12 from mart.days";
        until(&site, "the mart by its new key", made).await;
        assert_rebuilt(&site, "one column").await;
        assert_eq!(site.at_warehouse(&keys.replace(", user_id)", ")")).await, ["t|1"]);
        site.shop("update orders set day = '2024-02-01' where id = 7").await;
        until(&site, "a change", "select count(*) = 6 from mart.days").await;
        service.stop().await.unwrap();
        // and back, of which the rows stay
        mart(
            "[user_id, day]",
            "select day, user_id, count(*) as orders from cleansed.orders group by 1, 2",
        );
        site.catch_up().await;
        assert_rebuilt(&site, "two columns again").await;
        assert_eq!(
            site.at_warehouse(&keys.replace("(day, user_id)", "(user_id, day)")).await,
            ["t|1"]
        );
        let by =
            "select count(*) from pg_indexes where schemaname = 'mart' and indexdef like '%(day)'";
        assert_eq!(site.at_warehouse(by).await, ["1"]);
    });
}

#[test]
fn a_column_that_is_read_and_not_in_when_is_refused_by_name() {
    block_on(async {
        let site = Site::new("marts_when").await;
        files(&site);
        assert_eq!(run(&site, &["validate"]), (Some(0), run(&site, &["validate"]).1));
        let product =
            "select o.order_date from cleansed.fact_orders o join changed c using (product_id)";
        let validated = |when: &str, query: &str| {
            let header = format!(
                "table: mart.named\nkey: [day]\nrefresh_by: day\nreads:\n  \
                 cleansed.fact_orders: {{ touches: \"select order_date from changed\" }}\n  \
                 cleansed.dim_products: {{ when: {when}, touches: \"{product}\" }}\n"
            );
            site.file("sql/marts/named.sql", &format!("/* siltstone\n{header}*/\n{query}\n"));
            run(&site, &["validate"])
        };
        let joined =
            "from cleansed.fact_orders o left join cleansed.dim_products p using (product_id)";
        for (when, query, left_out) in [
            ("[category]", format!("select o.order_date as day, max(p.name) as n {joined} group by 1"), "name"),
            ("[name]", format!("select o.order_date as day, count(*) as n {joined} where p.category = 'a' group by 1"), "category"),
            ("[name]", format!("select o.order_date as day, count(*) as n {joined} and p.category > p.name group by 1").replace("using (product_id)", "on p.product_id = o.product_id"), "category"),
            ("[name]", "select o.order_date as day, count(*) filter (where exists (select 1 from cleansed.dim_products where category = 'b')) as n from cleansed.fact_orders o group by 1".to_owned(), "category"),
            ("[category]", "with p as (select * from cleansed.dim_products) select o.order_date as day, max(p.name) as n from cleansed.fact_orders o join p using (product_id) group by 1".to_owned(), "name"),
            ("[product_id]", "select o.order_date as day, p.* from cleansed.fact_orders o join cleansed.dim_products p using (product_id)".to_owned(), "name, category"),
        ] {
            let (code, said) = validated(when, &query);
            assert_eq!(code, Some(78), "{query}: {said}");
            let what = format!(
                "sql/marts/named.sql:7: reads.cleansed.dim_products.when: the query reads {left_out}, whose change"
            );
            assert!(said.contains(&what), "{query}: {said}");
            assert!(said.contains("remove when"), "{query}: {said}");
        }
        // read of nothing but its key, of no column, or of what nobody can tell
        for (when, query) in [
            ("[name]", format!("select o.order_date as day, count(p.product_id) as n {joined} group by 1")),
            ("[name]", format!("select o.order_date as day, count(p) as n {joined} group by 1")),
            ("[name]", format!("select o.order_date as day, count(p.*) as n {joined} group by 1")),
            ("[name]", "select day, n from (select o.order_date as day, count(*) as n, max(p.category) as c from cleansed.fact_orders o join cleansed.dim_products p using (product_id) group by 1) x".to_owned()),
            ("[name]", "select o.order_date as day, count(*) as n from cleansed.fact_orders o where exists (select * from cleansed.dim_products p where p.product_id = o.product_id) group by 1".to_owned()),
            ("[name, category]", format!("select o.order_date as day, max(p.category || p.name) as n {joined} group by 1")),
        ] {
            let (code, said) = validated(when, &query);
            assert_eq!(code, Some(0), "{query}: {said}");
        }
        site.remove("sql/marts/named.sql");
        // of a table without a file the warehouse knows the columns
        site.file(
            "sql/marts/marks.sql",
            "/* siltstone\ntable: mart.marks\nkey: [n]\nrefresh_by: n\nreads:\n  \
             cleansed.notes: { when: [a], touches: \"select 1 from changed\" }\n*/\n\
             select 1 as n, max(a) as a, max(b) as b from cleansed.notes\n",
        );
        site.shop(TABLES).await;
        site.shop("create table notes (id bigint primary key, a text, b text); insert into notes values (1, 'x', 'y')").await;
        assert_eq!(run(&site, &["validate"]).0, Some(0));
        let service = site.start();
        let told = "select state = 'stopped' and reason like '%marks.sql:6: reads.cleansed.notes.when: the query reads b,%'
                       and remedy like 'write when: [a, b]%' from audit.marts where mart = 'mart.marks'";
        until(&site, "what it leaves out", told).await;
        service.stop().await.unwrap();
        let (code, said) = run(&site, &["validate", "--connect"]);
        assert!(code == Some(78) && said.contains("the query reads b"), "{said}");
    });
}

#[test]
fn the_marts_that_come_with_it_name_all_that_they_read() {
    block_on(async {
        let site = Site::new("marts_own").await;
        site.default_files();
        let (code, said) = run(&site, &["validate"]);
        assert_eq!(code, Some(0), "{said}");
    });
}

#[test]
fn validate_explains_the_queries_of_marts() {
    block_on(async {
        let site = Site::new("marts_explained").await;
        site.shop(TABLES).await;
        site.shop(
            "insert into orders select i, i % 1000, i % 5000, date '2024-01-01' + i % 60, 1 from generate_series(1, 120000) i;
             insert into products select i, 'p', 'c' from generate_series(0, 4999) i",
        )
        .await;
        site.catch_up().await;
        let mart = |name: &str, query: &str| {
            let header = format!(
                "table: mart.{name}\nkey: [day]\nrefresh_by: day\nmax_age: 1s\nreads:\n  \
                 cleansed.orders: {{ touches: \"select day from changed\" }}\n  \
                 cleansed.products: {{ touches: \"select o.day from cleansed.orders o join changed c on c.id = o.product_id\" }}\n"
            );
            site.file(
                &format!("sql/marts/{name}.sql"),
                &format!("/* siltstone\n{header}*/\n{query}\n"),
            );
        };
        mart(
            "wrong",
            "select o.day,\n       count(*) as n,\n       max(o.nothing) as x\n  from cleansed.orders o group by 1",
        );
        let (code, said) = run(&site, &["validate", "--connect"]);
        assert_eq!(code, Some(78), "{said}");
        assert!(
            said.contains("error: sql/marts/wrong.sql:12: query: column o.nothing does not exist"),
            "{said}"
        );
        site.remove("sql/marts/wrong.sql");
        mart(
            "hidden",
            "select o.day, (select count(*) from cleansed.users) as n from cleansed.orders o group by 1",
        );
        let (code, said) = run(&site, &["validate", "--connect"]);
        assert!(code == Some(78) && said.contains("`reads` does not name"), "{said}");
        site.remove("sql/marts/hidden.sql");
        mart(
            "days",
            "select o.day, count(*) as n, max(p.category) as c from cleansed.orders o left join cleansed.products p on p.id = o.product_id group by 1",
        );
        site.catch_up().await;
        site.at_warehouse("analyze cleansed.orders; analyze cleansed.products; analyze mart.days")
            .await;
        let (code, said) = run(&site, &["validate", "--connect"]);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("warning: sql/marts/days.sql:10: query: to compute a few groups anew it would go through all 120000 rows of cleansed.orders"), "{said}");
        assert!(
            said.contains(
                "warning: sql/marts/days.sql: reads.cleansed.products.touches: to find the groups"
            ),
            "{said}"
        );
        site.at_warehouse("create index on cleansed.orders (day, product_id); create index on cleansed.orders (product_id); analyze cleansed.orders").await;
        let (code, said) = run(&site, &["validate", "--connect"]);
        assert!(!said.contains("go through all"), "{said}");
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("mart.days: its query can be run"), "{said}");
        mart("later", "select day, count(*) as n from cleansed.not_yet group by 1");
        let text =
            std::fs::read_to_string(site.config().parent().unwrap().join("sql/marts/later.sql"))
                .unwrap();
        site.file("sql/marts/later.sql", &text.replace("cleansed.products:", "cleansed.not_yet:"));
        let (code, said) = run(&site, &["validate", "--connect"]);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("mart.later is not explained"), "{said}");
    });
}
