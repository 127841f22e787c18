//! What is told of prefetching: sums of what the cores report, for `/metrics` and `/v1/prefetch`.

use crate::engine::{Drops, PrefetchTally};
use crate::prefetch::{Score, Source};
use serde_json::{Value, json};
use std::fmt::Write;

type Field<T> = (&'static str, &'static str, fn(&T) -> u64);

const SCORES: &[Field<Score>] = &[
    ("issued", "Keys fetched before anybody asked.", |it| it.issued),
    ("used", "Of those, found by a read.", |it| it.used),
    ("late", "Of those, asked for while they were under way.", |it| it.late),
    ("wasted", "Of those, not asked for in time, or gone by then.", |it| it.wasted),
];

const DROPS: &[Field<Drops>] = &[
    ("waited", "", |it| it.waited),
    ("no_room", "", |it| it.no_room),
    ("needless", "", |it| it.needless),
    ("failed", "", |it| it.failed),
    ("voided", "", |it| it.voided),
];

const GAUGES: &[Field<PrefetchTally>] = &[
    ("waiting", "Guesses that wait for room at their origin.", |it| it.waiting),
    ("under_way", "Fetches under way that nobody had asked for when they began.", |it| it.under_way),
    ("bytes", "Memory taken for what is learnt.", |it| it.bytes),
    ("resting", "Cores on which guessing does not pay at present.", |it| it.resting.into()),
];

/// The last reports of each core.
#[derive(Default)]
pub(super) struct Foresight {
    cores: Vec<Option<PrefetchTally>>,
}

impl Foresight {
    pub fn new(cores: usize) -> Foresight {
        Foresight { cores: vec![None; cores] }
    }

    pub fn take(&mut self, core: usize, tally: Option<PrefetchTally>) {
        if let Some(place) = self.cores.get_mut(core) {
            *place = tally;
        }
    }

    fn sum(&self, field: impl Fn(&PrefetchTally) -> u64) -> u64 {
        self.cores.iter().flatten().map(field).sum()
    }

    /// Appends everything in Prometheus' text format; nothing where nobody prefetches.
    pub fn render(&self, text: &mut String) -> std::fmt::Result {
        if self.cores.iter().all(Option::is_none) {
            return Ok(());
        }
        for (name, help, field) in SCORES {
            let name = format!("foreshadow_prefetch_{name}_total");
            writeln!(text, "\n# HELP {name} {help}\n# TYPE {name} counter")?;
            for (place, source) in Source::ALL.iter().enumerate() {
                let value = self.sum(|tally| field(&tally.scores[place]));
                writeln!(text, "{name}{{source=\"{}\"}} {value}", source.name())?;
            }
        }
        let name = "foreshadow_prefetch_landed_total";
        writeln!(text, "\n# HELP {name} Keys stored before anybody asked.\n# TYPE {name} counter")?;
        writeln!(text, "{name} {}", self.sum(|tally| tally.landed))?;
        let name = "foreshadow_prefetch_refreshed_total";
        writeln!(
            text,
            "\n# HELP {name} Items asked for anew because they were about to end.\n# TYPE {name} counter"
        )?;
        writeln!(text, "{name} {}", self.sum(|tally| tally.refreshed))?;
        let name = "foreshadow_prefetch_dropped_total";
        writeln!(
            text,
            "\n# HELP {name} Guesses that were not fetched, or not stored, and why.\n# TYPE {name} counter"
        )?;
        for (reason, _, field) in DROPS {
            writeln!(text, "{name}{{reason=\"{reason}\"}} {}", self.sum(|tally| field(&tally.drops)))?;
        }
        for (name, help, field) in GAUGES {
            let name = format!("foreshadow_prefetch_{name}");
            writeln!(text, "\n# HELP {name} {help}\n# TYPE {name} gauge")?;
            writeln!(text, "{name} {}", self.sum(field))?;
        }
        let name = "foreshadow_prefetch_threshold";
        writeln!(
            text,
            "\n# HELP {name} Least part of such guesses that must be of use.\n# TYPE {name} gauge"
        )?;
        for (core, tally) in self.cores.iter().enumerate().filter_map(|(core, it)| Some((core, it.as_ref()?)))
        {
            writeln!(text, "{name}{{core=\"{core}\"}} {:.3}", tally.threshold)?;
        }
        Ok(())
    }

    /// The same for programs, with what follows from it.
    pub fn json(&self) -> Value {
        let sources: Vec<Value> = Source::ALL
            .iter()
            .enumerate()
            .map(|(place, source)| {
                let sum = |field: fn(&Score) -> u64| self.sum(|tally| field(&tally.scores[place]));
                let (issued, used, late) = (sum(|it| it.issued), sum(|it| it.used), sum(|it| it.late));
                let precision = (issued > 0).then(|| (used + late) as f64 / issued as f64);
                json!({
                    "source": source.name(),
                    "issued": issued,
                    "used": used,
                    "late": late,
                    "wasted": sum(|it| it.wasted),
                    "precision": precision,
                })
            })
            .collect();
        let drops: serde_json::Map<String, Value> = DROPS
            .iter()
            .map(|(reason, _, field)| ((*reason).to_owned(), self.sum(|tally| field(&tally.drops)).into()))
            .collect();
        let gauges = GAUGES.iter().map(|(name, _, field)| ((*name).to_owned(), self.sum(field).into()));
        let mut all: serde_json::Map<String, Value> = gauges.collect();
        all.insert("on".into(), self.cores.iter().any(Option::is_some).into());
        all.insert("landed".into(), self.sum(|tally| tally.landed).into());
        all.insert("refreshed".into(), self.sum(|tally| tally.refreshed).into());
        all.insert("sources".into(), sources.into());
        all.insert("dropped".into(), drops.into());
        let thresholds = self.cores.iter().map(|core| core.map(|tally| f64::from(tally.threshold)));
        all.insert("thresholds".into(), thresholds.collect::<Vec<_>>().into());
        Value::Object(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_summed_and_where_nobody_prefetches_nothing_is_shown() {
        let mut foresight = Foresight::new(2);
        let shown = |foresight: &Foresight| {
            let mut text = String::new();
            foresight.render(&mut text).expect("a String takes all");
            text
        };
        assert_eq!((shown(&foresight).as_str(), foresight.json()["on"].as_bool()), ("", Some(false)));
        let mut tally = PrefetchTally {
            landed: 3,
            refreshed: 2,
            threshold: 0.25,
            bytes: 100,
            ..PrefetchTally::default()
        };
        tally.scores[Source::Stride as usize] = Score { issued: 4, used: 2, late: 1, wasted: 1 };
        tally.drops.no_room = 7;
        (0..2).for_each(|core| foresight.take(core, Some(tally)));
        let text = shown(&foresight);
        for line in [
            "foreshadow_prefetch_issued_total{source=\"stride\"} 8\n",
            "foreshadow_prefetch_issued_total{source=\"successor\"} 0\n",
            "foreshadow_prefetch_landed_total 6\n",
            "foreshadow_prefetch_refreshed_total 4\n",
            "foreshadow_prefetch_dropped_total{reason=\"no_room\"} 14\n",
            "foreshadow_prefetch_bytes 200\n",
            "foreshadow_prefetch_threshold{core=\"1\"} 0.250\n",
        ] {
            assert!(text.contains(line), "{line} is missing in {text}");
        }
        let json = foresight.json();
        assert_eq!(json["sources"][1]["precision"].as_f64(), Some(0.75));
        assert!(json["sources"][0]["precision"].is_null(), "nothing was tried");
    }
}
