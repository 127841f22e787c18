//! The binary from outside: started on free ports, spoken to by sockets, stopped by signals.

mod admin;
mod commands;
mod connections;
mod costs;
mod environment;
mod lifecycle;
mod support;
