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
fn a_stranger_who_never_reads_is_closed() {
    let options = Options { users: Arc::new(Users::with_password(Some("sekret"))), ..Options::default() };
    let client = Client::default();
    let options = Arc::new(Options { protocol: crate::wire::Protocol::Resp, ..options });
    let mut session = Session::new(options.clone(), client);
    let mut model = Model::new(CORES);
    let input = b"PING\r\n".repeat(100_000);
    let mut at = 0;
    let closed = loop {
        let progress = session.serve(now(), &node(false), &input[at..], &mut model);
        at += progress.consumed;
        match progress.next {
            Next::Yield => {}
            other => break other,
        }
    };
    assert_eq!(closed, Next::Close(Reason::Unauthenticated));
    assert!(session.output().len() <= options.unauthenticated_output_bytes_max + 100);
}
