//! The kit tests itself: real servers start, faulty ones do what their vices say, and the small tools work.

mod basics;
mod client;
mod control;
mod honest;
mod real;
mod vices;
