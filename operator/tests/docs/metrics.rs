//! Writes docs/operator-metrics.md from the definitions of the metrics.

use portcullis_operator::metrics::OperatorMetrics;

const HEAD: &str = "\
# Metrics of the operator

<!-- Written by `cargo xtask generate`: change the code, not this file. -->

`GET /metrics` on the admin port (9090) returns them in the Prometheus text format. Only the replica that holds the Lease
writes; the others count McpServers too, and show `0` for everything that they do not do. So take the `max` of a gauge over
the replicas, not the `sum`. The metrics of the process (`process_…`) are [those of the gateway](metrics.md).

| name | type | labels | meaning |
|---|---|---|---|
";

const LABELS: &str = "
## Labels

| label | values |
|---|---|
| `ready` | `true`, `false`, `unknown` |
| `outcome` of `portcullis_operator_slot_writes_total` | `ok`, `error` |
| `outcome` of `portcullis_operator_status_writes_total` | `ok`, `gone` (the object was deleted meanwhile), `conflict` (another installation was faster), `error` |
| `outcome` of `portcullis_operator_events_total` | `ok`, `error`, `dropped` (too many at once) |
| `slot` | name of the ConfigMap |
| `watched` | a namespace of `watch.namespaces` |
| `state` | `answering`, `silent` |
| `kind` | `mcpservers`, `services`, `mcpaccesspolicies`, `namespaces`, `configmaps`, `endpointslices` |

## Questions they answer

How long after a change of an McpServer its ConfigMap is written:

    histogram_quantile(0.99, sum by (le) (rate(portcullis_operator_publish_duration_seconds_bucket[5m])))

How full the fullest ConfigMap is, and how many servers are left out because their namespaces take more than their share:

    max(portcullis_operator_slot_fill_ratio)
    sum(max by (slot) (portcullis_operator_servers_left_out))

Whether anybody writes, and whether writing works:

    sum(portcullis_operator_leader) == 0
    rate(portcullis_operator_slot_writes_total{outcome=\"error\"}[5m]) > 0
";

/// The whole page.
pub fn page() -> String {
    let (_, mut all) = OperatorMetrics::described();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    let mut text = String::from(HEAD);
    for metric in all {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        text.push_str(&format!("| `{}` | {} | {} | {} |\n", metric.name, metric.kind, labels.join(", "), metric.help));
    }
    text.push_str(LABELS);
    text
}
