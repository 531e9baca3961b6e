//! `siltstone init --from-debezium`: from the configuration of a connector that Kafka Connect runs to the
//! files that take its topics into the warehouse. Asks nobody; its passwords stay where they are.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use super::registered::{self, Registered};
use super::writing::{
    SETTINGS, TARGET_SCHEMA, WAREHOUSE_URL, name_of, one_line, plain, quoted, refuse_to_overwrite,
    settings, write_new,
};
use super::{Files, print_findings, print_next};
use crate::error::{Error, Kind, Result};
use crate::names::in_shell;
use crate::spec::{Env, load};

const BROKERS: &str = "KAFKA_BROKERS";

/// Writes the files into `dir`.
pub(super) fn run(configuration: &Path, dir: &Path, files: &Files) -> Result<ExitCode> {
    let shown = configuration.display().to_string();
    let text = fs::read_to_string(configuration).map_err(|error| {
        Error::new(Kind::Config, format!("{shown} cannot be read"))
            .because(error)
            .remedy("name the file that was registered with Kafka Connect")
    })?;
    let registered = registered::read(&text, &shown)?;
    let name = name_of(&registered.name);
    let connector = format!("connectors/{name}.yaml");
    refuse_to_overwrite(&dir.join(&connector))?;
    // another connector of the same installation may have been here before
    let is_first = fs::symlink_metadata(dir.join(SETTINGS)).is_err();
    write_new(&dir.join(&connector), &file(&name, &registered))?;
    if is_first {
        let taken_back = |_: &Error| drop(fs::remove_file(dir.join(&connector)));
        write_new(&dir.join(SETTINGS), &settings()).inspect_err(taken_back)?;
        let env = Env::of_process(&files.clock)
            .with(BROKERS, "localhost:9092")
            .with(WAREHOUSE_URL, "postgres://siltstone@localhost/warehouse");
        load(&dir.join(SETTINGS), &env)?;
    }
    println!("{}:", one_line(&registered.name));
    for topic in &registered.topics {
        println!("    {topic} -> {TARGET_SCHEMA}");
    }
    print_findings(&registered.findings);
    if is_first {
        println!("wrote {}", dir.join(SETTINGS).display());
    }
    println!("wrote {}", dir.join(&connector).display());
    println!("next, with the password filled in:");
    println!("    export {BROKERS}={}", in_shell("HOST:9092"));
    if is_first {
        let warehouse = "postgres://USER:PASSWORD@HOST:5432/DATABASE";
        println!("    export {WAREHOUSE_URL}={}", in_shell(warehouse));
    }
    print_next(dir);
    Ok(ExitCode::SUCCESS)
}

fn file(name: &str, registered: &Registered) -> String {
    let source = name_of(&registered.prefix);
    let topics: Vec<String> = registered.topics.iter().map(|topic| quoted(topic)).collect();
    let format = if registered.flat { "flat-json" } else { "debezium-json" };
    let mut text = format!(
        "# The topics that Debezium's connector {} writes. A table without a file in schemas/ is mirrored\n\
         # into target_schema.\n\
         name: {}\n\
         kind: kafka\n\
         source: {}\n\
         brokers: \"${{{BROKERS}}}\"\n\
         # instances of one warehouse share it, and its partitions; another warehouse needs another one\n\
         group: {}\n\
         topics: [{}]\n\
         format: {format}\n",
        one_line(&registered.name),
        plain(name),
        plain(&source),
        plain(&format!("siltstone-{name}")),
        topics.join(", "),
    );
    if !registered.types.is_empty() {
        let types = registered.types.iter();
        let types: Vec<String> =
            types.map(|(ours, word)| format!("{ours}: {}", plain(word))).collect();
        text.push_str(
            "# Debezium's modes, which are read only where no schema travels with a record\n",
        );
        text.push_str(&format!("types: {{ {} }}\n", types.join(", ")));
    }
    text.push_str(&format!("target_schema: {TARGET_SCHEMA}\n"));
    text.push_str(match registered.postgres {
        true => {
            "# the source itself, for siltstone verify and table resync; its role may replicate and select\n\
             # url: \"${SOURCE_URL}\"\n"
        }
        false => "# siltstone verify and table resync ask a Postgres: this source is none\n",
    });
    text.push_str(
        "# where the brokers ask who it is, by the names that librdkafka has for it\n\
         # properties: { security.protocol: sasl_ssl, sasl.mechanism: PLAIN, sasl.username: siltstone, \
         sasl.password: \"${KAFKA_PASSWORD}\" }\n",
    );
    text.push_str(&example(&source, registered));
    text
}

/// A commented file of the first table that is named, if one is.
fn example(source: &str, registered: &Registered) -> String {
    let named = registered.topics.iter().filter(|topic| !topic.contains('*'));
    let mut parts = named.filter_map(|topic| {
        let mut parts = topic.rsplitn(3, '.');
        let (table, schema) = (parts.next()?, parts.next()?);
        parts.next().map(|_| (schema, table))
    });
    let (schema, table) = parts.next().unwrap_or(("public", "users"));
    let why = match registered.schemas {
        true => {
            "A table with a file of its own is kept as its file says. This one keeps the history of"
        }
        false => "Its records carry no schema, so each table needs a file. This one is of",
    };
    format!(
        "\n# {why}\n\
         # {schema}.{table}, if it is written into schemas/{TARGET_SCHEMA}/ without the marks, with its columns:\n\
         #\n\
         # table: {}\n\
         # from: {}\n\
         # history: versions               # overwrite: the last state alone; append: every event\n\
         # key: [id]\n\
         # columns:\n\
         #   id: {{ type: bigint }}\n",
        plain(&format!("{TARGET_SCHEMA}.{table}_history")),
        plain(&format!("{source}.{schema}.{table}")),
    )
}
