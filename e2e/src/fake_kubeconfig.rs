//! The kubeconfig that leads to a fake API server.

use serde_json::json;

/// The content of a kubeconfig file: the API server at this origin, without credentials. `namespace`: that of its context.
pub(crate) fn fake_kubeconfig(origin: &str, namespace: Option<&str>) -> String {
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "fake",
        "clusters": [{"name": "fake", "cluster": {"server": origin}}],
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake", "namespace": namespace}}],
        "users": [{"name": "fake", "user": {}}],
    });
    kubeconfig.to_string()
}
