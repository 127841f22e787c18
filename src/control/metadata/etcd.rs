//! Metadata in etcd, 3.4 or 3.5.
//!
//! 1. Every question has its time. A transaction whose answer does not come in it, or comes as an error that may hide a change
//!    that was made, is [`Outcome::Unknown`].
//! 2. Listings are etcd's linearizable reads. Watches demand a leader, so that a server that is cut off from the others breaks
//!    them instead of being silent.
//! 3. Links that say nothing are given up after a while: a server that is stopped closes nothing.
//! 4. Many questions are on the way at a time, in no order among one another; whoever needs an order waits for answers.

use super::{Ask, Told};
use crate::metadata::{
    Compacted, Entry, Event, Invalid, Kept, LeaseId, Listing, Outcome, Past, Range, Refused, Revision,
    Stands, Txn,
};
use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, Error, EventType, GetOptions, KeyValue, PutOptions, TxnOp,
    TxnOpResponse, WatchOptions,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

/// Longest that a question may take.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(2);
/// Longest that making a connection may take.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(1);
/// A link is asked whether it lives so often, and given up when it does not answer in the other time.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PING_TIME_MAX: Duration = Duration::from_secs(3);
/// Pause before a client is made again that could not be made.
const CLIENT_PAUSE: Duration = Duration::from_secs(1);
/// Questions on the way at a time; others wait in the queue of asks.
const IN_FLIGHT_MAX: usize = 64;
/// Watches at a time; one more breaks at once.
const WATCHES_MAX: usize = 256;
/// Longest answer that is taken. All of a cluster's metadata is some hundred KiB.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Addresses as they are dialled, or the one that is none.
pub(super) fn check(addresses: Vec<String>) -> Result<Vec<String>, String> {
    let valid = |address: &String| {
        let parts = address.rsplit_once(':');
        parts.is_some_and(|(host, port)| {
            !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok()
        })
    };
    match addresses.iter().find(|address| !valid(address)) {
        None if addresses.is_empty() => Err(String::new()),
        None => Ok(addresses),
        Some(wrong) => Err(wrong.clone()),
    }
}

/// Serves until nobody can ask any more.
pub(super) async fn serve(addresses: Vec<String>, mut asks: mpsc::Receiver<Ask>) {
    let Some(client) = client(&addresses, &mut asks).await else { return };
    let (in_flight, watches) =
        (Arc::new(Semaphore::new(IN_FLIGHT_MAX)), Arc::new(Semaphore::new(WATCHES_MAX)));
    while let Some(ask) = asks.recv().await {
        let client = client.clone();
        if let Ask::Watch(range, after, teller) = ask {
            if let Ok(permit) = watches.clone().try_acquire_owned() {
                tokio::task::spawn_local(async move {
                    watch(client, range, after, teller).await;
                    drop(permit);
                });
            }
            continue;
        }
        let permit = in_flight.clone().acquire_owned().await.expect("it is never closed");
        tokio::task::spawn_local(async move {
            answer(client, ask).await;
            drop(permit);
        });
    }
}

/// A client, made without asking any server. Questions that come while it cannot be made are not answered.
async fn client(addresses: &[String], asks: &mut mpsc::Receiver<Ask>) -> Option<Client> {
    loop {
        let options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_TIME_MAX)
            .with_keep_alive(PING_INTERVAL, PING_TIME_MAX)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true);
        match Client::connect(addresses, Some(options)).await {
            Ok(client) => return Some(client),
            Err(error) => tracing::warn!(%error, ?addresses, "there is no client of etcd yet"),
        }
        let pause = tokio::time::sleep(CLIENT_PAUSE);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => break,
                ask = asks.recv() => drop(ask?),
            }
        }
    }
}

/// Asks, and passes the answer on. Where there is none the reply is dropped, which tells as much.
async fn answer(client: Client, ask: Ask) {
    match ask {
        Ask::Txn(request, reply) => tell(reply, txn(client, request).await),
        Ask::List(range, reply) => {
            if let Some(listing) = list(client, range).await {
                tell(reply, listing);
            }
        }
        Ask::Grant(ttl_millis, reply) => {
            let seconds = i64::try_from(ttl_millis.div_ceil(1000)).unwrap_or(i64::MAX);
            let granted = timeout(REQUEST_TIME_MAX, client.lease_client().grant(seconds, None)).await;
            if let Ok(Ok(granted)) = granted {
                tell(reply, LeaseId(granted.id().cast_unsigned()));
            }
        }
        Ask::Keep(lease, reply) => {
            let kept = timeout(REQUEST_TIME_MAX, keep(client, lease)).await;
            tell(reply, kept.unwrap_or(Kept::Unknown));
        }
        Ask::Revoke(lease, reply) => {
            let revoked =
                timeout(REQUEST_TIME_MAX, client.lease_client().revoke(lease.0.cast_signed())).await;
            let over = match &revoked {
                Ok(Ok(_)) => true,
                Ok(Err(error)) => is_not_found(error),
                Err(_) => false,
            };
            if over {
                tell(reply, ());
            }
        }
        Ask::Watch(..) => unreachable!("watches have tasks of their own"),
    }
}

fn tell<T>(reply: oneshot::Sender<T>, answer: T) {
    // Whoever asked may have gone away meanwhile.
    let _ = reply.send(answer);
}

async fn txn(client: Client, request: Txn) -> Outcome {
    let Txn { compares, puts, deletes } = request;
    let looks: Vec<TxnOp> = compares.iter().map(|compare| TxnOp::get(compare.key.clone(), None)).collect();
    let when: Vec<Compare> = compares
        .into_iter()
        .map(|compare| {
            // To etcd, what does not stand was modified by revision 0.
            let modified = match compare.stands {
                Stands::Absent => 0,
                Stands::At(Revision(revision)) => revision.cast_signed(),
            };
            Compare::mod_revision(compare.key, CompareOp::Equal, modified)
        })
        .collect();
    let puts = puts.into_iter().map(|put| {
        let options = put.lease.map(|lease| PutOptions::new().with_lease(lease.0.cast_signed()));
        TxnOp::put(put.key, put.value, options)
    });
    let writes: Vec<TxnOp> = puts.chain(deletes.into_iter().map(|key| TxnOp::delete(key, None))).collect();
    let request = etcd_client::Txn::new().when(when).and_then(writes).or_else(looks);
    let response = match timeout(REQUEST_TIME_MAX, client.kv_client().txn(request)).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return outcome_of(&error),
        Err(_) => return Outcome::Unknown,
    };
    let Some(at) = response.header().map(|header| Revision(header.revision().cast_unsigned())) else {
        return Outcome::Unknown;
    };
    if response.succeeded() {
        return Outcome::Done(at);
    }
    let there = response.op_responses().into_iter().map(|response| match response {
        TxnOpResponse::Get(got) => got.kvs().first().map(entry),
        _ => None,
    });
    Outcome::Refused(Refused { at, there: there.collect() })
}

/// What an error says of a transaction. Only what etcd answers before it agrees upon anything means that nothing was done.
fn outcome_of(error: &Error) -> Outcome {
    let Error::GRpcStatus(status) = error else { return Outcome::Unknown };
    match status.code() as i32 {
        NOT_FOUND => Outcome::Invalid(Invalid::Lease),
        RESOURCE_EXHAUSTED if status.message().contains("space") => Outcome::Invalid(Invalid::Full),
        RESOURCE_EXHAUSTED => Outcome::NotSent,
        INVALID_ARGUMENT | PERMISSION_DENIED | OUT_OF_RANGE | UNAUTHENTICATED => {
            Outcome::Invalid(Invalid::Other)
        }
        _ => Outcome::Unknown,
    }
}

/// Codes of gRPC, by their numbers: the crate that names them is not a dependency of ours.
const INVALID_ARGUMENT: i32 = 3;
const NOT_FOUND: i32 = 5;
const PERMISSION_DENIED: i32 = 7;
const RESOURCE_EXHAUSTED: i32 = 8;
const OUT_OF_RANGE: i32 = 11;
const UNAUTHENTICATED: i32 = 16;

fn is_not_found(error: &Error) -> bool {
    matches!(error, Error::GRpcStatus(status) if status.code() as i32 == NOT_FOUND)
}

fn entry(found: &KeyValue) -> Entry {
    Entry {
        key: found.key().to_vec(),
        value: found.value().to_vec(),
        created: Revision(found.create_revision().cast_unsigned()),
        modified: Revision(found.mod_revision().cast_unsigned()),
        lease: Some(found.lease()).filter(|lease| *lease != 0).map(|lease| LeaseId(lease.cast_unsigned())),
    }
}

async fn list(client: Client, range: Range) -> Option<Listing> {
    let options = match range.to {
        Some(to) => GetOptions::new().with_range(to),
        None => GetOptions::new().with_from_key(),
    };
    let mut kv = client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX);
    let got = timeout(REQUEST_TIME_MAX, kv.get(first_key(range.from), Some(options))).await.ok()?.ok()?;
    let at = Revision(got.header()?.revision().cast_unsigned());
    Some(Listing { at, entries: got.kvs().iter().map(entry).collect() })
}

/// The empty key is none to etcd; the one of a zero byte is the first that there can be.
fn first_key(from: Vec<u8>) -> Vec<u8> {
    if from.is_empty() { vec![0] } else { from }
}

/// A renewal. What the crate says of a lease that is over is an error of its own, with a text only.
async fn keep(client: Client, lease: LeaseId) -> Kept {
    match client.lease_client().keep_alive(lease.0.cast_signed()).await {
        Ok(_) => Kept::Renewed,
        Err(Error::LeaseKeepAliveError(text)) if text.contains("not found") => Kept::Over,
        Err(error) if is_not_found(&error) => Kept::Over,
        Err(_) => Kept::Unknown,
    }
}

/// Tells what happens until nobody listens or the watch breaks.
async fn watch(client: Client, range: Range, after: Revision, teller: mpsc::Sender<Told>) {
    let options =
        WatchOptions::new().with_start_revision(after.next().0.cast_signed()).with_progress_notify();
    let options = match range.to {
        Some(to) => options.with_range(to),
        None => options.with_from_key(),
    };
    let mut watches = client.watch_client().max_decoding_message_size(ANSWER_BYTES_MAX);
    let created = timeout(REQUEST_TIME_MAX, watches.watch(first_key(range.from), Some(options))).await;
    let Ok(Ok(mut stream)) = created else { return };
    loop {
        let response = tokio::select! {
            response = stream.message() => response,
            () = teller.closed() => return,
        };
        let Ok(Some(response)) = response else { return };
        let told = if response.compact_revision() > 0 {
            Told::Compacted(Compacted { to: Revision(response.compact_revision().cast_unsigned() - 1) })
        } else if response.canceled() {
            return;
        } else if response.created() {
            // Its revision is the table's, of which nothing was told yet.
            continue;
        } else {
            let events: Vec<Event> = response.events().iter().filter_map(event).collect();
            // A message without events says that all before its revision were told.
            let header = || response.header().map(|header| Revision(header.revision().cast_unsigned()));
            let Some(at) = events.last().map(Event::at).or_else(header) else { return };
            Told::Events(Past { events, at })
        };
        let last = matches!(told, Told::Compacted(_));
        if teller.send(told).await.is_err() || last {
            return;
        }
    }
}

fn event(event: &etcd_client::Event) -> Option<Event> {
    let found = event.kv()?;
    Some(match event.event_type() {
        EventType::Put => Event::Put(entry(found)),
        EventType::Delete => {
            Event::Gone { key: found.key().to_vec(), at: Revision(found.mod_revision().cast_unsigned()) }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_hosts_with_ports() {
        let checked =
            |addresses: &[&str]| check(addresses.iter().map(|address| (*address).to_owned()).collect());
        assert!(checked(&["127.0.0.1:2379", "etcd-1.internal:2379", "[::1]:2379"]).is_ok());
        for wrong in ["127.0.0.1", ":2379", "host:", "host:99999", "http://host:2379"] {
            assert_eq!(checked(&["a:1", wrong]), Err(wrong.to_owned()));
        }
        assert_eq!(checked(&[]), Err(String::new()));
    }
}
