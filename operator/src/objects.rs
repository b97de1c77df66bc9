//! Reads from Kubernetes objects what the operator needs of them.

use std::net::SocketAddr;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::core::DeserializeGuard;
use portcullis_crds::mcpserver::McpServerStatus;
use portcullis_crds::resolve::{KnownPort, KnownService};
use portcullis_crds::{McpServer, rules};

use crate::inventory::ServerObject;
use crate::publish::version;

/// An McpServer with its status, or why it cannot be read.
pub(crate) fn server_object(object: DeserializeGuard<McpServer>) -> ServerObject {
    match object.0 {
        Ok(server) => ServerObject::of(server),
        Err(problem) => {
            let metadata = problem.metadata;
            ServerObject {
                uid: metadata.uid.clone().unwrap_or_default(),
                generation: metadata.generation.unwrap_or(0),
                version: version(&metadata).unwrap_or(0),
                status: McpServerStatus::default(),
                content: Err(format!("the object cannot be read: {}", rules::without_values(&problem.error))),
            }
        }
    }
}

/// The ports of a Service. The name of a headless Service resolves to its pods, so their own ports count.
pub(crate) fn known_service(service: &Service) -> KnownService {
    let Some(spec) = &service.spec else { return KnownService::default() };
    let is_headless = spec.cluster_ip.as_deref() == Some("None");
    let port = |port: &ServicePort| {
        let number = u16::try_from(port.port).ok()?;
        let connect = match &port.target_port {
            Some(IntOrString::Int(target)) if is_headless => u16::try_from(*target).ok(),
            Some(IntOrString::String(_)) if is_headless => None,
            _ => Some(number),
        };
        Some(KnownPort { name: port.name.clone(), number, connect })
    };
    KnownService {
        is_external: spec.type_.as_deref() == Some("ExternalName"),
        ports: spec.ports.iter().flatten().filter_map(port).collect(),
    }
}

/// The admin addresses of the pods that take traffic.
pub(crate) fn admin_addresses(slice: &EndpointSlice) -> Vec<SocketAddr> {
    let ports = slice.ports.iter().flatten();
    let port = ports.filter(|port| port.name.as_deref() == Some("admin")).find_map(|port| port.port);
    let Some(port) = port.and_then(|port| u16::try_from(port).ok()) else { return Vec::new() };
    let is_ready = |ready: Option<bool>| ready.unwrap_or(true);
    let endpoints = slice.endpoints.iter();
    let ready = endpoints.filter(|endpoint| is_ready(endpoint.conditions.as_ref().and_then(|c| c.ready)));
    // All addresses of one endpoint are the same pod.
    ready.filter_map(|endpoint| Some(SocketAddr::new(endpoint.addresses.first()?.parse().ok()?, port))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_ready_pods_are_asked_at_their_admin_port() {
        let slice: EndpointSlice = serde_json::from_value(json!({
            "addressType": "IPv4",
            "metadata": {"name": "a"},
            "ports": [{"name": "http", "port": 80}, {"name": "admin", "port": 9090}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": true}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false, "serving": true, "terminating": true}},
                {"addresses": ["10.0.0.3"]},
                {"addresses": ["nowhere"]},
            ],
        }))
        .unwrap();
        let expected: Vec<SocketAddr> = ["10.0.0.1:9090", "10.0.0.3:9090"].map(|a| a.parse().unwrap()).into();
        assert_eq!(admin_addresses(&slice), expected);
        let slice: EndpointSlice = serde_json::from_value(json!({
            "addressType": "IPv6", "metadata": {"name": "b"}, "ports": [{"name": "admin", "port": 9090}],
            "endpoints": [{"addresses": ["fd00::1"]}],
        }))
        .unwrap();
        let expected: Vec<SocketAddr> = vec!["[fd00::1]:9090".parse().unwrap()];
        assert_eq!(admin_addresses(&slice), expected);
    }

    #[test]
    fn behind_a_headless_service_the_pods_own_port_counts() {
        let service = |spec: serde_json::Value| -> Service { serde_json::from_value(json!({"spec": spec})).unwrap() };
        let ports = json!([
            {"name": "a", "port": 80, "targetPort": 8000},
            {"name": "b", "port": 81, "targetPort": "http"},
            {"name": "c", "port": 82},
        ]);
        let connects = |spec: serde_json::Value| -> Vec<Option<u16>> {
            known_service(&service(spec)).ports.into_iter().map(|port| port.connect).collect()
        };
        assert_eq!(connects(json!({"clusterIP": "10.0.0.1", "ports": ports})), [Some(80), Some(81), Some(82)]);
        assert_eq!(connects(json!({"clusterIP": "None", "ports": ports})), [Some(8000), None, Some(82)]);
        assert!(known_service(&service(json!({"type": "ExternalName", "externalName": "a.example"}))).is_external);
    }

    #[test]
    fn a_value_of_an_object_that_cannot_be_read_is_not_repeated() {
        let object: DeserializeGuard<McpServer> = serde_json::from_value(json!({
            "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpServer",
            "metadata": {"name": "a", "generation": 2},
            "spec": {"url": "http://a/", "weight": "s3cret"},
        }))
        .unwrap();
        let object = server_object(object);
        let problem = object.content.unwrap_err();
        assert!(
            object.generation == 2 && problem.contains("cannot be read") && !problem.contains("s3cret"),
            "{problem}"
        );
    }
}
