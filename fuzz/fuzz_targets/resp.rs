//! RESP2, RESP3 and inline commands. `scripts/fuzz resp 60`

#![no_main]

use foreshadow::wire::Protocol;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| foreshadow_fuzz::check_cut(Protocol::Resp, bytes));
