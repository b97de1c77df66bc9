//! What needs a real API server: the definition of McpServer, and the operator.

mod crowd;
mod definition;
mod election;
mod families;
mod installations;
mod outage;
mod reconcile;
mod scopes;
mod setting;
mod slots;
mod tenants;
