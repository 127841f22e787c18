//! `/v1/shards`, `/v1/moves` and what is posted there: who owns which shard, what moves, and having one move.
//!
//! The cores know; each is asked. Nothing is kept here, so that what is shown is never older than the question.

use super::errands::{About, Carrier, Errand, Knowledge, Question};
use super::moves::{MoveRefusal, MoveReport};
use crate::ids::{CoreId, SHARD_COUNT, ShardId};
use crate::topology::Node;
use axum::http::StatusCode;
use serde_json::{Value, json};
use std::time::Duration;

/// How long a core may take: far more than a turn.
const PATIENCE: Duration = Duration::from_secs(2);
/// Rounds in which the owner of a shard that has just moved is looked for.
const ROUNDS_MAX: usize = 3;

/// Why there is no such page.
#[derive(Debug)]
pub(super) struct Unfit {
    pub status: StatusCode,
    pub why: String,
}

impl Unfit {
    fn new(status: StatusCode, why: impl Into<String>) -> Unfit {
        Unfit { status, why: why.into() }
    }
}

async fn ask(carrier: &Carrier, core: CoreId, about: About) -> Result<Knowledge, Unfit> {
    let (question, told) = Question::new(core, about);
    carrier(Errand::Answer(question));
    match tokio::time::timeout(PATIENCE, told).await {
        Ok(Ok(knowledge)) => Ok(knowledge),
        _ => Err(Unfit::new(StatusCode::SERVICE_UNAVAILABLE, format!("core {} does not answer", core.0))),
    }
}

/// All shards with their owners; in a cluster those of other nodes as this one knows of them.
pub(super) async fn owners(carrier: &Carrier, node: &Node) -> Result<Value, Unfit> {
    let cores = node.core_count();
    let mut rows: Vec<(ShardId, Value)> = Vec::new();
    for core in (0..cores).map(CoreId) {
        let Knowledge::Shards(shards) = ask(carrier, core, About::Shards).await? else { continue };
        rows.extend(shards.into_iter().map(|it| {
            let slots = [it.shard.first_slot().number(), it.shard.last_slot().number()];
            let (there, place) = node.place_of(it.owner);
            let row = json!({
                "shard": it.shard.number(), "node": there, "core": place, "epoch": it.epoch, "items": it.items, "slots": slots,
            });
            (it.shard, row)
        }));
    }
    // One that changes hands between two questions is seen twice, or not at all.
    rows.sort_by_key(|(shard, _)| *shard);
    rows.dedup_by_key(|(shard, _)| *shard);
    Ok(json!({ "shards": rows.into_iter().map(|(_, row)| row).collect::<Vec<_>>() }))
}

async fn reports(carrier: &Carrier, cores: u16) -> Result<Vec<MoveReport>, Unfit> {
    let mut all = Vec::new();
    for core in (0..cores).map(CoreId) {
        if let Knowledge::Moves(reports) = ask(carrier, core, About::Moves).await? {
            all.extend(reports);
        }
    }
    Ok(all)
}

/// Moves under way, and those that ended of late.
pub(super) async fn moves(carrier: &Carrier, cores: u16) -> Result<Value, Unfit> {
    let (ended, live): (Vec<_>, Vec<_>) =
        reports(carrier, cores).await?.into_iter().partition(|report| report.ending.is_some());
    let shown = |reports: Vec<MoveReport>| reports.iter().map(MoveReport::json).collect::<Vec<_>>();
    Ok(json!({ "moves": shown(live), "ended": shown(ended) }))
}

/// The core that `CORE` or `NODE:CORE` names, as this node numbers it; one that there is not if it names none.
fn core_of(node: &Node, text: &str) -> Option<CoreId> {
    let Some((there, core)) = text.split_once(':') else { return text.parse().ok().map(CoreId) };
    let (there, core) = (there.parse().ok()?, core.parse().ok()?);
    Some(match &node.cluster {
        Some(cluster) => cluster.core_of(there, core).unwrap_or(CoreId(u16::MAX)),
        None => CoreId(u16::MAX),
    })
}

/// Has a shard move; answers the move's number.
pub(super) async fn begin(carrier: &Carrier, node: &Node, shard: &str, to: &str) -> Result<Value, Unfit> {
    let cores = node.core_count();
    let number = shard.parse().ok().filter(|number| *number < SHARD_COUNT);
    let Some(shard) = number.map(ShardId::new) else {
        let why = format!("{shard} is no shard: they are numbered from 0 to {}", SHARD_COUNT - 1);
        return Err(Unfit::new(StatusCode::BAD_REQUEST, why));
    };
    let Some(to) = core_of(node, to) else {
        return Err(Unfit::new(StatusCode::BAD_REQUEST, "where to? ?to=CORE says it, or ?to=NODE:CORE"));
    };
    let mut refusal = MoveRefusal::NotHere;
    for core in (0..ROUNDS_MAX).flat_map(|_| (0..cores).map(CoreId)) {
        match ask(carrier, core, About::Move { shard, to }).await? {
            Knowledge::Begun(Ok(id)) => {
                let ((from_node, from), (to_node, to)) = (node.place_of(core), node.place_of(to));
                return Ok(json!({
                    "id": id, "shard": shard.number(), "from": from, "to": to, "from_node": from_node, "to_node": to_node,
                }));
            }
            Knowledge::Begun(Err(MoveRefusal::NotHere)) => {}
            Knowledge::Begun(Err(why)) => {
                refusal = why;
                break;
            }
            _ => {}
        }
    }
    let status = match refusal {
        MoveRefusal::NoSuchCore => StatusCode::BAD_REQUEST,
        _ => StatusCode::CONFLICT,
    };
    Err(Unfit::new(status, refusal.text()))
}

/// Has a move end where it is.
pub(super) async fn cancel(carrier: &Carrier, cores: u16, id: &str) -> Result<Value, Unfit> {
    let no_such = || Unfit::new(StatusCode::NOT_FOUND, format!("no move {id} is under way"));
    let number: u64 = id.parse().map_err(|_| no_such())?;
    for core in (0..cores).map(CoreId) {
        if let Knowledge::Cancelled(true) = ask(carrier, core, About::Cancel(number)).await? {
            return Ok(json!({ "id": number, "cancelled": true }));
        }
    }
    Err(no_such())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Cluster, ShardMap};
    use std::sync::Arc;

    /// Two cores, of which the second owns everything.
    fn carrier() -> Carrier {
        Arc::new(|errand| {
            let Errand::Answer(question) = errand else { return };
            let second = question.core == CoreId(1);
            let knowledge = match question.about {
                About::Move { .. } if !second => Knowledge::Begun(Err(MoveRefusal::NotHere)),
                About::Move { to: CoreId(1), .. } => Knowledge::Begun(Err(MoveRefusal::There)),
                About::Move { to: CoreId(2..), .. } => Knowledge::Begun(Err(MoveRefusal::NoSuchCore)),
                About::Move { .. } => Knowledge::Begun(Ok(7)),
                About::Cancel(id) => Knowledge::Cancelled(second && id == 7),
                _ => return,
            };
            question.answer(knowledge);
        })
    }

    fn node(cores: usize) -> Node {
        let members = format!("3=127.0.0.1:7400/{cores},5=127.0.0.1:7500/2").parse().expect("a list");
        Node {
            run_id: "0".repeat(40),
            version: "0",
            process_id: 1,
            started: crate::clock::Now::default(),
            address: "127.0.0.1".parse().expect("valid"),
            port: 7400,
            core_ports: Vec::new(),
            cpus: vec![0; cores],
            memory_bytes_max: 0,
            clients_max: 0,
            settings: Vec::new(),
            map: ShardMap::on_cores(cores as u16),
            cluster: Cluster::new(&members, 3, 1).map(Arc::new),
        }
    }

    #[test]
    fn cores_are_named_by_their_node() {
        let node = node(2);
        let core = |text| core_of(&node, text).map(|core| core.0);
        assert_eq!([core("1"), core("3:1"), core("5:0"), core("5:1")], [1, 1, 2, 3].map(Some));
        assert_eq!([core("5:2"), core("4:0")], [Some(u16::MAX); 2]);
        assert_eq!([core("x"), core("5:"), core(":1")], [None; 3]);
        let alone = Node { cluster: None, ..node.clone() };
        assert_eq!((core_of(&alone, "1"), core_of(&alone, "0:1")), (Some(CoreId(1)), Some(CoreId(u16::MAX))));
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime")
            .block_on(future)
    }

    #[test]
    fn the_owner_is_found_and_what_cannot_be_is_refused_in_words() {
        let carrier = carrier();
        let page = run(begin(&carrier, &node(2), "12", "0")).expect("it begins");
        assert_eq!((&page["id"], &page["from"], &page["to"]), (&json!(7), &json!(1), &json!(0)));
        let refused = |shard: &str, to: &str| {
            let unfit = run(begin(&carrier, &node(2), shard, to)).expect_err("refused");
            (unfit.status.as_u16(), unfit.why)
        };
        assert_eq!(refused("12", "1"), (409, "the shard is there already".to_owned()));
        assert_eq!(refused("12", "9"), (400, "there is no such core".to_owned()));
        assert_eq!(
            refused("1024", "0"),
            (400, "1024 is no shard: they are numbered from 0 to 1023".to_owned())
        );
        assert_eq!(refused("12", "").0, 400);
        assert_eq!(
            run(begin(&carrier, &node(1), "12", "0")).expect_err("nobody owns it").status.as_u16(),
            409
        );
        assert!(run(cancel(&carrier, 2, "7")).is_ok());
        assert_eq!(run(cancel(&carrier, 2, "8")).expect_err("there is none").status.as_u16(), 404);
        assert_eq!(run(cancel(&carrier, 2, "x")).expect_err("no number").status.as_u16(), 404);
    }
}
