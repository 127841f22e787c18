//! Commands that give an item another key or form.

use super::*;

#[test]
fn an_item_gets_another_key_on_its_core_or_on_another() {
    for (near, apart) in [(CORES, false), (CORES, true), (1, true), (0, true), (0, false)] {
        let mut shell = Shell::new(near, false, Options::default(), 4);
        let (a, b) = match apart {
            true => keys_apart(&shell, 0),
            false => ("{x}1".to_string(), "{x}2".to_string()),
        };
        let dialogue = [
            ("RENAME A B", "-ERR no such key|"),
            ("RENAMENX A B", "-ERR no such key|"),
            ("COPY A B", ":0|"),
            ("SET A v EX 100", "+OK|"),
            ("RENAME A B", "+OK|"),
            ("EXISTS A", ":0|"),
            ("GET B", "$1|v|"),
            ("TTL B", ":100|"),
            ("SET A w", "+OK|"),
            ("RENAMENX A B", ":0|"),
            ("MGET A B", "*2|$1|w|$1|v|"),
            ("RENAME A B", "+OK|"),
            ("TTL B", ":-1|"),
            ("RENAMENX B A", ":1|"),
            ("COPY A B", ":1|"),
            ("MGET A B", "*2|$1|w|$1|w|"),
            ("COPY A B", ":0|"),
            ("SET A x", "+OK|"),
            ("COPY A B REPLACE", ":1|"),
            ("GET B", "$1|x|"),
            ("RENAME A A", "+OK|"),
            ("RENAMENX A A", ":0|"),
            ("GET A", "$1|x|"),
            ("COPY A A", "-ERR source and destination objects are the same|"),
            ("COPY A B DB 1", "-ERR DB index is out of range|"),
            ("MOVE A 0", "-ERR source and destination objects are the same|"),
        ];
        let dialogue = dialogue.map(|(sent, expected)| {
            let words = sent.split(' ').map(|word| match word {
                "A" => a.as_str(),
                "B" => b.as_str(),
                word => word,
            });
            (words.collect::<Vec<_>>().join(" "), expected)
        });
        let dialogue: Vec<_> = dialogue.iter().map(|(sent, expected)| (sent.as_str(), *expected)).collect();
        check_on(&mut shell, &dialogue);
    }
}

#[test]
fn a_move_between_cores_that_finds_no_memory_leaves_the_item_where_it_was() {
    for near in [CORES, 0] {
        let mut shell = Shell::new(near, false, Options::default(), 4);
        let (source, target) = keys_apart(&shell, 0);
        check_on(&mut shell, &[(&format!("SET {source} v"), "+OK|")]);
        shell.model.stores[1..].iter_mut().for_each(|store| store.room = Some(0));
        let rename = format!("RENAME {source} {target}");
        check_on(
            &mut shell,
            &[
                (&rename, "-OOM command not allowed when used memory > 'maxmemory'.|"),
                (&format!("GET {source}"), "$1|v|"),
                (&format!("GET {target}"), "$-1|"),
            ],
        );
    }
}

#[test]
fn a_stale_value_moves_to_another_core_and_stays_stale() {
    for (near, apart) in [(CORES, true), (1, true), (0, true), (0, false)] {
        let mut shell = Shell::new(near, false, Options::default(), 4);
        let (a, b) = match apart {
            true => keys_apart(&shell, 0),
            false => ("{x}1".to_string(), "{x}2".to_string()),
        };
        for (sent, expected) in [
            ("SET A v EX 100", "+OK|"),
            ("LEASEDEL A STALE", ":1|"),
            ("COPY A B", ":1|"),
            ("LEASEGET B", "*3|$5|STALE|$-1|$1|v|"),
            ("DEL B", ":1|"),
            ("RENAME A B", "+OK|"),
            ("MGET A B", "*2|$-1|$1|v|"),
            ("LEASEGET B", "*3|$5|STALE|$-1|$1|v|"),
            ("TTL B", ":100|"),
            ("RENAMENX B A", ":1|"),
            ("LEASEGET A", "*3|$5|STALE|$-1|$1|v|"),
            ("SET A w", "+OK|"),
            ("LEASEGET A", "*3|$3|HIT|$-1|$1|w|"),
        ] {
            let words = sent.split(' ').map(|word| match word {
                "A" => a.as_str(),
                "B" => b.as_str(),
                word => word,
            });
            let sent = words.collect::<Vec<_>>().join(" ");
            check_on(&mut shell, &[(&sent, expected)]);
        }
        // Without memory for it there, it is put back as it was.
        if apart {
            check_on(&mut shell, &[(&format!("LEASEDEL {a} STALE"), ":1|")]);
            shell.model.stores[1..].iter_mut().for_each(|store| store.room = Some(0));
            let refused = "-OOM command not allowed when used memory > 'maxmemory'.|";
            check_on(&mut shell, &[(&format!("RENAME {a} {b}"), refused)]);
            check_on(&mut shell, &[(&format!("LEASEGET {a}"), "*3|$5|STALE|$-1|$1|w|")]);
        }
    }
}

#[test]
fn what_was_dumped_is_restored() {
    let mut shell = Shell::new(0, false, Options::default(), 4);
    let exchange = |shell: &mut Shell, sent: &[u8]| {
        shell.feed(sent);
        shell.finish();
        std::mem::take(&mut shell.output)
    };
    check_on(&mut shell, &[("SET a value", "+OK|")]);
    let dumped = exchange(&mut shell, &words("DUMP a"));
    let payload = dumped[5..dumped.len() - 2].to_vec();
    let restore = |key: &[u8], payload: &[u8], rest: &[&[u8]]| {
        command(&[&[b"RESTORE", key, b"5000", payload], rest].concat())
    };
    assert_eq!(exchange(&mut shell, &restore(b"b", &payload, &[])), b"+OK\r\n");
    check_on(&mut shell, &[("GET b", "$5|value|"), ("PTTL b", ":5000|")]);
    let busy: &[u8] = b"-BUSYKEY Target key name already exists.\r\n";
    assert_eq!(exchange(&mut shell, &restore(b"b", &payload, &[])), busy);
    assert_eq!(exchange(&mut shell, &restore(b"b", b"bad", &[])), busy);
    assert_eq!(exchange(&mut shell, &restore(b"a", &payload, &[b"replace"])), b"+OK\r\n");
    check_on(&mut shell, &[("PTTL a", ":5000|"), ("DUMP none", "$-1|")]);
    let bad: &[u8] = b"-ERR DUMP payload version or checksum are wrong\r\n";
    assert_eq!(exchange(&mut shell, &restore(b"c", b"bad", &[])), bad);
    assert_eq!(exchange(&mut shell, &restore(b"a", b"bad", &[b"REPLACE"])), bad);
}
