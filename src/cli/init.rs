//! `siltstone init`: looks at a source, or at the configuration of a Debezium that reads it, and writes the
//! files that replicate it. Writes over no file, writes no part of the URL into any, and changes nothing at
//! the source.

mod config;
mod debezium;
mod included;
mod modes;
mod registered;
mod writing;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::Files;
use super::validate::print_findings;
use writing::{
    SETTINGS, TARGET_SCHEMA, WAREHOUSE_URL, name_of, one_line, plain, quoted, refuse_to_overwrite,
    settings, variable_of, write_new,
};

use crate::capture::catalog::{self, SourceTable};
use crate::capture::preflight::Finding;
use crate::error::Result;
use crate::names::{TableName, in_shell};
use crate::pipeline::inspect_source;
use crate::postgres::{Endpoint, Host, Side, SslMode, connect};
use crate::relation::{Identity, TypeKind};
use crate::spec::{Env, load};

/// Writes the files that replicate a Postgres, or read what Debezium writes of one, and says what is lacking.
#[derive(clap::Args)]
pub(super) struct Init {
    /// The source, as postgres://user:password@host:port/database; it goes into no file.
    #[arg(long, required_unless_present = "from_debezium", conflicts_with = "from_debezium")]
    from: Option<String>,
    /// The configuration of a Debezium connector, as it is registered with Kafka Connect; no password of
    /// it goes into any file.
    #[arg(long, value_name = "FILE")]
    from_debezium: Option<PathBuf>,
    /// The folder to write into; it is made where it is missing.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
}

impl Init {
    pub(super) async fn run(self, files: &Files) -> Result<ExitCode> {
        if let Some(configuration) = &self.from_debezium {
            return debezium::run(configuration, &self.dir, files);
        }
        let from = self.from.as_deref().unwrap_or_default();
        let endpoint = Endpoint::parse(from)?;
        let name = name_of(endpoint.database());
        let variable = variable_of(&name);
        let connector = format!("connectors/{name}.yaml");
        for path in [SETTINGS, connector.as_str()] {
            refuse_to_overwrite(&self.dir.join(path))?;
        }
        let source = connect(Side::Source, &endpoint, "siltstone init").await?;
        let tables = Tables::of(catalog::tables(&*source).await?);
        // half an installation would be in the way of the next try
        let text = connector_file(&name, &variable, &tables);
        write_new(&self.dir.join(&connector), &text)?;
        write_new(&self.dir.join(SETTINGS), &settings()).inspect_err(|_| {
            drop(fs::remove_file(self.dir.join(&connector)));
        })?;

        println!("{name} ({}):", endpoint.shown());
        let mut findings = tables.findings(&connector);
        let env = Env::of_process(&files.clock)
            .with(&variable, from)
            .with(WAREHOUSE_URL, "postgres://siltstone@localhost/warehouse");
        // other files may have been in the folder
        let spec = load(&self.dir.join(SETTINGS), &env)?;
        for connector in spec.connectors.iter().filter(|connector| connector.name == name) {
            let report = inspect_source(&spec, connector, &source).await?;
            for line in &report.tables {
                println!("    {line}");
            }
            findings.extend(report.findings);
        }
        print_findings(&findings);
        println!("wrote {}", self.dir.join(SETTINGS).display());
        println!("wrote {}", self.dir.join(&connector).display());
        println!("next, with the passwords filled in:");
        println!("    export {variable}={}", in_shell(&to_export(&endpoint)));
        let warehouse = "postgres://USER:PASSWORD@HOST:5432/DATABASE";
        println!("    export {WAREHOUSE_URL}={}", in_shell(warehouse));
        print_next(&self.dir);
        Ok(ExitCode::SUCCESS)
    }
}

/// The commands that come next.
fn print_next(dir: &Path) {
    let config = match dir {
        here if here == Path::new(".") => String::new(),
        dir => format!(" --config {}", in_shell(&dir.join(SETTINGS).display().to_string())),
    };
    println!("    siltstone{config} validate --connect");
    println!("    siltstone{config} run");
}

/// The source's tables, as a connector's file can say them.
struct Tables {
    /// the schemas that have any
    schemas: Vec<String>,
    /// tables that would become the same warehouse table as another
    doubles: Vec<(TableName, TableName)>,
    /// schemas that no pattern can name
    unspeakable: Vec<String>,
    /// one that could be kept with its history
    example: Option<SourceTable>,
}

impl Tables {
    fn of(catalogue: Vec<SourceTable>) -> Tables {
        let mut found = Tables {
            schemas: Vec::new(),
            doubles: Vec::new(),
            unspeakable: Vec::new(),
            example: None,
        };
        let mut taken: BTreeMap<String, TableName> = BTreeMap::new();
        for table in catalogue {
            let name = table.relation.table.clone();
            if name.schema.contains(['.', '*']) {
                found.unspeakable.push(name.schema);
                continue;
            }
            found.schemas.push(name.schema.clone());
            // one that is left out anyway takes no name
            if table.identity_problem().is_none() && table.readable {
                match taken.get(&name.name) {
                    Some(other) => found.doubles.push((name, other.clone())),
                    None => drop(taken.insert(name.name.clone(), name)),
                }
            }
            if found.example.is_none() && is_example(&table) {
                found.example = Some(table);
            }
        }
        found.schemas.dedup();
        found.unspeakable.dedup();
        found
    }

    fn findings(&self, file: &str) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (double, other) in &self.doubles {
            findings.push(Finding {
                fatal: false,
                what: format!("{double} is excluded: it would become the same table as {other}"),
                remedy: format!(
                    "give one of them a file in schemas/ with another name, then take {double} out of \
                     exclude in {file}"
                ),
            });
        }
        for schema in &self.unspeakable {
            findings.push(Finding {
                fatal: false,
                what: format!(
                    "no table of schema {schema:?} is taken: its name has a dot or a star"
                ),
                remedy: "rename the schema at the source".to_owned(),
            });
        }
        if self.schemas.is_empty() {
            findings.push(Finding {
                fatal: false,
                what: "it has no tables yet".to_owned(),
                remedy: format!(
                    "what comes into public is taken; edit tables in {file} for others"
                ),
            });
        }
        findings
    }
}

/// Whether a table makes a short example of a file.
fn is_example(table: &SourceTable) -> bool {
    const COLUMNS: usize = 12;
    let relation = &table.relation;
    let keys = relation.key().count();
    let simple = |column: &crate::relation::Column| {
        matches!(column.ty.kind, TypeKind::Builtin { .. }) && !column.name.starts_with('_')
    };
    relation.identity == Identity::Key
        && (1..relation.columns.len()).contains(&keys)
        && relation.columns.len() <= COLUMNS
        && relation.columns.iter().all(simple)
}

fn connector_file(name: &str, variable: &str, tables: &Tables) -> String {
    let schemas = match tables.schemas.as_slice() {
        [] => vec![quoted("public.*")],
        schemas => schemas.iter().map(|schema| quoted(&format!("{schema}.*"))).collect(),
    };
    let mut text = format!(
        "# Every table of these schemas. One without a file in schemas/ is mirrored into target_schema; one\n\
         # without a key or a full replica identity is left out, and named at start.\n\
         name: {}\n\
         kind: postgres\n\
         url: \"${{{variable}}}\"\n\
         tables: [{}]\n",
        plain(name),
        schemas.join(", ")
    );
    if !tables.doubles.is_empty() {
        let doubles = tables.doubles.iter().map(|(double, _)| quoted(&double.to_string()));
        let doubles: Vec<String> = doubles.collect();
        text.push_str("# these would become the same tables as others of their name\n");
        text.push_str(&format!("exclude: [{}]\n", doubles.join(", ")));
    }
    text.push_str(&format!("target_schema: {TARGET_SCHEMA}\n"));
    if let Some(table) = &tables.example {
        text.push_str(&example(name, table));
    }
    text
}

/// A commented file that keeps a table with its history.
fn example(connector: &str, table: &SourceTable) -> String {
    let relation = &table.relation;
    let target = TableName::new(TARGET_SCHEMA, relation.table.name.as_str());
    let target = target.with_suffix("_history");
    let key: Vec<String> = relation.key().map(plain).collect();
    let mut text = format!(
        "\n# A table with a file of its own is kept as its file says. This one keeps the history of\n\
         # {}, if it is written into schemas/{TARGET_SCHEMA}/ without the marks:\n\
         #\n\
         # table: {}\n\
         # from: {}\n\
         # history: versions               # overwrite: the last state alone; append: every event\n\
         # key: [{}]\n\
         # columns:\n",
        one_line(&relation.table.to_string()),
        plain(&target.to_string()),
        plain(&format!("{connector}.{}", relation.table)),
        key.join(", "),
    );
    for column in &relation.columns {
        let TypeKind::Builtin { name, .. } = &column.ty.kind else { continue };
        // nothing is substituted in the name of a field
        let field = plain(&column.name).replace("$${", "${");
        text.push_str(&format!("#   {field}: {{ type: {} }}\n", plain(name)));
    }
    text
}

/// The URL to export, without its password; what it says of TLS stays.
fn to_export(endpoint: &Endpoint) -> String {
    let password = if endpoint.password().is_some() { ":PASSWORD" } else { "" };
    let mut query = Vec::new();
    let place = match endpoint.hosts().into_iter().next() {
        Some((Host::Unix(path), port)) => {
            query.push(format!("host={}", in_url(&path.display().to_string())));
            query.push(format!("port={port}"));
            String::new()
        }
        Some((Host::Tcp(name), port)) if name.contains(':') => format!("[{name}]:{port}"),
        Some((Host::Tcp(name), port)) => format!("{name}:{port}"),
        None => String::new(),
    };
    let mode = match endpoint.ssl_mode {
        SslMode::Prefer => None,
        SslMode::Disable => Some("disable"),
        SslMode::Require => Some("require"),
        SslMode::VerifyCa => Some("verify-ca"),
        SslMode::VerifyFull => Some("verify-full"),
    };
    query.extend(mode.map(|mode| format!("sslmode={mode}")));
    query.extend(
        endpoint.ssl_root_cert.iter().map(|path| format!("sslrootcert={}", path.display())),
    );
    let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
    let (user, database) = (in_url(endpoint.user()), in_url(endpoint.database()));
    format!("postgres://{user}{password}@{place}/{database}{query}")
}

/// A text as a part of a URL.
fn in_url(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_is_told_without_its_password() {
        let cases = [
            ("postgres://a:s3c@h/d", "postgres://a:PASSWORD@h:5432/d"),
            (
                "postgres://a%40b@h:6/d?sslmode=verify-full",
                "postgres://a%40b@h:6/d?sslmode=verify-full",
            ),
            ("postgres://a@%2Ftmp/d", "postgres://a@/d?host=%2Ftmp&port=5432"),
        ];
        for (url, told) in cases {
            let endpoint = Endpoint::parse(url).unwrap();
            assert_eq!(to_export(&endpoint), told);
            assert!(Endpoint::parse(told).is_ok());
        }
        assert_eq!(in_shell("it's"), r"'it'\''s'");
    }
}
