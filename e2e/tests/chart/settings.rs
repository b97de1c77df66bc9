//! Settings, with texts that they accept and refuse, for the tests of refusals.

use serde_json::{Value, json};

/// A setting of a program: its value in the chart, its variable, and texts that the program takes and refuses.
pub struct ChartSetting {
    pub value: &'static str,
    pub variable: &'static str,
    pub form: ValueForm,
    pub good: &'static [&'static str],
    pub bad: &'static [&'static str],
}

/// The form of a text among the values.
#[derive(Clone, Copy)]
pub enum ValueForm {
    /// As a text.
    Text,
    /// As it is.
    Plain,
    /// As one text of a list.
    List,
}

use ValueForm::{List, Plain, Text};

const fn setting(
    value: &'static str,
    variable: &'static str,
    form: ValueForm,
    good: &'static [&'static str],
    bad: &'static [&'static str],
) -> ChartSetting {
    ChartSetting { value, variable, form, good, bad }
}

const LEVELS: [&[&str]; 2] = [
    &[
        "",
        "DEBUG",
        "Warning",
        "critical",
        "off",
        "info,hyper=debug",
        "WARNING, kube = DEBUG",
        "kube-runtime=warn",
        "debug,portcullis_gateway::pool=trace",
        "portcullis[call{server=a}]=debug",
        "info,[call]=trace",
    ],
    &["LOUD", "10", "INFO,", "hyper", "hyper=loud", "=debug", "info hyper=debug", "info;debug", "a[b=debug"],
];

const FORMATS: [&[&str]; 2] = [&["json", "text"], &["xml", "logfmt", "json,text"]];

const RANGES: [&[&str]; 2] = [
    &[
        "10.0.0.0/8",
        "10.0.0.7",
        "0.0.0.0/0",
        "255.255.255.255/32",
        "::/0",
        "::1",
        "fd00::/8",
        "fd00:10::1/128",
        "2001:db8:1:2:3:4:5:6/64",
        "1:2:3:4:5:6:7::",
        "::2:3:4:5:6:7:8",
        "::ffff:10.0.0.0/104",
        "64:ff9b::10.0.0.1",
        "FE80::A/10",
        "1::3:4:5:6:7:8/100",
    ],
    &[
        "10.0.0.0/33",
        "10.0.0.256",
        "10.0.0",
        "10.0.0.0.0/8",
        "010.0.0.1",
        "10.0.0.0/",
        "10.0.0.0/-1",
        "10.0.0.0/8/8",
        "10.0.0.0-10.0.0.9",
        "localhost",
        "mcp.example.com",
        "::/129",
        "fd00::1::2",
        "fd00:::1",
        "1:2:3:4:5:6:7:8:9",
        "1:2:3:4:5:6:7",
        "12345::",
        "g::1",
        "[fd00::1]",
        "fd00::1/",
        "fe80::1%eth0",
        "::10.0.0.256",
        "1:2:3:4:5:6:7:10.0.0.1",
        "10.0.0.1:80",
    ],
];

const SECONDS: [&[&str]; 2] = [&["0", "1", "3600"], &["-1", "3601", "1.5", "1e9", "\"5\"", "\"5s\"", "true"]];

const COUNTS: [&[&str]; 2] = [&["1", "1000000"], &["0", "1000001", "-5", "0.5", "\"many\""]];

const FLAGS: [&[&str]; 2] = [&["true", "false"], &["2", "\"perhaps\"", "\"truth\"", "[]"]];

/// Every value that a program checks, but for those of the sections below.
const URLS: [&[&str]; 2] = [
    &["", "https://mcp.example.com", "http://10.0.0.1:8080/tools/", "http://[fd00::1]:80", "https://a_b.example/c"],
    &[
        "mcp.example.com",
        "ftp://mcp.example.com",
        "https://u:p@mcp.example.com",
        "https://mcp.example.com/?a=b",
        "https://mcp.example.com#a",
        "https://",
        "https://a b",
        "https://mcp.example.com:99999",
        "https://10.0.0.256",
        "https://1.2.3.4.5",
        "https://[fd00::1",
        "https://[1:2]/",
    ],
];

pub const OF_GATEWAY: [ChartSetting; 22] = [
    setting("gateway.logLevel", "LOG_LEVEL", Text, LEVELS[0], LEVELS[1]),
    setting("gateway.logFormat", "LOG_FORMAT", Text, FORMATS[0], FORMATS[1]),
    setting("gateway.drainSeconds", "DRAIN_SECONDS", Plain, SECONDS[0], SECONDS[1]),
    setting("gateway.graceSeconds", "GRACE_SECONDS", Plain, SECONDS[0], SECONDS[1]),
    setting(
        "gateway.streamAfterSeconds",
        "STREAM_AFTER_SECONDS",
        Plain,
        &["1", "10", "3600"],
        &["0", "-1", "3601", "0.5", "\"soon\""],
    ),
    setting("policy.default", "POLICY_DEFAULT", Text, &["Allow", "Deny"], &["Open", "None", "Audit"]),
    setting("egress.guardAddresses", "GUARD_ADDRESSES", Plain, FLAGS[0], FLAGS[1]),
    setting("egress.allowedAddresses", "ALLOWED_ADDRESSES", List, RANGES[0], RANGES[1]),
    setting("egress.blockedAddresses", "BLOCKED_ADDRESSES", List, RANGES[0], RANGES[1]),
    setting("auth.allowQueryToken", "ALLOW_QUERY_TOKEN", Plain, FLAGS[0], FLAGS[1]),
    setting("auth.allowQueryTokenMcp", "ALLOW_QUERY_TOKEN_MCP", Plain, FLAGS[0], FLAGS[1]),
    setting("auth.kubernetes.tokenReview", "TOKEN_REVIEW", Plain, FLAGS[0], FLAGS[1]),
    setting(
        "auth.requiredScopes",
        "REQUIRED_SCOPES",
        List,
        &["a", "mcp:use", "a/b#c"],
        &["a\"b", "a\\b", "é", "a\u{7f}"],
    ),
    setting(
        "auth.authorizationServers",
        "AUTHORIZATION_SERVERS",
        List,
        &["https://login.example.com/", "https://[fd00::1]:8443/realm", "http://localhost:8080", "http://127.0.0.1/a"],
        &[
            "http://login.example.com",
            "login.example.com",
            "https://u:p@a.example",
            "https://a.example?b",
            "https://a.example#b",
            "https://",
            "https://a.example:99999",
            "https://10.0.0.256/",
            "https://[1:2]/",
        ],
    ),
    setting("publicUrl", "PUBLIC_URL", Text, URLS[0], URLS[1]),
    setting("identity.issuer", "ASSERTION_ISSUER", Text, &["https://a.example/b/"], URLS[1]),
    setting(
        "identity.tokenUrls",
        "TOKEN_URLS",
        Plain,
        &["{}", r#"{"*": ["https://a.example/token"], "team-a": ["http://localhost:8080/t?a=b"], "b": []}"#],
        &["[]", "\"https://a.example/token\""],
    ),
    setting(
        "allowedOrigins",
        "ALLOWED_ORIGINS",
        List,
        &[
            "https://app.example.com",
            "https://App.Example.com:8443/",
            "null",
            "http://10.0.0.1",
            "http://[fd00::1]:3000",
            "chrome-extension://abcdefgh",
            "vscode-webview://a.b",
        ],
        &[
            "app.example.com",
            "https://app.example.com/path",
            "https://*.example.com",
            "https://",
            "//app.example.com",
            "https://a.example:99999",
            "https://10.0.0.256",
            "https://[1:2]",
            "https://u@a.example",
        ],
    ),
    setting(
        "allowedHosts",
        "ALLOWED_HOSTS",
        List,
        &["mcp.example.com", "mcp.example.com:8443", "*.example.com", "10.0.0.1:80", "[fd00::1]", "[::1]:8080", "a_b"],
        &[
            "https://mcp.example.com",
            "*",
            "*example.com",
            "mcp.example.com:99999",
            "mcp.example.com:",
            "a b",
            "a/b",
            "[1:2]",
            "u@a.example",
            ".example.com",
        ],
    ),
    setting("sessions.seconds", "SESSION_SECONDS", Plain, &["60", "31536000"], &["59", "31536001", "0", "\"week\""]),
    setting("sessions.max", "MAX_SESSIONS", Plain, COUNTS[0], COUNTS[1]),
    setting("sessions.maxPerSubject", "MAX_SESSIONS_PER_SUBJECT", Plain, COUNTS[0], COUNTS[1]),
];

pub const NAMESPACES: [&[&str]; 2] = [&["a", "team-a", "0"], &["Team", "a_b", "-a", "a-", "a.b", "a/b", "é"]];

pub const OF_OPERATOR: [ChartSetting; 5] = [
    setting("operator.logLevel", "LOG_LEVEL", Text, LEVELS[0], LEVELS[1]),
    setting("operator.logFormat", "LOG_FORMAT", Text, FORMATS[0], FORMATS[1]),
    setting(
        "operator.statusWritesPerSecond",
        "STATUS_WRITES_PER_SECOND",
        Plain,
        &["1", "10000"],
        &["0", "10001", "-1", "0.5", "\"fast\""],
    ),
    setting(
        "policy.newServerDelayMs",
        "NEW_SERVER_DELAY_MS",
        Plain,
        &["0", "60000"],
        &["60001", "-1", "0.5", "\"soon\""],
    ),
    setting(
        "watch.namespaceSelector",
        "NAMESPACE_SELECTOR",
        Text,
        &["", "a", "!a", "a=b", "a==b,c!=d", "example.com/team in (a, b)", "stage notin (test),x", "age>3"],
        &["=a", "a=b,,c=d", ",a"],
    ),
];

pub fn good_issuers() -> Vec<Value> {
    let audience = "portcullis";
    vec![
        json!({"issuer": "https://a.example", "audience": audience}),
        json!({"issuer": "https://b.example:8443/realms/x/", "audience": [audience, "tools"], "algorithms": ["EdDSA"]}),
        json!({"issuer": "build", "audience": audience, "jwksUri": "https://b.example/keys?x=y"}),
        json!({"issuer": "http://localhost:8080", "audience": audience}),
        json!({"issuer": "https://[fd00::1]/", "audience": audience}),
    ]
}

pub fn bad_issuers() -> Vec<Value> {
    let audience = "portcullis";
    vec![
        json!({"issuer": "https://a.example"}),
        json!({"audience": audience}),
        json!({"issuer": "https://a.example", "audience": ""}),
        json!({"issuer": "https://a.example", "audience": " "}),
        json!({"issuer": "https://a.example", "audience": []}),
        json!({"issuer": " ", "audience": audience}),
        json!({"issuer": "build", "audience": audience}),
        json!({"issuer": "http://a.example", "audience": audience}),
        json!({"issuer": "https://a.example?x", "audience": audience}),
        json!({"issuer": "https://u:p@a.example", "audience": audience}),
        json!({"issuer": "build", "audience": audience, "jwksUri": "http://a.example/keys"}),
        json!({"issuer": "build", "audience": audience, "jwksUri": "https://a.example/#keys"}),
        json!({"issuer": "build", "audience": audience, "jwksUri": "https://a.example/", "jwksFile": "/keys"}),
        json!({"issuer": "build", "audience": audience, "jwksFile": "/keys", "caFile": "/ca"}),
        json!({"issuer": "https://a.example", "audience": audience, "algorithms": ["HS256"]}),
        json!({"issuer": "https://a.example", "audience": audience, "algorithms": ["none"]}),
        json!({"issuer": "https://a.example", "audience": audience, "algorithms": []}),
        json!({"issuer": "https://a.example", "audience": audience, "jwksUrl": "https://a.example"}),
    ]
}

/// Settings that no program checks, but the API server or the node would refuse.
pub const OF_KUBERNETES: &[(&str, &[&str])] = &[
    ("snapshot.slots", &["0", "65", "1.5"]),
    ("nameOverride", &["\"Portcullis\"", "\"a.b\"", "\"-a\""]),
    ("commonLabels", &["{\"a b\": \"c\"}", "{\"a\": \"b c\"}", "{\"a\": 1}"]),
    ("image.tag", &["\"a b\"", "\"a:b\"", "\".a\""]),
    ("image.digest", &["\"0123\"", "\"sha256:01\""]),
    ("image.repository", &["\"\"", "\"a b\"", "\"a@b\""]),
    ("openshift", &["\"true\"", "\"maybe\"", "1"]),
    ("crds.install", &["\"true\"", "1"]),
    ("auth.kubernetes.audience", &["\"\"", "\" \""]),
    ("auth.sharedSecret.existingSecret", &["\"Name\"", "\"a/b\""]),
    ("auth.sharedSecret.key", &["\"..\"", "\"..a\"", "\"a/b\"", "\"\""]),
    ("auth.sharedSecret.algorithm", &["\"none\"", "\"RS256\"", "\"hs256\""]),
    ("watch.homeNamespace", &["\"\"", "\"Team\"", "\"a.b\""]),
    (
        "gateway.resources",
        &["{\"limits\": {\"memory\": \"256MB\"}}", "{\"limits\": {\"memory\": \"-1\"}}", "{\"limit\": {}}"],
    ),
    ("gateway.replicaCount", &["-1", "\"2\"", "1.5"]),
    ("gateway.podDisruptionBudget.maxUnavailable", &["-1", "\"half\"", "\"50\""]),
    ("gateway.podSecurityContext.runAsUser", &["-1", "\"1000\"", "\"nobody\""]),
    ("gateway.podSecurityContext", &["{\"runAsUsr\": 1}", "{\"seccompProfile\": {\"type\": \"None\"}}"]),
    ("gateway.securityContext.readOnlyRootFilesystem", &["\"true\""]),
    ("gateway.priorityClassName", &["\"High\"", "\"a b\""]),
    ("gateway.dnsPolicy", &["\"none\"", "\"First\""]),
    (
        "gateway.hostAliases",
        &[
            "[{\"ip\": \"10.0.0.256\", \"hostnames\": [\"a\"]}]",
            "[{\"ip\": \"::g\", \"hostnames\": [\"a\"]}]",
            "[{\"ip\": \"10.0.0.1\"}]",
        ],
    ),
    ("gateway.extraEnv", &["[{\"name\": \"A\", \"value\": 1}]", "[{\"value\": \"1\"}]", "[{\"name\": \"A=B\"}]"]),
    (
        "gateway.envFrom",
        &[
            "[{\"secretRef\": \"a\"}]",
            "[{}]",
            "[{\"secretRef\": {\"name\": \"a\"}, \"configMapRef\": {\"name\": \"a\"}}]",
        ],
    ),
    ("gateway.extraArgs", &["[1]", "[\"\"]", "\"--debug\""]),
    ("gateway.extraContainers", &["[{\"name\": \"a\"}]", "[{\"image\": \"a\"}]"]),
    ("gateway.tolerations", &["[{\"keys\": \"a\"}]", "[{\"effect\": \"Never\"}]"]),
    ("gateway.autoscaling.targetCPUUtilizationPercentage", &["-1", "\"80%\""]),
    ("gateway.autoscaling.behavior", &["{\"scaleUpwards\": {}}"]),
    ("service.type", &["\"ExternalName\"", "\"clusterIP\""]),
    ("service.port", &["0", "65536", "\"80\""]),
    ("service.ipFamilies", &["[\"ipv4\"]", "[\"IPv4\", \"IPv4\"]", "\"IPv6\""]),
    ("service.ipFamilyPolicy", &["\"DualStack\""]),
    ("service.externalTrafficPolicy", &["\"local\""]),
    ("service.loadBalancerSourceRanges", &["[\"10.0.0.0/33\"]", "[\"10.0.0.1\"]", "[\"::/129\"]"]),
    ("ingress.hosts", &["[\"a b\"]", "[\"https://a\"]", "[\"A.example\"]"]),
    ("httpRoute.parentRefs", &["[{\"namespace\": \"a\"}]", "[{\"name\": \"a\", \"gateway\": \"b\"}]"]),
    ("networkPolicy.callers", &["[{}]", "[{\"ipBlock\": {\"cidr\": \"fd00::/129\"}}]", "[{\"podselector\": {}}]"]),
    ("networkPolicy.gatewayEgress", &["[{\"from\": []}]", "[{\"ports\": [{\"port\": 70000}]}]"]),
    ("monitoring.podMonitor.interval", &["\"30\"", "\"often\"", "\"30 s\"", "30"]),
    ("monitoring.podMonitor.relabelings", &["[{\"source_labels\": [\"a\"]}]", "[{\"action\": \"delete\"}]"]),
    ("serviceAccount.gateway.name", &["\"A\"", "\"a/b\""]),
    ("extraObjects", &["[1]", "{}"]),
];
