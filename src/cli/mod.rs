//! The command line: reads arguments and files, runs a verb, turns its result into output and an exit
//! code. The only place, beside the demo's screen, that prints.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is where a person is answered")]

mod alert;
mod bench;
mod check;
mod connector;
mod dead_letter;
mod demo;
mod init;
mod job;
mod lineage;
mod logging;
mod mart;
mod plan;
mod run;
mod sql;
mod status;
mod table;
mod topics;
mod validate;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::postgres::Session;
use crate::progress::account;
use crate::spec::{Env, Settings, Spec, load, load_again, load_settings};
use crate::warehouse::{migrate, refuse_unlike};

/// Keeps a Postgres warehouse exact and fresh from change events.
#[derive(Parser)]
#[command(name = "siltstone", version)]
struct Arguments {
    /// The settings; their folder is the root of all other files.
    #[arg(long, global = true, default_value = "siltstone.yaml")]
    config: PathBuf,
    /// How logs are written.
    #[arg(long, global = true, value_enum, default_value_t = logging::Format::Auto)]
    log_format: logging::Format,
    /// Which logs are written: off, error, warn, info, debug, or a filter such as siltstone=debug.
    /// Without it `run` writes info, the demo none, and all others warn.
    #[arg(long, global = true, env = "RUST_LOG")]
    log_level: Option<String>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Runs the service until SIGTERM or Ctrl-C.
    Run(run::Run),
    /// Writes the files that replicate a Postgres, and says what it lacks.
    Init(init::Init),
    /// Checks the files; with --connect also the source and the warehouse.
    Validate(validate::Validate),
    /// Prints every difference between files, warehouse and source, with its SQL; changes nothing.
    Plan(plan::Plan),
    /// Makes the differences that `plan` prints.
    Apply(plan::Apply),
    /// How the connectors stand; exits with 65 where a person is needed, with 75 where one waits.
    Status(status::Status),
    /// Why a table is as it is.
    Why(status::Why),
    /// How connectors stand, and what to do with them.
    #[command(subcommand)]
    Connector(connector::Connector),
    /// What tables are doing, and what to do with them.
    #[command(subcommand)]
    Table(table::Table),
    /// How jobs stand, and what to do with them.
    #[command(subcommand)]
    Job(job::Job),
    /// How marts stand, computing them anew, and comparing them with a full rebuild.
    #[command(subcommand)]
    Mart(mart::Mart),
    /// What a table or a column comes from, and what comes from it.
    Lineage(lineage::Lineage),
    /// What must hold of rows, what was found of it, and judging it now.
    #[command(subcommand)]
    Check(check::Check),
    /// What is wrong now, and trying the channels by which people are told.
    #[command(subcommand)]
    Alert(alert::Alert),
    /// Changes that their tables refuse, and what becomes of them.
    #[command(subcommand)]
    DeadLetter(dead_letter::DeadLetter),
    /// The topics of topics.yaml: how they differ from the brokers', and making them so.
    #[command(subcommand)]
    Topics(topics::Topics),
    /// The least rights that the service runs with, as SQL.
    #[command(subcommand)]
    Sql(sql::Sql),
    /// Compares source and warehouse while the stream flows.
    Verify(verify::Verify),
    /// Replicates a live shop into a warehouse, on two throw-away Postgres clusters.
    Demo(demo::Demo),
    /// Measures snapshot, catch-up and freshness on two throw-away Postgres clusters.
    Bench(bench::Bench),
    /// Prints a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Runs the command line.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // help and version come this way too, and are no error
            let code = if error.use_stderr() { ExitCode::from(64) } else { ExitCode::SUCCESS };
            return if error.print().is_ok() { code } else { ExitCode::from(74) };
        }
    };
    if !matches!(arguments.verb, Verb::Run(_) | Verb::Demo(_) | Verb::Bench(_)) {
        end_with_the_reader();
    }
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("another TLS provider is installed already");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("siltstone: the runtime cannot start: {error}");
            return ExitCode::from(70);
        }
    };
    let ended = runtime.block_on(dispatch(arguments));
    // a task that still holds a connection must not hold up the exit
    runtime.shutdown_background();
    match ended {
        Ok(code) => code,
        Err(error) => {
            eprintln!("siltstone: {error}");
            ExitCode::from(error.kind().exit_code())
        }
    }
}

/// What prints and ends does so quietly when nobody reads on (`siltstone status | head -1`), with the code
/// of a program that SIGPIPE ends. The signal itself stays ignored, or a server that goes away in the
/// middle of a write would end us without a word.
fn end_with_the_reader() {
    /// 128 and the number of SIGPIPE.
    const NOBODY_READS: i32 = 141;
    let otherwise = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // as `println!` says it
        let said = panic.payload_as_str().unwrap_or_default();
        if said.starts_with("failed printing to std") && said.contains("os error 32") {
            std::process::exit(NOBODY_READS);
        }
        otherwise(panic);
    }));
}

async fn dispatch(arguments: Arguments) -> Result<ExitCode> {
    let clock = Clock::system();
    let service = matches!(arguments.verb, Verb::Run(_));
    let level = match (&arguments.log_level, &arguments.verb) {
        (Some(level), _) => level.as_str(),
        (None, Verb::Run(_)) => "info",
        // its screen would be torn by logs; what matters is on it
        (None, Verb::Demo(_)) => "off",
        (None, _) => "warn",
    };
    logging::start(arguments.log_format, level, service)?;
    let files = Files { path: arguments.config, clock };
    match arguments.verb {
        Verb::Run(run) => run.run(&files).await,
        Verb::Init(init) => init.run(&files).await,
        Verb::Validate(validate) => validate.run(&files).await,
        Verb::Verify(verify) => verify.run(&files).await,
        Verb::Demo(demo) => Box::pin(demo.run(&files)).await,
        Verb::Bench(bench) => bench.run(&files).await,
        Verb::Plan(plan) => plan.run(&files).await,
        Verb::Apply(apply) => apply.run(&files).await,
        Verb::Status(status) => status.run(&files).await,
        Verb::Why(why) => why.run(&files).await,
        Verb::Connector(connector) => connector.run(&files).await,
        Verb::Table(table) => table.run(&files).await,
        Verb::Job(job) => job.run(&files).await,
        Verb::Mart(mart) => mart.run(&files).await,
        Verb::Lineage(lineage) => lineage.run(&files).await,
        Verb::Check(check) => check.run(&files).await,
        Verb::Alert(alert) => alert.run(&files).await,
        Verb::DeadLetter(letters) => letters.run(&files).await,
        Verb::Topics(topics) => topics.run(&files).await,
        Verb::Sql(sql) => sql.run(&files).await,
        Verb::Completions { shell } => {
            let mut command = Arguments::command();
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command, "siltstone", &mut script);
            print!("{}", String::from_utf8_lossy(&script));
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Where the files are.
#[derive(Clone)]
struct Files {
    path: PathBuf,
    clock: Clock,
}

impl Files {
    /// Reads and checks all files; tells what a person should know about them.
    fn load(&self) -> Result<Spec, Error> {
        load(&self.path, &Env::of_process(&self.clock)).inspect(tell)
    }

    /// The same, in a process that has read them before.
    fn load_again(&self, was: &Spec) -> Result<Spec, Error> {
        load_again(&self.path, &Env::of_process(&self.clock), was).inspect(tell)
    }

    /// What it takes to tell how things stand: that is asked when files are broken, too. Those are told of,
    /// and the control tables say which connectors there are.
    fn known(&self) -> Result<Known, Error> {
        match self.load() {
            Ok(spec) => {
                let names = spec.commons().map(|common| common.name.clone()).collect();
                Ok(Known { settings: spec.settings, names: Some(names) })
            }
            Err(refused) => {
                let settings = load_settings(&self.path, &Env::of_process(&self.clock));
                let Ok(settings) = settings else { return Err(refused) };
                eprintln!("siltstone: the files are refused: {refused}");
                Ok(Known { settings, names: None })
            }
        }
    }
}

fn tell(spec: &Spec) {
    for note in &spec.notes {
        tracing::warn!("{note}");
    }
}

/// What is known without all files.
struct Known {
    settings: Settings,
    /// the connectors of the files; none where files are refused
    names: Option<Vec<String>>,
}

impl Known {
    /// The connectors.
    async fn connectors(&self, warehouse: &Session) -> Result<Vec<String>> {
        match &self.names {
            Some(names) => Ok(names.clone()),
            None => account::connectors(&**warehouse).await,
        }
    }
}

/// Makes the control tables ready for who asks something; who only looks changes nothing.
async fn ready(warehouse: &mut Session, looks: bool) -> Result<()> {
    match looks {
        true => refuse_unlike(&**warehouse).await,
        false => migrate(warehouse).await,
    }
}
