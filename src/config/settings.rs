//! The table of settings: each with its name, its place in the file, what it sets and how it is shown.

use super::values::*;
use super::*;

/// All settings, table by table.
pub const SETTINGS: &[Setting] = &[
    Setting {
        name: "listen",
        table: "network",
        value: "ADDR",
        many: true,
        help: "Listen here for every protocol, told apart by the first bytes; port 0 picks a free one",
        set: |config, values| addresses(values).map(|all| config.listen = all),
        show: |config| show_addresses(&config.listen),
    },
    Setting {
        name: "resp-listen",
        table: "network",
        value: "ADDR",
        many: true,
        help: "Listen here for RESP only (then --listen has no default)",
        set: |config, values| addresses(values).map(|all| config.resp_listen = all),
        show: |config| show_addresses(&config.resp_listen),
    },
    Setting {
        name: "memcached-listen",
        table: "network",
        value: "ADDR",
        many: true,
        help: "Listen here for memcached only (then --listen has no default)",
        set: |config, values| addresses(values).map(|all| config.memcached_listen = all),
        show: |config| show_addresses(&config.memcached_listen),
    },
    Setting {
        name: "unix-listen",
        table: "network",
        value: "PATH",
        many: true,
        help: "Listen on this socket of the machine for every protocol, beside the others (--listen \"\" closes those)",
        set: |config, values| {
            let paths: Result<Vec<_>, _> = values.iter().map(|path| socket_path(path.trim())).collect();
            paths.map(|paths| config.unix_listen = paths)
        },
        show: |config| {
            let paths: Vec<_> = config.unix_listen.iter().map(|path| path.display().to_string()).collect();
            paths.join(",")
        },
    },
    Setting {
        name: "unix-permissions",
        table: "network",
        value: "MODE",
        many: false,
        help: "Who may open these sockets, in octal as for chmod",
        set: |config, values| {
            let text = one(values)?;
            let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
            config.unix_permissions = mode.ok_or_else(|| format!("`{text}` is not a mode, as 700 or 770"))?;
            Ok(())
        },
        show: |config| format!("{:o}", config.unix_permissions),
    },
    Setting {
        name: "protected-mode",
        table: "network",
        value: "yes|no",
        many: false,
        help: "Refuse to be reached from other machines as long as there is no password",
        set: |config, values| {
            config.protected_mode = match one(values)? {
                "yes" | "true" => true,
                "no" | "false" => false,
                other => return Err(format!("`{other}` is neither yes nor no")),
            };
            Ok(())
        },
        show: |config| if config.protected_mode { "yes" } else { "no" }.to_owned(),
    },
    Setting {
        name: "cluster-ports",
        table: "network",
        value: "",
        many: false,
        help: "Give each core a port of its own, the listener's + 1 + core, and show cores to cluster clients as nodes",
        set: |config, values| switch(values).map(|yes| config.cluster_ports = yes),
        show: |config| config.cluster_ports.to_string(),
    },
    Setting {
        name: "cluster",
        table: "network",
        value: "NODES",
        many: false,
        help: "Serve as one of these nodes, each as NUMBER=IP:PORT/CORES with commas between; the same list at all of them",
        set: |config, values| {
            // An array of the file is as good as a text with commas.
            values.join(",").parse().map(|members| config.cluster = Some(members))
        },
        show: |config| config.cluster.as_ref().map(ToString::to_string).unwrap_or_default(),
    },
    Setting {
        name: "node-id",
        table: "network",
        value: "NUMBER",
        many: false,
        help: "Which of the nodes of --cluster this is",
        set: |config, values| number(values, 0, 65_535).map(|n| config.node_id = Some(n)),
        show: |config| config.node_id.map(|id| id.to_string()).unwrap_or_default(),
    },
    Setting {
        name: "metadata-file",
        table: "network",
        value: "FILE",
        many: false,
        help: "Keep here, at the node of --cluster with the smallest number, which node owns which shard",
        set: |config, values| file(values).map(|file| config.metadata_file = Some(file)),
        show: |config| show_file(&config.metadata_file),
    },
    Setting {
        name: "announce-ip",
        table: "network",
        value: "IP",
        many: false,
        help: "Tell cluster clients this address instead of the one listened on",
        set: |config, values| {
            let text = one(values)?;
            let ip = text.parse().map_err(|_| format!("`{text}` is not an IP address"))?;
            config.announce_ip = Some(ip);
            Ok(())
        },
        show: |config| config.announce_ip.map(|ip| ip.to_string()).unwrap_or_default(),
    },
    Setting {
        name: "max-clients",
        table: "network",
        value: "N",
        many: false,
        help: "Most connections at a time, all cores",
        set: |config, values| number(values, 1, 1_000_000).map(|n| config.clients_max = n),
        show: |config| config.clients_max.to_string(),
    },
    Setting {
        name: "origin",
        table: "network",
        value: "URL",
        many: false,
        help: "Fetch what is not there from this origin: redis://, memcached:// or http://HOST; more is said in the tables \
               [origin.NAME] and [keyspace.NAME] of a file",
        set: |config, values| config.sources_of_truth.set_default(one(values)?),
        show: |config| {
            let default = config.sources_of_truth.origins.iter().find(|origin| origin.name == "default");
            default.and_then(|origin| origin.target.as_ref()).map(ToString::to_string).unwrap_or_default()
        },
    },
    Setting {
        name: "password",
        table: "network",
        value: "TEXT",
        many: false,
        help: "Ask clients for this password (seen in the list of processes: prefer FORESHADOW_PASSWORD or --password-file)",
        set: |config, values| password(one(values)?).map(|it| config.password = it),
        show: |config| if config.password.is_some() { "(set)" } else { "" }.to_owned(),
    },
    Setting {
        name: "password-file",
        table: "network",
        value: "FILE",
        many: false,
        help: "Ask clients for the password on the first line of this file",
        set: |config, values| {
            let path = one(values)?;
            let text =
                std::fs::read_to_string(path).map_err(|error| format!("`{path}` cannot be read: {error}"))?;
            config.password = password(text.lines().next().unwrap_or_default().trim())?;
            Ok(())
        },
        // What it held is shown, as a secret, at `password`.
        show: |_| String::new(),
    },
    Setting {
        name: "user",
        table: "network",
        value: "RULES",
        many: true,
        help: "Know this user: its name, then rules as ACL SETUSER takes them (alice on #SHA256 ~app:* +@read)",
        set: |config, values| {
            let mut users = Users::with_password(None);
            for line in values {
                let (name, rules) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
                if name.is_empty() {
                    return Err("names no user".to_owned());
                }
                users.set(name.as_bytes(), rules.as_bytes()).map_err(|(rule, why)| {
                    format!("user {name}: the rule `{}`: {why}", String::from_utf8_lossy(&rule))
                })?;
            }
            if users.count() > USERS_MAX {
                return Err(format!("more than {USERS_MAX} users"));
            }
            config.users = values.iter().map(|line| Password(line.trim().to_owned())).collect();
            Ok(())
        },
        // Rules hold secrets; the names are shown.
        show: |config| {
            let name = |line: &Password| line.0.split(' ').next().unwrap_or_default().to_owned();
            config.users.iter().map(name).collect::<Vec<_>>().join(",")
        },
    },
    Setting {
        name: "query-buffer",
        table: "network",
        value: "SIZE",
        many: false,
        help: "Close a connection that has sent more than this without our being able to execute it",
        set: |config, values| {
            size_in_memory(values, 64 * KIB, GIB).map(|bytes| config.query_buffer_bytes_max = bytes)
        },
        show: |config| show_size(config.query_buffer_bytes_max as u64),
    },
    Setting {
        name: "output-soft",
        table: "network",
        value: "SIZE",
        many: false,
        help: "Stop reading from a client that leaves this much of its replies untaken",
        set: |config, values| {
            size_in_memory(values, 64 * KIB, 64 * GIB).map(|bytes| config.output_soft_bytes = bytes)
        },
        show: |config| show_size(config.output_soft_bytes as u64),
    },
    Setting {
        name: "output-hard",
        table: "network",
        value: "SIZE",
        many: false,
        help: "Close a client that leaves this much of its replies untaken",
        set: |config, values| {
            size_in_memory(values, 64 * KIB, 64 * GIB).map(|bytes| config.output_hard_bytes = bytes)
        },
        show: |config| show_size(config.output_hard_bytes as u64),
    },
    Setting {
        name: "command-timeout",
        table: "network",
        value: "TIME",
        many: false,
        help: "Close a connection whose command stays unfinished for this long",
        set: |config, values| {
            duration(values, Duration::from_millis(100), HOUR).map(|time| config.command_timeout = time)
        },
        show: |config| show_duration(config.command_timeout),
    },
    Setting {
        name: "auth-timeout",
        table: "network",
        value: "TIME",
        many: false,
        help: "Close a connection that has not authenticated for this long, where there is a password",
        set: |config, values| {
            duration(values, Duration::from_millis(100), HOUR).map(|time| config.auth_timeout = time)
        },
        show: |config| show_duration(config.auth_timeout),
    },
    Setting {
        name: "drain-timeout",
        table: "network",
        value: "TIME",
        many: false,
        help: "When told to stop, give clients this long to take their replies",
        set: |config, values| duration(values, Duration::ZERO, HOUR).map(|time| config.drain_timeout = time),
        show: |config| show_duration(config.drain_timeout),
    },
    Setting {
        name: "tls-listen",
        table: "tls",
        value: "ADDR",
        many: true,
        help: "Listen here for every protocol over TLS 1.2 and 1.3 (then --listen has no default)",
        set: |config, values| addresses(values).map(|all| config.tls_listen = all),
        show: |config| show_addresses(&config.tls_listen),
    },
    Setting {
        name: "tls-cert-file",
        table: "tls",
        value: "FILE",
        many: false,
        help: "The server's certificate, with those that lead to its root behind it, as PEM; read again on SIGHUP",
        set: |config, values| file(values).map(|file| config.tls_cert_file = Some(file)),
        show: |config| show_file(&config.tls_cert_file),
    },
    Setting {
        name: "tls-key-file",
        table: "tls",
        value: "FILE",
        many: false,
        help: "Its private key as PEM; read again on SIGHUP",
        set: |config, values| file(values).map(|file| config.tls_key_file = Some(file)),
        show: |config| show_file(&config.tls_key_file),
    },
    Setting {
        name: "tls-ca-cert-file",
        table: "tls",
        value: "FILE",
        many: false,
        help: "Authorities whose certificates clients have to show, as PEM; read again on SIGHUP",
        set: |config, values| file(values).map(|file| config.tls_ca_cert_file = Some(file)),
        show: |config| show_file(&config.tls_ca_cert_file),
    },
    Setting {
        name: "tls-auth-clients",
        table: "tls",
        value: "yes|optional|no",
        many: false,
        help: "Whether TLS clients have to show a certificate; without a word they have if there are authorities",
        set: |config, values| {
            config.tls_auth_clients = Some(match one(values)? {
                "yes" | "true" => AuthClients::Yes,
                "optional" => AuthClients::Optional,
                "no" | "false" => AuthClients::No,
                other => return Err(format!("`{other}` is none of yes, optional, no")),
            });
            Ok(())
        },
        show: |config| match config.tls_auth_clients {
            None => String::new(),
            Some(AuthClients::Yes) => "yes".to_owned(),
            Some(AuthClients::Optional) => "optional".to_owned(),
            Some(AuthClients::No) => "no".to_owned(),
        },
    },
    Setting {
        name: "tls-auth-clients-user",
        table: "tls",
        value: "cn|off",
        many: false,
        help: "Take a client for the user whose name is the common name of its certificate, if there is one",
        set: |config, values| {
            config.tls_names_users = match one(values)?.to_ascii_lowercase().as_str() {
                "cn" => true,
                "off" => false,
                other => return Err(format!("`{other}` is neither cn nor off")),
            };
            Ok(())
        },
        show: |config| if config.tls_names_users { "cn" } else { "off" }.to_owned(),
    },
    Setting {
        name: "tls-protocols",
        table: "tls",
        value: "LIST",
        many: false,
        help: "Versions of TLS to speak: TLSv1.2, TLSv1.3 or both",
        set: |config, values| {
            let text = values.join(" ");
            let (mut old, mut new) = (false, false);
            for word in text.split([' ', ',']).filter(|word| !word.is_empty()) {
                match word.to_ascii_lowercase().as_str() {
                    "tlsv1.2" => old = true,
                    "tlsv1.3" => new = true,
                    _ => return Err(format!("`{word}` is neither TLSv1.2 nor TLSv1.3")),
                }
            }
            config.tls_protocols = match (old, new) {
                (true, true) => tls::Versions::Both,
                (true, false) => tls::Versions::Only12,
                (false, true) => tls::Versions::Only13,
                (false, false) => return Err("give TLSv1.2, TLSv1.3 or both".to_owned()),
            };
            Ok(())
        },
        show: |config| {
            match config.tls_protocols {
                tls::Versions::Both => "TLSv1.2 TLSv1.3",
                tls::Versions::Only12 => "TLSv1.2",
                tls::Versions::Only13 => "TLSv1.3",
            }
            .to_owned()
        },
    },
    Setting {
        name: "memory",
        table: "store",
        value: "SIZE",
        many: false,
        help: "Most memory for items, index included, all cores together",
        set: |config, values| size(values, 8 * MIB, 256 * TIB).map(|bytes| config.memory_bytes_max = bytes),
        show: |config| show_size(config.memory_bytes_max),
    },
    Setting {
        name: "item-size",
        table: "store",
        value: "SIZE",
        many: false,
        help: "Longest key and value together by RESP",
        set: |config, values| {
            size_in_memory(values, KIB, 512 * MIB).map(|bytes| config.item_bytes_max = bytes)
        },
        show: |config| show_size(config.item_bytes_max as u64),
    },
    Setting {
        name: "memcached-item-size",
        table: "store",
        value: "SIZE",
        many: false,
        help: "Longest value by memcached",
        set: |config, values| {
            size_in_memory(values, KIB, 512 * MIB).map(|bytes| config.memcached_item_bytes_max = bytes)
        },
        show: |config| show_size(config.memcached_item_bytes_max as u64),
    },
    Setting {
        name: "cores",
        table: "cores",
        value: "LIST",
        many: false,
        help: "Serve on these CPUs, as 0-3,6; all: those the affinity mask allows",
        set: |config, values| {
            // A list of numbers in the file is as good as a text with commas.
            parse_cores(&values.join(",")).map(|cores| config.cores = cores)
        },
        show: |config| show_cores(&config.cores),
    },
    Setting {
        name: "busy-poll-us",
        table: "cores",
        value: "N|auto",
        many: false,
        help: "Microseconds an idle core looks for work before it sleeps; 0 where the cores are shared with others",
        set: |config, values| {
            config.busy_poll = match one(values)? {
                "auto" => BusyPoll::Auto,
                _ => number(values, 0, 1_000_000)
                    .map(BusyPoll::Micros)
                    .map_err(|error| format!("{error}, nor auto"))?,
            };
            Ok(())
        },
        show: |config| match config.busy_poll {
            BusyPoll::Auto => "auto".to_owned(),
            BusyPoll::Micros(micros) => micros.to_string(),
        },
    },
    Setting {
        name: "admin",
        table: "admin",
        value: "ADDR|off",
        many: false,
        help: "Serve metrics, health and the dashboard by HTTP here (with --cluster-ports by default one below the main port); with a password they ask for it",
        set: |config, values| {
            config.admin = match one(values)? {
                "off" => None,
                text => Some(address(text)?),
            };
            Ok(())
        },
        show: |config| config.admin.map_or("off".to_owned(), |address| address.to_string()),
    },
    Setting {
        name: "log-level",
        table: "log",
        value: "LEVEL",
        many: false,
        help: "Log from this level on: off, error, warn, info, debug, trace",
        set: |config, values| {
            let text = one(values)?;
            let level = text.parse().ok().filter(|_| !text.is_empty() && text.parse::<usize>().is_err());
            config.log_level =
                level.ok_or_else(|| format!("`{text}` is none of off, error, warn, info, debug, trace"))?;
            Ok(())
        },
        show: |config| config.log_level.to_string(),
    },
    Setting {
        name: "log-format",
        table: "log",
        value: "FORMAT",
        many: false,
        help: "Log as text or json, on standard error",
        set: |config, values| {
            config.log_format = match one(values)? {
                "text" => LogFormat::Text,
                "json" => LogFormat::Json,
                other => return Err(format!("`{other}` is neither text nor json")),
            };
            Ok(())
        },
        show: |config| match config.log_format {
            LogFormat::Text => "text".to_owned(),
            LogFormat::Json => "json".to_owned(),
        },
    },
    Setting {
        name: "exit-on-stdin-close",
        table: "process",
        value: "",
        many: false,
        help: "Stop, as by SIGTERM, when standard input is closed",
        set: |config, values| switch(values).map(|yes| config.exit_on_stdin_close = yes),
        show: |config| config.exit_on_stdin_close.to_string(),
    },
];
