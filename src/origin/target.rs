//! What an origin's URL means.

use std::fmt;

/// An origin: where it is and how it is spoken to.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    /// Name or address of its host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// User and password.
    pub login: Option<Login>,
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// What is spoken.
    pub kind: Kind,
}

/// Who we are to an origin.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The user; empty where the protocol needs none.
    pub user: String,
    /// The password; empty where none was given.
    pub password: String,
}

/// What an origin speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// RESP, version 3 where the server has it.
    Redis {
        /// The database to select.
        database: u32,
        /// Prefixes whose changes we want to be told of; empty: none.
        track: Vec<Vec<u8>>,
        /// Whether it is a node of a Redis Cluster, whose other nodes have slots, too.
        cluster: bool,
    },
    /// memcached's meta commands.
    Memcached,
    /// HTTP/1.1.
    Http {
        /// The path, with `{key}` where the key goes.
        path: String,
    },
    /// PostgreSQL.
    Postgres(Queries),
}

/// What PostgreSQL is asked.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Queries {
    /// The database to connect to.
    pub database: String,
    /// Gives the value of key `$1`: the column `value` or the first, and if they are there `version` (an integer that
    /// grows with each change) and `ttl` (seconds).
    pub read: String,
    /// Stores value `$2` under key `$1`.
    pub write: Option<String>,
    /// Removes key `$1`.
    pub remove: Option<String>,
    /// Channel of `NOTIFY` whose payloads are keys that changed (empty: all).
    pub listen: Option<String>,
    /// What was said of TLS; `None`: nothing.
    pub tls: Option<TlsMode>,
    /// File with the certificates that may vouch for the server.
    pub authorities: Option<String>,
}

/// How much TLS PostgreSQL is asked for, in the words of its own clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// None.
    Disable,
    /// If the server has it; its certificate is not looked at.
    Prefer,
    /// TLS, with whatever certificate.
    Require,
    /// One that a trusted authority signed.
    VerifyCa,
    /// One that a trusted authority signed for the URL's host.
    VerifyFull,
}

impl TlsMode {
    const ALL: [(&str, TlsMode); 5] = [
        ("disable", TlsMode::Disable),
        ("prefer", TlsMode::Prefer),
        ("require", TlsMode::Require),
        ("verify-ca", TlsMode::VerifyCa),
        ("verify-full", TlsMode::VerifyFull),
    ];
}

impl Queries {
    /// How much TLS is asked for: what was said, else as much as the certificates of authorities that were given allow.
    pub fn tls_mode(&self) -> TlsMode {
        match (self.tls, &self.authorities) {
            // As its own clients have it.
            (Some(TlsMode::Require), Some(_)) => TlsMode::VerifyCa,
            (Some(mode), _) => mode,
            (None, Some(_)) => TlsMode::VerifyFull,
            (None, None) => TlsMode::Prefer,
        }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Shown without the password.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match (&self.kind, self.tls) {
            (Kind::Redis { .. }, false) => "redis",
            (Kind::Redis { .. }, true) => "rediss",
            (Kind::Memcached, _) => "memcached",
            (Kind::Http { .. }, false) => "http",
            (Kind::Http { .. }, true) => "https",
            (Kind::Postgres(_), _) => "postgres",
        };
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        write!(f, "{scheme}://{host}:{}", self.port)?;
        match &self.kind {
            Kind::Redis { cluster: true, .. } => write!(f, "?cluster=on"),
            Kind::Redis { database, .. } if *database > 0 => write!(f, "/{database}"),
            Kind::Http { path } => write!(f, "{path}"),
            Kind::Postgres(queries) => write!(f, "/{}", queries.database),
            _ => Ok(()),
        }
    }
}

/// What is wrong with an origin's URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    /// It has no `://`.
    #[error(
        "is no URL; give redis://HOST:PORT, memcached://HOST:PORT, http://HOST/PATH/{{key}} or postgres://USER@HOST/DATABASE"
    )]
    NoScheme,
    /// A scheme that we do not speak.
    #[error("has a scheme that is not spoken; there are redis, rediss, memcached, http, https and postgres")]
    Scheme,
    /// The host is missing.
    #[error("names no host")]
    Host,
    /// The port is no port.
    #[error("has a port that is not from 1 to 65535")]
    Port,
    /// A percent sign that is not followed by two hexadecimal digits.
    #[error("has a percent sign that is not followed by two hexadecimal digits")]
    Escape,
    /// A database that is not a number.
    #[error("has a database that is not a number")]
    Database,
    /// A path where there can be none, or none where there must be one.
    #[error("has a path that does not fit its scheme")]
    Path,
    /// A parameter that its scheme does not take, or a value that it does not; what it takes instead.
    #[error("has a parameter that is not taken; {0}")]
    Parameter(&'static str),
    /// A cluster and a database.
    #[error("selects a database, of which a cluster has only one: leave it out")]
    ClusterDatabase,
    /// An HTTP path with a space or control character.
    #[error("has a path with characters that must be percent-encoded")]
    PathCharacters,
}

impl Target {
    /// Reads a URL. PostgreSQL's queries and tracking are not in it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(url: &str) -> Result<Target, BadUrl> {
        let (scheme, rest) = url.split_once("://").ok_or(BadUrl::NoScheme)?;
        let (scheme, tls) = match scheme {
            "rediss" => ("redis", true),
            "https" => ("http", true),
            plain => (plain, false),
        };
        let (authority, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, ""),
        };
        let (login, place) = match authority.rsplit_once('@') {
            Some((login, place)) => {
                let (user, password) = login.split_once(':').unwrap_or((login, ""));
                (Some(Login { user: unescape(user)?, password: unescape(password)? }), place)
            }
            None => (None, authority),
        };
        // Parameters may follow the host at once.
        let (place, path) = match place.find('?') {
            Some(at) => (&place[..at], &rest[authority.len() - (place.len() - at)..]),
            None => (place, path),
        };
        let (host, port) = split_port(place)?;
        let (kind, usual_port) = match scheme {
            "redis" => {
                let (path, parameters) = split_parameters(path);
                let database = match path.trim_start_matches('/') {
                    "" => 0,
                    number => number.parse().map_err(|_| BadUrl::Database)?,
                };
                let mut cluster = false;
                for (name, value) in parameters {
                    cluster = match (name, value) {
                        ("cluster", "on") => true,
                        ("cluster", "off") => false,
                        _ => return Err(BadUrl::Parameter(REDIS_PARAMETERS)),
                    };
                }
                if cluster && database > 0 {
                    return Err(BadUrl::ClusterDatabase);
                }
                (Kind::Redis { database, track: Vec::new(), cluster }, 6379)
            }
            "memcached" if path.trim_start_matches('/').is_empty() => (Kind::Memcached, 11211),
            "memcached" => return Err(BadUrl::Path),
            "http" => {
                if path.bytes().any(|byte| byte <= b' ' || byte == 0x7f || byte == b'#') {
                    return Err(BadUrl::PathCharacters);
                }
                if path.starts_with('?') {
                    return Err(BadUrl::Path);
                }
                let mut path = path.to_owned();
                if !path.contains("{key}") {
                    if !path.ends_with('/') {
                        path.push('/');
                    }
                    path.push_str("{key}");
                }
                (Kind::Http { path }, if tls { 443 } else { 80 })
            }
            "postgres" | "postgresql" => {
                let (path, parameters) = split_parameters(path);
                let database = unescape(path.trim_start_matches('/'))?;
                if database.is_empty() || database.contains('\0') {
                    return Err(BadUrl::Path);
                }
                let mut queries = Queries { database, ..Queries::default() };
                for (name, value) in parameters {
                    let wrong = BadUrl::Parameter(POSTGRES_PARAMETERS);
                    match name {
                        "sslmode" => {
                            let mode = TlsMode::ALL.iter().find(|(word, _)| *word == value);
                            queries.tls = Some(mode.ok_or(wrong)?.1);
                        }
                        "sslrootcert" if !value.is_empty() => queries.authorities = Some(unescape(value)?),
                        _ => return Err(wrong),
                    }
                }
                (Kind::Postgres(queries), 5432)
            }
            _ => return Err(BadUrl::Scheme),
        };
        let tls = match &kind {
            Kind::Postgres(queries) => queries.tls_mode() != TlsMode::Disable,
            _ => tls,
        };
        Ok(Target { host, port: port.unwrap_or(usual_port), login, tls, kind })
    }

    /// Whether keys go to it without the prefix of their keyspace, where nothing else is said: so with paths and rows.
    pub fn drops_prefix(&self) -> bool {
        matches!(self.kind, Kind::Http { .. } | Kind::Postgres(_))
    }
}

const REDIS_PARAMETERS: &str = "redis:// takes cluster=on or off";
const POSTGRES_PARAMETERS: &str =
    "postgres:// takes sslmode=disable, prefer, require, verify-ca or verify-full, and sslrootcert=FILE";

/// What stands before a question mark, and names and values behind it.
fn split_parameters(path: &str) -> (&str, impl Iterator<Item = (&str, &str)>) {
    let (path, parameters) = path.split_once('?').unwrap_or((path, ""));
    let parameters = parameters.split('&').filter(|parameter| !parameter.is_empty());
    (path, parameters.map(|parameter| parameter.split_once('=').unwrap_or((parameter, ""))))
}

fn split_port(place: &str) -> Result<(String, Option<u16>), BadUrl> {
    let (host, port) = match place.strip_prefix('[') {
        Some(bracketed) => {
            let (host, rest) = bracketed.split_once(']').ok_or(BadUrl::Host)?;
            (host, rest.strip_prefix(':'))
        }
        None => match place.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        },
    };
    if host.is_empty() || host.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(BadUrl::Host);
    }
    let port = match port {
        Some(text) => match text.parse() {
            Ok(port) if port > 0 => Some(port),
            _ => return Err(BadUrl::Port),
        },
        None => None,
    };
    Ok((host.to_owned(), port))
}

fn unescape(text: &str) -> Result<String, BadUrl> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits =
            rest.get(..2).and_then(|digits| std::str::from_utf8(digits).ok()).ok_or(BadUrl::Escape)?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| BadUrl::Escape)?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).map_err(|_| BadUrl::Escape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_with_their_usual_ports() {
        for (url, shown) in [
            ("redis://h", "redis://h:6379"),
            ("redis://u:p%40ss@h:7/2", "redis://h:7/2"),
            ("redis://[::1]:7", "redis://[::1]:7"),
            ("memcached://h", "memcached://h:11211"),
            ("http://h", "http://h:80/{key}"),
            ("https://h/a", "https://h:443/a/{key}"),
            ("rediss://h", "rediss://h:6379"),
            ("redis://u:p@h?cluster=on", "redis://h:6379?cluster=on"),
            ("redis://h:7/?cluster=on", "redis://h:7?cluster=on"),
            ("redis://h:7/3?cluster=off", "redis://h:7/3"),
            ("postgres://h/db?sslmode=verify-full&sslrootcert=/etc/a%20b.crt", "postgres://h:5432/db"),
            ("http://h:8080/items", "http://h:8080/items/{key}"),
            ("http://h/i/{key}.json?v=1", "http://h:80/i/{key}.json?v=1"),
            ("postgresql://u@h/db", "postgres://h:5432/db"),
        ] {
            assert_eq!(Target::parse(url).map(|target| target.to_string()), Ok(shown.to_owned()), "{url}");
        }
        let queries = |url: &str| match Target::parse(url).map(|target| (target.tls, target.kind)) {
            Ok((tls, Kind::Postgres(queries))) => (tls, queries.tls_mode(), queries.authorities),
            other => panic!("{other:?}"),
        };
        assert_eq!(queries("postgres://h/d"), (true, TlsMode::Prefer, None));
        assert_eq!(queries("postgres://h/d?sslmode=disable"), (false, TlsMode::Disable, None));
        let root = Some("/a b".to_owned());
        for (said, mode) in [("", TlsMode::VerifyFull), ("&sslmode=require", TlsMode::VerifyCa)] {
            let url = format!("postgres://h/d?sslrootcert=/a%20b{said}");
            assert_eq!(queries(&url), (true, mode, root.clone()));
        }
        let login = Target::parse("redis://u:p%40ss@h").unwrap().login.unwrap();
        assert_eq!((login.user.as_str(), login.password.as_str()), ("u", "p@ss"));
    }

    #[test]
    fn what_is_wrong_with_a_url_is_said() {
        for (url, why) in [
            ("localhost:6379", BadUrl::NoScheme),
            ("ftp://h", BadUrl::Scheme),
            ("memcacheds://h", BadUrl::Scheme),
            ("redis://:6379", BadUrl::Host),
            ("redis://h:0", BadUrl::Port),
            ("redis://h:65536", BadUrl::Port),
            ("redis://h/x", BadUrl::Database),
            ("redis://%zz@h", BadUrl::Escape),
            ("redis://h?clutser=on", BadUrl::Parameter(REDIS_PARAMETERS)),
            ("redis://h?cluster", BadUrl::Parameter(REDIS_PARAMETERS)),
            ("redis://h/1?cluster=on", BadUrl::ClusterDatabase),
            ("postgres://h/d?sslmode=allow", BadUrl::Parameter(POSTGRES_PARAMETERS)),
            ("postgres://h/d?sslrootcert", BadUrl::Parameter(POSTGRES_PARAMETERS)),
            ("http://h?x=1", BadUrl::Path),
            ("memcached://h/x", BadUrl::Path),
            ("postgres://h", BadUrl::Path),
            ("http://h/a b", BadUrl::PathCharacters),
        ] {
            assert_eq!(Target::parse(url), Err(why), "{url}");
        }
    }

    #[test]
    fn a_password_is_shown_nowhere() {
        let target = Target::parse("redis://user:hidden@h").unwrap();
        assert!(!format!("{target} {target:?}").contains("hidden"));
    }
}
