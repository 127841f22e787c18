//! The compatibility page is held against the code: it names every command and flag, and no other.

use std::collections::BTreeSet;
use std::path::PathBuf;

fn read(path: &str) -> String {
    std::fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)).expect("it is there")
}

/// What stands in back quotes.
fn quoted(text: &str) -> BTreeSet<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// First columns and further ones of the table that begins with `head`.
fn table<'p>(page: &'p str, head: &str) -> Vec<Vec<&'p str>> {
    let rows = page.lines().skip_while(|line| !line.starts_with(head)).skip(2);
    let rows: Vec<Vec<&str>> = rows
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect();
    assert!(!rows.is_empty(), "no table {head}");
    rows
}

/// Words in `b".."` before an arm's `=>` or `if`, between two marks of a source.
fn arms(source: &str, from: &str, to: &str) -> BTreeSet<String> {
    let part = &source[source.find(from).unwrap_or_else(|| panic!("no {from}"))..];
    let part = &part[..part[from.len()..].find(to).unwrap_or_else(|| panic!("no {to}")) + from.len()];
    let mut words = BTreeSet::new();
    // Arms of the match itself, not of what is nested in it.
    for line in part.lines().filter(|line| line.starts_with("            b")) {
        let head = line.split("=>").next().expect("a line").split(" if ").next().expect("a head").trim();
        if let Some(word) = head.strip_prefix("b\"").and_then(|rest| rest.strip_suffix('"')) {
            words.insert(word.to_owned());
        }
    }
    words
}

#[test]
fn every_memcached_command_stands_on_the_page() {
    let source = read("src/wire/memcached/classic.rs");
    let mut known = arms(&source, "match command {\n            b\"get\"", "_ => {}");
    known.extend(arms(&source, "match command {\n            b\"mg\"", "_ => self.unusual"));
    known.extend(arms(&source, "let text = match command {", "_ => ERROR"));
    assert!(known.len() >= 30, "{known:?}");
    let page = read("docs/compatibility.md");
    let told: BTreeSet<String> =
        table(&page, "| command | answered |").iter().flat_map(|row| quoted(row[0])).collect();
    assert_eq!(told, known);
}

#[test]
fn every_meta_flag_stands_on_the_page() {
    let source = read("src/wire/memcached/meta.rs");
    let part = &source[source.find("fn take(").expect("where flags are taken")..];
    let part = &part[..part.find("_ => return Err(BAD_FLAG)").expect("its end")];
    let literals = part.as_bytes().windows(4).filter(|bytes| bytes.starts_with(b"b'") && bytes[3] == b'\'');
    let known: BTreeSet<String> = literals.map(|bytes| char::from(bytes[2]).to_string()).collect();
    let page = read("docs/compatibility.md");
    let rows = table(&page, "| flag | commands |");
    let told: BTreeSet<String> = rows.iter().flat_map(|row| quoted(row[0])).collect();
    assert_eq!(told, known);
    assert_eq!(rows.len(), known.len(), "one row each");
}

/// Every client of the scenarios stands on the page under some name.
#[test]
fn every_client_that_is_tested_stands_on_the_page() {
    let scenarios = read("tests/clients/scenarios.py");
    let all = &scenarios[scenarios.find("ALL = [").expect("the list")..];
    let names: Vec<&str> =
        all.lines().filter_map(|line| line.trim().strip_prefix("(\"")?.split('"').next()).collect();
    assert!(names.len() >= 30, "{names:?}");
    let page = read("docs/compatibility.md").to_lowercase();
    for name in names {
        // What a client is called by the scenario, without the protocol.
        let client = name.trim_end_matches("-3").trim_end_matches("-resp2").trim_end_matches("-resp3");
        let client = client.trim_end_matches("-cluster").trim_end_matches("-tls");
        let spelled = match client {
            "perl-redis" => "perl's redis",
            "perl-redis-fast" => "redis::fast",
            "perl-memcached" => "perl's cache::memcached",
            "perl-memcached-fast" => "cache::memcached::fast",
            "node-memcached" => "npm's memcached",
            "libmemcached-tools" => "libmemcached's tools",
            other => other,
        };
        assert!(page.contains(spelled), "{name}");
    }
}
