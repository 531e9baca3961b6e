//! Masked columns: what a file masks is nowhere to be found behind the source, whatever road it came by,
//! and what is not masked is exact.

use std::fmt::Write as _;
use std::process::Stdio;
use std::time::Duration;

use siltstone::demo::cluster::{Cluster, ClusterOptions};
use siltstone::postgres::{Side, connect};
use siltstone::spec::{MaskKey, Secret};
use siltstone::types::days_from_civil;

use crate::support::{Site, block_on, env};

const KEY: &str = "a key of more than sixteen bytes";

/// Clear values are told by what stands in all of them: `clear` in texts, 49151 in numbers, the 17th of
/// March in dates.
const TABLES: &str = "create table users (id bigint primary key, email text not null, phone bigint,
        born date, seen timestamptz, bio text, note varchar(200), v int);
    alter table users alter bio set storage external;
    insert into users select i, 'clear-' || i || '@example.com', 4915100000000 + i,
        make_date(1950 + i % 50, 3, 17), make_timestamptz(1950 + i % 50, 3, 17, 12, 34, 56, 'UTC'),
        'clear ' || repeat('b', 3000), case when i % 3 > 0 then 'clear note ' || i end, i
        from generate_series(1, 100) i;
    create table logins (id bigint primary key, email text, n int);
    alter table logins replica identity full;
    insert into logins select i, 'clear-' || i || '@example.com', i from generate_series(1, 50) i;
    create table people (email text primary key, n int);
    insert into people select 'clear-' || i || '@example.com', i from generate_series(1, 50) i";

/// The columns of users, with their masks.
const MASKED: [(&str, &str, &str); 5] = [
    ("email", "text", "hash"),
    ("phone", "varchar(64)", "hash"),
    ("born", "date", "year"),
    ("seen", "timestamptz", "year"),
    ("note", "text", "null"),
];

fn settings(site: &Site) {
    site.file("mask.key", KEY);
    let key = site.config().with_file_name("mask.key");
    site.file(
        "siltstone.yaml",
        &format!(
            "warehouse: {{ url: \"${{WAREHOUSE_URL}}\" }}\nadmin: {{ listen: \"127.0.0.1:0\" }}\n\
             mask_key: \"${{file:{}}}\"\n",
            key.display()
        ),
    );
}

/// A table of users; masks where they are asked for.
fn users(site: &Site, name: &str, history: &str, masked: bool) {
    let mut text = format!(
        "table: cleansed.{name}\nfrom: shop.public.users\nhistory: {history}\nkey: [id]\ncolumns:\n  \
         id: {{ type: bigint }}\n  v: {{ type: integer }}\n"
    );
    let bio = [("bio", "text", "hash")];
    for (column, ty, mask) in MASKED.iter().chain(&bio) {
        let mask = if masked { format!(", mask: {mask}") } else { String::new() };
        writeln!(text, "  {column}: {{ type: {ty}{mask} }}").unwrap();
    }
    site.file(&format!("schemas/{name}.yaml"), &text);
}

fn raw(site: &Site, name: &str) {
    let text = format!("table: raw.stg_{name}\nfrom: shop.public.{name}\nlayout: raw\n");
    site.file(&format!("schemas/stg_{name}.yaml"), &text);
}

/// All tables. One file masks users; the others have the masks from it.
fn files(site: &Site) {
    settings(site);
    users(site, "users_now", "overwrite", true);
    users(site, "users_then", "versions", false);
    users(site, "users_log", "append", false);
    raw(site, "users");
    raw(site, "logins");
    site.file(
        "schemas/users_by_year.yaml",
        "table: cleansed.users_by_year\nfrom: shop.public.users\nkey: [id]\n\
         partition: { by: born, every: year, range: [\"1940-01-01\", \"2010-01-01\"] }\ncolumns:\n  \
         id: { type: bigint }\n  born: { type: date, required: true }\n  v: { type: integer }\n",
    );
    site.file(
        "schemas/logins.yaml",
        "table: cleansed.logins\nfrom: shop.public.logins\nkey: [id]\ncolumns:\n  \
         id: { type: bigint }\n  email: { type: text, mask: hash }\n  n: { type: integer }\n",
    );
    for (name, history) in [("people", "overwrite"), ("people_then", "versions")] {
        let text = format!(
            "table: cleansed.{name}\nfrom: shop.public.people\nhistory: {history}\nkey: [email]\n\
             columns:\n  email: {{ type: text, mask: hash }}\n  n: {{ type: integer }}\n"
        );
        site.file(&format!("schemas/{name}.yaml"), &text);
    }
}

fn hashed(text: &str) -> String {
    if text == "~" {
        return text.to_owned();
    }
    let mut hash = Vec::new();
    MaskKey::new(&Secret::new(KEY.to_owned())).unwrap().write_hash(text.as_bytes(), &mut hash);
    String::from_utf8(hash).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

/// What no text may contain, in whatever form.
fn markers() -> Vec<String> {
    let mut markers = vec!["clear".to_owned(), hex(b"clear"), "4915100000".to_owned()];
    markers.push(hex(b"4915100000"));
    // the binary form of such a number behind its length, but for its last two bytes
    let number = 4_915_100_000_000_i64.to_be_bytes();
    markers.push(format!("6200000008{}", hex(&number[..5])));
    for year in 1950..2000 {
        let day = days_from_civil(year, 3, 17);
        markers.push(format!("{year}-03-17"));
        markers.push(hex(format!("{year}-03-17").as_bytes()));
        let micros = day * 86_400_000_000 + 45_296_000_000;
        markers.push(hex(&micros.to_be_bytes()));
        markers.push(format!("6200000004{}", hex(&i32::try_from(day).unwrap().to_be_bytes())));
    }
    markers
}

fn assert_clean(what: &str, text: &str) {
    for marker in markers() {
        if let Some(at) = text.find(&marker) {
            let around = text.get(at.saturating_sub(200)..(at + 100).min(text.len()));
            panic!("{what} tells {marker}: …{}…", around.unwrap_or_default());
        }
    }
}

/// Everything that is in the warehouse.
async fn dump(site: &Site) -> String {
    let tables = site
        .at_warehouse(
            "select format('%I.%I', schemaname, tablename) from pg_tables
              where schemaname not in ('pg_catalog', 'information_schema') order by 1",
        )
        .await;
    assert!(tables.len() > 10, "{tables:?}");
    let mut dump = String::new();
    for table in tables {
        for row in site.at_warehouse(&format!("select t::text from {table} t")).await {
            writeln!(dump, "{table}: {row}").unwrap();
        }
    }
    dump
}

async fn assert_nothing_lies_open(site: &Site) {
    assert_clean("the warehouse", &dump(site).await);
}

/// Runs a command of the real binary that may tell all it wants; what it says.
fn said(site: &Site, arguments: &[&str]) -> String {
    let output = site
        .command(arguments)
        .env("RUST_LOG", "trace")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    assert!(output.status.success(), "{said}");
    assert_clean("the log", &said);
    assert!(!said.contains(KEY), "{said}");
    said
}

fn catch_up(site: &Site) -> String {
    said(site, &["run", "--until-caught-up"])
}

/// Every row is there, masked where it is to be.
async fn assert_exact(site: &Site) {
    let there = site
        .at_source(
            "select id, email, phone, date_trunc('year', born)::date,
                    date_trunc('year', seen at time zone 'UTC'), bio, v from users order by id",
        )
        .await;
    let expected: Vec<String> = there
        .iter()
        .map(|row| {
            let cells: Vec<&str> = row.split('|').collect();
            let [id, email, phone, born, seen, bio, v] = cells[..] else { panic!("{row}") };
            let (email, phone, bio) = (hashed(email), hashed(phone), hashed(bio));
            [id, &email, &phone, born, seen, &bio, "~", v].join("|")
        })
        .collect();
    let columns = "id, email, phone, born, seen at time zone 'UTC', bio, note, v";
    for table in ["cleansed.users_now", "cleansed.users_then_current"] {
        let here = site.at_warehouse(&format!("select {columns} from {table} order by id")).await;
        assert_eq!(here, expected, "{table}");
    }
    let years = "select id, date_trunc('year', born)::date, v from {} order by id";
    site.assert_equal(years, "users", "cleansed.users_by_year").await;
    let people = site.at_source("select email, n from people").await;
    let hash = |row: &String| {
        let (email, n) = row.split_once('|').unwrap();
        format!("{}|{n}", hashed(email))
    };
    let mut people: Vec<String> = people.iter().map(hash).collect();
    people.sort();
    for table in ["cleansed.people", "cleansed.people_then_current"] {
        let mut here = site.at_warehouse(&format!("select email, n from {table}")).await;
        here.sort();
        assert_eq!(here, people, "{table}");
    }
    let logins = site.at_source("select id, email, n from logins order by id").await;
    let hash = |row: &String| {
        let cells: Vec<&str> = row.split('|').collect();
        format!("{}|{}|{}", cells[0], hashed(cells[1]), cells[2])
    };
    let logins: Vec<String> = logins.iter().map(hash).collect();
    let query = "select id, email, n from cleansed.logins order by id";
    assert_eq!(site.at_warehouse(query).await, logins);
}

const CHANGES: &[&str] = &[
    "insert into users select i, 'clear-' || i || '@example.com', 4915100000000 + i,
        make_date(1950 + i % 50, 3, 17), make_timestamptz(1950 + i % 50, 3, 17, 12, 34, 56, 'UTC'),
        'clear ' || repeat('c', 3000), 'clear note', i from generate_series(101, 150) i",
    // the long text does not change, and is not sent
    "update users set v = v + 1000 where id <= 20",
    "update users set email = 'clear-new-' || id, bio = 'clear ' || repeat('d', 3000 + id::int) where id between 15 and 30",
    "update users set bio = null, phone = null, note = null where id = 31",
    "delete from users where id between 40 and 50",
    "update users set id = id + 10000 where id between 60 and 65",
    "begin; update users set id = -id where id in (1, 2);
     update users set id = 3 + id where id in (-1, -2); commit",
    "update logins set email = 'clear-other' || id where id < 10; delete from logins where id > 40;
     update logins set id = id + 100 where id = 20",
    "update people set n = n + 1 where n < 10; delete from people where n > 40;
     update people set email = 'clear-moved-' || n where n between 20 and 25",
    "insert into people values ('clear-1@example.com again', 77)",
];

async fn walk(site: &Site) {
    site.shop(TABLES).await;
    files(site);
    catch_up(site);
    assert_exact(site).await;
    assert_nothing_lies_open(site).await;
    site.shop_each(CHANGES).await;
    catch_up(site);
    assert_exact(site).await;
    let dump = dump(site).await;
    assert_clean("the warehouse", &dump);
    // what was looked through is what was kept: hashes are in it, in rows and in events
    for (table, hash) in [
        ("raw.stg_users", hashed("clear-new-15")),
        ("cleansed.users_log", hashed("clear-new-15")),
        ("raw.stg_logins", hashed("clear-other7")),
        ("raw.stg_logins", hashed("clear-7@example.com")),
    ] {
        let rows = dump.lines().filter(|line| line.starts_with(table) && line.contains(&hash));
        assert!(rows.count() > 0, "{table} has not {hash}");
    }
    let running = site.start();
    let verified = said(site, &["verify"]);
    running.stop().await.unwrap();
    assert!(verified.contains("masked, and so not compared: phone") || verified.contains("email"));
}

#[test]
fn a_masked_value_is_nowhere_behind_the_source() {
    block_on(async { walk(&Site::new("mask").await).await });
}

#[test]
fn a_masked_value_is_nowhere_where_values_travel_as_text() {
    block_on(async {
        let site = Site::new("mask_text").await;
        site.shop(
            "create type mood as enum ('good'); create table moods (id int primary key, m mood[])",
        )
        .await;
        walk(&site).await;
    });
}

#[test]
fn verify_finds_what_differs_beside_a_mask() {
    block_on(async {
        let site = Site::new("mask_verify").await;
        site.shop(TABLES).await;
        files(&site);
        site.catch_up().await;
        let verified = |site: &Site| {
            let output = site.command(&["verify"]).stdout(Stdio::piped()).output().unwrap();
            (output.status.success(), String::from_utf8(output.stdout).unwrap())
        };
        let running = site.start();
        let (fine, said) = verified(&site);
        assert!(fine, "{said}");
        assert!(said.contains("cleansed.people: masked, and so not compared: email"), "{said}");
        // a row of a table whose key is masked, and one beside a masked column
        for statement in [
            "update cleansed.people set n = -1 where n = 7",
            "delete from cleansed.people where n = -1",
        ] {
            site.warehouse.batch_execute(statement).await.unwrap();
            let (fine, said) = verified(&site);
            assert!(!fine && said.contains("cleansed.people: rows with digest"), "{said}");
        }
        site.warehouse
            .batch_execute("update cleansed.logins set n = -1 where id = 7")
            .await
            .unwrap();
        let (fine, said) = verified(&site);
        assert!(!fine && said.contains("cleansed.logins: 7: different"), "{said}");
        running.stop().await.unwrap();
    });
}

#[test]
fn what_waits_and_what_is_refused_is_kept_masked() {
    block_on(async {
        let site = Site::new("mask_kept").await;
        site.shop(TABLES).await;
        files(&site);
        site.catch_up().await;
        let refuse =
            "alter table cleansed.users_now add constraint small check (v < 100000) not valid;
            alter table cleansed.people add constraint small check (n < 100000) not valid";
        site.warehouse.batch_execute(refuse).await.unwrap();
        said(&site, &["table", "pause", "cleansed.users_then"]);
        said(&site, &["table", "pause", "raw.stg_logins"]);
        site.shop_each(CHANGES).await;
        site.shop_each(&[
            "update users set v = 200000, email = 'clear-bad' where id = 5",
            "update users set email = 'clear-waiting' where id = 5",
            "update people set n = 200000 where n = 7",
            "update people set email = 'clear-waits-too' where n = 200000",
        ])
        .await;
        catch_up(&site);
        let count = |of: &str| format!("select count(*) > 0 from audit.{of}");
        let kept = "pending where table_name = 'cleansed.users_then'";
        for of in
            [kept, "dead_letters where table_name = 'cleansed.users_now'", "pending where waits"]
        {
            assert_eq!(site.at_warehouse(&count(of)).await, ["t"], "{of}");
        }
        assert_nothing_lies_open(&site).await;
        said(&site, &["dead-letter", "list"]);
        let ids = site.at_warehouse("select id from audit.dead_letters").await;
        assert!(ids.len() >= 2, "{ids:?}");
        for id in ids {
            said(&site, &["dead-letter", "show", &id]);
        }
        let allow = "alter table cleansed.users_now drop constraint small;
            alter table cleansed.people drop constraint small";
        site.warehouse.batch_execute(allow).await.unwrap();
        for arguments in [
            ["dead-letter", "replay", "--all"],
            ["table", "resume", "cleansed.users_then"],
            ["table", "resume", "raw.stg_logins"],
        ] {
            said(&site, &arguments);
        }
        catch_up(&site);
        assert_exact(&site).await;
        assert_nothing_lies_open(&site).await;
    });
}

/// The bytes of every file below the spool's folder.
fn spooled(site: &Site) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut folders = vec![site.config().with_file_name("spool")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path => bytes.extend(std::fs::read(path).unwrap_or_default()),
            }
        }
    }
    bytes
}

#[test]
fn an_open_transaction_waits_masked_on_disk() {
    block_on(async {
        let options = ClusterOptions::new("mask-spool", &env())
            .set("fsync", "off")
            .set("wal_level", "logical")
            .set("logical_decoding_work_mem", "64kB");
        let source = Cluster::start(options).await.unwrap();
        let (_, warehouse) = crate::support::clusters().await;
        let site = Site::on("mask_spool", &source, warehouse).await;
        site.shop(TABLES).await;
        files(&site);
        let text = std::fs::read_to_string(site.config()).unwrap();
        site.file("siltstone.yaml", &format!("{text}max_row_bytes: 128KiB\n"));
        site.catch_up().await;
        let running = site.start();
        let writer = connect(Side::Source, &site.source_endpoint, "test writer").await.unwrap();
        writer.batch_execute("set search_path to public; begin").await.unwrap();
        let changes =
            "insert into users select i, 'clear-' || i || '@example.com', 4915100000000 + i,
                make_date(1950 + i % 50, 3, 17), null, 'clear ' || repeat('e', 300), 'clear', i
                from generate_series(1001, 3000) i;
            update users set email = 'clear-again' || id, v = 0 where id > 2000;
            update logins set email = 'clear-x' || id; update people set n = n + 1";
        writer.batch_execute(changes).await.unwrap();
        let mut bytes = Vec::new();
        for _ in 0..400 {
            bytes = spooled(&site);
            if bytes.len() > 300_000 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(bytes.len() > 300_000, "{} bytes are spooled", bytes.len());
        assert_clean("the spool", &hex(&bytes));
        assert_clean("the spool", &String::from_utf8_lossy(&bytes));
        // a table that gets another shape in the middle
        let more = "alter table users add tag text; insert into users select i, 'clear-' || i || \
            '@example.com', 4915100000000 + i, '1999-03-17', null, 'clear ' || repeat('f', 300), 'clear', i, 'tag' \
            from generate_series(4001, 6000) i";
        writer.batch_execute(more).await.unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_clean("the spool", &hex(&spooled(&site)));
        writer.batch_execute("commit").await.unwrap();
        site.until("the transaction", "select count(*) = 4100 from cleansed.users_now").await;
        // of a row that is too long to be taken, its beginning lies on disk
        writer.batch_execute("begin").await.unwrap();
        let long = "insert into users values (9000, 'clear', 1, '1999-03-17', null, repeat('clear', 60000), null, 1);
            insert into users select i, 'clear', i, '1999-03-17', null, repeat('g', 300), null, 1
              from generate_series(9001, 11000) i";
        writer.batch_execute(long).await.unwrap();
        let mut bytes = Vec::new();
        for _ in 0..400 {
            bytes = spooled(&site);
            if bytes.len() > 300_000 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(bytes.len() > 300_000, "{} bytes are spooled", bytes.len());
        assert_clean("the spool", &hex(&bytes));
        writer.batch_execute("rollback").await.unwrap();
        running.stop().await.unwrap();
        site.catch_up().await;
        assert_exact(&site).await;
        assert_nothing_lies_open(&site).await;
    });
}

#[test]
fn a_masked_column_under_another_name_stays_masked() {
    block_on(async {
        let site = Site::new("mask_renamed").await;
        site.shop(TABLES).await;
        files(&site);
        site.catch_up().await;
        let running = site.start();
        site.shop_each(&[
            "update users set v = 1 where id = 1",
            "alter table users rename email to mail",
            "update users set mail = 'clear-renamed' where id = 1",
            "alter table logins rename to accounts",
            "update accounts set email = 'clear-renamed' where id = 1",
        ])
        .await;
        site.until(
            "the rename",
            "select state = 'stopped' from audit.tables where table_name = 'cleansed.users_now'",
        )
        .await;
        let raw = "select count(*) > 0 from raw.stg_users where raw_data->'after' ? 'mail'";
        site.until("raw goes on", raw).await;
        running.stop().await.unwrap();
        catch_up(&site);
        assert_nothing_lies_open(&site).await;
        assert_eq!(site.at_warehouse("select to_regclass('cleansed.accounts')").await, ["~"]);
        site.shop("update users set mail = 'clear-later' where id = 2").await;
        site.remove("schemas/logins.yaml");
        site.remove("schemas/stg_logins.yaml");
        site.connector(
            "tables: [\"public.*\"]\nexclude: [public.accounts]\ntarget_schema: cleansed\n",
        );
        catch_up(&site);
        assert_nothing_lies_open(&site).await;
        // the files learn of it
        for name in ["users_now", "users_then", "users_log"] {
            let path = format!("schemas/{name}.yaml");
            let text = std::fs::read_to_string(site.config().with_file_name(&path)).unwrap();
            site.file(&path, &text.replace("email: { ", "email: { from: mail, "));
        }
        catch_up(&site);
        for table in
            site.at_warehouse("select table_name from audit.tables where state = 'stopped'").await
        {
            let [_, _, remedy] = &site.state(&table).await[..] else { panic!("{table}") };
            carry_out(&site, remedy).await;
        }
        catch_up(&site);
        site.shop("update users set mail = 'clear-last' where id = 3").await;
        catch_up(&site);
        let query = "select email from cleansed.users_now where id = 3";
        assert_eq!(site.at_warehouse(query).await, [hashed("clear-last")]);
        assert_nothing_lies_open(&site).await;
    });
}

/// Does what a remedy says: statements at the warehouse, then commands.
async fn carry_out(site: &Site, remedy: &str) {
    for step in remedy.split("; then ") {
        match step.strip_prefix("siltstone ") {
            Some(command) => {
                let mut arguments: Vec<&str> = command.split(' ').collect();
                arguments.extend(command.contains("resync").then_some("--yes"));
                said(site, &arguments);
            }
            // each of our runs does
            None if step.contains("let the service read it") => {}
            None => {
                let done = site.warehouse.batch_execute(step).await;
                done.unwrap_or_else(|error| panic!("{step}: {error}"));
            }
        }
    }
}

#[test]
fn a_mask_that_comes_later_leaves_nothing_open() {
    block_on(async {
        let site = Site::new("mask_later").await;
        site.shop(TABLES).await;
        settings(&site);
        site.connector("tables: [public.users]\n");
        let tables = ["users_now", "users_then", "users_log", "users_soft"];
        for (name, history) in tables.iter().zip(["overwrite", "versions", "append", "overwrite"]) {
            users(&site, name, history, false);
        }
        let path = site.config().with_file_name("schemas/users_soft.yaml");
        let soft = |text: String| text.replace("key: [id]\n", "key: [id]\ndelete: soft\n");
        site.file("schemas/users_soft.yaml", &soft(std::fs::read_to_string(path).unwrap()));
        raw(&site, "users");
        // who does not take the column keeps whole changes all the same
        site.file(
            "schemas/users_few.yaml",
            "table: cleansed.users_few\nfrom: shop.public.users\nkey: [id]\ncolumns:\n  \
             id: { type: bigint }\n  v: { type: integer }\n",
        );
        site.catch_up().await;
        site.shop("update users set email = 'clear-second' || id where id < 10; delete from users where id = 99")
            .await;
        let refuse =
            "alter table cleansed.users_few add constraint small check (v < 100000) not valid";
        site.warehouse.batch_execute(refuse).await.unwrap();
        site.catch_up().await;
        said(&site, &["table", "pause", "raw.stg_users"]);
        site.shop_each(&[
            "update users set v = 200000 where id = 5",
            "update users set note = 'clear third' where id < 10",
        ])
        .await;
        site.catch_up().await;
        assert!(dump(&site).await.contains("clear"), "nothing is masked yet");
        for (name, history) in tables.iter().zip(["overwrite", "versions", "append", "overwrite"]) {
            users(&site, name, history, *name == "users_now");
        }
        let path = site.config().with_file_name("schemas/users_soft.yaml");
        site.file("schemas/users_soft.yaml", &soft(std::fs::read_to_string(path).unwrap()));
        catch_up(&site);
        // what can be read again was, and goes on
        assert_eq!(site.state("cleansed.users_now").await[0], "streaming");
        assert_eq!(site.state("cleansed.users_few").await[0], "streaming");
        let dumped = dump(&site).await;
        let others =
            ["cleansed.users_then", "cleansed.users_log", "cleansed.users_soft", "raw.stg_users"];
        let open =
            dumped.lines().filter(|line| !others.iter().any(|other| line.starts_with(other)));
        assert_clean("what is not stopped", &open.collect::<Vec<_>>().join("\n"));
        for table in others {
            let [state, reason, remedy] = &site.state(table).await[..] else { panic!("{table}") };
            assert_eq!(state, "stopped", "{table}");
            assert!(reason.contains("email"), "{table}: {reason}");
            carry_out(&site, remedy).await;
        }
        site.warehouse
            .batch_execute("alter table cleansed.users_few drop constraint small")
            .await
            .unwrap();
        said(&site, &["dead-letter", "replay", "--all"]);
        catch_up(&site);
        assert_nothing_lies_open(&site).await;
        let states = site
            .at_warehouse("select distinct state from audit.tables where table_name ~ 'users'")
            .await;
        assert_eq!(states, ["streaming"]);
        site.assert_equal("select id, v from {} order by id", "public.users", "cleansed.users_few")
            .await;
        site.shop("update users set note = 'clear fourth', v = 4 where id < 10").await;
        catch_up(&site);
        let log = "select count(*) from cleansed.users_log where v = 4 and id <> 4";
        assert_eq!(site.at_warehouse(log).await, ["8"]);
        assert_nothing_lies_open(&site).await;
        // another key gives other hashes: the table is read again, not mixed
        site.file("mask.key", "another key of more than sixteen bytes");
        catch_up(&site);
        let query = "select count(*) from cleansed.users_now where email = ";
        let old = format!("{query}'{}'", hashed("clear-20@example.com"));
        assert_eq!(site.at_warehouse(&old).await, ["0"]);
        assert_eq!(site.state("cleansed.users_then").await[0], "stopped");
        // and without a mask the source's own values come again
        for (name, history) in tables.iter().zip(["overwrite", "versions", "append", "overwrite"]) {
            users(&site, name, history, false);
        }
        site.catch_up().await;
        site.assert_equal(
            "select id, email, phone::text, born, note from {} order by id",
            "users",
            "cleansed.users_now",
        )
        .await;
    });
}

/// The table is to be read again for it: once somebody lets it go on, and no start does.
#[test]
fn a_pause_outlasts_a_mask_that_comes_later() {
    block_on(async {
        let site = Site::new("mask_paused").await;
        site.shop(TABLES).await;
        settings(&site);
        site.connector("tables: [public.users]\n");
        users(&site, "users_now", "overwrite", false);
        site.catch_up().await;
        said(&site, &["table", "pause", "cleansed.users_now"]);
        site.catch_up().await;
        users(&site, "users_now", "overwrite", true);
        site.shop("update users set v = -1 where id < 10").await;
        for _ in 0..2 {
            catch_up(&site);
            let state = site.state("cleansed.users_now").await;
            assert_eq!(state[..2], ["paused", "an operator paused it"]);
        }
        let kept = "select count(*) from audit.pending";
        assert_eq!(site.at_warehouse(kept).await, ["9"]);
        said(&site, &["table", "resume", "cleansed.users_now"]);
        catch_up(&site);
        assert_eq!(site.state("cleansed.users_now").await[0], "streaming");
        site.assert_equal("select id, v from {} order by id", "users", "cleansed.users_now").await;
        assert_nothing_lies_open(&site).await;
    });
}

/// Its file says its new name, as it is told to, and it is masked as before; also in a session behind that.
#[test]
fn a_masked_table_under_another_name_stays_masked() {
    block_on(async {
        let site = Site::new("mask_table").await;
        site.shop(TABLES).await;
        settings(&site);
        site.connector("tables: [\"public.*\"]\nexclude: [public.logins, public.people]\n");
        for (name, history) in [("users_now", "overwrite"), ("users_log", "append")] {
            users(&site, name, history, true);
        }
        catch_up(&site);
        site.shop("alter table users rename to members").await;
        for name in ["users_now", "users_log"] {
            let path = site.config().with_file_name(format!("schemas/{name}.yaml"));
            let text = std::fs::read_to_string(path).unwrap();
            let text = text.replace("public.users", "public.members");
            site.file(&format!("schemas/{name}.yaml"), &text);
        }
        for v in 1..=3 {
            site.shop(&format!(
                "update members set v = -{v}, email = 'clear-{v}-' || id where id < 10"
            ))
            .await;
            catch_up(&site);
            assert_nothing_lies_open(&site).await;
        }
        let states = "select distinct state || source_table from audit.tables";
        assert_eq!(site.at_warehouse(states).await, ["streamingpublic.members"]);
        let last = "select count(*) from cleansed.users_now where v = -3";
        assert_eq!(site.at_warehouse(last).await, ["9"]);
        let events = "select count(*) from cleansed.users_log where v < 0";
        assert_eq!(site.at_warehouse(events).await, ["27"]);
        assert_eq!(site.at_warehouse("select count(*) from audit.gaps").await, ["0"]);
    });
}
