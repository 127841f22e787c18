//! Who has to say a password, and what is done before.

use super::*;

#[test]
fn refused_hello_and_repeated_auth_change_nothing() {
    let options = Options { users: Arc::new(Users::with_password(Some("sekret"))), ..Options::default() };
    let mut shell = Shell::new(CORES, false, options, 1);
    check_on(
        &mut shell,
        &[
            ("AUTH sekret", "+OK|"),
            ("HELLO 4", "-NOPROTO unsupported protocol version|"),
            ("GET nothing", "$-1|"),
            ("AUTH sekret", "+OK|"),
            ("AUTH wrong", "-WRONGPASS invalid username-password pair or user is disabled.|"),
            ("HELLO 4 SETNAME x", "-NOPROTO unsupported protocol version|"),
            ("CLIENT GETNAME", "$-1|"),
            ("SET k v", "+OK|"),
        ],
    );
}

#[test]
fn without_the_password_nothing_is_done() {
    let options = Options { users: Arc::new(Users::with_password(Some("sekret"))), ..Options::default() };
    let noauth = "-NOAUTH Authentication required.|";
    let wrong = "-WRONGPASS invalid username-password pair or user is disabled.|";
    let mut shell = Shell::new(CORES, false, options.clone(), 1);
    check_on(
        &mut shell,
        &[
            ("GET a", noauth),
            ("FOO", noauth),
            ("GET", noauth),
            ("PING", noauth),
            ("HELLO 4", "-NOPROTO unsupported protocol version|"),
            (
                "HELLO 3",
                "-NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH \
                 <user> <pass> option can be used to authenticate the client and select the RESP protocol version at \
                 the same time|",
            ),
            ("AUTH", "-ERR wrong number of arguments for 'auth' command|"),
            ("AUTH x", wrong),
            ("AUTH sekre", wrong),
            ("AUTH sekretx", wrong),
            ("AUTH other sekret", wrong),
            ("HELLO 3 AUTH default x", wrong),
            ("GET a", noauth),
            ("AUTH sekret", "+OK|"),
            ("AUTH x", wrong),
            ("GET a", "$-1|"),
            ("RESET", "+RESET|"),
            ("GET a", noauth),
            ("QUIT", "+OK|"),
        ],
    );
    assert_eq!(shell.closed, Some(Reason::Quit));
    for (bytes, text) in [
        (&b"*11\r\n"[..], "unauthenticated multibulk length"),
        (b"*2\r\n$16385\r\n", "unauthenticated bulk length"),
    ] {
        let (reply, closed) = converse_with(options.clone(), bytes);
        assert_eq!((reply, closed), (format!("-ERR Protocol error: {text}\r\n"), Some(Reason::Protocol)));
    }
}

#[test]
fn where_strangers_come_the_default_user_keeps_its_password() {
    let users = Arc::new(Users::with_password(Some("sekret")));
    let told = "-ERR protected mode: other machines reach this server, and anybody there could come in. Start it with \
                --protected-mode no, where something else keeps strangers out|";
    for (guarded, expected) in [(true, told), (false, "+OK|")] {
        let options = Options { users: users.clone(), guarded, ..Options::default() };
        check_on(
            &mut Shell::new(CORES, false, options, 1),
            &[
                ("AUTH sekret", "+OK|"),
                ("ACL SETUSER default nopass", expected),
                ("ACL SETUSER alice on nopass", "+OK|"),
                ("ACL SETUSER default off nopass", "+OK|"),
            ],
        );
    }
}

#[test]
fn what_was_refused_is_remembered_and_told() {
    let mut shell = Shell::new(CORES, false, Options::default(), 1);
    let noperm = "-NOPERM No permissions to access a key|";
    check_on(
        &mut shell,
        &[
            ("ACL SETUSER alice on >secret ~app:* &news +@all -config -mget", "+OK|"),
            ("AUTH alice wrong", "-WRONGPASS invalid username-password pair or user is disabled.|"),
            ("HELLO 3 AUTH nobody x", "-WRONGPASS invalid username-password pair or user is disabled.|"),
            ("AUTH alice secret", "+OK|"),
            ("GET other", noperm),
            ("GET other", noperm),
            ("CONFIG GET x", "-NOPERM User alice has no permissions to run the 'config¦get' command|"),
            ("SUBSCRIBE news other", "-NOPERM No permissions to access a channel|"),
            ("MULTI", "+OK|"),
            ("MGET app:1", "-NOPERM User alice has no permissions to run the 'mget' command|"),
            ("EXEC", "-EXECABORT Transaction discarded because of previous errors.|"),
        ],
    );
    shell.model.now.wall.0 += 1500;
    let ask = |shell: &mut Shell, sent: &str| {
        shell.feed(&words(sent));
        shell.finish();
        String::from_utf8(std::mem::take(&mut shell.output)).unwrap()
    };
    let log = ask(&mut shell, "ACL LOG");
    assert!(log.starts_with("*6\r\n*20\r\n$5\r\ncount\r\n:1\r\n"), "{log}");
    let facts = |reason: &str, context: &str, object: &str, user: &str| {
        let mut text = Vec::new();
        for (name, word) in [("reason", reason), ("context", context), ("object", object), ("username", user)]
        {
            reply::bulk(&mut text, name.as_bytes());
            reply::bulk(&mut text, word.as_bytes());
        }
        String::from_utf8(text).unwrap() + "$11\r\nage-seconds\r\n$3\r\n1.5\r\n$11\r\nclient-info\r\n"
    };
    let mut rest = &log[..];
    // The last one first.
    for (count, facts) in [
        (1, facts("command", "multi", "mget", "alice")),
        (1, facts("channel", "toplevel", "other", "alice")),
        (1, facts("command", "toplevel", "config|get", "alice")),
        (2, facts("key", "toplevel", "other", "alice")),
        (1, facts("auth", "toplevel", "HELLO", "nobody")),
        (1, facts("auth", "toplevel", "AUTH", "alice")),
    ] {
        let wanted = format!(":{count}\r\n{facts}");
        let at = rest.find(&wanted).unwrap_or_else(|| panic!("{wanted} in {rest}"));
        rest = &rest[at + wanted.len()..];
    }
    assert!(log.contains(" cmd=get user=alice ") && log.contains(" cmd=hello user=default "), "{log}");
    assert!(log.contains("$8\r\nentry-id\r\n:0\r\n$17\r\ntimestamp-created\r\n:1700000000000\r\n"), "{log}");
    assert!(ask(&mut shell, "ACL LOG 2").starts_with("*2\r\n"));
    assert_eq!(ask(&mut shell, "ACL LOG -5"), "*0\r\n");
    assert_eq!(ask(&mut shell, "ACL LOG RESET"), "+OK\r\n");
    assert_eq!(ask(&mut shell, "ACL LOG"), "*0\r\n");
    ask(&mut shell, "HELLO 3");
    ask(&mut shell, "GET other");
    let log = ask(&mut shell, "ACL LOG");
    assert!(log.starts_with("*1\r\n%10\r\n") && log.contains("age-seconds\r\n,0\r\n"), "{log}");
}

#[test]
fn selectors_are_given_in_pieces_and_shown_whole() {
    let mut shell = Shell::new(CORES, false, Options::default(), 1);
    let list = "user alice on nopass ~a resetchannels -@all +get (~b resetchannels -@all +set)";
    check_on(
        &mut shell,
        &[
            ("ACL SETUSER alice on nopass ~a +get (~b +set)", "+OK|"),
            ("ACL LIST", &format!("*2|${}|{list}|$34|user default on nopass ~* &* +@all|", list.len())),
            (
                "ACL GETUSER alice",
                "*12|$5|flags|*2|$2|on|$6|nopass|$9|passwords|*0|$8|commands|$10|-@all +get|$4|keys|$2|~a|$8|channels|$0||$9|\
                 selectors|*1|*6|$8|commands|$10|-@all +set|$4|keys|$2|~b|$8|channels|$0||",
            ),
            ("ACL DRYRUN alice get a", "+OK|"),
            ("ACL DRYRUN alice set b x", "+OK|"),
            ("ACL DRYRUN alice set a x", "$51|User alice has no permissions to access the 'a' key|"),
            ("ACL SETUSER alice (~c +del", "-ERR Unmatched parenthesis in acl selector starting at '(~c'.|"),
            ("ACL SETUSER alice (~c on)", "-ERR Error in ACL SETUSER modifier '(~c on)': Syntax error|"),
            ("ACL SETUSER alice clearselectors", "+OK|"),
            ("ACL DRYRUN alice set b x", "$54|User alice has no permissions to run the 'set' command|"),
        ],
    );
}

#[test]
fn a_stranger_who_never_reads_is_closed() {
    let options = Options { users: Arc::new(Users::with_password(Some("sekret"))), ..Options::default() };
    let options = Arc::new(Options { protocol: crate::wire::Protocol::Resp, ..options });
    let mut model = Model::new(CORES);
    // What it may say before, too.
    for line in ["PING", "GET a", "HELLO 4", "HELLO", "AUTH x", "AUTH", "RESET", "*1\r\n$5\r\nHELLO"] {
        let mut session = Session::new(options.clone(), Client::default());
        let input = format!("{line}\r\n").repeat(100_000);
        let mut at = 0;
        let closed = loop {
            let progress = session.serve(now(), &node(false), &input.as_bytes()[at..], &mut model);
            at += progress.consumed;
            match progress.next {
                Next::Yield => {}
                other => break other,
            }
        };
        assert_eq!(closed, Next::Close(Reason::Unauthenticated), "{line}");
        assert!(session.output().len() <= options.unauthenticated_output_bytes_max + 400, "{line}");
    }
}
