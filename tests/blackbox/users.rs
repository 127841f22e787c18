//! Users: who comes in, what each may do, and that a change holds on every core at once.

use crate::support::{Server, ask, bulk, connect, eventually, expect, resp, rest, serve_command};
use crate::tls::{Papers, sealed, start};
use std::io::{Read, Write};

const WRONG: &str = "-WRONGPASS invalid username-password pair or user is disabled.\r\n";
const ALICE: &str = "alice on >secret ~app:* %R~ro:* +@read +set -mget +config|get +@transaction +client";

#[test]
fn users_of_the_configuration_may_do_what_their_rules_say() {
    let server = Server::start(&["--user", ALICE, "--user", "default off"]);
    let mut client = server.connect();
    ask(&mut client, resp(&["GET", "app:1"]), "-NOAUTH Authentication required.\r\n");
    ask(&mut client, resp(&["AUTH", "alice", "wrong"]), WRONG);
    ask(&mut client, resp(&["AUTH", "nobody", "secret"]), WRONG);
    ask(&mut client, resp(&["AUTH", "alice", "secret"]), "+OK\r\n");
    for (words, answer) in [
        (&["SET", "app:1", "x"][..], "+OK\r\n"),
        (&["GET", "app:1"], "$1\r\nx\r\n"),
        (&["GET", "ro:1"], "$-1\r\n"),
        (&["SET", "ro:1", "x"], "-NOPERM No permissions to access a key\r\n"),
        (&["GET", "other"], "-NOPERM No permissions to access a key\r\n"),
        (&["DEL", "app:1"], "-NOPERM User alice has no permissions to run the 'del' command\r\n"),
        (&["MGET", "app:1"], "-NOPERM User alice has no permissions to run the 'mget' command\r\n"),
        (
            &["CONFIG", "SET", "maxmemory", "1gb"],
            "-NOPERM User alice has no permissions to run the 'config|set' command\r\n",
        ),
        (&["ACL", "WHOAMI"], "-NOPERM User alice has no permissions to run the 'acl|whoami' command\r\n"),
        (&["SUBSCRIBE", "c"], "-NOPERM User alice has no permissions to run the 'subscribe' command\r\n"),
        (&["MULTI"], "+OK\r\n"),
        (&["DEL", "app:1"], "-NOPERM User alice has no permissions to run the 'del' command\r\n"),
        (&["EXEC"], "-EXECABORT Transaction discarded because of previous errors.\r\n"),
        // A refused sign-in changes nothing.
        (&["AUTH", "alice", "wrong"], WRONG),
        (&["GET", "app:1"], "$1\r\nx\r\n"),
        (&["RESET"], "+RESET\r\n"),
        (&["GET", "app:1"], "-NOAUTH Authentication required.\r\n"),
        (&["HELLO", "2", "AUTH", "alice", "wrong"], WRONG),
    ] {
        ask(&mut client, resp(words), answer);
    }
    // Nothing is looked at one by one by memcached clients, so a user who may not do everything stays outside.
    let mut memcached = server.connect();
    ask(&mut memcached, "set a 0 0 12\r\nalice secret\r\n", "CLIENT_ERROR authentication failure\r\n");
    ask(&mut memcached, "get app:1\r\n", "CLIENT_ERROR unauthenticated\r\n");
}

#[test]
fn memcached_clients_sign_in_as_the_same_users() {
    let server = Server::start(&["--user", "bob on >secret ~* &* +@all", "--user", "default off"]);
    let mut memcached = server.connect();
    ask(&mut memcached, "get a\r\n", "CLIENT_ERROR unauthenticated\r\n");
    ask(&mut memcached, "set a 0 0 9\r\nbob wrong\r\n", "CLIENT_ERROR authentication failure\r\n");
    ask(&mut memcached, "set a 0 0 10\r\nbob secret\r\n", "STORED\r\n");
    ask(&mut memcached, "set k 0 0 1\r\nv\r\nget k\r\n", "STORED\r\nVALUE k 0 1\r\nv\r\nEND\r\n");
    let mut redis = server.connect();
    ask(&mut redis, resp(&["AUTH", "bob", "secret"]), "+OK\r\n");
    ask(&mut redis, resp(&["GET", "k"]), bulk("v"));
}

#[test]
fn a_change_of_a_user_holds_on_every_core_at_once() {
    let server = Server::start(&[]);
    let mut admin = server.connect();
    let hash = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
    ask(
        &mut admin,
        resp(&["ACL", "SETUSER", "alice", "on", ">secret", "~app:*", "+get", "+ping"]),
        "+OK\r\n",
    );
    let mut clients: Vec<_> = (0..8).map(|_| server.connect()).collect();
    for client in &mut clients {
        ask(client, resp(&["AUTH", "alice", "secret"]), "+OK\r\n");
        ask(
            client,
            resp(&["SET", "app:1", "x"]),
            "-NOPERM User alice has no permissions to run the 'set' command\r\n",
        );
    }
    let list = [
        format!("user alice on #{hash} ~app:* resetchannels -@all +get +ping"),
        "user default on nopass ~* &* +@all".to_owned(),
    ];
    ask(&mut admin, resp(&["ACL", "LIST"]), format!("*2\r\n{}{}", bulk(&list[0]), bulk(&list[1])));
    ask(&mut admin, resp(&["ACL", "USERS"]), "*2\r\n$5\r\nalice\r\n$7\r\ndefault\r\n");
    ask(&mut admin, resp(&["ACL", "WHOAMI"]), "$7\r\ndefault\r\n");
    ask(&mut admin, resp(&["ACL", "SETUSER", "alice", "+set"]), "+OK\r\n");
    for client in &mut clients {
        ask(client, resp(&["SET", "app:1", "x"]), "+OK\r\n");
    }
    // Rules that are wrong change nothing.
    ask(
        &mut admin,
        resp(&["ACL", "SETUSER", "alice", "-set", "foo"]),
        "-ERR Error in ACL SETUSER modifier 'foo': Syntax error\r\n",
    );
    ask(&mut clients[3], resp(&["SET", "app:1", "x"]), "+OK\r\n");
    ask(&mut admin, resp(&["ACL", "DRYRUN", "alice", "get", "app:1"]), "+OK\r\n");
    ask(
        &mut admin,
        resp(&["ACL", "DRYRUN", "alice", "get", "other"]),
        bulk("User alice has no permissions to access the 'other' key"),
    );
    ask(&mut admin, resp(&["ACL", "DELUSER", "default"]), "-ERR The 'default' user cannot be removed\r\n");
    ask(&mut admin, resp(&["ACL", "DELUSER", "alice", "nobody", "alice"]), ":1\r\n");
    for client in &mut clients {
        assert!(rest(client).is_empty(), "who is no more is closed, on every core");
    }
    ask(&mut server.connect(), resp(&["AUTH", "alice", "secret"]), WRONG);
    // The default user's password is asked for from now on, by every protocol; who was in stays in.
    ask(&mut admin, resp(&["ACL", "SETUSER", "default", ">sesame"]), "+OK\r\n");
    ask(&mut admin, "PING\r\n", "+PONG\r\n");
    for _ in 0..4 {
        ask(&mut server.connect(), "PING\r\n", "-NOAUTH Authentication required.\r\n");
        ask(&mut server.connect(), "get a\r\n", "CLIENT_ERROR unauthenticated\r\n");
        let mut client = server.connect();
        ask(&mut client, resp(&["AUTH", "sesame"]), "+OK\r\n");
        ask(&mut client, "PING\r\n", "+PONG\r\n");
    }
}

#[test]
fn one_who_removes_himself_is_told_and_closed() {
    let server = Server::start(&["--user", "eve on nopass ~* &* +@all"]);
    let mut eve = server.connect();
    ask(&mut eve, resp(&["AUTH", "eve", "anything"]), "+OK\r\n");
    ask(&mut eve, resp(&["ACL", "DELUSER", "eve"]), ":1\r\n");
    assert!(rest(&mut eve).is_empty());
}

#[test]
fn a_certificate_says_who_its_holder_is() {
    let papers = Papers::new();
    papers.issue("alice", "alice");
    papers.issue("stranger", "stranger");
    let ca = papers.path("ca.crt");
    let flags = [
        "--tls-ca-cert-file",
        &ca,
        "--tls-auth-clients-user",
        "cn",
        "--user",
        ALICE,
        "--user",
        "default off",
    ];
    let server = start(&papers, &flags);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut alice = sealed(&server, &papers.client(Some("alice"), version));
        crate::tls::ask(&mut alice, resp(&["SET", "app:1", "x"]), "+OK\r\n");
        crate::tls::ask(&mut alice, resp(&["GET", "other"]), "-NOPERM No permissions to access a key\r\n");
        // A good certificate of somebody who is no user opens nothing.
        let mut stranger = sealed(&server, &papers.client(Some("stranger"), version));
        crate::tls::ask(&mut stranger, resp(&["GET", "app:1"]), "-NOAUTH Authentication required.\r\n");
    }
}

/// Users are known by every listener, those of one protocol among them.
#[test]
fn listeners_of_one_protocol_know_the_users_too() {
    let command = serve_command(&[
        "--listen=",
        "--resp-listen",
        "127.0.0.1:0",
        "--user",
        "default off",
        "--user",
        ALICE,
    ]);
    let server = Server::of_command(command);
    let mut client = connect(server.listen);
    ask(&mut client, resp(&["GET", "app:1"]), "-NOAUTH Authentication required.\r\n");
    ask(&mut client, resp(&["AUTH", "alice", "secret"]), "+OK\r\n");
    ask(&mut client, resp(&["CLIENT", "GETNAME"]), "$-1\r\n");
    expect(&mut client, "");
}

/// Number 20: guesses are answered as wrong ones are, and only some of them are looked at.
#[test]
fn a_guesser_of_passwords_learns_nothing_and_keeps_nobody_else_out() {
    const GUESSES: usize = 2000;
    let command = serve_command(&[
        "--cores",
        "0",
        "--user",
        "default on >sesame",
        "--user",
        "bob on >secret ~* &* +@all",
    ]);
    let server = Server::of_command(command);
    let mut inside = server.connect();
    ask(&mut inside, resp(&["AUTH", "sesame"]), "+OK\r\n");
    let mut guesser = server.connect();
    for _ in 0..GUESSES / 100 {
        ask(&mut guesser, resp(&["AUTH", "wrong"]).repeat(100), WRONG.repeat(100));
    }
    let refused = server.metric_becomes("foreshadow_logins_refused_total", |refused| refused > 0.0);
    assert!(refused <= (GUESSES - 100) as f64, "a hundred are looked at in any case: {refused}");
    assert_eq!(server.logged().matches("too many wrong passwords").count(), 1, "{}", server.logged());
    // Who is in stays in, and whom nobody guesses at comes in.
    ask(&mut inside, "PING\r\n", "+PONG\r\n");
    ask(&mut server.connect(), resp(&["AUTH", "bob", "secret"]), "+OK\r\n");
    // Some time after the last guess the right password is looked at again, whoever sends it.
    eventually("the guesser is forgiven", || {
        let mut client = server.connect();
        client.write_all(&resp(&["AUTH", "sesame"])).unwrap();
        let mut reply = [0; 5];
        client.read_exact(&mut reply).unwrap();
        (reply == *b"+OK\r\n").then_some(())
    });
}

#[test]
fn users_are_read_again_on_sighup_and_others_stay() {
    let file = std::env::temp_dir().join(format!("foreshadow-users-{}.toml", std::process::id()));
    let write = |users: &str| std::fs::write(&file, format!("[network]\nuser = [{users}]\n")).unwrap();
    write("\"alice on >secret ~* +@all\", \"bob on >secret ~* +@all\"");
    let server = Server::start(&["--config", file.to_str().unwrap()]);
    let mut admin = server.connect();
    ask(&mut admin, resp(&["ACL", "SETUSER", "carol", "on", ">made", "~*", "+@all"]), "+OK\r\n");
    ask(&mut admin, resp(&["ACL", "SETUSER", "alice", "-set"]), "+OK\r\n");
    let mut bob = server.connect();
    ask(&mut bob, resp(&["AUTH", "bob", "secret"]), "+OK\r\n");
    write("\"alice on >secret ~* +@all\", \"dave on >new ~* +@all\"");
    server.signal("HUP");
    assert!(rest(&mut bob).is_empty(), "who is no more is closed");
    for _ in 0..4 {
        ask(&mut server.connect(), resp(&["AUTH", "dave", "new"]), "+OK\r\n");
        ask(&mut server.connect(), resp(&["AUTH", "carol", "made"]), "+OK\r\n");
        let mut alice = server.connect();
        ask(&mut alice, resp(&["AUTH", "alice", "secret"]), "+OK\r\n");
        // The configuration says of her what it said before.
        ask(
            &mut alice,
            resp(&["SET", "a", "x"]),
            "-NOPERM User alice has no permissions to run the 'set' command\r\n",
        );
    }
    // A broken one changes nothing.
    write("\"alice on >secret ~* +@nonsense\"");
    server.signal("HUP");
    eventually("the log says why", || server.logged().contains("was not reloaded").then_some(()));
    ask(&mut server.connect(), resp(&["AUTH", "dave", "new"]), "+OK\r\n");
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn passwords_are_drawn_at_random() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let drawn: Vec<String> = (0..2)
        .map(|_| {
            client.write_all(&resp(&["ACL", "GENPASS"])).unwrap();
            let mut reply = [0; 5 + 64 + 2];
            client.read_exact(&mut reply).unwrap();
            String::from_utf8(reply.to_vec()).unwrap()
        })
        .collect();
    assert!(drawn[0] != drawn[1] && drawn[0].starts_with("$64\r\n"), "{drawn:?}");
    assert!(drawn[0][5..69].bytes().all(|byte| byte.is_ascii_hexdigit()));
    client.write_all(&resp(&["ACL", "GENPASS", "5"])).unwrap();
    let mut reply = [0; 8];
    client.read_exact(&mut reply).unwrap();
    assert!(reply.starts_with(b"$2\r\n"));
}
