//! `siltstone sql`: the least rights that the service runs with, as SQL for whoever may grant them. Reads
//! the files and the servers' catalogues; changes nothing and prints no password.

use std::process::ExitCode;

use super::Files;
use crate::capture::catalog;
use crate::capture::role::Readable;
use crate::error::{Error, Kind, Result};
use crate::pipeline::replicated;
use crate::postgres::{Session, Side, connect};
use crate::spec::{Connector, Spec};
use crate::{capture, warehouse};

/// The least rights, as SQL.
#[derive(clap::Subcommand)]
pub(super) enum Sql {
    /// Of the role that reads a source: run it there as a superuser.
    SourceRole {
        /// The role's name.
        #[arg(default_value = "siltstone")]
        role: String,
        /// The connector, where there are several.
        #[arg(long)]
        connector: Option<String>,
    },
    /// Of the role that keeps the warehouse: run it there as the database's owner or a superuser.
    WarehouseRole {
        /// The role's name.
        #[arg(default_value = "siltstone")]
        role: String,
    },
}

impl Sql {
    pub(super) async fn run(self, files: &Files) -> Result<ExitCode> {
        let spec = files.load()?;
        match self {
            Sql::SourceRole { role, connector } => {
                let connector = one_of(&spec, connector.as_deref())?;
                print_source(&spec, connector, &role).await?;
            }
            Sql::WarehouseRole { role } => print_warehouse(&spec, &role).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn one_of<'s>(spec: &'s Spec, name: Option<&str>) -> Result<&'s Connector> {
    let mut found = spec.connectors.iter().filter(|c| name.is_none_or(|name| c.name == name));
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => {
            let none = Error::new(Kind::Usage, "no connector here reads a Postgres by replication");
            let of_topics = "for the url of one that reads topics: create role siltstone login replication; \
                             grant pg_read_all_data to siltstone";
            let named = spec.kafka.iter().any(|c| name.is_none_or(|name| c.common.name == name));
            Err(if named { none.remedy(of_topics) } else { none })
        }
        (Some(_), Some(_)) => Err(Error::new(Kind::Usage, "say which with --connector")),
    }
}

async fn print_source(spec: &Spec, connector: &Connector, role: &str) -> Result<()> {
    let source = connect(Side::Source, &connector.endpoint, "siltstone sql").await?;
    let catalogue = catalog::tables(&*source).await?;
    let (publications, tables) = replicated(connector, &spec.models, catalogue)?;
    let readable = |(table, columns)| Readable { table, columns };
    let tables: Vec<Readable> = tables.into_iter().map(readable).collect();
    let database = connector.endpoint.database();
    println!("-- at the source of {}, as a superuser", connector.name);
    let mut statements = capture::role::statements(role, database, &tables, &publications);
    if connector.snapshot.standby.is_some() {
        let version = capture::preflight::inspect(&source, 0).await?.version;
        statements.push(capture::role::standby_statement(role, version));
    }
    print_all(&statements);
    println!(
        "-- its password: \\password {role}\n\
         -- a table that comes later is left out and named, with the statement that publishes it; or let the\n\
         -- role publish new tables by itself, by making it a member of the role that owns them"
    );
    Ok(())
}

async fn print_warehouse(spec: &Spec, role: &str) -> Result<()> {
    let session = connect(Side::Warehouse, &spec.settings.warehouse, "siltstone sql").await?;
    let mut schemas = vec!["audit".to_owned(), "temp".to_owned()];
    schemas.extend(spec.models.iter().map(|model| model.table.schema.clone()));
    schemas.extend(spec.connectors.iter().filter_map(|c| c.target_schema.clone()));
    schemas.sort_unstable();
    schemas.dedup();
    let there = existing(&session, &schemas).await?;
    println!("-- at the warehouse, as the owner of the database or a superuser");
    let database = spec.settings.warehouse.database();
    print_all(&warehouse::role_statements(role, database, &there));
    println!("-- its password: \\password {role}");
    for reader in &spec.settings.readers {
        println!(
            "-- {reader} is granted select on what it makes, by itself; the role must be there"
        );
    }
    Ok(())
}

/// Those of the schemas that are there: in them the role is not the owner.
async fn existing(session: &Session, schemas: &[String]) -> Result<Vec<String>> {
    let failed = |error| Error::warehouse("reading its schemas", error);
    let query = "select nspname::text from pg_namespace where nspname = any ($1) order by 1";
    let rows = session.query(query, &[&schemas]).await.map_err(failed)?;
    rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(failed)
}

fn print_all(statements: &[String]) {
    for statement in statements {
        println!("{statement};");
    }
}
