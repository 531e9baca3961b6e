//! Mail by SMTP: `smtps://`, or STARTTLS by `smtp://HOST?tls=required`, or as it is.

use lettre::message::Mailbox;
use lettre::message::header::ContentType;
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters};
use lettre::transport::smtp::{AsyncSmtpTransportBuilder, Error as SmtpError};
use lettre::{AsyncSmtpTransport, AsyncTransport, Tokio1Executor};
use reqwest::Url;

use super::{Failure, LONGEST, TIMEOUT, chain, cut};
use crate::alerts::message::{Message, MessageKind};
use crate::error::{Kind, Result};
use crate::spec::Secret;

type Transport = AsyncSmtpTransport<Tokio1Executor>;

pub(super) async fn send(
    (smtp, roots): (&Secret, Option<&str>),
    (from, to): (&Mailbox, &[Mailbox]),
    message: &Message,
) -> Result<(), Failure> {
    let mail = mail((from, to), message)?;
    let mut builder = Transport::from_url(smtp.expose())
        .map_err(|_| Failure::new(Kind::Config, "smtp is no URL of a mail server"))?;
    if let Some(roots) = roots {
        builder = with_roots(builder, smtp, roots)?;
    }
    let transport: Transport = builder.timeout(Some(TIMEOUT)).build();
    transport.send(mail).await.map(drop).map_err(|error| failure(&error, smtp))
}

fn mail((from, to): (&Mailbox, &[Mailbox]), message: &Message) -> Result<lettre::Message, Failure> {
    let word = match message.kind {
        MessageKind::Firing => "FIRING ",
        _ => "",
    };
    let mut builder = lettre::Message::builder()
        .from(from.clone())
        .subject(format!("[siltstone] {word}{}", message.title()))
        .message_id(None)
        .header(ContentType::TEXT_PLAIN);
    for to in to {
        builder = builder.to(to.clone());
    }
    builder
        .body(cut(&message.body(), LONGEST))
        .map_err(|error| Failure::new(Kind::Config, format!("no mail can be written: {error}")))
}

/// Trusts these roots beside the public ones.
fn with_roots(
    builder: AsyncSmtpTransportBuilder,
    smtp: &Secret,
    roots: &str,
) -> Result<AsyncSmtpTransportBuilder, Failure> {
    let wrong = |what: &str| Failure::new(Kind::Config, what);
    let url = Url::parse(smtp.expose()).map_err(|_| wrong("smtp is no URL"))?;
    let host = url.host_str().ok_or_else(|| wrong("smtp names no host"))?;
    let root = Certificate::from_pem(roots.as_bytes())
        .map_err(|_| wrong("roots has no certificate in PEM form"))?;
    let parameters = TlsParameters::builder(host.to_owned())
        .certificate_store(CertificateStore::WebpkiRoots)
        .add_root_certificate(root)
        .build_rustls()
        .map_err(|_| wrong("roots has no certificate that can be used"))?;
    let asked = url.query_pairs().find(|(name, _)| name == "tls").map(|(_, value)| value);
    Ok(match (url.scheme(), asked.as_deref()) {
        ("smtps", _) => builder.tls(Tls::Wrapper(parameters)),
        (_, Some("required")) => builder.tls(Tls::Required(parameters)),
        (_, Some("opportunistic")) => builder.tls(Tls::Opportunistic(parameters)),
        _ => builder,
    })
}

/// What a failure means. What a server says to a login is not repeated: it may name the login.
fn failure(error: &SmtpError, smtp: &Secret) -> Failure {
    let code = error.status().map(u16::from);
    if matches!(code, Some(454 | 530 | 534 | 535 | 538)) {
        return Failure::new(Kind::Rights, "the mail server refuses the login");
    }
    let kind = if error.is_permanent() { Kind::Config } else { Kind::ChannelAway };
    let said = chain(error);
    let password = Url::parse(smtp.expose()).ok();
    let password = password.as_ref().and_then(|url| url.password());
    match password.is_some_and(|password| said.contains(password)) {
        true => Failure::new(kind, "the mail server takes no mail"),
        false => Failure::new(kind, cut(&said, 300)),
    }
}
