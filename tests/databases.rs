//! Extracts of a Postgres without a stream: what a table has comes into raw and from there into declared tables, and
//! leaves them again, once, whatever the source and the machine do meanwhile.

use std::process::Stdio;
use std::time::{Duration, Instant};

use siltstone::postgres::{Side, connect};

use crate::extracts::{metered, waited};
use crate::jobs::{ask, job};
use crate::service::http;
use crate::support::{Proxy, Site, block_on, end, signal};

const RAW: &str = "table: raw.stg_users\nfrom: crm.public.users\nlayout: raw\n";

const COLUMNS: &str = "columns:
  user_id:    { from: id, type: bigint }
  email:      { type: varchar(40), required: true }
  born:       { type: date }
  spent:      { type: \"numeric(10,2)\" }
  updated_at: { type: timestamptz }
";

/// The columns again, where the leaf of a row depends on one.
const BY_DAY: &str =
    "partition: { by: born, every: month, range: [\"1990-01-01\", \"2030-01-01\"] }\n";

const DAILY: &str = "schedule: { cron: \"0 2 * * *\", timezone: Europe/Berlin, interval: day }";

/// The tables that are fed by the one of the source, with what their files say beside.
const FED: [(&str, &str); 4] = [
    ("dim_users", ""),
    ("soft_users", "delete: soft\n"),
    ("users_by_day", BY_DAY),
    ("users_kept", "delete: ignore\n"),
];

const USERS: &str = "
    create table users (id int primary key, email varchar(40) not null, born date, spent numeric(10,2), secret text,
                        updated_at timestamptz not null default '2024-03-10 08:00+00');
    insert into users
    select n, 'u' || n || '@x', date '1990-01-01' + n, n * 1.5, 's' || n from generate_series(1, 50) n";

/// A site whose users come of a Postgres without a stream.
async fn site(name: &str, fields: &str) -> Site {
    let site = Site::new(name).await;
    connector(&site, "${SHOP_URL}", fields);
    site.shop(USERS).await;
    site.file("schemas/stg_users.yaml", RAW);
    site
}

fn connector(site: &Site, url: &str, fields: &str) {
    let head = "name: crm\nkind: postgres\nslot: none\ntables: [\"public.*\"]\n";
    site.file("connectors/shop.yaml", &format!("{head}url: \"{url}\"\n{fields}"));
}

fn declare(site: &Site, table: &str, fields: &str) {
    let from = "from: crm.public.users\nkey: [user_id]\n";
    let mut columns = COLUMNS.to_owned();
    if fields.contains("partition") {
        columns = columns.replace("type: date", "type: date, required: true");
    }
    site.file(
        &format!("schemas/{table}.yaml"),
        &format!("table: cleansed.{table}\n{from}{fields}{columns}"),
    );
}

/// A job that extracts users and loads tables of them.
fn etl(site: &Site, extract: &str, tables: &[&str]) {
    let mut tasks = format!(
        "  extract: {{ extract: crm.public.users, into: raw.stg_users, retry_delay: 100ms{extract} }}\n"
    );
    for table in tables {
        tasks.push_str(&format!(
            "  {table}: {{ load: cleansed.{table}, depends_on: [extract], retry_delay: 100ms }}\n"
        ));
    }
    job(site, "etl", DAILY, &tasks);
}

/// Runs the job for a date; what the attempts that failed said, where the run fails.
async fn run(site: &Site, date: &str) -> Result<(), String> {
    match ask(site, &["run", "etl", "--date", date, "--wait"]).await {
        (_, 0) => Ok(()),
        (said, _) => Err(format!("{said}\n{}", failures(site).await.join("\n"))),
    }
}

/// What the attempts of the last run said that failed.
async fn failures(site: &Site) -> Vec<String> {
    let why = "select task_id || ': ' || error_message from audit.etl_logs
                where status = 'failed' and run = (select max(run) from audit.job_runs) order by log_id";
    site.at_warehouse(why).await
}

/// A raw table, byte by byte.
async fn raw(site: &Site) -> Vec<String> {
    site.at_warehouse(
        "select id, loaded_at, created_at, load_id, source_system, raw_data from raw.stg_users order by id",
    )
    .await
}

/// A table's rows, but for when they were written.
async fn rows(site: &Site, table: &str) -> Vec<String> {
    let query = format!(
        "select to_jsonb(t) - '_synced_at' from cleansed.{table} t order by user_id, to_jsonb(t)::text"
    );
    site.at_warehouse(&query).await
}

const THERE: &str = "select id, email, born, spent, updated_at from users order by 1";

fn here(table: &str) -> String {
    THERE.replace("select id", "select user_id").replace("users", &format!("cleansed.{table}"))
}

/// Compares a table with its source.
async fn assert_same(site: &Site, table: &str, when: &str) {
    let zone = "set timezone to 'UTC'";
    site.shop(zone).await;
    site.warehouse.batch_execute(zone).await.unwrap();
    assert_eq!(
        site.at_source(THERE).await,
        site.at_warehouse(&here(table)).await,
        "{table} {when}"
    );
}

#[test]
fn a_whole_table_comes_date_by_date_with_what_went() {
    block_on(async {
        let site = site("whole", "exclude: [public.users.secret]\n").await;
        for (table, fields) in FED {
            declare(&site, table, fields);
        }
        etl(&site, "", &FED.map(|(table, _)| table));
        let running = site.start();
        assert_eq!(run(&site, "2024-03-10").await, Ok(()));
        for (table, _) in FED {
            assert_same(&site, table, "at first").await;
        }
        let made = "select count(*) from pg_replication_slots where database = current_database()
                    union all select count(*) from pg_publication";
        assert_eq!(site.at_source(made).await, ["0", "0"], "something was made at the source");
        let document =
            "select raw_data - 'schema', load_id, source_system, raw_data->>'schema' is not null
                          from raw.stg_users where raw_data->'key'->>'id' = '7'";
        let expected = "{\"op\": \"r\", \"tx\": null, \"key\": {\"id\": \"7\"}, \"ord\": 0, \
             \"seq\": \"1710111600000000\", \"after\": {\"id\": \"7\", \"born\": \"1990-01-08\", \
             \"email\": \"u7@x\", \"spent\": \"10.50\", \"updated_at\": \"2024-03-10 08:00:00+00\"}, \
             \"before\": null, \"unchanged\": [], \
             \"committed_at\": \"2024-03-10 23:00:00+00\"}|2024-03-10|crm|t";
        assert_eq!(site.at_warehouse(document).await, [expected]);
        let logged = "select distinct status, records_processed from audit.etl_logs";
        assert_eq!(site.at_warehouse(logged).await, ["success|50"]);
        // the same date again is the same warehouse
        let before = raw(&site).await;
        let mut loaded = Vec::new();
        for (table, _) in FED {
            loaded.push(rows(&site, table).await);
        }
        assert_eq!(run(&site, "2024-03-10").await, Ok(()));
        assert_eq!(raw(&site).await, before);
        for ((table, _), loaded) in FED.into_iter().zip(&loaded) {
            assert_eq!(&rows(&site, table).await, loaded, "{table}");
        }
        // rows that changed, moved to another leaf, came and went
        let changes = "update users set spent = 7.77 where id = 7;
                       update users set born = '2020-02-29' where id = 8;
                       delete from users where id in (9, 10);
                       insert into users (id, email, born) values (51, 'new@x', '1999-09-09')";
        site.shop(changes).await;
        assert_eq!(run(&site, "2024-03-11").await, Ok(()));
        assert_same(&site, "dim_users", "a day later").await;
        assert_same(&site, "users_by_day", "a day later").await;
        let kept =
            "select count(*), count(*) filter (where user_id in (9, 10)) from cleansed.users_kept";
        assert_eq!(site.at_warehouse(kept).await, ["51|2"]);
        let soft = "select user_id, _deleted_at at time zone 'UTC' from cleansed.soft_users
                     where _deleted_at is not null order by 1";
        assert_eq!(
            site.at_warehouse(soft).await,
            ["9|2024-03-11 23:00:00", "10|2024-03-11 23:00:00"]
        );
        // the same date tells something else the next time
        site.shop("delete from users where id = 11; update users set spent = 12 where id = 12")
            .await;
        site.shop("insert into users (id, email, born) values (9, 'back@x', '1999-09-09')").await;
        assert_eq!(run(&site, "2024-03-11").await, Ok(()));
        let newest =
            "select count(*), count(*) filter (where raw_data->>'ord' = '1') from raw.stg_users
                       where load_id = '2024-03-11'";
        assert_eq!(site.at_warehouse(newest).await, ["49|2"]);
        for (table, _) in &FED[..3] {
            if *table != "soft_users" {
                assert_same(&site, table, "the same date again").await;
            }
        }
        let soft =
            "select user_id from cleansed.soft_users where _deleted_at is not null order by 1";
        assert_eq!(site.at_warehouse(soft).await, ["10", "11"]);
        // a date of before takes nothing back
        let before = rows(&site, "dim_users").await;
        site.shop("insert into users (id, email, born) values (10, 'late@x', '1999-09-09')").await;
        assert_eq!(run(&site, "2024-03-10").await, Ok(()));
        assert_eq!(rows(&site, "dim_users").await, before);
        assert!(running.stop().await.is_ok());
    });
}

#[test]
fn versions_begin_and_end_with_the_intervals() {
    block_on(async {
        let site = site("whole_versions", "").await;
        declare(&site, "dim_users", "history: versions\ntrack: [email, spent]\n");
        etl(&site, "", &["dim_users"]);
        site.shop("delete from users where id > 2").await;
        let running = site.start();
        let versions = async || {
            site.at_warehouse(
                "select user_id, spent, valid_from at time zone 'UTC', valid_to at time zone 'UTC', is_current
                   from cleansed.dim_users order by user_id, valid_from",
            )
            .await
        };
        assert_eq!(run(&site, "2024-03-10").await, Ok(()));
        site.shop("delete from users where id = 2; update users set spent = 3 where id = 1").await;
        assert_eq!(run(&site, "2024-03-11").await, Ok(()));
        let expected = [
            "1|1.50|2024-03-10 23:00:00|2024-03-11 23:00:00|f",
            "1|3.00|2024-03-11 23:00:00|9999-12-31 00:00:00|t",
            "2|3.00|2024-03-10 23:00:00|2024-03-11 23:00:00|f",
        ];
        assert_eq!(versions().await, expected);
        assert_eq!(run(&site, "2024-03-11").await, Ok(()));
        assert_eq!(versions().await, expected);
        // it comes back, and goes on the same date again: nobody has seen it
        site.shop("insert into users (id, email, spent) values (2, 'back@x', 9)").await;
        assert_eq!(run(&site, "2024-03-12").await, Ok(()));
        let back = "2|9.00|2024-03-12 23:00:00|9999-12-31 00:00:00|t";
        assert_eq!(versions().await, [&expected[..], &[back]].concat());
        site.shop("delete from users where id = 2").await;
        assert_eq!(run(&site, "2024-03-12").await, Ok(()));
        assert_eq!(versions().await, expected);
        let overlaps = "select count(*) from cleansed.dim_users a join cleansed.dim_users b
                            on a.user_id = b.user_id and a.valid_from < b.valid_from
                           and b.valid_from < a.valid_to";
        assert_eq!(site.at_warehouse(overlaps).await, ["0"]);
        assert!(running.stop().await.is_ok());
    });
}

#[test]
fn a_condition_brings_the_rows_of_the_interval_alone() {
    block_on(async {
        let site = site("changed", "").await;
        declare(&site, "dim_users", "");
        let condition =
            ", where: \"updated_at >= :'interval_start' and updated_at < :'interval_end' -- ours\"";
        etl(&site, condition, &["dim_users"]);
        let running = site.start();
        assert_eq!(run(&site, "2024-03-10").await, Ok(()));
        assert_same(&site, "dim_users", "at first").await;
        let changes = "update users set spent = 1, updated_at = '2024-03-11 09:00+00' where id = 1;
                       update users set spent = 2, updated_at = '2024-03-11 23:00+00' where id = 2;
                       delete from users where id = 3";
        site.shop(changes).await;
        assert_eq!(run(&site, "2024-03-11").await, Ok(()));
        let brought =
            "select raw_data->'key'->>'id' from raw.stg_users where load_id = '2024-03-11'";
        assert_eq!(site.at_warehouse(brought).await, ["1"]);
        // the second one is of another interval, and a deletion is not told
        let there = "select user_id, spent from cleansed.dim_users where user_id <= 3 order by 1";
        assert_eq!(site.at_warehouse(there).await, ["1|1.00", "2|3.00", "3|4.50"]);
        assert!(running.stop().await.is_ok());
        etl(&site, ", where: \"no_such > 1\", retries: 1", &["dim_users"]);
        let running = site.start();
        let said = run(&site, "2024-03-12").await.unwrap_err();
        assert!(said.contains("no_such") && said.contains("the task's where"), "{said}");
        assert!(running.stop().await.is_ok());
    });
}

/// Runs the job without waiting for it, and waits until so many of its attempts have failed.
async fn begin(site: &Site, date: &str, failed: usize) {
    let (said, code) = ask(site, &["run", "etl", "--date", date]).await;
    assert_eq!(code, 0, "{said}");
    let query = format!(
        "select count(*) >= {failed} from audit.etl_logs l join audit.job_runs r using (run)
          where l.status = 'failed' and r.ds = '{date}'"
    );
    site.until("attempts that fail", &query).await;
}

/// What `validate --connect` says.
async fn validate(site: &Site) -> (String, Option<i32>) {
    let mut command = site.command(&["validate", "--connect"]);
    let output = tokio::task::spawn_blocking(move || command.stdout(Stdio::piped()).output());
    let output = output.await.unwrap().unwrap();
    (String::from_utf8(output.stdout).unwrap(), output.status.code())
}

async fn until_done(site: &Site, date: &str) {
    let query =
        format!("select bool_or(state = 'success') from audit.job_runs where ds = '{date}'");
    site.until("the run", &query).await;
}

#[test]
fn what_the_source_lacks_is_told_and_tried_again_until_it_is_there() {
    block_on(async {
        let site = site("lacking", "").await;
        declare(&site, "dim_users", "");
        let role = format!("{}_reader", site.name);
        let reader = site.source_url.replacen("://", &format!("://{role}:x@"), 1);
        let reader = match site.source_url.split_once('@') {
            Some((_, rest)) => format!("postgres://{role}:x@{rest}"),
            None => reader,
        };
        site.shop(&format!(
            "create role {role} login password 'x'; grant usage on schema public to {role}"
        ))
        .await;
        connector(&site, &reader, "");
        etl(&site, ", retries: 100", &["dim_users"]);
        let running = site.start();
        let cases = [
            (
                "2024-03-10",
                "select 1",
                format!("grant select on users to {role}"),
                vec![
                    "permission denied",
                    "grant select on \"public\".\"users\"",
                    "connectors/shop.yaml",
                ],
            ),
            (
                "2024-03-11",
                "alter table users rename to people",
                "alter table people rename to users".to_owned(),
                vec![
                    "the source has no table public.users",
                    "connectors/shop.yaml",
                    "schemas/stg_users.yaml",
                ],
            ),
            (
                "2024-03-12",
                "alter table users drop column spent",
                "alter table users add column spent numeric(10,2)".to_owned(),
                vec![
                    "public.users has no column spent",
                    "feeds spent of cleansed.dim_users",
                    "schemas/dim_users.yaml",
                ],
            ),
            (
                "2024-03-13",
                "alter table users rename to people; create view users as select * from people",
                "drop view users; alter table people rename to users".to_owned(),
                vec!["public.users is a view", "schemas/stg_users.yaml"],
            ),
            (
                "2024-03-14",
                "alter table users enable row level security; alter table users force row level security",
                "alter table users disable row level security".to_owned(),
                vec!["row-level security", "bypassrls"],
            ),
        ];
        for (date, breaks, mends, words) in cases {
            site.shop(breaks).await;
            begin(&site, date, 2).await;
            let said = failures(&site).await;
            let (validated, code) = validate(&site).await;
            assert_eq!(code, Some(78), "{date}: {validated}");
            for word in words {
                assert!(validated.contains(word), "{date}: no {word}: {validated}");
                assert!(
                    said.iter().all(|said| said.contains(word)),
                    "{date}: no {word}: {said:#?}"
                );
            }
            let there = format!("select count(*) from raw.stg_users where load_id = '{date}'");
            assert_eq!(site.at_warehouse(&there).await, ["0"], "{date}");
            site.shop(&mends).await;
            until_done(&site, date).await;
            assert_same(&site, "dim_users", date).await;
            let (validated, code) = validate(&site).await;
            assert_eq!(code, Some(0), "{date}: {validated}");
            assert!(validated.contains("public.users -> cleansed.dim_users"), "{validated}");
        }
        assert!(running.stop().await.is_ok());
    });
}

#[test]
fn a_table_that_another_one_takes_the_place_of_is_read_again() {
    block_on(async {
        let site = site("extract_swapped", "").await;
        declare(&site, "dim_users", "");
        etl(&site, "", &["dim_users"]);
        let running = site.start();
        run(&site, "2024-03-09").await.unwrap();
        assert_same(&site, "dim_users", "before").await;
        // a migration: the new table has all rows, of which a snapshot from before sees none
        let migration = connect(Side::Source, &site.source_endpoint, "test").await.unwrap();
        let swap = "set search_path to public; begin; alter table users rename to old_users; create table users (like old_users including all);
                    insert into users select * from old_users";
        migration.batch_execute(swap).await.unwrap();
        begin(&site, "2024-03-10", 0).await;
        let waits = "select exists (select from pg_stat_activity where application_name = 'siltstone extract'
                                       and datname = current_database() and wait_event_type = 'Lock')";
        while site.at_source(waits).await != ["t"] {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        migration.batch_execute("commit").await.unwrap();
        until_done(&site, "2024-03-10").await;
        assert_same(&site, "dim_users", "behind the migration").await;
        assert_eq!(site.at_warehouse("select count(*) from cleansed.dim_users").await, ["50"]);
        let told = failures(&site).await;
        assert!(
            told.iter().any(|why| why.contains("was rewritten as its reading began")),
            "{told:?}"
        );
        running.stop().await.unwrap();
    });
}

#[test]
fn rows_that_retention_carried_are_brought_anew_by_their_date() {
    block_on(async {
        let site = site("extract_carried", "").await;
        declare(&site, "dim_users", "");
        etl(&site, "", &["dim_users"]);
        let running = site.start();
        run(&site, "2024-03-10").await.unwrap();
        let carry = "update raw.stg_users set raw_data = raw_data || '{\"carried\": true}' where id % 2 = 0";
        site.warehouse.batch_execute(carry).await.unwrap();
        run(&site, "2024-03-10").await.unwrap();
        let counted = "select count(*), count(*) filter (where raw_data->>'carried' is null) from raw.stg_users";
        assert_eq!(site.at_warehouse(counted).await, ["50|50"]);
        assert_same(&site, "dim_users", "again").await;
        running.stop().await.unwrap();
    });
}

#[test]
fn a_source_that_is_away_is_tried_again() {
    block_on(async {
        let site = site("away", "").await;
        declare(&site, "dim_users", "");
        let port = Proxy::free_port().await;
        let away = site.source_url.replace(&port_of(&site).to_string(), &port.to_string());
        connector(&site, &away, "");
        etl(&site, ", retries: 100", &["dim_users"]);
        let running = site.start();
        begin(&site, "2024-03-10", 2).await;
        let said = failures(&site).await;
        for word in ["connecting to", &port.to_string(), "connectors/shop.yaml"] {
            assert!(said[0].contains(word), "no {word}: {said:#?}");
        }
        let _proxy = Proxy::at(port, port_of(&site)).await;
        until_done(&site, "2024-03-10").await;
        assert_same(&site, "dim_users", "at last").await;
        assert!(running.stop().await.is_ok());
    });
}

fn port_of(site: &Site) -> u16 {
    site.source_endpoint.hosts()[0].1
}

#[test]
fn a_table_that_nothing_tells_apart_is_refused() {
    block_on(async {
        let site = site("keyless", "").await;
        site.shop("alter table users drop constraint users_pkey").await;
        etl(&site, ", retries: 0", &[]);
        let running = site.start();
        let said = run(&site, "2024-03-10").await.unwrap_err();
        assert!(said.contains("crm.public.users has no primary key"), "{said}");
        assert!(running.stop().await.is_ok());
        // a file that says what its key is, and is wrong
        declare(&site, "dim_users", "");
        etl(&site, ", retries: 0", &["dim_users"]);
        site.shop("insert into users (id, email) values (1, 'again@x')").await;
        let running = site.start();
        let said = run(&site, "2024-03-11").await.unwrap_err();
        assert!(said.contains("1 rows of crm.public.users have the id of another one"), "{said}");
        site.shop("delete from users where email = 'again@x'").await;
        assert_eq!(run(&site, "2024-03-11").await, Ok(()));
        assert_same(&site, "dim_users", "by a key of its file").await;
        assert!(running.stop().await.is_ok());
    });
}

#[test]
fn rows_are_no_longer_and_come_no_faster_than_they_may() {
    block_on(async {
        let site = site("bounded", "snapshot: { max_rate: 1MiB }\n").await;
        declare(&site, "dim_users", "");
        etl(&site, ", retries: 0", &["dim_users"]);
        let port = metered(&site, "max_row_bytes: 1MiB\n").await;
        site.shop("alter table users alter column secret set storage external").await;
        site.shop("update users set secret = repeat('s', 60000)").await;
        let running = site.spawn(&["run"]);
        let began = Instant::now();
        assert_eq!(run(&site, "2024-03-10").await, Ok(()));
        let (_, metrics) = http(port, "GET", "/metrics", "r3ad");
        // 3 MB, of which a second's worth may be made up for
        assert!(began.elapsed() >= Duration::from_millis(1_500), "{:?}", began.elapsed());
        assert!(waited(&metrics, "crm") > 1.0, "{metrics}");
        site.shop("update users set secret = repeat('s', 1100000) where id = 7").await;
        let said = run(&site, "2024-03-11").await.unwrap_err();
        for word in ["more than max_row_bytes allows", "exclude of connectors/shop.yaml"] {
            assert!(said.contains(word), "{word}: {said}");
        }
        let (_, metrics) = http(port, "GET", "/metrics", "r3ad");
        let reached =
            "siltstone_extract_limits_total{connector=\"crm\",limit=\"max_row_bytes\"} 1\n";
        assert!(metrics.contains(reached), "{metrics}");
        end(running);
    });
}

#[test]
fn a_kill_while_a_table_is_read_leaves_what_a_whole_run_leaves() {
    block_on(async {
        // some 2 MB of rows
        let site = site("read_killed", "snapshot: { max_rate: 1MiB }\n").await;
        site.shop("alter table users alter column secret set storage external").await;
        site.shop("update users set secret = repeat('s', 40000)").await;
        declare(&site, "dim_users", "history: versions\n");
        declare(&site, "soft_users", "delete: soft\n");
        etl(&site, "", &["dim_users", "soft_users"]);
        let kill_once = async |what: &str, begins: bool, query: &str, at_source: bool| {
            let mut running = site.spawn(&["run"]);
            site.until(
                "the schedule",
                "select exists (select from audit.owner where resource = 'scheduler' and lease_until > now())",
            )
            .await;
            if begins {
                let (said, code) = ask(&site, &["run", "etl", "--date", "2024-03-10"]).await;
                assert_eq!(code, 0, "{said}");
            }
            if at_source {
                let mut seen = false;
                for _ in 0..2_000 {
                    seen = site.at_source(query).await == ["t"];
                    if seen {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                assert!(seen, "{what} was not seen");
            } else {
                site.until(what, query).await;
            }
            signal(&running, "-KILL");
            running.wait().unwrap();
        };
        let reads = format!(
            "select exists (select from pg_stat_activity where application_name = 'siltstone extract'
                               and datname = '{}_shop' and query like 'copy%')",
            site.name
        );
        kill_once("the reading", true, &reads, true).await;
        assert_eq!(site.at_warehouse("select count(*) from raw.stg_users").await, ["0"]);
        kill_once("the reading again", false, &reads, true).await;
        let extracted = "select exists (select from audit.extracts where load_id = '2024-03-10')";
        kill_once("the extract", false, extracted, false).await;
        let running = site.start();
        until_done(&site, "2024-03-10").await;
        assert_eq!(
            site.at_warehouse("select count(*), max(raw_data->>'ord') from raw.stg_users").await,
            ["50|0"]
        );
        assert_same(&site, "dim_users", "behind the kills").await;
        assert_same(&site, "soft_users", "behind the kills").await;
        let before = (raw(&site).await, rows(&site, "dim_users").await);
        assert_eq!(run(&site, "2024-03-10").await, Ok(()));
        assert_eq!((raw(&site).await, rows(&site, "dim_users").await), before);
        assert!(running.stop().await.is_ok());
    });
}
