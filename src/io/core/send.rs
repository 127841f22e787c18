//! Output: one send in flight per connection.
//!
//! Of a pipeline some requests go to other cores, and what stands behind the first of them waits for its answer. What stands
//! before it is held back for that moment, so that the replies leave by one send and not by two: the other core answers within
//! a turn or two. Nothing is held back once every other core has answered, for longer than [`HOLD_MICROS`], or by a core that
//! goes to sleep.

use super::{Core, TURN_OUTPUT_BYTES_MAX};
use crate::clock::{Mono, Now};
use crate::ids::ConnectionId;
use crate::io::connection::{KEEP_BYTES, VALUE_PIECE_BYTES};
use crate::io::ring::Completion;
use std::os::fd::AsRawFd;

/// Completions of sends that failed for lack of memory are tried again after this.
const RETRY_MILLIS: u64 = 10;
/// How long replies are held back for those behind them.
const HOLD_MICROS: u64 = 1000;
/// Output of so many bytes is worth a send of its own.
const HOLD_BYTES_MAX: usize = 8 << 10;
/// Output of so many bytes leaves behind shorter ones, and waits for the next turn when this one has begun to send much.
const LONG_BYTES: usize = 64 << 10;

impl Core {
    pub(super) fn send_outputs(&mut self, now: Now) {
        let mut dirty = std::mem::take(&mut self.dirty);
        let mut may_hold = self.works.mesh.awaits_answers();
        if !self.held.is_empty() && (!may_hold || now.mono >= self.held_until) {
            may_hold = false;
            dirty.append(&mut self.held);
        }
        let mut long = Vec::new();
        for id in dirty.drain(..) {
            let Some(connection) = self.table.of(id) else { continue };
            connection.dirty = connection.has_long_output(LONG_BYTES) && !connection.dying;
            if connection.dirty {
                long.push(id);
                continue;
            }
            if may_hold && !connection.dying && connection.may_be_held(HOLD_BYTES_MAX) {
                if self.held.is_empty() {
                    self.held_until = Mono(now.mono.0 + HOLD_MICROS * 1000);
                }
                self.held.push(id);
                continue;
            }
            self.send_output(id);
        }
        let mut bytes = 0;
        for id in long {
            let Some(connection) = self.table.of(id) else { continue };
            if bytes >= TURN_OUTPUT_BYTES_MAX {
                dirty.push(id);
                continue;
            }
            connection.dirty = false;
            if !connection.in_flight {
                bytes += match connection.value {
                    Some(_) => VALUE_PIECE_BYTES,
                    None => connection.session.output().len(),
                };
            }
            self.send_output(id);
        }
        // Nobody is added meanwhile; the list keeps its memory.
        self.dirty = dirty;
    }

    /// Sends what is held back.
    pub(super) fn send_held(&mut self) {
        let mut held = std::mem::take(&mut self.held);
        held.drain(..).for_each(|id| self.send_output(id));
        self.held = held;
    }

    pub(super) fn send_output(&mut self, id: ConnectionId) {
        let Some(connection) = self.table.of(id) else { return };
        if connection.dying {
            return;
        }
        if connection.stage_output() {
            connection.in_flight = true;
            let (socket, unsaid) = (connection.socket.as_raw_fd(), connection.has_unsaid());
            match unsaid && connection.tls.is_none() {
                true => self.ring.send_with_more(socket, id, connection.to_send()),
                // Over TLS a piece is whole records.
                false => self.ring.send(socket, id, connection.to_send()),
            }
        }
        if connection.cut {
            self.kill(id);
        }
    }

    pub(super) fn sent(&mut self, now: Now, completion: &Completion) {
        let id = completion.id;
        let Some(connection) = self.table.of(id) else { return };
        if completion.result < 0 {
            match -completion.result {
                libc::ENOBUFS | libc::ENOMEM | libc::EAGAIN if !connection.dying => {
                    self.retry.push(id);
                    self.due.retry.get_or_insert(now.mono.plus_millis(RETRY_MILLIS));
                }
                _ => {
                    connection.in_flight = false;
                    self.kill(id);
                }
            }
            return;
        }
        self.works.engine.counters.sent_bytes_total += completion.result as u64;
        if !connection.was_sent(completion.result as usize) {
            if connection.dying {
                connection.in_flight = false;
                self.bury(id);
            } else {
                self.ring.send(connection.socket.as_raw_fd(), id, connection.to_send());
            }
            return;
        }
        if connection.sending.capacity() > KEEP_BYTES {
            let long = std::mem::take(&mut connection.sending);
            self.works.keep_buffer(long);
        }
        self.unblock(id);
        self.settle(now, id);
    }

    pub(super) fn retry_sends(&mut self) {
        for id in std::mem::take(&mut self.retry) {
            let Some(connection) = self.table.of(id) else { continue };
            if connection.dying {
                connection.in_flight = false;
                self.bury(id);
            } else {
                self.ring.send(connection.socket.as_raw_fd(), id, connection.to_send());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::receive::serve_from;
    use super::super::{Listening, Options, Shared};
    use super::*;
    use crate::io::mesh;
    use crate::io::{BusyPoll, time};
    use crate::request::{Answer, Outcome, Value};
    use crate::topology::{Node, ShardMap};
    use crate::wire::Protocol;
    use crate::{engine, store, wire};
    use std::io::{ErrorKind, Read, Write};
    use std::net::TcpStream;
    use std::sync::Arc;

    fn core(listener: std::net::TcpListener) -> Core {
        core_of(listener, mesh::weave(1).remove(0), 1)
    }

    /// The first of some cores.
    fn core_of(listener: std::net::TcpListener, mesh: mesh::Mesh, cores: u16) -> Core {
        let store =
            store::Options { memory_bytes_max: 16 << 20, item_bytes_max: 1 << 20, hash_secret: [1, 2] };
        let options = Options {
            cpu: 0,
            engine: engine::Options { store, seed: 1 },
            wire: wire::Options::default(),
            certificates_name_users: false,
            busy_poll: BusyPoll::Micros(0),
            receive_buffers: 16,
            receive_buffer_bytes: 4096,
            output_hard_bytes: 1 << 20,
            buffer_bytes_max: 4 << 20,
            wanted: crate::io::Wanted {
                item_bytes: 1 << 20,
                memcached_item_bytes: 1 << 20,
                output_soft_bytes: 1 << 20,
            },
            unfinished_millis_max: 10_000,
            unauthenticated_millis_max: 60_000,
            drain_millis_max: 1_000,
            sources: Arc::default(),
            link_password: "".into(),
            keeper: None,
        };
        let node = Arc::new(Node {
            run_id: "0".repeat(40),
            version: "0",
            process_id: 1,
            started: time::now(),
            address: "127.0.0.1".parse().expect("valid"),
            port: 0,
            core_ports: Vec::new(),
            cpus: vec![0; usize::from(cores)],
            memory_bytes_max: 16 << 20,
            clients_max: 10,
            settings: Vec::new(),
            map: ShardMap::on_cores(cores),
            cluster: None,
        });
        let listeners =
            vec![Listening { socket: listener.into(), protocol: Protocol::Sniff, own: false, tls: None }];
        // SAFETY: eventfd takes no memory of ours; the test keeps the descriptor to its end.
        let bell = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        let me = crate::ids::CoreId(0);
        Core::new(me, options, listeners, mesh, bell, node, Arc::new(Shared::new(10)), Box::new(|_| ()))
            .expect("the machine that runs the tests has io_uring")
    }

    /// Bad input 9, where the limits do not hold a client that its server speaks to unasked.
    #[test]
    fn output_that_grows_beyond_the_hard_limit_closes_its_connection() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback is there");
        let address = listener.local_addr().expect("bound");
        let test = glommio::LocalExecutorBuilder::default().spawn(move || async move {
            let mut core = core(listener);
            let _clients = [TcpStream::connect(address), TcpStream::connect(address)]
                .map(|client| client.expect("listens"));
            let begin = time::now();
            let mut turns = 0;
            while core.table.len() < 2 {
                core.ring.enter(false).expect("enters");
                core.turn(begin);
                turns += 1;
                assert!(turns < 1_000_000, "the connections were never accepted");
            }
            let ids: Vec<_> = core.table.iter_mut().map(|connection| connection.id).collect();
            let mut grow = |bytes: usize| {
                let connection = core.table.of(ids[0]).expect("there");
                connection.session.output().resize(bytes, b'x');
                core.weigh(ids[0])
            };
            assert!(grow(500_000));
            assert!(grow(1_020_000), "one step beyond the limit of a mebibyte is what a long reply does");
            assert!(grow(1_020_000) && grow(400_000) && grow(1_010_000));
            assert!(grow(1_048_570) && grow(1_048_577));
            assert!(!grow(1_048_578), "the second step is not");
            assert!(core.table.of(ids[0]).is_none_or(|connection| connection.dying));
            assert!(!core.table.of(ids[1]).expect("the other one stays").dying);
        });
        test.expect("an executor starts").join().expect("the test's own assertions");
    }

    /// Turns until the client has read something; nothing after so many turns is `None`.
    fn turns_until_read(core: &mut Core, client: &mut TcpStream, now: Now, turns: usize) -> Option<Vec<u8>> {
        let mut reply = [0; 256];
        (0..turns).find_map(|_| {
            core.ring.enter(false).expect("enters");
            core.turn(now);
            match client.read(&mut reply) {
                Ok(len) => Some(reply[..len].to_vec()),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    None
                }
            }
        })
    }

    /// What ends the wait of replies that are held back.
    #[derive(Clone, Copy, PartialEq)]
    enum End {
        Answer,
        Time,
        Sleep,
    }

    #[test]
    fn replies_before_one_of_another_core_leave_with_it_or_soon_alone() {
        const PATIENCE: usize = 1_000_000;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback is there");
        let address = listener.local_addr().expect("bound");
        let test = glommio::LocalExecutorBuilder::default().spawn(move || async move {
            let mut meshes = mesh::weave(2);
            let mut other = meshes.pop().expect("two");
            let mut core = core_of(listener, meshes.pop().expect("two"), 2);
            let mut other_ring = crate::io::ring::Ring::new().expect("io_uring");
            other.open(&other_ring);
            let mut client = TcpStream::connect(address).expect("listening");
            client.set_nonblocking(true).expect("a socket can");
            let far = (0..)
                .map(|i| format!("k{i}"))
                .find(|key| core.works.node.map.owner(crate::hash::slot_of(key.as_bytes()).shard()).0 == 1)
                .expect("every other key is");
            let both = format!("PING\r\nGET {far}\r\n");
            for end in [End::Answer, End::Time, End::Sleep] {
                let now = time::now();
                client.write_all(both.as_bytes()).expect("buffered");
                let (from, batch) = (0..PATIENCE)
                    .find_map(|_| {
                        core.ring.enter(false).expect("enters");
                        core.turn(now);
                        other.receive()
                    })
                    .expect("the other core is asked");
                assert_eq!(turns_until_read(&mut core, &mut client, now, 1000), None, "held back");
                let mut at = now;
                match end {
                    End::Answer => {}
                    End::Time => at.mono.0 += HOLD_MICROS * 1000,
                    // What a core does before it sleeps.
                    End::Sleep => core.send_held(),
                }
                if end != End::Answer {
                    let alone = turns_until_read(&mut core, &mut client, at, PATIENCE);
                    assert_eq!(alone.as_deref(), Some(b"+PONG\r\n".as_slice()));
                }
                let back = batch.requests().next().expect("one request").0;
                let miss = Outcome { answer: Answer::Miss, value: Value::EMPTY };
                other.answer(from, back, &miss);
                other.recycle(batch);
                assert_eq!(other.flush(&mut other_ring), 1);
                let rest = turns_until_read(&mut core, &mut client, now, PATIENCE).expect("answered");
                let expected: &[u8] = if end == End::Answer { b"+PONG\r\n$-1\r\n" } else { b"$-1\r\n" };
                assert_eq!(rest, expected);
            }
        });
        test.expect("an executor starts").join().expect("the test's own assertions");
    }

    /// Bad input 29. The kernel does not run out of memory on request, so the completion is made by hand; the second try
    /// is a real one.
    #[test]
    fn a_send_that_found_no_memory_is_tried_again_ten_milliseconds_later() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback is there");
        let address = listener.local_addr().expect("bound");
        let test = glommio::LocalExecutorBuilder::default().spawn(move || async move {
            let mut core = core(listener);
            let mut client = TcpStream::connect(address).expect("listening");
            client.set_nonblocking(true).expect("a socket can");
            let begin = time::now();
            let mut turns = 0;
            while core.table.len() == 0 {
                core.ring.enter(false).expect("enters");
                core.turn(begin);
                turns += 1;
                assert!(turns < 1_000_000, "the connection was never accepted");
            }
            core.ring.enter(false).expect("enters, so that nothing of the beginning is queued");
            let id = core.table.iter_mut().next().expect("accepted").id;
            for errno in [libc::ENOBUFS, libc::ENOMEM] {
                let now = begin;
                let connection = core.table.of(id).expect("there");
                serve_from(&mut core.works, connection, now, Some(b"PING\r\n"));
                assert!(connection.stage_output());
                connection.in_flight = true;
                core.sent(now, &Completion::of_send(id, -errno));
                let early = crate::clock::Now { mono: now.mono.plus_millis(RETRY_MILLIS - 1), ..now };
                core.look_at_clock(early);
                assert_eq!(core.retry, [id], "it was tried again too soon");
                assert!(!core.ring.has_queued());
                let due = crate::clock::Now { mono: now.mono.plus_millis(RETRY_MILLIS), ..now };
                core.look_at_clock(due);
                assert!(core.retry.is_empty() && core.due.retry.is_none());
                let mut reply = [0; 64];
                let mut turns = 0;
                let bytes = loop {
                    core.ring.enter(false).expect("enters");
                    core.turn(now);
                    match client.read(&mut reply) {
                        Ok(bytes) => break bytes,
                        Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                    }
                    turns += 1;
                    assert!(turns < 1_000_000, "the second try never came through");
                };
                assert_eq!(&reply[..bytes], b"+PONG\r\n", "once, and whole");
                while core.table.of(id).expect("still there").in_flight {
                    core.ring.enter(false).expect("enters");
                    core.turn(now);
                }
            }
            // One that is on its way out is not tried again: it goes.
            let connection = core.table.of(id).expect("there");
            (connection.in_flight, connection.dying) = (true, true);
            connection.receiving = crate::io::connection::Receiving::Off;
            core.sent(begin, &Completion::of_send(id, -libc::ENOBUFS));
            assert!(core.retry.is_empty() && core.table.len() == 0);
        });
        test.expect("an executor starts").join().expect("the test's own assertions");
    }

    /// A core with connections that it has accepted, and their other ends.
    fn core_with_clients(
        listener: std::net::TcpListener,
        count: usize,
    ) -> (Core, Vec<TcpStream>, Vec<ConnectionId>) {
        let address = listener.local_addr().expect("bound");
        let mut core = core(listener);
        let now = time::now();
        let (mut clients, mut ids) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let client = TcpStream::connect(address).expect("listens");
            client.set_nonblocking(true).expect("a socket can");
            clients.push(client);
            let mut turns = 0;
            while core.table.len() < clients.len() {
                core.ring.enter(false).expect("enters");
                core.turn(now);
                turns += 1;
                assert!(turns < 1_000_000, "the connection was never accepted");
            }
            ids.extend(core.table.iter_mut().map(|connection| connection.id).find(|id| !ids.contains(id)));
        }
        (core, clients, ids)
    }

    #[test]
    fn those_who_go_on_with_long_replies_have_their_turns_one_after_the_other() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback is there");
        let test = glommio::LocalExecutorBuilder::default().spawn(move || async move {
            let (mut core, _clients, ids) = core_with_clients(listener, 3);
            let now = time::now();
            let value = "v".repeat(8000);
            let set = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\n{value}\r\n", value.len());
            for id in &ids {
                let connection = core.table.of(*id).expect("there");
                let consumed = serve_from(&mut core.works, connection, now, Some(set.as_bytes()));
                assert_eq!((consumed, connection.session.output().as_slice()), (set.len(), &b"+OK\r\n"[..]));
                connection.session.output().clear();
                connection.input.extend_from_slice(&b"GET k\r\n".repeat(100));
                connection.runnable = true;
            }
            core.runnable.extend(&ids);
            let made = |core: &mut Core| {
                ids.iter()
                    .map(|id| core.table.of(*id).expect("there").session.output().len())
                    .collect::<Vec<_>>()
            };
            // What is made in one go: values until they are a quarter of a mebibyte, with their heads.
            let reply = value.len() + "$8000\r\n\r\n".len();
            let go = TURN_OUTPUT_BYTES_MAX.div_ceil(reply) * reply;
            let turns = [
                // Although those before had all of the turn, one goes on.
                (TURN_OUTPUT_BYTES_MAX, [go, 0, 0], [1, 2, 0]),
                (0, [go, go, 0], [2, 0, 1]),
                (0, [go, go, go], [0, 1, 2]),
                // What is added to output that is there already counts, too.
                (0, [2 * go, go, go], [1, 2, 0]),
            ];
            for (before, expected, next) in turns {
                core.turn_output_bytes = before;
                assert!(core.serve_runnable(now));
                assert_eq!(made(&mut core), expected);
                assert_eq!(core.runnable, next.map(|place| ids[place]));
            }
            // Short replies leave room for all.
            core.turn_output_bytes = 0;
            for id in &ids {
                let connection = core.table.of(*id).expect("there");
                connection.session.output().clear();
                connection.dirty = false;
                connection.input = b"PING\r\n".to_vec();
                connection.input_start = 0;
            }
            core.dirty.clear();
            assert!(core.serve_runnable(now));
            assert_eq!((made(&mut core), core.runnable.len()), (vec!["+PONG\r\n".len(); 3], 0));
        });
        test.expect("an executor starts").join().expect("the test's own assertions");
    }

    #[test]
    fn of_long_replies_so_many_bytes_leave_in_a_turn_and_short_ones_do_not_wait() {
        const LONG: usize = 200_000;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback is there");
        let test = glommio::LocalExecutorBuilder::default().spawn(move || async move {
            let (mut core, mut clients, ids) = core_with_clients(listener, 4);
            let now = time::now();
            let lens = [LONG, LONG, LONG, 100];
            for (id, len) in ids.iter().zip(lens) {
                core.table.of(*id).expect("there").session.output().resize(len, b'x');
                core.settle(now, *id);
            }
            let under_way = |core: &mut Core| {
                ids.iter().map(|id| core.table.of(*id).expect("there").in_flight).collect::<Vec<_>>()
            };
            core.send_outputs(now);
            assert_eq!(
                under_way(&mut core),
                [true, true, false, true],
                "the third is late, the short one is not"
            );
            assert_eq!(core.dirty, [ids[2]]);
            core.send_outputs(now);
            assert_eq!((under_way(&mut core), core.dirty.len()), (vec![true; 4], 0));
            let mut got = [0; 4];
            let mut piece = vec![0; 1 << 16];
            let mut turns = 0;
            while got != lens || under_way(&mut core).contains(&true) {
                core.ring.enter(false).expect("enters");
                core.turn(now);
                for (client, got) in clients.iter_mut().zip(&mut got) {
                    *got += client.read(&mut piece).unwrap_or(0);
                }
                turns += 1;
                assert!(turns < 1_000_000, "{got:?} of {lens:?}");
            }
        });
        test.expect("an executor starts").join().expect("the test's own assertions");
    }

    /// Number 24, without a clock: what is counted is how much is done for the one while the other waits.
    #[test]
    fn one_at_full_pipeline_in_small_pieces_keeps_to_its_share_of_a_turn() {
        const PIPELINE: usize = 4000;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback is there");
        let address = listener.local_addr().expect("bound");
        let test = glommio::LocalExecutorBuilder::default().spawn(move || async move {
            let mut core = core(listener);
            let now = time::now();
            let per_turn = core.listeners[0].wire.commands_per_turn as u64;
            let [mut greedy, mut polite] = [TcpStream::connect(address), TcpStream::connect(address)]
                .map(|client| client.expect("listens"));
            polite.set_nonblocking(true).expect("a socket can");
            let mut turns = 0;
            while core.table.len() < 2 {
                core.ring.enter(false).expect("enters");
                core.turn(now);
                turns += 1;
                assert!(turns < 1_000_000, "the connections were never accepted");
            }
            core.ring.enter(false).expect("enters, so that both are listened to");
            // Both stand in the kernel before anything is looked at.
            greedy.write_all(&b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n".repeat(PIPELINE)).expect("buffered");
            polite.write_all(b"*1\r\n$4\r\nPING\r\n").expect("buffered");
            let mut reply = [0; 64];
            let len = loop {
                core.ring.enter(false).expect("enters");
                core.turn(now);
                match polite.read(&mut reply) {
                    Ok(len) => break len,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                }
                turns += 1;
                assert!(turns < 1_000_000, "the polite one was never answered");
            };
            assert_eq!(&reply[..len], b"+PONG\r\n");
            let done = core.works.engine.counters.commands_total;
            // Two turns, one to come in and one for the reply to leave; in each a piece may pass the share before it is full, and
            // what is left over has another.
            assert!(done <= 6 * per_turn, "{done} commands, {per_turn} in a turn");
            while core.works.engine.counters.commands_total <= PIPELINE as u64 {
                core.ring.enter(false).expect("enters");
                core.turn(now);
                turns += 1;
                assert!(turns < 1_000_000, "the greedy one was never served whole");
            }
        });
        test.expect("an executor starts").join().expect("the test's own assertions");
    }
}
