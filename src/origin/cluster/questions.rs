//! Questions on their way to the nodes of their slots: in order where that counts, and sent on where a node says so.

use super::*;

/// How often a question may be sent on.
pub(super) const REDIRECTIONS_MAX: u8 = 5;
/// As Redis says it of keys that it finds in one command.
pub(super) const CROSSSLOT: &[u8] = b"CROSSSLOT Keys in request don't hash to the same slot";
pub(super) const NODE_UNKNOWN: &[u8] = b"TRYAGAIN the slot is on its way to a node that is not known yet";

impl Cluster {
    pub(super) fn keeps_order(&self) -> bool {
        self.options.duty != Duty::Ask
    }

    pub(super) fn until(&self, ticket: Ticket) -> Mono {
        self.questions.get(&ticket).map_or(Mono(0), |question| question.until)
    }

    /// Sends a question to the node of its slot, or holds it back while that moves.
    pub(super) fn send(&mut self, now: Mono, ticket: Ticket) {
        let Some(question) = self.questions.get(&ticket) else { return };
        let slot = question.slot;
        match self.moving.contains_key(&slot) {
            true => self.hold(slot, ticket, None),
            false => self.send_to(now, ticket, self.slots[usize::from(slot.number())], false),
        }
    }

    pub(super) fn hold(&mut self, slot: Slot, ticket: Ticket, once: Option<NodeId>) {
        self.moving.entry(slot).or_default().held.insert(ticket, once);
        self.held += 1;
    }

    /// Sends a question to a node; `once`: behind `ASKING`, as that has not its slot yet.
    pub(super) fn send_to(&mut self, now: Mono, ticket: Ticket, to: NodeId, once: bool) {
        let orders = self.keeps_order();
        let Some(question) = self.questions.get_mut(&ticket) else { return };
        question.node = Some(to);
        if orders {
            *self.out.entry(question.slot).or_default() += 1;
        }
        let ask = match once {
            false => question.ask.clone(),
            true => {
                let what = What::Asking(Box::new(question.ask.what.clone()));
                Rc::new(Ask { key: question.ask.key.clone(), what })
            }
        };
        let (cause, until) = (question.cause, question.until);
        self.pool(to).ask_until(now, ticket, cause, ask, until);
    }

    /// A question is not out any more: what is held of its slot may go on when all are back.
    pub(super) fn came_back(&mut self, now: Mono, ticket: Ticket) {
        let Some(question) = self.questions.get_mut(&ticket) else { return };
        let slot = question.slot;
        if question.node.take().is_none() {
            return;
        }
        if let Some(out) = self.out.get_mut(&slot) {
            *out -= 1;
            if *out == 0 {
                self.out.remove(&slot);
                self.release(now, slot);
            }
        }
    }

    /// Sends what is held of a slot, if nothing of it is out: in order, as far as all go to the same node.
    pub(super) fn release(&mut self, now: Mono, slot: Slot) {
        let waits = |moving: &Moving| moving.for_map;
        if self.out.contains_key(&slot) || self.moving.get(&slot).is_none_or(waits) {
            return;
        }
        let mut held = self.moving.remove(&slot).expect("looked at above").held;
        self.held -= held.len();
        let Some(once) = held.first_key_value().map(|(_, once)| *once) else { return };
        let home = self.slots[usize::from(slot.number())];
        while held.first_key_value().is_some_and(|(_, it)| *it == once) {
            let (ticket, _) = held.pop_first().expect("looked at above");
            self.send_to(now, ticket, once.unwrap_or(home), once.is_some());
        }
        if once.is_some() || !held.is_empty() {
            // The rest, and what comes now, goes when those are back.
            self.moving.entry(slot).or_default();
            held.into_iter().for_each(|(ticket, once)| self.hold(slot, ticket, once));
        }
    }

    pub(super) fn answered(&mut self, now: Mono, from: NodeId, ticket: Ticket, reply: Reply) {
        let text = match &reply {
            Reply::Refused(text) => Some(text.as_slice()),
            Reply::Raw(frame) => frame.strip_prefix(b"-"),
            _ => None,
        };
        let Some(redirection) = text.and_then(Redirection::read) else {
            if text.is_some_and(|text| text.starts_with(b"CLUSTERDOWN")) {
                self.learn_soon(now);
            }
            return self.tell(now, ticket, reply);
        };
        let Some(question) = self.questions.get_mut(&ticket) else { return };
        question.redirections += 1;
        self.tally.redirected += 1;
        let (slot, slot_said) = (question.slot, Slot::new(redirection.slot));
        if slot != slot_said {
            // Of several keys one is elsewhere.
            return self.tell(now, ticket, Reply::Refused(CROSSSLOT.to_vec()));
        }
        if question.redirections > REDIRECTIONS_MAX {
            self.leave(now, ticket);
            return self.actions.push_back(Action::Tell(Told::Failed(ticket, Failure::Astray)));
        }
        let forgeable = forgeable(&question.ask.what);
        let to = self.whereto(from, &redirection, forgeable);
        let once = match (to, redirection.once) {
            (Some(to), true) => Some(to),
            (None, true) => return self.tell(now, ticket, Reply::Refused(NODE_UNKNOWN.to_vec())),
            (Some(to), false) if !forgeable => {
                self.learn_soon(now);
                self.slots[usize::from(slot.number())] = to;
                None
            }
            // The map will say.
            (_, false) => {
                self.learn_soon(now);
                self.moving.entry(slot).or_default().for_map = true;
                None
            }
        };
        if self.keeps_order() || to.is_none() {
            self.hold(slot, ticket, once);
            return self.came_back(now, ticket);
        }
        let home = self.slots[usize::from(slot.number())];
        self.send_to(now, ticket, once.unwrap_or(home), once.is_some());
    }

    /// The node that a redirection names, if it may be gone to.
    pub(super) fn whereto(&mut self, from: NodeId, to: &Redirection<'_>, forgeable: bool) -> Option<NodeId> {
        let Some(place) = place_of(to.endpoint, to.port, &self.node(from).place) else {
            let named = |node: &&Node| {
                node.place.port == to.port
                    && node.place.name.as_deref().is_some_and(|name| name == to.endpoint)
            };
            return self.nodes[1..].iter().find(named).map(|node| node.id);
        };
        // One that the map names by its name, too, is the same.
        let same = |node: &&Node| (node.place.ip, node.place.port) == (place.ip, place.port);
        let known = self.nodes[1..].iter().find(same).map(|node| node.id);
        known.or_else(|| if forgeable { None } else { self.node_at(&place) })
    }

    /// A question is over.
    pub(super) fn leave(&mut self, now: Mono, ticket: Ticket) {
        self.came_back(now, ticket);
        self.questions.remove(&ticket);
    }

    pub(super) fn tell(&mut self, now: Mono, ticket: Ticket, reply: Reply) {
        self.leave(now, ticket);
        self.actions.push_back(Action::Tell(Told::Answer(ticket, reply)));
    }

    /// Of a question that no node has.
    pub(super) fn tell_failed(&mut self, ticket: Ticket, why: Failure) {
        self.questions.remove(&ticket);
        self.tally.failed += 1;
        self.actions.push_back(Action::Tell(Told::Failed(ticket, why)));
    }

    pub(super) fn tell_ignorance(&mut self, ticket: Ticket) {
        match &self.ignorance {
            Ignorance::Failed(why) => {
                let why = *why;
                self.tell_failed(ticket, why);
            }
            Ignorance::Said(text) => {
                let reply = Reply::Refused(text.clone());
                self.questions.remove(&ticket);
                self.actions.push_back(Action::Tell(Told::Answer(ticket, reply)));
            }
        }
    }
}

/// Whether an error that answers this may be a script's own words: not if no word of it could be the name of what runs one.
fn forgeable(what: &What) -> bool {
    let What::Command { bytes, .. } = what else { return false };
    let says = |name: &[u8]| bytes.windows(name.len()).any(|word| word.eq_ignore_ascii_case(name));
    says(b"eval") || says(b"fcall")
}
