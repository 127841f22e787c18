//! The binary from outside: started on free ports, spoken to by sockets, stopped by signals.

mod admin;
mod commands;
mod connections;
mod costs;
mod environment;
mod hostile;
mod lifecycle;
mod long_values;
mod memcached;
mod moves;
mod observers;
mod origin_cluster;
mod origin_faults;
mod origin_storm;
mod origins;
mod origins_tls;
mod passing;
mod prefetch;
mod record;
mod redis_rs;
mod settings;
mod support;
mod tls;
mod transactions;
mod unix;
mod users;
