//! `siltstone connector`: how connectors stand, and what an operator asks of them. Asking writes a row of
//! `audit.requests`, which the running service carries out, or the next start.

use std::process::ExitCode;

use super::Files;
use super::status::print_connector;
use super::table::{confirmed, wait_for};
use crate::capture::{publication, slot};
use crate::error::{Error, Kind, Result};
use crate::postgres::{Session, Side, connect, quote};
use crate::progress::requests::{self, About, Verb};
use crate::progress::wanted::{self, Wanted};
use crate::progress::{account, slot_record};
use crate::spec::Spec;
use crate::warehouse::{Claim, Durations, Fenced, migrate, take_over};

/// How connectors stand, and what to do with them.
#[derive(clap::Subcommand)]
pub(super) enum Connector {
    /// Lists the connectors of the files.
    List {
        /// As JSON, one a line.
        #[arg(long)]
        json: bool,
    },
    /// Lets it rest, across restarts; the slot keeps the source's log meanwhile.
    Pause(Which),
    /// Lets it go on.
    Resume(Which),
    /// Stops it, across restarts; its position may be forgotten then.
    Stop(Which),
    /// Begins a new session.
    Restart(Which),
    /// Forgets one that is stopped, or whose file is gone; the rows of its tables stay.
    Remove {
        /// The connector.
        name: String,
        /// Drops its slot and publications at the source as well.
        #[arg(long)]
        drop_slot: bool,
        /// Does not ask whether it is meant.
        #[arg(long)]
        yes: bool,
    },
}

/// Which connector.
#[derive(clap::Args)]
pub(super) struct Which {
    /// The connector.
    name: String,
    /// Waits until the service has answered.
    #[arg(long)]
    wait: bool,
}

impl Connector {
    pub(super) async fn run(self, files: &Files) -> Result<ExitCode> {
        let spec = files.load()?;
        let mut warehouse =
            connect(Side::Warehouse, &spec.settings.warehouse, "siltstone connector").await?;
        migrate(&mut warehouse).await?;
        match self {
            Connector::List { json } => list(&spec, &warehouse, json).await,
            Connector::Pause(which) => ask(&spec, &warehouse, Verb::PauseConnector, which).await,
            Connector::Resume(which) => ask(&spec, &warehouse, Verb::ResumeConnector, which).await,
            Connector::Stop(which) => ask(&spec, &warehouse, Verb::StopConnector, which).await,
            Connector::Restart(which) => {
                ask(&spec, &warehouse, Verb::RestartConnector, which).await
            }
            Connector::Remove { name, drop_slot, yes } => {
                remove(&spec, &mut warehouse, &name, (drop_slot, yes)).await
            }
        }
    }
}

async fn list(spec: &Spec, warehouse: &Session, json: bool) -> Result<ExitCode> {
    for connector in spec.commons() {
        let told = account::connector(&**warehouse, &connector.name).await?;
        if json {
            println!("{told}");
        } else {
            print_connector(&told);
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn ask(spec: &Spec, warehouse: &Session, verb: Verb, which: Which) -> Result<ExitCode> {
    if !spec.commons().any(|connector| connector.name == which.name) {
        return Err(unknown(&which.name));
    }
    let id = requests::ask(&**warehouse, verb, &which.name, &About::default()).await?;
    wait_for(warehouse, &[id], which.wait).await
}

fn unknown(name: &str) -> Error {
    Error::new(Kind::Usage, format!("there is no connector {name}"))
        .remedy("siltstone connector list")
}

async fn remove(
    spec: &Spec,
    warehouse: &mut Session,
    name: &str,
    (drop_slot, yes): (bool, bool),
) -> Result<ExitCode> {
    let file = spec.connectors.iter().find(|connector| connector.name == name);
    let stopped = matches!(wanted::read(&**warehouse, name).await?, Wanted::Stopped(_));
    if file.is_some() && !stopped {
        return Err(Error::new(Kind::Usage, format!("{name} is to run, by its file")).remedy(
            format!("siltstone connector stop {name} --wait, or disable or remove its file"),
        ));
    }
    let record = slot_record(&**warehouse, name).await?;
    let remains = wanted::remains(&**warehouse, name).await?;
    if record.is_none() && remains.iter().all(|(_, many)| *many == 0) {
        return Err(unknown(name));
    }
    println!("of {name} these are forgotten:");
    for (what, many) in &remains {
        println!("    {many} {what}");
    }
    let slot = record.map(|record| record.slot);
    if let Some(slot) = &slot {
        let fate = if drop_slot && file.is_some() { "dropped" } else { "left as it is" };
        println!("    its slot {slot} at the source is {fate}");
    }
    if !yes {
        confirmed()?;
    }
    let resource = format!("connector:{name}");
    let owner = "siltstone connector remove";
    let fence = take_over(warehouse, &resource, owner, Claim::Anyway).await?;
    let transaction = Fenced::begin(warehouse, &fence, "remove", &Durations::unobserved()).await?;
    wanted::remove(&transaction, name).await?;
    transaction.commit().await?;
    match (file, slot) {
        (Some(file), _) if drop_slot => {
            let source = connect(Side::Source, &file.endpoint, "siltstone connector").await?;
            if slot::inspect(&source, &file.slot).await?.is_some() {
                slot::drop(&source, &file.slot).await?;
            }
            for name in [file.publication.clone(), file.append_publication()] {
                publication::drop(&source, &name).await?;
            }
            println!("its slot and publications are dropped; remove its file, or it begins anew");
        }
        (_, Some(slot)) => println!(
            "at the source, its slot keeps the log until: select pg_drop_replication_slot({})",
            quote::literal(&slot)
        ),
        (_, None) => {}
    }
    Ok(ExitCode::SUCCESS)
}
