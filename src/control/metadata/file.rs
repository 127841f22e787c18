//! The embedded service: the table in memory, its journal on the disk.
//!
//! 1. Whatever waits is taken together and done in order, up to a bound of bytes.
//! 2. What that changed is one frame, one write and one sync, however many asked.
//! 3. Only then does anybody learn an outcome, a listing or an event: there is no await between the first step and the
//!    end of the sync, so that no other task of the thread sees the table in between.
//! 4. A write that fails ends the service: what the file says then is known when it is read again, at the next start. Who waits
//!    for an answer gets none, and who asks later is told that nothing was sent.

use super::journal::{Journal, Replacing};
use super::{Ask, EVENTS_MAX, Told};
use crate::clock::Mono;
use crate::metadata::{Kept, Range, Revision, Table};
use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// Questions that are taken together.
const BATCH_MAX: usize = 256;
/// Bytes of records that make a frame before everything taken is done.
const FRAME_BYTES_MAX: usize = 1 << 20;
/// Watches at a time; one more breaks at once.
const WATCHES_MAX: usize = 256;

/// A reply that waits for the sync.
type Reply = Box<dyn FnOnce()>;

/// Serves until nobody can ask any more, or a write fails.
pub(super) async fn serve(
    journal: Journal,
    table: Table,
    mut asks: mpsc::Receiver<Ask>,
    clock: fn() -> Mono,
) {
    let (lasting, _) = watch::channel(table.revision());
    let mut embedded = Embedded { table: Rc::new(RefCell::new(table)), journal, lasting, clock };
    let mut asked = Vec::with_capacity(BATCH_MAX);
    loop {
        let next_expiry = embedded.table.borrow().next_expiry();
        tokio::select! {
            count = asks.recv_many(&mut asked, BATCH_MAX) => if count == 0 {
                return;
            },
            () = sleep_until(next_expiry, clock) => {}
        }
        if let Err(error) = embedded.answer(&mut asked) {
            tracing::error!(
                path = %embedded.journal.path().display(),
                %error,
                "the metadata file cannot be written: nothing in it changes until a restart, serving goes on by the last \
                 map; look after the disk and restart"
            );
            return;
        }
    }
}

async fn sleep_until(moment: Option<Mono>, clock: fn() -> Mono) {
    match moment {
        Some(moment) => {
            let nanos = moment.0.saturating_sub(clock().0);
            tokio::time::sleep(Duration::from_nanos(nanos)).await;
        }
        None => std::future::pending().await,
    }
}

struct Embedded {
    table: Rc<RefCell<Table>>,
    journal: Journal,
    /// The revision that is on the disk.
    lasting: watch::Sender<Revision>,
    clock: fn() -> Mono,
}

impl Embedded {
    /// Does what was asked for, makes it last, and answers.
    fn answer(&mut self, asked: &mut Vec<Ask>) -> io::Result<()> {
        let mut replies = Vec::with_capacity(asked.len());
        self.table.borrow_mut().expire((self.clock)());
        for ask in asked.drain(..) {
            replies.extend(self.take(ask));
            if self.table.borrow().pending_bytes() >= FRAME_BYTES_MAX {
                self.make_last(&mut replies)?;
            }
        }
        self.make_last(&mut replies)
    }

    fn take(&mut self, ask: Ask) -> Option<Reply> {
        let now = (self.clock)();
        let mut table = self.table.borrow_mut();
        match ask {
            Ask::Txn(txn, reply) => Some(answer(reply, table.apply(now, &txn))),
            Ask::List(range, reply) => Some(answer(reply, table.list(&range))),
            Ask::Grant(ttl_millis, reply) => {
                table.grant(now, ttl_millis).ok().map(|lease| answer(reply, lease))
            }
            Ask::Keep(lease, reply) => {
                let kept = if table.keep(now, lease) { Kept::Renewed } else { Kept::Over };
                Some(answer(reply, kept))
            }
            Ask::Revoke(lease, reply) => {
                table.revoke(now, lease);
                Some(answer(reply, ()))
            }
            Ask::Watch(range, after, teller) => {
                // Each watch has the table, too.
                if Rc::strong_count(&self.table) <= WATCHES_MAX {
                    let watch = tell(self.table.clone(), self.lasting.subscribe(), range, after, teller);
                    tokio::task::spawn_local(watch);
                }
                None
            }
        }
    }

    fn make_last(&mut self, replies: &mut Vec<Reply>) -> io::Result<()> {
        let mut table = self.table.borrow_mut();
        if let Some(frame) = table.take_frame() {
            self.journal.append(&frame)?;
        }
        replies.drain(..).for_each(|reply| reply());
        let revision = table.revision();
        self.lasting.send_if_modified(|lasting| std::mem::replace(lasting, revision) != revision);
        if table.snapshot_due() {
            match self.journal.replace(&table.snapshot()) {
                Ok(()) => {}
                Err(Replacing::Kept(error)) => tracing::warn!(
                    path = %self.journal.path().display(),
                    %error,
                    "the metadata file cannot be made smaller and goes on as it is; is the disk full?"
                ),
                Err(Replacing::Lost(error)) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The reply to one who may have gone away meanwhile.
fn answer<T: 'static>(reply: oneshot::Sender<T>, answer: T) -> Reply {
    Box::new(move || drop(reply.send(answer)))
}

/// Tells one who watches what happens, at the pace at which it is taken.
async fn tell(
    table: Rc<RefCell<Table>>,
    mut lasting: watch::Receiver<Revision>,
    range: Range,
    mut at: Revision,
    teller: mpsc::Sender<Told>,
) {
    loop {
        // A service that ended on a failed write tells nothing of it.
        if lasting.has_changed().is_err() {
            return;
        }
        lasting.mark_unchanged();
        let past = table.borrow().after(&range, at, EVENTS_MAX);
        let told = match past {
            Ok(past) if past.events.is_empty() => {
                at = past.at;
                tokio::select! {
                    changed = lasting.changed() => if changed.is_err() {
                        return;
                    },
                    () = teller.closed() => return,
                }
                continue;
            }
            Ok(past) => {
                at = past.at;
                Told::Events(past)
            }
            Err(compacted) => {
                // Whoever does not listen any more need not know.
                let _ = teller.send(Told::Compacted(compacted)).await;
                return;
            }
        };
        if teller.send(told).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
