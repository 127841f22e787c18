//! `foreshadow serve`: takes the configuration apart, gives each room its part, and waits for the end.

use crate::config::{self, Config};
use crate::control;
use crate::engine;
use crate::io::{self, BusyPoll, Listeners, Listening, Shared};
use crate::store;
use crate::topology::{Node, ShardMap};
use crate::wire::{self, Protocol};
use anyhow::{Context, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Receive buffers of a core with memory enough, and the bytes of each.
const RECEIVE_BUFFERS: u16 = 512;
const RECEIVE_BUFFER_BYTES: usize = 16 << 10;
/// The part of a core's memory that receive buffers may take: one in so many.
const RECEIVE_BUFFER_SHARE: u64 = 16;
/// The part of memory that all buffers of connections may take: one in so many, and never less than this.
const CLIENT_BUFFER_SHARE: u64 = 10;
const CLIENT_BUFFER_BYTES_MIN: u64 = 8 << 20;
/// Least memory of a core's store.
const STORE_BYTES_MIN: u64 = 1 << 20;
/// Tries to find a run of free ports for `--cluster-ports` with port 0.
const PORT_RUN_TRIES: usize = 50;

/// Serves until told to stop.
///
/// # Errors
/// What kept it from serving: addresses taken, the ring refused, threads that could not be started.
pub fn serve(config: Config) -> anyhow::Result<()> {
    let before = config.clone();
    let exit_on_stdin_close = config.exit_on_stdin_close;
    // Before anyone can know that we serve, so that no signal meets the default of ending us.
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP]).context("signals")?;
    let running = start(config)?;
    announce(&running)?;
    let shared = running.shared.clone();
    if exit_on_stdin_close {
        let shared = running.shared.clone();
        std::thread::Builder::new().name("stdin".into()).spawn(move || {
            // Whatever ends standard input ends us: its close, or an error.
            let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
            shared.drain();
        })?;
    }
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let mut asked = false;
        for signal in signals.forever() {
            match signal {
                SIGHUP => reload(&before, &shared),
                _ if asked => std::process::exit(128 + signal),
                _ => {
                    asked = true;
                    tracing::info!("draining");
                    shared.drain();
                }
            }
        }
    })?;
    running.cores.join().context("a core failed")?;
    running.ready.store(false, Ordering::Relaxed);
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
    node: Arc<Node>,
    listen: SocketAddr,
}

/// The one line on standard output.
fn announce(serving: &Serving) -> anyhow::Result<()> {
    let cpus: Vec<String> = serving.node.cpus.iter().map(|cpu| cpu.to_string()).collect();
    let admin =
        serving.admin.as_ref().map_or_else(|| "none".to_string(), |admin| admin.address().to_string());
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "ready listen={} admin={admin} cores={} memory={} driver=io_uring",
        serving.listen,
        cpus.join(","),
        serving.node.memory_bytes_max
    )?;
    out.flush()?;
    Ok(())
}

fn start(config: Config) -> anyhow::Result<Serving> {
    let settings = config.settings();
    let Config {
        listen,
        resp_listen,
        memcached_listen,
        cluster_ports,
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
        sources: _,
    } = config;
    let core_count = u16::try_from(cpus.len()).context("more than 65535 cores")?;
    let mut listeners: Vec<Listeners> = (0..core_count).map(|_| Listeners::new()).collect();
    let mut addresses = Vec::new();
    let mut core_ports = Vec::new();
    for (group, protocol) in
        [(&listen, Protocol::Sniff), (&resp_listen, Protocol::Resp), (&memcached_listen, Protocol::Memcached)]
    {
        for &wanted in group {
            let with_ports = cluster_ports && addresses.is_empty();
            let (address, ports) = bind_all(wanted, protocol, with_ports, &mut listeners)?;
            addresses.push(address);
            if with_ports {
                core_ports = ports;
            }
        }
    }
    let Some(&listen) = addresses.first() else {
        bail!("there is no address to listen on: give --listen, --resp-listen or --memcached-listen");
    };
    let started = io::now();
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
        map: ShardMap::on_cores(core_count),
    });
    let core_memory = memory_bytes_max / u64::from(core_count);
    let buffer_bytes_max = (core_memory / CLIENT_BUFFER_SHARE).max(CLIENT_BUFFER_BYTES_MIN);
    // One client that does not take its replies is to be stopped, not closed: what is being sent and what waits behind it
    // must fit, with room for others.
    let output_soft_bytes = output_soft_bytes.min(buffer_bytes_max as usize / 3);
    let admin_password = password.as_ref().map(|password| password.0.clone());
    let wire = wire::Options {
        password: password.map(|password| password.0),
        value_bytes_max: item_bytes_max,
        memcached_value_bytes_max: memcached_item_bytes_max,
        query_buffer_bytes_max,
        output_soft_bytes,
        ..wire::Options::default()
    };
    let receive_buffers = receive_buffers(core_memory);
    let store_bytes = core_memory
        .saturating_sub(u64::from(receive_buffers) * RECEIVE_BUFFER_BYTES as u64)
        .max(STORE_BYTES_MIN);
    let hash_secret = [u64::from_le_bytes(random_bytes()?), u64::from_le_bytes(random_bytes()?)];
    let cores: Vec<(io::Options, Listeners)> = cpus
        .iter()
        .zip(listeners)
        .map(|(&cpu, listeners)| {
            let options = io::Options {
                cpu,
                engine: engine::Options {
                    store: store::Options { memory_bytes_max: store_bytes, item_bytes_max, hash_secret },
                    seed: hash_secret[0] ^ cpu as u64,
                },
                wire: wire.clone(),
                busy_poll: match busy_poll {
                    config::BusyPoll::Auto => BusyPoll::Auto,
                    config::BusyPoll::Micros(micros) => BusyPoll::Micros(micros),
                },
                receive_buffers,
                receive_buffer_bytes: RECEIVE_BUFFER_BYTES,
                output_hard_bytes,
                buffer_bytes_max,
                unfinished_millis_max: command_timeout.as_millis() as u64,
                unauthenticated_millis_max: auth_timeout.as_millis() as u64,
                drain_millis_max: drain_timeout.as_millis() as u64,
            };
            (options, listeners)
        })
        .collect();
    let shared = Arc::new(Shared::new(u64::from(clients_max)));
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
    Ok(Serving { cores, admin, ready, shared, node, listen })
}

/// Binds an address for every core, and with `core_ports` a port of its own for each: base + 1 + core.
fn bind_all(
    wanted: SocketAddr,
    protocol: Protocol,
    with_core_ports: bool,
    listeners: &mut [Listeners],
) -> anyhow::Result<(SocketAddr, Vec<u16>)> {
    let cannot = |address: SocketAddr| move || format!("cannot listen on {address}");
    for attempt in 1.. {
        let shared = listeners.len() > 1;
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
            core.push(Listening { socket, protocol, own: false });
        }
        let mut ports = Vec::new();
        for (core, (socket, port)) in listeners.iter_mut().zip(own) {
            core.push(Listening { socket, protocol, own: true });
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
fn reload(config: &Config, shared: &Shared) {
    match config.reload() {
        Ok(config) => {
            shared.set_clients_max(u64::from(config.clients_max));
            tracing::info!(clients_max = config.clients_max, "reloaded; all other settings take a restart");
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
        let (address, ports) = bind_all(wanted, Protocol::Sniff, true, &mut listeners).expect("free ports");
        assert_eq!(ports, [address.port() + 1, address.port() + 2]);
        assert!(listeners.iter().all(|core| core.len() == 2));
    }
}
