//! The pool under faults: callers of a faulty server get a clear answer, and nobody else is affected.

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
