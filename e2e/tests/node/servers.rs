//! Third-party MCP servers as pods, and servers that come and go.

use std::time::Duration;

use portcullis_crds::McpServer;
use portcullis_e2e::cluster::{self, Tier};
use portcullis_e2e::require;
use portcullis_e2e::wait::wait_for;
use serde_json::json;

use crate::load::Load;
use crate::release::NodeRelease;

const SERVERS: &str = include_str!("manifests/real-servers.yaml");

#[test]
fn real_servers_are_called_in_their_pods() {
    require!(cluster::available(Tier::Node));
    cluster::inside(async |cluster| {
        let release = NodeRelease::of(cluster).await;
        release.space.apply(SERVERS);
        let calls = [
            ("everything", "echo", json!({"message": "npm"}), "Echo: npm"),
            ("everything-sse", "echo", json!({"message": "legacy"}), "Echo: legacy"),
            ("python-mcp", "echo", json!({"message": "python"}), "Echo: python"),
            ("fastmcp-sse", "echo", json!({"message": "fast"}), "Echo: fast"),
        ];
        for (server, tool, arguments, expected) in calls {
            release.ready(server).await;
            let answer = release.call(server, tool, &arguments).await;
            assert_eq!((answer.status, answer.text()), (200, format!("\"{expected}\"").as_str()), "{server}");
        }
        let spoken = |server: McpServer| server.status.and_then(|it| it.transport).map(|it| json!(it));
        let servers = release.space.servers();
        let legacy = servers.get("everything-sse").await.expect("it is there");
        assert_eq!(spoken(legacy), Some(json!("sse")));
        let modern = servers.get("python-mcp").await.expect("it is there");
        assert_eq!(spoken(modern), Some(json!("streamable-http")));
    });
}

/// Two small servers from the project's own image, named by one Service.
pub const DEMO: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: demo}
spec:
  selector: {matchLabels: {app: demo}}
  template:
    metadata: {labels: {app: demo}}
    spec:
      automountServiceAccountToken: false
      securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
      containers:
        - name: demo
          image: IMAGE
          args: [demo, --serve, "0.0.0.0:9000"]
          readinessProbe: {tcpSocket: {port: 9000}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: demo}
spec: {selector: {app: demo}, ports: [{name: mcp, port: 80, targetPort: 9000}]}
---
apiVersion: portcullis.dev/v1alpha1
kind: McpServer
metadata: {name: demo}
spec: {service: {name: demo, port: mcp}}
"#;

/// Applies the demo servers and waits until they can be called.
pub async fn demo(release: &NodeRelease<'_>) {
    let image = concat!("ghcr.io/portcullis-dev/portcullis:", env!("CARGO_PKG_VERSION"));
    release.space.apply(&DEMO.replace("IMAGE", image));
    release.ready("demo").await;
}

#[test]
fn servers_come_change_and_go_without_a_failed_call_of_another() {
    require!(cluster::available(Tier::Node));
    cluster::inside(async |cluster| {
        let release = NodeRelease::of(cluster).await;
        demo(&release).await;
        let load = Load::of(&release.request("demo", "add", &json!({"a": 2, "b": 3})), &release.origin);
        for round in 0..5 {
            release.space.apply(&manifest("guest", "{service: {name: demo, port: mcp}, weight: 0}"));
            release.ready("guest").await;
            let answer = release.call("guest", "greet", &json!({"name": round.to_string()})).await;
            assert_eq!((answer.status, answer.text()), (200, format!("\"Hello, {round}!\"").as_str()));
            release.space.apply(&manifest("guest", "{service: {name: demo, port: mcp}, state: Disabled}"));
            release.space.kubectl(&["delete", "mcpsrv/guest"]).good();
            wait_for("the guest to be unknown", Duration::from_secs(10), async || {
                let answer = release.call("guest", "greet", &json!({"name": "nobody"})).await;
                if answer.header("x-portcullis-server") == release.public("guest") { Err(answer) } else { Ok(()) }
            })
            .await;
        }
        load.goes_on_for(20).await;
        load.without_a_failure().await;
    });
}

fn manifest(name: &str, spec: &str) -> String {
    format!("apiVersion: portcullis.dev/v1alpha1\nkind: McpServer\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}
