//! Our side of a conversation with PostgreSQL: prepared statements, extended protocol, pipelined with a `Sync` behind each
//! question so that one that fails leaves the others alone.
//!
//! 1. Whether there is TLS is asked and answered by one byte before all else; that is the shell's business ([`SSL_REQUEST`]).
//!    Then startup and login (none, clear text, MD5, SCRAM-SHA-256, and by TLS SCRAM-SHA-256-PLUS). The nonce of SCRAM is the one die below the shell; it is
//!    cast by the crate.
//! 2. Each query of the configuration is parsed and described once; what the description says of types decides formats:
//!    `bytea` goes and comes as it is, everything else as text.
//! 3. On a listening connection `LISTEN` follows; payloads of notifications are keys.
//!
//! Messages are cut and read by `postgres-protocol`; before it sees one its length is held against our limit.

use super::target::Queries;
use super::{Ask, Broken, Duty, Found, Heard, Kind, Limits, Reply, Target, Ticket, What, refusal};
use crate::ids::Version;
use crate::request::Condition;
use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::IsNull;
use postgres_protocol::authentication::{self, sasl};
use postgres_protocol::message::backend::{self, Message};
use postgres_protocol::message::frontend;
use std::collections::VecDeque;
use std::sync::Arc;
use x509_cert::der::Decode;

/// Asks whether TLS may follow, before anything else is said: length and the number of this question.
pub const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
/// The answers to it.
pub const TLS_FOLLOWS: u8 = b'S';
/// The server has no TLS.
pub const TLS_REFUSED: u8 = b'N';

/// Questions on the way on one connection.
const PIPELINE_MAX: usize = 16;
/// Bytes of a message beside the value in it.
const MESSAGE_SLACK_BYTES: usize = 64 << 10;
/// The type `bytea`.
const BYTEA: u32 = 17;
/// The statements, in the order they are prepared.
const STATEMENTS: [&str; 3] = ["read", "write", "remove"];

/// One connection's conversation.
pub struct Client {
    target: Arc<Target>,
    limits: Limits,
    duty: Duty,
    input: BytesMut,
    stage: Stage,
    scram: Option<sasl::ScramSha256>,
    /// By TLS: what a login is bound to, so that nobody between us and the server can pass it on.
    binding: Option<Vec<u8>>,
    statements: [Statement; 3],
    awaited: VecDeque<Awaited>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Until the first `ReadyForQuery`.
    Login,
    /// Preparing the statement of this number.
    Preparing(usize),
    /// Until `LISTEN` is done.
    Listening,
    Ready,
}

/// What is known of a prepared statement.
#[derive(Default)]
struct Statement {
    parameters: Vec<u32>,
    columns: Vec<u32>,
    value: usize,
    version: Option<usize>,
    ttl: Option<usize>,
    /// What the server said against it.
    refused: Option<Vec<u8>>,
}

struct Awaited {
    ticket: Ticket,
    read: bool,
    reply: Option<Reply>,
}

impl Client {
    pub(super) fn new(target: Arc<Target>, limits: Limits, duty: Duty) -> Client {
        Client {
            target,
            limits,
            duty,
            input: BytesMut::new(),
            stage: Stage::Login,
            scram: None,
            binding: None,
            statements: Default::default(),
            awaited: VecDeque::new(),
        }
    }

    fn queries(&self) -> &Queries {
        match &self.target.kind {
            Kind::Postgres(queries) => queries,
            _ => unreachable!("made for PostgreSQL targets only"),
        }
    }

    fn query(&self, statement: usize) -> Option<&str> {
        let queries = self.queries();
        match statement {
            0 => Some(&queries.read),
            1 => queries.write.as_deref(),
            _ => queries.remove.as_deref(),
        }
    }

    pub(super) fn proven(&mut self, certificate: &[u8]) {
        self.binding = end_point(certificate);
    }

    pub(super) fn begin(&mut self, out: &mut Vec<u8>) {
        let (user, database) =
            (self.target.login.as_ref().map_or("postgres", |login| &login.user), &self.queries().database);
        let mut buf = BytesMut::new();
        let parameters = [
            ("user", user),
            ("database", database),
            ("client_encoding", "UTF8"),
            ("application_name", "foreshadow"),
        ];
        // Refused only for zero bytes, which the URL's reader let none through of.
        if frontend::startup_message(parameters, &mut buf).is_ok() {
            out.extend_from_slice(&buf);
        }
    }

    pub(super) fn ready(&self) -> bool {
        self.stage == Stage::Ready
    }

    pub(super) fn room(&self) -> usize {
        PIPELINE_MAX - self.awaited.len().min(PIPELINE_MAX)
    }

    pub(super) fn ask(&mut self, ticket: Ticket, ask: &Ask, out: &mut Vec<u8>) -> Option<Reply> {
        let refused = |text: &str| Some(Reply::Refused(format!("ERR {text}").into_bytes()));
        let (statement, value) = match &ask.what {
            What::Read { .. } => (0, None),
            What::Put { condition, .. } if *condition != Condition::Always => {
                return refused("this origin does no conditional writes");
            }
            What::Put { value, .. } => (1, Some(value.as_slice())),
            What::Remove => (2, None),
            _ => return refused("this origin knows no such operation"),
        };
        if self.query(statement).is_none() {
            return refused("this keyspace has no query for that");
        }
        let known = &self.statements[statement];
        if let Some(text) = &known.refused {
            return Some(Reply::Refused(text.clone()));
        }
        let mut values = vec![ask.key.as_slice()];
        values.extend(value);
        let text_fit = |value: &[u8]| std::str::from_utf8(value).is_ok() && !value.contains(&0);
        let format = |parameter: usize| i16::from(known.parameters.get(parameter) == Some(&BYTEA));
        if values.iter().enumerate().any(|(i, value)| format(i) == 0 && !text_fit(value)) {
            return match statement {
                // No row can have what no text can be.
                0 => Some(Reply::Absent { fresh_millis: None }),
                _ => refused("a key or value that is no text, for a column of text"),
            };
        }
        let mut buf = BytesMut::new();
        let bound = frontend::bind(
            "",
            STATEMENTS[statement],
            (0..values.len()).map(format),
            values,
            |value, buf| {
                buf.extend_from_slice(value);
                Ok(IsNull::No)
            },
            known.columns.iter().map(|&column| i16::from(column == BYTEA)),
            &mut buf,
        );
        if bound.is_err() || frontend::execute("", i32::from(statement == 0), &mut buf).is_err() {
            return refused("a key or value that is too long");
        }
        frontend::sync(&mut buf);
        out.extend_from_slice(&buf);
        self.awaited.push_back(Awaited { ticket, read: statement == 0, reply: None });
        None
    }

    pub(super) fn receive(
        &mut self,
        bytes: &[u8],
        heard: &mut Vec<Heard>,
        out: &mut Vec<u8>,
    ) -> Result<(), Broken> {
        self.input.extend_from_slice(bytes);
        loop {
            let header = backend::Header::parse(&self.input).map_err(|_| Broken::Protocol("a length"))?;
            let Some(header) = header else { return Ok(()) };
            let message_bytes_max = self.limits.value_bytes_max.saturating_add(MESSAGE_SLACK_BYTES);
            if usize::try_from(header.len()).is_ok_and(|len| len > message_bytes_max) {
                return Err(Broken::TooLarge("a message"));
            }
            match Message::parse(&mut self.input) {
                Ok(None) => return Ok(()),
                Ok(Some(message)) => self.hear(message, heard, out)?,
                Err(_) => return Err(Broken::Protocol("a message")),
            }
        }
    }

    fn hear(&mut self, message: Message, heard: &mut Vec<Heard>, out: &mut Vec<u8>) -> Result<(), Broken> {
        match message {
            Message::NoticeResponse(_) | Message::ParameterStatus(_) | Message::BackendKeyData(_) => Ok(()),
            Message::NotificationResponse(body) => {
                let payload = body.message().map_err(|_| Broken::Protocol("a notification"))?;
                heard.push(match payload {
                    "" => Heard::AllChanged,
                    key => Heard::Changed(key.as_bytes().to_vec()),
                });
                Ok(())
            }
            message => match self.stage {
                Stage::Login => self.log_in(message, out),
                Stage::Preparing(statement) => self.prepare(statement, message, out),
                Stage::Listening => match message {
                    Message::ReadyForQuery(_) => {
                        self.stage = Stage::Ready;
                        Ok(())
                    }
                    Message::CommandComplete(_) => Ok(()),
                    _ => Err(Broken::Login),
                },
                Stage::Ready => self.answer(message, heard),
            },
        }
    }

    fn log_in(&mut self, message: Message, out: &mut Vec<u8>) -> Result<(), Broken> {
        let login = self.target.login.clone();
        let (user, password) = match &login {
            Some(login) => (login.user.as_bytes(), login.password.as_bytes()),
            None => (b"postgres".as_slice(), b"".as_slice()),
        };
        let mut buf = BytesMut::new();
        match message {
            Message::AuthenticationOk => {}
            Message::AuthenticationCleartextPassword => {
                frontend::password_message(password, &mut buf).map_err(|_| Broken::Login)?;
            }
            Message::AuthenticationMd5Password(body) => {
                let hash = authentication::md5_hash(user, password, body.salt());
                frontend::password_message(hash.as_bytes(), &mut buf).map_err(|_| Broken::Login)?;
            }
            Message::AuthenticationSasl(body) => {
                let known: Vec<&str> =
                    body.mechanisms().collect().map_err(|_| Broken::Protocol("login mechanisms"))?;
                let has = |name: &str| known.contains(&name);
                let (mechanism, binding) = match self.binding.take() {
                    Some(end_point) if has(sasl::SCRAM_SHA_256_PLUS) => {
                        (sasl::SCRAM_SHA_256_PLUS, sasl::ChannelBinding::tls_server_end_point(end_point))
                    }
                    // Says that we could: a server that can, too, knows then that somebody took its offer out.
                    Some(_) => (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unrequested()),
                    None => (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unsupported()),
                };
                if !has(mechanism) || self.scram.is_some() {
                    return Err(Broken::Login);
                }
                let scram = sasl::ScramSha256::new(password, binding);
                frontend::sasl_initial_response(mechanism, scram.message(), &mut buf)
                    .map_err(|_| Broken::Login)?;
                self.scram = Some(scram);
            }
            Message::AuthenticationSaslContinue(body) => {
                let scram = self.scram.as_mut().ok_or(Broken::Login)?;
                scram.update(body.data()).map_err(|_| Broken::Login)?;
                frontend::sasl_response(scram.message(), &mut buf).map_err(|_| Broken::Login)?;
            }
            Message::AuthenticationSaslFinal(body) => {
                let scram = self.scram.as_mut().ok_or(Broken::Login)?;
                scram.finish(body.data()).map_err(|_| Broken::Login)?;
            }
            Message::ReadyForQuery(_) => self.prepare_next(0, &mut buf)?,
            _ => return Err(Broken::Login),
        }
        out.extend_from_slice(&buf);
        Ok(())
    }

    /// Prepares the first statement from this number on that there is a query for; behind the last goes on to listening.
    fn prepare_next(&mut self, from: usize, buf: &mut BytesMut) -> Result<(), Broken> {
        for (statement, name) in STATEMENTS.iter().enumerate().skip(from) {
            let Some(query) = self.query(statement) else { continue };
            let said =
                frontend::parse(name, query, [], buf).and_then(|()| frontend::describe(b'S', name, buf));
            said.map_err(|_| Broken::Protocol("a query with a zero byte"))?;
            frontend::sync(buf);
            self.stage = Stage::Preparing(statement);
            return Ok(());
        }
        self.stage = Stage::Ready;
        if let (Duty::Listen, Some(channel)) = (self.duty, &self.queries().listen) {
            let channel = postgres_protocol::escape::escape_identifier(channel);
            frontend::query(&format!("LISTEN {channel}"), buf)
                .map_err(|_| Broken::Protocol("a channel with a zero byte"))?;
            self.stage = Stage::Listening;
        }
        Ok(())
    }

    fn prepare(&mut self, statement: usize, message: Message, out: &mut Vec<u8>) -> Result<(), Broken> {
        let known = &mut self.statements[statement];
        let bad = |_| Broken::Protocol("a description");
        match message {
            Message::ParseComplete | Message::NoData => {}
            Message::ParameterDescription(body) => {
                known.parameters = body.parameters().collect().map_err(bad)?
            }
            Message::RowDescription(body) => {
                let mut fields = body.fields();
                while let Some(field) = fields.next().map_err(bad)? {
                    let column = known.columns.len();
                    match field.name() {
                        "value" => known.value = column,
                        "version" => known.version = Some(column),
                        "ttl" => known.ttl = Some(column),
                        _ => {}
                    }
                    known.columns.push(field.type_oid());
                }
            }
            Message::ErrorResponse(body) => known.refused = Some(words(&body)),
            Message::ReadyForQuery(_) => {
                if statement == 0 && known.columns.is_empty() && known.refused.is_none() {
                    known.refused = Some(b"ERR the query gives no column".to_vec());
                }
                let mut buf = BytesMut::new();
                self.prepare_next(statement + 1, &mut buf)?;
                out.extend_from_slice(&buf);
            }
            _ => return Err(Broken::Protocol("a message out of place")),
        }
        Ok(())
    }

    fn answer(&mut self, message: Message, heard: &mut Vec<Heard>) -> Result<(), Broken> {
        let awaited = self.awaited.front_mut().ok_or(Broken::Unasked)?;
        match message {
            Message::BindComplete | Message::PortalSuspended | Message::EmptyQueryResponse => {}
            Message::CommandComplete(body) => {
                let tag = body.tag().map_err(|_| Broken::Protocol("a tag"))?;
                let none = tag.rsplit(' ').next() == Some("0");
                awaited.reply.get_or_insert(match (awaited.read, none) {
                    (true, _) => Reply::Absent { fresh_millis: None },
                    (false, true) => Reply::NotWritten,
                    (false, false) => Reply::Written,
                });
            }
            Message::DataRow(row) if awaited.read => {
                if awaited.reply.is_none() {
                    awaited.reply = Some(found(&self.statements[0], &row)?);
                }
            }
            Message::DataRow(_) => {}
            Message::ErrorResponse(body) => awaited.reply = Some(Reply::Refused(words(&body))),
            Message::ReadyForQuery(_) => {
                let Awaited { ticket, reply, .. } = self.awaited.pop_front().expect("looked at above");
                // A suspended portal that gave no row cannot be.
                heard.push(Heard::Answer(ticket, reply.ok_or(Broken::Protocol("no answer"))?));
            }
            _ => return Err(Broken::Protocol("a message out of place")),
        }
        Ok(())
    }
}

/// What `tls-server-end-point` (RFC 5929) binds to: the certificate's hash by the function of its signature, at least SHA-256.
/// `None` where the signature has no such function.
fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    use sha2::Digest;
    let parsed = x509_cert::Certificate::from_der(certificate).ok()?;
    let hash = match parsed.signature_algorithm.oid.to_string().as_str() {
        // RSA and ECDSA, with MD5 and SHA-1 taken for SHA-256.
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.1"
        | "1.2.840.10045.4.3.2" => sha2::Sha256::digest(certificate).to_vec(),
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => sha2::Sha384::digest(certificate).to_vec(),
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => sha2::Sha512::digest(certificate).to_vec(),
        _ => return None,
    };
    Some(hash)
}

/// A row as a value; one whose value is null is none.
fn found(statement: &Statement, row: &backend::DataRowBody) -> Result<Reply, Broken> {
    let bad = Broken::Protocol("a row");
    let ranges: Vec<_> = row.ranges().collect().map_err(|_| bad)?;
    let cell = |column: usize| -> Result<Option<&[u8]>, Broken> {
        match ranges.get(column).ok_or(bad)? {
            Some(range) => row.buffer().get(range.clone()).map(Some).ok_or(bad),
            None => Ok(None),
        }
    };
    let number = |column: Option<usize>| -> Result<Option<u64>, Broken> {
        let Some(column) = column else { return Ok(None) };
        let text = cell(column)?.and_then(|text| std::str::from_utf8(text).ok());
        // Seconds may come with a fraction.
        Ok(text.and_then(|text| text.split('.').next()?.parse().ok()))
    };
    let Some(value) = cell(statement.value)? else { return Ok(Reply::Absent { fresh_millis: None }) };
    Ok(Reply::Found(Found {
        value: value.to_vec(),
        version: number(statement.version)?.map(Version),
        fresh_millis: number(statement.ttl)?.map(|seconds| seconds.saturating_mul(1000)),
        ..Found::default()
    }))
}

/// The message of an error.
fn words(body: &backend::ErrorResponseBody) -> Vec<u8> {
    let message = body.fields().find(|field| Ok(field.type_() == b'M')).ok().flatten();
    let text = message.map_or(b"an error".to_vec(), |field| field.value_bytes().to_vec());
    match refusal(&[b"ERR the origin said: ".as_slice(), &text].concat()) {
        Reply::Refused(text) => text,
        _ => text,
    }
}
