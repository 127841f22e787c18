//! Our io_uring: one per core, made for its thread alone, with every operation the data plane uses.
//!
//! Set up SINGLE_ISSUER, DEFER_TASKRUN and TASKRUN_FLAG: completions are made only when we enter the kernel for them, and
//! a flag in shared memory says when that would pay. Operations are queued here and submitted together, once a turn.
//!
//! Each completion carries a tag: what it was (8 bits), the generation (24 bits) and place (32 bits) of whom it was for.

use super::table::GENERATION_BITS;
use crate::ids::ConnectionId;
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use std::io;
use std::os::fd::{AsRawFd, RawFd};

/// Operations that can be queued before they are submitted.
const SUBMISSION_ENTRIES: u32 = 4096;
/// Completions that can wait to be looked at; more than that the kernel keeps aside at a cost.
const COMPLETION_ENTRIES: u32 = 16384;

/// What a completion was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A connection came to the listener of this place.
    Accept = 1,
    /// Bytes came, or the end of them.
    Receive = 2,
    /// Bytes left.
    Send = 3,
    /// Another core woke us.
    Wake = 4,
    /// A moment has come.
    Timer = 5,
    /// The control thread rang.
    Bell = 6,
    /// A connection to an origin stands, or does not.
    OriginConnect = 8,
    /// Bytes came from an origin, or the end of them.
    OriginReceive = 9,
    /// Bytes left for an origin.
    OriginSend = 10,
    /// A connection to another node stands, or does not.
    LinkConnect = 11,
    /// Something that needs no answer: a cancellation, a wake-up sent that failed.
    Ignore = 7,
}

/// A completion.
#[derive(Clone, Copy, Debug)]
pub struct Completion {
    /// What it was.
    pub kind: Kind,
    /// Whom it was for (a listener has only a place).
    pub id: ConnectionId,
    /// The operation's result: bytes, a descriptor, or a negative errno.
    pub result: i32,
    flags: u32,
}

impl Completion {
    /// As if a send had ended so.
    #[cfg(test)]
    pub fn of_send(id: ConnectionId, result: i32) -> Completion {
        Completion { kind: Kind::Send, id, result, flags: 0 }
    }

    /// Whether the operation goes on and will complete again.
    pub fn more(&self) -> bool {
        cqueue::more(self.flags)
    }

    /// The receive buffer it filled.
    pub fn buffer(&self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }
}

/// The ring.
pub struct Ring {
    ring: IoUring,
    /// Read by the kernel at submission; one lives for each timer not yet submitted.
    #[expect(
        clippy::vec_box,
        reason = "the kernel has their addresses, so they must not move with the list"
    )]
    timespecs: Vec<Box<types::Timespec>>,
    bell_value: Box<u64>,
}

fn tag(kind: Kind, id: ConnectionId) -> u64 {
    debug_assert!(id.generation < 1 << GENERATION_BITS);
    (kind as u64) << 56 | u64::from(id.generation) << 32 | u64::from(id.place)
}

const NOBODY: ConnectionId = ConnectionId { place: 0, generation: 0 };

impl Ring {
    /// A ring for the calling thread.
    ///
    /// # Errors
    /// Those of io_uring_setup: not permitted (sysctl, seccomp), out of memory, kernel too old.
    pub fn new() -> io::Result<Ring> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_cqsize(COMPLETION_ENTRIES)
            .build(SUBMISSION_ENTRIES)?;
        Ok(Ring { ring, timespecs: Vec::new(), bell_value: Box::new(0) })
    }

    /// The ring below, to register buffers.
    pub fn inner(&self) -> &IoUring {
        &self.ring
    }

    /// Descriptor that other cores send wake-ups to.
    pub fn descriptor(&self) -> RawFd {
        self.ring.as_raw_fd()
    }

    fn push(&mut self, entry: &squeue::Entry) {
        loop {
            // SAFETY: every operation built here refers to memory that outlives it: receive buffers and the bell's value
            // live with the core, timespecs until they are submitted, and a connection's sending buffer is neither moved
            // nor freed while a send is in flight (connection.rs, `sending`).
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return;
            }
            // The queue is full: submit what is there. EBUSY means completions have to be taken first, which the kernel
            // does by itself on the next enter with GETEVENTS.
            if let Err(error) = self.submit_now() {
                assert!(
                    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EAGAIN | libc::EINTR)),
                    "io_uring_enter: {error}"
                );
            }
        }
    }

    fn submit_now(&mut self) -> io::Result<()> {
        let queued = self.ring.submission().len() as u32;
        // SAFETY: no argument is passed beside the counts.
        unsafe { self.ring.submitter().enter::<libc::sigset_t>(queued, 0, ENTER_GETEVENTS, None)? };
        self.timespecs.clear();
        Ok(())
    }

    /// Accepts connections on a listener until cancelled.
    pub fn accept(&mut self, listener: RawFd, place: u32) {
        let id = ConnectionId { place, generation: 0 };
        let flags = libc::SOCK_CLOEXEC;
        self.push(
            &opcode::AcceptMulti::new(types::Fd(listener))
                .flags(flags)
                .build()
                .user_data(tag(Kind::Accept, id)),
        );
    }

    /// Receives into buffers of the group until cancelled, out of buffers, or at the end.
    pub fn receive(&mut self, socket: RawFd, id: ConnectionId) {
        let entry = opcode::RecvMulti::new(types::Fd(socket), super::buffers::GROUP).build();
        self.push(&entry.user_data(tag(Kind::Receive, id)));
    }

    /// Stops the receiving of a connection; its last completion says so.
    pub fn stop_receiving(&mut self, id: ConnectionId) {
        let entry = opcode::AsyncCancel::new(tag(Kind::Receive, id)).build();
        self.push(&entry.user_data(tag(Kind::Ignore, NOBODY)).flags(squeue::Flags::SKIP_SUCCESS));
    }

    /// Stops accepting on a listener.
    pub fn stop_accepting(&mut self, place: u32) {
        let entry =
            opcode::AsyncCancel::new(tag(Kind::Accept, ConnectionId { place, generation: 0 })).build();
        self.push(&entry.user_data(tag(Kind::Ignore, NOBODY)).flags(squeue::Flags::SKIP_SUCCESS));
    }

    /// Sends all of `bytes`, which must stay where they are until the completion.
    pub fn send(&mut self, socket: RawFd, id: ConnectionId, bytes: &[u8]) {
        self.send_flagged(socket, id, bytes, 0);
    }

    /// The same, where more is sent right behind: the kernel may let it wait for that.
    pub fn send_with_more(&mut self, socket: RawFd, id: ConnectionId, bytes: &[u8]) {
        self.send_flagged(socket, id, bytes, libc::MSG_MORE);
    }

    #[inline]
    fn send_flagged(&mut self, socket: RawFd, id: ConnectionId, bytes: &[u8], flags: i32) {
        let len = bytes.len().min(SEND_BYTES_MAX) as u32;
        let entry = opcode::Send::new(types::Fd(socket), bytes.as_ptr(), len)
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL | flags)
            .build();
        self.push(&entry.user_data(tag(Kind::Send, id)));
    }

    /// Connects a socket to an origin; the address must stay where it is until the completion.
    pub fn connect(&mut self, socket: RawFd, id: ConnectionId, address: &socket2::SockAddr) {
        let entry = opcode::Connect::new(types::Fd(socket), address.as_ptr().cast(), address.len()).build();
        self.push(&entry.user_data(tag(Kind::OriginConnect, id)));
    }

    /// Connects the link of this place; the address must stay where it is until the completion.
    pub fn connect_link(&mut self, socket: RawFd, place: u32, address: &socket2::SockAddr) {
        let entry = opcode::Connect::new(types::Fd(socket), address.as_ptr().cast(), address.len()).build();
        let id = ConnectionId { place, generation: 0 };
        self.push(&entry.user_data(tag(Kind::LinkConnect, id)));
    }

    /// Stops the connecting of a link; its completion says so.
    pub fn stop_linking(&mut self, place: u32) {
        let id = ConnectionId { place, generation: 0 };
        let entry = opcode::AsyncCancel::new(tag(Kind::LinkConnect, id)).build();
        self.push(&entry.user_data(tag(Kind::Ignore, NOBODY)).flags(squeue::Flags::SKIP_SUCCESS));
    }

    /// Receives once, into memory that must stay where it is until the completion, which names no buffer.
    pub fn receive_into(&mut self, socket: RawFd, id: ConnectionId, place: &mut [u8]) {
        let entry = opcode::Recv::new(types::Fd(socket), place.as_mut_ptr(), place.len() as u32).build();
        self.push(&entry.user_data(tag(Kind::Receive, id)));
    }

    /// Stops the connecting of a socket; its completion says so.
    pub fn stop_connecting(&mut self, id: ConnectionId) {
        let entry = opcode::AsyncCancel::new(tag(Kind::OriginConnect, id)).build();
        self.push(&entry.user_data(tag(Kind::Ignore, NOBODY)).flags(squeue::Flags::SKIP_SUCCESS));
    }

    /// As [`Ring::receive`], from an origin.
    pub fn receive_from_origin(&mut self, socket: RawFd, id: ConnectionId) {
        let entry = opcode::RecvMulti::new(types::Fd(socket), super::buffers::GROUP).build();
        self.push(&entry.user_data(tag(Kind::OriginReceive, id)));
    }

    /// As [`Ring::send`], to an origin.
    pub fn send_to_origin(&mut self, socket: RawFd, id: ConnectionId, bytes: &[u8]) {
        let len = bytes.len().min(SEND_BYTES_MAX) as u32;
        let entry = opcode::Send::new(types::Fd(socket), bytes.as_ptr(), len)
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
            .build();
        self.push(&entry.user_data(tag(Kind::OriginSend, id)));
    }

    /// Wakes another core: a completion of kind `Wake` appears in its ring.
    pub fn wake(&mut self, descriptor: RawFd) {
        let entry = opcode::MsgRingData::new(types::Fd(descriptor), 0, tag(Kind::Wake, NOBODY), None).build();
        self.push(&entry.user_data(tag(Kind::Ignore, NOBODY)).flags(squeue::Flags::SKIP_SUCCESS));
    }

    /// Completes with kind `Timer` after so many nanoseconds.
    pub fn timer(&mut self, nanos: u64) {
        let spec = types::Timespec::new().sec(nanos / 1_000_000_000).nsec((nanos % 1_000_000_000) as u32);
        let spec = Box::new(spec);
        let entry = opcode::Timeout::new(&*spec).build().user_data(tag(Kind::Timer, NOBODY));
        self.timespecs.push(spec);
        self.push(&entry);
    }

    /// Completes with kind `Bell` when the eventfd is written; to be queued again each time.
    pub fn listen_to_bell(&mut self, eventfd: RawFd) {
        let into: *mut u64 = &mut *self.bell_value;
        let entry = opcode::Read::new(types::Fd(eventfd), into.cast(), 8).build();
        self.push(&entry.user_data(tag(Kind::Bell, NOBODY)));
    }

    /// Submits what is queued and makes completions of what the kernel has; with `wait`, sleeps until there is one.
    pub fn enter(&mut self, wait: bool) -> io::Result<()> {
        let queued = self.ring.submission().len() as u32;
        // SAFETY: no argument is passed beside the counts.
        let entered = unsafe {
            self.ring.submitter().enter::<libc::sigset_t>(queued, u32::from(wait), ENTER_GETEVENTS, None)
        };
        match entered {
            Ok(_) => {
                self.timespecs.clear();
                Ok(())
            }
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN)) => {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Whether entering would bring completions, or some are there already. No system call.
    #[inline]
    pub fn has_news(&mut self) -> bool {
        self.ring.submission().taskrun() || !self.ring.completion().is_empty()
    }

    /// Whether operations are queued and not submitted. No system call.
    #[inline]
    pub fn has_queued(&mut self) -> bool {
        !self.ring.submission().is_empty()
    }

    /// Has an eventfd written with every completion from now on, or no longer.
    pub fn notify(&mut self, on: bool) {
        if on { self.ring.completion().enable_eventfd() } else { self.ring.completion().disable_eventfd() }
    }

    /// Registers the eventfd that `notify` switches; off at first.
    pub fn register_eventfd(&mut self, eventfd: RawFd) -> io::Result<()> {
        self.ring.submitter().register_eventfd(eventfd)?;
        self.notify(false);
        Ok(())
    }

    /// Moves completions to the end of `into`.
    pub fn take(&mut self, into: &mut Vec<Completion>) {
        for entry in self.ring.completion() {
            let data = entry.user_data();
            let kind = match (data >> 56) as u8 {
                1 => Kind::Accept,
                2 => Kind::Receive,
                3 => Kind::Send,
                4 => Kind::Wake,
                5 => Kind::Timer,
                6 => Kind::Bell,
                8 => Kind::OriginConnect,
                9 => Kind::OriginReceive,
                10 => Kind::OriginSend,
                11 => Kind::LinkConnect,
                _ => Kind::Ignore,
            };
            let id = ConnectionId {
                place: data as u32,
                generation: (data >> 32) as u32 & ((1 << GENERATION_BITS) - 1),
            };
            into.push(Completion { kind, id, result: entry.result(), flags: entry.flags() });
        }
    }
}

/// IORING_ENTER_GETEVENTS, which the io-uring crate keeps to itself.
const ENTER_GETEVENTS: u32 = 1;
/// Most bytes of one send; what is left follows with the next.
const SEND_BYTES_MAX: usize = 1 << 30;
