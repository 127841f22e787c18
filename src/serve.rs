//! `foreshadow serve`: takes the configuration apart, gives each room its part, and waits for the end.

use crate::config::{self, Config};
use crate::control::{self, keeper};
use crate::engine;
use crate::ids::CoreId;
use crate::io::tls::{self, Shelf};
use crate::io::{self, BusyPoll, Listeners, Listening, Opening, Shared, SocketFile, trust};
use crate::keyspaces::Papers;
use crate::origin::keyspace::Keyspaces;
use crate::origin::pool::Permits;
use crate::origin::{Kind, Target, TlsMode};
use crate::preflight;
use crate::store;
use crate::topology::{Cluster, Node, ShardMap};
use crate::wire::{self, Protocol};
use anyhow::{Context, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Receive buffers of a core with memory enough, and the bytes of each.
const RECEIVE_BUFFERS: u16 = 512;
const RECEIVE_BUFFER_BYTES: usize = 16 << 10;
/// The part of a core's memory that receive buffers may take: one in so many.
const RECEIVE_BUFFER_SHARE: u64 = 16;
/// Tries to find a run of free ports for `--cluster-ports` with port 0.
const PORT_RUN_TRIES: usize = 50;

/// Serves until told to stop.
///
/// # Errors
/// What kept it from serving: addresses taken, the ring refused, threads that could not be started.
pub fn serve(config: Config) -> anyhow::Result<()> {
    let mut known = config.clone();
    let exit_on_stdin_close = config.exit_on_stdin_close;
    // Before anyone can know that we serve, so that no signal meets the default of ending us.
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP]).context("signals")?;
    io::return_large_buffers();
    let running = start(config)?;
    announce(&running)?;
    let (shared, shelf, ready) = (running.shared.clone(), running.shelf.clone(), running.ready.clone());
    if exit_on_stdin_close {
        let (shared, ready) = (running.shared.clone(), running.ready.clone());
        std::thread::Builder::new().name("stdin".into()).spawn(move || {
            // Whatever ends standard input ends us: its close, or an error.
            let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
            ready.store(false, Ordering::Relaxed);
            shared.drain();
        })?;
    }
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let mut asked = false;
        for signal in signals.forever() {
            match signal {
                SIGHUP => reload(&mut known, &shared, shelf.as_deref()),
                _ if asked => std::process::exit(128 + signal),
                _ => {
                    asked = true;
                    tracing::info!("draining");
                    ready.store(false, Ordering::Relaxed);
                    shared.drain();
                }
            }
        }
    })?;
    let ended = running.cores.join();
    drop(running.socket_files);
    ended.context("a core failed")?;
    if let Some(records) = running.records {
        records.stop();
    }
    if let Some(admin) = running.admin {
        admin.stop();
    }
    tracing::info!("drained");
    Ok(())
}

struct Serving {
    cores: io::Running,
    admin: Option<control::AdminHandle>,
    ready: Arc<AtomicBool>,
    shared: Arc<Shared>,
    /// What connections over TLS begin with.
    shelf: Option<Arc<Shelf>>,
    node: Arc<Node>,
    /// Where, first of all.
    listen: String,
    tls_listen: Option<SocketAddr>,
    /// They are removed at the end.
    socket_files: Vec<SocketFile>,
    /// Who keeps the records of a cluster's shards, if that is this node.
    records: Option<control::metadata::Service>,
}

/// The one line on standard output.
fn announce(serving: &Serving) -> anyhow::Result<()> {
    let cpus: Vec<String> = serving.node.cpus.iter().map(|cpu| cpu.to_string()).collect();
    let admin =
        serving.admin.as_ref().map_or_else(|| "none".to_string(), |admin| admin.address().to_string());
    let tls = serving.tls_listen.map_or_else(String::new, |address| format!(" tls={address}"));
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "ready listen={} admin={admin} cores={} memory={} driver=io_uring{tls}",
        serving.listen,
        cpus.join(","),
        serving.node.memory_bytes_max
    )?;
    out.flush()?;
    Ok(())
}

fn start(config: Config) -> anyhow::Result<Serving> {
    let settings = config.settings();
    let has_core_ports = config.has_core_ports();
    let users = Arc::new(config.user_table());
    let guarded = config.is_guarded();
    let shelf = config.tls().transpose()?.map(|tls| Arc::new(Shelf::new(tls)));
    let places = config.listeners();
    let Config {
        listen: _,
        resp_listen: _,
        memcached_listen: _,
        unix_listen,
        unix_permissions,
        users: _,
        tls_names_users,
        protected_mode: _,
        tls_listen: _,
        tls_cert_file: _,
        tls_key_file: _,
        tls_ca_cert_file: _,
        tls_auth_clients: _,
        tls_protocols: _,
        cluster_ports: _,
        cluster,
        node_id,
        metadata_file,
        announce_ip,
        clients_max,
        password,
        query_buffer_bytes_max,
        output_soft_bytes,
        output_hard_bytes,
        command_timeout,
        auth_timeout,
        drain_timeout,
        memory_bytes_max,
        item_bytes_max,
        memcached_item_bytes_max,
        cores: cpus,
        busy_poll,
        admin,
        log_level: _,
        log_format: _,
        exit_on_stdin_close: _,
        sources_of_truth,
        sources: _,
    } = config;
    let core_count = u16::try_from(cpus.len()).context("more than 65535 cores")?;
    let mut listeners: Vec<Listeners> = (0..core_count).map(|_| Listeners::new()).collect();
    let mut addresses = Vec::new();
    let mut core_ports = Vec::new();
    let mut tls_listen = None;
    for config::Listener { address: wanted, protocol, tls } in places {
        let with_ports = has_core_ports && addresses.is_empty();
        let shelf = shelf.as_ref().filter(|_| tls);
        let (address, ports) = bind_all(wanted, protocol, shelf, with_ports, &mut listeners)?;
        addresses.push(address);
        if tls {
            tls_listen.get_or_insert(address);
        }
        if with_ports {
            core_ports = ports;
        }
    }
    let mut socket_files = Vec::new();
    for path in &unix_listen {
        let cannot = || format!("cannot listen on {}", path.display());
        let (socket, file) = io::bind_path(path, unix_permissions).with_context(cannot)?;
        for core in &mut listeners {
            // The kernel spreads no connections over several sockets of one path, so all cores accept from one.
            let socket = socket.try_clone().with_context(cannot)?;
            core.push(Listening { socket, protocol: Protocol::Sniff, own: false, tls: None });
        }
        socket_files.push(file);
    }
    // Without an address there are only sockets of this machine.
    let listen = addresses.first().copied().unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
    let first_path = unix_listen.first().map(|path| format!("unix:{}", path.display()));
    let announced = match (addresses.first(), first_path) {
        (Some(address), _) => address.to_string(),
        (None, Some(path)) => path,
        (None, None) => bail!("there is no address to listen on: give --listen or one of its relatives"),
    };
    let receive_buffers = receive_buffers(memory_bytes_max / u64::from(core_count));
    let wanted = io::Wanted {
        item_bytes: item_bytes_max,
        memcached_item_bytes: memcached_item_bytes_max,
        output_soft_bytes,
    };
    let limits =
        io::Limits::new(memory_bytes_max, core_count, receive_buffers, RECEIVE_BUFFER_BYTES, &wanted);
    let mut settings = settings;
    for (name, value) in &mut settings {
        match name.as_str() {
            "item-size" => *value = config::show_size(limits.item_bytes as u64),
            "memcached-item-size" => *value = config::show_size(limits.memcached_item_bytes as u64),
            _ => {}
        }
    }
    let started = io::now();
    // A process that begins later has a greater number, unless somebody has set the clock back.
    let cluster =
        cluster.zip(node_id).and_then(|(members, node)| Cluster::new(&members, node, started.wall.0));
    let map = cluster.as_ref().map_or_else(|| ShardMap::on_cores(core_count), Cluster::placed);
    let cluster = cluster.map(Arc::new);
    let shared = Arc::new(Shared::new(u64::from(clients_max)));
    let is_keeper = cluster.as_ref().is_some_and(|cluster| cluster.keeper() == CoreId(0));
    let (keeper, records) = match metadata_file.filter(|_| is_keeper) {
        Some(path) => {
            let shared = shared.clone();
            let give: keeper::Give = Arc::new(move |kept| shared.give_kept(kept));
            let (keeper, records) = keeper::start(path, &cpus, || io::now().mono, give)?;
            (Some(keeper), Some(records))
        }
        None => (None, None),
    };
    let link_password: Arc<str> = password.as_ref().map_or("", |password| &password.0).into();
    let node = Arc::new(Node {
        run_id: random_bytes::<20>()?.iter().map(|byte| format!("{byte:02x}")).collect(),
        version: env!("CARGO_PKG_VERSION"),
        process_id: std::process::id(),
        started,
        address: announce_ip.unwrap_or_else(|| reachable(listen.ip())),
        port: listen.port(),
        core_ports,
        cpus: cpus.clone(),
        memory_bytes_max,
        clients_max: u64::from(clients_max),
        settings,
        map,
        cluster,
    });
    let admin_password = password.as_ref().map(|password| password.0.clone());
    let mut wire = wire::Options {
        users,
        guarded,
        query_buffer_bytes_max,
        memory_bytes_min: io::Options::memory_bytes_least(core_count, receive_buffers, RECEIVE_BUFFER_BYTES),
        ..wire::Options::default()
    };
    limits.apply(&mut wire);
    let hash_secret = [u64::from_le_bytes(random_bytes()?), u64::from_le_bytes(random_bytes()?)];
    let sources = Arc::new(sources_of(&sources_of_truth)?);
    let cores: Vec<(io::Options, Listeners)> = cpus
        .iter()
        .zip(listeners)
        .enumerate()
        .map(|(place, (&cpu, listeners))| {
            let options = io::Options {
                cpu,
                engine: engine::Options {
                    store: store::Options {
                        memory_bytes_max: limits.store_bytes,
                        item_bytes_max: limits.item_bytes,
                        hash_secret,
                    },
                    seed: hash_secret[0] ^ cpu as u64,
                },
                wire: wire.clone(),
                certificates_name_users: tls_names_users,
                busy_poll: match busy_poll {
                    config::BusyPoll::Auto => BusyPoll::Auto,
                    config::BusyPoll::Micros(micros) => BusyPoll::Micros(micros),
                },
                receive_buffers,
                receive_buffer_bytes: RECEIVE_BUFFER_BYTES,
                output_hard_bytes,
                buffer_bytes_max: limits.buffer_bytes,
                wanted,
                unfinished_millis_max: command_timeout.as_millis() as u64,
                unauthenticated_millis_max: auth_timeout.as_millis() as u64,
                drain_millis_max: drain_timeout.as_millis() as u64,
                sources: sources.clone(),
                link_password: link_password.clone(),
                keeper: keeper.clone().filter(|_| place == 0),
            };
            (options, listeners)
        })
        .collect();
    let (reports, inbox) = std::sync::mpsc::sync_channel(control::REPORTS_MAX);
    let ready = Arc::new(AtomicBool::new(false));
    let admin = match admin {
        Some(address) => {
            let options = control::Options {
                address,
                password: admin_password,
                node: node.clone(),
                reports: inbox,
                ready: ready.clone(),
                names: control::Names {
                    origins: sources
                        .origins
                        .iter()
                        .map(|origin| (origin.name.clone(), origin.target.to_string()))
                        .collect(),
                    keyspaces: sources.keyspaces.clone(),
                },
                carrier: {
                    let shared = shared.clone();
                    Arc::new(move |errand| shared.carry(errand))
                },
            };
            let cannot = || format!("the admin server cannot listen on {address}");
            Some(control::start(options).with_context(cannot)?)
        }
        None => None,
    };
    let report = move |report| {
        // A control thread that does not keep up misses a second; the counters are totals, so nothing is lost.
        let _ = reports.try_send(report);
    };
    let cores = io::start(cores, node.clone(), shared.clone(), report, |_, _| {})
        .context("the cores could not be started")?;
    ready.store(true, Ordering::Relaxed);
    Ok(Serving {
        cores,
        admin,
        ready,
        shared,
        shelf,
        node,
        listen: announced,
        socket_files,
        tls_listen,
        records,
    })
}

/// Applies other keyspaces; other origins take a restart, and with them keyspaces that need them.
fn reload_keyspaces(known: &Config, config: &Config, shared: &Shared) {
    let (before, after) = (known.sources_of_truth.resolve(), config.sources_of_truth.resolve());
    // Both were resolved when they were gathered.
    let (Ok((origins, keyspaces)), Ok((new_origins, new_keyspaces))) = (before, after) else { return };
    if origins != new_origins {
        tracing::warn!("other origins, and other prefixes that they are to tell changes of, take a restart");
    } else if keyspaces != new_keyspaces {
        let keyspaces = Arc::new(Keyspaces::new(new_keyspaces));
        tracing::info!(keyspaces = keyspaces.list().len(), "keyspaces reloaded");
        shared.set_keyspaces(keyspaces);
    }
}

/// Applies other users. Those that the configuration says nothing else of than before stay as clients have made them.
fn reload_users(known: &Config, config: &Config, shared: &Shared) {
    let (before, after) = (known.user_table(), config.user_table());
    let gone = before.iter().filter(|user| after.find(user.name()).is_none());
    let gone = gone.map(|user| (user.name().to_vec(), Vec::new()));
    let changed = after.iter().filter(|user| before.find(user.name()) != Some(*user));
    let changed = changed.map(|user| (user.name().to_vec(), [b"reset ", &user.rules()[..]].concat()));
    let changes: Vec<_> = gone.chain(changed).collect();
    if !changes.is_empty() {
        tracing::info!(users = changes.len(), "users reloaded");
        shared.set_users(changes);
    }
}

/// Where Linux systems keep the certificates that they trust, the usual place first.
const SYSTEM_AUTHORITIES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Whom to trust of an origin that is spoken to by TLS, and who it must prove to be.
fn tls_of(target: &Target, papers: &Papers) -> anyhow::Result<Option<io::OriginTls>> {
    if !target.tls {
        return Ok(None);
    }
    let own = papers.certificate.as_ref().zip(papers.key.as_ref());
    let own = own.map(|(certificate, key)| tls::Files { certificate: certificate.into(), key: key.into() });
    let name = rustls::pki_types::ServerName::try_from(target.host.clone())
        .with_context(|| format!("`{}` can stand in no certificate", target.host))?;
    let mode = match &target.kind {
        Kind::Postgres(queries) => Some(queries.tls_mode()),
        _ => None,
    };
    let opening = match mode {
        Some(mode) => Opening::Asked { clear: mode == TlsMode::Prefer },
        None => Opening::AtOnce,
    };
    if matches!(mode, Some(TlsMode::Prefer | TlsMode::Require)) {
        let config = trust::anybody(own.as_ref())?;
        return Ok(Some(io::OriginTls { config, name, opening }));
    }
    let system =
        || SYSTEM_AUTHORITIES.map(Path::new).into_iter().find(|path| path.exists()).map(Path::to_owned);
    let authorities = papers.authorities.as_ref().map(PathBuf::from).or_else(system);
    let authorities = authorities
        .context("this system keeps no certificates of authorities where they usually are; give `ca`")?;
    let config = match mode {
        Some(TlsMode::VerifyCa) => trust::whoever_is_signed(&authorities, own.as_ref())?,
        _ => tls::client(&authorities, own.as_ref())?,
    };
    Ok(Some(io::OriginTls { config, name, opening }))
}

/// Origins and keyspaces as the cores want them.
fn sources_of(tables: &crate::keyspaces::Tables) -> anyhow::Result<io::Sources> {
    let (origins, keyspaces) = tables.resolve().map_err(|wrong| anyhow::anyhow!("{wrong:?}"))?;
    let origins: anyhow::Result<Vec<_>> = origins
        .iter()
        .map(|origin| {
            let target = origin.target.clone().context("resolving looks for it")?;
            let tls = tls_of(&target, &origin.papers).with_context(|| format!("[origin.{}]", origin.name))?;
            Ok(io::OriginOptions {
                tls,
                name: origin.name.clone(),
                addresses: io::Addresses::of(&target).context("the thread that looks up addresses")?,
                target: Arc::new(target),
                pool: origin.pool(),
                private_lines_max: origin.private_lines_max,
                permits: Arc::new(Permits::new(origin.concurrency_max)),
            })
        })
        .collect();
    Ok(io::Sources { origins: origins?, keyspaces: Arc::new(Keyspaces::new(keyspaces)) })
}

/// Binds an address for every core, and with `core_ports` a port of its own for each: base + 1 + core.
fn bind_all(
    wanted: SocketAddr,
    protocol: Protocol,
    tls: Option<&Arc<Shelf>>,
    with_core_ports: bool,
    listeners: &mut [Listeners],
) -> anyhow::Result<(SocketAddr, Vec<u16>)> {
    let cannot = |address: SocketAddr| move || format!("cannot listen on {address}");
    for attempt in 1.. {
        let shared = listeners.len() > 1;
        if shared && wanted.port() != 0 {
            io::claim(wanted).with_context(cannot(wanted))?;
        }
        let first = io::bind(wanted, shared).with_context(cannot(wanted))?;
        let address = first.local_addr()?.as_socket().expect("bound to an internet address");
        let mut own = Vec::new();
        if with_core_ports {
            let run: anyhow::Result<Vec<_>> = (0..listeners.len() as u16)
                .map(|core| {
                    let port =
                        address.port().checked_add(1 + core).context("the ports of the cores pass 65535")?;
                    let address = SocketAddr::new(address.ip(), port);
                    Ok((io::bind(address, false).with_context(cannot(address))?, port))
                })
                .collect();
            match run {
                Ok(run) => own = run,
                // With port 0 the neighbours of the port that the kernel picked may be taken: let it pick again.
                Err(_) if wanted.port() == 0 && attempt < PORT_RUN_TRIES => continue,
                Err(error) => return Err(error),
            }
        }
        let mut main = vec![first];
        for _ in 1..listeners.len() {
            main.push(io::bind(address, shared).with_context(cannot(address))?);
        }
        for (core, socket) in listeners.iter_mut().zip(main) {
            core.push(Listening { socket, protocol, own: false, tls: tls.cloned() });
        }
        let mut ports = Vec::new();
        for (core, (socket, port)) in listeners.iter_mut().zip(own) {
            core.push(Listening { socket, protocol, own: true, tls: tls.cloned() });
            ports.push(port);
        }
        return Ok((address, ports));
    }
    unreachable!("the loop ends by returning")
}

/// An address that clients on this machine can use where we listen on all.
fn reachable(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) if v4.is_unspecified() => IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        IpAddr::V6(v6) if v6.is_unspecified() => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        address => address,
    }
}

/// A power of two of buffers that fits its share of a small core's memory.
fn receive_buffers(core_memory: u64) -> u16 {
    let fit = core_memory / RECEIVE_BUFFER_SHARE / RECEIVE_BUFFER_BYTES as u64;
    let fit = fit.clamp(16, u64::from(RECEIVE_BUFFERS)) as u16;
    1 << fit.ilog2()
}

fn random_bytes<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("/dev/urandom")?;
    Ok(bytes)
}

/// Reads the configuration again and applies what can change while serving; a broken one changes nothing.
fn reload(known: &mut Config, shared: &Shared, shelf: Option<&Shelf>) {
    match known.reload() {
        Ok(config) => {
            // What the file asks for and what the machine allows are two things, now as at the start.
            let mut settled = config.clone();
            if let Err(failures) = preflight::run(&mut settled) {
                for failure in failures {
                    tracing::error!("the configuration was not reloaded, the old one stays: {failure}");
                }
                return;
            }
            // Pre-flight has read them; a file that goes wrong in this very moment leaves the old ones.
            if let (Some(shelf), Some(Ok(tls))) = (shelf, config.tls()) {
                shelf.replace(tls);
            }
            shared.set_clients_max(u64::from(settled.clients_max));
            // A limit that a client changed meanwhile stays unless the configuration says another one than before.
            if config.memory_bytes_max != known.memory_bytes_max {
                shared.set_memory_bytes_max(config.memory_bytes_max);
            }
            reload_keyspaces(known, &config, shared);
            reload_users(known, &config, shared);
            tracing::info!(
                clients_max = settled.clients_max,
                memory = config.memory_bytes_max,
                "reloaded, certificates included; all other settings take a restart"
            );
            *known = config;
        }
        Err(problems) => {
            for problem in problems {
                tracing::error!("the configuration was not reloaded, the old one stays: {problem}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_memories_get_fewer_receive_buffers() {
        assert_eq!(receive_buffers(1 << 30), RECEIVE_BUFFERS);
        assert_eq!(receive_buffers(64 << 20), 256);
        assert_eq!(receive_buffers(1 << 20), 16);
    }

    #[test]
    fn cores_share_an_address_and_get_ports_in_a_row() {
        let mut listeners = vec![Listeners::new(), Listeners::new()];
        let wanted = "127.0.0.1:0".parse().expect("valid");
        let (address, ports) =
            bind_all(wanted, Protocol::Sniff, None, true, &mut listeners).expect("free ports");
        assert_eq!(ports, [address.port() + 1, address.port() + 2]);
        assert!(listeners.iter().all(|core| core.len() == 2));
    }
}
