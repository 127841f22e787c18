//! `/v1/prefetch?key=`: why a key was fetched ahead, what that cost, and what came of it.
//!
//! Its owner knows: what follows the key, and what was fetched of late. Whose request led to a fetch may be a key of another
//! core; that one is asked for the name.

use super::errands::{About, Carrier, Errand, Knowledge, Question};
use crate::engine::Explained;
use crate::hash::slot_of;
use crate::ids::{CoreId, ShardId};
use crate::prefetch::{Ending, KeyId};
use crate::store::shard_of;
use crate::topology::ShardMap;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// How long a core may take: far more than a turn.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is known of the key; nothing if its core does not say.
pub(super) async fn page(carrier: &Carrier, map: &ShardMap, key: &[u8]) -> Option<Value> {
    let core = map.owner(slot_of(key).shard());
    let Knowledge::Key(explained) = ask(carrier, core, About::Key(key.to_vec())).await? else { return None };
    let shown = String::from_utf8_lossy(key);
    let Some(explained) = explained else {
        return Some(json!({"key": shown, "core": core.0, "on": false}));
    };
    let mut names = HashMap::new();
    let mut strangers: BTreeMap<CoreId, Vec<KeyId>> = BTreeMap::new();
    let ids = explained.followers.iter().map(|it| it.key).chain(explained.fetches.iter().map(|it| it.cause));
    for id in ids {
        let ids = strangers.entry(map.owner(ShardId::new(shard_of(id)))).or_default();
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    for (core, ids) in strangers {
        if let Some(Knowledge::Names(found)) = ask(carrier, core, About::Names(ids.clone())).await {
            let known = ids.into_iter().zip(found).filter_map(|(id, name)| Some((id, name?)));
            names.extend(known.map(|(id, name)| (id, String::from_utf8_lossy(&name).into_owned())));
        }
    }
    Some(page_of(&shown, core, &explained, &names))
}

async fn ask(carrier: &Carrier, core: CoreId, about: About) -> Option<Knowledge> {
    let (question, told) = Question::new(core, about);
    carrier(Errand::Answer(question));
    tokio::time::timeout(PATIENCE, told).await.ok()?.ok()
}

fn page_of(key: &str, core: CoreId, explained: &Explained, names: &HashMap<KeyId, String>) -> Value {
    let rounded = |part: f32| (f64::from(part) * 1000.0).round() / 1000.0;
    let followers: Vec<Value> = explained
        .followers
        .iter()
        .map(|it| {
            json!({
                "key": names.get(&it.key),
                "weight": rounded(it.weight),
                "tries": it.tries,
                "of_use": (it.tries > 0).then(|| rounded(it.use_part)),
                "probability": rounded(it.score),
            })
        })
        .collect();
    let fetches: Vec<Value> = explained
        .fetches
        .iter()
        .map(|it| {
            json!({
                "ago_seconds": it.ago_millis as f64 / 1000.0,
                "source": it.source.name(),
                "cause": names.get(&it.cause),
                "probability": rounded(it.score),
                "took_seconds": it.took_micros.map(|micros| micros as f64 / 1e6),
                "bytes": it.bytes,
                "outcome": outcome_of(it.ending),
                "outcome_after_seconds": it.ended_millis.map(|millis| millis as f64 / 1000.0),
            })
        })
        .collect();
    json!({
        "key": key,
        "core": core.0,
        "on": true,
        "wanted": explained.wanted,
        "held": explained.held,
        "remembered": explained.known,
        "waiting": explained.waiting,
        "threshold": rounded(explained.threshold),
        "visits": explained.visits,
        "followers": followers,
        "fetches": fetches,
    })
}

fn outcome_of(ending: Ending) -> &'static str {
    match ending {
        Ending::UnderWay => "under way",
        Ending::Landed => "not asked for so far",
        Ending::Used => "used",
        Ending::Late => "late",
        Ending::Wasted => "wasted",
        Ending::Withdrawn => "not stored",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{FetchedAhead, Follower};
    use crate::prefetch::Source;

    #[test]
    fn what_is_known_is_shown_with_names_where_there_are_any() {
        let follower = Follower { key: 7, weight: 0.5, tries: 0, use_part: 0.0, score: 0.4 };
        let fetch = FetchedAhead {
            ago_millis: 1500,
            source: Source::Stride,
            cause: 8,
            score: 0.75,
            took_micros: Some(2500),
            bytes: Some(10),
            ending: Ending::Used,
            ended_millis: Some(40),
        };
        let explained = Explained {
            wanted: true,
            held: true,
            known: true,
            waiting: false,
            threshold: 0.25,
            visits: 3,
            followers: vec![follower],
            fetches: vec![fetch],
        };
        let names = HashMap::from([(8, "page:1".to_owned())]);
        let page = page_of("page:2", CoreId(1), &explained, &names);
        assert_eq!((&page["core"], &page["visits"], &page["held"]), (&json!(1), &json!(3), &json!(true)));
        let expected = json!({
            "ago_seconds": 1.5, "source": "stride", "cause": "page:1", "probability": 0.75, "took_seconds": 0.0025,
            "bytes": 10, "outcome": "used", "outcome_after_seconds": 0.04,
        });
        assert_eq!(page["fetches"][0], expected);
        let expected = json!({
            "key": null, "weight": 0.5, "tries": 0, "of_use": null, "probability": 0.4,
        });
        assert_eq!(page["followers"][0], expected, "0.4 as f32 is shown as it is meant");
    }
}
