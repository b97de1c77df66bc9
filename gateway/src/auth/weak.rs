//! Recognises shared secrets that an attacker would try first.

/// Words from examples and defaults, in lower case without separators; longer ones before their parts.
const WORDS: [&str; 22] = [
    "development",
    "supersecret",
    "production",
    "topsecret",
    "mysecret",
    "password",
    "passw0rd",
    "insecure",
    "example",
    "default",
    "letmein",
    "secret",
    "qwerty",
    "super",
    "admin",
    "token",
    "value",
    "test",
    "here",
    "jwt",
    "key",
    "api",
];

/// Texts that mark a placeholder anywhere, spelt like [`WORDS`].
const PLACEHOLDERS: [&str; 9] = [
    "changeme",
    "changeit",
    "changethis",
    "replaceme",
    "replacethis",
    "yoursecret",
    "yourjwtsecret",
    "defaultsecret",
    "bitsecret",
];

/// A remainder with at most this many different bytes is padding.
const PADDING_VARIETY: usize = 4;

/// Whether a secret is a known default, one that is repeated or padded, or has next to no entropy.
pub(super) fn is_weak(secret: &[u8]) -> bool {
    if is_padding(secret) {
        return true;
    }
    let text = normalised(secret);
    if PLACEHOLDERS.iter().any(|placeholder| text.contains(placeholder)) {
        return true;
    }
    let rest = WORDS.iter().fold(text.clone(), |text, word| text.replace(word, ""));
    rest.len() < text.len() && is_padding(rest.as_bytes())
}

fn normalised(secret: &[u8]) -> String {
    let text = String::from_utf8_lossy(secret).to_lowercase();
    text.chars().filter(|c| !matches!(c, '-' | '_' | '.' | ' ' | '!' | '=' | '\n' | '\r')).collect()
}

fn is_padding(rest: &[u8]) -> bool {
    let mut seen = rest.to_vec();
    seen.sort_unstable();
    seen.dedup();
    seen.len() <= PADDING_VARIETY || is_counting(rest)
}

/// 1234567890123..., 0123456789012..., abcdefgh...
fn is_counting(rest: &[u8]) -> bool {
    rest.windows(2).all(|pair| pair[0].wrapping_add(1) == pair[1] || matches!(pair, b"90" | b"91"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_repeated_and_padded_secrets_are_weak() {
        for weak in [
            "changeme",
            "change-me",
            "your-secret-key-here",
            "your-256-bit-secret",
            "default-secret-key",
            "secret",
            "Secret",
            "secretsecretsecretsecretsecretsecret",
            "default-secret-key-default-secret-key",
            "secret-secret-secret-secret-secret-secret-",
            "changemechangemechangemechangemechangeme",
            "change-me-change-me-in-production-please",
            "secret0000000000000000000000000000000000",
            "secret                                  ",
            "secret12345678901234567890123456789012345",
            "super-secret-jwt-token-with-value-here!!",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "abababababababababababababababababababab",
            "12345678901234567890123456789012",
            "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            "",
        ] {
            assert!(is_weak(weak.as_bytes()), "{weak:?}");
        }
    }

    #[test]
    fn secrets_with_information_of_their_own_are_not_weak() {
        for good in [
            "0123456789abcdef0123456789abcdef",
            "f3a9c1e07b5d2846f3a9c1e07b5d2846",
            "test-f3a9c1e07b5d2846a1b2c3d4e5f60718",
            "a-test-secret-of-at-least-32-bytes-length",
            "Yq3t6w9z$C&F)J@NcRfUjXn2r5u8x/A?",
            "correct horse battery staple for everyone",
        ] {
            assert!(!is_weak(good.as_bytes()), "{good:?}");
        }
    }
}
