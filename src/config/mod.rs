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

mod layers;
mod settings;
#[cfg(test)]
mod tests;
mod values;

use layers::Layers;
pub use settings::SETTINGS;
pub(crate) use values::show_size;
pub use values::{parse_cores, parse_duration, parse_size, show_cores};

use crate::io::tls;
use crate::topology::Members;
use crate::wire::Protocol;
use crate::wire::users::{USERS_MAX, Users};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
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
    /// Paths of sockets on this machine where every protocol is spoken.
    pub unix_listen: Vec<PathBuf>,
    /// Who may open them, as the bits of a file's mode.
    pub unix_permissions: u32,
    /// Whether addresses that other machines reach are refused as long as anybody could come in there.
    pub protected_mode: bool,
    /// Addresses where every protocol is spoken over TLS.
    pub tls_listen: Vec<SocketAddr>,
    /// The server's certificate and those that lead to its root, in PEM form.
    pub tls_cert_file: Option<PathBuf>,
    /// Its private key.
    pub tls_key_file: Option<PathBuf>,
    /// Certificates of the authorities that clients' certificates have to be of.
    pub tls_ca_cert_file: Option<PathBuf>,
    /// Whether clients have to show a certificate. `None`: they have if there are authorities.
    pub tls_auth_clients: Option<AuthClients>,
    /// Versions of TLS that are spoken.
    pub tls_protocols: tls::Versions,
    /// Whether each core has a port of its own and cluster clients see the cores as nodes.
    pub cluster_ports: bool,
    /// The nodes of the cluster that this is one of.
    pub cluster: Option<Members>,
    /// Which of them it is.
    pub node_id: Option<u32>,
    /// Where the first of them keeps the records of shards.
    pub metadata_file: Option<PathBuf>,
    /// The address told to cluster clients, where it is not the one listened on.
    pub announce_ip: Option<IpAddr>,
    /// Most connections, all cores.
    pub clients_max: u32,
    /// Users with their rules, as `ACL SETUSER` takes them. They hold secrets.
    pub users: Vec<Password>,
    /// Whether the common name in a client's certificate is its user's.
    pub tls_names_users: bool,
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
    /// Origins and keyspaces.
    pub sources_of_truth: crate::keyspaces::Tables,
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

/// Whether TLS clients have to show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthClients {
    /// They are not asked.
    No,
    /// They may; a bad one is refused.
    Optional,
    /// They have to.
    Yes,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// An object per line.
    Json,
}

/// An address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where.
    pub address: SocketAddr,
    /// What is spoken.
    pub protocol: Protocol,
    /// Whether over TLS.
    pub tls: bool,
}

/// A password, which debug output does not show.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub String);

impl Password {
    /// That of the environment, if there is one.
    pub fn of_environment() -> Option<Password> {
        std::env::var(PASSWORD_VARIABLE).ok().filter(|it| !it.is_empty()).map(Password)
    }
}

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
            unix_listen: Vec::new(),
            unix_permissions: 0o700,
            protected_mode: true,
            tls_listen: Vec::new(),
            tls_cert_file: None,
            tls_key_file: None,
            tls_ca_cert_file: None,
            tls_auth_clients: None,
            tls_protocols: tls::Versions::Both,
            cluster_ports: false,
            cluster: None,
            node_id: None,
            metadata_file: None,
            announce_ip: None,
            clients_max: 10_000,
            users: Vec::new(),
            tls_names_users: false,
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
            sources_of_truth: crate::keyspaces::Tables::default(),
            sources: Sources::default(),
        }
    }
}

impl Config {
    /// The defaults with everything that was given laid over them; all problems if there are any.
    pub fn gather(sources: Sources) -> Result<Config, Vec<Problem>> {
        let mut layers = Layers {
            config: Config::default(),
            places: BTreeMap::new(),
            named_places: BTreeMap::new(),
            problems: Vec::new(),
        };
        if let Some(file) = &sources.file {
            match std::fs::read_to_string(file) {
                Ok(text) => layers.read_file(file, &text),
                Err(error) => {
                    let message = format!("{} cannot be read: {error}", file.display());
                    layers.problems.push(Problem { place: Place::Whole, message });
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

    /// Whether each core has a port of its own: asked for, or because the nodes of a cluster reach each other by them.
    pub fn has_core_ports(&self) -> bool {
        self.cluster_ports || self.cluster.is_some()
    }

    /// All addresses to listen on: those of all protocols first, then RESP's, memcached's, and those with TLS.
    pub fn listeners(&self) -> Vec<Listener> {
        let groups = [
            (&self.listen, Protocol::Sniff, false),
            (&self.resp_listen, Protocol::Resp, false),
            (&self.memcached_listen, Protocol::Memcached, false),
            (&self.tls_listen, Protocol::Sniff, true),
        ];
        let listeners = |(addresses, protocol, tls): (&Vec<SocketAddr>, Protocol, bool)| {
            let each = |address: &SocketAddr| Listener { address: *address, protocol, tls };
            addresses.iter().map(each).collect::<Vec<_>>()
        };
        groups.into_iter().flat_map(listeners).collect()
    }

    /// Who may do what: the default user with its password, and those that are named.
    ///
    /// # Panics
    /// If a user's rules are wrong; settings are looked at when they are given.
    pub fn user_table(&self) -> Users {
        let mut users = Users::with_password(self.password.as_ref().map(|password| password.0.as_str()));
        for line in &self.users {
            let (name, rules) = line.0.split_once(' ').unwrap_or((&line.0, ""));
            users.set(name.as_bytes(), rules.as_bytes()).expect("looked at when it was given");
        }
        users
    }

    /// Whether other machines reach an address where somebody unknown could come in, and nobody has taken the responsibility.
    pub fn is_guarded(&self) -> bool {
        // Whoever has a certificate of our authorities is known.
        let known = |listener: &Listener| listener.tls && self.auth_clients() == AuthClients::Yes;
        let reached = |listener: &Listener| !listener.address.ip().to_canonical().is_loopback();
        self.protected_mode && self.listeners().iter().any(|listener| reached(listener) && !known(listener))
    }

    /// Whether TLS clients have to show a certificate.
    pub fn auth_clients(&self) -> AuthClients {
        let by_authorities = if self.tls_ca_cert_file.is_some() { AuthClients::Yes } else { AuthClients::No };
        self.tls_auth_clients.unwrap_or(by_authorities)
    }

    /// What connections over TLS begin with, from the files as they are now; `None` without addresses for them.
    ///
    /// # Errors
    /// What is wrong with the files.
    pub fn tls(&self) -> Option<Result<Arc<rustls::ServerConfig>, tls::Failure>> {
        let (Some(certificate), Some(key)) = (self.tls_cert_file.clone(), self.tls_key_file.clone()) else {
            return None;
        };
        let clients = match (self.auth_clients(), self.tls_ca_cert_file.clone()) {
            (AuthClients::No, _) | (_, None) => tls::ClientCertificates::Unasked,
            (AuthClients::Optional, Some(file)) => tls::ClientCertificates::Welcome(file),
            (AuthClients::Yes, Some(file)) => tls::ClientCertificates::Demanded(file),
        };
        let files = tls::Files { certificate, key };
        (!self.tls_listen.is_empty()).then(|| tls::server(&files, &clients, self.tls_protocols))
    }

    /// Every setting with its value as text; the password only as whether there is one.
    pub fn settings(&self) -> Vec<(String, String)> {
        SETTINGS.iter().map(|setting| (setting.name.to_owned(), (setting.show)(self))).collect()
    }
}
