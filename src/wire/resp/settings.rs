//! `CONFIG`: settings as the node tells them, those of Redis that tools ask for, and the few that change at run time.

use super::commands::{Command, Id};
use super::parser::{Arguments, integer};
use super::reply::{self, SYNTAX, Shape};
use super::{Backend, ECHO_BYTES_MAX, Ex, Talk, echo, is};
use crate::request::{Setting, Verb};
use crate::topology::Node;
use crate::wire::denials::DENIALS_MAX;
use crate::wire::journal::Thresholds;
use crate::wire::users::DEFAULT;
use std::borrow::Cow;

/// Least and most memory for items, as the flag has them; the least may be more with many cores.
const MEMORY_BYTES_MIN: u64 = 8 << 20;
const MEMORY_BYTES_MAX: u64 = 256 << 40;
/// The one setting in bytes, beside the limit, that Redis' tools set.
const VALUE_MAX: &str = "proto-max-bulk-len";

impl Talk {
    pub(super) fn config<B: Backend>(
        &mut self,
        ex: &mut Ex<'_, B>,
        command: &'static Command,
        arguments: Arguments<'_>,
    ) {
        debug_assert!(command.id == Id::Config);
        match self.subcommand {
            "get" => {
                let mut settings = settings(ex.node, ex.backend.thresholds());
                settings.extend(self.no_password());
                let mut chosen = Vec::new();
                for (name, value) in &settings {
                    let wanted = arguments.from(2).find(|pattern| super::server::matches(pattern, name));
                    // A name that is asked for by itself is told as it was asked for.
                    let shown = wanted.map(|pattern| match pattern.iter().any(|b| b"*?[".contains(b)) {
                        true => name.as_bytes(),
                        false => pattern,
                    });
                    chosen.extend(shown.map(|shown| (shown, value)));
                }
                self.say(ex, |protocol, out| {
                    reply::map(out, protocol, chosen.len());
                    for (name, value) in &chosen {
                        reply::bulk(out, name);
                        reply::bulk(out, value.as_bytes());
                    }
                });
            }
            "set" => self.config_set(ex, arguments),
            "resetstat" => {
                self.ask_all(ex, Verb::ResetCounters, Shape::SumPart);
                ex.say(Shape::OkEnd, &[]);
            }
            "rewrite" => self.fail(ex, "ERR The server is running without a config file"),
            _ => self.help(ex, command),
        }
    }

    /// `requirepass` where there is none. A password itself is kept by nobody, and cannot be shown.
    fn no_password(&self) -> Option<(&'static str, Cow<'static, str>)> {
        let open = self.badge.users().find(DEFAULT).is_some_and(|user| user.needs_no_password());
        open.then_some(("requirepass", Cow::Borrowed("")))
    }

    /// `CONFIG SET name value [name value ..]`: all or none, as no core refuses what is within the bounds.
    fn config_set<B: Backend>(&mut self, ex: &mut Ex<'_, B>, arguments: Arguments<'_>) {
        if !arguments.len().is_multiple_of(2) {
            return self.fail(ex, SYNTAX);
        }
        let mut present = settings(ex.node, ex.backend.thresholds());
        present.extend(self.no_password());
        let memory_bytes_min = self.options.memory_bytes_min;
        let places = (2..arguments.len()).step_by(2);
        let mut changes = Vec::new();
        for place in places.clone() {
            let (name, value) = (arguments.at(place), arguments.at(place + 1));
            let Some((_, held)) = present.iter().find(|(known, _)| is(name, known)) else {
                let mut text = b"ERR Unknown option or number of arguments for CONFIG SET - '".to_vec();
                echo(&mut text, name, ECHO_BYTES_MAX);
                text.push(b'\'');
                return self.fail_bytes(ex, &text);
            };
            let twice =
                places.clone().any(|other| other > place && arguments.at(other).eq_ignore_ascii_case(name));
            let change = match twice {
                true => Err("duplicate parameter".into()),
                false => change(name, value, memory_bytes_min),
            };
            match change {
                Ok(Some(change)) => changes.push(change),
                Ok(None) if is(value, held) => {}
                Ok(None)
                    if is(name, VALUE_MAX)
                        && memory(value).is_some_and(|bytes| bytes.to_string() == *held) => {}
                Ok(None) => return self.config_failed(ex, name, "can't set immutable config"),
                Err(why) => return self.config_failed(ex, name, &why),
            }
        }
        for (setting, number) in changes {
            let verb = match setting {
                None => Verb::Limit { bytes: number as u64 },
                Some(setting) => Verb::Configure { setting, number },
            };
            for core in 0..ex.node.core_count() {
                let request = crate::request::Request { key: &[], value: &[], verb };
                ex.ask(crate::wire::Target::Core(crate::ids::CoreId(core)), &request, Shape::SumPart, &[]);
            }
        }
        ex.say(Shape::OkEnd, &[]);
    }

    fn config_failed<B: Backend>(&mut self, ex: &mut Ex<'_, B>, name: &[u8], why: &str) {
        let mut text = b"ERR CONFIG SET failed (possibly related to argument '".to_vec();
        echo(&mut text, name, ECHO_BYTES_MAX);
        text.extend_from_slice(b"') - ");
        text.extend_from_slice(why.as_bytes());
        self.fail_bytes(ex, &text);
    }
}

/// What a new value changes: a setting, or (`None`) the limit of memory. `Ok(None)`: it cannot change at run time.
type Change = (Option<Setting>, i64);

fn change(name: &[u8], value: &[u8], memory_bytes_min: u64) -> Result<Option<Change>, Cow<'static, str>> {
    let memory_bytes_min = memory_bytes_min.max(MEMORY_BYTES_MIN);
    let within = |least: i64, most: i64, setting| match integer(value) {
        None => Err("argument couldn't be parsed into an integer".into()),
        Some(number) if number < least || number > most => {
            Err(format!("argument must be between {least} and {most} inclusive").into())
        }
        Some(number) => Ok(Some((Some(setting), number))),
    };
    match () {
        () if is(name, "maxclients") => within(1, i64::from(u32::MAX), Setting::ClientsMax),
        () if is(name, "slowlog-log-slower-than") => within(-1, i64::MAX, Setting::SlowMicros),
        () if is(name, "slowlog-max-len") => within(0, i64::MAX, Setting::SlowCountMax),
        () if is(name, "latency-monitor-threshold") => within(0, i64::MAX, Setting::LatencyMillis),
        () if is(name, "maxmemory") => match memory(value) {
            None => Err("argument must be a memory value".into()),
            Some(bytes) if (memory_bytes_min..=MEMORY_BYTES_MAX).contains(&bytes) => {
                Ok(Some((None, bytes as i64)))
            }
            Some(_) => {
                let bounds = format!("between {memory_bytes_min} and {MEMORY_BYTES_MAX} inclusive");
                Err(format!("argument must be {bounds}: a cache has a limit").into())
            }
        },
        () => Ok(None),
    }
}

/// Bytes as Redis writes them: a number with or without a unit, of powers of 1000 (`k`, `m`, `g`) or 1024 (`kb`, `mb`, `gb`).
fn memory(text: &[u8]) -> Option<u64> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (number, unit) = text.split_at(digits);
    let scale: u64 = match unit.to_ascii_lowercase().as_slice() {
        b"" | b"b" => 1,
        b"k" => 1000,
        b"kb" => 1 << 10,
        b"m" => 1_000_000,
        b"mb" => 1 << 20,
        b"g" => 1_000_000_000,
        b"gb" => 1 << 30,
        _ => return None,
    };
    std::str::from_utf8(number).ok()?.parse::<u64>().ok()?.checked_mul(scale)
}

/// Settings as the node tells them, and those of Redis that tools ask for where the node does not.
fn settings(node: &Node, thresholds: Thresholds) -> Vec<(&str, Cow<'_, str>)> {
    let mut settings: Vec<(&str, Cow<'_, str>)> =
        node.settings.iter().map(|(name, value)| (name.as_str(), value.into())).collect();
    let usual = [
        ("acllog-max-len", DENIALS_MAX.to_string()),
        ("appendonly", "no".into()),
        ("appendfsync", "no".into()),
        ("bind", node.address.to_string()),
        ("cluster-enabled", if node.core_ports.is_empty() { "no" } else { "yes" }.into()),
        ("databases", "1".into()),
        ("latency-monitor-threshold", thresholds.latency_millis.to_string()),
        ("maxclients", node.clients_max.to_string()),
        ("maxmemory", node.memory_bytes_max.to_string()),
        ("maxmemory-policy", "allkeys-lru".into()),
        ("notify-keyspace-events", String::new()),
        ("port", node.port.to_string()),
        (VALUE_MAX, (512 * 1024 * 1024).to_string()),
        ("replica-read-only", "yes".into()),
        ("save", String::new()),
        ("slave-read-only", "yes".into()),
        ("slowlog-log-slower-than", thresholds.slow_micros.to_string()),
        ("slowlog-max-len", thresholds.slow_count_max.to_string()),
        ("tcp-keepalive", "300".into()),
        ("timeout", "0".into()),
    ];
    for (name, value) in usual {
        if settings.iter().all(|(known, _)| *known != name) {
            settings.push((name, value.into()));
        }
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_as_redis_does() {
        let texts: [&[u8]; 8] = [b"100", b"1k", b"1kb", b"2MB", b"1g", b"", b"mb", b"1x"];
        let bytes = [Some(100), Some(1000), Some(1024), Some(2 << 20), Some(1_000_000_000), None, None, None];
        assert_eq!(texts.map(memory), bytes);
        assert_eq!(memory(b"99999999999999999999gb"), None);
    }
}
