//! The pool under faults: whatever a server does, its callers get a clear answer and nobody else is hurt.

mod calls;
mod stack;
