//! The steps that several decisions may take together, so that policies of one namespace never hold up the callers of another.
//!
//! A comparison with a pattern and the evaluation of a condition count alike: a step takes far less than a microsecond.

use std::cell::Cell;

use portcullis_crds::glob;

/// Steps that finding the class of a caller may take for the policies of one namespace.
const MAX_CLASS_STEPS: u32 = 400_000;

/// Steps that the list of a server may take, and those that come with each item.
const LIST_STEPS: u32 = 50_000;
const LIST_STEPS_PER_ITEM: u32 = 1_000;

/// Steps that the decision of a call may take at one server, for all rules together.
const MAX_CALL_STEPS: u32 = 100_000;

/// Bytes that a comparison with a pattern looks at in one step.
const BYTES_PER_STEP: usize = 16;

/// Steps that are left. What does not fit any more is denied.
#[derive(Debug)]
pub struct Budget(Cell<u32>);

impl Budget {
    /// For the decision of a call at one server.
    pub fn of_call() -> Self {
        Self::new(MAX_CALL_STEPS)
    }

    /// For what lists show of a server with so many items.
    pub fn of_list(items: usize) -> Self {
        let of_items = u32::try_from(items).unwrap_or(u32::MAX).saturating_mul(LIST_STEPS_PER_ITEM);
        Self::new(of_items.saturating_add(LIST_STEPS))
    }

    /// For the class of a caller, as far as policies of one namespace make it.
    pub(crate) fn of_class() -> Self {
        Self::new(MAX_CLASS_STEPS)
    }

    /// So many steps.
    pub fn new(steps: u32) -> Self {
        Self(Cell::new(steps))
    }

    /// The steps that are left.
    pub fn left(&self) -> u32 {
        self.0.get()
    }

    /// Takes steps; false, and nothing is left, if there are not as many.
    pub(crate) fn take(&self, steps: usize) -> bool {
        let left = u32::try_from(steps).ok().and_then(|steps| self.left().checked_sub(steps));
        self.0.set(left.unwrap_or(0));
        left.is_some()
    }

    /// Whether `text` matches `pattern`; false if the steps do not suffice to say so.
    pub(crate) fn matches(&self, pattern: &str, text: &str) -> bool {
        let most = self.left() as usize * BYTES_PER_STEP;
        let (matches, took) = glob::matches_within(pattern, text, most);
        self.take(1 + took / BYTES_PER_STEP) && matches
    }

    /// Whether some text matches both patterns; false if the steps do not suffice to say so.
    pub(crate) fn overlap(&self, a: &str, b: &str) -> bool {
        self.take(1 + a.len().saturating_mul(b.len()) / BYTES_PER_STEP) && glob::overlap(a, b)
    }
}
