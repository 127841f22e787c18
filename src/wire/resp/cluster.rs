//! `CLUSTER`: each core presented as a node of its own, on its own port, those of other nodes among them.

use super::commands::{Command, Id};
use super::parser::{Arguments, integer};
use super::reply::{self, NOT_INTEGER, Shape};
use super::{Backend, Ex, Flow, Talk};
use crate::hash::slot_of;
use crate::ids::{CoreId, SLOT_COUNT, Slot};
use crate::request::{Request, Verb};
use crate::topology::Node;
use crate::wire::Target;

const DISABLED: &str = "ERR This instance has cluster support disabled";

impl Talk {
    pub(super) fn cluster_command<B: Backend>(
        &mut self,
        ex: &mut Ex<'_, B>,
        command: &'static Command,
        arguments: Arguments<'_>,
    ) -> Flow {
        let disabled = ex.node.core_ports.is_empty();
        match (command.id, self.subcommand) {
            (Id::Readonly | Id::Readwrite, _) => self.ok(ex),
            (_, "keyslot") => {
                let slot = slot_of(arguments.at(2)).number();
                self.say(ex, |_, out| reply::number(out, i64::from(slot)));
            }
            _ if disabled => self.fail(ex, DISABLED),
            (Id::Asking, _) => self.ok(ex),
            (_, "slots") => self.slots(ex),
            (_, "shards") => self.shards(ex),
            (_, "nodes") => self.nodes(ex),
            (_, "info") => self.cluster_info(ex),
            (_, "myid") => {
                let id = ex.node.core_node_id(self.own_core(ex.node));
                self.say(ex, |_, out| reply::bulk(out, id.as_bytes()));
            }
            (_, "countkeysinslot") => match integer(arguments.at(2)) {
                None => self.fail(ex, NOT_INTEGER),
                Some(slot @ 0..) if slot < i64::from(SLOT_COUNT) => {
                    let slot = Slot::new(slot as u16);
                    let verb = Verb::SlotSize { slot: slot.number() };
                    // Of a slot of another node nothing is counted, wherever that is asked.
                    let owner = Target::Core(ex.node.map.owner(slot.shard()));
                    ex.ask(owner, &Request { key: &[], value: &[], verb }, Shape::Number, &[]);
                }
                Some(_) => self.fail(ex, "ERR Invalid slot"),
            },
            (_, "getkeysinslot") => match (integer(arguments.at(2)), integer(arguments.at(3))) {
                (Some(slot @ 0..), Some(most @ 0..)) if slot < i64::from(SLOT_COUNT) => {
                    let most = most.min(i64::from(u32::MAX) - 1) as u32;
                    return self.walk(ex, b"", Some(slot as u16), most);
                }
                (Some(_), Some(_)) => self.fail(ex, "ERR Invalid slot or number of keys"),
                _ => self.fail(ex, NOT_INTEGER),
            },
            _ => self.help(ex, command),
        }
        Flow::Done
    }

    /// Where a command's key is, if the client came by a core's own port and the key is another node's, or was that core's before: its map
    /// is old. Others are served wherever they ask.
    pub(super) fn gone_to(&self, node: &Node, command: &Command, arguments: Arguments<'_>) -> Option<String> {
        let own = self.options.only_core?;
        let sub = command.subcommand(self.subcommand.as_bytes());
        let mut slots = command.keys(sub, arguments.len()).map(|place| slot_of(arguments.at(place)));
        let slot = slots.find(|slot| node.sends_on(slot.shard(), own))?;
        let (address, port) = self.endpoint(node, node.map.owner(slot.shard()));
        Some(format!("MOVED {} {address}:{port}", slot.number()))
    }

    /// The core whose port the client came by; the first, if it came by the main port.
    fn own_core(&self, node: &Node) -> CoreId {
        let port = self.client.local.rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
        CoreId(node.core_ports.iter().position(|own| Some(*own) == port).unwrap_or(0) as u16)
    }

    /// The address that other ports of this node are reached by: as the client reached us, where we listen on all.
    fn address(&self, node: &Node) -> String {
        match self.client.local.rsplit_once(':') {
            Some((host, _)) if node.address.is_unspecified() => {
                host.trim_matches(|c| c == '[' || c == ']').to_string()
            }
            _ => node.address.to_string(),
        }
    }

    /// Host and port that a core is reached by.
    fn endpoint(&self, node: &Node, core: CoreId) -> (String, u16) {
        match node.far_address(core) {
            Some(far) => (far.ip().to_string(), far.port()),
            None => (self.address(node), port_of(node, core)),
        }
    }

    fn slots<B: Backend>(&mut self, ex: &mut Ex<'_, B>) {
        let node = ex.node;
        let address = self.address(node);
        let endpoints = self.endpoints(node);
        self.say(ex, |protocol, out| {
            node.map.made_once(protocol == 3, &address, out, |out| {
                let ranges = node.map.ranges();
                reply::header(out, b'*', ranges.len());
                for range in ranges {
                    reply::header(out, b'*', 3);
                    reply::number(out, i64::from(range.first.number()));
                    reply::number(out, i64::from(range.last.number()));
                    reply::header(out, b'*', 4);
                    let (host, port) = &endpoints[range.owner.index()];
                    reply::bulk(out, host.as_bytes());
                    reply::number(out, i64::from(*port));
                    reply::bulk(out, node.core_node_id(range.owner).as_bytes());
                    reply::map(out, protocol, 0);
                }
            });
        });
    }

    fn endpoints(&self, node: &Node) -> Vec<(String, u16)> {
        (0..node.all_core_count()).map(|core| self.endpoint(node, CoreId(core))).collect()
    }

    fn shards<B: Backend>(&mut self, ex: &mut Ex<'_, B>) {
        let node = ex.node;
        let endpoints = self.endpoints(node);
        let ranges = node.map.ranges();
        self.say(ex, |protocol, out| {
            reply::header(out, b'*', endpoints.len());
            for (core, (address, port)) in (0..).map(CoreId).zip(&endpoints) {
                let own = || ranges.iter().filter(|range| range.owner == core);
                reply::map(out, protocol, 2);
                reply::bulk(out, b"slots");
                reply::header(out, b'*', own().count() * 2);
                for range in own() {
                    reply::number(out, i64::from(range.first.number()));
                    reply::number(out, i64::from(range.last.number()));
                }
                reply::bulk(out, b"nodes");
                reply::header(out, b'*', 1);
                reply::map(out, protocol, 7);
                let text = |out: &mut Vec<u8>, name: &str, value: &str| {
                    reply::bulk(out, name.as_bytes());
                    reply::bulk(out, value.as_bytes());
                };
                text(out, "id", &node.core_node_id(core));
                reply::bulk(out, b"port");
                reply::number(out, i64::from(*port));
                text(out, "ip", address);
                text(out, "endpoint", address);
                text(out, "role", "master");
                reply::bulk(out, b"replication-offset");
                reply::number(out, 0);
                text(out, "health", "online");
            }
        });
    }

    fn nodes<B: Backend>(&mut self, ex: &mut Ex<'_, B>) {
        let node = ex.node;
        let own = self.own_core(node);
        let ranges = node.map.ranges();
        let mut text = String::new();
        for (core, (address, port)) in (0..).map(CoreId).zip(self.endpoints(node)) {
            let flags = if core == own { "myself,master" } else { "master" };
            // The bus port is where Redis would have it; nobody listens there.
            let line = format!(
                "{} {address}:{port}@{} {flags} - 0 0 {} connected",
                node.core_node_id(core),
                u32::from(port) + 10_000,
                node.map.epoch,
            );
            text.push_str(&line);
            for range in ranges.iter().filter(|range| range.owner == core) {
                let (first, last) = (range.first.number(), range.last.number());
                text.push_str(&if first == last { format!(" {first}") } else { format!(" {first}-{last}") });
            }
            text.push('\n');
        }
        self.say(ex, |protocol, out| reply::verbatim(out, protocol, text.as_bytes()));
    }

    fn cluster_info<B: Backend>(&mut self, ex: &mut Ex<'_, B>) {
        let (count, epoch) = (ex.node.all_core_count(), ex.node.map.epoch);
        let text = format!(
            "cluster_enabled:1\r\ncluster_state:ok\r\ncluster_slots_assigned:{SLOT_COUNT}\r\n\
             cluster_slots_ok:{SLOT_COUNT}\r\ncluster_slots_pfail:0\r\ncluster_slots_fail:0\r\n\
             cluster_known_nodes:{count}\r\ncluster_size:{count}\r\ncluster_current_epoch:{epoch}\r\n\
             cluster_my_epoch:{epoch}\r\ncluster_stats_messages_sent:0\r\ncluster_stats_messages_received:0\r\n\
             total_cluster_links_buffer_limit_exceeded:0\r\n",
        );
        self.say(ex, |protocol, out| reply::verbatim(out, protocol, text.as_bytes()));
    }
}

fn port_of(node: &Node, core: CoreId) -> u16 {
    node.core_ports.get(core.index()).copied().unwrap_or(node.port)
}
