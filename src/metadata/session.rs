//! An entry of our own under a lease: that this node is alive, or that it leads.
//!
//! ```text
//!   ALONE --grant--> LEASED --register: our value, if nobody else's stands there--> LIVE --keep, keep ...
//!     ^                |                                                             |
//!     +----------------+--------- the lease is over --------------------------------+   (register again)
//! ```
//! 1. A lease is certain to hold until its time has passed since the last renewal that was answered was *sent*, less a margin:
//!    [`Session::valid`] asks no one. By a clock that goes on while the machine sleeps.
//! 2. Past that moment we may still be LIVE for the others; we only no longer know. Renewals go on until the service says that
//!    the lease is over.
//! 3. A service can lose leases it should have kept, all at once. Whoever finds its lease gone registers anew, under a new
//!    lease, and goes on as it was: records of shards name owners, and nothing of them has changed.
//! 4. Our value standing there from before is ours: the reply was lost, or the lease changed. Somebody else's value is not
//!    touched; it goes with its lease.
//! 5. The entry is looked at now and then, since a lease can hold while the entry is gone.

use super::{Entry, LeaseId, Outcome, Revision, Stands, Txn};
use crate::clock::Mono;

/// Renewals and looks in the time of a lease.
const RENEWALS: u64 = 3;
/// Attempts in the time of a lease while something fails.
const ATTEMPTS: u64 = 10;
/// The part of a lease's time that we do not count on: for the time between looking at the clock and acting upon it.
const MARGIN: u64 = 10;

/// The entry's holder.
#[derive(Clone, Debug)]
pub struct Session {
    key: Vec<u8>,
    value: Vec<u8>,
    ttl_millis: u64,
    state: State,
    /// When the last renewal that succeeded was sent; of the present lease.
    renewed: Mono,
    /// Nothing is done before this.
    resume: Mono,
    look_due: Mono,
    /// Who holds the key instead of us.
    other: Option<Entry>,
    /// Times that the lease was found to be over.
    losses: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Alone,
    /// What has to stand at the key for us to register.
    Leased(LeaseId, Stands),
    Live(LeaseId, Revision),
}

/// What a session wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A lease of so many milliseconds; then [`Session::granted`].
    Grant(u64),
    /// This transaction; then [`Session::registered`].
    Register(Txn),
    /// A renewal; then [`Session::kept`].
    Keep(LeaseId),
    /// A look at this key; then [`Session::looked`].
    Look(Vec<u8>),
    /// Nothing until this moment.
    Wait(Mono),
}

/// What came of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// The lease runs for its whole time from some moment after the renewal was sent.
    Renewed,
    /// It is over.
    Over,
    /// Nobody knows.
    Unknown,
}

impl Session {
    /// A session for a key. `value` has to be ours alone: it names our incarnation. `ttl_millis` should be ten times what the
    /// service takes to elect a leader, or more.
    pub fn new(key: &[u8], value: &[u8], ttl_millis: u64) -> Session {
        Session {
            key: key.to_vec(),
            value: value.to_vec(),
            ttl_millis,
            state: State::Alone,
            renewed: Mono(0),
            resume: Mono(0),
            look_due: Mono(0),
            other: None,
            losses: 0,
        }
    }

    /// Whether the entry stands and its lease is certain to hold.
    pub fn valid(&self, now: Mono) -> bool {
        self.valid_until().is_some_and(|until| now < until)
    }

    /// Until when it is valid; `None`: not registered. Grows with each renewal.
    pub fn valid_until(&self) -> Option<Mono> {
        let counted = self.ttl_millis - self.ttl_millis / MARGIN;
        matches!(self.state, State::Live(..)).then(|| self.renewed.plus_millis(counted))
    }

    /// The revision that our entry was written by, while it stands: what others compare with.
    pub fn registered_at(&self) -> Option<Revision> {
        if let State::Live(_, at) = self.state { Some(at) } else { None }
    }

    /// Who holds the key while we cannot.
    pub fn other(&self) -> Option<&Entry> {
        self.other.as_ref()
    }

    /// Times that the lease was found to be over.
    pub fn losses(&self) -> u64 {
        self.losses
    }

    /// What to do now. Changes with each answer, and when the moment to wait for has come.
    pub fn step(&self, now: Mono) -> Step {
        if now < self.resume {
            return Step::Wait(self.resume);
        }
        let renewal = self.renewed.plus_millis(self.ttl_millis / RENEWALS);
        match self.state {
            State::Alone => Step::Grant(self.ttl_millis),
            State::Leased(lease, _) if now >= renewal => Step::Keep(lease),
            State::Leased(lease, expected) => {
                Step::Register(Txn::swap(&self.key, expected, &self.value, Some(lease)))
            }
            State::Live(lease, _) if now >= renewal => Step::Keep(lease),
            State::Live(..) if now >= self.look_due => Step::Look(self.key.clone()),
            State::Live(..) => Step::Wait(renewal.min(self.look_due)),
        }
    }

    /// The lease that was asked for at `sent`; `None`: there is none yet.
    pub fn granted(&mut self, sent: Mono, now: Mono, lease: Option<LeaseId>) {
        match lease {
            Some(lease) => {
                self.state = State::Leased(lease, Stands::Absent);
                self.renewed = sent;
            }
            None => self.pause(now),
        }
    }

    /// What came of registering.
    pub fn registered(&mut self, now: Mono, outcome: Outcome) {
        let State::Leased(lease, _) = self.state else { return };
        match outcome {
            Outcome::Done(at) => self.live(now, lease, at),
            Outcome::Refused(refused) => match refused.there.into_iter().next().flatten() {
                Some(entry) if entry.value == self.value && entry.lease == Some(lease) => {
                    self.live(now, lease, entry.modified);
                }
                Some(entry) if entry.value == self.value => {
                    self.state = State::Leased(lease, Stands::At(entry.modified));
                }
                Some(entry) => {
                    self.state = State::Leased(lease, Stands::Absent);
                    self.other = Some(entry);
                    self.pause(now);
                }
                None => {
                    self.state = State::Leased(lease, Stands::Absent);
                    self.other = None;
                }
            },
            // It names a lease that is gone.
            Outcome::Invalid(_) => self.lost(now),
            Outcome::NotSent | Outcome::Unknown => self.pause(now),
        }
    }

    /// What came of a renewal that was sent at `sent`.
    pub fn kept(&mut self, sent: Mono, now: Mono, kept: Kept) {
        match kept {
            Kept::Renewed => self.renewed = sent,
            Kept::Over => self.lost(now),
            Kept::Unknown => self.pause(now),
        }
    }

    /// What stands at our key; `Err`: nobody knows.
    pub fn looked(&mut self, now: Mono, there: Result<Option<&Entry>, ()>) {
        let State::Live(lease, at) = self.state else { return };
        match there {
            Ok(Some(entry)) if entry.modified == at => self.look_due = self.next_look(now),
            Ok(_) => self.state = State::Leased(lease, Stands::Absent),
            Err(()) => self.pause(now),
        }
    }

    fn live(&mut self, now: Mono, lease: LeaseId, at: Revision) {
        self.state = State::Live(lease, at);
        self.other = None;
        self.look_due = self.next_look(now);
    }

    fn lost(&mut self, now: Mono) {
        self.losses += 1;
        self.state = State::Alone;
        // A service that loses every lease as soon as it is granted is not asked without pause.
        self.pause(now);
    }

    fn next_look(&self, now: Mono) -> Mono {
        now.plus_millis(self.ttl_millis / RENEWALS)
    }

    fn pause(&mut self, now: Mono) {
        self.resume = now.plus_millis(self.ttl_millis / ATTEMPTS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::{Range, Table};

    const TTL: u64 = 10_000;

    fn at(millis: u64) -> Mono {
        Mono(millis * Mono::NANOS_PER_MILLI)
    }

    /// Does what the session wants until it waits, and says until when.
    fn run(session: &mut Session, table: &mut Table, now: Mono) -> Mono {
        for _ in 0..20 {
            match session.step(now) {
                Step::Grant(ttl_millis) => session.granted(now, now, table.grant(now, ttl_millis).ok()),
                Step::Register(txn) => session.registered(now, table.apply(now, &txn)),
                Step::Keep(lease) => {
                    let kept = if table.keep(now, lease) { Kept::Renewed } else { Kept::Over };
                    session.kept(now, now, kept);
                }
                Step::Look(key) => {
                    session.looked(now, Ok(table.list(&Range::key(&key)).entries.first()));
                }
                Step::Wait(until) => return until,
            }
        }
        panic!("it never waits: {session:?}");
    }

    fn there(table: &Table) -> Option<Entry> {
        table.list(&Range::key(b"live")).entries.into_iter().next()
    }

    #[test]
    fn it_registers_and_stays_alive_by_renewals() {
        let (mut table, mut session) = (Table::new(), Session::new(b"live", b"us", TTL));
        assert!(!session.valid(at(0)));
        let mut now = at(0);
        while now < at(100_000) {
            let until = run(&mut session, &mut table, now);
            assert!(session.valid(now) && until > now);
            assert_eq!(there(&table).map(|entry| entry.value), Some(b"us".to_vec()));
            now = until;
        }
        assert_eq!(there(&table).map(|entry| entry.modified), session.registered_at());
        assert_eq!((table.revision(), session.losses()), (Revision(1), 0), "renewals change nothing");
    }

    #[test]
    fn it_is_valid_no_longer_than_its_lease_is_certain_to_hold() {
        let (mut table, mut session) = (Table::new(), Session::new(b"live", b"us", TTL));
        run(&mut session, &mut table, at(0));
        // The renewal is sent at 4000 and answered much later; what counts is when it was sent.
        let Step::Keep(lease) = session.step(at(4000)) else { panic!("{session:?}") };
        assert!(table.keep(at(4000), lease));
        session.kept(at(4000), at(6000), Kept::Renewed);
        assert!(session.valid(at(12_999)));
        assert!(!session.valid(at(13_000)), "a tenth is not counted on");
        assert_eq!(
            there(&table).map(|entry| entry.value),
            Some(b"us".to_vec()),
            "though the others still see it"
        );
    }

    #[test]
    fn renewals_without_answer_are_repeated_and_the_session_survives_an_answer_in_time() {
        let (mut table, mut session) = (Table::new(), Session::new(b"live", b"us", TTL));
        run(&mut session, &mut table, at(0));
        for attempt in 0..6 {
            let now = at(3400 + 1000 * attempt);
            assert!(matches!(session.step(now), Step::Keep(_)), "attempt {attempt}: {session:?}");
            session.kept(now, now, Kept::Unknown);
            assert!(session.valid(now) == (now < at(9000)));
        }
        run(&mut session, &mut table, at(9500));
        assert!(session.valid(at(9500)));
        assert_eq!(session.losses(), 0);
    }

    #[test]
    fn leases_lost_all_at_once_are_followed_by_new_ones() {
        let mut table = Table::new();
        let mut sessions: Vec<Session> =
            (0..5).map(|n| Session::new(format!("live/{n}").as_bytes(), b"us", TTL)).collect();
        for session in &mut sessions {
            run(session, &mut table, at(0));
        }
        for n in 1..=5 {
            assert!(table.revoke(at(100), LeaseId(n)));
        }
        assert!(table.list(&Range::prefix(b"live/")).entries.is_empty());
        let mut now = at(0);
        while now < at(6000) {
            now = sessions.iter_mut().map(|session| run(session, &mut table, now)).min().expect("five");
        }
        assert_eq!(table.list(&Range::prefix(b"live/")).entries.len(), 5);
        assert!(sessions.iter().all(|session| session.valid(now) && session.losses() == 1));
    }

    #[test]
    fn an_entry_that_vanishes_under_a_lease_that_holds_is_written_again() {
        let (mut table, mut session) = (Table::new(), Session::new(b"live", b"us", TTL));
        run(&mut session, &mut table, at(0));
        table.apply(at(1), &Txn { deletes: vec![b"live".to_vec()], ..Txn::default() });
        let mut now = at(1);
        while now < at(4000) {
            now = run(&mut session, &mut table, now);
        }
        assert!(there(&table).is_some_and(|entry| Some(entry.modified) == session.registered_at()));
        assert_eq!(session.losses(), 0);
    }

    #[test]
    fn somebody_elses_entry_is_waited_for() {
        let (mut table, mut session) = (Table::new(), Session::new(b"live", b"us", TTL));
        let lease = table.grant(at(0), 5000).expect("room");
        table.apply(at(0), &Txn::swap(b"live", Stands::Absent, b"them", Some(lease)));
        let mut now = at(0);
        while now < at(4999) {
            now = run(&mut session, &mut table, now);
            assert!(!session.valid(now));
            assert_eq!(session.other().map(|entry| &entry.value[..]), Some(&b"them"[..]));
        }
        run(&mut session, &mut table, now);
        assert!(session.valid(now) && session.other().is_none(), "its lease is over: {session:?}");
    }

    #[test]
    fn our_entry_of_an_earlier_lease_is_taken_over_and_a_lost_reply_is_recognised() {
        let mut table = Table::new();
        let old = table.grant(at(0), TTL).expect("room");
        table.apply(at(0), &Txn::swap(b"live", Stands::Absent, b"us", Some(old)));
        let mut session = Session::new(b"live", b"us", TTL);
        let Step::Grant(_) = session.step(at(0)) else { panic!() };
        session.granted(at(0), at(0), table.grant(at(0), TTL).ok());
        let Step::Register(txn) = session.step(at(0)) else { panic!() };
        session.registered(at(0), table.apply(at(0), &txn));
        let Step::Register(txn) = session.step(at(0)) else { panic!() };
        assert!(matches!(table.apply(at(0), &txn), Outcome::Done(_)));
        session.registered(at(0), Outcome::Unknown);
        assert!(!session.valid(at(0)));
        run(&mut session, &mut table, at(1000));
        assert!(session.valid(at(1000)));
        assert!(there(&table).is_some_and(|entry| entry.lease != Some(old)));
        assert_eq!(table.revision(), Revision(2), "it was taken over once");
    }
}
