//! Settings of pods: users and groups that the cluster chooses, more containers, other accounts; and the changes that
//! replace them.

use std::collections::{BTreeMap, BTreeSet};

use portcullis_e2e::cluster::{Tier, available, control_plane};
use portcullis_e2e::require;
use portcullis_gateway::cli::command::Cli as Gateway;
use portcullis_operator::command::OperatorCli as Operator;
use serde_json::{Value, json};

use crate::chart::{combinations, objects, template};
use crate::programs::{known, variables};

fn rendered(arguments: &[&str]) -> BTreeMap<String, Value> {
    objects(&template(control_plane(), arguments))
}

/// The specifications of all pods, by the names of their objects.
fn pods(rendered: &BTreeMap<String, Value>) -> BTreeMap<&str, &Value> {
    let spec = |object: &'_ Value| match object["kind"].as_str() {
        Some("Deployment") => Some("/spec/template/spec"),
        Some("Pod") => Some("/spec"),
        _ => None,
    };
    rendered.iter().filter_map(|(key, object)| Some((key.as_str(), object.pointer(spec(object)?)?))).collect()
}

/// Each member of this name, wherever it is.
fn members<'a>(value: &'a Value, name: &str, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(all) => {
            found.extend(all.get(name));
            all.values().for_each(|value| members(value, name, found));
        }
        Value::Array(all) => all.iter().for_each(|value| members(value, name, found)),
        _ => {}
    }
}

fn all<'a>(value: &'a Value, name: &str) -> Vec<&'a Value> {
    let mut found = Vec::new();
    members(value, name, &mut found);
    found
}

#[test]
fn on_openshift_no_pod_names_a_user_or_a_group() {
    require!(available(Tier::ControlPlane));
    let detected = ["--api-versions", "security.openshift.io/v1"];
    let nulls: Vec<String> = ["runAsUser", "runAsGroup", "fsGroup"]
        .iter()
        .flat_map(|member| ["gateway", "operator"].map(|part| format!("{part}.podSecurityContext.{member}=null")))
        .collect();
    let by_hand: Vec<&str> = nulls.iter().flat_map(|value| ["--set", value.as_str()]).collect();
    for arguments in [&["--set", "openshift=true"][..], &detected, &by_hand] {
        let rendered = rendered(arguments);
        let pods = pods(&rendered);
        assert_eq!(pods.len(), 3);
        for (name, pod) in pods {
            for member in ["runAsUser", "runAsGroup", "fsGroup"] {
                assert_eq!(all(pod, member), Vec::<&Value>::new(), "{name} {member}");
            }
            // Not one of these may go with them.
            let context = json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}});
            assert_eq!(pod["securityContext"], context, "{name}");
            // Nobody knows the group of the files, so all may read them.
            assert!(all(pod, "defaultMode").iter().all(|mode| **mode == json!(0o444)), "{name}");
        }
    }
    for arguments in [&["--set", "openshift=false", "--api-versions", "security.openshift.io/v1"][..], &[]] {
        for (name, pod) in pods(&rendered(arguments)) {
            assert_eq!(pod["securityContext"]["fsGroup"], json!(65532), "{name}");
            assert!(all(pod, "defaultMode").iter().all(|mode| **mode == json!(0o440)), "{name}");
        }
    }
}

#[test]
fn rights_are_bound_to_the_accounts_that_the_pods_have() {
    require!(available(Tier::ControlPlane));
    let named = ["--set", "serviceAccount.gateway.name=mcp,serviceAccount.operator.create=false"];
    let namespaces = ["--set", "watch.namespaces={a},credentials.namespaces={a}"];
    let elsewhere = ["--set", "serviceAccount.create=false"];
    for arguments in [&[][..], &named, &namespaces, &elsewhere, &[named, namespaces].concat()] {
        let rendered = rendered(arguments);
        let of = |part: &str| {
            let pod = &rendered[&format!("Deployment /portcullis-{part}")]["spec"]["template"]["spec"];
            pod["serviceAccountName"].as_str().expect("a name").to_owned()
        };
        let accounts = BTreeSet::from([of("gateway"), of("operator")]);
        assert_eq!(accounts.len(), 2);
        let bound: BTreeSet<String> = rendered
            .values()
            .filter(|object| object["kind"].as_str().is_some_and(|kind| kind.ends_with("Binding")))
            .map(|object| object["subjects"][0]["name"].as_str().expect("a name").to_owned())
            .collect();
        assert_eq!(bound, accounts, "{arguments:?}");
        let made: BTreeSet<String> =
            rendered.keys().filter_map(|key| key.strip_prefix("ServiceAccount /").map(str::to_owned)).collect();
        assert!(made.is_subset(&accounts), "{made:?}");
    }
    let same = "serviceAccount.gateway.name=mcp,serviceAccount.operator.name=mcp";
    let chart = crate::chart::folder();
    let said = control_plane().helm(&["template", "x", &chart, "--set", same]).bad();
    assert!(said.contains("must differ"), "{said}");
}

#[test]
fn the_pods_of_the_gateway_are_replaced_when_the_shared_secret_is_another() {
    require!(available(Tier::ControlPlane));
    let shown = || {
        let rendered = rendered(&["--set", "auth.sharedSecret.create=true"]);
        let secret = all(&rendered["Secret /portcullis-jwt"], "jwt-secret")[0].clone();
        let annotations = &rendered["Deployment /portcullis-gateway"]["spec"]["template"]["metadata"]["annotations"];
        (secret, annotations["checksum/shared-secret"].as_str().expect("a checksum").to_owned())
    };
    let (first, second) = (shown(), shown());
    assert_ne!(first.0, second.0);
    assert_ne!(first.1, second.1);
    assert_eq!(first.1.len(), 64);
}

#[test]
fn a_variable_may_be_replaced_and_is_never_there_twice() {
    require!(available(Tier::ControlPlane));
    for part in ["gateway", "operator"] {
        let more = json!([{"name": "LOG_LEVEL", "value": "off"}, {"name": "MORE", "value": "$(POD_NAMESPACE)"}]);
        let rendered = rendered(&["--set-json", &format!("{part}.extraEnv={more}")]);
        let container =
            &rendered[&format!("Deployment /portcullis-{part}")]["spec"]["template"]["spec"]["containers"][0];
        let names: Vec<&str> =
            container["env"].as_array().expect("a list").iter().filter_map(|it| it["name"].as_str()).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{names:?}");
        let variables = variables(&rendered, part, &["10.0.0.1"]);
        assert_eq!((variables["LOG_LEVEL"].as_str(), variables["MORE"].as_str()), ("off", "portcullis"));
    }
}

/// Variables that the chart leaves to extraEnv: they mean nothing in a cluster, or their defaults are seldom changed.
const LEFT_TO_GATEWAY: [&str; 18] = [
    "DEBUG",
    "HOST",
    "JWT_JWKS_FILE",
    "JWT_LEEWAY",
    "JWT_MAX_LIFETIME",
    "JWT_PUBLIC_KEY_FILE",
    "KUBECONFIG",
    "LOG_PAYLOADS",
    "MAX_BODY_BYTES",
    "MAX_CONNECTIONS",
    "MAX_INSTRUCTIONS_BYTES",
    "MAX_RESULT_BYTES",
    "MCP_URL",
    "MCP_URLS",
    "MEMORY_LIMIT",
    "PORT",
    "SECRETS_DIR",
    "SERVERS",
];
const LEFT_TO_OPERATOR: [&str; 2] = ["GATEWAYS", "TAKEOVER_SECONDS"];

/// A new setting gets a value, or is named above.
#[test]
fn every_setting_of_the_programs_has_a_value_or_is_left_to_more_variables() {
    require!(available(Tier::ControlPlane));
    let none = ["--set-json", "gateway.extraEnv=[]", "--set-json", "operator.extraEnv=[]"];
    let all: Vec<_> =
        combinations().values().map(|file| rendered(&[&["--values", file.as_str()], &none[..]].concat())).collect();
    let left = |part: &str, known: Vec<String>| {
        let set: BTreeSet<String> =
            all.iter().flat_map(|rendered| variables(rendered, part, &["10.0.0.1"]).into_keys()).collect();
        known.into_iter().filter(|name| !set.contains(name)).collect::<Vec<_>>()
    };
    let mut unnamed = left("gateway", known::<Gateway>());
    unnamed.retain(|name| !LEFT_TO_GATEWAY.contains(&name.as_str()));
    assert_eq!(unnamed, Vec::<String>::new(), "settings of the gateway without a value");
    let mut unnamed = left("operator", known::<Operator>());
    unnamed.retain(|name| !LEFT_TO_OPERATOR.contains(&name.as_str()));
    assert_eq!(unnamed, Vec::<String>::new(), "settings of the operator without a value");
}
