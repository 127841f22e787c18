//! What fuzzing begins with, played without a fuzzer: sessions that are compared with Valkey's, recorded sessions of memcached,
//! vectors of the native protocol, and what fuzzing once found (`fuzz/regressions/<target>/`), each cut in many ways.

#[path = "../fuzz/src/lib.rs"]
mod fuzz;

#[path = "../src/wire/memcached/tests/escapes.rs"]
mod escapes;

use escapes::unescape;
use foreshadow::wire::Protocol;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The cases of the differential test, each as one stream (`tests/differential/resp.py` has the form).
fn resp_seeds() -> Vec<Vec<u8>> {
    let text = std::fs::read_to_string(root().join("tests/differential/resp.cases")).unwrap();
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        if line.starts_with("== ") {
            seeds.push(Vec::new());
            continue;
        }
        let seed = seeds.last_mut().expect("a case begins with its name");
        match line.strip_prefix("< ") {
            Some(bytes) => seed.extend(unescape(bytes)),
            None => seed.extend(resp_command(line)),
        }
    }
    assert!(seeds.len() > 40, "{}", seeds.len());
    seeds
}

/// Words, in double quotes or without, as an array of bulk strings.
fn resp_command(line: &str) -> Vec<u8> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let len = match rest.strip_prefix('"') {
            Some(quoted) => {
                let mut escaped = false;
                let end = quoted.find(|c| match (c, escaped) {
                    ('"', false) => true,
                    _ => {
                        escaped = c == '\\' && !escaped;
                        false
                    }
                });
                let end = end.expect("a quote that ends");
                words.push(unescape(&quoted[..end]));
                end + 2
            }
            None => {
                let end = rest.find(' ').unwrap_or(rest.len());
                words.push(rest.as_bytes()[..end].to_vec());
                end
            }
        };
        rest = rest[len..].trim_start();
    }
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n", word.len()).bytes().chain(word).chain(*b"\r\n"));
    }
    bytes
}

fn memcached_seeds() -> Vec<Vec<u8>> {
    let recorded = std::fs::read_to_string(root().join("src/wire/memcached/vectors.txt")).unwrap();
    let streams = std::fs::read_to_string(root().join("tests/differential/memcached/streams.txt")).unwrap();
    let sent = recorded.lines().filter_map(|line| line.strip_prefix("> "));
    let seeds: Vec<Vec<u8>> = sent
        .chain(
            streams.lines().filter(|line| !line.is_empty() && !line.starts_with('#') && !line.contains('{')),
        )
        .map(unescape)
        .collect();
    assert!(seeds.len() > 100, "{}", seeds.len());
    seeds
}

fn native_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for file in ["requests.json", "refused.json"] {
        let text = std::fs::read_to_string(root().join("proto-spec/vectors").join(file)).unwrap();
        let list: Vec<std::collections::HashMap<String, String>> = serde_json::from_str(&text).unwrap();
        for vector in list {
            let pairs = vector["hex"].as_bytes().chunks(2);
            let bytes = pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap());
            seeds.push(bytes.collect());
        }
    }
    // And all of them as one conversation.
    seeds.push(seeds.concat());
    assert!(seeds.len() > 20, "{}", seeds.len());
    seeds
}

fn play(protocol: Protocol, seeds: &[Vec<u8>]) {
    for seed in seeds {
        for step in [1u8, 7, 32, 100] {
            let cuts: Vec<u8> = (1..=255 / step).map(|i| i * step).collect();
            fuzz::check(protocol, &cuts, seed);
        }
        fuzz::check(Protocol::Sniff, &[128], seed);
    }
}

#[test]
fn resp_seeds_are_told_the_same_however_they_are_cut() {
    assert_eq!(resp_command(r#"SET k "a\"\x00 b""#), b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\na\"\0 b\r\n");
    play(Protocol::Resp, &resp_seeds());
}

#[test]
fn memcached_seeds_are_told_the_same_however_they_are_cut() {
    play(Protocol::Memcached, &memcached_seeds());
}

#[test]
fn native_seeds_are_told_the_same_however_they_are_cut() {
    play(Protocol::Native, &native_seeds());
}

#[test]
fn what_fuzzing_found_stays_fixed() {
    let targets =
        [("resp", Protocol::Resp), ("memcached", Protocol::Memcached), ("native", Protocol::Native)];
    for (target, protocol) in targets {
        let folder = root().join("fuzz/regressions").join(target);
        // A target that nothing was found in has no folder.
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            fuzz::check_cut(protocol, &std::fs::read(entry.unwrap().path()).unwrap());
        }
    }
}

/// For `scripts/fuzz`: the seeds as files, behind a byte that says that they are not cut.
#[test]
#[ignore = "writes fuzz/corpus"]
fn seeds_are_written() {
    let write = |folder: &Path, number: usize, bytes: &[&[u8]]| {
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(folder.join(format!("seed-{number:03}")), bytes.concat()).unwrap();
    };
    let targets =
        [("resp", 1, resp_seeds()), ("memcached", 2, memcached_seeds()), ("native", 3, native_seeds())];
    for (target, place, seeds) in targets {
        for (i, seed) in seeds.iter().enumerate() {
            write(&root().join("fuzz/corpus").join(target), i, &[&[0], seed]);
            write(&root().join("fuzz/corpus/session"), place * 1000 + i, &[&[place as u8, 0], seed]);
        }
    }
}
