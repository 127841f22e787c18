//! How many requests each core had in the last minutes, and how many the next one will bring ([`crate::forecast`]).

use crate::forecast::Forecast;
use std::fmt::Write;
use std::time::{Duration, Instant};

/// A span of the forecast, and how many a season has: minutes of a day.
const SPAN: Duration = Duration::from_secs(60);
const SPANS: usize = 24 * 60;

/// One core's volume.
struct Core {
    forecast: Forecast,
    /// Commands when the span began, and as reported last.
    before: u64,
    last: u64,
    begin: Option<Instant>,
}

/// Those of all cores.
pub(super) struct Volume {
    cores: Vec<Core>,
}

impl Volume {
    pub fn new(cores: usize) -> Volume {
        let core = || Core { forecast: Forecast::new(SPANS), before: 0, last: 0, begin: None };
        Volume { cores: (0..cores).map(|_| core()).collect() }
    }

    /// A core has had so many commands since it began, or since its counters were reset.
    pub fn take(&mut self, now: Instant, core: usize, commands: u64) {
        let Some(core) = self.cores.get_mut(core) else { return };
        if commands < core.last {
            // Reset: what came since counts, what was before it in this span is lost.
            core.before = 0;
        }
        core.last = commands;
        let Some(begin) = core.begin else {
            (core.begin, core.before) = (Some(now), commands);
            return;
        };
        let span = now.duration_since(begin);
        if span >= SPAN {
            // A report may be late: what counts is commands a second.
            let rate = (commands - core.before) as f64 / span.as_secs_f64();
            core.forecast.add(rate as f32);
            (core.begin, core.before) = (Some(now), commands);
        }
    }

    /// Appends forecasts in Prometheus' text format; nothing in the first minute.
    pub fn render(&self, text: &mut String) -> std::fmt::Result {
        let told = || {
            let cores = self.cores.iter().enumerate();
            cores.filter_map(|(place, core)| Some((place, &core.forecast, core.forecast.next()?)))
        };
        if told().next().is_none() {
            return Ok(());
        }
        let name = "foreshadow_forecast_commands_per_second";
        writeln!(
            text,
            "\n# HELP {name} Commands a second that the next minute is thought to bring, by the method that has erred least.\n# TYPE {name} gauge"
        )?;
        for (core, _, (said, method)) in told() {
            writeln!(text, "{name}{{core=\"{core}\",method=\"{}\"}} {said:.1}", method.name())?;
        }
        let name = "foreshadow_forecast_error_commands_per_second";
        writeln!(text, "\n# HELP {name} How much that method errs, smoothed.\n# TYPE {name} gauge")?;
        for (core, forecast, (_, method)) in told() {
            writeln!(text, "{name}{{core=\"{core}\"}} {:.1}", forecast.error_of(method))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_of_each_minute_is_learnt_whatever_the_reports_do() {
        let mut volume = Volume::new(2);
        let begin = Instant::now();
        let shown = |volume: &Volume| {
            let mut text = String::new();
            volume.render(&mut text).expect("a String takes all");
            text
        };
        // 100 a second, a report a second; counters are reset once.
        for second in 0..=180u64 {
            let commands = if second < 90 { 1000 + second * 100 } else { (second - 90) * 100 };
            volume.take(begin + Duration::from_secs(second), 1, commands);
            assert_eq!(shown(&volume).is_empty(), second < 60);
        }
        volume.take(begin, 7, 5);
        let text = shown(&volume);
        let line =
            text.lines().find(|line| line.starts_with("foreshadow_forecast_commands_per_second{core=\"1\""));
        let said: f64 = line.expect("told").rsplit(' ').next().expect("a number").parse().expect("a number");
        assert!((60.0..=100.0).contains(&said), "{text}");
        assert!(!text.contains("core=\"0\""), "nobody reported for it");
    }
}
