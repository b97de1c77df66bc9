//! Small tools that know nothing of the gateway.

pub(crate) mod backoff;
pub(crate) mod boxed;
pub(crate) mod random_keys;
pub(crate) mod sharded;
pub(crate) mod shown;
