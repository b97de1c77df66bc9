//! Generates the CustomResourceDefinitions of McpServer, McpAccessPolicy and McpView.
//!
//! The types are the source; the transforms here add what the derive cannot express.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;
use serde_json::{Map, Value, json};

use crate::{McpAccessPolicy, McpServer, McpView};

/// The definition of McpServer as YAML: the same bytes for the same types.
pub fn yaml() -> String {
    yaml_of(McpServer::crd())
}

/// The definition of McpAccessPolicy as YAML: the same bytes for the same types.
pub fn policy_yaml() -> String {
    yaml_of(McpAccessPolicy::crd())
}

/// The definition of McpView as YAML: the same bytes for the same types.
pub fn view_yaml() -> String {
    yaml_of(McpView::crd())
}

fn yaml_of(crd: CustomResourceDefinition) -> String {
    let mut crd = serde_json::to_value(crd).expect("a definition holds only strings, numbers and lists");
    tidy(&mut crd);
    bound_conditions(&mut crd);
    serde_yaml::to_string(&crd).expect("JSON is YAML")
}

/// `nullable` would make an explicit null count as present for CEL; numbers get their plain form.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.remove("nullable");
            // The API server does not know Rust's own formats, and warns about them.
            if members.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
                members.remove("format");
            }
            drop_null_choices(members);
            members.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::Number(number) => {
            if let Some(whole) = number.as_f64().filter(|n| n.fract() == 0.0 && n.abs() < 1e15) {
                #[expect(clippy::cast_possible_truncation, reason = "whole and below 2^53")]
                let whole = whole as i64;
                *value = json!(whole);
            }
        }
        _ => {}
    }
}

/// An optional enum has null among its values, which means the same as being absent.
fn drop_null_choices(members: &mut Map<String, Value>) {
    if let Some(Value::Array(choices)) = members.get_mut("enum") {
        choices.retain(|choice| !choice.is_null());
    }
}

/// Adds the bounds that Kubernetes gives conditions; the derived schema has none.
fn bound_conditions(crd: &mut Value) {
    let path = "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties/conditions";
    let Some(conditions) = crd.pointer_mut(path) else { return };
    conditions["maxItems"] = json!(8);
    let bounds = [
        ("message", json!({"maxLength": 32768})),
        ("reason", json!({"minLength": 1, "maxLength": 1024, "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"})),
        ("status", json!({"enum": ["True", "False", "Unknown"]})),
        ("type", json!({"maxLength": 316})),
    ];
    for (name, bound) in bounds {
        if let (Some(Value::Object(property)), Value::Object(bound)) =
            (conditions.pointer_mut(&format!("/items/properties/{name}")), bound)
        {
            property.extend(bound);
        }
    }
}
