//! Jobs: what runs when, in which order, how often, and what becomes of it under kills, takeovers and other
//! people's mistakes.

use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use siltstone::clock::Clock;

use crate::support::{Dice, Site, block_on, signal};

/// A clock that a test turns.
#[derive(Clone)]
pub struct Hand(Arc<AtomicI64>);

impl Hand {
    pub fn at(text: &str) -> Hand {
        let hand = Hand(Arc::default());
        hand.turn(text);
        hand
    }

    pub fn turn(&self, text: &str) {
        let at: Timestamp = text.parse().unwrap();
        self.0.store(at.as_microsecond(), Ordering::SeqCst);
    }

    pub fn clock(&self) -> Clock {
        let at = self.0.clone();
        Clock::of(move || Timestamp::from_microsecond(at.load(Ordering::SeqCst)).unwrap())
    }
}

/// `job` with these fields and tasks.
pub fn job(site: &Site, name: &str, fields: &str, tasks: &str) {
    site.file(&format!("jobs/{name}.yaml"), &format!("name: {name}\n{fields}\ntasks:\n{tasks}\n"));
}

pub fn sql(site: &Site, name: &str, text: &str) {
    site.file(&format!("sql/jobs/{name}.sql"), text);
}

/// Runs a verb of `siltstone job`; what it says, and its exit code.
pub async fn ask(site: &Site, arguments: &[&str]) -> (String, i32) {
    let mut command = site.command(&[&["job"], arguments].concat());
    command.stdout(Stdio::piped());
    let ended = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    (String::from_utf8(ended.stdout).unwrap(), ended.status.code().unwrap())
}

pub async fn states(site: &Site, job: &str) -> Vec<String> {
    let query = format!(
        "select task || ' ' || t.state from audit.task_runs t join audit.job_runs r using (run)
          where job = '{job}' order by run, task"
    );
    site.at_warehouse(&query).await
}

pub async fn runs(site: &Site, job: &str) -> Vec<String> {
    let query = format!(
        "select ds || ' ' || state from audit.job_runs where job = '{job}' order by interval_start"
    );
    site.at_warehouse(&query).await
}

/// Waits until the runs of a job are these.
pub async fn until_runs(site: &Site, job: &str, expected: &[&str]) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let found =
            match site.at_warehouse("select to_regclass('audit.job_runs') is not null").await {
                there if there == ["t"] => runs(site, job).await,
                _ => Vec::new(),
            };
        if found == expected {
            return;
        }
        assert!(Instant::now() < deadline, "{job}: {found:?}, not {expected:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

const TABLE: &str =
    "create table done (ds date, task text, at timestamptz default clock_timestamp())";

#[test]
fn tasks_run_by_their_rules_and_a_broken_one_is_tried_four_times() {
    block_on(async {
        let site = Site::new("dag").await;
        site.warehouse.batch_execute(TABLE).await.unwrap();
        sql(
            &site,
            "note",
            "insert into public.done values (:'ds', 'note; '':x'''); -- :'ds'\n\
             insert into public.done select :'prev_ds'::date, $$note$$ where date :'ds' = '2024-03-10'\n",
        );
        sql(&site, "broken", "insert into public.done values (:'ds', 'never');\n\nselect 1/0;\n");
        job(
            &site,
            "dag",
            "schedule: { cron: \"0 2 * * *\", timezone: Europe/Berlin, interval: day }",
            "  after:   { sql: sql/jobs/note.sql, depends_on: [broken] }
  last:    { sql: sql/jobs/note.sql, depends_on: [after], trigger_rule: all_done }
  alarm:   { sql: sql/jobs/note.sql, depends_on: [broken, note], trigger_rule: one_failed }
  calm:    { sql: sql/jobs/note.sql, depends_on: [note], trigger_rule: one_failed }
  beyond:  { sql: sql/jobs/note.sql, depends_on: [calm] }
  may:     { command: [sh, -c, \"printf '{ds} is\\\\000 bad' >&2; exit 3\"], retries: 0, allow_failure: true }
  goes_on: { sql: sql/jobs/note.sql, depends_on: [may] }
  note:    { sql: sql/jobs/note.sql }
  broken:  { sql: sql/jobs/broken.sql, depends_on: [note], retry_delay: 200ms }
  slow:    { command: [sleep, \"60\"], retries: 0, timeout: 500ms, allow_failure: true }",
        );
        let running = site.start();
        let (said, code) = ask(&site, &["run", "dag", "--date", "2024-03-10", "--wait"]).await;
        assert!(code == 65 && said.contains("failed"), "{code}: {said}");
        assert_eq!(
            states(&site, "dag").await,
            [
                "after upstream_failed",
                "alarm success",
                "beyond skipped",
                "broken failed",
                "calm skipped",
                "goes_on success",
                "last success",
                "may failed",
                "note success",
                "slow failed",
            ]
        );
        let tried = "select attempt, status, error_message like '%sql/jobs/broken.sql:3%22012%', \
            execution_date = '2024-03-10 00:00 Europe/Berlin' from audit.etl_logs \
            where dag_id = 'dag' and task_id = 'broken' order by attempt";
        assert_eq!(
            site.at_warehouse(tried).await,
            ["1|failed|t|t", "2|failed|t|t", "3|failed|t|t", "4|failed|t|t"]
        );
        let why = "select task_id, error_message from audit.etl_logs \
            where task_id in ('may', 'slow') order by task_id";
        let why = site.at_warehouse(why).await;
        assert!(why[0].contains("exit code 3: 2024-03-10 is bad"), "{why:?}");
        assert!(why[1].contains("it took longer"), "{why:?}");
        let rows = "select ds, task, count(*) from public.done group by 1, 2 order by 1, 2";
        assert_eq!(site.at_warehouse(rows).await, ["2024-03-09|note|4", "2024-03-10|note; ':x'|4"]);
        // mended, the task and what is behind it run again; what went well stays
        let (said, code) =
            ask(&site, &["clear", "dag", "--date", "2024-03-10", "--task", "slow", "--wait"]).await;
        assert!(code == 0 && said.contains("cleared"), "{said}");
        site.until("again", "select bool_and(state = 'failed' and round = 2) from audit.job_runs")
            .await;
        let attempts = "select task_id, count(*) from audit.etl_logs where task_id in ('slow', 'note') group by 1 order by 1";
        assert_eq!(site.at_warehouse(attempts).await, ["note|1", "slow|2"]);
        let (_, code) = ask(&site, &["run", "nothing"]).await;
        assert_eq!(code, 64);
        let (said, _) = ask(&site, &["list"]).await;
        assert!(
            said.contains("dag") && said.contains("failed") && said.contains("next 20"),
            "{said}"
        );
        assert!(running.stop().await.is_ok());
    });
}

#[test]
fn the_same_date_twice_gives_the_same_warehouse() {
    block_on(async {
        let site = Site::new("twice").await;
        site.warehouse
            .batch_execute("create table days (day date primary key, until timestamptz, n int)")
            .await
            .unwrap();
        sql(
            &site,
            "day",
            "delete from public.days where day = :'ds';\n\
             insert into public.days select :'ds', :'interval_end', count(*)\n\
               from generate_series(:'interval_start'::timestamptz, :'interval_end', '1 hour') h\n\
              where h < :'interval_end'::timestamptz;\n",
        );
        job(
            &site,
            "daily",
            "schedule: { cron: \"0 2 * * *\", timezone: Europe/Berlin, interval: day }",
            "  day: { sql: sql/jobs/day.sql }",
        );
        let running = site.start();
        let all = "select day, until, n, xmin <> '0' from public.days order by 1";
        // a day with 23 hours
        for _ in 0..2 {
            let (said, code) =
                ask(&site, &["run", "daily", "--date", "2024-03-31", "--wait"]).await;
            assert!(code == 0 && said.ends_with("success\n"), "{said}");
            assert_eq!(site.at_warehouse(all).await, ["2024-03-31|2024-03-31 22:00:00+00|23|t"]);
        }
        let logs = "select status, records_processed, attempt from audit.etl_logs order by attempt";
        assert_eq!(site.at_warehouse(logs).await, ["success|1|1", "success|2|2"]);
        assert_eq!(runs(&site, "daily").await, ["2024-03-31 success"]);
        let (said, _) = ask(
            &site,
            &["backfill", "daily", "--from", "2024-03-30", "--to", "2024-04-02", "--wait"],
        )
        .await;
        assert!(said.contains("queued: 3; there already: 1"), "{said}");
        site.until("all", "select count(*) = 4 from public.days").await;
        let hours = "select n from public.days order by day";
        assert_eq!(site.at_warehouse(hours).await, ["24", "23", "24", "24"]);
        assert!(running.stop().await.is_ok());
    });
}

/// Tasks that leave a trace of when they began and ended, once each.
fn traces(site: &Site, name: &str, schedule: &str, seconds: &str) {
    for task in ["a", "b", "c", "d"] {
        sql(
            site,
            &format!("{name}_{task}"),
            &format!(
                "insert into public.spans (task, about) values ('{task}', :'interval_start');\n\
                 select pg_sleep({seconds});\n\
                 update public.spans set until = clock_timestamp() where until is null and task = '{task}';\n"
            ),
        );
    }
    let again = "retries: 100, retry_delay: 50ms";
    job(
        site,
        name,
        schedule,
        &format!(
            "  a: {{ sql: sql/jobs/{name}_a.sql, {again} }}
  b: {{ sql: sql/jobs/{name}_b.sql, {again}, depends_on: [a] }}
  c: {{ sql: sql/jobs/{name}_c.sql, {again}, depends_on: [a] }}
  d: {{ sql: sql/jobs/{name}_d.sql, {again}, depends_on: [b, c] }}"
        ),
    );
}

const SPANS: &str = "create table spans (task text, about timestamptz,
    since timestamptz default clock_timestamp(), until timestamptz)";

#[test]
fn a_killed_service_finishes_its_run_with_each_effect_once() {
    block_on(async {
        let site = Site::new("job_kills").await;
        site.warehouse.batch_execute(SPANS).await.unwrap();
        traces(&site, "dag", "", "0.4");
        let mut child = site.spawn(&["run"]);
        site.until(
            "it runs",
            "select exists (select from audit.owner where resource = 'scheduler')",
        )
        .await;
        assert_eq!(ask(&site, &["run", "dag", "--wait"]).await.1, 0);
        // and now under kills
        site.warehouse.batch_execute("truncate spans").await.unwrap();
        assert_eq!(
            ask(&site, &["clear", "dag", "--date", &today(&site).await, "--wait"]).await.1,
            0
        );
        let mut dice = Dice::new(11);
        for _ in 0..6 {
            let at_work = "select exists (select from audit.task_runs where state = 'running') \
                or (select bool_and(state = 'success') from audit.job_runs)";
            site.until("at work", at_work).await;
            tokio::time::sleep(Duration::from_millis(dice.below(500))).await;
            child.kill().unwrap();
            child.wait().unwrap();
            child = site.spawn(&["run"]);
        }
        site.until("success", "select bool_and(state = 'success') from audit.job_runs").await;
        let rows = "select task, count(*), bool_and(until is not null) from public.spans group by 1 order by 1";
        assert_eq!(site.at_warehouse(rows).await, ["a|1|t", "b|1|t", "c|1|t", "d|1|t"]);
        let lost = "select count(*) > 0 from audit.etl_logs where status = 'lost'";
        assert_eq!(site.at_warehouse(lost).await, ["t"], "no attempt was hit");
        let odd = "select count(*) from audit.etl_logs where status = 'running'";
        assert_eq!(site.at_warehouse(odd).await, ["0"]);
        child.kill().unwrap();
        child.wait().unwrap();
    });
}

#[test]
fn what_is_asked_for_is_in_the_schedules_way_only_where_it_went_well() {
    block_on(async {
        let site = Site::new("asked_first").await;
        site.warehouse
            .batch_execute("create table flag (up boolean); insert into flag values (false)")
            .await
            .unwrap();
        sql(&site, "flag", "select up from public.flag");
        sql(&site, "needs", "select 1 / up::int from public.flag");
        let waits = "  t: { sensor: { sql: sql/jobs/flag.sql }, poll: 100ms, timeout: 30d }";
        let daily = "schedule: { cron: \"0 2 * * *\", timezone: UTC, interval: day }";
        job(&site, "fails", daily, "  t: { sql: sql/jobs/needs.sql, retries: 0 }");
        job(&site, "skips", daily, waits);
        job(&site, "replaces", &format!("{daily}\noverlap: replace"), waits);
        job(&site, "paused", "schedule: { after: fails }", "  t: { command: [\"true\"] }");
        let hand = Hand::at("2024-03-03T01:00:00Z");
        let running = site.start_by(hand.clock());
        site.until("seen", "select count(*) = 4 from audit.jobs").await;
        assert_eq!(ask(&site, &["pause", "paused", "--wait"]).await.1, 0);
        assert_eq!(ask(&site, &["run", "fails", "--date", "2024-03-02", "--wait"]).await.1, 65);
        for waiting in ["skips", "replaces"] {
            let range = ["--from", "2024-02-01", "--to", "2024-02-02", "--wait"];
            assert_eq!(ask(&site, &[&["backfill", waiting][..], &range].concat()).await.1, 0);
        }
        // its time comes: what has failed for it is no run of it, and what was asked for is no run before
        hand.turn("2024-03-03T02:30:00Z");
        let again = "select round = 2 and state = 'failed' and \"trigger\" = 'schedule' \
            from audit.job_runs where job = 'fails'";
        site.until("again", again).await;
        for waiting in ["skips", "replaces"] {
            until_runs(
                &site,
                waiting,
                &["2024-02-01 running", "2024-02-02 queued", "2024-03-02 queued"],
            )
            .await;
        }
        site.warehouse.batch_execute("update flag set up = true").await.unwrap();
        for waiting in ["skips", "replaces"] {
            until_runs(
                &site,
                waiting,
                &["2024-02-01 success", "2024-02-02 success", "2024-03-02 success"],
            )
            .await;
        }
        // a clock that was a year ahead, and is right again
        hand.turn("2025-03-03T02:30:00Z");
        until_runs(&site, "fails", &["2024-03-02 failed", "2025-03-02 success"]).await;
        hand.turn("2024-03-03T03:00:00Z");
        site.until("taken back", "select bool_and(decided_to < '2024-04-01') from audit.jobs")
            .await;
        hand.turn("2024-03-04T02:30:00Z");
        let runs_now = ["2024-03-02 failed", "2024-03-03 success", "2025-03-02 success"];
        until_runs(&site, "fails", &runs_now).await;
        assert!(runs(&site, "paused").await.is_empty());
        let known = "select jsonb_array_length(backends) < 20 from audit.owner where resource = 'scheduler'";
        assert_eq!(site.at_warehouse(known).await, ["t"], "sessions that are at an end");
        assert!(running.stop().await.is_ok());
    });
}

async fn today(site: &Site) -> String {
    site.at_warehouse("select max(ds) from audit.job_runs").await.remove(0)
}

#[test]
fn of_two_instances_one_runs_the_jobs_and_the_other_takes_over_in_seconds() {
    block_on(async {
        let site = Site::new("job_owners").await;
        site.warehouse.batch_execute(SPANS).await.unwrap();
        traces(&site, "often", "schedule: { every: 1s }\noverlap: queue", "0.05");
        let mut first = site.spawn(&["run"]);
        site.until("it runs", "select count(*) > 4 from public.spans").await;
        let mut second = site.spawn(&["run"]);
        tokio::time::sleep(Duration::from_secs(3)).await;
        let owner = "select owner like '%pid {},%' from audit.owner where resource = 'scheduler'";
        let owned_by = |child: &Child| owner.replace("{}", &child.id().to_string());
        assert_eq!(site.at_warehouse(&owned_by(&first)).await, ["t"]);
        // frozen in the middle of something; awake it has lost
        signal(&first, "-STOP");
        let frozen = Instant::now();
        site.until("a takeover", &owned_by(&second)).await;
        assert!(frozen.elapsed() < Duration::from_secs(15), "{:?}", frozen.elapsed());
        let runs = "select count(*) from public.spans";
        let before: i64 = site.at_warehouse(runs).await[0].parse().unwrap();
        site.until("it goes on", &format!("select count(*) > {before} + 8 from public.spans"))
            .await;
        signal(&first, "-CONT");
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(site.at_warehouse(&owned_by(&second)).await, ["t"]);
        second.kill().unwrap();
        second.wait().unwrap();
        let killed = Instant::now();
        // the first has ended for its connector, or stands by
        let mut third = site.spawn(&["run"]);
        site.until(
            "another takeover",
            &format!(
                "select not ({})",
                owned_by(&second).replacen("select ", "select (", 1).replace(" from", ") from")
            ),
        )
        .await;
        assert!(killed.elapsed() < Duration::from_secs(15), "{:?}", killed.elapsed());
        let before: i64 = site.at_warehouse(runs).await[0].parse().unwrap();
        site.until("it goes on", &format!("select count(*) > {before} + 8 from public.spans"))
            .await;
        for child in [&mut first, &mut third] {
            drop(child.kill());
            child.wait().unwrap();
        }
        let twice = "select count(*) from (select from public.spans group by task, about having count(*) > 1) x";
        assert_eq!(site.at_warehouse(twice).await, ["0"]);
        let overlaps = "select count(*) from public.spans a join public.spans b on a.about < b.about \
            and (a.since, a.until) overlaps (b.since, b.until)";
        assert_eq!(site.at_warehouse(overlaps).await, ["0"], "runs of one job at once");
    });
}

#[test]
fn a_night_of_a_changed_clock_has_one_run_in_each_zone() {
    block_on(async {
        let site = Site::new("dst").await;
        let tasks = "  t: { command: [\"true\"] }";
        let at = |zone: &str, time: &str| {
            format!("schedule: {{ cron: \"{time} * * *\", timezone: {zone}, interval: day }}")
        };
        job(&site, "berlin", &at("Europe/Berlin", "30 2"), tasks);
        job(&site, "york", &at("America/New_York", "30 1"), tasks);
        let hourly = "schedule: { cron: \"0 * * * *\", timezone: Europe/Berlin, interval: hour, start: \"2025-01-01\" }";
        job(&site, "hours", hourly, tasks);
        let hand = Hand::at("2024-10-26T12:00:00Z");
        let running = site.start_by(hand.clock());
        site.until("seen", "select count(*) = 3 from audit.jobs").await;
        // 02:30 comes twice in Berlin: at 00:30 and at 01:30 UTC
        hand.turn("2024-10-27T00:29:59Z");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(runs(&site, "berlin").await.is_empty());
        for moment in ["2024-10-27T00:30:00Z", "2024-10-27T01:30:00Z", "2024-10-27T12:00:00Z"] {
            hand.turn(moment);
            until_runs(&site, "berlin", &["2024-10-26 success"]).await;
            tokio::time::sleep(Duration::from_millis(600)).await;
        }
        until_runs(&site, "berlin", &["2024-10-26 success"]).await;
        hand.turn("2024-10-28T01:30:00Z");
        until_runs(&site, "berlin", &["2024-10-26 success", "2024-10-27 success"]).await;
        let long = "select interval_end - interval_start from audit.job_runs where ds = '2024-10-27' and job = 'berlin'";
        assert_eq!(site.at_warehouse(long).await, ["1 day 01:00:00"]);
        // 01:30 comes twice in New York: at 05:30 and at 06:30 UTC
        let before = runs(&site, "york").await.len();
        hand.turn("2024-11-03T05:29:00Z");
        tokio::time::sleep(Duration::from_secs(1)).await;
        hand.turn("2024-11-03T05:30:00Z");
        site.until("York", &format!("select count(*) = {before} + 2 from audit.job_runs where job = 'york' and state = 'success'")).await;
        hand.turn("2024-11-03T06:45:00Z");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(runs(&site, "york").await.len(), before + 2);
        assert_eq!(runs(&site, "york").await.last().unwrap(), "2024-11-02 success");
        // days that have 23 and 25 hours: what comes twice on the clock is one interval, and nothing lies between two
        for (day, runs, hours) in [("2024-03-31", 23, 23), ("2024-10-27", 24, 25)] {
            let range = ["backfill", "hours", "--from", day, "--to", day, "--wait"];
            let (told, code) = ask(&site, &range).await;
            assert!(code == 0 && told.contains(&format!("queued: {runs};")), "{told}");
            let whole = format!(
                "select count(*), extract(epoch from sum(interval_end - interval_start))::int / 3600,
                        extract(epoch from max(interval_end) - min(interval_start))::int / 3600,
                        min(interval_start) = '{day} Europe/Berlin'
                   from audit.job_runs where job = 'hours' and ds = '{day}'"
            );
            assert_eq!(site.at_warehouse(&whole).await, [format!("{runs}|{hours}|{hours}|t")]);
        }
        assert!(running.stop().await.is_ok());
    });
}

#[test]
fn what_is_missed_overlaps_waits_or_is_paused_follows_the_files() {
    block_on(async {
        let site = Site::new("rules").await;
        site.warehouse
            .batch_execute("create table flag (up boolean); insert into flag values (false)")
            .await
            .unwrap();
        sql(&site, "flag", "select up from public.flag");
        let quick = "  t: { command: [\"true\"] }";
        let waits = "  t: { sensor: { sql: sql/jobs/flag.sql }, poll: 100ms, timeout: 30d }";
        let daily = "schedule: { cron: \"0 2 * * *\", timezone: UTC, interval: day";
        job(&site, "latest", &format!("{daily} }}"), quick);
        job(&site, "all", &format!("{daily}, start: \"2024-03-01\", catchup: true }}"), quick);
        job(&site, "skips", &format!("{daily} }}"), waits);
        job(&site, "queues", &format!("{daily} }}\noverlap: queue"), waits);
        job(&site, "replaces", &format!("{daily} }}\noverlap: replace"), waits);
        job(&site, "allows", &format!("{daily} }}\noverlap: allow"), waits);
        job(&site, "paused", &format!("{daily} }}"), quick);
        job(
            &site,
            "after",
            "schedule: { after: all }",
            "  t: { sensor: { job: all }, timeout: 1s, retries: 0 }",
        );
        let soft =
            "  f: { sensor: { file: \"in/{ds}\" }, poll: 100ms, timeout: 1h, soft_fail: true }
  g: { sensor: { file: \"in/{ds}\" }, poll: 100ms, timeout: 1h }
  t: { command: [\"true\"], depends_on: [f] }";
        job(&site, "files", &format!("{daily} }}"), soft);
        let hand = Hand::at("2024-03-03T12:00:00Z");
        let running = site.start_by(hand.clock());
        // what is caught up with comes at once, and what follows it
        until_runs(&site, "all", &["2024-03-01 success", "2024-03-02 success"]).await;
        until_runs(&site, "after", &["2024-03-01 success", "2024-03-02 success"]).await;
        assert_eq!(ask(&site, &["pause", "paused", "--wait"]).await.1, 0);
        hand.turn("2024-03-04T03:00:00Z");
        for waiting in ["skips", "queues", "replaces", "allows", "files"] {
            until_runs(&site, waiting, &["2024-03-03 running"]).await;
        }
        until_runs(&site, "latest", &["2024-03-03 success"]).await;
        hand.turn("2024-03-06T03:00:00Z");
        until_runs(&site, "skips", &["2024-03-03 running", "2024-03-05 skipped"]).await;
        until_runs(&site, "queues", &["2024-03-03 running", "2024-03-05 queued"]).await;
        until_runs(&site, "replaces", &["2024-03-03 cancelled", "2024-03-05 running"]).await;
        until_runs(&site, "allows", &["2024-03-03 running", "2024-03-05 running"]).await;
        // of two days missed one is run, or both
        until_runs(&site, "latest", &["2024-03-03 success", "2024-03-05 success"]).await;
        until_runs(
            &site,
            "all",
            &[
                "2024-03-01 success",
                "2024-03-02 success",
                "2024-03-03 success",
                "2024-03-04 success",
                "2024-03-05 success",
            ],
        )
        .await;
        assert!(runs(&site, "paused").await.is_empty());
        assert_eq!(ask(&site, &["resume", "paused", "--wait"]).await.1, 0);
        until_runs(&site, "paused", &["2024-03-05 success"]).await;
        // its hour is over by the clock
        until_runs(&site, "files", &["2024-03-03 failed", "2024-03-05 skipped"]).await;
        let tasks = states(&site, "files").await;
        assert_eq!(tasks[..3], ["f skipped", "g failed", "t skipped"]);
        let tries = "select count(*) from audit.etl_logs where dag_id = 'files' and task_id = 'g'";
        assert_eq!(site.at_warehouse(tries).await, ["1"], "a sensor's time-out is not tried again");
        site.warehouse.batch_execute("update flag set up = true").await.unwrap();
        until_runs(&site, "queues", &["2024-03-03 success", "2024-03-05 success"]).await;
        until_runs(&site, "replaces", &["2024-03-03 cancelled", "2024-03-05 success"]).await;
        until_runs(&site, "allows", &["2024-03-03 success", "2024-03-05 success"]).await;
        assert!(running.stop().await.is_ok());
    });
}

#[test]
fn data_starts_a_job_and_lets_one_wait() {
    block_on(async {
        let site = Site::new("by_data").await;
        site.shop("create table users (id int primary key)").await;
        job(
            &site,
            "changes",
            "schedule: { changes: [cleansed.users] }",
            "  t: { command: [\"true\"] }",
        );
        job(
            &site,
            "fresh",
            "requires: { table: cleansed.users, fresh_to: interval_end }",
            "  t: { command: [\"true\"] }
  s: { sensor: { table: cleansed.users }, poll: 100ms }",
        );
        let running = site.start();
        site.until("streaming", "select bool_and(state = 'streaming') from audit.tables").await;
        site.until(
            "counted",
            "select counted ? 'cleansed.users' from audit.jobs where job = 'changes'",
        )
        .await;
        let before = runs(&site, "changes").await.len();
        site.shop("insert into users values (1)").await;
        site.until("a run", &format!("select count(*) > {before} from audit.job_runs where job = 'changes' and state = 'success'")).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let settled = runs(&site, "changes").await.len();
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(runs(&site, "changes").await.len(), settled, "it runs without a change");
        assert_eq!(ask(&site, &["run", "fresh"]).await.1, 0);
        site.until("asked", "select count(*) = 1 from audit.job_runs where job = 'fresh'").await;
        // the stream's clock moves on with its commits
        for id in 2..200 {
            site.shop(&format!("insert into users values ({id})")).await;
            if runs(&site, "fresh").await.iter().any(|run| run.ends_with("success")) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert!(
            runs(&site, "fresh").await[0].ends_with("success"),
            "{:?}",
            runs(&site, "fresh").await
        );
        assert!(running.stop().await.is_ok());
    });
}

#[test]
fn upkeep_runs_on_what_the_patterns_mean() {
    block_on(async {
        let site = Site::new("upkeep").await;
        site.file(
            "schemas/orders.yaml",
            "table: cleansed.fact_orders\nfrom: shop.public.orders\nkey: [id]\n\
             partition: { by: day, every: day, ahead: 3, range: [\"2024-01-01\", \"+2y\"] }\n\
             columns:\n  id: { type: integer }\n  day: { type: date, required: true }\n",
        );
        site.shop("create table orders (id int primary key, day date not null); insert into orders values (1, '2024-03-01'), (2, '2024-03-02')").await;
        site.catch_up().await;
        job(
            &site,
            "maintenance",
            "parallel: 1",
            "  vacuum:     { vacuum: [\"cleansed.*\", \"audit.*\"] }
  analyze:    { analyze: [\"cleansed.*\"], depends_on: [vacuum] }
  partitions: { partitions: [\"cleansed.*\"], depends_on: [analyze] }
  reindex:    { reindex: [\"cleansed.*\"], depends_on: [partitions] }",
        );
        let leaves =
            "select count(*) from pg_inherits where inhparent = 'cleansed.fact_orders'::regclass";
        let before: i64 = site.at_warehouse(leaves).await[0].parse().unwrap();
        // another day has other leaves ahead
        let hand = Hand::at("2024-05-05T12:00:00Z");
        // half of one that broke off
        site.warehouse.batch_execute("create index orders_ccnew on cleansed.fact_orders_p20240301 (id); update pg_index set indisvalid = false where indexrelid = 'cleansed.orders_ccnew'::regclass").await.unwrap();
        let running = site.start_by(hand.clock());
        site.until("there", "select exists (select from audit.jobs)").await;
        let (said, code) = ask(&site, &["run", "maintenance", "--wait"]).await;
        let logs =
            site.at_warehouse("select task_id, status, error_message from audit.etl_logs").await;
        assert_eq!(code, 0, "{said} {logs:#?}");
        let after: i64 = site.at_warehouse(leaves).await[0].parse().unwrap();
        assert_eq!(after, before + 3);
        assert_eq!(
            site.at_warehouse("select count(*) from pg_class where relname like '%ccnew%'").await,
            ["0"]
        );
        let analyzed = "select count(*) > 0 from pg_stat_user_tables where relname like 'fact_orders%' and last_analyze is not null";
        site.until("analyzed", analyzed).await;
        assert!(running.stop().await.is_ok());
    });
}

#[test]
fn old_leaves_go_without_anybody_waiting_behind_a_reader() {
    block_on(async {
        let site = Site::new("old_leaves").await;
        site.warehouse
            .batch_execute(
                "create schema logs;
                 create table logs.visits (at timestamptz, page text) partition by range (at);
                 create table logs.visits_1 partition of logs.visits for values from ('2024-01-01') to ('2024-02-01');
                 create table logs.visits_2 partition of logs.visits for values from ('2024-02-01') to ('2024-03-01');
                 create table logs.visits_3 partition of logs.visits for values from ('2024-03-01') to ('2024-04-01');
                 insert into logs.visits values ('2024-01-05', 'a'), ('2024-02-05', 'b'), ('2024-03-05', 'c');
                 create table logs.words (word text) partition by range (word);
                 create table logs.words_1 partition of logs.words for values from ('a') to ('b');
                 create schema other;
                 create table other.visits_1 (at timestamptz);
                 comment on table other.visits_1 is 'siltstone: detached to be dropped, a leaf of other.visits';
                 comment on table logs.visits_3 is 'siltstone: detached to be dropped, a leaf of logs.visits'",
            )
            .await
            .unwrap();
        job(&site, "old", "", "  t: { partitions: [\"logs.*\"], keep: 30d, timeout: 50s }");
        let analyst = site.another_session().await;
        analyst
            .batch_execute(
                "begin isolation level repeatable read; select count(*) from logs.visits",
            )
            .await
            .unwrap();
        let running = site.start();
        site.until("there", "select exists (select from audit.jobs)").await;
        // the last day of March is about 30 days behind February's end
        assert_eq!(ask(&site, &["run", "old", "--date", "2024-03-31"]).await.1, 0);
        site.until(
            "at work",
            "select exists (select from audit.task_runs where state = 'running')",
        )
        .await;
        for _ in 0..12 {
            tokio::time::sleep(Duration::from_millis(400)).await;
            let seen = "set statement_timeout to '900ms'; insert into logs.visits values ('2024-03-06', 'd'); \
                select count(*) > 1 from logs.visits where at > '2024-02-28'; reset statement_timeout";
            assert_eq!(site.at_warehouse(seen).await, ["t"], "somebody waits");
        }
        let states = "select state from audit.task_runs";
        assert_eq!(site.at_warehouse(states).await, ["running"]);
        analyst.batch_execute("commit").await.unwrap();
        site.until("gone", "select bool_and(state = 'success') from audit.job_runs").await;
        // what is marked as a leaf of a table that the task does not mean stays
        let left = "select oid::regclass from pg_class where relname ~ '^(visits|words)' order by oid::regclass::text";
        assert_eq!(
            site.at_warehouse(left).await,
            ["logs.visits", "logs.visits_3", "logs.words", "logs.words_1", "other.visits_1"]
        );
        // and what is not old any more is marked no more
        let marked = "select count(*) from pg_description where objoid = 'logs.visits_3'::regclass";
        assert_eq!(site.at_warehouse(marked).await, ["0"]);
        assert!(running.stop().await.is_ok());
    });
}

#[test]
fn what_is_given_up_goes_on_or_has_failed_as_its_rule_says() {
    block_on(async {
        let site = Site::new("given_up").await;
        site.warehouse.batch_execute(SPANS).await.unwrap();
        sql(&site, "slow", "insert into public.spans (task) values ('t'); select pg_sleep(2)");
        job(&site, "slow", "", "  t: { sql: sql/jobs/slow.sql, retries: 0 }");
        let at_work = "select exists (select from pg_stat_activity where query like '%pg_sleep(2)%' \
            and pid <> pg_backend_pid() and datname = current_database() and state = 'active')";
        let running = site.start();
        site.until("there", "select exists (select from audit.jobs)").await;
        assert_eq!(ask(&site, &["run", "slow"]).await.1, 0);
        site.until("at work", at_work).await;
        // told to stop it hands back what it has begun
        assert!(running.stop().await.is_ok());
        assert_eq!(
            site.at_warehouse("select state, tries from audit.task_runs").await,
            ["retrying|0"]
        );
        let mut child = site.spawn(&["run"]);
        site.until("success", "select bool_and(state = 'success') from audit.job_runs").await;
        assert_eq!(site.at_warehouse("select count(*) from public.spans").await, ["1"]);
        // killed it is lost, and there is no other try
        assert_eq!(
            ask(&site, &["clear", "slow", "--date", &today(&site).await, "--wait"]).await.1,
            0
        );
        site.until("at work", at_work).await;
        child.kill().unwrap();
        child.wait().unwrap();
        let running = site.start();
        site.until("failed", "select bool_and(state = 'failed') from audit.job_runs").await;
        assert_eq!(site.at_warehouse("select count(*) from public.spans").await, ["1"]);
        let attempts = "select attempt, status from audit.etl_logs order by attempt";
        assert_eq!(site.at_warehouse(attempts).await, ["1|lost", "2|success", "3|lost"]);
        assert!(running.stop().await.is_ok());
    });
}
