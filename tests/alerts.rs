//! Alerts against real servers of each protocol: told once, told when it is over, by one instance, and no channel
//! that fails stops anything.

use std::process::Stdio;
use std::time::Duration;

use crate::service::{free_port, http, with_admin};
use crate::support::{Mailbox, Posts, Site, block_on};

/// Several looks long.
const A_WHILE: Duration = Duration::from_secs(6);

/// A port at which nobody listens.
fn closed() -> String {
    format!("http://127.0.0.1:{}/s3cret", free_port())
}

async fn say(site: &Site, arguments: &[&str]) -> (i32, String) {
    let mut command = site.command(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let ended = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let said = [ended.stdout, ended.stderr].map(|said| String::from_utf8(said).unwrap());
    (ended.status.code().unwrap(), said.concat())
}

#[test]
fn a_broken_task_is_tried_again_told_once_and_resolved_once() {
    block_on(async {
        let (mails, posts) = (Mailbox::start().await, Posts::start().await);
        let site = Site::new("alert_job").await;
        site.file("roots.pem", &mails.root);
        site.file(
            "alerts.yaml",
            &format!(
                "channels:
  ops:   {{ kind: email, smtp: \"{}\", roots: roots.pem, from: siltstone@example.com, to: [a@example.com] }}
  slack: {{ kind: slack, url: \"{}\" }}
  pager: {{ kind: pagerduty, routing_key: k3y, url: \"{}\" }}\n",
                mails.url("s3cret-mail"),
                posts.url("/slack"),
                posts.url("/pager"),
            ),
        );
        site.file("sql/load.sql", "insert into public.loaded values (:'ds');\n");
        site.file(
            "jobs/load.yaml",
            "name: load\nalerts: { failure: [ops, slack], recovery: [slack] }\ntasks:\n  \
             load: { sql: sql/load.sql, retry_delay: 100ms }\n  \
             tell: { notify: [pager], trigger_rule: all_done, depends_on: [load] }\n",
        );
        let running = site.start();
        let (code, said) =
            say(&site, &["job", "run", "load", "--date", "2024-03-10", "--wait"]).await;
        assert!(code == 65 && said.ends_with("failed\n"), "{code}: {said}");
        let tried =
            "select count(*) from audit.etl_logs where task_id = 'load' and status = 'failed'";
        assert_eq!(site.at_warehouse(tried).await, ["4"]);
        let told = posts.until("/slack", 1).await;
        let text = told[0].body["text"].as_str().unwrap();
        for part in ["job_failed: load", "for 2024-03-10", "42P01", "siltstone job clear load"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let noticed = posts.until("/pager", 1).await;
        let summary = noticed[0].body["payload"]["summary"].as_str().unwrap();
        assert!(summary.contains("load 2024-03-10 failed"), "{summary}");
        tokio::time::sleep(A_WHILE).await;
        let mail = mails.mails();
        assert_eq!(mail.len(), 1, "{mail:#?}");
        assert!(mail[0].contains("Subject: [siltstone] FIRING job_failed: load"), "{}", mail[0]);
        assert!(mail[0].contains("To: a@example.com"), "{}", mail[0]);
        // mended, the same run again: those are told who want to know
        site.warehouse.batch_execute("create table loaded (ds date)").await.unwrap();
        let again = ["job", "clear", "load", "--date", "2024-03-10", "--wait"];
        assert_eq!(say(&site, &again).await.0, 0);
        let told = posts.until("/slack", 2).await;
        let text = told[1].body["text"].as_str().unwrap();
        assert!(text.contains("Resolved") && text.contains("goes well again"), "{text}");
        let noticed = posts.until("/pager", 2).await;
        let details = &noticed[1].body["payload"];
        assert_eq!(
            (&details["severity"], &details["component"]),
            (&"info".into(), &"notify".into())
        );
        tokio::time::sleep(A_WHILE).await;
        let counts = (posts.at("/slack").len(), posts.at("/pager").len(), mails.mails().len());
        assert_eq!(counts, (2, 2, 1));
        assert!(running.stop().await.is_ok());
    });
}

#[test]
fn one_of_two_instances_tells_and_a_restart_does_not_tell_again() {
    block_on(async {
        let posts = Posts::start().await;
        let site = Site::new("alert_once").await;
        site.file(
            "alerts.yaml",
            &format!(
                "channels:
  pager: {{ kind: pagerduty, routing_key: k3y, url: \"{}\" }}
  any:   {{ kind: webhook, url: \"{}\", bearer: t0ken }}
  flow:  {{ kind: webhook, url: \"{}\" }}
rules:
  - {{ when: dead_letters, send: [pager, any] }}
  - {{ when: check_failed, send: [any] }}
  - {{ when: stream_stalled, for: 10s, send: [flow] }}\n",
                posts.url("/pager"),
                posts.url("/any"),
                posts.url("/flow"),
            ),
        );
        site.file(
            "schemas/small.yaml",
            "table: cleansed.small\nfrom: shop.public.small\nkey: [id]\n\
             columns:\n  id: { type: integer }\n  v: { type: varchar(3) }\n",
        );
        site.shop("create table small (id int primary key, v text)").await;
        let (one, other) = (site.start(), site.start());
        let streaming = "select bool_and(state = 'streaming') from audit.tables";
        site.until("streaming", streaming).await;
        site.shop("insert into small values (1, 'too long')").await;
        let told = posts.until("/any", 1).await.remove(0);
        assert_eq!(told.authorization, "Bearer t0ken");
        for (field, value) in
            [("kind", "firing"), ("rule", "dead_letters"), ("subject", "cleansed.small")]
        {
            assert_eq!(told.body[field], value, "{}", told.body);
        }
        let opened = posts.until("/pager", 1).await.remove(0).body;
        assert_eq!(
            (&opened["event_action"], &opened["routing_key"]),
            (&"trigger".into(), &"k3y".into())
        );
        // the one that tells ends, whichever it is; and both of them
        assert!(one.stop().await.is_ok());
        tokio::time::sleep(A_WHILE).await;
        assert!(other.stop().await.is_ok());
        let running = site.start();
        let owner = "select count(*) = 1 from audit.owner where resource = 'alerts' \
                     and lease_until > clock_timestamp()";
        site.until("it tells again", owner).await;
        tokio::time::sleep(A_WHILE).await;
        assert_eq!((posts.at("/any").len(), posts.at("/pager").len()), (1, 1));
        // its end is told, by the key of its beginning
        assert_eq!(say(&site, &["dead-letter", "drop", "--all", "--yes", "--wait"]).await.0, 0);
        let closed = posts.until("/pager", 2).await.remove(1).body;
        assert_eq!(closed["event_action"], "resolve");
        assert_eq!(
            (&closed["dedup_key"], &closed["payload"]),
            (&opened["dedup_key"], &serde_json::Value::Null)
        );
        assert_eq!(posts.until("/any", 2).await[1].body["kind"], "resolved");
        // results of checks, by whoever makes them
        let result = |status: &str| {
            format!(
                "insert into audit.data_quality (check_date, check_name, status, description)
                 values (current_date, 'users are there', '{status}', 'none')"
            )
        };
        site.warehouse.batch_execute(&result("FAIL")).await.unwrap();
        let failed = posts.until("/any", 3).await.remove(2).body;
        assert_eq!(
            (&failed["rule"], &failed["text"]),
            (&"check_failed".into(), &"users are there: none".into())
        );
        site.warehouse.batch_execute(&result("PASS")).await.unwrap();
        assert_eq!(posts.until("/any", 4).await[3].body["kind"], "resolved");
        // a lock that nobody gives back
        site.warehouse.batch_execute("begin; lock table cleansed.small").await.unwrap();
        site.shop("insert into small values (2, 'b')").await;
        let stalled = posts.until("/flow", 1).await.remove(0).body;
        assert_eq!(
            (&stalled["rule"], &stalled["kind"]),
            (&"stream_stalled".into(), &"firing".into())
        );
        site.warehouse.batch_execute("rollback").await.unwrap();
        assert_eq!(posts.until("/flow", 2).await[1].body["kind"], "resolved");
        let (code, said) = say(&site, &["alert", "list"]).await;
        assert!(code == 0 && said.contains("ended") && said.contains("dead_letters"), "{said}");
        assert!(running.stop().await.is_ok());
    });
}

#[test]
fn a_channel_that_fails_stops_nothing_and_tells_no_secret() {
    block_on(async {
        let (mails, posts, slow) =
            (Mailbox::start().await, Posts::start().await, Posts::start().await);
        slow.answer(0);
        let (broken, lost) = (Posts::start().await, Posts::start().await);
        broken.answer(500);
        lost.answer(404);
        let site = Site::new("alert_fails").await;
        let port = free_port();
        with_admin(&site, port);
        site.file("roots.pem", &mails.root);
        site.file(
            "alerts.yaml",
            &format!(
                "channels:
  good:    {{ kind: webhook, url: \"{}\" }}
  broken:  {{ kind: slack, url: \"{}\" }}
  slow:    {{ kind: webhook, url: \"{}\", bearer: s3cret }}
  refused: {{ kind: pagerduty, routing_key: s3cret, url: \"{}\" }}
  login:   {{ kind: email, smtp: \"{}\", roots: roots.pem, from: a@example.com, to: [b@example.com] }}
  strange: {{ kind: email, smtp: \"{}\", from: a@example.com, to: [b@example.com] }}
  unset:   {{ kind: slack, url: \"${{NO_SUCH_URL:-}}\" }}
  lost:    {{ kind: slack, url: \"{}\" }}
rules:\n  - {{ when: stream_stalled, send: [] }}\n",
                posts.url("/good"),
                broken.url("/s3cret"),
                slow.url("/s3cret"),
                closed(),
                mails.url("s3cret-wrong"),
                mails.url("s3cret-mail"),
                lost.url("/s3cret"),
            ),
        );
        site.file(
            "jobs/tell.yaml",
            &format!(
                "name: tell\ntasks:\n  \
                 all:  {{ notify: [broken, slow, refused, login, strange, unset, good] }}\n  \
                 hook: {{ webhook: {{ url: \"{}\", bearer: s3cret }}, depends_on: [all] }}\n  \
                 bad:  {{ webhook: {{ url: \"{}\" }}, retries: 1, retry_delay: 100ms, allow_failure: true }}\n",
                posts.url("/hook"),
                broken.url("/s3cret-hook"),
            ),
        );
        site.shop("create table users (id bigint primary key)").await;
        let log = site.config().with_file_name("log");
        let mut command = site.command(&["run"]);
        let mut child = command.stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap();
        site.until("streaming", "select bool_and(state = 'streaming') from audit.tables").await;
        let (code, said) =
            say(&site, &["job", "run", "tell", "--date", "2024-03-10", "--wait"]).await;
        assert!(code == 0 && said.ends_with("success\n"), "{code}: {said}");
        assert_eq!(posts.until("/good", 1).await[0].body["kind"], "notice");
        let hook = posts.until("/hook", 1).await.remove(0);
        assert_eq!(hook.authorization, "Bearer s3cret");
        for (field, value) in [("job", "tell"), ("ds", "2024-03-10"), ("task", "hook")] {
            assert_eq!(hook.body[field], value, "{}", hook.body);
        }
        let all = hook.body["tasks"].as_array().unwrap().iter().find(|task| task["name"] == "all");
        assert_eq!(all.unwrap()["state"], "success");
        assert_eq!(broken.at("/s3cret-hook").len(), 2, "tried again by its rule");
        // what hangs is given up for this time, and the stream has gone on meanwhile
        site.shop("insert into users values (7)").await;
        site.until("it flows", "select count(*) = 1 from cleansed.users").await;
        let tried =
            "select count(*) = 5 from audit.alert_messages where attempts > 0 and state <> 'sent'";
        site.until("all were tried", tried).await;
        let (_, metrics) = http(port, "GET", "/metrics", "r3ad");
        // what went well has a time and how long it took, what has failed has none
        for of in ["duration_seconds", "last_success_timestamp_seconds"] {
            let shown = |task: &str| {
                let series = format!("siltstone_task_{of}{{job=\"tell\",task=\"{task}\"}}");
                metrics.contains(&series)
            };
            assert!(shown("hook") && !shown("bad"), "{of}: {metrics}");
        }
        for (channel, result) in [
            ("good", "sent"),
            ("broken", "retried"),
            ("slow", "retried"),
            ("refused", "retried"),
            ("login", "failed"),
            ("strange", "retried"),
        ] {
            let line =
                format!("siltstone_alerts_sent_total{{channel=\"{channel}\",result=\"{result}\"}}");
            assert!(metrics.contains(&line), "{line}: {metrics}");
        }
        assert!(metrics.contains("siltstone_alerts_firing{rule=\"job_failed\"} 0"), "{metrics}");
        for (channel, expected) in [
            ("good", 0),
            ("broken", 69),
            ("refused", 69),
            ("login", 77),
            ("strange", 69),
            ("unset", 78),
            ("lost", 78),
            ("nobody", 64),
        ] {
            let (code, said) = say(&site, &["alert", "test", channel]).await;
            assert_eq!(code, expected, "{channel}: {said}");
            assert!(!said.contains("s3cret"), "{said}");
        }
        // it takes messages again: what waited arrives, once
        broken.answer(200);
        let sent = "select state = 'sent' from audit.alert_messages where channel = 'broken'";
        site.until("it arrives", sent).await;
        let told = "select string_agg(m::text, '') || string_agg(l::text, '') \
                    from audit.alert_messages m, audit.etl_logs l";
        let told = site.at_warehouse(told).await.concat();
        child.kill().unwrap();
        child.wait().unwrap();
        let log = std::fs::read_to_string(&log).unwrap();
        assert!(log.contains("not told yet") && log.contains("500"), "{log}");
        for secret in ["s3cret", "r3ad"] {
            assert!(!log.contains(secret), "{log}");
            assert!(!told.contains(secret), "{told}");
        }
    });
}

#[test]
fn a_failure_that_another_run_follows_at_once_is_told_and_a_date_that_is_left_stays() {
    block_on(async {
        let posts = Posts::start().await;
        let site = Site::new("alert_dates").await;
        let channel =
            format!("channels:\n  ops: {{ kind: slack, url: \"{}\" }}\n", posts.url("/ops"));
        site.file("alerts.yaml", &channel);
        site.file("sql/load.sql", "insert into public.loaded values (:'ds')");
        let task = "tasks:\n  load: { sql: sql/load.sql, retries: 0 }\n";
        site.file("jobs/dates.yaml", &format!("name: dates\n{task}"));
        site.file("jobs/quick.yaml", &format!("name: quick\n{task}"));
        site.warehouse
            .batch_execute("create table loaded (ds date check (ds <> '2024-03-10'))")
            .await
            .unwrap();
        let running = site.start();
        site.until("seen", "select count(*) = 2 from audit.jobs").await;
        // of a backfill one date fails, and later ones go well
        let range = ["job", "backfill", "dates", "--from", "2024-03-10", "--to", "2024-03-12"];
        assert_eq!(say(&site, &range).await.0, 0);
        // and a run is followed by another one between two looks
        for date in ["2024-03-10", "2024-03-11"] {
            assert_eq!(say(&site, &["job", "run", "quick", "--date", date]).await.0, 0);
        }
        posts.until("/ops", 3).await;
        tokio::time::sleep(A_WHILE).await;
        let texts = |of: &str| -> Vec<String> {
            let told = posts.at("/ops");
            let texts = told.iter().map(|post| post.body["text"].as_str().unwrap().to_owned());
            texts.filter(|text| text.contains(&format!("job_failed: {of}"))).collect()
        };
        let quick = texts("quick");
        assert_eq!(quick.len(), 2, "{quick:?}");
        assert!(quick[0].contains("for 2024-03-10") && quick[1].contains("Resolved"), "{quick:?}");
        let dates = texts("dates");
        assert_eq!(dates.len(), 1, "{dates:?}");
        assert!(dates[0].contains("for 2024-03-10") && !dates[0].contains("Resolved"), "{dates:?}");
        site.warehouse
            .batch_execute("alter table loaded drop constraint loaded_ds_check")
            .await
            .unwrap();
        let again = ["job", "clear", "dates", "--date", "2024-03-10", "--wait"];
        assert_eq!(say(&site, &again).await.0, 0);
        posts.until("/ops", 4).await;
        assert!(texts("dates")[1].contains("Resolved"), "{:?}", texts("dates"));
        assert!(running.stop().await.is_ok());
    });
}
