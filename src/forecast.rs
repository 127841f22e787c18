//! How much will be asked for next: four ways to say so run side by side, and the one that has erred least of late speaks.
//!
//! | method | says |
//! |---|---|
//! | last | as much as the last time |
//! | smoothed | an exponential average |
//! | trend | Holt: level and trend, both smoothed, the trend fading |
//! | seasonal | Holt and Winters: the same, times what this part of the season usually is |
//!
//! A value is that of a span, of which a season (a day, say) has so many; neighbouring spans may share a factor, which makes
//! a long season small. What each method said of a span is held against what it became before any of them learns it. Seasons
//! win on loads that follow the clock and lose on others; nobody has to know which it is.

/// What the latest value counts for: level of the average, of the trend's level, of the trend itself, of the season's factors.
const SMOOTHING: f32 = 0.6;
const LEVEL: f32 = 0.5;
const TREND: f32 = 0.1;
const SEASON: f32 = 0.3;
/// The part of a trend that is left a span later.
const FADING: f32 = 0.98;
/// What the latest error counts for.
const ERROR: f32 = 0.1;

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// As the last value.
    Last,
    /// An exponential average.
    Smoothed,
    /// Holt's.
    Trend,
    /// Holt's and Winters'.
    Seasonal,
}

impl Method {
    /// All.
    pub const ALL: [Method; 4] = [Method::Last, Method::Smoothed, Method::Trend, Method::Seasonal];

    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            Method::Last => "last",
            Method::Smoothed => "smoothed",
            Method::Trend => "trend",
            Method::Seasonal => "seasonal",
        }
    }
}

/// How a season is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Season {
    /// Factors that it is described by, at least 2.
    pub factors: usize,
    /// Spans that share one, at least 1.
    pub spans_each: usize,
}

/// Level and trend.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    level: f32,
    trend: f32,
}

impl Line {
    fn next(&self) -> f32 {
        self.level + FADING * self.trend
    }

    fn learn(&mut self, value: f32) {
        let before = *self;
        self.level = before.next() + LEVEL * (value - before.next());
        self.trend = FADING * before.trend + TREND * (self.level - before.level - FADING * before.trend);
    }
}

/// Forecasts of one series.
#[derive(Clone, Debug)]
pub struct Forecast {
    /// Spans that have been, and those of a season and of each of its factors.
    count: usize,
    spans: usize,
    spans_each: usize,
    last: f32,
    average: f32,
    line: Line,
    seasonal: Line,
    /// What each part of a season is of the usual; in the first season the means of the values themselves.
    factors: Box<[f32]>,
    /// Smoothed absolute errors, in the order of [`Method::ALL`].
    errors: [f32; Method::ALL.len()],
}

impl Forecast {
    /// One that has seen nothing.
    pub fn new(season: Season) -> Forecast {
        let (factors, spans_each) = (season.factors.max(2), season.spans_each.max(1));
        Forecast {
            count: 0,
            spans: factors * spans_each,
            spans_each,
            last: 0.0,
            average: 0.0,
            line: Line::default(),
            seasonal: Line::default(),
            factors: vec![0.0; factors].into_boxed_slice(),
            errors: [0.0; Method::ALL.len()],
        }
    }

    /// The value of a span that is over.
    pub fn add(&mut self, value: f32) {
        if self.count > 0 {
            for (place, method) in Method::ALL.into_iter().enumerate() {
                if let Some(said) = self.said_by(method) {
                    self.errors[place] += ERROR * ((value - said).abs() - self.errors[place]);
                }
            }
        }
        if self.count == 0 {
            (self.average, self.line.level) = (value, value);
        } else {
            self.average += SMOOTHING * (value - self.average);
            self.line.learn(value);
        }
        let (place, share) = (self.place(), 1.0 / self.spans_each as f32);
        if self.count < self.spans {
            self.factors[place] += share * value;
        } else {
            let factor = self.factors[place];
            let usual = if factor > 0.0 { value / factor } else { self.seasonal.next() };
            self.seasonal.learn(usual);
            if self.seasonal.level > 0.0 {
                self.factors[place] += share * SEASON * (value / self.seasonal.level - factor);
            }
        }
        self.last = value;
        self.count += 1;
        if self.count == self.spans {
            let mean = self.factors.iter().sum::<f32>() / self.factors.len() as f32;
            self.factors
                .iter_mut()
                .for_each(|factor| *factor = if mean > 0.0 { *factor / mean } else { 1.0 });
            self.seasonal = Line { level: mean, trend: 0.0 };
            // Nothing is known of it yet: it begins with the worst of the others, and has to earn its word.
            self.errors[Method::Seasonal as usize] = self.errors.iter().copied().fold(0.0, f32::max);
        }
    }

    /// The latest value; 0 before there was one.
    pub fn last(&self) -> f32 {
        self.last
    }

    /// What the next span will be, never below 0, and who says so; nothing as long as nothing was seen. Changes with each value.
    pub fn next(&self) -> Option<(f32, Method)> {
        if self.count == 0 {
            return None;
        }
        let speakers = Method::ALL.into_iter().filter_map(|method| Some((method, self.said_by(method)?)));
        let least =
            speakers.min_by(|(one, _), (other, _)| self.error_of(*one).total_cmp(&self.error_of(*other)));
        least.map(|(method, said)| (said, method))
    }

    /// How much a method errs, smoothed, in the units of the values.
    pub fn error_of(&self, method: Method) -> f32 {
        self.errors[method as usize]
    }

    fn said_by(&self, method: Method) -> Option<f32> {
        let said = match method {
            Method::Last => self.last,
            Method::Smoothed => self.average,
            Method::Trend => self.line.next(),
            Method::Seasonal if self.count < self.spans => return None,
            Method::Seasonal => self.seasonal.next() * self.factors[self.place()],
        };
        Some(said.max(0.0))
    }

    /// The factor of the next span.
    fn place(&self) -> usize {
        self.count % self.spans / self.spans_each
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fed(factors: usize, values: impl IntoIterator<Item = f32>) -> Forecast {
        let mut forecast = Forecast::new(Season { factors, spans_each: 1 });
        values.into_iter().for_each(|value| forecast.add(value));
        forecast
    }

    #[test]
    fn a_load_that_follows_the_clock_is_foretold_by_its_season() {
        let day = |i: usize| 100.0 + 80.0 * (i as f32 / 24.0 * std::f32::consts::TAU).sin();
        let forecast = fed(24, (0..24 * 10).map(day));
        let (said, method) = forecast.next().expect("it has seen much");
        assert_eq!(method, Method::Seasonal);
        assert!((said - day(240)).abs() < 3.0, "{said} for {}", day(240));
        assert!(forecast.error_of(Method::Seasonal) * 4.0 < forecast.error_of(Method::Last));
    }

    #[test]
    fn spans_that_share_a_factor_know_their_season_from_few() {
        // Ten spans of an hour, 24 hours; nights are quiet, and the day begins with a jump.
        let season = Season { factors: 24, spans_each: 10 };
        let day = |i: usize| if i / 10 % 24 < 3 { 10.0 } else { 100.0 };
        let mut forecast = Forecast::new(season);
        (0..240 * 6).for_each(|i| forecast.add(day(i)));
        assert_eq!(forecast.factors.len(), 24);
        // What nobody knows but who knows the hour: that the night is over.
        (0..30).for_each(|i| forecast.add(day(i)));
        let (said, method) = forecast.next().expect("it has seen much");
        assert!(method == Method::Seasonal && (90.0..110.0).contains(&said), "{said} by {method:?}");
    }

    #[test]
    fn a_load_that_grows_is_foretold_by_its_trend_and_one_that_trembles_by_its_average() {
        let growing = fed(1000, (0..200).map(|i| 10.0 * i as f32));
        let (said, method) = growing.next().expect("it has seen much");
        assert!(method == Method::Trend && (said - 2000.0).abs() < 30.0, "{said} by {method:?}");
        let trembling = fed(1000, (0..400).map(|i| if i % 2 == 0 { 90.0 } else { 110.0 }));
        let (said, method) = trembling.next().expect("it has seen much");
        assert!(method != Method::Last && (said - 100.0).abs() < 11.0, "{said} by {method:?}");
    }

    #[test]
    fn nothing_is_foretold_of_nothing_and_never_less_than_nothing() {
        assert_eq!(Forecast::new(Season { factors: 0, spans_each: 0 }).next(), None);
        let falling = fed(4, [1000.0, 500.0, 100.0, 0.0, 0.0, 0.0, 0.0]);
        assert!(falling.next().is_some_and(|(said, _)| (0.0..500.0).contains(&said)));
        let silent = fed(4, [0.0; 20]);
        assert_eq!(silent.next().map(|(said, _)| said), Some(0.0));
    }
}
