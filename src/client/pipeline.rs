//! Requests that are sent together, and their replies.

use super::link::{Link, Pending, fault};
use super::shards::Shards;
use super::{Client, Error, Item, Lease, Leased, Meta, PutOptions, UNFIT, Unsendable, Written, millis};
use crate::ids::Version;
use crate::wire::native::frame::{self, BatchWriter, KEY_BYTES_MAX, Opcode, Request, Status, lease};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Requests that a pipeline can hold, items of batches counted each; further ones are refused by
/// [`Unsendable::PipelineFull`].
pub const PIPELINE_REQUESTS_MAX: usize = 1 << 20;
/// Bytes after which a batch is ended and another begun: a server holds a batch with checksum whole.
const BATCH_BYTES: usize = 4 << 20;
/// Longest value that goes into a batch; longer ones get frames of their own.
const BATCH_VALUE_BYTES_MAX: usize = 1 << 20;

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Of a ping.
    Pong,
    /// An item was found.
    Item(Item),
    /// There is no item.
    Missing,
    /// The version known is the newest.
    NotNewer(Meta),
    /// Of a read under lease.
    Leased(Leased),
    /// Of a put.
    Written(Written),
    /// The time to live was changed.
    Touched(Meta),
    /// The item was removed, or left as out of date.
    Removed,
    /// What a prefix or a tag names was removed: so many items at once, summed over the cores; those of a prefix are not counted.
    Forgotten(u64),
    /// Counters, summed over the cores.
    Stats(BTreeMap<String, u64>),
    /// Of a question for the map.
    Map(Box<Shards>),
    /// The map known is the newest.
    MapSame,
}

type Answer = Result<Reply, Error>;

/// Requests to be sent together. What was added is forgotten if [`Pipeline::run`] is not called.
pub struct Pipeline<'c> {
    client: &'c mut Client,
    answers: Vec<Option<Answer>>,
    /// How long `run` may take.
    patience: Duration,
}

impl Drop for Pipeline<'_> {
    fn drop(&mut self) {
        self.client.links.iter_mut().for_each(Link::clear);
    }
}

impl<'c> Pipeline<'c> {
    pub(super) fn new(client: &'c mut Client, patience: Duration) -> Self {
        Pipeline { client, answers: Vec::new(), patience }
    }

    /// Number of requests in it, items of batches counted each.
    pub fn len(&self) -> usize {
        self.answers.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }

    /// Asks for a sign of life: [`Reply::Pong`].
    pub fn ping(&mut self) {
        self.add(0, &Request::Ping(b""));
    }

    /// Reads: [`Reply::Item`] or [`Reply::Missing`].
    pub fn get(&mut self, key: &[u8]) {
        self.add_keyed(key, &Request::Get(key));
    }

    /// Reads if newer: [`Reply::Item`], [`Reply::NotNewer`] or [`Reply::Missing`].
    pub fn get_newer(&mut self, key: &[u8], than: Version) {
        self.add_keyed(key, &Request::GetNewer { key, than });
    }

    /// Reads under lease: [`Reply::Leased`]. See [`Client::lease_get`].
    pub fn lease_get(&mut self, key: &[u8], hold: Duration) {
        let hold = hold.as_millis().min(u128::from(frame::LEASE_MILLIS_MAX)) as u32;
        self.add_keyed(key, &Request::LeaseGet { key, lease_millis: hold });
    }

    /// Stores: [`Reply::Written`].
    pub fn put(&mut self, key: &[u8], value: &[u8], options: PutOptions) {
        match value.len() > frame::BODY_BYTES_MAX as usize / 2 {
            true => self.refuse(Unsendable::ValueLong),
            false => self.add_keyed(key, &Request::Put(options.framed(key, value))),
        }
    }

    /// Stores under a lease: [`Reply::Written`].
    pub fn lease_put(&mut self, key: &[u8], lease: Lease, value: &[u8], ttl: Option<Duration>) {
        let options = PutOptions { ttl, only: super::Only::IfVersion(lease.version), ..PutOptions::PLAIN };
        match value.len() > frame::BODY_BYTES_MAX as usize / 2 {
            true => self.refuse(Unsendable::ValueLong),
            false => self.add_keyed(key, &Request::LeasePut(options.framed(key, value))),
        }
    }

    /// Changes the time to live: [`Reply::Touched`] or [`Reply::Missing`].
    pub fn touch(&mut self, key: &[u8], ttl: Option<Duration>) {
        self.add_keyed(key, &Request::Touch { key, ttl_millis: millis(ttl) });
    }

    /// Removes: [`Reply::Removed`] or [`Reply::Missing`].
    pub fn invalidate(&mut self, key: &[u8]) {
        self.add_keyed(key, &Request::Invalidate { key, stale: false });
    }

    /// Leaves as out of date: [`Reply::Removed`] or [`Reply::Missing`].
    pub fn invalidate_stale(&mut self, key: &[u8]) {
        self.add_keyed(key, &Request::Invalidate { key, stale: true });
    }

    /// Removes all items whose keys begin so (the empty prefix: all): [`Reply::Forgotten`].
    pub fn invalidate_prefix(&mut self, prefix: &[u8]) {
        match prefix.len() > KEY_BYTES_MAX {
            true => self.refuse(Unsendable::KeyLong),
            false => self.add(0, &Request::InvalidateAll { name: prefix, tag: false }),
        }
    }

    /// Removes all items that an origin put under a tag: [`Reply::Forgotten`].
    pub fn invalidate_tag(&mut self, tag: &[u8]) {
        match refusal(tag) {
            Some(why) => self.refuse(why),
            None => self.add(0, &Request::InvalidateAll { name: tag, tag: true }),
        }
    }

    /// Asks for the counters: [`Reply::Stats`].
    pub fn stats(&mut self) {
        self.add(0, &Request::Stats);
    }

    pub(super) fn map(&mut self, known_epoch: u64) {
        self.add(0, &Request::Map { known_epoch });
    }

    /// Reads many, by a batch per core; a reply for each key, in their order.
    pub fn get_many<'k>(&mut self, keys: impl IntoIterator<Item = &'k [u8]>) {
        self.batch(Opcode::GetMany, keys.into_iter().map(|key| (key, &b""[..])), None);
    }

    /// Stores many, by a batch per core; a reply for each item, in their order.
    pub fn put_many<'k>(
        &mut self,
        items: impl IntoIterator<Item = (&'k [u8], &'k [u8])>,
        ttl: Option<Duration>,
    ) {
        self.batch(Opcode::PutMany, items.into_iter(), ttl);
    }

    /// Removes many, by a batch per core; a reply for each key, in their order.
    pub fn invalidate_many<'k>(&mut self, keys: impl IntoIterator<Item = &'k [u8]>) {
        self.batch(Opcode::InvalidateMany, keys.into_iter().map(|key| (key, &b""[..])), None);
    }

    fn refuse(&mut self, why: Unsendable) {
        self.answers.push(Some(Err(Error::Unsendable(why))));
    }

    fn add_keyed(&mut self, key: &[u8], request: &Request<'_>) {
        match refusal(key) {
            Some(why) => self.refuse(why),
            None => self.add(self.client.link_of(key), request),
        }
    }

    fn add(&mut self, link: usize, request: &Request<'_>) {
        if self.answers.len() >= PIPELINE_REQUESTS_MAX {
            return self.refuse(Unsendable::PipelineFull);
        }
        let link = &mut self.client.links[link];
        let start = link.out.len();
        request.encode(link.pending.len() as u32, self.client.options.crc, &mut link.out);
        link.pending.push(Pending {
            frame: start..link.out.len(),
            opcode: request.opcode() as u8,
            places: vec![self.answers.len()],
            left: 1,
            repeatable: !matches!(request, Request::Put(_) | Request::LeasePut(_)),
        });
        self.answers.push(None);
    }

    fn batch<'k>(
        &mut self,
        opcode: Opcode,
        items: impl Iterator<Item = (&'k [u8], &'k [u8])>,
        ttl: Option<Duration>,
    ) {
        let crc = self.client.options.crc;
        let meta = frame::Meta { ttl_millis: millis(ttl), ..frame::Meta::PLAIN };
        // The batch that each link has open.
        let mut open: Vec<Option<Started>> = self.client.links.iter().map(|_| None).collect();
        for (key, value) in items {
            let full = (self.answers.len() >= PIPELINE_REQUESTS_MAX).then_some(Unsendable::PipelineFull);
            if let Some(why) = full.or_else(|| refusal(key)) {
                self.refuse(why);
                continue;
            }
            let place = self.client.link_of(key);
            let link = &mut self.client.links[place];
            let full =
                |started: &Started| started.writer.is_full() || link.out.len() - started.start > BATCH_BYTES;
            let alone = value.len() > BATCH_VALUE_BYTES_MAX;
            if let Some(started) = open[place].take_if(|started| alone || full(started)) {
                started.end(opcode, link);
            }
            if alone {
                self.put(key, value, PutOptions { ttl, ..PutOptions::PLAIN });
                continue;
            }
            let started = open[place].get_or_insert_with(|| Started {
                start: link.out.len(),
                writer: BatchWriter::begin(opcode, link.pending.len() as u32, crc, &mut link.out),
                places: Vec::new(),
            });
            match opcode {
                Opcode::PutMany => started.writer.item(key, value, &meta, &mut link.out),
                _ => started.writer.key(key, &mut link.out),
            }
            started.places.push(self.answers.len());
            self.answers.push(None);
        }
        for (started, link) in open.into_iter().zip(&mut self.client.links) {
            if let Some(started) = started {
                started.end(opcode, link);
            }
        }
    }

    /// Sends everything and waits for the replies; they come in the order the requests were added.
    ///
    /// Each request has its own result: one lost connection to a core of several fails only what went there.
    pub fn run(mut self) -> Vec<Result<Reply, Error>> {
        let deadline = Instant::now() + self.patience;
        let client = &mut *self.client;
        let busy: Vec<usize> =
            (0..client.links.len()).filter(|&place| !client.links[place].pending.is_empty()).collect();
        // Everything is on its way before anything is waited for.
        let sent: Vec<Result<(), Error>> = busy
            .iter()
            .map(|&place| {
                let link = &mut client.links[place];
                link.connect(&client.options, deadline)?;
                let whole = 0..link.out.len();
                link.send(&[whole], deadline)
            })
            .collect();
        for (&place, sent) in busy.iter().zip(sent) {
            let link = &mut client.links[place];
            let mut came =
                sent.and_then(|()| receive(link, &mut self.answers, &mut client.map_is_old, deadline));
            if let Err(Error::Lost(_)) = came {
                came =
                    repeat(link, &mut self.answers, &mut client.map_is_old, &client.options, deadline, came);
            }
            if let Err(error) = came {
                link.close();
                for pending in &link.pending {
                    for &place in &pending.places {
                        // Of what came from some cores, the rest is missing.
                        if pending.left > 0 {
                            let answer = &mut self.answers[place];
                            if answer.is_none() || is_of_all_cores(pending.opcode) {
                                *answer = Some(Err(error.clone()));
                            }
                        }
                    }
                }
            }
        }
        let answers = std::mem::take(&mut self.answers);
        answers.into_iter().map(|answer| answer.unwrap_or(Err(UNFIT))).collect()
    }

    /// As [`Pipeline::run`] with one request.
    pub(super) fn one(self) -> Result<Reply, Error> {
        self.run().pop().unwrap_or(Err(UNFIT))
    }
}

/// A batch being written to a link.
struct Started {
    start: usize,
    writer: BatchWriter,
    places: Vec<usize>,
}

impl Started {
    fn end(self, opcode: Opcode, link: &mut Link) {
        self.writer.end(&mut link.out);
        link.pending.push(Pending {
            frame: self.start..link.out.len(),
            opcode: opcode as u8,
            left: self.places.len(),
            places: self.places,
            repeatable: opcode != Opcode::PutMany,
        });
    }
}

/// Whether a reply has a frame from each core, to be added up.
fn is_of_all_cores(opcode: u8) -> bool {
    matches!(Opcode::of(opcode), Some(Opcode::Stats | Opcode::InvalidateAll))
}

fn refusal(key: &[u8]) -> Option<Unsendable> {
    match key.len() {
        0 => Some(Unsendable::KeyEmpty),
        len if len > KEY_BYTES_MAX => Some(Unsendable::KeyLong),
        _ => None,
    }
}

/// Takes replies until all that is pending is answered.
fn receive(
    link: &mut Link,
    answers: &mut [Option<Answer>],
    map_is_old: &mut bool,
    deadline: Instant,
) -> Result<(), Error> {
    let mut left = link.pending.iter().filter(|pending| pending.left > 0).count();
    let mut pending = std::mem::take(&mut link.pending);
    let mut step = || -> Result<(), Error> {
        while left > 0 {
            let reply = link.receive(deadline)?;
            *map_is_old |= reply.new_map;
            if reply.status.closes() {
                return Err(fault(&reply));
            }
            let Some(pending) = pending.get_mut(reply.id as usize) else { return Err(UNFIT) };
            if pending.opcode != reply.opcode || pending.left == 0 {
                return Err(UNFIT);
            }
            take(pending, &reply, answers)?;
            left -= usize::from(pending.left == 0);
        }
        Ok(())
    };
    let came = step();
    link.pending = pending;
    came
}

/// Puts a reply where it belongs.
fn take(
    pending: &mut Pending,
    reply: &frame::Reply<'_>,
    answers: &mut [Option<Answer>],
) -> Result<(), Error> {
    let batch = Opcode::of(pending.opcode).is_some_and(Opcode::is_batch);
    if batch && !reply.more && pending.left > 1 {
        // The server broke the batch off: this stands for all that has no answer.
        for &place in &pending.places {
            answers[place].get_or_insert_with(|| Err(fault(reply)));
        }
        pending.left = 0;
        return Ok(());
    }
    let place = *pending.places.get(if batch { usize::from(reply.detail) } else { 0 }).ok_or(UNFIT)?;
    let answer = &mut answers[place];
    if is_of_all_cores(pending.opcode) {
        pending.left = usize::from(reply.more);
        return add_up(answer, reply);
    }
    if answer.is_some() || reply.more != (batch && pending.left > 1) {
        return Err(UNFIT);
    }
    *answer = Some(meaning(reply)?);
    pending.left -= 1;
    Ok(())
}

/// Adds what one core says to what those before it said; once one has failed, all has.
fn add_up(answer: &mut Option<Answer>, reply: &frame::Reply<'_>) -> Result<(), Error> {
    if reply.status != Status::OK {
        *answer = Some(Err(fault(reply)));
        return Ok(());
    }
    let stats = reply.opcode == Opcode::Stats as u8;
    let first = || Ok(if stats { Reply::Stats(BTreeMap::new()) } else { Reply::Forgotten(0) });
    match answer.get_or_insert_with(first) {
        Ok(Reply::Stats(sums)) => {
            for line in reply.text().lines() {
                let (name, number) = line.split_once(' ').ok_or(UNFIT)?;
                *sums.entry(name.to_owned()).or_default() += number.parse::<u64>().map_err(|_| UNFIT)?;
            }
        }
        Ok(Reply::Forgotten(sum)) => *sum += reply.forgotten().ok_or(UNFIT)?,
        _ => {}
    }
    Ok(())
}

/// What a reply means to the one who asked. The outer error is the connection's.
fn meaning(reply: &frame::Reply<'_>) -> Result<Answer, Error> {
    if !reply.status.is_answer() {
        return Ok(Err(fault(reply)));
    }
    let meta = || reply.item().map(|(meta, _)| meta).ok_or(UNFIT);
    let item = || {
        let (meta, value) = reply.item().ok_or(UNFIT)?;
        let Meta { version, flags, ttl } = meta.into();
        Ok(Item { value: value.to_vec(), version, flags, ttl })
    };
    let lease = |reply: &frame::Reply<'_>| -> Result<Option<Lease>, Error> {
        Ok((reply.detail & lease::WON != 0).then_some(Lease { version: meta()?.version }))
    };
    Ok(Ok(match (Opcode::of(reply.opcode), reply.status) {
        (Some(Opcode::Ping), Status::OK) => Reply::Pong,
        (Some(Opcode::Get | Opcode::GetNewer | Opcode::GetMany), Status::OK) => Reply::Item(item()?),
        (Some(Opcode::GetNewer), Status::NOT_NEWER) => Reply::NotNewer(meta()?.into()),
        (Some(Opcode::LeaseGet), Status::OK) if reply.detail == 0 => Reply::Leased(Leased::Hit(item()?)),
        (Some(Opcode::LeaseGet), Status::OK) => {
            Reply::Leased(Leased::Old { item: item()?, refill: lease(reply)? })
        }
        (Some(Opcode::LeaseGet), Status::NOT_FOUND) if reply.detail != 0 => {
            Reply::Leased(lease(reply)?.map_or(Leased::Wait, Leased::Fill))
        }
        (Some(Opcode::Put | Opcode::LeasePut | Opcode::PutMany), status) => Reply::Written(match status {
            Status::OK => Written::Stored(reply.stored().ok_or(UNFIT)?),
            Status::EXISTS => Written::Exists,
            Status::NOT_FOUND => Written::Missing,
            Status::VERSION_MISMATCH => Written::OtherVersion,
            Status::LEASE_LOST => Written::LeaseLost,
            _ => return Err(UNFIT),
        }),
        (Some(Opcode::Touch), Status::OK) => Reply::Touched(meta()?.into()),
        (Some(Opcode::Invalidate | Opcode::InvalidateMany), Status::OK) => Reply::Removed,
        (Some(Opcode::Map), Status::OK) => Reply::Map(Box::new(Shards::of(&reply.map().ok_or(UNFIT)?))),
        (Some(Opcode::Map), Status::NOT_NEWER) => Reply::MapSame,
        (_, Status::NOT_FOUND) => Reply::Missing,
        _ => return Err(UNFIT),
    }))
}

/// Makes the connection again and sends once more what does no harm twice; the rest has an unknown outcome.
fn repeat(
    link: &mut Link,
    answers: &mut [Option<Answer>],
    map_is_old: &mut bool,
    options: &super::Options,
    deadline: Instant,
    came: Result<(), Error>,
) -> Result<(), Error> {
    let Err(error) = came else { return came };
    link.close();
    for pending in link.pending.iter_mut().filter(|pending| !pending.repeatable && pending.left > 0) {
        for &place in &pending.places {
            answers[place].get_or_insert_with(|| Err(error.clone()));
        }
        pending.left = 0;
    }
    let mut runs = Vec::new();
    for pending in link.pending.iter_mut().filter(|pending| pending.left > 0) {
        // From the beginning: answers that came are asked for again.
        for &place in &pending.places {
            answers[place] = None;
        }
        pending.left = pending.places.len();
        runs.push(pending.frame.clone());
    }
    if runs.is_empty() {
        return Ok(());
    }
    link.connect(options, deadline)?;
    link.send(&runs, deadline)?;
    receive(link, answers, map_is_old, deadline)
}
