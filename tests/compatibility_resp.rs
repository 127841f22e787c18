//! docs/compatibility.md says of RESP what the command table and the lists of differences say, and nothing else.
//!
//! The part between the marks is made here; with FORESHADOW_RECORD_COMPATIBILITY set it is written instead of compared.

use foreshadow::wire::commands::{COMMANDS, Command, Group};
use std::fmt::Write as _;
use std::path::Path;

const BEGIN: &str = "<!-- RESP: made by tests/compatibility_resp.rs -->\n";
const END: &str = "<!-- RESP: end -->\n";
/// Set to write the page instead of checking it.
const RECORD_VARIABLE: &str = "FORESHADOW_RECORD_COMPATIBILITY";

/// Options of commands, as they are parsed.
const OPTIONS: &[(&str, &str)] = &[
    ("set", "`NX` `XX` `GET` `EX` `PX` `EXAT` `PXAT` `KEEPTTL`"),
    ("getex", "`EX` `PX` `EXAT` `PXAT` `PERSIST`"),
    ("expire", "`NX` `XX` `GT` `LT`"),
    ("pexpire", "`NX` `XX` `GT` `LT`"),
    ("expireat", "`NX` `XX` `GT` `LT`"),
    ("pexpireat", "`NX` `XX` `GT` `LT`"),
    ("copy", "`REPLACE` `DB 0`"),
    ("restore", "`REPLACE` `ABSTTL`; `IDLETIME` and `FREQ` are accepted"),
    ("scan", "`MATCH` `COUNT` `TYPE`"),
    ("flushall", "`SYNC` `ASYNC`"),
    ("flushdb", "`SYNC` `ASYNC`"),
    ("hello", "`2` `3` `AUTH` `SETNAME`"),
    ("info", "names of sections, `all` `default` `everything`"),
];

/// Options of subcommands.
const SUBCOMMAND_OPTIONS: &[(&str, &str)] = &[
    ("client|kill", "`ID` `ADDR` `LADDR` `TYPE` `USER` `MAXAGE` `SKIPME`"),
    ("client|list", "`TYPE` `ID`"),
    ("client|reply", "`ON` `OFF` `SKIP`"),
    ("client|tracking", "`ON` `OFF` `BCAST` `PREFIX` `REDIRECT` `OPTIN` `OPTOUT` `NOLOOP`"),
    ("client|unblock", "`TIMEOUT` `ERROR`"),
    (
        "config|set",
        "`maxclients` `maxmemory` `slowlog-log-slower-than` `slowlog-max-len` `latency-monitor-threshold`; any other to \
         what it is; all or none",
    ),
    (
        "config|get",
        "`requirepass` where there is no password: of one there is, only a hash is kept, which is not shown",
    ),
    ("memory|usage", "`SAMPLES`"),
    ("acl|log", "`RESET`, a number of entries"),
    ("acl|setuser", "every rule of Redis 7.2, in any case: selectors, first words (`+select\\|0`)"),
    ("function|flush", "`SYNC` `ASYNC`"),
];

fn options<'a>(table: &[(&str, &'a str)], name: &str) -> &'a str {
    table.iter().find(|(known, _)| *known == name).map_or("", |(_, options)| options)
}

fn page() -> String {
    let mut out = String::new();
    let groups = [
        Group::String,
        Group::Generic,
        Group::Transactions,
        Group::Connection,
        Group::Server,
        Group::Cluster,
        Group::Pubsub,
        Group::Scripting,
    ];
    for group in groups {
        let commands: Vec<&Command> = COMMANDS.iter().filter(|command| command.group == group).collect();
        let _ = writeln!(
            out,
            "### Commands: {}\n\n| command | options | what it does here |\n|---|---|---|",
            group.name()
        );
        for command in commands {
            let name = command.name.to_uppercase();
            let _ = writeln!(out, "| `{name}` | {} | {} |", options(OPTIONS, command.name), command.summary);
            for sub in command.subcommands.iter().filter(|sub| sub.name != "help") {
                let full = format!("{}|{}", command.name, sub.name);
                let told = options(SUBCOMMAND_OPTIONS, &full);
                let _ = writeln!(out, "| `{name} {}` | {told} | {} |", sub.name.to_uppercase(), sub.summary);
            }
        }
        out.push('\n');
    }
    let list = |out: &mut String, title: &str, head: &str, file: &str| {
        let _ = writeln!(out, "### {title}\n\n{head}\n");
        let columns = if file.ends_with(".allowed") {
            "| case | step | reason |\n|---|---|---|"
        } else {
            "| test | reason |\n|---|---|"
        };
        let _ = writeln!(out, "{columns}");
        let text = std::fs::read_to_string(root().join(file)).expect("the list is there");
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let mut cells: Vec<&str> = line.split(" | ").collect();
            let reason = cells.pop().expect("a reason");
            let cells: Vec<String> = cells.iter().map(|cell| format!("`{cell}`")).collect();
            let _ = writeln!(out, "| {} | {reason} |", cells.join(" | "));
        }
        out.push('\n');
    };
    list(
        &mut out,
        "Where replies differ from Valkey's",
        "The same bytes are sent to Valkey 9 and to the binary (`tests/differential`, more than a thousand commands, good and \
         bad ones): of these, every other reply is the same byte for byte. Both columns are patterns.",
        "tests/differential/resp.allowed",
    );
    list(
        &mut out,
        "Tests of redis-py that do not pass",
        "Its own files for encoding, pipelines, connections, pools, retries, locks, monitoring, client-side caching and \
         multiprocessing, and the tests of strings, keys and expiry of its commands (`tests/suites`). All others pass.",
        "tests/suites/redis-py.skips",
    );
    out
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_page_says_what_the_command_table_says() {
    let path = root().join("docs/compatibility.md");
    let text = std::fs::read_to_string(&path).expect("the page is there");
    let (head, rest) = text.split_once(BEGIN).expect("the mark of the beginning");
    let (written, tail) = rest.split_once(END).expect("the mark of the end");
    let page = page();
    if std::env::var_os(RECORD_VARIABLE).is_some() {
        std::fs::write(&path, [head, BEGIN, &page, END, tail].concat()).expect("the page can be written");
        return;
    }
    let differing = page.lines().zip(written.lines()).find(|(made, written)| made != written);
    assert!(
        page == written,
        "docs/compatibility.md is not up to date, first at {differing:?}: run `{RECORD_VARIABLE}=1 cargo test --test compatibility_resp`"
    );
}

#[test]
fn options_are_those_of_commands_that_there_are() {
    for (name, _) in OPTIONS {
        assert!(COMMANDS.iter().any(|command| command.name == *name), "{name}");
    }
    for (name, _) in SUBCOMMAND_OPTIONS {
        let (command, sub) = name.split_once('|').expect("both names");
        let found = COMMANDS.iter().find(|known| known.name == command);
        assert!(
            found.is_some_and(|command| command.subcommands.iter().any(|known| known.name == sub)),
            "{name}"
        );
    }
}
