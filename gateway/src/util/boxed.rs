//! Puts large values and futures onto the heap.

use std::pin::Pin;

/// Constructs a value in its final place: `Box::new` would first build it on the stack, and then copy it.
#[inline]
pub(crate) fn boxed<T>(make: impl FnOnce() -> T) -> Box<T> {
    let place = Box::new_uninit();
    Box::write(place, make())
}

/// The same for a future, which reserves space for all later states, often several kilobytes.
#[inline]
pub(crate) fn pinned<F>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    Box::into_pin(boxed(make))
}
