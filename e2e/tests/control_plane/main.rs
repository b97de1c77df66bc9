//! What needs a real API server: the definition of McpServer, and the operator.

mod crowd;
mod definition;
mod election;
mod families;
mod outage;
mod reconcile;
mod setting;
mod slots;
