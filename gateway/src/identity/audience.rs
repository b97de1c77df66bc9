//! Decides for which audience a server may have a token. Pure.
//!
//! A token for an audience is good at everybody who accepts that audience. So a server gets one for the origin of its
//! own URL, where it is sent, and no other unless the operator of the gateway allows it; and nobody gets one that the API
//! server or this gateway accepts.

use std::collections::{BTreeMap, BTreeSet};

use url::{Host, Url};

use super::IdentityError;

/// Which audiences are allowed and which are not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AudienceRules {
    /// Audiences besides the origins of servers, by namespace.
    pub(crate) allowed: BTreeMap<String, BTreeSet<String>>,
    /// Audiences that the API server accepts, as far as they are known beforehand.
    pub(crate) of_api_server: BTreeSet<String>,
    /// Audiences that this gateway accepts.
    pub(crate) of_gateway: BTreeSet<String>,
    /// The namespace of the gateway, where a host of one label is a Service.
    pub(crate) own_namespace: Option<String>,
}

impl AudienceRules {
    /// The audience of a token for a server of this namespace, sent to `url`. `wanted`: the audience that the server
    /// asks for; none: the origin of the URL.
    ///
    /// # Errors
    /// Nobody may have a token for this audience, or not the servers of this namespace.
    pub(crate) fn decide(&self, namespace: &str, url: &Url, wanted: Option<&str>) -> Result<String, IdentityError> {
        let origin = url.origin().ascii_serialization();
        let audience = wanted.unwrap_or(&origin).to_owned();
        if self.of_api_server.contains(&audience) || names_api_server(&audience) {
            return Err(IdentityError::OfApiServer(audience));
        }
        if self.of_gateway.contains(&audience) {
            return Err(IdentityError::OfGateway(audience));
        }
        if self.allowed.get(namespace).is_some_and(|allowed| allowed.contains(&audience)) {
            return Ok(audience);
        }
        let namespace = namespace.to_owned();
        // To the letter: two parsers may take one text for two origins.
        if audience != origin {
            return Err(IdentityError::OtherAudience { audience, origin, namespace });
        }
        match self.services_namespaces(url).into_iter().find(|of| *of != namespace) {
            Some(other) => Err(IdentityError::OtherNamespace { audience, other, namespace }),
            None => Ok(audience),
        }
    }

    /// The namespaces of the Service that a URL may lead to, if its host can be that of a Service.
    fn services_namespaces(&self, url: &Url) -> Vec<String> {
        let Some(Host::Domain(host)) = url.host() else { return Vec::new() };
        let labels: Vec<&str> = host.trim_end_matches('.').split('.').collect();
        match labels.as_slice() {
            ["localhost"] => Vec::new(),
            [_] => self.own_namespace.iter().cloned().collect(),
            // A public name of two labels looks the same, but no token belongs in clear text on the Internet.
            [_, namespace] if url.scheme() == "http" => vec![(*namespace).to_owned()],
            labels => {
                let marks = labels.windows(2).skip(1).filter(|pair| matches!(pair[1], "svc" | "pod"));
                marks.map(|pair| pair[0].to_owned()).collect()
            }
        }
    }
}

/// Whether an audience is a usual name of the API server.
fn names_api_server(audience: &str) -> bool {
    let host = Url::parse(audience).ok().and_then(|url| url.host_str().map(str::to_owned));
    let host = host.unwrap_or_else(|| audience.to_ascii_lowercase());
    let labels: Vec<&str> = host.trim_end_matches('.').split('.').collect();
    matches!(labels.as_slice(), ["kubernetes"] | ["kubernetes", "default"] | ["kubernetes", "default", "svc", ..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> AudienceRules {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        AudienceRules {
            allowed: [("a".to_owned(), set(&["search", "http://s.b.svc:80", "portcullis", "https://issuer"]))].into(),
            of_api_server: set(&["https://issuer", "k3s"]),
            of_gateway: set(&["portcullis", "https://gateway.example.com"]),
            own_namespace: Some("gw".into()),
        }
    }

    fn decided(url: &str, wanted: Option<&str>) -> Result<String, IdentityError> {
        rules().decide("a", &Url::parse(url).unwrap(), wanted)
    }

    #[test]
    fn the_audience_is_the_origin_of_the_servers_own_url_in_one_spelling() {
        for (url, origin) in [
            ("https://mcp.example.com/mcp?x=1", "https://mcp.example.com"),
            ("HTTPS://MCP.Example.com:443/", "https://mcp.example.com"),
            ("https://mcp.example.com:8443/", "https://mcp.example.com:8443"),
            ("https://example.com/", "https://example.com"),
            ("http://mcp.example.com:80/", "http://mcp.example.com"),
            ("http://s.a.svc:8080/mcp", "http://s.a.svc:8080"),
            ("http://s.a.svc.cluster.local:8080/mcp", "http://s.a.svc.cluster.local:8080"),
            ("http://pod-0.s.a.svc.cluster.local/", "http://pod-0.s.a.svc.cluster.local"),
            ("http://s.a/", "http://s.a"),
            ("http://[fd00::1]:80/", "http://[fd00::1]"),
            ("http://localhost:9000/", "http://localhost:9000"),
        ] {
            assert_eq!(decided(url, None), Ok(origin.to_owned()), "{url}");
            assert_eq!(decided(url, Some(origin)), Ok(origin.to_owned()), "{url}");
        }
    }

    #[test]
    fn an_audience_of_another_origin_is_refused_in_every_spelling() {
        for wanted in [
            "https://other.example.com",
            "https://mcp.example.com:8443",
            "https://mcp.example.com:443",
            "https://mcp.example.com/",
            "HTTPS://mcp.example.com",
            "https://mcp.example.com.",
            "http://mcp.example.com",
            "https://mcp.example.com@other.example.com",
            "https://other.example.com\\@mcp.example.com",
            "mcp.example.com",
            "vault",
        ] {
            let expected = IdentityError::OtherAudience {
                audience: wanted.into(),
                origin: "https://mcp.example.com".into(),
                namespace: "a".into(),
            };
            assert_eq!(decided("https://mcp.example.com/mcp", Some(wanted)), Err(expected), "{wanted}");
        }
        assert_eq!(decided("https://mcp.example.com/mcp", Some("search")), Ok("search".into()));
        let elsewhere = rules().decide("b", &Url::parse("https://mcp.example.com/").unwrap(), Some("search"));
        assert!(matches!(elsewhere, Err(IdentityError::OtherAudience { .. })), "{elsewhere:?}");
    }

    #[test]
    fn the_api_servers_audiences_and_the_gateways_are_refused_even_if_they_are_allowed() {
        for wanted in [
            "https://issuer",
            "k3s",
            "https://kubernetes.default.svc",
            "https://kubernetes.default.svc.cluster.local",
            "https://Kubernetes.Default.svc:443/",
            "https://kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes",
        ] {
            let refused = decided("https://mcp.example.com/mcp", Some(wanted));
            assert_eq!(refused, Err(IdentityError::OfApiServer(wanted.into())));
        }
        for url in ["https://kubernetes.default.svc/", "https://kubernetes.default.svc.:8443/", "https://kubernetes/"] {
            let refused = decided(url, None);
            assert!(matches!(refused, Err(IdentityError::OfApiServer(_))), "{url}: {refused:?}");
        }
        for (url, wanted) in [("https://a/", Some("portcullis")), ("https://gateway.example.com/", None)] {
            let refused = decided(url, wanted);
            assert!(matches!(refused, Err(IdentityError::OfGateway(_))), "{url}: {refused:?}");
        }
    }

    #[test]
    fn a_service_of_another_namespace_is_refused_under_each_of_its_names_unless_it_is_allowed() {
        for (url, other) in [
            ("http://s.b.svc:8080/", "b"),
            ("https://s.b.svc:8080/", "b"),
            ("http://S.B.SVC.:8080/", "b"),
            ("http://s.b.svc.cluster.local:8080/", "b"),
            ("http://pod-0.s.b.svc.cluster.local/", "b"),
            ("http://10-0-0-1.b.pod.cluster.local/", "b"),
            ("http://s.b/", "b"),
            ("http://s/", "gw"),
            ("https://s/", "gw"),
            // Two readings: one of them is another namespace.
            ("http://p.a.svc.svc.cluster.local/", "svc"),
        ] {
            let refused = decided(url, None);
            assert!(
                matches!(&refused, Err(IdentityError::OtherNamespace { other: found, .. }) if found == other),
                "{url}: {refused:?}"
            );
        }
        assert_eq!(decided("http://s.b.svc/", Some("http://s.b.svc:80")), Ok("http://s.b.svc:80".into()));
    }
}
