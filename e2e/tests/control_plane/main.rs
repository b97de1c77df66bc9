//! Tests with a real API server: the definitions, and the operator.

mod crowd;
mod definition;
mod election;
mod families;
mod in_force;
mod installations;
mod limits;
mod outage;
mod own_tokens;
mod policies;
mod reconcile;
mod scopes;
mod setting;
mod slots;
mod tenants;
mod views;
