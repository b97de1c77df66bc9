//! Names the authorization servers to clients: protected resource metadata (RFC 9728), and its address.

use portcullis_runtime::serve::Fields;
use serde::Serialize;
use url::Url;

use crate::auth::Authenticator;
use crate::front::http::origin_policy;

/// RFC 9728, section 3.
pub(crate) const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// Set by the proxy that ends TLS.
const X_FORWARDED_PROTO: &str = "x-forwarded-proto";

/// A name of a server or a namespace is no longer, as that of a Kubernetes object.
const MAX_NAME: usize = 253;

/// The resource that a token is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resource<'a> {
    /// The gateway.
    Gateway,
    /// `/mcp`.
    Mcp,
    /// `/mcp/{server}`, where the name may be `namespace/name`, or `_views/` and that of a view.
    Server(&'a str),
}

/// The parts that all metadata shares.
#[derive(Clone, Debug)]
pub(crate) struct Metadata {
    public_url: Option<Url>,
    /// Callers speak TLS to the gateway itself.
    is_secure: bool,
    authorization_servers: Vec<String>,
    scopes: Vec<String>,
}

#[derive(Serialize)]
struct MetadataDocument<'a> {
    resource: String,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    authorization_servers: &'a [String],
    bearer_methods_supported: [&'static str; 1],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    scopes_supported: &'a [String],
    resource_name: &'static str,
}

impl<'a> Resource<'a> {
    /// From what follows the well-known path; `None` if that cannot be a resource here.
    pub(crate) fn parse(path: &'a str) -> Option<Self> {
        match path.trim_matches('/') {
            "" => Some(Self::Gateway),
            "mcp" => Some(Self::Mcp),
            path => {
                let name = path.strip_prefix("mcp/")?;
                let parts = name.split('/');
                let valid = |part: &str| (1..=MAX_NAME).contains(&part.len()) && part.bytes().all(needs_no_escape);
                let most = if name.starts_with("_views/") { 3 } else { 2 };
                (parts.clone().count() <= most && parts.clone().all(valid)).then_some(Self::Server(name))
            }
        }
    }

    fn path(self) -> String {
        match self {
            Self::Gateway => String::new(),
            Self::Mcp => "/mcp".to_owned(),
            Self::Server(name) => {
                let escaped = |byte: u8| match byte {
                    b'/' => "/".to_owned(),
                    plain if needs_no_escape(plain) => char::from(plain).to_string(),
                    other => format!("%{other:02X}"),
                };
                format!("/mcp/{}", name.bytes().map(escaped).collect::<String>())
            }
        }
    }
}

/// Whether a byte needs no escape in a path (RFC 3986, section 2.3).
fn needs_no_escape(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

impl Metadata {
    /// Of a gateway at `public_url`, whose tokens come from these servers, or else from the issuers that `auth` knows.
    pub(crate) fn new(
        public_url: Option<Url>,
        is_secure: bool,
        authorization_servers: Vec<String>,
        auth: &Authenticator,
    ) -> Self {
        let given = Some(authorization_servers).filter(|servers| !servers.is_empty());
        Self {
            public_url,
            is_secure,
            authorization_servers: given.unwrap_or_else(|| auth.https_issuers()),
            scopes: auth.required_scopes().to_vec(),
        }
    }

    /// The path of the public address before the paths of the gateway, without a slash at the end.
    pub(crate) fn base_path(&self) -> &str {
        self.public_url.as_ref().map_or("", |url| url.path().trim_end_matches('/'))
    }

    /// The gateway's address for callers, without a slash at the end: as configured, or as this request found it.
    fn base(&self, fields: &Fields) -> Option<String> {
        if let Some(url) = &self.public_url {
            return Some(url.as_str().trim_end_matches('/').to_owned());
        }
        let host = origin_policy::host(fields)?;
        let proto = fields.text(X_FORWARDED_PROTO).unwrap_or_default();
        let first = proto.split(',').next().unwrap_or_default().trim();
        let scheme = if self.is_secure || first.eq_ignore_ascii_case("https") { "https" } else { "http" };
        Some(format!("{scheme}://{host}"))
    }

    /// The document of a resource, as JSON.
    pub(crate) fn document(&self, fields: &Fields, resource: Resource<'_>) -> Option<String> {
        let document = MetadataDocument {
            resource: format!("{}{}", self.base(fields)?, resource.path()),
            authorization_servers: &self.authorization_servers,
            bearer_methods_supported: ["header"],
            scopes_supported: &self.scopes,
            resource_name: "Portcullis",
        };
        serde_json::to_string(&document).ok()
    }

    /// The address of the document of a resource.
    pub(crate) fn address(&self, fields: &Fields, resource: Resource<'_>) -> Option<String> {
        Some(format!("{}{WELL_KNOWN}{}", self.base(fields)?, resource.path()))
    }

    /// The part after the well-known path of the resource, without the path of the public address: clients put the one
    /// before, proxies leave the other.
    pub(crate) fn without_prefix<'a>(&self, path: &'a str) -> &'a str {
        let prefix = self.public_url.as_ref().map_or("", Url::path).trim_matches('/');
        let path = path.trim_start_matches('/');
        let rest = path.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with('/'));
        if prefix.is_empty() { path } else { rest.unwrap_or(path) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(public_url: Option<&str>) -> Metadata {
        Metadata {
            public_url: public_url.map(|url| Url::parse(url).unwrap()),
            is_secure: false,
            authorization_servers: vec!["https://login.example.com".into()],
            scopes: vec!["tools".into(), "prompts".into()],
        }
    }

    fn fields(host: &str, proto: Option<&str>) -> Fields {
        let proto = proto.map(|proto| ("X-Forwarded-Proto", proto));
        [("Host", host)].into_iter().chain(proto).collect()
    }

    #[test]
    fn the_document_says_what_rfc_9728_asks_for() {
        let document = metadata(None).document(&fields("gateway:5000", None), Resource::Mcp);
        assert_eq!(
            document.as_deref(),
            Some(
                r#"{"resource":"http://gateway:5000/mcp","authorization_servers":["https://login.example.com"],"bearer_methods_supported":["header"],"scopes_supported":["tools","prompts"],"resource_name":"Portcullis"}"#
            )
        );
        let secure = Metadata { is_secure: true, ..metadata(None) };
        let address = secure.address(&fields("gateway", None), Resource::Mcp);
        assert_eq!(address.as_deref(), Some("https://gateway/.well-known/oauth-protected-resource/mcp"));
        let bare = Metadata { authorization_servers: vec![], scopes: vec![], ..metadata(None) };
        assert_eq!(
            bare.document(&fields("gateway", None), Resource::Gateway).as_deref(),
            Some(r#"{"resource":"http://gateway","bearer_methods_supported":["header"],"resource_name":"Portcullis"}"#)
        );
    }

    #[test]
    fn the_base_is_the_public_url_or_what_the_request_shows() {
        let seen = |host: &str, proto| metadata(None).base(&fields(host, proto));
        for (host, proto, expected) in [
            ("a.example", None, "http://a.example"),
            ("a.example:8080", Some("https"), "https://a.example:8080"),
            ("a.example", Some("HTTPS, http"), "https://a.example"),
            ("a.example", Some("gopher"), "http://a.example"),
            ("[::1]:5000", Some("http"), "http://[::1]:5000"),
        ] {
            assert_eq!(seen(host, proto).as_deref(), Some(expected));
        }
        for host in ["", "a\"b", "a/b", "user@a", "a b"] {
            assert_eq!(seen(host, None), None, "{host}");
        }
        let public = metadata(Some("https://mcp.example.com/"));
        assert_eq!(public.base(&fields("a", Some("http"))).as_deref(), Some("https://mcp.example.com"));
    }

    #[test]
    fn paths_name_a_resource_or_nothing() {
        for (path, expected) in [
            ("", Some(Resource::Gateway)),
            ("mcp", Some(Resource::Mcp)),
            ("/mcp/", Some(Resource::Mcp)),
            ("mcp/search", Some(Resource::Server("search"))),
            ("mcp/default.search-2", Some(Resource::Server("default.search-2"))),
            ("mcp/team-a/search", Some(Resource::Server("team-a/search"))),
            ("mcp/a/b/c", None),
            ("mcp/a//b", None),
            ("tools", None),
            ("mcpx", None),
            ("mcp/a\"b", None),
        ] {
            assert_eq!(Resource::parse(path), expected, "{path}");
        }
        assert_eq!(Resource::parse(&format!("mcp/{}", "a".repeat(254))), None);
        let paths = ["team-a/search", "a\"b c"].map(|name| Resource::Server(name).path());
        assert_eq!(paths, ["/mcp/team-a/search", "/mcp/a%22b%20c"]);
    }

    #[test]
    fn a_public_url_with_a_path_is_found_with_and_without_it() {
        let below = metadata(Some("https://example.com/tools"));
        let paths =
            ["tools/mcp", "mcp", "tools", "toolsmcp/mcp"].map(|path| Resource::parse(below.without_prefix(path)));
        assert_eq!(paths, [Some(Resource::Mcp), Some(Resource::Mcp), Some(Resource::Gateway), None]);
        assert_eq!(
            below.address(&Fields::default(), Resource::Server("a")).as_deref(),
            Some("https://example.com/tools/.well-known/oauth-protected-resource/mcp/a")
        );
    }
}
