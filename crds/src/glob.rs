//! Patterns in which `*` matches any characters.

/// Whether `text` matches `pattern`.
///
/// Takes at most `pattern.len() * text.len()` steps.
pub fn matches(pattern: &str, text: &str) -> bool {
    matches_within(pattern, text, usize::MAX).0
}

/// Whether `text` matches `pattern`, and the steps that it took; false if more than `most` are needed.
pub fn matches_within(pattern: &str, text: &str, most: usize) -> (bool, usize) {
    // Most patterns are a name, or have a single star.
    match pattern.split_once('*') {
        _ if pattern.len() > most => {}
        None => return (pattern == text, pattern.len()),
        Some((start, end)) if !end.contains('*') => {
            let fits = start.len() + end.len() <= text.len() && text.starts_with(start) && text.ends_with(end);
            return (fits, pattern.len());
        }
        Some(_) => {}
    }
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t, mut star, mut steps) = (0, 0, None, 0);
    while t < text.len() {
        if steps >= most {
            return (false, steps);
        }
        steps += 1;
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            p += 1;
            t += 1;
        } else if let Some((star_p, star_t)) = star {
            p = star_p + 1;
            t = star_t + 1;
            star = Some((star_p, star_t + 1));
        } else {
            return (false, steps);
        }
    }
    (pattern[p..].iter().all(|b| *b == b'*'), steps + pattern.len() - p)
}

/// Whether some text matches both patterns.
///
/// Takes at most `a.len() * b.len()` steps.
pub fn overlap(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    // `reached[j]`: some text matches the part of `a` so far and the first `j` bytes of `b`.
    let mut reached = vec![false; b.len() + 1];
    reached[0] = true;
    spread(&mut reached, b);
    for of_a in a {
        let mut next = vec![false; b.len() + 1];
        for (j, is_reached) in reached.iter().enumerate() {
            if !is_reached {
                continue;
            }
            if *of_a == b'*' {
                // The star takes any part of `b` that follows.
                next[j..].fill(true);
                break;
            }
            match b.get(j) {
                Some(b'*') => next[j] = true,
                Some(of_b) if of_b == of_a => next[j + 1] = true,
                _ => {}
            }
        }
        spread(&mut next, b);
        reached = next;
    }
    reached[b.len()]
}

/// A star may match nothing.
fn spread(reached: &mut [bool], b: &[u8]) {
    for (j, of_b) in b.iter().enumerate() {
        if reached[j] && *of_b == b'*' {
            reached[j + 1] = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn globs_match_as_people_expect() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("*", "abc", true),
            ("a*c", "abc", true),
            ("a*c", "ab", false),
            ("*_x", "a_x_x", true),
            ("a", "ab", false),
            ("", "", true),
            ("**b*", "aab", true),
            ("ab*ba", "aba", false),
            ("ab*ba", "abba", true),
            ("é*", "é", true),
            ("a*b*c", "a1b2b3c", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_comparison_takes_no_more_steps_than_it_is_given() {
        let (pattern, text) = (format!("*{}b*", "a".repeat(1_000)), "a".repeat(10_000));
        let (matches, steps) = matches_within(&pattern, &text, usize::MAX);
        assert!(!matches && steps > 1_000_000, "{steps}");
        assert_eq!(matches_within(&pattern, &text, 500), (false, 500));
        assert_eq!(matches_within("*a*c", "abc", 10), (true, 5));
        assert_eq!([matches_within("a*c", "abc", 3), matches_within("a*c", "abc", 2)], [(true, 3), (false, 2)]);
    }

    proptest! {
        #[test]
        fn two_patterns_overlap_if_some_text_matches_both(a in "[ab*]{0,4}", b in "[ab*]{0,4}") {
            // A shortest common text takes at most one byte for each byte of the two patterns.
            let mut texts = vec![String::new()];
            let mut found = false;
            for _ in 0..=8 {
                found |= texts.iter().any(|text| matches(&a, text) && matches(&b, text));
                texts = texts.iter().flat_map(|text| ["a", "b"].map(|one| format!("{text}{one}"))).collect();
                if found { break; }
            }
            prop_assert_eq!(overlap(&a, &b), found);
        }
    }
}
