//! Redis's glob patterns: `*`, `?`, `[a-z]`, `[^a]`, and `\` before a byte that stands for itself.
//!
//! Every part but `*` takes exactly one byte, so on a mismatch it is enough to go back to the last `*` and let it take
//! one byte more: at most pattern times text steps, however many stars. The caller bounds even those.

/// Whether the whole text matches. Adds the steps it took to `steps` and gives up, with no, when that reaches `limit`.
pub fn matches(pattern: &[u8], text: &[u8], limit: u64, steps: &mut u64) -> bool {
    let (mut p, mut t) = (0, 0);
    // Behind the last star seen, and the text it has not taken.
    let mut back: Option<(usize, usize)> = None;
    loop {
        *steps += 1;
        if *steps >= limit {
            return false;
        }
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            if p == pattern.len() {
                return true;
            }
            back = Some((p, t));
            continue;
        }
        let part = match text.get(t) {
            Some(byte) => match_one(&pattern[p..], *byte, steps),
            None if p == pattern.len() => return true,
            // Only stars could match the nothing that is left, and this is none.
            None => return false,
        };
        match (part, back) {
            (Some(len), _) => (p, t) = (p + len, t + 1),
            (None, Some((star_p, star_t))) => {
                (p, t) = (star_p, star_t + 1);
                back = Some((p, t));
            }
            (None, None) => return false,
        }
    }
}

/// Matches one byte against the part that the pattern begins with; answers the part's length if it does.
fn match_one(pattern: &[u8], byte: u8, steps: &mut u64) -> Option<usize> {
    match pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'[', class @ ..] => {
            let (len, matched) = match_class(class, byte);
            *steps += len as u64 / 8;
            matched.then_some(1 + len)
        }
        [b'\\', literal, ..] => (*literal == byte).then_some(2),
        [literal, ..] => (*literal == byte).then_some(1),
    }
}

/// Matches a byte against a class, given from behind its `[`; answers the length of the class with its `]`, which may
/// be missing at the end of the pattern. Ranges may be written either way round.
fn match_class(class: &[u8], byte: u8) -> (usize, bool) {
    let negated = class.first() == Some(&b'^');
    let mut at = usize::from(negated);
    let mut matched = false;
    loop {
        match &class[at..] {
            [] => break,
            [b'\\', literal, ..] => {
                matched |= *literal == byte;
                at += 2;
            }
            [b']', ..] => {
                at += 1;
                break;
            }
            [from, b'-', to, ..] => {
                matched |= (*from.min(to)..=*from.max(to)).contains(&byte);
                at += 3;
            }
            [literal, ..] => {
                matched |= *literal == byte;
                at += 1;
            }
        }
    }
    (at, matched != negated)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn glob(pattern: &[u8], text: &[u8]) -> bool {
        matches(pattern, text, u64::MAX, &mut 0)
    }

    #[test]
    fn patterns_match_what_redis_says() {
        let vectors: [(&str, &str, bool); 43] = [
            ("", "a", false),
            ("*", "a", true),
            ("**", "abc", true),
            ("a", "a", true),
            ("a", "ab", false),
            ("ab", "a", false),
            ("a*", "a", true),
            ("a*", "abc", true),
            ("*a", "bca", true),
            ("*a", "bcab", false),
            ("*b*", "abc", true),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abcdef", false),
            ("*aab", "aaaaab", true),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("?", "", false),
            ("h[ae]llo", "hallo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-b]llo", "hbllo", true),
            ("h[b-a]llo", "hbllo", true),
            ("h[a-b]llo", "hcllo", false),
            ("[^a-c]x", "dx", true),
            ("[^a-c]x", "bx", false),
            ("[]", "a", false),
            ("[^]", "a", true),
            ("[^]a", "xa", true),
            ("[a", "a", true),
            ("[a-", "-", true),
            ("[a-", "a", true),
            ("[a-]", "a", true),
            ("[a-]", "]", true),
            ("[\\]]", "]", true),
            ("[\\-]", "-", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("\\", "\\", true),
            ("a\\?c", "a?c", true),
            ("a\\?c", "abc", false),
            ("user:*:name", "user:1000:name", true),
            ("user:*:name", "user:1000:nam", false),
        ];
        for (pattern, text, expected) in vectors {
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} on {text}");
        }
    }

    #[test]
    fn many_stars_take_steps_by_the_product_of_the_lengths_and_no_more() {
        let pattern = b"a*".repeat(200);
        let mut pattern = pattern.clone();
        pattern.push(b'b');
        let text = vec![b'a'; 250];
        let mut steps = 0;
        assert!(!matches(&pattern, &text, u64::MAX, &mut steps));
        assert!(steps <= (pattern.len() * text.len()) as u64, "{steps}");
    }

    #[test]
    fn the_limit_ends_a_match_with_no() {
        let mut steps = 0;
        assert!(!matches(b"*a?a?a?a?a?b", &[b'a'; 60_000], 10_000, &mut steps));
        assert!((10_000..10_100).contains(&steps), "{steps}");
    }
}
