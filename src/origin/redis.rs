//! Our side of a conversation with Redis or Valkey: RESP3, pipelined, with invalidation pushes.
//!
//! 1. `HELLO 3` with the login, `SELECT`, on a listening connection `CLIENT TRACKING ON BCAST` and on one that is a client's own
//!    `CLIENT ID` are sent in one go; the first questions may follow when all are answered.
//! 2. A read is `GET` and `PTTL`, so that what the origin lets expire is not kept longer here.
//! 3. Replies are matched by their order; pushes stand outside of it.
//! 4. In a cluster an answer may be that another node has the key (`MOVED`, `ASK`): handed on as it is, for [`super::cluster`].

use super::resp_frame::{Part, Scan, Scanned, part};
use super::slot_map::Redirection;
use super::target::Login;
use super::{Ask, Broken, Duty, Found, Heard, Inbox, Kind, Limits, Reply, Target, Ticket, What, refusal};
use crate::request::Condition;
use std::collections::VecDeque;
use std::sync::Arc;

/// Questions on the way on one connection.
const PIPELINE_MAX: usize = 64;
/// What is said instead of a redirection that nobody follows.
pub(super) const ONE_NODE_ONLY: &[u8] =
    b"ERR this goes to one node of the origin's cluster only, and the key is at another";
const UNSAID_CLUSTER: &[u8] = b"ERR the origin is a Redis Cluster: say ?cluster=on in its URL";
/// How the reply to a command begins that the login may not do.
const NO_PERMISSION: &[u8] = b"-NOPERM";
/// Bytes of confirmations, and of one long message more.
const CONFIRMS_BYTES_MAX: usize = 4 << 20;

/// One connection's conversation.
pub struct Client {
    target: Arc<Target>,
    limits: Limits,
    duty: Duty,
    inbox: Inbox,
    scan: Scan,
    /// Replies of the greeting still to come.
    greetings: usize,
    begun: bool,
    awaited: VecDeque<(Ticket, Awaited)>,
    /// Whoever asks follows redirections, so that they are handed on.
    follows: bool,
    /// It is one client's own: what is pushed is for that client.
    private: bool,
    /// By which number the origin knows this connection; told to those that are one client's own, if the login may know it.
    number: Option<u64>,
}

/// What a reply will mean.
enum Awaited {
    /// A `GET`; its `PTTL` follows.
    Value {
        asking: bool,
    },
    /// The `PTTL` behind a `GET` that gave this.
    Life(Reply),
    /// A write: `+OK`, or null where the condition did not hold.
    Stored,
    /// How many keys were changed.
    Changed,
    Counted,
    /// A command of a client; the replies before the last are not wanted, but for an error that names another node, or that says
    /// that the login may not do what the last one relies on.
    Raw {
        before: u32,
        error: Option<Vec<u8>>,
    },
    /// `ASKING`: what matters is the answer behind it.
    Asking,
    /// Confirmations of subscriptions still to come, and what came so far.
    Confirms {
        left: u32,
        frames: Vec<u8>,
    },
}

impl Client {
    pub(super) fn new(target: Arc<Target>, limits: Limits, duty: Duty) -> Client {
        Client {
            target,
            limits,
            duty,
            inbox: Inbox::default(),
            scan: Scan::default(),
            greetings: 0,
            begun: false,
            awaited: VecDeque::new(),
            follows: false,
            private: false,
            number: None,
        }
    }

    pub(super) fn follow(&mut self) {
        self.follows = true;
    }

    /// As `new`, for a connection that is one client's own.
    pub(super) fn new_private(target: Arc<Target>, limits: Limits, protocol: u8) -> Client {
        Client { private: true, ..Client::new(target, limits, Duty::Pass { protocol }) }
    }

    /// What the origin calls this connection, as its `CLIENT UNBLOCK` wants to be told.
    pub(super) fn number(&self) -> Option<u64> {
        self.number
    }

    pub(super) fn begin(&mut self, out: &mut Vec<u8>) {
        self.begun = true;
        self.greetings = 1;
        let user = |login: &Login| if login.user.is_empty() { "default".into() } else { login.user.clone() };
        match (&self.target.login, self.duty) {
            // A server of old knows no HELLO, and AUTH with a user only if there are users.
            (Some(login), Duty::Pass { protocol: 2 }) if login.user.is_empty() => {
                command(out, &[b"AUTH", login.password.as_bytes()]);
            }
            (Some(login), Duty::Pass { protocol: 2 }) => {
                command(out, &[b"AUTH", login.user.as_bytes(), login.password.as_bytes()]);
            }
            (None, Duty::Pass { protocol: 2 }) => self.greetings = 0,
            (Some(login), _) => {
                let user = user(login);
                command(out, &[b"HELLO", b"3", b"AUTH", user.as_bytes(), login.password.as_bytes()]);
            }
            (None, _) => command(out, &[b"HELLO", b"3"]),
        }
        let Kind::Redis { database, track, .. } = &self.target.kind else { return };
        if *database > 0 {
            self.greetings += 1;
            command(out, &[b"SELECT", database.to_string().as_bytes()]);
        }
        if self.duty == Duty::Listen {
            self.greetings += 1;
            let mut words: Vec<&[u8]> = vec![b"CLIENT", b"TRACKING", b"ON", b"BCAST"];
            for prefix in track {
                words.extend([b"PREFIX".as_slice(), prefix]);
            }
            command(out, &words);
        }
        if self.private {
            self.greetings += 1;
            command(out, &[b"CLIENT", b"ID"]);
        }
    }

    pub(super) fn ready(&self) -> bool {
        self.begun && self.greetings == 0
    }

    pub(super) fn room(&self) -> usize {
        PIPELINE_MAX - self.awaited.len().min(PIPELINE_MAX)
    }

    pub(super) fn ask(&mut self, ticket: Ticket, ask: &Ask, out: &mut Vec<u8>) -> Option<Reply> {
        let key = ask.key.as_slice();
        let (what, asking) = match &ask.what {
            What::Asking(what) => (&**what, true),
            what => (what, false),
        };
        let begin = out.len();
        let awaited = match what {
            What::Read { .. } => {
                command(out, &[b"GET", key]);
                if asking {
                    command(out, &[b"ASKING"]);
                }
                command(out, &[b"PTTL", key]);
                Awaited::Value { asking }
            }
            What::Put { value, live_millis, condition, flags: _ } => {
                let condition: &[&[u8]] = match condition {
                    Condition::Always => &[],
                    Condition::Absent => &[b"NX"],
                    Condition::Present | Condition::Held => &[b"XX"],
                    Condition::VersionIs(_) | Condition::VersionIsOrStale(_) => {
                        return Some(Reply::Refused(b"ERR this origin knows no versions".to_vec()));
                    }
                };
                let millis = live_millis.map(|millis| millis.max(1).to_string());
                let mut words = vec![b"SET".as_slice(), key, value];
                if let Some(millis) = &millis {
                    words.extend([b"PX".as_slice(), millis.as_bytes()]);
                }
                words.extend(condition);
                command(out, &words);
                Awaited::Stored
            }
            What::Remove => {
                command(out, &[b"DEL", key]);
                Awaited::Changed
            }
            What::Count { by } => {
                command(out, &[b"INCRBY", key, by.to_string().as_bytes()]);
                Awaited::Counted
            }
            What::Expire { live_millis } => {
                match live_millis {
                    Some(millis) => command(out, &[b"PEXPIRE", key, millis.to_string().as_bytes()]),
                    None => command(out, &[b"PERSIST", key]),
                }
                Awaited::Changed
            }
            What::Command { bytes, replies } => {
                out.extend_from_slice(bytes);
                Awaited::Raw { before: replies.saturating_sub(1), error: None }
            }
            What::Asking(_) => unreachable!("questions are redirected one step at a time"),
            What::Subscribe { bytes, confirms } => {
                out.extend_from_slice(bytes);
                Awaited::Confirms { left: (*confirms).max(1), frames: Vec::new() }
            }
        };
        if asking {
            let said = out.split_off(begin);
            command(out, &[b"ASKING"]);
            out.extend_from_slice(&said);
            self.awaited.push_back((ticket, Awaited::Asking));
        }
        self.awaited.push_back((ticket, awaited));
        None
    }

    pub(super) fn receive(&mut self, bytes: &[u8], heard: &mut Vec<Heard>) -> Result<(), Broken> {
        self.inbox.push(bytes);
        let mut inbox = std::mem::take(&mut self.inbox);
        while inbox.worth_looking() {
            match self.scan.go_on(inbox.rest(), self.limits)? {
                Scanned::More(needed) => {
                    inbox.need(needed);
                    break;
                }
                Scanned::Whole(len) => {
                    self.hear(&inbox.rest()[..len], heard)?;
                    inbox.consume(len);
                }
            }
        }
        self.inbox = inbox;
        Ok(())
    }

    /// Takes in a whole frame.
    fn hear(&mut self, frame: &[u8], heard: &mut Vec<Heard>) -> Result<(), Broken> {
        let (first, rest) = part(frame).ok_or(Broken::Protocol("a value"))?;
        match first {
            Part::Push(_) if self.private => return self.overhear(frame, rest, heard),
            Part::Push(_) => return changes(rest, heard),
            // RESP2 has no pushes: an array is one where no reply is awaited, and where what is awaited are confirmations.
            Part::Many(_) if self.private && self.duty == (Duty::Pass { protocol: 2 }) => {
                if matches!(self.awaited.front(), None | Some((_, Awaited::Confirms { .. }))) {
                    return self.overhear(frame, rest, heard);
                }
            }
            _ => {}
        }
        if self.greetings > 0 {
            self.greetings -= 1;
            return match first {
                // A login that may not ask for it may do all else.
                Part::Error(_) if self.private && self.greetings == 0 => Ok(()),
                Part::Integer(number) if self.private && self.greetings == 0 => {
                    self.number = u64::try_from(number).ok();
                    Ok(())
                }
                Part::Error(_) => Err(Broken::Login),
                _ => Ok(()),
            };
        }
        let (ticket, awaited) = self.awaited.pop_front().ok_or(Broken::Unasked)?;
        let reply = match (awaited, first) {
            (Awaited::Asking, _) => return Ok(()),
            // A transaction that came to the wrong node was not done.
            (Awaited::Raw { before: 0, error: Some(error) }, Part::Error(text))
                if text.starts_with(b"EXECABORT") && !error.starts_with(NO_PERMISSION) =>
            {
                Reply::Raw(error)
            }
            // Of a transaction it would have been `EXECABORT`.
            (Awaited::Raw { before: 0, error: Some(error) }, Part::Integer(_) | Part::Many(_))
                if error.starts_with(NO_PERMISSION) =>
            {
                Reply::Raw(error)
            }
            (Awaited::Raw { before: 0, .. }, _) => Reply::Raw(frame.to_vec()),
            (Awaited::Raw { before, error }, first) => {
                let counts = match first {
                    Part::Error(text) => {
                        let names_another = Redirection::read(text).is_some_and(|it| !it.once);
                        names_another || frame.starts_with(NO_PERMISSION)
                    }
                    _ => false,
                };
                let error = error.or_else(|| counts.then(|| frame.to_vec()));
                self.awaited.push_front((ticket, Awaited::Raw { before: before - 1, error }));
                return Ok(());
            }
            (Awaited::Value { asking }, first) => {
                let reply = match first {
                    Part::Bulk(value) => Reply::Found(Found { value: value.to_vec(), ..Found::default() }),
                    Part::Null => Reply::Absent { fresh_millis: None },
                    Part::Error(text) => refusal(text),
                    _ => return Err(Broken::Protocol("an answer to GET")),
                };
                self.awaited.push_front((ticket, Awaited::Life(reply)));
                if asking {
                    self.awaited.push_front((ticket, Awaited::Asking));
                }
                return Ok(());
            }
            // The key went to another node between the two questions.
            (Awaited::Life(Reply::Found(_)), Part::Error(text)) if Redirection::read(text).is_some() => {
                refusal(text)
            }
            (Awaited::Life(Reply::Found(found)), Part::Integer(life)) => match life {
                // Gone between the two: as if it had never been there.
                i64::MIN..=-2 | 0 => Reply::Absent { fresh_millis: None },
                -1 => Reply::Found(found),
                1.. => Reply::Found(Found { fresh_millis: Some(life as u64), ..found }),
            },
            (Awaited::Life(reply), _) => reply,
            (Awaited::Confirms { .. }, Part::Error(_)) => Reply::Raw(frame.to_vec()),
            (_, Part::Error(text)) => refusal(text),
            (Awaited::Stored, Part::Null) => Reply::NotWritten,
            (Awaited::Stored, Part::Text(_)) => Reply::Written,
            (Awaited::Changed, Part::Integer(0)) => Reply::NotWritten,
            (Awaited::Changed, Part::Integer(_)) => Reply::Written,
            (Awaited::Counted, Part::Integer(number)) => Reply::Counted(number),
            _ => return Err(Broken::Protocol("an answer of the wrong kind")),
        };
        let redirects = match &reply {
            Reply::Refused(text) => Redirection::read(text).is_some(),
            Reply::Raw(bytes) => {
                bytes.strip_prefix(b"-").is_some_and(|text| Redirection::read(text).is_some())
            }
            _ => false,
        };
        // A client would follow it, past us.
        let reply = match (redirects && !self.follows, &self.target.kind) {
            (false, _) => reply,
            (true, Kind::Redis { cluster: true, .. }) => Reply::Refused(ONE_NODE_ONLY.to_vec()),
            (true, _) => Reply::Refused(UNSAID_CLUSTER.to_vec()),
        };
        heard.push(Heard::Answer(ticket, reply));
        Ok(())
    }
}

impl Client {
    /// Takes in what is pushed to the client whose own connection this is: the confirmations that it awaits, with what is
    /// published between them, are its reply, all else it is handed as it comes.
    fn overhear(&mut self, frame: &[u8], inside: &[u8], heard: &mut Vec<Heard>) -> Result<(), Broken> {
        let bad = Broken::Protocol("a push");
        let (Part::Bulk(kind) | Part::Text(kind), _) = part(inside).ok_or(bad)? else { return Err(bad) };
        let Some((ticket, Awaited::Confirms { left, frames })) = self.awaited.front_mut() else {
            heard.push(Heard::Pushed(frame.to_vec()));
            return Ok(());
        };
        if frames.len() + frame.len() > self.limits.value_bytes_max.saturating_add(CONFIRMS_BYTES_MAX) {
            return Err(Broken::TooLarge("what comes between confirmations"));
        }
        frames.extend_from_slice(frame);
        *left -= u32::from(kind.ends_with(b"subscribe"));
        if *left == 0 {
            heard.push(Heard::Answer(*ticket, Reply::Raw(std::mem::take(frames))));
            self.awaited.pop_front();
        }
        Ok(())
    }
}

/// A push: of `invalidate` the keys, of any other kind nothing.
fn changes(push: &[u8], heard: &mut Vec<Heard>) -> Result<(), Broken> {
    let bad = Broken::Protocol("a push");
    let (Part::Bulk(kind) | Part::Text(kind), rest) = part(push).ok_or(bad)? else { return Err(bad) };
    if kind != b"invalidate" {
        return Ok(());
    }
    let (keys, mut rest) = part(rest).ok_or(bad)?;
    match keys {
        Part::Null => heard.push(Heard::AllChanged),
        Part::Many(count) => {
            for _ in 0..count {
                let (Part::Bulk(key), behind) = part(rest).ok_or(bad)? else { return Err(bad) };
                heard.push(Heard::Changed(key.to_vec()));
                rest = behind;
            }
        }
        _ => return Err(bad),
    }
    Ok(())
}

/// Appends a command.
fn command(out: &mut Vec<u8>, words: &[&[u8]]) {
    let mut digits = itoa::Buffer::new();
    out.push(b'*');
    out.extend_from_slice(digits.format(words.len()).as_bytes());
    out.extend_from_slice(b"\r\n");
    for word in words {
        out.push(b'$');
        out.extend_from_slice(digits.format(word.len()).as_bytes());
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}
