//! The scripts of `tuning/` against a fake `/proc` and `/sys`: they set, set back, and touch nothing else.

use foreshadow::doctor::{Machine, Verdict, examine};
use foreshadow::preflight::Facts;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A fake root that goes away with the test.
struct Fake(PathBuf);

impl Drop for Fake {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

impl Fake {
    /// An untuned machine: four CPUs, an interface with two queues whose interrupts all go to CPU 0, and one that is down.
    fn untuned(name: &str) -> Fake {
        let root = std::env::temp_dir().join(format!("foreshadow-tuning-{name}-{}", std::process::id()));
        let fake = Fake(root);
        for (path, text) in [
            ("proc/sys/net/core/somaxconn", "128"),
            ("proc/sys/net/core/busy_poll", "50"),
            ("proc/sys/net/core/busy_read", "0"),
            ("proc/sys/net/ipv4/tcp_max_syn_backlog", "8192"),
            ("proc/sys/kernel/numa_balancing", "1"),
            (
                "proc/interrupts",
                "      CPU0 CPU1 CPU2 CPU3\n 37: 0 0 0 0 PCI-MSIX 0-edge eth0-config\n\
                 \x2038: 9 0 0 0 PCI-MSIX 1-edge eth0-TxRx-0\n 39: 9 0 0 0 PCI-MSIX 2-edge eth0-TxRx-1\n\
                 \x2040: 9 0 0 0 PCI-MSIX 1-edge disk-0\n",
            ),
            ("proc/irq/37/smp_affinity_list", "0-3"),
            ("proc/irq/38/smp_affinity_list", "0"),
            ("proc/irq/39/smp_affinity_list", "0"),
            ("proc/irq/40/smp_affinity_list", "0"),
            ("sys/devices/system/cpu/online", "0-3"),
            ("sys/devices/system/node/node0/cpulist", "0-3"),
            ("sys/class/net/lo/operstate", "unknown"),
            ("sys/class/net/eth1/operstate", "down"),
            ("sys/class/net/eth1/device/vendor", "1"),
            ("sys/class/net/eth1/queues/rx-0/rps_cpus", "0"),
            ("sys/class/net/eth0/operstate", "up"),
            ("sys/class/net/eth0/device/msi_irqs/37", "msix"),
            ("sys/class/net/eth0/device/msi_irqs/38", "msix"),
            ("sys/class/net/eth0/device/msi_irqs/39", "msix"),
            ("sys/class/net/eth0/queues/rx-0/rps_cpus", "00000000,00000000"),
            ("sys/class/net/eth0/queues/rx-1/rps_cpus", "00000000,00000000"),
            ("sys/class/net/eth0/queues/tx-0/xps_cpus", "00000000,00000005"),
            ("sys/class/net/eth0/queues/tx-1/xps_cpus", "00000000,00000000"),
        ] {
            fake.set(path, text);
        }
        fake
    }

    fn set(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, format!("{text}\n")).unwrap();
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.0.join(path)).unwrap().trim().to_owned()
    }

    /// All files and what they say.
    fn all(&self) -> BTreeMap<String, String> {
        let (mut folders, mut files) = (vec![self.0.clone()], BTreeMap::new());
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(&self.0).unwrap().to_str().unwrap().to_owned();
                    files.insert(name, std::fs::read_to_string(&path).unwrap());
                }
            }
        }
        files
    }

    /// Files that are not as they were, or are new.
    fn changes(&self, before: &BTreeMap<String, String>) -> Vec<(String, String)> {
        let after = self.all();
        assert!(before.keys().all(|path| after.contains_key(path)), "no file went away");
        let changed = after.into_iter().filter(|(path, text)| before.get(path) != Some(text));
        changed.map(|(path, text)| (path, text.trim().to_owned())).collect()
    }

    /// Runs a script on this root, which must succeed; answers what it said.
    fn run(&self, script: &str, flags: &[&str]) -> String {
        let output = tuning(script, &self.0, flags);
        assert!(output.status.success(), "{script} {flags:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a script that must refuse; answers what it said.
    fn refused(&self, script: &str, flags: &[&str]) -> String {
        refusal(&tuning(script, &self.0, flags))
    }

    fn verdict(&self, check: &str) -> Verdict {
        let own = Facts { cpus: vec![0, 1, 2, 3], ..Facts::probe() };
        let findings = examine(&Machine::look(&self.0, own));
        findings.iter().find(|finding| finding.check == check).expect("a check of that name").verdict
    }
}

fn tuning(script: &str, root: &Path, flags: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning").join(script);
    Command::new(script).arg("--root").arg(root).args(flags).output().expect("bash runs it")
}

fn refusal(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

const IRQ_STATE: &str = "var/lib/foreshadow/tuning-irq.state";
const SYSCTL_STATE: &str = "var/lib/foreshadow/tuning-sysctl.state";

#[test]
fn a_dry_run_says_what_it_would_do_and_changes_nothing() {
    let fake = Fake::untuned("dry");
    let before = fake.all();
    let said = fake.run("sysctl", &["--dry-run"]);
    assert!(said.contains("/proc/sys/net/core/somaxconn: 128 -> 4096\n"), "{said}");
    let said = fake.run("irq", &["--dry-run"]);
    assert!(said.contains("/proc/irq/39/smp_affinity_list: 0 -> 1\n"), "{said}");
    assert_eq!(fake.all(), before);

    fake.run("sysctl", &[]);
    let tuned = fake.all();
    let said = fake.run("sysctl", &["--restore", "--dry-run"]);
    assert!(said.contains("/proc/sys/net/core/somaxconn: 4096 -> 128\n"), "{said}");
    assert_eq!(fake.all(), tuned);
}

#[test]
fn sysctl_raises_what_is_low_lowers_nothing_and_is_restored() {
    let fake = Fake::untuned("sysctl");
    let before = fake.all();
    assert_eq!((fake.verdict("backlog"), fake.verdict("busy-poll")), (Verdict::Warn, Verdict::Warn));
    fake.run("sysctl", &[]);
    let changes = fake.changes(&before);
    let changed: Vec<_> = changes.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    assert_eq!(changed[..2], [("proc/sys/net/core/busy_poll", "0"), ("proc/sys/net/core/somaxconn", "4096")]);
    assert_eq!((changed.len(), changed[2].0), (3, SYSCTL_STATE));
    assert_eq!((fake.verdict("backlog"), fake.verdict("busy-poll")), (Verdict::Ok, Verdict::Ok));
    fake.run("sysctl", &["--restore"]);
    assert_eq!(fake.all(), before, "the state file is gone as well");
}

#[test]
fn balancing_is_switched_off_only_between_nodes() {
    let fake = Fake::untuned("numa");
    fake.set("sys/devices/system/node/node1/cpulist", "");
    fake.run("sysctl", &[]);
    assert_eq!(fake.read("proc/sys/kernel/numa_balancing"), "0");
}

#[test]
fn irq_gives_each_queue_its_cpu_and_is_restored() {
    let fake = Fake::untuned("irq");
    let before = fake.all();
    let checks = ["interrupts", "rps", "xps"];
    assert_eq!(checks.map(|check| fake.verdict(check)), [Verdict::Warn; 3]);
    fake.run("irq", &[]);
    let mut changes = fake.changes(&before);
    let (state, _) = changes.pop().unwrap();
    let changes: Vec<_> = changes.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    // Queue 0 stays on CPU 0 and with the CPUs 0 and 2; the disk and the interface that is down are nobody's business.
    let expected = [
        ("proc/irq/39/smp_affinity_list", "1"),
        ("sys/class/net/eth0/queues/rx-0/rps_cpus", "f"),
        ("sys/class/net/eth0/queues/rx-1/rps_cpus", "f"),
        ("sys/class/net/eth0/queues/tx-1/xps_cpus", "a"),
    ];
    assert_eq!((changes.as_slice(), state.as_str()), (expected.as_slice(), IRQ_STATE));
    assert_eq!(checks.map(|check| fake.verdict(check)), [Verdict::Ok; 3]);
    fake.run("irq", &["--restore"]);
    assert_eq!(fake.all(), before);
}

#[test]
fn irq_takes_the_cpus_it_is_given_in_their_order() {
    let fake = Fake::untuned("cpus");
    fake.set("sys/devices/system/cpu/online", "0-69");
    fake.run("irq", &["--cpus", "68,3", "--nic", "eth0"]);
    assert_eq!(fake.read("proc/irq/38/smp_affinity_list"), "68");
    assert_eq!(fake.read("proc/irq/39/smp_affinity_list"), "3");
    assert_eq!(fake.read("sys/class/net/eth0/queues/tx-0/xps_cpus"), "10,00000000,00000000");
    assert_eq!(fake.read("sys/class/net/eth0/queues/rx-0/rps_cpus"), "00000000,00000000", "a queue per CPU");
    for (flags, expected) in [
        (["--cpus", "70"], "CPU 70 is not online (0-69)"),
        (["--cpus", "3-1"], "names no CPU"),
        (["--cpus", "all"], "is not a list of CPUs"),
        (["--nic", "../net/eth0"], "there is no network interface"),
        (["--nic", "lo"], "there is no network interface lo with a device"),
        (["--frob", "1"], "there is no flag --frob"),
    ] {
        let said = fake.refused("irq", &flags);
        assert!(said.contains(expected), "{flags:?}: {said}");
    }
}

#[test]
fn a_second_run_keeps_the_first_values_and_restore_leaves_others_settings_alone() {
    let fake = Fake::untuned("twice");
    let before = fake.all();
    fake.run("sysctl", &[]);
    assert_eq!(fake.run("sysctl", &[]), "nothing to change\n");
    fake.set("proc/sys/net/core/somaxconn", "64");
    fake.run("sysctl", &[]);
    fake.set("proc/sys/net/core/busy_poll", "7");
    let said = fake.run("sysctl", &["--restore"]);
    assert!(said.contains("/proc/sys/net/core/busy_poll: left at 7, which is not ours\n"), "{said}");
    let left = [("proc/sys/net/core/busy_poll".to_owned(), "7".to_owned())];
    assert_eq!(fake.changes(&before), left);
    assert!(fake.refused("sysctl", &["--restore"]).contains("there is nothing to restore"));
}

#[test]
fn a_wrong_root_is_refused() {
    let fake = Fake::untuned("root");
    let before = fake.all();
    for script in ["sysctl", "irq"] {
        for root in [fake.0.join("proc"), fake.0.join("nowhere")] {
            let said = refusal(&tuning(script, &root, &[]));
            assert!(said.contains("is not a root of a Linux system"), "{script}: {said}");
        }
        assert_eq!(tuning(script, &fake.0, &["--root"]).status.code(), Some(64));
    }
    assert_eq!(fake.all(), before);
}

#[test]
fn a_state_file_that_names_other_files_is_refused() {
    let fake = Fake::untuned("state");
    let head = "# foreshadow tuning, v1: path, value before, value after";
    let mine = "proc/sys/net/core/somaxconn\t1\t128\n";
    for (lines, expected) in [
        (format!("{head}\n{mine}etc/passwd\tx\ty"), "names the path etc/passwd"),
        (format!("{head}\n{mine}proc/sys/../../etc/passwd\tx\ty"), "names the path proc/sys/../"),
        (format!("{head}\n{mine}proc/sys/kernel/panic\tx"), "the line of proc/sys/kernel/panic is broken"),
        (mine.to_owned(), "is not a state file of these scripts"),
    ] {
        fake.set(SYSCTL_STATE, &lines);
        let before = fake.all();
        let said = fake.refused("sysctl", &["--restore"]);
        assert!(said.contains(expected), "{said}");
        assert_eq!(fake.all(), before);
    }
}

#[test]
fn what_cannot_be_set_is_said_and_the_rest_is_set_all_the_same() {
    let fake = Fake::untuned("managed");
    // A link to where nothing can be written, and still reads: stands for an interrupt that its driver manages.
    let managed = fake.0.join("proc/irq/39/smp_affinity_list");
    std::fs::remove_file(&managed).unwrap();
    std::os::unix::fs::symlink("/proc/self/stat", &managed).unwrap();
    let output = tuning("irq", &fake.0, &[]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("/proc/irq/39/smp_affinity_list cannot be set to 1"), "{said}");
    assert_eq!(fake.read("sys/class/net/eth0/queues/tx-1/xps_cpus"), "a");
}

#[test]
fn the_doctor_looks_at_this_machine_and_ends_well() {
    let output = Command::new(env!("CARGO_BIN_EXE_foreshadow")).args(["doctor", "--json"]).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let status = i32::from(report["complete"] == false);
    assert_eq!(output.status.code(), Some(status), "{report}");
    let findings = report["findings"].as_array().unwrap();
    assert_eq!((findings.len(), &findings[1]["check"]), (13, &"io-uring".into()));
    for finding in findings {
        assert_eq!(finding["verdict"] == "WARN", finding.get("remedy").is_some(), "{finding}");
    }
}
