//! Who the gateway is towards an `McpServer`: its own tokens, tokens for a caller, and credentials that callers bring.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Header, SecretKeyRef};

/// How a server learns who calls: exactly one kind of token, sent as `Authorization: Bearer TOKEN`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.serviceAccountToken), has(self.assertion), has(self.exchange), has(self.clientCredentials)].filter(one, one).size() == 1")
    .message("identity: set exactly one of serviceAccountToken, assertion, exchange and clientCredentials"))]
pub struct Identity {
    /// The gateway's own service-account token, which the cluster issues for this server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_token: Option<ServiceAccountToken>,
    /// A short-lived token that the gateway signs for the caller of each call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assertion: Option<Assertion>,
    /// A token that an authorization server gives for the caller's token (RFC 8693).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exchange: Option<TokenExchange>,
    /// A token that an authorization server gives to the gateway itself (OAuth 2.0 client credentials).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_credentials: Option<ClientCredentials>,
}

/// The gateway's own service-account token, issued by TokenRequest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAccountToken {
    /// Audience of the token, which the server must check. Absent: the origin of the server's URL, such as
    /// `https://mcp.example.com`. Any other audience must be in `identity.allowedAudiences` of the chart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^[!-~]+$"))]
    pub audience: Option<String>,
}

/// A token that the gateway signs: `iss` and `act` are the gateway, `sub` is the caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Assertion {
    /// Audience of the token, which the server must check. Absent: the origin of the server's URL. Any other audience
    /// must be in `identity.allowedAudiences` of the chart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^[!-~]+$"))]
    pub audience: Option<String>,
    /// Claims of the caller's token to copy, such as `groups`. `sub` is always there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z0-9_.:/-]+$")))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.all(c, !(c in ['iss', 'aud', 'exp', 'nbf', 'iat', 'jti', 'act', 'tool']))")
            .message("assertion.claims holds a claim that the gateway sets itself, such as iss or aud: leave it out")
    )]
    pub claims: Vec<String>,
    /// Whether the claim `tool` names the called tool. Each tool then needs a signature of its own.
    #[serde(default)]
    pub include_tool: bool,
    /// Seconds until the token expires. 10 to 600.
    #[serde(default = "default_lifetime_seconds")]
    #[schemars(range(min = 10, max = 600))]
    pub lifetime_seconds: u32,
}

/// A token exchange: the subject token is the caller's, the actor token is the gateway's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenExchange {
    /// Token endpoint of the authorization server.
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = Rule::new("isURL(self) && url(self).getHost() != '' && !self.contains('#') && !self.matches('^[A-Za-z]+://[^/?#]*@') && (url(self).getScheme() == 'https' || (url(self).getScheme() == 'http' && url(self).getHostname() in ['localhost', '127.0.0.1', '::1']))")
        .message("tokenUrl must be https://HOST/PATH, without user information and fragment; http works for localhost alone"))]
    pub token_url: String,
    /// Parameter `audience` of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^[!-~]+$"))]
    pub audience: Option<String>,
    /// Parameter `resource` of the request. Absent, if `audience` is too: the URL of the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^[!-~]+$"))]
    pub resource: Option<String>,
    /// Scopes to ask for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 128), regex(pattern = r"^[!#-\[\]-~]+$")))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub scopes: Vec<String>,
    /// How the gateway authenticates to the authorization server. Absent: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_auth: Option<ClientAuth>,
}

/// A token for the gateway itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientCredentials {
    /// Token endpoint of the authorization server.
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = Rule::new("isURL(self) && url(self).getHost() != '' && !self.contains('#') && !self.matches('^[A-Za-z]+://[^/?#]*@') && (url(self).getScheme() == 'https' || (url(self).getScheme() == 'http' && url(self).getHostname() in ['localhost', '127.0.0.1', '::1']))")
        .message("tokenUrl must be https://HOST/PATH, without user information and fragment; http works for localhost alone"))]
    pub token_url: String,
    /// Parameter `audience` of the request, which some authorization servers want.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^[!-~]+$"))]
    pub audience: Option<String>,
    /// Parameter `resource` of the request (RFC 8707).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^[!-~]+$"))]
    pub resource: Option<String>,
    /// Scopes to ask for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 128), regex(pattern = r"^[!#-\[\]-~]+$")))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub scopes: Vec<String>,
    /// How the gateway authenticates to the authorization server.
    pub client_auth: ClientAuth,
}

/// How the gateway authenticates to an authorization server: exactly one of `serviceAccountToken` and `secretRef`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.serviceAccountToken) != has(self.secretRef)")
        .message("clientAuth: set exactly one of serviceAccountToken and secretRef"),
    validation = Rule::new("!has(self.secretRef) || has(self.clientId)").message("clientAuth.secretRef needs clientId"),
    validation = Rule::new("!has(self.secretMethod) || has(self.secretRef)").message("clientAuth.secretMethod is about secretRef: leave it out")
)]
pub struct ClientAuth {
    /// Name of the gateway as a client of the authorization server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), regex(pattern = r"^[!-~]+$"))]
    pub client_id: Option<String>,
    /// The gateway's own service-account token as `client_assertion` (RFC 7523). Its audience is the origin of
    /// `tokenUrl`, or one that `identity.allowedAudiences` of the chart has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_token: Option<ServiceAccountToken>,
    /// Key of a Secret that holds the client secret. The Secret needs the label `portcullis.dev/credentials` and the
    /// origin of `tokenUrl` in its annotation `portcullis.dev/origin`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretKeyRef>,
    /// How the client secret is sent: `Basic` in the header `Authorization` (`client_secret_basic`), `Post` in the form
    /// (`client_secret_post`). Absent: `Basic`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_method: Option<SecretMethod>,
}

/// How a client secret is sent to an authorization server (RFC 6749, section 2.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SecretMethod {
    /// In the header `Authorization`.
    Basic,
    /// In the form, as `client_id` and `client_secret`.
    Post,
}

/// A credential that callers bring for this server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct ForwardCallerToken {
    /// Header of the caller's request. It is named after this server, so that no other gets it: `x-NAME-authorization`, or
    /// `x-NAMESPACE--NAME-authorization` outside of the home namespace.
    #[schemars(length(min = 17, max = 144), regex(pattern = r"^x-[a-z0-9]([-a-z0-9]*[a-z0-9])?-authorization$"))]
    #[x_kube(validation = Rule::new("!self.startsWith('x-forwarded-')")
        .message("forwardCallerToken.from is a header that proxies set: use one of your own, such as x-search-authorization"))]
    pub from: String,
    /// Header of the server's request, in lower case.
    #[serde(default = "default_token_header")]
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[a-z0-9!#$%&'*+.^_`|~-]+$"))]
    #[x_kube(validation = Rule::new("!(self in ['accept', 'connection', 'content-length', 'content-type', 'cookie', 'host', 'mcp-protocol-version', 'mcp-session-id', 'te', 'transfer-encoding']) && !self.startsWith('mcp-param-')")
        .message("forwardCallerToken.to is a header that the gateway sets itself: use another, such as authorization"))]
    pub to: String,
}

/// How the server is listed and checked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Listing {
    /// Headers of all requests but calls: of the handshake, lists and health checks. They replace those of `headers` and
    /// `identity` that have the same names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(
        merge_strategy = ListMerge::Map(vec!["name".into()]),
        validation = Rule::new("self.all(h, self.exists_one(o, o.name.lowerAscii() == h.name.lowerAscii()))")
            .message("listing.headers has a duplicate name (names are case-insensitive): keep one of them"),
        validation = Rule::new("self.map(h, 50 + size(h.name) + (has(h.prefix) ? size(h.prefix) : 0) + (has(h.value) ? size(h.value) : 0) + (has(h.secretRef) ? size(h.secretRef.name) + size(h.secretRef.key) : 0)).sum() <= 12288")
            .message("listing.headers exceed 12 KiB in total: shorten or remove some")
    )]
    pub headers: Vec<Header>,
    /// Whether the server is listed for each caller, with the caller's identity, because it shows each caller other tools,
    /// prompts and resources. A caller sees those that the server shows to it, and nobody else sees them. Needs
    /// `identity.assertion`, `identity.exchange` or `forwardCallerToken`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub per_caller: bool,
}

impl Listing {
    /// Whether nothing is set.
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

fn default_lifetime_seconds() -> u32 {
    60
}

fn default_token_header() -> String {
    "authorization".into()
}
