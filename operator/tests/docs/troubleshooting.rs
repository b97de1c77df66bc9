//! Writes docs/troubleshooting.md from the reasons of conditions.

use portcullis_crds::{ConditionType, Reason};

const HEAD: &str = "\
# When something does not work

<!-- Written by `cargo xtask generate`: change the code, not this file. -->

`kubectl get mcpsrv` shows every server; `-o wide` adds a message. `kubectl describe mcpsrv NAME` shows its conditions and
what happened lately. Each condition is good when `True`; look at them in this order, because each needs the one before:

| condition | meaning |
|---|---|
| `Accepted` | The object is valid. |
| `ResolvedRefs` | Everything it refers to was found and may be used. |
| `Programmed` | Every gateway replica that takes traffic has applied this generation. |
| `Ready` | Every one of them has made the MCP handshake and listed the tools: they can be called. |

`Pooled` is there only where `spec.pool` is set: the server agrees with its pool on the tools that they share.

    kubectl wait --for=condition=Ready mcpsrv/NAME --timeout=30s

returns when a tool of the server can really be called.
";

const TAIL: &str = "
## No status at all

If an McpServer has no conditions, no operator writes: look at `kubectl get pods -l app.kubernetes.io/component=operator`
and at the Lease (`kubectl get lease`), whose holder is the replica that writes. The operator's log says what it may not
read or write. `/readyz` fails until it has listed everything.

A namespace of `watch.namespaces` that is gone, or in which the Role is missing, counts as empty after 20 s: the log and the
metric `portcullis_operator_namespace_unreadable` say so, and so does `/status` of the operator's admin port, which names
these namespaces, this installation, and how many McpServers another installation serves:

    kubectl -n NAMESPACE port-forward deploy/RELEASE-operator 9090 & curl -s localhost:9090/status

Take the namespace out of the list, or make it and run `helm upgrade`, which makes the Role in it.

## A status of another installation

`status.servedBy.installation` names the release whose gateway a status speaks of, as `NAMESPACE/NAME`. If two releases watch
the same McpServer, both gateways serve it, but the one that had it first writes the status; the other tells so by an Event
`ServedByAnother`. Give them disjoint `watch.namespaces`. The second asks now and then whether the first is there (then
`status.contender` holds its name for a moment), and takes over when no answer has come for two minutes. With
`status.servedBy.until`, the release has ended to serve the McpServer, and the next that watches it takes it at once.

## What the gateway itself says

Each replica tells at `/status` of its admin port what it has applied and how every server is:

    kubectl -n NAMESPACE port-forward deploy/RELEASE-gateway 9090 & curl -s localhost:9090/status

`GET /health` says whether the configuration is sound; with a token, what is wrong with it. The metric
`portcullis_configuration_ok` is 0 while part of the configuration is refused; the last good one stays in use.

A ConfigMap of which it says that somebody else than the operator has changed it is not used, even if it is valid: change the
McpServer instead. The operator writes the ConfigMap anew when it sees it, so a message that stays means that no operator runs.
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
