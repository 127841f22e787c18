//! What stands behind the question mark of a page's address.

/// The fields of a query: names and values, `%` and `+` resolved. A field without `=` has an empty value.
pub(super) fn fields(query: &str) -> impl Iterator<Item = (String, Vec<u8>)> {
    query.split('&').filter(|field| !field.is_empty()).map(|field| {
        let (name, value) = field.split_once('=').unwrap_or((field, ""));
        (String::from_utf8_lossy(&decoded(name)).into_owned(), decoded(value))
    })
}

fn decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let digit = |at: usize| tail.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        let (byte, behind) = match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => ((high << 4 | low) as u8, &tail[2..]),
            (b'+', ..) => (b' ', tail),
            (byte, ..) => (byte, tail),
        };
        bytes.push(byte);
        rest = behind;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_can_be_said() {
        let all: Vec<_> = fields("a=1&key=%00%ff+x%2B&b&&bad=%zz%4").collect();
        let expected: [(&str, &[u8]); 4] =
            [("a", b"1"), ("key", b"\x00\xff x+"), ("b", b""), ("bad", b"%zz%4")];
        assert!(all.iter().map(|(name, value)| (name.as_str(), value.as_slice())).eq(expected));
        assert_eq!(fields("").count(), 0);
    }
}
