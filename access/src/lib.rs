//! Decides which caller may use what of which server.
//!
//! Pure: policies, a caller and an item make a decision. No I/O; the clock is read only to bound an evaluation.

pub mod budget;
pub mod caller;
pub mod cel;
pub mod class;
pub mod decision;
pub mod explain;
#[cfg(any(test, feature = "fuzzing"))]
pub mod invariants;
pub mod policy;
pub mod quota;

pub use budget::Budget;
pub use caller::Caller;
pub use class::{Class, Governance, Memo, Reach, Table};
pub use decision::{DENIAL_REASONS, Denial, Grant, Item, ItemKind, Permission, Places, Target};
pub use explain::{Arguments, Explanation, RuleResult, Verdict};
pub use policy::{CompiledPolicy, CompiledRule};
pub use quota::{Exhausted, QuotaState, Quotas};
