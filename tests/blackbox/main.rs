//! The binary from outside: started on free ports, spoken to by sockets, stopped by signals.

mod admin;
mod commands;
mod connections;
mod costs;
mod environment;
mod hostile;
mod lifecycle;
mod memcached;
mod observers;
mod origin_faults;
mod origin_storm;
mod origins;
mod passing;
mod prefetch;
mod private_lines;
mod record;
mod redis_rs;
mod settings;
mod support;
mod tls;
mod transactions;
mod unix;
mod users;
