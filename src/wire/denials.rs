//! What was refused to whom, for `ACL LOG`: the last ones of a core, like ones counted together.

use std::collections::VecDeque;

/// Entries of a core, and of an answer for all cores.
pub const DENIALS_MAX: usize = 128;
/// Like ones within so many milliseconds are one, ..
const ALIKE_MILLIS_MAX: u64 = 60_000;
/// .. if the first of them is among so many latest.
const LOOKED_AT: usize = 10;
/// Bytes of a client's words that are kept.
const WORD_BYTES_MAX: usize = 1024;

/// Why something was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Ground {
    /// A command.
    Command,
    /// A key.
    Key,
    /// A channel.
    Channel,
    /// Who signs in is not whom it says, or may not.
    Login,
}

impl Ground {
    fn name(self) -> &'static str {
        match self {
            Ground::Command => "command",
            Ground::Key => "key",
            Ground::Channel => "channel",
            Ground::Login => "auth",
        }
    }
}

/// Something that was refused.
pub struct Denial<'a> {
    /// Why.
    pub ground: Ground,
    /// Whether it was a part of a transaction.
    pub queued: bool,
    /// The command, key or channel.
    pub object: &'a [u8],
    /// Who asked, or said to be.
    pub user: &'a [u8],
    /// The connection, as a line of `CLIENT LIST` without its end.
    pub client: &'a [u8],
}

/// One or several of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Unique on the node.
    pub number: u64,
    /// How many.
    pub count: u64,
    /// Milliseconds since 1970 of the first.
    pub created: u64,
    /// Of the last.
    pub updated: u64,
    /// `command`, `key`, `channel` or `auth`.
    pub reason: &'static str,
    /// `toplevel` or `multi`.
    pub context: &'static str,
    /// The command, key or channel.
    pub object: Vec<u8>,
    /// Who.
    pub user: Vec<u8>,
    /// The connection of the last.
    pub client: Vec<u8>,
}

impl Entry {
    fn is_like(&self, other: &Entry) -> bool {
        self.reason == other.reason
            && self.context == other.context
            && self.updated.abs_diff(other.updated) <= ALIKE_MILLIS_MAX
            && self.object == other.object
            && self.user == other.user
    }

    fn append_to(&self, page: &mut Vec<u8>) {
        for word in [self.number, self.count, self.created, self.updated] {
            page.extend_from_slice(&word.to_le_bytes());
        }
        for text in [self.reason.as_bytes(), self.context.as_bytes(), &self.object, &self.user, &self.client]
        {
            page.extend_from_slice(&(text.len() as u32).to_le_bytes());
            page.extend_from_slice(text);
        }
    }

    fn take(page: &mut &[u8]) -> Option<Entry> {
        let mut words = [0; 4];
        for word in &mut words {
            let (bytes, rest) = page.split_first_chunk::<8>()?;
            (*word, *page) = (u64::from_le_bytes(*bytes), rest);
        }
        let mut texts = [&b""[..]; 5];
        for text in &mut texts {
            let (len, rest) = page.split_first_chunk::<4>()?;
            (*text, *page) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        }
        let known = |text: &[u8], names: &[&'static str]| {
            names.iter().copied().find(|name| name.as_bytes() == text).unwrap_or_default()
        };
        let grounds = [Ground::Command, Ground::Key, Ground::Channel, Ground::Login].map(Ground::name);
        let [number, count, created, updated] = words;
        Some(Entry {
            number,
            count,
            created,
            updated,
            reason: known(texts[0], &grounds),
            context: known(texts[1], &["toplevel", "multi"]),
            object: texts[2].to_vec(),
            user: texts[3].to_vec(),
            client: texts[4].to_vec(),
        })
    }
}

/// The latest of a core, the last one first.
#[derive(Debug, Default)]
pub struct Denials {
    entries: VecDeque<Entry>,
    made: u64,
}

impl Denials {
    /// Takes in one at so many milliseconds since 1970. `core` and `cores` make its number unique on the node.
    pub fn add(&mut self, (core, cores): (u16, u16), unix_millis: u64, denial: &Denial<'_>) {
        let cut = |text: &[u8]| text[..text.len().min(WORD_BYTES_MAX)].to_vec();
        let entry = Entry {
            number: self.made * u64::from(cores) + u64::from(core),
            count: 1,
            created: unix_millis,
            updated: unix_millis,
            reason: denial.ground.name(),
            context: if denial.queued { "multi" } else { "toplevel" },
            object: cut(denial.object),
            user: cut(denial.user),
            // Made by us of what is bounded already.
            client: denial.client.to_vec(),
        };
        let alike = self.entries.iter().take(LOOKED_AT).position(|known| known.is_like(&entry));
        match alike.and_then(|place| self.entries.remove(place)) {
            Some(known) => self.entries.push_front(Entry {
                number: known.number,
                count: known.count + 1,
                created: known.created,
                ..entry
            }),
            None => {
                self.made += 1;
                self.entries.truncate(DENIALS_MAX - 1);
                self.entries.push_front(entry);
            }
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.entries.clear();
    }

    /// Appends all, for [`merged`].
    pub fn append_to(&self, page: &mut Vec<u8>) {
        self.entries.iter().for_each(|entry| entry.append_to(page));
    }
}

/// The latest of all cores by their pages, the last one first; like ones of several cores are one.
pub fn merged(mut pages: &[u8]) -> Vec<Entry> {
    let mut entries: Vec<Entry> = std::iter::from_fn(|| Entry::take(&mut pages)).collect();
    entries.sort_by_key(|entry| std::cmp::Reverse((entry.updated, entry.number)));
    let mut kept: Vec<Entry> = Vec::new();
    for entry in entries {
        match kept.iter_mut().find(|known| known.is_like(&entry)) {
            Some(known) => {
                known.count += entry.count;
                known.created = known.created.min(entry.created);
                known.number = known.number.min(entry.number);
            }
            None => kept.push(entry),
        }
    }
    kept.truncate(DENIALS_MAX);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denial<'a>(ground: Ground, object: &'a str, user: &'a str) -> Denial<'a> {
        let (object, user) = (object.as_bytes(), user.as_bytes());
        Denial { ground, queued: false, object, user, client: b"id=1" }
    }

    fn page(cores: &[&Denials]) -> Vec<u8> {
        let mut page = Vec::new();
        cores.iter().for_each(|core| core.append_to(&mut page));
        page
    }

    #[test]
    fn like_ones_within_a_minute_are_counted_together_and_come_first_again() {
        let mut denials = Denials::default();
        denials.add((1, 2), 1_000, &denial(Ground::Command, "get", "alice"));
        denials.add((1, 2), 2_000, &denial(Ground::Key, "get", "alice"));
        denials.add((1, 2), 3_000, &denial(Ground::Command, "get", "bob"));
        let queued = Denial { queued: true, ..denial(Ground::Command, "get", "alice") };
        denials.add((1, 2), 4_000, &queued);
        denials.add((1, 2), 61_000, &denial(Ground::Command, "get", "alice"));
        let told: Vec<(u64, u64, u64)> = merged(&page(&[&denials]))
            .iter()
            .map(|entry| (entry.number, entry.count, entry.updated))
            .collect();
        assert_eq!(told, [(1, 2, 61_000), (7, 1, 4_000), (5, 1, 3_000), (3, 1, 2_000)]);
        denials.add((1, 2), 122_000, &denial(Ground::Command, "get", "alice"));
        let entries = merged(&page(&[&denials]));
        assert_eq!(
            (entries.len(), entries[0].count, entries[0].created),
            (5, 1, 122_000),
            "a minute is over"
        );
        denials.clear();
        assert_eq!(merged(&page(&[&denials])), []);
    }

    #[test]
    fn the_last_ones_are_kept_of_each_core_and_of_all() {
        let mut cores = [Denials::default(), Denials::default()];
        for i in 0..1000u64 {
            let core = (i % 2) as u16;
            let object = format!("key:{i}");
            cores[usize::from(core)].add((core, 2), i * 100_000, &denial(Ground::Key, &object, "alice"));
        }
        assert!(cores.iter().all(|core| core.entries.len() == DENIALS_MAX));
        let entries = merged(&page(&[&cores[0], &cores[1]]));
        assert_eq!(entries.len(), DENIALS_MAX);
        let numbers: Vec<u64> = entries.iter().map(|entry| entry.number).collect();
        let latest: Vec<u64> = (1000 - DENIALS_MAX as u64..1000).rev().collect();
        assert_eq!(numbers, latest, "of all, in their order, each with a number of its own");
        assert_eq!((entries[0].reason, entries[0].context), ("key", "toplevel"));
        assert_eq!(
            (&entries[0].object[..], &entries[0].user[..], &entries[0].client[..]),
            (&b"key:999"[..], &b"alice"[..], &b"id=1"[..])
        );
    }

    #[test]
    fn like_ones_of_several_cores_are_one_and_long_words_are_cut() {
        let mut cores = [Denials::default(), Denials::default()];
        let long = "x".repeat(100_000);
        for (core, denials) in cores.iter_mut().enumerate() {
            denials.add((core as u16, 2), 1_000, &denial(Ground::Login, "AUTH", "bob"));
            denials.add((core as u16, 2), 2_000, &denial(Ground::Login, "AUTH", "bob"));
            denials.add((core as u16, 2), 3_000, &denial(Ground::Key, &long, "bob"));
        }
        let entries = merged(&page(&[&cores[0], &cores[1]]));
        assert_eq!(entries.iter().map(|entry| entry.count).collect::<Vec<_>>(), [2, 4]);
        assert_eq!(entries[0].object.len(), WORD_BYTES_MAX);
        assert_eq!((entries[1].created, entries[1].updated), (1_000, 2_000));
    }
}
