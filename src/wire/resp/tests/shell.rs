//! A shell around one session, with virtual sockets.

use super::*;

pub(super) struct Shell {
    pub node: Node,
    pub session: Session,
    pub model: Model,
    pub input: Vec<u8>,
    pub at_least: usize,
    pub output: Vec<u8>,
    pub closed: Option<Reason>,
    pub dice: u64,
    pub turns: usize,
}

impl Shell {
    pub fn new(near: u16, cluster: bool, options: Options, seed: u64) -> Shell {
        let client =
            Client { id: 3, peer: "127.0.0.1:5000".into(), local: "127.0.0.1:7402".into(), since: now() };
        let options = Options { protocol: crate::wire::Protocol::Resp, ..options };
        Shell {
            node: node(cluster),
            session: Session::new(Arc::new(options), client),
            model: Model::new(near),
            input: Vec::new(),
            at_least: 1,
            output: Vec::new(),
            closed: None,
            dice: seed | 1,
            turns: 0,
        }
    }

    pub fn roll(&mut self, sides: usize) -> usize {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        (self.dice >> 11) as usize % sides
    }

    /// Has one core do its oldest request, and hands the outcome in.
    pub fn deliver(&mut self) {
        let busy: Vec<usize> =
            (0..usize::from(CORES)).filter(|&core| !self.model.sent[core].is_empty()).collect();
        if busy.is_empty() {
            return;
        }
        let core = busy[self.roll(busy.len())];
        let sent = self.model.sent[core].pop_front().unwrap();
        let (answer, bytes) = match self.model.refusing[core] {
            true => (Answer::Refused(Refusal::Version), Vec::new()),
            false => self.model.execute(core, &sent.key, &sent.value, sent.verb),
        };
        match (sent.verb, answer) {
            (Verb::Guard, Answer::Refused(_)) => self.model.refusing[core] = true,
            (Verb::Unguard, _) => self.model.refusing[core] = false,
            _ => {}
        }
        let outcome = Outcome { answer, value: Value::One(&bytes) };
        self.session.complete(self.model.now, &self.node, sent.ticket, &outcome);
        self.session.settle(&mut self.model.counters, &mut self.model.journal);
    }

    pub fn feed(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        if self.input.len() < self.at_least {
            return;
        }
        for _ in 0..1_000_000 {
            if self.closed.is_some() {
                return;
            }
            self.turns += 1;
            let now = self.model.now;
            let progress = self.session.serve(now, &self.node, &self.input, &mut self.model);
            assert!(progress.consumed <= self.input.len());
            self.input.drain(..progress.consumed);
            self.output.append(self.session.output());
            match progress.next {
                Next::More { at_least } => {
                    assert!(at_least > self.input.len(), "{at_least} are there");
                    self.at_least = at_least;
                    return;
                }
                Next::Yield => {}
                Next::Blocked => {
                    for _ in 0..1 + self.roll(7) {
                        self.deliver();
                    }
                    self.output.append(self.session.output());
                }
                Next::Close(reason) => {
                    assert_eq!(self.session.awaited(), 0);
                    self.closed = Some(reason);
                }
            }
        }
        panic!("no end");
    }

    pub fn finish(&mut self) {
        while self.model.in_flight() > 0 {
            self.deliver();
        }
        self.output.append(self.session.output());
        if self.closed.is_none() {
            assert_eq!(self.session.awaited(), 0);
        }
    }
}
