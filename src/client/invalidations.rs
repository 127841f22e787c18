//! Forgetting: of one key, of many, of all that a prefix or a tag names.

use super::{Client, Error, Reply, UNFIT};

impl Client {
    /// Removes the item of a key; answers whether there was one.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn invalidate(&mut self, key: &[u8]) -> Result<bool, Error> {
        let mut pipeline = self.pipeline();
        pipeline.invalidate(key);
        removed(pipeline.one()?)
    }

    /// Leaves the item of a key as out of date: plain reads still get it, the next read under lease refills it. Answers whether
    /// there was one.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn invalidate_stale(&mut self, key: &[u8]) -> Result<bool, Error> {
        let mut pipeline = self.pipeline();
        pipeline.invalidate_stale(key);
        removed(pipeline.one()?)
    }

    /// Removes many items; answers in the order of the keys whether there was one.
    ///
    /// # Errors
    /// As [`Client::get_many`].
    pub fn invalidate_many<K: AsRef<[u8]>>(&mut self, keys: &[K]) -> Result<Vec<bool>, Error> {
        let mut pipeline = self.pipeline();
        pipeline.invalidate_many(keys.iter().map(AsRef::as_ref));
        pipeline.run().into_iter().map(|reply| removed(reply?)).collect()
    }

    /// Removes all items whose keys begin so, on every core; the empty prefix: all items. What was fetched before and comes
    /// later is not stored.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn invalidate_prefix(&mut self, prefix: &[u8]) -> Result<(), Error> {
        let mut pipeline = self.pipeline();
        pipeline.invalidate_prefix(prefix);
        forgotten(pipeline.one()?).map(drop)
    }

    /// Removes all items that an origin put under a tag, on every core; answers how many that were.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn invalidate_tag(&mut self, tag: &[u8]) -> Result<u64, Error> {
        let mut pipeline = self.pipeline();
        pipeline.invalidate_tag(tag);
        forgotten(pipeline.one()?)
    }
}

fn removed(reply: Reply) -> Result<bool, Error> {
    match reply {
        Reply::Removed => Ok(true),
        Reply::Missing => Ok(false),
        _ => Err(UNFIT),
    }
}

fn forgotten(reply: Reply) -> Result<u64, Error> {
    match reply {
        Reply::Forgotten(count) => Ok(count),
        _ => Err(UNFIT),
    }
}
