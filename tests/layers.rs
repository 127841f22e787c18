//! The floors of the house: imports go down, deciding is pure, and `unsafe` stays where it is listed.
//!
//! The tables are the rules; `ARCHITECTURE.md` draws them. Sources are read as text: comments, strings and what stands
//! behind `#[cfg(test)]` at the end of a file do not count.

use std::path::{Path, PathBuf};

/// Rooms (a file or folder of `src`) and the floor each stands on. A room may use those below it.
const ROOMS: &[(&str, u8)] = &[
    ("clock", 0),
    ("digest", 0),
    ("glob", 0),
    ("hash", 0),
    ("ids", 0),
    ("metrics", 0),
    ("message", 1),
    ("request", 1),
    ("forecast", 2),
    ("heat", 2),
    ("metadata", 2),
    ("origin", 2),
    ("recording", 2),
    ("store", 2),
    ("topology", 2),
    ("wire", 2),
    ("engine", 3),
    ("migration", 3),
    ("prefetch", 3),
    ("client", 4),
    ("control", 4),
    ("io", 4),
    ("admin", 5),
    ("bench", 5),
    ("check", 5),
    ("cli", 5),
    ("config", 5),
    ("doctor", 5),
    ("explain", 5),
    ("keyspaces", 5),
    ("log", 5),
    ("preflight", 5),
    ("record", 5),
    ("replay", 5),
    ("serve", 5),
    ("shards", 5),
    ("why", 5),
];

/// Who may use a room of the same floor, beside those of the ground and of the process, which may all.
const NEIGHBOURS: &[(&str, &str)] = &[
    ("message", "request"),
    ("wire", "topology"),
    ("engine", "prefetch"),
    ("migration", "engine"),
    ("io", "control"),
];

/// Files that may contain `unsafe`: memory of the store, and what talks to the kernel about memory.
const UNSAFE_FILES: &[&str] = &[
    "src/store/memory.rs",
    "src/control/metadata/lock.rs",
    "src/io/buffers.rs",
    "src/io/core/mod.rs",
    "src/io/core/start.rs",
    "src/io/core/accept.rs",
    "src/io/ring.rs",
    "src/io/time.rs",
];

/// From this floor on, code may wait, look at clocks and touch the world.
const SHELL: u8 = 4;

/// Words that code below the shell does not say.
const IMPURE_WORDS: &[&str] = &[
    "Instant",
    "SystemTime",
    "TcpListener",
    "TcpStream",
    "UdpSocket",
    "UnixListener",
    "UnixStream",
    "async",
    "await",
    "tokio",
    "glommio",
    "io_uring",
    "socket2",
    "getrandom",
    "println",
    "eprintln",
];

/// Modules of `std` that code below the shell does not use.
const IMPURE_MODULES: &[&str] = &["thread", "fs", "env", "process"];

#[test]
fn imports_go_down() {
    let mut wrong = Vec::new();
    for (path, code) in sources() {
        let Some((room, floor)) = room_of(&path) else { continue };
        for used in crate_imports(&code) {
            let Some(&(_, below)) = ROOMS.iter().find(|(name, _)| *name == used) else {
                wrong.push(format!("{}: crate::{used} is not a room", path.display()));
                continue;
            };
            let neighbours = floor == below
                && (floor == 0 || floor == 5 || NEIGHBOURS.contains(&(room.as_str(), used.as_str())));
            if used != room && below >= floor && !neighbours {
                wrong.push(format!("{}: floor {floor} uses {used} of floor {below}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_belongs_to_a_room() {
    for (path, _) in sources() {
        let top = path.file_name().is_some_and(|name| name == "main.rs" || name == "lib.rs");
        assert!(top || room_of(&path).is_some(), "{} is on no floor: add its room to ROOMS", path.display());
    }
}

#[test]
fn below_the_shell_there_is_no_clock_socket_thread_file_or_await() {
    let mut wrong = Vec::new();
    for (path, code) in sources() {
        if room_of(&path).is_some_and(|(_, floor)| floor < SHELL) {
            wrong.extend(impurities(&code).map(|word| format!("{}: {word}", path.display())));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_stands_only_in_the_listed_files() {
    for (path, code) in sources() {
        let listed = UNSAFE_FILES.iter().any(|file| Path::new(file) == path);
        let found = words(&code).any(|word| word == "unsafe");
        assert!(listed || !found, "{} says unsafe and is not listed", path.display());
        assert!(!listed || found, "{} is listed and needs no unsafe: take it off", path.display());
    }
}

#[test]
fn the_reader_sees_what_it_is_meant_to_see() {
    let code = code_of(
        "//! crate::io in a comment\nuse crate::{\n  config::{Config, X},\n  io,\n  self as it, // crate::serve\n};\n\
         fn f() { let s = \"crate::cli \\\" crate::cli\"; let c = '\"'; crate::store::f(); /* crate::log */ }\n\
         pub(crate) struct S<'a>(&'a u8);\n#[cfg(test)]\nmod tests { use crate::wire::X; }\n",
    );
    assert_eq!(crate_imports(&code), ["config", "io", "store"]);
    let found = |text: &str| impurities(&code_of(text)).collect::<Vec<_>>();
    assert_eq!(found("use std::time::{Duration, Instant};"), ["Instant"]);
    assert_eq!(found("use std::{fs, net::SocketAddr};"), ["fs"]);
    assert_eq!(found("std::thread::spawn(f)"), ["thread"]);
    assert_eq!(found("let fs = 1; // Instant\nlet s = \"tokio\";"), Vec::<&str>::new());
}

/// All sources as they count, by path from the root of the package.
fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join("src")];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("src can be read") {
            let path = entry.expect("src can be read").path();
            // A room's tests may stand in a file of their own.
            if path.file_stem().is_some_and(|stem| stem == "tests") {
            } else if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("sources are UTF-8");
                let path = path.strip_prefix(root).expect("found under the root").to_owned();
                files.push((path, code_of(&text)));
            }
        }
    }
    assert!(files.len() > ROOMS.len() / 2, "the sources were found");
    files
}

fn room_of(path: &Path) -> Option<(String, u8)> {
    let first = path.components().nth(1)?;
    let name = Path::new(first.as_os_str()).file_stem()?.to_str()?;
    ROOMS.iter().find(|(room, _)| *room == name).map(|(room, floor)| ((*room).to_owned(), *floor))
}

/// The text without comments, strings, characters and the tests at its end.
fn code_of(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod ").next().expect("split gives at least one part");
    let text = text.split("#[cfg(test)]\npub(super) mod ").next().expect("split gives at least one part");
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if first == '"' {
            string_len(rest)
        } else if first == '\'' {
            character_len(rest)
        } else {
            code.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        code.push(' ');
        rest = &rest[skip..];
    }
    code
}

fn string_len(text: &str) -> usize {
    let mut escaped = false;
    for (i, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return i + 1,
            _ => {}
        }
    }
    text.len()
}

/// Length of a character literal, or of the quote alone where it begins a lifetime.
fn character_len(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => text[2..].find('\'').map_or(1, |end| {
            // The escaped quote itself is not the end.
            if end == 0 { 4 } else { end + 3 }
        }),
        Some(_) => match chars.next() {
            Some((i, '\'')) => i + 1,
            _ => 1,
        },
        None => 1,
    }
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// First names behind each `crate::`, those in braces included.
fn crate_imports(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let tail = &code[at + "crate::".len()..];
        let names: Vec<&str> = match tail.strip_prefix('{') {
            Some(list) => top_level_names(list),
            None => words(tail).take(1).collect(),
        };
        found.extend(names.into_iter().filter(|name| *name != "self").map(str::to_owned));
    }
    found
}

/// First names of the items of a list in braces whose opening brace is gone.
fn top_level_names(list: &str) -> Vec<&str> {
    let (mut depth, mut start, mut names) = (0, 0, Vec::new());
    for (i, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.extend(words(&list[start..i]).next());
                start = i + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names
}

fn impurities(code: &str) -> impl Iterator<Item = &'static str> {
    let words: Vec<&str> = words(code).collect();
    let said = move |name: &&'static str| words.contains(name);
    let modules = IMPURE_MODULES.iter().copied().filter(|module| uses_std_module(code, module));
    IMPURE_WORDS.iter().copied().filter(said).chain(modules)
}

/// Whether code says `std::module` or names it in a list behind `std::{`.
fn uses_std_module(code: &str, module: &str) -> bool {
    code.match_indices("std::").any(|(at, _)| {
        let tail = &code[at + "std::".len()..];
        match tail.strip_prefix('{') {
            Some(list) => top_level_names(list).contains(&module),
            None => words(tail).next() == Some(module),
        }
    })
}
