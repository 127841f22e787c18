//! The CPU time of the server, read from `/proc` before and after: the sturdiest figure on a shared machine.

use std::fs;
use std::io;
use std::time::Duration;

/// CPU time that a process has used so far, all its threads together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTime {
    /// In user space (`utime` of `/proc/PID/stat`, in ticks of usually 10 ms).
    pub user: Duration,
    /// In the kernel (`stime`).
    pub system: Duration,
    /// Both, by the scheduler's count in nanoseconds (`/proc/PID/task/*/schedstat`), where the kernel keeps it.
    pub exact: Option<Duration>,
}

impl CpuTime {
    /// That of a running process.
    ///
    /// # Errors
    /// No such process, or `/proc` is not readable.
    pub fn of(pid: u32) -> io::Result<CpuTime> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (user, system) = ticks(&stat)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat: {stat}")))?;
        Ok(CpuTime { user: from_ticks(user), system: from_ticks(system), exact: exact(pid).ok() })
    }

    /// What was used since an earlier reading.
    pub fn since(&self, earlier: &CpuTime) -> CpuTime {
        CpuTime {
            user: self.user.saturating_sub(earlier.user),
            system: self.system.saturating_sub(earlier.system),
            exact: self.exact.zip(earlier.exact).map(|(now, then)| now.saturating_sub(then)),
        }
    }

    /// User and system time together, as exactly as it is known.
    pub fn total(&self) -> Duration {
        self.exact.unwrap_or(self.user + self.system)
    }
}

/// Fields 14 and 15; the command before them may hold spaces and brackets, so they are counted from the last bracket.
fn ticks(stat: &str) -> Option<(u64, u64)> {
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn from_ticks(ticks: u64) -> Duration {
    Duration::from_millis(ticks * MILLIS_PER_TICK)
}

fn exact(pid: u32) -> io::Result<Duration> {
    let mut nanos = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let schedstat = fs::read_to_string(task?.path().join("schedstat"))?;
        let run = schedstat.split_ascii_whitespace().next().and_then(|run| run.parse::<u64>().ok());
        nanos += run.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    }
    Ok(Duration::from_nanos(nanos))
}

/// `/proc` counts in hundredths of a second whatever the kernel's own clock is.
const MILLIS_PER_TICK: u64 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_may_hold_brackets() {
        let stat = "12 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 111 222 0 0 20";
        assert_eq!(ticks(stat), Some((111, 222)));
        assert_eq!(ticks("12 (a"), None);
    }

    #[test]
    fn work_of_ours_is_seen() {
        let before = CpuTime::of(std::process::id()).expect("we live");
        let began = std::time::Instant::now();
        let mut sum = 0u64;
        while began.elapsed() < Duration::from_millis(60) {
            sum = std::hint::black_box(sum.wrapping_mul(3) + 1);
        }
        let used = CpuTime::of(std::process::id()).expect("we live").since(&before);
        assert!(used.total() > Duration::from_millis(5), "{used:?} {sum}");
    }
}
