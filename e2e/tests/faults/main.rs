//! The pool under faults: whatever a server does, its callers get a clear answer and nobody else is hurt.

mod asks;
mod callers;
mod calls;
mod errors;
mod failover;
mod handshake;
mod health;
mod ids;
mod large;
mod lists;
mod loops;
mod memory;
mod middle;
mod modern;
mod order;
mod outage;
mod schemas;
mod sessions;
mod stack;
mod storm;
mod suspicion;
