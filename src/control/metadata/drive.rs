//! What keeps the state machines of [`crate::metadata`] going: asks what they want and tells them the answers.

use super::{Metadata, Told};
use crate::clock::Mono;
use crate::metadata::{Change, Entry, Need, Next, Range, Revision, Session, Settled, Step, Swap, View};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

impl Metadata {
    /// Changes one key and comes back when it is known what came of it. Dropping the future gives up asking; the change may
    /// have been made then.
    pub async fn swap(&self, mut swap: Swap) -> Settled {
        loop {
            match swap.next(self.now()) {
                Next::Send(txn) => {
                    let outcome = self.txn(txn).await;
                    if let Some(settled) = swap.told(self.now(), outcome) {
                        return settled;
                    }
                }
                Next::Wait(until) => self.sleep_until(until).await,
            }
        }
    }

    async fn sleep_until(&self, until: Mono) {
        let nanos = until.0.saturating_sub(self.now().0);
        tokio::time::sleep(Duration::from_nanos(nanos)).await;
    }
}

/// Follows a range: a listing first, then every change, until nobody takes them any more. Who is slow to take them slows
/// nothing else; the watch falls behind, and a listing tells what was missed.
pub async fn follow(metadata: Metadata, range: Range, changes: mpsc::Sender<Change>) {
    let mut view = View::new(range.clone());
    let mut watch = None;
    loop {
        let now = metadata.now();
        let news = match view.need(now) {
            Need::List => match metadata.list(range.clone()).await {
                Ok(listing) => view.listed(now, listing),
                Err(_) => {
                    view.failed(metadata.now());
                    Vec::new()
                }
            },
            Need::Watch(after) => {
                match metadata.watch(range.clone(), after) {
                    Ok(told) => {
                        watch = Some(told);
                        view.watching();
                    }
                    Err(_) => view.failed(metadata.now()),
                }
                Vec::new()
            }
            Need::Wait(until) => tokio::select! {
                told = next(&mut watch) => match told {
                    Some(Told::Events(past)) => view.saw(past),
                    Some(Told::Compacted(_)) | None => {
                        view.broke(metadata.now());
                        Vec::new()
                    }
                },
                () = metadata.sleep_until(until) => Vec::new(),
                () = changes.closed() => return,
            },
        };
        if !view.is_watching() {
            watch = None;
        }
        for change in news {
            if changes.send(change).await.is_err() {
                return;
            }
        }
    }
}

/// What a watch tells next; for ever nothing where there is none.
async fn next(watch: &mut Option<mpsc::Receiver<Told>>) -> Option<Told> {
    match watch {
        Some(told) => told.recv().await,
        None => std::future::pending().await,
    }
}

/// How a session stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Until when our entry is certain to stand; `None`: it is not.
    pub valid_until: Option<Mono>,
    /// The change that our entry was written by.
    pub registered_at: Option<Revision>,
    /// Who holds the key instead of us.
    pub other: Option<Entry>,
    /// Times that the lease was found to be over.
    pub losses: u64,
}

/// Keeps a session's entry, and says how it stands, until nobody looks any more. The entry then goes with its lease.
pub async fn hold(metadata: Metadata, mut session: Session, held: watch::Sender<Held>) {
    loop {
        let sent = metadata.now();
        match session.step(sent) {
            Step::Grant(ttl_millis) => {
                let lease = metadata.grant(ttl_millis).await.ok();
                session.granted(sent, metadata.now(), lease);
            }
            Step::Register(txn) => {
                let outcome = metadata.txn(txn).await;
                session.registered(metadata.now(), outcome);
            }
            Step::Keep(lease) => {
                let kept = metadata.keep(lease).await;
                session.kept(sent, metadata.now(), kept);
            }
            Step::Look(key) => {
                let listing = metadata.list(Range::key(&key)).await;
                let there = listing.as_ref().map(|listing| listing.entries.first()).map_err(|_| ());
                session.looked(metadata.now(), there);
            }
            Step::Wait(until) => tokio::select! {
                () = metadata.sleep_until(until) => {}
                () = held.closed() => return,
            },
        }
        let now = Held {
            valid_until: session.valid_until(),
            registered_at: session.registered_at(),
            other: session.other().cloned(),
            losses: session.losses(),
        };
        held.send_if_modified(|held| {
            let changed = *held != now;
            *held = now;
            changed
        });
    }
}
