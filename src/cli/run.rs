//! `siltstone run`.

use std::process::ExitCode;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::Files;
use crate::error::{Error, Result};
use crate::pipeline::{Options, Reread, Service};
use crate::serve::Board;
use crate::spec::Spec;

/// Runs the service until SIGTERM or Ctrl-C.
#[derive(clap::Args)]
pub(super) struct Run {
    /// Ends when every source is drained to where it stood at the start.
    #[arg(long)]
    until_caught_up: bool,
    /// Makes and alters no table, neither in the warehouse nor in publications: `siltstone apply` does.
    #[arg(long)]
    no_ddl: bool,
}

impl Run {
    pub(super) async fn run(self, files: &Files) -> Result<ExitCode> {
        let spec = files.load()?;
        let options = Options {
            until_caught_up: self.until_caught_up,
            no_ddl: self.no_ddl,
            ..Options::default()
        };
        let (clock, board) = (files.clock.clone(), Board::new(files.clock.clone()));
        let service = Service { spec, clock, options, board };
        let stop = stop_on_signals()?;
        let files = read_again(files, &service.spec, service.options.reread.clone())?;
        let (address, made) = service.serve(files.clone(), stop.clone()).await?;
        tracing::info!("admin server at http://{address}");
        if let Some(token) = made {
            // once, to the person who started it; never to the log
            eprintln!("admin token for this run: {token}");
        }
        service.run_with(files, stop).await?;
        Ok(ExitCode::SUCCESS)
    }
}

/// What to do where files that are read again name a variable that is not there.
const RESTART: &str = "set it and restart: a process that runs takes no new environment";

/// The files, read again at each SIGHUP, and when `siltstone apply` has changed tables by them. Those that
/// are refused change nothing.
fn read_again(
    files: &Files,
    spec: &Spec,
    reread: Arc<Reread>,
) -> Result<watch::Receiver<Arc<Spec>>> {
    let failed = |error| Error::bug("signals cannot be received").because(error);
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    let (sender, receiver) = watch::channel(Arc::new(spec.clone()));
    let files = files.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                told = hangup.recv() => if told.is_none() { return },
                () = reread.asked() => {}
            }
            let was = sender.borrow().clone();
            match files.load_again(&was) {
                Ok(spec) => {
                    tracing::info!("the files are read again");
                    sender.send_replace(Arc::new(spec));
                }
                Err(error) => {
                    let lacks = error.reason().contains("environment variable");
                    let error = if lacks { error.remedy(RESTART) } else { error };
                    tracing::error!("the files are refused, the old ones stay: {error}");
                    reread.note_read();
                }
            }
        }
    });
    Ok(receiver)
}

/// Turns true at SIGTERM or SIGINT.
pub(super) fn stop_on_signals() -> Result<watch::Receiver<bool>> {
    let failed = |error| Error::bug("signals cannot be received").because(error);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        sender.send_replace(true);
        sender.closed().await;
    });
    Ok(receiver)
}
