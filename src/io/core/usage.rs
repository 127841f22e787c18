//! Bytes that stores and buffers hold, and the most that they held at a time: of a core, and of all together.
//!
//! A core tells at its ticks, before they give memory back. What came and went between two of them is not seen.

use super::Shared;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What a core told, beside what all did.
pub(super) struct Usage {
    shared: Arc<Shared>,
    bytes: u64,
    peak: u64,
}

impl Usage {
    /// Of a core that holds nothing yet.
    pub(super) fn new(shared: Arc<Shared>) -> Usage {
        Usage { shared, bytes: 0, peak: 0 }
    }

    /// Takes in what the core holds now.
    pub(super) fn tell(&mut self, bytes: u64) {
        if bytes == self.bytes {
            return;
        }
        // Less is more by what it wraps around.
        let change = bytes.wrapping_sub(std::mem::replace(&mut self.bytes, bytes));
        self.peak = self.peak.max(bytes);
        let all = self.shared.used_bytes.fetch_add(change, Ordering::Relaxed).wrapping_add(change);
        self.shared.used_bytes_peak.fetch_max(all, Ordering::Relaxed);
    }

    /// The most that this core held.
    pub(super) fn peak(&self) -> u64 {
        self.peak
    }

    /// The most that all cores held together, by what each had told last.
    pub(super) fn peak_of_all(&self) -> u64 {
        self.shared.used_bytes_peak.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_of_all_is_of_one_moment_and_no_sum_of_peaks() {
        let shared = Arc::new(Shared::new(1));
        let mut cores = [Usage::new(shared.clone()), Usage::new(shared)];
        for (core, bytes) in [(0, 100), (1, 20), (0, 30), (1, 70), (1, 70), (0, 0)] {
            cores[core].tell(bytes);
        }
        assert_eq!(cores.each_ref().map(Usage::peak), [100, 70]);
        assert_eq!(cores.each_ref().map(Usage::peak_of_all), [120, 120]);
        cores[1].tell(121);
        assert_eq!(cores[0].peak_of_all(), 121);
    }
}
