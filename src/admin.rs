//! Asking the admin pages of a running server, for the subcommands that do.

use crate::config::Password;
use anyhow::{Context, bail};
use base64::Engine as _;
use clap::{Arg, ArgMatches};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long the server may take to say something.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most bytes of a JSON answer.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// Most lines of an answer's head, and bytes of one.
const HEAD_LINES_MAX: usize = 64;
const HEAD_LINE_BYTES_MAX: u64 = 4096;

/// The flag that says where the server's admin pages are.
pub fn flag() -> Arg {
    Arg::new("admin")
        .long("admin")
        .value_name("ADDR")
        .default_value("127.0.0.1:7401")
        .value_parser(clap::value_parser!(SocketAddr))
        .help("The server's admin address; a password is taken from FORESHADOW_PASSWORD")
}

/// What [`flag`] says.
///
/// # Panics
/// If the command has no such flag.
pub fn of(matches: &ArgMatches) -> SocketAddr {
    *matches.get_one("admin").expect("it has a default")
}

/// Has the server do something; answers what it says of it, as JSON.
///
/// # Errors
/// As of [`json`].
pub fn post(admin: SocketAddr, path: &str) -> anyhow::Result<Value> {
    read_json(ask(admin, "POST", path)?)
}

/// Asks for a page; its body comes out of the reader, which ends with the connection.
///
/// # Errors
/// Nobody answers, or the server refuses; the latter's words are in the error.
pub fn open(admin: SocketAddr, path: &str) -> anyhow::Result<BufReader<TcpStream>> {
    ask(admin, "GET", path)
}

fn ask(admin: SocketAddr, method: &str, path: &str) -> anyhow::Result<BufReader<TcpStream>> {
    let mut stream = TcpStream::connect_timeout(&admin, PATIENCE)
        .with_context(|| format!("nobody answers at the admin address {admin} (--admin names another)"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let password = Password::of_environment().map(|password| {
        let pair = base64::engine::general_purpose::STANDARD.encode(format!("default:{}", password.0));
        format!("Authorization: Basic {pair}\r\n")
    });
    let password = password.unwrap_or_default();
    // By the older version of HTTP bodies have no numbers of lengths around their pieces.
    let length = if method == "POST" { "Content-Length: 0\r\n" } else { "" };
    let head = format!("{method} {path} HTTP/1.0\r\nHost: {admin}\r\n{length}{password}\r\n");
    stream.write_all(head.as_bytes())?;
    let mut reader = BufReader::new(stream);
    let status = head_line(&mut reader)?;
    let mut lines = 0;
    while !head_line(&mut reader)?.is_empty() {
        lines += 1;
        if lines > HEAD_LINES_MAX {
            bail!("the server's answer has no end of its head");
        }
    }
    if status.split(' ').nth(1) != Some("200") {
        let mut why = String::new();
        // What cannot be read of the reason is left out of it.
        let _ = reader.take(HEAD_LINE_BYTES_MAX).read_to_string(&mut why);
        let why = why.trim();
        bail!("the server refuses: {status}{}{why}", if why.is_empty() { "" } else { ": " });
    }
    Ok(reader)
}

/// Asks for a page of JSON.
///
/// # Errors
/// As of [`open`], and if the page is none.
pub fn json(admin: SocketAddr, path: &str) -> anyhow::Result<Value> {
    read_json(open(admin, path)?)
}

fn read_json(answer: BufReader<TcpStream>) -> anyhow::Result<Value> {
    let mut body = String::new();
    answer.take(ANSWER_BYTES_MAX).read_to_string(&mut body).context("the server's answer")?;
    serde_json::from_str(&body).context("the server's answer")
}

/// How bytes stand in the query of a page's address.
pub fn quoted(bytes: &[u8]) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let shown = |&byte: &u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    bytes.iter().map(shown).collect()
}

fn head_line(reader: &mut BufReader<TcpStream>) -> anyhow::Result<String> {
    let mut line = String::new();
    let read =
        reader.by_ref().take(HEAD_LINE_BYTES_MAX).read_line(&mut line).context("the server's answer")?;
    if read == 0 || !line.ends_with('\n') {
        bail!("the server's answer ends in its head");
    }
    Ok(line.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn answers(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                asked.extend(byte);
            }
            stream.write_all(answer.as_bytes()).unwrap();
        });
        address
    }

    #[test]
    fn a_page_is_read_and_a_refusal_told_with_its_reason() {
        let page = json(answers("HTTP/1.0 200 OK\r\ncontent-length: 9\r\n\r\n{\"a\": 1}\n"), "/x").unwrap();
        assert_eq!(page["a"], 1);
        let why = json(answers("HTTP/1.0 409 Conflict\r\n\r\nsomebody is there\n"), "/x").unwrap_err();
        assert_eq!(why.to_string(), "the server refuses: HTTP/1.0 409 Conflict: somebody is there");
        for cut in ["", "HTTP/1.0 200 OK\r\n", "HTTP/1.0 200 OK\r\na: b\r\n"] {
            let why = json(answers(cut), "/x").unwrap_err();
            assert!(why.to_string().contains("ends in its head"), "{why}");
        }
    }

    #[test]
    fn any_key_can_stand_in_an_address() {
        assert_eq!(quoted(b"user:7 a/\xff-~"), "user%3A7%20a%2F%FF-~");
    }
}
