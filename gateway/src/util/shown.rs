//! Redacts addresses for users: removes the parts that may contain a key.
//!
//! Pure. Lists, statuses, logs and errors have more readers than the setting that they come from.

/// The address without user name, password, query and fragment.
pub(crate) fn address(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let authority = rest.split('/').next().unwrap_or_default();
    match authority.rsplit_once('@') {
        Some((user, _)) => format!("{scheme}://{}", &rest[user.len() + 1..]),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_hold_a_key_is_not_shown() {
        for (url, shown) in [
            ("http://a/sse", "http://a/sse"),
            ("http://a:1/sse?key=s3cret", "http://a:1/sse"),
            ("https://a/?s3cret@b/", "https://a/"),
            ("https://a/x#s3cret?y", "https://a/x"),
            ("https://u:s3cret@a/x", "https://a/x"),
            ("https://u:s3@cret@[::1]:5/x@y", "https://[::1]:5/x@y"),
            ("10.0.0.1:5000", "10.0.0.1:5000"),
        ] {
            assert_eq!(address(url), shown, "{url}");
        }
    }
}
