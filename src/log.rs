//! Logs: formatted where they arise, written by a thread of their own, so that a core never waits for a terminal or pipe.

use crate::config::LogFormat;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait to be written; more are dropped and counted, never waited for.
const LINES_MAX: usize = 4096;

/// The thread that writes; dropping it writes what is left.
pub struct Logging {
    lines: SyncSender<Line>,
    thread: Option<JoinHandle<()>>,
}

enum Line {
    Text(Vec<u8>),
    Stop,
}

/// Starts logging for the process. Called once; a second call in the same process leaves the first in place.
pub fn start(level: LevelFilter, format: LogFormat) -> Logging {
    let (lines, written) = sync_channel(LINES_MAX);
    let dropped = Arc::new(AtomicU64::new(0));
    let queue = Queue { lines: lines.clone(), dropped: dropped.clone() };
    let thread = std::thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || write_lines(&written, &dropped, &mut io::stderr()))
        .expect("a thread can be started when the process has just begun");
    let builder = tracing_subscriber::fmt().with_max_level(level).with_ansi(false).with_writer(queue);
    // An embedding program that logs in its own way keeps it.
    let _ = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    Logging { lines, thread: Some(thread) }
}

impl Drop for Logging {
    fn drop(&mut self) {
        if self.lines.send(Line::Stop).is_ok()
            && let Some(thread) = self.thread.take()
        {
            // A writer that panicked has nothing left to say.
            let _ = thread.join();
        }
    }
}

fn write_lines(lines: &Receiver<Line>, dropped: &AtomicU64, out: &mut impl Write) {
    while let Ok(Line::Text(line)) = lines.recv() {
        // There is nobody left to tell that standard error is gone.
        let _ = out.write_all(&line);
        match dropped.swap(0, Ordering::Relaxed) {
            0 => {}
            count => {
                let _ = writeln!(out, "{count} log lines were dropped: standard error is too slow");
            }
        }
    }
}

/// Where the formatter gets its writers.
struct Queue {
    lines: SyncSender<Line>,
    dropped: Arc<AtomicU64>,
}

/// Collects one line and queues it when it is dropped.
struct LineWriter<'a> {
    queue: &'a Queue,
    line: Vec<u8>,
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> LineWriter<'a> {
        LineWriter { queue: self, line: Vec::new() }
    }
}

impl Write for LineWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for LineWriter<'_> {
    fn drop(&mut self) {
        let line = std::mem::take(&mut self.line);
        if !line.is_empty() && self.queue.lines.try_send(Line::Text(line)).is_err() {
            self.queue.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_drops_lines_and_says_how_many() {
        let (lines, written) = sync_channel(2);
        let queue = Queue { lines, dropped: Arc::new(AtomicU64::new(0)) };
        for i in 0..5 {
            writeln!(queue.make_writer(), "line {i}").unwrap();
        }
        let Queue { lines, dropped } = queue;
        drop(lines);
        let mut out = Vec::new();
        write_lines(&written, &dropped, &mut out);
        let expected = "line 0\n3 log lines were dropped: standard error is too slow\nline 1\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
