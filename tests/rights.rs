//! The service runs with the rights that `siltstone sql` prints, and says which one it lacks.

use std::process::Stdio;

use crate::support::{Site, block_on, clusters, own_cluster};

const TABLES: &str = "create table users (id bigint primary key, email text, secret text);
    insert into users select i, 'u' || i, 'hidden' from generate_series(1, 100) i;
    create table orders (id bigint primary key, day date not null, amount int);
    insert into orders select i, date '2024-01-01' + i % 60, i from generate_series(1, 200) i;
    create table plain (a int, b text); alter table plain replica identity full;
    create table later_full (id int primary key)";

fn files(site: &Site) {
    site.connector(
        "tables: [\"public.*\"]\nexclude: [\"public.users.secret\"]\ntarget_schema: cleansed\n",
    );
    site.file(
        "schemas/dim_users.yaml",
        "table: cleansed.dim_users\nfrom: shop.public.users\nhistory: versions\nkey: [id]\n\
         columns:\n  id: { type: bigint }\n  email: { type: text }\n  \
         kind: { type: text, lookup: \"select k.kind from ref.kinds k where k.email = row.email\" }\n",
    );
    site.file("jobs/enrich.yaml", "name: enrich\ntasks:\n  enrich: { sql: sql/jobs/kinds.sql }\n");
    site.file(
        "sql/jobs/kinds.sql",
        "create schema if not exists ref; create table ref.kinds (email text primary key, kind text);\n\
         insert into ref.kinds values ('u50', 'half'), ('taken over', 'whole')",
    );
    site.file(
        "schemas/stg_users.yaml",
        "table: raw.stg_users\nfrom: shop.public.users\nlayout: raw\n",
    );
    site.file(
        "schemas/fact_orders.yaml",
        "table: cleansed.fact_orders\nfrom: shop.public.orders\nkey: [id]\n\
         partition: { by: day, every: month, range: [\"2020-01-01\", \"+1y\"] }\n\
         columns:\n  id: { type: bigint }\n  day: { type: date, required: true }\n  amount: { type: integer }\n",
    );
}

fn printed(site: &Site, arguments: &[&str]) -> String {
    let output = site.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The same URL for another role.
fn as_role(url: &str) -> String {
    let (_, place) = url.split_once('@').unwrap();
    format!("postgres://least:le4st@{place}")
}

async fn assert_same(site: &Site) {
    let rows = "select {} order by 1, 2";
    site.assert_equal(
        rows,
        "id, email from users",
        "id, email from cleansed.dim_users where is_current",
    )
    .await;
    site.assert_equal(
        rows,
        "id, day, amount from orders",
        "id, day, amount from cleansed.fact_orders",
    )
    .await;
    site.assert_equal(rows, "a, b from plain", "a, b from cleansed.plain").await;
}

#[test]
fn the_least_rights_are_enough() {
    block_on(async {
        let source = own_cluster("rights-source").await;
        let mut site = Site::on("rights", &source, &clusters().await.1).await;
        files(&site);
        site.shop(TABLES).await;
        let at_source = printed(&site, &["sql", "source-role", "least"]);
        let at_warehouse = printed(&site, &["sql", "warehouse-role", "least"]);
        assert!(!at_source.contains("secret") && !at_source.contains("password '"), "{at_source}");
        site.shop(&at_source).await;
        site.shop("alter role least password 'le4st'").await;
        site.warehouse.batch_execute(&at_warehouse).await.unwrap();
        site.warehouse.batch_execute("alter role least password 'le4st'").await.unwrap();
        site.secure(as_role);
        // a snapshot, the stream, a leaf, a new column, a table read again
        site.catch_up().await;
        let roles = "select rolsuper or rolcreaterole or rolbypassrls from pg_roles where rolname = 'least'";
        assert_eq!(site.at_source(roles).await, ["f"]);
        // its publications are there: that it could make none is no matter
        let shown = printed(&site, &["validate", "--connect"]);
        assert!(!shown.contains("may not create a publication"), "{shown}");
        assert_same(&site).await;
        site.shop_each(&[
            "update users set email = 'x' where id < 10",
            "insert into orders values (1000, '2025-06-01', 1)",
            "insert into plain values (1, 'p'), (1, 'p')",
            "alter table plain add column c int default 3",
            "insert into plain values (2, 'q', 4)",
        ])
        .await;
        assert!(
            site.command(&["table", "resync", "cleansed.fact_orders", "--yes"])
                .status()
                .unwrap()
                .success()
        );
        site.catch_up().await;
        assert_same(&site).await;
        site.assert_equal(
            "select c, count(*) from {} group by 1 order by 1",
            "plain",
            "cleansed.plain",
        )
        .await;
        // verify, beside a running service; and another one takes over
        let first = site.start();
        let live = "select bool_and(state = 'streaming') from audit.tables";
        site.until("streaming", live).await;
        let verified = site.command(&["verify"]).stdout(Stdio::piped()).output().unwrap();
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
        // what a job of the role's makes is looked up
        assert!(site.command(&["job", "run", "enrich"]).status().unwrap().success());
        let half = "select kind = 'half' from cleansed.dim_users_current where id = 50";
        site.until("it is looked up", half).await;
        let second = site.start();
        assert!(first.stop().await.is_ok());
        site.shop("update users set email = 'taken over' where id = 50").await;
        site.until(
            "the second",
            "select exists (select from cleansed.dim_users where id = 50 and kind = 'whole')",
        )
        .await;
        assert!(second.stop().await.is_ok());
        // a new table is left out and named, with the statement that a superuser runs
        site.shop("create table fresh (id int primary key); insert into fresh values (1); grant select on fresh to least").await;
        site.catch_up().await;
        let shown =
            site.command(&["validate", "--connect"]).stdout(Stdio::piped()).output().unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        assert!(shown.contains("its role does not own public.fresh"), "{shown}");
        site.shop(&format!(
            "alter publication \"siltstone_{}\" add table only public.fresh",
            site.name
        ))
        .await;
        site.catch_up().await;
        assert_eq!(site.at_warehouse("select count(*) from cleansed.fresh").await, ["1"]);
        // a column that is to be left out: only the owner can publish the others without it
        site.shop("alter table fresh add column b text").await;
        site.catch_up().await;
        site.connector(
            "tables: [\"public.*\"]\nexclude: [public.users.secret, public.fresh.b]\ntarget_schema: cleansed\n",
        );
        let planned = site.command(&["plan"]).stdout(Stdio::piped()).output().unwrap();
        let planned = String::from_utf8(planned.stdout).unwrap();
        let statement = planned.split("or a superuser: ").nth(1).unwrap_or(&planned);
        let statement = statement.split("; then siltstone").next().unwrap().to_owned();
        assert!(statement.starts_with("begin; alter publication"), "{planned}");
        site.catch_up().await;
        let published = "select count(*) from pg_publication_tables where tablename = 'fresh'";
        assert_eq!(site.at_source(published).await, ["1"]);
        site.shop("insert into fresh values (2, 'hidden')").await;
        site.catch_up().await;
        assert_eq!(site.at_warehouse("select count(*) from cleansed.fresh").await, ["1"]);
        site.shop_each(&[&statement]).await;
        site.catch_up().await;
        let fresh = "select id, f::text like '%hidden%' from cleansed.fresh f order by id";
        assert_eq!(site.at_warehouse(fresh).await, ["1|f", "2|f"]);
        // what is taken away is named, and the others flow
        site.shop_each(&[
            "revoke select on orders from least",
            "update orders set amount = -1 where id = 1",
            "update users set email = 'others' where id = 1",
        ])
        .await;
        site.catch_up().await;
        let state = site.state("cleansed.fact_orders").await;
        assert!(state[1].contains("may not be read"), "{state:?}");
        assert!(
            state[2].contains("grant select on \"public\".\"orders\"")
                || state[2].contains("grant select on public.orders"),
            "{state:?}"
        );
        let others = "select email from cleansed.dim_users_current where id = 1";
        assert_eq!(site.at_warehouse(others).await, ["others"]);
    });
}

/// A table that another role owns takes no new column: it stops alone, and goes on when it may be changed.
#[test]
fn a_table_of_another_role_stops_alone() {
    block_on(async {
        let mut site = Site::new("owned").await;
        site.shop("create table t (id int primary key, v text, w int); insert into t values (1, 'a', 7); create table other (id int primary key)")
            .await;
        let declare = |site: &Site, columns: &str| {
            let head = "table: cleansed.t\nfrom: shop.public.t\nkey: [id]\ncolumns:\n  id: { type: integer }\n";
            site.file("schemas/t.yaml", &format!("{head}  v: {{ type: text }}\n{columns}"));
        };
        declare(&site, "");
        let role = format!("{}_role", site.name);
        let make = format!(
            "create role {role} login password 'le4st'; grant create on database {0}_warehouse to {role}",
            site.name
        );
        site.warehouse.batch_execute(&make).await.unwrap();
        site.secure(|url| {
            let (_, place) = url.split_once('@').unwrap();
            let ours = url.contains("_warehouse");
            if ours { format!("postgres://{role}:le4st@{place}") } else { url.to_owned() }
        });
        site.catch_up().await;
        let give = |to: &str| format!("alter table cleansed.t owner to {to}");
        site.warehouse.batch_execute(&give("current_user")).await.unwrap();
        site.warehouse.batch_execute(&format!("grant all on cleansed.t to {role}")).await.unwrap();
        declare(&site, "  w: { type: integer }\n");
        site.shop("update t set v = 'b'; insert into other values (1)").await;
        site.catch_up().await;
        let state = site.state("cleansed.t").await;
        assert_eq!(state[0], "stopped", "{state:?}");
        assert!(
            state[1].contains("must be owner") && state[2].contains("table resume"),
            "{state:?}"
        );
        site.assert_equal("select id from {}", "other", "cleansed.other").await;
        site.warehouse.batch_execute(&give(&role)).await.unwrap();
        assert!(site.command(&["table", "resume", "cleansed.t"]).status().unwrap().success());
        site.catch_up().await;
        site.assert_equal("select id, v, w from {}", "t", "cleansed.t").await;
    });
}

/// Its tables are the role's own and the publication is not, as where somebody else made that: a table that comes or
/// goes costs nobody else anything, and is taken once it is published.
#[test]
fn a_publication_of_another_role_costs_what_it_lacks_alone() {
    block_on(async {
        let mut site = Site::new("pubowned").await;
        let (role, name) = (format!("{}_role", site.name), site.name.clone());
        site.shop(&format!(
            "create role {role} login replication password 'le4st'; grant create on database {name}_shop to {role};
             grant all on schema public to {role}; set role {role};
             create table t (id int primary key); create table gone (id int primary key); reset role"
        ))
        .await;
        site.catch_up().await;
        site.secure(|url| {
            let (_, place) = url.split_once('@').unwrap();
            let ours = url.contains("_warehouse");
            if ours { url.to_owned() } else { format!("postgres://{role}:le4st@{place}") }
        });
        let running = site.start();
        let own = format!(
            "set role {role}; create table fresh (id int primary key); insert into fresh values (1); reset role"
        );
        site.shop(&own).await;
        let told = format!(
            "select remedy like '%alter publication \"siltstone_{name}\" add table only \"public\".\"fresh\"%'
               from audit.left_out where source_table = 'public.fresh'"
        );
        site.until("it is left out", &told).await;
        site.shop("alter table gone drop constraint gone_pkey").await;
        let state = "select reason = 'it has no primary key' from audit.tables where table_name = 'cleansed.gone'";
        site.until("it is left out", state).await;
        site.shop("insert into t values (1)").await;
        site.until("the other flows", "select exists (select from cleansed.t)").await;
        site.shop(&format!("alter publication \"siltstone_{name}\" add table only public.fresh"))
            .await;
        assert!(site.command(&["connector", "restart", &name]).status().unwrap().success());
        site.until("it is taken", "select count(*) = 1 from cleansed.fresh").await;
        assert!(running.stop().await.is_ok());
    });
}
