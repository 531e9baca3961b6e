//! Whose turn it is among runs: a backfill is in nobody's way, what waits does not wait for ever, what was given up is
//! taken up whole, and what goes by another run sees all that this one brought.

use crate::jobs::{Hand, ask, job, runs, sql, states, until_runs};
use crate::support::{Site, block_on};

const DAILY: &str = "schedule: { cron: \"0 2 * * *\", timezone: UTC, interval: day }";

#[test]
fn a_backfill_is_in_the_way_of_no_night() {
    block_on(async {
        let site = Site::new("turns").await;
        site.warehouse.batch_execute("create table open (ds date)").await.unwrap();
        sql(&site, "open", "select exists (select from public.open where ds = :'ds')");
        let waits = "  t: { sensor: { sql: sql/jobs/open.sql }, poll: 100ms, timeout: 30d }";
        job(&site, "skips", DAILY, waits);
        let hand = Hand::at("2024-03-03T01:00:00Z");
        let running = site.start_by(hand.clock());
        site.until("seen", "select count(*) = 1 from audit.jobs").await;
        let range = ["backfill", "skips", "--from", "2024-01-01", "--to", "2024-01-03", "--wait"];
        assert_eq!(ask(&site, &range).await.1, 0);
        let backfill = |rest: &[&'static str]| {
            [&["2024-01-01 running", "2024-01-02 queued", "2024-01-03 queued"][..], rest].concat()
        };
        until_runs(&site, "skips", &backfill(&[])).await;
        // two nights pass while one run of the backfill takes its time: the newest one waits
        hand.turn("2024-03-03T02:30:00Z");
        until_runs(&site, "skips", &backfill(&["2024-03-02 queued"])).await;
        hand.turn("2024-03-04T02:30:00Z");
        until_runs(&site, "skips", &backfill(&["2024-03-02 skipped", "2024-03-03 queued"])).await;
        // and has its turn before the rest of the backfill
        site.warehouse.batch_execute("insert into open values ('2024-01-01')").await.unwrap();
        let night = ["2024-03-02 skipped", "2024-03-03 running"];
        let rest = ["2024-01-01 success", "2024-01-02 queued", "2024-01-03 queued"];
        until_runs(&site, "skips", &[&rest[..], &night].concat()).await;
        // one that has begun is what the next night is left out for
        hand.turn("2024-03-05T02:30:00Z");
        let left_out = ["2024-03-02 skipped", "2024-03-03 running", "2024-03-04 skipped"];
        until_runs(&site, "skips", &[&rest[..], &left_out].concat()).await;
        site.warehouse
            .batch_execute(
                "insert into open select '2024-01-01'::date + n from generate_series(1, 99) n",
            )
            .await
            .unwrap();
        let done = "select count(*) = 4 from audit.job_runs where state = 'success'";
        site.until("done", done).await;
        assert!(running.stop().await.is_ok());
    });
}

#[test]
fn long_tasks_leave_room_for_short_ones() {
    block_on(async {
        let site = Site::new("room").await;
        let names = (1..=16).map(|n| format!("  t{n}: {{ command: [sleep, \"600\"] }}\n"));
        job(&site, "long", "parallel: 16", &names.collect::<String>());
        job(&site, "short", "", "  t: { command: [\"true\"] }");
        let running = site.start();
        site.until("seen", "select count(*) = 2 from audit.jobs").await;
        assert_eq!(ask(&site, &["run", "long"]).await.1, 0);
        let busy = "select count(*) = 12 from audit.task_runs where state = 'running'";
        site.until("busy", busy).await;
        assert_eq!(ask(&site, &["run", "short", "--wait"]).await.1, 0);
        assert!(running.stop().await.is_ok());
    });
}

#[test]
fn what_waits_for_data_has_failed_in_time_and_waits_once_more_where_it_is_cleared() {
    block_on(async {
        let site = Site::new("late_data").await;
        site.shop("create table users (id int primary key)").await;
        let requires = "requires: { table: cleansed.users, fresh_to: interval_end, timeout: 6h }";
        job(&site, "fresh", &format!("{DAILY}\n{requires}"), "  t: { command: [\"true\"] }");
        // the stream is never as far as this clock
        let hand = Hand::at("2124-03-03T01:00:00Z");
        let running = site.start_by(hand.clock());
        site.until("streaming", "select bool_and(state = 'streaming') from audit.tables").await;
        site.until("seen", "select count(*) = 1 from audit.jobs").await;
        hand.turn("2124-03-03T02:30:00Z");
        site.until("it waits", "select bool_and(state = 'queued' and reason like '%cleansed.users%') from audit.job_runs").await;
        hand.turn("2124-03-03T08:00:00Z");
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        assert_eq!(runs(&site, "fresh").await, ["2124-03-02 queued"]);
        hand.turn("2124-03-03T09:00:00Z");
        until_runs(&site, "fresh", &["2124-03-02 failed"]).await;
        let why = site.at_warehouse("select reason from audit.job_runs").await.remove(0);
        assert!(why.contains("longer than 21600 s") && why.contains("cleansed.users"), "{why}");
        assert_eq!(ask(&site, &["clear", "fresh", "--date", "2124-03-02"]).await.1, 0);
        until_runs(&site, "fresh", &["2124-03-02 queued"]).await;
        assert!(running.stop().await.is_ok());
    });
}

#[test]
fn what_was_given_up_is_cleared_whole() {
    block_on(async {
        let site = Site::new("given_up_whole").await;
        site.warehouse.batch_execute("create table open (ds date)").await.unwrap();
        sql(&site, "open", "select exists (select from public.open where ds = :'ds')");
        let tasks = "  done: { command: [\"true\"] }
  wait: { sensor: { sql: sql/jobs/open.sql }, poll: 100ms, timeout: 30d, depends_on: [done] }
  last: { command: [\"true\"], depends_on: [wait] }";
        job(&site, "replaces", &format!("{DAILY}\noverlap: replace"), tasks);
        sql(&site, "early", "select :'interval_start'::timestamptz <> '2024-03-01 12:00Z'");
        let early = "  t: { sensor: { sql: sql/jobs/early.sql }, poll: 100ms, timeout: 30d }";
        job(&site, "parts", "schedule: { every: 6h }", early);
        let hand = Hand::at("2024-03-03T01:00:00Z");
        let running = site.start_by(hand.clock());
        site.until("seen", "select count(*) = 2 from audit.jobs").await;
        hand.turn("2024-03-03T02:30:00Z");
        until_runs(&site, "replaces", &["2024-03-02 running"]).await;
        site.until(
            "it waits",
            "select count(*) = 1 from audit.task_runs where task = 'wait' and state = 'running'",
        )
        .await;
        hand.turn("2024-03-04T02:30:00Z");
        until_runs(&site, "replaces", &["2024-03-02 cancelled", "2024-03-03 running"]).await;
        site.warehouse
            .batch_execute("insert into open values ('2024-03-02'), ('2024-03-03')")
            .await
            .unwrap();
        until_runs(&site, "replaces", &["2024-03-02 cancelled", "2024-03-03 success"]).await;
        let cleared = ["clear", "replaces", "--date", "2024-03-02", "--task", "last", "--wait"];
        assert_eq!(ask(&site, &cleared).await.1, 0);
        until_runs(&site, "replaces", &["2024-03-02 success", "2024-03-03 success"]).await;
        let now = states(&site, "replaces").await;
        assert!(now.iter().all(|state| state.ends_with(" success")), "{now:?}");
        let tries = "select count(*) from audit.etl_logs where task_id = 'done'";
        assert_eq!(site.at_warehouse(tries).await, ["2"], "what was done is not done again");
        // of several runs of a day all or none
        let range = ["backfill", "parts", "--from", "2024-03-01", "--to", "2024-03-01", "--wait"];
        assert_eq!(ask(&site, &range).await.1, 0);
        let parts = ["1 success", "1 success", "1 running", "1 queued", "3 success"]
            .map(|run| format!("2024-03-0{run}"));
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        until_runs(&site, "parts", &parts).await;
        let cleared = ask(&site, &["clear", "parts", "--date", "2024-03-01", "--wait"]).await;
        assert_eq!(cleared.1, 65, "{}", cleared.0);
        assert_eq!(runs(&site, "parts").await, parts);
        assert!(running.stop().await.is_ok());
    });
}

#[test]
fn what_goes_by_a_run_that_is_run_again_meanwhile_is_run_again() {
    block_on(async {
        let site = Site::new("again_behind").await;
        site.warehouse
            .batch_execute("create table open (n int); create table seen (task text)")
            .await
            .unwrap();
        sql(&site, "open", "select exists (select from public.open)");
        sql(&site, "note", "insert into public.seen values ('first')");
        job(&site, "first", "", "  t: { sql: sql/jobs/note.sql }");
        let waits = "  t: { sensor: { sql: sql/jobs/open.sql }, poll: 100ms, timeout: 1h }";
        job(&site, "second", "schedule: { after: first }", waits);
        let running = site.start();
        site.until("seen", "select count(*) = 2 from audit.jobs").await;
        assert_eq!(ask(&site, &["run", "first", "--date", "2024-03-10", "--wait"]).await.1, 0);
        let at_work = "select count(*) = 1 from audit.task_runs join audit.job_runs using (run)
                        where job = 'second' and task_runs.state = 'running'";
        site.until("behind it", at_work).await;
        assert_eq!(ask(&site, &["run", "first", "--date", "2024-03-10", "--wait"]).await.1, 0);
        site.warehouse.batch_execute("insert into open values (1)").await.unwrap();
        let twice =
            "select round = 2 and state = 'success' from audit.job_runs where job = 'second'";
        site.until("twice", twice).await;
        // and not for ever
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        assert_eq!(site.at_warehouse(twice).await, ["t"]);
        assert!(running.stop().await.is_ok());
    });
}
