//! The types that people, the operator and the gateway share.
//!
//! Pure: no I/O, no clock, no network. Imported by the operator, the gateway and the tests.

pub mod conditions;
pub mod crd;
pub mod glob;
pub mod kept_keys;
mod kubernetes_schema;
pub mod mcpaccesspolicy;
pub mod mcpserver;
pub mod mcpview;
pub mod names;
pub mod policy;
pub mod report;
pub mod resolve;
pub mod rules;
pub mod slots;
pub mod snapshot;
mod strict;
pub mod view;
pub mod yaml;

pub use conditions::{ConditionType, Reason};
pub use mcpaccesspolicy::McpAccessPolicy;
pub use mcpserver::{McpServer, McpServerSpec};
pub use mcpview::McpView;
pub use names::ServerKey;
pub use policy::{Policies, Policy, PolicyRef, ReadPolicy};
pub use report::{Report, ServerReport, SlotReport, ViewReport};
pub use resolve::{Resolution, ServerVerdict, Services, SpecRefusal, resolve};
pub use snapshot::{Server, Snapshot};
pub use view::{ReadView, View, Views};
