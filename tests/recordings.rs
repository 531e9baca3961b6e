//! Recordings of real Debezium, put into topics and read from there: the tables end as the source's did,
//! however the records are cut into batches, repeated, or interleaved.
//!
//! What a mode of Debezium does not tell cannot be compared; each mode names it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;

use futures_util::TryStreamExt;
use serde::Deserialize;
use siltstone::postgres::quote;

use crate::support::{Load, Mock, Recording, Site, block_on};

/// A recording, how its connector is described, and what it does not tell.
struct Mode {
    recording: &'static str,
    /// the connector's fields beside those of every one
    fields: &'static str,
    /// what the tables are compared with
    expected: &'static str,
    /// tables that Debezium was told to leave something out of
    tables: &'static [&'static str],
    columns: &'static [&'static str],
}

/// With its schema. Truncates were left out, NaN and intervals are not told exactly.
const JS: Mode = Mode {
    recording: "js",
    fields: "adopt: trust\n",
    expected: "expected",
    tables: &["stock"],
    columns: &["c_timetz", "c_varbit", "c_num", "c_interval"],
};

/// Without a schema: the tables say what their columns are.
const JN: Mode = Mode {
    recording: "jn",
    fields: "adopt: trust\ntypes: { decimal: string, time: isostring, binary: base64, interval: string, \
             hstore: json }\n",
    expected: "expected",
    tables: &[],
    columns: &["c_timetz", "c_varbit"],
};

/// Flattened: without a row before, numbers as doubles, times in milliseconds.
const FL: Mode = Mode {
    recording: "fl",
    fields: "adopt: trust\nformat: flat-json\ntypes: { decimal: double, time: connect, binary: hex }\n",
    expected: "expected",
    tables: &["stock", "audit_log"],
    columns: &["c_timetz", "c_varbit", "c_num", "c_interval", "c_time", "c_ts"],
};

/// MariaDB. A truncate was left out, and an unsigned bigint told as a signed one.
const MY: Mode = Mode {
    recording: "my_js",
    fields: "",
    expected: "expected_mariadb",
    tables: &["nopk"],
    columns: &["big"],
};

/// How a recording is read.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    AtOnce,
    /// every row is a batch of its own
    Cut,
    /// stretches of partitions come again
    Repeated(u64),
    /// one partition after the other, the last one first
    Apart,
}

#[derive(Deserialize)]
struct Manifest {
    tables: BTreeMap<String, Table>,
}

#[derive(Deserialize)]
struct Table {
    file: String,
    columns: Vec<Column>,
}

#[derive(Deserialize)]
struct Column {
    name: String,
    #[serde(default)]
    hex: bool,
    #[serde(rename = "type")]
    ty: String,
}

fn golden(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/debezium").join(path)
}

async fn read(mode: &Mode, way: Way) {
    let name = format!("rec_{}", mode.recording);
    let site = Site::new(&name).await;
    let mock = Mock::start();
    let topics = mock.topics();
    let recording = Recording::named(mode.recording);
    for (topic, partitions) in &recording.topics {
        mock.create(topic, *partitions);
    }
    site.remove("connectors/shop.yaml");
    let subscribed: Vec<String> =
        recording.topics.keys().map(|topic| format!("\"{topic}\"")).collect();
    let connect = |group: &str| {
        site.file(
            "connectors/topics.yaml",
            &format!(
                "name: {}\nkind: kafka\nsource: shop\nbrokers: {}\ngroup: {group}\n\
                 target_schema: cleansed\ntopics: [{}]\n\
                 properties: {{ broker.address.family: v4 }}\n{}",
                site.name,
                mock.address(),
                subscribed.join(", "),
                mode.fields
            ),
        );
    };
    connect("at-once");
    if way == Way::Cut {
        site.file(
            "siltstone.yaml",
            "warehouse: { url: \"${WAREHOUSE_URL}\" }\nadmin: { listen: \"127.0.0.1:0\" }\n\
             batch: { max_rows: 1 }\n",
        );
    }
    if mode.expected == "expected" {
        let extensions =
            "create extension hstore; create extension citext; create extension ltree;";
        site.warehouse.batch_execute(extensions).await.unwrap();
        let schema = std::fs::read_to_string(golden("expected/schema.sql")).unwrap();
        site.warehouse.batch_execute(&schema).await.unwrap();
    }
    let load = match way {
        Way::Repeated(seed) => Load::default().with_duplicates(seed),
        _ => Load::default(),
    };
    let records = recording.sequence(&load);
    if way == Way::Apart {
        for partition in (0..3).rev() {
            let of = |record: &&_| {
                let record: &crate::support::Record = record;
                record.partition == Some(partition)
            };
            topics.write(records.iter().filter(of).cloned().collect()).await;
            // the mock keeps members that left for a while
            connect(&format!("apart-{partition}"));
            site.catch_up().await;
        }
    } else {
        topics.write(records).await;
        site.catch_up().await;
    }
    compare(&site, mode).await;
    if way == Way::AtOnce {
        // the mock keeps members that left for a while
        connect("asked");
        nothing_is_read_again(&site).await;
    }
}

/// A topic cannot be asked for rows, nor does its raw table tell them: who asks is told so, and what to do.
async fn nothing_is_read_again(site: &Site) {
    let query = "select table_name from audit.tables where state = 'streaming' order by 1 limit 1";
    let table = site.at_warehouse(query).await.remove(0);
    let refused = [
        (vec!["--from", "source"], "come by topics: let Debezium read them again"),
        (vec!["--from", "raw"], "nothing is rebuilt from those yet"),
        (vec!["--where", "true"], "additional-conditions"),
    ];
    for (how, words) in refused {
        let arguments = [vec!["table", "resync", &table, "--yes"], how].concat();
        let answer = site.command(&arguments).stderr(Stdio::piped()).output().unwrap();
        let said = String::from_utf8(answer.stderr).unwrap();
        assert!(answer.status.code() == Some(64) && said.contains(words), "{arguments:?}: {said}");
    }
    assert_eq!(site.at_warehouse("select count(*) from audit.requests").await, ["0"]);
    let query = format!("select state from audit.tables where table_name = '{table}'");
    assert_eq!(site.at_warehouse(&query).await, ["streaming"]);
}

async fn compare(site: &Site, mode: &Mode) {
    const FORMS: &str =
        "set timezone = 'UTC'; set datestyle = 'ISO'; set intervalstyle = 'postgres';
        set extra_float_digits = 1; set bytea_output = 'hex'";
    site.warehouse.batch_execute(FORMS).await.unwrap();
    let folder = golden(mode.expected);
    let manifest = std::fs::read_to_string(folder.join("manifest.json")).unwrap();
    let manifest: Manifest = serde_json::from_str(&manifest).unwrap();
    let mut compared = 0;
    for (name, table) in &manifest.tables {
        let name = name.rsplit('.').next().unwrap();
        if mode.tables.contains(&name) {
            continue;
        }
        let told: Vec<usize> = (0..table.columns.len())
            .filter(|at| !mode.columns.contains(&table.columns[*at].name.as_str()))
            .collect();
        let text = std::fs::read_to_string(folder.join(&table.file)).unwrap();
        let mut expected: Vec<Vec<Option<String>>> = csv(&text)
            .into_iter()
            .skip(1)
            .map(|row| told.iter().map(|at| row[*at].clone()).collect())
            .collect();
        let columns: Vec<String> = told.iter().map(|at| shown(&table.columns[*at])).collect();
        let query = format!(
            "copy (select {} from cleansed.{}) to stdout (format csv, null '\\N', force_quote *)",
            columns.join(", "),
            quote::ident(name)
        );
        let stream = site.warehouse.copy_out(&query).await.unwrap();
        let chunks: Vec<bytes::Bytes> = stream.try_collect().await.unwrap();
        let mut found = csv(&String::from_utf8(chunks.concat()).unwrap());
        expected.sort();
        found.sort();
        let lost: Vec<_> = expected.iter().filter(|row| !found.contains(row)).collect();
        let other: Vec<_> = found.iter().filter(|row| !expected.contains(row)).collect();
        assert_eq!(found, expected, "{} {name}: lost {lost:#?}, other {other:#?}", mode.recording);
        compared += 1;
    }
    assert!(compared > 1);
    let letters =
        "select count(*) from audit.dead_letters where table_name <> 'cleansed.audit_log'";
    assert_eq!(site.at_warehouse(letters).await, ["0"]);
}

/// A column as the expected file has it.
fn shown(column: &Column) -> String {
    let name = quote::ident(&column.name);
    match column.ty.as_str() {
        _ if column.hex => format!("upper(encode({name}, 'hex'))"),
        "timestamp" => format!("to_char({name}, 'YYYY-MM-DD HH24:MI:SS')"),
        _ => name,
    }
}

/// CSV of which every value is quoted, and null is `\N`.
fn csv(text: &str) -> Vec<Vec<Option<String>>> {
    let mut rows = Vec::new();
    let mut row = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let value = if let Some(mut quoted) = rest.strip_prefix('"') {
            let mut value = String::new();
            loop {
                let end = quoted.find('"').unwrap();
                value.push_str(&quoted[..end]);
                quoted = &quoted[end + 1..];
                match quoted.strip_prefix('"') {
                    Some(more) => {
                        value.push('"');
                        quoted = more;
                    }
                    None => break,
                }
            }
            rest = quoted;
            Some(value)
        } else {
            let end = rest.find([',', '\n']).unwrap_or(rest.len());
            let (bare, behind) = rest.split_at(end);
            rest = behind;
            Some(bare.to_owned()).filter(|bare| bare != "\\N")
        };
        row.push(value);
        if let Some(more) = rest.strip_prefix(',') {
            rest = more;
        } else {
            rest = rest.strip_prefix('\n').unwrap_or(rest);
            rows.push(std::mem::take(&mut row));
        }
    }
    rows
}

macro_rules! recordings {
    ($($name:ident: $mode:ident, $way:expr;)+) => {
        $(#[test]
        fn $name() {
            block_on(read(&$mode, $way));
        })+
    };
}

recordings! {
    with_schema: JS, Way::AtOnce;
    with_schema_cut_at_every_row: JS, Way::Cut;
    with_schema_repeated: JS, Way::Repeated(1);
    with_schema_one_partition_after_the_other: JS, Way::Apart;
    without_schema: JN, Way::AtOnce;
    without_schema_cut_at_every_row: JN, Way::Cut;
    without_schema_repeated: JN, Way::Repeated(2);
    flattened: FL, Way::AtOnce;
    flattened_cut_at_every_row: FL, Way::Cut;
    flattened_repeated: FL, Way::Repeated(3);
    of_mariadb: MY, Way::AtOnce;
    of_mariadb_cut_at_every_row: MY, Way::Cut;
    of_mariadb_repeated: MY, Way::Repeated(4);
}
