//! `siltstone alert`: what is wrong now, and trying a channel.

use std::process::ExitCode;

use super::Files;
use crate::alerts::{Message, Sender, as_json};
use crate::error::{Error, Kind, Result};
use crate::postgres::{Side, connect};
use crate::spec::Spec;
use crate::warehouse::refuse_unlike;

/// What is wrong now, and trying the channels by which people are told.
#[derive(clap::Subcommand)]
pub(super) enum Alert {
    /// Lists what is wrong now, and what was in the last days.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Sends a message to a channel of alerts.yaml. Exits with 69 where it cannot be reached, 77 where the login
    /// or the token is refused, 78 where the channel refuses the message or has no address.
    Test {
        /// The channel.
        channel: String,
    },
}

impl Alert {
    pub(super) async fn run(self, files: &Files) -> Result<ExitCode> {
        let spec = files.load()?;
        match self {
            Alert::List { json } => list(&spec, json).await,
            Alert::Test { channel } => test(files, &spec, &channel).await,
        }
    }
}

async fn test(files: &Files, spec: &Spec, name: &str) -> Result<ExitCode> {
    let channels = spec.alerts.as_ref().map(|alerts| alerts.channels.as_slice());
    let channels = channels.unwrap_or_default();
    let Some(channel) = channels.iter().find(|channel| channel.name == name) else {
        let known: Vec<&str> = channels.iter().map(|channel| channel.name.as_str()).collect();
        let remedy = match known.is_empty() {
            true => "write alerts.yaml with channels".to_owned(),
            false => format!("name one of {}", known.join(", ")),
        };
        let what = format!("there is no channel {name}");
        return Err(Error::new(Kind::Usage, what).remedy(remedy));
    };
    Sender::new()?.send(channel, &Message::test(name, files.clock.now())).await?;
    println!("sent to {name}");
    Ok(ExitCode::SUCCESS)
}

async fn list(spec: &Spec, json: bool) -> Result<ExitCode> {
    let warehouse = connect(Side::Warehouse, &spec.settings.warehouse, "siltstone alert").await?;
    refuse_unlike(&*warehouse).await?;
    for alert in as_json(&*warehouse).await? {
        if json {
            println!("{alert}");
            continue;
        }
        let text = |name: &str| alert[name].as_str().unwrap_or_default().to_owned();
        let first = text("text").lines().next().unwrap_or_default().to_owned();
        println!("{:<8} {:<15} {:<30} {first}", text("state"), text("rule"), text("subject"));
    }
    Ok(ExitCode::SUCCESS)
}
