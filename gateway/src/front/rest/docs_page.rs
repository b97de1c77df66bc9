//! `GET /docs`: one page that shows /openapi.json and lets people try the routes. It loads nothing from elsewhere.

use std::sync::OnceLock;

use aws_lc_rs::digest::{SHA256, digest};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, header};

const PAGE: &str = include_str!("docs_page.html");

/// The page, with a policy that lets the browser run its one script and talk to this gateway, and nothing else.
pub(crate) async fn answer() -> Response {
    static POLICY: OnceLock<HeaderValue> = OnceLock::new();
    let policy = POLICY.get_or_init(policy).clone();
    let kind = HeaderValue::from_static("text/html; charset=utf-8");
    ([(header::CONTENT_TYPE, kind), (header::CONTENT_SECURITY_POLICY, policy)], PAGE).into_response()
}

fn policy() -> HeaderValue {
    let policy = format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'",
        fingerprint("script"),
        fingerprint("style"),
    );
    HeaderValue::try_from(policy).expect("base64 and the fixed text are printable ASCII")
}

/// The hash by which the policy admits the one element of this name.
fn fingerprint(element: &str) -> String {
    let text = PAGE.split_once(&format!("<{element}>")).and_then(|(_, rest)| rest.split_once(&format!("</{element}>")));
    let (text, _) = text.expect("the page has one element of each kind");
    format!("sha256-{}", STANDARD.encode(digest(&SHA256, text.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_page_may_load_nothing_but_its_own_script_and_style() {
        let headers = answer().await.into_parts().0.headers;
        let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
        let directives: Vec<_> = policy.split("; ").filter_map(|directive| directive.split_once(' ')).collect();
        let (script, style) = (format!("'{}'", fingerprint("script")), format!("'{}'", fingerprint("style")));
        let expected = [
            ("default-src", "'none'"),
            ("script-src", script.as_str()),
            ("style-src", style.as_str()),
            ("connect-src", "'self'"),
            ("base-uri", "'none'"),
            ("form-action", "'none'"),
            ("frame-ancestors", "'none'"),
        ];
        assert_eq!(directives, expected);
    }

    #[test]
    fn the_page_names_no_other_host_and_has_no_second_script() {
        for word in ["http://", "https://", "//cdn", "src=", "style=", "onclick", "innerHTML", "eval("] {
            assert!(!PAGE.contains(word), "{word}");
        }
        for element in ["<script", "<style"] {
            assert_eq!(PAGE.matches(element).count(), 1, "{element}");
        }
    }
}
