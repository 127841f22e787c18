//! Numbers without pattern, the same in every run.

/// Splitmix64.
pub fn mix(n: u64) -> u64 {
    let x = n.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// A standard normal number (Box and Muller).
pub fn normal(n: u64) -> f64 {
    let unit = |n: u64| (mix(n) >> 11) as f64 / (1u64 << 53) as f64;
    let radius = (-2.0 * (1.0 - unit(2 * n)).ln()).sqrt();
    radius * (std::f64::consts::TAU * unit(2 * n + 1)).cos()
}
