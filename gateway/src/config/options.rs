//! Every setting of the gateway: one flag and one variable of the same meaning.

use std::path::PathBuf;

use clap::Args;

/// All settings, as text, so that one check reports all problems.
#[derive(Args, Clone, Debug, Default)]
pub struct Options {
    /// URL of one MCP server (legacy HTTP+SSE or streamable HTTP)
    #[arg(long, global = true, env = "MCP_URL", value_name = "URL", hide_env_values = true)]
    pub mcp_url: Option<String>,
    /// URLs of several MCP servers, separated by commas
    #[arg(long, global = true, env = "MCP_URLS", value_name = "URLS", hide_env_values = true)]
    pub mcp_urls: Option<String>,
    /// File or folder of McpServer manifests (YAML), watched for changes; instead of URLs
    #[arg(long, global = true, env = "SERVERS", value_name = "PATH")]
    pub servers: Option<PathBuf>,
    /// Names of the ConfigMaps that hold the servers, separated by commas; watched through the Kubernetes API
    #[arg(long, global = true, env = "CONFIGMAPS", value_name = "NAMES")]
    pub configmaps: Option<String>,
    /// Folder with mounted copies of these ConfigMaps, as DIR/NAME/KEY, read at start if the API server does not answer
    #[arg(long, global = true, env = "CONFIGMAPS_MOUNTED", value_name = "DIR")]
    pub configmaps_mounted: Option<PathBuf>,
    /// Namespace of these ConfigMaps; absent: the namespace of the pod or of the kubeconfig
    #[arg(long, global = true, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// kubeconfig file for the Kubernetes API; absent: ~/.kube/config or the service account of the pod
    #[arg(long, global = true, env = "KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Isolated: names of tools contain their namespace, except in the home namespace; Shared: no name does
    #[arg(long, global = true, env = "TENANCY", value_name = "TENANCY", default_value = "Isolated")]
    pub tenancy: Option<String>,
    /// Servers that no access policy governs: Allow opens them to every caller with a valid token, Deny to nobody
    #[arg(long, global = true, env = "POLICY_DEFAULT", value_name = "DEFAULT", default_value = "Allow")]
    pub policy_default: Option<String>,
    /// Folder with the Secrets and ConfigMaps that manifests name, as DIR/NAME/KEY
    #[arg(long, global = true, env = "SECRETS_DIR", value_name = "DIR")]
    pub secrets: Option<PathBuf>,
    /// Namespaces whose labelled Secrets and ConfigMaps the gateway reads, separated by commas; *: all; instead of a folder
    #[arg(long, global = true, env = "CREDENTIAL_NAMESPACES", value_name = "NAMESPACES")]
    pub credential_namespaces: Option<String>,
    /// NAMESPACE/NAME of the gateway's own service account: it requests tokens of it for servers; absent: it requests none
    #[arg(long, global = true, env = "IDENTITY_SERVICE_ACCOUNT", value_name = "NAMESPACE/NAME")]
    pub identity_service_account: Option<String>,
    /// Audiences of tokens for servers besides the origins of their URLs, by namespace, as JSON: {"NAMESPACE": ["AUDIENCE"]}
    #[arg(long, global = true, env = "ALLOWED_AUDIENCES", value_name = "JSON")]
    pub allowed_audiences: Option<String>,
    /// Refuse servers at special addresses (loopback, link-local, metadata, API server, ...): true or false
    #[arg(long, global = true, env = "GUARD_ADDRESSES", value_name = "BOOL")]
    pub guard_addresses: Option<String>,
    /// Addresses and ranges (CIDR) of servers to allow nevertheless, separated by commas
    #[arg(long, global = true, env = "ALLOWED_ADDRESSES", value_name = "CIDRS")]
    pub allowed_addresses: Option<String>,
    /// Addresses and ranges (CIDR) of servers to refuse, separated by commas
    #[arg(long, global = true, env = "BLOCKED_ADDRESSES", value_name = "CIDRS")]
    pub blocked_addresses: Option<String>,
    /// Addresses and host names of the gateway itself, which servers must not have, separated by commas
    #[arg(long, global = true, env = "OWN_ADDRESSES", value_name = "HOSTS")]
    pub own_addresses: Option<String>,
    /// Address to listen on; `::` is IPv6 and IPv4
    #[arg(long, global = true, env = "HOST", default_value = "::")]
    pub host: Option<String>,
    /// Port to listen on
    #[arg(long, global = true, env = "PORT", default_value = "5000")]
    pub port: Option<String>,
    /// PEM file with the certificate and its chain, watched: callers then speak HTTPS, and plain HTTP is refused
    #[arg(long, global = true, env = "TLS_CERT_FILE", value_name = "FILE")]
    pub tls_cert_file: Option<PathBuf>,
    /// PEM file with the key of this certificate, watched
    #[arg(long, global = true, env = "TLS_KEY_FILE", value_name = "FILE")]
    pub tls_key_file: Option<PathBuf>,
    /// PEM file with the authorities that sign the certificates of clients, watched; absent: clients need none
    #[arg(long, global = true, env = "TLS_CLIENT_CA_FILE", value_name = "FILE")]
    pub tls_client_ca_file: Option<PathBuf>,
    /// Whether clients must show such a certificate: Required or Optional
    #[arg(long, global = true, env = "TLS_CLIENT_CERTIFICATES", value_name = "MODE", default_value = "Required")]
    pub tls_client_certificates: Option<String>,
    /// ADDRESS:PORT for /metrics, /livez, /readyz and /status; absent: the main port serves the first three
    #[arg(long, global = true, env = "ADMIN_ADDRESS", value_name = "ADDRESS:PORT")]
    pub admin_address: Option<String>,
    /// The shared secret that signs tokens; only a variable, because everybody can read flags
    #[arg(skip)]
    pub jwt_secret: Option<String>,
    /// File with the shared secret, instead of the variable JWT_SECRET
    #[arg(long, global = true, env = "JWT_SECRET_FILE", value_name = "FILE")]
    pub jwt_secret_file: Option<PathBuf>,
    /// Algorithm of the tokens: HS256, HS384, HS512, or, with a public key, RS*, PS*, ES256, ES384, EdDSA
    #[arg(long, global = true, env = "JWT_ALGORITHM", default_value = "HS256")]
    pub jwt_algorithm: Option<String>,
    /// PEM file with the public key that verifies tokens
    #[arg(long, global = true, env = "JWT_PUBLIC_KEY_FILE", value_name = "FILE")]
    pub jwt_public_key_file: Option<PathBuf>,
    /// File with a JSON Web Key Set that verifies tokens
    #[arg(long, global = true, env = "JWT_JWKS_FILE", value_name = "FILE")]
    pub jwt_jwks_file: Option<PathBuf>,
    /// Issuer (iss) that tokens must have
    #[arg(long, global = true, env = "JWT_ISSUER")]
    pub jwt_issuer: Option<String>,
    /// Audience (aud) that tokens must have
    #[arg(long, global = true, env = "JWT_AUDIENCE")]
    pub jwt_audience: Option<String>,
    /// Tolerated difference between clocks, in seconds, 0 to 60
    #[arg(long, global = true, env = "JWT_LEEWAY", value_name = "SECONDS", default_value = "10")]
    pub jwt_leeway: Option<String>,
    /// Longest accepted lifetime of a token, in seconds; absent: no limit
    #[arg(long, global = true, env = "JWT_MAX_LIFETIME", value_name = "SECONDS")]
    pub jwt_max_lifetime: Option<String>,
    /// Accept service-account tokens of this cluster: true or false
    #[arg(long, global = true, env = "KUBERNETES_TOKENS", value_name = "BOOL", default_value = "false")]
    pub kubernetes_tokens: Option<String>,
    /// Audience (aud) that service-account tokens must have
    #[arg(long, global = true, env = "KUBERNETES_AUDIENCE", value_name = "AUDIENCE", default_value = "portcullis")]
    pub kubernetes_audience: Option<String>,
    /// File with the cluster's public keys, as the operator keeps them, used at start if the API server does not answer
    #[arg(long, global = true, env = "KUBERNETES_KEYS_FILE", value_name = "FILE")]
    pub kubernetes_keys_file: Option<PathBuf>,
    /// Also ask the API server whether a service-account token is still valid, once in 30 s for each: true or false
    #[arg(long, global = true, env = "TOKEN_REVIEW", value_name = "BOOL", default_value = "false")]
    pub token_review: Option<String>,
    /// YAML file with more issuers of tokens
    #[arg(long, global = true, env = "ISSUERS_FILE", value_name = "FILE")]
    pub issuers: Option<PathBuf>,
    /// Accept ?token= on the REST routes: true or false
    #[arg(long, global = true, env = "ALLOW_QUERY_TOKEN", value_name = "BOOL", default_value = "true")]
    pub allow_query_token: Option<String>,
    /// Scopes that every token must have, except those of service accounts, separated by commas or spaces
    #[arg(long, global = true, env = "REQUIRED_SCOPES", value_name = "SCOPES")]
    pub required_scopes: Option<String>,
    /// Accept ?token= on /mcp and /sse too, for clients that cannot send headers: true or false
    #[arg(long, global = true, env = "ALLOW_QUERY_TOKEN_MCP", value_name = "BOOL", default_value = "false")]
    pub allow_query_token_mcp: Option<String>,
    /// Origins of web pages that may use /mcp, separated by commas; *: all
    #[arg(long, global = true, env = "ALLOWED_ORIGINS", value_name = "ORIGINS")]
    pub allowed_origins: Option<String>,
    /// Host names under which clients may request /mcp, separated by commas; absent: any
    #[arg(long, global = true, env = "ALLOWED_HOSTS", value_name = "HOSTS")]
    pub allowed_hosts: Option<String>,
    /// URL by which callers reach the gateway; absent: the URL of each request
    #[arg(long, global = true, env = "PUBLIC_URL", value_name = "URL")]
    pub public_url: Option<String>,
    /// URLs of the servers that issue tokens, separated by commas; absent: the configured issuers
    #[arg(long, global = true, env = "AUTHORIZATION_SERVERS", value_name = "URLS")]
    pub authorization_servers: Option<String>,
    /// File with the keys that seal sessions of /mcp, the same for all replicas; absent: a random key
    #[arg(long, global = true, env = "SESSION_KEYS_FILE", value_name = "FILE")]
    pub session_keys: Option<PathBuf>,
    /// PEM file with the keys that sign assertions for servers, watched: the first signs, all are published; the same for all replicas
    #[arg(long, global = true, env = "ASSERTION_KEYS_FILE", value_name = "FILE")]
    pub assertion_keys: Option<PathBuf>,
    /// URL of the gateway as the issuer (iss) of assertions, at which servers find its public keys; absent: PUBLIC_URL
    #[arg(long, global = true, env = "ASSERTION_ISSUER", value_name = "URL")]
    pub assertion_issuer: Option<String>,
    /// Token endpoints to which the gateway sends tokens of callers and of its own, by namespace of the servers, as JSON: {"NAMESPACE": ["URL"]}; namespace *: all
    #[arg(long, global = true, env = "TOKEN_URLS", value_name = "JSON")]
    pub token_urls: Option<String>,
    /// Lifetime of a session of /mcp, in seconds, 60 to 31536000
    #[arg(long, global = true, env = "SESSION_SECONDS", value_name = "SECONDS", default_value = "604800")]
    pub session_seconds: Option<String>,
    /// Seconds after which an unanswered call continues as an event stream, for clients of /mcp that accept one
    #[arg(long, global = true, env = "STREAM_AFTER_SECONDS", value_name = "SECONDS", default_value = "10")]
    pub stream_after_seconds: Option<String>,
    /// Bytes of the instructions that clients of /mcp get of all servers together; 0: none
    #[arg(long, global = true, env = "MAX_INSTRUCTIONS_BYTES", value_name = "BYTES", default_value = "4096")]
    pub max_instructions_bytes: Option<String>,
    /// Largest number of open streams of clients of /mcp
    #[arg(long, global = true, env = "MAX_SESSIONS", value_name = "COUNT", default_value = "8000")]
    pub max_sessions: Option<String>,
    /// Largest number of these streams for one caller
    #[arg(long, global = true, env = "MAX_SESSIONS_PER_SUBJECT", value_name = "COUNT", default_value = "2000")]
    pub max_sessions_per_subject: Option<String>,
    /// Address at which other replicas reach this one: an IP address, or http://HOST:PORT
    #[arg(long, global = true, env = "REPLICA_ADDRESS", value_name = "ADDRESS")]
    pub replica_address: Option<String>,
    /// Log more: true is the same as LOG_LEVEL=DEBUG
    #[arg(long, global = true, env = "DEBUG", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub debug: Option<String>,
    /// Log level: DEBUG, INFO, WARNING, ERROR, or filter directives
    #[arg(long, global = true, env = "LOG_LEVEL", value_name = "LEVEL", default_value = "INFO")]
    pub log_level: Option<String>,
    /// Format of the log lines: json or text (lines about requests are always JSON)
    #[arg(long, global = true, env = "LOG_FORMAT", value_name = "FORMAT", default_value = "json")]
    pub log_format: Option<String>,
    /// Also log arguments and results, cut at 2 KiB, with everything masked that looks like a secret: true or false
    #[arg(long, global = true, env = "LOG_PAYLOADS", value_name = "BOOL", default_value = "false")]
    pub log_payloads: Option<String>,
    /// Write a line for each decision on a call: stdout, or the path of a file
    #[arg(long, global = true, env = "AUDIT_LOG", value_name = "stdout|PATH")]
    pub audit_log: Option<PathBuf>,
    /// Make no call whose line in the audit log could be lost: true or false
    #[arg(long, global = true, env = "AUDIT_REQUIRED", value_name = "BOOL", default_value = "false")]
    pub audit_required: Option<String>,
    /// Largest request body, in bytes
    #[arg(long, global = true, env = "MAX_BODY_BYTES", value_name = "BYTES", default_value = "1048576")]
    pub max_body_bytes: Option<String>,
    /// Largest message of a server, in bytes
    #[arg(long, global = true, env = "MAX_RESULT_BYTES", value_name = "BYTES", default_value = "8388608")]
    pub max_result_bytes: Option<String>,
    /// Memory of the process, in bytes or as 256Mi; absent: the limit of its control group, or half of the machine's memory
    #[arg(long, global = true, env = "MEMORY_LIMIT", value_name = "BYTES")]
    pub memory_limit: Option<String>,
    /// Largest number of open connections of callers
    #[arg(long, global = true, env = "MAX_CONNECTIONS", value_name = "COUNT", default_value = "10000")]
    pub max_connections: Option<String>,
    /// Seconds to keep serving after the signal to stop, while readiness already fails
    #[arg(long, global = true, env = "DRAIN_SECONDS", value_name = "SECONDS", default_value = "0")]
    pub drain_seconds: Option<String>,
    /// Seconds that running calls then have to finish
    #[arg(long, global = true, env = "GRACE_SECONDS", value_name = "SECONDS", default_value = "25")]
    pub grace_seconds: Option<String>,
}
