//! `foreshadow doctor`: what of this machine helps or hinders serving. It reads, and changes nothing.
//!
//! 1. [`Machine::look`] reads `/proc` and `/sys` under a root and takes what pre-flight found out.
//! 2. [`examine`] decides from that alone; each check is a function of its own.
//! 3. [`run`] does both and prints.
//!
//! Pre-flight refuses what cannot work; the doctor also names what works and costs. Each check has a row of the same name in
//! `tuning/README.md`: why, what it is worth, what it risks, how to undo it.

use crate::config::{Config, parse_cores, show_cores};
use crate::preflight::{self, Facts, Failure};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Where the knobs are described, from the root of the repository.
const TUNING: &str = "tuning/README.md";

/// What the listeners ask for; the kernel gives at most somaxconn.
const BACKLOG: u64 = 4096;

/// A file that is there and cannot be read, or says what we do not understand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable(String);

/// Something read: nothing if this machine does not have it.
type Seen<T> = Result<Option<T>, Unreadable>;

/// What the checks know.
#[derive(Debug)]
pub struct Machine {
    /// What pre-flight finds out.
    pub own: Facts,
    somaxconn: Seen<u64>,
    syn_backlog: Seen<u64>,
    syn_cookies: Seen<u64>,
    /// The bracketed word of `transparent_hugepage/enabled`.
    huge_pages: Seen<String>,
    /// Governors of the CPUs we may use.
    governors: Seen<BTreeMap<usize, String>>,
    /// Network interfaces with hardware (or a virtual machine's idea of it) that are up.
    nics: Seen<Vec<Nic>>,
    busy_poll: Seen<u64>,
    busy_read: Seen<u64>,
    /// CPUs of each NUMA node.
    nodes: Seen<Vec<Vec<usize>>>,
    numa_balancing: Seen<u64>,
    /// Whether the CPU says that a hypervisor runs it; nothing if this architecture does not say.
    hypervisor: Seen<bool>,
}

#[derive(Debug, Default)]
struct Nic {
    name: String,
    /// CPUs that the interrupts of each queue go to.
    interrupts: BTreeMap<usize, BTreeSet<usize>>,
    /// Whether RPS is on, of each receive queue.
    rps: Vec<bool>,
    /// Whether XPS is on, of each transmit queue that can have it.
    xps: Vec<bool>,
}

/// What a check thinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It costs or forbids something, and there is a remedy.
    Warn,
    /// There is nothing to check here, or it could not be looked at.
    Skip,
}

/// What a check says.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// Name of the check, and of its row in `tuning/README.md`.
    pub check: &'static str,
    /// What it thinks.
    pub verdict: Verdict,
    /// Why.
    pub reason: String,
    /// What to do; only if it warns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// Where to read on; only if it warns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub see: Option<String>,
    /// False if what it looks at is there and could not be read.
    pub could_run: bool,
}

/// What a machine reads.
#[derive(Serialize)]
struct Report {
    /// Whether every check could run; warnings do not count.
    complete: bool,
    findings: Vec<Finding>,
}

enum Opinion {
    Ok(String),
    Warn(Failure),
    Skip(String),
}

type Check = fn(&Machine) -> Result<Opinion, Unreadable>;

const CHECKS: &[(&str, Check)] = &[
    ("kernel", check_kernel),
    ("io-uring", check_ring),
    ("locked-memory", check_locked_memory),
    ("descriptors", check_descriptors),
    ("backlog", check_backlog),
    ("huge-pages", check_huge_pages),
    ("governor", check_governor),
    ("interrupts", check_interrupts),
    ("rps", check_rps),
    ("xps", check_xps),
    ("busy-poll", check_busy_poll),
    ("numa", check_numa),
    ("machine", check_machine),
];

/// Examines this machine and prints what was found; answers the exit status: 0, or 1 if a check could not run.
pub fn run(json: bool) -> ExitCode {
    let findings = examine(&Machine::look(Path::new("/"), Facts::probe()));
    let report = Report { complete: findings.iter().all(|finding| finding.could_run), findings };
    if json {
        println!("{}", serde_json::to_string_pretty(&report).expect("texts and booleans always serialize"));
    } else {
        print!("{}", text_of(&report.findings));
    }
    if report.complete { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs every check.
pub fn examine(machine: &Machine) -> Vec<Finding> {
    let finding = |(name, check): &(&'static str, Check)| {
        let opinion = check(machine);
        let could_run = opinion.is_ok();
        let (verdict, reason, remedy) = match opinion {
            Ok(Opinion::Ok(reason)) => (Verdict::Ok, reason, None),
            Ok(Opinion::Warn(Failure { cause, remedy })) => (Verdict::Warn, cause, Some(remedy)),
            Ok(Opinion::Skip(reason)) => (Verdict::Skip, reason, None),
            Err(Unreadable(what)) => (Verdict::Skip, format!("could not run: {what}"), None),
        };
        let see = remedy.as_ref().map(|_| format!("{TUNING}#{name}"));
        Finding { check: name, verdict, reason, remedy, see, could_run }
    };
    CHECKS.iter().map(finding).collect()
}

fn text_of(findings: &[Finding]) -> String {
    let mut text = String::new();
    for Finding { check, verdict, reason, remedy, see, could_run: _ } in findings {
        let word = verdict.to_string();
        writeln!(text, "{word:<5} {check:<14} {reason}").expect("a String takes everything");
        if let (Some(remedy), Some(see)) = (remedy, see) {
            let indent = " ".repeat(21);
            writeln!(text, "{indent}remedy: {remedy}\n{indent}see {see}").expect("a String takes everything");
        }
    }
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let (ok, warn, skip) = (count(Verdict::Ok), count(Verdict::Warn), count(Verdict::Skip));
    writeln!(text, "{ok} ok, {warn} to look at, {skip} skipped").expect("a String takes everything");
    text
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Ok => "OK",
            Verdict::Warn => "WARN",
            Verdict::Skip => "SKIP",
        })
    }
}

impl Machine {
    /// Reads what stands under `root`, where `/proc` and `/sys` are looked for; `own` is what pre-flight found out.
    pub fn look(root: &Path, own: Facts) -> Machine {
        let tree = Tree { root };
        Machine {
            somaxconn: tree.number("proc/sys/net/core/somaxconn"),
            syn_backlog: tree.number("proc/sys/net/ipv4/tcp_max_syn_backlog"),
            syn_cookies: tree.number("proc/sys/net/ipv4/tcp_syncookies"),
            huge_pages: tree.chosen("sys/kernel/mm/transparent_hugepage/enabled"),
            governors: tree.governors(&own.cpus),
            nics: tree.nics(),
            busy_poll: tree.number("proc/sys/net/core/busy_poll"),
            busy_read: tree.number("proc/sys/net/core/busy_read"),
            nodes: tree.nodes(),
            numa_balancing: tree.number("proc/sys/kernel/numa_balancing"),
            hypervisor: tree.hypervisor(),
            own,
        }
    }
}

/// Reads files under a root.
struct Tree<'a> {
    root: &'a Path,
}

impl Tree<'_> {
    fn seen<T>(path: &Path, read: io::Result<T>) -> Seen<T> {
        match read {
            Ok(value) => Ok(Some(value)),
            // The kernel's words for "not of this device", beside files that are not there.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ENOENT | libc::ENOTDIR | libc::ENODEV | libc::EOPNOTSUPP)
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(Unreadable(format!("{}: {error}", path.display()))),
        }
    }

    fn text(&self, path: impl AsRef<Path>) -> Seen<String> {
        let path = self.root.join(path);
        Ok(Self::seen(&path, std::fs::read_to_string(&path))?.map(|text| text.trim().to_owned()))
    }

    /// Reads a file and takes it apart; what cannot be taken apart could not be read.
    fn parsed<T>(&self, path: impl AsRef<Path>, parse: impl Fn(&str) -> Option<T>) -> Seen<T> {
        let Some(text) = self.text(&path)? else { return Ok(None) };
        let strange =
            || Unreadable(format!("{}: `{text}` is not understood", self.root.join(&path).display()));
        parse(&text).map(Some).ok_or_else(strange)
    }

    fn number(&self, path: &str) -> Seen<u64> {
        self.parsed(path, |text| text.parse().ok())
    }

    fn cpus(&self, path: impl AsRef<Path>) -> Seen<Vec<usize>> {
        // A node of memory alone has an empty list, which is nothing that people write.
        self.parsed(path, |text| if text.is_empty() { Some(Vec::new()) } else { parse_cores(text).ok() })
    }

    /// The word in brackets.
    fn chosen(&self, path: &str) -> Seen<String> {
        self.parsed(path, |text| Some(text.split_once('[')?.1.split_once(']')?.0.to_owned()))
    }

    /// Names in a folder, in order.
    fn names(&self, path: impl AsRef<Path>) -> Seen<Vec<String>> {
        let path = self.root.join(path);
        let Some(entries) = Self::seen(&path, std::fs::read_dir(&path))? else { return Ok(None) };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| Unreadable(format!("{}: {error}", path.display())))?;
            names.extend(entry.file_name().into_string());
        }
        names.sort();
        Ok(Some(names))
    }

    fn governors(&self, cpus: &[usize]) -> Seen<BTreeMap<usize, String>> {
        let mut governors = BTreeMap::new();
        for cpu in cpus {
            let path = format!("sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor");
            governors.extend(self.text(path)?.map(|governor| (*cpu, governor)));
        }
        Ok((!governors.is_empty()).then_some(governors))
    }

    fn nodes(&self) -> Seen<Vec<Vec<usize>>> {
        let folder = Path::new("sys/devices/system/node");
        let Some(names) = self.names(folder)? else { return Ok(None) };
        let mut nodes = Vec::new();
        for name in names {
            if name.strip_prefix("node").is_some_and(|number| number.parse::<u32>().is_ok()) {
                nodes.extend(self.cpus(folder.join(name).join("cpulist"))?);
            }
        }
        Ok((!nodes.is_empty()).then_some(nodes))
    }

    fn hypervisor(&self) -> Seen<bool> {
        let Some(text) = self.text("proc/cpuinfo")? else { return Ok(None) };
        let mut lines = text.lines();
        let flags = lines.find(|line| line.starts_with("flags"));
        Ok(flags.map(|flags| flags.split_whitespace().any(|flag| flag == "hypervisor")))
    }

    fn nics(&self) -> Seen<Vec<Nic>> {
        let folder = Path::new("sys/class/net");
        let Some(names) = self.names(folder)? else { return Ok(None) };
        let interrupts = self.text("proc/interrupts")?.unwrap_or_default();
        let queues = interrupts.lines().filter_map(queue_of).collect::<BTreeMap<_, _>>();
        let mut nics = Vec::new();
        for name in names {
            let place = folder.join(&name);
            let up = self.text(place.join("operstate"))?.is_some_and(|state| state == "up");
            if up && self.names(place.join("device"))?.is_some() {
                nics.push(self.nic(name, &place, &queues)?);
            }
        }
        Ok((!nics.is_empty()).then_some(nics))
    }

    fn nic(&self, name: String, place: &Path, queues: &BTreeMap<u32, usize>) -> Result<Nic, Unreadable> {
        let mut nic = Nic { name, ..Nic::default() };
        for number in self.interrupts_of(place)? {
            let Some(queue) = queues.get(&number) else { continue };
            let folder = PathBuf::from(format!("proc/irq/{number}"));
            let effective =
                self.cpus(folder.join("effective_affinity_list"))?.filter(|cpus| !cpus.is_empty());
            let cpus = match effective {
                Some(cpus) => Some(cpus),
                None => self.cpus(folder.join("smp_affinity_list"))?,
            };
            nic.interrupts.entry(*queue).or_default().extend(cpus.into_iter().flatten());
        }
        for queue in self.names(place.join("queues"))?.unwrap_or_default() {
            let on = |mask: String| mask.chars().any(|c| c != '0' && c != ',');
            let folder = place.join("queues").join(&queue);
            nic.rps.extend(self.text(folder.join("rps_cpus"))?.map(on));
            nic.xps.extend(self.text(folder.join("xps_cpus"))?.map(on));
        }
        Ok(nic)
    }

    /// Interrupt numbers of a device: its own, or those of the device it sits on (virtio).
    fn interrupts_of(&self, place: &Path) -> Result<Vec<u32>, Unreadable> {
        for folder in ["device/msi_irqs", "device/../msi_irqs"] {
            if let Some(names) = self.names(place.join(folder))? {
                return Ok(names.iter().filter_map(|name| name.parse().ok()).collect());
            }
        }
        Ok(Vec::new())
    }
}

/// Number and queue of a line of `/proc/interrupts`, if its label is that of a queue: it ends with the queue's number
/// (`eth0-TxRx-3`, `virtio2-input.0`, `mlx5_comp3@pci:...`), and is not for the driver's own errands.
fn queue_of(line: &str) -> Option<(u32, usize)> {
    let (number, rest) = line.split_once(':')?;
    let label = rest.split_whitespace().last()?;
    let label = label.split_once('@').map_or(label, |(label, _)| label);
    if ["async", "mgmnt", "cmd", "pages", "config"].iter().any(|errand| label.contains(errand)) {
        return None;
    }
    let queue = &label[label.trim_end_matches(|c: char| c.is_ascii_digit()).len()..];
    Some((number.trim().parse().ok()?, queue.parse().ok()?))
}

fn known<T>(seen: &Seen<T>) -> Result<Option<&T>, Unreadable> {
    seen.as_ref().map(Option::as_ref).map_err(Clone::clone)
}

fn warn(cause: impl Into<String>, remedy: impl Into<String>) -> Opinion {
    Opinion::Warn(Failure { cause: cause.into(), remedy: remedy.into() })
}

fn check_kernel(machine: &Machine) -> Result<Opinion, Unreadable> {
    let (major, minor) = machine.own.kernel.ok_or_else(|| {
        Unreadable("the kernel's version cannot be read (/proc/sys/kernel/osrelease)".into())
    })?;
    Ok(preflight::check_kernel(&machine.own)
        .map_or_else(|| Opinion::Ok(format!("Linux {major}.{minor}")), Opinion::Warn))
}

fn check_ring(machine: &Machine) -> Result<Opinion, Unreadable> {
    let fine = || "a ring with SINGLE_ISSUER and DEFER_TASKRUN can be set up".to_owned();
    Ok(preflight::check_ring(&machine.own).map_or_else(|| Opinion::Ok(fine()), Opinion::Warn))
}

fn check_locked_memory(machine: &Machine) -> Result<Opinion, Unreadable> {
    Ok(match preflight::check_memlock(&machine.own) {
        Ok(u64::MAX) => Opinion::Ok("any amount of memory may be locked".to_owned()),
        Ok(bytes) => Opinion::Ok(format!("{} KiB of memory may be locked", bytes >> 10)),
        Err(failure) => Opinion::Warn(failure),
    })
}

fn check_descriptors(machine: &Machine) -> Result<Opinion, Unreadable> {
    let config = Config::default();
    Ok(match preflight::check_descriptors(&config, &machine.own, machine.own.cpus.len()) {
        Ok(preflight::Descriptors { notice: None, .. }) => {
            Opinion::Ok(format!("enough open files for {} clients, the default", config.clients_max))
        }
        Ok(preflight::Descriptors { notice: Some(notice), .. }) => {
            warn(notice, "raise LimitNOFILE= of systemd, ulimit -Hn, or --ulimit nofile= of docker")
        }
        Err(failure) => Opinion::Warn(failure),
    })
}

fn check_backlog(machine: &Machine) -> Result<Opinion, Unreadable> {
    let Some(&somaxconn) = known(&machine.somaxconn)? else {
        return Ok(Opinion::Skip("there is no net.core.somaxconn".to_owned()));
    };
    if somaxconn < BACKLOG {
        return Ok(warn(
            format!(
                "net.core.somaxconn is {somaxconn}: that many connections may wait to be accepted, not {BACKLOG}"
            ),
            "as root: tuning/sysctl",
        ));
    }
    // With cookies, connections beyond the queue are answered all the same.
    let cookies = known(&machine.syn_cookies)?.is_some_and(|cookies| *cookies != 0);
    match known(&machine.syn_backlog)? {
        Some(&waiting) if waiting < BACKLOG && !cookies => Ok(warn(
            format!(
                "net.ipv4.tcp_max_syn_backlog is {waiting} and SYN cookies are off: a burst of clients is turned away"
            ),
            "as root: tuning/sysctl",
        )),
        _ => Ok(Opinion::Ok(format!("net.core.somaxconn is {somaxconn}, listeners ask for {BACKLOG}"))),
    }
}

fn check_huge_pages(machine: &Machine) -> Result<Opinion, Unreadable> {
    Ok(match known(&machine.huge_pages)?.map(String::as_str) {
        None => Opinion::Skip("this kernel has no transparent huge pages".to_owned()),
        Some("always") => warn(
            "transparent huge pages are forced on everybody (always): memory that the store gave back in small pieces can \
             come back as whole huge pages, and faults may wait for compaction",
            "as root: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        ),
        Some(mode) => Opinion::Ok(format!("transparent huge pages: {mode}")),
    })
}

fn check_governor(machine: &Machine) -> Result<Opinion, Unreadable> {
    let Some(governors) = known(&machine.governors)? else {
        return Ok(Opinion::Skip(
            "no CPU of ours has a frequency governor (common in virtual machines)".to_owned(),
        ));
    };
    let slow: Vec<usize> =
        governors.iter().filter(|(_, governor)| *governor != "performance").map(|(cpu, _)| *cpu).collect();
    let Some(first) = slow.first() else {
        return Ok(Opinion::Ok("all CPUs run by the governor performance".to_owned()));
    };
    Ok(warn(
        format!(
            "the governor of CPU {} is {}: after idling it runs slowly at first",
            show_cores(&slow),
            governors[first]
        ),
        "as root: cpupower frequency-set -g performance",
    ))
}

/// What a check of network interfaces says: the complaints, or that all is well.
fn of_nics(
    machine: &Machine,
    complaint: impl Fn(&Nic) -> Option<String>,
    fine: &str,
    remedy: &str,
) -> Result<Opinion, Unreadable> {
    let Some(nics) = known(&machine.nics)? else {
        return Ok(Opinion::Skip("no network interface with a device is up".to_owned()));
    };
    let complaints: Vec<String> =
        nics.iter().filter_map(|nic| Some(format!("{}: {}", nic.name, complaint(nic)?))).collect();
    let names = || nics.iter().map(|nic| nic.name.as_str()).collect::<Vec<_>>().join(", ");
    Ok(if complaints.is_empty() {
        Opinion::Ok(format!("{}: {fine}", names()))
    } else {
        warn(complaints.join("; "), remedy)
    })
}

fn check_interrupts(machine: &Machine) -> Result<Opinion, Unreadable> {
    let silent = |nics: &Vec<Nic>| nics.iter().all(|nic| nic.interrupts.is_empty());
    if known(&machine.nics)?.is_some_and(silent) {
        return Ok(Opinion::Skip("no interrupt of a network interface's queue is known".to_owned()));
    }
    let crowded = |nic: &Nic| {
        let cpus: BTreeSet<usize> = nic.interrupts.values().flatten().copied().collect();
        let possible = nic.interrupts.len().min(machine.own.cpus.len());
        let shown = show_cores(&cpus.iter().copied().collect::<Vec<_>>());
        (cpus.len() < possible).then(|| format!("{} queues interrupt only CPU {shown}", nic.interrupts.len()))
    };
    of_nics(machine, crowded, "queues interrupt as many CPUs as they can", "as root: tuning/irq")
}

fn check_rps(machine: &Machine) -> Result<Opinion, Unreadable> {
    let cpus = machine.own.cpus.len();
    let narrow = |nic: &Nic| {
        let queues = nic.rps.len();
        (queues > 0 && queues < cpus && !nic.rps.contains(&true)).then(|| {
            format!(
                "RPS is off, and the number of receive queues is {queues}: so many of our {cpus} CPUs handle all packets"
            )
        })
    };
    of_nics(machine, narrow, "a receive queue per CPU, or RPS spreads packets", "as root: tuning/irq")
}

fn check_xps(machine: &Machine) -> Result<Opinion, Unreadable> {
    let single = |nics: &Vec<Nic>| nics.iter().all(|nic| nic.xps.len() < 2);
    if known(&machine.nics)?.is_some_and(single) {
        return Ok(Opinion::Skip("no network interface has several transmit queues".to_owned()));
    }
    let unmapped = |nic: &Nic| {
        let off = nic.xps.iter().filter(|on| !**on).count();
        (nic.xps.len() > 1 && off > 0)
            .then(|| format!("{off} of {} transmit queues belong to no CPU, XPS is off", nic.xps.len()))
    };
    of_nics(machine, unmapped, "every transmit queue has its CPUs", "as root: tuning/irq")
}

fn check_busy_poll(machine: &Machine) -> Result<Opinion, Unreadable> {
    let (poll, read) = (known(&machine.busy_poll)?, known(&machine.busy_read)?);
    let (Some(poll), Some(read)) = (poll, read) else {
        return Ok(Opinion::Skip("this kernel has no busy polling of sockets".to_owned()));
    };
    Ok(if (*poll, *read) == (0, 0) {
        Opinion::Ok(
            "the kernel does not busy-poll sockets; cores look at their rings (--busy-poll-us)".to_owned(),
        )
    } else {
        warn(
            format!(
                "net.core.busy_poll is {poll} and net.core.busy_read is {read}: the kernel spends CPU on looking, beside \
                 the cores that look at their rings themselves (--busy-poll-us)"
            ),
            "measure both ways; to switch it off, as root: tuning/sysctl",
        )
    })
}

fn check_numa(machine: &Machine) -> Result<Opinion, Unreadable> {
    let Some(nodes) = known(&machine.nodes)? else {
        return Ok(Opinion::Skip("this kernel knows no NUMA nodes".to_owned()));
    };
    let ours = |node: &Vec<usize>| {
        node.iter().copied().filter(|cpu| machine.own.cpus.contains(cpu)).collect::<Vec<_>>()
    };
    let used: Vec<Vec<usize>> = nodes.iter().map(ours).filter(|cpus| !cpus.is_empty()).collect();
    let balancing = known(&machine.numa_balancing)?.is_some_and(|mode| *mode != 0);
    Ok(match (used.len(), balancing) {
        (2.., _) => warn(
            format!(
                "our CPUs are of {} NUMA nodes: a request for another node's core crosses between them",
                used.len()
            ),
            format!("a process per node: --cores {} and so on", show_cores(&used[0])),
        ),
        (_, true) if nodes.len() > 1 => warn(
            "kernel.numa_balancing is on: pages of pinned threads are unmapped to see who uses them",
            "as root: tuning/sysctl",
        ),
        _ => Opinion::Ok(format!("our CPUs are of one NUMA node, the machine has {}", nodes.len())),
    })
}

fn check_machine(machine: &Machine) -> Result<Opinion, Unreadable> {
    Ok(match known(&machine.hypervisor)? {
        None => Opinion::Skip("this CPU does not say whether a hypervisor runs it".to_owned()),
        Some(false) => Opinion::Ok("bare metal".to_owned()),
        Some(true) => warn(
            "a virtual machine: waking a core and timers cost more, and neighbours may take its time",
            "serve on bare metal, or pin its CPUs and give its network interface a queue per CPU; do not carry figures over",
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fake `/proc` and `/sys` that goes away with the test.
    struct Fake(PathBuf);

    impl Fake {
        fn new(name: &str) -> Fake {
            let root = std::env::temp_dir().join(format!("foreshadow-doctor-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&root).unwrap();
            Fake(root)
        }

        fn with(self, files: &[(&str, &str)]) -> Fake {
            for (path, text) in files {
                let path = self.0.join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, format!("{text}\n")).unwrap();
            }
            self
        }

        /// A tuned machine: two CPUs, an interface with two queues.
        fn tuned(name: &str) -> Fake {
            Fake::new(name).with(&[
                ("proc/sys/net/core/somaxconn", "4096"),
                ("proc/sys/net/core/busy_poll", "0"),
                ("proc/sys/net/core/busy_read", "0"),
                ("proc/sys/net/ipv4/tcp_max_syn_backlog", "256"),
                ("proc/sys/net/ipv4/tcp_syncookies", "1"),
                ("proc/sys/kernel/numa_balancing", "0"),
                ("proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu sse2"),
                (
                    "proc/interrupts",
                    "     CPU0 CPU1\n 37: 0 0 PCI-MSIX 0-edge eth0-config\n 38: 9 0 PCI-MSIX 1-edge eth0-TxRx-0\n \
                     39: 0 9 PCI-MSIX 2-edge eth0-TxRx-1\nNMI: 0 0 Non-maskable interrupts",
                ),
                ("proc/irq/37/smp_affinity_list", "0"),
                ("proc/irq/38/smp_affinity_list", "0"),
                ("proc/irq/39/smp_affinity_list", "0-1"),
                ("proc/irq/39/effective_affinity_list", "1"),
                ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never"),
                ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance"),
                ("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "performance"),
                ("sys/devices/system/node/node0/cpulist", "0-1"),
                ("sys/devices/system/node/online", "0"),
                ("sys/class/net/lo/operstate", "unknown"),
                ("sys/class/net/eth0/operstate", "up"),
                ("sys/class/net/eth0/device/msi_irqs/37", "msix"),
                ("sys/class/net/eth0/device/msi_irqs/38", "msix"),
                ("sys/class/net/eth0/device/msi_irqs/39", "msix"),
                ("sys/class/net/eth0/queues/rx-0/rps_cpus", "00000000,00000000"),
                ("sys/class/net/eth0/queues/rx-1/rps_cpus", "00000000,00000000"),
                ("sys/class/net/eth0/queues/tx-0/xps_cpus", "1"),
                ("sys/class/net/eth0/queues/tx-1/xps_cpus", "2"),
            ])
        }

        fn findings(&self, own: Facts) -> Vec<Finding> {
            examine(&Machine::look(&self.0, own))
        }

        /// The finding of one check.
        fn finding(&self, check: &str) -> Finding {
            let mut findings = self.findings(own()).into_iter();
            findings.find(|finding| finding.check == check).expect("every check says something")
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn own() -> Facts {
        Facts {
            kernel: Some((6, 1)),
            io_uring_disabled: Some(0),
            ring_error: None,
            memlock_bytes: (8 << 20, 8 << 20),
            descriptors: (1024, 1 << 20),
            cpus: vec![0, 1],
            ram_bytes: Some(16 << 30),
            cgroup_bytes: None,
        }
    }

    #[test]
    fn a_tuned_machine_is_well_in_every_respect() {
        let findings = Fake::tuned("tuned").findings(own());
        assert_eq!(findings.len(), CHECKS.len());
        for finding in &findings {
            assert_eq!(finding.verdict, Verdict::Ok, "{finding:?}");
        }
        assert!(text_of(&findings).ends_with("\n13 ok, 0 to look at, 0 skipped\n"));
    }

    #[test]
    fn each_fault_is_named_by_its_check_alone_with_remedy_and_row() {
        type Files = &'static [(&'static str, &'static str)];
        let faults: &[(&str, Files, &str)] = &[
            ("backlog", &[("proc/sys/net/core/somaxconn", "128")], "somaxconn is 128"),
            ("backlog", &[("proc/sys/net/ipv4/tcp_syncookies", "0")], "tcp_max_syn_backlog is 256"),
            ("huge-pages", &[("sys/kernel/mm/transparent_hugepage/enabled", "[always] never")], "always"),
            (
                "governor",
                &[("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "powersave")],
                "CPU 1 is powersave",
            ),
            ("interrupts", &[("proc/irq/39/effective_affinity_list", "0")], "2 queues interrupt only CPU 0"),
            ("xps", &[("sys/class/net/eth0/queues/tx-1/xps_cpus", "0,00000000")], "1 of 2 transmit queues"),
            ("busy-poll", &[("proc/sys/net/core/busy_read", "50")], "busy_read is 50"),
            (
                "numa",
                &[
                    ("sys/devices/system/node/node0/cpulist", "0"),
                    ("sys/devices/system/node/node1/cpulist", "1"),
                ],
                "2 NUMA nodes",
            ),
            (
                "numa",
                &[("sys/devices/system/node/node1/cpulist", ""), ("proc/sys/kernel/numa_balancing", "1")],
                "numa_balancing is on",
            ),
            ("machine", &[("proc/cpuinfo", "flags : fpu hypervisor")], "a virtual machine"),
        ];
        for (i, (check, files, expected)) in faults.iter().enumerate() {
            let findings = Fake::tuned(&format!("fault-{i}")).with(files).findings(own());
            for finding in findings {
                let verdict = if finding.check == *check { Verdict::Warn } else { Verdict::Ok };
                assert_eq!(finding.verdict, verdict, "{check}: {finding:?}");
                if verdict == Verdict::Warn {
                    assert!(finding.reason.contains(expected), "{finding:?}");
                    assert!(finding.remedy.is_some_and(|remedy| !remedy.is_empty()));
                    assert_eq!(finding.see, Some(format!("tuning/README.md#{check}")));
                }
            }
        }
    }

    #[test]
    fn one_receive_queue_for_two_cpus_wants_rps() {
        let fake = Fake::tuned("rps");
        std::fs::remove_dir_all(fake.0.join("sys/class/net/eth0/queues/rx-1")).unwrap();
        assert_eq!(fake.finding("rps").verdict, Verdict::Warn);
        let fake = fake.with(&[("sys/class/net/eth0/queues/rx-0/rps_cpus", "00000000,00000003")]);
        assert_eq!(fake.finding("rps").verdict, Verdict::Ok);
    }

    #[test]
    fn what_preflight_refuses_is_a_warning() {
        let sick = Facts {
            kernel: Some((5, 15)),
            ring_error: Some(libc::EPERM),
            memlock_bytes: (0, 0),
            descriptors: (64, 1024),
            ..own()
        };
        let findings = Fake::tuned("sick").findings(sick);
        let warned: Vec<_> =
            findings.iter().filter(|it| it.verdict == Verdict::Warn).map(|it| it.check).collect();
        assert_eq!(warned, ["kernel", "io-uring", "locked-memory", "descriptors"]);
    }

    #[test]
    fn what_a_machine_does_not_have_is_skipped_and_the_check_ran() {
        let findings = Fake::new("empty").findings(own());
        for finding in &findings[4..] {
            assert_eq!((finding.verdict, finding.could_run), (Verdict::Skip, true), "{finding:?}");
        }
        assert!(text_of(&findings).ends_with("\n4 ok, 0 to look at, 9 skipped\n"));
    }

    #[test]
    fn a_file_that_is_there_and_tells_nothing_is_a_check_that_could_not_run() {
        let fake = Fake::tuned("strange").with(&[("proc/sys/net/core/somaxconn", "many")]);
        std::fs::remove_file(fake.0.join("proc/cpuinfo")).unwrap();
        std::fs::create_dir(fake.0.join("proc/cpuinfo")).unwrap();
        for (check, expected) in [("backlog", "`many` is not understood"), ("machine", "Is a directory")] {
            let finding = fake.finding(check);
            assert_eq!((finding.verdict, finding.could_run, &finding.see), (Verdict::Skip, false, &None));
            assert!(finding.reason.contains(expected), "{finding:?}");
        }
        let blind = fake.findings(Facts { kernel: None, ..own() });
        assert_eq!(blind.iter().filter(|finding| !finding.could_run).count(), 3);
    }

    #[test]
    fn interrupts_of_a_virtio_interface_are_those_of_the_device_below() {
        let fake = Fake::new("virtio").with(&[
            (
                "proc/interrupts",
                "38: 1 PCI-MSIX 1-edge virtio2-input.0\n39: 1 PCI-MSIX 1-edge virtio2-output.1",
            ),
            ("proc/irq/38/smp_affinity_list", "1"),
            ("proc/irq/39/smp_affinity_list", "1"),
            ("sys/devices/pci/msi_irqs/38", "msix"),
            ("sys/devices/pci/msi_irqs/39", "msix"),
            ("sys/devices/pci/virtio2/vendor", "1"),
            ("sys/class/net/eth0/operstate", "up"),
        ]);
        std::os::unix::fs::symlink("../../../devices/pci/virtio2", fake.0.join("sys/class/net/eth0/device"))
            .unwrap();
        assert!(fake.finding("interrupts").reason.contains("2 queues interrupt only CPU 1"));
    }

    #[test]
    fn labels_of_queues_are_told_from_those_of_errands() {
        for (label, queue) in [
            ("eth0-TxRx-3", Some(3)),
            ("virtio2-input.0", Some(0)),
            ("mlx5_comp12@pci:0000:01:00.0", Some(12)),
            ("eth0", Some(0)),
            ("mlx5_async0@pci:0000:01:00.0", None),
            ("ena-mgmnt@pci:0000:00:05.0", None),
            ("virtio2-config", None),
        ] {
            let read = queue_of(&format!(" 41:  3  0 PCI-MSIX-0000:01:00.0  1-edge  {label}"));
            assert_eq!(read, queue.map(|queue| (41, queue)), "{label}");
        }
        assert_eq!(queue_of("NMI: 0 0 Non-maskable interrupts"), None);
    }

    #[test]
    fn a_machine_reads_verdicts_as_words() {
        let findings = Fake::tuned("json").findings(own());
        let report = serde_json::to_value(Report { complete: true, findings }).unwrap();
        let expected = serde_json::json!({
            "check": "kernel", "verdict": "OK", "reason": "Linux 6.1", "could_run": true
        });
        assert_eq!((&report["complete"], &report["findings"][0]), (&true.into(), &expected));
    }

    #[test]
    fn every_check_has_its_row_in_the_tuning_table() {
        let table = include_str!("../tuning/README.md");
        for (name, _) in CHECKS {
            assert!(table.contains(&format!("<a id=\"{name}\"></a>")), "{TUNING} has no row {name}");
        }
    }
}
