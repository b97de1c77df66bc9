//! Tests without a cluster: `helm lint`, the values' schema, required values, and the rendering of each combination.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv6Addr, SocketAddr};

use portcullis_e2e::cluster::{Tier, available, control_plane};
use portcullis_e2e::require;
use serde_json::{Value, json};

use crate::chart::{combinations, folder, objects, repository, template};
use crate::programs::{gateway, operator, variables};

#[test]
fn every_combination_passes_the_strict_linter() {
    require!(available(Tier::ControlPlane));
    for file in combinations().values() {
        control_plane().helm(&["lint", "--strict", "--quiet", &folder(), "--values", file]).good();
    }
}

/// The minimal one whole; of the others, what differs from it.
#[test]
fn every_combination_renders_what_it_did() {
    require!(available(Tier::ControlPlane));
    let render = |file: &str| {
        let mut rendered = objects(&template(control_plane(), &["--values", file]));
        rendered.values_mut().for_each(mask);
        rendered
    };
    let minimal = render(&combinations()["minimal"]);
    for (name, file) in combinations() {
        let base = if name == "minimal" { BTreeMap::new() } else { minimal.clone() };
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path("golden");
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.bind(|| insta::assert_snapshot!(name, difference(&base, &render(&file))));
    }
}

/// New objects whole, those that are gone by name, and each line that is other in the rest.
fn difference(base: &BTreeMap<String, Value>, rendered: &BTreeMap<String, Value>) -> String {
    let gone = base.keys().filter(|key| !rendered.contains_key(*key)).map(|key| format!("--- gone: {key}\n"));
    let shown = rendered.iter().filter(|(key, object)| base.get(*key) != Some(*object)).map(|(key, object)| {
        let Some(before) = base.get(key) else {
            return format!("--- {key}\n{}", serde_yaml::to_string(object).expect("YAML"));
        };
        let (mut old, mut new) = (BTreeSet::new(), BTreeSet::new());
        flatten("", before, &mut old);
        flatten("", object, &mut new);
        let mut lines: Vec<_> = old.difference(&new).map(|line| (line, '-')).collect();
        lines.extend(new.difference(&old).map(|line| (line, '+')));
        lines.sort();
        let lines: String = lines.into_iter().map(|(line, sign)| format!("{sign} {line}\n")).collect();
        format!("--- changed: {key}\n{lines}")
    });
    gone.chain(shown).collect()
}

/// One line for each leaf: its path, with the names of items where they have some, and its value.
fn flatten(path: &str, value: &Value, lines: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            members.iter().for_each(|(name, value)| flatten(&format!("{path}.{name}"), value, lines));
        }
        Value::Array(items) if !items.is_empty() => {
            for (index, item) in items.iter().enumerate() {
                let name = item["name"].as_str().map_or_else(|| index.to_string(), str::to_owned);
                flatten(&format!("{path}[{name}]"), item, lines);
            }
        }
        _ => drop(lines.insert(format!("{}: {value}", path.trim_start_matches('.')))),
    }
}

/// Takes out what is random, what changes with each version, and what has a test of its own.
fn mask(object: &mut Value) {
    if let Some(labels) = object.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.retain(|name, _| !matches!(name.as_str(), "helm.sh/chart" | "app.kubernetes.io/version"));
    }
    if object["kind"] == "Secret" {
        let data = object["data"].as_object_mut().expect("data");
        data.values_mut()
            .for_each(|value| *value = json!(format!("{} characters", value.as_str().map_or(0, str::len))));
    }
    if object.pointer("/metadata/labels/grafana_dashboard").is_some() {
        object["data"] = json!("files/dashboard.json");
    }
    if let Some(checksum) = object.pointer_mut("/spec/template/metadata/annotations/checksum~1shared-secret") {
        *checksum = json!(format!("{} characters", checksum.as_str().map_or(0, str::len)));
    }
    if object["kind"] == "CustomResourceDefinition" {
        object["spec"] = json!(format!("files/{}.yaml", object["metadata"]["name"].as_str().expect("a name")));
    }
    if object["kind"] == "PrometheusRule" {
        object["spec"] = json!("files/alerts.yaml");
    }
}

#[test]
fn the_schema_names_the_very_values_that_have_defaults() {
    let read = |path: &str| std::fs::read_to_string(repository(path)).expect("the file is there");
    let schema: Value = serde_json::from_str(&read("helm/portcullis/values.schema.json")).expect("JSON");
    let values: Value = serde_yaml::from_str(&read("helm/portcullis/values.yaml")).expect("YAML");
    let mut declared = BTreeSet::new();
    compare("", &schema, &values, &mut declared);
    // Helm itself gives every chart this one.
    assert_eq!(declared, BTreeSet::from(["global".to_owned()]));
}

/// Collects what only the schema has; what only the values have fails at once. References are for Kubernetes' own types.
fn compare(path: &str, schema: &Value, values: &Value, only_declared: &mut BTreeSet<String>) {
    let Some(properties) = schema["properties"].as_object() else { return };
    assert_eq!(schema["additionalProperties"], json!(false), "{path}");
    let values = values.as_object().expect("a section");
    for name in values.keys() {
        assert!(properties.contains_key(name), "values.schema.json lacks {path}{name}");
    }
    for (name, property) in properties {
        match values.get(name) {
            Some(value) => compare(&format!("{path}{name}."), property, value, only_declared),
            None => drop(only_declared.insert(format!("{path}{name}"))),
        }
    }
}

#[test]
fn what_cannot_work_is_refused_with_a_sentence() {
    require!(available(Tier::ControlPlane));
    let cases = [
        ("gateway.replicas=3", "at '/gateway': additional properties 'replicas' not allowed"),
        ("snapshot.slots=0", "at '/snapshot/slots': minimum: got 0, want 1"),
        ("watch.namespaces={Team_A}", "at '/watch/namespaces/0': 'Team_A' does not match pattern"),
        ("auth.issuers[0].issuer=https://a.example", "at '/auth/issuers/0': missing property 'audience'"),
        ("auth.issuers[0].issuer=build,auth.issuers[0].audience=a", "'build' is not valid uri"),
        ("auth.kubernetes.enabled=false", "no caller could authenticate: set auth.kubernetes.enabled, auth.issuers"),
        ("audit.required=true", "audit.required is true without audit.log"),
        ("audit.log=relative", "at '/audit/log'"),
        ("auth.sharedSecret.create=true,auth.sharedSecret.existingSecret=x", "are both set: keep one of them"),
        ("watch.namespaces={a},watch.namespaceSelector=b", "are both set: keep one of them"),
        ("credentials.namespaces={*,a}", "[\"*\"] or a list of names, not both"),
        ("monitoring.podMonitor.enabled=true,monitoring.serviceMonitor.enabled=true", "enable one"),
        ("auth.requiredScopes={a b}", "at '/auth/requiredScopes/0': 'a b' does not match pattern"),
        ("allowedOrigins={app.example.com}", "at '/allowedOrigins/0': 'app.example.com' does not match pattern"),
        ("allowedHosts={https://a}", "at '/allowedHosts/0': 'https://a' does not match pattern"),
        ("sessions.seconds=5", "at '/sessions/seconds': minimum: got 5, want 60"),
        ("httpRoute.enabled=true", "httpRoute.parentRefs must name a Gateway"),
        (
            "gateway.autoscaling.enabled=true,gateway.autoscaling.minReplicas=11",
            "minReplicas is greater than maxReplicas",
        ),
        (
            "gateway.autoscaling.enabled=true,gateway.autoscaling.targetCPUUtilizationPercentage=0",
            "gateway.autoscaling has no metric",
        ),
        ("service.loadBalancerSourceRanges={10.0.0.0/8}", "need service.type LoadBalancer"),
        ("service.externalTrafficPolicy=Local", "needs service.type NodePort or LoadBalancer"),
        ("service.ipFamilies={IPv6,IPv4}", "needs service.ipFamilyPolicy PreferDualStack or RequireDualStack"),
        ("operator.dnsPolicy=None", "operator.dnsPolicy None needs operator.dnsConfig.nameservers"),
    ];
    for (values, wanted) in cases {
        let said = control_plane().helm(&["template", "x", &folder(), "--set", values]).bad();
        assert!(said.contains(wanted), "{values}: {said}");
    }
    // An issuer whose keys need not be discovered may have any name.
    let named = "auth.issuers[0].issuer=build,auth.issuers[0].audience=a,auth.issuers[0].jwksFile=/keys.json";
    control_plane().helm(&["template", "x", &folder(), "--set", named]).good();
}

/// In a cluster of either family of addresses, or of both.
#[test]
fn the_programs_take_the_settings_of_every_combination() {
    require!(available(Tier::ControlPlane));
    for (name, file) in combinations() {
        let rendered = objects(&template(control_plane(), &["--values", &file]));
        for addresses in [&["10.0.0.1"][..], &["fd00::1"], &["10.0.0.1", "fd00::1"]] {
            let of = |part| variables(&rendered, part, addresses);
            let config = gateway(&of("gateway")).unwrap_or_else(|problems| panic!("{name}: {problems:?}"));
            assert!(config.mcp.session_keys.is_some() && config.mcp.replica.is_some(), "{name}");
            if config.guard.special {
                let own: BTreeSet<&str> = config.guard.own.iter().map(String::as_str).collect();
                assert!(own.is_superset(&addresses.iter().copied().collect()), "{name}: {own:?}");
            }
            let operator = operator(&of("operator")).unwrap_or_else(|problems| panic!("{name}: {problems:?}"));
            assert_eq!((config.admin, operator.admin), (Some(both_families()), both_families()), "{name}");
        }
    }
}

/// IPv6 and IPv4; 0.0.0.0 where the node has no IPv6.
fn both_families() -> SocketAddr {
    SocketAddr::from((Ipv6Addr::UNSPECIFIED, 9090))
}

#[test]
fn names_begin_with_the_release_and_fit() {
    require!(available(Tier::ControlPlane));
    let services = |release: &str| {
        let text =
            control_plane().helm(&["template", release, &folder(), "--show-only", "templates/services.yaml"]).good();
        objects(&text).into_keys().collect::<Vec<_>>()
    };
    assert_eq!(services("my-portcullis"), ["Service /my-portcullis", "Service /my-portcullis-gateway-admin"]);
    assert_eq!(services("tools"), ["Service /tools-portcullis", "Service /tools-portcullis-gateway-admin"]);
    let said = control_plane().helm(&["template", "x", &folder(), "--set", "fullnameOverride=mcp"]).good();
    assert!(objects(&said).contains_key("Deployment /mcp-gateway"));
    let long = services(&"x".repeat(53));
    assert_eq!(long, [format!("Service /{}", "x".repeat(40)), format!("Service /{}-gateway-admin", "x".repeat(40))]);
}
