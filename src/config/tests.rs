//! Settings by flag and by file, alone and together.

use super::*;

fn of_text(text: &str) -> Result<Config, Vec<String>> {
    let mut layers = Layers {
        config: Config::default(),
        places: BTreeMap::new(),
        named_places: BTreeMap::new(),
        problems: Vec::new(),
    };
    layers.read_file("f.toml".as_ref(), text);
    layers.hold_rules();
    if layers.problems.is_empty() {
        Ok(layers.config)
    } else {
        Err(layers.problems.iter().map(Problem::to_string).collect())
    }
}

fn of_flags(flags: &[(&'static str, &str)]) -> Result<Config, Vec<String>> {
    let flags = flags.iter().map(|(name, value)| (*name, vec![(*value).to_owned()])).collect();
    Config::gather(Sources { flags, ..Sources::default() })
        .map_err(|problems| problems.iter().map(Problem::to_string).collect())
}

/// Another value than the default for each setting, and how it is shown.
const TURNED: &[(&str, &str, &str)] = &[
    ("listen", "127.0.0.1:0,[::1]:7500", "127.0.0.1:0,[::1]:7500"),
    ("resp-listen", "127.0.0.1:6379", "127.0.0.1:6379"),
    ("memcached-listen", "127.0.0.1:11211", "127.0.0.1:11211"),
    ("unix-listen", "/run/foreshadow.sock", "/run/foreshadow.sock"),
    ("unix-permissions", "770", "770"),
    ("protected-mode", "no", "no"),
    ("tls-listen", "127.0.0.1:7443", "127.0.0.1:7443"),
    ("tls-cert-file", "/etc/tls/cert.pem", "/etc/tls/cert.pem"),
    ("tls-key-file", "/etc/tls/key.pem", "/etc/tls/key.pem"),
    ("tls-ca-cert-file", "/etc/tls/ca.pem", "/etc/tls/ca.pem"),
    ("tls-auth-clients", "no", "no"),
    ("tls-protocols", "TLSv1.3", "TLSv1.3"),
    ("cluster-ports", "true", "true"),
    ("cluster", "2=127.0.0.1:7500/2,1=127.0.0.1:7400", "1=127.0.0.1:7400/1,2=127.0.0.1:7500/2"),
    ("node-id", "1", "1"),
    ("metadata-file", "/var/lib/foreshadow/records", "/var/lib/foreshadow/records"),
    ("announce-ip", "10.0.0.7", "10.0.0.7"),
    ("max-clients", "77", "77"),
    ("origin", "redis://:secret@h", "redis://h:6379"),
    ("password", "sesame", "(set)"),
    ("user", "alice on nopass ~* +@all", "alice"),
    ("tls-auth-clients-user", "cn", "cn"),
    ("query-buffer", "1MiB", "1MiB"),
    ("output-soft", "1MiB", "1MiB"),
    ("output-hard", "32000000", "31250KiB"),
    ("command-timeout", "500ms", "500ms"),
    ("auth-timeout", "2m", "2m"),
    ("drain-timeout", "0s", "0ms"),
    ("memory", "2GiB", "2GiB"),
    ("item-size", "2MB", "2000000"),
    ("memcached-item-size", "2MiB", "2MiB"),
    ("cores", "0-2,6", "0-2,6"),
    ("busy-poll-us", "20", "20"),
    ("admin", "off", "off"),
    ("log-level", "warn", "warn"),
    ("log-format", "json", "json"),
    ("exit-on-stdin-close", "true", "true"),
];

/// Settings by which each core has a port of its own.
const PORTS_OF_CORES: [&str; 4] = ["cluster-ports", "cluster", "node-id", "metadata-file"];

/// Settings without which another one is of no use.
fn beside(name: &str) -> &'static [(&'static str, &'static str)] {
    match name {
        "tls-listen" => &[("tls-cert-file", "c.pem"), ("tls-key-file", "k.pem")],
        "cluster" => &[("node-id", "1"), ("metadata-file", "records")],
        "node-id" => &[("cluster", "1=127.0.0.1:7400"), ("metadata-file", "records")],
        "metadata-file" => &[("node-id", "1"), ("cluster", "1=127.0.0.1:7400")],
        _ => &[],
    }
}

#[test]
fn every_setting_turns_its_own_value_and_no_other_by_flag_and_by_file() {
    let plain: BTreeMap<_, _> = Config::default().settings().into_iter().collect();
    for setting in SETTINGS.iter().filter(|setting| setting.name != "password-file") {
        let (_, given, shown) =
            TURNED.iter().find(|turned| turned.0 == setting.name).expect("each setting is turned here");
        let beside = beside(setting.name);
        let by_flag = of_flags(&[&[(setting.name, *given)], beside].concat()).unwrap();
        let mut text = format!("[{}]\n{} = \"{given}\"\n", setting.table, setting.name);
        beside.iter().for_each(|(name, value)| text.push_str(&format!("{name} = \"{value}\"\n")));
        let by_file = of_text(&text).unwrap();
        assert_eq!(by_flag.settings(), by_file.settings());
        for (name, value) in by_flag.settings() {
            let expected = match name.as_str() {
                "listen" if setting.name.ends_with("-listen") && setting.name != "unix-listen" => "",
                "admin" if PORTS_OF_CORES.contains(&setting.name) => "127.0.0.1:7399",
                name if name == setting.name => shown,
                name if beside.iter().any(|(other, _)| *other == name) => continue,
                name => plain[name].as_str(),
            };
            assert_eq!(value, expected, "{name} with --{} {given}", setting.name);
        }
    }
}

#[test]
fn ports_of_cores_push_an_admin_port_that_nobody_chose_out_of_their_way() {
    let local = |port| Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    assert_eq!(of_flags(&[("cluster-ports", "true")]).unwrap().admin, local(7399));
    let low = [("cluster-ports", "true"), ("listen", "127.0.0.1:9000")];
    assert_eq!(of_flags(&low).unwrap().admin, local(7401));
    let chosen = [("cluster-ports", "true"), ("admin", "127.0.0.1:7401")];
    assert_eq!(of_flags(&chosen).unwrap().admin, local(7401));
    let off = [("cluster-ports", "true"), ("admin", "off")];
    assert_eq!(of_flags(&off).unwrap().admin, None);
}

#[test]
fn a_value_that_is_shown_reads_back_as_itself() {
    for (name, given, shown) in TURNED.iter().filter(|turned| turned.0 != "password") {
        let read = |value| of_flags(&[&[(*name, value)], beside(name)].concat()).unwrap();
        let (once, twice) = (read(*given), read(*shown));
        assert_eq!(once.settings(), twice.settings());
    }
}

#[test]
fn the_password_comes_from_a_file_and_is_never_shown() {
    let file = std::env::temp_dir().join(format!("foreshadow-password-{}", std::process::id()));
    std::fs::write(&file, "sesame\nignored\n").unwrap();
    let config = of_flags(&[("password-file", file.to_str().unwrap())]).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert_eq!(config.password, Some(Password("sesame".to_owned())));
    assert!(!format!("{:?} {:?}", config.password, config.settings()).contains("sesame"));
}

#[test]
fn the_environment_beats_the_file_and_a_flag_beats_both() {
    let file = std::env::temp_dir().join(format!("foreshadow-layers-{}.toml", std::process::id()));
    std::fs::write(&file, "[network]\npassword = \"a\"\nmax-clients = 5\n").unwrap();
    let mut sources = Sources { file: Some(file.clone()), ..Sources::default() };
    let read = |sources: &Sources| {
        let config = Config::gather(sources.clone()).unwrap();
        (config.password.unwrap().0, config.clients_max)
    };
    assert_eq!(read(&sources), ("a".to_owned(), 5));
    sources.password_variable = Some(Password("b".to_owned()));
    assert_eq!(read(&sources), ("b".to_owned(), 5));
    sources.flags = vec![("password", vec!["c".to_owned()]), ("max-clients", vec!["6".to_owned()])];
    assert_eq!(read(&sources), ("c".to_owned(), 6));
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn problems_name_line_and_column_and_all_are_reported() {
    let text = "[network]\nlisten = \"127.0.0.1\"\nmax_clients = 7\n\n[store]\n  memroy = \"1GiB\"\ncores = 2\n\
                [storr]\n[strange-thing]\n";
    let problems = of_text(text).unwrap_err();
    let expected = [
        "f.toml:2:10: `127.0.0.1` is not an address with a port, as 127.0.0.1:7400 or [::1]:7400 (names are not looked up)",
        "f.toml:3:1: unknown key `max_clients`; did you mean `max-clients` in [network]?",
        "f.toml:6:3: unknown key `memroy`; did you mean `memory` in [store]?",
        "f.toml:7:1: `cores` belongs into the table [cores]",
        "f.toml:8:2: no table is called [storr]; did you mean [store]?",
        "f.toml:9:2: no table is called [strange-thing]; there are [network], [tls], [store], [cores], [admin], [log], [process]",
    ];
    let mut sorted = problems.clone();
    sorted.sort();
    assert_eq!(sorted, expected);
}

#[test]
fn bad_toml_has_a_place_too() {
    let problems = of_text("[store]\nmemory = 1GiB\n").unwrap_err();
    assert!(problems[0].starts_with("f.toml:2:10: "), "{problems:?}");
    let problems = of_text("[store]\nmemory = 1.5\n").unwrap_err();
    assert!(problems[0].starts_with("f.toml:2:10: a float cannot be"), "{problems:?}");
    let problems = of_text("[store]\nmemory = \"1GiB\"\nmemory = \"2GiB\"\n").unwrap_err();
    assert!(problems[0].starts_with("f.toml:3:1: "), "{problems:?}");
}

#[test]
fn an_address_others_can_reach_needs_a_password() {
    for (name, address) in [("listen", "0.0.0.0:7400"), ("admin", "[::]:7401"), ("resp-listen", "10.1.2.3:1")]
    {
        let problems = of_flags(&[(name, address)]).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with(&format!("--{name}: {address} can be reached")), "{problems:?}");
        assert!(problems[0].contains(PASSWORD_VARIABLE), "{problems:?}");
        assert!(of_flags(&[(name, address), ("password", "sesame")]).is_ok());
    }
    assert!(of_flags(&[("listen", "[::ffff:127.0.0.1]:7400,127.8.9.1:0")]).is_ok());
}

#[test]
fn who_is_reached_by_others_is_guarded_against_strangers() {
    let open = ("listen", "0.0.0.0:1");
    for (flags, guarded) in [
        (vec![], false),
        (vec![open, ("user", "default off")], true),
        (vec![open, ("protected-mode", "no")], false),
    ] {
        assert_eq!(of_flags(&flags).expect("a good configuration").is_guarded(), guarded, "{flags:?}");
    }
}

#[test]
fn protected_mode_is_left_by_a_word_only() {
    let open = ("listen", "0.0.0.0:7400");
    assert!(of_flags(&[open]).is_err() && of_flags(&[open, ("protected-mode", "yes")]).is_err());
    assert!(of_flags(&[open, ("protected-mode", "no")]).is_ok());
}

#[test]
fn a_socket_of_the_machine_stands_beside_the_others_or_alone() {
    let path = ("unix-listen", "/run/f.sock");
    assert_eq!(of_flags(&[path]).unwrap().listen.len(), 1);
    assert!(of_flags(&[path, ("listen", "")]).unwrap().listeners().is_empty());
    assert!(of_flags(&[("listen", "")]).unwrap_err()[0].contains("nothing to listen on"));
    let long = "x".repeat(108);
    assert!(of_flags(&[("unix-listen", &long)]).unwrap_err()[0].contains("1 to 107 bytes"));
    assert!(of_flags(&[("unix-permissions", "778")]).unwrap_err()[0].contains("is not a mode"));
}

#[test]
fn settings_that_contradict_each_other_are_refused_at_the_one_to_change() {
    let broken = |text: &str, expected: &str| {
        let problems = of_text(text).unwrap_err();
        assert!(problems.len() == 1 && problems[0].starts_with(expected), "{problems:?}");
    };
    broken("[network]\noutput-soft = \"2GiB\"", "f.toml:2:15: 2GiB is more than output-hard, 64MiB");
    broken("[store]\nmemory = \"64MiB\"\nitem-size = \"65MiB\"", "f.toml:3:13: 65MiB is more than all");
    broken("[network]\nlisten = []", "f.toml:2:10: nothing to listen on");
    broken("[network]\nlisten = \"127.0.0.1:7401\"", "f.toml:2:10: 127.0.0.1:7401 is given twice");
    let alone = "[network]\ncluster-ports = true\nmemcached-listen = \"127.0.0.1:1\"";
    broken(alone, "f.toml:2:17: ports per core");
    let small = of_flags(&[("memory", "64MiB")]).unwrap();
    assert_eq!(small.item_bytes_max, 64 << 20, "the default gives way to the memory there is");
}

#[test]
fn sizes_durations_and_cores_are_read_as_people_write_them() {
    for (text, bytes) in [("0", 0), ("1GiB", 1 << 30), ("2 mib", 2 << 20), ("10kB", 10_000), ("7B", 7)] {
        assert_eq!(parse_size(text), Ok(bytes), "{text}");
    }
    for text in ["", "GiB", "-1", "1.5GiB", "1XB", "99999999999TiB", "99999999999999999999"] {
        assert!(parse_size(text).unwrap_err().contains("is not a size"), "{text}");
    }
    assert!(parse_size("1G").unwrap_err().contains("say 1GiB (powers of 1024) or 1GB (of 1000)"));
    assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
    assert_eq!(parse_duration("2h"), Ok(Duration::from_secs(7200)));
    assert!(parse_duration("10").unwrap_err().contains("say 10s or 10ms"));
    assert!(parse_duration("9999999999999999999h").is_err() && parse_duration("s").is_err());
    assert_eq!(parse_cores("0-3,6"), Ok(vec![0, 1, 2, 3, 6]));
    assert_eq!(parse_cores("4,1"), Ok(vec![4, 1]), "the order is kept: it is the order of the cores");
    assert_eq!(parse_cores("all"), Ok(vec![]));
    assert!(parse_cores("1,0-2").unwrap_err().contains("CPU 1 stands in `1,0-2` twice"));
    for text in ["", "3-1", "a", "1-", "0-99999999", "1,,2"] {
        assert!(parse_cores(text).unwrap_err().contains("is not a list"), "{text}");
    }
}

#[test]
fn names_are_unique_and_helped() {
    for (i, setting) in SETTINGS.iter().enumerate() {
        assert!(SETTINGS[..i].iter().all(|earlier| earlier.name != setting.name), "{}", setting.name);
        assert!(!setting.help.is_empty() && !setting.help.ends_with('.'), "{}", setting.name);
    }
}

#[test]
fn users_are_made_by_rules_and_their_mistakes_are_told() {
    let config =
        of_text("[network]\nuser = [\"alice on >secret ~app:* +@read\", \"default off\"]\n").unwrap();
    let users = config.user_table();
    assert!(users.admit(b"alice", b"secret").is_some() && users.welcome().is_none());
    assert!(!format!("{config:?} {:?}", config.settings()).contains("secret"));
    let problems = of_text("[network]\nuser = \"alice on +nosuch\"\n").unwrap_err();
    assert_eq!(
        problems,
        ["f.toml:2:8: user alice: the rule `+nosuch`: Unknown command or category name in ACL"]
    );
    // Whoever shuts the default user out may be reached.
    let shut = [("listen", "0.0.0.0:7400"), ("user", "default off")];
    assert!(of_flags(&shut).is_ok());
    assert!(of_flags(&[("listen", "0.0.0.0:7400"), ("user", "alice on >x +@all")]).is_err());
    let admin = [("admin", "0.0.0.0:7401"), ("user", "default off")];
    assert!(of_flags(&admin).unwrap_err()[0].contains("--admin"), "the pages ask for the password only");
}

#[test]
fn tls_without_its_files_or_authorities_is_refused() {
    let words = |flags: &[(&'static str, &str)]| of_flags(flags).unwrap_err().join("\n");
    let listen = ("tls-listen", "127.0.0.1:7443");
    let files = [("tls-cert-file", "c.pem"), ("tls-key-file", "k.pem")];
    assert_eq!(
        words(&[listen, files[0]]),
        "--tls-listen: TLS needs a certificate and its key; give --tls-key-file"
    );
    assert!(
        words(&[listen, files[0], files[1], ("tls-auth-clients", "yes")]).contains("no --tls-ca-cert-file")
    );
    assert!(words(&[("tls-protocols", "TLSv1.1")]).contains("`TLSv1.1` is neither TLSv1.2 nor TLSv1.3"));
    // Over TLS, too, strangers from other machines need a password, or a certificate.
    let open = [("tls-listen", "0.0.0.0:7443"), files[0], files[1]];
    assert!(words(&open).contains("there is no password"));
    assert!(of_flags(&[&open[..], &[("password", "sesame")]].concat()).is_ok());
    let known = [&open[..], &[("tls-ca-cert-file", "ca.pem")]].concat();
    assert_eq!(of_flags(&known).unwrap().auth_clients(), AuthClients::Yes);
    assert!(words(&[&known[..], &[("tls-auth-clients", "optional")]].concat()).contains("no password"));
}
