//! Settings laid over one another: the defaults, a file, the environment, flags; and the rules that hold between them.

use super::values::one;
use super::*;

/// A configuration in the making.
pub(super) struct Layers {
    pub(super) config: Config,
    pub(super) places: BTreeMap<&'static str, Place>,
    /// Of tables with a name each.
    pub(super) named_places: BTreeMap<String, Place>,
    pub(super) problems: Vec<Problem>,
}

impl Layers {
    pub(super) fn give(&mut self, name: &str, values: &[String], place: Place) {
        let setting = SETTINGS.iter().find(|setting| setting.name == name).expect("callers name settings");
        match (setting.set)(&mut self.config, values) {
            Ok(()) => {
                self.places.insert(setting.name, place);
            }
            Err(message) => self.problems.push(Problem { place, message }),
        }
    }

    pub(super) fn read_file(&mut self, file: &std::path::Path, text: &str) {
        let at = |offset: usize| {
            let before = text.get(..offset).unwrap_or(text);
            let line_start = before.rfind('\n').map_or(0, |end| end + 1);
            let (line, column) = (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1);
            Place::File { file: file.to_owned(), line, column }
        };
        let (root, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let place = at(error.span().map_or(0, |span| span.start));
            self.problems.push(Problem { place, message: error.message().to_owned() });
        }
        if !errors.is_empty() {
            return;
        }
        for (table, content) in root.get_ref() {
            let place = at(table.span().start);
            let table = table.get_ref().as_ref();
            let Some(keys) = content.get_ref().as_table() else {
                let message = match home_of(table) {
                    Some(home) => format!("`{table}` belongs into the table [{home}]"),
                    None => format!("`{table}` stands outside of a table and is no setting{}", near(table)),
                };
                self.problems.push(Problem { place, message });
                continue;
            };
            if crate::keyspaces::Tables::know(table) {
                self.read_named(table, keys, &at);
                continue;
            }
            if !SETTINGS.iter().any(|setting| setting.table == table) {
                let message = format!("no table is called [{table}]{}", near_table(table));
                self.problems.push(Problem { place, message });
                continue;
            }
            for (key, value) in keys {
                let name = key.get_ref().as_ref();
                match home_of(name) {
                    Some(home) if home == table => match texts_of(value.get_ref()) {
                        Ok(values) => self.give(name, &values, at(value.span().start)),
                        Err(message) => {
                            self.problems.push(Problem { place: at(value.span().start), message });
                        }
                    },
                    Some(home) => {
                        let message = format!("`{name}` belongs into the table [{home}]");
                        self.problems.push(Problem { place: at(key.span().start), message });
                    }
                    None => {
                        let message = format!("unknown key `{name}`{}", near(name));
                        self.problems.push(Problem { place: at(key.span().start), message });
                    }
                }
            }
        }
    }

    /// Tables with a name each: `[origin.NAME]`, `[keyspace.NAME]`.
    fn read_named(&mut self, table: &str, named: &DeTable<'_>, at: &dyn Fn(usize) -> Place) {
        for (name, content) in named {
            let place = at(name.span().start);
            let name = name.get_ref().as_ref();
            let Some(keys) = content.get_ref().as_table() else {
                let message =
                    format!("`{name}` stands in [{table}], where there are only tables: [{table}.NAME]");
                self.problems.push(Problem { place, message });
                continue;
            };
            let tables = &mut self.config.sources_of_truth;
            tables.touch(table, name);
            self.named_places.insert(format!("{table}.{name}"), place);
            for (key, value) in keys {
                let set = texts_of(value.get_ref())
                    .and_then(|values| Ok(one(&values)?.to_owned()))
                    .and_then(|text| tables.set(table, name, key.get_ref().as_ref(), &text));
                if let Err(message) = set {
                    self.problems.push(Problem { place: at(value.span().start), message });
                }
            }
        }
    }

    /// What must hold between settings.
    pub(super) fn hold_rules(&mut self) {
        let config = &mut self.config;
        let given = |name| self.places.contains_key(name);
        // Who asks for a listener of one protocol, or with TLS, does not want another one of all protocols beside it.
        let special = ["resp-listen", "memcached-listen", "tls-listen"];
        if special.into_iter().any(given) && !given("listen") {
            config.listen.clear();
        }
        // Ports of cores count up from the base; an admin port that nobody chose makes room for them.
        let base = config.listen.first().or(config.resp_listen.first()).map_or(0, SocketAddr::port);
        if config.has_core_ports()
            && !given("admin")
            && let Some(admin) = &mut config.admin
            && base > 1
            && admin.port() > base
        {
            admin.set_port(base - 1);
        }
        let mut broken: Vec<(&'static str, String)> = Vec::new();
        if config.listeners().is_empty() && config.unix_listen.is_empty() {
            broken.push((
                "listen",
                "nothing to listen on; give --listen, --resp-listen, --memcached-listen, --tls-listen or --unix-listen"
                    .to_owned(),
            ));
        }
        let auth_clients = config.auth_clients();
        if auth_clients != AuthClients::No && config.tls_ca_cert_file.is_none() {
            broken.push((
                "tls-auth-clients",
                "certificates of clients are asked for, and there is no --tls-ca-cert-file to look at them with"
                    .to_owned(),
            ));
        }
        if !config.tls_listen.is_empty() {
            let files = [("tls-cert-file", &config.tls_cert_file), ("tls-key-file", &config.tls_key_file)];
            for (name, _) in files.into_iter().filter(|(_, file)| file.is_none()) {
                broken.push(("tls-listen", format!("TLS needs a certificate and its key; give --{name}")));
            }
        }
        let stranger_welcome = config.user_table().welcome().is_some();
        if config.protected_mode {
            // Whoever has a certificate of our authorities is known.
            let over_tls = match auth_clients {
                AuthClients::Yes => &[],
                AuthClients::Optional | AuthClients::No => config.tls_listen.as_slice(),
            };
            let data = [
                ("listen", config.listen.as_slice()),
                ("resp-listen", &config.resp_listen),
                ("memcached-listen", &config.memcached_listen),
                ("tls-listen", over_tls),
            ];
            // The pages of the admin server know the password only.
            let admin = [("admin", config.admin.as_slice())];
            let data = data.into_iter().filter(|_| stranger_welcome);
            let listeners = data.chain(admin.into_iter().filter(|_| config.password.is_none()));
            for (name, addresses) in listeners {
                for address in addresses.iter().filter(|address| !address.ip().to_canonical().is_loopback()) {
                    broken.push((
                        name,
                        format!(
                            "{address} can be reached from other machines and there is no password: anybody there could \
                             read and change everything. Set {PASSWORD_VARIABLE} or --password-file, or listen on 127.0.0.1 (or say \
                             --protected-mode no, where something else keeps strangers out)"
                        ),
                    ));
                }
            }
        }
        let mut seen = BTreeMap::new();
        let all = config.listeners().into_iter().map(|listener| listener.address).chain(config.admin);
        for address in all.filter(|address| address.port() != 0) {
            if seen.insert(address, ()).is_some() {
                broken.push(("listen", format!("{address} is given twice")));
            }
        }
        if config.cluster_ports && config.listen.is_empty() && config.resp_listen.is_empty() {
            broken.push((
                "cluster-ports",
                "ports per core count up from a RESP port, and there is none; give --listen or --resp-listen"
                    .to_owned(),
            ));
        }
        match (&config.cluster, config.node_id) {
            (None, None) => {}
            (None, Some(_)) => {
                broken.push(("node-id", "there is no --cluster that it names a node of".to_owned()))
            }
            (Some(_), None) => {
                broken.push(("cluster", "which of the nodes is this? --node-id says it".to_owned()))
            }
            (Some(members), Some(node)) => {
                let own = members.of(node);
                match own {
                    None => broken.push(("node-id", format!("--cluster names no node {node}"))),
                    Some(own)
                        if config.listen.first().is_none_or(|listen| listen.port() != own.address.port()) =>
                    {
                        broken.push((
                            "cluster",
                            format!(
                                "node {node} is to be at {}, and --listen says another port",
                                own.address
                            ),
                        ));
                    }
                    Some(_) => {}
                }
                let first = members.list()[0].node;
                if node == first && config.metadata_file.is_none() {
                    broken.push((
                        "cluster",
                        format!("node {node} keeps the records of shards for all; give it --metadata-file"),
                    ));
                }
            }
        }
        if config.metadata_file.is_some() && config.cluster.is_none() {
            broken.push(("metadata-file", "without --cluster nothing is kept there".to_owned()));
        }
        if config.cluster.is_some() && !config.sources_of_truth.origins.is_empty() {
            broken.push((
                "cluster",
                "nodes of a cluster have no origins so far: what is known of those does not go along when a shard moves"
                    .to_owned(),
            ));
        }
        if config.output_soft_bytes > config.output_hard_bytes {
            let (soft, hard) = (config.output_soft_bytes as u64, config.output_hard_bytes as u64);
            let message = format!("{} is more than output-hard, {}", show_size(soft), show_size(hard));
            broken.push(("output-soft", message));
        }
        // The default is cut down to the memory there is; only what somebody asked for can be wrong.
        let item_bytes_max = usize::try_from(config.memory_bytes_max).unwrap_or(usize::MAX);
        for (name, bytes) in [
            ("item-size", &mut config.item_bytes_max),
            ("memcached-item-size", &mut config.memcached_item_bytes_max),
        ] {
            if *bytes > item_bytes_max && given(name) {
                let (item, memory) = (show_size(*bytes as u64), show_size(config.memory_bytes_max));
                broken.push((name, format!("{item} is more than all the memory for items, {memory}")));
            }
            *bytes = (*bytes).min(item_bytes_max);
        }
        if let Err(wrong) = config.sources_of_truth.resolve() {
            for (table, why) in wrong {
                let place = self.named_places.get(&table).cloned().unwrap_or(Place::Whole);
                self.problems.push(Problem { place, message: format!("[{table}]: {why}") });
            }
        }
        for (name, message) in broken {
            let place = self.places.get(name).cloned().unwrap_or(Place::Whole);
            self.problems.push(Problem { place, message });
        }
    }
}

/// The texts of a value in a file: those of an array, or one.
pub(super) fn texts_of(value: &DeValue<'_>) -> Result<Vec<String>, String> {
    match value {
        DeValue::String(text) => Ok(vec![text.to_string()]),
        DeValue::Integer(integer) if integer.radix() == 10 => Ok(vec![integer.as_str().to_owned()]),
        DeValue::Boolean(yes) => Ok(vec![yes.to_string()]),
        DeValue::Array(items) => {
            let texts: Result<Vec<_>, _> = items.iter().map(|item| texts_of(item.get_ref())).collect();
            Ok(texts?.concat())
        }
        other => {
            Err(format!("a {} cannot be a setting; give a string or a decimal number", other.type_str()))
        }
    }
}

/// The table a setting stands in.
pub(super) fn home_of(name: &str) -> Option<&'static str> {
    SETTINGS.iter().find(|setting| setting.name == name).map(|setting| setting.table)
}

/// How unlike two names may be for one to be suggested for the other.
pub(super) const SUGGESTION_EDITS_MAX: usize = 3;

pub(super) fn near(name: &str) -> String {
    // What people type who know another server, or write keys as Rust and Python do.
    let plain = name.to_lowercase().replace('_', "-");
    suggestion(&plain, SETTINGS.iter().map(|setting| setting.name))
        .and_then(|name| home_of(name).map(|home| format!("; did you mean `{name}` in [{home}]?")))
        .unwrap_or_default()
}

pub(super) fn near_table(table: &str) -> String {
    suggestion(&table.to_lowercase(), SETTINGS.iter().map(|setting| setting.table))
        .map(|table| format!("; did you mean [{table}]?"))
        .unwrap_or_else(|| {
            let mut tables: Vec<_> = SETTINGS.iter().map(|setting| format!("[{}]", setting.table)).collect();
            tables.dedup();
            format!("; there are {}", tables.join(", "))
        })
}

pub(super) fn suggestion(name: &str, known: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    known
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .filter(|(edits, known)| *edits <= SUGGESTION_EDITS_MAX.min(known.len() / 2))
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, known)| known)
}
