//! Cache-aside: the application looks into the cache, asks its database on a miss and stores what it got.
//!
//! `cargo run --example cache_aside [ADDRESS]`, with a server at ADDRESS (127.0.0.1:7400).
//!
//! Two things keep it honest. A reader fills **only if there is nothing** (`Only::IfAbsent`), so that it does not overwrite what a
//! writer stored while it asked the database. A writer **invalidates after** it wrote. What is left is the reader who asked the database before
//! the write and fills after the invalidation: the time to live bounds that; a lease excludes it, see `read_through.rs`.

use foreshadow::client::{Client, Error, Only, Options, PutOptions};
use std::collections::HashMap;
use std::time::Duration;

const TTL: Duration = Duration::from_secs(30);

/// Where truth lives, and how often it was asked.
struct Database {
    rows: HashMap<u32, String>,
    reads: u32,
}

fn read(cache: &mut Client, database: &mut Database, id: u32) -> Result<Option<String>, Error> {
    let key = format!("user:{id}");
    if let Some(item) = cache.get(key.as_bytes())? {
        return Ok(Some(String::from_utf8_lossy(&item.value).into_owned()));
    }
    database.reads += 1;
    let Some(row) = database.rows.get(&id).cloned() else { return Ok(None) };
    let fill = PutOptions { ttl: Some(TTL), only: Only::IfAbsent, ..PutOptions::PLAIN };
    cache.put_with(key.as_bytes(), row.as_bytes(), fill)?;
    Ok(Some(row))
}

fn write(cache: &mut Client, database: &mut Database, id: u32, row: &str) -> Result<(), Error> {
    database.rows.insert(id, row.to_owned());
    cache.invalidate(format!("user:{id}").as_bytes())?;
    Ok(())
}

/// Reads and writes a user; answers how often the database was asked.
pub fn run(address: &str) -> Result<u32, Error> {
    let mut cache = Client::connect(address, Options::default())?;
    let mut database = Database { rows: HashMap::from([(1, "Ada".to_owned())]), reads: 0 };
    cache.invalidate(b"user:1")?;
    for _ in 0..3 {
        assert_eq!(read(&mut cache, &mut database, 1)?.as_deref(), Some("Ada"));
    }
    write(&mut cache, &mut database, 1, "Ada Lovelace")?;
    for _ in 0..3 {
        assert_eq!(read(&mut cache, &mut database, 1)?.as_deref(), Some("Ada Lovelace"));
    }
    assert_eq!(read(&mut cache, &mut database, 2)?, None);
    Ok(database.reads)
}

/// The example as a program.
pub fn main() -> Result<(), Error> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7400".to_owned());
    let reads = run(&address)?;
    println!("seven reads asked the database {reads} times");
    Ok(())
}
