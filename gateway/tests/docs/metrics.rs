//! Writes docs/metrics.md from the definitions of the metrics.

use std::sync::Arc;

use portcullis_gateway::auth::AuthError;
use portcullis_gateway::catalog::figures::CatalogFigures;
use portcullis_gateway::catalog::metrics::OfServers;
use portcullis_gateway::front::http::origin_policy::OriginRefusal;
use portcullis_gateway::front::mcp::forward::FORWARD_OUTCOMES;
use portcullis_gateway::server::handle::RECONNECT_REASONS;
use portcullis_gateway::source::REFUSALS;
use portcullis_gateway::telemetry::metrics::{
    KEYS_OUTCOMES, Kept, Metrics, OUTCOMES, REQUEST_OUTCOMES, REVIEW_OUTCOMES, Sinks,
};
use portcullis_runtime::metrics::Definition;
use portcullis_runtime::process;
use prometheus::Registry;
use prometheus::proto::MetricType;

const HEAD: &str = "\
# Metrics

<!-- Written by `cargo xtask generate`: change the code, not this file. -->

`GET /metrics` returns them in the Prometheus text format, without a token: on the port of the API, or only on
`ADMIN_ADDRESS` where that is set. Labels come from configured servers, listed tools and the closed sets below, never
from a request. The series of a server end when it is removed.

";

const LABELS: &str = "
## Labels

| label | values |
|---|---|
";

const QUESTIONS: &str = "
## Questions they answer

Requests a second, by status:

    sum by (status) (rate(portcullis_http_request_duration_seconds_count[5m]))

The time that all but the slowest hundredth of the calls of each server take:

    histogram_quantile(0.99, sum by (server, le) (rate(portcullis_tool_call_duration_seconds_bucket[5m])))

The share of calls that did not come through:

    sum(rate(portcullis_tool_calls_total{outcome!~\"ok|tool_error\"}[5m])) / sum(rate(portcullis_tool_calls_total[5m]))

Servers that are away, and whether something in the configuration is refused:

    portcullis_server_up == 0
    portcullis_configuration_ok == 0

Parts of the account of memory that are nearly full, and what was refused for that:

    portcullis_memory_held_bytes / portcullis_memory_limit_bytes > 0.9
    rate(portcullis_memory_refusals_total[5m]) > 0

Issuers whose keys could not be fetched for two hours (the last ones stay in use):

    time() - portcullis_keys_fetched_timestamp_seconds > 7200
";

/// The whole page.
pub fn page() -> String {
    let mut text = String::from(HEAD);
    text.push_str("| name | type | labels | meaning |\n|---|---|---|---|\n");
    for metric in all() {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        text.push_str(&format!("| `{}` | {} | {} | {} |\n", metric.name, metric.kind, labels.join(", "), metric.help));
    }
    text.push_str(LABELS);
    for (label, values) in labels() {
        text.push_str(&format!("| {label} | {values} |\n"));
    }
    text.push_str(QUESTIONS);
    text
}

fn all() -> Vec<Definition> {
    let (_, mut all) = Metrics::described();
    all.extend(OfServers::definitions());
    all.extend(CatalogFigures::definitions());
    all.extend(kept_by_others());
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// Those that the listener, the account of memory, the log and the process keep themselves: all can be gathered.
fn kept_by_others() -> Vec<Definition> {
    let registry = Registry::new();
    process::register(&registry).unwrap();
    registry.register(Box::new(Kept::new(Arc::default(), Sinks::default()))).unwrap();
    let definition = |family: prometheus::proto::MetricFamily| Definition {
        name: family.name().to_owned(),
        kind: if family.get_field_type() == MetricType::COUNTER { "counter" } else { "gauge" },
        labels: family.get_metric()[0].get_label().iter().map(|label| label.name().to_owned()).collect(),
        help: family.help().to_owned(),
    };
    registry.gather().into_iter().map(definition).collect()
}

fn labels() -> [(&'static str, String); 18] {
    let list = |values: Vec<&str>| values.iter().map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", ");
    [
        ("`route`", "the path of the route, or `other`".into()),
        ("`method`", "the HTTP method, or `other`".into()),
        ("`status`", "the HTTP status; 499 if the caller went away before the answer".into()),
        ("`server`", "the server's name".into()),
        ("`tool`", "the name by which callers know the tool".into()),
        (
            "`part`",
            "`strangers`: connections without a good token, and what they send; `callers`: those with one, and their \
             requests; `large`: bodies, results and events that are not small"
                .into(),
        ),
        ("`issuer`", "`cluster`, or the issuer as configured, without its scheme".into()),
        ("`outcome`", list(OUTCOMES.iter().map(|outcome| outcome.as_str()).collect())),
        ("`outcome` of `portcullis_keys_refreshes_total`", list(KEYS_OUTCOMES.to_vec())),
        ("`outcome` of `portcullis_token_reviews_total`", list(REVIEW_OUTCOMES.to_vec())),
        ("`outcome` of `portcullis_token_requests_total`", list(REQUEST_OUTCOMES.to_vec())),
        ("`grant`", "`exchange`: of a caller's token; `client_credentials`".into()),
        ("`outcome` of `portcullis_token_endpoint_requests_total`", list(REQUEST_OUTCOMES.to_vec())),
        (
            "`reason` of `portcullis_auth_rejections_total`",
            list(AuthError::ALL.iter().map(|error| error.kind()).collect()),
        ),
        (
            "`reason` of `portcullis_gate_refusals_total`",
            list(OriginRefusal::ALL.iter().map(|refused| refused.kind()).collect()),
        ),
        ("`outcome` of `portcullis_requests_handed_on_total`", list(FORWARD_OUTCOMES.to_vec())),
        ("`reason` of `portcullis_server_reconnects_total`", list(RECONNECT_REASONS.to_vec())),
        ("`reason` of `portcullis_snapshot_rejected_total`", list(REFUSALS.to_vec())),
    ]
}
