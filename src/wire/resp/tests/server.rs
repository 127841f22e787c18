//! Commands about the server, its connections and its cores.

use super::*;

#[test]
fn connections_are_listed_and_killed() {
    let reply = |shell: &mut Shell, sent: &str| {
        shell.feed(&words(sent));
        shell.finish();
        shell.feed(b"");
        shell.finish();
        String::from_utf8(std::mem::take(&mut shell.output)).unwrap()
    };
    for near in [CORES, 0] {
        let mut shell = Shell::new(near, false, Options::default(), 4);
        let list = reply(&mut shell, "CLIENT LIST");
        assert!(list.contains("id=9 addr=9.9.9.9:9") && list.contains("id=3 addr=127.0.0.1:5000"), "{list}");
        assert_eq!(list.matches("id=3 ").count(), 1);
        let list = reply(&mut shell, "CLIENT LIST ID 3");
        assert!(
            !list.contains("id=9 ") && list.contains("id=3 ") && list.contains("cmd=client|list"),
            "{list}"
        );
        assert_eq!(reply(&mut shell, "CLIENT LIST TYPE pubsub"), "$0\r\n\r\n");
        assert_eq!(reply(&mut shell, "CLIENT UNBLOCK -1 TIMEOUT"), ":0\r\n");
        assert_eq!(reply(&mut shell, "CLIENT KILL 9.9.9.9:1"), "-ERR No such client\r\n");
        assert_eq!(reply(&mut shell, "CLIENT KILL ID 3"), ":0\r\n");
        assert_eq!(reply(&mut shell, "CLIENT KILL ID 77"), ":0\r\n");
        assert_eq!(reply(&mut shell, "CLIENT KILL 9.9.9.9:9"), "+OK\r\n");
        assert!(shell.closed.is_none());
        assert_eq!(reply(&mut shell, "CLIENT KILL ID 3 SKIPME no"), ":1\r\n");
        assert_eq!(shell.closed, Some(Reason::Quit));
    }
}

#[test]
fn info_tells_the_counters_of_all_cores() {
    for near in [CORES, 0] {
        let mut shell = Shell::new(near, false, Options::default(), 4);
        let mut info = |sent: &str| {
            shell.feed(&words("MSET a 1 b 2 c 3 d 4"));
            shell.feed(&words(sent));
            shell.finish();
            String::from_utf8(std::mem::take(&mut shell.output)).unwrap()
        };
        let text = info("INFO");
        for line in [
            "# Server\r\nredis_version:7.2.4\r\n",
            "foreshadow_version:0.1.0\r\n",
            "loading:0\r\n",
            "\r\n\r\n# Keyspace\r\ndb0:keys=4,expires=0,avg_ttl=0\r\n",
            "uptime_in_seconds:1000\r\n",
            "cluster_enabled:0\r\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(!text.contains("cmdstat_get"));
        let peak = format!("used_memory_peak:{USED_PEAK}\r\nused_memory_peak_human:9.00M\r\n");
        assert!(text.contains(&peak), "{text}");
        let stats = info("MEMORY STATS");
        assert!(stats.contains(&format!("$14\r\npeak.allocated\r\n:{USED_PEAK}\r\n")), "{stats}");
        let text = info("INFO all");
        assert!(text.contains("cmdstat_get:calls=15,usec=0"), "{text}");
        let text = info("INFO Replication CPU");
        assert!(
            text.contains("# Replication\r\nrole:master\r\n")
                && text.contains("# Cpu\r\nused_cpu_sys:0.000000\r\n"),
            "{text}"
        );
        assert!(info("INFO nothing").ends_with("$0\r\n\r\n"));
    }
}

#[test]
fn counters_tell_commands_and_errors() {
    let mut shell = Shell::new(1, false, Options::default(), 4);
    shell.feed(&[words("SET a x"), words("INCR a"), words("NOPE"), words("GET a")].concat());
    shell.finish();
    shell.feed(&words("PING"));
    assert_eq!((shell.model.counters.commands_total, shell.model.counters.errors_total), (4, 2));
    shell.feed(&words("CLIENT SETNAME me"));
    let place = |id: Id, sub: &str| commands::place(id.command(), sub) as u8;
    let called = [place(Id::Set, ""), place(Id::Incr, ""), place(Id::Get, ""), place(Id::Ping, "")];
    assert_eq!(shell.model.calls, [&called[..], &[place(Id::Client, "setname")]].concat());
}

#[test]
fn a_redirection_names_a_connection_that_is_there() {
    let missing = "-ERR The client ID you want redirect to does not exist|";
    for near in [CORES, 1, 0] {
        check_on(
            &mut Shell::new(near, false, Options::default(), 5),
            &[
                ("CLIENT TRACKING ON REDIRECT 77", missing),
                ("CLIENT GETREDIR", ":-1|"),
                ("CLIENT TRACKING ON REDIRECT x", "-ERR value is not an integer or out of range|"),
                (
                    "CLIENT TRACKING ON REDIRECT 9 REDIRECT 9",
                    "-ERR A client can only redirect to a single other client|",
                ),
                ("CLIENT TRACKING ON REDIRECT", "-ERR syntax error|"),
                ("CLIENT TRACKING ON REDIRECT 9 NOLOOP", "+OK|"),
                ("CLIENT GETREDIR", ":9|"),
                ("CLIENT TRACKINGINFO", "*6|$5|flags|*2|$2|on|$6|noloop|$8|redirect|:9|$8|prefixes|*0|"),
                ("GET a", "$-1|"),
                ("CLIENT TRACKING OFF", "+OK|"),
                ("CLIENT GETREDIR", ":-1|"),
            ],
        );
    }
}

#[test]
fn changes_of_others_keys_are_told_in_the_form_that_the_client_reads() {
    let source = Observer { core: CoreId(2), connection: ConnectionId { place: 1, generation: 1 } };
    let told = |sent: &[&str], notice: Notice| {
        let mut shell = Shell::new(CORES, false, Options::default(), 1);
        sent.iter().for_each(|sent| shell.feed(&words(sent)));
        shell.finish();
        shell.output.clear();
        let (now, node) = (shell.model.now, node(false));
        shell.session.notify(now, &node, notice, b"key");
        String::from_utf8(std::mem::take(shell.session.output())).unwrap()
    };
    let (one, all) = (Notice::Redirected(source), Notice::AllRedirected(source));
    assert_eq!(told(&[], one), "", "RESP2 has no form for it");
    let subscribed = ["SUBSCRIBE __redis__:invalidate"];
    let message = "*3|$7|message|$20|__redis__:invalidate|";
    assert_eq!(told(&subscribed, one), crlf(&[message, "*1|$3|key|"].concat()));
    assert_eq!(told(&subscribed, all), crlf(&[message, "$-1|"].concat()));
    assert_eq!(told(&["HELLO 3"], one), crlf(">2|$10|invalidate|*1|$3|key|"));
    assert_eq!(told(&["HELLO 3"], all), crlf(">2|$10|invalidate|_|"));
    // Who redirects to somebody that has gone is told, if he still redirects.
    let tracking = ["HELLO 3", "CLIENT TRACKING ON REDIRECT 9"];
    assert_eq!(told(&tracking, Notice::RedirectBroken), crlf(">2|$21|tracking-redir-broken|:9|"));
    assert_eq!(told(&tracking[1..], Notice::RedirectBroken), "");
    assert_eq!(told(&["HELLO 3"], Notice::RedirectBroken), "");
    let mut shell = Shell::new(CORES, false, Options::default(), 1);
    check_on(&mut shell, &[("CLIENT TRACKING ON REDIRECT 9", "+OK|")]);
    let at = node(false);
    shell.session.notify(shell.model.now, &at, Notice::RedirectBroken, b"");
    check_on(
        &mut shell,
        &[("CLIENT TRACKINGINFO", "*6|$5|flags|*2|$2|on|$15|broken_redirect|$8|redirect|:9|$8|prefixes|*0|")],
    );
}

#[test]
fn types_and_users_of_clients_are_told_apart() {
    let reply = |shell: &mut Shell, sent: &str| {
        shell.feed(&words(sent));
        shell.finish();
        shell.feed(b"");
        shell.finish();
        String::from_utf8(std::mem::take(&mut shell.output)).unwrap()
    };
    let mut shell = Shell::new(CORES, false, Options::default(), 4);
    reply(&mut shell, "HELLO 3");
    assert_eq!(reply(&mut shell, "CLIENT LIST TYPE pubsub"), "=4\r\ntxt:\r\n");
    reply(&mut shell, "SUBSCRIBE c");
    let list = reply(&mut shell, "CLIENT LIST TYPE pubsub");
    assert!(list.contains("id=3 ") && list.contains(" flags=P ") && !list.contains("id=9 "), "{list}");
    let list = reply(&mut shell, "CLIENT LIST TYPE normal");
    assert!(!list.contains("id=3 ") && list.contains("id=9 "), "{list}");
    assert_eq!(reply(&mut shell, "CLIENT KILL TYPE pubsub"), ":0\r\n", "it is the only one, and skipped");
    assert_eq!(reply(&mut shell, "CLIENT KILL USER nobody"), "-ERR No such user 'nobody'\r\n");
    reply(&mut shell, "ACL SETUSER alice on nopass");
    assert_eq!(reply(&mut shell, "CLIENT KILL USER alice"), ":0\r\n");
    assert_eq!(reply(&mut shell, "CLIENT KILL USER default SKIPME no TYPE pubsub"), ":1\r\n");
    assert_eq!(shell.closed, Some(Reason::Quit));
}

#[test]
fn errors_are_told_by_command_refused_before_it_began_or_failed() {
    let told = |near: u16, sent: &[&str], wanted: &[&str]| {
        let mut shell = Shell::new(near, false, Options::default(), 4);
        for line in sent {
            shell.feed(&words(line));
        }
        // What comes in when the client says nothing more is counted all the same.
        shell.finish();
        let before = shell.model.counters.errors_total;
        shell.output.clear();
        shell.feed(&words("INFO everything"));
        shell.finish();
        let text = String::from_utf8(std::mem::take(&mut shell.output)).unwrap();
        for line in wanted {
            let found = text.lines().any(|told| {
                let (name, fields) = line.split_once(' ').unwrap_or((line, ""));
                told.starts_with(name) && told.ends_with(fields)
            });
            assert!(found, "{near} near: {line} in {text}");
        }
        before
    };
    for near in [CORES, 1, 0] {
        let sent = [
            "SET {a}1 x",
            "INCR {a}1",
            "INCR {a}1",
            "INCR",
            "GET {a}1 {a}2",
            "NOPE",
            "CONFIG",
            "CONFIG NOPE",
            "CLIENT SETNAME",
            "CLIENT SETNAME a\u{e9}",
            "EXEC",
            "MULTI",
            "INCR {a}1",
            "SET {a}1",
            "EXEC",
            "MULTI",
            "INCR {a}1",
            "GET {a}1",
            "EXEC",
            "CLIENT REPLY OFF",
            "INCR {a}1",
            "CLIENT REPLY ON",
        ];
        let wanted = [
            "cmdstat_incr: rejected_calls=1,failed_calls=4",
            "cmdstat_get: rejected_calls=1,failed_calls=0",
            "cmdstat_set: rejected_calls=1,failed_calls=0",
            "cmdstat_config: rejected_calls=1,failed_calls=0",
            "cmdstat_client|setname: rejected_calls=1,failed_calls=1",
            "cmdstat_exec: rejected_calls=0,failed_calls=2",
            "errorstat_ERR:count=13",
            "errorstat_EXECABORT:count=1",
        ];
        assert_eq!(told(near, &sent, &wanted), 14, "{near} near");
    }
}

#[test]
fn settings_are_shown_by_pattern() {
    check(&[
        ("CONFIG GET max*ory", "*2|$9|maxmemory|$10|1073741824|"),
        ("CONFIG GET lis?en", "*2|$6|listen|$4|here|"),
        ("CONFIG GET SAVE appendonly", "*4|$10|appendonly|$2|no|$4|SAVE|$0||"),
        ("CONFIG GET [m]axclients", "*2|$10|maxclients|$5|10000|"),
        ("CONFIG GET max[^x]lient?", "*2|$10|maxclients|$5|10000|"),
        ("CONFIG GET MaxClients maxclients", "*2|$10|MaxClients|$5|10000|"),
        ("CONFIG GET requirepass", "*2|$11|requirepass|$0||"),
        ("CONFIG RESETSTAT", "+OK|"),
    ]);
}

#[test]
fn settings_are_set_all_or_none() {
    let failed = "-ERR CONFIG SET failed (possibly related to argument ";
    let least = "argument must be between 8388608 and 281474976710656 inclusive: a cache has a limit|";
    check(&[
        ("CONFIG SET maxclients 5000 maxmemory", "-ERR syntax error|"),
        ("CONFIG SET proto-max-bulk-len 512mb", "+OK|"),
        ("CONFIG SET proto-max-bulk-len 512MB appendonly NO", "+OK|"),
        (
            "CONFIG SET proto-max-bulk-len 511mb",
            &format!("{failed}'proto-max-bulk-len') - can't set immutable config|"),
        ),
        ("CONFIG SET maxclients 77 maxmemory 1mb", &format!("{failed}'maxmemory') - {least}")),
        ("CONFIG SET maxclients 77 maxmemory 9000000000gb", &format!("{failed}'maxmemory') - {least}")),
        (
            "CONFIG SET maxclients 77 requirepass x",
            &format!("{failed}'requirepass') - can't set immutable config|"),
        ),
    ]);
    // As many cores as need more than the flag's least.
    let options = Options { memory_bytes_min: 30 << 20, ..Options::default() };
    let mut shell = Shell::new(0, false, options, 9);
    shell.feed(&words("CONFIG SET maxclients 77 maxmemory 10mb"));
    shell.finish();
    let reply = String::from_utf8(std::mem::take(&mut shell.output)).unwrap();
    assert!(reply.contains("between 31457280 and"), "{reply}");
    assert_eq!(shell.model.most_sent, 0, "nothing was set on any core");
    // A password cannot be told, so nothing is said of it.
    let users = Arc::new(Users::with_password(Some("sekret")));
    let mut shell = Shell::new(0, false, Options { users, ..Options::default() }, 9);
    check_on(&mut shell, &[("AUTH sekret", "+OK|"), ("CONFIG GET requirepass", "*0|")]);
}

#[test]
fn subcommands_with_too_many_words_are_refused_in_redis_words() {
    let refused = |name: &str, of: &str| {
        format!("-ERR unknown subcommand or wrong number of arguments for '{name}'. Try {of} HELP.|")
    };
    check(&[
        ("SLOWLOG GET 1 2", &refused("GET", "SLOWLOG")),
        ("ACL cat connection x", &refused("cat", "ACL")),
        ("ACL GENPASS 1 2", &refused("GENPASS", "ACL")),
        ("ACL LOG 1 2", &refused("LOG", "ACL")),
        ("FUNCTION FLUSH ASYNC SYNC", &refused("FLUSH", "FUNCTION")),
        ("FUNCTION FLUSH x", "-ERR FUNCTION FLUSH only supports SYNC¦ASYNC option|"),
        ("FUNCTION LIST bogus", "-ERR Unknown argument bogus|"),
        ("FUNCTION LIST LIBRARYNAME", "-ERR library name argument was not given|"),
        ("FUNCTION LIST LIBRARYNAME a WITHCODE", "*0|"),
        ("FUNCTION LIST WITHCODE WITHCODE", "-ERR Unknown argument WITHCODE|"),
        ("CLIENT LIST ID 0", "-ERR client-id should be greater than 0|"),
        ("CLIENT LIST ID -1", "-ERR client-id should be greater than 0|"),
        ("CLIENT LIST ID x", "-ERR syntax error|"),
        ("CLIENT KILL MAXAGE -1", "-ERR maxage should be greater than 0|"),
        ("CLIENT KILL MAXAGE x", "-ERR maxage is not an integer or out of range|"),
        ("WAIT 0 9223372036854775807", "-ERR timeout is out of range|"),
        ("WAIT 0 9000000000000000000", ":0|"),
        ("SELECT 99999999999", "-ERR value is out of range, value must between -2147483648 and 2147483647|"),
        ("SELECT -1", "-ERR DB index is out of range|"),
        ("MOVE a 99999999999", "-ERR value is out of range, value must between -2147483648 and 2147483647|"),
        ("RESTORE a 0 b IDLETIME 5 FREQ 5", "-ERR syntax error|"),
        ("RESTORE a 0 b FREQ 5 IDLETIME 5", "-ERR syntax error|"),
        ("RESTORE a 0 b FREQ 5 FREQ 5", "-ERR DUMP payload version or checksum are wrong|"),
    ]);
}

#[test]
fn commands_describe_themselves() {
    let count = commands::COMMANDS.len();
    check(&[
        ("COMMAND COUNT", &format!(":{count}|")),
        (
            "COMMAND INFO get foo",
            "*2|*10|$3|get|:2|*2|+readonly|+fast|:1|:1|:1|*3|+@string|+@read|+@fast|*0|*1|*6|$5|flags|*1|+RO|$12|\
             begin_search|*4|$4|type|$5|index|$4|spec|*2|$5|index|:1|$9|find_keys|*4|$4|type|$5|range|$4|spec|*6|$7|\
             lastkey|:0|$7|keystep|:1|$5|limit|:0|*0|$-1|",
        ),
        ("COMMAND DOCS foo", "*0|"),
        (
            "COMMAND DOCS get",
            "*2|$3|get|*6|$7|summary|$25|Reads the value of a key.|$5|since|$5|1.0.0|$5|group|$6|string|",
        ),
        ("COMMAND GETKEYS mset a b c d", "*2|$1|a|$1|c|"),
        ("COMMAND GETKEYS object encoding k", "*1|$1|k|"),
        ("COMMAND LIST FILTERBY PATTERN getr*", "*1|$8|getrange|"),
        ("ACL LOG", "*0|"),
        ("ACL LOG RESET", "+OK|"),
        ("ACL LOG x", "-ERR value is not an integer or out of range|"),
        ("ACL LOG 1 2", "-ERR unknown subcommand or wrong number of arguments for 'LOG'. Try ACL HELP.|"),
        ("ACL WHOAMI", "$7|default|"),
        ("ACL LIST", "*1|$34|user default on nopass ~* &* +@all|"),
        ("TIME", "*2|$10|1700000000|$1|0|"),
        ("ROLE", "*3|$6|master|:0|*0|"),
        ("SLOWLOG GET", "*0|"),
        ("LATENCY RESET", ":0|"),
        ("FUNCTION FLUSH", "+OK|"),
        (
            "OBJECT HELP",
            "*11|+OBJECT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:|+ENCODING|+    How the value would be \
             held by Redis.|+FREQ|+    Not tracked.|+HELP|+    Prints this help.|+IDLETIME|+    Seconds since the last \
             use.|+REFCOUNT|+    Number of references: 1.|",
        ),
    ]);
}

#[test]
fn each_core_is_a_node_of_the_cluster() {
    let mut shell = Shell::new(0, true, Options::default(), 4);
    let mut reply = |sent: &str| {
        shell.feed(&words(sent));
        shell.finish();
        shell.feed(b"");
        shell.finish();
        String::from_utf8(std::mem::take(&mut shell.output)).unwrap()
    };
    let ids: Vec<String> =
        (0..3).map(|core| format!("0123456789abcdef0123456789abcdef0123000{core}")).collect();
    assert_eq!(reply("CLUSTER MYID"), format!("$40\r\n{}\r\n", ids[1]), "by the port it came to");
    let ranges = node(true).map.ranges();
    let slots = reply("CLUSTER SLOTS");
    assert!(slots.starts_with(&format!("*{}\r\n*3\r\n:0\r\n:", ranges.len())), "{slots}");
    for (i, id) in ids.iter().enumerate() {
        let entry = format!("*4\r\n$9\r\n127.0.0.1\r\n:{}\r\n$40\r\n{id}\r\n*0\r\n", 7401 + i);
        let owned = ranges.iter().filter(|range| range.owner == CoreId(i as u16)).count();
        assert_eq!(slots.matches(&entry).count(), owned);
    }
    let nodes = reply("CLUSTER NODES");
    assert_eq!(nodes.matches("myself,master").count(), 1);
    assert!(nodes.contains(&format!("{} 127.0.0.1:7402@17402 myself,master - 0 0 ", ids[1])), "{nodes}");
    assert!(reply("CLUSTER SHARDS").starts_with("*3\r\n*4\r\n$5\r\nslots\r\n*"));
    assert!(reply("CLUSTER INFO").contains("cluster_state:ok\r\ncluster_slots_assigned:16384\r\n"));
    assert!(reply("HELLO 3").contains("$4\r\nmode\r\n$7\r\ncluster\r\n"));
    assert_eq!(reply("READONLY"), "+OK\r\n");
    assert_eq!(reply("MSET foo 1 {foo}2 2 bar 3"), "+OK\r\n");
    assert_eq!(reply("CLUSTER COUNTKEYSINSLOT 12182"), ":2\r\n");
    assert_eq!(reply("CLUSTER COUNTKEYSINSLOT 99999"), "-ERR Invalid slot\r\n");
    assert_eq!(reply("CLUSTER GETKEYSINSLOT 12182 10"), "*2\r\n$3\r\nfoo\r\n$6\r\n{foo}2\r\n");
    assert_eq!(reply("CLUSTER GETKEYSINSLOT 12182 1"), "*1\r\n$3\r\nfoo\r\n");
    assert_eq!(reply("CLUSTER GETKEYSINSLOT 5 -1"), "-ERR Invalid slot or number of keys\r\n");
}
