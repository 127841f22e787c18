//! Values of settings as people write them, read and shown again.

use super::*;

/// The last value given, for settings that have one.
pub(super) fn one(values: &[String]) -> Result<&str, String> {
    match values {
        [value] => Ok(value.trim()),
        [] => Err("has no value".to_owned()),
        _ => Err("takes one value".to_owned()),
    }
}

pub(super) fn switch(values: &[String]) -> Result<bool, String> {
    match one(values)? {
        "true" => Ok(true),
        "false" => Ok(false),
        other => Err(format!("`{other}` is neither true nor false")),
    }
}

pub(super) fn number<T: std::str::FromStr + PartialOrd + fmt::Display>(
    values: &[String],
    least: T,
    most: T,
) -> Result<T, String> {
    let text = one(values)?;
    match text.parse::<T>() {
        Ok(number) if number >= least && number <= most => Ok(number),
        _ => Err(format!("`{text}` is not a number from {least} to {most}")),
    }
}

pub(super) fn addresses(values: &[String]) -> Result<Vec<SocketAddr>, String> {
    let texts = values.iter().flat_map(|value| value.split(',')).map(str::trim);
    texts.filter(|text| !text.is_empty()).map(address).collect()
}

pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("`{text}` is not an address with a port, as 127.0.0.1:7400 or [::1]:7400 (names are not looked up)")
    })
}

pub(super) fn file(values: &[String]) -> Result<PathBuf, String> {
    match one(values)? {
        "" => Err("names no file".to_owned()),
        path => Ok(PathBuf::from(path)),
    }
}

/// Bytes of a socket's path, the zero behind it not counted: what the kernel's structure holds.
const SOCKET_PATH_BYTES_MAX: usize = 107;

pub(super) fn socket_path(path: &str) -> Result<PathBuf, String> {
    if path.is_empty() || path.len() > SOCKET_PATH_BYTES_MAX || path.contains('\0') {
        return Err(format!("`{path}` is not a path of 1 to {SOCKET_PATH_BYTES_MAX} bytes"));
    }
    Ok(PathBuf::from(path))
}

pub(super) fn show_file(file: &Option<PathBuf>) -> String {
    file.as_ref().map_or_else(String::new, |file| file.display().to_string())
}

/// Parses a size: a whole number of bytes, or with a unit: B, kB, MB, GB, TB (powers of 1000), KiB, MiB, GiB, TiB (of 1024).
pub fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (count, unit) = (&text[..digits], text[digits..].trim());
    let scale: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "k" | "m" | "g" | "t" if !count.is_empty() => {
            let letter = unit.to_ascii_uppercase();
            return Err(format!(
                "`{text}` can be read in two ways; say {count}{letter}iB (powers of 1024) or {count}{letter}B (of 1000)"
            ));
        }
        _ => return Err(format!("`{text}` is not a size, as 512MiB, 1GiB or 1000000")),
    };
    let count: Option<u64> = count.parse().ok();
    count
        .and_then(|count| count.checked_mul(scale))
        .ok_or_else(|| format!("`{text}` is not a size, as 512MiB, 1GiB or 1000000"))
}

pub(super) fn size(values: &[String], least: u64, most: u64) -> Result<u64, String> {
    let bytes = parse_size(one(values)?)?;
    if bytes < least || bytes > most {
        return Err(format!("{} is not from {} to {}", show_size(bytes), show_size(least), show_size(most)));
    }
    Ok(bytes)
}

pub(super) fn size_in_memory(values: &[String], least: u64, most: u64) -> Result<usize, String> {
    // Foreshadow runs on 64 bits only; the bound `most` keeps it exact elsewhere as well.
    size(values, least, most).map(|bytes| bytes as usize)
}

pub(crate) fn show_size(bytes: u64) -> String {
    let units = [(1u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(scale, _)| bytes >= *scale && bytes.is_multiple_of(*scale)) {
        Some((scale, unit)) => format!("{}{unit}", bytes / scale),
        None => bytes.to_string(),
    }
}

/// Parses a duration: a whole number with a unit: ms, s, m, h.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let scale: u64 = match text[digits..].trim() {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "" if digits > 0 => return Err(format!("`{text}` has no unit; say {text}s or {text}ms")),
        _ => return Err(format!("`{text}` is not a duration, as 500ms, 10s, 5m or 1h")),
    };
    let count: Option<u64> = text[..digits].parse().ok();
    count
        .and_then(|count| count.checked_mul(scale))
        .map(Duration::from_millis)
        .ok_or_else(|| format!("`{text}` is not a duration, as 500ms, 10s, 5m or 1h"))
}

pub(super) fn duration(values: &[String], least: Duration, most: Duration) -> Result<Duration, String> {
    let duration = parse_duration(one(values)?)?;
    if duration < least || duration > most {
        let (least, most) = (show_duration(least), show_duration(most));
        return Err(format!("{} is not from {least} to {most}", show_duration(duration)));
    }
    Ok(duration)
}

pub(super) fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let units = [(3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    match units.iter().find(|(scale, _)| millis >= *scale && millis.is_multiple_of(*scale)) {
        Some((scale, unit)) => format!("{}{unit}", millis / scale),
        None => format!("{millis}ms"),
    }
}

/// Highest CPU number that Linux can be built for.
pub(super) const CPU_NUMBER_MAX: usize = 8191;

/// Parses a list of CPUs: numbers and ranges, as `0-3,6`; `all` is the empty list.
pub fn parse_cores(text: &str) -> Result<Vec<usize>, String> {
    let text = text.trim();
    if text == "all" {
        return Ok(Vec::new());
    }
    let bad = || format!("`{text}` is not a list of CPUs, as 0-3,6 or all");
    let parse = |number: &str| {
        let number: Option<usize> = number.trim().parse().ok();
        number.filter(|number| *number <= CPU_NUMBER_MAX).ok_or_else(bad)
    };
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (parse(first)?, parse(last)?),
            None => (parse(part)?, parse(part)?),
        };
        if first > last {
            return Err(bad());
        }
        cores.extend(first..=last);
    }
    let mut sorted = cores.clone();
    sorted.sort_unstable();
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(format!("CPU {} stands in `{text}` twice", pair[0]));
    }
    Ok(cores)
}

/// Shows a list of CPUs as [`parse_cores`] reads it.
pub fn show_cores(cores: &[usize]) -> String {
    if cores.is_empty() {
        return "all".to_owned();
    }
    let runs = cores.chunk_by(|a, b| a + 1 == *b);
    let show = |run: &[usize]| match run {
        [one] => one.to_string(),
        run => format!("{}-{}", run[0], run[run.len() - 1]),
    };
    runs.map(show).collect::<Vec<_>>().join(",")
}

pub(super) fn show_addresses(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(",")
}

pub(super) fn password(text: &str) -> Result<Option<Password>, String> {
    // memcached's text protocol sends `user password` on a line; what cannot be said there cannot be a password.
    if text.is_empty() || text.len() > 512 || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("a password has 1 to 512 bytes and no spaces or control characters".to_owned());
    }
    Ok(Some(Password(text.to_owned())))
}

pub(super) const KIB: u64 = 1 << 10;
pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;
pub(super) const TIB: u64 = 1 << 40;
pub(super) const HOUR: Duration = Duration::from_secs(3600);
