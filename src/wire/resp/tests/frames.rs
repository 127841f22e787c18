//! Frames and inline commands, and replies in the protocol version spoken.

use super::*;

#[test]
fn empty_frames_mean_nothing_and_inline_commands_may_be_quoted() {
    let (reply, closed) = converse(b"*-1\r\n*0\r\n*-5\r\n\r\n\n  \r\nPING\n PING\r\nPING\rfoo\n");
    assert_eq!((reply.as_str(), closed), ("+PONG\r\n+PONG\r\n$3\r\nfoo\r\n", None));
    let (reply, _) =
        converse(b"ECHO \"\\x41\\n\\r\\t\\b\\a\\\\q\"\r\nECHO 'a\\'b\\n'\r\nECHO \"\"\r\nECHO \"\\xzz\"\r\n");
    let expected = "$8\r\nA\n\r\t\x08\x07\\q\r\n$5\r\na'b\\n\r\n$0\r\n\r\n$3\r\nxzz\r\n";
    assert_eq!(reply, expected);
    let (reply, _) = converse(b"*1\r\n$0\r\n\r\nPING\r\n");
    assert_eq!(reply, "-ERR unknown command '', with args beginning with: \r\n+PONG\r\n");
}

#[test]
fn any_bytes_are_safe_in_keys_and_values() {
    let key: Vec<u8> = (0..=255).collect();
    for (key, value) in [(&b"\0\x01k"[..], &b"\0v\r\n"[..]), (b"\r\n", b"$3\r\nabc\r\n"), (&key, &key)] {
        let sent = [command(&[b"SET", key, value]), command(&[b"GET", key])].concat();
        let mut shell = Shell::new(CORES, false, Options::default(), 1);
        shell.feed(&sent);
        let expected = [format!("+OK\r\n${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat();
        assert_eq!((&shell.output, shell.closed), (&expected, None));
    }
}

#[test]
fn hello_speaks_resp3_from_its_own_reply_on() {
    let hello3 = "%7|$6|server|$5|redis|$7|version|$5|7.2.4|$5|proto|:3|$2|id|:3|$4|mode|$10|standalone|$4|role|$6|\
                  master|$7|modules|*0|";
    let hello2 = hello3.replace("%7", "*14").replace(":3|$2|id", ":2|$2|id");
    check(&[
        ("HELLO", &hello2),
        ("GET nokey", "$-1|"),
        ("HELLO 3 SETNAME me", hello3),
        ("GET nokey", "_|"),
        ("MGET nokey", "*1|_|"),
        ("CLIENT GETNAME", "$2|me|"),
        ("CONFIG GET save", "%1|$4|save|$0||"),
        ("CONFIG GET nothing", "%0|"),
        ("SUBSCRIBE a", ">3|$9|subscribe|$1|a|:1|"),
        ("GET nokey", "_|"),
        ("PING", "+PONG|"),
        ("UNSUBSCRIBE", ">3|$11|unsubscribe|$1|a|:0|"),
        ("UNSUBSCRIBE", ">3|$11|unsubscribe|_|:0|"),
        ("CLIENT TRACKINGINFO", "%3|$5|flags|~1|$3|off|$8|redirect|:-1|$8|prefixes|*0|"),
        ("LATENCY HISTOGRAM", "%0|"),
        ("RESET", "+RESET|"),
        ("GET nokey", "$-1|"),
        ("CLIENT GETNAME", "$-1|"),
        ("HELLO 2", &hello2),
    ]);
}

#[test]
fn a_subscribed_resp2_connection_only_listens() {
    let context = "only (P¦S)SUBSCRIBE / (P¦S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context|";
    let told = |name: &str| format!("-ERR Can't execute '{name}': {context}");
    let mut shell = Shell::new(CORES, false, Options::default(), 1);
    for (sent, expected) in [
        ("SUBSCRIBE a a", "*3|$9|subscribe|$1|a|:1|*3|$9|subscribe|$1|a|:1|".to_string()),
        ("PSUBSCRIBE a", "*3|$10|psubscribe|$1|a|:2|".to_string()),
        ("SSUBSCRIBE a", "*3|$10|ssubscribe|$1|a|:1|".to_string()),
        ("GET b", told("get")),
        ("CLIENT ID", told("client¦id")),
        ("PING", "*2|$4|pong|$0||".to_string()),
        ("PING x", "*2|$4|pong|$1|x|".to_string()),
        ("UNSUBSCRIBE b", "*3|$11|unsubscribe|$1|b|:2|".to_string()),
        ("UNSUBSCRIBE", "*3|$11|unsubscribe|$1|a|:1|".to_string()),
        ("RESET", "+RESET|".to_string()),
        ("GET b", "$-1|".to_string()),
    ] {
        shell.feed(&words(sent));
        let reply = String::from_utf8(std::mem::take(&mut shell.output)).unwrap();
        assert_eq!(reply, crlf(&expected), "{sent}");
    }
}

#[test]
fn client_reply_silences_in_order() {
    let dialogue = |text: &str| text.split(';').flat_map(words).collect::<Vec<u8>>();
    for near in [CORES, 0] {
        for (sent, expected) in [
            ("CLIENT REPLY OFF;PING;GET a;CLIENT REPLY ON;PING", "+OK\r\n+PONG\r\n"),
            ("CLIENT REPLY SKIP;PING;ECHO b", "$1\r\nb\r\n"),
            ("CLIENT REPLY SKIP;GET a;GET b", "$-1\r\n"),
            ("CLIENT REPLY SKIP;CLIENT REPLY SKIP;PING;PING", "+PONG\r\n"),
            ("CLIENT REPLY SKIP;MGET a b;PING", "+PONG\r\n"),
            ("CLIENT REPLY SKIP;FOO;PING", "+PONG\r\n"),
            ("CLIENT REPLY OFF;SET a 1;RESET;GET a", "+RESET\r\n$1\r\n1\r\n"),
        ] {
            let mut shell = Shell::new(near, false, Options::default(), 5);
            shell.feed(&dialogue(sent));
            shell.finish();
            assert_eq!(String::from_utf8(shell.output).unwrap(), expected, "{sent}");
        }
    }
}
