//! Listeners of every protocol, the sniffing one among them: the first byte picks one. `scripts/fuzz session 60`

#![no_main]

use foreshadow::wire::Protocol;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let [protocol, rest @ ..] = bytes else { return };
    let protocol = match protocol % 4 {
        0 => Protocol::Sniff,
        1 => Protocol::Resp,
        2 => Protocol::Memcached,
        _ => Protocol::Native,
    };
    foreshadow_fuzz::check_cut(protocol, rest);
});
