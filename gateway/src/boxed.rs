//! Puts large values and futures onto the heap.

use std::pin::Pin;

/// Makes a value in the place where it stays: `Box::new` would first make it on the stack, and then copy it.
#[inline]
pub(crate) fn boxed<T>(make: impl FnOnce() -> T) -> Box<T> {
    let place = Box::new_uninit();
    Box::write(place, make())
}

/// The same of a future, which has room for all that comes later, often several kilobytes.
#[inline]
pub(crate) fn pinned<F>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    Box::into_pin(boxed(make))
}
