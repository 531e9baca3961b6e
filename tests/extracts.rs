//! Extracts: what an API tells of an interval comes into raw and from there into declared tables, once, whatever
//! the API and the machine do meanwhile.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::jobs::{ask, job};
use crate::service::http;
use crate::support::{Api, Asked, Proxy, Reply, Site, block_on, by_offset, end, signal};

const RAW: &str = "table: raw.stg_products\nfrom: products-api.products\nlayout: raw\n";

const COLUMNS: &str = "columns:
  product_id:   { from: id, type: bigint }
  product_name: { from: title, type: varchar(40), required: true }
  price:        { type: \"numeric(10,2)\" }
  tags:         { type: jsonb }
  updated_at:   { from: updated, type: timestamptz }
";

const TASKS: &str =
    "  extract: { extract: products-api.products, into: raw.stg_products, retries: 0 }
  load:    { load: cleansed.dim_products, depends_on: [extract], retries: 0 }";

const DAILY: &str = "schedule: { cron: \"0 2 * * *\", timezone: Europe/Berlin, interval: day }";

/// A site whose products come of an API.
async fn site(name: &str, api: &Api, fields: &str, history: &str) -> Site {
    let site = Site::new(name).await;
    site.remove("connectors/shop.yaml");
    endpoint(
        &site,
        api,
        fields,
        "path: /v1/products, params: { updated_after: \":interval_start\" }, records: $.products, \
         page: { by: offset, size: 100, param: skip, limit: limit }, key: [id]",
    );
    site.file("schemas/stg_products.yaml", RAW);
    site.file(
        "schemas/dim_products.yaml",
        &format!("table: cleansed.dim_products\nfrom: products-api.products\nkey: [product_id]\n{history}{COLUMNS}"),
    );
    job(&site, "etl", DAILY, TASKS);
    site
}

fn endpoint(site: &Site, api: &Api, fields: &str, endpoint: &str) {
    site.file(
        "connectors/products-api.yaml",
        &format!(
            "name: products-api\nkind: http\nurl: {}\nauth: {{ bearer: not-for-the-log }}\n{fields}\
             endpoints:\n  products: {{ {endpoint} }}\n",
            api.url()
        ),
    );
}

fn product(id: u32, title: &str, price: &str, updated: &str) -> Value {
    let price: serde_json::Number = price.parse().unwrap();
    json!({ "id": id, "title": title, "price": price, "tags": ["a", 1], "updated": updated })
}

fn products(count: u32) -> Vec<Value> {
    (1..=count).map(|id| product(id, &format!("p{id}"), "9.25", "2024-03-10T08:00:00Z")).collect()
}

/// Runs the job for a date; what it says where it fails.
async fn run(site: &Site, date: &str) -> Result<(), String> {
    match ask(site, &["run", "etl", "--date", date, "--wait"]).await {
        (_, 0) => Ok(()),
        (said, _) => {
            let why = "select coalesce(string_agg(task_id || ': ' || error_message, '; ' order by log_id), '')
                         from audit.etl_logs where status = 'failed'
                          and run = (select max(run) from audit.job_runs)";
            Err(format!("{said}\n{}", site.at_warehouse(why).await.join("\n")))
        }
    }
}

/// A raw table, byte by byte.
async fn raw(site: &Site) -> Vec<String> {
    site.at_warehouse(
        "select id, loaded_at, created_at, load_id, source_system, raw_data from raw.stg_products order by id",
    )
    .await
}

/// A table's rows, but for when they were written.
async fn rows(site: &Site) -> Vec<String> {
    site.at_warehouse(
        "select to_jsonb(t) - '_synced_at' from cleansed.dim_products t order by product_id, to_jsonb(t)::text",
    )
    .await
}

#[test]
fn extracts_come_page_by_page_and_a_date_that_is_run_again_changes_nothing() {
    block_on(async {
        let api = Api::start(products(250)).await;
        let site = site("extract", &api, "", "").await;
        let running = site.start();
        assert_eq!(run(&site, "2024-03-10").await, Ok(()));
        let asked = api.asked();
        let skips: Vec<&str> = asked.iter().map(|asked| asked.query["skip"].as_str()).collect();
        assert_eq!(skips, ["0", "100", "200", "250"]);
        for asked in &asked {
            assert_eq!(asked.path, "/v1/products");
            assert_eq!(asked.query["limit"], "100");
            assert_eq!(asked.query["updated_after"], "2024-03-10T00:00:00+01:00");
            assert_eq!(asked.authorization, "Bearer not-for-the-log");
        }
        let there = "select count(*), count(distinct product_id), min(product_name), min(price), min(tags::text),
                            min(updated_at at time zone 'utc'), bool_and(_ord = 0) from cleansed.dim_products";
        assert_eq!(
            site.at_warehouse(there).await,
            ["250|250|p1|9.25|[\"a\", 1]|2024-03-10 08:00:00|t"]
        );
        let document = "select raw_data, load_id, source_system from raw.stg_products where raw_data->'key'->>'id' = '7'";
        let expected = "{\"op\": \"r\", \"tx\": null, \"key\": {\"id\": \"7\"}, \"ord\": 0, \
             \"seq\": \"1710111600000000\", \"after\": {\"id\": \"7\", \"tags\": \"[\\\"a\\\",1]\", \
             \"price\": \"9.25\", \"title\": \"p7\", \"updated\": \"2024-03-10T08:00:00Z\"}, \
             \"before\": null, \"schema\": null, \"unchanged\": [], \
             \"committed_at\": \"2024-03-10 23:00:00+00\"}|2024-03-10|products-api";
        assert_eq!(site.at_warehouse(document).await, [expected]);
        let logged =
            "select task_id, status, records_processed from audit.etl_logs order by log_id";
        assert_eq!(site.at_warehouse(logged).await, ["extract|success|250", "load|success|250"]);
        // again: the same rows, be they told in another order, are the same warehouse
        let (before, loaded) = (raw(&site).await, rows(&site).await);
        api.has(products(250).into_iter().rev().collect());
        assert_eq!(run(&site, "2024-03-10").await, Ok(()));
        assert_eq!(raw(&site).await, before);
        assert_eq!(rows(&site).await, loaded);
        // a later date brings what is newer, and a date of before brings none of it back
        let mut newer = products(250);
        newer[6] = product(7, "seven", "7.77", "2024-03-11T08:00:00Z");
        newer.push(product(251, "new", "1", "2024-03-11T09:00:00Z"));
        api.has(newer);
        assert_eq!(run(&site, "2024-03-11").await, Ok(()));
        api.has(products(250));
        assert_eq!(run(&site, "2024-03-10").await, Ok(()));
        let seven = "select product_name, price from cleansed.dim_products where product_id in (7, 251) order by 1";
        assert_eq!(site.at_warehouse(seven).await, ["new|1.00", "seven|7.77"]);
        // what the same date tells otherwise the next time takes the place of what it had told
        let mut other = products(249);
        other[7] = product(8, "eight", "8.88", "2024-03-10T08:00:00Z");
        api.has(other);
        assert_eq!(run(&site, "2024-03-10").await, Ok(()));
        let of_day =
            "select count(*), count(*) filter (where raw_data->>'ord' = '1') from raw.stg_products
                       where load_id = '2024-03-10'";
        assert_eq!(site.at_warehouse(of_day).await, ["249|1"]);
        let eight = "select product_name, price from cleansed.dim_products where product_id = 8";
        assert_eq!(site.at_warehouse(eight).await, ["eight|8.88"]);
        assert_eq!(site.at_warehouse("select count(*) from cleansed.dim_products").await, ["251"]);
        assert!(running.stop().await.is_ok());
    });
}

#[test]
fn an_api_that_stumbles_is_asked_again_and_one_that_fails_leaves_nothing() {
    block_on(async {
        let api = Api::start(products(150)).await;
        let site = site("extract_faults", &api, "", "").await;
        let running = site.start();
        // twice 500, then too many, then an answer that breaks off, and one without an end
        api.answers(|asked, rows| match asked.number {
            0 | 1 => Reply::Code(500, None),
            2 => Reply::Code(429, Some("2")),
            3 => Reply::Cut("{\"products\": [{\"id\": 1".to_owned()),
            4 => Reply::Text("{\"products\": [{\"id\": 1".to_owned()),
            _ => by_offset(asked, rows),
        });
        assert_eq!(run(&site, "2024-03-10").await, Ok(()));
        let asked = api.asked();
        assert_eq!(asked.len(), 8, "{asked:#?}");
        let waited = asked[3].at - asked[2].at;
        assert!(waited >= Duration::from_secs(2), "{waited:?} behind Retry-After: 2");
        assert_eq!(site.at_warehouse("select count(*) from cleansed.dim_products").await, ["150"]);
        let before = raw(&site).await;
        let page = |rows: Value| Reply::Json(json!({ "products": rows }));
        type Case = (&'static str, Box<dyn Fn(usize) -> Reply + Send + Sync>);
        let cases: Vec<Case> = vec![
            ("page 1 answers 404", Box::new(|_| Reply::Code(404, None))),
            ("page 1 answers 401", Box::new(|_| Reply::Code(401, None))),
            ("page 1 answers 302", Box::new(|_| Reply::Code(302, None))),
            (
                "page 2 is no JSON",
                Box::new(move |n| match n {
                    0 => page(json!([{ "id": 1 }])),
                    _ => Reply::Text("<html>sorry</html>".to_owned()),
                }),
            ),
            (
                "page 2 has the rows of a page before it",
                Box::new(move |_| page(json!([{ "id": 1 }]))),
            ),
            (
                "page 2: row 2 lacks its key's id",
                Box::new(move |n| match n {
                    0 => page(json!([{ "id": 1 }])),
                    _ => page(json!([{ "id": 2 }, { "name": "x" }])),
                }),
            ),
            (
                "page 1 has nothing at $.products",
                Box::new(|_| Reply::Json(json!({ "error": "no" }))),
            ),
            ("page 1 has no list at $.products", Box::new(move |_| page(json!({ "id": 1 })))),
        ];
        for (why, reply) in cases {
            api.asked();
            api.answers(move |asked, _| reply(asked.number));
            let said = run(&site, "2024-03-11").await.unwrap_err();
            assert!(said.contains(why) && said.contains("/v1/products, "), "{why}: {said}");
            assert!(!said.contains("not-for-the-log") && !said.contains("updated_after"), "{said}");
            assert!(said.contains("connectors/products-api.yaml"), "no remedy: {said}");
        }
        assert_eq!(raw(&site).await, before, "what failed left something");
        assert!(running.stop().await.is_ok());
    });
}

#[test]
fn a_row_that_does_not_fit_fails_the_load_by_its_columns_name() {
    block_on(async {
        let mut rows = products(5);
        rows[1]["price"] = json!("free");
        rows[2]["title"] = json!("x".repeat(41));
        rows[3].as_object_mut().unwrap().remove("title");
        rows[4]["price"] = json!(1_234_567_890);
        let api = Api::start(rows).await;
        let site = site("extract_types", &api, "", "").await;
        let running = site.start();
        let said = run(&site, "2024-03-10").await.unwrap_err();
        for why in [
            "load: cleansed.dim_products: 4 of 5 rows do not fit",
            "its price is not a number",
            "its product_name is longer than 40 characters",
            "its product_name is NULL",
            "schemas/dim_products.yaml",
        ] {
            assert!(said.contains(why), "{why}: {said}");
        }
        assert!(!said.contains("free"), "a value is told: {said}");
        // raw has all of it, and the table none
        assert_eq!(site.at_warehouse("select count(*) from raw.stg_products").await, ["5"]);
        assert_eq!(site.at_warehouse("select count(*) from cleansed.dim_products").await, ["0"]);
        api.has(products(5));
        assert_eq!(run(&site, "2024-03-10").await, Ok(()));
        assert_eq!(site.at_warehouse("select count(*) from cleansed.dim_products").await, ["5"]);
        assert!(running.stop().await.is_ok());
    });
}

#[test]
fn requests_are_no_closer_than_the_rate_allows() {
    block_on(async {
        let api = Api::start(products(400)).await;
        let site = site("extract_rate", &api, "rate: 5/s\n", "").await;
        let running = site.start();
        assert_eq!(run(&site, "2024-03-10").await, Ok(()));
        let asked = api.asked();
        assert_eq!(asked.len(), 5);
        // of two neighbours one may have been on its way for longer
        let all = asked[4].at - asked[0].at;
        assert!(all >= Duration::from_millis(750), "five requests within {all:?}");
        assert!(running.stop().await.is_ok());
    });
}

#[test]
fn limits_that_extracts_come_to_are_counted() {
    block_on(async {
        let api = Api::start(products(250)).await;
        let site = site("extract_limits", &api, "rate: 10/s\nlimits: { rows: 150 }\n", "").await;
        let port = metered(&site, "").await;
        let running = site.spawn(&["run"]);
        let said = run(&site, "2024-03-10").await.unwrap_err();
        assert!(said.contains("more rows than limits.rows allows"), "{said}");
        let (_, metrics) = http(port, "GET", "/metrics", "r3ad");
        let reached =
            "siltstone_extract_limits_total{connector=\"products-api\",limit=\"limits.rows\"} 1\n";
        assert!(metrics.contains(reached), "{metrics}");
        assert!(waited(&metrics, "products-api") > 0.05, "{metrics}");
        end(running);
    });
}

/// Lets a site's service tell its metrics; on which port.
pub async fn metered(site: &Site, settings: &str) -> u16 {
    let port = Proxy::free_port().await;
    site.file(
        "siltstone.yaml",
        &format!(
            "warehouse: {{ url: \"${{WAREHOUSE_URL}}\" }}\n\
             admin: {{ listen: \"127.0.0.1:{port}\", token: s3cret, read_token: r3ad }}\n{settings}"
        ),
    );
    port
}

/// How long extracts of a connector have waited for its rate.
pub fn waited(metrics: &str, connector: &str) -> f64 {
    let series = format!("siltstone_extract_waited_seconds_total{{connector=\"{connector}\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&series));
    line.map_or(0.0, |seconds| seconds.parse().unwrap())
}

#[test]
fn a_kill_at_any_moment_leaves_what_a_whole_run_leaves() {
    block_on(async {
        let api = Api::start(products(250)).await;
        let whole = site("extract_whole", &api, "", "").await;
        let running = whole.start();
        assert_eq!(run(&whole, "2024-03-10").await, Ok(()));
        assert!(running.stop().await.is_ok());
        let (expected, kept) = (rows(&whole).await, raw(&whole).await.len());
        let site = site("extract_killed", &api, "", "").await;
        // the load waits for a moment, so that a kill comes between
        let tasks = "  extract: { extract: products-api.products, into: raw.stg_products, retry_delay: 100ms }
  pause:   { command: [sleep, \"2\"], depends_on: [extract], retry_delay: 100ms }
  load:    { load: cleansed.dim_products, depends_on: [pause], retry_delay: 100ms }";
        job(&site, "etl", DAILY, tasks);
        api.asked();
        // its third page does not come
        api.answers(|asked, rows| match asked.query["skip"].as_str() {
            "200" => Reply::Never,
            _ => by_offset(asked, rows),
        });
        let mut killed = site.spawn(&["run"]);
        site.until(
            "the schedule",
            "select exists (select from audit.owner where resource = 'scheduler')",
        )
        .await;
        let (said, code) = ask(&site, &["run", "etl", "--date", "2024-03-10"]).await;
        assert_eq!(code, 0, "{said}");
        api.until(3).await;
        signal(&killed, "-KILL");
        killed.wait().unwrap();
        assert_eq!(site.at_warehouse("select count(*) from raw.stg_products").await, ["0"]);
        api.answers(by_offset);
        let mut killed = site.spawn(&["run"]);
        site.until(
            "the extract",
            "select exists (select from audit.etl_logs where task_id = 'pause' and status = 'running')",
        )
        .await;
        signal(&killed, "-KILL");
        killed.wait().unwrap();
        assert_eq!(
            site.at_warehouse("select count(*) from raw.stg_products").await,
            [kept.to_string()]
        );
        let before = raw(&site).await;
        let began = Instant::now();
        let running = site.start();
        site.until(
            "the load",
            "select exists (select from audit.job_runs where state = 'success')",
        )
        .await;
        assert!(began.elapsed() < Duration::from_secs(120));
        assert_eq!(raw(&site).await, before);
        assert_eq!(rows(&site).await, expected);
        assert!(running.stop().await.is_ok());
    });
}

#[test]
fn each_way_of_paging_brings_every_row_once() {
    block_on(async {
        let rows = products(45);
        let api = Api::start(rows).await;
        let site = site("extract_pages", &api, "", "").await;
        let items = |rows: &[Value], from: usize| -> Vec<Value> {
            rows.iter().skip(from).take(20).cloned().collect()
        };
        let from = |asked: &Asked, name: &str| {
            asked.query.get(name).map_or(0, |given| given.parse().unwrap())
        };
        type Rule = Box<dyn Fn(&Asked, &[Value]) -> Reply + Send + Sync>;
        let ways: Vec<(&str, &str, Rule)> = vec![
            (
                "2024-03-01",
                "path: \"/n/:ds\", records: $.items, page: { by: page, size: 20, limit: per, total: $.total }, key: [id]",
                Box::new(move |asked, rows| {
                    assert_eq!(
                        (asked.path.as_str(), asked.query["per"].as_str()),
                        ("/n/2024-03-01", "20")
                    );
                    let page = (from(asked, "page") - 1) * 20;
                    Reply::Json(json!({ "items": items(rows, page), "total": rows.len() }))
                }),
            ),
            (
                "2024-03-02",
                "path: /c, records: $.items, page: { by: cursor, param: after, next: $.meta.next }, key: [id]",
                Box::new(move |asked, rows| {
                    let at = from(asked, "after");
                    let next = (at + 20 < rows.len()).then_some(at + 20);
                    Reply::Json(json!({ "items": items(rows, at), "meta": { "next": next } }))
                }),
            ),
            (
                "2024-03-03",
                "path: /l, page: { by: link }, key: [id]",
                Box::new(move |asked, rows| {
                    let at = from(asked, "at");
                    let page = json!(items(rows, at));
                    match at + 20 < rows.len() {
                        true => Reply::Linked(
                            page,
                            format!("</l>; rel=first, </l?at={}>; rel=\"next\"", at + 20),
                        ),
                        false => Reply::Json(page),
                    }
                }),
            ),
            (
                "2024-03-04",
                "path: /b, records: $.items, page: { by: link, next: $.links.next }, key: [id]",
                Box::new(move |asked, rows| {
                    let at = from(asked, "at");
                    let next = (at + 20 < rows.len()).then(|| format!("/b?at={}", at + 20));
                    Reply::Json(json!({ "items": items(rows, at), "links": { "next": next } }))
                }),
            ),
        ];
        for (date, way, rule) in ways {
            endpoint(&site, &api, "", way);
            api.answers(rule);
            api.asked();
            let running = site.start();
            assert_eq!(run(&site, date).await, Ok(()), "{way}");
            assert_eq!(api.asked().len(), 3, "{way}");
            let brought = format!(
                "select count(*), count(distinct raw_data->'key'->>'id') from raw.stg_products where load_id = '{date}'"
            );
            assert_eq!(site.at_warehouse(&brought).await, ["45|45"], "{way}");
            assert!(running.stop().await.is_ok());
        }
    });
}

#[test]
fn versions_follow_the_intervals_whatever_ran_first() {
    block_on(async {
        let api = Api::start(Vec::new()).await;
        let history = "history: versions\ntrack: [product_name, price]\n";
        let site = site("extract_versions", &api, "", history).await;
        let running = site.start();
        let day = async |date: &str, price: &str| {
            api.has(vec![product(1, "p", price, "2024-04-01T00:00:00Z")]);
            assert_eq!(run(&site, date).await, Ok(()), "{date}");
        };
        let versions = async || {
            site.at_warehouse(
                "select price, valid_from at time zone 'utc', valid_to at time zone 'utc', is_current
                   from cleansed.dim_products order by valid_from",
            )
            .await
        };
        day("2024-03-10", "1").await;
        day("2024-03-12", "3").await;
        let expected = [
            "1.00|2024-03-10 23:00:00|2024-03-12 23:00:00|f",
            "3.00|2024-03-12 23:00:00|9999-12-31 00:00:00|t",
        ];
        assert_eq!(versions().await, expected);
        // late: it takes its place between them
        day("2024-03-11", "2").await;
        let expected = [
            "1.00|2024-03-10 23:00:00|2024-03-11 23:00:00|f",
            "2.00|2024-03-11 23:00:00|2024-03-12 23:00:00|f",
            "3.00|2024-03-12 23:00:00|9999-12-31 00:00:00|t",
        ];
        assert_eq!(versions().await, expected);
        for (date, price) in [("2024-03-10", "1"), ("2024-03-11", "2"), ("2024-03-12", "3")] {
            let before = rows(&site).await;
            day(date, price).await;
            assert_eq!(rows(&site).await, before, "{date} again");
        }
        // the same days tell something else the next time, one of before and the last one
        day("2024-03-11", "2.5").await;
        day("2024-03-12", "3.5").await;
        let expected = [
            "1.00|2024-03-10 23:00:00|2024-03-11 23:00:00|f",
            "2.50|2024-03-11 23:00:00|2024-03-12 23:00:00|f",
            "3.50|2024-03-12 23:00:00|9999-12-31 00:00:00|t",
        ];
        assert_eq!(versions().await, expected);
        assert_eq!(
            site.at_warehouse("select count(*) from cleansed.dim_products_current").await,
            ["1"]
        );
        assert!(running.stop().await.is_ok());
    });
}

#[test]
fn people_are_told_up_to_when_a_table_has_been_brought() {
    block_on(async {
        let api = Api::start(products(3)).await;
        let site =
            site("extract_told", &api, "", "checks: [{ freshness: { max_age: 1d } }]\n").await;
        let said = async |arguments: &[&str]| {
            let mut command = site.command(arguments);
            let output =
                tokio::task::spawn_blocking(move || command.stdout(Stdio::piped()).output());
            let output = output.await.unwrap().unwrap();
            (String::from_utf8(output.stdout).unwrap(), output.status.code())
        };
        // `apply` makes them as `plan` says, and then nothing differs
        let (planned, _) = said(&["plan"]).await;
        for table in ["raw.stg_products", "cleansed.dim_products"] {
            assert!(planned.contains(table), "{table}: {planned}");
        }
        let (applied, code) = said(&["apply"]).await;
        assert_eq!(code, Some(0), "{applied}");
        let (planned, code) = said(&["plan", "--exit-code"]).await;
        assert_eq!(code, Some(0), "{planned}");
        let running = site.start();
        let (listed, _) = said(&["table", "list"]).await;
        assert!(listed.contains("loaded") && listed.contains("none has yet"), "{listed}");
        assert_eq!(run(&site, "2024-03-10").await, Ok(()));
        let (listed, _) = said(&["table", "list"]).await;
        assert!(
            listed
                .contains("from products-api.products; it has what was up to 2024-03-10T23:00:00Z"),
            "{listed}"
        );
        let (why, code) = said(&["why", "cleansed.dim_products"]).await;
        assert!(why.contains("of 2024-03-10, up to 2024-03-10 23:00:00+00"), "{code:?}: {why}");
        // years ago
        let (checked, code) = said(&["check", "run", "cleansed.dim_products"]).await;
        assert_eq!(code, Some(65), "{checked}");
        let now = "update audit.loads set interval_end = now()";
        site.warehouse.batch_execute(now).await.unwrap();
        let (checked, code) = said(&["check", "run", "cleansed.dim_products"]).await;
        assert_eq!(code, Some(0), "{checked}");
        assert!(running.stop().await.is_ok());
    });
}
