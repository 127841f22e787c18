//! How streams are written down in files and failures: printable, with `\r`, `\n`, `\\` and `\x00` for the rest.

/// As it is written down.
pub fn escape(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|&b| match b {
            b'\r' => "\\r".into(),
            b'\n' => "\\n".into(),
            b'\\' => "\\\\".into(),
            b' '..=b'~' => char::from(b).to_string(),
            b => format!("\\x{b:02x}"),
        })
        .collect()
}

/// The bytes that are meant; any other letter behind a backslash is itself.
pub fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        rest = &tail[1..];
        bytes.push(match tail[0] {
            b'r' => b'\r',
            b'n' => b'\n',
            b'x' => {
                rest = &tail[3..];
                u8::from_str_radix(std::str::from_utf8(&tail[1..3]).unwrap(), 16).unwrap()
            }
            other => other,
        });
    }
    bytes
}

#[test]
fn what_was_written_down_comes_back() {
    let bytes: Vec<u8> = (0..=255).collect();
    assert_eq!(unescape(&escape(&bytes)), bytes);
    assert_eq!(
        (escape(b"a\r\n\\\0\xff"), unescape("\\q\\x0a")),
        ("a\\r\\n\\\\\\x00\\xff".into(), b"q\n".to_vec())
    );
}
