//! `MULTI`, `EXEC` and `WATCH`.

use super::*;

#[test]
fn a_transaction_is_queued_and_done() {
    check(&[
        ("EXEC", "-ERR EXEC without MULTI|"),
        ("DISCARD", "-ERR DISCARD without MULTI|"),
        ("MULTI", "+OK|"),
        ("MULTI", "-ERR MULTI calls can not be nested|"),
        ("SET {a}1 5", "+QUEUED|"),
        ("GET {a}1", "+QUEUED|"),
        ("INCR {a}1", "+QUEUED|"),
        ("MSET {a}2 x {a}3 y", "+QUEUED|"),
        ("MGET {a}1 {a}2 {a}3 {a}4", "+QUEUED|"),
        ("MSETNX {a}2 x {a}5 y", "+QUEUED|"),
        ("RENAME {a}2 {a}6", "+QUEUED|"),
        ("DEL {a}3 {a}4 {a}6", "+QUEUED|"),
        ("APPEND {a}1 x", "+QUEUED|"),
        ("INCR {a}1", "+QUEUED|"),
        ("PING", "+QUEUED|"),
        ("DBSIZE", "+QUEUED|"),
        (
            "EXEC",
            "*12|+OK|$1|5|:6|+OK|*4|$1|6|$1|x|$1|y|$-1|:0|+OK|:2|:2|-ERR value is not an integer or out of range|\
             +PONG|:1|",
        ),
        ("GET {a}1", "$2|6x|"),
        ("MULTI", "+OK|"),
        ("SET {a}1 z", "+QUEUED|"),
        ("DISCARD", "+OK|"),
        ("GET {a}1", "$2|6x|"),
        ("MULTI", "+OK|"),
        ("NOSUCH", "-ERR unknown command 'NOSUCH', with args beginning with: |"),
        ("SET {a}1 z", "+QUEUED|"),
        ("EXEC", "-EXECABORT Transaction discarded because of previous errors.|"),
        ("MULTI", "+OK|"),
        ("SUBSCRIBE c", "-ERR Command not allowed inside a transaction|"),
        ("EXEC", "-EXECABORT Transaction discarded because of previous errors.|"),
        ("MULTI", "+OK|"),
        ("EXEC", "*0|"),
        ("MULTI", "+OK|"),
        ("RESET", "+RESET|"),
        ("EXEC", "-ERR EXEC without MULTI|"),
        ("GET {a}1", "$2|6x|"),
    ]);
}

#[test]
fn what_is_said_of_caching_holds_for_all_of_a_transaction() {
    for near in [CORES, 0] {
        let mut shell = Shell::new(near, false, Options::default(), 9);
        check_on(
            &mut shell,
            &[
                ("CLIENT TRACKING ON OPTIN", "+OK|"),
                ("GET {o}1", "$-1|"),
                ("CLIENT CACHING YES", "+OK|"),
                ("CLIENT ID", ":3|"),
                ("MULTI", "+OK|"),
                ("GET {o}4", "+QUEUED|"),
                ("GET {o}5", "+QUEUED|"),
                ("EXEC", "*2|$-1|$-1|"),
                ("GET {o}6", "$-1|"),
            ],
        );
        let tracked: Vec<_> = std::mem::take(&mut shell.model.tracked);
        assert_eq!(tracked, [b"{o}4".to_vec(), b"{o}5".to_vec()]);
        // Keys that are watched are no transaction yet; who takes a lease is given the value as well.
        let dialogue = [
            ("WATCH {o}7", "+OK|"),
            ("CLIENT CACHING YES", "+OK|"),
            ("GET {o}8", "$-1|"),
            ("GET {o}9", "$-1|"),
            ("SET {o}a v", "+OK|"),
            ("CLIENT CACHING YES", "+OK|"),
            ("LEASEGET {o}a", "*3|$3|HIT|$-1|$1|v|"),
        ];
        check_on(&mut shell, &dialogue);
        assert_eq!(shell.model.tracked, [b"{o}8".to_vec(), b"{o}a".to_vec()]);
    }
}

#[test]
fn an_exec_that_is_refused_ends_the_transaction() {
    let denied = "-EXECABORT Transaction discarded because of: NOPERM User e has no permissions to run the 'exec' command|";
    check(&[
        ("ACL SETUSER e on nopass ~* +@all -exec", "+OK|"),
        ("AUTH e x", "+OK|"),
        ("MULTI", "+OK|"),
        ("SET a b", "+QUEUED|"),
        ("EXEC", denied),
        ("EXEC", denied),
        ("DISCARD", "-ERR DISCARD without MULTI|"),
        ("GET a", "$-1|"),
    ]);
    check(&[
        ("SUBSCRIBE a", "*3|$9|subscribe|$1|a|:1|"),
        (
            "EXEC",
            "-EXECABORT Transaction discarded because of: Can't execute 'exec': only (P¦S)SUBSCRIBE / (P¦S)UNSUBSCRIBE / \
             PING / QUIT / RESET are allowed in this context|",
        ),
    ]);
}

#[test]
fn keys_of_a_transaction_belong_to_one_core_and_in_a_cluster_to_one_slot() {
    for near in [CORES, 0] {
        let mut shell = Shell::new(near, false, Options::default(), 9);
        let (one, other) = keys_apart(&shell, 0);
        let (first, second) = (format!("SET {one} 1"), format!("SET {other} 1"));
        let cross = "-CROSSSLOT Keys in request don't hash to the same slot|";
        let dialogue = [("MULTI", "+OK|"), (&first, "+QUEUED|"), (&second, "+QUEUED|"), ("EXEC", cross)];
        check_on(&mut shell, &dialogue);
        let watch = format!("WATCH {other}");
        check_on(&mut shell, &[(&watch, "+OK|"), ("MULTI", "+OK|"), (&first, "+QUEUED|"), ("EXEC", cross)]);
        check_on(&mut shell, &[("EXISTS {one} {other}", ":0|"), ("EXEC", "-ERR EXEC without MULTI|")]);
        let mut shell = Shell::new(near, true, Options::default(), 9);
        let map = shell.node.map.clone();
        let owner = |i: i32| map.owner(slot_of(format!("k{i}").as_bytes()).shard());
        let i = (1..100).find(|i| owner(*i) == owner(0)).unwrap();
        let second = format!("SET k{i} 1");
        check_on(
            &mut shell,
            &[("MULTI", "+OK|"), ("SET k0 1", "+QUEUED|"), (&second, "+QUEUED|"), ("EXEC", cross)],
        );
    }
}

#[test]
fn a_watched_key_that_changed_keeps_the_transaction_from_happening() {
    for near in [CORES, 1, 0] {
        let mut shell = Shell::new(near, false, Options::default(), 9);
        check_on(&mut shell, &[("SET {a}1 x EX 100", "+OK|")]);
        for (change, happens) in [
            ("SET {a}1 x EX 100", false),
            ("GET {a}1", true),
            ("EXPIRE {a}1 50", false),
            ("DEL {a}1", false),
            ("SET {a}1 y", false),
            ("SET {a}2 y", false),
            ("SET {a}9 y", true),
        ] {
            check_on(&mut shell, &[("WATCH {a}1 {a}2", "+OK|")]);
            shell.feed(&words(change));
            shell.finish();
            shell.output.clear();
            let (exec, count) = if happens { ("*2|+OK|:1|", ":1|") } else { ("*-1|", ":0|") };
            check_on(
                &mut shell,
                &[
                    ("MULTI", "+OK|"),
                    ("SET {a}3 done", "+QUEUED|"),
                    ("EXISTS {a}3", "+QUEUED|"),
                    ("EXEC", exec),
                    ("DEL {a}3", count),
                    // What is watched is watched for one transaction.
                    ("MULTI", "+OK|"),
                    ("PING", "+QUEUED|"),
                    ("EXEC", "*1|+PONG|"),
                ],
            );
        }
        check_on(
            &mut shell,
            &[
                ("WATCH {a}1", "+OK|"),
                ("UNWATCH", "+OK|"),
                ("SET {a}1 z", "+OK|"),
                ("MULTI", "+OK|"),
                ("GET {a}1", "+QUEUED|"),
                ("WATCH {a}1", "-ERR WATCH inside MULTI is not allowed|"),
                ("EXEC", "*1|$1|z|"),
                ("WATCH {a}1", "+OK|"),
                ("MULTI", "+OK|"),
                ("FLUSHALL", "-ERR Command not allowed inside a transaction|"),
                ("DISCARD", "+OK|"),
            ],
        );
    }
}

#[test]
fn a_transaction_goes_to_its_core_in_one_turn_however_long_it_is() {
    let options = Options { commands_per_turn: 8, output_soft_bytes: 1024, ..Options::default() };
    for near in [CORES, 0] {
        let mut shell = Shell::new(near, false, options.clone(), 9);
        let queued: Vec<u8> = (0..500).flat_map(|i| words(&format!("SET {{a}}{i} {i}"))).collect();
        let mget = format!("MGET {}", (0..500).map(|i| format!("{{a}}{i}")).collect::<Vec<_>>().join(" "));
        shell.feed(&[words("MULTI"), queued, words(&mget)].concat());
        shell.finish();
        shell.output.clear();
        shell.model.most_sent = 0;
        shell.feed(&words("EXEC"));
        if near == 0 {
            assert_eq!(shell.model.most_sent, 1002, "all of it and its two guards, before anything else");
        }
        shell.finish();
        let reply = String::from_utf8(std::mem::take(&mut shell.output)).unwrap();
        assert!(reply.starts_with("*501\r\n+OK\r\n+OK"), "{}", &reply[..20]);
        assert!(reply.ends_with("$3\r\n499\r\n"));
    }
}
