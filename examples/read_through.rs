//! Read-through with leases: callers only read; of those who miss a key together, one loads it and the others wait for that.
//!
//! `cargo run --example read_through [ADDRESS]`, with a server at ADDRESS (127.0.0.1:7400).
//!
//! The lease also keeps an old answer out: whoever invalidates the key while it is being loaded takes the loader's right to fill away.

use foreshadow::client::{Client, Error, Leased, Options};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const TTL: Duration = Duration::from_secs(30);
/// How long a loader may take before another one gets the right.
const HOLD: Duration = Duration::from_secs(5);
/// Between two looks of one who waits for a loader.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// The value of a key, loaded with `load` by one caller at a time. Somebody who has waited for `patience` loads it for
/// himself and does not store it.
fn read(
    cache: &mut Client,
    key: &[u8],
    patience: Duration,
    load: impl Fn(&[u8]) -> Vec<u8>,
) -> Result<Vec<u8>, Error> {
    let begun = Instant::now();
    loop {
        match cache.lease_get(key, HOLD)? {
            Leased::Hit(item) => return Ok(item.value),
            // Somebody else refreshes it; the old value will do until then.
            Leased::Old { item, refill: None } => return Ok(item.value),
            Leased::Fill(lease) | Leased::Old { refill: Some(lease), .. } => {
                let value = load(key);
                // If the lease is lost, the value is still what the origin said: good for this caller, but not to be stored.
                cache.lease_put(key, lease, &value, Some(TTL))?;
                return Ok(value);
            }
            Leased::Wait if begun.elapsed() < patience => thread::sleep(LOOK_AGAIN),
            Leased::Wait => return Ok(load(key)),
        }
    }
}

/// Eight threads read the same ten keys from a slow origin; answers how often that was asked.
pub fn run(address: &str) -> Result<u32, Error> {
    let keys: Vec<String> = (0..10).map(|i| format!("page:{i}")).collect();
    Client::connect(address, Options::default())?.invalidate_many(&keys)?;
    let asked = AtomicU32::new(0);
    let origin = |key: &[u8]| {
        asked.fetch_add(1, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(20));
        [b"contents of ", key].concat()
    };
    thread::scope(|scope| {
        let readers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut cache = Client::connect(address, Options::default())?;
                    for key in &keys {
                        let value = read(&mut cache, key.as_bytes(), Duration::from_secs(10), origin)?;
                        assert_eq!(value, format!("contents of {key}").into_bytes());
                    }
                    Ok(())
                })
            })
            .collect();
        readers.into_iter().try_for_each(|reader| reader.join().expect("a reader asserts"))
    })?;
    Ok(asked.load(Ordering::Relaxed))
}

/// The example as a program.
pub fn main() -> Result<(), Error> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7400".to_owned());
    println!("80 reads asked the origin {} times", run(&address)?);
    Ok(())
}
