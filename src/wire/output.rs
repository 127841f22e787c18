//! Replies on their way out: bytes, and between them long values that stay where they lie.
//!
//! ```text
//!  bytes   $5\r\nshort\r\n$1048576\r\n | \r\n+OK\r\n ..
//!                                      ^
//!  values                        goes here, and was not copied
//! ```
//! Codecs append to it as to a `Vec`, which it is as long as there is no long value in it.

use crate::request::{Shared, Value};
use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};

/// What a session wrote and nobody took yet.
#[derive(Debug, Default)]
pub struct Output {
    bytes: Vec<u8>,
    /// Long values, and before which of `bytes` each goes.
    values: VecDeque<(usize, Shared)>,
    values_bytes: usize,
}

impl Deref for Output {
    type Target = Vec<u8>;

    #[inline]
    fn deref(&self) -> &Vec<u8> {
        &self.bytes
    }
}

impl DerefMut for Output {
    #[inline]
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl Output {
    /// Appends a value: a long one by reference.
    #[inline]
    pub fn add(&mut self, value: &Value<'_>) {
        match value {
            Value::Shared(shared) => self.add_shared(shared),
            _ => value.append_to(&mut self.bytes),
        }
    }

    #[cold]
    fn add_shared(&mut self, shared: &Shared) {
        self.values_bytes += shared.len();
        self.values.push_back((self.bytes.len(), shared.clone()));
    }

    /// Makes room for a value that is to be added and for some bytes beside it.
    #[inline]
    pub fn make_room(&mut self, value: &Value<'_>, beside: usize) {
        let len = if matches!(value, Value::Shared(_)) { 0 } else { value.len() };
        self.bytes.reserve(len + beside);
    }

    /// Bytes to be sent, those of long values included.
    #[inline]
    pub fn total(&self) -> usize {
        self.bytes.len() + self.values_bytes
    }

    /// Of them, those of long values.
    #[inline]
    pub fn value_bytes(&self) -> usize {
        self.values_bytes
    }

    /// Of those of long values, what is gone from its store.
    pub fn gone_bytes(&self) -> usize {
        self.values.iter().map(|(_, value)| if value.is_gone() { value.len() } else { 0 }).sum()
    }

    /// Whether there is nothing to be sent.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.values.is_empty()
    }

    /// Takes back what was appended behind the first `len` bytes, and the values behind them.
    pub fn truncate(&mut self, len: usize) {
        self.bytes.truncate(len);
        while self.values.back().is_some_and(|(at, _)| *at > self.bytes.len()) {
            let (_, value) = self.values.pop_back().expect("looked at above");
            self.values_bytes -= value.len();
        }
    }

    /// Takes the next run of bytes that lie together: into `run`, which is empty, or the long value that is next.
    pub fn take_run(&mut self, run: &mut Vec<u8>) -> Option<Shared> {
        debug_assert!(run.is_empty());
        match self.values.front() {
            None => std::mem::swap(run, &mut self.bytes),
            Some((0, _)) => {
                let (_, value) = self.values.pop_front().expect("looked at above");
                self.values_bytes -= value.len();
                return Some(value);
            }
            Some(&(at, _)) => {
                let rest = self.bytes.split_off(at);
                *run = std::mem::replace(&mut self.bytes, rest);
                self.values.iter_mut().for_each(|(place, _)| *place -= at);
            }
        }
        None
    }

    /// Takes everything, copied into one run.
    pub fn take_all(&mut self) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.total());
        while !self.is_empty() {
            let mut run = Vec::new();
            let value = self.take_run(&mut run);
            all.append(&mut run);
            value.iter().for_each(|value| all.extend_from_slice(value.bytes()));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn shared(text: &str) -> Shared {
        Shared::new(Arc::new(text.as_bytes().to_vec()))
    }

    #[test]
    fn runs_come_in_the_order_they_were_added() {
        let mut output = Output::default();
        assert!(output.is_empty());
        output.extend_from_slice(b"one ");
        output.add(&Value::Shared(&shared("TWO")));
        output.add(&Value::Shared(&shared("THREE").part(1..4)));
        output.extend_from_slice(b" four ");
        output.add(&Value::One(b"five "));
        output.add(&Value::Shared(&shared("SIX")));
        assert_eq!(output.total(), b"one TWOHRE four five SIX".len());
        let mut runs = Vec::new();
        while !output.is_empty() {
            let mut run = Vec::new();
            match output.take_run(&mut run) {
                Some(value) => runs.push(value.bytes().to_vec()),
                None => runs.push(run),
            }
        }
        assert_eq!(runs, [&b"one "[..], b"TWO", b"HRE", b" four five ", b"SIX"]);
        assert_eq!(output.total(), 0);
    }

    #[test]
    fn what_is_taken_back_takes_its_long_values_along() {
        let mut output = Output::default();
        output.extend_from_slice(b"stays");
        output.add(&Value::Shared(&shared("STAYS")));
        let before = output.len();
        output.extend_from_slice(b"$5\r\n");
        output.add(&Value::Shared(&shared("LEAVES")));
        output.extend_from_slice(b"\r\n");
        output.truncate(before);
        assert_eq!(output.total(), 10);
        assert_eq!(output.take_all(), b"staysSTAYS");
        assert!(output.is_empty());
    }

    #[test]
    fn a_long_value_lives_as_long_as_somebody_has_it() {
        let memory = Arc::new(vec![7u8; 10]);
        let value = Shared::new(memory.clone());
        let mut output = Output::default();
        output.add(&Value::Shared(&value));
        drop(value);
        assert_eq!(Arc::strong_count(&memory), 2);
        assert_eq!(output.take_all(), [7; 10]);
        assert_eq!(Arc::strong_count(&memory), 1);
    }
}
