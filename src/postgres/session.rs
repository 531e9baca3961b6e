//! An SQL session at a Postgres, and the task that drives its socket.

use std::time::Duration;

use tokio::task::AbortHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::{CancelToken, Client};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{Endpoint, tls};
use crate::error::{Error, Kind, Result};

/// The settings under which every value has one text form. How long a transaction may take, or wait for
/// a lock, is for its place to say. Plans over staging tables are pinned where they matter, in merge.
const SETTINGS: &str = "set timezone to 'UTC'; set datestyle to 'ISO, MDY'; \
    set intervalstyle to 'postgres'; set extra_float_digits to 1; set bytea_output to 'hex'; \
    set lc_monetary to 'C'; set xmloption to content; set array_nulls to on; \
    set standard_conforming_strings to on";

/// Takes the time limits of statements and transactions away, as far as a server knows them; behind `select`.
pub const WITHOUT_TIMEOUTS: &str = "pg_catalog.set_config(name, '0', false)";

/// The rows that it is selected from.
pub const TIMEOUTS: &str = "from pg_catalog.pg_settings where name in \
    ('statement_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')";

/// At the source nobody else's objects may stand in for a built-in one; in the warehouse a user's
/// triggers may rely on the usual path.
const SOURCE_PATH: &str = "set search_path to pg_catalog, pg_temp";

/// Which of the two Postgres a session belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Where changes come from.
    Source,
    /// Where they are kept.
    Warehouse,
}

/// A connected SQL session. Dropping it closes the connection, which rolls back what is open.
pub struct Session {
    client: Client,
    driver: AbortHandle,
    cancel: CancelToken,
    tls: MakeRustlsConnect,
}

impl std::ops::Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl std::ops::DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Gives up what a session is doing, from beside it.
pub struct Canceller {
    cancel: CancelToken,
    tls: MakeRustlsConnect,
}

impl Canceller {
    /// Asks the server to give up the statement that is running.
    pub async fn cancel(&self) {
        if let Err(error) = self.cancel.cancel_query(self.tls.clone()).await {
            tracing::debug!(%error, "a running statement could not be cancelled");
        }
    }
}

impl Session {
    /// What gives up a statement of this session while it is lent out.
    pub fn canceller(&self) -> Canceller {
        Canceller { cancel: self.cancel.clone(), tls: self.tls.clone() }
    }

    /// Asks the server to give up the statement that is running.
    pub async fn cancel(&self) {
        if let Err(error) = self.cancel.cancel_query(self.tls.clone()).await {
            tracing::debug!(%error, "a running statement could not be cancelled");
        }
    }
}

/// Connects and applies the settings. `application` is what pg_stat_activity shows.
pub async fn connect(side: Side, endpoint: &Endpoint, application: &str) -> Result<Session> {
    let tls = MakeRustlsConnect::new(tls::client_config(endpoint)?);
    let mut config = endpoint.config();
    config
        .application_name(application)
        .connect_timeout(Duration::from_secs(10))
        .keepalives_idle(Duration::from_secs(30))
        .tcp_user_timeout(Duration::from_secs(60));
    let failed = |error: tokio_postgres::Error| unreachable_or_refused(side, endpoint, error);
    let (client, connection) = config.connect(tls.clone()).await.map_err(failed)?;
    let driver = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a Postgres connection ended");
        }
    })
    .abort_handle();
    let cancel = client.cancel_token();
    let session = Session { client, driver, cancel, tls };
    let settings = format!("{SETTINGS}; select {WITHOUT_TIMEOUTS} {TIMEOUTS}");
    session.batch_execute(&settings).await.map_err(failed)?;
    if side == Side::Source {
        session.batch_execute(SOURCE_PATH).await.map_err(failed)?;
    }
    Ok(session)
}

/// A refused login or a missing database waits for a person; anything else means the server is
/// away, and is waited for.
fn unreachable_or_refused(side: Side, endpoint: &Endpoint, error: tokio_postgres::Error) -> Error {
    let doing = format!("connecting to {}", endpoint.shown());
    let remedy = remedy(side, error.code().map(SqlState::code));
    let (error, away) = match side {
        Side::Source => (Error::source(doing, error), Kind::SourceAway),
        Side::Warehouse => (Error::warehouse(doing, error), Kind::WarehouseAway),
    };
    match error.kind() {
        // also where a password is missing, which has no code
        Kind::Rights if error.code().is_none() => error.remedy(self::remedy(side, Some("28P01"))),
        Kind::Rights => error.remedy(remedy),
        _ => error.with_kind(away).remedy(remedy),
    }
}

/// What to do where a server refuses a session, by the code that it gives, or does not answer at all.
fn remedy(side: Side, code: Option<&str>) -> String {
    let url = match side {
        Side::Source => "url of the connector",
        Side::Warehouse => "warehouse of siltstone.yaml",
    };
    match code {
        Some("28P01") => format!("mend user and password in {url}"),
        Some("28000") => format!(
            "let pg_hba.conf of the server admit this user from this machine and reload it, or mend {url} (user, sslmode)"
        ),
        Some("3D000") => format!("create the database, or mend its name in {url}"),
        Some("42501") => "grant connect on the database to this role".to_owned(),
        Some("53300") => {
            "raise max_connections of the server, or end sessions that nobody needs".to_owned()
        }
        Some("57P03") => "it is starting, or stopping: it is waited for".to_owned(),
        _ => format!(
            "see that the server runs and is reached from here by {url} (host, port, sslmode)"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_of_a_session_says_what_to_do_and_where() {
        for (side, code, part) in [
            (Side::Source, Some("28P01"), "password in url of the connector"),
            (Side::Warehouse, Some("28000"), "pg_hba.conf"),
            (
                Side::Warehouse,
                Some("3D000"),
                "create the database, or mend its name in warehouse of siltstone.yaml",
            ),
            (Side::Source, Some("53300"), "max_connections"),
            (Side::Source, None, "see that the server runs"),
        ] {
            let remedy = remedy(side, code);
            assert!(remedy.contains(part), "{code:?}: {remedy}");
        }
    }
}
