//! Puts large futures onto the heap.

use std::pin::Pin;

/// The same for any value: most that are made on the stack first are copied once more.
#[inline]
pub(crate) fn boxed<T>(make: impl FnOnce() -> T) -> Box<T> {
    let place = Box::new_uninit();
    Box::write(place, make())
}

/// Makes a future in the place where it stays: `Box::pin` would first make it on the stack, and then copy all the room
/// that it has for later, often several kilobytes.
#[inline]
pub(crate) fn pinned<F>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    let place = Box::new_uninit();
    Box::into_pin(Box::write(place, make()))
}
