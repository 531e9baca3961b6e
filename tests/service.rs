//! The process as its operator meets it: signals, exit codes, the admin server.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::{Site, block_on};

const TABLES: &str = "create table users (id bigint primary key, email text);
    insert into users select i, 'u' || i from generate_series(1, 100) i";

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A request; the status code and the body.
pub fn http(port: u16, method: &str, path: &str, token: &str) -> (u16, String) {
    http_with(port, method, path, (token, ""))
}

/// The same with a body.
pub fn http_with(
    port: u16,
    method: &str,
    path: &str,
    (token, body): (&str, &str),
) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let authorization = match token {
        "" => String::new(),
        token => format!("Authorization: Bearer {token}\r\n"),
    };
    let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
    let length = body.len();
    write!(stream, "{head}{authorization}Content-Length: {length}\r\n\r\n{body}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let code = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (code, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

pub fn with_admin(site: &Site, port: u16) {
    site.file(
        "siltstone.yaml",
        &format!(
            "warehouse: {{ url: \"${{WAREHOUSE_URL}}\" }}\n\
             admin: {{ listen: \"127.0.0.1:{port}\", token: s3cret, read_token: r3ad }}\n"
        ),
    );
}

#[test]
fn the_admin_server_tells_what_is_going_on() {
    block_on(async {
        let site = Site::new("admin").await;
        let port = free_port();
        with_admin(&site, port);
        site.shop(TABLES).await;
        let mut child = site.spawn(&["run"]);
        site.until("the table is there", "select to_regclass('audit.tables') is not null").await;
        site.until("streaming", "select count(*) = 1 from audit.tables where state = 'streaming'")
            .await;
        assert_eq!(http(port, "GET", "/livez", "").0, 200);
        assert_eq!(http(port, "GET", "/readyz", "").0, 200);
        assert_eq!(http(port, "GET", "/status", "").0, 401);
        assert_eq!(http(port, "GET", "/status", "wrong").0, 401);
        let (code, status) = http(port, "GET", "/status", "r3ad");
        assert_eq!(code, 200);
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let table = &status["connectors"][0]["tables"][0];
        assert_eq!(table["name"], "cleansed.users");
        assert_eq!(table["state"], "streaming");
        let (_, metrics) = http(port, "GET", "/metrics", "s3cret");
        for name in [
            "siltstone_rows_applied_total",
            "siltstone_lag_bytes",
            "siltstone_lag_seconds",
            "siltstone_slot_retained_bytes",
            "siltstone_stale_rows_total",
            "siltstone_pending_bytes",
            "siltstone_dead_letters",
            "siltstone_table_state",
            "siltstone_transaction_duration_seconds",
            "siltstone_memory_bytes",
        ] {
            assert!(metrics.contains(name), "{name} is missing");
        }
        assert_eq!(http(port, "POST", "/tables/cleansed.users/resync", "r3ad").0, 403);
        assert_eq!(http(port, "POST", "/tables/cleansed.nothing/resync", "s3cret").0, 404);
        assert_eq!(http(port, "POST", "/connectors", "s3cret").0, 405);
        assert_eq!(http(port, "GET", "/nowhere", "s3cret").0, 404);
        assert_eq!(http(port, "POST", "/tables/cleansed.users/resync", "s3cret").0, 202);
        site.until(
            "read again",
            "select count(*) = 1 from audit.snapshot_chunks where state = 'done' and not fresh",
        )
        .await;
        site.until("streaming again", "select bool_and(state = 'streaming') from audit.tables")
            .await;
        child.kill().unwrap();
        child.wait().unwrap();
    });
}

#[test]
fn sigterm_ends_it_within_ten_seconds_also_in_a_large_transaction() {
    block_on(async {
        let site = Site::new("sigterm").await;
        site.shop(TABLES).await;
        site.catch_up().await;
        let mut child = site.spawn(&["run"]);
        site.until(
            "it runs",
            "select count(*) > 0 from audit.owner where jsonb_array_length(backends) > 2",
        )
        .await;
        site.shop(
            "insert into users select i, repeat('x', 100) from generate_series(1000, 250000) i",
        )
        .await;
        tokio::time::sleep(Duration::from_millis(700)).await;
        let asked = Instant::now();
        let signalled = std::process::Command::new("kill").arg(child.id().to_string()).status();
        assert!(signalled.unwrap().success());
        let status = tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
        assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
        assert!(status.success(), "{status}");
        site.catch_up().await;
        site.assert_equal("select id, email from {} order by id", "users", "cleansed.users").await;
    });
}

#[test]
fn a_verb_ends_quietly_when_nobody_reads_what_it_prints() {
    block_on(async {
        let site = Site::new("nobodyreads").await;
        for verb in ["validate", "completions"] {
            let arguments: &[&str] =
                if verb == "completions" { &["completions", "bash"] } else { &["validate"] };
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            let output = site
                .command(arguments)
                .stdout(Stdio::from(writer))
                .stderr(Stdio::piped())
                .output()
                .unwrap();
            let text = String::from_utf8(output.stderr).unwrap();
            assert!(text.is_empty(), "{verb}: {text}");
            assert_eq!(output.status.code(), Some(141), "{verb}");
        }
    });
}

#[test]
fn what_cannot_run_says_why_and_exits_by_sysexits() {
    block_on(async {
        let site = Site::new("exits").await;
        site.shop(TABLES).await;
        let run = |site: &Site, arguments: &[&str]| {
            let output = site.command(arguments).stderr(Stdio::piped()).output().unwrap();
            let text = String::from_utf8(output.stderr).unwrap();
            (output.status.code().unwrap(), text)
        };
        // a password in a URL never shows, whatever fails
        site.connector("tables: [\"public.*\"]\ntarget_schem: cleansed\n");
        let (code, text) = run(&site, &["validate"]);
        assert_eq!(code, 78, "{text}");
        assert!(text.contains("connectors/shop.yaml:6: target_schem"), "{text}");
        assert!(text.contains("target_schema"), "{text}");
        site.file(
            "connectors/shop.yaml",
            "name: x\nkind: postgres\nurl: \"postgres://nobody:pa55word@127.0.0.1:1/shop\"\ntables: [\"public.*\"]\n",
        );
        let (code, text) = run(&site, &["validate", "--connect"]);
        assert_eq!(code, 69, "{text}");
        assert!(!text.contains("pa55word"), "{text}");
        assert_eq!(run(&site, &["no-such-verb"]).0, 64);
    });
}
