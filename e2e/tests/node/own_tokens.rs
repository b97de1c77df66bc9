//! A server that recognises the gateway by its token, with the manifests of docs/identity.md and without any Secret.

use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use portcullis_e2e::cluster::{self, Tier};
use portcullis_e2e::http;
use portcullis_e2e::require;
use portcullis_e2e::wait::wait_for;
use serde_json::json;

use crate::release::{NodeRelease, root, token};

const SERVER: &str = include_str!("manifests/reviewed-server.yaml");

/// The blocks of YAML below "The gateway to servers" that begin with this.
fn recipe(begin: &str) -> String {
    let page = std::fs::read_to_string(root().join("docs/identity.md")).expect("the page");
    let half = page.split("\n## The gateway to servers\n").nth(1).expect("the half");
    let mut blocks = half.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.find(|block| block.starts_with(begin)).expect("the recipe").to_owned()
}

#[test]
fn a_server_lets_in_the_gateway_by_its_token_and_nobody_else_and_there_is_no_secret() {
    require!(cluster::available(Tier::Node));
    cluster::inside(async |cluster| {
        let release = NodeRelease::of(cluster).await;
        let space = &release.space;
        let here = |text: &str| text.replace("team-a", &space.name).replace("NAMESPACE", &space.name);
        space.apply(&here(SERVER));
        space.apply(&here(&recipe("apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding")));
        space.apply(&here(&recipe("apiVersion: portcullis.dev/v1alpha1\nkind: McpServer\nmetadata: {name: search,")));
        release.ready("search").await;
        let answer = release.call("search", "echo", &json!({"message": "who"})).await;
        assert_eq!((answer.status, answer.text()), (200, "\"Echo: who\""));

        let service = space.api::<Service>().get("search").await.expect("the Service");
        let address = service.spec.and_then(|spec| spec.cluster_ip).expect("an address");
        let status = async |bearer: &str| {
            let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"}).to_string();
            let request =
                http::post(&format!("http://{address}:8080/mcp"), ping).header("content-type", "application/json");
            request.bearer(bearer).limit(Duration::from_secs(10)).send().await.expect("an answer").status
        };
        let origin = format!("http://search.{}.svc:8080", space.name);
        for stranger in ["nonsense", &token(space, "portcullis"), &token(space, &origin)] {
            assert_eq!(status(stranger).await, 401);
        }
        assert_eq!(space.kubectl(&["get", "secrets", "-o", "name"]).good(), "");

        // Another name of the gateway is refused at the server, and the McpServer says so.
        space.kubectl(&["set", "env", "deployment/search", "GATEWAY=system:serviceaccount:other:gateway"]).good();
        wait_for("the refusal to show", Duration::from_secs(90), async || {
            let path = "jsonpath={.status.conditions[?(@.type==\"Ready\")].reason}";
            let reason = space.kubectl(&["get", "mcpsrv/search", "-o", path]).good();
            if reason == "Unauthorized" { Ok(()) } else { Err(reason) }
        })
        .await;
        space.kubectl(&["delete", "clusterrolebinding", "search-reviews-tokens"]).good();
    });
}
