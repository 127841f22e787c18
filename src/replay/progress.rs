//! A line on the terminal that says how far it is. Nowhere else: a log has no use for it.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

const BAR_LEN: usize = 30;
const PAUSE: Duration = Duration::from_millis(100);

/// The line.
pub struct Progress {
    shown: Option<Instant>,
    terminal: bool,
}

impl Progress {
    /// A line that is not there yet.
    pub fn new() -> Progress {
        Progress { shown: None, terminal: std::io::stderr().is_terminal() }
    }

    /// Shows that `done` of `all` are done of what is going on.
    pub fn show(&mut self, what: &str, done: u64, all: u64) {
        if !self.terminal || self.shown.is_some_and(|shown| shown.elapsed() < PAUSE) {
            return;
        }
        self.shown = Some(Instant::now());
        // Nothing is lost if the terminal is gone.
        let _ = write!(std::io::stderr(), "\r\x1b[K{}", line(what, done, all));
    }

    /// Clears the line.
    pub fn end(&mut self) {
        if self.shown.take().is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

fn line(what: &str, done: u64, all: u64) -> String {
    let part = if all == 0 { 1.0 } else { (done as f64 / all as f64).min(1.0) };
    let full = (part * BAR_LEN as f64) as usize;
    format!("{what:<20} [{}{}] {:3.0} %", "=".repeat(full), " ".repeat(BAR_LEN - full), part * 100.0)
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn the_bar_is_as_long_as_what_is_done() {
        assert_eq!(line("lru", 1, 2), format!("{:<20} [{}{}]  50 %", "lru", "=".repeat(15), " ".repeat(15)));
        assert!(line("lru", 5, 0).ends_with("100 %"));
        assert!(line("lru", 7, 5).ends_with("100 %"));
    }
}
