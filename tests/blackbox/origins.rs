//! Real origins: Redis, Valkey, memcached, nginx and PostgreSQL, each started here on a free port.

use crate::origin_faults::tempfile;
use crate::support::{
    Server, ask, bulk, connect, eventually, expect, foreshadow, resp, run_to_end, serve_command,
};
use crate::tls::Papers;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A peer that ends with its owner, and its directory with it.
pub struct Peer {
    child: Child,
    pub port: u16,
    folder: PathBuf,
}

impl Peer {
    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(status.expect("kill is there").success());
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The program of this name: of the peers that are kept beside the project, or of the system. `None`, said loudly, where
/// there is none.
pub fn program(name: &str) -> Option<PathBuf> {
    let home = std::env::var("HOME").unwrap_or_default();
    let mut folders = vec![PathBuf::from(home).join(".cache/foreshadow-peers/bin")];
    folders.extend(["/usr/bin", "/usr/sbin", "/usr/local/bin"].map(PathBuf::from));
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().filter_map(Result::ok);
    folders.extend(versions.map(|version| version.path().join("bin")));
    let found = folders.iter().map(|folder| folder.join(name)).find(|path| path.exists());
    if found.is_none() {
        eprintln!("SKIPPED: there is no {name} on this machine; scripts/setup installs it");
    }
    found
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().unwrap().port()
}

pub fn folder(name: &str) -> PathBuf {
    let folder =
        std::env::temp_dir().join(format!("foreshadow-{name}-{}-{}", std::process::id(), free_port()));
    fs::create_dir_all(&folder).expect("a folder");
    folder
}

pub fn start(name: &str, mut command: Command, port: u16, folder: PathBuf) -> Peer {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let peer = Peer { child: command.spawn().expect("it starts"), port, folder };
    eventually(name, || TcpStream::connect(("127.0.0.1", port)).ok());
    peer
}

pub fn redis_like(name: &str) -> Option<Peer> {
    let (program, port, folder) = (program(name)?, free_port(), folder(name));
    let mut command = Command::new(program);
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"]).arg(&folder);
    Some(start(name, command, port, folder))
}

fn memcached() -> Option<Peer> {
    let (program, port) = (program("memcached")?, free_port());
    let mut command = Command::new(program);
    command.args(["-l", "127.0.0.1", "-p", &port.to_string(), "-U", "0", "-u", "root"]);
    Some(start("memcached", command, port, folder("memcached")))
}

pub fn serve(config: &str, flags: &[&str]) -> (Server, tempfile::Config) {
    let config = tempfile::Config::new(config);
    let mut command = serve_command(flags);
    command.args(["--config", config.path()]);
    (Server::of_command(command), config)
}

pub fn tell(stream: &mut TcpStream, words: &[&str], expected: impl AsRef<[u8]>) {
    ask(stream, resp(words), expected);
}

/// Asks until the answer is this one; no other but `before` may come meanwhile.
pub fn becomes(stream: &mut TcpStream, words: &[&str], before: &str, wanted: &str) {
    eventually(wanted, || {
        stream.write_all(&resp(words)).expect("sent");
        let mut reply = vec![0; before.len().min(wanted.len())];
        stream.read_exact(&mut reply).expect("answered");
        let (whole, done) = match wanted.as_bytes().starts_with(&reply) {
            true => (wanted, true),
            false => (before, false),
        };
        expect(stream, &whole.as_bytes()[reply.len()..]);
        assert!(whole.as_bytes().starts_with(&reply), "{}", String::from_utf8_lossy(&reply));
        done.then_some(())
    });
}

pub fn listens(server: &Server) {
    // The connection that listens has said once that anything may have changed.
    server.metric_becomes("foreshadow_origin_changes_total", |n| n >= 1.0);
}

#[test]
fn redis_is_read_through_written_through_and_tells_of_changes_behind_our_back() {
    for name in ["redis-server", "valkey-server"] {
        let Some(peer) = redis_like(name) else { continue };
        let mut origin = connect(([127, 0, 0, 1], peer.port).into());
        tell(&mut origin, &["SET", "a", "one"], "+OK\r\n");
        let (server, _config) = serve("", &[&format!("--origin=redis://127.0.0.1:{}", peer.port)]);
        listens(&server);
        let mut client = server.connect();
        tell(&mut client, &["GET", "a"], bulk("one"));
        tell(&mut client, &["GET", "none"], "$-1\r\n");
        tell(&mut client, &["MGET", "a", "none", "a"], "*3\r\n$3\r\none\r\n$-1\r\n$3\r\none\r\n");
        // A change at the origin, also of what was absent, is seen without waiting for freshness to end.
        tell(&mut origin, &["SET", "a", "two"], "+OK\r\n");
        tell(&mut origin, &["SET", "none", "now"], "+OK\r\n");
        becomes(&mut client, &["GET", "a"], &bulk("one"), &bulk("two"));
        becomes(&mut client, &["GET", "none"], "$-1\r\n", &bulk("now"));
        // Writes are at the origin before they are acknowledged, with their time to live.
        tell(&mut client, &["SET", "w", "value", "PX", "100000"], "+OK\r\n");
        tell(&mut origin, &["GET", "w"], bulk("value"));
        tell(&mut client, &["INCRBY", "n", "7"], ":7\r\n");
        tell(&mut origin, &["GET", "n"], bulk("7"));
        tell(&mut client, &["GET", "n"], bulk("7"));
        tell(&mut client, &["DEL", "w", "n", "missing"], ":2\r\n");
        tell(&mut origin, &["EXISTS", "w", "n"], ":0\r\n");
        tell(&mut client, &["SET", "nx", "1", "NX"], "+OK\r\n");
        tell(&mut client, &["SET", "nx", "2", "NX"], "$-1\r\n");
        // Another type is an error in the origin's own words, here as there.
        tell(&mut origin, &["LPUSH", "list", "x"], ":1\r\n");
        let wrong = "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n";
        tell(&mut client, &["GET", "list"], wrong);
        // What the origin lets expire is not kept longer here.
        tell(&mut origin, &["SET", "short", "x", "PX", "150"], "+OK\r\n");
        tell(&mut client, &["GET", "short"], bulk("x"));
        becomes(&mut client, &["GET", "short"], &bulk("x"), "$-1\r\n");
    }
}

#[test]
fn memcached_clients_and_redis_clients_share_a_memcached_origin() {
    let Some(peer) = memcached() else { return };
    let mut origin = connect(([127, 0, 0, 1], peer.port).into());
    ask(&mut origin, "set a 5 0 3\r\none\r\n", "STORED\r\n");
    let (server, _config) = serve("", &[&format!("--origin=memcached://127.0.0.1:{}", peer.port)]);
    let mut client = server.connect();
    ask(&mut client, "get a none\r\n", "VALUE a 5 3\r\none\r\nEND\r\n");
    ask(&mut client, "mg a v f\r\n", "VA 3 f5\r\none\r\n");
    ask(&mut client, "set b 9 0 3\r\ntwo\r\n", "STORED\r\n");
    ask(&mut origin, "get b\r\n", "VALUE b 9 3\r\ntwo\r\nEND\r\n");
    ask(&mut client, "add b 0 0 1\r\nx\r\n", "NOT_STORED\r\n");
    ask(&mut client, "delete b\r\n", "DELETED\r\n");
    ask(&mut origin, "get b\r\n", "END\r\n");
    ask(&mut client, "delete b\r\n", "NOT_FOUND\r\n");
    let mut other = server.connect();
    tell(&mut other, &["GET", "a"], bulk("one"));
    // The version is the origin's, so that what compares with it means the same in both places.
    let version = |stream: &mut TcpStream| {
        stream.write_all(b"mg a c\r\n").expect("sent");
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).expect("answered");
        line
    };
    let theirs = version(&mut origin);
    assert!(theirs.starts_with("HD c"));
    assert_eq!(version(&mut client), theirs);
}

#[test]
fn what_is_invalidated_is_asked_again_by_key_by_prefix_and_from_every_protocol() {
    let Some(peer) = redis_like("redis-server") else { return };
    let config = format!(
        "[origin.o]\nurl = \"redis://127.0.0.1:{}\"\ntrack = false\n[keyspace.k]\nprefix = \"\"\norigin = \"o\"\n",
        peer.port
    );
    let (server, _config) = serve(&config, &[]);
    let mut origin = connect(([127, 0, 0, 1], peer.port).into());
    let (mut client, mut memcached) = (server.connect(), server.connect());
    let keys: Vec<String> = (0..40).map(|i| format!("p:{i}")).chain(["q:1".to_owned()]).collect();
    let all = |value: &str, client: &mut TcpStream| {
        for key in &keys {
            tell(client, &["GET", key], bulk(value));
        }
    };
    let change = |value: &str, origin: &mut TcpStream| {
        for key in &keys {
            tell(origin, &["SET", key, value], "+OK\r\n");
        }
    };
    change("1", &mut origin);
    all("1", &mut client);
    change("2", &mut origin);
    // Nobody told us: the old value stays, for as long as it is fresh.
    all("1", &mut client);
    tell(&mut client, &["INVALIDATE", "KEY", "p:1", "q:1", "unknown"], ":2\r\n");
    tell(&mut client, &["GET", "p:1"], bulk("2"));
    tell(&mut client, &["GET", "p:2"], bulk("1"));
    ask(&mut memcached, "mn\r\n", "MN\r\n");
    ask(&mut memcached, "invalidate prefix p:\r\n", "OK\r\n");
    for key in &keys {
        tell(&mut client, &["GET", key], bulk("2"));
    }
    change("3", &mut origin);
    tell(&mut client, &["INVALIDATE", "PREFIX", ""], ":0\r\n");
    all("3", &mut client);
    tell(&mut client, &["INVALIDATE", "TAG", "none"], ":0\r\n");
    // The origin was not touched by any of it.
    tell(&mut origin, &["DBSIZE"], ":41\r\n");
}

#[test]
fn nginx_is_revalidated_by_its_etags_and_its_404_is_remembered() {
    let Some(program) = program("nginx") else { return };
    let (port, home) = (free_port(), folder("nginx"));
    fs::create_dir_all(home.join("files/a")).unwrap();
    fs::write(home.join("files/a/1"), "first").unwrap();
    fs::set_permissions(&home, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = home.to_str().unwrap().to_owned();
    let config = format!(
        "daemon off; master_process off; pid {path}/pid; error_log {path}/error.log; events {{}}\n\
         http {{ access_log {path}/access.log; client_body_temp_path {path}/t1; proxy_temp_path {path}/t2;\n\
         fastcgi_temp_path {path}/t3; uwsgi_temp_path {path}/t4; scgi_temp_path {path}/t5;\n\
         server {{ listen 127.0.0.1:{port}; root {path}/files; location /private/ {{ add_header Cache-Control no-store; }} }} }}"
    );
    fs::write(home.join("nginx.conf"), config).unwrap();
    fs::create_dir_all(home.join("files/private")).unwrap();
    fs::write(home.join("files/private/x"), "mine").unwrap();
    let mut command = Command::new(program);
    command.arg("-c").arg(home.join("nginx.conf")).arg("-p").arg(&home);
    let peer = start("nginx", command, port, home.clone());
    let config = format!(
        "[origin.web]\nurl = \"http://127.0.0.1:{}/\"\n[keyspace.web]\nprefix = \"web:\"\norigin = \"web\"\n\
         fresh = \"100ms\"\nstale-on-error = \"1m\"\nnegative = \"1m\"\n",
        peer.port
    );
    let (server, _config) = serve(&config, &[]);
    let mut client = server.connect();
    tell(&mut client, &["GET", "web:a/1"], bulk("first"));
    tell(&mut client, &["GET", "web:a/none"], "$-1\r\n");
    tell(&mut client, &["GET", "web:../etc/passwd"], "$-1\r\n");
    tell(&mut client, &["GET", "elsewhere"], "$-1\r\n");
    let lines = |what: &str| {
        let log = fs::read_to_string(home.join("access.log")).unwrap_or_default();
        log.lines().filter(|line| line.contains(what)).count()
    };
    // Out of date, unchanged: asked with the tag, answered 304.
    eventually("it is revalidated", || {
        tell(&mut client, &["GET", "web:a/1"], bulk("first"));
        (lines("/a/1 HTTP/1.1\" 304") > 0).then_some(())
    });
    assert_eq!(lines("/a/1 HTTP/1.1\" 200"), 1);
    fs::write(home.join("files/a/1"), "second!").unwrap();
    becomes(&mut client, &["GET", "web:a/1"], &bulk("first"), &bulk("second!"));
    // A 404 is known for a while; what must not be stored is fetched each time.
    for _ in 0..5 {
        tell(&mut client, &["GET", "web:a/none"], "$-1\r\n");
        tell(&mut client, &["GET", "web:private/x"], bulk("mine"));
    }
    // nginx writes its log behind the answer.
    eventually("all are in the log", || (lines("/private/x") >= 5).then_some(()));
    assert_eq!((lines("/a/none"), lines("/private/x")), (1, 5));
    assert_eq!(lines("passwd"), 0);
    // A keyspace that only caches takes writes without telling.
    tell(&mut client, &["SET", "web:local", "x"], "+OK\r\n");
    tell(&mut client, &["GET", "web:local"], bulk("x"));
    assert_eq!(lines("local"), 0);
    drop(peer);
    // Gone for good: what is held is served, what is not is a fault.
    tell(&mut client, &["GET", "web:a/1"], bulk("second!"));
}

/// PostgreSQL, and `psql`; with papers it speaks TLS, too.
pub fn postgres(papers: Option<&Papers>) -> Option<(Peer, PathBuf)> {
    let (initdb, server, psql) = (program("initdb")?, program("postgres")?, program("psql")?);
    let (port, home) = (free_port(), folder("postgres"));
    let data = home.join("data");
    // It refuses to run as root.
    let root = fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0);
    let as_user = |program: &Path| match root {
        true => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
            command
        }
        false => Command::new(program),
    };
    for file in ["server.crt", "server.key"] {
        if let Some(papers) = papers {
            fs::copy(papers.path(file), home.join(file)).expect("papers are there");
            let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            fs::set_permissions(home.join(file), private).unwrap();
        }
    }
    if root {
        let owned = Command::new("chown").args(["-R", "postgres"]).arg(&home).status();
        assert!(owned.expect("chown is there").success());
    }
    fs::set_permissions(&home, std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    let password = home.join("password");
    fs::write(&password, "sesame\n").unwrap();
    let mut command = as_user(&initdb);
    command.args(["-U", "cache", "-A", "scram-sha-256", "--pwfile"]).arg(&password).arg("-D").arg(&data);
    let made = command.stdin(Stdio::null()).output().expect("initdb runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut command = as_user(&server);
    command.arg("-D").arg(&data).args(["-p", &port.to_string(), "-h", "127.0.0.1", "-k", "", "-F"]);
    if papers.is_some() {
        let file = |name: &str| format!("ssl_{name}_file={}/server", home.to_str().expect("a plain path"));
        command.args(["-c", "ssl=on", "-c", &(file("cert") + ".crt"), "-c", &(file("key") + ".key")]);
    }
    Some((start("PostgreSQL", command, port, home), psql))
}

#[test]
fn postgresql_answers_queries_by_rows_and_versions_and_notifies_of_changes() {
    let Some((peer, psql)) = postgres(None) else { return };
    let sql = |text: &str| {
        let url = format!("postgres://cache:sesame@127.0.0.1:{}/postgres", peer.port);
        eventually("PostgreSQL takes queries", || {
            let done = Command::new(&psql).args([&url, "-qAtc", text]).output().expect("psql runs");
            done.status.success().then(|| String::from_utf8(done.stdout).unwrap())
        })
    };
    sql("create table items (id int primary key, body text, version bigint default 1)");
    sql("insert into items values (1, 'one', 5), (2, null, 6)");
    let config = format!(
        "[origin.db]\nurl = \"postgres://cache:sesame@127.0.0.1:{}/postgres\"\n\
         query = \"select body as value, version from items where id = $1::int\"\n\
         write-query = \"insert into items (id, body) values ($1::int, $2) on conflict (id) do update \
         set body = excluded.body, version = items.version + 1\"\n\
         remove-query = \"delete from items where id = $1::int\"\nlisten = \"changes\"\n\
         [keyspace.items]\nprefix = \"item:\"\norigin = \"db\"\n",
        peer.port
    );
    let (server, _config) = serve(&config, &[]);
    listens(&server);
    let mut client = server.connect();
    tell(&mut client, &["GET", "item:1"], bulk("one"));
    tell(&mut client, &["GET", "item:2"], "$-1\r\n");
    tell(&mut client, &["GET", "item:3"], "$-1\r\n");
    let mut memcached = server.connect();
    ask(&mut memcached, "mg item:1 v c\r\n", "VA 3 c5\r\none\r\n");
    tell(&mut client, &["SET", "item:7", "seven"], "+OK\r\n");
    assert_eq!(sql("select body from items where id = 7"), "seven\n");
    tell(&mut client, &["DEL", "item:7"], ":1\r\n");
    assert_eq!(sql("select count(*) from items where id = 7"), "0\n");
    client.write_all(&resp(&["GET", "item:x"])).unwrap();
    expect(&mut client, "-ERR the origin said: invalid input syntax for type integer: \"x\"\r\n");
    tell(&mut client, &["GET", "item:1"], bulk("one"));
    // A change behind our back is told by the database.
    sql("update items set body = 'changed', version = 9 where id = 1; notify changes, '1'");
    becomes(&mut client, &["GET", "item:1"], &bulk("one"), &bulk("changed"));
    // The key of another keyspace, or of none, is nobody's.
    tell(&mut client, &["GET", "other:1"], "$-1\r\n");
}

#[test]
fn keyspaces_explain_themselves_and_change_with_a_reload() {
    let Some(peer) = redis_like("redis-server") else { return };
    let text = |fresh: &str, more: &str| {
        format!(
            "[origin.o]\nurl = \"redis://127.0.0.1:{}\"\ntrack = false\n\
             [keyspace.users]\nprefix = \"user:\"\norigin = \"o\"\nfresh = \"{fresh}\"\n{more}",
            peer.port
        )
    };
    let (server, config) = serve(&text("1m", ""), &[]);
    let mut client = server.connect();
    tell(&mut client, &["GET", "user:1"], "$-1\r\n");
    tell(&mut client, &["SET", "user:1", "x"], "+OK\r\n");
    tell(&mut client, &["SET", "other:1", "local"], "+OK\r\n");
    server.metric_becomes("foreshadow_keyspace_written_total", |n| n == 1.0);
    let explained = |arguments: &[&str]| {
        let admin = server.admin.to_string();
        let mut command = foreshadow(&["keyspace", "--admin", &admin]);
        command.args(arguments);
        let output = run_to_end(command);
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).expect("text"))
    };
    let (code, page) = explained(&["users"]);
    assert_eq!(code, Some(0));
    for part in [
        "user:",
        "write                        through",
        "written                      1",
        "redis://127.0.0.1",
    ] {
        assert!(page.contains(part), "{part} is missing in {page}");
    }
    assert_eq!(explained(&["nobody"]).0, Some(78));
    let (_, object) = explained(&["--json"]);
    assert!(object.contains("\"fresh_millis\":60000"), "{object}");
    // A broken file changes nothing; a good one does, and what was filled by other rules is forgotten.
    fs::write(config.path(), text("1m", "stale = \"never\"\n")).unwrap();
    server.signal("HUP");
    eventually("the reload is refused", || server.logged().contains("not reloaded").then_some(()));
    fs::write(config.path(), text("2m", "[keyspace.more]\nprefix = \"other:\"\norigin = \"o\"\n")).unwrap();
    server.signal("HUP");
    eventually("the reload is done", || explained(&["more"]).1.contains("other:").then_some(()));
    assert!(explained(&["users"]).1.contains("120000"));
    tell(&mut client, &["GET", "user:1"], bulk("x"));
    // What was local stays until its key is written through, or forgotten.
    tell(&mut client, &["SET", "other:1", "everywhere"], "+OK\r\n");
    let mut origin = connect(([127, 0, 0, 1], peer.port).into());
    tell(&mut origin, &["GET", "other:1"], bulk("everywhere"));
}

#[test]
fn a_password_of_an_origin_is_told_nobody() {
    let Some(peer) = redis_like("redis-server") else { return };
    let (server, _config) = serve("", &[&format!("--origin=redis://u:hidden@127.0.0.1:{}", peer.port)]);
    let (status, page) = server.page("/v1/keyspaces");
    assert_eq!(status, 200);
    assert!(page.contains("redis://127.0.0.1") && !page.contains("hidden"), "{page}");
    // It is wrong as well: that is a fault of the origin, in words that do not say it.
    let mut client = server.connect();
    client.write_all(&resp(&["GET", "k"])).unwrap();
    let mut line = String::new();
    BufReader::new(&client).read_line(&mut line).expect("answered");
    assert!(line.starts_with("-ERR the origin"), "{line}");
    assert!(!server.logged().contains("hidden"));
}

/// A Redis that is spoken to by TLS only, and asks for a certificate of its clients.
fn redis_by_tls(papers: &Papers) -> Option<Peer> {
    let (program, port, folder) = (program("redis-server")?, free_port(), folder("redis-tls"));
    let mut command = Command::new(program);
    command.args([
        "--port",
        "0",
        "--tls-port",
        &port.to_string(),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--dir",
    ]);
    command.arg(&folder);
    for (flag, file) in [("cert", "server.crt"), ("key", "server.key"), ("ca-cert", "ca.crt")] {
        command.args([&format!("--tls-{flag}-file"), &papers.path(file)]);
    }
    Some(start("redis by TLS", command, port, folder))
}

#[test]
fn an_origin_by_tls_must_prove_who_it_is_and_sees_who_we_are() {
    let papers = Papers::new();
    papers.issue("us", "us");
    let Some(peer) = redis_by_tls(&papers) else { return };
    let config = |host: &str, ca: &str, own: bool| {
        let mut text = format!("[origin.r]\nurl = \"rediss://{host}:{}\"\nca = \"{ca}\"\n", peer.port);
        if own {
            let (certificate, key) = (papers.path("us.crt"), papers.path("us.key"));
            text.push_str(&format!("certificate = \"{certificate}\"\nkey = \"{key}\"\n"));
        }
        text + "[keyspace.k]\nprefix = \"\"\norigin = \"r\"\n"
    };
    let (server, _config) = serve(&config("localhost", &papers.path("ca.crt"), true), &[]);
    listens(&server);
    let mut client = server.connect();
    // Many records, and one reply in many.
    let long = "x".repeat(300_000);
    for i in 0..50 {
        tell(&mut client, &["SET", &format!("k{i}"), &i.to_string()], "+OK\r\n");
    }
    tell(&mut client, &["SET", "long", &long], "+OK\r\n");
    tell(&mut client, &["INVALIDATE", "PREFIX", ""], ":0\r\n");
    tell(&mut client, &["GET", "long"], bulk(&long));
    tell(&mut client, &["GET", "k7"], bulk("7"));
    tell(&mut client, &["HSET", "h", "f", "v"], ":1\r\n");
    // Another name than the certificate's, another authority, and no certificate of ours: an error, and no answer in the clear.
    let others = Papers::new();
    for (host, ca, own) in [
        ("127.0.0.1", papers.path("ca.crt"), true),
        ("localhost", others.path("ca.crt"), true),
        ("localhost", papers.path("ca.crt"), false),
    ] {
        let (server, _config) = serve(&config(host, &ca, own), &[]);
        let mut client = server.connect();
        client.write_all(&resp(&["GET", "k7"])).expect("sent");
        let mut reply = [0; 8];
        client.read_exact(&mut reply).expect("answered");
        // Whom it takes for a stranger it may tell so, or leave.
        assert!(&reply == b"-ERR TLS" || !own && &reply == b"-ERR the", "{host} {ca} {own}");
    }
}

#[test]
fn certificates_that_cannot_be_used_are_refused_with_their_place_and_78() {
    for (lines, why) in [
        ("url = \"rediss://h\"\ncertificate = \"a.crt\"", "a certificate and its key come together"),
        ("url = \"redis://h\"\nca = \"a.crt\"", "certificates are for TLS: rediss://"),
    ] {
        let text = format!("[origin.r]\n{lines}\n[keyspace.k]\nprefix = \"\"\norigin = \"r\"\n");
        let config = tempfile::Config::new(&text);
        let mut command = serve_command(&[]);
        command.args(["--config", config.path()]);
        let output = run_to_end(command);
        assert_eq!(output.status.code(), Some(78));
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains(why) && told.contains(":1:"), "{told}");
    }
}
