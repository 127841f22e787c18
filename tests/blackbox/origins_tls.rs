//! PostgreSQL by TLS, with as much proof of who it is as the URL demands.

use crate::origin_faults::tempfile;
use crate::origins::{Peer, becomes, listens, postgres, serve, tell};
use crate::support::{Server, bulk, eventually, resp};
use crate::tls::Papers;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::Command;

struct Database {
    peer: Peer,
    psql: PathBuf,
}

impl Database {
    fn start(papers: Option<&Papers>) -> Option<Database> {
        let (peer, psql) = postgres(papers)?;
        let database = Database { peer, psql };
        database.sql("create table items (id text primary key, body text)");
        database.sql("insert into items values ('1', 'one')");
        Some(database)
    }

    fn sql(&self, text: &str) -> String {
        let url = format!("postgres://cache:sesame@127.0.0.1:{}/postgres", self.peer.port);
        eventually("PostgreSQL takes queries", || {
            let done = Command::new(&self.psql).args([&url, "-qAtc", text]).output().expect("psql runs");
            done.status.success().then(|| String::from_utf8(done.stdout).unwrap())
        })
    }

    /// Connections of ours, those by TLS and those in the clear.
    fn ours(&self) -> (u32, u32) {
        let counts = self.sql(
            "select count(*) filter (where ssl), count(*) filter (where not ssl) from pg_stat_ssl \
             join pg_stat_activity using (pid) where application_name = 'foreshadow'",
        );
        let (sealed, clear) = counts.trim().split_once('|').expect("two numbers");
        (sealed.parse().unwrap(), clear.parse().unwrap())
    }

    /// A server with this database behind it.
    fn behind(&self, host: &str, parameters: &str, more: &str) -> (Server, tempfile::Config) {
        let text = format!(
            "[origin.db]\nurl = \"postgres://cache:sesame@{host}:{}/postgres{parameters}\"\n{more}\
             query = \"select body as value from items where id = $1\"\nlisten = \"changes\"\n\
             [keyspace.items]\nprefix = \"item:\"\norigin = \"db\"\n",
            self.peer.port
        );
        serve(&text, &[])
    }
}

#[test]
fn postgresql_by_tls_is_read_and_listened_to_and_nothing_of_it_goes_in_the_clear() {
    let papers = Papers::new();
    let Some(database) = Database::start(Some(&papers)) else { return };
    let root = papers.path("ca.crt");
    let full = format!("?sslmode=verify-full&sslrootcert={root}");
    let (server, _config) = database.behind("localhost", &full, "");
    listens(&server);
    let mut client = server.connect();
    tell(&mut client, &["GET", "item:1"], bulk("one"));
    let long = "x".repeat(300_000);
    database.sql("insert into items values ('long', repeat('x', 300000))");
    tell(&mut client, &["GET", "item:long"], bulk(&long));
    database.sql("update items set body = 'two' where id = '1'; notify changes, '1'");
    becomes(&mut client, &["GET", "item:1"], &bulk("one"), &bulk("two"));
    let (sealed, clear) = database.ours();
    assert!(sealed >= 2 && clear == 0, "{sealed} by TLS, {clear} in the clear");
}

#[test]
fn each_mode_of_tls_demands_what_it_says_and_no_more() {
    let (papers, others) = (Papers::new(), Papers::new());
    let Some(database) = Database::start(Some(&papers)) else { return };
    let (root, other) = (papers.path("ca.crt"), others.path("ca.crt"));
    for (host, parameters, more, by_tls) in [
        ("127.0.0.1", String::new(), String::new(), true),
        ("127.0.0.1", "?sslmode=prefer".into(), String::new(), true),
        ("127.0.0.1", "?sslmode=disable".into(), String::new(), false),
        ("127.0.0.1", "?sslmode=require".into(), String::new(), true),
        ("127.0.0.1", format!("?sslmode=verify-ca&sslrootcert={root}"), String::new(), true),
        ("localhost", String::new(), format!("ca = \"{root}\"\n"), true),
    ] {
        let (server, _config) = database.behind(host, &parameters, &more);
        let mut client = server.connect();
        tell(&mut client, &["GET", "item:1"], bulk("one"));
        let (sealed, clear) = database.ours();
        assert_eq!((sealed > 0, clear > 0), (by_tls, !by_tls), "{host} {parameters} {more}");
        drop(server);
        eventually("they leave", || (database.ours() == (0, 0)).then_some(()));
    }
    let name = "the host in the URL must be one that the origin's certificate names";
    let authority = "no authority that we trust signed it";
    for (host, mode, root, why) in [
        ("127.0.0.1", "verify-full", &root, name),
        ("localhost", "verify-full", &other, authority),
        ("127.0.0.1", "verify-ca", &other, authority),
        // As PostgreSQL's own clients have it: with authorities at hand they are asked.
        ("127.0.0.1", "require", &other, authority),
    ] {
        let (server, _config) = database.behind(host, &format!("?sslmode={mode}&sslrootcert={root}"), "");
        refused(&server, why);
    }
    assert_eq!(database.ours(), (0, 0), "nobody logged in without the proof");
}

#[test]
fn a_postgresql_without_tls_is_spoken_to_in_the_clear_only_where_that_is_allowed() {
    let Some(database) = Database::start(None) else { return };
    for parameters in ["", "?sslmode=prefer", "?sslmode=disable"] {
        let (server, _config) = database.behind("127.0.0.1", parameters, "");
        tell(&mut server.connect(), &["GET", "item:1"], bulk("one"));
    }
    for mode in ["require", "verify-ca", "verify-full"] {
        let (server, _config) = database.behind("127.0.0.1", &format!("?sslmode={mode}"), "");
        refused(&server, "the origin has no TLS: turn `ssl` on there");
    }
}

/// A read ends in an error that says what failed, and the log says why.
fn refused(server: &Server, why: &str) {
    let mut client = server.connect();
    let said = "-ERR TLS with the origin did not come about; the log says why\r\n";
    // A machine that is busy may not come so far within the deadline of one question.
    eventually(said, || {
        client.write_all(&resp(&["GET", "item:1"])).expect("sent");
        let mut line = String::new();
        BufReader::new(&client).read_line(&mut line).expect("answered");
        assert!(line.starts_with("-ERR "), "{line}");
        (line == said).then_some(())
    });
    eventually(why, || server.logged().contains(why).then_some(()));
    assert!(!server.logged().contains("sesame"));
}
