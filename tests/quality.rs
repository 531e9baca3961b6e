//! Checks: each kind passes and fails, rows that fail are kept and no more than those, gates stop what is behind
//! them and nothing else, marts wait and go on.

use std::process::Stdio;

use serde_json::Value;

use crate::support::{Site, block_on};

/// Runs a verb of `siltstone check`; what it says, line by line, and its exit code.
async fn check(site: &Site, arguments: &[&str]) -> (Vec<String>, i32) {
    say(site, &[&["check"], arguments].concat()).await
}

async fn say(site: &Site, arguments: &[&str]) -> (Vec<String>, i32) {
    let mut command = site.command(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let ended = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let said = String::from_utf8(ended.stdout).unwrap();
    let error = String::from_utf8(ended.stderr).unwrap();
    let lines = said.lines().chain(error.lines()).map(str::to_owned);
    (lines.collect(), ended.status.code().unwrap())
}

/// The status of each check that was judged now, by its name.
async fn statuses(site: &Site, arguments: &[&str]) -> (Vec<(String, Value)>, i32) {
    let (lines, code) = check(site, &[&["run", "--json"], arguments].concat()).await;
    let read = |line: &String| {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{lines:#?}"));
        let name =
            format!("{}: {}", value["table"].as_str().unwrap(), value["name"].as_str().unwrap());
        (name, value)
    };
    (lines.iter().filter(|line| line.starts_with('{')).map(read).collect(), code)
}

fn of<'v>(found: &'v [(String, Value)], name: &str) -> &'v Value {
    let value = found.iter().find(|(known, _)| known == name);
    value.map(|(_, value)| value).unwrap_or_else(|| panic!("no {name} in {found:#?}"))
}

const USERS: &str = "table: cleansed.users
from: shop.public.users
history: versions
key: [user_id]
columns:
  user_id: { from: id, type: bigint }
  email:   { type: text }
  tier:    { type: text }
  age:     { type: integer }
  phone:   { type: text, mask: null }
checks:
";

const ORDERS: &str = "table: cleansed.orders
from: shop.public.orders
key: [order_id]
columns:
  order_id: { from: id, type: bigint }
  user_id:  { type: bigint }
  day:      { type: date }
checks:
";

const TABLES: &str = "create table users (id bigint primary key, email text, tier text, age int, phone text);
    create table orders (id bigint primary key, user_id bigint, day date);
    create table marker (id bigint primary key);
    insert into users select i, 'u' || i, 'free', 20 + i % 50, 's3cret' || i from generate_series(1, 40) i;
    insert into orders select i, 1 + i % 40, current_date - (i % 60)::int from generate_series(1, 6000) i";

fn files(site: &Site) {
    site.file(
        "schemas/users.yaml",
        &format!(
            "{USERS}  - {{ unique: [email], where: is_current -- now, keep_rows: 2, tag: gate }}
  - {{ not_null: [email], keep_rows: 3 }}
  - {{ accepted_values: {{ tier: [free, basic] }}, severity: warn }}
  - {{ range: {{ age: {{ min: 0, max: 150 }} }}, fail_if: \"> 1\", warn_if: \"> 0\" }}
  - {{ row_count: {{ min: 10 }}, where: is_current, tag: gate }}
  - {{ freshness: {{ max_age: 10m }} }}
  - {{ sql: sql/quality/old.sql }}
  - {{ sql: sql/quality/broken.sql, severity: warn }}
  - {{ sql: sql/quality/writes.sql, severity: warn }}
"
        )
        .replace("where: is_current -- now", "where: \"is_current -- now\""),
    );
    site.file(
        "schemas/orders.yaml",
        &format!(
            "{ORDERS}  - {{ relationships: {{ user_id: cleansed.users.user_id }} }}
  - {{ relationships: {{ user_id: cleansed.users.user_id }}, where: order_id > 0, grace: 10m }}
  - {{ volume: {{ per: day, by: day, seasonality: none }} }}
  - {{ freshness: {{ max_age: 1ms }} }}
"
        ),
    );
    site.file("sql/quality/old.sql", "select user_id, age from cleansed.users where age > 200;\n");
    site.file("sql/quality/broken.sql", "select * from nowhere\n");
    site.file("sql/quality/writes.sql", "select nextval('counter')\n");
}

/// Waits until what the source has is in the warehouse.
async fn settled(site: &Site, mark: u64) {
    site.shop(&format!("insert into marker values ({mark})")).await;
    let there = format!("select exists (select from cleansed.marker where id = {mark})");
    site.until("the stream", &there).await;
}

#[test]
fn each_kind_passes_and_fails() {
    block_on(async {
        let site = Site::new("checks").await;
        site.shop(TABLES).await;
        site.warehouse.batch_execute("create sequence counter").await.unwrap();
        files(&site);
        let service = site.start();
        site.until("streaming", "select count(*) = 3 from audit.tables where state = 'streaming'")
            .await;
        settled(&site, 1).await;
        site.until("told", "select exists (select from audit.freshness)").await;
        let (found, code) = statuses(&site, &[]).await;
        assert_eq!((found.len(), code), (13, 65), "{found:#?}");
        let passes = [
            "cleansed.users: unique(email) where is_current -- now",
            "cleansed.users: not_null(email)",
            "cleansed.users: accepted_values(tier)",
            "cleansed.users: range(age)",
            "cleansed.users: row_count where is_current",
            "cleansed.users: freshness",
            "cleansed.users: sql(old)",
            "cleansed.orders: relationships(user_id)",
            "cleansed.orders: relationships(user_id) where order_id > 0",
            "cleansed.orders: volume(day)",
        ];
        for name in passes {
            assert_eq!(of(&found, name)["status"], "PASS", "{name}: {:#}", of(&found, name));
        }
        // a source's time is always of a moment ago
        assert_eq!(of(&found, "cleansed.orders: freshness")["status"], "FAIL");
        // what cannot be judged is that check's own error, and changes nothing
        for (name, why) in [("broken", "42P01"), ("writes", "25006")] {
            let broken = of(&found, &format!("cleansed.users: sql({name})"));
            assert_eq!(broken["status"], "WARN", "{broken:#}");
            assert!(broken["error"].as_str().unwrap().contains(why), "{broken:#}");
        }
        assert_eq!(site.at_warehouse("select is_called from counter").await, ["f"]);
        site.shop(
            "insert into users select i, case when i > 110 then 'same' end, 'gold', 300, 's3cret' from generate_series(101, 120) i;
             insert into orders values (9001, 777, current_date), (9002, null, null);
             delete from orders where day = current_date - 1",
        )
        .await;
        settled(&site, 2).await;
        let (found, code) = statuses(&site, &[]).await;
        assert_eq!(code, 65);
        let unique = of(&found, passes[0]);
        assert_eq!(
            (&unique["status"], &unique["failing"]),
            (&"FAIL".into(), &1.into()),
            "{unique:#}"
        );
        let missing = of(&found, passes[1]);
        assert_eq!(
            (&missing["failing"], &missing["checked"], &missing["kept_rows"]),
            (&10.into(), &60.into(), &3.into())
        );
        assert_eq!(of(&found, passes[2])["status"], "WARN");
        assert_eq!(
            (&of(&found, passes[2])["failing"], &of(&found, passes[2])["kept_rows"]),
            (&20.into(), &20.into())
        );
        assert_eq!(of(&found, passes[3])["status"], "FAIL");
        assert_eq!(of(&found, passes[4])["status"], "PASS");
        assert_eq!(
            (&of(&found, passes[6])["status"], &of(&found, passes[6])["failing"]),
            (&"FAIL".into(), &20.into())
        );
        let lacking = of(&found, passes[7]);
        assert_eq!(
            (&lacking["status"], &lacking["failing"]),
            (&"FAIL".into(), &1.into()),
            "{lacking:#}"
        );
        assert_eq!(of(&found, passes[8])["status"], "PASS", "it has come a moment ago");
        let volume = of(&found, passes[9]);
        assert_eq!(
            (&volume["status"], &volume["checked"]),
            (&"FAIL".into(), &0.into()),
            "{volume:#}"
        );
        let kept = "select row->>'_rows', row->>'email' from audit.data_quality_rows where check_name like 'unique%'";
        assert_eq!(site.at_warehouse(kept).await, ["10|same"]);
        let kept = "select row->>'_lacks', row->>'order_id' from audit.data_quality_rows where check_name = 'relationships(user_id)'";
        assert_eq!(site.at_warehouse(kept).await, ["user_id|9001"]);
        let secrets =
            "select count(*) from audit.data_quality_rows where row::text like '%s3cret%'";
        assert_eq!(site.at_warehouse(secrets).await, ["0"]);
        let complete = "select round(completeness) from audit.data_quality where kind = 'not_null' order by check_id";
        assert_eq!(site.at_warehouse(complete).await, ["100", "83"]);
        // mended, the rows that were kept go
        site.shop("delete from users where id > 100").await;
        settled(&site, 3).await;
        let (found, code) = statuses(&site, &["cleansed.users", "--tag", "gate"]).await;
        assert_eq!((found.len(), code), (2, 0), "{found:#?}");
        let kept = "select count(*) from audit.data_quality_rows where check_name like 'unique%'";
        assert_eq!(site.at_warehouse(kept).await, ["0"]);
        let (lines, code) = check(&site, &["list"]).await;
        assert!(
            code == 0 && lines.iter().any(|line| line.starts_with("PASS  cleansed.users: unique")),
            "{lines:#?}"
        );
        assert_eq!(check(&site, &["run", "cleansed.nothing"]).await.1, 64);
        service.stop().await.unwrap();
    });
}

#[test]
fn a_gate_stops_what_is_behind_it_and_never_the_stream() {
    block_on(async {
        let site = Site::new("gate").await;
        site.shop(TABLES).await;
        site.warehouse.batch_execute("create table done (ds date)").await.unwrap();
        site.file(
            "schemas/orders.yaml",
            &format!(
                "{ORDERS}  - {{ row_count: {{ min: 1 }}, scope: run, tag: gate }}
  - {{ not_null: [day], tag: gate }}\n  - {{ sql: sql/quality/broken.sql, severity: warn, tag: gate }}\n"
            ),
        );
        site.file("sql/quality/broken.sql", "select 1/0\n");
        site.file("sql/jobs/marts.sql", "insert into public.done values (:'ds')\n");
        site.file(
            "jobs/daily.yaml",
            "name: daily\nschedule: { cron: \"0 2 * * *\", timezone: UTC, interval: day }\ntasks:\n  \
             gate:  { checks: { tag: gate }, retry_delay: 100ms }\n  \
             marts: { sql: sql/jobs/marts.sql, depends_on: [gate] }\n  \
             rest:  { checks: { tables: [\"cleansed.*\"], kinds: [not_null] }, depends_on: [gate], trigger_rule: all_done, allow_failure: true }\n  \
             told:  { report: \"reports/{ds}.md\", depends_on: [rest], trigger_rule: all_done }\n",
        );
        let report = || {
            std::fs::read_to_string(site.config().with_file_name("reports/2024-03-10.md")).unwrap()
        };
        let service = site.start();
        site.until("streaming", "select count(*) = 3 from audit.tables where state = 'streaming'")
            .await;
        site.shop("insert into orders values (9001, 1, null)").await;
        settled(&site, 1).await;
        let run = ["job", "run", "daily", "--date", "2024-03-10", "--wait"];
        let (said, code) = say(&site, &run).await;
        assert_eq!(code, 65, "{said:?}");
        let states = "select task, state from audit.task_runs order by task";
        assert_eq!(
            site.at_warehouse(states).await,
            ["gate|failed", "marts|upstream_failed", "rest|failed", "told|success"]
        );
        let told = report();
        assert!(
            told.contains("1 of 3 checks fail, 1 warn") && told.contains("| gate | failed |"),
            "{told}"
        );
        // what was found is final
        let tried = "select count(*), max(error_message) like '1 of 3 checks fail%not_null(day)%' from audit.etl_logs where task_id = 'gate'";
        assert_eq!(site.at_warehouse(tried).await, ["1|t"]);
        let results = "select check_name, status, check_date, run is not null, error is not null from audit.data_quality \
            where tag = 'gate' order by check_id limit 3";
        let results = site.at_warehouse(results).await;
        assert_eq!(
            results,
            [
                "row_count of the run|PASS|2024-03-10|t|f",
                "not_null(day)|FAIL|2024-03-10|t|f",
                "sql(broken)|WARN|2024-03-10|t|t",
            ]
        );
        // the stream goes on, and mends it
        site.shop("update orders set day = current_date where id = 9001").await;
        settled(&site, 2).await;
        let (said, code) = say(&site, &run).await;
        assert_eq!(code, 0, "{said:?}");
        assert_eq!(site.at_warehouse("select ds from public.done").await, ["2024-03-10"]);
        assert!(report().contains("0 of 3 checks fail, 1 warn"), "{}", report());
        service.stop().await.unwrap();
    });
}

#[test]
fn a_mart_waits_for_the_checks_of_its_tag() {
    block_on(async {
        let site = Site::new("hold_on").await;
        site.shop(TABLES).await;
        site.file(
            "schemas/orders.yaml",
            &format!("{ORDERS}  - {{ not_null: [user_id], tag: gate }}\n  - {{ row_count: {{ max: 1 }}, tag: other }}\n"),
        );
        site.file(
            "sql/marts/days.sql",
            "/* siltstone\ntable: mart.days\nkey: [day]\nrefresh_by: day\nmax_age: 1s\nhold_on: gate\nreads:\n  \
             cleansed.orders: { touches: \"select day from changed\" }\nchecks:\n  - { unique: [day] }\n  \
             - { freshness: { max_age: 1h } }\n*/\n\
             select day, count(*) as orders from cleansed.orders group by day\n",
        );
        site.file(
            "jobs/close.yaml",
            "name: close\ntasks:\n  marts: { refresh: [mart.days], retries: 0, timeout: 5m }\n",
        );
        let service = site.start();
        let of_all = "select sum(orders) = {} from mart.days";
        let fresh =
            "select state = 'fresh' and not exists (select from audit.touched) from audit.marts";
        site.until("streaming", "select count(*) = 3 from audit.tables where state = 'streaming'")
            .await;
        site.until("the mart", &of_all.replace("{}", "6000")).await;
        site.until("fresh", fresh).await;
        assert_eq!(check(&site, &["run", "--tag", "gate"]).await.1, 0);
        let (of_mart, code) = statuses(&site, &["mart.days"]).await;
        assert_eq!((of_mart.len(), code), (2, 0), "{of_mart:#?}");
        // a check of another tag holds nothing
        assert_eq!(check(&site, &["run", "--tag", "other"]).await.1, 65);
        site.shop("insert into orders values (9001, null, current_date)").await;
        site.until("one more", &of_all.replace("{}", "6001")).await;
        assert_eq!(check(&site, &["run", "--tag", "gate"]).await.1, 65);
        site.until("held", "select state = 'held' from audit.marts").await;
        let as_of = "select as_of from audit.marts";
        let good = site.at_warehouse(as_of).await;
        site.shop("insert into orders values (9002, 1, current_date)").await;
        settled(&site, 1).await;
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        assert_eq!(site.at_warehouse("select sum(orders) from mart.days").await, ["6001"]);
        assert_eq!(site.at_warehouse(as_of).await, good);
        let (said, _) = say(&site, &["mart", "list"]).await;
        let said = said.join("\n");
        assert!(
            said.contains("held")
                && said.contains("not_null(user_id)")
                && said.contains("check run --tag gate"),
            "{said}"
        );
        let (why, code) = say(&site, &["why", "mart.days"]).await;
        assert!(code == 0 && why[0].contains("mart.days is held"), "{why:?}");
        // a task that waits for it does not wait for what time alone does not bring
        let (said, code) = say(&site, &["job", "run", "close", "--wait"]).await;
        assert_eq!(code, 65, "{said:?}");
        let why =
            "select reason like 'mart.days is held: %not_null(user_id)%' from audit.task_runs";
        assert_eq!(site.at_warehouse(why).await, ["t"]);
        // one that comes up again is still held
        service.stop().await.unwrap();
        let service = site.start();
        site.shop("update orders set user_id = 1 where id = 9001").await;
        settled(&site, 2).await;
        site.until("held", "select state = 'held' from audit.marts").await;
        assert_eq!(site.at_warehouse("select sum(orders) from mart.days").await, ["6001"]);
        assert_eq!(check(&site, &["run", "--tag", "gate"]).await.1, 0);
        site.until("it goes on", &of_all.replace("{}", "6002")).await;
        site.until("fresh", fresh).await;
        service.stop().await.unwrap();
    });
}

#[test]
fn days_off_are_no_age() {
    block_on(async {
        let site = Site::new("days_off").await;
        for (table, most, of) in [
            ("t", "49h", ", calendar: cleansed.days"),
            ("u", "47h", ", calendar: cleansed.days"),
            ("v", "49h", ""),
        ] {
            site.shop(&format!("create table {table} (id int primary key)")).await;
            let file = format!(
                "table: cleansed.{table}\nfrom: shop.public.{table}\nkey: [id]\ncolumns:\n  id: {{ type: integer }}\n\
                 checks:\n  - {{ freshness: {{ max_age: {most}{of} }} }}\n"
            );
            site.file(&format!("schemas/{table}.yaml"), &file);
        }
        let days = "table: cleansed.days\nlayout: calendar\nrange: [\"2015-01-01\", \"+1y\"]\n";
        site.file("schemas/days.yaml", days);
        site.catch_up().await;
        let three_days = "update audit.tables set state = 'paused', changed_at = now() - interval '3 days';
            update cleansed.days set is_weekend = false, is_holiday = date_id = (now() at time zone 'UTC')::date - 1";
        site.warehouse.batch_execute(three_days).await.unwrap();
        let (found, code) = statuses(&site, &[]).await;
        let status = |table| of(&found, &format!("cleansed.{table}: freshness"))["status"].clone();
        assert_eq!(
            (status("t"), status("u"), status("v")),
            ("PASS".into(), "FAIL".into(), "FAIL".into())
        );
        assert_eq!(code, 65);
        let file = "table: cleansed.w\nfrom: shop.public.w\nkey: [id]\ncolumns:\n  id: { type: integer }\n\
                    checks:\n  - { freshness: { max_age: 1h, calendar: cleansed.t } }\n";
        site.file("schemas/w.yaml", file);
        let (said, code) = say(&site, &["validate"]).await;
        let said = said.join("\n");
        assert!(
            code == 78
                && said.contains("cleansed.t is no calendar\n  remedy: write one of cleansed.days"),
            "{said}"
        );
    });
}
