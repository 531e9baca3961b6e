//! Statements of every shape, and what must be told of them.

use super::*;
use crate::names::TableName;

fn tables() -> Tables {
    let mut tables = Tables::default();
    let known = [
        ("s", "orders", "id user_id product_id day amount status"),
        ("s", "users", "user_id country valid_from is_current"),
        ("s", "products", "product_id category"),
        ("s", "Odd", "Mixed plain"),
    ];
    for (schema, name, columns) in known {
        let columns: Vec<String> = columns.split(' ').map(str::to_owned).collect();
        let table = TableName::new(schema, name);
        tables.add(&table, columns.clone());
        tables.add_visible(name, &table, columns);
    }
    tables
}

fn shown(deps: &Deps) -> String {
    let one = |(cell, kind, _): (&Cell, Kind, &str)| {
        format!("{}.{} {}", cell.table, cell.column, kind.word())
    };
    deps.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Each column with what it is made of, and the rows.
fn told(sql: &str) -> Vec<(String, String)> {
    let derived = derive(sql, &tables());
    let columns = derived.columns.iter();
    let mut all: Vec<_> = columns.map(|of| (of.name.clone(), shown(&of.deps))).collect();
    if !derived.rows.is_empty() {
        all.push(("*".to_owned(), shown(&derived.rows)));
    }
    all
}

#[track_caller]
fn tells(sql: &str, expected: &[(&str, &str)]) {
    let told = told(sql);
    let told: Vec<(&str, &str)> = told.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    assert_eq!(told, expected, "{sql}");
}

#[test]
fn kinds_of_values_are_told_apart() {
    tells(
        "select id, o.amount * 2 doubled, sum(amount) over (partition by user_id order by day) run,
                case when status = 'x' then amount end, amount::text, count(*)
           from s.orders o",
        &[
            ("id", "s.orders.id identity"),
            ("doubled", "s.orders.amount transformation"),
            ("run", "s.orders.amount aggregation, s.orders.day window, s.orders.user_id window"),
            ("case", "s.orders.amount transformation, s.orders.status condition"),
            ("amount", "s.orders.amount transformation"),
            ("count", "s.orders.* aggregation"),
        ],
    );
}

#[test]
fn joins_merge_columns_and_decide_about_rows() {
    tells(
        "select user_id, country, category
           from orders left join users using (user_id) right join s.products using (product_id)
          where amount > 1 and not status is null group by 1, country, s.products.category",
        &[
            ("user_id", "s.orders.user_id identity"),
            ("country", "s.users.country identity"),
            ("category", "s.products.category identity"),
            (
                "*",
                "s.orders.amount filter, s.orders.product_id join, s.orders.status filter, \
                 s.orders.user_id join, s.orders.user_id group_by, s.products.category group_by, \
                 s.products.product_id join, s.users.country group_by, s.users.user_id join",
            ),
        ],
    );
    tells(
        "select user_id from orders full join users using (user_id)",
        &[
            ("user_id", "s.orders.user_id transformation, s.users.user_id transformation"),
            ("*", "s.orders.user_id join, s.users.user_id join"),
        ],
    );
}

#[test]
fn a_star_is_every_column_once() {
    tells(
        "select * from s.products natural join (select product_id, max(day) from orders group by product_id) m",
        &[
            ("product_id", "s.products.product_id identity"),
            ("category", "s.products.category identity"),
            ("max", "s.orders.day aggregation"),
            (
                "*",
                "s.orders.product_id join, s.orders.product_id group_by, s.products.product_id join",
            ),
        ],
    );
    tells(
        "select p.*, 1 from products p",
        &[
            ("product_id", "s.products.product_id identity"),
            ("category", "s.products.category identity"),
            ("?column?", ""),
        ],
    );
}

#[test]
fn ctes_are_followed_also_those_that_read_themselves() {
    tells(
        "with a (x, y) as (select id, amount + 1 from orders where status = 'a'),
              b as materialized (select x, y * 2 as z from a)
         select x, z from b union all select user_id, null from users",
        &[
            ("x", "s.orders.id identity, s.users.user_id identity"),
            ("z", "s.orders.amount transformation"),
            ("*", "s.orders.status filter"),
        ],
    );
    tells(
        "with recursive t (n, root) as (
             select id, user_id from orders
             union all select t.n + o.amount, t.n from t join orders o on o.id = t.root)
         select root from t",
        &[
            (
                "root",
                "s.orders.amount transformation, s.orders.id transformation, s.orders.user_id identity",
            ),
            ("*", "s.orders.amount join, s.orders.id join, s.orders.user_id join"),
        ],
    );
    // an inner name hides a table
    tells(
        "with users as (select country as c from s.users) select c from users",
        &[("c", "s.users.country identity")],
    );
}

#[test]
fn subqueries_see_what_is_around_them() {
    tells(
        "select u.user_id, (select sum(o.amount) from orders o where o.user_id = u.user_id) spent,
                exists (select 1 from orders where user_id = u.user_id) buys
           from users u where country in (select category from products)",
        &[
            ("user_id", "s.users.user_id identity"),
            (
                "spent",
                "s.orders.amount aggregation, s.orders.user_id filter, s.users.user_id filter",
            ),
            ("buys", "s.orders.* condition, s.orders.user_id filter, s.users.user_id filter"),
            ("*", "s.products.category filter, s.users.country filter"),
        ],
    );
    tells(
        "select l.m from users u cross join lateral (select max(day) m from orders where user_id = u.user_id) l",
        &[
            ("m", "s.orders.day aggregation"),
            ("*", "s.orders.user_id filter, s.users.user_id filter"),
        ],
    );
}

#[test]
fn functions_and_values_stand_in_a_from() {
    tells(
        "select d.n, e, k from orders o, (values (o.id, 0), (1, 1)) d (n, m),
                unnest(array[o.day]) e, lateral generate_series(1, o.amount) with ordinality g (k, i)",
        &[
            ("n", ""),
            ("e", "s.orders.day transformation"),
            ("k", "s.orders.amount transformation"),
        ]
        .map(|(name, deps)| match name {
            // not lateral: o is no name there
            "n" => (name, "?.o.id unresolved"),
            _ => (name, deps),
        }),
    );
    tells("select f.x from secret(1) f (x)", &[("x", "?.secret() unresolved")]);
}

#[test]
fn names_are_folded_as_postgres_does() {
    tells(
        "select \"Mixed\", PLAIN as \"Out\" from S.\"Odd\" where s.\"Odd\".Plain = 1",
        &[
            ("Mixed", "s.Odd.Mixed identity"),
            ("Out", "s.Odd.plain identity"),
            ("*", "s.Odd.plain filter"),
        ],
    );
}

#[test]
fn rows_as_values_windows_by_name_and_grouping_sets() {
    tells(
        "select to_jsonb(p) j, count(p.*) n from products p group by rollup (1)",
        &[
            ("j", "s.products.category transformation, s.products.product_id transformation"),
            ("n", "s.products.category aggregation, s.products.product_id aggregation"),
            ("*", "s.products.category group_by, s.products.product_id group_by"),
        ],
    );
    tells(
        "select rank() over w from orders window v as (partition by user_id), w as (v order by day)",
        &[("rank", "s.orders.day window, s.orders.user_id window")],
    );
    tells(
        "select distinct on (user_id) id from orders order by user_id, day desc limit 3",
        &[
            ("id", "s.orders.id identity"),
            ("*", "s.orders.day sort, s.orders.user_id group_by, s.orders.user_id sort"),
        ],
    );
}

#[test]
fn what_cannot_be_told_is_named() {
    let unknown = |sql: &str, name: &str| {
        let told = told(sql);
        let named = format!("{name} unresolved");
        assert!(told.iter().any(|(_, deps)| deps.contains(&named)), "{sql}: {told:?}");
    };
    unknown("select nothing from orders", "?.nothing");
    unknown("select user_id from orders, users", "?.user_id");
    unknown("select x from elsewhere.t, also.there", "?.x");
    unknown("select t.* from elsewhere.t", "?.elsewhere.t.*");
    unknown("selec 1", "?.*");
    unknown("select 1; select 2", "?.*");
    unknown("delete from orders", "?.*");
    unknown("with d as (delete from orders returning id) select id from d", "?.*");
    // what is written is no guess, also of a table that nobody knows
    tells("select t.x from elsewhere.t", &[("x", "elsewhere.t.x identity")]);
    tells("select x from elsewhere.t", &[("x", "elsewhere.t.x identity")]);
}

#[test]
fn no_statement_is_too_deep_or_too_large() {
    let deep = format!("select {}1{}", "(".repeat(5_000), ")".repeat(5_000));
    let chain = format!("select amount{} from orders", " + amount".repeat(4_900));
    let unions = vec!["select id from orders"; 2_000].join(" union ");
    let nested = "select * from (".repeat(90) + "orders" + &") x".repeat(90);
    let long = format!("select {}", vec!["1"; 6_000].join(", "));
    let brackets = "[".repeat(20_000);
    let mut wide = "with c0 as (select * from orders)".to_owned();
    for at in 1..40 {
        let before = at - 1;
        wide.push_str(&format!(", c{at} as (select a.*, b.* from c{before} a, c{before} b)"));
    }
    wide.push_str(" select * from c39");
    for sql in [deep, chain, unions, nested, long, brackets, wide] {
        let derived = derive(&sql, &tables());
        assert!(derived.columns.len() <= 1664);
        assert!(!derived.columns.is_empty() || !derived.rows.is_empty());
    }
    let chain = format!("select amount{} from orders", " + amount".repeat(4_000));
    tells(&chain, &[("?column?", "s.orders.amount transformation")]);
}

#[test]
fn what_is_surely_read_is_told_of_all_places() {
    let read = |sql: &str| {
        let cells = reads(sql, &tables());
        cells.iter().map(|cell| format!("{}.{}", cell.table, cell.column)).collect::<Vec<_>>()
    };
    assert_eq!(
        read(
            "select max(o.amount) from orders o join users u using (user_id) where u.is_current order by o.day"
        ),
        ["s.orders.amount", "s.orders.user_id", "s.users.is_current", "s.users.user_id"]
    );
    assert_eq!(read("select * from s.products"), ["s.products.category", "s.products.product_id"]);
    // a row as a whole may read nothing of it
    for whole in ["count(p)", "count(p.*)", "count(*) filter (where p is null)", "(p).category"] {
        assert_eq!(read(&format!("select {whole}, category from products p")), [""; 0], "{whole}");
    }
    // of two tables the one is used as a whole
    assert_eq!(read("select u, o.day from orders o, users u"), ["s.orders.day"]);
    // what nobody can tell
    assert_eq!(read("select x from orders o, secret() x where status = 'a'"), ["s.orders.status"]);
    assert_eq!(read("select day from"), [""; 0]);
}
