//! Schemas of the two types of Kubernetes that a status holds.
//!
//! k8s-openapi has them behind a feature that derives the schema of every type of every API: a good part of what the project
//! compiles.

use schemars::{Schema, SchemaGenerator, json_schema};

/// An optional `Time`.
pub fn time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "date-time"})
}

/// A list of `Condition`, as k8s-openapi describes it.
pub fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "items": {
            "type": "object",
            "description": "Condition contains details for one aspect of the current state of this API Resource.",
            "properties": {
                "lastTransitionTime": {
                    "type": "string",
                    "format": "date-time",
                    "description": "lastTransitionTime is the last time the condition transitioned from one status to another. This should be when the underlying condition changed.  If that is not known, then using the time when the API field changed is acceptable.",
                },
                "message": {
                    "type": "string",
                    "description": "message is a human readable message indicating details about the transition. This may be an empty string.",
                },
                "observedGeneration": {
                    "type": "integer",
                    "format": "int64",
                    "description": "observedGeneration represents the .metadata.generation that the condition was set based upon. For instance, if .metadata.generation is currently 12, but the .status.conditions[x].observedGeneration is 9, the condition is out of date with respect to the current state of the instance.",
                },
                "reason": {
                    "type": "string",
                    "description": "reason contains a programmatic identifier indicating the reason for the condition's last transition. Producers of specific condition types may define expected values and meanings for this field, and whether the values are considered a guaranteed API. The value should be a CamelCase string. This field may not be empty.",
                },
                "status": {
                    "type": "string",
                    "description": "status of the condition, one of True, False, Unknown.",
                },
                "type": {
                    "type": "string",
                    "description": "type of condition in CamelCase or in foo.example.com/CamelCase.",
                },
            },
            "required": ["lastTransitionTime", "message", "reason", "status", "type"],
        },
    })
}
