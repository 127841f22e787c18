//! `/v1/record`: a sampled trace of live traffic, streamed while it is recorded, in the format that `replay` reads.
//!
//! ```text
//!   GET /v1/record?seconds=60&sample=0.1
//!        |--- Errand::Record(Some) ---> cores: Recorder -- Chunk --> [64] --> Merger --> [16 pieces] --> the answer's body
//!        |--- Errand::Record(None) ---> at the end: time is over, rows enough, or who asked has gone
//! ```
//! One recording at a time. Who reads too slowly loses rows, and the last row says how many.

use super::errands::{Carrier, Errand, Recording};
use super::query::fields;
use crate::recording::{MAGIC, Merger, Options};
use axum::body::Bytes;
use std::io::{self, Read};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;

/// Longest recording.
pub const SECONDS_MAX: u64 = 3600;
const SECONDS_DEFAULT: u64 = 60;
/// Most rows of one: 3.2 GB.
pub const ROWS_MAX: u64 = 100_000_000;
const ROWS_DEFAULT: u64 = 10_000_000;
/// Chunks of the cores that wait to be merged, and merged pieces that wait to be sent.
const CHUNKS_MAX: usize = 64;
const PIECES_MAX: usize = 16;
/// How long cores may take to hand over their last rows: they report once a second at the latest.
const LAST_ROWS: Duration = Duration::from_secs(3);
/// What a connection gets beyond the recording, for its last bytes.
pub(super) const GRACE: Duration = Duration::from_secs(30);

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Wish {
    pub seconds: u64,
    sample: f64,
    rows: u64,
}

impl Wish {
    /// From the page's query; else what is wrong with it.
    pub fn of(query: &str) -> Result<Wish, String> {
        let mut wish = Wish { seconds: SECONDS_DEFAULT, sample: 1.0, rows: ROWS_DEFAULT };
        for (name, value) in fields(query) {
            let value = String::from_utf8_lossy(&value);
            let wrong = |wanted: &str| Err(format!("{name}={value}: {wanted} is wanted"));
            match &*name {
                "seconds" => match value.parse() {
                    Ok(seconds @ 1..=SECONDS_MAX) => wish.seconds = seconds,
                    _ => return wrong(&format!("a number from 1 to {SECONDS_MAX}")),
                },
                "rows" => match value.parse() {
                    Ok(rows @ 1..=ROWS_MAX) => wish.rows = rows,
                    _ => return wrong(&format!("a number from 1 to {ROWS_MAX}")),
                },
                "sample" => match value.parse() {
                    Ok(sample) if sample > 0.0 && sample <= 1.0 => wish.sample = sample,
                    _ => return wrong("a part above 0 and up to 1"),
                },
                _ => return Err(format!("{name} is not known here; there are seconds, sample and rows")),
            }
        }
        Ok(wish)
    }
}

/// The right to record: there is one.
#[derive(Clone)]
pub(super) struct Desk {
    carrier: Carrier,
    busy: Arc<AtomicBool>,
    cores: usize,
}

/// Why there is no recording.
#[derive(Debug)]
pub(super) enum Refusal {
    Busy,
    NoSecret(io::Error),
}

/// The body of the answer.
pub(super) struct Pieces(mpsc::Receiver<Bytes>);

impl futures_core::Stream for Pieces {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(Ok))
    }
}

impl Desk {
    pub fn new(carrier: Carrier, cores: usize) -> Desk {
        Desk { carrier, busy: Arc::default(), cores }
    }

    /// Begins a recording.
    pub fn begin(&self, wish: Wish) -> Result<Pieces, Refusal> {
        let mut secret = [0; 16];
        std::fs::File::open("/dev/urandom")
            .and_then(|mut file| file.read_exact(&mut secret))
            .map_err(Refusal::NoSecret)?;
        if self.busy.swap(true, Ordering::AcqRel) {
            return Err(Refusal::Busy);
        }
        let (low, high) = (u128::from_le_bytes(secret) as u64, (u128::from_le_bytes(secret) >> 64) as u64);
        let (recording, chunks) = Recording::new(Options::sampled([low, high], wish.sample), CHUNKS_MAX);
        let (pieces, body) = mpsc::channel(PIECES_MAX);
        (self.carrier)(Errand::Record(Some(Arc::new(recording))));
        tracing::info!(seconds = wish.seconds, sample = wish.sample, "recording");
        tokio::spawn(self.clone().carry(wish, chunks, pieces));
        Ok(Pieces(body))
    }

    /// Takes rows of the cores to who reads them, until the end.
    async fn carry(
        self,
        wish: Wish,
        mut chunks: mpsc::Receiver<crate::recording::Chunk>,
        pieces: mpsc::Sender<Bytes>,
    ) {
        let mut merger = Merger::new(self.cores, wish.rows);
        let end = tokio::time::Instant::now() + Duration::from_secs(wish.seconds);
        let mut out = MAGIC.to_vec();
        // A head is sent at once, so that who asked sees that it goes.
        let mut wanted = pieces.send(Bytes::from(std::mem::take(&mut out))).await.is_ok();
        while wanted && !merger.is_full() {
            tokio::select! {
                () = tokio::time::sleep_until(end) => break,
                () = pieces.closed() => wanted = false,
                chunk = chunks.recv() => {
                    let Some(chunk) = chunk else { break };
                    merger.take(&chunk);
                    merger.poll(&mut out);
                    if !out.is_empty() {
                        wanted = tokio::select! {
                            sent = pieces.send(Bytes::from(std::mem::take(&mut out))) => sent.is_ok(),
                            () = tokio::time::sleep_until(end + GRACE) => false,
                        };
                    }
                }
            }
        }
        (self.carrier)(Errand::Record(None));
        // The channel ends when the last core has let go of the recording.
        let deadline = tokio::time::Instant::now() + LAST_ROWS;
        while let Ok(Some(chunk)) = tokio::time::timeout_at(deadline, chunks.recv()).await {
            merger.take(&chunk);
        }
        merger.finish(&mut out);
        if wanted {
            // Who has gone meanwhile has a trace without a last row.
            let _ = tokio::time::timeout(GRACE, pieces.send(Bytes::from(out))).await;
        }
        self.busy.store(false, Ordering::Release);
        tracing::info!("recorded");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_read_and_what_is_wrong_with_it_said() {
        assert_eq!(Wish::of(""), Ok(Wish { seconds: 60, sample: 1.0, rows: 10_000_000 }));
        let wish = Wish::of("seconds=5&sample=0.25&rows=7");
        assert_eq!(wish, Ok(Wish { seconds: 5, sample: 0.25, rows: 7 }));
        for bad in ["seconds=0", "seconds=9999", "sample=0", "sample=1.5", "sample=x", "rows=0"] {
            let why = Wish::of(bad).unwrap_err();
            assert!(why.starts_with(bad) && why.ends_with("is wanted"), "{why}");
        }
        assert!(Wish::of("second=1").unwrap_err().contains("there are seconds, sample and rows"));
    }
}
