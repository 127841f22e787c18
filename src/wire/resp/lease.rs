//! `LEASEGET`, `LEASESET` and `LEASEDEL`: the right to fill an item, as `proto-spec/leases.md` has it.

use super::is;
use super::keys::{Refusal, lifetime, time_option};
use super::parser::{Arguments, unsigned};
use super::reply::{SYNTAX, bulk, bulk_value, header, null};
use crate::clock::Now;
use crate::ids::Version;
use crate::request::{Condition, Expiry, ExpiryChange, Fetch, Item, Put, Remove, Value, Verb};
use crate::wire::Output;

/// How long the right to fill is held if nothing is said, and at most.
const LEASE_MILLIS: u64 = 10_000;
const LEASE_MILLIS_MAX: u64 = 600_000;

const BAD_TOKEN: Refusal<'_> = Refusal::Text("ERR invalid lease token");

/// `LEASEGET key [EX seconds | PX milliseconds]`
pub(super) fn get(now: Now, arguments: Arguments<'_>) -> Result<Verb, Refusal<'static>> {
    let until = match arguments.len() {
        2 => Expiry::At(now.mono.plus_millis(LEASE_MILLIS)),
        4 => {
            let Some((unit, false)) = time_option(arguments.at(2)) else { return Err(Refusal::Text(SYNTAX)) };
            let until = lifetime(now, arguments.at(3), unit, false)?;
            let latest = now.mono.plus_millis(LEASE_MILLIS_MAX);
            if matches!(until, Expiry::At(at) if at > latest) {
                return Err(Refusal::ExpireTime);
            }
            until
        }
        _ => return Err(Refusal::Text(SYNTAX)),
    };
    Ok(Verb::Fetch(Fetch { vivify: Some(until), ..Fetch::PLAIN }))
}

/// `LEASESET key token value [EX seconds | PX milliseconds | EXAT time | PXAT time | KEEPTTL]`
pub(super) fn put(now: Now, arguments: Arguments<'_>) -> Result<Verb, Refusal<'static>> {
    let expiry = match arguments.len() {
        4 => ExpiryChange::Set(Expiry::Never),
        5 if is(arguments.at(4), "keepttl") => ExpiryChange::Keep,
        6 => {
            let (unit, absolute) = time_option(arguments.at(4)).ok_or(Refusal::Text(SYNTAX))?;
            ExpiryChange::Set(lifetime(now, arguments.at(5), unit, absolute)?)
        }
        _ => return Err(Refusal::Text(SYNTAX)),
    };
    let condition = Condition::VersionIs(token(arguments.at(2))?);
    Ok(Verb::Put(Put { expiry, condition, ..Put::plain(Expiry::Never) }))
}

/// `LEASEDEL key [TOKEN token] [STALE]`
pub(super) fn remove(arguments: Arguments<'_>) -> Result<Verb, Refusal<'static>> {
    let mut remove = Remove::PLAIN;
    let mut i = 2;
    while i < arguments.len() {
        if is(arguments.at(i), "stale") && !remove.stale {
            remove.stale = true;
        } else if is(arguments.at(i), "token")
            && i + 1 < arguments.len()
            && remove.condition == Condition::Always
        {
            i += 1;
            remove.condition = Condition::VersionIs(token(arguments.at(i))?);
        } else {
            return Err(Refusal::Text(SYNTAX));
        }
        i += 1;
    }
    Ok(Verb::Remove(remove))
}

fn token(text: &[u8]) -> Result<Version, Refusal<'static>> {
    unsigned(text).map(Version).ok_or(BAD_TOKEN)
}

/// The answer to `LEASEGET`: state, token and value.
pub(super) fn write(protocol: u8, item: &Item, value: &Value<'_>, out: &mut Output) {
    let lease = item.lease;
    // There is no value yet: a stale one could still be served, this cannot.
    let hollow = !lease.stale && (lease.won || lease.taken) && value.is_empty();
    header(out, b'*', 3usize);
    bulk(
        out,
        match () {
            () if hollow => b"MISS",
            () if lease.stale => b"STALE",
            () => b"HIT",
        },
    );
    match lease.won {
        true => bulk(out, itoa::Buffer::new().format(item.version.0).as_bytes()),
        false => null(out, protocol),
    }
    match hollow {
        true => null(out, protocol),
        false => bulk_value(out, value),
    }
}
