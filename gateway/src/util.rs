//! Small tools that know nothing of the gateway.

pub(crate) mod backoff;
pub(crate) mod boxed;
mod digest;
pub(crate) mod random_keys;
pub(crate) mod sharded;
pub(crate) mod shown;

pub(crate) use digest::short_digest;
