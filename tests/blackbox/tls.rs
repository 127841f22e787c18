//! TLS: every protocol over it, certificates of both sides, and what goes wrong on the way.

use crate::support::{PATIENCE, Server, connect, eventually, resp, rest, run_to_end, serve_command};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

/// A folder with an authority and certificates that it signed.
pub struct Papers {
    folder: PathBuf,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Drop for Papers {
    fn drop(&mut self) {
        // The folder of temporary files is cleaned anyway.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Papers {
    pub fn new() -> Papers {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("foreshadow-papers-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        std::fs::write(folder.join("ca.crt"), authority.self_signed(&key).unwrap().pem()).unwrap();
        let papers = Papers { folder, issuer: rcgen::Issuer::new(authority, key) };
        papers.issue("server", "localhost");
        papers
    }

    /// Writes a certificate and its key for somebody of this name.
    pub fn issue(&self, file: &str, name: &str) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.folder.join(format!("{file}.crt")), certificate.pem()).unwrap();
        std::fs::write(self.folder.join(format!("{file}.key")), key.serialize_pem()).unwrap();
    }

    pub fn path(&self, file: &str) -> String {
        self.folder.join(file).to_str().expect("a plain path").to_owned()
    }

    /// Flags of a server with these papers.
    pub fn flags(&self) -> Vec<String> {
        let flags = ["--tls-listen=127.0.0.1:0", "--tls-cert-file", "--tls-key-file"];
        let [listen, certificate, key] = flags.map(str::to_owned);
        vec![listen, certificate, self.path("server.crt"), key, self.path("server.key")]
    }

    fn certificate(&self, file: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(self.path(file)).unwrap()
    }

    /// A client that trusts the authority and, with a name, shows a certificate.
    pub fn client(
        &self,
        own: Option<&str>,
        version: &'static rustls::SupportedProtocolVersion,
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate("ca.crt")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots);
        Arc::new(match own {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let key = PrivateKeyDer::from_pem_file(self.path(&format!("{file}.key"))).unwrap();
                let chain = vec![self.certificate(&format!("{file}.crt"))];
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        })
    }
}

pub type Stream = StreamOwned<ClientConnection, TcpStream>;

pub fn tls_address(server: &Server) -> SocketAddr {
    let field = server.ready_line.split_whitespace().find_map(|field| field.strip_prefix("tls="));
    field.expect("the ready line names it").parse().unwrap()
}

pub fn sealed(server: &Server, config: &Arc<ClientConfig>) -> Stream {
    let name = ServerName::try_from("localhost").unwrap();
    StreamOwned::new(ClientConnection::new(config.clone(), name).unwrap(), connect(tls_address(server)))
}

pub fn start(papers: &Papers, more: &[&str]) -> Server {
    let flags = papers.flags();
    Server::start(&[&flags.iter().map(String::as_str).collect::<Vec<_>>()[..], more].concat())
}

pub fn ask(stream: &mut impl ReadWrite, bytes: impl AsRef<[u8]>, expected: impl AsRef<[u8]>) {
    stream.write_all(bytes.as_ref()).expect("sent");
    let mut got = vec![0; expected.as_ref().len()];
    stream.read_exact(&mut got).expect("answered");
    assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(expected.as_ref()));
}

pub trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

#[test]
fn clients_of_every_protocol_are_served_over_tls() {
    let papers = Papers::new();
    let server = start(&papers, &["--listen=127.0.0.1:0"]);
    for (number, version) in [&rustls::version::TLS12, &rustls::version::TLS13].into_iter().enumerate() {
        let config = papers.client(None, version);
        let mut redis = sealed(&server, &config);
        ask(&mut redis, resp(&["SET", "k", "v"]), "+OK\r\n");
        let mut memcached = sealed(&server, &config);
        ask(&mut memcached, "get k\r\n", "VALUE k 0 1\r\nv\r\nEND\r\n");
        assert_eq!(redis.conn.protocol_version(), Some(version.version));
        // A plain client sees the same items.
        let mut plain = server.connect();
        ask(&mut plain, resp(&["GET", "k"]), "$1\r\nv\r\n");
        // A value of many records, there and back, and many commands in one piece.
        let long: String = (0..500_000).map(|number| format!("{number:07}")).collect();
        ask(&mut redis, resp(&["SET", "long", &long]), "+OK\r\n");
        let expected = format!("$3500000\r\n{long}\r\n+PONG\r\n");
        ask(&mut redis, [resp(&["GET", "long"]), resp(&["PING"])].concat(), expected);
        ask(&mut redis, resp(&["PING"]).repeat(10_000), "+PONG\r\n".repeat(10_000));
        // Who says goodbye is told goodbye; an end without it would be an error here.
        ask(&mut redis, resp(&["QUIT"]), "+OK\r\n");
        assert_eq!(redis.read(&mut [0; 1]).expect("a farewell"), 0);
        memcached.conn.send_close_notify();
        memcached.flush().unwrap();
        assert_eq!(memcached.read(&mut [0; 1]).expect("a farewell"), 0);
        server.metric_becomes("foreshadow_tls_handshakes_total", |n| n == 2.0 * (number + 1) as f64);
    }
    assert_eq!(server.metric("foreshadow_tls_failures_total"), 0.0);
}

#[test]
fn what_was_asked_before_a_farewell_is_answered() {
    let papers = Papers::new();
    let server = start(&papers, &[]);
    let mut stream = sealed(&server, &papers.client(None, &rustls::version::TLS13));
    stream.write_all(&resp(&["PING"]).repeat(100)).unwrap();
    stream.conn.send_close_notify();
    stream.flush().unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).expect("a farewell behind the answers");
    assert_eq!(answers, "+PONG\r\n".repeat(100));
    server.metric_becomes("foreshadow_connections", |n| n == 0.0);
}

/// Number 18, the reverse.
#[test]
fn what_is_no_tls_on_a_tls_port_is_closed() {
    let papers = Papers::new();
    let server = start(&papers, &[]);
    for bytes in [&b"*1\r\n$4\r\nPING\r\n"[..], b"GET / HTTP/1.1\r\n\r\n", b"get a\r\n"] {
        let mut stream = connect(tls_address(&server));
        stream.write_all(bytes).unwrap();
        let answer = rest(&mut stream);
        assert!(answer.is_empty() || answer[0] == 21, "an alert at most: {answer:?}");
    }
    server.metric_becomes("foreshadow_tls_failures_total", |n| n == 3.0);
    server.metric_becomes("foreshadow_connections", |n| n == 0.0);
    ask(&mut sealed(&server, &papers.client(None, &rustls::version::TLS13)), "PING\r\n", "+PONG\r\n");
}

#[test]
fn a_handshake_that_does_not_come_to_an_end_is_given_up() {
    let papers = Papers::new();
    let server = start(&papers, &["--command-timeout=1s"]);
    let mut silent = connect(tls_address(&server));
    let mut slow = connect(tls_address(&server));
    slow.write_all(&[22, 3, 1, 0]).unwrap();
    // One whose handshake is done may stay silent, but not stop in a record.
    let config = papers.client(None, &rustls::version::TLS13);
    let mut patient = sealed(&server, &config);
    ask(&mut patient, "PING\r\n", "+PONG\r\n");
    let mut midway = sealed(&server, &config);
    ask(&mut midway, "PING\r\n", "+PONG\r\n");
    midway.sock.write_all(&[23, 3, 3, 0, 99]).unwrap();
    let began = Instant::now();
    assert!(rest(&mut silent).is_empty() && rest(&mut slow).is_empty());
    assert!(midway.read(&mut [0; 1]).is_err(), "cut off");
    assert!(began.elapsed() < PATIENCE);
    ask(&mut patient, "PING\r\n", "+PONG\r\n");
}

#[test]
fn a_certificate_is_demanded_where_authorities_are_given() {
    let papers = Papers::new();
    papers.issue("alice", "alice");
    let ca = papers.path("ca.crt");
    let version = &rustls::version::TLS13;
    let demanding = start(&papers, &["--tls-ca-cert-file", &ca]);
    ask(&mut sealed(&demanding, &papers.client(Some("alice"), version)), "PING\r\n", "+PONG\r\n");
    let refused = |server: &Server, config: Arc<ClientConfig>| {
        let mut stream = sealed(server, &config);
        // By TLS 1.3 a client is done before the server has looked, so the refusal comes with the answer.
        let error =
            stream.write_all(b"PING\r\n").and_then(|()| stream.read_exact(&mut [0; 7])).expect_err("refused");
        assert!(
            matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::ConnectionReset),
            "{error:?}"
        );
    };
    refused(&demanding, papers.client(None, version));
    let strangers = Papers::new();
    strangers.issue("alice", "alice");
    let stranger = |own| {
        // It trusts our server, and shows a certificate of another authority.
        std::fs::copy(papers.path("ca.crt"), strangers.path("ca.crt")).unwrap();
        strangers.client(own, version)
    };
    refused(&demanding, stranger(Some("alice")));
    assert_eq!(demanding.metric_becomes("foreshadow_tls_failures_total", |n| n == 2.0), 2.0);
    let asking = start(&papers, &["--tls-ca-cert-file", &ca, "--tls-auth-clients", "optional"]);
    ask(&mut sealed(&asking, &papers.client(None, version)), "PING\r\n", "+PONG\r\n");
    ask(&mut sealed(&asking, &papers.client(Some("alice"), version)), "PING\r\n", "+PONG\r\n");
    refused(&asking, stranger(Some("alice")));
}

#[test]
fn certificates_are_read_again_without_dropping_a_connection() {
    let papers = Papers::new();
    let server = start(&papers, &[]);
    let config = papers.client(None, &rustls::version::TLS13);
    let shown = |stream: &Stream| stream.conn.peer_certificates().unwrap()[0].clone().into_owned();
    let mut before = sealed(&server, &config);
    ask(&mut before, "PING\r\n", "+PONG\r\n");
    let first = papers.certificate("server.crt");
    assert_eq!(shown(&before), first);
    papers.issue("server", "localhost");
    let second = papers.certificate("server.crt");
    server.signal("HUP");
    eventually("reloaded", || server.logged().contains("reloaded").then_some(()));
    let mut after = sealed(&server, &papers.client(None, &rustls::version::TLS13));
    ask(&mut after, "PING\r\n", "+PONG\r\n");
    assert_eq!(shown(&after), second);
    ask(&mut before, "PING\r\n", "+PONG\r\n");
    // One that came with a ticket of before is let in all the same, by a whole handshake.
    let mut again = sealed(&server, &config);
    ask(&mut again, "PING\r\n", "+PONG\r\n");
    assert_eq!(shown(&again), second);
    // What is broken changes nothing.
    std::fs::write(papers.path("server.crt"), "no certificate").unwrap();
    server.signal("HUP");
    eventually("refused", || server.logged().contains("was not reloaded").then_some(()));
    let mut later = sealed(&server, &papers.client(None, &rustls::version::TLS13));
    ask(&mut later, "PING\r\n", "+PONG\r\n");
    assert_eq!(shown(&later), second);
    for stream in [&mut before, &mut after, &mut again] {
        ask(stream, "PING\r\n", "+PONG\r\n");
    }
}

#[test]
fn files_that_make_no_tls_are_refused_before_a_socket_is_opened() {
    let papers = Papers::new();
    papers.issue("other", "localhost");
    let cases = [
        ("--tls-cert-file", papers.path("none.crt"), "none.crt: cannot be read: No such file"),
        ("--tls-cert-file", papers.path("server.key"), "server.key: holds no certificate in PEM form"),
        ("--tls-key-file", papers.path("other.key"), "do not work together"),
        ("--tls-ca-cert-file", papers.path("server.key"), "server.key: holds no certificate"),
    ];
    for (flag, file, words) in cases {
        let mut flags = papers.flags();
        match flags.iter().position(|given| given == flag) {
            Some(place) => flags[place + 1] = file,
            None => flags.extend([flag.to_owned(), file]),
        }
        let output = run_to_end(serve_command(&flags.iter().map(String::as_str).collect::<Vec<_>>()));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{said}");
        assert!(said.contains(words) && said.contains("remedy:") && output.stdout.is_empty(), "{said}");
    }
}

#[test]
fn draining_says_farewell_over_tls() {
    let papers = Papers::new();
    let mut server = start(&papers, &[]);
    let mut stream = sealed(&server, &papers.client(None, &rustls::version::TLS12));
    ask(&mut stream, "PING\r\n", "+PONG\r\n");
    server.signal("TERM");
    assert_eq!(stream.read(&mut [0; 1]).expect("a farewell"), 0);
    assert_eq!(server.wait().code(), Some(0));
}
