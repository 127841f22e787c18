//! The command line: our own flags, and those of memtier_benchmark and redis-benchmark where they mean the same.
//!
//! A saved command line works with the tool's name as the first word (`foreshadow bench memtier_benchmark -s host ...`);
//! without it the dialect is guessed from the letters that the two use differently. What differs:
//!
//! | flag | memtier_benchmark | redis-benchmark | neither |
//! |---|---|---|---|
//! | `-c N` | connections per thread | connections | connections |
//! | `-t` | threads (we have one, connections are multiplied) | names of tests | either |
//! | `-n N` | requests per connection | requests | requests |
//! | `-P` | protocol | pipeline | either |
//! | `-s` | server | socket path (refused) | server |
//! | keys | `memtier-` + number | `key:` + 12 digits | `key:` + 12 digits |
//! | keys at first | as they are there | as they are there | written once before (`--no-prefill`) |

use super::dice::Pattern;
use super::items::Sizes;
use super::load::Mix;
use super::speech::Protocol;
use clap::Parser;
use std::ffi::OsString;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

/// Puts load on a cache server and checks every answer.
///
/// One thread and one io_uring drive all connections. Values follow from their keys, so each hit is compared byte for
/// byte. Exit status: 0 if all was well, 1 if the server is dead, slow, lies, refuses or forgets, 2 for a bad command line.
#[derive(Debug, Parser)]
#[command(
    name = "foreshadow bench",
    disable_help_flag = true,
    disable_version_flag = true,
    args_override_self = true,
    after_help = REFUSED_HELP
)]
struct Flags {
    /// Print this.
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
    /// Host of the server.
    #[arg(
        short = 'h',
        long = "server",
        visible_alias = "host",
        visible_short_alias = 's',
        default_value = "127.0.0.1"
    )]
    server: String,
    /// Its port (7400; 6379 in the dialects).
    #[arg(short, long)]
    port: Option<u16>,
    /// Server, credentials and database as redis://[[USER:]PASSWORD@]HOST[:PORT][/DATABASE].
    #[arg(short, long)]
    uri: Option<String>,
    /// Only addresses of IP version 4.
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    ipv4: bool,
    /// Only addresses of IP version 6.
    #[arg(short = '6', long)]
    ipv6: bool,
    /// As --protocol resp3.
    #[arg(short = '3')]
    resp3: bool,
    /// Which tool's meaning the flags have: memtier, redis or own.
    #[arg(long)]
    dialect: Option<String>,
    /// Password, or USER:PASSWORD as memtier has it.
    #[arg(short, long)]
    authenticate: Option<String>,
    /// User name of the password.
    #[arg(long)]
    user: Option<String>,
    /// Database to select.
    #[arg(long = "select-db", visible_alias = "dbnum", default_value_t = 0)]
    database: u32,
    /// Protocol (resp, resp3, memcached, meta, native), or a number: the pipeline.
    #[arg(short = 'P', value_name = "PROTOCOL|N")]
    protocol_or_pipeline: Option<String>,
    /// resp (redis, resp2), resp3, memcached (memcache_text), meta or native.
    #[arg(long)]
    protocol: Option<String>,
    /// Requests sent at once, and then all awaited [1]; in open loop each is sent when it is due.
    #[arg(long)]
    pipeline: Option<u32>,
    /// Connections [50]; per thread in memtier's dialect, per node in cluster mode.
    #[arg(short = 'c', long = "clients", visible_alias = "connections")]
    connections: Option<u32>,
    /// Threads to multiply the connections by (memtier), or tests to run: set,get,ping (redis-benchmark).
    #[arg(short = 't', value_name = "N|TESTS")]
    threads_or_tests: Option<String>,
    /// As -t N.
    #[arg(long)]
    threads: Option<u32>,
    /// Requests in all; per connection in memtier's dialect, where `allkeys` is allowed.
    #[arg(short = 'n', long)]
    requests: Option<String>,
    /// Seconds to run, instead of a number of requests [5].
    #[arg(long)]
    test_time: Option<f64>,
    /// Times to run it.
    #[arg(short = 'x', long, default_value_t = 1)]
    run_count: u32,
    /// Bytes of a value [100; 32 memtier, 3 redis-benchmark].
    #[arg(short = 'd', long)]
    data_size: Option<usize>,
    /// Bytes of values, evenly MIN-MAX.
    #[arg(long)]
    data_size_range: Option<String>,
    /// Bytes of values, each as often as its weight says: SIZE:WEIGHT,SIZE:WEIGHT,..
    #[arg(long)]
    data_size_list: Option<String>,
    /// Bytes of values, logarithmically normal: MEDIAN,SIGMA,MAX.
    #[arg(long)]
    data_size_lognormal: Option<String>,
    /// SETs to GETs [1:10].
    #[arg(long)]
    ratio: Option<String>,
    /// Keys of SETs and GETs: R or uniform, Z or zipf, G or gaussian, S or sequential, P or parallel [R:R].
    #[arg(long)]
    key_pattern: Option<String>,
    /// Exponent of zipf [0.99; 1 memtier].
    #[arg(long)]
    key_zipf_exp: Option<f64>,
    /// Deviation of gaussian [a sixth of the keys].
    #[arg(long)]
    key_stddev: Option<f64>,
    /// Middle of gaussian [that of the keys].
    #[arg(long)]
    key_median: Option<f64>,
    /// Number of the first key [0].
    #[arg(long)]
    key_minimum: Option<u64>,
    /// Number of the last key [99999; 10000000 memtier].
    #[arg(long)]
    key_maximum: Option<u64>,
    /// Keys 0 to N-1 (redis-benchmark).
    #[arg(short = 'r', value_name = "N")]
    keyspace: Option<u64>,
    /// What keys begin with.
    #[arg(long)]
    key_prefix: Option<String>,
    /// Digits that key numbers are filled up to [12; 0 memtier].
    #[arg(long)]
    key_digits: Option<usize>,
    /// Seconds that items live.
    #[arg(long)]
    expiry: Option<u32>,
    /// Seconds that items live, evenly MIN-MAX.
    #[arg(long)]
    expiry_range: Option<String>,
    /// Open loop: requests per second by a Poisson clock; several, with commas, are run one after the other.
    #[arg(long, value_delimiter = ',')]
    rate: Vec<f64>,
    /// Open loop: requests per second and connection (memtier).
    #[arg(long)]
    rate_limiting: Option<f64>,
    /// Ask for CLUSTER SLOTS and send each key to its owner.
    #[arg(long = "cluster-mode", visible_alias = "cluster")]
    cluster: bool,
    /// Write every key once before measuring (the default outside the dialects).
    #[arg(long, conflicts_with = "no_prefill")]
    prefill: bool,
    /// Measure with the keys that are there.
    #[arg(long)]
    no_prefill: bool,
    /// Seconds of load before measuring.
    #[arg(long, default_value_t = 0.0)]
    warm_up: f64,
    /// Check the framing and length of values, not their bytes nor the keys that memcached repeats.
    #[arg(long)]
    no_verify: bool,
    /// Least percentage of GETs that must hit [100 after a prefill without expiry, else 0].
    #[arg(long)]
    expect_hits: Option<f64>,
    /// Seconds without a whole answer after which the server is called dead; so long the greeting, and what is unanswered when
    /// the time is over, may take, too.
    #[arg(long, default_value_t = 5.0)]
    timeout: f64,
    /// Process of the server: print the CPU time that it used per request.
    #[arg(long)]
    server_pid: Option<u32>,
    /// CPU to run on.
    #[arg(long)]
    cpu: Option<usize>,
    /// Look at the ring without sleeping, in closed loop, too.
    #[arg(long)]
    busy_poll: bool,
    /// Where the dice start.
    #[arg(long, visible_alias = "distinct-client-seed", default_value = "1", num_args = 0..=1, default_missing_value = "1")]
    seed: u64,
    /// One line per test.
    #[arg(short, long)]
    quiet: bool,
    /// Comma-separated, in redis-benchmark's columns.
    #[arg(long)]
    csv: bool,
    /// JSON on stdout.
    #[arg(long)]
    json: bool,
    /// JSON into a file.
    #[arg(long, value_name = "FILE")]
    json_out_file: Option<PathBuf>,
    /// What else goes to stdout into FILE.
    #[arg(short, long, value_name = "FILE")]
    out_file: Option<PathBuf>,
    /// Latency distribution in HdrHistogram's text format into FILE; with several rates, tests or runs into FILE.1, FILE.2 ...
    #[arg(long, visible_alias = "hdr-file-prefix", value_name = "FILE")]
    hdr_file: Option<PathBuf>,
    /// Percentiles to print.
    #[arg(long, value_delimiter = ',', default_values_t = [50.0, 99.0, 99.9])]
    print_percentiles: Vec<f64>,
    // Flags of the two tools that ask for what is so anyway, or for how it is printed.
    #[arg(long, hide = true)]
    hide_histogram: bool,
    #[arg(long, hide = true)]
    randomize: bool,
    #[arg(short = 'R', long, hide = true)]
    random_data: bool,
    #[arg(long, hide = true)]
    data_verify: bool,
    #[arg(short = 'k', hide = true)]
    keep_alive: Option<u8>,
    #[arg(short = 'e', hide = true)]
    show_errors: bool,
    #[arg(long, hide = true)]
    precision: Option<u8>,
    #[arg(short = 'D', long, hide = true)]
    debug: bool,
    #[arg(long, hide = true)]
    print_all_runs: bool,
    /// Print what the command line means on stderr.
    #[arg(long)]
    show_config: bool,
    // What is refused by name, see `REFUSED`.
    #[arg(short = 'l', hide = true)]
    endless: bool,
    #[arg(short = 'I', hide = true)]
    idle: bool,
    #[arg(long, hide = true)]
    tls: bool,
    #[arg(long, hide = true)]
    enable_tracking: bool,
    #[arg(long, hide = true)]
    generate_keys: bool,
    #[arg(long, hide = true)]
    data_size_pattern: Option<String>,
    #[arg(long, hide = true)]
    data_offset: Option<String>,
    #[arg(long, hide = true)]
    multi_key_get: Option<String>,
    #[arg(long, hide = true)]
    reconnect_interval: Option<String>,
    #[arg(long, hide = true)]
    wait_ratio: Option<String>,
    #[arg(long, hide = true)]
    command: Option<String>,
    #[arg(long, hide = true)]
    client_stats: Option<String>,
    #[arg(hide = true, trailing_var_arg = true)]
    words: Vec<String>,
}

const REFUSED_HELP: &str = "\
Of memtier_benchmark and redis-benchmark, these are refused, since what they ask for is not done or not checked here:
  --tls, --enable-tracking, --command, --multi-key-get, --wait-ratio, --reconnect-interval, --generate-keys,
  --data-size-pattern, --data-offset, --client-stats, -l, -I, redis-benchmark's -x and COMMAND,
  -t with anything but set, get and ping.";

const NOT_CHECKED: &str = "only SET, GET and PING have answers that can be checked";
const SIZES: &str = "sizes follow from -d, --data-size-range, --data-size-list or --data-size-lognormal";

/// What is to be done, with nothing left to look up.
#[derive(Clone, Debug)]
pub struct Plan {
    pub address: SocketAddr,
    pub cluster: bool,
    pub protocol: Protocol,
    pub user: Option<String>,
    pub password: Option<String>,
    pub database: u32,
    pub connections: usize,
    pub pipeline: u32,
    pub tests: Vec<Test>,
    pub length: Length,
    /// Open loop if there are any.
    pub rates: Vec<f64>,
    pub run_count: u32,
    pub sizes: Sizes,
    pub set_pattern: Pattern,
    pub get_pattern: Pattern,
    pub key_count: u64,
    pub key_minimum: u64,
    pub key_prefix: String,
    pub key_digits: usize,
    /// First and last number of seconds; 0 for ever.
    pub expiry: (u32, u32),
    pub prefill: bool,
    pub warm_up: Duration,
    pub verify: bool,
    pub expect_hits: f64,
    pub patience: Duration,
    pub server_pid: Option<u32>,
    pub cpu: Option<usize>,
    pub busy_poll: bool,
    pub seed: u64,
    pub output: Output,
}

/// A measured mix and its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Test {
    pub name: &'static str,
    pub mix: Mix,
}

/// How long to ask.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Length {
    Requests(u64),
    Time(Duration),
}

/// What to print, and where.
#[derive(Clone, Debug)]
pub struct Output {
    pub form: Form,
    /// Instead of stdout.
    pub file: Option<PathBuf>,
    pub json_file: Option<PathBuf>,
    pub hdr_file: Option<PathBuf>,
    pub percentiles: Vec<f64>,
}

/// The form of stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Table,
    Line,
    Csv,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    Own,
    Memtier,
    Redis,
}

/// Reads a command line without the program's name.
///
/// # Errors
/// With what to print and whether it was asked for (`--help`).
pub fn parse(args: impl Iterator<Item = OsString>) -> Result<Plan, clap::Error> {
    let mut args = args.peekable();
    let named = match args.peek().and_then(|first| first.to_str()) {
        Some("memtier_benchmark" | "memtier") => Some(Dialect::Memtier),
        Some("redis-benchmark" | "valkey-benchmark") => Some(Dialect::Redis),
        _ => None,
    };
    if named.is_some() {
        args.next();
    }
    let args: Vec<OsString> = args.collect();
    let refuse = |words: String| clap::Error::raw(clap::error::ErrorKind::ValueValidation, words + "\n");
    if named == Some(Dialect::Redis) && args.iter().any(|arg| arg == "-x") {
        // It has no value there, and is another flag's name here.
        return Err(refuse("-x: values follow from their keys, none is read from standard input".into()));
    }
    let flags = Flags::try_parse_from(std::iter::once(OsString::from("foreshadow bench")).chain(args))?;
    let show = flags.show_config;
    let plan = flags.plan(named).map_err(refuse)?;
    if show {
        let password = plan.password.as_ref().map(|_| "(given)".to_string());
        eprintln!("{:#?}", Plan { password, ..plan.clone() });
    }
    Ok(plan)
}

impl Flags {
    fn dialect(&self, named: Option<Dialect>) -> Result<Dialect, String> {
        if let Some(named) = named {
            return Ok(named);
        }
        let is_number = |text: &Option<String>| text.as_deref().map(|text| text.parse::<u32>().is_ok());
        match self.dialect.as_deref() {
            Some("memtier" | "memtier_benchmark") => Ok(Dialect::Memtier),
            Some("redis" | "redis-benchmark" | "valkey-benchmark") => Ok(Dialect::Redis),
            Some("own") => Ok(Dialect::Own),
            Some(other) => Err(format!("--dialect {other}: memtier, redis or own")),
            // What only one of the two tools has; both have --threads.
            None if self.keyspace.is_some()
                || is_number(&self.threads_or_tests) == Some(false)
                || self.keep_alive.is_some()
                || self.show_errors
                || self.precision.is_some() =>
            {
                Ok(Dialect::Redis)
            }
            None if self.threads.is_some()
                || is_number(&self.threads_or_tests) == Some(true)
                || self.hide_histogram
                || self.print_all_runs
                || self.data_verify =>
            {
                Ok(Dialect::Memtier)
            }
            None => Ok(Dialect::Own),
        }
    }

    /// Why something that was asked for is not done here.
    fn refusal(&self) -> Option<String> {
        let words = self.words.join(" ");
        [
            (self.endless, "-l", "a run has an end, see --test-time and -n"),
            (self.idle, "-I", "connections without requests have no answers to check"),
            (self.tls, "--tls", "the load goes over plain TCP"),
            (self.enable_tracking, "--enable-tracking", "invalidations are not understood"),
            (self.generate_keys, "--generate-keys", "no data is imported that lacks them"),
            (self.data_size_pattern.is_some(), "--data-size-pattern", SIZES),
            (self.data_offset.is_some(), "--data-offset", NOT_CHECKED),
            (self.multi_key_get.is_some(), "--multi-key-get", NOT_CHECKED),
            (self.wait_ratio.is_some(), "--wait-ratio", NOT_CHECKED),
            (self.command.is_some(), "--command", NOT_CHECKED),
            (self.reconnect_interval.is_some(), "--reconnect-interval", "connections stay to the end"),
            (self.client_stats.is_some(), "--client-stats", "connections are counted together, see --json"),
            (!words.is_empty(), words.as_str(), NOT_CHECKED),
        ]
        .into_iter()
        .find_map(|(asked, name, why)| asked.then(|| format!("{name}: {why}")))
    }

    /// Takes host, port, user, password and database out of `--uri`.
    fn take_uri(&mut self) -> Result<(), String> {
        let Some(uri) = self.uri.take() else { return Ok(()) };
        let wrong = || format!("--uri {uri}: redis://[[USER:]PASSWORD@]HOST[:PORT][/DATABASE]");
        let rest = uri.strip_prefix("redis://").or(uri.strip_prefix("valkey://")).ok_or_else(wrong)?;
        let (credentials, rest) = match rest.rsplit_once('@') {
            Some((credentials, rest)) => (Some(credentials), rest),
            None => (None, rest),
        };
        let (place, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = match place.rsplit_once(':') {
            // The colons of an address in brackets are its own.
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            _ => (place, None),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(wrong());
        }
        self.server = host.to_string();
        if let Some(port) = port {
            self.port = Some(port.parse().map_err(|_| wrong())?);
        }
        if !database.is_empty() {
            self.database = database.parse().map_err(|_| wrong())?;
        }
        if let Some(credentials) = credentials {
            let (user, password) = credentials.split_once(':').unwrap_or(("", credentials));
            self.user = Some(user.to_string()).filter(|user| !user.is_empty());
            self.authenticate = Some(password.to_string());
        }
        Ok(())
    }

    fn plan(mut self, named: Option<Dialect>) -> Result<Plan, String> {
        if let Some(why) = self.refusal() {
            return Err(why);
        }
        let dialect = self.dialect(named)?;
        self.take_uri()?;
        let pick = |own, memtier, redis| match dialect {
            Dialect::Own => own,
            Dialect::Memtier => memtier,
            Dialect::Redis => redis,
        };
        if self.server.starts_with('/') {
            return Err(format!("-s {}: sockets in the file system are not supported", self.server));
        }
        let port = self.port.unwrap_or(pick(7400, 6379, 6379) as u16);
        let address = (self.server.as_str(), port)
            .to_socket_addrs()
            .ok()
            .and_then(|mut addresses| {
                addresses.find(|address| !(self.ipv4 && address.is_ipv6() || self.ipv6 && address.is_ipv4()))
            })
            .ok_or_else(|| format!("cannot find the host {:?}", self.server))?;

        let short_pipeline = self.protocol_or_pipeline.as_deref().and_then(|text| text.parse::<u32>().ok());
        let short_protocol = self.protocol_or_pipeline.as_deref().filter(|_| short_pipeline.is_none());
        let protocol = match self.protocol.as_deref().or(short_protocol) {
            None if self.resp3 => Protocol::Resp3,
            None | Some("resp" | "redis" | "resp2") => Protocol::Resp2,
            Some("resp3") => Protocol::Resp3,
            Some("memcached" | "memcache_text") => Protocol::Memcached,
            Some("meta") => Protocol::Meta,
            Some("native") => Protocol::Native,
            Some(other) => return Err(format!("protocol {other:?}: resp, resp3, memcached, meta or native")),
        };
        let pipeline = self.pipeline.or(short_pipeline).unwrap_or(1);
        let short_threads = self.threads_or_tests.as_deref().and_then(|text| text.parse::<u32>().ok());
        // redis-benchmark's threads share its connections; memtier's bring their own.
        let threads = match dialect {
            Dialect::Memtier => self.threads.or(short_threads).unwrap_or(4),
            Dialect::Own | Dialect::Redis => 1,
        };
        let connections = self.connections.unwrap_or(50) as usize * threads as usize;
        if !(1..=CONNECTIONS_MAX).contains(&connections) || !(1..=PIPELINE_MAX).contains(&pipeline) {
            return Err(format!("1 to {CONNECTIONS_MAX} connections and a pipeline of 1 to {PIPELINE_MAX}"));
        }

        let key_minimum = self.key_minimum.unwrap_or(0);
        let key_count = match (self.keyspace, self.key_maximum) {
            (Some(count), _) => count,
            (None, Some(maximum)) => {
                maximum.checked_sub(key_minimum).map_or(0, |span| span.saturating_add(1))
            }
            (None, None) => pick(100_000, 10_000_001, 1),
        };
        if !(1..=1 << 40).contains(&key_count) || key_minimum > 1 << 40 {
            return Err("the last key must not come before the first, and none after 2^40".into());
        }
        let (set_pattern, get_pattern) = self.patterns(dialect, key_count)?;
        let sizes = self.sizes(pick(100, 32, 3) as usize)?;
        let expiry = match (&self.expiry_range, self.expiry) {
            (Some(range), _) => range_of(range)?,
            (None, Some(seconds)) => (seconds, seconds),
            (None, None) => (0, 0),
        };
        let length = match (&self.requests, self.test_time) {
            (_, Some(0.0)) => return Err("--test-time 0 measures nothing".into()),
            (_, Some(seconds)) => Length::Time(seconds_of(seconds)?),
            (Some(requests), None) if requests == "allkeys" => Length::Requests(key_count),
            (Some(requests), None) => {
                let count: u64 =
                    requests.parse().map_err(|_| format!("-n {requests}: a number or allkeys"))?;
                let askers = if dialect == Dialect::Memtier { connections as u64 } else { 1 };
                let all = count.checked_mul(askers);
                Length::Requests(
                    all.ok_or_else(|| format!("-n {requests}: too many for {askers} connections"))?,
                )
            }
            (None, None) => match dialect {
                Dialect::Own => Length::Time(Duration::from_secs(5)),
                Dialect::Memtier => Length::Requests(10_000 * connections as u64),
                Dialect::Redis => Length::Requests(100_000),
            },
        };
        let tests = self.tests(dialect)?;
        let mut rates = self.rate.clone();
        rates.extend(self.rate_limiting.map(|rate| rate * connections as f64));
        if rates.iter().any(|&rate| !(rate > 0.0 && rate.is_finite())) {
            return Err("a rate is above 0".into());
        }
        let (user, password) = match (self.user, self.authenticate) {
            (None, Some(both)) if dialect == Dialect::Memtier && both.contains(':') => {
                let (user, password) = both.split_once(':').unwrap_or_default();
                (Some(user.to_string()).filter(|user| !user.is_empty()), Some(password.to_string()))
            }
            given => given,
        };
        if let Some(wrong) = self.print_percentiles.iter().find(|&wanted| !(0.0..=100.0).contains(wanted)) {
            return Err(format!("--print-percentiles {wrong}: 0 to 100"));
        }
        if let Some(wrong) = self.expect_hits.filter(|wanted| !(0.0..=100.0).contains(wanted)) {
            return Err(format!("--expect-hits {wrong}: 0 to 100"));
        }
        if self.key_prefix.as_ref().is_some_and(|prefix| prefix.len() > KEY_PREFIX_BYTES_MAX) {
            return Err(format!("--key-prefix: at most {KEY_PREFIX_BYTES_MAX} bytes"));
        }
        let prefill = self.prefill || (!self.no_prefill && dialect == Dialect::Own);
        let sure = prefill && expiry == (0, 0) && !self.no_verify;
        Ok(Plan {
            address,
            cluster: self.cluster,
            protocol,
            user,
            password,
            database: self.database,
            connections,
            // In open loop each is sent when it is due.
            pipeline: if rates.is_empty() { pipeline } else { 1 },
            tests,
            length,
            rates,
            run_count: self.run_count.max(1),
            sizes,
            set_pattern,
            get_pattern,
            key_count,
            key_minimum,
            key_prefix: self
                .key_prefix
                .unwrap_or_else(|| pick_str(dialect, "key:", "memtier-", "key:").into()),
            key_digits: self.key_digits.unwrap_or(pick(12, 0, 12) as usize).min(200),
            expiry,
            prefill,
            warm_up: seconds_of(self.warm_up)?,
            verify: !self.no_verify,
            expect_hits: self.expect_hits.unwrap_or(if sure { 100.0 } else { 0.0 }),
            patience: seconds_of(self.timeout)?.max(Duration::from_millis(200)),
            server_pid: self.server_pid,
            cpu: self.cpu,
            busy_poll: self.busy_poll,
            seed: self.seed,
            output: Output {
                form: match (self.json, self.csv, self.quiet) {
                    (true, _, _) => Form::Json,
                    (_, true, _) => Form::Csv,
                    (_, _, true) => Form::Line,
                    (false, false, false) => Form::Table,
                },
                file: self.out_file,
                json_file: self.json_out_file,
                hdr_file: self.hdr_file,
                percentiles: self.print_percentiles,
            },
        })
    }

    fn tests(&self, dialect: Dialect) -> Result<Vec<Test>, String> {
        let named = |name: &str| match name {
            "set" => Ok(Test { name: "SET", mix: Mix::SetGet(1, 0) }),
            "get" => Ok(Test { name: "GET", mix: Mix::SetGet(0, 1) }),
            "ping" | "ping_inline" | "ping_mbulk" => Ok(Test { name: "PING", mix: Mix::Ping }),
            other => Err(format!("-t {other}: {NOT_CHECKED}")),
        };
        let is_tests = |text: &&str| text.parse::<u32>().is_err();
        if let Some(tests) = self.threads_or_tests.as_deref().filter(is_tests) {
            return tests.split(',').map(|name| named(&name.to_ascii_lowercase())).collect();
        }
        if dialect == Dialect::Redis && self.ratio.is_none() {
            return ["ping", "set", "get"].into_iter().map(named).collect();
        }
        let ratio = self.ratio.as_deref().unwrap_or("1:10");
        let parts = ratio.split_once(':').map(|(sets, gets)| (sets.parse::<u32>(), gets.parse::<u32>()));
        match parts {
            Some((Ok(sets), Ok(gets))) if sets != 0 || gets != 0 => {
                Ok(vec![Test { name: "SET:GET", mix: Mix::SetGet(sets, gets) }])
            }
            _ => Err(format!("--ratio {ratio}: SETs:GETs, such as 1:10")),
        }
    }

    fn patterns(&self, dialect: Dialect, key_count: u64) -> Result<(Pattern, Pattern), String> {
        let exponent = self.key_zipf_exp.unwrap_or(if dialect == Dialect::Memtier { 1.0 } else { 0.99 });
        if !(exponent > 0.0 && exponent <= 10.0) {
            return Err(format!("--key-zipf-exp {exponent}: above 0, at most 10"));
        }
        let rank_of_median = self.key_median.map(|median| median - self.key_minimum.unwrap_or(0) as f64);
        // Far outside, nearly no draw would be one of the keys.
        if !(0.0..key_count as f64).contains(&rank_of_median.unwrap_or(0.0)) {
            return Err(format!("--key-median {}: not one of the keys", self.key_median.unwrap_or_default()));
        }
        if let Some(deviation) = self.key_stddev
            && !(deviation > 0.0 && deviation <= key_count as f64)
        {
            return Err(format!(
                "--key-stddev {deviation}: above 0, at most the number of keys ({key_count})"
            ));
        }
        let one = |name: &str| match name {
            "R" | "uniform" | "random" => Ok(Pattern::Uniform),
            "Z" | "zipf" => Ok(Pattern::Zipf { exponent }),
            "G" | "gaussian" => Ok(Pattern::Gaussian { median: rank_of_median, deviation: self.key_stddev }),
            "S" | "sequential" => Ok(Pattern::Sequential),
            "P" | "parallel" => Ok(Pattern::Parallel),
            other => Err(format!("--key-pattern {other}: R, Z, G, S or P, once or as SETs:GETs")),
        };
        let pattern = self.key_pattern.as_deref().unwrap_or("R");
        let (sets, gets) = pattern.split_once(':').unwrap_or((pattern, pattern));
        Ok((one(sets)?, one(gets)?))
    }

    fn sizes(&self, usual: usize) -> Result<Sizes, String> {
        let sizes = if let Some(text) = &self.data_size_lognormal {
            let numbers: Vec<f64> = text.split(',').filter_map(|part| part.parse().ok()).collect();
            match numbers[..] {
                [median, sigma, max] if median >= 1.0 && (0.0..=100.0).contains(&sigma) && max >= median => {
                    Sizes::Lognormal { median, sigma, max: max as usize }
                }
                _ => return Err(format!("--data-size-lognormal {text}: MEDIAN,SIGMA,MAX")),
            }
        } else if let Some(text) = &self.data_size_list {
            Sizes::Listed(
                text.split(',')
                    .map(|part| {
                        let (size, weight) = part.split_once(':')?;
                        Some((size.parse().ok()?, weight.parse().ok().filter(|&weight| weight > 0)?))
                    })
                    .collect::<Option<_>>()
                    .ok_or_else(|| {
                        format!("--data-size-list {text}: SIZE:WEIGHT,SIZE:WEIGHT,.. with weights from 1 on")
                    })?,
            )
        } else if let Some(range) = &self.data_size_range {
            let (first, last) = range_of(range)?;
            Sizes::Range(first as usize, last as usize)
        } else {
            Sizes::Fixed(self.data_size.unwrap_or(usual))
        };
        if sizes.max() > VALUE_BYTES_MAX {
            return Err(format!("values have at most {VALUE_BYTES_MAX} bytes"));
        }
        Ok(sizes)
    }
}

/// Bounds of what may be asked for.
const CONNECTIONS_MAX: usize = 50_000;
const PIPELINE_MAX: u32 = 10_000;
const VALUE_BYTES_MAX: usize = 64 << 20;
const KEY_PREFIX_BYTES_MAX: usize = 60_000;
/// A century; beyond it, nanoseconds leave their 64 bits.
const SECONDS_MAX: f64 = 3.2e9;

fn pick_str<'a>(dialect: Dialect, own: &'a str, memtier: &'a str, redis: &'a str) -> &'a str {
    match dialect {
        Dialect::Own => own,
        Dialect::Memtier => memtier,
        Dialect::Redis => redis,
    }
}

fn range_of(text: &str) -> Result<(u32, u32), String> {
    let parts = text.split_once('-').map(|(first, last)| (first.parse(), last.parse()));
    match parts {
        Some((Ok(first), Ok(last))) if first <= last => Ok((first, last)),
        _ => Err(format!("{text}: a range such as 10-200")),
    }
}

fn seconds_of(seconds: f64) -> Result<Duration, String> {
    let bounded = Some(seconds).filter(|&seconds| seconds <= SECONDS_MAX);
    bounded
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| format!("{seconds} is not a number of seconds"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(line: &str) -> Plan {
        parse(line.split_whitespace().map(OsString::from)).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    #[test]
    fn a_memtier_command_line_means_what_it_meant() {
        let plan = plan(
            "memtier_benchmark -s 127.0.0.1 -p 11211 -P memcache_text -t 2 -c 25 -n 1000 --ratio=1:9 -d 64 \
             --key-pattern=S:Z --key-maximum=5000 --key-minimum=1 --pipeline=8 --hide-histogram --distinct-client-seed",
        );
        assert_eq!(plan.address, "127.0.0.1:11211".parse().expect("constant"));
        assert_eq!((plan.protocol, plan.connections, plan.pipeline), (Protocol::Memcached, 50, 8));
        assert_eq!(plan.length, Length::Requests(50_000));
        assert_eq!(plan.tests, [Test { name: "SET:GET", mix: Mix::SetGet(1, 9) }]);
        assert_eq!(
            (plan.set_pattern, plan.get_pattern),
            (Pattern::Sequential, Pattern::Zipf { exponent: 1.0 })
        );
        assert_eq!((plan.key_minimum, plan.key_count, plan.sizes), (1, 5000, Sizes::Fixed(64)));
        assert_eq!((plan.key_prefix.as_str(), plan.prefill), ("memtier-", false));
    }

    #[test]
    fn a_list_of_sizes_is_taken() {
        let sizes = |line| plan(line).sizes;
        assert_eq!(
            sizes("memtier_benchmark --data-size-list 10:1,2000:3"),
            Sizes::Listed(vec![(10, 1), (2000, 3)])
        );
        assert_eq!(sizes("--data-size-list 7:9").max(), 7);
    }

    #[test]
    fn a_redis_benchmark_command_line_means_what_it_meant() {
        let plan =
            plan("redis-benchmark -h 127.0.0.1 -p 6380 -c 20 -n 5000 -d 100 -P 16 -r 1000 -t set,get -q");
        assert_eq!((plan.address.port(), plan.connections, plan.pipeline), (6380, 20, 16));
        assert_eq!(plan.length, Length::Requests(5000));
        assert_eq!(plan.tests.iter().map(|test| test.name).collect::<Vec<_>>(), ["SET", "GET"]);
        assert_eq!((plan.key_count, plan.sizes, plan.output.form), (1000, Sizes::Fixed(100), Form::Line));
    }

    #[test]
    fn the_dialect_is_guessed_from_what_only_one_tool_says() {
        assert_eq!(plan("-t 4 -c 10").connections, 40);
        assert_eq!(plan("-t set -c 10").connections, 10);
        assert_eq!(
            plan("-c 2 -n 1000 --threads 4 -r 100").length,
            Length::Requests(1000),
            "-r is redis-benchmark's"
        );
        for line in ["-n 1000 -q --threads 2 -k 1", "-n 1000 -e", "-n 1000 --precision 3 --threads 2"] {
            assert_eq!(
                plan(line).length,
                Length::Requests(1000),
                "{line}: redis-benchmark counts all requests"
            );
        }
        for line in ["-c 5 -n 100 --hide-histogram --threads 2", "-c 10 -n 100 --data-verify -t 1"] {
            assert_eq!(plan(line).length, Length::Requests(1000), "{line}: memtier counts a connection's");
        }
        assert_eq!(plan("-P 16").pipeline, 16);
        assert_eq!(plan("-P resp3").protocol, Protocol::Resp3);
        assert_eq!(plan("").length, Length::Time(Duration::from_secs(5)));
        assert!(plan("").prefill);
    }

    /// Once, these hung at full CPU, panicked, or printed what there is not.
    #[test]
    fn numbers_out_of_their_range_are_refused() {
        for line in [
            "-n 10 --key-pattern G --key-median 1000000000",
            "--key-pattern G --key-median -1",
            "--key-pattern G --key-median NaN",
            "--key-minimum 50 --key-maximum 60 --key-median 49",
            "--key-pattern G --key-stddev NaN",
            "--key-stddev 0",
            "--key-stddev 1e18",
            "memtier_benchmark -n 18446744073709551615 -t 2 -c 2",
            "--print-percentiles 50,101",
            "--print-percentiles -3",
            "--print-percentiles nan",
            "--expect-hits nan",
            "--test-time 1e300",
        ] {
            let parsed = parse(
                line.replace("--print-percentiles -", "--print-percentiles=-")
                    .split_whitespace()
                    .map(OsString::from),
            );
            assert!(parsed.is_err(), "{line}");
        }
        let inside = plan("--key-minimum 50 --key-maximum 60 --key-median 50 --key-pattern G");
        assert_eq!(inside.get_pattern, Pattern::Gaussian { median: Some(0.0), deviation: None });
    }

    #[test]
    fn harmless_flags_of_the_tools_are_taken() {
        let of_memtier =
            plan("memtier_benchmark -D --debug -o out.txt --show-config -4 --print-all-runs -n 10");
        assert_eq!(of_memtier.output.file, Some(PathBuf::from("out.txt")));
        assert_eq!(plan("redis-benchmark -3 -n 10").protocol, Protocol::Resp3);
        for (uri, address, user, password, database) in [
            ("redis://127.0.0.1", "127.0.0.1:6379", None, None, 0),
            ("redis://secret@127.0.0.1:7000/3", "127.0.0.1:7000", None, Some("secret"), 3),
            ("redis://me:se@cret@127.0.0.1:7000", "127.0.0.1:7000", Some("me"), Some("se@cret"), 0),
            ("redis://:secret@[::1]/", "[::1]:6379", None, Some("secret"), 0),
        ] {
            let plan = plan(&format!("redis-benchmark -u {uri}"));
            assert_eq!(plan.address.to_string(), address);
            assert_eq!(
                (plan.user.as_deref(), plan.password.as_deref(), plan.database),
                (user, password, database)
            );
        }
        assert_eq!(plan("--rate 500 --pipeline 16").pipeline, 1, "in open loop there is none");
    }

    #[test]
    fn what_is_not_done_here_is_refused_by_its_name() {
        for (line, name) in [
            ("memtier_benchmark --tls", "--tls"),
            ("memtier_benchmark --data-size-pattern S", "--data-size-pattern"),
            ("memtier_benchmark --data-offset 8", "--data-offset"),
            ("memtier_benchmark --multi-key-get 5", "--multi-key-get"),
            ("memtier_benchmark --reconnect-interval 5", "--reconnect-interval"),
            ("memtier_benchmark --wait-ratio 1:2", "--wait-ratio"),
            ("memtier_benchmark --command __key__", "--command"),
            ("memtier_benchmark --client-stats x", "--client-stats"),
            ("memtier_benchmark --generate-keys", "--generate-keys"),
            ("redis-benchmark -l", "-l"),
            ("redis-benchmark -I", "-I"),
            ("redis-benchmark -x", "-x"),
            ("redis-benchmark --enable-tracking", "--enable-tracking"),
            ("redis-benchmark -t incr", "-t incr"),
            ("redis-benchmark -n 10 LPUSH list x", "LPUSH list x"),
            ("-u http://127.0.0.1", "--uri"),
        ] {
            let said = parse(line.split_whitespace().map(OsString::from)).expect_err(line).to_string();
            assert!(
                said.starts_with(&format!("error: {name}:")) || said.starts_with(&format!("error: {name} ")),
                "{line}: {said}"
            );
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for line in [
            "--ratio 0:0",
            "--ratio ten",
            "-c 0",
            "--key-minimum 5 --key-maximum 4",
            "-t lpush",
            "--rate 0",
            "--test-time -1",
            "--test-time 0",
            "-d 99999999999",
            "--data-size-range 9-3",
            "--data-size-list 10",
            "--data-size-list 10:0",
            "--data-size-list 10:1,x:2",
            "--key-pattern Q",
            "--protocol smtp",
            "-s /tmp/redis.sock",
            "--nonsense",
            "--prefill --no-prefill",
        ] {
            assert!(parse(line.split_whitespace().map(OsString::from)).is_err(), "{line}");
        }
    }
}
