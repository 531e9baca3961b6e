//! `plan` tells every difference and changes nothing, `apply` makes them, and `run` makes what is safe and
//! stops the table that asks for more.

use std::process::Stdio;
use std::time::Duration;

use siltstone::postgres::{Endpoint, Side, connect};

use crate::support::{Site, block_on, end};

const TABLES: &str =
    "create table users (id bigint primary key, email text, age int, price numeric(12,4));
    insert into users select i, 'u' || i, i, i + 0.1234 from generate_series(1, 100) i;
    create table orders (id bigint primary key, day date not null, amount int);
    insert into orders select i, date '2024-01-01' + i % 60, i from generate_series(1, 100) i;
    create table plain (a int primary key, b text); insert into plain values (1, 'b')";

const STREAMING: &str = "select bool_and(state = 'streaming') from audit.tables";

const STREAMING_SOME: &str =
    "select count(*) > 0 and bool_and(state = 'streaming') from audit.tables";

fn users(site: &Site, key: &str, columns: &str, more: &str) {
    site.file(
        "schemas/users.yaml",
        &format!(
            "table: cleansed.users\nfrom: shop.public.users\nkey: [{key}]\n{more}columns:\n  id: {{ type: bigint }}\n{columns}"
        ),
    );
}

const FEW: &str = "  email: { type: varchar(20) }\n  price: { type: \"numeric(10,2)\" }\n";

const WIDE: &str = "  email: { type: varchar(20) }\n  price: { type: \"numeric(12,4)\" }\n";

fn files(site: &Site) {
    users(site, "id", FEW, "");
    site.file(
        "schemas/people.yaml",
        "table: cleansed.people\nfrom: shop.public.users\nhistory: versions\nkey: [id]\n\
         columns:\n  id: { type: bigint }\n  email: { type: text }\n",
    );
    site.file("schemas/log.yaml", "table: landed.users\nfrom: shop.public.users\nlayout: raw\n");
    site.file(
        "schemas/orders.yaml",
        "table: cleansed.orders\nfrom: shop.public.orders\nkey: [id]\n\
         partition: { by: day, every: month, range: [\"2020-01-01\", \"+1y\"], ahead: 2 }\n\
         columns:\n  id: { type: bigint }\n  day: { type: date, required: true }\n  amount: { type: integer }\n",
    );
}

/// Runs a verb: its exit code and all that it says.
fn ask(site: &Site, arguments: &[&str]) -> (i32, String) {
    let output = site.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).output();
    let output = output.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

fn plan(site: &Site) -> (i32, String) {
    ask(site, &["plan", "--exit-code"])
}

fn assert_agree(site: &Site) {
    let (code, text) = plan(site);
    assert!(code == 0 && text.contains("nothing to do"), "{code}: {text}");
}

fn assert_planned(site: &Site, words: &[&str]) {
    let (code, text) = plan(site);
    let found = text.lines().any(|line| words.iter().all(|word| line.contains(word)));
    assert!(code == 2 && found, "{words:?}: {code}: {text}");
}

/// Everything that is there, on both sides.
async fn all_there(site: &Site) -> Vec<String> {
    let query = "select 'relation ' || c.oid::regclass::text || c.relkind::text || coalesce(c.relacl::text, '')
          from pg_class c where c.relnamespace::regnamespace::text !~ '^pg_'
        union all select 'column ' || attrelid::regclass::text || attname || atttypid || atttypmod || attnotnull
          from pg_attribute where attrelid >= 16384 and attnum > 0
        union all select 'schema ' || nspname from pg_namespace where nspname !~ '^pg_'
        union all select 'publication ' || pubname from pg_publication
        union all select 'published ' || prrelid from pg_publication_rel
        union all select 'slot ' || slot_name from pg_replication_slots where database = current_database()
        order by 1";
    let mut all = site.at_warehouse(query).await;
    all.extend(site.at_source(query).await);
    if site.at_warehouse("select to_regclass('audit.tables') is not null").await == ["t"] {
        for table in ["tables", "snapshot_chunks", "requests", "epoch", "schemas", "progress"] {
            all.extend(
                site.at_warehouse(&format!("select t::text from audit.{table} t order by 1")).await,
            );
        }
    }
    all
}

async fn assert_same(site: &Site, columns: &str) {
    let query = format!("select {columns} from {{}} order by 1");
    site.assert_equal(&query, "users", "cleansed.users").await;
    site.assert_equal("select id, email from {} order by 1", "users", "cleansed.people_current")
        .await;
    site.assert_equal("select id, day, amount from {} order by 1", "orders", "cleansed.orders")
        .await;
    site.assert_equal("select a, b from {} order by 1", "plain", "cleansed.plain").await;
    assert_eq!(site.at_warehouse("select count(*) from audit.pending").await, ["0"]);
}

const ROUNDED: &str = "id, email, round(price, 2)";

#[test]
fn an_empty_warehouse_is_planned_and_made() {
    block_on(async {
        let site = Site::new("plan").await;
        site.shop(TABLES).await;
        files(&site);
        let before = all_there(&site).await;
        let (code, text) = plan(&site);
        assert_eq!(code, 2, "{text}");
        for word in [
            "migration 0001_control",
            "cleansed.users: make it, fed by public.users",
            "cleansed.people: make it",
            "landed.users: make it",
            "cleansed.orders: make it",
            "orders_p202401",
            "cleansed.plain: make it",
            "create table \"cleansed\".\"users\"",
            "create publication",
            "makes the replication slot",
        ] {
            assert!(text.contains(word), "{word}: {text}");
        }
        println!("{text}");
        assert_eq!(plan(&site), (2, text));
        assert_eq!(ask(&site, &["plan"]).0, 0);
        let (_, json) = ask(&site, &["plan", "--json"]);
        for line in json.lines() {
            let one: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(one["class"], "safe");
        }
        assert_eq!(all_there(&site).await, before);
        let (code, text) = ask(&site, &["apply"]);
        assert!(code == 0 && text.contains("done  cleansed.users: make it"), "{code}: {text}");
        let made = all_there(&site).await;
        assert_agree(&site);
        assert_eq!(all_there(&site).await, made);
        let (code, text) = ask(&site, &["apply"]);
        assert!(code == 0 && text.contains("nothing to do"), "{text}");
        site.catch_up().await;
        assert_same(&site, ROUNDED).await;
        assert_agree(&site);
        site.shop("update users set email = 'x', price = 5 where id < 9; delete from orders where id = 3; insert into plain values (2, 'c')").await;
        site.catch_up().await;
        assert_same(&site, ROUNDED).await;
        assert_eq!(ask(&site, &["verify"]).0, 0);
    });
}

#[test]
fn what_run_has_made_is_what_plan_knows() {
    block_on(async {
        let site = Site::new("planrun").await;
        site.shop(TABLES).await;
        files(&site);
        site.catch_up().await;
        assert_agree(&site);
        // a file that is gone, and columns that no file lists
        site.remove("schemas/log.yaml");
        site.warehouse
            .batch_execute("alter table cleansed.users add column mine text")
            .await
            .unwrap();
        assert_planned(&site, &["safe", "landed.users", "forget it"]);
        let (code, text) = ask(&site, &["apply", "--yes"]);
        assert_eq!(code, 0, "{text}");
        assert_agree(&site);
    });
}

async fn assert_stopped(site: &Site, table: &str, remedy: &str) {
    let state = site.state(table).await;
    assert_eq!((state[0].as_str(), state[2].as_str()), ("stopped", remedy), "{state:?}");
}

/// The difference is planned in its class, stops its table alone, takes its word, and ends equal.
async fn assert_takes_word(site: &Site, class: &str, words: &[&str], same: &str) {
    assert_planned(site, &[&[class], words].concat());
    site.shop("update users set age = age + 1 where id = 7; insert into plain select max(a) + 1, 'more' from plain").await;
    site.catch_up().await;
    let line = format!("siltstone apply --allow {class}");
    assert_stopped(site, "cleansed.users", &line).await;
    site.assert_equal("select a, b from {} order by 1", "plain", "cleansed.plain").await;
    let (code, text) = ask(site, &["apply"]);
    assert!(code == 78 && text.contains(&format!("takes --allow {class}")), "{code}: {text}");
    let (code, text) = ask(site, &["apply", "--allow", class]);
    if class == "destructive" {
        assert!(code == 64 && text.contains("rows are lost"), "{code}: {text}");
    }
    let (code, text) = ask(site, &["apply", "--allow", class, "--yes"]);
    assert!(code == 0, "{code}: {text}");
    site.catch_up().await;
    assert_agree(site);
    assert_same(site, same).await;
    assert_eq!(ask(site, &["verify"]).0, 0);
}

#[test]
fn each_difference_of_a_file_is_mended() {
    block_on(async {
        let site = Site::new("planclass").await;
        site.shop(TABLES).await;
        files(&site);
        site.catch_up().await;
        // a wider type is safe
        let column = |email: &str, price: &str, more: &str| {
            format!("  email: {{ type: {email} }}\n  price: {{ type: \"{price}\" }}\n{more}")
        };
        users(&site, "id", &column("varchar(40)", "numeric(12,2)", ""), "");
        assert_planned(&site, &["safe", "make email a character varying(40)"]);
        site.shop("update users set email = repeat('e', 35) where id = 1").await;
        site.catch_up().await;
        assert_agree(&site);
        assert_same(&site, ROUNDED).await;
        // another one goes through all rows, and what it had rounded is fetched
        users(&site, "id", &column("varchar(40)", "numeric(12,4)", ""), "");
        assert_takes_word(&site, "rewrite", &["make price a numeric(12,4)"], "id, email, price")
            .await;
        // a column that comes, and is required
        let age = "  age: { type: int, required: true }\n";
        users(&site, "id", &column("varchar(40)", "numeric(12,4)", age), "");
        assert_planned(&site, &["safe", "add column age int"]);
        site.catch_up().await;
        assert_agree(&site);
        let same = "id, email, price, age";
        assert_same(&site, same).await;
        // one that is there, and is required: taken back, the table goes on
        let required = "varchar(40), required: true";
        users(&site, "id", &column(required, "numeric(12,4)", age), "");
        site.catch_up().await;
        assert_stopped(&site, "cleansed.users", "siltstone apply --allow rewrite").await;
        users(&site, "id", &column("varchar(40)", "numeric(12,4)", age), "");
        site.catch_up().await;
        assert_same(&site, same).await;
        users(&site, "id", &column(required, "numeric(12,4)", age), "");
        assert_takes_word(&site, "rewrite", &["refuse NULL in email"], same).await;
        users(&site, "id", &column("varchar(40)", "numeric(12,4)", age), "");
        assert_planned(&site, &["safe", "let email be NULL"]);
        site.catch_up().await;
        assert_agree(&site);
        // deletes that stay, and another kind of table
        users(&site, "id", &column("varchar(40)", "numeric(12,4)", age), "history: append\n");
        assert_planned(&site, &["destructive", "make it anew, as history: append"]);
        users(&site, "id", &column("varchar(40)", "numeric(12,4)", age), "delete: soft\n");
        assert_planned(&site, &["safe", "add column _deleted_at"]);
        site.catch_up().await;
        assert_agree(&site);
        // an index is made by apply alone
        let indexed = "delete: soft\nindexes: [[age], [email, price]]\n";
        users(&site, "id", &column("varchar(40)", "numeric(12,4)", age), indexed);
        site.catch_up().await;
        assert_same(&site, same).await;
        assert_planned(&site, &["safe", "share", "make an index"]);
        assert_eq!(ask(&site, &["apply"]).0, 0);
        site.catch_up().await;
        assert_agree(&site);
        assert_same(&site, same).await;
        // what depends on a column is named, and is not dropped
        site.warehouse
            .batch_execute("create view cleansed.mine as select age from cleansed.users")
            .await
            .unwrap();
        let wide = "  age: { type: bigint, required: true }\n";
        users(&site, "id", &column("varchar(40)", "numeric(12,4)", wide), indexed);
        let (code, text) = ask(&site, &["apply", "--allow", "rewrite"]);
        assert!(
            code == 65 && text.contains("mine") && text.contains("drop what depends"),
            "{code}: {text}"
        );
        site.warehouse.batch_execute("drop view cleansed.mine").await.unwrap();
        assert_takes_word(&site, "rewrite", &["make age a bigint"], same).await;
    });
}

#[test]
fn another_key_and_another_history_are_read_again() {
    block_on(async {
        let site = Site::new("plankey").await;
        site.shop(TABLES).await;
        files(&site);
        site.catch_up().await;
        site.shop("begin; alter table users drop constraint users_pkey; alter table users add primary key (email); commit").await;
        site.shop("update users set id = 1000 where id = 9").await;
        site.catch_up().await;
        users(&site, "email", FEW, "");
        site.remove("schemas/people.yaml");
        assert_planned(&site, &["destructive", "tell its rows apart by (email), not by (id)"]);
        assert_eq!(ask(&site, &["apply", "--allow", "destructive", "--yes"]).0, 0);
        site.catch_up().await;
        let same = "id, email, round(price, 2)";
        site.assert_equal(
            &format!("select {same} from {{}} order by 2"),
            "users",
            "cleansed.users",
        )
        .await;
        let hung = "select coalesce(obj_description('cleansed.users'::regclass), ''),
                           col_description('cleansed.users'::regclass, attnum),
                           has_table_privilege('pg_monitor', 'cleansed.users', 'select'),
                           has_column_privilege('pg_signal_backend', 'cleansed.users', 'email', 'select')
                      from pg_attribute
                     where attrelid = 'cleansed.users'::regclass and attname = 'price'";
        site.warehouse
            .batch_execute(
                "grant select on cleansed.users to pg_monitor;
                 grant select (email) on cleansed.users to pg_signal_backend;
                 comment on table cleansed.users is 'the people''s';
                 comment on column cleansed.users.price is 'in coins'",
            )
            .await
            .unwrap();
        // versions of it
        users(&site, "email", FEW, "history: versions\n");
        assert_planned(&site, &["destructive", "make it anew, as history: versions"]);
        site.shop("update users set id = 1001 where id = 10").await;
        site.catch_up().await;
        assert_stopped(&site, "cleansed.users", "siltstone apply --allow destructive").await;
        assert_eq!(ask(&site, &["apply", "--allow", "destructive", "--yes"]).0, 0);
        assert_eq!(site.at_warehouse(hung).await, ["the people's|in coins|t|t"]);
        site.catch_up().await;
        site.shop("update users set id = 1002 where id = 11").await;
        site.catch_up().await;
        site.assert_equal(
            &format!("select {same} from {{}} order by 2"),
            "users",
            "cleansed.users_current",
        )
        .await;
        assert_eq!(site.at_warehouse("select count(*) from cleansed.users").await, ["101"]);
        assert_agree(&site);
        // what no source has is named before it is lost
        users(&site, "email", FEW, "");
        let (code, text) = ask(&site, &["apply", "--allow", "destructive"]);
        let alone = "but versions that are closed are in no source: those do not come back";
        assert!(code == 64 && text.contains(alone), "{code}: {text}");
        // a type under the view, a column it lacks, the view itself
        users(
            &site,
            "email",
            "  email: { type: varchar(20) }\n  price: { type: \"numeric(12,4)\" }\n",
            "history: versions\n",
        );
        assert_planned(&site, &["rewrite", "make price a numeric(12,4)"]);
        assert_eq!(ask(&site, &["apply", "--allow", "rewrite"]).0, 0);
        users(
            &site,
            "email",
            "  email: { type: varchar(20) }\n  price: { type: \"numeric(12,4)\" }\n  age: { type: int }\n",
            "history: versions\n",
        );
        // before a service has seen the file that was applied
        site.catch_up().await;
        let state = site.state("cleansed.users").await;
        assert!(
            state[0] == "stopped" && state[2].starts_with("siltstone apply, where"),
            "{state:?}"
        );
        assert_planned(&site, &["safe", "add column age int"]);
        assert_eq!(ask(&site, &["apply"]).0, 0);
        // a service with an older file brings in no rows without the new column
        let newer =
            std::fs::read_to_string(site.config().with_file_name("schemas").join("users.yaml"))
                .unwrap();
        users(
            &site,
            "email",
            "  email: { type: varchar(20) }\n  price: { type: \"numeric(12,4)\" }\n",
            "history: versions\n",
        );
        site.catch_up().await;
        let state = site.state("cleansed.users").await;
        assert!(state[0] == "stopped" && state[1].contains("by another file"), "{state:?}");
        site.file("schemas/users.yaml", &newer);
        site.catch_up().await;
        let all = "select id, email, price, age from {} order by 2";
        site.assert_equal(all, "users", "cleansed.users_current").await;
        assert_agree(&site);
        site.warehouse.batch_execute("drop view cleansed.users_current").await.unwrap();
        assert_planned(&site, &["safe", "users_current show all of its columns"]);
        assert_eq!(ask(&site, &["apply"]).0, 0);
        site.assert_equal(all, "users", "cleansed.users_current").await;
    });
}

#[test]
fn publications_leaves_and_readers_are_mended() {
    block_on(async {
        let site = Site::new("planside").await;
        site.shop(TABLES).await;
        files(&site);
        site.catch_up().await;
        let (name, reader) = (&site.name, format!("{}_reader", site.name));
        site.warehouse.batch_execute(&format!("create role {reader}")).await.unwrap();
        site.file(
            "siltstone.yaml",
            &format!("warehouse: {{ url: \"${{WAREHOUSE_URL}}\", readers: [{reader}] }}\nadmin: {{ listen: \"127.0.0.1:0\" }}\n"),
        );
        assert_planned(&site, &["cleansed.plain", &format!("let {reader} read it")]);
        let leaf = "select inhrelid::regclass from pg_inherits where inhparent = 'cleansed.orders'::regclass order by inhrelid::regclass::text desc limit 1";
        let leaf = site.at_warehouse(leaf).await.remove(0);
        site.warehouse.batch_execute(&format!("drop table {leaf}")).await.unwrap();
        assert_planned(&site, &["make the leaf", &leaf]);
        site.shop_each(&[
            &format!("alter publication siltstone_{name} drop table plain"),
            "insert into plain values (50, 'untold')",
            "update users set age = 5 where id = 5",
        ])
        .await;
        assert_planned(&site, &[&format!("publication siltstone_{name}")]);
        let (code, text) = ask(&site, &["apply"]);
        assert_eq!(code, 0, "{text}");
        assert_agree(&site);
        site.catch_up().await;
        assert_same(&site, ROUNDED).await;
        let may = format!(
            "select has_table_privilege('{reader}', 'cleansed.people_current', 'select') and has_table_privilege('{reader}', 'cleansed.plain', 'select')"
        );
        assert_eq!(site.at_warehouse(&may).await, ["t"]);
        assert_agree(&site);
    });
}

#[test]
fn apply_beside_a_running_service_loses_nothing() {
    block_on(async {
        let site = Site::new("planlive").await;
        site.shop(TABLES).await;
        files(&site);
        let child = site.spawn(&["run"]);
        site.until("streaming", STREAMING).await;
        for round in 0..60 {
            site.shop_each(&[
                &format!("insert into users values ({}, 'new', {round}, {round}.5678)", 1000 + round),
                &format!("update users set price = price + 1.0001, email = 'r{round}' where id % 7 = {round} % 7"),
                &format!("delete from users where id = {}", 1 + round),
                &format!("update orders set amount = {round}, day = day + 1 where id = {}", 1 + round),
            ])
            .await;
            let allow = match round {
                10 => {
                    users(&site, "id", WIDE, "");
                    "rewrite"
                }
                25 => {
                    users(&site, "id", WIDE, "history: versions\n");
                    "destructive"
                }
                40 => {
                    users(&site, "id", WIDE, "indexes: [[price]]\n");
                    "destructive"
                }
                _ => {
                    tokio::time::sleep(Duration::from_millis(60)).await;
                    continue;
                }
            };
            let (code, text) = ask(&site, &["apply", "--allow", allow, "--yes"]);
            assert_eq!(code, 0, "{text}");
        }
        site.until("streaming", STREAMING).await;
        let verified = ask(&site, &["verify"]);
        assert_eq!(verified.0, 0, "{}", verified.1);
        end(child);
        site.catch_up().await;
        assert_same(&site, "id, email, price").await;
        assert_agree(&site);
    });
}

#[test]
fn a_service_that_was_not_told_of_a_file_reads_it_all_the_same() {
    block_on(async {
        let site = Site::new("plantold").await;
        site.shop(TABLES).await;
        files(&site);
        let mut child = site.spawn(&["run"]);
        site.until("streaming", STREAMING).await;
        users(&site, "id", &FEW.replace("varchar(20)", "varchar(40)"), "");
        // as if apply had come between two of its sessions, none of which it could end
        let spec = site.spec();
        let table = |model: &&siltstone::spec::Model| model.table.to_string() == "cleansed.users";
        let digest = spec.models.iter().find(table).unwrap().digest();
        let made = "update audit.tables set made_for = $1 where table_name = 'cleansed.users'";
        site.warehouse.execute(made, &[&digest]).await.unwrap();
        assert_eq!(ask(&site, &["table", "resync", "cleansed.plain", "--yes"]).0, 0);
        let seen = "select made_for is null and state = 'streaming' from audit.tables \
            where table_name = 'cleansed.users'";
        site.until("goes by the file", seen).await;
        child.kill().unwrap();
        child.wait().unwrap();
        assert_agree(&site);
    });
}

#[test]
fn a_table_that_is_being_read_is_planned_as_any_other() {
    block_on(async {
        let site = Site::new("planread").await;
        site.shop(TABLES).await;
        files(&site);
        site.catch_up().await;
        let open = "select count(*) from audit.snapshot_chunks \
            where table_name = 'cleansed.users' and state = 'open'";
        let apply = |class: &str| {
            let (code, text) = ask(&site, &["apply", "--allow", class, "--yes"]);
            assert!(code == 0 && text.contains("done  cleansed.users: make"), "{code}: {text}");
            assert_agree(&site);
        };
        users(&site, "id", WIDE, "");
        apply("rewrite");
        // the change, what is noted of it and what ends the service's session are one transaction
        let one = "select distinct e.xmin = t.xmin from audit.tables t, audit.epoch e \
            where table_name = 'cleansed.users' and resource like 'connector:%'";
        assert_eq!(site.at_warehouse(one).await, ["t"]);
        // nobody has read the rows yet
        let wider = WIDE.replace("varchar(20)", "varchar(40)");
        for (columns, more, class, what) in [
            (WIDE, "history: versions\n", "destructive", "make it anew, as history: versions"),
            (WIDE, "indexes: [[price]]\n", "destructive", "make it anew, as history: overwrite"),
            (&wider, "", "safe", "make email a character varying(40)"),
        ] {
            assert_eq!(site.at_warehouse(open).await, ["1"]);
            users(&site, "id", columns, more);
            assert_planned(&site, &[class, what]);
            if class == "destructive" {
                assert_eq!(ask(&site, &["apply"]).0, 78);
            }
            apply("destructive");
        }
        // what its rows must have is asked of them once they are in
        let aged = format!("{wider}  age: {{ type: int, required: true }}\n");
        users(&site, "id", &aged, "");
        let (code, text) = ask(&site, &["apply"]);
        assert!(code == 0 && text.contains("add column age"), "{code}: {text}");
        assert_agree(&site);
        users(&site, "id", &wider, "");
        site.shop("delete from users where id = 5; update users set age = 1 where id = 6").await;
        site.catch_up().await;
        let state = site.state("cleansed.users").await;
        assert!(state[0] == "stopped" && state[1].contains("by another file"), "{state:?}");
        users(&site, "id", &aged, "");
        site.catch_up().await;
        assert_same(&site, "id, email, price, age").await;
        assert_agree(&site);
        assert_eq!(ask(&site, &["verify"]).0, 0);
    });
}

/// The service has begun a session since the table is held: others flow, its changes are kept.
async fn assert_flows_beside(site: &Site, a: u32) {
    site.shop_each(&[
        &format!("update users set price = price + {a} where id = 3"),
        &format!("insert into plain values ({a}, 'flows')"),
    ])
    .await;
    let beside = format!(
        "select exists (select from cleansed.plain where a = {a})
            and exists (select from audit.pending where table_name = 'cleansed.users')"
    );
    site.until("the others flow beside it", &beside).await;
    let state = site.state("cleansed.users").await;
    assert_eq!(state[..2], ["stopped", "siltstone apply changes it"], "{state:?}");
}

#[test]
fn a_table_is_held_until_apply_has_changed_it() {
    block_on(async {
        let site = Site::new("planhold").await;
        site.shop(TABLES).await;
        files(&site);
        // its files are as the table still is, and it never reads others
        let running = site.start();
        site.until("streaming", STREAMING).await;
        let endpoint = Endpoint::parse(&site.warehouse_url).unwrap();
        let reader = connect(Side::Warehouse, &endpoint, "test").await.unwrap();
        let long_query = "begin; lock table cleansed.users in access share mode";
        let held = "select state = 'stopped' and reason = 'siltstone apply changes it' \
            from audit.tables where table_name = 'cleansed.users'";
        reader.batch_execute(long_query).await.unwrap();
        users(&site, "id", WIDE, "");
        let mut apply = site.spawn(&["apply", "--allow", "rewrite"]);
        site.until("held", held).await;
        assert_flows_beside(&site, 10).await;
        apply.kill().unwrap();
        apply.wait().unwrap();
        assert_flows_beside(&site, 11).await;
        let remedy = site.state("cleansed.users").await.remove(2);
        let resume: Vec<&str> = remedy.split(' ').skip(1).chain(["--wait"]).collect();
        assert_eq!(resume, ["table", "resume", "cleansed.users", "--wait"]);
        assert_eq!(ask(&site, &resume).0, 0);
        site.until("streaming", STREAMING).await;
        // now to its end
        let mut apply = site.spawn(&["apply", "--allow", "rewrite"]);
        site.until("held", held).await;
        assert_flows_beside(&site, 12).await;
        reader.batch_execute("commit").await.unwrap();
        assert!(apply.wait().unwrap().success());
        running.stop().await.unwrap();
        site.catch_up().await;
        assert_same(&site, "id, email, price").await;
        assert_agree(&site);
        // an index is no reason to go on before it is made
        users(&site, "id", WIDE, "indexes: [[price]]\n");
        let running = site.start();
        site.until("streaming", STREAMING).await;
        reader
            .batch_execute("begin; lock table cleansed.users in row exclusive mode")
            .await
            .unwrap();
        let mut apply = site.spawn(&["apply"]);
        site.until("held", held).await;
        assert_flows_beside(&site, 13).await;
        reader.batch_execute("commit").await.unwrap();
        assert!(apply.wait().unwrap().success());
        site.until("streaming", STREAMING).await;
        running.stop().await.unwrap();
        assert_same(&site, "id, email, price").await;
        assert_agree(&site);
    });
}

/// The service without the right to make anything: its exit code and what it says.
fn run_without_rights(site: &Site, url: &str) -> (i32, String) {
    let output = site
        .command(&["run", "--no-ddl", "--until-caught-up"])
        .env("WAREHOUSE_URL", url)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

#[test]
fn a_service_without_ddl_leaves_it_to_apply() {
    block_on(async {
        let site = Site::new("noddl").await;
        site.shop(TABLES).await;
        files(&site);
        let role = format!("{}_runner", site.name);
        site.warehouse
            .batch_execute(&format!(
                "create role {role} login password 'r';
                 alter default privileges grant usage on schemas to {role};
                 alter default privileges grant all on tables to {role};
                 alter default privileges grant all on sequences to {role}"
            ))
            .await
            .unwrap();
        let (_, place) = site.warehouse_url.split_once('@').unwrap();
        let url = format!("postgres://{role}:r@{place}");
        let made = format!(
            "select count(*) from pg_class c join pg_namespace n on n.oid = relnamespace \
            where relowner = '{role}'::regrole and nspname !~ '^pg_'"
        );
        let (code, text) = run_without_rights(&site, &url);
        assert!(
            code == 78 && text.contains("0001_control") && text.contains("siltstone apply"),
            "{code}: {text}"
        );
        let catch_up = |stopped: &'static str| {
            let (code, text) = run_without_rights(&site, &url);
            assert!(code == 0 && text.contains(stopped), "{code}: {stopped}: {text}");
        };
        let apply = || {
            let (code, text) = ask(&site, &["apply"]);
            assert!(code == 0 && text.contains("done"), "{code}: {text}");
            assert_agree(&site);
        };
        apply();
        catch_up("");
        assert_same(&site, ROUNDED).await;
        // the source has another shape
        site.shop_each(&[
            "alter table plain add column c int default 3",
            "insert into plain values (2, 'c', 4)",
            "update users set email = 'flows' where id = 3",
        ])
        .await;
        catch_up("");
        assert_stopped(&site, "cleansed.plain", "siltstone apply").await;
        assert_planned(&site, &["cleansed.plain: follow public.plain"]);
        apply();
        catch_up("");
        assert_same(&site, ROUNDED).await;
        site.assert_equal("select a, c from {} order by 1", "plain", "cleansed.plain").await;
        // a leaf that is not there
        site.shop("insert into orders values (500, '2022-05-05', 1), (501, '2021-01-01', 2); update users set email = 'flows on' where id = 3").await;
        catch_up("it lacks 2 leaves");
        assert_stopped(&site, "cleansed.orders", "siltstone apply").await;
        assert_planned(&site, &["cleansed.orders: make 2 leaves"]);
        catch_up("");
        assert_stopped(&site, "cleansed.orders", "siltstone apply").await;
        apply();
        catch_up("");
        assert_same(&site, ROUNDED).await;
        assert_eq!(site.at_warehouse("select count(*) from audit.wanted_leaves").await, ["0"]);
        // a new table, and a new column in a file
        site.shop("create table fresh (id int primary key); insert into fresh values (1)").await;
        users(&site, "id", &format!("{FEW}  age: {{ type: int }}\n"), "");
        catch_up("public.fresh");
        assert_stopped(&site, "cleansed.users", "siltstone apply").await;
        apply();
        catch_up("");
        assert_same(&site, "id, email, round(price, 2), age").await;
        site.assert_equal("select id from {} order by 1", "fresh", "cleansed.fresh").await;
        assert_eq!(site.at_warehouse(&made).await, ["0"]);
    });
}

/// Runs a verb: whether it went well, and all that it says.
fn run_well(site: &Site, arguments: &[&str]) -> (bool, String) {
    let (code, text) = ask(site, arguments);
    (code == 0, text)
}

/// The session that apply begins goes by the files that apply went by: an older one would take the mirror up again.
#[test]
fn a_mirror_that_a_file_takes_over_stays_forgotten() {
    block_on(async {
        let site = Site::new("takenover").await;
        site.shop("create table users (id int primary key, email text); insert into users values (1, 'a')").await;
        let child = site.spawn(&["run"]);
        site.until("streaming", STREAMING_SOME).await;
        site.file(
            "schemas/dim_users.yaml",
            "table: cleansed.dim_users\nfrom: shop.public.users\nhistory: versions\nkey: [id]\n\
             columns:\n  id: { type: integer }\n  email: { type: text }\n",
        );
        let (done, text) = run_well(&site, &["apply", "--yes"]);
        assert!(done && text.contains("forget it"), "{text}");
        for _ in 0..50 {
            let mirror = "select count(*) from audit.tables where table_name = 'cleansed.users'";
            assert_eq!(site.at_warehouse(mirror).await, ["0"]);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        site.until("streaming", STREAMING_SOME).await;
        assert_eq!(site.at_warehouse("select count(*) from audit.gaps").await, ["0"]);
        assert_agree(&site);
        let (well, text) = run_well(&site, &["verify"]);
        assert!(well, "{text}");
        end(child);
    });
}

#[test]
fn a_table_that_nothing_feeds_is_forgotten_by_apply() {
    block_on(async {
        let site = Site::new("unfed").await;
        site.shop("create table users (id int primary key, email text); insert into users values (1, 'a')").await;
        site.catch_up().await;
        // the first file for it takes the place of the mirror
        site.file(
            "schemas/dim_users.yaml",
            "table: cleansed.dim_users\nfrom: shop.public.users\nhistory: versions\nkey: [id]\n\
             columns:\n  id: { type: integer }\n  email: { type: varchar(100) }\n",
        );
        let (_, text) = run_well(&site, &["plan"]);
        assert!(text.contains("forget it: nothing feeds it any more"), "{text}");
        site.catch_up().await;
        let state = site.state("cleansed.users").await;
        assert!(
            state[0] == "paused" && state[2].contains("siltstone apply forgets it"),
            "{state:?}"
        );
        let (well, text) = run_well(&site, &["verify"]);
        assert!(!well && text.contains("siltstone apply forgets it"), "{text}");
        let running = site.start();
        let (done, text) =
            run_well(&site, &["table", "resync", "cleansed.users", "--yes", "--wait"]);
        assert!(!done && text.contains("nothing feeds cleansed.users"), "{text}");
        let (done, text) = run_well(&site, &["apply", "--yes"]);
        assert!(done && text.contains("forget it"), "{text}");
        site.until("forgotten", "select count(*) = 1 from audit.tables").await;
        let streaming = "select bool_and(state = 'streaming') from audit.tables";
        site.until("streaming", streaming).await;
        site.shop("update users set email = 'b'").await;
        site.until("versions", "select count(*) = 2 from cleansed.dim_users").await;
        assert!(running.stop().await.is_ok());
        let (well, text) = run_well(&site, &["plan", "--exit-code"]);
        assert!(well, "{text}");
        let (well, text) = run_well(&site, &["verify"]);
        assert!(well, "{text}");
        assert_eq!(site.at_warehouse("select email from cleansed.users").await, ["a"]);
        // a source table that is dropped is the same
        site.shop("create table other (id int primary key)").await;
        site.catch_up().await;
        site.shop("drop table other").await;
        site.catch_up().await;
        let (_, text) = run_well(&site, &["apply", "--yes"]);
        assert!(text.contains("forget it"), "{text}");
        site.catch_up().await;
        assert_eq!(site.at_warehouse("select count(*) from audit.tables").await, ["1"]);
    });
}

#[test]
fn what_people_hung_on_a_view_hangs_on_it_when_a_type_was_changed() {
    block_on(async {
        let site = Site::new("hung").await;
        let file = |ty: &str| {
            let text = format!(
                "table: cleansed.dim\nfrom: shop.public.users\nhistory: versions\nkey: [id]\n\
                 columns:\n  id: {{ type: integer }}\n  email: {{ type: {ty} }}\n"
            );
            site.file("schemas/dim.yaml", &text);
        };
        file("varchar(50)");
        site.shop("create table users (id int primary key, email text); insert into users values (1, 'a')").await;
        site.catch_up().await;
        site.warehouse
            .batch_execute(
                "do $$ begin create role \"hung Reader\"; exception when duplicate_object then end $$;
                 do $$ begin create role hung_owner; exception when duplicate_object then end $$;
                 grant usage, create on schema cleansed to hung_owner;
                 grant select on cleansed.dim to hung_owner;
                 grant select on cleansed.dim_current to \"hung Reader\" with grant option;
                 grant select (id) on cleansed.dim_current to public;
                 comment on view cleansed.dim_current is 'of the people''s';
                 alter view cleansed.dim_current owner to hung_owner",
            )
            .await
            .unwrap();
        let standing = "select pg_get_userbyid(relowner), obj_description(c.oid, 'pg_class'),
                               (select string_agg(a::text, ' ' order by a::text) from unnest(relacl) a),
                               (select string_agg(attacl::text, ' ') from pg_attribute where attrelid = c.oid)
                          from pg_class c where oid = 'cleansed.dim_current'::regclass";
        let before = site.at_warehouse(standing).await;
        for ty in ["varchar(100)", "varchar(40)"] {
            file(ty);
            let (done, text) = run_well(&site, &["apply", "--allow", "rewrite", "--yes"]);
            assert!(done, "{text}");
            let now = format!(
                "select format_type(atttypid, atttypmod) = 'character varying({}' from pg_attribute where attrelid = 'cleansed.dim_current'::regclass and attname = 'email'",
                &ty[8..]
            );
            assert_eq!(site.at_warehouse(&now).await, ["t"], "{ty}");
            assert_eq!(site.at_warehouse(standing).await, before, "{ty}");
            site.catch_up().await;
        }
    });
}

/// A file that takes a column's values from elsewhere, or does something else with what goes, has the table read
/// again; what reading does not bring back takes a word, or is said.
#[test]
fn another_source_column_and_another_delete_are_taken_up() {
    block_on(async {
        let site = Site::new("feeds").await;
        site.shop(
            "create table users (id bigint primary key, email text, work text);
             insert into users select i, 'e' || i, 'w' || i from generate_series(1, 9) i",
        )
        .await;
        let files = |from: &str, delete: &str| {
            let columns = format!("  email: {{ type: text, from: {from} }}\n");
            users(&site, "id", &columns, delete);
            for (name, history) in [("people", "versions\nkey: [id]"), ("log", "append\nkey: [id]")]
            {
                let head = format!("table: cleansed.{name}\nfrom: shop.public.users\n");
                let body = format!("history: {history}\ncolumns:\n  id: {{ type: bigint }}\n");
                site.file(&format!("schemas/{name}.yaml"), &format!("{head}{body}{columns}"));
            }
        };
        files("email", "delete: ignore\n");
        site.catch_up().await;
        assert_agree(&site);
        site.shop("delete from users where id = 3").await;
        site.catch_up().await;
        files("work", "delete: ignore\n");
        let other = "fill email from work, not email";
        assert_planned(&site, &["safe", "cleansed.users", other, "it is read again"]);
        assert_planned(&site, &["safe", "cleansed.log", other, "from now on"]);
        site.catch_up().await;
        assert_agree(&site);
        let stands = |table: &str| {
            format!("select string_agg(email, ' ' order by id) from cleansed.{table} where id < 5")
        };
        assert_eq!(site.at_warehouse(&stands("users")).await, ["w1 w2 e3 w4"]);
        assert_eq!(site.at_warehouse(&stands("people_current")).await, ["w1 w2 w4"]);
        assert_eq!(site.at_warehouse(&stands("log")).await, ["e1 e2 e3 e4"]);
        files("work", "");
        assert_planned(&site, &["destructive", "cleansed.users", "delete the rows"]);
        site.catch_up().await;
        assert_stopped(&site, "cleansed.users", "siltstone apply --allow destructive").await;
        let (code, text) = ask(&site, &["apply", "--allow", "destructive", "--yes"]);
        assert_eq!(code, 0, "{text}");
        site.catch_up().await;
        assert_agree(&site);
        site.assert_equal("select id from {} order by 1", "users", "cleansed.users").await;
        // the same by `apply`, and a warehouse that an older service has kept
        files("email", "");
        assert_eq!(ask(&site, &["apply"]).0, 0);
        site.catch_up().await;
        assert_agree(&site);
        assert_eq!(site.at_warehouse(&stands("users")).await, ["e1 e2 e4"]);
        site.warehouse.batch_execute("update audit.tables set feeds = null").await.unwrap();
        files("work", "");
        site.catch_up().await;
        assert_agree(&site);
        assert_eq!(site.at_warehouse(&stands("users")).await, ["e1 e2 e4"]);
        // a column that the file lists no more is told of once
        users(&site, "id", "", "");
        let no_more = "feed email no more: it keeps what it holds";
        assert_planned(&site, &["safe", "cleansed.users", no_more, "drop column \"email\""]);
        let (code, text) = ask(&site, &["apply"]);
        assert!(code == 0 && text.contains(no_more), "{text}");
        assert_agree(&site);
        site.catch_up().await;
        assert_eq!(site.at_warehouse(&stands("users")).await, ["e1 e2 e4"]);
    });
}

/// What takes a word takes it also where the table is about to be read: the reading would carry it out.
#[test]
fn rows_that_a_reading_would_delete_take_a_word() {
    block_on(async {
        let site = Site::new("refeeds").await;
        site.shop(
            "create table users (id bigint primary key, email text);
             insert into users select i, 'e' || i from generate_series(1, 9) i",
        )
        .await;
        let columns = "  email: { type: text }\n";
        users(&site, "id", columns, "delete: soft\n");
        site.catch_up().await;
        site.shop("delete from users where id = 3").await;
        site.catch_up().await;
        // the reading waits for a lock
        let lock = connect(Side::Source, &site.source_endpoint, "test").await.unwrap();
        lock.batch_execute("begin; lock public.users in access exclusive mode").await.unwrap();
        let running = site.start();
        assert_eq!(ask(&site, &["table", "resync", "cleansed.users", "--yes"]).0, 0);
        site.until("asked", "select bool_and(state = 'done') from audit.requests").await;
        assert!(running.stop().await.is_ok());
        users(&site, "id", columns, "");
        drop(lock);
        site.catch_up().await;
        assert_stopped(&site, "cleansed.users", "siltstone apply --allow destructive").await;
        assert_eq!(site.at_warehouse("select count(*) from cleansed.users").await, ["9"]);
        let (code, text) = ask(&site, &["apply", "--allow", "destructive", "--yes"]);
        assert_eq!(code, 0, "{text}");
        site.catch_up().await;
        assert_agree(&site);
        site.assert_equal("select id, email from {} order by 1", "users", "cleansed.users").await;
    });
}
