//! A connection in replication mode: login, the replication commands, and the switch to streaming.
//!
//! Built on postgres-protocol's messages (tokio-postgres has no replication mode). It knows commands
//! and answers, never what they are for; `slot` and `snapshot` do.
//!
//! Source: PostgreSQL documentation, "Streaming Replication Protocol" and "Message Flow".

use bytes::{Buf, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::{md5_hash, sasl};
use postgres_protocol::message::backend::{DataRowBody, ErrorFields, Header, Message};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_postgres::error::SqlState;

use super::stream::{Duplex, Link, away, connect};
use crate::error::{Error, Kind, Result, kind_of_state};
use crate::postgres::{Endpoint, Host, TIMEOUTS, WITHOUT_TIMEOUTS};

/// The tag of CopyBothResponse, which postgres-protocol does not parse.
const COPY_BOTH: u8 = b'W';

/// A row of a replication command's answer.
pub type Answer = Vec<Option<String>>;

/// A connection in replication mode, ready for a command.
pub struct Walsender {
    stream: Box<dyn Duplex>,
    incoming: BytesMut,
    outgoing: BytesMut,
    /// What it said of itself when we logged in.
    standby: bool,
}

enum Received {
    Message(Message),
    CopyBoth,
}

impl Walsender {
    /// Connects to the endpoint's database with `replication=database` and logs in: at the first host
    /// that answers and is what the URL asks for, as an SQL session does.
    pub async fn connect(endpoint: &Endpoint, application: &str) -> Result<Walsender> {
        let mut last = away(endpoint, "no host is given");
        for host in endpoint.hosts() {
            match Walsender::connect_to(endpoint, &host, application).await {
                Ok(walsender) if walsender.standby && endpoint.wants_primary() => {
                    last = away(endpoint, "the host is a standby");
                }
                Ok(walsender) => return Ok(walsender),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn connect_to(
        endpoint: &Endpoint,
        host: &(Host, u16),
        application: &str,
    ) -> Result<Walsender> {
        let Link { stream, server_end_point } = connect(endpoint, host).await?;
        let (incoming, outgoing) = (BytesMut::new(), BytesMut::new());
        let mut walsender = Walsender { stream, incoming, outgoing, standby: false };
        walsender.start_up(endpoint, application).await?;
        walsender.log_in(endpoint, server_end_point).await?;
        walsender.set_up().await?;
        Ok(walsender)
    }

    async fn start_up(&mut self, endpoint: &Endpoint, application: &str) -> Result<()> {
        // from client_encoding on they decide the text form of the values in the stream, as the
        // settings of an SQL session do
        let parameters = [
            ("user", endpoint.user()),
            ("database", endpoint.database()),
            ("replication", "database"),
            ("application_name", application),
            ("client_encoding", "UTF8"),
            ("datestyle", "ISO, MDY"),
            ("timezone", "UTC"),
            ("intervalstyle", "postgres"),
            ("extra_float_digits", "1"),
            ("bytea_output", "hex"),
            ("lc_monetary", "C"),
            ("search_path", "pg_catalog, pg_temp"),
        ];
        frontend::startup_message(parameters, &mut self.outgoing).map_err(cannot_encode)?;
        self.flush().await
    }

    async fn log_in(&mut self, endpoint: &Endpoint, binding: Option<Vec<u8>>) -> Result<()> {
        let password = endpoint.password();
        let mut scram: Option<sasl::ScramSha256> = None;
        loop {
            let Received::Message(message) = self.receive().await? else {
                return Err(unexpected("the login"));
            };
            match message {
                Message::ParameterStatus(body) => {
                    let (name, value) = (body.name(), body.value());
                    self.standby |= matches!((name, value), (Ok("in_hot_standby"), Ok("on")));
                }
                Message::AuthenticationOk
                | Message::BackendKeyData(_)
                | Message::NoticeResponse(_) => {}
                Message::AuthenticationCleartextPassword => {
                    let password = password.ok_or_else(|| no_password(endpoint))?;
                    frontend::password_message(password, &mut self.outgoing)
                        .map_err(cannot_encode)?;
                    self.flush().await?;
                }
                Message::AuthenticationMd5Password(body) => {
                    let password = password.ok_or_else(|| no_password(endpoint))?;
                    let hash = md5_hash(endpoint.user().as_bytes(), password, body.salt());
                    frontend::password_message(hash.as_bytes(), &mut self.outgoing)
                        .map_err(cannot_encode)?;
                    self.flush().await?;
                }
                Message::AuthenticationSasl(body) => {
                    let offered: Vec<String> = body
                        .mechanisms()
                        .map(|name| Ok(name.to_owned()))
                        .collect()
                        .map_err(|error| unexpected("the login").because(error))?;
                    let password = password.ok_or_else(|| no_password(endpoint))?;
                    scram = Some(self.begin_scram(&offered, password, binding.as_deref()).await?);
                }
                Message::AuthenticationSaslContinue(body) => {
                    let scram = scram.as_mut().ok_or_else(|| unexpected("the login"))?;
                    scram.update(body.data()).map_err(|error| refused(endpoint, error))?;
                    frontend::sasl_response(scram.message(), &mut self.outgoing)
                        .map_err(cannot_encode)?;
                    self.flush().await?;
                }
                Message::AuthenticationSaslFinal(body) => {
                    let scram = scram.as_mut().ok_or_else(|| unexpected("the login"))?;
                    scram.finish(body.data()).map_err(|error| refused(endpoint, error))?;
                }
                Message::ReadyForQuery(_) => return Ok(()),
                Message::ErrorResponse(body) => {
                    let doing = format!("logging in to {}", endpoint.shown());
                    return Err(server_error(&doing, body.fields()));
                }
                _ => return Err(unexpected("the login")),
            }
        }
    }

    /// SCRAM with channel binding where the server offers it and TLS has data for it, so that a
    /// machine in the middle cannot pass the login on.
    async fn begin_scram(
        &mut self,
        offered: &[String],
        password: &[u8],
        binding: Option<&[u8]>,
    ) -> Result<sasl::ScramSha256> {
        let plus = offered.iter().any(|name| name == sasl::SCRAM_SHA_256_PLUS);
        let (mechanism, binding) = match binding {
            Some(data) if plus => (
                sasl::SCRAM_SHA_256_PLUS,
                sasl::ChannelBinding::tls_server_end_point(data.to_vec()),
            ),
            // tells the server that we could have bound, so that a stripped offer is noticed
            Some(_) => (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unrequested()),
            None => (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unsupported()),
        };
        let scram = sasl::ScramSha256::new(password, binding);
        frontend::sasl_initial_response(mechanism, scram.message(), &mut self.outgoing)
            .map_err(cannot_encode)?;
        self.flush().await?;
        Ok(scram)
    }

    /// An exported snapshot must not die of being idle or old. And what a server without an encoding of its own
    /// holds is for us to look at: asked for UTF-8, it would refuse to send what is none.
    async fn set_up(&mut self) -> Result<()> {
        const DOING: &str = "setting up a replication session";
        let command = format!(
            "select pg_catalog.current_setting('server_encoding'), \
             (select pg_catalog.count({WITHOUT_TIMEOUTS}) {TIMEOUTS})"
        );
        let answers = self.command(DOING, &command).await?;
        let encoding = answers.first().and_then(|row| row.first()?.clone());
        if encoding.as_deref() == Some("SQL_ASCII") {
            self.command(DOING, "set client_encoding to sql_ascii").await?;
        }
        Ok(())
    }

    /// Runs a replication command that answers with rows; `doing` completes "while …".
    pub async fn command(&mut self, doing: &str, command: &str) -> Result<Vec<Answer>> {
        frontend::query(command, &mut self.outgoing).map_err(cannot_encode)?;
        self.flush().await?;
        let mut rows = Vec::new();
        let mut failure = None;
        loop {
            let Received::Message(message) = self.receive().await? else {
                return Err(unexpected(doing));
            };
            match message {
                Message::DataRow(row) => rows.push(read_row(&row)?),
                Message::ErrorResponse(body) => failure = Some(server_error(doing, body.fields())),
                Message::ReadyForQuery(_) => return failure.map_or(Ok(rows), Err),
                _ => {}
            }
        }
    }

    /// Sends START_REPLICATION and hands over the stream once the server agrees, with the bytes
    /// that already arrived behind its answer.
    pub(super) async fn start_copy(mut self, command: &str) -> Result<(Box<dyn Duplex>, BytesMut)> {
        const DOING: &str = "starting replication";
        frontend::query(command, &mut self.outgoing).map_err(cannot_encode)?;
        self.flush().await?;
        loop {
            match self.receive().await? {
                Received::CopyBoth => return Ok((self.stream, self.incoming)),
                Received::Message(Message::ErrorResponse(body)) => {
                    return Err(server_error(DOING, body.fields()));
                }
                Received::Message(Message::NoticeResponse(_)) => {}
                Received::Message(_) => return Err(unexpected(DOING)),
            }
        }
    }

    async fn receive(&mut self) -> Result<Received> {
        loop {
            if let Some(received) = self.parse()? {
                return Ok(received);
            }
            let read = self.stream.read_buf(&mut self.incoming).await.map_err(lost)?;
            if read == 0 {
                return Err(closed());
            }
        }
    }

    fn parse(&mut self) -> Result<Option<Received>> {
        let header = Header::parse(&self.incoming).map_err(lost)?;
        let Some(header) = header else { return Ok(None) };
        if header.tag() != COPY_BOTH {
            return Ok(Message::parse(&mut self.incoming).map_err(lost)?.map(Received::Message));
        }
        let length = usize::try_from(header.len()).unwrap_or(0) + 1;
        if self.incoming.len() < length {
            return Ok(None);
        }
        self.incoming.advance(length);
        Ok(Some(Received::CopyBoth))
    }

    async fn flush(&mut self) -> Result<()> {
        self.stream.write_all(&self.outgoing).await.map_err(lost)?;
        self.stream.flush().await.map_err(lost)?;
        self.outgoing.clear();
        Ok(())
    }
}

fn read_row(row: &DataRowBody) -> Result<Answer> {
    let bytes = row.buffer();
    row.ranges()
        .map(|range| {
            let cell = range.and_then(|range| bytes.get(range));
            Ok(cell.map(|bytes| String::from_utf8_lossy(bytes).into_owned()))
        })
        .collect()
        .map_err(|error| unexpected("reading an answer").because(error))
}

/// An ErrorResponse as an error of ours.
pub(super) fn server_error(doing: &str, mut fields: ErrorFields<'_>) -> Error {
    let (mut code, mut text) = (String::new(), String::new());
    while let Ok(Some(field)) = fields.next() {
        let value = String::from_utf8_lossy(field.value_bytes());
        match field.type_() {
            b'C' => code = value.into_owned(),
            b'M' => text = value.into_owned(),
            _ => {}
        }
    }
    let kind = match code.as_str() {
        // undefined_object; object_not_in_prerequisite_state: the slot is gone or was invalidated
        "42704" | "55000" => Kind::PositionLost,
        _ => match kind_of_state(&SqlState::from_code(&code), Kind::SourceAway) {
            Kind::TableStops | Kind::Poison => Kind::SourceLacks,
            kind => kind,
        },
    };
    let error = Error::new(kind, format!("the source failed while {doing}: {text} ({code})"));
    match kind {
        // the slot is gone; or the publication was, when the changes were made that come next
        Kind::PositionLost => error
            .remedy("siltstone table resync --all (makes a new slot and reads every table again)"),
        _ => match code.as_str() {
            "53400" => error.remedy(
                "drop a slot that nobody needs, or alter system set max_replication_slots = …; then \
                 restart the server",
            ),
            "53300" => error.remedy(
                "alter system set max_wal_senders = … (or max_connections); then restart the server",
            ),
            _ => error,
        },
    }
}

pub(super) fn lost(error: std::io::Error) -> Error {
    Error::new(Kind::SourceAway, "the connection to the source was lost").because(error)
}

pub(super) fn closed() -> Error {
    Error::new(Kind::SourceAway, "the source closed the connection")
}

fn unexpected(doing: &str) -> Error {
    Error::bug(format!("the source sent a message that does not belong into {doing}"))
}

fn cannot_encode(error: std::io::Error) -> Error {
    Error::bug("a message to the source cannot be encoded").because(error)
}

fn no_password(endpoint: &Endpoint) -> Error {
    Error::new(Kind::Rights, format!("{} asks for a password", endpoint.shown()))
        .remedy("put it into the connector's url, by ${NAME} or ${file:/path}")
}

fn refused(endpoint: &Endpoint, error: std::io::Error) -> Error {
    Error::new(Kind::Rights, format!("the login to {} failed", endpoint.shown())).because(error)
}
