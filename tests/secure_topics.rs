//! Brokers behind TLS that ask for a password or a certificate: who has them takes its changes, and who has
//! not is told why within seconds, and by which property it is mended. No password is ever told.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::secure::{PLAIN, SCRAM, Secure, USER};
use crate::support::{Record, Site, Topics, block_on, kafka};

/// Longer than that nobody who is refused waits to be told so.
const REFUSED_WITHIN: Duration = Duration::from_secs(12);

/// A listener that only hangs up is given half a minute.
const TOLD_WITHIN: Duration = Duration::from_secs(45);

/// Brokers that are away are told of many times a second, people are not.
const SAID_AT_MOST: usize = 12;

/// A password that no broker knows.
const WRONG: &str = "s3cret-wrong";

/// How many rows each topic has.
const ROWS: i64 = 500;

fn change(topic: &str, id: i64, op: &str, at: i64) -> Record {
    let value = json!({
        "op": op, "before": null, "after": {"id": id, "v": format!("{op}{at}")}, "ts_ms": 1,
        "source": {
            "connector": "postgresql", "schema": "public", "table": "t", "lsn": at,
            "sequence": format!("[\"{at}\",\"{at}\"]"), "ts_ms": 1, "txId": at,
        },
    });
    Record::new(topic, &json!({ "id": id }).to_string(), &value.to_string())
}

/// Rows, of which each second one is changed, and some records come again.
async fn write(topics: &Topics, topic: &str) {
    topics.create(topic, 3).await;
    let made = (0..ROWS).map(|id| change(topic, id, "c", 1_000 + id));
    let changed = (0..ROWS).step_by(2).map(|id| change(topic, id, "u", 5_000 + id));
    let again = (0..ROWS).step_by(10).map(|id| change(topic, id, "c", 1_000 + id));
    topics.write(made.chain(changed).chain(again).collect()).await;
}

/// A site whose only connector reads the topic `secure.public.t` with these properties.
async fn site(name: &str, brokers: &str, properties: &str) -> Site {
    let site = Site::new(name).await;
    site.file(
        "schemas/t.yaml",
        "table: cleansed.t\nfrom: shop.public.t\nkey: [id]\n\
         columns:\n  id: { type: bigint }\n  v: { type: text }\n",
    );
    site.file(
        "topics.yaml",
        &format!("connector: {}\ntopics:\n  secure.public.t: {{ partitions: 3 }}\n", site.name),
    );
    connect(&site, brokers, properties);
    site
}

fn connect(site: &Site, brokers: &str, properties: &str) {
    site.file(
        "connectors/shop.yaml",
        &format!(
            "name: {0}\nkind: kafka\nsource: shop\nbrokers: {brokers}\ngroup: {0}\n\
             topics: [\"secure.public.t\"]\nproperties:\n  broker.address.family: v4\n{properties}",
            site.name
        ),
    );
}

fn tls(ca: &std::path::Path) -> String {
    format!("  security.protocol: ssl\n  ssl.ca.location: {}\n", ca.display())
}

fn login(secure: &Secure, mechanism: &str) -> String {
    format!(
        "  security.protocol: sasl_ssl\n  sasl.mechanism: {mechanism}\n  sasl.username: {USER}\n  \
         sasl.password: \"${{KAFKA_PASSWORD}}\"\n  ssl.ca.location: {}\n",
        secure.file("root.pem").display()
    )
}

/// Runs the binary over a site; its exit code, and all that it said, which is no password.
fn run(site: &Site, password: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = site.command(arguments);
    command.env("KAFKA_PASSWORD", password).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = command.output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(!said.contains("s3cret"), "{said}");
    (output.status.code(), said)
}

/// Everything is in, once, and the newest of it.
async fn assert_taken(site: &Site) {
    let rows = "select count(*), count(*) filter (where v = case when id % 2 = 0 \
                then 'u' || 5000 + id else 'c' || 1000 + id end) from cleansed.t";
    assert_eq!(site.at_warehouse(rows).await, [format!("{ROWS}|{ROWS}")]);
    let read = "select sum(position) from audit.progress";
    let records = ROWS + ROWS / 2 + ROWS / 10;
    assert_eq!(site.at_warehouse(read).await, [records.to_string()]);
}

#[test]
fn passwords_and_certificates_let_their_owner_in() {
    if kafka().is_none() {
        return;
    }
    block_on(async {
        let secure = Secure::start("secure").await;
        write(&Topics::at(&secure.broker.address()), "secure.public.t").await;
        let certificate = format!(
            "{}  ssl.certificate.location: {}\n  ssl.key.location: {}\n",
            tls(&secure.file("root.pem")),
            secure.file("client.pem").display(),
            secure.file("client.key").display()
        );
        let ways = [
            ("scram", secure.login("localhost"), login(&secure, "SCRAM-SHA-512"), SCRAM),
            ("plain", secure.login("localhost"), login(&secure, "PLAIN"), PLAIN),
            ("mutual", secure.mutual(), certificate, ""),
        ];
        for (name, brokers, properties, password) in ways {
            let site = site(&format!("secure_{name}"), &brokers, &properties).await;
            for looks in [&["validate", "--connect"][..], &["topics", "plan", "--exit-code"]] {
                let (code, said) = run(&site, password, looks);
                assert_eq!(code, Some(0), "{name}: {said}");
            }
            let (code, said) = run(&site, password, &["run", "--until-caught-up"]);
            assert_eq!(code, Some(0), "{name}: {said}");
            assert_taken(&site).await;
        }
    });
}

/// How a connector fails, and what tells so.
struct Refused {
    name: &'static str,
    brokers: String,
    properties: String,
    /// what `run --until-caught-up` ends with, and what looks end with
    codes: [i32; 2],
    within: Duration,
    told: Vec<&'static str>,
}

#[test]
fn who_is_refused_is_told_why_and_what_mends_it() {
    if kafka().is_none() {
        return;
    }
    block_on(async {
        let secure = Secure::start("refusing").await;
        let (rights, away) = ([77, 77], [78, 69]);
        let at = secure.login("localhost");
        let scram = login(&secure, "SCRAM-SHA-512");
        let cases = [
            Refused {
                name: "a wrong password by SCRAM",
                brokers: at.clone(),
                properties: scram.clone(),
                codes: rights,
                within: REFUSED_WITHIN,
                told: vec!["SCRAM-SHA-512", "properties.sasl.password in connectors/shop.yaml"],
            },
            Refused {
                name: "a wrong password by PLAIN",
                brokers: at.clone(),
                properties: login(&secure, "PLAIN"),
                codes: rights,
                within: REFUSED_WITHIN,
                told: vec!["properties.sasl.password in connectors/shop.yaml"],
            },
            Refused {
                name: "a mechanism that is not offered",
                brokers: at.clone(),
                properties: login(&secure, "SCRAM-SHA-256"),
                codes: rights,
                within: REFUSED_WITHIN,
                told: vec!["properties.sasl.mechanism", "SCRAM-SHA-512"],
            },
            Refused {
                name: "an authority that did not sign it",
                brokers: at.clone(),
                properties: scram.replace("root.pem", "stranger.pem"),
                codes: away,
                within: REFUSED_WITHIN,
                told: vec!["certificate verify failed", "properties.ssl.ca.location"],
            },
            Refused {
                name: "a certificate of another name",
                brokers: secure.login("127.0.0.1"),
                properties: scram.clone(),
                codes: away,
                within: REFUSED_WITHIN,
                told: vec!["write brokers by a name"],
            },
            Refused {
                name: "TLS to a listener without",
                brokers: secure.broker.address(),
                properties: scram.clone(),
                codes: away,
                within: TOLD_WITHIN,
                told: vec!["properties.security.protocol"],
            },
            Refused {
                name: "no certificate of ours",
                brokers: secure.mutual(),
                properties: tls(&secure.file("root.pem")),
                codes: away,
                within: TOLD_WITHIN,
                told: vec!["properties.ssl.certificate.location"],
            },
        ];
        let site = site("refused", &at, &scram).await;
        for case in cases {
            connect(&site, &case.brokers, &case.properties);
            let looks = [
                (&["run", "--until-caught-up"][..], case.codes[0]),
                (&["validate", "--connect"][..], case.codes[1]),
                (&["topics", "plan"][..], case.codes[1]),
            ];
            for (arguments, expected) in looks {
                let began = Instant::now();
                let (code, said) = run(&site, WRONG, arguments);
                let within = began.elapsed();
                let which = format!("{}, {arguments:?}, {within:?}: {said}", case.name);
                assert_eq!(code, Some(expected), "{which}");
                assert!(within < case.within, "{which}");
                let lines = said.lines().filter(|line| line.starts_with('{'));
                assert!(lines.count() <= SAID_AT_MOST, "{which}");
                let remedy = said.lines().filter(|line| line.contains("remedy"));
                assert!(remedy.count() > 0, "{which}");
                for words in &case.told {
                    assert!(said.contains(words), "{words}: {which}");
                }
            }
        }
    });
}

/// A service in a process of its own, which ends with the test.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Asks for the status until it is so; what it says then.
async fn status(site: &Site, is_so: impl Fn(&str) -> bool) -> String {
    let since = Instant::now();
    loop {
        let (_, said) = run(site, PLAIN, &["status"]);
        if is_so(&said) {
            return said;
        }
        assert!(since.elapsed() < TOLD_WITHIN, "{said}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[test]
fn brokers_that_no_longer_answer_are_told_until_they_do() {
    if kafka().is_none() {
        return;
    }
    block_on(async {
        const AWAY: &str = "failed while reading its topics";
        let mut secure = Secure::start("leaving").await;
        let topics = Topics::at(&secure.broker.address());
        write(&topics, "secure.public.t").await;
        let site = site("leaving", &secure.login("localhost"), &login(&secure, "PLAIN")).await;
        let mut command = site.command(&["run"]);
        let log = std::fs::File::create(secure.file("run.log")).unwrap();
        command.env("KAFKA_PASSWORD", PLAIN).stderr(log);
        let service = Service(command.spawn().unwrap());
        let all = format!(
            "select to_regclass('cleansed.t') is not null and (select sum(position) \
                           from audit.progress) = {}",
            ROWS + ROWS / 2 + ROWS / 10
        );
        site.until("everything is in", &all).await;
        let told = status(&site, |said| said.contains("streaming")).await;
        assert!(!told.contains(AWAY), "{told}");
        secure.broker.stop().await.unwrap();
        let told = status(&site, |said| said.contains(AWAY)).await;
        assert!(told.contains("brokers are right and can be reached"), "{told}");
        secure.broker.start_again().await.unwrap();
        topics.write(vec![change("secure.public.t", 1, "u", 9_000)]).await;
        site.until("it goes on", "select v = 'u9000' from cleansed.t where id = 1").await;
        status(&site, |said| !said.contains(AWAY)).await;
        drop(service);
        let log = std::fs::read_to_string(secure.file("run.log")).unwrap();
        assert!(!log.contains("s3cret"), "{log}");
        let warnings = log.lines().filter(|line| line.contains("\"WARN\"")).count();
        assert!((1..=SAID_AT_MOST).contains(&warnings), "{log}");
    });
}
