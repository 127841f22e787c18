//! Errors, byte for byte, and what breaks the protocol.

use super::*;

#[test]
fn errors_are_told_byte_for_byte() {
    let set_time = "-ERR invalid expire time in 'set' command|";
    let not_integer = "-ERR value is not an integer or out of range|";
    let syntax = "-ERR syntax error|";
    check(&[
        ("FOO", "-ERR unknown command 'FOO', with args beginning with: |"),
        ("foo a b\r\nc", "-ERR unknown command 'foo', with args beginning with: 'a' 'b  c' |"),
        ("GET", "-ERR wrong number of arguments for 'get' command|"),
        ("get a b", "-ERR wrong number of arguments for 'get' command|"),
        ("CLIENT", "-ERR wrong number of arguments for 'client' command|"),
        ("CLIENT foo", "-ERR unknown subcommand 'foo'. Try CLIENT HELP.|"),
        ("CLIENT MAINT_NOTIFICATIONS ON", "-ERR unknown subcommand 'MAINT_NOTIFICATIONS'. Try CLIENT HELP.|"),
        ("CLIENT SETNAME", "-ERR wrong number of arguments for 'client¦setname' command|"),
        ("SET a 5 EX 0", set_time),
        ("SET a 5 EX -1", set_time),
        ("SET a 5 EX 9223372036854775807", set_time),
        ("SET a 5 PX 9223372036854775807", set_time),
        ("SET a 5 EXAT 0", set_time),
        ("SET a 5 EX a", not_integer),
        ("SET a 5 EX", syntax),
        ("SET a 5 NX XX", syntax),
        ("SET a 5 EX 10 PX 10", syntax),
        ("SET a 5 KEEPTTL EX 10", syntax),
        ("SET a 5 EX 10 KEEPTTL", syntax),
        ("SET a 5 foo", syntax),
        ("SETEX a 0 b", "-ERR invalid expire time in 'setex' command|"),
        ("PSETEX a 0 b", "-ERR invalid expire time in 'psetex' command|"),
        ("GETEX a EX 0", "-ERR invalid expire time in 'getex' command|"),
        ("GETEX a EX 10 PERSIST", syntax),
        ("MSET a 1 b", "-ERR wrong number of arguments for 'mset' command|"),
        ("MSETNX a 1 b", "-ERR wrong number of arguments for 'msetnx' command|"),
        ("INCRBY n a", not_integer),
        ("INCRBY n 01", not_integer),
        ("DECRBY n -9223372036854775808", "-ERR decrement would overflow|"),
        ("SET n 9223372036854775807", "+OK|"),
        ("INCR n", "-ERR increment or decrement would overflow|"),
        ("SET n abc", "+OK|"),
        ("INCR n", not_integer),
        ("INCRBYFLOAT n 1", "-ERR value is not a valid float|"),
        ("INCRBYFLOAT f nan", "-ERR value is not a valid float|"),
        ("INCRBYFLOAT f 1e5000", "-ERR value is not a valid float|"),
        ("INCRBYFLOAT f inf", "-ERR increment would produce NaN or Infinity|"),
        ("GETRANGE s a 1", not_integer),
        ("SETRANGE s -1 x", "-ERR offset is out of range|"),
        ("SETRANGE s 536870911 xx", "-ERR string exceeds maximum allowed size (proto-max-bulk-len)|"),
        ("EXPIRE s 10 foo", "-ERR Unsupported option foo|"),
        ("EXPIRE s 10 NX GT", "-ERR NX and XX, GT or LT options at the same time are not compatible|"),
        ("EXPIRE s 10 GT LT", "-ERR GT and LT options at the same time are not compatible|"),
        ("EXPIRE s 9223372036854775807", "-ERR invalid expire time in 'expire' command|"),
        ("EXPIRE s -9223372036854775808", "-ERR invalid expire time in 'expire' command|"),
        ("PEXPIRE s 9223372036854775807", "-ERR invalid expire time in 'pexpire' command|"),
        ("SCAN a", "-ERR invalid cursor|"),
        ("SCAN 99999999999999999999", "-ERR invalid cursor|"),
        ("SCAN 0 MATCH", syntax),
        ("SCAN 0 COUNT 0", syntax),
        ("SCAN 0 COUNT a", not_integer),
        ("SCAN 0 TYPE foo", "-ERR unknown type name 'foo'|"),
        ("FLUSHALL foo", syntax),
        ("OBJECT foo a", "-ERR unknown subcommand 'foo'. Try OBJECT HELP.|"),
        ("OBJECT ENCODING", "-ERR wrong number of arguments for 'object¦encoding' command|"),
        ("HELLO 4", "-NOPROTO unsupported protocol version|"),
        ("HELLO a", "-ERR Protocol version is not an integer or out of range|"),
        ("HELLO 3 FOO", "-ERR Syntax error in HELLO option 'FOO'|"),
        ("HELLO 3 AUTH a", "-ERR Syntax error in HELLO option 'AUTH'|"),
        ("HELLO 3 AUTH x b", "-WRONGPASS invalid username-password pair or user is disabled.|"),
        (
            "AUTH x",
            "-ERR AUTH <password> called without any password configured for the default user. Are you sure your \
             configuration is correct?|",
        ),
        ("AUTH default b", "+OK|"),
        ("AUTH a b c", syntax),
        ("SELECT 0", "+OK|"),
        ("SELECT 1", "-ERR DB index is out of range|"),
        ("SELECT a", not_integer),
        ("WAIT 1 -1", "-ERR timeout is negative|"),
        ("WAIT 1 100", ":0|"),
        ("CLIENT UNBLOCK 9 SOON", "-ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR|"),
        ("CLIENT UNBLOCK x", "-ERR value is not an integer or out of range|"),
        ("CLIENT KILL ID 0", "-ERR client-id should be greater than 0|"),
        ("CLIENT KILL FOO 9", syntax),
        ("CLIENT KILL TYPE foo", "-ERR Unknown client type 'foo'|"),
        ("CLIENT SETINFO foo b", "-ERR Unrecognized option 'foo'|"),
        ("CLUSTER SLOTS", "-ERR This instance has cluster support disabled|"),
        ("CLUSTER KEYSLOT foo", ":12182|"),
        ("ASKING", "-ERR This instance has cluster support disabled|"),
        ("CONFIG SET foo b", "-ERR Unknown option or number of arguments for CONFIG SET - 'foo'|"),
        (
            "CONFIG SET port 1",
            "-ERR CONFIG SET failed (possibly related to argument 'port') - can't set immutable config|",
        ),
        ("SLOWLOG GET -2", "-ERR count should be greater than or equal to -1|"),
        ("FUNCTION FLUSH x", "-ERR FUNCTION FLUSH only supports SYNC¦ASYNC option|"),
        ("ACL CAT foo", "-ERR Unknown category 'foo'|"),
        ("COMMAND GETKEYS ping", "-ERR The command has no key arguments|"),
        ("COMMAND GETKEYS foo", "-ERR Invalid command specified|"),
        ("COMMAND GETKEYS get", "-ERR Invalid number of arguments specified for command|"),
        ("PING", "+PONG|"),
    ]);
}

#[test]
fn broken_protocol_is_told_and_closes() {
    let vectors: [(&[u8], &str); 24] = [
        (b"*2147483648\r\n", "invalid multibulk length"),
        (b"*1048577\r\n", "invalid multibulk length"),
        (b"*abc\r\n", "invalid multibulk length"),
        (b"*\r\n", "invalid multibulk length"),
        (b"*+1\r\n$4\r\nPING\r\n", "invalid multibulk length"),
        (b"*01\r\n$4\r\nPING\r\n", "invalid multibulk length"),
        (b"*-0\r\n", "invalid multibulk length"),
        (b"*99999999999999999999999\r\n", "invalid multibulk length"),
        (b"*1\r\n$-1\r\n", "invalid bulk length"),
        (b"*1\r\n$9999999999\r\n", "invalid bulk length"),
        (b"*1\r\n$18446744073709551616\r\n", "invalid bulk length"),
        (b"*1\r\n$abc\r\n", "invalid bulk length"),
        (b"*1\r\n$0x4\r\n", "invalid bulk length"),
        (b"*1\r\n$+4\r\n", "invalid bulk length"),
        (b"*1\r\n$04\r\n", "invalid bulk length"),
        (b"*1\r\n$\r\n", "invalid bulk length"),
        (b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$536870913\r\n", "invalid bulk length"),
        (b"*2\r\nGET\r\n", "expected '$', got 'G'"),
        (b"*1\r\n:1\r\n", "expected '$', got ':'"),
        (b"*1\r\n\r\n", "expected '$', got ' '"),
        (b"*1\r\n$4\r\nPINGxxPING\r\n", "invalid CRLF in request"),
        (b"SET \"a\r\n", "unbalanced quotes in request"),
        (b"PING \"\\\n", "unbalanced quotes in request"),
        (b"'PING\r\n", "unbalanced quotes in request"),
    ];
    for (bytes, text) in vectors {
        let sent = [b"PING\r\n", bytes, b"PING\r\n"].concat();
        let (reply, closed) = converse(&sent);
        assert_eq!(reply, format!("+PONG\r\n-ERR Protocol error: {text}\r\n"), "{sent:?}");
        assert_eq!(closed, Some(Reason::Protocol));
    }
    let long = vec![b'1'; 70_000];
    for (start, text) in [
        (&b"*"[..], "too big mbulk count string"),
        (b"*1\r\n$", "too big bulk count string"),
        (b"x", "too big inline request"),
    ] {
        let (reply, closed) = converse(&[start, &long].concat());
        assert_eq!((reply, closed), (format!("-ERR Protocol error: {text}\r\n"), Some(Reason::Protocol)));
    }
    let (reply, closed) = converse(b"POST / HTTP/1.1\r\n\r\nPING\r\n");
    assert_eq!((reply.as_str(), closed), ("", Some(Reason::Http)));
}

#[test]
fn lengths_of_any_wrong_kind_store_nothing() {
    for length in
        ["-1", "-2147483648", "+3", "0x3", "03", "3 ", "18446744073709551616", "18446744073709551619", "3.0"]
    {
        let mut shell = Shell::new(CORES, false, Options::default(), 1);
        shell.feed(format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${length}\r\nabc\r\n").as_bytes());
        assert_eq!(shell.closed, Some(Reason::Protocol), "{length}");
        let fresh = Shell::new(CORES, false, Options::default(), 1);
        let mut next = Shell { model: shell.model, ..fresh };
        check_on(&mut next, &[("DBSIZE", ":0|"), ("GET k", "$-1|")]);
    }
}

#[test]
fn echoed_bytes_are_cut_as_redis_cuts_them() {
    let long = "x".repeat(300);
    let (reply, _) = converse(&words(&format!("{long} b")));
    let shown = "x".repeat(128);
    assert_eq!(reply, format!("-ERR unknown command '{shown}', with args beginning with: 'b' \r\n"));
    let (reply, _) = converse(&words(&format!("foo a b {long} {long}")));
    let shown = "x".repeat(120);
    assert_eq!(
        reply,
        format!("-ERR unknown command 'foo', with args beginning with: 'a' 'b' '{shown}' \r\n")
    );
}
