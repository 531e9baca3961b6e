//! Lineage in the books, as people look at it, and as events: it follows the files and what connectors have seen.

use std::process::Stdio;

use serde_json::Value;
use siltstone::lineage::{Cell, Deps, Derived, Kind, Tables, derive};
use siltstone::names::TableName;

use crate::service::{free_port, http, with_admin};
use crate::support::{Posts, Site, block_on};

/// What is told of a column or of rows: each dependence, and how.
async fn told(site: &Site, table: &str, column: &str) -> Vec<String> {
    let mut told = site
        .at_warehouse(&format!(
            "select source_table || '.' || source_column || ' ' || transformation_type
               from audit.data_lineage where target_table = '{table}' and target_column = '{column}'"
        ))
        .await;
    told.sort();
    told
}

async fn says(site: &Site, arguments: &[&str]) -> (i32, String) {
    let mut command = site.command(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let ended = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let said = [ended.stdout, ended.stderr].map(|said| String::from_utf8(said).unwrap());
    (ended.status.code().unwrap(), said.concat())
}

/// A small shop with every kind of table, and a mart.
async fn shop(site: &Site) {
    site.file(
        "schemas/users.yaml",
        "table: cleansed.dim_users\nfrom: shop.public.users\nhistory: versions\nkey: [user_id]\nsince: created_at\n\
         columns:\n  user_id: { from: id, type: bigint }\n  email: { type: text, mask: null }\n  \
         country: { type: text }\n  created_at: { type: timestamptz }\n",
    );
    site.file(
        "schemas/raw_users.yaml",
        "table: raw.stg_users\nfrom: shop.public.users\nlayout: raw\n",
    );
    mart(site, "coalesce(u.country, 'unknown')");
    site.shop(
        "create table users (id int primary key, email text, country text, created_at timestamptz default now());
         create table orders (id bigint primary key, user_id bigint not null, amount numeric(10,2));
         insert into users values (1, 'a', 'DE'); insert into orders values (1, 1, 10)",
    )
    .await;
}

fn mart(site: &Site, country: &str) {
    site.file(
        "sql/marts/countries.sql",
        &format!(
            "/* siltstone\ntable: mart.countries\nkey: [country]\nrefresh_by: country\nmax_age: 1s\nreads:\n  \
             cleansed.orders: {{}}\n  cleansed.dim_users: {{}}\ntoday:\n  share: m.revenue / extract(day from current_date)\n*/\n\
             select {country} as country, count(*) as orders, sum(o.amount) as revenue\n\
             from cleansed.orders o left join cleansed.dim_users u on u.user_id = o.user_id and u.is_current group by 1\n"
        ),
    );
}

const FED: &str = "select count(*) = 3 and bool_and(state = 'streaming') from audit.tables";

#[test]
fn lineage_follows_files_and_tables_and_only_what_differs_is_written() {
    block_on(async {
        let site = Site::new("lineage").await;
        let port = free_port();
        with_admin(&site, port);
        shop(&site).await;
        let mut child = site.spawn(&["run"]);
        site.until("streaming", FED).await;
        let known = "select count(*) = 3 from audit.data_lineage
            where (target_table, target_column, transformation_type) in (
                  ('cleansed.orders', 'amount', 'identity'),
                  ('cleansed.dim_users', 'user_id', 'transformation'),
                  ('raw.stg_users', 'raw_data', 'masking'))";
        site.until("what connectors have seen", known).await;
        let users = "cleansed.dim_users";
        // int becomes bigint
        assert_eq!(told(&site, users, "user_id").await, ["shop.public.users.id transformation"]);
        assert_eq!(told(&site, users, "country").await, ["shop.public.users.country identity"]);
        assert_eq!(told(&site, users, "email").await, ["shop.public.users.email masking"]);
        assert_eq!(
            told(&site, users, "valid_from").await,
            [
                "shop.public.users.* transformation",
                "shop.public.users.country condition",
                "shop.public.users.created_at condition",
                "shop.public.users.created_at transformation",
                "shop.public.users.email condition",
            ]
        );
        assert_eq!(
            told(&site, users, "is_current").await,
            ["cleansed.dim_users.valid_to transformation"]
        );
        assert_eq!(
            told(&site, "cleansed.dim_users_current", "country").await,
            ["cleansed.dim_users.country identity"]
        );
        // a table without a file
        assert_eq!(
            told(&site, "cleansed.orders", "amount").await,
            ["shop.public.orders.amount identity"]
        );
        let raw = told(&site, "raw.stg_users", "raw_data").await;
        assert!(raw.contains(&"shop.public.users.email masking".to_owned()), "{raw:?}");
        assert_eq!(
            told(&site, "mart.countries", "country").await,
            ["cleansed.dim_users.country transformation"]
        );
        assert_eq!(
            told(&site, "mart.countries", "revenue").await,
            ["cleansed.orders.amount aggregation"]
        );
        assert_eq!(
            told(&site, "mart.countries_today", "share").await,
            ["mart.countries.revenue transformation"]
        );
        assert_eq!(
            told(&site, "mart.countries", "*").await,
            [
                "cleansed.dim_users.country group_by",
                "cleansed.dim_users.is_current join",
                "cleansed.dim_users.user_id join",
                "cleansed.orders.user_id join",
            ]
        );
        let secret = "select count(*) from audit.data_lineage l where l::text like '%s3cret%'";
        assert_eq!(site.at_warehouse(secret).await, ["0"]);

        let (code, tree) = says(&site, &["lineage", "mart.countries.country"]).await;
        assert_eq!(code, 0, "{tree}");
        let lines: Vec<&str> = tree.lines().collect();
        assert_eq!(
            lines,
            [
                "mart.countries.country",
                "    cleansed.dim_users.country  transformation: coalesce(u.country, 'unknown')",
                "        shop.public.users.country  identity",
            ]
        );
        let (_, down) = says(&site, &["lineage", "shop.public.orders.amount", "--down"]).await;
        assert!(
            down.contains("        mart.countries.revenue  aggregation: sum(o.amount)"),
            "{down}"
        );
        assert!(down.contains("            mart.countries_today.share"), "{down}");
        let (_, lines) = says(&site, &["lineage", "mart.countries", "--json"]).await;
        let edges = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        assert!(edges.into_iter().any(|edge| edge["source_table"] == "shop.public.users"));
        let (code, said) = says(&site, &["lineage", "no.table"]).await;
        assert!(code == 64 && said.contains("nothing is known of no.table"), "{code} {said}");
        let (code, answer) = http(port, "GET", "/lineage/cleansed.dim_users", "r3ad");
        assert_eq!(code, 200, "{answer}");
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let down = answer["downstream"].as_array().unwrap();
        assert!(down.iter().any(|edge| edge["target_table"] == "mart.countries"), "{answer}");
        assert_eq!(http(port, "GET", "/lineage/no.table", "r3ad").0, 404);

        // another file: what it says is there, what it said is gone, all else is untouched
        let stamp = "select max(last_updated)::text from audit.data_lineage where target_table like 'cleansed.%'";
        let before = site.at_warehouse(stamp).await;
        mart(&site, "upper(u.email)");
        site.file("sql/marts/none.sql", "/* siltstone\ntable: mart.none\nkey: [n]\nmaterialized: true\nreads:\n  \
             cleansed.orders: {}\n*/\nselect secret.n from public.secret(1) secret (n), cleansed.orders\n");
        let pid = child.id().to_string();
        let hangup = std::process::Command::new("kill").args(["-HUP", &pid]).status().unwrap();
        assert!(hangup.success());
        let anew = "select bool_and(source_column in ('email', 'is_current', 'user_id', '*'))
                      from audit.data_lineage where source_table = 'cleansed.dim_users' and target_table = 'mart.countries'";
        site.until("the other file", anew).await;
        // named, and nothing stops
        assert_eq!(told(&site, "mart.none", "n").await, ["?.secret() unresolved"]);
        assert_eq!(site.at_warehouse(stamp).await, before);
        child.kill().unwrap();
        child.wait().unwrap();
    });
}

#[test]
fn a_run_that_ends_has_written_it_down_and_forgets_what_is_gone() {
    block_on(async {
        let site = Site::new("lineage_ends").await;
        shop(&site).await;
        let caught_up = ["run", "--until-caught-up"];
        let (code, said) = says(&site, &caught_up).await;
        assert_eq!(code, 0, "{said}");
        assert_eq!(
            told(&site, "cleansed.orders", "amount").await,
            ["shop.public.orders.amount identity"]
        );
        let of_mart =
            "select count(*) > 5 from audit.data_lineage where target_table like 'mart.%'";
        assert_eq!(site.at_warehouse(of_mart).await, ["t"]);
        site.remove("sql/marts/countries.sql");
        let (code, said) = says(&site, &caught_up).await;
        assert_eq!(code, 0, "{said}");
        let gone = "select count(*) from audit.data_lineage
                     where target_table like 'mart.%' or source_table like 'mart.%'";
        assert_eq!(site.at_warehouse(gone).await, ["0"]);
    });
}

/// A mart and a job with a task that goes well and one that does not.
fn happenings(site: &Site) {
    site.file("sql/good.sql", "select 1;\n");
    site.file("sql/bad.sql", "select 1 / 0;\n");
    site.file(
        "jobs/nightly.yaml",
        "name: nightly\ntasks:\n  good: { sql: sql/good.sql }\n  \
         bad: { sql: sql/bad.sql, retries: 0, depends_on: [good] }\n",
    );
}

fn told_to(site: &Site, place: &str) {
    let settings = std::fs::read_to_string(site.config()).unwrap();
    site.file("siltstone.yaml", &format!("{settings}lineage: {place}\n"));
}

/// What every event must have.
fn is_run_event(event: &Value) {
    for field in ["eventType", "eventTime", "producer", "schemaURL"] {
        assert!(event[field].is_string(), "{field}: {event:#}");
    }
    assert!(event["schemaURL"].as_str().unwrap().contains("/2-0-2/"), "{event:#}");
    assert_eq!(event["run"]["runId"].as_str().unwrap().len(), 36, "{event:#}");
    assert!(event["job"]["namespace"].is_string() && event["job"]["name"].is_string(), "{event:#}");
    for side in ["inputs", "outputs"] {
        for dataset in event[side].as_array().unwrap() {
            assert!(dataset["namespace"].as_str().unwrap().starts_with("postgres://"), "{event:#}");
            for facet in dataset["facets"].as_object().unwrap().values() {
                assert!(facet["_producer"].is_string() && facet["_schemaURL"].is_string());
            }
        }
    }
}

fn find<'e>(events: &'e [Value], job: &str, kind: &str) -> Option<&'e Value> {
    events.iter().find(|event| event["job"]["name"] == job && event["eventType"] == kind)
}

#[test]
fn what_happens_is_told_by_openlineage_and_nobody_waits_for_it() {
    block_on(async {
        let posts = Posts::start().await;
        let site = Site::new("lineage_told").await;
        shop(&site).await;
        happenings(&site);
        told_to(&site, &format!("{{ url: \"{}\", token: s3cret }}", posts.url("/api/v1/lineage")));
        let running = site.start();
        site.until("streaming", FED).await;
        let (code, said) = says(&site, &["job", "run", "nightly", "--wait"]).await;
        assert_eq!(code, 65, "{said}");
        let fresh = "select bool_and(state = 'fresh') from audit.marts";
        site.until("the mart is fresh", fresh).await;
        // of the mart, of the task that went well and of the one that did not: begin and end
        let told = posts.until("/api/v1/lineage", 6).await;
        assert!(told.iter().all(|post| post.authorization == "Bearer s3cret"));
        let told: Vec<Value> = told.into_iter().map(|post| post.body).collect();
        told.iter().for_each(is_run_event);
        let end = find(&told, "mart.countries", "COMPLETE").expect("the mart");
        let begin = find(&told, "mart.countries", "START").unwrap();
        assert_eq!(begin["run"]["runId"], end["run"]["runId"]);
        let output = &end["outputs"][0];
        assert!(output["name"].as_str().unwrap().ends_with("_warehouse.mart.countries"), "{end:#}");
        let fields = output["facets"]["schema"]["fields"].as_array().unwrap();
        let names: Vec<&str> = fields.iter().map(|field| field["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["country", "orders", "revenue"]);
        let columns = &output["facets"]["columnLineage"];
        let revenue = &columns["fields"]["revenue"]["inputFields"][0];
        assert_eq!(revenue["field"], "amount");
        assert_eq!(revenue["transformations"][0]["subtype"], "AGGREGATION");
        let rows = columns["dataset"].as_array().unwrap();
        assert!(
            rows.iter().any(|input| input["transformations"][0]["subtype"] == "JOIN"),
            "{end:#}"
        );
        assert!(find(&told, "nightly.good", "COMPLETE").is_some());
        let failed = find(&told, "nightly.bad", "FAIL").expect("the task that fails");
        let why = failed["run"]["facets"]["errorMessage"]["message"].as_str().unwrap();
        assert!(why.contains("22012") || why.contains("zero"), "{why}");
        // nobody answers any more: jobs go on all the same
        posts.answer(0);
        let started = std::time::Instant::now();
        let (code, _) = says(&site, &["job", "run", "nightly", "--wait"]).await;
        assert_eq!(code, 65);
        assert!(started.elapsed() < std::time::Duration::from_secs(30), "it waited");
        assert!(running.stop().await.is_ok());
    });
}

#[test]
fn events_go_to_a_file_a_line_each() {
    block_on(async {
        let site = Site::new("lineage_file").await;
        shop(&site).await;
        told_to(&site, "{ file: ./out/lineage.jsonl }");
        let (code, said) = says(&site, &["run", "--until-caught-up"]).await;
        assert_eq!(code, 0, "{said}");
        let path = site.config().with_file_name("out").join("lineage.jsonl");
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.ends_with('\n'));
        let events: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        events.iter().for_each(is_run_event);
        let end = find(&events, "mart.countries", "COMPLETE").expect("the mart");
        assert_eq!(end["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"], 1);
        assert!(!text.contains("s3cret"));
    });
}

fn shown(deps: &Deps) -> String {
    let one = |(cell, kind, _): (&Cell, Kind, &str)| {
        format!("{}.{} {}", cell.table, cell.column, kind.word())
    };
    deps.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// The reference marts, over the columns of the declared tables.
fn reference(file: &str) -> Derived {
    let text = std::fs::read_to_string(format!("{}/sql/marts/{file}", env!("CARGO_MANIFEST_DIR")));
    let text = text.unwrap();
    let (_, query) = text.split_once("*/").unwrap();
    let mut tables = Tables::default();
    let known = [
        (
            "fact_orders",
            "order_id user_id product_id order_date quantity unit_price total_amount status",
        ),
        ("fact_payments", "payment_id order_id payment_date amount payment_method status"),
        ("dim_products", "product_id sku product_name category price status created_at"),
        ("dim_users", "user_id email country created_at valid_from valid_to is_current"),
    ];
    for (name, columns) in known {
        let columns = columns.split(' ').map(str::to_owned).collect();
        tables.add(&TableName::new("cleansed", name), columns);
    }
    let derived = derive(query, &tables);
    for deps in derived.columns.iter().map(|column| &column.deps).chain([&derived.rows]) {
        assert!(!shown(deps).contains("unresolved"), "{file}: {}", shown(deps));
    }
    derived
}

#[test]
fn the_reference_marts_are_told_without_a_gap() {
    let of = |derived: &Derived, name: &str| {
        shown(&derived.column(name).unwrap().deps).replace("cleansed.", "")
    };
    let sales = reference("sales_mart.sql");
    assert_eq!(sales.columns.len(), 8);
    assert_eq!(of(&sales, "sale_date"), "fact_orders.order_date identity");
    assert_eq!(of(&sales, "product_category"), "dim_products.category transformation");
    assert_eq!(of(&sales, "total_revenue"), "fact_orders.total_amount aggregation");
    assert_eq!(
        of(&sales, "revenue_per_customer"),
        "fact_orders.total_amount aggregation, fact_orders.user_id aggregation"
    );
    assert_eq!(
        shown(&sales.rows).replace("cleansed.", ""),
        "dim_products.category group_by, dim_products.product_id join, dim_users.country group_by, \
         dim_users.is_current join, dim_users.user_id join, fact_orders.order_date group_by, \
         fact_orders.product_id join, fact_orders.user_id join"
    );
    let customers = reference("customer_mart.sql");
    assert_eq!(of(&customers, "customer_segment"), "fact_orders.total_amount condition");
    assert_eq!(of(&customers, "total_orders"), "fact_orders.order_id aggregation");
    let inventory = reference("inventory_mart.sql");
    assert_eq!(of(&inventory, "sku"), "dim_products.sku identity");
    let days = reference("kpi_dashboard.sql");
    assert_eq!(days.columns.len(), 15);
    assert_eq!(
        of(&days, "day"),
        "fact_orders.order_date identity, fact_payments.payment_date identity"
    );
    assert_eq!(of(&days, "orders"), "fact_orders.* aggregation");
    assert_eq!(
        of(&days, "payment_success_rate"),
        "fact_payments.* aggregation, fact_payments.status condition"
    );
    assert_eq!(of(&days, "previous_new_customers"), "dim_users.* aggregation");
    assert!(days.column("previous_revenue").unwrap().logic.contains("sum(total_amount)"));
}
