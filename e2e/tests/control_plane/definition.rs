//! The definitions of McpServer, McpAccessPolicy and McpView, judged by a real API server.

use std::collections::BTreeSet;

use kube::api::{ApiResource, DynamicObject, PostParams};
use kube::{Api, Error};
use portcullis_crds::mcpaccesspolicy::McpAccessPolicySpec;
use portcullis_crds::mcpview::McpViewSpec;
use portcullis_crds::{McpAccessPolicy, McpServer, McpServerSpec, McpView};
use portcullis_e2e::cluster::{self, TestNamespace, Tier};
use portcullis_e2e::require;
use serde::Deserialize;
use serde_json::{Value, json};

/// `crds/testdata/rules.yaml`, `policy-rules.yaml` or `view-rules.yaml`, which say what their fields are.
#[derive(Deserialize)]
struct RuleCases {
    good: Vec<Value>,
    bad: Vec<RefusedCase>,
}

#[derive(Deserialize)]
struct RefusedCase {
    spec: Value,
    cluster: String,
}

/// The definitions: their kinds, cases and texts.
fn definitions() -> [(ApiResource, RuleCases, String); 3] {
    [
        (ApiResource::erase::<McpServer>(&()), cases("rules.yaml"), portcullis_crds::crd::yaml()),
        (ApiResource::erase::<McpAccessPolicy>(&()), cases("policy-rules.yaml"), portcullis_crds::crd::policy_yaml()),
        (ApiResource::erase::<McpView>(&()), cases("view-rules.yaml"), portcullis_crds::crd::view_yaml()),
    ]
}

fn cases(file: &str) -> RuleCases {
    let path = format!("{}/../crds/testdata/{file}", env!("CARGO_MANIFEST_DIR"));
    serde_yaml::from_str(&std::fs::read_to_string(path).expect("a file")).expect("cases")
}

/// Asks the API server to create an object and to forget it again; gives its spec with all defaults, or the refusal.
async fn tried(space: &TestNamespace<'_>, kind: &ApiResource, name: &str, spec: &Value) -> Result<Value, String> {
    let api: Api<DynamicObject> = Api::namespaced_with(space.client.clone(), &space.name, kind);
    let mut object = DynamicObject::new(name, kind);
    object.data = json!({"spec": spec});
    match api.create(&PostParams { dry_run: true, ..PostParams::default() }, &object).await {
        Ok(created) => Ok(created.data["spec"].clone()),
        Err(Error::Api(status)) => Err(status.message),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn good_specs_are_accepted_and_their_defaults_are_those_of_the_code() {
    require!(cluster::available(Tier::ControlPlane));
    let space = TestNamespace::new(cluster::control_plane()).await;
    let [(servers, of_servers, _), (policies, of_policies, _), (views, of_views, _)] = definitions();
    for spec in of_servers.good {
        let stored = tried(&space, &servers, "a", &spec).await.unwrap_or_else(|refusal| panic!("{spec}: {refusal}"));
        let ours: McpServerSpec = serde_json::from_value(spec).expect("a spec");
        assert_eq!(stored, serde_json::to_value(ours).expect("JSON"));
    }
    for spec in of_policies.good {
        let stored = tried(&space, &policies, "a", &spec).await.unwrap_or_else(|refusal| panic!("{spec}: {refusal}"));
        let read = |spec: Value| serde_json::from_value::<McpAccessPolicySpec>(spec).expect("a spec");
        assert_eq!((read(stored.clone()), &stored["mode"]), (read(spec.clone()), &json!(read(spec).mode)));
    }
    for spec in of_views.good {
        let stored = tried(&space, &views, "a", &spec).await.unwrap_or_else(|refusal| panic!("{spec}: {refusal}"));
        let ours: McpViewSpec = serde_json::from_value(spec).expect("a spec");
        assert_eq!(stored, serde_json::to_value(ours).expect("JSON"));
    }
}

#[tokio::test]
async fn bad_specs_are_refused_with_what_to_do() {
    require!(cluster::available(Tier::ControlPlane));
    let space = TestNamespace::new(cluster::control_plane()).await;
    for (kind, cases, _) in definitions() {
        for RefusedCase { spec, cluster } in cases.bad {
            let refusal = tried(&space, &kind, "a", &spec).await.expect_err(&spec.to_string());
            assert!(without_indexes(&refusal).contains(&cluster), "{spec} gives {refusal}");
        }
    }
}

#[tokio::test]
async fn a_name_is_a_dns_label() {
    require!(cluster::available(Tier::ControlPlane));
    let space = TestNamespace::new(cluster::control_plane()).await;
    let (longest, longer) = ("a".repeat(63), "a".repeat(64));
    for ((kind, _, _), spec) in
        definitions().into_iter().zip([json!({"url": "http://a/"}), json!({}), json!({"select": [{}]})])
    {
        for name in ["a", "0-9", &longest] {
            tried(&space, &kind, name, &spec).await.expect("accepted");
        }
        for name in ["a.b", &longer] {
            let refusal = tried(&space, &kind, name, &spec).await.expect_err(name);
            assert!(refusal.contains("metadata.name must be a DNS label: use at most 63"), "{name} gives {refusal}");
        }
    }
}

/// A rule of the definition: the field, and what a refusal says.
type Rule = (String, String);

/// Every CEL rule, and every pattern, below a part of the schema.
fn found(schema: &Value, path: &str, rules: &mut BTreeSet<Rule>) {
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        rules.insert((path.into(), rule["message"].as_str().expect("a message").into()));
    }
    if schema.get("pattern").is_some() {
        rules.insert((path.into(), format!("{path} in body should match")));
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        found(property, &format!("{path}.{name}"), rules);
    }
    if let Some(items) = schema.get("items") {
        found(items, &format!("{path}[]"), rules);
    }
}

/// The fields of a spec that have a value.
fn present(value: &Value, path: &str, fields: &mut BTreeSet<String>) {
    fields.insert(path.into());
    for (name, member) in value.as_object().into_iter().flatten() {
        present(member, &format!("{path}.{name}"), fields);
    }
    for item in value.as_array().into_iter().flatten() {
        present(item, &format!("{path}[]"), fields);
    }
}

#[test]
fn every_rule_of_the_definitions_has_a_spec_that_passes_it_and_one_that_breaks_it() {
    for (_, cases, yaml) in definitions() {
        let definition: Value = serde_yaml::from_str(&yaml).expect("YAML");
        let schema = definition.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec").expect("a schema");
        let mut rules_there = BTreeSet::new();
        found(schema, "spec", &mut rules_there);
        let mut good = BTreeSet::new();
        cases.good.iter().for_each(|spec| present(spec, "spec", &mut good));
        for (field, message) in rules_there {
            assert!(good.contains(&field), "no good spec has {field}");
            assert!(cases.bad.iter().any(|case| message.contains(&case.cluster)), "no bad spec for {field}: {message}");
        }
    }
}

#[tokio::test]
async fn an_unknown_field_is_refused_by_kubectl() {
    require!(cluster::available(Tier::ControlPlane));
    let space = TestNamespace::new(cluster::control_plane()).await;
    let refusal = space.try_apply(&manifest("a", "{url: 'http://a/', timeout: 5}")).bad();
    assert!(refusal.contains(r#"unknown field "spec.timeout""#), "{refusal}");
}

#[tokio::test]
async fn kubectl_shows_and_explains_servers() {
    require!(cluster::available(Tier::ControlPlane));
    let space = TestNamespace::new(cluster::control_plane()).await;
    space.apply(&manifest("files", "{url: 'http://files.example/mcp'}"));
    let status = json!({"status": {
        "url": "http://files.example/mcp", "transport": "streamable-http", "toolCount": 12,
        "gateways": {"applied": 2, "ready": 1, "total": 2},
        "conditions": [{
            "type": "Ready", "status": "False", "reason": "Probing", "message": "1 of 2 gateways has it",
            "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1
        }]
    }});
    let patch = kube::api::Patch::Merge(&status);
    space.servers().patch_status("files", &kube::api::PatchParams::default(), &patch).await.expect("a status");
    let columns = |text: String| -> Vec<Vec<String>> {
        text.lines()
            .map(|line| line.split("  ").map(str::trim).filter(|it| !it.is_empty()).map(Into::into).collect())
            .collect()
    };
    let mut table = columns(space.kubectl(&["get", "mcpsrv"]).good());
    table.iter_mut().for_each(|row| drop(row.pop()));
    assert_eq!(
        table,
        [
            ["NAME", "READY", "STATE", "URL", "TRANSPORT", "TOOLS"],
            ["files", "False", "Enabled", "http://files.example/mcp", "streamable-http", "12"],
        ]
    );
    let mut wide = columns(space.kubectl(&["get", "portcullis", "-o", "wide"]).good());
    wide.iter_mut().for_each(|row| drop(row.drain(..6)));
    assert_eq!(wide[0], ["GATEWAYS", "MESSAGE", "AGE"]);
    assert_eq!(wide[1][..2], ["2", "1 of 2 gateways has it"]);
    let explained = space.kubectl(&["explain", "mcpserver"]).good();
    assert!(explained.contains("One MCP server behind the gateway: where it is"), "{explained}");
    let explained = space.kubectl(&["explain", "mcpsrv.spec.tools.prefix"]).good();
    assert!(explained.contains("Tools are offered as `PREFIX__NAME`."), "{explained}");
}

#[tokio::test]
async fn servers_can_be_selected_by_their_state() {
    require!(cluster::available(Tier::ControlPlane));
    let space = TestNamespace::new(cluster::control_plane()).await;
    space.apply(&manifest("used", "{url: 'http://a/'}"));
    space.apply(&manifest("unused", "{url: 'http://a/', state: Disabled}"));
    let named = |selector| space.kubectl(&["get", "mcpsrv", "-o", "name", "--field-selector", selector]).good();
    assert_eq!(named("spec.state=Disabled"), "mcpserver.portcullis.dev/unused\n");
    assert_eq!(named("spec.state=Enabled"), "mcpserver.portcullis.dev/used\n");
}

#[tokio::test]
async fn the_definitions_are_taken_without_a_warning_and_are_below_64_kib() {
    require!(cluster::available(Tier::ControlPlane));
    let space = TestNamespace::new(cluster::control_plane()).await;
    for (_, _, yaml) in definitions() {
        assert!(yaml.len() < 64 * 1024, "it has {} bytes", yaml.len());
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        std::io::Write::write_all(&mut file, yaml.as_bytes()).expect("written");
        let path = file.path().display().to_string();
        let tried = ["--server-side", "--dry-run=server", "--force-conflicts", "--field-manager=portcullis-e2e"];
        let said = space.kubectl(&[&["apply", "-f", &path], &tried[..]].concat());
        assert_eq!(said.stderr, "");
        said.good();
    }
}

#[tokio::test]
async fn kubectl_shows_and_explains_policies() {
    require!(cluster::available(Tier::ControlPlane));
    let space = TestNamespace::new(cluster::control_plane()).await;
    space.apply("apiVersion: portcullis.dev/v1alpha1\nkind: McpAccessPolicy\nmetadata: {name: p}\nspec: {}\n");
    let status = json!({"status": {
        "observedGeneration": 1, "serverCount": 3, "wouldDeny": 7,
        "conditions": [{
            "type": "Accepted", "status": "False", "reason": "Invalid", "message": "its other rules count",
            "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1
        }]
    }});
    let patch = kube::api::Patch::Merge(&status);
    let api = space.api::<McpAccessPolicy>();
    api.patch_status("p", &kube::api::PatchParams::default(), &patch).await.expect("a status");
    let table = space.kubectl(&["get", "mcpap", "-o", "wide"]).good();
    let words: Vec<&str> = table.split_whitespace().collect();
    assert_eq!(words[..8], ["NAME", "ACCEPTED", "PROGRAMMED", "MODE", "SERVERS", "WOULDDENY", "MESSAGE", "AGE"]);
    assert_eq!(words[8..13], ["p", "False", "Enforce", "3", "7"]);
    let explained = space.kubectl(&["explain", "mcpap.spec.rules.when"]).good();
    assert!(explained.contains("A condition in CEL"), "{explained}");
}

#[tokio::test]
async fn kubectl_shows_and_explains_views() {
    require!(cluster::available(Tier::ControlPlane));
    let space = TestNamespace::new(cluster::control_plane()).await;
    space.apply("apiVersion: portcullis.dev/v1alpha1\nkind: McpView\nmetadata: {name: v}\nspec: {select: [{}]}\n");
    let status = json!({"status": {
        "observedGeneration": 1, "serverCount": 3, "toolCount": 40, "hiddenByBudget": 7, "listBytes": 9000, "listTokens": 2500,
        "unmatched": ["old-*"],
        "conditions": [{
            "type": "Accepted", "status": "True", "reason": "Accepted", "message": "good",
            "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1
        }]
    }});
    let patch = kube::api::Patch::Merge(&status);
    space.api::<McpView>().patch_status("v", &kube::api::PatchParams::default(), &patch).await.expect("a status");
    let table = space.kubectl(&["get", "mcpviews", "-o", "wide"]).good();
    let words: Vec<&str> = table.split_whitespace().collect();
    let head = ["NAME", "ACCEPTED", "PROGRAMMED", "TOOLS", "HIDDEN", "TOKENS", "BYTES", "MESSAGE", "AGE"];
    assert_eq!(words[..9], head);
    assert_eq!(words[9..15], ["v", "True", "40", "7", "2500", "9000"]);
    let explained = space.kubectl(&["explain", "mcpv.spec.budget"]).good();
    assert!(explained.contains("The size that the list of tools may have"), "{explained}");
    let refusal = space.try_apply("apiVersion: portcullis.dev/v1alpha1\nkind: McpView\nmetadata: {name: w}\nspec: {select: [{}], serach: Never}\n").bad();
    assert!(refusal.contains(r#"unknown field "spec.serach""#), "{refusal}");
}

fn manifest(name: &str, spec: &str) -> String {
    format!("apiVersion: portcullis.dev/v1alpha1\nkind: McpServer\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

/// `spec.headers[3].name` becomes `spec.headers[].name`.
fn without_indexes(text: &str) -> String {
    let mut parts = text.split('[');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + "[" + part.trim_start_matches(|it: char| it.is_ascii_digit()))
}
