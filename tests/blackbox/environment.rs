//! Bad configurations and environments: exit status 78, cause and remedy, before any socket is opened.

use crate::support::{foreshadow, run_to_end, serve_command};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Runs a command that must refuse, and answers what it said.
fn refusal(command: Command) -> String {
    let output = run_to_end(command);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{stderr}");
    assert_eq!(output.stdout, b"", "it never said it was ready");
    stderr
}

#[test]
fn bad_settings_are_refused_with_what_would_be_right() {
    for (flags, expected) in [
        (["--listen", "0.0.0.0:0"], "there is no password"),
        (["--admin", "0.0.0.0:0"], "there is no password"),
        (["--listen", "localhost:7400"], "names are not looked up"),
        (["--memory", "1G"], "say 1GiB"),
        (["--memory", "16MiB"], "remedy: say --memory "),
        (["--memory", "900TiB"], "is not from 8MiB to 256TiB"),
        (["--cores", "8000"], "this process may use"),
        (["--busy-poll-us", "often"], "nor auto"),
        (["--config", "/nonexistent.toml"], "/nonexistent.toml cannot be read"),
    ] {
        let said = refusal(serve_command(&flags));
        assert!(said.contains(expected), "{flags:?}: {said}");
    }
}

#[test]
fn a_bad_file_is_refused_with_line_and_column_by_serve_and_by_check() {
    let file = std::env::temp_dir().join(format!("foreshadow-bad-{}.toml", std::process::id()));
    std::fs::write(&file, "[store]\n  memroy = \"1GiB\"\n").unwrap();
    let path = file.to_str().unwrap();
    let expected = format!("{path}:2:3: unknown key `memroy`; did you mean `memory` in [store]?");
    assert!(refusal(serve_command(&["--config", path])).contains(&expected));
    assert!(refusal(foreshadow(&["check", path])).contains(&expected));
    let output = run_to_end(foreshadow(&["check", "--json", path]));
    assert_eq!(output.status.code(), Some(78));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["ok"], &report["problems"][0]["line"]), (&false.into(), &2.into()));
    std::fs::write(&file, "[store]\nmemory = \"2GiB\"\n").unwrap();
    let output = run_to_end(foreshadow(&["check", path]));
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8(output.stdout).unwrap().contains("memory = 2GiB\n"));
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn too_little_locked_memory_is_refused() {
    let mut command = serve_command(&[]);
    limit(&mut command, libc::RLIMIT_MEMLOCK, 64 << 10);
    let said = refusal(command);
    assert!(said.contains("only 64 KiB of memory may be locked") && said.contains("ulimit -l"), "{said}");
}

#[test]
fn too_few_file_descriptors_for_the_clients_asked_for_are_refused() {
    let mut command = serve_command(&["--max-clients", "5000"]);
    limit(&mut command, libc::RLIMIT_NOFILE, 1000);
    let said = refusal(command);
    assert!(said.contains("5000 clients need") && said.contains("LimitNOFILE="), "{said}");
}

#[test]
fn io_uring_forbidden_by_seccomp_is_refused_with_the_reason() {
    let mut command = serve_command(&[]);
    // SAFETY: between fork and exec only prctl is called, on data made before.
    unsafe { command.pre_exec(forbid_io_uring) };
    let said = refusal(command);
    assert!(said.contains("io_uring is forbidden here") && said.contains("seccomp profile"), "{said}");
}

/// Sets both limits of a resource in the child.
pub(crate) fn limit(command: &mut Command, resource: libc::__rlimit_resource_t, most: u64) {
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    let set = move || {
        // SAFETY: the pointer is to a live rlimit.
        match unsafe { libc::setrlimit(resource, &raw const limit) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: between fork and exec only setrlimit is called.
    unsafe { command.pre_exec(set) };
}

/// Lets io_uring_setup fail with EPERM in this process, as the profiles of container engines do.
fn forbid_io_uring() -> std::io::Result<()> {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let mut filter = [
        // Load the number of the system call; skip one if it is not ours; EPERM; allow.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        libc::sock_filter {
            jf: 1,
            ..statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, libc::SYS_io_uring_setup as u32)
        },
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: plain prctl calls; the program and its filter live until they return.
    let failed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) != 0
    };
    if failed { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}
