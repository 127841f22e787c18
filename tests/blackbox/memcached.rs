//! The same bytes to a real memcached 1.6.45 and to us: what comes back must be the same, but for what is listed in
//! `tests/differential/memcached/allowed.txt` with its reason, and that must really differ as it says there.
//!
//! Versions that nobody gave are numbers that each server makes up: they are compared by where they occur first. Times to
//! live may be a second apart, since memcached's clock ticks in seconds.

#[path = "../../src/wire/memcached/tests/escapes.rs"]
mod escapes;

use crate::support::{Server, connect, eventually};
use escapes::{escape, unescape};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

const VERSION: &str = "memcached 1.6.45";
/// Streams made by dice, and commands in each at most.
const RANDOM_STREAMS: u64 = 2000;
const COMMANDS_MAX: u64 = 24;

/// What is sent behind a command to see that it was answered, and what comes back.
const STEP: &[u8] = b"mg . k Ostep\r\n";
const STEP_DONE: &[u8] = b"EN k. Ostep\r\n";

/// A memcached that ends with its owner.
struct Peer {
    child: Child,
    address: SocketAddr,
}

impl Peer {
    /// `None`, said loudly, where there is none of the right version.
    fn start(flags: &[&str]) -> Option<Peer> {
        let Some(program) = memcached() else {
            eprintln!("SKIPPED: {VERSION} is not installed (scripts/test tells so at its end)");
            return None;
        };
        for _ in 0..20 {
            // A port that was free a moment ago; where somebody was faster, another one is tried.
            let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let mut command = Command::new(&program);
            command.args(["-U", "0", "-l", "127.0.0.1", "-t", "1", "-u", "root"]);
            command.args(["-p", &free.port().to_string()]).args(flags);
            let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
            let mut peer = Peer { child, address: free };
            let serves = eventually("memcached serves or ends", || {
                let ended = peer.child.try_wait().expect("it is our child").is_some();
                let serves = TcpStream::connect(peer.address).is_ok();
                (ended || serves).then_some(serves && !ended)
            });
            if serves {
                return Some(peer);
            }
        }
        panic!("memcached does not start");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A memcached of the right version, on PATH or among the peers of bench.
fn memcached() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let peers = PathBuf::from(std::env::var_os("HOME")?).join(".cache/foreshadow-peers/bin");
    std::env::split_paths(&path).chain([peers]).map(|folder| folder.join("memcached")).find(|program| {
        let output = Command::new(program).arg("--version").output();
        output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).trim() == VERSION)
    })
}

/// Both servers; ours with one core, so that versions grow over all keys as they do there.
struct Pair {
    memcached: Peer,
    ours: Server,
}

impl Pair {
    fn start() -> Option<Pair> {
        let memcached = Peer::start(&[])?;
        let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
        let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim();
        let first = allowed.split(['-', ',']).next().unwrap();
        let pair = Pair { memcached, ours: Server::start(&["--cores", first]) };
        // So that small numbers are versions of nothing.
        pair.ask(&b"set warm 0 0 1\r\nx\r\n".repeat(50));
        Some(pair)
    }

    /// What each answers to the bytes on a connection of its own, up to its closing.
    fn ask(&self, bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
        // The first word tells us that it is not RESP.
        let bytes = [b"mn\r\n", bytes].concat();
        (converse(self.memcached.address, &bytes), converse(self.ours.listen, &bytes))
    }

    /// The same in comparable form.
    fn answers(&self, bytes: &[u8]) -> (String, String) {
        let (theirs, ours) = self.ask(bytes);
        (comparable(&theirs, bytes), comparable(&ours, bytes))
    }

    /// The same with each command sent when the one before was answered.
    fn answers_in_steps(&self, commands: &[Vec<u8>]) -> (String, String) {
        let all = commands.concat();
        let [theirs, ours] = [self.memcached.address, self.ours.listen].map(|address| {
            let mut stream = connect(address);
            crate::support::ask(&mut stream, "mn\r\n", "MN\r\n");
            let mut reply = Vec::new();
            for command in commands {
                stream.write_all(&[command, STEP].concat()).unwrap();
                while !reply.ends_with(STEP_DONE) {
                    let mut bytes = [0; 4096];
                    match stream.read(&mut bytes) {
                        Ok(len @ 1..) => reply.extend_from_slice(&bytes[..len]),
                        Err(error) if error.kind() == ErrorKind::Interrupted => {}
                        end => panic!("{end:?} after {}", escape(&reply)),
                    }
                }
                reply.truncate(reply.len() - STEP_DONE.len());
            }
            comparable(&reply, &all)
        });
        (theirs, ours)
    }
}

fn converse(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(address);
    let mut writer = stream.try_clone().unwrap();
    std::thread::scope(|scope| {
        // A server that closes early is no reason to fail: what it said until then counts.
        scope.spawn(move || writer.write_all(bytes).and_then(|()| writer.shutdown(Shutdown::Write)));
        crate::support::rest(&mut stream)
    })
}

/// The reply escaped, with versions that nobody gave by the order in which they occur.
fn comparable(reply: &[u8], asked: &[u8]) -> String {
    let given = |digits: &str| {
        let word = format!(" E{digits}");
        asked.windows(word.len()).any(|window| window == word.as_bytes())
    };
    let mut met: Vec<String> = Vec::new();
    let mut lines = Vec::new();
    for line in escape(reply).split("\\r\\n") {
        let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let is_value = words[0] == "VALUE" && words.len() == 5;
        let is_meta = matches!(&*words[0], "HD" | "VA" | "EN" | "NF" | "NS" | "EX");
        for (i, word) in words.iter_mut().enumerate() {
            let digits = match word.strip_prefix('c') {
                Some(digits) if is_meta && i > 0 => digits.to_owned(),
                _ if is_value && i == 4 => word.clone(),
                _ => continue,
            };
            if digits.is_empty()
                || digits == "0"
                || !digits.bytes().all(|b| b.is_ascii_digit())
                || given(&digits)
            {
                continue;
            }
            let place = met.iter().position(|known| *known == digits).unwrap_or_else(|| {
                met.push(digits);
                met.len() - 1
            });
            *word = format!("c#{place}");
        }
        lines.push(words.join(" "));
    }
    lines.join("\\r\\n")
}

/// Whether two comparable replies are the same, times to live to a second.
fn same(a: &str, b: &str) -> bool {
    let (a, b): (Vec<&str>, Vec<&str>) = (a.split(' ').collect(), b.split(' ').collect());
    let seconds = |word: &str| word.split("\\r\\n").next().unwrap().strip_prefix('t')?.parse::<i64>().ok();
    let tail = |word: &str| word.split_once("\\r\\n").map(|(_, tail)| tail.to_owned());
    a.len() == b.len()
        && a.iter().zip(&b).all(|(a, b)| {
            a == b
                || matches!((seconds(a), seconds(b)), (Some(x), Some(y)) if x >= 0 && y >= 0 && (x - y).abs() <= 2)
                    && tail(a) == tail(b)
        })
}

/// The bytes of a stream as the files have it: `@` stands for a prefix of its own, `{3*x}` for `xxx`.
fn bytes_of(stream: &str, prefix: &str) -> Vec<u8> {
    let mut text = stream.replace('@', prefix);
    while let Some((before, (count, (repeated, after)))) = text
        .split_once('{')
        .and_then(|(before, rest)| Some((before, rest.split_once('*')?)))
        .and_then(|(before, (count, rest))| Some((before, (count, rest.split_once('}')?))))
    {
        let count = count.parse().expect("a count");
        text = format!("{before}{}{after}", repeated.repeat(count));
    }
    unescape(&text)
}

/// Lines that say something.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'))
}

#[test]
fn recorded_sessions_are_what_memcached_says() {
    let recorded = include_str!("../../src/wire/memcached/vectors.txt");
    let mut lines = lines(recorded);
    let mut count = 0;
    while let (Some(sent), Some(got)) = (lines.next(), lines.next()) {
        let Some(peer) = Peer::start(&[]) else { return };
        let said = escape(&converse(peer.address, &unescape(sent.strip_prefix("> ").unwrap())));
        assert_eq!(said, got.strip_prefix("< ").unwrap().trim_end_matches(" (closed)"), "{sent}");
        count += 1;
    }
    assert!(count > 60);
}

#[test]
fn streams_are_answered_as_by_memcached() {
    let Some(pair) = Pair::start() else { return };
    let mut wrong = Vec::new();
    let streams: Vec<&str> = lines(include_str!("../differential/memcached/streams.txt")).collect();
    for (number, stream) in (0..).zip(&streams) {
        let (theirs, ours) = pair.answers(&bytes_of(stream, &format!("s{number}.")));
        if !same(&theirs, &ours) {
            wrong.push(format!("\n sent      {stream}\n memcached {theirs:.500}\n us        {ours:.500}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.concat());
    assert!(streams.len() > 50, "{}", streams.len());
}

/// What is listed differs, and exactly so: the list is neither too short nor out of date.
#[test]
fn where_we_differ_from_memcached_is_listed() {
    let Some(pair) = Pair::start() else { return };
    let mut wrong = Vec::new();
    let list: Vec<&str> = lines(include_str!("../differential/memcached/allowed.txt")).collect();
    for entry in list.chunks(3) {
        let [sent, theirs, ours] = [("> ", 0), ("= ", 1), ("< ", 2)]
            .map(|(mark, at)| entry[at].strip_prefix(mark).unwrap_or_else(|| panic!("{mark} in {entry:?}")));
        let got = pair.answers(&bytes_of(sent, "w."));
        let plain =
            |text: String| text.strip_prefix("MN\\r\\n").map(str::to_owned).expect("the first answer");
        let got = (plain(got.0), plain(got.1));
        assert_ne!(theirs, ours, "{sent}: no difference");
        if !same(&got.0, theirs) || !same(&got.1, ours) {
            wrong.push(format!("\n> {sent}\n= {:.500}\n< {:.500}\n", got.0, got.1));
        }
        // What is left of this stream is nothing to the next.
        pair.ask(b"flush_all\r\n");
    }
    assert!(wrong.is_empty(), "they differ otherwise:{}", wrong.concat());
}

#[test]
fn a_password_is_asked_for_as_by_memcached() {
    let file = std::env::temp_dir().join(format!("foreshadow-authfile-{}", std::process::id()));
    std::fs::write(&file, "default:sesame\n").unwrap();
    let peer = Peer::start(&["-Y", file.to_str().unwrap()]);
    let Some(memcached) = peer else { return };
    let mut command = crate::support::serve_command(&[]);
    command.env("FORESHADOW_PASSWORD", "sesame");
    let ours = Server::of_command(command);
    std::fs::remove_file(&file).unwrap();
    // Step by step: of several refusals in one packet memcached tells none.
    let refused = "CLIENT_ERROR unauthenticated\r\n";
    let failed = "CLIENT_ERROR authentication failure\r\n";
    let scripts: [&[(&str, &str)]; 4] = [
        &[
            ("get a\r\n", refused),
            ("set auth 0 0 13\r\ndefault sesam\r\n", failed),
            ("set auth 0 0 15\r\ndefault sesamee\r\n", failed),
            ("set auth 0 0 11\r\nroot sesame\r\n", failed),
            ("set auth 0 0 6\r\nsesame\r\n", "CLIENT_ERROR bad authentication token format\r\n"),
            ("get a\r\n", refused),
            ("set auth 0 0 14\r\ndefault sesame\r\n", "STORED\r\n"),
            ("set a 0 0 1\r\nx\r\nget a\r\n", "STORED\r\nVALUE a 0 1\r\nx\r\nEND\r\n"),
        ],
        &[("set auth x y 14\r\ndefault sesame\r\n", "STORED\r\n"), ("get nope\r\n", "END\r\n")],
        &[("set auth 0 0 14 noreply\r\ndefault sesame\r\n", "STORED\r\n"), ("get nope\r\n", "END\r\n")],
        &[
            ("add auth 0 0 14\r\n", refused),
            ("stats\r\n", refused),
            ("version\r\n", refused),
            ("quit\r\n", ""),
        ],
    ];
    for script in scripts {
        for address in [memcached.address, ours.listen] {
            let mut stream = connect(address);
            for (sent, said) in script {
                crate::support::ask(&mut stream, sent, said);
            }
        }
    }
}

/// Names and numbers of a page of `stats`.
fn stats(address: SocketAddr, page: &str) -> BTreeMap<String, String> {
    let text = String::from_utf8(converse(address, format!("mn\r\nstats{page}\r\n").as_bytes())).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("STAT ")?.split_once(' '));
    rows.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn stats_count_what_memcached_counts() {
    let Some(pair) = Pair::start() else { return };
    let sides = [pair.memcached.address, pair.ours.listen];
    let before = sides.map(|address| stats(address, ""));
    let script: &[&str] = &[
        "set a 0 0 1\\r\\n5\\r\\nadd a 0 0 1\\r\\nx\\r\\nadd b 0 0 1\\r\\nx\\r\\nreplace none 0 0 1\\r\\nx\\r\\n",
        "append b 0 0 1\\r\\ny\\r\\nappend none 0 0 1\\r\\ny\\r\\nms b 1 MP\\r\\nz\\r\\nms b 1 ME\\r\\nz\\r\\n",
        "get a b none\\r\\ngets a none none\\r\\nmg a v\\r\\nmg none v\\r\\nmg a\\r\\n",
        "ms c 1 E9000000000\\r\\nx\\r\\ncas c 0 0 1 1\\r\\ny\\r\\ncas c 0 0 1 9000000000\\r\\ny\\r\\ncas none 0 0 1 1\\r\\ny\\r\\n",
        "ms c 1 C1\\r\\nx\\r\\nms none 1 C1\\r\\nx\\r\\nincr a 1\\r\\nincr none 1\\r\\ndecr a 1\\r\\ndecr a 1 noreply\\r\\ndecr none 1\\r\\n",
        "ma a\\r\\nma a MD\\r\\nma none\\r\\nma none MD\\r\\ntouch a 100\\r\\ntouch none 100\\r\\ntouch a 0 noreply\\r\\n",
        "delete b\\r\\ndelete b\\r\\nmd c\\r\\nmd c\\r\\nset large 0 0 2000000\\r\\n{2000000*x}\\r\\nset d 0 -1 1\\r\\nx\\r\\n",
        "flush_all\\r\\nget a\\r\\n",
    ];
    for part in script {
        pair.ask(&bytes_of(part, ""));
    }
    let after = sides.map(|address| stats(address, ""));
    let mut compared = 0;
    for name in [
        "cmd_get",
        "cmd_set",
        "cmd_flush",
        "cmd_touch",
        "get_hits",
        "get_misses",
        "get_flushed",
        "delete_misses",
        "delete_hits",
        "incr_misses",
        "incr_hits",
        "decr_misses",
        "decr_hits",
        "cas_misses",
        "cas_hits",
        "cas_badval",
        "touch_hits",
        "touch_misses",
        "store_too_large",
        "store_no_memory",
        "auth_cmds",
        "auth_errors",
        "evictions",
        "curr_connections",
        "rejected_connections",
    ] {
        let [theirs, ours] = [0, 1].map(|side| {
            let number = |page: &BTreeMap<String, String>| page[name].parse::<i64>().unwrap();
            number(&after[side]) - number(&before[side])
        });
        assert_eq!(ours, theirs, "{name}");
        compared += u64::from(theirs > 0);
    }
    assert!(compared >= 16, "the script moves {compared} numbers only");
}

/// Names that memcached shows and we do not are those that the compatibility page lists.
#[test]
fn stats_show_what_memcached_shows_but_for_what_is_listed() {
    let Some(pair) = Pair::start() else { return };
    let page = include_str!("../../docs/compatibility.md");
    for (name, command) in
        [("general", ""), ("settings", " settings"), ("items", " items"), ("slabs", " slabs")]
    {
        let [theirs, ours] =
            [pair.memcached.address, pair.ours.listen].map(|address| stats(address, command).into_keys());
        let ours: Vec<String> = ours.collect();
        let missing: Vec<String> = theirs
            .map(|name| match name.strip_prefix("items:").unwrap_or(&name).split_once(':') {
                // Classes have other numbers there.
                Some((class, rest)) => name.replacen(&format!("{class}:{rest}"), &format!("1:{rest}"), 1),
                None => name,
            })
            .filter(|name| !ours.contains(name))
            .collect();
        let row = page.lines().find_map(|line| line.strip_prefix(&format!("| {name} | "))).expect("its row");
        let mut listed: Vec<&str> = row.split('`').skip(1).step_by(2).collect();
        listed.sort_unstable();
        assert_eq!(
            missing,
            listed,
            "{name}: {}",
            missing.iter().map(|name| format!("`{name}` ")).collect::<String>()
        );
    }
}

/// What other cores answered is counted although its client never says another word, or is gone.
#[test]
fn a_client_that_says_no_more_is_counted_whole() {
    let server = Server::start(&[]);
    let mut silent = server.connect();
    let asked: String = (0..100).map(|i| format!("incr none{i} 1\r\ncas none{i} 0 0 1 1\r\nx\r\n")).collect();
    crate::support::ask(&mut silent, &asked, "NOT_FOUND\r\n".repeat(200));
    assert_eq!(stats(server.listen, "")["incr_misses"], "100");
    let mut gone = server.connect();
    crate::support::ask(&mut gone, &asked, "NOT_FOUND\r\n".repeat(200));
    drop(gone);
    assert_eq!(stats(server.listen, "")["cas_misses"], "200");
    server.metric_becomes("foreshadow_connections", |connections| connections <= 1.0);
    assert_eq!(stats(server.listen, "")["incr_misses"], "200");
}

/// Dice of a linear congruence: a stream is made again from its number.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn pick<'w>(&mut self, words: &[&'w str]) -> &'w str {
        words[self.roll(words.len() as u64) as usize]
    }

    fn often(&mut self, word: &'static str, one_in: u64) -> &'static str {
        if self.roll(one_in) == 0 { word } else { "" }
    }

    fn key(&mut self) -> &'static str {
        self.pick(&["@a", "@a", "@b", "@c"])
    }

    fn value(&mut self) -> &'static str {
        self.pick(&["", "x", "10", "7", "0", "18446744073709551615", "ab c", "5  "])
    }

    fn exptime(&mut self) -> &'static str {
        self.pick(&["0", "0", "100", "2592000", "-1", "1900000000"])
    }

    fn flags(&mut self, own: &[&'static str], spoil: bool) -> String {
        let mut flags = String::new();
        for _ in 0..self.roll(5) {
            let common = ["q", "k", "O1", "Oab", "s", "c", "f", "t"];
            let word = match (self.roll(24), spoil) {
                (0, true) => {
                    self.pick(&["z", "!", "1", "kk", "O", "T", "Tx", "N", "Cx", "E", "F", "S9", "L1", "P2"])
                }
                (1..=10, _) => self.pick(&common),
                _ => self.pick(own),
            };
            // `t` is the time to live after the command, wherever what changes it stands; and `R` is judged before `T`.
            let with = |letter: &str| flags.split(' ').any(|known| known.starts_with(letter));
            let pair = match &word[..1] {
                "t" => with("T") || with("N"),
                "N" => with("t"),
                "T" => with("t") || with("R"),
                "R" => with("T"),
                // What is older than a version given depends on what versions nobody gave look like.
                "I" => with("C7"),
                "C" => with("I") && word.starts_with("C7"),
                _ => false,
            };
            if pair {
                continue;
            }
            // What is doubled is an error, and that is tried often enough by chance of the same letter.
            if spoil || !flags.split(' ').any(|known| known.chars().next() == word.chars().next()) {
                flags.push(' ');
                flags.push_str(word);
            }
        }
        flags
    }

    /// A command, with its block if it has one.
    fn command(&mut self) -> String {
        let spoil = self.roll(4) == 0;
        match self.roll(22) {
            0..=2 => {
                let verb = self.pick(&["set", "add", "replace", "append", "prepend"]);
                let (key, flags, exptime, value) =
                    (self.key(), self.pick(&["0", "5", "4294967295"]), self.exptime(), self.value());
                format!(
                    "{verb} {key} {flags} {exptime} {}{}\r\n{value}\r\n",
                    value.len(),
                    self.often(" noreply", 4)
                )
            }
            3 => {
                let (key, value, version) =
                    (self.key(), self.value(), self.pick(&["1", "7000000000", "8000000000"]));
                format!("cas {key} 3 0 {} {version}{}\r\n{value}\r\n", value.len(), self.often(" noreply", 5))
            }
            4 | 5 => format!("{} {} {}\r\n", self.pick(&["get", "gets"]), self.key(), self.key()),
            6 => format!(
                "{} {} {} {}\r\n",
                self.pick(&["gat", "gats"]),
                self.exptime(),
                self.key(),
                self.key()
            ),
            7 => {
                let delta = self.pick(&["1", "5", "0", "18446744073709551615", "x", "-1"]);
                format!(
                    "{} {} {delta}{}\r\n",
                    self.pick(&["incr", "decr"]),
                    self.key(),
                    self.often(" noreply", 4)
                )
            }
            8 => format!("delete {}{}\r\n", self.key(), self.often(" noreply", 4)),
            9 => format!("touch {} {}{}\r\n", self.key(), self.exptime(), self.often(" noreply", 4)),
            10..=13 => {
                let own = ["v", "v", "T100", "T0", "T-1", "E7000000000", "R10", "R1000", "N30", "N0"];
                // What is left by a miss with N is an item only to those who know leases, and what is made of a part of a
                // stale or leased item stays so: such keys are theirs alone.
                match self.roll(3) {
                    0 => format!("mg @v{}\r\n", self.flags(&own, spoil)),
                    _ => format!("mg {}{}\r\n", self.key(), self.flags(&own[..6], spoil)),
                }
            }
            14..=16 => {
                let own = [
                    "MS",
                    "ME",
                    "MA",
                    "MP",
                    "MR",
                    "T0",
                    "T100",
                    "T-1",
                    "F7",
                    "N0",
                    "N60",
                    "C1",
                    "C7000000000",
                    "C18446744073709551615",
                    "E8000000000",
                    "E7000000000",
                ];
                let value = self.value();
                if self.roll(5) == 0 {
                    let own = [
                        "MS",
                        "MR",
                        "T0",
                        "T100",
                        "F7",
                        "I",
                        "C1",
                        "C7000000000",
                        "E8000000000",
                        "E7000000000",
                    ];
                    return format!("ms @v {}{}\r\n{value}\r\n", value.len(), self.flags(&own, false));
                }
                // A block behind a refused line is where we differ, so lines with a block are sound.
                format!("ms {} {}{}\r\n{value}\r\n", self.key(), value.len(), self.flags(&own, false))
            }
            17 | 18 => {
                let own = ["x", "T100", "T-1", "C1", "C7000000000", "E7000000000", "E8000000000", "I"];
                let (key, own) = if self.roll(2) == 0 { ("@v", &own[..]) } else { (self.key(), &own[..7]) };
                let mut flags = self.flags(own, spoil);
                if flags.contains(" x") && !flags.contains(" E") {
                    // Emptied, an item has a new version here and keeps the old one there.
                    flags.push_str(" E9000000000");
                }
                if flags.contains(" x") && !flags.contains(" T") {
                    // There it also loses its time to live.
                    flags.push_str(" T100");
                }
                format!("md {key}{flags}\r\n")
            }
            19 | 20 => {
                let own = [
                    "v",
                    "N0",
                    "N60",
                    "J13",
                    "D5",
                    "D18446744073709551615",
                    "MI",
                    "MD",
                    "M+",
                    "M-",
                    "C1",
                    "C7000000000",
                ];
                format!("ma {}{}\r\n", self.key(), self.flags(&own, spoil))
            }
            _ => self
                .pick(&["mn\r\n", "\r\n", "foo\r\n", "get\r\n", "verbosity 1\r\n", "mg\r\n", "me @none\r\n"])
                .into(),
        }
    }
}

#[test]
fn streams_made_by_dice_are_answered_as_by_memcached() {
    let Some(pair) = Pair::start() else { return };
    let mut wrong = Vec::new();
    for number in 0..RANDOM_STREAMS {
        let mut dice = Dice(number);
        let mut commands: Vec<String> = (0..=dice.roll(COMMANDS_MAX)).map(|_| dice.command()).collect();
        let mut tries = 0;
        let mut differ = |commands: &[String]| {
            // Each try with keys of its own, so that nothing is left of the one before.
            tries += 1;
            let prefix = format!("d{number}-{tries}.");
            let commands: Vec<Vec<u8>> =
                commands.iter().map(|command| command.replace('@', &prefix).into_bytes()).collect();
            // How memcached pads a counter depends on whether replies with its value are still to be sent.
            let counts = commands.iter().any(|c| c.starts_with(b"ma") || c[2..].starts_with(b"cr "));
            let (theirs, ours) = match counts {
                true => pair.answers_in_steps(&commands),
                false => pair.answers(&commands.concat()),
            };
            let differs = !same(&theirs, &ours);
            differs.then_some((theirs, ours))
        };
        if differ(&commands).is_none() {
            continue;
        }
        // What can be left out is left out before the difference is told.
        let mut at = 0;
        while at < commands.len() {
            let mut fewer = commands.clone();
            fewer.remove(at);
            if differ(&fewer).is_some() {
                commands = fewer;
            } else {
                at += 1;
            }
        }
        let (theirs, ours) = differ(&commands).unwrap_or_default();
        let sent = escape(commands.concat().as_bytes());
        wrong.push(format!("\nstream {number}\n sent      {sent}\n memcached {theirs}\n us        {ours}"));
        if wrong.len() == 20 {
            break;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.concat());
}

/// What a watcher is shown of a command, in comparable form: lines of one type, without what each server makes up itself.
fn watched(address: SocketAddr, commands: &[(&str, &str)]) -> Vec<String> {
    let mut watcher = connect(address);
    crate::support::ask(&mut watcher, "watch fetchers mutations deletions\r\n", "OK\r\n");
    let mut client = connect(address);
    crate::support::ask(&mut client, "mn\r\n", "MN\r\n");
    let mut shown = Vec::new();
    let mut text = String::new();
    for (i, (command, kind)) in commands.iter().enumerate() {
        client.write_all(&[command.as_bytes(), STEP].concat()).unwrap();
        let mut reply = Vec::new();
        while !reply.ends_with(STEP_DONE) {
            let mut bytes = [0; 4096];
            let len = client.read(&mut bytes).expect("an answer");
            reply.extend_from_slice(&bytes[..len]);
        }
        // A read of a key that is nobody's ends what belongs to this command.
        let mark = format!("key=mark{i} ");
        client.write_all(format!("get mark{i}\r\n").as_bytes()).unwrap();
        crate::support::expect(&mut client, "END\r\n");
        while !text.contains(&mark) {
            let mut bytes = [0; 4096];
            let len = watcher.read(&mut bytes).expect("lines");
            assert!(len > 0, "closed");
            text.push_str(std::str::from_utf8(&bytes[..len]).expect("text"));
        }
        let end = text.find(&mark).map_or(0, |at| at + text[at..].find('\n').map_or(0, |rest| rest + 1));
        for line in text[..end].lines() {
            let told = line.contains(&format!(" type={kind} "))
                && !line.contains("key=mark")
                && !line.contains("key=. ");
            let words = line.split(' ').filter(|word| {
                !["ts=", "gid=", "clsid=", "cfd="].iter().any(|made_up| word.starts_with(made_up))
            });
            shown.extend(
                told.then(|| format!("{}: {}", command.trim_end(), words.collect::<Vec<_>>().join(" "))),
            );
        }
        text.drain(..end);
    }
    shown
}

#[test]
fn watchers_are_shown_the_lines_of_memcached() {
    let Some(pair) = Pair::start() else { return };
    let commands = [
        ("get a\r\n", "item_get"),
        ("set a 0 0 3\r\nabc\r\n", "item_store"),
        ("get a\r\n", "item_get"),
        ("gets a b\r\n", "item_get"),
        ("mg a v\r\n", "item_get"),
        ("mg nobody s v\r\n", "item_get"),
        ("mg vivid N30 v\r\n", "item_get"),
        ("gat 100 a\r\n", "item_get"),
        ("touch a 100\r\n", "item_get"),
        ("me a\r\n", "item_get"),
        ("add a 0 0 1\r\n1\r\n", "item_store"),
        ("add fresh 0 50 1\r\n1\r\n", "item_store"),
        ("replace a 0 100 4\r\nabcd\r\n", "item_store"),
        ("replace nobody 0 0 1\r\n1\r\n", "item_store"),
        ("ms m 2 T30\r\nhi\r\n", "item_store"),
        ("ms m 2 ME\r\nhi\r\n", "item_store"),
        ("cas a 0 0 1 9\r\n1\r\n", "item_store"),
        ("cas nobody 0 0 1 9\r\n1\r\n", "item_store"),
        ("set b%25\u{e9} 0 0 1\r\nx\r\n", "item_store"),
        ("delete a\r\n", "deleted"),
        ("delete a\r\n", "deleted"),
    ];
    let [theirs, ours] =
        [pair.memcached.address, pair.ours.listen].map(|address| watched(address, &commands));
    assert_eq!(ours, theirs);
    assert!(ours.len() > commands.len() - 2, "{ours:?}");
}
