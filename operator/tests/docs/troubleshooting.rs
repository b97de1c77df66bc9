//! Writes docs/troubleshooting.md from the reasons of conditions.

use portcullis_crds::{ConditionType, Reason};

const HEAD: &str = "\
# When something does not work

<!-- Written by `cargo xtask generate`: change the code, not this file. -->

`kubectl get mcpsrv` shows every server; `-o wide` adds a message. `kubectl describe mcpsrv NAME` shows its conditions and
recent Events. Each condition is good when `True`; look at them in this order, because each needs the one before:

| condition | meaning |
|---|---|
| `Accepted` | The object is valid. |
| `ResolvedRefs` | Everything it refers to was found and may be used. |
| `Programmed` | Every gateway replica that takes traffic has applied this generation. |
| `Ready` | Every one of them has made the MCP handshake and listed the tools: they can be called. |

`Pooled` exists only where `spec.pool` is set: the server agrees with its pool on the tools that they share.

    kubectl wait --for=condition=Ready mcpsrv/NAME --timeout=30s

returns when a tool of the server can really be called.

`kubectl get mcpap,mcpv` shows the access policies and the [views](mcpview.md). They have the conditions `Accepted` and
`Programmed` alone, and `status.unmatched` of a view names what of it matches nothing.
";

const TAIL: &str = "
## No status at all

If an McpServer has no conditions, no operator writes: look at `kubectl get pods -l app.kubernetes.io/component=operator`
and at the Lease (`kubectl get lease`), whose holder is the replica that writes. The operator's log says which rights it
lacks. Its `/readyz` fails until it has listed everything.

A namespace of `watch.namespaces` that is gone, or in which the Role is missing, counts as empty after 20 s. The log, the
metric `portcullis_operator_namespace_unreadable` and `/status` of the operator's admin port say so; `/status` names these
namespaces, this installation, and how many McpServers another installation serves:

    kubectl -n NAMESPACE port-forward deploy/RELEASE-operator 9090 & curl -s localhost:9090/status

Remove the namespace from the list, or create it and run `helm upgrade`, which makes the Role in it.

## A status of another installation

`status.servedBy.installation` names the release whose gateway a status describes, as `NAMESPACE/NAME`. If two releases watch
the same McpServer, both gateways serve it, but the release that had it first writes the status; the other says so in an Event
`ServedByAnother`. Give them disjoint `watch.namespaces`. The second checks now and then whether the first is still there
(`status.contender` then holds its name for a moment), and takes over when no answer has come for two minutes. If
`status.servedBy.until` is set, the release no longer serves the McpServer, and the next one that watches it takes over at once.

## What the gateway itself says

Each replica reports at `/status` of its admin port what it has applied and how every server is:

    kubectl -n NAMESPACE port-forward deploy/RELEASE-gateway 9090 & curl -s localhost:9090/status

`GET /health` says whether the configuration is sound; with a token, what is wrong with it. The metric
`portcullis_configuration_ok` is 0 while part of the configuration is refused; the last good one stays in use.

The gateway does not use a ConfigMap that anybody but the operator has changed, even if it is valid, and says so: change the
McpServer instead. The operator rewrites such a ConfigMap when it sees it, so a message that stays means that no operator runs.
";

/// The whole page.
pub fn page() -> String {
    let mut text = String::from(HEAD);
    for condition in ConditionType::ALL {
        let word = condition.as_str();
        text.push_str(&format!("\n## {word}\n\n| reason | meaning | what to do |\n|---|---|---|\n"));
        for reason in Reason::ALL.iter().filter(|reason| reason.condition() == condition) {
            text.push_str(&format!("| `{reason}` | {} | {} |\n", reason.meaning().trim(), reason.cure()));
        }
    }
    text.push_str(TAIL);
    text
}
