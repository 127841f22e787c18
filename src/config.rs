//! The configuration: one table of settings, read from a TOML file, the environment and flags.
//!
//! 1. [`SETTINGS`] says for each setting its name, its table in the file, its help, how its text becomes a value of
//!    [`Config`] and how that value is shown. Flags, file, `check` and `CONFIG GET` are all made from it.
//! 2. [`Config::gather`] lays file, environment and flags over the defaults, in that order, and remembers the place each
//!    setting was given at.
//! 3. Rules between settings come last; a broken one is reported at the place of the setting to change.
//!
//! All problems are reported, not only the first. `Config` is taken apart by `serve` without `..`, so that a setting
//! that nothing reads does not compile.

use crate::wire::Protocol;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use toml::de::{DeTable, DeValue};
use tracing::level_filters::LevelFilter;

/// What `serve` is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Addresses where every protocol is spoken.
    pub listen: Vec<SocketAddr>,
    /// Addresses where only RESP is spoken.
    pub resp_listen: Vec<SocketAddr>,
    /// Addresses where only memcached is spoken.
    pub memcached_listen: Vec<SocketAddr>,
    /// Whether each core has a port of its own and cluster clients see the cores as nodes.
    pub cluster_ports: bool,
    /// The address told to cluster clients, where it is not the one listened on.
    pub announce_ip: Option<IpAddr>,
    /// Most connections, all cores.
    pub clients_max: u32,
    /// Password of the default user.
    pub password: Option<Password>,
    /// Most bytes of a connection that were received and not yet executed.
    pub query_buffer_bytes_max: usize,
    /// Bytes of replies a client has not taken at which we stop reading from it.
    pub output_soft_bytes: usize,
    /// Bytes of replies a client has not taken at which it is closed.
    pub output_hard_bytes: usize,
    /// How long a command may stay unfinished.
    pub command_timeout: Duration,
    /// How long a connection may stay without authentication, where that is asked for.
    pub auth_timeout: Duration,
    /// How long clients have to take their replies when we are told to stop.
    pub drain_timeout: Duration,
    /// Most bytes of memory for items, all cores.
    pub memory_bytes_max: u64,
    /// Longest key and value together by RESP.
    pub item_bytes_max: usize,
    /// Longest value by memcached.
    pub memcached_item_bytes_max: usize,
    /// The kernel's numbers of the CPUs to serve on. Empty: all that the affinity mask allows; pre-flight fills it in.
    pub cores: Vec<usize>,
    /// How long an idle core looks for work before it sleeps.
    pub busy_poll: BusyPoll,
    /// Address of the admin HTTP server.
    pub admin: Option<SocketAddr>,
    /// What is logged.
    pub log_level: LevelFilter,
    /// How it is written.
    pub log_format: LogFormat,
    /// Stop when standard input is closed, for tests and supervisors.
    pub exit_on_stdin_close: bool,
    /// Where all this came from, to be read again on SIGHUP.
    pub sources: Sources,
}

/// How long an idle core looks for work before it sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusyPoll {
    /// As long as pays: decided by how densely requests arrive.
    Auto,
    /// At most this many microseconds.
    Micros(u32),
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// An object per line.
    Json,
}

/// A password, which debug output does not show.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// Where settings are read from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// The file of `--config`.
    pub file: Option<PathBuf>,
    /// What [`PASSWORD_VARIABLE`] holds.
    pub password_variable: Option<Password>,
    /// Settings given as flags, by name, with their values.
    pub flags: Vec<(&'static str, Vec<String>)>,
}

/// The environment variable that may hold the password: unlike a flag it is not seen in a list of processes.
pub const PASSWORD_VARIABLE: &str = "FORESHADOW_PASSWORD";

/// One setting.
pub struct Setting {
    /// Its name, as a flag (`--name`) and as a key of the file.
    pub name: &'static str,
    /// Its table in the file.
    pub table: &'static str,
    /// What stands for its value in help; empty for a switch.
    pub value: &'static str,
    /// Whether it may be given several times.
    pub many: bool,
    /// What it does.
    pub help: &'static str,
    set: fn(&mut Config, &[String]) -> Result<(), String>,
    show: fn(&Config) -> String,
}

/// Something wrong with the configuration, and where.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// Where it stands.
    #[serde(flatten)]
    pub place: Place,
    /// What is wrong and what would be right.
    pub message: String,
}

/// A place of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "source", rename_all = "lowercase")]
pub enum Place {
    /// The defaults, or several settings together.
    Whole,
    /// A flag.
    Flag {
        /// Its name.
        name: &'static str,
    },
    /// The environment.
    Environment {
        /// The variable.
        name: &'static str,
    },
    /// A place in a file.
    File {
        /// The file.
        file: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Whole => write!(f, "{}", self.message),
            Place::Flag { name } => write!(f, "--{name}: {}", self.message),
            Place::Environment { name } => write!(f, "{name}: {}", self.message),
            Place::File { file, line, column } => {
                write!(f, "{}:{line}:{column}: {}", file.display(), self.message)
            }
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Config {
            listen: vec![local(7400)],
            resp_listen: Vec::new(),
            memcached_listen: Vec::new(),
            cluster_ports: false,
            announce_ip: None,
            clients_max: 10_000,
            password: None,
            query_buffer_bytes_max: 16 << 20,
            output_soft_bytes: 16 << 20,
            output_hard_bytes: 64 << 20,
            command_timeout: Duration::from_secs(10),
            auth_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(5),
            memory_bytes_max: 1 << 30,
            item_bytes_max: 512 << 20,
            memcached_item_bytes_max: 1 << 20,
            cores: Vec::new(),
            busy_poll: BusyPoll::Auto,
            admin: Some(local(7401)),
            log_level: LevelFilter::INFO,
            log_format: LogFormat::Text,
            exit_on_stdin_close: false,
            sources: Sources::default(),
        }
    }
}

impl Config {
    /// The defaults with everything that was given laid over them; all problems if there are any.
    pub fn gather(sources: Sources) -> Result<Config, Vec<Problem>> {
        let mut layers = Layers { config: Config::default(), places: BTreeMap::new(), problems: Vec::new() };
        if let Some(file) = &sources.file {
            match std::fs::read_to_string(file) {
                Ok(text) => layers.read_file(file, &text),
                Err(error) => {
                    let place = Place::File { file: file.clone(), line: 1, column: 1 };
                    layers.problems.push(Problem { place, message: format!("cannot be read: {error}") });
                }
            }
        }
        if let Some(password) = &sources.password_variable {
            layers.give(
                "password",
                std::slice::from_ref(&password.0),
                Place::Environment { name: PASSWORD_VARIABLE },
            );
        }
        for (name, values) in &sources.flags {
            layers.give(name, values, Place::Flag { name });
        }
        layers.hold_rules();
        if !layers.problems.is_empty() {
            return Err(layers.problems);
        }
        Ok(Config { sources, ..layers.config })
    }

    /// The configuration as its sources stand now.
    pub fn reload(&self) -> Result<Config, Vec<Problem>> {
        Config::gather(self.sources.clone())
    }

    /// All addresses to listen on with the protocol of each: those of all protocols first, then RESP's, then memcached's.
    pub fn listeners(&self) -> Vec<(SocketAddr, Protocol)> {
        let all = self.listen.iter().map(|address| (*address, Protocol::Sniff));
        let resp = self.resp_listen.iter().map(|address| (*address, Protocol::Resp));
        let memcached = self.memcached_listen.iter().map(|address| (*address, Protocol::Memcached));
        all.chain(resp).chain(memcached).collect()
    }

    /// Every setting with its value as text; the password only as whether there is one.
    pub fn settings(&self) -> Vec<(String, String)> {
        SETTINGS.iter().map(|setting| (setting.name.to_owned(), (setting.show)(self))).collect()
    }
}

/// A configuration in the making.
struct Layers {
    config: Config,
    places: BTreeMap<&'static str, Place>,
    problems: Vec<Problem>,
}

impl Layers {
    fn give(&mut self, name: &str, values: &[String], place: Place) {
        let setting = SETTINGS.iter().find(|setting| setting.name == name).expect("callers name settings");
        match (setting.set)(&mut self.config, values) {
            Ok(()) => {
                self.places.insert(setting.name, place);
            }
            Err(message) => self.problems.push(Problem { place, message }),
        }
    }

    fn read_file(&mut self, file: &std::path::Path, text: &str) {
        let at = |offset: usize| {
            let before = text.get(..offset).unwrap_or(text);
            let line_start = before.rfind('\n').map_or(0, |end| end + 1);
            let (line, column) = (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1);
            Place::File { file: file.to_owned(), line, column }
        };
        let (root, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let place = at(error.span().map_or(0, |span| span.start));
            self.problems.push(Problem { place, message: error.message().to_owned() });
        }
        if !errors.is_empty() {
            return;
        }
        for (table, content) in root.get_ref() {
            let place = at(table.span().start);
            let table = table.get_ref().as_ref();
            let Some(keys) = content.get_ref().as_table() else {
                let message = match home_of(table) {
                    Some(home) => format!("`{table}` belongs into the table [{home}]"),
                    None => format!("`{table}` stands outside of a table and is no setting{}", near(table)),
                };
                self.problems.push(Problem { place, message });
                continue;
            };
            if !SETTINGS.iter().any(|setting| setting.table == table) {
                let message = format!("no table is called [{table}]{}", near_table(table));
                self.problems.push(Problem { place, message });
                continue;
            }
            for (key, value) in keys {
                let name = key.get_ref().as_ref();
                match home_of(name) {
                    Some(home) if home == table => match texts_of(value.get_ref()) {
                        Ok(values) => self.give(name, &values, at(value.span().start)),
                        Err(message) => {
                            self.problems.push(Problem { place: at(value.span().start), message });
                        }
                    },
                    Some(home) => {
                        let message = format!("`{name}` belongs into the table [{home}]");
                        self.problems.push(Problem { place: at(key.span().start), message });
                    }
                    None => {
                        let message = format!("unknown key `{name}`{}", near(name));
                        self.problems.push(Problem { place: at(key.span().start), message });
                    }
                }
            }
        }
    }

    /// What must hold between settings.
    fn hold_rules(&mut self) {
        let config = &mut self.config;
        let given = |name| self.places.contains_key(name);
        // Who asks for a listener of one protocol does not want another one of all protocols beside it.
        if (given("resp-listen") || given("memcached-listen")) && !given("listen") {
            config.listen.clear();
        }
        let mut broken: Vec<(&'static str, String)> = Vec::new();
        if config.listeners().is_empty() {
            broken.push((
                "listen",
                "nothing to listen on; give --listen, --resp-listen or --memcached-listen".to_owned(),
            ));
        }
        if config.password.is_none() {
            let listeners = [
                ("listen", config.listen.as_slice()),
                ("resp-listen", &config.resp_listen),
                ("memcached-listen", &config.memcached_listen),
                ("admin", config.admin.as_slice()),
            ];
            for (name, addresses) in listeners {
                for address in addresses.iter().filter(|address| !address.ip().to_canonical().is_loopback()) {
                    broken.push((
                        name,
                        format!(
                            "{address} can be reached from other machines and there is no password: anybody there could \
                             read and change everything. Set {PASSWORD_VARIABLE} or --password-file, or listen on 127.0.0.1"
                        ),
                    ));
                }
            }
        }
        let mut seen = BTreeMap::new();
        let all = config.listeners().into_iter().map(|(address, _)| address).chain(config.admin);
        for address in all.filter(|address| address.port() != 0) {
            if seen.insert(address, ()).is_some() {
                broken.push(("listen", format!("{address} is given twice")));
            }
        }
        if config.cluster_ports && config.listen.is_empty() && config.resp_listen.is_empty() {
            broken.push((
                "cluster-ports",
                "ports per core count up from a RESP port, and there is none; give --listen or --resp-listen"
                    .to_owned(),
            ));
        }
        if config.output_soft_bytes > config.output_hard_bytes {
            let (soft, hard) = (config.output_soft_bytes as u64, config.output_hard_bytes as u64);
            let message = format!("{} is more than output-hard, {}", show_size(soft), show_size(hard));
            broken.push(("output-soft", message));
        }
        // The default is cut down to the memory there is; only what somebody asked for can be wrong.
        let item_bytes_max = usize::try_from(config.memory_bytes_max).unwrap_or(usize::MAX);
        for (name, bytes) in [
            ("item-size", &mut config.item_bytes_max),
            ("memcached-item-size", &mut config.memcached_item_bytes_max),
        ] {
            if *bytes > item_bytes_max && given(name) {
                let (item, memory) = (show_size(*bytes as u64), show_size(config.memory_bytes_max));
                broken.push((name, format!("{item} is more than all the memory for items, {memory}")));
            }
            *bytes = (*bytes).min(item_bytes_max);
        }
        for (name, message) in broken {
            let place = self.places.get(name).cloned().unwrap_or(Place::Whole);
            self.problems.push(Problem { place, message });
        }
    }
}

/// The texts of a value in a file: those of an array, or one.
fn texts_of(value: &DeValue<'_>) -> Result<Vec<String>, String> {
    match value {
        DeValue::String(text) => Ok(vec![text.to_string()]),
        DeValue::Integer(integer) if integer.radix() == 10 => Ok(vec![integer.as_str().to_owned()]),
        DeValue::Boolean(yes) => Ok(vec![yes.to_string()]),
        DeValue::Array(items) => {
            let texts: Result<Vec<_>, _> = items.iter().map(|item| texts_of(item.get_ref())).collect();
            Ok(texts?.concat())
        }
        other => {
            Err(format!("a {} cannot be a setting; give a string or a decimal number", other.type_str()))
        }
    }
}

/// The table a setting stands in.
fn home_of(name: &str) -> Option<&'static str> {
    SETTINGS.iter().find(|setting| setting.name == name).map(|setting| setting.table)
}

/// How unlike two names may be for one to be suggested for the other.
const SUGGESTION_EDITS_MAX: usize = 3;

fn near(name: &str) -> String {
    // What people type who know another server, or write keys as Rust and Python do.
    let plain = name.to_lowercase().replace('_', "-");
    suggestion(&plain, SETTINGS.iter().map(|setting| setting.name))
        .and_then(|name| home_of(name).map(|home| format!("; did you mean `{name}` in [{home}]?")))
        .unwrap_or_default()
}

fn near_table(table: &str) -> String {
    suggestion(&table.to_lowercase(), SETTINGS.iter().map(|setting| setting.table))
        .map(|table| format!("; did you mean [{table}]?"))
        .unwrap_or_else(|| {
            let mut tables: Vec<_> = SETTINGS.iter().map(|setting| format!("[{}]", setting.table)).collect();
            tables.dedup();
            format!("; there are {}", tables.join(", "))
        })
}

fn suggestion(name: &str, known: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    known
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .filter(|(edits, known)| *edits <= SUGGESTION_EDITS_MAX.min(known.len() / 2))
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, known)| known)
}

/// The last value given, for settings that have one.
fn one(values: &[String]) -> Result<&str, String> {
    match values {
        [value] => Ok(value.trim()),
        [] => Err("has no value".to_owned()),
        _ => Err("takes one value".to_owned()),
    }
}

fn switch(values: &[String]) -> Result<bool, String> {
    match one(values)? {
        "true" => Ok(true),
        "false" => Ok(false),
        other => Err(format!("`{other}` is neither true nor false")),
    }
}

fn number<T: std::str::FromStr + PartialOrd + fmt::Display>(
    values: &[String],
    least: T,
    most: T,
) -> Result<T, String> {
    let text = one(values)?;
    match text.parse::<T>() {
        Ok(number) if number >= least && number <= most => Ok(number),
        _ => Err(format!("`{text}` is not a number from {least} to {most}")),
    }
}

fn addresses(values: &[String]) -> Result<Vec<SocketAddr>, String> {
    let texts = values.iter().flat_map(|value| value.split(',')).map(str::trim);
    texts.filter(|text| !text.is_empty()).map(address).collect()
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("`{text}` is not an address with a port, as 127.0.0.1:7400 or [::1]:7400 (names are not looked up)")
    })
}

/// Parses a size: a whole number of bytes, or with a unit: B, kB, MB, GB, TB (powers of 1000), KiB, MiB, GiB, TiB (of 1024).
pub fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (count, unit) = (&text[..digits], text[digits..].trim());
    let scale: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "k" | "m" | "g" | "t" if !count.is_empty() => {
            let letter = unit.to_ascii_uppercase();
            return Err(format!(
                "`{text}` can be read in two ways; say {count}{letter}iB (powers of 1024) or {count}{letter}B (of 1000)"
            ));
        }
        _ => return Err(format!("`{text}` is not a size, as 512MiB, 1GiB or 1000000")),
    };
    let count: Option<u64> = count.parse().ok();
    count
        .and_then(|count| count.checked_mul(scale))
        .ok_or_else(|| format!("`{text}` is not a size, as 512MiB, 1GiB or 1000000"))
}

fn size(values: &[String], least: u64, most: u64) -> Result<u64, String> {
    let bytes = parse_size(one(values)?)?;
    if bytes < least || bytes > most {
        return Err(format!("{} is not from {} to {}", show_size(bytes), show_size(least), show_size(most)));
    }
    Ok(bytes)
}

fn size_in_memory(values: &[String], least: u64, most: u64) -> Result<usize, String> {
    // Foreshadow runs on 64 bits only; the bound `most` keeps it exact elsewhere as well.
    size(values, least, most).map(|bytes| bytes as usize)
}

fn show_size(bytes: u64) -> String {
    let units = [(1u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(scale, _)| bytes >= *scale && bytes.is_multiple_of(*scale)) {
        Some((scale, unit)) => format!("{}{unit}", bytes / scale),
        None => bytes.to_string(),
    }
}

/// Parses a duration: a whole number with a unit: ms, s, m, h.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let scale: u64 = match text[digits..].trim() {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "" if digits > 0 => return Err(format!("`{text}` has no unit; say {text}s or {text}ms")),
        _ => return Err(format!("`{text}` is not a duration, as 500ms, 10s, 5m or 1h")),
    };
    let count: Option<u64> = text[..digits].parse().ok();
    count
        .and_then(|count| count.checked_mul(scale))
        .map(Duration::from_millis)
        .ok_or_else(|| format!("`{text}` is not a duration, as 500ms, 10s, 5m or 1h"))
}

fn duration(values: &[String], least: Duration, most: Duration) -> Result<Duration, String> {
    let duration = parse_duration(one(values)?)?;
    if duration < least || duration > most {
        let (least, most) = (show_duration(least), show_duration(most));
        return Err(format!("{} is not from {least} to {most}", show_duration(duration)));
    }
    Ok(duration)
}

fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let units = [(3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    match units.iter().find(|(scale, _)| millis >= *scale && millis.is_multiple_of(*scale)) {
        Some((scale, unit)) => format!("{}{unit}", millis / scale),
        None => format!("{millis}ms"),
    }
}

/// Highest CPU number that Linux can be built for.
const CPU_NUMBER_MAX: usize = 8191;

/// Parses a list of CPUs: numbers and ranges, as `0-3,6`; `all` is the empty list.
pub fn parse_cores(text: &str) -> Result<Vec<usize>, String> {
    let text = text.trim();
    if text == "all" {
        return Ok(Vec::new());
    }
    let bad = || format!("`{text}` is not a list of CPUs, as 0-3,6 or all");
    let parse = |number: &str| {
        let number: Option<usize> = number.trim().parse().ok();
        number.filter(|number| *number <= CPU_NUMBER_MAX).ok_or_else(bad)
    };
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (parse(first)?, parse(last)?),
            None => (parse(part)?, parse(part)?),
        };
        if first > last {
            return Err(bad());
        }
        cores.extend(first..=last);
    }
    let mut sorted = cores.clone();
    sorted.sort_unstable();
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(format!("CPU {} stands in `{text}` twice", pair[0]));
    }
    Ok(cores)
}

/// Shows a list of CPUs as [`parse_cores`] reads it.
pub fn show_cores(cores: &[usize]) -> String {
    if cores.is_empty() {
        return "all".to_owned();
    }
    let runs = cores.chunk_by(|a, b| a + 1 == *b);
    let show = |run: &[usize]| match run {
        [one] => one.to_string(),
        run => format!("{}-{}", run[0], run[run.len() - 1]),
    };
    runs.map(show).collect::<Vec<_>>().join(",")
}

fn show_addresses(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(",")
}

fn password(text: &str) -> Result<Option<Password>, String> {
    // memcached's text protocol sends `user password` on a line; what cannot be said there cannot be a password.
    if text.is_empty() || text.len() > 512 || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("a password has 1 to 512 bytes and no spaces or control characters".to_owned());
    }
    Ok(Some(Password(text.to_owned())))
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const HOUR: Duration = Duration::from_secs(3600);

/// All settings, table by table.
pub const SETTINGS: &[Setting] = &[
    Setting {
        name: "listen",
        table: "network",
        value: "ADDR",
        many: true,
        help: "Listen here for every protocol, told apart by the first bytes; port 0 picks a free one",
        set: |config, values| addresses(values).map(|all| config.listen = all),
        show: |config| show_addresses(&config.listen),
    },
    Setting {
        name: "resp-listen",
        table: "network",
        value: "ADDR",
        many: true,
        help: "Listen here for RESP only (then --listen has no default)",
        set: |config, values| addresses(values).map(|all| config.resp_listen = all),
        show: |config| show_addresses(&config.resp_listen),
    },
    Setting {
        name: "memcached-listen",
        table: "network",
        value: "ADDR",
        many: true,
        help: "Listen here for memcached only (then --listen has no default)",
        set: |config, values| addresses(values).map(|all| config.memcached_listen = all),
        show: |config| show_addresses(&config.memcached_listen),
    },
    Setting {
        name: "cluster-ports",
        table: "network",
        value: "",
        many: false,
        help: "Give each core a port of its own, the listener's + 1 + core, and show cores to cluster clients as nodes",
        set: |config, values| switch(values).map(|yes| config.cluster_ports = yes),
        show: |config| config.cluster_ports.to_string(),
    },
    Setting {
        name: "announce-ip",
        table: "network",
        value: "IP",
        many: false,
        help: "Tell cluster clients this address instead of the one listened on",
        set: |config, values| {
            let text = one(values)?;
            let ip = text.parse().map_err(|_| format!("`{text}` is not an IP address"))?;
            config.announce_ip = Some(ip);
            Ok(())
        },
        show: |config| config.announce_ip.map(|ip| ip.to_string()).unwrap_or_default(),
    },
    Setting {
        name: "max-clients",
        table: "network",
        value: "N",
        many: false,
        help: "Most connections at a time, all cores",
        set: |config, values| number(values, 1, 1_000_000).map(|n| config.clients_max = n),
        show: |config| config.clients_max.to_string(),
    },
    Setting {
        name: "password",
        table: "network",
        value: "TEXT",
        many: false,
        help: "Ask clients for this password (seen in the list of processes: prefer FORESHADOW_PASSWORD or --password-file)",
        set: |config, values| password(one(values)?).map(|it| config.password = it),
        show: |config| if config.password.is_some() { "(set)" } else { "" }.to_owned(),
    },
    Setting {
        name: "password-file",
        table: "network",
        value: "FILE",
        many: false,
        help: "Ask clients for the password on the first line of this file",
        set: |config, values| {
            let path = one(values)?;
            let text =
                std::fs::read_to_string(path).map_err(|error| format!("`{path}` cannot be read: {error}"))?;
            config.password = password(text.lines().next().unwrap_or_default().trim())?;
            Ok(())
        },
        // What it held is shown, as a secret, at `password`.
        show: |_| String::new(),
    },
    Setting {
        name: "query-buffer",
        table: "network",
        value: "SIZE",
        many: false,
        help: "Close a connection that has sent more than this without our being able to execute it",
        set: |config, values| {
            size_in_memory(values, 64 * KIB, GIB).map(|bytes| config.query_buffer_bytes_max = bytes)
        },
        show: |config| show_size(config.query_buffer_bytes_max as u64),
    },
    Setting {
        name: "output-soft",
        table: "network",
        value: "SIZE",
        many: false,
        help: "Stop reading from a client that leaves this much of its replies untaken",
        set: |config, values| {
            size_in_memory(values, 64 * KIB, 64 * GIB).map(|bytes| config.output_soft_bytes = bytes)
        },
        show: |config| show_size(config.output_soft_bytes as u64),
    },
    Setting {
        name: "output-hard",
        table: "network",
        value: "SIZE",
        many: false,
        help: "Close a client that leaves this much of its replies untaken",
        set: |config, values| {
            size_in_memory(values, 64 * KIB, 64 * GIB).map(|bytes| config.output_hard_bytes = bytes)
        },
        show: |config| show_size(config.output_hard_bytes as u64),
    },
    Setting {
        name: "command-timeout",
        table: "network",
        value: "TIME",
        many: false,
        help: "Close a connection whose command stays unfinished for this long",
        set: |config, values| {
            duration(values, Duration::from_millis(100), HOUR).map(|time| config.command_timeout = time)
        },
        show: |config| show_duration(config.command_timeout),
    },
    Setting {
        name: "auth-timeout",
        table: "network",
        value: "TIME",
        many: false,
        help: "Close a connection that has not authenticated for this long, where there is a password",
        set: |config, values| {
            duration(values, Duration::from_millis(100), HOUR).map(|time| config.auth_timeout = time)
        },
        show: |config| show_duration(config.auth_timeout),
    },
    Setting {
        name: "drain-timeout",
        table: "network",
        value: "TIME",
        many: false,
        help: "When told to stop, give clients this long to take their replies",
        set: |config, values| duration(values, Duration::ZERO, HOUR).map(|time| config.drain_timeout = time),
        show: |config| show_duration(config.drain_timeout),
    },
    Setting {
        name: "memory",
        table: "store",
        value: "SIZE",
        many: false,
        help: "Most memory for items, index included, all cores together",
        set: |config, values| size(values, 8 * MIB, 256 * TIB).map(|bytes| config.memory_bytes_max = bytes),
        show: |config| show_size(config.memory_bytes_max),
    },
    Setting {
        name: "item-size",
        table: "store",
        value: "SIZE",
        many: false,
        help: "Longest key and value together by RESP",
        set: |config, values| {
            size_in_memory(values, KIB, 512 * MIB).map(|bytes| config.item_bytes_max = bytes)
        },
        show: |config| show_size(config.item_bytes_max as u64),
    },
    Setting {
        name: "memcached-item-size",
        table: "store",
        value: "SIZE",
        many: false,
        help: "Longest value by memcached",
        set: |config, values| {
            size_in_memory(values, KIB, 512 * MIB).map(|bytes| config.memcached_item_bytes_max = bytes)
        },
        show: |config| show_size(config.memcached_item_bytes_max as u64),
    },
    Setting {
        name: "cores",
        table: "cores",
        value: "LIST",
        many: false,
        help: "Serve on these CPUs, as 0-3,6; all: those the affinity mask allows",
        set: |config, values| {
            // A list of numbers in the file is as good as a text with commas.
            parse_cores(&values.join(",")).map(|cores| config.cores = cores)
        },
        show: |config| show_cores(&config.cores),
    },
    Setting {
        name: "busy-poll-us",
        table: "cores",
        value: "N|auto",
        many: false,
        help: "Microseconds an idle core looks for work before it sleeps; 0 where the cores are shared with others",
        set: |config, values| {
            config.busy_poll = match one(values)? {
                "auto" => BusyPoll::Auto,
                _ => number(values, 0, 1_000_000)
                    .map(BusyPoll::Micros)
                    .map_err(|error| format!("{error}, nor auto"))?,
            };
            Ok(())
        },
        show: |config| match config.busy_poll {
            BusyPoll::Auto => "auto".to_owned(),
            BusyPoll::Micros(micros) => micros.to_string(),
        },
    },
    Setting {
        name: "admin",
        table: "admin",
        value: "ADDR|off",
        many: false,
        help: "Serve metrics, health and the dashboard by HTTP here; with a password they ask for it",
        set: |config, values| {
            config.admin = match one(values)? {
                "off" => None,
                text => Some(address(text)?),
            };
            Ok(())
        },
        show: |config| config.admin.map_or("off".to_owned(), |address| address.to_string()),
    },
    Setting {
        name: "log-level",
        table: "log",
        value: "LEVEL",
        many: false,
        help: "Log from this level on: off, error, warn, info, debug, trace",
        set: |config, values| {
            let text = one(values)?;
            let level = text.parse().ok().filter(|_| !text.is_empty() && text.parse::<usize>().is_err());
            config.log_level =
                level.ok_or_else(|| format!("`{text}` is none of off, error, warn, info, debug, trace"))?;
            Ok(())
        },
        show: |config| config.log_level.to_string(),
    },
    Setting {
        name: "log-format",
        table: "log",
        value: "FORMAT",
        many: false,
        help: "Log as text or json, on standard error",
        set: |config, values| {
            config.log_format = match one(values)? {
                "text" => LogFormat::Text,
                "json" => LogFormat::Json,
                other => return Err(format!("`{other}` is neither text nor json")),
            };
            Ok(())
        },
        show: |config| match config.log_format {
            LogFormat::Text => "text".to_owned(),
            LogFormat::Json => "json".to_owned(),
        },
    },
    Setting {
        name: "exit-on-stdin-close",
        table: "process",
        value: "",
        many: false,
        help: "Stop, as by SIGTERM, when standard input is closed",
        set: |config, values| switch(values).map(|yes| config.exit_on_stdin_close = yes),
        show: |config| config.exit_on_stdin_close.to_string(),
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    fn of_text(text: &str) -> Result<Config, Vec<String>> {
        let mut layers = Layers { config: Config::default(), places: BTreeMap::new(), problems: Vec::new() };
        layers.read_file("f.toml".as_ref(), text);
        layers.hold_rules();
        if layers.problems.is_empty() {
            Ok(layers.config)
        } else {
            Err(layers.problems.iter().map(Problem::to_string).collect())
        }
    }

    fn of_flags(flags: &[(&'static str, &str)]) -> Result<Config, Vec<String>> {
        let flags = flags.iter().map(|(name, value)| (*name, vec![(*value).to_owned()])).collect();
        Config::gather(Sources { flags, ..Sources::default() })
            .map_err(|problems| problems.iter().map(Problem::to_string).collect())
    }

    /// Another value than the default for each setting, and how it is shown.
    const TURNED: &[(&str, &str, &str)] = &[
        ("listen", "127.0.0.1:0,[::1]:7500", "127.0.0.1:0,[::1]:7500"),
        ("resp-listen", "127.0.0.1:6379", "127.0.0.1:6379"),
        ("memcached-listen", "127.0.0.1:11211", "127.0.0.1:11211"),
        ("cluster-ports", "true", "true"),
        ("announce-ip", "10.0.0.7", "10.0.0.7"),
        ("max-clients", "77", "77"),
        ("password", "sesame", "(set)"),
        ("query-buffer", "1MiB", "1MiB"),
        ("output-soft", "1MiB", "1MiB"),
        ("output-hard", "32000000", "31250KiB"),
        ("command-timeout", "500ms", "500ms"),
        ("auth-timeout", "2m", "2m"),
        ("drain-timeout", "0s", "0ms"),
        ("memory", "2GiB", "2GiB"),
        ("item-size", "2MB", "2000000"),
        ("memcached-item-size", "2MiB", "2MiB"),
        ("cores", "0-2,6", "0-2,6"),
        ("busy-poll-us", "20", "20"),
        ("admin", "off", "off"),
        ("log-level", "warn", "warn"),
        ("log-format", "json", "json"),
        ("exit-on-stdin-close", "true", "true"),
    ];

    #[test]
    fn every_setting_turns_its_own_value_and_no_other_by_flag_and_by_file() {
        let plain: BTreeMap<_, _> = Config::default().settings().into_iter().collect();
        for setting in SETTINGS.iter().filter(|setting| setting.name != "password-file") {
            let (_, given, shown) =
                TURNED.iter().find(|turned| turned.0 == setting.name).expect("each setting is turned here");
            let by_flag = of_flags(&[(setting.name, given)]).unwrap();
            let by_file = of_text(&format!("[{}]\n{} = \"{given}\"\n", setting.table, setting.name)).unwrap();
            assert_eq!(by_flag.settings(), by_file.settings());
            for (name, value) in by_flag.settings() {
                let expected = match name.as_str() {
                    "listen" if setting.name.ends_with("-listen") => "",
                    name if name == setting.name => shown,
                    name => plain[name].as_str(),
                };
                assert_eq!(value, expected, "{name} with --{} {given}", setting.name);
            }
        }
    }

    #[test]
    fn a_value_that_is_shown_reads_back_as_itself() {
        for (name, given, shown) in TURNED.iter().filter(|turned| turned.0 != "password") {
            let (once, twice) = (of_flags(&[(name, given)]).unwrap(), of_flags(&[(name, shown)]).unwrap());
            assert_eq!(once.settings(), twice.settings());
        }
    }

    #[test]
    fn the_password_comes_from_a_file_and_is_never_shown() {
        let file = std::env::temp_dir().join(format!("foreshadow-password-{}", std::process::id()));
        std::fs::write(&file, "sesame\nignored\n").unwrap();
        let config = of_flags(&[("password-file", file.to_str().unwrap())]).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert_eq!(config.password, Some(Password("sesame".to_owned())));
        assert!(!format!("{:?} {:?}", config.password, config.settings()).contains("sesame"));
    }

    #[test]
    fn the_environment_beats_the_file_and_a_flag_beats_both() {
        let file = std::env::temp_dir().join(format!("foreshadow-layers-{}.toml", std::process::id()));
        std::fs::write(&file, "[network]\npassword = \"a\"\nmax-clients = 5\n").unwrap();
        let mut sources = Sources { file: Some(file.clone()), ..Sources::default() };
        let read = |sources: &Sources| {
            let config = Config::gather(sources.clone()).unwrap();
            (config.password.unwrap().0, config.clients_max)
        };
        assert_eq!(read(&sources), ("a".to_owned(), 5));
        sources.password_variable = Some(Password("b".to_owned()));
        assert_eq!(read(&sources), ("b".to_owned(), 5));
        sources.flags = vec![("password", vec!["c".to_owned()]), ("max-clients", vec!["6".to_owned()])];
        assert_eq!(read(&sources), ("c".to_owned(), 6));
        std::fs::remove_file(&file).unwrap();
    }

    #[test]
    fn problems_name_line_and_column_and_all_are_reported() {
        let text = "[network]\nlisten = \"127.0.0.1\"\nmax_clients = 7\n\n[store]\n  memroy = \"1GiB\"\ncores = 2\n\
                    [storr]\n[strange-thing]\n";
        let problems = of_text(text).unwrap_err();
        let expected = [
            "f.toml:2:10: `127.0.0.1` is not an address with a port, as 127.0.0.1:7400 or [::1]:7400 (names are not looked up)",
            "f.toml:3:1: unknown key `max_clients`; did you mean `max-clients` in [network]?",
            "f.toml:6:3: unknown key `memroy`; did you mean `memory` in [store]?",
            "f.toml:7:1: `cores` belongs into the table [cores]",
            "f.toml:8:2: no table is called [storr]; did you mean [store]?",
            "f.toml:9:2: no table is called [strange-thing]; there are [network], [store], [cores], [admin], [log], [process]",
        ];
        let mut sorted = problems.clone();
        sorted.sort();
        assert_eq!(sorted, expected);
    }

    #[test]
    fn bad_toml_has_a_place_too() {
        let problems = of_text("[store]\nmemory = 1GiB\n").unwrap_err();
        assert!(problems[0].starts_with("f.toml:2:10: "), "{problems:?}");
        let problems = of_text("[store]\nmemory = 1.5\n").unwrap_err();
        assert!(problems[0].starts_with("f.toml:2:10: a float cannot be"), "{problems:?}");
        let problems = of_text("[store]\nmemory = \"1GiB\"\nmemory = \"2GiB\"\n").unwrap_err();
        assert!(problems[0].starts_with("f.toml:3:1: "), "{problems:?}");
    }

    #[test]
    fn an_address_others_can_reach_needs_a_password() {
        for (name, address) in
            [("listen", "0.0.0.0:7400"), ("admin", "[::]:7401"), ("resp-listen", "10.1.2.3:1")]
        {
            let problems = of_flags(&[(name, address)]).unwrap_err();
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(problems[0].starts_with(&format!("--{name}: {address} can be reached")), "{problems:?}");
            assert!(problems[0].contains(PASSWORD_VARIABLE), "{problems:?}");
            assert!(of_flags(&[(name, address), ("password", "sesame")]).is_ok());
        }
        assert!(of_flags(&[("listen", "[::ffff:127.0.0.1]:7400,127.8.9.1:0")]).is_ok());
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused_at_the_one_to_change() {
        let broken = |text: &str, expected: &str| {
            let problems = of_text(text).unwrap_err();
            assert!(problems.len() == 1 && problems[0].starts_with(expected), "{problems:?}");
        };
        broken("[network]\noutput-soft = \"2GiB\"", "f.toml:2:15: 2GiB is more than output-hard, 64MiB");
        broken("[store]\nmemory = \"64MiB\"\nitem-size = \"65MiB\"", "f.toml:3:13: 65MiB is more than all");
        broken("[network]\nlisten = []", "f.toml:2:10: nothing to listen on");
        broken("[network]\nlisten = \"127.0.0.1:7401\"", "f.toml:2:10: 127.0.0.1:7401 is given twice");
        let alone = "[network]\ncluster-ports = true\nmemcached-listen = \"127.0.0.1:1\"";
        broken(alone, "f.toml:2:17: ports per core");
        let small = of_flags(&[("memory", "64MiB")]).unwrap();
        assert_eq!(small.item_bytes_max, 64 << 20, "the default gives way to the memory there is");
    }

    #[test]
    fn sizes_durations_and_cores_are_read_as_people_write_them() {
        for (text, bytes) in [("0", 0), ("1GiB", 1 << 30), ("2 mib", 2 << 20), ("10kB", 10_000), ("7B", 7)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "GiB", "-1", "1.5GiB", "1XB", "99999999999TiB", "99999999999999999999"] {
            assert!(parse_size(text).unwrap_err().contains("is not a size"), "{text}");
        }
        assert!(parse_size("1G").unwrap_err().contains("say 1GiB (powers of 1024) or 1GB (of 1000)"));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("2h"), Ok(Duration::from_secs(7200)));
        assert!(parse_duration("10").unwrap_err().contains("say 10s or 10ms"));
        assert!(parse_duration("9999999999999999999h").is_err() && parse_duration("s").is_err());
        assert_eq!(parse_cores("0-3,6"), Ok(vec![0, 1, 2, 3, 6]));
        assert_eq!(parse_cores("4,1"), Ok(vec![4, 1]), "the order is kept: it is the order of the cores");
        assert_eq!(parse_cores("all"), Ok(vec![]));
        assert!(parse_cores("1,0-2").unwrap_err().contains("CPU 1 stands in `1,0-2` twice"));
        for text in ["", "3-1", "a", "1-", "0-99999999", "1,,2"] {
            assert!(parse_cores(text).unwrap_err().contains("is not a list"), "{text}");
        }
    }

    #[test]
    fn names_are_unique_and_helped() {
        for (i, setting) in SETTINGS.iter().enumerate() {
            assert!(SETTINGS[..i].iter().all(|earlier| earlier.name != setting.name), "{}", setting.name);
            assert!(!setting.help.is_empty() && !setting.help.ends_with('.'), "{}", setting.name);
        }
    }
}
