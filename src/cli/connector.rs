//! `siltstone connector`: how connectors stand, and what an operator asks of them. Asking writes a row of
//! `audit.requests`, which the running service carries out, or the next start.

use std::process::ExitCode;

use super::status::print_connector;
use super::table::{confirmed, wait_for};
use super::{Files, ready};
use crate::capture::{publication, slot};
use crate::error::{Error, Kind, Result};
use crate::postgres::{Session, Side, connect, quote};
use crate::progress::requests::{self, About, Verb};
use crate::progress::wanted::{self, Wanted};
use crate::progress::{account, slot_record};
use crate::spec::{self, Spec};
use crate::warehouse::interrupt;

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
    /// Forgets one that is stopped, or whose file is gone; the rows of its tables stay. While its file is
    /// there it stays stopped: resumed, it reads everything anew.
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
        let looks = matches!(self, Connector::List { .. });
        ready(&mut warehouse, looks).await?;
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
    let has_file = spec.commons().any(|common| common.name == name);
    let wish = wanted::read(&**warehouse, name).await?;
    refuse_at_work(warehouse, name, (has_file, &wish)).await?;
    let record = slot_record(&**warehouse, name).await?;
    let remains = wanted::remains(&**warehouse, name).await?;
    let nothing = record.is_none() && remains.iter().all(|(_, many)| *many == 0);
    if nothing && !has_file && wish == Wanted::Running {
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
    // first: what fails there is asked for once more, with everything that it needs still known
    if let Some(file) = file.filter(|_| drop_slot) {
        drop_at_source(file).await?;
    } else if let Some(slot) = slot {
        let drop = format!("select pg_drop_replication_slot({})", quote::literal(&slot));
        println!("at the source, its slot keeps the log until: {drop}");
    }
    forget(warehouse, name, has_file).await?;
    if has_file {
        println!(
            "its file is there, so it stays stopped: remove the file, or let it begin anew, and read \
             everything, by siltstone connector resume {name}"
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// Refuses a connector that is to run, or that an instance still runs by the file that it had.
async fn refuse_at_work(
    warehouse: &Session,
    name: &str,
    (has_file, wish): (bool, &Wanted),
) -> Result<()> {
    let usage = |what: String| Error::new(Kind::Usage, what);
    if has_file {
        return match wish {
            Wanted::Stopped(_) => Ok(()),
            _ => Err(usage(format!("{name} is to run, by its file")).remedy(format!(
                "siltstone connector stop {name} --wait, or write enabled: false into its file"
            ))),
        };
    }
    let told = account::connector(&**warehouse, name).await?;
    if told["alive"] != true || matches!(wish, Wanted::Stopped(_)) {
        return Ok(());
    }
    let owner = told["owner"].as_str().unwrap_or("an instance");
    Err(usage(format!("{owner} still runs {name}, by the file that it had")).remedy(
        "send it SIGHUP (kill -HUP), so that it sees that the file is gone; then this again",
    ))
}

/// Forgets a connector in the warehouse. An instance that has it begins anew, and finds it stopped, or
/// its file gone; its place stays its own.
async fn forget(warehouse: &mut Session, name: &str, has_file: bool) -> Result<()> {
    let failed = |error| Error::warehouse("forgetting it", error);
    let transaction = warehouse.transaction().await.map_err(failed)?;
    interrupt(&transaction, &format!("connector:{name}")).await.map_err(failed)?;
    // nobody changes it any more
    let wish = wanted::read(&transaction, name).await?;
    if has_file && !matches!(wish, Wanted::Stopped(_)) {
        let what = format!("somebody has resumed {name} meanwhile: nothing of it was forgotten");
        return Err(Error::new(Kind::Busy, what)
            .remedy(format!("siltstone connector stop {name} --wait, and then this again")));
    }
    wanted::remove(&transaction, name).await?;
    if !has_file {
        wanted::forget(&transaction, name).await?;
    }
    transaction.commit().await.map_err(failed)
}

/// Drops slot and publications; those that are another role's are named.
async fn drop_at_source(file: &spec::Connector) -> Result<()> {
    let source = connect(Side::Source, &file.endpoint, "siltstone connector").await?;
    if slot::inspect(&source, &file.slot).await?.is_some() {
        slot::drop(&source, &file.slot).await?;
        println!("at the source, its slot {} is dropped", file.slot);
    }
    for name in [file.publication.clone(), file.append_publication()] {
        match publication::drop(&source, &name).await {
            Err(error) if error.kind() == Kind::Rights => println!(
                "at the source, publication {name} is another role's: as its owner, drop publication {}",
                quote::ident(&name)
            ),
            dropped => dropped?,
        }
    }
    Ok(())
}
