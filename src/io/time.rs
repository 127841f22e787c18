//! The clocks of the shell: the only place that reads them for the data plane.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::{Mono, Now};

/// How far the wall clock is ahead of CLOCK_BOOTTIME, in milliseconds, by the last look; 0 before the first.
static WALL_AHEAD: AtomicU64 = AtomicU64::new(0);
/// CLOCK_BOOTTIME of the next look.
static LOOK_AT: AtomicU64 = AtomicU64::new(0);
const LOOK_INTERVAL: u64 = Mono::NANOS_PER_SECOND;
/// A look that took longer was interrupted and says nothing.
const LOOK_TIME_MAX: u64 = 100_000;

/// Both clocks, now. The first is CLOCK_BOOTTIME, which goes on while the machine sleeps. The wall clock is counted on from
/// it, and looked at once a second, for all cores: were both read each time, an absolute expiry would come back some
/// milliseconds off, by the tick of one and the time between two readings.
pub fn now() -> Now {
    let mono = mono();
    if mono.0 >= LOOK_AT.load(Ordering::Relaxed) {
        look_at_the_wall_clock();
    }
    Now::at(mono, WALL_AHEAD.load(Ordering::Relaxed))
}

/// A difference of a millisecond is rounding, or the clock being led gently, and changes nothing.
#[cold]
fn look_at_the_wall_clock() {
    let known = WALL_AHEAD.load(Ordering::Relaxed);
    let before = read(libc::CLOCK_BOOTTIME);
    let wall = read(libc::CLOCK_REALTIME);
    let after = read(libc::CLOCK_BOOTTIME);
    let interrupted = after - before > LOOK_TIME_MAX;
    if interrupted && known != 0 {
        return;
    }
    let ahead = wall.saturating_sub(before) / Mono::NANOS_PER_MILLI;
    if ahead.abs_diff(known) > 1 {
        WALL_AHEAD.store(ahead, Ordering::Relaxed);
    }
    if !interrupted {
        LOOK_AT.store(after + LOOK_INTERVAL, Ordering::Relaxed);
    }
}

/// CLOCK_BOOTTIME alone.
pub fn mono() -> Mono {
    Mono(read(libc::CLOCK_BOOTTIME))
}

/// CPU time of the calling thread.
pub fn thread_cpu() -> std::time::Duration {
    std::time::Duration::from_nanos(read(libc::CLOCK_THREAD_CPUTIME_ID))
}

/// Resident bytes of the process, and its user and system time in microseconds; 0 for what cannot be told.
pub fn process() -> [u64; 3] {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
    // SAFETY: sysconf takes no memory of ours.
    let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let resident = pages.unwrap_or(0) * u64::try_from(page_bytes).unwrap_or(0);
    // SAFETY: all bytes zero are a valid rusage.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is a valid rusage for the kernel to fill in.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) };
    let micros = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
    [resident, micros(usage.ru_utime), micros(usage.ru_stime)]
}

fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec for the kernel to fill in.
    let result = unsafe { libc::clock_gettime(clock, &mut time) };
    assert_eq!(result, 0, "both clocks exist since Linux 2.6.39");
    time.tv_sec as u64 * Mono::NANOS_PER_SECOND + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wall_clock_goes_with_the_other_to_the_millisecond() {
        let first = now();
        let deadline = first.deadline(crate::clock::Wall(first.wall.0 + 100_000));
        for _ in 0..100_000 {
            assert_eq!(now().wall_of(deadline).0, first.wall.0 + 100_000);
        }
    }

    #[test]
    fn clocks_go_forward_and_agree_with_the_system() {
        let (a, b) = (now(), now());
        assert!(b.mono >= a.mono && b.wall >= a.wall);
        let system = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        assert!((system.as_millis() as u64).abs_diff(b.wall.0) < 1000);
    }
}
