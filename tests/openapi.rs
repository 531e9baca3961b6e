//! The admin server against its own document: every answer to anything at all is one that the document
//! names, in the shape that it names, and tells no secret.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;

use serde_json::Value;

use crate::service::{free_port, http, with_admin};
use crate::support::{Dice, Site, block_on, env, is_full};

const METHODS: [&str; 5] = ["get", "post", "put", "delete", "patch"];

/// What a path may be given, beside what there is.
const STRANGE: [&str; 13] = [
    "",
    "x",
    "cleansed.nothing",
    "a.b.c.d",
    "%22quoted%22.%22t%22%22%22",
    "%00",
    "%ff%fe",
    "%E2%82%AC.%F0%9F%92%A9",
    "..%2F..%2Fstatus",
    "%27%3B%20drop%20table%20audit.tables%3B%20--",
    "9223372036854775808",
    "-1",
    "%25s%25n",
];

const BODIES: [&str; 15] = [
    "{\"date\": \"2024-03-10\"}",
    "{\"from\": \"2024-03-10\", \"to\": \"2024-03-12\"}",
    "{\"date\": \"2024-13-10\"}",
    "{\"value\":\"x\"}",
    "",
    "",
    "{}",
    "{\"state\":\"\\u0000\"}",
    "[[[[",
    "\u{feff}",
    "{\"where\": \"id < 5\"}",
    "{\"where\": \"id = 's3cret\"}",
    "{\"where\": \"\\u0000\"}",
    "{\"max_rate\": \"8MiB\"}",
    "{\"max_rate\": \"8\"}",
];

struct Answer {
    code: u16,
    kind: String,
    body: String,
}

/// An answer; none where the server had closed before it read a long body, which takes the answer with it.
fn ask(port: u16, method: &str, path: &str, token: &str, body: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let token = match token {
        "" => String::new(),
        token => format!("Authorization: Bearer {token}\r\n"),
    };
    let method = method.to_uppercase();
    let length = body.len();
    let written = write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{token}\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes);
    if length > 1 << 20 && (written.is_err() || read.is_err()) && bytes.is_empty() {
        return None;
    }
    let answer = String::from_utf8(bytes).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let kind = head.lines().find_map(|line| line.strip_prefix("content-type: "));
    Some(Answer {
        code: head.split(' ').nth(1).unwrap().parse().unwrap(),
        kind: kind.unwrap_or_default().split(';').next().unwrap().to_owned(),
        body: body.to_owned(),
    })
}

/// The document, and what it says.
struct Document(Value);

impl Document {
    fn resolve<'d>(&'d self, value: &'d Value) -> &'d Value {
        match value["$ref"].as_str() {
            Some(name) => self.0.pointer(name.strip_prefix('#').unwrap()).unwrap(),
            None => value,
        }
    }

    /// Why a value is not of a schema. A word of the schema that is not known here fails the test.
    fn refuses(&self, schema: &Value, value: &Value) -> Option<String> {
        let schema = self.resolve(schema);
        for (word, wanted) in schema.as_object().unwrap() {
            let why = match word.as_str() {
                "description" | "required" if word == "description" => None,
                "type" => (!is_of(wanted, value)).then(|| format!("{value} is not {wanted}")),
                "const" => (wanted != value).then(|| format!("{value} is not {wanted}")),
                "enum" => (!wanted.as_array().unwrap().contains(value))
                    .then(|| format!("{value} is not one of {wanted}")),
                "required" => wanted
                    .as_array()
                    .unwrap()
                    .iter()
                    .find(|name| value.get(name.as_str().unwrap()).is_none())
                    .map(|name| format!("{value} lacks {name}")),
                "properties" => wanted.as_object().unwrap().iter().find_map(|(name, of)| {
                    let found = value.get(name)?;
                    self.refuses(of, found).map(|why| format!("{name}: {why}"))
                }),
                "additionalProperties" => {
                    let known = |name: &String| schema["properties"].get(name).is_some();
                    let more = value.as_object().into_iter().flatten();
                    let mut more = more.filter(|(name, _)| !known(name));
                    match wanted.as_bool() {
                        Some(_) => more.next().map(|(name, _)| format!("{name} is unknown")),
                        None => more.find_map(|(_, found)| self.refuses(wanted, found)),
                    }
                }
                "items" => {
                    value.as_array().into_iter().flatten().find_map(|v| self.refuses(wanted, v))
                }
                "anyOf" => {
                    let all = wanted.as_array().unwrap();
                    let fits = all.iter().any(|one| self.refuses(one, value).is_none());
                    (!fits).then(|| format!("{value} is none of {wanted}"))
                }
                word => panic!("the document says {word}, which this test does not know"),
            };
            if why.is_some() {
                return why;
            }
        }
        None
    }

    /// What the document says of a method of a path, both as they stand there.
    fn operation(&self, path: &str, method: &str) -> Option<&Value> {
        self.0["paths"][path].get(method)
    }

    /// Checks an answer.
    fn check(&self, path: &str, method: &str, asked: &str, answer: &Answer) {
        let Answer { code, kind, body } = answer;
        let told = || format!("{method} {asked} ({path}): {code} {kind} {body}");
        for secret in ["s3cret", "r3ad"] {
            assert!(!body.contains(secret), "a secret: {}", told());
        }
        let Some(operation) = self.operation(path, method) else {
            // what is no UTF-8 is told before the method is looked at
            let unreadable = *code == 400 && asked.contains("%ff");
            assert!(unreadable || matches!(code, 401 | 403 | 404 | 405), "{}", told());
            let failure = serde_json::json!({ "$ref": "#/components/schemas/Failure" });
            let body = serde_json::from_str(body).unwrap_or_else(|_| panic!("{}", told()));
            assert_eq!(self.refuses(&failure, &body), None, "{}", told());
            return;
        };
        let response = &operation["responses"][code.to_string()];
        assert!(!response.is_null(), "not in the document: {}", told());
        let content = &self.resolve(response)["content"][kind.as_str()];
        assert!(!content.is_null(), "another type than in the document: {}", told());
        if kind == "application/json" {
            let body = serde_json::from_str(body).unwrap_or_else(|_| panic!("{}", told()));
            assert_eq!(self.refuses(&content["schema"], &body), None, "{}", told());
        }
    }
}

fn is_of(wanted: &Value, value: &Value) -> bool {
    match wanted {
        Value::Array(any) => any.iter().any(|one| is_of(one, value)),
        one => match one.as_str().unwrap() {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            "boolean" => value.is_boolean(),
            "null" => value.is_null(),
            other => panic!("{other} is no type"),
        },
    }
}

fn one<'a, T: ?Sized>(dice: &mut Dice, all: &[&'a T]) -> &'a T {
    all[usize::try_from(dice.below(all.len() as u64)).unwrap()]
}

/// A path of the document with something in its places.
fn filled(path: &str, dice: &mut Dice, connector: &str, letter: &str) -> String {
    let there = |place: &str| match place {
        "{name}" => connector.to_owned(),
        "{id}" => letter.to_owned(),
        "{job}" => "upkeep".to_owned(),
        "{mart}" => "mart.counts".to_owned(),
        "{task}" => "0".to_owned(),
        _ => "cleansed.users".to_owned(),
    };
    let part = |part: &str| match part.starts_with('{') {
        false => part.to_owned(),
        true if dice.below(3) > 0 => there(part),
        true if dice.below(20) == 0 => "long".repeat(1000),
        true => one(dice, &STRANGE).to_owned(),
    };
    path.split('/').map(part).collect::<Vec<_>>().join("/")
}

#[test]
fn every_answer_is_one_that_the_document_names() {
    block_on(async {
        let site = Site::new("openapi").await;
        let password = |url: &str| url.split([':', '@']).nth(2).unwrap().to_owned();
        let passwords = [password(&site.source_url), password(&site.warehouse_url)];
        assert!(passwords.iter().all(|password| password.len() > 8));
        let port = free_port();
        with_admin(&site, port);
        site.file(
            "schemas/small.yaml",
            "table: cleansed.small\nfrom: shop.public.small\nkey: [id]\n\
             columns:\n  id: { type: integer }\n  v: { type: varchar(3) }\nchecks:\n  - { not_null: [v] }\n",
        );
        site.file(
            "jobs/upkeep.yaml",
            "name: upkeep\nschedule: { every: 1h }\ntasks:\n  a: { analyze: [cleansed.small] }\n",
        );
        site.file(
            "sql/marts/counts.sql",
            "/* siltstone\ntable: mart.counts\nkey: [id]\nrefresh_by: id\nreads:\n  \
             cleansed.users: { touches: \"select id from changed\" }\n*/\n\
             select id, count(*) as n from cleansed.users group by id\n",
        );
        site.file(
            "alerts.yaml",
            "channels: { nobody: { kind: webhook, url: \"http://127.0.0.1:9/s3cret\" } }\n",
        );
        site.shop(
            "create table users (id bigint primary key, email text);
             insert into users select i, 'u' || i from generate_series(1, 100) i;
             create table small (id int primary key, v text)",
        )
        .await;
        let log = std::fs::File::create(site.config().with_file_name("log")).unwrap();
        let mut command = site.command(&["run"]);
        let mut child = command.stderr(Stdio::from(log)).spawn().unwrap();
        site.until("streaming", "select count(*) = 2 from audit.tables where state = 'streaming'")
            .await;
        site.shop("insert into small values (1, 'too long')").await;
        site.until("refused", "select count(*) = 1 from audit.dead_letters").await;
        let letter = site.at_warehouse("select id from audit.dead_letters").await.remove(0);
        let connector = site.at_warehouse("select connector from audit.tables").await.remove(0);
        let (code, document) = http(port, "GET", "/openapi.json", "r3ad");
        assert_eq!(code, 200);
        let document = Document(serde_json::from_str(&document).unwrap());
        assert_eq!(document.0["info"]["version"], env!("CARGO_PKG_VERSION"));
        let clock = || u64::from(std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos());
        let seed = env().get("SILTSTONE_SEED").map_or_else(clock, |seed| seed.parse().unwrap());
        println!("SILTSTONE_SEED={seed}");
        let mut dice = Dice::new(seed);
        let too_large = format!("{{\"value\": \"{}\"}}", "x".repeat(2 << 20));
        let paths: Vec<&str> =
            document.0["paths"].as_object().unwrap().keys().map(String::as_str).collect();
        let mut seen = std::collections::BTreeSet::new();
        let named: Vec<(&str, &str)> = paths
            .iter()
            .flat_map(|path| METHODS.iter().map(move |method| (*path, *method)))
            .filter(|(path, method)| document.operation(path, method).is_some())
            .collect();
        for _ in 0..if is_full() { 20_000 } else { 2_500 } {
            // half of the time what is there, or few of so many would ever be met
            let (path, method) = match dice.below(2) {
                0 => named[usize::try_from(dice.below(named.len() as u64)).unwrap()],
                _ => (one(&mut dice, &paths), one(&mut dice, &METHODS)),
            };
            let mut asked = filled(path, &mut dice, &connector, &letter);
            let plain = asked.clone();
            // a comparison waits for a stream that rests
            if asked.ends_with("cleansed.users/verify") && dice.below(10) > 0 {
                continue;
            }
            // what changes the course of things is asked for now and then
            let quiet = method == "get" || document.operation(path, method).is_none();
            if !quiet && dice.below(4) > 0 {
                continue;
            }
            let queries = [
                "?expand=status&expand=info",
                "?expand=status",
                "?table=cleansed.users",
                "?table=%ff",
                "?a&&=b",
                "?%",
            ];
            if dice.below(4) == 0 {
                asked.push_str(one(&mut dice, &queries));
            }
            let token =
                one(&mut dice, &["s3cret", "s3cret", "r3ad", "wrong", "", "s3cre", "s3cret "]);
            // whatever the document says: who reads a body may find it too long
            let large = token == "s3cret" && method != "get" && dice.below(8) == 0;
            let body = if large { &*too_large } else { one(&mut dice, &BODIES) };
            let Some(answer) = ask(port, method, &asked, token, body) else { continue };
            // an empty place makes another path
            if !plain.contains("//") && !plain.ends_with('/') || *path == *"/" {
                document.check(path, method, &asked, &answer);
            } else {
                assert!(answer.code < 500, "{method} {asked}: {} {}", answer.code, answer.body);
            }
            assert!(!passwords.iter().any(|password| answer.body.contains(password)), "{asked}");
            seen.insert((path.to_owned(), method.to_owned(), answer.code));
            assert!(child.try_wait().unwrap().is_none(), "it ended after {method} {asked}");
        }
        // so that it says something: most of the document was met as it should be
        let met = seen.iter().filter(|(_, _, code)| matches!(code, 200 | 202)).count();
        assert!(met > 20, "{seen:#?}");
        let read = |(path, method): &&(&str, &str)| {
            *method == "get" && !seen.contains(&(path.to_string(), "get".to_owned(), 200))
        };
        let unread: Vec<_> = named.iter().filter(read).collect();
        assert!(unread.is_empty(), "not met as they should be: {unread:?}");
        site.shop("update small set v = 'ok'").await;
        http(port, "POST", "/tables/cleansed.small/resync", "s3cret");
        for _ in 0..2 {
            http(port, "PUT", &format!("/connectors/{connector}/resume"), "s3cret");
            http(port, "POST", "/tables/cleansed.users/resume", "s3cret");
            http(port, "POST", "/tables/cleansed.small/resume", "s3cret");
        }
        let open = "select count(*) = 0 from audit.requests where state = 'open'";
        site.until("all that was asked is answered", open).await;
        let streaming = "select bool_and(state = 'streaming') from audit.tables";
        site.until("streaming again", streaming).await;
        let (code, report) = http(port, "POST", "/tables/cleansed.users/verify", "s3cret");
        assert_eq!(code, 200, "{report}");
        let report: Value = serde_json::from_str(&report).unwrap();
        assert_eq!((&report["equal"], &report["rows"]), (&true.into(), &100.into()));
        site.warehouse.batch_execute("delete from cleansed.users where id = 7").await.unwrap();
        let (_, report) = http(port, "POST", "/tables/cleansed.users/verify", "s3cret");
        let report: Value = serde_json::from_str(&report).unwrap();
        assert_eq!((&report["equal"], &report["differing"]), (&false.into(), &1.into()));
        child.kill().unwrap();
        child.wait().unwrap();
        let log = std::fs::read_to_string(site.config().with_file_name("log")).unwrap();
        let secrets = ["s3cret", "r3ad"].into_iter().chain(passwords.iter().map(String::as_str));
        for secret in secrets {
            assert!(!log.contains(secret), "a secret in the log");
        }
        assert!(!log.contains("panicked"), "{log}");
    });
}

/// A route that the document does not know is not met above.
#[test]
fn every_route_is_in_the_document() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/serve");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let rust = files.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let source: String = rust.map(|path| std::fs::read_to_string(path).unwrap()).collect();
    let document: Value = serde_json::from_str(include_str!("../src/serve/openapi.json")).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let routes: Vec<&str> =
        source.split(".route(\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert!(routes.len() > 25, "{routes:?}");
    for route in routes {
        let known = match route.strip_suffix("{verb}") {
            Some(stem) => paths.keys().any(|path| path.starts_with(stem)),
            None => paths.contains_key(route),
        };
        assert!(known, "{route} is not in src/serve/openapi.json");
    }
}

#[test]
fn a_table_tells_to_when_it_is_fresh() {
    block_on(async {
        let site = Site::new("fresh_to").await;
        let port = free_port();
        with_admin(&site, port);
        site.shop("create table users (id bigint primary key, email text)").await;
        let mut child = site.spawn(&["run"]);
        site.until("streaming", "select count(*) = 1 from audit.tables where state = 'streaming'")
            .await;
        site.shop("insert into users values (1, 'a')").await;
        let committed = site.at_source("select extract(epoch from clock_timestamp())").await;
        let committed: f64 = committed[0].parse().unwrap();
        let mut fresh = 0.0;
        for _ in 0..200 {
            let (_, table) = http(port, "GET", "/tables/cleansed.users", "r3ad");
            let table: Value = serde_json::from_str(&table).unwrap();
            if let Some(told) = table["fresh_to"].as_str() {
                let query = format!("select extract(epoch from timestamptz '{told}')");
                fresh = site.at_source(&query).await[0].parse().unwrap();
            }
            if fresh > committed {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        // an idle source is fresh too, and what was committed before is there
        let (_, metrics) = http(port, "GET", "/metrics", "r3ad");
        assert!(metrics.contains("data_freshness_seconds{table=\"cleansed.users\"}"), "{metrics}");
        assert!(fresh > committed, "{fresh} {committed}");
        assert_eq!(site.at_warehouse("select count(*) from cleansed.users").await, ["1"]);
        http(port, "POST", "/tables/cleansed.users/pause", "s3cret");
        site.until("paused", "select bool_and(state = 'paused') from audit.tables").await;
        let mut told = Value::Null;
        for _ in 0..100 {
            let (_, table) = http(port, "GET", "/tables/cleansed.users", "r3ad");
            told = serde_json::from_str(&table).unwrap();
            if told["state"] == "paused" {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        assert_eq!((&told["state"], &told["fresh_to"]), (&"paused".into(), &Value::Null));
        child.kill().unwrap();
        child.wait().unwrap();
    });
}
