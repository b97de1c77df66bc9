//! The vocabulary that crosses borders: what people write, what the operator tells the gateway.
//!
//! Pure: no I/O, no clock, no network. Imported by the operator, the gateway and the tests.

pub mod conditions;
pub mod crd;
pub mod kept_keys;
pub mod mcpserver;
pub mod names;
pub mod report;
pub mod resolve;
pub mod rules;
pub mod slots;
pub mod snapshot;
pub mod yaml;

pub use conditions::{ConditionType, Reason};
pub use mcpserver::{McpServer, McpServerSpec};
pub use names::ServerKey;
pub use report::{Report, ServerReport, SlotReport};
pub use resolve::{Refusal, Resolution, Services, Verdict, resolve};
pub use snapshot::{Server, Snapshot};
