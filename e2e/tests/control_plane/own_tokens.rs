//! The gateway's own tokens, issued and judged by a real API server.

use std::io::Write as _;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::Api;
use kube::api::PostParams;
use portcullis_e2e::cluster::{self, TestNamespace, Tier};
use portcullis_e2e::faulty::{Faulty, FaultyMode};
use portcullis_e2e::gateway::TestGateway;
use portcullis_e2e::manifests::Manifests;
use portcullis_e2e::require;
use portcullis_gateway::Options;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

/// The right to request tokens of its own account, and nothing else.
const RIGHT: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: gateway}
rules: [{apiGroups: [''], resources: [serviceaccounts/token], resourceNames: [gateway], verbs: [create]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: gateway}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: gateway}
subjects: [{kind: ServiceAccount, name: gateway}]
";

/// A kubeconfig file with the rights of a service account.
fn kubeconfig(space: &TestNamespace<'_>, account: &str) -> NamedTempFile {
    let token = space.kubectl(&["create", "token", account]).good();
    let text = std::fs::read_to_string(&space.cluster.kubeconfig).expect("a kubeconfig");
    let mut config: Value = serde_yaml::from_str(&text).expect("YAML");
    for user in config["users"].as_array_mut().expect("users") {
        user["user"] = json!({"token": token.trim()});
    }
    let mut file = NamedTempFile::new().expect("a file");
    file.write_all(config.to_string().as_bytes()).expect("written");
    file
}

fn options(space: &TestNamespace<'_>, manifests: &Manifests, kubeconfig: &NamedTempFile) -> Options {
    Options {
        identity_service_account: Some(format!("{}/gateway", space.name)),
        kubeconfig: Some(kubeconfig.path().into()),
        ..manifests.options()
    }
}

async fn review(space: &TestNamespace<'_>, token: &str, audiences: Option<Vec<String>>) -> TokenReviewStatus {
    let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences };
    let review = TokenReview { spec, ..TokenReview::default() };
    let api: Api<TokenReview> = Api::all(space.client.clone());
    api.create(&PostParams::default(), &review).await.expect("a review").status.expect("a status")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_can_have_its_token_reviewed_and_the_api_server_does_not_take_it() {
    require!(cluster::available(Tier::ControlPlane));
    let space = TestNamespace::new(cluster::control_plane()).await;
    space.kubectl(&["create", "serviceaccount", "gateway"]).good();
    let (server, manifests) = (Faulty::start(FaultyMode::Streamable).await, Manifests::new());
    manifests.add("one", &server.url(), "identity: {serviceAccountToken: {}}");
    let kubeconfig = kubeconfig(&space, "gateway");
    let gateway = TestGateway::start(options(&space, &manifests, &kubeconfig)).await;

    let denied = gateway.has_reason("one", "TokenRequestDenied").await;
    assert!(denied.starts_with(&format!("the API server denies tokens of service account {}/gateway", space.name)));
    assert_eq!(server.seen().connections, 0);

    space.apply(RIGHT);
    gateway.connected(1).await;
    assert_eq!(gateway.call("echo", "{}").await.status, 200);
    let seen = server.seen();
    let bearers: Vec<&str> = seen.requests.iter().map(|request| request.header("authorization")).collect();
    assert!(bearers.iter().all(|bearer| *bearer == bearers[0]), "one token, and in every request");
    let token = bearers[0].strip_prefix("Bearer ").expect("a bearer");
    let origin = format!("http://{}", server.address());
    let good = review(&space, token, Some(vec![origin.clone()])).await;
    let user = good.user.expect("a user").username;
    assert_eq!((good.authenticated, good.audiences), (Some(true), Some(vec![origin])));
    assert_eq!(user.as_deref(), Some(format!("system:serviceaccount:{}:gateway", space.name).as_str()));
    for audiences in [None, Some(vec!["http://elsewhere.example".to_owned()])] {
        assert_ne!(review(&space, token, audiences).await.authenticated, Some(true));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_server_gets_a_token_that_the_api_server_takes_whoever_allows_it() {
    require!(cluster::available(Tier::ControlPlane));
    let space = TestNamespace::new(cluster::control_plane()).await;
    space.kubectl(&["create", "serviceaccount", "gateway"]).good();
    space.apply(RIGHT);
    let discovery = space.kubectl(&["get", "--raw", "/.well-known/openid-configuration"]).good();
    let issuer =
        serde_json::from_str::<Value>(&discovery).expect("JSON")["issuer"].as_str().expect("a name").to_owned();
    let (server, manifests) = (Faulty::start(FaultyMode::Streamable).await, Manifests::new());
    for (name, audience) in [("api", issuer.as_str()), ("other", "https://elsewhere.example"), ("allowed", "search")] {
        let identity = format!("identity: {{serviceAccountToken: {{audience: '{audience}'}}}}");
        manifests.add(name, &server.url(), &identity);
    }
    let kubeconfig = kubeconfig(&space, "gateway");
    let allowed = json!({"default": [issuer, "search"]}).to_string();
    let options = Options { allowed_audiences: Some(allowed), ..options(&space, &manifests, &kubeconfig) };
    let gateway = TestGateway::start(options).await;
    for (name, part) in [("api", "the API server accepts tokens"), ("other", "is not the origin of the server's URL")] {
        let message = gateway.has_reason(name, "AudienceNotAllowed").await;
        assert!(message.contains(part), "{message}");
    }
    gateway.connected(1).await;
    let seen = server.seen();
    let bearers: Vec<&str> = seen.requests.iter().map(|request| request.header("authorization")).collect();
    assert!(!bearers.is_empty());
    let token = bearers[0].strip_prefix("Bearer ").expect("a bearer");
    assert!(bearers.iter().all(|bearer| *bearer == bearers[0]));
    assert_eq!(review(&space, token, Some(vec!["search".into()])).await.authenticated, Some(true));
}
