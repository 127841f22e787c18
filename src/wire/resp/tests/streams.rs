//! Any split of any stream, and bytes of any kind.

use super::*;
use proptest::prelude::*;

/// Commands whose replies do not depend on when they are done.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let key = prop::sample::select(vec!["a", "b", "{x}1", "{x}2", "other", "k5"]);
    let value = prop::sample::select(vec!["1", "22", "abc", "", "3.5"]);
    let one = (0..22usize, key.clone(), key, value).prop_map(|(kind, key, other, value)| match kind {
        0 => words(&format!("GET {key}")),
        1 => words(&format!("SET {key} {value}")),
        2 => words(&format!("MGET {key} {other} {key}")),
        3 => words(&format!("MSET {key} {value} {other} 7")),
        4 => words(&format!("DEL {key} {other}")),
        5 => words(&format!("EXISTS {key}")),
        6 => words(&format!("INCR {key}")),
        7 => words(&format!("APPEND {key} {value}")),
        8 => words(&format!("SET {key} {value} EX 10 GET")),
        9 => words(&format!("TTL {key}")),
        10 => words("HELLO 3"),
        11 => words("HELLO 2"),
        12 => words("DBSIZE"),
        13 => words("KEYS *"),
        14 => format!("GET \"{key}\"\r\n").into_bytes(),
        15 => b"*0\r\n\r\n".to_vec(),
        16 => words(&format!("NOPE {value}")),
        17 => words(&format!("MSETNX {{x}}1 {value} {{x}}2 {value}")),
        18 => words("CLIENT REPLY SKIP"),
        19 => command(&[b"SET", key.as_bytes(), &[b'v'; 300]]),
        20 => words("CLIENT KILL ID 77"),
        _ => words(&format!("GETRANGE {key} 0 1")),
    });
    prop::collection::vec(one, 1..40).prop_map(|commands| commands.concat())
}

/// What one core that answers at once says to the whole stream.
fn plain_replies(sent: &[u8], options: &Options) -> Vec<u8> {
    let mut shell = Shell::new(CORES, false, options.clone(), 1);
    shell.feed(sent);
    shell.finish();
    shell.output
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_split_and_any_order_of_outcomes_give_the_same_replies(
        sent in stream(),
        cuts in prop::collection::vec(1..60usize, 1..20),
        near in 0..=CORES,
        seed in any::<u64>(),
    ) {
        let options = Options { value_bytes_max: 200, commands_per_turn: 3, ..Options::default() };
        let expected = plain_replies(&sent, &Options { value_bytes_max: 200, ..Options::default() });
        let mut shell = Shell::new(near, false, options, seed);
        let mut rest = &sent[..];
        for cut in cuts.into_iter().cycle() {
            let (part, behind) = rest.split_at(cut.min(rest.len()));
            shell.feed(part);
            rest = behind;
            if rest.is_empty() {
                break;
            }
            if cut % 3 == 0 {
                shell.deliver();
            }
        }
        shell.finish();
        shell.feed(b"");
        shell.finish();
        prop_assert_eq!(
            String::from_utf8_lossy(&shell.output).into_owned(),
            String::from_utf8_lossy(&expected).into_owned()
        );
    }

    #[test]
    fn bytes_of_any_kind_neither_panic_nor_flood(
        parts in prop::collection::vec(
            prop_oneof![
                prop::collection::vec(any::<u8>(), 0..40),
                prop::sample::select(vec![
                    "*1\r\n", "*2\r\n", "*3\r\n", "*5\r\n", "$3\r\n", "$0\r\n", "$300\r\n", "$-1\r\n", "\r\n", "GET", "SET",
                    "CLIENT", "KILL", "LIST", "MSETNX", "COMMAND", "DOCS", "SCAN", "KEYS", "INFO", "CONFIG", " ", "\"",
                    "*", "9223372036854775807", "ID", "HELLO", "3", "SUBSCRIBE", "REPLY", "OFF", "RESET", "QUIT", "a",
                ]).prop_map(|text| text.as_bytes().to_vec()),
                (0..commands::COMMANDS.len(), prop::collection::vec("[a-z0-9*-]{0,6}", 0..6)).prop_map(
                    |(i, arguments)| {
                        let mut parts: Vec<&[u8]> = vec![commands::COMMANDS[i].name.as_bytes()];
                        let subs = commands::COMMANDS[i].subcommands;
                        if let Some(sub) = subs.get(arguments.len() % (subs.len() + 1)) {
                            parts.push(sub.name.as_bytes());
                        }
                        parts.extend(arguments.iter().map(|argument| argument.as_bytes()));
                        command(&parts)
                    }
                ),
            ],
            0..30,
        ),
        cut in 1..50usize,
        near in 0..=CORES,
        cluster in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let sent = parts.concat();
        let options = Options { value_bytes_max: 200, ..Options::default() };
        let mut shell = Shell::new(near, cluster, options, seed);
        for part in sent.chunks(cut) {
            shell.feed(part);
        }
        shell.finish();
        // The longest reply of all is that of COMMAND.
        prop_assert!(shell.output.len() <= 40_000 * (parts.len() + 1), "{} bytes", shell.output.len());
    }
}
