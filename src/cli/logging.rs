//! Logs: text on a terminal, JSON elsewhere, unless one is asked for.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::error::{Error, Kind, Result};

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// Text on a terminal, else JSON.
    Auto,
    /// For people.
    Text,
    /// For machines: one object a line.
    Json,
}

/// Starts logging to standard error. Only a service logs for machines by itself.
pub(super) fn start(format: Format, level: &str, service: bool) -> Result<()> {
    let refuse = |why: String| Error::new(Kind::Usage, format!("--log-level {level:?}: {why}"));
    let filter = EnvFilter::try_new(level).map_err(|error| refuse(error.to_string()))?;
    let terminal = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        Format::Json => builder.json().flatten_event(true).try_init(),
        Format::Auto if !terminal && service => builder.json().flatten_event(true).try_init(),
        Format::Text | Format::Auto => builder.with_ansi(terminal).with_target(false).try_init(),
    };
    started.map_err(|error| Error::bug("logging cannot start").because(error))
}
