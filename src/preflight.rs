//! Pre-flight: whether this machine can do what the configuration asks, before any socket is opened.
//!
//! 1. [`Facts::probe`] looks: kernel, io_uring, limits, CPUs, memory.
//! 2. [`judge`] decides from the facts alone; each check is a function of its own and says cause and remedy.
//! 3. [`run`] does both, raises soft limits where the verdict wants it, and settles the configuration.

use crate::config::{Config, show_cores};
use io_uring::IoUring;
use rlimit::Resource;
use std::fmt;

/// Oldest kernel with all that the ring driver uses: multishot accept and provided-buffer rings came with 5.19, multishot
/// recv and SINGLE_ISSUER with 6.0, DEFER_TASKRUN with 6.1.
const KERNEL_MIN: (u32, u32) = (6, 1);

/// Locked memory that glommio's reactor demands of RLIMIT_MEMLOCK (soft), even of root.
const MEMLOCK_BYTES_MIN: u64 = 512 << 10;

/// File descriptors beside those of connections: standard streams, admin HTTP and its clients, files.
const DESCRIPTORS_OF_PROCESS: u64 = 96;

/// File descriptors of a core beside those of its connections: two rings of its executor, ours, listeners, eventfds.
const DESCRIPTORS_OF_CORE: u64 = 16;

/// Fewest connections that are worth serving when the limit is lower than the default asks for.
const CLIENTS_MIN: u64 = 64;

/// What was found out about the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Version of the kernel, if it can be read.
    pub kernel: Option<(u32, u32)>,
    /// The sysctl `kernel.io_uring_disabled`; kernels before 6.6 have none.
    pub io_uring_disabled: Option<u8>,
    /// The error number of setting up a small ring with all the flags we use, if it failed.
    pub ring_error: Option<i32>,
    /// RLIMIT_MEMLOCK, soft and hard.
    pub memlock_bytes: (u64, u64),
    /// RLIMIT_NOFILE, soft and hard.
    pub descriptors: (u64, u64),
    /// CPUs in the affinity mask.
    pub cpus: Vec<usize>,
    /// Memory of the machine, if it can be read.
    pub ram_bytes: Option<u64>,
    /// The tightest memory limit of the control groups around us, if there is one.
    pub cgroup_bytes: Option<u64>,
}

/// What is wrong, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What is wrong.
    pub cause: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  remedy: {}", self.cause, self.remedy)
    }
}

/// What serving will stand on.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Ground {
    /// The CPUs to serve on, one core each.
    pub cpus: Vec<usize>,
    /// Most connections.
    pub clients_max: u32,
    /// Soft limit of file descriptors to set.
    pub descriptors: u64,
    /// Soft limit of locked memory to set.
    pub memlock_bytes: u64,
    /// What the operator should know.
    pub notices: Vec<String>,
}

/// Looks, judges, raises limits and settles `config`; answers what the operator should know.
///
/// # Errors
/// Everything that is wrong, not only the first.
pub fn run(config: &mut Config) -> Result<Vec<String>, Vec<Failure>> {
    let facts = Facts::probe();
    let ground = judge(config, &facts)?;
    raise(Resource::NOFILE, facts.descriptors, ground.descriptors)?;
    raise(Resource::MEMLOCK, facts.memlock_bytes, ground.memlock_bytes)?;
    config.cores = ground.cpus;
    config.clients_max = ground.clients_max;
    Ok(ground.notices)
}

fn raise(resource: Resource, (soft, hard): (u64, u64), wanted: u64) -> Result<(), Vec<Failure>> {
    if wanted <= soft {
        return Ok(());
    }
    rlimit::setrlimit(resource, wanted, hard).map_err(|error| {
        vec![Failure {
            cause: format!(
                "the soft limit {} cannot be raised from {soft} to {wanted}: {error}",
                resource.as_name()
            ),
            remedy: "raise it before starting (ulimit -S, LimitNOFILE= and LimitMEMLOCK= of systemd)"
                .to_owned(),
        }]
    })
}

impl Facts {
    /// Looks at this machine. Nothing stays open.
    pub fn probe() -> Facts {
        let read = |path: &str| std::fs::read_to_string(path).ok();
        let limits = |resource| rlimit::getrlimit(resource).unwrap_or((u64::MAX, u64::MAX));
        let cpus = core_affinity::get_core_ids().unwrap_or_default();
        Facts {
            kernel: read("/proc/sys/kernel/osrelease").as_deref().and_then(kernel_of),
            io_uring_disabled: read("/proc/sys/kernel/io_uring_disabled")
                .and_then(|text| text.trim().parse().ok()),
            ring_error: probe_ring().err().map(|error| error.raw_os_error().unwrap_or(0)),
            memlock_bytes: limits(Resource::MEMLOCK),
            descriptors: limits(Resource::NOFILE),
            cpus: cpus.into_iter().map(|core| core.id).collect(),
            ram_bytes: read("/proc/meminfo").as_deref().and_then(ram_of),
            cgroup_bytes: read("/proc/self/cgroup").as_deref().and_then(|text| cgroup_limit(text, &read)),
        }
    }
}

/// Sets up a ring as the driver does, and lets it go.
fn probe_ring() -> std::io::Result<()> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .build(8)
        .map(|_: IoUring| ())
}

fn kernel_of(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn ram_of(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// The tightest `memory.max` from our control group up to the root.
fn cgroup_limit(groups: &str, read: &dyn Fn(&str) -> Option<String>) -> Option<u64> {
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?.trim();
    let mut path = own.trim_end_matches('/');
    let mut tightest: Option<u64> = None;
    loop {
        let limit = read(&format!("/sys/fs/cgroup{path}/memory.max"));
        if let Some(bytes) = limit.and_then(|text| text.trim().parse().ok()) {
            tightest = Some(tightest.map_or(bytes, |least| least.min(bytes)));
        }
        match path.rfind('/') {
            Some(parent) => path = &path[..parent],
            None => return tightest,
        }
    }
}

/// Whether `facts` allow what `config` asks, and what follows; everything that is wrong otherwise.
///
/// # Errors
/// One failure per check that did not pass.
pub fn judge(config: &Config, facts: &Facts) -> Result<Ground, Vec<Failure>> {
    let mut failures = Vec::new();
    let mut ground = Ground::default();
    // An old kernel explains a ring that cannot be set up; saying both would send people the wrong way.
    failures.extend(check_kernel(facts).or_else(|| check_ring(facts)));
    take(check_memlock(facts), &mut ground.memlock_bytes, &mut failures);
    take(check_cpus(config, facts), &mut ground.cpus, &mut failures);
    failures.extend(check_memory(config, facts, ground.cpus.len()));
    failures.extend(check_core_ports(config, ground.cpus.len()));
    failures.extend(check_cluster(config, ground.cpus.len()));
    failures.extend(check_tls(config));
    match check_descriptors(config, facts, ground.cpus.len()) {
        Ok(Descriptors { limit, clients_max, notice }) => {
            (ground.descriptors, ground.clients_max) = (limit, clients_max);
            ground.notices.extend(notice);
        }
        Err(failure) => failures.push(failure),
    }
    if failures.is_empty() { Ok(ground) } else { Err(failures) }
}

fn take<T>(checked: Result<T, Failure>, into: &mut T, failures: &mut Vec<Failure>) {
    match checked {
        Ok(value) => *into = value,
        Err(failure) => failures.push(failure),
    }
}

pub(crate) fn check_kernel(facts: &Facts) -> Option<Failure> {
    let (major, minor) = facts.kernel.filter(|version| *version < KERNEL_MIN)?;
    let missing = match (major, minor) {
        (0..=4, _) | (5, 0) => "has no io_uring",
        (5, 1..=18) => "has no multishot accept and no provided-buffer rings (5.19)",
        (5, _) => "has no multishot receive (6.0)",
        _ => "has no IORING_SETUP_DEFER_TASKRUN (6.1)",
    };
    Some(Failure {
        cause: format!("Linux {major}.{minor} {missing}"),
        remedy: format!("use Linux {}.{} or newer", KERNEL_MIN.0, KERNEL_MIN.1),
    })
}

pub(crate) fn check_ring(facts: &Facts) -> Option<Failure> {
    let error = facts.ring_error?;
    let text = std::io::Error::from_raw_os_error(error);
    let (cause, remedy) = match (error, facts.io_uring_disabled) {
        (libc::EPERM, Some(2)) => (
            "io_uring is switched off for everybody (sysctl kernel.io_uring_disabled is 2)".to_owned(),
            "as root: sysctl -w kernel.io_uring_disabled=0, and the same in /etc/sysctl.d to keep it".to_owned(),
        ),
        (libc::EPERM, Some(1)) => (
            "io_uring is switched off for unprivileged users (sysctl kernel.io_uring_disabled is 1)".to_owned(),
            "as root: sysctl -w kernel.io_uring_disabled=0, or put this user's group into kernel.io_uring_group"
                .to_owned(),
        ),
        (libc::EPERM | libc::EACCES, _) => (
            format!("io_uring is forbidden here ({text}), most likely by the seccomp filter of a container"),
            "allow io_uring_setup, io_uring_enter and io_uring_register in its seccomp profile (docker: --security-opt \
             seccomp=FILE; systemd: SystemCallFilter=)"
                .to_owned(),
        ),
        (libc::ENOSYS, _) => (
            "this kernel has no io_uring (not built in, or hidden by a seccomp filter)".to_owned(),
            "use a kernel with CONFIG_IO_URING=y; in a container allow io_uring_setup in the seccomp profile".to_owned(),
        ),
        (libc::EINVAL, _) => (
            "io_uring here does not know SINGLE_ISSUER or DEFER_TASKRUN".to_owned(),
            format!("use Linux {}.{} or newer", KERNEL_MIN.0, KERNEL_MIN.1),
        ),
        (libc::ENOMEM, _) => (
            format!("there is no memory for a ring ({text})"),
            "raise RLIMIT_MEMLOCK (ulimit -l, LimitMEMLOCK= of systemd) or the memory limit of the container".to_owned(),
        ),
        (libc::EMFILE | libc::ENFILE, _) => (
            format!("there is no file descriptor for a ring ({text})"),
            "raise RLIMIT_NOFILE (ulimit -n, LimitNOFILE= of systemd) or sysctl fs.file-max".to_owned(),
        ),
        _ => (
            format!("io_uring cannot be set up: {text}"),
            "see io_uring_setup(2) for this error; `strace -e io_uring_setup foreshadow serve` shows the call".to_owned(),
        ),
    };
    Some(Failure { cause, remedy })
}

/// The soft limit of locked memory to run with.
pub(crate) fn check_memlock(facts: &Facts) -> Result<u64, Failure> {
    let (soft, hard) = facts.memlock_bytes;
    if soft >= MEMLOCK_BYTES_MIN {
        Ok(soft)
    } else if hard >= MEMLOCK_BYTES_MIN {
        Ok(hard)
    } else {
        Err(Failure {
            cause: format!(
                "only {} KiB of memory may be locked (RLIMIT_MEMLOCK), and the executor's rings need {} KiB",
                hard >> 10,
                MEMLOCK_BYTES_MIN >> 10
            ),
            remedy: "raise it: ulimit -l 8192, LimitMEMLOCK=8M of systemd, --ulimit memlock=8388608 of docker, or \
                     `* hard memlock 8192` in /etc/security/limits.conf"
                .to_owned(),
        })
    }
}

/// The CPUs to serve on.
fn check_cpus(config: &Config, facts: &Facts) -> Result<Vec<usize>, Failure> {
    if config.cores.is_empty() && !facts.cpus.is_empty() {
        return Ok(facts.cpus.clone());
    }
    let outside: Vec<usize> = config.cores.iter().copied().filter(|cpu| !facts.cpus.contains(cpu)).collect();
    if outside.is_empty() && !config.cores.is_empty() {
        return Ok(config.cores.clone());
    }
    if facts.cpus.is_empty() {
        return Err(Failure {
            cause: "the CPUs this process may use cannot be read (sched_getaffinity)".to_owned(),
            remedy: "allow sched_getaffinity in the seccomp profile".to_owned(),
        });
    }
    Err(Failure {
        cause: format!(
            "--cores {} asks for CPU {}, and this process may use {}",
            show_cores(&config.cores),
            show_cores(&outside),
            show_cores(&facts.cpus)
        ),
        remedy: format!(
            "say --cores {} or less, or widen the affinity mask (taskset, AllowedCPUs= of systemd, --cpuset-cpus of docker)",
            show_cores(&facts.cpus)
        ),
    })
}

fn check_memory(config: &Config, facts: &Facts, core_count: usize) -> Option<Failure> {
    let mib = |bytes: u64| bytes >> 20;
    let least = crate::io::Options::memory_bytes_min(u16::try_from(core_count).unwrap_or(u16::MAX));
    if core_count > 0 && config.memory_bytes_max < least {
        return Some(Failure {
            cause: format!(
                "--memory is {} KiB, and half of {} MiB is resident before {core_count} cores hold one item",
                config.memory_bytes_max >> 10,
                mib(least)
            ),
            remedy: format!("say --memory {}MiB or more, or serve with fewer --cores", mib(least)),
        });
    }
    let (limit, what) = match (facts.ram_bytes, facts.cgroup_bytes) {
        (Some(ram), Some(group)) if group < ram => (group, "the memory limit of its control group"),
        (Some(ram), _) => (ram, "the memory of this machine"),
        (None, Some(group)) => (group, "the memory limit of its control group"),
        (None, None) => return None,
    };
    (config.memory_bytes_max > limit).then(|| Failure {
        cause: format!(
            "--memory asks for {} MiB, and {what} is {} MiB",
            mib(config.memory_bytes_max),
            mib(limit)
        ),
        // A quarter is left to buffers of connections, the kernel and whoever else lives here.
        remedy: format!("say --memory {}MiB or less", mib(limit / 4 * 3)),
    })
}

/// The ports of the cores must exist and must not meet another listener's.
fn check_core_ports(config: &Config, core_count: usize) -> Option<Failure> {
    let base = config.listen.first().or(config.resp_listen.first()).filter(|_| config.has_core_ports())?;
    if base.port() == 0 {
        return None;
    }
    let first = usize::from(base.port()) + 1;
    let last = usize::from(base.port()) + core_count;
    if last > usize::from(u16::MAX) {
        return Some(Failure {
            cause: format!(
                "--cluster-ports needs the ports {first} to {last}, and there are none above 65535"
            ),
            remedy: "listen on a lower port".to_owned(),
        });
    }
    let mut others = config.listeners().into_iter().map(|listener| listener.address).chain(config.admin);
    let other = others.find(|other| (first..=last).contains(&usize::from(other.port())))?;
    Some(Failure {
        cause: format!(
            "--cluster-ports needs the ports {first} to {last}, and {other} is to be listened on as well"
        ),
        remedy: if config.admin == Some(other) {
            format!("move the admin server: --admin {}:{}", other.ip(), last + 1)
        } else {
            "move that listener, or listen on another port".to_owned()
        },
    })
}

/// The list of nodes says how many cores this one has: the others reach each of them.
fn check_cluster(config: &Config, core_count: usize) -> Option<Failure> {
    let own = config.cluster.as_ref()?.of(config.node_id?)?;
    (usize::from(own.cores) != core_count).then(|| Failure {
        cause: format!(
            "--cluster says that node {} has {} cores, and it serves on {core_count}",
            own.node, own.cores
        ),
        remedy: "say the number in the list at all nodes, or which cores with --cores".to_owned(),
    })
}

/// Whether the files of TLS can be read and go together.
fn check_tls(config: &Config) -> Option<Failure> {
    let failure = config.tls()?.err()?;
    Some(Failure {
        cause: format!("TLS: {failure}"),
        remedy: "give PEM files that this user may read: --tls-cert-file, --tls-key-file, --tls-ca-cert-file"
            .to_owned(),
    })
}

/// File descriptors to serve with.
pub(crate) struct Descriptors {
    limit: u64,
    clients_max: u32,
    /// What the operator should know: fewer clients than the default.
    pub(crate) notice: Option<String>,
}

/// File descriptors for as many clients as are asked for; the default number gives way, a stated one does not.
pub(crate) fn check_descriptors(
    config: &Config,
    facts: &Facts,
    core_count: usize,
) -> Result<Descriptors, Failure> {
    let own = DESCRIPTORS_OF_PROCESS + DESCRIPTORS_OF_CORE * core_count as u64;
    let wanted = own + u64::from(config.clients_max);
    let (soft, hard) = facts.descriptors;
    if wanted <= hard {
        return Ok(Descriptors { limit: wanted.max(soft), clients_max: config.clients_max, notice: None });
    }
    let possible = hard.saturating_sub(own);
    if config.clients_max == Config::default().clients_max && possible >= CLIENTS_MIN {
        let notice = format!(
            "only {possible} clients can be served at a time: the process may have {hard} files open (RLIMIT_NOFILE); \
             raise LimitNOFILE= or ulimit -Hn to {wanted} for {}",
            config.clients_max
        );
        let clients_max = u32::try_from(possible).expect("less than the default, which is a u32");
        return Ok(Descriptors { limit: hard, clients_max, notice: Some(notice) });
    }
    Err(Failure {
        cause: format!(
            "{} clients need {wanted} open files, and the hard limit of this process is {hard} (RLIMIT_NOFILE)",
            config.clients_max
        ),
        remedy: format!(
            "raise it: ulimit -Hn {wanted}, LimitNOFILE={wanted} of systemd, --ulimit nofile={wanted} of docker; or say \
             --max-clients {}",
            possible.max(1)
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine on which everything is well.
    fn good() -> Facts {
        Facts {
            kernel: Some((6, 1)),
            io_uring_disabled: Some(0),
            ring_error: None,
            memlock_bytes: (8 << 20, 8 << 20),
            descriptors: (1024, 1 << 20),
            cpus: vec![0, 1, 4],
            ram_bytes: Some(16 << 30),
            cgroup_bytes: None,
        }
    }

    fn causes(config: &Config, facts: &Facts) -> Vec<String> {
        let failures = judge(config, facts).expect_err("something is wrong");
        assert!(failures.iter().all(|failure| !failure.remedy.is_empty()));
        failures.into_iter().map(|failure| failure.to_string()).collect()
    }

    #[test]
    fn a_good_machine_gives_all_its_cpus_and_raises_the_soft_limit() {
        let ground = judge(&Config::default(), &good()).unwrap();
        assert_eq!(ground.cpus, [0, 1, 4]);
        assert_eq!(ground.clients_max, 10_000);
        assert_eq!(ground.descriptors, 10_000 + DESCRIPTORS_OF_PROCESS + 3 * DESCRIPTORS_OF_CORE);
        assert_eq!(ground.memlock_bytes, 8 << 20);
        assert_eq!(ground.notices, Vec::<String>::new());
    }

    #[test]
    fn an_old_kernel_is_named_with_the_feature_it_lacks_and_nothing_else() {
        for (kernel, feature) in [
            ((4, 19), "has no io_uring"),
            ((5, 15), "provided-buffer rings"),
            ((5, 19), "multishot receive"),
            ((6, 0), "DEFER_TASKRUN"),
        ] {
            let facts = Facts { kernel: Some(kernel), ring_error: Some(libc::EINVAL), ..good() };
            let causes = causes(&Config::default(), &facts);
            assert!(causes.len() == 1 && causes[0].contains(feature), "{causes:?}");
            assert!(causes[0].contains("remedy: use Linux 6.1 or newer"), "{causes:?}");
        }
    }

    #[test]
    fn a_forbidden_ring_is_traced_to_sysctl_or_seccomp() {
        for (errno, sysctl, expected) in [
            (libc::EPERM, Some(2), "sysctl -w kernel.io_uring_disabled=0"),
            (libc::EPERM, Some(1), "kernel.io_uring_group"),
            (libc::EPERM, Some(0), "seccomp profile"),
            (libc::EPERM, None, "seccomp profile"),
            (libc::ENOSYS, None, "CONFIG_IO_URING"),
            (libc::EINVAL, Some(0), "DEFER_TASKRUN"),
            (libc::ENOMEM, Some(0), "RLIMIT_MEMLOCK"),
            (libc::EMFILE, Some(0), "RLIMIT_NOFILE"),
            (libc::EIO, Some(0), "io_uring_setup(2)"),
        ] {
            let facts = Facts { ring_error: Some(errno), io_uring_disabled: sysctl, ..good() };
            let causes = causes(&Config::default(), &facts);
            assert!(causes.len() == 1 && causes[0].contains(expected), "{errno} {sysctl:?}: {causes:?}");
        }
    }

    #[test]
    fn locked_memory_is_raised_if_it_may_and_refused_if_not() {
        let facts = Facts { memlock_bytes: (64 << 10, 2 << 20), ..good() };
        assert_eq!(judge(&Config::default(), &facts).unwrap().memlock_bytes, 2 << 20);
        let facts = Facts { memlock_bytes: (64 << 10, 64 << 10), ..good() };
        let causes = causes(&Config::default(), &facts);
        assert!(causes[0].contains("only 64 KiB") && causes[0].contains("ulimit -l"), "{causes:?}");
    }

    #[test]
    fn a_cpu_outside_of_the_mask_is_refused_by_number() {
        let config = Config { cores: vec![1, 2, 3, 4], ..Config::default() };
        let causes = causes(&config, &good());
        assert!(
            causes[0].starts_with("--cores 1-4 asks for CPU 2-3, and this process may use 0-1,4"),
            "{causes:?}"
        );
        let config = Config { cores: vec![4, 0], ..Config::default() };
        assert_eq!(judge(&config, &good()).unwrap().cpus, [4, 0]);
    }

    #[test]
    fn memory_above_the_machine_or_its_group_is_refused() {
        let config = Config { memory_bytes_max: 32 << 30, ..Config::default() };
        assert!(causes(&config, &good())[0].contains("the memory of this machine is 16384 MiB"));
        let facts = Facts { cgroup_bytes: Some(512 << 20), ..good() };
        let causes = causes(&Config::default(), &facts);
        assert!(causes[0].contains("control group is 512 MiB"), "{causes:?}");
        assert!(causes[0].contains("say --memory 384MiB or less"), "{causes:?}");
    }

    #[test]
    fn too_few_descriptors_lower_the_default_and_refuse_a_stated_number() {
        let facts = Facts { descriptors: (256, 1024), ..good() };
        let ground = judge(&Config::default(), &facts).unwrap();
        let own = DESCRIPTORS_OF_PROCESS + 3 * DESCRIPTORS_OF_CORE;
        assert_eq!((u64::from(ground.clients_max), ground.descriptors), (1024 - own, 1024));
        assert!(ground.notices[0].contains("RLIMIT_NOFILE"), "{:?}", ground.notices);
        let stated = Config { clients_max: 5000, ..Config::default() };
        let refused = causes(&stated, &facts);
        assert!(refused[0].contains(&format!("--max-clients {}", 1024 - own)), "{refused:?}");
        let facts = Facts { descriptors: (128, 128), ..good() };
        assert!(causes(&Config::default(), &facts)[0].contains("hard limit of this process is 128"));
    }

    #[test]
    fn ports_of_cores_that_meet_the_admin_port_are_refused_with_a_free_one() {
        let config = Config { cluster_ports: true, ..Config::default() };
        let causes = causes(&config, &good());
        assert!(causes[0].contains("needs the ports 7401 to 7403"), "{causes:?}");
        assert!(causes[0].contains("--admin 127.0.0.1:7404"), "{causes:?}");
        let moved = Config { admin: Some("127.0.0.1:7404".parse().unwrap()), ..config.clone() };
        assert!(judge(&moved, &good()).is_ok());
        let high = Config { listen: vec!["127.0.0.1:65534".parse().unwrap()], admin: None, ..config };
        assert!(judge(&high, &good()).unwrap_err()[0].cause.contains("none above 65535"));
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let facts = Facts {
            ring_error: Some(libc::EPERM),
            memlock_bytes: (0, 0),
            ram_bytes: Some(1 << 20),
            ..good()
        };
        assert_eq!(causes(&Config::default(), &facts).len(), 3);
    }

    #[test]
    fn texts_of_the_kernel_are_read() {
        assert_eq!(kernel_of("6.18.44-fc-v595\n"), Some((6, 18)));
        assert_eq!(kernel_of("5.15.0-91-generic"), Some((5, 15)));
        assert_eq!(kernel_of("weird"), None);
        assert_eq!(ram_of("MemTotal:       24576 kB\nMemFree: 1 kB\n"), Some(24 << 20));
        let files = |path: &str| match path {
            "/sys/fs/cgroup/a/b/memory.max" => Some("max\n".to_owned()),
            "/sys/fs/cgroup/a/memory.max" => Some("1048576\n".to_owned()),
            "/sys/fs/cgroup/memory.max" => None,
            other => panic!("{other}"),
        };
        assert_eq!(cgroup_limit("0::/a/b\n", &files), Some(1 << 20));
        assert_eq!(cgroup_limit("1:cpu:/x\n", &files), None);
    }
}
