//! The clocks of the shell: the only place that reads them for the data plane.

use crate::clock::{Mono, Now, Wall};

/// Both clocks, now: CLOCK_BOOTTIME, which goes on while the machine sleeps, and the wall clock to a tick.
pub fn now() -> Now {
    let mono = read(libc::CLOCK_BOOTTIME);
    let wall = read(libc::CLOCK_REALTIME_COARSE);
    Now { mono: Mono(mono), wall: Wall(wall / Mono::NANOS_PER_MILLI) }
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
    fn clocks_go_forward_and_agree_with_the_system() {
        let (a, b) = (now(), now());
        assert!(b.mono >= a.mono && b.wall >= a.wall);
        let system = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        assert!((system.as_millis() as u64).abs_diff(b.wall.0) < 1000);
    }
}
