//! How much is asked of each shard, how much the next minute will bring ([`crate::forecast`]), and what part of what origins
//! have to spare each core may take then.
//!
//! ```text
//!   reports: heat of shards --> a value a minute --> forecast of each shard
//!                                                          | summed over a core's shards
//!                     /metrics, /v1/prefetch <-------------+-------> shares --> the cores' pools
//! ```
//! 1. A shard's series is the shard's: it goes on when the shard moves to another core.
//! 2. The core that is thought to get most has all of its spare; one that gets less has it in proportion, a quarter at least.
//! 3. Where the next minute will surely bring more than the last, by more than forecasts of that core err, as much is left for
//!    demand: half of the share at most.
//!
//! So a share only takes away, and never all; without forecasts it is 1, and so it is on a single core with a steady load.

use crate::forecast::{Forecast, Method, Season};
use crate::heat::Heat;
use crate::ids::SHARD_COUNT;
use serde_json::{Value, json};
use std::fmt::Write;
use std::time::{Duration, Instant};

/// A span of the forecast, and how a day consists of them.
const SPAN: Duration = Duration::from_secs(60);
const DAY: Season = Season { factors: 144, spans_each: 10 };
/// Least part that a core has for having less to do than another one, and for having more to do soon.
const PART_MIN: f32 = 0.25;
const RISE_MIN: f32 = 0.5;
/// What the latest error of a core counts for.
const ERROR: f32 = 0.1;
/// Shards that are shown: those that are thought to get most.
const SHOWN_MAX: usize = 16;

/// One shard.
#[derive(Default)]
struct Shard {
    /// Who does its requests.
    core: usize,
    /// Requests of this span.
    requests: u64,
    /// Nothing before the first request.
    forecast: Option<Forecast>,
}

impl Shard {
    fn next(&self) -> f32 {
        self.forecast.as_ref().and_then(Forecast::next).map_or(0.0, |(said, _)| said)
    }

    fn last(&self) -> f32 {
        self.forecast.as_ref().map_or(0.0, Forecast::last)
    }
}

/// A core's shards together, in requests a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Load {
    last: f32,
    next: f32,
    /// How much the sum errs, smoothed.
    error: f32,
}

/// One core.
#[derive(Default)]
struct Core {
    heat: Heat,
    load: Load,
    share: f32,
}

/// Name, help and value of what is told of each core.
type Gauge = (&'static str, &'static str, fn(&Core) -> f32);

/// All shards, and all cores.
pub(super) struct Volume {
    shards: Vec<Shard>,
    cores: Vec<Core>,
    begin: Option<Instant>,
    /// Whether any span is over.
    any: bool,
    /// Whether shares were made that nobody has taken.
    fresh: bool,
}

impl Volume {
    pub fn new(cores: usize) -> Volume {
        Volume {
            shards: (0..SHARD_COUNT).map(|_| Shard::default()).collect(),
            cores: (0..cores).map(|_| Core { share: 1.0, ..Core::default() }).collect(),
            begin: None,
            any: false,
            fresh: false,
        }
    }

    /// A core's heat since it began.
    pub fn take(&mut self, now: Instant, core: usize, heat: Heat) {
        let Some(place) = self.cores.get_mut(core) else { return };
        for (shard, requests) in self.shards.iter_mut().zip(heat.since(&place.heat)) {
            if requests > 0 {
                shard.requests += requests;
                shard.core = core;
            }
        }
        place.heat = heat;
        let begin = *self.begin.get_or_insert(now);
        let span = now.duration_since(begin);
        if span >= SPAN {
            self.begin = Some(now);
            // A report may be late: what counts is requests a second.
            self.end_span(span.as_secs_f32());
        }
    }

    fn end_span(&mut self, seconds: f32) {
        for shard in &mut self.shards {
            let requests = std::mem::take(&mut shard.requests);
            if requests > 0 || shard.forecast.is_some() {
                let forecast = shard.forecast.get_or_insert_with(|| Forecast::new(DAY));
                forecast.add(requests as f32 / seconds);
            }
        }
        let mut loads = vec![Load::default(); self.cores.len()];
        for shard in &self.shards {
            let load = &mut loads[shard.core];
            (load.last, load.next) = (load.last + shard.last(), load.next + shard.next());
        }
        for (core, load) in self.cores.iter_mut().zip(&mut loads) {
            let Load { next: said, error, .. } = core.load;
            // Of the first span nothing was said.
            load.error = if self.any { error + ERROR * ((load.last - said).abs() - error) } else { 0.0 };
            core.load = *load;
        }
        for (core, share) in self.cores.iter_mut().zip(shares_of(&loads)) {
            core.share = share;
        }
        (self.any, self.fresh) = (true, true);
    }

    /// What of their spare cores may take from now on, if that was said anew since this was asked last. A share is from
    /// [`PART_MIN`] times [`RISE_MIN`] to 1.
    pub fn take_shares(&mut self) -> Option<Vec<f32>> {
        std::mem::take(&mut self.fresh).then(|| self.cores.iter().map(|core| core.share).collect())
    }

    /// Appends forecasts in Prometheus' text format; nothing in the first minute.
    pub fn render(&self, text: &mut String) -> std::fmt::Result {
        if !self.any {
            return Ok(());
        }
        let gauges: [Gauge; 3] = [
            (
                "foreshadow_forecast_requests_per_second",
                "Requests a second that the core's shards are thought to get in the next minute.",
                |core| core.load.next,
            ),
            (
                "foreshadow_forecast_error_requests_per_second",
                "How much that was wrong of late, smoothed.",
                |core| core.load.error,
            ),
            (
                "foreshadow_prefetch_share",
                "What the core may take of what origins have to spare for fetching ahead.",
                |core| core.share,
            ),
        ];
        for (name, help, value) in gauges {
            writeln!(text, "\n# HELP {name} {help}\n# TYPE {name} gauge")?;
            for (place, core) in self.cores.iter().enumerate() {
                writeln!(text, "{name}{{core=\"{place}\"}} {:.3}", value(core))?;
            }
        }
        let name = "foreshadow_forecast_shards";
        writeln!(
            text,
            "\n# HELP {name} Shards for whose next minute the method speaks, as it has erred least.\n# TYPE {name} gauge"
        )?;
        for method in Method::ALL {
            let speaks = |shard: &&Shard| {
                shard.forecast.as_ref().and_then(Forecast::next).is_some_and(|it| it.1 == method)
            };
            let count = self.shards.iter().filter(speaks).count();
            writeln!(text, "{name}{{method=\"{}\"}} {count}", method.name())?;
        }
        Ok(())
    }

    /// The same for programs, and the shards that are thought to get most.
    pub fn json(&self) -> Value {
        let rounded = |value: f32| (f64::from(value) * 1000.0).round() / 1000.0;
        let cores = self.cores.iter().enumerate().map(|(place, core)| {
            json!({
                "core": place,
                "requests_per_second": rounded(core.load.last),
                "next": rounded(core.load.next),
                "error": rounded(core.load.error),
                "share": rounded(core.share),
            })
        });
        let mut shards: Vec<(usize, &Shard, &Forecast)> = self
            .shards
            .iter()
            .enumerate()
            .filter_map(|(number, shard)| Some((number, shard, shard.forecast.as_ref()?)))
            .collect();
        shards.sort_by(|(_, one, _), (_, other, _)| other.next().total_cmp(&one.next()));
        let shards = shards.iter().take(SHOWN_MAX).filter_map(|(number, shard, forecast)| {
            let (next, method) = forecast.next()?;
            Some(json!({
                "shard": number,
                "core": shard.core,
                "requests_per_second": rounded(shard.last()),
                "next": rounded(next),
                "error": rounded(forecast.error_of(method)),
                "method": method.name(),
            }))
        });
        json!({ "cores": cores.collect::<Vec<_>>(), "shards": shards.collect::<Vec<_>>() })
    }
}

/// What of its spare each core may take in the next minute.
fn shares_of(loads: &[Load]) -> Vec<f32> {
    let most = loads.iter().map(|load| load.next).fold(0.0, f32::max);
    let share = |load: &Load| {
        let part = if most > 0.0 { (load.next / most).clamp(PART_MIN, 1.0) } else { 1.0 };
        let sure = load.next - load.error;
        let rise = if sure > load.last { (load.last / sure).clamp(RISE_MIN, 1.0) } else { 1.0 };
        part * rise
    };
    loads.iter().map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::slot_of;

    fn shown(volume: &Volume) -> String {
        let mut text = String::new();
        volume.render(&mut text).expect("a String takes all");
        text
    }

    fn value_of(text: &str, series: &str) -> f32 {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{series} ")));
        line.unwrap_or_else(|| panic!("no {series} in\n{text}")).parse().expect("a number")
    }

    /// Cores whose heat grows; a report a second.
    struct World {
        volume: Volume,
        begin: Instant,
        second: u64,
        heats: [Heat; 2],
    }

    impl World {
        fn new() -> World {
            let (volume, begin) = (Volume::new(2), Instant::now());
            World { volume, begin, second: 0, heats: [Heat::default(), Heat::default()] }
        }

        /// Some seconds, with so many requests in each for a key on each core.
        fn run(&mut self, seconds: u64, keys: [(&str, u32); 2]) {
            for _ in 0..seconds {
                for (core, (key, requests)) in keys.into_iter().enumerate() {
                    (0..requests).for_each(|_| self.heats[core].request(key.as_bytes()));
                    let now = self.begin + Duration::from_secs(self.second);
                    self.volume.take(now, core, self.heats[core].clone());
                }
                self.second += 1;
            }
        }
    }

    #[test]
    fn each_shard_is_foretold_and_stays_itself_when_it_moves_to_another_core() {
        let mut world = World::new();
        world.run(60, [("a", 1000), ("b", 500)]);
        assert_eq!(shown(&world.volume), "", "no minute is over");
        assert_eq!(world.volume.take_shares(), None);
        world.run(180, [("a", 1000), ("b", 500)]);
        let text = shown(&world.volume);
        let next = |core: usize| {
            value_of(&text, &format!("foreshadow_forecast_requests_per_second{{core=\"{core}\"}}"))
        };
        assert!((next(0) - 1000.0).abs() < 30.0 && (next(1) - 500.0).abs() < 30.0, "{text}");
        let shards: f32 = Method::ALL
            .iter()
            .map(|it| value_of(&text, &format!("foreshadow_forecast_shards{{method=\"{}\"}}", it.name())))
            .sum();
        assert_eq!(shards, 2.0, "{text}");
        let number = |key: &str| u64::from(slot_of(key.as_bytes()).shard().number());
        let page = world.volume.json();
        assert_eq!(page["shards"][0]["shard"].as_u64(), Some(number("a")));
        assert_eq!(page["shards"][1]["shard"].as_u64(), Some(number("b")));
        // The shard of `a` moves: what is foretold of it moves along, from the first minute on.
        world.run(61, [("b", 0), ("a", 1000)]);
        let page = world.volume.json();
        assert_eq!(page["shards"][0]["core"].as_u64(), Some(1));
        assert!(
            page["shards"][0]["next"].as_f64().is_some_and(|next| (next - 1000.0).abs() < 30.0),
            "{page}"
        );
        world.volume.take(world.begin, 7, Heat::default());
    }

    #[test]
    fn the_most_busy_core_has_its_whole_share_and_others_in_proportion_within_bounds() {
        let load = |last, next, error| Load { last, next, error };
        let steady = |rate| load(rate, rate, 0.0);
        assert_eq!(shares_of(&[steady(0.0), steady(0.0)]), [1.0, 1.0], "nothing is known");
        assert_eq!(shares_of(&[steady(900.0)]), [1.0]);
        assert_eq!(shares_of(&[steady(900.0), steady(450.0), steady(9.0)]), [1.0, 0.5, PART_MIN]);
    }

    #[test]
    fn room_is_left_for_a_rise_that_is_sure_and_for_no_other() {
        let load = |last, next, error| Load { last, next, error };
        assert_eq!(shares_of(&[load(100.0, 125.0, 0.0)]), [0.8]);
        assert_eq!(shares_of(&[load(100.0, 125.0, 30.0)]), [1.0], "it errs as much");
        assert_eq!(shares_of(&[load(100.0, 5000.0, 10.0)]), [RISE_MIN]);
        assert_eq!(shares_of(&[load(100.0, 50.0, 0.0)]), [1.0], "less to do takes nothing away");
        assert_eq!(shares_of(&[load(0.0, 100.0, 0.0), load(0.0, 1.0, 0.0)]), [RISE_MIN, PART_MIN * RISE_MIN]);
    }

    #[test]
    fn shares_are_told_once_a_minute_and_follow_what_is_asked() {
        let mut world = World::new();
        world.run(121, [("a", 1000), ("b", 500)]);
        let shares = world.volume.take_shares().expect("two minutes are over");
        assert!(shares[0] > 0.95 && (shares[1] - 0.5).abs() < 0.05, "{shares:?}");
        assert_eq!(world.volume.take_shares(), None);
        world.run(600, [("a", 200), ("b", 500)]);
        let shares = world.volume.take_shares().expect("ten minutes are over");
        assert!((shares[0] - 0.4).abs() < 0.05 && shares[1] > 0.95, "{shares:?}");
        assert_eq!(
            world.volume.json()["cores"][0]["share"].as_f64().map(|share| (share * 100.0).round()),
            Some(f64::from((shares[0] * 100.0).round()))
        );
    }
}
