//! Bounds of keys, values, replies, turns and lists.

use super::*;

/// Number 24: a turn is as long for who asks for long values as for others.
#[test]
fn long_replies_end_a_turn_before_its_commands_are_done() {
    for (sent, long) in [
        (words("GET a").repeat(100), true),
        (words(&format!("MGET{}", " a".repeat(100))), true),
        (words("STRLEN a").repeat(100), false),
    ] {
        let mut model = Model::new(CORES);
        let options = Options { output_soft_bytes: 64 << 20, ..Options::default() };
        let mut session = Session::new(Arc::new(options), Client::default());
        let value = "x".repeat(64 << 10);
        session.serve(now(), &node(false), &command(&[b"SET", b"a", value.as_bytes()]), &mut model);
        session.output().clear();
        let progress = session.serve(now(), &node(false), &sent, &mut model);
        let replies = session.output().len() / value.len();
        if long {
            assert_eq!((progress.next, replies), (Next::Yield, TURN_BYTES_MAX / value.len()));
        } else {
            assert_eq!(progress.consumed, sent.len());
        }
    }
}

#[test]
fn keys_have_a_length_limit() {
    let options = Options { key_bytes_max: 250, ..Options::default() };
    let key = "k".repeat(250);
    let sent = format!("SET {key} v\r\nGET {key}k\r\nGET \"\"\r\nMGET a {key}k\r\nGET {key}\r\n");
    let (reply, closed) = converse_with(options, sent.as_bytes());
    let error = "-ERR keys have at most 250 bytes\r\n";
    assert_eq!((reply, closed), (format!("+OK\r\n{error}$-1\r\n{error}$1\r\nv\r\n"), None));
}

#[test]
fn a_value_over_the_limit_is_refused_in_step_and_never_held() {
    let options = Options { value_bytes_max: 1000, ..Options::default() };
    let value = vec![b'v'; 100_000];
    let sent = [
        command(&[b"SET", b"a", b"1"]),
        command(&[b"SET", b"a", &value, b"EX", b"10"]),
        command(&[b"GET", b"a"]),
        command(&[b"SET", b"b", &value]),
        command(&[b"GET", b"b"]),
    ]
    .concat();
    for chunk in [1, 7, 4096, sent.len()] {
        let mut shell = Shell::new(CORES, false, options.clone(), 1);
        for part in sent.chunks(chunk) {
            shell.feed(part);
            assert!(shell.input.len() <= 1100 || chunk > 1100, "{} held", shell.input.len());
        }
        let error = "-ERR string exceeds maximum allowed size (proto-max-bulk-len)\r\n";
        assert_eq!(
            String::from_utf8(shell.output).unwrap(),
            format!("+OK\r\n{error}$1\r\n1\r\n{error}$-1\r\n")
        );
    }
}

#[test]
fn many_arguments_may_not_fill_the_query_buffer_beside_one_long_value() {
    let value = vec![b'v'; 20 * 1024 * 1024];
    let mut shell = Shell::new(CORES, false, Options::default(), 1);
    shell.feed(&command(&[b"MSET", b"a", &value, b"b", &value]));
    shell.feed(&command(&[b"SET", b"a", &value]));
    shell.feed(&command(&[b"STRLEN", b"a"]));
    assert_eq!(
        String::from_utf8(shell.output).unwrap(),
        "-ERR command exceeds the query buffer limit\r\n+OK\r\n:20971520\r\n"
    );
}

#[test]
fn a_long_value_is_waited_for_whole() {
    let mut shell = Shell::new(CORES, false, Options::default(), 1);
    let value = vec![b'v'; 1_000_000];
    let sent = command(&[b"SET", b"a", &value]);
    shell.feed(&sent[..100]);
    assert_eq!(shell.at_least, sent.len());
    let turns = shell.turns;
    sent[100..].chunks(1000).for_each(|part| shell.feed(part));
    assert_eq!((shell.turns, shell.output.as_slice()), (turns + 1, &b"+OK\r\n"[..]));
}

#[test]
fn a_client_that_does_not_read_is_not_served_on() {
    let options =
        Options { output_soft_bytes: 1000, protocol: crate::wire::Protocol::Resp, ..Options::default() };
    let mut session = Session::new(Arc::new(options), Client::default());
    let mut model = Model::new(CORES);
    let value = [b'v'; 100];
    let input = [command(&[b"SET", b"a", &value]), command(&[b"GET", b"a"]).repeat(1000)].concat();
    let first = session.serve(now(), &node(false), &input, &mut model);
    assert_eq!(first.next, Next::Blocked);
    assert!(first.consumed < 1000 && session.output().len() < 1200, "{first:?}");
    session.output().clear();
    let second = session.serve(now(), &node(false), &input[first.consumed..], &mut model);
    assert!(second.consumed > 0 && second.next == Next::Blocked);
}

#[test]
fn a_turn_ends_after_so_many_commands() {
    let mut session = Session::new(
        Arc::new(Options { protocol: crate::wire::Protocol::Resp, ..Options::default() }),
        Client::default(),
    );
    let mut model = Model::new(CORES);
    let input = words("GET a").repeat(300);
    let progress = session.serve(now(), &node(false), &input, &mut model);
    assert_eq!((progress.next, progress.consumed), (Next::Yield, words("GET a").len() * 256));
    assert_eq!((model.counters.commands_total, model.calls.len()), (256, 256));
}

#[test]
fn a_hundred_thousand_keys_stay_within_the_bounds() {
    let keys: Vec<String> = (0..100_000).map(|i| format!("key:{i}")).collect();
    let mut parts: Vec<&[u8]> = vec![b"MGET"];
    parts.extend(keys.iter().map(|key| key.as_bytes()));
    let mget = command(&parts);
    parts[0] = b"DEL";
    let del = command(&parts);
    for near in [CORES, 1] {
        let mut shell = Shell::new(near, false, Options::default(), 3);
        shell.feed(&[words("SET key:5 x"), mget.clone(), del.clone(), words("PING")].concat());
        shell.finish();
        let reply = String::from_utf8(shell.output).unwrap();
        let nulls = "$-1\r\n";
        let expected = format!(
            "+OK\r\n*100000\r\n{}$1\r\nx\r\n{}:1\r\n+PONG\r\n",
            nulls.repeat(5),
            nulls.repeat(99_994)
        );
        assert!(reply == expected, "{} bytes", reply.len());
        assert!(shell.model.most_sent <= crate::wire::order::AWAITED_MAX);
        assert!(shell.turns > 100);
    }
}

#[test]
fn subscriptions_and_words_are_bounded() {
    let channel = "c".repeat(1000);
    let mut parts: Vec<&[u8]> = vec![b"SUBSCRIBE"];
    parts.extend((0..1100).map(|_| channel.as_bytes()));
    let mut shell = Shell::new(CORES, false, Options::default(), 4);
    shell.feed(&[command(&parts), words("PING")].concat());
    assert_eq!(std::mem::take(&mut shell.output), b"-ERR too many subscriptions\r\n+PONG\r\n");
    let docs = ["COMMAND DOCS", &" get".repeat(2000)].concat();
    shell.feed(&words(&docs));
    assert_eq!(shell.output, b"-ERR too many arguments\r\n");
}
